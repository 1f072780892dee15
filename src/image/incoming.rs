//! Content on its way here from elsewhere: piece by piece, in order, over power cuts.
//!
//! Owns: the file `HEX.part` beside the blobs, and the moment when it becomes a blob. Not: where the bytes come from
//! (`artifact`), nor when space is made (`room`). Blocking; memory is constant.
//!
//! ```text
//!  begin ─► Here                         a whole blob of that digest is there already
//!        └► Part, after its prefix       what surely was synced, hashed again; behind the last sync a power cut leaves
//!             │                          anything, zeros for instance
//!           admit(total)                 policy and space, before the first byte
//!           write …                      synced every SYNC_BYTES
//!           finish ─► sync, rename, sync_dir        only what has the digest; anything else is removed
//! ```
//!
//! One part for each digest, locked while it is written (`flock`): a second process finds it [`Begun::Busy`].

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::store::disk::{Disk, DiskFile};
use crate::store::lock::Lock;
use crate::store::slots::Metered;

use super::digest::Digest;
use super::import::{CHUNK_BYTES, ImportError, check_space};
use super::records::Named;
use super::wasm::{Checker, ModuleKind, NotWasm};
use super::{ImageStore, ResolvedImage};

/// Bytes between two syncs. A power cut costs at most two of these of a download; smaller is more wear on the flash.
pub(super) const SYNC_BYTES: u64 = 1024 * 1024;

/// Suffix of a part; before it, the digest that it is to have.
pub(super) const PART_SUFFIX: &str = ".part";

/// What is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub digest: Digest,
    pub content: Content,
    /// Largest size that is let in.
    pub bytes_max: u64,
}

/// What it must be, beside having its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Module,
    /// Not to be run: a difference between two modules.
    Other,
}

/// A name for what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledName {
    pub repository: String,
    pub tag: String,
    /// Digest of the registry's manifest.
    pub manifest: Option<Digest>,
    /// In milliseconds since 1970.
    pub created_ms: i64,
}

/// Whether there is anything to do.
#[derive(Debug)]
pub enum Begun {
    Here(ResolvedImage),
    Part(Box<Part>),
    /// Another process is bringing it.
    Busy,
}

/// Why content did not come in.
#[derive(Debug, Error)]
pub enum IncomingError {
    #[error("{digest} has {size} bytes; this node takes at most {bytes_max}")]
    TooLarge { digest: Digest, size: u64, bytes_max: u64 },
    /// Also after everything that nobody needs was removed.
    #[error(
        "no space for {needed} bytes in the image store: {free} bytes are free, {reserve} are kept in reserve"
    )]
    NoSpace { needed: u64, free: u64, reserve: u64 },
    #[error("{digest} {cause}")]
    NotWasm { digest: Digest, cause: NotWasm },
    #[error("what came as {expected} is {found}")]
    Mismatch { expected: Digest, found: Digest },
    #[error("{digest} should have {expected} bytes, but {found} came")]
    Length { digest: Digest, expected: u64, found: u64 },
    #[error("cannot write to the image store")]
    Store {
        #[from]
        #[source]
        cause: io::Error,
    },
}

impl IncomingError {
    /// Whether the disk has no room for it.
    #[must_use]
    pub fn is_lack_of_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Store { cause } => {
                matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::TooLarge { .. }
            | Self::NotWasm { .. }
            | Self::Mismatch { .. }
            | Self::Length { .. } => false,
        }
    }
}

impl From<ImportError> for IncomingError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::NoSpace { needed, free, reserve } => {
                Self::NoSpace { needed, free, reserve }
            }
            ImportError::Write { cause } => Self::Store { cause },
            // What only a file's way in can meet.
            error @ (ImportError::Open { .. }
            | ImportError::NotAFile { .. }
            | ImportError::TooLarge { .. }
            | ImportError::Read { .. }
            | ImportError::NotWasm { .. }
            | ImportError::Changed { .. }) => Self::Store { cause: io::Error::other(error) },
        }
    }
}

/// Content of which a beginning is here.
#[derive(Debug)]
pub struct Part {
    io: Arc<Metered>,
    path: PathBuf,
    expected: Expected,
    total: Option<u64>,
    /// Opened, and cut behind what is known, only when there is something to write: the length of a part tells how much of
    /// it was synced, and a daemon that starts over and over without a network must not wear it away.
    file: Option<Box<dyn DiskFile>>,
    /// Its name is durable.
    named: bool,
    read: Reading,
    _lock: Option<Lock>,
}

/// What is known of bytes that streamed by.
#[derive(Clone, Debug, Default)]
struct Reading {
    length: u64,
    hash: Sha256,
    checker: Checker,
}

impl Reading {
    /// `module`: it must be one.
    fn feed(&mut self, bytes: &[u8], module: bool) -> Result<(), NotWasm> {
        if module {
            self.checker.feed(bytes)?;
        }
        self.hash.update(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
        Ok(())
    }
}

impl Part {
    /// Bytes from the start that are here.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.read.length
    }

