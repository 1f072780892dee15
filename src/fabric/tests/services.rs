//! Through Services.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;

use super::kit::{Guest, Node, at, got};
use super::pods::{from_pods, policy};
use crate::fabric::{Client, PodState};
use crate::net::{ConnectError, Family, ResolveError};
use crate::spec::{NamespacedName, PodUid, Protocol, ServiceAddress};

const WEB: &str = "10.89.0.1:80";

/// Connects to the Service, and says which of the pods got the connection.
fn reached(
    client: &Guest,
    to: &str,
    listeners: &mut [crate::net::Listener],
) -> Result<usize, ConnectError> {
    let seen = client.connect(to)?;
    assert_eq!(seen, at(to), "the client sees the address that it asked for");
    for (index, listener) in listeners.iter_mut().enumerate() {
        if let std::task::Poll::Ready(accepted) = listener.try_accept() {
            let from = accepted.unwrap().remote_address();
            assert_eq!(from.ip(), client.ip, "the server sees the client");
            return Ok(index);
        }
    }
    panic!("nobody got the connection to {to}");
}

fn state(ready: bool, terminating: bool) -> PodState {
    PodState { ready, terminating, over: false }
}

#[test]
fn a_service_spreads_connections_over_the_ready_pods() {
    let node = Node::new();
    let (one, two) = (node.guest("one", "app=web", 1), node.guest("two", "app=web", 2));
    let client = node.guest("ui", "app=ui", 3);
    node.fabric.set_service(node.service("web", "app=web", "http"));
    let mut listeners = [one.listen(8080), two.listen(8080)];
    let turns: BTreeSet<usize> =
        (0..4).map(|_| reached(&client, WEB, &mut listeners).unwrap()).collect();
    assert_eq!(turns.len(), 2);
    node.fabric.set_state(&one.pod.uid, state(false, false));
    assert!((0..4).all(|_| reached(&client, WEB, &mut listeners) == Ok(1)), "only the ready one");
    node.fabric.set_state(&two.pod.uid, state(true, true));
    assert_eq!(reached(&client, WEB, &mut listeners), Ok(1), "it serves while it ends");
    node.fabric.set_state(&two.pod.uid, PodState { over: true, ..state(false, false) });
    let refused = Err(ConnectError::Refused(at(WEB)));
    assert_eq!(client.connect(WEB), refused, "nobody is left");
    let other_port = at("10.89.0.1:81");
    assert_eq!(client.connect("10.89.0.1:81"), Err(ConnectError::Refused(other_port)));
    let nowhere = at("10.89.0.9:80");
    assert_eq!(client.connect("10.89.0.9:80"), Err(ConnectError::Unreachable(nowhere)));
    node.fabric.remove_service(&NamespacedName::new("lab", "web"));
    assert_eq!(client.connect(WEB), Err(ConnectError::Unreachable(at(WEB))));
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let node = Node::new();
    let web = node.guest("web", "app=web", 1);
    node.fabric.set_service(node.service("web", "app=web", "8080"));
    node.fabric.set_policy(policy("deny", "app=web", Some(vec![]), Some(vec![])));
    let mut listeners = [web.listen(8080)];
    assert_eq!(reached(&web, WEB, &mut listeners), Ok(0));
}

#[test]
fn policy_looks_at_the_pod_behind_a_service() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "app=ui", 3));
    node.fabric.set_service(node.service("web", "app=web", "8080"));
    let mut listeners = [web.listen(8080)];
    node.fabric.set_policy(policy("p", "app=ui", None, Some(vec![from_pods("app=web")])));
    assert_eq!(reached(&ui, WEB, &mut listeners), Ok(0));
    node.fabric.set_policy(policy("p", "app=ui", None, Some(vec![from_pods("app=db")])));
    assert_eq!(ui.connect(WEB), Err(ConnectError::Denied(at(WEB))));
}

#[test]
fn a_client_with_affinity_stays_with_its_pod() {
    let node = Node::new();
    let (one, two) = (node.guest("one", "app=web", 1), node.guest("two", "app=web", 2));
    let (a, b) = (node.guest("a", "", 3), node.guest("b", "", 4));
    let mut service = node.service("web", "app=web", "http");
    service.affinity = Some(Duration::from_secs(60));
    node.fabric.set_service(service.clone());
    let mut listeners = [one.listen(8080), two.listen(8080)];
    let first = reached(&a, WEB, &mut listeners).unwrap();
    let other = reached(&b, WEB, &mut listeners).unwrap();
    assert_ne!(first, other);
    service.publish_not_ready = true;
    node.fabric.set_service(service);
    for _ in 0..3 {
        assert_eq!(
            reached(&a, WEB, &mut listeners),
            Ok(first),
            "through edits that keep the ports"
        );
        assert_eq!(reached(&b, WEB, &mut listeners), Ok(other));
    }
}

