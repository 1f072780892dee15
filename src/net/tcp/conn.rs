//! A TCP connection: two pipes between two ends.
//!
//! Owns: what happens to both directions when one side closes, in the order POSIX gives it, and who
//! pays for what a side leaves behind.
//! Is not: how a connection comes about (`listener`, `handshake`, `outbound`), how it is used
//! (`halves`), or a guest's socket object (`socket`).
//!
//! ```text
//!        End (client)                                End (server)
//!   WriteHalf ───────► pipe[Client] ──────────────► ReadHalf
//!   ReadHalf  ◄─────── pipe[Server] ◄────────────── WriteHalf
//! ```
//! A dropped `WriteHalf` is a FIN. A dropped `ReadHalf` throws away what comes. When both are gone,
//! the peer's writes fail; and if bytes were never read, its reads end in a reset, as Linux has it.
//! Money: a writer pays for its bytes under way; for those of a client that is no member's, the server
//! does, whose slowness it is that they wait. When a writer's end is gone, the reader pays for those it
//! has not read: it alone decides how long they stay. If it cannot, they are lost, and it is told
//! by a reset.
//! Each pipe has its own lock; an end never holds two. Wakers are woken with no lock held.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::options::BufferSizes;
use super::pipe::Pipe;
use crate::net::addr::Protocol;
use crate::net::faults::{Link, News};
use crate::net::lease::Lease;
use crate::net::lock;
use crate::net::member::{Held, MemberState};
use crate::net::registry::{Entry, Ticket};
use crate::net::stats::{SocketInfo, SocketState};

/// Which end opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
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

/// What both ends share.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Indexed by the side that writes.
    pipes: [Mutex<Pipe>; 2],
    /// On whose account each side writes. The far side of a connection to the outside has the
    /// member that asked for it.
    members: [Arc<MemberState>; 2],
    addresses: [SocketAddr; 2],
    seen: Seen,
    shut: [AtomicU8; 2],
    /// Where the network has faults to order.
    link: Option<Arc<Link>>,
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

/// What a side brings to a new connection.
#[derive(Debug)]
pub(crate) struct SideSeed {
    pub(crate) member: Arc<MemberState>,
    pub(crate) address: SocketAddr,
    pub(crate) sizes: BufferSizes,
}

/// What the side that asks for the connection brings.
#[derive(Debug)]
pub(crate) struct EndSeed {
    pub(crate) side: SideSeed,
    /// The port it holds; an accepted connection shares its listener's.
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) ticket: Ticket,
}

/// One end of a connection, shared by the halves and the guest's socket object.
#[derive(Debug)]
pub(crate) struct End {
    conn: Arc<Conn>,
    side: Side,
    lease: Option<Arc<Lease>>,
    ticket: Option<Ticket>,
}

/// The server's side of a connection before anybody holds it. Dropped, it is as one whose module
/// died: the client sees a reset.
#[derive(Debug)]
pub(crate) struct Unclaimed(Option<Arc<Conn>>);

const SHUT_READ: u8 = 1;
const SHUT_WRITE: u8 = 2;
const SHUT_BOTH: u8 = SHUT_READ | SHUT_WRITE;

/// Who pays for what a client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payer {
    Client,
    Server,
}

