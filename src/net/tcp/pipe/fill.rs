//! The writer's side of a pipe: bytes come in.
//!
//! Owns: how many are taken, and in which chunk they wait. Is not: who pays for them (`money`).

use std::io::IoSlice;

use bytes::{Buf as _, Bytes, BytesMut};

use super::{GATHER_BELOW, Pipe, SPARE_PART, TAIL_MAX, TAIL_MIN, WriteError};

impl Pipe {
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
}
