//! `podling publish`, the less usual ways: pruning by the index, modules from a registry, without waiting, without publishing.

use serde_json::Value;

use crate::images::Serving;
use crate::mqtt::rig::{NODE, Rig};
use crate::publish_mqtt::{FOREVER, controller, manifest, prepared, publish, run};
use crate::support::{guest, program, text};

const DESIRED: &str = "pods/v1/acme/n/gw-test/desired";

/// A manifest with a label.
fn labelled(rig: &Rig, name: &str, app: &str) -> String {
    let path = manifest(rig, name, FOREVER, "");
    let text = std::fs::read_to_string(&path).unwrap();
    let with = text.replace(
        &format!("{{name: {name}}}"),
        &format!("{{name: {name}, labels: {{app: {app}}}}}"),
    );
    assert_ne!(text, with);
    std::fs::write(&path, with).unwrap();
    path
}

fn index(rig: &Rig) -> Value {
    let envelope: Value =
        serde_json::from_slice(&rig.read_as("ctl-acme", DESIRED).unwrap()).unwrap();
    let payload = envelope["payload"].as_str().unwrap();
    let payload = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, payload);
    serde_json::from_slice(&payload.unwrap()).unwrap()
}

fn names(index: &Value) -> Vec<&str> {
    index["pods"].as_array().unwrap().iter().map(|pod| pod["name"].as_str().unwrap()).collect()
}

#[test]
fn what_is_no_longer_in_the_files_ends_if_it_was_chosen_and_only_then() {
    let Some((rig, node)) = prepared() else { return };
    let (a, b, c) =
        (labelled(&rig, "a", "shop"), labelled(&rig, "b", "shop"), labelled(&rig, "c", "bank"));
    let by_hand = labelled(&rig, "by-hand", "shop");
    let quick = ["--min-ready", "0s"];
    let with = |words: &[&str], code| publish(&rig, &[&quick, words].concat(), code);
    with(&["-f", &by_hand], 0);
    let (out, err) = with(&["-f", &a, "-f", &b, "-f", &c, "--prune", "-l", "app=shop"], 0);
    assert!(out.contains("index 1 published to gw-test: lists 3, prunes 0"), "{out}");
    assert!(err.contains("pod default/by-hand") && err.contains("left alone"), "{err}");
    for name in ["a", "b", "c", "by-hand"] {
        node.wait_ready(name);
    }
    // Looked at first: nothing happens.
    let (out, err) = with(&["-f", &a, "--prune", "-l", "app=shop", "--dry-run", "-o", "json"], 0);
    assert!(out.contains("\"default/b\""), "{out}{err}");
    // b is chosen and gone from the files; c is not chosen; the other one was never in an index.
    let (out, _) = with(&["-f", &a, "--prune", "-l", "app=shop"], 0);
    assert!(out.contains("index 2 published to gw-test: lists 2, prunes 1"), "{out}");
    assert!(out.contains("pod/a unchanged") && out.ends_with("gw-test: pod/b pruned\n"), "{out}");
    node.wait_gone("b");
    for name in ["a", "c", "by-hand"] {
        node.wait_ready(name);
    }
    assert_eq!(names(&index(&rig)), ["a", "c"]);
    let topic = "pods/v1/acme/n/gw-test/pod/default/b";
    assert!(rig.hears_nothing_as("ctl-acme", topic), "nobody needs it any more");
    // What was pruned comes back by being published.
    let (out, _) = with(&["-f", &b, "--prune", "-l", "app=shop"], 0);
    assert!(out.contains("gw-test: pod/a pruned"), "{out}");
    node.wait_ready("b");
    node.wait_gone("a");
    // Nothing is chosen by saying nothing.
    let (_, err) = with(&["-f", &a, "--prune"], 1);
    assert!(err.contains("--prune --all"), "{err}");
}

