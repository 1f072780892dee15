//! Who may talk to whom. Pure.
//!
//! Owns: what a set of NetworkPolicies says of one connection, as Kubernetes' page "Network Policies" has it:
//!
//! - a policy speaks of the pods of its namespace that it selects, in the directions of its `policyTypes`;
//! - a pod that no policy selects for a direction is open in that direction, to other pods of the node;
//! - one that is selected is isolated: only what some rule of some of these policies allows is let through;
//! - policies add up, and both ends must agree.
//!
//! One thing differs: towards the outside a pod is isolated whether a policy selects it or not.
//! Not: Services (rules see the pod behind one), names, nor what becomes of a connection (`egress`).

use std::net::IpAddr;
use std::sync::Arc;

use crate::spec::{
    Labels, NameRule, NamespacedName, NetworkPolicy, PolicyPeer, PolicyRule, PortMatch, Protocol,
};

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// A pod as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct PodView<'a> {
    pub namespace: &'a str,
    /// Labels of the namespace.
    pub namespace_labels: &'a Labels,
    pub labels: &'a Labels,
    pub ports: &'a [NamedPort],
}

/// One end of a connection: an address, and the pod that has it if one does.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    pub ip: IpAddr,
    pub pod: Option<PodView<'a>>,
}

/// What a connection is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    pub protocol: Protocol,
    pub number: u16,
}

/// The labels of a namespace: its name is the only thing known of it (as Kubernetes labels each namespace by itself).
#[must_use]
pub fn namespace_labels(namespace: &str) -> Labels {
    Labels::from([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())])
}

/// The policies that select one pod, by direction.
#[derive(Clone, Debug, Default)]
pub struct Isolation {
    ingress: Vec<Arc<NetworkPolicy>>,
    egress: Vec<Arc<NetworkPolicy>>,
    /// Names outside that policies let it reach.
    pub names: Vec<NameRule>,
    /// Whether any of them asks for an audit.
    pub audit: bool,
}

impl Isolation {
    /// What `policies` say of a pod.
    #[must_use]
    pub fn of<'p>(
        policies: impl IntoIterator<Item = &'p Arc<NetworkPolicy>>,
        namespace: &str,
        labels: &Labels,
    ) -> Self {
        let mut isolation = Self::default();
        for policy in policies {
            if &*policy.key.namespace != namespace || !policy.pods.matches(labels) {
                continue;
            }
            if policy.ingress.is_some() {
                isolation.ingress.push(Arc::clone(policy));
            }
            if policy.egress.is_some() {
                isolation.egress.push(Arc::clone(policy));
            }
            isolation.names.extend(policy.egress_names.iter().cloned());
            isolation.audit |= policy.audit;
        }
        isolation
    }

    /// Whether anything at all is said about traffic to the pod.
    #[must_use]
    pub fn isolates_ingress(&self) -> bool {
        !self.ingress.is_empty()
    }

    /// Whether anything at all is said about traffic from the pod.
    #[must_use]
    pub fn isolates_egress(&self) -> bool {
        !self.egress.is_empty()
    }

    /// The policies that isolate the pod in that direction, for messages.
    pub fn policies(&self, egress: bool) -> impl Iterator<Item = &NamespacedName> {
        let list = if egress { &self.egress } else { &self.ingress };
        list.iter().map(|policy| &policy.key)
    }

    /// Whether `from` may connect to `me`, the pod that this is about.
    #[must_use]
    pub fn admits(&self, me: &PodView<'_>, from: &Party<'_>, port: Port) -> bool {
        let allows = |policy: &Arc<NetworkPolicy>| {
            let rules = policy.ingress.iter().flatten();
            rules.into_iter().any(|rule| allows(&policy.key, rule, from, me.ports, port))
        };
        self.ingress.is_empty() || self.ingress.iter().any(allows)
    }

    /// Whether the pod may connect to the pod `to` of this node.
    #[must_use]
    pub fn lets_out(&self, to: &Party<'_>, port: Port) -> bool {
        self.egress.is_empty() || self.allows_egress(to, port)
    }

    /// Whether the pod may connect to an address outside: only if a rule says so.
    #[must_use]
    pub fn lets_outside(&self, to: IpAddr, port: Port) -> bool {
        self.allows_egress(&Party { ip: to, pod: None }, port)
    }

    /// Whether the pod could ask a resolver outside by itself, and so may have any name looked up: a rule towards addresses
    /// whose ports include the resolvers'.
    #[must_use]
    pub fn lets_ask_resolvers(&self) -> bool {
        let asks = |rule: &PolicyRule| {
            let outside = rule.peers.is_empty()
                || rule.peers.iter().any(|peer| matches!(peer, PolicyPeer::Block(_)));
            let dns = |protocol| Port { protocol, number: 53 };
            let at_dns = port_allowed(rule, &[], dns(Protocol::Udp))
                || port_allowed(rule, &[], dns(Protocol::Tcp));
            outside && at_dns
        };
        self.egress.iter().any(|policy| policy.egress.iter().flatten().any(asks))
    }

    fn allows_egress(&self, to: &Party<'_>, port: Port) -> bool {
        let ports = to.pod.map_or(&[][..], |pod| pod.ports);
        self.egress.iter().any(|policy| {
            let rules = policy.egress.iter().flatten();
            rules.into_iter().any(|rule| allows(&policy.key, rule, to, ports, port))
        })
    }
}

/// `ports`: those of the pod that is connected to.
fn allows(
    policy: &NamespacedName,
    rule: &PolicyRule,
    peer: &Party<'_>,
    ports: &[NamedPort],
    port: Port,
) -> bool {
    let is_peer = |one: &PolicyPeer| is_peer(policy, one, peer);
    (rule.peers.is_empty() || rule.peers.iter().any(is_peer)) && port_allowed(rule, ports, port)
}

fn is_peer(policy: &NamespacedName, rule: &PolicyPeer, peer: &Party<'_>) -> bool {
    match (rule, &peer.pod) {
        // An address is an address, whoever has it.
        (PolicyPeer::Block(block), _) => block.contains(peer.ip),
        (PolicyPeer::Pods { namespaces, pods }, Some(pod)) => {
            let here = match namespaces {
                Some(namespaces) => namespaces.matches(pod.namespace_labels),
                None => pod.namespace == &*policy.namespace,
            };
            here && pods.matches(pod.labels)
        }
        (PolicyPeer::Pods { .. }, None) => false,
    }
}

fn port_allowed(rule: &PolicyRule, ports: &[NamedPort], port: Port) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|one| {
            one.protocol == Some(port.protocol)
                && match &one.ports {
                    PortMatch::All => true,
                    PortMatch::Range(first, last) => (*first..=*last).contains(&port.number),
                    PortMatch::Named(name) => ports.iter().any(|named| {
                        named.name == *name
                            && named.protocol == port.protocol
                            && named.port == port.number
                    }),
                }
        })
}

#[cfg(test)]
#[path = "tests/policy.rs"]
mod tests;
