//! `podling key trust`, end to end: roots that change whom nodes trust, from their laptops, through a broker that nobody trusts.

use std::path::Path;

use podling::mqtt::controller::SecretKey;
use podling::mqtt::status::{NodeStatus, Online};

use crate::mqtt::rig::{NODE, Rig};
use crate::publish_mqtt::{FOREVER, controller, manifest, publish, publish_as, run};
use crate::support::{Node, Running, podling, text};

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn entry(name: &str, key: &SecretKey, roles: &str) -> String {
    format!("- {{name: {name}, publicKey: '{}', roles: [{roles}]}}\n", key.public_text())
}

/// A node whose anchor has the rig's key, and these roots.
fn node(rig: &Rig, threshold: usize, roots: &[&SecretKey]) -> Node {
    let mut anchor = std::fs::read_to_string(rig.path("anchor.yaml")).unwrap();
    for (at, root) in roots.iter().enumerate() {
        anchor += &entry(&format!("root-{at}"), root, "root");
    }
    anchor += &format!("threshold: {threshold}\n");
    std::fs::write(rig.path("anchor.yaml"), anchor).unwrap();
    rig.node()
}

/// Signs and publishes a document, or prints it; exit code, standard output, standard error.
fn trust(rig: &Rig, file: &Path, roots: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
    let mut words = vec!["key", "trust", "-f", file.to_str().unwrap()];
    let pems: Vec<_> = roots.iter().map(|root| rig.path(&format!("{root}-signing.pem"))).collect();
    for pem in &pems {
        words.extend(["--root", pem.to_str().unwrap()]);
    }
    let output = run(rig, "ana", &[&words, more].concat());
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn written(rig: &Rig, name: &str, text: &str) -> std::path::PathBuf {
    let path = rig.path(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_root_takes_a_controllers_key_away() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let (root, ben) = (key(9), key(8));
    controller(&rig, "root", &root);
    controller(&rig, "ben", &ben);
    let _node = node(&rig, 1, &[&root]);
    let file = manifest(&rig, "web", FOREVER, "");
    publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    let text = "keys:\n".to_owned()
        + &entry("ben", &ben, "intent, command")
        + &entry("root", &root, "root");
    let document = written(&rig, "trust.yaml", &text);
    let (code, out, err) = trust(&rig, &document, &["root"], &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("gw-test: trust document 1 is in force"), "{out}");
    let (_, err) = publish(&rig, &["-f", &file, "--again"], 3);
    assert!(err.contains("UntrustedKey"), "{err}");
    publish_as(&rig, "ben", &["-f", &file, "--min-ready", "0s", "--force-conflicts"], 0);
}

#[test]
fn two_roots_sign_one_after_the_other_then_the_roots_change_and_a_stolen_key_ends_its_pods() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let (one, two, three, ben) = (key(21), key(22), key(23), key(8));
    for (name, key) in [("one", &one), ("two", &two), ("three", &three), ("ben", &ben)] {
        controller(&rig, name, key);
    }
    let node = node(&rig, 2, &[&one, &two]);
    let file = manifest(&rig, "web", FOREVER, "");
    publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    let ana_and_ben =
        entry("ana", &rig.key, "intent, command") + &entry("ben", &ben, "intent, command");

    // One root alone is refused: here, when the document itself asks for two; by the node, when it says that one is enough.
    let roots = entry("one", &one, "root") + &entry("two", &two, "root");
    let document =
        written(&rig, "first.yaml", &format!("threshold: 2\nkeys:\n{ana_and_ben}{roots}"));
    let (code, _, err) = trust(&rig, &document, &["one"], &[]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("cannot be published"), "{err}");
    let weak = written(&rig, "weak.yaml", &format!("threshold: 1\nkeys:\n{ana_and_ben}{roots}"));
    let (code, _, err) = trust(&rig, &weak, &["one"], &[]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("gw-test refuses it: UntrustedKey"), "{err}");

    // The first prints it signed, the second signs that and publishes.
    let (code, half, err) = trust(&rig, &document, &["one"], &["--dry-run"]);
    assert_eq!(code, Some(0), "{err}");
    let half = written(&rig, "half.json", &half);
    let (code, out, err) = trust(&rig, &half, &["two"], &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("gw-test: trust document "), "{out}");
    publish_as(&rig, "ben", &["-f", &file, "--min-ready", "0s", "--force-conflicts"], 0);

    // Root two is replaced by three: old and new ones sign.
    let new_roots = entry("one", &one, "root") + &entry("three", &three, "root");
    let text = format!("threshold: 2\nkeys:\n{ana_and_ben}{new_roots}");
    let document = written(&rig, "second.yaml", &text);
    let (code, _, err) = trust(&rig, &document, &["one", "three"], &[]);
    assert_eq!(code, Some(3), "three is none of the roots in force: {err}");
    let (code, out, err) = trust(&rig, &document, &["one", "two", "three"], &[]);
    assert_eq!(code, Some(0), "{out}{err}");

    // Ben's laptop is stolen: his key ends with its pods. What two signs counts no more.
    let revoked =
        format!("revoked: [{{keyid: {}, pods: Stop, reason: laptop stolen}}]\n", ben.id());
    let ana = entry("ana", &rig.key, "intent, command");
    let text = format!("threshold: 2\nkeys:\n{ana}{new_roots}{revoked}");
    let document = written(&rig, "third.yaml", &text);
    let (code, _, err) = trust(&rig, &document, &["one", "two"], &[]);
    assert_eq!(code, Some(1), "{err}");
    let (code, out, err) = trust(&rig, &document, &["one", "three"], &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    node.wait_gone("web");
    let status = rig.wait_status("web", "stopped", |s| s["phase"] == "Absent");
    assert_eq!(status["documents"][0]["accepted"]["inactive"], "KeyRevoked", "{status}");
    let (_, err) = publish_as(&rig, "ben", &["-f", &file, "--again"], 3);
    assert!(err.contains("UntrustedKey"), "{err}");
    // The next good document replaces it.
    publish(&rig, &["-f", &file, "--min-ready", "0s", "--force-conflicts"], 0);
    node.wait_ready("web");

    // What was said before is refused, whoever says it again: the broker, say.
    let old = std::fs::read(rig.path("half.json")).unwrap();
    let envelope =
        podling::mqtt::envelope::Envelope::open(&old, podling::mqtt::envelope::PayloadType::Trust);
    assert!(envelope.is_ok());
    rig.publish("pods/v1/acme/trust", &old, true);
    let said = rig.wait_topic(&format!("pods/v1/acme/s/{NODE}/node"), "refused", |said| {
        said["refused"]["reason"].is_string()
    });
    assert!(
        ["Stale", "UntrustedKey"].contains(&said["refused"]["reason"].as_str().unwrap()),
        "{said}"
    );
    publish(&rig, &["-f", &file, "--min-ready", "0s", "--again"], 0);
}

#[test]
fn what_a_root_has_stopped_stays_stopped_where_the_anchor_is_gone() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let (root, ben) = (key(9), key(8));
    controller(&rig, "root", &root);
    controller(&rig, "ben", &ben);
    let mut node = node(&rig, 1, &[&root]);
    let keys = "keys:\n".to_owned()
        + &entry("ana", &rig.key, "intent, command")
        + &entry("root", &root, "root");
    let both = keys.clone() + &entry("ben", &ben, "intent, command");
    let in_force = |name: &str, text: &str| {
        let (code, out, err) = trust(&rig, &written(&rig, name, text), &["root"], &[]);
        assert_eq!(code, Some(0), "{out}{err}");
    };
    in_force("both.yaml", &both);
    let (kept, stopped) = (manifest(&rig, "web", FOREVER, ""), manifest(&rig, "job", FOREVER, ""));
    publish(&rig, &["-f", &kept, "--min-ready", "0s"], 0);
    publish_as(&rig, "ben", &["-f", &stopped, "--min-ready", "0s"], 0);
    let revoked = format!("revoked: [{{keyid: {}, pods: Stop, reason: stolen}}]\n", ben.id());
    in_force("one.yaml", &(keys + &revoked));
    node.wait_gone("job");

    std::fs::rename(rig.path("anchor.yaml"), rig.path("elsewhere")).unwrap();
    assert_eq!(node.terminate(), 0, "{}", node.output());
    node.boot();
    node.wait_ready("web");
    // What was accepted is handed to the node before it answers anybody.
    assert!(node.pod("job").is_none());
}

/// A node that is nothing but what it says.
const GHOST: &str = "gw-ghost";

fn ghost_says(rig: &Rig, what: &str, said: &impl serde::Serialize) {
    if !rig.path("gw-ghost.pem").exists() {
        rig.certificate(GHOST, GHOST);
    }
    let topic = format!("pods/v1/acme/s/{GHOST}/{what}");
    rig.publish_as(GHOST, &topic, &serde_json::to_vec(said).unwrap(), true);
}

fn birth(online: bool) -> Online {
    Online {
        api_version: "podling.dev/v1".to_owned(),
        kind: "Online".to_owned(),
        online,
        conn: 5,
        boot: "ghost".to_owned(),
        protocol: 1,
        version: "0".to_owned(),
    }
}

#[test]
fn nodes_are_told_of_one_by_one_when_they_answer_or_go() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let root = key(9);
    controller(&rig, "root", &root);
    let _node = node(&rig, 1, &[&root]);
    ghost_says(&rig, "online", &birth(true));
    let text = "keys:\n".to_owned()
        + &entry("ana", &rig.key, "intent, command")
        + &entry("root", &root, "root");
    let document = written(&rig, "trust.yaml", &text);
    let mut command = podling();
    command.env("PODLING_CONTROLLER", rig.path("ana.yaml")).args([
        "key",
        "trust",
        "--timeout",
        "10m",
    ]);
    command.arg("-f").arg(&document).arg("--root").arg(rig.path("root-signing.pem"));
    let mut running = Running::start(&mut command);
    // The one does not wait for the other to be told of.
    running.wait_for("gw-test: trust document 1 is in force");
    assert!(running.child.try_wait().unwrap().is_none(), "{}", running.output());
    ghost_says(&rig, "online", &birth(false));
    running.wait_for("gw-ghost: offline; it takes the document when it is back");
    assert_eq!(running.exit_code(), 0, "{}", running.output());
}

