//! What modules print: lines in a bounded ring, one ring for each run.
//!
//! Owns: splitting output into lines, bounding it in size and in time, waking readers. What a ring holds is on the pod's memory account. Not: serving it (`server` and `play` read it through
//! [`LogSource`]), and never writing it to flash. The writer is the guest's own thread and never waits: when the ring is full the oldest lines go, counted.
//!
//! ```text
//!  PodLogs ── container ─► current LogRing ◄── write() by the guest
//!                          previous LogRing     read(from) by followers, woken through a watch
//! ```

mod pace;
mod rings;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::board::logs::{LogChunk, LogCursor, LogLine, LogSource, LogStream};
use crate::clock::{Clock, Timestamp};
use crate::lifecycle::Attempt;
use crate::limits::{LOG_BYTES_PER_SECOND, LOG_LINE_BYTES_MAX, LOG_RING_BYTES_MAX};
use crate::runtime::{self, LogSink, PodAccount};
use pace::Pace;

pub use pace::Dropped;
pub use rings::PodLogs;

/// What one line costs beside its bytes, so that a flood of empty lines is bounded too.
const LINE_OVERHEAD_BYTES: usize = size_of::<LogLine>() + 16;

/// Bytes taken with the ring locked once: a module may hand over megabytes of empty lines, and whoever reads them waits meanwhile.
const WRITE_AT_ONCE: usize = 64 << 10;

#[derive(Debug)]
struct Lines {
    kept: VecDeque<LogLine>,
    /// Sequence number of the first kept line.
    first: u64,
    bytes: usize,
    /// Unfinished lines of stdout and stderr.
    open: [Vec<u8>; 2],
    ended: bool,
    pace: Pace,
    /// Pays for `bytes`.
    account: Option<PodAccount>,
}

/// The output of one run.
#[derive(Debug)]
pub struct LogRing {
    pub attempt: Attempt,
    clock: Clock,
    lines: Mutex<Lines>,
    changed: watch::Sender<u64>,
}

impl LogRing {
    /// An empty one, with the usual bound on bytes a second.
    #[must_use]
    pub fn new(attempt: Attempt, clock: Clock) -> Arc<Self> {
        Self::paced(attempt, clock, LOG_BYTES_PER_SECOND, Arc::default())
    }

    /// An empty one; what is more than `rate` bytes a second is counted in `dropped`.
    #[must_use]
    pub fn paced(attempt: Attempt, clock: Clock, rate: u64, dropped: Arc<Dropped>) -> Arc<Self> {
        let lines = Lines {
            kept: VecDeque::new(),
            first: 0,
            bytes: 0,
            open: Default::default(),
            ended: false,
            pace: Pace::new(rate, dropped),
            account: None,
        };
        let (lines, changed) = (Mutex::new(lines), watch::Sender::new(0));
        Arc::new(Self { attempt, clock, lines, changed })
    }

    /// What it holds is the pod's memory from now on. To be called before anything is written.
    pub fn pay_from(&self, account: &PodAccount) {
        self.lock().account = Some(account.clone());
    }

    /// Takes output as it comes. Never waits for a reader.
    pub fn write(&self, stream: LogStream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let time = self.clock.now();
        let now = wall_ns(time);
        for mut bytes in parts(bytes) {
            let mut lines = self.lock();
            lines.pace.refill(time.mono());
            while let Some(at) = bytes.iter().position(|b| *b == b'\n') {
                lines.extend(stream, &bytes[..at], now);
                lines.close(stream, now);
                bytes = &bytes[at + 1..];
            }
            lines.extend(stream, bytes, now);
        }
        self.wake();
    }

    /// The run is over: unfinished lines are kept as partial ones, followers come to their end.
    pub fn finish(&self) {
        let now = wall_ns(self.clock.now());
        {
            let mut lines = self.lock();
            for stream in [LogStream::Stdout, LogStream::Stderr] {
                let open = std::mem::take(&mut lines.open[stream as usize]);
                if !open.is_empty() {
                    lines.push(stream, open, true, now);
                }
            }
            lines.tell_dropped(now);
            lines.ended = true;
        }
        self.wake();
    }

    /// The last lines as one text, at most `max_lines` and `max_bytes`: Kubernetes' `FallbackToLogsOnError`.
    #[must_use]
    pub fn last_text(&self, max_lines: usize, max_bytes: usize) -> String {
        let lines = self.lock();
        let mut text = vec![];
        for line in lines.kept.iter().rev().take(max_lines).rev() {
            text.extend_from_slice(&line.bytes);
            if !line.partial {
                text.push(b'\n');
            }
        }
        let cut = text.len().saturating_sub(max_bytes);
        String::from_utf8_lossy(&text[cut..]).into_owned()
    }

