//! Another image, wherever the container is.
//!
//! Owns: what becomes of a pull, a start, a run and a back-off of the image before. Not: which change is allowed (`manifest::update`), nor
//! the start of what comes next, which is as any other.
//!
//! ```text
//!   waits (any back-off) ──► its turn, at once          is pulled, is being started ──► given up; its answer ──► its turn
//!   runs, or is being stopped ──► stops within its grace, and runs again, whatever the restart policy ──► its turn
//!   init container that runs ──► goes on: it is not run twice          over for good ──► stays so
//! ```
//! Sources: `KUBELET.md` 3 (spec hash), 5 (the image is part of the back-off's key), 7 (init containers). Kubernetes comes to it with the next
//! sync, when a pull or start under way has ended; here that is cut short.

use std::time::Duration;

use crate::lifecycle::Action;
use crate::lifecycle::backoff::CrashBackoff;
use crate::lifecycle::stop::Why;
use crate::spec::ContainerKind;

use super::{Context, Course, Machine, Stage};

impl Machine {
    /// The container has another image in its spec from now on.
    pub fn redefine(&mut self, cx: &mut Context<'_>) {
        // What failed was the image before.
        self.pulls.succeeded();
        self.creates.succeeded();
        (self.crashes, self.waited) = (CrashBackoff::default(), Duration::ZERO);
        if cx.course != Course::Live {
            // Whatever still starts is of the new image anyway.
            return;
        }
        let run = cx.run(self.begun);
        let is_init = self.kind == ContainerKind::Init;
        match &mut self.stage {
            Stage::Preparing { stale, .. } => {
                if !std::mem::replace(stale, true) {
                    cx.actions.push(Action::AbandonPrepare { run });
                }
            }
            Stage::Starting { stale, .. } => {
                let was_stale = std::mem::replace(stale, true);
                // One that does get as far goes on, so it is not asked to end.
                if !was_stale && !is_init {
                    cx.actions.push(Action::AskToStop { run });
                }
            }
            Stage::ImageBackOff { .. } | Stage::StartBackOff { .. } => self.stage = Stage::Idle,
            Stage::CrashLoop { finished, .. } => {
                // The first start of this image is at once, and is a restart: the second one waits.
                let finished = *finished;
                self.crashes.restarted(finished, cx.now);
                self.stage = Stage::Idle;
                if self.fresh {
                    self.waiting = None;
                }
            }
            Stage::PostStart(_) | Stage::Running(_) if !is_init => {
                self.stop(cx, Why::Redefined, cx.now.plus(cx.pod.grace));
            }
            // It was up when the change came, so it is to run again.
            Stage::Stopping(_, stopping) if !is_init => stopping.why = Why::Redefined,
            Stage::PostStart(_)
            | Stage::Running(_)
            | Stage::Stopping(..)
            | Stage::Idle
            | Stage::Ended => {}
        }
    }
}
