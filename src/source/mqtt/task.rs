//! The loop: what happened goes into the protocol, what it answers is done.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::outbox::Outbox;
use super::reports::Applied;
use super::{Artifacts, INTENT_ANNOTATION, Node, Wanted, commands, records};
use crate::board::{EventDraft, Kind, Object, Query, Watch, WatchEventType};
use crate::clock::{Clock, Timestamp};
use crate::image::Digest;
use crate::mqtt::command::Task;
use crate::mqtt::envelope::ENVELOPE_BYTES_MAX;
use crate::mqtt::intent::Release;
use crate::mqtt::link::Reconnect;
use crate::mqtt::protocol::{Input, Instance, Output, Protocol, Publish, RecordName, Ticket};
use crate::mqtt::topic::{Inbound, Topics};
use crate::mqtt::transport::{
    Body, Class, Closed, Event, Limits, Message, NotTaken, Outgoing, Qos, Token, Transport, Will,
};
use crate::spec::PodKey;
use crate::store::Store;

/// Inputs of finished work that wait for the loop. Whoever finds it full waits.
const INPUTS_MAX: usize = 64;

/// Records written at a time, so that the disk can gather their syncs and the blocking threads stay free for others.
const WRITES_MAX: usize = 4;

/// Filters in one SUBSCRIBE: the smallest limit among the brokers that are used (AWS IoT).
const FILTERS_MAX: usize = 8;

/// How long the broker waits with our last will: a short break of the link is no news.
const WILL_DELAY: Duration = Duration::from_secs(20);

/// What was queued may take this long before we leave.
const LEAVE: Duration = Duration::from_secs(2);

/// What is added where a broker takes us and closes the connection soon after, again and again.
const SUSPICION: &str = ", soon after it took this node, several times in a row: is there another client with this client id?";

/// Changes of the board taken in one turn.
const PODS_AT_ONCE: usize = 64;

/// Made when systemd's time service has set the clock.
const CLOCK_IS_SET: &str = "/run/systemd/timesync/synchronized";

/// How often to look for it.
const CLOCK_LOOK: Duration = Duration::from_secs(60);

/// The link as the node's own API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing was tried yet.
    Idle,
    /// It must not connect; why.
    Off {
        why: String,
    },
    Connected {
        broker: String,
        limits: Limits,
    },
    /// Not connected; why, in words for a person.
    Down {
        why: String,
        label: &'static str,
    },
    /// Another client has our name.
    Duplicate,
}

/// What the source is made of.
#[derive(Debug)]
pub struct Parts<T, N, A> {
    pub protocol: Protocol,
    /// What the protocol answered at boot and is not done yet.
    pub outputs: Vec<Output>,
    /// What came of what was done of it.
    pub inputs: Vec<Input>,
    pub transport: T,
    pub node: Arc<N>,
    pub artifacts: Arc<A>,
    pub store: Arc<Store>,
    pub clock: Clock,
    pub topics: Topics,
    /// What is connected to, for people.
    pub broker: String,
    /// Why it must not connect, if it must not: what was accepted runs all the same.
    pub off: Option<String>,
}

/// An order under way: what came of it, and whose pod it changed.
type Ordering = Pin<Box<dyn Future<Output = (Option<Input>, Option<PodKey>)> + Send>>;

/// Something that the node's own task does, one after the other.
#[derive(Debug)]
enum Order {
    Admit { ticket: Ticket, release: Arc<Release> },
    Apply { instance: Instance, release: Arc<Release>, recreate: bool },
    Remove { key: PodKey },
}

impl Order {
    /// The name whose pod it changes.
    fn changes(&self) -> Option<&PodKey> {
        match self {
            Self::Admit { .. } => None,
            Self::Apply { release, .. } => Some(&release.key),
            Self::Remove { key } => Some(key),
        }
    }
}

/// A subscription of several requests.
#[derive(Debug, Default)]
struct Subscribing {
    to_send: VecDeque<Vec<String>>,
    waiting: BTreeMap<Token, Vec<String>>,
    results: Vec<(String, Result<(), String>)>,
}

