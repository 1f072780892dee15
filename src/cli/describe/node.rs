//! The page of a node: what it is, what it has, and what its pods ask of that (`describeNode`).
//!
//! Owns: the order of the page, and adding requests and limits up as the scheduler does (`component-helpers/resource/helpers.go`). Not: whether
//! a pod is let in (`admission`, at the node).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, Event, Node, NodeStatus, NodeSystemInfo, Pod, PodSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::manifest::quantity::Quantity;
use crate::server::age;

use super::page::{Page, text};
use super::{annotations, labels, rfc1123, with_events};

type Amounts = BTreeMap<String, WireQuantity>;

/// Requests or limits.
type Which = fn(&ResourceRequirements) -> Option<&Amounts>;

const REQUESTS: Which = |resources| resources.requests.as_ref();
const LIMITS: Which = |resources| resources.limits.as_ref();

/// The page. `pods`: those of the node, in any phase.
pub(in crate::cli) fn describe(node: &Node, pods: &[Pod], events: &[Event], now_ms: i64) -> String {
    let (meta, absent) = (&node.metadata, NodeStatus::default());
    let status = node.status.as_ref().unwrap_or(&absent);
    let mut page = Page::default();
    page.line(0, &format!("Name:\t{}", text(&meta.name)));
    page.line(0, &format!("Roles:\t{}", roles(node)));
    labels(&mut page, "Labels", meta.labels.as_ref());
    annotations(&mut page, meta);
    let created = meta.creation_timestamp.as_ref().map(rfc1123);
    page.line(0, &format!("CreationTimestamp:\t{}", text(&created)));
    let spec = node.spec.clone().unwrap_or_default();
    let taints = spec.taints.unwrap_or_default();
    let taint = |t: &k8s_openapi::api::core::v1::Taint| {
        let value = text(&t.value);
        let equals = if value.is_empty() { "" } else { "=" };
        format!("{}{equals}{value}:{}", t.key, t.effect)
    };
    let taints: Vec<String> = taints.iter().map(taint).collect();
    let shown = if taints.is_empty() { "<none>".to_owned() } else { taints.join("\n\t") };
    page.line(0, &format!("Taints:\t{shown}"));
    page.line(0, &format!("Unschedulable:\t{}", spec.unschedulable.unwrap_or_default()));
    conditions(&mut page, status);
    page.line(0, "Addresses:");
    for address in status.addresses.iter().flatten() {
        page.line(1, &format!("{}:\t{}", address.type_, address.address));
    }
    amounts(&mut page, "Capacity", status.capacity.as_ref());
    amounts(&mut page, "Allocatable", status.allocatable.as_ref());
    if let Some(info) = &status.node_info {
        system(&mut page, info);
    }
    let live: Vec<&Pod> = pods.iter().filter(|pod| !is_over(pod)).collect();
    let allocatable = status.allocatable.clone().unwrap_or_default();
    list_pods(&mut page, &live, &allocatable, now_ms);
    totals(&mut page, &live, &allocatable);
    with_events(page, events, now_ms)
}

fn roles(node: &Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let role = |(key, _): (&String, &String)| {
        key.strip_prefix("node-role.kubernetes.io/")
            .filter(|role| !role.is_empty())
            .map(str::to_owned)
    };
    let roles: Vec<String> = labels.filter_map(role).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn conditions(page: &mut Page, status: &NodeStatus) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    page.line(
        0,
        "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage",
    );
    page.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    let time = |time: &Option<Time>| time.as_ref().map(rfc1123).unwrap_or_default();
    for c in conditions {
        let (beat, moved) = (time(&c.last_heartbeat_time), time(&c.last_transition_time));
        let (reason, message) = (text(&c.reason), text(&c.message));
        page.line(
            1,
            &format!("{} \t{} \t{beat} \t{moved} \t{reason} \t{message}", c.type_, c.status),
        );
    }
}

fn amounts(page: &mut Page, title: &str, amounts: Option<&Amounts>) {
    let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) else { return };
    page.line(0, &format!("{title}:"));
    for (name, amount) in amounts {
        page.line(1, &format!("{name}:\t{}", parsed(amount)));
    }
}

