//! One container's life: from its turn to its last exit.
//!
//! Owns: preparing, starting, running, probing, stopping and backing off of one container, and its status. Not: whose
//! turn it is and when the pod ends (`pod` decides and tells), nor doing anything (`pod::worker`).
//!
//! ```text
//!             begin        Prepared         Started          hook done
//!   Idle ───────► Preparing ─────► Starting ──────► PostStart ──────► Running ──────► Stopping
//!    ▲              │  ▲             │  ▲              │                │ exited        │ exited
//!    │ due          ▼  │ due         ▼  │ due          ▼                ▼               ▼
//!    │           ImageBackOff     StartBackOff         └──► restart? ─── yes ──► CrashLoop (or Idle)
//!    └──────────────────────────────────────────────────────   │ no            │ due
//!                                                              ▼               ▼
//!                                                            Ended           Idle
//! ```
//! Another image begins the circle anew from wherever the container is (`redefining`). Every event names its run; one that names another run than the stage expects is stale and changes nothing.

mod probing;
mod redefining;
mod running;
mod starting;
mod view;

pub use running::Demand;
pub use view::mark_lost;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::spec::{Container, ContainerKind, ContainerName, ImageRef, Pod};

use super::backoff::{self, CrashBackoff, Retry};
use super::probe::Prober;
use super::restart::{self, Cause, Decision};
use super::status::Terminated;
use super::stop::{FLOOR, Step, Stopping, Why};
use super::{
    Action, Attempt, HookKind, PodEvent, RestoredContainer, RestoredExit, RunId, Timer, texts,
};

/// More runs than a record can truthfully hold: at one each five minutes, ten thousand years. A damaged record must not
/// make numbers overflow; on the wire they are 32 bits with a sign.
const ATTEMPTS_BELIEVED: Attempt = 1 << 30;
/// Between the end of all containers and their next round. Kubernetes has none, and spins.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// What the pod is up to; decides what an exit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Containers are started and restarted.
    Live,
    /// All containers are being stopped, to run again together.
    RestartingAll,
    /// Nothing is started any more.
    Ending,
    /// The same, and because the daemon ends: an exit says nothing about the module.
    ShuttingDown,
}

/// What a container may know about the world while it handles an event.
#[derive(Debug)]
pub struct Context<'a> {
    pub pod: &'a Pod,
    pub spec: &'a Container,
    pub now: Timestamp,
    /// When the pod was taken on: the origin of all probe ticks.
    pub pod_start: Timestamp,
    pub course: Course,
    pub actions: &'a mut Vec<Action>,
}

impl Context<'_> {
    fn record(&mut self, event: PodEvent) {
        self.actions.push(Action::Record(event));
    }

    fn say(&mut self, warning: bool, reason: &'static str, message: impl Into<String>) {
        let event = texts::about(&self.spec.name, warning, reason, message);
        self.record(event);
    }

    fn arm(&mut self, timer: Timer, at: Timestamp) {
        self.actions.push(Action::ArmTimer { timer, at });
    }

    fn run(&self, attempt: Attempt) -> RunId {
        RunId { container: self.spec.name.clone(), attempt }
    }
}

/// The state of one container.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    name: ContainerName,
    kind: ContainerKind,
    stage: Stage,
    /// Runs begun so far, in all lives of the daemon; also the number of the next one.
    begun: Attempt,
    /// What `restartCount` may not fall below.
    restarts_min: Attempt,
    crashes: CrashBackoff,
    /// What the last restart waited for, or waits for now.
    waited: Duration,
    pulls: Retry,
    creates: Retry,
    /// The last reason for not running; stands until a start succeeds.
    waiting: Option<Waiting>,
    /// How the newest finished run ended, and the one before.
    exit: Option<Terminated>,
    last: Option<Terminated>,
    /// The newest run is over, and its end counts.
    finished: bool,
    /// Why it is over.
    cause: Cause,
    /// The newest run was ended by the end of the daemon: its end does not count.
    interrupted: bool,
    /// No run has begun since this daemon took the pod on.
    fresh: bool,
    /// Has been `started` in this round: later init containers need not wait for it any more.
    passed: bool,
    /// The first try of this round has had an outcome: the next container may begin.
    settled: bool,
    /// The image that was found last, and its digest.
    image: Option<ImageRef>,
    image_id: String,
    container_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    reason: &'static str,
    message: String,
}

