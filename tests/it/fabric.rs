//! Pods among themselves: by address, by Service, under policy; and what survives a restart.

use std::net::TcpStream;

use serde_json::Value;

use super::kubectl::Kubectl;
use super::support::{DEADLINE, Node, free_port, http_get, text, wait_for};

/// A pod that says its name at port 8080 to whoever asks.
pub(super) fn server(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{extra}  \
         containers:\n  - name: talk\n    image: 'talk:test'\n    args: [serve, '8080']\n    ports: [{{name: talk, containerPort: 8080}}]\n    \
         readinessProbe: {{tcpSocket: {{port: talk}}, periodSeconds: 1}}\n"
    )
}

/// A pod that asks all the time, and logs each answer that is another than before.
pub(super) fn watcher(name: &str, how: &str, host: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: ui}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - {{name: talk, image: 'talk:test', args: [watch, {how}, {host}, '{port}']}}\n"
    )
}

pub(super) const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  \
     ports: [{name: tcp, port: 80, targetPort: talk}, {name: udp, port: 80, protocol: UDP, targetPort: 8080}]\n";

/// Nothing may reach the pods of `app: web`.
const DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {matchLabels: {app: web}}}\n";

pub(super) fn ip(node: &Node, pod: &str) -> String {
    node.wait_ready(pod)["status"]["podIP"].as_str().unwrap().to_owned()
}

/// The answers that a watcher got so far.
pub(super) fn answers(node: &Node, pod: &str) -> Vec<String> {
    answers_of(node, pod, "talk")
}

/// The same of one container; the pod may be `NAMESPACE/NAME`.
pub(super) fn answers_of(node: &Node, pod: &str, container: &str) -> Vec<String> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    let output = node.cli(&["logs", "-n", namespace, name, "-c", container]);
    text(&output.stdout).lines().map(str::to_owned).collect()
}

/// Waits until the newest answer is this one.
#[track_caller]
pub(super) fn wait_answer(node: &Node, pod: &str, what: &str) {
    wait_answer_of(node, pod, "talk", what);
}

