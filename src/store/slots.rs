//! One record in two copies, of which a power cut can spoil at most one.
//!
//! Owns: the order of disk operations that makes a commit or a removal safe. Not: what a record says (`record`), which
//! records exist (`mod`). Callers serialise access to one record; different records may be written at once.
//!
//! ```text
//!  commit   create STEM.tmp · write · sync        a fault here changes nothing
//!           rename onto the slot that is NOT current
//!           sync_dir                              now it is durable; that slot becomes current
//!  remove   remove the other slot · sync_dir      or a power cut could bring an older copy back
//!           remove the current slot · sync_dir
//! ```
//!
//! On a full disk the older copy gives way to the new content: what is there can be changed, though nothing can be added. The record
//! has one copy until that is done.
//!
//! The current copy is never touched before a newer one is durable. When a rename or a `sync_dir` fails, nobody knows
//! what a reboot would find: the record is then *uncertain*, is never taken for unchanged, and the next commit writes
//! a higher generation over the same spare slot.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::Disk;
use super::record::{self, EnvelopeFault, Label, RECORD_BYTES_MAX};

/// The two places of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    const BOTH: [Self; 2] = [Self::A, Self::B];

    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::A => ".a",
            Self::B => ".b",
        }
    }
}

/// Whether a commit had anything to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    Written,
    /// The same content is durable already; the disk was left alone.
    Unchanged,
}

/// A disk that counts what is written to it.
#[derive(Debug)]
pub struct Metered {
    disk: Arc<dyn Disk>,
    bytes: AtomicU64,
    fsyncs: AtomicU64,
    commits: AtomicU64,
}

/// What was written since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of records; file systems add their own.
    pub bytes: u64,
    /// Times the disk was asked to make something durable.
    pub fsyncs: u64,
    /// Commits and removals that reached the disk.
    pub commits: u64,
}

impl Metered {
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            bytes: AtomicU64::new(0),
            fsyncs: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        }
    }

    /// The disk itself, for what is not counted.
    #[must_use]
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    #[must_use]
    pub fn written(&self) -> Written {
        Written {
            bytes: self.bytes.load(Ordering::Relaxed),
            fsyncs: self.fsyncs.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
        }
    }

    /// [`Disk::sync_dir`], counted.
    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_dir(dir)
    }

    /// Counts what was written to [`Metered::disk`] directly.
    pub fn count(&self, bytes: u64, fsyncs: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.fsyncs.fetch_add(fsyncs, Ordering::Relaxed);
    }

    fn write_durably(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.disk.create(path)?;
        file.write(bytes)?;
        self.count(u64::try_from(bytes.len()).unwrap_or(u64::MAX), 1);
        file.sync()
    }
}

/// What is known of one record on disk.
#[derive(Debug)]
pub struct Slots {
    dir: PathBuf,
    stem: String,
    /// The slot with the newest durable copy, and the fingerprint of its content.
    current: Option<(Slot, [u8; 32])>,
    /// The highest generation that may be on disk.
    generation: u64,
    /// Something may be in the slot that is not current.
    spare_in_use: bool,
    /// A copy is there that could neither be read nor moved away; its generation may be anything.
    unreadable: bool,
    /// The last operation failed half-way: a reboot may find the state before it or the state after it.
    uncertain: bool,
}

/// A valid copy found on disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Copy {
    pub label: Label,
    pub payload: Vec<u8>,
}

/// A copy that cannot be used.
#[derive(Debug)]
pub struct BadCopy {
    pub path: PathBuf,
    /// Fits after the file's name: "does not match its checksum".
    pub fault: String,
}

/// What [`Slots::load`] found.
#[derive(Debug)]
pub struct Found {
    pub slots: Slots,
    /// The newest valid copy.
    pub newest: Option<Copy>,
    pub bad: Vec<BadCopy>,
    /// A copy could not be looked at, for a reason that is none of its own: nothing is known of it, and it must stay where it is.
    pub denied: Option<Denied>,
}

