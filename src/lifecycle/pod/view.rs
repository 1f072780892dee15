//! What a pod looks like from outside.
//!
//! Owns: putting phase, conditions and container statuses together. Not: their rules (`phase`, `container`).

use crate::clock::Timestamp;
use crate::lifecycle::container::{Machine, mark_lost};
use crate::lifecycle::phase::{self, Facts, Member, Verdict};
use crate::lifecycle::status::{ConditionKind, ContainerState, PodPhase};
use crate::lifecycle::{RestoredEnd, texts};
use crate::spec::{Pod, RuleAction};

use super::{Plan, PodState, Sandbox};

impl PodState {
    pub(super) fn refresh(&mut self, now: Timestamp) {
        let members = self.members();
        let phase = self.phase(&members);
        let ever = self.said_yes(ConditionKind::Initialized);
        let facts = self.facts(&members);
        let sandbox = Verdict::bare(self.sandbox == Sandbox::Ready && self.ended.is_none());
        let initialized = phase::initialized(&facts, phase, ever);
        let containers = phase::containers_ready(&facts, phase);
        let ready = phase::ready(&facts, &containers);
        let mut conditions = std::mem::take(&mut self.conditions);
        for (kind, verdict) in [
            (ConditionKind::PodReadyToStartContainers, sandbox),
            (ConditionKind::Initialized, initialized),
            (ConditionKind::Ready, ready),
            (ConditionKind::ContainersReady, containers),
            (ConditionKind::PodScheduled, Verdict::yes()),
        ] {
            phase::set(&mut conditions, now, kind, verdict);
        }
        if has_restart_all(&self.pod) {
            let verdict = if self.plan == Plan::RestartingAll {
                phase::restarting_all()
            } else {
                Verdict::bare(false)
            };
            phase::set(&mut conditions, now, ConditionKind::AllContainersRestarting, verdict);
        }
        self.conditions = conditions;
    }

    pub(super) fn phase(&self, members: &[Member]) -> PodPhase {
        match &self.ended {
            Some(RestoredEnd { failed: true, .. }) => PodPhase::Failed,
            Some(RestoredEnd { failed: false, .. }) => PodPhase::Succeeded,
            // Also while the end of the daemon stops the modules: the pod itself has not ended.
            None => phase::phase(&self.facts(members)),
        }
    }

    /// The terminal phase of a pod whose last run is over.
    pub(super) fn terminal(&self) -> RestoredEnd {
        let members = self.members();
        let facts = Facts { over: true, ..self.facts(&members) };
        let (reason, message) = match &self.failure {
            Some((reason, message)) => ((*reason).to_owned(), message.clone()),
            None => (String::new(), String::new()),
        };
        let failed = self.failure.is_some() || phase::phase(&facts) == PodPhase::Failed;
        RestoredEnd { failed, reason, message }
    }

    fn facts<'a>(&'a self, members: &'a [Member]) -> Facts<'a> {
        let regular = &self.machines[self.pod.init_containers.len()..];
        Facts {
            pod: &self.pod,
            members,
            initialized: regular.iter().any(Machine::has_begun),
            over: self.ended.is_some(),
        }
    }

    pub(super) fn members(&self) -> Vec<Member> {
        let never_ran = if self.pod.init_containers.is_empty() {
            texts::CONTAINER_CREATING
        } else {
            texts::POD_INITIALIZING
        };
        let mut members: Vec<Member> = self
            .machines
            .iter()
            .zip(self.pod.all_containers())
            .map(|(machine, spec)| Member {
                status: machine.status(spec, never_ran),
                for_good: machine.is_ended() && self.plan != Plan::RestartingAll,
            })
            .collect();
        if self.ended.is_some() {
            self.mark_lost(&mut members);
        }
        share_messages(&mut members);
        members
    }

    /// `TerminatePod`: no container of a pod that has ended may look as if it could still run, except those whose turn
    /// never came.
    fn mark_lost(&self, members: &mut [Member]) {
        let init = self.pod.init_containers.len();
        let (inits, regular) = members.split_at_mut(init);
        let initialized = init == 0 || self.machines[init..].iter().any(Machine::has_begun);
        if initialized {
            for member in regular {
                mark_lost(&mut member.status, self.ended_at);
            }
        }
        let reached = inits
            .iter()
            .rposition(|m| m.status.last.is_some() || m.status.container_id.is_some())
            .unwrap_or(0);
        for member in inits.iter_mut().take(reached + 1) {
            mark_lost(&mut member.status, self.ended_at);
        }
    }

    fn said_yes(&self, kind: ConditionKind) -> bool {
        self.conditions.iter().any(|condition| condition.kind == kind && condition.status)
    }
}

/// All termination messages of a pod together stay below 12 KiB (`KUBELET.md` 12).
fn share_messages(members: &mut [Member]) {
    const TOTAL_BYTES_MAX: usize = 12 * 1024;
    let count = members.len().max(1);
    let mut messages: Vec<&mut String> = members
        .iter_mut()
        .filter_map(|member| match &mut member.status.state {
            ContainerState::Terminated(end) => end.message.as_mut(),
            ContainerState::Waiting { .. } | ContainerState::Running { .. } => None,
        })
        .collect();
    if messages.iter().map(|message| message.len()).sum::<usize>() <= TOTAL_BYTES_MAX {
        return;
    }
    for message in &mut messages {
        let end = message.floor_char_boundary(TOTAL_BYTES_MAX / count);
        message.truncate(end);
    }
}

fn has_restart_all(pod: &Pod) -> bool {
    pod.all_containers()
        .flat_map(|container| &container.restart_rules)
        .any(|rule| rule.action == RuleAction::RestartAllContainers)
}
