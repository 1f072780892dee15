//! The pure core: what a pod does next.
//!
//! Owns: every decision about starting, restarting, probing, stopping, and what the status says. Not: doing any of it
//! (`pod::worker` performs the actions and feeds back what happened). Knows no clock, no async, no I/O, no randomness,
//! no logging: time is an argument, failures are events, timers are actions.
//!
//! ```text
//!             Event (something happened)          Action (please do)
//!  worker ───────────────────────────────► step ───────────────────────► worker
//!                                            │
//!                                            └─ status(): phase, conditions, container states (derived, never stored)
//! ```
//!
//! Inside, from the whole to the parts: `pod` (order among containers, the end of the pod) asks `container` (one container's
//! life) which asks `restart`, `backoff`, `probe` and `stop` (one rule each); `phase` and `status` say what it looks like,
//! in the words of `texts`.
//!
//! Contract of [`PodState::step`]: total (every state answers every event), deterministic, blind. A stale event, one that names
//! a finished attempt, changes nothing. `KUBELET.md` is the law; each deliberate difference is in `docs/manifest.md`.

pub mod backoff;
pub mod container;
pub mod phase;
pub mod pod;
pub mod probe;
pub mod restart;
pub mod status;
pub mod stop;
pub mod texts;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::spec::{ContainerName, Exit, ProbeKind, Redefinition};

pub use pod::PodState;
pub use status::{
    Condition, ConditionKind, ContainerState, ContainerStatus, PodPhase, PodStatus, Terminated,
};

/// The n-th run of a container in this pod's life, counted from 0. Shown as `restartCount`.
pub type Attempt = u32;

/// One run of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    pub container: ContainerName,
    pub attempt: Attempt,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Network and volumes stand.
    SandboxReady {
        pod_ip: std::net::IpAddr,
    },
    /// They do not (yet): a missing ConfigMap, a hostPath of the wrong type. The core retries with back-off.
    SandboxFailed {
        reason: &'static str,
        message: String,
    },
    /// The module's image is not here and is being fetched.
    Pulling {
        run: RunId,
    },
    /// The module's image was found (`present`: without pulling).
    Prepared {
        run: RunId,
        image_id: String,
        present: bool,
    },
    /// It was not; `reason` is a waiting reason such as `ErrImagePull`.
    PrepareFailed {
        run: RunId,
        reason: &'static str,
        message: String,
    },
    /// The module is not compiled for this machine yet: it waits for the compiler, or is being compiled. `digest`: the image's.
    Compiling {
        run: RunId,
        digest: String,
    },
    /// It is compiled; `took`: nothing, if another container's start had it compiled meanwhile.
    Compiled {
        run: RunId,
        took: Option<Duration>,
    },
    /// What the run needs next (its image, or its code for this machine) may not be begun, since the node is short of memory; or may again.
    Held {
        run: RunId,
        held: bool,
    },
    /// The module's instance runs.
    Started {
        run: RunId,
    },
    /// It could not be created or started; `reason` is `CreateContainerConfigError`, `CreateContainerError` or
    /// `RunContainerError`.
    StartFailed {
        run: RunId,
        reason: &'static str,
        message: String,
    },
    /// The run is over. Exactly one for each `Started`. `message` is the termination message, already bounded.
    Exited {
        run: RunId,
        exit: Exit,
        message: String,
    },
    ProbeDone {
        run: RunId,
        kind: ProbeKind,
        outcome: ProbeOutcome,
    },
    HookDone {
        run: RunId,
        hook: HookKind,
        result: Result<(), String>,
    },
    /// A timer that [`Action::ArmTimer`] asked for. May be late, may be stale, is never early.
    TimerFired {
        timer: Timer,
    },
    /// The pod is defined anew: other images, another deadline. Comes after that is durable; the newest holds.
    Redefined {
        to: Redefinition,
    },
    /// The pod must end. `grace` overrides the pod's own; a second stop may only shorten it.
    Stop {
        grace: Option<Duration>,
        why: StopReason,
    },
    /// Network and volumes are gone; nothing of the pod is left.
    SandboxGone,
}

