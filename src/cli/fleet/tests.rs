//! The tables, out of what a node of the protocol's own simulator says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::controller::next::Retained;
use crate::mqtt::cause::{Cause, Refusal};
use crate::mqtt::controller::{self, Fleet, SecretKey, Subject};
use crate::mqtt::kit::{self, Lab};
use crate::mqtt::signature::Standing;
use crate::mqtt::status::PodStatus;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    get: FleetGetArgs,
}

fn asked(words: &[&str]) -> FleetGetArgs {
    Line::parse_from([&["get"], words].concat()).get
}

/// One node with a pod that runs, one whose newest document was refused, one that is on its way; documents for a pod that the node has
/// not answered; and a second node, which is away.
struct World {
    fleet: Fleet,
    documents: Vec<Retained>,
    now_ms: i64,
}

impl World {
    fn new() -> Self {
        let mut lab = Lab::online();
        lab.send(&kit::intent("web", 1));
        lab.make_good("web");
        lab.send(&kit::intent("api", 4));
        lab.make_good("api");
        let cause = Cause::invalid("spec.containers[0].image", "Invalid value: \"x y\"");
        lab.refusals.insert(kit::pod_key("api"), Refusal::of(kit_invalid(), vec![cause]));
        lab.send(&kit::intent("api", 5));
        lab.send(&kit::with_artifact("content", kit::intent("late", 2)));
        lab.settle();
        let mut fleet = Fleet::default();
        for publish in &lab.sent {
            if let Some((node, said)) =
                controller::read(&kit::tree(), &publish.topic, &publish.payload)
            {
                fleet.take(&node, said);
            }
        }
        let subjects = ["web", "api", "late"].map(|pod| Subject::Pod(kit::pod_key(pod)));
        for subject in [Subject::Online, Subject::Node].into_iter().chain(subjects) {
            fleet.weigh(kit::NODE, subject, Standing::Verified);
        }
        let mut away = fleet.nodes[kit::NODE].clone();
        away.online.as_mut().unwrap().online = false;
        away.pods.retain(|key, _| &*key.name == "web");
        away.standings.retain(|subject, _| *subject == Subject::Node);
        away.standings.insert(Subject::Pod(kit::pod_key("web")), Standing::Unsigned);
        fleet.nodes.insert("gw-18".to_owned(), away);
        let document = |intent| {
            let message =
                controller::intent(&kit::tree(), &intent, &[&SecretKey::from_seed(&[1; 32])]);
            Retained::read(&message.unwrap().payload.into(), None).unwrap()
        };
        let wanted = [("web", 1), ("api", 5), ("late", 2), ("unheard", 1)];
        let documents = wanted.map(|(name, n)| document(kit::intent(name, n))).to_vec();
        Self { fleet, documents, now_ms: kit::EPOCH_MS + 5 * 60_000 }
    }

    fn view(&self) -> View<'_> {
        let nodes = self.fleet.nodes.iter().map(|(node, view)| (node.as_str(), view)).collect();
        View::new(nodes, self.documents.iter().cloned())
    }

    fn shown(&self, words: &[&str]) -> String {
        let args = asked(words);
        let listing = match self.view().list(&args, self.now_ms) {
            Ok(listing) => listing,
            Err(error) => return format!("error: {error}\n"),
        };
        match args.output {
            Some(FleetFormat::Json) => view::objects(&listing, false).unwrap(),
            Some(FleetFormat::Yaml) => view::objects(&listing, true).unwrap(),
            _ => table(&listing, &args, &mut Columns::default()),
        }
    }
}

fn kit_invalid() -> crate::mqtt::cause::Reason {
    crate::mqtt::cause::Reason::Invalid
}

#[test]
fn nodes_are_a_table() {
    let world = World::new();
    insta::assert_snapshot!("nodes", world.shown(&["nodes"]));
    insta::assert_snapshot!("nodes_wide", world.shown(&["nodes", "-o", "wide"]));
    assert_eq!(world.shown(&["nodes", "gw-19"]), "error: nodes \"gw-19\" not found\n");
    assert!(world.shown(&["nodes", "gw-18", "--no-headers"]).starts_with("gw-18"));
}

#[test]
fn pods_are_a_table() {
    let world = World::new();
    insta::assert_snapshot!("pods", world.shown(&["pods"]));
    insta::assert_snapshot!("pods_wide", world.shown(&["po", "web", "-A", "-o", "wide"]));
    assert_eq!(world.shown(&["pods", "-n", "other"]), "");
}

#[test]
fn objects_are_the_statuses_themselves() {
    let world = World::new();
    let json: Value = serde_json::from_str(&world.shown(&["pods", "api", "-o", "json"])).unwrap();
    let status: PodStatus = serde_json::from_value(json["items"][0].clone()).unwrap();
    assert_eq!(status, *world.fleet.nodes[kit::NODE].pods[&kit::pod_key("api")].clone());
    let yaml = world.shown(&["nodes", "gw-18", "-o", "yaml"]);
    assert!(yaml.contains("    online: false") && yaml.contains("kind: NodeStatus"), "{yaml}");
}

