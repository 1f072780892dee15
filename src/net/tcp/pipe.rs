//! One direction of a connection: a bounded queue of byte chunks between one writer and one reader.
//!
//! Owns: the bytes on their way, the bound on them, and who is to be woken. A plain value: `conn`
//! puts it under a lock and wakes outside of that lock.
//! Is not: a ring. A chunk that comes in owned goes out as the same memory, uncopied; only small
//! writes that find others still waiting are gathered into one growing chunk, so that a thousand
//! one-byte writes cost no thousand allocations.
//!
//! ```text
//! write ─► [ chunk │ chunk │ … │ growing tail ] ─► read        buffered ≤ capacity, to the byte
//!            full ──► the writer waits until half of it is read, so that it wakes to real room
//! fin:    the writer is done; the reader gets the rest, then end of stream
//! reset:  one side died; the reader gets the rest, then a reset; writes fail
//! deaf:   the reader wants no more; what is written is thrown away while its other half lives
//! broken: the reader's whole side is gone; writes fail
//! ```
//! Memory: bytes are paid for by the writer's member, in steps of [`CHARGE_STEP`], and given back
//! as they are read.
//! Limits: `capacity`, the sum of the writer's send and the reader's receive buffer size.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Buf, Bytes, BytesMut};

use crate::net::member::MemberState;

/// Writes below this many bytes are gathered when others wait before them. At a page, the copy
/// costs less than what a chunk of its own does.
pub(crate) const GATHER_BELOW: usize = 4096;
/// The growing tail is made at least this large, and at most [`TAIL_MAX`]: it follows what is
/// buffered.
const TAIL_MIN: usize = 1024;
const TAIL_MAX: usize = 64 * 1024;
/// Memory is paid for in steps of this size, and given back when more than one step is unused:
/// small messages back and forth then never touch the ledger.
const CHARGE_STEP: usize = 4096;

/// Why a read failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The other side died, or closed with our bytes unread. (ECONNRESET)
    #[error("connection reset by the other side")]
    Reset,
}

/// Why a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Our own sending side was shut down. (EPIPE)
    #[error("the sending side is shut down")]
    Closed,
    /// The other side closed the connection for good. (EPIPE)
    #[error("connection closed by the other side")]
    Broken,
    /// The other side died. (ECONNRESET)
    #[error("connection reset by the other side")]
    Reset,
    /// The module's memory is used up, and nothing it waits for would free any. (ENOBUFS)
    #[error("no memory left for the bytes to send")]
    NoMemory,
}

/// What the reader finds.
#[derive(Debug)]
pub(crate) enum Inflow {
    /// Bytes to be had.
    Bytes,
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    buffered: usize,
    send_size: usize,
    receive_size: usize,
    charged: usize,
    payer: Arc<MemberState>,
    full: bool,
    fin: bool,
    reset: bool,
    deaf: bool,
    broken: bool,
    lost: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// An empty pipe whose bytes `payer` pays for. Allocates nothing.
    pub(crate) fn new(payer: Arc<MemberState>, send_size: usize, receive_size: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            buffered: 0,
            send_size,
            receive_size,
            charged: 0,
            payer,
            full: false,
            fin: false,
            reset: false,
            deaf: false,
            broken: false,
            lost: false,
            reader: None,
            writer: None,
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.send_size + self.receive_size
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffered
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.fin || self.reset
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.reset
    }

    /// Changes the writer's share of the capacity. What is buffered stays, even beyond a smaller
    /// bound.
    pub(crate) fn set_send_size(&mut self, size: usize) -> Option<Waker> {
        self.send_size = size;
        self.reconsider()
    }

    /// Changes the reader's share of the capacity.
    pub(crate) fn set_receive_size(&mut self, size: usize) -> Option<Waker> {
        self.receive_size = size;
        self.reconsider()
    }

    // ---- writer's side

    /// How many bytes a write may bring now; 0 means wait.
    pub(crate) fn room(&self) -> Result<usize, WriteError> {
        if self.reset {
            Err(WriteError::Reset)
        } else if self.fin {
            Err(WriteError::Closed)
        } else if self.broken {
            Err(WriteError::Broken)
        } else if self.deaf {
            Ok(self.capacity())
        } else if self.full {
            Ok(0)
        } else {
            Ok(self.capacity().saturating_sub(self.buffered))
        }
    }

    /// Takes up to `wanted` bytes' worth of room: how many may be stored (or dropped, if nobody
    /// listens).
    fn admit(&mut self, wanted: usize) -> Result<usize, WriteError> {
        let n = self.room()?.min(wanted);
        if n == 0 || self.deaf {
            return Ok(n);
        }
        let after = self.buffered + n;
        if after > self.charged {
            let more = after.next_multiple_of(CHARGE_STEP) - self.charged;
            if !self.payer.charge(more) {
                // With bytes under way, their being read will free memory, so waiting is right.
                // With none, nothing would ever end the wait.
                if self.buffered == 0 {
                    return Err(WriteError::NoMemory);
                }
                self.full = true;
                return Ok(0);
            }
            self.charged += more;
        }
        Ok(n)
    }

    /// Takes as many bytes off the front of `data` as there is room for. 0 means wait.
    pub(crate) fn push(&mut self, data: &mut Bytes) -> Result<usize, WriteError> {
        let n = self.admit(data.len())?;
        if self.deaf {
            data.advance(n);
            self.lost |= n > 0;
        } else if n >= GATHER_BELOW || (n > 0 && self.buffered == 0) {
            self.seal_tail();
            self.chunks.push_back(data.split_to(n));
            self.stored(n);
        } else if n > 0 {
            self.gather(&data[..n]);
            data.advance(n);
            self.stored(n);
        }
        Ok(n)
    }

