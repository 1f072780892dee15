//! The way of the leading document to running: fetched, tried, watched, committed or taken back.
//!
//! Owns: stages, their deadlines, attempts, going back to the last good one. Not: running pods.
//!
//! ```text
//!  Accepted ─► Fetching ─► Verified ─► Starting ─► Probing ─► Committed
//!  (durable)      │      (try counted,    │           │
//!                 │         durable)      └─────┬─────┘ not in time, failed, crashes
//!                 └──────── not to be got ──────┤
//!                            a good one before? ├─ yes ─► RolledBack (it runs)
//!                                               └─ no ──► Failed (held, or left to its own back-off)
//! ```
//!
//! A try is counted on disk before it begins: a pod that takes the daemon with it is tried [`ATTEMPTS_MAX`] times, not for
//! ever. What has ended stays ended until the document changes; only a pod that was left running may still become good.

use std::sync::Arc;
use std::time::Duration;

use super::deadline::Deadline;
use super::io::{FetchFailure, Instance, Output, PodPhase, PodReport};
use super::outbox::Subject;
use super::pods::{Applied, Pod, align, committed, leading};
use super::report::compiling;
use super::{Protocol, same};
use crate::clock::Timestamp;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::intent::{Artifact, Release};
use crate::mqtt::record::Ended;
use crate::mqtt::status::{RolloutStatus, Scoped, Stage};
use crate::spec::PodKey;

/// Times that a document is tried while the daemon dies under it.
pub(super) const ATTEMPTS_MAX: u32 = 3;

/// Restarts of a pod that is not ready yet, after which the one before is better.
const CRASHES_MAX: u32 = 5;

/// How long counting a try may take: it is one write.
const VERIFIED_MAX: Duration = Duration::from_secs(600);

/// How far the leading document is, in this life of the daemon.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) target: Arc<Release>,
    pub(super) stage: Stage,
    deadline: Option<Deadline>,
    ready_since: Option<Timestamp>,
    /// When readiness has lasted.
    good_at: Option<Timestamp>,
}

impl Way {
    fn new(target: Arc<Release>, stage: Stage) -> Self {
        Self { target, stage, deadline: None, ready_since: None, good_at: None }
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.deadline.map(|deadline| deadline.ends_at()).into_iter().chain(self.good_at).min()
    }

    /// Enters a stage; its deadline begins with the first that has one in common.
    fn enter(&mut self, stage: Stage, deadline: Option<Timestamp>) -> bool {
        let changed = self.stage != stage;
        if changed {
            let one_clock = matches!(
                (self.stage, stage),
                (Stage::Starting, Stage::Probing) | (Stage::Probing, Stage::Starting)
            );
            if !one_clock {
                self.deadline = deadline.map(Deadline::new);
            }
            self.stage = stage;
        }
        changed
    }

    fn is_late(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline.is_over(now))
    }

    /// Time that the node spends on compiling is not the pod's.
    fn hold(&mut self, now: Timestamp, compiles: bool) {
        if let Some(deadline) = &mut self.deadline {
            deadline.hold(now, compiles);
        }
    }

    /// The rollout's line in the status.
    pub(super) fn status(&self, pod: &Pod, now: Timestamp) -> RolloutStatus {
        let rollout = pod.record.want.rollout.as_ref();
        let ended = rollout.and_then(|r| r.outcome.as_ref());
        let left = |it: Deadline| u64::try_from(it.left(now).as_millis()).unwrap_or(u64::MAX);
        RolloutStatus {
            target: scoped(&self.target),
            stage: self.stage,
            reason: ended.map(|e| e.reason.clone()).unwrap_or_default(),
            message: ended.map(|e| e.message.clone()).unwrap_or_default(),
            attempts: rollout.map_or(0, |r| r.attempts),
            bytes: None,
            total: None,
            deadline_ms: self.deadline.filter(|_| !self.stage.is_terminal()).map(left),
        }
    }
}

pub(super) fn scoped(release: &Release) -> Scoped {
    Scoped { scope: release.scope.clone(), revision: release.revision.clone() }
}

/// What a look at a started pod says.
enum Judgement {
    Wait(Stage),
    Good,
    Bad(&'static str, String),
}

impl Protocol {
    /// Looks at one pod and does what is missing.
    pub(super) fn converge(&mut self, key: &PodKey) {
        let Some(mut pod) = self.pods.remove(key) else { return };
        let before = committed(&pod.record.want);
        align(&mut pod.record.want, before, &self.config);
        self.converge_pod(key, &mut pod);
        if pod.is_stranger()
            && pod.refused.is_empty()
            && pod.record.is_idle()
            && pod.applied.is_none()
        {
            self.outbox.clear(key);
            return;
        }
        self.pods.insert(key.clone(), pod);
    }

