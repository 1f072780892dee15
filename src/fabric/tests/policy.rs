#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

//! Each rule of Kubernetes' page "Network Policies" as a row, and a naive evaluator beside ours.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::spec::{Cidr, IpBlock, LabelSelector, Operator, PolicyPort, Requirement};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn with(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector::with_labels(&labels(pairs))
}

fn pods(pairs: &[(&str, &str)]) -> PolicyPeer {
    PolicyPeer::Pods { namespaces: None, pods: with(pairs) }
}

fn block(cidr: &str, except: &[&str]) -> PolicyPeer {
    let parse = |text: &&str| text.parse::<Cidr>().unwrap();
    PolicyPeer::Block(IpBlock { cidr: parse(&cidr), except: except.iter().map(parse).collect() })
}

fn tcp(first: u16, last: u16) -> PolicyPort {
    PolicyPort { protocol: Some(Protocol::Tcp), ports: PortMatch::Range(first, last) }
}

fn rule(peers: &[PolicyPeer], ports: &[PolicyPort]) -> PolicyRule {
    PolicyRule { peers: peers.to_vec(), ports: ports.to_vec() }
}

/// A policy of the namespace `lab` for the pods with `role=db`.
fn policy(ingress: Option<Vec<PolicyRule>>, egress: Option<Vec<PolicyRule>>) -> Arc<NetworkPolicy> {
    Arc::new(NetworkPolicy {
        key: NamespacedName::new("lab", "p"),
        pods: with(&[("role", "db")]),
        ingress,
        egress,
        egress_names: Vec::new(),
        audit: false,
    })
}

/// A pod of its own, to make views of.
#[derive(Debug)]
struct Who {
    namespace: &'static str,
    spaces: Labels,
    labels: Labels,
    ports: Vec<NamedPort>,
    ip: IpAddr,
}

impl Who {
    fn new(namespace: &'static str, pairs: &[(&str, &str)], ip: &str) -> Self {
        let http = NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 };
        Self {
            namespace,
            spaces: namespace_labels(namespace),
            labels: labels(pairs),
            ports: vec![http],
            ip: ip.parse().unwrap(),
        }
    }

    fn view(&self) -> PodView<'_> {
        PodView {
            namespace: self.namespace,
            namespace_labels: &self.spaces,
            labels: &self.labels,
            ports: &self.ports,
        }
    }

    fn party(&self) -> Party<'_> {
        Party { ip: self.ip, pod: Some(self.view()) }
    }
}

fn db() -> Who {
    Who::new("lab", &[("role", "db")], "10.88.0.1")
}

fn front() -> Who {
    Who::new("lab", &[("role", "frontend")], "10.88.0.2")
}

fn other() -> Who {
    Who::new("shop", &[("role", "frontend")], "10.88.0.3")
}

fn at(number: u16) -> Port {
    Port { protocol: Protocol::Tcp, number }
}

fn of(policies: &[Arc<NetworkPolicy>]) -> Isolation {
    Isolation::of(policies, "lab", &db().labels)
}

/// Whether `db` admits a connection to port 6379 under one ingress rule from: a pod beside it, one of another namespace, an
/// address outside.
fn admitted(rules: Vec<PolicyRule>) -> [bool; 3] {
    let isolation = of(&[policy(Some(rules), None)]);
    let outside = Party { ip: "172.17.3.4".parse().unwrap(), pod: None };
    [front().party(), other().party(), outside]
        .map(|from| isolation.admits(&db().view(), &from, at(6379)))
}

