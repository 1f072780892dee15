//! The page of a Service (`describeService`).

use k8s_openapi::api::core::v1::{
    EndpointSubset, Endpoints, Event, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::page::{Page, text};
use super::{annotations, labels, with_events};

/// Addresses that are shown of one port before "N more".
const SHOWN_MAX: usize = 3;

pub(super) fn describe(
    service: &Service,
    endpoints: Option<&Endpoints>,
    events: &[Event],
    now_ms: i64,
) -> String {
    let (meta, absent) = (&service.metadata, ServiceSpec::default());
    let spec = service.spec.as_ref().unwrap_or(&absent);
    let mut page = Page::default();
    page.line(0, &format!("Name:\t{}", text(&meta.name)));
    page.line(0, &format!("Namespace:\t{}", text(&meta.namespace)));
    labels(&mut page, "Labels", meta.labels.as_ref());
    annotations(&mut page, meta);
    let pairs: Vec<String> =
        spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    page.line(0, &format!("Selector:\t{}", or_none(&pairs.join(","))));
    page.line(0, &format!("Type:\t{}", text(&spec.type_)));
    page.some(0, "IP Family Policy", spec.ip_family_policy.as_ref());
    let families = spec.ip_families.clone().unwrap_or_default().join(",");
    page.line(0, &format!("IP Families:\t{}", or_none(&families)));
    page.line(0, &format!("IP:\t{}", text(&spec.cluster_ip)));
    let ips = spec.cluster_ips.clone().unwrap_or_default().join(",");
    page.line(0, &format!("IPs:\t{}", or_none(&ips)));
    for port in spec.ports.iter().flatten() {
        self::port(&mut page, port, endpoints);
    }
    page.line(0, &format!("Session Affinity:\t{}", text(&spec.session_affinity)));
    page.some(0, "External Traffic Policy", spec.external_traffic_policy.as_ref());
    page.some(0, "Internal Traffic Policy", spec.internal_traffic_policy.as_ref());
    with_events(page, events, now_ms)
}

fn port(page: &mut Page, port: &ServicePort, endpoints: Option<&Endpoints>) {
    let name = port.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("<unset>");
    let protocol = text(&port.protocol);
    page.line(0, &format!("Port:\t{name}\t{}/{protocol}", port.port));
    let target = match &port.target_port {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
        None => port.port.to_string(),
    };
    page.line(0, &format!("TargetPort:\t{target}/{protocol}"));
    if let Some(number) = port.node_port.filter(|number| *number != 0) {
        page.line(0, &format!("NodePort:\t{name}\t{number}/{protocol}"));
    }
    let subsets = endpoints.and_then(|e| e.subsets.as_deref()).unwrap_or_default();
    page.line(0, &format!("Endpoints:\t{}", addresses(subsets, port)));
}

/// `10.88.0.1:80,10.88.0.2:80`; nothing if none is ready.
fn addresses(subsets: &[EndpointSubset], port: &ServicePort) -> String {
    let mut list = Vec::new();
    for subset in subsets {
        let same = |other: &&k8s_openapi::api::core::v1::EndpointPort| {
            text(&other.name) == text(&port.name) && text(&other.protocol) == text(&port.protocol)
        };
        let Some(found) = subset.ports.iter().flatten().find(same) else { continue };
        let ready = subset.addresses.iter().flatten();
        list.extend(ready.map(|address| format!("{}:{}", address.ip, found.port)));
    }
    match list.len().checked_sub(SHOWN_MAX) {
        None | Some(0) => list.join(","),
        Some(more) => format!("{} + {more} more...", list[..SHOWN_MAX].join(",")),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}
