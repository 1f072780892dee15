//! Kubernetes' defaults, filled into the wire object.
//!
//! Owns: what `pkg/apis/core/v1/defaults.go` does to pods and secrets (`KUBELET.md` 20), and the
//! canonical form of quantities. Not: what admission plugins of a cluster add (service account,
//! tolerations). Doing it twice changes nothing. Whatever cannot be read (a quantity that is none)
//! stays as it is for the lowering to refuse.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::api::networking::v1 as networkingv1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::object::{self, Object};
use super::quantity::Quantity;

/// `defaultMode` of volumes made of files: 0644.
const FILE_MODE: i32 = 0o644;

/// How long a client stays with its pod if nothing is said (`DefaultClientIPServiceAffinitySeconds`).
pub(super) const AFFINITY_SECONDS: i32 = 10_800;

/// Fills in what the user left out.
pub fn object(object: &mut Object) {
    match object {
        Object::Pod(object) => pod(object),
        Object::ConfigMap(map) => {
            let namespace = object::namespace(&map.metadata).to_owned();
            map.metadata.namespace = Some(namespace);
        }
        Object::Secret(object) => secret(object),
        Object::Service(object) => service(object),
        Object::NetworkPolicy(object) => network_policy(object),
    }
}

/// As [`object()`], for a Service (`SetDefaults_Service`). The addresses and ports that the node gives are not among them.
pub fn service(service: &mut corev1::Service) {
    let namespace = object::namespace(&service.metadata).to_owned();
    service.metadata.namespace = Some(namespace);
    let Some(spec) = &mut service.spec else { return };
    text(&mut spec.type_, "ClusterIP");
    text(&mut spec.session_affinity, "None");
    text(&mut spec.internal_traffic_policy, "Cluster");
    text(&mut spec.ip_family_policy, "SingleStack");
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        spec.ip_families = Some(vec!["IPv4".to_owned()]);
    }
    if spec.type_.as_deref() == Some("NodePort") {
        text(&mut spec.external_traffic_policy, "Cluster");
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config = spec.session_affinity_config.get_or_insert_default();
        let client = config.client_ip.get_or_insert_default();
        client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
    }
    let address = spec.cluster_ip.clone().filter(|address| !address.is_empty());
    if let (Some(address), true) = (address, spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)) {
        spec.cluster_ips = Some(vec![address]);
    }
    for port in spec.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

/// As [`object()`], for a NetworkPolicy (`SetDefaults_NetworkPolicy`).
pub fn network_policy(policy: &mut networkingv1::NetworkPolicy) {
    let namespace = object::namespace(&policy.metadata).to_owned();
    policy.metadata.namespace = Some(namespace);
    let Some(spec) = &mut policy.spec else { return };
    let sets_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        // Every policy speaks of ingress unless it says otherwise; of egress only if it has rules for it.
        let types = if sets_egress { &["Ingress", "Egress"][..] } else { &["Ingress"] };
        spec.policy_types = Some(types.iter().map(|word| (*word).to_owned()).collect());
    }
    let ingress = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut());
    let egress = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut());
    for port in ingress.chain(egress).flatten() {
        text(&mut port.protocol, "TCP");
    }
}

/// As [`object()`], for a secret: `stringData` becomes `data`, as on a real API server.
pub fn secret(secret: &mut corev1::Secret) {
    let namespace = object::namespace(&secret.metadata).to_owned();
    secret.metadata.namespace = Some(namespace);
    secret.type_.get_or_insert_with(|| "Opaque".to_owned());
    if let Some(plain) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        for (key, text) in plain {
            data.insert(key, k8s_openapi::ByteString(text.into_bytes()));
        }
    }
}

