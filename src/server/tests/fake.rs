//! A backend without a daemon: accepts everything, runs nothing. For tests of the server and the CLI.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStatus, Pod, PodCondition, PodIP,
};
use tokio::sync::watch;

use crate::board::logs::{LogChunk, LogCursor, LogLine, LogSource, LogStream};
use crate::board::{Board, Object, ObjectKey, wire_time};
use crate::clock::{Clock, Timestamp};
use crate::net::{Member, MemberLimits, NoLedger, PodNet};
use crate::server::backend::{
    Accepted, Backend, DeleteOptions, FieldCause, Forward, ForwardError, LogError, WriteError,
    WriteOptions,
};
use crate::spec::PodKey;

/// What [`FakeBackend`] is asked to do out of the ordinary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// The next write fails so.
    pub(crate) refuse: Option<WriteError>,
    /// Warnings of the next accepted write.
    pub(crate) warnings: Vec<String>,
    /// Deleted pods stay, ending, until [`FakeBackend::finish`].
    pub(crate) slow_end: bool,
}

#[derive(Debug)]
pub(crate) struct FakeBackend {
    board: Board,
    clock: Clock,
    behaviour: Mutex<Behaviour>,
    logs: Mutex<BTreeMap<(PodKey, String, bool), Arc<FakeLog>>>,
    /// The network that every pod has, and the daemon's membership in it.
    host: Option<Member>,
}

impl FakeBackend {
    pub(crate) fn new() -> Arc<Self> {
        Self::made(None)
    }

    /// With this network for every pod.
    pub(crate) fn with_network(net: &PodNet) -> Arc<Self> {
        Self::made(Some(net.join("host", MemberLimits::default(), Arc::new(NoLedger))))
    }

