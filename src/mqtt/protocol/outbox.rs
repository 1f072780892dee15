//! Which statuses are due: one slot for each subject, the last value wins.
//!
//! Owns: coalescing, the heartbeat, leaving out what would say the same again. Not: what a status says (`report`), nor sending.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::io::{Draft, Output, Publish};
use super::{MARKS_MAX, Protocol};
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::envelope::digest;
use crate::spec::PodKey;

/// Progress of a transfer is told this many times less often than other news: on a slow link it would be the traffic.
const LATER: u32 = 10;

/// Topics that wait to be cleared: as many as there may be marks. They wait while nothing can be said, and whoever names them may be
/// anybody, so more are left at the broker as they are.
const CLEAR_MAX: usize = MARKS_MAX;

/// Of whom a status speaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Node,
    Pod(PodKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Later,
    Soon,
    /// Even if it says the same as before: it answers a message.
    Forced,
}

#[derive(Debug, Default)]
struct Slot {
    due: Option<Urgency>,
    published: Option<Timestamp>,
    /// When it was put together and said nothing new. Of the node's alone, which is made of all pods: each of their news is a reason to look.
    looked: Option<Timestamp>,
    /// What the last one said on this connection, stamps apart.
    said: Option<Digest>,
}

impl Slot {
    fn at(&self, coalesce: Duration) -> Option<Timestamp> {
        let wait = if self.due? == Urgency::Later { coalesce * LATER } else { coalesce };
        // Never published: at once, which is any time that has passed.
        let last = self.published.max(self.looked);
        Some(last.map_or(Timestamp::simulated(Duration::ZERO), |at| at.plus(wait)))
    }
}

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    slots: BTreeMap<Subject, Slot>,
    /// Topics of pods that are forgotten: what is retained there must go.
    clear: BTreeSet<PodKey>,
    coalesce: Duration,
    heartbeat: Duration,
}

impl Outbox {
    pub(super) fn new(coalesce: Duration, heartbeat: Duration) -> Self {
        Self { coalesce, heartbeat, ..Self::default() }
    }

    pub(super) fn soon(&mut self, subject: Subject) {
        self.mark(subject, Urgency::Soon);
    }

    pub(super) fn later(&mut self, subject: Subject) {
        self.mark(subject, Urgency::Later);
    }

    pub(super) fn force(&mut self, subject: Subject) {
        self.mark(subject, Urgency::Forced);
    }

    fn mark(&mut self, subject: Subject, urgency: Urgency) {
        let slot = self.slots.entry(subject).or_default();
        let rank = |urgency: Urgency| urgency as u8;
        if slot.due.is_none_or(|due| rank(due) < rank(urgency)) {
            slot.due = Some(urgency);
        }
    }

    /// A new connection: everything is said again, at once.
    pub(super) fn everything<'k>(&mut self, pods: impl Iterator<Item = &'k PodKey>) {
        let pods = pods.cloned().map(Subject::Pod);
        for subject in std::iter::once(Subject::Node).chain(pods) {
            self.slots.insert(subject, Slot { due: Some(Urgency::Forced), ..Slot::default() });
        }
    }

    /// The connection is gone, and with it what was said on it.
    pub(super) fn forget(&mut self) {
        for slot in self.slots.values_mut() {
            (slot.said, slot.published, slot.looked) = (None, None, None);
        }
    }

    /// A pod of which nothing is known any more.
    pub(super) fn clear(&mut self, key: &PodKey) {
        self.slots.remove(&Subject::Pod(key.clone()));
        if self.clear.len() < CLEAR_MAX {
            self.clear.insert(key.clone());
        }
    }

    fn heartbeat_at(&self) -> Option<Timestamp> {
        let node = self.slots.get(&Subject::Node)?;
        node.published.filter(|_| !self.heartbeat.is_zero()).map(|at| at.plus(self.heartbeat))
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        let slots = self.slots.values().filter_map(|slot| slot.at(self.coalesce));
        slots.chain(self.heartbeat_at()).min()
    }
}

impl Protocol {
    /// Publishes what is due, while the connection is up.
    pub(super) fn publish_due(&mut self) {
        if !self.connection.is_up() {
            return;
        }
        for key in std::mem::take(&mut self.outbox.clear) {
            let known = self.pods.contains_key(&key);
            if let (false, Ok(topic)) = (known, self.config.topics.pod_status(&key)) {
                // Nobody's word: there is nothing to sign.
                let empty = Publish { topic, payload: Bytes::new(), retain: true };
                self.put(Output::Publish(Draft::new(empty, None)));
            }
        }
        if self.outbox.heartbeat_at().is_some_and(|at| at <= self.now) {
            self.outbox.force(Subject::Node);
        }
        let coalesce = self.outbox.coalesce;
        let is_due = |slot: &Slot| slot.at(coalesce).is_some_and(|at| at <= self.now);
        let due: Vec<Subject> = self
            .outbox
            .slots
            .iter()
            .filter(|(_, slot)| is_due(slot))
            .map(|(s, _)| s.clone())
            .collect();
        for subject in due {
            self.publish_status(&subject);
        }
    }

    fn publish_status(&mut self, subject: &Subject) {
        let spoken = match subject {
            Subject::Node => Some((self.config.topics.node_status(), self.node_status())),
            Subject::Pod(key) => {
                let topic = self.config.topics.pod_status(key).ok();
                topic.zip(self.pods.get(key).map(|pod| self.pod_status(key, pod)))
            }
        };
        let Some((topic, content)) = spoken else {
            self.outbox.slots.remove(subject);
            return;
        };
        let said = digest(&content.lasting);
        let Some(slot) = self.outbox.slots.get_mut(subject) else { return };
        let forced = slot.due.take() == Some(Urgency::Forced);
        if !forced && slot.said == Some(said) {
            slot.looked = (*subject == Subject::Node).then_some(self.now);
            return;
        }
        (slot.said, slot.published) = (Some(said), Some(self.now));
        self.seq += 1;
        let payload = content.stamped(self.stamp());
        self.put(Output::Publish(self.said(topic, payload, true)));
    }
}
