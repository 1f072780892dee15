//! The node's own key: a file that only the daemon's user can read.
//!
//! Owns: making it at the first start, reading it, refusing one that others can read. Not: what is encrypted to it. The form
//! is age-keygen's, so that `age -d -i node.key` helps a person in need.
//!
//! A key that is there and cannot be read is never replaced: everything that was encrypted to it would be lost in silence.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519;
use thiserror::Error;

use crate::store::disk::{Disk as _, RealDisk};

use super::{Decryptor, Recipient, Zeroizing};

/// Longest key file, bytes. One has some two hundred.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Permissions that others must not have.
const OTHERS: u32 = 0o077;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum NodeKeyError {
    #[error("cannot read the node's key {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot make the node's key {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the node's key {0} must be readable by its owner only: chmod 600 {0}", path.display())]
    Open { path: PathBuf },
    #[error(
        "the file {} holds no age key: restore it, or remove it for a new key to be made (what was encrypted to the old one \
         is then lost)", path.display()
    )]
    NoKey { path: PathBuf },
}

/// A node's key.
#[derive(Clone)]
pub struct NodeKey(Arc<x25519::Identity>);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.0.to_public())
    }
}

impl NodeKey {
    /// A new key, in memory.
    #[must_use]
    pub fn generate() -> Self {
        Self(Arc::new(x25519::Identity::generate()))
    }

    /// The key in a file; if there is no such file, a new key, made durable first.
    ///
    /// # Errors
    ///
    /// The file is not usable, or cannot be made.
    pub fn open_or_make(path: &Path) -> Result<Self, NodeKeyError> {
        match Self::open(path) {
            Err(NodeKeyError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate();
                let made = key.write(path);
                made.map_err(|cause| NodeKeyError::Make { path: path.to_owned(), cause })?;
                Ok(key)
            }
            other => other,
        }
    }

    /// The key in a file.
    ///
    /// # Errors
    ///
    /// The file is not there, or not usable.
    pub fn open(path: &Path) -> Result<Self, NodeKeyError> {
        let text = read_private(path)?;
        let mut lines = text.lines().map(str::trim);
        let identity = lines
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .and_then(|line| line.parse().ok());
        let identity = identity.ok_or_else(|| NodeKeyError::NoKey { path: path.to_owned() })?;
        Ok(Self(Arc::new(identity)))
    }

    /// Whom to encrypt to.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    #[must_use]
    pub fn decryptor(&self) -> Decryptor {
        Decryptor(Arc::clone(&self.0))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let secret = self.0.to_string();
        let text = Zeroizing::new(format!(
            "# podling: the key of this node. Whoever has it reads the node's secrets.\n\
             # public key: {}\n{}\n",
            self.recipient(),
            secret.expose_secret(),
        ));
        write_private(path, &text)
    }
}

/// The text of a key's file, which nobody else can read.
///
/// # Errors
///
/// It is not there, or not usable.
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, NodeKeyError> {
    let read = |cause| NodeKeyError::Read { path: path.to_owned(), cause };
    let file = File::open(path).map_err(read)?;
    let meta = file.metadata().map_err(read)?;
    if meta.mode() & OTHERS != 0 {
        return Err(NodeKeyError::Open { path: path.to_owned() });
    }
    let length = usize::try_from(meta.len().min(KEY_FILE_BYTES_MAX)).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(length + 1));
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(read)?;
    Ok(text)
}

/// Makes a key's file, for its owner only; durable, whole or not at all.
///
/// # Errors
///
/// The disk's.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // A leftover may have other permissions.
    RealDisk.remove(&temporary)?;
    let mut file = RealDisk.create(&temporary)?;
    file.write(text.as_bytes())?;
    file.sync()?;
    RealDisk.rename(&temporary, path)?;
    RealDisk.sync_dir(dir)
}
