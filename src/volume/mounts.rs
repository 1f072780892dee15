//! What one run of one module gets to see of its pod's volumes.
//!
//! Owns: `volumeMounts`, `subPath`, single files, and the termination log. Not: the volumes (`VolumeRoot`).
//!
//! WASI knows folders only (preopens). So
//! - a mount of a folder hands out that very folder, opened: no path that could change between check and use;
//! - a mount of one file is a private folder with a copy of it, at the guest path of its parent. Several such files in one
//!   guest folder share it. The copy is made at each start, as a `subPath` mount in Kubernetes does not follow
//!   updates either. It has to be read-only, and no volume may be mounted round it: a module cannot see one file
//!   inside another folder;
//! - the termination log is a file in a private folder at the guest path of its parent (`/dev` by default). Where a volume
//!   lies there already, the module writes into that volume, and the file counts if this run changed it. We never
//!   write or remove one there: it may be the host's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, OFlags, fstat};

use crate::spec::{Container, Mount, Pod, PodUid};
use crate::store::record::file_name;

use super::beneath;
use super::mount_error::MountError;
use super::termination::Log;
use super::{Base, Kind, Mounted, MountedVolumes, VolumeRoot, writer};

/// Largest single file that is mounted as a copy. ConfigMaps and Secrets have at most 1 MiB; certificates and small
/// tables fit as well. What is larger is better mounted with its folder.
pub(super) const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Mode of the termination log: any user may write it (as in Kubernetes).
const LOG_MODE: u32 = 0o666;

/// A folder for a module.
#[derive(Debug)]
pub struct PreparedMount {
    place: OwnedFd,
    guest: String,
    read_only: bool,
    /// `None`: a folder of the run's own.
    volume: Option<String>,
}

impl PreparedMount {
    /// A path that leads to the very folder that was checked, whatever is renamed meanwhile, as long as this value
    /// lives. (For `preopened_dir`, which takes nothing but paths.)
    #[must_use]
    pub fn host(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.place.as_raw_fd()))
    }

    /// Absolute path in the guest.
    #[must_use]
    pub fn guest(&self) -> &str {
        &self.guest
    }

    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The volume that it is, or is a part of; `None`: a folder of the run's own.
    #[must_use]
    pub fn volume(&self) -> Option<&str> {
        self.volume.as_deref()
    }

    /// The folder itself, open as a place.
    #[must_use]
    pub fn place(&self) -> &OwnedFd {
        &self.place
    }

    /// The folder itself, open as a place (`O_PATH`, or for listing).
    #[must_use]
    pub fn into_dir(self) -> OwnedFd {
        self.place
    }
}

/// Everything that one run gets. Keep it until the run has ended ([`VolumeRoot::end_run`]); `mounts` may be cleared, to
/// save file descriptors, as soon as the folders have been opened from [`PreparedMount::host`].
#[derive(Debug)]
pub struct RunMounts {
    /// To be preopened in this order; no two have the same guest path.
    pub mounts: Vec<PreparedMount>,
    log: Log,
    /// The run's private folder: where, and its name there.
    private: Option<(Place, String)>,
}

/// On which base a private folder is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Disk,
    Memory,
}

