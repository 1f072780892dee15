//! Probes and the handlers that hooks share with them.

use std::num::NonZeroU32;
use std::time::Duration;

/// `startupProbe`, `livenessProbe`, `readinessProbe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// The word that Kubernetes' events begin with ("Liveness probe failed: …").
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// The word inside Kubernetes' kill messages ("failed liveness probe").
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

/// A probe with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub handler: Handler,
    pub initial_delay: Duration,
    pub timeout: Duration,
    pub period: Duration,
    pub success_threshold: NonZeroU32,
    pub failure_threshold: NonZeroU32,
    /// Probe-level `terminationGracePeriodSeconds` (liveness and startup only).
    pub grace: Option<Duration>,
}

/// What a probe or a hook does.
#[derive(Clone, Debug, PartialEq)]
pub enum Handler {
    HttpGet(HttpGet),
    TcpSocket {
        port: PortRef,
        host: Option<String>,
    },
    /// A second instance of the module with this argv.
    Exec {
        command: Vec<String>,
    },
    Grpc {
        port: u16,
        service: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    pub scheme: HttpScheme,
    /// Absent: the pod itself.
    pub host: Option<String>,
    pub port: PortRef,
    /// Path with query; starts with `/`.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpScheme {
    Http,
    Https,
}

/// A port by number, or by the name it has among the container's `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    Number(u16),
    Name(String),
}
