//! Whole commands against the server over a real socket, with a fake backend behind it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::board::{EventDraft, wire_time};
use crate::cli::args::{Cli, Command};
use crate::cli::{Out, ask};
use crate::clock::{Clock, Timestamp};
use crate::server::backend::{Backend, WriteError};
use crate::server::tests::fake::FakeBackend;
use crate::server::{App, listen};

/// A daemon without pods, and its socket.
struct Daemon {
    fake: Arc<FakeBackend>,
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeBackend::new();
        let stop = CancellationToken::new();
        let app = App::new(Arc::<FakeBackend>::clone(&fake), Clock::start(), stop.clone());
        let listener = listen::bind(&dir.path().join("podling.sock")).unwrap();
        tokio::spawn(listen::serve(listener, app, stop.clone()));
        Self { fake, dir, stop }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs a command line; what it printed and how it ended.
    async fn run(&self, line: &str) -> (String, anyhow::Result<ExitCode>) {
        let socket = self.dir.path().join("podling.sock");
        let words = std::iter::once("podling").chain(line.split_whitespace());
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        words.insert(2, format!("--socket={}", socket.display()));
        let command: Command = Cli::try_parse_from(words).unwrap().command;
        let buffer = Buffer::default();
        let mut out = Out::new(Box::new(buffer.clone()));
        let outcome = ask(command, &mut out).await;
        out.flush().unwrap();
        drop(out);
        let printed = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        (printed, outcome)
    }

    /// What a command that succeeds prints.
    async fn prints(&self, line: &str) -> String {
        let (printed, outcome) = self.run(line).await;
        assert_eq!(outcome.unwrap(), ExitCode::SUCCESS, "{line}: {printed}");
        printed
    }

    /// The error of a command that fails.
    async fn fails(&self, line: &str) -> String {
        let (_, outcome) = self.run(line).await;
        outcome.unwrap_err().to_string()
    }

    async fn apply(&self, text: &str) -> String {
        let path = self.file("applied.yaml", text);
        self.prints(&format!("apply -f {}", path.display())).await
    }
}

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: main, image: 'web:1', env: [{name: A, value: a}, {name: B, value: b}]}]}
";

const MAP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {key: one, other: two}
";

#[tokio::test]
async fn get_prints_tables_names_and_documents() {
    let daemon = Daemon::start();
    daemon.apply(&format!("{WEB}---{MAP}")).await;
    let line = |text: &str| text.lines().nth(1).unwrap_or_default().split_whitespace().count();
    let table = daemon.prints("get pods").await;
    assert!(
        table.starts_with("NAME   READY   STATUS    RESTARTS   AGE\nweb    1/1     Running   0 "),
        "{table}"
    );
    let wide = daemon.prints("get po -o wide").await;
    assert!(wide.contains("IP          NODE      NOMINATED NODE   READINESS GATES\n"), "{wide}");
    assert_eq!((line(&table), line(&wide)), (5, 9));
    let everywhere = daemon.prints("get pods -A --show-labels").await;
    assert!(everywhere.starts_with("NAMESPACE   NAME   "), "{everywhere}");
    assert!(everywhere.trim_end().ends_with("app=web"), "{everywhere}");
}

#[tokio::test]
async fn get_takes_several_types_at_once() {
    let daemon = Daemon::start();
    daemon.apply(&format!("{WEB}---{MAP}")).await;
    let names = |table: &str| -> Vec<String> {
        let first = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        table.lines().map(first).collect()
    };
    let table = daemon.prints("get pods,cm,po").await;
    assert_eq!(names(&table), ["NAME", "pod/web", "", "NAME", "configmap/cm"], "{table}");
    assert_eq!(
        names(&daemon.prints("get all").await),
        ["NAME", "pod/web"],
        "the empty is left out"
    );
    assert_eq!(daemon.prints("get cm,pods -o name").await, "configmap/cm\npod/web\n");
    assert_eq!(daemon.prints("get pod/web cm/cm -o name").await, "pod/web\nconfigmap/cm\n");
    let kinds = daemon.prints("get pods,cm -o jsonpath={.items[*].kind}").await;
    assert_eq!(kinds, "Pod ConfigMap");
    assert_eq!(daemon.prints("get pods,cm -n elsewhere").await, "");
    let (printed, outcome) = daemon.run("get pods,cm web").await;
    assert_eq!(names(&printed), ["NAME", "pod/web"], "{printed}");
    assert_eq!(outcome.unwrap(), ExitCode::FAILURE, "there is no ConfigMap of that name");
}