/// Where a container is. A run exists in `PostStart`, `Running` and `Stopping`, and may exist in `Starting`.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    /// It is not its turn, or its turn is now.
    Idle,
    /// `pulling`: that it is being fetched was said. `held`: that may not be begun, for lack of memory. `stale`: it is an image that is no
    /// longer wanted.
    Preparing {
        since: Timestamp,
        pulling: bool,
        held: bool,
        stale: bool,
    },
    /// `announced`: shows `ImagePullBackOff`, no longer the error itself.
    ImageBackOff {
        until: Timestamp,
        announced: bool,
    },
    /// `give_up`: the pod ends; when the start will be cut short. `compiling`: the module is not ready for this machine yet. `stale`: it is
    /// of an image that is no longer wanted.
    Starting {
        give_up: Option<Timestamp>,
        compiling: Option<Compiling>,
        stale: bool,
    },
    StartBackOff {
        until: Timestamp,
    },
    PostStart(Up),
    Running(Up),
    Stopping(Up, Stopping),
    CrashLoop {
        until: Timestamp,
        finished: Timestamp,
    },
    /// Over for good, or until all containers run again.
    Ended,
}

/// A module that is being compiled, or waits for it.
#[derive(Clone, Debug, PartialEq)]
struct Compiling {
    since: Timestamp,
    digest: String,
    /// It may not be begun, for lack of memory.
    held: bool,
}

/// A run that is under way.
#[derive(Clone, Debug, PartialEq)]
struct Up {
    attempt: Attempt,
    since: Timestamp,
    /// Shown as Running: postStart is done.
    visible: bool,
    /// The startup probe has succeeded, or there is none.
    started: bool,
    probers: Vec<Prober>,
}

// What the pod asks and tells.
impl Machine {
    /// A container that has never run.
    #[must_use]
    pub fn new(spec: &Container) -> Self {
        Self {
            name: spec.name.clone(),
            kind: spec.kind,
            stage: Stage::Idle,
            begun: 0,
            restarts_min: 0,
            crashes: CrashBackoff::default(),
            waited: Duration::ZERO,
            pulls: Retry::new(backoff::INITIAL, backoff::MAX),
            creates: Retry::new(backoff::INITIAL, backoff::MAX),
            waiting: None,
            exit: None,
            last: None,
            finished: false,
            cause: Cause::Exit,
            interrupted: false,
            fresh: true,
            passed: false,
            settled: false,
            image: None,
            image_id: String::new(),
            container_id: None,
        }
    }

    /// Takes over what was written down before the daemon restarted. All modules died with it, so init containers run
    /// again; a finished run of a regular container counts if its policy does not want another.
    pub fn restore(&mut self, cx: &mut Context<'_>, record: &RestoredContainer) {
        self.begun = record.next_attempt.min(ATTEMPTS_BELIEVED);
        if let Some(last) = &record.last {
            let newest = self.begun.checked_sub(1).filter(|_| record.finished);
            let id = newest.map(|attempt| container_id(cx.pod, &self.name, attempt));
            self.exit = Some(restored_exit(last, id.clone()));
            self.container_id = id;
            self.finished = record.finished;
            self.cause = if record.by_probe { Cause::Probe } else { Cause::Exit };
            // A pod that has ended runs nothing; a run that was cut short runs again at once.
            if record.finished && cx.course == Course::Live {
                let about = record.image.as_deref();
                let same = about.is_none_or(|image| image == cx.spec.image.text());
                let owed = if same { record.backoff } else { Duration::ZERO };
                self.crashes = CrashBackoff::restored(owed, cx.now);
                self.waited = owed.min(backoff::MAX);
                self.resume(cx, last.exit_code);
            }
        }
        // The coming run counts already: the last life may have shown it, since a start alone is not written down.
        let runs_again = !self.is_ended() && cx.course == Course::Live;
        self.restarts_min = if runs_again { self.begun } else { self.begun.saturating_sub(1) };
    }

    /// Where a container stands whose last run, in another life of the daemon, ended with that code.
    fn resume(&mut self, cx: &mut Context<'_>, exit_code: i32) {
        match restart::decide(cx.pod.restart_policy, cx.spec, exit_code, self.cause) {
            Decision::Stay if self.kind == ContainerKind::Init && exit_code == 0 => {}
            Decision::Stay => self.stage = Stage::Ended,
            Decision::Restart | Decision::RestartAll if !self.waited.is_zero() => {
                self.hold_back(cx, cx.now);
            }
            Decision::Restart | Decision::RestartAll => {}
        }
    }

