//! `podling image`: the local store of modules. Works without a daemon, and beside one.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::artifact::{Fetcher, Keyring, Progress, Remote, push};
use crate::clock::Clock;
use crate::daemon::config::Config;
use crate::image::{ImageStore, parse_reference};
use crate::server::age;
use crate::spec::ImageRef;

use super::args::{ImageCommand, NodeArgs};
use super::columns::Columns;
use super::{Out, complain, node, show_error};

pub(super) fn run(command: ImageCommand, out: &mut Out) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Load { file, name, node } => load(&open(&node)?, &file, &name, out),
        ImageCommand::Pull { reference, node } => pull(&node, &reference, out),
        ImageCommand::Push { file, reference, node } => push(&node, &file, &reference, out),
        ImageCommand::Ls { node } => ls(&open(&node)?, out),
        ImageCommand::Rm { names, node } => rm(&open(&node)?, &names, out),
    }
}

pub(super) fn open(args: &NodeArgs) -> anyhow::Result<ImageStore> {
    let config = node::config(args, None, None)?;
    let dir = config.state_dir.join("images");
    let (store, damage) = ImageStore::open(&dir).map_err(|error| {
        let denied = error.cause.kind() == std::io::ErrorKind::PermissionDenied;
        let error = anyhow::Error::new(error);
        if denied {
            return error.context(
                "the image store belongs to the daemon's user: run this as it, or name another store with --state-dir",
            );
        }
        error
    })?;
    for words in damage {
        complain(&format!("Warning: {words}"));
    }
    Ok(store)
}

fn reference(name: &str) -> anyhow::Result<ImageRef> {
    parse_reference(name, None).with_context(|| format!("{name:?} is no name of an image"))
}

fn load(store: &ImageStore, file: &Path, name: &str, out: &mut Out) -> anyhow::Result<ExitCode> {
    let image = reference(name)?;
    ensure!(matches!(image, ImageRef::Named { .. }), "{name}: give the module a NAME or NAME:TAG");
    let bar = progress_bar();
    let loaded = store.load(file, &image, Clock::start().now(), &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let loaded = loaded.with_context(|| format!("cannot load {}", file.display()))?;
    out.line(&format!("Loaded image: {image} {}", loaded.digest))?;
    Ok(ExitCode::SUCCESS)
}

fn progress_bar() -> ProgressBar {
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bytes} of {total_bytes} {wide_bar}") {
        bar.set_style(style);
    }
    bar
}

/// A reference to something in a registry.
fn remote(name: &str) -> anyhow::Result<(ImageRef, Remote)> {
    let image = reference(name)?;
    let remote = Remote::of(&image)
        .with_context(|| format!("{name}: begin with a registry, as in ghcr.io/acme/web:1"))?;
    Ok((image, remote))
}

fn pull(node: &NodeArgs, name: &str, out: &mut Out) -> anyhow::Result<ExitCode> {
    let (image, remote) = remote(name)?;
    let config = node::config(node, None, None)?;
    let fetcher = fetcher(&config, Arc::new(open(node)?))?;
    let bar = progress_bar();
    let keyring = Keyring::default();
    let told = |progress: &Progress| {
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_position(progress.bytes);
    };
    let pulled = runtime()?.block_on(async {
        let found = fetcher.ask(&image, &remote, &keyring).await?;
        fetcher.bring(&image, &remote, found, &keyring, &told).await
    });
    bar.finish_and_clear();
    let pulled = pulled.with_context(|| format!("cannot pull {image}"))?;
    out.line(&format!("Pulled image: {image} {}", pulled.digest))?;
    Ok(ExitCode::SUCCESS)
}

fn push(node: &NodeArgs, file: &Path, name: &str, out: &mut Out) -> anyhow::Result<ExitCode> {
    let (image, remote) = remote(name)?;
    ensure!(matches!(image, ImageRef::Named { .. }), "{name}: what is pushed gets a tag");
    let config = node::config(node, None, None)?;
    let keyring = keyring(&config)?;
    let module = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let pushed = runtime()?.block_on(push::push(&config.artifacts, &keyring, &remote, module));
    let manifest = pushed.with_context(|| format!("cannot push {}", file.display()))?;
    out.line(&format!("Pushed image: {image} {manifest}"))?;
    Ok(ExitCode::SUCCESS)
}

fn fetcher(config: &Config, store: Arc<ImageStore>) -> anyhow::Result<Fetcher> {
    let keyring = keyring(config)?;
    Ok(Fetcher::new(store, config.artifacts.clone(), keyring, Clock::start()))
}

/// The node's credentials, or a person's own.
pub(super) fn keyring(config: &Config) -> anyhow::Result<Keyring> {
    let own = || {
        let var = |name| std::env::var_os(name).map(PathBuf::from);
        let home = || Some(var("HOME")?.join(".docker"));
        Some(var("DOCKER_CONFIG").or_else(home)?.join("config.json"))
    };
    let path = config.artifacts.registry_auth_file.clone().or_else(own);
    Ok(path.map(|path| Keyring::read(&path)).transpose()?.unwrap_or_default())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("cannot start")
}

fn ls(store: &ImageStore, out: &mut Out) -> anyhow::Result<ExitCode> {
    let heading = ["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE"].map(str::to_owned).to_vec();
    let now_ms = Clock::start().now().wall_ms();
    let mut rows = vec![heading];
    for row in store.ls().context("cannot list the image store")? {
        let hex = row.digest.hex();
        let age = age::human(now_ms.saturating_sub(row.created_ms));
        rows.push(vec![
            row.repository,
            row.tag,
            hex.chars().take(12).collect(),
            format!("{age} ago"),
            size(row.size),
        ]);
    }
    out.text(&Columns::default().set(&rows))?;
    Ok(ExitCode::SUCCESS)
}

fn rm(store: &ImageStore, names: &[String], out: &mut Out) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        let removed = reference(name)
            .and_then(|image| store.rm(&image).with_context(|| format!("cannot remove {name}")));
        match removed {
            Ok(removed) => {
                for name in removed.untagged {
                    out.line(&format!("Untagged: {name}"))?;
                }
                for digest in removed.deleted {
                    out.line(&format!("Deleted: {digest}"))?;
                }
            }
            Err(error) => {
                show_error(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// `151kB`: three digits, decimal units, as container tools show sizes.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut whole, mut unit, mut tenths) = (bytes, 0, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit += 1;
    }
    if whole < 10 && unit > 0 {
        format!("{whole}.{tenths}{}", UNITS[unit])
    } else {
        format!("{whole}{}", UNITS[unit])
    }
}
