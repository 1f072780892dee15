//! A pod's life: whose turn it is, when it ends, and what it says of itself.
//!
//! Owns: the order among containers (init containers one after the other, sidecars as gates, regular ones in a row, stops
//! in reverse), the sandbox, the end of the pod, its conditions. Not: one container's own life (`container`), nor the
//! rules of phase and conditions (`phase`). Called by the pod's worker alone.
//!
//! ```text
//!   Live ──a rule says RestartAllContainers──► RestartingAll ──all gone──► Live
//!    │
//!    ├─ all regular containers over, or an init container failed for good ─┐
//!    ├─ activeDeadlineSeconds ─────────────────────────────────────────────┤
//!    └─ Stop ──────────────────────────────────────────────────────────────┴─► Ending ──all gone──► ended
//!                                                   after a Stop: ──► TearDownSandbox ──SandboxGone──► finished
//! ```
//! Sources: `KUBELET.md` 6 (`computePodActions`), 7, 10. Each function ends with the pod at rest: `PodState::advance`
//! does whatever the new situation asks for.

mod advance;
mod happened;
mod view;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::spec::{Container, ContainerName, Pod};

use super::backoff::{self, Retry};
use super::container::{Context, Course, Machine};
use super::status::{Condition, PodStatus};
use super::{Action, Event, Restored, RestoredEnd, RunId, StopReason, Timer};

