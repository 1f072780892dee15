//! The API as its clients use it: our own command line, and the real kubectl.

use super::kubectl::Kubectl;
use super::support::{Node, container, text, wait_for};

const HELLO: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: hello}\n\
     spec: {restartPolicy: Never, containers: [{name: c, image: 'hello:test', args: [one, two]}]}\n";

#[test]
fn a_pod_is_applied_seen_read_and_deleted() {
    let node = Node::start();
    node.load("hello");
    assert_eq!(node.apply(HELLO), "pod/hello created\n");
    let pod = node.wait_pod("hello", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(container(&pod, "c")["state"]["terminated"]["reason"], "Completed");
    let table = node.ok(&["get", "pods"]);
    let row = table.lines().nth(1).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..4], ["hello", "0/1", "Completed", "0"], "{table}");
    let logs = node.ok(&["logs", "hello"]);
    assert!(logs.contains("one") && logs.contains("two"), "{logs}");
    assert_eq!(node.apply(HELLO), "pod/hello unchanged\n");
    assert_eq!(node.ok(&["delete", "pod", "hello"]), "pod \"hello\" deleted\n");
    let error = node.fails(&["get", "pod", "hello"]);
    assert_eq!(error, "Error from server (NotFound): pods \"hello\" not found\n");
}

#[test]
fn the_previous_run_can_still_be_read() {
    let node = Node::start();
    node.load("hello");
    node.apply(&HELLO.replace("restartPolicy: Never", "restartPolicy: Always"));
    node.wait_pod("hello", "restarted", |pod| super::support::restarts(pod, "c") >= 1);
    let previous = wait_for("the previous log", || {
        let output = node.cli(&["logs", "hello", "-p"]);
        output.status.success().then(|| text(&output.stdout))
    });
    assert!(previous.contains("one"), "{previous}");
}

#[test]
fn a_watch_shows_every_step() {
    let node = Node::start();
    node.load("hello");
    let mut command = super::support::podling();
    command.env("PODLING_SOCKET", node.path("podling.sock")).args(["get", "pods", "-w"]);
    let mut watch = super::support::Running::start(&mut command);
    node.apply(HELLO);
    watch.wait_for("Completed");
    node.ok(&["delete", "pod", "hello"]);
}

#[test]
fn probes_reach_the_module_through_the_pods_network() {
    let node = Node::start();
    node.put_manifest("probes.yaml", &super::support::manifest("probes.yaml"));
    let names = wait_for("pods", || {
        let names = node.ok(&["get", "pods", "-o", "name"]);
        (!names.trim().is_empty()).then_some(names)
    });
    for name in names.lines() {
        node.wait_ready(name.trim_start_matches("pod/"));
    }
}

#[test]
fn real_kubectl_talks_to_the_daemon() {
    let node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    node.load("hello");
    node.apply(HELLO);
    node.wait_pod("hello", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    let run = |args: &[&str]| kubectl.ok(args);
    let table = run(&["get", "pods"]);
    assert!(table.contains("NAME    READY   STATUS      RESTARTS   AGE"), "{table}");
    assert!(table.contains("hello   0/1     Completed   0 "), "{table}");
    assert!(run(&["get", "pod", "hello", "-o", "yaml"]).contains("phase: Succeeded"));
    assert!(run(&["logs", "hello"]).contains("one"));
    assert!(run(&["describe", "pod", "hello"]).contains("Completed"));
    assert!(run(&["get", "events"]).contains("Started"));
    let path = node.path("other.yaml");
    std::fs::write(&path, HELLO.replace("name: hello", "name: other")).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(run(&["create", "--validate=false", "-f", path]), "pod/other created\n");
    assert_eq!(run(&["delete", "pod", "other"]), "pod \"other\" deleted\n");
}
