//! Services: validation in Kubernetes' words (`ValidateService`), and what they are to us.
//!
//! Not: which address and which host ports a Service gets, nor whether they are free (`reconciler`).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::path::Path;
use super::super::{object, rules};
use super::check::Check;
use super::{SPEC, meta, protocol};
use crate::spec::{
    NODE_PORTS, NamespacedName, PortRef, Protocol, SERVICE_RANGE, Service, ServiceAddress,
    ServicePort,
};

/// How long a client stays with its pod at most (`MaxClientIPServiceAffinitySeconds`).
const AFFINITY_SECONDS_MAX: i32 = 86_400;

/// Ports of one Service. Kubernetes has no such bound; a node would have to open each of a NodePort Service.
const PORTS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
}

pub(super) fn lower(service: &corev1::Service, check: &mut Check<'_>) -> Service {
    meta::check_metadata(&service.metadata, rules::dns_1035_label, check);
    meta::no_annotations_of_ours(&service.metadata, check);
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let key = NamespacedName::new(object::namespace(&service.metadata), name);
    let absent = corev1::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&absent);
    let kind = kind(spec, check);
    let address = address(spec, kind, check);
    let selector = spec.selector.clone().unwrap_or_default();
    let selector_path = SPEC.field("selector");
    for (key, value) in &selector {
        check.faults(&selector_path, key, rules::qualified_name(key));
        check.faults(&selector_path, value, rules::label_value(value));
    }
    if selector.is_empty() {
        let why = "without a selector no pod is behind the Service, and endpoints cannot be written by hand here";
        check.warn(&selector_path, why);
    }
    families(spec, check);
    traffic_policies(spec, check);
    Service {
        key,
        selector,
        address,
        ports: ports(spec, kind, address, check),
        affinity: affinity(spec, check),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
    }
}

fn kind(spec: &corev1::ServiceSpec, check: &mut Check<'_>) -> Type {
    let known = [
        ("ClusterIP", Some(Type::ClusterIp)),
        ("NodePort", Some(Type::NodePort)),
        ("LoadBalancer", None),
        ("ExternalName", None),
    ];
    let path = SPEC.field("type");
    match check.choice(&path, spec.type_.as_deref(), &known) {
        Some(Some(kind)) => return kind,
        Some(None) => {
            let word = spec.type_.as_deref().unwrap_or_default();
            let why = match word {
                "LoadBalancer" => "there is no load balancer outside of this node; use NodePort",
                _ => "names outside are looked up as they are; use them directly",
            };
            check.forbidden(&path, why);
        }
        None => {}
    }
    Type::ClusterIp
}

fn address(spec: &corev1::ServiceSpec, kind: Type, check: &mut Check<'_>) -> ServiceAddress {
    let text = spec.cluster_ip.as_deref().unwrap_or_default();
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    let list_path = SPEC.field("clusterIPs");
    match list {
        [] => {}
        [first, ..] if text.is_empty() => {
            check.invalid(&list_path, first, "must be empty when `clusterIP` is not specified");
        }
        [first, ..] if first != text => {
            check.invalid(&list_path.index(0), first, "first value must match `clusterIP`");
        }
        [_] => {}
        [_, more, ..] => {
            let why = "may specify no more than one IP for single-stack services";
            check.invalid(&list_path, more, why);
        }
    }
    let path = SPEC.field("clusterIP");
    match text {
        "" => ServiceAddress::Unassigned,
        "None" => {
            if kind == Type::NodePort {
                check.invalid(&path, text, "may not be set to 'None' for NodePort services");
            }
            ServiceAddress::Headless
        }
        text => match text.parse::<Ipv4Addr>() {
            Ok(ip) if SERVICE_RANGE.has_host(ip) => ServiceAddress::ClusterIp(ip),
            Ok(ip) => {
                let why = format!(
                    "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid \
                     IPs is {SERVICE_RANGE}"
                );
                check.invalid(&path, text, why);
                ServiceAddress::Unassigned
            }
            Err(_) => {
                check.invalid(&path, text, "must be a valid IPv4 address, \"None\" or empty");
                ServiceAddress::Unassigned
            }
        },
    }
}

fn ports(
    spec: &corev1::ServiceSpec,
    kind: Type,
    address: ServiceAddress,
    check: &mut Check<'_>,
) -> Vec<ServicePort> {
    let list = SPEC.field("ports");
    let wire = spec.ports.as_deref().unwrap_or_default();
    if wire.is_empty() && address != ServiceAddress::Headless {
        check.required(&list, "");
    }
    if wire.len() > PORTS_MAX {
        check.too_many(&list, wire.len(), PORTS_MAX);
    }
    let mut seen = Seen { many: wire.len() > 1, ..Seen::default() };
    let wire = wire.iter().take(PORTS_MAX).enumerate();
    wire.filter_map(|(index, port)| seen.port(port, kind, &list.index(index), check)).collect()
}

