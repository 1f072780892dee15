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
use super::signature::{Signer, Standing};
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

    /// Signs with it what a node says.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer::new(self.0.clone())
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
        Outbound::Reply { id } => {
            let reply: Reply = serde_json::from_slice(payload).ok()?;
            if reply.id != id {
                return None;
            }
            Said::Reply(Box::new(reply))
        }
        Outbound::Get => return None,
    };
    Some((node.to_owned(), said))
}

/// Of what a message from a node speaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Online,
    Node,
    Pod(PodKey),
}

/// Nodes that a view holds.
pub const NODES_MAX: usize = 100_000;

/// Pods of one node that a view holds: those that it can run, as many marks, and what it refused; with room to spare.
const VIEW_PODS_MAX: usize = 4 * crate::limits::PODS_MAX;

/// Subjects of one node: those pods, birth and status.
const SUBJECTS_MAX: usize = VIEW_PODS_MAX + 2;

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
    /// Of each subject, what the newest message was worth: also of those that were not believed, and changed nothing else here.
    pub standings: BTreeMap<Subject, Standing>,
}

impl NodeView {
    /// Whether its newest connection stands, as far as the broker knows.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online.as_ref().is_some_and(|online| online.online)
    }

    /// What is worth what the node says of itself: the worse of birth and status.
    #[must_use]
    pub fn own_standing(&self) -> Option<Standing> {
        let of = |subject| self.standings.get(&subject).copied();
        of(Subject::Online).max(of(Subject::Node))
    }

    /// What a pod's newest message was worth.
    #[must_use]
    pub fn standing(&self, pod: &PodKey) -> Option<Standing> {
        self.standings.get(&Subject::Pod(pod.clone())).copied()
    }

    /// Whether a pod's status was said on the connection that stands: else it is what was true before.
    #[must_use]
    pub fn is_current(&self, pod: &PodStatus) -> bool {
        self.online.as_ref().is_some_and(|online| online.online && online.conn <= pod.stamp.conn)
    }
}

impl Fleet {
    /// Notes what a message is worth, believed or not; false if that is no news.
    pub fn weigh(&mut self, node: &str, subject: Subject, standing: Standing) -> bool {
        if !self.nodes.contains_key(node) && self.nodes.len() >= NODES_MAX {
            return false;
        }
        let view = self.nodes.entry(node.to_owned()).or_default();
        if !view.standings.contains_key(&subject) && view.standings.len() >= SUBJECTS_MAX {
            return false;
        }
        view.standings.insert(subject, standing) != Some(standing)
    }

