//! From the start of a run to its end, and what follows from that.
//!
//! Owns: the answers to `Started`, hooks, the end of a grace, and exits. As everywhere in this folder, an event that does not
//! fit the stage, or names another run, changes nothing. Sources: `KUBELET.md` 4, 9, 10.

use std::time::Duration;

use crate::lifecycle::restart::{self, Cause, Decision};
use crate::lifecycle::status::Terminated;
use crate::lifecycle::stop::{Step, Why};
use crate::lifecycle::{Action, Attempt, HookKind, Timer, texts};
use crate::spec::{ContainerKind, Exit, ProbeKind};

use super::probing::begin_probing;
use super::{Context, Course, Machine, Prober, Stage, Up, Waiting, container_id};

/// Kubernetes gives a postStart hook no time limit. A day is none either, and no clock overflows on it.
const POST_START_MAX: Duration = Duration::from_secs(24 * 3600);

/// What an event asks of the whole pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub enum Demand {
    #[default]
    Nothing,
    /// A restart rule says that all containers run again.
    RestartAll,
}

impl Machine {
    pub fn started(&mut self, cx: &mut Context<'_>, attempt: Attempt) {
        let Stage::Starting { stale, .. } = self.stage else { return };
        if attempt != self.begun {
            return;
        }
        // The first run of this daemon's life is written down: after a power cut the next one is a restart.
        if self.fresh && cx.course == Course::Live {
            cx.actions.push(Action::Persist);
        }
        self.begin_run(cx);
        cx.say(false, "Created", "Container created");
        cx.say(false, "Started", "Container started");
        self.creates.succeeded();
        let up = Up { attempt, since: cx.now, visible: false, started: false, probers: Vec::new() };
        if cx.spec.hooks.post_start.is_some() && cx.course == Course::Live {
            let run = cx.run(attempt);
            let within = POST_START_MAX;
            cx.actions.push(Action::RunHook { run, hook: HookKind::PostStart, within });
            self.stage = Stage::PostStart(up);
        } else {
            self.show(cx, up);
        }
        if self.is_unwanted(cx, stale) {
            self.stop(cx, Why::Redefined, cx.now.plus(cx.pod.grace));
        }
    }

    /// Whether a run that has come about is of an image that is to run no more. An init container does its work all the same.
    fn is_unwanted(&self, cx: &Context<'_>, stale: bool) -> bool {
        stale && cx.course == Course::Live && self.kind != ContainerKind::Init
    }

    /// Numbers a run; gives its id.
    pub(super) fn begin_run(&mut self, cx: &Context<'_>) -> String {
        let id = container_id(cx.pod, &self.name, self.begun);
        self.container_id = Some(id.clone());
        self.begun = self.begun.saturating_add(1);
        (self.fresh, self.finished, self.interrupted) = (false, false, false);
        id
    }

