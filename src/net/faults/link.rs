//! What is on its way in one connection, and in which order it comes.
//!
//! Owns: a lane for each direction, first in, first out. Is not: the dice, nor the orders.
//! Locks: a lane before the state of the faults.
//! Limits: [`LANE_MAX`] parts a lane; its bytes are bounded by the connection's pipes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use super::{Fate, Faults, Pair, lock};
use crate::clock::Timestamp;
use crate::net::tcp::conn::{Conn, Side};

/// Most parts of what is on its way in one direction of a connection; further bytes join the last.
const LANE_MAX: usize = 1024;

/// What becomes of a side of a connection, as the other side learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// So many bytes more.
    Bytes(usize),
    /// No more bytes.
    End,
    /// It is closed in both directions.
    Closed,
    /// It was killed.
    Died,
}

type Lane = VecDeque<(Timestamp, News)>;

/// The faults of one connection: what is on its way in each direction.
pub(crate) struct Link {
    faults: Faults,
    pub(super) pair: Pair,
    conn: OnceLock<Weak<Conn>>,
    lanes: [Mutex<Lane>; 2],
}

impl Link {
    /// One between this pair, for a connection that is yet to join.
    pub(super) fn new(faults: Faults, pair: Pair) -> Self {
        Self { faults, pair, conn: OnceLock::new(), lanes: Default::default() }
    }

    /// Makes the connection known, so that what is late can come.
    pub(crate) fn join(self: &Arc<Self>, conn: &Arc<Conn>) {
        // A link is made for one connection, so the slot is empty.
        let _ = self.conn.set(Arc::downgrade(conn));
        let mut state = lock(&self.faults.0.state);
        if state.links.len() == state.links.capacity() {
            state.links.retain(|link| link.strong_count() > 0);
        }
        state.links.push(Arc::downgrade(self));
    }

    pub(super) fn conn(&self) -> Option<Arc<Conn>> {
        self.conn.get()?.upgrade()
    }

    /// The way of what `side` writes. Held while its bytes are put behind earlier ones.
    pub(crate) fn way(&self, side: Side) -> LinkWay<'_> {
        LinkWay { link: self, lane: lock(&self.lanes[side as usize]) }
    }

    /// Tells the other side, now or late, and behind everything that is on its way.
    pub(crate) fn tell(&self, conn: &Conn, side: Side, news: News) {
        let mut way = self.way(side);
        match self.faults.fate(self.pair) {
            Fate::Now if way.lane.is_empty() => {
                drop(way);
                conn.tell(side, news);
            }
            Fate::Now => way.join(None, news),
            Fate::Late(due) => way.join(Some(due), news),
        }
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let first = |lane: &Mutex<Lane>| lock(lane).front().map(|(due, _)| *due);
        self.lanes.iter().filter_map(first).min()
    }

    pub(super) fn deliver(&self, now: Timestamp) {
        let Some(conn) = self.conn() else { return };
        for side in [Side::Client, Side::Server] {
            loop {
                let mut lane = lock(&self.lanes[side as usize]);
                let Some((due, news)) = lane.front().copied() else { break };
                if due > now {
                    break;
                }
                lane.pop_front();
                drop(lane);
                conn.tell(side, news);
            }
        }
    }

    /// Everything on its way is due.
    pub(super) fn hurry(&self, now: Timestamp) {
        for lane in &self.lanes {
            lock(lane).iter_mut().for_each(|(due, _)| *due = now);
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("pair", &self.pair).finish_non_exhaustive()
    }
}

/// See [`Link::way`].
pub(crate) struct LinkWay<'a> {
    link: &'a Link,
    lane: MutexGuard<'a, Lane>,
}

impl LinkWay<'_> {
    /// `n` bytes are written. `true` if they come late; sets `severed` if the connection breaks on
    /// them.
    pub(crate) fn carry(&mut self, n: usize, severed: &mut bool) -> bool {
        let faults = &self.link.faults;
        if !faults.0.active.load(Ordering::Acquire) && self.lane.is_empty() {
            return false;
        }
        let fate = {
            let mut state = lock(&faults.0.state);
            let chance = state.fault(self.link.pair).reset;
            if state.dice.falls(chance) {
                state.counts.resets += 1;
                *severed = true;
            }
            state.fate(self.link.pair)
        };
        match fate {
            Fate::Now if self.lane.is_empty() => return false,
            Fate::Now => self.join(None, News::Bytes(n)),
            Fate::Late(due) => self.join(Some(due), News::Bytes(n)),
        }
        true
    }

    /// Behind what is on its way, and not before it.
    fn join(&mut self, due: Option<Timestamp>, news: News) {
        let full = self.lane.len() >= LANE_MAX;
        if let Some((last, before)) = self.lane.back_mut() {
            let due = due.unwrap_or(*last).max(*last);
            if let (News::Bytes(m), News::Bytes(n)) = (*before, news)
                && (full || due == *last)
            {
                (*last, *before) = (due, News::Bytes(m + n));
                return;
            }
            self.lane.push_back((due, news));
        } else if let Some(due) = due {
            self.lane.push_back((due, news));
        }
        lock(&self.link.faults.0.state).counts.late += 1;
    }
}
