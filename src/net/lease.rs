//! A bound port that frees itself.
//!
//! Owns: the tie between one binding in a port table and whoever holds it. Freed on drop, or before
//! that when the owner of the socket is reset, so that a module that trapped can bind again at
//! once.
//! Lock order: a port table is a leaf; nothing is locked while one is held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::addr::Protocol;
use super::port::{Bound, Claim, PortRefusal};
use super::tcp::listener::ListenerCore;
use super::udp::UdpCore;
use super::{Net, lock, read, write};

pub(crate) struct Lease {
    net: Arc<Net>,
    protocol: Protocol,
    address: SocketAddr,
    bound: Bound,
    live: AtomicBool,
}

impl Lease {
    /// Takes a port of `net`.
    pub(crate) fn take(
        net: &Arc<Net>,
        protocol: Protocol,
        claim: Claim,
    ) -> Result<Arc<Self>, PortRefusal> {
        let bound = match protocol {
            Protocol::Tcp => lock(&net.tcp_ports).bind(claim)?,
            Protocol::Udp => write(&net.udp_ports).bind(claim)?,
        };
        Ok(Arc::new(Self {
            net: Arc::clone(net),
            protocol,
            address: SocketAddr::new(claim.ip, bound.port),
            bound,
            live: AtomicBool::new(true),
        }))
    }

    /// The address as it was bound (possibly a wildcard), with the port that was given.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the port is still ours.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// From now on this listener answers connections to the port.
    pub(crate) fn answer_tcp(&self, listener: &Arc<ListenerCore>) {
        lock(&self.net.tcp_ports).answer(self.bound, Arc::downgrade(listener));
    }

    /// From now on this socket gets the datagrams sent to the port.
    pub(crate) fn answer_udp(&self, socket: &Arc<UdpCore>) {
        write(&self.net.udp_ports).answer(self.bound, Arc::downgrade(socket));
    }

    /// Frees the port; only the first call does anything.
    pub(crate) fn release(&self) {
        if !self.live.swap(false, Ordering::AcqRel) {
            return;
        }
        match self.protocol {
            Protocol::Tcp => lock(&self.net.tcp_ports).release(self.bound),
            Protocol::Udp => write(&self.net.udp_ports).release(self.bound),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({} {})", self.protocol, self.address)
    }
}

/// The listener that answers connections to `to`, if any.
pub(crate) fn listener_at(net: &Net, to: SocketAddr) -> Option<Arc<ListenerCore>> {
    lock(&net.tcp_ports).find(to.ip(), to.port()).and_then(std::sync::Weak::upgrade)
}

/// The socket that gets datagrams sent to `to`, if any.
pub(crate) fn udp_at(net: &Net, to: SocketAddr) -> Option<Arc<UdpCore>> {
    read(&net.udp_ports).find(to.ip(), to.port()).and_then(std::sync::Weak::upgrade)
}
