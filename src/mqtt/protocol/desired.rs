//! The index: what it deletes, what it forbids, and whether the node has all that it should have.
//!
//! Owns: accepting an index, pruning, the floors under forgotten marks. Not: the documents themselves (`intake`).
//!
//! An index says something only of pods whose intent names a revision from which on they are listed, and only from that
//! revision on. So neither a late index nor a late document deletes anything.

use super::marks::{raise, surplus};
use super::outbox::Subject;
use super::{MARKS_MAX, Protocol};
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::envelope::{Envelope, PayloadType, digest};
use crate::mqtt::index::Index;
use crate::mqtt::intent::Release;
use crate::mqtt::record::{Floor, IndexMark};
use crate::mqtt::status::{Condition, RefusedStatus};
use crate::mqtt::topic::Scope;
use crate::mqtt::trust::{Role, Signer};
use crate::mqtt::version::{Order, Version, compare};
use crate::spec::PodKey;

/// Names in one sentence.
const NAMES_MAX: usize = 8;

/// The index in force.
#[derive(Debug, Default)]
pub(super) struct Desired {
    /// Accepted and durable, and seen in this life of the daemon.
    index: Option<Index>,
    /// Accepted, not yet durable.
    coming: Option<Index>,
    /// On which connection the one in force was last seen.
    seen: Option<u64>,
}

impl Desired {
    /// The newest that is accepted: what documents are compared with.
    fn newest(&self) -> Option<&Index> {
        self.coming.as_ref().or(self.index.as_ref())
    }
}

/// Whether an index of this version lists pods of that release.
fn covers(index: Version, release: &Release) -> bool {
    let from = Version {
        epoch: release.revision.version.epoch,
        generation: release.intent.index_revision,
    };
    release.scope == Scope::Node && release.intent.index_revision > 0 && from <= index
}

impl Protocol {
    /// An index has arrived.
    pub(super) fn index_message(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        match self.judge_index(payload) {
            Ok(None) => {
                self.desired.seen = Some(self.connection.conn());
                self.refused_node = None;
                self.prune();
            }
            Ok(Some(index)) => {
                self.desired.seen = Some(self.connection.conn());
                self.refused_node = None;
                self.node.want.index =
                    Some(IndexMark { version: index.version, digest: index.digest });
                self.desired.coming = Some(index);
            }
            Err(refusal) => self.refuse_node(PayloadType::Index, payload, refusal),
        }
        self.outbox.soon(Subject::Node);
    }

    /// `None`: it is the one that was accepted.
    fn judge_index(&mut self, payload: &[u8]) -> Result<Option<Index>, Refusal> {
        let envelope = Envelope::open(payload, PayloadType::Index).map_err(Refusal::from)?;
        let mark = self.node.want.index.map(|mark| (mark.version, mark.digest));
        if mark.is_some_and(|(_, known)| known == envelope.digest()) {
            // Its bytes were verified when it was accepted.
            if self.desired.newest().is_none() {
                self.desired.index = Some(Index::read(&envelope.payload)?);
            }
            return Ok(None);
        }
        let topics = &self.config.topics;
        let signer = self.config.trust.verify(&envelope, Role::Intent, topics.tenant(), None)?;
        let index = Index::read(&envelope.payload)?;
        if index.tenant != topics.tenant() || index.node != topics.node() {
            let message = format!("it is for node {} of tenant {}", index.node, index.tenant);
            return Err(Refusal::new(Reason::WrongTarget, message));
        }
        self.config.trust.check_epoch(index.version.epoch)?;
        let held = mark.map_or(0, |(version, _)| version.generation);
        match compare(mark, index.version, index.digest) {
            Order::Newer => {
                if let Signer::Key(_) = signer {
                    self.clocks.raise(index.issued_ms);
                }
                Ok(Some(index))
            }
            Order::Same => Ok(None),
            Order::Stale => {
                Err(Refusal::new(Reason::Stale, format!("revision {held} was accepted")))
            }
            Order::Conflict => Err(Refusal::new(
                Reason::GenerationConflict,
                format!("another index has revision {held} too"),
            )),
        }
    }

    /// The node's record is on disk: an index in it is in force.
    pub(super) fn index_durable(&mut self) {
        let Some(mark) = self.node.stored().index else { return };
        let is_it = |index: &Index| index.version == mark.version && index.digest == mark.digest;
        if !self.desired.coming.as_ref().is_some_and(is_it) {
            return;
        }
        self.desired.index = self.desired.coming.take();
        self.prune();
        // A document that the index before had no place for may stand at the broker.
        if self.pods.values().any(|pod| pod.refused_by_index()) {
            self.resync();
        }
    }

    /// Deletes what the index in force should list and does not.
    fn prune(&mut self) {
        if self.desired.coming.is_some() {
            return;
        }
        let Some(index) = &self.desired.index else { return };
        let omitted = |(key, pod): (&PodKey, &super::Pod)| {
            let release = pod.record.want.lines.get(&Scope::Node)?.release.as_ref()?;
            let gone = covers(index.version, release) && !index.pods.contains_key(key);
            gone.then(|| key.clone())
        };
        let gone: Vec<PodKey> = self.pods.iter().filter_map(omitted).collect();
        let revision = index.version.generation;
        for key in gone {
            if let Some(pod) = self.pods.get_mut(&key) {
                pod.delete_line(&Scope::Node);
            }
            self.event(Some(&key), false, "Pruned", format!("index {revision} does not list it"));
            self.changed(&key);
        }
    }

