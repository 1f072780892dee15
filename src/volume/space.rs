//! How much a pod may write: `emptyDir.sizeLimit`, `ephemeral-storage`, memory volumes on the pod's memory account.
//!
//! Owns: the sums, and measuring a tree when a sum has reached its limit. Not: noticing a write; who writes asks its [`Room`] first
//! (`wasi::files` does, for modules), and what nobody asked for is found by [`Space::measure`].
//!
//! ```text
//!  n bytes more ─► Room::take ─► fits what was asked for so far? ──yes──► Grant::Yes
//!                                   │no
//!                                was anything removed since the last measurement, or is that long ago? ──no──► Grant::No
//!                                   │yes
//!                                Grant::Unsure ─► Room::take_measured: reads the tree; what was removed counts no more
//! ```
//! Sums only grow between measurements, so one comes at most once for each limit's worth of bytes, or for each removal from a volume
//! that is full.
//!
//! What counts: a file with its size, in whole blocks (a hole is promised space; a quota that lets it be filled later is none), everything
//! that has a name with [`ENTRY_BYTES`], since a hundred thousand empty files fill a flash as well, and what was removed and is still
//! open. Asking and measuring reckon alike, so a module that heeds "no space left" is never evicted for what it wrote.
//!
//! Limits: [`DEPTH_MAX`] levels, a deeper tree counts as full; [`LINKS_MAX`] files with several names are told apart. Bytes that were
//! granted and not yet written when a measurement begins are missed by it until the next one: a write in progress for each open file.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, fstatvfs, openat, statat};

use crate::clock::{Clock, Timestamp};
use crate::limits::ENTRY_BYTES;
use crate::spec::{Container, ContainerKind, Pod, VolumeMedium, VolumeSource};

/// Levels of folders that are measured.
const DEPTH_MAX: usize = 128;

/// Files with several names that are counted once; more are counted at each name.
const LINKS_MAX: usize = 4096;

/// A full volume from which nothing was removed is not measured again sooner, ...
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// ... nor for so many times as long as the last measurement took.
const MEASURE_SHARE: u32 = 20;

/// Blocks of file systems lie between these; some name the size of a network request instead.
const BLOCK_MIN: u64 = 4 << 10;
const BLOCK_MAX: u64 = 64 << 10;

/// Memory that a memory volume is paid from.
pub trait Memory: fmt::Debug + Send + Sync {
    /// Takes bytes; false and nothing taken if there are not that many.
    fn take(&self, bytes: u64) -> bool;
    /// Gives bytes back.
    fn give_back(&self, bytes: u64);
}

/// For folders that are not in memory.
#[derive(Debug)]
struct NoMemory;

impl Memory for NoMemory {
    fn take(&self, _bytes: u64) -> bool {
        false
    }

    fn give_back(&self, _bytes: u64) {}
}

/// A limit that is exceeded. Shown in the kubelet's words (`eviction_manager.go`), with the space at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excess {
    /// `emptyDir.sizeLimit`.
    Volume { name: String, limit: u64, used: u64 },
    /// The sum of the containers' `ephemeral-storage`.
    Pod { limit: u64, used: u64 },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { name, limit, .. } => write!(
                f,
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ",
                quantity(*limit)
            ),
            Self::Pod { limit, .. } => write!(
                f,
                "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
                quantity(*limit)
            ),
        }
    }
}

/// Bytes as Kubernetes writes them: in the largest unit that they are a whole number of, binary before decimal.
fn quantity(bytes: u64) -> String {
    let binary = ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"].into_iter().zip((1..=6).rev());
    let binary = binary.map(|(unit, power)| (unit, 1024_u64.pow(power)));
    let decimal = ["E", "P", "T", "G", "M", "k"].into_iter().zip((1..=6).rev());
    let decimal = decimal.map(|(unit, power)| (unit, 1000_u64.pow(power)));
    match binary.chain(decimal).find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}

/// The answer to a wish for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// They are taken.
    Yes,
    /// There are not that many.
    No,
    /// Only measuring will tell: [`Room::take_measured`].
    Unsure,
}

