//! The world round one node, and what must hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::controller::{self, Message, SecretKey};
use crate::mqtt::intent::{Artifact, Manifest, PodIntent, Release, RolloutPolicy, time_text};
use crate::mqtt::kit;
use crate::mqtt::protocol::rollout::ATTEMPTS_MAX;
use crate::mqtt::protocol::{
    Admission, Config, FetchFailure, Input, Instance, Output, PodPhase, PodReport, Protocol,
    Publish, RecordName, Restored, Ticket,
};
use crate::mqtt::record::PodRecord;
use crate::mqtt::status::{PodStatus, Stage};
use crate::mqtt::topic::{Outbound, Scope};
use crate::mqtt::version::Version;
use crate::spec::PodKey;

const PODS: [&str; 3] = ["a", "b", "c"];
const MODULES: [&str; 2] = ["one", "two"];

/// Something that happens. Numbers choose among what there is, modulo.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// A controller publishes a new generation.
    Intent {
        who: u8,
        pod: u8,
        how: u8,
    },
    Tombstone {
        who: u8,
        pod: u8,
    },
    /// A controller publishes another text under the generation it used last.
    Conflict {
        who: u8,
        pod: u8,
    },
    /// A controller publishes an index of some of its pods.
    Index {
        who: u8,
        mask: u8,
    },
    /// Somebody in the broker brings back a document of any time.
    Replay(u8),
    /// Somebody in the broker changes a document.
    Forge {
        which: u8,
        how: u8,
    },
    /// The root changes which keys are trusted.
    Trust(u8),
    /// The broker loses everything.
    Wipe,
    /// A retained message goes.
    Withdraw(u8),
    Connect,
    /// The link breaks; this many of the messages on their way up still arrive.
    Cut(u8),
    /// The broker publishes the last will of a connection that has ended.
    WillFires,
    /// One of the messages on their way down arrives, out of order.
    Down(u8),
    Drop(u8),
    Repeat(u8),
    /// Some messages on their way up arrive, in order.
    Up(u8),
    /// A write ends.
    Disk {
        which: u8,
        how: u8,
    },
    Admit {
        which: u8,
        how: u8,
    },
    Fetch {
        which: u8,
        how: u8,
    },
    Report {
        pod: u8,
        how: u8,
    },
    Wait(u8),
    /// The power goes; each write under way has happened or not.
    Crash {
        survives: u8,
        how: u8,
    },
    Missed,
    Reconsider,
}

#[derive(Clone, Debug)]
struct Down {
    topic: String,
    payload: Bytes,
    retained: bool,
}

#[derive(Debug)]
struct Writing {
    ticket: Ticket,
    record: RecordName,
    content: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) config: Config,
    protocol: Protocol,
    boots: u32,
    wake_at: Option<Timestamp>,

    pub(super) disk: BTreeMap<RecordName, Bytes>,
    writes: Vec<Writing>,
    admits: Vec<(Ticket, Arc<Release>)>,
    fetches: BTreeSet<Digest>,
    images: BTreeSet<Digest>,
    pub(super) runs: BTreeMap<PodKey, (Instance, Arc<Release>)>,
    pub(super) reports: BTreeMap<PodKey, PodReport>,

    dialling: bool,
    pub(super) connected: bool,
    /// A connection that the node asked for and the link has not made.
    offered: Option<(u64, Publish)>,
    wills: Vec<Publish>,
    will: Option<Publish>,
    down: Vec<Down>,
    up: Vec<Publish>,
    pub(super) retained: BTreeMap<String, Bytes>,

    /// Everything a controller ever signed about pods.
    issued: Vec<(Message, PodIntent)>,
    generations: BTreeMap<(u8, u8), u64>,
    revisions: [u64; 2],
    pub(super) trusted: u64,
    signed_ms: i64,
    authentic: BTreeSet<Digest>,
    /// Names that somebody ever meant to delete: by a tombstone, or by an index that omits them.
    deletable: BTreeSet<PodKey>,

    /// The newest that was acknowledged.
    acknowledged: BTreeMap<(PodKey, Scope), (Version, Digest)>,
    tries: BTreeMap<(PodKey, Scope, Digest), BTreeSet<u32>>,
    conns: BTreeSet<u64>,
    node_write_failed: bool,
    pub(super) persisted: usize,
    pub(super) published: usize,
}

