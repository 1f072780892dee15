//! What the server needs of the rest of the daemon: one trait.
//!
//! Owns: the requests it makes and the ways they can fail. The server reads objects from the [`Board`] itself; for everything
//! that changes something, and for logs, it asks the [`Backend`]. It never touches a pod. Implemented by the daemon, and by a fake in tests.
//!
//! The implementation is the authority: it validates, makes durable, then updates the board, and only then answers. Checks that the
//! server has made before (existence, `resourceVersion`) may have been overtaken and are made again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

use crate::board::logs::LogSource;
use crate::board::{Board, Object, ObjectKey};
use crate::net::Stream;
use crate::outside::stats::Traffic;
use crate::server::network::NetworkReport;
use crate::server::network_audit::AuditReport;
use crate::spec::PodKey;

use super::usage::{NodeUse, PodUse};

/// The daemon, as the server sees it.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    fn board(&self) -> &Board;

    /// What the rest of the daemon counts, in OpenMetrics' text form, its last line (`# EOF`) included; empty if nothing.
    fn metrics(&self) -> String {
        String::new()
    }

    /// Connects to a port of a pod, as a program on the pod's own `localhost` would.
    ///
    /// # Errors
    /// [`ForwardError`], in the words that the person is shown.
    async fn forward(&self, key: &PodKey, port: u16) -> Result<Forward, ForwardError> {
        let _ = (key, port);
        Err(ForwardError::NotRunning)
    }

    /// The pod's network as it is now; `None` if it has none.
    fn network(&self, key: &PodKey) -> Option<NetworkReport> {
        let _ = key;
        None
    }

    /// What was seen of the pod's traffic; `None` if there is no such pod.
    fn network_audit(&self, key: &PodKey) -> Option<AuditReport> {
        let _ = key;
        None
    }

    /// What each pod uses now, in the order of their names.
    fn pods_use(&self) -> Vec<PodUse> {
        Vec::new()
    }

    /// What the node uses now; `None` where nobody measures.
    fn node_use(&self) -> Option<NodeUse> {
        None
    }

    /// Accepts a new pod: defaults, validates, makes it durable, puts it on the board. `pod` is as the client wrote it, with
    /// its namespace, name, UID and creation time filled in by the server.
    ///
    /// # Errors
    /// [`WriteError::AlreadyExists`] if the name is taken by a pod of the API, [`WriteError::SourceConflict`] if by one of another source, …
    async fn create_pod(
        &self,
        pod: Pod,
        options: WriteOptions,
    ) -> Result<Accepted<Arc<Pod>>, WriteError>;

    /// Replaces a pod's metadata and the few mutable fields of its spec (`pod` is the whole new object).
    ///
    /// # Errors
    /// [`WriteError::Invalid`] for a change of anything else.
    async fn update_pod(
        &self,
        pod: Pod,
        options: WriteOptions,
    ) -> Result<Accepted<Arc<Pod>>, WriteError>;

    /// Begins a pod's graceful end. Returns the object with its `deletionTimestamp`; a pod that is already ending can only get less grace.
    ///
    /// # Errors
    /// [`WriteError::Forbidden`] for a pod that a file owns, …
    async fn delete_pod(
        &self,
        key: &PodKey,
        options: DeleteOptions,
    ) -> Result<Arc<Pod>, WriteError>;

    /// Creates (`replace` false) or replaces a ConfigMap or a Secret.
    ///
    /// # Errors
    /// As for pods.
    async fn put_object(
        &self,
        object: Object,
        replace: bool,
        options: WriteOptions,
    ) -> Result<Accepted<Object>, WriteError>;

    /// Deletes a ConfigMap or a Secret at once; returns its last state.
    ///
    /// # Errors
    /// As for pods.
    async fn delete_object(
        &self,
        key: &ObjectKey,
        options: DeleteOptions,
    ) -> Result<Object, WriteError>;

    /// The log of a container's current run, or (`previous`) of the one before it.
    ///
    /// # Errors
    /// [`LogError`] if there is none.
    fn logs(
        &self,
        key: &PodKey,
        container: &str,
        previous: bool,
    ) -> Result<Arc<dyn LogSource>, LogError>;
}