#[test]
fn a_broker_that_has_lost_the_index_prunes_nothing() {
    let Some((mut rig, node)) = prepared() else { return };
    let (a, b) = (labelled(&rig, "a", "shop"), labelled(&rig, "b", "shop"));
    let quick = ["--min-ready", "0s", "--prune", "--all"];
    publish(&rig, &[&quick[..], &["-f", &a, "-f", &b]].concat(), 0);
    rig.wipe_broker();
    rig.start_broker("");
    rig.wait_topic(&format!("pods/v1/acme/s/{NODE}/node"), "back", |said| {
        said["desired"]["revision"] == 1
    });
    let (_, err) = publish(&rig, &[&quick[..], &["-f", &a]].concat(), 6);
    assert!(err.contains("has index 1, and the broker holds none"), "{err}");
    node.wait_ready("b");
    // Whoever insists keeps what the node has told of.
    publish(&rig, &[&quick[..], &["-f", &a, "--force-conflicts"]].concat(), 0);
    assert_eq!(names(&index(&rig)), ["a", "b"]);
    node.wait_ready("b");
}

#[test]
fn a_module_of_a_registry_is_fetched_by_the_node_from_there_by_its_digest() {
    if program("mosquitto").is_none() {
        return;
    }
    let Some((rig, node)) = prepared() else { return };
    let serving = Serving::start();
    let module = std::fs::read(guest("sleep")).unwrap();
    serving.registry.put_image("acme/sleep", "1", &module);
    let file = manifest(&rig, "web", FOREVER, "");
    let image = serving.name("sleep:1");
    let text = std::fs::read_to_string(&file).unwrap().replace("file:sleep.wasm", &image);
    std::fs::write(&file, text).unwrap();
    let (out, _) = publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    assert!(out.ends_with("gw-test: pod/web: Ready\n"), "{out}");
    assert!(!out.contains("from here"), "nobody at this laptop gave it: {out}");
    node.wait_ready("web");
    // The tag moves; what was signed does not.
    let mut other = module;
    other.extend([0, 5, 4, b't', b'e', b's', b't']);
    serving.registry.put_image("acme/sleep", "1", &other);
    let (out, _) = publish(&rig, &["-f", &file, "--min-ready", "0s"], 0);
    assert!(out.contains("pod/web published to gw-test: generation 2"), "{out}");
    let missing = std::fs::read_to_string(&file).unwrap().replace("sleep:1", "nothing:1");
    std::fs::write(&file, missing).unwrap();
    let (_, err) = publish(&rig, &["-f", &file], 1);
    assert!(err.contains("cannot ask for image"), "{err}");
}

#[test]
fn who_does_not_wait_is_told_so_and_who_waits_in_vain_when_the_time_is_over() {
    let Some(rig) = Rig::start() else { return };
    controller(&rig, "ana", &rig.key);
    let file = manifest(&rig, "web", FOREVER, "");
    let say = |args: &[&str]| {
        let words = [&["publish", "--node", NODE, "--min-ready", "0s", "-f", &file], args].concat();
        let output = run(&rig, "ana", &words);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    // Long enough to reach the broker on a busy machine.
    let (code, out, err) = say(&["--timeout", "20s"]);
    assert_eq!(code, Some(124), "{out}{err}");
    assert!(
        err.contains("timed out waiting: the node is offline; the broker keeps the document"),
        "{err}"
    );
    let (code, out, err) = say(&["--wait=false"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("pod/web unchanged to gw-test: generation 1"), "{out}");
    assert!(err.contains("without waiting, nobody gives file:sleep.wasm to the node"), "{err}");
    let (code, out, _) = say(&["--dry-run", "-o", "json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["unchanged"]), (Some(0), &true.into()), "{out}");
    let manifest = shown["intent"]["manifest"].as_str().unwrap();
    assert!(manifest.contains("name: web") && manifest.contains("sleep@sha256:"), "{manifest}");
    let (code, out, _) = say(&["--dry-run", "--again"]);
    let envelope: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &envelope["signatures"][0]["keyid"]), (Some(0), &rig.key.id().into()));
    // Nothing of that was published.
    let (_, out, _) = say(&["--wait=false"]);
    assert!(out.contains("unchanged to gw-test: generation 1"), "{out}");
}
