//! Faults on demand: a network between pods as bad as a test wants it.
//!
//! Owns: the orders (who loses, delays, reorders, resets, is cut off from whom), the dice, and what
//! is on its way meanwhile.
//! Is not: a clock. What is late comes when [`Faults::advance`] is told that its time has come; the
//! time of a send is that of the last such call. Nor a part of a node in earnest: a network made
//! without faults ([`NetConfig::faults`](super::NetConfig)) pays for them with one look at a null
//! pointer.
//!
//! ```text
//! TCP  write ─► lane of the connection (first in, first out) ─► advance, heal ─► reader
//!      connect ─► post ─► listener           a lost packet is a late one: TCP repeats it
//! UDP  send ─► lost │ post ─► receiver       reordered: behind the next one to the same receiver
//! ```
//! The same seed and the same calls in the same order give the same faults.
//! Locks: a lane before the state, never the other way round.
//! Limits: [`POST_MAX`] datagrams and connects on their way, beyond which datagrams are lost and
//! connects refused; what is on its way in a connection by its pipes ([`link`]).

mod dice;
mod link;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::lock;
use crate::clock::Timestamp;
use dice::Dice;

pub(crate) use link::{Link, News};

/// Most datagrams and connects on their way at once.
pub const POST_MAX: usize = 65_536;

/// What happens between two addresses, in both directions. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// How long everything takes at least.
    pub delay: Duration,
    /// By how much longer, at most.
    pub jitter: Duration,
    /// Of a thousand datagrams, how many are lost.
    pub loss: u16,
    /// Of a thousand datagrams, how many come after the one that was sent next.
    pub reorder: u16,
    /// Of a thousand writes to a connection, how many break it.
    pub reset: u16,
}

/// How often what was ordered has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Datagrams lost.
    pub lost: u64,
    /// Datagrams that came behind a later one.
    pub reordered: u64,
    /// Datagrams, connects and parts of connections that came late.
    pub late: u64,
    /// Connections broken.
    pub resets: u64,
}

/// The faults of one or more networks; clones are the same. See the header.
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

struct Inner {
    /// Whether anything is ordered; else everything passes at a glance.
    active: AtomicBool,
    state: Mutex<State>,
}

/// Two addresses, in either order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair(IpAddr, IpAddr);

impl Pair {
    pub(crate) fn new(a: IpAddr, b: IpAddr) -> Self {
        if a <= b { Self(a, b) } else { Self(b, a) }
    }
}

struct State {
    now: Timestamp,
    dice: Dice,
    everywhere: Fault,
    between: HashMap<Pair, Fault>,
    parted: HashSet<Pair>,
    post: Vec<Parcel>,
    /// Waiting for the next datagram between the two.
    behind: HashMap<Pair, Parcel>,
    links: Vec<Weak<Link>>,
    counts: FaultCounts,
}

/// Something on its way, and what its arrival does.
struct Parcel {
    due: Timestamp,
    pair: Pair,
    arrive: Box<dyn FnOnce() + Send>,
}

/// [`POST_MAX`] connects and datagrams are on their way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoRoom;

/// What becomes of something sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Now,
    Late(Timestamp),
}

