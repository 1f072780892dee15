//! Time as a value, and the only place that reads a clock.
//!
//! Owns: [`Timestamp`] (what cores are given) and [`Clock`] (what shells read). Not: timers; those are the
//! shell's (`tokio::time`), armed through the actions of a core.
//!
//! A gateway without a battery-backed clock starts in 1970 and jumps to today when the network comes. So a
//! timestamp carries two readings: a monotonic one, which alone decides order and delays, and the wall clock's,
//! which is only ever shown to people. A jump of the wall clock therefore restarts nothing and breaks no back-off.

use std::cmp::Ordering;
use std::sync::atomic::{self, AtomicI64};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A hundred years: what is later than that never comes.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// An instant: monotonic for decisions, wall clock for display.
///
/// Equality and order look at the monotonic reading only.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    /// Time since the clock's own start.
    mono: Duration,
    /// Milliseconds since 1970-01-01 UTC; may jump, may be negative on a broken clock.
    wall_ms: i64,
}

impl Timestamp {
    /// A timestamp from its two readings; for tests, simulations and records read back from disk.
    #[must_use]
    pub const fn new(mono: Duration, wall_ms: i64) -> Self {
        Self { mono, wall_ms }
    }

    /// A timestamp of a simulation that began at 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn simulated(since_start: Duration) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a simulation lasts less than 292 million years"
        )]
        Self { mono: since_start, wall_ms: since_start.as_millis() as i64 }
    }

    /// The monotonic reading: time since the start of the clock that made this.
    #[must_use]
    pub const fn mono(self) -> Duration {
        self.mono
    }

    /// Milliseconds since 1970-01-01 UTC, for display.
    #[must_use]
    pub const fn wall_ms(self) -> i64 {
        self.wall_ms
    }

    /// This instant plus a delay; saturates instead of overflowing.
    #[must_use]
    pub fn plus(self, delay: Duration) -> Self {
        let ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        Self { mono: self.mono.saturating_add(delay), wall_ms: self.wall_ms.saturating_add(ms) }
    }

    /// How long `earlier` lies back; zero if it does not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.mono.saturating_sub(earlier.mono)
    }
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.mono == other.mono
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> Ordering {
        self.mono.cmp(&other.mono)
    }
}

/// How far a test has set the wall clock of this process off, milliseconds.
static WALL_OFF_MS: AtomicI64 = AtomicI64::new(0);

/// Sets the wall clock of this process, as a time service does with the machine's: for tests of the whole daemon.
pub fn set_wall(ms: i64) {
    WALL_OFF_MS.store(ms.saturating_sub(system_ms()), atomic::Ordering::Relaxed);
}

/// The system's wall clock, milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "this file is where time is read")]
fn system_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// Reads time. One per process; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this file is where time is read")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both readings, now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let wall_ms = system_ms().saturating_add(WALL_OFF_MS.load(atomic::Ordering::Relaxed));
        Timestamp { mono: self.start.elapsed(), wall_ms }
    }

    /// The instant of the runtime's timer wheel that corresponds to `at`; in the past if `at` is. A time that no clock
    /// will ever show (a grace of `i64::MAX` seconds is a valid one) is as far away as may be.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.start.checked_add(at.mono).unwrap_or_else(|| self.start + NEVER)
    }
}

/// Processor time that this thread has used. A system call, some hundred nanoseconds.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // It counts from zero, so that what is not a duration never comes.
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn order_ignores_the_wall_clock() {
        let early = Timestamp::new(Duration::from_secs(1), 1_700_000_000_000);
        let late = Timestamp::new(Duration::from_secs(2), 0);
        assert!(early < late);
        assert_eq!(late.since(early), Duration::from_secs(1));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn a_time_beyond_all_clocks_is_far_away_and_no_panic() {
        let clock = Clock::start();
        let never = clock.now().plus(Duration::MAX);
        assert!(clock.instant(never) > clock.instant(clock.now().plus(Duration::from_secs(1))));
    }

    #[test]
    fn a_delay_moves_both_readings() {
        let t = Timestamp::simulated(Duration::from_secs(5)).plus(Duration::from_millis(1500));
        assert_eq!((t.mono(), t.wall_ms()), (Duration::from_millis(6500), 6500));
    }
}
