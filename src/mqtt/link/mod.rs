//! The link to a broker: `rumqttc`, guarded.
//!
//! Owns: [`Link`], the [`Transport`] of the daemon, and its settings. Not: when to connect (`reconnect` says it, the caller does it),
//! nor what is said.
//!
//! ```text
//!  Link ──requests──► rumqttc's loop ── pump (scan, count) ── TLS ── TCP ── broker      one task for each connection
//!       ◄── Inbox (bounded) ──┘
//! ```
//!
//! The library is a good codec with a long list of traps; which file keeps which shut:
//!
//! | Trap | Kept shut by |
//! |---|---|
//! | 13 MiB for 65,536 packets in flight; ids that collide | a limit of 16 (`engine`), never a full circle (`window`) |
//! | a dead peer is waited for without end | 1.5 × keep-alive for each turn of the loop, as much for each answer (`conn`) |
//! | no pause between attempts, also after a refusal | `reconnect` |
//! | an MQTT 3.1.1 broker ends the connection on what it finds too large, each time | the size is learnt (`fits`) |
//! | a message above its limit comes again and again | the limit is told to the broker; what comes all the same is cut down (`scan`) |
//! | state that outlives its connection: queued requests, events, ids | a fresh loop for each connection; events carry its number |
//! | refusals in SUBACK and PUBACK are only logged | they are events (`engine`) |
//! | messages that are not taken stop the loop | a bounded inbox that drops, and says so (`inbox`) |
//! | topic aliases lose the topic; QoS 2 loops; a short DISCONNECT is lost | never asked for, seen on the wire (`scan`) |
//! | a broker waits with a will only while it keeps the session | `session` |
//! | a broker of MQTT 3.1.1 that closes instead of refusing is asked in MQTT 5 for ever | the other version every second time ([`UNANSWERED_MAX`]) |
//! | keep-alive below 5 s panics; the broker's own may be 0 or hours | checked in [`Settings::check`]; corrected on the wire (`scan`) |
//! | its TLS pins a parser with advisories | ours, below it (`pump`, `dial`, `crate::mqtt::tls`) |
//! | a panic of its own | ends the connection, not the daemon (`conn`) |

mod conn;
mod dial;
mod engine;
mod fits;
mod inbox;
mod pump;
mod reconnect;
mod scan;
mod session;
mod stats;
mod window;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use dial::{Endpoint, EndpointError};
pub use reconnect::{Reconnect, Retry};
pub use stats::{LinkCounts, LinkStats};

use crate::clock::Clock;
use crate::error::chain;
use crate::mqtt::tls::{TlsFiles, TlsSettings};
use crate::mqtt::transport::{
    Closed, ConnId, Event, Limits, NotTaken, Outgoing, Qos, Token, Transport, Version, Will,
};
use conn::{Attempt, Shared, Ticks};
use dial::Tls;
use engine::{INFLIGHT_MAX, Requester, engine};
use fits::Fits;
use pump::{Door, Seen};
use window::{Ask, Window};

/// Largest message that is taken or sent, bytes. A manifest is a few kilobytes; a block of an artifact is 32 KiB.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Time for a goodbye: DISCONNECT, and TLS' own.
const GOODBYE: Duration = Duration::from_secs(2);

/// Keep-alive times that make sense: below five seconds the library panics, above twenty minutes no router remembers us.
const KEEP_ALIVE: std::ops::RangeInclusive<u64> = 5..=1200;

/// Brokers that may be named.
const ENDPOINTS_MAX: usize = 8;

/// Connections in a row that ended between CONNECT and its answer. A broker of MQTT 3.1.1 should refuse the newer protocol with a code, and
/// some just close; so does one that is about to go down, hence not the first time.
const UNANSWERED_MAX: u32 = 2;

/// The same with a broker that has answered MQTT 5 before: it is down behind something that accepts for it, and the older protocol would cost its
/// readers the delay of the will.
const UNANSWERED_KNOWN_MAX: u32 = 12;

