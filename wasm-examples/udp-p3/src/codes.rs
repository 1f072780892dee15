//! The codes, each by the calls that give it. The addresses and names outside of the pod are
//! those of the test's world.

use std::net::{IpAddr, Ipv4Addr};

use guest_p3::kit::*;

const V4: Family = Family::Ipv4;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DENIED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NO_WAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const SILENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const REFUSING: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));
/// Where somebody listens who dies when spoken to.
const MORTAL: u16 = 9;

async fn connect(ip: IpAddr, port: u16, expected: &str) {
    fails(tcp_connect(&tcp(V4), at(ip, port)).await, expected);
}

async fn send(data: &[u8], to: Option<(IpAddr, u16)>, expected: &str) {
    let to = to.map(|(ip, port)| at(ip, port));
    fails(udp_send(&udp_at(any(V4)), data, to).await, expected);
}

pub(crate) async fn access_denied() {
    connect(DENIED, 80, "access-denied").await;
    send(b"x", Some((DENIED, 53)), "access-denied").await;
    fails(udp_connect(&udp(V4), at(DENIED, 53)), "access-denied");
    unresolved("denied.example", "access-denied").await;
}

pub(crate) async fn remote_unreachable() {
    connect(NO_WAY, 80, "remote-unreachable").await;
    send(b"x", Some((NO_WAY, 53)), "remote-unreachable").await;
    fails(udp_connect(&udp(V4), at(NO_WAY, 53)), "remote-unreachable");
}

pub(crate) async fn connection_refused() {
    connect(HERE, CLOSED, "connection-refused").await;
    connect(REFUSING, 80, "connection-refused").await;
    let socket = udp(V4);
    works(udp_connect(&socket, at(HERE, CLOSED)));
    works(udp_send(&socket, b"x", None).await);
    fails(socket.receive().await, "connection-refused");
    works(udp_send(&socket, b"x", None).await);
    fails(udp_send(&socket, b"x", None).await, "connection-refused");
}

pub(crate) async fn connection_reset() {
    let mut connection = works(Connection::to(at(HERE, MORTAL)).await);
    assert!(connection.write(b"die").await);
    assert!(read_to_end(&mut connection.input).await.is_empty());
    fails(connection.received.await, "connection-reset");
    while connection.output.write(b"undeliverable".to_vec()).await.0 != StreamResult::Dropped {}
    fails(connection.sent.await, "connection-reset");
}

pub(crate) async fn connection_broken() {
    let (server, mut client) = pair(V4).await;
    drop(server);
    while client.output.write(b"undeliverable".to_vec()).await.0 != StreamResult::Dropped {}
    fails(client.sent.await, "connection-broken");
}

pub(crate) async fn timeout() {
    connect(SILENT, 80, "timeout").await;
    // In the pod: the listener's queue is full and stays so.
    let listener = tcp(V4);
    works(listener.set_listen_backlog_size(1));
    works(tcp_bind(&listener, at(HERE, 0)));
    let _connections = works(listener.listen());
    // The stream of connections takes one out of the queue by itself when it is asked to; nobody has asked.
    let _first = works(Connection::to(tcp_local(&listener)).await);
    fails(tcp_connect(&tcp(V4), tcp_local(&listener)).await, "timeout");
}

pub(crate) async fn invalid_argument() {
    connect(HERE, 0, "invalid-argument").await;
    send(b"x", None, "invalid-argument").await;
    send(b"x", Some((any(V4), 9)), "invalid-argument").await;
    send(b"x", Some((HERE, 0)), "invalid-argument").await;
    send(b"x", Some((loopback(Family::Ipv6), 9)), "invalid-argument").await;
    fails(tcp(V4).set_hop_limit(0), "invalid-argument");
    unresolved("not a name", "invalid-argument").await;
    // Connected to one, a datagram for another.
    let socket = udp(V4);
    works(udp_connect(&socket, at(HERE, CLOSED)));
    fails(udp_send(&socket, b"x", Some(at(HERE, CLOSED + 1))).await, "invalid-argument");
    // A loopback address speaks to nobody outside.
    fails(udp_send(&udp_at(HERE), b"x", Some(at(REFUSING, 53))).await, "invalid-argument");
}

pub(crate) async fn invalid_state() {
    let socket = tcp(V4);
    fails(socket.get_local_address(), "invalid-state");
    fails(socket.get_remote_address(), "invalid-state");
    fails(udp(V4).receive().await, "invalid-state");
    fails(udp(V4).disconnect(), "invalid-state");
    works(tcp_bind(&socket, at(HERE, 0)));
    fails(tcp_bind(&socket, at(HERE, 0)), "invalid-state");
}

/// Opens sockets until that fails, and says why it did.
fn open_too_many() -> ErrorCode {
    let mut held = Vec::new();
    for _ in 0..100_000 {
        match TcpSocket::create(V4) {
            Ok(socket) => held.push(socket),
            Err(code) => return code,
        }
    }
    panic!("{} sockets and no end", held.len());
}

/// The one code for which 0.3 has no name: too many sockets. It comes with words.
pub(crate) async fn other() {
    let ErrorCode::Other(Some(words)) = open_too_many() else { panic!("another code") };
    assert!(!words.is_empty());
    drop(tcp(V4));
}

/// The test gives this one a module's memory that is used up early.
pub(crate) async fn out_of_memory() {
    let code = open_too_many();
    fails(Err::<(), _>(code), "out-of-memory");
    drop(tcp(V4));
}

pub(crate) async fn address_in_use() {
    let (listener, _connections) = listen(at(any(V4), 0));
    for ip in [any(V4), HERE, Ipv4Addr::new(127, 0, 0, 2).into()] {
        fails(tcp_bind(&tcp(V4), at(ip, tcp_local(&listener).port())), "address-in-use");
    }
    let taken = udp_at(HERE);
    fails(udp_bind(&udp(V4), udp_local(&taken)), "address-in-use");
    fails(udp_bind(&udp(V4), at(any(V4), udp_local(&taken).port())), "address-in-use");
}

pub(crate) async fn address_not_bindable() {
    for ip in NOT_OURS {
        fails(tcp_bind(&tcp(family_of(ip)), at(ip, 0)), "address-not-bindable");
        fails(udp_bind(&udp(family_of(ip)), at(ip, 0)), "address-not-bindable");
    }
}

pub(crate) async fn datagram_too_large() {
    // What the length fields of UDP over IPv4 leave.
    send(&vec![0; 65_508], Some((HERE, CLOSED)), "datagram-too-large").await;
    works(udp_send(&udp(V4), &vec![0; 65_507], Some(at(HERE, CLOSED))).await);
}

pub(crate) async fn name_unresolvable() {
    unresolved("nobody.example", "name-unresolvable").await;
}

pub(crate) async fn temporary_resolver_failure() {
    unresolved("busy.example", "temporary-resolver-failure").await;
}

pub(crate) async fn permanent_resolver_failure() {
    unresolved("broken.example", "permanent-resolver-failure").await;
}
