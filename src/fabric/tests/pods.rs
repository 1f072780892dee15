//! Between pods of the node.

use bytes::Bytes;

use super::kit::{Node, at, got, labels};
use crate::fabric::{Direction, Peer, Port};
use crate::net::{ConnectError, Family, SendError};
use crate::spec::{
    IpBlock, LabelSelector, NamespacedName, NetworkPolicy, PodUid, PolicyPeer, PolicyPort,
    PolicyRule, PortMatch, Protocol,
};

pub(super) fn policy(
    name: &str,
    selector: &str,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
) -> NetworkPolicy {
    NetworkPolicy {
        key: NamespacedName::new("lab", name),
        pods: LabelSelector::with_labels(&labels(selector)),
        ingress,
        egress,
        egress_names: Vec::new(),
        audit: false,
    }
}

pub(super) fn from_pods(selector: &str) -> PolicyRule {
    let pods = LabelSelector::with_labels(&labels(selector));
    PolicyRule { peers: vec![PolicyPeer::Pods { namespaces: None, pods }], ports: Vec::new() }
}

pub(super) fn to_block(cidr: &str, port: u16) -> PolicyRule {
    let block = IpBlock { cidr: cidr.parse().unwrap(), except: Vec::new() };
    let ports = PortMatch::Range(port, port);
    PolicyRule {
        peers: vec![PolicyPeer::Block(block)],
        ports: vec![PolicyPort { protocol: Some(Protocol::Tcp), ports }],
    }
}

#[test]
fn pods_reach_each_other_by_address_until_a_policy_selects_one() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "app=ui", 2));
    let _listening = web.listen(8080);
    let to = web.at(8080);
    assert_eq!(ui.connect(&to), Ok(at(&to)));
    assert_eq!(ui.connect(&web.at(81)), Err(ConnectError::Refused(at("10.88.0.1:81"))));
    let nobody = at("10.88.0.9:80");
    assert_eq!(ui.connect("10.88.0.9:80"), Err(ConnectError::Unreachable(nobody)));

    node.fabric.set_policy(policy("deny", "app=web", Some(vec![]), None));
    assert_eq!(ui.connect(&to), Err(ConnectError::Denied(at(&to))), "noticed at once");
    assert_eq!(web.connect(&to), Ok(at(&to)), "a pod cannot keep itself out");
    node.fabric.set_policy(policy("allow", "app=web", Some(vec![from_pods("app=ui")]), None));
    assert!(ui.connect(&to).is_ok());
    node.fabric.set_policy(policy("allow", "app=web", Some(vec![from_pods("app=x")]), None));
    assert!(ui.connect(&to).is_err(), "a policy that changes counts as it is now");
    let key = |name| NamespacedName::new("lab", name);
    node.fabric.remove_policy(&key("allow"));
    node.fabric.remove_policy(&key("deny"));
    assert!(ui.connect(&to).is_ok());

    node.fabric.set_policy(policy("out", "app=ui", None, Some(vec![])));
    assert_eq!(ui.connect(&to), Err(ConnectError::Denied(at(&to))), "either end may refuse");
}

#[test]
fn a_pods_ipv6_address_is_the_same_pod_to_rules_and_to_its_peers() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "app=ui", 2));
    let mut listener = web.module.listen(at("[::]:8080")).unwrap();
    let to = "[fd70:6f64:6c69:6e67::10.88.0.1]:8080";
    let stream = ui.module.connect(at(to)).unwrap().try_finish().map(Result::unwrap);
    let std::task::Poll::Ready(stream) = stream else { panic!("it waits") };
    assert_eq!(stream.remote_address(), at(to));
    let std::task::Poll::Ready(Ok(seen)) = listener.try_accept() else { panic!("nobody came") };
    assert_eq!(seen.remote_address().ip(), at("[fd70:6f64:6c69:6e67::10.88.0.2]:1").ip());
    let nobody = "[fd70:6f64:6c69:6e67::10.88.0.9]:8080";
    assert_eq!(ui.connect(nobody), Err(ConnectError::Unreachable(at(nobody))));
    // Rules know the pod by its first address, and there is no way round them.
    node.fabric.set_policy(policy(
        "p",
        "app=web",
        Some(vec![to_block("10.88.0.2/32", 8080)]),
        None,
    ));
    assert!(ui.connect(to).is_ok());
    node.fabric.set_policy(policy("p", "app=web", Some(vec![]), None));
    assert_eq!(ui.connect(to), Err(ConnectError::Denied(at(to))));
}

