//! A folder that a component is listing.
//!
//! Owns: reading it bit by bit, so that what is held for it does not depend on how much is in it (wasmtime-wasi reads a folder whole), and
//! on which thread. Is not: who may list it, nor what an entry is called in a version of WASI.
//!
//! Limits: [`LISTING_BYTES`] each.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use tokio::task::{JoinHandle, spawn_blocking};

use super::Work;
use crate::wasi::account::Held;

/// What is held for a list: a part of the folder as the kernel hands it over, an open file, and entries on their way from another
/// thread.
pub(super) const LISTING_BYTES: u64 = 36 << 10;

/// What wasmtime-wasi's list of a whole folder takes for each entry beside its name: two records of it, and the room that lists grow into.
const WHOLE_ENTRY_BYTES: u64 = 256;

/// Entries that come from another thread at a time: some 4 KiB of names.
const BATCH_MAX: usize = 32;

/// What a list of a whole folder, as wasmtime-wasi makes it for core modules, will take, bytes. Counts the entries: how large a folder
/// calls itself says nothing of them (btrfs counts letters, ZFS entries, ext4 what there ever was).
pub(in crate::wasi) async fn whole_list_bytes(dir: Arc<File>, work: Work) -> io::Result<u64> {
    match work {
        Work::Here => count(&dir),
        Work::Elsewhere => spawn_blocking(move || count(&dir))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error))),
    }
}

fn count(dir: &File) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in entries(dir)? {
        bytes += WHOLE_ENTRY_BYTES + entry?.file_name().count_bytes() as u64;
    }
    Ok(bytes)
}

/// From the beginning. The folders that are open from the start are open as places, which nothing is read from.
fn entries(dir: &File) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::new(openat(dir, ".", flags, Mode::empty())?)?)
}

/// An entry; `None`: there are no more.
pub(super) type Next = io::Result<Option<(OsString, FileType)>>;

pub(super) struct Listing {
    dir: Dir,
    work: Work,
    /// Read on another thread already.
    ahead: VecDeque<Next>,
    _held: Held,
}

impl Listing {
    /// Begins at the beginning.
    pub(super) async fn of(dir: Arc<File>, held: Held, work: Work) -> io::Result<Self> {
        match work {
            Work::Here => Self::new(&dir, held, work),
            Work::Elsewhere => spawn_blocking(move || Self::new(&dir, held, work))
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error))),
        }
    }

    /// The same, on this thread.
    pub(super) fn new(dir: &File, held: Held, work: Work) -> io::Result<Self> {
        Ok(Self { dir: entries(dir)?, work, ahead: VecDeque::new(), _held: held })
    }

    /// The next entry, if this thread may ask for it or it is here already.
    pub(super) fn next_here(&mut self) -> Option<Next> {
        match self.work {
            Work::Here => Some(self.next()),
            Work::Elsewhere => self.ahead.pop_front(),
        }
    }

    /// The next entry, asked for on another thread.
    pub(super) async fn next_elsewhere(self) -> io::Result<(Self, Next)> {
        self.ask_elsewhere().await.map_err(io::Error::other)
    }

    /// Begins to ask on another thread.
    pub(super) fn ask_elsewhere(mut self) -> JoinHandle<(Self, Next)> {
        spawn_blocking(move || {
            for _ in 0..BATCH_MAX {
                let next = self.next();
                let is_last = !matches!(next, Ok(Some(_)));
                self.ahead.push_back(next);
                if is_last {
                    break;
                }
            }
            let first = self.ahead.pop_front().unwrap_or(Ok(None));
            (self, first)
        })
    }

    fn next(&mut self) -> Next {
        loop {
            let Some(entry) = self.dir.next() else { return Ok(None) };
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                // Some file systems do not say. What is gone by now is not shown.
                let dir = self.dir.fd()?;
                let Ok(stat) = statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let name = OsString::from_vec(entry.file_name().to_bytes().to_owned());
            return Ok(Some((name, kind)));
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::collections::BTreeMap;

    use crate::wasi::account::{Account, Nobody};

    async fn list(dir: &std::path::Path, work: Work) -> BTreeMap<OsString, FileType> {
        let account: Arc<dyn Account> = Arc::new(Nobody);
        let held = Held::take(&account, LISTING_BYTES).unwrap();
        // As a place, as wasmtime-wasi opens the folders of the start.
        let place = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let dir = Arc::new(File::from(place));
        let mut listing = Listing::of(dir, held, work).await.unwrap();
        let mut all = BTreeMap::new();
        loop {
            let next = match listing.next_here() {
                Some(next) => next,
                None => {
                    let (back, next) = listing.next_elsewhere().await.unwrap();
                    listing = back;
                    next
                }
            };
            let Some((name, kind)) = next.unwrap() else { return all };
            assert!(all.insert(name, kind).is_none(), "told twice");
        }
    }

    #[tokio::test]
    async fn everything_in_a_folder_is_told_once_with_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3000 {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        for work in [Work::Here, Work::Elsewhere] {
            let all = list(dir.path(), work).await;
            assert_eq!(all.len(), 3002, "{work:?}");
            let kind = |name: &str| all[std::ffi::OsStr::new(name)];
            assert_eq!(kind("folder"), FileType::Directory);
            assert_eq!(kind("link"), FileType::Symlink);
            assert_eq!(kind("17"), FileType::RegularFile);
        }
    }

    #[tokio::test]
    async fn an_empty_folder_ends_at_once_on_any_thread() {
        let dir = tempfile::tempdir().unwrap();
        for work in [Work::Here, Work::Elsewhere] {
            assert!(list(dir.path(), work).await.is_empty(), "{work:?}");
        }
    }
}
