//! What the core is told, and what it wants done: the whole surface between it and the shell.
//!
//! Owns: [`Input`], [`Output`], [`Config`]. Not: any decision. The shell does every output in the order in which it stands,
//! may do different ones side by side, and reports what its description says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::cause::Refusal;
use crate::mqtt::command::{Outcome, Task, Verb};
use crate::mqtt::intent::{Delta, Release};
use crate::mqtt::signature::Signer;
use crate::mqtt::status::{Capabilities, Condition, ContainerStatus};
use crate::mqtt::topic::Topics;
use crate::mqtt::trust::Trust;
use crate::spec::PodKey;

/// Everything the core must know before it begins.
#[derive(Clone, Debug)]
pub struct Config {
    pub topics: Topics,
    /// Groups this node is in; earlier ones lead. See [`crate::mqtt::topic::check_groups`].
    pub groups: Vec<Arc<str>>,
    /// The node's labels, for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// The local anchors with their mode; a document adopted earlier comes from the records.
    pub trust: Trust,
    /// Commands that are allowed.
    pub verbs: BTreeSet<Verb>,
    pub capabilities: Capabilities,
    /// Signs what the node says; without, it is unsigned.
    pub signer: Option<Signer>,
    /// Names this life of the daemon; random.
    pub boot: String,
    /// Version of the program.
    pub version: String,
    /// When the program was built, milliseconds since 1970: no clock may be earlier.
    pub built_ms: i64,
    /// The daemon has died several times within minutes: pods that were being tried are held or taken back.
    pub safe_mode: bool,
    pub timing: Timing,
}

/// The protocol's own times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Least time between two statuses of one subject.
    pub coalesce: Duration,
    /// How often the node's status is published though nothing changes; zero: never.
    pub heartbeat: Duration,
    /// How long after subscribing the index may take before it counts as missing.
    pub sync_wait: Duration,
    /// How long the broker may take to grant a subscription.
    pub subscribe_wait: Duration,
    /// First and longest wait before a failed write is tried again.
    pub retry: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            coalesce: Duration::from_secs(1),
            heartbeat: Duration::from_secs(15 * 60),
            sync_wait: Duration::from_secs(10),
            subscribe_wait: Duration::from_secs(30),
            retry: (Duration::from_secs(1), Duration::from_secs(300)),
        }
    }
}

/// What was there before this life of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Every record of this source that the store holds, as it was persisted.
    pub records: Vec<(RecordName, Bytes)>,
    /// Digests that the image store holds.
    pub present: BTreeSet<Digest>,
}

/// Names one write, one admission; the answer carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names one thing handed to the runtime, so that news of an earlier one of the same pod is told apart. Not kept over a
/// restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub u64);

/// A durable record of this source. At most one write of a record is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordName {
    /// Marks and counters of the node.
    Node,
    /// The trust document in force.
    Trust,
    /// A pod's documents, marks, attempts.
    Pod(PodKey),
}

/// A message to publish, QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub topic: String,
    pub payload: Bytes,
    /// A retained one replaces an earlier one of its topic that has not been sent yet.
    pub retain: bool,
}

/// A message to publish, but for its signature. That is made when the message goes out ([`Draft::ready`]), and of what is replaced
/// before that, never: a signature takes as long as a thousand ordinary things that a node does, and on a new connection a thousand
/// statuses are said in one step. So the pace of the broker's acknowledgements is the pace of signing.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Without its signature, as long as there is a signer.
    publish: Publish,
    /// Who is to sign, and from which byte on the topic is signed, too.
    signer: Option<(Signer, usize)>,
}

impl Draft {
    /// A message that `signer` signs with the part of its topic that begins at `from`.
    #[must_use]
    pub fn new(publish: Publish, signer: Option<(Signer, usize)>) -> Self {
        Self { publish, signer }
    }

    #[must_use]
    pub fn topic(&self) -> &str {
        &self.publish.topic
    }

    #[must_use]
    pub fn retain(&self) -> bool {
        self.publish.retain
    }