/// The whole state of one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodState {
    pod: Arc<Pod>,
    start_time: Timestamp,
    sandbox: Sandbox,
    sandbox_retry: Retry,
    pod_ip: Option<IpAddr>,
    plan: Plan,
    /// The stop that was asked for, if any.
    stop: Option<StopReason>,
    /// Why the pod as a whole fails, once that is certain.
    failure: Option<(&'static str, String)>,
    /// Init containers and sidecars first, then regular ones: the order of the manifest.
    machines: Vec<Machine>,
    conditions: Vec<Condition>,
    /// The terminal phase, from when nothing runs any more; never changes after that.
    ended: Option<RestoredEnd>,
    /// When that was.
    ended_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Plan {
    Live,
    RestartingAll,
    /// Nothing is started any more. `for_good`: the pod is over; else it comes back with the daemon.
    Ending {
        deadline: Timestamp,
        for_good: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sandbox {
    Absent,
    Asked,
    BackOff { until: Timestamp },
    Ready,
    TearingDown,
    Gone,
}

impl PodState {
    /// A pod that has just been taken on; `restored`: what an earlier daemon wrote down about the same UID.
    #[must_use]
    pub fn new(pod: Arc<Pod>, restored: Option<Restored>, now: Timestamp) -> (Self, Vec<Action>) {
        let machines = pod.all_containers().map(Machine::new).collect();
        let mut state = Self {
            pod,
            start_time: now,
            sandbox: Sandbox::Absent,
            sandbox_retry: Retry::new(backoff::SANDBOX_INITIAL, backoff::SANDBOX_MAX),
            pod_ip: None,
            plan: Plan::Live,
            stop: None,
            failure: None,
            machines,
            conditions: Vec::new(),
            ended: None,
            ended_at: now,
        };
        let mut actions = Vec::new();
        if let Some(restored) = restored {
            state.restore(now, restored, &mut actions);
        }
        state.advance(now, &mut actions);
        if state.plan == Plan::Live {
            state.sandbox = Sandbox::Asked;
            actions.push(Action::SetUpSandbox);
            if let Some(deadline) = state.pod.active_deadline {
                let at = now.plus(deadline);
                actions.push(Action::ArmTimer { timer: Timer::ActiveDeadline, at });
            }
        }
        state.refresh(now);
        (state, state_actions(actions, true))
    }

    /// Takes in what happened; what to do about it.
    #[must_use]
    pub fn step(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take_in(now, event, &mut actions);
        self.advance(now, &mut actions);
        self.refresh(now);
        // What is deleted leaves no record behind.
        state_actions(actions, self.stop != Some(StopReason::Deleted))
    }

    #[must_use]
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Nothing is left of the pod: its worker may go.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let dismissed = match self.stop {
            Some(StopReason::Deleted | StopReason::Shutdown) => true,
            // An evicted pod stays to be looked at until it is deleted.
            Some(StopReason::Evicted { .. }) | None => false,
        };
        self.sandbox == Sandbox::Gone && dismissed
    }

    /// A stop was asked for.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Succeeded or Failed; stays so.
    #[must_use]
    pub fn is_terminal_phase(&self) -> bool {
        self.ended.is_some()
    }

    /// What must survive a restart of the daemon.
    #[must_use]
    pub fn restored(&self) -> Restored {
        let ended = self.ended.is_some();
        Restored {
            containers: self
                .machines
                .iter()
                .zip(self.pod.all_containers())
                .map(|(machine, spec)| machine.restored(spec, ended))
                .collect(),
            ended: self.ended.clone(),
        }
    }

    /// The status, derived.
    #[must_use]
    pub fn status(&self) -> PodStatus {
        let mut members = self.members();
        let phase = self.phase(&members);
        if self.ended.as_ref().is_some_and(RestoredEnd::is_rejection) {
            // No container was made, so none has a status: `kubectl get pods` then shows the reason.
            members.clear();
        }
        let mut statuses = members.into_iter().map(|member| member.status);
        let init_containers = statuses.by_ref().take(self.pod.init_containers.len()).collect();
        let (reason, message) = match &self.ended {
            Some(end) if !end.reason.is_empty() => {
                (Some(Cow::Owned(end.reason.clone())), Some(end.message.clone()))
            }
            Some(_) | None => (None, None),
        };
        PodStatus {
            phase,
            reason,
            message,
            conditions: self.conditions.clone(),
            init_containers,
            containers: statuses.collect(),
            start_time: self.start_time,
            pod_ip: self.pod_ip,
            qos: self.pod.qos,
        }
    }
}

// Small helpers.
impl PodState {
    fn is_ending(&self) -> bool {
        matches!(self.plan, Plan::Ending { .. })
    }

    fn is_any_live(&self) -> bool {
        self.machines.iter().any(Machine::is_live)
    }

    fn course(&self) -> Course {
        match self.plan {
            Plan::Live => Course::Live,
            Plan::RestartingAll => Course::RestartingAll,
            Plan::Ending { for_good: true, .. } => Course::Ending,
            Plan::Ending { for_good: false, .. } => Course::ShuttingDown,
        }
    }

    fn index(&self, name: &ContainerName) -> Option<usize> {
        self.machines.iter().position(|machine| machine.name() == name)
    }

    /// Lets the container that `run` names answer; a container that the pod does not have answers nothing.
    fn about<R: Default>(
        &mut self,
        run: &RunId,
        now: Timestamp,
        actions: &mut Vec<Action>,
        answer: impl FnOnce(&mut Machine, &mut Context<'_>) -> R,
    ) -> R {
        match self.index(&run.container) {
            Some(i) => self.with(i, now, actions, answer),
            None => R::default(),
        }
    }

    fn with<R>(
        &mut self,
        i: usize,
        now: Timestamp,
        actions: &mut Vec<Action>,
        answer: impl FnOnce(&mut Machine, &mut Context<'_>) -> R,
    ) -> R {
        let (course, pod_start) = (self.course(), self.start_time);
        let pod = &*self.pod;
        let spec = spec_at(pod, i);
        let mut cx = Context { pod, spec, now, pod_start, course, actions };
        answer(&mut self.machines[i], &mut cx)
    }
}

fn spec_at(pod: &Pod, i: usize) -> &Container {
    match i.checked_sub(pod.init_containers.len()) {
        Some(regular) => &pod.containers[regular],
        None => &pod.init_containers[i],
    }
}

/// One write for all that changed in one step, and last: the record is to hold all of it.
fn state_actions(mut actions: Vec<Action>, may_persist: bool) -> Vec<Action> {
    let before = actions.len();
    actions.retain(|action| *action != Action::Persist);
    if may_persist && actions.len() < before {
        actions.push(Action::Persist);
    }
    actions
}