fn controllers() -> [SecretKey; 2] {
    [kit::controller_key(), kit::secret(2)]
}

fn config() -> Config {
    let mut config = kit::config();
    let [a, b] = controllers();
    let keys = kit::key_yaml(&a, "intent")
        + &kit::key_yaml(&b, "intent")
        + &kit::key_yaml(&kit::root_key(), "root");
    config.trust =
        crate::mqtt::trust::Trust::new(crate::mqtt::trust::Mode::Require, &[kit::anchor(&keys, 1)])
            .unwrap();
    config
}

fn pick(n: u8, len: usize) -> Option<usize> {
    (len > 0).then(|| usize::from(n) % len)
}

impl World {
    pub(super) fn new() -> Self {
        let now = Timestamp::new(Duration::from_secs(1), kit::EPOCH_MS);
        let config = config();
        let (protocol, outputs) = Protocol::new(now, config.clone(), Restored::default());
        let mut world = Self {
            now,
            config,
            protocol,
            boots: 1,
            wake_at: None,
            disk: BTreeMap::new(),
            writes: vec![],
            admits: vec![],
            fetches: BTreeSet::new(),
            images: BTreeSet::new(),
            runs: BTreeMap::new(),
            reports: BTreeMap::new(),
            dialling: false,
            connected: false,
            offered: None,
            wills: vec![],
            will: None,
            down: vec![],
            up: vec![],
            retained: BTreeMap::new(),
            issued: vec![],
            generations: BTreeMap::new(),
            revisions: [0; 2],
            trusted: 0,
            signed_ms: kit::EPOCH_MS,
            authentic: BTreeSet::new(),
            deletable: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            tries: BTreeMap::new(),
            conns: BTreeSet::new(),
            node_write_failed: false,
            persisted: 0,
            published: 0,
        };
        world.perform(outputs);
        world
    }

    pub(super) fn act(&mut self, act: &Act) {
        match *act {
            Act::Intent { who, pod, how } => self.publish_intent(who, pod, how),
            Act::Tombstone { who, pod } => self.publish_tombstone(who, pod),
            Act::Conflict { who, pod } => self.publish_conflict(who, pod),
            Act::Index { who, mask } => self.publish_index(who, mask),
            Act::Replay(n) => self.replay(n),
            Act::Forge { which, how } => self.forge(which, how),
            Act::Trust(how) => self.publish_trust(how),
            Act::Wipe => self.retained.clear(),
            Act::Withdraw(n) => self.withdraw(n),
            Act::Connect => self.connect(),
            Act::Cut(arrive) => self.cut(usize::from(arrive) % 8),
            Act::WillFires => self.will_fires(),
            Act::Down(n) => self.deliver(n, true),
            Act::Repeat(n) => self.deliver(n, false),
            Act::Drop(n) => {
                if let Some(at) = pick(n, self.down.len()) {
                    self.down.remove(at);
                    // Within a connection nothing is lost unless the link says so.
                    self.input(Input::Missed);
                }
            }
            Act::Up(n) => self.arrive(usize::from(n) % 8 + 1),
            Act::Disk { which, how } => self.write_ends(which, how % 8 != 0),
            Act::Admit { which, how } => self.admission_ends(which, how),
            Act::Fetch { which, how } => self.fetch_ends(which, how),
            Act::Report { pod, how } => self.report(pod, how),
            Act::Wait(n) => self.wait(Duration::from_secs(u64::from(n) * u64::from(n) / 50 + 1)),
            Act::Crash { survives, how } => self.crash(survives, how % 8 == 0),
            Act::Missed => self.input(Input::Missed),
            Act::Reconsider => self.input(Input::Reconsider),
        }
    }

    // The node's shell.

