//! A TCP socket as a guest holds it.
//!
//! Owns: which operation is allowed in which state, and the guest's options.
//! Is not: WASI's start/finish protocol (the adapters'), nor the data (the halves, once taken, are
//! on their own).
//!
//! ```text
//! Unbound ──bind──► Bound ──listen──► Listening
//!    │                │
//!    └───connect──────┴──► Connecting ──finished──► Connected
//!                              └───────failed─────► Closed
//! ```
//! A failed bind changes nothing and may be tried again; a failed connect closes the socket
//! (`wasi:sockets/tcp`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::conn::End;
use super::halves::{ReadHalf, WriteHalf};
use super::handshake::{Attempt, ConnectError, Connecting};
use super::listener::{AcceptError, Listener, ListenerCore};
use super::options::TcpOptions;
use crate::net::addr::{self, Family, Protocol};
use crate::net::lease::Lease;
use crate::net::member::{Member, MemberState, OpenError};
use crate::net::port::{Claim, PortRefusal};
use crate::net::registry::{Entry, Ticket};

/// Why a bind failed; the socket is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Wrong family, an IPv4 address in IPv6 dress, or no unicast address. (EAFNOSUPPORT, EINVAL)
    #[error("{0} is not an address to bind to")]
    InvalidAddress(SocketAddr),
    /// The socket is bound already, or beyond that. (EINVAL)
    #[error("the socket is bound already")]
    InvalidState,
    /// Another socket has the address and port. (EADDRINUSE)
    #[error("{0} is in use")]
    InUse(SocketAddr),
    /// All ports for "any" are taken. (EADDRINUSE)
    #[error("no free port to bind to")]
    NoPort,
    /// The address is not one of this pod's. (EADDRNOTAVAIL)
    #[error("{0} is not an address of this pod")]
    NotOurs(SocketAddr),
    /// The module was reset meanwhile.
    #[error("the module's network is closed")]
    Gone,
}

/// Why a listen failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// The socket is listening, connected or closed.
    #[error("the socket cannot listen in its present state")]
    InvalidState,
    /// It was not bound, and the implicit bind failed.
    #[error("cannot bind")]
    Bind(#[from] BindError),
    /// A limit on sockets or memory, or the module is gone (only of [`Member::listen`]).
    #[error("cannot open a socket")]
    Open(#[from] OpenError),
}

/// Which directions to shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Nothing more to us.
    Read,
    /// Nothing more from us.
    Write,
    /// Neither.
    Both,
}

/// The operation does not fit the socket's state. (EINVAL, ENOTCONN)
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the socket is in another state")]
pub struct WrongState;

/// See the header.
#[derive(Debug)]
pub struct TcpSocket {
    member: Arc<MemberState>,
    family: Family,
    pub(super) options: TcpOptions,
    v6_only: bool,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// As made.
    Unbound(Ticket),
    /// Has a port.
    Bound(Ticket, Arc<Lease>),
    /// Answers there.
    Listening(Listener),
    /// Waits for the other side.
    Connecting(Connecting),
    /// The halves are here until they are taken.
    Connected { end: Arc<End>, read: Option<ReadHalf>, write: Option<WriteHalf> },
    /// The connect failed; also what is left while another state is worked on.
    Closed(ConnectError),
}

impl Member {
    /// Makes a TCP socket.
    pub fn tcp_socket(&self, family: Family) -> Result<TcpSocket, OpenError> {
        Ok(TcpSocket {
            state: State::Unbound(self.0.open(Protocol::Tcp)?),
            member: Arc::clone(&self.0),
            family,
            options: TcpOptions::default(),
            v6_only: true,
        })
    }

    /// Connects to `to` from any port.
    pub fn connect(&self, to: SocketAddr) -> Result<Connecting, ConnectError> {
        let ticket = self.0.open(Protocol::Tcp)?;
        let sizes = TcpOptions::default().sizes;
        super::connect(ticket, None, Family::of(to.ip()), to, sizes)
    }

    /// Connects to `to`, an address of this pod, and waits for as long as nobody listens there. The
    /// connection comes about when it is accepted: a listener that closes before that leaves it to
    /// the next one, in the order in which all came. `client`, of the same family, is who is not in
    /// the pod, and whom the listener sees. For whoever publishes the pod's ports.
    pub fn connect_patiently(
        &self,
        client: Option<SocketAddr>,
        to: SocketAddr,
    ) -> Result<Connecting, ConnectError> {
        super::connect_patiently(self.0.open(Protocol::Tcp)?, client, to)
    }