/// A connection into a pod, and where to count what it carries.
#[derive(Debug)]
pub struct Forward {
    pub stream: Stream,
    pub traffic: Arc<Traffic>,
}

/// Why no connection into a pod came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    #[error("the pod is not running")]
    NotRunning,
    #[error("connection refused: no module of the pod listens on this port")]
    Refused,
    #[error("the module accepts no connection")]
    TimedOut,
    #[error("the pod has too many connections")]
    Limit,
}

/// How a write is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Validate and answer, change nothing (`dryRun=All`).
    pub dry_run: bool,
    /// The write holds only if the object is still at this version (optimistic lock of PUT and PATCH).
    pub resource_version: Option<String>,
    /// Who writes (`fieldManager`), for logs only.
    pub field_manager: Option<String>,
}

/// How a deletion is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Overrides the pod's own grace; zero: kill at once.
    pub grace: Option<Duration>,
    /// Only this incarnation (`preconditions.uid`).
    pub uid: Option<String>,
    /// Only this version (`preconditions.resourceVersion`).
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

/// A write that was accepted (and, unless it was a dry run, is durable).
#[derive(Clone, Debug)]
pub struct Accepted<T> {
    pub object: T,
    /// Things to tell the person who wrote it; each becomes a `Warning:` header.
    pub warnings: Vec<String>,
}

/// One thing wrong with a field, in Kubernetes' words: a cause of an `Invalid` Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldCause {
    /// Path, as `spec.containers[0].image`.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: String,
    /// Without the path: `Required value`, `Invalid value: "x": must be …`.
    pub message: String,
}

/// Why a write was refused. Each becomes a `Status`; the comment says which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// 404 NotFound.
    #[error("not found")]
    NotFound,
    /// 409 AlreadyExists.
    #[error("already exists")]
    AlreadyExists,
    /// 409 AlreadyExists, with the reason: another source (a file, an intent) owns the name.
    #[error("{0}")]
    SourceConflict(String),
    /// 409 Conflict: the object is not at the version or UID that was asked for. With the cause's sentence, as
    /// `the object has been modified; please apply your changes to the latest version and try again`.
    #[error("{0}")]
    Conflict(String),
    /// 422 Invalid, with every field.
    #[error("invalid: {}", .0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join(", "))]
    Invalid(Vec<FieldCause>),
    /// 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// 403 Forbidden: policy, quota, or an object that its file owns.
    #[error("{0}")]
    Forbidden(String),
    /// 405 MethodNotAllowed: not offered for this kind.
    #[error("{0}")]
    NotSupported(String),
    /// 500 InternalError: the record could not be written; nothing was changed.
    #[error("{0}")]
    Storage(String),
    /// 503 ServiceUnavailable: the daemon is ending.
    #[error("{0}")]
    Unavailable(String),
}

impl WriteError {
    /// The optimistic lock failed, in Kubernetes' words.
    #[must_use]
    pub fn modified() -> Self {
        Self::Conflict(
            "the object has been modified; please apply your changes to the latest version and \
             try again"
                .to_owned(),
        )
    }

    /// `preconditions.uid` does not hold, in Kubernetes' words.
    #[must_use]
    pub fn uid_precondition(asked: &str, found: &str) -> Self {
        Self::Conflict(format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {found}"
        ))
    }
}

/// Why there is no log. The server asks only for containers that the pod's spec has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The pod is gone.
    #[error("pod not found")]
    NoPod,
    /// There was no earlier run, or its log has been dropped.
    #[error("previous terminated container not found")]
    NoPrevious,
    /// It has not run yet; the reason it waits for comes from the pod's status.
    #[error("container is waiting to start")]
    Waiting,
    /// Its log is gone (the daemon has been restarted since).
    #[error("container is not available")]
    NotAvailable,
}
