//! The halves through which one end of a connection is used.
//!
//! Owns: reading and writing as calls that return at once, with or without a waker left behind, and
//! the counters of the member that calls. Is not: what closing means (`conn`). `try_*` never stores
//! a waker; `poll_*` stores one, the last caller's, per direction.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::conn::End;
use super::pipe::{Inflow, Pipe, ReadError, WriteError};
use crate::net::lock;
use crate::net::member::Held;

/// The receiving half of a connection.
#[derive(Debug)]
pub struct ReadHalf(Arc<End>);

impl ReadHalf {
    pub(crate) fn new(end: Arc<End>) -> Self {
        Self(end)
    }

    /// Takes up to `max` bytes without copying them. `Ready(Ok(empty))` is the end of the stream
    /// (or `max` is 0); `Pending` means nothing yet, and registers nobody.
    pub fn try_read(&mut self, max: usize) -> Poll<Result<Bytes, ReadError>> {
        self.take(None, |pipe| pipe.pop(max))
    }

    /// The same, and wakes `cx` when there is more to say.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Bytes, ReadError>> {
        self.take(Some(cx), |pipe| pipe.pop(max))
    }

    /// Takes up to `max` bytes in at most `parts` chunks, without copying them, and appends them to `into`. `Ready(Ok(0))` is the end of
    /// the stream (or `max` or `parts` is 0). Wakes `cx` when there is more to say.
    pub fn poll_read_many(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        parts: usize,
        into: &mut VecDeque<Bytes>,
    ) -> Poll<Result<usize, ReadError>> {
        self.take(Some(cx), |pipe| pipe.pop_many(max, parts, into))
    }

    /// Copies up to `into.len()` bytes out. `Ready(Ok(0))` is the end of the stream (or `into` is
    /// empty).
    pub fn try_read_into(&mut self, into: &mut [u8]) -> Poll<Result<usize, ReadError>> {
        self.take(None, |pipe| pipe.pop_into(into))
    }

    /// The same, and wakes `cx` when there is more to say.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, ReadError>> {
        self.take(Some(cx), |pipe| pipe.pop_into(into))
    }

    /// Ready once a read has something to say: bytes, the end, or an error.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pipe = lock(self.0.incoming());
        if pipe.inflow() == Inflow::Nothing {
            pipe.wait_readable(cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Whether a read would find the end of the stream, and not for want of bytes. Takes nothing.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        lock(self.0.incoming()).inflow() == Inflow::End
    }

    /// Whether the other side has yet to read what was written here.
    pub(crate) fn is_unheard(&self) -> bool {
        lock(self.0.outgoing()).buffered() > 0
    }

    /// Copies out what a read would give, up to `into.len()` bytes, and leaves it there. `Pending`
    /// registers `cx` if there is one.
    pub fn peek_into(
        &mut self,
        cx: Option<&mut Context<'_>>,
        into: &mut [u8],
    ) -> Poll<Result<usize, ReadError>> {
        let pipe = std::task::ready!(self.inflow(cx))?;
        Poll::Ready(Ok(pipe.map_or(0, |pipe| pipe.peek_into(into))))
    }

    /// The pipe, once there are bytes in it; `None` at the end.
    fn inflow(
        &self,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<Option<MutexGuard<'_, Pipe>>, ReadError>> {
        let mut pipe = lock(self.0.incoming());
        match pipe.inflow() {
            Inflow::Bytes => Poll::Ready(Ok(Some(pipe))),
            Inflow::End => Poll::Ready(Ok(None)),
            Inflow::Nothing => {
                if let Some(cx) = cx {
                    pipe.wait_readable(cx.waker());
                }
                Poll::Pending
            }
            Inflow::Reset => {
                pipe.tell_reader();
                Poll::Ready(Err(ReadError::Reset))
            }
        }
    }

    fn take<T: Taken>(
        &mut self,
        cx: Option<&mut Context<'_>>,
        pop: impl FnOnce(&mut Pipe) -> (T, Option<Waker>),
    ) -> Poll<Result<T, ReadError>> {
        let Some(mut pipe) = std::task::ready!(self.inflow(cx))? else {
            return Poll::Ready(Ok(T::default()));
        };
        let (taken, waker) = pop(&mut pipe);
        drop(pipe);
        wake(waker);
        self.0.count_received(taken.amount());
        Poll::Ready(Ok(taken))
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.0.let_go(End::shut_read);
    }
}

/// What a read can hand out.
trait Taken: Default {
    fn amount(&self) -> usize;
}

impl Taken for Bytes {
    fn amount(&self) -> usize {
        self.len()
    }
}

