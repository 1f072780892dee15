//! A node in miniature: the shell round one [`Protocol`], with a disk, a broker and a runtime that say yes until they are told otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;

/// See the header.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) now: Timestamp,
    pub(crate) config: Config,
    pub(crate) protocol: Protocol,
    pub(crate) disk: BTreeMap<RecordName, Bytes>,
    /// What the disk says to writes; removals always work.
    pub(crate) disk_error: Option<String>,
    /// Writes that were made durable.
    pub(crate) writes: Vec<RecordName>,
    /// The reconciler takes its time: until [`Lab::admit_held`].
    pub(crate) hold_admissions: bool,
    held: Vec<Input>,
    /// What the reconciler says to a pod's next documents.
    pub(crate) refusals: BTreeMap<PodKey, Refusal>,
    pub(crate) images: BTreeSet<Digest>,
    /// Transfers that are under way: they end when a test says so.
    pub(crate) fetching: BTreeMap<Digest, Vec<String>>,
    pub(crate) runs: BTreeMap<PodKey, (Instance, Arc<Release>)>,
    /// Whether each was to be made anew.
    pub(crate) recreated: Vec<bool>,
    /// What stands at the broker.
    pub(crate) broker: BTreeMap<String, Bytes>,
    pub(crate) sent: Vec<Publish>,
    pub(crate) subscribed: Vec<Vec<String>>,
    pub(crate) events: Vec<(String, String)>,
    pub(crate) commands: Vec<(String, Task)>,
    pub(crate) aborted: Vec<String>,
    pub(crate) will: Option<(u64, Publish)>,
    pub(crate) connected: bool,
    pub(crate) disconnects: usize,
    wake_at: Option<Timestamp>,
    boots: u32,
}

