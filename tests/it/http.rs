//! Modules that answer HTTP, what they ask of others, and core modules that are given their sockets, as a person with `curl` meets them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::support::{Node, container, free_port, guest, http_get_socket, restarts, wait_for};

/// A pod with one handler on a published port, with a readiness probe over HTTP.
pub(super) fn handler(name: &str, module: &str, port: u16, grace: u32) -> String {
    annotated(name, module, port, grace, "http-reuse.podling.dev/web: '3'")
}

fn annotated(name: &str, module: &str, port: u16, grace: u32, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\n  annotations: {{{annotations}}}\n\
         spec:\n  terminationGracePeriodSeconds: {grace}\n  containers:\n  - name: web\n    image: 'file:{}'\n    \
         env: [{{name: NAME, value: {name}}}]\n    \
         ports: [{{name: http, containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1}}]\n    \
         readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}\n",
        guest(module).display()
    )
}

pub(super) fn connect(port: u16) -> TcpStream {
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

pub(super) fn get(port: u16, path: &str) -> Option<(u16, String)> {
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
    // The next run of it is given the port again, and who comes in between waits for that.
    connect(port).write_all(b"quit").unwrap();
    node.wait_pod("old", "restarted", |pod| restarts(pod, "listen") >= 1);
    let mut stream = connect(port);
    stream.write_all(b"again").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"again");
    assert!(node.ok(&["logs", "old", "-c", "listen"]).contains("listen: 1 sockets (echo)"));
}

/// Both generations in one pod and another pod's beside them: by `localhost`, by the pod's address, by a Service's name.
#[test]
fn handlers_are_reached_from_their_pod_from_others_and_from_the_host() {
    let node = Node::start();
    let (port, other) = (free_port(), free_port());
    let second = format!(
        "  - name: newer\n    image: 'file:{}'\n    ports: [{{containerPort: 8081, hostPort: {other}, hostIP: 127.0.0.1}}]\n",
        guest("handler3").display()
    );
    node.put_manifest("web.yaml", &(handler("web", "handler", port, 1) + &second));
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec:\n  selector: {app: web}\n  ports: \
                   [{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8081}]\n";
    node.put_manifest("shop.yaml", service);
    let pod = node.wait_ready("web");
    let address = pod["status"]["podIP"].as_str().unwrap();
    let outer = free_port();
    node.put_manifest("asker.yaml", &handler("asker", "handler3", outer, 1));
    node.wait_ready("asker");
    let (older, newer) = ("hello from web\n", "hello from 0.3\n");
    let rows = [
        (other, "localhost:8080".to_owned(), older),
        (port, "localhost:8081".to_owned(), newer),
        (port, format!("{address}:8081"), newer),
        (outer, format!("{address}:8080"), older),
        (outer, "shop.default.svc.cluster.local".to_owned(), older),
        (outer, "shop:81".to_owned(), newer),
    ];
    for (through, to, says) in rows {
        let answer = wait_for(&format!("an answer of {to}"), || {
            get(through, &format!("/get?http://{to}/")).filter(|(status, _)| *status == 200)
        });
        assert_eq!(answer.1, says, "{to}");
    }
    // Nothing leads out unless a policy says so, and each generation hears it in its own words.
    for through in [port, other] {
        for (to, error) in [
            ("203.0.113.1", "DestinationIpProhibited"),
            ("127.0.0.1:1", "ConnectionRefused"),
            ("nobody.example", "DnsError"),
        ] {
            let (status, said) = get(through, &format!("/get?http://{to}/")).unwrap();
            assert_eq!(status, 502, "{to}: {said}");
            assert!(said.contains(error), "{to}: {said}");
        }
    }
}

