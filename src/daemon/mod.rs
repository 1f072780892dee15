//! The daemon: everything wired together, started in order, ended in reverse.
//!
//! Owns: configuration, the order of start and stop, signals. Knows everyone; nobody but `cli` and `play` knows it.
//!
//! ```text
//!  start: directories ─► store ─► runtime ─► node (restored, MQTT's too) ─► folder read once ─► pods start ─► MQTT ─► API ─► … they run ─► READY=1
//!  stop:  API, folder, MQTT ─► pods within their grace ─► records written ─► runtime
//! ```
//!
//! Restored pods start before, and without, any network.

pub mod backend;
pub mod config;
pub mod doctor;
mod faults;
pub mod metrics;
pub mod mqtt;
pub mod network;
mod network_audit;
mod network_metrics;
mod network_report;
pub mod node;
mod node_object;
pub mod notify;
mod pressure;
mod ready;
pub mod signals;
pub mod status_key;
mod test_clock;
mod versions;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::daemon::backend::NodeBackend;
use crate::daemon::config::Config;
use crate::daemon::node::NodeParts;
use crate::daemon::node_object::NodeObject;
use crate::daemon::signals::Signals;
use crate::reconciler::records::RecordKeeper;
use crate::reconciler::{NodeHandle, NodeTask, Offered, intake};
use crate::secret;
use crate::server::{App, listen};
use crate::source::folder::{self, Folder, Snapshot};
use crate::spec::Source;
use crate::store::Store;

/// Snapshots of the folder waiting to be taken in; a newer one makes an older one pointless, and one in hand is enough.
const SNAPSHOTS_MAX: usize = 1;

/// What running modules get after their pods' grace, before the process ends.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(2);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// If a directory, the store, the engine or the socket cannot be had: with what to do about it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    secret::leave_no_core_file();
    let stop = CancellationToken::new();
    if let Some(file) = config.test_clock.clone() {
        let said = test_clock::begin(&file);
        tokio::spawn(test_clock::follow(file, said, stop.clone()));
    }
    let parts = NodeParts::open(&config)?;
    // Before anything starts: a second daemon must fail here and not later.
    let listener = listen::bind(&config.socket).context("cannot serve the API")?;
    let (store, mut loaded, damage) =
        Store::open(&config.state_dir.join("store")).context("cannot open the node's state")?;
    for fault in &damage {
        warn!("damaged record: {fault}");
    }
    let store = Arc::new(store);
    let keeper = RecordKeeper::new(Arc::clone(&store));
    let kept = loaded.node.remove(versions::NAME);
    let first_version = versions::first(&store, kept.as_deref(), parts.now());
    let node = parts.context(Arc::<RecordKeeper>::clone(&keeper), first_version);
    let (mut task, handle) =
        NodeTask::new(Arc::clone(&node), Some(Arc::clone(&store)), Some(Arc::clone(&keeper)));
    // What belongs to no pod may go only if all pods are known: one broken file must not cost its pod's data.
    let remote =
        mqtt::Remote::restore(&config, &mut task, &node, &store, std::mem::take(&mut loaded.mqtt));
    let restored_all = task.restore(loaded) && remote.knows_its_pods();
    // Until its source runs, and holds it itself.
    let needed = node.images.pins().hold(remote.pinned());
    if first_folder(&mut task, &config).await && restored_all {
        task.forget_orphans();
        remove_orphans(&task, &node).await;
        // Everybody who needs a module has said so.
        task.hold_images();
        node.images.pins().settle();
        collect_images(&node).await;
    }
    let object = NodeObject::show(&node, &config.node_labels);
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let records_stop = CancellationToken::new();
    let records = tokio::spawn(keeper.run(records_stop.clone()));
    let pods_stop = CancellationToken::new();
    // Whoever reads a list that is not whole yet would take what is missing for deleted.
    task.begin();
    let mut pods = Part::spawn("the node's task failed", task.run(pods_stop.clone()));
    watch_folder(&config, &handle, &stop);
    watch_memory(&config, &node, &handle, &object, &stop);
    if let (Some(order), Some(faults)) = (&config.network.test_faults, &node.faults) {
        warn!("the pods' network has faults by order of a file: a test");
        tokio::spawn(faults::run(
            Arc::clone(&node),
            faults.clone(),
            order.orders.clone(),
            stop.clone(),
        ));
    }
    let mut remote = remote.start(&handle, &store, &node, &object, &stop);
    let mut registry = metrics::registry(&node, Some(&store));
    drop(needed);
    remote.register(&mut registry);
    feed_watchdog(&handle, &stop);
    let backend = NodeBackend::new(handle, Arc::clone(&node), registry);
    let app = App::new(Arc::new(backend), node.clock, stop.clone());
    let serve = listen::serve(listener, app, stop.clone());
    let mut server = Part::spawn("the API server failed", serve);
    info!(node = %config.node_name, socket = %config.socket.display(), "podling is up");
    tokio::spawn(ready::tell(node.board.clone(), stop.clone()));
    let served = tokio::select! {
        signal = signals.next() => {
            info!(signal, "stopping; a second signal ends at once");
            Ok(())
        }
        // Neither ends by itself. Without one of them the daemon is of no use, and its service manager should know.
        failed = pods.ended() => failed.and(Err(anyhow::anyhow!("the node's task has ended"))),
        failed = server.ended() => failed.and(Err(anyhow::anyhow!("the API server has ended"))),
    };
    notify::stopping();
    let orderly = async {
        stop.cancel();
        let served = server.ended().await;
        remote.ended().await;
        pods_stop.cancel();
        served.and(pods.ended().await)
    };
    let ended = tokio::select! {
        ended = orderly => ended,
        signal = signals.next() => {
            warn!(signal, "told again to stop: not waiting for the pods");
            Ok(())
        }
    };
    records_stop.cancel();
    records.await.context("writing restart counts failed")?;
    node.runtime.shutdown(RUNTIME_SHUTDOWN).await;
    info!("podling has ended");
    served.and(ended)
}

