//! The loop with everything round it made of test: a broker that is a script, a node that is a list, a disk that may refuse.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::Clock;
use crate::mqtt::kit;
use crate::mqtt::protocol::{Protocol, Restored};
use crate::mqtt::transport::{
    Body, Closed, ConnId, Event, Limits, Message, NotTaken, Outgoing, Token, Transport, Version,
    Will, codes,
};
use crate::store::Store;
use crate::store::unlucky::{Fault, Unlucky};

/// Nothing here takes long; who waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Connect,
    Subscribe(Vec<String>),
    Publish(String, Value),
    Goodbye,
}

#[derive(Debug, Default)]
struct Wire {
    said: Vec<Said>,
    connected: bool,
    /// Publishes that are refused as one too many.
    busy: usize,
    tokens: u64,
    conns: u64,
    acknowledges: bool,
    /// The broker never pauses: there is always another message.
    floods: bool,
}

/// The broker's side and the transport's at once.
#[derive(Clone, Debug)]
struct Script {
    wire: Arc<Mutex<Wire>>,
    events: mpsc::Sender<(ConnId, Event)>,
}

struct Scripted {
    script: Script,
    events: mpsc::Receiver<(ConnId, Event)>,
    limits: Option<Limits>,
}

const LIMITS: Limits = Limits {
    version: Version::V5,
    max_packet: None,
    window: 15,
    keep_alive: Duration::from_secs(60),
};

