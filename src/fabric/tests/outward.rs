//! Towards the outside.

use bytes::Bytes;

use super::kit::{Guest, Node, at};
use super::pods::{policy, to_block};
use crate::fabric::Peer;
use crate::net::{
    Ask, ConnectError, Egress as _, Family, Protocol as Of, ResolveError, Route, SendError,
};
use crate::spec::{
    HostPort, NamePattern, NamePorts, NameRule, NamespacedName, Pod, PolicyRule, Protocol,
};

fn rule(name: &str, port: u16) -> NameRule {
    let name = match name.strip_prefix("*.") {
        Some(parent) => NamePattern::Below(parent.to_owned()),
        None => NamePattern::Exactly(name.to_owned()),
    };
    NameRule { name, ports: NamePorts::Range(Protocol::Tcp, port, port) }
}

fn may_reach(names: &[(&'static str, u16)]) -> impl FnOnce(&mut Pod) {
    let rules = names.iter().map(|(name, port)| rule(name, *port)).collect();
    |pod| pod.network.egress_names = rules
}

/// What happens to a connect outside: `None` if it left the node.
fn tried(guest: &Guest, node: &Node, to: &str) -> Option<ConnectError> {
    let before = node.outside.connected.lock().unwrap().len();
    let result = guest.connect(to);
    let left = node.outside.connected.lock().unwrap().len() > before;
    match (left, result) {
        (true, Err(ConnectError::TimedOut(_))) => None,
        (false, Err(error)) => Some(error),
        other => panic!("{to}: {other:?}"),
    }
}

fn denied(to: &str) -> Option<ConnectError> {
    Some(ConnectError::Denied(at(to)))
}

#[test]
fn a_pod_that_tries_every_door_does_not_keep_anothers_denial_from_being_told() {
    let node = Node::new();
    let (scanner, quiet) = (node.guest("scanner", "", 1), node.guest("quiet", "", 2));
    for port in 1..=500 {
        let to = format!("192.0.2.1:{port}");
        assert_eq!(tried(&scanner, &node, &to), denied(&to));
    }
    assert_eq!(tried(&quiet, &node, "192.0.2.1:443"), denied("192.0.2.1:443"));
    let told = node.fabric.take_denials();
    assert!(told.len() < 100, "{} are told at once", told.len());
    assert!(told.iter().any(|denial| denial.pod == quiet.pod.key));
    let log = node.fabric.audit(&scanner.pod.key).unwrap().log;
    assert_eq!(log.iter().count(), 500, "its own audit has all of them");
}

#[test]
fn nothing_leaves_the_node_until_a_rule_lets_it() {
    let node = Node::new();
    let guest = node.guest("meter", "app=meter", 1);
    assert_eq!(tried(&guest, &node, "192.0.2.1:443"), denied("192.0.2.1:443"));
    let socket = guest.module.udp_socket(Family::V4).unwrap();
    let to = at("192.0.2.1:123");
    assert_eq!(socket.send(Bytes::new(), Some(to)), Err(SendError::Denied(to)));
    node.fabric.set_policy(policy(
        "out",
        "app=meter",
        None,
        Some(vec![to_block("192.0.2.0/25", 443)]),
    ));
    assert_eq!(tried(&guest, &node, "192.0.2.1:443"), None, "noticed at once");
    assert_eq!(tried(&guest, &node, "192.0.2.1:80"), denied("192.0.2.1:80"));
    assert_eq!(tried(&guest, &node, "192.0.2.129:443"), denied("192.0.2.129:443"));
    node.fabric.remove_policy(&NamespacedName::new("lab", "out"));
    assert_eq!(tried(&guest, &node, "192.0.2.1:443"), denied("192.0.2.1:443"));
    let six = "[2001:db8::1]:443";
    assert_eq!(tried(&guest, &node, six), denied(six));
    let rule = to_block("2001:db8::/32", 443);
    node.fabric.set_policy(policy("out", "app=meter", None, Some(vec![rule])));
    assert_eq!(tried(&guest, &node, six), None, "over IPv6 as well");
    let told = node.fabric.take_denials();
    assert_eq!(told.len(), 5, "each thing once: {told:?}");
}

#[test]
fn no_rule_leads_back_to_the_host_or_to_everybody() {
    let node = Node::new();
    let guest = node.guest("meter", "app=meter", 1);
    let everything = PolicyRule::default();
    node.fabric.set_policy(policy("out", "app=meter", None, Some(vec![everything])));
    assert_eq!(tried(&guest, &node, "192.0.2.1:443"), None, "a rule without `to` means everywhere");
    let socket = guest.module.udp_socket(Family::V4).unwrap();
    for to in ["255.255.255.255:80", "224.0.0.1:80"] {
        let to = at(to);
        assert_eq!(socket.send(Bytes::new(), Some(to)), Err(SendError::Unreachable(to)), "{to}");
    }
    // What is the pod's own never comes to the fabric; if it did, it would not leave.
    let egress = node.fabric.egress(&guest.pod, guest.ip, node.outside.clone());
    for to in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "0.0.0.0:80", "[::]:80", "[ff02::1]:80"]
    {
        let ask = Ask { member: "m", protocol: Of::Tcp, from: at("10.88.0.1:0"), to: at(to) };
        assert!(matches!(egress.route(&ask), Route::Unreachable), "{to}");
    }
    assert_eq!(*node.outside.sent.lock().unwrap(), []);
}

#[test]
fn the_granted_ports_of_the_host_are_the_outsides_to_grant_and_taken_back_here() {
    let node = Node::with_names(&[("host.podling.internal", "169.254.1.1", 60)]);
    let grants = ["tcp/5432", "tcp/5433"].map(|port| HostPort::parse(port).unwrap());
    let guest = node.guest_of("meter", "app=meter", 1, |pod| {
        pod.network.host_loopback = grants.to_vec();
    });
    assert_eq!(guest.lookup("host.podling.internal"), Ok(vec!["169.254.1.1".to_owned()]));
    assert_eq!(tried(&guest, &node, "169.254.1.1:5432"), None);
    assert_eq!(tried(&guest, &node, "169.254.1.1:5434"), denied("169.254.1.1:5434"));
    assert_eq!(tried(&guest, &node, "169.254.1.2:5432"), denied("169.254.1.2:5432"));
    let socket = guest.module.udp_socket(Family::V4).unwrap();
    let to = at("169.254.1.1:5432");
    assert_eq!(socket.send(Bytes::new(), Some(to)), Err(SendError::Denied(to)), "for TCP only");
    let mut less = guest.pod.clone();
    less.network.host_loopback.truncate(1);
    node.fabric.describe(&less);
    assert_eq!(tried(&guest, &node, "169.254.1.1:5432"), None);
    assert_eq!(tried(&guest, &node, "169.254.1.1:5433"), denied("169.254.1.1:5433"));
}

const NAMES: [(&str, &str, u64); 3] = [
    ("api.example.com", "192.0.2.10", 300),
    ("0.pool.ntp.org", "192.0.2.20", 300),
    ("evil.example.com", "192.0.2.30", 300),
];

#[test]
fn a_name_that_may_be_reached_is_looked_up_and_opens_its_addresses() {
    let node = Node::with_names(&NAMES);
    let names = may_reach(&[("api.example.com", 443), ("*.ntp.org", 123)]);
    let guest = node.guest_of("meter", "app=meter", 1, names);
    assert_eq!(tried(&guest, &node, "192.0.2.10:443"), denied("192.0.2.10:443"), "not learnt yet");
    assert_eq!(guest.lookup("API.example.com"), Ok(vec!["192.0.2.10".to_owned()]));
    assert_eq!(tried(&guest, &node, "192.0.2.10:443"), None, "learnt");
    assert_eq!(tried(&guest, &node, "192.0.2.10:80"), denied("192.0.2.10:80"), "another port");
    assert_eq!(guest.lookup("0.pool.ntp.org"), Ok(vec!["192.0.2.20".to_owned()]));
    assert_eq!(tried(&guest, &node, "192.0.2.20:123"), None);
    let other = node.guest("other", "", 2);
    assert_eq!(tried(&other, &node, "192.0.2.10:443"), denied("192.0.2.10:443"), "one pod's only");

    assert_eq!(guest.lookup("evil.example.com"), Err(ResolveError::Denied));
    assert_eq!(guest.lookup("ntp.org"), Err(ResolveError::Denied), "below it, not itself");
    assert_eq!(guest.lookup("web"), Err(ResolveError::NotFound), "a Service that is not there");
    let asked = node.outside.asked.lock().unwrap().clone();
    assert_eq!(asked, ["API.example.com", "0.pool.ntp.org"], "nothing else was asked of anyone");

    let mut revoked = guest.pod.clone();
    revoked.network.egress_names.clear();
    node.fabric.describe(&revoked);
    assert_eq!(tried(&guest, &node, "192.0.2.10:443"), denied("192.0.2.10:443"), "taken back");
}

#[test]
fn an_address_learnt_by_its_name_is_closed_again_when_its_answer_has_run_out() {
    let node = Node::with_names(&NAMES);
    let names = may_reach(&[("api.example.com", 443)]);
    let guest = node.guest_of("meter", "app=meter", 1, names);
    let to = "192.0.2.10:443";
    let look_up = || assert!(guest.lookup("api.example.com").is_ok());
    let seconds = |seconds| node.fabric.pass(std::time::Duration::from_secs(seconds));
    look_up();
    assert_eq!(tried(&guest, &node, to), None);
    seconds(290);
    assert_eq!(tried(&guest, &node, to), None, "it holds, as it was decided before");
    seconds(20);
    assert_eq!(tried(&guest, &node, to), denied(to), "five minutes are over");
    look_up();
    assert_eq!(tried(&guest, &node, to), None, "learnt anew");
    let rule = to_block("192.0.2.10/32", 443);
    node.fabric.set_policy(policy("out", "app=meter", None, Some(vec![rule])));
    seconds(3600);
    assert_eq!(tried(&guest, &node, to), None, "a rule with the address has no end");
}

#[test]
fn a_policy_may_name_what_its_pods_may_reach() {
    let node = Node::with_names(&NAMES);
    let guest = node.guest("meter", "app=meter", 1);
    let mut named = policy("out", "app=meter", None, Some(vec![]));
    named.egress_names = vec![rule("api.example.com", 443)];
    node.fabric.set_policy(named);
    assert!(guest.lookup("api.example.com").is_ok());
    assert_eq!(tried(&guest, &node, "192.0.2.10:443"), None);
}

#[test]
fn who_may_ask_a_resolver_may_look_up_any_name_and_reach_what_its_rules_say() {
    let node = Node::with_names(&NAMES);
    let guest = node.guest("meter", "app=meter", 1);
    let rules = vec![to_block("192.0.2.0/28", 443), to_block("192.0.2.0/28", 53)];
    node.fabric.set_policy(policy("out", "app=meter", None, Some(rules)));
    assert!(guest.lookup("api.example.com").is_ok() && guest.lookup("evil.example.com").is_ok());
    assert_eq!(guest.lookup("none.example.com"), Err(ResolveError::NotFound));
    assert_eq!(tried(&guest, &node, "192.0.2.10:443"), None);
    assert_eq!(tried(&guest, &node, "192.0.2.30:443"), denied("192.0.2.30:443"));
}

#[test]
fn search_suffixes_of_the_manifest_are_tried_in_order() {
    let node = Node::with_names(&[("plc.lan", "192.0.2.40", 60), ("web.b", "192.0.2.41", 60)]);
    let guest = node.guest_of("meter", "app=meter", 1, |pod| {
        pod.network.dns.searches = vec!["a".to_owned(), "lan".to_owned()];
        pod.network.egress_names = vec![rule("plc.lan", 502), rule("plc.a", 502)];
    });
    assert_eq!(guest.lookup("plc"), Ok(vec!["192.0.2.40".to_owned()]));
    assert_eq!(*node.outside.asked.lock().unwrap(), ["plc.a", "plc.lan"]);
    assert_eq!(tried(&guest, &node, "192.0.2.40:502"), None);
    // With few dots asked for, a name is tried as it is before the node's own names.
    let eager = node.guest_of("eager", "", 2, |pod| {
        pod.network.dns.ndots = 1;
        pod.network.egress_names = vec![rule("web.b", 80), rule("web.lab", 80)];
    });
    node.fabric.set_service(node.service("web", "app=web", "80"));
    assert_eq!(eager.lookup("web.lab"), Ok(vec!["10.89.0.1".to_owned()]));
    assert_eq!(node.outside.asked.lock().unwrap().last().map(String::as_str), Some("web.lab"));
}

/// resolv.conf(5): who ends a name with a dot wants that name and no other.
#[test]
fn a_complete_name_is_tried_as_nothing_else() {
    let names = [("plc.lan", "192.0.2.40", 60), ("plc.lan.lan", "192.0.2.41", 60)];
    let node = Node::with_names(&names);
    let guest = node.guest_of("meter", "app=meter", 1, |pod| {
        pod.network.dns.searches = vec!["lan".to_owned()];
        pod.network.egress_names = vec![rule("plc.lan", 502), rule("plc.lan.lan", 502)];
    });
    node.fabric.set_service(node.service("web", "app=web", "80"));
    assert_eq!(
        guest.lookup("plc.lan"),
        Ok(vec!["192.0.2.41".to_owned()]),
        "few dots: suffixes first"
    );
    assert_eq!(guest.lookup("plc.lan."), Ok(vec!["192.0.2.40".to_owned()]));
    assert_eq!(tried(&guest, &node, "192.0.2.40:502"), None);
    assert_eq!(guest.lookup("web.lab.svc.cluster.local."), Ok(vec!["10.89.0.1".to_owned()]));
    assert_eq!(guest.lookup("web"), Ok(vec!["10.89.0.1".to_owned()]));
    assert_eq!(guest.lookup("web."), Err(ResolveError::Denied), "another's to know");
}

#[test]
fn an_audit_of_the_outside_names_names() {
    let node = Node::with_names(&NAMES);
    let guest = node.guest_of("meter", "app=meter", 1, |pod| pod.network.audit = true);
    assert!(guest.lookup("api.example.com").is_ok());
    assert_eq!(tried(&guest, &node, "192.0.2.10:443"), None);
    assert_eq!(tried(&guest, &node, "192.0.2.99:80"), None);
    let audit = node.fabric.audit(&guest.pod.key).unwrap();
    let peers: Vec<&Peer> = audit.log.iter().map(|(used, _)| &used.peer).collect();
    assert!(peers.contains(&&Peer::Name("api.example.com".to_owned())), "{peers:?}");
    let policy = audit.log.policy(&audit.pod, &audit.labels);
    let names: Vec<String> = policy.egress_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["api.example.com:443"]);
    // Applied, it allows just this.
    let mut plain = guest.pod.clone();
    plain.network.audit = false;
    node.fabric.describe(&plain);
    node.fabric.set_policy(policy);
    assert_eq!(tried(&guest, &node, "192.0.2.99:80"), None);
    assert_eq!(tried(&guest, &node, "192.0.2.98:80"), denied("192.0.2.98:80"));
    assert_eq!(tried(&guest, &node, "192.0.2.10:443"), None, "still known by its name");
    assert_eq!(guest.lookup("evil.example.com"), Err(ResolveError::Denied));
}
