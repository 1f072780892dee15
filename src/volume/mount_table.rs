//! What is mounted where, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! Owns: reading that table, and saying where a path lies on its file system. Not: what follows from it (`host_path`).
//! Pure but for [`MountTable::read`].

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Kinds of file system that are a view of the kernel: their files read and change processes, devices, the machine.
const KERNEL_KINDS: [&str; 18] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "securityfs",
    "selinuxfs",
    "sysfs",
];

/// Kinds by another name.
const KERNEL_KINDS_TOO: [&str; 2] = ["smackfs", "tracefs"];

/// The number of the mount that an open file is on, from `/proc/self/fdinfo`.
pub fn mount_id(file: impl AsFd) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    line.and_then(|id| id.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    /// `MAJOR:MINOR`
    device: String,
    /// The folder of its file system that is mounted.
    root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// `ext4`, `proc`, …
    pub kind: String,
}

impl Mount {
    /// Whether it is a view of the kernel.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        let kind = self.kind.as_str();
        KERNEL_KINDS.contains(&kind) || KERNEL_KINDS_TOO.contains(&kind)
    }
}

/// Where something lies: which file system, and where on it, whatever is mounted where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    device: String,
    path: PathBuf,
}

impl Location {
    /// Where the root of a mount lies.
    #[must_use]
    pub fn of_mount(mount: &Mount) -> Self {
        Self { device: mount.device.clone(), path: mount.root.clone() }
    }

    /// Whether this is `other`, or lies in it.
    #[must_use]
    pub fn is_in(&self, other: &Self) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }
}

/// Everything that is mounted, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// This process' table, now.
    pub fn read() -> io::Result<Self> {
        Self::parse(&std::fs::read("/proc/self/mountinfo")?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the mount table cannot be understood")
        })
    }

    /// `None` unless every line is understood: a rule that overlooks a mount is none.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(parse_line).collect::<Option<Vec<Mount>>>().map(Self)
    }

    /// The mount of that number.
    #[must_use]
    pub fn mount(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// What is mounted below a folder (not at it).
    pub fn mounts_below<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| mount.point != folder && mount.point.starts_with(folder))
    }

    /// Where a path without links lies that is on the mount of that number. (The number, not the path, decides: a mount
    /// may be hidden by a later one.)
    #[must_use]
    pub fn locate(&self, path: &Path, mount: u64) -> Option<Location> {
        let mount = self.mount(mount)?;
        let rest = path.strip_prefix(&mount.point).ok()?;
        // An empty rest would leave a slash at the end.
        let path =
            if rest.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(rest) };
        Some(Location { device: mount.device.clone(), path })
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent_id = fields.next()?;
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, device, root, point, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits =
            tail.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match (first, digits) {
            (b'\\', Some(digits)) => {
                let value = digits
                    .iter()
                    .fold(0u8, |value, d| value.wrapping_mul(8).wrapping_add(d - b'0'));
                bytes.push(value);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const TABLE: &[u8] = b"\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
22 21 0:20 / /proc rw - proc proc rw\n\
23 21 8:1 /srv/data /mnt/with\\040space rw master:1 propagate_from:2 - ext4 /dev/sda1 rw\n\
24 21 0:30 / /mnt rw - tmpfs tmpfs rw\n\
25 24 0:31 / /mnt rw - ext4 /dev/sdb rw\n";

    #[test]
    fn a_path_is_located_on_its_file_system() {
        let table = MountTable::parse(TABLE).unwrap();
        for (path, mount, device, inner) in [
            ("/", 21, "8:1", "/"),
            ("/srv/data/x", 21, "8:1", "/srv/data/x"),
            ("/mnt/with space", 23, "8:1", "/srv/data"),
            ("/mnt/with space/x/y", 23, "8:1", "/srv/data/x/y"),
            ("/mnt/other", 25, "0:31", "/other"),
            ("/mnt/other", 24, "0:30", "/other"),
            ("/mntx", 21, "8:1", "/mntx"),
        ] {
            let location = Location { device: device.to_owned(), path: PathBuf::from(inner) };
            assert_eq!(table.locate(Path::new(path), mount), Some(location), "{path}");
        }
        assert_eq!(table.locate(Path::new("/"), 99), None);
        assert!(table.mount(22).unwrap().is_kernel());
        assert!(!table.mount(25).unwrap().is_kernel());
        let below: Vec<&Path> =
            table.mounts_below(Path::new("/mnt")).map(|mount| mount.point.as_path()).collect();
        assert_eq!(below, [Path::new("/mnt/with space")]);
        let bound = table.locate(Path::new("/mnt/with space/x"), 23).unwrap();
        assert!(bound.is_in(&table.locate(Path::new("/srv/data"), 21).unwrap()));
        assert!(!bound.is_in(&table.locate(Path::new("/srv/dat"), 21).unwrap()));
    }

    #[test]
    fn a_table_that_is_not_understood_is_refused() {
        assert_eq!(MountTable::parse(b"21 1 8:1 / / rw,relatime\n"), None);
        assert_eq!(MountTable::parse(b"garbage\n"), None);
        MountTable::read().unwrap();
    }
}
