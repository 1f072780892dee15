//! One connection's life: dialling, subscribing, birth, goodbye.
//!
//! Owns: the connection counter, what is subscribed, birth and will, stale wills. Not: when to dial again (the link backs off).
//!
//! ```text
//!  Dial ─► (counter durable) ─► Connect + will ─► Connected ─► Subscribe ─► Subscribed ─► birth ─► every status
//!   ▲                                                                          │ refused: again later
//!   └────────────────────────── Disconnected ◄─────────────────────────────────┘
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::Protocol;
use super::io::{Draft, Output};
use super::outbox::Subject;
use crate::clock::Timestamp;
use crate::mqtt::intent::API_VERSION;
use crate::mqtt::status::{Condition, Online, PROTOCOL};
use crate::mqtt::topic::Outbound;
use crate::mqtt::version::NUMBER_MAX;

/// Connection numbers reserved by one write: a reconnection costs no flash. One each five minutes for half a year.
const CONN_BLOCK: u64 = 1 << 16;

/// The highest connection number that somebody else's message may make us skip to. Beyond, it is rubbish.
const CONN_MAX: u64 = NUMBER_MAX - CONN_BLOCK * 1024;

/// How long the disk may take over a connection's number. A disk that hangs must not make a node silent as well.
const RESERVE_WAIT: Duration = Duration::from_secs(60);

/// How long a connection may take to come about, or to fail: eight addresses, TLS, CONNACK on a satellite, twice over. The link has its own
/// limits for each of these; this one is for what nobody has thought of.
const CONNECT_WAIT: Duration = Duration::from_secs(300);

/// How long a refused subscription waits.
const RESUBSCRIBE: Duration = Duration::from_secs(300);

/// First and longest wait before what the broker did not take is said again: it may be all that a node has to say.
const SAY_AGAIN: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));

/// Least time between two requests for everything retained; doubled, up to the second, while one follows the other: what does
/// not fit in a queue once does not fit twice.
const RESYNC: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Births that may answer stale wills within [`REBIRTH_WINDOW`]; after that another client must be using this identity.
const REBIRTHS_MAX: u32 = 8;
const REBIRTH_WINDOW: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Down,
    /// A number must be made durable first; the disk has until then.
    Reserving(Timestamp),
    /// Until then.
    Connecting(Timestamp),
    /// Until then.
    Subscribing(Timestamp),
    Up,
    /// Goodbye is said.
    Stopped,
}

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Connection {
    state: State,
    /// Of the current or last connection.
    conn: u64,
    /// Filters that the broker refused, with its reason.
    refused: Vec<(String, String)>,
    resubscribe_at: Option<Timestamp>,
    /// When everything retained was last asked for.
    synced_at: Option<Timestamp>,
    resync_wanted: bool,
    resync_wait: Duration,
    /// When what is missing counts as missing.
    pub(super) sync_until: Option<Timestamp>,
    rebirths: u32,
    rebirths_since: Option<Timestamp>,
    /// What an earlier connection of ours left in the birth's place was seen on this one.
    leftover_seen: bool,
    /// The birth as it was sent, and of which connection.
    birth: Option<(u64, Bytes)>,
    /// When the birth is repeated after all: whoever overwrote it does not win for ever.
    rebirth_at: Option<Timestamp>,
    duplicate: bool,
    /// A message that the broker did not take, and why, until it has taken all for a while.
    refused_publish: Option<(String, String)>,
    /// What it did not take since that was last said again: at most of each pod, of the node, and the birth (`None`).
    unsaid: BTreeSet<Option<Subject>>,
    /// When it is said again, and how long that was put off.
    say_again: Option<(Timestamp, Duration)>,
}

impl Connection {
    pub(super) fn begin_at(&mut self, conn: u64) {
        self.conn = conn;
    }

    pub(super) fn conn(&self) -> u64 {
        self.conn
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        let waiting = match self.state {
            State::Reserving(until) | State::Connecting(until) | State::Subscribing(until) => {
                Some(until)
            }
            State::Down | State::Up | State::Stopped => None,
        };
        let up = self.is_up();
        let again = self.resync_at().filter(|_| up && self.resync_wanted);
        let times = [
            waiting,
            self.resubscribe_at.filter(|_| up),
            again,
            self.sync_until.filter(|_| up),
            self.rebirth_at.filter(|_| up),
            self.say_again.map(|(at, _)| at).filter(|_| up),
        ];
        times.into_iter().flatten().min()
    }

