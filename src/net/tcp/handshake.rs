//! A connect that may have to wait: for room in a listener's queue, or for the outside.
//!
//! Owns: the wait, from the connecting side. From the other, a listener (`listener`) or whoever
//! carries traffic to the outside (`outbound`) finishes it.
//!
//! ```text
//! Waiting ──listener has room, outside answers──► Done(end)    ──taken──► Over
//!    │ ────listener closes, outside fails ──────► Done(error)  ──taken──► Over
//!    └──── dropped, timed out, member reset ─────────────► Over   (port and ticket free at once)
//! ```
//! A patient one (`parked`) is not done when a listener has room, but when its connection is
//! accepted; and a listener that closes does not fail it.
//! There is no clock here: a caller that gives up drops the [`Connecting`], or calls
//! [`Connecting::give_up`]; where that belongs to somebody else (a guest's socket), whoever waits for it holds an [`Attempt`].
//! Lock order: a listener's state, then a handshake's slot, then those parked; never the other way
//! round.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use super::conn::{End, EndSeed};
use super::halves::Stream;
use super::listener::ListenerCore;
use super::pipe::remember;
use crate::net::addr::Protocol;
use crate::net::lock;
use crate::net::member::OpenError;
use crate::net::registry::Entry;
use crate::net::stats::{SocketInfo, SocketState};

/// Why a connection did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address has the wrong family, is no unicast address, or has address or port zero.
    /// (EINVAL)
    #[error("{0} is not an address to connect to")]
    InvalidAddress(SocketAddr),
    /// The socket is connected, connecting, listening or closed. (EISCONN, EALREADY)
    #[error("the socket cannot connect in its present state")]
    InvalidState,
    /// Nobody listens there. (ECONNREFUSED)
    #[error("connection to {0} refused")]
    Refused(SocketAddr),
    /// The policy does not let this module reach the address. (EACCES)
    #[error("connection to {0} denied")]
    Denied(SocketAddr),
    /// There is no way there. (ENETUNREACH)
    #[error("{0} cannot be reached")]
    Unreachable(SocketAddr),
    /// All ports for "any" are taken. (EADDRNOTAVAIL on Linux, address-in-use in WASI)
    #[error("no free port to connect from")]
    NoPort,
    /// The listener's queue stayed full. (ETIMEDOUT)
    #[error("connection to {0} timed out")]
    TimedOut(SocketAddr),
    /// A limit on sockets or memory, or the module is gone.
    #[error("cannot open a socket")]
    Open(#[from] OpenError),
}

/// What the connecting side leaves with the listener.
#[derive(Debug)]
pub(crate) struct Handshake {
    from: SocketAddr,
    to: SocketAddr,
    /// Of a patient one: how many were before it in this pod.
    serial: Option<u64>,
    slot: Mutex<Slot>,
}

/// A place with a listener.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) place: u64,
    pub(crate) listener: Weak<ListenerCore>,
    /// In the queue of those to be accepted; else it waits for room there.
    pub(crate) admitted: bool,
}

#[derive(Debug)]
enum Slot {
    Waiting {
        seed: EndSeed,
        /// Where it waits; `None` is the outside, or the way there.
        queue: Option<Queue>,
        waker: Option<Waker>,
        /// Woken when the connecting side gives up.
        caller: Option<Waker>,
    },
    Done(Result<Arc<End>, ConnectError>),
    Over,
}

impl Slot {
    /// Somebody waits, and is not just being ended with all that its member has.
    fn is_wanted(&self) -> bool {
        match self {
            Slot::Waiting { seed, .. } => !seed.side.member.is_gone(),
            Slot::Done(_) | Slot::Over => false,
        }
    }
}

impl Handshake {
    pub(crate) fn new(to: SocketAddr, seed: EndSeed) -> Self {
        Self {
            from: seed.side.address,
            to,
            serial: None,
            slot: Mutex::new(Slot::Waiting { seed, queue: None, waker: None, caller: None }),
        }
    }

    /// The same for a connect that outlives listeners.
    pub(crate) fn patient(to: SocketAddr, seed: EndSeed, serial: u64) -> Self {
        Self { serial: Some(serial), ..Self::new(to, seed) }
    }

    pub(crate) fn is_patient(&self) -> bool {
        self.serial.is_some()
    }

    /// The address the connecting side has.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// It has come to a listener, and waits there. `false` if nobody waits any more.
    pub(crate) fn queue_up(&self, at: Queue) -> bool {
        match &mut *lock(&self.slot) {
            Slot::Waiting { queue, .. } => {
                *queue = Some(at);
                true
            }
            Slot::Done(_) | Slot::Over => false,
        }
    }

