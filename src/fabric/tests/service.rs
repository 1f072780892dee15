#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::spec::{Protocol, ServiceAddress};

fn service(ports: &[(&str, u16, PortRef)]) -> Service {
    Service {
        key: NamespacedName::new("lab", "web"),
        selector: [("app".to_owned(), "web".to_owned())].into(),
        address: ServiceAddress::ClusterIp(Ipv4Addr::new(10, 89, 0, 1)),
        ports: ports
            .iter()
            .map(|(name, port, target)| ServicePort {
                name: (!name.is_empty()).then(|| (*name).to_owned()),
                protocol: Protocol::Tcp,
                port: *port,
                target: target.clone(),
                node_port: None,
            })
            .collect(),
        affinity: None,
        publish_not_ready: false,
    }
}

/// What a pod of these tests is made of.
#[derive(Clone, Debug)]
struct Thing {
    uid: PodUid,
    key: PodKey,
    labels: Labels,
    ports: Vec<NamedPort>,
    state: PodState,
    host: u8,
}

fn thing(host: u8, state: PodState) -> Thing {
    Thing {
        uid: PodUid::new(&format!("u{host}")),
        key: PodKey::new("lab", &format!("p{host}")),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ports: vec![NamedPort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 8000 + u16::from(host),
        }],
        state,
        host,
    }
}

const READY: PodState = PodState { ready: true, terminating: false, over: false };

impl Thing {
    fn backend(&self) -> Backend<'_> {
        Backend {
            uid: &self.uid,
            key: &self.key,
            labels: &self.labels,
            ip: Ipv4Addr::new(10, 88, 0, self.host),
            ports: &self.ports,
            hostname: "h",
            subdomain: (self.host == 9).then_some("web"),
            state: self.state,
        }
    }
}

fn of(service: &Service, things: &[Thing]) -> Vec<Endpoint> {
    endpoints(service, things.iter().map(Thing::backend))
}

fn hosts(endpoints: &[Endpoint], port: usize) -> Vec<(u8, u16)> {
    usable(endpoints, port).map(|(e, number)| (e.ip.octets()[3], number)).collect()
}

fn eighty() -> Service {
    service(&[("", 80, PortRef::Number(8080))])
}

#[test]
fn a_pod_is_behind_a_service_as_the_endpoint_controller_says() {
    let state = |ready, terminating, over| PodState { ready, terminating, over };
    for (state, publish, expected) in [
        // ready, serving, terminating
        (state(true, false, false), false, Some((true, true, false))),
        (state(false, false, false), false, Some((false, false, false))),
        (state(true, true, false), false, Some((false, true, true))),
        (state(false, true, false), false, Some((false, false, true))),
        (state(false, false, true), false, None),
        (state(true, false, true), true, None),
        (state(false, false, false), true, Some((true, false, false))),
        (state(true, true, false), true, Some((true, true, true))),
    ] {
        let service = Service { publish_not_ready: publish, ..eighty() };
        let found = of(&service, &[thing(1, state)]);
        let found = found.first().map(|e| (e.ready, e.serving, e.terminating));
        assert_eq!(found, expected, "{state:?} publish {publish}");
    }
    let mut elsewhere = thing(2, READY);
    elsewhere.key = PodKey::new("shop", "p2");
    let mut unlabelled = thing(3, READY);
    unlabelled.labels.clear();
    assert_eq!(of(&eighty(), &[elsewhere, unlabelled]), []);
    let unselective = Service { selector: Labels::new(), ..eighty() };
    assert_eq!(of(&unselective, &[thing(1, READY)]), [], "without a selector nobody");
    let named = of(&eighty(), &[thing(9, READY), thing(1, READY)]);
    let names: Vec<Option<&str>> = named.iter().map(|e| e.hostname.as_deref()).collect();
    assert_eq!(names, [None, Some("h")], "by name, and with its own name where it has one");
}

#[test]
fn traffic_goes_to_the_ready_else_to_those_that_still_serve() {
    let serving = PodState { ready: true, terminating: true, over: false };
    let gone = PodState { ready: false, terminating: true, over: false };
    let down = PodState::default();
    let of = |states: &[PodState]| {
        let things: Vec<Thing> =
            (1..).zip(states).map(|(host, state)| thing(host, *state)).collect();
        let list = of(&eighty(), &things);
        hosts(&list, 0).iter().map(|(host, _)| *host).collect::<Vec<_>>()
    };
    assert_eq!(of(&[READY, serving, down, READY]), [1, 4]);
    assert_eq!(of(&[serving, gone, down]), [1]);
    assert_eq!(of(&[gone, down]), [] as [u8; 0]);
}

