//! The library, in both its versions, behind one small set of words. Only this file and `codes` know `rumqttc`'s types.
//!
//! Owns: the options that keep each of its traps shut, and what its events and errors mean. Each line of options has its reason
//! beside it; `link::tests` shows that each holds.

mod codes;

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5;
use rumqttc::v5::mqttbytes::QoS as Qos5;
use rumqttc::v5::mqttbytes::v5 as packet5;
use rumqttc::{self as v4, QoS as Qos4};

use super::Settings;
use super::window::Ask;
use crate::mqtt::transport::{Closed, Limits, NotTaken, Outgoing, Qos, Refused, Version, Will};
use codes::{closed4, closed5, puback5, refused, suback5};

/// Requests that wait for the library's loop. More than the window and what a burst of QoS 0 needs.
const REQUESTS_MAX: usize = 32;

/// Publishes under way. The library keeps a table of this size; its own default takes 13 MiB.
pub(super) const INFLIGHT_MAX: u16 = 16;

/// From the first byte of CONNECT to CONNACK. The library's own five seconds are too short for a satellite.
pub(super) const CONNACK_TIMEOUT: Duration = Duration::from_secs(30);

/// What the library's limit is above ours: what is larger than ours never reaches it.
const SLACK: usize = 64;

/// What the library reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Connected(Limits),
    /// A request went out under this id.
    Sent(Ask, u16),
    Published(Bytes, Arrived),
    Acked(u16, Result<(), Refused>),
    Subscribed(u16, Vec<Result<(), Refused>>),
    Unsubscribed(u16),
    /// Our DISCONNECT has gone out.
    SaidGoodbye,
    /// Pings, and acknowledgements that the library sends by itself.
    Nothing,
}

/// How a message came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) payload: Bytes,
    pub(super) qos: Qos,
    pub(super) retained: bool,
}

/// Polls one connection.
#[allow(missing_debug_implementations, reason = "the library's loop has none")]
pub(super) enum Engine {
    V5 { events: Box<v5::EventLoop>, keep_alive: Duration },
    V4 { events: Box<v4::EventLoop>, keep_alive: Duration },
}

/// Makes requests of one connection.
#[derive(Clone, Debug)]
pub(super) enum Requester {
    V5(v5::AsyncClient),
    V4(v4::AsyncClient),
}

/// A connection that begins when it is first polled.
pub(super) fn engine(
    settings: &Settings,
    version: Version,
    path: &str,
    will: Option<Will>,
    expiry: u32,
) -> (Requester, Engine) {
    let keep_alive = settings.keep_alive;
    match version {
        Version::V5 => {
            let options = options5(settings, path, will, expiry);
            let (client, events) = v5::AsyncClient::new(options, REQUESTS_MAX);
            (Requester::V5(client), Engine::V5 { events: Box::new(events), keep_alive })
        }
        Version::V311 => {
            let options = options4(settings, path, will);
            let (client, mut events) = v4::AsyncClient::new(options, REQUESTS_MAX);
            let mut network = v4::NetworkOptions::new();
            network.set_connection_timeout(CONNACK_TIMEOUT.as_secs());
            events.set_network_options(network);
            (Requester::V4(client), Engine::V4 { events: Box::new(events), keep_alive })
        }
    }
}

fn options5(settings: &Settings, path: &str, will: Option<Will>, expiry: u32) -> v5::MqttOptions {
    let mut options = v5::MqttOptions::new(&settings.client_id, path, 0);
    options.set_transport(v4::Transport::unix());
    // At least five seconds, or the library panics: `Settings::new` has checked it.
    options.set_keep_alive(settings.keep_alive);
    // Its default allocates 65,536 places.
    options.set_outgoing_inflight_upper_limit(INFLIGHT_MAX);
    // A session is worth nothing to us, and keeps poison and old commands alive: there is one for as long as the will waits.
    options.set_clean_start(true);
    options.set_session_expiry_interval(Some(expiry));
    // Said to the broker, so that it does not even send more. Topic aliases are never asked for: the library loses the topic.
    let limit = u32::try_from(settings.message_bytes_max + SLACK).unwrap_or(u32::MAX);
    // The scanner cuts down what comes all the same.
    options.set_max_packet_size(Some(limit));
    options.set_receive_maximum(Some(INFLIGHT_MAX));
    options.set_connection_timeout(CONNACK_TIMEOUT.as_secs());
    if let Some((user, password)) = &settings.credentials {
        options.set_credentials(user, password.expose());
    }
    if let Some(will) = will {
        let delay = u32::try_from(will.delay.as_secs()).unwrap_or(u32::MAX);
        let properties = packet5::LastWillProperties {
            delay_interval: Some(delay),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: vec![],
        };
        let (topic, message) = (will.topic, will.payload.to_vec());
        let will =
            packet5::LastWill::new(topic, message, Qos5::AtLeastOnce, true, Some(properties));
        options.set_last_will(will);
    }
    options
}

