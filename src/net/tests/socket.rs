#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::net::tests::{at, bound, drain, join, pod, ready, send};
use crate::net::{ReadError, WriteError};
use crate::net::{SetBacklogError, ZeroOption};

#[test]
fn a_bind_is_refused_for_the_reason_wasi_names() {
    let net = pod();
    let member = join(&net, "a");
    let _taken = bound(&member, "127.0.0.1:80");
    let table = [
        (Family::V4, "[::1]:0", "InvalidAddress"),
        (Family::V6, "127.0.0.1:0", "InvalidAddress"),
        (Family::V6, "[::ffff:127.0.0.1]:0", "InvalidAddress"),
        (Family::V4, "224.0.0.1:0", "InvalidAddress"),
        (Family::V4, "255.255.255.255:0", "InvalidAddress"),
        (Family::V6, "[ff02::1]:0", "InvalidAddress"),
        (Family::V4, "192.0.2.1:0", "NotOurs"),
        (Family::V6, "[2001:db8::1]:0", "NotOurs"),
        (Family::V4, "127.0.0.1:80", "InUse"),
        (Family::V4, "0.0.0.0:80", "InUse"),
    ];
    for (family, address, error) in table {
        let mut socket = member.tcp_socket(family).unwrap();
        let outcome = format!("{:?}", socket.bind(at(address)).unwrap_err());
        assert!(outcome.starts_with(error), "{address}: {outcome}");
        let free = SocketAddr::new(family.unspecified(), 0);
        assert_eq!(socket.bind(free), Ok(()), "a failed bind may be tried again");
        assert_eq!(socket.bind(free), Err(BindError::InvalidState), "a good one may not");
    }
}

#[test]
fn each_local_address_can_be_bound_and_reached() {
    let net = pod();
    let member = join(&net, "a");
    let table = [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("127.0.0.2:80", "127.0.0.2:80"),
        ("10.88.0.5:80", "10.88.0.5:80"),
        ("[::1]:80", "[::1]:80"),
        ("0.0.0.0:81", "127.3.2.1:81"),
        ("0.0.0.0:82", "10.88.0.5:82"),
        ("[::]:83", "[::1]:83"),
    ];
    for (listen, to) in table {
        let mut listener = bound(&member, listen);
        listener.listen().unwrap();
        let mut client = member.tcp_socket(Family::of(at(to).ip())).unwrap();
        client.connect(at(to)).unwrap();
        assert_eq!(ready(client.try_connected()), Ok(()), "{to}");
        let accepted = ready(listener.try_accept()).unwrap();
        assert_eq!(accepted.local_address(), Some(at(to)), "the address the client named");
        assert_eq!(accepted.remote_address(), client.local_address());
        assert_eq!(client.remote_address(), Some(at(to)));
    }
}

#[test]
fn a_listener_on_one_address_is_not_on_another() {
    let net = pod();
    let member = join(&net, "a");
    let _listener = member.listen(at("127.0.0.1:80")).unwrap();
    for to in ["127.0.0.2:80", "10.88.0.5:80", "[::1]:80", "127.0.0.1:81"] {
        assert_eq!(member.connect(at(to)).err(), Some(ConnectError::Refused(at(to))), "{to}");
    }
}

#[test]
fn a_connect_is_refused_for_the_reason_wasi_names_and_the_rest_closes_the_socket() {
    let net = pod();
    let member = join(&net, "a");
    let table = [
        ("127.0.0.1:0", "InvalidAddress", false),
        ("0.0.0.0:80", "InvalidAddress", false),
        ("[::1]:80", "InvalidAddress", false),
        ("224.0.0.1:80", "InvalidAddress", false),
        ("127.0.0.1:80", "Refused", true),
        ("192.0.2.1:80", "Denied", true),
    ];
    for (to, error, closes) in table {
        let mut socket = member.tcp_socket(Family::V4).unwrap();
        let outcome = format!("{:?}", socket.connect(at(to)).unwrap_err());
        assert!(outcome.starts_with(error), "{to}: {outcome}");
        assert_eq!(socket.failure().is_some(), closes, "{to}");
        let again = socket.connect(at(to)).unwrap_err();
        assert_eq!(again == ConnectError::InvalidState, closes, "{to}: {again:?}");
    }
    let counters = member.counters();
    assert_eq!((counters.connects_refused, counters.denied, counters.connects), (1, 1, 0));
}

