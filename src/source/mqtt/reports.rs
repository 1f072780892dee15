//! From a pod as the board shows it to what the protocol wants to know. Pure.
//!
//! Owns: which status belongs to which instance. A pod's object carries the digest of the intent that it is made of; while a pod of
//! another intent still stands under the name, nothing is said of the new one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as corev1;

use crate::image::Digest;
use crate::mqtt::protocol::{Input, Instance, PodPhase, PodReport};
use crate::mqtt::status::{Condition, ContainerStatus};
use crate::spec::PodKey;

/// What was handed to the node under each name.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pods: BTreeMap<PodKey, (Instance, Digest)>,
}

impl Applied {
    pub(super) fn insert(&mut self, key: PodKey, instance: Instance, intent: Digest) {
        self.pods.insert(key, (instance, intent));
    }

    /// The name is empty again, if that instance had it.
    pub(super) fn remove(&mut self, key: &PodKey) {
        self.pods.remove(key);
    }

    /// What a pod's object means. `annotation`: the key that holds the digest of its intent.
    pub(super) fn report(&self, pod: &corev1::Pod, annotation: &str) -> Option<Input> {
        let meta = &pod.metadata;
        let key = PodKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?);
        let (instance, intent) = self.pods.get(&key)?;
        let made_of = meta.annotations.as_ref()?.get(annotation)?;
        if *made_of != intent.hex() {
            return None;
        }
        Some(Input::Pod { instance: *instance, report: report(pod) })
    }
}

fn report(pod: &corev1::Pod) -> PodReport {
    // On its way out to be started anew: whatever its status says, it does not serve.
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let Some(status) = &pod.status else { return PodReport::default() };
    let phase = match status.phase.as_deref() {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        _ => PodPhase::Pending,
    };
    let conditions: Vec<Condition> = status.conditions.iter().flatten().map(condition).collect();
    let ready = conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
    let regular = status.container_statuses.as_deref().unwrap_or_default();
    let all = status.init_container_statuses.iter().flatten().chain(regular);
    PodReport {
        phase,
        ready: ready && !leaving,
        started: !leaving && !regular.is_empty() && regular.iter().all(has_started),
        conditions,
        containers: all.map(container).collect(),
        message: message(status, leaving),
    }
}

fn message(status: &corev1::PodStatus, leaving: bool) -> String {
    if leaving {
        return "it ends, to be started anew".to_owned();
    }
    let words = [&status.reason, &status.message].into_iter().flatten().filter(|w| !w.is_empty());
    words.cloned().collect::<Vec<_>>().join(": ")
}

/// Started, in this run or an earlier one: a pod that runs to its end and one that crashed have both been started.
fn has_started(status: &corev1::ContainerStatus) -> bool {
    let state = status.state.as_ref();
    status.restart_count > 0 || state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
}

fn condition(condition: &corev1::PodCondition) -> Condition {
    Condition {
        kind: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
    }
}

fn container(status: &corev1::ContainerStatus) -> ContainerStatus {
    let mut out = ContainerStatus {
        name: status.name.clone(),
        ready: status.ready,
        restarts: u32::try_from(status.restart_count).unwrap_or_default(),
        state: "Waiting".to_owned(),
        ..ContainerStatus::default()
    };
    let Some(state) = &status.state else { return out };
    if state.running.is_some() {
        "Running".clone_into(&mut out.state);
    } else if let Some(ended) = &state.terminated {
        "Terminated".clone_into(&mut out.state);
        out.reason = ended.reason.clone().unwrap_or_default();
        out.message = ended.message.clone().unwrap_or_default();
        out.exit_code = Some(ended.exit_code);
    } else if let Some(waiting) = &state.waiting {
        out.reason = waiting.reason.clone().unwrap_or_default();
        out.message = waiting.message.clone().unwrap_or_default();
        // Why it waits is told by how it ended.
        let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        out.exit_code = last.map(|ended| ended.exit_code);
    }
    out
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const KEY: &str = "x/intent";

    fn digest(byte: u8) -> Digest {
        Digest::from_hex(&format!("{byte:02x}").repeat(32)).unwrap()
    }

    fn pod(intent: Digest, json: &str) -> corev1::Pod {
        let mut pod: corev1::Pod = serde_json::from_str(json).unwrap();
        let meta = &mut pod.metadata;
        (meta.namespace, meta.name) = (Some("default".into()), Some("web".into()));
        meta.annotations.get_or_insert_default().insert(KEY.into(), intent.hex());
        pod
    }

    const RUNNING: &str = r#"{"status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}}},
            {"name": "b", "ready": false, "restartCount": 3, "image": "", "imageID": "",
             "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"exitCode": 134, "reason": "Trapped"}}}]}}"#;

    fn applied() -> Applied {
        let mut applied = Applied::default();
        applied.insert(PodKey::new("default", "web"), Instance(7), digest(1));
        applied
    }

    #[test]
    fn a_status_says_what_runs_and_why_not() {
        let Some(Input::Pod { instance, report }) = applied().report(&pod(digest(1), RUNNING), KEY)
        else {
            panic!("no report");
        };
        assert_eq!(instance, Instance(7));
        assert!(report.ready && report.started && report.phase == PodPhase::Running);
        let crashed = &report.containers[1];
        assert_eq!(
            (crashed.state.as_str(), crashed.reason.as_str()),
            ("Waiting", "CrashLoopBackOff")
        );
        assert_eq!((crashed.exit_code, crashed.restarts), (Some(134), 3));
    }

    #[test]
    fn what_another_intent_left_standing_says_nothing_of_this_one() {
        let mut applied = applied();
        assert!(applied.report(&pod(digest(2), RUNNING), KEY).is_none());
        let mut foreign = pod(digest(1), RUNNING);
        foreign.metadata.annotations = None;
        assert!(applied.report(&foreign, KEY).is_none());
        applied.remove(&PodKey::new("default", "web"));
        assert!(applied.report(&pod(digest(1), RUNNING), KEY).is_none());
    }

    #[test]
    fn a_pod_on_its_way_out_is_not_ready() {
        let mut leaving = pod(digest(1), RUNNING);
        leaving.metadata.deletion_timestamp = Some(crate::board::wire_time(0));
        let Some(Input::Pod { report, .. }) = applied().report(&leaving, KEY) else { panic!() };
        assert!(!report.ready && !report.started);
    }
}