#[test]
fn datagrams_of_one_socket_stay_with_one_pod_and_answers_bear_the_services_address() {
    let node = Node::new();
    let (one, two) = (node.guest("one", "app=web", 1), node.guest("two", "app=web", 2));
    let client = node.guest("ui", "", 3);
    node.fabric.set_service(node.service("web", "app=web", "53"));
    let servers = [&one, &two].map(|guest| {
        let socket = guest.module.udp_socket(Family::V4).unwrap();
        socket.bind(at("0.0.0.0:53")).unwrap();
        socket
    });
    let ask = |socket: &crate::net::UdpSocket| {
        socket.send(Bytes::from_static(b"ask"), Some(at(WEB))).unwrap();
        let who = servers.iter().position(|server| {
            let Some(datagram) = got(server) else { return false };
            server.send(Bytes::from_static(b"answer"), Some(datagram.from)).unwrap();
            true
        });
        assert_eq!(got(socket).unwrap().from, at(WEB));
        who.unwrap()
    };
    let sockets = [7001, 7002].map(|port| {
        let socket = client.module.udp_socket(Family::V4).unwrap();
        socket.bind(format!("0.0.0.0:{port}").parse().unwrap()).unwrap();
        socket
    });
    let first = ask(&sockets[0]);
    let other = ask(&sockets[1]);
    assert_ne!(first, other, "another socket, another turn");
    assert!((0..5).all(|_| ask(&sockets[0]) == first && ask(&sockets[1]) == other));
}

#[test]
fn names_are_found_as_kubernetes_spells_them() {
    let node = Node::new();
    let client = node.guest("ui", "", 3);
    let one = node.guest_of("one", "app=db", 1, |pod| {
        pod.hostname = "db-0".to_owned();
        pod.subdomain = Some("db".to_owned());
    });
    node.fabric.set_service(node.service("web", "app=web", "80"));
    let mut headless = node.service("db", "app=db", "80");
    headless.address = ServiceAddress::Headless;
    node.fabric.set_service(headless);
    for name in
        ["web", "web.lab", "web.lab.svc", "web.lab.svc.cluster.local", "WEB.lab.svc.cluster.local."]
    {
        assert_eq!(client.lookup(name), Ok(vec!["10.89.0.1".to_owned()]), "{name}");
    }
    let pod = Ok(vec!["10.88.0.1".to_owned()]);
    for name in
        ["db", "db-0.db", "db-0.db.lab.svc.cluster.local", "10-88-0-1.lab.pod.cluster.local"]
    {
        assert_eq!(client.lookup(name), pod, "{name}");
    }
    let far = node.guest("shop/a", "", 4);
    assert_eq!(far.lookup("web"), Err(ResolveError::NotFound), "of another namespace");
    assert_eq!(far.lookup("web.lab"), Ok(vec!["10.89.0.1".to_owned()]));
    let two = node.guest("two", "app=db", 2);
    let firsts: Vec<String> = (0..4).map(|_| client.lookup("db").unwrap().remove(0)).collect();
    assert_ne!(firsts[0], firsts[1], "each in its turn");
    assert_eq!(firsts[..2], firsts[2..]);
    node.fabric.forget(&two.pod.uid);
    node.fabric.set_state(&one.pod.uid, state(false, false));
    assert_eq!(client.lookup("db"), Err(ResolveError::NotFound), "nobody is ready");
    let plain = node.guest_of("plain", "", 5, |pod| pod.network.dns.cluster = false);
    assert_eq!(plain.lookup("web.lab.svc.cluster.local"), Err(ResolveError::NotFound));
    assert_eq!(*node.outside.asked.lock().unwrap(), [] as [&str; 0], "none of it went outside");
}

#[test]
fn a_client_of_the_host_gets_a_pod_and_the_way_there() {
    let node = Node::new();
    let web = node.guest("web", "app=web", 1);
    node.fabric.set_service(node.service("web", "app=web", "8080"));
    let key = NamespacedName::new("lab", "web");
    let client = Client { from: at("192.0.2.1:5"), is_flow: false };
    let pick = |port| node.fabric.pick(&key, Protocol::Tcp, port, client);
    let picked = pick(80).unwrap();
    assert_eq!(picked.to, at("10.88.0.1:8080"));
    assert_eq!(picked.pod, web.pod.uid);
    assert_eq!(picked.host.net().pod_ip(), Ipv4Addr::new(10, 88, 0, 1));
    assert!(pick(81).is_none(), "no such port");
    node.fabric.set_state(&web.pod.uid, state(false, false));
    assert!(pick(80).is_none());
}

#[test]
fn those_who_show_endpoints_hear_of_each_change() {
    let node = Node::new();
    let changes = node.fabric.subscribe();
    let seen = |changes: &mut tokio::sync::watch::Receiver<u64>| {
        let changed = changes.has_changed().unwrap();
        changes.mark_unchanged();
        changed
    };
    let mut changes = changes;
    node.fabric.set_service(node.service("web", "app=web", "80"));
    assert!(seen(&mut changes));
    let web = node.guest("web", "app=web", 1);
    assert!(seen(&mut changes));
    assert_eq!(node.fabric.backings()[0].endpoints.len(), 1);
    node.fabric.set_state(&web.pod.uid, state(true, false));
    assert!(!seen(&mut changes), "the same as before");
    node.fabric.set_state(&PodUid::new("nobody"), state(true, false));
    assert!(!seen(&mut changes));
    node.fabric.set_state(&web.pod.uid, state(false, false));
    assert!(seen(&mut changes));
    drop(web);
    assert!(seen(&mut changes));
    assert_eq!(node.fabric.backings()[0].endpoints.len(), 0);
}
