//! One pod's share of the outside: what it may have at once, what it was granted, what it used.
//!
//! Owns: the bounds, and everything under way for the pod; it ends with its [`PodOutside`]. Is not:
//! the way to the kernel (`tcp`, `udp`), nor a policy: what arrives here was allowed by `fabric`.
//! Limits: [`PodLimits`]; none is shared with other pods but the node's budget of descriptors
//! ([`super::Gateway`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::address::{self, Closed, HOST_IP};
use super::flows::Flows;
use super::rate::Rate;
use super::stats::Traffic;
use super::udp::{Flow, FlowKey};
use crate::net::Protocol;
use crate::spec::{HostPort, PodKey};

/// What one pod may have of the outside at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLimits {
    /// Connects under way. An address that does not answer holds one for a minute.
    pub connecting: usize,
    /// Connections open. Each is a descriptor and, busy, up to 64 KiB in the daemon beside what the
    /// kernel buffers.
    pub connections: usize,
    /// Flows of datagrams. Each is a descriptor.
    pub flows: usize,
    /// New flows in a second, and at once: each is a few system calls and a task.
    pub new_flows: (u32, u32),
    /// A flow without traffic for so long is forgotten.
    pub flow_idle: Duration,
    /// Look-ups under way.
    pub lookups: usize,
    /// Look-ups in a second, and at once.
    pub lookup_rate: (u32, u32),
}

impl Default for PodLimits {
    /// A gateway's module keeps a handful of connections; a proxy of some hundred devices still
    /// fits. RFC 4787 asks to keep a flow for at least two minutes.
    fn default() -> Self {
        Self {
            connecting: 64,
            connections: 512,
            flows: 256,
            new_flows: (64, 256),
            flow_idle: Duration::from_secs(120),
            lookups: 32,
            lookup_rate: (20, 100),
        }
    }
}

/// The part of the node's descriptors that one pod's connections may have, and, of half as many, its flows.
const PART: usize = 4;

impl PodLimits {
    /// The same, where all pods together have so many descriptors: no pod takes what the others need.
    #[must_use]
    pub fn of(self, descriptors: usize) -> Self {
        Self {
            connections: self.connections.min((descriptors / PART).max(1)),
            flows: self.flows.min((descriptors / PART / 2).max(1)),
            ..self
        }
    }
}

/// See the header.
#[derive(Debug)]
pub struct PodOutside {
    pub(super) key: PodKey,
    grants: Vec<HostPort>,
    pub(super) traffic: Traffic,
    pub(super) connecting: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) lookups: Arc<Semaphore>,
    pub(super) flow_idle: Duration,
    busy: Mutex<Busy>,
    pub(super) stop: CancellationToken,
}

/// What changes with each datagram and look-up. Locked for a look at a table, never while waiting.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) flows: Flows<FlowKey, Flow>,
    pub(super) new_flows: Rate,
    pub(super) lookups: Rate,
}

/// Where an address asked for leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Somebody outside.
    Outside(SocketAddr),
    /// A port of the host's loopback that the pod was granted.
    Host(u16),
}

impl PodOutside {
    /// A pod with these ports of the host's loopback, and nothing under way.
    #[must_use]
    pub fn new(key: PodKey, grants: Vec<HostPort>, limits: PodLimits) -> Self {
        let rate = |(per_second, burst)| Rate::new(per_second, burst);
        Self {
            key,
            grants,
            traffic: Traffic::default(),
            connecting: Arc::new(Semaphore::new(limits.connecting)),
            connections: Arc::new(Semaphore::new(limits.connections)),
            lookups: Arc::new(Semaphore::new(limits.lookups)),
            flow_idle: limits.flow_idle,
            busy: Mutex::new(Busy {
                flows: Flows::new(limits.flows),
                new_flows: rate(limits.new_flows),
                lookups: rate(limits.lookup_rate),
            }),
            stop: CancellationToken::new(),
        }
    }

    /// What it used.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The flows of datagrams under way: the pod's address, the one it talks to, and the host's own.
    #[must_use]
    pub fn flows(&self) -> Vec<(SocketAddr, SocketAddr, Option<SocketAddr>)> {
        let busy = self.busy();
        busy.flows.iter().map(|(key, flow)| (key.from, key.to, flow.via())).collect()
    }

    /// Whether any port of the host's loopback is granted.
    #[must_use]
    pub fn has_grants(&self) -> bool {
        !self.grants.is_empty()
    }

    /// Where `to` leads, as far as its spelling tells.
    pub(super) fn target(&self, to: SocketAddr, protocol: Protocol) -> Result<Target, Closed> {
        if to.ip() == IpAddr::V4(HOST_IP) {
            let wanted = HostPort { protocol: spelled(protocol), port: to.port() };
            return match self.grants.contains(&wanted) {
                true => Ok(Target::Host(to.port())),
                false => Err(Closed::LinkLocal),
            };
        }
        match address::closed(to.ip(), protocol) {
            Some(why) => Err(why),
            None => Ok(Target::Outside(to)),
        }
    }

    pub(super) fn busy(&self) -> MutexGuard<'_, Busy> {
        // Nothing in there is left half-way by a panic: entries are put in and taken out whole.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything under way: connections are reset, flows forgotten.
    pub fn close(&self) {
        self.stop.cancel();
        self.busy().flows.clear();
    }
}

impl Drop for PodOutside {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The same protocol in the manifest's words.
fn spelled(protocol: Protocol) -> crate::spec::Protocol {
    match protocol {
        Protocol::Tcp => crate::spec::Protocol::Tcp,
        Protocol::Udp => crate::spec::Protocol::Udp,
    }
}

/// What a connection holds for as long as it is open.
#[derive(Debug)]
pub(super) struct Place {
    pod: Arc<PodOutside>,
    _of_pod: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
}

impl Place {
    /// A place among the pod's connections and the node's descriptors, if both have room.
    pub(super) fn take(pod: &Arc<PodOutside>, node: &Arc<Semaphore>) -> Option<Self> {
        let of_pod = Arc::clone(&pod.connections).try_acquire_owned().ok()?;
        let of_node = Arc::clone(node).try_acquire_owned().ok()?;
        Some(Self { pod: Arc::clone(pod), _of_pod: of_pod, _of_node: of_node })
    }

    /// The connection stands.
    pub(super) fn open(self) -> OpenPlace {
        let traffic = &self.pod.traffic;
        traffic.connections.add(1);
        traffic.connections_open.rise(&traffic.connections_peak);
        OpenPlace(self)
    }
}

/// The place of a connection that stands.
#[derive(Debug)]
pub(super) struct OpenPlace(Place);

impl Drop for OpenPlace {
    fn drop(&mut self) {
        self.0.pod.traffic.connections_open.fall();
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn no_pod_may_have_more_than_a_part_of_the_nodes_descriptors() {
        let default = PodLimits::default();
        let table = [(512, (128, 64)), (65_536, (512, 256)), (3, (1, 1))];
        for (descriptors, expected) in table {
            let limits = default.of(descriptors);
            assert_eq!((limits.connections, limits.flows), expected, "{descriptors}");
        }
    }
}
