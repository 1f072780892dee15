//! How short of memory the node is.
//!
//! Owns: the level, from samples. Not: taking them (`daemon::pressure` reads `/proc`), nor acting on it.
//!
//! ```text
//!           some ≥ 10 % or available < 2 × threshold            full ≥ 40 % or available < threshold
//!  Calm ────────────────────────────────────────────► Tight ────────────────────────────────────────► Short
//!    ◄──────── 30 s without the cause ──────────────────┴◄──────── 30 s without the cause ──────────────┘
//! ```
//! It rises at once and falls late: what brings the level down (a compile that stopped, a pod that went) would bring it up again if it
//! were allowed back at once. Stalls alone (PSI) without scarce memory are a slow disk and evict nobody: they count only where less than
//! [`PLENTY`] of the memory is available.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long a level stays after its cause has gone.
const CALM_AFTER: Duration = Duration::from_secs(30);

/// A node with a quarter of its memory available is not short of it, whatever stalls.
const PLENTY: u64 = 4;

/// `some avg10`, hundredths of a percent: from here nothing new is begun. 10 % of ten seconds is a second lost.
const STALLING: u32 = 1000;

/// `full avg10`, hundredths of a percent: from here the node does hardly anything else.
const STALLED: u32 = 4000;

/// One look at the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// `MemTotal`, bytes.
    pub total_bytes: u64,
    /// `MemAvailable`, bytes.
    pub available_bytes: u64,
    /// PSI `some avg10` and `full avg10`, hundredths of a percent; `None` where the kernel has no PSI.
    pub stalls: Option<(u32, u32)>,
}

/// When a pod has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `memory.available` below this evicts (the kubelet's hard threshold).
    pub available_bytes: u64,
}

impl Thresholds {
    /// The kubelet's 100 MiB on a large machine; 5 %, and at least 8 MiB, on a board with little memory.
    #[must_use]
    pub fn for_machine(total_bytes: u64) -> Self {
        Self { available_bytes: (total_bytes / 20).clamp(8 << 20, 100 << 20) }
    }
}

/// See the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Calm,
    /// Nothing new is compiled or fetched.
    Tight,
    /// Pods go, one at a time.
    Short,
}

/// The level over time.
#[derive(Clone, Debug)]
pub struct Pressure {
    thresholds: Thresholds,
    level: Level,
    /// When the cause of the present level was last seen.
    seen: Timestamp,
}

impl Pressure {
    /// A calm node.
    #[must_use]
    pub fn new(thresholds: Thresholds, now: Timestamp) -> Self {
        Self { thresholds, level: Level::Calm, seen: now }
    }

    /// The level after one more look.
    pub fn observe(&mut self, now: Timestamp, sample: Sample) -> Level {
        let cause = self.cause(sample);
        if cause >= self.level {
            self.level = cause;
            self.seen = now;
        } else if now.since(self.seen) >= CALM_AFTER {
            // One step at a time: Short becomes Tight for another while.
            self.level = if self.level == Level::Short { Level::Tight } else { cause };
            self.seen = now;
        }
        self.level
    }

    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Where pods begin to go, bytes available.
    #[must_use]
    pub fn threshold_bytes(&self) -> u64 {
        self.thresholds.available_bytes
    }

    /// What may be taken before the next look without pods having to go for it, bytes.
    #[must_use]
    pub fn room_bytes(&self, sample: Sample) -> u64 {
        sample.available_bytes.saturating_sub(self.thresholds.available_bytes)
    }

    fn cause(&self, sample: Sample) -> Level {
        let threshold = self.thresholds.available_bytes;
        let scarce = sample.available_bytes < sample.total_bytes / PLENTY;
        let (some, full) = sample.stalls.filter(|_| scarce).unwrap_or((0, 0));
        if sample.available_bytes < threshold || full >= STALLED {
            Level::Short
        } else if sample.available_bytes < threshold.saturating_mul(2) || some >= STALLING {
            Level::Tight
        } else {
            Level::Calm
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use Level::{Calm, Short, Tight};

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    fn sample(available: u64, stalls: Option<(u32, u32)>) -> Sample {
        Sample { total_bytes: 1000 * MIB, available_bytes: available * MIB, stalls }
    }

    fn node() -> Pressure {
        Pressure::new(Thresholds { available_bytes: 50 * MIB }, at(0))
    }

    #[test]
    fn what_may_be_taken_until_the_next_look_ends_where_pods_begin_to_go() {
        for (available, room) in [(500, 450), (51, 1), (50, 0), (3, 0)] {
            assert_eq!(node().room_bytes(sample(available, None)), room * MIB);
        }
    }

    #[test]
    fn each_cause_has_its_level() {
        let rows = [
            (500, None, Calm, "half of it is free"),
            (100, None, Calm, "twice the threshold is enough"),
            (99, None, Tight, "less than twice the threshold"),
            (49, None, Short, "less than the threshold"),
            (200, Some((1000, 0)), Tight, "a tenth of the time is lost"),
            (200, Some((9000, 4000)), Short, "hardly anything moves"),
            (200, Some((999, 3999)), Calm, "a little stalling is normal"),
            (900, Some((9000, 9000)), Calm, "stalls beside free memory are a slow disk"),
        ];
        for (available, stalls, expected, why) in rows {
            assert_eq!(node().observe(at(1), sample(available, stalls)), expected, "{why}");
        }
    }

    #[test]
    fn it_rises_at_once_and_falls_late_step_by_step() {
        let mut node = node();
        assert_eq!(node.observe(at(1), sample(10, None)), Short);
        assert_eq!(node.observe(at(20), sample(900, None)), Short);
        assert_eq!(node.observe(at(31), sample(900, None)), Tight);
        assert_eq!(node.observe(at(60), sample(900, None)), Tight);
        assert_eq!(node.observe(at(61), sample(900, None)), Calm);
    }

    #[test]
    fn a_cause_that_comes_back_holds_the_level() {
        let mut node = node();
        assert_eq!(node.observe(at(1), sample(80, None)), Tight);
        assert_eq!(node.observe(at(29), sample(80, None)), Tight);
        assert_eq!(node.observe(at(40), sample(900, None)), Tight);
        assert_eq!(node.observe(at(59), sample(900, None)), Calm);
    }

    #[test]
    fn thresholds_fit_the_machine() {
        let rows = [(64, 8), (128, 8), (512, 25), (4096, 100), (65536, 100)];
        for (total, expected) in rows {
            let found = Thresholds::for_machine(total * MIB).available_bytes / MIB;
            assert_eq!(found, expected, "{total} MiB");
        }
    }
}
