//! The modules that pods may run: content by digest, and the names it goes by.
//!
//! Owns: the image store's folder. Not: compiled code (the engine's cache, keyed by the digests given out here), nor
//! fetching from elsewhere. Several processes use the folder at once: a daemon, and `podling image …` beside it.
//!
//! ```text
//!  IMAGES/blobs/sha256/HEX        one module; its name is its content (0600)
//!  IMAGES/blobs/sha256/.part-…    a file on its way in
//!  IMAGES/blobs/sha256/HEX.part   the beginning of content that comes from elsewhere; it is gone on with (`incoming`)
//!  IMAGES/names/…                 repository:tag → digest, one durable record each
//!  IMAGES/files/…                 `file:` paths already hashed, with the stamp they had
//!  IMAGES/lock                    held (milliseconds) by whoever changes names or removes blobs
//!  IMAGES/loading                 shared by whoever has a part; had alone by whoever clears old parts away
//! ```
//!
//! What runs is what was hashed: a `file:` module is copied in, and an edit of the file changes nothing until the pod
//! is next started. Blocking: call through `spawn_blocking`.
//!
//! Limits: a module has at most [`MODULE_BYTES_MAX`](import::MODULE_BYTES_MAX) bytes; space is checked first, with a
//! reserve for everybody else; memory is constant.

pub mod digest;
mod failure;
pub mod import;
mod incoming;
pub mod name;
mod outcome;
mod pins;
mod records;
mod resolve;
mod room;
pub mod wasm;

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::spec::ImageRef;
use crate::store::disk::{Disk, RealDisk};
use crate::store::lock::Lock;
use crate::store::slots::{Metered, Written};

use import::{Origin, Survey, check_space, is_whole};
use records::{Named, Records};

pub use digest::Digest;
pub use failure::{PullFailure, invalid_name, pull_failure};
pub use import::ImportError;
pub use incoming::{Begun, Content, Expected, IncomingError, Part, PulledName};
pub use name::{InvalidReference, parse_reference, repository_of};
pub use outcome::{
    ImageRow, LoadError, LoadedImage, OpenError, RemoveError, Removed, ResolveError, ResolvedImage,
};
pub use pins::{Pin, Pins};
pub use wasm::{ModuleKind, NotWasm};

/// Prefix of a blob on its way in.
const PART: &str = ".part-";

/// The image store.
#[derive(Debug)]
pub struct ImageStore {
    io: Arc<Metered>,
    dir: PathBuf,
    blobs: PathBuf,
    records: Records,
    pins: Pins,
    /// A fake disk has no locks.
    locking: bool,
}

/// The tag under which content is remembered that was pulled by its manifest's digest. No tag of a person's: those hold no
/// `@`.
#[must_use]
pub fn manifest_tag(manifest: &Digest) -> String {
    format!("@{manifest}")
}

impl ImageStore {
    /// Opens the folder, makes what is missing, clears away what an interrupted load left. Words about damaged records
    /// come with it: each costs one name.
    ///
    /// # Errors
    ///
    /// It cannot be made or read.
    pub fn open(dir: &Path) -> Result<(Self, Vec<String>), OpenError> {
        let error = |cause| OpenError { dir: dir.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)?;
        Self::prepare(Arc::new(RealDisk), dir, true).map_err(error)
    }

    fn prepare(disk: Arc<dyn Disk>, dir: &Path, locking: bool) -> io::Result<(Self, Vec<String>)> {
        let io = Arc::new(Metered::new(disk));
        let blobs = dir.join("blobs").join("sha256");
        for folder in [&dir.join("blobs"), &blobs] {
            io.disk().create_dir(folder)?;
        }
        let _lock = locking.then(|| Lock::wait(&dir.join(LOCK))).transpose()?;
        let (records, damage) = Records::open(&io, dir)?;
        for folder in [dir, &dir.join("blobs")] {
            io.sync_dir(folder)?;
        }
        let (dir, pins) = (dir.to_owned(), Pins::default());
        let store = Self { io, dir, blobs, records, pins, locking };
        store.clear_parts()?;
        Ok((store, damage))
    }

