//! File operations that cannot be led out of a folder.
//!
//! Owns: opening, making and removing below a folder that a guest may write to. Such a folder holds whatever the guest left:
//! relative symbolic links that lead out (`../../etc`), trees deeper than any path may be long, a hundred thousand
//! entries. Everything starts from an open folder and takes one component at a time, or lets the kernel do so
//! (`openat2` with `RESOLVE_BENEATH`). Not: which folder (`VolumeRoot`). Blocking.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fchmod, fstat, mkdirat, openat,
    openat2, readlinkat, renameat, unlinkat,
};
use rustix::io::Errno;

/// Symbolic links followed on one way; the kernel's own number.
const LINKS_MAX: usize = 40;

/// Times that `openat2` is asked again when something on the machine was renamed meanwhile.
const AGAIN_MAX: usize = 64;

/// A folder to look up names in; nothing is read through it.
pub const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// A folder to list.
const LISTING: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// A file to read: never waits for a FIFO, never becomes a terminal's.
pub const READING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Device and inode: which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    pub dev: u64,
    pub ino: u64,
}

impl FileId {
    /// Of an open file.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&fstat(file)?))
    }
}

impl From<&Stat> for FileId {
    #[allow(clippy::useless_conversion, reason = "the fields have other widths on other machines")]
    fn from(stat: &Stat) -> Self {
        Self { dev: u64::from(stat.st_dev), ino: u64::from(stat.st_ino) }
    }
}

