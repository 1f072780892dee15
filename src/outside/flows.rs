//! The datagram flows of one pod to the outside: who talks to whom, and who is forgotten.
//!
//! Owns: the table and its bound. A flow is one pair of addresses, as a NAT of Linux keeps it. Pure:
//! time is an argument, and what a flow holds (a kernel's socket) is a parameter; dropping it ends
//! it. Is not: the idle timer (whoever receives for a flow asks [`Flows::expire`]).
//! Limits: the table's bound. When it is full, the flow quiet for longest makes room: a pod that
//! talks to many harms only its own older talks.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Timestamp;

#[derive(Debug)]
struct Entry<F> {
    flow: F,
    used: Timestamp,
    serial: u64,
}

/// What [`Flows::expire`] says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It was used meanwhile; ask again at this time.
    Until(Timestamp),
    /// It was quiet for too long, or somebody else has its place: it is gone.
    Over,
}

/// See the header.
#[derive(Debug)]
pub struct Flows<K, F> {
    entries: HashMap<K, Entry<F>>,
    next_serial: u64,
    max: usize,
}

impl<K: Eq + Hash + Clone, F> Flows<K, F> {
    /// An empty table for at most `max` flows.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), next_serial: 0, max: max.max(1) }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &F)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.flow))
    }

    /// The flow of `key`, as it is.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&F> {
        self.entries.get(key).map(|entry| &entry.flow)
    }

    /// The flow of `key`, which is in use now.
    pub fn touch(&mut self, key: &K, now: Timestamp) -> Option<&F> {
        let entry = self.entries.get_mut(key)?;
        entry.used = now;
        Some(&entry.flow)
    }

    /// The serial of the flow that is put in next.
    #[must_use]
    pub fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// Puts a flow in, in use now. Returns its serial, and the flow that made room for it or that it
    /// replaces.
    pub fn insert(&mut self, key: K, flow: F, now: Timestamp) -> (u64, Option<F>) {
        let mut gone = None;
        if self.entries.len() >= self.max && !self.entries.contains_key(&key) {
            let quietest = self.entries.iter().min_by_key(|(_, entry)| (entry.used, entry.serial));
            let quietest = quietest.map(|(key, _)| key.clone());
            gone = quietest.and_then(|key| self.entries.remove(&key));
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let replaced = self.entries.insert(key, Entry { flow, used: now, serial });
        (serial, gone.or(replaced).map(|entry| entry.flow))
    }

    /// Ends the flow of `key` if it has been quiet for `idle`.
    pub fn expire(&mut self, key: &K, serial: u64, now: Timestamp, idle: Duration) -> Idle {
        match self.entries.get(key) {
            Some(entry) if entry.serial == serial => {
                let until = entry.used.plus(idle);
                if now < until {
                    return Idle::Until(until);
                }
                self.entries.remove(key);
                Idle::Over
            }
            Some(_) | None => Idle::Over,
        }
    }

    /// Ends the flow of `key`, unless another has its place.
    pub fn remove(&mut self, key: &K, serial: u64) -> Option<F> {
        self.entries.get(key).filter(|entry| entry.serial == serial)?;
        self.entries.remove(key).map(|entry| entry.flow)
    }

    /// Ends them all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    const IDLE: Duration = Duration::from_secs(10);

    #[test]
    fn the_flow_quiet_for_longest_makes_room() {
        let mut flows = Flows::new(2);
        flows.insert("a", 1, at(0));
        flows.insert("b", 2, at(1));
        assert_eq!(flows.touch(&"a", at(2)), Some(&1));
        assert_eq!(flows.insert("c", 3, at(3)).1, Some(2));
        assert_eq!(flows.touch(&"b", at(4)), None);
        assert_eq!(flows.len(), 2);
    }

    #[test]
    fn a_flow_ends_when_it_was_quiet_and_not_before() {
        let mut flows = Flows::new(2);
        let (serial, _) = flows.insert("a", 1, at(0));
        flows.touch(&"a", at(5));
        assert_eq!(flows.expire(&"a", serial, at(10), IDLE), Idle::Until(at(15)));
        assert_eq!(flows.expire(&"a", serial, at(15), IDLE), Idle::Over);
        assert!(flows.is_empty());
    }

    #[test]
    fn an_old_timer_does_not_end_a_new_flow() {
        let mut flows = Flows::new(2);
        let (old, _) = flows.insert("a", 1, at(0));
        assert_eq!(flows.insert("a", 2, at(100)).1, Some(1));
        assert_eq!(flows.expire(&"a", old, at(100), IDLE), Idle::Over);
        assert_eq!(flows.remove(&"a", old), None);
        assert_eq!(flows.touch(&"a", at(101)), Some(&2));
    }

    proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn it_does_what_a_naive_table_does(
            steps in prop::collection::vec((0_u8..4, 0_u8..6), 0..200),
            max in 1_usize..5,
        ) {
            let mut flows = Flows::new(max);
            let mut naive: Vec<(u8, u64, u64, u64)> = Vec::new(); // key, flow, used, serial
            for (now, (what, key)) in (0_u64..).zip(steps) {
                match what {
                    0 => {
                        let known = naive.iter_mut().find(|entry| entry.0 == key);
                        let expected = known.map(|entry| { entry.2 = now; entry.1 });
                        prop_assert_eq!(flows.touch(&key, at(now)).copied(), expected);
                    }
                    1 | 2 => {
                        let mut expected = None;
                        if let Some(place) = naive.iter().position(|entry| entry.0 == key) {
                            expected = Some(naive.remove(place).1);
                        } else if naive.len() == max {
                            let quietest = naive.iter().map(|entry| (entry.2, entry.3)).min();
                            let place = naive.iter().position(|e| Some((e.2, e.3)) == quietest);
                            expected = place.map(|place| naive.remove(place).1);
                        }
                        let (serial, gone) = flows.insert(key, now, at(now));
                        prop_assert_eq!(gone, expected);
                        naive.push((key, now, now, serial));
                    }
                    _ => {
                        let Some(entry) = naive.iter().find(|entry| entry.0 == key).copied() else {
                            continue;
                        };
                        let left = flows.expire(&key, entry.3, at(now), IDLE);
                        if now >= entry.2 + IDLE.as_secs() {
                            prop_assert_eq!(left, Idle::Over);
                            naive.retain(|kept| kept.0 != key);
                        } else {
                            prop_assert_eq!(left, Idle::Until(at(entry.2).plus(IDLE)));
                        }
                    }
                }
                prop_assert_eq!(flows.len(), naive.len());
            }
        }
    }
}