/// Result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    Success,
    /// The module answered wrongly or not at all; with what Kubernetes would print after "Liveness probe failed: ".
    Failure(String),
    /// Succeeded, with something to warn about (a redirect to another host).
    Warning(String),
    /// The probe itself could not be performed; says nothing about the module.
    Error(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HookKind {
    PostStart,
    PreStop,
}

/// Why the whole pod ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Deleted by its owner, or replaced.
    Deleted,
    /// The daemon ends; the pod will be back with it.
    Shutdown,
    /// The node needs room (reason and message as the status shows them: `Evicted`, …).
    Evicted { reason: &'static str, message: String },
}

/// Names a timer; the core recognises a stale one by what it names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Try the sandbox again.
    Sandbox,
    /// Back-off of an image or a restart is over.
    Backoff(RunId),
    /// Time for a probe.
    Probe(RunId, ProbeKind),
    /// Grace of a stopping container is over (or the next step of its stop is due).
    Grace(RunId),
    /// `activeDeadlineSeconds`.
    ActiveDeadline,
}

/// Please do this. The worker performs actions in order, and reports outcomes as events.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create network and volumes → `SandboxReady` | `SandboxFailed`.
    SetUpSandbox,
    /// Resolve the container's image → `Prepared` | `PrepareFailed`.
    Prepare { run: RunId },
    /// That image is no longer wanted. One answer to its `Prepare` is awaited all the same: a worker that can give up (a long pull)
    /// answers `PrepareFailed` at once.
    AbandonPrepare { run: RunId },
    /// Resolve its environment, compile or map it, start it → `Started` (then one `Exited`) | `StartFailed`.
    Start { run: RunId },
    /// Perform one probe within its timeout → `ProbeDone`.
    Probe { run: RunId, kind: ProbeKind },
    /// Perform a hook within `within` → `HookDone`.
    RunHook { run: RunId, hook: HookKind, within: Duration },
    /// Deliver the stop request. A module that has not asked to hear it ends at once (`Exit::Terminated`).
    ///
    /// Also sent for a run that was asked to start and has not answered: then it means "do not bother". A worker that
    /// can give up (a long compile) answers `StartFailed`; one that cannot answers `Started` as usual and is asked again.
    AskToStop { run: RunId },
    /// End it now (`Exit::Killed`). May also come before the answer to a `Start`, with the same meaning as above.
    Kill { run: RunId },
    /// Remove network and volumes → `SandboxGone`. Only after the last run is known to be over.
    TearDownSandbox,
    /// Send `TimerFired` at that time.
    ArmTimer { timer: Timer, at: Timestamp },
    /// A Kubernetes Event to record.
    Record(PodEvent),
    /// Restart counts or back-off changed: write [`PodState::restored`] down when convenient.
    Persist,
}

/// A Kubernetes Event about the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// The container it is about: becomes `involvedObject.fieldPath` (`spec.containers{NAME}`).
    pub container: Option<ContainerName>,
}

/// The run-time facts that survive a restart of the daemon: everything else is observed anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub containers: Vec<RestoredContainer>,
    /// The pod has reached a terminal phase: nothing of it runs again.
    pub ended: Option<RestoredEnd>,
}

/// A terminal phase, as it was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredEnd {
    /// `Failed`, else `Succeeded`.
    pub failed: bool,
    /// `status.reason` and `status.message`; empty: none.
    pub reason: String,
    pub message: String,
}

impl RestoredEnd {
    /// The node did not let the pod in (the kubelet's `rejectPod`): nothing of it was ever there.
    #[must_use]
    pub fn rejected(reason: &str, why: &str) -> Self {
        let message = format!("{}{why}", texts::POD_WAS_REJECTED);
        Self { failed: true, reason: reason.to_owned(), message }
    }

    /// Whether it is such an end. The words are part of the record, and what tells it from others also in Kubernetes.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        self.message.starts_with(texts::POD_WAS_REJECTED)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredContainer {
    pub name: ContainerName,
    /// Attempts begun so far; the next one gets this number.
    pub next_attempt: Attempt,
    /// The delay that the last restart waited for (or waits for now), zero if none.
    pub backoff: Duration,
    /// Run `next_attempt - 1` is over, as `last` says. False: it was cut short by the end of the daemon, or there was
    /// none; then it is run again, whatever the restart policy says.
    pub finished: bool,
    /// The image that `backoff` is about, as the manifest wrote it; another one owes nothing. `None`: whatever it has now.
    pub image: Option<String>,
    /// The run that is over was killed because a probe failed: its policy is asked as for a failure, whatever its exit
    /// code was.
    pub by_probe: bool,
    /// How the last finished run ended, with wall-clock times in milliseconds since 1970.
    pub last: Option<RestoredExit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredExit {
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub started_ms: i64,
    pub finished_ms: i64,
}
