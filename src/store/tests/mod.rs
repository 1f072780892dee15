//! The store on a disk that fails in every way there is: a story of operations, told again and again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cost;
mod damage;
mod folder;
mod power;

use std::io::ErrorKind;

use super::unlucky::{Fault, Survival, Unlucky};
use super::*;

const ROOT: &str = "/state";

/// What is on disk, as a caller sees it.
type View = BTreeMap<String, String>;

/// One change of the store.
#[derive(Clone, Copy, Debug)]
enum Op {
    Commit(ObjectKind, &'static str, &'static str),
    Delete(ObjectKind, &'static str),
    Runtime(&'static str, &'static str),
    Forget(&'static str),
    Mqtt(&'static str, &'static str),
    DropMqtt(&'static str),
}

use ObjectKind::{ConfigMap, NetworkPolicy, Pod, Secret, Service};

/// Every operation in every situation: first, second and third commit, removal of a record with one copy and with two,
/// a commit after a removal, neighbours in the same and in other folders, content longer than a block.
const STORY: &[Op] = &[
    Op::Commit(Pod, "web", "{\"v\":1}"),
    Op::Commit(Secret, "key", "{\"s\":1}"),
    Op::Commit(Pod, "web", "{\"v\":2}"),
    Op::Runtime("uid-1", "{\"restarts\":1}"),
    Op::Commit(Pod, "web", "{\"v\":3}"),
    Op::Commit(Pod, "other", "{\"v\":1}"),
    Op::Delete(Pod, "web"),
    Op::Commit(ConfigMap, "cm", "{\"c\":1}"),
    Op::Delete(Pod, "other"),
    Op::Commit(Pod, "web", "{\"v\":4}"),
    Op::Runtime("uid-1", "{\"restarts\":2}"),
    Op::Forget("uid-1"),
    Op::Mqtt("pod.default.web", "{\"want\":1}"),
    Op::Mqtt("node", "{\"conn\":1}"),
    Op::Commit(Service, "web", "{\"p\":1}"),
    Op::Commit(NetworkPolicy, "deny", "{\"n\":1}"),
    Op::Mqtt("pod.default.web", "{\"want\":2}"),
    Op::DropMqtt("pod.default.web"),
    Op::Commit(Pod, "web", "{\"v\":5}"),
];

impl Op {
    fn key(self) -> String {
        match self {
            Self::Commit(kind, name, _) | Self::Delete(kind, name) => {
                format!("{} {name}", kind.as_str())
            }
            Self::Runtime(uid, _) | Self::Forget(uid) => format!("Runtime {uid}"),
            Self::Mqtt(name, _) | Self::DropMqtt(name) => format!("Mqtt {name}"),
        }
    }

    /// Content long enough to be torn in its last block.
    fn content(text: &str) -> String {
        format!("{text}{}", " ".repeat(700))
    }

    fn apply(self, store: &Store) -> Result<(), String> {
        let default = "default";
        match self {
            Self::Commit(kind, name, text) => store
                .commit_object(kind, default, name, &Source::Api, Self::content(text).as_bytes())
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Delete(kind, name) => store
                .delete_object(kind, default, name)
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Runtime(uid, text) => store
                .commit_runtime(&PodUid::new(uid), Self::content(text).as_bytes())
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Forget(uid) => {
                store.delete_runtime(&PodUid::new(uid)).map(drop).map_err(|error| error.to_string())
            }
            Self::Mqtt(name, text) => store
                .commit_mqtt(name, Self::content(text).as_bytes())
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::DropMqtt(name) => {
                store.delete_mqtt(name).map(drop).map_err(|error| error.to_string())
            }
        }
    }

    fn expect(self, view: &mut View) {
        match self {
            Self::Commit(_, _, text) | Self::Runtime(_, text) | Self::Mqtt(_, text) => {
                view.insert(self.key(), Self::content(text));
            }
            Self::Delete(..) | Self::Forget(_) | Self::DropMqtt(_) => {
                view.remove(&self.key());
            }
        }
    }
}

fn view(loaded: &Loaded) -> View {
    let text = |json: &[u8]| String::from_utf8(json.to_vec()).unwrap();
    let objects = loaded
        .objects
        .iter()
        .map(|object| (format!("{} {}", object.kind.as_str(), object.name), text(&object.json)));
    let runtime =
        loaded.runtime.iter().map(|record| (format!("Runtime {}", record.uid), text(&record.json)));
    let mqtt =
        loaded.mqtt.iter().map(|record| (format!("Mqtt {}", record.name), text(&record.content)));
    objects.chain(runtime).chain(mqtt).collect()
}

fn open(disk: &Unlucky) -> Result<(Store, View), String> {
    let (store, loaded, damage) =
        Store::open_on(Arc::new(disk.clone()), Path::new(ROOT)).map_err(|e| e.to_string())?;
    if damage.is_empty() {
        Ok((store, view(&loaded)))
    } else {
        Err(format!("damage after a mere power cut: {damage:?}"))
    }
}

const SURVIVALS: [Survival; 10] = {
    use Survival::{Everything, Nothing, Random};
    [
        Nothing,
        Everything,
        Random(1),
        Random(2),
        Random(3),
        Random(4),
        Random(5),
        Random(6),
        Random(7),
        Random(8),
    ]
};

/// Tells the story until something fails; what was acknowledged, and what was in flight.
fn tell(disk: &Unlucky) -> (View, Option<Op>) {
    let mut acknowledged = View::new();
    let Ok((store, _)) = open(disk) else { return (acknowledged, None) };
    for op in STORY {
        if op.apply(&store).is_err() {
            return (acknowledged, Some(*op));
        }
        op.expect(&mut acknowledged);
    }
    (acknowledged, None)
}

/// After a reboot: what was acknowledged is there, what was in flight is there whole or not at all; and the store goes
/// on working: a new commit survives the next power cut.
fn check_reboot(disk: &Unlucky, acknowledged: &View, in_flight: Option<Op>) -> Result<(), String> {
    for survival in SURVIVALS {
        let disk = disk.reboot(survival);
        let (store, found) = open(&disk).map_err(|error| format!("{survival:?}: {error}"))?;
        let mut with = acknowledged.clone();
        if let Some(op) = in_flight {
            op.expect(&mut with);
        }
        if found != *acknowledged && found != with {
            return Err(format!(
                "{survival:?}, {in_flight:?} in flight: found {found:?}, acknowledged {acknowledged:?}"
            ));
        }
        let afterwards = Op::Commit(Pod, "web", "{\"v\":\"afterwards\"}");
        afterwards.apply(&store)?;
        let mut expected = found;
        afterwards.expect(&mut expected);
        let (_, found) = open(&disk.reboot(Survival::Nothing))?;
        if found != expected {
            return Err(format!("{survival:?}, and again: found {found:?}, expected {expected:?}"));
        }
    }
    Ok(())
}