/// A task that the daemon stands on.
struct Part {
    failure: &'static str,
    task: Option<JoinHandle<()>>,
}

impl Part {
    fn spawn(failure: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { failure, task: Some(tokio::spawn(work)) }
    }

    /// Waits for its end; at once if that was seen before.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        ended.context(self.failure)
    }
}

/// Reads the folder once before anything starts. True if the whole desire is known now.
async fn first_folder(task: &mut NodeTask, config: &Config) -> bool {
    let Some(dir) = config.manifest_dir.clone() else { return true };
    let node_name = config.node_name.clone();
    let read = tokio::task::spawn_blocking(move || {
        let snapshot = Folder::new(dir).scan()?;
        Ok::<_, folder::ReadFolderError>(snapshot.map(|s| read_all(&s, &node_name)))
    });
    match read.await {
        Ok(Ok(Some(offered))) => task.restore_folder(offered),
        Ok(Ok(None)) => true,
        // Reported by the watching task, which tries again.
        Ok(Err(_)) | Err(_) => false,
    }
}

fn read_all(snapshot: &Snapshot, node_name: &str) -> Vec<Offered> {
    let read = |file: &folder::FolderFile| {
        intake::read_file(file, &Source::Folder(file.path.clone()), node_name)
    };
    snapshot.iter().map(read).collect()
}

/// Modules that no name and no pod needs any more: earlier versions of `file:` images, and of what came by digest.
async fn collect_images(node: &Arc<crate::pod::NodeContext>) {
    let node = Arc::clone(node);
    let collected = tokio::task::spawn_blocking(move || {
        if let Err(error) = node.images.collect_unneeded() {
            warn!(cause = %crate::error::chain(&error), "unused modules stay");
        }
    });
    if let Err(error) = collected.await {
        warn!(%error, "collecting unused modules failed internally");
    }
}

/// Volumes of pods that ended while the daemon was away.
async fn remove_orphans(task: &NodeTask, node: &Arc<crate::pod::NodeContext>) {
    let (node, keep) = (Arc::clone(node), task.known_uids());
    let removed = tokio::task::spawn_blocking(move || node.volumes.remove_orphans(&keep)).await;
    for error in removed.unwrap_or_default() {
        warn!(cause = %crate::error::chain(&error), "volumes of a pod that is gone stay");
    }
}

/// Tells the service manager that the control plane lives, if it wants to know.
fn feed_watchdog(handle: &NodeHandle, stop: &CancellationToken) {
    let Some(patience) = watchdog::patience() else { return };
    let node = handle.clone();
    let ask = move || {
        let node = node.clone();
        async move { node.is_alive().await }
    };
    tokio::spawn(watchdog::run(patience, ask, notify::watchdog, stop.clone()));
}

fn watch_memory(
    config: &Config,
    node: &Arc<crate::pod::NodeContext>,
    handle: &NodeHandle,
    object: &Arc<NodeObject>,
    stop: &CancellationToken,
) {
    let watch = pressure::Watch {
        proc_dir: config.proc_dir.clone(),
        node: Arc::clone(node),
        handle: handle.clone(),
        object: Arc::clone(object),
    };
    tokio::spawn(watch.run(stop.clone()));
}

fn watch_folder(config: &Config, handle: &NodeHandle, stop: &CancellationToken) {
    let Some(dir) = config.manifest_dir.clone() else { return };
    let (out, mut snapshots) = tokio::sync::mpsc::channel::<Snapshot>(SNAPSHOTS_MAX);
    tokio::spawn(folder::run(dir, out, stop.clone()));
    let (handle, node_name) = (handle.clone(), config.node_name.clone());
    tokio::spawn(async move {
        while let Some(snapshot) = snapshots.recv().await {
            let name = node_name.clone();
            // Parsing ten megabytes takes a while; nobody else should wait for it.
            match tokio::task::spawn_blocking(move || read_all(&snapshot, &name)).await {
                Ok(offered) => handle.folder(offered).await,
                Err(error) => warn!(%error, "reading manifests failed internally"),
            }
        }
    });
}
