//! Questions to a history: what was done and said, and when.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a question looks for one action; the rest is what it is not about"
)]

use std::time::Duration;

use crate::lifecycle::{Action, Attempt, PodPhase, PodStatus};
use crate::spec::ProbeKind;

use super::Sim;

impl Sim {
    /// When the container was started, in whole seconds.
    #[must_use]
    pub fn starts(&self, name: &str) -> Vec<u64> {
        self.when(
            |action| matches!(action, Action::Start { run } if run.container.as_str() == name),
        )
    }

    /// When the container was asked to stop, in whole seconds.
    #[must_use]
    pub fn asked(&self, name: &str) -> Vec<u64> {
        self.when(
            |action| matches!(action, Action::AskToStop { run } if run.container.as_str() == name),
        )
    }

    /// When the container was killed, in whole seconds.
    #[must_use]
    pub fn killed(&self, name: &str) -> Vec<u64> {
        self.when(|action| matches!(action, Action::Kill { run } if run.container.as_str() == name))
    }

    /// When it was probed, in whole seconds.
    #[must_use]
    pub fn probed(&self, name: &str, asked: ProbeKind) -> Vec<u64> {
        self.when(|action| {
            matches!(action, Action::Probe { run, kind }
                if *kind == asked && run.container.as_str() == name)
        })
    }

    /// When something was done, in whole seconds.
    #[must_use]
    pub fn when(&self, is_it: impl Fn(&Action) -> bool) -> Vec<u64> {
        self.log.iter().filter(|(_, action)| is_it(action)).map(|(at, _)| at.as_secs()).collect()
    }

    /// Messages of the events with that reason, in order.
    #[must_use]
    pub fn said(&self, reason: &str) -> Vec<&str> {
        self.log
            .iter()
            .filter_map(|(_, action)| match action {
                Action::Record(event) if event.reason == reason => Some(event.message.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Reasons of all events, in order.
    #[must_use]
    pub fn reasons(&self) -> Vec<&'static str> {
        self.log
            .iter()
            .filter_map(|(_, action)| match action {
                Action::Record(event) => Some(event.reason),
                _ => None,
            })
            .collect()
    }

    /// The phases the pod went through, with the second each was first seen.
    #[must_use]
    pub fn phases(&self) -> Vec<(u64, PodPhase)> {
        let mut phases: Vec<(u64, PodPhase)> = Vec::new();
        for (at, status) in &self.statuses {
            if phases.last().is_none_or(|(_, last)| *last != status.phase) {
                phases.push((at.as_secs(), status.phase));
            }
        }
        phases
    }

    #[must_use]
    pub fn status(&self) -> PodStatus {
        self.state.status()
    }

    /// The newest status of the given second or before.
    ///
    /// # Panics
    /// Never: there is a status from the beginning.
    #[must_use]
    pub fn status_at(&self, seconds: u64) -> &PodStatus {
        let then = Duration::from_secs(seconds);
        let (_, status) =
            self.statuses.iter().rfind(|(at, _)| *at <= then).expect("there is one from time zero");
        status
    }

    /// Number of the newest run of a container.
    #[must_use]
    pub fn newest_attempt(&self, name: &str) -> Option<Attempt> {
        self.log
            .iter()
            .filter_map(|(_, action)| match action {
                Action::Start { run } if run.container.as_str() == name => Some(run.attempt),
                _ => None,
            })
            .max()
    }
}