    /// What the index says to a document.
    pub(super) fn judge_by_index(&self, release: &Release) -> Result<(), Refusal> {
        let Some(index) = self.desired.newest().filter(|index| covers(index.version, release))
        else {
            return Ok(());
        };
        let revision = index.version.generation;
        let version = release.revision.version;
        let Some(entry) = index.pods.get(&release.key) else {
            if release.intent.deleted {
                return Ok(());
            }
            let message = format!("index {revision} does not list it");
            return Err(Refusal::new(Reason::NotInIndex, message));
        };
        // What an index lists is of its own epoch.
        let listed = Version { epoch: index.version.epoch, generation: entry.generation };
        let mark = Some((listed, entry.digest));
        match compare(mark, version, release.revision.digest) {
            Order::Newer | Order::Same => Ok(()),
            Order::Stale => {
                let message = format!("index {revision} lists generation {}", entry.generation);
                Err(Refusal::new(Reason::Stale, message))
            }
            Order::Conflict => {
                let message = format!(
                    "index {revision} lists generation {} with digest {}",
                    entry.generation, entry.digest
                );
                Err(Refusal::new(Reason::GenerationConflict, message))
            }
        }
    }

    /// Whether everything desired is here, as a condition.
    pub(super) fn synced_condition(&self) -> Condition {
        let waiting = self.connection.sync_until.is_some();
        let conn = self.connection.conn();
        let condition = |ok, reason: &str, message: String| {
            let mut condition = Condition::new("DesiredSynced", ok, reason, message);
            if !ok && waiting {
                condition.status = "Unknown".to_owned();
                condition.reason = "Waiting".to_owned();
            }
            condition
        };
        if self.node.want.index.is_some() {
            if self.desired.seen != Some(conn) {
                let message = "the index that was accepted is not at the broker".to_owned();
                return condition(false, "DesiredMissing", message);
            }
            let missing = self.missing();
            if missing.is_empty() {
                return condition(true, "Synced", String::new());
            }
            let message = format!("the index lists what did not come: {}", names(&missing));
            return condition(false, "DocumentMissing", message);
        }
        let unseen: Vec<&PodKey> =
            self.pods.iter().filter(|(_, pod)| pod.is_unseen(conn)).map(|(key, _)| key).collect();
        if unseen.is_empty() {
            return condition(true, "Synced", String::new());
        }
        let message = format!("accepted, and not at the broker any more: {}", names(&unseen));
        condition(false, "DesiredMissing", message)
    }

    fn missing(&self) -> Vec<&PodKey> {
        let Some(index) = self.desired.newest() else { return vec![] };
        let has = |key: &PodKey, generation: u64| {
            let listed = Version { epoch: index.version.epoch, generation };
            let line =
                self.pods.get(key).and_then(|pod| pod.record.stored().lines.get(&Scope::Node));
            line.is_some_and(|line| line.revision.version >= listed && line.release.is_some())
        };
        index.pods.iter().filter(|(key, e)| !has(key, e.generation)).map(|(key, _)| key).collect()
    }

    /// A refusal of something that is not about one pod.
    pub(super) fn refuse_node(&mut self, kind: PayloadType, message: &[u8], refusal: Refusal) {
        let what = if kind == PayloadType::Trust { "trust document" } else { "index" };
        // Its publisher knows it by the payload's digest.
        let digest = Envelope::open(message, kind).map_or_else(|_| digest(message), |e| e.digest());
        let status = RefusedStatus {
            version: None,
            digest,
            reason: refusal.reason,
            message: format!("{what}: {}", refusal.message),
            errors: refusal.causes,
        };
        if self.refused_node.as_ref() != Some(&status) {
            self.tell_refusal(None, refusal.reason.as_str(), status.message.clone());
            self.refused_node = Some(status);
            self.outbox.soon(Subject::Node);
        }
    }

    /// Marks of deleted pods that are too many.
    fn surplus(&self) -> Vec<(PodKey, Floor)> {
        let marks = self.pods.iter().filter(|(_, pod)| pod.is_only_mark());
        if marks.clone().count() <= MARKS_MAX {
            return vec![];
        }
        surplus(marks.map(|(key, pod)| (key.clone(), pod.floor())).collect(), MARKS_MAX)
    }

    /// Too many marks of deleted pods: some are to become floors.
    pub(super) fn bound_marks(&mut self) {
        let surplus = self.surplus();
        if surplus.is_empty() {
            return;
        }
        for (key, floor) in surplus {
            raise(&mut self.node.want.floors, &key.namespace, floor);
        }
        // Where they are high enough already, nothing is written, and nothing will call back.
        self.floor_durable();
    }

    /// The floors are durable: the marks below them can go.
    pub(super) fn floor_durable(&mut self) {
        for (key, floor) in self.surplus() {
            if self.node.stored().floors.of(&key.namespace) >= Some(floor)
                && let Some(pod) = self.pods.get_mut(&key)
            {
                pod.record.want = super::PodRecord::default();
            }
        }
    }

    /// Whether a document about a pod without a mark could be one that was deleted and forgotten.
    pub(super) fn judge_by_floor(&self, release: &Release) -> Result<(), Refusal> {
        let of_it = Floor { epoch: release.revision.version.epoch, issued_ms: release.issued_ms };
        match self.node.want.floors.of(&release.key.namespace) {
            Some(floor) if of_it <= floor => Err(Refusal::new(
                Reason::Stale,
                "it was signed no later than a deletion that is remembered only by its time: sign it anew",
            )),
            _ => Ok(()),
        }
    }
}

fn names(keys: &[&PodKey]) -> String {
    let mut text =
        keys.iter().take(NAMES_MAX).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let Some(more) = keys.len().checked_sub(NAMES_MAX).filter(|n| *n > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