impl Faults {
    /// No faults yet. `seed` decides the dice.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Inner {
            active: AtomicBool::new(false),
            state: Mutex::new(State {
                now: Timestamp::simulated(Duration::ZERO),
                dice: Dice(seed),
                everywhere: Fault::default(),
                between: HashMap::new(),
                parted: HashSet::new(),
                post: Vec::new(),
                behind: HashMap::new(),
                links: Vec::new(),
                counts: FaultCounts::default(),
            }),
        }))
    }

    /// From now on, `fault` lies between `a` and `b`: pods' addresses (within a pod, its own twice)
    /// or outside ones. Goes before [`Faults::everywhere`].
    pub fn between(&self, a: IpAddr, b: IpAddr, fault: Fault) {
        self.change(|state| {
            state.between.insert(Pair::new(a, b), fault);
        });
    }

    /// From now on, `fault` lies between all that have no order of their own.
    pub fn everywhere(&self, fault: Fault) {
        self.change(|state| state.everywhere = fault);
    }

    /// Cuts `a` off from `b`. Nothing is told to either side: connects wait, bytes stay on their
    /// way, datagrams are lost.
    pub fn part(&self, a: IpAddr, b: IpAddr) {
        self.change(|state| {
            state.parted.insert(Pair::new(a, b));
        });
    }

    /// Undoes [`Faults::part`]: what waited comes.
    pub fn heal(&self, a: IpAddr, b: IpAddr) {
        self.change(|state| {
            state.parted.remove(&Pair::new(a, b));
        });
        self.deliver();
    }

    /// Breaks all connections between `a` and `b`: both sides see a reset. Says how many.
    pub fn reset(&self, a: IpAddr, b: IpAddr) -> usize {
        let pair = Pair::new(a, b);
        let links = lock(&self.0.state).live_links();
        let conns = links.iter().filter(|link| link.pair == pair).filter_map(|link| link.conn());
        let broken = conns.map(|conn| conn.sever()).count();
        lock(&self.0.state).counts.resets += broken as u64;
        broken
    }

    /// Takes all orders back; what is on its way comes at once.
    pub fn clear(&self) {
        self.change(|state| {
            state.everywhere = Fault::default();
            state.between.clear();
            state.parted.clear();
            state.post.iter_mut().for_each(|parcel| parcel.due = state.now);
        });
        let (links, now) = {
            let mut state = lock(&self.0.state);
            (state.live_links(), state.now)
        };
        for link in links {
            link.hurry(now);
        }
        self.deliver();
    }

    /// It is `now`: what is due comes. Returns when the next thing is.
    pub fn advance(&self, now: Timestamp) -> Option<Timestamp> {
        {
            let mut state = lock(&self.0.state);
            state.now = state.now.max(now);
        }
        self.deliver();
        let (links, posted) = {
            let mut state = lock(&self.0.state);
            let mut links = state.live_links();
            links.retain(|link| !state.parted.contains(&link.pair));
            let parcels = state.post.iter().filter(|parcel| !state.parted.contains(&parcel.pair));
            (links, parcels.map(|parcel| parcel.due).min())
        };
        // With the state free: whoever writes has a lane, and waits for the state.
        links.iter().filter_map(|link| link.next_due()).chain(posted).min()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        lock(&self.0.state).counts
    }

    fn change(&self, order: impl FnOnce(&mut State)) {
        let mut state = lock(&self.0.state);
        order(&mut state);
        let any = state.everywhere != Fault::default()
            || state.between.values().any(|fault| *fault != Fault::default())
            || !state.parted.is_empty();
        self.0.active.store(any, Ordering::Release);
    }

    /// Lets everything come that is due, in the order of its time, with nothing locked.
    fn deliver(&self) {
        let (links, now, due) = {
            let mut state = lock(&self.0.state);
            (state.live_links(), state.now, state.take_due())
        };
        for parcel in due {
            (parcel.arrive)();
        }
        for link in links {
            if !lock(&self.0.state).parted.contains(&link.pair) {
                link.deliver(now);
            }
        }
    }

    /// Faults for a new connection.
    pub(crate) fn link(&self, pair: Pair) -> Arc<Link> {
        Arc::new(Link::new(self.clone(), pair))
    }

    fn fate(&self, pair: Pair) -> Fate {
        if self.0.active.load(Ordering::Acquire) {
            lock(&self.0.state).fate(pair)
        } else {
            Fate::Now
        }
    }

    /// A datagram leaves. `Some` gives `arrive` back, to be run now; then whatever waited for it is
    /// to be run by [`Faults::after`].
    pub(crate) fn datagram<T, F: FnOnce() -> T + Send + 'static>(
        &self,
        pair: Pair,
        arrive: F,
    ) -> Option<F> {
        if !self.0.active.load(Ordering::Acquire) {
            return Some(arrive);
        }
        let mut state = lock(&self.0.state);
        let fault = state.fault(pair);
        if state.parted.contains(&pair) || state.dice.falls(fault.loss) {
            state.counts.lost += 1;
            return None;
        }
        // One waits at a time: the next one sent is the one it waits for.
        let reordered = state.dice.falls(fault.reorder) && !state.behind.contains_key(&pair);
        let fate = state.fate(pair);
        let due = match fate {
            Fate::Late(due) => due,
            Fate::Now if !reordered => return Some(arrive),
            Fate::Now => state.now,
        };
        let parcel = Parcel { due, pair, arrive: Box::new(move || drop(arrive())) };
        if reordered {
            state.counts.reordered += 1;
            state.behind.insert(pair, parcel);
        } else if state.post.len() < POST_MAX {
            state.counts.late += 1;
            state.post.push(parcel);
            state.post_behind(pair);
        } else {
            state.counts.lost += 1;
        }
        None
    }

    /// A datagram between the two has come: so does the one that waited for it.
    pub(crate) fn after(&self, pair: Pair) {
        if !self.0.active.load(Ordering::Acquire) {
            return;
        }
        let parcel = lock(&self.0.state).behind.remove(&pair);
        if let Some(parcel) = parcel {
            (parcel.arrive)();
        }
    }

    /// A connect leaves. `Ok` gives `arrive` back, to be run now; `Err` means that there is no room
    /// on the way.
    pub(crate) fn connect<F: FnOnce() + Send + 'static>(
        &self,
        pair: Pair,
        arrive: F,
    ) -> Result<Option<F>, NoRoom> {
        let Fate::Late(due) = self.fate(pair) else { return Ok(Some(arrive)) };
        let mut state = lock(&self.0.state);
        if state.post.len() >= POST_MAX {
            return Err(NoRoom);
        }
        state.counts.late += 1;
        state.post.push(Parcel { due, pair, arrive: Box::new(arrive) });
        Ok(None)
    }
}

