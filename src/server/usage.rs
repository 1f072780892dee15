//! `metrics.k8s.io`: what pods and the node use now, as `kubectl top` asks for it.
//!
//! Owns: the documents (`metrics.k8s.io/v1beta1`: PodMetrics, NodeMetrics) and their paths below the group. Is not: the measuring, which
//! the backend does when it is asked; a rate is that since the last question, and at least a second's.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::status::ApiError;
use super::{App, wire};
use crate::board::{Kind, wire_time};

/// The group.
pub(super) const GROUP: &str = "metrics.k8s.io";

/// The only version that exists.
pub(super) const VERSION: &str = "metrics.k8s.io/v1beta1";

/// Seconds that a container waited because of a CPU limit.
pub const THROTTLED: &str = "podling.dev/cpu-throttled";

/// The most bytes that a container held at once.
pub const MEMORY_PEAK: &str = "podling.dev/memory-peak";

/// Before a kind of memory (`linear`, `tables`, `host`): what a container holds of it.
pub const MEMORY_OF: &str = "podling.dev/memory-";

/// Instructions that a container executed.
pub const FUEL: &str = "podling.dev/fuel";

/// What one pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUse {
    pub namespace: String,
    pub name: String,
    pub containers: Vec<ContainerUse>,
}

/// What one container uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUse {
    pub name: String,
    /// Billionths of a core.
    pub cpu_nanocores: u64,
    /// Bytes held.
    pub memory_bytes: u64,
    /// What the rate was measured over.
    pub window: Duration,
    /// Time that it waited because of a CPU limit, over all its runs.
    pub throttled: Duration,
    /// The most bytes that a run of it held at once.
    pub memory_peak_bytes: u64,
    /// Instructions that it executed over all its runs, where they are counted.
    pub fuel: Option<u64>,
    /// What its memory is for, by name.
    pub memory_kinds: [(&'static str, u64); 3],
}

/// What the node uses: its pods, or the whole machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUse {
    pub name: String,
    /// Billionths of a core.
    pub cpu_nanocores: u64,
    /// Bytes.
    pub memory_bytes: u64,
    pub window: Duration,
}

/// What a path below the group names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UsageTarget {
    /// `/apis/metrics.k8s.io/v1beta1`
    Resources,
    Pods {
        namespace: Option<String>,
        name: Option<String>,
    },
    Nodes {
        name: Option<String>,
    },
}

impl UsageTarget {
    /// Reads what follows `/apis/metrics.k8s.io/v1beta1`.
    pub(super) fn parse(words: &[&str]) -> Option<Self> {
        let own = |word: &str| Some(word.to_owned());
        Some(match words {
            [] => Self::Resources,
            ["pods"] => Self::Pods { namespace: None, name: None },
            ["namespaces", namespace, "pods"] => {
                Self::Pods { namespace: own(namespace), name: None }
            }
            ["namespaces", namespace, "pods", name] => {
                Self::Pods { namespace: own(namespace), name: own(name) }
            }
            ["nodes"] => Self::Nodes { name: None },
            ["nodes", name] => Self::Nodes { name: own(name) },
            _ => return None,
        })
    }

    /// What is said if it is not there.
    pub(super) fn not_found(&self) -> ApiError {
        match self {
            Self::Pods { name: Some(name), .. } => ApiError::not_found(Kind::Pod, name),
            Self::Nodes { name: Some(name) } => ApiError::not_found(Kind::Node, name),
            Self::Resources | Self::Pods { .. } | Self::Nodes { .. } => ApiError::no_such_path(),
        }
    }
}

/// Answers; `None` if the one that is named is not there.
pub(super) fn response(
    app: &App,
    target: &UsageTarget,
    selects: &dyn Fn(&str, &str) -> bool,
) -> Option<Response<Body>> {
    let now = wire_time(app.clock.now().wall_ms());
    let body = match target {
        UsageTarget::Resources => resources(),
        UsageTarget::Pods { namespace, name } => {
            let meant = |pod: &PodUse| {
                namespace.as_ref().is_none_or(|n| n == &pod.namespace)
                    && name.as_ref().is_none_or(|n| n == &pod.name)
                    && selects(&pod.namespace, &pod.name)
            };
            let pods = app.backend.pods_use().into_iter().filter(meant);
            let mut items: Vec<Value> = pods.map(|pod| pod_metrics(&pod, &json!(now))).collect();
            if name.is_some() { items.pop()? } else { list("PodMetricsList", items) }
        }
        UsageTarget::Nodes { name } => {
            let nodes = app.backend.node_use().into_iter();
            let meant = nodes.filter(|node| name.as_ref().is_none_or(|n| n == &node.name));
            let mut items: Vec<Value> =
                meant.map(|node| node_metrics(&node, &json!(now))).collect();
            if name.is_some() { items.pop()? } else { list("NodeMetricsList", items) }
        }
    };
    Some(wire::json(StatusCode::OK, &body))
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": VERSION, "metadata": {}, "items": items})
}

