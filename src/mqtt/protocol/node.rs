//! What the node itself remembers: its counters and marks, the trust in force, the earliest time that can be.
//!
//! Owns: what follows when those are durable, trust documents, [`Clocks`]. Not: the index (`desired`).

use super::Protocol;
use super::outbox::Subject;
use crate::clock::Timestamp;
use crate::mqtt::cause::Refusal;
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::record::TrustRecord;
use crate::mqtt::trust::{Adoption, Document, Mode};

/// The latest time that a signature may make us believe in: year 3000. Later ones are rubbish, and would hide every clock.
const TIME_MAX_MS: i64 = 32_503_680_000_000;

/// What is known of the time.
#[derive(Debug)]
pub(super) struct Clocks {
    started: Timestamp,
    floor_ms: i64,
    pub(super) synced: bool,
}

impl Clocks {
    pub(super) fn new(started: Timestamp, built_ms: i64) -> Self {
        Self { started, floor_ms: built_ms, synced: false }
    }

    pub(super) fn raise(&mut self, ms: i64) {
        if ms <= TIME_MAX_MS {
            self.floor_ms = self.floor_ms.max(ms);
        }
    }

    pub(super) fn floor_ms(&self) -> i64 {
        self.floor_ms
    }

    pub(super) fn uptime_ms(&self, now: Timestamp) -> u64 {
        u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// The wall clock, if it can be right.
    pub(super) fn wall_ms(&self, now: Timestamp) -> Option<i64> {
        (now.wall_ms() >= self.floor_ms).then_some(now.wall_ms())
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
                // The envelope is JSON that was read as such, so it is text.
                let text = String::from_utf8_lossy(payload).into_owned();
                self.trust.want = Some(TrustRecord::new(self.config.trust.anchor_digest(), text));
                self.adopting = Some(document);
            }
            Err(refusal) => self.refuse_node(PayloadType::Trust, payload, refusal),
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
