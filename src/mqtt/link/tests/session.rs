//! What is said of the session: at CONNECT, and when we take leave.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::fake::{CONNACK, Fake, Packet, Peer, closed, next, packet};
use crate::mqtt::link::{Link, Speak};
use crate::mqtt::transport::{Event, Transport as _, Version, Will};

fn will(delay: u64) -> Option<Will> {
    let payload = b"{\"online\":false}".as_slice().into();
    Some(Will { topic: "s/gw-17/online".into(), payload, delay: Duration::from_secs(delay) })
}

/// Clean Start, and the expiry, of a CONNECT of MQTT 5.
fn session(connect: &Packet) -> (bool, u32) {
    assert_eq!(connect.body[11], 0x11, "the expiry comes first");
    let seconds = connect.body[12..16].try_into().unwrap();
    (connect.body[7] & 0b10 != 0, u32::from_be_bytes(seconds))
}

/// Connects with a will of that delay, as far as CONNACK.
async fn connect(fake: &Fake, link: &mut Link, delay: u64) -> (Peer, (bool, u32)) {
    link.connect(will(delay));
    let (mut peer, connect) = fake.accept().await;
    peer.send(&CONNACK).await;
    assert!(matches!(next(link).await, Event::Connected(_)));
    (peer, session(&connect))
}

async fn subscribe(link: &mut Link, peer: &mut Peer) {
    link.subscribe(&["n/gw-17/#".into()]).unwrap();
    let [high, low] = peer.read_work().await.unwrap().id();
    peer.send(&packet(0x90, &[high, low, 0, 1])).await;
    assert!(matches!(next(link).await, Event::Subscribed { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_for_the_will_and_never_gone_on_with() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    for _ in 0..3 {
        let (mut peer, told) = connect(&fake, &mut link, 20).await;
        assert_eq!(told, (true, 25));
        subscribe(&mut link, &mut peer).await;
        drop(peer);
        closed(&mut link).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_will_that_waits_there_is_no_session() {
    let fake = Fake::listen().await;
    let mut link = fake.link();
    for _ in 0..2 {
        let (mut peer, told) = connect(&fake, &mut link, 0).await;
        assert_eq!(told, (true, 0));
        subscribe(&mut link, &mut peer).await;
        drop(peer);
        closed(&mut link).await;
    }
}

/// All that the peer sends from now on.
async fn rest(mut peer: Peer) -> Vec<Packet> {
    let mut packets = vec![];
    while let Some(packet) = peer.read_work().await {
        packets.push(packet);
    }
    packets
}

#[tokio::test(start_paused = true)]
async fn goodbye_takes_the_will_and_the_session_with_it() {
    for (delay, expected) in [(20, &[0, 5, 0x11, 0, 0, 0, 0][..]), (0, &[])] {
        let fake = Fake::listen().await;
        let mut link = fake.link();
        let (mut peer, _) = connect(&fake, &mut link, delay).await;
        subscribe(&mut link, &mut peer).await;
        let broker = tokio::spawn(rest(peer));
        link.goodbye().await;
        // Reason 0, so that the will is forgotten.
        assert_eq!(broker.await.unwrap(), [Packet { first: 0xe0, body: expected.to_vec() }]);
        let (_peer, next) = connect(&fake, &mut link, 20).await;
        assert_eq!(next, (true, 25));
    }
}

#[tokio::test(start_paused = true)]
async fn the_older_protocol_has_neither_session_nor_delay() {
    let fake = Fake::listen().await;
    let mut settings = fake.settings();
    settings.speak = Speak::Only(Version::V311);
    let mut link = Link::new(settings, crate::clock::Clock::start()).unwrap();
    for _ in 0..2 {
        link.connect(will(20));
        let (mut peer, connect) = fake.accept().await;
        assert_eq!(connect.body[7] & 0b10, 0b10, "clean session");
        peer.send(&[0x20, 2, 0, 0]).await;
        assert!(matches!(next(&mut link).await, Event::Connected(_)));
        subscribe(&mut link, &mut peer).await;
        drop(peer);
        closed(&mut link).await;
    }
    link.connect(will(20));
    let (mut peer, _) = fake.accept().await;
    peer.send(&[0x20, 2, 0, 0]).await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
    let broker = tokio::spawn(rest(peer));
    link.goodbye().await;
    assert_eq!(broker.await.unwrap(), [Packet { first: 0xe0, body: vec![] }]);
}
