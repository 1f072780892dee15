//! Brokers that keep to the letter and surprise all the same, and some that do not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "all else fails the test")]

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::fake::{CONNACK, Fake, Peer, closed, limits, message, next, packet};
use crate::clock::Clock;
use crate::mqtt::link::{Link, UNANSWERED_KNOWN_MAX, UNANSWERED_MAX};
use crate::mqtt::transport::{
    Body, Class, Closed, Event, Message, NotTaken, Qos, Refused, Transport as _, Version, Will,
};

/// CONNACK with properties; `flags`: 1 is "session present".
fn connack(flags: u8, properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).unwrap();
    packet(0x20, &[&[flags, 0, length][..], properties].concat())
}

/// A connection with that CONNACK.
async fn connected(fake: &Fake, answer: &[u8]) -> (Link, Peer) {
    let mut link = fake.link();
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    peer.send(answer).await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
    (link, peer)
}

/// A message there, and its acknowledgement back.
async fn works(link: &mut Link, peer: &mut Peer) {
    let token = link.publish(&message("t", Qos::AtLeastOnce, b"x")).unwrap();
    let publish = peer.read_work().await.unwrap();
    assert_eq!(publish.kind(), 3);
    peer.send(&packet(0x40, &publish.id())).await;
    assert_eq!(next(link).await, Event::Acked { token, result: Ok(()) });
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_one_at_a_time_is_given_one_at_a_time() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = connected(&fake, &connack(0, &[0x21, 0, 1])).await;
    assert_eq!(link.limits().unwrap().window, 1);
    let token = link.subscribe(&["a".into()]).unwrap();
    assert_eq!(link.publish(&message("t", Qos::AtLeastOnce, b"x")), Err(NotTaken::Busy));
    let [high, low] = peer.read_work().await.unwrap().id();
    peer.send(&packet(0x90, &[high, low, 0, 1])).await;
    let filters = vec![Ok(())];
    assert_eq!(next(&mut link).await, Event::Subscribed { token, filters });
    for _ in 0..40 {
        works(&mut link, &mut peer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shorter_keep_alive_of_the_broker_is_kept() {
    let fake = Fake::listen().await;
    let mut settings = fake.settings();
    settings.keep_alive = Duration::from_secs(60);
    let mut link = Link::new(settings, Clock::start()).unwrap();
    link.connect(None);
    let (mut peer, connect) = fake.accept().await;
    assert_eq!(connect.body[8..10], [0, 60]);
    peer.send(&connack(0, &[0x13, 0, 7])).await;
    let theirs = Duration::from_secs(7);
    assert_eq!(limits(next(&mut link).await).keep_alive, theirs);
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(peer.read().await.unwrap().kind(), 12);
        peer.send(&[0xd0, 0]).await;
    }
    assert!(start.elapsed() <= theirs * 4, "{:?}", start.elapsed());
    // And it is measured by it, too.
    let start = Instant::now();
    assert!(matches!(closed(&mut link).await, Closed::Silent(_) | Closed::NotAcknowledged(_)));
    assert!(start.elapsed() <= theirs * 3, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_broker_says_of_itself_is_taken_note_of_or_left_alone() {
    let text = |id: u8, text: &[u8]| {
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&[id][..], &length, text].concat()
    };
    let rows: [(&str, Vec<u8>); 7] = [
        ("another client id", text(0x12, b"auto-4711")),
        ("words", text(0x1f, b"welcome")),
        ("where answers go", text(0x1a, b"replies/")),
        ("another server", text(0x1c, b"other.example:8883")),
        ("user properties", [text(0x26, b"a"), text(0x26, b"b")[1..].to_vec()].concat()),
        ("topic aliases, which we do not use", vec![0x22, 0, 10]),
        (
            "no shared subscriptions, no ids, another expiry",
            vec![0x2a, 0, 0x29, 0, 0x11, 0, 0, 0, 60],
        ),
    ];
    for (what, properties) in rows {
        let fake = Fake::listen().await;
        let (mut link, mut peer) = connected(&fake, &connack(0, &properties)).await;
        works(&mut link, &mut peer).await;
        assert!(link.limits().unwrap().keep_alive > Duration::ZERO, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_asked_for_changes_nothing() {
    let fake = Fake::listen().await;
    let (mut link, peer) = fake.connected().await;
    link.publish(&message("t", Qos::AtLeastOnce, b"old")).unwrap();
    drop(peer);
    closed(&mut link).await;
    // "I have your session": we asked for a clean start, and have none.
    link.connect(None);
    let (mut peer, connect) = fake.accept().await;
    assert_eq!(connect.body[7] & 2, 2, "clean start");
    peer.send(&connack(1, &[])).await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
    let token = link.subscribe(&["n/#".into()]).unwrap();
    let subscribe = peer.read_work().await.unwrap();
    assert_eq!(subscribe.kind(), 8, "nothing of the old session comes first");
    let [high, low] = subscribe.id();
    peer.send(&packet(0x90, &[high, low, 0, 1])).await;
    assert_eq!(next(&mut link).await, Event::Subscribed { token, filters: vec![Ok(())] });
    works(&mut link, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_is_told_twice_and_acknowledged_twice() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    let body = [&[0, 1, b't', 0, 9, 0][..], b"x"].concat();
    // The second one says that it may be the first again; the third does not.
    for first in [0x32, 0x3a, 0x32] {
        peer.send(&packet(first, &body)).await;
        let Event::Message(Message { topic, body: Body::Bytes(bytes), .. }) = next(&mut link).await
        else {
            panic!()
        };
        assert_eq!((topic.as_str(), &bytes[..]), ("t", &b"x"[..]));
        let ack = peer.read_work().await.unwrap();
        assert_eq!((ack.kind(), &ack.body[..2]), (4, &[0, 9][..]));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_flooded_can_still_speak() {
    let fake = Fake::listen().await;
    let (mut link, peer) = fake.connected().await;
    let (mut read, mut write) = peer.stream.into_split();
    let flood = tokio::spawn(async move {
        let one = packet(0x30, &[&[0, 1, b't', 0][..], &[7; 100]].concat());
        let many = one.repeat(50);
        while write.write_all(&many).await.is_ok() {}
    });
    link.publish(&message("up", Qos::AtLeastOnce, b"heard")).unwrap();
    let heard = tokio::spawn(async move {
        let (mut all, mut buffer) = (vec![], [0; 4096]);
        while !all.windows(5).any(|w| w == b"heard") {
            let count = read.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "the link gave up");
            all.extend_from_slice(&buffer[..count]);
        }
    });
    let mut taken = 0_u32;
    while !heard.is_finished() {
        match next(&mut link).await {
            Event::Message(_) => taken += 1,
            Event::Overrun => {}
            other @ (Event::Connected(_)
            | Event::Subscribed { .. }
            | Event::Unsubscribed(_)
            | Event::Acked { .. }
            | Event::Closed(_)) => panic!("{other:?} after {taken} messages"),
        }
    }
    heard.await.unwrap();
    assert!(taken > 0);
    flood.abort();
}

#[tokio::test(start_paused = true)]
async fn each_code_of_an_acknowledgement_is_told_and_nobody_listening_is_no_refusal() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    let rows = [
        (0x00, None),
        (0x10, None),
        (0x80, Some("unspecified error")),
        (0x83, Some("implementation specific error")),
        (0x87, Some("not authorized")),
        (0x90, Some("topic name invalid")),
        (0x97, Some("quota exceeded")),
        (0x99, Some("payload format invalid")),
    ];
    for (code, name) in rows {
        let token = link.publish(&message("t", Qos::AtLeastOnce, b"x")).unwrap();
        let [high, low] = peer.read_work().await.unwrap().id();
        peer.send(&packet(0x40, &[high, low, code, 0])).await;
        let result = name.map_or(Ok(()), |name| Err(Refused { code, name }));
        assert_eq!(next(&mut link).await, Event::Acked { token, result });
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_sends_us_away_says_why() {
    let elsewhere = b"other.example:8883";
    let length = u8::try_from(elsewhere.len()).unwrap();
    let with = |code: u8| {
        let properties = [&[0x1c, 0, length][..], elsewhere].concat();
        let size = u8::try_from(properties.len()).unwrap();
        packet(0xe0, &[&[code, size][..], &properties].concat())
    };
    let rows = [
        (packet(0xe0, &[0x97]), 0x97, "quota exceeded", Class::Transient),
        (packet(0xe0, &[0x96]), 0x96, "message rate too high", Class::Transient),
        (packet(0xe0, &[0x95, 0]), 0x95, "packet too large", Class::Transient),
        (packet(0xe0, &[0x8d]), 0x8d, "keep alive timeout", Class::Transient),
        (with(0x9c), 0x9c, "use another server", Class::Transient),
        (with(0x9d), 0x9d, "server moved", Class::Transient),
    ];
    for (bytes, code, name, class) in rows {
        let fake = Fake::listen().await;
        let (mut link, mut peer) = fake.connected().await;
        peer.send(&bytes).await;
        let ended = closed(&mut link).await;
        assert!(matches!(ended, Closed::Ended { code: c, .. } if c == code), "{ended}");
        assert!(ended.to_string().contains(name), "{ended}");
        assert_eq!(ended.class(), class);
        // And it is taken back.
        let mut peer = fake.connect(&mut link).await;
        works(&mut link, &mut peer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_behind_connect_is_left_after_half_a_minute() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    let start = Instant::now();
    link.connect(None);
    let (_peer, _) = fake.accept().await;
    assert_eq!(closed(&mut link).await, Closed::NoAnswer(Duration::from_secs(30)));
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_goodbye_nobody_knocks_again() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    let broker = tokio::spawn(async move { while peer.read().await.is_some() {} });
    link.goodbye().await;
    broker.await.unwrap();
    tokio::select! {
        _ = fake.listener.accept() => panic!("it connects again"),
        (_, event) = link.next() => panic!("{event:?}"),
        () = tokio::time::sleep(Duration::from_secs(120)) => {}
    }
}

/// What a broker of MQTT 3.1.1 is told, and what it may answer.
#[tokio::test(start_paused = true)]
async fn a_whole_conversation_in_mqtt_3_1_1() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    let will = || {
        let payload = b"{\"online\":false}".as_slice().into();
        Some(Will { topic: "s/gw-17/online".into(), payload, delay: Duration::from_secs(20) })
    };
    link.connect(will());
    let (mut peer, _) = fake.accept().await;
    peer.send(&[0x20, 2, 0, 1]).await;
    assert_eq!(closed(&mut link).await, Closed::OnlyV311);
    link.connect(will());
    let (mut peer, connect) = fake.accept().await;
    assert_eq!(connect.body[..7], *b"\0\x04MQTT\x04");
    // Clean session, will, QoS 1, retained; no credentials; no properties anywhere.
    assert_eq!(connect.body[7..10], [0b0010_1110, 0, 5]);
    let rest = b"\0\x05gw-17\0\x0es/gw-17/online\0\x10{\"online\":false}";
    assert_eq!(connect.body[10..], rest[..]);
    peer.send(&[0x20, 2, 0, 0]).await;
    let told = limits(next(&mut link).await);
    assert_eq!((told.version, told.max_packet), (Version::V311, None));
    for nth in 0..40 {
        let token = link.publish(&message("s/gw-17/online", Qos::AtLeastOnce, b"{}")).unwrap();
        let publish = peer.read_work().await.unwrap();
        assert_eq!(publish.first, 0x33, "QoS 1, retained");
        assert!(publish.body.ends_with(b"{}"), "no properties");
        peer.send(&packet(0x40, &publish.id())).await;
        assert_eq!(next(&mut link).await, Event::Acked { token, result: Ok(()) }, "{nth}");
    }
    // QoS 1, retained, and QoS 0, again.
    peer.send(&packet(0x33, b"\0\x01t\0\x07one")).await;
    assert!(matches!(next(&mut link).await, Event::Message(m) if m.retained && m.topic == "t"));
    assert_eq!(peer.read_work().await.unwrap().first, 0x40);
    peer.send(&packet(0x30, b"\0\x01ttwo")).await;
    let body = Body::Bytes(b"two".as_slice().into());
    let expected = Message { topic: "t".into(), retained: false, body };
    assert_eq!(next(&mut link).await, Event::Message(expected));
    let broker = tokio::spawn(async move {
        let mut last = None;
        while let Some(packet) = peer.read_work().await {
            last = Some(packet.first);
        }
        last
    });
    link.goodbye().await;
    assert_eq!(broker.await.unwrap(), Some(0xe0), "DISCONNECT");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_closes_on_mqtt_5_without_a_word_is_spoken_to_in_the_older_one() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    for _ in 0..UNANSWERED_MAX {
        link.connect(None);
        let (peer, connect) = fake.accept().await;
        assert_eq!(connect.body[6], 5);
        drop(peer);
        closed(&mut link).await;
    }
    link.connect(None);
    let (mut peer, connect) = fake.accept().await;
    assert_eq!(connect.body[6], 4);
    peer.send(&[0x20, 2, 0, 0]).await;
    assert_eq!(limits(next(&mut link).await).version, Version::V311);
    // It was only dying, and comes back without a word for the older one: then it is asked in the newer again.
    drop(peer);
    closed(&mut link).await;
    for _ in 0..UNANSWERED_MAX {
        link.connect(None);
        let (peer, connect) = fake.accept().await;
        assert_eq!(connect.body[6], 4);
        drop(peer);
        closed(&mut link).await;
    }
    link.connect(None);
    let (mut peer, connect) = fake.accept().await;
    assert_eq!(connect.body[6], 5);
    peer.send(&CONNACK).await;
    assert_eq!(limits(next(&mut link).await).version, Version::V5);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_spoke_mqtt_5_and_is_down_behind_an_open_port_is_asked_in_mqtt_5() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    let peer = fake.connect(&mut link).await;
    drop(peer);
    closed(&mut link).await;
    for nth in 0..UNANSWERED_KNOWN_MAX {
        link.connect(None);
        let (peer, connect) = fake.accept().await;
        assert_eq!(connect.body[6], 5, "{nth}");
        drop(peer);
        closed(&mut link).await;
    }
    // But not for ever: another broker may stand there now.
    link.connect(None);
    let (_peer, connect) = fake.accept().await;
    assert_eq!(connect.body[6], 4);
}
