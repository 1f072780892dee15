//! Looks over what comes from the broker, before the library sees it. Pure.
//!
//! Owns: the framing of MQTT packets (a type, a length of 1 to 4 bytes, that many bytes), and which of them may come to a client of
//! QoS 0 and 1. Not: what is in them (`rumqttc`).
//!
//! Why it is there: `rumqttc` ends the connection on a packet above its limit, the broker delivers it again, and so for ever; a
//! 3.1.1 broker cannot even be told the limit. Here such a message is cut down to its topic as it streams by, in constant memory: the library
//! acknowledges it, and the caller learns that it was too large. Exchanges of QoS 2, which the library can only loop on, and
//! packets that no broker may send, end the connection with their name. A DISCONNECT without properties, legal and what mosquitto
//! sends, is lost on the library, and with it the news that another client has our name: it gets its empty properties here.

use std::collections::VecDeque;

use crate::mqtt::transport::{Closed, Version};

/// Largest CONNACK and DISCONNECT, which are looked at whole. They have a few short properties.
const HELD_BYTES_MAX: usize = 16 * 1024;

/// Longest topic of a message that is cut down.
const TOPIC_BYTES_MAX: usize = 1024;

/// A message that was cut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Which PUBLISH of this connection it was, counted from 0.
    pub(super) index: u64,
    /// Its size on the wire.
    pub(super) size: usize,
}

/// Where in the stream of packets we are.
#[derive(Debug)]
enum State {
    /// Reading a type and a length.
    Header { bytes: Vec<u8> },
    /// Passing a packet on.
    Pass { left: usize },
    /// Holding a CONNACK or DISCONNECT until it is whole.
    Hold { first: u8, body: Vec<u8>, left: usize },
    /// Holding the beginning of a message that is too large.
    Head { first: u8, size: usize, head: Vec<u8>, left: usize },
    /// Dropping the rest of such a message.
    Skip { left: usize },
}

/// See the header.
#[derive(Debug)]
pub(super) struct Scanner {
    version: Version,
    /// Largest packet that is passed on, without its header.
    limit: usize,
    /// Seconds. What the broker says instead holds only if it is shorter.
    keep_alive: u16,
    state: State,
    is_first: bool,
    publishes: u64,
    cuts: VecDeque<Cut>,
}

impl Scanner {
    pub(super) fn new(version: Version, limit: usize, keep_alive: u16) -> Self {
        let state = State::Header { bytes: Vec::with_capacity(5) };
        let cuts = VecDeque::new();
        Self { version, limit, keep_alive, state, is_first: true, publishes: 0, cuts }
    }

