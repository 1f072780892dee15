#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::Poll;

use super::*;
use crate::net::{
    ConnectError, Family, MemberLimits, NetConfig, NetLimits, NoLedger, OpenError, PodNet,
    Protocol, SendError, SocketState, WriteError,
};

#[test]
fn a_hundred_thousand_refused_connects_leave_nothing() {
    let net = pod();
    let member = join(&net, "a");
    for _ in 0..100_000 {
        let refused = member.connect(at("127.0.0.1:80")).err();
        assert_eq!(refused, Some(ConnectError::Refused(at("127.0.0.1:80"))));
    }
    assert_eq!(net.bound_ports(), (0, 0));
    assert_eq!((member.open_sockets(), net.open_sockets()), (0, 0));
    assert_eq!(member.counters().connects_refused, 100_000);
    assert_eq!(member.counters().sockets_peak, 1);
}

#[test]
fn connections_come_and_go_far_beyond_the_number_of_ports() {
    let net = pod();
    let member = join(&net, "a");
    let mut listener = member.listen(at("127.0.0.1:80")).unwrap();
    for _ in 0..60_000 {
        let near = ready(member.connect(at("127.0.0.1:80")).unwrap().try_finish()).unwrap();
        drop((near, ready(listener.try_accept()).unwrap()));
    }
    assert_eq!(net.bound_ports(), (1, 0));
}

#[test]
fn a_member_that_dies_resets_its_peers_after_its_last_words() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (listener, mut near, mut far) = connected(&server, &client);
    send(&mut far, b"last words");
    let (reader, writer) = (Bell::new(), Bell::new());
    let mut chunk = bytes::Bytes::from(vec![0; 1 << 20]);
    let _ = near.write.try_write(&mut chunk);
    assert!(writer.with(|cx| near.write.poll_writable(cx)).is_pending());
    assert_eq!(drain(&mut near), b"last words");
    assert!(reader.with(|cx| near.read.poll_ready(cx)).is_pending());
    send(&mut far, b"!");
    assert_eq!(reader.rang(), 1);
    drop(server);
    assert_eq!(read_all(&mut near), (b"!".to_vec(), Ending::Reset));
    assert_eq!(near.write.try_writable(), Poll::Ready(Err(WriteError::Reset)));
    assert_eq!(ready(near.write.try_write_slice(b"x")), Err(WriteError::Broken), "told once");
    assert!(writer.rang() > 0);
    assert_eq!(client.buffered_bytes(), 0, "what nobody will read is not kept");
    assert_eq!(ready(far.read.try_read(1)).map(|b| b.len()), Ok(0), "its own handles are dead");
    assert_eq!(ready(far.write.try_write_slice(b"x")), Err(WriteError::Reset));
    drop((listener, far));
    assert_eq!(net.bound_ports(), (1, 0), "only the client's own port");
}

#[test]
fn whoever_waits_on_a_dead_members_own_handles_is_woken() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, _far) = connected(&server, &client);
    let (reader, writer) = (Bell::new(), Bell::new());
    let mut chunk = bytes::Bytes::from(vec![0; 1 << 20]);
    let _ = near.write.try_write(&mut chunk);
    assert!(writer.with(|cx| near.write.poll_writable(cx)).is_pending());
    assert!(reader.with(|cx| near.read.poll_ready(cx)).is_pending());
    client.reset();
    assert_eq!((reader.rang(), writer.rang()), (1, 1));
}

#[test]
fn a_listener_trapped_a_hundred_times_binds_again_each_time() {
    let net = pod();
    let client = join(&net, "client");
    for run in 0..100 {
        let server = join(&net, "server");
        // The dead run's handles are still held when the next run binds, as they are while a store
        // is being dropped.
        let held = (
            server.listen(at("0.0.0.0:80")).unwrap(),
            bound(&server, "127.0.0.1:81"),
            server.udp_socket(Family::V4).unwrap(),
        );
        held.2.bind(at("0.0.0.0:82")).unwrap();
        let _near = ready(client.connect(at("127.0.0.1:80")).unwrap().try_finish()).unwrap();
        server.reset();
        let next = join(&net, "server");
        assert!(next.listen(at("0.0.0.0:80")).is_ok(), "run {run}");
        bound(&next, "127.0.0.1:81");
        drop(held);
    }
    drop(client);
    assert_eq!(net.bound_ports(), (0, 0));
}

