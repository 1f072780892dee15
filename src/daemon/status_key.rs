//! The key that a node signs with what it says over MQTT: a file beside its other key, made once.
//!
//! Owns: the file. Not: what is signed (`mqtt::signature`), nor who knows its public half (`cli::known`). A file that is there and cannot be
//! used is never replaced: everybody who knows the key would take the node for somebody else. A lost disk makes a new key, and is told so.
//!
//! A node whose key cannot be used says what it has to say without a signature, since its pods matter more: whoever knows its key does not believe
//! it then, so it shows that and why, in its own API (condition `StatusSigned`), in its status over MQTT (the same), and in its log. The key is
//! looked at once, at the start.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::mqtt::controller::SecretKey;
use crate::mqtt::signature::Signer;
use crate::secret::{NodeKeyError, Zeroizing, read_private, write_private};

/// What the file is called: the node key's name, and this.
const ENDING: &str = ".status";

/// A node's signing key.
#[derive(Clone, Debug)]
pub struct StatusKey(SecretKey);

impl StatusKey {
    /// The file beside the node's other key.
    #[must_use]
    pub fn path(node_key_file: &Path) -> PathBuf {
        let mut path = node_key_file.as_os_str().to_owned();
        path.push(ENDING);
        path.into()
    }

    /// The key beside the node's other one.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn open(node_key_file: &Path) -> anyhow::Result<Self> {
        let path = Self::path(node_key_file);
        let text = read_private(&path)?;
        let key = SecretKey::from_pem(&text).with_context(|| {
            format!(
                "{} holds no signing key: restore it, or remove it for a new one to be made (whoever knows this node by the old one must then \
                 be told)",
                path.display()
            )
        })?;
        Ok(Self(key))
    }

    /// The same; if there is no such file, a new key, made durable first.
    ///
    /// # Errors
    /// The file cannot be used, or not be made.
    pub fn open_or_make(node_key_file: &Path) -> anyhow::Result<Self> {
        let is_absent = |error: &anyhow::Error| {
            let found = error.downcast_ref::<NodeKeyError>();
            matches!(found, Some(NodeKeyError::Read { cause, .. }) if cause.kind() == ErrorKind::NotFound)
        };
        match Self::open(node_key_file) {
            Err(error) if is_absent(&error) => Self::make(&Self::path(node_key_file)),
            other => other,
        }
    }

    fn make(path: &Path) -> anyhow::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)
            .map_err(|error| anyhow::anyhow!("the system has no randomness: {error}"))?;
        let key = SecretKey::from_seed(&seed);
        let pem = Zeroizing::new(key.to_pem());
        write_private(path, &pem).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(key))
    }

    /// As settings of controllers have it.
    #[must_use]
    pub fn public_text(&self) -> String {
        self.0.public_text()
    }

    #[must_use]
    pub fn signer(&self) -> Signer {
        self.0.signer()
    }

    /// The key that the daemon signs with from now on; made, if there is none. Or why there is none to sign with, for a person.
    pub(super) fn at_start(node_key_file: &Path) -> Result<Self, String> {
        Self::open_or_make(node_key_file).map_err(|error| {
            let why = format!(
                "what this node says over MQTT is not signed, and whoever knows its key does not believe it: {error:#}. The key is looked at \
                 when podling starts"
            );
            tracing::error!("{why}");
            why
        })
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let beside = dir.path().join("node.key");
        assert!(StatusKey::open(&beside).is_err());
        let made = StatusKey::open_or_make(&beside).unwrap().public_text();
        let path = dir.path().join("node.key.status");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for _ in 0..2 {
            assert_eq!(StatusKey::open_or_make(&beside).unwrap().public_text(), made);
        }
        assert_eq!(StatusKey::open(&beside).unwrap().public_text(), made);
        // What cannot be read is left as it is: a person decides.
        std::fs::write(&path, "rubbish").unwrap();
        let why = format!("{:#}", StatusKey::open_or_make(&beside).unwrap_err());
        assert!(why.contains("holds no signing key"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), b"rubbish");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let why = format!("{:#}", StatusKey::open_or_make(&beside).unwrap_err());
        assert!(why.contains("chmod 600"), "{why}");
        // Another disk is another key.
        std::fs::remove_file(&path).unwrap();
        assert_ne!(StatusKey::open_or_make(&beside).unwrap().public_text(), made);
    }
}
