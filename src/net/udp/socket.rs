//! A datagram socket as guests and the daemon hold it.
//!
//! Owns: binding, the association with a peer, and the checks before a datagram leaves. Is not: the
//! queue it is received from (the parent module).

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{
    DEFAULT_QUEUE, Datagram, Flows, MAX_PAYLOAD_V4, MAX_PAYLOAD_V6, PLACES_KEPT, ReceiveError,
    SendError, State, UdpCore, UdpReply,
};
use crate::net::addr::{self, Family, Protocol};
use crate::net::egress::Ask;
use crate::net::faults::Faults;
use crate::net::lease::{self, Lease};
use crate::net::member::{Member, OpenError};
use crate::net::port::{Claim, PortRefusal};
use crate::net::registry::Entry;
use crate::net::tcp::options::{MAX_BUFFER, MIN_BUFFER, ZeroOption};
use crate::net::tcp::pipe::remember;
use crate::net::tcp::socket::BindError;
use crate::net::waiters::Waiters;
use crate::net::way::Way;
use crate::net::{PodNet, lock};

/// A datagram socket. Clones are handles to the same one, which closes with the last of them.
#[derive(Clone, Debug)]
pub struct UdpSocket(Arc<UdpCore>);

impl Member {
    /// Makes a datagram socket.
    pub fn udp_socket(&self, family: Family) -> Result<UdpSocket, OpenError> {
        let core = Arc::new(UdpCore {
            member: Arc::clone(&self.0),
            family,
            ticket: self.0.open(Protocol::Udp)?,
            state: Mutex::new(State {
                lease: None,
                peer: None,
                queue: VecDeque::new(),
                weight: 0,
                bound: DEFAULT_QUEUE,
                send_size: DEFAULT_QUEUE,
                hop_limit: 64,
                refused: false,
                closed: false,
                flows: Flows::default(),
                reader: None,
                receiving: Waiters::default(),
                closers: Waiters::default(),
            }),
        });
        if core.ticket.attach(Entry::Udp(Arc::downgrade(&core))) {
            Ok(UdpSocket(core))
        } else {
            Err(OpenError::Gone)
        }
    }
}

impl UdpSocket {
    /// IPv4 or IPv6.
    #[must_use]
    pub fn family(&self) -> Family {
        self.0.family
    }

    /// Binds to `at`; port 0 is any.
    pub fn bind(&self, at: SocketAddr) -> Result<(), BindError> {
        if !addr::fits_family(at.ip(), self.0.family) {
            return Err(BindError::InvalidAddress(at));
        }
        let mut state = lock(&self.0.state);
        if state.closed {
            return Err(BindError::Gone);
        }
        if state.lease.is_some() {
            return Err(BindError::InvalidState);
        }
        self.bind_locked(&mut state, at)
    }

    fn bind_locked(&self, state: &mut State, at: SocketAddr) -> Result<(), BindError> {
        let net = &self.0.member.net;
        if !net.addresses.is_bindable(at.ip()) {
            return Err(BindError::NotOurs(at));
        }
        let claim = Claim { ip: at.ip(), port: at.port(), dual: false };
        let lease = Lease::take(net, Protocol::Udp, claim).map_err(|refusal| match refusal {
            PortRefusal::InUse => BindError::InUse(at),
            PortRefusal::Exhausted => BindError::NoPort,
        })?;
        lease.answer_udp(&self.0);
        state.lease = Some(lease);
        Ok(())
    }

    fn bound_lease(&self, state: &mut State) -> Result<Arc<Lease>, BindError> {
        if state.lease.is_none() {
            self.bind_locked(state, SocketAddr::new(self.0.family.unspecified(), 0))?;
        }
        state.lease.clone().ok_or(BindError::Gone)
    }