/// The writable volumes of one pod.
#[derive(Debug)]
pub struct Space {
    volumes: Vec<Volume>,
    /// `ephemeral-storage` of all containers together, bytes.
    limit: Option<u64>,
    memory: Arc<dyn Memory>,
    clock: Clock,
    sums: Mutex<Sums>,
    /// Held by whoever measures.
    walk: Mutex<()>,
    /// Open files and the volumes they are in: what is removed meanwhile still takes its space. As many as modules may have open.
    opened: Mutex<Vec<(usize, Weak<File>)>>,
}

#[derive(Debug)]
struct Volume {
    name: String,
    dir: OwnedFd,
    /// Where it lies, as the kernel names it.
    place: PathBuf,
    limit: Option<u64>,
    in_memory: bool,
    /// What files are rounded up to, bytes.
    block: u64,
}

impl Volume {
    fn new(name: &str, dir: &OwnedFd, limit: Option<u64>, in_memory: bool) -> io::Result<Self> {
        let link = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
        Ok(Self {
            name: name.to_owned(),
            dir: dir.try_clone()?,
            place: std::fs::read_link(link)?,
            limit,
            in_memory,
            block: block_of(dir)?,
        })
    }

    fn cost(&self, size: u64) -> u64 {
        size.checked_next_multiple_of(self.block).unwrap_or(u64::MAX)
    }
}

/// What a file system rounds files up to, bytes.
fn block_of(dir: &OwnedFd) -> io::Result<u64> {
    Ok(fstatvfs(dir)?.f_frsize.clamp(BLOCK_MIN, BLOCK_MAX))
}

#[derive(Debug, Default)]
struct Sums {
    /// By volume, bytes.
    used: Vec<u64>,
    /// Of these, what was granted since the measurement in progress began.
    since: Vec<u64>,
    /// Something may be there no more.
    freed: bool,
    measured: Option<Measured>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Timestamp,
    took: Duration,
}

/// One volume's share.
#[derive(Clone, Debug)]
pub struct Room {
    space: Arc<Space>,
    at: usize,
}

impl Room {
    /// A folder that belongs to one run has room for what is in it now, and `more` bytes. Blocking.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn of_run(dir: &OwnedFd, more: u64, clock: Clock) -> io::Result<Self> {
        let volume = Volume::new("the run's own folder", dir, Some(0), false)?;
        let mut space = Space::of(vec![volume], None, Arc::new(NoMemory), clock);
        space.recount();
        let there = space.lock().used[0];
        space.volumes[0].limit = Some(there.saturating_add(more));
        Ok(Self { space: Arc::new(space), at: 0 })
    }

    /// Asks for `bytes` more, before they are written. Answers at once.
    #[must_use]
    pub fn take(&self, bytes: u64) -> Grant {
        self.space.take(self.at, bytes)
    }

    /// The same after measuring what is there: reads the whole tree.
    #[must_use]
    pub fn take_measured(&self, bytes: u64) -> bool {
        self.space.take_measured(self.at, bytes)
    }

    /// Something was removed, made shorter, or not written after all: it is worth measuring again.
    pub fn freed(&self) {
        self.space.lock().freed = true;
    }

    /// A file of the volume was opened: as long as it is open it counts, even without a name.
    pub fn opened(&self, file: &Arc<File>) {
        let mut opened = lock(&self.space.opened);
        if opened.len() == opened.capacity() {
            opened.retain(|(_, file)| file.strong_count() > 0);
        }
        opened.push((self.at, Arc::downgrade(file)));
    }

    /// What a file of `size` bytes counts, its name apart.
    #[must_use]
    pub fn cost(&self, size: u64) -> u64 {
        self.space.volumes[self.at].cost(size)
    }

    /// Where the volume lies, as the kernel names it.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.space.volumes[self.at].place
    }
}

