//! Every error code that podling gives, each by the calls that give it. The addresses and names outside of the pod are
//! those of the test's world.

use std::net::{IpAddr, Ipv4Addr};

use crate::kit::*;
use crate::names::resolve;

const V4: Family = Family::Ipv4;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DENIED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NO_WAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const SILENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const REFUSING: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));
/// Where somebody listens who dies when spoken to.
const MORTAL: u16 = 9;

#[track_caller]
fn connect_fails(to: SocketTo, expected: ErrorCode) {
    fails(Tcp::new(V4).connect(at(to.0, to.1)), expected);
}

struct SocketTo(IpAddr, u16);

#[track_caller]
fn send_fails(data: &[u8], to: Option<(IpAddr, u16)>, expected: ErrorCode) {
    let udp = Udp::bound(any(V4));
    let streams = udp.stream(None).unwrap();
    fails(streams.send(data, to.map(|(ip, port)| at(ip, port))), expected);
}

pub(crate) fn access_denied() {
    connect_fails(SocketTo(DENIED, 80), ErrorCode::AccessDenied);
    send_fails(b"x", Some((DENIED, 53)), ErrorCode::AccessDenied);
    fails(Udp::bound(any(V4)).stream(Some(at(DENIED, 53))), ErrorCode::AccessDenied);
    same(resolve("denied.example"), Err(ErrorCode::AccessDenied));
}

pub(crate) fn remote_unreachable() {
    connect_fails(SocketTo(NO_WAY, 80), ErrorCode::RemoteUnreachable);
    send_fails(b"x", Some((NO_WAY, 53)), ErrorCode::RemoteUnreachable);
    fails(Udp::bound(any(V4)).stream(Some(at(NO_WAY, 53))), ErrorCode::RemoteUnreachable);
}

pub(crate) fn connection_refused() {
    connect_fails(SocketTo(HERE, CLOSED), ErrorCode::ConnectionRefused);
    connect_fails(SocketTo(REFUSING, 80), ErrorCode::ConnectionRefused);
    let udp = Udp::bound(any(V4));
    let streams = udp.stream(Some(at(HERE, CLOSED))).unwrap();
    streams.send(b"x", None).unwrap();
    fails(streams.receive(), ErrorCode::ConnectionRefused);
    streams.send(b"x", None).unwrap();
    fails(streams.send(b"x", None), ErrorCode::ConnectionRefused);
}

/// In 0.2 a stream tells it, as the failure of its last operation.
pub(crate) fn connection_reset() {
    let tcp = Tcp::new(V4);
    let (input, output) = tcp.connect(at(HERE, MORTAL)).unwrap();
    write_all(&output, b"die");
    tells_reset(input.blocking_read(10).map(|_| ()));
    assert!(is_closed(&input.read(10)), "told once");
    let told = loop {
        match output.check_write() {
            Ok(_) => output.subscribe().block(),
            Err(error) => break Err(error),
        }
    };
    tells_reset(told);
    assert!(is_closed(&output.check_write()), "told once");
}

#[track_caller]
fn tells_reset(outcome: Result<(), StreamError>) {
    let Err(StreamError::LastOperationFailed(error)) = outcome else {
        panic!("no failure");
    };
    let told = error.to_debug_string();
    assert!(told.as_bytes().windows(5).any(|word| word == b"reset"), "{told}");
}

pub(crate) fn timeout() {
    connect_fails(SocketTo(SILENT, 80), ErrorCode::Timeout);
    // In the pod: the listener's queue is full and stays so.
    let listener = Tcp::new(V4);
    listener.bind(at(HERE, 0)).unwrap();
    listener.socket.set_listen_backlog_size(1).unwrap();
    listener.listen().unwrap();
    let first = Tcp::new(V4);
    let _streams = first.connect(listener.local()).unwrap();
    fails(Tcp::new(V4).connect(listener.local()), ErrorCode::Timeout);
}

pub(crate) fn invalid_argument() {
    connect_fails(SocketTo(HERE, 0), ErrorCode::InvalidArgument);
    send_fails(b"x", None, ErrorCode::InvalidArgument);
    send_fails(b"x", Some((any(V4), 9)), ErrorCode::InvalidArgument);
    send_fails(b"x", Some((HERE, 0)), ErrorCode::InvalidArgument);
    send_fails(b"x", Some((loopback(Family::Ipv6), 9)), ErrorCode::InvalidArgument);
    fails(Tcp::new(V4).socket.set_hop_limit(0), ErrorCode::InvalidArgument);
    same(resolve("not a name"), Err(ErrorCode::InvalidArgument));
    // Connected to one, a datagram for another.
    let udp = Udp::bound(any(V4));
    let streams = udp.stream(Some(at(HERE, CLOSED))).unwrap();
    fails(streams.send(b"x", Some(at(HERE, CLOSED + 1))), ErrorCode::InvalidArgument);
    // A loopback address speaks to nobody outside.
    let udp = Udp::bound(HERE);
    fails(udp.stream(None).unwrap().send(b"x", Some(at(REFUSING, 53))), ErrorCode::InvalidArgument);
}

