//! The list of everything that a node should have: what deletion and anti-rollback hang on.
//!
//! Owns: the payload's JSON, its rules, and what an index says of one pod. Not: when it is accepted (`protocol`).
//!
//! Only pods of the node's own topics are listed; a group's pods are the group's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cause::{Cause, Reason, Refusal};
use super::envelope::digest;
use super::intent::{head, issued, numbers, parse, time_ms};
use super::topic::{check_level, check_namespace};
use super::version::{Version, digest_text};
use crate::image::Digest;
use crate::limits::PODS_MAX;
use crate::spec::PodKey;

/// The payload as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeIndex {
    pub api_version: String,
    pub kind: String,
    pub tenant: String,
    pub node: String,
    pub epoch: u64,
    pub revision: u64,
    pub issued_at: String,
    pub pods: Vec<Listed>,
}

/// One pod of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listed {
    pub namespace: String,
    pub name: String,
    pub generation: u64,
    /// Of the intent's payload.
    #[serde(with = "digest_text")]
    pub digest: Digest,
}

/// A checked index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub version: Version,
    pub digest: Digest,
    pub issued_ms: i64,
    pub tenant: String,
    pub node: String,
    pub pods: BTreeMap<PodKey, Entry>,
}

/// What an index says of a pod that it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub generation: u64,
    pub digest: Digest,
}

impl Index {
    /// Checks a payload for itself.
    ///
    /// # Errors
    /// `Malformed` if it has not the form of an index, `Invalid` with every rule that it breaks.
    pub fn read(payload: &[u8]) -> Result<Self, Refusal> {
        let (text, wire): (_, NodeIndex) = parse(payload)?;
        let mut causes = head(&wire.api_version, &wire.kind, "NodeIndex", &wire.tenant);
        if let Err(error) = check_level("node", &wire.node) {
            causes.push(Cause::invalid("node", error.to_string()));
        }
        numbers(&mut causes, &[("epoch", wire.epoch), ("revision", wire.revision)]);
        issued(&mut causes, &wire.issued_at);
        if wire.pods.len() > PODS_MAX {
            let message = format!("must have at most {PODS_MAX} items");
            causes.push(Cause::new("FieldValueTooMany", "pods", message));
        }
        let mut pods = BTreeMap::new();
        for (at, listed) in wire.pods.iter().enumerate().take(PODS_MAX) {
            let field = |name: &str| format!("pods[{at}].{name}");
            let namespace = check_namespace(&listed.namespace).map_err(|e| ("namespace", e));
            let name = check_level("name", &listed.name).map_err(|e| ("name", e));
            for (name, error) in [namespace, name].into_iter().filter_map(Result::err) {
                causes.push(Cause::invalid(&field(name), error.to_string()));
            }
            numbers(&mut causes, &[(&field("generation"), listed.generation)]);
            let key = PodKey::new(&listed.namespace, &listed.name);
            let entry = Entry { generation: listed.generation, digest: listed.digest };
            if pods.insert(key, entry).is_some() {
                let message = format!("{}/{} is listed twice", listed.namespace, listed.name);
                causes.push(Cause::new("FieldValueDuplicate", &field("name"), message));
            }
        }
        if !causes.is_empty() {
            return Err(Refusal::of(Reason::Invalid, causes));
        }
        let version = Version { epoch: wire.epoch, generation: wire.revision };
        let (tenant, node) = (wire.tenant, wire.node);
        let issued_ms = time_ms(&wire.issued_at).unwrap_or_default();
        Ok(Self { version, digest: digest(text.as_bytes()), issued_ms, tenant, node, pods })
    }
}