/// What ended a wait.
enum Happened {
    Stop,
    Link(Event),
    Input(Input),
    Ordered(Option<Input>, Option<PodKey>),
    Pods,
    Get(Bytes),
    Time,
}

/// See the header of `source::mqtt`.
pub struct MqttSource<T, N, A> {
    protocol: Protocol,
    transport: T,
    node: Arc<N>,
    artifacts: Arc<A>,
    store: Arc<Store>,
    clock: Clock,
    topics: Topics,
    broker: String,
    reconnect: Reconnect,
    outbox: Outbox,
    subscribing: Subscribing,
    dial_at: Option<Timestamp>,
    wake_at: Option<Timestamp>,
    look_at_clock: Timestamp,
    /// We are about to say goodbye, at the latest then.
    leaving: Option<Timestamp>,
    stopping: bool,
    inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// Inputs that are there already.
    ready: VecDeque<Input>,
    orders: VecDeque<Order>,
    ordering: Option<Ordering>,
    writes: Arc<Semaphore>,
    jobs: JoinSet<()>,
    fetches: BTreeMap<Digest, AbortHandle>,
    commands: BTreeMap<String, AbortHandle>,
    applied: Applied,
    pods: Option<Watch>,
    state: watch::Sender<LinkState>,
}

impl<T, N, A> std::fmt::Debug for MqttSource<T, N, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttSource").field("broker", &self.broker).finish_non_exhaustive()
    }
}

impl<T: Transport, N: Node, A: Artifacts> MqttSource<T, N, A> {
    /// A source that has not begun.
    #[must_use]
    pub fn new(parts: Parts<T, N, A>) -> (Self, watch::Receiver<LinkState>) {
        let dial_at = parts.off.is_none().then(|| parts.clock.now());
        let begin = parts.off.map_or(LinkState::Idle, |why| LinkState::Off { why });
        let (state, shown) = watch::channel(begin);
        let now = parts.clock.now();
        let mut source = Self {
            protocol: parts.protocol,
            transport: parts.transport,
            node: parts.node,
            artifacts: parts.artifacts,
            store: parts.store,
            clock: parts.clock,
            topics: parts.topics,
            broker: parts.broker,
            reconnect: Reconnect::default(),
            outbox: Outbox::default(),
            subscribing: Subscribing::default(),
            dial_at,
            wake_at: None,
            look_at_clock: now,
            leaving: None,
            stopping: false,
            inputs: mpsc::channel(INPUTS_MAX),
            ready: parts.inputs.into(),
            orders: VecDeque::new(),
            ordering: None,
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            jobs: JoinSet::new(),
            fetches: BTreeMap::new(),
            commands: BTreeMap::new(),
            applied: Applied::default(),
            pods: None,
            state,
        };
        source.artifacts.pin(source.protocol.pinned());
        for output in parts.outputs {
            source.perform(output);
        }
        (source, shown)
    }

    /// Notes a pod that was handed to the node at boot, before this source began.
    pub fn was_applied(&mut self, key: PodKey, instance: Instance, intent: Digest) {
        self.applied.insert(key, instance, intent);
    }

