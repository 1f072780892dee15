//! From what a NetworkPolicy is back to what it looks like: for policies that podling proposes.
//!
//! Owns: the wire form. What it makes is read back to the very same policy.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1 as networkingv1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector as WireSelector, LabelSelectorRequirement, ObjectMeta,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::spec::{
    LabelSelector, NetworkPolicy, Operator, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Protocol,
};

/// The policy as an object.
#[must_use]
pub fn policy(policy: &NetworkPolicy) -> networkingv1::NetworkPolicy {
    let mut annotations = BTreeMap::new();
    if !policy.egress_names.is_empty() {
        let names: Vec<String> = policy.egress_names.iter().map(ToString::to_string).collect();
        annotations.insert("podling.dev/egress-names".to_owned(), names.join(","));
    }
    if policy.audit {
        annotations.insert("podling.dev/network-audit".to_owned(), "true".to_owned());
    }
    let types = [("Ingress", policy.ingress.is_some()), ("Egress", policy.egress.is_some())];
    let types = types.into_iter().filter(|(_, set)| *set).map(|(word, _)| word.to_owned());
    let ingress = policy.ingress.as_ref().map(|rules| {
        let rule = |rule: &PolicyRule| networkingv1::NetworkPolicyIngressRule {
            from: some(rule.peers.iter().map(peer).collect()),
            ports: some(rule.ports.iter().map(port).collect()),
        };
        rules.iter().map(rule).collect()
    });
    let egress = policy.egress.as_ref().map(|rules| {
        let rule = |rule: &PolicyRule| networkingv1::NetworkPolicyEgressRule {
            to: some(rule.peers.iter().map(peer).collect()),
            ports: some(rule.ports.iter().map(port).collect()),
        };
        rules.iter().map(rule).collect()
    });
    networkingv1::NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(policy.key.name.to_string()),
            namespace: Some(policy.key.namespace.to_string()),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(networkingv1::NetworkPolicySpec {
            egress,
            ingress,
            pod_selector: Some(selector(&policy.pods)),
            policy_types: Some(types.collect()),
        }),
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn peer(peer: &PolicyPeer) -> networkingv1::NetworkPolicyPeer {
    match peer {
        PolicyPeer::Pods { namespaces, pods } => networkingv1::NetworkPolicyPeer {
            namespace_selector: namespaces.as_ref().map(selector),
            pod_selector: Some(selector(pods)),
            ip_block: None,
        },
        PolicyPeer::Block(block) => networkingv1::NetworkPolicyPeer {
            ip_block: Some(networkingv1::IPBlock {
                cidr: block.cidr.to_string(),
                except: some(block.except.iter().map(ToString::to_string).collect()),
            }),
            ..networkingv1::NetworkPolicyPeer::default()
        },
    }
}

fn port(port: &PolicyPort) -> networkingv1::NetworkPolicyPort {
    let protocol = match port.protocol {
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Udp) => "UDP",
        None => "SCTP",
    };
    let (number, end_port) = match &port.ports {
        PortMatch::All => (None, None),
        PortMatch::Named(name) => (Some(IntOrString::String(name.clone())), None),
        PortMatch::Range(first, last) => {
            let end = (last != first).then_some(i32::from(*last));
            (Some(IntOrString::Int((*first).into())), end)
        }
    };
    networkingv1::NetworkPolicyPort { end_port, port: number, protocol: Some(protocol.to_owned()) }
}

fn selector(selector: &LabelSelector) -> WireSelector {
    let mut labels = BTreeMap::new();
    let mut expressions = Vec::new();
    for requirement in &selector.requirements {
        let key = requirement.key.clone();
        let (operator, values) = match &requirement.operator {
            // The short form where it says the same, and says it once.
            Operator::In(values) if values.len() == 1 && !labels.contains_key(&key) => {
                labels.extend(values.iter().map(|value| (key.clone(), value.clone())));
                continue;
            }
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        expressions.push(LabelSelectorRequirement {
            key,
            operator: operator.to_owned(),
            values: values.map(|values| values.iter().cloned().collect()),
        });
    }
    WireSelector {
        match_labels: (!labels.is_empty()).then_some(labels),
        match_expressions: some(expressions),
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::manifest::lower_policy;
    use crate::spec::Source;

    #[test]
    fn a_raised_policy_is_read_back_the_same() {
        let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: lab, annotations: \
            {podling.dev/egress-names: 'a.example:443,*.b.example', podling.dev/network-audit: 'true'}}, spec: {podSelector: \
            {matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [x, y]}, {key: d, operator: Exists}]}, \
            policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, \
            {namespaceSelector: {}, podSelector: {}}, {podSelector: {matchLabels: {e: f}}}], ports: [{port: 1, endPort: 9}, \
            {protocol: UDP, port: dns}, {protocol: UDP}]}, {}], egress: []}}";
        let wire: networkingv1::NetworkPolicy = serde_yaml::from_str(text).unwrap();
        let (first, _) = lower_policy(&wire, &Source::Api).unwrap();
        let (again, warnings) = lower_policy(&policy(&first), &Source::Api).unwrap();
        assert_eq!((again, warnings), (first, vec![]));
    }
}
