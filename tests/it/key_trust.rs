//! `podling key trust`, end to end: roots that change whom nodes trust, from their laptops, through a broker that nobody trusts.

use std::path::Path;

use podling::mqtt::controller::SecretKey;

use crate::mqtt::rig::{NODE, Rig};
use crate::publish_mqtt::{FOREVER, controller, manifest, publish, publish_as, run};
use crate::support::{Node, text};

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
