//! The real kubectl against the real daemon: what works, and what is said where something does not.
//!
//! Owns: [`Kubectl`], which other files use too. kubectl knows no Unix sockets, so a loopback port leads to the daemon's.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::support::{
    Node, container, free_port, http_get, is_ready, program, restarts, text, wait_for,
};

/// kubectl with a node to talk to.
pub(super) struct Kubectl {
    program: PathBuf,
    server: SocketAddr,
    home: PathBuf,
}

impl Kubectl {
    /// `None` where kubectl is not installed; the reason has been printed.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let program = program("kubectl")?;
        Some(Self { program, server: door(&node.socket()), home: node.path("kubectl-home") })
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("--server=http://{}", self.server)).stdin(Stdio::null());
        command.env("HOME", &self.home).env_remove("KUBECONFIG");
        command
    }

    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads nothing may be over before this is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What it prints; it must succeed.
    #[track_caller]
    pub(super) fn ok(&self, args: &[&str]) -> String {
        self.fed(args, "")
    }

    /// The same with something on its standard input.
    #[track_caller]
    fn fed(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {args:?}: {out}{err}");
        out
    }

    /// Its complaint; it must fail with exit code 1.
    #[track_caller]
    fn fails(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "kubectl {args:?}: {out}{err}");
        err
    }
}

/// A loopback port in front of the socket. Ends with the test's process.
fn door(socket: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(api) = UnixStream::connect(&socket) else { return };
            let (there, back) = (client.try_clone().unwrap(), api.try_clone().unwrap());
            let (end_api, end_client) = (api.try_clone().unwrap(), client.try_clone().unwrap());
            copy(there, api, move || end_api.shutdown(Shutdown::Write));
            copy(back, client, move || end_client.shutdown(Shutdown::Write));
        }
    });
    address
}

/// Carries one direction until its end, and passes the end on.
fn copy(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    end: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) {
    std::thread::spawn(move || {
        // Whoever is gone has no more to say, and none to be told.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = end();
    });
}

const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  \
     terminationGracePeriodSeconds: 1\n  containers: [{name: main, image: 'web:test', ports: [{name: http, containerPort: 8080}]}]\n";

