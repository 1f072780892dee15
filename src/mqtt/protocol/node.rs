//! What the node itself remembers: its counters and marks, the trust in force, the earliest time that can be.
//!
//! Owns: what follows when those are durable, trust documents, [`Clocks`]. Not: the index (`desired`).

use super::Protocol;
use super::outbox::Subject;
use crate::clock::Timestamp;
use crate::limits::PROGRAM_LIFE_MS;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::record::TrustRecord;
use crate::mqtt::trust::{Adoption, Document, Mode};
use crate::mqtt::version::{Order, Version, compare};

/// What is known of the time.
#[derive(Debug)]
pub(super) struct Clocks {
    started: Timestamp,
    /// When the program was made.
    built_ms: i64,
    floor_ms: i64,
    /// The latest time that a signature may make us believe in.
    latest_ms: i64,
    pub(super) synced: bool,
}

impl Clocks {
    pub(super) fn new(started: Timestamp, built_ms: i64) -> Self {
        let latest_ms = built_ms.saturating_add(PROGRAM_LIFE_MS);
        Self { started, built_ms, floor_ms: built_ms, latest_ms, synced: false }
    }

    pub(super) fn raise(&mut self, ms: i64) {
        if ms <= self.latest_ms {
            self.floor_ms = self.floor_ms.max(ms);
        }
    }

    pub(super) fn floor_ms(&self) -> i64 {
        self.floor_ms
    }

    pub(super) fn uptime_ms(&self, now: Timestamp) -> u64 {
        u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// The wall clock, if it can be right. Where a time service vouches for it, somebody has signed with a clock that runs ahead: that must
    /// not leave this node without a time until then.
    pub(super) fn wall_ms(&self, now: Timestamp) -> Option<i64> {
        let is_possible =
            now.wall_ms() >= self.floor_ms || (self.synced && now.wall_ms() >= self.built_ms);
        is_possible.then_some(now.wall_ms())
    }
}

impl Protocol {
    pub(super) fn node_persisted(&mut self, result: Result<(), String>) {
        let (retry, had_failed) = (self.config.timing.retry, self.node.failure().is_some());
        if self.node.end(self.now, result, retry) {
            self.index_durable();
            self.floor_durable();
        } else if !had_failed {
            let why = self.node.failure().unwrap_or_default().to_owned();
            self.event(None, true, "StorageFailed", why);
        }
        self.dial_on();
        self.outbox.soon(Subject::Node);
    }

    /// A trust document has arrived.
    pub(super) fn trust_message(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        let judged = Envelope::open(payload, PayloadType::Trust)
            .map_err(Refusal::from)
            .and_then(|envelope| self.config.trust.judge(&envelope, self.config.topics.tenant()));
        match judged {
            Ok(Adoption::Same) => {}
            Ok(Adoption::Newer(document)) => {
                if let Some(order) = self.compared_with_coming(&document) {
                    if let Err(refusal) = order {
                        self.refuse_node(PayloadType::Trust, payload, refusal);
                    }
                    return;
                }
                // The envelope is JSON that was read as such, so it is text.
                let text = String::from_utf8_lossy(payload).into_owned();
                self.trust.want = Some(TrustRecord::new(self.config.trust.anchor_digest(), text));
                self.adopting = Some(document);
            }
            Err(refusal) => self.refuse_node(PayloadType::Trust, payload, refusal),
        }
    }

    /// What is said to a document that is no newer than the one that is on its way to the disk: that may be there already, and what is
    /// there only moves forward. `None`: it is newer.
    fn compared_with_coming(&self, document: &Document) -> Option<Result<(), Refusal>> {
        let coming = self.adopting.as_ref()?;
        let version = |of: &Document| Version { epoch: 0, generation: of.version };
        let mark = Some((version(coming), coming.digest));
        let refused = |reason, what: &str| {
            let message = format!("{what} version {} is about to be in force", coming.version);
            Some(Err(Refusal::new(reason, message)))
        };
        match compare(mark, version(document), document.digest) {
            Order::Newer => None,
            Order::Same => Some(Ok(())),
            Order::Stale => refused(Reason::Stale, "trust document"),
            Order::Conflict => refused(Reason::GenerationConflict, "another document of"),
        }
    }

    pub(super) fn trust_persisted(&mut self, result: Result<(), String>) {
        let (retry, had_failed) = (self.config.timing.retry, self.trust.failure().is_some());
        if !self.trust.end(self.now, result, retry) {
            if !had_failed {
                let why = self.trust.failure().unwrap_or_default().to_owned();
                self.event(None, true, "StorageFailed", why);
            }
            return;
        }
        // A still newer one may have come meanwhile: it is written next, and adopted then.
        if self.trust.stored() == &self.trust.want
            && let Some(document) = self.adopting.take()
        {
            self.adopt(*document);
        }
    }

    fn adopt(&mut self, document: Document) {
        let message = format!("trust document {} of epoch {}", document.version, document.epoch);
        self.clocks.raise(document.issued_ms);
        self.config.trust.adopt(document);
        self.event(None, false, "TrustAdopted", message);
        self.refused_node = None;
        self.outbox.soon(Subject::Node);
        // What was refused for want of a key may be right now; what a revoked key signed may have to end.
        self.resync();
        self.every_pod();
    }

    pub(super) fn restore_trust(&mut self, record: TrustRecord) {
        if self.config.trust.mode() == Mode::Off {
            return;
        }
        let restored = Envelope::open(record.envelope.as_bytes(), PayloadType::Trust)
            .map_err(Refusal::from)
            .and_then(|envelope| {
                let tenant = self.config.topics.tenant();
                self.config.trust.restore(&envelope, record.anchor, tenant)
            });
        match restored {
            Ok(()) => self.trust = super::Durable::new(Some(record)),
            Err(Refusal { message, .. }) => {
                let message = format!(
                    "the trust document adopted earlier does not count under the configuration of now: {message}"
                );
                self.event(None, true, "TrustDropped", message);
            }
        }
    }
}
