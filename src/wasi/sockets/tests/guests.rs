//! Real guests (Rust, std's own sockets) on the pod's network.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wasmtime::component::Component;

use super::shop::{component, patiently, run, run_as};
use super::world::Purse;
use super::*;
use crate::net::SOCKET_COST;
use crate::wasi::sockets::p3::tcp::STREAM_COST;

/// Each guest is compiled once.
static ECHO: LazyLock<Component> = LazyLock::new(|| component("echo"));
static CLIENT: LazyLock<Component> = LazyLock::new(|| component("client"));
static BENCH: LazyLock<Component> = LazyLock::new(|| component("bench-net"));

/// Until somebody listens on the TCP port.
async fn listening(pod: &PodNet, port: u16) {
    let listens = |pod: &PodNet| {
        pod.sockets().iter().any(|row| {
            row.state == crate::net::SocketState::Listen
                && row.local.is_some_and(|address| address.port() == port)
        })
    };
    patiently(async {
        while !listens(pod) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Asks the echo server, in one pod with the client, and returns the client's verdict.
async fn ask_echo(address: &str, args: &[&str]) -> (i32, String) {
    let pod = pod();
    let server = tokio::spawn(run(&pod, &ECHO, &[], &[("PORT", "7007"), ("ADDRESS", address)]));
    listening(&pod, 7007).await;
    let verdict = patiently(run(&pod, &CLIENT, args, &[])).await;
    server.abort();
    let _ = server.await;
    assert_eq!(pod.bound_ports(), (0, 0), "killed, it leaves no port");
    assert_eq!((pod.open_sockets(), pod.buffered_bytes()), (0, 0));
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_of_a_pod_talk_over_each_of_its_addresses() {
    for protocol in ["tcp", "udp"] {
        for (listens, host) in [
            ("0.0.0.0", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.2"),
            ("0.0.0.0", "10.88.0.5"),
            ("0.0.0.0", "localhost"),
            ("0.0.0.0", "greenhouse"),
            ("127.0.0.2", "127.0.0.2"),
            ("::", "::1"),
            ("::1", "::1"),
        ] {
            let (code, said) = ask_echo(listens, &[protocol, host, "7007", "text to echo"]).await;
            assert_eq!((code, said.trim()), (0, "ok text to echo"), "{protocol} {listens} {host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_on_one_address_is_not_found_on_another() {
    for (listens, host) in [("127.0.0.2", "127.0.0.1"), ("127.0.0.1", "::1"), ("::", "127.0.0.1")] {
        let (code, said) = ask_echo(listens, &["refused", host, "7007"]).await;
        assert_eq!((code, said.trim()), (0, "ok ConnectionRefused"), "{listens} {host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localhost_over_tcp_falls_back_to_the_family_that_answers() {
    let (code, said) = ask_echo("::", &["tcp", "localhost", "7007", "hi"]).await;
    assert_eq!((code, said.trim()), (0, "ok hi"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_the_pods_own() {
    let pod = pod();
    for (name, code, said) in [
        ("localhost", 0, "ok 127.0.0.1 ::1"),
        ("greenhouse", 0, "ok 10.88.0.5"),
        ("nobody.example", 5, "error NotFound"),
    ] {
        let verdict = patiently(run(&pod, &CLIENT, &["resolve", name], &[])).await;
        assert_eq!((verdict.0, verdict.1.trim()), (code, said), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_host_is_reached_by_its_loopback_nor_the_outside_at_all() {
    let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = host.local_addr().unwrap().port().to_string();
    let pod = pod();
    let (code, said) = patiently(run(&pod, &CLIENT, &["refused", "127.0.0.1", &port], &[])).await;
    assert_eq!((code, said.trim()), (0, "ok ConnectionRefused"));
    let (code, said) = patiently(run(&pod, &CLIENT, &["tcp", "192.0.2.1", "80"], &[])).await;
    assert_eq!((code, said.trim()), (1, "error PermissionDenied"));
    let reached = tokio::time::timeout(Duration::from_millis(1), host.accept()).await;
    assert!(reached.is_err());
    assert_eq!(pod.counters().denied, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_transfer_a_round_trip_and_many_connections_all_come_through() {
    let pod = pod();
    let server = tokio::spawn(run(&pod, &BENCH, &["server"], &[]));
    listening(&pod, 5201).await;
    for args in [
        &["client", "throughput", "65536", "8000001"][..],
        &["client", "throughput", "1000", "300000"],
        &["client", "pingpong", "64", "500"],
        &["client", "pingpong", "200000", "20"],
        &["client", "connect", "300"],
    ] {
        let (code, said) = patiently(run(&pod, &BENCH, args, &[])).await;
        assert!(code == 0 && said.contains("nanoseconds"), "{args:?}: {code} {said}");
    }
    let (code, said) = patiently(run(&pod, &BENCH, &["client", "quit"], &[])).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(patiently(server).await.unwrap().0, 0);
    let counters = pod.counters();
    assert!(counters.accepts >= 306 && counters.tcp_bytes_sent > 8_300_000);
    assert_eq!(counters.tcp_bytes_sent, counters.tcp_bytes_received);
    assert_eq!(pod.bound_ports(), (0, 0));
    assert_eq!((pod.open_sockets(), pod.buffered_bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_it_waits_frees_its_port_and_resets_its_client() {
    let pod = pod();
    for _ in 0..3 {
        let server = tokio::spawn(run(&pod, &ECHO, &[], &[("PORT", "7007")]));
        listening(&pod, 7007).await;
        let daemon = join(&pod, "daemon");
        let stream = daemon.connect("127.0.0.1:7007".parse().unwrap()).unwrap().await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let mut hello = bytes::Bytes::from_static(b"hello");
        std::future::poll_fn(|cx| write.poll_write(cx, &mut hello)).await.unwrap();
        let echoed = patiently(std::future::poll_fn(|cx| read.poll_read(cx, 100))).await;
        assert_eq!(echoed.unwrap(), "hello");
        server.abort();
        let _ = server.await;
        let end = patiently(std::future::poll_fn(|cx| read.poll_read(cx, 100))).await;
        assert!(end.is_err() || end.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_of_0_3_pays_for_each_connection_and_its_streams_to_the_byte() {
    const ALL: usize = 1 << 30;
    let pod = pod();
    let purse = Arc::new(Purse(AtomicUsize::new(ALL)));
    let owed = || ALL - purse.0.load(Ordering::SeqCst);
    let member = pod.join("guest", MemberLimits::default(), purse.clone());
    let server = tokio::spawn(run_as(member, &component("echo-p3"), &["serve", "7007"], &[]));
    listening(&pod, 7007).await;
    let daemon = join(&pod, "daemon");
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = daemon.connect("127.0.0.1:7007".parse().unwrap()).unwrap().await.unwrap();
        std::future::poll_fn(|cx| stream.write.poll_write_slice(cx, b"x")).await.unwrap();
        let echoed = patiently(std::future::poll_fn(|cx| stream.read.poll_read(cx, 9))).await;
        assert_eq!(echoed.unwrap(), "x");
        streams.push(stream);
    }
    // Its listener and its datagram socket; and a step of buffer that a direction keeps for a while after it was used.
    let sockets = 2 * SOCKET_COST;
    let connections = 10 * (SOCKET_COST + 2 * STREAM_COST);
    let kept = owed() - sockets - connections;
    assert!(kept <= 10 * 4096 && kept.is_multiple_of(1024), "{kept}");
    drop(streams);
    patiently(async {
        while owed() != sockets {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.abort();
    let _ = server.await;
    assert_eq!(owed(), 0);
}
