//! A connection of the pod's network, as tokio's I/O traits see it.
//!
//! Owns: the translation, giving up on a peer that takes nothing for too long, and letting a little wait for what is about to follow it. Is not: a
//! buffer; nothing is kept here.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::net::{Stream, WriteError};

/// Bytes that are worth going out by themselves.
const CORKED_BYTES: usize = 4096;

/// Who knows whether more is about to be written: then a little waits for it. Whoever reads is woken for all of it and not for each part, and on its way out
/// it is one packet.
pub(crate) trait Cork: fmt::Debug + Send + Sync {
    /// Whether a little is to wait now; if so, `cx` is woken when it is to wait no longer.
    fn waits(&self, cx: &Context<'_>) -> bool;
}

/// See the header. Dropping it closes the connection in order.
#[derive(Debug)]
pub struct NetIo {
    stream: Stream,
    /// How long a write may find no room at all.
    patience: Duration,
    /// Since a write found no room.
    stalled: Option<Pin<Box<Sleep>>>,
    cork: Option<Arc<dyn Cork>>,
}

impl NetIo {
    /// Wraps a connection; a write that finds no room for `patience` fails as timed out.
    #[must_use]
    pub fn new(stream: Stream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None, cork: None }
    }

    /// Lets a little of what is written wait for more, as `cork` says.
    #[must_use]
    pub(crate) fn corked_by(self, cork: Arc<dyn Cork>) -> Self {
        Self { cork: Some(cork), ..self }
    }

    /// Whether so many bytes wait.
    fn waits_for_more(&self, bytes: usize, cx: &Context<'_>) -> bool {
        bytes < CORKED_BYTES && self.cork.as_ref().is_some_and(|cork| cork.waits(cx))
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
        // By way of the chunk and not of the room: that is not initialized, and filled in small part by most reads.
        self.stream.read.poll_read(cx, buf.remaining()).map(|outcome| {
            buf.put_slice(&outcome?);
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
        if self.waits_for_more(data.len(), cx) {
            return Poll::Pending;
        }
        let outcome = self.stream.write.poll_write_slice(cx, data);
        self.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waits_for_more(parts.iter().map(|part| part.len()).sum(), cx) {
            return Poll::Pending;
        }
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

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::net::{Member, MemberLimits, NetConfig, NoLedger, PodNet};

    /// More follows, or not.
    #[derive(Debug, Default)]
    struct Held(AtomicBool);

    impl Cork for Held {
        fn waits(&self, _: &Context<'_>) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A server's end under `cork`, its client's, and those who must live as long.
    fn connection(cork: &Arc<Held>) -> (NetIo, Stream, (Member, Member)) {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let join = |name| net.join(name, MemberLimits::default(), Arc::new(NoLedger));
        let (server, client) = (join("server"), join("client"));
        let mut listener = server.listen("127.0.0.1:80".parse().unwrap()).unwrap();
        let mut connecting = client.connect("127.0.0.1:80".parse().unwrap()).unwrap();
        let Poll::Ready(Ok(asking)) = connecting.try_finish() else { panic!("no connection") };
        let Poll::Ready(Ok(serving)) = listener.try_accept() else { panic!("no connection") };
        let io = NetIo::new(serving, Duration::from_secs(60));
        let io = io.corked_by(Arc::clone(cork) as Arc<dyn Cork>);
        (io, asking, (server, client))
    }

    fn write(io: &mut NetIo, parts: &[&[u8]]) -> Poll<io::Result<usize>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        Pin::new(io).poll_write_vectored(&mut cx, &parts)
    }

    fn read(client: &mut Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Poll::Ready(Ok(chunk)) = client.read.try_read(1000)
            && !chunk.is_empty()
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    #[tokio::test]
    async fn a_little_waits_for_what_follows_and_much_does_not() {
        let cork = Arc::<Held>::default();
        let (mut io, mut client, _members) = connection(&cork);
        assert!(matches!(write(&mut io, &[b"answer"]), Poll::Ready(Ok(6))));
        assert_eq!(read(&mut client), b"answer");
        cork.0.store(true, Ordering::Relaxed);
        assert!(write(&mut io, &[b"head"]).is_pending());
        assert!(read(&mut client).is_empty());
        let much = [b'm'; CORKED_BYTES];
        assert!(matches!(write(&mut io, &[b"head", &much]), Poll::Ready(Ok(_))));
        assert!(read(&mut client).len() > CORKED_BYTES);
        cork.0.store(false, Ordering::Relaxed);
        assert!(matches!(write(&mut io, &[b"end"]), Poll::Ready(Ok(3))));
        assert_eq!(read(&mut client), b"end");
    }
}