    /// The run becomes visible as Running, and is probed from now on.
    fn show(&mut self, cx: &mut Context<'_>, mut up: Up) {
        self.waiting = None;
        self.settled = true;
        up.visible = true;
        up.probers = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness]
            .into_iter()
            .filter(|kind| cx.spec.probe(*kind).is_some())
            .map(|kind| Prober::new(kind, cx.pod_start))
            .collect();
        if let Some(at) = self.crashes.forgiven_at()
            && !self.waited.is_zero()
        {
            cx.arm(Timer::Backoff(cx.run(up.attempt)), at.max(cx.now));
        }
        let has_startup = cx.spec.startup.is_some();
        if has_startup {
            begin_probing(cx, &mut up, |kind| kind == ProbeKind::Startup);
        }
        self.stage = Stage::Running(up);
        if !has_startup {
            self.is_started(cx);
        }
    }

    /// The run counts as started: the gate of a sidecar opens, liveness and readiness are asked from now on.
    pub(super) fn is_started(&mut self, cx: &mut Context<'_>) {
        let (Stage::Running(up) | Stage::Stopping(up, _)) = &mut self.stage else { return };
        up.started = true;
        self.passed = true;
        begin_probing(cx, up, |kind| kind != ProbeKind::Startup);
    }

    pub fn hook_done(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Attempt,
        hook: HookKind,
        result: &Result<(), String>,
    ) {
        match (&mut self.stage, hook) {
            (Stage::PostStart(up), HookKind::PostStart) if up.attempt == attempt => {
                if result.is_ok() {
                    let up = up.clone();
                    self.show(cx, up);
                    return;
                }
                // The hook's own words may hold secrets; Kubernetes keeps them out of events, too.
                cx.say(true, "FailedPostStartHook", "PostStartHook failed");
                let message = "PostStartHook failed".to_owned();
                self.waiting = Some(Waiting { reason: texts::POST_START_HOOK_ERROR, message });
                self.settled = true;
                self.stop(cx, Why::PostStart, cx.now.plus(cx.pod.grace));
            }
            (Stage::Stopping(up, stopping), HookKind::PreStop)
                if up.attempt == attempt && stopping.step == Step::PreStop =>
            {
                stopping.step = Step::Turn { armed: false };
                if result.is_err() {
                    cx.say(true, "FailedPreStopHook", "PreStopHook failed");
                }
            }
            (
                Stage::Idle
                | Stage::Preparing { .. }
                | Stage::ImageBackOff { .. }
                | Stage::Starting { .. }
                | Stage::StartBackOff { .. }
                | Stage::PostStart(_)
                | Stage::Running(_)
                | Stage::Stopping(..)
                | Stage::CrashLoop { .. }
                | Stage::Ended,
                HookKind::PostStart | HookKind::PreStop,
            ) => {}
        }
    }

    /// The grace of a step of the stop is over, or that of a start given up.
    pub fn grace_over(&mut self, cx: &mut Context<'_>, attempt: Attempt) {
        match &mut self.stage {
            Stage::Stopping(up, stopping) if up.attempt == attempt => match stopping.step {
                Step::PreStop if stopping.is_out_of_grace(cx.now) => {
                    stopping.step = Step::Turn { armed: true };
                }
                Step::Asked { kill_at } if kill_at <= cx.now => {
                    stopping.step = Step::Killed;
                    cx.actions.push(Action::Kill { run: cx.run(attempt) });
                }
                // The pod gives turns after each event; a wait that has lasted the whole grace ends there.
                Step::Turn { .. } | Step::PreStop | Step::Asked { .. } | Step::Killed => {}
            },
            Stage::Starting { give_up: Some(at), .. } if attempt == self.begun && *at <= cx.now => {
                cx.actions.push(Action::Kill { run: cx.run(attempt) });
            }
            Stage::Idle
            | Stage::Preparing { .. }
            | Stage::ImageBackOff { .. }
            | Stage::Starting { .. }
            | Stage::StartBackOff { .. }
            | Stage::PostStart(_)
            | Stage::Running(_)
            | Stage::Stopping(..)
            | Stage::CrashLoop { .. }
            | Stage::Ended => {}
        }
    }

    pub fn exited(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Attempt,
        exit: &Exit,
        message: String,
    ) -> Demand {
        let (since, cause) = match &self.stage {
            // It ended before its start was reported: both are now known.
            Stage::Starting { stale, .. } if attempt == self.begun => {
                let redefined = self.is_unwanted(cx, *stale);
                self.begin_run(cx);
                (cx.now, if redefined { Cause::Redefined } else { Cause::Exit })
            }
            Stage::PostStart(up) | Stage::Running(up) if up.attempt == attempt => {
                (up.since, Cause::Exit)
            }
            Stage::Stopping(up, stopping) if up.attempt == attempt => match stopping.why {
                Why::Probe(_) => (up.since, Cause::Probe),
                Why::Redefined => (up.since, Cause::Redefined),
                Why::Pod | Why::PostStart => (up.since, Cause::Exit),
            },
            Stage::Idle
            | Stage::Preparing { .. }
            | Stage::ImageBackOff { .. }
            | Stage::Starting { .. }
            | Stage::StartBackOff { .. }
            | Stage::PostStart(_)
            | Stage::Running(_)
            | Stage::Stopping(..)
            | Stage::CrashLoop { .. }
            | Stage::Ended => return Demand::Nothing,
        };
        let mut end = Terminated::of(exit, message, since, cx.now, self.container_id.clone());
        if cx.course == Course::RestartingAll {
            (end.exit_code, end.reason) = (137, texts::RESTARTING_ALL.into());
            end.message = Some(texts::RESTARTING_ALL_MESSAGE.to_owned());
        }
        self.over(cx, end, cause)
    }

    /// A run is over: what comes next.
    pub(super) fn over(&mut self, cx: &mut Context<'_>, end: Terminated, cause: Cause) -> Demand {
        let (code, finished) = (end.exit_code, end.finished_at);
        self.last = self.exit.take();
        self.exit = Some(end);
        self.settled = true;
        self.cause = cause;
        match cx.course {
            Course::Live => {}
            Course::ShuttingDown => {
                self.interrupted = true;
                self.stage = Stage::Ended;
                return Demand::Nothing;
            }
            Course::Ending | Course::RestartingAll => {
                self.finished = true;
                self.stage = Stage::Ended;
                return Demand::Nothing;
            }
        }
        cx.actions.push(Action::Persist);
        // Another image runs whatever the policy says, also if the daemon ends before it does.
        self.finished = cause != Cause::Redefined;
        if cause == Cause::Redefined {
            self.stage = Stage::Idle;
            return Demand::Nothing;
        }
        match restart::decide(cx.pod.restart_policy, cx.spec, code, cause) {
            Decision::Stay => self.stage = Stage::Ended,
            Decision::Restart => self.hold_back(cx, finished),
            Decision::RestartAll => {
                self.stage = Stage::Ended;
                return Demand::RestartAll;
            }
        }
        Demand::Nothing
    }
}