    fn converge_pod(&mut self, key: &PodKey, pod: &mut Pod) {
        let Some(lead) = leading(&pod.record.want, &self.config).cloned() else {
            // A deletion is acted upon once it is durable.
            if leading(pod.record.stored(), &self.config).is_none() {
                pod.way = None;
                self.want(key, &[]);
                self.remove(key, pod);
            }
            return;
        };
        let on_disk = pod.record.stored().lines.get(&lead.scope);
        if !on_disk.is_some_and(|line| line.revision == lead.revision && line.release.is_some()) {
            return;
        }
        if !pod.way.as_ref().is_some_and(|way| same(&way.target, &lead)) {
            self.begin(key, pod, &lead);
        }
        let outcome = pod.record.want.rollout.as_ref().and_then(|r| r.outcome.clone());
        match outcome {
            None => self.progress(key, pod, &lead),
            Some(ended) => self.settled(key, pod, &lead, &ended),
        }
    }

    /// Another document leads from now on.
    fn begin(&mut self, key: &PodKey, pod: &mut Pod, lead: &Arc<Release>) {
        if let Some(way) = pod.way.take() {
            let mut ended = way.status(pod, self.now);
            // The record is about the new one already.
            (ended.attempts, ended.reason, ended.message) = (0, String::new(), String::new());
            if !way.stage.is_terminal() {
                ended.stage = Stage::Superseded;
                let message = format!(
                    "{} is superseded by {}",
                    way.target.revision.version, lead.revision.version
                );
                self.event(Some(key), false, "Superseded", message);
            }
            pod.previous = Some(ended);
        }
        pod.way = Some(Way::new(Arc::clone(lead), Stage::Accepted));
        self.outbox.soon(Subject::Pod(key.clone()));
    }

    /// What has ended stays as it is.
    fn settled(&mut self, key: &PodKey, pod: &mut Pod, lead: &Arc<Release>, ended: &Ended) {
        self.enter(key, pod, ended.stage, None);
        let good = pod.record.want.good.clone();
        let runs = match (ended.stage, good) {
            (Stage::RolledBack, Some(good)) => Some(good),
            (Stage::RolledBack, None) => None,
            _ if ended.held => None,
            // It was never good, and the daemon has been dying: not in this life of it.
            (Stage::Failed, _) if self.config.safe_mode && !pod.is_tried(lead) => None,
            _ => Some(Arc::clone(lead)),
        };
        let needs: Vec<&Artifact> = runs.iter().flat_map(|r| &r.intent.artifacts).collect();
        self.want(key, &needs);
        match &runs {
            Some(release) => self.apply(key, pod, release),
            // Like every end, this one is durable first.
            None if pod.record.stored().rollout == pod.record.want.rollout => self.remove(key, pod),
            None => {}
        }
        if ended.stage == Stage::Failed && !ended.held {
            // Left to its own back-off, it may come good after all.
            if let Judgement::Good = self.judge_report(pod, lead) {
                self.commit(key, pod, lead);
            }
        }
    }

    /// One step nearer to running, or the news that it will not.
    fn progress(&mut self, key: &PodKey, pod: &mut Pod, lead: &Arc<Release>) {
        let missing = self.transfers.missing(lead);
        let needs: Vec<&Artifact> = lead.intent.artifacts.iter().collect();
        self.want(key, &needs);
        if !missing.is_empty() {
            self.enter(key, pod, Stage::Fetching, Some(lead.intent.rollout.fetch()));
            if pod.way.as_ref().is_some_and(|way| way.is_late(self.now)) {
                let why = self.transfers.trouble(key).unwrap_or("the link is too slow").to_owned();
                return self.fail(key, pod, lead, "FetchDeadlineExceeded", &why, true);
            }
            // Meanwhile what was good runs on, also after a power cut.
            if let (None, Some(good)) = (&pod.applied, pod.record.want.good.clone()) {
                self.apply(key, pod, &good);
            }
            return;
        }
        if matches!(pod.way.as_ref().map(|way| way.stage), Some(Stage::Accepted | Stage::Fetching))
        {
            self.enter(key, pod, Stage::Verified, Some(VERIFIED_MAX));
        }
        if !self.count_try(key, pod, lead) {
            return;
        }
        self.apply(key, pod, lead);
        if pod.way.as_ref().is_some_and(|way| way.stage == Stage::Verified) {
            self.enter(key, pod, Stage::Starting, Some(lead.intent.rollout.progress()));
        }
        match self.judge_report(pod, lead) {
            Judgement::Good => self.commit(key, pod, lead),
            Judgement::Bad(reason, message) => self.fail(key, pod, lead, reason, &message, false),
            Judgement::Wait(stage) => {
                self.enter(key, pod, stage, None);
                let report = pod.applied.as_ref().map(|applied| &applied.report);
                let message = report.and_then(compiling);
                if let Some(way) = &mut pod.way {
                    way.hold(self.now, message.is_some());
                }
                if pod.way.as_ref().is_some_and(|way| way.is_late(self.now)) {
                    let message = message.or_else(|| report.map(|r| r.message.clone()));
                    let message = format!("not ready in time: {}", message.unwrap_or_default());
                    let message = message.trim_end_matches([':', ' ']).to_owned();
                    self.fail(key, pod, lead, "ProgressDeadlineExceeded", &message, false);
                }
            }
        }
    }

