//! A member of a pod's network: one run of one module, or the daemon itself.
//!
//! Owns: everything that member opened. Dropping it (or [`Member::reset`]) aborts its connections,
//! closes its listeners and frees its ports, so a killed module leaves nothing and its successor
//! can bind at once.
//! Is not: the sockets themselves (`tcp`, `udp`), which only hold a ticket from here.
//!
//! ```text
//! Member ──owns──► Registry ──weak──► sockets
//!    ▲                                   │
//!    └──────────── Ticket ◄──────────────┘   (one per socket: its place, its fixed cost)
//! ```
//! Money: each socket has a fixed price, buffered bytes their own; both are paid to the member's
//! [`Ledger`], after the member's and the pod's own bounds. Lock order: the registry is a leaf.
//! Limits: [`MemberLimits`], [`super::NetLimits`].

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::addr::Protocol;
use super::egress::{Lookup, MAX_LOOKUPS};
use super::names::ResolveError;
use super::registry::{Entry, Registry, Ticket};
use super::stats::{CounterSnapshot, Counters, SocketInfo};
use super::{Net, lock};

/// What one socket costs its member, in bytes: about what its structures take on the host's heap,
/// both sides of the guest boundary together. A module cannot hold sockets for nothing.
pub const SOCKET_COST: usize = 1024;

/// Where a member's memory is paid for. Asked while a socket is locked: it answers at once and does
/// not call the network.
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Takes `bytes` if they are to be had. A refusal changes nothing; the network then makes the
    /// writer wait, drops the datagram, or fails the call.
    fn try_charge(&self, bytes: usize) -> bool;
    /// The same for what others cause (they connect, they send) and for what need not be (a window wider than its least): whoever
    /// keeps the account may leave a part of it to the member's own calls, which end it when they find nothing.
    fn try_charge_for_others(&self, bytes: usize) -> bool {
        self.try_charge(bytes)
    }
    /// Gives back what an earlier charge took.
    fn release(&self, bytes: usize);
    /// A call of the member's own fails for want of `bytes`, here or of another bound. Whoever keeps the account may end the member
    /// for it.
    fn missed(&self, _bytes: usize) {}
}

/// A ledger that always pays: for the daemon's own member, whose buffers no module asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn try_charge(&self, _bytes: usize) -> bool {
        true
    }

    fn release(&self, _bytes: usize) {}
}

/// What one member may hold at once.
#[derive(Clone, Copy, Debug)]
pub struct MemberLimits {
    /// Sockets: listening, connected, connecting and datagram sockets together.
    pub max_sockets: usize,
    /// Bytes buffered on this member's account: written and not yet read by peers, or datagrams
    /// waiting for it.
    pub max_buffered: usize,
}

impl Default for MemberLimits {
    /// 1,024 sockets is what Linux gives a process by default; 16 MiB is 128 full connections, far
    /// more than a gateway's module keeps stalled, and small beside the least memory limit worth
    /// setting for 1,024 sockets.
    fn default() -> Self {
        Self { max_sockets: 1024, max_buffered: 16 << 20 }
    }
}

/// Why a socket could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The member has as many sockets as it may.
    #[error("the module has reached its limit of sockets")]
    MemberLimit,
    /// The pod has as many sockets as it may.
    #[error("the pod has reached its limit of sockets")]
    PodLimit,
    /// The member's memory is used up.
    #[error("no memory left for a socket")]
    NoMemory,
    /// The member was reset.
    #[error("the module's network is closed")]
    Gone,
}

/// The owner of everything one module run opens. See the header.
#[derive(Debug)]
pub struct Member(pub(crate) Arc<MemberState>);

