//! Brings content to this node, by digest: one transfer for everybody who wants the same, from place to place.
//!
//! Owns: transfers and their order. Not: any way in particular (`http`, `registry`, `broker`), nor the file (`image`).
//!
//! ```text
//!  fetch ─► here already? ─► join the transfer of that digest, or begin it ─► wait, with progress
//!                                      │
//!   transfer: memory ─► a turn (`turns`: at most TRANSFERS_MAX) ─► part ─► each place in turn, all into the same part ─► digest ─► blob
//!             ended when the last one who waits is gone; the part stays, and is gone on with
//! ```
//!
//! Where a difference to a module that is here is offered, it is tried first (`patch`).
//!
//! A place that gives wrong bytes costs one full transfer from it at most: if what was there before may have been wrong, it
//! is asked once more from the start; otherwise the next place begins anew.

mod patch;
mod shared;
mod turns;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::error::Chain;
use crate::image::{Begun, Content, Digest, Expected, ImageStore, IncomingError, ResolvedImage};

use super::broker::{Blocks, PATIENCE, Patience};
use super::failure::{FetchError, FetchFault, SourceError};
use super::http::{Access, Http};
use super::images::Away;
use super::intake::{Intake, Progress, blocking};
use super::keyring::Keyring;
use super::registry::Registry;
use super::settings::ArtifactSettings;
use super::source::{Repository, Source, host_of};

use shared::Transfers;
use turns::{SLICE, Turn, Turns};

/// Transfers at a time. Each holds half a mebibyte; and a thin link divided by many makes all of them late.
const TRANSFERS_MAX: usize = 3;

/// Transfers that keep their part open while they wait for another turn: two files each.
const RESTING_MAX: usize = 16;

/// How often to look whether another process has brought what it is bringing.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// Unit of the waits between attempts at one place.
const RETRY: Duration = Duration::from_secs(1);

/// What is told in place of a source while nothing may begin.
const HELD: &str = "nowhere yet: the node is short of memory";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Want {
    pub digest: Digest,
    /// Bytes, if that is known. The broker as a source needs it.
    pub size: Option<u64>,
    pub content: Content,
    /// Smaller ways, for a node that has another module already. Tried before the sources.
    pub deltas: Vec<Delta>,
    /// In the order in which they are to be tried.
    pub sources: Vec<Source>,
    /// For registries and HTTPS; the node's own come after these.
    pub keyring: Keyring,
}

impl Want {
    /// A module of a known size.
    #[must_use]
    pub fn module(digest: Digest, size: u64, sources: Vec<Source>) -> Self {
        let (size, content) = (Some(size), Content::Module);
        let (deltas, keyring) = (Vec::new(), Keyring::default());
        Self { digest, size, content, deltas, sources, keyring }
    }
}

/// A difference that makes the module out of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The module that must be here.
    pub base: Digest,
    /// Of the difference.
    pub digest: Digest,
    pub size: u64,
    pub sources: Vec<Source>,
}

/// What is here now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub digest: Digest,
    pub path: std::path::PathBuf,
    pub size: u64,
    /// False: it was here already.
    pub new: bool,
}

/// See the header. Cheap to clone; one per process.
#[derive(Clone, Debug)]
pub struct Fetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<ImageStore>,
    http: Http,
    keyring: Keyring,
    blocks: OnceLock<Blocks>,
    clock: Clock,
    transfers: Transfers,
    away: Away,
    turns: Turns,
    resting: Semaphore,
    /// The node is short of memory: what is not here yet waits.
    held: watch::Sender<bool>,
    /// Waits of a test are shorter.
    patience: Duration,
}

impl Fetcher {
    /// `keyring`: the node's own credentials.
    #[must_use]
    pub fn new(
        store: Arc<ImageStore>,
        settings: ArtifactSettings,
        keyring: Keyring,
        clock: Clock,
    ) -> Self {
        Self::with_times(store, settings, keyring, clock, (RETRY, PATIENCE, SLICE))
    }

