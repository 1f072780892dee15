//! `port-forward`, our own and kubectl's, and `podling net`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::kubectl::Kubectl;
use super::support::{Node, guest, http_get_socket, podling, wait_for};

/// A pod that echoes, on its port 7, published nowhere.
fn echo(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: echo\n    image: 'file:{}'\n    env: [{{name: PORT, value: '7'}}]\n    \
         ports: [{{name: echo, containerPort: 7}}]\n",
        guest("echo").display()
    )
}

fn listening(node: &Node, pod: &str) {
    wait_for("the module to listen", || {
        node.ok(&["net", pod, "--listening"]).contains("LISTEN").then_some(())
    });
}

/// A command that forwards, and the port it chose.
struct Forwarding {
    child: Child,
    port: u16,
}

impl Forwarding {
    /// Waits for `Forwarding from 127.0.0.1:PORT -> …`.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let port = line.strip_prefix("Forwarding from 127.0.0.1:");
        let port = port.and_then(|rest| rest.split(' ').next()).and_then(|port| port.parse().ok());
        let Some(port) = port else {
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            panic!("{line:?} {error}");
        };
        // Whatever it says from now on is read, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Self { child, port }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes back, if all of it does.
fn exchange(port: u16, data: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut writer = stream.try_clone().ok()?;
    let sent = data.to_vec();
    let writing = std::thread::spawn(move || writer.write_all(&sent));
    let mut answer = vec![0; data.len()];
    stream.read_exact(&mut answer).ok()?;
    writing.join().unwrap().ok()?;
    Some(answer)
}

fn pattern(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| n.to_be_bytes()[3]).collect()
}

#[test]
fn our_own_port_forward_carries_everything_and_ends_when_both_are_done() {
    let node = Node::start();
    node.put_manifest("echo.yaml", &echo("echo"));
    node.wait_ready("echo");
    listening(&node, "echo");
    let mut command = podling();
    command.env("PODLING_SOCKET", node.socket()).args(["port-forward", "echo", ":echo"]);
    let forwarding = Forwarding::start(&mut command);
    let big = pattern(1_000_003);
    assert!(exchange(forwarding.port, &big).is_some_and(|answer| answer == big));
    // Half-close: the echo ends its side when we have ended ours.
    let mut stream = TcpStream::connect(("127.0.0.1", forwarding.port)).unwrap();
    stream.write_all(b"last words").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"last words");
    let report: Value = serde_json::from_str(&node.ok(&["net", "echo", "-o", "json"])).unwrap();
    assert_eq!(report["forwarded"]["connections"], 2, "{report:#}");
    assert_eq!(report["forwarded"]["bytesIn"], 1_000_013, "{report:#}");
}

