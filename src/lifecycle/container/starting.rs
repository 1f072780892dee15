//! From a container's turn to the answer of its start.
//!
//! Owns: what follows from images found and not found, from starts that failed, and from back-offs that are over. An event
//! that does not fit the stage, or names another run, is stale: it changes nothing. That is why each function begins with
//! the stage it belongs to. Sources: `KUBELET.md` 5, 15.

use std::time::Duration;

use crate::lifecycle::restart::Cause;
use crate::lifecycle::status::Terminated;
use crate::lifecycle::{Action, Attempt, Timer, backoff, texts};

use super::running::Demand;
use super::{Compiling, Context, Course, Machine, Stage, Waiting};

/// How long `ErrImagePull` shows before it becomes `ImagePullBackOff`. In Kubernetes it is the time to the next sync.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// Exit code and reason of a run whose start failed after the container had been created (containerd's).
const START_ERROR: (i32, &str) = (128, "StartError");

impl Machine {
    pub fn pulling(&mut self, cx: &mut Context<'_>, attempt: Attempt) {
        let is_current = attempt == self.begun;
        if let Stage::Preparing { pulling, stale: false, .. } = &mut self.stage
            && is_current
            && !std::mem::replace(pulling, true)
        {
            cx.say(false, "Pulling", texts::pulling(cx.spec));
        }
    }

    pub fn prepared(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Attempt,
        image_id: String,
        present: bool,
    ) {
        let Stage::Preparing { since, stale, .. } = self.stage else { return };
        if attempt != self.begun {
            return;
        }
        if stale {
            self.stage = Stage::Idle;
            return;
        }
        if present {
            cx.say(false, "Pulled", texts::present(cx.spec));
        } else {
            self.pulling(cx, attempt);
            cx.say(false, "Pulled", texts::pulled(cx.spec, cx.now.since(since)));
        }
        (self.image, self.image_id) = (Some(cx.spec.image.clone()), image_id);
        self.pulls.succeeded();
        self.stage = Stage::Starting { give_up: None, compiling: None, stale: false };
        cx.actions.push(Action::Start { run: cx.run(attempt) });
    }

    /// The start waits for the compiler. On a small machine that is minutes, and looks like a hang unless it is said.
    pub fn compiling(&mut self, cx: &mut Context<'_>, attempt: Attempt, digest: String) {
        if let Stage::Starting { compiling, stale: false, .. } = &mut self.stage
            && attempt == self.begun
            && compiling.is_none()
        {
            cx.say(false, texts::COMPILING, texts::compiling(cx.spec, &digest));
            *compiling = Some(Compiling { since: cx.now, digest, held: false });
        }
    }

    /// What is missing may not be begun, or may again. Nothing else would tell why a pod stands still on a node that is short of memory.
    pub fn hold(&mut self, cx: &mut Context<'_>, attempt: Attempt, hold: bool) {
        if attempt != self.begun {
            return;
        }
        let (place, why) = if let Stage::Preparing { held, stale: false, .. } = &mut self.stage {
            (held, texts::fetch_held(cx.spec))
        } else if let Stage::Starting { compiling: Some(compiling), stale: false, .. } =
            &mut self.stage
        {
            (&mut compiling.held, texts::compile_held(cx.spec, &compiling.digest))
        } else {
            return;
        };
        if std::mem::replace(place, hold) != hold && hold {
            cx.say(true, texts::MEMORY_IS_TIGHT, why);
        }
    }

    pub fn compiled(&mut self, cx: &mut Context<'_>, attempt: Attempt, took: Option<Duration>) {
        if let Stage::Starting { compiling, stale: false, .. } = &mut self.stage
            && attempt == self.begun
            && let Some(Compiling { since, digest, .. }) = compiling.take()
        {
            let waited = cx.now.since(since);
            cx.say(false, "Compiled", texts::compiled(cx.spec, &digest, took, waited));
        }
    }

    pub fn prepare_failed(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Attempt,
        reason: &'static str,
        message: String,
    ) {
        let Stage::Preparing { stale, .. } = self.stage else { return };
        if attempt != self.begun {
            return;
        }
        if stale {
            self.stage = Stage::Idle;
            return;
        }
        let pulled = is_pull_error(reason);
        match reason {
            texts::ERR_IMAGE_NEVER_PULL => cx.say(true, reason, message.clone()),
            texts::INVALID_IMAGE_NAME => cx.say(true, "InspectFailed", message.clone()),
            _ if pulled => {
                self.pulling(cx, attempt);
                cx.say(true, texts::FAILED, texts::pull_failed(cx.spec, &message));
            }
            _ => cx.say(true, texts::FAILED, message.clone()),
        }
        cx.say(true, texts::FAILED, format!("Error: {reason}"));
        self.waiting = Some(Waiting { reason, message });
        self.settled = true;
        let until = cx.now.plus(if pulled { self.pulls.failed() } else { backoff::RESYNC });
        let first = if pulled { cx.now.plus(PULL_ERROR_SHOWN).min(until) } else { until };
        self.stage = Stage::ImageBackOff { until, announced: !pulled };
        cx.arm(Timer::Backoff(cx.run(attempt)), first);
    }

