//! A wall round each mounted folder: modules write as much into it as it has room for.
//!
//! Owns: asking for room before bytes, files and folders come into being, and keeping files in the folder that they are in. Is not: WASI's
//! file functions, which are wasmtime-wasi's and do the work, nor the sums (`volume::space`, behind [`Room`]).
//!
//! ```text
//!  module ─► write, open-at, … ─► in a folder with a wall? ──no──► wasmtime-wasi's
//!            (in our place)         │yes
//!                                 Room: is there room? ──yes──► wasmtime-wasi's      ──no──► insufficient-space, at once
//! ```
//! The functions that make a folder grow are replaced in the linkers by ones that ask first: `p2` and `p3` here, `wasi::p1` for core
//! modules. A module none of whose folders has a wall pays one look at an empty list. Which folder a file is in is told by the kernel
//! (`/proc/self/fd`), so that neither links nor renaming by another module move it out of its account. It has no name for what lies
//! deeper than 4,096 bytes of path; nothing is opened, made or written there (`name-too-long`), since it may be in any folder.
//!
//! What these functions hold for a module (lists of folders, what a stream has read ahead or not yet written, a path on its way) is on
//! its account; one measurement at a time for each pod.
//!
//! What is neither a file nor a folder is not opened: opening a FIFO waits for its other end, possibly for ever, on a
//! thread that nobody could get back, and what a device does nobody knows.
//!
//! Errors as WASI has them: `insufficient-space` where there is no room, `cross-device` for a rename or hard link from one volume to
//! another, which in Kubernetes are mounts of their own as well; `no-such-device` for a FIFO, a socket, a device (what Linux says of a
//! socket, and of a FIFO that is not waited for); `insufficient-memory` beyond [`FILES_MAX`] open files (WASI has no `EMFILE` there);
//! `name-too-long` beyond [`PATH_BYTES_MAX`].
//!
//! Limits: [`FILES_MAX`], [`PATH_BYTES_MAX`], [`CALL_BYTES`] for each call of 0.3 under way.

mod listing;
pub mod p2;
pub mod p3;
mod reader;
mod stream;
mod writer;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiView;

use crate::limits::ENTRY_BYTES;
use crate::wasi::account::{Account, Held, Nobody};

pub(in crate::wasi) use listing::whole_list_bytes;

/// Files and folders that a module has open at once: three quarters of the resources it may have, so that one which has opened all it
/// gets can still wait, print, and close.
pub(in crate::wasi) const FILES_MAX: usize = 3072;

/// Longest path, bytes: Linux' own bound (`PATH_MAX`, with the zero at its end).
pub(in crate::wasi) const PATH_BYTES_MAX: usize = 4095;

/// What the host holds for one call of WASI 0.3 that may wait, its path apart.
const CALL_BYTES: u64 = 1024;

/// The answer of a [`Room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// They are taken.
    Yes,
    /// There are not that many.
    No,
    /// [`Room::take_measured`] will tell.
    Unsure,
}

/// What a folder has left.
pub trait Room: fmt::Debug + Send + Sync {
    /// Where it lies, as the kernel names it.
    fn place(&self) -> &Path;
    /// Asks for `bytes` more, before they are written. Answers at once.
    fn take(&self, bytes: u64) -> Grant;
    /// The same after measuring what is there. Blocking, possibly for long.
    fn take_measured(&self, bytes: u64) -> bool;
    /// Something was removed, made shorter, or not written after all.
    fn freed(&self);
    /// A file in it was opened: it takes its space as long as it is open, even without a name.
    fn opened(&self, file: &Arc<File>);
    /// What a file of `size` bytes takes, its name apart.
    fn cost(&self, size: u64) -> u64;
}

/// What a file of `size` bytes takes more when it ends at `end`.
pub(in crate::wasi) fn growth(room: &dyn Room, size: u64, end: u64) -> u64 {
    room.cost(end).saturating_sub(room.cost(size))
}

/// What a new folder takes.
pub(in crate::wasi) fn folder_bytes(room: &dyn Room) -> u64 {
    room.cost(1).saturating_add(ENTRY_BYTES)
}

/// What a new symbolic link takes.
pub(in crate::wasi) fn link_bytes(room: &dyn Room, target: usize) -> u64 {
    room.cost(target as u64).saturating_add(ENTRY_BYTES)
}

/// Where a module's file work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// On the guest's own thread: all its folders are on disks of this machine.
    Here,
    /// On threads for it, since one of the folders asks somebody else, who may never answer.
    Elsewhere,
}

/// The walls of one run, and who pays for measuring. Clones are the same.
#[derive(Clone, Debug)]
pub struct Walls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rooms: Vec<(PathBuf, Arc<dyn Room>)>,
    account: Arc<dyn Account>,
    /// One measurement at a time: the modules of a pod may not have all of the host's threads for file work.
    turn: Arc<Semaphore>,
    work: Work,
    open: Mutex<Open>,
}