#[test]
fn every_kind_of_ingress_rule_admits_whom_it_names() {
    let named = |name: &str| PolicyPeer::Pods {
        namespaces: Some(with(&[("kubernetes.io/metadata.name", name)])),
        pods: LabelSelector::everything(),
    };
    let everywhere = PolicyPeer::Pods {
        namespaces: Some(LabelSelector::everything()),
        pods: with(&[("role", "frontend")]),
    };
    let shop_db = PolicyPeer::Pods {
        namespaces: Some(with(&[("kubernetes.io/metadata.name", "shop")])),
        pods: with(&[("role", "db")]),
    };
    let rows: Vec<(&str, Vec<PolicyRule>, [bool; 3])> = vec![
        ("no rule: nothing", vec![], [false; 3]),
        ("an empty rule: everything", vec![rule(&[], &[])], [true; 3]),
        (
            "pods of its own namespace",
            vec![rule(&[pods(&[("role", "frontend")])], &[])],
            [true, false, false],
        ),
        ("an empty pod selector: all of them", vec![rule(&[pods(&[])], &[])], [true, false, false]),
        ("other labels", vec![rule(&[pods(&[("role", "x")])], &[])], [false; 3]),
        ("all pods of a namespace", vec![rule(&[named("shop")], &[])], [false, true, false]),
        ("its own namespace by name", vec![rule(&[named("lab")], &[])], [true, false, false]),
        ("pods of every namespace", vec![rule(&[everywhere], &[])], [true, true, false]),
        ("both selectors must match", vec![rule(&[shop_db], &[])], [false; 3]),
        ("either of two peers", vec![rule(&[named("shop"), pods(&[])], &[])], [true, true, false]),
        ("addresses", vec![rule(&[block("172.17.0.0/16", &[])], &[])], [false, false, true]),
        ("less some", vec![rule(&[block("172.17.0.0/16", &["172.17.3.0/24"])], &[])], [false; 3]),
        (
            "a pod's address is one too",
            vec![rule(&[block("10.88.0.2/32", &[])], &[])],
            [true, false, false],
        ),
        ("at the port", vec![rule(&[], &[tcp(6379, 6379)])], [true; 3]),
        ("within a range", vec![rule(&[], &[tcp(6000, 7000)])], [true; 3]),
        ("at another port", vec![rule(&[], &[tcp(80, 90)])], [false; 3]),
        (
            "rules add up",
            vec![rule(&[], &[tcp(80, 90)]), rule(&[pods(&[])], &[])],
            [true, false, false],
        ),
        (
            "peer and port of one rule must both match",
            vec![rule(&[pods(&[])], &[tcp(80, 80)]), rule(&[named("x")], &[tcp(6379, 6379)])],
            [false; 3],
        ),
    ];
    for (what, rules, expected) in rows {
        assert_eq!(admitted(rules), expected, "{what}");
    }
}

#[test]
fn ports_are_of_a_protocol_and_may_go_by_name() {
    let admits = |ports: &[PolicyPort], port: Port| {
        let isolation = of(&[policy(Some(vec![rule(&[], ports)]), None)]);
        isolation.admits(&db().view(), &front().party(), port)
    };
    let one = |protocol, ports| PolicyPort { protocol, ports };
    let named = |protocol| one(Some(protocol), PortMatch::Named("http".to_owned()));
    let udp = |number| Port { protocol: Protocol::Udp, number };
    assert!(admits(&[named(Protocol::Tcp)], at(8080)), "by the name it has in the pod");
    assert!(!admits(&[named(Protocol::Tcp)], at(80)));
    assert!(!admits(&[named(Protocol::Udp)], udp(8080)), "its port of that name is TCP");
    assert!(!admits(&[tcp(53, 53)], udp(53)));
    assert!(admits(&[one(Some(Protocol::Udp), PortMatch::All)], udp(53)));
    assert!(
        !admits(&[one(None, PortMatch::All)], at(53)),
        "SCTP alone lets nothing in, and not everything"
    );
}

#[test]
fn a_named_port_of_an_egress_rule_is_that_of_the_pod_it_leads_to() {
    let ports =
        [PolicyPort { protocol: Some(Protocol::Tcp), ports: PortMatch::Named("http".to_owned()) }];
    let isolation = of(&[policy(None, Some(vec![rule(&[], &ports)]))]);
    assert!(isolation.lets_out(&front().party(), at(8080)));
    assert!(!isolation.lets_out(&front().party(), at(81)));
    assert!(
        !isolation.lets_outside("192.0.2.1".parse().unwrap(), at(8080)),
        "nobody names it there"
    );
}

