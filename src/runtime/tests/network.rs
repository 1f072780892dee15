//! Modules of one pod talk to each other; modules of different pods do not; the dead leave nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::super::{Network, RunHandle};
use super::lab::{Paper, Trial, eventually, over};
use crate::net::{MemberLimits, NetConfig, NoLedger, PodNet, Stream as Connection};
use crate::spec::Exit;

pub(super) fn pod_net() -> PodNet {
    PodNet::new(NetConfig::new(Ipv4Addr::new(10, 1, 0, 7)))
}

pub(super) async fn start_in(
    net: &PodNet,
    name: &str,
    args: &[&str],
    env: &[(&str, &str)],
) -> (RunHandle, Arc<Paper>) {
    let mut trial = Trial::of(name, args).await;
    for (name, value) in env {
        trial = trial.env(name, value);
    }
    trial.run.network = Network::Pod { net: net.clone(), member: name.to_owned() };
    trial.start().await
}

#[tokio::test]
async fn modules_of_a_pod_reach_each_other_over_its_loopback() {
    let net = pod_net();
    let (echo, paper) = start_in(&net, "echo", &[], &[("PORT", "7000")]).await;
    paper.says("on port 7000").await;
    for host in ["127.0.0.1", "localhost", "10.1.0.7"] {
        for protocol in ["tcp", "udp"] {
            let args = [protocol, host, "7000", "knock knock"];
            let (client, paper) = start_in(&net, "client", &args, &[]).await;
            assert_eq!(over(client).await, Exit::Code(0), "{args:?}: {}", paper.stdout());
            assert!(paper.stdout().contains("knock knock"), "{args:?}: {}", paper.stdout());
        }
    }
    let other = pod_net();
    let (client, _) = start_in(&other, "client", &["refused", "127.0.0.1", "7000"], &[]).await;
    assert_eq!(over(client).await, Exit::Code(0), "another pod's port is not there");
    echo.control.kill();
    over(echo).await;
}

#[tokio::test]
async fn a_killed_module_leaves_no_port_and_no_socket() {
    let net = pod_net();
    for round in 0..3 {
        let (echo, paper) = start_in(&net, "echo", &[], &[("PORT", "7001")]).await;
        paper.says("on port 7001").await;
        assert!(echo.control.usage().memory_bytes > 0);
        let control = echo.control.clone();
        if round % 2 == 0 {
            control.kill();
        } else {
            control.ask_to_stop();
        }
        over(echo).await;
        assert_eq!((net.open_sockets(), net.buffered_bytes()), (0, 0), "round {round}");
        assert_eq!(control.usage().memory_bytes, 0);
    }
}

#[tokio::test]
async fn a_module_that_waits_on_a_socket_for_ever_is_killed_at_once() {
    for args in [&[][..], &["read"]] {
        let net = pod_net();
        let (handle, paper) = start_in(&net, "deadlock", args, &[]).await;
        paper.says("deadlock: ").await;
        handle.control.kill();
        assert_eq!(over(handle).await, Exit::Killed, "{args:?}");
        assert_eq!(net.open_sockets(), 0);
    }
}

#[tokio::test]
async fn the_daemon_reaches_a_module_through_its_network() {
    let net = pod_net();
    let (echo, paper) = start_in(&net, "echo", &[], &[("PORT", "7002")]).await;
    paper.says("on port 7002").await;
    let probe = net.join("probe", MemberLimits::default(), Arc::new(NoLedger));
    let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7002);
    let mut stream: Connection = probe.connect(to).unwrap().await.unwrap();
    std::future::poll_fn(|cx| stream.write.poll_write_slice(cx, b"ping")).await.unwrap();
    let answer = std::future::poll_fn(|cx| stream.read.poll_read(cx, 100)).await.unwrap();
    assert_eq!(&answer[..], b"ping");
    drop(stream);
    eventually("the echo let go", || probe.open_sockets() == 0).await;
    echo.control.kill();
    over(echo).await;
}

#[tokio::test]
async fn socket_buffers_are_on_the_modules_account() {
    let net = pod_net();
    let (handle, paper) = start_in(&net, "deadlock", &[], &[("PORT", "7003")]).await;
    paper.says("accepting").await;
    let with_listener = handle.control.usage().memory_bytes;
    let alone = Trial::of("sleep", &["forever"]).await.start().await.0;
    assert!(with_listener % 65_536 != 0, "the listener costs something: {with_listener}");
    for handle in [handle, alone] {
        handle.control.kill();
        over(handle).await;
    }
}