/// Files and folders that a component has opened and not closed.
#[derive(Debug, Default)]
struct Open {
    /// Their places in the table. Those that are open from the start, however often they are asked for, are none of these.
    places: HashSet<u32>,
    /// About to be opened.
    coming: usize,
}

/// A file or folder that is about to be opened.
#[derive(Debug)]
struct Opening(Walls);

impl Opening {
    /// It stands there in the table.
    fn done(self, place: u32) {
        self.0.open().places.insert(place);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.open().coming -= 1;
    }
}

impl Walls {
    /// Walls round the folders that these rooms are of; a room may be named several times. Who has `turn` measures: it is
    /// [`one_at_a_time`] for all modules of a pod.
    #[must_use]
    pub fn new(
        rooms: impl IntoIterator<Item = Arc<dyn Room>>,
        account: Arc<dyn Account>,
        work: Work,
        turn: Arc<Semaphore>,
    ) -> Self {
        let mut placed: Vec<(PathBuf, Arc<dyn Room>)> = Vec::new();
        for room in rooms {
            if placed.iter().all(|(place, _)| place != room.place()) {
                placed.push((room.place().to_owned(), room));
            }
        }
        Self(Arc::new(Inner { rooms: placed, account, turn, work, open: Mutex::default() }))
    }

    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self::new([], Arc::new(Nobody), Work::Here, one_at_a_time())
    }

    /// Who pays for what the files' functions hold.
    #[must_use]
    pub fn account(&self) -> &Arc<dyn Account> {
        &self.0.account
    }

    /// Where file work is done.
    #[must_use]
    pub(in crate::wasi) fn work(&self) -> Work {
        self.0.work
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for one more file, in `table` and among those that may be open; `None` if there is none left.
    fn open_one(&self, table: &mut ResourceTable) -> Option<Opening> {
        let mut open = self.open();
        let fits = open.places.len() + open.coming < FILES_MAX;
        if !fits || !has_places(table, open.coming + 1) {
            return None;
        }
        open.coming += 1;
        drop(open);
        Some(Opening(self.clone()))
    }

    /// What stood at that place was closed.
    fn closed(&self, place: u32) {
        self.open().places.remove(&place);
    }

    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.0.rooms.is_empty()
    }

    /// The room that an open file or folder is in; `None`: it has no wall round it.
    ///
    /// # Errors
    /// `ENAMETOOLONG`: it lies so deep that the kernel cannot name it.
    pub fn around(&self, fd: impl AsFd) -> io::Result<Option<Arc<dyn Room>>> {
        if !self.any() {
            return Ok(None);
        }
        let link = Path::new("/proc/self/fd").join(fd.as_fd().as_raw_fd().to_string());
        // A file that was removed keeps the name of its folder.
        let place = std::fs::read_link(link)?;
        let found = self.0.rooms.iter().find(|(room, _)| place.starts_with(room));
        Ok(found.map(|(_, room)| Arc::clone(room)))
    }

    /// Asks for `bytes` more.
    pub async fn grow(&self, room: &Arc<dyn Room>, bytes: u64) -> bool {
        match room.take(bytes) {
            _ if bytes == 0 => true,
            Grant::Yes => true,
            Grant::No => false,
            Grant::Unsure => self.grow_measured(Arc::clone(room), bytes).await,
        }
    }

    /// Measures on a blocking thread, on the module's account.
    async fn grow_measured(&self, room: Arc<dyn Room>, bytes: u64) -> bool {
        let Ok(turn) = Arc::clone(&self.0.turn).acquire_owned().await else { return false };
        let account = Arc::clone(&self.0.account);
        let measured = tokio::task::spawn_blocking(move || {
            let mut fits = false;
            account.work(&mut || fits = room.take_measured(bytes));
            drop(turn);
            fits
        });
        measured.await.unwrap_or(false)
    }
}

/// What those share of whom one may measure at a time.
#[must_use]
pub fn one_at_a_time() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

/// Two folders that files cannot be moved between.
#[must_use]
pub(in crate::wasi) fn are_apart(a: Option<&Arc<dyn Room>>, b: Option<&Arc<dyn Room>>) -> bool {
    a.map(|room| room.place()) != b.map(|room| room.place())
}

/// A store whose folders may have walls.
pub trait FilesView: WasiView {
    fn walls(&self) -> &Walls;
}

/// Room that was taken for something to be made; if it is not made after all, worth measuring again.
#[derive(Debug, Default)]
pub(in crate::wasi) struct Made(Option<Arc<dyn Room>>);

impl Made {
    /// Nothing was taken: there is no wall.
    pub(in crate::wasi) fn freely() -> Self {
        Self(None)
    }

    pub(in crate::wasi) fn new(room: Arc<dyn Room>) -> Self {
        Self(Some(room))
    }

    pub(in crate::wasi) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(room) = &self.0 {
            room.freed();
        }
    }
}

