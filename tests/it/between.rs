//! Pods among themselves when things go wrong: policy in all its words, a flood, a network that breaks, a module that is away.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use super::fabric::{answers, ip, server, wait_answer, watcher};
use super::support::{Node, free_port, wait_for};

const DENIED: &str = "error PermissionDenied";

/// A policy for the pods with `app: web`, with these ingress rules.
fn ingress(rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web}}\n\
         spec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: {rules}}}\n"
    )
}

/// What comes at a port of the host; `None` if the connection was refused or reset.
fn ask(ip: &str, port: u16) -> Option<String> {
    hear(TcpStream::connect((ip, port)).ok()?)
}

fn hear(mut stream: TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The address by which others know this machine, if it is on any network.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel only says from where it would be.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then(|| ip.to_string())
}

fn counter(node: &Node, pod: &str, container: &str, name: &str) -> u64 {
    let report: Value = serde_json::from_str(&node.ok(&["net", pod, "-o", "json"])).unwrap();
    let all = report["containers"].as_array().unwrap();
    let one = all.iter().find(|it| it["name"] == container);
    one.map_or(0, |it| it["counters"][name].as_u64().unwrap_or_default())
}

#[test]
fn policies_choose_by_pod_by_namespace_and_by_address_and_published_ports_obey() {
    let node = Node::start();
    node.load("talk");
    let port = free_port();
    let published = format!("containerPort: 8080, hostPort: {port}");
    node.apply(&server("one", "").replace("containerPort: 8080", &published));
    let one = ip(&node, "one");
    node.apply(&watcher("ui", "tcp", &one, 8080));
    node.apply(&watcher("stranger", "tcp", &one, 8080).replace("app: ui", "app: x"));
    let far = watcher("far", "tcp", &one, 8080).replace("name: far,", "name: far, namespace: lab,");
    node.apply(&far);
    for pod in ["ui", "stranger", "lab/far"] {
        wait_answer(&node, pod, "one");
    }
    node.apply(&ingress(
        "[{from: [{podSelector: {matchLabels: {app: ui}}}], ports: [{port: talk}]}]",
    ));
    wait_answer(&node, "stranger", DENIED);
    wait_answer(&node, "lab/far", DENIED);
    assert_eq!(answers(&node, "ui"), ["one"], "never denied");
    // The host itself is always let in; others come by their address.
    assert_eq!(ask("127.0.0.1", port).as_deref(), Some("one"));
    let own = own_address();
    if let Some(own) = &own {
        assert_eq!(ask(own, port), None);
    }
    let lab = "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lab}}";
    node.apply(&ingress(&format!(
        "[{{from: [{{{lab}, podSelector: {{matchLabels: {{app: ui}}}}}}]}}]"
    )));
    wait_answer(&node, "lab/far", "one");
    wait_answer(&node, "ui", DENIED);
    if let Some(own) = &own {
        let block =
            format!("[{{from: [{{ipBlock: {{cidr: {own}/32}}}}], ports: [{{port: 8080}}]}}]");
        node.apply(&ingress(&block));
        wait_for("the block to be let in", || (ask(own, port)? == "one").then_some(()));
    } else {
        eprintln!("not tried: clients from other hosts, since this machine is on no network");
    }
    // Another port than the one it listens on opens nothing.
    node.apply(&ingress("[{ports: [{port: 8081}]}]"));
    wait_answer(&node, "lab/far", DENIED);
    wait_answer(&node, "stranger", DENIED);
}

