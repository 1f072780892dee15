//! `podling fleet`: the nodes of a real broker as tables, what changes of them, and one of them asked.

use std::process::Output;

use podling::mqtt::controller::SecretKey;
use serde_json::Value;

use crate::mqtt::rig::{NODE, Rig};
use crate::publish_mqtt::{controller, run};
use crate::support::{Node, Running, container, is_ready, podling, text, wait_for};

/// Exit code, standard output, standard error. An answer has longer to come than a person would wait: this machine may be busy.
fn fleet(rig: &Rig, who: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let (verb, rest) = args.split_first().expect("a verb");
    let is_patient = *verb == "get" || args.contains(&"--timeout");
    let patience: &[&str] = if is_patient { &[] } else { &["--timeout", "120s"] };
    let words = [&["fleet", verb], patience, rest].concat();
    let Output { status, stdout, stderr } = run(rig, who, &words);
    (status.code(), text(&stdout), text(&stderr))
}

#[track_caller]
fn ok(rig: &Rig, args: &[&str]) -> String {
    let (code, out, err) = fleet(rig, "ana", args);
    assert_eq!(code, Some(0), "fleet {args:?}:\n{out}{err}");
    out
}

#[track_caller]
fn fails(rig: &Rig, code: i32, args: &[&str]) -> String {
    let (found, out, err) = fleet(rig, "ana", args);
    assert_eq!(found, Some(code), "fleet {args:?}:\n{out}{err}");
    err
}

#[test]
fn the_fleet_is_shown_from_what_the_broker_retains() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let mut node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let get = |args: &[&str]| ok(&rig, &[&["get"], args].concat());
    // The node counts its pods a moment after it tells of one.
    let nodes = wait_for("the node's own count", || {
        Some(get(&["nodes"])).filter(|table| table.contains("1/1"))
    });
    let words: Vec<&str> = nodes.split_whitespace().collect();
    let heading = ["NAME", "STATUS", "PODS", "VERSION", "AGE", "SEEN", "SIGNATURE"];
    assert_eq!(words[..7], heading, "{nodes}");
    assert_eq!(words[7..11], ["gw-test", "Ready", "1/1", env!("CARGO_PKG_VERSION")], "{nodes}");
    let pods = get(&["pods"]);
    let words: Vec<&str> = pods.split_whitespace().skip(9).take(6).collect();
    assert_eq!(words, ["gw-test", "web", "node", "1/1/1", "1/1", "Running"], "{pods}");
    let json: Value = serde_json::from_str(&get(&["nodes", "-o", "json"])).unwrap();
    assert_eq!(json["items"][0]["capabilities"]["compiler"], true, "{json}");
    assert_eq!(get(&["nodes", "-o", "name"]), "node/gw-test\n");
    assert_eq!(get(&["pods", "-o", "name"]), "pod/web\n");
    assert_eq!(get(&["nodes", "-l", "site=nowhere", "-o", "name"]), "");
    // The node goes; what it said last stays, and is not passed off as what is so now.
    assert_eq!(node.terminate(), 0);
    let pods = wait_for("the node to be offline", || {
        Some(get(&["pods"])).filter(|table| table.contains("Unknown"))
    });
    assert!(pods.contains("0/1") && pods.contains("was Running"), "{pods}");
    assert!(get(&["nodes"]).contains("NotReady"));
    let missing = run(&rig, "ana", &["fleet", "get", "nodes", "none"]);
    assert_eq!(text(&missing.stderr), "error: nodes \"none\" not found\n");
}

#[test]
fn what_changes_is_a_line_of_a_watch_also_over_a_broker_that_went() {
    let Some(mut rig) = Rig::start() else { return };
    let settings = controller(&rig, "ana", &rig.key);
    let mut node = rig.node();
    let mut watching = podling();
    watching.env("PODLING_CONTROLLER", settings).args(["fleet", "get", "pods", "-w"]);
    let mut watching = Running::start(&mut watching);
    watching.wait_for("NODE");
    rig.deliver(&rig.intent("web", ""));
    watching.wait_for("1/1/1");
    watching.wait_for("Running");
    let line = |watching: &Running, words: &[&str]| {
        let output = watching.output();
        let found = output.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        found.count()
    };
    let lines = line(&watching, &["gw-test", "web", "1/1/1", "1/1", "Running"]);
    assert_eq!(lines, 1, "{}", watching.output());
    rig.kill_broker();
    watching.wait_for("trying again");
    rig.start_broker("");
    watching.wait_for("connected again");
    rig.deliver(&rig.intent("late", ""));
    watching.wait_for("late");
    assert_eq!(node.terminate(), 0);
    watching.wait_for("was Running");
    let unknown = line(&watching, &["web", "Unknown", "was Running"]);
    assert!(unknown >= 1, "{}", watching.output());
}

