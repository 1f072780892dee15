//! Phase and conditions: what the containers' states amount to.
//!
//! Owns: `getPhase` and the condition rules of `KUBELET.md` 1 and 2, as functions of container statuses and a few facts
//! about the pod. Not: storing anything; `pod` keeps only when each condition last changed.

use crate::clock::Timestamp;
use crate::spec::{ContainerKind, Pod};

use super::status::{Condition, ConditionKind, ContainerState, ContainerStatus, PodPhase};

/// One container, as phase and conditions see it.
#[derive(Debug)]
pub struct Member {
    pub status: ContainerStatus,
    /// No run of it will follow the one that is over.
    pub for_good: bool,
}

/// The pod, as phase and conditions see it. Members: init containers and sidecars first.
#[derive(Debug)]
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub members: &'a [Member],
    /// A regular container has been started since this daemon took the pod on.
    pub initialized: bool,
    /// The pod has ended and nothing of it runs. Only then may a terminal phase be shown.
    pub over: bool,
}

/// How many containers are in which situation; the words are those of `getPhase`.
#[derive(Debug, Default)]
struct Tally {
    pending_init: usize,
    pending_sidecars: usize,
    failed_init: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
}

impl Tally {
    fn of(members: &[Member]) -> Self {
        let mut tally = Self::default();
        for member in members {
            match member.status.kind {
                ContainerKind::Init => tally.add_init(member),
                ContainerKind::Sidecar => tally.add_sidecar(&member.status),
                ContainerKind::Regular => tally.add_regular(&member.status),
                ContainerKind::Ephemeral => {}
            }
        }
        tally
    }

    fn add_init(&mut self, member: &Member) {
        let failed = match &member.status.state {
            ContainerState::Terminated(end) => end.exit_code != 0,
            // Kubernetes counts a container that waits to run *again* after a success as neither; after a restart of
            // the daemon that would show Running while init containers run. It is pending.
            ContainerState::Waiting { .. } => match &member.status.last {
                Some(end) if end.exit_code != 0 => true,
                Some(_) | None => {
                    self.pending_init += 1;
                    false
                }
            },
            ContainerState::Running { .. } => {
                self.pending_init += 1;
                false
            }
        };
        if failed && member.for_good {
            self.failed_init += 1;
        }
    }

    fn add_sidecar(&mut self, status: &ContainerStatus) {
        let started = status.started == Some(true);
        self.running += usize::from(status.state.is_running());
        // Kubernetes does not count one that has run before. It matters only after a restart of the daemon, when that
        // run was in another life; how a sidecar ended never counts.
        self.pending_sidecars += usize::from(!started);
        let never_ran =
            matches!(status.state, ContainerState::Waiting { .. }) && status.last.is_none();
        self.waiting += usize::from(never_ran);
    }

    fn add_regular(&mut self, status: &ContainerStatus) {
        match &status.state {
            ContainerState::Running { .. } => self.running += 1,
            ContainerState::Terminated(end) => {
                self.stopped += 1;
                self.succeeded += usize::from(end.exit_code == 0);
            }
            ContainerState::Waiting { .. } if status.last.is_some() => self.stopped += 1,
            ContainerState::Waiting { .. } => self.waiting += 1,
        }
    }
}

/// `getPhase`, with the rule of `mergePodStatus` that no terminal phase is shown while something runs.
#[must_use]
pub fn phase(facts: &Facts<'_>) -> PodPhase {
    let tally = Tally::of(facts.members);
    if facts.over {
        let succeeded = tally.failed_init == 0
            && tally.pending_init == 0
            && tally.waiting == 0
            && tally.stopped == tally.succeeded;
        return if succeeded { PodPhase::Succeeded } else { PodPhase::Failed };
    }
    let initializing = tally.failed_init > 0
        || tally.pending_init > 0
        || (tally.pending_sidecars > 0 && !facts.initialized);
    if initializing || tally.waiting > 0 {
        return PodPhase::Pending;
    }
    if tally.running > 0 || tally.stopped > 0 { PodPhase::Running } else { PodPhase::Pending }
}