fn pod_metrics(pod: &PodUse, now: &Value) -> Value {
    let window = pod.containers.iter().map(|c| c.window).max().unwrap_or_default();
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|c| json!({"name": c.name, "usage": container_usage(c)}))
        .collect();
    json!({
        "kind": "PodMetrics",
        "apiVersion": VERSION,
        "metadata": {"name": pod.name, "namespace": pod.namespace, "creationTimestamp": now},
        "timestamp": now,
        "window": Seconds(window).to_string(),
        "containers": containers,
    })
}

fn node_metrics(node: &NodeUse, now: &Value) -> Value {
    json!({
        "kind": "NodeMetrics",
        "apiVersion": VERSION,
        "metadata": {"name": node.name, "creationTimestamp": now},
        "timestamp": now,
        "window": Seconds(node.window).to_string(),
        "usage": usage(node.cpu_nanocores, node.memory_bytes),
    })
}

fn usage(cpu_nanocores: u64, memory_bytes: u64) -> Value {
    json!({"cpu": format!("{cpu_nanocores}n"), "memory": format!("{}Ki", memory_bytes.div_ceil(1024))})
}

/// `usage` is a list of resources, so that what Kubernetes has no resource for stands there under names of ours; `kubectl top` prints the two
/// that it knows.
fn container_usage(container: &ContainerUse) -> Value {
    let mut usage = usage(container.cpu_nanocores, container.memory_bytes);
    usage[THROTTLED] = json!(format!("{}m", container.throttled.as_millis()));
    usage[MEMORY_PEAK] = json!(format!("{}Ki", container.memory_peak_bytes.div_ceil(1024)));
    for (kind, bytes) in container.memory_kinds {
        usage[format!("{MEMORY_OF}{kind}")] = json!(format!("{}Ki", bytes.div_ceil(1024)));
    }
    if let Some(fuel) = container.fuel {
        usage[FUEL] = json!(fuel.to_string());
    }
    usage
}

/// A duration as Go writes it, to the millisecond.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0.as_secs(), self.0.subsec_millis())
    }
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": VERSION,
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

/// The group in the aggregated list.
pub(super) fn aggregated_group() -> Value {
    let resource = |name: &str, kind: &str, scope: &str| {
        json!({
            "resource": name,
            "responseKind": {"group": GROUP, "version": "v1beta1", "kind": kind},
            "scope": scope,
            "singularResource": "",
            "verbs": ["get", "list"],
        })
    };
    json!({
        "metadata": {"name": GROUP},
        "versions": [{
            "version": "v1beta1",
            "freshness": "Current",
            "resources": [
                resource("nodes", "NodeMetrics", "Cluster"),
                resource("pods", "PodMetrics", "Namespaced"),
            ],
        }],
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn paths_name_pods_and_nodes() {
        let own = |word: &str| Some(word.to_owned());
        let rows = [
            (vec![], Some(UsageTarget::Resources)),
            (vec!["nodes"], Some(UsageTarget::Nodes { name: None })),
            (vec!["nodes", "gw"], Some(UsageTarget::Nodes { name: own("gw") })),
            (vec!["pods"], Some(UsageTarget::Pods { namespace: None, name: None })),
            (
                vec!["namespaces", "a", "pods", "b"],
                Some(UsageTarget::Pods { namespace: own("a"), name: own("b") }),
            ),
            (vec!["pods", "b"], None),
            (vec!["namespaces", "a"], None),
        ];
        for (words, expected) in rows {
            assert_eq!(UsageTarget::parse(&words), expected, "{words:?}");
        }
    }

    #[test]
    fn amounts_are_written_as_metrics_server_writes_them() {
        assert_eq!(usage(1_500_000, 1025), json!({"cpu": "1500000n", "memory": "2Ki"}));
        assert_eq!(Seconds(Duration::from_millis(12_345)).to_string(), "12.345s");
        let container = ContainerUse {
            name: "c".into(),
            cpu_nanocores: 2,
            memory_bytes: 1024,
            window: Duration::from_secs(1),
            throttled: Duration::from_millis(1500),
            memory_peak_bytes: 2048,
            fuel: Some(7),
            memory_kinds: [("linear", 512), ("tables", 0), ("host", 4096)],
        };
        let expected = json!({
            "cpu": "2n", "memory": "1Ki", "podling.dev/cpu-throttled": "1500m",
            "podling.dev/memory-peak": "2Ki", "podling.dev/fuel": "7",
            "podling.dev/memory-linear": "1Ki", "podling.dev/memory-tables": "0Ki",
            "podling.dev/memory-host": "4Ki",
        });
        assert_eq!(container_usage(&container), expected);
    }
}
