//! The node's side of the protocol: one machine, fed with what happened, answering with what to do.
//!
//! Owns: every decision of `docs/mqtt.md`. Not: I/O, clocks, the manifest's rules, running pods; those are [`Input`]s and
//! [`Output`]s (`io`). One per node, owned by the MQTT source's task.
//!
//! ```text
//!  Message ─► intake: envelope, trust, target, version ─► Admit ─► the pod's record (want)
//!                                                                        │ durable
//!                                                                        ▼
//!            outbox (last value, coalesced) ◄── report ◄── rollout: Fetch ─► attempts durable ─► Apply ─► ready ─► Committed
//!                                                              └── not in time ─► Apply the last good one: RolledBack
//! ```
//!
//! Level-triggered: each step changes facts, then looks at the pods they concern and does what is missing. So a lost, repeated
//! or late message leaves nothing undone.
//!
//! Limits: `limits::PODS_MAX` pods, [`MARKS_MAX`] marks of deleted ones, [`STRANGERS_MAX`] refused names,
//! [`INTENT_BYTES_MAX`] of payloads, and those of `topic`, `envelope`, `intent`, `command`.

mod commands;
mod connection;
mod deadline;
mod desired;
mod durable;
mod intake;
pub mod io;
mod marks;
mod node;
mod outbox;
mod pods;
mod quota;
mod report;
mod rollout;
mod transfers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::record::{NodeRecord, PodRecord, TrustRecord};
use crate::mqtt::status::{Condition, RefusedStatus};
use crate::mqtt::trust::Document;
use crate::spec::PodKey;

pub use commands::COMMANDS_KEPT;
pub use io::{
    Admission, Config, Draft, FetchFailure, Input, Instance, Output, PodPhase, PodReport, Publish,
    RecordName, Restored, Ticket, Timing,
};

use commands::Commands;
use connection::Connection;
use desired::Desired;
use durable::Durable;
use node::Clocks;
use outbox::Outbox;
use pods::Pod;
use quota::{Quota, Room};
use transfers::Transfers;

/// Marks of deleted pods that are kept: as many as there may be pods. Older ones become floors (`marks`).
pub const MARKS_MAX: usize = 1024;

/// Names without any accepted document of which a refusal is remembered and shown.
pub const STRANGERS_MAX: usize = 64;

/// Names that are new among the refused ones, within a minute: what is shown of more is gone before anybody has read it.
const STRANGERS_A_MINUTE: u32 = 64;

/// Refusals that are told as Events, and in the log, within a minute. Each pod's last one stands in its status all the same.
const REFUSALS_A_MINUTE: u32 = 64;

/// Payloads of all documents together, bytes: they are in memory, beside the pods.
pub const INTENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// See the header.
#[derive(Debug)]
pub struct Protocol {
    config: Config,
    /// The instant of the current step.
    now: Timestamp,
    outputs: Vec<Output>,
    connection: Connection,
    node: Durable<NodeRecord>,
    trust: Durable<Option<TrustRecord>>,
    /// The document that `trust.want` holds, until it is durable.
    adopting: Option<Box<Document>>,
    /// The last document about the node itself that was refused.
    refused_node: Option<RefusedStatus>,
    desired: Desired,
    pods: BTreeMap<PodKey, Pod>,
    transfers: Transfers,
    commands: Commands,
    outbox: Outbox,
    clocks: Clocks,
    /// What strangers can make us say.
    strangers: Quota,
    refusals: Quota,
    /// Conditions of the node that others found.
    others: Vec<Condition>,
    tickets: u64,
    instances: u64,
    /// Counts status messages.
    seq: u64,
    woken_at: Option<Timestamp>,
}

impl Protocol {
    /// Begins with what was kept, and acts on it at once: no network is needed for the outputs of this call.
    #[must_use]
    pub fn new(now: Timestamp, config: Config, restored: Restored) -> (Self, Vec<Output>) {
        let mut protocol = Self {
            now,
            outputs: vec![],
            connection: Connection::default(),
            node: Durable::new(NodeRecord::default()),
            trust: Durable::new(None),
            adopting: None,
            refused_node: None,
            desired: Desired::default(),
            pods: BTreeMap::new(),
            transfers: Transfers::new(restored.present),
            commands: Commands::default(),
            outbox: Outbox::new(config.timing.coalesce, config.timing.heartbeat),
            clocks: Clocks::new(now, config.built_ms),
            strangers: Quota::new(STRANGERS_A_MINUTE),
            refusals: Quota::new(REFUSALS_A_MINUTE),
            others: vec![],
            tickets: 0,
            instances: 0,
            seq: 0,
            woken_at: None,
            config,
        };
        for (name, content) in restored.records {
            protocol.restore(name, &content);
        }
        protocol.connection.begin_at(protocol.node.stored().conn_reserved);
        protocol.every_pod();
        let outputs = protocol.finish();
        (protocol, outputs)
    }

