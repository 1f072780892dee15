//! The loop: what happened goes into the protocol, what it answers is done.
//!
//! Owns: waiting for whatever comes first, and the source's state. `link` has what has to do with the broker, `perform` what the protocol
//! wants done.

mod link;
mod perform;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::outbox::Outbox;
use super::reports::Applied;
use super::{Artifacts, INTENT_ANNOTATION, Node};
use crate::board::{Kind, Object, Query, Watch, WatchEventType};
use crate::clock::{Clock, Timestamp};
use crate::image::Digest;
use crate::mqtt::link::Reconnect;
use crate::mqtt::protocol::{Input, Instance, Output, Protocol};
use crate::mqtt::topic::Topics;
use crate::mqtt::transport::{Event, Limits, Token, Transport};
use crate::spec::PodKey;
use crate::store::Store;
use perform::{Order, Ordering};

/// Inputs of finished work that wait for the loop. Whoever finds it full waits.
const INPUTS_MAX: usize = 64;

/// Records written at a time, so that the disk can gather their syncs and the blocking threads stay free for others.
const WRITES_MAX: usize = 4;

/// Changes of the board taken in one turn.
const PODS_AT_ONCE: usize = 64;

/// Made when systemd's time service has set the clock.
const CLOCK_IS_SET: &str = "/run/systemd/timesync/synchronized";

/// How often to look for it.
const CLOCK_LOOK: Duration = Duration::from_secs(60);

/// The same where only the wrong time stands between this node and its broker.
const CLOCK_LOOK_WAITING: Duration = Duration::from_secs(2);

/// A wall clock that runs this far ahead of, or behind, the time that has passed has been set. Less is a time service's daily work.
const CLOCK_JUMP_MS: i64 = 10_000;

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
    /// How long the broker waits with our last will: a short break of the link is no news.
    pub will_delay: Duration,
    /// Why it must not connect, if it must not: what was accepted runs all the same.
    pub off: Option<String>,
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
    will_delay: Duration,
    reconnect: Reconnect,
    outbox: Outbox,
    subscribing: Subscribing,
    dial_at: Option<Timestamp>,
    wake_at: Option<Timestamp>,
    look_at_clock: Timestamp,
    /// A certificate is not valid at the time that the clock shows: it is tried again as soon as somebody sets it. The clock of that attempt.
    wrong_time: Option<Timestamp>,
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
            will_delay: parts.will_delay,
            reconnect: Reconnect::default(),
            outbox: Outbox::default(),
            subscribing: Subscribing::default(),
            dial_at,
            wake_at: None,
            look_at_clock: now,
            wrong_time: None,
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
            // A broker that never pauses must not keep this thread from everybody else.
            tokio::task::coop::consume_budget().await;
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
        // Each arm is cancel-safe: what is not taken is there the next time. The broker comes last: it alone decides how much there is of
        // what it says, and must not keep a write from being acknowledged, a deadline from being seen.
        tokio::select! {
            biased;
            () = stopped => Happened::Stop,
            Some(input) = self.inputs.1.recv() => Happened::Input(input),
            (input, changed) = ordered => Happened::Ordered(input, changed),
            () = timer => Happened::Time,
            () = pods => Happened::Pods,
            () = self.node.name_came_free() => Happened::Input(Input::Reconsider),
            request = self.artifacts.request() => Happened::Get(request),
            (_, event) = self.transport.next() => Happened::Link(event),
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
            let waiting = self.wrong_time.is_some_and(|of| !was_set(of, now));
            self.look_at_clock = now.plus(if waiting { CLOCK_LOOK_WAITING } else { CLOCK_LOOK });
            if !waiting && self.wrong_time.take().is_some() {
                info!("the clock has been set: trying the broker again");
                self.dial_at = self.dial_at.map(|_| now);
            }
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

/// Whether the wall clock has been set between the two.
fn was_set(before: Timestamp, now: Timestamp) -> bool {
    let shown = now.wall_ms().saturating_sub(before.plus(now.since(before)).wall_ms());
    !(-CLOCK_JUMP_MS..=CLOCK_JUMP_MS).contains(&shown)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_clock_that_drifts_was_not_set() {
        const YEAR_MS: i64 = 365 * 24 * 3_600_000;
        let before = Timestamp::new(Duration::from_secs(100), 5_000);
        let after =
            |passed: u64, wall_ms| Timestamp::new(Duration::from_secs(100 + passed), wall_ms);
        for (now, set) in [
            (after(0, 5_000), false),
            (after(3600, 3_605_000), false),
            (after(3600, 3_605_000 + CLOCK_JUMP_MS), false),
            (after(3600, 5_000), true),
            (after(1, 56 * YEAR_MS), true),
            (after(1, i64::MIN), true),
            (after(1, i64::MAX), true),
        ] {
            assert_eq!(was_set(before, now), set, "{now:?}");
        }
    }
}