    /// Whether this try may begin: it is counted, and the count is on disk.
    fn count_try(&mut self, key: &PodKey, pod: &mut Pod, lead: &Arc<Release>) -> bool {
        let tried = pod.is_tried(lead);
        let Some(rollout) = &mut pod.record.want.rollout else { return false };
        // Zero: it led before in this life, and leads anew.
        if !tried || rollout.attempts == 0 {
            let attempts = rollout.attempts;
            if attempts > 0 && self.config.safe_mode {
                let message = "the daemon has died several times, and this was being tried";
                self.fail(key, pod, lead, "SuspectedBootLoop", message, true);
                return false;
            }
            if attempts >= ATTEMPTS_MAX {
                let message = format!("the daemon died during each of {attempts} tries");
                self.fail(key, pod, lead, "TooManyAttempts", &message, true);
                return false;
            }
            rollout.attempts += 1;
            pod.tried = Some((lead.scope.clone(), lead.revision.clone()));
        }
        let counted =
            |r: &crate::mqtt::record::Rollout| (r.revision.clone(), r.scope.clone(), r.attempts);
        let durable = pod.record.stored().rollout.as_ref().map(counted)
            == pod.record.want.rollout.as_ref().map(counted);
        if !durable && pod.way.as_ref().is_some_and(|way| way.is_late(self.now)) {
            let why = pod.record.failure().unwrap_or("the disk does not answer").to_owned();
            self.fail(key, pod, lead, "StorageFailed", &why, true);
            return false;
        }
        durable
    }

    fn judge_report(&self, pod: &mut Pod, lead: &Arc<Release>) -> Judgement {
        let (Some(way), Some(applied)) = (&mut pod.way, &pod.applied) else {
            return Judgement::Wait(Stage::Starting);
        };
        if !same(&applied.release, lead) {
            return Judgement::Wait(way.stage);
        }
        if let Some(refusal) = &applied.refusal {
            if refusal.reason == Reason::SourceConflict {
                return Judgement::Wait(Stage::Starting);
            }
            return Judgement::Bad("NotApplied", refusal.message.clone());
        }
        let report = &applied.report;
        if !report.ready {
            (way.ready_since, way.good_at) = (None, None);
        }
        match report.phase {
            PodPhase::Succeeded => return Judgement::Good,
            PodPhase::Failed => return Judgement::Bad("PodFailed", report.message.clone()),
            PodPhase::Pending | PodPhase::Running => {}
        }
        if report.ready {
            let since = *way.ready_since.get_or_insert(self.now);
            let good_at = since.plus(lead.intent.rollout.min_ready());
            way.good_at = Some(good_at);
            let lasted = good_at <= self.now;
            return if lasted { Judgement::Good } else { Judgement::Wait(Stage::Probing) };
        }
        let crashes: u32 =
            report.containers.iter().map(|c| c.restarts).fold(0, u32::saturating_add);
        if crashes >= CRASHES_MAX && pod.record.want.good.is_some() {
            let message = format!("restarted {crashes} times: {}", report.message);
            return Judgement::Bad("CrashLoop", message);
        }
        Judgement::Wait(if report.started { Stage::Probing } else { Stage::Starting })
    }

    fn commit(&mut self, key: &PodKey, pod: &mut Pod, lead: &Arc<Release>) {
        let Some(rollout) = &mut pod.record.want.rollout else { return };
        let (reason, message) = (String::new(), String::new());
        rollout.outcome = Some(Ended { stage: Stage::Committed, reason, message, held: false });
        pod.record.want.good = None;
        self.enter(key, pod, Stage::Committed, None);
        self.event(Some(key), false, "Committed", lead.revision.version.to_string());
    }

