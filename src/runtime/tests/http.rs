//! Modules that answer HTTP: what they answer, what bounds a request, how they end; and what modules ask of each other. What they may use in all is in
//! `http_limits`.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{
    CompileMode, HttpLimits, ModuleKind, Network, RunHandle, Runtime, RuntimeConfig, StartError,
};
use super::lab::{
    PATIENCE, Paper, RUNTIME, Trial, eventually, guest_path, module, over, prepare_text,
};
use crate::net::{ConnectError, Member, MemberLimits, NetConfig, NoLedger, PodNet, SocketState};
use crate::spec::Exit;
use crate::wasi::http::io::NetIo;

pub(super) const PORT: u16 = 8080;

/// A handler in a network of its own, and somebody beside it.
pub(super) struct Site {
    pub(super) net: PodNet,
    pub(super) peer: Member,
    pub(super) handle: RunHandle,
    pub(super) paper: Arc<Paper>,
}

pub(super) fn pod_net() -> PodNet {
    PodNet::new(NetConfig::new(Ipv4Addr::new(10, 1, 0, 8)))
}

pub(super) fn peer(net: &PodNet) -> Member {
    let limits = MemberLimits { max_sockets: 4096, ..MemberLimits::default() };
    net.join("peer", limits, Arc::new(NoLedger))
}

pub(super) fn listening(net: &PodNet) -> usize {
    net.sockets().iter().filter(|socket| socket.state == SocketState::Listen).count()
}

pub(super) fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Site {
    pub(super) async fn new(limits: HttpLimits) -> Self {
        Self::of(Trial::of("handler", &[]).await.http(PORT, limits)).await
    }

    pub(super) async fn of(mut trial: Trial) -> Self {
        let net = pod_net();
        trial.run.network = Network::Pod { net: net.clone(), member: "handler".to_owned() };
        let (handle, paper) = trial.start().await;
        let peer = peer(&net);
        eventually("it listens", || listening(&net) == 1 || handle.control.is_over()).await;
        Self { net, peer, handle, paper }
    }

    pub(super) async fn connect(&self) -> NetIo {
        connect(&self.peer, at(PORT)).await
    }

    pub(super) async fn client(&self) -> SendRequest<Full<Bytes>> {
        client(self.connect().await).await
    }

    /// One request on a connection of its own.
    pub(super) async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.client().await.send_request(get(path)).await.unwrap();
        whole(response).await
    }

    /// Ends it, and sees that nothing is left.
    pub(super) async fn end(self) {
        self.handle.control.kill();
        let control = self.handle.control.clone();
        assert_eq!(over(self.handle).await, Exit::Killed);
        assert_eq!(control.usage().memory_bytes, 0);
        assert_eq!(control.http().under_way, 0);
        assert_eq!(listening(&self.net), 0);
    }
}

pub(super) async fn connect(member: &Member, to: SocketAddr) -> NetIo {
    let stream = member.connect(to).unwrap();
    NetIo::new(tokio::time::timeout(PATIENCE, stream).await.unwrap().unwrap(), PATIENCE)
}

pub(super) async fn client(io: NetIo) -> SendRequest<Full<Bytes>> {
    let (sender, connection) = handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

pub(super) fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "handler.test")
        .body(Full::new(body))
        .unwrap()
}

pub(super) fn get(path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, path, Bytes::new())
}

pub(super) async fn whole(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.unwrap();
    (status, String::from_utf8_lossy(&body.unwrap().to_bytes()).into_owned())
}

/// Sends bytes as they are; returns all that comes back until the other side closes.
async fn raw(mut io: NetIo, bytes: &[u8]) -> String {
    if !bytes.is_empty() {
        io.write_all(bytes).await.unwrap();
    }
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request that is under way for as long as the test wants: until the rest of its body is sent.
pub(super) struct Held(NetIo);

impl Held {
    /// `path` must be one that reads its body to the end.
    pub(super) async fn begin(site: &Site, path: &str) -> Self {
        let mut io = site.connect().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhel"
        );
        // It may have been turned away already.
        let _ = io.write_all(head.as_bytes()).await;
        Self(io)
    }

    /// Sends the rest; the answer.
    pub(super) async fn end(self) -> String {
        let mut io = self.0;
        // It may have been refused without it.
        let _ = io.write_all(b"lo").await;
        raw(io, b"").await
    }
}