#[test]
fn each_state_allows_what_wasi_says_it_does() {
    let net = pod();
    let member = join(&net, "a");
    let mut listening = bound(&member, "127.0.0.1:80");
    listening.listen().unwrap();
    let mut client = member.tcp_socket(Family::V4).unwrap();
    client.connect(at("127.0.0.1:80")).unwrap();
    assert!(client.take_read().is_none(), "not before the connect is finished");
    ready(client.try_connected()).unwrap();
    let unbound = || member.tcp_socket(Family::V4).unwrap();
    assert_eq!(unbound().local_address(), None);
    assert_eq!(unbound().remote_address(), None);
    assert_eq!(unbound().shutdown(Shutdown::Both), Err(WrongState));
    assert_eq!(ready(unbound().try_connected()), Err(ConnectError::InvalidState));
    assert_eq!(ready(unbound().try_accept()).err(), Some(AcceptError::Closed));
    assert_eq!(listening.listen(), Err(ListenError::InvalidState));
    assert_eq!(listening.connect(at("127.0.0.1:80")), Err(ConnectError::InvalidState));
    assert_eq!(listening.shutdown(Shutdown::Both), Err(WrongState));
    assert_eq!(listening.remote_address(), None);
    assert_eq!(client.bind(at("127.0.0.1:0")), Err(BindError::InvalidState));
    assert_eq!(client.listen(), Err(ListenError::InvalidState));
    assert_eq!(client.connect(at("127.0.0.1:80")), Err(ConnectError::InvalidState));
    assert_eq!(client.set_backlog(5), Err(SetBacklogError::InvalidState));
    assert_eq!(client.set_backlog(0), Err(SetBacklogError::Zero(ZeroOption)));
    assert_eq!(client.shutdown(Shutdown::Both), Ok(()));
    assert_eq!(client.shutdown(Shutdown::Both), Ok(()), "twice is once");
    assert!(client.take_read().is_some() && client.take_read().is_none());
    assert!(listening.is_listening() && client.is_connected());
}

#[test]
fn a_socket_bound_to_a_wildcard_connects_from_its_port_and_a_real_address() {
    let net = pod();
    let member = join(&net, "a");
    let _listener = member.listen(at("0.0.0.0:80")).unwrap();
    for (to, from) in [("127.0.0.9:80", "127.0.0.1:5000"), ("10.88.0.5:80", "10.88.0.5:5000")] {
        let mut client = bound(&member, "0.0.0.0:5000");
        assert_eq!(client.local_address(), Some(at("0.0.0.0:5000")));
        client.connect(at(to)).unwrap();
        ready(client.try_connected()).unwrap();
        assert_eq!(client.local_address(), Some(at(from)));
    }
}

#[test]
fn a_shutdown_through_the_socket_reaches_whoever_holds_the_halves() {
    let net = pod();
    let member = join(&net, "a");
    let mut listener = bound(&member, "127.0.0.1:80");
    listener.listen().unwrap();
    let mut client = member.tcp_socket(Family::V4).unwrap();
    client.connect(at("127.0.0.1:80")).unwrap();
    ready(client.try_connected()).unwrap();
    let mut server = ready(listener.try_accept()).unwrap();
    let (mut read, mut write) = (client.take_read().unwrap(), client.take_write().unwrap());
    let bell = crate::net::tests::Bell::new();
    assert!(bell.with(|cx| read.poll_read(cx, 1)).is_pending());
    client.shutdown(Shutdown::Both).unwrap();
    assert!(bell.rang() > 0);
    assert_eq!(ready(read.try_read(1)).map(|b| b.len()), Ok(0));
    assert_eq!(ready(write.try_write_slice(b"x")), Err(WriteError::Closed));
    let mut far = server.take_read().unwrap();
    assert_eq!(ready(far.try_read(1)).map(|b| b.len()), Ok(0));
    assert_ne!(ready(far.try_read(1)), Err(ReadError::Reset));
}

