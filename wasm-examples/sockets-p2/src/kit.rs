//! Sockets with the two halves of each call put together, and addresses that can be compared.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

pub(crate) use wasi::io::streams::{InputStream, OutputStream, StreamError};
use wasi::sockets::instance_network::instance_network;
pub(crate) use wasi::sockets::network::{ErrorCode, IpAddressFamily as Family};
use wasi::sockets::network::{IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, Network};
use wasi::sockets::tcp::TcpSocket;
use wasi::sockets::tcp_create_socket::create_tcp_socket;
use wasi::sockets::udp::{
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasi::sockets::udp_create_socket::create_udp_socket;

pub(crate) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
pub(crate) const MAPPED: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1));
/// Addresses kept for documentation (RFC 5737, RFC 3849): never a host's own.
pub(crate) const NOT_OURS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// Not one host's, each with the family of a socket that is asked to use it.
pub(crate) const NOT_UNICAST: [(Family, IpAddr); 3] = [
    (Family::Ipv4, IpAddr::V4(Ipv4Addr::BROADCAST)),
    (Family::Ipv4, IpAddr::V4(Ipv4Addr::new(224, 254, 0, 0))),
    (Family::Ipv6, IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0))),
];
/// A port at which nobody listens.
pub(crate) const CLOSED: u16 = 47;

pub(crate) fn loopback(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
        Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
    }
}

pub(crate) fn any(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

pub(crate) fn other(family: Family) -> Family {
    if family == Family::Ipv4 { Family::Ipv6 } else { Family::Ipv4 }
}

pub(crate) fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

pub(crate) fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

pub(crate) fn to_wasi(address: SocketAddr) -> IpSocketAddress {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            let address = (a, b, c, d, e, f, g, h);
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
    }
}

pub(crate) fn to_std(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => {
            at(Ipv4Addr::new(a, b, c, d), port)
        }
        IpSocketAddress::Ipv6(it) => {
            let (a, b, c, d, e, f, g, h) = it.address;
            let ip = Ipv6Addr::new(a, b, c, d, e, f, g, h);
            SocketAddr::V6(SocketAddrV6::new(ip, it.port, it.flow_info, it.scope_id))
        }
    }
}

/// The call must fail, and with this code.
#[track_caller]
pub(crate) fn fails<T>(outcome: Result<T, ErrorCode>, expected: ErrorCode) {
    same_code(outcome.err(), expected);
}

/// A call gives this number.
#[track_caller]
pub(crate) fn is<T: Into<u64>>(outcome: Result<T, ErrorCode>, expected: T) {
    same(outcome.map(Into::into), Ok(expected.into()));
}

/// These bytes; a mismatch is shown as lengths.
#[track_caller]
#[inline(never)]
pub(crate) fn same_bytes(found: &[u8], expected: &[u8]) {
    if found != expected {
        panic!("{} bytes instead of {}, or others", found.len(), expected.len());
    }
}

/// As `assert_eq!`, and smaller for being written once.
#[track_caller]
#[inline(never)]
pub(crate) fn same<T: Debug + PartialEq>(found: T, expected: T) {
    if found != expected {
        panic!("{found:?} instead of {expected:?}");
    }
}

/// Apart, so that the many calls share it: a guest is small.
#[track_caller]
#[inline(never)]
fn same_code(code: Option<ErrorCode>, expected: ErrorCode) {
    if code != Some(expected) {
        panic!("{code:?} instead of {expected:?}");
    }
}

#[track_caller]
pub(crate) fn is_closed<T>(outcome: &Result<T, StreamError>) -> bool {
    matches!(outcome, Err(StreamError::Closed))
}

pub(crate) struct Tcp {
    pub(crate) socket: TcpSocket,
    pub(crate) network: Network,
}

impl Tcp {
    pub(crate) fn new(family: Family) -> Self {
        Self::try_new(family).expect("a socket")
    }

    pub(crate) fn try_new(family: Family) -> Result<Self, ErrorCode> {
        Ok(Self { socket: create_tcp_socket(family)?, network: instance_network() })
    }

    pub(crate) fn bind(&self, to: SocketAddr) -> Result<(), ErrorCode> {
        self.socket.start_bind(&self.network, to_wasi(to))?;
        self.finish(|| self.socket.finish_bind())
    }

    pub(crate) fn listen(&self) -> Result<(), ErrorCode> {
        self.socket.start_listen()?;
        self.finish(|| self.socket.finish_listen())
    }