/// A password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Which version of the protocol to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speak {
    /// MQTT 5, and 3.1.1 with a broker that knows no better.
    #[default]
    Either,
    Only(Version),
}

/// How to reach the broker, or the brokers: the next is tried when one cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub client_id: String,
    pub endpoints: Vec<Endpoint>,
    pub keep_alive: Duration,
    pub credentials: Option<(String, Password)>,
    pub tls: TlsSettings,
    pub speak: Speak,
    pub message_bytes_max: usize,
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("there must be 1 to {ENDPOINTS_MAX} URLs of brokers, but there are {0}")]
    Endpoints(usize),
    #[error("the keep-alive time must be {} to {} seconds, but is {seconds}", KEEP_ALIVE.start(), KEEP_ALIVE.end())]
    KeepAlive { seconds: u64 },
    #[error("the client id must have 1 to 128 characters, none of them a control character")]
    ClientId,
    #[error(
        "a broker is reached over TLS, and no authority is named that may sign its certificate: \
         set tls.ca, or tls.systemRoots"
    )]
    NoAuthority,
}

impl Settings {
    /// Settings with everything optional left out.
    #[must_use]
    pub fn new(client_id: &str, endpoints: Vec<Endpoint>) -> Self {
        Self {
            client_id: client_id.to_owned(),
            endpoints,
            keep_alive: Duration::from_secs(60),
            credentials: None,
            tls: TlsSettings::default(),
            speak: Speak::default(),
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }

    /// # Errors
    /// If the library, or anyone, could not work with them.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (brokers, seconds) = (self.endpoints.len(), self.keep_alive.as_secs());
        if !(1..=ENDPOINTS_MAX).contains(&brokers) {
            return Err(SettingsError::Endpoints(brokers));
        }
        if !KEEP_ALIVE.contains(&seconds) {
            return Err(SettingsError::KeepAlive { seconds });
        }
        let id = &self.client_id;
        if id.is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
            return Err(SettingsError::ClientId);
        }
        let over_tls = self.endpoints.iter().any(|endpoint| endpoint.tls);
        if over_tls && self.tls.ca.is_none() && !self.tls.system_roots {
            return Err(SettingsError::NoAuthority);
        }
        Ok(())
    }

    fn keep_alive_seconds(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }
}

struct Current {
    conn: ConnId,
    requester: Requester,
    window: Arc<Mutex<Window>>,
    limits: Option<Limits>,
    seen: Arc<Seen>,
    stop: CancellationToken,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// See the header. Lives on a tokio runtime; dropping it ends the connection.
pub struct Link {
    shared: Shared,
    /// Which broker is next, and which version of the protocol.
    endpoint: usize,
    version: Version,
    /// See [`UNANSWERED_MAX`].
    unanswered: u32,
    /// A connection in MQTT 5 came about.
    knows_5: bool,
    /// For each broker.
    fits: Vec<Fits>,
    conns: u64,
    /// Connections up to this one were left: whatever they still have to say, their end is known.
    left: u64,
    tokens: u64,
    current: Option<Current>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("endpoint", &self.shared.settings.endpoints.get(self.endpoint))
            .field("conns", &self.conns)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A link without a connection.
    ///
    /// # Errors
    /// See [`Settings::check`].
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        settings.check()?;
        let version = match settings.speak {
            Speak::Either => Version::V5,
            Speak::Only(version) => version,
        };
        let over_tls = settings.endpoints.iter().any(|endpoint| endpoint.tls);
        let tls = over_tls.then(|| Tls {
            server_name: settings.tls.server_name.clone(),
            files: Arc::new(Mutex::new(TlsFiles::new(settings.tls.clone(), clock))),
        });
        let fits = settings.endpoints.iter().map(|_| Fits::default()).collect();
        let shared = Shared {
            settings: Arc::new(settings),
            tls,
            inbox: Arc::default(),
            stats: Arc::default(),
            ticks: Ticks::start(),
        };
        let unanswered = 0;
        Ok(Self {
            shared,
            endpoint: 0,
            version,
            unanswered,
            knows_5: false,
            fits,
            conns: 0,
            left: 0,
            tokens: 0,
            current: None,
        })
    }

