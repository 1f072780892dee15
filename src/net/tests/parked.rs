#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::task::Poll;

use crate::net::tests::{Bell, Purse, at, drain, join, parked_in, pod, ready, send};
use crate::net::{
    ConnectError, Connecting, Listener, Member, MemberLimits, NoLedger, PodNet, SocketState,
    Stream, WriteError,
};

const PORT: &str = "10.88.0.5:80";

fn listen(member: &Member) -> Listener {
    member.listen(at("0.0.0.0:80")).unwrap()
}

/// A client from elsewhere, told apart by its port.
fn call(host: &Member, n: u16) -> Connecting {
    let client = std::net::SocketAddr::new([192, 0, 2, 1].into(), n);
    host.connect_patiently(Some(client), at(PORT)).unwrap()
}

/// The client that is accepted next.
fn next(listener: &mut Listener) -> Option<u16> {
    match listener.try_accept() {
        Poll::Ready(stream) => Some(stream.unwrap().remote_address().port()),
        Poll::Pending => None,
    }
}

fn world() -> (PodNet, Member, Member) {
    let net = pod();
    let (server, host) = (join(&net, "server"), join(&net, "host"));
    (net, server, host)
}

#[test]
fn who_comes_before_a_listener_is_let_in_by_it_in_order_and_connected_when_accepted() {
    let (net, server, host) = world();
    let mut calls: Vec<_> = (1..=3).map(|n| call(&host, n)).collect();
    let bell = Bell::new();
    assert!(bell.with(|cx| calls[0].poll_ready(cx)).is_pending());
    // Another port, and a loopback address with the same, are nobody's business.
    let _others = [server.listen(at("0.0.0.0:81")), server.listen(at("127.0.0.1:80"))];
    assert_eq!((bell.rang(), calls[0].is_queued()), (0, false));
    let mut listener = server.listen(at(PORT)).unwrap();
    assert_eq!(bell.rang(), 1, "it stands differently now");
    assert!(calls.iter().all(Connecting::is_queued));
    assert!(bell.with(|cx| calls[0].poll_ready(cx)).is_pending(), "and is not through");
    let mut far = ready(listener.try_accept()).unwrap();
    assert_eq!(far.remote_address(), at("192.0.2.1:1"));
    assert_eq!(bell.rang(), 1);
    let mut near = ready(calls[0].try_finish()).unwrap();
    send(&mut near, b"question");
    assert_eq!(drain(&mut far), b"question");
    assert_eq!((next(&mut listener), next(&mut listener)), (Some(2), Some(3)));
    assert_eq!(next(&mut listener), None);
    drop((near, far, calls, listener, _others));
    assert_eq!((net.open_sockets(), net.buffered_bytes()), (0, 0));
    assert!(parked_in(&net).wanted(80).is_empty());
}

#[test]
fn who_was_not_accepted_before_a_trap_is_the_next_runs_in_the_old_order() {
    let (net, mut server, host) = world();
    let mut listener = listen(&server);
    listener.set_backlog(4);
    let mut calls: Vec<_> = (1..=8).map(|n| call(&host, n)).collect();
    assert_eq!(next(&mut listener), Some(1));
    let mut accepted = ready(calls[0].try_finish()).unwrap();
    for run in 0..3 {
        let queued = calls[1..].iter().filter(|call| call.is_queued()).count();
        // The first has a short queue; the others let in all who wait when they begin.
        assert_eq!(queued, if run == 0 { 4 } else { calls.len() - 1 - 1 }, "run {run}");
        drop(server);
        drop(listener);
        assert!(accepted.read.try_read(1).is_ready(), "the one accepted is reset");
        assert!(
            calls[1..].iter_mut().all(|call| !call.is_queued() && call.try_finish().is_pending())
        );
        server = join(&net, "server");
        listener = listen(&server);
        listener.set_backlog(4);
        // Whoever comes now is behind all who came before.
        calls.push(call(&host, 9 + run));
    }
    let order: Vec<_> = std::iter::from_fn(|| next(&mut listener)).collect();
    assert_eq!(order, (2..=11).collect::<Vec<u16>>());
    assert_eq!(server.counters().arrivals_refused, 0);
}

#[test]
fn others_in_the_queue_of_a_listener_that_closes_are_reset_as_ever() {
    let (net, server, host) = world();
    let client = join(&net, "client");
    let mut listener = listen(&server);
    listener.set_backlog(2);
    let mut near = ready(client.connect(at(PORT)).unwrap().try_finish()).unwrap();
    let mut patient = call(&host, 1);
    let mut impatient = client.connect(at(PORT)).unwrap();
    drop(listener);
    assert!(ready(near.read.try_read(1)).is_err());
    assert_eq!(ready(impatient.try_finish()).err(), Some(ConnectError::Refused(at(PORT))));
    assert!(patient.try_finish().is_pending());
    assert_eq!(server.counters().arrivals_refused, 2);
    assert_eq!(next(&mut listen(&server)), Some(1));
}