fn options4(settings: &Settings, path: &str, will: Option<Will>) -> v4::MqttOptions {
    let mut options = v4::MqttOptions::new(&settings.client_id, path, 0);
    options.set_transport(v4::Transport::unix());
    options.set_keep_alive(settings.keep_alive);
    options.set_inflight(INFLIGHT_MAX);
    options.set_clean_session(true);
    // This broker cannot be told; what is larger is cut down before it gets here.
    options.set_max_packet_size(settings.message_bytes_max + SLACK, settings.message_bytes_max);
    if let Some((user, password)) = &settings.credentials {
        options.set_credentials(user, password.expose());
    }
    if let Some(will) = will {
        let message = will.payload.to_vec();
        options.set_last_will(v4::LastWill::new(will.topic, message, Qos4::AtLeastOnce, true));
    }
    options
}

impl Engine {
    /// The next thing that happened. A dropped call loses nothing.
    pub(super) async fn poll(&mut self) -> Result<Happened, Closed> {
        match self {
            Self::V5 { events, keep_alive } => match events.poll().await {
                Ok(v5::Event::Incoming(packet)) => incoming5(packet, *keep_alive),
                Ok(v5::Event::Outgoing(outgoing)) => sent(&outgoing),
                Err(error) => Err(closed5(error, *keep_alive)),
            },
            Self::V4 { events, keep_alive } => match events.poll().await {
                Ok(v4::Event::Incoming(packet)) => incoming4(packet, *keep_alive),
                Ok(v4::Event::Outgoing(outgoing)) => sent(&outgoing),
                Err(error) => Err(closed4(error, *keep_alive)),
            },
        }
    }
}

fn sent(outgoing: &v4::Outgoing) -> Result<Happened, Closed> {
    use v4::Outgoing as O;
    Ok(match outgoing {
        // QoS 0 has no id.
        O::Publish(0) | O::PubAck(_) | O::PingReq | O::PingResp => Happened::Nothing,
        O::Publish(id) => Happened::Sent(Ask::Publish, *id),
        O::Subscribe(id) => Happened::Sent(Ask::Subscribe, *id),
        O::Unsubscribe(id) => Happened::Sent(Ask::Unsubscribe, *id),
        O::Disconnect => Happened::SaidGoodbye,
        // The window makes it impossible; the library would wait for ever.
        O::AwaitAck(_) => return Err(Closed::Internal("packet ids collide".to_owned())),
        O::PubRec(_) | O::PubRel(_) | O::PubComp(_) => return Err(qos2()),
    })
}

fn qos2() -> Closed {
    Closed::Protocol("an exchange of QoS 2, which we never use".to_owned())
}

fn incoming5(packet: v5::Incoming, keep_alive: Duration) -> Result<Happened, Closed> {
    use packet5::Packet as P;
    match packet {
        P::ConnAck(connack) => {
            limits5(connack.properties.as_ref(), keep_alive).map(Happened::Connected)
        }
        P::Publish(publish) => {
            let qos = match publish.qos {
                Qos5::AtMostOnce => Qos::AtMostOnce,
                Qos5::AtLeastOnce => Qos::AtLeastOnce,
                Qos5::ExactlyOnce => return Err(qos2()),
            };
            let arrived = Arrived { payload: publish.payload, qos, retained: publish.retain };
            Ok(Happened::Published(publish.topic, arrived))
        }
        P::PubAck(ack) => Ok(Happened::Acked(ack.pkid, puback5(ack.reason))),
        P::SubAck(ack) => {
            let codes = ack.return_codes.into_iter().map(suback5).collect();
            Ok(Happened::Subscribed(ack.pkid, codes))
        }
        P::UnsubAck(ack) => Ok(Happened::Unsubscribed(ack.pkid)),
        P::PubRec(_) | P::PubRel(_) | P::PubComp(_) => Err(qos2()),
        // The error that follows says more.
        P::Disconnect(_) | P::PingResp(_) => Ok(Happened::Nothing),
        P::Auth(_) | P::Connect(..) | P::PingReq(_) | P::Subscribe(_) | P::Unsubscribe(_) => {
            Err(Closed::Protocol("a packet of a client".to_owned()))
        }
    }
}

fn limits5(
    properties: Option<&packet5::ConnAckProperties>,
    keep_alive: Duration,
) -> Result<Limits, Closed> {
    let none =
        Limits { version: Version::V5, max_packet: None, window: INFLIGHT_MAX - 1, keep_alive };
    let Some(told) = properties else { return Ok(none) };
    if told.retain_available == Some(0) {
        return Err(Closed::Unsuitable("it keeps no retained messages (retain_available)"));
    }
    if told.max_qos == Some(0) {
        return Err(Closed::Unsuitable("it takes messages of QoS 0 only"));
    }
    if told.wildcard_subscription_available == Some(0) {
        return Err(Closed::Unsuitable("it has no subscriptions with wildcards"));
    }
    if told.receive_max == Some(0) || told.max_packet_size == Some(0) {
        return Err(Closed::Protocol("a limit of zero".to_owned()));
    }
    // One below the library's table: a full one stops even its subscriptions.
    let window = told.receive_max.map_or(INFLIGHT_MAX, |max| max.min(INFLIGHT_MAX));
    let theirs = told.server_keep_alive.map(u64::from).map(Duration::from_secs);
    Ok(Limits {
        max_packet: told.max_packet_size.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
        window: (window - 1).max(1),
        // The scanner has seen to it that it is shorter than ours.
        keep_alive: theirs.unwrap_or(keep_alive),
        ..none
    })
}

