//! Modules that answer HTTP, and core modules that are given their sockets, as a person with `curl` meets them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::support::{Node, container, free_port, guest, restarts, wait_for};

/// A pod with one handler on a published port, with a readiness probe over HTTP.
fn handler(name: &str, module: &str, port: u16, grace: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations: {{http-reuse.podling.dev/web: '3'}}\n\
         spec:\n  terminationGracePeriodSeconds: {grace}\n  containers:\n  - name: web\n    image: 'file:{}'\n    \
         env: [{{name: NAME, value: {name}}}]\n    \
         ports: [{{name: http, containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1}}]\n    \
         readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}\n",
        guest(module).display()
    )
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// A request of a client that knows nothing of chunks; what came back until the connection's end, which must be an orderly one.
fn ask(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: gateway\r\nContent-Length: {length}\r\n\r\n");
    // It may be refused before it is read.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    ask(port, "GET", path, "")
}

/// Reads one response with a Content-Length; its status and body.
fn response(stream: &mut TcpStream) -> (u16, String) {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, String::from_utf8(body).unwrap())
}

#[test]
fn a_handler_is_a_container_like_any_other() {
    let node = Node::start();
    for (name, module, says) in
        [("older", "handler", "hello from older\n"), ("newer", "handler3", "hello from 0.3\n")]
    {
        let port = free_port();
        node.put_manifest(&format!("{name}.yaml"), &handler(name, module, port, 5));
        node.wait_ready(name);
        assert_eq!(get(port, "/"), Some((200, says.to_owned())));
        assert_eq!(get(port, "/trap").map(|(status, _)| status), Some(500));
        let big = get(port, "/stream?n=20&size=50000").unwrap();
        assert_eq!((big.0, big.1.len() >= 1_000_000), (200, true));
        let pod = node.pod(name).unwrap();
        assert_eq!(restarts(&pod, "web"), 0);
        let log = node.ok(&["logs", name]);
        assert!(log.contains("podling: GET /trap: the handler trapped: unreachable"), "{log}");
    }
}

#[test]
fn a_connection_is_kept_and_a_deleted_pod_answers_what_it_has_taken() {
    let node = Node::start();
    let port = free_port();
    node.put_manifest("web.yaml", &handler("web", "handler", port, 30));
    node.wait_ready("web");
    let mut stream = connect(port);
    for path in ["/", "/count", "/request"] {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
        let (status, _) = response(&mut stream);
        assert_eq!(status, 200, "{path}");
    }
    let mut slow = connect(port);
    write!(slow, "GET /sleep?ms=3000 HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
    response(&mut stream);
    node.remove_manifest("web.yaml");
    assert_eq!(response(&mut slow), (200, "slept\n".to_owned()));
    node.wait_gone("web");
    assert!(get(port, "/").is_none());
}

#[test]
fn a_handler_without_a_port_says_what_is_missing() {
    let node = Node::start();
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: deaf}}\nspec:\n  containers:\n  - name: web\n    image: 'file:{}'\n",
        guest("handler").display()
    );
    node.put_manifest("deaf.yaml", &manifest);
    let events = wait_for("the complaint", || {
        let events = node.ok(&["get", "events"]);
        events.contains("containerPort").then_some(events)
    });
    assert!(events.contains("Failed") && events.contains("deaf"), "{events}");
    let pod = node.pod("deaf").unwrap();
    assert_eq!(container(&pod, "web")["started"], false);
}

#[test]
fn a_wasip1_server_is_given_its_socket_and_a_neighbour_asks_it() {
    let node = Node::start();
    let port = free_port();
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: old}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: listen\n    image: 'file:{}'\n    \
         ports: [{{name: echo, containerPort: 7, hostPort: {port}, hostIP: 127.0.0.1}}]\n  \
         - name: call\n    image: 'file:{}'\n    args: [call, localhost, '7', from the neighbour]\n",
        guest("listen-p1").display(),
        guest("wasmedge-p1").display()
    );
    node.put_manifest("old.yaml", &manifest);
    wait_for("the neighbour's answer", || {
        let output = node.cli(&["logs", "old", "-c", "call"]);
        String::from_utf8_lossy(&output.stdout).contains("from the neighbour").then_some(())
    });
    let echoed = wait_for("the echo through the published port", || {
        let mut stream = connect(port);
        stream.write_all(b"over the kernel").ok()?;
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).ok()?;
        Some(answer)
    });
    assert_eq!(&echoed, b"over the kernel");
    assert!(node.ok(&["logs", "old", "-c", "listen"]).contains("listen: 1 sockets (echo)"));
}
