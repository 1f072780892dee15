//! One program's connection to the broker, as an operator.
//!
//! Owns: what has been read so far and is believed, publishing until it is acknowledged, and answering nodes that fetch. Not:
//! what is published, nor what of it is waited for (`publish`), nor connecting and subscribing (`listen`). One task: everything happens inside
//! [`Session::step`].

mod listen;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;

use super::known::{KnownNodes, Mark};
use super::offer::{Offers, Sent};
use crate::artifact::BlockRequest;
use crate::clock::{Clock, Timestamp};
use crate::mqtt::command::Reply;
use crate::mqtt::controller::{self, Fleet, Message, Said, Subject};
use crate::mqtt::link::Reconnect;
use crate::mqtt::signature::{Proof, Standing};
use crate::mqtt::topic::{Outbound, Topics, Tree};
use crate::mqtt::transport::{
    Body, Closed, Event, NotTaken, Outgoing, Qos, Refused, Token, Transport,
};

/// How long the broker may take to answer one request.
const ANSWER: Duration = Duration::from_secs(30);

/// The shortest silence that ends the burst of retained messages.
const QUIET: Duration = Duration::from_millis(500);

/// A time that never comes.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Documents kept: as many as nodes and pods in a large fleet.
const DOCUMENTS_MAX: usize = 100_000;

/// Parts of an answer that wait to be put together: more than one may have.
const REPLIES_MAX: usize = 256;

/// While the library's queue is full of blocks, the next look at it.
const BLOCK_RETRY: Duration = Duration::from_millis(5);

/// The broker could not be reached, or does not do its part.
#[derive(Debug, Error)]
pub enum SessionError {
    /// Why each of the attempts failed, in order, each reason once.
    #[error("cannot connect to {broker}: {}", why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotReached { broker: String, why: Vec<Closed> },
    #[error("the connection to {broker} is lost")]
    Lost { broker: String, source: Closed },
    #[error("{broker} does not let this client read {filter}")]
    NotReadable { broker: String, filter: String, source: Refused },
    #[error("{broker} does not let this client publish to {topic}")]
    NotWritable { broker: String, topic: String, source: Refused },
    #[error("cannot publish to {topic}")]
    NotTaken { topic: String, source: NotTaken },
    #[error("{broker} has not answered within {0:?}", ANSWER)]
    NoAnswer { broker: String },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A node has said something that is news.
    Said {
        node: String,
    },
    /// A pod's document changed at the broker.
    Document {
        topic: String,
    },
    /// A part of the answer that is waited for: see [`Session::next_reply`].
    Reply,
    /// A request for blocks is answered.
    Sent(Sent),
    Acked(Token, Result<(), Refused>),
    Subscribed(Token, Vec<Result<(), Refused>>),
    /// Something that concerns nobody.
    Nothing,
    /// It is the time that was given.
    Time,
}

/// See the header.
#[derive(Debug)]
pub struct Session<T> {
    transport: T,
    tree: Tree,
    clock: Clock,
    /// When this session began, by the timers' clock.
    start: Instant,
    pace: Reconnect,
    /// For messages.
    broker: String,
    /// Brokers to try.
    brokers: usize,
    filters: Vec<String>,
    connected: bool,
    overrun: bool,
    last_message: Timestamp,
    quiet: Duration,
    outgoing: VecDeque<Outgoing>,
    /// The command whose answer is waited for, and what has come of it.
    asked: String,
    replies: VecDeque<Reply>,
    /// The worst that a part of it was worth.
    answer_standing: Standing,
    /// Told once the last of `outgoing` has gone out.
    sending: Option<Sent>,
    /// The newest that nodes have said.
    pub fleet: Fleet,
    /// What stands in pods' topics.
    pub documents: BTreeMap<String, Bytes>,
    pub offers: Offers,
    /// By which keys nodes are known. Only what they have said is in `fleet` and in answers.
    pub known: KnownNodes,
    /// What a person should hear of, once each.
    pub complaints: BTreeSet<String>,
}

