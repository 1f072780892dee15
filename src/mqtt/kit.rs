//! For tests of everything that speaks this protocol: keys, documents, and a node in miniature.
//!
//! Owns: keys, documents, configurations and reports as tests want them. [`Lab`] is the node.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "a kit has more tools than each test uses")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};

use super::cause::Refusal;
use super::command::{Arguments, Command, Reply, Task, Verb};
use super::controller::{self, Message, SecretKey};
use super::envelope::digest;
use super::index::{Listed, NodeIndex};
use super::intent::{
    API_VERSION, Artifact, Manifest, PodIntent, Release, RolloutPolicy, time_text,
};
use super::protocol::{
    Admission, Config, FetchFailure, Input, Instance, Output, PodPhase, PodReport, Protocol,
    Publish, RecordName, Restored, Timing,
};
use super::status::{
    Capabilities, Condition, ContainerStatus, NodeStatus, Online, PodStatus, Stage,
};
use super::topic::{Scope, Topics, Tree};
use super::trust::{AnchorFile, Mode, Revoked, Trust, TrustDocument};
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::spec::PodKey;

pub(crate) use lab::Lab;

pub(crate) const TENANT: &str = "acme";
pub(crate) const NODE: &str = "gw-17";

/// 2026-11-21T07:00:00Z.
pub(crate) const EPOCH_MS: i64 = 1_795_244_400_000;

