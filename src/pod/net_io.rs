//! The pod's network for the daemon's own tasks: probes, hooks, published ports.
//!
//! Owns: tokio's `AsyncRead` and `AsyncWrite` over a connection of [`crate::net`], and waiting for
//! a connect or an accept. Is not: a time limit; callers put one round it. Nothing is buffered
//! here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::{AcceptError, ConnectError, Listener, Member, ReadHalf, Stream, WriteHalf};

/// A connection inside the pod, as tokio's I/O traits see it. Dropping it closes it in order.
#[derive(Debug)]
pub struct NetStream(Stream);

impl NetStream {
    /// Connects to `to` on behalf of `member`. Waits while the listener's queue is full.
    ///
    /// # Errors
    /// [`ConnectError`]; nobody listening is told at once.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt and frees its port.
    pub async fn connect(member: &Member, to: SocketAddr) -> Result<Self, ConnectError> {
        member.connect(to)?.await.map(Self)
    }

    /// The next connection to `listener`.
    ///
    /// # Errors
    /// [`AcceptError`]
    ///
    /// # Cancel safety
    /// Dropping the future takes no connection.
    pub async fn accept(listener: &mut Listener) -> Result<Self, AcceptError> {
        std::future::poll_fn(|cx| listener.poll_accept(cx)).await.map(Self)
    }

    /// Our address.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.0.local_address()
    }

    /// The other side's.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Ends it the hard way: the other side sees a reset.
    pub fn abort(self) {
        self.0.abort();
    }
}

impl From<Stream> for NetStream {
    fn from(stream: Stream) -> Self {
        Self(stream)
    }
}

impl AsyncRead for NetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        poll_read(&mut self.0.read, cx, buf)
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_write(&mut self.0.write, cx, data)
    }

    /// Written bytes are with the reader at once.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

fn poll_read(
    half: &mut ReadHalf,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    half.poll_read(cx, buf.remaining()).map(|outcome| {
        let bytes = outcome?;
        buf.put_slice(&bytes);
        Ok(())
    })
}

fn poll_write(half: &mut WriteHalf, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
    half.poll_write_slice(cx, data).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::net::{MemberLimits, NetConfig, NoLedger, PodNet};

    fn members() -> (PodNet, Member, Member) {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let join = |name| net.join(name, MemberLimits::default(), Arc::new(NoLedger));
        let (server, client) = (join("server"), join("client"));
        (net, server, client)
    }

    #[tokio::test]
    async fn a_megabyte_goes_through_and_back_and_both_ends_close() {
        let (_net, server, client) = members();
        let mut listener = server.listen("127.0.0.1:80".parse().unwrap()).unwrap();
        let echo = tokio::spawn(async move {
            let stream = NetStream::accept(&mut listener).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let stream = NetStream::connect(&client, "127.0.0.1:80".parse().unwrap()).await.unwrap();
        let sent: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let (mut read, mut write) = tokio::io::split(stream);
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        writer.await.unwrap();
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn errors_have_the_kind_that_programs_look_for() {
        let (_net, server, client) = members();
        let to = "127.0.0.1:80".parse().unwrap();
        let refused = NetStream::connect(&client, to).await.err();
        assert_eq!(refused, Some(ConnectError::Refused(to)));
        let mut listener = server.listen(to).unwrap();
        let mut near = NetStream::connect(&client, to).await.unwrap();
        NetStream::accept(&mut listener).await.unwrap().abort();
        let error = near.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut near = NetStream::connect(&client, to).await.unwrap();
        drop(NetStream::accept(&mut listener).await.unwrap());
        assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(near.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
