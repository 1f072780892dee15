//! UDP inside a pod.
//!
//! Owns: a socket's queue of datagrams, its bound, and who is dropped when it is full.
//! Is not: reliable. A full queue drops and counts, on the receiver's account; the sender never
//! waits.
//! Rules (Linux): a connected socket hears only its peer; a datagram for a port where nobody
//! listens vanishes, but a *connected* sender learns of it at its next call (`ECONNREFUSED`, once).
//! Lock order: the table of ports (to find the receiver) is let go before a socket's state is
//! locked; two sockets' states are never held together.
//! Limits: a datagram by what UDP can carry; a queue by its receive buffer size, each datagram
//! counted with [`DATAGRAM_OVERHEAD`], so that empty ones are bounded too.

mod flows;
mod reply;
mod socket;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

pub use reply::UdpReply;
pub use socket::{Receiving, UdpSocket};

use super::addr::{Family, Protocol};
use super::lease::Lease;
use super::lock;
use super::member::MemberState;
use super::registry::Ticket;
use super::stats::{SocketInfo, SocketState};
use super::tcp::socket::BindError;
use super::waiters::Waiters;
use flows::Flows;

/// Largest payload over IPv4: 65,535 less the headers of IP (20) and UDP (8).
pub const MAX_PAYLOAD_V4: usize = 65_507;
/// Largest payload over IPv6, whose length field leaves out its own header.
pub const MAX_PAYLOAD_V6: usize = 65_527;
/// What a datagram in a queue counts beside its bytes: about what its entry takes.
const DATAGRAM_OVERHEAD: usize = 128;
/// Queue bound where none is asked for, in bytes (Linux's `net.core.rmem_default`).
const DEFAULT_QUEUE: usize = 208 * 1024;
/// Places for datagrams that an empty queue keeps (64 bytes each): who answers one question after another does not allocate for the
/// queue itself.
const PLACES_KEPT: usize = 16;

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The address has the wrong family, or address or port zero. (EINVAL)
    #[error("{0} is not an address to send to")]
    InvalidAddress(SocketAddr),
    /// The socket is connected to another address. (EISCONN)
    #[error("the socket is connected to another address than {0}")]
    OtherPeer(SocketAddr),
    /// No address was given and the socket is not connected. (EDESTADDRREQ)
    #[error("no address to send to")]
    NoAddress,
    /// Longer than a datagram can be. (EMSGSIZE)
    #[error("a datagram of {0} bytes is too long")]
    TooLong(usize),
    /// Nobody had listened where an earlier datagram went. (ECONNREFUSED)
    #[error("an earlier datagram was refused")]
    Refused,
    /// The policy does not let this module reach the address. (EACCES)
    #[error("sending to {0} denied")]
    Denied(SocketAddr),
    /// There is no way there. (ENETUNREACH)
    #[error("{0} cannot be reached")]
    Unreachable(SocketAddr),
    /// The socket was not bound, and the implicit bind failed.
    #[error("cannot bind")]
    Bind(#[from] BindError),
    /// The module was reset.
    #[error("the module's network is closed")]
    Gone,
}

/// Why a receive failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Nobody had listened where an earlier datagram went. (ECONNREFUSED)
    #[error("an earlier datagram was refused")]
    Refused,
    /// The socket is not bound, so nothing can come. (EINVAL)
    #[error("the socket is not bound")]
    NotBound,
    /// The module was reset.
    #[error("the module's network is closed")]
    Gone,
}

/// One datagram, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its payload.
    pub data: Bytes,
    /// Who sent it.
    pub from: SocketAddr,
}

impl Datagram {
    fn weight(&self) -> usize {
        self.data.len() + DATAGRAM_OVERHEAD
    }
}

#[derive(Debug)]
pub(crate) struct UdpCore {
    member: Arc<MemberState>,
    family: Family,
    ticket: Ticket,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lease: Option<Arc<Lease>>,
    peer: Option<SocketAddr>,
    queue: VecDeque<Datagram>,
    weight: usize,
    bound: usize,
    send_size: usize,
    hop_limit: u8,
    refused: bool,
    closed: bool,
    flows: Flows,
    /// The last to poll.
    reader: Option<Waker>,
    /// Receives under way, each for itself; a WASI 0.3 guest may have several.
    receiving: Waiters,
    /// Those who carry this socket's traffic to the outside.
    closers: Waiters,
}

