//! The Node object: what `get nodes` and `describe node` show of this machine.
//!
//! Written at start and when memory gets short or is there again; a node of its own needs no heartbeat, since who can read it knows
//! that it is up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::admission::Level;
use crate::board::wire_time;
use crate::pod::NodeContext;
use crate::pod::environment::Allocatable;

/// This node: Ready, and as short of memory as `level` says.
pub(super) fn node(context: &NodeContext, labels: &BTreeMap<String, String>, level: Level) -> Node {
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