/// Takes memory for what a file function holds.
fn hold(account: &Arc<dyn Account>, bytes: u64) -> Result<Held, Short> {
    Held::take(account, bytes).map_err(|refused| match refused.may_go_on {
        true => Short::Fails(rustix::io::Errno::NOMEM.into()),
        false => Short::Ends(refused.end),
    })
}

/// No memory for it.
enum Short {
    /// The call fails.
    Fails(io::Error),
    /// The module ends.
    Ends(wasmtime::Error),
}

/// Whether a table has so many places left.
pub(in crate::wasi) fn has_places(table: &mut ResourceTable, count: usize) -> bool {
    let Some(others) = count.checked_sub(1) else { return true };
    let Ok(probe) = table.push(()) else { return false };
    let fits = has_places(table, others);
    // It was pushed a moment ago.
    let _ = table.delete(probe);
    fits
}

/// A path that is longer is not worth a call.
fn fits(path: &str) -> io::Result<()> {
    if path.len() > PATH_BYTES_MAX { Err(rustix::io::Errno::NAMETOOLONG.into()) } else { Ok(()) }
}

/// Bytes in a file now.
pub(in crate::wasi) fn size_of(file: &File) -> u64 {
    rustix::fs::fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0)
}

/// `ENOSPC`.
fn no_space() -> io::Error {
    rustix::io::Errno::NOSPC.into()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    #[derive(Debug)]
    struct Jar(PathBuf);

    impl Room for Jar {
        fn place(&self) -> &Path {
            &self.0
        }

        fn take(&self, _bytes: u64) -> Grant {
            Grant::Yes
        }

        fn take_measured(&self, _bytes: u64) -> bool {
            true
        }

        fn freed(&self) {}

        fn opened(&self, _file: &Arc<File>) {}

        fn cost(&self, size: u64) -> u64 {
            size
        }
    }

    fn folder(dir: &OwnedFd, name: &str) -> OwnedFd {
        let _ = mkdirat(dir, name, Mode::RWXU);
        openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .unwrap()
    }

    #[test]
    fn nothing_lies_so_deep_that_no_wall_is_round_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().canonicalize().unwrap();
        let mut here = OwnedFd::from(File::open(&place).unwrap());
        let walls = Walls::new(
            [Arc::new(Jar(place)) as Arc<dyn Room>],
            Arc::new(Nobody),
            Work::Here,
            one_at_a_time(),
        );
        let mut refused = 0;
        for _ in 0..20 {
            here = folder(&here, &"d".repeat(255));
            match walls.around(&here) {
                Ok(room) => assert!(room.is_some(), "in no room at all"),
                Err(error) => {
                    assert_eq!(
                        error.raw_os_error(),
                        Some(rustix::io::Errno::NAMETOOLONG.raw_os_error())
                    );
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "deeper than the kernel can name");
        assert!(
            Walls::none().around(&here).unwrap().is_none(),
            "where nothing is limited nobody asks"
        );
    }

    /// A folder that is full until it is measured, and remembers how many measured at once.
    #[derive(Debug, Default)]
    struct Full {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Room for Full {
        fn place(&self) -> &Path {
            Path::new("/")
        }

        fn take(&self, _bytes: u64) -> Grant {
            Grant::Unsure
        }

        fn take_measured(&self, _bytes: u64) -> bool {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            for _ in 0..1000 {
                std::thread::yield_now();
            }
            self.now.fetch_sub(1, Ordering::SeqCst);
            true
        }

        fn freed(&self) {}

        fn opened(&self, _file: &Arc<File>) {}

        fn cost(&self, size: u64) -> u64 {
            size
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_modules_of_a_pod_have_one_thread_to_measure_with() {
        let (turn, full) = (one_at_a_time(), Arc::new(Full::default()));
        let mut modules = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let walls = Walls::new([], Arc::new(Nobody), Work::Here, Arc::clone(&turn));
            let room: Arc<dyn Room> = Arc::<Full>::clone(&full);
            modules.spawn(async move { walls.grow(&room, 1).await });
        }
        assert!(modules.join_all().await.into_iter().all(|fits| fits));
        assert_eq!(full.most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn closing_what_was_open_from_the_start_makes_no_room_and_what_is_coming_counts() {
        let (walls, mut table) = (Walls::none(), ResourceTable::new());
        for place in 0..u32::try_from(FILES_MAX).unwrap() - 1 {
            walls.open_one(&mut table).unwrap().done(place);
        }
        let last = walls.open_one(&mut table).unwrap();
        assert!(walls.open_one(&mut table).is_none(), "as many are coming as fit");
        walls.closed(u32::MAX);
        assert!(walls.open_one(&mut table).is_none(), "that was none of them");
        drop(last);
        let last = walls.open_one(&mut table).unwrap();
        walls.closed(7);
        drop((last, walls.open_one(&mut table).unwrap()));
        // The table's own places bound it as well, those of others who are on their way included.
        table.set_max_capacity(2);
        let first = walls.open_one(&mut table).unwrap();
        let second = walls.open_one(&mut table).unwrap();
        assert!(walls.open_one(&mut table).is_none());
        drop((first, second));
    }
}