impl Member {
    pub(crate) fn new(
        net: &Arc<Net>,
        name: &str,
        limits: MemberLimits,
        ledger: Arc<dyn Ledger>,
    ) -> Self {
        let state = Arc::new(MemberState {
            net: Arc::clone(net),
            name: name.into(),
            limits,
            ledger,
            gone: AtomicBool::new(false),
            buffered: AtomicUsize::new(0),
            lookups: AtomicUsize::new(0),
            counters: Counters::default(),
            registry: Mutex::new(Registry::default()),
        });
        let mut members = lock(&net.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&state));
        drop(members);
        Self(state)
    }

    /// The name it joined with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The network it is a member of.
    #[must_use]
    pub fn net(&self) -> super::PodNet {
        super::PodNet(Arc::clone(&self.0.net))
    }

    /// What its traffic adds up to.
    #[must_use]
    pub fn counters(&self) -> CounterSnapshot {
        self.0.counters.snapshot()
    }

    /// Sockets it holds now.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        lock(&self.0.registry).open
    }

    /// Bytes buffered now on its account.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.0.buffered.load(Ordering::Relaxed)
    }

    /// The addresses of `name`: the pod's own names are answered at once, others by whoever decides
    /// about what leaves the pod ([`super::Egress::lookup`]).
    #[must_use]
    pub fn lookup(&self, name: &str) -> Lookup {
        match self.0.net.names.resolve(name) {
            Err(ResolveError::NotFound) => self.0.lookup_elsewhere(name),
            known => Lookup::Now(known),
        }
    }

    /// Its rows of the socket table.
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketInfo> {
        self.0.sockets()
    }

    /// Pays for `bytes` that the host keeps on the member's account beside the network's own: what an
    /// adapter needs for a socket. `None` if its memory is used up.
    #[must_use]
    pub fn pay(&self, bytes: usize) -> Option<Paid> {
        let ledger = &self.0.ledger;
        if !ledger.try_charge(bytes) {
            self.0.counters.memory_refused.add(1);
            ledger.missed(bytes);
            return None;
        }
        Some(Paid { ledger: Arc::clone(ledger), bytes })
    }

    /// Ends everything it opened: peers of its connections see a reset after what it had already
    /// written, its listeners close, its ports are free. Nothing can be opened by it afterwards.
    /// Also done on drop.
    pub fn reset(&self) {
        self.0.reset();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.reset();
    }
}

pub(crate) struct MemberState {
    pub(crate) net: Arc<Net>,
    pub(crate) name: Box<str>,
    limits: MemberLimits,
    ledger: Arc<dyn Ledger>,
    gone: AtomicBool,
    buffered: AtomicUsize,
    lookups: AtomicUsize,
    pub(crate) counters: Counters,
    pub(crate) registry: Mutex<Registry>,
}

impl MemberState {
    /// A place for one more socket.
    pub(crate) fn open(self: &Arc<Self>, protocol: Protocol) -> Result<Ticket, OpenError> {
        let result = self.try_open(protocol);
        if result.is_err() {
            self.counters.sockets_refused.add(1);
        }
        result
    }

    fn try_open(self: &Arc<Self>, protocol: Protocol) -> Result<Ticket, OpenError> {
        if !self.ledger.try_charge(SOCKET_COST) {
            self.missed(SOCKET_COST);
            return Err(OpenError::NoMemory);
        }
        self.take_place(protocol).inspect_err(|_| self.ledger.release(SOCKET_COST))
    }

    /// A place for one more socket that is paid for already; `paid` is [`SOCKET_COST`].
    pub(crate) fn open_paid(
        self: &Arc<Self>,
        protocol: Protocol,
        paid: Held,
    ) -> Result<Ticket, (OpenError, Held)> {
        match self.take_place(protocol) {
            Ok(ticket) => {
                paid.leave_to_socket();
                Ok(ticket)
            }
            Err(error) => {
                self.counters.sockets_refused.add(1);
                Err((error, paid))
            }
        }
    }

    fn take_place(self: &Arc<Self>, protocol: Protocol) -> Result<Ticket, OpenError> {
        if !take_within(&self.net.sockets, 1, self.net.limits.max_sockets) {
            return Err(OpenError::PodLimit);
        }
        let mut registry = lock(&self.registry);
        let refusal = if self.is_gone() {
            OpenError::Gone
        } else if registry.open >= self.limits.max_sockets {
            OpenError::MemberLimit
        } else {
            let place = registry.add(Entry::Idle(protocol));
            self.counters.sockets_peak.peak(registry.open);
            return Ok(Ticket::new(Arc::clone(self), place));
        };
        self.net.sockets.fetch_sub(1, Ordering::Relaxed);
        Err(refusal)
    }

    pub(crate) fn give_back_socket(&self) {
        self.net.sockets.fetch_sub(1, Ordering::Relaxed);
        self.ledger.release(SOCKET_COST);
    }

