//! Who goes first when the node runs short of memory, and what is said of it.
//!
//! Owns: Kubernetes' order and words (`kubelet/eviction/helpers.go`). Not: when (`pressure`), nor how (`lifecycle`).
//!
//! One difference: the kubelet never evicts static or critical pods. Here they go last instead of never: on a gateway all pods may
//! come from the folder, and the kernel's choice would be the daemon with all of them.

use std::cmp::Reverse;
use std::fmt::Write as _;

use crate::spec::{Pod, PodKey, PodUid};

use super::fit::Demand;

/// From this priority on a pod is critical (`scheduling.SystemCriticalPriority`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What one container holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    pub name: String,
    /// Bytes held now.
    pub memory_bytes: u64,
    /// Bytes asked for; 0 if none.
    pub request_bytes: u64,
}

/// A pod that could go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub key: PodKey,
    pub uid: PodUid,
    pub priority: i32,
    /// Static or critical: spared as long as there is anyone else.
    pub spared: bool,
    /// Bytes asked for by the pod as a whole.
    pub request_bytes: u64,
    pub consumers: Vec<Consumer>,
}

impl Candidate {
    /// A pod, and what its containers hold now.
    #[must_use]
    pub fn new(pod: &Pod, held: impl Fn(&str) -> u64) -> Self {
        let consumer = |container: &crate::spec::Container| Consumer {
            name: container.name.to_string(),
            memory_bytes: held(container.name.as_str()),
            request_bytes: container.resources.memory_request_bytes.unwrap_or(0),
        };
        Self {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            priority: pod.priority,
            spared: pod.source.may_name_files() || pod.priority >= CRITICAL_PRIORITY,
            request_bytes: Demand::of(pod).memory_bytes,
            consumers: pod.all_containers().map(consumer).collect(),
        }
    }

    fn used(&self) -> u64 {
        self.consumers.iter().map(|c| c.memory_bytes).fold(0, u64::saturating_add)
    }
}

/// Who goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    pub key: PodKey,
    pub uid: PodUid,
    /// `status.message`, and that of the Event; the reason of both is `Evicted`.
    pub message: String,
}

/// The pod to evict: one that uses more than it asked for before one that does not, then the least important, then the one furthest
/// above its request. `None`: nobody holds anything.
#[must_use]
pub fn rank(
    candidates: &[Candidate],
    threshold_bytes: u64,
    available_bytes: u64,
) -> Option<Victim> {
    let order = |c: &&Candidate| {
        let over = c.used().saturating_sub(c.request_bytes);
        (c.spared, Reverse(over > 0), c.priority, Reverse(over), Reverse(c.used()))
    };
    let holders = candidates.iter().filter(|c| c.used() > 0);
    let victim = holders.min_by_key(order)?;
    let mut message = format!(
        "The node was low on resource: memory. Threshold quantity: {}, available: {}. ",
        quantity(threshold_bytes),
        quantity(available_bytes)
    );
    for consumer in victim.consumers.iter().filter(|c| c.memory_bytes > c.request_bytes) {
        // Writing into a String cannot fail.
        let _ = write!(
            message,
            "Container {} was using {}, request is {}, has larger consumption of memory. ",
            consumer.name,
            quantity(consumer.memory_bytes),
            quantity(consumer.request_bytes)
        );
    }
    Some(Victim { key: victim.key.clone(), uid: victim.uid.clone(), message })
}

/// Bytes in the largest binary unit that loses nothing worth reading.
fn quantity(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        b if b >= 10 << 20 => format!("{}Mi", b >> 20),
        b if b >= 1 << 10 => format!("{}Ki", b >> 10),
        b => b.to_string(),
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pod(name: &str, used: u64, request: u64) -> Candidate {
        Candidate {
            key: PodKey::new("default", name),
            uid: PodUid::new(name),
            priority: 0,
            spared: false,
            request_bytes: request * MIB,
            consumers: vec![Consumer {
                name: "c".into(),
                memory_bytes: used * MIB,
                request_bytes: request * MIB,
            }],
        }
    }

    fn first(candidates: &[Candidate]) -> String {
        rank(candidates, 100 * MIB, 83 * MIB).unwrap().key.name.to_string()
    }

    #[test]
    fn who_uses_more_than_asked_for_goes_before_who_uses_more() {
        assert_eq!(first(&[pod("modest", 500, 600), pod("greedy", 60, 50)]), "greedy");
    }

    #[test]
    fn the_less_important_goes_first() {
        let important = Candidate { priority: 10, ..pod("important", 900, 0) };
        assert_eq!(first(&[important, pod("other", 60, 0)]), "other");
    }

    #[test]
    fn among_equals_the_one_furthest_above_its_request_goes() {
        assert_eq!(first(&[pod("a", 100, 90), pod("b", 80, 10), pod("c", 60, 0)]), "b");
    }

    #[test]
    fn static_pods_go_last_and_not_never() {
        let fixed = Candidate { spared: true, ..pod("static", 900, 0) };
        assert_eq!(first(&[fixed.clone(), pod("modest", 1, 600)]), "modest");
        assert_eq!(first(&[fixed]), "static");
    }

    #[test]
    fn nobody_goes_who_holds_nothing() {
        assert_eq!(rank(&[pod("idle", 0, 0)], 1, 0), None);
        assert_eq!(rank(&[], 1, 0), None);
    }

    #[test]
    fn the_words_are_the_kubelets() {
        let victim = rank(&[pod("p", 60, 0)], 100 * MIB, 83 * MIB).unwrap();
        assert_eq!(
            victim.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 83Mi. \
             Container c was using 60Mi, request is 0, has larger consumption of memory. "
        );
    }
}