impl VolumeRoot {
    /// All mounts of one run. `sub_paths[i]` is `subPath` of `container.mounts[i]`, or its `subPathExpr`, expanded.
    ///
    /// # Errors
    ///
    /// A mount that cannot be; nothing is left behind.
    pub fn prepare(
        &self,
        pod: &Pod,
        container: &Container,
        attempt: u32,
        mounted: &MountedVolumes,
        sub_paths: &[Option<String>],
    ) -> Result<RunMounts, MountError> {
        let mut run = Preparing {
            root: self,
            pod,
            container,
            name: self.run_name(container, attempt),
            folders: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        for (at, mount) in container.mounts.iter().enumerate() {
            let sub_path = sub_paths.get(at).and_then(Option::as_deref);
            run.mount(mount, mounted, sub_path)?;
        }
        run.finish()
    }

    /// Ends a run: reads its termination message, at most the last 4096 bytes, and removes what was its own. Rubbish in
    /// the file is made text; a file that is none is an empty message.
    #[must_use]
    pub fn end_run(&self, pod: &Pod, run: RunMounts) -> String {
        let message = self.read_log(&pod.uid, &run.log);
        if let Some((place, name)) = &run.private {
            self.remove_run(&pod.uid, *place, name);
        }
        message
    }

    /// What cannot be removed now is removed with the pod.
    fn remove_run(&self, uid: &PodUid, place: Place, name: &str) {
        let runs = self.base(place).part(uid, RUNS);
        let _ = runs.and_then(|runs| beneath::remove_tree(&runs, name));
    }

    /// A name for a run's private folder, never given twice: an exec probe runs beside the run that it asks.
    fn run_name(&self, container: &Container, attempt: u32) -> String {
        let serial = self.runs.fetch_add(1, Ordering::Relaxed);
        file_name(&format!("{}.{attempt}.{serial}", container.name))
    }

    pub(super) fn base(&self, place: Place) -> &Base {
        match (place, &self.memory) {
            (Place::Memory, Some(memory)) => memory,
            (Place::Memory | Place::Disk, _) => &self.disk,
        }
    }
}

/// Folder of what belongs to single runs.
pub(super) const RUNS: &str = "runs";

/// The mounts of a run, gathered before any folder is made.
struct Preparing<'a> {
    root: &'a VolumeRoot,
    pod: &'a Pod,
    container: &'a Container,
    /// Of the run's private folder.
    name: String,
    /// By guest path.
    folders: BTreeMap<String, Folder<'a>>,
    /// By the guest path of their folder, then by name.
    files: BTreeMap<String, BTreeMap<String, Single>>,
}

struct Folder<'a> {
    place: OwnedFd,
    read_only: bool,
    volume: &'a str,
}

/// A file to copy.
struct Single {
    volume: String,
    bytes: Vec<u8>,
    mode: u32,
    secret: bool,
}

impl<'a> Preparing<'a> {
    fn mount(
        &mut self,
        mount: &'a Mount,
        mounted: &MountedVolumes,
        sub_path: Option<&str>,
    ) -> Result<(), MountError> {
        let volume = mounted.volumes.get(&mount.volume).ok_or_else(|| MountError::NoVolume {
            volume: mount.volume.clone(),
            container: self.container_name(),
        })?;
        let guest = self.guest_path(&mount.path)?;
        let place = self.resolve(mount, volume, sub_path)?;
        let read_only = mount.read_only || matches!(volume.kind, Kind::Written { .. });
        let found = beneath::file_type(&place).map_err(|cause| self.prepare_error(cause))?;
        match found {
            FileType::Directory => {
                let folder = Folder { place, read_only, volume: &mount.volume };
                match self.folders.insert(guest.clone(), folder) {
                    None => Ok(()),
                    Some(_) => Err(self.guest_error(&guest)),
                }
            }
            FileType::RegularFile if read_only => self.single(mount, volume, &guest, &place),
            FileType::RegularFile => Err(MountError::WritableFile {
                volume: mount.volume.clone(),
                container: self.container_name(),
                guest,
            }),
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Err(MountError::Special {
                volume: mount.volume.clone(),
                container: self.container_name(),
                what: kind_word(found),
            }),
        }
    }