pub(crate) fn invalid_state() {
    let tcp = Tcp::new(V4);
    fails(tcp.listen(), ErrorCode::InvalidState);
    fails(tcp.socket.accept(), ErrorCode::InvalidState);
    fails(tcp.socket.remote_address(), ErrorCode::InvalidState);
    fails(Udp::new(V4).stream(None), ErrorCode::InvalidState);
}

pub(crate) fn not_in_progress() {
    let tcp = Tcp::new(V4);
    fails(tcp.socket.finish_bind(), ErrorCode::NotInProgress);
    fails(tcp.socket.finish_listen(), ErrorCode::NotInProgress);
    fails(tcp.socket.finish_connect(), ErrorCode::NotInProgress);
    fails(Udp::new(V4).socket.finish_bind(), ErrorCode::NotInProgress);
}

pub(crate) fn concurrency_conflict() {
    let tcp = Tcp::new(V4);
    tcp.socket.start_bind(&tcp.network, to_wasi(at(HERE, 0))).unwrap();
    fails(tcp.bind(at(HERE, 0)), ErrorCode::ConcurrencyConflict);
    fails(tcp.listen(), ErrorCode::ConcurrencyConflict);
    fails(tcp.start_connect(at(HERE, CLOSED)), ErrorCode::ConcurrencyConflict);
    tcp.socket.finish_bind().unwrap();
    let udp = Udp::new(V4);
    udp.socket.start_bind(&udp.network, to_wasi(at(HERE, 0))).unwrap();
    fails(udp.bind(at(HERE, 0)), ErrorCode::ConcurrencyConflict);
    udp.socket.finish_bind().unwrap();
}

pub(crate) fn would_block() {
    let listener = Tcp::listener(HERE);
    fails(listener.socket.accept(), ErrorCode::WouldBlock);
    let connecting = Tcp::new(V4);
    connecting.start_connect(at(SILENT, 80)).unwrap();
    fails(connecting.socket.finish_connect(), ErrorCode::WouldBlock);
    let network = wasi::sockets::instance_network::instance_network();
    let answers =
        wasi::sockets::ip_name_lookup::resolve_addresses(&network, "later.example").unwrap();
    same(answers.resolve_next_address().err(), Some(ErrorCode::WouldBlock));
}

/// Opens sockets until that fails, and says why it did.
fn open_too_many() -> ErrorCode {
    let mut held = Vec::new();
    for _ in 0..100_000 {
        match Tcp::try_new(V4) {
            Ok(socket) => held.push(socket),
            Err(code) => return code,
        }
    }
    panic!("{} sockets and no end", held.len());
}

pub(crate) fn new_socket_limit() {
    same(open_too_many(), ErrorCode::NewSocketLimit);
    Tcp::new(V4);
}

/// The test gives this one a module's memory that is used up early.
pub(crate) fn out_of_memory() {
    same(open_too_many(), ErrorCode::OutOfMemory);
    Tcp::new(V4);
}

pub(crate) fn address_in_use() {
    let (tcp, udp) = (Tcp::listener(any(V4)), Udp::bound(HERE));
    for ip in [any(V4), HERE, Ipv4Addr::new(127, 0, 0, 2).into()] {
        let outcome = Tcp::new(V4).bind(at(ip, tcp.local().port()));
        fails(outcome, ErrorCode::AddressInUse);
    }
    fails(Udp::new(V4).bind(udp.local()), ErrorCode::AddressInUse);
    fails(Udp::new(V4).bind(at(any(V4), udp.local().port())), ErrorCode::AddressInUse);
}

pub(crate) fn address_not_bindable() {
    for ip in NOT_OURS {
        fails(Tcp::new(family_of(ip)).bind(at(ip, 0)), ErrorCode::AddressNotBindable);
        fails(Udp::new(family_of(ip)).bind(at(ip, 0)), ErrorCode::AddressNotBindable);
    }
}

pub(crate) fn datagram_too_large() {
    // What the length fields of UDP over IPv4 leave.
    send_fails(&vec![0; 65_508], Some((HERE, CLOSED)), ErrorCode::DatagramTooLarge);
    let udp = Udp::bound(any(V4));
    udp.stream(None).unwrap().send(&vec![0; 65_507], Some(at(HERE, CLOSED))).unwrap();
}

pub(crate) fn name_unresolvable() {
    same(resolve("nobody.example"), Err(ErrorCode::NameUnresolvable));
}

pub(crate) fn temporary_resolver_failure() {
    same(resolve("busy.example"), Err(ErrorCode::TemporaryResolverFailure));
}

pub(crate) fn permanent_resolver_failure() {
    same(resolve("broken.example"), Err(ErrorCode::PermanentResolverFailure));
}