    /// Takes bytes from the broker and appends what may be passed on to `out`, which grows by at most twice what was taken.
    ///
    /// # Errors
    /// Why the connection cannot go on. What is in `out` may be passed on all the same.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Closed> {
        while let Some((&next, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Header { bytes: header } => {
                    header.push(next);
                    bytes = rest;
                    if header.len() > 1 && next & 0x80 == 0 {
                        let header = std::mem::take(header);
                        self.state = self.begin(&header, out)?;
                    } else if header.len() == 5 {
                        return Err(protocol("a packet's length has more than four bytes"));
                    }
                }
                State::Pass { left } => {
                    let (now, later) = bytes.split_at(bytes.len().min(*left));
                    out.extend_from_slice(now);
                    *left -= now.len();
                    bytes = later;
                    self.done_if(|state| matches!(state, State::Pass { left: 0 }));
                }
                State::Hold { first, body, left } => {
                    let (now, later) = bytes.split_at(bytes.len().min(*left));
                    body.extend_from_slice(now);
                    *left -= now.len();
                    bytes = later;
                    if *left == 0 {
                        if *first >> 4 == 2 && self.version == Version::V5 {
                            set_keep_alive(body, self.keep_alive);
                        }
                        pass(*first, body, out);
                        self.done_if(|_| true);
                    }
                }
                State::Head { first, size, head, left } => {
                    head.push(next);
                    *left -= 1;
                    bytes = rest;
                    if let Some(state) = cut(self.version, *first, head, *left, out)? {
                        self.cuts.push_back(Cut { index: self.publishes - 1, size: *size });
                        self.state = state;
                        self.done_if(|state| matches!(state, State::Skip { left: 0 }));
                    } else if *left == 0 {
                        return Err(protocol("a message that is shorter than its topic"));
                    }
                }
                State::Skip { left } => {
                    let skipped = bytes.len().min(*left);
                    *left -= skipped;
                    bytes = &bytes[skipped..];
                    self.done_if(|state| matches!(state, State::Skip { left: 0 }));
                }
            }
        }
        Ok(())
    }

    /// Takes the messages that were cut down since the last call.
    pub(super) fn take_cuts(&mut self) -> impl Iterator<Item = Cut> + '_ {
        self.cuts.drain(..)
    }

    fn done_if(&mut self, is_done: impl Fn(&State) -> bool) {
        if is_done(&self.state) {
            self.state = State::Header { bytes: Vec::with_capacity(5) };
        }
    }

    /// Decides on a packet by its header.
    fn begin(&mut self, header: &[u8], out: &mut Vec<u8>) -> Result<State, Closed> {
        let length =
            header[1..].iter().rev().fold(0, |sum, byte| (sum << 7) | usize::from(byte & 0x7f));
        let size = header.len() + length;
        if std::mem::take(&mut self.is_first) {
            return self.begin_first(header, length);
        }
        match header[0] >> 4 {
            3 => return self.begin_publish(header, length, out),
            14 if self.version == Version::V5 => return begin_disconnect(header[0], length, out),
            // PUBACK, SUBACK, UNSUBACK, PINGRESP.
            4 | 9 | 11 | 13 => {}
            5..=7 => return Err(protocol("an answer of QoS 2, which we never use")),
            other => return Err(protocol(&format!("a packet of type {other}"))),
        }
        if length > self.limit {
            return Err(protocol(&format!("a packet of {size} bytes that is no message")));
        }
        out.extend_from_slice(header);
        Ok(if length == 0 { State::Header { bytes: vec![] } } else { State::Pass { left: length } })
    }

    fn begin_first(&self, header: &[u8], length: usize) -> Result<State, Closed> {
        if header[0] >> 4 != 2 {
            return Err(protocol("its first words are no MQTT"));
        }
        // With MQTT 5 there is always a length of properties, be it 0.
        if length == 2 && self.version == Version::V5 {
            return Err(Closed::OnlyV311);
        }
        if length == 0 || length > HELD_BYTES_MAX {
            return Err(protocol("its answer to CONNECT has an impossible length"));
        }
        Ok(State::Hold { first: header[0], body: vec![], left: length })
    }

    fn begin_publish(
        &mut self,
        header: &[u8],
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<State, Closed> {
        if header[0] & 0b0110 > 0b0010 {
            return Err(protocol("a message of QoS 2, which we never ask for"));
        }
        if length < 2 {
            return Err(protocol("a message without a topic"));
        }
        self.publishes += 1;
        if length <= self.limit {
            out.extend_from_slice(header);
            return Ok(State::Pass { left: length });
        }
        let size = header.len() + length;
        Ok(State::Head { first: header[0], size, head: vec![], left: length })
    }
}

/// A DISCONNECT of the broker: with an empty reason and empty properties where it leaves them out.
fn begin_disconnect(first: u8, length: usize, out: &mut Vec<u8>) -> Result<State, Closed> {
    match length {
        0 => {
            pass(first, &mut vec![0, 0], out);
            Ok(State::Header { bytes: vec![] })
        }
        // What is missing is appended when it is passed on.
        1..=HELD_BYTES_MAX => Ok(State::Hold { first, body: vec![], left: length }),
        _ => Err(protocol("its DISCONNECT has an impossible length")),
    }
}

