//! How fast a run may print.
//!
//! Owns: the bucket of bytes, and counting what was more. Is not: the line that says so, which is kept like any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::LINE_OVERHEAD_BYTES;
use crate::limits::{LOG_BURST_BYTES_MIN, LOG_BURST_SECONDS};

/// What was dropped of a container's log because it was too much, over all its runs.
#[derive(Debug, Default)]
pub struct Dropped {
    lines: AtomicU64,
    bytes: AtomicU64,
}

impl Dropped {
    /// Lines.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Bytes, without what ends the lines.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// How much may be printed, and what was dropped because it was more.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second.
    rate: u64,
    pub(super) left: u64,
    filled_at: Duration,
    /// Earned beside, millionths of a byte.
    rest: u128,
    lines: u64,
    bytes: u64,
    pub(super) total: Arc<Dropped>,
}

impl Pace {
    pub(super) fn new(rate: u64, total: Arc<Dropped>) -> Self {
        let (filled_at, rest, lines, bytes) = (Duration::ZERO, 0, 0, 0);
        Self { rate, left: Self::burst(rate), filled_at, rest, lines, bytes, total }
    }

    /// What may be printed at once.
    pub(super) fn burst(rate: u64) -> u64 {
        rate.saturating_mul(LOG_BURST_SECONDS).max(LOG_BURST_BYTES_MIN)
    }

    pub(super) fn refill(&mut self, now: Duration) {
        let since = now.saturating_sub(self.filled_at).as_micros();
        self.filled_at = self.filled_at.max(now);
        // In millionths: who prints often must not lose a part each time.
        let earned = since.saturating_mul(self.rate.into()).saturating_add(self.rest);
        self.rest = earned % 1_000_000;
        let earned = u64::try_from(earned / 1_000_000).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(earned).min(Self::burst(self.rate));
    }

    /// Whether a line of so many bytes may be kept; if not, it is counted.
    pub(super) fn allows(&mut self, bytes: usize) -> bool {
        let cost = (bytes + LINE_OVERHEAD_BYTES) as u64;
        let allowed = cost <= self.left;
        if allowed {
            self.left -= cost;
        } else {
            self.lines += 1;
            self.bytes += bytes as u64;
            self.total.lines.fetch_add(1, Ordering::Relaxed);
            self.total.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        allowed
    }

    /// What to say of the lines that were dropped, once.
    pub(super) fn note(&mut self) -> Option<String> {
        let (lines, bytes) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.bytes));
        (lines > 0).then(|| {
            format!(
                "podling: {lines} lines ({bytes} bytes) dropped: more than {} KiB of log a second",
                self.rate >> 10
            )
        })
    }
}