    /// Whether it has a port.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        lock(&self.0.state).lease.is_some()
    }

    /// Its own address, if it has one. Connected, a socket bound to a wildcard has the address it
    /// sends from.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        let state = lock(&self.0.state);
        let bound = state.lease.as_ref()?.address();
        Some(match state.peer {
            Some(peer) => self.source(bound, peer).unwrap_or(bound),
            None => bound,
        })
    }

    /// The address it is connected to, if it is.
    #[must_use]
    pub fn remote_address(&self) -> Option<SocketAddr> {
        lock(&self.0.state).peer
    }

    /// From now on talks and listens only to `peer`; what others sent and was not read yet is
    /// dropped.
    pub fn connect(&self, peer: SocketAddr) -> Result<(), SendError> {
        let peer = addr::plain(peer);
        if !addr::is_sendable(peer, self.0.family) {
            return Err(SendError::InvalidAddress(peer));
        }
        let bound = {
            let mut state = lock(&self.0.state);
            if state.closed {
                return Err(SendError::Gone);
            }
            self.bound_lease(&mut state)?.address()
        };
        let from = self.source(bound, peer).ok_or(SendError::InvalidAddress(peer))?;
        self.way(from, peer)?;
        let mut state = lock(&self.0.state);
        state.peer = Some(peer);
        state.refused = false;
        let before = state.weight;
        state.queue.retain(|datagram| datagram.from == peer);
        state.queue.shrink_to(PLACES_KEPT);
        state.weight = state.queue.iter().map(Datagram::weight).sum();
        let dropped = before - state.weight;
        drop(state);
        self.0.member.release(dropped);
        Ok(())
    }

    /// Undoes [`UdpSocket::connect`].
    pub fn disconnect(&self) {
        let mut state = lock(&self.0.state);
        state.peer = None;
        state.refused = false;
    }

    /// The address it speaks from towards `to`.
    fn source(&self, bound: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        self.0.member.net.addresses.source(Some(bound), to)
    }

    fn way(&self, from: SocketAddr, to: SocketAddr) -> Result<Way, SendError> {
        let member = &self.0.member;
        match member.net.way(&member.name, Protocol::Udp, from, to) {
            Way::Denied => {
                member.counters.denied.add(1);
                Err(SendError::Denied(to))
            }
            Way::Unreachable => Err(SendError::Unreachable(to)),
            way @ (Way::Here | Way::Pod { .. } | Way::Outside | Way::Refused) => Ok(way),
        }
    }

    /// Sends one datagram, to `to` or to the connected peer. Never waits: what the receiver has no
    /// room for is lost.
    pub fn send(&self, data: Bytes, to: Option<SocketAddr>) -> Result<(), SendError> {
        let longest = match self.0.family {
            Family::V4 => MAX_PAYLOAD_V4,
            Family::V6 => MAX_PAYLOAD_V6,
        };
        if data.len() > longest {
            return Err(SendError::TooLong(data.len()));
        }
        let (from, to) = self.prepare(to.map(addr::plain))?;
        let member = &self.0.member;
        let way = if member.net.addresses.is_local(to.ip()) {
            UdpWay::Here
        } else if let Some(visitor) = self.0.visitor(to) {
            UdpWay::Visitor(visitor)
        } else {
            self.way_out(from, to)?
        };
        let bytes = data.len();
        let datagram = Datagram { data, from };
        let taken = match &member.net.faults {
            None => way.deliver(&self.0, datagram, to)?,
            Some(faults) => self.send_by(faults, way, datagram, to)?,
        };
        member.counters.datagrams_sent.add(1);
        member.counters.datagram_bytes_sent.add(bytes);
        if !taken {
            self.0.note_refused(to);
        }
        Ok(())
    }

    fn way_out(&self, from: SocketAddr, to: SocketAddr) -> Result<UdpWay, SendError> {
        match self.way(from, to)? {
            Way::Pod { net, to: real } => {
                self.0.expect_answers(real, to);
                Ok(UdpWay::Pod { net, real })
            }
            Way::Outside => Ok(UdpWay::Outside),
            Way::Refused => Ok(UdpWay::Nobody),
            Way::Here | Way::Denied | Way::Unreachable => Err(SendError::Unreachable(to)),
        }
    }

    /// Sends on a way on which a datagram may be lost, late, or behind the next one.
    fn send_by(
        &self,
        faults: &Faults,
        way: UdpWay,
        datagram: Datagram,
        to: SocketAddr,
    ) -> Result<bool, SendError> {
        let pair = self.0.member.net.pair_with(way.real(to).ip());
        let core = Arc::downgrade(&self.0);
        let arrive = move || {
            let Some(core) = core.upgrade() else { return Ok(true) };
            way.deliver(&core, datagram, to)
        };
        match faults.datagram(pair, arrive) {
            Some(arrive) => {
                let taken = arrive()?;
                faults.after(pair);
                Ok(taken)
            }
            None => Ok(true),
        }
    }

    /// The two addresses of a datagram about to be sent.
    fn prepare(&self, to: Option<SocketAddr>) -> Result<(SocketAddr, SocketAddr), SendError> {
        let mut state = lock(&self.0.state);
        if state.closed {
            return Err(SendError::Gone);
        }
        let to = match (to, state.peer) {
            (Some(to), _) if !addr::is_sendable(to, self.0.family) => {
                return Err(SendError::InvalidAddress(to));
            }
            (Some(to), Some(peer)) if to != peer => return Err(SendError::OtherPeer(to)),
            (Some(to), _) | (None, Some(to)) => to,
            (None, None) => return Err(SendError::NoAddress),
        };
        if std::mem::take(&mut state.refused) {
            return Err(SendError::Refused);
        }
        let bound = self.bound_lease(&mut state)?.address();
        let from = self.source(bound, to).ok_or(SendError::InvalidAddress(to))?;
        // Asked as a Service before and by its own address now, it answers by its own.
        if state.flows.asked.get(to).is_some() {
            state.flows.asked.note(to, to, &self.0.member);
        }
        Ok((from, to))
    }

    /// The next datagram, whole. `Pending` means none, and registers nobody.
    pub fn try_receive(&self) -> Poll<Result<Datagram, ReceiveError>> {
        self.receive_by(|_| {})
    }

    /// The same, and wakes `cx` when one comes. One reader: the last waker given is the one woken.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<Datagram, ReceiveError>> {
        self.receive_by(|state| remember(&mut state.reader, cx.waker()))
    }

    /// The same, as a future. Any number may be under way at once: each datagram goes to one.
    #[must_use]
    pub fn receive(&self) -> Receiving {
        Receiving { socket: self.clone(), place: None }
    }

    /// The next datagram's first `into.len()` bytes; the rest of it is lost (POSIX `recvfrom`).
    /// Says how many were copied, how long it was, and who sent it. `Pending` registers nobody.
    pub fn try_receive_into(
        &self,
        into: &mut [u8],
    ) -> Poll<Result<(usize, usize, SocketAddr), ReceiveError>> {
        self.try_receive().map_ok(|datagram| {
            let whole = datagram.data.len();
            let n = whole.min(into.len());
            into[..n].copy_from_slice(&datagram.data[..n]);
            (n, whole, datagram.from)
        })
    }

    /// The next datagram, which stays the next one. `Pending` registers `cx` if there is one.
    pub fn peek(&self, cx: Option<&mut Context<'_>>) -> Poll<Result<Datagram, ReceiveError>> {
        let state = std::task::ready!(self.next_by(|state| {
            if let Some(cx) = cx {
                remember(&mut state.reader, cx.waker());
            }
        }))?;
        Poll::Ready(state.queue.front().cloned().ok_or(ReceiveError::Gone))
    }

    /// The state, once there is a datagram in its queue.
    fn next_by(
        &self,
        wait: impl FnOnce(&mut State),
    ) -> Poll<Result<MutexGuard<'_, State>, ReceiveError>> {
        let mut state = lock(&self.0.state);
        if let Some(error) = state.failure() {
            return Poll::Ready(Err(error));
        }
        if state.queue.is_empty() {
            wait(&mut state);
            return Poll::Pending;
        }
        Poll::Ready(Ok(state))
    }

    fn receive_by(&self, wait: impl FnOnce(&mut State)) -> Poll<Result<Datagram, ReceiveError>> {
        let mut state = std::task::ready!(self.next_by(wait))?;
        // It has just been there.
        let Some((datagram, weight)) = state.pop() else { return Poll::Pending };
        drop(state);
        self.0.member.release(weight);
        self.0.member.counters.datagrams_received.add(1);
        self.0.member.counters.datagram_bytes_received.add(datagram.data.len());
        Poll::Ready(Ok(datagram))
    }

    /// Ready once a receive has something to say.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0.state);
        if state.closed || state.refused || state.lease.is_none() || !state.queue.is_empty() {
            return Poll::Ready(());
        }
        remember(&mut state.reader, cx.waker());
        Poll::Pending
    }

    /// Hop limit (TTL).
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        lock(&self.0.state).hop_limit
    }

    /// Sets it.
    pub fn set_hop_limit(&self, hops: u8) -> Result<(), ZeroOption> {
        if hops == 0 {
            return Err(ZeroOption);
        }
        lock(&self.0.state).hop_limit = hops;
        Ok(())
    }

    /// Bound of the queue, in bytes.
    #[must_use]
    pub fn receive_buffer_size(&self) -> u64 {
        lock(&self.0.state).bound as u64
    }

    /// Sets it, clamped to 4 KiB … 208 KiB. What is queued stays.
    pub fn set_receive_buffer_size(&self, bytes: u64) -> Result<(), ZeroOption> {
        lock(&self.0.state).bound = queue_size(bytes)?;
        Ok(())
    }

    /// Send buffer size, which nothing waits in.
    #[must_use]
    pub fn send_buffer_size(&self) -> u64 {
        lock(&self.0.state).send_size as u64
    }

    /// Remembers it, clamped to 4 KiB … 208 KiB.
    pub fn set_send_buffer_size(&self, bytes: u64) -> Result<(), ZeroOption> {
        lock(&self.0.state).send_size = queue_size(bytes)?;
        Ok(())
    }
}

