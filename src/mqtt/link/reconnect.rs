//! When to try again. Pure.
//!
//! Owns: the time between two connections: 1 s, doubling to 5 min, each drawn at random below that ("full jitter", so that a
//! thousand gateways do not come back together when their broker does); a slower pace where a person must act; five minutes where another
//! client keeps taking our name. Only a connection that lasted a minute counts as a success: one that breaks at once must not
//! bring the short delays back.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::mqtt::transport::{Class, Closed};

/// The first ceiling of the delay.
const FIRST: Duration = Duration::from_secs(1);

/// The first ceiling where a person must change something.
const FIRST_OF_A_PERSON: Duration = Duration::from_secs(30);

/// The last ceiling: what an operator waits at worst after mending something.
const LONGEST: Duration = Duration::from_secs(300);

/// Even the luckiest draw waits this long.
const SHORTEST: Duration = Duration::from_millis(200);

/// A connection that lasted this long was a success.
const HEALTHY: Duration = Duration::from_secs(60);

/// More take-overs than this in [`LONGEST`] mean that two clients have one name.
const TAKEOVERS_MAX: usize = 3;

/// Connections in a row that the broker took and soon closed without a word. Brokers of MQTT 3.1.1, and mosquitto 2.0, say nothing when
/// another client takes a name.
const SHORT_LIVES: u32 = 3;

/// What to do after a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub after: Duration,
    /// Two clients fight for one name.
    pub duplicate: bool,
    /// They may: the broker takes us and closes the connection soon after, again and again.
    pub suspect: bool,
}

/// What is remembered of the attempts so far.
#[derive(Debug, Default)]
pub struct Reconnect {
    failures: u32,
    connected: Option<Timestamp>,
    takeovers: VecDeque<Timestamp>,
    /// Since the last take-over: whether it was one of a fight.
    fighting: bool,
    short_lives: u32,
}

impl Reconnect {
    /// A connection came about.
    pub fn connected(&mut self, now: Timestamp) {
        self.connected = Some(now);
    }

    /// A connection ended or did not come about. `chance`: a random number.
    pub fn closed(&mut self, now: Timestamp, why: &Closed, chance: u32) -> Retry {
        let lasted = self.connected.take().map(|since| now.since(since));
        if lasted.is_some_and(|lasted| lasted >= HEALTHY) {
            self.failures = 0;
        }
        self.short_lives = match (why, lasted) {
            (Closed::ByPeer, Some(lasted)) if lasted < HEALTHY => self.short_lives + 1,
            // It did not come about: says nothing of the ones that did.
            (_, None) => self.short_lives,
            (_, Some(_)) => 0,
        };
        let suspect = self.short_lives >= SHORT_LIVES;
        let first = match why.class() {
            Class::Ours => return Retry { after: Duration::ZERO, duplicate: false, suspect },
            Class::TakenOver if self.is_duplicate(now) => {
                return Retry { after: LONGEST, duplicate: true, suspect };
            }
            Class::NeedsAPerson => FIRST_OF_A_PERSON,
            Class::Transient | Class::TakenOver | Class::Downgrade => FIRST,
        };
        let ceiling = first.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let drawn = ceiling.mul_f64(f64::from(chance) / f64::from(u32::MAX));
        // A refusal is not worth asking again at once, however the dice fall.
        let floor = if first == FIRST { SHORTEST } else { ceiling / 2 };
        Retry { after: drawn.max(floor), duplicate: false, suspect }
    }

