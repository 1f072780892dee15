//! Much at once, answers in any order, and what an earlier connection left behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "all else fails the test")]

use super::fake::{CONNACK, Fake, closed, message, next, packet};
use crate::mqtt::link::inbox::MESSAGES_MAX;
use crate::mqtt::transport::{Event, NotTaken, Qos, Transport as _};

#[tokio::test(start_paused = true)]
async fn answers_in_the_worst_order_wedge_nothing() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    // Holds the first of each batch back the longest: what makes the library's ids collide.
    let broker = tokio::spawn(async move {
        let mut held: Vec<[u8; 2]> = vec![];
        loop {
            tokio::select! {
                packet = peer.read_work() => match packet {
                    Some(publish) => held.push(publish.id()),
                    None => return,
                },
                () = tokio::time::sleep(std::time::Duration::from_millis(10)) => {
                    if let Some(id) = held.pop() {
                        peer.send(&packet(0x40, &id)).await;
                    }
                }
            }
        }
    });
    let (mut sent, mut acked) = (0, 0);
    while acked < 300 {
        while sent < 300 && link.publish(&message("t", Qos::AtLeastOnce, b"x")).is_ok() {
            sent += 1;
        }
        match next(&mut link).await {
            Event::Acked { result: Ok(()), .. } => acked += 1,
            other => panic!("{other:?}"),
        }
    }
    drop(link);
    broker.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_not_taken_cost_themselves_only() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    let count = MESSAGES_MAX + 50;
    for id in 1..=u16::try_from(count).unwrap() {
        peer.publish("t", Some(id), b"x").await;
        assert_eq!(peer.read_work().await.unwrap().kind(), 4, "acknowledged all the same");
    }
    let mut taken = 0;
    loop {
        match next(&mut link).await {
            Event::Message(_) => taken += 1,
            Event::Overrun => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(taken, MESSAGES_MAX);
    assert_eq!(link.stats().counts().dropped, 50);
    peer.publish("t", Some(1), b"again").await;
    assert!(matches!(next(&mut link).await, Event::Message(_)), "the link goes on");
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_connection_left_behind_is_not_seen() {
    let fake = Fake::listen().await;
    let (mut link, mut first) = fake.connected().await;
    for id in 1..=20 {
        first.publish("old", Some(id), b"x").await;
        first.read_work().await.unwrap();
    }
    let stale = link.publish(&message("old", Qos::AtLeastOnce, b"x")).unwrap();
    // Nothing of it has been taken when the second begins.
    let conn = link.connect(None);
    let (mut second, _) = fake.accept().await;
    second.send(&CONNACK).await;
    second.publish("new", None, b"y").await;
    let (from, event) = link.next().await;
    assert_eq!(from, conn);
    assert!(matches!(event, Event::Connected(_)), "{event:?}");
    let Event::Message(message) = next(&mut link).await else { panic!() };
    assert_eq!(message.topic, "new");
    // The request of the first connection is not made again by the second.
    let fresh = link.publish(&super::fake::message("fresh", Qos::AtLeastOnce, b"z")).unwrap();
    let publish = second.read_work().await.unwrap();
    assert!(publish.body.windows(5).any(|w| w == b"fresh"), "{publish:?}");
    second.send(&packet(0x40, &publish.id())).await;
    assert_eq!(next(&mut link).await, Event::Acked { token: fresh, result: Ok(()) });
    assert_ne!(stale, fresh);
}

#[tokio::test(start_paused = true)]
async fn requests_have_room_for_what_the_broker_answers_only() {
    let fake = Fake::listen().await;
    let (mut link, _peer) = fake.connected().await;
    let mut taken = 0;
    let refused = loop {
        match link.publish(&message("t", Qos::AtLeastOnce, b"x")) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((taken, refused), (15, NotTaken::Busy));
}

#[tokio::test(start_paused = true)]
async fn each_connection_has_a_number_of_its_own() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    let mut conns = vec![];
    for _ in 0..3 {
        conns.push(link.connect(None));
        let (peer, _) = fake.accept().await;
        drop(peer);
        closed(&mut link).await;
    }
    assert!(conns.windows(2).all(|pair| pair[0] < pair[1]), "{conns:?}");
}