/// Where a datagram goes.
#[derive(Debug)]
enum UdpWay {
    /// To whoever has the port in this pod.
    Here,
    /// To whoever has it in a pod (which may be this one, by a Service).
    Pod {
        net: PodNet,
        real: SocketAddr,
    },
    /// To a socket of another pod that asked this one.
    Visitor(Arc<UdpCore>),
    Outside,
    /// Nobody has it, as where a port of a pod is closed.
    Nobody,
}

impl UdpWay {
    /// The address as the other side has it, where `asked` was named.
    fn real(&self, asked: SocketAddr) -> SocketAddr {
        match self {
            UdpWay::Pod { real, .. } => *real,
            UdpWay::Here | UdpWay::Visitor(_) | UdpWay::Outside | UdpWay::Nobody => asked,
        }
    }

    /// Puts the datagram into a queue. `false` if nobody there wants it.
    fn deliver(
        self,
        sender: &Arc<UdpCore>,
        datagram: Datagram,
        to: SocketAddr,
    ) -> Result<bool, SendError> {
        match self {
            UdpWay::Here => {
                let receiver = lease::udp_at(&sender.member.net, to);
                Ok(receiver.is_some_and(|it| it.deliver(datagram, None)))
            }
            UdpWay::Pod { net, real } => {
                let receiver = lease::udp_at(&net.0, real);
                Ok(receiver.is_some_and(|it| it.deliver(datagram, Some(sender))))
            }
            UdpWay::Nobody => Ok(false),
            // An answer opens no way of its own: what the asker sends next is routed anew.
            UdpWay::Visitor(asker) => Ok(asker.deliver(datagram, None)),
            UdpWay::Outside => {
                let member = &sender.member;
                let Datagram { data, from } = datagram;
                let ask = Ask { member: &member.name, protocol: Protocol::Udp, from, to };
                let sent = member.net.egress.send(&ask, data, &UdpReply::new(sender));
                if let Err(SendError::Denied(_)) = sent {
                    member.counters.denied.add(1);
                }
                sent.map(|()| true)
            }
        }
    }
}

/// A receive under way. Dropped, it takes no datagram with it.
#[derive(Debug)]
pub struct Receiving {
    socket: UdpSocket,
    place: Option<usize>,
}

impl Future for Receiving {
    type Output = Result<Datagram, ReceiveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { socket, place } = &mut *self;
        socket.receive_by(|state| state.receiving.wait(place, cx.waker()))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            lock(&self.socket.0.state).receiving.leave(place);
        }
    }
}

fn queue_size(bytes: u64) -> Result<usize, ZeroOption> {
    if bytes == 0 {
        return Err(ZeroOption);
    }
    Ok(usize::try_from(bytes).unwrap_or(MAX_BUFFER).clamp(MIN_BUFFER, MAX_BUFFER))
}
