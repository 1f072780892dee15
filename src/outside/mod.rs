//! The host's network, as pods reach it: what leaves the node leaves here.
//!
//! ```text
//!  guest ─► net ─► fabric (policy: allowed, and not a pod's) ─► Gateway ─┬─ tcp ─► pump ─┐
//!                                                                        ├─ udp ─────────┼─► dialer ─► kernel
//!                                                                        └─ names ───────┘
//! ```
//! Owns: connections and datagrams of pods to other hosts, look-ups of names that are not the
//! cluster's, and the rule that no policy and no name leads to this host itself: its loopback, its
//! own addresses and its link-local neighbours are closed in every spelling ([`address`]), but for
//! ports of the loopback that a pod was granted one by one, which it finds at
//! `host.podling.internal`.
//! Is not: a policy (`fabric` asks nothing here that it has not allowed).
//! Runs on the control plane: guests' threads leave their wish and go on. Everything under way for a
//! pod ends with its [`PodOutside`].
//! Limits: [`PodLimits`] for each pod, and a budget of descriptors for all of them, since those are
//! the process's: what it keeps back is for the node's own files and sockets.
//! Who may call: `fabric`, through the trait it defines; `pod`, which lets pods in.

pub mod address;
pub mod dialer;
pub mod flows;
pub mod names;
mod pod;
pub mod pump;
pub mod rate;
pub mod stats;
mod tcp;
pub mod test_net;
mod udp;
mod way_out;

use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::debug;

use crate::clock::Clock;
use crate::net::ResolveError;
use crate::spec::{HostPort, Pod};
use address::{Closed, HOST_IP, HOST_NAME};
use dialer::Dialer;
use names::{Finding, Found, Names};

pub use pod::{PodLimits, PodOutside};
pub use tcp::reset;
pub use way_out::WayOut;

/// How long the answer `host.podling.internal` holds: it changes with the pod only.
const HOST_TTL: std::time::Duration = std::time::Duration::from_secs(3600);

/// The way out, one for each node. Clones are the same.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dialer: Arc<dyn Dialer>,
    names: Arc<dyn Names>,
    control: Handle,
    clock: Clock,
    descriptors: Arc<Semaphore>,
    /// What each pod may have.
    limits: PodLimits,
    /// Ports of the host's loopback that pods from afar may be granted.
    loopback: OnceLock<Vec<HostPort>>,
}

/// A pod asks for a port of the host's loopback that its source may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation podling.dev/host-loopback asks for {0}, which pods from this source may have only if \
     network.hostLoopbackAllowList of the node's configuration lists it"
)]
pub struct NotGranted(pub HostPort);

/// The addresses of a name: known, or asked for.
pub enum Asked {
    /// At once.
    Now(Result<Found, ResolveError>),
    /// A resolver is asked; dropping the future takes the question back.
    Later(Finding),
}

impl Gateway {
    /// A way out through `dialer`, asking `names`. Its tasks run on `control`. At most `descriptors`
    /// sockets of the kernel are open at once.
    #[must_use]
    pub fn new(
        dialer: Arc<dyn Dialer>,
        names: Arc<dyn Names>,
        control: Handle,
        clock: Clock,
        descriptors: usize,
    ) -> Self {
        let limits = PodLimits::default().of(descriptors);
        let descriptors = Arc::new(Semaphore::new(descriptors.min(Semaphore::MAX_PERMITS)));
        let loopback = OnceLock::new();
        Self(Arc::new(Inner { dialer, names, control, clock, descriptors, limits, loopback }))
    }

    /// Pods whose manifest is no file of this machine may be granted these ports of the host's
    /// loopback; said once, none before.
    pub fn set_loopback_for_all(&self, ports: Vec<HostPort>) {
        // A second list would be a mistake of ours, and grants nothing.
        let _ = self.0.loopback.set(ports);
    }

    /// Lets a pod in, with the ports of the host's loopback that its manifest asks for.
    ///
    /// # Errors
    /// If its source may not have one of them.
    pub fn admit(&self, pod: &Pod) -> Result<PodOutside, NotGranted> {
        let grants = &pod.network.host_loopback;
        let known = self.0.loopback.get().map(Vec::as_slice).unwrap_or_default();
        let ours = pod.source.may_name_files();
        let refused = grants.iter().find(|port| !ours && !known.contains(port));
        match refused {
            Some(port) => Err(NotGranted(*port)),
            None => Ok(PodOutside::new(pod.key.clone(), grants.clone(), self.0.limits)),
        }
    }

    /// Looks a name up for the pod.
    #[must_use]
    pub fn lookup(&self, pod: &Arc<PodOutside>, name: &str) -> Asked {
        if name.eq_ignore_ascii_case(HOST_NAME) {
            let found = Found { addresses: vec![HOST_IP.into()], ttl: HOST_TTL };
            return Asked::Now(if pod.has_grants() {
                Ok(found)
            } else {
                Err(ResolveError::NotFound)
            });
        }
        let within_rate = pod.busy().lookups.take(self.0.clock.now());
        let place = Arc::clone(&pod.lookups).try_acquire_owned();
        let (true, Ok(place)) = (within_rate, place) else {
            pod.traffic.lookups_limited.add(1);
            return Asked::Now(Err(ResolveError::Temporary));
        };
        pod.traffic.lookups.add(1);
        let (this, theirs, name) = (self.clone(), Arc::clone(pod), name.to_owned());
        let asking = pod.traffic.bill.pays_for(async move {
            let found =
                this.0.names.find(name).await.and_then(|found| this.without_host(&theirs, found));
            if found.is_err() {
                theirs.traffic.lookups_failed.add(1);
            }
            drop(place);
            found
        });
        let asking = AbortOnDrop(self.0.control.spawn(asking));
        Asked::Later(Box::pin(async move {
            let mut asking = asking;
            // A panic in there is not the guest's fault, and asking again may help.
            (&mut asking.0).await.unwrap_or(Err(ResolveError::Temporary))
        }))
    }

    /// The answer without addresses that lead back to this host. A connect would be refused as well;
    /// a program that is told of other addresses beside them uses those.
    fn without_host(&self, pod: &PodOutside, mut found: Found) -> Result<Found, ResolveError> {
        let before = found.addresses.len();
        found.addresses.retain(|ip| {
            let closed = address::closed(*ip, crate::net::Protocol::Udp).is_some();
            !closed && !address::spellings(*ip).any(|ip| self.0.dialer.is_own(ip))
        });
        pod.traffic.answers_closed.add(before - found.addresses.len());
        if found.addresses.is_empty() { Err(ResolveError::NotFound) } else { Ok(found) }
    }
}

/// Notes that a pod asked for what is closed to all.
fn closed(pod: &PodOutside, to: std::net::SocketAddr, why: Closed) {
    pod.traffic.closed.add(1);
    debug!(pod = %pod.key, %to, %why, "refused");
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Now(found) => f.debug_tuple("Now").field(found).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

#[cfg(test)]
mod tests;
