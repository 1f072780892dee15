//! Room on the node: who is let in, and who has to go.
//!
//! Owns: asking `admission` about the pods that are here, and carrying its verdict to the pod's worker. Not: the rules (`admission`),
//! nor looking at the machine (`daemon::pressure`).
//!
//! A pod that was here before the daemon ended is not asked again: it was let in once, and its node has not shrunk.

use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use tracing::warn;

use crate::admission::{Candidate, Demand, Level, Rejection, admit, admit_ports, rank};
use crate::board::EventDraft;
use crate::lifecycle::{Restored, RestoredEnd, StopReason};
use crate::reconciler::task::NodeTask;
use crate::spec::{Pod, QosClass};

/// What a pod gets that has to go at once (the kubelet's hard eviction).
const EVICTION_GRACE: Duration = Duration::from_secs(1);

impl NodeTask {
    /// Whether a pod that has never run here may start. If not: the end it has already come to.
    pub(super) fn let_in(&mut self, pod: &Pod) -> Option<Restored> {
        let here = self.live_workers().map(|handle| Demand::of(handle.published.pod()));
        let fits = admit(Demand::of(pod), here, self.node.node.capacity());
        // A pod that is going gives its ports back, and its sandbox waits for them.
        let stay = self.live_workers().filter(|handle| !handle.is_going());
        let ports = admit_ports(pod, stay.map(|handle| handle.published.pod().as_ref()));
        let refused = self.under_pressure(pod).or_else(|| fits.err()).or_else(|| ports.err());
        let Rejection { reason, message } = refused?;
        self.record(pod, reason, &message);
        let ended = RestoredEnd::rejected(reason, &message);
        let restored = Restored { containers: Vec::new(), ended: Some(ended) };
        self.node.keeper.keep(&pod.uid, &restored);
        Some(restored)
    }

    /// A pod that asks for nothing is not let in where memory is short (`kubelet/eviction`, `Admit`).
    fn under_pressure(&self, pod: &Pod) -> Option<Rejection> {
        let short = self.pressure == Level::Short && pod.qos == QosClass::BestEffort;
        short.then(|| Rejection {
            reason: "Evicted",
            message: "The node had condition: [MemoryPressure]. ".to_owned(),
        })
    }

    /// The machine is as short of memory as `level` says; at the last level one pod goes.
    pub(super) fn feel(&mut self, level: Level, threshold_bytes: u64, available_bytes: u64) {
        self.pressure = level;
        if level < Level::Short {
            return;
        }
        let used = self.node.usage.read(self.node.clock.now());
        let held = |uid: &crate::spec::PodUid, container: &str| {
            let pod = used.iter().find(|pod| &pod.uid == uid);
            let found =
                pod.and_then(|p| p.containers.iter().find(|c| c.name.as_str() == container));
            found.map_or(0, |c| c.total.memory_bytes)
        };
        let candidates: Vec<Candidate> = self
            .live_workers()
            .filter(|handle| !handle.is_going())
            .map(|handle| handle.published.pod())
            .map(|pod| Candidate::new(pod, |container| held(&pod.uid, container)))
            .collect();
        let Some(victim) = rank(&candidates, threshold_bytes, available_bytes) else { return };
        let Some(handle) = self.worker(&victim.uid) else { return };
        warn!(pod = %victim.key, "{}", victim.message.trim_end());
        let why = StopReason::Evicted { reason: "Evicted", message: victim.message.clone() };
        handle.stop(Some(EVICTION_GRACE), why);
        self.record(&std::sync::Arc::clone(handle.published.pod()), "Evicted", &victim.message);
    }

    fn record(&self, pod: &Pod, reason: &str, message: &str) {
        let draft = EventDraft {
            involved: corev1::ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(pod.key.namespace.to_string()),
                name: Some(pod.key.name.to_string()),
                uid: Some(pod.uid.to_string()),
                ..corev1::ObjectReference::default()
            },
            warning: true,
            reason: reason.to_owned(),
            message: message.to_owned(),
            component: "podling".to_owned(),
            host: self.node.node.name.clone(),
        };
        self.board().record(&draft, self.node.clock.now());
    }
}
