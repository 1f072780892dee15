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
//! Limits: a tree that is deeper than [`walk`] goes counts as full. Bytes that were
//! granted and not yet written when a measurement begins are missed by it until the next one: a write in progress for each open file.

mod excess;
mod walk;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::{fstat, fstatvfs};

use crate::clock::{Clock, Timestamp};
use crate::limits::ENTRY_BYTES;
use crate::spec::{Container, ContainerKind, Pod, VolumeMedium, VolumeSource};
use walk::{Walk, inode};

pub use excess::Excess;

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

#[cfg(test)]
mod tests;
