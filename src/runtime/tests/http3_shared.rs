//! Several requests in one instance of WASI 0.3: what they share, what they lose together, and what keeps them apart.

use std::future::poll_fn;
use std::sync::LazyLock;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::StatusCode;

use super::super::{CompileMode, HttpLimits, Network, Runtime, RuntimeConfig};
use super::http::{Held, PORT, Site, at, client, connect, get, listening, peer, pod_net, whole};
use super::lab::{Trial, eventually, guest_path, module, over};
use crate::spec::Exit;

/// With one thread for guests it is known who has a turn when a request comes: its connection.
static ONE_LANE: LazyLock<Runtime> = LazyLock::new(|| {
    let program = std::env::current_exe().unwrap();
    let mut config = RuntimeConfig::new(program.parent().unwrap().join("runtime-tests-cache"));
    config.compile = CompileMode::InProcess;
    config.guest_threads = Some(1);
    Runtime::new(config).unwrap()
});

async fn site(limits: HttpLimits) -> Site {
    let artifact = ONE_LANE.prepare(module(guest_path("handler3")), false).await.unwrap();
    let mut trial = Trial::new(artifact, &[]).http(PORT, limits);
    let net = pod_net();
    trial.run.network = Network::Pod { net: net.clone(), member: "handler".to_owned() };
    let handle = ONE_LANE.start(trial.run).await.unwrap();
    eventually("it listens", || listening(&net) == 1 || handle.control.is_over()).await;
    Site { peer: peer(&net), net, handle, paper: trial.paper }
}

async fn is_over(site: &Site) {
    eventually("it is over", || site.handle.control.http().under_way == 0).await;
}

/// Asks and, when the request is under way or was turned away, breaks the connection off.
async fn ask_and_go(site: &Site, path: &str) {
    let before = site.handle.control.http().requests;
    let mut stream = site.peer.connect(at(PORT)).unwrap().await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let sent = poll_fn(|cx| stream.write.poll_write_slice(cx, head.as_bytes())).await;
    assert_eq!(sent.unwrap(), head.len());
    eventually("it has come", || site.handle.control.http().requests > before).await;
    stream.abort();
}

#[tokio::test]
async fn requests_that_wait_share_an_instance_up_to_its_bound() {
    let site = site(HttpLimits::default()).await;
    let instances = || site.handle.control.http().instances;
    let mut held = Vec::new();
    for n in 1..=16 {
        held.push(Held::begin(&site, "/echo").await);
        eventually("it is under way", || site.handle.control.http().under_way == n).await;
    }
    assert_eq!(instances(), 1);
    // It has no room for more; another one has.
    assert_eq!(site.get("/count").await.1, "1\n");
    assert_eq!(instances(), 2);
    for held in held {
        let answer = held.end().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello"), "{answer}");
    }
    is_over(&site).await;
    site.end().await;
    let limits = HttpLimits { requests_at_once: 1, ..HttpLimits::default() };
    let site = self::site(limits).await;
    let held = Held::begin(&site, "/echo").await;
    eventually("it is under way", || site.handle.control.http().under_way == 1).await;
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    assert_eq!(site.handle.control.http().instances, 2, "told to have one at a time");
    held.end().await;
    site.end().await;
}

#[tokio::test]
async fn an_instance_answers_so_many_requests_and_no_more() {
    let limits = HttpLimits { requests_per_instance: Some(3), ..HttpLimits::default() };
    let site = site(limits).await;
    let mut firsts = 0;
    for _ in 0..30 {
        let count: u32 = site.get("/count").await.1.trim().parse().unwrap();
        assert!((1..=3).contains(&count), "{count}");
        firsts += u32::from(count == 1);
    }
    assert!((10..30).contains(&firsts), "{firsts} of 30 were the first of their instance");
    is_over(&site).await;
    site.end().await;
}

