//! For guests that check a host: addresses to try, and what is expected of calls.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use crate::*;

pub const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
pub const MAPPED: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1));
/// Addresses kept for documentation (RFC 5737, RFC 3849): never a host's own.
pub const NOT_OURS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// Not one host's.
pub const NOT_UNICAST: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V4(Ipv4Addr::new(224, 254, 0, 0)),
    IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
];
/// A port at which nobody listens.
pub const CLOSED: u16 = 47;

#[must_use]
pub fn loopback(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
        Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
    }
}

#[must_use]
pub fn any(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[must_use]
pub fn other(family: Family) -> Family {
    if family == Family::Ipv4 { Family::Ipv6 } else { Family::Ipv4 }
}

#[must_use]
pub fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

/// Addresses that nobody can be at, as seen from a socket of `family`.
#[must_use]
pub fn nobodys(family: Family) -> [SocketAddr; 3] {
    [at(any(family), CLOSED), at(loopback(family), 0), at(loopback(other(family)), CLOSED)]
}

/// The call must fail, and with this code (WIT's name).
#[track_caller]
pub fn fails<T>(outcome: Result<T, ErrorCode>, expected: &str) {
    let found = told(&outcome);
    check(found == expected, found, expected);
}

#[track_caller]
#[inline(never)]
pub fn check(same: bool, found: &str, expected: &str) {
    if !same {
        panic!("{found} instead of {expected}");
    }
}

#[must_use]
pub fn tcp(family: Family) -> TcpSocket {
    works(TcpSocket::create(family))
}

pub fn tcp_bind(socket: &TcpSocket, to: SocketAddr) -> Result<(), ErrorCode> {
    socket.bind(to_wasi(to))
}

pub async fn tcp_connect(socket: &TcpSocket, to: SocketAddr) -> Result<(), ErrorCode> {
    socket.connect(to_wasi(to)).await
}

#[must_use]
pub fn tcp_local(socket: &TcpSocket) -> SocketAddr {
    to_std(works(socket.get_local_address()))
}

#[must_use]
pub fn udp(family: Family) -> UdpSocket {
    works(UdpSocket::create(family))
}

pub fn udp_bind(socket: &UdpSocket, to: SocketAddr) -> Result<(), ErrorCode> {
    socket.bind(to_wasi(to))
}

/// Bound to any port of `ip`.
#[must_use]
pub fn udp_at(ip: IpAddr) -> UdpSocket {
    let socket = udp(family_of(ip));
    works(udp_bind(&socket, at(ip, 0)));
    socket
}

pub fn udp_connect(socket: &UdpSocket, to: SocketAddr) -> Result<(), ErrorCode> {
    socket.connect(to_wasi(to))
}

pub async fn udp_send(
    socket: &UdpSocket,
    data: &[u8],
    to: Option<SocketAddr>,
) -> Result<(), ErrorCode> {
    socket.send(data.to_vec(), to.map(to_wasi)).await
}

#[must_use]
pub fn udp_local(socket: &UdpSocket) -> SocketAddr {
    to_std(works(socket.get_local_address()))
}

/// The next datagram is this one, from there.
#[track_caller]
pub fn is_datagram(got: Result<(Vec<u8>, SocketAddr), ErrorCode>, data: &[u8], from: SocketAddr) {
    let (bytes, sender) = works(got);
    assert!(bytes == data, "other bytes");
    assert!(sender == from, "from elsewhere");
}

pub async fn udp_receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddr), ErrorCode> {
    socket.receive().await.map(|(data, from)| (data, to_std(from)))
}

/// Two ends over the loopback: the server's and the client's.
pub async fn pair(family: Family) -> (Connection, Connection) {
    let (listener, mut connections) = listen(at(loopback(family), 0));
    let client = works(Connection::to(tcp_local(&listener)).await);
    let server = connections.next().await.expect("a connection");
    (Connection::new(server), client)
}

#[track_caller]
pub fn is_bytes(found: &[u8], expected: &[u8]) {
    assert!(found == expected, "other bytes");
}

/// All addresses of a name, best first.
pub async fn resolve(name: &str) -> Result<Vec<IpAddr>, ip_name_lookup::ErrorCode> {
    let addresses = ip_name_lookup::resolve_addresses(name.to_owned()).await?;
    Ok(addresses.into_iter().map(to_ip).collect())
}

/// The look-up must fail, and with this code (WIT's name).
pub async fn unresolved(name: &str, expected: &str) {
    use ip_name_lookup::ErrorCode;
    let found = match resolve(name).await {
        Ok(_) => "ok",
        Err(ErrorCode::AccessDenied) => "access-denied",
        Err(ErrorCode::InvalidArgument) => "invalid-argument",
        Err(ErrorCode::NameUnresolvable) => "name-unresolvable",
        Err(ErrorCode::TemporaryResolverFailure) => "temporary-resolver-failure",
        Err(ErrorCode::PermanentResolverFailure) => "permanent-resolver-failure",
        Err(ErrorCode::Other(_)) => "other",
    };
    check(found == expected, found, expected);
}

/// A call gives this number.
#[track_caller]
pub fn is<T: Into<u64>>(outcome: Result<T, ErrorCode>, expected: T) {
    same(works(outcome).into(), expected.into());
}

#[track_caller]
#[inline(never)]
fn same(found: u64, expected: u64) {
    if found != expected {
        panic!("{found} instead of {expected}");
    }
}
