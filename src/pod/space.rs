//! Connects a pod's volumes with those who write to them and with those who pay.
//!
//! Owns: the watch over what nobody asked for, and the pod's memory limit as memory volumes meet it. Is not: the sums
//! (`volume::space`), the walls that modules meet (`runtime`), nor what becomes of a pod that is over its limit (`lifecycle`).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::thread_cpu_time;
use crate::runtime::{self, PodAccount};
use crate::spec::{Container, ContainerKind, Pod};
use crate::volume::space::{self, Excess, Space};

/// How often a pod's volumes are measured, as the kubelet does, ...
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// ... unless it takes more than this part of the time.
const LOOK_SHARE: u32 = 100;

/// A volume's share, as the runtime asks for it.
#[derive(Debug)]
pub struct Room(pub space::Room);

impl runtime::Room for Room {
    fn place(&self) -> &Path {
        self.0.place()
    }

    fn take(&self, bytes: u64) -> runtime::Grant {
        match self.0.take(bytes) {
            space::Grant::Yes => runtime::Grant::Yes,
            space::Grant::No => runtime::Grant::No,
            space::Grant::Unsure => runtime::Grant::Unsure,
        }
    }

    fn take_measured(&self, bytes: u64) -> bool {
        self.0.take_measured(bytes)
    }

    fn freed(&self) {
        self.0.freed();
    }

    fn opened(&self, file: &Arc<File>) {
        self.0.opened(file);
    }

    fn cost(&self, size: u64) -> u64 {
        self.0.cost(size)
    }
}

/// Memory volumes are paid from the pod's account.
#[derive(Debug)]
pub struct PodMemory(pub PodAccount);

impl space::Memory for PodMemory {
    fn take(&self, bytes: u64) -> bool {
        self.0.take_memory_of_node(bytes)
    }

    fn give_back(&self, bytes: u64) {
        self.0.give_back_memory(bytes);
    }
}

/// Looks after a pod's volumes until one is over its limit, or `stop`. Modules are refused at once; this finds what was written past them.
/// Measuring is on the pod's account: its files are as many as its modules made.
pub async fn watch(
    space: Arc<Space>,
    account: PodAccount,
    stop: CancellationToken,
) -> Option<Excess> {
    let mut pause = LOOK_EVERY;
    loop {
        stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
        let (theirs, account) = (Arc::clone(&space), account.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let before = thread_cpu_time();
            let excess = theirs.measure();
            account.charge_cpu(thread_cpu_time().saturating_sub(before));
            (excess, theirs.took())
        });
        let Ok((excess, took)) = looked.await else { return None };
        if excess.is_some() {
            return excess;
        }
        pause = LOOK_EVERY.max(took.saturating_mul(LOOK_SHARE));
    }
}

/// The memory of a pod as a whole: what it names itself, else what its containers name together if each does
/// (`cm.ResourceConfigForPod`).
pub fn memory_limit(pod: &Pod) -> Option<u64> {
    if pod.resources.memory_limit_bytes.is_some() {
        return pod.resources.memory_limit_bytes;
    }
    let limit = |c: &Container| c.resources.memory_limit_bytes;
    if pod.all_containers().any(|c| limit(c).is_none()) {
        return None;
    }
    let is_init = |c: &&Container| c.kind == ContainerKind::Init;
    let together = pod.all_containers().filter(|c| !is_init(c)).filter_map(limit);
    let alone = pod.all_containers().filter(is_init).filter_map(limit).max();
    together.reduce(u64::saturating_add).max(alone)
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testkit::pods;

    fn with(kind: ContainerKind, bytes: Option<u64>) -> Container {
        let mut container = pods::regular("c");
        container.kind = kind;
        container.resources.memory_limit_bytes = bytes;
        container
    }

    #[test]
    fn a_pod_has_the_memory_that_its_containers_have_together_if_each_names_it() {
        use ContainerKind::{Init, Regular, Sidecar};
        let limit = |init: Vec<Container>, regular: [Option<u64>; 2]| {
            let mut pod = pods::pod(regular.map(|bytes| with(Regular, bytes)));
            pod.init_containers = init;
            memory_limit(&pod)
        };
        assert_eq!(limit(vec![], [Some(10), Some(20)]), Some(30));
        assert_eq!(limit(vec![], [Some(10), None]), None);
        assert_eq!(limit(vec![with(Init, None)], [Some(10), Some(20)]), None);
        assert_eq!(limit(vec![with(Init, Some(50))], [Some(10), Some(20)]), Some(50));
        assert_eq!(limit(vec![with(Sidecar, Some(50))], [Some(10), Some(20)]), Some(80));
        let mut pod = pods::pod([with(Regular, None)]);
        pod.resources.memory_limit_bytes = Some(7);
        assert_eq!(memory_limit(&pod), Some(7));
    }
}
