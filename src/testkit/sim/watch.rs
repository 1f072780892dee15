//! The invariants that hold in every history, checked at every step of every simulation.
//!
//! Owns: what must never happen, independent of how the core decides. It sees only what a worker sees: events in, actions
//! out, and the status.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lifecycle::{
    Action, Attempt, Condition, Event, HookKind, PodPhase, PodState, PodStatus, RunId,
};
use crate::spec::{ContainerKind, ContainerName, ImageRef, Pod, ProbeKind, Redefinition};

/// The shortest time between asking and killing.
const FLOOR: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Watch {
    kinds: BTreeMap<ContainerName, ContainerKind>,
    /// Sidecars in manifest order.
    sidecars: Vec<ContainerName>,
    grace: Duration,
    /// Timers fire on time, so deadlines can be checked to the instant.
    punctual: bool,
    /// Runs asked to start whose end is not known.
    open: BTreeMap<RunId, Open>,
    newest: BTreeMap<ContainerName, Attempt>,
    /// The image that each container is to run, and the one that was asked for last.
    images: BTreeMap<ContainerName, ImageRef>,
    prepared: BTreeMap<ContainerName, ImageRef>,
    stopped: bool,
    /// When the pod's grace is over, and when its end began.
    bound: Option<(Duration, Duration)>,
    setting_up: bool,
    torn_down: bool,
    last: Option<PodStatus>,
}

#[derive(Debug, Default)]
struct Open {
    started: Option<Duration>,
    asked: Option<Duration>,
    killed: bool,
    /// Its own stop began before the pod's: it has a deadline of its own.
    was_stopping: bool,
    /// Since when it is up with an image that its container is not to run any more.
    unwanted: Option<Duration>,
}

impl Watch {
    pub(super) fn new(pod: &Pod, punctual: bool) -> Self {
        Self {
            kinds: pod.all_containers().map(|c| (c.name.clone(), c.kind)).collect(),
            sidecars: pod
                .all_containers()
                .filter(|c| c.kind == ContainerKind::Sidecar)
                .map(|c| c.name.clone())
                .collect(),
            grace: pod.grace,
            punctual,
            open: BTreeMap::new(),
            newest: BTreeMap::new(),
            images: pod.redefinition().images.into_iter().collect(),
            prepared: BTreeMap::new(),
            stopped: false,
            bound: None,
            setting_up: false,
            torn_down: false,
            last: None,
        }
    }

    /// An event is about to be handed to the core.
    pub(super) fn saw(&mut self, now: Duration, event: &Event) {
        match event {
            Event::Started { run } => {
                self.newest.insert(run.container.clone(), run.attempt);
                let is_old = self.prepared.get(&run.container) != self.images.get(&run.container);
                // The end of the pod has a grace of its own.
                let runs_on = self.kinds.get(&run.container) == Some(&ContainerKind::Init)
                    || self.bound.is_some();
                if let Some(open) = self.open.get_mut(run) {
                    open.started = Some(now);
                    open.unwanted = (is_old && !runs_on).then_some(now);
                }
            }
            Event::Exited { run, .. } => {
                self.newest.insert(run.container.clone(), run.attempt);
                self.open.remove(run);
            }
            Event::StartFailed { run, .. } => {
                self.open.remove(run);
            }
            Event::SandboxReady { .. } | Event::SandboxFailed { .. } => self.setting_up = false,
            Event::Redefined { to } => self.redefined(now, to),
            Event::Stop { grace, .. } => {
                self.stopped = true;
                self.shrink(now, grace.unwrap_or(self.grace));
            }
            Event::Pulling { .. }
            | Event::Compiling { .. }
            | Event::Compiled { .. }
            | Event::Held { .. }
            | Event::Prepared { .. }
            | Event::PrepareFailed { .. }
            | Event::ProbeDone { .. }
            | Event::HookDone { .. }
            | Event::TimerFired { .. }
            | Event::SandboxGone => {}
        }
    }