fn incoming4(packet: v4::Incoming, keep_alive: Duration) -> Result<Happened, Closed> {
    use v4::Packet as P;
    match packet {
        P::ConnAck(_) => Ok(Happened::Connected(Limits {
            version: Version::V311,
            max_packet: None,
            window: INFLIGHT_MAX - 1,
            keep_alive,
        })),
        P::Publish(publish) => {
            let qos = match publish.qos {
                Qos4::AtMostOnce => Qos::AtMostOnce,
                Qos4::AtLeastOnce => Qos::AtLeastOnce,
                Qos4::ExactlyOnce => return Err(qos2()),
            };
            let arrived = Arrived { payload: publish.payload, qos, retained: publish.retain };
            Ok(Happened::Published(publish.topic.into(), arrived))
        }
        P::PubAck(ack) => Ok(Happened::Acked(ack.pkid, Ok(()))),
        P::SubAck(ack) => {
            let code = |code| match code {
                v4::SubscribeReasonCode::Success(_) => Ok(()),
                v4::SubscribeReasonCode::Failure => Err(refused(0x80)),
            };
            Ok(Happened::Subscribed(ack.pkid, ack.return_codes.into_iter().map(code).collect()))
        }
        P::UnsubAck(ack) => Ok(Happened::Unsubscribed(ack.pkid)),
        P::PingResp => Ok(Happened::Nothing),
        P::PubRec(_) | P::PubRel(_) | P::PubComp(_) => Err(qos2()),
        P::Connect(_) | P::PingReq | P::Subscribe(_) | P::Unsubscribe(_) | P::Disconnect => {
            Err(Closed::Protocol("a packet of a client".to_owned()))
        }
    }
}

fn expiring(after: Duration) -> packet5::PublishProperties {
    let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX).max(1);
    packet5::PublishProperties { message_expiry_interval: Some(seconds), ..Default::default() }
}

impl Requester {
    pub(super) fn publish(&self, message: &Outgoing) -> Result<(), NotTaken> {
        let (topic, payload, retain) = (&message.topic, message.payload.clone(), message.retain);
        let taken = match self {
            Self::V5(client) => {
                let qos = match message.qos {
                    Qos::AtMostOnce => Qos5::AtMostOnce,
                    Qos::AtLeastOnce => Qos5::AtLeastOnce,
                };
                let published = match message.expiry.map(expiring) {
                    None => client.try_publish(topic, qos, retain, payload),
                    Some(it) => client.try_publish_with_properties(topic, qos, retain, payload, it),
                };
                published.is_ok()
            }
            Self::V4(client) => {
                let qos = match message.qos {
                    Qos::AtMostOnce => Qos4::AtMostOnce,
                    Qos::AtLeastOnce => Qos4::AtLeastOnce,
                };
                client.try_publish(topic, qos, retain, payload).is_ok()
            }
        };
        if taken { Ok(()) } else { Err(NotTaken::Busy) }
    }

    pub(super) fn subscribe(&self, filters: &[String]) -> Result<(), NotTaken> {
        let taken = match self {
            Self::V5(client) => {
                // Retain handling 0: what is retained comes with every subscription.
                let filter = |path: &String| packet5::Filter::new(path, Qos5::AtLeastOnce);
                client.try_subscribe_many(filters.iter().map(filter)).is_ok()
            }
            Self::V4(client) => {
                let filter =
                    |path: &String| v4::SubscribeFilter::new(path.clone(), Qos4::AtLeastOnce);
                client.try_subscribe_many(filters.iter().map(filter)).is_ok()
            }
        };
        if taken { Ok(()) } else { Err(NotTaken::Busy) }
    }

    pub(super) fn unsubscribe(&self, filter: &str) -> Result<(), NotTaken> {
        let taken = match self {
            Self::V5(client) => client.try_unsubscribe(filter).is_ok(),
            Self::V4(client) => client.try_unsubscribe(filter).is_ok(),
        };
        if taken { Ok(()) } else { Err(NotTaken::Busy) }
    }

    pub(super) fn disconnect(&self) -> bool {
        match self {
            Self::V5(client) => client.try_disconnect().is_ok(),
            Self::V4(client) => client.try_disconnect().is_ok(),
        }
    }
}