#[test]
fn who_gives_up_leaves_nothing_wherever_it_waits() {
    let (net, server, host) = world();
    let mut parked = call(&host, 1);
    assert_eq!(host.sockets()[0].state, SocketState::SynSent);
    assert_eq!(parked.give_up().err(), Some(ConnectError::TimedOut(at(PORT))));
    assert!(parked_in(&net).wanted(80).is_empty());
    let mut listener = listen(&server);
    listener.set_backlog(1);
    let (queued, waiting, mut last) = (call(&host, 2), call(&host, 3), call(&host, 4));
    let bell = Bell::new();
    assert!(queued.is_queued() && !waiting.is_queued());
    drop(waiting);
    assert!(bell.with(|cx| last.poll_ready(cx)).is_pending());
    drop(queued);
    assert!(last.is_queued(), "it has the place of the one in the queue");
    assert_eq!(bell.rang(), 1);
    assert_eq!((next(&mut listener), next(&mut listener)), (Some(4), None));
    drop((last, listener));
    assert_eq!((host.open_sockets(), net.buffered_bytes()), (0, 0));
    // Of a member that goes.
    let lost = call(&host, 5);
    drop(host);
    assert!(parked_in(&net).wanted(80).is_empty());
    drop(lost);
    assert_eq!(next(&mut listen(&server)), None);
}

#[test]
fn a_waiting_acceptor_is_woken_by_whoever_gets_the_place_of_one_that_gave_up() {
    let (_net, server, host) = world();
    let mut listener = listen(&server);
    let bell = Bell::new();
    assert!(bell.with(|cx| listener.poll_accept(cx)).is_pending());
    let first = call(&host, 1);
    assert_eq!(bell.rang(), 1);
    drop(first);
    assert!(bell.with(|cx| listener.poll_accept(cx)).is_pending());
    let _second = call(&host, 2);
    assert_eq!(bell.rang(), 1);
}

#[test]
fn a_module_without_memory_or_sockets_refuses_or_keeps_who_waits() {
    let net = pod();
    let host = join(&net, "host");
    let purse = Purse::of(2 * crate::net::SOCKET_COST);
    let server = net.join("server", MemberLimits::default(), purse.clone());
    let mut listener = listen(&server);
    let (first, mut second) = (call(&host, 1), call(&host, 2));
    assert!(first.is_queued());
    assert_eq!(ready(second.try_finish()).err(), Some(ConnectError::Refused(at(PORT))));
    drop((first, listener));
    assert_eq!(purse.owed(), 0);
    let limits = MemberLimits { max_sockets: 1, ..MemberLimits::default() };
    let small = net.join("small", limits, std::sync::Arc::new(NoLedger));
    listener = listen(&small);
    let mut third = call(&host, 3);
    assert!(ready(listener.try_accept()).is_err());
    assert!(third.is_queued(), "the module finds it again later");
    listener.turn_away();
    assert_eq!(ready(third.try_finish()).err(), Some(ConnectError::Refused(at(PORT))));
}

#[test]
fn what_a_client_sends_is_on_the_account_of_the_module_that_does_not_read_it() {
    let net = pod();
    let limits = MemberLimits { max_buffered: 0, ..MemberLimits::default() };
    // The daemon has no room of its own for what clients send.
    let host = net.join("host", limits, std::sync::Arc::new(NoLedger));
    let (deaf, busy) = (Purse::of(300_000), Purse::of(300_000));
    let accept = |purse: &std::sync::Arc<Purse>, port: &str| {
        let member = net.join(port, MemberLimits::default(), purse.clone());
        let to = at(&format!("10.88.0.5:{port}"));
        let mut listener = member.listen(to).unwrap();
        let mut calls: Vec<_> = (0..4).map(|_| host.connect_patiently(None, to).unwrap()).collect();
        let far: Vec<_> = calls.iter().map(|_| ready(listener.try_accept()).unwrap()).collect();
        let near: Vec<_> = calls.iter_mut().map(|call| ready(call.try_finish()).unwrap()).collect();
        (member, listener, near, far)
    };
    let (deaf_member, _deaf_listener, mut near, _far) = accept(&deaf, "80");
    let block = vec![7; 200_000];
    let written = |stream: &mut Stream| match stream.write.try_write_slice(&block) {
        Poll::Ready(Ok(n)) => n,
        Poll::Ready(Err(_)) | Poll::Pending => 0,
    };
    let all: usize = near.iter_mut().map(written).sum();
    assert!((128 << 10..300_000).contains(&all), "{all}");
    assert_eq!(deaf_member.buffered_bytes(), deaf.owed() - 5 * crate::net::SOCKET_COST);
    assert_eq!(host.buffered_bytes(), 0);
    // Its neighbour's clients notice nothing of it.
    let (_member, _listener, mut others, mut far) = accept(&busy, "81");
    assert_eq!(written(&mut others[0]), 128 << 10);
    assert_eq!(drain(&mut far[0]).len(), 128 << 10);
    // With the module goes what it owed, and its clients hear of it.
    drop(deaf_member);
    assert_eq!(deaf.owed(), 5 * crate::net::SOCKET_COST, "for handles that are still held");
    assert!(ready(near[0].read.try_read(1)).is_err());
}

