//! Published ports: what the manifest publishes is reached from the host, through restarts; nothing else is.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use super::support::{Node, free_port, guest, restarts, wait_for};

fn echo(name: &str, port: u16, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: echo\n    image: 'file:{}'\n    env: [{{name: PORT, value: '7'}}]\n    ports:\n    \
         - {{containerPort: 7, hostPort: {port}, hostIP: 127.0.0.1}}\n    \
         - {{containerPort: 7, protocol: UDP, hostPort: {port}, hostIP: 127.0.0.1}}\n{extra}",
        guest("echo").display()
    )
}

/// What comes back for `text`, if anything does.
fn tcp(port: u16, text: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.write_all(text).ok()?;
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}

fn udp(port: u16, text: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    socket.send_to(text, ("127.0.0.1", port)).ok()?;
    let mut buffer = [0; 2048];
    let read = socket.recv(&mut buffer).ok()?;
    Some(buffer[..read].to_vec())
}

#[test]
fn tcp_and_udp_are_carried_both_ways_byte_for_byte() {
    let node = Node::start();
    let port = free_port();
    node.put_manifest("echo.yaml", &echo("echo", port, ""));
    node.wait_ready("echo");
    let big: Vec<u8> = (0..1_000_003u32).map(|n| n.to_be_bytes()[3]).collect();
    // The first connection may come before the module listens: it waits for it.
    assert!(tcp(port, &big).is_some_and(|answer| answer == big));
    // A datagram may be lost: that is what datagrams do.
    let answer = wait_for("a datagram's echo", || udp(port, b"datagram"));
    assert_eq!(answer, b"datagram");
}

#[test]
fn a_port_that_is_taken_is_told_and_had_as_soon_as_it_is_free() {
    let node = Node::start();
    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    node.put_manifest("echo.yaml", &echo("echo", port, ""));
    let events = wait_for("the complaint", || {
        let events = node.ok(&["get", "events"]);
        events.contains("FailedCreatePodSandBox").then_some(events)
    });
    assert!(events.contains(&port.to_string()), "{events}");
    assert_eq!(node.pod("echo").unwrap()["status"]["phase"], "Pending");
    drop(taken);
    node.wait_ready("echo");
    // It has begun; until it listens a connection waits for it, but not for ever.
    let answer = wait_for("an answer", || tcp(port, b"now"));
    assert_eq!(answer, b"now");
}

#[test]
fn a_pod_that_has_ended_gives_its_port_to_the_next() {
    let node = Node::start();
    let port = free_port();
    let once = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: once}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    \
         image: 'file:{}'\n    ports: [{{containerPort: 7, hostPort: {port}, hostIP: 127.0.0.1}}]\n",
        guest("hello").display()
    );
    node.put_manifest("once.yaml", &once);
    node.wait_pod("once", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    node.put_manifest("echo.yaml", &echo("echo", port, ""));
    let pod = node.wait_ready("echo");
    assert_eq!(restarts(&pod, "echo"), 0);
    let answer = wait_for("an answer", || tcp(port, b"mine"));
    assert_eq!(answer, b"mine");
}
