//! What a node says of itself and of its pods: the JSON that controllers read.
//!
//! Owns: the wire types and the words for stages and conditions. Not: when they are published (`protocol::outbox`), nor what
//! they say (`protocol`). Readers ignore fields that they do not know: a newer node may say more.
//!
//! Every document is the whole truth about its subject, is retained, and replaces the one before. Of two, the one with the
//! higher `(conn, seq)` is newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cause::{Cause, Reason};
use super::command::Verb;
use super::topic::Scope;
use super::trust::Mode;
use super::version::{Revision, Version, digest_text};
use crate::image::Digest;

/// Version of this protocol: raised when a controller must know the difference.
pub const PROTOCOL: u32 = 1;

/// Birth and will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Online {
    pub api_version: String,
    pub kind: String,
    pub online: bool,
    /// Counts this node's connections, over restarts and power cuts. A will with a lower one than the newest birth is old news.
    pub conn: u64,
    /// Which life of the daemon.
    pub boot: String,
    pub protocol: u32,
    pub version: String,
}

/// Where and when a status was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    pub boot: String,
    pub conn: u64,
    /// Counts the status messages of this boot.
    pub seq: u64,
    pub uptime_ms: u64,
    /// RFC 3339; null where the node does not know the time.
    pub time: Option<String>,
    pub time_synced: bool,
}

/// One of `conditions`, as Kubernetes has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Condition {
    #[must_use]
    pub fn new(kind: &str, status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: super::cause::cut(message.into()),
        }
    }
}

/// A pod's status: the answer to every document about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub api_version: String,
    pub kind: String,
    pub tenant: String,
    pub node: String,
    pub namespace: String,
    pub name: String,
    #[serde(flatten)]
    pub stamp: Stamp,
    /// What the node says to the documents of each scope, the one that leads first.
    pub documents: Vec<DocumentStatus>,
    /// What is handed to the runtime now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Scoped>,
    /// What it would go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Scoped>,
    /// The way of the document that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// How the one before it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<RolloutStatus>,
    /// `Pending`, `Running`, `Succeeded`, `Failed` as Kubernetes has them; `Absent` where nothing is to run.
    pub phase: String,
    pub ready: bool,
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerStatus>,
    /// Accepted, and without effect here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The node's verdict on the documents of one scope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentStatus {
    pub scope: Scope,
    /// The newest that was accepted: the ack. It is on the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<AcceptedStatus>,
    /// The last one that was not, since then: the nack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedStatus>,
}

/// An accepted document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedStatus {
    #[serde(flatten)]
    pub revision: Revision,
    /// A tombstone, or the index omits it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Why it does not lead though it is there: `NotSelected`, `Overridden`, `NotInGroup`, `KeyRevoked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactive: Option<String>,
}

/// A refused document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedStatus {
    /// Absent where the payload could not be read, or was not trusted.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// SHA-256 of the payload; of the whole message where there was none.
    #[serde(with = "digest_text")]
    pub digest: Digest,
    pub reason: Reason,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Cause>,
}

/// A document and whom it was for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scoped {
    pub scope: Scope,
    #[serde(flatten)]
    pub revision: Revision,
}

/// How far a document is on its way to running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// It is on disk.
    Accepted,
    /// Artifacts are on their way.
    Fetching,
    /// All are there, and are what they should be.
    Verified,
    /// Handed to the runtime.
    Starting,
    /// Its containers run; it is not ready, or not for long enough.
    Probing,
    /// It is good, and what the node goes back to.
    Committed,
    /// It was not good in time; the one before runs.
    RolledBack,
    /// It was not good in time, and there is none before.
    Failed,
    /// A newer one took its place first.
    Superseded,
}

impl Stage {
    /// Whether nothing follows by itself.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Committed | Self::RolledBack | Self::Failed | Self::Superseded => true,
            Self::Accepted | Self::Fetching | Self::Verified | Self::Starting | Self::Probing => {
                false
            }
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Fetching => "Fetching",
            Self::Verified => "Verified",
            Self::Starting => "Starting",
            Self::Probing => "Probing",
            Self::Committed => "Committed",
            Self::RolledBack => "RolledBack",
            Self::Failed => "Failed",
            Self::Superseded => "Superseded",
        }
    }
}

/// A rollout, as far as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    #[serde(flatten)]
    pub target: Scoped,
    pub stage: Stage,
    /// Why it ended as it did, in one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Starts that are written down.
    pub attempts: u32,
    /// Of all artifacts, while fetching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// When this stage is over at the latest, in milliseconds from this status on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// A container in one line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    pub name: String,
    /// `Waiting`, `Running` or `Terminated`.
    pub state: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    pub ready: bool,
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// A node's status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub api_version: String,
    pub kind: String,
    pub tenant: String,
    pub node: String,
    #[serde(flatten)]
    pub stamp: Stamp,
    pub version: String,
    pub protocol: u32,
    pub labels: BTreeMap<String, String>,
    pub groups: Vec<String>,
    pub capabilities: Capabilities,
    pub trust: TrustStatus,
    /// The index that is accepted; revision 0: none was ever.
    pub desired: DesiredStatus,
    pub pods: PodCounts,
    pub conditions: Vec<Condition>,
    /// The last document that was not about a pod and was refused: an index, a trust document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedStatus>,
}

/// What a controller may count on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    pub verbs: Vec<Verb>,
    /// Schemes of artifact sources: `oci`, `https`, `http`, `data`, `mqtt`.
    pub sources: Vec<String>,
    /// `wasip1`, `wasip2`, `wasip3`, `http`, …
    pub features: Vec<String>,
    /// `x86_64`, `aarch64`, `arm`.
    pub architecture: String,
    /// Whether modules are compiled here.
    pub compiler: bool,
    pub envelope_bytes_max: usize,
    pub pods_max: usize,
    /// The age recipient that secrets for this node are encrypted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The public key that everything the node says is signed with (`super::signature`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_key: Option<String>,
}

/// Whom the node trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustStatus {
    pub mode: Mode,
    /// Of the trust document in force; 0: the local anchor.
    pub version: u64,
    pub epoch: u64,
    pub keys: Vec<String>,
}

/// What the node holds as desired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredStatus {
    pub epoch: u64,
    pub revision: u64,
    /// Of the index's payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Documents accepted and not deleted, of all scopes.
    pub documents: usize,
    /// SHA-256 over them: see `docs/mqtt.md`.
    pub documents_digest: String,
}

/// Pods of this source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    pub total: usize,
    pub ready: usize,
    pub failed: usize,
    pub progressing: usize,
}
