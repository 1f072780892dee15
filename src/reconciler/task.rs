//! The node's one task: takes requests, keeps the desire durable, starts and stops workers.
//!
//! Owns: [`Desired`], the workers, who owns which of the objects that do not run. Not: understanding manifests (`intake`), comparing
//! (`plan`), running pods (`pod`). Requests are taken one at a time, so that two writes of one name cannot cross; a write
//! waits for its disk, and nobody else's pod does.
//!
//! ```text
//!  request ─► store (durable) ─► desired ─► pass: plan ─► forget, stop, remove, start
//!  worker finished ────────────────────────► pass
//! ```

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admission::Level;
use crate::board::{Board, ObjectKey, wire_time};
use crate::image::Pin;
use crate::lifecycle::StopReason;
use crate::pod::node_ports;
use crate::pod::{NodeContext, PublishedPod, Worker, WorkerHandle};
use crate::reconciler::desired::{Accepted, Desired};
use crate::reconciler::endpoints;
use crate::reconciler::handle::{LogIndex, NodeHandle, REQUESTS_MAX, Request};
use crate::reconciler::intake::Offer;
use crate::reconciler::plan::{Plan, Running, Stage};
use crate::reconciler::records::{RecordKeeper, Remembered};
use crate::spec::{Container, Pod, PodKey, PodUid, RestartPolicy, Source};
use crate::store::Store;

/// Passes in a row that one change may need: a deletion, then its successor's start, then nothing.
const PASSES_MAX: usize = 4;

/// Workers that may finish at once without waiting for this task.
const FINISHED_MAX: usize = 64;

/// What may happen after the longest grace at shutdown: the kill, the volumes, the last status.
const AFTER_GRACE: Duration = Duration::from_secs(5);

struct Entry {
    handle: WorkerHandle,
    finished: bool,
    /// The pod had come to its end before this worker began: it takes no room, also before its worker has said so.
    over: bool,
}

/// See the header. Made once, consumed by [`NodeTask::run`].
pub struct NodeTask {
    pub(super) node: Arc<NodeContext>,
    /// Absent for `play`: nothing is to survive.
    pub(super) store: Option<Arc<Store>>,
    pub(super) keeper: Option<Arc<RecordKeeper>>,
    pub(super) desired: Desired,
    /// Who owns the objects on the board that do not run: ConfigMaps, Secrets, Services, NetworkPolicies.
    pub(super) data_owners: BTreeMap<ObjectKey, Source>,
    /// The last good reading of each file: a file that has become bad keeps its pods.
    pub(super) last_good: BTreeMap<std::path::PathBuf, Vec<Offer>>,
    /// ConfigMaps that came with a pod over MQTT, and which pod's they are.
    pub(super) remote_data: BTreeMap<ObjectKey, PodKey>,
    /// Told when a name or room came free.
    freed: Arc<Notify>,
    /// What was said of each file, so that it is said once.
    pub(super) reported: BTreeMap<std::path::PathBuf, Vec<String>>,
    /// What of the folder is not used, and why: said once, and tried again when something is gone.
    pub(super) refused: BTreeSet<(String, String)>,
    workers: BTreeMap<PodUid, Entry>,
    pub(super) restored: BTreeMap<PodUid, Remembered>,
    /// How short of memory the machine is.
    pub(super) pressure: Level,
    logs: LogIndex,
    /// Keeps the images of all pods that are wanted from being collected.
    images: Option<Pin>,
    requests: mpsc::Receiver<Request>,
    finished: (mpsc::Sender<PodUid>, mpsc::Receiver<PodUid>),
}

