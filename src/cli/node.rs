//! The commands that are the node itself: `daemon`, `play`, `check`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::daemon::config::{Config, ConfigFile, Places};

use super::args::{CheckArgs, DaemonArgs, NodeArgs, PlayArgs, ReportFormat};
use super::{Out, journal};

/// Threads of the control plane: probes, timers and the API are short work, and modules run on threads of their own.
const CONTROL_THREADS: usize = 2;

/// The environment variable that says what is logged, as `info,podling::pod=debug`.
const LOG_FILTER: &str = "PODLING_LOG";

pub(super) fn daemon(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    let config = config(&args.node, args.manifests.clone(), args.socket.clone())?;
    log_to_stderr("info")?;
    runtime()?.block_on(crate::daemon::run(config))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn play(args: PlayArgs) -> anyhow::Result<ExitCode> {
    let config = config(&args.node, None, None)?;
    log_to_stderr("warn")?;
    runtime()?.block_on(crate::play::run(args.files, config))
}

pub(super) fn check(args: &CheckArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let report = crate::manifest::check::check_files(&args.files);
    match args.output {
        ReportFormat::Text => out.line(report.to_string().trim_end())?,
        ReportFormat::Json => out.line(&serde_json::to_string_pretty(&report.to_json())?)?,
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The settings in force: defaults, then the file, then the command line.
pub(super) fn config(
    args: &NodeArgs,
    manifest_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
) -> anyhow::Result<Config> {
    let file = match &args.config {
        Some(path) => ConfigFile::read(path)?,
        None => ConfigFile::default(),
    };
    let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
    let words = |command: &String| command.split_whitespace().map(str::to_owned).collect();
    let over = ConfigFile {
        node_name: args.node_name.clone(),
        state_dir: absolute(args.state_dir.clone()).context("cannot make --state-dir absolute")?,
        cache_dir: absolute(args.cache_dir.clone()).context("cannot make --cache-dir absolute")?,
        manifest_dir: absolute(manifest_dir).context("cannot make --manifests absolute")?,
        socket: absolute(socket).context("cannot make --socket absolute")?,
        compile_command: args.compile_command.as_ref().map(words),
        ..ConfigFile::default()
    };
    Ok(file.overlaid_by(over).resolve(&Places::of_this_process())?)
}

/// Threads for disk work of the control plane. A flash chip serves a few requests at a time; a hundred pods that start together
/// take turns instead of costing a hundred stacks.
const BLOCKING_THREADS_MAX: usize = 8;

/// How long such a thread waits for more work before it goes.
const BLOCKING_KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(2);

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control plane's threads")
}

fn log_to_stderr(default: &str) -> anyhow::Result<()> {
    let filter = match std::env::var(LOG_FILTER) {
        Ok(text) => {
            EnvFilter::try_new(&text).with_context(|| format!("{LOG_FILTER} is no filter"))?
        }
        Err(_) => EnvFilter::new(default),
    };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let set = if journal::is_on_stderr() {
        log.event_format(journal::Lines::new()).try_init()
    } else {
        log.try_init()
    };
    set.map_err(|error| anyhow::anyhow!("cannot set up logging: {error}"))
}
