//! The rings of a pod: which runs of a container can be read.
//!
//! Owns: the current run's and the one before it. Bounded by the pod's containers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Dropped, LogRing};
use crate::clock::Clock;
use crate::lifecycle::Attempt;
use crate::spec::ContainerName;

/// The rings of one pod: for each container the current run's and the one before it.
#[derive(Debug)]
pub struct PodLogs {
    rings: Mutex<BTreeMap<ContainerName, Rings>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Rings {
    current: Arc<LogRing>,
    previous: Option<Arc<LogRing>>,
    dropped: Arc<Dropped>,
}

impl PodLogs {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { rings: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// A new run begins; its predecessor's ring stays readable, the one before that goes. A run that is tried again under the
    /// same number (it did not start) replaces its own ring only.
    #[must_use]
    pub fn begin(
        &self,
        container: &ContainerName,
        attempt: Attempt,
        clock: Clock,
        rate: u64,
    ) -> Arc<LogRing> {
        let ring = {
            let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
            let before = rings.remove(container);
            let dropped = before.as_ref().map(|r| Arc::clone(&r.dropped)).unwrap_or_default();
            let previous = before.and_then(|r| match r.current.attempt {
                again if again == attempt => r.previous,
                _ => Some(r.current),
            });
            let ring = LogRing::paced(attempt, clock, rate, Arc::clone(&dropped));
            let entry = Rings { current: Arc::clone(&ring), previous, dropped };
            rings.insert(container.clone(), entry);
            ring
        };
        self.changed.send_modify(|version| *version += 1);
        ring
    }

    /// A run did not come about: it leaves no log, and the one before it is the newest again.
    pub fn abandon(&self, container: &ContainerName, attempt: Attempt) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = rings.remove(container) else { return };
        if entry.current.attempt != attempt {
            rings.insert(container.clone(), entry);
        } else if let Some(current) = entry.previous {
            let (previous, dropped) = (None, entry.dropped);
            rings.insert(container.clone(), Rings { current, previous, dropped });
        }
    }

    /// What was dropped of a container's log.
    #[must_use]
    pub fn dropped(&self, container: &ContainerName) -> Arc<Dropped> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(container).map(|rings| Arc::clone(&rings.dropped)).unwrap_or_default()
    }

    #[must_use]
    pub fn get(&self, container: &ContainerName, previous: bool) -> Option<Arc<LogRing>> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let rings = rings.get(container)?;
        if previous { rings.previous.clone() } else { Some(Arc::clone(&rings.current)) }
    }

    /// Changes whenever a run begins.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