    fn fail(
        &mut self,
        key: &PodKey,
        pod: &mut Pod,
        lead: &Arc<Release>,
        reason: &'static str,
        message: &str,
        held: bool,
    ) {
        let Some(rollout) = &mut pod.record.want.rollout else { return };
        let stage = match &pod.record.want.good {
            Some(_) => Stage::RolledBack,
            None => Stage::Failed,
        };
        let held = held && stage == Stage::Failed;
        let message = crate::mqtt::cause::cut(message.to_owned());
        let ended = Ended { stage, reason: reason.to_owned(), message, held };
        rollout.outcome = Some(ended.clone());
        let text = format!("{}: {reason}: {}", lead.revision.version, ended.message);
        let word = if stage == Stage::RolledBack { "RolledBack" } else { "RolloutFailed" };
        self.event(Some(key), true, word, text);
        // Going back need not wait for the disk: a power cut now costs one more counted try.
        self.settled(key, pod, lead, &ended);
    }

    /// An artifact that a pod waits for cannot be got.
    pub(super) fn fetch_failed(&mut self, key: &PodKey, failure: &FetchFailure) {
        let Some(mut pod) = self.pods.remove(key) else { return };
        let ended = pod.record.want.rollout.as_ref().is_none_or(|r| r.outcome.is_some());
        if let Some(lead) = leading(&pod.record.want, &self.config).cloned()
            && !ended
            && pod.way.as_ref().is_some_and(|way| same(&way.target, &lead))
        {
            let message = format!("{}: {}", failure.reason, failure.message);
            self.fail(key, &mut pod, &lead, "FetchFailed", &message, true);
        }
        self.pods.insert(key.clone(), pod);
    }

    fn enter(&mut self, key: &PodKey, pod: &mut Pod, stage: Stage, limit: Option<Duration>) {
        let deadline = limit.map(|limit| self.now.plus(limit));
        let Some(way) = &mut pod.way else { return };
        if way.enter(stage, deadline) {
            if stage.is_terminal() {
                way.deadline = None;
                way.good_at = None;
            }
            self.outbox.soon(Subject::Pod(key.clone()));
            self.outbox.soon(Subject::Node);
        }
    }

    fn want(&mut self, key: &PodKey, artifacts: &[&Artifact]) {
        let outputs = self.transfers.want(key, artifacts);
        self.outputs.extend(outputs);
    }

    /// Hands a release to the runtime, unless it has it.
    fn apply(&mut self, key: &PodKey, pod: &mut Pod, release: &Arc<Release>) {
        if pod.applied.as_ref().is_some_and(|applied| same(&applied.release, release)) {
            return;
        }
        let other_uid = |old: &Applied| old.release.revision.uid != release.revision.uid;
        let recreate = pod.applied.as_ref().is_some_and(other_uid);
        let instance = self.instance();
        let report = PodReport::default();
        pod.applied =
            Some(Applied { instance, release: Arc::clone(release), refusal: None, report });
        if let Some(way) = &mut pod.way {
            (way.ready_since, way.good_at) = (None, None);
        }
        self.put(Output::Apply { instance, release: Arc::clone(release), recreate });
        self.outbox.soon(Subject::Pod(key.clone()));
    }

    fn remove(&mut self, key: &PodKey, pod: &mut Pod) {
        if let Some(applied) = pod.applied.take() {
            self.put(Output::Remove { key: key.clone(), instance: applied.instance });
            self.outbox.soon(Subject::Pod(key.clone()));
        }
    }

    pub(super) fn not_applied(&mut self, instance: Instance, refusal: Refusal) {
        let Some(key) = self.key_of(instance) else { return };
        self.event(Some(&key), true, refusal.reason.as_str(), refusal.message.clone());
        if let Some(applied) = self.pods.get_mut(&key).and_then(|pod| pod.applied.as_mut()) {
            (applied.refusal, applied.report) = (Some(refusal), PodReport::default());
        }
        self.outbox.soon(Subject::Pod(key.clone()));
        self.converge(&key);
    }

    pub(super) fn reported(&mut self, instance: Instance, report: PodReport) {
        let Some(key) = self.key_of(instance) else { return };
        let Some(applied) = self.pods.get_mut(&key).and_then(|pod| pod.applied.as_mut()) else {
            return;
        };
        if applied.report == report && applied.refusal.is_none() {
            return;
        }
        applied.report = report;
        applied.refusal = None;
        self.outbox.soon(Subject::Pod(key.clone()));
        self.outbox.soon(Subject::Node);
        self.converge(&key);
    }

    fn key_of(&self, instance: Instance) -> Option<PodKey> {
        let has = |pod: &Pod| pod.applied.as_ref().is_some_and(|a| a.instance == instance);
        self.pods.iter().find(|(_, pod)| has(pod)).map(|(key, _)| key.clone())
    }
}
