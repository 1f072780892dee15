//! Modules of WASI 0.3 on the network of their pod, beside modules of 0.2, in the real runtime.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::super::RunHandle;
use super::lab::{Paper, eventually, over};
use super::network::{pod_net, start_in};
use crate::net::{
    DEFAULT_BUFFER, Listener, MemberLimits, NoLedger, PodNet, ReadError, Stream as Connection,
};
use crate::spec::Exit;

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn outsider(net: &PodNet) -> crate::net::Member {
    net.join("daemon", MemberLimits::default(), Arc::new(NoLedger))
}

async fn serve_echo(net: &PodNet, port: u16) -> (RunHandle, Arc<Paper>) {
    let echo = start_in(net, "echo-p3", &["serve", &port.to_string()], &[]).await;
    echo.1.says(&format!("on port {port}")).await;
    echo
}

async fn end(handle: RunHandle) {
    handle.control.kill();
    assert_eq!(over(handle).await, Exit::Killed);
}

/// Runs a guest that must end well, and gives what it printed.
async fn ask(net: &PodNet, guest: &str, args: &[&str]) -> String {
    let (handle, paper) = start_in(net, guest, args, &[]).await;
    let exit = over(handle).await;
    assert_eq!(exit, Exit::Code(0), "{guest} {args:?}: {}{}", paper.stdout(), paper.stderr());
    paper.stdout()
}

#[tokio::test]
async fn modules_of_0_2_and_0_3_talk_to_each_other_over_tcp_and_udp() {
    let net = pod_net();
    let (echo3, _) = serve_echo(&net, 7000).await;
    let (echo2, paper) = start_in(&net, "echo", &[], &[("PORT", "7001")]).await;
    paper.says("on port 7001").await;
    for port in ["7000", "7001"] {
        for size in ["0", "1", "3000000"] {
            ask(&net, "echo-p3", &["call", port, size]).await;
        }
        ask(&net, "echo-p3", &["datagram", port, "a datagram"]).await;
    }
    for protocol in ["tcp", "udp"] {
        let said = ask(&net, "client", &[protocol, "127.0.0.1", "7000", "old to new"]).await;
        assert!(said.contains("ok old to new"), "{said}");
    }
    end(echo3).await;
    end(echo2).await;
    assert_eq!((net.open_sockets(), net.buffered_bytes(), net.bound_ports()), (0, 0, (0, 0)));
}

#[tokio::test]
async fn a_service_of_0_3_that_only_waits_for_connections_answers_whenever_one_comes() {
    let net = pod_net();
    let (echo, _) = serve_echo(&net, 7000).await;
    let daemon = outsider(&net);
    // Nothing happens in the module between two of these; it is polled because data has come.
    for round in 0..20_u8 {
        let mut stream: Connection = daemon.connect(at(7000)).unwrap().await.unwrap();
        for word in [[round; 5], [round + 1; 5]] {
            poll_fn(|cx| stream.write.poll_write_slice(cx, &word)).await.unwrap();
            let answer = poll_fn(|cx| stream.read.poll_read(cx, 100)).await.unwrap();
            assert_eq!(answer[..], word);
        }
    }
    let mut many = Vec::new();
    for _ in 0..50 {
        many.push(daemon.connect(at(7000)).unwrap().await.unwrap());
    }
    for stream in many.iter_mut().rev() {
        poll_fn(|cx| stream.write.poll_write_slice(cx, b"ping")).await.unwrap();
        assert_eq!(poll_fn(|cx| stream.read.poll_read(cx, 100)).await.unwrap(), "ping");
    }
    end(echo).await;
}

async fn accept(listener: &mut Listener) -> Connection {
    poll_fn(|cx| listener.poll_accept(cx)).await.unwrap()
}

#[tokio::test]
async fn half_of_a_connection_goes_on_when_a_module_of_0_3_has_shut_the_other() {
    let net = pod_net();
    let daemon = outsider(&net);
    let mut listener = daemon.listen(at(7000)).unwrap();
    let (guest, paper) = start_in(&net, "echo-p3", &["half", "7000"], &[]).await;
    let mut stream = accept(&mut listener).await;
    let mut question = Vec::new();
    loop {
        let bytes = poll_fn(|cx| stream.read.poll_read(cx, 100)).await.unwrap();
        if bytes.is_empty() {
            break;
        }
        question.extend_from_slice(&bytes);
    }
    assert_eq!(question, b"question");
    poll_fn(|cx| stream.write.poll_write_slice(cx, b"answer")).await.unwrap();
    drop(stream);
    assert_eq!(over(guest).await, Exit::Code(0));
    assert_eq!(paper.stdout(), "read answer\nok closed\n[flushed]");
}

