//! A broker made of bytes: it reads packets, and says exactly what a test tells it to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "all else fails the test")]

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::Clock;
use crate::mqtt::link::{Endpoint, Link, Settings};
use crate::mqtt::transport::{Closed, Event, Limits, Outgoing, Qos, Transport as _, Version};

/// The shortest that the library takes.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

pub(super) struct Fake {
    pub(super) listener: TcpListener,
    pub(super) endpoint: Endpoint,
}

/// One connection, seen from the broker.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) first: u8,
    pub(super) body: Vec<u8>,
}

impl Packet {
    pub(super) fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The id of SUBSCRIBE and UNSUBSCRIBE, or of a PUBLISH of QoS 1.
    pub(super) fn id(&self) -> [u8; 2] {
        let at = match self.kind() {
            3 => 2 + usize::from(u16::from_be_bytes([self.body[0], self.body[1]])),
            _ => 0,
        };
        [self.body[at], self.body[at + 1]]
    }
}

/// Lets virtual time run, twenty times as fast as real time. Left to itself a paused clock jumps to the next deadline whenever no task
/// has work, also while bytes are on their way through the kernel; blocking work keeps it from jumping.
async fn pace() {
    loop {
        let tick = || std::thread::park_timeout(Duration::from_millis(1));
        tokio::task::spawn_blocking(tick).await.unwrap();
        tokio::time::advance(Duration::from_millis(20)).await;
    }
}

impl Fake {
    pub(super) async fn listen() -> Self {
        tokio::spawn(pace());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, endpoint: Endpoint { host: "127.0.0.1".into(), port, tls: false } }
    }

    pub(super) fn settings(&self) -> Settings {
        let mut settings = Settings::new("gw-17", vec![self.endpoint.clone()]);
        settings.keep_alive = KEEP_ALIVE;
        settings
    }

    pub(super) fn link(&self) -> Link {
        Link::new(self.settings(), Clock::start()).unwrap()
    }

    /// The next connection, after its CONNECT.
    pub(super) async fn accept(&self) -> (Peer, Packet) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut peer = Peer { stream };
        let connect = peer.read().await.unwrap();
        assert_eq!(connect.kind(), 1);
        (peer, connect)
    }

    /// A link and its broker, connected.
    pub(super) async fn connected(&self) -> (Link, Peer) {
        let mut link = self.link();
        let peer = self.connect(&mut link).await;
        (link, peer)
    }

    pub(super) async fn connect(&self, link: &mut Link) -> Peer {
        link.connect(None);
        let (mut peer, _) = self.accept().await;
        peer.send(&CONNACK).await;
        assert!(matches!(next(link).await, Event::Connected(_)));
        peer
    }
}

impl Peer {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; `None` at the end.
    pub(super) async fn read(&mut self) -> Option<Packet> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Packet { first, body })
    }

    /// Closes without a word.
    pub(super) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    /// The next packet that is no ping; pings are answered.
    pub(super) async fn read_work(&mut self) -> Option<Packet> {
        loop {
            let packet = self.read().await?;
            if packet.kind() != 12 {
                return Some(packet);
            }
            self.send(&[0xd0, 0]).await;
        }
    }

    /// Says a message; QoS 1 with an id, else 0.
    pub(super) async fn publish(&mut self, topic: &str, id: Option<u16>, payload: &[u8]) {
        let first = if id.is_some() { 0x32 } else { 0x30 };
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend(id.iter().flat_map(|id| id.to_be_bytes()));
        body.push(0);
        body.extend(payload);
        self.send(&packet(first, &body)).await;
    }
}

pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        packet.push(u8::try_from(length & 0x7f).unwrap() | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

pub(super) async fn next(link: &mut Link) -> Event {
    link.next().await.1
}

/// Waits for the end of the connection; why.
pub(super) async fn closed(link: &mut Link) -> Closed {
    loop {
        if let Event::Closed(closed) = next(link).await {
            return closed;
        }
    }
}

pub(super) fn message(topic: &str, qos: Qos, payload: &[u8]) -> Outgoing {
    let payload = Bytes::copy_from_slice(payload);
    Outgoing { topic: topic.into(), payload, qos, retain: true, expiry: None }
}

pub(super) fn limits(event: Event) -> Limits {
    match event {
        Event::Connected(limits) => limits,
        other => panic!("not connected: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_conversation() {
    use crate::mqtt::transport::{Body, Message};
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    assert_eq!(link.limits().unwrap().version, Version::V5);
    let token = link.subscribe(&["n/gw-17/#".into(), "s/gw-17/online".into()]).unwrap();
    let subscribe = peer.read().await.unwrap();
    assert_eq!(subscribe.kind(), 8);
    let [high, low] = subscribe.id();
    peer.send(&packet(0x90, &[high, low, 0, 1, 1])).await;
    let filters = vec![Ok(()), Ok(())];
    assert_eq!(next(&mut link).await, Event::Subscribed { token, filters });
    peer.publish("n/gw-17/desired", Some(9), b"x").await;
    let body = Body::Bytes(Bytes::from_static(b"x"));
    let expected = Message { topic: "n/gw-17/desired".into(), retained: false, body };
    assert_eq!(next(&mut link).await, Event::Message(expected));
    assert_eq!(peer.read().await.unwrap().kind(), 4, "PUBACK");
    let token = link.publish(&message("s/gw-17/online", Qos::AtLeastOnce, b"{}")).unwrap();
    let publish = peer.read().await.unwrap();
    assert_eq!(publish.first, 0x33, "QoS 1, retained");
    peer.send(&packet(0x40, &publish.id())).await;
    assert_eq!(next(&mut link).await, Event::Acked { token, result: Ok(()) });
    let counts = link.stats().counts();
    assert!(counts.connected && counts.bytes_in > 0 && counts.bytes_out > 0);
    assert_eq!((counts.messages_in, counts.messages_out, counts.attempts), (1, 1, 1));
}