#[tokio::test]
async fn a_handler_answers_on_its_port_for_as_long_as_a_connection_lives() {
    let site = Site::new(HttpLimits::default()).await;
    let mut client = site.client().await;
    for path in ["/", "/", "/status/418", "/request"] {
        client.ready().await.unwrap();
        let response = client.send_request(get(path)).await.unwrap();
        assert!(response.headers().contains_key("date"));
        let (status, text) = whole(response).await;
        match path {
            "/" => assert_eq!((status, &*text), (StatusCode::OK, "hello from handler\n")),
            "/request" => {
                assert!(text.starts_with("Method::Get /request at handler.test\n"), "{text}");
            }
            _ => assert_eq!(status, StatusCode::IM_A_TEAPOT),
        }
    }
    let body = Bytes::from(vec![b'x'; 3_000_001]);
    client.ready().await.unwrap();
    let response = client.send_request(request(Method::POST, "/echo", body.clone())).await.unwrap();
    assert_eq!(whole(response).await.1.len(), body.len());
    client.ready().await.unwrap();
    let response = client.send_request(request(Method::HEAD, "/", Bytes::new())).await.unwrap();
    assert_eq!(response.headers()["content-length"], "19");
    // IPv6 as well, and the pod's own address.
    for to in ["[::1]:8080", "10.1.0.8:8080"] {
        let mut client = self::client(connect(&site.peer, to.parse().unwrap()).await).await;
        let response = client.send_request(get("/")).await.unwrap();
        assert_eq!(whole(response).await.0, StatusCode::OK, "{to}");
    }
    let usage = site.handle.control.http();
    assert_eq!((usage.requests, usage.trapped, usage.refused), (8, 0, 0));
    site.end().await;
}

