//! The Node object: what `get nodes` and `describe node` show of this machine.
//!
//! Written at start, when memory gets short or is there again, and when the link to the broker comes or goes (and once with the key of what
//! is said there); a node of its own needs no heartbeat, since who can read it knows
//! that it is up. What has not changed keeps its times: a link that breaks does not make the node, or its being ready, any younger.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::admission::Level;
use crate::board::wire_time;
use crate::clock::Timestamp;
use crate::pod::NodeContext;
use crate::pod::environment::Allocatable;

/// A start that seems to have been at another time by more than this was not: the wall clock has been set.
const CLOCK_WAS_SET: Duration = Duration::from_secs(5);

/// The condition that says whether the node's word over MQTT is signed.
pub(super) const STATUS_SIGNED: &str = "StatusSigned";

/// Its reason where it is not.
pub(super) const NO_STATUS_KEY: &str = "StatusKeyUnusable";

/// The node's object on the board. Who finds something out about the node says it here; the last word of each holds.
#[derive(Debug)]
pub(super) struct NodeObject {
    context: Arc<NodeContext>,
    labels: BTreeMap<String, String>,
    /// When the daemon came up.
    start: Timestamp,
    said: Mutex<Said>,
}

#[derive(Debug)]
struct Said {
    level: Level,
    /// The link to the broker; absent where MQTT is not configured.
    mqtt: Option<NodeCondition>,
    /// Whether its word there is signed; absent with it.
    signed: Option<NodeCondition>,
    /// When the daemon came up by the wall clock, milliseconds.
    born_ms: i64,
    /// The conditions that are shown.
    shown: Vec<NodeCondition>,
}

impl NodeObject {
    /// Shows the node, calm.
    pub(super) fn show(context: &Arc<NodeContext>, labels: &BTreeMap<String, String>) -> Arc<Self> {
        let start = context.clock.now();
        let (born_ms, shown) = (start.wall_ms(), Vec::new());
        let said =
            Mutex::new(Said { level: Level::Calm, mqtt: None, signed: None, born_ms, shown });
        let object = Self { context: Arc::clone(context), labels: labels.clone(), start, said };
        object.say(|_, _| {});
        Arc::new(object)
    }

    pub(super) fn set_level(&self, level: Level) {
        self.say(|said, _| said.level = level);
    }

    /// Whether the node is connected to its broker, and why not.
    pub(super) fn set_mqtt(&self, connected: bool, reason: &str, message: &str) {
        self.say(|said, now| {
            said.mqtt = Some(condition("MqttConnected", connected, reason, message, now));
        });
    }

    /// Whether what the node says over MQTT is signed: with which public key, or why not.
    pub(super) fn set_signed(&self, with: Result<&str, &str>) {
        let reason = with.map_or(NO_STATUS_KEY, |_| "StatusKey");
        let message = match with {
            Ok(key) => format!("what this node says over MQTT is signed with {key}"),
            Err(why) => why.to_owned(),
        };
        self.say(|said, now| {
            said.signed = Some(condition(STATUS_SIGNED, with.is_ok(), reason, &message, now));
        });
    }

    fn say(&self, change: impl FnOnce(&mut Said, Time)) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.context.clock.now();
        change(&mut said, wire_time(now.wall_ms()));
        let mut node = node(&self.context, &self.labels, said.level);
        said.born_ms = born(said.born_ms, self.start, now);
        node.metadata.creation_timestamp = Some(wire_time(said.born_ms));
        if let Some(conditions) = node.status.as_mut().and_then(|s| s.conditions.as_mut()) {
            conditions.splice(0..0, said.mqtt.iter().chain(&said.signed).cloned());
            keep_times(&said.shown, conditions);
            said.shown.clone_from(conditions);
        }
        // Told while the lock is held: two changes reach the board in the order in which they were made.
        self.context.board.upsert(node);
    }
}

/// When the daemon came up, by the wall clock of today: a gateway without a clock of its own starts in 1970 and is told the time later.
fn born(shown_ms: i64, start: Timestamp, now: Timestamp) -> i64 {
    let up = i64::try_from(now.since(start).as_millis()).unwrap_or(i64::MAX);
    let really = now.wall_ms().saturating_sub(up);
    let clock_was_set = u128::from(really.abs_diff(shown_ms)) > CLOCK_WAS_SET.as_millis();
    if clock_was_set { really } else { shown_ms }
}

