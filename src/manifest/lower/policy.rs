//! NetworkPolicies: validation in Kubernetes' words (`ValidateNetworkPolicySpec`), and what they are to us.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1 as networkingv1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as metav1;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::path::Path;
use super::super::{object, rules};
use super::SPEC;
use super::annotations;
use super::check::Check;
use super::meta;
use crate::spec::{
    Cidr, IpBlock, LabelSelector, NamespacedName, NetworkPolicy, Operator, PolicyPeer, PolicyPort,
    PolicyRule, PortMatch, Protocol, Requirement,
};

/// Rules of one direction, peers or ports of one rule, exceptions of one block: each decision looks at them in turn.
/// Kubernetes has no bound but the object's size.
const ITEMS_MAX: usize = 256;

pub(super) fn lower(policy: &networkingv1::NetworkPolicy, check: &mut Check<'_>) -> NetworkPolicy {
    meta::check_metadata(&policy.metadata, rules::dns_subdomain, check);
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let key = NamespacedName::new(object::namespace(&policy.metadata), name);
    let annotations = annotations::of_policy(&policy.metadata, check);
    let absent = networkingv1::NetworkPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&absent);
    let pods = spec.pod_selector.as_ref();
    let pods = pods.map(|pods| selector(pods, &SPEC.field("podSelector"), check));
    let (ingress, egress) = directions(spec, check);
    let ingress_rules = ingress_rules(spec, check);
    let egress_rules = egress_rules(spec, check);
    NetworkPolicy {
        key,
        pods: pods.unwrap_or_default(),
        ingress: ingress.then_some(ingress_rules),
        egress: egress.then_some(egress_rules),
        egress_names: annotations.egress_names,
        audit: annotations.audit,
    }
}

/// Which directions the policy speaks of. Defaulting has filled in an empty list.
fn directions(spec: &networkingv1::NetworkPolicySpec, check: &mut Check<'_>) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let path = SPEC.field("policyTypes");
    if types.len() > 2 {
        let list: Vec<String> = types.iter().map(|word| format!("{word:?}")).collect();
        let why = "may not specify more than two policyTypes";
        check.invalid_number(&path, format!("[{}]", list.join(",")), why);
    }
    let (mut ingress, mut egress) = (false, false);
    for (index, word) in types.iter().take(2).enumerate() {
        match check.choice(&path.index(index), Some(word), &[("Ingress", false), ("Egress", true)])
        {
            Some(true) => egress = true,
            Some(false) => ingress = true,
            None => {}
        }
    }
    (ingress, egress)
}

fn ingress_rules(spec: &networkingv1::NetworkPolicySpec, check: &mut Check<'_>) -> Vec<PolicyRule> {
    let list = SPEC.field("ingress");
    let wire = bounded(spec.ingress.as_deref(), &list, check);
    let rule = |(index, rule): (usize, &networkingv1::NetworkPolicyIngressRule)| {
        let path = list.index(index);
        let peers = peers(rule.from.as_deref(), &path.field("from"), check);
        PolicyRule { peers, ports: ports(rule.ports.as_deref(), &path.field("ports"), check) }
    };
    wire.iter().enumerate().map(rule).collect()
}

fn egress_rules(spec: &networkingv1::NetworkPolicySpec, check: &mut Check<'_>) -> Vec<PolicyRule> {
    let list = SPEC.field("egress");
    let wire = bounded(spec.egress.as_deref(), &list, check);
    let rule = |(index, rule): (usize, &networkingv1::NetworkPolicyEgressRule)| {
        let path = list.index(index);
        let peers = peers(rule.to.as_deref(), &path.field("to"), check);
        PolicyRule { peers, ports: ports(rule.ports.as_deref(), &path.field("ports"), check) }
    };
    wire.iter().enumerate().map(rule).collect()
}

fn bounded<'a, T>(wire: Option<&'a [T]>, path: &Path<'_>, check: &mut Check<'_>) -> &'a [T] {
    let wire = wire.unwrap_or_default();
    if wire.len() > ITEMS_MAX {
        check.too_many(path, wire.len(), ITEMS_MAX);
    }
    wire.get(..ITEMS_MAX).unwrap_or(wire)
}

