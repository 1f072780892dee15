//! One pod, as this source knows it: its documents, which of them leads, what is handed to the runtime.
//!
//! Owns: the choice among scopes, what a changed line does to the rollout's record. Not: the way of a document to running
//! (`rollout`), nor messages (`intake`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::durable::Durable;
use super::io::{Config, Instance, PodReport, Ticket};
use super::rollout::Way;
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::intent::Release;
use crate::mqtt::record::{Floor, Line, PodRecord, Rollout};
use crate::mqtt::status::{RefusedStatus, RolloutStatus, Stage};
use crate::mqtt::topic::Scope;
use crate::mqtt::version::Revision;

/// A document that is being looked at by the reconciler.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) ticket: Ticket,
    pub(super) release: Arc<Release>,
    /// The last one that came meanwhile and is no newer: it counts if this one does not.
    pub(super) next: Option<Arc<Release>>,
}

/// What was handed to the runtime.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) instance: Instance,
    pub(super) release: Arc<Release>,
    /// The runtime could not take it.
    pub(super) refusal: Option<Refusal>,
    pub(super) report: PodReport,
}

/// See the header.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) record: Durable<PodRecord>,
    /// A deletion did not fit on the disk: the record goes before its mark is written.
    pub(super) remove_first: bool,
    pub(super) incoming: BTreeMap<Scope, Incoming>,
    /// The last refusal of each scope, since the last acceptance.
    pub(super) refused: BTreeMap<Scope, RefusedStatus>,
    /// On which connection the accepted document was last seen.
    pub(super) seen: BTreeMap<Scope, u64>,
    pub(super) warnings: BTreeMap<Scope, Vec<String>>,
    pub(super) way: Option<Way>,
    /// Which document's try is counted in this life of the daemon.
    pub(super) tried: Option<(Scope, Revision)>,
    pub(super) applied: Option<Applied>,
    pub(super) previous: Option<RolloutStatus>,
}

impl Pod {
    pub(super) fn restored(record: PodRecord) -> Self {
        Self {
            record: Durable::new(record),
            remove_first: false,
            incoming: BTreeMap::new(),
            refused: BTreeMap::new(),
            seen: BTreeMap::new(),
            warnings: BTreeMap::new(),
            way: None,
            tried: None,
            applied: None,
            previous: None,
        }
    }

    pub(super) fn stranger() -> Self {
        Self::restored(PodRecord::default())
    }

    /// Nothing was ever accepted, and nothing is about to be.
    pub(super) fn is_stranger(&self) -> bool {
        self.record.want.lines.is_empty()
            && self.record.stored().lines.is_empty()
            && self.incoming.is_empty()
    }

    /// Only marks of deleted documents are left, here and on disk.
    pub(super) fn is_only_mark(&self) -> bool {
        !self.record.want.lines.is_empty()
            && self.record.want.is_deleted()
            && self.record.stored().is_deleted()
            && self.record.is_idle()
            && self.incoming.is_empty()
            && self.applied.is_none()
    }

    /// The newest of its marks.
    pub(super) fn floor(&self) -> Floor {
        let of_line =
            |line: &Line| Floor { epoch: line.revision.version.epoch, issued_ms: line.issued_ms };
        let none = Floor { epoch: 0, issued_ms: i64::MIN };
        self.record.want.lines.values().map(of_line).max().unwrap_or(none)
    }

    /// Whether a try of this document was counted in this life of the daemon.
    pub(super) fn is_tried(&self, release: &Release) -> bool {
        let same = |(scope, revision): &(Scope, Revision)| {
            *scope == release.scope && *revision == release.revision
        };
        self.tried.as_ref().is_some_and(same)
    }

    /// An accepted document has not come on this connection.
    pub(super) fn is_unseen(&self, conn: u64) -> bool {
        self.record
            .stored()
            .lines
            .iter()
            .any(|(scope, line)| line.release.is_some() && self.seen.get(scope) != Some(&conn))
    }

    pub(super) fn refused_by_index(&self) -> bool {
        let by_index = |refused: &RefusedStatus| {
            matches!(
                refused.reason,
                Reason::NotInIndex | Reason::Stale | Reason::GenerationConflict
            )
        };
        self.refused.values().any(by_index)
    }

    /// Digests of everything that is, or may come to be, run.
    pub(super) fn digests(&self) -> BTreeSet<Digest> {
        let of = |record: &PodRecord| {
            let lines = record.lines.values().filter_map(|line| line.release.clone());
            lines.chain(record.good.clone()).collect::<Vec<_>>()
        };
        let incoming = self.incoming.values().map(|incoming| Arc::clone(&incoming.release));
        let applied = self.applied.iter().map(|applied| Arc::clone(&applied.release));
        let all = of(&self.record.want).into_iter().chain(of(self.record.stored()));
        all.chain(incoming).chain(applied).flat_map(|release| release.digests()).collect()
    }

