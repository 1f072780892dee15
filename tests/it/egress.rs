//! What leaves the node: addresses and names that policy lets a pod reach, the host's loopback, and the audit that writes a policy.
//!
//! No network is needed: addresses kept for documentation lead to listeners of this test (`network.testNet`).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

use super::fabric::{answers_of, ip, server, wait_answer_of};
use super::support::{Node, http_get_socket, wait_for};

/// A host that says its name to whoever asks at its port, over TCP and UDP.
fn host(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let datagrams = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Who goes away does not want the answer.
            let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
    std::thread::spawn(move || {
        let mut question = [0; 64];
        while let Ok((_, from)) = datagrams.recv_from(&mut question) {
            let _ = datagrams.send_to(name.as_bytes(), from);
        }
    });
    port
}

/// A name server that knows one name, and remembers what it was asked.
struct NameServer {
    port: u16,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl NameServer {
    fn start(known: &'static str, address: [u8; 4]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(BTreeSet::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((read, from)) = socket.recv_from(&mut question) {
                if let Some((name, answer)) = answer(&question[..read], known, address) {
                    log.lock().unwrap().insert(name);
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { port, asked }
    }

    fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked.eq_ignore_ascii_case(name))
    }
}

/// The name in a question, and the answer to it (RFC 1035, 4.1): five minutes of one IPv4 address, or no such name.
fn answer(question: &[u8], known: &str, address: [u8; 4]) -> Option<(String, Vec<u8>)> {
    let (mut at, mut labels) = (12, Vec::new());
    while *question.get(at)? != 0 {
        let length = usize::from(question[at]);
        let label = question.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += 1 + length;
    }
    let end = at + 5;
    let name = labels.join(".");
    let is_known = name.eq_ignore_ascii_case(known);
    let has_address = is_known && question.get(at + 1..at + 3)? == [0, 1];
    let mut answer = question.get(..2)?.to_vec();
    answer.extend([
        0x81,
        if is_known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::from(has_address),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question.get(12..end)?);
    if has_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
        answer.extend(address);
    }
    Some((name, answer))
}

/// A pod that asks in each of its containers somebody else: (container, how, host, port).
fn asker(name: &str, head: &str, asks: &[(&str, &str, &str, u16)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, {head}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n"
    );
    for (container, how, host, port) in asks {
        text.push_str(&format!(
            "  - {{name: {container}, image: 'talk:test', args: [watch, {how}, '{host}', '{port}']}}\n"
        ));
    }
    text
}

/// Waits until each of these containers hears what is beside it.
#[track_caller]
fn hear(node: &Node, pod: &str, rows: &[(&str, &str)]) {
    for (container, answer) in rows {
        wait_answer_of(node, pod, container, answer);
    }
}

fn denied(node: &Node, pod: &str, container: &str) -> u64 {
    let report: Value = serde_json::from_str(&node.ok(&["net", pod, "-o", "json"])).unwrap();
    let all = report["containers"].as_array().unwrap();
    let one = all.iter().find(|it| it["name"] == container);
    one.map_or(0, |it| it["counters"]["denied"].as_u64().unwrap_or_default())
}

/// Waits until these were denied again, and heard nothing else: what was changed a moment ago has changed nothing for them.
#[track_caller]
fn still_denied(node: &Node, pod: &str, containers: &[&str]) {
    for container in containers {
        let before = denied(node, pod, container);
        wait_for(&format!("{container} to be denied again"), || {
            (denied(node, pod, container) >= before + 2).then_some(())
        });
        let heard = answers_of(node, pod, container);
        assert_eq!(heard.last().map(String::as_str), Some(DENIED), "{container}: {heard:?}");
    }
}

const DENIED: &str = "error PermissionDenied";

/// The example of the manual that begins with this comment or holds this text.
fn example(text: &str) -> String {
    let all = examples();
    all.into_iter().find(|example| example.contains(text)).expect("the manual has such an example")
}