    #[must_use]
    pub fn kind(&self) -> ContainerKind {
        self.kind
    }

    #[must_use]
    pub fn name(&self) -> &ContainerName {
        &self.name
    }

    /// Whether a run exists or may come into being by a start already asked for.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self.stage {
            Stage::Starting { .. } => true,
            Stage::Idle
            | Stage::Preparing { .. }
            | Stage::ImageBackOff { .. }
            | Stage::StartBackOff { .. }
            | Stage::CrashLoop { .. }
            | Stage::Ended => false,
            Stage::PostStart(_) | Stage::Running(_) | Stage::Stopping(..) => true,
        }
    }

    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// An init container that has done its work.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_ended() && self.exit.as_ref().is_some_and(|end| end.exit_code == 0)
    }

    /// The next container in the list may begin.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled || self.is_ended()
    }

    /// A sidecar for which later init containers wait no longer.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.passed
    }

    /// A run has begun since this daemon took the pod on.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.fresh
    }

    /// It is its turn: look for its image. Does nothing unless it waits for exactly that.
    pub fn begin(&mut self, cx: &mut Context<'_>) {
        if self.stage == Stage::Idle {
            self.stage =
                Stage::Preparing { since: cx.now, pulling: false, held: false, stale: false };
            cx.actions.push(Action::Prepare { run: cx.run(self.begun) });
        }
    }

    /// The pod ends, or all containers will run again: whatever has no run is over, a start is given up, a run is
    /// stopped by `deadline`. May be said again and again; only a sooner deadline changes anything.
    pub fn end(&mut self, cx: &mut Context<'_>, deadline: Timestamp) {
        match &mut self.stage {
            Stage::Idle
            | Stage::Preparing { .. }
            | Stage::ImageBackOff { .. }
            | Stage::StartBackOff { .. }
            | Stage::CrashLoop { .. } => self.stage = Stage::Ended,
            Stage::Starting { give_up, .. } => {
                let at = deadline.max(cx.now.plus(FLOOR));
                if give_up.is_none() {
                    cx.actions.push(Action::AskToStop { run: cx.run(self.begun) });
                }
                if give_up.is_none_or(|before| at < before) {
                    *give_up = Some(at);
                    cx.arm(Timer::Grace(cx.run(self.begun)), at);
                }
            }
            Stage::PostStart(_) | Stage::Running(_) => self.stop(cx, Why::Pod, deadline),
            Stage::Stopping(up, stopping) => {
                if let Some(at) = stopping.shrink(deadline, cx.now) {
                    cx.arm(Timer::Grace(cx.run(up.attempt)), at);
                }
            }
            Stage::Ended => {}
        }
    }

    /// Moves a stop on that waits for its turn. `has_turn`: nobody must be gone before it.
    pub fn take_turn(&mut self, cx: &mut Context<'_>, has_turn: bool) {
        let Stage::Stopping(up, stopping) = &mut self.stage else { return };
        let Step::Turn { armed } = stopping.step else { return };
        let run = cx.run(up.attempt);
        if has_turn || stopping.is_out_of_grace(cx.now) {
            let kill_at = stopping.ask(cx.now);
            cx.actions.push(Action::AskToStop { run: run.clone() });
            cx.arm(Timer::Grace(run), kill_at);
        } else if !armed {
            stopping.step = Step::Turn { armed: true };
            cx.arm(Timer::Grace(run), stopping.deadline());
        }
    }

    /// All containers run again: this one waits a moment, then starts from nothing.
    pub fn next_round(&mut self, cx: &mut Context<'_>) {
        let until = cx.now.plus(ROUND_PAUSE);
        self.stage = Stage::StartBackOff { until };
        // Whatever was over is to run again, also if the daemon ends before it has.
        (self.passed, self.settled, self.finished) = (false, false, false);
        let message = texts::RESTARTING_ALL_MESSAGE.to_owned();
        self.waiting = Some(Waiting { reason: texts::RESTARTING_ALL, message });
        cx.arm(Timer::Backoff(cx.run(self.begun)), until);
    }

    /// The facts about it that survive the daemon. `ended`: the pod is over, so a coming run that was counted already
    /// stays counted.
    #[must_use]
    pub fn restored(&self, spec: &Container, ended: bool) -> RestoredContainer {
        let end = if self.interrupted { &self.last } else { &self.exit };
        let counted = if ended && self.restarts_min > 0 { self.restarts_min + 1 } else { 0 };
        RestoredContainer {
            name: self.name.clone(),
            next_attempt: self.begun.max(counted),
            backoff: self.waited,
            image: (!self.waited.is_zero()).then(|| spec.image.text().to_owned()),
            finished: self.finished,
            by_probe: self.finished && self.cause == Cause::Probe,
            last: end.as_ref().map(|end| RestoredExit {
                exit_code: end.exit_code,
                reason: end.reason.clone().into_owned(),
                message: end.message.clone().unwrap_or_default(),
                started_ms: end.started_at.wall_ms(),
                finished_ms: end.finished_at.wall_ms(),
            }),
        }
    }
}

