//! What the fabric knows: pods, Services, policies, and what follows from them.
//!
//! Owns: keeping the derived (endpoints, isolation, the ways by address) in step with the given. Everything that a change
//! touches is computed when the change is made, so that a decision only looks things up. Not: locking, nor deciding (`egress`).

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use super::audit::AuditLog;
use super::learnt::Learnt;
use super::names::Zone;
use super::policy::{Isolation, NamedPort, Party, PodView, namespace_labels};
use super::service::{self, Backend, Backing, Balancer, Endpoint, PodState};
use crate::net::{Member, PodNet};
use crate::spec::{
    Labels, NamespacedName, NetworkPolicy, Pod, PodKey, PodNetwork, PodUid, Service,
};

#[derive(Debug, Default)]
pub(super) struct State {
    pods: BTreeMap<PodUid, PodEntry>,
    by_ip: HashMap<Ipv4Addr, PodUid>,
    services: BTreeMap<NamespacedName, ServiceEntry>,
    by_cluster_ip: HashMap<Ipv4Addr, NamespacedName>,
    policies: BTreeMap<NamespacedName, Arc<NetworkPolicy>>,
    next_seat: u64,
}

/// A pod, whether it has a network already or not.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) uid: PodUid,
    pub(super) key: PodKey,
    pub(super) labels: Labels,
    namespace_labels: Labels,
    ports: Vec<NamedPort>,
    hostname: String,
    subdomain: Option<String>,
    pub(super) network: PodNetwork,
    state: PodState,
    pub(super) seat: Option<Seat>,
    pub(super) isolation: Isolation,
    pub(super) log: Arc<Mutex<AuditLog>>,
    pub(super) learnt: Arc<Mutex<Learnt>>,
}

/// A pod's place in the network.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    serial: u64,
    pub(super) ip: Ipv4Addr,
    pub(super) net: PodNet,
    /// The daemon's own membership in it.
    pub(super) host: Arc<Member>,
}

/// A Service and its choices so far.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) service: Arc<Service>,
    pub(super) endpoints: Arc<[Endpoint]>,
    /// One for each port.
    pub(super) balancers: Arc<[Mutex<Balancer>]>,
}

impl PodEntry {
    fn new(pod: &Pod) -> Self {
        Self {
            uid: pod.uid.clone(),
            key: pod.key.clone(),
            labels: pod.labels.clone(),
            namespace_labels: namespace_labels(&pod.key.namespace),
            ports: named_ports(pod),
            hostname: pod.hostname.clone(),
            subdomain: pod.subdomain.clone(),
            network: pod.network.clone(),
            state: PodState::default(),
            seat: None,
            isolation: Isolation::default(),
            log: Arc::default(),
            learnt: Arc::default(),
        }
    }

    /// The pod as rules see it.
    pub(super) fn view(&self) -> PodView<'_> {
        PodView {
            namespace: &self.key.namespace,
            namespace_labels: &self.namespace_labels,
            labels: &self.labels,
            ports: &self.ports,
        }
    }

    pub(super) fn party(&self, ip: Ipv4Addr) -> Party<'_> {
        Party { ip: ip.into(), pod: Some(self.view()) }
    }

    /// Whether what it is denied is let through and written down.
    pub(super) fn is_audited(&self) -> bool {
        self.network.audit || self.isolation.audit
    }

    fn backend(&self) -> Option<Backend<'_>> {
        Some(Backend {
            uid: &self.uid,
            key: &self.key,
            labels: &self.labels,
            ip: self.seat.as_ref()?.ip,
            ports: &self.ports,
            hostname: &self.hostname,
            subdomain: self.subdomain.as_deref(),
            state: self.state,
        })
    }
}

fn named_ports(pod: &Pod) -> Vec<NamedPort> {
    let ports = pod.all_containers().flat_map(|container| &container.ports);
    ports
        .filter_map(|port| {
            let name = port.name.clone()?;
            Some(NamedPort { name, protocol: port.protocol, port: port.container_port })
        })
        .collect()
}

impl State {
    /// Makes a pod known, or its labels and settings known anew.
    pub(super) fn describe(&mut self, pod: &Pod) {
        let fresh = PodEntry::new(pod);
        let entry = self.pods.entry(pod.uid.clone()).or_insert_with(|| PodEntry::new(pod));
        let before = std::mem::replace(&mut entry.labels, fresh.labels);
        entry.network = fresh.network;
        let isolation = Isolation::of(self.policies.values(), &entry.key.namespace, &entry.labels);
        entry.isolation = isolation;
        if before != entry.labels {
            let namespace = Arc::clone(&entry.key.namespace);
            self.endpoints_of_namespace(&namespace);
        }
    }

    /// A change of the pod's status; true if it decides anything.
    pub(super) fn set_state(&mut self, uid: &PodUid, state: PodState) -> bool {
        let Some(entry) = self.pods.get_mut(uid).filter(|entry| entry.state != state) else {
            return false;
        };
        entry.state = state;
        let namespace = Arc::clone(&entry.key.namespace);
        self.endpoints_of_namespace(&namespace);
        true
    }

    pub(super) fn forget(&mut self, uid: &PodUid) {
        let Some(entry) = self.pods.remove(uid) else { return };
        if let Some(seat) = &entry.seat {
            self.leave_address(uid, seat.ip);
        }
        self.endpoints_of_namespace(&entry.key.namespace);
    }

