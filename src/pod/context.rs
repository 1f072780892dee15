//! What all workers of a node share.
//!
//! Owns: the bundle, and the pods' virtual addresses. Not: any of the things in it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::admission::Capacity;
use crate::artifact::Fetcher;
use crate::board::Board;
use crate::clock::Clock;
use crate::image::ImageStore;
use crate::lifecycle::Restored;
use crate::outside::Gateway;
use crate::pod::environment::{Allocatable, Facts};
use crate::pod::networks::NetworkBook;
use crate::pod::usage::UsageBook;
use crate::runtime::Runtime;
use crate::secret::Decryptor;
use crate::spec::PodUid;
use crate::volume::{HostPathPolicy, VolumeRoot};

/// Writes down the run-time facts that survive a restart of the daemon.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Returns at once; the write happens when convenient, the newest wins.
    fn keep(&self, uid: &PodUid, facts: &Restored);
}

/// A keeper that forgets: for `play`.
#[derive(Clone, Copy, Debug)]
pub struct NoKeeper;

impl Keeper for NoKeeper {
    fn keep(&self, _uid: &PodUid, _facts: &Restored) {}
}

/// What a pod may learn about its node through the downward API.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    pub name: String,
    pub host_ips: Vec<IpAddr>,
    /// All there is.
    pub total: Allocatable,
    /// What pods may have of it.
    pub allocatable: Allocatable,
    /// Pods that may be here and not have ended.
    pub pods_max: usize,
}

/// Everything a worker needs from its node. One per process, shared.
#[derive(Debug)]
pub struct NodeContext {
    pub clock: Clock,
    pub runtime: Runtime,
    pub images: Arc<ImageStore>,
    /// Brings images that are not here.
    pub fetcher: Fetcher,
    /// Opens what is encrypted to this node; `None`: it has no key.
    pub secrets: Option<Decryptor>,
    pub volumes: VolumeRoot,
    pub host_paths: HostPathPolicy,
    pub board: Board,
    pub node: NodeFacts,
    pub addresses: PodAddresses,
    /// What the modules use.
    pub usage: UsageBook,
    /// The way out of the node.
    pub gateway: Gateway,
    /// The pods' networks.
    pub networks: NetworkBook,
    pub keeper: Arc<dyn Keeper>,
}

impl NodeFacts {
    /// What pods are admitted against.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity {
            cpu_millis: self.allocatable.cpu_millis,
            memory_bytes: self.allocatable.memory_bytes,
            pods: self.pods_max,
        }
    }
}

impl NodeContext {
    /// The facts of one pod, for its environment and downward API volumes.
    #[must_use]
    pub fn facts(&self, pod_ip: IpAddr) -> Facts {
        Facts {
            pod_ips: vec![pod_ip],
            host_ips: self.node.host_ips.clone(),
            node_name: self.node.name.clone(),
            allocatable: self.node.allocatable,
        }
    }
}

/// Hands out the pods' virtual addresses, 10.88.0.1 to 10.88.255.254. They exist inside this process only: no host
/// interface carries them, so they cannot clash with a real network except in a pod's own view.
#[derive(Debug, Default)]
pub struct PodAddresses {
    state: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    used: BTreeSet<u16>,
    last: u16,
}

impl PodAddresses {
    /// A free address; `None` if all 65,534 are taken. The one longest unused comes last, so that an address that was just
    /// given back does not at once mean another pod.
    #[must_use]
    pub fn take(self: &PodAddresses) -> Option<Ipv4Addr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = state.last;
        let host = (1..=u16::MAX - 1)
            .map(|step| (u32::from(start) + u32::from(step)) % u32::from(u16::MAX))
            .filter_map(|n| u16::try_from(n).ok())
            .find(|n| *n != 0 && !state.used.contains(n))?;
        state.used.insert(host);
        state.last = host;
        let [high, low] = host.to_be_bytes();
        Some(Ipv4Addr::new(10, 88, high, low))
    }

    /// Gives an address back.
    pub fn release(&self, address: Ipv4Addr) {
        let [_, _, high, low] = address.octets();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used.remove(&u16::from_be_bytes([high, low]));
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn addresses_are_unique_and_come_back_late() {
        let addresses = PodAddresses::default();
        let first = addresses.take();
        assert_eq!(first, Some(Ipv4Addr::new(10, 88, 0, 1)));
        let second = addresses.take();
        assert_eq!(second, Some(Ipv4Addr::new(10, 88, 0, 2)));
        addresses.release(Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(addresses.take(), Some(Ipv4Addr::new(10, 88, 0, 3)));
    }

    #[test]
    fn all_addresses_can_be_taken_and_then_none() {
        let addresses = PodAddresses::default();
        let mut seen = BTreeSet::new();
        while let Some(address) = addresses.take() {
            assert!(seen.insert(address));
        }
        assert_eq!(seen.len(), 65_534);
        addresses.release(Ipv4Addr::new(10, 88, 7, 7));
        assert_eq!(addresses.take(), Some(Ipv4Addr::new(10, 88, 7, 7)));
    }
}
