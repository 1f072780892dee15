//! The folders and files that a pod's modules share.
//!
//! Owns: making a pod's volumes, handing them to each run of a module, and removing them without a trace. Not: what they mean
//! to a guest (wasmtime's preopened folders do the containment there), nor where ConfigMaps come from ([`ObjectData`]).
//!
//! ```text
//!  set_up(pod) ──► MountedVolumes ──► prepare(container) ──► RunMounts ──► end_run ──► termination message
//!                        ▲                  (each run)                        (each run)
//!                     refresh: live update of configMap and its kind
//!  tear_down(uid), remove_orphans: also after a crash, also what a guest left to trip us
//!
//!  ROOT/pods/UID/volumes/NAME      emptyDir, configMap, downwardAPI, projected       (disk)
//!  MEMORY/pods/UID/volumes/NAME    secret, emptyDir of medium Memory                 (tmpfs, if there is one)
//!  …/pods/UID/runs/CONTAINER.N.M   what belongs to one run: its termination log, copies of single files
//! ```
//!
//! A guest may leave anything in a volume: every walk of ours starts from an open folder and follows no link out
//! (`beneath`). Folders above a volume are the owner's alone (0700), so that modes inside, 0777 for an emptyDir, say
//! nothing to other users of the host. emptyDirs survive a restart of the daemon, and of the machine, as long as their
//! pod does; nothing is synced, since their content is the guest's to sync.
//!
//! Secrets and `medium: Memory` are kept in a memory-backed folder ([`find_memory_dir`]). Where there is none they are
//! kept on disk in a 0700 folder, and [`MountedVolumes::warnings`] says so. What modules may write is counted in [`space`].
//!
//! Blocking: call through `spawn_blocking`. Needs `/proc`.

pub mod beneath;
pub mod host_path;
mod mount_error;
pub mod mount_table;
mod mounts;
pub mod payload;
pub mod space;
mod termination;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{CWD, Mode, OFlags, fchmod, openat};
use rustix::io::Errno;
use thiserror::Error;

use crate::error::chain;
use crate::secret::{Unreadable, Values};
use crate::spec::{FieldPath, Pod, PodUid, ResourceField, Volume, VolumeMedium, VolumeSource};
use crate::store::record::file_name;

use host_path::HostPathError;
use payload::PayloadError;

pub use host_path::HostPathPolicy;
pub use mount_error::MountError;
pub use mounts::{PreparedMount, RunMounts};

/// Where the content of volumes comes from.
pub trait ObjectData {
    /// `data` and `binaryData` of a ConfigMap, decoded; `None` if there is no such ConfigMap.
    fn config_map(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;

    /// The plain values of a Secret; `None` if there is no such Secret.
    ///
    /// # Errors
    ///
    /// It is there, and encrypted in a way that this node cannot read.
    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, Unreadable>;

    /// A downward API field that the [`Pod`] itself does not hold: node name, addresses.
    fn field(&self, field: &FieldPath) -> Option<String>;

    /// A resource of a container, divided and rounded as Kubernetes does.
    fn resource(&self, field: &ResourceField) -> Option<String>;
}

/// The volumes' folder cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("cannot open volumes folder {}", dir.display())]
    Folder {
        dir: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("/proc is not mounted; volumes need it")]
    NoProc,
}

/// A volume that could not be set up. Shown as Kubernetes does.
#[derive(Debug)]
pub struct VolumeError {
    pub volume: String,
    pub cause: VolumeFault,
}

/// What went wrong with a volume.
#[derive(Debug, Error)]
pub enum VolumeFault {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    #[error("cannot write the volume")]
    Write {
        #[from]
        #[source]
        cause: io::Error,
    },
}

impl VolumeError {
    /// The reason of the event.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        "FailedMount"
    }
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text of an event, not of a log: it is whole as it is.
        write!(
            f,
            "MountVolume.SetUp failed for volume \"{}\" : {}",
            self.volume,
            chain(&self.cause)
        )
    }
}

impl std::error::Error for VolumeError {}

/// A pod's folder that could not be removed. Trying again is harmless.
#[derive(Debug, Error)]
#[error("cannot remove the volumes of pod {pod}")]
pub struct TearDownError {
    /// UID, or the name of the folder where that is all that is known.
    pub pod: String,
    #[source]
    pub cause: io::Error,
}

/// The volumes of one pod, set up. Cheap to clone; holds them open.
#[derive(Clone, Debug)]
pub struct MountedVolumes {
    volumes: Arc<BTreeMap<String, Mounted>>,
    /// What an operator should know, one sentence each; for events.
    pub warnings: Vec<String>,
}

impl MountedVolumes {
    /// The folders that are the modules' to write to, by name.
    pub fn empty_dirs(&self) -> impl Iterator<Item = (&str, &OwnedFd)> {
        let ours = self.volumes.iter().filter(|(_, mounted)| mounted.kind == Kind::EmptyDir);
        ours.map(|(name, mounted)| (name.as_str(), &mounted.place))
    }
}