    /// Takes in what happened. `now` never goes back.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        self.handle(input);
        self.timers();
        self.finish()
    }

    /// Digests that documents of this source name: what must not be collected from the image store.
    #[must_use]
    pub fn pinned(&self) -> BTreeSet<Digest> {
        self.pods.values().flat_map(Pod::digests).collect()
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Dial => self.dial(),
            Input::Connected => self.connected(),
            Input::Disconnected { why, taken_over } => self.disconnected(&why, taken_over),
            Input::Subscribed { results } => self.subscribed(results),
            Input::Message { topic, payload, retained } => self.message(&topic, &payload, retained),
            Input::Missed => self.resync(),
            Input::PublishRefused { topic, why } => self.publish_refused(&topic, &why),
            Input::Persisted { ticket, result } => self.persisted(ticket, result),
            Input::Admitted { ticket, result } => self.admitted(ticket, result),
            Input::NotApplied { instance, refusal } => self.not_applied(instance, refusal),
            Input::Pod { instance, report } => self.reported(instance, report),
            Input::Reconsider => self.reconsider(),
            Input::Progress { digest, bytes } => self.progressed(digest, bytes),
            Input::Fetched { digest, result } => self.fetched(digest, result),
            Input::Answer { id, content } => self.answer(&id, &content),
            Input::Answered { id, outcome } => self.answered(&id, outcome),
            Input::Clock { synced } => self.clock(synced),
            Input::NodeConditions(conditions) => self.node_conditions(conditions),
            // Every step looks at the clock.
            Input::Tick => {}
            Input::Stop => self.stop(),
        }
    }

    /// Does what has become due.
    fn timers(&mut self) {
        self.connection_timers();
        self.command_timers();
        self.transfer_timers();
        let due: Vec<PodKey> =
            self.pods.iter().filter(|(_, p)| p.is_due(self.now)).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.converge(&key);
        }
    }

    /// What every step ends with: writes that are due, statuses that are due, the next time to wake.
    fn finish(&mut self) -> Vec<Output> {
        self.flush();
        self.publish_due();
        let wake_at = self.wake_at();
        if wake_at != self.woken_at {
            self.woken_at = wake_at;
            self.put(Output::WakeAt(wake_at));
        }
        std::mem::take(&mut self.outputs)
    }

    fn wake_at(&self) -> Option<Timestamp> {
        let times = [
            self.connection.wake_at(),
            self.commands.wake_at(),
            self.transfers.wake_at(),
            self.outbox.wake_at().filter(|_| self.connection.is_up()),
            self.node.wake_at(),
            self.trust.wake_at(),
        ];
        let pods = self.pods.values().filter_map(Pod::wake_at);
        // What is past already was looked at in this step, and waits for something else.
        times.into_iter().flatten().chain(pods).filter(|at| *at > self.now).min()
    }

    /// Something that the node says: to be signed as it goes out, if there is a key for that.
    fn said(&self, topic: String, message: Vec<u8>, retain: bool) -> Draft {
        let from = topic.len() - self.config.topics.tree().below_root(&topic).len();
        let signer = self.config.signer.clone().map(|signer| (signer, from));
        Draft::new(Publish { topic, payload: message.into(), retain }, signer)
    }

    fn put(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn event(
        &mut self,
        pod: Option<&PodKey>,
        warning: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let message = crate::mqtt::cause::cut(message.into());
        self.put(Output::Event { pod: pod.cloned(), warning, reason, message });
    }

    /// An Event about something that was refused, unless there are too many of them.
    fn tell_refusal(
        &mut self,
        pod: Option<&PodKey>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        match self.refusals.take(self.now) {
            Room::Yes => self.event(pod, true, reason, message),
            Room::JustOver => {
                let message = format!(
                    "more than {REFUSALS_A_MINUTE} documents and commands were refused within a minute; the others of this minute \
                     are not told of one by one: who may publish to this node's topics?"
                );
                self.event(None, true, "RefusalsOmitted", message);
            }
            Room::No => {}
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn instance(&mut self) -> Instance {
        self.instances += 1;
        Instance(self.instances)
    }

    /// Begins every write that is due.
    fn flush(&mut self) {
        if self.node.is_due(self.now, NodeRecord::differs) {
            let mut content = self.node.want.clone();
            content.time_floor_ms = self.clocks.floor_ms();
            let bytes = Bytes::from(content.to_json());
            let ticket = self.write(RecordName::Node, Some(bytes));
            self.node.begin(ticket, content);
        }
        if self.trust.is_due(self.now, |want, stored| want != stored) {
            let content = self.trust.want.clone();
            let bytes = content.as_ref().map(|record| Bytes::from(record.to_json()));
            let ticket = self.write(RecordName::Trust, bytes);
            self.trust.begin(ticket, content);
        }
        let due: Vec<PodKey> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.record.is_due(self.now, |want, stored| want != stored))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.flush_pod(&key);
        }
    }

    fn flush_pod(&mut self, key: &PodKey) {
        let Some(pod) = self.pods.get_mut(key) else { return };
        // A deletion must work on a full disk: what is there goes first, and makes room for its mark.
        let content = if pod.remove_first { PodRecord::default() } else { pod.record.want.clone() };
        let bytes = (!content.lines.is_empty()).then(|| Bytes::from(content.to_json(key)));
        let ticket = self.write(RecordName::Pod(key.clone()), bytes);
        if let Some(pod) = self.pods.get_mut(key) {
            pod.record.begin(ticket, content);
        }
    }

    fn write(&mut self, record: RecordName, content: Option<Bytes>) -> Ticket {
        let ticket = self.ticket();
        self.put(Output::Persist { ticket, record, content });
        ticket
    }

    fn persisted(&mut self, ticket: Ticket, result: Result<(), String>) {
        if self.node.is_writing(ticket) {
            self.node_persisted(result);
        } else if self.trust.is_writing(ticket) {
            self.trust_persisted(result);
        } else if let Some(key) =
            self.pods.iter().find(|(_, p)| p.record.is_writing(ticket)).map(|(k, _)| k.clone())
        {
            self.pod_persisted(&key, result);
        }
    }

    fn pod_persisted(&mut self, key: &PodKey, result: Result<(), String>) {
        let retry = self.config.timing.retry;
        let Some(pod) = self.pods.get_mut(key) else { return };
        let had_failed = pod.record.failure().is_some();
        let done = pod.record.end(self.now, result, retry);
        if done {
            pod.remove_first = false;
        } else if pod.record.want.is_deleted()
            && !pod.record.stored().is_deleted()
            && !pod.remove_first
        {
            pod.remove_first = true;
            pod.record.hurry();
        }
        let why = pod.record.failure().map(str::to_owned);
        match why {
            None => {
                let pinned = self.pinned();
                self.transfers.keep(&pinned);
            }
            Some(why) if !had_failed => self.event(Some(key), true, "StorageFailed", why),
            Some(_) => {}
        }
        self.outbox.soon(outbox::Subject::Pod(key.clone()));
        self.outbox.soon(outbox::Subject::Node);
        self.converge(key);
        self.bound_marks();
    }

    fn every_pod(&mut self) {
        let keys: Vec<PodKey> = self.pods.keys().cloned().collect();
        for key in keys {
            self.converge(&key);
        }
    }

    fn restore(&mut self, name: RecordName, content: &[u8]) {
        let problem = match &name {
            RecordName::Node => NodeRecord::from_json(content).map(|record| {
                self.clocks.raise(record.time_floor_ms);
                self.node = Durable::new(record);
            }),
            RecordName::Trust => {
                TrustRecord::from_json(content).map(|record| self.restore_trust(record))
            }
            RecordName::Pod(key) => PodRecord::from_json(content, key).map(|record| {
                self.pods.insert(key.clone(), Pod::restored(record));
            }),
        };
        if let Err(error) = problem {
            let pod = match &name {
                RecordName::Pod(key) => Some(key.clone()),
                RecordName::Node | RecordName::Trust => None,
            };
            let message = format!("a record is not used: {}", crate::error::chain(&error));
            self.event(pod.as_ref(), true, "RecordUnreadable", message);
        }
    }
}

/// Ids and digests of a release, as the core compares them.
fn same(a: &Arc<crate::mqtt::intent::Release>, b: &Arc<crate::mqtt::intent::Release>) -> bool {
    a.scope == b.scope && a.revision == b.revision
}