impl UdpCore {
    /// A datagram has come. Drops it where it does not belong or does not fit. `false` if nobody
    /// here wants it.
    ///
    /// `visitor` is the socket that sent it, if that is in another pod.
    fn deliver(&self, mut datagram: Datagram, visitor: Option<&Arc<UdpCore>>) -> bool {
        let weight = datagram.weight();
        let mut state = lock(&self.state);
        let asked = state.flows.asked.get(datagram.from).copied();
        datagram.from = asked.unwrap_or(datagram.from);
        if state.closed || state.peer.is_some_and(|peer| peer != datagram.from) {
            return false;
        }
        if state.weight + weight > state.bound || !self.member.charge(weight) {
            drop(state);
            self.member.counters.datagrams_dropped.add(1);
            return true;
        }
        // Whoever was asked before only answers.
        if let (Some(visitor), None) = (visitor, asked) {
            state.flows.visitors.note(datagram.from, Arc::downgrade(visitor), &self.member);
        }
        state.queue.push_back(datagram);
        state.weight += weight;
        self.member.counters.datagram_queue_peak.peak(state.weight);
        let readers = state.take_readers();
        drop(state);
        readers.wake();
        true
    }

    /// Another pod's socket at `to` that may be answered without asking, because it asked.
    fn visitor(&self, to: SocketAddr) -> Option<Arc<UdpCore>> {
        let visitor = lock(&self.state).flows.visitors.get(to)?.upgrade()?;
        (!visitor.is_closed()).then_some(visitor)
    }

    /// Answers from `real` are to be shown as coming from `asked`.
    fn expect_answers(&self, real: SocketAddr, asked: SocketAddr) {
        if real != asked {
            lock(&self.state).flows.asked.note(real, asked, &self.member);
        }
    }

    fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    fn poll_closed(&self, place: &mut Option<usize>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.closed {
            return Poll::Ready(());
        }
        state.closers.wait(place, cx.waker());
        Poll::Pending
    }

    fn forget_closer(&self, place: usize) {
        lock(&self.state).closers.leave(place);
    }

    /// Nobody listened where this socket's datagram went.
    fn note_refused(&self, to: SocketAddr) {
        let mut state = lock(&self.state);
        if state.peer != Some(to) {
            return;
        }
        state.refused = true;
        let readers = state.take_readers();
        drop(state);
        readers.wake();
    }

    /// Frees the port and the queue; the socket is dead.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let weight = std::mem::take(&mut state.weight);
        let lease = state.lease.clone();
        let paid = weight + state.flows.cost();
        let gone = (std::mem::take(&mut state.queue), std::mem::take(&mut state.flows));
        let (readers, closers) = (state.take_readers(), state.closers.take());
        drop(state);
        drop(gone);
        self.member.release(paid);
        if let Some(lease) = lease {
            lease.release();
        }
        readers.wake();
        closers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn describe(&self) -> SocketInfo {
        let state = lock(&self.state);
        SocketInfo {
            member: String::new(),
            protocol: Protocol::Udp,
            state: match (state.closed, state.peer) {
                (true, _) => SocketState::Closed,
                (false, Some(_)) => SocketState::Established,
                (false, None) => SocketState::Unconnected,
            },
            local: state.lease.as_ref().map(|lease| lease.address()),
            remote: state.peer,
            via: None,
            receive_queue: state.weight as u64,
            send_queue: 0,
        }
    }
}

impl Drop for UdpCore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Who has to be woken because there is something to receive.
#[must_use]
struct Readers {
    one: Option<Waker>,
    more: Vec<Waker>,
}

impl Readers {
    fn wake(self) {
        self.one.into_iter().chain(self.more).for_each(Waker::wake);
    }
}

impl State {
    fn take_readers(&mut self) -> Readers {
        Readers { one: self.reader.take(), more: self.receiving.take() }
    }

    /// The next datagram, and what it counted.
    fn pop(&mut self) -> Option<(Datagram, usize)> {
        let datagram = self.queue.pop_front()?;
        let weight = datagram.weight();
        self.weight -= weight;
        if self.queue.is_empty() && self.queue.capacity() > PLACES_KEPT {
            // What a burst has made it grow to nobody pays for any more.
            self.queue = VecDeque::new();
        }
        Some((datagram, weight))
    }

    /// What a receive fails with, if it fails. A refusal is told once.
    fn failure(&mut self) -> Option<ReceiveError> {
        if self.closed {
            Some(ReceiveError::Gone)
        } else if std::mem::take(&mut self.refused) {
            Some(ReceiveError::Refused)
        } else if self.lease.is_none() {
            Some(ReceiveError::NotBound)
        } else {
            None
        }
    }
}

#[cfg(test)]
#[path = "../tests/udp.rs"]
mod tests;
