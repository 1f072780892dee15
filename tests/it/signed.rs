//! Whose word it is: somebody who can do whatever the broker can says things in a node's name, and operators do not believe it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use podling::mqtt::controller::SecretKey;
use podling::mqtt::envelope::{Envelope, PayloadType};
use podling::mqtt::intent::PodIntent;
use serde_json::{Value, json};

use crate::mqtt::rig::{NODE, Rig};
use crate::publish_mqtt::{FOREVER, controller, manifest, prepared, publish, run};
use crate::support::{Node, Running, podling, text, wait_for};

const POD: &str = "pods/v1/acme/s/gw-test/pod/default/web";
const INTENT: &str = "pods/v1/acme/n/gw-test/pod/default/web";

/// The list, and what was complained of.
fn pods(rig: &Rig) -> (Value, String) {
    let output = run(rig, "ana", &["fleet", "get", "pods", "-o", "json"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    (serde_json::from_str(&out).unwrap(), err)
}

fn status_key(node: &Node) -> String {
    let state = node.path("state");
    let state = state.to_str().unwrap();
    node.ok(&["key", "node", "--status-key", "--state-dir", state]).trim().to_owned()
}

/// What somebody would sign who is not the node.
fn signed_by_a_stranger(topic: &str, said: &Value) -> Vec<u8> {
    let below = topic.strip_prefix("pods/v1/").unwrap();
    SecretKey::from_seed(&[66; 32]).signer().sign(below, serde_json::to_vec(said).unwrap())
}

#[test]
fn a_lie_about_a_node_is_not_believed_and_the_node_s_own_word_is() {
    let Some((rig, node)) = prepared() else { return };
    let file = manifest(&rig, "web", FOREVER, "");
    let (out, err) = publish(&rig, &["-f", &file, "--min-ready", "0s", "-o", "json"], 0);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["results"][0]["signature"], "new", "{told}");
    let key = status_key(&node);
    assert!(
        err.contains(&format!("gw-test is seen for the first time, with the key {key}")),
        "{err}"
    );
    let known = std::fs::read_to_string(rig.path("known-nodes")).unwrap();
    assert_eq!(known, format!("acme/{NODE} {key}\n"));
    let (list, err) = pods(&rig);
    let shown = &list["items"][0];
    assert_eq!(
        (&shown["signature"], &shown["phase"]),
        (&"verified".into(), &"Running".into()),
        "{list}"
    );
    assert_eq!(err, "", "it is seen for the first time once");
    let nodes = run(&rig, "ana", &["fleet", "get", "nodes", "-o", "json"]);
    let nodes: Value = serde_json::from_slice(&nodes.stdout).unwrap();
    assert_eq!(nodes["items"][0]["capabilities"]["statusKey"], key, "{nodes}");

    // A newer status, well formed, of a pod that has failed.
    let mut lie = rig.read(POD).unwrap();
    lie.as_object_mut().unwrap().remove("signature").expect("the node signs");
    (lie["phase"], lie["ready"], lie["seq"]) = ("Failed".into(), false.into(), 1_000_000.into());
    let rows = [
        (serde_json::to_vec(&lie).unwrap(), "missing", "is not signed, and is not believed"),
        (signed_by_a_stranger(POD, &lie), "changed", "ANOTHER KEY"),
    ];
    for (message, word, complaint) in rows {
        rig.publish_as(NODE, POD, &message, true);
        let (list, err) = pods(&rig);
        let shown = &list["items"][0];
        assert_eq!((&shown["signature"], &shown["phase"]), (&word.into(), &Value::Null), "{list}");
        assert!(err.contains(complaint) && err.contains("line 1 of"), "{err}");
        let table = text(&run(&rig, "ana", &["fleet", "get", "pods"]).stdout);
        assert!(table.contains("Unknown") && !table.contains("Failed"), "{table}");
    }
    let logs = run(&rig, "ana", &["fleet", "ping", NODE, "--timeout", "120s", "-o", "json"]);
    let answer: Value = serde_json::from_slice(&logs.stdout).unwrap();
    assert_eq!(
        (&answer["signature"], &answer["outcome"]["ok"]),
        (&"verified".into(), &true.into())
    );
    // The node says everything anew, and is believed.
    assert!(run(&rig, "ana", &["fleet", "resync", NODE, "--timeout", "120s"]).status.success());
    wait_for("the node's own word", || {
        Some(()).filter(|()| pods(&rig).0["items"][0]["signature"] == "verified")
    });
}

#[test]
fn a_publisher_waits_for_the_node_and_for_nobody_who_speaks_as_it() {
    let Some((rig, mut node)) = prepared() else { return };
    let settings = controller(&rig, "ana", &rig.key);
    let file = manifest(&rig, "web", FOREVER, "");
    // The operator has been told the key; nothing need be seen before.
    let key = wait_for("the node's key", || {
        let path = node.path("state/node.key.status");
        path.exists().then(|| status_key(&node))
    });
    assert_eq!(node.terminate(), 0);
    let mut command = podling();
    command.env("PODLING_CONTROLLER", settings).env("PODLING_STATE_DIR", rig.path("laptop"));
    command.args([
        "publish",
        "--node",
        NODE,
        "--min-ready",
        "0s",
        "--timeout",
        "600s",
        "-f",
        &file,
    ]);
    command.args(["--node-key", &format!("{NODE}={key}")]);
    let mut publisher = Running::start(&mut command);
    publisher.wait_for("pod/web published");
    // Somebody who sees the document says that the node has it and that all is well.
    let sent = rig.read_as("ctl-acme", INTENT).unwrap();
    let envelope = Envelope::open(&sent, PayloadType::Intent).unwrap();
    let intent: PodIntent = serde_json::from_slice(&envelope.payload).unwrap();
    let revision = json!({
        "scope": "node", "epoch": intent.epoch, "generation": intent.generation, "uid": intent.uid,
        "digest": envelope.digest().to_string(),
    });
    let mut rollout = revision.clone();
    (rollout["stage"], rollout["attempts"]) = ("Committed".into(), 1.into());
    let lie = json!({
        "apiVersion": "podling.dev/v1", "kind": "PodStatus", "tenant": "acme", "node": NODE, "namespace": "default", "name": "web",
        "boot": "x", "conn": 1_000_000, "seq": 1, "uptimeMs": 1, "time": null, "timeSynced": false,
        "documents": [{"scope": "node", "accepted": revision}], "active": revision, "rollout": rollout,
        "phase": "Running", "ready": true, "conditions": [],
    });
    rig.publish_as(NODE, POD, &signed_by_a_stranger(POD, &lie), true);
    publisher.wait_for("ANOTHER KEY");
    rig.publish_as(NODE, POD, &serde_json::to_vec(&lie).unwrap(), true);
    publisher.wait_for("is not signed, and is not believed");
    assert!(!publisher.output().contains("Ready"), "{}", publisher.output());
    node.boot();
    assert_eq!(publisher.exit_code(), 0, "{}", publisher.output());
    assert!(publisher.output().contains("gw-test: pod/web: Ready"), "{}", publisher.output());
    node.wait_ready("web");
    assert!(!rig.path("known-nodes").exists(), "who was told is not remembered besides");
}

/// The condition that says whether the node's word is signed: status, reason, message.
fn signed_condition(node: &Node) -> (String, String, String) {
    let shown: Value =
        serde_json::from_str(&node.ok(&["get", "node", NODE, "-o", "json"])).unwrap();
    let conditions = shown["status"]["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|c| c["type"] == "StatusSigned");
    let condition = condition.unwrap_or_else(|| panic!("{shown:#}"));
    let of = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    (of("status"), of("reason"), of("message"))
}

#[test]
fn a_node_whose_key_cannot_be_used_says_so_to_everybody_and_goes_on() {
    let Some((rig, mut node)) = prepared() else { return };
    rig.deliver(&rig.intent("web", ""));
    let key = status_key(&node);
    let (status, _, message) = signed_condition(&node);
    assert!(status == "True" && message.contains(&key), "{status} {message}");
    assert!(!node.ok(&["get", "node"]).contains("StatusNotSigned"));
    // Somebody has put it back from a copy, and let others read it.
    let path = node.path("state/node.key.status");
    let allow = |mode| std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    assert_eq!(node.terminate(), 0, "{}", node.output());
    allow(0o644);
    node.boot();
    let (status, reason, message) = signed_condition(&node);
    assert_eq!((&*status, &*reason), ("False", "StatusKeyUnusable"), "{message}");
    assert!(message.contains("chmod 600") && message.contains("node.key.status"), "{message}");
    assert!(node.ok(&["get", "node"]).contains(",StatusNotSigned"));
    let page = node.ok(&["describe", "node", NODE]);
    assert!(page.contains("StatusKeyUnusable") && page.contains("chmod 600"), "{page}");
    // Readers who know no key of it believe it, and are told; what was accepted runs, and more arrives.
    let said = rig.wait_topic(&format!("pods/v1/acme/s/{NODE}/node"), "not signed", |said| {
        let conditions = said["conditions"].as_array().unwrap();
        conditions.iter().any(|c| c["type"] == "StatusSigned" && c["status"] == "False")
    });
    assert_eq!(
        (&said["signature"], &said["capabilities"]["statusKey"]),
        (&Value::Null, &Value::Null)
    );
    node.wait_ready("web");
    rig.deliver(&rig.intent("other", ""));
    // Mended, it is who it was.
    assert_eq!(node.terminate(), 0, "{}", node.output());
    allow(0o600);
    node.boot();
    let (status, _, message) = signed_condition(&node);
    assert!(status == "True" && message.contains(&key), "{status} {message}");
}

#[test]
fn an_old_picture_of_a_node_is_not_believed_by_who_has_seen_a_newer_one() {
    let Some((rig, mut node)) = prepared() else { return };
    rig.deliver(&rig.intent("web", ""));
    let topics =
        ["online", "node", "pod/default/web"].map(|of| format!("pods/v1/acme/s/{NODE}/{of}"));
    let old = topics.clone().map(|topic| rig.read_as("ctl-acme", &topic).unwrap());
    assert_eq!(node.terminate(), 0, "{}", node.output());
    node.boot();
    let conn = |said: &[u8]| serde_json::from_slice::<Value>(said).unwrap()["conn"].as_u64();
    rig.wait_topic(&topics[0], "there again", |said| said["conn"].as_u64() > conn(&old[0]));
    rig.wait_topic(&topics[1], "there again", |said| said["conn"].as_u64() > conn(&old[1]));
    let shown = || {
        let output = run(&rig, "ana", &["fleet", "get", "pods", "--no-headers"]);
        let nodes = run(&rig, "ana", &["fleet", "get", "nodes", "--no-headers"]);
        let err = text(&output.stderr) + &text(&nodes.stderr);
        (text(&nodes.stdout), text(&output.stdout), err)
    };
    wait_for("the node to be known", || {
        let (nodes, ..) = shown();
        (nodes.contains("verified") && nodes.contains("Ready")).then_some(())
    });
    // It has gone; and whoever has the broker shows that it is there, in its own words of before.
    assert_eq!(node.terminate(), 0, "{}", node.output());
    for (topic, said) in topics.iter().zip(&old) {
        rig.publish_as(NODE, topic, said, true);
    }
    let (nodes, pods, err) = shown();
    assert!(nodes.contains(" old") && nodes.contains("Unknown"), "{nodes}{err}");
    assert!(pods.contains("Unknown") && pods.contains("was Running"), "{pods}{err}");
    for expected in ["OLD", "is not believed", "line 2 of", "known-nodes.seen"] {
        assert!(err.contains(expected), "{expected} in {err}");
    }
    // Whoever has seen nothing of it believes that; so does who takes the line away.
    std::fs::remove_file(rig.path("known-nodes.seen")).unwrap();
    let (nodes, pods, err) = shown();
    assert!(nodes.contains("Ready") && pods.contains("Running"), "{nodes}{pods}{err}");
    assert_eq!(err, "");
    // The node itself is believed as ever.
    node.boot();
    wait_for("the node's own word", || {
        let (nodes, pods, err) = shown();
        let is_right = nodes.contains("verified") && pods.contains("Running") && err.is_empty();
        is_right.then_some(())
    });
}

#[test]
fn a_node_with_a_new_disk_is_a_warning_until_somebody_says_that_it_is_right() {
    let Some((rig, mut node)) = prepared() else { return };
    let get = || {
        let output = run(&rig, "ana", &["fleet", "get", "nodes"]);
        (text(&output.stdout), text(&output.stderr))
    };
    wait_for("the node to be known", || get().0.contains("verified").then_some(()));
    let before = status_key(&node);
    assert_eq!(node.terminate(), 0);
    std::fs::remove_dir_all(node.path("state")).unwrap();
    node.boot();
    let after = wait_for("the node's new key", || {
        node.path("state/node.key.status").exists().then(|| status_key(&node))
    });
    assert_ne!(before, after);
    // Until all that the old disk said is replaced, its goodbye among it, the node is shown as what it was: away.
    let (table, err) = wait_for("its new word", || {
        Some(get()).filter(|(table, _)| table.contains("changed") && table.contains("Unknown"))
    });
    assert!(!table.contains("Ready"), "{table}");
    for expected in ["ANOTHER KEY", &before, &after, "line 1 of", "known-nodes", "--status-key"] {
        assert!(err.contains(expected), "{expected} in {err}");
    }
    std::fs::write(rig.path("known-nodes"), format!("acme/{NODE} {after}\n")).unwrap();
    wait_for("it is right", || {
        let (table, err) = get();
        (table.contains("verified") && table.contains(" Ready") && err.is_empty()).then_some(())
    });
}
