//! What a member has open: a place for each socket, and a weak way to it.
//!
//! Owns: the tickets given out, and how each kind of socket is ended or described. A slab, so that
//! a place costs the same to take and to give back however many there are.
//! Is not: the limits and the price of a socket (`member`), nor any socket's life: all ways from
//! here are weak.
//! Lock order: the registry is a leaf; sockets are ended and described with it unlocked.

use std::fmt;
use std::sync::{Arc, Weak};

use super::addr::Protocol;
use super::lease::Lease;
use super::lock;
use super::member::MemberState;
use super::stats::{SocketInfo, SocketState};
use super::tcp::conn::End;
use super::tcp::handshake::Handshake;
use super::tcp::listener::ListenerCore;
use super::udp::UdpCore;

/// A socket's place with its member, for as long as the socket lives.
pub(crate) struct Ticket {
    member: Arc<MemberState>,
    place: usize,
}

impl Ticket {
    pub(crate) fn new(member: Arc<MemberState>, place: usize) -> Self {
        Self { member, place }
    }

    pub(crate) fn member(&self) -> &Arc<MemberState> {
        &self.member
    }

    /// Says what the socket has become, so that a reset finds it. `false` means that the member is
    /// gone already: the caller then aborts the socket (with no lock held).
    #[must_use]
    pub(crate) fn attach(&self, entry: Entry) -> bool {
        let mut registry = lock(&self.member.registry);
        if self.member.is_gone() {
            return false;
        }
        registry.places[self.place] = Place::Taken(entry);
        true
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let entry = lock(&self.member.registry).remove(self.place);
        drop(entry);
        self.member.give_back_socket();
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} #{})", self.member.name, self.place)
    }
}

/// What stands behind a ticket.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Idle(Protocol),
    Bound(Weak<Lease>),
    Listener(Weak<ListenerCore>),
    Connecting(Weak<Handshake>),
    Connected(Weak<End>),
    Udp(Weak<UdpCore>),
}

impl Entry {
    pub(crate) fn abort(&self) {
        match self {
            Entry::Idle(_) => {}
            Entry::Bound(lease) => {
                if let Some(lease) = lease.upgrade() {
                    lease.release();
                }
            }
            Entry::Listener(listener) => {
                if let Some(listener) = listener.upgrade() {
                    listener.close();
                }
            }
            Entry::Connecting(handshake) => {
                if let Some(handshake) = handshake.upgrade() {
                    handshake.abandon(None);
                }
            }
            Entry::Connected(end) => {
                if let Some(end) = end.upgrade() {
                    end.abort();
                }
            }
            Entry::Udp(socket) => {
                if let Some(socket) = socket.upgrade() {
                    socket.close();
                }
            }
        }
    }

    pub(crate) fn describe(&self, member: &str) -> Option<SocketInfo> {
        let row = |protocol, state, local| SocketInfo {
            member: member.to_owned(),
            protocol,
            state,
            local,
            remote: None,
            via: None,
            receive_queue: 0,
            send_queue: 0,
        };
        let full = |info: SocketInfo| SocketInfo { member: member.to_owned(), ..info };
        match self {
            Entry::Idle(protocol) => Some(row(*protocol, SocketState::Unconnected, None)),
            Entry::Bound(lease) => lease
                .upgrade()
                .map(|lease| row(Protocol::Tcp, SocketState::Bound, Some(lease.address()))),
            Entry::Listener(listener) => listener.upgrade().map(|it| full(it.describe())),
            Entry::Connecting(handshake) => handshake.upgrade().map(|it| full(it.describe())),
            Entry::Connected(end) => end.upgrade().map(|it| full(it.describe())),
            Entry::Udp(socket) => socket.upgrade().map(|it| full(it.describe())),
        }
    }
}

/// The tickets given out: a slab, so that taking and giving back a place costs the same however
/// many there are.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    places: Vec<Place>,
    free: Option<usize>,
    pub(crate) open: usize,
}

#[derive(Debug)]
pub(crate) enum Place {
    Taken(Entry),
    Free { next: Option<usize> },
}

impl Registry {
    pub(crate) fn add(&mut self, entry: Entry) -> usize {
        self.open += 1;
        let Some(place) = self.free else {
            self.places.push(Place::Taken(entry));
            return self.places.len() - 1;
        };
        if let Place::Free { next } = self.places[place] {
            self.free = next;
        }
        self.places[place] = Place::Taken(entry);
        place
    }

    fn remove(&mut self, place: usize) -> Place {
        self.open -= 1;
        let free = Place::Free { next: self.free };
        self.free = Some(place);
        std::mem::replace(&mut self.places[place], free)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.places
            .iter()
            .filter_map(|place| match place {
                Place::Taken(entry) => Some(entry.clone()),
                Place::Free { .. } => None,
            })
            .collect()
    }
}
