//! The end of a stage, and what holds its clock.
//!
//! Owns: that a stage's time stands still while the node itself is busy making the pod's modules ready for this machine. On a small board that
//! takes minutes, the first time, and says nothing about the pod: a rollout that counted it would take back what is good. Compiling
//! has bounds of its own (CPU time for each module), but modules of many pods wait for one another, so that the whole is bounded here too.
//!
//! ```text
//!  begins ──── runs ────┬─ compiling: stands, COMPILING_MAX in all ─┬──── runs ──── over
//!                       └───────────────────────────────────────────┘
//! ```

use std::time::Duration;

use crate::clock::Timestamp;

/// How long compiling may hold up one try of a document. The largest modules in use take ten minutes of a slow core; waiting for those of others
/// comes on top.
pub(super) const COMPILING_MAX: Duration = Duration::from_secs(3600);

/// See the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    /// When it is over if nothing holds it from now on.
    at: Timestamp,
    held_since: Option<Timestamp>,
    /// How much longer it may be held, all in all.
    room: Duration,
}

impl Deadline {
    pub(super) fn new(at: Timestamp) -> Self {
        Self { at, held_since: None, room: COMPILING_MAX }
    }

    /// Whether it is held from now on. What is over stays over.
    pub(super) fn hold(&mut self, now: Timestamp, hold: bool) {
        match (hold, self.held_since) {
            (true, None) if now < self.at => self.held_since = Some(now),
            (false, Some(since)) => {
                let held = self.held(since, now);
                (self.at, self.room) = (self.at.plus(held), self.room.saturating_sub(held));
                self.held_since = None;
            }
            (true, _) | (false, None) => {}
        }
    }

    fn held(&self, since: Timestamp, now: Timestamp) -> Duration {
        now.since(since).min(self.room)
    }

    /// When it is over, as things stand.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.held_since.map_or(self.at, |_| self.at.plus(self.room))
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.ends_at() <= now
    }

    /// The time that is left, which does not shrink while it is held.
    pub(super) fn left(&self, now: Timestamp) -> Duration {
        let held = self.held_since.map_or(Duration::ZERO, |since| self.held(since, now));
        self.at.plus(held).since(now)
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_over_is_not_held() {
        let mut deadline = Deadline::new(at(10));
        deadline.hold(at(10), true);
        assert!(deadline.is_over(at(10)));
        assert_eq!(deadline.left(at(11)), Duration::ZERO);
    }

    proptest! {
        /// Second by second: those in which it compiles do not count, as long as they are no more than an hour in all.
        #[test]
        fn only_time_that_is_not_spent_compiling_counts(
            limit in 1_u64..2000,
            steps in proptest::collection::vec((0_u64..3000, any::<bool>()), 1..20),
        ) {
            let mut deadline = Deadline::new(at(limit));
            let (mut now, mut ran, mut compiled, mut compiles) = (0, 0, 0, false);
            for (lasts, next) in steps {
                for _ in 0..lasts {
                    now += 1;
                    let stands = compiles && compiled < COMPILING_MAX.as_secs();
                    if stands { compiled += 1 } else { ran += 1 }
                    prop_assert_eq!(deadline.is_over(at(now)), ran >= limit, "at {}", now);
                    prop_assert_eq!(deadline.left(at(now)).as_secs(), limit.saturating_sub(ran));
                    if ran >= limit {
                        return Ok(());
                    }
                }
                deadline.hold(at(now), next);
                compiles = next;
            }
            prop_assert!(deadline.ends_at() > at(now));
        }
    }
}