#[tokio::test]
async fn a_trap_ends_what_shares_the_instance_and_nothing_else() {
    let limits = HttpLimits { requests_at_once: 3, ..HttpLimits::default() };
    let site = site(limits).await;
    let under_way =
        async |n| eventually("under way", || site.handle.control.http().under_way == n).await;
    let (mut streaming, mut waiting) = (site.client().await, site.client().await);
    let streamed = streaming.send_request(get("/stream?n=1000000&size=1000")).await.unwrap();
    assert_eq!(streamed.status(), StatusCode::OK);
    let slept = tokio::spawn(waiting.send_request(get("/sleep?ms=600000")));
    under_way(2).await;
    let (status, text) = site.get("/trap").await;
    assert_eq!((status, &*text), (StatusCode::INTERNAL_SERVER_ERROR, "the handler failed\n"));
    let (status, text) = whole(slept.await.unwrap().unwrap()).await;
    assert_eq!((status, &*text), (StatusCode::INTERNAL_SERVER_ERROR, "the handler failed\n"));
    // Its answer had begun, so it can only be broken off.
    assert!(streamed.into_body().collect().await.is_err());
    is_over(&site).await;
    let usage = site.handle.control.http();
    assert_eq!((usage.trapped, usage.failed), (1, 2));
    let log = site.paper.stderr();
    let line = "podling: one of 3 requests (GET /stream, GET /sleep, GET /trap): the handler trapped: unreachable";
    assert!(log.contains(line), "{log}");
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    site.end().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_costs_the_instance_and_not_its_neighbours() {
    let limits =
        HttpLimits { request_timeout: Duration::from_millis(300), ..HttpLimits::default() };
    let site = site(limits).await;
    let held = Held::begin(&site, "/echo").await;
    eventually("it is under way", || site.handle.control.http().under_way == 1).await;
    assert_eq!(site.get("/sleep?ms=600000").await.0, StatusCode::GATEWAY_TIMEOUT);
    // The instance takes no more.
    assert_eq!(site.get("/count").await.1, "1\n");
    assert_eq!(site.handle.control.http().instances, 2);
    let answer = held.end().await;
    assert!(answer.contains("hello"), "{answer}");
    // What was given up goes with the instance, now that nobody waits for it.
    is_over(&site).await;
    assert_eq!(site.handle.control.http().timed_out, 1);
    site.end().await;
}

#[tokio::test]
async fn one_that_computes_holds_no_other_up() {
    let limits = HttpLimits { request_timeout: Duration::from_secs(3), ..HttpLimits::default() };
    let site = site(limits).await;
    let mut spinning = site.client().await;
    let spun = tokio::spawn(spinning.send_request(get("/spin")));
    eventually("it is under way", || site.handle.control.http().under_way == 1).await;
    for _ in 0..5 {
        assert_eq!(site.get("/").await.0, StatusCode::OK);
    }
    assert_eq!(site.handle.control.http().timed_out, 0, "all while the first still computes");
    assert_eq!(spun.await.unwrap().unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    is_over(&site).await;
    site.end().await;
}

#[tokio::test]
async fn a_client_that_asks_and_leaves_keeps_its_place_no_longer_than_an_answer_may_take() {
    let shared = HttpLimits {
        request_timeout: Duration::from_millis(300),
        concurrency: 4,
        ..HttpLimits::default()
    };
    let alone = HttpLimits { requests_per_instance: Some(1), ..shared };
    for limits in [shared, alone] {
        let site = site(limits).await;
        // Three times as many as there are places.
        for _ in 0..12 {
            ask_and_go(&site, "/sleep?ms=600000").await;
        }
        is_over(&site).await;
        assert_eq!(site.get("/").await.0, StatusCode::OK);
        site.end().await;
    }
}

#[tokio::test]
async fn a_handler_that_works_on_for_too_long_after_its_answer_is_given_up() {
    let limits = HttpLimits { afterwards: Duration::from_millis(200), ..HttpLimits::default() };
    let site = site(limits).await;
    assert_eq!(site.get("/after?ms=600000").await.1, "answered\n");
    let said = "podling: GET /after: the handler went on for 0.2 s after its response; given up";
    eventually("it is given up", || site.paper.stderr().contains(said)).await;
    site.end().await;
}

#[tokio::test]
async fn instances_that_nobody_uses_are_let_go() {
    let limits = HttpLimits { idle_time: Duration::from_millis(100), ..HttpLimits::default() };
    let site = site(limits).await;
    let memory = || site.handle.control.usage().memory_bytes;
    let at_first = memory();
    assert_eq!(site.get("/count").await.1, "1\n");
    eventually("its memory is given back", || memory() < at_first).await;
    assert_eq!(site.get("/count").await.1, "1\n");
    site.end().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_instances_at_rest() {
    let limits = HttpLimits { idle_time: Duration::from_secs(3600), ..HttpLimits::default() };
    let site = site(limits).await;
    for n in 1..=3 {
        assert_eq!(site.get("/count").await.1, format!("{n}\n"), "the same one, each time");
    }
    site.handle.control.ask_to_stop();
    assert_eq!(over(site.handle).await, Exit::Terminated);
}

#[tokio::test]
async fn no_more_instances_rest_than_a_few() {
    let idle_time = Duration::from_secs(3600);
    let limits = HttpLimits { requests_at_once: 2, idle_time, ..HttpLimits::default() };
    let site = site(limits).await;
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    is_over(&site).await;
    let one = site.handle.control.usage().memory_bytes;
    let mut held = Vec::new();
    for n in 1..=20 {
        held.push(Held::begin(&site, "/echo").await);
        eventually("it is under way", || site.handle.control.http().under_way == n).await;
    }
    assert_eq!(site.handle.control.http().instances, 10);
    for held in held {
        assert!(held.end().await.ends_with("\r\n\r\nhello"));
    }
    let control = site.handle.control.clone();
    eventually("all but four are gone", || control.usage().memory_bytes < one * 5).await;
    site.end().await;
}

#[tokio::test]
async fn a_stop_answers_what_shares_an_instance_and_a_kill_leaves_nothing() {
    let site = site(HttpLimits::default()).await;
    let held = [Held::begin(&site, "/echo").await, Held::begin(&site, "/echo").await];
    let control = site.handle.control.clone();
    eventually("both are under way", || control.http().under_way == 2).await;
    control.ask_to_stop();
    eventually("the port is closed", || listening(&site.net) == 0).await;
    for held in held {
        assert!(held.end().await.ends_with("\r\n\r\nhello"));
    }
    assert_eq!(over(site.handle).await, Exit::Terminated);
    assert_eq!(control.usage().memory_bytes, 0);

    let site = self::site(HttpLimits { concurrency: 64, ..HttpLimits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = client(connect(&site.peer, at(PORT)).await).await;
        clients.push(tokio::spawn(client.send_request(get("/sleep?ms=600000"))));
    }
    eventually("all are under way", || site.handle.control.http().under_way == 40).await;
    // `end` sees that nothing is left.
    site.end().await;
}