fn examples() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/network.md");
    let manual = std::fs::read_to_string(path).unwrap();
    let blocks = manual.split("```yaml\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_manuals_examples_are_taken_as_they_are() {
    let node = Node::start();
    let examples = examples();
    assert!(examples.len() >= 6, "{} examples", examples.len());
    for example in examples {
        let applied = node.apply(&example);
        assert!(
            applied.contains("created") || applied.contains("configured"),
            "{example}{applied}"
        );
    }
}

#[test]
fn the_manuals_metrics_are_there() {
    let node = Node::start();
    node.load("talk");
    let port = super::support::free_port();
    let published = format!("containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1");
    node.apply(&server("one", "").replace("containerPort: 8080", &published));
    node.wait_ready("one");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/network.md");
    let manual = std::fs::read_to_string(path).unwrap();
    let metrics = super::support::http_get_socket(&node.socket(), "/metrics").unwrap();
    let named = manual
        .split('`')
        .filter(|word| word.starts_with("container_network_") || word.starts_with("podling_"));
    let mut count = 0;
    for word in named {
        let name = word.split('{').next().unwrap();
        // `podling_published_*` is a family of names.
        let (name, whole) = name.strip_suffix('*').map_or((name, true), |start| (start, false));
        let is_it = |line: &str| {
            // A metric that has no value yet has its type.
            let line = line.strip_prefix("# TYPE ").unwrap_or(line);
            line.strip_prefix(name).is_some_and(|rest| !whole || rest.starts_with(['{', ' ']))
        };
        assert!(metrics.lines().any(is_it), "{name} in:\n{metrics}");
        count += 1;
    }
    assert!(count >= 15, "{count} metrics in the manual");
}

/// The manual's example: `192.0.2.0/24` but for one host, at TCP 502.
#[test]
fn a_policy_opens_addresses_but_for_its_exceptions_and_only_its_ports() {
    let plant = host("plant");
    let node = Node::start_with(&format!(
        "network: {{allowTestNet: true, testNet: {{hosts: {{'192.0.2.20:502': '127.0.0.1:{plant}', '192.0.2.66:502': '127.0.0.1:{plant}', \
         '192.0.2.20:80': '127.0.0.1:{plant}', '[2001:db8::20]:502': '127.0.0.1:{plant}'}}}}}}\n"
    ));
    node.load("talk");
    node.apply(&asker(
        "meter",
        "labels: {app: meter}",
        &[
            ("allowed", "tcp", "192.0.2.20", 502),
            ("excepted", "tcp", "192.0.2.66", 502),
            ("port", "tcp", "192.0.2.20", 80),
            ("datagrams", "udp", "192.0.2.20", 502),
            ("six", "tcp", "2001:db8::20", 502),
        ],
    ));
    let all = ["allowed", "excepted", "port", "datagrams", "six"];
    all.iter().for_each(|container| wait_answer_of(&node, "meter", container, DENIED));
    let policy = example("cidr: 192.0.2.0/24");
    node.apply(&policy);
    hear(&node, "meter", &[("allowed", "plant"), ("six", "plant")]);
    still_denied(&node, "meter", &["excepted", "port", "datagrams"]);
    let wider = policy.replace("            except: [192.0.2.66/32]\n", "").replace(
        "        - port: 502\n",
        "        - {port: 502, endPort: 600}\n        - {port: 502, protocol: UDP}\n",
    );
    assert_ne!(wider, policy);
    node.apply(&wider);
    hear(&node, "meter", &[("excepted", "plant"), ("datagrams", "plant")]);
    still_denied(&node, "meter", &["port"]);
    node.ok(&["delete", "networkpolicy", "meter"]);
    all.iter().for_each(|container| wait_answer_of(&node, "meter", container, DENIED));
    let page = node.ok(&["describe", "pod", "meter"]);
    assert!(page.contains("Network:") && page.contains(" by policy"), "{page}");
    assert!(page.contains("  Outside:\n"), "{page}");
}