/// Makes a connection: the client's end, and the server's side.
pub(crate) fn pair(
    client: EndSeed,
    server: SideSeed,
    seen: Seen,
    payer: Payer,
) -> (Arc<End>, Unclaimed) {
    let EndSeed { side: client, lease, ticket } = client;
    let pipe = |from: &SideSeed, to: &SideSeed, payer: &SideSeed, own| {
        Mutex::new(Pipe::new(Arc::clone(&payer.member), own, from.sizes.send, to.sizes.receive))
    };
    let (clients_payer, clients_own) = match payer {
        Payer::Client => (&client, true),
        Payer::Server => (&server, false),
    };
    // What comes from the outside its member pays for, and has not sent.
    let servers_own = !matches!(seen, Seen::Outside { .. });
    let net = &client.member.net;
    let faults = net.faults.as_ref();
    let link = faults.map(|faults| faults.link(net.pair_with(server.address.ip())));
    let conn = Arc::new(Conn {
        pipes: [
            pipe(&client, &server, clients_payer, clients_own),
            pipe(&server, &client, &server, servers_own),
        ],
        members: [client.member, server.member],
        addresses: [client.address, server.address],
        seen,
        shut: [AtomicU8::new(0), AtomicU8::new(0)],
        link,
    });
    if let Some(link) = &conn.link {
        link.join(&conn);
    }
    let ticket = Some(ticket);
    let end = Arc::new(End { conn: Arc::clone(&conn), side: Side::Client, lease, ticket });
    (end, Unclaimed(Some(conn)))
}

impl Unclaimed {
    /// The end of a listener's member, which has opened a socket for it. The caller attaches it, with
    /// nothing locked.
    pub(crate) fn claim(mut self, ticket: Ticket) -> Arc<End> {
        let conn = self.0.take().expect("claimed once, by value");
        Arc::new(End { conn, side: Side::Server, lease: None, ticket: Some(ticket) })
    }

    /// The end that the host holds of a connection to the outside.
    pub(crate) fn claim_for_host(mut self) -> Option<Arc<End>> {
        let conn = self.0.take()?;
        Some(Arc::new(End { conn, side: Side::Server, lease: None, ticket: None }))
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(conn) = &self.0 {
            conn.abort(Side::Server);
        }
    }
}

impl Conn {
    pub(crate) fn pipe_from(&self, side: Side) -> &Mutex<Pipe> {
        &self.pipes[side as usize]
    }

    fn member(&self, side: Side) -> &Arc<MemberState> {
        &self.members[side as usize]
    }

    /// Tells the other side what became of `side`.
    pub(crate) fn tell(&self, side: Side, news: News) {
        match news {
            News::Bytes(n) => {
                let waker = lock(self.pipe_from(side)).arrive(n);
                wake_all([waker, None]);
            }
            News::End => {
                let woken = lock(self.pipe_from(side)).finish();
                wake_all(woken);
            }
            News::Closed => {
                let (writer, lost) = lock(self.pipe_from(side.other())).break_off();
                wake_all([writer, None]);
                if lost {
                    self.reset_by(side);
                }
            }
            News::Died => {
                self.reset_by(side);
                let woken = lock(self.pipe_from(side.other())).cut();
                wake_all(woken);
            }
        }
    }

    /// The other side's reads end in a reset, after what was written to it.
    fn reset_by(&self, side: Side) {
        let woken = lock(self.pipe_from(side)).cut();
        wake_all(woken);
        let other = side.other();
        let outside = other == Side::Server && matches!(self.seen, Seen::Outside { .. });
        if !outside && self.shut[other as usize].load(Ordering::Acquire) != SHUT_BOTH {
            self.member(other).counters.resets.add(1);
        }
    }

    /// Tells the other side, or leaves it to the faults that lie between.
    fn announce(&self, side: Side, news: News) {
        match &self.link {
            Some(link) => link.tell(self, side, news),
            None => self.tell(side, news),
        }
    }

    /// `side` writes no more; the other reads what is left, then the end.
    fn shut_write(&self, side: Side) {
        if self.link.is_some() {
            let writer = lock(self.pipe_from(side)).close();
            wake_all([writer, None]);
        }
        self.announce(side, News::End);
        self.note_shut(side, SHUT_WRITE);
    }

    /// `side` reads no more; what is buffered is lost.
    fn shut_read(&self, side: Side) {
        let woken = lock(self.pipe_from(side.other())).deafen();
        wake_all(woken);
        self.note_shut(side, SHUT_READ);
    }

