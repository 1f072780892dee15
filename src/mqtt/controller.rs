//! The other side: what a controller, or a person with a laptop, does.
//!
//! Owns: keys as files, making and signing documents, reading what nodes say. Not: connecting, nor what is to run. Pure: time
//! and randomness are arguments.
//!
//! ```text
//!  PodIntent, NodeIndex, TrustDocument, Command ─► checked as the node checks them ─► signed ─► Message {topic, payload}
//!  topic, payload ─► Said ─► Fleet: the newest of each, wills that are old news left out ─► Verdict on one document
//! ```

use std::collections::BTreeMap;
use std::fmt;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use ed25519_dalek::{SigningKey, VerifyingKey};

use super::cause::{Reason, Refusal};
use super::command::{Command, Reply};
use super::envelope::{ENVELOPE_BYTES_MAX, Envelope, PayloadType, key_id};
use super::index::{Index, NodeIndex};
use super::intent::{PodIntent, Release};
use super::status::{NodeStatus, Online, PodStatus, RefusedStatus, RolloutStatus};
use super::topic::{Outbound, Scope, Tree};
use super::trust::{Document, TrustDocument, public_key_text};
use super::version::{Revision, Version};
use crate::image::Digest;
use crate::spec::PodKey;

/// A private key. Shows only its id.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.id())
    }
}

/// Why a private key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key: a PEM PRIVATE KEY block (PKCS#8) is expected")]
pub struct NoKey;

impl SecretKey {
    /// From 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// From PEM (PKCS#8), as `openssl genpkey -algorithm ed25519` writes it too.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_pem(text: &str) -> Result<Self, NoKey> {
        SigningKey::from_pkcs8_pem(text.trim()).map(Self).map_err(|_| NoKey)
    }

    /// PEM (PKCS#8). For a file that only its owner can read.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF);
        pem.expect("a key of 32 bytes has a PKCS#8 form").as_str().to_owned()
    }

    /// The public key as PEM.
    #[must_use]
    pub fn public_pem(&self) -> String {
        let pem = self.public().to_public_key_pem(LineEnding::LF);
        pem.expect("a key of 32 bytes has a SubjectPublicKeyInfo")
    }

    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// The public key as trust anchors and documents write it.
    #[must_use]
    pub fn public_text(&self) -> String {
        public_key_text(&self.public())
    }

    /// How nodes call it.
    #[must_use]
    pub fn id(&self) -> String {
        key_id(&self.public())
    }
}

/// Something to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    /// Of the signed payload: what verdicts name.
    pub digest: Digest,
}

/// Signs a payload; without a key, an envelope for nodes whose trust is off.
#[must_use]
pub fn sign(payload_type: PayloadType, payload: Vec<u8>, keys: &[&SecretKey]) -> Envelope {
    let mut envelope = Envelope::new(payload_type, payload);
    for key in keys {
        envelope.sign(&key.0);
    }
    envelope
}

fn message(topic: String, retain: bool, envelope: &Envelope) -> Result<Message, Refusal> {
    let payload = envelope.to_json();
    if payload.len() > ENVELOPE_BYTES_MAX {
        let message = format!(
            "the envelope has {} bytes; nodes read at most {ENVELOPE_BYTES_MAX}",
            payload.len()
        );
        return Err(Refusal::new(Reason::TooLarge, message));
    }
    Ok(Message { topic, payload, retain, digest: envelope.digest() })
}

fn wrong_topic(error: super::topic::TopicError) -> Refusal {
    Refusal::new(Reason::Invalid, error.to_string())
}

/// A wire document as the bytes that are signed.
fn payload<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have string keys only")
}

/// An intent or a tombstone, checked as the node will check it (but for the manifest's own rules).
///
/// # Errors
/// Everything that is wrong with it.
pub fn intent(tree: &Tree, intent: &PodIntent, keys: &[&SecretKey]) -> Result<Message, Refusal> {
    let payload = payload(intent);
    let release = Release::read(&payload, "")?;
    check_tenant(tree, &intent.tenant)?;
    let node = intent.node.as_deref().unwrap_or_default();
    let topic = tree.pod(&release.scope, node, &release.key).map_err(wrong_topic)?;
    message(topic, true, &sign(PayloadType::Intent, payload, keys))
}