#[test]
fn a_target_may_be_a_name_that_each_pod_has_its_own_way() {
    let service = service(&[
        ("a", 80, PortRef::Name("http".to_owned())),
        ("b", 81, PortRef::Name("admin".to_owned())),
        ("c", 82, PortRef::Number(7)),
    ]);
    let mut two = thing(2, READY);
    two.ports.push(NamedPort { name: "admin".to_owned(), protocol: Protocol::Tcp, port: 9 });
    let list = of(&service, &[thing(1, READY), two]);
    assert_eq!(hosts(&list, 0), [(1, 8001), (2, 8002)]);
    assert_eq!(hosts(&list, 1), [(2, 9)], "a pod without the name is no endpoint of that port");
    assert_eq!(hosts(&list, 2), [(1, 7), (2, 7)]);
    assert_eq!(hosts(&list, 3), []);
    // A pod that lacks the name must not count as the one ready pod.
    let mut ending = thing(3, PodState { ready: true, terminating: true, over: false });
    ending.ports.push(NamedPort { name: "admin".to_owned(), protocol: Protocol::Tcp, port: 9 });
    assert_eq!(hosts(&of(&service, &[thing(1, READY), ending]), 1), [(3, 9)]);
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::simulated(Duration::from_secs(seconds))
}

fn client(ip: u8, port: u16, is_flow: bool) -> Client {
    Client { from: SocketAddr::new(Ipv4Addr::new(10, 88, 1, ip).into(), port), is_flow }
}

fn picked(
    balancer: &mut Balancer,
    list: &[Endpoint],
    client: Client,
    affinity: Option<u64>,
    now: u64,
) -> Option<u8> {
    let affinity = affinity.map(Duration::from_secs);
    let found = balancer.pick(list, 0, client, affinity, at(now))?;
    Some(found.0.ip.octets()[3])
}

#[test]
fn connections_go_round() {
    let list = of(&eighty(), &[thing(1, READY), thing(2, READY), thing(3, READY)]);
    let mut balancer = Balancer::default();
    let mut pick = |list: &[Endpoint]| picked(&mut balancer, list, client(1, 5, false), None, 0);
    let turns: Vec<_> = (0..6).map(|_| pick(&list).unwrap()).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
    assert_eq!(pick(&[]), None, "nobody to be had");
    assert_eq!(pick(&list[..1]), Some(1), "fewer than there were");
}

#[test]
fn a_client_with_affinity_stays_until_it_was_away_too_long() {
    let things = [thing(1, READY), thing(2, READY)];
    let list = of(&eighty(), &things);
    let mut balancer = Balancer::default();
    let mut pick = |list: &[Endpoint], ip, now| {
        picked(&mut balancer, list, client(ip, 5, false), Some(100), now)
    };
    assert_eq!((pick(&list, 1, 0), pick(&list, 2, 0)), (Some(1), Some(2)));
    assert_eq!((pick(&list, 1, 90), pick(&list, 1, 190)), (Some(1), Some(1)), "each use renews it");
    assert_eq!(pick(&list, 2, 101), Some(1), "too long away: the next in turn");
    let without = of(&eighty(), &things[1..]);
    assert_eq!(pick(&without, 1, 200), Some(2), "its pod is gone");
    assert_eq!(pick(&list, 1, 201), Some(2), "and it stays with the new one");
}

#[test]
fn datagrams_of_a_socket_go_to_one_pod() {
    let list = of(&eighty(), &[thing(1, READY), thing(2, READY)]);
    let mut balancer = Balancer::default();
    let mut pick = |port, now| picked(&mut balancer, &list, client(1, port, true), None, now);
    assert_eq!((pick(5, 0), pick(6, 0)), (Some(1), Some(2)));
    assert_eq!((pick(5, 110), pick(6, 1), pick(5, 220)), (Some(1), Some(2), Some(1)));
    assert_eq!(pick(6, 122), Some(1), "a flow that was quiet too long is a new one");
    assert_eq!(pick(0, 122), Some(2), "a socket without a port is nobody's flow yet");
    assert_eq!(balancer.flows.0.len(), 2);
}