#[test]
fn what_a_node_claims_of_the_epoch_is_not_what_a_root_signs() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let root = key(9);
    controller(&rig, "root", &root);
    let claim = |epoch: u64| {
        let mut status = NodeStatus { node: GHOST.to_owned(), ..NodeStatus::default() };
        status.trust.epoch = epoch;
        ghost_says(&rig, "node", &status);
    };
    let keys = "keys:\n".to_owned() + &entry("root", &root, "root");
    let file = written(&rig, "trust.yaml", &keys);
    let signed = |file: &Path, more: &[&str]| {
        let (code, out, err) = trust(&rig, file, &["root"], more);
        let envelope = podling::mqtt::envelope::Envelope::open(
            out.as_bytes(),
            podling::mqtt::envelope::PayloadType::Trust,
        );
        let payload = envelope.ok().map(|envelope| envelope.payload);
        let document = payload.map(|json| serde_json::from_slice(&json).unwrap());
        (code, document.unwrap_or(serde_json::Value::Null), err)
    };
    // One node that lies must not raise the epoch of all the others.
    claim(9);
    let (code, _, err) = signed(&file, &["--dry-run"]);
    assert_eq!(code, Some(1), "{err}");
    let says = "a node says that it is in epoch 9, and the trust document at the broker is missing";
    assert!(err.contains(says), "{err}");
    // What is written is meant.
    let one = written(&rig, "one.yaml", &(keys.clone() + "epoch: 1\n"));
    let (code, document, err) = signed(&one, &["--dry-run"]);
    assert_eq!((code, &document["epoch"]), (Some(0), &1.into()), "{err}");
    // What stands at the broker is a root's word; a higher claim is none.
    let (code, _, err) = trust(&rig, &one, &["root"], &[]);
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = signed(&file, &["--dry-run"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("the trust document at the broker has epoch 1"), "{err}");
    claim(1);
    let (code, document, err) = signed(&file, &["--dry-run"]);
    assert_eq!((code, &document["epoch"]), (Some(0), &1.into()), "{err}");
    assert_eq!(document["version"], 2, "{document}");
}
