//! A connection of the pod's network, as tokio's I/O traits see it.
//!
//! Owns: the translation, and giving up on a peer that takes nothing for too long. Is not: a buffer; nothing is kept here.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::net::{Stream, WriteError};

/// See the header. Dropping it closes the connection in order.
#[derive(Debug)]
pub struct NetIo {
    stream: Stream,
    /// How long a write may find no room at all.
    patience: Duration,
    /// Since a write found no room.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl NetIo {
    /// Wraps a connection; a write that finds no room for `patience` fails as timed out.
    #[must_use]
    pub fn new(stream: Stream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    /// Our address.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_address()
    }

    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<Result<usize, WriteError>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(outcome) = outcome {
            self.stalled = None;
            return Poll::Ready(outcome.map_err(io::Error::from));
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing any more"))
        })
    }
}

impl AsyncRead for NetIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let into = buf.initialize_unfilled();
        self.stream.read.poll_read_into(cx, into).map(|outcome| {
            let count = outcome?;
            buf.advance(count);
            Ok(())
        })
    }
}

impl AsyncWrite for NetIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.stream.write.poll_write_slice(cx, data);
        self.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.stream.write.poll_write_parts(cx, parts);
        self.wrote(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Written bytes are with the reader at once.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
