//! Services, their endpoints, and NetworkPolicies in one line each.
//!
//! Owns: the cells of `printService`, `printEndpoints`, `printEndpointSlice` and `printNetworkPolicy`.

use k8s_openapi::api::core::v1::{Endpoints, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use crate::server::age;

/// Addresses or ports that are shown before "N more".
const SHOWN_MAX: usize = 3;

const NONE: &str = "<none>";

pub(super) fn service(service: &Service, now: i64) -> Vec<Value> {
    let absent = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&absent);
    let text = |value: Option<&String>| {
        value.filter(|value| !value.is_empty()).map_or(NONE, String::as_str).to_owned()
    };
    let ports: Vec<String> = spec.ports.iter().flatten().map(port_text).collect();
    let pairs: Vec<String> =
        spec.selector.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    let joined = |list: &[String]| if list.is_empty() { NONE.to_owned() } else { list.join(",") };
    vec![
        json!(service.metadata.name),
        json!(text(spec.type_.as_ref())),
        json!(text(spec.cluster_ip.as_ref())),
        json!(NONE),
        json!(joined(&ports)),
        json!(age::since(service.metadata.creation_timestamp.as_ref(), now)),
        json!(joined(&pairs)),
    ]
}

/// `80/TCP`, `80:30080/TCP`
#[must_use]
pub fn port_text(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.node_port.filter(|number| *number > 0) {
        Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
        None => format!("{}/{protocol}", port.port),
    }
}

pub(super) fn policy(policy: &NetworkPolicy, now: i64) -> Vec<Value> {
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
    vec![
        json!(policy.metadata.name),
        json!(label_selector(selector)),
        json!(age::since(policy.metadata.creation_timestamp.as_ref(), now)),
    ]
}

/// A selector as `kubectl -l` spells it, `<none>` if it selects everything (`metav1.FormatLabelSelector`).
#[must_use]
pub fn label_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return NONE.to_owned() };
    let labels = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}={v}"));
    let expressions = selector.match_expressions.iter().flatten().map(|term| {
        let (key, mut values) = (&term.key, term.values.clone().unwrap_or_default());
        values.sort();
        match term.operator.as_str() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    let mut terms: Vec<String> = labels.chain(expressions).collect();
    terms.sort();
    if terms.is_empty() { NONE.to_owned() } else { terms.join(",") }
}

pub(super) fn endpoints(endpoints: &Endpoints, now: i64) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        match subset.ports.as_deref().unwrap_or_default() {
            [] => list.extend(addresses.iter().map(|address| address.ip.clone())),
            ports => {
                for port in ports {
                    let joined = addresses.iter().map(|a| format!("{}:{}", a.ip, port.port));
                    list.extend(joined);
                }
            }
        }
    }
    vec![
        json!(endpoints.metadata.name),
        json!(with_more(&list, NONE)),
        json!(age::since(endpoints.metadata.creation_timestamp.as_ref(), now)),
    ]
}

pub(super) fn endpoint_slice(slice: &EndpointSlice, now: i64) -> Vec<Value> {
    let ports = slice.ports.iter().flatten().map(|port| match (port.port, &port.name) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => "*".to_owned(),
    });
    let addresses = slice.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned());
    vec![
        json!(slice.metadata.name),
        json!(slice.address_type),
        json!(with_more(&ports.collect::<Vec<_>>(), "<unset>")),
        json!(with_more(&addresses.collect::<Vec<_>>(), "<unset>")),
        json!(age::since(slice.metadata.creation_timestamp.as_ref(), now)),
    ]
}

/// `a,b,c + 2 more...`
fn with_more(list: &[String], none: &str) -> String {
    match list.len().checked_sub(SHOWN_MAX) {
        _ if list.is_empty() => none.to_owned(),
        None | Some(0) => list.join(","),
        Some(more) => format!("{} + {more} more...", list[..SHOWN_MAX].join(",")),
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn row(cells: &[Value]) -> Vec<&str> {
        cells.iter().map(|cell| cell.as_str().unwrap_or("-")).collect()
    }

    #[test]
    fn a_service_shows_how_it_is_reached() {
        let text = "{metadata: {name: web}, apiVersion: v1, kind: Service, spec: {type: NodePort, clusterIP: 10.89.0.1, \
                    selector: {b: c, a: b}, ports: [{port: 80, nodePort: 30080}, {port: 53, protocol: UDP}]}}";
        let web: Service = serde_yaml::from_str(text).unwrap();
        let expected = [
            "web",
            "NodePort",
            "10.89.0.1",
            "<none>",
            "80:30080/TCP,53/UDP",
            "<unknown>",
            "a=b,b=c",
        ];
        assert_eq!(row(&service(&web, 0)), expected);
        let bare = row(&service(&Service::default(), 0)).join(" ");
        assert_eq!(bare, "- <none> <none> <none> <none> <unknown> <none>");
    }

    #[test]
    fn long_lists_are_cut() {
        let list = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(with_more(&list(0), NONE), "<none>");
        assert_eq!(with_more(&list(3), NONE), "0,1,2");
        assert_eq!(with_more(&list(5), NONE), "0,1,2 + 2 more...");
    }

    #[test]
    fn a_selector_reads_as_on_the_command_line() {
        let text = "{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [b, a]}, \
                    {key: old, operator: DoesNotExist}, {key: env, operator: Exists}]}";
        let selector: LabelSelector = serde_yaml::from_str(text).unwrap();
        assert_eq!(label_selector(Some(&selector)), "!old,app=web,env,tier in (a,b)");
        assert_eq!(label_selector(Some(&LabelSelector::default())), "<none>");
        assert_eq!(label_selector(None), "<none>");
    }
}