#[test]
fn only_a_policy_that_selects_a_pod_isolates_it_and_only_where_it_says() {
    let (deny_in, deny_out) = (policy(Some(vec![]), None), policy(None, Some(vec![])));
    let db = db();
    let both = |isolation: &Isolation| {
        (
            isolation.admits(&db.view(), &front().party(), at(1)),
            isolation.lets_out(&front().party(), at(1)),
        )
    };
    assert_eq!(both(&of(&[])), (true, true), "open without any");
    assert_eq!(both(&of(&[Arc::clone(&deny_in)])), (false, true));
    assert_eq!(both(&of(&[Arc::clone(&deny_out)])), (true, false));
    assert_eq!(both(&of(&[Arc::clone(&deny_in), deny_out])), (false, false));
    let elsewhere = Isolation::of(&[Arc::clone(&deny_in)], "shop", &db.labels);
    assert_eq!(both(&elsewhere), (true, true), "a policy of another namespace");
    let unlabelled = Isolation::of(&[Arc::clone(&deny_in)], "lab", &Labels::new());
    assert_eq!(both(&unlabelled), (true, true), "not among the pods it selects");
    let allow = policy(Some(vec![rule(&[], &[])]), None);
    assert_eq!(both(&of(&[deny_in, allow])), (true, true), "policies add up; none takes away");
}

#[test]
fn the_outside_is_closed_until_a_rule_with_its_address_opens_it() {
    let lets = |egress: Option<Vec<PolicyRule>>| {
        let isolation = of(&[policy(None, egress)]);
        let ips = ["192.0.2.1", "192.0.2.200", "2001:db8::1"];
        ips.map(|ip| isolation.lets_outside(ip.parse().unwrap(), at(443)))
    };
    assert!(!of(&[]).lets_outside("192.0.2.1".parse().unwrap(), at(443)), "closed without any");
    assert_eq!(lets(Some(vec![])), [false; 3]);
    assert_eq!(lets(Some(vec![rule(&[], &[])])), [true; 3], "a rule without `to` means everywhere");
    assert_eq!(lets(Some(vec![rule(&[pods(&[])], &[])])), [false; 3], "pods are within");
    assert_eq!(lets(Some(vec![rule(&[block("192.0.2.0/25", &[])], &[])])), [true, false, false]);
    assert_eq!(lets(Some(vec![rule(&[block("2001:db8::/32", &[])], &[])])), [false, false, true]);
    assert_eq!(lets(Some(vec![rule(&[block("0.0.0.0/0", &[])], &[tcp(80, 80)])])), [false; 3]);
}

#[test]
fn who_could_ask_a_resolver_may_have_names_looked_up() {
    let asks = |peers: &[PolicyPeer], ports: &[PolicyPort]| {
        of(&[policy(None, Some(vec![rule(peers, ports)]))]).lets_ask_resolvers()
    };
    let lan = block("192.168.0.0/16", &[]);
    let udp = PolicyPort { protocol: Some(Protocol::Udp), ports: PortMatch::Range(53, 53) };
    assert!(!of(&[]).lets_ask_resolvers());
    assert!(asks(&[], &[]) && asks(std::slice::from_ref(&lan), &[]));
    assert!(asks(std::slice::from_ref(&lan), &[tcp(443, 443), udp]));
    assert!(!asks(&[lan], &[tcp(443, 443)]));
    assert!(!asks(&[pods(&[])], &[]));
}

// ---- against a naive evaluator ----

