//! HTTP as clients of all kinds spell it, through a published port: what stays in step, what is refused by name, and what becomes of a
//! client that goes away, or takes nothing.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use super::http::{connect, get, handler};
use super::support::{Node, free_port, http_get_socket, restarts, wait_for};

/// A handler without a probe, whose requests would be counted with the tests'.
fn quiet(name: &str, module: &str, port: u16) -> String {
    let manifest = handler(name, module, port, 1);
    let (before, probe) = manifest.split_once("    readinessProbe:").unwrap();
    format!("{before}{}", probe.split_once('\n').unwrap().1)
        .replace("  - name: web\n", "  - name: web\n    resources: {limits: {memory: 64Mi}}\n")
}

/// A node with both generations of handlers; their ports.
fn both() -> (Node, [(&'static str, u16); 2]) {
    let node = Node::start();
    let sites = [("older", free_port()), ("newer", free_port())];
    for ((name, port), module) in sites.into_iter().zip(["handler", "handler3"]) {
        node.put_manifest(&format!("{name}.yaml"), &quiet(name, module, port));
    }
    for (name, port) in sites {
        node.wait_ready(name);
        wait_for("the first answer", || get(port, "/").filter(|(status, _)| *status == 200));
    }
    (node, sites)
}

/// Reads up to and with this text.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// One response, its body of either kind; status and body.
fn response(stream: &mut TcpStream) -> (u16, String) {
    let head = read_until(stream, "\r\n\r\n");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = Vec::new();
    if field(&head, "transfer-encoding") == Some("chunked") {
        loop {
            let size = read_until(stream, "\r\n");
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let begin = body.len();
            body.resize(begin + size, 0);
            stream.read_exact(&mut body[begin..]).unwrap();
            assert_eq!(read_until(stream, "\r\n"), "\r\n");
            if size == 0 {
                break;
            }
        }
    } else {
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        body.resize(length, 0);
        stream.read_exact(&mut body).unwrap();
    }
    (status, String::from_utf8(body).unwrap())
}

/// Sends all of it and says no more; what came back, to the connection's end.
fn exchange(port: u16, text: &str) -> String {
    let mut stream = connect(port);
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // A refusal may close the connection with bytes of ours unread.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A metric of a pod's container `web`.
fn metric(node: &Node, pod: &str, name: &str) -> f64 {
    let metrics = http_get_socket(&node.socket(), "/metrics").unwrap();
    let line = metrics.lines().find(|line| {
        line.starts_with(&format!("{name}{{"))
            && line.contains(&format!("pod=\"{pod}\""))
            && line.contains("container=\"web\"")
    });
    line.unwrap_or_else(|| panic!("{name} of {pod}")).rsplit(' ').next().unwrap().parse().unwrap()
}

fn nothing_under_way(node: &Node, pod: &str) {
    wait_for("all handlers to be over", || {
        (metric(node, pod, "podling_container_http_under_way") == 0.0).then_some(())
    });
}

#[test]
fn requests_on_one_connection_stay_in_step_however_they_are_sent() {
    let (_node, sites) = both();
    for (name, port) in sites {
        // Five at once, before the first is answered: in their order.
        let mut stream = connect(port);
        let asked = [("/", 200), ("/x", 404), ("/x", 404), ("/", 200), ("/x", 404)];
        let all = asked.map(|(path, _)| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        stream.write_all(all.concat().as_bytes()).unwrap();
        for (_, status) in asked {
            assert_eq!(response(&mut stream).0, status, "{name}");
        }
        // A chunked body with an extension and trailers, and the next request right behind it.
        let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                       5;kind=a\r\nhello\r\n7\r\n, world\r\n0\r\nX-Sum: 12\r\nX-Other: 1\r\n\r\n\
                       GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(chunked.as_bytes()).unwrap();
        assert_eq!(response(&mut stream), (200, "hello, world".to_owned()), "{name}");
        assert_eq!(response(&mut stream).0, 404, "{name}");
        // A body that the handler does not want, and the next request: answered, or the connection is closed after the answer.
        let unread = "x".repeat(10_000);
        write!(stream, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n{unread}")
            .unwrap();
        assert_eq!(response(&mut stream).0, 200, "{name}");
        drop(stream);
        // One that asks for the end gets it; one that knows no other way as well.
        for head in ["GET / HTTP/1.1\r\nHost: a\r\nConnection: close", "GET / HTTP/1.0\r\nHost: a"]
        {
            let mut stream = connect(port);
            write!(stream, "{head}\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains(" 200 OK\r\n"), "{name}: {answer}");
        }
    }
}

#[test]
fn a_client_that_asks_before_it_sends_its_body_is_told() {
    let (_node, sites) = both();
    for (name, port) in sites {
        let head = "POST /length HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: ";
        // The other one has no page that reads to the end before it answers.
        if name == "older" {
            let mut stream = connect(port);
            write!(stream, "{head}5\r\n\r\n").unwrap();
            let interim = read_until(&mut stream, "\r\n\r\n");
            assert!(interim.starts_with("HTTP/1.1 100 Continue\r\n"), "{interim}");
            stream.write_all(b"hello").unwrap();
            assert_eq!(response(&mut stream), (200, "5\n".to_owned()));
        }
        // Nobody wants this one's body: the answer comes at once.
        for (path, length, status) in [("/length", 65 << 20, 413), ("/x", 5, 404)] {
            let mut stream = connect(port);
            let head = head.replace("/length", path);
            write!(stream, "{head}{length}\r\n\r\n").unwrap();
            assert_eq!(response(&mut stream).0, status, "{name}: {path}");
        }
    }
}

#[test]
fn what_is_not_offered_is_refused_by_name_and_harms_nobody() {
    let (node, sites) = both();
    let websocket = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let http2 = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    let smuggled = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /trap HTTP/1.1\r\nHost: a\r\n\r\n";
    let rows = [
        (websocket, "501", "no upgrade"),
        (http2, "200", "hello from"),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "501", "CONNECT"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400", ""),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400", ""),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nx", "400", ""),
    ];
    for (name, port) in sites {
        for (text, status, says) in rows {
            let answer = exchange(port, text);
            assert_eq!(answer.split(' ').nth(1), Some(status), "{name}: {text:?}: {answer}");
            assert!(answer.contains(says), "{name}: {text:?}: {answer}");
        }
        // Whichever length is believed, the second request is not seen (RFC 9112, 6.1).
        let answer = exchange(port, smuggled);
        assert!(!answer.contains("500"), "{name}: {answer}");
        // HTTP/2 right away, and no HTTP at all.
        for bytes in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}hello\r\n\r\n"] {
            let answer = exchange(port, bytes);
            assert!(!answer.contains(" 200 "), "{name}: {answer}");
        }
        assert_eq!(get(port, "/").map(|(status, _)| status), Some(200), "{name}");
        assert_eq!(metric(&node, name, "podling_container_http_trapped_total"), 0.0, "{name}");
        nothing_under_way(&node, name);
    }
    let answer = exchange(sites[0].1, "GET /status/101 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.split(' ').nth(1), Some("500"), "{answer}");
    let log = node.ok(&["logs", "older"]);
    assert!(log.contains("GET /status/101: the handler answered with status 101"), "{log}");
}

#[test]
fn a_client_that_goes_away_half_way_ends_what_its_handler_reads_and_frees_its_instance() {
    let (node, sites) = both();
    for (name, port) in sites {
        let mut stream = connect(port);
        write!(stream, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
            .unwrap();
        stream.write_all(&[b'x'; 100_000]).unwrap();
        let mut some = [0; 50_000];
        stream.read_exact(&mut some).unwrap();
        let under_way = metric(&node, name, "podling_container_http_under_way");
        assert!(under_way >= 1.0, "{name}");
        drop(stream);
        if name == "older" {
            wait_for("the handler to notice", || {
                node.ok(&["logs", name]).contains("echo broke: ").then_some(())
            });
        }
        nothing_under_way(&node, name);
        assert_eq!(restarts(&node.pod(name).unwrap(), "web"), 0);
    }
}

#[test]
fn a_response_without_end_costs_no_more_than_one_that_nobody_reads() {
    const ENDLESS: &str = "GET /stream?n=1000000000&size=100000 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (node, sites) = both();
    for (name, port) in sites {
        let clients: Vec<TcpStream> = (0..4)
            .map(|_| {
                let mut stream = connect(port);
                stream.write_all(ENDLESS.as_bytes()).unwrap();
                stream
            })
            .collect();
        // One reads on; the others take nothing after their first bytes, for as long as it does.
        let mut reader = &clients[0];
        let mut buffer = vec![0; 1 << 20];
        for client in &clients {
            let mut client = client;
            client.read_exact(&mut buffer[..100]).unwrap();
        }
        for _ in 0..30 {
            reader.read_exact(&mut buffer).unwrap();
        }
        assert_eq!(metric(&node, name, "podling_container_http_under_way"), 4.0, "{name}");
        let held = metric(&node, name, "container_memory_working_set_bytes");
        assert!(held < 16e6, "{name}: {held} bytes for four handlers of 100 kB chunks");
        assert_eq!(get(port, "/").map(|(status, _)| status), Some(200), "{name}");
        drop(clients);
        wait_for("all four to break off", || {
            let log = node.ok(&["logs", name]);
            (log.matches("stream broke after ").count() == 4).then_some(())
        });
        nothing_under_way(&node, name);
        assert_eq!(restarts(&node.pod(name).unwrap(), "web"), 0);
    }
}