#[test]
fn a_name_that_may_be_reached_opens_its_addresses_to_that_pod_and_no_other_name_is_asked() {
    let (api, names) = (host("api"), NameServer::start("api.example.com", [192, 0, 2, 20]));
    let node = Node::start_with(&format!(
        "network: {{allowTestNet: true, testNet: {{nameServer: '127.0.0.1:{}', hosts: {{'192.0.2.20:443': '127.0.0.1:{api}', '192.0.2.20:80': '127.0.0.1:{api}'}}}}}}\n",
        names.port
    ));
    node.load("talk");
    node.apply(&asker(
        "clock",
        "labels: {app: clock}",
        &[
            ("name", "tcp", "api.example.com", 443),
            ("address", "tcp", "192.0.2.20", 443),
            ("port", "tcp", "api.example.com", 80),
            ("other", "tcp", "other.example.com", 443),
        ],
    ));
    node.apply(&asker("stranger", "labels: {app: x}", &[("address", "tcp", "192.0.2.20", 443)]));
    let nothing =
        [("name", "unknown"), ("address", DENIED), ("port", "unknown"), ("other", "unknown")];
    hear(&node, "clock", &nothing);
    assert!(!names.was_asked("api.example.com"), "nobody may ask for it yet");
    node.apply(&example("egress-names: \"api.example.com:443"));
    // The address is known to be that name's from its first look-up on, and for as long as the answer holds.
    hear(&node, "clock", &[("name", "api"), ("address", "api"), ("port", DENIED)]);
    still_denied(&node, "stranger", &["address"]);
    assert!(names.was_asked("api.example.com") && !names.was_asked("other.example.com"));
    assert_eq!(answers_of(&node, "clock", "other"), ["unknown"]);
    node.ok(&["delete", "networkpolicy", "names"]);
    hear(&node, "clock", &nothing);
}

#[test]
fn of_the_hosts_loopback_a_pod_reaches_the_ports_it_was_granted_and_no_others() {
    let (listed, private) = (host("database"), host("secret"));
    let node = Node::start_with(&format!("network: {{hostLoopbackAllowList: ['tcp/{listed}']}}\n"));
    node.load("talk");
    // A policy that lets everything out leads to no address of the host either.
    node.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all}\nspec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}\n",
    );
    let own = own_address();
    let mut asks = vec![
        ("granted", "tcp", "host.podling.internal", listed),
        ("other", "tcp", "host.podling.internal", private),
        ("datagrams", "udp", "host.podling.internal", listed),
        ("loopback", "tcp", "127.0.0.1", private),
        ("mapped", "tcp", "2002:7f00:1::", private),
    ];
    asks.extend(own.as_deref().map(|own| ("own", "tcp", own, private)));
    let grant = |port| format!("annotations: {{podling.dev/host-loopback: tcp/{port}}}");
    node.apply(&asker("app", &grant(listed), &asks));
    hear(&node, "app", &[("granted", "database"), ("other", DENIED), ("datagrams", DENIED)]);
    hear(&node, "app", &[("loopback", "error ConnectionRefused"), ("mapped", DENIED)]);
    if own.is_some() {
        hear(&node, "app", &[("own", DENIED)]);
    }
    // What is taken back is gone at once; what is asked for in addition waits for the pod's next form, and that is said.
    let annotate = |ports: &str| {
        let pod =
            asker("app", &format!("annotations: {{podling.dev/host-loopback: '{ports}'}}"), &asks);
        std::fs::write(node.path("again.yaml"), pod).unwrap();
        node.cli(&["apply", "-f", node.path("again.yaml").to_str().unwrap()])
    };
    let changed = annotate(&format!("udp/{listed}"));
    assert!(String::from_utf8_lossy(&changed.stderr).contains("keeps what it began with"));
    hear(&node, "app", &[("granted", DENIED), ("datagrams", DENIED)]);
    let back = annotate(&format!("tcp/{listed}"));
    assert!(back.status.success());
    hear(&node, "app", &[("granted", "database")]);
    node.apply(&asker("none", "labels: {}", &[("c", "tcp", "host.podling.internal", listed)]));
    hear(&node, "none", &[("c", "unknown")]);
    node.apply(&asker(
        "greedy",
        &grant(private),
        &[("c", "tcp", "host.podling.internal", private)],
    ));
    let page = wait_for("the refusal", || {
        let page = node.ok(&["describe", "pod", "greedy"]);
        page.contains("FailedCreatePodSandBox").then_some(page)
    });
    assert!(page.contains("network.hostLoopbackAllowList"), "{page}");
    // Whoever writes the node's own files decides for himself.
    let own = asker("own", &grant(private), &[("c", "tcp", "host.podling.internal", private)]);
    let image = super::support::guest("talk");
    node.put_manifest("own.yaml", &own.replace("talk:test", &format!("file:{}", image.display())));
    hear(&node, "own", &[("c", "secret")]);
}

