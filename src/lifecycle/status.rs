//! What a pod says about itself.
//!
//! Owns: the status types that publishers turn into the wire's. Not: how the values are derived (`phase` and
//! `container`), nor their JSON (`manifest::status`). Everything here is a plain value, compared with `==` to find out
//! whether there is something to publish.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::clock::Timestamp;
use crate::spec::{ContainerKind, ContainerName, Exit, QosClass};

use super::Attempt;

/// `status` of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodStatus {
    pub phase: PodPhase,
    /// Why the pod as a whole failed: `DeadlineExceeded`, `Evicted`, …
    pub reason: Option<Cow<'static, str>>,
    pub message: Option<String>,
    /// In Kubernetes' order; each kind at most once.
    pub conditions: Vec<Condition>,
    /// Init containers and sidecars, in manifest order.
    pub init_containers: Vec<ContainerStatus>,
    /// Regular containers, in manifest order (the wire sorts them by name).
    pub containers: Vec<ContainerStatus>,
    /// When this daemon first took the pod on.
    pub start_time: Timestamp,
    pub pod_ip: Option<IpAddr>,
    pub qos: QosClass,
}

impl PodStatus {
    /// All containers: init and sidecars first.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The status of that container, of whatever kind.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.all_containers().find(|c| c.name.as_str() == name)
    }

    /// The condition of that kind, if the pod has it.
    #[must_use]
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    /// Whether condition `Ready` is True.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.condition(ConditionKind::Ready).is_some_and(|c| c.status)
    }
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl PodPhase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether no other phase can follow.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// One of `status.conditions`. (`Unknown` is for those who have lost touch with the node; the node itself knows.)
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub kind: ConditionKind,
    pub status: bool,
    pub reason: Option<&'static str>,
    pub message: Option<String>,
    /// When `status` last changed.
    pub last_transition: Timestamp,
}

/// `type` of a condition, in the order in which Kubernetes lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionKind {
    PodReadyToStartContainers,
    Initialized,
    Ready,
    ContainersReady,
    PodScheduled,
    /// Only on pods with a `RestartAllContainers` rule.
    AllContainersRestarting,
}

impl ConditionKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodReadyToStartContainers => "PodReadyToStartContainers",
            Self::Initialized => "Initialized",
            Self::Ready => "Ready",
            Self::ContainersReady => "ContainersReady",
            Self::PodScheduled => "PodScheduled",
            Self::AllContainersRestarting => "AllContainersRestarting",
        }
    }
}

/// One of `containerStatuses` or `initContainerStatuses`.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStatus {
    pub name: ContainerName,
    pub kind: ContainerKind,
    pub state: ContainerState,
    /// `lastState.terminated`.
    pub last: Option<Terminated>,
    pub ready: bool,
    /// Absent for ephemeral containers.
    pub started: Option<bool>,
    /// Restarts performed in this pod's life; never falls.
    pub restart_count: Attempt,
    /// As the manifest wrote it: that of `image_id`, which is not the spec's any more while a container changes to another one.
    pub image: String,
    /// Digest of what runs; empty before the image was found.
    pub image_id: String,
    /// `podling://UID/NAME/ATTEMPT` of the newest run.
    pub container_id: Option<String>,
}

/// `state` of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    Waiting { reason: &'static str, message: Option<String> },
    Running { since: Timestamp },
    Terminated(Terminated),
}

impl ContainerState {
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    #[must_use]
    pub fn terminated(&self) -> Option<&Terminated> {
        match self {
            Self::Terminated(end) => Some(end),
            Self::Waiting { .. } | Self::Running { .. } => None,
        }
    }

    /// `waiting.reason`, if that is the state.
    #[must_use]
    pub fn waiting_reason(&self) -> Option<&'static str> {
        match self {
            Self::Waiting { reason, .. } => Some(reason),
            Self::Running { .. } | Self::Terminated(_) => None,
        }
    }
}

/// How one run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Terminated {
    pub exit_code: i32,
    pub reason: Cow<'static, str>,
    pub message: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub container_id: Option<String>,
}

impl Terminated {
    /// The record of a run; `message` is the module's own termination message and wins over the runtime's words.
    #[must_use]
    pub fn of(
        exit: &Exit,
        message: String,
        started_at: Timestamp,
        finished_at: Timestamp,
        container_id: Option<String>,
    ) -> Self {
        let message = if message.is_empty() { exit.message().map(cut) } else { Some(message) };
        Self {
            exit_code: exit.code(),
            reason: Cow::Borrowed(exit.reason()),
            message,
            started_at,
            finished_at,
            container_id,
        }
    }
}

/// A backtrace can be long; a status must not be.
fn cut(message: &str) -> String {
    let end = message.floor_char_boundary(crate::limits::TERMINATION_MESSAGE_BYTES_MAX);
    message[..end].to_owned()
}