    /// Runs until `stop`, and then says goodbye.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.settle();
            if self.leave_if_due().await && self.stopping {
                break;
            }
            let happened = self.wait(&stop).await;
            self.take(happened);
        }
        self.jobs.abort_all();
        while self.jobs.join_next().await.is_some() {}
    }

    /// Hands over everything that is there, and sends what may be sent.
    fn settle(&mut self) {
        loop {
            while let Some(input) = self.ready.pop_front() {
                self.step(input);
            }
            self.send();
            if self.ready.is_empty() {
                break;
            }
        }
        self.next_order();
        while self.jobs.try_join_next().is_some() {}
    }

    fn step(&mut self, input: Input) {
        let pins_may_change = matches!(input, Input::Persisted { .. });
        let now = self.clock.now();
        for output in self.protocol.step(now, input) {
            self.perform(output);
        }
        if pins_may_change {
            self.artifacts.pin(self.protocol.pinned());
        }
    }

    async fn wait(&mut self, stop: &CancellationToken) -> Happened {
        let stopped = async {
            if self.stopping { std::future::pending().await } else { stop.cancelled().await }
        };
        let times = [self.dial_at, self.wake_at, self.leaving, Some(self.look_at_clock)];
        let next = times.into_iter().flatten().min();
        let due = next.map(|at| self.clock.instant(at));
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let ordered = async {
            match &mut self.ordering {
                Some(ordering) => ordering.await,
                None => std::future::pending().await,
            }
        };
        let pods = async {
            // Where there is none yet, there is a new one to begin with.
            if let Some(pods) = &mut self.pods {
                pods.changed().await;
            }
        };
        // Each arm is cancel-safe: what is not taken is there the next time.
        tokio::select! {
            biased;
            () = stopped => Happened::Stop,
            (_, event) = self.transport.next() => Happened::Link(event),
            Some(input) = self.inputs.1.recv() => Happened::Input(input),
            (input, changed) = ordered => Happened::Ordered(input, changed),
            () = pods => Happened::Pods,
            request = self.artifacts.request() => Happened::Get(request),
            () = self.node.name_came_free() => Happened::Input(Input::Reconsider),
            () = timer => Happened::Time,
        }
    }

    fn take(&mut self, happened: Happened) {
        match happened {
            Happened::Stop => {
                self.stopping = true;
                self.dial_at = None;
                self.step(Input::Stop);
                // Where there is nobody to say goodbye to, this is the end.
                self.leaving.get_or_insert(self.clock.now());
            }
            Happened::Link(event) => self.link(event),
            Happened::Input(input) => self.finished(input),
            Happened::Ordered(input, changed) => {
                self.ordering = None;
                self.ready.extend(input);
                // What runs may be what was wanted: then nothing changes that the watch would tell.
                let pod = changed.and_then(|key| self.node.board().pod(&key));
                let report = pod.and_then(|pod| self.applied.report(&pod, INTENT_ANNOTATION));
                self.ready.extend(report);
            }
            Happened::Pods => self.look_at_pods(),
            Happened::Get(payload) => self.get(payload),
            Happened::Time => self.time(),
        }
    }

    fn time(&mut self) {
        let now = self.clock.now();
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        if is_due(self.dial_at) {
            self.dial_at = None;
            self.ready.push_back(Input::Dial);
        }
        if is_due(self.wake_at) {
            self.wake_at = None;
            self.ready.push_back(Input::Tick);
        }
        if self.look_at_clock <= now {
            self.look_at_clock = now.plus(CLOCK_LOOK);
            let synced = std::path::Path::new(CLOCK_IS_SET).exists();
            self.ready.push_back(Input::Clock { synced });
        }
    }

    /// Work that was done beside the loop.
    fn finished(&mut self, input: Input) {
        if let Input::Fetched { digest, .. } = &input {
            self.fetches.remove(digest);
        }
        if let Input::Answered { id, .. } = &input {
            self.commands.remove(id);
        }
        self.ready.push_back(input);
    }

    // ---- the link ----------------------------------------------------------------------------------------------------------

    fn link(&mut self, event: Event) {
        match event {
            Event::Connected(limits) => {
                info!(broker = self.broker, version = %limits.version, "connected to the broker");
                self.reconnect.connected(self.clock.now());
                self.show(LinkState::Connected { broker: self.broker.clone(), limits });
                self.ready.push_back(Input::Connected);
            }
            Event::Subscribed { token, filters } => self.subscribed(token, filters),
            Event::Unsubscribed(_) => {}
            Event::Acked { token, result } => {
                if let (Some(topic), Err(refused)) = (self.outbox.acked(token), result) {
                    let why = refused.to_string();
                    self.ready.push_back(Input::PublishRefused { topic, why });
                }
            }
            Event::Message(message) => self.message(message),
            Event::Overrun => self.ready.push_back(Input::Missed),
            Event::Closed(closed) => self.closed(&closed),
        }
    }

    fn message(&mut self, message: Message) {
        let Message { topic, retained, body } = message;
        let payload = match body {
            Body::Bytes(payload) => payload,
            // As much as it takes to be refused as what it is; the rest was skipped as it came in.
            Body::TooLarge { size } => vec![0; size.min(ENVELOPE_BYTES_MAX + 1)].into(),
        };
        if let Some(Inbound::Block { transfer }) = self.topics.read(&topic) {
            self.artifacts.block(transfer, payload);
            return;
        }
        self.ready.push_back(Input::Message { topic, payload, retained });
    }

    fn closed(&mut self, closed: &Closed) {
        self.outbox.clear();
        self.subscribing = Subscribing::default();
        self.artifacts.connected(false);
        // Whoever was about to say goodbye has nobody to say it to.
        self.leaving = self.stopping.then(|| self.clock.now());
        let mut chance = [0; 4];
        // Without randomness the delay is the longest of its step.
        let chance = getrandom::fill(&mut chance).map_or(u32::MAX, |()| u32::from_ne_bytes(chance));
        let retry = self.reconnect.closed(self.clock.now(), closed, chance);
        if retry.duplicate {
            warn!(broker = self.broker, "another client connects under this node's name");
            self.show(LinkState::Duplicate);
        } else {
            let hint = if retry.suspect { SUSPICION } else { "" };
            let (why, label) = (format!("{closed}{hint}"), closed.label());
            self.show(LinkState::Down { why, label });
        }
        if closed.class() == Class::Ours {
            debug!(%closed, "connection ended");
        } else {
            warn!(broker = self.broker, retry = ?retry.after, "no connection: {closed}");
        }
        self.dial_at = (!self.stopping).then(|| self.clock.now().plus(retry.after));
        let taken_over = closed.class() == Class::TakenOver;
        self.ready.push_back(Input::Disconnected { why: closed.to_string(), taken_over });
    }

    fn subscribed(
        &mut self,
        token: Token,
        results: Vec<Result<(), crate::mqtt::transport::Refused>>,
    ) {
        let Some(filters) = self.subscribing.waiting.remove(&token) else { return };
        let mut results = results.into_iter();
        for filter in filters {
            let missing = || Err("the broker did not say".to_owned());
            let result = results.next().map_or_else(missing, |r| r.map_err(|e| e.to_string()));
            self.subscribing.results.push((filter, result));
        }
        self.subscribed_all();
    }

    fn subscribed_all(&mut self) {
        let subscribing = &mut self.subscribing;
        if subscribing.waiting.is_empty() && subscribing.to_send.is_empty() {
            let results = std::mem::take(&mut subscribing.results);
            // Blocks arrive from now on.
            self.artifacts.connected(true);
            self.ready.push_back(Input::Subscribed { results });
        }
    }

    /// Sends what the broker takes now.
    fn send(&mut self) {
        while let Some(filters) = self.subscribing.to_send.front() {
            match self.transport.subscribe(filters) {
                Ok(token) => {
                    let filters = self.subscribing.to_send.pop_front().unwrap_or_default();
                    self.subscribing.waiting.insert(token, filters);
                }
                // What is to be said waits for its turn behind what is to be asked.
                Err(NotTaken::Busy | NotTaken::NotConnected) => return,
                Err(error @ (NotTaken::TooLarge { .. } | NotTaken::BadTopic)) => {
                    let filters = self.subscribing.to_send.pop_front().unwrap_or_default();
                    let refused = |filter| (filter, Err(error.to_string()));
                    self.subscribing.results.extend(filters.into_iter().map(refused));
                    self.subscribed_all();
                }
            }
        }
        while let Some(publish) = self.outbox.next() {
            let message = Outgoing {
                topic: publish.topic.clone(),
                payload: publish.payload.clone(),
                qos: Qos::AtLeastOnce,
                retain: publish.retain,
            };
            match self.transport.publish(&message) {
                Ok(token) => self.outbox.sent(token),
                Err(NotTaken::Busy | NotTaken::NotConnected) => return,
                Err(error @ (NotTaken::TooLarge { .. } | NotTaken::BadTopic)) => {
                    self.outbox.pop();
                    let (topic, why) = (message.topic, error.to_string());
                    self.ready.push_back(Input::PublishRefused { topic, why });
                }
            }
        }
    }

    /// A transfer asks for blocks. Lost where there is no room: it asks again.
    fn get(&mut self, payload: Bytes) {
        let topic = self.topics.get();
        let message = Outgoing { topic, payload, qos: Qos::AtMostOnce, retain: false };
        if let Err(error) = self.transport.publish(&message) {
            debug!(%error, "a request for blocks was not sent");
        }
    }

    /// Leaves when everything was said, or took too long; whether it did.
    async fn leave_if_due(&mut self) -> bool {
        let Some(until) = self.leaving else { return false };
        let said = self.outbox.is_empty() || self.transport.limits().is_none();
        if !said && self.clock.now() < until {
            return false;
        }
        self.leaving = None;
        self.transport.goodbye().await;
        if !self.stopping {
            // The protocol left for a reason of its own, which another attempt may not mend at once.
            self.closed(&Closed::Broken("this node left it".to_owned()));
        }
        true
    }

    fn show(&self, state: LinkState) {
        self.state.send_if_modified(|shown| {
            let changed = *shown != state;
            *shown = state;
            changed
        });
    }

    // ---- what the protocol wants done --------------------------------------------------------------------------------------

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect { conn, will } => {
                debug!(conn, broker = self.broker, "connecting");
                let Publish { topic, payload, .. } = will;
                self.outbox.clear();
                self.transport.connect(Some(Will { topic, payload, delay: WILL_DELAY }));
            }
            Output::Subscribe { filters } => {
                let chunks = filters.chunks(FILTERS_MAX).map(<[String]>::to_vec);
                self.subscribing =
                    Subscribing { to_send: chunks.collect(), ..Subscribing::default() };
            }
            Output::Publish(publish) => self.outbox.push(publish),
            Output::Disconnect => self.leaving = Some(self.clock.now().plus(LEAVE)),
            Output::Persist { ticket, record, content } => self.persist(ticket, record, content),
            Output::Admit { ticket, release } => self.order(Order::Admit { ticket, release }),
            Output::Apply { instance, release, recreate } => {
                let intent = release.revision.digest;
                self.applied.insert(release.key.clone(), instance, intent);
                self.order(Order::Apply { instance, release, recreate });
            }
            Output::Remove { key, instance: _ } => {
                self.applied.remove(&key);
                self.order(Order::Remove { key });
            }
            Output::Fetch { digest, size, media_type, sources, deltas } => {
                self.fetch(Wanted { digest, size, media_type, sources, deltas });
            }
            Output::CancelFetch { digest } => {
                if let Some(transfer) = self.fetches.remove(&digest) {
                    transfer.abort();
                }
            }
            Output::Run { id, task } => self.command(id, task),
            Output::Abort { id } => {
                if let Some(command) = self.commands.remove(&id) {
                    command.abort();
                }
            }
            Output::Event { pod, warning, reason, message } => {
                self.event(pod.as_ref(), warning, reason, message);
            }
            Output::WakeAt(at) => self.wake_at = at,
        }
    }

    fn persist(&mut self, ticket: Ticket, record: RecordName, content: Option<Bytes>) {
        let (store, writes) = (Arc::clone(&self.store), Arc::clone(&self.writes));
        let out = self.inputs.0.clone();
        self.jobs.spawn(async move {
            // It is never closed.
            let _turn = writes.acquire().await;
            let write = move || records::write(&store, &record, content.as_deref());
            let written = tokio::task::spawn_blocking(write).await;
            let result = written.unwrap_or_else(|error| Err(error.to_string()));
            drop(out.send(Input::Persisted { ticket, result }).await);
        });
    }

    fn order(&mut self, order: Order) {
        if let Some(key) = order.changes() {
            // Of several that change one name and have not begun, the last holds.
            self.orders.retain(|waiting| waiting.changes() != Some(key));
        }
        self.orders.push_back(order);
    }

    fn next_order(&mut self) {
        if self.ordering.is_some() {
            return;
        }
        let Some(order) = self.orders.pop_front() else { return };
        let node = Arc::clone(&self.node);
        self.ordering = Some(Box::pin(async move {
            match order {
                Order::Admit { ticket, release } => {
                    let result = node.admit(release).await;
                    (Some(Input::Admitted { ticket, result }), None)
                }
                Order::Apply { instance, release, recreate } => {
                    let key = release.key.clone();
                    let applied = node.apply(release, recreate).await;
                    let refused = |refusal| Input::NotApplied { instance, refusal };
                    (applied.err().map(refused), Some(key))
                }
                Order::Remove { key } => {
                    node.withdraw(key).await;
                    (None, None)
                }
            }
        }));
    }

    fn fetch(&mut self, wanted: Wanted) {
        let (artifacts, out) = (Arc::clone(&self.artifacts), self.inputs.0.clone());
        let digest = wanted.digest;
        let handle = self.jobs.spawn(async move {
            let tell = out.clone();
            let progress = move |bytes| {
                // Where there is no room, the next one says more.
                let _ = tell.try_send(Input::Progress { digest, bytes });
            };
            let result = artifacts.fetch(wanted, &progress).await;
            drop(out.send(Input::Fetched { digest, result }).await);
        });
        if let Some(before) = self.fetches.insert(digest, handle) {
            before.abort();
        }
    }

    fn command(&mut self, id: String, task: Task) {
        let (node, out) = (Arc::clone(&self.node), self.inputs.0.clone());
        let (name, now_ms) = (self.topics.node().to_owned(), self.clock.now().wall_ms());
        let run = commands::run(node, name, now_ms, id.clone(), task, out);
        let handle = self.jobs.spawn(run);
        self.commands.insert(id, handle);
    }

    fn event(&self, pod: Option<&PodKey>, warning: bool, reason: &'static str, message: String) {
        let board = self.node.board();
        let node = self.topics.node();
        let involved = match pod {
            Some(key) => {
                let uid = board.pod(key).and_then(|pod| pod.metadata.uid.clone());
                ObjectReference {
                    kind: Some("Pod".into()),
                    namespace: Some(key.namespace.to_string()),
                    name: Some(key.name.to_string()),
                    uid,
                    ..ObjectReference::default()
                }
            }
            None => ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let about = pod.map(ToString::to_string).unwrap_or_default();
        if warning {
            warn!(pod = about, reason, "{message}");
        } else {
            info!(pod = about, reason, "{message}");
        }
        let draft = EventDraft {
            involved,
            warning,
            reason: reason.into(),
            message,
            component: "podling-mqtt".into(),
            host: node.to_owned(),
        };
        board.record(&draft, self.clock.now());
    }

    // ---- the pods' statuses ------------------------------------------------------------------------------------------------

    fn look_at_pods(&mut self) {
        let board = self.node.board();
        let pods = match &mut self.pods {
            Some(pods) => pods,
            // A watch of everything there is never begins too late.
            empty => match board.watch(Query::all(Kind::Pod), None) {
                Ok(watch) => empty.insert(watch),
                Err(_) => return,
            },
        };
        match pods.next_batch(PODS_AT_ONCE) {
            Ok(events) => {
                for event in events {
                    let is_there = event.event != WatchEventType::Deleted;
                    if let Object::Pod(pod) = &event.object
                        && is_there
                    {
                        let report = self.applied.report(pod, INTENT_ANNOTATION);
                        self.ready.extend(report);
                    }
                }
            }
            // Too slow: all of them once more.
            Err(_) => self.pods = None,
        }
    }
}
