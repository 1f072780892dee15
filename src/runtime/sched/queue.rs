//! Whoever waits for a thread, in the order of virtual time.
//!
//! Owns: the order. Is not: who holds what lock, nor virtual time itself (`share.rs`). Bound: each task is in it once at most, and there are
//! at most `RUNS_MAX` runs with their strands, and one carrier for each connection that the pods' published ports let in.
//!
//! ```text
//!  urgent:  ended runs, first come first out ──────────────────────────────► out
//!  heap:    one place for each share ──► line of its tasks, one at a time ─► out
//! ```
//! A share has one place, however many of its tasks wait: a module that serves a hundred connections is not a hundred modules. Its place is by what it
//! has used *now*: a share goes on being used by those of its tasks that run, so the first in the heap is looked at again before it is
//! believed (what was used only grows, so nobody else has come to be first meanwhile).

use std::cmp::Reverse;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use super::share::Share;

/// What waits.
pub(crate) trait Waits {
    /// What it is charged to.
    fn share(&self) -> &Arc<Share>;

    /// It is to end, and goes first, whatever its share has used.
    fn is_urgent(&self) -> bool;
}

/// First out: what is urgent, then the share with the least virtual time; among equals, who came first.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    urgent: VecDeque<T>,
    heap: BinaryHeap<Reverse<Place>>,
    /// By the share's address. Each has one place in the heap.
    lines: HashMap<usize, Line<T>>,
    came: u64,
    len: usize,
}

/// Ordered by its fields, as they stand.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    used: u64,
    came: u64,
    line: usize,
}

/// The tasks of one share. The share is held, so that its address names it.
#[derive(Debug)]
struct Line<T> {
    share: Arc<Share>,
    waiting: VecDeque<T>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            urgent: VecDeque::new(),
            heap: BinaryHeap::new(),
            lines: HashMap::new(),
            came: 0,
            len: 0,
        }
    }
}

impl<T: Waits> FairQueue<T> {
    /// Puts one in.
    pub(crate) fn push(&mut self, item: T) {
        self.len += 1;
        if item.is_urgent() {
            return self.urgent.push_back(item);
        }
        let share = Arc::clone(item.share());
        let (id, used) = (address(&share), share.used());
        match self.lines.entry(id) {
            Slot::Occupied(mut line) => line.get_mut().waiting.push_back(item),
            Slot::Vacant(slot) => {
                slot.insert(Line { share, waiting: VecDeque::from([item]) });
                self.place(used, id);
            }
        }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        if let Some(item) = self.urgent.pop_front() {
            self.len -= 1;
            return Some(item);
        }
        self.settle();
        let Reverse(Place { line: id, .. }) = self.heap.pop()?;
        let line = self.lines.get_mut(&id)?;
        let item = line.waiting.pop_front()?;
        self.len -= 1;
        if line.waiting.is_empty() {
            self.lines.remove(&id);
        } else {
            let used = line.share.used();
            self.place(used, id);
        }
        Some(item)
    }

    /// Virtual time of the first; the beginning of time if it is urgent, the end of time if none waits.
    pub(crate) fn first(&mut self) -> u64 {
        if !self.urgent.is_empty() {
            return 0;
        }
        self.settle();
        self.heap.peek().map_or(u64::MAX, |Reverse(place)| place.used)
    }

    /// The share of the first; `None`: none waits, or it is urgent.
    pub(crate) fn leads(&mut self) -> Option<&Share> {
        if !self.urgent.is_empty() {
            return None;
        }
        self.settle();
        let Reverse(place) = self.heap.peek()?;
        Some(&self.lines.get(&place.line)?.share)
    }

    /// Some tasks of `share` may have become urgent: those that wait go first. Returns whether there were any.
    pub(crate) fn hasten(&mut self, share: &Arc<Share>) -> bool {
        let Some(line) = self.lines.get_mut(&address(share)) else { return false };
        let (urgent, rest): (VecDeque<T>, _) =
            std::mem::take(&mut line.waiting).into_iter().partition(Waits::is_urgent);
        // An empty line keeps its place until that comes to be first.
        line.waiting = rest;
        let any = !urgent.is_empty();
        self.urgent.extend(urgent);
        any
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.len = 0;
        self.heap.clear();
        let lines = self.lines.drain().flat_map(|(_, line)| line.waiting);
        self.urgent.drain(..).chain(lines).collect()
    }

    fn place(&mut self, used: u64, line: usize) {
        self.came += 1;
        self.heap.push(Reverse(Place { used, came: self.came, line }));
    }

    /// Brings to the top whoever is first by what it has used by now.
    fn settle(&mut self) {
        while let Some(mut top) = self.heap.peek_mut() {
            let id = top.0.line;
            match self.lines.get(&id).filter(|line| !line.waiting.is_empty()) {
                Some(line) => {
                    let used = line.share.used();
                    if used <= top.0.used {
                        return;
                    }
                    top.0.used = used;
                }
                None => {
                    std::collections::binary_heap::PeekMut::pop(top);
                    self.lines.remove(&id);
                }
            }
        }
    }
}

