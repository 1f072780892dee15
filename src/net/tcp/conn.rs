//! A TCP connection: two pipes between two ends.
//!
//! Owns: what happens to both directions when one side closes, in the order POSIX gives it.
//! Is not: how a connection comes about (`listener`, `handshake`), how it is used (`halves`), or a
//! guest's socket object (`socket`).
//!
//! ```text
//!        End (client)                                End (server)
//!   WriteHalf ───────► pipe[Client] ──────────────► ReadHalf
//!   ReadHalf  ◄─────── pipe[Server] ◄────────────── WriteHalf
//! ```
//! A dropped `WriteHalf` is a FIN. A dropped `ReadHalf` throws away what comes. When both are gone,
//! the peer's writes fail; and if bytes were never read, its reads end in a reset, as Linux has it.
//! Each pipe has its own lock; an end never holds two. Wakers are woken with no lock held.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;

use super::pipe::Pipe;
use crate::net::addr::Protocol;
use crate::net::lease::Lease;
use crate::net::lock;
use crate::net::member::MemberState;
use crate::net::registry::{Entry, Ticket};
use crate::net::stats::{SocketInfo, SocketState};

/// Which end opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

#[derive(Debug)]
struct Conn {
    /// Indexed by the side that writes.
    pipes: [Mutex<Pipe>; 2],
    addresses: [SocketAddr; 2],
    seen: Seen,
}

/// What the client sees of the other side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    /// The address it asked for, behind which the server may have another (a Service's).
    As(SocketAddr),
    /// Somebody outside; the host's end of it is no member's socket.
    Outside {
        /// The address the host speaks from.
        via: SocketAddr,
    },
}

/// What one side brings to a new connection.
#[derive(Debug)]
pub(crate) struct EndSeed {
    pub(crate) member: Arc<MemberState>,
    pub(crate) address: SocketAddr,
    pub(crate) send_size: usize,
    pub(crate) receive_size: usize,
    /// The port it holds; an accepted connection shares its listener's.
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) ticket: Option<Ticket>,
}

/// One end of a connection, shared by the halves and the guest's socket object.
#[derive(Debug)]
pub(crate) struct End {
    conn: Arc<Conn>,
    side: Side,
    /// On whose account it writes. The far end of a connection to the outside has the member that
    /// asked for it.
    pub(crate) member: Arc<MemberState>,
    lease: Option<Arc<Lease>>,
    ticket: OnceLock<Ticket>,
    shut: AtomicU8,
}

const SHUT_READ: u8 = 1;
const SHUT_WRITE: u8 = 2;
const SHUT_BOTH: u8 = SHUT_READ | SHUT_WRITE;

/// Makes a connection; the client's end first.
pub(crate) fn pair(client: EndSeed, server: EndSeed, seen: Seen) -> (Arc<End>, Arc<End>) {
    let pipe = |from: &EndSeed, to: &EndSeed| {
        Mutex::new(Pipe::new(Arc::clone(&from.member), from.send_size, to.receive_size))
    };
    let conn = Arc::new(Conn {
        pipes: [pipe(&client, &server), pipe(&server, &client)],
        addresses: [client.address, server.address],
        seen,
    });
    let end = |conn, side, seed: EndSeed| {
        Arc::new(End {
            conn,
            side,
            member: seed.member,
            lease: seed.lease,
            ticket: seed.ticket.map_or_else(OnceLock::new, OnceLock::from),
            shut: AtomicU8::new(0),
        })
    };
    (end(Arc::clone(&conn), Side::Client, client), end(conn, Side::Server, server))
}

impl End {
    pub(crate) fn outgoing(&self) -> &Mutex<Pipe> {
        &self.conn.pipes[self.side as usize]
    }

    pub(crate) fn incoming(&self) -> &Mutex<Pipe> {
        &self.conn.pipes[self.side.other() as usize]
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.conn.addresses[self.side as usize]
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        match (self.side, self.conn.seen) {
            (Side::Client, Seen::As(asked)) => asked,
            (Side::Client | Side::Server, _) => self.conn.addresses[self.side.other() as usize],
        }
    }

    /// Whether this is the end that the host holds of a connection to the outside.
    fn is_outside(&self) -> bool {
        self.side == Side::Server && matches!(self.conn.seen, Seen::Outside { .. })
    }