#[test]
fn labels_that_change_change_what_policies_mean() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "app=ui", 2));
    let _listening = web.listen(8080);
    node.fabric.set_policy(policy("p", "app=web", Some(vec![from_pods("app=ui")]), None));
    assert!(ui.connect(&web.at(8080)).is_ok());
    let mut changed = ui.pod.clone();
    changed.labels = labels("app=other");
    node.fabric.describe(&changed);
    assert!(ui.connect(&web.at(8080)).is_err());
    let mut unselected = web.pod.clone();
    unselected.labels.clear();
    node.fabric.describe(&unselected);
    assert!(ui.connect(&web.at(8080)).is_ok(), "no policy speaks of the pod any more");
}

#[test]
fn a_namespace_is_known_by_its_name() {
    let node = Node::new();
    let (web, near, far) =
        (node.guest("web", "app=web", 1), node.guest("a", "", 2), node.guest("shop/a", "", 3));
    let _listening = web.listen(8080);
    let shop = LabelSelector::with_labels(&labels("kubernetes.io/metadata.name=shop"));
    let peer = PolicyPeer::Pods { namespaces: Some(shop), pods: LabelSelector::everything() };
    let rule = PolicyRule { peers: vec![peer], ports: Vec::new() };
    node.fabric.set_policy(policy("p", "app=web", Some(vec![rule]), None));
    assert!(far.connect(&web.at(8080)).is_ok());
    assert!(near.connect(&web.at(8080)).is_err());
}

#[test]
fn datagrams_are_decided_like_connections_and_answers_come_back() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "app=ui", 2));
    let server = web.module.udp_socket(Family::V4).unwrap();
    server.bind(at("0.0.0.0:53")).unwrap();
    let client = ui.module.udp_socket(Family::V4).unwrap();
    client.bind(at("0.0.0.0:7000")).unwrap();
    // Nobody may begin to talk to the client; who is asked may answer all the same.
    node.fabric.set_policy(policy("in", "app=ui", Some(vec![]), None));
    client.send(Bytes::from_static(b"ask"), Some(at("10.88.0.1:53"))).unwrap();
    let asked = got(&server).unwrap();
    assert_eq!(asked.from, at("10.88.0.2:7000"), "the asker's own address");
    server.send(Bytes::from_static(b"answer"), Some(asked.from)).unwrap();
    assert_eq!(got(&client).unwrap().from, at("10.88.0.1:53"));
    let other = web.module.udp_socket(Family::V4).unwrap();
    let unasked = other.send(Bytes::from_static(b"x"), Some(at("10.88.0.2:7000")));
    assert_eq!(unasked, Err(SendError::Denied(at("10.88.0.2:7000"))));
}

#[test]
fn a_pod_that_is_gone_is_nowhere() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "", 2));
    let _listening = web.listen(8080);
    let (to, uid) = (web.at(8080), web.pod.uid.clone());
    assert!(ui.connect(&to).is_ok());
    drop(web);
    assert_eq!(ui.connect(&to), Err(ConnectError::Unreachable(at(&to))));
    node.fabric.forget(&uid);
    let again = node.guest("web", "app=web", 1);
    let _listening = again.listen(8080);
    assert!(ui.connect(&to).is_ok(), "its successor has the address");
}

