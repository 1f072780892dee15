//! A connection of the pod's network, as tokio's I/O traits see it.
//!
//! Owns: the translation, the way by the client's own socket where that is handed over (`net`'s `Wired`), giving up on a peer that takes nothing for too long, and letting a little wait for what is about to follow it. Is not: a
//! buffer; nothing is kept here.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::net::{Stream, Wired};

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
    way: Way,
    /// How long a write may find no room at all.
    patience: Duration,
    /// Since a write found no room.
    stalled: Option<Pin<Box<Sleep>>>,
    cork: Option<Arc<dyn Cork>>,
}

/// Where the bytes go.
#[derive(Debug)]
enum Way {
    /// The client has a socket of its own, and is about to hand it over.
    Awaited,
    /// The client's own socket.
    Wired(Wired),
    /// It has broken, and nobody has its place any more.
    Gone,
    Pipes,
}

impl NetIo {
    /// Wraps a connection; a write that finds no room for `patience` fails as timed out.
    #[must_use]
    pub fn new(stream: Stream, patience: Duration) -> Self {
        let way = if stream.comes_by_wire() { Way::Awaited } else { Way::Pipes };
        Self { stream, way, patience, stalled: None, cork: None }
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

    /// Waits for the client's socket, if there is to be one.
    fn poll_way(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.way, Way::Awaited) {
            self.way = ready!(self.stream.poll_wire(cx)).map_or(Way::Pipes, Way::Wired);
        }
        Poll::Ready(())
    }

    fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_way(cx));
        let outcome = match &mut self.way {
            Way::Wired(wired) => wired.poll_write(cx, parts),
            Way::Gone => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Way::Awaited | Way::Pipes => {
                self.stream.write.poll_write_parts(cx, parts).map_err(io::Error::from)
            }
        };
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| {
            if let Way::Wired(wired) = &mut self.way {
                // Else the kernel would keep what it has for a client that takes nothing.
                wired.abort();
            }
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
        ready!(self.poll_way(cx));
        // By way of the chunk and not of the room: that is not initialized, and filled in small part by most reads.
        let room = buf.remaining();
        match &mut self.way {
            Way::Wired(wired) => {
                return wired.poll_read(cx, room, &mut |data| buf.put_slice(data)).map_ok(|_| ());
            }
            Way::Gone => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Way::Awaited | Way::Pipes => {}
        }
        self.stream.read.poll_read(cx, room).map(|outcome| {
            buf.put_slice(&outcome?);
            Ok(())
        })
    }
}

impl AsyncWrite for NetIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waits_for_more(parts.iter().map(|part| part.len()).sum(), cx) {
            return Poll::Pending;
        }
        self.poll_write_parts(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Written bytes are with the reader at once. A server of HTTP flushes whenever it has a turn, also when it neither reads nor writes: a client that has
    /// broken the connection meanwhile has no place any more. The server hears of it when it reads or writes.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Way::Wired(wired) = &mut self.way
            && wired.poll_gone(cx).is_ready()
        {
            self.way = Way::Gone;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_way(cx));
        if let Way::Wired(wired) = &mut self.way {
            ready!(wired.poll_shutdown(cx))?;
        }
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
    use crate::net::{Member, MemberLimits, NetConfig, NoLedger, PodNet, Wire};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// More follows, or not.
    #[derive(Debug, Default)]
    struct Held(AtomicBool);

    impl Cork for Held {
        fn waits(&self, _: &Context<'_>) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A socket of the host's that says one thing, and nothing more, and takes nothing.
    #[derive(Debug)]
    struct Says {
        words: &'static [u8],
        is_gone: Arc<AtomicBool>,
        is_reset: Arc<AtomicBool>,
    }

    impl Wire for Says {
        fn poll_read(
            &mut self,
            _: &mut Context<'_>,
            max: usize,
            into: &mut dyn FnMut(&[u8]),
        ) -> Poll<io::Result<usize>> {
            let (said, rest) = self.words.split_at(max.min(self.words.len()));
            self.words = rest;
            into(said);
            Poll::Ready(Ok(said.len()))
        }

        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            _: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
            if self.is_gone.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
        }

        fn reset(&mut self) {
            self.is_reset.store(true, Ordering::Relaxed);
        }
    }

    /// The server's and the client's end of a connection that comes by wire, and those who must live as long.
    fn wired() -> (Stream, Stream, (PodNet, Member, Member)) {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let join = |name| net.join(name, MemberLimits::default(), Arc::new(NoLedger));
        let (server, host) = (join("server"), join("host"));
        let mut listener = server.listen("0.0.0.0:80".parse().unwrap()).unwrap();
        listener.take_wires();
        let mut connecting = host.connect_with_wire(None, "10.88.0.5:80".parse().unwrap()).unwrap();
        let Poll::Ready(Ok(serving)) = listener.try_accept() else { panic!("no connection") };
        let Poll::Ready(Ok(client)) = connecting.try_finish() else { panic!("no connection") };
        (serving, client, (net, server, host))
    }

    /// Leaves a socket with the server's end: whether it is gone, and whether it was reset.
    fn leave(client: Stream) -> (Arc<AtomicBool>, Arc<AtomicBool>) {
        let (is_gone, is_reset) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (gone, reset) = (Arc::clone(&is_gone), Arc::clone(&is_reset));
        let says = Says { words: b"question", is_gone, is_reset };
        assert!(client.hand_over(says, |says| Box::new(says)).is_ok());
        (gone, reset)
    }

    #[tokio::test(start_paused = true)]
    async fn a_clients_own_socket_is_used_whether_it_comes_before_the_server_looks_or_after() {
        for is_early in [true, false] {
            let (serving, client, (net, _server, _host)) = wired();
            let (mut io, reset);
            if is_early {
                (_, reset) = leave(client);
                io = NetIo::new(serving, Duration::from_secs(60));
            } else {
                io = NetIo::new(serving, Duration::from_secs(60));
                assert!(write(&mut io, &[b"nobody hears"]).is_pending());
                (_, reset) = leave(client);
            }
            let mut heard = String::new();
            io.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "question");
            io.shutdown().await.unwrap();
            assert_eq!(net.buffered_bytes(), 0);
            drop(io);
            assert!(!reset.load(Ordering::Relaxed));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_for_too_long_is_reset() {
        let (serving, client, _members) = wired();
        let (_, reset) = leave(client);
        let mut io = NetIo::new(serving, Duration::from_secs(60));
        let error = io.write_all(b"answer").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(io);
        assert!(reset.load(Ordering::Relaxed), "the kernel would keep the rest for it");
    }

    #[tokio::test]
    async fn a_client_that_breaks_off_has_no_socket_any_more_before_the_server_looks() {
        let (serving, client, (_net, server, _host)) = wired();
        let (gone, _) = leave(client);
        let mut io = NetIo::new(serving, Duration::from_secs(60));
        assert_eq!(io.read_u8().await.unwrap(), b'q');
        io.flush().await.unwrap();
        assert_eq!(Arc::strong_count(&gone), 2);
        gone.store(true, Ordering::Relaxed);
        io.flush().await.unwrap();
        assert_eq!(Arc::strong_count(&gone), 1, "it was let go");
        let error = io.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(io.write_all(b"answer").await.is_err());
        assert_eq!(server.counters().resets, 1);
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
