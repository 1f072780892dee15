//! One pod as the board shows it: the accepted object, its deletion, its status.
//!
//! Owns: putting the three together. The worker reports status, the reconciler reports deletion; both go through here, so
//! that neither can overwrite what the other said. The fabric hears of each change here.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::board::{Board, wire_time};
use crate::clock::Timestamp;
use crate::fabric::{Fabric, PodState};
use crate::lifecycle::PodStatus;
use crate::manifest;
use crate::spec::Pod;

#[derive(Debug)]
pub struct PublishedPod {
    board: Board,
    fabric: Fabric,
    host_ips: Vec<IpAddr>,
    pod: Arc<Pod>,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    object: corev1::Pod,
    /// When the pod was first told to go: what the time of its deletion is counted from.
    deletion_asked: Option<Timestamp>,
}

impl PublishedPod {
    /// Makes an accepted pod known, in phase Pending, to the network alone: the first status shows it to everyone, so that nobody
    /// reads of a pod that ended long ago that it is yet to run.
    #[must_use]
    pub fn new(
        board: Board,
        fabric: Fabric,
        host_ips: Vec<IpAddr>,
        pod: Arc<Pod>,
        mut object: corev1::Pod,
    ) -> Arc<Self> {
        object.status = Some(corev1::PodStatus {
            phase: Some("Pending".into()),
            qos_class: Some(pod.qos.as_str().into()),
            ..corev1::PodStatus::default()
        });
        fabric.describe(&pod);
        let shown = Mutex::new(Shown { object, deletion_asked: None });
        Arc::new(Self { board, fabric, host_ips, pod, shown })
    }

    /// The pod as it was taken on. Its images and its deadline may have changed since; what it needs and publishes has not.
    #[must_use]
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Succeeded or Failed: nothing of it runs again.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = shown.object.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Shows a new status of the pod, as its worker has it: what it was told last, it may not have acted upon yet.
    pub fn set_status(&self, pod: &Pod, status: &PodStatus) {
        let wire = manifest::status::pod_status(pod, status, &self.host_ips);
        self.change(|shown| shown.object.status = Some(wire));
    }

    /// Shows that the pod is being deleted. A repeated deletion moves the time back only; both count from the first
    /// (`rest.BeforeDelete`).
    pub fn set_deleting(&self, now: Timestamp, grace: Duration) -> Arc<corev1::Pod> {
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        self.change(|shown| {
            let asked = *shown.deletion_asked.get_or_insert(now);
            let meta = &mut shown.object.metadata;
            if meta.deletion_grace_period_seconds.is_none_or(|old| seconds < old) {
                if meta.deletion_timestamp.is_none() {
                    meta.generation = meta.generation.map(|g| g + 1);
                }
                meta.deletion_timestamp = Some(wire_time(asked.plus(grace).wall_ms()));
                meta.deletion_grace_period_seconds = Some(seconds);
            }
        })
    }

    /// Shows new labels and annotations, and a newer generation.
    pub fn set_metadata(&self, meta: &ObjectMeta) -> Arc<corev1::Pod> {
        self.change(|shown| {
            let generation = &mut shown.object.metadata.generation;
            *generation = (*generation).max(meta.generation);
            shown.object.metadata.labels.clone_from(&meta.labels);
            shown.object.metadata.annotations.clone_from(&meta.annotations);
        })
    }

    /// Shows another definition of the pod: its spec, its labels and annotations, its generation.
    pub fn redefine(&self, object: &corev1::Pod) -> Arc<corev1::Pod> {
        self.change(|shown| {
            let (meta, new) = (&mut shown.object.metadata, &object.metadata);
            meta.generation = meta.generation.max(new.generation);
            meta.labels.clone_from(&new.labels);
            meta.annotations.clone_from(&new.annotations);
            shown.object.spec.clone_from(&object.spec);
        })
    }

    /// The pod is gone.
    pub fn remove(&self) {
        self.board.remove_pod(&self.pod.key, Some(&self.pod.uid));
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) -> Arc<corev1::Pod> {
        // The board is told while the lock is held: two changes reach it in the order in which they were made.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut shown);
        // Services take a pod in, or leave it out, before anyone is told that it is ready.
        self.fabric.set_state(&self.pod.uid, state_of(&shown.object));
        self.board.upsert_pod(shown.object.clone())
    }
}

/// What of the object decides about traffic.
fn state_of(object: &corev1::Pod) -> PodState {
    let status = object.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let phase = status.and_then(|status| status.phase.as_deref());
    PodState {
        ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        terminating: object.metadata.deletion_timestamp.is_some(),
        over: matches!(phase, Some("Succeeded" | "Failed")),
    }
}