#[test]
fn what_is_not_believed_is_shown_as_that_and_nothing_of_it() {
    let mut world = World::new();
    let json = |world: &World, words: &[&str]| -> Value {
        serde_json::from_str(&world.shown(words)).unwrap()
    };
    let words = ["pods", "web", "-o", "json"];
    let shown = json(&world, &words)["items"].clone();
    assert_eq!(
        (&shown[0]["signature"], &shown[1]["signature"]),
        (&"verified".into(), &"unsigned".into())
    );
    // Something else stands at the broker now: what was believed before is still what the node said last.
    let pod = Subject::Pod(kit::pod_key("web"));
    world.fleet.weigh(kit::NODE, pod.clone(), Standing::Forged);
    let table = world.shown(&["pods", "web", "--no-headers"]);
    let first = table.lines().next().unwrap();
    assert!(
        first.contains("Running") && first.contains("not believed: signature forged"),
        "{table}"
    );
    assert_eq!(json(&world, &words)["items"][0]["signature"], "forged");
    // Nothing else is known of it.
    world.fleet.nodes.get_mut(kit::NODE).unwrap().pods.remove(&kit::pod_key("web"));
    let table = world.shown(&["pods", "web", "--no-headers"]);
    let first = table.lines().next().unwrap();
    assert!(
        first.contains("Unknown") && first.contains("not believed: signature forged"),
        "{table}"
    );
    let shown = json(&world, &words)["items"][0].clone();
    assert_eq!((&shown["name"], &shown["signature"]), (&"web".into(), &"forged".into()), "{shown}");
    assert_eq!(shown["phase"], Value::Null);
    // Of the node the worse of its two words counts.
    world.fleet.weigh(kit::NODE, Subject::Online, Standing::Changed);
    assert_eq!(json(&world, &["nodes", "gw-17", "-o", "json"])["items"][0]["signature"], "changed");
    // It is gone, and so is what was noted of it.
    world.fleet.take(kit::NODE, controller::Said::Forgotten(kit::pod_key("web")));
    world.documents.clear();
    assert!(!world.shown(&["pods", "web"]).contains("gw-17"));
}

#[derive(Clone, Default)]
struct Buffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn taken(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

#[test]
fn a_watch_tells_of_what_has_changed_and_of_nothing_else() {
    let mut world = World::new();
    let args = asked(&["pods", "-w"]);
    let listing = world.view().list(&args, world.now_ms).unwrap();
    let mut watch = watch::Watch::new(&args, None, Columns::default(), listing);
    let buffer = Buffer::default();
    let mut out = Out::new(Box::new(buffer.clone()));
    let mut told = |world: &World| {
        let listing = world.view().list(&args, world.now_ms).unwrap();
        watch.tell(&listing, &mut out).unwrap();
        buffer.taken()
    };
    world.now_ms += 60_000;
    assert_eq!(told(&world), "", "that time passes is no news");
    world.fleet.nodes.get_mut(kit::NODE).unwrap().online.as_mut().unwrap().online = false;
    let lost = told(&world);
    assert!(
        lost.lines().all(|line| line.contains("Unknown") && line.starts_with("gw-17")),
        "{lost}"
    );
    assert_eq!((lost.lines().count(), told(&world)), (3, String::new()));
    world.fleet.nodes.get_mut(kit::NODE).unwrap().pods.remove(&kit::pod_key("late"));
    world.documents.retain(|document| document.intent.name != "late");
    let gone = told(&world);
    assert!(gone.contains("late") && gone.contains("Forgotten"), "{gone}");
    assert_eq!((gone.lines().count(), told(&world)), (1, String::new()));
}

#[test]
fn a_node_that_the_broker_believes_in_and_nobody_has_heard_for_long_is_unknown() {
    let mut world = World::new();
    let node = world.fleet.nodes.get_mut(kit::NODE).unwrap();
    node.status.as_mut().unwrap().stamp.time_synced = true;
    assert!(world.shown(&["nodes", "gw-17"]).contains("Ready"));
    world.now_ms += 36 * 60_000;
    assert!(world.shown(&["nodes", "gw-17"]).contains("Unknown"));
    assert!(!world.shown(&["pods"]).contains("Running  "), "{}", world.shown(&["pods"]));
    // A node that does not know the time cannot be late.
    let node = world.fleet.nodes.get_mut(kit::NODE).unwrap();
    node.status.as_mut().unwrap().stamp.time_synced = false;
    assert!(world.shown(&["nodes", "gw-17"]).contains("Ready"));
}