#[tokio::test]
async fn each_request_has_an_instance_of_its_own_unless_told_otherwise() {
    let site = Site::new(HttpLimits::default()).await;
    for _ in 0..3 {
        assert_eq!(site.get("/count").await.1, "1\n");
    }
    site.end().await;
    let limits = HttpLimits { requests_per_instance: Some(2), ..HttpLimits::default() };
    let site = Site::new(limits).await;
    for expected in ["1\n", "2\n", "1\n", "2\n", "1\n"] {
        assert_eq!(site.get("/count").await.1, expected);
        // A handler may still be at its end when its answer is there.
        eventually("it is over", || site.handle.control.http().under_way == 0).await;
    }
    assert_eq!(site.handle.control.http().instances, 3);
    // One that trapped is not used again.
    assert_eq!(site.get("/trap").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(site.get("/count").await.1, "1\n");
    site.end().await;
}

#[tokio::test]
async fn a_trap_ends_its_request_and_nothing_else() {
    let site = Site::new(HttpLimits::default()).await;
    let neighbour = tokio::spawn(site.client().await.send_request(get("/sleep?ms=300")));
    assert_eq!(site.get("/trap").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    // Where nothing of the response has gone out it is taken back: unless the module's turn was over just then, on a busy machine.
    let mut taken_back = false;
    let mut late_ones = 1;
    while !taken_back {
        let late = site.client().await.send_request(get("/trap-late")).await.unwrap();
        taken_back = late.status() == StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(late.into_body().collect().await.is_ok(), taken_back);
        late_ones += 1;
        assert!(late_ones < 50, "it is never taken back");
    }
    let late = site.client().await.send_request(get("/trap-late?ms=200")).await.unwrap();
    assert_eq!(late.status(), StatusCode::OK);
    // The client must not take what it got for the whole.
    assert!(late.into_body().collect().await.is_err());
    for path in ["/silent", "/error", "/exit"] {
        assert_eq!(site.get(path).await.0, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    assert_eq!(whole(neighbour.await.unwrap().unwrap()).await.1, "slept\n");
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    // One that is broken off is counted after its client has seen it.
    let counted = || {
        let usage = site.handle.control.http();
        (usage.trapped, usage.failed) == (1 + late_ones, 3)
    };
    eventually("all are counted", counted).await;
    let log = site.paper.stderr();
    for line in [
        "podling: GET /trap: the handler trapped: unreachable",
        "podling: GET /silent: the handler gave no response",
        "podling: GET /error: the handler answered with an error: ",
        "podling: GET /exit: the handler called exit(0)",
    ] {
        assert!(log.contains(line), "{line:?} is not in {log}");
    }
    site.end().await;
}

#[tokio::test]
async fn a_stop_lets_requests_under_way_be_answered_and_takes_no_more() {
    let site = Site::new(HttpLimits::default()).await;
    let idle = site.client().await;
    let under_way = Held::begin(&site, "/length").await;
    let control = site.handle.control.clone();
    eventually("it is under way", || control.http().under_way == 1).await;
    assert!(control.hears_stop());
    control.ask_to_stop();
    eventually("the port is closed", || listening(&site.net) == 0).await;
    let refused = site.peer.connect(at(PORT)).err();
    assert_eq!(refused, Some(ConnectError::Refused(at(PORT))));
    let answer = under_way.end().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n5\n"), "{answer}");
    assert_eq!(over(site.handle).await, Exit::Terminated);
    eventually("the idle one is closed", || idle.is_closed()).await;
    assert_eq!(control.usage().memory_bytes, 0);
}

#[tokio::test]
async fn a_handler_that_never_ends_is_given_up_and_can_be_killed() {
    let limits =
        HttpLimits { request_timeout: Duration::from_millis(300), ..HttpLimits::default() };
    let site = Site::new(limits).await;
    let (status, _) = site.get("/spin").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(site.handle.control.http().under_way, 0);
    assert!(site.paper.stderr().contains("GET /spin: no response within 0.3 s; given up"));
    site.end().await;

    let site = Site::new(HttpLimits::default()).await;
    let control = site.handle.control.clone();
    let mut clients = Vec::new();
    for path in ["/spin", "/sleep?ms=60000", "/spin"] {
        clients.push(tokio::spawn(site.client().await.send_request(get(path))));
    }
    eventually("all are under way", || control.http().under_way == 3).await;
    control.ask_to_stop();
    site.end().await;
    for client in clients {
        assert!(client.await.unwrap().is_err());
    }
}

/// On a node where nobody else wants the thread.
#[tokio::test]
async fn a_handler_that_never_ends_is_given_up_also_when_it_is_alone() {
    let http = HttpLimits { request_timeout: Duration::from_millis(300), ..HttpLimits::default() };
    for guest in ["handler", "handler3"] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = RuntimeConfig::new(dir.path().join("cache"));
        config.compile = CompileMode::InProcess;
        let runtime = Runtime::new(config).unwrap();
        let artifact = runtime.prepare(module(guest_path(guest)), false).await.unwrap();
        let net = pod_net();
        let mut trial = Trial::new(artifact, &[]).http(PORT, http);
        trial.run.network = Network::Pod { net: net.clone(), member: "handler".to_owned() };
        let handle = runtime.start(trial.run).await.unwrap();
        eventually("it listens", || listening(&net) == 1).await;
        // Its connections go when it goes.
        let asker = peer(&net);
        let mut client = client(connect(&asker, at(PORT)).await).await;
        let response = tokio::time::timeout(PATIENCE, client.send_request(get("/spin"))).await;
        assert_eq!(response.unwrap().unwrap().status(), StatusCode::GATEWAY_TIMEOUT, "{guest}");
        eventually("it is gone, and does not spin on", || handle.control.http().under_way == 0)
            .await;
        handle.control.kill();
        assert_eq!(over(handle).await, Exit::Killed);
    }
}

#[tokio::test]
async fn a_handler_goes_on_when_its_client_has_gone_or_has_its_answer() {
    let site = Site::new(HttpLimits::default()).await;
    let mut io = site.connect().await;
    io.write_all(b"GET /after?ms=200 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("it is under way", || site.handle.control.http().requests == 1).await;
    drop(io);
    site.paper.says("worked on after the answer\n").await;
    eventually("it is over", || site.handle.control.http().under_way == 0).await;
    site.end().await;
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_answered_or_refused_and_leave_nothing() {
    let limits = HttpLimits { concurrency: 20, ..HttpLimits::default() };
    let site = Site::new(limits).await;
    let before = site.handle.control.usage().memory_bytes;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let connecting = site.peer.connect(at(PORT)).unwrap();
        tasks.spawn(async move {
            let io = NetIo::new(connecting.await.unwrap(), PATIENCE);
            whole(client(io).await.send_request(get("/sleep?ms=5")).await.unwrap()).await.0
        });
    }
    let (mut answered, mut refused) = (0, 0);
    while let Some(status) = tasks.join_next().await {
        match status.unwrap() {
            StatusCode::OK => answered += 1,
            StatusCode::SERVICE_UNAVAILABLE => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(answered + refused, 1000);
    assert!(answered >= 20, "{answered}");
    let control = &site.handle.control;
    assert_eq!((control.http().requests, control.http().refused), (1000, refused));
    eventually("all is given back", || {
        control.http().under_way == 0 && control.usage().memory_bytes <= before
    })
    .await;
    site.end().await;
}

#[tokio::test]
async fn what_is_too_long_or_malformed_is_refused_by_name() {
    let limits = HttpLimits { body_bytes_max: 1000, ..HttpLimits::default() };
    let site = Site::new(limits).await;
    let long = "a".repeat(40_000);
    let many = "x: y\r\n".repeat(120);
    let rows = [
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "431"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(), "501"),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n".to_owned(), "413"),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), "200"),
    ];
    for (text, status) in rows {
        let mut io = site.connect().await;
        io.write_all(text.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
        let answer = raw(io, b"").await;
        let head = &text[..text.len().min(60)];
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head:?}: {answer}");
    }
    // A body whose length is not told is cut where it gets too long, and the handler hears of it.
    let chunk = format!("258\r\n{}\r\n", "z".repeat(600));
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer =
        raw(site.connect().await, format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes()).await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    site.paper.says("echo broke: ").await;
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    site.end().await;
}

#[tokio::test]
async fn a_slow_client_has_its_time_and_no_more() {
    let short = Duration::from_millis(300);
    let site = Site::new(HttpLimits { head_timeout: short, ..HttpLimits::default() }).await;
    // On a busy machine its time may be over before it has said a word.
    let late = async |bytes: &[u8]| {
        let mut io = site.connect().await;
        let _ = io.write_all(bytes).await;
        raw(io, b"").await
    };
    let (slow_head, silent) = tokio::join!(late(b"GET / HTTP/1.1\r\nHos"), late(b""));
    assert!(slow_head.is_empty() || slow_head.starts_with("HTTP/1.1 408"), "{slow_head}");
    assert_eq!(silent, "");
    site.end().await;

    let site = Site::new(HttpLimits { client_patience: short, ..HttpLimits::default() }).await;
    let half = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal";
    let slow_body = raw(site.connect().await, half).await;
    assert!(!slow_body.ends_with("0\r\n\r\n"), "{slow_body}");
    // One that takes nothing of what it asked for.
    let mut deaf = site.connect().await;
    deaf.write_all(b"GET /stream?n=1000&size=100000 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    site.paper.says("stream broke after ").await;
    eventually("all are gone", || site.handle.control.http().under_way == 0).await;
    drop(deaf);
    site.end().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_stops_the_handler_and_not_the_host() {
    let site = Site::new(HttpLimits::default()).await;
    let mut deaf = site.connect().await;
    deaf.write_all(b"GET /stream?n=100000&size=100000 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let control = &site.handle.control;
    eventually("it is under way", || control.http().under_way == 1).await;
    eventually("the pipe is full", || site.net.buffered_bytes() >= 64 * 1024).await;
    let (cpu, memory) = (control.usage().cpu_time, control.usage().memory_bytes);
    // It waits: neither CPU time nor memory grows while others are served.
    for _ in 0..20 {
        assert_eq!(site.get("/").await.0, StatusCode::OK);
    }
    // The last one's instance goes when its response has gone out.
    eventually("nothing grows", || control.usage().memory_bytes < memory + (1 << 20)).await;
    let usage = control.usage();
    assert!(usage.cpu_time < cpu + Duration::from_secs(5));
    let mut some = vec![0; 1_000_000];
    deaf.read_exact(&mut some).await.unwrap();
    drop(deaf);
    site.paper.says("stream broke after ").await;
    site.end().await;
}

#[tokio::test]
async fn lines_of_concurrent_requests_are_kept_whole() {
    let site = Site::new(HttpLimits::default()).await;
    let prints = (0..8).map(|n| {
        let path = format!("/print?n=20&who={n}");
        let site = &site;
        async move { site.get(&path).await.0 }
    });
    for status in futures_util::future::join_all(prints).await {
        assert_eq!(status, StatusCode::OK);
    }
    let printed = site.paper.stdout();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 160);
    assert!(lines.iter().all(|line| line.starts_with("line ") && line.contains(" of /print?")));
    site.end().await;
}

#[tokio::test]
async fn a_handler_without_a_port_is_refused_in_words() {
    let trial = Trial::of("handler", &[]).await;
    let error = RUNTIME.start(trial.run).await.unwrap_err();
    assert!(matches!(error, StartError::NoPort), "{error}");
    assert!(error.to_string().contains("containerPort"), "{error}");
    let site = Site::new(HttpLimits::default()).await;
    let mut exec = Trial::of("handler", &[]).await.http(81, HttpLimits::default());
    exec.run.charge_to = Some(site.handle.control.clone());
    let error = RUNTIME.start(exec.run).await.unwrap_err();
    assert!(matches!(error, StartError::NotACommand), "{error}");
    site.end().await;
}

/// A command that ends with 1, and a handler that traps.
const BOTH: &str = r#"(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))
  (core module $m
    (func (export "run") (result i32) i32.const 1)
    (func (export "handle") (param i32 i32) unreachable))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $i "handle")))
  (instance $runs (export "run" (func $run)))
  (instance $handles (export "handle" (func $handle)))
  (export "wasi:cli/run@0.2.0" (instance $runs))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handles)))"#;

/// What Rust makes of a `main` with an attribute of `wstd` is such a component, and its `run` only panics.
#[tokio::test]
async fn a_handler_that_is_a_command_as_well_is_served_where_it_has_a_port() {
    let artifact = prepare_text(BOTH, false).await.unwrap();
    assert_eq!(artifact.kind(), ModuleKind::HandlerP2);
    let site = Site::of(Trial::new(artifact.clone(), &[]).http(PORT, HttpLimits::default())).await;
    assert_eq!(site.get("/").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let mut exec = Trial::new(artifact.clone(), &[]).http(PORT, HttpLimits::default());
    exec.run.charge_to = Some(site.handle.control.clone());
    assert_eq!(exec.finish().await.0, Exit::Code(1));
    site.end().await;
    assert_eq!(Trial::new(artifact, &[]).finish().await.0, Exit::Code(1));
}

#[tokio::test]
async fn a_port_that_another_module_has_ends_the_container_with_a_line() {
    let site = Site::new(HttpLimits::default()).await;
    let mut second = Trial::of("handler", &[]).await.http(PORT, HttpLimits::default());
    second.run.network = Network::Pod { net: site.net.clone(), member: "second".to_owned() };
    let (exit, paper) = second.finish().await;
    assert_eq!(exit, Exit::Code(1));
    assert!(paper.stderr().contains("podling: cannot listen on port 8080"), "{}", paper.stderr());
    site.end().await;
}

#[tokio::test]
async fn modules_ask_each_other_over_http() {
    let site = Site::new(HttpLimits::default()).await;
    let mut asker = Trial::of("handler", &[]).await.http(8081, HttpLimits::default());
    asker.run.network = Network::Pod { net: site.net.clone(), member: "asker".to_owned() };
    let (asker, _) = asker.start().await;
    eventually("both listen", || listening(&site.net) == 2).await;
    let ask = async |path: &str, body: Bytes| {
        let mut client = client(connect(&site.peer, at(8081)).await).await;
        whole(client.send_request(request(Method::POST, path, body)).await.unwrap()).await
    };
    let none = Bytes::new;
    let hello = (StatusCode::OK, "hello from handler\n".to_owned());
    assert_eq!(ask("/get?http://localhost:8080/", none()).await, hello);
    assert_eq!(ask("/get?http://10.1.0.8:8080/", none()).await, hello);
    assert_eq!(ask("/get?http://127.0.0.1:8080/status/404", none()).await.0, StatusCode::NOT_FOUND);
    let (_, seen) = ask("/get?http://localhost:8080/request?a=b", none()).await;
    assert!(seen.starts_with("Method::Get /request?a=b at localhost:8080\n"), "{seen}");
    let body = Bytes::from(vec![b'y'; 2_000_000]);
    let (status, length) = ask("/post?http://localhost:8080/length", body.clone()).await;
    assert_eq!((status, &*length), (StatusCode::OK, "2000000\n"));
    let (_, echoed) = ask("/post?http://localhost:8080/echo", body.slice(..50_000)).await;
    assert_eq!(echoed.len(), 50_000);
    for (url, error) in [
        ("http://localhost:9/", "ConnectionRefused"),
        ("http://192.0.2.1/", "DestinationIpProhibited"),
        ("http://nobody.example/", "DnsError"),
        ("http://user@localhost:8080/", "HttpRequestUriInvalid"),
        ("https://localhost:8080/", "Tls"),
        ("http://localhost:8080/trap", "the handler failed"),
    ] {
        let (_, text) = ask(&format!("/get?{url}"), none()).await;
        assert!(text.contains(error), "{url}: {text}");
    }
    let control = asker.control.clone();
    asker.control.kill();
    over(asker).await;
    assert_eq!(control.usage().memory_bytes, 0);
    site.end().await;
}

/// A connection that is dropped while it is being accepted must not stop the server.
#[tokio::test]
async fn clients_that_come_and_go_leave_nothing() {
    let site = Site::new(HttpLimits::default()).await;
    for _ in 0..500 {
        let mut connecting = pin!(site.peer.connect(at(PORT)).unwrap());
        let _ = poll_fn(|cx| Poll::Ready(connecting.as_mut().poll(cx))).await;
    }
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    eventually("the sockets are gone", || site.peer.open_sockets() == 0).await;
    site.end().await;
}
