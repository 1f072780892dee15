//! One socket of a module.
//!
//! ```text
//!             bind, listen ──► listening ──accept──► another socket, connected
//!  open ──┤
//!             connect ──► connecting ──┬─► connected: halves taken, read and written
//!                                      └─► failed: told once by SO_ERROR, or by whoever waits
//! ```
//! Owns: what each call means in each state, and how long it waits: not at all with the non-blocking flag, else for as long as the
//! socket's time limit says. Is not: the network's states (`crate::net`), nor numbers and memory (`calls`).

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Sleep, sleep, timeout};

use super::errno::{self, Errno};
use crate::net::{Family, Member, ReadHalf, Shutdown, TcpSocket, UdpSocket, WriteHalf};
use crate::wasi::sockets::CONNECT_TIMEOUT;

/// One socket.
#[derive(Debug)]
pub(super) struct Socket {
    kind: Kind,
    pub(super) nonblocking: bool,
    pub(super) receive_timeout: Option<Duration>,
    pub(super) send_timeout: Option<Duration>,
    pub(super) reuse_address: bool,
    pub(super) broadcast: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(Tcp),
    Udp(Udp),
}

#[derive(Debug)]
struct Tcp {
    socket: TcpSocket,
    halves: Option<(ReadHalf, WriteHalf)>,
    /// A connect is under way.
    connecting: bool,
    /// Why the connect failed, until somebody has been told.
    failure: Option<Errno>,
    /// Until when a connect may wait.
    patience: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Udp {
    socket: UdpSocket,
}

/// What a receive found.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) count: usize,
    /// There was more of the datagram than there was room.
    pub(super) truncated: bool,
    pub(super) from: Option<SocketAddr>,
}

/// How a receive is to be done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    /// The bytes stay.
    pub(super) peek: bool,
    /// Only when all of the buffer is full, if it is a stream.
    pub(super) all: bool,
}

