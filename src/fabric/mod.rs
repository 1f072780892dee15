//! The node's network between its pods: who has which address and name, what stands behind a Service, who may talk to whom.
//!
//! ```text
//!  reconciler ── Services, policies, pods ──┐
//!  pod::published ── ready, ending ─────────┤
//!  pod::sandbox ── attach ──────────────────┴─► Fabric ◄── route, lookup ── PodEgress ◄── net (each pod's own)
//!                                                  │                           │
//!                          endpoints, audits ◄─────┘                           └─► Outside (one for each pod)
//! ```
//! Owns: the decision about everything that leaves a pod, in memory and at once. Pure inside: `policy`, `service`, `names`, `learnt` and
//! `audit` know neither locks nor clocks; [`Fabric`] holds them together.
//! Is not: sockets (`net`), the host's network (`outside`), nor objects (`reconciler` has those, and gives addresses to Services).
//! Who may call: `pod`, `reconciler`, `daemon`.
//! Limits: those the parts name; nothing is shared between pods but the tables themselves.
//! Lock order: the state, then a pod's log or learnt names, or a Service's balancer; none is held while the network is called.

pub mod audit;
pub mod egress;
pub mod learnt;
pub mod names;
pub mod outside;
pub mod policy;
pub mod service;
mod state;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::net::{Member, PodNet};
use crate::spec::{
    Labels, NamespacedName, NetworkPolicy, Pod, PodKey, PodUid, Protocol, Service, ServicePort,
};

pub use audit::{AuditLog, Direction, Peer, Seen, Use};
pub use egress::PodEgress;
pub use outside::{Answers, Finding, NoOutside, Outside};
pub use policy::Port;
pub use service::{Backing, Client, Endpoint, PodState};

use policy::Party;
use state::State;

/// Denials that wait to be told as Events. More than these at once are in the pods' audits all the same.
const DENIALS_MAX: usize = 256;

/// Of these, one pod's: one that tries every door must not keep others' from being told.
const DENIALS_OF_POD_MAX: usize = 16;

/// The network between the pods of a node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Fabric(Arc<Inner>);

struct Inner {
    clock: Clock,
    state: RwLock<State>,
    /// Grows with each change that a decision could depend on.
    generation: AtomicU64,
    changed: watch::Sender<u64>,
    denials: Mutex<VecDeque<Denial>>,
    /// How far a test has let time pass.
    #[cfg(test)]
    passed: Mutex<std::time::Duration>,
}

/// A pod was denied something for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub pod: PodKey,
    pub uid: PodUid,
    pub used: Use,
    /// It was let through, since the pod is being audited.
    pub audited: bool,
}

/// A pod that a client of the host was given, and the way there.
#[derive(Clone, Debug)]
pub struct Picked {
    pub pod: PodUid,
    /// The daemon's own membership in the pod's network.
    pub host: Arc<Member>,
    /// The pod's address, and the port that the Service's leads to.
    pub to: SocketAddr,
}

/// What is known of a pod's traffic, for a person who writes its policy.
#[derive(Clone, Debug)]
pub struct Audit {
    pub pod: PodKey,
    pub uid: PodUid,
    pub labels: Labels,
    /// Whether what is denied is let through.
    pub on: bool,
    pub log: AuditLog,
}

