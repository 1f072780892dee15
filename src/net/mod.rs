//! A pod's network, in memory: its loopback, its own address, its ports, its names.
//!
//! ```text
//!  guests' sockets (wasi/sockets)     daemon: probes, published ports (pod/net_io)
//!        └────────────┬───────────────────────┘
//!                  Member            who: everything opened belongs to one, and dies with it
//!          ┌──────────┼───────────┐
//!         tcp        udp        names        what can be done
//!          └────┬─────┘
//!          port, lease              where: who answers at which address and port
//!               └────► egress       and where to, when it is not this pod
//! ```
//! Owns: every socket of a pod. Is not: a wire. No packets, no clock, no threads: each call returns
//! at once; what cannot be done yet is `Poll::Pending`, and `poll_*` calls keep a waker for when it
//! can. So the same core serves guests of every WASI version, probes, and published ports, and is
//! tested without any of them.
//! Knows neither wasmtime nor tokio.
//! Who may call: `wasi::sockets`, `pod::net_io`, and the runtime and sandbox, which make networks
//! and members.
//! Limits: [`NetLimits`] for the pod, [`MemberLimits`] for each member, and the bounds each file
//! names. None is process-wide, so no pod can starve another.
//! Lock order (outer first): a listener's state, a handshake's slot, a pipe or a datagram socket's
//! state; the port tables, the members' registries and the list of those parked are leaves. No waker
//! is woken with a lock held.

mod addr;
mod egress;
pub mod faults;
mod lease;
mod member;
mod names;
mod port;
mod registry;
mod stats;
mod tcp;
mod udp;
mod waiters;
mod way;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

pub use addr::{
    Family, Protocol, fits_family, is_connectable, is_sendable, is_unicast, pod_ip6, pod_of_ip6,
};
pub use egress::{
    Answer, Ask, DenyAll, Egress, Lookup, MAX_LOOKUPS, OutboundCall, Route, UdpReply,
};
pub(crate) use member::Held;
pub use member::{Ledger, Member, MemberLimits, NoLedger, OpenError, Paid, SOCKET_COST};
pub use names::{HostAlias, ResolveError};
pub use stats::{CounterSnapshot, SocketInfo, SocketState};
pub use tcp::halves::{ReadHalf, Stream, WriteHalf};
pub use tcp::handshake::{ConnectError, Connecting};
pub use tcp::listener::{AcceptError, DEFAULT_BACKLOG, Listener, MAX_BACKLOG};
pub use tcp::options::{DEFAULT_BUFFER, MAX_BUFFER, MIN_BUFFER, ZeroOption};
pub use tcp::pipe::{ReadError, WriteError};
pub use tcp::socket::{BindError, ListenError, Shutdown, TcpSocket, WrongState};
pub use tcp::socket_options::SetBacklogError;
pub use udp::{
    Datagram, MAX_PAYLOAD_V4, MAX_PAYLOAD_V6, ReceiveError, Receiving, SendError, UdpSocket,
};
pub(crate) use waiters::Waiters;

use addr::PodAddresses;
use faults::{Faults, Pair};
use member::MemberState;
use names::Names;
use port::PortTable;
use tcp::listener::ListenerCore;
use tcp::parked::Parked;
use udp::UdpCore;

/// What a whole pod may hold at once, whoever of its members holds it.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Sockets of all members together.
    pub max_sockets: usize,
    /// Buffered bytes of all members together.
    pub max_buffered: usize,
}

impl Default for NetLimits {
    /// Eight members at their own default: pods on gateways have a handful of containers.
    fn default() -> Self {
        Self { max_sockets: 8192, max_buffered: 128 << 20 }
    }
}

/// What a network is made of.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The pod's own address.
    pub pod_ip: Ipv4Addr,
    /// Its host name, and any longer form of it.
    pub host_names: Vec<String>,
    /// Further names for addresses.
    pub aliases: Vec<HostAlias>,
    /// Bounds for the pod as a whole.
    pub limits: NetLimits,
    /// Who decides about traffic that leaves the pod.
    pub egress: Arc<dyn Egress>,
    /// Faults to order, for tests; else none.
    pub faults: Option<Faults>,
}

impl NetConfig {
    /// A network with this address and nothing else: no names, default limits, no way out.
    #[must_use]
    pub fn new(pod_ip: Ipv4Addr) -> Self {
        Self {
            pod_ip,
            host_names: Vec::new(),
            aliases: Vec::new(),
            limits: NetLimits::default(),
            egress: Arc::new(DenyAll),
            faults: None,
        }
    }
}

/// A handle to one pod's network; clones are the same network, which goes with the last of them and
/// of its members.
#[derive(Clone)]
pub struct PodNet(pub(crate) Arc<Net>);