/// The tombstone for an intent: the same pod, one generation later, gone.
#[must_use]
pub fn tombstone(of: &PodIntent, issued_at: &str) -> PodIntent {
    PodIntent {
        generation: of.generation + 1,
        issued_at: issued_at.to_owned(),
        deleted: true,
        index_revision: of.index_revision,
        node_selector: BTreeMap::new(),
        rollout: super::intent::RolloutPolicy::default(),
        artifacts: vec![],
        secrets: vec![],
        manifest: None,
        ..of.clone()
    }
}

/// A node's index.
///
/// # Errors
/// Everything that is wrong with it.
pub fn index(tree: &Tree, index: &NodeIndex, keys: &[&SecretKey]) -> Result<Message, Refusal> {
    let payload = payload(index);
    Index::read(&payload)?;
    check_tenant(tree, &index.tenant)?;
    let topics = super::topic::Topics::new(tree.root(), tree.tenant(), &index.node);
    let topic = topics.map_err(wrong_topic)?.index();
    message(topic, true, &sign(PayloadType::Index, payload, keys))
}

/// A trust document. While the roots change, sign with enough of the old and enough of the new ones.
///
/// # Errors
/// Everything that is wrong with it; that it is not signed by enough of its own roots.
pub fn trust(
    tree: &Tree,
    document: &TrustDocument,
    roots: &[&SecretKey],
) -> Result<Message, Refusal> {
    let envelope = sign(PayloadType::Trust, payload(document), roots);
    trust_message(tree, &envelope)
}

/// A trust document that several people have signed one after the other.
///
/// # Errors
/// As [`trust`].
pub fn trust_message(tree: &Tree, envelope: &Envelope) -> Result<Message, Refusal> {
    let document = Document::read(envelope)?;
    document.check_own_roots(envelope)?;
    check_tenant(tree, document.tenant())?;
    message(tree.trust(), true, envelope)
}

/// A command for the connection that the node's birth message names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn command(tree: &Tree, command: &Command, keys: &[&SecretKey]) -> Result<Message, Refusal> {
    let payload = payload(command);
    Command::read(&payload)?;
    check_tenant(tree, &command.tenant)?;
    let topics = super::topic::Topics::new(tree.root(), tree.tenant(), &command.node);
    let topic = topics.and_then(|t| t.command(command.verb.as_str(), &command.id));
    message(topic.map_err(wrong_topic)?, false, &sign(PayloadType::Command, payload, keys))
}

fn check_tenant(tree: &Tree, tenant: &str) -> Result<(), Refusal> {
    if tenant == tree.tenant() {
        return Ok(());
    }
    let message =
        format!("it is for tenant {tenant:?}, and the topics are those of {:?}", tree.tenant());
    Err(Refusal::new(Reason::WrongTarget, message))
}

/// What a node said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Online(Online),
    Node(Box<NodeStatus>),
    Pod(PodKey, Box<PodStatus>),
    /// The pod is forgotten: its status is withdrawn.
    Forgotten(PodKey),
    Reply(Box<Reply>),
}

/// Reads a message from a node; `None` if it is none of ours, or cannot be read.
#[must_use]
pub fn read(tree: &Tree, topic: &str, payload: &[u8]) -> Option<(String, Said)> {
    let (node, outbound) = tree.read_outbound(topic)?;
    let said = match outbound {
        Outbound::Online => Said::Online(serde_json::from_slice(payload).ok()?),
        Outbound::Node => Said::Node(serde_json::from_slice(payload).ok()?),
        Outbound::Pod { key } if payload.is_empty() => Said::Forgotten(key),
        Outbound::Pod { key } => Said::Pod(key, serde_json::from_slice(payload).ok()?),
        Outbound::Reply { .. } => Said::Reply(serde_json::from_slice(payload).ok()?),
        Outbound::Get => return None,
    };
    Some((node.to_owned(), said))
}

/// Nodes that a view holds.
pub const NODES_MAX: usize = 100_000;

/// The newest that each node has said. What a `get` prints, and what a `publish` waits on.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    pub nodes: BTreeMap<String, NodeView>,
}

/// One node, as it describes itself.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub online: Option<Online>,
    pub status: Option<Box<NodeStatus>>,
    pub pods: BTreeMap<PodKey, Box<PodStatus>>,
}