#[test]
fn connections_that_stand_stay_when_a_policy_comes_that_lets_no_more_in() {
    let node = Node::start();
    node.load("talk");
    node.load("echo");
    node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: echo, labels: {app: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {name: echo, image: 'echo:test', env: [{name: PORT, value: '7'}]}\n",
    );
    let echo = ip(&node, "echo");
    let holder = |name: &str| watcher(name, "tcp", &echo, 7).replace("watch, tcp", "hold");
    node.apply(&holder("early"));
    wait_answer(&node, "early", "held");
    node.apply(&ingress("[]"));
    node.apply(&holder("late"));
    wait_answer(&node, "late", DENIED);
    let before = counter(&node, "echo", "echo", "tcpBytesReceived");
    wait_for("more to be said over the one that stands", || {
        (counter(&node, "echo", "echo", "tcpBytesReceived") >= before + 5).then_some(())
    });
    node.ok(&["delete", "networkpolicy", "web"]);
    wait_answer(&node, "late", "held");
    let of_early = answers(&node, "early");
    let broken = of_early.iter().skip_while(|answer| *answer != "held").count() - 1;
    assert_eq!(broken, 0, "it is the same through all of it: {of_early:?}");
}

#[test]
fn policies_hold_back_datagrams_at_published_ports_too() {
    let Some(own) = own_address() else {
        return eprintln!(
            "not tried: clients from other hosts, since this machine is on no network"
        );
    };
    let node = Node::start();
    node.load("talk");
    let port = free_port();
    let published = format!(
        "containerPort: 8080}}, {{name: datagrams, containerPort: 8080, protocol: UDP, hostPort: {port}"
    );
    node.apply(&server("one", "").replace("containerPort: 8080", &published));
    node.wait_ready("one");
    // From two addresses of this machine: the node itself is always let in, and the other one is a client like any.
    let client = |ip: &str| {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.connect((ip, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        socket
    };
    let (node_itself, other) = (client("127.0.0.1"), client(&own));
    let answer = |socket: &UdpSocket| {
        let mut buffer = [0; 64];
        socket.send(b"?").ok()?;
        let read = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
    };
    let is_heard = |socket: &UdpSocket| {
        let heard = wait_for("an answer", || answer(socket));
        assert_eq!(heard, "one");
    };
    // The module answers in order: when a question of the node's is answered, which it has just asked from a socket of its own, so is
    // everything that was let in before.
    let all_is_answered = || is_heard(&client("127.0.0.1"));
    let drain = || while other.recv(&mut [0; 64]).is_ok() {};
    let is_shut_out = || {
        // What was under way when the policy came may still arrive.
        wait_for("silence", || {
            all_is_answered();
            drain();
            let silent = answer(&other).is_none();
            all_is_answered();
            (silent && other.recv(&mut [0; 64]).is_err()).then_some(())
        });
        for _ in 0..2 {
            assert_eq!(answer(&other), None);
        }
        all_is_answered();
        assert!(other.recv(&mut [0; 64]).is_err());
        is_heard(&node_itself);
    };
    is_heard(&other);
    is_heard(&node_itself);
    // A flow that exists is cut, and one that is new does not begin.
    node.apply(&ingress("[{ports: [{port: 8080}]}]"));
    is_shut_out();
    node.apply(&ingress(&format!(
        "[{{from: [{{ipBlock: {{cidr: {own}/32}}}}], ports: [{{port: datagrams, protocol: UDP}}]}}]"
    )));
    is_heard(&other);
    // Whatever address this machine has, it is no pod.
    node.apply(&ingress("[{from: [{podSelector: {}}]}]"));
    is_shut_out();
    node.ok(&["delete", "networkpolicy", "web"]);
    is_heard(&other);
}

#[test]
fn connections_that_a_module_had_not_accepted_when_it_trapped_are_its_next_runs() {
    let node = Node::start();
    node.load("web");
    let port = free_port();
    node.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: web\n    \
         image: 'web:test'\n    ports: [{{containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1}}]\n"
    ));
    node.wait_ready("web");
    let connect = || wait_for("the port to open", || TcpStream::connect(("127.0.0.1", port)).ok());
    // As many as the module takes at a time, who say nothing; and some more, who ask already.
    let mut taken: Vec<TcpStream> = (0..64).map(|_| connect()).collect();
    wait_for("the module to be full", || {
        (counter(&node, "web", "web", "accepts") == 64).then_some(())
    });
    // With its first byte a request has its time anew.
    taken.iter_mut().for_each(|client| client.write_all(b"G").unwrap());
    let body = "x".repeat(4000);
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let mut stream = connect();
            let head = format!(
                "GET /{n} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: {body}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            std::thread::spawn(move || hear(stream))
        })
        .collect();
    wait_for("the others to wait in its queue", || {
        let report: Value = serde_json::from_str(&node.ok(&["net", "web", "-o", "json"])).unwrap();
        let sockets = report["sockets"].as_array().unwrap().clone();
        sockets.iter().any(|it| it["state"] == "LISTEN" && it["receiveQueue"] == 20).then_some(())
    });
    taken[0].write_all(b"ET /crash HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    for client in waiting {
        let answer = client.join().unwrap().expect("no reset");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    // Whom it had accepted went with it.
    for mut client in taken {
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let pod = node.wait_pod("web", "restarted", |pod| super::support::restarts(pod, "web") >= 1);
    assert_eq!(super::support::restarts(&pod, "web"), 1);
}

#[test]
fn a_connection_waits_while_its_module_restarts_and_is_served() {
    let node = Node::start();
    node.load("talk");
    let port = free_port();
    // Before the module can listen: the port is the daemon's, and open as soon as the pod is set up. Who has waited for ten seconds is sent
    // away, and on a busy machine it takes longer until the module is compiled: then there is a next one.
    let first = std::thread::spawn(move || wait_for("an answer", || ask("127.0.0.1", port)));
    node.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: once}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: talk\n    \
         image: 'talk:test'\n    args: [once, '8080', '1500']\n    ports: [{{containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1}}]\n"
    ));
    assert_eq!(first.join().unwrap(), "once");
    // It has ended with that; its next run begins, and listens a second and a half after.
    let pod = node.wait_pod("once", "restarted", |pod| super::support::restarts(pod, "talk") >= 1);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(wait_for("another answer", || ask("127.0.0.1", port)), "once");
    let again = node.wait_pod("once", "again", |pod| super::support::restarts(pod, "talk") >= 2);
    assert_eq!(again["status"]["podIP"], pod["status"]["podIP"], "one address for all its runs");
    let page = node.ok(&["describe", "pod", "once"]);
    assert!(page.contains("1 waiting for a module to listen"), "{page}");
    assert!(page.contains(&format!("127.0.0.1:{port}/TCP of the host, to 8080:")), "{page}");
}

