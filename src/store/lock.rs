//! Keeps two daemons out of one state folder.
//!
//! Owns: the file `lock` and what it says. A lock of the kernel (`flock`), so it is gone with its process, however that
//! ended; the number in the file is only for the message. Not: short locks between the CLI and the daemon (`image`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

/// Why a lock was not had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Someone else has it; their process id, if the file tells.
    #[error("is held by another process")]
    Held(Option<u32>),
    #[error("cannot be locked")]
    Io(#[from] io::Error),
}

/// An exclusive lock; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock at once or not at all, and writes this process' id into the file.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held(holder(&mut file))),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        let mut text = String::new();
        (&file).take(PID_BYTES_MAX).read_to_string(&mut text).unwrap_or_default();
        let own = format!("{}\n", std::process::id());
        if text != own {
            // For the message only: a full disk must not keep the daemon from starting.
            let _ = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(own.as_bytes()));
        }
        Ok(Self { file })
    }

    /// Takes part in a shared lock, which any number may hold at once; waits for an exclusive holder to end.
    pub fn share(path: &Path) -> io::Result<Self> {
        Self::block(path, FlockOperation::LockShared)
    }

    /// Waits for the lock. For critical sections of milliseconds whose every holder is podling itself.
    pub fn wait(path: &Path) -> io::Result<Self> {
        Self::block(path, FlockOperation::LockExclusive)
    }

    /// The lock if nobody holds it in any way right now; writes nothing.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the file that is locked still has that name.
    pub fn is_of(&self, path: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let ours = self.file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn block(path: &Path, how: FlockOperation) -> io::Result<Self> {
        let file = open(path)?;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Self { file }),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A process id and its newline.
const PID_BYTES_MAX: u64 = 16;

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
