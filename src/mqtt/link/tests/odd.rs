//! Brokers that answer, and what they answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::fake::{CONNACK, Fake, Peer, closed, limits, message, next, packet};
use crate::clock::Clock;
use crate::mqtt::link::{Link, MESSAGE_BYTES_MAX, Speak};
use crate::mqtt::transport::{
    Body, Class, Closed, Event, NotTaken, Outgoing, Qos, Refused, Transport as _, Version, Will,
    codes,
};

/// CONNACK with properties.
fn connack(code: u8, properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).unwrap();
    packet(0x20, &[&[0, code, length][..], properties].concat())
}

async fn answered(answer: &[u8]) -> Event {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    peer.send(answer).await;
    next(&mut link).await
}

#[tokio::test(start_paused = true)]
async fn connect_says_what_keeps_the_traps_shut() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    let payload = b"{\"online\":false}".as_slice().into();
    let delay = Duration::from_secs(20);
    link.connect(Some(Will { topic: "s/gw-17/online".into(), payload, delay }));
    let (_peer, connect) = fake.accept().await;
    let body = &connect.body;
    assert_eq!(body[..7], *b"\0\x04MQTT\x05");
    // Clean start, will, QoS 1, retained; no credentials.
    assert_eq!(body[7], 0b0010_1110);
    assert_eq!(body[8..10], [0, 5], "keep-alive");
    let length = usize::from(body[10]);
    let properties = &body[11..11 + length];
    // Session expiry: the will's delay and five seconds, receive maximum 16, maximum packet size; and no topic alias maximum (0x22).
    let size = u32::try_from(MESSAGE_BYTES_MAX + 64).unwrap().to_be_bytes();
    let expected = [&[0x11, 0, 0, 0, 25][..], &[0x21, 0, 16], &[0x27], &size].concat();
    assert_eq!(properties, expected);
    let rest = &body[11 + length..];
    assert_eq!(rest[..7], *b"\0\x05gw-17");
    assert_eq!(rest[7..13], [5, 0x18, 0, 0, 0, 20], "the will's delay");
}