    /// The core has answered.
    pub(super) fn acted(&mut self, now: Duration, actions: &[Action], state: &PodState) {
        for action in actions {
            self.check_action(now, action);
        }
        self.check_kills(now);
        let status = state.status();
        self.check_status(&status);
        self.last = Some(status);
    }

    /// The pod was told to stop, or has begun to end by itself.
    pub(super) fn is_ending(&self) -> bool {
        self.bound.is_some()
    }

    fn shrink(&mut self, now: Duration, grace: Duration) {
        let (bound, began) = self.bound.unwrap_or((Duration::MAX, now));
        self.bound = Some((bound.min(now.saturating_add(grace)), began));
    }

    fn check_action(&mut self, now: Duration, action: &Action) {
        match action {
            Action::SetUpSandbox => {
                assert!(!self.stopped, "no return: a sandbox is set up after a stop");
                assert!(!self.setting_up && !self.torn_down, "two sandboxes at once");
                self.setting_up = true;
            }
            Action::Prepare { run } => {
                assert!(!self.stopped, "no return: {run:?} is prepared after a stop");
                let image = self.images.get(&run.container).expect("only its own are prepared");
                self.prepared.insert(run.container.clone(), image.clone());
            }
            Action::AbandonPrepare { run } => {
                let (asked, now) =
                    (self.prepared.get(&run.container), self.images.get(&run.container));
                assert!(asked.is_some() && asked != now, "{run:?} is abandoned for nothing");
            }
            Action::Start { run } => self.check_start(run),
            Action::Probe { run, kind } => {
                let open = self.open.get(run).expect("only a run that lives is probed");
                assert!(open.started.is_some(), "{run:?} is probed before it has started");
                let ending = self.bound.is_some();
                assert!(
                    !ending || *kind == ProbeKind::Readiness,
                    "{kind:?} asked of an ending pod"
                );
            }
            Action::RunHook { run, hook, .. } => {
                let open = self.open.get_mut(run).expect("only a run that lives has hooks");
                open.was_stopping |= *hook == HookKind::PreStop && self.bound.is_none();
                assert!(!self.stopped || *hook == HookKind::PreStop, "a start hook after a stop");
            }
            Action::AskToStop { run } => self.check_ask(now, run),
            Action::Kill { run } => {
                let open = self.open.get_mut(run).expect("only a run that lives is killed");
                let asked = open.asked.expect("asked before killed");
                assert!(now >= asked + FLOOR, "{run:?} has less than two seconds");
                open.killed = true;
            }
            Action::TearDownSandbox => {
                assert!(self.stopped, "a sandbox is torn down without a stop");
                assert!(self.open.is_empty(), "down in reverse: {:?} still live", self.open);
                assert!(!self.setting_up && !self.torn_down, "torn down twice, or half-made");
                self.torn_down = true;
            }
            Action::Record(event) => {
                // The pod begins to end by itself: its deadline, or its work is done.
                if event.reason == "DeadlineExceeded"
                    || event.message.starts_with("Stopping container")
                {
                    let began = self.bound.is_some();
                    if !began {
                        self.shrink(now, self.grace);
                    }
                }
            }
            Action::ArmTimer { .. } | Action::Persist => {}
        }
    }

    fn check_start(&mut self, run: &RunId) {
        assert!(!self.stopped, "no return: {run:?} is started after a stop");
        let other = self.open.keys().find(|open| open.container == run.container);
        assert_eq!(other, None, "one life: {run:?} is started beside another run");
        if let Some(newest) = self.newest.get(&run.container) {
            assert!(run.attempt > *newest, "{run:?} does not come after run {newest}");
        }
        let (found, wanted) = (self.prepared.get(&run.container), self.images.get(&run.container));
        assert_eq!(found, wanted, "{run:?} is started with an image of an earlier definition");
        self.open.insert(run.clone(), Open::default());
    }