#[track_caller]
pub(super) fn wait_answer_of(node: &Node, pod: &str, container: &str, what: &str) {
    let mut heard = Vec::new();
    let start = std::time::Instant::now();
    while heard.last().is_none_or(|last| last != what) {
        assert!(
            start.elapsed() < DEADLINE,
            "{pod}/{container} never heard {what:?}, but {heard:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(25));
        heard = answers_of(node, pod, container);
    }
}

#[test]
fn two_pods_talk_by_address_and_by_service_and_a_policy_is_noticed() {
    let node = Node::start();
    node.load("talk");
    node.apply(&server("one", ""));
    let one = ip(&node, "one");
    node.apply(SERVICE);
    node.apply(&watcher("by-ip", "tcp", &one, 8080));
    node.apply(&watcher("by-name", "tcp", "web", 80));
    node.apply(&watcher("by-udp", "udp", "web.default.svc.cluster.local", 80));
    for watcher in ["by-ip", "by-name", "by-udp"] {
        wait_answer(&node, watcher, "one");
    }
    node.apply(DENY);
    wait_answer(&node, "by-ip", "error PermissionDenied");
    wait_answer(&node, "by-name", "error PermissionDenied");
    wait_answer(&node, "by-udp", "error PermissionDenied");
    let events = node.ok(&["describe", "pod", "one"]);
    assert!(events.contains("NetworkDenied"), "{events}");
    node.ok(&["delete", "networkpolicy", "deny"]);
    for watcher in ["by-ip", "by-name", "by-udp"] {
        wait_answer(&node, watcher, "one");
    }
}

#[test]
fn a_service_leads_to_ready_pods_only_and_shows_them() {
    let node = Node::start();
    node.load("talk");
    node.apply(SERVICE);
    node.apply(&watcher("ui", "tcp", "web", 80));
    wait_answer(&node, "ui", "error ConnectionRefused");
    let gated = "  readinessGates: [{conditionType: example.com/never}]\n";
    node.apply(&server("never", gated));
    node.apply(&server("one", ""));
    wait_answer(&node, "ui", "one");
    let addresses = |path: &str| {
        let text = node.ok(&["get", "endpoints", "web", "-o", &format!("jsonpath={path}")]);
        text.split_whitespace().count()
    };
    assert_eq!(addresses("{.subsets[*].addresses[*].ip}"), 1);
    wait_for("the other pod to have an address", || {
        (addresses("{.subsets[*].notReadyAddresses[*].ip}") == 1).then_some(())
    });
    let slices = node.ok(&["get", "endpointslices"]);
    assert!(slices.contains("web-ipv4   IPv4          8080"), "{slices}");
    node.ok(&["delete", "pod", "one"]);
    wait_answer(&node, "ui", "error ConnectionRefused");
    node.ok(&["delete", "service", "web"]);
    wait_answer(&node, "ui", "unknown");
    wait_for("the endpoints to go", || {
        (!node.cli(&["get", "endpoints", "web"]).status.success()).then_some(())
    });
}

#[test]
fn a_client_with_affinity_hears_one_name_only_and_others_all() {
    let node = Node::start();
    node.load("talk");
    node.apply(&server("one", ""));
    node.apply(&server("two", ""));
    node.wait_ready("one");
    node.wait_ready("two");
    let sticky = SERVICE.replace("name: web", "name: sticky") + "  sessionAffinity: ClientIP\n";
    node.apply(&sticky);
    node.apply(SERVICE);
    node.apply(&watcher("loose", "tcp", "web", 80));
    node.apply(&watcher("bound", "tcp", "sticky", 80));
    // Each answer that differs from the one before is a line: many lines, many turns.
    let heard = wait_for("both to be heard again and again", || {
        let heard = answers(&node, "loose");
        (heard.len() >= 10).then_some(heard)
    });
    assert!(heard.iter().all(|name| name == "one" || name == "two"), "{heard:?}");
    let bound = wait_for("an answer", || {
        let heard = answers(&node, "bound");
        (!heard.is_empty()).then_some(heard)
    });
    let more = answers(&node, "loose").len() + 10;
    wait_for("more turns of the other", || (answers(&node, "loose").len() >= more).then_some(()));
    assert_eq!(answers(&node, "bound"), bound, "one pod through all of it");
}

#[test]
fn headless_names_mean_pods() {
    let node = Node::start();
    node.load("talk");
    let headless = "apiVersion: v1\nkind: Service\nmetadata: {name: peers}\nspec: {clusterIP: None, selector: {app: web}}\n";
    node.apply(headless);
    node.apply(&server("one", "  hostname: first\n  subdomain: peers\n"));
    let one = ip(&node, "one");
    node.apply(&watcher("by-host", "tcp", "first.peers", 8080));
    node.apply(&watcher("by-service", "tcp", "peers.default.svc.cluster.local", 8080));
    let dashed = format!("{}.default.pod.cluster.local", one.replace('.', "-"));
    node.apply(&watcher("by-dashes", "tcp", &dashed, 8080));
    // The pod's own names for others, as in its hosts file.
    let aliases = format!("spec:\n  hostAliases: [{{ip: {one}, hostnames: [plc, plc.lan]}}]\n");
    let by_alias = watcher("by-alias", "tcp", "plc.lan", 8080).replace("spec:\n", &aliases);
    node.apply(&by_alias);
    for watcher in ["by-host", "by-service", "by-dashes", "by-alias"] {
        wait_answer(&node, watcher, "first");
    }
    let table = node.ok(&["get", "service", "peers"]);
    assert!(table.contains("ClusterIP   None "), "{table}");
}

fn service_ip(node: &Node, name: &str) -> String {
    node.ok(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"])
}

#[test]
fn addresses_survive_a_power_cut() {
    let mut node = Node::start();
    node.load("talk");
    node.apply(SERVICE);
    node.put_manifest("files.yaml", &SERVICE.replace("name: web}", "name: from-file}"));
    node.apply(&server("one", ""));
    node.apply(DENY);
    wait_for("the file's Service", || {
        node.cli(&["get", "service", "from-file"]).status.success().then_some(())
    });
    let before = (service_ip(&node, "web"), service_ip(&node, "from-file"), ip(&node, "one"));
    assert!(before.0.starts_with("10.89.") && before.2.starts_with("10.88."), "{before:?}");
    node.power_cut();
    node.boot();
    let after = (service_ip(&node, "web"), service_ip(&node, "from-file"), ip(&node, "one"));
    assert_eq!(after, before);
    node.apply(&watcher("ui", "tcp", "web", 80));
    wait_answer(&node, "ui", "error PermissionDenied");
    node.ok(&["delete", "netpol", "deny"]);
    wait_answer(&node, "ui", "one");
}

#[test]
fn nothing_leaves_the_node_unasked_and_an_audit_writes_the_policy() {
    let node = Node::start();
    node.load("talk");
    // TEST-NET: nobody has it, and nobody would answer.
    node.apply(&watcher("meter", "tcp", "192.0.2.1", 443));
    wait_answer(&node, "meter", "error PermissionDenied");
    let denied = node.ok(&["net", "meter", "--audit"]);
    assert!(denied.contains("denied   to 192.0.2.1 tcp/443"), "{denied}");
    assert!(!denied.contains("kind: NetworkPolicy"), "{denied}");
    let name = watcher("clock", "udp", "time.example.org", 123);
    let audited = name
        .replace("metadata: {", "metadata: {annotations: {podling.dev/network-audit: 'true'}, ");
    node.apply(&server("one", ""));
    let one = ip(&node, "one");
    let audited = audited
        .replace("clock", "audited")
        .replace("time.example.org", &one)
        .replace("123", "8080");
    node.apply(&audited);
    wait_answer(&node, "audited", "one");
    let proposal = node.ok(&["net", "audited", "--audit"]);
    assert!(proposal.contains(&format!("allowed  to {one}")), "{proposal}");
    node.ok(&["delete", "pod", "audited"]);
    let applied = node.apply(&proposal);
    assert_eq!(applied, "networkpolicy.networking.k8s.io/audited-audited created\n", "{proposal}");
    // The policy is for every pod with these labels: the same use is allowed, another is not.
    node.apply(&watcher("again", "udp", &one, 8080));
    wait_answer(&node, "again", "one");
    node.apply(&watcher("other", "tcp", &one, 8080));
    wait_answer(&node, "other", "error PermissionDenied");
}

#[test]
fn containers_are_told_of_services_by_variables() {
    let node = Node::start();
    node.load("hello");
    node.apply(SERVICE);
    let ip = service_ip(&node, "web");
    node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: hello}\nspec: {restartPolicy: Never, containers: [{name: c, image: 'hello:test', \
         args: ['$(WEB_SERVICE_HOST)']}]}\n",
    );
    node.wait_pod("hello", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    let log = node.ok(&["logs", "hello"]);
    assert!(log.contains(&ip) && log.contains("WEB_SERVICE_PORT_TCP"), "{log}");
}

#[test]
fn a_node_port_is_open_while_its_service_is() {
    let node = Node::start();
    let web = super::support::guest("web");
    let port = node_port();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: NodePort\n  selector: {{app: files}}\n  \
         ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]\n"
    );
    node.put_manifest(
        "web.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: files, labels: {{app: files}}}}\nspec:\n  containers:\n  - name: web\n    \
             image: 'file:{}'\n    env: [{{name: PORT, value: '8080'}}]\n    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n---\n{service}",
            web.display()
        ),
    );
    node.wait_ready("files");
    let (status, _) = wait_for("an answer at the host's port", || http_get(port, "/"));
    assert!((200..500).contains(&status), "{status}");
    let other = node.path("other.yaml");
    std::fs::write(&other, service.replace("name: web}", "name: other}")).unwrap();
    let refused = node.fails(&["apply", "-f", other.to_str().unwrap()]);
    assert!(
        refused.contains("nodePort: Invalid value") && refused.contains("already allocated"),
        "{refused}"
    );
    node.remove_manifest("web.yaml");
    wait_for("the port to close", || {
        TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    });
}

