//! The reader's side of a pipe: bytes go out.
//!
//! Owns: what the reader finds, and in which form it gets it. Is not: how the pipe ends (the parent module).

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Buf as _, Bytes, BytesMut};

use super::{CHUNKS_KEPT, Inflow, Pipe, SPARE_PART};

impl Pipe {
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
}