#[test]
fn what_bounds_a_handler_is_what_its_clients_see() {
    let node = Node::start();
    let port = free_port();
    let bounds = "http-concurrency.podling.dev/web: '1', http-timeout.podling.dev/web: '8', \
                  http-body-limit.podling.dev/web: 1Ki, http-reuse.podling.dev/web: '2'";
    let manifest = annotated("web", "handler", port, 1, bounds);
    // Its probe would ask in between, and have an instance of its own.
    let (before, probe) = manifest.split_once("    readinessProbe:").unwrap();
    node.put_manifest("web.yaml", &format!("{before}{}", probe.split_once('\n').unwrap().1));
    node.wait_ready("web");
    for count in ["1\n", "2\n", "1\n", "2\n"] {
        assert_eq!(get(port, "/count"), Some((200, count.to_owned())));
    }
    // What an instance that trapped knew is gone with it.
    assert_eq!(get(port, "/count"), Some((200, "1\n".to_owned())));
    assert_eq!(get(port, "/trap").map(|(status, _)| status), Some(500));
    assert_eq!(get(port, "/count"), Some((200, "1\n".to_owned())));
    let body = "x".repeat(2000);
    assert_eq!(ask(port, "POST", "/length", &body[..1024]), Some((200, "1024\n".to_owned())));
    assert_eq!(
        ask(port, "POST", "/length", &body),
        Some((413, "the body is too long\n".to_owned()))
    );
    // One place: who comes second waits for a second, and is sent away; who has it too long loses it.
    let mut slow = connect(port);
    write!(slow, "GET /sleep?ms=60000 HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
    wait_for("the place to be taken", || get(port, "/").filter(|(status, _)| *status == 503));
    assert_eq!(response(&mut slow).0, 504);
    assert_eq!(get(port, "/"), Some((200, "hello from web\n".to_owned())));
    let log = node.ok(&["logs", "web"]);
    assert!(log.contains("podling: GET /sleep: no response within 8 s; given up"), "{log}");
    let metrics = http_get_socket(&node.socket(), "/metrics").unwrap();
    for (name, least) in
        [("requests", 10), ("trapped", 1), ("timed_out", 1), ("refused", 2), ("instances", 5)]
    {
        let line = metrics.lines().find(|line| {
            line.starts_with(&format!("podling_container_http_{name}_total"))
                && line.contains("container=\"web\"")
        });
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count >= least), "{name}: {line:?}");
    }
    assert_eq!(restarts(&node.pod("web").unwrap(), "web"), 0);
}

#[test]
fn a_handler_that_fails_its_liveness_probe_is_restarted() {
    let node = Node::start();
    let manifest = handler("web", "handler", free_port(), 1)
        + "    livenessProbe: {httpGet: {path: /trap, port: 8080}, periodSeconds: 1, failureThreshold: 1}\n";
    node.put_manifest("web.yaml", &manifest);
    node.wait_pod("web", "restarted", |pod| restarts(pod, "web") >= 1);
    assert!(node.ok(&["get", "events"]).contains("HTTP probe failed with statuscode: 500"));
}

/// A server of one page over TLS on the host's loopback, and its certificate.
fn secure_server() -> (u16, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["host.podling.internal".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let (listener, config) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(config));
    let port = listener.local_addr().unwrap().port();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut head = vec![];
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            // A client that does not trust it has gone.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsecure\n");
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (port, cert.pem())
}

#[test]
fn https_leads_to_whom_the_node_trusts_and_to_nobody_else() {
    let node = Node::start_with("moduleCaFile: DIR/authorities.pem\n");
    let (known, authority) = secure_server();
    let (unknown, _) = secure_server();
    std::fs::write(node.path("authorities.pem"), authority).unwrap();
    for module in ["handler", "handler3"] {
        let port = free_port();
        let granted = format!("podling.dev/host-loopback: 'tcp/{known},tcp/{unknown}'");
        node.put_manifest(&format!("{module}.yaml"), &annotated(module, module, port, 1, &granted));
        node.wait_ready(module);
        let ask =
            |port_of: u16, name| get(port, &format!("/get?https://{name}:{port_of}/")).unwrap();
        assert_eq!(ask(known, "host.podling.internal"), (200, "secure\n".to_owned()), "{module}");
        for (port_of, name) in [(unknown, "host.podling.internal"), (known, "169.254.1.1")] {
            let (status, said) = ask(port_of, name);
            assert_eq!(status, 502, "{module}: {said}");
            assert!(said.contains("TlsCertificateError"), "{module}: {said}");
        }
    }
}