impl Fabric {
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            state: RwLock::default(),
            generation: AtomicU64::new(0),
            changed: watch::channel(0).0,
            denials: Mutex::default(),
            #[cfg(test)]
            passed: Mutex::default(),
        }))
    }

    /// Follows changes: the value grows with each. What has changed is to be looked up.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Makes a pod known: its labels, names of ports, settings. Again when they change.
    pub fn describe(&self, pod: &Pod) {
        self.change(|state| state.describe(pod));
    }

    /// What became of the pod's status.
    pub fn set_state(&self, uid: &PodUid, status: PodState) {
        self.change_if(|state| state.set_state(uid, status));
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        self.change(|state| state.forget(uid));
    }

    /// A Service is there, or is another now.
    pub fn set_service(&self, service: Service) {
        self.change(|state| state.set_service(service));
    }

    pub fn remove_service(&self, key: &NamespacedName) {
        self.change(|state| state.remove_service(key));
    }

    /// A policy is there, or is another now. In force when this returns, for what begins from then on; connections that stand stay,
    /// as in Kubernetes.
    pub fn set_policy(&self, policy: NetworkPolicy) {
        self.change(|state| state.set_policy(policy));
    }

    pub fn remove_policy(&self, key: &NamespacedName) {
        self.change(|state| state.remove_policy(key));
    }

    /// Who decides for the pod; to be given to its network when that is made.
    #[must_use]
    pub fn egress(&self, pod: &Pod, ip: Ipv4Addr, outside: Arc<dyn Outside>) -> Arc<PodEgress> {
        if self.read().pod(&pod.uid).is_none() {
            self.describe(pod);
        }
        Arc::new(PodEgress::new(self.clone(), pod, ip, outside))
    }

    /// Lets others reach the pod. Dropping the result ends that.
    #[must_use]
    pub fn attach(&self, uid: &PodUid, net: &PodNet, host: &Arc<Member>) -> Attachment {
        let serial =
            self.change(|state| state.seat(uid, net.pod_ip(), net.clone(), Arc::clone(host)));
        Attachment { fabric: self.clone(), uid: uid.clone(), serial }
    }

    /// All Services with what stands behind them.
    #[must_use]
    pub fn backings(&self) -> Vec<Backing> {
        self.read().services().map(state::ServiceEntry::backing).collect()
    }

    #[must_use]
    pub fn backing(&self, key: &NamespacedName) -> Option<Backing> {
        self.read().service(key).map(state::ServiceEntry::backing)
    }

    /// A pod behind a Service's port for a client of the host. `None` if none is ready, as kube-proxy refuses it.
    #[must_use]
    pub fn pick(
        &self,
        key: &NamespacedName,
        protocol: Protocol,
        port: u16,
        client: Client,
    ) -> Option<Picked> {
        let state = self.read();
        let entry = state.service(key)?;
        let is_it = |own: &ServicePort| own.protocol == protocol && own.port == port;
        let port = entry.service.ports.iter().position(is_it)?;
        let mut balancer = lock(entry.balancers.get(port)?);
        let affinity = entry.service.affinity;
        let now = self.now();
        let (endpoint, number) = balancer.pick(&entry.endpoints, port, client, affinity, now)?;
        let (pod, seat) = state.pod_at(endpoint.ip)?;
        Some(Picked {
            pod: pod.uid.clone(),
            host: Arc::clone(&seat.host),
            to: SocketAddr::new(endpoint.ip.into(), number),
        })
    }

    /// Whether traffic to a Service's port may go on to that address: a pod there is one of those that are to be had now.
    #[must_use]
    pub fn leads(
        &self,
        key: &NamespacedName,
        protocol: Protocol,
        port: u16,
        to: SocketAddr,
    ) -> bool {
        let state = self.read();
        let Some(entry) = state.service(key) else { return false };
        let is_it = |own: &ServicePort| own.protocol == protocol && own.port == port;
        let Some(port) = entry.service.ports.iter().position(is_it) else { return false };
        let found = |(endpoint, number): (&Endpoint, u16)| {
            SocketAddr::new(endpoint.ip.into(), number) == to
        };
        service::usable(&entry.endpoints, port).any(found)
    }

    /// Whether policy lets somebody outside connect to the pod at that port, as through a published one. Never asked of probes and of
    /// the node's own programs: those are always let in (Kubernetes: "traffic to and from the node").
    #[must_use]
    pub fn admits(&self, uid: &PodUid, from: IpAddr, port: Port) -> bool {
        let state = self.read();
        let Some(pod) = state.pod(uid) else { return false };
        let party = Party { ip: from, pod: None };
        let allowed = pod.isolation.admits(&pod.view(), &party, port);
        let used = Use {
            direction: Direction::Ingress,
            peer: Peer::Address(from),
            port: Some(port.into()),
        };
        self.verdict(pod, used, allowed)
    }

    /// The pod that has that address.
    #[must_use]
    pub fn pod_at(&self, ip: IpAddr) -> Option<PodUid> {
        match ip {
            IpAddr::V4(ip) => self.read().pod_at(ip).map(|(pod, _)| pod.uid.clone()),
            IpAddr::V6(_) => None,
        }
    }

    /// Variables that tell a container of the Services of its namespace (`enableServiceLinks`).
    #[must_use]
    pub fn variables(&self, namespace: &str) -> Vec<(String, String)> {
        let state = self.read();
        let here = state.services().filter(|entry| &*entry.service.key.namespace == namespace);
        here.flat_map(|entry| service::variables(&entry.service)).collect()
    }

    /// What was seen of the pod's traffic.
    #[must_use]
    pub fn audit(&self, key: &PodKey) -> Option<Audit> {
        let state = self.read();
        let pod = state.pod_named(key)?;
        Some(Audit {
            pod: pod.key.clone(),
            uid: pod.uid.clone(),
            labels: pod.labels.clone(),
            on: pod.is_audited(),
            log: lock(&pod.log).clone(),
        })
    }

    /// What pods were denied since the last call.
    #[must_use]
    pub fn take_denials(&self) -> Vec<Denial> {
        lock(&self.0.denials).drain(..).collect()
    }

    /// Writes down a use where that is wanted; whether it is let through.
    fn verdict(&self, pod: &state::PodEntry, used: Use, allowed: bool) -> bool {
        let audited = pod.is_audited();
        if allowed && !audited {
            return true;
        }
        let news = lock(&pod.log).note(used.clone(), !allowed, self.now());
        if news && !allowed {
            let mut denials = lock(&self.0.denials);
            let own = denials.iter().filter(|denial| denial.uid == pod.uid).count();
            if denials.len() < DENIALS_MAX && own < DENIALS_OF_POD_MAX {
                let (key, uid) = (pod.key.clone(), pod.uid.clone());
                denials.push_back(Denial { pod: key, uid, used, audited });
                drop(denials);
                self.0.changed.send_modify(|version| *version += 1);
            }
        }
        allowed || audited
    }

    #[cfg(not(test))]
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    #[cfg(test)]
    fn now(&self) -> Timestamp {
        self.0.clock.now().plus(*lock(&self.0.passed))
    }

    /// Lets time pass, for a test.
    #[cfg(test)]
    fn pass(&self, time: std::time::Duration) {
        *lock(&self.0.passed) += time;
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // A change is computed before it is put in place, or is one of several that each stand alone: a panic leaves nothing
        // that could let through what is denied.
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.change_if(|state| {
            result = Some(change(state));
            true
        });
        result.expect("the change was made")
    }

    fn change_if(&self, change: impl FnOnce(&mut State) -> bool) {
        let changed = {
            let mut state = self.write();
            let changed = change(&mut state);
            if changed {
                // With the state still locked: who sees the new state cannot take an old decision for a new one.
                self.0.generation.fetch_add(1, Ordering::Release);
            }
            changed
        };
        if changed {
            self.0.changed.send_modify(|version| *version += 1);
        }
    }

    /// Another number after each change that a decision could depend on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}

/// A pod's place in the fabric; it ends with this.
#[derive(Debug)]
pub struct Attachment {
    fabric: Fabric,
    uid: PodUid,
    serial: u64,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.fabric.change(|state| state.unseat(&self.uid, self.serial));
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fabric(#{})", self.generation())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is changed by whole values; see `Fabric::read`.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
