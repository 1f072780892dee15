//! What this source keeps on disk: one record for each pod, one for the node, one for trust.
//!
//! Owns: their JSON (`docs/mqtt.md`, "What the node keeps") and bounds. Not: writing (`store`), nor when (`protocol`). A
//! record that cannot be read costs one pod its past, and nothing else.
//!
//! ```text
//!  node    {connReserved, index, floor, floors, timeFloorMs}                   < 4 KiB
//!  trust   {anchor, envelope}                                                 <= one envelope
//!  pod     {lines: [mark, payload?], rollout: {target, attempts, outcome?}, good?}   payloads as they were signed
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::intent::Release;
use super::status::Stage;
use super::topic::Scope;
use super::version::{Revision, Version, digest_text};
use crate::image::Digest;
use crate::spec::PodKey;

/// The form that this version writes, and the newest that it reads.
const FORM: u32 = 1;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("it cannot be read")]
    Form(#[from] serde_json::Error),
    #[error("it was written by a newer podling (form {0}; this one reads {FORM})")]
    TooNew(u32),
    #[error("the payload of scope {scope} cannot be read: {why}")]
    Payload { scope: Scope, why: String },
    #[error("it is that of another pod")]
    OtherPod,
}

/// Marks and counters of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    v: u32,
    /// Connection numbers below this may have been used.
    pub conn_reserved: u64,
    /// The index that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexMark>,
    #[serde(flatten)]
    pub floors: Floors,
    /// No clock may show an earlier time. Written with the rest, never for its own sake.
    #[serde(default)]
    pub time_floor_ms: i64,
}

/// Which index was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexMark {
    #[serde(flatten)]
    pub version: Version,
    #[serde(with = "digest_text")]
    pub digest: Digest,
}

/// A document about a pod without a mark must be newer than its floor: that stands for the marks that were forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floors {
    /// Of all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// Of single ones, where theirs is higher.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<String, Floor>,
}

impl Floors {
    /// The floor of a namespace.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Option<Floor> {
        self.floor.max(self.floors.get(namespace).copied())
    }
}

/// Epoch and signing time of the newest mark that was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    pub epoch: u64,
    pub issued_ms: i64,
}

impl NodeRecord {
    /// # Errors
    /// If it is none.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(json)?;
        if record.v > FORM { Err(RecordError::TooNew(record.v)) } else { Ok(record) }
    }

    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let record = Self { v: FORM, ..self.clone() };
        serde_json::to_vec(&record).expect("numbers and strings have a JSON form")
    }

    /// Whether the two differ in something worth a write.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        (self.conn_reserved, self.index, &self.floors)
            != (other.conn_reserved, other.index, &other.floors)
    }
}

/// The trust document in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustRecord {
    v: u32,
    /// Under which roots of the local anchor it was adopted.
    #[serde(with = "digest_text")]
    pub anchor: Digest,
    /// The envelope as it came.
    pub envelope: String,
}

impl TrustRecord {
    #[must_use]
    pub fn new(anchor: Digest, envelope: String) -> Self {
        Self { v: FORM, anchor, envelope }
    }

    /// # Errors
    /// If it is none.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(json)?;
        if record.v > FORM { Err(RecordError::TooNew(record.v)) } else { Ok(record) }
    }

    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings have a JSON form")
    }
}

/// All that is known of one pod. Equal are two that say the same: documents are told apart by their revisions, which hold their digests,
/// since what is wanted is compared with what is on disk again and again, for each pod.
#[derive(Clone, Debug, Default)]
pub struct PodRecord {
    /// The newest accepted document of each scope.
    pub lines: BTreeMap<Scope, Line>,
    /// The way of the document that leads.
    pub rollout: Option<Rollout>,
    /// What to go back to, where that is not the one that leads.
    pub good: Option<Arc<Release>>,
}

/// What was accepted for one scope. Compared as [`PodRecord`] is.
#[derive(Clone, Debug)]
pub struct Line {
    pub revision: Revision,
    pub issued_ms: i64,
    pub keyid: String,
    /// `None`: the pod is deleted, and this is its mark.
    pub release: Option<Arc<Release>>,
}