impl Space {
    /// The space of a pod whose emptyDir volumes are these folders, measured as they are now. Memory volumes have `node_memory` bytes at
    /// most, as in Kubernetes. Blocking.
    ///
    /// # Errors
    /// If one of the folders cannot be looked at.
    pub fn new<'a>(
        pod: &Pod,
        dirs: impl IntoIterator<Item = (&'a str, &'a OwnedFd)>,
        memory: Arc<dyn Memory>,
        node_memory: u64,
        clock: Clock,
    ) -> io::Result<Arc<Self>> {
        let mut volumes = Vec::new();
        for (name, dir) in dirs {
            let named = pod.volumes.iter().find(|volume| volume.name == name);
            if let Some(VolumeSource::EmptyDir { medium, size_limit_bytes }) =
                named.map(|volume| &volume.source)
            {
                let in_memory = *medium == VolumeMedium::Memory;
                let most = in_memory.then_some(node_memory);
                let limit = size_limit_bytes.iter().copied().chain(most).min();
                volumes.push(Volume::new(name, dir, limit, in_memory)?);
            }
        }
        let space = Self::of(volumes, ephemeral_limit(pod), memory, clock);
        if space.is_counted() {
            space.recount();
        }
        Ok(Arc::new(space))
    }

    fn of(volumes: Vec<Volume>, limit: Option<u64>, memory: Arc<dyn Memory>, clock: Clock) -> Self {
        let sums = Sums {
            used: vec![0; volumes.len()],
            since: vec![0; volumes.len()],
            freed: false,
            measured: None,
        };
        Self {
            volumes,
            limit,
            memory,
            clock,
            sums: Mutex::new(sums),
            walk: Mutex::new(()),
            opened: Mutex::default(),
        }
    }

    /// The share of the volume `name`; `None` where nothing limits it.
    #[must_use]
    pub fn room(self: &Arc<Self>, name: &str) -> Option<Room> {
        let at = self.volumes.iter().position(|volume| volume.name == name)?;
        let volume = &self.volumes[at];
        let counted = volume.limit.is_some() || volume.in_memory || self.limit.is_some();
        counted.then(|| Room { space: Arc::clone(self), at })
    }

    /// Whether anything here has a limit.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        let counts = |volume: &Volume| volume.limit.is_some() || volume.in_memory;
        !self.volumes.is_empty() && (self.limit.is_some() || self.volumes.iter().any(counts))
    }

    /// Measures everything, and says what is over its limit: whoever wrote it did not ask. Blocking.
    #[must_use]
    pub fn measure(&self) -> Option<Excess> {
        self.recount();
        let sums = self.lock();
        for (volume, &used) in self.volumes.iter().zip(&sums.used) {
            if let Some(limit) = volume.limit.filter(|&limit| used > limit) {
                return Some(Excess::Volume { name: volume.name.clone(), limit, used });
            }
        }
        let used = self.on_disk(&sums);
        let limit = self.limit.filter(|&limit| used > limit)?;
        Some(Excess::Pod { limit, used })
    }

    /// How long the last measurement took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.lock().measured.map_or(Duration::ZERO, |last| last.took)
    }

    /// Bytes used by each volume, as far as is known.
    #[must_use]
    pub fn used(&self) -> Vec<(String, u64)> {
        let sums = self.lock();
        let names = self.volumes.iter().map(|volume| volume.name.clone());
        names.zip(sums.used.iter().copied()).collect()
    }

    fn take(&self, at: usize, bytes: u64) -> Grant {
        let mut sums = self.lock();
        if self.grant(&mut sums, at, bytes) {
            return Grant::Yes;
        }
        // What is more than the whole limit fits no emptier volume either.
        if self.volumes[at].limit.is_some_and(|limit| bytes > limit) {
            return Grant::No;
        }
        let worth = sums.freed || sums.measured.is_none_or(|last| self.is_long_ago(last));
        if worth { Grant::Unsure } else { Grant::No }
    }

    fn is_long_ago(&self, last: Measured) -> bool {
        let pause = MEASURE_EVERY.max(last.took.saturating_mul(MEASURE_SHARE));
        self.clock.now().since(last.at) >= pause
    }

    fn take_measured(&self, at: usize, bytes: u64) -> bool {
        let asked = self.clock.now();
        let walk = lock(&self.walk);
        let since_then = |last: Measured| last.at > asked;
        let is_fresh = |sums: &Sums| !sums.freed && sums.measured.is_some_and(since_then);
        if !is_fresh(&self.lock()) {
            self.recount_in_turn();
        }
        drop(walk);
        self.grant(&mut self.lock(), at, bytes)
    }

    /// Takes them if they fit.
    fn grant(&self, sums: &mut Sums, at: usize, bytes: u64) -> bool {
        let volume = &self.volumes[at];
        let within = |limit: Option<u64>, used: u64| {
            limit.is_none_or(|limit| used.saturating_add(bytes) <= limit)
        };
        let fits = within(volume.limit, sums.used[at])
            && (volume.in_memory || within(self.limit, self.on_disk(sums)));
        if !fits || volume.in_memory && !self.memory.take(bytes) {
            return false;
        }
        sums.used[at] = sums.used[at].saturating_add(bytes);
        sums.since[at] = sums.since[at].saturating_add(bytes);
        true
    }

    fn on_disk(&self, sums: &Sums) -> u64 {
        let volumes = self.volumes.iter().zip(&sums.used).filter(|(volume, _)| !volume.in_memory);
        volumes.map(|(_, used)| *used).fold(0, u64::saturating_add)
    }

    fn recount(&self) {
        let walk = lock(&self.walk);
        self.recount_in_turn();
        drop(walk);
    }

    /// Replaces the sums by what is there, and what is granted meanwhile. Grants go on while it reads; called with the turn taken.
    fn recount_in_turn(&self) {
        let began = self.clock.now();
        {
            let mut sums = self.lock();
            sums.since.fill(0);
            sums.freed = false;
        }
        let found: Vec<Option<u64>> =
            (0..self.volumes.len()).map(|at| self.volume_bytes(at).ok()).collect();
        let mut sums = self.lock();
        for (at, found) in found.into_iter().enumerate() {
            let (volume, used, since) = (&self.volumes[at], sums.used[at], sums.since[at]);
            // What cannot be measured keeps its sum, which is never too small.
            let Some(found) = found.map(|found| found.saturating_add(since)) else { continue };
            if volume.in_memory && found < used {
                self.memory.give_back(used - found);
            } else if volume.in_memory && !self.memory.take(found - used) {
                // It is held all the same; the account is full, so nothing more will be.
                continue;
            }
            sums.used[at] = found;
            // It may have been seen and counted as granted.
            sums.freed |= since > 0;
        }
        let now = self.clock.now();
        sums.measured = Some(Measured { at: now, took: now.since(began) });
    }

    /// Bytes of everything in a volume, and of what is open there without a name.
    fn volume_bytes(&self, at: usize) -> io::Result<u64> {
        let volume = &self.volumes[at];
        let mut seen = HashSet::new();
        let mut total = Walk { volume, seen: &mut seen }.tree_bytes()?;
        let mut opened: Vec<Arc<File>> = Vec::new();
        lock(&self.opened).retain(|(of, file)| match file.upgrade() {
            Some(file) if *of == at => {
                opened.push(file);
                true
            }
            other => other.is_some(),
        });
        for file in opened {
            let Ok(stat) = fstat(&file) else { continue };
            if stat.st_nlink == 0 && seen.insert(inode(&stat)) {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                total = total.saturating_add(volume.cost(size)).saturating_add(ENTRY_BYTES);
            }
        }
        Ok(total)
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        lock(&self.sums)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let sums = self.sums.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (volume, used) in self.volumes.iter().zip(&sums.used) {
            if volume.in_memory {
                self.memory.give_back(*used);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What Kubernetes reckons as a pod's limit (`resourcehelper.PodLimits`): the sum of those that run together, or one init container's
/// where that is more.
fn ephemeral_limit(pod: &Pod) -> Option<u64> {
    let limit = |c: &Container| c.resources.ephemeral_storage_limit_bytes;
    let is_init = |c: &&Container| c.kind == ContainerKind::Init;
    let together = pod.all_containers().filter(|c| !is_init(c)).filter_map(limit);
    let together = together.reduce(u64::saturating_add);
    together.max(pod.all_containers().filter(is_init).filter_map(limit).max())
}

/// One measurement of one volume.
struct Walk<'a> {
    volume: &'a Volume,
    /// Files with several names.
    seen: &'a mut HashSet<Inode>,
}

/// Device and number of a file.
type Inode = (u64, u64);

#[allow(clippy::useless_conversion, reason = "the fields are narrower on other machines")]
fn inode(stat: &Stat) -> Inode {
    (stat.st_dev.into(), stat.st_ino.into())
}

impl Walk<'_> {
    fn tree_bytes(&mut self) -> io::Result<u64> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut above: Vec<(OwnedFd, Vec<OsString>)> = Vec::new();
        let mut here = openat(&self.volume.dir, ".", flags, Mode::empty())?;
        let mut total = 0_u64;
        let mut folders = self.list(&here, &mut total)?;
        loop {
            if let Some(name) = folders.pop() {
                if above.len() >= DEPTH_MAX {
                    return Ok(u64::MAX);
                }
                // Gone or replaced meanwhile: its turn comes at the next measurement.
                let Ok(next) = openat(&here, &name, flags, Mode::empty()) else { continue };
                let inside = self.list(&next, &mut total)?;
                let (up, rest) =
                    (std::mem::replace(&mut here, next), std::mem::replace(&mut folders, inside));
                above.push((up, rest));
            } else if let Some((up, rest)) = above.pop() {
                (here, folders) = (up, rest);
            } else {
                return Ok(total);
            }
        }
    }

    /// Adds what lies in one folder to `total`; its folders.
    fn list(&mut self, dir: &OwnedFd, total: &mut u64) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut folders = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let Ok(stat) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            *total = total.saturating_add(ENTRY_BYTES);
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder {
                folders.push(name.to_owned());
            }
            let several = !is_folder && stat.st_nlink > 1;
            let known = several && self.has_seen(inode(&stat));
            if !known {
                // A folder's own size says how many names it has had; its names are counted one by one.
                let size = if is_folder { 1 } else { u64::try_from(stat.st_size).unwrap_or(0) };
                *total = total.saturating_add(self.volume.cost(size));
            }
        }
        Ok(folders)
    }

    fn has_seen(&mut self, inode: Inode) -> bool {
        if self.seen.len() < LINKS_MAX {
            !self.seen.insert(inode)
        } else {
            self.seen.contains(&inode)
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::testkit::pods;

    const KIB: u64 = 1024;

    #[derive(Debug, Default)]
    struct Purse {
        left: AtomicU64,
    }

    impl Memory for Purse {
        fn take(&self, bytes: u64) -> bool {
            let take = |left: u64| left.checked_sub(bytes);
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        }

        fn give_back(&self, bytes: u64) {
            self.left.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    struct Fixture {
        dir: tempfile::TempDir,
        pod: Pod,
        purse: Arc<Purse>,
    }

    impl Fixture {
        fn new(volumes: &[(&str, VolumeMedium, Option<u64>)], ephemeral: Option<u64>) -> Self {
            let mut container = pods::regular("c");
            container.resources.ephemeral_storage_limit_bytes = ephemeral;
            let mut pod = pods::pod([container]);
            let dir = tempfile::tempdir().unwrap();
            for &(name, medium, size_limit_bytes) in volumes {
                fs::create_dir(dir.path().join(name)).unwrap();
                let source = VolumeSource::EmptyDir { medium, size_limit_bytes };
                pod.volumes.push(crate::spec::Volume { name: name.to_owned(), source });
            }
            Self { dir, pod, purse: Arc::default() }
        }

        /// One volume on disk, `v`, of so many KiB.
        fn one(kib: u64) -> Self {
            Self::new(&[("v", VolumeMedium::Default, Some(kib * KIB))], None)
        }

        fn space(&self) -> Arc<Space> {
            let open = |volume: &crate::spec::Volume| {
                let dir = File::open(self.path(&volume.name)).unwrap();
                (volume.name.clone(), OwnedFd::from(dir))
            };
            let dirs: Vec<(String, OwnedFd)> = self.pod.volumes.iter().map(open).collect();
            let dirs = dirs.iter().map(|(name, dir)| (name.as_str(), dir));
            let purse = Arc::<Purse>::clone(&self.purse);
            Space::new(&self.pod, dirs, purse, 1 << 30, Clock::start()).unwrap()
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        /// Writes a file as a module does: asks for the name and for the bytes.
        fn write(&self, room: &Room, path: &str, bytes: usize) -> bool {
            let fits = grow(room, room.cost(bytes as u64) + ENTRY_BYTES);
            if fits {
                fs::write(self.path(path), vec![7; bytes]).unwrap();
            }
            fits
        }

        fn remove(&self, room: &Room, path: &str) {
            fs::remove_file(self.path(path)).unwrap();
            room.freed();
        }
    }

    fn grow(room: &Room, bytes: u64) -> bool {
        match room.take(bytes) {
            Grant::Yes => true,
            Grant::No => false,
            Grant::Unsure => room.take_measured(bytes),
        }
    }

    #[test]
    fn a_volume_takes_its_limit_and_not_a_byte_more() {
        let fixture = Fixture::one(64);
        let room = fixture.space().room("v").unwrap();
        assert!(fixture.write(&room, "v/file", 40 << 10));
        assert!(!fixture.write(&room, "v/other", 24 << 10), "its name counts too");
        assert!(fixture.write(&room, "v/other", 20 << 10));
        assert!(!grow(&room, 3 * KIB));
        assert!(grow(&room, 2 * KIB));
    }

    #[test]
    fn what_was_removed_may_be_written_again_at_once() {
        let fixture = Fixture::one(64);
        let room = fixture.space().room("v").unwrap();
        for turn in 0..20 {
            assert!(fixture.write(&room, "v/file", 48 << 10), "turn {turn}");
            assert!(!fixture.write(&room, "v/other", 48 << 10), "turn {turn}");
            fixture.remove(&room, "v/file");
        }
    }

    #[test]
    fn asking_and_measuring_reckon_alike() {
        let fixture = Fixture::one(1024);
        let space = fixture.space();
        let room = space.room("v").unwrap();
        let mut files = 0;
        while fixture.write(&room, &format!("v/{files}"), files) {
            files += 1;
        }
        assert!(files > 100, "{files}");
        assert_eq!(space.measure(), None, "who heeds the answer is never over the limit");
        let asked = space.used()[0].1;
        assert!((1019 * KIB..=1024 * KIB).contains(&asked), "{asked}");
    }

    #[test]
    fn a_full_volume_is_not_measured_at_each_write() {
        let fixture = Fixture::one(8);
        let space = fixture.space();
        let room = space.room("v").unwrap();
        assert!(grow(&room, 8 * KIB));
        room.freed();
        let _ = grow(&room, 8 * KIB);
        let first = space.lock().measured.unwrap().at;
        for _ in 0..1000 {
            assert_eq!(
                room.take(16 * KIB),
                Grant::No,
                "more than the limit: no measurement tells otherwise"
            );
        }
        assert_eq!(space.lock().measured.unwrap().at, first);
    }

    #[test]
    fn what_is_removed_counts_as_long_as_it_is_open() {
        let fixture = Fixture::one(64);
        let room = fixture.space().room("v").unwrap();
        assert!(fixture.write(&room, "v/file", 48 << 10));
        let open = Arc::new(File::open(fixture.path("v/file")).unwrap());
        room.opened(&open);
        room.opened(&Arc::clone(&open));
        fixture.remove(&room, "v/file");
        assert!(!fixture.write(&room, "v/other", 48 << 10));
        drop(open);
        room.freed();
        assert!(fixture.write(&room, "v/other", 48 << 10));
    }

    #[test]
    fn the_list_of_open_files_does_not_grow_with_time() {
        let fixture = Fixture::one(64);
        let space = fixture.space();
        let room = space.room("v").unwrap();
        for _ in 0..10_000 {
            room.opened(&Arc::new(File::open(fixture.dir.path()).unwrap()));
        }
        assert!(lock(&space.opened).capacity() < 100);
    }

    #[test]
    fn volumes_without_a_limit_share_that_of_the_pod() {
        let volumes = [("a", VolumeMedium::Default, None), ("b", VolumeMedium::Default, None)];
        let fixture = Fixture::new(&volumes, Some(64 * KIB));
        let space = fixture.space();
        let (a, b) = (space.room("a").unwrap(), space.room("b").unwrap());
        assert!(fixture.write(&a, "a/file", 40 << 10));
        assert!(!fixture.write(&b, "b/file", 40 << 10));
        fs::write(fixture.path("b/unasked"), vec![7; 40 << 10]).unwrap();
        let excess = space.measure().unwrap();
        assert_eq!(
            excess.to_string(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 64Ki. "
        );
    }

    #[test]
    fn nothing_is_counted_where_nothing_is_limited() {
        let fixture = Fixture::new(&[("v", VolumeMedium::Default, None)], None);
        assert!(fixture.space().room("v").is_none());
        assert!(!fixture.space().is_counted());
    }

    #[test]
    fn a_memory_volume_is_paid_from_the_pods_memory_and_gives_it_back() {
        let fixture = Fixture::new(&[("m", VolumeMedium::Memory, None)], None);
        fixture.purse.left.store(100 * KIB, Ordering::Relaxed);
        let space = fixture.space();
        let room = space.room("m").unwrap();
        assert!(fixture.write(&room, "m/file", 64 << 10));
        assert!(!grow(&room, 64 * KIB), "not that much memory");
        fixture.remove(&room, "m/file");
        assert!(grow(&room, 64 * KIB));
        drop((room, space));
        assert_eq!(fixture.purse.left.load(Ordering::Relaxed), 100 * KIB);
    }

    #[test]
    fn a_memory_volume_without_a_limit_has_the_nodes_memory() {
        let fixture = Fixture::new(&[("m", VolumeMedium::Memory, None)], None);
        fixture.purse.left.store(u64::MAX, Ordering::Relaxed);
        let space = fixture.space();
        assert_eq!(space.volumes[0].limit, Some(1 << 30));
        assert!(!grow(&space.room("m").unwrap(), 2 << 30));
    }

    #[test]
    fn empty_files_count_too() {
        let fixture = Fixture::one(10);
        for n in 0..11 {
            fs::write(fixture.path(&format!("v/{n}")), "").unwrap();
        }
        let excess = fixture.space().measure().unwrap();
        assert!(matches!(&excess, Excess::Volume { used, .. } if *used == 11 * KIB), "{excess:?}");
        assert_eq!(
            excess.to_string(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"10Ki\". "
        );
    }

    #[test]
    fn a_file_counts_once_whatever_it_is_called_and_a_hole_counts() {
        let fixture = Fixture::one(1024);
        fs::write(fixture.path("v/one"), vec![7; 100 << 10]).unwrap();
        fs::hard_link(fixture.path("v/one"), fixture.path("v/two")).unwrap();
        let space = fixture.space();
        assert_eq!(space.used()[0].1, 102 * KIB);
        File::create(fixture.path("v/sparse")).unwrap().set_len(500 << 10).unwrap();
        assert_eq!(space.measure(), None);
        assert_eq!(space.used()[0].1, 603 * KIB);
    }

    #[test]
    fn a_tree_that_is_too_deep_counts_as_full() {
        let fixture = Fixture::new(&[("v", VolumeMedium::Default, Some(1 << 40))], None);
        let deep: PathBuf = std::iter::repeat_n("d", DEPTH_MAX + 2).collect();
        fs::create_dir_all(fixture.path("v").join(deep)).unwrap();
        let excess = fixture.space().measure();
        assert!(matches!(excess, Some(Excess::Volume { used: u64::MAX, .. })));
    }

    #[test]
    fn what_was_there_before_the_daemon_counts() {
        let fixture = Fixture::one(64);
        fs::write(fixture.path("v/old"), vec![7; 60 << 10]).unwrap();
        assert!(!grow(&fixture.space().room("v").unwrap(), 8 * KIB));
    }

    #[test]
    fn init_containers_add_nothing_to_those_that_run_together() {
        let with = |kind, bytes| {
            let mut container = pods::regular("c");
            container.kind = kind;
            container.resources.ephemeral_storage_limit_bytes = bytes;
            container
        };
        let limit = |init: [Container; 2], regular: [Container; 2]| {
            let mut pod = pods::pod(regular);
            pod.init_containers = init.into();
            ephemeral_limit(&pod)
        };
        use ContainerKind::{Init, Regular, Sidecar};
        let none = || [with(Init, None), with(Sidecar, None)];
        assert_eq!(limit(none(), [with(Regular, None), with(Regular, None)]), None);
        let both = || [with(Regular, Some(10)), with(Regular, Some(20))];
        assert_eq!(limit(none(), both()), Some(30));
        assert_eq!(limit([with(Init, Some(40)), with(Sidecar, Some(5))], both()), Some(40));
        assert_eq!(limit([with(Init, Some(34)), with(Sidecar, Some(5))], both()), Some(35));
    }

    #[test]
    fn quantities_are_written_as_kubernetes_writes_them() {
        for (bytes, text) in
            [(0, "0"), (1 << 20, "1Mi"), (3 << 29, "1536Mi"), (1_000_000, "1M"), (1001, "1001")]
        {
            assert_eq!(quantity(bytes), text);
        }
    }
}