    fn is_duplicate(&mut self, now: Timestamp) -> bool {
        // Who waits five minutes after each round must not forget the round before.
        let again = self.takeovers.back().is_some_and(|last| now.since(*last) <= LONGEST * 2);
        self.takeovers.push_back(now);
        self.takeovers.retain(|at| now.since(*at) <= LONGEST);
        if self.takeovers.len() > TAKEOVERS_MAX + 1 {
            self.takeovers.pop_front();
        }
        self.fighting = self.takeovers.len() > TAKEOVERS_MAX || (self.fighting && again);
        self.fighting
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::transport::codes;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    fn ceilings(why: &Closed) -> Vec<u64> {
        let mut reconnect = Reconnect::default();
        (0..11).map(|_| reconnect.closed(at(0), why, u32::MAX).after.as_secs()).collect()
    }

    #[test]
    fn the_ceiling_doubles_from_a_second_to_five_minutes() {
        assert_eq!(ceilings(&Closed::ByPeer), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn a_refusal_is_not_asked_again_soon() {
        let refused = Closed::Refused { code: codes::NOT_AUTHORIZED, name: "not authorized" };
        assert_eq!(ceilings(&refused)[..5], [30, 60, 120, 240, 300]);
        let luckiest = Reconnect::default().closed(at(0), &refused, 0);
        assert_eq!(luckiest.after, Duration::from_secs(15));
    }

    #[test]
    fn only_a_minute_of_health_brings_the_short_delays_back() {
        let mut reconnect = Reconnect::default();
        for _ in 0..6 {
            reconnect.closed(at(0), &Closed::ByPeer, 0);
        }
        reconnect.connected(at(100));
        let short = reconnect.closed(at(159), &Closed::ByPeer, u32::MAX);
        assert_eq!(short.after, Duration::from_secs(64));
        reconnect.connected(at(300));
        let long = reconnect.closed(at(360), &Closed::ByPeer, u32::MAX);
        assert_eq!(long.after, Duration::from_secs(1));
    }

    #[test]
    fn the_fourth_take_over_in_five_minutes_is_a_duplicate() {
        let mut reconnect = Reconnect::default();
        let taken = Closed::Ended { code: codes::SESSION_TAKEN_OVER, name: "x", text: None };
        let mut seen = vec![];
        // 930 is ten minutes after the round before; 1531 is more.
        for seconds in [0, 10, 20, 30, 330, 930, 1531, 1540] {
            seen.push(reconnect.closed(at(seconds), &taken, 0).duplicate);
        }
        assert_eq!(seen, [false, false, false, true, true, true, false, false]);
        let mut retry = None;
        for _ in 0..9 {
            retry = Some(reconnect.closed(at(1541), &taken, 0));
        }
        assert_eq!(retry, Some(Retry { after: LONGEST, duplicate: true, suspect: false }));
        assert!(reconnect.takeovers.len() <= TAKEOVERS_MAX + 1);
    }

    #[test]
    fn a_broker_that_takes_us_and_closes_soon_again_and_again_is_suspicious() {
        let mut reconnect = Reconnect::default();
        let mut seen = vec![];
        for (up, lasts, why) in [
            (true, 1, Closed::ByPeer),
            (true, 1, Closed::ByPeer),
            (false, 0, Closed::NoAnswer(HEALTHY)),
            (true, 1, Closed::ByPeer),
            (true, 100, Closed::ByPeer),
            (true, 1, Closed::ByPeer),
        ] {
            if up {
                reconnect.connected(at(0));
            }
            seen.push(reconnect.closed(at(lasts), &why, 0).suspect);
        }
        assert_eq!(seen, [false, false, false, true, false, false]);
    }

    #[test]
    fn our_own_doing_is_no_failure() {
        let mut reconnect = Reconnect::default();
        assert_eq!(reconnect.closed(at(0), &Closed::Renewal, 7).after, Duration::ZERO);
        let first = reconnect.closed(at(0), &Closed::ByPeer, u32::MAX);
        assert_eq!(first.after, Duration::from_secs(1));
    }

    proptest! {
        /// Whatever the dice: never a hot loop, never longer than the bound.
        #[test]
        fn every_delay_is_within_its_bounds(chances in proptest::collection::vec(any::<u32>(), 1..60)) {
            let mut reconnect = Reconnect::default();
            for chance in chances {
                let after = reconnect.closed(at(0), &Closed::ByPeer, chance).after;
                prop_assert!((SHORTEST..=LONGEST).contains(&after));
            }
        }
    }
}