    /// Loads a module file under a name. `progress` hears how many bytes of how many were handled (the file is read
    /// twice).
    ///
    /// # Errors
    ///
    /// The file is no whole module, or does not fit, or the disk fails. The store is then as it was.
    pub fn load(
        &self,
        file: &Path,
        name: &ImageRef,
        now: Timestamp,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedImage, LoadError> {
        let ImageRef::Named { name: repository, tag, .. } = name else {
            return Err(LoadError::NotAName { text: name.text().to_owned() });
        };
        let mut origin = Origin::open(file)?;
        let put_name = |survey: &Survey| {
            self.records.put_name(
                &self.io,
                &Named {
                    repository: repository.to_string(),
                    tag: tag.to_string(),
                    digest: survey.digest,
                    size: survey.size,
                    kind: survey.kind,
                    created_ms: now.wall_ms(),
                    manifest: None,
                    pulled: false,
                },
            )
        };
        let (survey, new) = self.import(&mut origin, progress, |survey| {
            put_name(survey).map_err(|cause| LoadError::Name { cause })
        })?;
        Ok(LoadedImage { digest: survey.digest, size: survey.size, kind: survey.kind, new })
    }

    /// Every name, sorted.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn ls(&self) -> Result<Vec<ImageRow>, RemoveError> {
        let row = |named: Named| ImageRow {
            repository: named.repository,
            // As container tools show what was pulled by digest.
            tag: if named.tag.starts_with('@') { "<none>".to_owned() } else { named.tag },
            digest: named.digest,
            size: named.size,
            created_ms: named.created_ms,
            kind: named.kind,
        };
        Ok(self.records.names(&self.io)?.into_iter().map(row).collect())
    }

    /// Takes a name away, or by digest all names of a content; and the content, if nothing names it any more. Needs no
    /// free space. A running module is not disturbed.
    ///
    /// # Errors
    ///
    /// There is no such image, or the disk fails.
    pub fn rm(&self, image: &ImageRef) -> Result<Removed, RemoveError> {
        let not_found = || RemoveError::NotFound { text: image.text().to_owned() };
        let _lock = self.lock()?;
        let names = self.records.names(&self.io)?;
        let (doomed, content): (Vec<&Named>, Option<Digest>) = match image {
            ImageRef::Named { name, tag, .. } => {
                let named = names
                    .iter()
                    .find(|named| named.repository == **name && named.tag == **tag)
                    .ok_or_else(not_found)?;
                (vec![named], None)
            }
            ImageRef::Digest { hex, .. } => {
                let digest = Digest::from_hex(hex).map_err(|_| not_found())?;
                let is_it =
                    |named: &&Named| named.digest == digest || named.manifest == Some(digest);
                let doomed: Vec<&Named> = names.iter().filter(is_it).collect();
                let content = self.io.disk().size(&self.blob(&digest))?.map(|_| digest);
                if doomed.is_empty() && content.is_none() {
                    return Err(not_found());
                }
                (doomed, content)
            }
            ImageRef::File { .. } => return Err(not_found()),
        };
        let mut contents: BTreeSet<Digest> = content.into_iter().collect();
        let mut removed = Removed::default();
        for named in doomed {
            self.records.remove_name(&self.io, &named.repository, &named.tag)?;
            contents.insert(named.digest);
            removed.untagged.push(if named.tag.starts_with('@') {
                format!("{}{}", named.repository, named.tag)
            } else {
                format!("{}:{}", named.repository, named.tag)
            });
        }
        let referenced = self.referenced()?;
        for digest in contents.difference(&referenced) {
            self.io.disk().remove(&self.blob(digest))?;
            removed.deleted.push(*digest);
        }
        Ok(removed)
    }

    /// Removes content that nothing names and that is not `in_use`, and forgets module files that are gone.
    ///
    /// # Errors
    ///
    /// The disk fails; what was removed so far stays removed.
    pub fn collect(&self, in_use: &dyn Fn(&Digest) -> bool) -> Result<Vec<Digest>, RemoveError> {
        let _lock = self.lock()?;
        for hashed in self.records.files(&self.io)? {
            // Only one that is surely gone; an unreadable folder may be a disk that is not mounted yet.
            let gone = std::fs::symlink_metadata(&hashed.path)
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if gone {
                self.records.remove_file(&self.io, &hashed.path)?;
            }
        }
        let referenced = self.referenced()?;
        let mut removed = Vec::new();
        for name in self.io.disk().list(&self.blobs)? {
            let Ok(digest) = Digest::from_hex(&name) else { continue };
            if !referenced.contains(&digest) && !in_use(&digest) {
                self.io.disk().remove(&self.blob(&digest))?;
                removed.push(digest);
            }
        }
        Ok(removed)
    }

