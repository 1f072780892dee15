//! WASI's rules for TCP: the order of calls, and the code for each refusal.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wasmtime_wasi::p2::bindings::sockets::network::{
    Host as _, HostNetwork, IpAddressFamily, IpSocketAddress,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::{HostTcpSocket, ShutdownType, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
use wasmtime_wasi::p2::bindings::sockets::{ip_name_lookup, udp, udp_create_socket};
use wasmtime_wasi_io::bindings::wasi::io::poll::HostPollable as _;
use wasmtime_wasi_io::streams::DynInputStream;

use super::*;
use crate::net::{MAX_BUFFER, MIN_BUFFER};

fn tcp(host: &mut Host, family: IpAddressFamily) -> Resource<TcpSocket> {
    host.view().create_tcp_socket(family).unwrap()
}

async fn bound(host: &mut Host, address: &str) -> Resource<TcpSocket> {
    let family =
        if address.starts_with('[') { IpAddressFamily::Ipv6 } else { IpAddressFamily::Ipv4 };
    let socket = tcp(host, family);
    let network = host.network();
    host.view().start_bind(lend(&socket), network, at(address)).await.unwrap();
    host.view().finish_bind(lend(&socket)).unwrap();
    socket
}

async fn listening(host: &mut Host, address: &str) -> Resource<TcpSocket> {
    let socket = bound(host, address).await;
    host.view().start_listen(lend(&socket)).await.unwrap();
    host.view().finish_listen(lend(&socket)).unwrap();
    socket
}

fn start_connect(host: &mut Host, to: &str) -> Resource<TcpSocket> {
    let socket = tcp(host, IpAddressFamily::Ipv4);
    let network = host.network();
    host.view().start_connect(lend(&socket), network, at(to)).unwrap();
    socket
}

#[tokio::test]
async fn a_step_is_finished_once_and_only_after_it_was_started() {
    let host = &mut Host::new(&pod());
    let socket = tcp(host, IpAddressFamily::Ipv4);
    assert_eq!(code(host.view().finish_bind(lend(&socket))), ErrorCode::NotInProgress);
    assert_eq!(code(host.view().finish_listen(lend(&socket))), ErrorCode::NotInProgress);
    assert_eq!(code(host.view().finish_connect(lend(&socket))), ErrorCode::NotInProgress);
    let network = host.network();
    host.view().start_bind(lend(&socket), network, at("127.0.0.1:80")).await.unwrap();
    let network = host.network();
    let again = host.view().start_bind(lend(&socket), network, at("127.0.0.1:81")).await;
    assert_eq!(code(again), ErrorCode::ConcurrencyConflict);
    let network = host.network();
    let connect = host.view().start_connect(lend(&socket), network, at("127.0.0.1:81"));
    assert_eq!(code(connect), ErrorCode::ConcurrencyConflict);
    assert_eq!(code(host.view().start_listen(lend(&socket)).await), ErrorCode::ConcurrencyConflict);
    assert_eq!(code(host.view().finish_listen(lend(&socket))), ErrorCode::NotInProgress);
    host.view().finish_bind(lend(&socket)).unwrap();
    assert_eq!(code(host.view().finish_bind(lend(&socket))), ErrorCode::NotInProgress);
    let network = host.network();
    let again = host.view().start_bind(lend(&socket), network, at("127.0.0.1:81")).await;
    assert_eq!(code(again), ErrorCode::InvalidState);
    assert!(same(host.view().local_address(lend(&socket)).unwrap(), "127.0.0.1:80"));
}

#[tokio::test]
async fn a_bind_is_refused_with_the_code_for_its_reason() {
    let host = &mut Host::new(&pod());
    let _taken = bound(host, "127.0.0.1:80").await;
    use IpAddressFamily::{Ipv4, Ipv6};
    let table = [
        (Ipv4, "[::1]:0", ErrorCode::InvalidArgument),
        (Ipv6, "127.0.0.1:0", ErrorCode::InvalidArgument),
        (Ipv6, "[::ffff:127.0.0.1]:0", ErrorCode::InvalidArgument),
        (Ipv4, "224.0.0.1:0", ErrorCode::InvalidArgument),
        (Ipv4, "127.0.0.1:80", ErrorCode::AddressInUse),
        (Ipv4, "0.0.0.0:80", ErrorCode::AddressInUse),
        (Ipv4, "192.0.2.1:0", ErrorCode::AddressNotBindable),
    ];
    for (family, address, expected) in table {
        let socket = tcp(host, family);
        let network = host.network();
        let outcome = host.view().start_bind(lend(&socket), network, at(address)).await;
        assert_eq!(code(outcome), expected, "{address}");
        assert_eq!(code(host.view().finish_bind(lend(&socket))), ErrorCode::NotInProgress);
    }
}

#[tokio::test]
async fn a_connect_tells_bad_addresses_at_its_start_and_the_rest_at_its_finish() {
    let host = &mut Host::new(&pod());
    for to in ["0.0.0.0:80", "127.0.0.1:0", "[::1]:80", "224.0.0.1:80"] {
        let socket = tcp(host, IpAddressFamily::Ipv4);
        let network = host.network();
        let outcome = host.view().start_connect(lend(&socket), network, at(to));
        assert_eq!(code(outcome), ErrorCode::InvalidArgument, "{to}");
    }
    for (to, expected) in
        [("127.0.0.1:80", ErrorCode::ConnectionRefused), ("192.0.2.1:80", ErrorCode::AccessDenied)]
    {
        let socket = start_connect(host, to);
        assert_eq!(code(host.view().finish_connect(lend(&socket))), expected, "{to}");
        let network = host.network();
        let again = host.view().start_connect(lend(&socket), network, at(to));
        assert_eq!(code(again), ErrorCode::InvalidState, "closed after a failure");
        HostTcpSocket::drop(&mut host.view(), socket).unwrap();
    }
    assert_eq!(host.member.open_sockets(), 4, "those that only named a bad address");
}

#[tokio::test]
async fn each_call_in_the_wrong_state_is_invalid_state() {
    let host = &mut Host::new(&pod());
    let fresh = tcp(host, IpAddressFamily::Ipv4);
    let view = &mut host.view();
    assert_eq!(code(view.start_listen(lend(&fresh)).await), ErrorCode::InvalidState);
    assert_eq!(code(view.accept(lend(&fresh))), ErrorCode::InvalidState);
    assert_eq!(code(HostTcpSocket::local_address(view, lend(&fresh))), ErrorCode::InvalidState);
    assert_eq!(code(HostTcpSocket::remote_address(view, lend(&fresh))), ErrorCode::InvalidState);
    assert_eq!(code(view.shutdown(lend(&fresh), ShutdownType::Both)), ErrorCode::InvalidState);
    assert!(!view.is_listening(lend(&fresh)).unwrap());
    let listener = listening(host, "127.0.0.1:80").await;
    let client = start_connect(host, "127.0.0.1:80");
    let view = &mut host.view();
    assert!(view.is_listening(lend(&listener)).unwrap());
    view.finish_connect(lend(&client)).unwrap();
    assert_eq!(code(view.finish_connect(lend(&client))), ErrorCode::NotInProgress);
    assert_eq!(code(view.start_listen(lend(&listener)).await), ErrorCode::InvalidState);
    assert_eq!(code(view.start_listen(lend(&client)).await), ErrorCode::InvalidState);
    assert_eq!(code(view.set_listen_backlog_size(lend(&client), 9)), ErrorCode::InvalidState);
    assert_eq!(code(view.shutdown(lend(&listener), ShutdownType::Send)), ErrorCode::InvalidState);
    for socket in [&listener, &client] {
        let network = host.network();
        let outcome = host.view().start_connect(lend(socket), network, at("127.0.0.1:80"));
        assert_eq!(code(outcome), ErrorCode::InvalidState);
    }
}

#[tokio::test]
async fn accept_gives_each_connection_once_with_its_addresses() {
    let host = &mut Host::new(&pod());
    let listener = listening(host, "0.0.0.0:80").await;
    assert_eq!(code(host.view().accept(lend(&listener))), ErrorCode::WouldBlock);
    let client = start_connect(host, "127.0.0.2:80");
    host.view().finish_connect(lend(&client)).unwrap();
    let (accepted, ..) = host.view().accept(lend(&listener)).unwrap();
    assert_eq!(code(host.view().accept(lend(&listener))), ErrorCode::WouldBlock);
    let view = &mut host.view();
    let address = |outcome: Result<IpSocketAddress, _>| SocketAddr::from(outcome.unwrap());
    let theirs = address(HostTcpSocket::local_address(view, lend(&client)));
    assert_eq!(address(HostTcpSocket::remote_address(view, lend(&accepted))), theirs);
    assert_eq!(theirs.ip().to_string(), "127.0.0.1");
    assert!(same(HostTcpSocket::local_address(view, lend(&accepted)).unwrap(), "127.0.0.2:80"));
    assert!(same(HostTcpSocket::local_address(view, lend(&listener)).unwrap(), "0.0.0.0:80"));
}

#[tokio::test]
async fn a_connect_over_ipv6_to_who_listens_on_ipv4_alone_is_refused_and_does_not_wait() {
    let host = &mut Host::new(&pod());
    let _here = listening(host, "127.0.0.1:80").await;
    let _everywhere = listening(host, "0.0.0.0:81").await;
    for to in ["[::1]:80", "[::1]:81"] {
        let socket = tcp(host, IpAddressFamily::Ipv6);
        let network = host.network();
        host.view().start_connect(lend(&socket), network, at(to)).unwrap();
        // As a program does that waits for many things at once.
        let pollable = HostTcpSocket::subscribe(&mut host.view(), lend(&socket)).unwrap();
        assert!(host.table.ready(lend(&pollable)).await.unwrap(), "{to}");
        let outcome = host.view().finish_connect(lend(&socket));
        assert_eq!(code(outcome), ErrorCode::ConnectionRefused, "{to}");
        // And it stays so for whoever looks once more.
        assert!(host.table.ready(lend(&pollable)).await.unwrap(), "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_finds_no_room_waits_and_in_the_end_times_out() {
    let host = &mut Host::new(&pod());
    let listener = bound(host, "127.0.0.1:80").await;
    host.view().set_listen_backlog_size(lend(&listener), 1).unwrap();
    host.view().start_listen(lend(&listener)).await.unwrap();
    let _first = start_connect(host, "127.0.0.1:80");
    let patient = start_connect(host, "127.0.0.1:80");
    let doomed = start_connect(host, "127.0.0.1:80");
    assert_eq!(code(host.view().finish_connect(lend(&patient))), ErrorCode::WouldBlock);
    let pollable = HostTcpSocket::subscribe(&mut host.view(), lend(&patient)).unwrap();
    assert!(!host.table.ready(lend(&pollable)).await.unwrap());
    host.view().accept(lend(&listener)).unwrap();
    assert!(host.table.ready(lend(&pollable)).await.unwrap());
    host.view().finish_connect(lend(&patient)).unwrap();
    assert_eq!(code(host.view().finish_connect(lend(&doomed))), ErrorCode::WouldBlock);
    let pollable = HostTcpSocket::subscribe(&mut host.view(), lend(&doomed)).unwrap();
    let started = tokio::time::Instant::now();
    host.table.block(lend(&pollable)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(120), "as long as Linux is patient");
    assert_eq!(code(host.view().finish_connect(lend(&doomed))), ErrorCode::Timeout);
}

#[tokio::test]
async fn a_pollable_of_a_listener_becomes_ready_when_someone_comes() {
    let host = &mut Host::new(&pod());
    let listener = listening(host, "127.0.0.1:80").await;
    let pollable = HostTcpSocket::subscribe(&mut host.view(), lend(&listener)).unwrap();
    assert!(!host.table.ready(lend(&pollable)).await.unwrap());
    {
        let mut block = std::pin::pin!(host.table.block(lend(&pollable)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(block.as_mut().poll(&mut cx).is_pending());
        let _near = host.member.connect("127.0.0.1:80".parse().unwrap()).unwrap();
        assert!(matches!(block.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
    }
    host.view().accept(lend(&listener)).unwrap();
}

#[tokio::test]
async fn options_answer_what_was_set_clamped_and_refuse_zero() {
    let host = &mut Host::new(&pod());
    let socket = tcp(host, IpAddressFamily::Ipv6);
    let view = &mut host.view();
    let s = || lend(&socket);
    let zero = ErrorCode::InvalidArgument;
    assert_eq!(code(view.set_listen_backlog_size(s(), 0)), zero);
    assert_eq!(code(view.set_keep_alive_idle_time(s(), 0)), zero);
    assert_eq!(code(view.set_keep_alive_interval(s(), 0)), zero);
    assert_eq!(code(view.set_keep_alive_count(s(), 0)), zero);
    assert_eq!(code(view.set_hop_limit(s(), 0)), zero);
    assert_eq!(code(HostTcpSocket::set_receive_buffer_size(view, s(), 0)), zero);
    assert_eq!(code(HostTcpSocket::set_send_buffer_size(view, s(), 0)), zero);
    view.set_listen_backlog_size(s(), u64::MAX).unwrap();
    view.set_keep_alive_enabled(s(), true).unwrap();
    view.set_keep_alive_idle_time(s(), 5_000_000_000).unwrap();
    view.set_keep_alive_interval(s(), 1).unwrap();
    view.set_keep_alive_count(s(), 1000).unwrap();
    view.set_hop_limit(s(), 255).unwrap();
    HostTcpSocket::set_receive_buffer_size(view, s(), 1).unwrap();
    HostTcpSocket::set_send_buffer_size(view, s(), u64::MAX).unwrap();
    assert!(view.keep_alive_enabled(s()).unwrap());
    assert_eq!(view.keep_alive_idle_time(s()).unwrap(), 5_000_000_000);
    assert_eq!(view.keep_alive_interval(s()).unwrap(), 1_000_000_000);
    assert_eq!(view.keep_alive_count(s()).unwrap(), 127);
    assert_eq!(view.hop_limit(s()).unwrap(), 255);
    assert_eq!(HostTcpSocket::receive_buffer_size(view, s()).unwrap(), MIN_BUFFER as u64);
    assert_eq!(HostTcpSocket::send_buffer_size(view, s()).unwrap(), MAX_BUFFER as u64);
    assert!(matches!(HostTcpSocket::address_family(view, s()), Ok(IpAddressFamily::Ipv6)));
}

#[tokio::test]
async fn sockets_beyond_the_limit_are_refused_as_new_socket_limit() {
    let pod = pod();
    let limits = MemberLimits { max_sockets: 2, ..MemberLimits::default() };
    let host = &mut Host::of(pod.join("guest", limits, Arc::new(NoLedger)));
    let listener = listening(host, "127.0.0.1:80").await;
    let _client = join(&pod, "client").connect("127.0.0.1:80".parse().unwrap());
    let view = &mut host.view();
    let other = udp_create_socket::Host::create_udp_socket(view, IpAddressFamily::Ipv4).await;
    assert_eq!(code(host.view().accept(lend(&listener))), ErrorCode::NewSocketLimit);
    let third = host.view().create_tcp_socket(IpAddressFamily::Ipv4);
    assert_eq!(code(third), ErrorCode::NewSocketLimit);
    udp::HostUdpSocket::drop(&mut host.view(), other.unwrap()).unwrap();
    assert!(host.view().create_tcp_socket(IpAddressFamily::Ipv4).is_ok());
}

#[tokio::test]
async fn without_a_place_for_a_handle_a_call_says_so_and_nothing_is_lost() {
    let host = &mut Host::new(&pod());
    let listener = listening(host, "127.0.0.1:80").await;
    let client = start_connect(host, "127.0.0.1:80");
    let bound = udp_create_socket::Host::create_udp_socket(&mut host.view(), IpAddressFamily::Ipv4)
        .await
        .unwrap();
    let network = host.network();
    udp::HostUdpSocket::start_bind(&mut host.view(), lend(&bound), network, at("127.0.0.1:0"))
        .await
        .unwrap();
    // Two streams and a socket are more than there are places for.
    let held = host.table.iter_mut().count();
    host.table.set_max_capacity(held + 2);
    let filler = [(), ()].map(|()| host.table.push(()).unwrap());
    let view = &mut host.view();
    assert_eq!(code(view.create_tcp_socket(IpAddressFamily::Ipv4)), ErrorCode::NewSocketLimit);
    let datagrams = udp_create_socket::Host::create_udp_socket(view, IpAddressFamily::Ipv4).await;
    assert_eq!(code(datagrams), ErrorCode::NewSocketLimit);
    assert_eq!(code(view.finish_connect(lend(&client))), ErrorCode::OutOfMemory);
    let streams = udp::HostUdpSocket::stream(view, lend(&bound), None).await;
    assert_eq!(code(streams), ErrorCode::OutOfMemory);
    let network = Resource::new_borrow(host.network);
    let asked = ip_name_lookup::Host::resolve_addresses(&mut host.view(), network, "a".to_owned());
    assert_eq!(code(asked), ErrorCode::OutOfMemory);
    for probe in filler {
        host.table.delete(probe).unwrap();
    }
    host.view().finish_connect(lend(&client)).unwrap();
    // Full again: the connection stays in the queue until there are three places.
    for places in 0..3 {
        host.table.set_max_capacity(held + 2 + places);
        let refused = code(host.view().accept(lend(&listener)));
        assert_eq!(refused, ErrorCode::NewSocketLimit, "{places}");
    }
    host.table.set_max_capacity(held + 2 + 3);
    host.view().accept(lend(&listener)).unwrap();
    assert_eq!(code(host.view().accept(lend(&listener))), ErrorCode::WouldBlock);
}

#[tokio::test]
async fn a_handle_of_another_kind_is_a_trap_and_not_a_code() {
    let host = &mut Host::new(&pod());
    let socket = tcp(host, IpAddressFamily::Ipv4);
    let not_a_network = Resource::new_borrow(socket.rep());
    let outcome = host.view().start_bind(lend(&socket), not_a_network, at("127.0.0.1:0")).await;
    assert!(outcome.unwrap_err().downcast().is_err());
    let network = host.network;
    let not_a_socket = Resource::<TcpSocket>::new_borrow(network);
    assert!(host.view().finish_bind(not_a_socket).unwrap_err().downcast().is_err());
    HostTcpSocket::drop(&mut host.view(), socket).unwrap();
    let gone = Resource::<TcpSocket>::new_borrow(1000);
    assert!(host.view().finish_bind(gone).unwrap_err().downcast().is_err());
    HostNetwork::drop(&mut host.view(), Resource::new_own(network)).unwrap();
    assert!(host.table.is_empty());
}

#[tokio::test]
async fn a_stream_error_tells_its_network_code() {
    let host = &mut Host::new(&pod());
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let error = host.table.push(wasmtime::Error::new(reset)).unwrap();
    assert_eq!(host.view().network_error_code(error).unwrap(), Some(ErrorCode::ConnectionReset));
    let other = host.table.push(wasmtime::format_err!("unrelated")).unwrap();
    assert_eq!(host.view().network_error_code(other).unwrap(), None);
}

#[tokio::test]
async fn streams_outlive_the_socket_they_came_from() {
    let host = &mut Host::new(&pod());
    let listener = listening(host, "127.0.0.1:80").await;
    let client = start_connect(host, "127.0.0.1:80");
    let (input, _output) = host.view().finish_connect(lend(&client)).unwrap();
    let (accepted, _far_in, far_out) = host.view().accept(lend(&listener)).unwrap();
    HostTcpSocket::drop(&mut host.view(), client).unwrap();
    HostTcpSocket::drop(&mut host.view(), accepted).unwrap();
    let out = host.table.get_mut(&far_out).unwrap();
    out.check_write().unwrap();
    out.write(bytes::Bytes::from_static(b"x")).unwrap();
    let input: &mut DynInputStream = host.table.get_mut(&input).unwrap();
    assert_eq!(input.read(10).unwrap(), "x");
}