    /// Whether its signature is there, if it is to have one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.signer.is_none()
    }

    /// The message as it goes out. It is signed the first time.
    pub fn ready(&mut self) -> &Publish {
        let Publish { topic, payload, .. } = &mut self.publish;
        if let Some((signer, from)) = self.signer.take() {
            let covered = topic.get(from..).unwrap_or(topic);
            *payload = signer.sign(covered, std::mem::take(payload).into()).into();
        }
        &self.publish
    }

    /// The same, where nothing else is to become of it.
    #[must_use]
    pub fn signed(mut self) -> Publish {
        self.ready();
        self.publish
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The shell is about to connect. Answered, now or later, by one [`Output::Connect`].
    Dial,
    /// CONNACK came: the connection of the last [`Output::Connect`] is up.
    Connected,
    /// It is not, or not any more. Everything not sent yet is forgotten by the shell.
    Disconnected {
        why: String,
        /// Another client has taken this one's identity (0x8E).
        taken_over: bool,
    },
    /// SUBACK came, one result for each filter of [`Output::Subscribe`], in order: the reason if it was refused.
    Subscribed { results: Vec<(String, Result<(), String>)> },
    /// A message. Blocks of artifacts need not be handed in.
    Message { topic: String, payload: Bytes, retained: bool },
    /// A message was lost on the way in (a full queue, one that is too large).
    Missed,
    /// The broker refused to take a message: the reason of its PUBACK.
    PublishRefused { topic: String, why: String },
    /// The end of one [`Output::Persist`].
    Persisted { ticket: Ticket, result: Result<(), String> },
    /// The end of one [`Output::Admit`], or why the pod cannot run here (`Invalid` with all causes, `SourceConflict`,
    /// `TooManyPods`).
    Admitted { ticket: Ticket, result: Result<Admission, Refusal> },
    /// The runtime could not take what [`Output::Apply`] gave it: nothing of it runs.
    NotApplied { instance: Instance, refusal: Refusal },
    /// How an applied pod is. Tell every change; equal ones cost nothing.
    Pod { instance: Instance, report: PodReport },
    /// What stood in the way may be gone: a name came free, the configuration changed.
    Reconsider,
    /// Bytes of an artifact that are there.
    Progress { digest: Digest, bytes: u64 },
    /// The end of one [`Output::Fetch`]: it is in the image store with this digest, or it cannot be got.
    Fetched { digest: Digest, result: Result<(), FetchFailure> },
    /// A part of a command's answer. At most [`crate::mqtt::command::PIECE_BYTES_MAX`]; more is cut up.
    Answer { id: String, content: Bytes },
    /// A command is done.
    Answered { id: String, outcome: Outcome },
    /// Whether the wall clock can be believed (a time service says so).
    Clock { synced: bool },
    /// Conditions of the node that others found (disk pressure, duplicate client, …); replaces those told before.
    NodeConditions(Vec<Condition>),
    /// The time of the last [`Output::WakeAt`] has come; harmless at any time.
    Tick,
    /// The daemon ends: say goodbye.
    Stop,
}

/// A pod that can run here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// What its author should know.
    pub warnings: Vec<String>,
    /// Those of its artifacts that are in the image store already.
    pub present: Vec<Digest>,
}

/// Why an artifact cannot be got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFailure {
    /// `NoSpace`, `DigestMismatch`, `NotFound`, …: one word.
    pub reason: String,
    pub message: String,
    /// Whether another try later may help. If so, the fetcher is asked again, within the stage's deadline.
    pub transient: bool,
}

/// A pod as the runtime has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodReport {
    pub phase: PodPhase,
    /// Condition `Ready`.
    pub ready: bool,
    /// All containers have been started.
    pub started: bool,
    pub conditions: Vec<Condition>,
    pub containers: Vec<ContainerStatus>,
    /// Why it is as it is, where something is wrong.
    pub message: String,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodPhase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl PodPhase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Connect with this last will; answer [`Input::Connected`] or [`Input::Disconnected`].
    Connect {
        conn: u64,
        will: Publish,
    },
    /// Subscribe with QoS 1 and retain handling 0, so that everything retained comes (again).
    Subscribe {
        filters: Vec<String>,
    },
    Publish(Draft),
    /// Send what is queued, wait shortly for its acknowledgement, then leave.
    Disconnect,
    /// Make a record durable (`Some`) or remove it (`None`); answer [`Input::Persisted`] once it is certain.
    Persist {
        ticket: Ticket,
        record: RecordName,
        content: Option<Bytes>,
    },
    /// Can this run here? The manifest strictly parsed, defaulted, validated for source MQTT, its name and namespace those of
    /// the release, its images all among the artifacts or by digest, its name not owned by another source. Changes nothing.
    Admit {
        ticket: Ticket,
        release: Arc<Release>,
    },
    /// Run this under its name, in place of the instance before; ports that both publish are kept. What runs already goes on
    /// under the new instance. `recreate`: the uid is another one, so that pod-local volumes go.
    Apply {
        instance: Instance,
        release: Arc<Release>,
        recreate: bool,
    },
    /// End the pod of that name.
    Remove {
        key: PodKey,
        instance: Instance,
    },
    /// Get an artifact into the image store; answer [`Input::Progress`] now and then, and [`Input::Fetched`] once; at once if
    /// it is there. One at a time for each digest.
    Fetch {
        digest: Digest,
        size: u64,
        media_type: String,
        sources: Vec<String>,
        deltas: Vec<Delta>,
    },
    /// Nobody wants it any more; what is there may be kept for later.
    CancelFetch {
        digest: Digest,
    },
    /// Carry out a command; [`Input::Answer`] in order, then [`Input::Answered`].
    Run {
        id: String,
        task: Task,
    },
    /// It has taken too long, or has said too much: stop it. No answer is expected.
    Abort {
        id: String,
    },
    /// Something happened that a person wants to know: a log line, and a Kubernetes Event of that pod.
    Event {
        pod: Option<PodKey>,
        warning: bool,
        reason: &'static str,
        message: String,
    },
    /// Hand in [`Input::Tick`] then; replaces the one before. `None`: there is nothing to wait for.
    WakeAt(Option<Timestamp>),
}
