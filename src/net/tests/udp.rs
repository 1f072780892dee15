#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;

use super::*;
use crate::net::lease::udp_at;
use crate::net::tests::{Bell, Purse, at, join, pod, ready};
use crate::net::{BindError, Member};
use crate::net::{MemberLimits, NetConfig, NetLimits, PodNet};

#[track_caller]
fn bound(member: &Member, address: &str) -> UdpSocket {
    let address = at(address);
    let socket = member.udp_socket(Family::of(address.ip())).unwrap();
    socket.bind(address).unwrap();
    socket
}

fn payload(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn a_datagram_arrives_whole_with_its_sender() {
    let net = pod();
    let member = join(&net, "a");
    let table = [
        ("127.0.0.1:53", "127.0.0.1:53", "127.0.0.1"),
        ("127.0.0.2:53", "127.0.0.2:53", "127.0.0.1"),
        ("0.0.0.0:54", "10.88.0.5:54", "10.88.0.5"),
        ("[::1]:53", "[::1]:53", "::1"),
    ];
    for (listen, to, from) in table {
        let server = bound(&member, listen);
        let any = if at(to).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = bound(&member, any);
        client.send(payload("hello"), Some(at(to))).unwrap();
        client.send(Bytes::new(), Some(at(to))).unwrap();
        let first = ready(server.try_receive()).unwrap();
        assert_eq!(first.data, "hello");
        assert_eq!(first.from.ip(), from.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(first.from.port(), client.local_address().unwrap().port());
        assert!(ready(server.try_receive()).unwrap().data.is_empty(), "an empty one is one");
        assert!(server.try_receive().is_pending());
    }
}

#[test]
fn a_send_is_refused_for_the_reason_wasi_names() {
    let net = pod();
    let member = join(&net, "a");
    let socket = bound(&member, "127.0.0.1:0");
    let refusal = |to: Option<&str>, size: usize| {
        let outcome = socket.send(Bytes::from(vec![0; size]), to.map(at));
        format!("{:?}", outcome.unwrap_err())
    };
    for (to, error) in [
        ("[::1]:9", "InvalidAddress"),
        ("0.0.0.0:9", "InvalidAddress"),
        ("127.0.0.1:0", "InvalidAddress"),
        ("192.0.2.1:9", "InvalidAddress"),
    ] {
        assert!(refusal(Some(to), 1).starts_with(error), "{to}");
    }
    let anywhere = bound(&member, "0.0.0.0:0");
    let outside = at("192.0.2.1:9");
    assert_eq!(anywhere.send(Bytes::new(), Some(outside)), Err(SendError::Denied(outside)));
    assert_eq!(refusal(None, 1), "NoAddress");
    assert_eq!(refusal(Some("127.0.0.1:9"), 65_508), "TooLong(65508)");
    assert_eq!(socket.send(Bytes::from(vec![0; 65_507]), Some(at("127.0.0.1:9"))), Ok(()));
    socket.connect(at("127.0.0.1:9")).unwrap();
    assert!(refusal(Some("127.0.0.1:10"), 1).starts_with("OtherPeer"));
    let v6 = bound(&member, "[::1]:0");
    assert_eq!(v6.send(Bytes::from(vec![0; 65_527]), Some(at("[::1]:9"))), Ok(()));
}

#[test]
fn a_connected_socket_hears_only_its_peer() {
    let net = pod();
    let member = join(&net, "a");
    let (peer, other) = (bound(&member, "127.0.0.1:1"), bound(&member, "127.0.0.1:2"));
    let socket = bound(&member, "127.0.0.1:3");
    let to = Some(at("127.0.0.1:3"));
    other.send(payload("before"), to).unwrap();
    peer.send(payload("kept"), to).unwrap();
    socket.connect(at("127.0.0.1:1")).unwrap();
    other.send(payload("after"), to).unwrap();
    assert_eq!(ready(socket.try_receive()).unwrap().data, "kept");
    assert!(socket.try_receive().is_pending());
    socket.send(payload("to you"), None).unwrap();
    assert_eq!(ready(peer.try_receive()).unwrap().data, "to you");
    assert_eq!(socket.remote_address(), Some(at("127.0.0.1:1")));
    socket.disconnect();
    other.send(payload("again"), to).unwrap();
    assert_eq!(ready(socket.try_receive()).unwrap().data, "again");
    assert_eq!(member.buffered_bytes(), 0);
}

#[test]
fn a_connected_sender_learns_once_that_nobody_listens_and_others_never_do() {
    let net = pod();
    let member = join(&net, "a");
    let socket = bound(&member, "127.0.0.1:0");
    let nobody = at("127.0.0.1:9");
    assert_eq!(socket.send(payload("x"), Some(nobody)), Ok(()));
    assert_eq!(socket.send(payload("x"), Some(nobody)), Ok(()));
    socket.connect(nobody).unwrap();
    let bell = Bell::new();
    assert!(bell.with(|cx| socket.poll_receive(cx)).is_pending());
    assert_eq!(socket.send(payload("x"), None), Ok(()));
    assert_eq!(bell.rang(), 1);
    assert_eq!(ready(socket.try_receive()), Err(ReceiveError::Refused));
    assert!(socket.try_receive().is_pending());
    assert_eq!(socket.send(payload("x"), None), Ok(()));
    assert_eq!(socket.send(payload("x"), None), Err(SendError::Refused));
}

/// What a program names with an IPv6 address beside it is not part of who its peer is.
#[test]
fn a_flow_label_and_a_zone_make_nobody_another() {
    let net = pod();
    let member = join(&net, "a");
    let (peer, socket) = (bound(&member, "[::1]:1"), bound(&member, "[::1]:2"));
    let labelled = std::net::SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, 1, 7, 3).into();
    socket.connect(labelled).unwrap();
    peer.send(payload("x"), Some(at("[::1]:2"))).unwrap();
    assert_eq!(ready(socket.try_receive()).unwrap().data, "x");
    assert_eq!(socket.remote_address(), Some(at("[::1]:1")));
    for to in [None, Some(labelled), Some(at("[::1]:1"))] {
        socket.send(payload("y"), to).unwrap();
        assert_eq!(ready(peer.try_receive()).unwrap().data, "y");
    }
    let mut listener = member.listen(at("[::1]:1")).unwrap();
    let near = ready(member.connect(labelled).unwrap().try_finish()).unwrap();
    assert_eq!(near.remote_address(), at("[::1]:1"));
    assert!(listener.try_accept().is_ready());
}

#[test]
fn a_burst_leaves_no_memory_behind() {
    let net = pod();
    let member = join(&net, "a");
    let (from, socket) = (bound(&member, "127.0.0.1:1"), bound(&member, "127.0.0.1:2"));
    let kept = || lock(&udp_at(&net.0, at("127.0.0.1:2")).unwrap().state).queue.capacity();
    let burst =
        || (0..1000).for_each(|_| from.send(Bytes::new(), Some(at("127.0.0.1:2"))).unwrap());
    burst();
    assert!(kept() >= 1000);
    while socket.try_receive().is_ready() {}
    assert!(kept() <= PLACES_KEPT, "{}", kept());
    burst();
    socket.connect(at("127.0.0.1:3")).unwrap();
    assert!(kept() <= PLACES_KEPT, "{}", kept());
}

#[test]
fn a_long_datagram_is_cut_to_the_buffer_and_the_rest_is_lost() {
    let net = pod();
    let member = join(&net, "a");
    let (server, client) = (bound(&member, "127.0.0.1:53"), bound(&member, "127.0.0.1:0"));
    client.send(payload("0123456789"), Some(at("127.0.0.1:53"))).unwrap();
    client.send(payload("next"), Some(at("127.0.0.1:53"))).unwrap();
    let mut into = [0; 4];
    let (n, whole, _) = ready(server.try_receive_into(&mut into)).unwrap();
    assert_eq!((n, whole, &into), (4, 10, b"0123"));
    let (n, whole, _) = ready(server.try_receive_into(&mut into)).unwrap();
    assert_eq!((n, whole, &into), (4, 4, b"next"));
}

#[test]
fn a_flood_to_a_deaf_socket_is_dropped_counted_and_paid_by_nobody_else() {
    let net = pod();
    let (deaf_purse, loud_purse) = (Purse::of(1 << 20), Purse::of(1 << 20));
    let deaf = net.join("deaf", MemberLimits::default(), deaf_purse.clone());
    let loud = net.join("loud", MemberLimits::default(), loud_purse.clone());
    let server = bound(&deaf, "127.0.0.1:53");
    let client = bound(&loud, "127.0.0.1:0");
    for size in [0, 1, 1000, 65_507] {
        for _ in 0..20_000 {
            client
                .send(Bytes::from_static(&[0; 65_507]).slice(..size), Some(at("127.0.0.1:53")))
                .unwrap();
        }
        assert!(deaf_purse.owed() <= DEFAULT_QUEUE + crate::net::SOCKET_COST);
    }
    let counters = deaf.counters();
    assert_eq!(loud_purse.owed(), crate::net::SOCKET_COST);
    assert!(counters.datagrams_dropped >= 70_000);
    assert_eq!(loud.counters().datagrams_dropped, 0);
    let mut received = 0;
    while server.try_receive().is_ready() {
        received += 1;
    }
    assert_eq!(received + counters.datagrams_dropped, 80_000);
    assert_eq!(deaf.counters().datagrams_received, received);
    drop(server);
    assert_eq!(deaf_purse.owed(), 0);
}

#[test]
fn a_flood_to_deaf_sockets_costs_only_its_own_pod() {
    const LIMIT: usize = 1 << 20;
    let pod = || {
        let mut config = NetConfig::new(Ipv4Addr::new(10, 88, 0, 5));
        config.limits = NetLimits { max_sockets: 64, max_buffered: LIMIT };
        PodNet::new(config)
    };
    let (flooded, other) = (pod(), pod());
    let flood = |net: &PodNet| {
        let member = join(net, "member");
        let deaf: Vec<_> = (1..=10).map(|n| bound(&member, &format!("127.0.0.1:{n}"))).collect();
        let loud = bound(&member, "127.0.0.1:0");
        for _ in 0..1000 {
            for port in 1..=10 {
                loud.send(Bytes::from_static(&[0; 1000]), Some(at(&format!("127.0.0.1:{port}"))))
                    .unwrap();
            }
        }
        (member, deaf, net.buffered_bytes())
    };
    let first = flood(&flooded);
    assert!((LIMIT - 2000..=LIMIT).contains(&first.2), "up to the pod's limit: {}", first.2);
    assert_eq!(other.buffered_bytes(), 0);
    let second = flood(&other);
    assert_eq!(second.2, first.2, "the other pod has all of its own");
    let received = |deaf: &[UdpSocket]| {
        deaf.iter()
            .map(|socket| {
                std::iter::from_fn(|| socket.try_receive().is_ready().then_some(())).count()
            })
            .sum::<usize>()
    };
    assert_eq!(received(&first.1), received(&second.1));
    assert_eq!((flooded.buffered_bytes(), other.buffered_bytes()), (0, 0));
}

#[test]
fn a_socket_without_an_address_gets_one_when_it_sends() {
    let net = pod();
    let member = join(&net, "a");
    let server = bound(&member, "127.0.0.1:53");
    let client = member.udp_socket(Family::V4).unwrap();
    assert_eq!(ready(client.try_receive()), Err(ReceiveError::NotBound));
    assert_eq!(client.local_address(), None);
    client.send(payload("x"), Some(at("127.0.0.1:53"))).unwrap();
    let from = ready(server.try_receive()).unwrap().from;
    assert_eq!(client.local_address().unwrap().port(), from.port());
    assert_eq!(client.bind(at("127.0.0.1:1")), Err(BindError::InvalidState));
}

#[test]
fn of_many_that_wait_all_are_woken_and_none_is_forgotten() {
    let net = pod();
    let member = join(&net, "a");
    let (server, client) = (bound(&member, "127.0.0.1:53"), bound(&member, "127.0.0.1:0"));
    let bells: Vec<_> = (0..40).map(|_| Bell::new()).collect();
    let mut waiting: Vec<_> = bells.iter().map(|_| Box::pin(server.receive())).collect();
    for _ in 0..2 {
        for (bell, receive) in bells.iter().zip(&mut waiting) {
            assert!(bell.with(|cx| receive.as_mut().poll(cx)).is_pending());
        }
        assert!(bells.iter().all(|bell| bell.rang() == 0), "waiting wakes nobody");
        client.send(payload("x"), Some(at("127.0.0.1:53"))).unwrap();
        for (index, bell) in bells.iter().enumerate() {
            assert_eq!(bell.rang(), 1, "waiter {index}");
        }
        assert_eq!(ready(server.try_receive()).unwrap().data, "x");
    }
    for (bell, receive) in bells.iter().zip(&mut waiting) {
        assert!(bell.with(|cx| receive.as_mut().poll(cx)).is_pending());
    }
    waiting.truncate(1);
    client.send(payload("y"), Some(at("127.0.0.1:53"))).unwrap();
    let rang = bells.iter().map(|bell| bell.rang()).sum::<usize>();
    assert_eq!(rang, 1, "whoever gave up is not woken");
}

#[test]
fn the_last_handle_frees_the_port_and_a_reset_does_so_at_once() {
    let net = pod();
    let member = join(&net, "a");
    let socket = bound(&member, "127.0.0.1:53");
    let second = socket.clone();
    drop(socket);
    let next = join(&net, "b");
    let other = next.udp_socket(Family::V4).unwrap();
    assert_eq!(other.bind(at("127.0.0.1:53")), Err(BindError::InUse(at("127.0.0.1:53"))));
    let bell = Bell::new();
    assert!(bell.with(|cx| second.poll_ready(cx)).is_pending());
    member.reset();
    assert_eq!(bell.rang(), 1);
    assert_eq!(other.bind(at("127.0.0.1:53")), Ok(()));
    assert_eq!(ready(second.try_receive()), Err(ReceiveError::Gone));
    assert_eq!(second.send(payload("x"), Some(at("127.0.0.1:53"))), Err(SendError::Gone));
    drop(second);
    assert_eq!(
        net.bound_ports(),
        (0, 1),
        "the dead socket does not take its successor's port along"
    );
}

#[test]
fn a_datagram_that_is_looked_at_stays_where_it_is_and_is_paid_for() {
    let net = pod();
    let purse = Purse::of(1 << 20);
    let member = net.join("a", MemberLimits::default(), purse.clone());
    let (server, client) = (bound(&member, "127.0.0.1:53"), bound(&member, "127.0.0.1:0"));
    let bell = Bell::new();
    assert!(bell.with(|cx| server.peek(Some(cx))).is_pending());
    client.send(payload("first"), Some(at("127.0.0.1:53"))).unwrap();
    client.send(payload("second"), Some(at("127.0.0.1:53"))).unwrap();
    assert_eq!(bell.rang(), 1);
    let owed = purse.owed();
    for _ in 0..2 {
        assert_eq!(ready(server.peek(None)).unwrap().data, "first");
        assert_eq!(purse.owed(), owed);
    }
    assert_eq!(ready(server.try_receive()).unwrap().data, "first");
    assert_eq!(ready(server.peek(None)).unwrap().data, "second");
}
