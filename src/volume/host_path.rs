//! Opens a folder or file of the host for a pod, if that may be.
//!
//! Owns: `hostPath.type` (`pkg/volume/hostpath/host_path.go`) and the rules of which paths no pod gets. Not: mounting
//! (`mounts`). What was checked is what is used: everything after the resolution works on the opened file.
//!
//! ```text
//!  resolve (links of the host are followed) ─► open file ─► where is it really? ─► rules ─► type ─► hand it out
//!              └ not there, and its type lets us make it: the same rules for the folder it will be in, first
//! ```
//!
//! No pod gets
//! - procfs, sysfs, devfs and their kind, nor a folder that has one mounted below it: they hold the daemon's own memory;
//! - the daemon's own folders, nor anything in them, nor anything that contains them. Compared by device and inode along
//!   the way up, and by where mounts really lie, so that neither links nor bind mounts lead round it;
//! - from the API or MQTT: anything but what lies in the node's allow-list.
//!
//! A file system mounted later, below a folder that a pod has already, is the operator's deed.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use thiserror::Error;

use crate::spec::{HostPathType, Source};

use super::beneath::{self, FOLDER, FileId};
use super::mount_table::{Location, MountTable, mount_id};

/// Which paths of the host pods may have.
#[derive(Clone, Debug, Default)]
pub struct HostPathPolicy {
    /// The daemon's own folders; no pod gets them.
    pub own: Vec<PathBuf>,
    /// What pods of the API and of MQTT may have, with everything below. Empty: nothing.
    pub allow: Vec<PathBuf>,
}

/// Why a pod does not get a path.
#[derive(Debug, Error)]
pub enum HostPathError {
    /// Kubernetes' words.
    #[error("hostPath type check failed: {} is not {what}", path.display())]
    Type { path: PathBuf, what: &'static str },
    #[error("hostPath {} is not allowed: {rule}", path.display())]
    Forbidden { path: PathBuf, rule: Rule },
    #[error("hostPath {} must be absolute", path.display())]
    Relative { path: PathBuf },
    #[error("cannot open hostPath {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot create hostPath {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// The rule that a path breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rule {
    #[error("it lies on a {0} file system")]
    Kernel(String),
    #[error("a {kind} file system is mounted at {} in it", at.display())]
    ContainsKernel { kind: String, at: PathBuf },
    #[error("it lies in {}, which is the daemon's own", .0.display())]
    InOwn(PathBuf),
    #[error("it contains {}, which is the daemon's own", .0.display())]
    ContainsOwn(PathBuf),
    #[error(
        "pods that come over the API or MQTT get only what the node's configuration lists (hostPathAllowList)"
    )]
    NotAllowed,
    #[error("where it lies cannot be told for certain")]
    Unclear,
}

/// Folders whose content is the kernel's even where they are no file system of their own.
const KERNEL_FOLDERS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Opens what a hostPath names; made first, where its type says so. The file is opened as a mere place (`O_PATH`).
pub fn open(
    path: &Path,
    kind: HostPathType,
    source: &Source,
    policy: &HostPathPolicy,
) -> Result<OwnedFd, HostPathError> {
    if !path.is_absolute() {
        return Err(HostPathError::Relative { path: path.to_owned() });
    }
    let check = Check { path, policy, source };
    let place = match open_place(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => check.make(kind)?,
        other => other.map_err(|cause| check.open_error(cause))?,
    };
    check.rules(&place, true)?;
    check.kind(&place, kind)?;
    Ok(place)
}

struct Check<'a> {
    path: &'a Path,
    policy: &'a HostPathPolicy,
    source: &'a Source,
}