#[test]
fn a_port_where_nobody_listens_is_told_and_the_next_connection_tried() {
    let node = Node::start();
    node.put_manifest("echo.yaml", &echo("echo"));
    node.wait_ready("echo");
    let mut command = podling();
    command.env("PODLING_SOCKET", node.socket()).args(["port-forward", "echo", ":81"]);
    let mut forwarding = Forwarding::start(&mut command);
    for _ in 0..2 {
        let mut stream = TcpStream::connect(("127.0.0.1", forwarding.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let ended = stream.read(&mut [0; 8]);
        assert!(matches!(ended, Err(_) | Ok(0)), "{ended:?}");
    }
    forwarding.child.kill().unwrap();
    let mut error = String::new();
    forwarding.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(error.matches("connection refused").count(), 2, "{error}");
}

#[test]
fn what_cannot_be_forwarded_is_said_at_once() {
    let node = Node::start();
    node.put_manifest("echo.yaml", &echo("echo"));
    node.wait_ready("echo");
    assert!(node.fails(&["port-forward", "nobody", "80"]).contains("pods \"nobody\" not found"));
    let error = node.fails(&["port-forward", "echo", "80:http"]);
    assert!(error.contains("pod echo does not have a port named http"), "{error}");
    let error = node.fails(&["port-forward", "echo", "99999"]);
    assert!(error.contains("99999 is no port: 1 to 65535"), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = node.fails(&["port-forward", "echo", &format!("{port}:7")]);
    assert!(error.contains(&format!("unable to listen on 127.0.0.1:{port}")), "{error}");
}

#[test]
fn kubectl_forwards_over_websocket_and_over_spdy() {
    let node = Node::start();
    let Some(kubectl) = Kubectl::of(&node) else { return };
    node.put_manifest("echo.yaml", &echo("echo"));
    node.wait_ready("echo");
    listening(&node, "echo");
    for websockets in ["true", "false"] {
        let mut command = kubectl.command();
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
        command.args(["port-forward", "pod/echo", ":7", "-v=4"]);
        let mut forwarding = Forwarding::start(&mut command);
        let big = pattern(300_007);
        for round in 0..5 {
            let answer = exchange(forwarding.port, &big);
            assert!(answer.is_some_and(|it| it == big), "websockets {websockets}, round {round}");
        }
        // Several at once, on one session.
        let port = forwarding.port;
        let exchanges: Vec<_> = (0..6)
            .map(|n| std::thread::spawn(move || exchange(port, &pattern(50_000 + n)).is_some()))
            .collect();
        assert!(exchanges.into_iter().all(|it| it.join().unwrap()), "websockets {websockets}");
        forwarding.child.kill().unwrap();
        let mut said = String::new();
        forwarding.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(
            !said.contains("fallback to secondary"),
            "it was the way that was asked for: {said}"
        );
    }
}

#[test]
fn sockets_and_traffic_are_shown() {
    let node = Node::start();
    node.put_manifest("echo.yaml", &echo("echo"));
    node.wait_ready("echo");
    listening(&node, "echo");
    let sockets = node.ok(&["net", "echo"]);
    let listener = sockets.lines().find(|line| line.contains("LISTEN")).unwrap();
    let words: Vec<&str> = listener.split_whitespace().collect();
    assert_eq!(words, ["tcp", "LISTEN", "0", "128", "0.0.0.0:7", "*:*", "echo"], "{sockets}");
    assert!(sockets.lines().any(|line| line.starts_with("udp")), "{sockets}");
    let mut command = podling();
    command.env("PODLING_SOCKET", node.socket()).args(["port-forward", "echo", ":7"]);
    let forwarding = Forwarding::start(&mut command);
    let mut stream = TcpStream::connect(("127.0.0.1", forwarding.port)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let sockets = node.ok(&["net", "echo"]);
    assert_eq!(sockets.matches("ESTAB").count(), 2, "both ends are in the pod: {sockets}");
    let traffic = node.ok(&["net", "echo", "--traffic", "-c", "echo"]);
    let row = |name: &str| {
        let line = traffic.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok())
    };
    assert_eq!(row("tcpBytesReceived"), Some(5), "{traffic}");
    assert_eq!(row("accepts"), Some(1), "{traffic}");
    let error = node.fails(&["net", "echo", "-c", "nobody"]);
    assert!(error.contains("container nobody is not valid for pod echo"), "{error}");
    let error = node.fails(&["net", "nobody"]);
    assert!(error.contains("pods \"nobody\" not found"), "{error}");
}

#[test]
fn traffic_is_in_the_metrics_under_the_names_that_dashboards_know() {
    let node = Node::start();
    node.put_manifest("echo.yaml", &echo("echo"));
    node.wait_ready("echo");
    listening(&node, "echo");
    let mut command = podling();
    command.env("PODLING_SOCKET", node.socket()).args(["port-forward", "echo", ":7"]);
    let forwarding = Forwarding::start(&mut command);
    let data = pattern(5000);
    assert!(exchange(forwarding.port, &data).is_some_and(|answer| answer == data));
    let uid = node.pod("echo").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let of_pod = format!("namespace=\"default\",pod=\"echo\",uid=\"{uid}\"");
    let metrics = http_get_socket(&node.socket(), "/metrics").unwrap();
    let value = |name: &str, more: &str| {
        let start = format!("{name}{{{of_pod}{more}}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|value| value.parse::<u64>().ok())
    };
    let of_echo = ",container=\"echo\"";
    let received = value("container_network_receive_bytes_total", of_echo);
    assert_eq!(received, Some(5000), "{metrics}");
    assert_eq!(value("container_network_transmit_bytes_total", of_echo), Some(5000));
    let accepted = value("podling_net_connections_total", ",container=\"echo\",direction=\"in\"");
    assert_eq!(accepted, Some(1), "{metrics}");
    assert_eq!(value("podling_portforward_connections_total", ""), Some(1));
    assert_eq!(value("podling_outside_connections_total", ""), Some(0));
    // Each family stands once: Prometheus refuses anything else.
    let mut families: Vec<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let all = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), all, "{metrics}");
}
