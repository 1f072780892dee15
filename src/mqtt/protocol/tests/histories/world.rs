//! The world round one node, and what must hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::broker::Down;
use super::publishers::controllers;
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::controller::{Message, SecretKey};
use crate::mqtt::intent::{PodIntent, Release};
use crate::mqtt::kit;
use crate::mqtt::protocol::{
    Admission, Config, FetchFailure, Input, Instance, Output, PodPhase, PodReport, Protocol,
    Publish, RecordName, Restored, Ticket,
};
use crate::mqtt::record::NodeRecord;
use crate::mqtt::status::Stage;
use crate::mqtt::topic::Scope;
use crate::mqtt::version::Version;
use crate::spec::PodKey;

pub(super) const PODS: [&str; 3] = ["a", "b", "c"];

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
    /// The end of an earlier connection is told once more, whatever there is now.
    ToldLate(u8),
    /// The broker refuses one of the messages on their way up.
    Refuse(u8),
}

#[derive(Debug)]
pub(super) struct Writing {
    ticket: Ticket,
    record: RecordName,
    content: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) config: Config,
    pub(super) protocol: Protocol,
    pub(super) boots: u32,
    pub(super) wake_at: Option<Timestamp>,

    pub(super) disk: BTreeMap<RecordName, Bytes>,
    pub(super) writes: Vec<Writing>,
    pub(super) admits: Vec<(Ticket, Arc<Release>)>,
    pub(super) fetches: BTreeSet<Digest>,
    pub(super) images: BTreeSet<Digest>,
    pub(super) runs: BTreeMap<PodKey, (Instance, Arc<Release>)>,
    pub(super) reports: BTreeMap<PodKey, PodReport>,

    pub(super) dialling: bool,
    pub(super) dialled_at: Timestamp,
    pub(super) connected: bool,
    /// A connection that the node asked for and the link has not made.
    pub(super) offered: Option<(u64, Publish)>,
    pub(super) wills: Vec<Publish>,
    pub(super) will: Option<Publish>,
    pub(super) down: Vec<Down>,
    pub(super) up: Vec<Publish>,
    pub(super) retained: BTreeMap<String, Bytes>,

    /// Everything a controller ever signed about pods.
    pub(super) issued: Vec<(Message, PodIntent)>,
    pub(super) generations: BTreeMap<(u8, u8), u64>,
    pub(super) revisions: [u64; 2],
    pub(super) trusted: u64,
    pub(super) signed_ms: i64,
    pub(super) authentic: BTreeSet<Digest>,
    /// Names that somebody ever meant to delete: by a tombstone, or by an index that omits them.
    pub(super) deletable: BTreeSet<PodKey>,

    /// The newest that was acknowledged.
    pub(super) acknowledged: BTreeMap<(PodKey, Scope), (Version, Digest)>,
    pub(super) tries: BTreeMap<(PodKey, Scope, Digest), BTreeSet<u32>>,
    pub(super) conns: BTreeSet<u64>,
    pub(super) node_write_failed: bool,
    pub(super) persisted: usize,
    pub(super) published: usize,
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
    config.signer = Some(node_key().signer());
    config
}

/// What the node signs its word with, in every life.
pub(super) fn node_key() -> SecretKey {
    kit::secret(77)
}

pub(super) fn pick(n: u8, len: usize) -> Option<usize> {
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
            dialled_at: now,
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
            Act::ToldLate(how) => {
                // On a connection that stands the link says so only of that one.
                if !self.connected {
                    let taken_over = how % 2 == 0;
                    self.input(Input::Disconnected { why: "late".to_owned(), taken_over });
                    self.dialling = false;
                }
            }
            Act::Refuse(n) => {
                if let Some(at) = pick(n, self.up.len()) {
                    let topic = self.up.remove(at).topic;
                    self.input(Input::PublishRefused { topic, why: "quota".to_owned() });
                }
            }
        }
    }

    // The node's shell.

    pub(super) fn input(&mut self, input: Input) {
        let outputs = self.protocol.step(self.now, input);
        self.perform(outputs);
    }

    pub(super) fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.perform_one(output);
        }
    }

    pub(super) fn perform_one(&mut self, output: Output) {
        match output {
            Output::Connect { conn, will } => {
                assert!(self.dialling, "Connect without Dial");
                self.dialling = false;
                // A disk that hangs for a minute is one that refuses.
                let reserved = self.disk.get(&RecordName::Node);
                let reserved =
                    reserved.map_or(0, |r| NodeRecord::from_json(r).unwrap().conn_reserved);
                let hangs = self.now.since(self.dialled_at) >= Duration::from_secs(60);
                self.node_write_failed |= conn >= reserved && hangs;
                let is_free = conn < reserved && self.conns.last().is_none_or(|last| conn > *last);
                assert!(is_free || self.node_write_failed, "connection number {conn} is not free");
                self.conns.insert(conn);
                self.offered = Some((conn, will));
            }
            Output::Subscribe { filters } => self.subscribe(&filters),
            Output::Publish(draft) => self.published(draft.signed()),
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

    pub(super) fn write_ends(&mut self, which: u8, well: bool) {
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

    pub(super) fn admission_ends(&mut self, which: u8, how: u8) {
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

    pub(super) fn fetch_ends(&mut self, which: u8, how: u8) {
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

    pub(super) fn report(&mut self, pod: u8, how: u8) {
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
            3 => kit::compiling(),
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

    pub(super) fn crash(&mut self, survives: u8, safe_mode: bool) {
        for (at, writing) in std::mem::take(&mut self.writes).into_iter().enumerate() {
            if survives >> (at % 8) & 1 == 1 {
                self.put_on_disk(&writing.record, writing.content);
            }
        }
        self.lose_connection(0);
        self.check_acknowledged();
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

    pub(super) fn drain(&mut self) -> bool {
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
