//! A listening port: the queue of connections that came, and of those who wait to get into it.
//!
//! Owns: the backlog and its bound, and what happens to both queues when the listener closes.
//! Is not: the port (`lease`), nor a policy on who may connect (`egress`).
//!
//! ```text
//! connect ──► queue (≤ backlog) ──► accept          full queue: connect waits, it is not refused
//!       └───► waiting, in order ──┘ (moves up at each accept; whoever gives up leaves at once)
//! close: queued connections are reset, waiting ones refused; the patient of both are parked
//! ```
//! In the queue is either a connection, which its client uses already, or a patient connect
//! (`parked`), whose connection comes about as it is accepted.
//! Limits: the queue by the backlog ([`MAX_BACKLOG`]), and each connection in it is paid for by the
//! listener's member, so that one who connects, closes and connects again cannot fill the host's
//! memory for nothing; those waiting by the socket limits of the members they are of.
//! Lock order: a listener's state, then a handshake's slot.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::conn::{self, End, EndSeed, Payer, Seen, SideSeed, Unclaimed};
use super::halves::Stream;
use super::handshake::{ConnectError, Connecting, Handshake, Queue};
use super::options::TcpOptions;
use super::pipe::remember;
use super::socket::TcpSocket;
use crate::net::addr::{Family, Protocol};
use crate::net::lease::{self, Lease};
use crate::net::lock;
use crate::net::member::{Held, MemberState, OpenError, SOCKET_COST};
use crate::net::registry::{Entry, Ticket};
use crate::net::stats::{SocketInfo, SocketState};

/// Queue length where none is asked for: what Rust's standard library asks for on Linux.
pub const DEFAULT_BACKLOG: usize = 128;
/// Longest queue, whatever is asked for: Linux's `net.core.somaxconn`.
pub const MAX_BACKLOG: usize = 4096;
/// Places that an empty queue keeps (72 bytes each).
const PLACES_KEPT: usize = 8;

/// Why an accept failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The module may hold no further socket; the connection stays in the queue. (EMFILE)
    #[error("cannot open a socket for the connection")]
    Open(#[from] OpenError),
    /// The listener was closed under us. (EINVAL)
    #[error("the listener is closed")]
    Closed,
}

#[derive(Debug)]
pub(crate) struct ListenerCore {
    lease: Arc<Lease>,
    family: Family,
    member: Arc<MemberState>,
    ticket: Ticket,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Queued>,
    waiting: BTreeMap<u64, Waiter>,
    next_place: u64,
    backlog: usize,
    /// What accepted sockets start with.
    options: TcpOptions,
    closed: bool,
    acceptor: Option<Waker>,
}

/// Somebody to be accepted.
#[derive(Debug)]
struct Queued {
    /// Ascending along the queue.
    place: u64,
    caller: Caller,
    paid: Held,
}

#[derive(Debug)]
enum Caller {
    Connected(Unclaimed),
    /// In the queue: a patient one.
    Waiting(Waiter),
}

impl Caller {
    /// It will not be accepted. With nothing locked.
    fn refuse(self) {
        match self {
            Caller::Connected(side) => drop(side),
            Caller::Waiting(Waiter { handshake, .. }) => {
                handshake.fail(ConnectError::Refused(handshake.to()));
            }
        }
    }
}

/// A connect that waits for room in the queue; a patient one also in it.
#[derive(Debug)]
struct Waiter {
    handshake: Arc<Handshake>,
    /// The address at which it came here.
    real: SocketAddr,
}

impl State {
    fn has_room(&self) -> bool {
        self.queue.len() < self.backlog && self.waiting.is_empty()
    }

    /// The next to be accepted.
    fn pop(&mut self) -> Option<Queued> {
        let next = self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > PLACES_KEPT {
            // What a burst has made it grow to nobody pays for any more.
            self.queue = VecDeque::new();
        }
        next
    }

    fn take_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }
}

