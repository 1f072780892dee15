//! Writes the files of a configMap, secret, downwardAPI or projected volume so that a reader sees the old ones or the
//! new ones, never a mixture.
//!
//! Owns: Kubernetes' layout (`pkg/volume/util/atomic_writer.go`). Not: what the files say (`payload`).
//!
//! ```text
//!  VOLUME/..3f2a91c0d4e5b678/app.conf       the files; the folder is named after what is in it
//!  VOLUME/..data -> ..3f2a91c0d4e5b678      swapped by a rename
//!  VOLUME/app.conf -> ..data/app.conf       what the module opens
//! ```
//!
//! The links are relative and stay inside, so that wasmtime's confined look-ups follow them. Nothing is synced: after a
//! power cut the content is compared with what it should be, and written again. Unchanged content is not written.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    FileType, Mode, OFlags, fchmod, fstat, openat, readlinkat, renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::store::record::hex;

use super::beneath;
use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Folders of such a volume: everybody may look, the owner alone may write (and no module: its mount is read-only).
const FOLDER_MODE: u32 = 0o755;

/// Makes `dir` hold exactly `payload`. False: it did already.
pub(super) fn write(dir: impl AsFd, payload: &Payload) -> io::Result<bool> {
    let dir = dir.as_fd();
    let folder = name_of(payload);
    let current = match readlinkat(dir, DATA, Vec::new()) {
        Ok(target) => Some(OsStr::from_bytes(target.as_bytes()).to_owned()),
        Err(Errno::NOENT | Errno::INVAL) => None,
        Err(errno) => return Err(errno.into()),
    };
    let same = current.as_deref() == Some(OsStr::new(&folder)) && holds(dir, &folder, payload)?;
    if !same {
        // One of that name is what a crash, or a power cut, left half-written. It may be `..data` itself: then its
        // readers see it go for a moment, as they would see its damage.
        beneath::remove_tree(dir, &folder)?;
        write_files(&beneath::make_dir(dir, &folder, FOLDER_MODE)?, payload)?;
        beneath::remove_tree(dir, DATA_NEXT)?;
        symlinkat(folder.as_str(), dir, DATA_NEXT)?;
        renameat(dir, DATA_NEXT, dir, DATA)?;
    }
    let linked = link_names(dir, payload)?;
    let cleared = clear(dir, &folder, payload)?;
    Ok(!same || linked || cleared)
}

/// A name that says what is in the folder, so that the same content has the same name.
fn name_of(payload: &Payload) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(bytes);
    };
    for (path, file) in payload {
        part(path.as_bytes());
        part(&file.mode.to_le_bytes());
        part(&file.bytes);
    }
    format!("..{}", &hex(&hash.finalize())[..16])
}

fn holds(dir: impl AsFd, folder: &str, payload: &Payload) -> io::Result<bool> {
    for (path, file) in payload {
        let opened = beneath::open(
            dir.as_fd(),
            &Path::new(folder).join(path),
            beneath::READING | OFlags::NOFOLLOW,
        );
        let opened = match opened {
            Ok(opened) => opened,
            // Whatever is wrong with it, it is not as it should be.
            Err(_) => return Ok(false),
        };
        let stat = fstat(&opened)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_mode & 0o777 != file.mode
            || u64::try_from(stat.st_size).ok() != u64::try_from(file.bytes.len()).ok()
        {
            return Ok(false);
        }
        let mut bytes = Vec::with_capacity(file.bytes.len());
        std::fs::File::from(opened).read_to_end(&mut bytes)?;
        if bytes != *file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_files(folder: &OwnedFd, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let path = Path::new(path);
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        let parent = beneath::make_dirs(folder, parent, FOLDER_MODE)?;
        write_file(&parent, path.file_name().unwrap_or_default(), &file.bytes, file.mode)?;
    }
    Ok(())
}

/// Writes one new file, with exactly this mode.
pub(super) fn write_file(dir: impl AsFd, name: &OsStr, bytes: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(())
}

/// First components of all paths: the names a module sees.
fn visible(payload: &Payload) -> BTreeSet<&OsStr> {
    payload.keys().filter_map(|path| Path::new(path).iter().next()).collect()
}

fn link_names(dir: impl AsFd, payload: &Payload) -> io::Result<bool> {
    let mut changed = false;
    for name in visible(payload) {
        let target = Path::new(DATA).join(name);
        let there = readlinkat(dir.as_fd(), name, Vec::new());
        if there.is_ok_and(|there| there.as_bytes() == target.as_os_str().as_bytes()) {
            continue;
        }
        beneath::remove_tree(dir.as_fd(), name)?;
        symlinkat(&target, dir.as_fd(), name)?;
        changed = true;
    }
    Ok(changed)
}

/// Removes names that are no more, and folders that nothing points to.
fn clear(dir: impl AsFd, folder: &str, payload: &Payload) -> io::Result<bool> {
    let visible = visible(payload);
    let wanted = |name: &OsStr| name == DATA || name == folder || visible.contains(name);
    let old: Vec<OsString> = beneath::names(dir.as_fd(), |name| !wanted(name))?;
    for name in &old {
        match unlinkat(dir.as_fd(), name, rustix::fs::AtFlags::empty()) {
            Ok(()) => {}
            Err(_) => beneath::remove_tree(dir.as_fd(), name)?,
        }
    }
    Ok(!old.is_empty())
}
