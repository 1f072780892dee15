//! A broker as a script: it keeps what is retained, answers what it is told to answer, and may have a node behind it ([`Lab`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::controller::session::Session;
use crate::mqtt::controller::Message;
use crate::mqtt::kit::{self, Lab};
use crate::mqtt::transport::{
    Body, Closed, ConnId, Event, Limits, Message as Heard, NotTaken, Outgoing, Refused, Token,
    Transport, Version, Will, codes,
};

/// What the broker does with a message.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Takes it, and says so.
    Ack,
    /// Takes it, and says nothing.
    Silence,
    /// The access list forbids it.
    Refuse,
    /// The connection ends with it.
    Close(Closed),
    /// It does not get as far as the broker.
    NotTaken(NotTaken),
}

pub(super) struct State {
    queue: VecDeque<(Instant, ConnId, Event)>,
    conn: ConnId,
    token: u64,
    is_open: bool,
    filters: Vec<String>,
    pub(super) retained: BTreeMap<String, Bytes>,
    pub(super) published: Vec<Outgoing>,
    pub(super) subscriptions: usize,
    /// What it does with the messages to come; afterwards [`Act::Ack`].
    pub(super) plan: VecDeque<Act>,
    /// How it greets the connections to come; afterwards it takes them.
    pub(super) greetings: VecDeque<Closed>,
    /// Which filters it does not grant, by what is in them.
    pub(super) forbidden: Option<&'static str>,
    pub(super) answers_subscriptions: bool,
    pub(super) node: Option<Lab>,
    interjections: Vec<Event>,
    /// How much of what the node has sent was passed on.
    passed: usize,
}

/// The broker, seen by the test.
#[derive(Clone)]
pub(super) struct Broker(Arc<Mutex<State>>);

/// The broker, seen by the session.
pub(super) struct Script(Broker);

pub(super) fn message(topic: &str, payload: &[u8], retained: bool) -> Event {
    let body = Body::Bytes(Bytes::copy_from_slice(payload));
    Event::Message(Heard { topic: topic.to_owned(), retained, body })
}

impl Broker {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            queue: VecDeque::new(),
            conn: ConnId(0),
            token: 0,
            is_open: false,
            filters: vec![],
            retained: BTreeMap::new(),
            published: vec![],
            subscriptions: 0,
            plan: VecDeque::new(),
            greetings: VecDeque::new(),
            forbidden: None,
            answers_subscriptions: true,
            node: None,
            interjections: vec![],
            passed: 0,
        })))
    }

    /// With a node behind it that is online.
    pub(super) fn with_node() -> Self {
        Self::with(Lab::online())
    }

    /// With that node behind it.
    pub(super) fn with(lab: Lab) -> Self {
        let broker = Self::new();
        broker.state().passed = lab.sent.len();
        broker.state().node = Some(lab);
        broker
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn session(&self, brokers: usize) -> Session<Script> {
        let script = Script(self.clone());
        Session::new(script, kit::tree(), Clock::start(), "mqtt://broker".to_owned(), brokers)
    }

    /// Somebody says this as soon as the next message is published, before anybody else.
    pub(super) fn on_publish(&self, events: Vec<Event>) {
        self.state().interjections = events;
    }

    /// Something happens on the connection that stands, after a while.
    pub(super) fn later(&self, after: Duration, event: Event) {
        let mut state = self.state();
        let conn = state.conn;
        state.put(after, conn, event);
    }

    /// Does something to the node, and passes on what it says of that.
    pub(super) fn node<R>(&self, act: impl FnOnce(&mut Lab) -> R) -> R {
        let mut state = self.state();
        let result = act(state.node.as_mut().unwrap());
        state.pass_on(Duration::ZERO);
        result
    }
}

impl State {
    fn put(&mut self, after: Duration, conn: ConnId, event: Event) {
        let at = Instant::now() + after;
        let place = self.queue.partition_point(|(other, ..)| *other <= at);
        self.queue.insert(place, (at, conn, event));
    }

    fn matches(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| fits(filter, topic))
    }

    /// What the node has said since goes to whoever listens.
    fn pass_on(&mut self, after: Duration) {
        let Some(node) = &self.node else { return };
        let sent = node.sent[self.passed..].to_vec();
        self.passed = node.sent.len();
        for publish in sent {
            if publish.retain {
                self.retained.insert(publish.topic.clone(), publish.payload.clone());
            }
            if self.is_open && self.matches(&publish.topic) {
                self.put(after, self.conn, message(&publish.topic, &publish.payload, false));
            }
        }
    }
}