#[test]
fn a_reset_member_opens_nothing_more() {
    let net = pod();
    let member = join(&net, "a");
    let mut early = member.tcp_socket(Family::V4).unwrap();
    member.reset();
    member.reset();
    assert_eq!(member.tcp_socket(Family::V4).err(), Some(OpenError::Gone));
    assert_eq!(member.udp_socket(Family::V4).err(), Some(OpenError::Gone));
    let _ = early.bind(at("127.0.0.1:80"));
    assert!(early.listen().is_err());
    let other = join(&net, "b");
    assert!(other.listen(at("127.0.0.1:80")).is_ok());
}

#[test]
fn a_connect_that_waits_ends_with_its_member() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    listener.set_backlog(1);
    let _first = client.connect(at("127.0.0.1:80")).unwrap();
    let mut second = client.connect(at("127.0.0.1:80")).unwrap();
    let bell = Bell::new();
    assert!(bell.with(|cx| second.poll_ready(cx)).is_pending());
    client.reset();
    assert_eq!(bell.rang(), 1);
    assert_eq!(ready(second.try_finish()).err(), Some(ConnectError::Open(OpenError::Gone)));
    assert_eq!(net.bound_ports(), (1, 0), "only the listener");
}

#[test]
fn the_limits_of_member_pod_and_ledger_each_hold() {
    let mut config = NetConfig::new(POD_IP);
    config.limits = NetLimits { max_sockets: 5, max_buffered: 100_000 };
    let net = PodNet::new(config);
    let limits = MemberLimits { max_sockets: 3, max_buffered: 1 << 20 };
    let a = net.join("a", limits, Arc::new(NoLedger));
    let b = net.join("b", limits, Purse::of(crate::net::SOCKET_COST));
    let _held: Vec<_> = (0..3).map(|_| a.tcp_socket(Family::V4).unwrap()).collect();
    assert_eq!(a.udp_socket(Family::V4).err(), Some(OpenError::MemberLimit));
    let first = b.tcp_socket(Family::V4).unwrap();
    assert_eq!(b.tcp_socket(Family::V4).err(), Some(OpenError::NoMemory));
    let c = net.join("c", limits, Arc::new(NoLedger));
    let _last = c.tcp_socket(Family::V4).unwrap();
    assert_eq!(c.tcp_socket(Family::V4).err(), Some(OpenError::PodLimit));
    drop(first);
    assert!(c.tcp_socket(Family::V4).is_ok());
    assert_eq!(net.open_sockets(), 4);
    assert_eq!(net.counters().sockets_refused, 3);
}

#[test]
fn buffered_bytes_are_bounded_by_member_and_by_pod() {
    for (member_limit, pod_limit) in [(100_000, 1 << 20), (1 << 20, 100_000)] {
        let mut config = NetConfig::new(POD_IP);
        config.limits = NetLimits { max_sockets: 100, max_buffered: pod_limit };
        let net = PodNet::new(config);
        let limits = MemberLimits { max_sockets: 100, max_buffered: member_limit };
        let (server, client) = (join(&net, "s"), net.join("c", limits, Arc::new(NoLedger)));
        let mut pairs: Vec<_> = (0..12).map(|_| connected(&server, &client)).collect();
        for (_, near, _) in &mut pairs {
            let _ = near.write.try_write_slice(&[0; 60_000]);
        }
        assert!(net.buffered_bytes() <= 100_000 && net.buffered_bytes() > 50_000);
        assert_eq!(
            ready(pairs[11].1.write.try_write_slice(&[0; 60_000])),
            Err(WriteError::NoMemory)
        );
        assert_eq!(drain(&mut pairs[1].2).len(), 4096, "those between have a smaller window");
        assert!(client.counters().memory_refused > 0);
        assert_eq!(drain(&mut pairs[0].2).len(), 60_000);
        assert_eq!(ready(pairs[11].1.write.try_write_slice(&[0; 50_000])), Ok(50_000));
        drop(pairs);
        assert_eq!((client.buffered_bytes(), net.buffered_bytes()), (0, 0));
    }
}

