//! A TCP connection of the kernel's, read and written by the guests' threads.
//!
//! Owns: the socket, and its place with the reactor. Is not: a buffer. What it says of the kernel is what tokio's own says: who reads less than there was
//! room for need not ask again, nor who writes less than there was.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mio::Token;
use mio::net::TcpStream;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::reactor::{Reactor, Readiness, Way};

/// See the header. Dropping it closes the connection.
#[derive(Debug)]
pub struct LaneSocket {
    socket: TcpStream,
    token: Token,
    readiness: Arc<Readiness>,
    reactor: Arc<Reactor>,
}

impl LaneSocket {
    /// Takes over a socket that does not block; one that cannot be watched is reset, as one that nobody serves.
    pub(super) fn new(socket: std::net::TcpStream, reactor: Arc<Reactor>) -> io::Result<Self> {
        let mut socket = TcpStream::from_std(socket);
        match reactor.add(&mut socket) {
            Ok((token, readiness)) => Ok(Self { socket, token, readiness, reactor }),
            Err(error) => {
                // A socket that refuses this is closed in the ordinary way.
                let _ = set_socket_linger(&socket, Some(Duration::ZERO));
                Err(error)
            }
        }
    }

    /// Does `call` when it is worth while, until it has done something.
    fn attempt(
        &self,
        way: Way,
        room: usize,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let times = ready!(self.readiness.poll(way, cx));
            match call(&self.socket) {
                Ok(n) => {
                    if (1..room).contains(&n) {
                        self.readiness.forget(way, times, false);
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.forget(way, times, true);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for LaneSocket {
    fn drop(&mut self) {
        self.reactor.remove(&mut self.socket, self.token);
    }
}

impl AsFd for LaneSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for LaneSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let into = buf.initialize_unfilled();
        let read = self.attempt(Way::In, into.len(), cx, |mut socket| socket.read(into));
        let count = ready!(read)?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaneSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.attempt(Way::Out, data.len(), cx, |mut socket| socket.write(data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.attempt(Way::Out, bytes, cx, |mut socket| socket.write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Written bytes are the kernel's at once.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.socket.shutdown(Shutdown::Write) {
            // The other side has reset it: reading tells so.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}
