//! One module of a pod.

use std::net::IpAddr;
use std::time::Duration;

use super::{
    ContainerName, EnvFrom, EnvVar, Handler, HttpLimits, ImageRef, Mount, Probe, ProbeKind,
    Resources,
};

/// A container, in prose: a module. Init containers and sidecars are containers with another [`ContainerKind`].
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub name: ContainerName,
    pub kind: ContainerKind,
    pub image: ImageRef,
    pub pull_policy: PullPolicy,
    /// Replaces the module's `argv[0]`; empty: the container's name.
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    pub env_from: Vec<EnvFrom>,
    pub env: Vec<EnvVar>,
    pub ports: Vec<Port>,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub startup: Option<Probe>,
    pub liveness: Option<Probe>,
    pub readiness: Option<Probe>,
    pub hooks: Hooks,
    /// Container-level `restartPolicy` (never set on sidecars: their kind says it).
    pub restart_policy: Option<ContainerRestartPolicy>,
    pub restart_rules: Vec<RestartRule>,
    /// `terminationMessagePath`, as the guest sees it.
    pub termination_message_path: String,
    pub termination_message_policy: TerminationMessagePolicy,
    pub stop_signal: StopSignal,
    pub on_memory_limit: OnMemoryLimit,
    /// For a module that answers HTTP.
    pub http: HttpLimits,
    /// Log that is kept of it, bytes a second, over time.
    pub log_bytes_per_second: u64,
    /// `readOnlyRootFilesystem` and such have no meaning without a root file system; this one has.
    pub stdin: bool,
}

impl Container {
    #[must_use]
    pub fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }
}

/// Which list of the manifest it stands in, and what that means for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in its turn, runs beside the regular ones.
    Sidecar,
    Regular,
    /// Added to a running pod through the API; never restarted, changes neither phase nor conditions.
    Ephemeral,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Container-level `restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// One of `restartPolicyRules`; the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRule {
    pub action: RuleAction,
    /// True: the exit code is one of `codes` (`In`); false: it is none of them (`NotIn`).
    pub within: bool,
    pub codes: Vec<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    Restart,
    RestartAllContainers,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: Option<String>,
    pub container_port: u16,
    pub protocol: Protocol,
    pub host_port: Option<u16>,
    /// The host address to publish on; absent: all (0.0.0.0), as in Kubernetes.
    pub host_ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// `lifecycle.postStart` and `lifecycle.preStop`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hooks {
    pub post_start: Option<Hook>,
    pub pre_stop: Option<Hook>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Hook {
    /// `exec` or `httpGet`, performed as probes perform them.
    Call(Handler),
    Sleep(Duration),
}

/// `terminationMessagePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminationMessagePolicy {
    File,
    FallbackToLogsOnError,
}

/// How a module hears that it should stop (annotation `stop-signal.podling.dev/CONTAINER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// It imports `podling:pod/lifecycle`; one that does not, or never asked, ends at once with 143.
    Lifecycle,
    /// End of file on its standard input, for modules that know nothing of podling.
    StdinEof,
}

/// What happens to a module at its memory limit (annotation `on-memory-limit.podling.dev/CONTAINER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMemoryLimit {
    /// It ends with `OOMKilled`, 137, as Kubernetes users expect. The default.
    Kill,
    /// `memory.grow` answers −1 and the module goes on.
    Fail,
}