#[test]
fn variables_are_those_of_docker_and_kubernetes() {
    let mut web =
        service(&[("http", 80, PortRef::Number(8080)), ("dns-tcp", 53, PortRef::Number(53))]);
    web.key = NamespacedName::new("lab", "my-web");
    web.ports[1].protocol = Protocol::Udp;
    let text: Vec<String> =
        variables(&web).iter().map(|(key, value)| format!("{key}={value}")).collect();
    let expected = "MY_WEB_SERVICE_HOST=10.89.0.1 MY_WEB_SERVICE_PORT=80 MY_WEB_SERVICE_PORT_HTTP=80 \
        MY_WEB_SERVICE_PORT_DNS_TCP=53 MY_WEB_PORT=tcp://10.89.0.1:80 MY_WEB_PORT_80_TCP=tcp://10.89.0.1:80 \
        MY_WEB_PORT_80_TCP_PROTO=tcp MY_WEB_PORT_80_TCP_PORT=80 MY_WEB_PORT_80_TCP_ADDR=10.89.0.1 \
        MY_WEB_PORT_53_UDP=udp://10.89.0.1:53 MY_WEB_PORT_53_UDP_PROTO=udp MY_WEB_PORT_53_UDP_PORT=53 \
        MY_WEB_PORT_53_UDP_ADDR=10.89.0.1";
    assert_eq!(text.join(" "), expected);
    web.address = ServiceAddress::Headless;
    assert_eq!(variables(&web), []);
}

proptest! {
    /// Whatever happens to pods and clients: a pick is one of the usable, none is picked only if none is usable, memory is
    /// bounded, and without affinity no pod gets more than one turn more than another while nothing changes.
    #[test]
    fn picks_are_usable_fair_and_bounded(
        states in prop::collection::vec((any::<bool>(), any::<bool>()), 0..5),
        clients in prop::collection::vec((0_u8..20, 0_u16..4, any::<bool>()), 1..60),
        affinity in prop::option::of(1_u64..50),
    ) {
        let things: Vec<Thing> = (1..).zip(&states).map(|(host, (ready, terminating))| {
            thing(host, PodState { ready: *ready, terminating: *terminating, over: false })
        }).collect();
        let list = of(&eighty(), &things);
        let usable: Vec<u8> = hosts(&list, 0).iter().map(|(host, _)| *host).collect();
        let mut balancer = Balancer::default();
        let mut counts = std::collections::BTreeMap::new();
        for (now, (ip, port, is_flow)) in (0..).zip(clients) {
            let host = picked(&mut balancer, &list, client(ip, port, is_flow), affinity, now);
            prop_assert_eq!(host.is_some(), !usable.is_empty());
            if let Some(host) = host {
                prop_assert!(usable.contains(&host));
                if affinity.is_none() && !is_flow {
                    *counts.entry(host).or_insert(0) += 1;
                }
            }
        }
        prop_assert!(balancer.clients.0.len() <= CLIENTS_MAX && balancer.flows.0.len() <= CLIENTS_MAX);
    }
}

#[test]
fn the_client_away_for_longest_makes_room() {
    let list = of(&eighty(), &[thing(1, READY), thing(2, READY)]);
    let mut balancer = Balancer::default();
    let count = u32::try_from(CLIENTS_MAX).unwrap();
    let one = |n: u32| Client {
        from: SocketAddr::new(Ipv4Addr::from(0x0A58_0000 + n).into(), 5),
        is_flow: false,
    };
    let affinity = Some(Duration::from_secs(10_000));
    for n in 0..=count {
        let now = at(u64::from(if n == 0 { 5000 } else { n }));
        balancer.pick(&list, 0, one(n), affinity, now).unwrap();
    }
    assert_eq!(balancer.clients.0.len(), CLIENTS_MAX);
    assert!(!balancer.clients.0.contains_key(&one(1).from.ip()), "the eldest went");
    assert!(balancer.clients.0.contains_key(&one(0).from.ip()));
}

#[test]
fn one_with_many_sockets_makes_nobody_elses_datagrams_go_elsewhere() {
    let list = of(&eighty(), &[thing(1, READY), thing(2, READY)]);
    let mut balancer = Balancer::default();
    let mut pick = |ip, port, now| picked(&mut balancer, &list, client(ip, port, true), None, now);
    let first = pick(9, 5, 0).unwrap();
    for port in 1..=5000 {
        assert!(pick(1, port, 1).is_some());
    }
    assert_ne!(pick(2, 5, 1), Some(first), "it would have another if it were new");
    assert_eq!(pick(9, 5, 1), Some(first));
    assert_eq!(pick(1, 5000, 2), pick(1, 5000, 2), "its own newest it keeps");
    let own = balancer.flows.0.keys().filter(|from| from.ip() == client(1, 0, true).from.ip());
    assert_eq!(own.count(), FLOWS_OF_ONE_MAX);
    for n in 0..4000_u32 {
        let from = SocketAddr::new(Ipv4Addr::from(0x0A58_0300 + n).into(), 5);
        assert!(balancer.pick(&list, 0, Client { from, is_flow: true }, None, at(2)).is_some());
    }
    assert_eq!(balancer.flows.0.len(), CLIENTS_MAX);
}