/// Waits for `op`, which is `Pending` as long as it cannot be done. Without a context it registers nobody.
async fn wait<T>(
    nonblocking: bool,
    limit: Option<Duration>,
    mut op: impl FnMut(Option<&mut Context<'_>>) -> Poll<Result<T, Errno>>,
) -> Result<T, Errno> {
    if let Poll::Ready(outcome) = op(None) {
        return outcome;
    }
    if nonblocking {
        return Err(Errno::Again);
    }
    let wait = std::future::poll_fn(|cx| op(Some(cx)));
    match limit {
        None => wait.await,
        Some(limit) => timeout(limit, wait).await.unwrap_or(Err(Errno::Again)),
    }
}

impl Socket {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            nonblocking: false,
            receive_timeout: None,
            send_timeout: None,
            reuse_address: false,
            broadcast: false,
        }
    }

    pub(super) fn tcp(socket: TcpSocket) -> Self {
        let tcp = Tcp { socket, halves: None, connecting: false, failure: None, patience: None };
        Self::of(Kind::Tcp(tcp))
    }

    pub(super) fn open_tcp(member: &Member, family: Family) -> Result<Self, Errno> {
        member.tcp_socket(family).map(Self::tcp).map_err(errno::open)
    }

    pub(super) fn open_udp(member: &Member, family: Family) -> Result<Self, Errno> {
        let socket = member.udp_socket(family).map_err(errno::open)?;
        Ok(Self::of(Kind::Udp(Udp { socket })))
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_))
    }

    pub(super) fn is_listening(&self) -> bool {
        matches!(&self.kind, Kind::Tcp(tcp) if tcp.socket.is_listening())
    }

    pub(super) fn tcp_socket(&mut self) -> Option<&mut TcpSocket> {
        match &mut self.kind {
            Kind::Tcp(tcp) => Some(&mut tcp.socket),
            Kind::Udp(_) => None,
        }
    }

    pub(super) fn udp_socket(&self) -> Option<&UdpSocket> {
        match &self.kind {
            Kind::Udp(udp) => Some(&udp.socket),
            Kind::Tcp(_) => None,
        }
    }

    pub(super) fn bind(&mut self, at: SocketAddr) -> Result<(), Errno> {
        match &mut self.kind {
            Kind::Tcp(tcp) => tcp.socket.bind(at).map_err(errno::bind),
            Kind::Udp(udp) => udp.socket.bind(at).map_err(errno::bind),
        }
    }

    pub(super) fn listen(&mut self, backlog: u64) -> Result<(), Errno> {
        let tcp = self.tcp_socket().ok_or(Errno::Notsup)?;
        // Of no consequence where it is refused: zero means "any", and another state fails below.
        let _ = tcp.set_backlog(backlog);
        if tcp.is_listening() {
            return Ok(());
        }
        tcp.listen().map_err(errno::listen)
    }

    pub(super) async fn connect(&mut self, to: SocketAddr) -> Result<(), Errno> {
        let nonblocking = self.nonblocking;
        match &mut self.kind {
            Kind::Udp(udp) => udp.socket.connect(to).map_err(errno::send),
            Kind::Tcp(tcp) => {
                if tcp.is_connected() {
                    return Err(Errno::Isconn);
                }
                if tcp.connecting {
                    return Err(Errno::Already);
                }
                tcp.socket.connect(to).map_err(errno::connect)?;
                tcp.connecting = true;
                if tcp.poll_connected(None).is_pending() {
                    tcp.patience = Some(Box::pin(sleep(CONNECT_TIMEOUT)));
                }
                let outcome = wait(nonblocking, None, |cx| tcp.poll_connected(cx)).await;
                outcome.map_err(|e| if e == Errno::Again { Errno::Inprogress } else { e })
            }
        }
    }

    /// The next connection.
    pub(super) async fn accept(&mut self) -> Result<Self, Errno> {
        let (nonblocking, limit) = (self.nonblocking, self.receive_timeout);
        let Kind::Tcp(tcp) = &mut self.kind else { return Err(Errno::Notsup) };
        if !tcp.socket.is_listening() {
            return Err(Errno::Inval);
        }
        let accepted = wait(nonblocking, limit, |cx| {
            let accepted = match cx {
                Some(cx) => tcp.socket.poll_accept(cx),
                None => tcp.socket.try_accept(),
            };
            accepted.map_err(errno::accept)
        });
        accepted.await.map(Self::tcp)
    }

    /// Reads into `into`; nothing is the end of a stream.
    pub(super) async fn receive(
        &mut self,
        into: &mut [u8],
        manner: Manner,
    ) -> Result<Received, Errno> {
        let (nonblocking, limit) = (self.nonblocking, self.receive_timeout);
        match &mut self.kind {
            Kind::Udp(udp) => {
                wait(nonblocking, limit, |cx| udp.poll_receive(cx, into, manner.peek)).await
            }
            Kind::Tcp(tcp) => {
                let mut count = 0;
                loop {
                    let rest = &mut into[count..];
                    let read = wait(nonblocking, limit, |cx| tcp.poll_read(cx, rest, manner.peek));
                    match read.await {
                        Ok(more) => {
                            count += more;
                            if more == 0 || manner.peek || !manner.all || count == into.len() {
                                break;
                            }
                        }
                        Err(_) if count > 0 => break,
                        Err(error) => return Err(error),
                    }
                }
                Ok(Received { count, truncated: false, from: None })
            }
        }
    }

    /// Sends `data`: all of it where it may wait.
    pub(super) async fn send(
        &mut self,
        data: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<usize, Errno> {
        let (nonblocking, limit) = (self.nonblocking, self.send_timeout);
        match &mut self.kind {
            Kind::Udp(udp) => {
                udp.socket.send(Bytes::copy_from_slice(data), to).map_err(errno::send)?;
                Ok(data.len())
            }
            Kind::Tcp(tcp) => {
                let mut count = 0;
                loop {
                    let rest = &data[count..];
                    match wait(nonblocking, limit, |cx| tcp.poll_write(cx, rest)).await {
                        Ok(more) => count += more,
                        Err(_) if count > 0 => break,
                        Err(error) => return Err(error),
                    }
                    if count == data.len() {
                        break;
                    }
                }
                Ok(count)
            }
        }
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) -> Result<(), Errno> {
        let Kind::Tcp(tcp) = &mut self.kind else { return Err(Errno::Notconn) };
        tcp.socket.shutdown(how).map_err(|_| Errno::Notconn)
    }

    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.socket.local_address(),
            Kind::Udp(udp) => udp.socket.local_address(),
        }
    }

    pub(super) fn remote_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.socket.remote_address(),
            Kind::Udp(udp) => udp.socket.remote_address(),
        }
    }

    pub(super) fn family(&self) -> Family {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.socket.family(),
            Kind::Udp(udp) => udp.socket.family(),
        }
    }

    /// The failure that nobody has been told of, once (`SO_ERROR`).
    pub(super) fn take_error(&mut self) -> Errno {
        let Kind::Tcp(tcp) = &mut self.kind else { return Errno::Success };
        match tcp.poll_connected(None) {
            Poll::Pending => Errno::Inprogress,
            Poll::Ready(_) => tcp.failure.take().unwrap_or(Errno::Success),
        }
    }

    /// Ready once a read, or an accept, would not wait.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            Kind::Udp(udp) => udp.socket.poll_ready(cx),
            Kind::Tcp(tcp) if tcp.socket.is_listening() => tcp.socket.poll_ready(cx),
            Kind::Tcp(tcp) => {
                if tcp.poll_connected(Some(cx)).is_pending() {
                    return Poll::Pending;
                }
                match &mut tcp.halves {
                    Some((read, _)) => read.poll_ready(cx),
                    None => Poll::Ready(()),
                }
            }
        }
    }

    /// Ready once a write would not wait, or a connect has its outcome.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            Kind::Udp(_) => Poll::Ready(()),
            Kind::Tcp(tcp) if tcp.socket.is_listening() => Poll::Pending,
            Kind::Tcp(tcp) => {
                if tcp.poll_connected(Some(cx)).is_pending() {
                    return Poll::Pending;
                }
                match &mut tcp.halves {
                    // What has gone wrong is left to the write that follows.
                    Some((_, write)) => write.poll_ready(cx),
                    None => Poll::Ready(()),
                }
            }
        }
    }
}

