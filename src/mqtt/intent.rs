//! What a controller wants of one pod: the payload of an intent, or of a tombstone.
//!
//! Owns: its JSON, every rule about it that needs no other knowledge (`rules`), the checked form ([`Release`]). Not: the manifest's own
//! rules (asked of the reconciler by `Admit`), nor versions (`version`), nor signatures. Unknown fields are refused: whoever
//! signed them meant something by them.

mod rules;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff;
use serde::{Deserialize, Serialize};

use super::cause::{Cause, Reason, Refusal};
use super::envelope::digest;
use super::topic::Scope;
use super::version::{Revision, Version, digest_text};
use crate::image::Digest;
use crate::spec::PodKey;

pub(super) use rules::{head, issued, numbers};

/// `apiVersion` of every payload.
pub const API_VERSION: &str = "podling.dev/v1";

/// Artifacts of one pod: more modules than any pod has.
pub const ARTIFACTS_MAX: usize = 64;

/// Places to get one artifact from.
pub const SOURCES_MAX: usize = 8;

/// Differences that lead to one artifact: one for each version that may still be in the field.
pub const DELTAS_MAX: usize = 8;

/// Longest source, bytes; a `data:` source has its own bound.
pub const SOURCE_BYTES_MAX: usize = 1024;

/// Longest `data:` source, bytes: a module of 16 KiB in base64. For demonstrations.
pub const DATA_SOURCE_BYTES_MAX: usize = 22 * 1024;

/// Sealed secrets of one pod.
pub const SECRETS_MAX: usize = 16;

/// Labels that a group's intent may ask for.
pub const SELECTOR_MAX: usize = 16;

/// The payload as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodIntent {
    pub api_version: String,
    pub kind: String,
    pub tenant: String,
    /// Exactly one of `node` and `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub namespace: String,
    pub name: String,
    pub epoch: u64,
    pub generation: u64,
    /// This incarnation; another one means that the pod is made anew.
    pub uid: String,
    /// When it was signed, by the signer's clock: RFC 3339. Compared only with other signed times.
    pub issued_at: String,
    /// The revision of the node's index from which on it lists this pod; 0: none does.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index_revision: u64,
    /// A tombstone: the pod is to be gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// For a group: only nodes with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "RolloutPolicy::is_default")]
    pub rollout: RolloutPolicy,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SealedSecret>,
    /// Absent in a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The pod itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Manifest {
    /// YAML or JSON as its author wrote it: one Pod, and ConfigMaps for it. Errors then name line and column in it.
    Text(String),
    /// One Pod as JSON.
    Object(serde_json::Map<String, serde_json::Value>),
}

impl Manifest {
    /// The text to parse.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Object(map) => {
                serde_json::to_string(map).expect("a JSON object serialises").into()
            }
        }
    }

    /// Whether line and column mean something to its author.
    #[must_use]
    pub fn has_places(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// A module that the pod needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// The `image:` of the manifest that this is, letter for letter.
    pub image: String,
    #[serde(with = "digest_text")]
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// In order of preference: `oci://…`, `https://…`, `http://…`, `mqtt:`, `data:…`. Empty: it is on the node already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Smaller ways to it, for nodes that have another module already; tried before the sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<Delta>,
}

/// What makes one module out of another. The result counts only if it has the artifact's own digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delta {
    /// The module that must be on the node.
    #[serde(with = "digest_text")]
    pub base: Digest,
    /// Which program makes it; a node that does not know it uses the sources.
    pub format: String,
    /// Of the difference itself.
    #[serde(with = "digest_text")]
    pub digest: Digest,
    pub size: u64,
    pub sources: Vec<String>,
}

/// A Secret that only the node can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealedSecret {
    /// Name of the Secret, in the pod's namespace.
    pub name: String,
    /// An age file, armored: a v1 Secret as JSON, encrypted to the node's key.
    pub sealed: String,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long each stage may take. Absent: the node's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutPolicy {
    /// Until all artifacts are there and verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_deadline_seconds: Option<u64>,
    /// From the start until the pod is ready, and has been for `minReadySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<u64>,
    /// How long the pod must be ready without a break before it is called good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<u64>,
}