    pub(super) fn with_times(
        store: Arc<ImageStore>,
        settings: ArtifactSettings,
        keyring: Keyring,
        clock: Clock,
        (retry, patience, slice): (Duration, Duration, Duration),
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            http: Http::new(Arc::new(settings), retry),
            keyring,
            blocks: OnceLock::new(),
            clock,
            transfers: Transfers::default(),
            away: Away::default(),
            turns: Turns::new(TRANSFERS_MAX, slice),
            resting: Semaphore::new(RESTING_MAX),
            held: watch::Sender::new(false),
            patience,
        }))
    }

    /// Lets no transfer begin, or lets them begin again. What is under way goes on, and what is here already is found.
    pub fn hold(&self, hold: bool) {
        self.0.held.send_replace(hold);
    }

    /// Whether nothing may begin for now ([`Fetcher::hold`]).
    #[must_use]
    pub fn is_short(&self) -> bool {
        *self.0.held.borrow()
    }

    /// The broker can be asked from now on. The first one counts.
    pub fn set_blocks(&self, blocks: Blocks) {
        let _ = self.0.blocks.set(blocks);
    }

    #[must_use]
    pub fn store(&self) -> &Arc<ImageStore> {
        &self.0.store
    }

    pub(super) fn clock(&self) -> Clock {
        self.0.clock
    }

    pub(super) fn away(&self) -> &Away {
        &self.0.away
    }

    pub(super) fn http(&self) -> &Http {
        &self.0.http
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    /// Brings content here, whole and verified. `progress` hears of every change until then. Dropped, it lets go; the
    /// transfer ends when nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// It cannot be had from any of the sources, or there is no room for it.
    pub async fn fetch(
        &self,
        want: Want,
        progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Fetched, FetchError> {
        loop {
            let transfer = self.0.transfers.join_or_begin(want.digest, |begun| {
                let (fetcher, want) = (self.clone(), want.clone());
                async move { fetcher.transfer(want, begun).await }
            });
            let is_own = transfer.is_own();
            match transfer.wait(progress).await {
                // Another's places are not ours: his failure says nothing about them.
                Err(error) if !is_own && matches!(error.fault(), FetchFault::Sources { .. }) => {}
                outcome => return outcome,
            }
        }
    }

    async fn transfer(
        &self,
        want: Want,
        progress: watch::Sender<Progress>,
    ) -> Result<Fetched, FetchError> {
        let digest = want.digest;
        let mut turn = loop {
            self.may_begin(digest, &progress).await;
            let turn = self.0.turns.begin().await;
            // Memory may have become short while it stood in line.
            if !self.is_held(digest).await {
                break turn;
            }
        };
        self.transfer_in_turn(want, progress, digest, &mut turn).await
    }

    /// Waits as long as nothing may begin. In no turn: whoever wants what is here already must not wait behind those who may not begin.
    async fn may_begin(&self, digest: Digest, progress: &watch::Sender<Progress>) {
        let mut held = self.0.held.subscribe();
        while self.is_held(digest).await {
            progress.send_modify(|now| (now.source, now.held) = (HELD.to_owned(), true));
            // The sender lives as long as we do.
            drop(held.wait_for(|held| !held).await);
            progress.send_modify(|now| (now.source, now.held) = (String::new(), false));
        }
    }

    /// Whether nothing may begin, and this is not here.
    async fn is_held(&self, digest: Digest) -> bool {
        if !self.is_short() {
            return false;
        }
        let store = Arc::clone(&self.0.store);
        let here = blocking(move || Ok(store.path_of(&digest)?)).await;
        !matches!(here, Ok(Some(_)))
    }

    async fn transfer_in_turn(
        &self,
        want: Want,
        progress: watch::Sender<Progress>,
        digest: Digest,
        turn: &mut Turn<'_>,
    ) -> Result<Fetched, FetchError> {
        let local = |cause| FetchError::new(FetchFault::Local { digest, cause });
        // As long as this lasts, nobody may collect what it is about.
        let _pin = self.0.store.pins().hold([digest]);
        let mut intake = match self.open(&want, &progress, turn).await.map_err(local)? {
            Opened::Here(fetched) => return Ok(fetched),
            Opened::Intake(intake) => intake,
        };
        let mut tried: Vec<(String, SourceError)> = Vec::new();
        let deltas = want.deltas.iter().map(Way::Delta);
        for source in deltas.chain(want.sources.iter().map(Way::Source)) {
            // What was here before may be what is wrong: then the same place is asked for all of it.
            let mut once_more = intake.length() > 0;
            intake.ask_at(source.to_string());
            loop {
                let came = match source {
                    // Its transfer is a part of this one, and has its turn.
                    Way::Delta(delta) => {
                        Some(Box::pin(self.patch(delta, &want, &mut intake, turn)).await)
                    }
                    Way::Source(source) => {
                        let moved = || progress.borrow().bytes;
                        turn.within(moved, self.from(source, &want, &mut intake)).await
                    }
                };
                let Some(came) = came else {
                    tracing::debug!(%digest, %source, "slow: its turn goes to whoever waits");
                    intake = match self.rest(&want, &progress, intake, turn).await.map_err(local)? {
                        Opened::Here(fetched) => return Ok(fetched),
                        Opened::Intake(intake) => intake,
                    };
                    intake.ask_at(source.to_string());
                    continue;
                };
                let error = match came {
                    Err(error) => error,
                    Ok(()) => match intake.finish().await {
                        Ok(here) => return Ok(Fetched::new(here, true)),
                        Err(cause) => {
                            intake = match self.open(&want, &progress, turn).await.map_err(local)? {
                                Opened::Here(fetched) => return Ok(fetched),
                                Opened::Intake(intake) => intake,
                            };
                            SourceError::Incoming(cause)
                        }
                    },
                };
                let SourceError::Incoming(cause) = error else {
                    tracing::debug!(%digest, %source, error = %Chain(&error), "a source failed");
                    tried.push((source.to_string(), error));
                    break;
                };
                if !is_wrong_content(&cause) {
                    if cause.is_lack_of_space() {
                        // What came takes the room that others need.
                        intake.discard().await;
                    }
                    return Err(local(cause));
                }
                intake.begin_anew();
                tracing::warn!(%digest, %source, error = %Chain(&cause), "wrong content");
                if !std::mem::take(&mut once_more) {
                    tried.push((source.to_string(), SourceError::Incoming(cause)));
                    break;
                }
            }
        }
        Err(FetchError::new(FetchFault::Sources { digest, tried }))
    }

    /// Stands in line with what has come, and begins to take in again.
    async fn rest(
        &self,
        want: &Want,
        progress: &watch::Sender<Progress>,
        mut intake: Intake,
        turn: &mut Turn<'_>,
    ) -> Result<Opened, IncomingError> {
        // A part that is closed is gone on with from its last sync, a mebibyte back at most, which is more than a slice of a slow one.
        let place = self.0.resting.try_acquire();
        let is_kept = place.is_ok() && intake.rest().await;
        if is_kept {
            turn.wait().await;
            return Ok(Opened::Intake(intake));
        }
        drop((intake, place));
        turn.wait().await;
        self.open(want, progress, turn).await
    }

    /// Begins to take in. Who has to wait for somebody else who brings the same (another process; a difference that several modules are made
    /// with, each for itself) has no turn meanwhile: the one who is waited for may need it.
    async fn open(
        &self,
        want: &Want,
        progress: &watch::Sender<Progress>,
        turn: &mut Turn<'_>,
    ) -> Result<Opened, IncomingError> {
        let bytes_max = self.0.http.settings().bytes_max();
        let expected = Expected { digest: want.digest, content: want.content, bytes_max };
        let part = loop {
            let store = Arc::clone(&self.0.store);
            match blocking(move || store.begin(expected)).await? {
                Begun::Here(here) => return Ok(Opened::Here(Fetched::new(here, false))),
                Begun::Part(part) => break part,
                Begun::Busy => turn.pass(BUSY_WAIT).await,
            }
        };
        let store = Arc::clone(&self.0.store);
        let mut intake = Intake::new(store, want.digest, part, progress.clone());
        if let Some(size) = want.size {
            intake.admit(size).await?;
        }
        Ok(Opened::Intake(intake))
    }

    /// Brings what is missing from one place.
    async fn from(
        &self,
        source: &Source,
        want: &Want,
        intake: &mut Intake,
    ) -> Result<(), SourceError> {
        if want.size.is_none() {
            // What the last place said of the size is its own.
            intake.forget_total();
        }
        if intake.is_complete() {
            return Ok(());
        }
        let http = &self.0.http;
        let keyring = want.keyring.before(&self.0.keyring);
        match source {
            Source::Registry(repository) => {
                Registry::new(http, repository, &keyring)?.blob(intake).await
            }
            Source::Http(url) => {
                let path = url.path().trim_start_matches('/').to_owned();
                let place = Repository { host: host_of(url), path };
                if !http.settings().allows(&place.host, &place.path) {
                    return Err(SourceError::NotAllowed(place.host));
                }
                let mut access = Access::to_file(keyring.find(&place));
                http.download(url, &mut access, intake).await
            }
            Source::Inline(bytes) => {
                if intake.total().is_none() {
                    intake.admit(bytes.len() as u64).await?;
                }
                intake.begin_anew();
                intake.put(bytes).await?;
                Ok(intake.flush().await?)
            }
            Source::Broker => {
                let blocks = self.0.blocks.get().ok_or(SourceError::NoBroker)?;
                let alone = want.sources.iter().all(|source| *source == Source::Broker);
                let patience = Patience { quiet: self.0.patience, waits_for_link: alone };
                blocks.pull(self.0.clock, patience, intake).await
            }
        }
    }
}

/// How content may come.
#[derive(Clone, Copy)]
enum Way<'a> {
    Source(&'a Source),
    Delta(&'a Delta),
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => source.fmt(f),
            Self::Delta(delta) => write!(f, "a difference to {}", delta.base),
        }
    }
}

enum Opened {
    Here(Fetched),
    Intake(Intake),
}

impl Fetched {
    fn new(here: ResolvedImage, new: bool) -> Self {
        Self { digest: here.digest, path: here.path, size: here.size, new }
    }
}

/// Whether other bytes might be the right ones.
fn is_wrong_content(error: &IncomingError) -> bool {
    match error {
        IncomingError::Mismatch { .. }
        | IncomingError::NotWasm { .. }
        | IncomingError::Length { .. } => true,
        IncomingError::TooLarge { .. }
        | IncomingError::NoSpace { .. }
        | IncomingError::Store { .. } => false,
    }
}

#[cfg(test)]
mod tests;