impl NodeView {
    /// Whether its newest connection stands, as far as the broker knows.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online.as_ref().is_some_and(|online| online.online)
    }

    /// Whether a pod's status was said on the connection that stands: else it is what was true before.
    #[must_use]
    pub fn is_current(&self, pod: &PodStatus) -> bool {
        self.online.as_ref().is_some_and(|online| online.online && online.conn <= pod.stamp.conn)
    }
}

impl Fleet {
    /// Takes in a message; false if it was no news.
    pub fn take(&mut self, node: &str, said: Said) -> bool {
        if !self.nodes.contains_key(node) && self.nodes.len() >= NODES_MAX {
            return false;
        }
        let view = self.nodes.entry(node.to_owned()).or_default();
        match said {
            Said::Online(online) => {
                // A will of an earlier connection may come after the birth of a later one.
                let old = view.online.as_ref().is_some_and(|known| online.conn < known.conn);
                if !old {
                    view.online = Some(online);
                }
                !old
            }
            Said::Node(status) => {
                let stamp = |s: &NodeStatus| (s.stamp.conn, s.stamp.seq);
                let old = view.status.as_ref().is_some_and(|known| stamp(&status) < stamp(known));
                if !old {
                    view.status = Some(status);
                }
                !old
            }
            Said::Pod(key, status) => {
                let stamp = |s: &PodStatus| (s.stamp.conn, s.stamp.seq);
                let old = view.pods.get(&key).is_some_and(|known| stamp(&status) < stamp(known));
                if !old {
                    view.pods.insert(key, status);
                }
                !old
            }
            Said::Forgotten(key) => view.pods.remove(&key).is_some(),
            Said::Reply(_) => false,
        }
    }
}

/// What a pod's status says of one document.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing yet.
    Waiting,
    /// The nack.
    Refused(RefusedStatus),
    /// It is on the node's disk, and on its way.
    Progressing(RolloutStatus),
    /// It has ended: `Committed`, `RolledBack`, `Failed` or `Superseded`.
    Ended(RolloutStatus),
    /// Accepted, and another one leads; why.
    Inactive(String),
    /// A newer document of the same scope was accepted.
    Overtaken(Version),
    /// A tombstone was accepted, and the pod is ending.
    Ending,
    /// A tombstone was accepted, and nothing of the pod is left to run.
    Gone,
}

impl Verdict {
    /// Whether waiting any longer is of no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Waiting | Self::Progressing(_) | Self::Ending => false,
            Self::Refused(_)
            | Self::Ended(_)
            | Self::Inactive(_)
            | Self::Overtaken(_)
            | Self::Gone => true,
        }
    }
}

/// Reads the verdict on a document out of its pod's status.
#[must_use]
pub fn verdict(status: &PodStatus, scope: &Scope, version: Version, digest: Digest) -> Verdict {
    let Some(document) = status.documents.iter().find(|d| d.scope == *scope) else {
        return Verdict::Waiting;
    };
    if let Some(refused) = document.refused.as_ref().filter(|r| r.digest == digest) {
        return Verdict::Refused(refused.clone());
    }
    let Some(accepted) = &document.accepted else { return Verdict::Waiting };
    let is_it = |r: &&RolloutStatus| {
        let Revision { digest: found, .. } = &r.target.revision;
        r.target.scope == *scope && *found == digest
    };
    if accepted.revision.digest != digest {
        return match status.previous.as_ref().filter(is_it) {
            Some(ended) => Verdict::Ended(ended.clone()),
            None if accepted.revision.version > version => {
                Verdict::Overtaken(accepted.revision.version)
            }
            None => Verdict::Waiting,
        };
    }
    if accepted.deleted {
        return if status.active.is_none() { Verdict::Gone } else { Verdict::Ending };
    }
    if let Some(why) = &accepted.inactive {
        return Verdict::Inactive(why.clone());
    }
    match status.rollout.as_ref().filter(is_it) {
        Some(rollout) if rollout.stage.is_terminal() => Verdict::Ended(rollout.clone()),
        Some(rollout) => Verdict::Progressing(rollout.clone()),
        None => Verdict::Waiting,
    }
}
