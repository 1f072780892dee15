//! Commands: each is carried out once, answered in pieces, within bounds.
//!
//! Owns: which are new, which may run, their pieces and ends. Not: carrying them out.
//!
//! Delivery is at least once; an id makes it exactly once as far as effects go. A command is for one connection of one node
//! (`conn`), which the sender has from the birth message: what a broker kept or recorded means nothing to the next connection.
//! Within one, the last [`COMMANDS_KEPT`] ids are known, and of each key nothing is taken that was signed before the newest of its
//! commands that was forgotten. (Of each key: the time is the signer's word, and one that lies must not shut out the others.)

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Protocol;
use super::io::Output;
use super::outbox::Subject;
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::command::{
    COMMAND_TIME_MAX, Command, Outcome, PIECE_BYTES_MAX, REPLY_BYTES_MAX, Reply, Task, Verb,
};
use crate::mqtt::envelope::{Envelope, PayloadType, digest};
use crate::mqtt::intent::{API_VERSION, time_ms};
use crate::mqtt::trust::Role;

/// Commands of which the id and the outcome are remembered.
pub const COMMANDS_KEPT: usize = 256;

/// Commands that run at a time.
const RUNNING_MAX: usize = 8;

#[derive(Debug)]
struct Known {
    id: String,
    /// What it was: verb and arguments.
    what: Digest,
    issued_ms: i64,
    /// Who signed it.
    keyid: String,
    /// `None` while it runs.
    outcome: Option<Outcome>,
}

#[derive(Debug)]
struct Running {
    verb: Verb,
    piece: u64,
    bytes: usize,
    until: Timestamp,
}

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Commands {
    known: VecDeque<Known>,
    running: BTreeMap<String, Running>,
    /// When the newest of the forgotten ones was signed, by key: at most as many as are in force on one connection.
    floors_ms: BTreeMap<String, i64>,
}

impl Commands {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.running.values().map(|running| running.until).min()
    }

    /// Another connection: what was for an earlier one is refused for that.
    pub(super) fn begin_anew(&mut self) {
        self.floors_ms.clear();
    }

    fn remember(&mut self, known: Known) {
        self.known.push_back(known);
        if self.known.len() > COMMANDS_KEPT {
            let Some(oldest) = self.known.pop_front() else { return };
            let floor = self.floors_ms.entry(oldest.keyid).or_insert(oldest.issued_ms);
            *floor = oldest.issued_ms.max(*floor);
        }
    }

    fn finish(&mut self, id: &str, outcome: &Outcome) {
        if let Some(known) = self.known.iter_mut().find(|known| known.id == id) {
            known.outcome = Some(outcome.clone());
        }
    }
}

impl Protocol {
    pub(super) fn command_message(&mut self, verb: &str, id: &str, payload: &[u8], retained: bool) {
        if payload.is_empty() {
            return;
        }
        match self.judge_command(verb, id, payload, retained) {
            Ok((command, task, keyid)) => self.command(command, task, keyid),
            Err(refusal) => {
                let message = format!("command {verb} {id}: {}", refusal.message);
                self.tell_refusal(None, refusal.reason.as_str(), message);
                self.reply_end(id, verb, 0, Outcome::refused(refusal), false);
            }
        }
    }

    fn judge_command(
        &mut self,
        verb: &str,
        id: &str,
        payload: &[u8],
        retained: bool,
    ) -> Result<(Command, Task, String), Refusal> {
        let expired = |message: String| Err(Refusal::new(Reason::Expired, message));
        if retained {
            return expired("a command must not be retained".to_owned());
        }
        let envelope = Envelope::open(payload, PayloadType::Command)?;
        self.config.trust.verify_bytes(&envelope, Role::Command)?;
        let (command, task) = Command::read(&envelope.payload)?;
        let topics = &self.config.topics;
        let tenant = topics.tenant();
        let namespace = command.namespace();
        let signer = self.config.trust.verify(&envelope, Role::Command, tenant, namespace)?;
        let for_us = command.tenant == tenant && command.node == topics.node();
        if !for_us || command.id != id || command.verb.as_str() != verb {
            let message = "it is for another node, or came under another topic";
            return Err(Refusal::new(Reason::WrongTarget, message));
        }
        if !self.config.verbs.contains(&command.verb) {
            let message = format!("{verb} is not allowed by this node's configuration");
            return Err(Refusal::new(Reason::NotSupported, message));
        }
        let conn = self.connection.conn();
        if command.conn != conn {
            return expired(format!("it is for connection {}, and this is {conn}", command.conn));
        }
        let late = |text: &str| time_ms(text).is_some_and(|at| at < self.now.wall_ms());
        if self.clocks.synced && command.expires_at.as_deref().is_some_and(late) {
            return expired("its time is over".to_owned());
        }
        let issued_ms = time_ms(&command.issued_at).unwrap_or_default();
        let known = self.commands.known.iter().find(|known| known.id == id);
        if known.is_some_and(|known| known.what != what(&command)) {
            // Its outcome would pass for this one's.
            let message = "another command had this id: choose a fresh one";
            return Err(Refusal::new(Reason::Invalid, message));
        }
        let floor = self.commands.floors_ms.get(signer.keyid());
        if known.is_none() && floor.is_some_and(|floor| issued_ms <= *floor) {
            return expired("it was signed before commands that are forgotten already".to_owned());
        }
        Ok((command, task, signer.keyid().to_owned()))
    }

