//! What a member's traffic adds up to, and the rows of a socket table.
//!
//! Owns: the counters (relaxed atomics, touched by the member's own calls, so there is no pod-wide
//! hot spot) and the plain values that metrics and `podling net` read.
//! Is not: on any decision path. Nothing here changes what the network does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::addr::Protocol;
use super::tcp::handshake::ConnectError;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Live counters of one member.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)* }

        /// What the counters said at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CounterSnapshot { $($(#[$doc])* pub $name: u64,)* }

        impl CounterSnapshot {
            /// All of them by name.
            pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> CounterSnapshot {
                CounterSnapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Bytes taken from this member's TCP streams by peers' buffers.
    tcp_bytes_sent,
    /// Bytes this member has read from TCP streams.
    tcp_bytes_received,
    /// TCP connections this member opened.
    connects,
    /// TCP connections this member accepted.
    accepts,
    /// Connections to this member's listeners that were refused or reset before it accepted them.
    arrivals_refused,
    /// Connects of this member that nobody answered.
    connects_refused,
    /// Connects of this member that found no way, no port, or no answer in time.
    connects_failed,
    /// Connects and datagrams of this member that its policy forbids.
    denied,
    /// Connections of this member that ended by a reset from the other side.
    resets,
    /// Bytes of the datagrams this member sent.
    datagram_bytes_sent,
    /// Bytes of the datagrams this member received.
    datagram_bytes_received,
    /// Datagrams this member sent.
    datagrams_sent,
    /// Datagrams this member received.
    datagrams_received,
    /// Datagrams for this member that were dropped, because its queue or its memory was full.
    datagrams_dropped,
    /// Names that are not the pod's own, looked up by this member.
    lookups,
    /// Of these, those that were answered "later" at once, because of a limit.
    lookups_refused,
    /// Sockets refused because of a limit.
    sockets_refused,
    /// Writes refused because of the limit on buffered bytes or of the memory ledger.
    memory_refused,
    /// Most sockets held at once.
    sockets_peak,
    /// Most bytes buffered at once on this member's account.
    buffered_peak,
    /// Most connections that waited at once to be accepted, at any one listener.
    backlog_peak,
    /// Most bytes that waited at once in any one datagram socket.
    datagram_queue_peak,
}

impl Counters {
    /// Counts a connect that came to nothing.
    pub(crate) fn count_failure(&self, error: ConnectError) {
        match error {
            ConnectError::Refused(_) => self.connects_refused.add(1),
            ConnectError::Denied(_) => self.denied.add(1),
            ConnectError::Unreachable(_) | ConnectError::TimedOut(_) | ConnectError::NoPort => {
                self.connects_failed.add(1);
            }
            // The caller's own mistake, or counted as a socket refused.
            ConnectError::InvalidAddress(_)
            | ConnectError::InvalidState
            | ConnectError::Open(_) => {}
        }
    }
}

impl CounterSnapshot {
    /// Adds what another member counted: sums add up, peaks keep the higher one.
    pub fn absorb(&mut self, other: &CounterSnapshot) {
        self.tcp_bytes_sent += other.tcp_bytes_sent;
        self.tcp_bytes_received += other.tcp_bytes_received;
        self.connects += other.connects;
        self.accepts += other.accepts;
        self.arrivals_refused += other.arrivals_refused;
        self.connects_refused += other.connects_refused;
        self.connects_failed += other.connects_failed;
        self.denied += other.denied;
        self.resets += other.resets;
        self.datagram_bytes_sent += other.datagram_bytes_sent;
        self.datagram_bytes_received += other.datagram_bytes_received;
        self.datagrams_sent += other.datagrams_sent;
        self.datagrams_received += other.datagrams_received;
        self.datagrams_dropped += other.datagrams_dropped;
        self.lookups += other.lookups;
        self.lookups_refused += other.lookups_refused;
        self.sockets_refused += other.sockets_refused;
        self.memory_refused += other.memory_refused;
        self.sockets_peak = self.sockets_peak.max(other.sockets_peak);
        self.buffered_peak = self.buffered_peak.max(other.buffered_peak);
        self.backlog_peak = self.backlog_peak.max(other.backlog_peak);
        self.datagram_queue_peak = self.datagram_queue_peak.max(other.datagram_queue_peak);
    }
}

/// One number.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn peak(&self, n: usize) {
        // The common case is a plain load: a peak is rare.
        if self.0.load(Ordering::Relaxed) < n as u64 {
            self.0.fetch_max(n as u64, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where a socket stands, in the words of `ss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketState {
    /// Neither bound nor connected.
    Unconnected,
    /// Bound to a port, not listening.
    Bound,
    /// Waiting for connections.
    Listen,
    /// Waiting for room in the other side's queue.
    SynSent,
    /// Both directions open.
    Established,
    /// We closed our sending side, the other side has not.
    FinWait,
    /// The other side closed its sending side, we have not.
    CloseWait,
    /// Closed or reset, kept only because a handle is still held.
    Closed,
}

impl std::fmt::Display for SocketState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SocketState::Unconnected => "UNCONN",
            SocketState::Bound => "BOUND",
            SocketState::Listen => "LISTEN",
            SocketState::SynSent => "SYN-SENT",
            SocketState::Established => "ESTAB",
            SocketState::FinWait => "FIN-WAIT",
            SocketState::CloseWait => "CLOSE-WAIT",
            SocketState::Closed => "CLOSED",
        })
    }
}

/// One row of the socket table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// Name of the member (the container) that holds the socket.
    pub member: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it stands.
    pub state: SocketState,
    /// Its own address, once it has one.
    pub local: Option<SocketAddr>,
    /// The other side's, if there is one.
    pub remote: Option<SocketAddr>,
    /// The host's own address of a connection to the outside: what the host's `ss` shows for it.
    pub via: Option<SocketAddr>,
    /// Bytes waiting to be read; for a listener, connections waiting to be accepted.
    pub receive_queue: u64,
    /// Bytes the other side has not read; for a listener, how many connections may wait.
    pub send_queue: u64,
}