    /// The volume, or the part of it that is asked for; made if it is not there, as in Kubernetes.
    fn resolve(
        &self,
        mount: &Mount,
        volume: &Mounted,
        sub_path: Option<&str>,
    ) -> Result<OwnedFd, MountError> {
        let whole = || volume.place.try_clone().map_err(|cause| self.prepare_error(cause));
        let Some(sub_path) = sub_path.filter(|sub_path| !sub_path.is_empty()) else {
            return whole();
        };
        let path = Path::new(sub_path);
        let harmless =
            |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !path.components().all(harmless) || sub_path.contains('\0') {
            return Err(MountError::SubPath {
                volume: mount.volume.clone(),
                sub_path: sub_path.to_owned(),
            });
        }
        let opened = beneath::open(&volume.place, path, OFlags::PATH);
        let opened = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.create_sub_path(mount, volume, path);
            }
            other => other,
        };
        opened.map_err(|cause| MountError::PrepareSubPath {
            volume: mount.volume.clone(),
            container: self.container_name(),
            cause,
        })
    }

    fn create_sub_path(
        &self,
        mount: &Mount,
        volume: &Mounted,
        path: &Path,
    ) -> Result<OwnedFd, MountError> {
        let made = match volume.kind {
            Kind::EmptyDir | Kind::HostPath => fstat(&volume.place)
                .map_err(io::Error::from)
                .and_then(|stat| beneath::make_dirs(&volume.place, path, stat.st_mode & 0o777)),
            // Kubernetes makes an empty folder there, which is a well-known trap; the key is missing.
            Kind::Written { .. } => Err(io::ErrorKind::NotFound.into()),
        };
        made.map_err(|cause| MountError::CreateSubPath {
            volume: mount.volume.clone(),
            container: self.container_name(),
            cause,
        })
    }

    fn single(
        &mut self,
        mount: &Mount,
        volume: &Mounted,
        guest: &str,
        place: &OwnedFd,
    ) -> Result<(), MountError> {
        let (parent, name) = split(guest).ok_or_else(|| self.guest_error(guest))?;
        let (bytes, mode) = read_whole(place).map_err(|cause| self.prepare_error(cause))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            return Err(MountError::LargeFile {
                volume: mount.volume.clone(),
                container: self.container_name(),
            });
        }
        let secret = matches!(volume.kind, Kind::Written { secret: true });
        let file = Single { volume: mount.volume.clone(), bytes, mode, secret };
        match self.files.entry(parent).or_default().insert(name, file) {
            None => Ok(()),
            Some(_) => Err(self.guest_error(guest)),
        }
    }

    fn finish(mut self) -> Result<RunMounts, MountError> {
        self.check_files()?;
        let log_path = self.guest_path(&self.container.termination_message_path)?;
        let (log_parent, log_name) = split(&log_path).ok_or_else(|| self.guest_error(&log_path))?;
        let in_volume = self.log_in_volume(&log_parent, &log_name);
        let mut run = RunMounts { mounts: Vec::new(), log: Log::None, private: None };
        let private = self.private_folder(in_volume.is_none())?;
        if let Some((place, folder)) = &private {
            run.private = Some((*place, self.name.clone()));
            self.fill(
                (*place, folder),
                &mut run,
                in_volume.is_none().then_some((&log_parent, &log_name)),
            )
            .map_err(|cause| {
                self.root.remove_run(&self.pod.uid, *place, &self.name);
                self.prepare_error(cause)
            })?;
        }
        if let Some(log) = in_volume {
            run.log = log;
        }
        for (guest, folder) in std::mem::take(&mut self.folders) {
            let Folder { place, read_only, volume } = folder;
            let volume = Some(volume.to_owned());
            run.mounts.push(PreparedMount { place, guest, read_only, volume });
        }
        Ok(run)
    }

    /// No single file in or below a mounted folder, or under its very name.
    fn check_files(&self) -> Result<(), MountError> {
        for (parent, files) in &self.files {
            let around = self.folders.keys().find(|guest| Path::new(parent).starts_with(guest));
            let Some((name, file)) = files.first_key_value() else { continue };
            let guest = join(parent, name);
            if let Some(around) = around {
                let around = format!("{around}, volume \"{}\"", self.folders[around].volume);
                let (volume, container) = (file.volume.clone(), self.container_name());
                return Err(MountError::FileInMount { volume, container, guest, around });
            }
            if let Some(name) =
                files.keys().find(|name| self.folders.contains_key(&join(parent, name)))
            {
                return Err(self.guest_error(&join(parent, name)));
            }
        }
        Ok(())
    }

    /// The log's place, if a volume lies where it should be.
    fn log_in_volume(&self, parent: &str, name: &str) -> Option<Log> {
        if self.folders.contains_key(&join(parent, name)) {
            return Some(Log::None);
        }
        let (guest, folder) = self
            .folders
            .iter()
            .filter(|(guest, _)| Path::new(parent).starts_with(guest))
            .max_by_key(|(guest, _)| guest.len())?;
        if folder.read_only {
            return Some(Log::None);
        }
        let below = Path::new(parent).strip_prefix(guest).ok()?;
        Some(Log::in_volume(&folder.place, below.join(name)))
    }

    /// Makes the run's private folder, empty, if it needs one. In memory where it is to hold a secret.
    fn private_folder(&self, log: bool) -> Result<Option<(Place, OwnedFd)>, MountError> {
        if self.files.is_empty() && !log {
            return Ok(None);
        }
        let secret = self.files.values().flat_map(BTreeMap::values).any(|file| file.secret);
        let place = if secret { Place::Memory } else { Place::Disk };
        let make = || {
            let runs = self.root.base(place).part(&self.pod.uid, RUNS)?;
            beneath::make_dir(&runs, &self.name, 0o700)
        };
        let folder = make().map_err(|cause| self.prepare_error(cause))?;
        Ok(Some((place, folder)))
    }

    /// One folder for each guest folder with single files, and one for the log, which may be one of those.
    fn fill(
        &self,
        (place, private): (Place, &OwnedFd),
        run: &mut RunMounts,
        log: Option<(&String, &String)>,
    ) -> io::Result<()> {
        let none = BTreeMap::new();
        let lone_log = log.filter(|(parent, _)| !self.files.contains_key(*parent));
        let folders = self.files.iter().chain(lone_log.map(|(parent, _)| (parent, &none)));
        for (number, (parent, files)) in folders.enumerate() {
            let number = number.to_string();
            let folder = beneath::make_dir(private, &number, 0o755)?;
            for (name, file) in files {
                writer::write_file(&folder, OsStr::new(name), &file.bytes, file.mode)?;
            }
            let mut read_only = true;
            if let Some((_, name)) = log.filter(|(log_parent, _)| *log_parent == parent) {
                read_only = false;
                if !files.contains_key(name) {
                    writer::write_file(&folder, OsStr::new(name), b"", LOG_MODE)?;
                    let path = Path::new(&self.name).join(&number).join(name);
                    run.log = Log::Private { place, path };
                }
            }
            let guest = parent.clone();
            run.mounts.push(PreparedMount { place: folder, guest, read_only, volume: None });
        }
        Ok(())
    }

    /// An absolute path without `.`, `..` and needless slashes, as Kubernetes cleans it. A relative one starts at `/`.
    fn guest_path(&self, path: &str) -> Result<String, MountError> {
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        if path.is_empty() || path.contains('\0') {
            return Err(self.guest_error(path));
        }
        Ok(format!("/{}", parts.join("/")))
    }

    fn container_name(&self) -> String {
        self.container.name.to_string()
    }

    fn prepare_error(&self, cause: io::Error) -> MountError {
        MountError::Prepare { container: self.container_name(), cause }
    }

    fn guest_error(&self, guest: &str) -> MountError {
        MountError::GuestPath { guest: guest.to_owned(), container: self.container_name() }
    }
}

/// A regular file that is open as a mere place: its content, one byte more than allowed at most, and its mode.
fn read_whole(place: &OwnedFd) -> io::Result<(Vec<u8>, u32)> {
    let mode = fstat(place)?.st_mode & 0o777;
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes, mode))
}

fn split(guest: &str) -> Option<(String, String)> {
    let (parent, name) = guest.rsplit_once('/')?;
    let parent = if parent.is_empty() { "/" } else { parent };
    (!name.is_empty()).then(|| (parent.to_owned(), name.to_owned()))
}

fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

fn kind_word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "a file of an unknown kind",
    }
}