/// The same question, asked of the policies as they are written, with nothing prepared: a list of every sentence that lets the
/// connection through.
fn naive(
    policies: &[Arc<NetworkPolicy>],
    ingress: bool,
    me: &Who,
    peer: &Who,
    peer_is_pod: bool,
    port: Port,
) -> bool {
    let of_me = policies.iter().filter(|policy| {
        let mut selected = &*policy.key.namespace == me.namespace;
        for requirement in &policy.pods.requirements {
            selected &= holds(requirement, &me.labels);
        }
        selected && if ingress { policy.ingress.is_some() } else { policy.egress.is_some() }
    });
    let of_me: Vec<_> = of_me.collect();
    if of_me.is_empty() {
        return peer_is_pod || ingress;
    }
    let target = if ingress { me } else { peer };
    for policy in of_me {
        let rules = if ingress { &policy.ingress } else { &policy.egress };
        for rule in rules.iter().flatten() {
            let mut peer_ok = rule.peers.is_empty();
            for one in &rule.peers {
                peer_ok |= match one {
                    PolicyPeer::Block(block) => {
                        let IpAddr::V4(ip) = peer.ip else { panic!() };
                        in_block(&block.cidr, ip) && !block.except.iter().any(|e| in_block(e, ip))
                    }
                    PolicyPeer::Pods { namespaces, pods } => {
                        peer_is_pod
                            && pods.requirements.iter().all(|r| holds(r, &peer.labels))
                            && match namespaces {
                                None => peer.namespace == &*policy.key.namespace,
                                Some(spaces) => {
                                    spaces.requirements.iter().all(|r| holds(r, &peer.spaces))
                                }
                            }
                    }
                };
            }
            let mut port_ok = rule.ports.is_empty();
            for one in &rule.ports {
                port_ok |= one.protocol == Some(port.protocol)
                    && match &one.ports {
                        PortMatch::All => true,
                        PortMatch::Range(first, last) => {
                            port.number >= *first && port.number <= *last
                        }
                        PortMatch::Named(name) => {
                            let pod = ingress || peer_is_pod;
                            let named = target.ports.iter().find(|named| named.name == *name);
                            pod && named.is_some_and(|n| {
                                (n.protocol, n.port) == (port.protocol, port.number)
                            })
                        }
                    };
            }
            if peer_ok && port_ok {
                return true;
            }
        }
    }
    false
}

fn holds(requirement: &Requirement, labels: &Labels) -> bool {
    match (&requirement.operator, labels.get(&requirement.key)) {
        (Operator::In(set), Some(value)) => set.contains(value),
        (Operator::In(_), None) => false,
        (Operator::NotIn(set), Some(value)) => !set.contains(value),
        (Operator::NotIn(_), None) => true,
        (Operator::Exists, value) => value.is_some(),
        (Operator::DoesNotExist, value) => value.is_none(),
    }
}

/// Bit by bit.
fn in_block(cidr: &Cidr, ip: Ipv4Addr) -> bool {
    let text = cidr.to_string();
    let (network, prefix) = text.split_once('/').unwrap();
    let (network, prefix) = (network.parse::<Ipv4Addr>().unwrap(), prefix.parse::<u32>().unwrap());
    (0..prefix).all(|bit| {
        let mask = 1_u32 << (31 - bit);
        u32::from(network) & mask == u32::from(ip) & mask
    })
}

fn some_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[ab]", "[xy]", 0..3)
}