#[tokio::test(start_paused = true)]
async fn a_brokers_limits_are_known_and_kept() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    // Receive maximum 3, maximum packet size 200, server keep-alive 4000.
    peer.send(&connack(0, &[0x21, 0, 3, 0x27, 0, 0, 0, 200, 0x13, 0x0f, 0xa0])).await;
    let limits = limits(next(&mut link).await);
    assert_eq!((limits.window, limits.max_packet), (2, Some(200)));
    assert_eq!(limits.keep_alive, super::fake::KEEP_ALIVE, "ours is shorter");
    let refused = link.publish(&message("t", Qos::AtLeastOnce, &[0; 200]));
    assert_eq!(refused, Err(NotTaken::TooLarge { size: 211, max: 200 }));
    let small = message("t", Qos::AtLeastOnce, b"x");
    link.publish(&small).unwrap();
    link.publish(&small).unwrap();
    assert_eq!(link.publish(&small), Err(NotTaken::Busy));
    let publish = peer.read().await.unwrap();
    peer.send(&packet(0x40, &publish.id())).await;
    assert!(matches!(next(&mut link).await, Event::Acked { .. }));
    link.publish(&small).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_asks_for_no_keep_alive_is_not_pinged_without_pause() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    peer.send(&connack(0, &[0x13, 0, 0])).await;
    assert_eq!(limits(next(&mut link).await).keep_alive, super::fake::KEEP_ALIVE);
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(peer.read().await.unwrap().kind(), 12);
        peer.send(&[0xd0, 0]).await;
    }
    assert!(start.elapsed() >= super::fake::KEEP_ALIVE * 2);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_a_connection_have_their_code_and_who_must_act() {
    for (code, class) in [
        (codes::NOT_AUTHORIZED, Class::NeedsAPerson),
        (codes::BAD_USER_OR_PASSWORD, Class::NeedsAPerson),
        (codes::BANNED, Class::NeedsAPerson),
        (0x89, Class::Transient),
    ] {
        let Event::Closed(ended) = answered(&connack(code, &[])).await else { panic!() };
        assert!(matches!(ended, Closed::Refused { code: c, .. } if c == code), "{ended}");
        assert_eq!(ended.class(), class, "{ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn brokers_that_cannot_serve_a_node_are_named() {
    let rows = [
        (connack(0, &[0x25, 0]), "no retained messages"),
        (connack(0, &[0x24, 0]), "QoS 0 only"),
        (connack(0, &[0x28, 0]), "wildcards"),
        (connack(0, &[0x21, 0, 0]), "limit of zero"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "no MQTT"),
        (packet(0xd0, &[]), "no MQTT"),
    ];
    for (answer, expected) in rows {
        let Event::Closed(ended) = answered(&answer).await else { panic!("{expected}") };
        assert!(ended.to_string().contains(expected), "{ended}: {expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_of_mqtt_3_1_1_is_spoken_to_in_its_own_words() {
    for answer in [&[0x20, 2, 0, 1][..], &connack(0x84, &[])] {
        let fake = Fake::listen().await;
        let mut link = fake.link();
        link.connect(None);
        let (mut peer, connect) = fake.accept().await;
        assert_eq!(connect.body[6], 5);
        peer.send(answer).await;
        assert_eq!(closed(&mut link).await, Closed::OnlyV311);
        drop(peer);
        link.connect(None);
        let (mut peer, connect) = fake.accept().await;
        assert_eq!(connect.body[6], 4);
        peer.send(&[0x20, 2, 0, 0]).await;
        assert_eq!(limits(next(&mut link).await).version, Version::V311);
        let token = link.subscribe(&["a".into(), "b".into()]).unwrap();
        let [high, low] = peer.read().await.unwrap().id();
        peer.send(&packet(0x90, &[high, low, 1, 0x80])).await;
        let no = Refused { code: 0x80, name: "unspecified error" };
        assert_eq!(
            next(&mut link).await,
            Event::Subscribed { token, filters: vec![Ok(()), Err(no)] }
        );
        // A message above the limit, which this broker cannot be told of.
        let topic = b"\0\x01t\0\x07";
        peer.send(&packet(0x32, &[&topic[..], &vec![0; MESSAGE_BYTES_MAX]].concat())).await;
        let Event::Message(large) = next(&mut link).await else { panic!() };
        assert!(matches!(large.body, Body::TooLarge { .. }));
        assert_eq!(
            peer.read().await.unwrap(),
            super::fake::Packet { first: 0x40, body: vec![0, 7] }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_only_mqtt_5_is_wanted_the_older_one_is_not_tried() {
    let fake = Fake::listen().await;
    let mut settings = fake.settings();
    settings.speak = Speak::Only(Version::V5);
    let mut link = crate::mqtt::link::Link::new(settings, crate::clock::Clock::start()).unwrap();
    for _ in 0..2 {
        link.connect(None);
        let (mut peer, connect) = fake.accept().await;
        assert_eq!(connect.body[6], 5);
        peer.send(&[0x20, 2, 0, 1]).await;
        assert_eq!(closed(&mut link).await, Closed::OnlyV311);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_of_subscriptions_and_messages_are_events() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    let token = link.subscribe(&["a".into(), "b".into()]).unwrap();
    let [high, low] = peer.read().await.unwrap().id();
    peer.send(&packet(0x90, &[high, low, 0, 0x87, 1])).await;
    let no = Refused { code: 0x87, name: "not authorized" };
    let filters = vec![Err(no), Ok(())];
    assert_eq!(next(&mut link).await, Event::Subscribed { token, filters });
    let token = link.publish(&message("t", Qos::AtLeastOnce, b"x")).unwrap();
    let [high, low] = peer.read().await.unwrap().id();
    peer.send(&packet(0x40, &[high, low, 0x87, 0])).await;
    assert_eq!(next(&mut link).await, Event::Acked { token, result: Err(no) });
}

#[tokio::test(start_paused = true)]
async fn a_message_above_the_limit_is_skipped_and_acknowledged_and_comes_once() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    for id in 1..=40 {
        peer.publish("t", Some(id), &vec![7; MESSAGE_BYTES_MAX * 2]).await;
        let Event::Message(large) = next(&mut link).await else { panic!() };
        assert_eq!(large.topic, "t");
        assert!(matches!(large.body, Body::TooLarge { size } if size > MESSAGE_BYTES_MAX * 2));
        let ack = peer.read_work().await.unwrap();
        assert_eq!((ack.kind(), &ack.body[..2]), (4, &id.to_be_bytes()[..]));
    }
    peer.publish("u", None, b"small").await;
    let Event::Message(small) = next(&mut link).await else { panic!() };
    assert_eq!(small.body, Body::Bytes(b"small".as_slice().into()));
    assert_eq!(link.stats().counts().too_large, 40);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_protocol_ends_the_connection_and_says_why() {
    let rows = [
        (packet(0x40, &[0, 9]), "unsolicited"),
        (packet(0x40, &[0xff, 0xff]), "unsolicited"),
        (packet(0x90, &[0, 9, 0, 0]), "not made"),
        (packet(0xb0, &[0, 9, 0, 0]), "not made"),
        (packet(0x34, &[0, 1, b't', 0, 1, 0]), "QoS 2"),
        (packet(0x50, &[0, 1, 0, 0]), "QoS 2"),
        (packet(0x62, &[0, 1, 0, 0]), "QoS 2"),
        // An alias: no topic, and property 0x23.
        (packet(0x30, &[0, 0, 3, 0x23, 0, 1]), "alias"),
        (packet(0x30, &[0, 1, 0xff, 0]), "UTF-8"),
        (packet(0x10, &[0; 20]), "type 1"),
        (packet(0x20, &[0, 0, 0]), "type 2"),
    ];
    for (bytes, expected) in rows {
        let fake = Fake::listen().await;
        let (mut link, mut peer) = fake.connected().await;
        peer.send(&bytes).await;
        let ended = closed(&mut link).await;
        assert!(matches!(ended, Closed::Protocol(_)), "{ended}: {expected}");
        let shown = ended.to_string();
        assert!(shown.to_lowercase().contains(&expected.to_lowercase()), "{shown}: {expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn disconnect_of_the_broker_has_its_code_also_in_its_shortest_form() {
    let rows = [
        (packet(0xe0, &[0x8e]), codes::SESSION_TAKEN_OVER, Class::TakenOver),
        (packet(0xe0, &[0x8e, 0]), codes::SESSION_TAKEN_OVER, Class::TakenOver),
        (packet(0xe0, &[0x8b, 6, 0x1f, 0, 3, b'b', b'y', b'e']), 0x8b, Class::Transient),
        (packet(0xe0, &[0x87]), codes::NOT_AUTHORIZED, Class::NeedsAPerson),
        (packet(0xe0, &[]), 0, Class::Transient),
    ];
    for (bytes, code, class) in rows {
        let fake = Fake::listen().await;
        let (mut link, mut peer) = fake.connected().await;
        peer.send(&bytes).await;
        let ended = closed(&mut link).await;
        assert!(matches!(ended, Closed::Ended { code: c, .. } if c == code), "{ended}");
        assert_eq!(ended.class(), class);
        if code == 0x8b {
            assert!(ended.to_string().contains("server shutting down"), "{ended}");
            assert!(ended.to_string().contains("bye"), "{ended}");
        }
    }
}

/// A connection in MQTT 3.1.1 that ends as soon as this message has come.
async fn dies_of(fake: &Fake, link: &mut Link, large: &Outgoing) {
    let mut peer = older(fake, link).await;
    link.publish(large).unwrap();
    peer.read_work().await.unwrap();
    drop(peer);
    closed(link).await;
}

/// A link that speaks MQTT 3.1.1.
fn older_link(fake: &Fake) -> Link {
    let mut settings = fake.settings();
    settings.speak = Speak::Only(Version::V311);
    Link::new(settings, Clock::start()).unwrap()
}

async fn older(fake: &Fake, link: &mut Link) -> Peer {
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    peer.send(&[0x20, 2, 0, 0]).await;
    assert!(matches!(next(link).await, Event::Connected(_)));
    peer
}

#[tokio::test(start_paused = true)]
async fn what_an_older_broker_dies_of_is_not_sent_a_fourth_time() {
    let fake = Fake::listen().await;
    let (mut link, large) = (older_link(&fake), message("t", Qos::AtLeastOnce, &[0; 9000]));
    for _ in 0..3 {
        dies_of(&fake, &mut link, &large).await;
    }
    let mut peer = older(&fake, &mut link).await;
    assert!(matches!(link.publish(&large), Err(NotTaken::TooLarge { .. })));
    link.publish(&message("t", Qos::AtLeastOnce, &[0; 1000])).unwrap();
    assert_eq!(peer.read_work().await.unwrap().kind(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_on_what_an_older_broker_took_before_says_nothing_of_sizes() {
    let fake = Fake::listen().await;
    let (mut link, large) = (older_link(&fake), message("t", Qos::AtLeastOnce, &[0; 9000]));
    let mut peer = older(&fake, &mut link).await;
    let token = link.publish(&large).unwrap();
    let id = peer.read_work().await.unwrap().id();
    peer.send(&packet(0x40, &id)).await;
    assert_eq!(next(&mut link).await, Event::Acked { token, result: Ok(()) });
    drop(peer);
    closed(&mut link).await;
    for _ in 0..5 {
        dies_of(&fake, &mut link, &large).await;
    }
}

/// A broker of MQTT 5 names its limit. That the link breaks while a birth is under way says nothing, however often: a node that kept its
/// birth back would be connected and silent.
#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_again_and_again_does_not_silence_the_node() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    let birth = message("s/gw-17/online", Qos::AtLeastOnce, &[0; 9000]);
    for _ in 0..5 {
        let mut peer = fake.connect(&mut link).await;
        link.publish(&birth).unwrap();
        peer.read_work().await.unwrap();
        drop(peer);
        closed(&mut link).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_before_the_broker_took_us_or_of_nonsense() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    let hello = message("t", Qos::AtLeastOnce, b"x");
    assert_eq!(link.publish(&hello), Err(NotTaken::NotConnected));
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    assert_eq!(link.subscribe(&["a".into()]), Err(NotTaken::NotConnected));
    peer.send(&CONNACK).await;
    next(&mut link).await;
    assert_eq!(link.publish(&message("a/+", Qos::AtLeastOnce, b"")), Err(NotTaken::BadTopic));
    assert_eq!(link.subscribe(&["a/#/b".into()]), Err(NotTaken::BadTopic));
    assert_eq!(link.subscribe(&[]), Err(NotTaken::BadTopic));
}
