#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::net::tests::{Bell, Purse, at, bound, drain, join, pod, ready, send};
use crate::net::{MemberLimits, NoLedger, ReadError};

#[test]
fn a_full_queue_makes_a_connect_wait_until_one_is_accepted() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("0.0.0.0:80")).unwrap();
    listener.set_backlog(2);
    let to = at("127.0.0.1:80");
    let mut queued: Vec<_> = (0..2).map(|_| client.connect(to).unwrap()).collect();
    let mut third = client.connect(to).unwrap();
    let mut fourth = client.connect(to).unwrap();
    let bell = Bell::new();
    assert!(bell.with(|cx| third.poll_ready(cx)).is_pending());
    assert!(fourth.try_finish().is_pending());
    let mut first = ready(queued[0].try_finish()).unwrap();
    send(&mut first, b"early");
    let mut accepted = ready(listener.try_accept()).unwrap();
    assert_eq!(drain(&mut accepted), b"early");
    assert_eq!(bell.rang(), 1);
    let third = ready(third.try_finish()).unwrap();
    assert!(fourth.try_finish().is_pending(), "first come, first served");
    let order: Vec<_> = (0..3).map(|_| ready(listener.try_accept()).unwrap()).collect();
    assert_eq!(order[1].remote_address(), third.local_address());
    assert!(ready(fourth.try_finish()).is_ok());
    assert!(listener.try_accept().is_pending());
}

#[test]
fn a_longer_backlog_lets_in_those_who_wait() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    listener.set_backlog(1);
    let mut all: Vec<_> = (0..5).map(|_| client.connect(at("127.0.0.1:80")).unwrap()).collect();
    listener.set_backlog(4);
    let done = all.iter_mut().filter_map(|c| match c.try_finish() {
        Poll::Ready(stream) => Some(stream.unwrap()),
        Poll::Pending => None,
    });
    assert_eq!(done.count(), 4);
}

#[test]
fn who_gives_up_waiting_leaves_nothing() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    listener.set_backlog(1);
    let to = at("127.0.0.1:80");
    let _first = client.connect(to).unwrap();
    for _ in 0..1000 {
        drop(client.connect(to).unwrap());
    }
    let mut late = client.connect(to).unwrap();
    assert_eq!(late.give_up().err(), Some(ConnectError::TimedOut(to)));
    assert_eq!(client.open_sockets(), 1);
    assert_eq!(net.bound_ports(), (2, 0));
    assert!(lock(&listener.core().state).waiting.is_empty());
    assert!(ready(listener.try_accept()).is_ok());
    assert!(listener.try_accept().is_pending(), "nobody else came");
}

#[test]
fn giving_up_after_all_has_come_about_keeps_the_connection() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    let mut connecting = client.connect(at("127.0.0.1:80")).unwrap();
    let mut near = connecting.give_up().unwrap();
    send(&mut near, b"x");
    assert_eq!(drain(&mut ready(listener.try_accept()).unwrap()), b"x");
}

#[test]
fn a_closing_listener_resets_its_queue_and_refuses_who_waits() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    listener.set_backlog(1);
    let to = at("127.0.0.1:80");
    let mut near = ready(client.connect(to).unwrap().try_finish()).unwrap();
    let mut waiting = client.connect(to).unwrap();
    let bell = Bell::new();
    assert!(bell.with(|cx| waiting.poll_ready(cx)).is_pending());
    drop(listener);
    assert_eq!(ready(near.read.try_read(1)), Err(ReadError::Reset));
    assert_eq!(bell.rang(), 1);
    assert_eq!(ready(waiting.try_finish()).err(), Some(ConnectError::Refused(to)));
    assert_eq!(client.connect(to).err(), Some(ConnectError::Refused(to)));
    assert!(server.listen(to).is_ok(), "the port is free at once");
}