/// A free port of the range that Services may have.
fn node_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let first = 30_000 + free_port() % 2_700;
    (first..=32_767).find(free).unwrap()
}

#[test]
fn kubectl_handles_services_and_policies() {
    let node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    let run = |args: &[&str]| kubectl.ok(args);
    let file = node.path("both.yaml");
    std::fs::write(&file, format!("{SERVICE}---\n{DENY}")).unwrap();
    let file = file.to_str().unwrap();
    let created = run(&["apply", "--validate=false", "-f", file]);
    assert_eq!(created, "service/web created\nnetworkpolicy.networking.k8s.io/deny created\n");
    let again = run(&["apply", "--validate=false", "-f", file]);
    assert_eq!(again, created.replace("created", "unchanged"));
    let table = run(&["get", "svc,netpol"]);
    assert!(table.contains("service/web   ClusterIP   10.89."), "{table}");
    assert!(table.contains("networkpolicy.networking.k8s.io/deny   app=web"), "{table}");
    let page = run(&["describe", "service", "web"]);
    assert!(page.contains("TargetPort:        talk/TCP") || page.contains("talk/TCP"), "{page}");
    let page = run(&["describe", "netpol", "deny"]);
    assert!(page.contains("Selected pods are isolated for ingress connectivity"), "{page}");
    let slices: Value =
        serde_json::from_str(&run(&["get", "endpointslices", "-o", "json"])).unwrap();
    assert_eq!(slices["items"][0]["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    run(&[
        "patch",
        "service",
        "web",
        "-p",
        r#"{"spec": {"ports": [{"port": 80, "targetPort": 9}]}}"#,
    ]);
    let port = run(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].targetPort}"]);
    assert_eq!(port, "9");
    run(&["label", "service", "web", "a=b"]);
    assert!(run(&["get", "services", "-l", "a=b", "-o", "name"]).contains("service/web"));
    // It becomes a Service of another type: what the old one left is not in the way.
    let form = |spec: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: other}}\nspec: {{{spec} selector: {{app: web}}, ports: [{{port: 80}}]}}\n"
        );
        std::fs::write(file, text).unwrap();
        run(&["apply", "--validate=false", "-f", file])
    };
    form("type: NodePort, sessionAffinity: ClientIP,");
    form("");
    let template = "jsonpath={.spec.type} {.spec.ports[0].nodePort} {.spec.sessionAffinity}";
    assert_eq!(run(&["get", "service", "other", "-o", template]), "ClusterIP  None");
    let deleted = run(&["delete", "svc/web", "netpol/deny"]);
    assert!(deleted.contains("service \"web\" deleted"), "{deleted}");
    assert!(run(&["api-resources"]).contains("networkpolicies"));
}
