//! `podling image`: the local store of modules. Works without a daemon, and beside one.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::image::{ImageStore, parse_reference};
use crate::server::age;
use crate::spec::ImageRef;

use super::args::{ImageCommand, NodeArgs};
use super::columns::Columns;
use super::{Out, complain, node, show_error};

pub(super) fn run(command: ImageCommand, out: &mut Out) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Load { file, name, node } => load(&open(&node)?, &file, &name, out),
        ImageCommand::Ls { node } => ls(&open(&node)?, out),
        ImageCommand::Rm { names, node } => rm(&open(&node)?, &names, out),
    }
}

fn open(args: &NodeArgs) -> anyhow::Result<ImageStore> {
    let config = node::config(args, None, None)?;
    let dir = config.state_dir.join("images");
    let opened = ImageStore::open(&dir);
    let (store, damage) =
        opened.with_context(|| format!("cannot open the image store {}", dir.display()))?;
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
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bytes} of {total_bytes} {wide_bar}") {
        bar.set_style(style);
    }
    let loaded = store.load(file, &image, Clock::start().now(), &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let loaded = loaded.with_context(|| format!("cannot load {}", file.display()))?;
    out.line(&format!("Loaded image: {image} {}", loaded.digest))?;
    Ok(ExitCode::SUCCESS)
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
