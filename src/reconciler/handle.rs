//! What others may ask of the node.
//!
//! Owns: the requests, their refusals, and the way to a pod's logs. Not: carrying anything out (`task`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::admission::Level;
use crate::board::{Board, Object, ObjectKey};
use crate::manifest::FieldError;
use crate::mqtt::cause::{Reason, Refusal as RemoteRefusal};
use crate::mqtt::intent::Release;
use crate::mqtt::protocol::Admission;
use crate::pod::exec::{ExecAsk, ExecRefused, ExecResult};
use crate::pod::logs::PodLogs;
use crate::reconciler::desired::SourceConflict;
use crate::reconciler::intake::Offered;
use crate::spec::{ContainerName, PodKey};

/// Requests waiting for the node. Each caller has one at a time; more than this many callers wait in turn.
pub const REQUESTS_MAX: usize = 64;

/// Why the node refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("not found")]
    NotFound,
    #[error("already exists")]
    AlreadyExists,
    #[error(transparent)]
    SourceConflict(#[from] SourceConflict),
    /// The object is not the one, or not at the version, that the caller meant.
    #[error("{0}")]
    Conflict(String),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Invalid(Vec<FieldError>),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotSupported(String),
    /// Nothing was changed: it could not be made durable.
    #[error("{0}")]
    Storage(String),
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a command was not run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Pod(#[from] Refusal),
    #[error(transparent)]
    Container(#[from] ExecRefused),
}

/// What must hold of an object for a change to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// How a pod is to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub grace: Option<Duration>,
    pub only_if: Preconditions,
    pub dry_run: bool,
}

/// How something is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    pub only_if: Preconditions,
    pub dry_run: bool,
}

/// An accepted object, and what to tell about it.
#[derive(Clone, Debug)]
pub struct Written<T> {
    pub object: T,
    pub warnings: Vec<String>,
}

/// Answer to a request.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// One thing asked.
#[derive(Debug)]
pub enum Request {
    /// The whole folder, as it is now.
    Folder(Vec<Offered>),
    /// How short of memory the machine is.
    Pressure {
        level: Level,
        threshold_bytes: u64,
        available_bytes: u64,
    },
    /// Files to play.
    Play(Vec<Offered>, Reply<()>),
    CreatePod(Box<corev1::Pod>, Write, Reply<Written<Arc<corev1::Pod>>>),
    UpdatePod(Box<corev1::Pod>, Write, Reply<Written<Arc<corev1::Pod>>>),
    DeletePod(PodKey, Deletion, Reply<Arc<corev1::Pod>>),
    PutObject(Object, bool, Write, Reply<Written<Object>>),
    DeleteObject(ObjectKey, Write, Reply<Object>),
    /// Can this intent's pod run here?
    Admit(Arc<Release>, oneshot::Sender<Result<Admission, RemoteRefusal>>),
    /// Run it; whether its volumes begin anew.
    ApplyRelease(Arc<Release>, bool, oneshot::Sender<Result<(), RemoteRefusal>>),
    /// End the pod of that name that came over MQTT.
    Withdraw(PodKey, oneshot::Sender<()>),
    /// End a pod's modules and start them again.
    Restart(PodKey, Reply<()>),
    /// Does the task take requests?
    Alive(oneshot::Sender<()>),
    /// Where a pod's commands are asked for.
    Asks(PodKey, Reply<mpsc::Sender<ExecAsk>>),
}

/// The front of the node's task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    requests: mpsc::Sender<Request>,
    board: Board,
    logs: LogIndex,
    freed: Arc<Notify>,
}

/// The logs of all pods by name. Written by the task, read by everyone; the lock is held for one look-up.
#[derive(Clone, Debug, Default)]
pub struct LogIndex(Arc<Mutex<BTreeMap<PodKey, Arc<PodLogs>>>>);