#[test]
fn a_waiting_acceptor_is_woken_by_a_connection_and_by_a_close() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    let bell = Bell::new();
    assert!(bell.with(|cx| listener.poll_accept(cx)).is_pending());
    let _near = client.connect(at("127.0.0.1:80")).unwrap();
    assert_eq!(bell.rang(), 1);
    assert!(ready(listener.try_accept()).is_ok());
    assert!(bell.with(|cx| listener.poll_ready(cx)).is_pending());
    server.reset();
    assert_eq!(bell.rang(), 1);
    assert_eq!(ready(listener.try_accept()).err(), Some(AcceptError::Closed));
}

#[test]
fn at_its_limit_of_sockets_a_server_finds_the_connection_later() {
    let net = pod();
    let limits = MemberLimits { max_sockets: 2, ..MemberLimits::default() };
    let server = net.join("server", limits, Arc::new(NoLedger));
    let client = join(&net, "client");
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    let mut near = ready(client.connect(at("127.0.0.1:80")).unwrap().try_finish()).unwrap();
    send(&mut near, b"patience");
    let other = bound(&server, "127.0.0.1:81");
    assert_eq!(ready(listener.try_accept()).err(), Some(AcceptError::Open(OpenError::MemberLimit)));
    assert_eq!(server.counters().sockets_refused, 1);
    drop(other);
    assert_eq!(drain(&mut ready(listener.try_accept()).unwrap()), b"patience");
}

#[test]
fn who_is_turned_away_is_reset_and_lets_the_next_move_up() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    listener.set_backlog(1);
    let to = at("127.0.0.1:80");
    let mut near = ready(client.connect(to).unwrap().try_finish()).unwrap();
    let mut next = client.connect(to).unwrap();
    assert!(next.try_finish().is_pending());
    listener.turn_away();
    assert_eq!(ready(near.read.try_read(1)), Err(ReadError::Reset));
    assert!(ready(next.try_finish()).is_ok());
    listener.turn_away();
    listener.turn_away();
    assert!(listener.try_accept().is_pending());
}

#[test]
fn a_port_stays_open_until_the_last_of_a_listeners_handles_goes() {
    let net = pod();
    let member = join(&net, "a");
    let mut socket = bound(&member, "127.0.0.1:80");
    assert!(socket.listener().is_none());
    socket.listen().unwrap();
    let mut acceptor = socket.listener().unwrap();
    drop(socket);
    let _near = member.connect(at("127.0.0.1:80")).unwrap();
    assert!(ready(acceptor.try_accept_socket()).unwrap().is_connected());
    drop(acceptor);
    assert!(member.connect(at("127.0.0.1:80")).is_err());
}

#[test]
fn all_a_connection_cost_is_given_back() {
    let net = pod();
    let purse = Purse::of(1 << 20);
    let server = net.join("server", MemberLimits::default(), purse.clone());
    let client = net.join("client", MemberLimits::default(), purse.clone());
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    for _ in 0..100 {
        let mut near = ready(client.connect(at("127.0.0.1:80")).unwrap().try_finish()).unwrap();
        let far = ready(listener.try_accept()).unwrap();
        send(&mut near, &[0; 10_000]);
        assert!(purse.owed() >= 10_000 + 3 * crate::net::SOCKET_COST);
        drop((near, far));
    }
    drop(listener);
    assert_eq!(purse.owed(), 0);
    assert_eq!(net.bound_ports(), (0, 0));
    assert_eq!((net.open_sockets(), net.buffered_bytes()), (0, 0));
}

#[test]
fn a_burst_of_connections_leaves_no_memory_behind() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let mut listener = server.listen(at("127.0.0.1:80")).unwrap();
    listener.set_backlog(MAX_BACKLOG);
    let mut burst = |turn_away: bool| {
        for _ in 0..1000 {
            drop(client.connect(at("127.0.0.1:80")).unwrap());
        }
        assert!(lock(&listener.core().state).queue.capacity() >= 1000);
        while !lock(&listener.core().state).queue.is_empty() {
            if turn_away {
                listener.turn_away();
            } else {
                assert!(listener.try_accept().is_ready());
            }
        }
        lock(&listener.core().state).queue.capacity()
    };
    for kept in [burst(false), burst(true)] {
        assert!(kept <= PLACES_KEPT, "{kept}");
    }
}