impl Check<'_> {
    /// Makes a path that is not there. The rules come first: nothing is made, and nothing told of what exists, where
    /// this pod has no business.
    fn make(&self, kind: HostPathType) -> Result<OwnedFd, HostPathError> {
        let create = |cause| HostPathError::Create { path: self.path.to_owned(), cause };
        let (mut here, missing) = self.nearest()?;
        self.rules(&here, false)?;
        match kind {
            // "" makes a folder, too: not the kubelet but the container runtimes below it do so.
            HostPathType::Unchecked | HostPathType::DirectoryOrCreate => {
                for name in missing.iter() {
                    match mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(create(errno.into())),
                    }
                    here = openat(&here, name, FOLDER | OFlags::CLOEXEC, Mode::empty())
                        .map_err(|errno| create(errno.into()))?;
                }
                Ok(here)
            }
            HostPathType::FileOrCreate => {
                if missing.iter().count() > 1 {
                    // As in Kubernetes, the folder must be there.
                    return Err(create(io::ErrorKind::NotFound.into()));
                }
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                openat(&here, &missing, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
                    .map_err(|errno| create(errno.into()))?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&here, &missing, flags, Mode::empty()).map_err(|errno| create(errno.into()))
            }
            HostPathType::Directory
            | HostPathType::File
            | HostPathType::Socket
            | HostPathType::CharDevice
            | HostPathType::BlockDevice => Err(self.type_error(kind)),
        }
    }

    /// The nearest folder above that is there, and what is missing below it.
    fn nearest(&self) -> Result<(OwnedFd, PathBuf), HostPathError> {
        for above in self.path.ancestors().skip(1) {
            match open_place(above) {
                Ok(place) => {
                    let missing = self.path.strip_prefix(above).unwrap_or(self.path);
                    return Ok((place, missing.to_owned()));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(self.open_error(cause)),
            }
        }
        Err(self.open_error(io::ErrorKind::NotFound.into()))
    }

    /// `whole`: what lies below is given away, too.
    fn rules(&self, place: &OwnedFd, whole: bool) -> Result<(), HostPathError> {
        let forbid = |rule| HostPathError::Forbidden { path: self.path.to_owned(), rule };
        let unclear = |_: io::Error| forbid(Rule::Unclear);
        let target = Target::of(place).map_err(unclear)?;
        if matches!(self.source, Source::Api | Source::Mqtt) {
            let allowed = self.policy.allow.iter().any(|allowed| {
                let id = open_place(allowed).and_then(FileId::of);
                id.is_ok_and(|id| target.way_up.contains(&id))
            });
            if !allowed {
                return Err(forbid(Rule::NotAllowed));
            }
        }
        let table = MountTable::read().map_err(unclear)?;
        target.kernel_rule(&table, whole).map_err(forbid)?;
        for own in &self.policy.own {
            // One that is not there needs no guard.
            let Ok(own_place) = open_place(own) else { continue };
            let own_target = Target::of(&own_place).map_err(unclear)?;
            target.own_rule(&own_target, own, &table, whole).map_err(forbid)?;
        }
        Ok(())
    }

    fn kind(&self, place: &OwnedFd, kind: HostPathType) -> Result<(), HostPathError> {
        let found = beneath::file_type(place).map_err(|cause| self.open_error(cause))?;
        let right = match kind {
            HostPathType::Unchecked => true,
            HostPathType::DirectoryOrCreate | HostPathType::Directory => {
                found == FileType::Directory
            }
            HostPathType::FileOrCreate | HostPathType::File => found == FileType::RegularFile,
            HostPathType::Socket => found == FileType::Socket,
            HostPathType::CharDevice => found == FileType::CharacterDevice,
            HostPathType::BlockDevice => found == FileType::BlockDevice,
        };
        if right { Ok(()) } else { Err(self.type_error(kind)) }
    }

    fn type_error(&self, kind: HostPathType) -> HostPathError {
        let what = match kind {
            HostPathType::Unchecked => "there",
            HostPathType::DirectoryOrCreate | HostPathType::Directory => "a directory",
            HostPathType::FileOrCreate | HostPathType::File => "a file",
            HostPathType::Socket => "a socket file",
            HostPathType::CharDevice => "a character device",
            HostPathType::BlockDevice => "a block device",
        };
        HostPathError::Type { path: self.path.to_owned(), what }
    }

    fn open_error(&self, cause: io::Error) -> HostPathError {
        HostPathError::Open { path: self.path.to_owned(), cause }
    }
}

