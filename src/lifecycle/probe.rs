//! When a probe is due, and what its answers amount to.
//!
//! Owns: ticks, thresholds, and putting a prober on hold. Not: performing a probe (the worker does), nor what follows
//! from a verdict (`container` decides). One [`Prober`] per run and kind.
//!
//! ```text
//!            begin             due                done
//!   Waiting ───────► Armed ─────────► InFlight ─────────► Armed     below its threshold, or readiness
//!                                              └────────► Held      startup gave a verdict, or liveness failed
//! ```
//! Source: `KUBELET.md` 8 (`prober/worker.go`). A prober ticks every `periodSeconds` from the time the pod was taken on,
//! not from the start of the container: the first probe comes at the first tick at or after start + `initialDelaySeconds`,
//! so up to one period late. Readiness alone is asked at once when the container has started, and ticks from then.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::spec::{Probe, ProbeKind};

/// No prober is asked more often. Kubernetes' unit is a second; the floor only keeps a zero from dividing.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// The state of one probe of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Prober {
    kind: ProbeKind,
    /// Ticks are at this time plus whole periods.
    anchor: Timestamp,
    stage: Stage,
    /// The result that is in force; a startup probe has none until its threshold is reached.
    verdict: Option<bool>,
    /// The last answer, and how many like it came in a row.
    streak: (bool, u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Not yet allowed to ask (startup has not succeeded).
    Waiting,
    Armed {
        at: Timestamp,
    },
    InFlight {
        asked: Timestamp,
    },
    /// Has said all it has to say about this run.
    Held,
}

/// What an answer led to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// A verdict that came into force with this answer.
    pub verdict: Option<bool>,
    /// When to ask next; `None`: never again for this run.
    pub next: Option<Timestamp>,
}

impl Prober {
    /// A prober of a run that has just become visible; `pod_start` is when the pod was taken on.
    #[must_use]
    pub fn new(kind: ProbeKind, pod_start: Timestamp) -> Self {
        // Kubernetes: until asked, a container counts as alive but not as ready.
        let verdict = match kind {
            ProbeKind::Startup => None,
            ProbeKind::Liveness => Some(true),
            ProbeKind::Readiness => Some(false),
        };
        Self { kind, anchor: pod_start, stage: Stage::Waiting, verdict, streak: (false, 0) }
    }

    #[must_use]
    pub fn kind(&self) -> ProbeKind {
        self.kind
    }

    /// Whether the verdict in force is a success.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.verdict == Some(true)
    }

    /// It may ask from now on; when it does for the first time. `None`: it has begun before.
    pub fn begin(&mut self, probe: &Probe, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.stage != Stage::Waiting {
            return None;
        }
        if self.kind == ProbeKind::Readiness {
            self.anchor = now;
        }
        let earliest = since.plus(probe.initial_delay).max(now);
        let at = self.tick(probe, earliest);
        self.stage = Stage::Armed { at };
        Some(at)
    }

    /// A timer fired: whether to probe now. A stale timer gets `false`.
    pub fn is_due(&mut self, now: Timestamp) -> bool {
        match self.stage {
            Stage::Armed { at } if at <= now => {
                self.stage = Stage::InFlight { asked: now };
                true
            }
            Stage::Armed { .. } | Stage::Waiting | Stage::InFlight { .. } | Stage::Held => false,
        }
    }

    /// Whether an answer is awaited.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::InFlight { .. })
    }

    /// The probe answered; `None`: it could not be performed, which says nothing.
    pub fn done(&mut self, probe: &Probe, now: Timestamp, answer: Option<bool>) -> Outcome {
        let Stage::InFlight { asked } = self.stage else {
            // Not asked: an answer from nowhere changes nothing.
            return Outcome::default();
        };
        let verdict = answer.and_then(|good| self.count(probe, good));
        let hold = match self.kind {
            ProbeKind::Startup => verdict.is_some(),
            ProbeKind::Liveness => verdict == Some(false),
            ProbeKind::Readiness => false,
        };
        if hold {
            self.stage = Stage::Held;
            return Outcome { verdict, next: None };
        }
        // A tick that passed while the probe was under way is not lost, but several are only one (Go's ticker).
        let after = asked.plus(Duration::from_nanos(1));
        let at = self.tick(probe, after).max(now);
        self.stage = Stage::Armed { at };
        Outcome { verdict, next: Some(at) }
    }

    /// Counts an answer; the verdict, if its threshold is reached.
    fn count(&mut self, probe: &Probe, good: bool) -> Option<bool> {
        let run = if self.streak.0 == good { self.streak.1.saturating_add(1) } else { 1 };
        self.streak = (good, run);
        let threshold = if good { probe.success_threshold } else { probe.failure_threshold };
        if run < threshold.get() {
            return None;
        }
        self.verdict = Some(good);
        Some(good)
    }

    /// The first tick at or after `earliest`.
    fn tick(&self, probe: &Probe, earliest: Timestamp) -> Timestamp {
        let period = probe.period.max(PERIOD_MIN);
        let wait = earliest.since(self.anchor);
        let ticks = wait.as_nanos().div_ceil(period.as_nanos());
        let nanos = ticks.saturating_mul(period.as_nanos());
        self.anchor.plus(u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos))
    }
}
