//! What the library's errors and reason codes mean, in both its versions, in our own words.
//!
//! Owns: the translation, and the names of MQTT 5's reason codes. Not: what follows from any of it (`reconnect`, `transport`).

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5 as packet5;
use rumqttc::v5::{self, ConnectionError as Error5, StateError as State5};
use rumqttc::{self as v4, ConnectionError as Error4, StateError as State4};

use super::CONNACK_TIMEOUT;
use crate::mqtt::transport::{Closed, Refused, codes};

pub(super) fn puback5(reason: packet5::PubAckReason) -> Result<(), Refused> {
    use packet5::PubAckReason as R;
    Err(refused(match reason {
        R::Success | R::NoMatchingSubscribers => return Ok(()),
        R::UnspecifiedError => 0x80,
        R::ImplementationSpecificError => 0x83,
        R::NotAuthorized => codes::NOT_AUTHORIZED,
        R::TopicNameInvalid => 0x90,
        R::PacketIdentifierInUse => 0x91,
        R::QuotaExceeded => 0x97,
        R::PayloadFormatInvalid => 0x99,
    }))
}

pub(super) fn suback5(reason: packet5::SubscribeReasonCode) -> Result<(), Refused> {
    use packet5::SubscribeReasonCode as R;
    Err(refused(match reason {
        R::Success(_) => return Ok(()),
        R::Failure | R::Unspecified => 0x80,
        R::ImplementationSpecific => 0x83,
        R::NotAuthorized => codes::NOT_AUTHORIZED,
        R::TopicFilterInvalid => 0x8f,
        R::PkidInUse => 0x91,
        R::QuotaExceeded => 0x97,
        R::SharedSubscriptionsNotSupported => 0x9e,
        R::SubscriptionIdNotSupported => 0xa1,
        R::WildcardSubscriptionsNotSupported => 0xa2,
    }))
}

fn connack5(code: packet5::ConnectReturnCode) -> u8 {
    use packet5::ConnectReturnCode as C;
    match code {
        C::Success => 0,
        C::UnspecifiedError => 0x80,
        C::MalformedPacket => 0x81,
        C::ProtocolError => 0x82,
        C::ImplementationSpecificError => 0x83,
        C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => 0x84,
        C::BadClientId | C::ClientIdentifierNotValid => codes::BAD_CLIENT_ID,
        C::BadUserNamePassword => codes::BAD_USER_OR_PASSWORD,
        C::NotAuthorized => codes::NOT_AUTHORIZED,
        C::ServiceUnavailable | C::ServerUnavailable => 0x88,
        C::ServerBusy => 0x89,
        C::Banned => codes::BANNED,
        C::BadAuthenticationMethod => codes::BAD_AUTH_METHOD,
        C::TopicNameInvalid => 0x90,
        C::PacketTooLarge => 0x95,
        C::QuotaExceeded => 0x97,
        C::PayloadFormatInvalid => 0x99,
        C::RetainNotSupported => 0x9a,
        C::QoSNotSupported => 0x9b,
        C::UseAnotherServer => 0x9c,
        C::ServerMoved => 0x9d,
        C::ConnectionRateExceeded => 0x9f,
    }
}

/// The same codes as MQTT 5 has for them.
fn connack4(code: v4::ConnectReturnCode) -> u8 {
    use v4::ConnectReturnCode as C;
    match code {
        C::Success => 0,
        C::RefusedProtocolVersion => 0x84,
        C::BadClientId => codes::BAD_CLIENT_ID,
        C::ServiceUnavailable => 0x88,
        C::BadUserNamePassword => codes::BAD_USER_OR_PASSWORD,
        C::NotAuthorized => codes::NOT_AUTHORIZED,
    }
}

pub(super) fn refused(code: u8) -> Refused {
    Refused { code, name: name(code) }
}

fn refused_connection(code: u8) -> Closed {
    match code {
        0x84 => Closed::OnlyV311,
        code => Closed::Refused { code, name: name(code) },
    }
}

pub(super) fn closed5(error: Error5, keep_alive: Duration) -> Closed {
    match error {
        Error5::Timeout(_) => Closed::NoAnswer(CONNACK_TIMEOUT),
        Error5::Io(error) => Closed::Broken(error.to_string()),
        Error5::ConnectionRefused(code) => refused_connection(connack5(code)),
        Error5::NotConnAck(_) => Closed::Protocol("its first packet is no CONNACK".to_owned()),
        Error5::RequestsDone => Closed::ByUs,
        Error5::MqttState(state) => match state {
            State5::ServerDisconnect { reason_code, reason_string } => {
                let code = reason_code as u8;
                Closed::Ended { code, name: name(code), text: reason_string }
            }
            State5::ConnFail { reason } => refused_connection(connack5(reason)),
            State5::AwaitPingResp => Closed::Silent(keep_alive),
            State5::ConnectionAborted => Closed::ByPeer,
            State5::Io(error) | State5::Deserialization(v5::mqttbytes::Error::Io(error)) => {
                Closed::Broken(error.to_string())
            }
            State5::CollisionTimeout => Closed::Internal("packet ids collide".to_owned()),
            other @ (State5::Coversion(_)
            | State5::InvalidState
            | State5::Unsolicited(_)
            | State5::WrongPacket
            | State5::EmptySubscription
            | State5::Deserialization(_)
            | State5::InvalidAlias { .. }
            | State5::OutgoingPacketTooLarge { .. }
            | State5::IncomingPacketTooLarge { .. }) => Closed::Protocol(other.to_string()),
        },
    }
}

pub(super) fn closed4(error: Error4, keep_alive: Duration) -> Closed {
    match error {
        Error4::NetworkTimeout => Closed::NoAnswer(CONNACK_TIMEOUT),
        Error4::FlushTimeout => Closed::Silent(CONNACK_TIMEOUT),
        Error4::Io(error) => Closed::Broken(error.to_string()),
        Error4::ConnectionRefused(code) => match connack4(code) {
            // There is no older version to go to.
            0x84 => Closed::Unsuitable("it speaks neither MQTT 5 nor MQTT 3.1.1"),
            code => Closed::Refused { code, name: name(code) },
        },
        Error4::NotConnAck(_) => Closed::Protocol("its first packet is no CONNACK".to_owned()),
        Error4::RequestsDone => Closed::ByUs,
        Error4::MqttState(state) => match state {
            State4::AwaitPingResp => Closed::Silent(keep_alive),
            State4::ConnectionAborted => Closed::ByPeer,
            State4::Io(error) | State4::Deserialization(v4::mqttbytes::Error::Io(error)) => {
                Closed::Broken(error.to_string())
            }
            State4::CollisionTimeout => Closed::Internal("packet ids collide".to_owned()),
            other @ (State4::InvalidState
            | State4::Unsolicited(_)
            | State4::WrongPacket
            | State4::EmptySubscription
            | State4::Deserialization(_)) => Closed::Protocol(other.to_string()),
        },
    }
}

/// The name of a reason code, MQTT 5 section 2.4, in small letters.
fn name(code: u8) -> &'static str {
    match code {
        0x00 => "normal disconnection",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep alive timeout",
        0x8e => "session taken over",
        0x8f => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "QoS not supported",
        0x9c => "use another server",
        0x9d => "server moved",
        0x9e => "shared subscriptions not supported",
        0x9f => "connection rate exceeded",
        0xa0 => "maximum connect time",
        0xa1 => "subscription identifiers not supported",
        0xa2 => "wildcard subscriptions not supported",
        _ => "unknown reason",
    }
}