/// Every refusal says what was asked, why it is refused and, where there is one, the other way.
#[test]
fn what_kubectl_asks_in_vain_is_refused_with_words_that_help() {
    let node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    node.load("web");
    node.put_manifest("folder.yaml", &WEB.replace("name: web,", "name: folder,"));
    node.apply(WEB);
    node.wait_ready("web");
    node.wait_ready("folder");
    let hostname = r#"{"spec":{"hostname":"other"}}"#;
    let rows: [(&[&str], &str); 22] = [
        (
            &["exec", "web", "--", "ls"],
            "pods/exec is not offered by podling: a module has no shell",
        ),
        (&["attach", "web"], "pods/attach is not offered by podling"),
        (&["cp", "web:/srv/x", "x"], "kubectl cp needs one too"),
        (&["debug", "web", "--image=x"], "a container cannot be added to a pod that runs"),
        (
            &["patch", "pod", "web", "-p", hostname],
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`",
        ),
        (&["set", "image", "pod/folder", "main=web:2"], "folder.yaml; change or remove it there"),
        (&["patch", "pod", "web", "-p", "words"], "a strategic merge patch is an object"),
        (
            &["patch", "pod", "web", "--type=json", "-p", r#"[{"op":"remove","path":"/x"}]"#],
            "there is nothing at \"/x\"",
        ),
        (
            &["scale", "deployment", "web", "--replicas=2"],
            "doesn't have a resource type \"deployment\"",
        ),
        (&["rollout", "restart", "pod/web"], "restarting is not supported"),
        (&["label", "pod", "web", "a b=c"], "name part must consist of alphanumeric characters"),
        (
            &["annotate", "pod", "web", "podling.dev/network-audit=x"],
            "supported values: \"false\", \"true\"",
        ),
        (&["annotate", "pod", "folder", "a=b"], "folder.yaml; change or remove it there"),
        (&["delete", "pod", "folder"], "folder.yaml; change or remove it there"),
        (&["delete", "namespace", "default"], "a namespace exists as long as an object is in it"),
        (&["logs", "web", "-p"], "previous terminated container \"main\" in pod \"web\" not found"),
        (&["logs", "web", "-c", "nope"], "container nope is not valid for pod web"),
        (&["get", "pods", "-l", "a in (b"], "unable to parse requirement"),
        (&["get", "pods", "--field-selector=spec.x=1"], "field label not supported: spec.x"),
        (&["get", "pod", "nope"], "pods \"nope\" not found"),
        (&["top", "pod", "nope"], "pods \"nope\" not found"),
        (&["port-forward", "web", ":nope"], "does not have a named port 'nope'"),
    ];
    for (args, expected) in rows {
        let error = kubectl.fails(args, "");
        assert!(error.contains(expected), "kubectl {args:?}: {error}");
    }
    let file = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: 'file:./x.wasm'}]}\n";
    let error = kubectl.fails(&["create", "--validate=false", "-f", "-"], file);
    assert!(error.contains("podling image load FILE --name NAME:TAG"), "{error}");
    // All of that has touched nothing.
    assert!(super::support::is_ready(&node.pod("web").unwrap()));
    assert!(super::support::is_ready(&node.pod("folder").unwrap()));
}

#[test]
fn kubectl_asks_waits_replaces_and_prints_as_it_likes() {
    let node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    node.load("web");
    kubectl.fed(&["apply", "--validate=false", "-f", "-"], WEB);
    let ready = ["wait", "--for=condition=Ready", "pod/web", "--timeout=200s"];
    assert_eq!(kubectl.ok(&ready), "pod/web condition met\n");
    assert_eq!(kubectl.ok(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    let no = kubectl.run(&["auth", "can-i", "create", "pods", "--subresource=exec"], "");
    assert_eq!(
        (no.status.code(), text(&no.stdout).trim()),
        (Some(1), "no - the node does not offer this")
    );
    let uid =
        |kubectl: &Kubectl| kubectl.ok(&["get", "pod", "web", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid(&kubectl);
    let columns = "custom-columns=NAME:.metadata.name,PHASE:.status.phase";
    assert_eq!(kubectl.ok(&["get", "pod", "web", "-o", columns]), "NAME   PHASE\nweb    Running\n");
    assert_eq!(
        kubectl.ok(&["get", "pod", "web", "-o", "go-template={{.status.phase}}"]),
        "Running"
    );
    kubectl.ok(&["annotate", "pod", "web", "example.com/a=b"]);
    kubectl.ok(&[
        "patch",
        "pod",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata":{"labels":{"z":"1"}}}"#,
    ]);
    assert!(kubectl.ok(&["get", "pods", "-l", "z=1", "--show-labels"]).contains("app=web,z=1"));
    assert_eq!(uid(&kubectl), before, "labels and annotations change nothing else");
    let replaced = kubectl.fed(&["replace", "--force", "--validate=false", "-f", "-"], WEB);
    assert!(replaced.contains("pod/web replaced"), "{replaced}");
    assert_ne!(uid(&kubectl), before);
    assert_eq!(kubectl.ok(&ready), "pod/web condition met\n");
    assert!(kubectl.ok(&["events", "--for", "pod/web"]).contains("Started"));
    assert!(kubectl.ok(&["describe", "node", "gw-test"]).contains("KubeletReady"));
    assert!(kubectl.ok(&["expose", "pod", "web", "--port=80"]).contains("service/web exposed"));
    assert_eq!(
        kubectl.ok(&["delete", "pod/web", "svc/web", "--timeout=200s"]).matches("deleted").count(),
        2
    );
}

/// `web` serves what `job` leaves in the volume: `graceful` leaves a file when it is stopped.
fn edited_pod(port: u16, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: edit}}\nspec:\n  volumes: [{{name: data, emptyDir: {{}}}}]\n  containers:\n  \
         - name: web\n    image: web:test\n    ports: [{{containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1}}]\n    \
         volumeMounts: [{{name: data, mountPath: /srv}}]\n  \
         - name: job\n    image: {image}\n    args: [forever]\n    env: [{{name: STATE_DIR, value: /srv}}, {{name: STOP_MS, value: '0'}}{more}]\n    \
         volumeMounts: [{{name: data, mountPath: /srv}}]\n"
    )
}

#[test]
fn images_of_a_running_pod_are_changed_in_place() {
    let mut node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    for guest in ["web", "graceful", "sleep"] {
        node.load(guest);
    }
    let port = free_port();
    let apply = ["apply", "--validate=false", "-f", "-"];
    kubectl.fed(&apply, &edited_pod(port, "graceful:test", ""));
    let before = node.wait_ready("edit");
    let same = |pod: &Value| {
        for path in ["/metadata/uid", "/status/podIP", "/status/startTime"] {
            assert_eq!(pod.pointer(path), before.pointer(path), "{path}");
        }
        assert_eq!(restarts(pod, "web"), 0, "only what is edited is restarted");
        assert!(wait_for("the page", || http_get(port, "/healthz")).0 == 200);
    };
    let runs = |image: &str, count: i64| {
        node.wait_pod("edit", image, |pod| {
            let job = container(pod, "job");
            let runs = job["image"] == image && job["state"]["running"].is_object();
            runs && restarts(pod, "job") == count && is_ready(pod)
        })
    };

    let set = kubectl.ok(&["set", "image", "pod/edit", "job=sleep:test"]);
    assert_eq!(set, "pod/edit image updated\n");
    let pod = runs("sleep:test", 1);
    same(&pod);
    let generations = [&pod["metadata"]["generation"], &pod["status"]["observedGeneration"]];
    assert_eq!(generations, [2, 2]);
    let (job, old) = (container(&pod, "job"), container(&before, "job"));
    assert_ne!(job["imageID"], old["imageID"]);
    assert_eq!(job["lastState"]["terminated"]["exitCode"], 0, "it had its grace");
    let left = http_get(port, "/stopped").expect("the page is there");
    assert_eq!(left.0, 200, "the volume has what the old module left");
    let events = kubectl.ok(&["events", "--for", "pod/edit"]);
    assert!(events.contains("Container job definition changed, will be restarted"), "{events}");

    // An image that nobody has: the old one is gone by then, the neighbour runs.
    let editor = node.path("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed -i s/sleep:test/nowhere:9/ \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut edit = kubectl.command();
    edit.args(["edit", "pod", "edit"]).env("KUBE_EDITOR", &editor);
    let output = edit.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "pod/edit edited\n");
    let pod = node.wait_pod("edit", "waiting", |pod| {
        let reason = container(pod, "job")["state"]["waiting"]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("ImagePull"))
    });
    same(&pod);
    assert_eq!(pod["status"]["phase"], "Running");

    // The file that is applied says the last word.
    let configured = kubectl.fed(&apply, &edited_pod(port, "sleep:test", ""));
    assert_eq!(configured, "pod/edit configured\n");
    let pod = runs("sleep:test", 2);
    same(&pod);
    assert_eq!(pod["metadata"]["generation"], 4);

    let more = ", {name: MORE, value: x}";
    let refused = kubectl.fails(&apply, &edited_pod(port, "graceful:test", more));
    let words = "pod updates may not change fields other than `spec.containers[*].image`";
    assert!(refused.contains(words), "{refused}");
    assert!(refused.contains("; changed: spec.containers[1].env"), "{refused}");
    let deadline = |seconds: &str| format!("{{\"spec\":{{\"activeDeadlineSeconds\":{seconds}}}}}");
    kubectl.ok(&["patch", "pod", "edit", "-p", &deadline("7200")]);
    let refused = kubectl.fails(&["patch", "pod", "edit", "-p", &deadline("7201")], "");
    assert!(refused.contains("must be less than or equal to previous value"), "{refused}");
    same(&runs("sleep:test", 2));

    // What was acknowledged last is what comes back.
    kubectl.ok(&["set", "image", "pod/edit", "job=graceful:test"]);
    node.power_cut();
    node.boot();
    let pod = node.wait_pod("edit", "back", |pod| {
        is_ready(pod) && container(pod, "job")["image"] == "graceful:test"
    });
    assert_eq!(pod["metadata"]["uid"], before["metadata"]["uid"]);
    let generations = [&pod["metadata"]["generation"], &pod["status"]["observedGeneration"]];
    assert_eq!(generations, [6, 6]);
}