    /// What is up with another image than it is to run has its grace, unless it is being stopped already.
    fn redefined(&mut self, now: Duration, to: &Redefinition) {
        for (name, image) in &to.images {
            let changes = self.images.insert(name.clone(), image.clone()).as_ref() != Some(image);
            let is_init = self.kinds.get(name) == Some(&ContainerKind::Init);
            if !changes || is_init || self.bound.is_some() {
                continue;
            }
            for (run, open) in &mut self.open {
                let stopping = open.asked.is_some() || open.was_stopping;
                if run.container == *name && open.started.is_some() && !stopping {
                    open.unwanted.get_or_insert(now);
                }
            }
        }
    }

    fn check_ask(&mut self, now: Duration, run: &RunId) {
        let open = self.open.get_mut(run).expect("only a run that lives is asked to stop");
        let waits = open.started.is_some() && open.asked.is_none() && !open.was_stopping;
        open.asked = Some(now);
        let out_of_grace = self.bound.is_none_or(|(bound, _)| now >= bound);
        let is_sidecar = self.kinds.get(&run.container) == Some(&ContainerKind::Sidecar);
        if !is_sidecar || !waits || out_of_grace {
            return;
        }
        let place = self.sidecars.iter().position(|name| *name == run.container);
        for other in self.open.keys() {
            let goes_first = match self.kinds.get(&other.container) {
                Some(ContainerKind::Regular) => true,
                Some(ContainerKind::Sidecar) => {
                    self.sidecars.iter().position(|name| *name == other.container) > place
                }
                _ => false,
            };
            assert!(!goes_first, "sidecar {run:?} is asked to stop before {other:?} is gone");
        }
    }

    /// Grace only shrinks: nobody lives longer than the shortest grace given, and the floor.
    fn check_kills(&self, now: Duration) {
        for (run, open) in self.open.iter().filter(|_| self.punctual) {
            let last = open.unwanted.map(|since| since.saturating_add(self.grace + FLOOR));
            let in_time = last.is_none_or(|last| now <= last);
            assert!(in_time || open.killed, "{run:?} runs an earlier image past {last:?}");
        }
        let Some((bound, began)) = self.bound else { return };
        if !self.punctual {
            return;
        }
        for (run, open) in &self.open {
            let since = open.started.unwrap_or(now).max(began);
            let last = bound.max(since).saturating_add(FLOOR);
            assert!(now <= last || open.killed, "{run:?} lives past {last:?}");
        }
    }

    fn check_status(&self, status: &PodStatus) {
        for container in status.all_containers() {
            assert!(
                container.kind == ContainerKind::Init
                    || !container.ready
                    || container.state.is_running(),
                "ready without running: {container:?}"
            );
        }
        if status.phase.is_terminal() {
            let running = status.all_containers().find(|c| c.state.is_running());
            assert_eq!(running, None, "a terminal phase is shown while a container runs");
        }
        let Some(last) = &self.last else { return };
        if last.phase.is_terminal() {
            assert_eq!(last.phase, status.phase, "a terminal phase sticks");
            assert_eq!(last.reason, status.reason, "and so does its reason");
        }
        for (before, after) in last.all_containers().zip(status.all_containers()) {
            assert!(after.restart_count >= before.restart_count, "a restart count falls");
        }
        for (before, after) in last.conditions.iter().zip(&status.conditions) {
            check_transition(before, after);
        }
        check_phase(last, status);
    }
}

fn check_transition(before: &Condition, after: &Condition) {
    assert_eq!(before.kind, after.kind, "conditions keep their order");
    if before.status == after.status {
        assert_eq!(before.last_transition, after.last_transition, "{:?} moved", after.kind);
    } else {
        assert!(before.last_transition <= after.last_transition);
    }
    let initialized = before.kind == crate::lifecycle::ConditionKind::Initialized;
    assert!(!(initialized && before.status) || after.status, "Initialized is undone");
}

/// A pod without init containers that has been Running is never Pending again: its containers back off.
fn check_phase(before: &PodStatus, after: &PodStatus) {
    let fell = before.phase == PodPhase::Running && after.phase == PodPhase::Pending;
    assert!(!fell || !after.init_containers.is_empty(), "Running fell back to Pending: {after:?}");
}