/// A copy that this process cannot look at.
#[derive(Debug)]
pub struct Denied {
    pub path: PathBuf,
    pub cause: io::Error,
}

impl Slots {
    /// A record that is not on disk.
    #[must_use]
    pub fn absent(dir: &Path, stem: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            stem: stem.to_owned(),
            current: None,
            generation: 0,
            spare_in_use: false,
            unreadable: false,
            uncertain: false,
        }
    }

    /// The record a file of a records' folder belongs to; `None` for anything that is no slot.
    #[must_use]
    pub fn stem_of(file_name: &str) -> Option<&str> {
        Slot::BOTH.iter().find_map(|slot| file_name.strip_suffix(slot.suffix()))
    }

    /// Whether a file is what an interrupted commit leaves behind.
    #[must_use]
    pub fn is_leftover(file_name: &str) -> bool {
        file_name.ends_with(TEMPORARY)
    }

    /// Reads both slots; `accept` may refuse a copy that is valid but not this record's.
    #[must_use]
    pub fn load(
        disk: &dyn Disk,
        dir: &Path,
        stem: &str,
        accept: impl Fn(&Label) -> Result<(), String>,
    ) -> Found {
        let mut slots = Self::absent(dir, stem);
        let mut newest: Option<(Slot, Copy)> = None;
        let (mut bad, mut denied) = (Vec::new(), None);
        for slot in Slot::BOTH {
            let path = slots.path(slot);
            let copy = match read_copy(disk, &path, &accept) {
                Ok(None) => continue,
                Ok(Some(copy)) => copy,
                Err(Unread::Bad(fault)) => {
                    bad.push(BadCopy { path, fault });
                    continue;
                }
                Err(Unread::Denied(cause)) => {
                    denied = Some(Denied { path, cause });
                    continue;
                }
            };
            match newest.take() {
                Some(older) if older.1.label.generation < copy.label.generation => {
                    newest = Some((slot, copy));
                    slots.spare_in_use = true;
                }
                Some(newer) => {
                    newest = Some(newer);
                    slots.spare_in_use = true;
                }
                None => newest = Some((slot, copy)),
            }
        }
        if let Some((slot, copy)) = &newest {
            slots.current = Some((*slot, record::fingerprint(&copy.label, &copy.payload)));
            slots.generation = copy.label.generation;
        }
        slots.unreadable = !bad.is_empty() || denied.is_some();
        Found { slots, newest: newest.map(|(_, copy)| copy), bad, denied }
    }

    /// The bad copies that [`Slots::load`] found were moved away, durably.
    pub fn bad_copies_are_gone(&mut self) {
        self.unreadable = false;
    }

    /// Whether nothing of the record is, or may be, on disk.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.current.is_none() && !self.spare_in_use && !self.unreadable && !self.uncertain
    }

    /// Makes a new content durable. The label's generation is filled in here.
    pub fn commit(&mut self, io: &Metered, label: Label, payload: &[u8]) -> io::Result<Commit> {
        let fingerprint = record::fingerprint(&label, payload);
        if !self.uncertain && self.current.is_some_and(|(_, current)| current == fingerprint) {
            return Ok(Commit::Unchanged);
        }
        let generation = self.generation + 1;
        let bytes = record::seal(&Label { generation, ..label }, payload);
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > RECORD_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let temporary = self.dir.join(format!("{}{TEMPORARY}", self.stem));
        self.write_temporary(io, &temporary, &bytes)?;
        let target = self.current.map_or(Slot::A, |(slot, _)| slot.other());
        self.generation = generation;
        self.spare_in_use = true;
        self.uncertain = true;
        io.disk.rename(&temporary, &self.path(target))?;
        io.sync_dir(&self.dir)?;
        if self.unreadable && self.current.is_none() {
            // Were it to become readable, its generation might win.
            io.disk.remove(&self.path(target.other()))?;
            io.sync_dir(&self.dir)?;
        }
        self.unreadable = false;
        self.spare_in_use = self.current.is_some();
        self.current = Some((target, fingerprint));
        self.uncertain = false;
        io.commits.fetch_add(1, Ordering::Relaxed);
        Ok(Commit::Written)
    }

    /// Writes what is to take a slot's place, on a full disk where the older copy was.
    fn write_temporary(&mut self, io: &Metered, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
        let write = || {
            // Best effort: a leftover is harmless and goes at the next start, but on a full disk room counts.
            io.write_durably(temporary, bytes).inspect_err(|_| drop(io.disk.remove(temporary)))
        };
        let Err(error) = write() else { return Ok(()) };
        // In an uncertain record nobody knows which copy is the older one.
        let has_older = self.spare_in_use && !self.uncertain && !self.unreadable;
        let Some((current, _)) = self.current.filter(|_| has_older && is_lack_of_space(&error))
        else {
            return Err(error);
        };
        io.disk.remove(&self.path(current.other()))?;
        // Before it is forgotten: or a removal would leave it out, and a power cut bring it back.
        io.sync_dir(&self.dir)?;
        self.spare_in_use = false;
        write()
    }

    /// Takes the record off the disk, durably. Needs no free space. `false` if it was not there.
    pub fn remove(&mut self, io: &Metered) -> io::Result<bool> {
        if self.is_absent() {
            return Ok(false);
        }
        self.uncertain = true;
        let current = self.current.map_or(Slot::A, |(slot, _)| slot);
        if self.spare_in_use || self.unreadable {
            io.disk.remove(&self.path(current.other()))?;
            io.sync_dir(&self.dir)?;
        }
        io.disk.remove(&self.path(current))?;
        io.sync_dir(&self.dir)?;
        *self = Self { generation: self.generation, ..Self::absent(&self.dir, &self.stem) };
        io.commits.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.dir.join(format!("{}{}", self.stem, slot.suffix()))
    }
}

