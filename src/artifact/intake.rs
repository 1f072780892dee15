//! The end of every way: bytes of one artifact, in order, into its part.
//!
//! Owns: gathering small pieces, writing them off the control plane's threads, and telling how far it is. Not: the file
//! (`image`), nor the ways. In memory: [`GATHERED_BYTES_MAX`] and no more.

use std::sync::Arc;

use tokio::sync::watch;

use crate::image::{Digest, ImageStore, IncomingError, Part, ResolvedImage};

/// Bytes that wait for a write. A network's pieces are some kilobytes; each write is a trip to another thread.
const GATHERED_BYTES_MAX: usize = 256 * 1024;

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here, those of earlier attempts included.
    pub bytes: u64,
    /// All of them, once that is known.
    pub total: Option<u64>,
    /// The place that is being asked.
    pub source: String,
    /// It may not begin, for the node is short of memory.
    pub held: bool,
}

/// See the header.
#[derive(Debug)]
pub(super) struct Intake {
    store: Arc<ImageStore>,
    digest: Digest,
    /// Absent only while another thread has it.
    part: Option<Box<Part>>,
    gathered: Vec<u8>,
    progress: watch::Sender<Progress>,
}

impl Intake {
    pub(super) fn new(
        store: Arc<ImageStore>,
        digest: Digest,
        part: Box<Part>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        let intake = Self { store, digest, part: Some(part), gathered: Vec::new(), progress };
        intake.tell();
        intake
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes that are here.
    pub(super) fn length(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.length()) + self.gathered.len() as u64
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.part.as_ref().and_then(|part| part.total())
    }

    /// The size is not known after all.
    pub(super) fn forget_total(&mut self) {
        if let Some(part) = &mut self.part {
            part.forget_total();
        }
    }

    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.total() == Some(self.length())
    }

    /// Says which place is asked now.
    pub(super) fn ask_at(&self, source: String) {
        self.progress.send_modify(|progress| progress.source = source);
    }

    /// The size is known: may it come, and is there room?
    pub(super) async fn admit(&mut self, total: u64) -> Result<(), IncomingError> {
        self.flush().await?;
        let store = Arc::clone(&self.store);
        self.with_part(move |part| store.admit(part, total)).await
    }

    /// Takes the next bytes.
    pub(super) async fn put(&mut self, mut bytes: &[u8]) -> Result<(), IncomingError> {
        while !bytes.is_empty() {
            let now = bytes.len().min(GATHERED_BYTES_MAX - self.gathered.len());
            self.gathered.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.gathered.len() == GATHERED_BYTES_MAX {
                self.flush().await?;
            }
        }
        self.tell();
        Ok(())
    }

    /// Writes what was gathered. A full disk is met by making room, once.
    pub(super) async fn flush(&mut self) -> Result<(), IncomingError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.gathered);
        let store = Arc::clone(&self.store);
        let written = self
            .with_part(move |part| {
                let before = part.length();
                let Err(error) = part.write(&bytes) else {
                    bytes.clear();
                    return Ok(bytes);
                };
                if !error.is_lack_of_space() {
                    return Err(error);
                }
                store.make_room(bytes.len() as u64, Some(part.path()))?;
                let done = usize::try_from(part.length() - before).unwrap_or(usize::MAX);
                part.write(bytes.get(done..).unwrap_or_default())?;
                bytes.clear();
                Ok(bytes)
            })
            .await?;
        self.gathered = written;
        self.tell();
        Ok(())
    }

    /// Nothing will come for a while: what was gathered is written, and its memory given back. False where it cannot go on from here: another
    /// thread still has the part, or the disk refuses.
    pub(super) async fn rest(&mut self) -> bool {
        let rests = self.part.is_some() && self.flush().await.is_ok();
        self.gathered = Vec::new();
        rests
    }

    /// Writes in a way of one's own, off the control plane's threads.
    pub(super) async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Part) -> Result<T, IncomingError> + Send + 'static,
    ) -> Result<T, IncomingError> {
        self.flush().await?;
        let outcome = self.with_part(work).await;
        self.tell();
        outcome
    }

    /// Forgets all bytes: they were not the right ones.
    pub(super) fn begin_anew(&mut self) {
        self.gathered.clear();
        if let Some(part) = &mut self.part {
            part.begin_anew();
        }
        self.tell();
    }

    /// The artifact, if these are its bytes.
    pub(super) async fn finish(mut self) -> Result<ResolvedImage, IncomingError> {
        self.flush().await?;
        let part = self.part.take().ok_or_else(broken)?;
        let store = self.store;
        blocking(move || store.finish(*part)).await
    }

    /// Removes what came.
    pub(super) async fn discard(mut self) {
        if let Some(part) = self.part.take() {
            let gone = blocking(move || {
                part.discard();
                Ok(())
            });
            // What is left goes with the next collection.
            let _ = gone.await;
        }
    }

    async fn with_part<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Part) -> Result<T, IncomingError> + Send + 'static,
    ) -> Result<T, IncomingError> {
        let mut part = self.part.take().ok_or_else(broken)?;
        let (part, outcome) = blocking(move || {
            let outcome = work(&mut part);
            Ok((part, outcome))
        })
        .await?;
        self.part = Some(part);
        outcome
    }

    fn tell(&self) {
        let (bytes, total) = (self.length(), self.total());
        self.progress.send_if_modified(|progress| {
            let changed = (progress.bytes, progress.total) != (bytes, total);
            (progress.bytes, progress.total) = (bytes, total);
            changed
        });
    }
}

/// Runs disk work where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IncomingError> + Send + 'static,
) -> Result<T, IncomingError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| broken())?
}

/// A thread of ours panicked.
fn broken() -> IncomingError {
    std::io::Error::other("podling failed internally").into()
}