    /// The counters, which others may read at any time.
    #[must_use]
    pub fn stats(&self) -> Arc<LinkStats> {
        Arc::clone(&self.shared.stats)
    }

    /// The broker of the current, or next, connection.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.settings.endpoints[self.endpoint]
    }

    /// Takes note of an event before the caller sees it.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Connected(limits) => {
                self.knows_5 |= limits.version == Version::V5;
                if let Some(current) = &mut self.current {
                    current.limits = Some(limits.clone());
                }
            }
            Event::Closed(closed) => {
                let ended = self.current.take();
                if let Some(ended) = &ended {
                    self.learn_sizes(closed, &lock(&ended.window));
                }
                let was_up = ended.as_ref().is_some_and(|current| current.limits.is_some());
                let was_asked = ended.is_some_and(|current| current.seen.was_asked());
                if self.shared.settings.speak == Speak::Either {
                    self.choose_version(closed, was_asked && !was_up);
                }
                if !was_up && *closed != Closed::OnlyV311 {
                    self.endpoint = (self.endpoint + 1) % self.shared.settings.endpoints.len();
                }
            }
            Event::Subscribed { .. }
            | Event::Unsubscribed(_)
            | Event::Acked { .. }
            | Event::Message(_)
            | Event::Overrun => {}
        }
    }

    fn learn_sizes(&mut self, closed: &Closed, window: &Window) {
        let (now, version) = (self.shared.ticks.now(), self.version);
        if let Some(fits) = self.fits.get_mut(self.endpoint) {
            fits.taken(window.taken());
            fits.closed(now, version, closed, window.largest());
        }
    }

    /// Ends the current connection without waiting for its last words.
    fn leave(&mut self) {
        self.current = None;
        self.left = self.conns;
    }

    /// Which version the next connection speaks: the older one with a broker that says, or shows, that it knows no better.
    fn choose_version(&mut self, closed: &Closed, no_answer: bool) {
        if *closed == Closed::OnlyV311 {
            (self.version, self.unanswered, self.knows_5) = (Version::V311, 0, false);
            return;
        }
        let unanswered = no_answer && matches!(closed, Closed::ByPeer | Closed::Broken(_));
        self.unanswered = if unanswered { self.unanswered + 1 } else { 0 };
        let known = self.knows_5 && self.version == Version::V5;
        let most = if known { UNANSWERED_KNOWN_MAX } else { UNANSWERED_MAX };
        if self.unanswered >= most {
            self.unanswered = 0;
            self.version = match self.version {
                Version::V5 => Version::V311,
                Version::V311 => Version::V5,
            };
        }
    }

    /// Makes a request that the broker will answer.
    fn ask(
        &mut self,
        ask: Ask,
        size: usize,
        request: impl FnOnce(&Requester) -> Result<(), NotTaken>,
    ) -> Result<Token, NotTaken> {
        let current = self.connected()?;
        let mut window = lock(&current.window);
        if !window.has_room() {
            return Err(NotTaken::Busy);
        }
        // Noted under the same lock as it is sent: its id may be told at once.
        request(&current.requester)?;
        let token = Token(self.tokens + 1);
        window.asked(token, ask, size, self.shared.ticks.now());
        drop(window);
        self.tokens += 1;
        Ok(token)
    }

    fn connected(&self) -> Result<&Current, NotTaken> {
        let current = self.current.as_ref().filter(|current| current.limits.is_some());
        current.ok_or(NotTaken::NotConnected)
    }
}