#[tokio::test]
async fn get_by_name_prints_what_there_is_and_fails_for_the_rest() {
    let daemon = Daemon::start();
    daemon.apply(WEB).await;
    assert_eq!(daemon.prints("get pod/web -o name").await, "pod/web\n");
    assert_eq!(daemon.prints("get pods -l app=web -o name").await, "pod/web\n");
    assert_eq!(
        daemon.prints("get pods -o jsonpath={.items[*].spec.containers[*].image}").await,
        "web:1"
    );
    let yaml = daemon.prints("get pod web -o yaml").await;
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n"), "{yaml}");
    let json: serde_json::Value =
        serde_json::from_str(&daemon.prints("get pods -o json").await).unwrap();
    assert_eq!(
        (&json["kind"], json["items"].as_array().unwrap().len()),
        (&serde_json::json!("List"), 1)
    );
    let (printed, outcome) = daemon.run("get pod web none").await;
    assert!(printed.contains("web ") && outcome.unwrap() == ExitCode::FAILURE, "{printed}");
    assert_eq!(daemon.prints("get pod none --ignore-not-found").await, "");
    assert_eq!(daemon.prints("get pods -n elsewhere").await, "");
}

#[tokio::test]
async fn mistakes_are_said_in_kubectls_words() {
    let daemon = Daemon::start();
    daemon.apply(WEB).await;
    let cases = [
        (
            "describe web",
            "the server doesn't have a resource type \"web\": there are configmaps, endpoints, endpointslices, events, namespaces, networkpolicies, nodes, pods, secrets, services. A pod of that name is pod/web",
        ),
        (
            "describe po,svc",
            "one type at a time (only get takes several): configmaps, endpoints, endpointslices, events, namespaces, networkpolicies, nodes, pods, secrets, services",
        ),
        ("get pods web -A", "a resource cannot be retrieved by name across all namespaces"),
        ("get pods web -l a=b", "name cannot be provided when a selector is specified"),
        (
            "get pods --field-selector foo=bar",
            "Error from server (BadRequest): Unable to find \"/v1, Resource=pods\" that match label selector \"\", field selector \"foo=bar\": field label not supported: foo",
        ),
        ("logs none", "Error from server (NotFound): pods \"none\" not found"),
        ("logs web -c none", "container none is not valid for pod web"),
        (
            "logs web",
            "Error from server (BadRequest): container \"main\" in pod \"web\" is waiting to start - no logs yet",
        ),
        ("logs web --since=abc", "invalid duration \"abc\": write it as 5s, 2m or 1h30m"),
        ("delete pod", "resource(s) were provided, but no name was specified"),
        (
            "delete pod web --force --grace-period=5",
            "--force and --grace-period greater than 0 cannot be specified together",
        ),
        (
            "describe secret key",
            "describe shows pods, services, networkpolicies and nodes; for secrets use: podling get secrets -o yaml",
        ),
        (
            "get pods,nope",
            "the server doesn't have a resource type \"nope\": there are configmaps, endpoints, endpointslices, events, namespaces, networkpolicies, nodes, pods, secrets, services. A pod of that name is pod/nope",
        ),
        ("get pods, -o name", "pods,: a resource type is missing"),
        ("get pod/web svc", "svc: arguments must all be of the form TYPE/NAME"),
        (
            "get pods,svc -w",
            "watch is only supported on individual resources and resource collections",
        ),
    ];
    for (line, message) in cases {
        assert_eq!(daemon.fails(line).await, message, "{line}");
    }
}

#[tokio::test]
async fn no_daemon_says_what_to_do() {
    let daemon = Daemon::start();
    std::fs::remove_file(daemon.dir.path().join("podling.sock")).unwrap();
    let error = daemon.fails("get pods").await;
    assert!(
        error.starts_with("cannot connect to /") && error.contains("is the daemon running?"),
        "{error}"
    );
    let version = daemon.prints("version").await;
    assert!(version.ends_with("Server Version: none (no daemon answers)\n"), "{version}");
}