#[tokio::test]
async fn a_module_of_0_3_sees_a_reset_when_its_peers_store_dies() {
    for peer in ["echo", "echo-p3"] {
        let net = pod_net();
        let args = if peer == "echo" { &[][..] } else { &["serve", "7000"] };
        let (echo, paper) = start_in(&net, peer, args, &[("PORT", "7000")]).await;
        paper.says("on port 7000").await;
        let (watcher, paper) = start_in(&net, "echo-p3", &["watch", "7000"], &[]).await;
        paper.says("connected").await;
        end(echo).await;
        assert_eq!(over(watcher).await, Exit::Code(1), "{peer}");
        assert!(paper.stdout().contains("error connection-reset"), "{peer}: {}", paper.stdout());
    }
}

#[tokio::test]
async fn the_peers_of_a_module_of_0_3_that_dies_see_a_reset() {
    let net = pod_net();
    for _ in 0..3 {
        let (echo, _) = serve_echo(&net, 7000).await;
        let daemon = outsider(&net);
        let mut stream: Connection = daemon.connect(at(7000)).unwrap().await.unwrap();
        poll_fn(|cx| stream.write.poll_write_slice(cx, b"word")).await.unwrap();
        assert_eq!(poll_fn(|cx| stream.read.poll_read(cx, 100)).await.unwrap(), "word");
        end(echo).await;
        let end = poll_fn(|cx| stream.read.poll_read(cx, 100)).await;
        assert_eq!(end, Err(ReadError::Reset));
    }
}

#[tokio::test]
async fn a_writer_of_mebibytes_against_a_stalled_reader_stays_within_its_bound_in_0_2_and_0_3() {
    const BOUND: usize = 2 * DEFAULT_BUFFER;
    for guest in ["sockets-p2", "echo-p3"] {
        let net = pod_net();
        let daemon = outsider(&net);
        let mut listener = daemon.listen(at(7000)).unwrap();
        let (writer, paper) = start_in(&net, guest, &["stall", "7000"], &[]).await;
        let mut stream = accept(&mut listener).await;
        eventually("the writer was stopped at the bound", || net.buffered_bytes() == BOUND).await;
        let mut read = 0;
        loop {
            // Slowly, and in pieces that divide nothing.
            let bytes = poll_fn(|cx| stream.read.poll_read(cx, 50_001)).await.unwrap();
            let waits = net.sockets().iter().map(|socket| socket.receive_queue).max();
            assert!(waits <= Some(BOUND as u64), "{guest}: {waits:?}");
            // A block that is read in parts is paid for until its end.
            assert!(net.buffered_bytes() <= 2 * BOUND, "{guest}: {}", net.buffered_bytes());
            if bytes.is_empty() {
                break;
            }
            assert!(bytes.iter().all(|byte| *byte == 0x5a));
            read += bytes.len();
        }
        assert_eq!(read, 64 << 20, "{guest}: not a byte more or less");
        assert_eq!(over(writer).await, Exit::Code(0), "{guest}: {}", paper.stderr());
    }
}

#[tokio::test]
async fn a_listener_trapped_a_hundred_times_binds_again_each_time_in_0_2_and_0_3() {
    for guest in ["sockets-p2", "echo-p3"] {
        let net = pod_net();
        let daemon = outsider(&net);
        for run in 0..100 {
            let (handle, paper) = start_in(&net, guest, &["trap", "7000"], &[]).await;
            paper.says("listening").await;
            let mut stream: Connection = daemon.connect(at(7000)).unwrap().await.unwrap();
            let exit = over(handle).await;
            assert!(matches!(exit, Exit::Trapped { .. }), "{guest}, run {run}: {exit:?}");
            let end = poll_fn(|cx| stream.read.poll_read(cx, 100)).await;
            assert_eq!(end, Err(ReadError::Reset), "{guest}, run {run}");
        }
        assert_eq!((net.open_sockets(), net.bound_ports()), (0, (0, 0)), "{guest}");
    }
}