    fn note_shut(&self, side: Side, which: u8) {
        let before = self.shut[side as usize].fetch_or(which, Ordering::AcqRel);
        if before != SHUT_BOTH && before | which == SHUT_BOTH {
            self.announce(side, News::Closed);
        }
    }

    /// `side` died: both directions end in a reset, after what was written.
    fn abort(&self, side: Side) {
        let before = self.shut[side as usize].swap(SHUT_BOTH, Ordering::AcqRel);
        if before != SHUT_BOTH {
            let woken = lock(self.pipe_from(side.other())).deafen();
            wake_all(woken);
            if self.link.is_some() {
                let writer = lock(self.pipe_from(side)).close();
                wake_all([writer, None]);
            }
            self.announce(side, News::Died);
        }
        self.leave_to_reader(side);
    }

    /// From here on the reader of what `side` wrote pays for it.
    fn leave_to_reader(&self, side: Side) {
        let heir = self.member(side.other());
        let Some(woken) = lock(self.pipe_from(side)).hand_over(heir) else { return };
        wake_all(woken);
    }

    /// The network itself breaks the connection: both sides see a reset.
    pub(crate) fn sever(&self) {
        for side in [Side::Client, Side::Server] {
            self.reset_by(side);
        }
    }
}

impl End {
    pub(crate) fn outgoing(&self) -> &Mutex<Pipe> {
        self.conn.pipe_from(self.side)
    }

    pub(crate) fn incoming(&self) -> &Mutex<Pipe> {
        self.conn.pipe_from(self.side.other())
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

    /// The faults that may befall what is sent here.
    pub(crate) fn link(&self) -> Option<(&Link, Side)> {
        self.conn.link.as_deref().map(|link| (link, self.side))
    }

    pub(crate) fn conn(&self) -> &Conn {
        &self.conn
    }

    /// Whether this is the end that the host holds of a connection to the outside.
    fn is_outside(&self) -> bool {
        self.side == Side::Server && matches!(self.conn.seen, Seen::Outside { .. })
    }

    /// Counts what was written here.
    pub(crate) fn count_sent(&self, n: usize) {
        // What the host writes for the outside the member sees when it reads it.
        if !self.is_outside() {
            self.conn.member(self.side).counters.tcp_bytes_sent.add(n);
        }
    }

    /// Counts what was read here.
    pub(crate) fn count_received(&self, n: usize) {
        if !self.is_outside() {
            self.conn.member(self.side).counters.tcp_bytes_received.add(n);
        }
    }

    /// Bytes that its holder keeps, on its member's account.
    pub(crate) fn hold(&self, bytes: usize) -> Option<Held> {
        self.conn.member(self.side).hold_own(bytes)
    }

    /// Makes the end known to its member's registry.
    pub(crate) fn attach(self: &Arc<Self>) {
        let known = |ticket: &Ticket| ticket.attach(Entry::Connected(Arc::downgrade(self)));
        if !self.ticket.as_ref().is_none_or(known) {
            self.abort();
        }
    }

    /// No more from us; the peer reads what is left, then the end.
    pub(crate) fn shut_write(&self) {
        self.conn.shut_write(self.side);
    }

    /// No more to us; what is buffered is lost.
    pub(crate) fn shut_read(&self) {
        self.conn.shut_read(self.side);
    }

    /// A half is dropped: in order by `shut`, unless its member is being reset. Another thread may be at that, and not yet here.
    pub(super) fn let_go(&self, shut: impl FnOnce(&Self)) {
        if self.conn.member(self.side).is_gone() { self.abort() } else { shut(self) }
    }

    /// The side died: both directions end in a reset, after what was written; its port is free.
    pub(crate) fn abort(&self) {
        self.conn.abort(self.side);
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
            via: match self.conn.seen {
                Seen::Outside { via } => Some(via),
                Seen::As(_) => None,
            },
            receive_queue: unread as u64,
            send_queue: unsent as u64,
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.conn.leave_to_reader(self.side);
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