impl Tcp {
    /// Takes the halves of a socket that has become connected.
    fn is_connected(&mut self) -> bool {
        if self.halves.is_none()
            && let (Some(read), Some(write)) = (self.socket.take_read(), self.socket.take_write())
        {
            self.halves = Some((read, write));
        }
        self.halves.is_some()
    }

    /// The outcome of a connect; at once where none is under way.
    fn poll_connected(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Result<(), Errno>> {
        if !self.connecting {
            return Poll::Ready(self.failure.map_or(Ok(()), Err));
        }
        let outcome = match cx {
            None => self.socket.try_connected(),
            Some(cx) => {
                if let Some(patience) = &mut self.patience
                    && patience.as_mut().poll(cx).is_ready()
                {
                    self.socket.give_up_connecting();
                }
                self.socket.poll_connected(cx)
            }
        };
        let Poll::Ready(outcome) = outcome else { return Poll::Pending };
        self.connecting = false;
        self.patience = None;
        self.is_connected();
        Poll::Ready(outcome.map_err(|error| {
            let error = errno::connect(error);
            self.failure = Some(error);
            error
        }))
    }

    fn connected(&mut self) -> Result<&mut (ReadHalf, WriteHalf), Errno> {
        if !self.is_connected() {
            return Err(self.failure.take().unwrap_or(Errno::Notconn));
        }
        self.halves.as_mut().ok_or(Errno::Notconn)
    }

    fn poll_read(
        &mut self,
        cx: Option<&mut Context<'_>>,
        into: &mut [u8],
        peek: bool,
    ) -> Poll<Result<usize, Errno>> {
        if into.is_empty() {
            return Poll::Ready(self.connected().map(|_| 0));
        }
        let (read, _) = self.connected()?;
        let count = match (peek, cx) {
            (true, cx) => read.peek_into(cx, into),
            (false, Some(cx)) => read.poll_read_into(cx, into),
            (false, None) => read.try_read_into(into),
        };
        count.map_err(errno::read)
    }

    fn poll_write(
        &mut self,
        cx: Option<&mut Context<'_>>,
        data: &[u8],
    ) -> Poll<Result<usize, Errno>> {
        let (_, write) = self.connected()?;
        let count = match cx {
            Some(cx) => write.poll_write_slice(cx, data),
            None => write.try_write_slice(data),
        };
        count.map_err(errno::write)
    }
}

impl Udp {
    fn poll_receive(
        &mut self,
        cx: Option<&mut Context<'_>>,
        into: &mut [u8],
        peek: bool,
    ) -> Poll<Result<Received, Errno>> {
        let datagram = match (peek, cx) {
            (true, cx) => self.socket.peek(cx),
            (false, Some(cx)) => self.socket.poll_receive(cx),
            (false, None) => self.socket.try_receive(),
        };
        let Poll::Ready(datagram) = datagram else { return Poll::Pending };
        let datagram = datagram.map_err(errno::receive)?;
        let count = into.len().min(datagram.data.len());
        into[..count].copy_from_slice(&datagram.data[..count]);
        let truncated = count < datagram.data.len();
        let from = Some(datagram.from);
        Poll::Ready(Ok(Received { count, truncated, from }))
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::task::Waker;

    use super::*;
    use crate::net::{MemberLimits, NetConfig, NoLedger, PodNet};

    #[tokio::test]
    async fn a_poll_takes_no_error_from_the_write_that_follows() {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let member = net.join("a", MemberLimits::default(), Arc::new(NoLedger));
        let at = "127.0.0.1:80".parse().unwrap();
        let mut listener = member.listen(at).unwrap();
        let mut socket = Socket::open_tcp(&member, Family::V4).unwrap();
        socket.connect(at).await.unwrap();
        assert_eq!(socket.send(b"x", None).await, Ok(1));
        let Poll::Ready(Ok(far)) = listener.try_accept() else { panic!("nobody came") };
        far.abort();
        for _ in 0..2 {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(socket.poll_writable(&mut cx).is_ready());
        }
        assert_eq!(socket.send(b"x", None).await, Err(Errno::Connreset));
        assert_eq!(socket.send(b"x", None).await, Err(Errno::Pipe));
    }
}