    /// Listens at `at`, with the default backlog.
    pub fn listen(&self, at: SocketAddr) -> Result<Listener, ListenError> {
        let mut socket = self.tcp_socket(Family::of(at.ip()))?;
        socket.bind(at)?;
        socket.listen()?;
        let State::Listening(listener) = socket.state else {
            return Err(ListenError::InvalidState);
        };
        Ok(listener)
    }
}

impl TcpSocket {
    /// IPv4 or IPv6.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether an IPv6 wildcard is for IPv6 only, which WASI's sockets always are (and it is the
    /// default).
    pub fn set_v6_only(&mut self, v6_only: bool) -> Result<(), WrongState> {
        if !matches!(self.state, State::Unbound(_)) {
            return Err(WrongState);
        }
        self.v6_only = v6_only;
        Ok(())
    }

    /// Whether it has a local address.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        !matches!(self.state, State::Unbound(_))
    }

    /// Whether it listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening(_))
    }

    /// Whether it is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }

    /// Binds to `at`; port 0 is any.
    pub fn bind(&mut self, at: SocketAddr) -> Result<(), BindError> {
        let State::Unbound(ticket) = &self.state else {
            return Err(BindError::InvalidState);
        };
        if !addr::is_unicast(at.ip()) || !addr::fits_family(at.ip(), self.family) {
            return Err(BindError::InvalidAddress(at));
        }
        if !self.member.net.addresses.is_bindable(at.ip()) {
            return Err(BindError::NotOurs(at));
        }
        let dual = !self.v6_only && at.is_ipv6() && at.ip().is_unspecified();
        let claim = Claim { ip: at.ip(), port: at.port(), dual };
        let lease =
            Lease::take(&self.member.net, Protocol::Tcp, claim).map_err(
                |refusal| match refusal {
                    PortRefusal::InUse => BindError::InUse(at),
                    PortRefusal::Exhausted => BindError::NoPort,
                },
            )?;
        if !ticket.attach(Entry::Bound(Arc::downgrade(&lease))) {
            return Err(BindError::Gone);
        }
        if let State::Unbound(ticket) = self.take_state() {
            self.state = State::Bound(ticket, lease);
        }
        Ok(())
    }

    /// Starts to listen; a socket not bound yet is bound to any port of all addresses.
    pub fn listen(&mut self) -> Result<(), ListenError> {
        if matches!(self.state, State::Unbound(_)) {
            self.bind(SocketAddr::new(self.family.unspecified(), 0))?;
        }
        match self.take_state() {
            State::Bound(ticket, lease) if lease.is_live() => {
                let core = ListenerCore::start(lease, ticket, self.family, self.options);
                self.state = State::Listening(Listener::new(core));
                Ok(())
            }
            other @ (State::Unbound(_)
            | State::Bound(..)
            | State::Listening(_)
            | State::Connecting(_)
            | State::Connected { .. }
            | State::Closed(_)) => {
                self.state = other;
                Err(ListenError::InvalidState)
            }
        }
    }

    /// Starts to connect. An error here closes the socket, unless its state did not allow the call
    /// at all.
    pub fn connect(&mut self, to: SocketAddr) -> Result<(), ConnectError> {
        let (ticket, lease) = match self.take_state() {
            State::Unbound(ticket) if addr::is_connectable(to, self.family) => (ticket, None),
            State::Bound(ticket, lease) if addr::is_connectable(to, self.family) => {
                (ticket, Some(lease))
            }
            unchanged @ (State::Unbound(_) | State::Bound(..)) => {
                self.state = unchanged;
                return Err(ConnectError::InvalidAddress(to));
            }
            other @ (State::Listening(_)
            | State::Connecting(_)
            | State::Connected { .. }
            | State::Closed(_)) => {
                self.state = other;
                return Err(ConnectError::InvalidState);
            }
        };
        match super::connect(ticket, lease, self.family, to, self.options.sizes) {
            Ok(connecting) => {
                self.state = State::Connecting(connecting);
                Ok(())
            }
            Err(error) => {
                self.state = State::Closed(error);
                Err(error)
            }
        }
    }

    /// The connect under way, for whoever waits for its outcome: dropped before that, the socket is closed.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        let State::Connecting(connecting) = &self.state else { return None };
        connecting.attempt()
    }

    /// The outcome of a connect. `Pending` means the listener's queue is full, and registers
    /// nobody.
    pub fn try_connected(&mut self) -> Poll<Result<(), ConnectError>> {
        self.connected(None)
    }

    /// The same, and wakes `cx` when there is an outcome.
    pub fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.connected(Some(cx))
    }

    fn connected(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Result<(), ConnectError>> {
        let connecting = match &mut self.state {
            State::Connecting(connecting) => connecting,
            State::Connected { .. } => return Poll::Ready(Ok(())),
            State::Closed(error) => return Poll::Ready(Err(*error)),
            State::Unbound(_) | State::Bound(..) | State::Listening(_) => {
                return Poll::Ready(Err(ConnectError::InvalidState));
            }
        };
        let Poll::Ready(outcome) = connecting.take_end(cx) else { return Poll::Pending };
        self.settle(outcome)
    }

    fn settle(
        &mut self,
        outcome: Result<Arc<End>, ConnectError>,
    ) -> Poll<Result<(), ConnectError>> {
        match outcome {
            Ok(end) => {
                self.state = State::connected(end);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.state = State::Closed(error);
                Poll::Ready(Err(error))
            }
        }
    }

    /// Ends a connect that waits as timed out; one that is done stays done.
    pub fn give_up_connecting(&mut self) {
        if let State::Connecting(connecting) = &mut self.state {
            if let Poll::Ready(outcome) = connecting.take_end(None) {
                // Ready either way, and kept in the state.
                let _ = self.settle(outcome);
            } else if let Err(error) = connecting.give_up() {
                self.state = State::Closed(error);
            }
        }
    }

    /// The next connection, as a socket with this one's options. `Pending` registers nobody.
    pub fn try_accept(&mut self) -> Poll<Result<TcpSocket, AcceptError>> {
        self.accept(None)
    }

    /// The same, and wakes `cx` when one comes.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<TcpSocket, AcceptError>> {
        self.accept(Some(cx))
    }

    fn accept(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Result<TcpSocket, AcceptError>> {
        let State::Listening(listener) = &mut self.state else {
            return Poll::Ready(Err(AcceptError::Closed));
        };
        match cx {
            Some(cx) => listener.poll_accept_socket(cx),
            None => listener.try_accept_socket(),
        }
    }

    pub(crate) fn accepted(
        member: Arc<MemberState>,
        family: Family,
        options: TcpOptions,
        end: Arc<End>,
    ) -> Self {
        Self { member, family, options, v6_only: true, state: State::connected(end) }
    }

    /// Another handle to a listening socket's port, for whoever accepts; the port closes when both
    /// are gone.
    #[must_use]
    pub fn listener(&self) -> Option<Listener> {
        let State::Listening(listener) = &self.state else { return None };
        Some(listener.share())
    }

    /// Ready when the operation under way (connecting, or waiting for a connection) has an outcome;
    /// at once in every other state.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Listening(listener) => listener.poll_ready(cx),
            State::Connecting(connecting) => connecting.poll_ready(cx),
            State::Unbound(_) | State::Bound(..) | State::Connected { .. } | State::Closed(_) => {
                Poll::Ready(())
            }
        }
    }

    /// The receiving half of a connected socket, once.
    pub fn take_read(&mut self) -> Option<ReadHalf> {
        let State::Connected { read, .. } = &mut self.state else { return None };
        read.take()
    }

    /// The sending half of a connected socket, once.
    pub fn take_write(&mut self) -> Option<WriteHalf> {
        let State::Connected { write, .. } = &mut self.state else { return None };
        write.take()
    }

    /// Shuts directions of a connected socket, whoever holds the halves. Doing it again changes
    /// nothing.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), WrongState> {
        let State::Connected { end, .. } = &self.state else { return Err(WrongState) };
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            end.shut_read();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            end.shut_write();
        }
        Ok(())
    }

    /// Its own address, if it has one.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Bound(_, lease) => Some(lease.address()),
            State::Listening(listener) => Some(listener.local_address()),
            State::Connected { end, .. } => Some(end.local_address()),
            State::Connecting(connecting) => connecting.local_address(),
            State::Unbound(_) | State::Closed(_) => None,
        }
    }

    /// The other side's address, if it is connected.
    #[must_use]
    pub fn remote_address(&self) -> Option<SocketAddr> {
        let State::Connected { end, .. } = &self.state else { return None };
        Some(end.remote_address())
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Closed(ConnectError::InvalidState))
    }

    /// Whether the socket is closed by a failed connect.
    #[must_use]
    pub fn failure(&self) -> Option<ConnectError> {
        let State::Closed(error) = &self.state else { return None };
        Some(*error)
    }
}

impl State {
    fn connected(end: Arc<End>) -> Self {
        State::Connected {
            read: Some(ReadHalf::new(Arc::clone(&end))),
            write: Some(WriteHalf::new(Arc::clone(&end))),
            end,
        }
    }
}

#[cfg(test)]
#[path = "../tests/socket.rs"]
mod tests;