    /// It is in the queue of those to be accepted. Returns whom to wake; `None` if nobody waits any
    /// more.
    pub(crate) fn admitted(&self) -> Option<Option<Waker>> {
        let mut slot = lock(&self.slot);
        if !slot.is_wanted() {
            return None;
        }
        match &mut *slot {
            Slot::Waiting { queue: Some(queue), waker, .. } => {
                queue.admitted = true;
                Some(waker.take())
            }
            Slot::Waiting { queue: None, .. } | Slot::Done(_) | Slot::Over => None,
        }
    }

    /// Nobody listens where it wants to go: it waits for the next who does. Returns whom to wake.
    #[must_use]
    pub(crate) fn park(self: &Arc<Self>) -> Option<Waker> {
        let serial = self.serial?;
        match &mut *lock(&self.slot) {
            Slot::Waiting { seed, queue, waker, .. } => {
                *queue = None;
                // Under the slot's lock: whoever gives up finds it there, or it comes not there.
                lock(&seed.side.member.net.parked).add(self.to, serial, self);
                waker.take()
            }
            Slot::Done(_) | Slot::Over => None,
        }
    }

    /// The address the connecting side named.
    pub(crate) fn to(&self) -> SocketAddr {
        self.to
    }

    /// Makes the handshake known to its member's registry.
    pub(crate) fn attach(self: &Arc<Self>) {
        let alive = match &*lock(&self.slot) {
            Slot::Waiting { seed, .. } => {
                seed.ticket.attach(Entry::Connecting(Arc::downgrade(self)))
            }
            // Finished meanwhile: the end attaches itself when it is taken.
            Slot::Done(_) | Slot::Over => true,
        };
        if !alive {
            self.abandon(None);
        }
    }

    /// The listener has room: `pair` makes the connection from what was left here. Returns whom to
    /// wake; `None` if nobody waits here any more.
    pub(crate) fn complete(&self, pair: impl FnOnce(EndSeed) -> Arc<End>) -> Option<Option<Waker>> {
        let mut slot = lock(&self.slot);
        if !slot.is_wanted() {
            return None;
        }
        match std::mem::replace(&mut *slot, Slot::Over) {
            Slot::Waiting { seed, waker, .. } => {
                *slot = Slot::Done(Ok(pair(seed)));
                Some(waker)
            }
            other @ (Slot::Done(_) | Slot::Over) => {
                *slot = other;
                None
            }
        }
    }

    /// The listener is gone, or the outside said no.
    pub(crate) fn fail(&self, error: ConnectError) {
        if let Some(waker) = self.settle(error) {
            waker.wake();
        }
    }

    /// The same; returns whom to wake.
    #[must_use]
    pub(crate) fn settle(&self, error: ConnectError) -> Option<Waker> {
        let mut slot = lock(&self.slot);
        let before = std::mem::replace(&mut *slot, Slot::Over);
        match before {
            Slot::Waiting { seed, waker, .. } => {
                *slot = Slot::Done(Err(error));
                drop(slot);
                seed.side.member.counters.count_failure(error);
                waker
            }
            other @ (Slot::Done(_) | Slot::Over) => {
                *slot = other;
                None
            }
        }
    }

    /// The connecting side gives up (`why`, if that is a failure to count), or is gone.
    pub(crate) fn abandon(&self, why: Option<ConnectError>) {
        let before = std::mem::replace(&mut *lock(&self.slot), Slot::Over);
        match before {
            Slot::Waiting { seed, queue, waker, caller } => {
                if let Some(queue) = queue
                    && let Some(listener) = queue.listener.upgrade()
                {
                    listener.forget(queue.place);
                }
                if let Some(serial) = self.serial {
                    lock(&seed.side.member.net.parked).remove(self.to, serial);
                }
                if let Some(why) = why {
                    seed.side.member.counters.count_failure(why);
                }
                drop(seed);
                for waker in waker.into_iter().chain(caller) {
                    waker.wake();
                }
            }
            Slot::Done(Ok(end)) => end.abort(),
            Slot::Done(Err(_)) | Slot::Over => {}
        }
    }

    /// Ready once nobody waits for the outcome any more.
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *lock(&self.slot) {
            Slot::Waiting { caller, .. } => {
                remember(caller, cx.waker());
                Poll::Pending
            }
            Slot::Done(_) | Slot::Over => Poll::Ready(()),
        }
    }

    pub(crate) fn describe(&self) -> SocketInfo {
        SocketInfo {
            member: String::new(),
            protocol: Protocol::Tcp,
            state: SocketState::SynSent,
            local: Some(self.from),
            remote: Some(self.to),
            via: None,
            receive_queue: 0,
            send_queue: 0,
        }
    }
}

