//! How often a pod may do something that costs the daemon work: a token bucket.
//!
//! Pure: time is an argument. Who finds the bucket empty is refused and counted, never kept waiting.

use std::time::Duration;

use crate::clock::Timestamp;

/// Tokens come at a steady rate up to a burst; each use takes one.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Time that one token takes to come.
    step: Duration,
    /// The bucket is full when this much time's worth of tokens is in it.
    full: Duration,
    /// When the bucket was, or will be, empty of what has been taken.
    taken_until: Duration,
}

impl Rate {
    /// `per_second` uses on average, `burst` at once. A rate of zero never allows anything.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let step = Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::MAX);
        Self { step, full: step.saturating_mul(burst), taken_until: Duration::ZERO }
    }

    /// Takes one token, if there is one.
    #[must_use]
    pub fn take(&mut self, now: Timestamp) -> bool {
        let now = now.mono().saturating_add(self.full);
        // What has come beyond the burst is lost.
        let from = self.taken_until.max(now.saturating_sub(self.full));
        let after = from.saturating_add(self.step);
        let ok = self.step < Duration::MAX && after <= now;
        if ok {
            self.taken_until = after;
        }
        ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_millis(ms))
    }

    fn taken(rate: &mut Rate, ms: u64, tries: usize) -> usize {
        (0..tries).filter(|_| rate.take(at(ms))).count()
    }

    #[test]
    fn a_burst_and_then_the_steady_rate() {
        let mut rate = Rate::new(10, 5);
        assert_eq!(taken(&mut rate, 0, 100), 5);
        assert_eq!(taken(&mut rate, 99, 100), 0);
        assert_eq!(taken(&mut rate, 100, 100), 1);
        assert_eq!(taken(&mut rate, 1_000, 100), 5, "no more than the burst is kept");
        let later: usize = (0..100).map(|n| taken(&mut rate, 10_000 + n * 10, 3)).sum();
        assert_eq!(later, 5 + 9);
    }

    #[test]
    fn nothing_per_second_is_nothing() {
        assert_eq!(taken(&mut Rate::new(0, 10), 5_000, 3), 0);
        assert_eq!(taken(&mut Rate::new(10, 0), 5_000, 3), 0);
    }
}
