//! One direction of a connection: a bounded queue of byte chunks between one writer and one reader.
//!
//! Owns: the bytes on their way, the bound on them, and who is to be woken. A plain value: `conn`
//! puts it under a lock and wakes outside of that lock.
//! Is not: a ring. A chunk that comes in owned and is taken whole goes out as the same memory, uncopied; only small
//! writes that find others still waiting are gathered into one growing chunk, so that a thousand
//! one-byte writes cost no thousand allocations.
//!
//! ```text
//! write ─► [ growing tail │ chunk │ … │ front ] ─► read      buffered ≤ capacity, to the byte
//!            full ──► the writer waits until half of it is read, so that it wakes to real room
//! fin:    the writer is done; the reader gets the rest, then end of stream
//! reset:  one side died; the reader gets the rest, then a reset, once; a write fails with it, once
//! deaf:   the reader wants no more; what is written is thrown away while its other half lives
//! broken: the reader's whole side is gone; writes fail
//! ```
//! The parts: `fill` (bytes come in), `drain` (bytes go out), `money` (who pays); here, its states and who waits.
//! Memory: what is held is paid for by the writer's member (and after its death by the reader's), in
//! steps of [`CHARGE_STEP`], and given back as it goes. A chunk goes as a whole: one that is read but
//! for its last byte is still held, and paid for; so is what the tail has room for. At rest nothing
//! is held but this struct and at most [`CHUNKS_KEPT`] places for chunks.
//! Limits: `capacity`, the sum of the writer's send and the reader's receive buffer size.

mod drain;
mod fill;
mod money;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use crate::net::member::MemberState;

/// Writes below this many bytes are gathered when others wait before them. At a page, the copy
/// costs less than what a chunk of its own does.
pub(crate) const GATHER_BELOW: usize = 4096;
/// The growing tail is made at least this large, and at most [`TAIL_MAX`]: it follows what is
/// buffered.
const TAIL_MIN: usize = 1024;
const TAIL_MAX: usize = 64 * 1024;
/// A tail that becomes a chunk may have room for one part in so many of what is in it.
const SPARE_PART: usize = 8;

/// Memory is paid for in steps of this size, and given back when more than one step is unused:
/// small messages back and forth then never touch the ledger.
const CHARGE_STEP: usize = 4096;
/// Places for chunks that an empty pipe keeps (32 bytes each): a program that writes a few blocks
/// at a time then does not allocate for the queue itself.
const CHUNKS_KEPT: usize = 4;

/// Why a read failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The other side died, or closed with our bytes unread. Told once; the end of the stream
    /// follows. (ECONNRESET)
    #[error("connection reset by the other side")]
    Reset,
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match error {
            ReadError::Reset => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, error)
    }
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
    /// The other side died. Told once; [`WriteError::Broken`] follows. (ECONNRESET)
    #[error("connection reset by the other side")]
    Reset,
    /// The module's memory is used up, and nothing it waits for would free any. (ENOBUFS)
    #[error("no memory left for the bytes to send")]
    NoMemory,
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match error {
            WriteError::Closed | WriteError::Broken => io::ErrorKind::BrokenPipe,
            WriteError::Reset => io::ErrorKind::ConnectionReset,
            WriteError::NoMemory => io::ErrorKind::OutOfMemory,
        };
        io::Error::new(kind, error)
    }
}

/// What the reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inflow {
    /// Bytes to be had.
    Bytes,
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
    /// The same, by a reset that the reader has not been told of.
    Reset,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    front: Bytes,
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes of the first chunk that were read already: they go when the rest of it does.
    spent: usize,
    buffered: usize,
    /// Of these, how many have not reached the reader (`faults`); always the last.
    withheld: usize,
    send_size: usize,
    receive_size: usize,
    charged: usize,
    payer: Arc<MemberState>,
    /// Whether it is the payer itself that writes.
    own: bool,
    full: bool,
    /// Nothing more is written.
    closed: bool,
    /// The reader knows.
    fin: bool,
    reset: bool,
    reader_told: bool,
    writer_told: bool,
    deaf: bool,
    broken: bool,
    lost: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// An empty pipe whose bytes `payer` pays for; `own` if it is the payer that writes. Allocates nothing.
    pub(crate) fn new(
        payer: Arc<MemberState>,
        own: bool,
        send_size: usize,
        receive_size: usize,
    ) -> Self {
        Self {
            front: Bytes::new(),
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            spent: 0,
            buffered: 0,
            withheld: 0,
            send_size,
            receive_size,
            charged: 0,
            payer,
            own,
            full: false,
            closed: false,
            fin: false,
            reset: false,
            reader_told: false,
            writer_told: false,
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
        self.closed || self.reset
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

    /// The writer is done, and knows it before the reader does. Returns a writer that waits: its
    /// socket was shut down by another handle.
    #[must_use]
    pub(crate) fn close(&mut self) -> Option<Waker> {
        self.closed = true;
        self.settle();
        self.writer.take()
    }

    /// The writer is done, and the reader learns it. Returns whoever waits.
    #[must_use]
    pub(crate) fn finish(&mut self) -> [Option<Waker>; 2] {
        self.fin = true;
        let writer = self.close();
        [self.reader.take(), writer]
    }

    /// The last `n` bytes written are on a long way. Returns nobody: there is nothing new to read.
    pub(crate) fn withhold(&mut self, n: usize) {
        if !self.deaf {
            self.withheld += n;
        }
    }

    /// The first `n` of the bytes withheld have come. Returns whoever waits for them.
    #[must_use]
    pub(crate) fn arrive(&mut self, n: usize) -> Option<Waker> {
        self.withheld = self.withheld.saturating_sub(n);
        self.reader.take()
    }

    /// The reader has been told of the reset.
    pub(crate) fn tell_reader(&mut self) {
        self.reader_told = true;
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
        self.withheld = 0;
        self.settle();
        [self.reader.take(), self.writer.take()]
    }

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
