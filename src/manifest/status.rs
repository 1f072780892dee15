//! A pod's status as it goes out.
//!
//! Owns: the form (`KUBELET.md` 2 and 3): names, order, whole seconds. Not: any decision about the
//! content, which is `lifecycle`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::quantity::Quantity;
use crate::clock::Timestamp;
use crate::lifecycle::{Condition, ContainerState, ContainerStatus, PodStatus, Terminated};
use crate::spec::{Container, Pod};

/// The wire form of a status. `host_ips`: the node's addresses, the primary one first.
#[must_use]
pub fn pod_status(pod: &Pod, status: &PodStatus, host_ips: &[IpAddr]) -> corev1::PodStatus {
    let container = |status: &ContainerStatus| container_status(pod, status);
    let mut regular: Vec<_> = status.containers.iter().map(container).collect();
    // Kubernetes sorts these by name, and leaves init containers in the order of the manifest.
    regular.sort_by(|a, b| a.name.cmp(&b.name));
    let init: Vec<_> = status.init_containers.iter().map(container).collect();
    corev1::PodStatus {
        phase: Some(status.phase.as_str().to_owned()),
        reason: status.reason.as_ref().map(ToString::to_string),
        message: status.message.clone(),
        conditions: Some(status.conditions.iter().map(|c| condition(c, pod.generation)).collect()),
        container_statuses: Some(regular).filter(|list| !list.is_empty()),
        init_container_statuses: Some(init).filter(|list| !list.is_empty()),
        start_time: Some(time(status.start_time)),
        observed_generation: Some(pod.generation),
        qos_class: Some(status.qos.as_str().to_owned()),
        host_ip: host_ips.first().map(ToString::to_string),
        host_ips: (!host_ips.is_empty())
            .then(|| host_ips.iter().map(|ip| corev1::HostIP { ip: ip.to_string() }).collect()),
        pod_ip: status.pod_ip.map(|ip| ip.to_string()),
        pod_ips: status.pod_ip.map(|ip| vec![corev1::PodIP { ip: ip.to_string() }]),
        ..corev1::PodStatus::default()
    }
}

/// RFC 3339 with whole seconds, as everywhere in Kubernetes' statuses. A clock beyond what can be
/// written shows 1970.
#[must_use]
pub fn time(at: Timestamp) -> Time {
    let seconds = at.wall_ms().div_euclid(1000);
    Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap_or_default())
}

fn condition(condition: &Condition, generation: i64) -> corev1::PodCondition {
    corev1::PodCondition {
        type_: condition.kind.as_str().to_owned(),
        status: if condition.status { "True" } else { "False" }.to_owned(),
        reason: condition.reason.map(str::to_owned),
        message: condition.message.clone(),
        last_transition_time: Some(time(condition.last_transition)),
        observed_generation: Some(generation),
        ..corev1::PodCondition::default()
    }
}

fn container_status(pod: &Pod, status: &ContainerStatus) -> corev1::ContainerStatus {
    let spec = pod.container(&status.name);
    let resources = spec.map(resources).filter(|r| r.limits.is_some() || r.requests.is_some());
    corev1::ContainerStatus {
        name: status.name.as_str().to_owned(),
        state: Some(state(&status.state)),
        last_state: Some(corev1::ContainerState {
            terminated: status.last.as_ref().map(terminated),
            ..corev1::ContainerState::default()
        }),
        ready: status.ready,
        started: status.started,
        restart_count: i32::try_from(status.restart_count).unwrap_or(i32::MAX),
        image: status.image.clone(),
        image_id: status.image_id.clone(),
        container_id: status.container_id.clone(),
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources,
        volume_mounts: spec.map(mounts).filter(|mounts| !mounts.is_empty()),
        ..corev1::ContainerStatus::default()
    }
}

fn state(state: &ContainerState) -> corev1::ContainerState {
    let mut wire = corev1::ContainerState::default();
    match state {
        ContainerState::Waiting { reason, message } => {
            wire.waiting = Some(corev1::ContainerStateWaiting {
                reason: Some((*reason).to_owned()),
                message: message.clone(),
            });
        }
        ContainerState::Running { since } => {
            wire.running = Some(corev1::ContainerStateRunning { started_at: Some(time(*since)) });
        }
        ContainerState::Terminated(end) => wire.terminated = Some(terminated(end)),
    }
    wire
}

fn terminated(end: &Terminated) -> corev1::ContainerStateTerminated {
    corev1::ContainerStateTerminated {
        exit_code: end.exit_code,
        reason: Some(end.reason.to_string()),
        message: end.message.clone(),
        started_at: Some(time(end.started_at)),
        finished_at: Some(time(end.finished_at)),
        container_id: end.container_id.clone(),
        ..corev1::ContainerStateTerminated::default()
    }
}

/// What the runtime enforces, spelled as the manifest would.
fn resources(container: &Container) -> corev1::ResourceRequirements {
    let own = &container.resources;
    let units = |amount: Option<u64>| amount.map(Quantity::from_units);
    let limits = list([
        ("cpu", own.cpu_limit_millis.map(Quantity::from_millis)),
        ("memory", own.memory_limit_bytes.map(Quantity::from_bytes)),
        ("ephemeral-storage", own.ephemeral_storage_limit_bytes.map(Quantity::from_bytes)),
        ("podling.dev/fuel", units(own.fuel)),
        ("podling.dev/fuel-per-second", units(own.fuel_per_second)),
    ]);
    let requests = list([
        ("cpu", own.cpu_request_millis.map(Quantity::from_millis)),
        ("memory", own.memory_request_bytes.map(Quantity::from_bytes)),
        ("podling.dev/fuel", units(own.fuel)),
        ("podling.dev/fuel-per-second", units(own.fuel_per_second)),
    ]);
    corev1::ResourceRequirements { limits, requests, ..corev1::ResourceRequirements::default() }
}

fn list<const N: usize>(
    amounts: [(&str, Option<Quantity>); N],
) -> Option<BTreeMap<String, WireQuantity>> {
    let set = amounts
        .into_iter()
        .filter_map(|(name, amount)| Some((name.to_owned(), WireQuantity(amount?.to_string()))));
    Some(set.collect()).filter(|list: &BTreeMap<_, _>| !list.is_empty())
}

fn mounts(container: &Container) -> Vec<corev1::VolumeMountStatus> {
    let mounts = container.mounts.iter().map(|mount| corev1::VolumeMountStatus {
        name: mount.volume.clone(),
        mount_path: mount.path.clone(),
        read_only: Some(mount.read_only).filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.then(|| "Disabled".to_owned()),
        ..corev1::VolumeMountStatus::default()
    });
    mounts.collect()
}

#[cfg(test)]
mod tests;
