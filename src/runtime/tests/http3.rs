//! Handlers of `wasi:http` 0.3: the same promises as for 0.2, kept by other means.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};

use super::super::{HttpLimits, ModuleKind, Network};
use super::http::{Held, PORT, Site, at, client, connect, get, listening, request, whole};
use super::lab::{Trial, eventually, over, prepare};
use crate::spec::Exit;

async fn site(limits: HttpLimits) -> Site {
    Site::of(Trial::of("handler3", &[]).await.http(PORT, limits)).await
}

/// An instance for each request, as for handlers of 0.2.
fn alone() -> HttpLimits {
    HttpLimits { requests_per_instance: Some(1), ..HttpLimits::default() }
}

#[tokio::test]
async fn a_handler_of_0_3_answers_with_streams() {
    assert_eq!(prepare("handler3", false).await.kind(), ModuleKind::HandlerP3);
    let site = site(alone()).await;
    let mut client = site.client().await;
    let response = client.send_request(get("/")).await.unwrap();
    assert_eq!(whole(response).await, (StatusCode::OK, "hello from 0.3\n".to_owned()));
    client.ready().await.unwrap();
    let response = client.send_request(get("/request?a=b")).await.unwrap();
    let (_, seen) = whole(response).await;
    assert!(seen.ends_with("/request?a=b at handler.test\n"), "{seen}");
    client.ready().await.unwrap();
    let body = Bytes::from(vec![b'x'; 3_000_001]);
    let response = client.send_request(request(Method::POST, "/echo", body.clone())).await.unwrap();
    assert_eq!(whole(response).await.1.len(), body.len());
    client.ready().await.unwrap();
    let response = client.send_request(get("/stream?n=50&size=100000")).await.unwrap();
    assert_eq!(whole(response).await.1.len(), 5_000_000);
    client.ready().await.unwrap();
    let response = client.send_request(get("/nothing")).await.unwrap();
    assert_eq!(whole(response).await.0, StatusCode::NOT_FOUND);
    assert_eq!(site.get("/count").await.1, "1\n");
    assert_eq!(site.get("/count").await.1, "1\n");
    site.end().await;
    let limits = HttpLimits { requests_at_once: 1, requests_per_instance: Some(2), ..alone() };
    let site = self::site(limits).await;
    for expected in ["1\n", "2\n", "1\n"] {
        assert_eq!(site.get("/count").await.1, expected);
        eventually("it is over", || site.handle.control.http().under_way == 0).await;
    }
    site.end().await;
}

#[tokio::test]
async fn a_handler_of_0_3_may_work_on_and_is_told_what_became_of_its_answer() {
    let site = site(HttpLimits::default()).await;
    assert_eq!(site.get("/after?ms=100").await.1, "answered\n");
    site.paper.says("worked on after the answer\n").await;
    assert_eq!(site.get("/told").await.1, "answered\n");
    site.paper.says("the answer was sent: Ok(())\n").await;
    eventually("all is over", || site.handle.control.http().under_way == 0).await;
    site.end().await;
}

#[tokio::test]
async fn what_goes_wrong_in_a_handler_of_0_3_stays_with_its_request() {
    let limits =
        HttpLimits { request_timeout: Duration::from_millis(500), ..HttpLimits::default() };
    let impatient = site(limits).await;
    assert_eq!(impatient.get("/spin").await.0, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(impatient.handle.control.http().timed_out, 1);
    impatient.end().await;

    let site = site(HttpLimits::default()).await;
    for path in ["/error", "/trap"] {
        assert_eq!(site.get(path).await.0, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    let late = site.client().await.send_request(get("/trap-late?ms=100")).await.unwrap();
    assert_eq!(late.status(), StatusCode::OK);
    assert!(late.into_body().collect().await.is_err());
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    // One that is broken off is counted after its client has seen it.
    let counted = || {
        let usage = site.handle.control.http();
        (usage.trapped, usage.failed, usage.timed_out) == (2, 1, 0)
    };
    eventually("all are counted", counted).await;
    let log = site.paper.stderr();
    assert!(log.contains("podling: GET /trap: the handler trapped: unreachable"), "{log}");
    site.end().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_stops_a_handler_of_0_3() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // Whose memory is whose is known where nothing is shared.
    let site = site(alone()).await;
    let mut deaf = site.connect().await;
    deaf.write_all(b"GET /stream?n=100000&size=100000 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("the pipe is full", || site.net.buffered_bytes() >= 64 * 1024).await;
    let memory = site.handle.control.usage().memory_bytes;
    for _ in 0..20 {
        assert_eq!(site.get("/").await.0, StatusCode::OK);
    }
    // A handler may still be at its end when its answer is there.
    eventually("the others are over", || site.handle.control.http().under_way == 1).await;
    let now = site.handle.control.usage().memory_bytes;
    assert!(now < memory + (1 << 20), "{memory} {now}");
    let mut some = vec![0; 1_000_000];
    deaf.read_exact(&mut some).await.unwrap();
    drop(deaf);
    site.paper.says("stream broke after ").await;
    site.end().await;
}

#[tokio::test]
async fn a_stop_drains_a_handler_of_0_3() {
    let site = site(HttpLimits::default()).await;
    let under_way = Held::begin(&site, "/echo").await;
    let control = site.handle.control.clone();
    eventually("it is under way", || control.http().under_way == 1).await;
    control.ask_to_stop();
    eventually("the port is closed", || listening(&site.net) == 0).await;
    let answer = under_way.end().await;
    // Whole: this handler's echo has the length of what it answers.
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert_eq!(over(site.handle).await, Exit::Terminated);
    assert_eq!(control.usage().memory_bytes, 0);
}

#[tokio::test]
async fn handlers_of_both_generations_ask_each_other() {
    let site = site(HttpLimits::default()).await;
    let mut older = Trial::of("handler", &[]).await.http(8081, HttpLimits::default());
    older.run.network = Network::Pod { net: site.net.clone(), member: "older".to_owned() };
    let (older, _) = older.start().await;
    eventually("both listen", || listening(&site.net) == 2).await;
    let ask = async |port, path: &str, body: Bytes| {
        let mut client = client(connect(&site.peer, at(port)).await).await;
        whole(client.send_request(request(Method::POST, path, body)).await.unwrap()).await
    };
    let none = Bytes::new;
    let (_, text) = ask(PORT, "/get?http://localhost:8081/", none()).await;
    assert_eq!(text, "hello from handler\n");
    let (_, text) = ask(8081, "/get?http://localhost:8080/", none()).await;
    assert_eq!(text, "hello from 0.3\n");
    // 0.3 sends and receives at once: there is no deadlock however long the body.
    let body = Bytes::from(vec![b'y'; 2_000_000]);
    let (_, text) = ask(PORT, "/post?http://localhost:8081/echo", body.clone()).await;
    assert_eq!(text.len(), body.len());
    let (_, text) = ask(PORT, "/post?http://localhost:8081/length", body).await;
    assert_eq!(text, "2000000\n");
    for (url, error) in [
        ("http://localhost:9/", "ConnectionRefused"),
        ("http://192.0.2.1/", "DestinationIpProhibited"),
        ("http://nobody.example/", "DnsError"),
    ] {
        let (status, text) = ask(PORT, &format!("/get?{url}"), none()).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(text.contains(error), "{url}: {text}");
    }
    older.control.kill();
    over(older).await;
    site.end().await;
}