impl Transport for Link {
    fn connect(&mut self, will: Option<Will>) -> ConnId {
        self.conns += 1;
        let conn = ConnId(self.conns);
        let stop = CancellationToken::new();
        let window = Arc::new(Mutex::new(Window::new(INFLIGHT_MAX - 1)));
        let door = match Door::open() {
            Ok(door) => door,
            Err(error) => {
                self.current = None;
                let closed = Closed::Internal(format!("no socket of our own: {}", chain(&error)));
                self.shared.stats.closed(&closed);
                self.shared.inbox.tell(conn, Event::Closed(closed));
                return conn;
            }
        };
        let delay = will.as_ref().map(|will| will.delay);
        let expiry = session::expiry(self.version, delay);
        let settings = &self.shared.settings;
        let (requester, engine) = engine(settings, self.version, &door.path, will, expiry);
        let seen = Arc::new(Seen::new(expiry > 0));
        let attempt = Attempt {
            conn,
            version: self.version,
            endpoint: self.endpoint().clone(),
            engine,
            door,
            window: Arc::clone(&window),
            seen: Arc::clone(&seen),
            shared: self.shared.clone(),
        };
        // What there was of an earlier connection ends here.
        let (limits, ended) = (None, stop.clone());
        self.current = Some(Current { conn, requester, window, limits, seen, stop: ended });
        tokio::spawn(conn::run(attempt, stop));
        conn
    }

    fn drop_connection(&mut self) {
        if let Some(current) = &self.current {
            current.stop.cancel();
        }
    }

    async fn goodbye(&mut self) {
        let Some(current) = &self.current else { return };
        current.seen.leave();
        if current.limits.is_none() || !current.requester.disconnect() {
            return self.leave();
        }
        let closed = async { while !matches!(self.next().await.1, Event::Closed(_)) {} };
        let _ = tokio::time::timeout(GOODBYE, closed).await;
        self.leave();
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<Token, NotTaken> {
        if filters.is_empty() || !filters.iter().all(|filter| rumqttc::valid_filter(filter)) {
            return Err(NotTaken::BadTopic);
        }
        self.ask(Ask::Subscribe, 0, |requester| requester.subscribe(filters))
    }

    fn unsubscribe(&mut self, filter: &str) -> Result<Token, NotTaken> {
        self.ask(Ask::Unsubscribe, 0, |requester| requester.unsubscribe(filter))
    }

    fn publish(&mut self, message: &Outgoing) -> Result<Token, NotTaken> {
        let limits = self.limits().ok_or(NotTaken::NotConnected)?;
        let own = self.shared.settings.message_bytes_max;
        let now = self.shared.ticks.now();
        let learnt = self.fits.get(self.endpoint).and_then(|fits| fits.limit(now));
        let max = [limits.max_packet, learnt].into_iter().flatten().fold(own, usize::min);
        let size = packet_size(message);
        if size > max {
            return Err(NotTaken::TooLarge { size, max });
        }
        let topic = &message.topic;
        if topic.is_empty() || topic.contains(['#', '+', '\0']) {
            return Err(NotTaken::BadTopic);
        }
        let token = match message.qos {
            Qos::AtLeastOnce => {
                self.ask(Ask::Publish, size, |requester| requester.publish(message))?
            }
            Qos::AtMostOnce => {
                self.connected()?.requester.publish(message)?;
                self.tokens += 1;
                Token(self.tokens)
            }
        };
        self.shared.stats.message_out();
        Ok(token)
    }

    fn limits(&self) -> Option<&Limits> {
        self.current.as_ref()?.limits.as_ref()
    }

    async fn next(&mut self) -> (ConnId, Event) {
        loop {
            let (conn, event) = self.shared.inbox.next().await;
            // What an earlier connection left behind says nothing about this one.
            let is_left = conn.0 <= self.left;
            if !is_left && self.current.as_ref().is_none_or(|current| current.conn == conn) {
                self.note(&event);
                return (conn, event);
            }
        }
    }
}

/// A message's size on the wire, at most.
fn packet_size(message: &Outgoing) -> usize {
    // Type and length, the topic with its length, the packet id, the length of the properties, and the only one there may be.
    let properties = 1 + if message.expiry.is_some() { 5 } else { 0 };
    5 + 2 + message.topic.len() + 2 + properties + message.payload.len()
}

fn lock(window: &Mutex<Window>) -> MutexGuard<'_, Window> {
    window.lock().unwrap_or_else(PoisonError::into_inner)
}