/// What a condition says now, before it is known since when.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub status: bool,
    pub reason: Option<&'static str>,
    pub message: Option<String>,
}

impl Verdict {
    pub fn yes() -> Self {
        Self { status: true, reason: None, message: None }
    }

    pub fn no(reason: &'static str, message: String) -> Self {
        let message = (!message.is_empty()).then_some(message);
        Self { status: false, reason: Some(reason), message }
    }

    pub fn bare(status: bool) -> Self {
        Self { status, reason: None, message: None }
    }
}

/// Whether all init containers are done and all sidecars started. `ever` keeps it True once it was.
pub fn initialized(facts: &Facts<'_>, phase: PodPhase, ever: bool) -> Verdict {
    if phase == PodPhase::Succeeded {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    let incomplete = names(facts, |status| match status.kind {
        ContainerKind::Init => !status.ready,
        ContainerKind::Sidecar => status.started != Some(true),
        ContainerKind::Regular | ContainerKind::Ephemeral => false,
    });
    if ever || facts.initialized || incomplete.is_empty() {
        return Verdict::yes();
    }
    let message = format!("containers with incomplete status: {}", go_list(&incomplete));
    Verdict::no("ContainersNotInitialized", message)
}

/// Whether all sidecars and regular containers are ready.
pub fn containers_ready(facts: &Facts<'_>, phase: PodPhase) -> Verdict {
    match phase {
        PodPhase::Succeeded => return Verdict::no("PodCompleted", String::new()),
        PodPhase::Failed => return Verdict::no("PodFailed", String::new()),
        PodPhase::Pending | PodPhase::Running => {}
    }
    let unready = names(facts, |status| match status.kind {
        ContainerKind::Sidecar | ContainerKind::Regular => !status.ready,
        ContainerKind::Init | ContainerKind::Ephemeral => false,
    });
    if unready.is_empty() {
        return Verdict::yes();
    }
    let message = format!("containers with unready status: {}", go_list(&unready));
    Verdict::no("ContainersNotReady", message)
}

/// Containers and readiness gates together. Nobody can set a foreign condition yet, so a gate is never open.
pub fn ready(facts: &Facts<'_>, containers: &Verdict) -> Verdict {
    if !containers.status {
        let message = containers.message.clone();
        return Verdict { status: false, reason: containers.reason, message };
    }
    let closed: Vec<String> = facts
        .pod
        .readiness_gates
        .iter()
        .map(|gate| {
            format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")
        })
        .collect();
    if closed.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ReadinessGatesNotReady", closed.join(", "))
}

/// Writes a verdict into the list; `last_transition` moves only when the status does.
pub fn set(conditions: &mut Vec<Condition>, now: Timestamp, kind: ConditionKind, said: Verdict) {
    let Verdict { status, reason, message } = said;
    match conditions.iter_mut().find(|c| c.kind == kind) {
        Some(condition) => {
            if condition.status != status {
                condition.last_transition = now;
            }
            condition.status = status;
            condition.reason = reason;
            condition.message = message;
        }
        None => {
            conditions.push(Condition { kind, status, reason, message, last_transition: now });
        }
    }
}

fn names<'a>(facts: &Facts<'a>, is_listed: impl Fn(&ContainerStatus) -> bool) -> Vec<&'a str> {
    facts
        .members
        .iter()
        .map(|member| &member.status)
        .filter(|status| is_listed(status))
        .map(|status| status.name.as_str())
        .collect()
}

/// A list of strings as Go's `%s` prints it: `[a b]`.
fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

/// While the rule `RestartAllContainers` is being carried out.
pub fn restarting_all() -> Verdict {
    Verdict {
        status: true,
        reason: Some("RestartAllContainersStarted"),
        message: Some("container exited with restart policy rule".to_owned()),
    }
}