    fn resync_at(&self) -> Option<Timestamp> {
        self.synced_at.map(|at| at.plus(self.resync_wait.max(RESYNC.0)))
    }

    /// What is to be said of the connection, while it is up.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        let mut conditions = vec![];
        let text = |list: &[(String, String)]| {
            list.iter().map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>().join("; ")
        };
        let ok = self.refused.is_empty();
        let reason = if ok { "Granted" } else { "Refused" };
        conditions.push(Condition::new("Subscribed", ok, reason, text(&self.refused)));
        if self.duplicate {
            let message = "another client connects as this node, or says it is";
            conditions.push(Condition::new("Unique", false, "DuplicateIdentity", message));
        }
        if let Some((topic, why)) = &self.refused_publish {
            let message = format!("the broker did not take {topic}: {why}");
            conditions.push(Condition::new("Published", false, "Refused", message));
        }
        conditions
    }
}

impl Protocol {
    pub(super) fn dial(&mut self) {
        if self.connection.is_stopped() {
            return;
        }
        if !matches!(self.connection.state, State::Reserving(_)) {
            self.connection.state = State::Reserving(self.now.plus(RESERVE_WAIT));
        }
        let next = self.connection.conn + 1;
        if self.node.stored().conn_reserved <= next {
            self.node.want.conn_reserved = self.node.want.conn_reserved.max(next + CONN_BLOCK);
            // A disk that refuses must not keep the node offline: a number that repeats is noticed by its own will.
            if self.node.failure().is_none() {
                return;
            }
        }
        self.connect();
    }

    /// The node's record is on disk, or will not be: whoever waited for a number goes on. The write that has ended may be an earlier
    /// one, which says nothing of that number.
    pub(super) fn dial_on(&mut self) {
        if matches!(self.connection.state, State::Reserving(_)) {
            self.dial();
        }
    }

    fn connect(&mut self) {
        self.connection.conn += 1;
        self.connection.state = State::Connecting(self.now.plus(CONNECT_WAIT));
        self.connection.leftover_seen = false;
        self.commands.begin_anew();
        let (conn, will) = (self.connection.conn, self.online(false).signed());
        self.put(Output::Connect { conn, will });
    }

    fn online(&self, online: bool) -> Draft {
        let message = Online {
            api_version: API_VERSION.to_owned(),
            kind: "Online".to_owned(),
            online,
            conn: self.connection.conn,
            boot: self.config.boot.clone(),
            protocol: PROTOCOL,
            version: self.config.version.clone(),
        };
        let message = serde_json::to_vec(&message).expect("strings and numbers have a JSON form");
        self.said(self.config.topics.online(), message, true)
    }

    pub(super) fn connected(&mut self) {
        match self.connection.state {
            State::Connecting(_) => {
                self.subscribe();
                self.connection.state =
                    State::Subscribing(self.now.plus(self.config.timing.subscribe_wait));
            }
            // A connection that was not asked for, or was given up already: its will has another number than its birth would have. Left
            // alone it would stand, ping, and never say a word.
            State::Down | State::Reserving(_) | State::Subscribing(_) | State::Up => {
                self.event(
                    None,
                    true,
                    "OutOfStep",
                    "a connection came about that was not expected; connecting anew",
                );
                self.put(Output::Disconnect);
            }
            State::Stopped => {}
        }
    }

    fn subscribe(&mut self) {
        let filters = self.config.topics.filters(&self.config.groups);
        self.connection.synced_at = Some(self.now);
        self.connection.sync_until = Some(self.now.plus(self.config.timing.sync_wait));
        self.connection.resync_wanted = false;
        self.connection.resubscribe_at = None;
        self.put(Output::Subscribe { filters });
    }

    pub(super) fn subscribed(&mut self, results: Vec<(String, Result<(), String>)>) {
        let subscribing = matches!(self.connection.state, State::Subscribing(_));
        if !subscribing && !self.connection.is_up() {
            return;
        }
        let refused: Vec<_> = results
            .into_iter()
            .filter_map(|(filter, result)| Some((filter, result.err()?)))
            .collect();
        if refused != self.connection.refused {
            for (filter, why) in &refused {
                self.event(None, true, "SubscriptionRefused", format!("{filter}: {why}"));
            }
        }
        let again = (!refused.is_empty()).then(|| self.now.plus(RESUBSCRIBE));
        self.connection.resubscribe_at = again;
        self.connection.refused = refused;
        if subscribing {
            self.connection.state = State::Up;
            self.birth();
            self.outbox.everything(self.pods.keys());
        } else {
            self.outbox.soon(Subject::Node);
        }
    }

