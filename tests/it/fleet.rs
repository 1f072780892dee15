//! `podling fleet`: the nodes of a real broker as tables.

use serde_json::Value;

use crate::mqtt::rig::Rig;
use crate::publish_mqtt::{controller, run};
use crate::support::{text, wait_for};

#[test]
fn the_fleet_is_shown_from_what_the_broker_retains() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let mut node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let fleet = |args: &[&str]| {
        let output = run(&rig, "ana", &[&["fleet", "get"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // The node counts its pods a moment after it tells of one.
    let nodes = wait_for("the node's own count", || {
        Some(fleet(&["nodes"])).filter(|table| table.contains("1/1"))
    });
    let words: Vec<&str> = nodes.split_whitespace().collect();
    assert_eq!(words[..6], ["NAME", "STATUS", "PODS", "VERSION", "AGE", "SEEN"], "{nodes}");
    assert_eq!(words[6..10], ["gw-test", "Online", "1/1", env!("CARGO_PKG_VERSION")], "{nodes}");
    let pods = fleet(&["pods"]);
    let words: Vec<&str> = pods.split_whitespace().skip(8).take(6).collect();
    assert_eq!(words, ["gw-test", "web", "node", "1/1/1", "1/1", "Running"], "{pods}");
    let json: Value = serde_json::from_str(&fleet(&["nodes", "-o", "json"])).unwrap();
    assert_eq!(json["items"][0]["capabilities"]["compiler"], true, "{json}");
    // The node goes; what it said last stays, marked.
    assert_eq!(node.terminate(), 0);
    let pods = wait_for("the node to be offline", || {
        Some(fleet(&["pods"])).filter(|table| table.contains("offline"))
    });
    assert!(pods.contains("Running (offline)"), "{pods}");
    assert!(fleet(&["nodes"]).contains("Offline"));
    let missing = run(&rig, "ana", &["fleet", "get", "nodes", "none"]);
    assert_eq!(text(&missing.stderr), "error: nodes \"none\" not found\n");
}

#[test]
fn a_fleet_without_a_broker_is_an_error_of_its_own() {
    let Some(mut rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    rig.kill_broker();
    let output = run(&rig, "ana", &["fleet", "get", "nodes"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("cannot connect to mqtts://localhost"));
}
