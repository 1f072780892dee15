//! One direction of a connection: a bounded queue of byte chunks between one writer and one reader.
//!
//! Owns: the bytes on their way, the bound on them, and who is to be woken. A plain value: `conn`
//! puts it under a lock and wakes outside of that lock.
//! Is not: a ring. A chunk that comes in owned goes out as the same memory, uncopied; only small
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
//! Memory: what is held is paid for by the writer's member (and after its death by the reader's), in
//! steps of [`CHARGE_STEP`], and given back as it goes. A chunk goes as a whole: one that is read but
//! for its last byte is still held, and paid for; so is what the tail has room for. At rest nothing
//! is held but this struct and at most [`CHUNKS_KEPT`] places for chunks.
//! Limits: `capacity`, the sum of the writer's send and the reader's receive buffer size.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
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

    // ---- writer's side

    /// How many bytes a write may bring now; 0 means wait.
    pub(crate) fn room(&self) -> Result<usize, WriteError> {
        if self.reset && !self.writer_told {
            Err(WriteError::Reset)
        } else if self.closed {
            Err(WriteError::Closed)
        } else if self.broken || self.reset {
            Err(WriteError::Broken)
        } else if self.deaf {
            Ok(self.capacity())
        } else if self.full {
            Ok(0)
        } else {
            Ok(self.capacity().saturating_sub(self.buffered))
        }
    }

    /// The same, and counts a reset as told.
    pub(crate) fn ask_room(&mut self) -> Result<usize, WriteError> {
        let room = self.room();
        self.writer_told |= self.reset;
        room
    }

    /// Takes up to `wanted` bytes' worth of room: how many may be stored (or dropped, if nobody
    /// listens).
    fn admit(&mut self, wanted: usize) -> Result<usize, WriteError> {
        let n = self.ask_room()?.min(wanted);
        if n == 0 || self.deaf {
            return Ok(n);
        }
        if self.afford(n) { Ok(n) } else { self.admit_least(n) }
    }

    /// Bytes of memory that are held: what waits, what goes with it, and what the tail has room for.
    fn held(&self) -> usize {
        self.buffered + self.spent + (self.tail.capacity() - self.tail.len())
    }

    /// Pays for `more` bytes beyond what is held, if they are to be had.
    fn afford(&mut self, more: usize) -> bool {
        let after = self.held() + more;
        if after <= self.charged {
            return true;
        }
        let price = after.next_multiple_of(CHARGE_STEP) - self.charged;
        let paid = self.payer.charge(price);
        if paid {
            self.charged += price;
        }
        paid
    }

    /// The same where there is no memory for all of it: a window is made as small as it can be.
    fn admit_least(&mut self, wanted: usize) -> Result<usize, WriteError> {
        // With bytes under way, their being read will free memory, so waiting is right.
        if self.buffered > 0 {
            self.full = true;
            return Ok(0);
        }
        if self.charged == 0 {
            if !self.payer.charge(CHARGE_STEP) {
                // Nothing would ever end a wait. What others send is no call of the payer's, and ends it not.
                if self.own {
                    self.payer.missed(CHARGE_STEP);
                }
                return Err(WriteError::NoMemory);
            }
            self.charged = CHARGE_STEP;
        }
        Ok(wanted.min(self.charged))
    }

    /// Takes as many bytes off the front of `data` as there is room for. 0 means wait.
    pub(crate) fn push(&mut self, data: &mut Bytes) -> Result<usize, WriteError> {
        let n = self.admit(data.len())?;
        if self.deaf {
            data.advance(n);
            self.lost |= n > 0;
        } else if n >= GATHER_BELOW || (n > 0 && self.buffered == 0) {
            // A part of a block would keep all of it in memory.
            let chunk = if n < data.len() {
                let copy = Bytes::copy_from_slice(&data[..n]);
                data.advance(n);
                copy
            } else {
                std::mem::take(data)
            };
            self.store(chunk);
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
            self.store(Bytes::copy_from_slice(&data[..n]));
        } else if n > 0 {
            self.gather(&data[..n]);
            self.stored(n);
        }
        Ok(n)
    }

    /// The same for the parts of one write, one after the other.
    pub(crate) fn push_parts(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, WriteError> {
        let mut total = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            // What goes wrong with the first part goes wrong with the whole; a later one finds bytes under way, and waits.
            let n = self.push_slice(part)?;
            total += n;
            if n < part.len() {
                break;
            }
        }
        Ok(total)
    }

    fn store(&mut self, chunk: Bytes) {
        let n = chunk.len();
        self.seal_tail();
        self.append(chunk);
        self.stored(n);
    }

    fn append(&mut self, chunk: Bytes) {
        if self.front.is_empty() {
            self.front = chunk;
        } else {
            self.chunks.push_back(chunk);
        }
    }

    fn stored(&mut self, n: usize) {
        self.buffered += n;
        self.full = self.buffered >= self.capacity();
        self.settle();
    }

    fn gather(&mut self, data: &[u8]) {
        if self.tail.capacity() - self.tail.len() < data.len() {
            self.seal_tail();
            let size = self.buffered.clamp(TAIL_MIN, TAIL_MAX);
            let size = size.min(self.capacity().saturating_sub(self.buffered)).max(data.len());
            // Where there is no memory for room to grow, it is as large as what comes, which is paid for.
            let size = if self.afford(size) { size } else { data.len() };
            self.tail = BytesMut::with_capacity(size);
        }
        self.tail.extend_from_slice(data);
    }

    /// The tail grows no more. What it has room for goes, unless that is little.
    fn seal_tail(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        if tail.is_empty() {
            return;
        }
        let roomy = tail.capacity() - tail.len() > tail.len() / SPARE_PART;
        let chunk = if roomy {
            if self.front.is_empty() {
                // It was the first chunk, and its own beginning is gone with its room.
                self.spent = 0;
            }
            Bytes::copy_from_slice(&tail)
        } else {
            tail.freeze()
        };
        self.append(chunk);
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

    /// The writer is gone: `heir`, the reader's member, pays for what is left. `Some` if it cannot:
    /// then all of it is lost, and whoever waits is returned.
    #[must_use]
    pub(crate) fn hand_over(&mut self, heir: &Arc<MemberState>) -> Option<[Option<Waker>; 2]> {
        if self.charged == 0 || Arc::ptr_eq(&self.payer, heir) {
            return None;
        }
        let charged = std::mem::take(&mut self.charged);
        self.payer.release(charged);
        self.payer = Arc::clone(heir);
        if self.payer.charge(charged) {
            self.charged = charged;
            return None;
        }
        self.discard();
        Some(self.cut())
    }

    // ---- reader's side

    /// What the reader would find.
    pub(crate) fn inflow(&self) -> Inflow {
        if self.deaf {
            // Our own receiving side is shut: POSIX says end of file, whatever happens over there.
            Inflow::End
        } else if self.buffered > self.withheld {
            Inflow::Bytes
        } else if self.reset && !self.reader_told {
            Inflow::Reset
        } else if self.reset || (self.fin && self.withheld == 0) {
            Inflow::End
        } else {
            Inflow::Nothing
        }
    }

    /// The reader has been told of the reset.
    pub(crate) fn tell_reader(&mut self) {
        self.reader_told = true;
    }

    /// Takes up to `max` bytes, with the writer to be woken. Whole chunks are not copied; a part of one is, since it would keep all
    /// of the chunk in memory for as long as somebody holds it, paid for by nobody. Only to be called when there are bytes.
    pub(crate) fn pop(&mut self, max: usize) -> (Bytes, Option<Waker>) {
        let memory = match self.front.len() {
            0 => self.tail.capacity() - self.tail.len() / SPARE_PART,
            len => len,
        } + self.spent;
        let (bytes, waker) = self.take(max);
        (if bytes.len() < memory { Bytes::copy_from_slice(&bytes) } else { bytes }, waker)
    }

    /// Takes up to `max` bytes off the first chunk, uncopied, with the writer to be woken.
    fn take(&mut self, max: usize) -> (Bytes, Option<Waker>) {
        let max = max.min(self.buffered - self.withheld);
        let bytes = if self.front.len() > max {
            self.spent += max;
            self.front.split_to(max)
        } else if !self.front.is_empty() {
            self.spent = 0;
            let next = self.chunks.pop_front().unwrap_or_default();
            std::mem::replace(&mut self.front, next)
        } else if self.tail.len() > max {
            self.spent += max;
            self.tail.split_to(max).freeze()
        } else {
            // The whole tail goes, and with it its memory: a connection at rest holds none.
            self.spent = 0;
            std::mem::take(&mut self.tail).freeze()
        };
        let waker = self.taken(bytes.len());
        (bytes, waker)
    }

    /// Takes up to `max` bytes in up to `parts` chunks, uncopied, with the writer to be woken: for whoever lets go of them soon.
    /// Only to be called when there are bytes.
    pub(crate) fn pop_many(
        &mut self,
        max: usize,
        parts: usize,
        into: &mut VecDeque<Bytes>,
    ) -> (usize, Option<Waker>) {
        let (mut n, mut writer) = (0, None);
        for _ in 0..parts {
            if n == max || self.buffered == self.withheld {
                break;
            }
            let (bytes, waker) = self.take(max - n);
            n += bytes.len();
            writer = writer.or(waker);
            into.push_back(bytes);
        }
        (n, writer)
    }

    /// Copies out as many bytes as `into` holds.
    pub(crate) fn pop_into(&mut self, into: &mut [u8]) -> (usize, Option<Waker>) {
        let most = into.len().min(self.buffered - self.withheld);
        let mut n = 0;
        while n < most && !self.front.is_empty() {
            let part = self.front.len().min(most - n);
            self.front.copy_to_slice(&mut into[n..n + part]);
            n += part;
            self.spent += part;
            if self.front.is_empty() {
                self.front = self.chunks.pop_front().unwrap_or_default();
                self.spent = 0;
            }
        }
        if n < most {
            self.tail.copy_to_slice(&mut into[n..most]);
            self.spent += most - n;
            n = most;
            if self.tail.is_empty() {
                self.tail = BytesMut::new();
                self.spent = 0;
            }
        }
        (n, self.taken(n))
    }

    /// Copies out the first bytes, as many as `into` holds; they stay.
    pub(crate) fn peek_into(&self, into: &mut [u8]) -> usize {
        let most = into.len().min(self.buffered - self.withheld);
        let chunks = std::iter::once(&self.front[..]).chain(self.chunks.iter().map(|it| &it[..]));
        let mut rest = &mut into[..most];
        for chunk in chunks.chain(std::iter::once(&self.tail[..])) {
            let (part, after) = rest.split_at_mut(chunk.len().min(rest.len()));
            part.copy_from_slice(&chunk[..part.len()]);
            rest = after;
        }
        most
    }

    fn taken(&mut self, n: usize) -> Option<Waker> {
        self.buffered -= n;
        if self.buffered == 0 && self.chunks.capacity() > CHUNKS_KEPT {
            self.chunks = VecDeque::new();
        }
        self.settle();
        self.reconsider()
    }

    /// Gives back what was paid beyond need: all of it at the end, and beyond one spare step before
    /// that.
    fn settle(&mut self) {
        let needed = self.held().next_multiple_of(CHARGE_STEP);
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
        self.withheld = 0;
        self.settle();
        [self.reader.take(), self.writer.take()]
    }

    fn discard(&mut self) {
        if self.buffered == 0 && self.charged == 0 {
            return;
        }
        self.lost |= self.buffered > 0;
        self.front = Bytes::new();
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        self.spent = 0;
        self.buffered = 0;
        self.withheld = 0;
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
