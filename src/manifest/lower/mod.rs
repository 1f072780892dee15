//! From what a pod looks like to what it is.
//!
//! Owns: validation in Kubernetes' words and paths (`pkg/apis/core/validation`, `KUBELET.md` 20),
//! everything at once; and the only construction of [`spec::Pod`](crate::spec::Pod) outside tests.
//! Not: what is supported at all (the table in `support`), whether a ConfigMap, an image or a host
//! path exists (found out when the pod starts).
//!
//! The functions build as they check. Where a value is wrong an error is recorded and a stand-in
//! used; the stand-ins never get out, for one error is enough to refuse the pod.

mod annotations;
mod check;
mod container;
mod data;
mod env;
mod meta;
mod names;
mod network;
mod policy;
mod probe;
mod resources;
mod service;
mod volume;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path as FilePath;
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::api::networking::v1 as networkingv1;
use sha2::{Digest as _, Sha256};

use super::error::{FieldError, FieldWarning};
use super::object::{self, Object};
use super::path::Path;
use super::{default, qos, rules, support};
use crate::spec::{
    HostAlias, NetworkPolicy, Pod, PodKey, PodUid, Protocol, RestartPolicy, Service, Source,
};
use annotations::Annotations;
use check::Check;
pub(super) use check::Sink;

/// `metadata` and `spec`, where every path begins.
const METADATA: Path<'static> = Path::root("metadata");
const SPEC: Path<'static> = Path::root("spec");

/// A pod ready to run, and what its author should know.
#[derive(Debug)]
pub struct Lowered {
    pub pod: Pod,
    pub warnings: Vec<FieldWarning>,
}

/// Validates a pod and turns it into ours. Defaults need not have been filled in.
///
/// # Errors
/// All that is wrong with it.
pub fn lower(pod: &corev1::Pod, source: &Source, uid: PodUid) -> Result<Lowered, Vec<FieldError>> {
    let mut check = Check::new(source);
    support::check(pod, support::POD, &mut check);
    let mut pod = pod.clone();
    default::pod(&mut pod);
    let lowered = lower_pod(&pod, uid, &mut check);
    if check.errors.is_empty() {
        Ok(Lowered { pod: lowered, warnings: check.warnings })
    } else {
        Err(check.errors)
    }
}

/// Validates a Service and turns it into ours. Defaults need not have been filled in.
///
/// # Errors
/// All that is wrong with it.
pub fn lower_service(
    service: &corev1::Service,
    source: &Source,
) -> Result<(Service, Vec<FieldWarning>), Vec<FieldError>> {
    let mut check = Check::new(source);
    support::check(service, support::SERVICE, &mut check);
    let mut service = service.clone();
    default::service(&mut service);
    let lowered = service::lower(&service, &mut check);
    if check.errors.is_empty() { Ok((lowered, check.warnings)) } else { Err(check.errors) }
}

/// Validates a NetworkPolicy and turns it into ours. Defaults need not have been filled in.
///
/// # Errors
/// All that is wrong with it.
pub fn lower_policy(
    policy: &networkingv1::NetworkPolicy,
    source: &Source,
) -> Result<(NetworkPolicy, Vec<FieldWarning>), Vec<FieldError>> {
    let mut check = Check::new(source);
    support::check(policy, support::NETWORK_POLICY, &mut check);
    let mut policy = policy.clone();
    default::network_policy(&mut policy);
    let lowered = policy::lower(&policy, &mut check);
    if check.errors.is_empty() { Ok((lowered, check.warnings)) } else { Err(check.errors) }
}

/// Validates an object of any kind without keeping the result.
///
/// # Errors
/// All that is wrong with it.
pub fn validate(object: &Object, source: &Source) -> Result<Vec<FieldWarning>, Vec<FieldError>> {
    let mut check = Check::new(source);
    match object {
        Object::Pod(pod) => return Ok(lower(pod, source, PodUid::new("unknown"))?.warnings),
        Object::ConfigMap(map) => data::config_map(map, &mut check),
        Object::Secret(secret) => data::secret(secret, &mut check),
        Object::Service(service) => return Ok(lower_service(service, source)?.1),
        Object::NetworkPolicy(policy) => return Ok(lower_policy(policy, source)?.1),
    }
    if check.errors.is_empty() { Ok(check.warnings) } else { Err(check.errors) }
}