    /// Gives the pod its place; the number tells this place from a later one.
    pub(super) fn seat(
        &mut self,
        uid: &PodUid,
        ip: Ipv4Addr,
        net: PodNet,
        host: Arc<Member>,
    ) -> u64 {
        self.next_seat += 1;
        let serial = self.next_seat;
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.seat = Some(Seat { serial, ip, net, host });
            let namespace = Arc::clone(&entry.key.namespace);
            self.by_ip.insert(ip, uid.clone());
            self.endpoints_of_namespace(&namespace);
        }
        serial
    }

    /// Takes the place away, if it is still that one.
    pub(super) fn unseat(&mut self, uid: &PodUid, serial: u64) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(seat) = entry.seat.take_if(|seat| seat.serial == serial) else { return };
        let namespace = Arc::clone(&entry.key.namespace);
        self.leave_address(uid, seat.ip);
        self.endpoints_of_namespace(&namespace);
    }

    fn leave_address(&mut self, uid: &PodUid, ip: Ipv4Addr) {
        if self.by_ip.get(&ip) == Some(uid) {
            self.by_ip.remove(&ip);
        }
    }

    pub(super) fn set_service(&mut self, service: Service) {
        let key = service.key.clone();
        let old = self.services.remove(&key);
        if let Some(ip) = old.as_ref().and_then(|old| old.service.cluster_ip()) {
            self.leave_cluster_ip(&key, ip);
        }
        if let Some(ip) = service.cluster_ip() {
            self.by_cluster_ip.insert(ip, key.clone());
        }
        // Clients stay with their pods through a change that leaves the ports as they are.
        let kept = old.filter(|old| old.service.ports == service.ports).map(|old| old.balancers);
        let fresh = || service.ports.iter().map(|_| Mutex::default()).collect();
        let balancers = kept.unwrap_or_else(fresh);
        let endpoints = Arc::from([]);
        let entry = ServiceEntry { service: Arc::new(service), endpoints, balancers };
        self.services.insert(key.clone(), entry);
        self.endpoints_of_namespace(&key.namespace);
    }

    pub(super) fn remove_service(&mut self, key: &NamespacedName) {
        let Some(old) = self.services.remove(key) else { return };
        if let Some(ip) = old.service.cluster_ip() {
            self.leave_cluster_ip(key, ip);
        }
    }

    /// The address may be another Service's by now.
    fn leave_cluster_ip(&mut self, key: &NamespacedName, ip: Ipv4Addr) {
        if self.by_cluster_ip.get(&ip) == Some(key) {
            self.by_cluster_ip.remove(&ip);
        }
    }

    pub(super) fn set_policy(&mut self, policy: NetworkPolicy) {
        let namespace = Arc::clone(&policy.key.namespace);
        self.policies.insert(policy.key.clone(), Arc::new(policy));
        self.isolate_namespace(&namespace);
    }

    pub(super) fn remove_policy(&mut self, key: &NamespacedName) {
        self.policies.remove(key);
        self.isolate_namespace(&key.namespace);
    }

    fn isolate_namespace(&mut self, namespace: &str) {
        for entry in self.pods.values_mut().filter(|entry| &*entry.key.namespace == namespace) {
            entry.isolation = Isolation::of(self.policies.values(), namespace, &entry.labels);
        }
    }

    fn endpoints_of_namespace(&mut self, namespace: &str) {
        let here = |entry: &&mut ServiceEntry| &*entry.service.key.namespace == namespace;
        for entry in self.services.values_mut().filter(here) {
            let backends = self.pods.values().filter_map(PodEntry::backend);
            entry.endpoints = service::endpoints(&entry.service, backends).into();
        }
    }

    pub(super) fn pod(&self, uid: &PodUid) -> Option<&PodEntry> {
        self.pods.get(uid)
    }

    /// The pod of that name; of two incarnations the one that has a network.
    pub(super) fn pod_named(&self, key: &PodKey) -> Option<&PodEntry> {
        let named = self.pods.values().filter(|entry| entry.key == *key);
        named.max_by_key(|entry| entry.seat.is_some())
    }

    /// The pod that has that address.
    pub(super) fn pod_at(&self, ip: Ipv4Addr) -> Option<(&PodEntry, &Seat)> {
        let entry = self.pods.get(self.by_ip.get(&ip)?)?;
        Some((entry, entry.seat.as_ref()?))
    }

    pub(super) fn service(&self, key: &NamespacedName) -> Option<&ServiceEntry> {
        self.services.get(key)
    }

    pub(super) fn service_at(&self, ip: Ipv4Addr) -> Option<&ServiceEntry> {
        self.services.get(self.by_cluster_ip.get(&ip)?)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.services.values()
    }
}

impl ServiceEntry {
    pub(super) fn backing(&self) -> Backing {
        let (service, endpoints) = (Arc::clone(&self.service), Arc::clone(&self.endpoints));
        Backing { service, endpoints }
    }
}

impl Zone for State {
    fn service(&self, namespace: &str, name: &str) -> Option<Backing> {
        self.services.get(&NamespacedName::new(namespace, name)).map(ServiceEntry::backing)
    }

    fn has_pod(&self, namespace: &str, ip: Ipv4Addr) -> bool {
        self.pod_at(ip).is_some_and(|(entry, _)| &*entry.key.namespace == namespace)
    }
}