/// A broker may name its own keep-alive time in CONNACK. The library takes it over whatever it is: with none at all it would ping without
/// pause, with hours a dead link would go unnoticed. To ping more often than asked is always allowed.
fn set_keep_alive(connack: &mut [u8], ours: u16) {
    let Some((_, mut rest)) = connack.split_at_mut_checked(2) else { return };
    // The length of the properties. They reach to the end, so that it need not be known.
    let Some(end) = rest.iter().position(|byte| byte & 0x80 == 0) else { return };
    rest = &mut rest[end + 1..];
    while let Some((&mut property, after)) = rest.split_first_mut() {
        let text = |at: usize| {
            let length = after.get(at..at + 2)?;
            Some(2 + usize::from(u16::from_be_bytes([length[0], length[1]])))
        };
        // MQTT 5, section 3.2.2.3, and the types of section 2.2.2.2.
        let size = match property {
            0x13 => {
                if let [high, low, ..] = after {
                    let theirs = u16::from_be_bytes([*high, *low]);
                    let kept = if theirs == 0 { ours } else { theirs.min(ours) };
                    [*high, *low] = kept.to_be_bytes();
                }
                return;
            }
            0x24 | 0x25 | 0x28..=0x2a => Some(1),
            0x21 | 0x22 => Some(2),
            0x11 | 0x27 => Some(4),
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => text(0),
            0x26 => text(0).and_then(|key| Some(key + text(key)?)),
            // The library will say what is wrong with it.
            _ => return,
        };
        let Some((_, next)) = size.and_then(|size| after.split_at_mut_checked(size)) else {
            return;
        };
        rest = next;
    }
}

/// Passes a packet on that was held.
fn pass(first: u8, body: &mut Vec<u8>, out: &mut Vec<u8>) {
    if first >> 4 == 14 && body.len() == 1 {
        body.push(0);
    }
    out.push(first);
    put_length(body.len(), out);
    out.append(body);
}

/// The length of a packet as it is written.
fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length > 0x7f {
        out.push(0x80 | low_bits(length));
        length >>= 7;
    }
    out.push(low_bits(length));
}

/// Passes the topic and packet id of a message on as a message of its own, as soon as they are there.
fn cut(
    version: Version,
    first: u8,
    head: &mut Vec<u8>,
    left: usize,
    out: &mut Vec<u8>,
) -> Result<Option<State>, Closed> {
    let [high, low, ..] = head[..] else { return Ok(None) };
    let topic = usize::from(u16::from_be_bytes([high, low]));
    if topic > TOPIC_BYTES_MAX {
        return Err(protocol("a message that is too large, with a topic that is too long"));
    }
    let id = if first & 0b0110 == 0 { 0 } else { 2 };
    if head.len() < 2 + topic + id {
        return Ok(None);
    }
    if version == Version::V5 {
        // No properties.
        head.push(0);
    }
    out.push(first);
    put_length(head.len(), out);
    out.append(head);
    Ok(Some(State::Skip { left }))
}

fn low_bits(length: usize) -> u8 {
    u8::try_from(length & 0x7f).expect("seven bits fit a byte")
}

