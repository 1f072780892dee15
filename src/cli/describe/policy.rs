//! The page of a NetworkPolicy (`describeNetworkPolicy`).

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::server::table::label_selector;

use super::page::{Page, text};
use super::{annotations, labels};

pub(super) fn describe(policy: &NetworkPolicy) -> String {
    let (meta, absent) = (&policy.metadata, NetworkPolicySpec::default());
    let spec = policy.spec.as_ref().unwrap_or(&absent);
    let mut page = Page::default();
    page.line(0, &format!("Name:\t{}", text(&meta.name)));
    page.line(0, &format!("Namespace:\t{}", text(&meta.namespace)));
    let created = meta.creation_timestamp.as_ref().map(|time| time.0.to_string());
    page.line(0, &format!("Created on:\t{}", created.unwrap_or_default()));
    labels(&mut page, "Labels", meta.labels.as_ref());
    annotations(&mut page, meta);
    page.line(0, "Spec:");
    let pods = match label_selector(spec.pod_selector.as_ref()).as_str() {
        "<none>" => {
            "<none> (Allowing the specific traffic to all pods in this namespace)".to_owned()
        }
        some => some.to_owned(),
    };
    page.line(1, &format!("PodSelector: {pods}"));
    let types = spec.policy_types.clone().unwrap_or_default();
    let affects = |word: &str| types.iter().any(|one| one == word);
    if affects("Ingress") {
        page.line(1, "Allowing ingress traffic:");
        let rules = spec.ingress.as_deref().unwrap_or_default();
        let parts = rules.iter().map(|rule| (rule.ports.as_deref(), rule.from.as_deref()));
        self::rules(&mut page, &parts.collect::<Vec<_>>(), Words::INGRESS);
    } else {
        page.line(1, "Not affecting ingress traffic");
    }
    if affects("Egress") {
        page.line(1, "Allowing egress traffic:");
        let rules = spec.egress.as_deref().unwrap_or_default();
        let parts = rules.iter().map(|rule| (rule.ports.as_deref(), rule.to.as_deref()));
        self::rules(&mut page, &parts.collect::<Vec<_>>(), Words::EGRESS);
    } else {
        page.line(1, "Not affecting egress traffic");
    }
    page.line(1, &format!("Policy Types: {}", types.join(", ")));
    page.finish()
}

/// How each direction is told.
#[derive(Clone, Copy)]
struct Words {
    isolated: &'static str,
    peer: &'static str,
    any_peer: &'static str,
}

impl Words {
    const INGRESS: Self = Self {
        isolated: "<none> (Selected pods are isolated for ingress connectivity)",
        peer: "From",
        any_peer: "From: <any> (traffic not restricted by source)",
    };
    const EGRESS: Self = Self {
        isolated: "<none> (Selected pods are isolated for egress connectivity)",
        peer: "To",
        any_peer: "To: <any> (traffic not restricted by destination)",
    };
}

type Rule<'a> = (Option<&'a [NetworkPolicyPort]>, Option<&'a [NetworkPolicyPeer]>);

fn rules(page: &mut Page, rules: &[Rule<'_>], words: Words) {
    if rules.is_empty() {
        page.line(2, words.isolated);
    }
    for (index, (ports, peers)) in rules.iter().enumerate() {
        match ports.unwrap_or_default() {
            [] => page.line(2, "To Port: <any> (traffic allowed to all ports)"),
            ports => {
                for port in ports {
                    page.line(2, &format!("To Port: {}", self::port(port)));
                }
            }
        }
        match peers.unwrap_or_default() {
            [] => page.line(2, words.any_peer),
            peers => {
                for peer in peers {
                    page.line(2, &format!("{}:", words.peer));
                    self::peer(page, peer);
                }
            }
        }
        if index + 1 < rules.len() {
            page.line(2, "----------");
        }
    }
}

fn port(port: &NetworkPolicyPort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.port {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
        None => "<any>".to_owned(),
    };
    match port.end_port {
        Some(end) => format!("{number}-{end}/{protocol}"),
        None => format!("{number}/{protocol}"),
    }
}

fn peer(page: &mut Page, peer: &NetworkPolicyPeer) {
    if let Some(namespaces) = &peer.namespace_selector {
        page.line(3, &format!("NamespaceSelector: {}", label_selector(Some(namespaces))));
    }
    if let Some(pods) = &peer.pod_selector {
        page.line(3, &format!("PodSelector: {}", label_selector(Some(pods))));
    }
    if let Some(block) = &peer.ip_block {
        page.line(3, "IPBlock:");
        page.line(4, &format!("CIDR: {}", block.cidr));
        page.line(4, &format!("Except: {}", block.except.clone().unwrap_or_default().join(", ")));
    }
}