#[test]
fn a_grant_of_the_hosts_loopback_is_for_one_protocol_at_one_port() {
    let (granted, other) = (host("resolver"), host("secret"));
    let node = Node::start();
    let asks = [
        ("granted", "udp", "host.podling.internal", granted),
        ("connection", "tcp", "host.podling.internal", granted),
        ("other", "udp", "host.podling.internal", other),
        ("loopback", "udp", "127.0.0.1", granted),
    ];
    let talk = format!("file:{}", super::support::guest("talk").display());
    let manifest = |grant: &str| {
        let head = format!("annotations: {{podling.dev/host-loopback: '{grant}'}}");
        asker("app", &head, &asks).replace("talk:test", &talk)
    };
    node.put_manifest("app.yaml", &manifest(&format!("udp/{granted}")));
    hear(&node, "app", &[("granted", "resolver"), ("connection", DENIED), ("other", DENIED)]);
    // The pod's own loopback is another one: nobody listens there.
    let heard = wait_for("an answer of the pod's own loopback", || {
        answers_of(&node, "app", "loopback").last().cloned()
    });
    assert!(["error TimedOut", "error ConnectionRefused"].contains(&&*heard), "{heard}");
    still_denied(&node, "app", &["connection", "other"]);
    // Both, one beside the other.
    node.put_manifest("app.yaml", &manifest(&format!("udp/{granted},tcp/{granted}")));
    hear(&node, "app", &[("connection", "resolver"), ("granted", "resolver"), ("other", DENIED)]);
}

/// The address by which others know this machine, if it is on any network.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel only says from where it would be.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then(|| ip.to_string())
}

/// A hundred at once and twenty a second: what is more never leaves the node, and is counted.
#[test]
fn names_are_looked_up_at_a_rate() {
    const MORE: u64 = 2_000;
    let names = NameServer::start("api.example.com", [192, 0, 2, 20]);
    let node = Node::start_with(&format!(
        "network: {{allowTestNet: true, testNet: {{nameServer: '127.0.0.1:{}'}}}}\n",
        names.port
    ));
    node.load("hostile");
    let begun = Instant::now();
    node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: asker\n  annotations: \
         {podling.dev/egress-names: '*.example.com:443'}\nspec:\n  containers:\n  \
         - {name: c, image: 'hostile:test', args: [names, '1']}\n",
    );
    let count = |metrics: &str, name: &str, of: &str| -> Option<u64> {
        let begin = format!("{name}{{namespace=\"default\",pod=\"asker\"");
        let line = metrics.lines().find(|line| line.starts_with(&begin) && line.contains(of))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let all = wait_for("many are refused", || {
        let metrics = http_get_socket(&node.path("podling.sock"), "/metrics")?;
        let limit = "reason=\"limit\"";
        let refused = count(&metrics, "podling_outside_lookups_failed_total", limit)?;
        // The bucket is empty by then, however fast this machine is.
        (refused > MORE).then_some(count(&metrics, "podling_outside_lookups_total", "")?)
    });
    let most = 100 + 20 * (begun.elapsed().as_secs() + 1);
    assert!((1..=most).contains(&all), "{all} look-ups");
    let asked = names.asked.lock().unwrap().len() as u64;
    let most = 100 + 20 * (begun.elapsed().as_secs() + 1);
    assert!((1..=most).contains(&asked), "{asked} names have left the node");
    node.ok(&["delete", "pod", "asker"]);
}

