//! The fake hands: what the pod worker would do, in virtual time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::lifecycle::{Action, Event, HookKind, ProbeOutcome, RunId, Timer};
use crate::spec::{Exit, ProbeKind};

use super::{Alive, Due, OnStop, Sim, Try};

impl Sim {
    pub(super) fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.log.push((self.now, action.clone()));
            match action {
                Action::SetUpSandbox => self.set_up(),
                Action::Prepare { run } => self.prepare(run),
                Action::AbandonPrepare { run } => self.abandon_prepare(&run),
                Action::Start { run } => self.start(run),
                Action::Probe { run, kind } => self.probe(run, kind),
                Action::RunHook { run, hook, within } => self.hook(run, hook, within),
                Action::AskToStop { run } => match self.guest(&run).on_stop {
                    OnStop::Dies => self.end_by(&run, self.now, Exit::Terminated),
                    OnStop::Returns { after, code } => {
                        self.end_by(&run, self.now + after, Exit::Code(code));
                    }
                    OnStop::Ignores => {}
                },
                Action::Kill { run } => self.end_by(&run, self.now, Exit::Killed),
                Action::TearDownSandbox => self.later(Duration::ZERO, Event::SandboxGone),
                Action::ArmTimer { timer, at } => self.arm(timer, at),
                Action::Record(_) => {}
                Action::Persist => {
                    self.written = Some(self.state.restored());
                    self.writes += 1;
                }
            }
        }
    }

    fn set_up(&mut self) {
        let tries = self.world.sandbox.clone();
        let Try { takes, error } = self.next("", "sandbox", &tries);
        let event = match error {
            None => Event::SandboxReady { pod_ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)) },
            Some(reason) => Event::SandboxFailed { reason, message: "because".to_owned() },
        };
        self.later(takes, event);
    }

    fn prepare(&mut self, run: RunId) {
        let tries = self.guest(&run).prepare;
        let Try { takes, error } = self.next(run.container.as_str(), "prepare", &tries);
        let event = match error {
            None => {
                let present = takes.is_zero();
                let image = self.state.pod().container(&run.container).map(|c| c.image.text());
                let tag = image.and_then(|text| text.rsplit(':').next()).unwrap_or_default();
                Event::Prepared { image_id: format!("sha256:{tag}"), run, present }
            }
            Some(reason) => Event::PrepareFailed { run, reason, message: "because".to_owned() },
        };
        self.later(takes, event);
    }

    /// Hands that can give up answer now; others as if nothing had been said.
    fn abandon_prepare(&mut self, of: &RunId) {
        if !self.world.gives_up_starts {
            return;
        }
        let is_answer = |due: &Due| match due {
            Due::Event(Event::Prepared { run, .. } | Event::PrepareFailed { run, .. }) => run == of,
            Due::Event(_) | Due::Begin(_) | Due::End(_) => false,
        };
        let answer = self.queue.iter().find(|(_, due)| is_answer(due)).map(|(key, _)| *key);
        let answer = answer.expect("what is abandoned has not been answered");
        self.queue.remove(&answer);
        let (reason, message) = ("ErrImagePull", "given up".to_owned());
        self.later(Duration::ZERO, Event::PrepareFailed { run: of.clone(), reason, message });
    }

    fn start(&mut self, run: RunId) {
        let guest = self.guest(&run);
        let name = run.container.as_str();
        let Try { takes, error } = self.next(name, "start", &guest.start);
        if let Some(reason) = error {
            let message = "because".to_owned();
            self.later(takes, Event::StartFailed { run, reason, message });
            return;
        }
        let (life, exit) = self.next(name, "lives", &guest.lives);
        let since = self.now + takes;
        self.schedule(since, Due::Begin(run.clone()));
        self.alive.insert(run.clone(), Alive { since, end: None });
        if let Some(life) = life {
            self.end_by(&run, since + life, exit);
        }
    }

    fn probe(&mut self, run: RunId, kind: ProbeKind) {
        let guest = self.guest(&run);
        let answers = guest.answers(kind);
        let age = self.alive.get(&run).map(|alive| self.now.saturating_sub(alive.since));
        let is_good = |age: Duration| (answers.good_from..answers.good_until).contains(&age);
        let mut script: Vec<_> = answers.first.iter().cloned().map(Some).collect();
        script.push(None);
        let scripted = self.next(run.container.as_str(), kind.word(), &script);
        let outcome = scripted.unwrap_or(if age.is_some_and(is_good) {
            ProbeOutcome::Success
        } else {
            ProbeOutcome::Failure("no".to_owned())
        });
        self.later(answers.takes, Event::ProbeDone { run, kind, outcome });
    }

    fn hook(&mut self, run: RunId, hook: HookKind, within: Duration) {
        let guest = self.guest(&run);
        let Try { takes, error } = match hook {
            HookKind::PostStart => guest.post_start,
            HookKind::PreStop => guest.pre_stop,
        };
        let result = match error {
            None if takes <= within => Ok(()),
            None => Err("timed out".to_owned()),
            Some(error) => Err(error.to_owned()),
        };
        self.later(takes.min(within), Event::HookDone { run, hook, result });
    }

    fn arm(&mut self, timer: Timer, at: Timestamp) {
        let at = at.mono().saturating_add(self.world.late);
        let key = self.schedule(at, Due::Event(Event::TimerFired { timer: timer.clone() }));
        let old = self.armed.insert(timer, key);
        if let Some(old) = old
            && !self.world.keeps_old_timers
            && old != key
        {
            // The old one may have fired already; then there is nothing to take out.
            self.queue.remove(&old);
        }
    }
}
