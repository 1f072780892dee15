//! `podling play FILE…`: the pods of some manifests in the foreground, and gone when it ends.
//!
//! Owns: a node without memory (temporary volumes, nothing durable but the image store and the code cache), what a person
//! sees of it, and the exit code. Not: anything that pods do; the node is the daemon's own.
//!
//! Ends by itself when every pod has ended; Ctrl-C ends the pods within their grace, a second one at once.

mod follow;
mod screen;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::daemon::config::Config;
use crate::daemon::node::NodeParts;
use crate::daemon::signals::Signals;
use crate::play::screen::Screen;
use crate::pod::context::NoKeeper;
use crate::reconciler::{NodeTask, Offer, Offered, intake};
use crate::secret;
use crate::spec::{Pod, PodKey};

/// Exit code after a second Ctrl-C, as a shell reports it.
const INTERRUPTED: u8 = 130;

/// What modules get between the end of their pods' grace and the end of the process.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(2);

/// How long the last lines of log may take to reach the screen.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Plays the files until their pods end or the person does.
///
/// # Errors
/// If the node could not be set up; mistakes in the manifests are shown and end in exit code 1.
pub async fn run(files: Vec<PathBuf>, mut config: Config) -> anyhow::Result<ExitCode> {
    // A person's own node key, if there is one, opens the Secrets of the manifests.
    secret::leave_no_core_file();
    let scratch = Scratch::new()?;
    let images = config.state_dir.clone();
    config.state_dir.clone_from(&scratch.0);
    let offered: Vec<Offered> =
        files.iter().map(|path| intake::read_path(path, &config.node_name)).collect();
    if !report(&offered) {
        return Ok(ExitCode::FAILURE);
    }
    let pods = pods_of(&offered);
    anyhow::ensure!(!pods.is_empty(), "no pod in {}", names(&files));
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let parts = NodeParts::open_with_images(&config, &images)?;
    // Nobody has seen an earlier life of it.
    let node = parts.context(Arc::new(NoKeeper), 1);
    let (task, handle) = NodeTask::new(Arc::clone(&node), None, None);
    let stop = CancellationToken::new();
    let mut task = tokio::spawn(task.run(stop.clone()));
    let screen = Screen::open(&pods);
    let done = CancellationToken::new();
    let followers = follow::all(&handle, &pods, &screen, &done);
    let (ended, mut ends) = tokio::sync::watch::channel(None);
    let board = handle.board().clone();
    let watching =
        tokio::spawn(watch::show_all(board.clone(), pods.clone(), screen.clone(), ended));
    let warning = tokio::spawn(watch::show_warnings(board.clone(), screen.clone()));
    for line in created(&offered) {
        screen.line(&line);
    }
    handle.play(offered).await.context("cannot start")?;
    let end = tokio::select! {
        Ok(ended) = ends.wait_for(Option::is_some) => ended.unwrap_or(End::Stopped),
        _signal = signals.next() => {
            screen.line("stopping; Ctrl-C again ends at once");
            End::Stopped
        }
        () = screen.gone() => End::Stopped,
    };
    stop.cancel();
    let code = tokio::select! {
        ended = &mut task => {
            ended.context("the node's task failed")?;
            end.exit_code()
        }
        _again = signals.next() => ExitCode::from(INTERRUPTED),
    };
    node.runtime.shutdown(RUNTIME_SHUTDOWN).await;
    done.cancel();
    watching.abort();
    warning.abort();
    watch::show_last(&board, &screen);
    // Followers only print what is already there; one that does not end in time has lost its terminal.
    drop(tokio::time::timeout(LAST_LINES, followers.wait()).await);
    screen.close(&end);
    drop(scratch);
    Ok(code)
}

/// Why `play` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Stopped,
    AllSucceeded,
    SomeFailed,
}

impl End {
    fn exit_code(self) -> ExitCode {
        match self {
            Self::Stopped | Self::AllSucceeded => ExitCode::SUCCESS,
            Self::SomeFailed => ExitCode::FAILURE,
        }
    }
}

/// Shows every mistake and warning; true if there is none of the first kind.
fn report(offered: &[Offered]) -> bool {
    let mut clean = true;
    for file in offered {
        for warning in &file.warnings {
            eprintln!("{warning}");
        }
        for problem in file.result.as_ref().err().into_iter().flatten() {
            eprintln!("{problem}");
            clean = false;
        }
    }
    clean
}

fn pods_of(offered: &[Offered]) -> Vec<Arc<Pod>> {
    let offers = offered.iter().filter_map(|file| file.result.as_ref().ok()).flatten();
    offers
        .filter_map(|offer| match offer {
            Offer::Pod(accepted) => Some(Arc::clone(&accepted.pod)),
            Offer::Data(_) => None,
        })
        .collect()
}

/// What is made of the files, as `kubectl apply` tells it.
fn created(offered: &[Offered]) -> Vec<String> {
    let offers = offered.iter().filter_map(|file| file.result.as_ref().ok()).flatten();
    let line = |offer: &Offer| {
        let key = offer.key();
        format!("{}/{} created", key.kind.as_str().to_ascii_lowercase(), key.name)
    };
    offers.map(line).collect()
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// How a pod is called on the screen: without its namespace where that is the usual one.
fn label(key: &PodKey) -> String {
    match &*key.namespace {
        crate::board::DEFAULT_NAMESPACE => key.name.to_string(),
        _ => key.to_string(),
    }
}

/// A private folder that goes with the process.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("podling-play-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        // Not recursive: a folder that is there already is somebody else's.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the temporary folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        eprintln!("warning: the temporary folder {} stays: {error}", path.display());
    }
}