/// The identity of a pod that a file describes: where the file is and what it says about this pod,
/// so that an edit is a new pod. Comments, formatting and a `uid`, `status` or resource version
/// left over from another cluster do not count.
#[must_use]
pub fn file_uid(source: &Source, pod: &corev1::Pod) -> PodUid {
    let mut pod = pod.clone();
    default::pod(&mut pod);
    pod.status = None;
    pod.metadata.uid = None;
    pod.metadata.resource_version = None;
    pod.metadata.creation_timestamp = None;
    pod.metadata.generation = None;
    pod.metadata.managed_fields = None;
    let mut hash = Sha256::new();
    hash.update(source.to_string().as_bytes());
    hash.update([0]);
    // Maps are sorted, so equal pods serialise equally.
    hash.update(serde_json::to_vec(&pod).expect("a wire object without floats serialises"));
    let digest = hash.finalize();
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    PodUid::new(&format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}

fn lower_pod(pod: &corev1::Pod, uid: PodUid, check: &mut Check<'_>) -> Pod {
    meta::check_metadata(&pod.metadata, rules::dns_subdomain, check);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let key = PodKey::new(object::namespace(&pod.metadata), name);
    let absent = corev1::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&absent);
    let annotations = Annotations::read(pod, check);

    let volumes = volume::lower_volumes(spec, check);
    let mut lists = container::Lists::new(&annotations, &volumes, spec);
    let init_path = SPEC.field("initContainers");
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let init_containers = lists.lower_init(init, &init_path, check);
    let containers = lists.lower_regular(&spec.containers, &SPEC.field("containers"), check);
    host_ports(spec, check);
    inert_words(spec, check);

    Pod {
        key,
        uid,
        source: check.source.clone(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        generation: pod.metadata.generation.unwrap_or(1),
        init_containers,
        containers,
        restart_policy: restart_policy(spec, check),
        grace: grace(spec),
        active_deadline: active_deadline(spec, check),
        volumes,
        hostname: hostname(spec, name, check),
        subdomain: subdomain(spec, check),
        host_aliases: host_aliases(spec, check),
        network: network::lower(spec, &annotations, check),
        resources: resources::pod(spec, check),
        qos: qos::class(spec),
        readiness_gates: readiness_gates(spec, check),
        priority: priority(spec),
        service_account: service_account(spec, check),
        image_pull_secrets: image_pull_secrets(spec),
    }
}

fn restart_policy(spec: &corev1::PodSpec, check: &mut Check<'_>) -> RestartPolicy {
    let known = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    let path = SPEC.field("restartPolicy");
    check.choice(&path, spec.restart_policy.as_deref(), &known).unwrap_or(RestartPolicy::Always)
}

fn grace(spec: &corev1::PodSpec) -> Duration {
    // Defaulting has already turned a negative one into 1.
    let seconds = spec.termination_grace_period_seconds.unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
}

fn active_deadline(spec: &corev1::PodSpec, check: &mut Check<'_>) -> Option<Duration> {
    let seconds = spec.active_deadline_seconds?;
    let max = i64::from(i32::MAX);
    if !(1..=max).contains(&seconds) {
        let path = SPEC.field("activeDeadlineSeconds");
        check.invalid_number(&path, seconds, rules::range(1, max));
    }
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// `KUBELET.md` 16: the override, else the host name, else the pod's name, cut to what a host name
/// may be.
fn hostname(spec: &corev1::PodSpec, pod_name: &str, check: &mut Check<'_>) -> String {
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        let path = SPEC.field("hostnameOverride");
        check.faults(&path, name, rules::dns_subdomain(name));
        if name.len() > 64 {
            check.too_long(&path, 64);
        }
        return name.to_owned();
    }
    let named = spec.hostname.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = named {
        check.faults(&SPEC.field("hostname"), name, rules::dns_label(name));
    }
    let full = named.unwrap_or(pod_name);
    let cut = full.get(..63).unwrap_or(full);
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn subdomain(spec: &corev1::PodSpec, check: &mut Check<'_>) -> Option<String> {
    let name = spec.subdomain.as_deref().filter(|name| !name.is_empty())?;
    check.faults(&SPEC.field("subdomain"), name, rules::dns_label(name));
    Some(name.to_owned())
}

fn host_aliases(spec: &corev1::PodSpec, check: &mut Check<'_>) -> Vec<HostAlias> {
    let list = SPEC.field("hostAliases");
    let mut aliases = Vec::new();
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = list.index(index);
        let hostnames = alias.hostnames.clone().unwrap_or_default();
        for (index, name) in hostnames.iter().enumerate() {
            let path = path.field("hostnames");
            check.faults(&path.index(index), name, rules::dns_subdomain(name));
        }
        match alias.ip.parse::<IpAddr>() {
            Ok(ip) => aliases.push(HostAlias { ip, hostnames }),
            Err(_) => check.invalid(&path.field("ip"), &alias.ip, BAD_IP),
        }
    }
    aliases
}

/// What Kubernetes says of a text that is no IP address.
const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn readiness_gates(spec: &corev1::PodSpec, check: &mut Check<'_>) -> Vec<String> {
    let list = SPEC.field("readinessGates");
    let gates = spec.readiness_gates.iter().flatten().enumerate();
    gates
        .map(|(index, gate)| {
            let path = list.index(index);
            let kind = &gate.condition_type;
            check.faults(&path.field("conditionType"), kind, rules::qualified_name(kind));
            kind.clone()
        })
        .collect()
}

fn service_account(spec: &corev1::PodSpec, check: &mut Check<'_>) -> Option<String> {
    let name = spec.service_account_name.as_deref().filter(|name| !name.is_empty())?;
    check.faults(&SPEC.field("serviceAccountName"), name, rules::dns_subdomain(name));
    Some(name.to_owned())
}

/// Kubernetes accepts a reference without a name, and so it does not count.
fn image_pull_secrets(spec: &corev1::PodSpec) -> Vec<String> {
    let secrets = spec.image_pull_secrets.iter().flatten();
    secrets.map(|secret| secret.name.clone()).filter(|name| !name.is_empty()).collect()
}

/// Words that have no effect here must be Kubernetes' all the same.
fn inert_words(spec: &corev1::PodSpec, check: &mut Check<'_>) {
    let preemption = ["PreemptLowerPriority", "Never"].map(|word| (word, ()));
    let path = SPEC.field("preemptionPolicy");
    check.choice(&path, spec.preemption_policy.as_deref(), &preemption);
}

/// The number, or the one that Kubernetes gives its own two classes.
fn priority(spec: &corev1::PodSpec) -> i32 {
    match spec.priority_class_name.as_deref() {
        Some("system-node-critical") => 2_000_001_000,
        Some("system-cluster-critical") => 2_000_000_000,
        Some(_) | None => spec.priority.unwrap_or(0),
    }
}

/// One host port can be published once.
fn host_ports(spec: &corev1::PodSpec, check: &mut Check<'_>) {
    let lists = [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", spec.containers.as_slice()),
    ];
    let mut taken = BTreeSet::new();
    for (list, containers) in lists {
        let list = SPEC.field(list);
        for (index, container) in containers.iter().enumerate() {
            let path = list.index(index);
            let ports = path.field("ports");
            for (index, port) in container.ports.iter().flatten().enumerate() {
                let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
                let protocol = port.protocol.as_deref().unwrap_or("TCP");
                let ip = port.host_ip.as_deref().unwrap_or_default();
                let key = format!("{protocol}/{ip}/{number}");
                if !taken.insert(key.clone()) {
                    check.duplicate(&ports.index(index).field("hostPort"), &key);
                }
            }
        }
    }
}

/// The folder that a relative `image: file:` starts from; `None` where files may not be named.
fn image_base(source: &Source) -> Option<&FilePath> {
    match source {
        Source::Folder(file) | Source::Play(file) => {
            Some(file.parent().unwrap_or(FilePath::new("")))
        }
        Source::Api | Source::Mqtt => None,
    }
}

/// `TCP`, `UDP`; SCTP is Kubernetes' third, which nothing here speaks.
fn protocol(path: &Path<'_>, word: Option<&str>, check: &mut Check<'_>) -> Protocol {
    let known = [("TCP", Some(Protocol::Tcp)), ("UDP", Some(Protocol::Udp)), ("SCTP", None)];
    match check.choice(path, word, &known) {
        Some(Some(protocol)) => protocol,
        Some(None) => {
            check.forbidden(path, "SCTP is not offered: modules have TCP and UDP");
            Protocol::Tcp
        }
        None => Protocol::Tcp,
    }
}

#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;