/// What ports before this one have taken.
#[derive(Debug, Default)]
struct Seen {
    many: bool,
    names: BTreeSet<String>,
    ports: BTreeSet<(Protocol, u16)>,
    node_ports: BTreeSet<(Protocol, u16)>,
}

impl Seen {
    fn port(
        &mut self,
        wire: &corev1::ServicePort,
        kind: Type,
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Option<ServicePort> {
        let name = wire.name.clone().filter(|name| !name.is_empty());
        let name_path = path.field("name");
        match &name {
            None if self.many => check.required(&name_path, ""),
            None => {}
            Some(name) => {
                check.faults(&name_path, name, rules::dns_label(name));
                if !self.names.insert(name.clone()) {
                    check.duplicate(&name_path, name);
                }
            }
        }
        let protocol = protocol(&path.field("protocol"), wire.protocol.as_deref(), check);
        let port = check.port(&path.field("port"), wire.port);
        let target = target(wire, &path.field("targetPort"), check);
        let node_port = self.node_port(wire, kind, protocol, &path.field("nodePort"), check);
        if let Some(app) = wire.app_protocol.as_deref().filter(|app| !app.is_empty()) {
            check.faults(&path.field("appProtocol"), app, rules::qualified_name(app));
        }
        let port = port?;
        if !self.ports.insert((protocol, port)) {
            check.duplicate(path, &format!("{}/{port}", word(protocol)));
        }
        Some(ServicePort { name, protocol, port, target: target?, node_port })
    }

    fn node_port(
        &mut self,
        wire: &corev1::ServicePort,
        kind: Type,
        protocol: Protocol,
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) -> Option<u16> {
        let asked = wire.node_port.filter(|port| *port != 0)?;
        if kind != Type::NodePort {
            check.forbidden(path, "may not be used when `type` is 'ClusterIP'");
            return None;
        }
        let port = u16::try_from(asked).ok().filter(|port| NODE_PORTS.contains(port));
        let Some(port) = port else {
            let (low, high) = (NODE_PORTS.start(), NODE_PORTS.end());
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            );
            check.invalid_number(path, asked, why);
            return None;
        };
        if !self.node_ports.insert((protocol, port)) {
            check.duplicate(path, &port.to_string());
        }
        Some(port)
    }
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

fn target(wire: &corev1::ServicePort, path: &Path<'_>, check: &mut Check<'_>) -> Option<PortRef> {
    match &wire.target_port {
        // Defaulting has made it the port itself.
        None => Some(PortRef::Number(u16::try_from(wire.port).ok()?)),
        Some(IntOrString::Int(number)) => check.port(path, *number).map(PortRef::Number),
        Some(IntOrString::String(name)) => {
            check.faults(path, name, rules::port_name(name));
            Some(PortRef::Name(name.clone()))
        }
    }
}

fn affinity(spec: &corev1::ServiceSpec, check: &mut Check<'_>) -> Option<Duration> {
    let known = [("None", false), ("ClientIP", true)];
    let path = SPEC.field("sessionAffinity");
    let sticky = check.choice(&path, spec.session_affinity.as_deref(), &known)?;
    let config_path = SPEC.field("sessionAffinityConfig");
    if !sticky {
        if spec.session_affinity_config.is_some() {
            let why = "must not be set when session affinity is None";
            check.forbidden(&config_path, why);
        }
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds);
    let seconds = seconds.unwrap_or(super::default::AFFINITY_SECONDS);
    if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
        let client = config_path.field("clientIP");
        let why = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
        check.invalid_number(&client.field("timeoutSeconds"), seconds, why);
    }
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
}

/// The node's network is IPv4.
fn families(spec: &corev1::ServiceSpec, check: &mut Check<'_>) {
    let path = SPEC.field("ipFamilies");
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        let known = [("IPv4", true), ("IPv6", false)];
        if check.choice(&path.index(index), Some(family), &known) == Some(false) {
            check.forbidden(&path.index(index), "pods and Services have IPv4 addresses here");
        }
    }
    let known = [("SingleStack", true), ("PreferDualStack", true), ("RequireDualStack", false)];
    let path = SPEC.field("ipFamilyPolicy");
    let policy = spec.ip_family_policy.as_deref();
    if check.choice(&path, policy, &known) == Some(false) {
        check.forbidden(&path, "pods and Services have IPv4 addresses here");
    }
}

/// There is one node, so its own pods are all there are: both words mean the same.
fn traffic_policies(spec: &corev1::ServiceSpec, check: &mut Check<'_>) {
    let known = [("Cluster", ()), ("Local", ())];
    for (field, word) in [
        ("externalTrafficPolicy", &spec.external_traffic_policy),
        ("internalTrafficPolicy", &spec.internal_traffic_policy),
    ] {
        check.choice(&SPEC.field(field), word.as_deref(), &known);
    }
}