#[tokio::test]
async fn apply_creates_then_changes_nothing_then_only_what_changed() {
    let daemon = Daemon::start();
    let both = format!("{WEB}---{MAP}");
    assert_eq!(daemon.apply(&both).await, "pod/web created\nconfigmap/cm created\n");
    assert_eq!(daemon.apply(&both).await, "pod/web unchanged\nconfigmap/cm unchanged\n");
    let image = both.replace("web:1", "web:2").replace(", other: two", "");
    assert_eq!(daemon.apply(&image).await, "pod/web configured\nconfigmap/cm configured\n");
    let removed = image.replace(", {name: B, value: b}", "");
    assert_eq!(daemon.apply(&removed).await, "pod/web configured\nconfigmap/cm unchanged\n");
    let data = daemon.prints("get cm cm -o jsonpath={.data}").await;
    assert_eq!(data, r#"{"key":"one"}"#, "what the file no longer says is removed");
    let pod = daemon
        .prints(
            "get pod web -o jsonpath={.spec.containers[*].image}{.spec.containers[*].env[*].name}",
        )
        .await;
    assert_eq!(pod, "web:2A");
}

#[tokio::test]
async fn apply_leaves_alone_what_others_added() {
    let daemon = Daemon::start();
    daemon.apply(MAP).await;
    let board = daemon.fake.board();
    let mut map = board.config_map("default", "cm").unwrap().as_ref().clone();
    map.data.get_or_insert_default().insert("added".to_owned(), "by another".to_owned());
    board.upsert(map);
    daemon.apply(&MAP.replace("one", "new")).await;
    let data = daemon.prints("get cm cm -o jsonpath={.data}").await;
    assert_eq!(data, r#"{"added":"by another","key":"new","other":"two"}"#);
}

#[tokio::test]
async fn apply_tells_every_mistake_and_goes_on_after_a_refusal() {
    let daemon = Daemon::start();
    let wrong = daemon.file("wrong.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {foo: 1, containers: [{name: a, image: b, bar: 2}]}\n");
    let error = daemon.fails(&format!("apply -f {}", wrong.display())).await;
    assert!(error.contains("spec.foo") && error.contains("bar"), "{error}");
    assert_eq!(daemon.prints("get pods -o name").await, "", "nothing of a wrong file is applied");

    daemon.fake.behave(|behaviour| behaviour.refuse = Some(WriteError::Forbidden("no".to_owned())));
    let path = daemon.file("two.yaml", &format!("{WEB}---{MAP}"));
    let (printed, outcome) = daemon.run(&format!("apply -f {}", path.display())).await;
    assert_eq!((printed.as_str(), outcome.unwrap()), ("configmap/cm created\n", ExitCode::FAILURE));
    let elsewhere = daemon.file("ns.yaml", &MAP.replace("name: cm", "name: cm, namespace: far"));
    let error = daemon.fails(&format!("apply -n near -f {}", elsewhere.display())).await;
    assert!(error.contains("does not match the namespace \"near\""), "{error}");
}

#[tokio::test]
async fn apply_reads_folders_and_tries_without_doing() {
    let daemon = Daemon::start();
    std::fs::create_dir(daemon.dir.path().join("d")).unwrap();
    daemon.file("d/b.yaml", MAP);
    daemon.file("d/a.yml", WEB);
    daemon.file("d/notes.txt", "not a manifest");
    let dir = daemon.dir.path().join("d").display().to_string();
    let tried = daemon.prints(&format!("apply -f {dir} --dry-run=server")).await;
    assert_eq!(tried, "pod/web created (server dry run)\nconfigmap/cm created (server dry run)\n");
    assert_eq!(daemon.prints("get cm -o name").await, "");
    assert_eq!(
        daemon.prints(&format!("apply -f {dir}")).await,
        "pod/web created\nconfigmap/cm created\n"
    );
}

#[tokio::test]
async fn delete_waits_until_the_pod_is_gone() {
    let daemon = Daemon::start();
    daemon.apply(WEB).await;
    daemon.fake.behave(|behaviour| behaviour.slow_end = true);
    let mut seen =
        daemon.fake.board().watch(crate::board::Query::all(crate::board::Kind::Pod), None).unwrap();
    let deleting = daemon.prints("delete pod web --grace-period=3");
    let finishing = async {
        // The pod ends only after its deletion was seen.
        loop {
            let events = seen.next_batch(16).unwrap();
            if events.iter().any(|e| e.object.metadata().deletion_timestamp.is_some()) {
                break;
            }
            seen.changed().await;
        }
        daemon.fake.finish("default", "web");
    };
    let (printed, ()) = tokio::join!(deleting, finishing);
    assert_eq!(printed, "pod \"web\" deleted\n");
    assert!(daemon.fails("logs web").await.contains("not found"));
}

#[tokio::test]
async fn delete_by_force_file_selector_and_all() {
    let daemon = Daemon::start();
    daemon.apply(&format!("{WEB}---{MAP}")).await;
    let path = daemon.file("both.yaml", &format!("{WEB}---{MAP}"));
    let printed = daemon.prints(&format!("delete -f {}", path.display())).await;
    assert_eq!(printed, "pod \"web\" deleted\nconfigmap \"cm\" deleted\n");
    let (_, outcome) = daemon.run("delete pod web").await;
    assert_eq!(outcome.unwrap(), ExitCode::FAILURE);
    assert_eq!(daemon.prints("delete pod web --ignore-not-found").await, "");
    daemon.apply(WEB).await;
    daemon.fake.behave(|behaviour| behaviour.slow_end = true);
    assert_eq!(daemon.prints("delete pod web --force").await, "pod \"web\" force deleted\n");
    assert_eq!(daemon.prints("delete pods -l app=web --wait=false").await, "pod \"web\" deleted\n");
    assert_eq!(
        daemon.prints("delete pods --all --now --wait=false").await,
        "pod \"web\" deleted\n"
    );
    let timed_out = daemon.fails("delete pod web --timeout=10ms").await;
    assert_eq!(timed_out, "timed out waiting for the condition");
}

#[tokio::test]
async fn logs_of_one_and_of_all_containers() {
    let daemon = Daemon::start();
    daemon.apply("{apiVersion: v1, kind: Pod, metadata: {name: two}, spec: {containers: [{name: a, image: x}, {name: b, image: x}]}}").await;
    daemon.fake.log("two", "a", false).line(0, "a1").line(1, "a2").end();
    daemon.fake.log("two", "b", false).line(0, "b1").end();
    daemon.fake.log("two", "b", true).line(0, "before").end();
    assert_eq!(daemon.prints("logs two").await, "a1\na2\n");
    assert_eq!(daemon.prints("logs pod/two b").await, "b1\n");
    assert_eq!(daemon.prints("logs two -c b -p").await, "before\n");
    assert_eq!(daemon.prints("logs two --tail=1 --prefix").await, "[pod/two/a] a2\n");
    assert_eq!(daemon.prints("logs two --tail=-1 --limit-bytes=4").await, "a1\na");
    assert_eq!(daemon.prints("logs two --all-containers").await, "a1\na2\nb1\n");
    let followed = daemon.prints("logs two -f --all-containers --prefix").await;
    let mut lines: Vec<&str> = followed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[pod/two/a] a1", "[pod/two/a] a2", "[pod/two/b] b1"]);
}

#[tokio::test]
async fn describe_shows_the_pods_own_events() {
    let daemon = Daemon::start();
    daemon.apply(WEB).await;
    let board = daemon.fake.board();
    let pod = board.pod(&crate::spec::PodKey::new("default", "web")).unwrap();
    let mut draft = EventDraft {
        involved: k8s_openapi::api::core::v1::ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("default".to_owned()),
            name: Some("web".to_owned()),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        },
        warning: false,
        reason: "Started".to_owned(),
        message: "Container started".to_owned(),
        component: "podling".to_owned(),
        host: "gateway".to_owned(),
    };
    let now: Timestamp = Clock::start().now();
    board.record(&draft, now);
    draft.involved.uid = Some("another incarnation".to_owned());
    draft.reason = "Elsewhere".to_owned();
    board.record(&draft, now);
    assert_eq!(wire_time(0).0.to_string(), "1970-01-01T00:00:00Z");
    let page = daemon.prints("describe pod web").await;
    assert!(page.contains("\n  Normal  Started  ") && !page.contains("Elsewhere"), "{page}");
}

#[tokio::test]
async fn a_watch_shows_changes_under_the_same_headings() {
    let daemon = Daemon::start();
    daemon.apply(WEB).await;
    let board = daemon.fake.board().clone();
    let buffer = Buffer::default();
    let socket = format!("--socket={}", daemon.dir.path().join("podling.sock").display());
    let cli = Cli::try_parse_from(["podling", "get", &socket, "pods", "-w"]).unwrap();
    let mut out = Out::new(Box::new(buffer.clone()));
    let watching =
        tokio::spawn(async move { ask(cli.command, &mut out).await.map_err(|e| e.to_string()) });
    let printed = async |wanted: usize| {
        let reading = async {
            loop {
                let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
                if text.lines().count() >= wanted {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), reading).await.unwrap()
    };
    printed(2).await;
    let mut pod = board.pod(&crate::spec::PodKey::new("default", "web")).unwrap().as_ref().clone();
    pod.status.get_or_insert_default().reason = Some("Evicted".to_owned());
    pod.status.get_or_insert_default().container_statuses = None;
    // Until the watch is up a change may be part of its list or of its stream; it is printed either way.
    tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while buffer.0.lock().unwrap().iter().filter(|b| **b == b'\n').count() < 3 {
            pod.metadata.generation = Some(pod.metadata.generation.unwrap_or(1) + 1);
            board.upsert_pod(pod.clone());
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let text = printed(3).await;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("NAME   READY   STATUS    RESTARTS   AGE"));
    assert!(lines.nth(1).unwrap().starts_with("web    0/1     Evicted   0          "), "{text}");
    watching.abort();
}

#[tokio::test]
async fn one_object_is_watched_by_name_even_if_it_is_old() {
    let daemon = Daemon::start();
    daemon.apply(WEB).await;
    // Its version has long left the history.
    for n in 0..=crate::board::CHANGES_MAX {
        let text = MAP.replace("one", &n.to_string());
        let map: k8s_openapi::api::core::v1::ConfigMap = serde_yaml::from_str(&text).unwrap();
        daemon.fake.board().upsert(map);
    }
    let buffer = Buffer::default();
    let socket = format!("--socket={}", daemon.dir.path().join("podling.sock").display());
    let cli = Cli::try_parse_from(["podling", "get", &socket, "pod", "web", "-w", "-o", "name"]);
    let command = cli.unwrap().command;
    let mut out = Out::new(Box::new(buffer.clone()));
    let watching =
        tokio::spawn(async move { ask(command, &mut out).await.map_err(|e| e.to_string()) });
    let board = daemon.fake.board();
    let mut pod = board.pod(&crate::spec::PodKey::new("default", "web")).unwrap().as_ref().clone();
    let changing = async {
        while buffer.0.lock().unwrap().iter().filter(|b| **b == b'\n').count() < 3 {
            assert!(!watching.is_finished(), "the watch ended");
            pod.metadata.generation = Some(pod.metadata.generation.unwrap_or(1) + 1);
            board.upsert_pod(pod.clone());
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), changing).await.unwrap();
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    assert!(text.lines().all(|line| line == "pod/web"), "{text}");
    watching.abort();
}

const NETWORK: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, labels: {a: b}}
spec:
  type: NodePort
  clusterIP: 10.89.0.7
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guard}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{namespaceSelector: {}, podSelector: {matchLabels: {role: ui}}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
      ports: [{port: 80, endPort: 90, protocol: TCP}, {port: dns, protocol: UDP}]
    - {}
";

#[tokio::test]
async fn services_and_policies_are_applied_shown_and_deleted() {
    let daemon = Daemon::start();
    let applied = "service/web created\nnetworkpolicy.networking.k8s.io/guard created\n";
    assert_eq!(daemon.apply(NETWORK).await, applied);
    assert_eq!(daemon.apply(NETWORK).await, applied.replace("created", "unchanged"));
    let changed = NETWORK.replace("targetPort: 8080", "targetPort: 81").replace("    - {}\n", "");
    assert_eq!(daemon.apply(&changed).await, applied.replace("created", "configured"));
    let ports = daemon.prints("get svc web -o jsonpath={.spec.ports[*].targetPort}").await;
    assert_eq!(ports, "81");
    let services = daemon.prints("get services").await;
    assert!(services.contains("NodePort   10.89.0.7    <none>        80:30080/TCP"), "{services}");
    let policies = daemon.prints("get netpol").await;
    assert!(policies.contains("guard   app=web"), "{policies}");
    let page = daemon.prints("describe svc web").await;
    for line in [
        "Labels:            a=b\n",
        "Selector:          app=web\n",
        "IP:                10.89.0.7\n",
        "Port:              http  80/TCP\n",
        "TargetPort:        81/TCP\n",
        "NodePort:          http  30080/TCP\n",
        "Events:            <none>\n",
    ] {
        assert!(page.contains(line), "{line:?} in\n{page}");
    }
    daemon.apply(NETWORK).await;
    let page = daemon.prints("describe netpol guard").await;
    let rules = "  PodSelector: app=web\n  Allowing ingress traffic:\n    To Port: 80-90/TCP\n    To Port: dns/UDP\n    From:\n      \
                 NamespaceSelector: <none>\n      PodSelector: role=ui\n    From:\n      IPBlock:\n        CIDR: 10.0.0.0/8\n        \
                 Except: 10.1.0.0/16\n    ----------\n    To Port: <any> (traffic allowed to all ports)\n    \
                 From: <any> (traffic not restricted by source)\n  Allowing egress traffic:\n    \
                 <none> (Selected pods are isolated for egress connectivity)\n  Policy Types: Ingress, Egress\n";
    assert!(page.contains(rules), "{page}");
    let deleted = daemon.prints("delete netpol guard").await;
    assert_eq!(deleted, "networkpolicy.networking.k8s.io \"guard\" deleted\n");
    assert_eq!(daemon.prints("delete svc/web").await, "service \"web\" deleted\n");
}