#[test]
fn another_pod_is_reached_only_where_the_egress_says_so() {
    let far = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 6)));
    let mut config = NetConfig::new(POD_IP);
    config.egress = Arc::new(NextDoor(far.clone()));
    let near = PodNet::new(config);
    let (server, client) = (join(&far, "server"), join(&near, "client"));
    let mut listener = server.listen(at("0.0.0.0:80")).unwrap();
    let mut stream = ready(client.connect(at("10.88.0.6:80")).unwrap().try_finish()).unwrap();
    let mut accepted = ready(listener.try_accept()).unwrap();
    assert_eq!(accepted.remote_address().ip(), near.pod_ip());
    send(&mut stream, b"hello neighbour");
    assert_eq!(drain(&mut accepted), b"hello neighbour");
    let socket = server.udp_socket(Family::V4).unwrap();
    socket.bind(at("0.0.0.0:53")).unwrap();
    let sender = client.udp_socket(Family::V4).unwrap();
    sender.send("x".into(), Some(at("10.88.0.6:53"))).unwrap();
    assert_eq!(ready(socket.try_receive()).unwrap().from.ip(), near.pod_ip());
    let nowhere = at("192.0.2.1:80");
    assert_eq!(client.connect(nowhere).err(), Some(ConnectError::Unreachable(nowhere)));
    assert_eq!(sender.send("x".into(), Some(nowhere)), Err(SendError::Unreachable(nowhere)));
    let back = at("10.88.0.5:80");
    assert_eq!(server.connect(back).err(), Some(ConnectError::Denied(back)));
}

#[test]
fn the_socket_table_tells_what_ss_would() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, far) = connected(&server, &client);
    send(&mut near, b"12345");
    let _bound = bound(&server, "127.0.0.1:81");
    let _idle = client.tcp_socket(Family::V6).unwrap();
    let udp = client.udp_socket(Family::V4).unwrap();
    udp.bind(at("0.0.0.0:53")).unwrap();
    near.shutdown_write();
    let mut rows: Vec<_> = net
        .sockets()
        .into_iter()
        .map(|row| (row.member, row.protocol, row.state, row.receive_queue, row.send_queue))
        .collect();
    rows.sort_by_key(|row| format!("{row:?}"));
    let row = |member: &str, protocol, state, receive, send| {
        (member.to_owned(), protocol, state, receive, send)
    };
    assert_eq!(
        rows,
        [
            row("client", Protocol::Tcp, SocketState::FinWait, 0, 5),
            row("client", Protocol::Tcp, SocketState::Unconnected, 0, 0),
            row("client", Protocol::Udp, SocketState::Unconnected, 0, 0),
            row("server", Protocol::Tcp, SocketState::Bound, 0, 0),
            row("server", Protocol::Tcp, SocketState::CloseWait, 5, 0),
            row("server", Protocol::Tcp, SocketState::Listen, 0, 128),
        ]
    );
    let (local, remote) = (near.local_address(), far.local_address());
    let client_row = client.sockets().into_iter().find(|row| row.state == SocketState::FinWait);
    let client_row = client_row.unwrap();
    assert_eq!((client_row.local, client_row.remote), (Some(local), Some(remote)));
}