    fn birth(&mut self) {
        let birth = self.online(true);
        self.put(Output::Publish(birth));
    }

    pub(super) fn disconnected(&mut self, why: &str, taken_over: bool) {
        if self.connection.is_stopped() {
            return;
        }
        if self.connection.is_up() {
            self.event(None, false, "Disconnected", why);
        }
        self.connection.state = State::Down;
        self.connection.refused_publish = None;
        self.connection.say_again = None;
        self.connection.unsaid.clear();
        if taken_over {
            self.connection.rebirth_at = None;
            self.suspect_duplicate();
        }
        self.abort_commands();
        self.outbox.forget();
    }

    /// Everything retained once more, soon.
    pub(super) fn resync(&mut self) {
        self.connection.resync_wanted = true;
        self.connection_timers();
    }

    pub(super) fn connection_timers(&mut self) {
        match self.connection.state {
            State::Reserving(until) if until <= self.now => self.connect(),
            State::Connecting(until) if until <= self.now => {
                self.give_up("ConnectTimeout", "no connection came about, and none has failed");
            }
            State::Subscribing(until) if until <= self.now => {
                self.give_up("SubscribeTimeout", "the broker did not answer the subscription");
            }
            State::Down
            | State::Reserving(_)
            | State::Connecting(_)
            | State::Subscribing(_)
            | State::Up
            | State::Stopped => {}
        }
        if !self.connection.is_up() {
            return;
        }
        let refused = self.connection.resubscribe_at.is_some_and(|at| at <= self.now);
        let wanted = self.connection.resync_wanted
            && self.connection.resync_at().is_none_or(|at| at <= self.now);
        if wanted {
            let (now, wait) = (self.now, self.connection.resync_wait);
            let quiet = self.connection.synced_at.is_none_or(|at| now.since(at) > RESYNC.1 * 2);
            let next = if quiet { RESYNC.0 } else { wait * 2 };
            self.connection.resync_wait = next.clamp(RESYNC.0, RESYNC.1);
        }
        if refused || wanted {
            self.subscribe();
        }
        if self.connection.rebirth_at.is_some_and(|at| at <= self.now) {
            self.connection.rebirth_at = None;
            self.connection.rebirths_since = None;
            self.connection.duplicate = false;
            self.birth();
            self.outbox.soon(Subject::Node);
        }
        if let Some((_, waited)) = self.connection.say_again.filter(|(at, _)| *at <= self.now) {
            self.say_again(waited);
        }
        if self.connection.sync_until.is_some_and(|at| at <= self.now) {
            self.connection.sync_until = None;
            self.outbox.soon(Subject::Node);
        }
    }

    /// Ends a connection that does not get on; the shell tells when it has, and dials again.
    fn give_up(&mut self, reason: &'static str, message: &str) {
        self.event(None, true, reason, message);
        self.connection.state = State::Down;
        self.put(Output::Disconnect);
    }

    /// What stands in this node's own birth-or-will topic: it should be the newest birth.
    pub(super) fn own_online(&mut self, payload: &[u8]) {
        let Ok(found) = serde_json::from_slice::<Online>(payload) else {
            // Withdrawn or overwritten: readers must find the truth.
            return self.rebirth();
        };
        let (ours, conn) = (found.boot == self.config.boot, self.connection.conn);
        if found.online && ours && found.conn == conn {
            // As it was said, signature and all: readers who know our key take nothing else.
            if self.config.signer.is_some() && *payload != *self.birth_as_sent() {
                self.rebirth();
            }
            return;
        }
        if ours && found.conn < conn && !self.connection.leftover_seen {
            // The birth or the will of the connection before: brokers hand it out as they subscribe us, some of them after their SUBACK.
            // Once on each connection it speaks of no other client.
            if self.connection.is_up() {
                self.connection.leftover_seen = true;
                self.birth();
            }
            return;
        }
        if found.conn >= conn && found.conn < CONN_MAX && self.may_rebirth() {
            // Numbers were lost with the disk, or another client uses them. Ours must be the highest, and so must that of the
            // last will, which the broker has already: connect anew.
            self.connection.conn = found.conn;
            let message = format!(
                "connection {} was announced for this node before; connecting anew with a higher number",
                found.conn
            );
            self.event(None, true, "ConnectionNumberJumped", message);
            self.put(Output::Disconnect);
            return;
        }
        self.rebirth();
    }

