//! The keys that a node trusts from the beginning: files that whoever installs it puts there.
//!
//! Owns: their YAML form. Not: finding and reading files, nor whether their owner and mode may be trusted (the shell does).
//!
//! ```yaml
//! apiVersion: podling.dev/v1
//! kind: TrustAnchor
//! threshold: 1                 # roots that must sign a trust document
//! keys:
//!   - name: controller
//!     publicKey: ed25519:…
//!     roles: [intent, command]
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::in_range;
use super::key::{KeyEntry, KeyError, KeySet};
use crate::mqtt::intent::API_VERSION;

/// Largest anchor file, bytes: a page for each of the keys.
pub const ANCHOR_BYTES_MAX: usize = 256 * 1024;

/// One file.
#[derive(Clone, Debug)]
pub struct AnchorFile {
    pub path: PathBuf,
    pub text: Vec<u8>,
}

/// The file as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustAnchor {
    pub api_version: String,
    pub kind: String,
    /// Root signatures that a trust document needs.
    #[serde(default = "one")]
    pub threshold: usize,
    /// The epoch to begin with.
    #[serde(default = "first")]
    pub epoch: u64,
    #[serde(default)]
    pub keys: Vec<KeyEntry>,
}

fn one() -> usize {
    1
}

fn first() -> u64 {
    1
}

/// Why an anchor cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    #[error("trust anchor {path} has {bytes} bytes; at most {ANCHOR_BYTES_MAX} are read")]
    TooLarge { path: String, bytes: usize },
    #[error("trust anchor {path} cannot be read: {message}")]
    Form { path: String, message: String },
    #[error("the trust anchors cannot be used: {0}")]
    Keys(#[from] KeyError),
}

/// Reads all anchors as one: their keys together, the highest threshold, the highest epoch.
///
/// # Errors
/// If one is wrong; half a trust is worse than none.
pub fn read_anchors(files: &[AnchorFile]) -> Result<(KeySet, u64), AnchorError> {
    let (mut entries, mut threshold, mut epoch) = (vec![], 1, 1);
    for file in files {
        let path = file.path.display().to_string();
        if file.text.len() > ANCHOR_BYTES_MAX {
            return Err(AnchorError::TooLarge { path, bytes: file.text.len() });
        }
        let form = |message| AnchorError::Form { path: path.clone(), message };
        let anchor: TrustAnchor =
            serde_yaml::from_slice(&file.text).map_err(|e| form(e.to_string()))?;
        if anchor.api_version != API_VERSION || anchor.kind != "TrustAnchor" {
            return Err(form(format!("it must be a TrustAnchor of {API_VERSION}")));
        }
        if !in_range(anchor.epoch) || anchor.threshold == 0 {
            return Err(form("its epoch and its threshold must be at least 1".to_owned()));
        }
        entries.extend(anchor.keys);
        threshold = threshold.max(anchor.threshold);
        epoch = epoch.max(anchor.epoch);
    }
    Ok((KeySet::new(&entries, threshold)?, epoch))
}