impl Script {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap()
    }

    fn say(&self, said: Said) {
        self.wire().said.push(said);
    }

    async fn happen(&self, event: Event) {
        let conn = ConnId(self.wire().conns);
        self.events.send((conn, event)).await.unwrap();
    }

    /// Lets the connection come about and its subscriptions be granted.
    async fn accept(&self) {
        let before = self.count(|said| matches!(said, Said::Subscribe(_)));
        self.wire().connected = true;
        self.happen(Event::Connected(LIMITS)).await;
        self.until(|script| script.count(|s| matches!(s, Said::Subscribe(_))) > before).await;
        let filters = self.all().into_iter().rev().find_map(|said| match said {
            Said::Subscribe(filters) => Some(filters.len()),
            Said::Connect | Said::Publish(..) | Said::Goodbye => None,
        });
        let token = Token(self.wire().tokens);
        let filters = vec![Ok(()); filters.unwrap()];
        self.happen(Event::Subscribed { token, filters }).await;
    }

    async fn message(&self, message: &crate::mqtt::controller::Message) {
        let body = Body::Bytes(message.payload.clone().into());
        let message = Message { topic: message.topic.clone(), retained: true, body };
        self.happen(Event::Message(message)).await;
    }

    async fn close(&self, why: Closed) {
        self.wire().connected = false;
        self.happen(Event::Closed(why)).await;
    }

    fn all(&self) -> Vec<Said> {
        self.wire().said.clone()
    }

    fn count(&self, is: impl Fn(&Said) -> bool) -> usize {
        self.all().iter().filter(|said| is(said)).count()
    }

    /// The last word on a topic that ends so.
    fn last(&self, topic: &str) -> Option<Value> {
        self.all().into_iter().rev().find_map(|said| match said {
            Said::Publish(found, value) if found.ends_with(topic) => Some(value),
            Said::Publish(..) | Said::Connect | Said::Subscribe(_) | Said::Goodbye => None,
        })
    }

    async fn until(&self, is: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is(self) {
            assert!(start.elapsed() < DEADLINE, "in vain: {:#?}", self.all());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Transport for Scripted {
    fn connect(&mut self, _: Option<Will>) -> ConnId {
        self.limits = None;
        self.script.wire().conns += 1;
        self.script.say(Said::Connect);
        ConnId(self.script.wire().conns)
    }

    fn drop_connection(&mut self) {}

    async fn goodbye(&mut self) {
        self.limits = None;
        self.script.say(Said::Goodbye);
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<Token, NotTaken> {
        self.script.say(Said::Subscribe(filters.to_vec()));
        let mut wire = self.script.wire();
        wire.tokens += 1;
        Ok(Token(wire.tokens))
    }

    fn unsubscribe(&mut self, _: &str) -> Result<Token, NotTaken> {
        Err(NotTaken::Busy)
    }

    fn publish(&mut self, message: &Outgoing) -> Result<Token, NotTaken> {
        if self.limits.is_none() {
            return Err(NotTaken::NotConnected);
        }
        let token = {
            let mut wire = self.script.wire();
            if wire.busy > 0 {
                wire.busy -= 1;
                return Err(NotTaken::Busy);
            }
            wire.tokens += 1;
            Token(wire.tokens)
        };
        let value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
        self.script.say(Said::Publish(message.topic.clone(), value));
        if self.script.wire().acknowledges {
            let conn = ConnId(self.script.wire().conns);
            let acked = Event::Acked { token, result: Ok(()) };
            // The script's channel is long enough for every test here.
            self.script.events.try_send((conn, acked)).unwrap();
        }
        Ok(token)
    }

    fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    async fn next(&mut self) -> (ConnId, Event) {
        let (floods, conns) = {
            let wire = self.script.wire();
            (wire.floods, wire.conns)
        };
        let next = match self.events.try_recv() {
            Ok(next) => next,
            Err(_) if floods => {
                let topic = format!("pods/v1/acme/n/{}/pod/default/noise", kit::NODE);
                let body = Body::Bytes(Bytes::from_static(b"noise"));
                (ConnId(conns), Event::Message(Message { topic, retained: false, body }))
            }
            Err(_) => self.events.recv().await.unwrap(),
        };
        match &next.1 {
            Event::Connected(limits) => self.limits = Some(limits.clone()),
            Event::Closed(_) => self.limits = None,
            Event::Subscribed { .. }
            | Event::Unsubscribed(_)
            | Event::Acked { .. }
            | Event::Message(_)
            | Event::Overrun => {}
        }
        next
    }
}

/// A node that says yes to everything.
#[derive(Debug)]
struct Yes {
    board: Board,
    did: Mutex<Vec<String>>,
}

impl Yes {
    fn did(&self) -> Vec<String> {
        self.did.lock().unwrap().clone()
    }

    fn note(&self, what: String) {
        self.did.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Node for Yes {
    fn board(&self) -> &Board {
        &self.board
    }

    async fn admit(&self, release: Arc<Release>) -> Result<Admission, Refusal> {
        self.note(format!("admit {}", release.key));
        Ok(Admission::default())
    }

    async fn apply(&self, release: Arc<Release>, _: bool) -> Result<(), Refusal> {
        self.note(format!("apply {}", release.key));
        Ok(())
    }

    async fn withdraw(&self, key: PodKey) {
        self.note(format!("withdraw {key}"));
    }

    async fn restart(&self, _: PodKey) -> Result<(), Refusal> {
        Ok(())
    }

    fn logs(&self, _: &PodKey) -> Option<Arc<PodLogs>> {
        None
    }

    async fn exec(
        &self,
        _: PodKey,
        _: Option<ContainerName>,
        _: Vec<String>,
    ) -> Result<(i32, String), Refusal> {
        Ok((0, String::new()))
    }

    async fn name_came_free(&self) {
        std::future::pending().await
    }
}

struct Lab {
    script: Script,
    node: Arc<Yes>,
    disk: Unlucky,
    stop: CancellationToken,
    source: JoinHandle<()>,
    state: tokio::sync::watch::Receiver<LinkState>,
}

const ROOT: &str = "/state";

impl Lab {
    fn start() -> Self {
        Self::begin(Unlucky::new(Path::new(ROOT)), None)
    }

    fn begin(disk: Unlucky, off: Option<String>) -> Self {
        let (store, loaded, _) = Store::open_on(Arc::new(disk.clone()), Path::new(ROOT)).unwrap();
        let clock = Clock::start();
        let (events, receiver) = mpsc::channel(1024);
        let wire = Wire { acknowledges: true, ..Wire::default() };
        let script = Script { wire: Arc::new(Mutex::new(wire)), events };
        let restored: Restored = super::restored(loaded.mqtt, Default::default());
        let config = kit::config();
        let topics = config.topics.clone();
        let (protocol, outputs) = Protocol::new(clock.now(), config, restored);
        let node = Arc::new(Yes { board: Board::new(1, clock.now()), did: Mutex::default() });
        let transport = Scripted { script: script.clone(), events: receiver, limits: None };
        let (source, state) = MqttSource::new(Parts {
            protocol,
            outputs,
            inputs: vec![],
            transport,
            node: Arc::clone(&node),
            artifacts: Arc::new(NoArtifacts),
            store: Arc::new(store),
            clock,
            topics,
            will_delay: std::time::Duration::from_secs(20),
            broker: "the script".to_owned(),
            off,
        });
        let stop = CancellationToken::new();
        let source = tokio::spawn(source.run(stop.clone()));
        Self { script, node, disk, stop, source, state }
    }

    async fn connected() -> Self {
        let lab = Self::start();
        lab.dialled(1).await;
        lab.script.accept().await;
        lab.script.until(|script| script.last("/online").is_some()).await;
        lab
    }

    async fn dialled(&self, times: usize) {
        self.script.until(|script| script.count(|s| *s == Said::Connect) >= times).await;
    }

    async fn did(&self, what: &str) {
        let node = Arc::clone(&self.node);
        self.script.until(|_| node.did().iter().any(|did| did == what)).await;
    }

    /// What is surely on the disk of that pod.
    fn is_on_disk(&self, name: &str) -> bool {
        let store = Store::open_on(Arc::new(self.disk.clone()), Path::new(ROOT));
        store.is_ok_and(|(_, loaded, _)| loaded.mqtt.iter().any(|r| r.name == name))
    }

    async fn end(self) -> Script {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.source).await.unwrap().unwrap();
        self.script
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_or_run_before_it_is_on_disk() {
    let lab = Lab::connected().await;
    lab.disk.plan(Fault::Full { step: lab.disk.steps() });
    lab.script.message(&kit::signed(&kit::intent("web", 1))).await;
    lab.did("admit default/web").await;
    lab.script
        .until(|script| {
            script.last("/node").is_some_and(|node| node.to_string().contains("Storage"))
                || script.last("/pod/default/web").is_some()
        })
        .await;
    let said = lab.script.last("/pod/default/web").unwrap_or_default();
    assert!(said["documents"][0]["accepted"].is_null(), "{said}");
    assert!(!lab.node.did().contains(&"apply default/web".to_owned()));
    assert!(!lab.is_on_disk("pod.default.web"));
    // The disk has room again: tried without anybody's help.
    lab.disk.mend();
    lab.did("apply default/web").await;
    assert!(lab.is_on_disk("pod.default.web"));
    lab.script
        .until(|script| {
            let said = script.last("/pod/default/web").unwrap_or_default();
            said["documents"][0]["accepted"]["generation"] == 1
        })
        .await;
    lab.end().await;
}

#[tokio::test]
async fn what_was_accepted_is_applied_by_the_next_life_without_a_connection() {
    let lab = Lab::connected().await;
    lab.script.message(&kit::signed(&kit::intent("web", 1))).await;
    lab.did("apply default/web").await;
    let disk = lab.disk.clone();
    lab.end().await;
    let next = Lab::begin(disk, None);
    next.did("apply default/web").await;
    assert!(!next.node.did().contains(&"admit default/web".to_owned()), "it was admitted before");
}

#[tokio::test]
async fn a_refusal_is_met_with_patience_and_a_broken_line_with_haste() {
    let lab = Lab::connected().await;
    lab.script.close(Closed::ByPeer).await;
    lab.dialled(2).await;
    let code = codes::NOT_AUTHORIZED;
    lab.script.close(Closed::Refused { code, name: "not authorized" }).await;
    let mut state = lab.state.clone();
    let is_refused =
        |s: &LinkState| matches!(s, LinkState::Down { label, .. } if *label == "refused");
    tokio::time::timeout(DEADLINE, state.wait_for(is_refused)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(lab.script.count(|said| *said == Said::Connect), 2, "no hot loop");
    lab.end().await;
}

#[tokio::test]
async fn a_broker_that_never_pauses_keeps_nothing_else_from_being_done() {
    let lab = Lab::connected().await;
    lab.script.wire().floods = true;
    lab.script.message(&kit::signed(&kit::intent("web", 1))).await;
    // Looked at by the node, written, acknowledged and acted upon: none of it is the broker's doing.
    lab.did("apply default/web").await;
    assert!(lab.is_on_disk("pod.default.web"));
    // And it can be told to stop.
    lab.end().await;
}

#[tokio::test]
async fn every_connection_hears_everything() {
    let lab = Lab::connected().await;
    lab.script.message(&kit::signed(&kit::intent("web", 1))).await;
    lab.script.until(|script| script.last("/pod/default/web").is_some()).await;
    let before = lab.script.all().len();
    lab.script.close(Closed::ByPeer).await;
    lab.dialled(2).await;
    lab.script.accept().await;
    for topic in ["/online", "/node", "/pod/default/web"] {
        let again = |script: &Script| {
            let after = script.all().split_off(before);
            after.iter().any(|said| matches!(said, Said::Publish(t, _) if t.ends_with(topic)))
        };
        lab.script.until(again).await;
    }
    lab.end().await;
}

#[tokio::test]
async fn a_broker_that_is_slow_to_take_loses_nothing() {
    let lab = Lab::start();
    lab.dialled(1).await;
    lab.script.wire().busy = 3;
    lab.script.accept().await;
    // Each event that comes is an occasion to try again; here it is a message.
    for generation in 1..=4 {
        lab.script.message(&kit::signed(&kit::intent("web", generation))).await;
    }
    lab.script.until(|script| script.last("/online").is_some()).await;
    lab.script.until(|script| script.last("/pod/default/web").is_some()).await;
    lab.end().await;
}

#[tokio::test]
async fn dropped_messages_are_asked_for_again() {
    let lab = Lab::connected().await;
    lab.script.happen(Event::Overrun).await;
    lab.script.until(|script| script.count(|s| matches!(s, Said::Subscribe(_))) >= 2).await;
    lab.end().await;
}

#[tokio::test]
async fn it_ends_with_its_offline_message_before_its_goodbye() {
    let script = Lab::connected().await.end().await;
    let said = script.all();
    assert_eq!(said.last(), Some(&Said::Goodbye));
    assert_eq!(script.last("/online").unwrap()["online"], false);
}

#[tokio::test]
async fn it_ends_in_time_although_nobody_acknowledges_or_is_there() {
    let lab = Lab::connected().await;
    lab.script.wire().acknowledges = false;
    lab.end().await;
    // Where nobody is there it does not wait for an acknowledgement (`LEAVE`). A machine may be so busy that it takes as long all the
    // same; who waits never takes less.
    let mut took = Vec::new();
    while took.last().is_none_or(|took| *took >= Duration::from_millis(1900)) {
        let lab = Lab::start();
        lab.dialled(1).await;
        let start = Instant::now();
        lab.end().await;
        took.push(start.elapsed());
        assert!(took.len() < 20, "{took:?}");
    }
}

#[tokio::test]
async fn a_connection_lost_while_it_ends_is_an_end() {
    let lab = Lab::connected().await;
    lab.script.wire().acknowledges = false;
    lab.stop.cancel();
    lab.script.until(|script| script.last("/online").is_some_and(|o| o["online"] == false)).await;
    lab.script.close(Closed::ByPeer).await;
    lab.end().await;
}

#[tokio::test]
async fn a_source_that_must_not_connect_runs_what_was_accepted() {
    let lab = Lab::connected().await;
    lab.script.message(&kit::signed(&kit::intent("web", 1))).await;
    lab.did("apply default/web").await;
    let disk = lab.disk.clone();
    lab.end().await;
    let lab = Lab::begin(disk, Some("no key".to_owned()));
    lab.did("apply default/web").await;
    assert_eq!(*lab.state.borrow(), LinkState::Off { why: "no key".to_owned() });
    assert_eq!(lab.script.count(|said| *said == Said::Connect), 0);
    lab.end().await;
}

#[tokio::test]
async fn a_message_too_large_to_take_is_answered_as_such() {
    let lab = Lab::connected().await;
    let topic = kit::signed(&kit::intent("web", 1)).topic;
    let body = Body::TooLarge { size: 10_000_000 };
    lab.script.happen(Event::Message(Message { topic, retained: true, body })).await;
    lab.script
        .until(|script| {
            let said = script.last("/pod/default/web").unwrap_or_default();
            said["documents"][0]["refused"]["reason"] == "TooLarge"
        })
        .await;
    lab.end().await;
}

#[tokio::test]
async fn orders_of_one_name_keep_their_order() {
    let lab = Lab::connected().await;
    lab.script.message(&kit::signed(&kit::intent("a", 1))).await;
    lab.did("apply default/a").await;
    lab.script.message(&kit::signed(&kit::tombstone("a", 2))).await;
    lab.did("withdraw default/a").await;
    let did = lab.node.did();
    let at = |what: &str| did.iter().position(|d| d == what).unwrap();
    assert!(at("apply default/a") < at("withdraw default/a"));
    lab.end().await;
}