#[test]
fn what_an_audit_prints_allows_what_was_used_and_nothing_else() {
    let (api, names) = (host("api"), NameServer::start("api.example.com", [192, 0, 2, 20]));
    let node = Node::start_with(&format!(
        "network: {{allowTestNet: true, testNet: {{nameServer: '127.0.0.1:{}', hosts: {{'192.0.2.20:443': '127.0.0.1:{api}', '192.0.2.30:443': '127.0.0.1:{api}', \
         '192.0.2.30:80': '127.0.0.1:{api}'}}}}}}\n",
        names.port
    ));
    node.load("talk");
    node.apply(&server("one", ""));
    let one = ip(&node, "one");
    node.apply(super::fabric::SERVICE);
    let used = [
        ("name", "tcp", "api.example.com", 443),
        ("address", "tcp", "192.0.2.30", 443),
        ("service", "tcp", "web", 80),
        ("pod", "udp", one.as_str(), 8080),
    ];
    let heard = [("name", "api"), ("address", "api"), ("service", "one"), ("pod", "one")];
    let with_server = |head: &str, asks: &[(&str, &str, &str, u16)]| {
        asker("app", head, asks) + "  - {name: server, image: 'talk:test', args: [serve, '9000']}\n"
    };
    let audited = "labels: {app: app}, annotations: {podling.dev/network-audit: 'true'}";
    node.apply(&with_server(audited, &used));
    hear(&node, "app", &heard);
    let app = ip(&node, "app");
    node.apply(&asker("friend", "labels: {app: friend}", &[("c", "tcp", app.as_str(), 9000)]));
    hear(&node, "friend", &[("c", "app")]);
    let proposal = node.ok(&["net", "app", "--audit"]);
    assert!(proposal.contains("denied   to api.example.com tcp/443"), "{proposal}");
    for pod in ["app", "friend"] {
        node.ok(&["delete", "pod", pod]);
        node.wait_gone(pod);
    }
    node.apply(&proposal);
    // Not audited any more.
    let mut all = used.to_vec();
    all.extend([
        ("other-port", "tcp", "192.0.2.30", 80),
        ("other-protocol", "tcp", one.as_str(), 8080),
        ("other-name", "tcp", "other.example.com", 443),
    ]);
    // `one` at TCP 8080 was used through the Service; at another port of it nothing was.
    let at = all.iter().position(|ask| ask.0 == "other-protocol").unwrap();
    all[at].3 = 9999;
    node.apply(&with_server("labels: {app: app}", &all));
    hear(&node, "app", &heard);
    hear(
        &node,
        "app",
        &[("other-port", DENIED), ("other-protocol", DENIED), ("other-name", "unknown")],
    );
    let app = ip(&node, "app");
    node.apply(&asker("friend", "labels: {app: friend}", &[("c", "tcp", app.as_str(), 9000)]));
    node.apply(&asker("foe", "labels: {app: foe}", &[("c", "tcp", app.as_str(), 9000)]));
    hear(&node, "friend", &[("c", "app")]);
    hear(&node, "foe", &[("c", DENIED)]);
    // And the event leads to the command that was used here.
    let page = node.ok(&["describe", "pod", "app"]);
    assert!(page.contains("`podling net app --audit` says more"), "{page}");
}