    /// Bytes of payloads that are held.
    pub(super) fn bytes(&self) -> usize {
        let lines = self.record.want.lines.values().filter_map(|line| line.release.as_ref());
        let held = lines.chain(&self.record.want.good);
        let incoming = self
            .incoming
            .values()
            .flat_map(|incoming| std::iter::once(&incoming.release).chain(&incoming.next));
        held.chain(incoming).map(|release| release.payload.len()).sum()
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.wake_at().is_some_and(|at| at <= now)
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        let way = self.way.as_ref().and_then(Way::wake_at);
        way.into_iter().chain(self.record.wake_at()).min()
    }

    /// The document of a deleted scope goes; its mark stays.
    pub(super) fn delete_line(&mut self, scope: &Scope) {
        if let Some(line) = self.record.want.lines.get_mut(scope) {
            line.release = None;
        }
    }
}

/// Why a document that is there does not lead.
pub(super) fn inactive(
    record: &PodRecord,
    scope: &Scope,
    line: &Line,
    config: &Config,
) -> Option<&'static str> {
    if let Some(why) = unusable(scope, line, config) {
        return Some(why);
    }
    leading(record, config).is_some_and(|release| release.scope != *scope).then_some("Overridden")
}

fn unusable(scope: &Scope, line: &Line, config: &Config) -> Option<&'static str> {
    let release = line.release.as_ref()?;
    if let Scope::Group(group) = scope
        && !config.groups.contains(group)
    {
        return Some("NotInGroup");
    }
    if config.trust.stops(&line.keyid) {
        return Some("KeyRevoked");
    }
    let has = |(key, value): (&String, &String)| config.labels.get(key) == Some(value);
    (!release.intent.node_selector.iter().all(has)).then_some("NotSelected")
}

/// The document that counts: the node's own before those of its groups, in the order in which they are configured.
pub(super) fn leading<'r>(record: &'r PodRecord, config: &Config) -> Option<&'r Arc<Release>> {
    let groups = config.groups.iter().map(|group| Scope::Group(Arc::clone(group)));
    std::iter::once(Scope::Node).chain(groups).find_map(|scope| {
        let line = record.lines.get(&scope)?;
        if unusable(&scope, line, config).is_some() { None } else { line.release.as_ref() }
    })
}

/// After a line or the configuration has changed: is the rollout's record still about the document that leads? What was
/// committed becomes the good one to go back to; what was deleted does not.
pub(super) fn align(record: &mut PodRecord, before: Option<Arc<Release>>, config: &Config) {
    let lead = leading(record, config).cloned();
    let Some(lead) = lead else {
        (record.rollout, record.good) = (None, None);
        return;
    };
    let same = |rollout: &Rollout| rollout.scope == lead.scope && rollout.revision == lead.revision;
    if !record.rollout.as_ref().is_some_and(same) {
        record.good = before.or_else(|| record.good.take());
        let (scope, revision) = (lead.scope.clone(), lead.revision.clone());
        record.rollout = Some(Rollout { scope, revision, attempts: 0, outcome: None });
    }
    let lives = |good: &Arc<Release>| {
        let line = record.lines.get(&good.scope);
        let usable = line.is_some_and(|line| {
            line.release.is_some() && unusable(&good.scope, line, config) != Some("NotInGroup")
        });
        usable && good.revision != lead.revision && !config.trust.stops(&good.keyid)
    };
    if record.good.as_ref().is_some_and(|good| !lives(good)) {
        record.good = None;
    }
    // What the node had gone back to is deleted: nothing is left to run.
    if record.good.is_none()
        && let Some(ended) = record.rollout.as_mut().and_then(|rollout| rollout.outcome.as_mut())
        && ended.stage == Stage::RolledBack
    {
        (ended.stage, ended.held) = (Stage::Failed, true);
    }
}

/// The document whose rollout is recorded, if it was committed: what a successor can go back to.
pub(super) fn committed(record: &PodRecord) -> Option<Arc<Release>> {
    let rollout = record.rollout.as_ref()?;
    let done = rollout.outcome.as_ref().is_some_and(|ended| ended.stage == Stage::Committed);
    let line = record.lines.get(&rollout.scope)?;
    (done && line.revision == rollout.revision).then(|| line.release.clone()).flatten()
}
