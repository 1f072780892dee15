//! Brokers that are not there, half there, or no longer there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::time::Instant;

use super::fake::{CONNACK, Fake, KEEP_ALIVE, closed, message, next, packet};
use crate::clock::Clock;
use crate::mqtt::link::{Endpoint, Link};
use crate::mqtt::transport::{Closed, Event, NotTaken, Qos, Transport as _};

#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_noticed_within_two_keep_alives() {
    let fake = Fake::listen().await;
    let (mut link, _peer) = fake.connected().await;
    let start = Instant::now();
    assert!(matches!(closed(&mut link).await, Closed::Silent(_)));
    assert!(start.elapsed() <= KEEP_ALIVE * 2 + Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_noticed_although_the_library_hangs_writing() {
    let fake = Fake::listen().await;
    let (mut link, _peer) = fake.connected().await;
    let start = Instant::now();
    let large = message("t", Qos::AtMostOnce, &vec![1; 200_000]);
    let ended = loop {
        match link.publish(&large) {
            Ok(_) | Err(NotTaken::Busy) => {}
            Err(other) => panic!("{other}"),
        }
        tokio::select! {
            ended = closed(&mut link) => break ended,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    };
    assert!(matches!(ended, Closed::Silent(_)), "{ended}");
    assert!(start.elapsed() <= KEEP_ALIVE * 3, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn half_a_connack_and_one_that_drips_are_no_answer() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    peer.send(&CONNACK[..2]).await;
    assert_eq!(closed(&mut link).await, Closed::NoAnswer(Duration::from_secs(30)));
    link.connect(None);
    let (mut peer, _) = fake.accept().await;
    tokio::spawn(async move {
        for byte in CONNACK {
            peer.send(&[byte]).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    });
    assert_eq!(closed(&mut link).await, Closed::NoAnswer(Duration::from_secs(30)));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_drips_longer_than_the_keep_alive_ends_the_connection() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    tokio::spawn(async move {
        let large = packet(0x30, &[&[0, 1, b't', 0][..], &[0; 5000]].concat());
        for byte in large {
            peer.send(&[byte]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let start = Instant::now();
    assert!(matches!(closed(&mut link).await, Closed::Silent(_)));
    assert!(start.elapsed() <= KEEP_ALIVE * 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_never_acknowledged_ends_the_connection_although_pings_are_answered() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    link.publish(&message("t", Qos::AtLeastOnce, b"x")).unwrap();
    let pings = tokio::spawn(async move { while peer.read_work().await.is_some() {} });
    assert!(matches!(closed(&mut link).await, Closed::NotAcknowledged(_)));
    pings.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_never_answered_ends_the_connection() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    link.subscribe(&["t".into()]).unwrap();
    tokio::spawn(async move { while peer.read_work().await.is_some() {} });
    assert!(matches!(closed(&mut link).await, Closed::NotAcknowledged(_)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_works_is_left_alone() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    let pings = tokio::spawn(async move {
        let mut pings = 0;
        while let Some(packet) = peer.read().await {
            assert_eq!(packet.kind(), 12);
            pings += 1;
            peer.send(&[0xd0, 0]).await;
        }
        pings
    });
    let long = Duration::from_secs(60);
    tokio::select! {
        event = next(&mut link) => panic!("{event:?}"),
        () = tokio::time::sleep(long) => {}
    }
    drop(link);
    let expected = long.as_secs() / KEEP_ALIVE.as_secs();
    let pings = pings.await.unwrap();
    assert!(pings + 2 >= expected && pings <= expected + 2, "{pings} pings in a minute");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_listens_the_next_broker_is_tried() {
    let fake = Fake::listen().await;
    let gone = Fake::listen().await.endpoint;
    let mut settings = fake.settings();
    settings.endpoints.insert(0, gone);
    let mut link = Link::new(settings, Clock::start()).unwrap();
    link.connect(None);
    assert!(matches!(closed(&mut link).await, Closed::Unreachable { .. }));
    assert_eq!(*link.endpoint(), fake.endpoint);
    fake.connect(&mut link).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_exist_is_said_to() {
    let fake = Fake::listen().await;
    let mut settings = fake.settings();
    // A label of more than 63 characters: no name server is asked, which might be far away, or none.
    let host = format!("{}.invalid", "no-such-host".repeat(6));
    settings.endpoints = vec![Endpoint::parse(&format!("mqtt://{host}")).unwrap()];
    let mut link = Link::new(settings, Clock::start()).unwrap();
    link.connect(None);
    let ended = closed(&mut link).await;
    assert!(ended.to_string().contains(&host), "{ended}");
    assert!(matches!(ended, Closed::Resolve { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_is_told_from_one_that_resets() {
    let fake = Fake::listen().await;
    let (mut link, peer) = fake.connected().await;
    drop(peer);
    assert_eq!(closed(&mut link).await, Closed::ByPeer);
    let peer = fake.connect(&mut link).await;
    peer.reset();
    let ended = closed(&mut link).await;
    assert!(matches!(&ended, Closed::Broken(why) if why.contains("reset")), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn goodbye_is_said_after_what_was_sent_before() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    link.publish(&message("t", Qos::AtMostOnce, b"last")).unwrap();
    let broker = tokio::spawn(async move {
        let mut kinds = vec![];
        while let Some(packet) = peer.read().await {
            kinds.push(packet.kind());
        }
        kinds
    });
    link.goodbye().await;
    assert_eq!(broker.await.unwrap(), [3, 14]);
    assert!(link.limits().is_none());
}

#[tokio::test(start_paused = true)]
async fn goodbye_to_a_dead_peer_takes_two_seconds() {
    let fake = Fake::listen().await;
    let (mut link, _peer) = fake.connected().await;
    while link.publish(&message("t", Qos::AtMostOnce, &vec![1; 200_000])).is_ok() {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    link.goodbye().await;
    assert!(start.elapsed() <= Duration::from_secs(5), "{:?}", start.elapsed());
    // Whoever left knows that the connection is over: its end is not told once more.
    tokio::select! {
        (_, event) = link.next() => panic!("{event:?}"),
        () = tokio::time::sleep(Duration::from_secs(120)) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_cable_says_no_goodbye() {
    let fake = Fake::listen().await;
    let (mut link, mut peer) = fake.connected().await;
    link.drop_connection();
    assert_eq!(next(&mut link).await, Event::Closed(Closed::ByUs));
    assert_eq!(peer.read().await, None);
}