    /// Position before the last `count` lines.
    #[must_use]
    pub fn tail(&self, count: u64) -> LogCursor {
        let lines = self.lock();
        LogCursor(lines.end().saturating_sub(count).max(lines.first))
    }

    fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A panic while holding it cannot leave lines half-written in a way that matters to a reader.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogSource for LogRing {
    fn read(&self, from: LogCursor, max_bytes: usize) -> LogChunk {
        let lines = self.lock();
        let start = from.0.clamp(lines.first, lines.end());
        let skip = usize::try_from(start - lines.first).unwrap_or(usize::MAX);
        let mut room = max_bytes;
        let fits = |line: &&LogLine| {
            let first = room == max_bytes;
            let fits = first || line.bytes.len() <= room;
            room = room.saturating_sub(line.bytes.len().max(1));
            fits
        };
        let out: Vec<LogLine> = lines.kept.iter().skip(skip).take_while(fits).cloned().collect();
        let next = start + out.len() as u64;
        LogChunk {
            lines: out,
            next: LogCursor(next),
            ended: lines.ended && next == lines.end(),
            dropped: lines.first.saturating_sub(from.0),
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Cuts what was printed at once into parts of [`WRITE_AT_ONCE`] at most, between lines where there are any.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let most = bytes.get(..WRITE_AT_ONCE).unwrap_or(bytes);
        let last = || most.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        let whole = if most.len() < bytes.len() { last() } else { None };
        let (part, rest) = bytes.split_at(whole.unwrap_or(most.len()));
        bytes = rest;
        (!part.is_empty()).then_some(part)
    })
}

fn wall_ns(now: Timestamp) -> i64 {
    now.wall_ms().saturating_mul(1_000_000)
}

impl Lines {
    /// Position after the last kept line.
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Adds bytes without a newline to the stream's unfinished line, cutting off full pieces.
    fn extend(&mut self, stream: LogStream, mut bytes: &[u8], now: i64) {
        loop {
            let room = LOG_LINE_BYTES_MAX - self.open[stream as usize].len();
            let (part, rest) = bytes.split_at(bytes.len().min(room));
            self.open[stream as usize].extend_from_slice(part);
            if rest.is_empty() {
                return;
            }
            let full = std::mem::take(&mut self.open[stream as usize]);
            self.push(stream, full, true, now);
            bytes = rest;
        }
    }

    fn close(&mut self, stream: LogStream, now: i64) {
        let line = std::mem::take(&mut self.open[stream as usize]);
        self.push(stream, line, false, now);
    }

    fn push(&mut self, stream: LogStream, bytes: Vec<u8>, partial: bool, time_ns: i64) {
        if self.pace.allows(bytes.len()) {
            self.tell_dropped(time_ns);
            self.keep(stream, bytes, partial, time_ns);
        }
    }

    /// A line of our own about those that were dropped.
    fn tell_dropped(&mut self, time_ns: i64) {
        if let Some(note) = self.pace.note() {
            self.keep(LogStream::Stderr, note.into_bytes(), false, time_ns);
        }
    }

    fn keep(&mut self, stream: LogStream, bytes: Vec<u8>, partial: bool, time_ns: i64) {
        let cost = bytes.len() + LINE_OVERHEAD_BYTES;
        while self.bytes + cost > LOG_RING_BYTES_MAX && self.drop_oldest() {}
        // A pod that has no memory left keeps fewer lines.
        while !self.account.as_ref().is_none_or(|account| account.take_memory(cost as u64)) {
            if !self.drop_oldest() {
                // Nothing left to give up: readers see the gap.
                self.first += 1;
                return;
            }
        }
        self.bytes += cost;
        // Without the room that it had to grow, which nobody would pay for.
        let bytes = Bytes::from(bytes.into_boxed_slice());
        self.kept.push_back(LogLine { time_ns, stream, partial, bytes });
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(old) = self.kept.pop_front() else { return false };
        let cost = old.bytes.len() + LINE_OVERHEAD_BYTES;
        self.bytes -= cost;
        self.first += 1;
        if let Some(account) = &self.account {
            account.give_back_memory(cost as u64);
        }
        true
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.give_back_memory(self.bytes as u64);
        }
    }
}

/// The runtime's end of a ring.
#[derive(Debug)]
pub struct RunLog(pub Arc<LogRing>);

impl LogSink for RunLog {
    fn write(&self, stream: runtime::Stream, bytes: &[u8]) {
        let stream = match stream {
            runtime::Stream::Stdout => LogStream::Stdout,
            runtime::Stream::Stderr => LogStream::Stderr,
        };
        self.0.write(stream, bytes);
    }

    /// Whole lines are kept as they come; an unfinished one waits for its rest.
    fn flush(&self) {}
}

#[cfg(test)]
mod tests;