    /// A back-off is over, or has something to announce.
    pub fn backoff_over(&mut self, cx: &mut Context<'_>, attempt: Attempt) {
        match &mut self.stage {
            Stage::ImageBackOff { announced, until } if attempt == self.begun => {
                if *until <= cx.now {
                    self.stage = Stage::Idle;
                } else if !*announced {
                    *announced = true;
                    cx.arm(Timer::Backoff(cx.run(attempt)), *until);
                    self.announce_pull_back_off(cx);
                }
            }
            Stage::StartBackOff { until } if attempt == self.begun && *until <= cx.now => {
                self.stage = Stage::Idle;
            }
            Stage::CrashLoop { until, finished } if attempt == self.begun && *until <= cx.now => {
                self.crashes.restarted(*finished, cx.now);
                self.stage = Stage::Idle;
                if self.fresh {
                    // Held back by what was written down; now it may still have to wait for init containers.
                    self.waiting = None;
                }
            }
            Stage::Running(up) if up.attempt == attempt => self.forgive_if_due(cx),
            Stage::ImageBackOff { .. }
            | Stage::StartBackOff { .. }
            | Stage::CrashLoop { .. }
            | Stage::Running(_)
            | Stage::Idle
            | Stage::Preparing { .. }
            | Stage::Starting { .. }
            | Stage::PostStart(_)
            | Stage::Stopping(..)
            | Stage::Ended => {}
        }
    }

    fn announce_pull_back_off(&mut self, cx: &mut Context<'_>) {
        let text = texts::pull_back_off(cx.spec);
        if let Some(Waiting { reason, message }) = &mut self.waiting {
            *message = format!("{text}: {reason}: {message}");
            *reason = texts::IMAGE_PULL_BACK_OFF;
        }
        cx.say(false, texts::BACK_OFF, text);
        cx.say(true, texts::FAILED, format!("Error: {}", texts::IMAGE_PULL_BACK_OFF));
    }

    /// A run that has lived long enough: what is written down must not delay it after a power cut.
    fn forgive_if_due(&mut self, cx: &mut Context<'_>) {
        let due = self.crashes.forgiven_at().is_some_and(|at| at <= cx.now);
        if due && !self.waited.is_zero() {
            self.waited = Duration::ZERO;
            cx.actions.push(Action::Persist);
        }
    }

    pub fn start_failed(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Attempt,
        reason: &'static str,
        message: String,
    ) -> Demand {
        let Stage::Starting { stale, .. } = self.stage else { return Demand::Nothing };
        if attempt != self.begun {
            return Demand::Nothing;
        }
        if stale && cx.course == Course::Live {
            // Of no interest, whatever it was: the other image has its turn.
            self.stage = Stage::Idle;
            return Demand::Nothing;
        }
        self.settled = true;
        if matches!(cx.course, Course::Ending | Course::ShuttingDown | Course::RestartingAll) {
            self.stage = Stage::Ended;
            return Demand::Nothing;
        }
        cx.say(true, texts::FAILED, format!("Error: {message}"));
        self.waiting = Some(Waiting { reason, message: message.clone() });
        if reason == texts::RUN_CONTAINER_ERROR {
            // There was a container, and it is over: this counts as a run.
            let (exit_code, reason) = START_ERROR;
            let id = self.begin_run(cx);
            return self.over(
                cx,
                Terminated {
                    exit_code,
                    reason: reason.into(),
                    message: Some(message),
                    started_at: cx.now,
                    finished_at: cx.now,
                    container_id: Some(id),
                },
                Cause::Exit,
            );
        }
        // Kubernetes tries both again with each sync. A module that does not compile is costly to try, so that
        // delay grows here (documented difference).
        let grows = reason == texts::CREATE_CONTAINER_ERROR;
        let delay = if grows { self.creates.failed() } else { backoff::RESYNC };
        let until = cx.now.plus(delay);
        self.stage = Stage::StartBackOff { until };
        cx.arm(Timer::Backoff(cx.run(attempt)), until);
        Demand::Nothing
    }
}

/// Errors that Kubernetes answers with `ImagePullBackOff`; all others are tried again with each sync.
fn is_pull_error(reason: &str) -> bool {
    matches!(reason, texts::ERR_IMAGE_PULL | "RegistryUnavailable" | "SignatureValidationFailed")
}