impl Taken for usize {
    fn amount(&self) -> usize {
        *self
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct WriteHalf(Arc<End>);

impl WriteHalf {
    pub(crate) fn new(end: Arc<End>) -> Self {
        Self(end)
    }

    /// How many bytes a write would take now. `Pending` means none, and registers nobody.
    pub fn try_writable(&mut self) -> Poll<Result<usize, WriteError>> {
        match lock(self.0.outgoing()).ask_room() {
            Ok(0) => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    /// The same, and wakes `cx` once half of the capacity is free.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, WriteError>> {
        let mut pipe = lock(self.0.outgoing());
        match pipe.ask_room() {
            Ok(0) => {
                pipe.wait_writable(cx.waker());
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }

    /// Ready once nobody reads there any more: the other side is closed for good, or died. For
    /// whoever has nothing to write and wants to know.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pipe = lock(self.0.outgoing());
        if pipe.is_finished() || pipe.is_broken() {
            return Poll::Ready(());
        }
        pipe.wait_writable(cx.waker());
        Poll::Pending
    }

    /// Ready once a write has something to say: room, or an error, which it does not take away.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pipe = lock(self.0.outgoing());
        if pipe.room() == Ok(0) {
            pipe.wait_writable(cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Moves bytes off the front of `data` into the connection, without copying large ones, and
    /// says how many. `Pending` means no room, and registers nobody. Writing nothing writes
    /// nothing.
    pub fn try_write(&mut self, data: &mut Bytes) -> Poll<Result<usize, WriteError>> {
        let empty = data.is_empty();
        self.put(None, empty, |pipe| pipe.push(data))
    }

    /// The same, and wakes `cx` once half of the capacity is free.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<usize, WriteError>> {
        let empty = data.is_empty();
        self.put(Some(cx), empty, |pipe| pipe.push(data))
    }

    /// Copies bytes into the connection.
    pub fn try_write_slice(&mut self, data: &[u8]) -> Poll<Result<usize, WriteError>> {
        self.put(None, data.is_empty(), |pipe| pipe.push_slice(data))
    }

    /// The same, and wakes `cx` once half of the capacity is free.
    pub fn poll_write_slice(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        self.put(Some(cx), data.is_empty(), |pipe| pipe.push_slice(data))
    }

    /// The same for several parts in a row: the reader is woken once, for all of them.
    pub fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, WriteError>> {
        let empty = parts.iter().all(|part| part.is_empty());
        self.put(Some(cx), empty, |pipe| pipe.push_parts(parts))
    }

    fn put(
        &mut self,
        cx: Option<&mut Context<'_>>,
        empty: bool,
        push: impl FnOnce(&mut Pipe) -> Result<usize, WriteError>,
    ) -> Poll<Result<usize, WriteError>> {
        // Held until the bytes' place behind earlier ones is settled.
        let mut way = self.0.link().map(|(link, side)| link.way(side));
        let mut pipe = lock(self.0.outgoing());
        let n = push(&mut pipe)?;
        if n == 0 {
            if empty {
                return Poll::Ready(Ok(0));
            }
            if let Some(cx) = cx {
                pipe.wait_writable(cx.waker());
            }
            return Poll::Pending;
        }
        let mut severed = false;
        let late = way.as_mut().is_some_and(|way| way.carry(n, &mut severed));
        let waker = if late {
            pipe.withhold(n);
            None
        } else {
            pipe.wake_reader()
        };
        drop(pipe);
        drop(way);
        wake(waker);
        self.0.count_sent(n);
        if severed {
            self.0.conn().sever();
        }
        Poll::Ready(Ok(n))
    }
}

impl WriteHalf {
    /// Pays for bytes that whoever writes here keeps until there is room. `None`: there is no memory for them.
    pub(crate) fn hold(&self, bytes: usize) -> Option<Held> {
        self.0.hold(bytes)
    }

    /// Ends the whole connection the hard way: the other side sees a reset.
    pub fn abort(&mut self) {
        self.0.abort();
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.let_go(End::shut_write);
    }
}

/// Both halves of a connection.
#[derive(Debug)]
pub struct Stream {
    /// The receiving half.
    pub read: ReadHalf,
    /// The sending half.
    pub write: WriteHalf,
}

impl Stream {
    pub(crate) fn new(end: Arc<End>) -> Self {
        Self { read: ReadHalf::new(Arc::clone(&end)), write: WriteHalf::new(end) }
    }

    /// Our address.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.read.0.local_address()
    }

    /// The other side's address.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.read.0.remote_address()
    }

    /// Sends a FIN; reading goes on.
    pub fn shutdown_write(&mut self) {
        self.write.0.shut_write();
    }

    /// Ends the connection the hard way: the other side sees a reset.
    pub fn abort(self) {
        self.read.0.abort();
    }

    /// The halves, to be used from two places.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
