//! What the delivery protocol asks of an MQTT connection, in eight methods.
//!
//! Owns: the words on both sides of that seam: messages, tokens, limits, and why a connection ended. Not: any library
//! (`link` has `rumqttc`), nor when to connect again (`reconnect`), nor what messages mean.
//!
//! ```text
//!  source::mqtt ── connect, subscribe, publish ──► Transport ──► broker
//!               ◄─ (ConnId, Event) ──────────────
//! ```
//!
//! At most one connection at a time. Every event carries the number of the connection that it belongs to, so that what an earlier
//! one left behind is recognised. No call waits for the network but [`Transport::next`] and [`Transport::goodbye`]. Nothing
//! is kept over a connection's end: whoever published says it again (the protocol is level-triggered).
//! QoS 2 does not exist here.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Which connection: grows by one with each attempt of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Names one request until it is answered. Never repeated by a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// How a message is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Lost where anything is in the way: blocks of artifacts, lines of logs.
    AtMostOnce,
    /// Repeated until acknowledged, as long as this connection lasts.
    AtLeastOnce,
}

/// A message to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// How long the broker may keep it for somebody (MQTT 5 only); `None`: as long as it likes.
    pub expiry: Option<Duration>,
}

/// What the broker is to say when this connection breaks: retained, QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub payload: Bytes,
    /// How long the broker waits with it (MQTT 5 only): a short break is no news.
    pub delay: Duration,
}

/// A message from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    /// Whether the broker had it stored, or somebody just said it.
    pub retained: bool,
    pub body: Body,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Bytes(Bytes),
    /// It was larger than we take; its bytes were skipped as they came in.
    TooLarge {
        size: usize,
    },
}

/// What a broker allows on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub version: Version,
    /// Largest packet that the broker takes; `None`: it did not say.
    pub max_packet: Option<usize>,
    /// Requests that may wait for their acknowledgement.
    pub window: u16,
    pub keep_alive: Duration,
}

/// The protocol's version on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V311 => "MQTT 3.1.1",
            Self::V5 => "MQTT 5",
        })
    }
}

/// The broker refused one request, with its reason code (MQTT 5, section 2.4) and that code's name. A 3.1.1 broker
/// refuses subscriptions only, all with 0x80.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker refused it: {name} (0x{code:02x})")]
pub struct Refused {
    pub code: u8,
    pub name: &'static str,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker took us. Nothing is subscribed yet.
    Connected(Limits),
    /// The answer to a subscription, filter by filter.
    Subscribed {
        token: Token,
        filters: Vec<Result<(), Refused>>,
    },
    Unsubscribed(Token),
    /// The answer to a message of QoS 1.
    Acked {
        token: Token,
        result: Result<(), Refused>,
    },
    Message(Message),
    /// Messages of QoS 1 came faster than they were taken, and some were dropped: what is retained must be asked for again.
    Overrun,
    /// The connection is over, or never came about. The last event of its connection.
    Closed(Closed),
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("there is no connection to the broker")]
    NotConnected,
    /// As much as may be is under way; there is room again after an answer.
    #[error("the broker has not yet answered what was sent before")]
    Busy,
    #[error("the message has {size} bytes on the wire, and the broker takes {max}")]
    TooLarge { size: usize, max: usize },
    #[error("that is no topic to publish on, or no filter to subscribe to")]
    BadTopic,
}

