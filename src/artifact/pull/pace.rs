//! How quickly to pull: the window, and how long to wait for what was asked for.
//!
//! Owns: two numbers that follow the link. Not: what is asked for. Pure.
//!
//! The time-out is TCP's (RFC 6298), doubled at each silence and spread by a quarter, so that a thousand gateways that lost
//! the same broker do not come back in step. The window grows by one block for each window that came whole and halves at a
//! loss; and it never holds more than [`QUEUE_TIME`] of the link's own speed, because what waits in the broker's queue
//! keeps the ping answer waiting, too, and a client without an answer hangs up.

use std::time::Duration;

/// Most blocks under way, and in memory.
pub const WINDOW_MAX: u32 = 8;

/// Window of a link that is not known yet.
const WINDOW_FIRST: u32 = 2;

/// Wait for a first answer, and the shortest wait at all: a mobile link may sleep for a second.
pub const TIMEOUT_FIRST: Duration = Duration::from_millis(1500);

/// Longest wait: a publisher that comes back is heard within this time, at one small request for each.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Most that may wait in queues on the way, as time. A sixth of the keep-alive that podling uses.
const QUEUE_TIME: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Pace {
    window: u32,
    /// New blocks since the window last changed.
    credit: u32,
    /// Smoothed time from asking to arrival, and its mean deviation.
    round_trip: Option<(Duration, Duration)>,
    /// Smoothed time between arrivals.
    gap: Option<Duration>,
    /// Silences since the last block that was asked for once.
    silences: u32,
    dice: u64,
}

/// Time from asking to arrival.
#[derive(Clone, Copy, Debug)]
pub(super) enum Took {
    Exactly(Duration),
    /// Asked for several times, first so long ago.
    AtMost(Duration),
}

impl Pace {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            window: WINDOW_FIRST,
            credit: 0,
            round_trip: None,
            gap: None,
            silences: 0,
            dice: seed,
        }
    }

    /// A new connection: what is known of the way to it is kept, the back-off is not.
    pub(super) fn begin_anew(&mut self) {
        self.silences = 0;
        self.window = self.window.min(WINDOW_FIRST);
        self.credit = 0;
    }

    pub(super) fn window(&self) -> u32 {
        let fits = self.gap.map_or(WINDOW_MAX, |gap| {
            let gap = gap.max(Duration::from_millis(1)).as_millis();
            u32::try_from(QUEUE_TIME.as_millis() / gap).unwrap_or(WINDOW_MAX)
        });
        self.window.min(fits.max(1))
    }

    pub(super) fn timeout(&self) -> Duration {
        let calm = self.round_trip.map_or(TIMEOUT_FIRST, |(mean, deviation)| {
            mean.saturating_add(deviation.saturating_mul(4)).max(TIMEOUT_FIRST)
        });
        let doubled = calm.saturating_mul(1 << self.silences.min(8)).min(TIMEOUT_MAX);
        // Up to a quarter more, different at each silence.
        let part = u32::try_from(mix(self.dice ^ u64::from(self.silences)) % 256).unwrap_or(0);
        doubled.saturating_add(doubled / 1024 * part)
    }

    /// A new block came; `took`: since it was asked for, if it was; `after`: since the one before.
    pub(super) fn arrived(&mut self, took: Option<Took>, after: Duration) {
        let sample = match took {
            Some(Took::Exactly(took)) => Some(took),
            // Too much is better than nothing: on a slow link, even the first block takes longer than the first wait,
            // and with nothing learnt from it, each one would be asked for twice.
            Some(Took::AtMost(took)) if self.round_trip.is_none() => Some(took),
            Some(Took::AtMost(_)) | None => None,
        };
        if let Some(took) = sample {
            self.silences = 0;
            self.round_trip = Some(match self.round_trip {
                None => (took, took / 2),
                Some((mean, deviation)) => {
                    let off = mean.abs_diff(took);
                    ((mean * 7 + took) / 8, (deviation * 3 + off) / 4)
                }
            });
        }
        self.gap = Some(self.gap.map_or(after, |gap| (gap * 7 + after) / 8));
        self.credit += 1;
        if self.credit >= self.window {
            self.credit = 0;
            self.window = (self.window + 1).min(WINDOW_MAX);
        }
    }

    /// Single blocks are missing; the others come.
    pub(super) fn lost_some(&mut self) {
        self.window = (self.window / 2).max(1);
        self.credit = 0;
    }

    /// Nothing came at all.
    pub(super) fn timed_out(&mut self) {
        self.silences = self.silences.saturating_add(1);
        self.window = (self.window / 2).max(1);
        self.credit = 0;
        self.dice = mix(self.dice);
    }
}

/// Scatters a number (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod test {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_doubles_the_wait_up_to_a_bound() {
        let mut pace = Pace::new(5);
        pace.arrived(Some(Took::Exactly(SECOND / 100)), SECOND);
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(pace.timeout());
            pace.timed_out();
        }
        for (nth, wait) in waits.iter().enumerate() {
            let base = TIMEOUT_FIRST.saturating_mul(1 << nth).min(TIMEOUT_MAX);
            assert!(*wait >= base && *wait <= base + base / 4, "{nth}: {wait:?}");
        }
        // A block that was asked for twice says nothing of the way; one that was asked for once does.
        pace.arrived(Some(Took::AtMost(100 * SECOND)), SECOND);
        assert!(pace.timeout() >= TIMEOUT_MAX);
        pace.arrived(Some(Took::Exactly(SECOND)), SECOND);
        assert!(pace.timeout() < 4 * SECOND);
    }

    #[test]
    fn a_first_block_that_was_asked_for_twice_still_says_something() {
        let mut pace = Pace::new(5);
        pace.timed_out();
        pace.arrived(Some(Took::AtMost(4 * SECOND)), SECOND);
        assert!(pace.timeout() >= 12 * SECOND);
    }

    #[test]
    fn two_gateways_do_not_wait_equally_long() {
        let waits = |seed| {
            let mut pace = Pace::new(seed);
            pace.timed_out();
            pace.timeout()
        };
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn the_window_follows_the_link() {
        let mut quick = Pace::new(1);
        for _ in 0..100 {
            quick.arrived(Some(Took::Exactly(SECOND / 100)), SECOND / 100);
        }
        assert_eq!(quick.window(), WINDOW_MAX);
        quick.lost_some();
        assert_eq!(quick.window(), WINDOW_MAX / 2);
        // 32 KiB in 3.3 s: what 10 kB/s carries.
        let mut slow = Pace::new(1);
        for _ in 0..100 {
            slow.arrived(Some(Took::Exactly(3 * SECOND)), SECOND * 33 / 10);
        }
        assert_eq!(slow.window(), 3);
        for _ in 0..100 {
            slow.arrived(Some(Took::Exactly(3 * SECOND)), 60 * SECOND);
        }
        assert_eq!(slow.window(), 1);
    }
}