    /// Where it is, until it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the whole, once it was admitted.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Appends. After an error [`Part::length`] tells how many of the bytes are there; the others may be written again.
    ///
    /// # Errors
    ///
    /// The disk fails, or the bytes cannot belong to what is expected.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), IncomingError> {
        while !bytes.is_empty() {
            let to_sync = SYNC_BYTES - self.read.length % SYNC_BYTES;
            let now = usize::try_from(to_sync).unwrap_or(usize::MAX).min(bytes.len());
            self.write_piece(&bytes[..now])?;
            bytes = &bytes[now..];
            if self.read.length.is_multiple_of(SYNC_BYTES) {
                self.sync()?;
            }
        }
        Ok(())
    }

    fn file(&mut self) -> io::Result<&mut Box<dyn DiskFile>> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.io.disk().append(&self.path, self.read.length)?,
        };
        if let Some(dir) = self.path.parent().filter(|_| !self.named) {
            // Without its name, the synced content would be lost all the same.
            self.io.sync_dir(dir)?;
            self.named = true;
        }
        Ok(self.file.insert(file))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.io.count(0, 1);
        self.file()?.sync()
    }

    fn write_piece(&mut self, piece: &[u8]) -> Result<(), IncomingError> {
        let digest = self.expected.digest;
        let end = self.read.length.saturating_add(piece.len() as u64);
        let total = self.total.unwrap_or(self.expected.bytes_max);
        if end > total {
            return Err(IncomingError::Length { digest, expected: total, found: end });
        }
        // Looked at before it is written, so that a web page in place of a module costs no flash.
        let mut read = self.read.clone();
        read.feed(piece, self.expected.content == Content::Module)
            .map_err(|cause| IncomingError::NotWasm { digest, cause })?;
        if let Err(cause) = self.file()?.write(piece) {
            // Nobody knows how much of it is there.
            self.file = None;
            return Err(cause.into());
        }
        self.io.count(piece.len() as u64, 0);
        self.read = read;
        Ok(())
    }

    /// Forgets the size: it must be admitted again.
    pub fn forget_total(&mut self) {
        self.total = None;
    }

    /// Forgets all bytes.
    pub fn begin_anew(&mut self) {
        self.file = None;
        self.read = Reading::default();
    }

    /// Removes what came so far.
    pub fn discard(self) {
        // What is left goes with the next collection.
        let _ = self.io.disk().remove(&self.path);
    }
}

