//! WASI's rules for UDP: permits, associations, and the code for each refusal.

use std::net::SocketAddr;

use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, OutgoingDatagram,
    UdpSocket,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;
use wasmtime_wasi_io::bindings::wasi::io::poll::HostPollable as _;

use super::*;

async fn udp(host: &mut Host, address: &str) -> Resource<UdpSocket> {
    let socket = host.view().create_udp_socket(IpAddressFamily::Ipv4).await.unwrap();
    let network = host.network();
    let view = &mut host.view();
    HostUdpSocket::start_bind(view, lend(&socket), network, at(address)).await.unwrap();
    HostUdpSocket::finish_bind(view, lend(&socket)).unwrap();
    socket
}

fn datagram(text: &str, to: Option<&str>) -> OutgoingDatagram {
    OutgoingDatagram { data: text.as_bytes().to_vec(), remote_address: to.map(at) }
}

#[tokio::test]
async fn datagrams_go_where_they_are_sent_and_come_with_their_sender() {
    let host = &mut Host::new(&pod());
    let server = udp(host, "127.0.0.1:53").await;
    let client = udp(host, "0.0.0.0:0").await;
    let (incoming, _out) = host.view().stream(lend(&server), None).await.unwrap();
    let (_in, outgoing) = host.view().stream(lend(&client), None).await.unwrap();
    assert!(host.view().receive(lend(&incoming), 5).unwrap().is_empty());
    let pollable =
        HostIncomingDatagramStream::subscribe(&mut host.view(), lend(&incoming)).unwrap();
    assert!(!host.table.ready(lend(&pollable)).await.unwrap());
    let permit = host.view().check_send(lend(&outgoing)).unwrap();
    let batch: Vec<_> = (0..permit).map(|_| datagram("x", Some("127.0.0.1:53"))).collect();
    assert_eq!(host.view().send(lend(&outgoing), batch).unwrap(), permit);
    assert!(host.table.ready(lend(&pollable)).await.unwrap());
    assert!(host.view().receive(lend(&incoming), 0).unwrap().is_empty());
    let got = host.view().receive(lend(&incoming), 3).unwrap();
    assert_eq!((got.len(), &got[0].data[..]), (3, &b"x"[..]));
    let from = SocketAddr::from(got[0].remote_address);
    let address = HostUdpSocket::local_address(&mut host.view(), lend(&client)).unwrap();
    assert_eq!(from.port(), SocketAddr::from(address).port());
    let rest = host.view().receive(lend(&incoming), u64::MAX).unwrap();
    assert_eq!(rest.len() as u64, permit - 3);
}

#[tokio::test]
async fn a_send_without_permit_traps_and_a_bad_one_has_a_code() {
    let host = &mut Host::new(&pod());
    let socket = udp(host, "0.0.0.0:0").await;
    let (_in, outgoing) = host.view().stream(lend(&socket), None).await.unwrap();
    let one = || vec![datagram("x", Some("127.0.0.1:9"))];
    let outcome = host.view().send(lend(&outgoing), one());
    assert!(outcome.unwrap_err().downcast().is_err(), "a trap");
    assert_eq!(host.view().send(lend(&outgoing), Vec::new()).unwrap(), 0);
    let long = OutgoingDatagram { data: vec![0; 65_508], remote_address: Some(at("127.0.0.1:9")) };
    let table = [
        (datagram("x", None), ErrorCode::InvalidArgument),
        (datagram("x", Some("[::1]:9")), ErrorCode::InvalidArgument),
        (datagram("x", Some("0.0.0.0:9")), ErrorCode::InvalidArgument),
        (datagram("x", Some("127.0.0.1:0")), ErrorCode::InvalidArgument),
        (datagram("x", Some("192.0.2.1:9")), ErrorCode::AccessDenied),
        (long, ErrorCode::DatagramTooLarge),
    ];
    for (bad, expected) in table {
        host.view().check_send(lend(&outgoing)).unwrap();
        assert_eq!(code(host.view().send(lend(&outgoing), vec![bad])), expected);
    }
    host.view().check_send(lend(&outgoing)).unwrap();
    let mixed = vec![datagram("x", Some("127.0.0.1:9")), datagram("x", None)];
    assert_eq!(host.view().send(lend(&outgoing), mixed).unwrap(), 1, "once one is sent, no error");
}

#[tokio::test]
async fn an_association_limits_both_streams_to_its_peer() {
    let host = &mut Host::new(&pod());
    let socket = udp(host, "127.0.0.1:1").await;
    let peer = udp(host, "127.0.0.1:2").await;
    let fresh = host.view().create_udp_socket(IpAddressFamily::Ipv4).await.unwrap();
    assert_eq!(code(host.view().stream(fresh, None).await), ErrorCode::InvalidState);
    for bad in ["0.0.0.0:9", "127.0.0.1:0", "[::1]:9"] {
        let outcome = host.view().stream(lend(&socket), Some(at(bad))).await;
        assert_eq!(code(outcome), ErrorCode::InvalidArgument, "{bad}");
    }
    let pair = host.view().stream(lend(&socket), Some(at("127.0.0.1:2"))).await.unwrap();
    let again = host.view().stream(lend(&socket), None).await;
    assert!(again.unwrap_err().downcast().is_err(), "a second pair beside the first traps");
    let address = HostUdpSocket::remote_address(&mut host.view(), lend(&socket)).unwrap();
    assert!(same(address, "127.0.0.1:2"));
    let (peers_in, _peers_out) = host.view().stream(lend(&peer), None).await.unwrap();
    host.view().check_send(lend(&pair.1)).unwrap();
    assert_eq!(host.view().send(lend(&pair.1), vec![datagram("hi", None)]).unwrap(), 1);
    assert_eq!(host.view().receive(peers_in, 9).unwrap().len(), 1);
    host.view().check_send(lend(&pair.1)).unwrap();
    let other = vec![datagram("hi", Some("127.0.0.1:3"))];
    assert_eq!(code(host.view().send(lend(&pair.1), other)), ErrorCode::InvalidArgument);
    HostIncomingDatagramStream::drop(&mut host.view(), pair.0).unwrap();
    HostOutgoingDatagramStream::drop(&mut host.view(), pair.1).await.unwrap();
    host.view().stream(lend(&socket), None).await.unwrap();
    let address = HostUdpSocket::remote_address(&mut host.view(), lend(&socket));
    assert_eq!(code(address), ErrorCode::InvalidState);
}