/// What an open file is.
pub fn file_type(file: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

/// Opens `path` below `dir`. Links are followed as long as they stay inside; one that leads out, and an absolute
/// one, is `EXDEV`.
pub fn open(dir: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..AGAIN_MAX {
        match openat2(dir.as_fd(), path, flags, Mode::empty(), how) {
            // A rename somewhere made the kernel unsure.
            Err(Errno::AGAIN) => {}
            // Too old a kernel (before 5.6), or a seccomp filter that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return walk(dir.as_fd(), path, flags),
            other => return Ok(other?),
        }
    }
    walk(dir.as_fd(), path, flags)
}

/// What [`open`] does, by hand.
pub(super) fn walk(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut todo = VecDeque::new();
    enqueue(&mut todo, path)?;
    // The way from `dir` (not included) to where we are; popped by `..`, so that no rename can lead `..` out.
    let mut way: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            way.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        if part == "." {
            continue;
        }
        let here = way.last().map_or(dir, AsFd::as_fd);
        let found =
            openat(here, &part, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if file_type(&found)? == FileType::Symlink {
            links += 1;
            if links > LINKS_MAX || (todo.is_empty() && flags.contains(OFlags::NOFOLLOW)) {
                return Err(Errno::LOOP.into());
            }
            let target = OsString::from_vec(readlinkat(&found, "", Vec::new())?.into_bytes());
            let rest = std::mem::take(&mut todo);
            enqueue(&mut todo, Path::new(&target))?;
            todo.extend(rest);
        } else if todo.is_empty() {
            // Should a link stand there by now, NOFOLLOW refuses it.
            return Ok(openat(here, &part, flags | OFlags::NOFOLLOW, Mode::empty())?);
        } else if file_type(&found)? == FileType::Directory {
            way.push(found);
        } else {
            return Err(Errno::NOTDIR.into());
        }
    }
    let here = way.last().map_or(dir, AsFd::as_fd);
    Ok(openat(here, ".", flags, Mode::empty())?)
}

/// By hand, since a `.` or a slash at the end asks for a folder, which [`Path::components`] forgets.
fn enqueue(todo: &mut VecDeque<OsString>, path: &Path) -> io::Result<()> {
    if path.is_absolute() {
        return Err(Errno::XDEV.into());
    }
    for part in path.as_os_str().as_bytes().split(|byte| *byte == b'/') {
        let part = if part.is_empty() { b"." } else { part };
        todo.push_back(OsStr::from_bytes(part).to_owned());
    }
    Ok(())
}

/// Opens the folder `name` of `dir`, made with `mode` (whatever the umask) if it is not there.
pub fn make_dir(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> io::Result<OwnedFd> {
    let name = name.as_ref();
    let made = match mkdirat(dir.as_fd(), name, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno.into()),
    };
    let folder = openat(dir.as_fd(), name, LISTING | OFlags::CLOEXEC, Mode::empty())?;
    if made {
        fchmod(&folder, Mode::from_raw_mode(mode))?;
    }
    Ok(folder)
}

/// Opens the folder `path` below `dir`, making with `mode` what is missing at its end. `path` holds no `..`.
pub fn make_dirs(dir: impl AsFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let parts: Vec<&OsStr> = path.iter().filter(|part| *part != ".").collect();
    let mut there = parts.len();
    let mut here = loop {
        let head: PathBuf = parts[..there].iter().collect();
        match open(dir.as_fd(), &head, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && there > 0 => there -= 1,
            other => break other?,
        }
    };
    for part in &parts[there..] {
        here = make_dir(&here, part, mode)?;
    }
    Ok(here)
}

/// The names in a folder that `keep` wants, but for `.` and `..`.
pub fn names(dir: impl AsFd, keep: impl Fn(&OsStr) -> bool) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." && keep(name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes `name` from `dir`, with everything below it if it is a folder. Links are removed, never followed; what is
/// mounted below is left alone, and an error. That it is gone already is none.
///
/// Needs three open files and little memory however deep or wide the tree is, and no space on the disk. Nobody else may
/// change the tree meanwhile; should somebody, the worst is an error.
pub fn remove_tree(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    if remove_one(dir, name)? == Removal::Done {
        return Ok(());
    }
    let root = openat(dir, name, LISTING | OFlags::CLOEXEC, Mode::empty())?;
    Removing { device: FileId::of(&root)?.dev, root, above: Vec::new(), lifted: 0 }.run()?;
    match remove_one(dir, name)? {
        Removal::Done => Ok(()),
        Removal::NotEmpty => Err(Errno::NOTEMPTY.into()),
    }
}

/// Emptying a tree. Goes down into folders that are not empty, and up by `..`, which is checked.
///
/// A folder that lies too deep is moved up to the root of the tree instead, and its turn comes there: the kernel's work for
/// removing a folder grows with what was below it, and a guest may have dug a million levels.
struct Removing {
    root: OwnedFd,
    device: u64,
    above: Vec<Level>,
    /// Folders moved up so far; makes their names.
    lifted: u64,
}

impl Removing {
    /// Levels walked down. More than honest trees have; few enough to cost nothing.
    const DEPTH_MAX: usize = 128;

    fn run(mut self) -> io::Result<()> {
        let mut here = openat(&self.root, ".", LISTING | OFlags::CLOEXEC, Mode::empty())?;
        let mut full = sweep(&here)?;
        loop {
            if let Some(child) = full.pop() {
                if self.above.len() >= Self::DEPTH_MAX && self.lift(&here, &child) {
                    continue;
                }
                let next = openat(&here, &child, LISTING | OFlags::CLOEXEC, Mode::empty())?;
                if FileId::of(&next)?.dev != self.device {
                    return Err(Errno::BUSY.into());
                }
                self.above.push(Level { id: FileId::of(&here)?, child, full });
                here = next;
            } else if let Some(level) = self.above.pop() {
                let up = openat(&here, "..", LISTING | OFlags::CLOEXEC, Mode::empty())?;
                if FileId::of(&up)? != level.id {
                    // Somebody moved it: `..` is not where we came from.
                    return Err(Errno::XDEV.into());
                }
                here = up;
                full = level.full;
                if remove_one(here.as_fd(), &level.child)? == Removal::NotEmpty {
                    return Err(Errno::NOTEMPTY.into());
                }
                if !full.is_empty() {
                    continue;
                }
            } else {
                return Ok(());
            }
            full = sweep(&here)?;
        }
    }

    /// Moves a folder up to the root, where the next sweep finds it. False: it stays (a disk may be too full even
    /// for another name), and is walked into like any other.
    fn lift(&mut self, here: &OwnedFd, child: &OsStr) -> bool {
        self.lifted += 1;
        // A name that is taken by a folder with something in it, or by a file, is an error, and harmless.
        let name = format!("{LIFTED}{}", self.lifted);
        renameat(here, child, &self.root, name).is_ok()
    }
}

/// Prefix of the names of folders that were moved up.
const LIFTED: &str = ".podling-removing-";

/// A folder above the one being emptied.
struct Level {
    id: FileId,
    /// The one we went down into.
    child: OsString,
    /// Others that are still full.
    full: Vec<OsString>,
}

#[derive(PartialEq, Eq)]
enum Removal {
    Done,
    NotEmpty,
}

fn remove_one(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Removal> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(Removal::Done),
        // Linux says the first for a folder, POSIX the second.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(Removal::Done),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Removal::NotEmpty),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes all that can be removed at once; some of the folders that cannot, none when the folder is empty.
fn sweep(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    /// Folders remembered in one go: enough that a wide tree is not listed anew for each of them, little enough that
    /// even on every level the memory is nothing.
    const FULL_MAX: usize = 64;
    loop {
        let mut full = Vec::new();
        let mut removed = false;
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match remove_one(dir.as_fd(), name)? {
                Removal::Done => removed = true,
                Removal::NotEmpty => full.push(name.to_owned()),
            }
            if full.len() == FULL_MAX {
                return Ok(full);
            }
        }
        // A listing may miss entries while others are removed under it; an empty one cannot.
        if !full.is_empty() || !removed {
            return Ok(full);
        }
    }
}