#[test]
fn an_open_socket_object_does_not_keep_the_connection_of_dropped_halves() {
    let net = pod();
    let member = join(&net, "a");
    let mut listener = bound(&member, "127.0.0.1:80");
    listener.listen().unwrap();
    let mut client = member.tcp_socket(Family::V4).unwrap();
    client.connect(at("127.0.0.1:80")).unwrap();
    ready(client.try_connected()).unwrap();
    let mut server = ready(listener.try_accept()).unwrap();
    drop((client.take_read(), client.take_write()));
    let mut far = server.take_read().unwrap();
    assert_eq!(ready(far.try_read(1)).map(|b| b.len()), Ok(0));
    assert_eq!(client.remote_address(), Some(at("127.0.0.1:80")), "but it knows where it was");
}

#[test]
fn options_are_clamped_kept_and_inherited() {
    let net = pod();
    let member = join(&net, "a");
    let mut listener = bound(&member, "127.0.0.1:80");
    assert_eq!(listener.set_hop_limit(0), Err(ZeroOption));
    assert_eq!(listener.set_keep_alive_idle(0), Err(ZeroOption));
    assert_eq!(listener.set_keep_alive_interval(0), Err(ZeroOption));
    assert_eq!(listener.set_keep_alive_count(0), Err(ZeroOption));
    assert_eq!(listener.set_receive_buffer_size(0), Err(ZeroOption));
    assert_eq!(listener.set_send_buffer_size(0), Err(ZeroOption));
    listener.set_hop_limit(42).unwrap();
    listener.set_keep_alive(true);
    listener.set_keep_alive_idle(1).unwrap();
    listener.set_keep_alive_interval(u64::MAX).unwrap();
    listener.set_keep_alive_count(u32::MAX).unwrap();
    listener.set_receive_buffer_size(10_000).unwrap();
    listener.set_send_buffer_size(u64::MAX).unwrap();
    listener.set_backlog(u64::MAX).unwrap();
    listener.listen().unwrap();
    let mut client = member.tcp_socket(Family::V4).unwrap();
    client.connect(at("127.0.0.1:80")).unwrap();
    ready(client.try_connected()).unwrap();
    let server = ready(listener.try_accept()).unwrap();
    assert_eq!(server.hop_limit(), 42);
    assert!(server.keep_alive());
    assert_eq!(server.keep_alive_idle(), 1_000_000_000);
    assert_eq!(server.keep_alive_interval(), 32_767_000_000_000);
    assert_eq!(server.keep_alive_count(), 127);
    assert_eq!(server.receive_buffer_size(), 10_000);
    assert_eq!(server.send_buffer_size(), 208 * 1024);
    let mut write = client.take_write().unwrap();
    assert_eq!(ready(write.try_writable()), Ok(64 * 1024 + 10_000), "both sizes make the bound");
    client.set_send_buffer_size(4096).unwrap();
    assert_eq!(ready(write.try_writable()), Ok(4096 + 10_000), "at once");
}

#[test]
fn a_client_elsewhere_is_seen_under_its_own_address_and_takes_no_port() {
    let net = pod();
    let (server, host) = (join(&net, "server"), join(&net, "host"));
    let (client, to) = (at("192.0.2.7:40000"), at("10.88.0.5:80"));
    let mut listener = server.listen(at("0.0.0.0:80")).unwrap();
    let ports = net.bound_ports();
    let mut connecting = host.connect_patiently(Some(client), to).unwrap();
    let mut far = ready(listener.try_accept()).unwrap();
    let mut near = ready(connecting.try_finish()).unwrap();
    assert_eq!((far.remote_address(), far.local_address()), (client, to));
    assert_eq!(net.bound_ports(), ports);
    send(&mut near, b"hello");
    assert_eq!(drain(&mut far), b"hello");
    for (client, to) in [("[2001:db8::1]:9", "10.88.0.5:80"), ("192.0.2.7:9", "10.88.0.6:80")] {
        let error = host.connect_patiently(Some(at(client)), at(to)).unwrap_err();
        assert_eq!(error, ConnectError::InvalidAddress(at(to)), "{client} {to}");
    }
}