fn open_place(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// An open file and where it really is.
struct Target {
    id: FileId,
    /// Its path without links, as this process sees it.
    path: PathBuf,
    /// The mount it is on.
    mount: u64,
    /// Itself and every folder above it, up to the root.
    way_up: Vec<FileId>,
}

impl Target {
    fn of(place: &OwnedFd) -> io::Result<Self> {
        let path = true_path(place)?;
        let id = FileId::of(place)?;
        let mut way_up = vec![id];
        let mut here = if beneath::file_type(place)? == FileType::Directory {
            openat(place, ".", FOLDER | OFlags::CLOEXEC, Mode::empty())?
        } else {
            let folder = folder_of(place, &path)?;
            way_up.push(FileId::of(&folder)?);
            folder
        };
        loop {
            let up = openat(&here, "..", FOLDER | OFlags::CLOEXEC, Mode::empty())?;
            let id = FileId::of(&up)?;
            if way_up.last() == Some(&id) {
                return Ok(Self { id: way_up[0], path, mount: mount_id(place)?, way_up });
            }
            way_up.push(id);
            here = up;
        }
    }

    /// Nothing of the kernel's, neither here nor (`whole`) below.
    fn kernel_rule(&self, table: &MountTable, whole: bool) -> Result<(), Rule> {
        let mount = table.mount(self.mount).ok_or(Rule::Unclear)?;
        if mount.is_kernel() {
            return Err(Rule::Kernel(mount.kind.clone()));
        }
        for folder in KERNEL_FOLDERS {
            let Ok(place) = open_place(Path::new(folder)) else { continue };
            let id = FileId::of(&place).map_err(|_| Rule::Unclear)?;
            // Only on the same file system: /dev/shm is a mount of its own, and memory like any other.
            if id.dev == self.id.dev && self.way_up.contains(&id) {
                return Err(Rule::Kernel(folder.trim_start_matches('/').to_owned()));
            }
        }
        let below = table.mounts_below(&self.path).find(|mount| whole && mount.is_kernel());
        match below {
            Some(mount) => {
                Err(Rule::ContainsKernel { kind: mount.kind.clone(), at: mount.point.clone() })
            }
            None => Ok(()),
        }
    }

    /// Neither in the daemon's own folder, nor (`whole`) round it.
    fn own_rule(
        &self,
        own: &Self,
        name: &Path,
        table: &MountTable,
        whole: bool,
    ) -> Result<(), Rule> {
        let (inside, around) =
            (|| Rule::InOwn(name.to_owned()), || Rule::ContainsOwn(name.to_owned()));
        if self.way_up.contains(&own.id) {
            return Err(inside());
        }
        if whole && own.way_up.contains(&self.id) {
            return Err(around());
        }
        // The same by where things lie on their file system, which bind mounts do not change.
        let own_at = table.locate(&own.path, own.mount).ok_or(Rule::Unclear)?;
        let at = table.locate(&self.path, self.mount).ok_or(Rule::Unclear)?;
        if at.is_in(&own_at) {
            return Err(inside());
        }
        if whole {
            let below = table.mounts_below(&self.path).map(Location::of_mount);
            if std::iter::once(at).chain(below).any(|at| at.is_in(&own_at) || own_at.is_in(&at)) {
                return Err(around());
            }
        }
        Ok(())
    }
}

/// The path of an open file, without links.
fn true_path(file: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The folder that holds an open file that is none, if it is still where its path says.
fn folder_of(file: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(gone)?;
    let folder = openat(CWD, parent, FOLDER | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let again = openat(folder.as_fd(), name, flags, Mode::empty())?;
    if FileId::of(again)? == FileId::of(file)? { Ok(folder) } else { Err(gone()) }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// A disk with the daemon's state on it, parts of which are bound to other places.
    const TABLE: &[u8] = b"\
1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
2 1 8:1 /var/lib/podling/secrets /srv/bound rw - ext4 /dev/sda1 rw\n\
3 1 8:1 /var /mnt/var rw - ext4 /dev/sda1 rw\n\
4 1 8:2 / /mnt/data rw - ext4 /dev/sdb1 rw\n\
5 1 8:1 /srv/free /mnt/deep/free rw - ext4 /dev/sda1 rw\n";

    /// A file that shares no inode with any other, so that only the mounts can tell.
    fn target(path: &str, mount: u64, ino: u64) -> Target {
        let id = FileId { dev: 1, ino };
        Target { id, path: PathBuf::from(path), mount, way_up: vec![id] }
    }

    #[test]
    fn bind_mounts_lead_round_no_rule() {
        let table = MountTable::parse(TABLE).unwrap();
        let own = target("/var/lib/podling", 1, 1);
        let name = Path::new("/var/lib/podling");
        let inside = || Err(Rule::InOwn(name.to_owned()));
        let around = || Err(Rule::ContainsOwn(name.to_owned()));
        for (path, mount, whole, rule) in [
            ("/srv/bound", 2, true, inside()),
            ("/srv/bound/x", 2, false, inside()),
            ("/mnt/var/lib/podling", 3, true, inside()),
            ("/mnt/var/lib/podling/x", 3, false, inside()),
            ("/mnt/var/lib", 3, true, around()),
            ("/mnt/var", 3, true, around()),
            ("/mnt/var", 3, false, Ok(())),
            ("/mnt", 1, true, around()),
            ("/srv", 1, true, around()),
            ("/mnt/var/libs", 3, true, Ok(())),
            ("/mnt/data", 4, true, Ok(())),
            ("/mnt/data/var/lib/podling", 4, true, Ok(())),
            ("/mnt/deep", 1, true, Ok(())),
            ("/gone", 9, true, Err(Rule::Unclear)),
        ] {
            let found = target(path, mount, 2).own_rule(&own, name, &table, whole);
            assert_eq!(found, rule, "{path}, whole: {whole}");
        }
    }

    #[test]
    fn inodes_alone_tell_as_well() {
        // A table in which nothing lies where it seems: two file systems that share inodes.
        let table =
            MountTable::parse(b"1 0 8:1 / / rw - a a rw\n2 1 8:2 / /b rw - b b rw\n").unwrap();
        let name = Path::new("/own");
        let own = Target {
            way_up: [1, 7].map(|ino| FileId { dev: 1, ino }).into(),
            ..target("/own", 1, 1)
        };
        let below = Target {
            way_up: [3, 1].map(|ino| FileId { dev: 1, ino }).into(),
            ..target("/b/x", 2, 3)
        };
        assert_eq!(below.own_rule(&own, name, &table, false), Err(Rule::InOwn(name.to_owned())));
        let above = target("/b/y", 2, 7);
        assert_eq!(
            above.own_rule(&own, name, &table, true),
            Err(Rule::ContainsOwn(name.to_owned()))
        );
        assert_eq!(above.own_rule(&own, name, &table, false), Ok(()));
    }
}