impl State {
    fn fault(&self, pair: Pair) -> Fault {
        self.between.get(&pair).copied().unwrap_or(self.everywhere)
    }

    fn fate(&mut self, pair: Pair) -> Fate {
        let fault = self.fault(pair);
        if self.parted.contains(&pair) {
            return Fate::Late(self.now);
        }
        if fault.delay.is_zero() && fault.jitter.is_zero() {
            return Fate::Now;
        }
        Fate::Late(self.now.plus(fault.delay + self.dice.part_of(fault.jitter)))
    }

    /// The datagram that waited comes right after the one just posted.
    fn post_behind(&mut self, pair: Pair) {
        if let Some(mut waiting) = self.behind.remove(&pair) {
            waiting.due = self.post.last().map_or(self.now, |parcel| parcel.due);
            self.post.push(waiting);
        }
    }

    fn take_due(&mut self) -> Vec<Parcel> {
        let (now, parted) = (self.now, &self.parted);
        let here = |parcel: &Parcel| parcel.due <= now && !parted.contains(&parcel.pair);
        let (mut due, later) = std::mem::take(&mut self.post).into_iter().partition(here);
        self.post = later;
        let lonely: Vec<Pair> =
            self.behind.values().filter(|parcel| here(parcel)).map(|parcel| parcel.pair).collect();
        // Nothing more was sent: it has waited long enough.
        due.extend(lonely.iter().filter_map(|pair| self.behind.remove(pair)));
        due.sort_by_key(|parcel: &Parcel| parcel.due);
        due
    }

    fn live_links(&mut self) -> Vec<Arc<Link>> {
        self.links.retain(|link| link.strong_count() > 0);
        self.links.iter().filter_map(Weak::upgrade).collect()
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0.state);
        f.debug_struct("Faults")
            .field("everywhere", &state.everywhere)
            .field("between", &state.between)
            .field("parted", &state.parted)
            .field("counts", &state.counts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