impl std::fmt::Debug for NodeTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeTask")
            .field("pods", &self.desired.len())
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl NodeTask {
    /// A node without pods.
    #[must_use]
    pub fn new(
        node: Arc<NodeContext>,
        store: Option<Arc<Store>>,
        keeper: Option<Arc<RecordKeeper>>,
    ) -> (Self, NodeHandle) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let logs = LogIndex::default();
        let freed = Arc::new(Notify::new());
        let handle = NodeHandle::new(sender, node.board.clone(), logs.clone(), Arc::clone(&freed));
        let task = Self {
            node,
            store,
            keeper,
            desired: Desired::default(),
            data_owners: BTreeMap::new(),
            last_good: BTreeMap::new(),
            remote_data: BTreeMap::new(),
            freed,
            reported: BTreeMap::new(),
            refused: BTreeSet::new(),
            workers: BTreeMap::new(),
            restored: BTreeMap::new(),
            pressure: Level::Calm,
            logs,
            images: None,
            requests,
            finished: mpsc::channel(FINISHED_MAX),
        };
        (task, handle)
    }

    /// Starts what was restored, so that it is shown before anybody can ask. Within the runtime that runs the workers.
    pub fn begin(&mut self) {
        self.pass();
    }

    /// Runs the node until `stop`, then ends every pod within its grace.
    pub async fn run(mut self, stop: CancellationToken) {
        let endpoints = endpoints::run(Arc::clone(&self.node), stop.clone());
        let endpoints = tokio::spawn(endpoints);
        let ports_stop = CancellationToken::new();
        let ports = node_ports::run(Arc::clone(&self.node), ports_stop.clone());
        let ports = tokio::spawn(ports);
        self.pass();
        loop {
            // Each arm is cancel-safe: both channels keep what was not taken.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(uid) = self.finished.1.recv() => self.worker_finished(&uid),
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => break,
                },
            }
            self.pass();
        }
        self.end_all().await;
        endpoints.abort();
        // Ports of Services lead to pods that are gone now.
        ports_stop.cancel();
        drop(ports.await);
    }

    async fn answer(&mut self, request: Request) {
        // A caller that has gone away needs no answer; what it asked for is done all the same.
        match request {
            Request::Folder(offered) => self.folder(offered),
            Request::Pressure { level, threshold_bytes, available_bytes } => {
                self.feel(level, threshold_bytes, available_bytes);
            }
            Request::Play(offered, reply) => drop(reply.send(self.play(offered))),
            Request::CreatePod(pod, how, reply) => {
                drop(reply.send(self.create_pod(*pod, how).await));
            }
            Request::UpdatePod(pod, how, reply) => {
                drop(reply.send(self.update_pod(*pod, how).await));
            }
            Request::DeletePod(key, how, reply) => {
                drop(reply.send(self.delete_pod(&key, how).await));
            }
            Request::PutObject(object, replace, how, reply) => {
                drop(reply.send(self.put_object(object, replace, how).await));
            }
            Request::DeleteObject(key, how, reply) => {
                drop(reply.send(self.delete_object(&key, how).await));
            }
            Request::Admit(release, reply) => drop(reply.send(self.admit(&release))),
            Request::ApplyRelease(release, recreate, reply) => {
                drop(reply.send(self.apply_release(&release, recreate)));
            }
            Request::Withdraw(key, reply) => {
                self.withdraw(&key);
                // As above.
                let _ = reply.send(());
            }
            Request::Restart(key, reply) => drop(reply.send(self.restart(&key))),
            Request::Alive(reply) => drop(reply.send(())),
            Request::Asks(key, reply) => drop(reply.send(self.asks(&key))),
        }
    }

    pub(super) fn board(&self) -> &Board {
        &self.node.board
    }

    /// Compares what is wanted with what runs until there is nothing to do.
    pub(super) fn pass(&mut self) {
        for _ in 0..PASSES_MAX {
            let running: Vec<Running> = self.workers.values().map(Entry::seen).collect();
            let plan = Plan::new(&self.desired.wanted(), &running);
            if !self.apply(plan) {
                break;
            }
        }
        self.hold_images();
    }

    /// Keeps what the pods need. The new pin is there before the old one goes.
    pub fn hold_images(&mut self) {
        let images = self.desired.pods().flat_map(|pod| pod.all_containers().map(|c| &c.image));
        let pin = self.node.images.pins().hold_images(images);
        self.images = Some(pin);
    }

    /// Carries a plan out; true if another pass may find more.
    fn apply(&mut self, plan: Plan) -> bool {
        let more = !plan.forget.is_empty() || !plan.remove.is_empty();
        for uid in &plan.forget {
            self.workers.remove(uid);
        }
        for (uid, grace) in &plan.stop {
            if let Some(entry) = self.workers.get(uid) {
                if let Some(grace) = grace {
                    entry.handle.published.set_deleting(self.node.clock.now(), *grace);
                }
                entry.handle.keep_volumes(self.desired.is_replaced_in_place(&entry.handle.key));
                entry.handle.stop(*grace, StopReason::Deleted);
            }
        }
        for key in &plan.remove {
            self.remove(key);
        }
        if !plan.remove.is_empty() {
            self.name_came_free();
        }
        for key in &plan.start {
            self.start(key);
        }
        more
    }

    /// A pod that was ending is gone: its object goes, its successor may come.
    fn remove(&mut self, key: &PodKey) {
        let in_place = self.desired.is_replaced_in_place(key);
        let Some((old, next)) = self.desired.removed(key) else { return };
        if !in_place {
            self.node.board.remove_pod(key, Some(&old.pod.uid));
        }
        self.node.fabric.forget(&old.pod.uid);
        if !in_place {
            self.node.shelf.forget(&old.pod.uid);
        }
        if let Some(keeper) = &self.keeper {
            if in_place && leaves_no_end(&old.pod) {
                keeper.forget_with_the_next(&old.pod.uid);
            } else {
                keeper.forget(&old.pod.uid);
            }
        }
        self.restored.remove(&old.pod.uid);
        if next.is_none() {
            self.logs.remove(key);
        }
        info!(pod = %key, uid = %old.pod.uid, "pod is gone");
    }

    /// The folder, or the MQTT source, may have been refused the name, or the room, that is free now.
    pub(super) fn name_came_free(&mut self) {
        self.freed.notify_one();
        if !self.refused.is_empty() {
            self.take_folder();
        }
    }

    fn start(&mut self, key: &PodKey) {
        let Some((accepted, _)) = self.desired.get(key) else { return };
        let accepted = accepted.clone();
        let published = self.publish(&accepted);
        let uid = published.pod().uid.clone();
        let restored = self.recall(&accepted).or_else(|| self.let_in(&accepted.pod));
        let over = restored.as_ref().is_some_and(|restored| restored.ended.is_some());
        let finished = self.finished.0.clone();
        let handle = Worker::spawn(&self.node, published, restored, finished);
        self.logs.insert(key.clone(), Arc::clone(&handle.logs));
        self.workers.insert(uid, Entry { handle, finished: false, over });
    }

    fn publish(&self, accepted: &Accepted) -> Arc<PublishedPod> {
        let host_ips = self.node.node.host_ips.clone();
        let mut object = (*accepted.object).clone();
        let now = wire_time(self.node.clock.now().wall_ms());
        object.metadata.creation_timestamp.get_or_insert(now);
        let pod = Arc::clone(&accepted.pod);
        let (board, fabric) = (self.node.board.clone(), self.node.fabric.clone());
        PublishedPod::new(board, fabric, host_ips, pod, object)
    }

    /// The workers of pods that have not ended.
    pub(super) fn live_workers(&self) -> impl Iterator<Item = &WorkerHandle> {
        let live = self.workers.values().filter(|entry| !entry.finished && !entry.over);
        live.map(|entry| &entry.handle).filter(|handle| !handle.published.has_ended())
    }

    pub(super) fn worker(&self, uid: &PodUid) -> Option<&WorkerHandle> {
        self.workers.get(uid).map(|entry| &entry.handle)
    }

    /// A ConfigMap or Secret of that namespace changed.
    pub(super) fn data_changed(&self, namespace: &str) {
        let here = |e: &&Entry| &*e.handle.key.namespace == namespace && !e.finished;
        for entry in self.workers.values().filter(here) {
            if entry.handle.published.pod().volumes.iter().any(|v| v.source.is_data()) {
                entry.handle.refresh();
            }
        }
    }

    fn worker_finished(&mut self, uid: &PodUid) {
        if let Some(entry) = self.workers.get_mut(uid) {
            entry.finished = true;
        }
    }

    /// Ends every pod and waits, at most the longest grace and a little.
    async fn end_all(&mut self) {
        self.requests.close();
        let graces = self.workers.values().map(|e| e.handle.published.pod().grace);
        let longest = graces.max().unwrap_or_default();
        for entry in self.workers.values() {
            entry.handle.stop(None, StopReason::Shutdown);
        }
        // A sleep takes any length, also that of a grace which never ends.
        let mut late = pin!(tokio::time::sleep(longest.saturating_add(AFTER_GRACE)));
        while self.workers.values().any(|entry| !entry.finished) {
            tokio::select! {
                Some(uid) = self.finished.1.recv() => self.worker_finished(&uid),
                () = &mut late => break,
            }
        }
        for entry in self.workers.values().filter(|entry| !entry.finished) {
            warn!(pod = %entry.handle.key, "did not end in time");
        }
    }
}

/// Whether what is remembered of a pod never says that something of it is over: then its next form runs, whatever it finds.
fn leaves_no_end(pod: &Pod) -> bool {
    let for_ever = |c: &Container| c.restart_policy.is_none() && c.restart_rules.is_empty();
    pod.restart_policy == RestartPolicy::Always
        && pod.init_containers.is_empty()
        && pod.containers.iter().all(for_ever)
}

impl Entry {
    fn seen(&self) -> Running {
        let stage = if self.finished {
            Stage::Finished
        } else if self.handle.is_stopping() {
            Stage::Stopping
        } else {
            Stage::Running
        };
        Running { key: self.handle.key.clone(), uid: self.handle.uid.clone(), stage }
    }
}