    /// A node's key has become known: what it was believed to say without a signature is not believed any more.
    pub fn forget_unsigned(&mut self, node: &str) {
        let Some(view) = self.nodes.get_mut(node) else { return };
        let NodeView { online, status, pods, standings } = view;
        for (subject, standing) in standings {
            if *standing != Standing::Unsigned {
                continue;
            }
            *standing = Standing::Missing;
            match subject {
                Subject::Online => *online = None,
                Subject::Node => *status = None,
                Subject::Pod(key) => drop(pods.remove(key)),
            }
        }
    }

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
                let known = view.pods.get(&key);
                // A node that is not known may be anybody, who may name any number of pods.
                if known.is_none() && view.pods.len() >= VIEW_PODS_MAX {
                    return false;
                }
                let old = known.is_some_and(|known| stamp(&status) < stamp(known));
                if !old {
                    view.pods.insert(key, status);
                }
                !old
            }
            Said::Forgotten(key) => {
                let known = view.pods.remove(&key).is_some();
                view.standings.remove(&Subject::Pod(key)).is_some() || known
            }
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

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::mqtt::intent::time_text;
    use crate::mqtt::kit::{self, Lab};

    fn verdict_of(lab: &mut Lab, name: &str, intent: &PodIntent) -> Verdict {
        lab.settle();
        let message = kit::signed(intent);
        let version = Version { epoch: intent.epoch, generation: intent.generation };
        let scope = Scope::Node;
        verdict(&lab.status(name), &scope, version, message.digest)
    }

    #[test]
    fn a_publisher_sees_its_document_through() {
        let mut lab = Lab::online();
        let (first, second) = (kit::intent("web", 1), kit::intent("web", 2));
        lab.send(&first);
        assert!(matches!(verdict_of(&mut lab, "web", &first), Verdict::Progressing(_)));
        assert_eq!(verdict_of(&mut lab, "web", &second), Verdict::Waiting);
        lab.make_good("web");
        let ended = |verdict: Verdict| {
            let Verdict::Ended(rollout) = verdict else { panic!("{verdict:?}") };
            rollout.stage.as_str()
        };
        assert_eq!(ended(verdict_of(&mut lab, "web", &first)), "Committed");
        lab.send(&second);
        lab.report("web", kit::crashed(9));
        assert_eq!(ended(verdict_of(&mut lab, "web", &second)), "RolledBack");
        // The first one has ended as it did, and is overtaken once even its end is old news.
        assert_eq!(ended(verdict_of(&mut lab, "web", &first)), "Committed");
        lab.send(&kit::intent("web", 3));
        let overtaken = Version { epoch: 1, generation: 3 };
        assert_eq!(verdict_of(&mut lab, "web", &first), Verdict::Overtaken(overtaken));
        let gone = kit::tombstone("web", 4);
        lab.send(&gone);
        assert_eq!(verdict_of(&mut lab, "web", &gone), Verdict::Gone);
        lab.send(&second);
        assert!(matches!(verdict_of(&mut lab, "web", &second), Verdict::Refused(_)));
    }

    #[test]
    fn a_document_that_does_not_lead_is_said_to_be_so() {
        let mut lab = Lab::online();
        lab.send(&kit::intent("web", 1));
        let group = kit::for_group("all", kit::intent("web", 1));
        let message = lab.send(&group);
        lab.settle();
        let scope = Scope::Group("all".into());
        let version = Version { epoch: 1, generation: 1 };
        let found = verdict(&lab.status("web"), &scope, version, message.digest);
        assert_eq!(found, Verdict::Inactive("Overridden".to_owned()));
    }

    #[test]
    fn a_view_keeps_the_newest_of_each() {
        let mut lab = Lab::online();
        lab.send(&kit::intent("web", 1));
        lab.make_good("web");
        lab.disconnect();
        lab.connect();
        let (mut fleet, tree) = (Fleet::default(), kit::tree());
        // In any order, with each message twice.
        for publish in lab.sent.iter().rev().chain(&lab.sent) {
            if let Some((node, said)) = read(&tree, &publish.topic, &publish.payload) {
                fleet.take(&node, said);
            }
        }
        let view = &fleet.nodes[kit::NODE];
        assert!(view.is_online());
        assert_eq!(view.online.as_ref().unwrap().conn, lab.conn());
        let pod = &view.pods[&kit::pod_key("web")];
        assert_eq!(**pod, lab.status("web"));
        assert!(view.is_current(pod));
        // An old will changes nothing; the newest does, and what was said before is then what was true before.
        let (conn, will) = lab.will.clone().unwrap();
        let old = String::from_utf8(will.payload.to_vec()).unwrap();
        let old = old.replace(&format!("\"conn\":{conn}"), "\"conn\":1");
        for (text, online) in [(old.as_bytes(), true), (&*will.payload, false)] {
            let (node, said) = read(&tree, &will.topic, text).unwrap();
            fleet.take(&node, said);
            assert_eq!(fleet.nodes[kit::NODE].is_online(), online);
        }
        let pod = &fleet.nodes[kit::NODE].pods[&kit::pod_key("web")];
        assert!(!fleet.nodes[kit::NODE].is_current(pod));
    }

    #[test]
    fn whoever_may_write_statuses_cannot_fill_the_view() {
        let mut fleet = Fleet::default();
        for n in 0..VIEW_PODS_MAX + 10 {
            let status = Box::new(PodStatus::default());
            fleet.take(kit::NODE, Said::Pod(kit::pod_key(&format!("p{n}")), status));
        }
        assert_eq!(fleet.nodes[kit::NODE].pods.len(), VIEW_PODS_MAX);
        let known = Said::Pod(kit::pod_key("p1"), Box::default());
        assert!(fleet.take(kit::NODE, known), "what is known is still kept up to date");
    }

    #[test]
    fn mistakes_are_found_before_anything_is_published() {
        let (tree, key) = (kit::tree(), kit::controller_key());
        let wrong = PodIntent { uid: String::new(), ..kit::intent("web", 1) };
        assert_eq!(intent(&tree, &wrong, &[&key]).unwrap_err().reason, Reason::Invalid);
        let elsewhere = PodIntent { tenant: "other".into(), ..kit::intent("web", 1) };
        assert_eq!(intent(&tree, &elsewhere, &[&key]).unwrap_err().reason, Reason::WrongTarget);
        let large = super::super::intent::Manifest::Text("x".repeat(ENVELOPE_BYTES_MAX));
        let large = PodIntent { manifest: Some(large), ..kit::intent("web", 1) };
        assert_eq!(intent(&tree, &large, &[&key]).unwrap_err().reason, Reason::TooLarge);
    }

    #[test]
    fn a_tombstone_is_the_next_generation_of_what_it_ends() {
        let intent = PodIntent { index_revision: 4, ..kit::intent("web", 6) };
        let gone = tombstone(&intent, &time_text(kit::EPOCH_MS));
        assert_eq!((gone.generation, gone.deleted, gone.manifest.is_some()), (7, true, false));
        assert_eq!(gone.uid, intent.uid);
    }

    #[test]
    fn keys_are_files_that_others_can_read_too() {
        let key = kit::secret(3);
        let again = SecretKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.id(), key.id());
        let public = crate::mqtt::trust::public_key(&key.public_pem()).unwrap();
        assert_eq!(crate::mqtt::trust::public_key(&key.public_text()), Some(public));
        assert_eq!(format!("{key:?}"), format!("SecretKey({})", key.id()), "never the key");
        assert_eq!(SecretKey::from_pem("rubbish").unwrap_err(), NoKey);
        // As OpenSSL 3 writes it: `openssl genpkey -algorithm ed25519`.
        let theirs = "-----BEGIN PRIVATE KEY-----\n\
             MC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\n\
             -----END PRIVATE KEY-----\n";
        assert_eq!(SecretKey::from_pem(theirs).unwrap().id(), kit::secret(1).id());
    }
}