fn peers(
    wire: Option<&[networkingv1::NetworkPolicyPeer]>,
    list: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<PolicyPeer> {
    let wire = bounded(wire, list, check);
    let peer = |(index, wire)| peer(wire, &list.index(index), check);
    wire.iter().enumerate().filter_map(peer).collect()
}

fn peer(
    wire: &networkingv1::NetworkPolicyPeer,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<PolicyPeer> {
    let pods = wire.pod_selector.as_ref();
    let pods = pods.map(|pods| selector(pods, &path.field("podSelector"), check));
    let namespaces = wire.namespace_selector.as_ref();
    let namespaces =
        namespaces.map(|spaces| selector(spaces, &path.field("namespaceSelector"), check));
    let block = wire.ip_block.as_ref();
    let block = block.map(|block| ip_block(block, &path.field("ipBlock"), check));
    match (pods, namespaces, block) {
        (None, None, None) => {
            check.required(path, "must specify a peer");
            None
        }
        (None, None, Some(block)) => block.map(PolicyPeer::Block),
        (pods, namespaces, None) => {
            Some(PolicyPeer::Pods { namespaces, pods: pods.unwrap_or_default() })
        }
        (_, _, Some(_)) => {
            check.forbidden(path, "may not specify both ipBlock and another peer");
            None
        }
    }
}

fn ip_block(
    wire: &networkingv1::IPBlock,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<IpBlock> {
    if wire.cidr.is_empty() {
        check.required(&path.field("cidr"), "");
        return None;
    }
    let cidr = cidr(&wire.cidr, &path.field("cidr"), check);
    let list = path.field("except");
    let mut except = Vec::new();
    for (index, text) in bounded(wire.except.as_deref(), &list, check).iter().enumerate() {
        let path = list.index(index);
        let Some(part) = self::cidr(text, &path, check) else { continue };
        if cidr.is_some_and(|cidr| !cidr.strictly_contains(&part)) {
            check.invalid(&path, text, "must be a strict subset of `cidr`");
        }
        except.push(part);
    }
    Some(IpBlock { cidr: cidr?, except })
}

fn cidr(text: &str, path: &Path<'_>, check: &mut Check<'_>) -> Option<Cidr> {
    let parsed = text.parse::<Cidr>();
    if let Err(why) = &parsed {
        check.invalid(path, text, why.to_string());
    }
    parsed.ok()
}

fn ports(
    wire: Option<&[networkingv1::NetworkPolicyPort]>,
    list: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<PolicyPort> {
    let wire = bounded(wire, list, check);
    wire.iter().enumerate().map(|(index, wire)| port(wire, &list.index(index), check)).collect()
}

fn port(
    wire: &networkingv1::NetworkPolicyPort,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> PolicyPort {
    let known = [("TCP", Some(Protocol::Tcp)), ("UDP", Some(Protocol::Udp)), ("SCTP", None)];
    let protocol_path = path.field("protocol");
    let protocol = check.choice(&protocol_path, wire.protocol.as_deref(), &known).flatten();
    if wire.protocol.as_deref() == Some("SCTP") {
        check.warn(&protocol_path, "nothing here speaks SCTP, so the entry matches nothing");
    }
    let (port_path, end_path) = (path.field("port"), path.field("endPort"));
    let ports = match (&wire.port, wire.end_port) {
        (None, None) => PortMatch::All,
        (None, Some(_)) => {
            check.forbidden(&end_path, "may not be specified when `port` is not specified");
            PortMatch::All
        }
        (Some(IntOrString::String(name)), end) => {
            check.faults(&port_path, name, rules::port_name(name));
            if end.is_some() {
                check.forbidden(&end_path, "may not be specified when `port` is non-numeric");
            }
            PortMatch::Named(name.clone())
        }
        (Some(IntOrString::Int(number)), end) => {
            let first = check.port(&port_path, *number);
            let last = end.map_or(first, |end| {
                if end < *number {
                    check.invalid_number(&end_path, end, "must be greater than or equal to `port`");
                }
                check.port(&end_path, end)
            });
            match (first, last) {
                (Some(first), Some(last)) => PortMatch::Range(first, last),
                // An error was recorded: this does not get out.
                (Some(_) | None, _) => PortMatch::All,
            }
        }
    };
    PolicyPort { protocol, ports }
}

fn selector(wire: &metav1::LabelSelector, path: &Path<'_>, check: &mut Check<'_>) -> LabelSelector {
    let mut requirements = Vec::new();
    let labels_path = path.field("matchLabels");
    for (key, value) in wire.match_labels.iter().flatten() {
        check.faults(&labels_path, key, rules::qualified_name(key));
        check.faults(&labels_path, value, rules::label_value(value));
        let operator = Operator::In(BTreeSet::from([value.clone()]));
        requirements.push(Requirement { key: key.clone(), operator });
    }
    let list = path.field("matchExpressions");
    let expressions = bounded(wire.match_expressions.as_deref(), &list, check);
    for (index, wire) in expressions.iter().enumerate() {
        requirements.extend(requirement(wire, &list.index(index), check));
    }
    LabelSelector { requirements }
}

fn requirement(
    wire: &metav1::LabelSelectorRequirement,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<Requirement> {
    let key = wire.key.clone();
    check.faults(&path.field("key"), &key, rules::qualified_name(&key));
    let values: BTreeSet<String> = wire.values.iter().flatten().cloned().collect();
    let values_path = path.field("values");
    for (index, value) in wire.values.iter().flatten().enumerate() {
        check.faults(&values_path.index(index), value, rules::label_value(value));
    }
    let operator = match wire.operator.as_str() {
        "In" => Operator::In(values.clone()),
        "NotIn" => Operator::NotIn(values.clone()),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            check.invalid(&path.field("operator"), other, "not a valid selector operator");
            return None;
        }
    };
    match &operator {
        Operator::In(_) | Operator::NotIn(_) if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            check.required(&values_path, why);
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            check.forbidden(&values_path, why);
        }
        Operator::In(_) | Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => {}
    }
    Some(Requirement { key, operator })
}
