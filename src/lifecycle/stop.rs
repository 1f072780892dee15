//! One container's way from "stop it" to "it is gone".
//!
//! Owns: the steps, their deadlines, and that grace only shrinks. Not: restarting afterwards (`container`), nor whose
//! turn it is (`pod` knows the others).
//!
//! ```text
//!   PreStop ──hook done, or grace over──► Turn ──its turn, or grace over──► Asked ──kill_at──► Killed
//!      │                                   │                                  │                   │
//!      └────────────────────────── the run exits: over ──────────────────────┴───────────────────┘
//! ```
//! Source: `KUBELET.md` 10. The hook and the wait for one's turn eat from the grace; what is left, but never less than
//! [`FLOOR`], is the time between being asked and being killed.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::spec::ProbeKind;

/// A module that is asked to stop has at least this long (`minimumGracePeriodInSeconds`).
pub const FLOOR: Duration = Duration::from_secs(2);

/// A stop under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    pub why: Why,
    pub step: Step,
    deadline: Timestamp,
}

/// Why this run must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The whole pod ends, or all its containers are run again.
    Pod,
    /// Its liveness or startup probe failed.
    Probe(ProbeKind),
    /// Its postStart hook failed.
    PostStart,
    /// The container is to run another image.
    Redefined,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// The preStop hook runs.
    PreStop,
    /// Others must be gone first; `armed`: a timer waits for the end of the grace.
    Turn {
        armed: bool,
    },
    Asked {
        kill_at: Timestamp,
    },
    Killed,
}

impl Stopping {
    /// The run must end; it is its turn unless the caller says otherwise.
    #[must_use]
    pub fn new(why: Why, hook: bool, deadline: Timestamp) -> Self {
        let step = if hook { Step::PreStop } else { Step::Turn { armed: false } };
        Self { why, step, deadline }
    }

    /// Whether nothing is left of the grace.
    #[must_use]
    pub fn is_out_of_grace(&self, now: Timestamp) -> bool {
        self.deadline <= now
    }

    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// It is asked now; when it will be killed.
    pub fn ask(&mut self, now: Timestamp) -> Timestamp {
        let kill_at = self.deadline.max(now.plus(FLOOR));
        self.step = Step::Asked { kill_at };
        kill_at
    }

    /// Less grace than before. `Some`: the timer must fire at that time instead; a longer grace changes nothing.
    pub fn shrink(&mut self, deadline: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if deadline >= self.deadline {
            return None;
        }
        self.deadline = deadline;
        match &mut self.step {
            Step::PreStop if deadline <= now => {
                self.step = Step::Turn { armed: false };
                None
            }
            Step::PreStop => Some(deadline),
            Step::Turn { armed } => armed.then_some(deadline),
            Step::Asked { kill_at } => {
                let sooner = deadline.max(now.plus(FLOOR));
                (sooner < *kill_at).then(|| {
                    *kill_at = sooner;
                    sooner
                })
            }
            Step::Killed => None,
        }
    }
}
