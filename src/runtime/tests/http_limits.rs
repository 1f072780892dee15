//! What a module that answers HTTP may use: memory, fuel and CPU time, over all its requests together.

use std::time::Duration;

use hyper::StatusCode;

use super::super::{HttpLimits, RunLimits};
use super::http::{Held, PORT, Site, get};
use super::lab::{Trial, eventually, over};
use crate::clock::Clock;
use crate::spec::{Exit, OnMemoryLimit};

#[tokio::test]
async fn memory_of_all_requests_together_is_the_containers() {
    let mib = 1u64 << 20;
    let limits = RunLimits { memory_bytes: Some(40 * mib), ..RunLimits::unlimited() };
    let trial = Trial::of("handler", &[]).await.http(PORT, HttpLimits::default()).limits(limits);
    let site = Site::of(trial).await;
    assert_eq!(site.get("/memory?mib=20").await.0, StatusCode::OK);
    let response = site.client().await.send_request(get("/memory?mib=60")).await;
    assert!(response.is_err(), "its connection is reset with the container");
    let exit = over(site.handle).await;
    assert!(matches!(exit, Exit::OutOfMemory { .. }), "{exit:?}");

    let limits = RunLimits { on_memory_limit: OnMemoryLimit::Fail, ..limits };
    let trial = Trial::of("handler", &[]).await.http(PORT, HttpLimits::default()).limits(limits);
    let site = Site::of(trial).await;
    assert_eq!(site.get("/memory?mib=60").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(site.get("/memory?mib=20").await.0, StatusCode::OK);
    site.end().await;
}

/// What wasmtime-wasi-http keeps for a module beside its linear memory counts as well: 30 to 60 MB where 24 MiB are allowed.
#[tokio::test]
async fn what_the_host_keeps_for_a_handler_is_the_containers_memory() {
    let (too_much, some) = (
        ["/fields?n=1500&size=30000", "/requests?n=1000&size=60000", "/bodies?n=1000"],
        ["/fields?n=50&size=30000", "/requests?n=50&size=60000", "/bodies?n=50"],
    );
    let killed = RunLimits { memory_bytes: Some(24 << 20), ..RunLimits::unlimited() };
    let http = HttpLimits::default();
    for path in too_much {
        let trial = Trial::of("handler", &[]).await.http(PORT, http).limits(killed);
        let site = Site::of(trial).await;
        let _ = site.client().await.send_request(get(path)).await;
        let control = site.handle.control.clone();
        let exit = over(site.handle).await;
        assert!(matches!(exit, Exit::OutOfMemory { .. }), "{path}: {exit:?}");
        assert_eq!(control.usage().memory_bytes, 0, "{path}");
    }
    let limits = RunLimits { on_memory_limit: OnMemoryLimit::Fail, ..killed };
    for module in ["handler", "handler3"] {
        let trial = Trial::of(module, &[]).await.http(PORT, http).limits(limits);
        let site = Site::of(trial).await;
        let paths = if module == "handler" { 0..3 } else { 0..1 };
        for (much, little) in too_much[paths.clone()].iter().zip(&some[paths]) {
            assert_eq!(site.get(much).await.0, StatusCode::INTERNAL_SERVER_ERROR, "{much}");
            assert_eq!(site.get(little).await.0, StatusCode::OK, "{little}");
        }
        let log = site.paper.stderr();
        assert!(log.contains("no memory for what wasi:http keeps on the host"), "{log}");
        site.end().await;
    }
}

#[tokio::test]
async fn what_the_host_keeps_is_counted_while_it_is_kept() {
    let site = Site::new(HttpLimits::default()).await;
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    let before = site.handle.control.usage().memory_bytes;
    let control = site.handle.control.clone();
    let earlier = control.usage().memory_peak_bytes;
    assert_eq!(site.get("/fields?n=100&size=30000").await.1, "100 lists\n");
    let peak = control.usage().memory_peak_bytes;
    assert!(peak > earlier.max(before + 100 * 30_000), "{peak} after {earlier}, {before} held");
    eventually("it is given back", || control.usage().memory_bytes <= before).await;
    site.end().await;
}

#[tokio::test]
async fn requests_that_find_no_memory_for_an_instance_are_refused_and_end_nobody() {
    let limits = RunLimits { memory_bytes: Some(8 << 20), ..RunLimits::unlimited() };
    let trial = Trial::of("handler", &[]).await.http(PORT, HttpLimits::default()).limits(limits);
    let site = Site::of(trial).await;
    let mut held = Vec::new();
    for _ in 0..30 {
        held.push(Held::begin(&site, "/length").await);
    }
    let control = &site.handle.control;
    // Those that found memory keep it. On a busy machine the last ones find none even for their connections, or wait in the queue.
    eventually("one is refused", || control.http().refused > 0).await;
    let (mut answered, mut refused, mut turned_away) = (0, 0, 0);
    for request in held {
        let answer = request.end().await;
        match answer.split(' ').nth(1) {
            Some("200") => answered += 1,
            Some("503") => refused += 1,
            None if answer.is_empty() => turned_away += 1,
            _ => panic!("{answer:?}"),
        }
    }
    let usage = control.http();
    // However close to the limit the others came: who had an instance found what it needed to come to its end.
    assert!(answered > 0, "{usage:?}");
    assert_eq!(
        (answered, refused, turned_away),
        (usage.instances, usage.refused, usage.turned_away)
    );
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    site.end().await;
}

#[tokio::test]
async fn an_instance_is_made_beside_another_only_if_both_have_room_to_end() {
    const STEP: u64 = 32 << 10;
    // What an instance takes of the last part itself: pages of its stack, and first bytes.
    const OWN: u64 = 64 << 10;
    let (mut alone, mut together) = (0, 0);
    let mut limit = 2 << 20;
    while together == 0 {
        limit += STEP;
        assert!(limit < 8 << 20, "no two instances in {limit} bytes");
        let limits = RunLimits { memory_bytes: Some(limit), ..RunLimits::unlimited() };
        let trial =
            Trial::of("handler", &[]).await.http(PORT, HttpLimits::default()).limits(limits);
        let site = Site::of(trial).await;
        let control = &site.handle.control;
        let first = Held::begin(&site, "/length").await;
        eventually("it is under way", || control.http().under_way == 1).await;
        let second = Held::begin(&site, "/length").await;
        let both = || control.http().instances == 2;
        let seen = || both() || control.http().refused + control.http().turned_away == 1;
        eventually("the second has an instance or none", seen).await;
        if both() {
            together += 1;
            let used = control.usage().memory_bytes;
            assert!(used <= limit - limit / 16 + OWN, "{used} of {limit}");
        } else {
            alone += 1;
        }
        assert!(first.end().await.starts_with("HTTP/1.1 200"));
        drop(second);
        site.end().await;
    }
    assert!(alone > 0);
}

#[tokio::test]
async fn fuel_is_spent_by_all_requests_together() {
    let limits = RunLimits { fuel: Some(5_000_000), ..RunLimits::unlimited() };
    let artifact = super::lab::prepare("handler", true).await;
    let trial = Trial::new(artifact, &[]).http(PORT, HttpLimits::default()).limits(limits);
    let site = Site::of(trial).await;
    assert_eq!(site.get("/").await.0, StatusCode::OK);
    let spent = site.handle.control.usage().fuel_used.unwrap();
    assert!(spent > 1000, "{spent}");
    let _ = site.client().await.send_request(get("/spin")).await;
    assert_eq!(over(site.handle).await, Exit::OutOfFuel);
}

#[tokio::test]
async fn a_handler_is_throttled_as_every_module_is() {
    // So little that it is held back also on a machine that has little left for it.
    let limits = RunLimits { cpu_millis: Some(20), ..RunLimits::unlimited() };
    let http = HttpLimits { request_timeout: Duration::from_secs(1), ..HttpLimits::default() };
    let trial = Trial::of("handler", &[]).await.http(PORT, http).limits(limits);
    let site = Site::of(trial).await;
    let start = Clock::start();
    let usage = || site.handle.control.usage();
    // A fiftieth of a core, the burst, and the last turns of three. A turn that was too long is paid for by those after it, so that
    // whoever is held back comes to that; and on a busy machine a round may get too little of the processor to be held back much.
    let kept = || {
        let (used, took) = (usage().cpu_time, start.now().mono());
        used < took / 50 + Duration::from_millis(250)
    };
    while usage().throttled < Duration::from_millis(300) || !kept() {
        let spins = (0..3).map(|_| site.get("/spin"));
        for (status, _) in futures_util::future::join_all(spins).await {
            assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        }
        assert!(start.now().mono() < Duration::from_secs(60), "{:?}", usage());
    }
    site.end().await;
}