    /// The host's address of a connection to the outside.
    fn via(&self) -> Option<SocketAddr> {
        match self.conn.seen {
            Seen::Outside { via } => Some(via),
            Seen::As(_) => None,
        }
    }

    /// Counts what was written here.
    pub(crate) fn count_sent(&self, n: usize) {
        // What the host writes for the outside the member sees when it reads it.
        if !self.is_outside() {
            self.member.counters.tcp_bytes_sent.add(n);
        }
    }

    /// Counts what was read here.
    pub(crate) fn count_received(&self, n: usize) {
        if !self.is_outside() {
            self.member.counters.tcp_bytes_received.add(n);
        }
    }

    /// Counts a read that met a reset.
    pub(crate) fn count_reset(&self) {
        if !self.is_outside() {
            self.member.counters.resets.add(1);
        }
    }

    /// The end's ticket, which an accepted one gets only when it is accepted.
    pub(crate) fn set_ticket(self: &Arc<Self>, ticket: Ticket) {
        // An end is accepted once, so the slot is empty.
        let _ = self.ticket.set(ticket);
        self.attach();
    }

    /// Makes the end known to its member's registry.
    pub(crate) fn attach(self: &Arc<Self>) {
        let alive = self
            .ticket
            .get()
            .is_none_or(|ticket| ticket.attach(Entry::Connected(Arc::downgrade(self))));
        if !alive {
            self.abort();
        }
    }

    /// No more from us; the peer reads what is left, then the end.
    pub(crate) fn shut_write(&self) {
        let woken = lock(self.outgoing()).finish();
        wake_all(woken);
        self.note_shut(SHUT_WRITE);
    }

    /// No more to us; what is buffered is lost.
    pub(crate) fn shut_read(&self) {
        let woken = lock(self.incoming()).deafen();
        wake_all(woken);
        self.note_shut(SHUT_READ);
    }

    fn note_shut(&self, which: u8) {
        let before = self.shut.fetch_or(which, Ordering::AcqRel);
        if before == SHUT_BOTH || before | which != SHUT_BOTH {
            return;
        }
        let (writer, lost) = lock(self.incoming()).break_off();
        wake_all([writer, None]);
        if lost {
            let woken = lock(self.outgoing()).cut();
            wake_all(woken);
        }
    }

    /// The side died: both directions end in a reset, after what was written; its port is free.
    pub(crate) fn abort(&self) {
        if self.shut.swap(SHUT_BOTH, Ordering::AcqRel) != SHUT_BOTH {
            let mut incoming = lock(self.incoming());
            let [reader, writer] = incoming.deafen();
            let [_, _] = incoming.cut();
            drop(incoming);
            wake_all([reader, writer]);
            let woken = lock(self.outgoing()).cut();
            wake_all(woken);
        }
        if let Some(lease) = &self.lease {
            lease.release();
        }
    }

    pub(crate) fn set_send_size(&self, size: usize) {
        let waker = lock(self.outgoing()).set_send_size(size);
        wake_all([waker, None]);
    }

    pub(crate) fn set_receive_size(&self, size: usize) {
        let waker = lock(self.incoming()).set_receive_size(size);
        wake_all([waker, None]);
    }

    pub(crate) fn describe(&self) -> SocketInfo {
        let (unread, peer_done, reset) = {
            let pipe = lock(self.incoming());
            (pipe.buffered(), pipe.is_finished(), pipe.is_reset())
        };
        let (unsent, we_done) = {
            let pipe = lock(self.outgoing());
            (pipe.buffered(), pipe.is_finished())
        };
        SocketInfo {
            member: String::new(),
            protocol: Protocol::Tcp,
            state: match (we_done, peer_done) {
                _ if reset => SocketState::Closed,
                (false, false) => SocketState::Established,
                (true, false) => SocketState::FinWait,
                (false, true) => SocketState::CloseWait,
                (true, true) => SocketState::Closed,
            },
            local: Some(self.local_address()),
            remote: Some(self.remote_address()),
            via: self.via(),
            receive_queue: unread as u64,
            send_queue: unsent as u64,
        }
    }
}

fn wake_all(wakers: [Option<Waker>; 2]) {
    for waker in wakers.into_iter().flatten() {
        waker.wake();
    }
}

#[cfg(test)]
#[path = "../tests/conn.rs"]
mod tests;
