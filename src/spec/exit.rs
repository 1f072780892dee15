//! How one run of a module ended.

/// The end of one run. Every successful start yields exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The module ended itself with this code (0..=255).
    Code(i32),
    /// A trap: `unreachable`, out-of-bounds access, stack overflow, a panic with abort… With message and Wasm
    /// backtrace.
    Trapped { message: String },
    /// Over its memory limit.
    OutOfMemory { message: String },
    /// Its fuel budget (`podling.dev/fuel`) is used up.
    OutOfFuel,
    /// Did not end within its grace period, or was killed without one.
    Killed,
    /// Told to stop without having asked to hear it: ended at once, as SIGTERM's default action does.
    Terminated,
    /// The runtime, not the module, failed: a bug of ours or the machine's fault.
    Lost { message: String },
}

impl Exit {
    /// Exit code as Kubernetes shows it (`KUBELET.md` 10: 137 killed, 143 terminated, 134 trapped).
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Code(code) => *code,
            Self::Trapped { .. } => 134,
            Self::OutOfMemory { .. } | Self::Killed | Self::OutOfFuel | Self::Lost { .. } => 137,
            Self::Terminated => 143,
        }
    }

    /// `terminated.reason`: Kubernetes' words where it has one.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Code(0) => "Completed",
            Self::Code(_) | Self::Killed | Self::Terminated => "Error",
            Self::Trapped { .. } => "Trapped",
            Self::OutOfMemory { .. } => "OOMKilled",
            Self::OutOfFuel => "OutOfFuel",
            Self::Lost { .. } => "ContainerStatusUnknown",
        }
    }

    /// What to show when the module left no termination message of its own.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Trapped { message } | Self::OutOfMemory { message } | Self::Lost { message } => {
                Some(message)
            }
            Self::OutOfFuel => Some("the module used up its fuel (limits[podling.dev/fuel])"),
            Self::Killed => {
                Some("the module had not ended when its grace period was over, and was killed")
            }
            Self::Code(_) | Self::Terminated => None,
        }
    }

    /// Whether this counts as success for restart policies and phases.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code() == 0
    }
}