/// The network itself. Tables are locked for a look-up, never while data moves.
pub(crate) struct Net {
    addresses: PodAddresses,
    names: Names,
    limits: NetLimits,
    egress: Arc<dyn Egress>,
    faults: Option<Faults>,
    tcp_ports: Mutex<PortTable<Weak<ListenerCore>>>,
    // Every datagram looks here for its receiver, so that readers do not shut each other out.
    udp_ports: RwLock<PortTable<Weak<UdpCore>>>,
    sockets: AtomicUsize,
    buffered: AtomicUsize,
    members: Mutex<Vec<Weak<MemberState>>>,
    /// What members gone have counted, by name: a module's next run goes on with its last one's.
    retired: Mutex<BTreeMap<Box<str>, CounterSnapshot>>,
    /// Who waits for somebody to listen.
    parked: Mutex<Parked>,
}

/// Names of members gone whose counters are kept apart; a pod has a few dozen containers at most.
/// Those of any other are kept together under an empty name.
const RETIRED_NAMES_MAX: usize = 256;

impl PodNet {
    /// Makes a network with nobody in it.
    #[must_use]
    pub fn new(config: NetConfig) -> Self {
        Self(Arc::new(Net {
            addresses: PodAddresses { pod_ip: config.pod_ip },
            names: Names::new(&config.host_names, config.pod_ip, &config.aliases),
            limits: config.limits,
            egress: config.egress,
            faults: config.faults,
            tcp_ports: Mutex::new(PortTable::new()),
            udp_ports: RwLock::new(PortTable::new()),
            sockets: AtomicUsize::new(0),
            buffered: AtomicUsize::new(0),
            members: Mutex::new(Vec::new()),
            retired: Mutex::default(),
            parked: Mutex::default(),
        }))
    }

    /// Lets someone in, under a name for people to read. `ledger` pays for what is buffered on its
    /// account.
    #[must_use]
    pub fn join(&self, name: &str, limits: MemberLimits, ledger: Arc<dyn Ledger>) -> Member {
        Member::new(&self.0, name, limits, ledger)
    }

    /// The pod's own address.
    #[must_use]
    pub fn pod_ip(&self) -> Ipv4Addr {
        self.0.addresses.pod_ip
    }

    /// Whether traffic to `ip` stays inside this pod.
    #[must_use]
    pub fn is_local(&self, ip: IpAddr) -> bool {
        self.0.addresses.is_local(ip)
    }

    /// The addresses of `name` if it is one of the pod's own, best first; never empty. Other names
    /// are looked up by [`Member::lookup`].
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.0.names.resolve(name)
    }

    /// The socket table, as `ss` would show it, in no particular order.
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketInfo> {
        self.members().iter().flat_map(|member| member.sockets()).collect()
    }

    /// What all traffic of the pod adds up to, that of members gone included.
    #[must_use]
    pub fn counters(&self) -> CounterSnapshot {
        let mut sum = CounterSnapshot::default();
        self.member_counters().values().for_each(|counters| sum.absorb(counters));
        sum
    }

    /// The same by member's name, that of members gone included.
    #[must_use]
    pub fn member_counters(&self) -> BTreeMap<Box<str>, CounterSnapshot> {
        // One that goes just now is missed or counted here, never both: it adds to the retired
        // after it left the members.
        let members = self.members();
        let mut sums = lock(&self.0.retired).clone();
        for member in members {
            sums.entry(member.name.clone()).or_default().absorb(&member.counters.snapshot());
        }
        sums
    }

    /// Sockets open now.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.0.sockets.load(Ordering::Relaxed)
    }

    /// Bytes buffered now: the memory that is held for what waits to be read.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.0.buffered.load(Ordering::Relaxed)
    }

    /// Ports taken now, TCP and UDP.
    #[must_use]
    pub fn bound_ports(&self) -> (usize, usize) {
        (lock(&self.0.tcp_ports).len(), read(&self.0.udp_ports).len())
    }

    fn members(&self) -> Vec<Arc<MemberState>> {
        lock(&self.0.members).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Net {
    /// Between whom faults lie on the way from here to `to`.
    fn pair_with(&self, to: IpAddr) -> Pair {
        let own = IpAddr::V4(self.addresses.pod_ip);
        // A pod is known to the orders by its IPv4 address, whichever way it is spoken to.
        let pod = match to {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => pod_of_ip6(ip).map(IpAddr::V4),
        };
        Pair::new(own, if self.addresses.is_local(to) { own } else { pod.unwrap_or(to) })
    }
}

impl fmt::Debug for PodNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodNet")
            .field("pod_ip", &self.pod_ip())
            .field("sockets", &self.open_sockets())
            .finish_non_exhaustive()
    }
}

/// Locks. No critical section here can panic half-way through a change (they move values and
/// count), so a poisoned lock still guards a sound value: one pod's panic elsewhere must not take
/// its network down with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(table: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(table: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