/// A condition that says what it said before has not changed since.
fn keep_times(before: &[NodeCondition], conditions: &mut [NodeCondition]) {
    for new in conditions {
        let same = |old: &&NodeCondition| (&old.type_, &old.status) == (&new.type_, &new.status);
        if let Some(old) = before.iter().find(same) {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
}

/// This node: Ready, and as short of memory as `level` says.
fn node(context: &NodeContext, labels: &BTreeMap<String, String>, level: Level) -> Node {
    let facts = &context.node;
    let now = wire_time(context.clock.now().wall_ms());
    let uname = rustix::system::uname();
    let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut all_labels = BTreeMap::from(
        [
            ("kubernetes.io/hostname", facts.name.as_str()),
            ("kubernetes.io/os", "wasi"),
            ("kubernetes.io/arch", arch),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    all_labels.extend(labels.clone());
    let addresses = facts.host_ips.iter().map(|ip| address("InternalIP", &ip.to_string()));
    Node {
        metadata: ObjectMeta {
            name: Some(facts.name.clone()),
            labels: Some(all_labels),
            uid: Some(facts.name.clone()),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(NodeStatus {
            capacity: Some(resources(&facts.total, facts.pods_max)),
            allocatable: Some(resources(&facts.allocatable, facts.pods_max)),
            addresses: Some(addresses.chain([address("Hostname", &facts.name)]).collect()),
            conditions: Some(vec![
                memory_pressure(level, now.clone()),
                condition("Ready", true, "KubeletReady", "podling is up", now),
            ]),
            node_info: Some(NodeSystemInfo {
                architecture: arch.into(),
                container_runtime_version: format!("podling://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: text(uname.release()),
                kubelet_version: format!("v{}", env!("CARGO_PKG_VERSION")),
                operating_system: "wasi".into(),
                os_image: text(uname.sysname()),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }),
    }
}

fn memory_pressure(level: Level, now: Time) -> NodeCondition {
    let (short, reason, message) = match level {
        Level::Calm => (false, "KubeletHasSufficientMemory", "memory is sufficient"),
        Level::Tight => {
            (false, "MemoryIsTight", "memory is tight: nothing new is compiled or fetched")
        }
        Level::Short => (true, "KubeletHasInsufficientMemory", "memory is short: pods are evicted"),
    };
    condition("MemoryPressure", short, reason, message, now)
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str, now: Time) -> NodeCondition {
    NodeCondition {
        type_: kind.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: Some(now),
    }
}

fn address(kind: &str, address: &str) -> NodeAddress {
    NodeAddress { type_: kind.into(), address: address.into() }
}

fn resources(of: &Allocatable, pods: usize) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(format!("{}m", of.cpu_millis))),
        ("memory".to_owned(), Quantity(of.memory_bytes.to_string())),
        ("pods".to_owned(), Quantity(pods.to_string())),
    ])
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_node_is_as_old_as_its_daemon_whatever_is_said_of_it_and_whenever_the_clock_is_set() {
        let at =
            |seconds: u64, wall_s: i64| Timestamp::new(Duration::from_secs(seconds), wall_s * 1000);
        let start = at(3, 100);
        assert_eq!(born(100_000, start, at(3, 100)), 100_000);
        // An hour later; the clock has been slewed by two seconds.
        assert_eq!(born(100_000, start, at(3603, 3702)), 100_000);
        // The time has come from the network.
        let today = 1_790_000_000;
        assert_eq!(born(100_000, start, at(3603, today)), (today - 3600) * 1000);
        assert_eq!(
            born((today - 3600) * 1000, start, at(7203, today + 3600)),
            (today - 3600) * 1000
        );
    }

    #[test]
    fn what_a_condition_goes_on_saying_it_has_said_since_it_first_did() {
        let of = |kind: &str, holds: bool, ms: i64| condition(kind, holds, "r", "m", wire_time(ms));
        let before = [of("MqttConnected", true, 1000), of("Ready", true, 1000)];
        let mut now =
            [of("MqttConnected", false, 9000), of("Ready", true, 9000), of("New", true, 9000)];
        keep_times(&before, &mut now);
        let since = |place: usize| now[place].last_transition_time.clone().unwrap();
        assert_eq!([since(0), since(1), since(2)], [9000, 1000, 9000].map(wire_time));
        assert_eq!(now[1].last_heartbeat_time, Some(wire_time(9000)));
    }
}
