//! What is not signed as it should be, commands that come twice, births and wills, and who a pod belongs to.

use podling::mqtt::command::{Arguments, Verb};
use podling::mqtt::controller;
use serde_json::Value;

use super::rig::{Intent, NODE, Rig};
use crate::support::{Node, container, guest, is_ready};

fn unsigned(rig: &Rig, intent: &Intent) {
    rig.send(&controller::intent(&rig.tree(), &intent.intent, &[]).unwrap());
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let all = status["conditions"].as_array().unwrap();
    all.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

#[test]
fn by_default_only_what_a_trusted_key_signed_runs() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    unsigned(&rig, &rig.intent("web", ""));
    let refused = |reason: &str| {
        let is = |s: &Value| s["documents"][0]["refused"]["reason"] == reason;
        rig.wait_status("web", reason, is)
    };
    refused("NotSigned");
    let stranger = controller::SecretKey::from_seed(&[8; 32]);
    let intent = rig.intent("web", "");
    rig.send(&controller::intent(&rig.tree(), &intent.intent, &[&stranger]).unwrap());
    refused("UntrustedKey");
    let mut forged = rig.sign(&intent);
    let text = String::from_utf8(forged.payload).unwrap();
    let at = text.find("\"sig\":\"").unwrap() + 7;
    let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
    forged.payload = format!("{}{other}{}", &text[..at], &text[at + 1..]).into_bytes();
    rig.send(&forged);
    refused("BadSignature");
    let mut elsewhere = rig.sign(&rig.intent("other", ""));
    elsewhere.topic = rig.sign(&intent).topic;
    rig.send(&elsewhere);
    refused("WrongTarget");
    assert!(node.pod("web").is_none());
    // Nothing of it was held against what is right.
    rig.deliver(&intent);
}

#[test]
fn where_it_is_written_out_unsigned_intents_run_and_everybody_sees_it() {
    let Some(rig) = Rig::start() else { return };
    for (mode, signed_by) in [("warn", "  trust: warn\n"), ("off", "  trust: 'off'\n")] {
        let text = rig.node_configuration(signed_by);
        // `off` needs no key at all.
        let text = if mode == "off" { text.replace("anchor.yaml", "absent.yaml") } else { text };
        let mut node = Node::start_with(&text);
        // YAML takes a bare `off` for false.
        let name = format!("trust-{mode}");
        let intent = rig.intent(&name, "");
        unsigned(&rig, &intent);
        let status = rig.wait_status(&name, "committed", |s| s["rollout"]["stage"] == "Committed");
        if mode == "warn" {
            assert_eq!(condition(&status, "Verified")["status"], "False", "{status}");
        }
        let topic = format!("pods/v1/acme/s/{NODE}/node");
        let said = rig.wait_topic(&topic, mode, |said| said["trust"]["mode"] == mode);
        assert_eq!(condition(&said, "SignaturesRequired")["status"], "False", "{said}");
        assert_eq!(node.terminate(), 0);
    }
}

#[test]
fn a_command_that_comes_again_is_carried_out_once_and_one_for_another_connection_never() {
    let Some(mut rig) = Rig::start() else { return };
    let node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let of = |name: &str| Arguments {
        namespace: Some("default".into()),
        name: Some(name.into()),
        ..Arguments::default()
    };
    let before = node.wait_ready("web");
    let restart = rig.make_command(Verb::Restart, of("web"));
    let (_, outcome) = rig.ask(&restart);
    assert_eq!((&outcome["ok"], &outcome["repeated"]), (&true.into(), &Value::Null), "{outcome}");
    let started = |pod: &Value| container(pod, "c")["state"]["running"]["startedAt"].clone();
    let anew = node
        .wait_pod("web", "started anew", |pod| is_ready(pod) && started(pod) != started(&before));
    let (_, outcome) = rig.ask(&restart);
    assert_eq!((&outcome["ok"], &outcome["repeated"]), (&true.into(), &true.into()), "{outcome}");
    let (_, outcome) = rig.command(Verb::Resync, Arguments::default());
    assert_eq!(outcome["ok"], true, "{outcome}");
    assert_eq!(started(&node.wait_ready("web")), started(&anew), "once");
    // The next connection has another number: what a broker has kept, or somebody recorded, means nothing there.
    let late = rig.make_command(Verb::Restart, of("web"));
    rig.kill_broker();
    rig.start_broker("");
    let topic = format!("pods/v1/acme/s/{NODE}/online");
    rig.wait_topic(&topic, "online again", |o| {
        o["online"] == true && o["conn"].as_u64() > Some(late.conn)
    });
    let (_, outcome) = rig.ask(&late);
    assert_eq!(outcome["reason"], "Expired", "{outcome}");
    assert_eq!(started(&node.wait_ready("web")), started(&anew));
}

#[test]
fn the_broker_says_that_a_node_died_and_its_next_birth_has_a_higher_number() {
    let Some(rig) = Rig::start() else { return };
    let mut node = Node::start_with(&rig.node_configuration("  willDelaySeconds: 1\n"));
    let topic = format!("pods/v1/acme/s/{NODE}/online");
    let birth = rig.wait_topic(&topic, "online", |o| o["online"] == true);
    node.power_cut();
    // Not at once: a short break is no news (`will`).
    let will = rig.wait_topic(&topic, "the will", |o| o["online"] == false);
    assert_eq!((&will["conn"], &will["boot"]), (&birth["conn"], &birth["boot"]));
    node.boot();
    let next = rig.wait_topic(&topic, "online again", |o| o["online"] == true);
    assert!(next["conn"].as_u64() > birth["conn"].as_u64(), "{birth} {next}");
    assert_ne!(next["boot"], birth["boot"]);
}

#[test]
fn three_sources_side_by_side_and_each_pod_says_which_is_its_own() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
             spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: 'file:{}'}}]}}\n",
            guest("counter").display()
        )
    };
    rig.deliver(&rig.intent("remote", ""));
    node.put_manifest("file.yaml", &pod("file"));
    node.load("counter");
    node.apply(
        &pod("local").replace(&format!("file:{}", guest("counter").display()), "counter:test"),
    );
    let source = |name: &str| {
        let pod = node.wait_ready(name);
        let source = &pod["metadata"]["annotations"]["kubernetes.io/config.source"];
        source.as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(source("remote"), "mqtt");
    assert_eq!(source("file"), "file");
    // As in Kubernetes: the annotation marks what did not come through the API.
    assert_eq!(source("local"), "");
}