fn address(share: &Arc<Share>) -> usize {
    Arc::as_ptr(share).addr()
}

#[cfg(test)]
mod test {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Item {
        share: Arc<Share>,
        n: usize,
        urgent: Rc<Cell<bool>>,
    }

    impl Waits for Item {
        fn share(&self) -> &Arc<Share> {
            &self.share
        }

        fn is_urgent(&self) -> bool {
            self.urgent.get()
        }
    }

    fn shares(count: usize) -> Vec<Arc<Share>> {
        // At this weight a nanosecond of CPU time is one of virtual time.
        (0..count).map(|_| Arc::new(Share::new(Some(100), Arc::default()))).collect()
    }

    fn item(share: &Arc<Share>, n: usize) -> Item {
        Item { share: Arc::clone(share), n, urgent: Rc::default() }
    }

    #[test]
    fn a_hundred_tasks_of_one_share_are_not_a_hundred_shares() {
        let shares = shares(2);
        let mut queue = FairQueue::default();
        for n in 0..100 {
            queue.push(item(&shares[0], n));
        }
        shares[1].charge(5);
        queue.push(item(&shares[1], 1000));
        let mut before = 0;
        while let Some(Item { share, n, .. }) = queue.pop() {
            if n == 1000 {
                break;
            }
            share.charge(1);
            before += 1;
        }
        // As many as it takes to have used more, however many wait.
        assert_eq!(before, 5);
    }

    #[test]
    fn what_became_urgent_while_it_waited_goes_first() {
        let shares = shares(2);
        shares[1].charge(1_000_000);
        let mut queue = FairQueue::default();
        queue.push(item(&shares[0], 0));
        let ended = item(&shares[1], 1);
        queue.push(item(&shares[1], 2));
        queue.push(ended.clone());
        assert!(!queue.hasten(&shares[1]), "nobody is");
        ended.urgent.set(true);
        assert!(queue.hasten(&shares[1]));
        assert_eq!(queue.first(), 0);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|item| item.n).collect();
        assert_eq!((order, queue.len()), (vec![1, 0, 2], 0));
    }

    #[derive(Clone, Copy, Debug)]
    enum Deed {
        Push(usize),
        Charge(usize, u64),
        End(usize),
        Pop,
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            3 => (0usize..4).prop_map(Deed::Push),
            2 => (0usize..4, 0u64..6).prop_map(|(share, ns)| Deed::Charge(share, ns)),
            1 => (0usize..40).prop_map(Deed::End),
            3 => Just(Deed::Pop),
        ]
    }

    proptest! {
        /// Whatever happens while they wait: out comes what is urgent, else a task of the share that has used least, its tasks in their order;
        /// and nothing is lost or doubled.
        #[test]
        fn the_least_used_comes_first_by_what_it_has_used_when_it_comes(
            deeds in proptest::collection::vec(deed(), 0..120)
        ) {
            let shares = shares(4);
            let mut queue = FairQueue::default();
            let (mut inside, mut all): (Vec<Item>, Vec<Item>) = (vec![], vec![]);
            for deed in deeds.into_iter().chain(std::iter::repeat_n(Deed::Pop, 130)) {
                match deed {
                    Deed::Push(share) => {
                        let item = item(&shares[share], all.len());
                        all.push(item.clone());
                        inside.push(item.clone());
                        queue.push(item);
                    }
                    Deed::Charge(share, ns) => shares[share].charge(ns),
                    Deed::End(n) => if let Some(item) = all.get(n) {
                        item.urgent.set(true);
                        queue.hasten(&item.share);
                    },
                    Deed::Pop => {
                        let least = inside.iter().map(|i| i.share.used()).min();
                        let urgent = inside.iter().any(|i| i.is_urgent());
                        let first = if urgent { 0 } else { least.unwrap_or(u64::MAX) };
                        prop_assert_eq!(queue.first(), first);
                        let got = queue.pop();
                        prop_assert_eq!(got.is_some(), !inside.is_empty());
                        let Some(got) = got else { continue };
                        prop_assert_eq!(got.is_urgent(), urgent);
                        if !urgent {
                            prop_assert_eq!(Some(got.share.used()), least);
                            let earlier = inside.iter().find(|i| Arc::ptr_eq(&i.share, &got.share));
                            prop_assert_eq!(earlier.map(|i| i.n), Some(got.n));
                        }
                        let place = inside.iter().position(|i| i.n == got.n);
                        prop_assert!(place.is_some(), "came out twice: {}", got.n);
                        inside.retain(|i| i.n != got.n);
                    }
                }
                prop_assert_eq!(queue.len(), inside.len());
            }
        }

        #[test]
        fn equals_come_out_in_their_order(times in proptest::collection::vec(0u64..5, 0..50)) {
            let mut queue = FairQueue::default();
            let shares = shares(times.len());
            for (n, &time) in times.iter().enumerate() {
                shares[n].charge(time);
                queue.push(item(&shares[n], n));
            }
            let mut expected: Vec<usize> = (0..times.len()).collect();
            expected.sort_by_key(|&n| times[n]);
            let got: Vec<usize> = std::iter::from_fn(|| queue.pop()).map(|item| item.n).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
