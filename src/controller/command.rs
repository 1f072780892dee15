//! One command to a node that is there, and its answer put together.
//!
//! Owns: whom to ask on which connection, saying it again without its being done twice, the answer's pieces, and every way in which no
//! answer comes. Not: what the verbs do (`docs/mqtt.md`, "Commands"), nor how an answer is shown (`cli::fleet`).
//!
//! ```text
//!  birth ─► conn ─► signed command ─► node ─► piece 0, 1, … outcome
//!             ▲                         │
//!             └── node came back: the ──┘   our connection broke: the same again
//!                 same id, new conn
//! ```
//!
//! The id stays the same however often the command is said: a node carries it out once, and answers what comes again with what became of it.
//! Only a restart of the node's daemon makes it forget, so what changes something is not said again over that.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::session::{Session, SessionError, Step};
use crate::clock::Timestamp;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::command::{Arguments, Command, Outcome, REPLY_BYTES_MAX, Reply, Verb};
use crate::mqtt::controller::{self, Message, SecretKey};
use crate::mqtt::intent::{API_VERSION, time_ms, time_text};
use crate::mqtt::signature::Standing;
use crate::mqtt::status::Online;
use crate::mqtt::topic::Topics;
use crate::mqtt::transport::Transport;

/// The longest that a broker may keep a command for a node that is just not there.
const EXPIRY_MAX: Duration = Duration::from_secs(300);

/// A command that came before the node's birth on a new connection is refused before that birth is heard of.
const BIRTH: Duration = Duration::from_secs(3);

/// What two clocks may differ by without anybody's noticing.
const SKEW: Duration = Duration::from_secs(5);

/// Times that a command is said: for each of them a connection broke.
const TRIES_MAX: u32 = 5;

/// What a node is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub node: String,
    pub verb: Verb,
    pub arguments: Arguments,
    /// A level of a topic, and no other command's.
    pub id: String,
}

/// A node's whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The connection on which it was asked.
    pub conn: u64,
    pub content: Vec<u8>,
    pub outcome: Outcome,
    /// It was carried out before, and this is what became of it then.
    pub repeated: bool,
    /// From when it was said for the last time.
    pub took: Duration,
    /// Whose word it is.
    pub standing: Standing,
    /// The node's clock is this far ahead of ours at least, where that is why it came too late.
    pub clock_behind: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the command is not sent: {}", .0.message)]
    Refused(Refusal),
    #[error(
        "{broker} knows no node {node}, or does not let this client read what it says (podling fleet get nodes lists those that are known)"
    )]
    Unknown { broker: String, node: String },
    #[error("node {node} is offline: a command is for a node that is there")]
    Offline { node: String, heard: Option<Duration> },
    #[error("node {node} went offline before it answered: whether it has done it is not known")]
    WentAway { node: String },
    #[error("node {node} has started anew before it answered: whether it has done it is not known")]
    StartedAnew { node: String },
    #[error(
        "node {node} has not answered within {within:?}, and the broker says that it is there. It may have done it: --id {id} asks what \
         became of it and does nothing twice"
    )]
    NoAnswer { node: String, within: Duration, id: String },
    #[error("a part of the answer of node {node} is missing: ask again")]
    Incomplete { node: String },
    #[error("node {node} answers with what is no answer: {why}")]
    Nonsense { node: String, why: &'static str },
}

/// Asks, and waits for the answer. The session is connected and listens to nothing yet.
///
/// # Errors
/// See [`AskError`]. That the node refuses, or could not do it, is an answer.
pub async fn ask<T: Transport>(
    session: &mut Session<T>,
    question: &Question,
    keys: &[&SecretKey],
    within: Duration,
) -> Result<Answer, AskError> {
    let topics = Topics::new(session.tree().root(), session.tree().tenant(), &question.node);
    let topics = topics.map_err(invalid)?;
    let answers = topics.reply(&question.id).map_err(invalid)?;
    let until = session.now().plus(within);
    session.listen(vec![topics.online(), topics.node_status(), answers]).await?;
    let node = question.node.clone();
    session
        .settle_unless(|fleet| {
            let view = fleet.nodes.get(&node);
            let birth = view.and_then(|view| view.online.as_ref());
            // Of one that is away, its last word says since when.
            birth.is_some_and(|it| it.online || view.is_some_and(|view| view.status.is_some()))
        })
        .await?;
    let asking = Asking { question, keys, within, until };
    let mut birth = asking.birth(session)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let came = asking.once(session, &birth).await;
        let again = match came {
            Ok(Came::Answer(answer)) => return Ok(answer),
            Ok(Came::Birth) => true,
            Ok(Came::Again) => question.verb.reads_only(),
            Err(AskError::Session(lost @ SessionError::Lost { .. })) => {
                session.come_back(until, lost).await?;
                true
            }
            Err(error) => return Err(error),
        };
        if !again || tries >= TRIES_MAX {
            return Err(AskError::Incomplete { node });
        }
        let now = asking.birth(session)?;
        if now.boot != birth.boot && !may_be_done_twice(question.verb) {
            return Err(AskError::StartedAnew { node });
        }
        birth = now;
    }
}

/// What forgets nothing when it is done once more.
fn may_be_done_twice(verb: Verb) -> bool {
    match verb {
        Verb::Logs | Verb::Describe | Verb::Ping | Verb::Resync => true,
        Verb::Restart | Verb::Exec => false,
    }
}

fn invalid(error: crate::mqtt::topic::TopicError) -> AskError {
    AskError::Refused(Refusal::new(Reason::Invalid, error.to_string()))
}

/// What came of saying it once.
#[derive(Debug)]
enum Came {
    Answer(Answer),
    /// The node is there on another connection: what was said is void.
    Birth,
    /// A piece is missing.
    Again,
}