fn some_selector() -> impl Strategy<Value = LabelSelector> {
    let values = prop::collection::btree_set("[xy]", 1..3);
    let operator = prop_oneof![
        values.clone().prop_map(Operator::In),
        values.prop_map(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
    ];
    let requirement = ("[ab]", operator).prop_map(|(key, operator)| Requirement { key, operator });
    prop::collection::vec(requirement, 0..3).prop_map(|requirements| LabelSelector { requirements })
}

fn some_spaces() -> impl Strategy<Value = Option<LabelSelector>> {
    let named = prop::sample::subsequence(vec!["lab", "shop"], 1..3).prop_map(|names| {
        let values: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
        let key = "kubernetes.io/metadata.name".to_owned();
        LabelSelector { requirements: vec![Requirement { key, operator: Operator::In(values) }] }
    });
    prop::option::of(prop_oneof![named, Just(LabelSelector::everything())])
}

fn some_cidr() -> impl Strategy<Value = Cidr> {
    // Close to each other, so that they overlap.
    (0_u32..64, 24_u8..=32).prop_map(|(host, prefix)| {
        Cidr::new(Ipv4Addr::from(0x0A58_0000 + host).into(), prefix).unwrap()
    })
}

fn some_peer() -> impl Strategy<Value = PolicyPeer> {
    prop_oneof![
        (some_spaces(), some_selector())
            .prop_map(|(namespaces, pods)| PolicyPeer::Pods { namespaces, pods }),
        (some_cidr(), prop::collection::vec(some_cidr(), 0..2))
            .prop_map(|(cidr, except)| PolicyPeer::Block(IpBlock { cidr, except })),
    ]
}

fn some_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn some_port() -> impl Strategy<Value = PolicyPort> {
    let ports = prop_oneof![
        Just(PortMatch::All),
        (1_u16..6, 0_u16..3).prop_map(|(first, more)| PortMatch::Range(first, first + more)),
        "[pq]".prop_map(PortMatch::Named),
    ];
    (prop::option::of(some_protocol()), ports)
        .prop_map(|(protocol, ports)| PolicyPort { protocol, ports })
}

fn some_rules() -> impl Strategy<Value = Option<Vec<PolicyRule>>> {
    let rule = (prop::collection::vec(some_peer(), 0..3), prop::collection::vec(some_port(), 0..3))
        .prop_map(|(peers, ports)| PolicyRule { peers, ports });
    prop::option::of(prop::collection::vec(rule, 0..3))
}

fn some_policy() -> impl Strategy<Value = Arc<NetworkPolicy>> {
    let namespace = prop_oneof![Just("lab"), Just("shop")];
    (namespace, some_selector(), some_rules(), some_rules()).prop_map(
        |(namespace, pods, ingress, egress)| {
            Arc::new(NetworkPolicy {
                key: NamespacedName::new(namespace, "p"),
                pods,
                ingress,
                egress,
                egress_names: Vec::new(),
                audit: false,
            })
        },
    )
}

fn some_pod() -> impl Strategy<Value = Who> {
    let namespace = prop_oneof![Just("lab"), Just("shop")];
    let ports = prop::collection::btree_map("[pq]", (some_protocol(), 1_u16..6), 0..3);
    (namespace, some_labels(), ports, 0_u32..64).prop_map(|(namespace, labels, ports, host)| Who {
        namespace,
        spaces: namespace_labels(namespace),
        labels,
        ports: ports
            .into_iter()
            .map(|(name, (protocol, port))| NamedPort { name, protocol, port })
            .collect(),
        ip: Ipv4Addr::from(0x0A58_0000 + host).into(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn our_evaluator_agrees_with_a_naive_one(
        policies in prop::collection::vec(some_policy(), 0..4),
        me in some_pod(),
        peer in some_pod(),
        protocol in some_protocol(),
        number in 1_u16..8,
    ) {
        let port = Port { protocol, number };
        let isolation = Isolation::of(&policies, me.namespace, &me.labels);
        let ask = |ingress, is_pod| naive(&policies, ingress, &me, &peer, is_pod, port);
        let stranger = Party { ip: peer.ip, pod: None };
        prop_assert_eq!(isolation.admits(&me.view(), &peer.party(), port), ask(true, true));
        prop_assert_eq!(isolation.admits(&me.view(), &stranger, port), ask(true, false));
        prop_assert_eq!(isolation.lets_out(&peer.party(), port), ask(false, true));
        prop_assert_eq!(isolation.lets_outside(peer.ip, port), ask(false, false));
    }
}
