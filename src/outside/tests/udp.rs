//! Datagrams to the outside.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;

use super::kit::{NoNames, World, at, test_net, until};
use crate::net::{Datagram, Family, ReceiveError, SendError};
use crate::outside::PodLimits;

async fn outside() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn socket(world: &World) -> crate::net::UdpSocket {
    world.module.udp_socket(Family::V4).unwrap()
}

async fn receive(socket: &crate::net::UdpSocket) -> Result<Datagram, ReceiveError> {
    std::future::poll_fn(|cx| socket.poll_receive(cx)).await
}

#[tokio::test]
async fn a_datagram_goes_out_and_its_answer_comes_back_under_the_name_that_was_asked() {
    let (server, address) = outside().await;
    let world = World::mapped(&[("192.0.2.9:53", address)]);
    let socket = socket(&world);
    for round in 0_u8..3 {
        socket.send(Bytes::copy_from_slice(&[round; 600]), Some(at("192.0.2.9:53"))).unwrap();
        let mut buffer = [0; 2048];
        let (n, from) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..n], [round; 600]);
        server.send_to(b"answer", from).await.unwrap();
        let answer = receive(&socket).await.unwrap();
        assert_eq!((answer.from, &answer.data[..]), (at("192.0.2.9:53"), &b"answer"[..]));
    }
    let traffic = world.pod.traffic().snapshot();
    assert_eq!((traffic.datagrams_out, traffic.datagrams_in, traffic.flows_open), (3, 3, 1));
    assert_eq!((traffic.bytes_out, traffic.bytes_in), (1800, 18));
}

#[tokio::test]
async fn nobody_else_gets_in_through_a_flow() {
    let (server, address) = outside().await;
    let world = World::mapped(&[("192.0.2.9:53", address)]);
    let socket = socket(&world);
    socket.send(Bytes::from_static(b"x"), Some(at("192.0.2.9:53"))).unwrap();
    let mut buffer = [0; 64];
    let (_, from) = server.recv_from(&mut buffer).await.unwrap();
    let (stranger, _) = outside().await;
    let _ = stranger.send_to(b"forged", from).await;
    server.send_to(b"true", from).await.unwrap();
    assert_eq!(&receive(&socket).await.unwrap().data[..], b"true");
}

#[tokio::test]
async fn a_flow_ends_with_its_socket_and_after_a_while_without_use() {
    let (_server, address) = outside().await;
    let limits = PodLimits { flow_idle: Duration::from_millis(80), ..PodLimits::default() };
    let world = World::new(test_net(&[("192.0.2.9:53", address)]), NoNames, limits);
    let first = socket(&world);
    first.send(Bytes::from_static(b"x"), Some(at("192.0.2.9:53"))).unwrap();
    assert_eq!(world.pod.traffic().snapshot().flows_peak, 1);
    until("the flow to be idle", || world.pod.traffic().flows_open.get() == 0).await;
    // Another one, whose time is not over before its socket goes.
    let world = World::mapped(&[("192.0.2.9:53", address)]);
    let first = socket(&world);
    first.send(Bytes::from_static(b"x"), Some(at("192.0.2.9:53"))).unwrap();
    assert_eq!(world.pod.traffic().flows_open.get(), 1);
    drop(first);
    until("the flow to end", || world.pod.traffic().flows_open.get() == 0).await;
    assert_eq!(world.pod.flows(), []);
}

#[tokio::test]
async fn flows_are_bounded_and_the_oldest_makes_room() {
    let (_server, address) = outside().await;
    let limits = PodLimits { flows: 2, ..PodLimits::default() };
    let world = World::new(test_net(&[("192.0.2.9:53", address)]), NoNames, limits);
    let sockets: Vec<_> = (0..5).map(|_| socket(&world)).collect();
    for socket in &sockets {
        socket.send(Bytes::from_static(b"x"), Some(at("192.0.2.9:53"))).unwrap();
    }
    let traffic = world.pod.traffic().snapshot();
    assert_eq!((traffic.flows_open, traffic.flows_peak, traffic.flows_evicted), (2, 3, 3));
    assert_eq!(traffic.datagrams_out, 5, "making room loses no datagram");
}

#[tokio::test]
async fn new_flows_come_at_a_bounded_rate_and_what_is_too_much_is_lost() {
    let (_server, address) = outside().await;
    let limits = PodLimits { new_flows: (1, 3), ..PodLimits::default() };
    let world = World::new(test_net(&[("192.0.2.9:53", address)]), NoNames, limits);
    let began = crate::clock::Clock::start();
    let sockets: Vec<_> = (0..10).map(|_| socket(&world)).collect();
    for socket in &sockets {
        socket.send(Bytes::from_static(b"x"), Some(at("192.0.2.9:53"))).unwrap();
    }
    let traffic = world.pod.traffic().snapshot();
    // One more for each second that has passed, on whatever machine.
    let most = 3 + began.now().mono().as_secs() + 1;
    assert!((3..=most).contains(&traffic.datagrams_out), "{traffic:?}, at most {most}");
    assert_eq!(traffic.datagrams_out + traffic.datagrams_dropped, 10);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told_to_a_connected_socket() {
    let (server, address) = outside().await;
    drop(server);
    let world = World::mapped(&[("192.0.2.9:53", address)]);
    let socket = socket(&world);
    socket.connect(at("192.0.2.9:53")).unwrap();
    socket.send(Bytes::from_static(b"x"), None).unwrap();
    assert_eq!(receive(&socket).await, Err(ReceiveError::Refused));
}

#[tokio::test]
async fn the_host_itself_is_closed_to_datagrams_too() {
    let world = World::mapped(&[]);
    let socket = socket(&world);
    for to in ["169.254.169.254:53", "255.255.255.255:53", "169.254.1.1:53", "0.0.0.7:53"] {
        let to = at(to);
        let sent = socket.send(Bytes::from_static(b"x"), Some(to));
        assert_eq!(sent, Err(SendError::Denied(to)));
    }
    assert_eq!(world.pod.traffic().flows_open.get(), 0);
}

#[tokio::test]
async fn a_granted_port_of_the_host_answers() {
    let (server, address) = outside().await;
    let grant = format!("udp/{}", address.port());
    let world = World::granted(test_net(&[]), NoNames, PodLimits::default(), &[&grant]);
    let socket = socket(&world);
    let host = SocketAddr::new(crate::outside::address::HOST_IP.into(), address.port());
    socket.send(Bytes::from_static(b"x"), Some(host)).unwrap();
    let mut buffer = [0; 64];
    let (_, from) = server.recv_from(&mut buffer).await.unwrap();
    server.send_to(b"host", from).await.unwrap();
    assert_eq!(receive(&socket).await.unwrap(), Datagram { data: "host".into(), from: host });
}

#[tokio::test]
async fn a_pod_that_goes_takes_its_flows_with_it() {
    let (_server, address) = outside().await;
    let world = World::mapped(&[("192.0.2.9:53", address)]);
    let socket = socket(&world);
    socket.send(Bytes::from_static(b"x"), Some(at("192.0.2.9:53"))).unwrap();
    world.pod.close();
    assert_eq!(world.pod.traffic().flows_open.get(), 0);
}
