//! What a container looks like from outside.
//!
//! Owns: the derivation of a [`ContainerStatus`]. Source: `KUBELET.md` 3 (`convertToAPIContainerStatuses`) and, for
//! `ready` and `started`, 2.

use crate::clock::Timestamp;
use crate::lifecycle::probe::Prober;
use crate::lifecycle::status::{ContainerState, ContainerStatus, Terminated};
use crate::lifecycle::{Attempt, texts};
use crate::spec::{Container, ContainerKind, ProbeKind};

use super::{Compiling, Machine, Stage, Up};

impl Machine {
    /// The status; `never_ran` is the waiting reason of a container that nothing has happened to yet.
    #[must_use]
    pub fn status(&self, spec: &Container, never_ran: &'static str) -> ContainerStatus {
        let (state, last) = self.state(spec, never_ran);
        ContainerStatus {
            name: self.name.clone(),
            kind: self.kind,
            ready: self.is_ready(&state),
            started: (self.kind != ContainerKind::Ephemeral).then(|| self.is_shown_started()),
            state,
            last,
            restart_count: self.restart_count(),
            image: self.image.as_ref().unwrap_or(&spec.image).text().to_owned(),
            image_id: self.image_id.clone(),
            container_id: self.container_id.clone(),
        }
    }

    fn restart_count(&self) -> Attempt {
        self.begun.saturating_sub(1).max(self.restarts_min)
    }

    /// `state` and `lastState`: the newest run, or what keeps the next one waiting.
    fn state(
        &self,
        spec: &Container,
        never_ran: &'static str,
    ) -> (ContainerState, Option<Terminated>) {
        if let Some(up) = self.visible() {
            return (ContainerState::Running { since: up.since }, self.exit.clone());
        }
        if self.is_ended()
            && let Some(exit) = &self.exit
        {
            return (ContainerState::Terminated(exit.clone()), self.last.clone());
        }
        // Newer than what kept it waiting before.
        if let Some((reason, message)) = self.on_its_way(spec, never_ran) {
            let message = Some(message);
            return (ContainerState::Waiting { reason, message }, self.exit.clone());
        }
        if let Some(waiting) = &self.waiting {
            let message = (!waiting.message.is_empty()).then(|| waiting.message.clone());
            let state = ContainerState::Waiting { reason: waiting.reason, message };
            return (state, self.exit.clone());
        }
        match &self.exit {
            // The next run is on its way; until it stands, the last one is the newest there is.
            Some(exit) if !self.fresh => {
                (ContainerState::Terminated(exit.clone()), self.last.clone())
            }
            exit => (ContainerState::Waiting { reason: never_ran, message: None }, exit.clone()),
        }
    }

    /// What its next run needs and does not have yet, where that takes long.
    fn on_its_way(
        &self,
        spec: &Container,
        never_ran: &'static str,
    ) -> Option<(&'static str, String)> {
        match &self.stage {
            Stage::Preparing { held: true, stale: false, .. } => {
                Some((never_ran, texts::fetch_held(spec)))
            }
            Stage::Starting { compiling: Some(compiling), stale: false, .. } => {
                let Compiling { digest, held, .. } = compiling;
                let text = if *held { texts::compile_held } else { texts::compiling };
                Some((texts::COMPILING, text(spec, digest)))
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
            | Stage::Ended => None,
        }
    }

    /// The run that is shown as Running.
    fn visible(&self) -> Option<&Up> {
        match &self.stage {
            Stage::Running(up) | Stage::Stopping(up, _) if up.visible => Some(up),
            // While postStart runs, Kubernetes' status is not refreshed: the container still waits.
            Stage::Running(_)
            | Stage::Stopping(..)
            | Stage::PostStart(_)
            | Stage::Idle
            | Stage::Preparing { .. }
            | Stage::ImageBackOff { .. }
            | Stage::Starting { .. }
            | Stage::StartBackOff { .. }
            | Stage::CrashLoop { .. }
            | Stage::Ended => None,
        }
    }

    fn is_shown_started(&self) -> bool {
        self.visible().is_some_and(|up| up.started)
    }

    fn is_ready(&self, state: &ContainerState) -> bool {
        match self.kind {
            ContainerKind::Init => state.terminated().is_some_and(|end| end.exit_code == 0),
            ContainerKind::Ephemeral => false,
            ContainerKind::Sidecar | ContainerKind::Regular => self.visible().is_some_and(|up| {
                let asked = up.probers.iter().find(|p| p.kind() == ProbeKind::Readiness);
                up.started && asked.is_none_or(Prober::is_passing)
            }),
        }
    }
}

/// The status that replaces one that is not Terminated when a pod has ended (`TerminatePod`).
pub fn mark_lost(status: &mut ContainerStatus, ended_at: Timestamp) {
    if status.state.terminated().is_some() {
        return;
    }
    status.state = ContainerState::Terminated(Terminated {
        exit_code: 137,
        reason: texts::CONTAINER_STATUS_UNKNOWN.into(),
        message: Some(texts::NOT_LOCATED.to_owned()),
        started_at: ended_at,
        finished_at: ended_at,
        container_id: status.container_id.clone(),
    });
    (status.ready, status.started) = (false, status.started.map(|_| false));
}