#[test]
fn a_pod_that_wants_a_port_of_another_is_rejected_in_kubernetes_words() {
    let node = Node::start();
    node.load("talk");
    let port = free_port();
    let published = format!("containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1");
    let wants = |name: &str| server(name, "").replace("containerPort: 8080", &published);
    node.apply(&wants("first"));
    node.wait_ready("first");
    node.apply(&wants("second"));
    let second = node.wait_pod("second", "Failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(second["status"]["reason"], "NodePorts");
    let why =
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert!(second["status"]["message"].as_str().unwrap().contains(why), "{second}");
    assert_eq!(ask("127.0.0.1", port).as_deref(), Some("first"));
}

#[test]
fn a_flood_of_datagrams_to_a_deaf_pod_costs_that_pod_alone() {
    let node = Node::start();
    node.load("talk");
    node.apply(&server("one", ""));
    let one = ip(&node, "one");
    let deaf = watcher("deaf", "udp", "x", 53).replace("[watch, udp, x, '53']", "[deaf, '53']");
    node.apply(&deaf.replace("'talk:test',", "'talk:test', resources: {limits: {memory: 8Mi}},"));
    let to = ip(&node, "deaf");
    node.apply(&watcher("flood", "udp", &to, 53).replace("watch, udp", "flood"));
    wait_for("datagrams to be dropped", || {
        (counter(&node, "deaf", "talk", "datagramsDropped") > 20_000).then_some(())
    });
    // All the while: the rest of the node goes on, its datagrams too.
    node.apply(&watcher("ui", "udp", &one, 8080));
    wait_answer(&node, "ui", "one");
    let before = counter(&node, "deaf", "talk", "datagramsDropped");
    wait_for("more of them to be dropped", || {
        (counter(&node, "deaf", "talk", "datagramsDropped") > before + 20_000).then_some(())
    });
    assert_eq!(answers(&node, "ui").last().map(String::as_str), Some("one"));
    // What waits for nobody is bounded, in the deaf pod alone, and it lives.
    let peak = counter(&node, "deaf", "talk", "datagramQueuePeak");
    assert!((1..=1 << 20).contains(&peak), "{peak} bytes waited");
    assert_eq!(counter(&node, "flood", "talk", "bufferedPeak"), 0);
    assert_eq!(counter(&node, "one", "talk", "datagramsDropped"), 0);
    for pod in ["deaf", "flood", "one", "ui"] {
        let pod = node.pod(pod).unwrap();
        assert_eq!(super::support::restarts(&pod, "talk"), 0, "{pod}");
    }
    let metrics = super::support::http_get_socket(&node.socket(), "/metrics").unwrap();
    let dropped = metrics.lines().find(|line| {
        line.starts_with("container_network_receive_packets_dropped_total{")
            && line.contains("pod=\"deaf\"")
            && line.contains("container=\"talk\"")
    });
    let value = dropped.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.to_owned());
    assert!(value.is_some_and(|value| value.parse::<u64>().unwrap() > before), "{dropped:?}");
}

