//! Whoever waits for a thread, in the order of virtual time.
//!
//! Owns: the order. Is not: who holds what lock, nor virtual time itself (`share.rs`). Bound: each run is in it once at most, and there are
//! at most `RUNS_MAX` of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// First out: the least virtual time; among equals, who came first.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    came: u64,
}

#[derive(Debug)]
struct Entry<T> {
    used: u64,
    came: u64,
    item: T,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), came: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Puts in one that has used so much virtual time.
    pub(crate) fn push(&mut self, used: u64, item: T) {
        self.came += 1;
        self.heap.push(Reverse(Entry { used, came: self.came, item }));
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.heap.pop().map(|Reverse(entry)| entry.item)
    }

    /// Virtual time of the first; none waits: the end of time.
    pub(crate) fn first(&self) -> u64 {
        self.heap.peek().map_or(u64::MAX, |Reverse(entry)| entry.used)
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.heap.drain().map(|Reverse(entry)| entry.item).collect()
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.used, self.came) == (other.used, other.came)
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.used, self.came).cmp(&(other.used, other.came))
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_comes_first_and_equals_in_their_order(
            times in proptest::collection::vec(0u64..5, 0..50)
        ) {
            let mut queue = FairQueue::default();
            for (n, &time) in times.iter().enumerate() {
                queue.push(time, n);
            }
            let mut expected: Vec<usize> = (0..times.len()).collect();
            expected.sort_by_key(|&n| times[n]);
            prop_assert_eq!(queue.first(), expected.first().map_or(u64::MAX, |&n| times[n]));
            let got: Vec<usize> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