/// Why a connection ended or did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("cannot find the address of {host}: {cause}")]
    Resolve { host: String, cause: String },
    #[error("cannot reach {address}: {cause}")]
    Unreachable { address: String, cause: String },
    #[error("cannot use the TLS files: {0}")]
    TlsFiles(String),
    #[error("TLS: {0}")]
    Tls(TlsFault),
    #[error("the broker did not answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the broker refused the connection: {name} (0x{code:02x})")]
    Refused { code: u8, name: &'static str },
    #[error("the broker does not speak MQTT 5")]
    OnlyV311,
    #[error("the broker cannot serve a node: {0}")]
    Unsuitable(&'static str),
    #[error("the broker went silent: nothing from it for {0:?}")]
    Silent(Duration),
    #[error("the broker did not acknowledge within {0:?}")]
    NotAcknowledged(Duration),
    #[error("the broker ended the connection: {name} (0x{code:02x}){}", said(.text))]
    Ended { code: u8, name: &'static str, text: Option<String> },
    #[error("the broker closed the connection")]
    ByPeer,
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    #[error("the MQTT client failed internally: {0}")]
    Internal(String),
    /// TLS files have changed: the next connection uses them.
    #[error("closed to use the new TLS files")]
    Renewal,
    #[error("closed by this node")]
    ByUs,
}

/// The peer's words; they come from outside and go to one line of a log.
fn said(text: &Option<String>) -> String {
    let Some(text) = text else { return String::new() };
    let clean: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    format!(", saying {clean:?}")
}

/// What was wrong about TLS, in words for the person who can mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error("the broker's certificate is signed by no authority of the configured CA file")]
    UnknownAuthority,
    #[error("the broker's certificate has expired (this node's clock says {now})")]
    Expired { now: String },
    #[error("the broker's certificate is not valid yet (this node's clock says {now})")]
    NotYetValid { now: String },
    #[error("the broker's certificate is not for the name {asked:?}{}", names(.presented))]
    WrongName { asked: String, presented: Vec<String> },
    #[error("the broker's certificate has been revoked")]
    Revoked,
    /// The broker does not like our certificate.
    #[error("the broker refused this node's certificate: {0}")]
    OurCertificate(&'static str),
    #[error(
        "the broker wants a certificate of this node, and none is configured (tls.certificate, tls.key)"
    )]
    NoCertificate,
    #[error("the broker does not speak TLS 1.3 (tls.minVersion allows 1.2)")]
    OldVersion,
    #[error("the broker does not speak TLS on this port")]
    NotTls,
    #[error("{0}")]
    Other(String),
}

fn names(presented: &[String]) -> String {
    match presented {
        [] => String::new(),
        names => format!(", but for {}", names.join(", ")),
    }
}

/// How a connection's end is to be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The link, or the broker, for now.
    Transient,
    /// Somebody must change something: identity, rights, files, the broker.
    NeedsAPerson,
    /// Another client has our name.
    TakenOver,
    /// Try the older protocol.
    Downgrade,
    /// Our own doing: connect again at once, or not at all.
    Ours,
}

impl Closed {
    /// How it is to be met.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Resolve { .. }
            | Self::Unreachable { .. }
            | Self::NoAnswer(_)
            | Self::Silent(_)
            | Self::NotAcknowledged(_)
            | Self::ByPeer
            | Self::Broken(_)
            | Self::Internal(_) => Class::Transient,
            Self::TlsFiles(_) | Self::Tls(_) | Self::Unsuitable(_) | Self::Protocol(_) => {
                Class::NeedsAPerson
            }
            Self::Ended { code: codes::SESSION_TAKEN_OVER, .. } => Class::TakenOver,
            Self::Refused { code, .. } | Self::Ended { code, .. } => match *code {
                codes::BAD_CLIENT_ID
                | codes::BAD_USER_OR_PASSWORD
                | codes::NOT_AUTHORIZED
                | codes::BANNED
                | codes::BAD_AUTH_METHOD => Class::NeedsAPerson,
                _ => Class::Transient,
            },
            Self::OnlyV311 => Class::Downgrade,
            Self::Renewal | Self::ByUs => Class::Ours,
        }
    }

    /// Whether it is only the time that this node's clock shows that stands in the way; or may be.
    #[must_use]
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::Tls(TlsFault::NotYetValid { .. } | TlsFault::Expired { .. }))
    }

    /// A word for counting: few, fixed.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Unreachable { .. } => "unreachable",
            Self::TlsFiles(_) | Self::Tls(_) => "tls",
            Self::NoAnswer(_) => "no_answer",
            Self::Refused { .. } => "refused",
            Self::OnlyV311 => "downgrade",
            Self::Unsuitable(_) => "unsuitable",
            Self::Silent(_) => "silent",
            Self::NotAcknowledged(_) => "not_acknowledged",
            Self::Ended { code: codes::SESSION_TAKEN_OVER, .. } => "taken_over",
            Self::Ended { .. } => "ended_by_broker",
            Self::ByPeer => "closed_by_peer",
            Self::Broken(_) => "broken",
            Self::Protocol(_) => "protocol",
            Self::Internal(_) => "internal",
            Self::Renewal => "renewal",
            Self::ByUs => "ours",
        }
    }
}