/// One volume.
#[derive(Debug)]
struct Mounted {
    place: OwnedFd,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The guest's to write to.
    EmptyDir,
    /// The host's.
    HostPath,
    /// Written by us, read-only for guests whatever their mounts say (as in Kubernetes).
    Written { secret: bool },
}

/// The daemon's folder of volumes.
#[derive(Debug)]
pub struct VolumeRoot {
    disk: Base,
    memory: Option<Base>,
    /// Counts the runs that were prepared.
    runs: AtomicU64,
}

/// `pods` on disk or in memory.
#[derive(Debug)]
struct Base {
    pods: OwnedFd,
}

impl Base {
    fn open(dir: &Path) -> io::Result<Self> {
        let pods = dir.join("pods");
        DirBuilder::new().recursive(true).mode(0o700).create(&pods)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pods = openat(CWD, &pods, flags, Mode::empty())?;
        fchmod(&pods, Mode::from_raw_mode(0o700))?;
        Ok(Self { pods })
    }

    /// `pods/UID/PART`, made if it is not there.
    fn part(&self, uid: &PodUid, part: &str) -> io::Result<OwnedFd> {
        let pod = beneath::make_dir(&self.pods, pod_folder(uid), 0o700)?;
        beneath::make_dir(&pod, part, 0o700)
    }
}