#[test]
fn a_client_of_another_family_comes_from_the_pod_and_no_address_is_taken_on_trust() {
    let (net, server, host) = world();
    let mut listener = listen(&server);
    let _call = host.connect_patiently(None, at(PORT)).unwrap();
    let far = ready(listener.try_accept()).unwrap();
    assert_eq!(far.remote_address().ip(), std::net::IpAddr::V4(net.pod_ip()));
    assert_eq!(net.bound_ports().0, 2);
    drop((far, _call));
    assert_eq!(net.bound_ports().0, 1, "its port is free");
    for (client, to) in [
        (Some("[2001:db8::1]:5"), PORT),
        (None, "10.88.0.5:0"),
        (None, "192.0.2.7:80"),
        (None, "0.0.0.0:80"),
    ] {
        let refused = host.connect_patiently(client.map(at), at(to)).err();
        assert_eq!(refused, Some(ConnectError::InvalidAddress(at(to))));
    }
    assert_eq!(host.open_sockets(), 0);
}

/// Listeners come and go on one thread while others connect and give up: nobody is lost, nobody is
/// left.
#[test]
fn listeners_that_come_and_go_lose_nobody() {
    const CALLS: u16 = 400;
    let (net, _, host) = world();
    let accepted = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|thread| {
                let host = &host;
                scope.spawn(move || {
                    let own = (0..CALLS).filter(|n| n % 2 == thread);
                    own.map(|n| {
                        drop(call(host, 10_000 + n));
                        call(host, 1 + n)
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut accepted = Vec::new();
        // Ends when all are in, or hangs: then somebody is lost.
        while accepted.len() < usize::from(CALLS) {
            let server = join(&net, "server");
            let mut listener = listen(&server);
            for _ in 0..7 {
                match listener.try_accept() {
                    Poll::Ready(stream) => {
                        accepted.extend(
                            Some(stream.unwrap().remote_address().port()).filter(|n| *n < 10_000),
                        );
                    }
                    Poll::Pending => std::thread::yield_now(),
                }
            }
        }
        for caller in callers {
            drop(caller.join().unwrap());
        }
        accepted
    });
    for thread in 0..2 {
        let of_one: Vec<_> = accepted.iter().filter(|n| (*n - 1) % 2 == thread).collect();
        assert!(of_one.is_sorted() && of_one.len() == usize::from(CALLS) / 2, "{of_one:?}");
    }
    drop(host);
    assert!(parked_in(&net).wanted(80).is_empty());
    assert_eq!((net.open_sockets(), net.bound_ports()), (0, (0, 0)));
}

/// `docs/limits.md`: what others send a module ends it not.
#[test]
fn a_client_elsewhere_that_finds_no_memory_is_no_failure_of_the_module() {
    let net = pod();
    let purse = Purse::of(8 * 1024);
    let server = net.join("server", MemberLimits::default(), purse.clone());
    let host = join(&net, "host");
    let mut listener = listen(&server);
    let mut waiting = call(&host, 1);
    let mut far = ready(listener.try_accept()).unwrap();
    let mut near = ready(waiting.try_finish()).unwrap();
    let rest = server.pay(purse.left()).unwrap();
    assert_eq!(near.write.try_write_slice(b"x"), Poll::Ready(Err(WriteError::NoMemory)));
    assert_eq!(purse.missed(), 0, "the client's call");
    assert_eq!(far.write.try_write_slice(b"x"), Poll::Ready(Err(WriteError::NoMemory)));
    assert_eq!(purse.missed(), 1, "the module's own");
    drop(rest);
}
