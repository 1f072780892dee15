#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fabric::policy::{Isolation, Party, PodView, namespace_labels};

fn now() -> Timestamp {
    Timestamp::simulated(Duration::ZERO)
}

fn labels(app: &str) -> Labels {
    Labels::from([("app".to_owned(), app.to_owned())])
}

fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 88, 0, n).into()
}

fn used(direction: Direction, peer: Peer, port: u16) -> Use {
    Use { direction, peer, port: Some((Protocol::Tcp, port)) }
}

fn pod(namespace: &str, app: &str, host: u8) -> Peer {
    let labels = if app.is_empty() { Labels::new() } else { labels(app) };
    Peer::Pod { namespace: namespace.to_owned(), labels, ip: ip(host) }
}

fn policy_of(uses: &[Use]) -> NetworkPolicy {
    let mut log = AuditLog::default();
    for one in uses {
        log.note(one.clone(), true, now());
    }
    log.policy(&PodKey::new("lab", "meter"), &labels("meter"))
}

#[test]
fn a_policy_says_what_was_used_and_no_more() {
    use Direction::{Egress, Ingress};
    let outside = |last| Peer::Address(Ipv4Addr::new(192, 0, 2, last).into());
    let policy = policy_of(&[
        used(Egress, pod("lab", "db", 1), 5432),
        used(Egress, pod("shop", "db", 2), 5432),
        used(Egress, outside(1), 443),
        used(Egress, outside(1), 444),
        used(Egress, outside(2), 80),
        used(Egress, Peer::Name("api.example.com".to_owned()), 443),
        Use { direction: Egress, peer: Peer::Name("idle.example.com".to_owned()), port: None },
        used(Ingress, pod("lab", "", 7), 8080),
    ]);
    assert_eq!(policy.key.to_string(), "lab/meter-audited");
    assert!(policy.pods.matches(&labels("meter")));
    let names: Vec<String> = policy.egress_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["api.example.com:443"], "a name that led nowhere needs no rule");
    let ports = |rule: &PolicyRule| match rule.ports.as_slice() {
        [PolicyPort { protocol: Some(Protocol::Tcp), ports: PortMatch::Range(first, last) }] => {
            (rule.peers.len(), *first, *last)
        }
        other => panic!("{other:?}"),
    };
    let egress: Vec<_> = policy.egress.as_ref().unwrap().iter().map(ports).collect();
    assert_eq!(egress, [(1, 80, 80), (1, 443, 444), (2, 5432, 5432)]);
    let ingress = policy.ingress.unwrap();
    assert!(matches!(ingress[0].peers.as_slice(), [PolicyPeer::Block(_)]), "no label to say it by");
}

#[test]
fn nothing_seen_is_a_policy_that_allows_nothing() {
    let policy = policy_of(&[]);
    assert_eq!((policy.ingress, policy.egress), (Some(vec![]), Some(vec![])));
}

#[test]
fn the_log_is_bounded_and_says_what_it_lost() {
    let mut log = AuditLog::default();
    let one = |n: u32| used(Direction::Egress, Peer::Address(Ipv4Addr::from(n).into()), 1);
    let count = u32::try_from(SEEN_MAX).unwrap();
    assert!((0..count).all(|n| log.note(one(n), false, now())));
    assert!(!log.note(one(count), true, now()) && !log.note(one(0), true, now()));
    assert_eq!((log.iter().count(), log.lost()), (SEEN_MAX, 1));
    assert!(log.iter().next().unwrap().1.denied, "denied once, whatever came before");
}

// ---- exactly what was used ----

#[derive(Clone, Debug)]
struct Other {
    namespace: &'static str,
    labels: Labels,
    is_pod: bool,
    ip: IpAddr,
}

impl Other {
    fn peer(&self) -> Peer {
        if !self.is_pod {
            return Peer::Address(self.ip);
        }
        let (namespace, labels) = (self.namespace.to_owned(), self.labels.clone());
        Peer::Pod { namespace, labels, ip: self.ip }
    }

    /// What rules cannot tell apart from it.
    fn class(&self) -> Peer {
        match self.peer() {
            Peer::Pod { namespace, labels, .. } if !labels.is_empty() => {
                Peer::Pod { namespace, labels, ip: ip(0) }
            }
            // An address is an address, whoever has it.
            Peer::Pod { ip, .. } => Peer::Address(ip),
            other @ (Peer::Address(_) | Peer::Name(_)) => other,
        }
    }
}

fn others() -> Vec<Other> {
    let mut all = Vec::new();
    for (index, app) in ["", "a", "b"].iter().enumerate() {
        for (place, namespace) in ["lab", "shop"].into_iter().enumerate() {
            let host = u8::try_from(index * 2 + place + 1).unwrap();
            let labels = if app.is_empty() { Labels::new() } else { labels(app) };
            all.push(Other { namespace, labels, is_pod: true, ip: ip(host) });
        }
    }
    for last in [1, 2] {
        let ip = Ipv4Addr::new(192, 0, 2, last).into();
        all.push(Other { namespace: "", labels: Labels::new(), is_pod: false, ip });
    }
    all
}

proptest! {
    #[test]
    fn the_policy_allows_exactly_what_was_seen(
        seen in prop::collection::btree_set((any::<bool>(), 0_usize..8, any::<bool>(), 1_u16..6), 0..12),
    ) {
        let others = others();
        let direction = |egress| if egress { Direction::Egress } else { Direction::Ingress };
        let protocol = |udp| if udp { Protocol::Udp } else { Protocol::Tcp };
        let uses: Vec<Use> = seen.iter().map(|(egress, who, udp, port)| Use {
            direction: direction(*egress), peer: others[*who].peer(), port: Some((protocol(*udp), *port)),
        }).collect();
        let policy = Arc::new(policy_of(&uses));
        let me = labels("meter");
        let isolation = Isolation::of([&policy], "lab", &me);
        let lab = namespace_labels("lab");
        let own = PodView { namespace: "lab", namespace_labels: &lab, labels: &me, ports: &[] };
        for egress in [false, true] {
            for other in &others {
                let spaces = namespace_labels(other.namespace);
                let view = PodView {
                    namespace: other.namespace, namespace_labels: &spaces, labels: &other.labels, ports: &[],
                };
                let party = Party { ip: other.ip, pod: other.is_pod.then_some(view) };
                for udp in [false, true] {
                    for number in 1_u16..6 {
                        let port = Port { protocol: protocol(udp), number };
                        let allowed = match (egress, other.is_pod) {
                            (true, true) => isolation.lets_out(&party, port),
                            (true, false) => isolation.lets_outside(other.ip, port),
                            (false, _) => isolation.admits(&own, &party, port),
                        };
                        let was_seen = seen.iter().any(|(e, who, u, p)| {
                            (*e, *u, *p) == (egress, udp, number) && others[*who].class() == other.class()
                        });
                        prop_assert_eq!(allowed, was_seen, "{} {:?} {:?}", egress, other, port);
                    }
                }
            }
        }
    }
}