pub(crate) fn secret(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// The key that may send pods and commands.
pub(crate) fn controller_key() -> SecretKey {
    secret(1)
}

/// The key that may change trust.
pub(crate) fn root_key() -> SecretKey {
    secret(9)
}

pub(crate) fn key_yaml(key: &SecretKey, roles: &str) -> String {
    format!("  - {{name: k, publicKey: \"{}\", roles: [{roles}]}}\n", key.public_text())
}

pub(crate) fn anchor(keys: &str, threshold: usize) -> AnchorFile {
    let text = format!(
        "apiVersion: {API_VERSION}\nkind: TrustAnchor\nthreshold: {threshold}\nkeys:\n{keys}"
    );
    AnchorFile { path: "trust.yaml".into(), text: text.into_bytes() }
}

pub(crate) fn trust(mode: Mode) -> Trust {
    let keys = key_yaml(&controller_key(), "intent, command") + &key_yaml(&root_key(), "root");
    Trust::new(mode, &[anchor(&keys, 1)]).unwrap()
}

pub(crate) fn tree() -> Tree {
    Tree::new("pods/v1", TENANT).unwrap()
}

pub(crate) fn config() -> Config {
    Config {
        topics: Topics::new("pods/v1", TENANT, NODE).unwrap(),
        groups: vec!["line-a".into(), "all".into()],
        labels: BTreeMap::from([("site".to_owned(), "north".to_owned())]),
        trust: trust(Mode::Require),
        verbs: BTreeSet::from(Verb::DEFAULT),
        capabilities: Capabilities::default(),
        signer: None,
        boot: "boot-1".to_owned(),
        version: "0.1.0".to_owned(),
        built_ms: EPOCH_MS - 1_000_000,
        safe_mode: false,
        timing: Timing::default(),
    }
}

pub(crate) fn pod_key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

/// An intent for this node, without artifacts.
pub(crate) fn intent(name: &str, generation: u64) -> PodIntent {
    PodIntent {
        api_version: API_VERSION.to_owned(),
        kind: "PodIntent".to_owned(),
        tenant: TENANT.to_owned(),
        node: Some(NODE.to_owned()),
        group: None,
        namespace: "default".to_owned(),
        name: name.to_owned(),
        epoch: 1,
        generation,
        uid: "uid-1".to_owned(),
        issued_at: time_text(EPOCH_MS + i64::try_from(generation).unwrap() * 1000),
        index_revision: 0,
        deleted: false,
        node_selector: BTreeMap::new(),
        rollout: RolloutPolicy::default(),
        artifacts: vec![],
        secrets: vec![],
        manifest: Some(Manifest::Text(format!("pod {name}, generation {generation}"))),
    }
}

pub(crate) fn for_group(group: &str, intent: PodIntent) -> PodIntent {
    PodIntent { node: None, group: Some(group.to_owned()), ..intent }
}

pub(crate) fn with_artifact(content: &str, mut intent: PodIntent) -> PodIntent {
    intent.artifacts.push(Artifact {
        image: content.to_owned(),
        digest: digest(content.as_bytes()),
        size: 1000,
        media_type: "application/wasm".to_owned(),
        sources: vec!["mqtt:".to_owned()],
        deltas: vec![],
    });
    intent
}

pub(crate) fn tombstone(name: &str, generation: u64) -> PodIntent {
    controller::tombstone(&intent(name, generation - 1), &intent(name, generation).issued_at)
}

pub(crate) fn signed(intent: &PodIntent) -> Message {
    controller::intent(&tree(), intent, &[&controller_key()]).unwrap()
}

pub(crate) fn index(revision: u64, pods: &[&Message]) -> Message {
    let listed = |message: &&Message| {
        let envelope =
            super::envelope::Envelope::open(&message.payload, super::envelope::PayloadType::Intent);
        let release = Release::read(&envelope.unwrap().payload, "").unwrap();
        Listed {
            namespace: release.key.namespace.to_string(),
            name: release.key.name.to_string(),
            generation: release.revision.version.generation,
            digest: message.digest,
        }
    };
    let index = NodeIndex {
        api_version: API_VERSION.to_owned(),
        kind: "NodeIndex".to_owned(),
        tenant: TENANT.to_owned(),
        node: NODE.to_owned(),
        epoch: 1,
        revision,
        issued_at: time_text(EPOCH_MS),
        pods: pods.iter().map(listed).collect(),
    };
    controller::index(&tree(), &index, &[&controller_key()]).unwrap()
}

/// A trust document: these keys with their roles, signed by these roots.
pub(crate) fn trust_document(
    version: u64,
    epoch: u64,
    keys: &[(&SecretKey, &str)],
    revoked: Vec<Revoked>,
    roots: &[&SecretKey],
) -> Message {
    let keys: String = keys.iter().map(|(key, roles)| key_yaml(key, roles)).collect();
    let document = TrustDocument {
        api_version: API_VERSION.to_owned(),
        kind: "TrustDocument".to_owned(),
        tenant: TENANT.to_owned(),
        version,
        epoch,
        issued_at: time_text(EPOCH_MS),
        threshold: 1,
        keys: serde_yaml::from_str(&keys).unwrap(),
        revoked,
    };
    controller::trust(&tree(), &document, roots).unwrap()
}

pub(crate) fn command(verb: Verb, id: &str, conn: u64, arguments: Arguments) -> Command {
    Command {
        api_version: API_VERSION.to_owned(),
        kind: "Command".to_owned(),
        tenant: TENANT.to_owned(),
        node: NODE.to_owned(),
        id: id.to_owned(),
        verb,
        conn,
        issued_at: time_text(EPOCH_MS),
        expires_at: None,
        arguments,
    }
}

pub(crate) fn ready() -> PodReport {
    PodReport { phase: PodPhase::Running, ready: true, started: true, ..PodReport::default() }
}

pub(crate) fn running() -> PodReport {
    PodReport { ready: false, ..ready() }
}

/// One of its modules is being made ready for this machine.
pub(crate) fn compiling() -> PodReport {
    let container = ContainerStatus {
        name: "c".to_owned(),
        reason: "Compiling".to_owned(),
        message: "Compiling the module".to_owned(),
        ..ContainerStatus::default()
    };
    PodReport { containers: vec![container], ..PodReport::default() }
}

pub(crate) fn crashed(times: u32) -> PodReport {
    let container =
        ContainerStatus { name: "c".to_owned(), restarts: times, ..ContainerStatus::default() };
    PodReport { containers: vec![container], message: "trap".to_owned(), ..running() }
}