/// As [`object()`], for a pod.
pub fn pod(pod: &mut corev1::Pod) {
    let namespace = object::namespace(&pod.metadata).to_owned();
    pod.metadata.namespace = Some(namespace);
    let Some(spec) = &mut pod.spec else { return };
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.enable_service_links.get_or_insert(true);
    let grace = spec.termination_grace_period_seconds.get_or_insert(30);
    // Kubernetes stores a negative grace period as one second, on create and on update.
    if *grace < 0 {
        *grace = 1;
    }
    for container in &mut spec.containers {
        self::container(container);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        self::container(container);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
    if let Some(overhead) = &mut spec.overhead {
        canonical_list(overhead);
    }
    pod_resources(spec);
}

fn container(container: &mut corev1::Container) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    text(&mut container.image_pull_policy, policy);
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    for variable in container.env.iter_mut().flatten() {
        let Some(from) = &mut variable.value_from else { continue };
        if let Some(field) = &mut from.field_ref {
            text(&mut field.api_version, "v1");
        }
        if let Some(resource) = &mut from.resource_field_ref {
            canonical(resource.divisor.get_or_insert_with(|| WireQuantity("0".to_owned())));
        }
    }
    let probes = [
        &mut container.startup_probe,
        &mut container.liveness_probe,
        &mut container.readiness_probe,
    ];
    for probe in probes.into_iter().flatten() {
        self::probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
            if let Some(get) = &mut hook.http_get {
                http_get(get);
            }
        }
    }
    if let Some(resources) = &mut container.resources {
        requests_from_limits(resources);
    }
}

/// `Always` for an image whose tag is `latest` or missing; anything else names its content.
fn pull_policy(image: &str) -> &'static str {
    if image.starts_with("file:") || image.starts_with("sha256:") || image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn probe(probe: &mut corev1::Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    if let Some(get) = &mut probe.http_get {
        http_get(get);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http_get(get: &mut corev1::HTTPGetAction) {
    text(&mut get.path, "/");
    text(&mut get.scheme, "HTTP");
}

fn volume(volume: &mut corev1::Volume) {
    let bare = corev1::Volume { name: volume.name.clone(), ..corev1::Volume::default() };
    if *volume == bare {
        volume.empty_dir = Some(corev1::EmptyDirVolumeSource::default());
    }
    if let Some(limit) = volume.empty_dir.as_mut().and_then(|dir| dir.size_limit.as_mut()) {
        canonical(limit);
    }
    if let Some(path) = &mut volume.host_path {
        path.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        source.items.iter_mut().flatten().for_each(downward_file);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(downward) = &mut source.downward_api {
                downward.items.iter_mut().flatten().for_each(downward_file);
            }
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(3600);
            }
        }
    }
}

fn downward_file(file: &mut corev1::DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        text(&mut field.api_version, "v1");
    }
    if let Some(resource) = &mut file.resource_field_ref {
        canonical(resource.divisor.get_or_insert_with(|| WireQuantity("0".to_owned())));
    }
}

fn requests_from_limits(resources: &mut corev1::ResourceRequirements) {
    if let Some(requests) = &mut resources.requests {
        canonical_list(requests);
    }
    let Some(limits) = &mut resources.limits else { return };
    canonical_list(limits);
    if limits.is_empty() {
        return;
    }
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// Pod-level requests that are missing come from the sum of the containers', else from the pod's
/// own limits.
fn pod_resources(spec: &mut corev1::PodSpec) {
    let Some(resources) = &mut spec.resources else { return };
    if let Some(requests) = &mut resources.requests {
        canonical_list(requests);
    }
    let Some(limits) = &mut resources.limits else { return };
    canonical_list(limits);
    for name in ["cpu", "memory"] {
        let Some(limit) = limits.get(name) else { continue };
        let asked = spec.containers.iter().filter_map(|container| {
            let text = &container.resources.as_ref()?.requests.as_ref()?.get(name)?.0;
            Quantity::parse(text).ok()
        });
        let sum = asked.reduce(Quantity::plus);
        let request = sum.map_or_else(|| limit.clone(), |sum| WireQuantity(sum.to_string()));
        resources.requests.get_or_insert_default().entry(name.to_owned()).or_insert(request);
    }
}

fn canonical_list(list: &mut BTreeMap<String, WireQuantity>) {
    for quantity in list.values_mut() {
        if let Ok(parsed) = Quantity::parse(&quantity.0) {
            // Resource lists are kept to thousandths.
            quantity.0 = parsed.rounded_to_millis().to_string();
        }
    }
}

fn canonical(quantity: &mut WireQuantity) {
    if let Ok(parsed) = Quantity::parse(&quantity.0) {
        quantity.0 = parsed.to_string();
    }
}

/// Kubernetes' zero value of a text is the empty one: both count as left out.
fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

fn number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or_default() == 0 {
        *field = Some(default);
    }
}