impl LogIndex {
    pub fn insert(&self, key: PodKey, logs: Arc<PodLogs>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, logs);
    }

    pub fn remove(&self, key: &PodKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    #[must_use]
    pub fn get(&self, key: &PodKey) -> Option<Arc<PodLogs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

impl NodeHandle {
    #[must_use]
    pub fn new(
        requests: mpsc::Sender<Request>,
        board: Board,
        logs: LogIndex,
        freed: Arc<Notify>,
    ) -> Self {
        Self { requests, board, logs, freed }
    }

    /// Waits until a name, or room for one more, may have come free. One waits at a time.
    pub async fn name_came_free(&self) {
        self.freed.notified().await;
    }

    /// Whether an intent's pod can run here. Changes nothing.
    ///
    /// # Errors
    /// With everything that is wrong with it.
    pub async fn admit(&self, release: Arc<Release>) -> Result<Admission, RemoteRefusal> {
        self.ask_remote(|reply| Request::Admit(release, reply)).await
    }

    /// Runs an intent's pod in place of the one of that name. `recreate`: its volumes begin anew.
    ///
    /// # Errors
    /// If it cannot run here (any more): nothing has changed.
    pub async fn apply_release(
        &self,
        release: Arc<Release>,
        recreate: bool,
    ) -> Result<(), RemoteRefusal> {
        self.ask_remote(|reply| Request::ApplyRelease(release, recreate, reply)).await
    }

    /// Ends the pod of that name, if it came over MQTT.
    pub async fn withdraw(&self, key: PodKey) {
        let (reply, answer) = oneshot::channel();
        // A node that is gone has no pods.
        if self.requests.send(Request::Withdraw(key, reply)).await.is_ok() {
            drop(answer.await);
        }
    }

    /// Whether the task takes requests, when it gets to this one.
    pub async fn is_alive(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Alive(reply)).await.is_ok() && answer.await.is_ok()
    }

    /// Ends a pod's modules and starts them again; its volumes stay.
    ///
    /// # Errors
    /// If there is no such pod, or it is on its way out.
    pub async fn restart(&self, key: PodKey) -> Result<(), Refusal> {
        self.ask(|reply| Request::Restart(key, reply)).await
    }

    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    #[must_use]
    pub fn logs(&self, key: &PodKey) -> Option<Arc<PodLogs>> {
        self.logs.get(key)
    }

    /// Tells the node how short of memory the machine is.
    pub async fn pressure(&self, level: Level, threshold_bytes: u64, available_bytes: u64) {
        let request = Request::Pressure { level, threshold_bytes, available_bytes };
        drop(self.requests.send(request).await);
    }

    /// Tells the node what the folder holds now.
    pub async fn folder(&self, offered: Vec<Offered>) {
        // A node that is gone needs no snapshot.
        drop(self.requests.send(Request::Folder(offered)).await);
    }

    /// Runs the objects of files.
    ///
    /// # Errors
    /// If a name is taken twice.
    pub async fn play(&self, offered: Vec<Offered>) -> Result<(), Refusal> {
        self.ask(|reply| Request::Play(offered, reply)).await
    }

    /// Accepts a pod of the API: validated, durable, started.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn create_pod(
        &self,
        pod: corev1::Pod,
        how: Write,
    ) -> Result<Written<Arc<corev1::Pod>>, Refusal> {
        self.ask(|reply| Request::CreatePod(Box::new(pod), how, reply)).await
    }

    /// Replaces what may be changed of a pod.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn update_pod(
        &self,
        pod: corev1::Pod,
        how: Write,
    ) -> Result<Written<Arc<corev1::Pod>>, Refusal> {
        self.ask(|reply| Request::UpdatePod(Box::new(pod), how, reply)).await
    }

    /// Begins the end of a pod.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn delete_pod(
        &self,
        key: PodKey,
        how: Deletion,
    ) -> Result<Arc<corev1::Pod>, Refusal> {
        self.ask(|reply| Request::DeletePod(key, how, reply)).await
    }

    /// Creates or replaces an object that does not run.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn put_object(
        &self,
        object: Object,
        replace: bool,
        how: Write,
    ) -> Result<Written<Object>, Refusal> {
        self.ask(|reply| Request::PutObject(object, replace, how, reply)).await
    }

    /// Deletes an object that does not run.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn delete_object(&self, key: ObjectKey, how: Write) -> Result<Object, Refusal> {
        self.ask(|reply| Request::DeleteObject(key, how, reply)).await
    }

    /// Runs a command beside a module, in its pod. Dropping the future kills it.
    ///
    /// # Errors
    /// If there is no such pod, or it does not run, or the command cannot be started.
    pub async fn exec(
        &self,
        key: PodKey,
        container: Option<ContainerName>,
        command: Vec<String>,
    ) -> Result<ExecResult, ExecError> {
        let asks = self.ask(|reply| Request::Asks(key, reply)).await?;
        let (reply, answer) = oneshot::channel();
        let ended = || ExecRefused::Failed("the pod has ended".to_owned());
        asks.send(ExecAsk { container, command, reply }).await.map_err(|_| ended())?;
        Ok(answer.await.unwrap_or_else(|_| Err(ended()))?)
    }

    async fn ask_remote<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, RemoteRefusal>>) -> Request,
    ) -> Result<T, RemoteRefusal> {
        let ending = || RemoteRefusal::new(Reason::Failed, Refusal::ShuttingDown.to_string());
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| ending())?;
        answer.await.unwrap_or_else(|_| Err(ending()))
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Refusal::ShuttingDown)?;
        answer.await.unwrap_or(Err(Refusal::ShuttingDown))
    }
}
