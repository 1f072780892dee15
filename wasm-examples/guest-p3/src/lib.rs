//! What the guests for WASI 0.3 share: addresses that can be compared, both halves of a connection, and waiting for
//! several things at once without a library for it.
//!
//! Guests for 0.3 are libraries that export `wasi:cli/run` 0.3 ([`export`]); the compiler's target is wasm32-wasip2, so the
//! standard library prints and panics through 0.2 beside it.

pub mod kit;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::Poll;

pub use wasip3::cli::command::export;
use wasip3::cli::environment::get_arguments;
pub use wasip3::exports::cli::run::Guest;
pub use wasip3::sockets::ip_name_lookup;
pub use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily as Family, TcpSocket, UdpSocket,
};
use wasip3::sockets::types::{IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress};
pub use wasip3::wit_bindgen::{self, FutureReader, StreamReader, StreamResult, StreamWriter};
pub use wasip3::{self, wit_stream};

/// How a direction of a connection ended.
pub type Ending = FutureReader<Result<(), ErrorCode>>;

/// The arguments after the program's name.
#[must_use]
pub fn arguments() -> Vec<String> {
    get_arguments().split_off(1)
}

#[must_use]
pub fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

#[must_use]
pub fn to_wasi(address: SocketAddr) -> IpSocketAddress {
    let port = address.port();
    match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            let address = (a, b, c, d, e, f, g, h);
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
    }
}

#[must_use]
pub fn to_ip(address: IpAddress) -> IpAddr {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).into(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => Ipv6Addr::new(a, b, c, d, e, f, g, h).into(),
    }
}

#[must_use]
pub fn to_std(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(it) => at(to_ip(IpAddress::Ipv4(it.address)), it.port),
        IpSocketAddress::Ipv6(it) => at(to_ip(IpAddress::Ipv6(it.address)), it.port),
    }
}

/// WIT's name of a code.
#[must_use]
pub fn name_of(code: &ErrorCode) -> &'static str {
    match code {
        ErrorCode::AccessDenied => "access-denied",
        ErrorCode::NotSupported => "not-supported",
        ErrorCode::InvalidArgument => "invalid-argument",
        ErrorCode::OutOfMemory => "out-of-memory",
        ErrorCode::Timeout => "timeout",
        ErrorCode::InvalidState => "invalid-state",
        ErrorCode::AddressNotBindable => "address-not-bindable",
        ErrorCode::AddressInUse => "address-in-use",
        ErrorCode::RemoteUnreachable => "remote-unreachable",
        ErrorCode::ConnectionRefused => "connection-refused",
        ErrorCode::ConnectionBroken => "connection-broken",
        ErrorCode::ConnectionReset => "connection-reset",
        ErrorCode::ConnectionAborted => "connection-aborted",
        ErrorCode::DatagramTooLarge => "datagram-too-large",
        ErrorCode::Other(_) => "other",
    }
}

/// `ok`, or the name of the code.
#[must_use]
pub fn told<T>(outcome: &Result<T, ErrorCode>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(code) => name_of(code),
    }
}

/// What a call gives that must succeed.
#[track_caller]
pub fn works<T>(outcome: Result<T, ErrorCode>) -> T {
    match outcome {
        Ok(value) => value,
        Err(code) => failed(&code),
    }
}

#[track_caller]
#[inline(never)]
fn failed(code: &ErrorCode) -> ! {
    panic!("failed: {}", name_of(code));
}

/// A connected socket with both of its streams.
#[derive(Debug)]
pub struct Connection {
    pub socket: TcpSocket,
    pub input: StreamReader<u8>,
    pub received: Ending,
    pub output: StreamWriter<u8>,
    pub sent: Ending,
}

impl Connection {
    #[must_use]
    pub fn new(socket: TcpSocket) -> Self {
        let (output, source) = wit_stream::new();
        let sent = socket.send(source);
        let (input, received) = socket.receive();
        Self { socket, input, received, output, sent }
    }

    pub async fn to(address: SocketAddr) -> Result<Self, ErrorCode> {
        let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let socket = TcpSocket::create(family)?;
        socket.connect(to_wasi(address)).await?;
        Ok(Self::new(socket))
    }

    /// Writes all of it; false if the other side wants no more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.output.write_all(bytes.to_vec()).await.is_empty()
    }
}

/// Listens at `address`: the socket and the connections that come.
pub fn listen(address: SocketAddr) -> (TcpSocket, StreamReader<TcpSocket>) {
    let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let socket = works(TcpSocket::create(family));
    works(socket.bind(to_wasi(address)));
    let connections = works(socket.listen());
    (socket, connections)
}

/// Reads until the stream ends.
pub async fn read_to_end(input: &mut StreamReader<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let (status, mut bytes) = input.read(Vec::with_capacity(64 * 1024)).await;
        all.append(&mut bytes);
        if status == StreamResult::Dropped {
            return all;
        }
    }
}

/// Both at once.
pub async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (first, second) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

/// Handles each connection that comes, all at once.
pub async fn serve<F: Future<Output = ()>>(
    connections: &mut StreamReader<TcpSocket>,
    handle: impl Fn(TcpSocket) -> F,
) {
    let running: RefCell<Vec<Pin<Box<F>>>> = RefCell::default();
    let accept = async {
        while let Some(socket) = connections.next().await {
            running.borrow_mut().push(Box::pin(handle(socket)));
        }
    };
    let work = poll_fn(|cx| {
        running.borrow_mut().retain_mut(|one| one.as_mut().poll(cx).is_pending());
        Poll::<()>::Pending
    });
    let mut accept = pin!(accept);
    let mut work = pin!(work);
    // New ones first, so that each is begun when it comes.
    poll_fn(|cx| {
        let over = accept.as_mut().poll(cx);
        let _ = work.as_mut().poll(cx);
        over
    })
    .await;
}

/// The cases of a guest that checks its host, by name. Exports `wasi:cli/run`: `CASE` runs one and prints `ok CASE`, `list`
/// prints the names.
#[macro_export]
macro_rules! cases {
    ($($name:ident: $case:path,)*) => {
        struct Cases;

        $crate::export!(Cases with_types_in $crate::wasip3);

        const NAMES: &[&str] = &[$(stringify!($name)),*];

        async fn run_case(name: &str) -> bool {
            $(if name == stringify!($name) {
                $case().await;
                return true;
            })*
            false
        }

        impl $crate::Guest for Cases {
            async fn run() -> Result<(), ()> {
                match $crate::arguments().first().map(String::as_str) {
                    Some("list") => {
                        NAMES.iter().for_each(|name| println!("{name}"));
                        Ok(())
                    }
                    Some(name) if run_case(name).await => {
                        println!("ok {name}");
                        Ok(())
                    }
                    _ => Err(()),
                }
            }
        }
    };
}