impl RolloutPolicy {
    const FETCH: Duration = Duration::from_secs(24 * 3600);
    const PROGRESS: Duration = Duration::from_secs(300);
    const MIN_READY: Duration = Duration::from_secs(10);

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// A day: a module of 10 MB at 1 kB/s takes three hours.
    #[must_use]
    pub fn fetch(&self) -> Duration {
        self.fetch_deadline_seconds.map_or(Self::FETCH, Duration::from_secs)
    }

    /// Five minutes: the first compilation on a small board is a part of it.
    #[must_use]
    pub fn progress(&self) -> Duration {
        self.progress_deadline_seconds.map_or(Self::PROGRESS, Duration::from_secs)
    }

    /// Ten seconds: a module that dies at once is not good.
    #[must_use]
    pub fn min_ready(&self) -> Duration {
        self.min_ready_seconds.map_or(Self::MIN_READY, Duration::from_secs)
    }
}

/// A checked intent or tombstone, with everything that later steps look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    pub key: PodKey,
    pub scope: Scope,
    pub revision: Revision,
    /// Milliseconds since 1970, by the signer's clock.
    pub issued_ms: i64,
    pub intent: PodIntent,
    /// The exact payload; what is kept on disk.
    pub payload: Arc<str>,
    /// Who signed it; empty if nobody did (modes `warn` and `off`).
    pub keyid: String,
}

impl Release {
    /// Checks a payload for itself: form, names, bounds, numbers.
    ///
    /// # Errors
    /// `Malformed` if it has not the form of an intent, `Invalid` with every rule that it breaks.
    pub fn read(payload: &[u8], keyid: &str) -> Result<Self, Refusal> {
        let (payload, intent): (_, PodIntent) = parse(payload)?;
        let causes = rules::check(&intent);
        if !causes.is_empty() {
            return Err(Refusal::of(Reason::Invalid, causes));
        }
        let (Some(issued_ms), Some(scope)) = (time_ms(&intent.issued_at), scope(&intent)) else {
            return Err(Refusal::new(Reason::Malformed, "issuedAt or scope is missing"));
        };
        let version = Version { epoch: intent.epoch, generation: intent.generation };
        let digest = digest(payload.as_bytes());
        let key = PodKey::new(&intent.namespace, &intent.name);
        let revision = Revision { version, digest, uid: intent.uid.clone() };
        let keyid = keyid.to_owned();
        Ok(Self { key, scope, revision, issued_ms, intent, payload: payload.into(), keyid })
    }

    /// The digests that must be on the node before it can start, each once.
    #[must_use]
    pub fn digests(&self) -> std::collections::BTreeSet<Digest> {
        self.intent.artifacts.iter().map(|a| a.digest).collect()
    }
}

/// Parses a payload; says where it does not fit.
pub(super) fn parse<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<(&str, T), Refusal> {
    let text = std::str::from_utf8(payload)
        .map_err(|_| Refusal::new(Reason::Malformed, "the payload is not UTF-8"))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { "" } else { &field };
        Refusal::of(Reason::Malformed, vec![Cause::invalid(field, error.inner().to_string())])
    })?;
    reader.end().map_err(|e| Refusal::new(Reason::Malformed, e.to_string()))?;
    Ok((text, value))
}

/// RFC 3339 to milliseconds since 1970.
#[must_use]
pub fn time_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Milliseconds since 1970 as RFC 3339; a time that has no name is 1970.
#[must_use]
pub fn time_text(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}

fn scope(intent: &PodIntent) -> Option<Scope> {
    match (&intent.node, &intent.group) {
        (Some(_), None) => Some(Scope::Node),
        (None, Some(group)) => Some(Scope::Group(group.as_str().into())),
        _ => None,
    }
}
