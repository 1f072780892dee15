//! What a pod was denied, or used, and the NetworkPolicy that allows exactly that. Pure.
//!
//! Owns: the list of what was seen, each thing once, and making a policy of it. What is denied is always noted; of a pod that is
//! being audited also what was let through, since a policy that names only the new would take the rest away.
//! Not: deciding (`policy`), nor printing (`manifest` writes a policy as YAML).
//! Limits: [`SEEN_MAX`] things for each pod; what does not fit is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::policy::Port;
use crate::clock::Timestamp;
use crate::spec::{
    Cidr, IpBlock, LabelSelector, Labels, NamePattern, NamePorts, NameRule, NamespacedName,
    NetworkPolicy, Operator, PodKey, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Protocol,
    Requirement,
};

/// Different things remembered of one pod. A module talks to a handful of others; one that scans a network must not grow us.
pub const SEEN_MAX: usize = 512;

/// The label that each namespace has by itself.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Something that a pod did, or that was done to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    pub direction: Direction,
    pub peer: Peer,
    /// What was connected to; `None` for a name that was looked up only.
    pub port: Option<(Protocol, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Who was at the other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// A pod of the node, by what rules can say of it. Without labels it has only its address.
    Pod { namespace: String, labels: Labels, ip: IpAddr },
    /// An address outside.
    Address(IpAddr),
    /// A name outside, in lower case.
    Name(String),
}

/// What is known of a [`Use`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub first: Timestamp,
    /// Whether policy denied it, let through or not.
    pub denied: bool,
}

/// What was seen of one pod.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    seen: BTreeMap<Use, Seen>,
    lost: u64,
}

impl AuditLog {
    /// Notes a use; true if it is news.
    pub fn note(&mut self, used: Use, denied: bool, now: Timestamp) -> bool {
        if let Some(seen) = self.seen.get_mut(&used) {
            seen.denied |= denied;
            return false;
        }
        if self.seen.len() >= SEEN_MAX {
            self.lost += 1;
            return false;
        }
        self.seen.insert(used, Seen { first: now, denied });
        true
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Use, &Seen)> {
        self.seen.iter()
    }

    /// How many uses did not fit.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The policy for this pod that allows exactly what was seen. Applied, it isolates the pod in both directions.
    #[must_use]
    pub fn policy(&self, pod: &PodKey, labels: &Labels) -> NetworkPolicy {
        let rules = |direction| {
            let mut by_peer: BTreeMap<&Peer, BTreeSet<(Protocol, u16)>> = BTreeMap::new();
            for used in self.seen.keys().filter(|used| used.direction == direction) {
                if let (Some(port), false) = (used.port, matches!(used.peer, Peer::Name(_))) {
                    by_peer.entry(&used.peer).or_default().insert(port);
                }
            }
            rules(&pod.namespace, by_peer)
        };
        NetworkPolicy {
            key: NamespacedName::new(&pod.namespace, &format!("{}-audited", pod.name)),
            pods: LabelSelector::with_labels(labels),
            ingress: Some(rules(Direction::Ingress)),
            egress: Some(rules(Direction::Egress)),
            egress_names: self.names(),
            audit: false,
        }
    }

    fn names(&self) -> Vec<NameRule> {
        let mut by_name: BTreeMap<&str, BTreeSet<(Protocol, u16)>> = BTreeMap::new();
        for used in self.seen.keys() {
            // A name that was looked up and never connected to needs no rule: nothing came of it.
            if let (Peer::Name(name), Some(port)) = (&used.peer, used.port) {
                by_name.entry(name).or_default().insert(port);
            }
        }
        let rule = |(name, ports): (&str, BTreeSet<(Protocol, u16)>)| {
            let name = name.to_owned();
            spans(&ports).into_iter().map(move |(protocol, first, last)| NameRule {
                name: NamePattern::Exactly(name.clone()),
                ports: NamePorts::Range(protocol, first, last),
            })
        };
        by_name.into_iter().flat_map(rule).collect()
    }
}

/// One rule for each set of ports, with all peers that used just these: a rule means every peer at every port.
fn rules(namespace: &str, by_peer: BTreeMap<&Peer, BTreeSet<(Protocol, u16)>>) -> Vec<PolicyRule> {
    let mut by_ports: BTreeMap<BTreeSet<(Protocol, u16)>, Vec<PolicyPeer>> = BTreeMap::new();
    // Pods that rules cannot tell apart are one peer, with the ports of all of them.
    let mut merged: Vec<(PolicyPeer, BTreeSet<(Protocol, u16)>)> = Vec::new();
    for (peer, ports) in by_peer {
        let Some(peer) = rule_peer(namespace, peer) else { continue };
        match merged.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, known)) => known.extend(ports),
            None => merged.push((peer, ports)),
        }
    }
    for (peer, ports) in merged {
        by_ports.entry(ports).or_default().push(peer);
    }
    let rule = |(ports, peers): (BTreeSet<(Protocol, u16)>, Vec<PolicyPeer>)| {
        let port = |(protocol, first, last)| PolicyPort {
            protocol: Some(protocol),
            ports: PortMatch::Range(first, last),
        };
        PolicyRule { peers, ports: spans(&ports).into_iter().map(port).collect() }
    };
    by_ports.into_iter().map(rule).collect()
}

fn rule_peer(own_namespace: &str, peer: &Peer) -> Option<PolicyPeer> {
    match peer {
        Peer::Pod { namespace, labels, ip } => {
            if labels.is_empty() {
                // An empty selector would mean every pod: the address is all there is to say.
                return Some(host_block(*ip));
            }
            let named = Requirement {
                key: NAMESPACE_LABEL.to_owned(),
                operator: Operator::In(BTreeSet::from([namespace.clone()])),
            };
            let other = LabelSelector { requirements: vec![named] };
            let namespaces = (namespace != own_namespace).then_some(other);
            Some(PolicyPeer::Pods { namespaces, pods: LabelSelector::with_labels(labels) })
        }
        Peer::Address(ip) => Some(host_block(*ip)),
        Peer::Name(_) => None,
    }
}

fn host_block(ip: IpAddr) -> PolicyPeer {
    PolicyPeer::Block(IpBlock { cidr: Cidr::host(ip), except: Vec::new() })
}

/// Ports that follow each other, as ranges.
fn spans(ports: &BTreeSet<(Protocol, u16)>) -> Vec<(Protocol, u16, u16)> {
    let mut spans: Vec<(Protocol, u16, u16)> = Vec::new();
    for (protocol, port) in ports {
        match spans.last_mut() {
            Some((of, _, last)) if of == protocol && last.checked_add(1) == Some(*port) => {
                *last = *port;
            }
            _ => spans.push((*protocol, *port, *port)),
        }
    }
    spans
}

impl From<Port> for (Protocol, u16) {
    fn from(port: Port) -> Self {
        (port.protocol, port.number)
    }
}

#[cfg(test)]
#[path = "tests/audit.rs"]
mod tests;