#[test]
fn pods_that_are_parted_hear_each_other_again_and_others_notice_nothing() {
    let node = Node::start_with(
        "network: {allowTestNet: true, testFaults: {seed: 11, orders: DIR/faults.yaml}}\n",
    );
    let order = |text: &str| {
        std::fs::write(node.path("faults.new"), text).unwrap();
        std::fs::rename(node.path("faults.new"), node.path("faults.yaml")).unwrap();
    };
    node.load("talk");
    node.load("echo");
    node.apply(&server("one", ""));
    let one = ip(&node, "one");
    node.apply(&watcher("cut", "udp", &one, 8080));
    // Its answers may take long on a busy machine, but are never given up.
    node.apply(&watcher("other", "tcp", &one, 8080));
    node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: echo}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {name: echo, image: 'echo:test', env: [{name: PORT, value: '7'}]}\n",
    );
    let echo = ip(&node, "echo");
    node.apply(&watcher("held", "tcp", &echo, 7).replace("watch, tcp", "hold"));
    wait_answer(&node, "cut", "one");
    wait_answer(&node, "other", "one");
    wait_answer(&node, "held", "held");
    order(
        "between:\n- {pods: [default/cut, default/one], partition: true}\n- {pods: [default/held, default/echo], partition: true}\n",
    );
    wait_answer(&node, "cut", "error TimedOut");
    let stalled = counter(&node, "echo", "echo", "tcpBytesReceived");
    order("between:\n- {pods: [default/held, default/echo], delayMs: 150, jitterMs: 50}\n");
    wait_answer(&node, "cut", "one");
    // A connection outlives the partition, and nothing of it was lost.
    wait_for("bytes to come again", || {
        (counter(&node, "echo", "echo", "tcpBytesReceived") > stalled + 3).then_some(())
    });
    assert_eq!(answers(&node, "held"), ["held"]);
    order(
        "between:\n- {pods: [default/held, default/echo], break: 1}\n- {pods: [default/cut, default/one], loss: 1000}\n",
    );
    wait_for("the connection to break and another to come", || {
        let heard = answers(&node, "held");
        // It may have broken once more by now.
        let [first, error, again, ..] = heard.as_slice() else { return None };
        (first == "held" && error.starts_with("error ") && again == "held").then_some(())
    });
    wait_answer(&node, "cut", "error TimedOut");
    order("");
    wait_answer(&node, "cut", "one");
    assert_eq!(answers(&node, "other"), ["one"], "a pod that no order names");
}
