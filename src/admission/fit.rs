//! Requests against capacity.
//!
//! Owns: the sum of a pod's requests as Kubernetes computes it, and the verdict with its words. Only requests count: a pod without any
//! always fits, as long as the node takes another pod.

use crate::spec::{Container, ContainerKind, Pod, Resources};

/// What the node has for pods: its capacity less what is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Pods that have not ended.
    pub pods: usize,
}

/// What a pod asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

impl Demand {
    /// The larger of what its containers ask for together and what its greediest init container asks for beside the sidecars
    /// that were started before it; what the pod itself asks for overrides each (Kubernetes' `PodRequests`).
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let containers = Self {
            cpu_millis: peak(pod, |r| r.cpu_request_millis),
            memory_bytes: peak(pod, |r| r.memory_request_bytes),
        };
        Self {
            cpu_millis: pod.resources.cpu_request_millis.unwrap_or(containers.cpu_millis),
            memory_bytes: pod.resources.memory_request_bytes.unwrap_or(containers.memory_bytes),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// The most that is asked for at once over the pod's start and life.
fn peak(pod: &Pod, request: impl Fn(&Resources) -> Option<u64>) -> u64 {
    let of = |container: &Container| request(&container.resources).unwrap_or(0);
    let (mut sidecars, mut starting) = (0_u64, 0_u64);
    for container in &pod.init_containers {
        if container.kind == ContainerKind::Sidecar {
            sidecars = sidecars.saturating_add(of(container));
        } else {
            starting = starting.max(sidecars.saturating_add(of(container)));
        }
    }
    let regular = pod.containers.iter().map(of).fold(sidecars, u64::saturating_add);
    regular.max(starting)
}

/// Why a pod does not run here. It stays visible, Failed, until it is deleted, and is not tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `status.reason`, and that of the Event.
    pub reason: &'static str,
    /// The Event's message; the status says `Pod was rejected: ` before it.
    pub message: String,
}

/// Whether `pod` fits beside `others`, the pods that are here and have not ended.
///
/// # Errors
/// [`Rejection`] for the first resource that is missing, in the order pods, cpu, memory.
pub fn admit(
    pod: Demand,
    others: impl IntoIterator<Item = Demand>,
    capacity: Capacity,
) -> Result<(), Rejection> {
    let mut count = 0_usize;
    let mut used = Demand::default();
    for other in others {
        count += 1;
        used = used.plus(other);
    }
    let rows = [
        ("OutOfpods", "pods", 1, count as u64, capacity.pods as u64),
        ("OutOfcpu", "cpu", pod.cpu_millis, used.cpu_millis, capacity.cpu_millis),
        ("OutOfmemory", "memory", pod.memory_bytes, used.memory_bytes, capacity.memory_bytes),
    ];
    for (reason, resource, asked, used, capacity) in rows {
        // Nothing asked for always fits, also on a node that has promised too much already.
        if asked > 0 && asked.saturating_add(used) > capacity {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {capacity}"
            );
            return Err(Rejection { reason, message });
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testkit::pods;
    use proptest::prelude::*;

    const NODE: Capacity = Capacity { cpu_millis: 2000, memory_bytes: 1 << 30, pods: 3 };

    fn demand(cpu_millis: u64, memory_bytes: u64) -> Demand {
        Demand { cpu_millis, memory_bytes }
    }

    #[test]
    fn a_pod_that_fits_exactly_is_admitted_and_one_millicore_more_is_not() {
        assert_eq!(admit(demand(1400, 0), [demand(600, 0)], NODE), Ok(()));
        let rejection = admit(demand(1401, 0), [demand(600, 0)], NODE).unwrap_err();
        assert_eq!(rejection.reason, "OutOfcpu");
        assert_eq!(
            rejection.message,
            "Node didn't have enough resource: cpu, requested: 1401, used: 600, capacity: 2000"
        );
    }

    #[test]
    fn memory_is_counted_in_bytes() {
        let rejection = admit(demand(0, 1 << 30), [demand(0, 1)], NODE).unwrap_err();
        assert_eq!(rejection.reason, "OutOfmemory");
        assert_eq!(
            rejection.message,
            "Node didn't have enough resource: memory, requested: 1073741824, used: 1, capacity: 1073741824"
        );
    }

    #[test]
    fn a_pod_that_asks_for_nothing_fits_on_a_node_that_has_promised_too_much() {
        assert_eq!(admit(Demand::default(), [demand(9000, 1 << 40)], NODE), Ok(()));
    }

    #[test]
    fn the_number_of_pods_comes_first() {
        let rejection = admit(demand(9000, 0), [Demand::default(); 3], NODE).unwrap_err();
        assert_eq!(rejection.reason, "OutOfpods");
        assert_eq!(
            rejection.message,
            "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
        );
    }

    fn pod_with(init: &[(u64, ContainerKind)], regular: &[u64], whole: Option<u64>) -> Pod {
        let container = |millis: u64, kind: ContainerKind| {
            let mut made = pods::container("c", kind);
            made.resources.cpu_request_millis = (millis > 0).then_some(millis);
            made
        };
        let mut pod = pods::pod([]);
        pod.init_containers = init.iter().map(|&(m, kind)| container(m, kind)).collect();
        pod.containers = regular.iter().map(|&m| container(m, ContainerKind::Regular)).collect();
        pod.resources.cpu_request_millis = whole;
        pod
    }

    #[test]
    fn what_a_pod_asks_for_follows_kubernetes() {
        use ContainerKind::{Init, Sidecar};
        type Row =
            (&'static [(u64, ContainerKind)], &'static [u64], Option<u64>, u64, &'static str);
        let rows: &[Row] = &[
            (&[], &[100, 200], None, 300, "containers add up"),
            (&[(500, Init), (250, Init)], &[100, 200], None, 500, "init containers run one by one"),
            (&[(50, Init)], &[100], None, 100, "a small init container costs nothing"),
            (&[(100, Sidecar)], &[100], None, 200, "a sidecar stays"),
            (
                &[(100, Sidecar), (500, Init)],
                &[100],
                None,
                600,
                "and runs beside a later init container",
            ),
            (&[(500, Init), (100, Sidecar)], &[100], None, 500, "but not beside an earlier one"),
            (&[(500, Init)], &[100], Some(50), 50, "the pod's own request overrides"),
            (&[], &[0], None, 0, "nothing asked for is nothing"),
        ];
        for (init, regular, whole, expected, why) in rows {
            assert_eq!(Demand::of(&pod_with(init, regular, *whole)).cpu_millis, *expected, "{why}");
        }
    }

    proptest! {
        /// Whoever is let in, one after the other: what was promised is never more than there is.
        #[test]
        fn admitted_pods_never_ask_for_more_than_there_is(
            asks in proptest::collection::vec((0_u64..1500, 0_u64..(1 << 29)), 0..12),
        ) {
            let mut running: Vec<Demand> = Vec::new();
            for (cpu, memory) in asks {
                let pod = demand(cpu, memory);
                if admit(pod, running.iter().copied(), NODE).is_ok() {
                    running.push(pod);
                }
            }
            let all = running.iter().fold(Demand::default(), |sum, d| sum.plus(*d));
            prop_assert!(all.cpu_millis <= NODE.cpu_millis && all.memory_bytes <= NODE.memory_bytes);
            prop_assert!(running.len() <= NODE.pods);
        }
    }
}