fn protocol(what: &str) -> Closed {
    Closed::Protocol(what.to_owned())
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![first];
        put_length(body.len(), &mut packet);
        packet.extend_from_slice(body);
        packet
    }

    /// QoS 1, MQTT 5.
    fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(topic.as_bytes());
        body.extend_from_slice(&id.to_be_bytes());
        body.push(0);
        body.extend_from_slice(payload);
        packet(0x32, &body)
    }

    fn scan(bytes: &[u8]) -> (Vec<u8>, Vec<Cut>, Result<(), Closed>) {
        let mut scanner = Scanner::new(Version::V5, 100, 60);
        let mut out = vec![];
        let result = scanner.feed(bytes, &mut out);
        (out, scanner.take_cuts().collect(), result)
    }

    #[test]
    fn what_is_in_order_passes_untouched() {
        let mut bytes = CONNACK.to_vec();
        for part in [publish("a/b", 7, &[1; 50]), packet(0xd0, &[]), packet(0x90, &[0, 1, 0, 1])] {
            bytes.extend(part);
        }
        let (out, cuts, result) = scan(&bytes);
        assert_eq!((result, out, cuts), (Ok(()), bytes, vec![]));
    }

    #[test]
    fn a_message_that_is_too_large_keeps_its_topic_and_loses_its_content() {
        let large = publish("a/b", 7, &[1; 5000]);
        let mut bytes = CONNACK.to_vec();
        bytes.extend(publish("x", 1, &[]));
        bytes.extend(&large);
        bytes.extend(publish("y", 2, &[9]));
        let mut expected = CONNACK.to_vec();
        expected.extend(publish("x", 1, &[]));
        expected.extend(publish("a/b", 7, &[]));
        expected.extend(publish("y", 2, &[9]));
        let (out, cuts, result) = scan(&bytes);
        assert_eq!((result, out), (Ok(()), expected));
        assert_eq!(cuts, [Cut { index: 1, size: large.len() }]);
    }

    #[test]
    fn the_brokers_own_keep_alive_only_shortens_ours() {
        let user = [0x26, 0, 1, b'k', 0, 2, b'v', b'w'];
        let reason = [0x1f, 0, 3, b'h', b'i', b'!'];
        let connack = |keep_alive: u16| {
            let [high, low] = keep_alive.to_be_bytes();
            let properties =
                [&[0x24, 1][..], &user, &[0x27, 0, 0, 1, 0], &reason, &[0x13, high, low, 0x25, 1]];
            let properties = properties.concat();
            let length = u8::try_from(properties.len()).unwrap();
            packet(0x20, &[vec![0, 0, length], properties].concat())
        };
        for (theirs, kept) in [(0, 60), (3, 3), (30, 30), (60, 60), (65_535, 60)] {
            assert_eq!(scan(&connack(theirs)).0, connack(kept), "{theirs}");
        }
    }

    #[test]
    fn a_short_disconnect_gets_its_properties() {
        for (body, expected) in
            [(&[][..], &[0, 0][..]), (&[0x8e], &[0x8e, 0]), (&[0x8e, 0], &[0x8e, 0])]
        {
            let (out, _, result) = scan(&[CONNACK.to_vec(), packet(0xe0, body)].concat());
            assert_eq!(
                (result, out),
                (Ok(()), [CONNACK.to_vec(), packet(0xe0, expected)].concat())
            );
        }
    }

    #[test]
    fn what_no_broker_may_send_is_named() {
        let after = |packet: Vec<u8>| [CONNACK.to_vec(), packet].concat();
        let rows = [
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "first words are no MQTT"),
            (after(packet(0x34, &[0, 1, b'a', 0, 1, 0])), "QoS 2"),
            (after(packet(0x50, &[0, 1])), "QoS 2"),
            (after(packet(0x10, &[0; 12])), "type 1"),
            (after(packet(0xf0, &[0; 12])), "type 15"),
            (after(vec![0x30, 0xff, 0xff, 0xff, 0xff]), "more than four bytes"),
            (after(packet(0x90, &[0; 500])), "no message"),
            (after(packet(0x30, &[0])), "without a topic"),
            (after(packet(0x30, &[0xff; 500])), "topic that is too long"),
            (after(packet(0x30, &[&[2, 0][..], &[b't'; 200]].concat())), "shorter than its topic"),
            (packet(0x20, &[]), "impossible length"),
        ];
        for (bytes, expected) in rows {
            let error = scan(&bytes).2.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}: {expected}");
        }
        assert_eq!(scan(&[0x20, 2, 0, 1]).2, Err(Closed::OnlyV311));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_stream_is_cut(
            packets in proptest::collection::vec((0..3u8, 0..400usize), 0..20),
            sizes in proptest::collection::vec(1..60usize, 1..40),
        ) {
            let mut bytes = CONNACK.to_vec();
            for (kind, size) in packets {
                bytes.extend(match kind {
                    0 => publish("t/o/p", 3, &vec![5; size]),
                    1 => packet(0xd0, &[]),
                    _ => packet(0x40, &[0, 1, 0, 0]),
                });
            }
            let whole = scan(&bytes);
            let mut scanner = Scanner::new(Version::V5, 100, 60);
            let mut out = vec![];
            let (mut rest, mut sizes) = (&bytes[..], sizes.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.next().unwrap().min(rest.len()));
                scanner.feed(now, &mut out).unwrap();
                rest = later;
            }
            prop_assert_eq!((out, scanner.take_cuts().collect(), Ok(())), whole);
        }

        #[test]
        fn nothing_makes_it_panic_or_grow(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for version in [Version::V5, Version::V311] {
                let mut scanner = Scanner::new(version, 100, 60);
                let mut out = vec![];
                let _ = scanner.feed(&[CONNACK.to_vec(), bytes.clone()].concat(), &mut out);
                let mut connack = bytes.clone();
                set_keep_alive(&mut connack, 60);
                prop_assert!(out.len() <= 2 * (CONNACK.len() + bytes.len()));
            }
        }
    }
}
