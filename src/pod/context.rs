//! What all workers of a node share.
//!
//! Owns: the bundle, and the pods' virtual addresses. Not: any of the things in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::admission::Capacity;
use crate::artifact::Fetcher;
use crate::board::Board;
use crate::clock::Clock;
use crate::fabric::Fabric;
use crate::image::ImageStore;
use crate::lifecycle::Restored;
use crate::net::faults::Faults;
use crate::outside::Gateway;
use crate::pod::environment::{Allocatable, Facts};
use crate::pod::host_port::Shelf;
use crate::pod::networks::NetworkBook;
use crate::pod::usage::UsageBook;
use crate::runtime::Runtime;
use crate::secret::Decryptor;
use crate::spec::{AddressRange, POD_RANGE, PodUid, host_number, name_hash};
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
    pub fabric: Fabric,
    pub node: NodeFacts,
    pub addresses: PodAddresses,
    /// What the modules use.
    pub usage: UsageBook,
    /// The way out of the node.
    pub gateway: Gateway,
    /// The pods' networks.
    pub networks: NetworkBook,
    /// Faults between the pods, where a test has ordered some.
    pub faults: Option<Faults>,
    /// Published ports of pods that are being replaced.
    pub shelf: Shelf,
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
            services: BTreeMap::new(),
        }
    }
}

/// Hands out the pods' virtual addresses.
///
/// An address is chosen by the pod's UID, the next free one if that is taken. So a pod has the same one whenever it is set up: after
/// a failure, and after a restart of the daemon, without a record; and one that was just given back does not at once mean another
/// pod, since another UID begins its search elsewhere.
#[derive(Debug, Default)]
pub struct PodAddresses {
    used: Mutex<BTreeSet<u16>>,
}

impl PodAddresses {
    /// A free address for the pod; `None` if all 65,534 are taken.
    #[must_use]
    pub fn take(&self, uid: &PodUid) -> Option<Ipv4Addr> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = u32::from(AddressRange::HOSTS);
        let first = u32::from(name_hash(uid.as_str(), AddressRange::HOSTS));
        let host = (0..hosts)
            .filter_map(|step| u16::try_from((first + step) % hosts + 1).ok())
            .find(|host| !used.contains(host))?;
        used.insert(host);
        Some(POD_RANGE.host(host))
    }

    /// Gives an address back.
    pub fn release(&self, address: Ipv4Addr) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&host_number(address));
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn uid(n: usize) -> PodUid {
        PodUid::new(&format!("uid-{n}"))
    }

    #[test]
    fn a_pod_has_the_same_address_again() {
        let addresses = PodAddresses::default();
        let first = addresses.take(&uid(1));
        let other = addresses.take(&uid(2));
        assert_ne!(first, other);
        first.into_iter().for_each(|ip| addresses.release(ip));
        assert_eq!(addresses.take(&uid(1)), first);
        // Another life of the daemon, and the other pod comes first.
        let later = PodAddresses::default();
        assert_eq!((later.take(&uid(2)), later.take(&uid(1))), (other, first));
        let twice = later.take(&uid(1));
        assert!(twice.is_some() && twice != first, "taken: the next free one");
    }

    #[test]
    fn all_addresses_can_be_taken_and_then_none() {
        let used = (1..=AddressRange::HOSTS).collect::<BTreeSet<u16>>();
        assert_eq!(used.len(), 65_534);
        assert!(used.iter().all(|host| POD_RANGE.has_host(POD_RANGE.host(*host))));
        let addresses = PodAddresses { used: Mutex::new(used) };
        assert_eq!(addresses.take(&uid(8)), None);
        addresses.release(Ipv4Addr::new(10, 88, 7, 7));
        assert_eq!(addresses.take(&uid(9)), Some(Ipv4Addr::new(10, 88, 7, 7)));
    }
}