    /// The same for bytes that are only lent, which costs a copy.
    pub(crate) fn push_slice(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        let n = self.admit(data.len())?;
        if self.deaf {
            self.lost |= n > 0;
        } else if n >= GATHER_BELOW || (n > 0 && self.buffered == 0) {
            self.seal_tail();
            self.chunks.push_back(Bytes::copy_from_slice(&data[..n]));
            self.stored(n);
        } else if n > 0 {
            self.gather(&data[..n]);
            self.stored(n);
        }
        Ok(n)
    }

    fn stored(&mut self, n: usize) {
        self.buffered += n;
        self.full = self.buffered >= self.capacity();
    }

    fn gather(&mut self, data: &[u8]) {
        if self.tail.capacity() - self.tail.len() < data.len() {
            self.seal_tail();
            let size = self.buffered.clamp(TAIL_MIN, TAIL_MAX).max(data.len());
            self.tail = BytesMut::with_capacity(size);
        }
        self.tail.extend_from_slice(data);
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// The writer is done. Returns whoever waits: the reader for its end, and a writer whose socket
    /// was shut down by another handle.
    #[must_use]
    pub(crate) fn finish(&mut self) -> [Option<Waker>; 2] {
        self.fin = true;
        self.settle();
        [self.reader.take(), self.writer.take()]
    }

    // ---- reader's side

    /// What the reader would find.
    pub(crate) fn inflow(&self) -> Result<Inflow, ReadError> {
        if self.deaf {
            // Our own receiving side is shut: POSIX says end of file, whatever happens over there.
            Ok(Inflow::End)
        } else if self.buffered > 0 {
            Ok(Inflow::Bytes)
        } else if self.reset {
            Err(ReadError::Reset)
        } else if self.fin {
            Ok(Inflow::End)
        } else {
            Ok(Inflow::Nothing)
        }
    }

    /// Takes up to `max` bytes, uncopied, with the writer to be woken. Only to be called when there
    /// are bytes.
    pub(crate) fn pop(&mut self, max: usize) -> (Bytes, Option<Waker>) {
        let bytes = match self.chunks.front_mut() {
            Some(front) if front.len() > max => front.split_to(max),
            Some(_) => self.chunks.pop_front().unwrap_or_default(),
            None if self.tail.len() > max => self.tail.split_to(max).freeze(),
            // The whole tail goes, and with it its memory: a connection at rest holds none.
            None => std::mem::take(&mut self.tail).freeze(),
        };
        let waker = self.taken(bytes.len());
        (bytes, waker)
    }

    /// Copies out as many bytes as `into` holds.
    pub(crate) fn pop_into(&mut self, into: &mut [u8]) -> (usize, Option<Waker>) {
        let mut n = 0;
        while n < into.len() {
            let Some(front) = self.chunks.front_mut() else { break };
            let part = front.len().min(into.len() - n);
            front.copy_to_slice(&mut into[n..n + part]);
            n += part;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        let part = self.tail.len().min(into.len() - n);
        if part > 0 {
            self.tail.copy_to_slice(&mut into[n..n + part]);
            n += part;
            if self.tail.is_empty() {
                self.tail = BytesMut::new();
            }
        }
        (n, self.taken(n))
    }

    fn taken(&mut self, n: usize) -> Option<Waker> {
        self.buffered -= n;
        self.settle();
        self.reconsider()
    }

    /// Gives back what was paid beyond need: all of it at the end, and beyond one spare step before
    /// that.
    fn settle(&mut self) {
        let needed = self.buffered.next_multiple_of(CHARGE_STEP);
        let spare = if self.is_finished() { 0 } else { CHARGE_STEP };
        if self.charged > needed + spare {
            self.payer.release(self.charged - needed);
            self.charged = needed;
        }
    }

    /// Lets a waiting writer go on once half of the capacity is free.
    fn reconsider(&mut self) -> Option<Waker> {
        if self.buffered >= self.capacity() {
            self.full = true;
        } else if self.full && self.buffered <= self.capacity() / 2 {
            self.full = false;
            return self.writer.take();
        }
        None
    }

    /// The reader wants no more: what waits is thrown away. Returns whoever waits: the writer for
    /// its room, and a reader whose socket was shut down by another handle.
    #[must_use]
    pub(crate) fn deafen(&mut self) -> [Option<Waker>; 2] {
        self.deaf = true;
        self.discard();
        self.full = false;
        [self.reader.take(), self.writer.take()]
    }

    /// The reader's whole side is gone. Returns the writer, if it waits, and whether bytes were
    /// lost by it.
    #[must_use]
    pub(crate) fn break_off(&mut self) -> (Option<Waker>, bool) {
        self.broken = true;
        (self.writer.take(), self.lost)
    }

    /// One side died. The reader may still have what was written. Returns whoever waits.
    #[must_use]
    pub(crate) fn cut(&mut self) -> [Option<Waker>; 2] {
        self.reset = true;
        self.settle();
        [self.reader.take(), self.writer.take()]
    }

    fn discard(&mut self) {
        self.lost |= self.buffered > 0;
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        self.buffered = 0;
        self.payer.release(std::mem::take(&mut self.charged));
    }

    // ---- who waits

    pub(crate) fn wait_readable(&mut self, waker: &Waker) {
        remember(&mut self.reader, waker);
    }

    pub(crate) fn wait_writable(&mut self, waker: &Waker) {
        remember(&mut self.writer, waker);
    }

    pub(crate) fn wake_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }
}

/// Keeps `waker`, without a clone where the same one is kept already.
pub(crate) fn remember(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(kept) if kept.will_wake(waker) => {}
        Some(kept) => kept.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.payer.release(self.charged);
    }
}

#[cfg(test)]
#[path = "../tests/pipe.rs"]
mod tests;