/// A connect under way, for whoever waits for its outcome and keeps its time. Dropped before somebody has taken the outcome, it
/// ends the connect: nobody would look at the clock any more.
#[derive(Debug)]
pub(crate) struct Attempt(Arc<Handshake>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.abandon(None);
    }
}

/// A connection that is coming about. A future of the [`Stream`]; usually ready at the first look.
#[derive(Debug)]
pub struct Connecting(Stage);

#[derive(Debug)]
enum Stage {
    Ready(Arc<End>),
    Waiting(Arc<Handshake>),
    Over,
}

impl Connecting {
    pub(crate) fn ready(end: Arc<End>) -> Self {
        Self(Stage::Ready(end))
    }

    pub(crate) fn waiting(handshake: Arc<Handshake>) -> Self {
        Self(Stage::Waiting(handshake))
    }

    /// The address it comes from.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Stage::Ready(end) => Some(end.local_address()),
            Stage::Waiting(handshake) => Some(handshake.from()),
            Stage::Over => None,
        }
    }

    /// To be held by whoever waits; `None` if there is nothing to wait for.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        let Stage::Waiting(handshake) = &self.0 else { return None };
        Some(Attempt(Arc::clone(handshake)))
    }

    /// The end, once there is one. Registers `cx` if given.
    pub(crate) fn take_end(
        &mut self,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<Arc<End>, ConnectError>> {
        match std::mem::replace(&mut self.0, Stage::Over) {
            Stage::Ready(end) => Poll::Ready(Ok(end)),
            Stage::Over => Poll::Ready(Err(ConnectError::InvalidState)),
            Stage::Waiting(handshake) => {
                let mut slot = lock(&handshake.slot);
                match std::mem::replace(&mut *slot, Slot::Over) {
                    Slot::Waiting { seed, queue, mut waker, caller } => {
                        if let Some(cx) = cx {
                            remember(&mut waker, cx.waker());
                        }
                        *slot = Slot::Waiting { seed, queue, waker, caller };
                        drop(slot);
                        self.0 = Stage::Waiting(handshake);
                        Poll::Pending
                    }
                    Slot::Done(result) => {
                        drop(slot);
                        Poll::Ready(result.inspect(End::attach))
                    }
                    // Only a reset of our member empties the slot behind our back.
                    Slot::Over => Poll::Ready(Err(ConnectError::Open(OpenError::Gone))),
                }
            }
        }
    }

    /// Whether it is a patient connect that a listener has let into its queue. Whoever was left
    /// waiting by the last poll is woken when this changes.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        let Stage::Waiting(handshake) = &self.0 else { return false };
        matches!(&*lock(&handshake.slot), Slot::Waiting { queue: Some(queue), .. } if queue.admitted)
    }

    /// Ready once the outcome is there; takes nothing.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Stage::Waiting(handshake) = &self.0 else { return Poll::Ready(()) };
        match &mut *lock(&handshake.slot) {
            Slot::Waiting { waker, .. } => {
                remember(waker, cx.waker());
                Poll::Pending
            }
            Slot::Done(_) | Slot::Over => Poll::Ready(()),
        }
    }

    /// The connection if it is there. `Pending` means the listener's queue is full, and registers
    /// nobody.
    pub fn try_finish(&mut self) -> Poll<Result<Stream, ConnectError>> {
        self.take_end(None).map_ok(Stream::new)
    }

    /// Ends the wait as timed out, unless the connection has come about meanwhile.
    pub fn give_up(&mut self) -> Result<Stream, ConnectError> {
        let to = match &self.0 {
            Stage::Waiting(handshake) => handshake.to,
            Stage::Ready(end) => end.remote_address(),
            Stage::Over => return Err(ConnectError::InvalidState),
        };
        match self.try_finish() {
            Poll::Ready(result) => result,
            Poll::Pending => {
                let timed_out = ConnectError::TimedOut(to);
                self.abandon(Some(timed_out));
                Err(timed_out)
            }
        }
    }

    fn abandon(&mut self, why: Option<ConnectError>) {
        match std::mem::replace(&mut self.0, Stage::Over) {
            Stage::Ready(end) => end.abort(),
            Stage::Waiting(handshake) => handshake.abandon(why),
            Stage::Over => {}
        }
    }
}

impl Future for Connecting {
    type Output = Result<Stream, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.take_end(Some(cx)).map_ok(Stream::new)
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.abandon(None);
    }
}