struct Asking<'a> {
    question: &'a Question,
    keys: &'a [&'a SecretKey],
    within: Duration,
    until: Timestamp,
}

impl Asking<'_> {
    /// The node's connection that stands.
    fn birth<T: Transport>(&self, session: &Session<T>) -> Result<Online, AskError> {
        let node = self.question.node.clone();
        let view = session.fleet.nodes.get(&node);
        match view.and_then(|view| view.online.as_ref()) {
            None => Err(AskError::Unknown { broker: session.broker().to_owned(), node }),
            Some(online) if online.online => Ok(online.clone()),
            Some(_) => {
                let said = view.and_then(|view| view.status.as_ref()?.stamp.time.as_deref());
                let ago = said.and_then(time_ms).map(|said| session.now().wall_ms() - said);
                let heard = ago.and_then(|ago| u64::try_from(ago).ok()).map(Duration::from_millis);
                Err(AskError::Offline { node, heard })
            }
        }
    }

    /// Says it on one connection of the node, and waits for what comes of it.
    async fn once<T: Transport>(
        &self,
        session: &mut Session<T>,
        birth: &Online,
    ) -> Result<Came, AskError> {
        let node = || self.question.node.clone();
        let begun = session.now();
        let left = self.until.since(begun).min(EXPIRY_MAX);
        let message = self.message(session, birth.conn, begun, left)?;
        session.await_reply(&self.question.id);
        let mut pieces = Pieces::default();
        session.publish_for(&message, Some(left)).await?;
        let mut until = self.until;
        let mut expired: Option<Answer> = None;
        loop {
            while let Some(reply) = session.next_reply() {
                let put = pieces.put(&reply);
                match put.map_err(|why| AskError::Nonsense { node: node(), why })? {
                    Put::Part => {}
                    Put::Missing => return Ok(Came::Again),
                    Put::End(outcome) => {
                        let (conn, repeated) = (birth.conn, reply.repeated);
                        let content = std::mem::take(&mut pieces.content);
                        let took = session.now().since(begun);
                        let clock_behind = self.clock_behind(session, &outcome);
                        let standing = session.answer_standing();
                        let answer = Answer {
                            conn,
                            content,
                            outcome,
                            repeated,
                            took,
                            standing,
                            clock_behind,
                        };
                        if answer.outcome.reason != Some(Reason::Expired) || expired.is_some() {
                            return Ok(Came::Answer(answer));
                        }
                        // Perhaps the node is on its next connection, whose birth is on its way.
                        until = until.min(session.now().plus(BIRTH));
                        expired = Some(answer);
                    }
                }
            }
            if session.step(until).await? == Step::Time {
                let (within, id) = (self.within, self.question.id.clone());
                let silent = AskError::NoAnswer { node: node(), within, id };
                return expired.map(Came::Answer).ok_or(silent);
            }
            let view = session.fleet.nodes.get(&self.question.node);
            match view.and_then(|view| view.online.as_ref()) {
                Some(now) if now.online && now.conn > birth.conn => return Ok(Came::Birth),
                Some(now) if !now.online => return Err(AskError::WentAway { node: node() }),
                Some(_) | None => {}
            }
        }
    }

    fn message<T: Transport>(
        &self,
        session: &Session<T>,
        conn: u64,
        now: Timestamp,
        left: Duration,
    ) -> Result<Message, AskError> {
        let command = Command {
            api_version: API_VERSION.to_owned(),
            kind: "Command".to_owned(),
            tenant: session.tree().tenant().to_owned(),
            node: self.question.node.clone(),
            id: self.question.id.clone(),
            verb: self.question.verb,
            conn,
            issued_at: time_text(now.wall_ms()),
            expires_at: Some(time_text(now.plus(left).wall_ms())),
            arguments: self.question.arguments.clone(),
        };
        controller::command(session.tree(), &command, self.keys).map_err(AskError::Refused)
    }

    /// How far our clock is behind the node's at least, where it says that the command came too late.
    fn clock_behind<T: Transport>(
        &self,
        session: &Session<T>,
        outcome: &Outcome,
    ) -> Option<Duration> {
        let status = session.fleet.nodes.get(&self.question.node)?.status.as_ref()?;
        let said = status.stamp.time.as_deref().and_then(time_ms)?;
        let behind = u64::try_from(said.saturating_sub(session.now().wall_ms())).ok()?;
        let behind = Duration::from_millis(behind);
        (outcome.reason == Some(Reason::Expired) && behind > SKEW).then_some(behind)
    }
}

/// An answer in the making.
#[derive(Debug, Default)]
struct Pieces {
    content: Vec<u8>,
    next: u64,
}

/// What a piece was.
#[derive(Debug, PartialEq)]
enum Put {
    Part,
    /// One before it has not come.
    Missing,
    End(Outcome),
}

impl Pieces {
    fn put(&mut self, reply: &Reply) -> Result<Put, &'static str> {
        if reply.piece == 0 {
            // It answers anew.
            *self = Self::default();
        }
        if reply.piece < self.next {
            return Ok(Put::Part);
        }
        if reply.piece > self.next {
            return Ok(Put::Missing);
        }
        let decoded = STANDARD.decode(&reply.base64).map_err(|_| "base64 that is none")?;
        let part = if decoded.is_empty() { reply.text.as_bytes() } else { &decoded };
        if self.content.len() + part.len() > REPLY_BYTES_MAX {
            return Err("more than an answer may have");
        }
        self.content.extend_from_slice(part);
        self.next += 1;
        match (&reply.outcome, reply.more) {
            (_, true) => Ok(Put::Part),
            (Some(outcome), false) => Ok(Put::End(outcome.clone())),
            (None, false) => Err("an end without an outcome"),
        }
    }
}
