//! What a reader of a module's output needs: the door between the rings that hold log lines and the API that serves them.
//!
//! Owns: the line, the cursor and the [`LogSource`] trait. Not: the ring itself (`pod::logs` keeps it, bounded by
//! `limits::LOG_RING_BYTES_MAX`), nor the wire format (`server::logs` renders it).
//!
//! ```text
//!  guest ── write ──► ring (bounded, drops its oldest) ── read(cursor) ──► follower
//!                       └── changed(): a number that grows ──────────────► wakes it
//! ```
//!
//! A follower that is slower than the module misses lines and is told how many; it never makes the ring grow.

use std::fmt;

use bytes::Bytes;
use tokio::sync::watch;

/// Which of the module's two outputs wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// One line of output, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Wall-clock time of its first byte, nanoseconds since 1970-01-01 UTC (may jump with the clock).
    pub time_ns: i64,
    pub stream: LogStream,
    /// No line feed followed: the line was cut at `limits::LOG_LINE_BYTES_MAX`, or the module ended in mid-line.
    pub partial: bool,
    /// The text without its line feed, exactly as the module wrote it; need not be UTF-8.
    pub bytes: Bytes,
}

/// Position between two lines of one run's log. Positions only grow; they stay valid when lines are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor(pub u64);

impl LogCursor {
    /// Before the first line ever written.
    pub const START: Self = Self(0);
}

/// Some consecutive lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    pub lines: Vec<LogLine>,
    /// Where to read on.
    pub next: LogCursor,
    /// The run is over and `next` is the end: nothing will follow.
    pub ended: bool,
    /// Lines between the cursor asked for and the first one returned that the ring no longer has.
    pub dropped: u64,
}

/// The log of one run of one container.
pub trait LogSource: fmt::Debug + Send + Sync {
    /// Lines from `from` on, at least one if there is any, and otherwise no more than `max_bytes` of text. Returns at once.
    fn read(&self, from: LogCursor, max_bytes: usize) -> LogChunk;

    /// Changes whenever a line was added or the run ended. Subscribe before reading, so that nothing is missed.
    fn changed(&self) -> watch::Receiver<u64>;
}