#[test]
fn a_fleet_without_a_broker_is_an_error_of_its_own() {
    let Some(mut rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    rig.kill_broker();
    for words in [&["get", "nodes"][..], &["ping", NODE]] {
        let err = fails(&rig, 4, words);
        assert!(err.contains("cannot connect to mqtts://localhost"), "{err}");
    }
}

fn started(node: &Node) -> Value {
    container(&node.wait_ready("web"), "c")["state"]["running"]["startedAt"].clone()
}

#[test]
fn a_node_is_asked_from_a_laptop() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let mut node = rig.node();
    node.load("log");
    rig.deliver(&rig.intent_of("log", "web", "    args: [lines=100000, rate=5]\n"));
    let before = started(&node);

    let pong = ok(&rig, &["ping", NODE]);
    assert!(pong.starts_with("node/gw-test answered after ") && pong.contains(" ms on"), "{pong}");
    let json: Value = serde_json::from_str(&ok(&rig, &["ping", NODE, "-o", "json"])).unwrap();
    assert_eq!((&json["verb"], &json["outcome"]["ok"]), (&"ping".into(), &true.into()), "{json}");
    assert!(json["milliseconds"].is_u64() && json["conn"].is_u64(), "{json}");

    // What it printed is what a person at the gateway would see.
    let there = wait_for("a log", || Some(node.ok(&["logs", "web"])).filter(|log| !log.is_empty()));
    let first = there.lines().next().unwrap();
    let here = ok(&rig, &["logs", NODE, "web"]);
    assert_eq!(here.lines().next(), Some(first), "{here}");
    let tail = ok(&rig, &["logs", NODE, "pod/web", "-c", "c", "--tail", "1"]);
    assert_eq!(tail.lines().count(), 1, "{tail}");
    let cut: Value =
        serde_json::from_str(&ok(&rig, &["logs", NODE, "web", "--limit-bytes", "3", "-o", "json"]))
            .unwrap();
    assert_eq!(cut["text"], first[..3], "{cut}");
    assert_eq!(cut["outcome"]["truncated"], true, "{cut}");

    let page = ok(&rig, &["describe", NODE, "web"]);
    assert!(
        page.starts_with("Name:") && page.contains("log:v1") && page.contains("Events:"),
        "{page}"
    );
    let page = ok(&rig, &["describe", NODE]);
    assert!(page.contains(NODE) && page.contains("MqttConnected"), "{page}");
    assert!(ok(&rig, &["resync", NODE]).contains("says everything anew"));

    // Once, however often it is said under one name.
    let again = ["restart", NODE, "web", "--id", "the-same"];
    assert_eq!(ok(&rig, &again), "pod/web restarted\n");
    node.wait_pod("web", "started anew", |pod| {
        is_ready(pod) && container(pod, "c")["state"]["running"]["startedAt"] != before
    });
    let after = started(&node);
    assert_eq!(ok(&rig, &again), "pod/web restarted (it was carried out before)\n");
    assert_eq!(started(&node), after);
    assert!(!ok(&rig, &["logs", NODE, "web"]).is_empty());

    let err = fails(&rig, 3, &["logs", NODE, "none"]);
    assert!(err.contains("gw-test says NotFound"), "{err}");
    let err = fails(&rig, 3, &["exec", NODE, "web", "--", "sh"]);
    assert!(err.contains("NotSupported") && err.contains("mqtt.commands"), "{err}");
    let err = fails(&rig, 3, &["ping", NODE, "--unsigned"]);
    assert!(err.contains("NotSigned") && err.contains("role `command`"), "{err}");
    let err = fails(&rig, 5, &["ping", "gw-99"]);
    assert!(err.contains("knows no node gw-99"), "{err}");
    let err = fails(&rig, 1, &["logs", NODE, "service/web"]);
    assert!(err.contains("name a pod"), "{err}");

    assert_eq!(node.terminate(), 0);
    let err = wait_for("the node to be offline", || {
        let (code, _, err) = fleet(&rig, "ana", &["restart", NODE, "web"]);
        (code == Some(5)).then_some(err)
    });
    assert!(err.contains("node gw-test is offline") && err.contains("last heard"), "{err}");
}

#[test]
fn a_command_runs_in_a_pod_from_a_laptop_where_the_node_allows_it() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let node = Node::start_with(&rig.node_configuration("  commands: [ping, exec]\n"));
    node.load("sleep");
    rig.deliver(&rig.intent_of("sleep", "web", "    args: [forever]\n"));
    ok(&rig, &["exec", NODE, "web", "--", "sleep", "1"]);
    let (code, out, _) = fleet(&rig, "ana", &["exec", NODE, "web", "--", "sleep", "nonsense"]);
    assert_eq!(code, Some(2), "the exit code of what ran");
    assert!(out.contains("usage: sleep"), "{out}");
    let err = fails(&rig, 3, &["logs", NODE, "web"]);
    assert!(err.contains("NotSupported"), "{err}");
}

#[test]
fn who_may_not_command_is_told_who_says_so() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let _node = rig.node();
    ok(&rig, &["ping", NODE]);
    // A key that the node does not know; the broker lets it through.
    controller(&rig, "ben", &SecretKey::from_seed(&[8; 32]));
    let (code, _, err) = fleet(&rig, "ben", &["ping", NODE]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("gw-test says UntrustedKey"), "{err}");
    // A client that the broker does not let through, whatever its key.
    let settings = std::fs::read_to_string(rig.path("ana.yaml")).unwrap();
    let settings = settings.replace("ctl-acme", "gw-18") + "clientId: gw-18\n";
    std::fs::write(rig.path("mallory.yaml"), settings).unwrap();
    rig.certificate("gw-18", "gw-18");
    let (code, _, err) = fleet(&rig, "mallory", &["ping", NODE, "--timeout", "20s"]);
    assert!(matches!(code, Some(4 | 5)), "{code:?} {err}");
    assert!(err.contains("does not let this client"), "{err}");
}