    pub(super) fn input(&mut self, input: Input) {
        let outputs = self.protocol.step(self.now, input);
        self.perform(outputs);
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.perform_one(output);
        }
    }

    fn perform_one(&mut self, output: Output) {
        match output {
            Output::Connect { conn, will } => {
                assert!(self.dialling, "Connect without Dial");
                self.dialling = false;
                let fresh = self.conns.last().is_none_or(|last| conn > *last);
                assert!(
                    fresh || self.node_write_failed,
                    "connection number {conn} was used before"
                );
                self.conns.insert(conn);
                self.offered = Some((conn, will));
            }
            Output::Subscribe { filters } => self.subscribe(&filters),
            Output::Publish(publish) => self.published(publish),
            Output::Disconnect => self.cut(0),
            Output::Persist { ticket, record, content } => {
                let twice = self.writes.iter().any(|w| w.record == record);
                assert!(!twice, "two writes of {record:?} at a time");
                self.persisted += 1;
                self.writes.push(Writing { ticket, record, content });
            }
            Output::Admit { ticket, release } => {
                self.check_authentic(&release);
                self.admits.push((ticket, release));
            }
            Output::Apply { instance, release, .. } => {
                self.check_apply(&release);
                self.reports.insert(release.key.clone(), PodReport::default());
                self.runs.insert(release.key.clone(), (instance, release));
            }
            Output::Remove { key, instance } => {
                assert_eq!(self.runs.remove(&key).map(|(i, _)| i), Some(instance));
                self.reports.remove(&key);
                self.check_remove(&key);
            }
            Output::Fetch { digest, .. } => {
                assert!(self.fetches.insert(digest), "two transfers of {digest}");
            }
            Output::CancelFetch { digest } => assert!(self.fetches.remove(&digest)),
            Output::WakeAt(at) => self.wake_at = at,
            Output::Run { .. } | Output::Abort { .. } | Output::Event { .. } => {}
        }
    }

    fn write_ends(&mut self, which: u8, well: bool) {
        let Some(at) = pick(which, self.writes.len()) else { return };
        let Writing { ticket, record, content } = self.writes.remove(at);
        // A removal needs no room.
        let well = well || content.is_none();
        if well {
            self.put_on_disk(&record, content);
        } else if record == RecordName::Node {
            self.node_write_failed = true;
        }
        let result = if well { Ok(()) } else { Err("no space left".to_owned()) };
        self.input(Input::Persisted { ticket, result });
    }

    /// What was accepted only moves forward, and what is deleted was meant to be.
    fn put_on_disk(&mut self, record: &RecordName, content: Option<Bytes>) {
        if let RecordName::Pod(key) = record {
            let new = content.as_deref().map(|c| PodRecord::from_json(c, key).unwrap());
            if let Some(old) = self.record(key) {
                self.check_forward(key, &old, new.as_ref());
            }
            let target = new.as_ref().and_then(|r| r.rollout.as_ref());
            let target = target.map(|r| (r.scope.clone(), r.revision.digest));
            // Tries are counted while a document leads: one that leads again begins anew, as somebody wanted it so.
            self.tries.retain(|(k, scope, digest), _| {
                k != key || target.as_ref() == Some(&(scope.clone(), *digest))
            });
            if new.is_none() {
                // On a full disk a deletion goes before its mark: the one time that a mark may be lost to a crash.
                self.acknowledged.retain(|(k, _), _| k != key);
            }
        }
        match content {
            Some(content) => self.disk.insert(record.clone(), content),
            None => self.disk.remove(record),
        };
    }

    fn check_forward(&self, key: &PodKey, old: &PodRecord, new: Option<&PodRecord>) {
        let meant = self.deletable.contains(key);
        let Some(new) = new else {
            assert!(meant, "{key}: the record goes, and nobody has deleted the pod");
            return;
        };
        for (scope, line) in &old.lines {
            let now = new.lines.get(scope).unwrap_or_else(|| panic!("{key}: {scope} is lost"));
            let (was, is) = (line.revision.version, now.revision.version);
            assert!(is >= was, "{key}: {scope} goes back from {was} to {is}");
            assert!(is > was || now.revision == line.revision, "{key}: {scope} {is} changes");
            let gone = line.release.is_some() && now.release.is_none();
            assert!(!gone || meant, "{key}: {scope} is deleted, and nobody has deleted it");
        }
    }

    pub(super) fn record(&self, key: &PodKey) -> Option<PodRecord> {
        let bytes = self.disk.get(&RecordName::Pod(key.clone()))?;
        Some(PodRecord::from_json(bytes, key).unwrap())
    }

    fn check_authentic(&self, release: &Release) {
        let digest = release.revision.digest;
        assert!(self.authentic.contains(&digest), "{}: nobody signed {digest}", release.key);
    }

    /// Durable before acted upon; tries are counted before they begin, and are not endless.
    fn check_apply(&mut self, release: &Arc<Release>) {
        self.check_authentic(release);
        let key = &release.key;
        let record = self.record(key).unwrap_or_else(|| panic!("{key} is run from nowhere"));
        let on_disk = |r: &Arc<Release>| r.scope == release.scope && r.revision == release.revision;
        let lines = record.lines.values().filter_map(|l| l.release.as_ref());
        let known = lines.chain(&record.good).any(on_disk);
        assert!(known, "{key}: {} runs, and is not on disk", release.revision.version);
        let Some(rollout) = &record.rollout else { panic!("{key} runs without a rollout") };
        let is_target = rollout.scope == release.scope && rollout.revision == release.revision;
        if is_target && rollout.outcome.is_none() {
            let id = (key.clone(), release.scope.clone(), release.revision.digest);
            let boots = self.tries.entry(id).or_default();
            boots.insert(self.boots);
            let tried = u32::try_from(boots.len()).unwrap();
            assert!(rollout.attempts >= tried, "{key}: try {tried} is not counted");
            assert!(tried <= ATTEMPTS_MAX, "{key}: tried {tried} times");
        }
    }

    fn check_remove(&self, key: &PodKey) {
        let Some(record) = self.record(key) else {
            assert!(self.deletable.contains(key), "{key} ends, and nobody has deleted it");
            return;
        };
        let held = record.rollout.as_ref().and_then(|r| r.outcome.as_ref()).is_some_and(|e| e.held);
        assert!(record.is_deleted() || held, "{key} ends, and is on disk as it was");
    }

    fn admission_ends(&mut self, which: u8, how: u8) {
        let Some(at) = pick(which, self.admits.len()) else { return };
        let (ticket, release) = self.admits.remove(at);
        let present = release.digests().into_iter().filter(|d| self.images.contains(d)).collect();
        let result = match how % 8 {
            0 => Err(Refusal::new(Reason::Invalid, "no")),
            1 => Err(Refusal::new(Reason::SourceConflict, "taken")),
            _ => Ok(Admission { warnings: vec![], present }),
        };
        self.input(Input::Admitted { ticket, result });
    }

    fn fetch_ends(&mut self, which: u8, how: u8) {
        let Some(at) = pick(which, self.fetches.len()) else { return };
        let digest = *self.fetches.iter().nth(at).unwrap();
        if how % 4 == 3 {
            return self.input(Input::Progress { digest, bytes: u64::from(how) });
        }
        self.fetches.remove(&digest);
        let failed = |transient| FetchFailure {
            reason: "NotFound".to_owned(),
            message: String::new(),
            transient,
        };
        let result = match how % 8 {
            0 => Err(failed(true)),
            4 => Err(failed(false)),
            _ => {
                self.images.insert(digest);
                Ok(())
            }
        };
        self.input(Input::Fetched { digest, result });
    }

    fn report(&mut self, pod: u8, how: u8) {
        let Some(at) = pick(pod, self.runs.len()) else { return };
        let (key, (instance, _)) = self.runs.iter().nth(at).unwrap();
        let (key, instance) = (key.clone(), *instance);
        if how % 16 == 15 {
            self.reports.insert(key, PodReport::default());
            let refusal = Refusal::new(Reason::Invalid, "cannot");
            return self.input(Input::NotApplied { instance, refusal });
        }
        let report = match how % 8 {
            0 => PodReport { phase: PodPhase::Failed, ..kit::running() },
            1 => kit::running(),
            2 => kit::crashed(u32::from(how / 16)),
            _ => kit::ready(),
        };
        self.reports.insert(key, report.clone());
        self.input(Input::Pod { instance, report });
    }

    pub(super) fn wait(&mut self, by: Duration) {
        let end = self.now.plus(by);
        let mut rings = 0;
        while let Some(at) = self.wake_at.filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.wake_at = None;
            self.input(Input::Tick);
            rings += 1;
            assert!(rings < 10_000, "the timer never rests");
        }
        self.now = end;
        self.input(Input::Tick);
    }

    fn crash(&mut self, survives: u8, safe_mode: bool) {
        for (at, writing) in std::mem::take(&mut self.writes).into_iter().enumerate() {
            if survives >> (at % 8) & 1 == 1 {
                self.put_on_disk(&writing.record, writing.content);
            }
        }
        self.lose_connection(0);
        for ((key, scope), (version, digest)) in &self.acknowledged {
            let record = self.record(key).unwrap_or_default();
            let line = record.lines.get(scope);
            let kept = line.is_some_and(|line| {
                let held = line.revision.version;
                held > *version || held == *version && line.revision.digest == *digest
            });
            assert!(kept, "{key}: {version} was acknowledged, and is not there after a crash");
        }
        self.boots += 1;
        self.config.boot = format!("boot-{}", self.boots);
        self.config.safe_mode = safe_mode;
        self.now = self.now.plus(Duration::from_secs(5));
        (self.wake_at, self.dialling, self.offered) = (None, false, None);
        self.admits.clear();
        self.fetches.clear();
        self.runs.clear();
        self.reports.clear();
        let records = self.disk.iter().map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        let restored = Restored { records, present: self.images.clone() };
        let (protocol, outputs) = Protocol::new(self.now, self.config.clone(), restored);
        self.protocol = protocol;
        self.perform(outputs);
    }

    // The link and the broker.

    fn connect(&mut self) {
        if let Some((_, will)) = self.offered.take() {
            self.connected = true;
            self.will = Some(will);
            self.input(Input::Connected);
        } else if !self.connected && !self.dialling {
            self.dialling = true;
            self.input(Input::Dial);
        }
    }

    fn subscribe(&mut self, filters: &[String]) {
        if !self.connected {
            return;
        }
        let results = filters.iter().map(|f| (f.clone(), Ok(()))).collect();
        for (topic, payload) in &self.retained {
            if self.config.topics.read(topic).is_some() {
                let (topic, payload) = (topic.clone(), payload.clone());
                self.down.push(Down { topic, payload, retained: true });
            }
        }
        self.input(Input::Subscribed { results });
    }

    fn cut(&mut self, arrive: usize) {
        if self.lose_connection(arrive) {
            self.input(Input::Disconnected { why: "cut".to_owned(), taken_over: false });
        }
    }

    fn lose_connection(&mut self, arrive: usize) -> bool {
        let had = self.connected;
        if had {
            self.arrive(arrive);
            self.wills.extend(self.will.take());
        }
        self.connected = false;
        self.up.clear();
        self.down.clear();
        had
    }

    fn will_fires(&mut self) {
        if !self.wills.is_empty() {
            let will = self.wills.remove(0);
            self.at_broker(will);
        }
    }

    /// The node publishes: what it acknowledges must be on disk.
    fn published(&mut self, publish: Publish) {
        self.published += 1;
        assert!(self.connected, "published without a connection: {publish:?}");
        let tree = kit::tree();
        if let Some((_, Outbound::Pod { key })) = tree.read_outbound(&publish.topic)
            && !publish.payload.is_empty()
        {
            let status: PodStatus = serde_json::from_slice(&publish.payload).unwrap();
            for document in status.documents {
                let Some(accepted) = document.accepted else { continue };
                let found = self.record(&key).and_then(|r| r.lines.get(&document.scope).cloned());
                let line = found.unwrap_or_else(|| panic!("{key}: acknowledged, and not on disk"));
                assert_eq!(line.revision, accepted.revision, "{key}: the ack is not what is kept");
                let id = (line.revision.version, line.revision.digest);
                let before = self.acknowledged.insert((key.clone(), document.scope), id);
                assert!(before.is_none_or(|b| b.0 <= id.0), "{key}: the ack goes back");
            }
        }
        self.up.push(publish);
    }

    fn arrive(&mut self, count: usize) {
        let count = count.min(self.up.len());
        let arrived: Vec<Publish> = self.up.drain(..count).collect();
        for publish in arrived {
            self.at_broker(publish);
        }
    }

    fn at_broker(&mut self, publish: Publish) {
        let Publish { topic, payload, retain } = publish;
        if retain && payload.is_empty() {
            self.retained.remove(&topic);
        } else if retain {
            self.retained.insert(topic.clone(), payload.clone());
        }
        if self.connected && self.config.topics.read(&topic).is_some() {
            self.down.push(Down { topic, payload, retained: false });
        }
    }

    fn deliver(&mut self, n: u8, once: bool) {
        let Some(at) = pick(n, self.down.len()) else { return };
        let Down { topic, payload, retained } =
            if once { self.down.remove(at) } else { self.down[at].clone() };
        self.input(Input::Message { topic, payload, retained });
    }

    fn withdraw(&mut self, n: u8) {
        let Some(at) = pick(n, self.retained.len()) else { return };
        let topic = self.retained.keys().nth(at).unwrap().clone();
        // Readers get nothing from a broker that loses what the node has said: only the next connection mends that.
        if !topic.contains("/s/") {
            self.at_broker(Publish { topic, payload: Bytes::new(), retain: true });
        }
    }

    // The controllers, and whoever plays one.

    fn publish(&mut self, message: &Message) {
        let payload = Bytes::from(message.payload.clone());
        self.at_broker(Publish { topic: message.topic.clone(), payload, retain: true });
    }

    fn next_ms(&mut self) -> String {
        self.signed_ms += 1000;
        time_text(self.signed_ms)
    }

    fn publish_intent(&mut self, who: u8, pod: u8, how: u8) {
        let (who, pod) = (who % 2, pod % 3);
        let generation = self.generations.entry((who, pod)).or_default();
        *generation += 1 + u64::from(how % 3 == 2);
        let mut intent = kit::intent(PODS[usize::from(pod)], *generation);
        intent.manifest = Some(Manifest::Text(format!("by {who}, {generation}")));
        intent.issued_at = self.next_ms();
        if how & 4 != 0 {
            let module = MODULES[usize::from(how >> 3) % 2];
            intent.artifacts.push(Artifact {
                image: "app".to_owned(),
                digest: crate::mqtt::envelope::digest(module.as_bytes()),
                size: 100,
                media_type: String::new(),
                sources: vec!["mqtt:".to_owned()],
            });
        }
        if how & 16 != 0 {
            intent.index_revision = self.revisions[usize::from(who)] + 1;
        }
        if how & 32 != 0 {
            intent = kit::for_group(["line-a", "all"][usize::from(how >> 6) % 2], intent);
            intent.index_revision = 0;
        }
        self.sign(who, intent);
    }

    fn sign(&mut self, who: u8, intent: PodIntent) {
        let key = &controllers()[usize::from(who)];
        let message = controller::intent(&kit::tree(), &intent, &[key]).unwrap();
        self.authentic.insert(message.digest);
        if intent.deleted {
            self.deletable.insert(PodKey::new(&intent.namespace, &intent.name));
        }
        self.publish(&message);
        self.issued.push((message, intent));
    }

    fn last_of(&self, who: u8, pod: u8) -> Option<PodIntent> {
        let name = PODS[usize::from(pod)];
        let by = format!("by {who}");
        let is = |i: &PodIntent| {
            let text = i.manifest.as_ref().map(|m| m.text().into_owned()).unwrap_or_default();
            i.name == name && text.starts_with(&by)
        };
        self.issued.iter().rev().map(|(_, intent)| intent).find(|i| is(i)).cloned()
    }

    fn publish_tombstone(&mut self, who: u8, pod: u8) {
        let (who, pod) = (who % 2, pod % 3);
        let Some(last) = self.last_of(who, pod) else { return };
        let generation = self.generations.entry((who, pod)).or_default();
        *generation += 1;
        let generation = *generation;
        let at = self.next_ms();
        let mut gone = controller::tombstone(&last, &at);
        gone.generation = generation;
        self.sign(who, gone);
    }

    fn publish_conflict(&mut self, who: u8, pod: u8) {
        let (who, pod) = (who % 2, pod % 3);
        if let Some(mut intent) = self.last_of(who, pod) {
            intent.rollout = RolloutPolicy { min_ready_seconds: Some(3), ..intent.rollout };
            self.sign(who, intent);
        }
    }

    fn publish_index(&mut self, who: u8, mask: u8) {
        let who = who % 2;
        self.revisions[usize::from(who)] += 1;
        let revision = self.revisions[usize::from(who)];
        let mut listed: Vec<Message> = vec![];
        for (at, name) in PODS.iter().enumerate() {
            let of_pod = |(_, i): &&(Message, PodIntent)| i.name == *name && i.node.is_some();
            let newest = self.issued.iter().rev().find(of_pod);
            match newest {
                Some((message, intent)) if mask >> at & 1 == 1 && !intent.deleted => {
                    listed.push(message.clone());
                }
                _ => {
                    self.deletable.insert(kit::pod_key(name));
                }
            }
        }
        let listed: Vec<&Message> = listed.iter().collect();
        let index = kit::index(revision, &listed);
        self.publish(&index);
    }

    fn replay(&mut self, n: u8) {
        if let Some(at) = pick(n, self.issued.len()) {
            let message = self.issued[at].0.clone();
            self.publish(&message);
        }
    }

    fn forge(&mut self, which: u8, how: u8) {
        let Some(at) = pick(which, self.issued.len()) else { return };
        let (message, intent) = self.issued[at].clone();
        let stranger = kit::secret(200);
        let newer = PodIntent { generation: 1_000_000, ..intent };
        let payload = match how % 6 {
            0 => message.payload[..message.payload.len() / 2].to_vec(),
            1 => controller::intent(&kit::tree(), &newer, &[&stranger]).unwrap().payload,
            2 => controller::intent(&kit::tree(), &newer, &[]).unwrap().payload,
            3 => {
                let mut forged = message.payload.clone();
                let at = usize::from(how) * 7 % forged.len();
                forged[at] ^= 1;
                forged
            }
            4 => {
                // The signature of another document.
                let text = controller::intent(&kit::tree(), &newer, &[&stranger]).unwrap().payload;
                let text = String::from_utf8(text).unwrap();
                text.replace(&stranger.id(), &kit::controller_key().id()).into_bytes()
            }
            _ => vec![how; usize::from(which)],
        };
        let topic = message.topic;
        self.at_broker(Publish { topic, payload: payload.into(), retain: true });
    }

    fn publish_trust(&mut self, how: u8) {
        let [a, b] = controllers();
        let root = kit::root_key();
        self.trusted += 1;
        let mut keys = vec![(&root, "root"), (&a, "intent")];
        if how % 2 == 0 {
            keys.push((&b, "intent"));
        }
        let document = kit::trust_document(self.trusted, 1, &keys, vec![], &[&root]);
        self.publish(&document);
    }

    // The end.

    /// Everything works from now on, for long enough.
    pub(super) fn settle(&mut self) {
        // What the broker lost of the desired state, its publishers may have lost too. What the node said is said again on a
        // new connection.
        self.cut(0);
        for round in 0..400 {
            self.drain();
            self.wait(Duration::from_secs(if round % 10 == 0 { 100 } else { 2 }));
            let quiet = self.drain();
            if round > 40 && quiet && self.connected {
                return;
            }
        }
        panic!("it does not come to rest: {self:?}");
    }

    fn drain(&mut self) -> bool {
        let mut quiet = true;
        for _ in 0..10_000 {
            if !self.writes.is_empty() {
                self.write_ends(0, true);
            } else if !self.admits.is_empty() {
                self.admission_ends(0, 7);
            } else if !self.fetches.is_empty() {
                self.fetch_ends(0, 1);
            } else if !self.connected {
                self.connect();
            } else if !self.up.is_empty() {
                self.arrive(usize::MAX);
            } else if !self.wills.is_empty() {
                self.will_fires();
            } else if !self.down.is_empty() {
                self.deliver(0, true);
            } else {
                return quiet;
            }
            quiet = false;
        }
        panic!("messages without end");
    }

    pub(super) fn attempts_and_stage(&self, key: &PodKey) -> Option<(u32, Option<Stage>)> {
        let rollout = self.record(key)?.rollout?;
        Some((rollout.attempts, rollout.outcome.map(|ended| ended.stage)))
    }

    pub(super) fn pod_names() -> Vec<PodKey> {
        PODS.iter().map(|name| kit::pod_key(name)).collect()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.writes.len() + self.admits.len() + self.fetches.len()
    }

    pub(super) fn authentic_digest(&self, digest: Digest) -> bool {
        self.authentic.contains(&digest)
    }
}