impl Lab {
    /// A node that has just been switched on for the first time; not connected.
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        let now = Timestamp::new(Duration::from_secs(1), EPOCH_MS);
        let (protocol, outputs) = Protocol::new(now, config.clone(), Restored::default());
        let mut lab = Self {
            now,
            config,
            protocol,
            disk: BTreeMap::new(),
            disk_error: None,
            writes: vec![],
            hold_admissions: false,
            held: vec![],
            refusals: BTreeMap::new(),
            images: BTreeSet::new(),
            fetching: BTreeMap::new(),
            runs: BTreeMap::new(),
            recreated: vec![],
            broker: BTreeMap::new(),
            sent: vec![],
            subscribed: vec![],
            events: vec![],
            commands: vec![],
            aborted: vec![],
            will: None,
            connected: false,
            disconnects: 0,
            wake_at: None,
            boots: 1,
        };
        lab.perform(outputs);
        lab
    }

    /// Connected, subscribed, birth published.
    pub(crate) fn online() -> Self {
        let mut lab = Self::new();
        lab.connect();
        lab
    }

    /// The power goes, and comes back. What was not durable is gone; so is everything that ran.
    pub(crate) fn restart(&mut self) {
        self.boots += 1;
        self.config.boot = format!("boot-{}", self.boots);
        (self.connected, self.wake_at, self.will) = (false, None, None);
        self.fetching.clear();
        self.runs.clear();
        self.now = self.now.plus(Duration::from_secs(5));
        let records = self.disk.iter().map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        let restored = Restored { records, present: self.images.clone() };
        let (protocol, outputs) = Protocol::new(self.now, self.config.clone(), restored);
        self.protocol = protocol;
        self.perform(outputs);
    }

    pub(crate) fn input(&mut self, input: Input) {
        let outputs = self.protocol.step(self.now, input);
        self.perform(outputs);
    }

    pub(crate) fn perform(&mut self, outputs: Vec<Output>) {
        let mut queue: VecDeque<Output> = outputs.into();
        while let Some(output) = queue.pop_front() {
            for input in self.perform_one(output) {
                queue.extend(self.protocol.step(self.now, input));
            }
        }
    }

    fn perform_one(&mut self, output: Output) -> Vec<Input> {
        match output {
            Output::Connect { conn, will } => {
                self.will = Some((conn, will));
                vec![]
            }
            Output::Subscribe { filters } => {
                self.subscribed.push(filters);
                vec![]
            }
            Output::Publish(draft) => {
                let publish = draft.signed();
                if publish.retain && publish.payload.is_empty() {
                    self.broker.remove(&publish.topic);
                } else if publish.retain {
                    self.broker.insert(publish.topic.clone(), publish.payload.clone());
                }
                self.sent.push(publish);
                vec![]
            }
            Output::Disconnect => {
                self.disconnects += 1;
                self.connected = false;
                vec![]
            }
            Output::Persist { ticket, record, content } => {
                let result = match (content, self.disk_error.clone()) {
                    (Some(_), Some(error)) => Err(error),
                    (Some(content), None) => {
                        self.disk.insert(record.clone(), content);
                        self.writes.push(record);
                        Ok(())
                    }
                    (None, _) => {
                        self.disk.remove(&record);
                        self.writes.push(record);
                        Ok(())
                    }
                };
                vec![Input::Persisted { ticket, result }]
            }
            Output::Admit { ticket, release } => {
                let present =
                    release.digests().into_iter().filter(|d| self.images.contains(d)).collect();
                let result = match self.refusals.get(&release.key) {
                    Some(refusal) => Err(refusal.clone()),
                    None => Ok(Admission { warnings: vec![], present }),
                };
                let admitted = Input::Admitted { ticket, result };
                if self.hold_admissions {
                    self.held.push(admitted);
                    return vec![];
                }
                vec![admitted]
            }
            Output::Apply { instance, release, recreate } => {
                self.recreated.push(recreate);
                self.runs.insert(release.key.clone(), (instance, release));
                vec![]
            }
            Output::Remove { key, instance } => {
                assert_eq!(self.runs.remove(&key).map(|(i, _)| i), Some(instance));
                vec![]
            }
            Output::Fetch { digest, sources, .. } => {
                if self.images.contains(&digest) {
                    return vec![Input::Fetched { digest, result: Ok(()) }];
                }
                assert!(self.fetching.insert(digest, sources).is_none(), "{digest} fetched twice");
                vec![]
            }
            Output::CancelFetch { digest } => {
                assert!(self.fetching.remove(&digest).is_some(), "{digest} was not fetched");
                vec![]
            }
            Output::Run { id, task } => {
                self.commands.push((id, task));
                vec![]
            }
            Output::Abort { id } => {
                self.aborted.push(id);
                vec![]
            }
            Output::Event { reason, message, .. } => {
                self.events.push((reason.to_owned(), message));
                vec![]
            }
            Output::WakeAt(at) => {
                self.wake_at = at;
                vec![]
            }
        }
    }

    /// Time passes; the timer rings whenever it was set.
    pub(crate) fn advance(&mut self, by: Duration) {
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

    pub(crate) fn seconds(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    pub(crate) fn conn(&self) -> u64 {
        self.will.as_ref().unwrap().0
    }

    pub(crate) fn connect(&mut self) {
        self.input(Input::Dial);
        assert!(self.will.is_some(), "no Connect after Dial");
        self.connected = true;
        let before = self.subscribed.len();
        self.input(Input::Connected);
        self.grant(before);
    }

    /// Grants what was asked for since, and delivers what is retained.
    pub(crate) fn grant(&mut self, from: usize) {
        for filters in self.subscribed.split_off(from) {
            let results = filters.iter().map(|f| (f.clone(), Ok(()))).collect();
            self.subscribed.push(filters);
            self.input(Input::Subscribed { results });
            self.deliver_retained();
        }
    }

    pub(crate) fn deliver_retained(&mut self) {
        for (topic, payload) in self.broker.clone() {
            if self.config.topics.read(&topic).is_some() {
                self.input(Input::Message { topic, payload, retained: true });
            }
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.will = None;
        self.input(Input::Disconnected { why: "cut".to_owned(), taken_over: false });
    }

    /// The broker takes a message, and passes it on if the node is there.
    pub(crate) fn publish(&mut self, message: &Message) {
        let payload = Bytes::from(message.payload.clone());
        if message.retain {
            self.broker.insert(message.topic.clone(), payload.clone());
        }
        if self.connected {
            self.input(Input::Message { topic: message.topic.clone(), payload, retained: false });
        }
    }

    pub(crate) fn send(&mut self, intent: &PodIntent) -> Message {
        let message = signed(intent);
        self.publish(&message);
        message
    }

    /// The reconciler is done with what it was given.
    pub(crate) fn admit_held(&mut self) {
        self.hold_admissions = false;
        for admitted in std::mem::take(&mut self.held) {
            self.input(admitted);
        }
    }

    pub(crate) fn report(&mut self, name: &str, report: PodReport) {
        let (instance, _) = self.runs[&pod_key(name)].clone();
        self.input(Input::Pod { instance, report });
    }

    /// The pod becomes ready and stays so long enough to be called good.
    pub(crate) fn make_good(&mut self, name: &str) {
        self.report(name, ready());
        self.seconds(11);
        assert_eq!(self.stage(name), Some(Stage::Committed));
    }

    pub(crate) fn fetched(&mut self, content: &str) {
        let digest = digest(content.as_bytes());
        assert!(self.fetching.remove(&digest).is_some(), "{content} is not being fetched");
        self.images.insert(digest);
        self.input(Input::Fetched { digest, result: Ok(()) });
    }

    pub(crate) fn not_fetched(&mut self, content: &str, transient: bool) {
        let digest = digest(content.as_bytes());
        assert!(self.fetching.remove(&digest).is_some(), "{content} is not being fetched");
        let (reason, message) = ("NotFound".to_owned(), "404".to_owned());
        let failure = FetchFailure { reason, message, transient };
        self.input(Input::Fetched { digest, result: Err(failure) });
    }

    /// The pod's status as it stands at the broker.
    pub(crate) fn status(&self, name: &str) -> PodStatus {
        let topic = self.config.topics.pod_status(&pod_key(name)).unwrap();
        let payload = self.broker.get(&topic).unwrap_or_else(|| panic!("no status of {name}"));
        serde_json::from_slice(payload).unwrap()
    }

    pub(crate) fn node_status(&self) -> NodeStatus {
        serde_json::from_slice(&self.broker[&self.config.topics.node_status()]).unwrap()
    }

    pub(crate) fn online_message(&self) -> Online {
        serde_json::from_slice(&self.broker[&self.config.topics.online()]).unwrap()
    }

    pub(crate) fn node_condition(&self, kind: &str) -> Option<Condition> {
        self.node_status().conditions.into_iter().find(|c| c.kind == kind)
    }

    /// Lets what is coalesced out.
    pub(crate) fn settle(&mut self) {
        self.seconds(2);
    }

    pub(crate) fn stage(&mut self, name: &str) -> Option<Stage> {
        self.settle();
        self.status(name).rollout.map(|rollout| rollout.stage)
    }

    /// Generation that was accepted for the node, and the reason of the last refusal.
    pub(crate) fn verdict(&mut self, name: &str) -> (Option<u64>, Option<&'static str>) {
        self.settle();
        let status = self.status(name);
        let node = status.documents.iter().find(|d| d.scope == Scope::Node);
        let accepted = node.and_then(|d| d.accepted.as_ref());
        let refused = node.and_then(|d| d.refused.as_ref());
        (accepted.map(|a| a.revision.version.generation), refused.map(|r| r.reason.as_str()))
    }

    /// Generation that runs.
    pub(crate) fn runs(&self, name: &str) -> Option<u64> {
        self.runs.get(&pod_key(name)).map(|(_, r)| r.revision.version.generation)
    }

    pub(crate) fn replies(&self) -> Vec<Reply> {
        let is_reply = |p: &&Publish| p.topic.contains("/res/");
        self.sent
            .iter()
            .filter(is_reply)
            .map(|p| serde_json::from_slice(&p.payload).unwrap())
            .collect()
    }

    pub(crate) fn happened(&self, reason: &str) -> usize {
        self.events.iter().filter(|(r, _)| r == reason).count()
    }
}
