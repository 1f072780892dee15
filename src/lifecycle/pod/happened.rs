//! What happened to a pod: every event finds its place here.
//!
//! Owns: taking events in, for the pod itself or for the container they name. Not: what follows for the others
//! (`advance`).

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::lifecycle::container::Demand;
use crate::lifecycle::{Action, Event, Restored, StopReason, Timer, texts};
use crate::spec::Redefinition;

use super::{Plan, PodState, Sandbox, spec_at};

impl PodState {
    pub(super) fn restore(
        &mut self,
        now: Timestamp,
        restored: Restored,
        actions: &mut Vec<Action>,
    ) {
        if restored.ended.is_some() {
            self.plan = Plan::Ending { deadline: now, for_good: true };
            self.ended = restored.ended;
        }
        for record in &restored.containers {
            // A record of a container that the pod does not have says nothing.
            if let Some(i) = self.index(&record.name) {
                self.with(i, now, actions, |machine, cx| machine.restore(cx, record));
            }
        }
    }

    pub(super) fn take_in(&mut self, now: Timestamp, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::SandboxReady { pod_ip } => {
                if self.sandbox == Sandbox::Asked {
                    self.sandbox = Sandbox::Ready;
                    self.sandbox_retry.succeeded();
                    self.pod_ip = Some(pod_ip);
                }
            }
            Event::SandboxFailed { reason, message } => {
                self.sandbox_failed(now, reason, message, actions);
            }
            Event::SandboxGone => {
                if self.sandbox == Sandbox::TearingDown {
                    self.sandbox = Sandbox::Gone;
                }
            }
            Event::Redefined { to } => self.redefine(now, &to, actions),
            Event::Stop { grace, why } => self.stop(now, grace, why),
            Event::TimerFired { timer } => self.timer_fired(now, timer, actions),
            Event::Pulling { run } => {
                self.about(&run, now, actions, |machine, cx| machine.pulling(cx, run.attempt));
            }
            Event::Prepared { run, image_id, present } => {
                self.about(&run, now, actions, |machine, cx| {
                    machine.prepared(cx, run.attempt, image_id, present);
                });
            }
            Event::PrepareFailed { run, reason, message } => {
                self.about(&run, now, actions, |machine, cx| {
                    machine.prepare_failed(cx, run.attempt, reason, message);
                });
            }
            Event::Compiling { run, digest } => {
                self.about(&run, now, actions, |machine, cx| {
                    machine.compiling(cx, run.attempt, digest);
                });
            }
            Event::Compiled { run, took } => {
                self.about(&run, now, actions, |machine, cx| {
                    machine.compiled(cx, run.attempt, took);
                });
            }
            Event::Held { run, held } => {
                self.about(&run, now, actions, |machine, cx| machine.hold(cx, run.attempt, held));
            }
            Event::Started { run } => {
                self.about(&run, now, actions, |machine, cx| machine.started(cx, run.attempt));
            }
            Event::StartFailed { run, reason, message } => {
                let demand = self.about(&run, now, actions, |machine, cx| {
                    machine.start_failed(cx, run.attempt, reason, message)
                });
                self.heed(demand);
            }
            Event::Exited { run, exit, message } => {
                let demand = self.about(&run, now, actions, |machine, cx| {
                    machine.exited(cx, run.attempt, &exit, message)
                });
                self.heed(demand);
            }
            Event::ProbeDone { run, kind, outcome } => {
                self.about(&run, now, actions, |machine, cx| {
                    machine.probe_done(cx, run.attempt, kind, outcome);
                });
            }
            Event::HookDone { run, hook, result } => {
                self.about(&run, now, actions, |machine, cx| {
                    machine.hook_done(cx, run.attempt, hook, &result);
                });
            }
        }
    }

    fn timer_fired(&mut self, now: Timestamp, timer: Timer, actions: &mut Vec<Action>) {
        match timer {
            Timer::Sandbox => {
                let due = matches!(self.sandbox, Sandbox::BackOff { until } if until <= now);
                if due && self.plan == Plan::Live {
                    self.sandbox = Sandbox::Asked;
                    actions.push(Action::SetUpSandbox);
                }
            }
            Timer::ActiveDeadline => {
                let deadline = self.pod.active_deadline.map(|after| self.start_time.plus(after));
                if deadline.is_some_and(|at| at <= now) && !self.is_ending() {
                    let (reason, message) = (texts::DEADLINE_EXCEEDED, texts::DEADLINE_MESSAGE);
                    self.failure = Some((reason, message.to_owned()));
                    actions.push(Action::Record(texts::about_pod(false, reason, message)));
                    self.end(now.plus(self.pod.grace), true);
                }
            }
            Timer::Backoff(run) => {
                self.about(&run, now, actions, |machine, cx| machine.backoff_over(cx, run.attempt));
            }
            Timer::Probe(run, kind) => {
                self.about(&run, now, actions, |machine, cx| {
                    machine.probe_due(cx, run.attempt, kind);
                });
            }
            Timer::Grace(run) => {
                self.about(&run, now, actions, |machine, cx| machine.grace_over(cx, run.attempt));
            }
        }
    }

    fn sandbox_failed(
        &mut self,
        now: Timestamp,
        reason: &'static str,
        message: String,
        actions: &mut Vec<Action>,
    ) {
        if self.sandbox != Sandbox::Asked {
            return;
        }
        let until = now.plus(self.sandbox_retry.failed());
        self.sandbox = Sandbox::BackOff { until };
        if self.plan == Plan::Live {
            actions.push(Action::Record(texts::about_pod(true, reason, message)));
            actions.push(Action::ArmTimer { timer: Timer::Sandbox, at: until });
        }
    }

    /// Other images, another deadline. A pod on its way out, or at its end, is only shown so.
    fn redefine(&mut self, now: Timestamp, to: &Redefinition, actions: &mut Vec<Action>) {
        let pod = Arc::new(self.pod.redefined(to));
        let before = std::mem::replace(&mut self.pod, pod);
        if let Some(after) = self.pod.active_deadline
            && before.active_deadline != Some(after)
            && !self.is_ending()
        {
            let at = self.start_time.plus(after);
            actions.push(Action::ArmTimer { timer: Timer::ActiveDeadline, at });
        }
        for i in 0..self.machines.len() {
            if spec_at(&before, i).image != spec_at(&self.pod, i).image {
                self.with(i, now, actions, |machine, cx| machine.redefine(cx));
            }
        }
    }

    fn stop(&mut self, now: Timestamp, grace: Option<Duration>, why: StopReason) {
        let for_good = why != StopReason::Shutdown;
        if let StopReason::Evicted { reason, message } = &why
            && !self.is_ending()
        {
            self.failure = Some((reason, message.clone()));
        }
        self.stop = Some(match (self.stop.take(), why) {
            // Deleted is the last word; the end of the daemon outranks a wish for room.
            (Some(StopReason::Deleted), _) | (_, StopReason::Deleted) => StopReason::Deleted,
            (Some(StopReason::Shutdown), _) | (_, StopReason::Shutdown) => StopReason::Shutdown,
            (_, evicted @ StopReason::Evicted { .. }) => evicted,
        });
        // An eviction says nothing to a pod that is already on its way out with the daemon.
        let for_good = for_good && self.stop != Some(StopReason::Shutdown);
        self.end(now.plus(grace.unwrap_or(self.pod.grace)), for_good);
    }

    fn heed(&mut self, demand: Demand) {
        if demand == Demand::RestartAll && self.plan == Plan::Live {
            self.plan = Plan::RestartingAll;
        }
    }

    /// The pod ends by `deadline`, or sooner if it was already to end sooner.
    pub(super) fn end(&mut self, deadline: Timestamp, for_good: bool) {
        let (deadline, for_good) = match self.plan {
            Plan::Live | Plan::RestartingAll => (deadline, for_good),
            Plan::Ending { deadline: before, for_good: was } => {
                (deadline.min(before), was || for_good)
            }
        };
        self.plan = Plan::Ending { deadline, for_good };
    }
}