#[test]
fn a_late_end_of_an_earlier_life_does_not_take_the_place_of_the_present_one() {
    let node = Node::new();
    let ui = node.guest("ui", "", 2);
    let earlier = node.guest("web", "app=web", 1);
    let again = node.guest("web", "app=web", 1);
    let _listening = again.listen(8080);
    drop(earlier);
    assert!(ui.connect(&again.at(8080)).is_ok());
}

#[test]
fn what_is_denied_is_told_once_and_remembered() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "app=ui", 2));
    node.fabric.set_policy(policy("deny", "app=web", Some(vec![]), None));
    for _ in 0..3 {
        assert!(ui.connect(&web.at(8080)).is_err());
        // Another generation: the verdict is made anew, and is no news.
        node.fabric.set_policy(policy("other", "app=none", Some(vec![]), None));
    }
    let told = node.fabric.take_denials();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&*told[0].pod.name, told[0].audited), ("web", false), "it is the web's policy");
    let Peer::Pod { labels, .. } = &told[0].used.peer else { panic!("{told:?}") };
    assert_eq!(labels["app"], "ui");
    assert_eq!(told[0].used.direction, Direction::Ingress);
    let audit = node.fabric.audit(&web.pod.key).unwrap();
    assert!(!audit.on && audit.log.iter().count() == 1);
    assert_eq!(node.fabric.audit(&ui.pod.key).unwrap().log.iter().count(), 0);
}

#[test]
fn an_audit_lets_through_and_its_policy_allows_just_that() {
    let node = Node::new();
    let (web, db) = (node.guest("web", "app=web", 1), node.guest("db", "app=db", 3));
    let ui = node.guest_of("ui", "app=ui", 2, |pod| pod.network.audit = true);
    let (_web, _db) = (web.listen(8080), db.listen(5432));
    node.fabric.set_policy(policy("out", "app=ui", None, Some(vec![])));
    assert!(ui.connect(&web.at(8080)).is_ok(), "let through");
    let audit = node.fabric.audit(&ui.pod.key).unwrap();
    assert!(audit.on);
    let told = node.fabric.take_denials();
    assert!(told.len() == 1 && told[0].audited);
    // The audit ends, its policy is applied.
    node.fabric.remove_policy(&NamespacedName::new("lab", "out"));
    node.fabric.set_policy(audit.log.policy(&audit.pod, &audit.labels));
    let mut plain = ui.pod.clone();
    plain.network.audit = false;
    node.fabric.describe(&plain);
    assert!(ui.connect(&web.at(8080)).is_ok());
    assert!(ui.connect(&db.at(5432)).is_err(), "was not used");
}

#[test]
fn a_policy_may_ask_for_the_audit_of_the_pods_it_selects() {
    let node = Node::new();
    let (web, ui) = (node.guest("web", "app=web", 1), node.guest("ui", "app=ui", 2));
    let _listening = web.listen(8080);
    let mut deny = policy("deny", "app=web", Some(vec![]), None);
    deny.audit = true;
    node.fabric.set_policy(deny);
    assert!(ui.connect(&web.at(8080)).is_ok());
    let audit = node.fabric.audit(&web.pod.key).unwrap();
    let denied: Vec<bool> = audit.log.iter().map(|(_, seen)| seen.denied).collect();
    assert_eq!(denied, [true]);
}

#[test]
fn a_published_port_is_subject_to_ingress_rules() {
    let node = Node::new();
    let web = node.guest("web", "app=web", 1);
    let port = Port { protocol: Protocol::Tcp, number: 8080 };
    let admits = |ip: &str| node.fabric.admits(&web.pod.uid, ip.parse().unwrap(), port);
    assert!(admits("192.0.2.1"), "open without a policy");
    let rule = to_block("192.0.2.0/25", 8080);
    node.fabric.set_policy(policy("in", "app=web", Some(vec![rule]), None));
    assert!(admits("192.0.2.1") && !admits("192.0.2.200"));
    assert!(!node.fabric.admits(&PodUid::new("nobody"), "192.0.2.1".parse().unwrap(), port));
}