    pub(crate) fn start_connect(&self, to: SocketAddr) -> Result<(), ErrorCode> {
        self.socket.start_connect(&self.network, to_wasi(to))
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> Result<(InputStream, OutputStream), ErrorCode> {
        self.start_connect(to)?;
        self.finish(|| self.socket.finish_connect())
    }

    pub(crate) fn accept(&self) -> Result<Connection, ErrorCode> {
        let (socket, input, output) = self.finish(|| self.socket.accept())?;
        Ok(Connection { input, output, tcp: Tcp { socket, network: instance_network() } })
    }

    /// Waits, and does not take its readiness for more than a hint.
    fn finish<T>(&self, step: impl Fn() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
        loop {
            match step() {
                Err(ErrorCode::WouldBlock) => self.socket.subscribe().block(),
                done => return done,
            }
        }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        to_std(self.socket.local_address().expect("a local address"))
    }

    /// Listens on any port of `ip`.
    pub(crate) fn listener(ip: IpAddr) -> Self {
        let listener = Self::new(family_of(ip));
        listener.bind(at(ip, 0)).expect("bind to any port");
        listener.listen().expect("listen");
        listener
    }
}

/// One end of a connection. Streams go first: in WASI 0.2 they may be children of their socket.
pub(crate) struct Connection {
    pub(crate) input: InputStream,
    pub(crate) output: OutputStream,
    pub(crate) tcp: Tcp,
}

/// Two ends over the loopback: the server's and the client's.
pub(crate) fn pair(family: Family) -> (Connection, Connection) {
    let listener = Tcp::listener(loopback(family));
    let tcp = Tcp::new(family);
    let (input, output) = tcp.connect(listener.local()).expect("connect");
    (listener.accept().expect("accept"), Connection { input, output, tcp })
}

/// Reads until the other side has closed.
pub(crate) fn read_to_end(input: &InputStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match input.blocking_read(64 * 1024) {
            Ok(mut bytes) => all.append(&mut bytes),
            Err(StreamError::Closed) => return all,
            Err(error) => panic!("read: {error:?}"),
        }
    }
}

/// Writes all of it, in pieces of what is permitted.
pub(crate) fn write_all(output: &OutputStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        output.subscribe().block();
        let permit = output.check_write().expect("a permit") as usize;
        let (now, later) = bytes.split_at(permit.min(bytes.len()));
        output.write(now).expect("a permitted write");
        bytes = later;
    }
}

pub(crate) struct Udp {
    pub(crate) socket: UdpSocket,
    pub(crate) network: Network,
}

/// Both streams of a datagram socket.
pub(crate) struct Streams {
    pub(crate) incoming: IncomingDatagramStream,
    pub(crate) outgoing: OutgoingDatagramStream,
}

impl Udp {
    pub(crate) fn new(family: Family) -> Self {
        let socket = create_udp_socket(family).expect("a socket");
        Self { socket, network: instance_network() }
    }

    pub(crate) fn bind(&self, to: SocketAddr) -> Result<(), ErrorCode> {
        self.socket.start_bind(&self.network, to_wasi(to))?;
        self.socket.finish_bind()
    }

    /// Bound to any port of `ip`.
    pub(crate) fn bound(ip: IpAddr) -> Self {
        let udp = Self::new(family_of(ip));
        udp.bind(at(ip, 0)).expect("bind to any port");
        udp
    }

    pub(crate) fn stream(&self, peer: Option<SocketAddr>) -> Result<Streams, ErrorCode> {
        let (incoming, outgoing) = self.socket.stream(peer.map(to_wasi))?;
        Ok(Streams { incoming, outgoing })
    }

    pub(crate) fn local(&self) -> SocketAddr {
        to_std(self.socket.local_address().expect("a local address"))
    }

    pub(crate) fn remote(&self) -> Result<SocketAddr, ErrorCode> {
        self.socket.remote_address().map(to_std)
    }
}

pub(crate) fn datagram(data: &[u8], to: Option<SocketAddr>) -> OutgoingDatagram {
    OutgoingDatagram { data: data.to_vec(), remote_address: to.map(to_wasi) }
}

impl Streams {
    /// Sends one datagram, with a permit for it.
    pub(crate) fn send(&self, data: &[u8], to: Option<SocketAddr>) -> Result<u64, ErrorCode> {
        self.outgoing.subscribe().block();
        assert!(self.outgoing.check_send()? > 0, "ready without a permit");
        self.outgoing.send(&[datagram(data, to)])
    }

    /// The next datagram and who sent it.
    pub(crate) fn receive(&self) -> Result<(Vec<u8>, SocketAddr), ErrorCode> {
        loop {
            if let Some(datagram) = self.incoming.receive(1)?.pop() {
                return Ok((datagram.data, to_std(datagram.remote_address)));
            }
            self.incoming.subscribe().block();
        }
    }
}