fn system(page: &mut Page, info: &NodeSystemInfo) {
    page.line(0, "System Info:");
    for (title, value) in [
        ("Machine ID", &info.machine_id),
        ("System UUID", &info.system_uuid),
        ("Boot ID", &info.boot_id),
        ("Kernel Version", &info.kernel_version),
        ("OS Image", &info.os_image),
        ("Operating System", &info.operating_system),
        ("Architecture", &info.architecture),
        ("Container Runtime Version", &info.container_runtime_version),
        ("Kubelet Version", &info.kubelet_version),
    ] {
        page.line(1, &format!("{title}:\t{value}"));
    }
}

fn list_pods(page: &mut Page, pods: &[&Pod], allocatable: &Amounts, now_ms: i64) {
    page.line(0, &format!("Non-terminated Pods:\t({} in total)", pods.len()));
    let titles = "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge";
    page.line(1, titles);
    page.line(
        1,
        "---------\t----\t\t------------\t----------\t---------------\t-------------\t---",
    );
    for pod in pods {
        let share = |resource, which| {
            let amount = needed(pod, resource, which);
            format!("{amount} ({}%)", percent(amount, allocatable.get(resource)))
        };
        let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
        let (cpu, cpu_most) = (share("cpu", REQUESTS), share("cpu", LIMITS));
        let (memory, memory_most) = (share("memory", REQUESTS), share("memory", LIMITS));
        let age = age::since(pod.metadata.creation_timestamp.as_ref(), now_ms);
        page.line(
            1,
            &format!("{namespace}\t{name}\t\t{cpu}\t{cpu_most}\t{memory}\t{memory_most}\t{age}"),
        );
    }
}

fn totals(page: &mut Page, pods: &[&Pod], allocatable: &Amounts) {
    page.line(
        0,
        "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)",
    );
    page.line(1, "Resource\tRequests\tLimits");
    page.line(1, "--------\t--------\t------");
    for resource in ["cpu", "memory"] {
        let share = |which| {
            let amount = sum(pods.iter().map(|pod| needed(pod, resource, which)));
            format!("{amount} ({}%)", percent(amount, allocatable.get(resource)))
        };
        page.line(1, &format!("{resource}\t{}\t{}", share(REQUESTS), share(LIMITS)));
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a pod needs of a resource: at its own level if it says so; else its containers and sidecars together, or the most that an init
/// container needs beside the sidecars before it.
fn needed(pod: &Pod, resource: &str, which: Which) -> Quantity {
    let absent = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&absent);
    let of = |resources: Option<&ResourceRequirements>| {
        resources.and_then(which).and_then(|amounts| amounts.get(resource)).map(parsed)
    };
    if let Some(own) = of(spec.resources.as_ref()) {
        return own;
    }
    let each = |container: &Container| of(container.resources.as_ref()).unwrap_or(Quantity::ZERO);
    let (mut sidecars, mut most) = (Quantity::ZERO, Quantity::ZERO);
    for container in spec.init_containers.iter().flatten() {
        let together = sum([sidecars, each(container)]);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = together;
        }
        most = larger(most, together);
    }
    larger(most, sum(std::iter::once(sidecars).chain(spec.containers.iter().map(each))))
}

/// What is none takes no part: the sum is written in the form of what is some.
fn sum(amounts: impl IntoIterator<Item = Quantity>) -> Quantity {
    let some = amounts.into_iter().filter(|amount| !amount.is_zero());
    some.reduce(Quantity::plus).unwrap_or(Quantity::ZERO)
}

fn larger(a: Quantity, b: Quantity) -> Quantity {
    if a > b { a } else { b }
}

/// A quantity that a server sends is one; of another one nothing is counted.
fn parsed(amount: &WireQuantity) -> Quantity {
    Quantity::parse(&amount.0).unwrap_or(Quantity::ZERO)
}

/// Whole percents, cut as in Kubernetes; of nothing, nothing.
fn percent(amount: Quantity, of: Option<&WireQuantity>) -> i128 {
    match of.map(|of| parsed(of).millis_ceil()) {
        Some(all) if all > 0 => amount.millis_ceil().saturating_mul(100) / all,
        Some(_) | None => 0,
    }
}