    fn made(host: Option<Member>) -> Arc<Self> {
        let clock = Clock::start();
        Arc::new(Self {
            board: Board::new(100, clock.now()),
            clock,
            behaviour: Mutex::default(),
            logs: Mutex::default(),
            host,
        })
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.behaviour));
    }

    /// The pod has ended: its object goes.
    pub(crate) fn finish(&self, namespace: &str, name: &str) {
        self.board.remove_pod(&PodKey::new(namespace, name), None);
    }

    /// Puts an object on the board that no client can write.
    pub(crate) fn put_for_test(&self, object: impl Into<Object>) {
        self.board.upsert(object);
    }

    /// The log of a container, made when first asked for.
    pub(crate) fn log(&self, pod: &str, container: &str, previous: bool) -> Arc<FakeLog> {
        let key = (PodKey::new("default", pod), container.to_owned(), previous);
        Arc::clone(lock(&self.logs).entry(key).or_insert_with(|| Arc::new(FakeLog::new())))
    }

    fn refusal(&self) -> Result<Vec<String>, WriteError> {
        let mut behaviour = lock(&self.behaviour);
        match behaviour.refuse.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut behaviour.warnings)),
        }
    }

    fn put(&self, object: Object, dry_run: bool) -> Object {
        if dry_run { object } else { self.board.upsert(object) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes every container of the pod run and be ready.
pub(crate) fn run(pod: &mut Pod, now: Timestamp) {
    let spec = pod.spec.get_or_insert_default();
    spec.node_name.get_or_insert_with(|| "gateway".to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    let started = Some(wire_time(now.wall_ms()));
    let running = |name: &str, image: Option<&String>| ContainerStatus {
        name: name.to_owned(),
        image: image.cloned().unwrap_or_default(),
        ready: true,
        started: Some(true),
        state: Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: started.clone() }),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    };
    let statuses = spec.containers.iter().map(|c| running(&c.name, c.image.as_ref())).collect();
    let condition = |kind: &str| PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    };
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Running".to_owned());
    status.pod_ip = Some("10.88.0.2".to_owned());
    status.pod_ips = Some(vec![PodIP { ip: "10.88.0.2".to_owned() }]);
    status.start_time = started.clone();
    status.container_statuses = Some(statuses);
    status.conditions =
        Some(["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition).to_vec());
}

#[async_trait]
impl Backend for FakeBackend {
    fn board(&self) -> &Board {
        &self.board
    }

    async fn forward(&self, _key: &PodKey, port: u16) -> Result<Forward, ForwardError> {
        let host = self.host.as_ref().ok_or(ForwardError::NotRunning)?;
        let connecting = host.connect(([127, 0, 0, 1], port).into());
        let stream = connecting.map_err(|_| ForwardError::Refused)?.await;
        let stream = stream.map_err(|_| ForwardError::Refused)?;
        Ok(Forward { stream, traffic: Arc::default() })
    }

    async fn create_pod(
        &self,
        mut pod: Pod,
        options: WriteOptions,
    ) -> Result<Accepted<Arc<Pod>>, WriteError> {
        let warnings = self.refusal()?;
        let object = Object::from(pod.clone());
        if self.board.get(&object.key()).is_some() {
            return Err(WriteError::AlreadyExists);
        }
        if pod.spec.as_ref().is_none_or(|spec| spec.containers.is_empty()) {
            return Err(WriteError::Invalid(vec![FieldCause {
                field: "spec.containers".to_owned(),
                reason: "FieldValueRequired".to_owned(),
                message: "Required value".to_owned(),
            }]));
        }
        run(&mut pod, self.clock.now());
        let object = if options.dry_run { Arc::new(pod) } else { self.board.upsert_pod(pod) };
        Ok(Accepted { object, warnings })
    }

    async fn update_pod(
        &self,
        pod: Pod,
        options: WriteOptions,
    ) -> Result<Accepted<Arc<Pod>>, WriteError> {
        let warnings = self.refusal()?;
        let Object::Pod(object) = self.put(Object::from(pod), options.dry_run) else {
            return Err(WriteError::NotFound);
        };
        Ok(Accepted { object, warnings })
    }

    async fn delete_pod(
        &self,
        key: &PodKey,
        options: DeleteOptions,
    ) -> Result<Arc<Pod>, WriteError> {
        self.refusal()?;
        let mut pod = self.board.pod(key).ok_or(WriteError::NotFound)?.as_ref().clone();
        let grace = options.grace.unwrap_or(std::time::Duration::from_secs(30));
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        pod.metadata.deletion_grace_period_seconds = Some(seconds);
        pod.metadata.deletion_timestamp = Some(wire_time(self.clock.now().plus(grace).wall_ms()));
        if options.dry_run {
            return Ok(Arc::new(pod));
        }
        let pod = self.board.upsert_pod(pod);
        if !lock(&self.behaviour).slow_end {
            self.board.remove_pod(key, None);
        }
        Ok(pod)
    }

    async fn put_object(
        &self,
        object: Object,
        replace: bool,
        options: WriteOptions,
    ) -> Result<Accepted<Object>, WriteError> {
        let warnings = self.refusal()?;
        if self.board.get(&object.key()).is_some() != replace {
            return Err(if replace { WriteError::NotFound } else { WriteError::AlreadyExists });
        }
        Ok(Accepted { object: self.put(object, options.dry_run), warnings })
    }

    async fn delete_object(
        &self,
        key: &ObjectKey,
        options: DeleteOptions,
    ) -> Result<Object, WriteError> {
        self.refusal()?;
        if options.dry_run {
            return self.board.get(key).ok_or(WriteError::NotFound);
        }
        self.board.remove(key, None).ok_or(WriteError::NotFound)
    }

    fn logs(
        &self,
        key: &PodKey,
        container: &str,
        previous: bool,
    ) -> Result<Arc<dyn LogSource>, LogError> {
        let found = lock(&self.logs).get(&(key.clone(), container.to_owned(), previous)).cloned();
        match found {
            Some(log) => Ok(log),
            None if previous => Err(LogError::NoPrevious),
            None => Err(LogError::Waiting),
        }
    }
}

/// A log that a test writes by hand; keeps everything.
#[derive(Debug)]
pub(crate) struct FakeLog {
    lines: Mutex<(Vec<LogLine>, bool)>,
    changed: watch::Sender<u64>,
}

impl FakeLog {
    fn new() -> Self {
        Self { lines: Mutex::default(), changed: watch::channel(0).0 }
    }

    /// A whole line, at this many seconds after 2024-01-01T00:00:00Z.
    pub(crate) fn line(&self, second: i64, text: &str) -> &Self {
        self.push(second, text, false)
    }

    /// A line of which the end is still to come.
    pub(crate) fn partial(&self, second: i64, text: &str) -> &Self {
        self.push(second, text, true)
    }

    pub(crate) fn end(&self) {
        lock(&self.lines).1 = true;
        self.changed.send_modify(|n| *n += 1);
    }

    fn push(&self, second: i64, text: &str, partial: bool) -> &Self {
        let time_ns = (1_704_067_200 + second) * 1_000_000_000 + 5;
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        lock(&self.lines).0.push(LogLine { time_ns, stream: LogStream::Stdout, partial, bytes });
        self.changed.send_modify(|n| *n += 1);
        self
    }
}

impl LogSource for FakeLog {
    fn read(&self, from: LogCursor, _max_bytes: usize) -> LogChunk {
        let lines = lock(&self.lines);
        let start = usize::try_from(from.0).unwrap_or(usize::MAX).min(lines.0.len());
        LogChunk {
            lines: lines.0[start..].to_vec(),
            next: LogCursor(lines.0.len() as u64),
            ended: lines.1,
            dropped: 0,
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
