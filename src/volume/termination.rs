//! The termination log of a run: where it is, and reading it back.
//!
//! Owns: telling what this run wrote from what was there before, and a reading that nothing can lead astray or hold up. Not:
//! making the file (`mounts`), nor what becomes of the message (`pod`).

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat, fstat};

use crate::limits::TERMINATION_MESSAGE_BYTES_MAX;
use crate::spec::PodUid;

use super::VolumeRoot;
use super::beneath::{self, READING};
use super::mounts::{Place, RUNS};

/// Where the termination log is.
#[derive(Debug)]
pub(super) enum Log {
    /// A file of our own, fresh for this run, by its path in the folder of runs.
    Private { place: Place, path: PathBuf },
    /// In a volume; it counts if it is not any more as it was.
    InVolume { folder: OwnedFd, path: PathBuf, before: Option<Stamp> },
    /// The module cannot write one: its path is a folder, or lies in a read-only mount.
    None,
}

/// Tells whether a file was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    ino: u64,
    size: u64,
    changed: (i64, i64),
}

impl From<&Stat> for Stamp {
    #[allow(clippy::useless_conversion, reason = "the fields have other widths on other machines")]
    #[allow(clippy::unnecessary_fallible_conversions, reason = "as above")]
    fn from(stat: &Stat) -> Self {
        Self {
            ino: u64::from(stat.st_ino),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            changed: (
                i64::try_from(stat.st_ctime).unwrap_or_default(),
                i64::try_from(stat.st_ctime_nsec).unwrap_or_default(),
            ),
        }
    }
}

impl Log {
    /// A log that the module writes into a volume.
    pub(super) fn in_volume(folder: &OwnedFd, path: PathBuf) -> Self {
        let before = open_log(folder, &path).ok().map(|(_, stat)| Stamp::from(&stat));
        match folder.try_clone() {
            Ok(folder) => Self::InVolume { folder, path, before },
            // Out of file descriptors: the run will fail for better reasons than its message.
            Err(_) => Self::None,
        }
    }
}

impl VolumeRoot {
    /// The message of a run that has ended; empty if there is none, or none that could be read.
    pub(super) fn read_log(&self, uid: &PodUid, log: &Log) -> String {
        let opened = match log {
            Log::None => return String::new(),
            Log::Private { place, path } => {
                self.base(*place).part(uid, RUNS).and_then(|runs| open_log(runs, path))
            }
            Log::InVolume { folder, path, .. } => open_log(folder, path),
        };
        let Ok((file, stat)) = opened else { return String::new() };
        match log {
            Log::InVolume { before, .. } if *before == Some(Stamp::from(&stat)) => String::new(),
            Log::InVolume { .. } | Log::Private { .. } | Log::None => {
                read_tail(file).unwrap_or_default()
            }
        }
    }
}

/// Opens a log for reading: a regular file inside the folder, and no link even there at its end.
fn open_log(folder: impl AsFd, path: &Path) -> io::Result<(File, Stat)> {
    let file = beneath::open(folder, path, READING | OFlags::NOFOLLOW)?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((file.into(), stat))
}

/// The last bytes, as the kubelet reads them.
fn read_tail(mut file: File) -> io::Result<String> {
    let max = u64::try_from(TERMINATION_MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    // A replacement character is longer than the byte that it replaces.
    let mut end = text.len().min(TERMINATION_MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    Ok(text)
}
