//! The Node object: what `get nodes` and `describe node` show of this machine.
//!
//! Written at start, when memory gets short or is there again, and when the link to the broker comes or goes; a node of its own needs no heartbeat, since who can read it knows
//! that it is up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::admission::Level;
use crate::board::wire_time;
use crate::pod::NodeContext;
use crate::pod::environment::Allocatable;

/// The node's object on the board. Who finds something out about the node says it here; the last word of each holds.
#[derive(Debug)]
pub(super) struct NodeObject {
    context: Arc<NodeContext>,
    labels: BTreeMap<String, String>,
    said: Mutex<Said>,
}

#[derive(Debug)]
struct Said {
    level: Level,
    /// The link to the broker; absent where MQTT is not configured.
    mqtt: Option<NodeCondition>,
}

impl NodeObject {
    /// Shows the node, calm.
    pub(super) fn show(context: &Arc<NodeContext>, labels: &BTreeMap<String, String>) -> Arc<Self> {
        let said = Mutex::new(Said { level: Level::Calm, mqtt: None });
        let object = Self { context: Arc::clone(context), labels: labels.clone(), said };
        object.say(|_, _| {});
        Arc::new(object)
    }

    pub(super) fn set_level(&self, level: Level) {
        self.say(|said, _| said.level = level);
    }

    /// Whether the node is connected to its broker, and why not.
    pub(super) fn set_mqtt(&self, connected: bool, reason: &str, message: &str) {
        self.say(|said, now| {
            let mut new = condition("MqttConnected", connected, reason, message, now);
            if let Some(old) = said.mqtt.take().filter(|old| old.status == new.status) {
                new.last_transition_time = old.last_transition_time;
            }
            said.mqtt = Some(new);
        });
    }

    fn say(&self, change: impl FnOnce(&mut Said, Time)) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut said, wire_time(self.context.clock.now().wall_ms()));
        let mut node = node(&self.context, &self.labels, said.level);
        if let Some(conditions) = node.status.as_mut().and_then(|s| s.conditions.as_mut()) {
            conditions.splice(0..0, said.mqtt.clone());
        }
        // Told while the lock is held: two changes reach the board in the order in which they were made.
        self.context.board.upsert(node);
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
            creation_timestamp: Some(now.clone()),
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