fn is_lack_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Files kept in `.corrupt`. Evidence for a person, not an archive: what comes after them is removed.
pub const CORRUPT_FILES_MAX: usize = 64;

/// Name of the folder for damaged files.
const CORRUPT: &str = ".corrupt";

/// Takes a bad file out of the way, durably: into `BASE/.corrupt/PREFIX.NAME`. Where it is now; `None`: enough evidence
/// is kept already, and it was removed.
pub fn quarantine(
    io: &Metered,
    base: &Path,
    prefix: &str,
    file: &Path,
) -> io::Result<Option<PathBuf>> {
    let corrupt = base.join(CORRUPT);
    if io.disk.create_dir(&corrupt)? {
        io.sync_dir(base)?;
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let target = corrupt.join(format!("{prefix}.{name}"));
    let room = io.disk.list(&corrupt)?.len() < CORRUPT_FILES_MAX;
    if room {
        io.disk.rename(file, &target)?;
        io.sync_dir(&corrupt)?;
    } else {
        io.disk.remove(file)?;
    }
    if let Some(dir) = file.parent() {
        io.sync_dir(dir)?;
    }
    Ok(room.then_some(target))
}

/// Suffix of a file that is still being written.
const TEMPORARY: &str = ".tmp";

/// Why there is no copy where one should be.
enum Unread {
    Bad(String),
    Denied(io::Error),
}

fn read_copy(
    disk: &dyn Disk,
    path: &Path,
    accept: impl Fn(&Label) -> Result<(), String>,
) -> Result<Option<Copy>, Unread> {
    let bytes = match disk.read(path, RECORD_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(Unread::Bad(EnvelopeFault::TooLarge.to_string()));
        }
        Err(error) if is_not_the_files(&error) => return Err(Unread::Denied(error)),
        Err(error) => return Err(Unread::Bad(format!("cannot be read: {error}"))),
    };
    let (label, payload) = record::open(&bytes).map_err(|fault| Unread::Bad(fault.to_string()))?;
    accept(&label).map_err(Unread::Bad)?;
    Ok(Some(Copy { payload: payload.to_vec(), label }))
}

/// Whether the file may well be good, and this process cannot read it: it belongs to another user (the daemon was once run by hand), or
/// there is no memory, or no descriptor.
fn is_not_the_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory)
        || of_process.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
