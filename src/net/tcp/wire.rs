//! A socket of the host's that the server's end of a connection reads and writes itself.
//!
//! ```text
//!  client ──kernel──► carried: recv ─► pipe ─► server, and back: four turns, two copies
//!                     handed over: server ─► recv, writev
//! ```
//! A client from outside the pod is a kernel's socket in somebody's hands, who carries its bytes into
//! our pipes. Where the server is the host itself (it speaks HTTP for a module), it may as well have
//! the socket: then the pipes stay empty, and both ends only stand for the connection, with its
//! addresses, its place in the socket table, and the counters.
//! Owns: the place where the socket is left for the server, and counting what goes through it on both
//! ends; and that a server whose module died is a reset to the client, a client that broke one to the
//! module. Is not: the socket ([`Wire`]).
//!
//! ```text
//! Awaited ──hand_over──► Here ──poll_wire──► Over
//!    └── either end goes ──┴───────────────► Over     (a socket that nobody has taken is dropped)
//! ```
//! Only between a listener that asks for wires ([`Listener::take_wires`]) and a client that has one
//! ([`Member::connect_with_wire`]), and never where faults are ordered, which the pipes suffer.
//! Locks: the slot's is a leaf; nothing is dropped and nobody woken with it held.
//!
//! [`Listener::take_wires`]: super::listener::Listener::take_wires
//! [`Member::connect_with_wire`]: crate::net::Member::connect_with_wire

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use super::halves::Stream;
use super::pipe::remember;
use crate::net::lock;

/// A socket of the host's. Dropping it ends the connection there, in order unless told otherwise.
pub trait Wire: fmt::Debug + Send {
    /// Gives `into` what has come, at most `max` bytes of it, and says how many: none is the end.
    ///
    /// # Errors
    /// The operating system's; the connection is broken.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        into: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>>;

    /// Sends what it takes of `parts`, and says how many bytes.
    ///
    /// # Errors
    /// The operating system's; the connection is broken.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Says that no more will be sent.
    ///
    /// # Errors
    /// The operating system's; the connection is broken.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready once the other side has broken the connection, also while nobody reads or writes.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Dropping it is to be a reset.
    fn reset(&mut self);
}

/// Where a client leaves its wire.
#[derive(Debug)]
pub(super) struct WireSlot(Mutex<Slot>);

#[derive(Debug)]
enum Slot {
    Awaited(Option<Waker>),
    Here(Wired),
    Over,
}

impl WireSlot {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Slot::Awaited(None)))
    }

    /// Leaves here what `wired` makes of `parts`, unless the server is gone.
    fn put<T>(&self, parts: T, wired: impl FnOnce(T) -> Wired) -> Result<(), T> {
        let mut slot = lock(&self.0);
        let Slot::Awaited(waker) = &mut *slot else { return Err(parts) };
        let waker = waker.take();
        *slot = Slot::Here(wired(parts));
        drop(slot);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Wired>> {
        let mut slot = lock(&self.0);
        if let Slot::Awaited(waker) = &mut *slot {
            remember(waker, cx.waker());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *slot, Slot::Over) {
            Slot::Here(wired) => Poll::Ready(Some(wired)),
            Slot::Awaited(_) | Slot::Over => Poll::Ready(None),
        }
    }

    /// One end is gone. What is here is dropped, which is what keeps the connection from keeping
    /// itself: the client's end is in it.
    pub(super) fn close(&self) {
        let before = std::mem::replace(&mut *lock(&self.0), Slot::Over);
        match before {
            Slot::Awaited(waker) => waker.into_iter().for_each(Waker::wake),
            Slot::Here(wired) => drop(wired),
            Slot::Over => {}
        }
    }
}

impl Stream {
    /// Whether the client's socket is handed over, or may yet be: then [`Stream::poll_wire`] comes
    /// before any byte.
    #[must_use]
    pub fn comes_by_wire(&self) -> bool {
        self.read.end().wire().is_some()
    }

    /// Leaves the client's end to the server's, with the socket that it stands for; `wire` only wraps
    /// that.
    ///
    /// # Errors
    /// The server's end is gone, or wants none: here are both again.
    pub fn hand_over<T>(
        self,
        socket: T,
        wire: impl FnOnce(T) -> Box<dyn Wire>,
    ) -> Result<(), (Self, T)> {
        let end = Arc::clone(self.read.end());
        let Some(slot) = end.wire() else { return Err((self, socket)) };
        slot.put((self, socket), |(client, socket)| Wired { socket: wire(socket), client })
    }

    /// What the client has handed over; `None`: nothing, and bytes go through this end.
    pub fn poll_wire(&mut self, cx: &mut Context<'_>) -> Poll<Option<Wired>> {
        self.read.end().wire().map_or(Poll::Ready(None), |slot| slot.poll_take(cx))
    }
}

/// The host's socket, in the hands of the server's end; and the client's end, which stands for it.
#[derive(Debug)]
pub struct Wired {
    socket: Box<dyn Wire>,
    client: Stream,
}

impl Wired {
    /// As [`Wire::poll_read`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        into: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let read = self.socket.poll_read(cx, max, into);
        let n = ready!(self.noted(read))?;
        match n {
            0 => self.client.shutdown_write(),
            n => self.client.read.end().count_wired(n, 0),
        }
        Poll::Ready(Ok(n))
    }

    /// As [`Wire::poll_write`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.socket.poll_write(cx, parts);
        let n = ready!(self.noted(written))?;
        self.client.read.end().count_wired(0, n);
        Poll::Ready(Ok(n))
    }

    /// As [`Wire::poll_shutdown`]. The server's end is shut down by whoever has it.
    ///
    /// # Errors
    /// As there.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.socket.poll_shutdown(cx);
        self.noted(shut)
    }

    /// As [`Wire::poll_gone`].
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.socket.poll_gone(cx));
        self.abort();
        Poll::Ready(())
    }

    /// The connection is broken: dropping this resets the client, and the module has seen a reset.
    pub fn abort(&mut self) {
        self.client.read.end().abort();
    }

    fn noted<T>(&mut self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &outcome {
            self.abort();
        }
        outcome
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        // The pipes are empty, so nothing but an abort of one of both ends does this.
        if lock(self.client.read.end().incoming()).is_reset() {
            self.socket.reset();
        }
    }
}

#[cfg(test)]
#[path = "../tests/wire.rs"]
mod tests;