fn fits(filter: &str, topic: &str) -> bool {
    let (mut levels, mut filter) = (topic.split('/'), filter.split('/'));
    loop {
        match (filter.next(), levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

impl Transport for Script {
    fn connect(&mut self, _: Option<Will>) -> ConnId {
        let mut state = self.0.state();
        state.conn = ConnId(state.conn.0 + 1);
        let conn = state.conn;
        state.filters.clear();
        let event = match state.greetings.pop_front() {
            Some(closed) => Event::Closed(closed),
            None => {
                state.is_open = true;
                let keep_alive = Duration::from_secs(15);
                let version = Version::V5;
                Event::Connected(Limits { version, max_packet: None, window: 10, keep_alive })
            }
        };
        state.put(Duration::from_millis(10), conn, event);
        conn
    }

    fn drop_connection(&mut self) {
        self.0.state().is_open = false;
    }

    async fn goodbye(&mut self) {
        self.drop_connection();
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<Token, NotTaken> {
        let mut state = self.0.state();
        if !state.is_open {
            return Err(NotTaken::NotConnected);
        }
        state.subscriptions += 1;
        state.token += 1;
        let (token, conn) = (Token(state.token), state.conn);
        if !state.answers_subscriptions {
            return Ok(token);
        }
        let forbidden = state.forbidden;
        let refused = Refused { code: codes::NOT_AUTHORIZED, name: "not authorized" };
        let is_forbidden = |f: &String| forbidden.is_some_and(|part| f.contains(part));
        let results =
            filters.iter().map(|f| if is_forbidden(f) { Err(refused) } else { Ok(()) }).collect();
        state.put(Duration::from_millis(20), conn, Event::Subscribed { token, filters: results });
        state.filters.extend(filters.iter().cloned());
        for (topic, payload) in state.retained.clone() {
            if filters.iter().any(|filter| fits(filter, &topic)) {
                let event = message(&topic, &payload, true);
                state.put(Duration::from_millis(25), conn, event);
            }
        }
        Ok(token)
    }

    fn unsubscribe(&mut self, _: &str) -> Result<Token, NotTaken> {
        Err(NotTaken::NotConnected)
    }

    fn publish(&mut self, outgoing: &Outgoing) -> Result<Token, NotTaken> {
        let mut state = self.0.state();
        if !state.is_open {
            return Err(NotTaken::NotConnected);
        }
        let act = state.plan.pop_front().unwrap_or(Act::Ack);
        if let Act::NotTaken(why) = act {
            return Err(why);
        }
        state.token += 1;
        let (token, conn) = (Token(state.token), state.conn);
        state.published.push(outgoing.clone());
        let soon = Duration::from_millis(5);
        match act {
            Act::Ack => state.put(soon, conn, Event::Acked { token, result: Ok(()) }),
            Act::Refuse => {
                let refused = Refused { code: codes::NOT_AUTHORIZED, name: "not authorized" };
                state.put(soon, conn, Event::Acked { token, result: Err(refused) });
                return Ok(token);
            }
            Act::Close(closed) => {
                state.is_open = false;
                state.put(soon, conn, Event::Closed(closed));
                return Ok(token);
            }
            Act::Silence | Act::NotTaken(_) => {}
        }
        if outgoing.retain {
            state.retained.insert(outgoing.topic.clone(), outgoing.payload.clone());
        }
        for event in std::mem::take(&mut state.interjections) {
            state.put(soon, conn, event);
        }
        if let Some(node) = &mut state.node {
            node.publish(&Message {
                topic: outgoing.topic.clone(),
                payload: outgoing.payload.to_vec(),
                retain: outgoing.retain,
                digest: crate::image::Digest::new([0; 32]),
            });
            state.pass_on(Duration::from_millis(8));
        }
        Ok(token)
    }

    fn limits(&self) -> Option<&Limits> {
        None
    }

    async fn next(&mut self) -> (ConnId, Event) {
        loop {
            let first = self.0.state().queue.front().map(|(at, ..)| *at);
            let Some(at) = first else { std::future::pending().await };
            tokio::time::sleep_until(at).await;
            let mut state = self.0.state();
            if let Some((_, conn, event)) = state.queue.pop_front() {
                if matches!(event, Event::Closed(_)) && conn == state.conn {
                    state.is_open = false;
                }
                return (conn, event);
            }
        }
    }
}
