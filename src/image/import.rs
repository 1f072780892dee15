//! Brings a module file into the blobs: checked, hashed, in constant memory.
//!
//! Owns: the two passes over the file and the part file. Not: what it is called (`records`), nor when the part becomes a blob
//! (`ImageStore`, under its lock).
//!
//! ```text
//!  pass 1   read: whole WebAssembly? which digest?   a blob of that digest that is whole ends it here, unwritten
//!  pass 2   read again, write PART, hash again, sync; other bytes than in pass 1 are an error
//! ```
//!
//! Two passes cost a second reading (from the page cache, mostly) and save the flash from a second copy of what is
//! there already, which is what a restart of `play` or of the daemon nearly always brings.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::store::slots::Metered;

use super::digest::Digest;
use super::wasm::{Checker, ModuleKind, NotWasm};

/// Largest module. The interpreters of large languages are 30–60 MB; above this it is a mistake, and the machine code of
/// a larger one would not fit our gateways.
pub const MODULE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Bytes read at a time: large enough for full speed, small enough to be nothing.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// Part of the disk that images leave to others (records, logs, volumes): 5 %, but at least 16 MiB, since a full
/// disk stops more than downloads, and at most 256 MiB, since more has no use.
const RESERVE_BYTES_MIN: u64 = 16 * 1024 * 1024;
const RESERVE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const RESERVE_PART: u64 = 20;

/// Why a module file did not come in.
#[derive(Debug, Error)]
pub enum ImportError {
    #[error("cannot open module file {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("module file {} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("module file {} is larger than {MODULE_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("cannot read module file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("module file {} {cause}", path.display())]
    NotWasm { path: PathBuf, cause: NotWasm },
    #[error("module file {} changed while it was read", path.display())]
    Changed { path: PathBuf },
    #[error(
        "no space for {needed} bytes in the image store: {free} bytes are free, {reserve} are kept in reserve"
    )]
    NoSpace { needed: u64, free: u64, reserve: u64 },
    #[error("cannot write to the image store")]
    Write {
        #[source]
        cause: io::Error,
    },
}

/// What tells one state of a file from any other, short of reading it. (A change in content moves `ctime`, which cannot
/// be set back, unless it falls into the same tick of the kernel's clock: see [`Stamp::is_older_than`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    pub size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Stamp {
    /// The stamp of no file at all.
    #[must_use]
    pub const fn never() -> Self {
        Self { dev: 0, ino: 0, size: 0, modified: (0, 0), changed: (0, 0) }
    }

    /// Whether the file was last changed so long before `wall_ms` that a later change must show in the stamp. File
    /// systems count time in ticks of up to two seconds (FAT).
    #[must_use]
    pub fn is_older_than(&self, wall_ms: i64) -> bool {
        const TICK_SECONDS: i64 = 3;
        let newest = self.modified.0.max(self.changed.0);
        newest.saturating_add(TICK_SECONDS) < wall_ms.div_euclid(1000)
    }
}

/// A module file, opened.
#[derive(Debug)]
pub struct Origin {
    path: PathBuf,
    file: File,
    pub stamp: Stamp,
}

/// What pass 1 learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    pub digest: Digest,
    pub size: u64,
    pub kind: ModuleKind,
}