impl<T: Transport> Session<T> {
    /// A session without a connection. `broker`: its name for people; `brokers`: how many there are to try.
    #[must_use]
    pub fn new(transport: T, tree: Tree, clock: Clock, broker: String, brokers: usize) -> Self {
        let start = Instant::now();
        Self {
            transport,
            tree,
            clock,
            start,
            pace: Reconnect::default(),
            broker,
            brokers,
            filters: vec![],
            connected: false,
            overrun: false,
            last_message: Timestamp::simulated(Duration::ZERO),
            quiet: QUIET,
            outgoing: VecDeque::new(),
            asked: String::new(),
            replies: VecDeque::new(),
            answer_standing: Standing::Verified,
            sending: None,
            fleet: Fleet::default(),
            documents: BTreeMap::new(),
            offers: Offers::default(),
            known: KnownNodes::default(),
            complaints: BTreeSet::new(),
        }
    }

    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Now: by the timers' clock for delays, by this machine's for people.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::new(self.start.elapsed(), self.clock.now().wall_ms())
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.start.checked_add(at.mono()).unwrap_or_else(|| self.start + NEVER)
    }

    #[must_use]
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Publishes and waits for the acknowledgement.
    ///
    /// # Errors
    /// The broker refuses it, or the connection breaks.
    pub async fn publish(&mut self, message: &Message) -> Result<(), SessionError> {
        self.publish_for(message, None).await
    }

    /// The same; the broker keeps it for a time only, if it keeps it at all.
    ///
    /// # Errors
    /// As [`Session::publish`].
    pub async fn publish_for(
        &mut self,
        message: &Message,
        expiry: Option<Duration>,
    ) -> Result<(), SessionError> {
        let outgoing = Outgoing {
            topic: message.topic.clone(),
            payload: Bytes::copy_from_slice(&message.payload),
            qos: Qos::AtLeastOnce,
            retain: message.retain,
            expiry,
        };
        let until = self.now().plus(ANSWER);
        let token = loop {
            match self.transport.publish(&outgoing) {
                Ok(token) => break token,
                Err(NotTaken::Busy) => drop(self.patiently(until).await?),
                Err(source) => {
                    return Err(SessionError::NotTaken { topic: outgoing.topic, source });
                }
            }
        };
        loop {
            let Step::Acked(found, result) = self.patiently(until).await? else { continue };
            if found != token {
                continue;
            }
            let (broker, topic) = (self.broker.clone(), outgoing.topic);
            return result.map_err(|source| SessionError::NotWritable { broker, topic, source });
        }
    }

    async fn patiently(&mut self, until: Timestamp) -> Result<Step, SessionError> {
        let step = self.step(until).await?;
        if step == Step::Time {
            return Err(SessionError::NoAnswer { broker: self.broker.clone() });
        }
        Ok(step)
    }

    /// The next thing that happens, or the given time.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn step(&mut self, until: Timestamp) -> Result<Step, SessionError> {
        if !self.connected {
            return Err(self.lost(Closed::ByUs));
        }
        loop {
            if let Some(sent) = self.send_blocks() {
                return Ok(Step::Sent(sent));
            }
            let now = self.now();
            let due =
                if self.outgoing.is_empty() { until } else { now.plus(BLOCK_RETRY).min(until) };
            let timer = tokio::time::sleep_until(self.instant(due));
            // A stream of messages must not keep the time from coming.
            let event = tokio::select! {
                () = timer => None,
                (_, event) = self.transport.next() => Some(event),
            };
            match event {
                None if self.now() >= until => return Ok(Step::Time),
                None => {}
                Some(event) => return self.take(event),
            }
        }
    }

    fn lost(&self, source: Closed) -> SessionError {
        SessionError::Lost { broker: self.broker.clone(), source }
    }

    fn take(&mut self, event: Event) -> Result<Step, SessionError> {
        Ok(match event {
            Event::Message(message) => {
                self.last_message = self.now();
                match message.body {
                    Body::Bytes(payload) => self.message(message.topic, payload),
                    Body::TooLarge { .. } => Step::Nothing,
                }
            }
            Event::Acked { token, result } => Step::Acked(token, result),
            Event::Subscribed { token, filters } => Step::Subscribed(token, filters),
            Event::Overrun => {
                self.overrun = true;
                Step::Nothing
            }
            Event::Closed(closed) => {
                self.connected = false;
                return Err(self.lost(closed));
            }
            Event::Connected(_) | Event::Unsubscribed(_) => Step::Nothing,
        })
    }

    fn message(&mut self, topic: String, payload: Bytes) -> Step {
        let mut standing = Standing::Unsigned;
        let read = controller::read(&self.tree, &topic, &payload);
        if let Some((node, outbound)) = self.tree.read_outbound(&topic) {
            if outbound == Outbound::Get {
                if let Ok(request) = BlockRequest::parse(&payload) {
                    self.offers.asked(node, request);
                }
                return Step::Nothing;
            }
            // Nobody can sign that there is nothing any more; who takes a message away could as well keep it to himself.
            if !payload.is_empty() {
                let mark = read.as_ref().and_then(|(_, said)| Mark::of(said));
                let (found, is_news) = self.weigh(node, outbound, mark, &topic, &payload);
                if !found.is_believed() {
                    return if is_news {
                        Step::Said { node: node.to_owned() }
                    } else {
                        Step::Nothing
                    };
                }
                standing = found;
            }
        }
        if let Some((node, said)) = read {
            if let Said::Reply(reply) = said {
                return self.reply(*reply, standing);
            }
            return match self.fleet.take(&node, said) {
                true => Step::Said { node },
                false => Step::Nothing,
            };
        }
        if !is_document(&self.tree, &topic) {
            return Step::Nothing;
        }
        if payload.is_empty() {
            self.documents.remove(&topic);
        } else if self.documents.contains_key(&topic) || self.documents.len() < DOCUMENTS_MAX {
            self.documents.insert(topic.clone(), payload);
        }
        Step::Document { topic }
    }

    /// What a message is worth, noted and complained of; and whether that is news.
    fn weigh(
        &mut self,
        node: &str,
        outbound: Outbound<'_>,
        mark: Option<Mark>,
        topic: &str,
        payload: &[u8],
    ) -> (Standing, bool) {
        let proof = Proof::of(self.tree.below_root(topic), payload);
        let judged = self.known.judge(node, proof, mark);
        self.complaints.extend(judged.complaint);
        if judged.is_first {
            self.fleet.forget_unsigned(node);
        }
        let subject = match outbound {
            Outbound::Online => Subject::Online,
            Outbound::Node => Subject::Node,
            Outbound::Pod { key } => Subject::Pod(key),
            Outbound::Reply { .. } | Outbound::Get => return (judged.standing, false),
        };
        (judged.standing, self.fleet.weigh(node, subject, judged.standing))
    }

    fn reply(&mut self, reply: Reply, standing: Standing) -> Step {
        if reply.id != self.asked || self.replies.len() >= REPLIES_MAX {
            return Step::Nothing;
        }
        self.answer_standing = self.answer_standing.max(standing);
        self.replies.push_back(reply);
        Step::Reply
    }

    /// Keeps the answer to this command from now on, and of no other.
    pub fn await_reply(&mut self, id: &str) {
        id.clone_into(&mut self.asked);
        self.replies.clear();
        self.answer_standing = Standing::Verified;
    }

    /// What the answer so far is worth: of its parts, the worst.
    #[must_use]
    pub fn answer_standing(&self) -> Standing {
        self.answer_standing
    }

    /// The next part of the answer, if one has come.
    pub fn next_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// Sends as many blocks as may be sent; what they were, once an answer has gone out whole.
    fn send_blocks(&mut self) -> Option<Sent> {
        if self.outgoing.is_empty() && self.offers.is_asked() {
            let blocks = self.offers.answer()?;
            let topics = Topics::new(self.tree.root(), self.tree.tenant(), &blocks.node).ok()?;
            let topic = topics.block(&blocks.transfer).ok()?;
            self.outgoing.extend(blocks.messages.into_iter().map(|payload| Outgoing {
                topic: topic.clone(),
                payload: payload.into(),
                qos: Qos::AtMostOnce,
                retain: false,
                expiry: None,
            }));
            self.sending = Some(blocks.sent);
        }
        while let Some(block) = self.outgoing.front() {
            match self.transport.publish(block) {
                Ok(_) => {}
                Err(NotTaken::Busy | NotTaken::NotConnected) => return None,
                // The node notices that nothing comes, and asks for smaller blocks.
                Err(error @ (NotTaken::TooLarge { .. } | NotTaken::BadTopic)) => {
                    self.complaints.insert(format!("a block of a module was not sent: {error}"));
                }
            }
            self.outgoing.pop_front();
        }
        self.sending.take()
    }

    /// Says goodbye.
    pub async fn leave(&mut self) {
        self.connected = false;
        self.transport.goodbye().await;
    }
}

/// Whether a topic is that of a document to nodes: a pod's, a node's index, or the tenant's trust.
fn is_document(tree: &Tree, topic: &str) -> bool {
    let rest = topic.strip_prefix(tree.root()).and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.and_then(|rest| rest.strip_prefix(tree.tenant()));
    let levels: Vec<&str> = rest.map(|rest| rest.split('/').collect()).unwrap_or_default();
    matches!(levels[..], ["", "n" | "g", _, "pod", _, _] | ["", "n", _, "desired"] | ["", "trust"])
}