impl ImageStore {
    /// Begins to take content in, or goes on with it.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn begin(&self, expected: Expected) -> Result<Begun, IncomingError> {
        if let Some(here) = self.whole(&expected)? {
            return Ok(Begun::Here(here));
        }
        let path = self.part_of(&expected.digest);
        let lock = if self.locking {
            let Some(lock) = lock_part(&path)? else { return Ok(Begun::Busy) };
            // Whoever had it may have finished it meanwhile.
            if let Some(here) = self.whole(&expected)? {
                self.io.disk().remove(&path)?;
                return Ok(Begun::Here(here));
            }
            Some(lock)
        } else {
            None
        };
        let found = self.io.disk().size(&path)?.unwrap_or(0).min(expected.bytes_max);
        // The byte behind a sync's place is written after the sync; the last byte before it, ahead of it.
        let synced = found.saturating_sub(1) / SYNC_BYTES * SYNC_BYTES;
        let module = expected.content == Content::Module;
        let read = read_prefix(self.io.disk(), &path, synced, module)?.unwrap_or_default();
        let (io, named) = (Arc::clone(&self.io), found > 0);
        let part = Part { io, path, expected, total: None, file: None, named, read, _lock: lock };
        Ok(Begun::Part(Box::new(part)))
    }

    /// Asked when the size is known, before the first byte: whether it may come in, and has room. Room is made if it can be.
    ///
    /// # Errors
    ///
    /// It is too large, or there is no space.
    pub fn admit(&self, part: &mut Part, total: u64) -> Result<(), IncomingError> {
        let Expected { digest, bytes_max, .. } = part.expected;
        if total > bytes_max {
            return Err(IncomingError::TooLarge { digest, size: total, bytes_max });
        }
        if part.read.length > total {
            part.begin_anew();
        }
        let needed = total - part.read.length;
        if check_space(&self.io, &self.blobs, needed).is_err() {
            self.make_room(needed, Some(&part.path))?;
            check_space(&self.io, &self.blobs, needed)?;
        }
        part.total = Some(total);
        Ok(())
    }

    /// Makes a blob of it.
    ///
    /// # Errors
    ///
    /// It is not what was expected, and gone; or the disk fails.
    pub fn finish(&self, mut part: Part) -> Result<ResolvedImage, IncomingError> {
        let (digest, found) = (part.expected.digest, part.read.length);
        if let Some(expected) = part.total.filter(|total| *total != found) {
            return Err(IncomingError::Length { digest, expected, found });
        }
        if let Err(error) = check_whole(&part) {
            part.discard();
            return Err(error);
        }
        part.sync()?;
        let _lock = self.lock()?;
        self.io.disk().rename(&part.path, &self.blob(&digest))?;
        self.io.sync_dir(&self.blobs)?;
        Ok(self.resolved(digest, found))
    }

    /// Gives pulled content a name. As with [`ImageStore::load`], an earlier bearer of the name loses it.
    ///
    /// # Errors
    ///
    /// The content is not there (any more), is no module, or the disk fails.
    pub fn put_pulled(&self, name: &PulledName, digest: &Digest) -> Result<(), IncomingError> {
        let _lock = self.lock()?;
        let blob = self.blob(digest);
        let size = self.io.disk().size(&blob)?.ok_or_else(gone)?;
        let kind = kind_of(self.io.disk(), &blob, *digest)?;
        let known = self.records.name(&self.io, &name.repository, &name.tag);
        let same = |known: &Named| {
            known.pulled && (known.digest, known.manifest) == (*digest, name.manifest)
        };
        if known.as_ref().is_some_and(same) {
            // A registry that is asked at every start shall not cost flash at every start.
            return Ok(());
        }
        let named = Named {
            repository: name.repository.clone(),
            tag: name.tag.clone(),
            digest: *digest,
            size,
            kind,
            created_ms: name.created_ms,
            manifest: name.manifest,
            pulled: true,
        };
        Ok(self.records.put_name(&self.io, &named)?)
    }

    /// Where content is, if it is here; not looked into.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn path_of(&self, digest: &Digest) -> io::Result<Option<PathBuf>> {
        let blob = self.blob(digest);
        Ok(self.io.disk().size(&blob)?.map(|_| blob))
    }

    /// Removes content that was only passing through. What has a name stays.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn forget(&self, digest: &Digest) -> io::Result<()> {
        let _lock = self.lock()?;
        if self.referenced()?.contains(digest) {
            return Ok(());
        }
        self.io.disk().remove(&self.blob(digest))
    }

    /// The blob, if it is there and what its name says.
    fn whole(&self, expected: &Expected) -> io::Result<Option<ResolvedImage>> {
        let blob = self.blob(&expected.digest);
        let Some(size) = self.io.disk().size(&blob)? else { return Ok(None) };
        let read = read_prefix(self.io.disk(), &blob, size, false)?;
        let is_whole = read.is_some_and(|read| digest_of(&read.hash) == expected.digest);
        Ok(is_whole.then(|| self.resolved(expected.digest, size)))
    }

    pub(super) fn part_of(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(format!("{}{PART_SUFFIX}", digest.hex()))
    }
}

/// The lock of a part, if nobody has it. A part that became a blob while we waited for its lock is not the part any more.
pub(super) fn lock_part(path: &Path) -> io::Result<Option<Lock>> {
    loop {
        let Some(lock) = Lock::try_take(path)? else { return Ok(None) };
        if lock.is_of(path)? {
            return Ok(Some(lock));
        }
    }
}

/// Reads the first `length` bytes. `None`: they are not there, or cannot be those of a module.
fn read_prefix(
    disk: &dyn Disk,
    path: &Path,
    length: u64,
    module: bool,
) -> io::Result<Option<Reading>> {
    let mut read = Reading::default();
    let Some(file) = disk.open(path)? else { return Ok((length == 0).then_some(read)) };
    let mut file = file.take(length);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((read.length == length).then_some(read)),
            Ok(got) if read.feed(&chunk[..got], module).is_ok() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn check_whole(part: &Part) -> Result<(), IncomingError> {
    let expected = part.expected.digest;
    let found = digest_of(&part.read.hash);
    if found != expected {
        return Err(IncomingError::Mismatch { expected, found });
    }
    if part.expected.content == Content::Module {
        let finished = part.read.checker.clone().finish();
        finished.map_err(|cause| IncomingError::NotWasm { digest: expected, cause })?;
    }
    Ok(())
}

/// What the first bytes of a blob say it is.
fn kind_of(disk: &dyn Disk, path: &Path, digest: Digest) -> Result<ModuleKind, IncomingError> {
    let mut preamble = Vec::new();
    let mut checker = Checker::default();
    disk.open(path)?.ok_or_else(gone)?.take(8).read_to_end(&mut preamble)?;
    let kind = checker.feed(&preamble).and_then(|()| checker.finish());
    kind.map_err(|cause| IncomingError::NotWasm { digest, cause })
}

/// Collected before it had a name.
fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn digest_of(hash: &Sha256) -> Digest {
    Digest::new(hash.clone().finalize().into())
}
