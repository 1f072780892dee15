//! What probes of a run say, and what follows from it.
//!
//! Owns: which prober may speak at which stage, and the deeds that follow from verdicts. Not: ticks and thresholds
//! (`probe`). Source: `KUBELET.md` 8.

use crate::lifecycle::stop::Why;
use crate::lifecycle::{Action, Attempt, ProbeOutcome, Timer, texts};
use crate::spec::ProbeKind;

use super::{Context, Machine, Prober, Stage, Up};

impl Machine {
    /// A probe's timer fired.
    pub fn probe_due(&mut self, cx: &mut Context<'_>, attempt: Attempt, kind: ProbeKind) {
        let Some((up, _)) = self.probed(cx, attempt, kind) else { return };
        let due = prober(up, kind).is_some_and(|prober| prober.is_due(cx.now));
        if due {
            cx.actions.push(Action::Probe { run: cx.run(attempt), kind });
        }
    }

    pub fn probe_done(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Attempt,
        kind: ProbeKind,
        outcome: ProbeOutcome,
    ) {
        let Some(spec) = cx.spec.probe(kind) else { return };
        let Some((up, stopping)) = self.probed(cx, attempt, kind) else { return };
        let Some(prober) = prober(up, kind) else { return };
        let answer = match &outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => Some(true),
            ProbeOutcome::Failure(_) => Some(false),
            ProbeOutcome::Error(_) => None,
        };
        if !prober.is_asked() {
            return;
        }
        let said = prober.done(spec, cx.now, answer);
        if let Some(at) = said.next {
            cx.arm(Timer::Probe(cx.run(attempt), kind), at);
        }
        report_probe(cx, kind, outcome);
        match (kind, said.verdict) {
            (ProbeKind::Startup, Some(true)) => self.is_started(cx),
            (ProbeKind::Startup | ProbeKind::Liveness, Some(false)) if !stopping => {
                let grace = spec.grace.unwrap_or(cx.pod.grace);
                self.stop(cx, Why::Probe(kind), cx.now.plus(grace));
            }
            (ProbeKind::Startup | ProbeKind::Liveness | ProbeKind::Readiness, _) => {}
        }
    }

    /// The run that this probe may speak about, and whether it is stopping. While a run stops, only its readiness
    /// matters.
    fn probed(
        &mut self,
        _cx: &Context<'_>,
        attempt: Attempt,
        kind: ProbeKind,
    ) -> Option<(&mut Up, bool)> {
        match &mut self.stage {
            Stage::Running(up) if up.attempt == attempt => Some((up, false)),
            Stage::Stopping(up, _) if up.attempt == attempt && kind == ProbeKind::Readiness => {
                Some((up, true))
            }
            Stage::Running(_)
            | Stage::Stopping(..)
            | Stage::Idle
            | Stage::Preparing { .. }
            | Stage::ImageBackOff { .. }
            | Stage::Starting { .. }
            | Stage::StartBackOff { .. }
            | Stage::PostStart(_)
            | Stage::CrashLoop { .. }
            | Stage::Ended => None,
        }
    }
}

fn prober(up: &mut Up, kind: ProbeKind) -> Option<&mut Prober> {
    up.probers.iter_mut().find(|prober| prober.kind() == kind)
}

/// Those probers may ask from now on.
pub(super) fn begin_probing(
    cx: &mut Context<'_>,
    up: &mut Up,
    is_wanted: impl Fn(ProbeKind) -> bool,
) {
    let (since, attempt) = (up.since, up.attempt);
    for prober in up.probers.iter_mut().filter(|prober| is_wanted(prober.kind())) {
        let kind = prober.kind();
        let Some(spec) = cx.spec.probe(kind) else { continue };
        if let Some(at) = prober.begin(spec, since, cx.now) {
            cx.arm(Timer::Probe(cx.run(attempt), kind), at);
        }
    }
}

fn report_probe(cx: &mut Context<'_>, kind: ProbeKind, outcome: ProbeOutcome) {
    let title = kind.title();
    match outcome {
        ProbeOutcome::Success => {}
        ProbeOutcome::Failure(text) => {
            cx.say(true, texts::UNHEALTHY, format!("{title} probe failed: {text}"));
        }
        ProbeOutcome::Warning(text) => {
            cx.say(true, "ProbeWarning", format!("{title} probe warning: {text}"));
        }
        ProbeOutcome::Error(text) => {
            let message = format!("{title} probe errored and resulted in unknown state: {text}");
            cx.say(true, texts::UNHEALTHY, message);
        }
    }
}
