//! Reads the tree of a volume once, for what is in it.
//!
//! Owns: what counts and how much. Is not: the sums. No link is followed, and whatever the modules do to the tree meanwhile, the worst
//! is that something is missed until the next time.
//!
//! Limits: [`DEPTH_MAX`] levels, with a folder open on each and some 24 KiB of its names; how many entries a folder has makes no
//! difference. [`LINKS_MAX`] files with several names.

use std::collections::HashSet;
use std::io;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};

use super::Volume;
use crate::limits::ENTRY_BYTES;

/// Levels of folders that are measured.
pub(super) const DEPTH_MAX: usize = 128;

/// Files with several names that are counted once; more are counted at each name.
const LINKS_MAX: usize = 4096;

/// Device and number of a file.
pub(super) type Inode = (u64, u64);

#[allow(clippy::useless_conversion, reason = "the fields are narrower on other machines")]
pub(super) fn inode(stat: &Stat) -> Inode {
    (stat.st_dev.into(), stat.st_ino.into())
}

/// One measurement of one volume.
pub(super) struct Walk<'a> {
    pub(super) volume: &'a Volume,
    /// Files with several names.
    pub(super) seen: &'a mut HashSet<Inode>,
}

impl Walk<'_> {
    /// Bytes of everything that has a name; a tree that is too deep has more than there are.
    pub(super) fn tree_bytes(&mut self) -> io::Result<u64> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = vec![Dir::new(openat(&self.volume.dir, ".", flags, Mode::empty())?)?];
        let mut total = 0_u64;
        loop {
            let depth = here.len();
            let Some(dir) = here.last_mut() else { return Ok(total) };
            let Some(entry) = dir.next() else {
                here.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            total = total.saturating_add(self.cost(&stat, is_folder));
            if !is_folder {
                continue;
            }
            if depth > DEPTH_MAX {
                return Ok(u64::MAX);
            }
            // Gone or replaced meanwhile: its turn comes at the next measurement.
            if let Ok(next) = openat(dir.fd()?, name, flags, Mode::empty()) {
                here.push(Dir::new(next)?);
            }
        }
    }

    /// What one entry takes, its name included.
    fn cost(&mut self, stat: &Stat, is_folder: bool) -> u64 {
        if is_folder {
            // Its own size says how many names it has had; its names are counted one by one.
            return ENTRY_BYTES.saturating_add(self.volume.cost(1));
        }
        if stat.st_nlink > 1 && self.has_seen(inode(stat)) {
            return ENTRY_BYTES;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        ENTRY_BYTES.saturating_add(self.volume.cost(size))
    }

    fn has_seen(&mut self, inode: Inode) -> bool {
        if self.seen.len() < LINKS_MAX {
            !self.seen.insert(inode)
        } else {
            self.seen.contains(&inode)
        }
    }
}
