//! What `publish` takes from this machine: manifests, and its image store with the registries behind it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use async_trait::async_trait;

use crate::artifact::{Fetcher, Keyring, Remote};
use crate::clock::Clock;
use crate::controller::bundle::File;
use crate::controller::images::{ImageError, Images};
use crate::error::chain;
use crate::image::{Digest, ImageStore};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::spec::ImageRef;

use super::super::args::NodeArgs;
use super::super::{complain, image, manifests};

/// Reads the manifests; of a folder, all of them.
pub(super) fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<File>> {
    let mut files = vec![];
    for path in paths {
        if path == Path::new("-") {
            let text = bounded(std::io::stdin(), "standard input")?;
            files.push(File { path: "-".into(), text });
            continue;
        }
        for path in manifests::expand(path)? {
            let shown = path.display().to_string();
            let opened = std::fs::File::open(&path);
            let opened = opened.with_context(|| format!("cannot open {shown}"))?;
            files.push(File { text: bounded(opened, &shown)?, path });
        }
    }
    Ok(files)
}

fn bounded(from: impl std::io::Read, shown: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = from.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {shown}"))?;
    Ok(text)
}

/// The images of this machine, opened when the first of them is looked for.
pub(super) struct Local {
    args: NodeArgs,
    store: OnceLock<Arc<ImageStore>>,
}

impl Local {
    pub(super) fn new(state_dir: Option<PathBuf>) -> Self {
        let args = NodeArgs { state_dir, ..NodeArgs::default() };
        Self { args, store: OnceLock::new() }
    }

    fn open(&self) -> anyhow::Result<&Arc<ImageStore>> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let opened = Arc::new(image::open(&self.args)?);
        Ok(self.store.get_or_init(|| opened))
    }

    async fn resolve(&self, image: &ImageRef) -> anyhow::Result<(Digest, u64)> {
        let config = super::super::node::config(&self.args, None, None)?;
        let keyring = image::keyring(&config)?;
        let store = Arc::clone(self.open()?);
        let fetcher = Fetcher::new(store, config.artifacts.clone(), keyring, Clock::start());
        let remote = Remote::of(image).context("it has no registry")?;
        let found = fetcher.ask(image, &remote, &Keyring::default()).await?;
        Ok((found.content, found.size))
    }
}

#[async_trait]
impl Images for Local {
    fn store(&self) -> Result<Option<&ImageStore>, ImageError> {
        match self.open() {
            Ok(store) => Ok(Some(store)),
            Err(error) => {
                // A registry may still have it.
                complain(&format!("Warning: {error:#}"));
                Ok(None)
            }
        }
    }

    async fn ask(&self, image: &ImageRef) -> Result<(Digest, u64), String> {
        self.resolve(image).await.map_err(|error| chain(error.as_ref()))
    }
}