#[test]
fn counters_outlive_their_member_in_the_pods_sum() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (listener, mut near, mut far) = connected(&server, &client);
    send(&mut near, &[0; 1000]);
    drain(&mut far);
    send(&mut far, &[0; 10]);
    drain(&mut near);
    let (of_server, of_client) = (server.counters(), client.counters());
    assert_eq!((of_client.connects, of_client.tcp_bytes_sent), (1, 1000));
    assert_eq!((of_client.tcp_bytes_received, of_server.tcp_bytes_sent), (10, 10));
    assert_eq!((of_server.accepts, of_server.tcp_bytes_received), (1, 1000));
    let before = net.counters();
    drop((listener, near, far));
    drop((server, client));
    assert_eq!(net.counters(), before);
    assert_eq!(before.tcp_bytes_sent, 1010);
}

#[test]
fn everything_can_be_used_from_two_threads_at_once() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    let total = 200_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut near = block_on(client.connect(at("127.0.0.1:80")).unwrap()).unwrap();
            let mut counter = 0u8;
            let mut sent = 0;
            while sent < total {
                let size = 1 + (sent * 7919) % 5000;
                let data = pattern(counter, size);
                let mut bytes = bytes::Bytes::from(data);
                let n = block_on(std::future::poll_fn(|cx| near.write.poll_write(cx, &mut bytes)));
                let n = n.unwrap();
                counter = after(counter, n);
                sent += n;
            }
        });
        let mut far = block_on(std::future::poll_fn(|cx| listener.poll_accept(cx))).unwrap();
        let mut counter = 0u8;
        let mut received = 0;
        loop {
            let read = std::future::poll_fn(|cx| far.read.poll_read(cx, 3000));
            let bytes = block_on(read).unwrap();
            if bytes.is_empty() {
                break;
            }
            for byte in &bytes {
                assert_eq!(*byte, counter);
                counter = counter.wrapping_add(1);
            }
            received += bytes.len();
        }
        assert!(received >= total);
    });
}

#[test]
fn who_asks_for_too_much_keeps_nobody_from_what_there_is() {
    const ROUNDS: usize = 200_000;
    let net = pod();
    let limits = MemberLimits { max_buffered: 64 * 1024, ..MemberLimits::default() };
    let member = net.join("a", limits, Arc::new(NoLedger));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(!member.0.charge(64 * 1024 + 1));
            }
        });
        let refused = (0..ROUNDS).filter(|_| {
            let paid = member.0.charge(4096);
            member.0.release(if paid { 4096 } else { 0 });
            !paid
        });
        let refused = refused.count();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(refused, 0, "of {ROUNDS}");
    });
}

#[test]
fn what_others_send_leaves_a_member_the_last_of_its_memory() {
    const KEPT_BACK: usize = 16 << 10;
    let net = pod();
    let purse = Purse::keeping(64 << 10, KEPT_BACK);
    let server = net.join("server", MemberLimits::default(), Arc::clone(&purse) as _);
    let client = join(&net, "client");
    let (_listener, _near, mut far) = connected(&server, &client);
    let deaf = datagrams(&server, "127.0.0.1:9");
    let loud = datagrams(&client, "127.0.0.1:0");
    for _ in 0..1000 {
        loud.send(bytes::Bytes::from_static(&[0; 1000]), Some(at("127.0.0.1:9"))).unwrap();
    }
    let left = purse.left();
    assert!((KEPT_BACK..KEPT_BACK + 2000).contains(&left), "{left}");
    // A connection costs no more than a datagram that found no room.
    while client.connect(far.local_address()).is_ok() {}
    assert!(purse.left() >= KEPT_BACK, "{}", purse.left());
    // Its own calls find what is left, and a window of the least size.
    let _own = server.udp_socket(Family::V4).unwrap();
    let mut chunk = bytes::Bytes::from(vec![0; 1 << 20]);
    let written = ready(far.write.try_write(&mut chunk)).unwrap();
    assert!(written > 0);
    assert!(purse.left() < KEPT_BACK, "{}", purse.left());
    assert_eq!(purse.missed(), 0);
    drop(deaf);
}

fn datagrams(member: &crate::net::Member, address: &str) -> crate::net::UdpSocket {
    let socket = member.udp_socket(Family::V4).unwrap();
    socket.bind(at(address)).unwrap();
    socket
}
