//! The Node object: what `get nodes` and `describe node` show of this machine.
//!
//! Written once at start; a node of its own needs no heartbeat, since who can read it knows that it is up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::board::wire_time;
use crate::limits::PODS_MAX;
use crate::pod::NodeContext;

/// This node, Ready.
pub(super) fn node(context: &NodeContext, labels: &BTreeMap<String, String>) -> Node {
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
            capacity: Some(resources(context)),
            allocatable: Some(resources(context)),
            addresses: Some(addresses.chain([address("Hostname", &facts.name)]).collect()),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                reason: Some("KubeletReady".into()),
                message: Some("podling is up".into()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: Some(now),
            }]),
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

fn address(kind: &str, address: &str) -> NodeAddress {
    NodeAddress { type_: kind.into(), address: address.into() }
}

fn resources(context: &NodeContext) -> BTreeMap<String, Quantity> {
    let allocatable = &context.node.allocatable;
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(format!("{}m", allocatable.cpu_millis))),
        ("memory".to_owned(), Quantity(allocatable.memory_bytes.to_string())),
        ("pods".to_owned(), Quantity(PODS_MAX.to_string())),
    ])
}