    /// A command that may be carried out, now or again.
    fn command(&mut self, command: Command, task: Task, keyid: String) {
        let what = what(&command);
        let (id, verb) = (command.id, command.verb);
        if self.commands.running.contains_key(&id) {
            return;
        }
        let known = self.commands.known.iter().find(|known| known.id == id);
        let is_new = known.is_none();
        if let Some(outcome) = known.and_then(|known| known.outcome.clone())
            && !verb.reads_only()
        {
            return self.reply_end(&id, verb.as_str(), 0, outcome, true);
        }
        if self.commands.running.len() >= RUNNING_MAX {
            let refusal = Refusal::new(Reason::Busy, format!("{RUNNING_MAX} commands run already"));
            return self.reply_end(&id, verb.as_str(), 0, Outcome::refused(refusal), false);
        }
        if is_new {
            let issued_ms = time_ms(&command.issued_at).unwrap_or_default();
            let known = Known { id: id.clone(), what, issued_ms, keyid, outcome: None };
            self.commands.remember(known);
        }
        match task {
            Task::Ping => self.done_at_once(&id, verb),
            Task::Resync => {
                self.resync();
                self.outbox.everything(self.pods.keys());
                self.done_at_once(&id, verb);
            }
            task @ (Task::Logs { .. }
            | Task::Restart { .. }
            | Task::Describe { .. }
            | Task::Exec { .. }) => {
                let until = self.now.plus(COMMAND_TIME_MAX);
                let running = Running { verb, piece: 0, bytes: 0, until };
                self.commands.running.insert(id.clone(), running);
                self.put(Output::Run { id, task });
            }
        }
    }

    fn done_at_once(&mut self, id: &str, verb: Verb) {
        let outcome = Outcome::done();
        self.commands.finish(id, &outcome);
        self.reply_end(id, verb.as_str(), 0, outcome, false);
    }

    pub(super) fn answer(&mut self, id: &str, content: &[u8]) {
        let Some(running) = self.commands.running.get_mut(id) else { return };
        let verb = running.verb;
        let room = REPLY_BYTES_MAX - running.bytes;
        let (taken, over) = content.split_at(content.len().min(room));
        let mut rest = taken;
        let mut replies = vec![];
        while !rest.is_empty() {
            let (piece, after) = cut(rest);
            replies.push(reply(id, verb.as_str(), running.piece, piece));
            running.piece += 1;
            running.bytes += piece.len();
            rest = after;
        }
        for reply in replies {
            self.put_reply(&reply);
        }
        if !over.is_empty() {
            self.put(Output::Abort { id: id.to_owned() });
            self.end(id, Outcome { truncated: true, ..Outcome::done() });
        }
    }

    pub(super) fn answered(&mut self, id: &str, outcome: Outcome) {
        self.end(id, outcome);
    }

    fn end(&mut self, id: &str, outcome: Outcome) {
        let Some(running) = self.commands.running.remove(id) else { return };
        self.commands.finish(id, &outcome);
        self.reply_end(id, running.verb.as_str(), running.piece, outcome, false);
        self.outbox.soon(Subject::Node);
    }

    pub(super) fn command_timers(&mut self) {
        let late =
            |(id, running): (&String, &Running)| (running.until <= self.now).then(|| id.clone());
        let late: Vec<String> = self.commands.running.iter().filter_map(late).collect();
        for id in late {
            self.put(Output::Abort { id: id.clone() });
            let message = format!("not done within {} s", COMMAND_TIME_MAX.as_secs());
            self.end(&id, Outcome::refused(Refusal::new(Reason::Failed, message)));
        }
    }

    /// The connection is gone: nobody waits for the answers.
    pub(super) fn abort_commands(&mut self) {
        for (id, _) in std::mem::take(&mut self.commands.running) {
            let message = "the connection was lost";
            let outcome = Outcome::refused(Refusal::new(Reason::Failed, message));
            self.commands.finish(&id, &outcome);
            self.put(Output::Abort { id });
        }
    }

    fn reply_end(&mut self, id: &str, verb: &str, piece: u64, outcome: Outcome, repeated: bool) {
        let end =
            Reply { outcome: Some(outcome), more: false, repeated, ..reply(id, verb, piece, &[]) };
        self.put_reply(&end);
    }

    fn put_reply(&mut self, reply: &Reply) {
        let Ok(topic) = self.config.topics.reply(&reply.id) else { return };
        let reply = serde_json::to_vec(reply).expect("a reply has string keys only");
        self.put(Output::Publish(self.said(topic, reply, false)));
    }
}

/// Tells two commands of one id apart.
fn what(command: &Command) -> Digest {
    let text = serde_json::to_vec(&(command.verb, &command.arguments));
    digest(&text.expect("arguments have string keys only"))
}

/// The next piece: full, and not within a character.
fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut at = bytes.len().min(PIECE_BYTES_MAX);
    if at < bytes.len() {
        let starts_character = |at: usize| bytes[at] & 0xC0 != 0x80;
        at = (at - 3..=at).rev().find(|at| starts_character(*at)).unwrap_or(at);
    }
    bytes.split_at(at)
}

fn reply(id: &str, verb: &str, piece: u64, content: &[u8]) -> Reply {
    // Escapes would make a piece several times longer than it is.
    let escaped = content.iter().filter(|b| matches!(b, 0..0x20 | b'"' | b'\\')).count();
    let text = std::str::from_utf8(content).ok().filter(|_| escaped * 8 <= content.len());
    Reply {
        api_version: API_VERSION.to_owned(),
        kind: "Reply".to_owned(),
        id: id.to_owned(),
        verb: verb.to_owned(),
        piece,
        more: true,
        text: text.unwrap_or_default().to_owned(),
        base64: if text.is_none() { STANDARD.encode(content) } else { String::new() },
        outcome: None,
        repeated: false,
    }
}
