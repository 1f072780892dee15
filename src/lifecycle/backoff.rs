//! How long to wait before trying again.
//!
//! Owns: the numbers of `CrashLoopBackOff`, of image pulls and of sandbox set-up, as values. Not: timers (the machines
//! arm them through actions) nor what is tried. No jitter: a node has few pods, and exact times make exact tests.
//!
//! ```text
//! exits at once:   start 0   start 0   start 10   start 30   start 70   150   310   610   910 …
//! waited:                 -        10 s       20 s       40 s       80 s  160   300   300
//! ```
//! Source: `KUBELET.md` 5 (`doBackOff`), 0 (constants).

use std::time::Duration;

use crate::clock::Timestamp;

/// Delay before the second restart of a container, and after the first failed pull.
pub const INITIAL: Duration = Duration::from_secs(10);
/// No delay grows beyond this.
pub const MAX: Duration = Duration::from_secs(300);
/// A container that lived this long since it was last restarted has made up for its crashes.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// Retry of what Kubernetes retries with each sync of the pod: a missing ConfigMap, an image that may not be pulled.
pub const RESYNC: Duration = Duration::from_secs(10);
/// First delay after a failed sandbox set-up (volume manager, exponential back-off).
pub const SANDBOX_INITIAL: Duration = Duration::from_millis(500);
/// Longest delay between two sandbox set-ups: 2 min 2 s.
pub const SANDBOX_MAX: Duration = Duration::from_secs(122);

/// The crash-loop back-off of one container.
///
/// It grows when a restart is *performed*, and is asked when the next one is wanted; a container's first restart
/// therefore waits for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashBackoff {
    /// The delay that the next restart must keep, and when that was decided; `None`: no restart so far.
    entry: Option<(Duration, Timestamp)>,
}

impl CrashBackoff {
    /// As it stood before the daemon restarted; zero means none.
    #[must_use]
    pub fn restored(delay: Duration, now: Timestamp) -> Self {
        if delay.is_zero() {
            return Self::default();
        }
        Self { entry: Some((delay.min(MAX), now)) }
    }

    /// The delay that a restart after an exit at `finished` must keep; zero: start at once.
    #[must_use]
    pub fn delay(&self, finished: Timestamp) -> Duration {
        match self.entry {
            Some((delay, updated)) if finished.since(updated) <= FORGIVEN_AFTER => delay,
            Some(_) | None => Duration::ZERO,
        }
    }

    /// Notes that the run which ended at `finished` is being followed by another one, now.
    pub fn restarted(&mut self, finished: Timestamp, now: Timestamp) {
        let delay = self.delay(finished);
        let next = if delay.is_zero() { INITIAL } else { doubled(delay, MAX) };
        self.entry = Some((next, now));
    }

    /// When a run that is still alive has made up for what was before; `None`: there is nothing to make up for.
    #[must_use]
    pub fn forgiven_at(&self) -> Option<Timestamp> {
        // Just after: an exit at that very instant is not forgiven.
        self.entry.map(|(_, updated)| updated.plus(FORGIVEN_AFTER + Duration::from_millis(1)))
    }
}

/// Doubles from failure to failure, and starts over after a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    initial: Duration,
    max: Duration,
    last: Duration,
}

impl Retry {
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, last: Duration::ZERO }
    }

    /// It failed (again): how long to wait before the next try.
    pub fn failed(&mut self) -> Duration {
        self.last = if self.last.is_zero() { self.initial } else { doubled(self.last, self.max) };
        self.last
    }

    /// It worked: the next failure is the first one again.
    pub fn succeeded(&mut self) {
        self.last = Duration::ZERO;
    }
}

fn doubled(delay: Duration, max: Duration) -> Duration {
    delay.saturating_mul(2).min(max)
}

#[cfg(test)]
mod test {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    /// Start times of a container that lives for `life` seconds each time, up to `until`.
    fn starts(life: u64, until: u64) -> Vec<u64> {
        let (mut backoff, mut start, mut starts) = (CrashBackoff::default(), at(0), Vec::new());
        while start.mono().as_secs() <= until {
            starts.push(start.mono().as_secs());
            let finished = start.plus(Duration::from_secs(life));
            start = finished.plus(backoff.delay(finished));
            backoff.restarted(finished, start);
        }
        starts
    }

    #[test]
    fn a_program_that_dies_at_once_is_started_at_kubernetes_times() {
        assert_eq!(starts(0, 1000), [0, 0, 10, 30, 70, 150, 310, 610, 910]);
    }

    #[test]
    fn ten_minutes_of_life_are_forgiveness_and_five_are_not() {
        assert_eq!(starts(601, 2000), [0, 601, 1202, 1803]);
        assert_eq!(starts(300, 1000), [0, 300, 610, 930]);
        assert_eq!(starts(600, 2000), [0, 600, 1210, 1830], "more than ten minutes it must be");
    }

    #[test]
    fn a_restored_delay_is_kept_again_and_then_grows() {
        let mut backoff = CrashBackoff::restored(Duration::from_secs(160), at(5));
        assert_eq!(backoff.delay(at(5)), Duration::from_secs(160));
        backoff.restarted(at(5), at(165));
        assert_eq!(backoff.delay(at(166)), MAX);
        assert_eq!(CrashBackoff::restored(Duration::ZERO, at(5)), CrashBackoff::default());
        let absurd = CrashBackoff::restored(Duration::from_secs(1 << 40), at(5));
        assert_eq!(absurd.delay(at(5)), MAX, "a damaged record cannot hold a container for years");
    }

    #[test]
    fn sandbox_retries_double_up_to_two_minutes_and_two_seconds() {
        let mut retry = Retry::new(SANDBOX_INITIAL, SANDBOX_MAX);
        let delays: Vec<_> = (0..10).map(|_| retry.failed().as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000]);
        retry.succeeded();
        assert_eq!(retry.failed(), SANDBOX_INITIAL);
    }
}