    fn lookup_elsewhere(self: &Arc<Self>, name: &str) -> Lookup {
        self.counters.lookups.add(1);
        let Some(turn) = Turn::take(self) else {
            self.counters.lookups_refused.add(1);
            return Lookup::Now(Err(ResolveError::Temporary));
        };
        match self.net.egress.lookup(&self.name, name) {
            Lookup::Now(answer) => {
                if answer == Err(ResolveError::Temporary) {
                    self.counters.lookups_refused.add(1);
                }
                Lookup::Now(never_empty(answer))
            }
            Lookup::Later(answer) => Lookup::Later(Box::pin(async move {
                let _turn = turn;
                never_empty(answer.await)
            })),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Pays for `bytes` of buffer, of what is left to others; on refusal nothing is taken.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        self.charge_from(bytes, |ledger| ledger.try_charge_for_others(bytes))
    }

    /// The same for a call of its own that fails without.
    pub(crate) fn charge_own(&self, bytes: usize) -> bool {
        self.charge_from(bytes, |ledger| ledger.try_charge(bytes))
    }

    fn charge_from(&self, bytes: usize, take: impl FnOnce(&dyn Ledger) -> bool) -> bool {
        let ok = take_within(&self.buffered, bytes, self.limits.max_buffered)
            && self.charge_pod(bytes, take);
        if !ok {
            self.counters.memory_refused.add(1);
        }
        ok
    }

    /// A call of its own fails for want of `bytes` of buffer.
    pub(crate) fn missed(&self, bytes: usize) {
        self.ledger.missed(bytes);
    }

    /// Pays for `bytes` until the answer is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.charge(bytes).then(|| Held { member: Arc::clone(self), bytes })
    }

    /// The same for a call of its own that fails without.
    pub(crate) fn hold_own(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.charge_own(bytes).then(|| Held { member: Arc::clone(self), bytes })
    }

    /// The pod's share and the ledger's, after the member's own was taken.
    fn charge_pod(&self, bytes: usize, take: impl FnOnce(&dyn Ledger) -> bool) -> bool {
        if take_within(&self.net.buffered, bytes, self.net.limits.max_buffered) {
            if take(&*self.ledger) {
                self.counters.buffered_peak.peak(self.buffered.load(Ordering::Relaxed));
                return true;
            }
            self.net.buffered.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    pub(crate) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.uncount(bytes);
            self.ledger.release(bytes);
        }
    }

    fn uncount(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        self.net.buffered.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sockets(&self) -> Vec<SocketInfo> {
        // Rows are made outside of the lock, since each socket has a lock of its own.
        let entries = lock(&self.registry).entries();
        entries.iter().filter_map(|entry| entry.describe(&self.name)).collect()
    }

    fn reset(&self) {
        let entries = {
            let registry = lock(&self.registry);
            if self.gone.swap(true, Ordering::AcqRel) {
                return;
            }
            registry.entries()
        };
        // Listeners first: nobody is let in where others of this member give up their places.
        let (listeners, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| matches!(entry, Entry::Listener(_)));
        for entry in listeners.into_iter().chain(others) {
            entry.abort();
        }
    }
}

/// What [`Member::pay`] took; given back when it is dropped.
#[derive(Debug)]
pub struct Paid {
    ledger: Arc<dyn Ledger>,
    bytes: usize,
}

impl Drop for Paid {
    fn drop(&mut self) {
        self.ledger.release(self.bytes);
    }
}

/// Buffered bytes paid for.
#[derive(Debug)]
pub(crate) struct Held {
    member: Arc<MemberState>,
    bytes: usize,
}

impl Held {
    /// The bytes are a socket's price from now on, and no buffer any more.
    fn leave_to_socket(mut self) {
        self.member.uncount(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.member.release(self.bytes);
    }
}

/// One of the look-ups that a member may have under way.
#[derive(Debug)]
struct Turn(Arc<MemberState>);

impl Turn {
    fn take(member: &Arc<MemberState>) -> Option<Self> {
        take_within(&member.lookups, 1, MAX_LOOKUPS).then(|| Self(Arc::clone(member)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lookups.fetch_sub(1, Ordering::Relaxed);
    }
}

fn never_empty(answer: Result<Vec<IpAddr>, ResolveError>) -> Result<Vec<IpAddr>, ResolveError> {
    match answer {
        Ok(addresses) if addresses.is_empty() => Err(ResolveError::NotFound),
        other => other,
    }
}

impl Drop for MemberState {
    fn drop(&mut self) {
        let mut retired = lock(&self.net.retired);
        let known = retired.contains_key(&self.name) || retired.len() < super::RETIRED_NAMES_MAX;
        let name = if known { self.name.clone() } else { Box::default() };
        retired.entry(name).or_default().absorb(&self.counters.snapshot());
    }
}

impl fmt::Debug for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({})", self.name)
    }
}

/// Adds `n` to `counter` unless that passes `limit`.
fn take_within(counter: &AtomicUsize, n: usize, limit: usize) -> bool {
    // Not added and taken back: others would be refused meanwhile what there is.
    let add = |before: usize| before.checked_add(n).filter(|&after| after <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}