    /// Every content that is here whole, whatever names it.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn contents(&self) -> io::Result<std::collections::BTreeSet<Digest>> {
        let names = self.io.disk().list(&self.blobs)?;
        Ok(names.iter().filter_map(|name| Digest::from_hex(name).ok()).collect())
    }

    /// What this process needs of the store.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// What was written since the start.
    #[must_use]
    pub fn written(&self) -> Written {
        self.io.written()
    }

    /// Brings a module in; `record` names it, while nobody can collect it. True: the content is new.
    fn import<E: From<ImportError>>(
        &self,
        origin: &mut Origin,
        progress: &mut dyn FnMut(u64, u64),
        record: impl Fn(&Survey) -> Result<(), E>,
    ) -> Result<(Survey, bool), E> {
        let write = |cause| ImportError::Write { cause };
        let size = origin.stamp.size;
        let total = size.saturating_mul(2);
        let survey = origin.survey(&mut |done| progress(done.min(size), total))?;
        let blob = self.blob(&survey.digest);
        let mut tick = |done: u64| progress(size.saturating_add(done).min(total), total);
        let _loading = self.share_loading().map_err(write)?;
        loop {
            let part = if self.is_present(&survey).map_err(write)? {
                None
            } else {
                check_space(&self.io, &self.blobs, survey.size)?;
                let part = self.part();
                origin.copy(&survey, &self.io, &part, &mut tick)?;
                Some(part)
            };
            let _lock = self.lock().map_err(write)?;
            if let Some(part) = &part {
                self.io.disk().rename(part, &blob).map_err(write)?;
                self.io.sync_dir(&self.blobs).map_err(write)?;
            } else if self.io.disk().size(&blob).map_err(write)? != Some(survey.size) {
                // Collected since it was looked at, before it had a name: bring it in after all.
                continue;
            }
            record(&survey)?;
            progress(total, total);
            return Ok((survey, part.is_some()));
        }
    }

    /// Whether the content is there, whole. (A blob that has rotted is written anew by whoever brings it again.)
    fn is_present(&self, survey: &Survey) -> io::Result<bool> {
        let blob = self.blob(&survey.digest);
        if self.io.disk().size(&blob)? != Some(survey.size) {
            return Ok(false);
        }
        if !self.locking {
            return Ok(true); // A fake disk has no file that could be read in pieces.
        }
        is_whole(&blob, &survey.digest)
    }

    fn referenced(&self) -> io::Result<BTreeSet<Digest>> {
        let names = self.records.names(&self.io)?.into_iter().map(|named| named.digest);
        let files = self.records.files(&self.io)?.into_iter().map(|hashed| hashed.digest);
        Ok(names.chain(files).collect())
    }

    fn resolved(&self, digest: Digest, size: u64) -> ResolvedImage {
        let (path, image_id) = (self.blob(&digest), digest.to_string());
        ResolvedImage { digest, path, image_id, size, pulled: false }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, ResolveError> {
        self.io.disk().size(&self.blob(digest)).map_err(|cause| ResolveError::Store { cause })
    }

    fn part(&self) -> PathBuf {
        // The hasher's keys are random. A process id would not do: containers may share the folder.
        let random = RandomState::new().build_hasher().finish();
        self.blobs.join(format!("{PART}{random:016x}"))
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        self.locking.then(|| Lock::wait(&self.dir.join(LOCK))).transpose()
    }

    fn share_loading(&self) -> io::Result<Option<Lock>> {
        self.locking.then(|| Lock::share(&self.dir.join(LOADING))).transpose()
    }

    /// Removes the parts of processes that ended too early. Left alone while anybody loads.
    fn clear_parts(&self) -> io::Result<()> {
        let _alone = if self.locking {
            let Some(lock) = Lock::try_take(&self.dir.join(LOADING))? else { return Ok(()) };
            Some(lock)
        } else {
            None
        };
        for name in self.io.disk().list(&self.blobs)? {
            if name.starts_with(PART) {
                self.io.disk().remove(&self.blobs.join(name))?;
            }
        }
        Ok(())
    }
}

/// Names of the lock files.
const LOCK: &str = "lock";
const LOADING: &str = "loading";

#[cfg(test)]
mod tests;