impl Origin {
    /// Opens a file. Never waits: a FIFO is refused, not listened to.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let named = || path.to_owned();
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = File::options()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|cause| ImportError::Open { path: named(), cause })?;
        let meta = file.metadata().map_err(|cause| ImportError::Read { path: named(), cause })?;
        if !meta.is_file() {
            return Err(ImportError::NotAFile { path: named() });
        }
        if meta.len() > MODULE_BYTES_MAX {
            return Err(ImportError::TooLarge { path: named() });
        }
        Ok(Self { path: named(), file, stamp: Stamp::from(&meta) })
    }

    /// Pass 1.
    pub fn survey(&mut self, tick: &mut dyn FnMut(u64)) -> Result<Survey, ImportError> {
        let mut hash = Sha256::new();
        let mut checker = Checker::default();
        let mut wrong = None;
        let size = self.read(tick, &mut |chunk| {
            hash.update(chunk);
            wrong = checker.feed(chunk).err();
            Ok(wrong.is_none())
        })?;
        let kind = match wrong {
            Some(cause) => Err(cause),
            None => checker.finish(),
        };
        let kind = kind.map_err(|cause| ImportError::NotWasm { path: self.path.clone(), cause })?;
        self.check_unchanged()?;
        Ok(Survey { digest: Digest::new(hash.finalize().into()), size, kind })
    }

    /// Pass 2: a synced copy at `part`. On failure nothing is left there.
    pub fn copy(
        &mut self,
        survey: &Survey,
        io: &Metered,
        part: &Path,
        tick: &mut dyn FnMut(u64),
    ) -> Result<(), ImportError> {
        let copied = self.try_copy(survey, io, part, tick);
        if copied.is_err() {
            // Best effort; what is left goes when the store is next opened.
            let _ = io.disk().remove(part);
        }
        copied
    }

    fn try_copy(
        &mut self,
        survey: &Survey,
        io: &Metered,
        part: &Path,
        tick: &mut dyn FnMut(u64),
    ) -> Result<(), ImportError> {
        let write = |cause| ImportError::Write { cause };
        let mut target = io.disk().create(part).map_err(write)?;
        let mut hash = Sha256::new();
        let size = self.read(tick, &mut |chunk| {
            hash.update(chunk);
            target.write(chunk).map_err(write)?;
            Ok(true)
        })?;
        if size != survey.size || Digest::new(hash.finalize().into()) != survey.digest {
            return Err(ImportError::Changed { path: self.path.clone() });
        }
        io.count(size, 1);
        target.sync().map_err(write)
    }

    /// Reads from the start to the end, or until `each` has had enough. The number of bytes read.
    fn read(
        &mut self,
        tick: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(&[u8]) -> Result<bool, ImportError>,
    ) -> Result<u64, ImportError> {
        let read = |path: &Path, cause| ImportError::Read { path: path.to_owned(), cause };
        self.file.rewind().map_err(|cause| read(&self.path, cause))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut size: u64 = 0;
        loop {
            let got = match self.file.read(&mut chunk) {
                Ok(0) => return Ok(size),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(read(&self.path, cause)),
            };
            size = size.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
            if size > MODULE_BYTES_MAX {
                // It grew since it was opened.
                return Err(ImportError::TooLarge { path: self.path.clone() });
            }
            if !each(&chunk[..got])? {
                return Ok(size);
            }
            tick(size);
        }
    }

    fn check_unchanged(&self) -> Result<(), ImportError> {
        let meta = self
            .file
            .metadata()
            .map_err(|cause| ImportError::Read { path: self.path.clone(), cause })?;
        if Stamp::from(&meta) == self.stamp {
            Ok(())
        } else {
            Err(ImportError::Changed { path: self.path.clone() })
        }
    }
}

/// Refuses before anything is written what would not fit, or would leave too little.
pub fn check_space(io: &Metered, dir: &Path, needed: u64) -> Result<(), ImportError> {
    let space = io.disk().space(dir).map_err(|cause| ImportError::Write { cause })?;
    let reserve = (space.total / RESERVE_PART).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
    if needed.saturating_add(reserve) <= space.free {
        Ok(())
    } else {
        Err(ImportError::NoSpace { needed, free: space.free, reserve })
    }
}

/// Whether a blob is what its name says.
///
/// # Errors
///
/// It cannot be read. One that is not there is simply not whole.
pub fn is_whole(path: &Path, digest: &Digest) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Digest::new(hash.finalize().into()) == *digest),
            Ok(got) => hash.update(&chunk[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