impl ListenerCore {
    /// Starts answering at `lease`.
    pub(crate) fn start(
        lease: Arc<Lease>,
        ticket: Ticket,
        family: Family,
        options: TcpOptions,
    ) -> Arc<Self> {
        let core = Arc::new(Self {
            member: Arc::clone(ticket.member()),
            lease,
            family,
            ticket,
            state: Mutex::new(State {
                queue: VecDeque::new(),
                waiting: BTreeMap::new(),
                next_place: 0,
                backlog: options.backlog.clamp(1, MAX_BACKLOG),
                options,
                closed: false,
                acceptor: None,
            }),
        });
        core.lease.answer_tcp(&core);
        if !core.ticket.attach(Entry::Listener(Arc::downgrade(&core))) {
            core.close();
        }
        core.welcome();
        core
    }

    /// Lets in all who waited for somebody to listen here.
    fn welcome(self: &Arc<Self>) {
        let net = &self.member.net;
        let wanted = lock(&net.parked).wanted(self.lease.address().port());
        for to in wanted {
            if lease::listener_at(net, to).is_some_and(|listener| Arc::ptr_eq(&listener, self)) {
                self.take_parked(to);
            }
        }
    }

    /// Lets in, in their order, those who wait for somebody to listen at `to`. Closed meanwhile, it
    /// leaves them to the next.
    pub(crate) fn take_parked(self: &Arc<Self>, to: SocketAddr) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        // With the queue locked, so that nobody who came later is in before them.
        let parked = lock(&self.member.net.parked).take(to);
        for handshake in parked {
            self.queue_up(&mut state, handshake, to);
        }
        let woken = self.let_in(&mut state);
        drop(state);
        wake(woken);
    }

    /// A connection comes in from `seed`, which asked for `to`, and was led here to `real`.
    pub(crate) fn admit(
        self: &Arc<Self>,
        to: SocketAddr,
        real: SocketAddr,
        seed: EndSeed,
    ) -> Result<Connecting, ConnectError> {
        let mut state = lock(&self.state);
        if !state.closed && !state.has_room() {
            let handshake = Arc::new(Handshake::new(to, seed));
            self.queue_up(&mut state, Arc::clone(&handshake), real);
            drop(state);
            handshake.attach();
            return Ok(Connecting::waiting(handshake));
        }
        let paid = if state.closed { None } else { self.member.hold(SOCKET_COST) };
        let Some(paid) = paid else {
            drop(state);
            drop(seed);
            self.member.counters.arrivals_refused.add(1);
            return Err(ConnectError::Refused(to));
        };
        let (client, server) = self.pair(&state, to, real, seed, Payer::Client);
        let place = state.take_place();
        self.push(&mut state, Queued { place, caller: Caller::Connected(server), paid });
        let acceptor = state.acceptor.take();
        drop(state);
        wake(acceptor);
        client.attach();
        Ok(Connecting::ready(client))
    }

    /// The same for a connect that was late, and waits already.
    pub(crate) fn admit_late(self: &Arc<Self>, handshake: &Arc<Handshake>, real: SocketAddr) {
        let mut state = lock(&self.state);
        if state.closed {
            drop(state);
            handshake.fail(ConnectError::Refused(handshake.to()));
            return;
        }
        self.queue_up(&mut state, Arc::clone(handshake), real);
        let woken = self.let_in(&mut state);
        drop(state);
        wake(woken);
    }

    fn queue_up(self: &Arc<Self>, state: &mut State, handshake: Arc<Handshake>, real: SocketAddr) {
        let place = state.take_place();
        let queue = Queue { place, listener: Arc::downgrade(self), admitted: false };
        if handshake.queue_up(queue) {
            state.waiting.insert(place, Waiter { handshake, real });
        }
    }

    fn push(&self, state: &mut State, next: Queued) {
        state.queue.push_back(next);
        self.member.counters.backlog_peak.peak(state.queue.len());
    }

    fn pair(
        &self,
        state: &State,
        asked: SocketAddr,
        real: SocketAddr,
        client: EndSeed,
        payer: Payer,
    ) -> (Arc<End>, Unclaimed) {
        let server = SideSeed {
            member: Arc::clone(&self.member),
            address: real,
            sizes: state.options.sizes,
        };
        conn::pair(client, server, Seen::As(asked), payer)
    }

    /// Takes the next connection. The caller owns what it gets.
    fn accept(
        &self,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<(Arc<End>, TcpOptions), AcceptError>> {
        let mut state = lock(&self.state);
        let (end, caller) = loop {
            let Some(next) = state.pop() else {
                if state.closed {
                    return Poll::Ready(Err(AcceptError::Closed));
                }
                if let Some(cx) = cx {
                    remember(&mut state.acceptor, cx.waker());
                }
                return Poll::Pending;
            };
            let ticket = match self.member.open_paid(Protocol::Tcp, next.paid) {
                Ok(ticket) => ticket,
                Err((error, paid)) => {
                    // At its limit of sockets; the module finds the connection again later.
                    state.queue.push_front(Queued { paid, ..next });
                    return Poll::Ready(Err(error.into()));
                }
            };
            match next.caller {
                Caller::Connected(side) => break (side.claim(ticket), None),
                Caller::Waiting(waiter) => {
                    if let Some((side, waker)) = self.complete(&state, &waiter) {
                        break (side.claim(ticket), waker);
                    }
                    // Has given up this very moment.
                }
            }
        };
        let mut woken = self.move_up(&mut state);
        woken.extend(caller);
        let options = state.options;
        drop(state);
        wake(woken);
        end.attach();
        self.member.counters.accepts.add(1);
        Poll::Ready(Ok((end, options)))
    }

    /// Makes the connection of a connect that waited: our side, and whom to wake. `None` if nobody
    /// waits there any more.
    fn complete(&self, state: &State, waiter: &Waiter) -> Option<(Unclaimed, Option<Waker>)> {
        let Waiter { handshake, real } = waiter;
        let payer = if handshake.is_patient() { Payer::Server } else { Payer::Client };
        let mut server = None;
        let waker = handshake.complete(|seed| {
            let (client, ours) = self.pair(state, handshake.to(), *real, seed, payer);
            server = Some(ours);
            client
        })?;
        server.map(|server| (server, waker))
    }

    /// Lets those who wait into the queue, as far as there is room. Returns whom to wake.
    #[must_use]
    fn move_up(&self, state: &mut State) -> Vec<Waker> {
        let mut woken = Vec::new();
        while state.queue.len() < state.backlog
            && let Some((place, waiter)) = state.waiting.pop_first()
        {
            let Some(paid) = self.member.hold(SOCKET_COST) else {
                self.member.counters.arrivals_refused.add(1);
                let refused = ConnectError::Refused(waiter.handshake.to());
                woken.extend(waiter.handshake.settle(refused));
                continue;
            };
            let let_in = if waiter.handshake.is_patient() {
                let waker = waiter.handshake.admitted();
                waker.map(|waker| (Caller::Waiting(waiter), waker))
            } else {
                let made = self.complete(state, &waiter);
                made.map(|(side, waker)| (Caller::Connected(side), waker))
            };
            if let Some((caller, waker)) = let_in {
                woken.extend(waker);
                self.push(state, Queued { place, caller, paid });
            }
        }
        woken
    }

    /// The same, when it is not the acceptor who made room.
    #[must_use]
    fn let_in(&self, state: &mut State) -> Vec<Waker> {
        let mut woken = self.move_up(state);
        if !state.queue.is_empty() {
            woken.extend(state.acceptor.take());
        }
        woken
    }

    /// Whoever waits at `place` has given up.
    pub(crate) fn forget(&self, place: u64) {
        let mut state = lock(&self.state);
        let waiter = state.waiting.remove(&place);
        let queued = state.queue.binary_search_by_key(&place, |queued| queued.place);
        let queued = queued.ok().and_then(|index| state.queue.remove(index));
        // Also if it is in neither: an accept that met it there has left its room to us.
        let woken = self.let_in(&mut state);
        drop(state);
        wake(woken);
        drop((waiter, queued));
    }

    /// Stops answering: leaves the patient to the next who listens, frees the port, resets what is
    /// queued and refuses what waits.
    pub(crate) fn close(&self) {
        let (queue, waiting, acceptor) = {
            let mut state = lock(&self.state);
            state.closed = true;
            let queue = std::mem::take(&mut state.queue);
            (queue, std::mem::take(&mut state.waiting), state.acceptor.take())
        };
        let queued = queue.into_iter().map(|queued| (queued.caller, Some(queued.paid)));
        let waiting = waiting.into_values().map(|waiter| (Caller::Waiting(waiter), None));
        let mut refused = Vec::new();
        // Before the port is free, so that the next to have it finds them in their order.
        for (caller, paid) in queued.chain(waiting) {
            match caller {
                Caller::Waiting(waiter) if waiter.handshake.is_patient() => {
                    wake(waiter.handshake.park());
                }
                other @ (Caller::Connected(_) | Caller::Waiting(_)) => refused.push((other, paid)),
            }
        }
        self.lease.release();
        self.member.counters.arrivals_refused.add(refused.len());
        for (caller, _paid) in refused {
            caller.refuse();
        }
        wake(acceptor);
    }

    pub(crate) fn describe(&self) -> SocketInfo {
        let state = lock(&self.state);
        SocketInfo {
            member: String::new(),
            protocol: Protocol::Tcp,
            state: if state.closed { SocketState::Closed } else { SocketState::Listen },
            local: Some(self.lease.address()),
            remote: None,
            via: None,
            receive_queue: (state.queue.len() + state.waiting.len()) as u64,
            send_queue: state.backlog as u64,
        }
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// A listening port. One acceptor: the last waker given is the one woken. Dropping it closes the
/// port.
#[derive(Debug)]
pub struct Listener(Arc<Open>);

/// What all handles of a listener share: the port closes with the last of them.
#[derive(Debug)]
struct Open(Arc<ListenerCore>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Listener {
    pub(crate) fn new(core: Arc<ListenerCore>) -> Self {
        Self(Arc::new(Open(core)))
    }

    /// Another handle to the same port.
    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    fn core(&self) -> &Arc<ListenerCore> {
        &self.0.0
    }

    /// The address it is bound to.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.core().lease.address()
    }

    /// The next connection. `Pending` means none yet, and registers nobody.
    pub fn try_accept(&mut self) -> Poll<Result<Stream, AcceptError>> {
        self.core().accept(None).map_ok(|(end, _)| Stream::new(end))
    }

    /// The same, and wakes `cx` when one comes.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, AcceptError>> {
        self.core().accept(Some(cx)).map_ok(|(end, _)| Stream::new(end))
    }

    /// Ready once an accept has something to say.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.core().state);
        if state.closed || !state.queue.is_empty() {
            return Poll::Ready(());
        }
        remember(&mut state.acceptor, cx.waker());
        Poll::Pending
    }

    /// The next connection, as a socket with the listener's options. `Pending` registers nobody.
    pub fn try_accept_socket(&mut self) -> Poll<Result<TcpSocket, AcceptError>> {
        self.accept_socket(None)
    }

    /// The same, and wakes `cx` when one comes.
    pub fn poll_accept_socket(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<TcpSocket, AcceptError>> {
        self.accept_socket(Some(cx))
    }

    fn accept_socket(
        &mut self,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<TcpSocket, AcceptError>> {
        let core = self.core();
        core.accept(cx).map_ok(|(end, options)| {
            TcpSocket::accepted(Arc::clone(&core.member), core.family, options, end)
        })
    }

    /// Resets the next connection unaccepted: for whoever cannot take it and cannot leave it
    /// waiting either.
    pub fn turn_away(&mut self) {
        let mut state = lock(&self.core().state);
        let Some(Queued { caller, paid, .. }) = state.pop() else { return };
        let woken = self.core().let_in(&mut state);
        drop(state);
        self.core().member.counters.arrivals_refused.add(1);
        wake(woken);
        caller.refuse();
        drop(paid);
    }

    /// Changes the length of the queue. What is queued stays; whoever now has room comes in.
    pub fn set_backlog(&mut self, backlog: usize) {
        let mut state = lock(&self.core().state);
        state.backlog = backlog.clamp(1, MAX_BACKLOG);
        let woken = self.core().let_in(&mut state);
        drop(state);
        wake(woken);
    }

    /// What connections made from now on start with.
    pub(crate) fn set_options(&mut self, options: TcpOptions) {
        lock(&self.core().state).options = options;
    }
}

#[cfg(test)]
#[path = "../tests/listener.rs"]
mod tests;