impl Base {
    /// Removes what a daemon that was killed left of a pod's runs.
    fn forget_runs(&self, uid: &PodUid) -> io::Result<()> {
        match openat(&self.pods, pod_folder(uid), beneath::FOLDER | OFlags::CLOEXEC, Mode::empty())
        {
            Ok(pod) => beneath::remove_tree(&pod, mounts::RUNS),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A pod's folder; the UID itself where it is short and harmless.
fn pod_folder(uid: &PodUid) -> String {
    file_name(uid.as_str())
}

impl VolumeRoot {
    /// Opens (and makes) the folder on disk, and the memory-backed one that [`find_memory_dir`] found.
    ///
    /// # Errors
    ///
    /// The folder on disk cannot be used, or there is no `/proc`. A memory folder that cannot be used is done without.
    pub fn open(disk: &Path, memory: Option<&Path>) -> Result<Self, OpenError> {
        if !Path::new("/proc/self/fd").is_dir() {
            return Err(OpenError::NoProc);
        }
        let error = |cause| OpenError::Folder { dir: disk.to_owned(), cause };
        Ok(Self {
            disk: Base::open(disk).map_err(error)?,
            memory: memory.and_then(|memory| Base::open(memory).ok()),
            runs: AtomicU64::new(0),
        })
    }

    /// Makes all volumes of a pod, or finds them as they are (after a restart of the daemon, or a failed attempt). None of
    /// its modules may run yet: what earlier runs left is removed.
    ///
    /// # Errors
    ///
    /// The first volume that cannot be; the caller tries again later, or tears down.
    pub fn set_up(
        &self,
        pod: &Pod,
        data: &dyn ObjectData,
        policy: &HostPathPolicy,
    ) -> Result<MountedVolumes, VolumeError> {
        for base in self.bases() {
            // Best effort: it goes with the pod at the latest.
            let _ = base.forget_runs(&pod.uid);
        }
        let mut volumes = BTreeMap::new();
        let mut warnings = Vec::new();
        for volume in &pod.volumes {
            let mounted = self
                .set_up_one(pod, volume, data, policy, &mut warnings)
                .map_err(|cause| VolumeError { volume: volume.name.clone(), cause })?;
            volumes.insert(volume.name.clone(), mounted);
        }
        Ok(MountedVolumes { volumes: Arc::new(volumes), warnings })
    }

    /// Brings configMap, secret, downwardAPI and projected volumes up to date. True: some module may read something
    /// new (but for `subPath` mounts and copies of single files, which stay as they were, as in Kubernetes).
    ///
    /// # Errors
    ///
    /// A volume that cannot be updated keeps its content; the others are updated nevertheless, and the first error is
    /// returned.
    pub fn refresh(
        &self,
        pod: &Pod,
        data: &dyn ObjectData,
        mounted: &MountedVolumes,
    ) -> Result<bool, VolumeError> {
        let mut changed = false;
        let mut failed = None;
        for volume in &pod.volumes {
            let Some(there) = mounted.volumes.get(&volume.name) else { continue };
            let Some(payload) = payload::payload(&volume.source, pod, data) else { continue };
            let written = payload
                .map_err(VolumeFault::from)
                .and_then(|payload| Ok(writer::write(&there.place, &payload)?));
            match written {
                Ok(new) => changed |= new,
                Err(cause) => {
                    failed.get_or_insert(VolumeError { volume: volume.name.clone(), cause });
                }
            }
        }
        failed.map_or(Ok(changed), Err)
    }

    /// Removes everything of a pod. To be called after its last run has ended; may be called again, and for a pod that has
    /// nothing.
    ///
    /// # Errors
    ///
    /// Something could not be removed. The rest is gone.
    pub fn tear_down(&self, uid: &PodUid) -> Result<(), TearDownError> {
        self.remove(&pod_folder(uid)).map_err(|cause| TearDownError { pod: uid.to_string(), cause })
    }

    /// Removes the folders of all pods but these: at start, when the durable pods are known.
    pub fn remove_orphans(&self, keep: &[PodUid]) -> Vec<TearDownError> {
        let keep: BTreeSet<OsString> = keep.iter().map(|uid| pod_folder(uid).into()).collect();
        let mut failed = Vec::new();
        for base in self.bases() {
            let orphans = match beneath::names(&base.pods, |name| !keep.contains(name)) {
                Ok(orphans) => orphans,
                Err(cause) => {
                    failed.push(TearDownError { pod: "(any)".to_owned(), cause });
                    continue;
                }
            };
            for orphan in orphans {
                if let Err(cause) = beneath::remove_tree(&base.pods, &orphan) {
                    failed.push(TearDownError { pod: orphan.to_string_lossy().into(), cause });
                }
            }
        }
        failed
    }

    fn remove(&self, folder: &str) -> io::Result<()> {
        let mut outcome = Ok(());
        for base in self.bases() {
            let removed = beneath::remove_tree(&base.pods, folder);
            outcome = outcome.and(removed);
        }
        outcome
    }

    fn bases(&self) -> impl Iterator<Item = &Base> {
        std::iter::once(&self.disk).chain(&self.memory)
    }

    fn set_up_one(
        &self,
        pod: &Pod,
        volume: &Volume,
        data: &dyn ObjectData,
        policy: &HostPathPolicy,
        warnings: &mut Vec<String>,
    ) -> Result<Mounted, VolumeFault> {
        if let VolumeSource::HostPath { path, kind } = &volume.source {
            let place = host_path::open(path, *kind, &pod.source, policy)?;
            return Ok(Mounted { place, kind: Kind::HostPath });
        }
        let payload = payload::payload(&volume.source, pod, data).transpose()?;
        let secret = payload::is_secret(&volume.source);
        let in_memory = secret
            || matches!(&volume.source, VolumeSource::EmptyDir { medium, .. } if *medium == VolumeMedium::Memory);
        if in_memory && self.memory.is_none() {
            let what = if secret { "secret volume" } else { "memory volume" };
            warnings.push(format!(
                "{what} \"{}\" is kept on disk: no memory-backed folder was found",
                volume.name
            ));
        }
        let base = if in_memory { self.memory.as_ref().unwrap_or(&self.disk) } else { &self.disk };
        let volumes = base.part(&pod.uid, "volumes")?;
        let name = file_name(&volume.name);
        let Some(payload) = payload else {
            let place = beneath::make_dir(&volumes, name, 0o777)?;
            return Ok(Mounted { place, kind: Kind::EmptyDir });
        };
        let place = beneath::make_dir(&volumes, name, 0o755)?;
        writer::write(&place, &payload)?;
        Ok(Mounted { place, kind: Kind::Written { secret } })
    }
}

/// Finds, or makes, a private folder on a memory-backed file system, for secrets. `candidates` in order of preference:
/// the service's runtime folder, the user's, `/dev/shm`. One folder per `state_dir`, so that two daemons do not meet.
#[must_use]
pub fn find_memory_dir(candidates: &[PathBuf], state_dir: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let state = std::fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    // Always a hash: a path holds slashes.
    let state = file_name(&String::from_utf8_lossy(state.as_os_str().as_bytes()));
    let user = rustix::process::geteuid().as_raw();
    candidates
        .iter()
        .map(|candidate| candidate.join(format!("podling-volumes-{user}-{}", &state[..18])))
        .find(|dir| make_private_memory_dir(dir).is_ok())
}

fn make_private_memory_dir(dir: &Path) -> io::Result<()> {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
    const MEMORY_KINDS: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
    let parent = dir.parent().ok_or_else(refused)?;
    let kind = rustix::fs::statfs(parent)?.f_type;
    #[allow(clippy::cast_sign_loss, reason = "a magic number, whose type differs by machine")]
    let kind = kind as u64 & 0xffff_ffff;
    if !MEMORY_KINDS.contains(&kind) {
        return Err(refused());
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    // In a folder that everybody may write to, it could be somebody else's by now.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, dir, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&folder)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refused());
    }
    fchmod(&folder, Mode::from_raw_mode(0o700))?;
    Ok(())
}

#[cfg(test)]
mod tests;
