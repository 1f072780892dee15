//! The armed timers of one pod. Owned by its worker; one entry a timer, the newest wish wins.
//!
//! Not: deciding what to arm (`lifecycle`). A pod has a few timers for each container, so a scan is cheaper than a
//! wheel.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::lifecycle::Timer;

#[derive(Debug, Default)]
pub struct Timers {
    armed: BTreeMap<Timer, Timestamp>,
}

impl Timers {
    /// Arms a timer, or moves it if it was armed already.
    pub fn arm(&mut self, timer: Timer, at: Timestamp) {
        self.armed.insert(timer, at);
    }

    /// When the next one is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.armed.values().min().copied()
    }

    /// Takes one timer that is due at `now`, the earliest first.
    pub fn pop(&mut self, now: Timestamp) -> Option<Timer> {
        let (timer, at) = self.armed.iter().min_by_key(|(_, at)| **at)?;
        if *at > now {
            return None;
        }
        let timer = timer.clone();
        self.armed.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod test {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    #[test]
    fn timers_come_due_in_order_and_once() {
        let mut timers = Timers::default();
        timers.arm(Timer::ActiveDeadline, at(5));
        timers.arm(Timer::Sandbox, at(2));
        assert_eq!(timers.next_due(), Some(at(2)));
        assert_eq!(timers.pop(at(1)), None);
        assert_eq!(timers.pop(at(9)), Some(Timer::Sandbox));
        assert_eq!(timers.pop(at(9)), Some(Timer::ActiveDeadline));
        assert_eq!(timers.pop(at(9)), None);
    }

    #[test]
    fn arming_again_moves_the_timer() {
        let mut timers = Timers::default();
        timers.arm(Timer::Sandbox, at(2));
        timers.arm(Timer::Sandbox, at(7));
        assert_eq!(timers.pop(at(3)), None);
        assert_eq!(timers.pop(at(7)), Some(Timer::Sandbox));
    }
}
