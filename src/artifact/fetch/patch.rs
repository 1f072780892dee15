//! A module out of another one and a difference: fetched, applied, and removed.
//!
//! Owns: the way of a difference. Not: its format (`delta`). The difference is fetched by its own digest, as any content is; what
//! it makes goes into the part as if it had come from afar, and counts only if it has the module's digest.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tokio::sync::watch;

use crate::artifact::delta::{self, PatchFault};
use crate::artifact::failure::SourceError;
use crate::artifact::intake::{Intake, Progress};
use crate::image::{Content, ImageStore, IncomingError, Part};

use super::turns::Turn;
use super::{Delta, Fetcher, Want};

impl Fetcher {
    /// Makes what is missing out of a base that is here.
    pub(super) async fn patch(
        &self,
        delta: &Delta,
        want: &Want,
        intake: &mut Intake,
        turn: &mut Turn<'_>,
    ) -> Result<(), SourceError> {
        let Some(size) = want.size else {
            let (place, what) = ("the difference".to_owned(), "no size is given".to_owned());
            return Err(SourceError::Protocol { place, what });
        };
        let store = Arc::clone(self.store());
        let _pin = store.pins().hold([delta.base, delta.digest]);
        if store.path_of(&delta.base).map_err(IncomingError::from)?.is_none() {
            return Err(SourceError::NoBase(delta.base));
        }
        if intake.is_complete() {
            return Ok(());
        }
        let wanted = Want {
            digest: delta.digest,
            size: Some(delta.size),
            content: Content::Other,
            deltas: Vec::new(),
            sources: delta.sources.clone(),
            keyring: want.keyring.clone(),
        };
        // How far the difference is would not fit beside the size of the module.
        let (unheard, _) = watch::channel(Progress::default());
        let fetched = Box::pin(self.transfer_in_turn(wanted, unheard, delta.digest, turn)).await;
        let fetched = fetched.map_err(|error| SourceError::NoDelta(Box::new(error)))?;
        let delta = delta.clone();
        let applied =
            intake.work(move |part| Ok(apply(&store, &delta, &fetched.path, size, part))).await?;
        applied.map_err(|error| {
            if matches!(error, MakingError::Patch(_)) {
                // What it has made before it broke is worth nothing.
                intake.begin_anew();
            }
            error.into()
        })
    }
}

fn apply(
    store: &ImageStore,
    delta: &Delta,
    patch: &std::path::Path,
    size: u64,
    part: &mut Part,
) -> Result<(), MakingError> {
    let opened = store.path_of(&delta.base)?.map(File::open).transpose()?;
    let base = opened.ok_or(PatchFault::ReadBase(std::io::ErrorKind::NotFound.into()))?;
    let base_size = base.metadata()?.len();
    let patch = BufReader::new(File::open(patch)?);
    let mut read = |offset: u64, into: &mut [u8]| base.read_exact_at(into, offset);
    // What is here already has the right digest or none: it is made once more, and not written.
    let mut skip = part.length();
    let mut out = |piece: &[u8]| {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= skipped as u64;
        part.write(&piece[skipped..]).map_err(MakingError::from)
    };
    let made = delta::apply(patch, (base_size, &mut read), size, &mut out);
    // It has done its work, or never will.
    if let Err(error) = store.forget(&delta.digest) {
        tracing::debug!(digest = %delta.digest, %error, "a used difference stays");
    }
    made
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
enum MakingError {
    #[error(transparent)]
    Patch(#[from] PatchFault),
    #[error(transparent)]
    Incoming(#[from] IncomingError),
}

impl From<std::io::Error> for MakingError {
    fn from(cause: std::io::Error) -> Self {
        Self::Incoming(cause.into())
    }
}

impl From<MakingError> for SourceError {
    fn from(error: MakingError) -> Self {
        match error {
            MakingError::Patch(fault) => Self::Patch(fault),
            MakingError::Incoming(cause) => Self::Incoming(cause),
        }
    }
}