/// How far a document is, as far as that must survive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    pub scope: Scope,
    #[serde(flatten)]
    pub revision: Revision,
    /// Tries that were begun; counted before each.
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Ended>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// `Committed`, `RolledBack` or `Failed`.
    pub stage: Stage,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// It must not run: it could not be got, or takes the daemon with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodForm<'a> {
    v: u32,
    namespace: String,
    name: String,
    #[serde(borrow)]
    lines: Vec<LineForm<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollout: Option<Rollout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    good: Option<GoodForm<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineForm<'a> {
    scope: Scope,
    #[serde(flatten)]
    revision: Revision,
    issued_ms: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    keyid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GoodForm<'a> {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    keyid: String,
    payload: Cow<'a, str>,
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        let marks = |line: &Self| (line.issued_ms, line.release.is_some());
        marks(self) == marks(other) && self.revision == other.revision && self.keyid == other.keyid
    }
}

impl PartialEq for PodRecord {
    fn eq(&self, other: &Self) -> bool {
        let good = |a: &Arc<Release>, b: &Arc<Release>| {
            Arc::ptr_eq(a, b)
                || (&a.scope, &a.revision, &a.keyid) == (&b.scope, &b.revision, &b.keyid)
        };
        let same_good = match (&self.good, &other.good) {
            (Some(a), Some(b)) => good(a, b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_good && self.lines == other.lines && self.rollout == other.rollout
    }
}

impl Line {
    /// An accepted document; a tombstone leaves its mark only.
    #[must_use]
    pub fn of(release: Arc<Release>) -> Self {
        Self {
            revision: release.revision.clone(),
            issued_ms: release.issued_ms,
            keyid: release.keyid.clone(),
            release: (!release.intent.deleted).then_some(release),
        }
    }
}

impl PodRecord {
    /// # Errors
    /// If it is none, or not that of this pod.
    pub fn from_json(json: &[u8], key: &PodKey) -> Result<Self, RecordError> {
        let form: PodForm<'_> = serde_json::from_slice(json)?;
        if form.v > FORM {
            return Err(RecordError::TooNew(form.v));
        }
        if PodKey::new(&form.namespace, &form.name) != *key {
            return Err(RecordError::OtherPod);
        }
        let read = |scope: &Scope, payload: &str, keyid: &str| {
            let wrong = |why| RecordError::Payload { scope: scope.clone(), why };
            let release =
                Release::read(payload.as_bytes(), keyid).map_err(|e| wrong(e.to_string()))?;
            if release.key == *key { Ok(Arc::new(release)) } else { Err(RecordError::OtherPod) }
        };
        let mut lines = BTreeMap::new();
        for line in form.lines {
            let release =
                line.payload.as_deref().map(|p| read(&line.scope, p, &line.keyid)).transpose()?;
            let LineForm { revision, issued_ms, keyid, .. } = line;
            lines.insert(line.scope, Line { revision, issued_ms, keyid, release });
        }
        let good = form.good.map(|g| read(&Scope::Node, &g.payload, &g.keyid)).transpose()?;
        Ok(Self { lines, rollout: form.rollout, good })
    }

    #[must_use]
    pub fn to_json(&self, key: &PodKey) -> Vec<u8> {
        fn line_form<'a>((scope, line): (&Scope, &'a Line)) -> LineForm<'a> {
            LineForm {
                scope: scope.clone(),
                revision: line.revision.clone(),
                issued_ms: line.issued_ms,
                keyid: line.keyid.clone(),
                payload: line.release.as_ref().map(|r| (&*r.payload).into()),
            }
        }
        fn good_form(r: &Arc<Release>) -> GoodForm<'_> {
            GoodForm { keyid: r.keyid.clone(), payload: (&*r.payload).into() }
        }
        let form = PodForm {
            v: FORM,
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            lines: self.lines.iter().map(line_form).collect(),
            rollout: self.rollout.clone(),
            good: self.good.as_ref().map(good_form),
        };
        serde_json::to_vec(&form).expect("numbers and strings have a JSON form")
    }

    /// Nothing of the pod is wanted: only marks are left.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.lines.values().all(|line| line.release.is_none())
    }
}