    /// What this connection's birth is at the broker: signing the same twice gives the same. Made once for each connection, since
    /// whoever may publish in its place decides how often it is looked at.
    fn birth_as_sent(&mut self) -> Bytes {
        let conn = self.connection.conn;
        if let Some((_, birth)) = self.connection.birth.as_ref().filter(|(of, _)| *of == conn) {
            return birth.clone();
        }
        let birth = self.online(true).signed().payload;
        self.connection.birth = Some((conn, birth.clone()));
        birth
    }

    /// Counts an answer to a message under our own name; false if there were too many.
    fn may_rebirth(&mut self) -> bool {
        let fresh = |since: Timestamp| self.now.since(since) < REBIRTH_WINDOW;
        if !self.connection.rebirths_since.is_some_and(fresh) {
            self.connection.rebirths_since = Some(self.now);
            self.connection.rebirths = 0;
        }
        self.connection.rebirths += 1;
        if self.connection.rebirths > REBIRTHS_MAX {
            // Two that answer each other would do so for ever: the next birth waits until the window is over.
            self.connection.rebirth_at =
                self.connection.rebirths_since.map(|since| since.plus(REBIRTH_WINDOW));
            self.suspect_duplicate();
        }
        self.connection.rebirths <= REBIRTHS_MAX
    }

    fn rebirth(&mut self) {
        if self.connection.is_up() && self.may_rebirth() {
            let message = "something else stood where this node's birth should; it is repeated";
            self.event(None, false, "StaleWill", message);
            self.birth();
        }
    }

    /// Two clients have one name, as far as can be seen; until nothing has been seen of it for a whole window.
    fn suspect_duplicate(&mut self) {
        self.connection.rebirth_at.get_or_insert(self.now.plus(REBIRTH_WINDOW));
        if !self.connection.duplicate {
            self.connection.duplicate = true;
            self.event(
                None,
                true,
                "DuplicateIdentity",
                "another client connects as this node, or says it is",
            );
            self.outbox.soon(Subject::Node);
        }
    }

    /// What was not taken is said again after a while, and so on: access lists are mended and quotas are over without a new connection, and
    /// readers must not be left with what was true before.
    pub(super) fn publish_refused(&mut self, topic: &str, why: &str) {
        if !self.connection.is_up() {
            return;
        }
        let subject = match self.config.topics.tree().read_outbound(topic) {
            Some((_, Outbound::Pod { key })) => Some(Subject::Pod(key)),
            Some((_, Outbound::Node)) => Some(Subject::Node),
            Some((_, Outbound::Online)) => None,
            // An answer, or a request for blocks: nobody waits for an old one.
            Some((_, Outbound::Reply { .. } | Outbound::Get)) | None => return,
        };
        if self.connection.refused_publish.is_none() {
            self.event(None, true, "PublishRefused", format!("{topic}: {why}"));
            self.connection.refused_publish = Some((topic.to_owned(), why.to_owned()));
            if subject != Some(Subject::Node) {
                self.outbox.soon(Subject::Node);
            }
        }
        self.connection.unsaid.insert(subject);
        self.connection.say_again.get_or_insert((self.now.plus(SAY_AGAIN.0), SAY_AGAIN.0));
    }

    /// Once more what the broker did not take; or the news that it has taken everything since.
    fn say_again(&mut self, waited: Duration) {
        if self.connection.unsaid.is_empty() {
            (self.connection.say_again, self.connection.refused_publish) = (None, None);
            return self.outbox.soon(Subject::Node);
        }
        let wait = (waited * 2).min(SAY_AGAIN.1);
        self.connection.say_again = Some((self.now.plus(wait), wait));
        for subject in std::mem::take(&mut self.connection.unsaid) {
            match subject {
                Some(subject) => self.outbox.force(subject),
                None => self.birth(),
            }
        }
    }

    pub(super) fn stop(&mut self) {
        // Also where the birth was not said yet: what stands at the broker is that of the connection before.
        if self.connection.is_up() || matches!(self.connection.state, State::Subscribing(_)) {
            let goodbye = self.online(false);
            self.put(Output::Publish(goodbye));
            self.put(Output::Disconnect);
        }
        self.connection.state = State::Stopped;
    }

    pub(super) fn node_conditions(&mut self, conditions: Vec<Condition>) {
        if self.others != conditions {
            self.others = conditions;
            self.outbox.soon(Subject::Node);
        }
    }

    pub(super) fn clock(&mut self, synced: bool) {
        if self.clocks.synced != synced {
            self.clocks.synced = synced;
            self.outbox.force(Subject::Node);
        }
    }
}