/// Every label there is, so that each is counted from zero.
pub const CLOSED_LABELS: [&str; 17] = [
    "resolve",
    "unreachable",
    "tls",
    "no_answer",
    "refused",
    "downgrade",
    "unsuitable",
    "silent",
    "not_acknowledged",
    "taken_over",
    "ended_by_broker",
    "closed_by_peer",
    "broken",
    "protocol",
    "internal",
    "renewal",
    "ours",
];

/// Reason codes of MQTT 5 that something is decided by.
pub mod codes {
    pub const BAD_CLIENT_ID: u8 = 0x85;
    pub const BAD_USER_OR_PASSWORD: u8 = 0x86;
    pub const NOT_AUTHORIZED: u8 = 0x87;
    pub const BANNED: u8 = 0x8a;
    pub const BAD_AUTH_METHOD: u8 = 0x8c;
    pub const SESSION_TAKEN_OVER: u8 = 0x8e;
    pub const PACKET_TOO_LARGE: u8 = 0x95;
}

/// A connection to a broker, and the next one, and the next. See the header.
pub trait Transport: Send {
    /// Begins a new connection; what there was of an earlier one ends without a word. [`Event::Connected`] or
    /// [`Event::Closed`] follows.
    fn connect(&mut self, will: Option<Will>) -> ConnId;

    /// Ends the connection at once, as if the cable were cut.
    fn drop_connection(&mut self);

    /// Says goodbye (the will is not published) and ends the connection, within two seconds.
    fn goodbye(&mut self) -> impl Future<Output = ()> + Send;

    /// Asks for messages, with what is retained. [`Event::Subscribed`] follows.
    ///
    /// # Errors
    /// See [`NotTaken`].
    fn subscribe(&mut self, filters: &[String]) -> Result<Token, NotTaken>;

    /// Asks for no more messages. [`Event::Unsubscribed`] follows.
    ///
    /// # Errors
    /// See [`NotTaken`].
    fn unsubscribe(&mut self, filter: &str) -> Result<Token, NotTaken>;

    /// Sends a message. [`Event::Acked`] follows where its QoS is 1.
    ///
    /// # Errors
    /// See [`NotTaken`].
    fn publish(&mut self, message: &Outgoing) -> Result<Token, NotTaken>;

    /// What the broker allows; `None` while not connected.
    fn limits(&self) -> Option<&Limits>;

    /// The next thing that happened. Loses nothing when dropped before it is ready.
    fn next(&mut self) -> impl Future<Output = (ConnId, Event)> + Send;
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn who_must_act_is_told_from_the_reason() {
        let ended = |code| Closed::Ended { code, name: "x", text: None };
        let refused = |code| Closed::Refused { code, name: "x" };
        let rows = [
            (Closed::ByPeer, Class::Transient),
            (refused(codes::NOT_AUTHORIZED), Class::NeedsAPerson),
            (refused(codes::BAD_USER_OR_PASSWORD), Class::NeedsAPerson),
            (refused(0x88), Class::Transient),
            (ended(codes::SESSION_TAKEN_OVER), Class::TakenOver),
            (ended(0x8b), Class::Transient),
            (Closed::Tls(TlsFault::UnknownAuthority), Class::NeedsAPerson),
            (Closed::OnlyV311, Class::Downgrade),
        ];
        for (closed, class) in rows {
            assert_eq!(closed.class(), class, "{closed}");
            assert!(CLOSED_LABELS.contains(&closed.label()));
        }
    }

    #[test]
    fn a_brokers_words_stay_on_one_line() {
        let text = Some(format!("go\naway{}", "x".repeat(1000)));
        let shown = Closed::Ended { code: 0x8b, name: "server shutting down", text }.to_string();
        assert!(shown.contains("saying \"goaway") && shown.len() < 400, "{shown}");
    }
}