// What both the pod's orders and events lead to.
impl Machine {
    /// A restart is wanted after an exit at `finished`: now, or when the back-off is over.
    fn hold_back(&mut self, cx: &mut Context<'_>, finished: Timestamp) {
        let delay = self.crashes.delay(finished);
        let until = finished.plus(delay);
        if until <= cx.now {
            self.waited = delay;
            self.crashes.restarted(finished, cx.now);
            self.stage = Stage::Idle;
            return;
        }
        self.waited = delay;
        self.settled = true;
        self.stage = Stage::CrashLoop { until, finished };
        let message = texts::crash_loop(cx.pod, &self.name, delay);
        self.waiting = Some(Waiting { reason: texts::CRASH_LOOP_BACK_OFF, message });
        cx.say(true, texts::BACK_OFF, texts::crash_loop_event(cx.pod, &self.name));
        cx.arm(Timer::Backoff(cx.run(self.begun)), until);
    }

    /// Begins to stop the run, if one is up and not stopping yet.
    fn stop(&mut self, cx: &mut Context<'_>, why: Why, deadline: Timestamp) {
        let up = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::PostStart(up) | Stage::Running(up) => up,
            other @ (Stage::Idle
            | Stage::Preparing { .. }
            | Stage::ImageBackOff { .. }
            | Stage::Starting { .. }
            | Stage::StartBackOff { .. }
            | Stage::Stopping(..)
            | Stage::CrashLoop { .. }
            | Stage::Ended) => {
                self.stage = other;
                return;
            }
        };
        cx.say(false, texts::KILLING, self.killing(cx, why));
        let within = deadline.since(cx.now);
        let hook = cx.spec.hooks.pre_stop.is_some() && !within.is_zero();
        if hook {
            let run = cx.run(up.attempt);
            cx.arm(Timer::Grace(run.clone()), deadline);
            cx.actions.push(Action::RunHook { run, hook: HookKind::PreStop, within });
        }
        self.stage = Stage::Stopping(up, Stopping::new(why, hook, deadline));
    }

    fn killing(&self, cx: &Context<'_>, why: Why) -> String {
        match why {
            Why::Pod if cx.course == Course::RestartingAll => "killing".to_owned(),
            Why::Pod => format!("Stopping container {}", self.name),
            Why::PostStart => "FailedPostStartHook".to_owned(),
            Why::Redefined => texts::killing_for_definition(cx.spec),
            Why::Probe(kind) => {
                let policy = cx.pod.restart_policy;
                let again = restart::decide(policy, cx.spec, 0, Cause::Probe) == Decision::Restart;
                texts::killing_for_probe(cx.spec, kind.word(), again)
            }
        }
    }
}

/// `containerID` of one run.
fn container_id(pod: &Pod, name: &ContainerName, attempt: Attempt) -> String {
    format!("podling://{}/{name}/{attempt}", pod.uid)
}

fn restored_exit(exit: &RestoredExit, container_id: Option<String>) -> Terminated {
    let at = |wall_ms| Timestamp::new(Duration::ZERO, wall_ms);
    Terminated {
        exit_code: exit.exit_code,
        reason: exit.reason.clone().into(),
        message: (!exit.message.is_empty()).then(|| exit.message.clone()),
        started_at: at(exit.started_ms),
        finished_at: at(exit.finished_ms),
        container_id,
    }
}
