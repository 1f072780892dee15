//! The daemon: everything wired together, started in order, ended in reverse.
//!
//! Owns: configuration, the order of start and stop, signals. Knows everyone; nobody but `cli` and `play` knows it.
//!
//! ```text
//!  start: directories ─► store ─► runtime ─► node (restored) ─► folder read once ─► pods start ─► API ─► READY=1
//!  stop:  API and folder ─► pods within their grace ─► records written ─► runtime
//! ```
//!
//! Restored pods start before, and without, any network.

pub mod backend;
pub mod config;
pub mod node;
mod node_object;
pub mod notify;
pub mod signals;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::daemon::backend::NodeBackend;
use crate::daemon::config::Config;
use crate::daemon::node::NodeParts;
use crate::reconciler::records::RecordKeeper;
use crate::reconciler::{NodeHandle, NodeTask, Offered, intake};
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
    let stop = CancellationToken::new();
    let parts = NodeParts::open(&config)?;
    // Before anything starts: a second daemon must fail here and not later.
    let listener = listen::bind(&config.socket).context("cannot serve the API")?;
    let (store, loaded, damage) =
        Store::open(&config.state_dir.join("store")).context("cannot open the node's state")?;
    for fault in &damage {
        warn!("damaged record: {fault}");
    }
    let store = Arc::new(store);
    let keeper = RecordKeeper::new(Arc::clone(&store));
    let node = parts.context(Arc::<RecordKeeper>::clone(&keeper));
    let (mut task, handle) =
        NodeTask::new(Arc::clone(&node), Some(store), Some(Arc::clone(&keeper)));
    task.restore(loaded);
    if first_folder(&mut task, &config).await {
        remove_orphans(&task, &node).await;
    }
    collect_images(&node).await;
    node.board.upsert(node_object::node(&node, &config.node_labels));
    let records_stop = CancellationToken::new();
    let records = tokio::spawn(keeper.run(records_stop.clone()));
    let pods_stop = CancellationToken::new();
    let pods = tokio::spawn(task.run(pods_stop.clone()));
    watch_folder(&config, &handle, &stop);
    let app = App::new(Arc::new(NodeBackend::new(handle)), node.clock, stop.clone());
    let server = tokio::spawn(listen::serve(listener, app, stop.clone()));
    info!(node = %config.node_name, socket = %config.socket.display(), "podling is up");
    notify::ready();
    let served = wait_for_end(server, &stop).await;
    notify::stopping();
    stop.cancel();
    pods_stop.cancel();
    pods.await.context("the node's task failed")?;
    records_stop.cancel();
    records.await.context("writing restart counts failed")?;
    node.runtime.shutdown(RUNTIME_SHUTDOWN).await;
    info!("podling has ended");
    served
}

/// Waits for a signal, or for the server to fail.
async fn wait_for_end(
    mut server: tokio::task::JoinHandle<()>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        signal = signals::stop() => {
            info!(signal = signal?, "stopping");
            stop.cancel();
            server.await.context("the API server failed")
        }
        ended = &mut server => ended.context("the API server failed"),
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
        Ok(Ok(Some(offered))) => {
            task.restore_folder(offered);
            true
        }
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

/// Modules that nothing names any more: earlier versions of `file:` images. Nothing runs yet, so none is in use.
async fn collect_images(node: &Arc<crate::pod::NodeContext>) {
    let node = Arc::clone(node);
    let collected = tokio::task::spawn_blocking(move || {
        if let Err(error) = node.images.collect(&|_| false) {
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
