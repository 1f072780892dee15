//! UDP: binding, associations, and what becomes of datagrams.

use crate::kit::*;
use crate::options;

pub(crate) fn bind() {
    for family in FAMILIES {
        for ip in [loopback(family), any(family)] {
            let free = Udp::bound(ip);
            same(free.local().ip(), ip);
            assert_ne!(free.local().port(), 0, "the system has chosen one");
            let chosen = Udp::new(family);
            chosen.bind(at(ip, 4711)).unwrap();
            same(chosen.local(), at(ip, 4711));
            fails(Udp::new(family).bind(chosen.local()), ErrorCode::AddressInUse);
        }
        let late = Udp::new(family);
        fails(late.bind(at(loopback(other(family)), 0)), ErrorCode::InvalidArgument);
        let ip = NOT_OURS.into_iter().find(|ip| family_of(*ip) == family).unwrap();
        fails(late.bind(at(ip, 0)), ErrorCode::AddressNotBindable);
        late.bind(at(loopback(family), 0)).expect("a failed bind changes nothing");
    }
    fails(Udp::new(Family::Ipv6).bind(at(MAPPED, 0)), ErrorCode::InvalidArgument);
}

pub(crate) fn connect() {
    for family in FAMILIES {
        let (first, second) = (at(loopback(family), 4321), at(loopback(family), 4320));
        let socket = Udp::bound(any(family));
        let port = socket.local().port();
        for peer in [None, None, Some(first), Some(first), Some(second), None, Some(first)] {
            socket.stream(peer).unwrap();
            same(socket.remote(), peer.ok_or(ErrorCode::InvalidState));
            assert_eq!(socket.local().port(), port, "an association leaves the port");
        }
        for bad in
            [at(any(family), CLOSED), at(loopback(family), 0), at(loopback(other(family)), CLOSED)]
        {
            fails(socket.stream(Some(bad)), ErrorCode::InvalidArgument);
        }
        let unbound = Udp::new(family).stream(Some(first));
        fails(unbound, ErrorCode::InvalidState);
        for round in 0..100 {
            let peer = (round % 2 == 0).then_some(first);
            let streams = socket.stream(peer).unwrap();
            assert!(streams.incoming.receive(1).unwrap().is_empty());
        }
        ready_to_send_means_a_permit(family);
    }
    let v6 = Udp::bound(any(Family::Ipv6));
    for bad in [at(loopback(Family::Ipv4), CLOSED), at(MAPPED, CLOSED)] {
        fails(v6.stream(Some(bad)), ErrorCode::InvalidArgument);
    }
}

fn ready_to_send_means_a_permit(family: Family) {
    for _ in 0..256 {
        let socket = Udp::bound(loopback(family));
        let streams = socket.stream(Some(at(loopback(family), 4320))).unwrap();
        assert_eq!(streams.send(b"to nobody", None), Ok(1), "nobody there is no error yet");
    }
}

pub(crate) fn sample_application() {
    for family in FAMILIES {
        let server = Udp::bound(loopback(family));
        let address = server.local();
        let client = Udp::bound(any(family));
        let port = client.local().port();
        {
            let streams = client.stream(Some(address)).unwrap();
            for text in [&b""[..], b"Hello, ", b"world!"] {
                streams.send(text, None).unwrap();
            }
        }
        let served = server.stream(None).unwrap();
        for text in [&b""[..], b"Hello, ", b"world!"] {
            same(served.receive(), Ok((text.to_vec(), at(loopback(family), port))));
        }
        drop(served);
        // Back, to an address that is named with each datagram; the client listens to everybody again.
        let streams = client.stream(None).unwrap();
        server.stream(None).unwrap().send(b"answer", Some(at(loopback(family), port))).unwrap();
        same(streams.receive(), Ok((b"answer".to_vec(), address)));
        drop(streams);
        // From somebody else, to one that listens to one peer only: it never comes.
        let streams = client.stream(Some(address)).unwrap();
        let stranger = Udp::bound(loopback(family));
        stranger.stream(None).unwrap().send(b"psst", Some(at(loopback(family), port))).unwrap();
        assert!(streams.incoming.receive(10).unwrap().is_empty());
    }
}

pub(crate) fn states() {
    for family in FAMILIES {
        let there = at(loopback(family), 0);
        let socket = Udp::new(family);
        fails(socket.socket.finish_bind(), ErrorCode::NotInProgress);
        fails(socket.stream(None), ErrorCode::InvalidState);
        fails(socket.socket.local_address(), ErrorCode::InvalidState);
        fails(socket.remote(), ErrorCode::InvalidState);
        same(socket.socket.address_family(), family);
        options::udp_work(&socket.socket);

        socket.bind(there).unwrap();
        fails(socket.bind(there), ErrorCode::InvalidState);
        fails(socket.socket.finish_bind(), ErrorCode::NotInProgress);
        socket.socket.local_address().unwrap();
        fails(socket.remote(), ErrorCode::InvalidState);
        options::udp_work(&socket.socket);

        let peer = at(loopback(family), 54321);
        socket.stream(Some(peer)).unwrap();
        fails(socket.bind(there), ErrorCode::InvalidState);
        fails(socket.socket.finish_bind(), ErrorCode::NotInProgress);
        socket.socket.local_address().unwrap();
        same(socket.remote(), Ok(peer));
        same(socket.socket.address_family(), family);
        options::udp_work(&socket.socket);
    }
}

pub(crate) fn stream() {
    for family in FAMILIES {
        let (receiver, sender) = (Udp::bound(loopback(family)), Udp::bound(loopback(family)));
        let streams = sender.stream(Some(receiver.local())).unwrap();
        assert!(streams.outgoing.check_send().unwrap() >= 2);
        same(streams.outgoing.send(&[datagram(b"1", None), datagram(b"2", None)]), Ok(2));
        let received = receiver.stream(Some(sender.local())).unwrap();
        received.incoming.subscribe().block();
        let both = received.incoming.receive(2).unwrap();
        same(both.len(), 2);
        same_bytes(&both[0].data, b"1");
        same_bytes(&both[1].data, b"2");
        assert!(received.incoming.receive(2).unwrap().is_empty());
        drop(received);
        // What others had sent before is gone once the socket listens to one peer. It listens to all again before.
        receiver.stream(None).unwrap();
        let third = Udp::bound(loopback(family));
        let others = third.stream(Some(receiver.local())).unwrap();
        streams.send(b"A", None).unwrap();
        others.send(b"B", None).unwrap();
        streams.send(b"A", None).unwrap();
        let only = receiver.stream(Some(third.local())).unwrap();
        same(only.receive(), Ok((b"B".to_vec(), third.local())));
        assert!(only.incoming.receive(10).unwrap().is_empty());
        // What is longer than the receiver has room for is lost, and those that follow are not.
        receiver.socket.set_receive_buffer_size(8 * 1024).unwrap();
        others.send(&vec![0; 9000], None).unwrap();
        others.send(b"C", None).unwrap();
        same(only.receive(), Ok((b"C".to_vec(), third.local())));
    }
}

pub(crate) fn send_to_closed_receiver() {
    for family in FAMILIES {
        let sender = Udp::bound(loopback(family));
        let gone = Udp::bound(loopback(family)).local();
        let streams = sender.stream(Some(gone)).unwrap();
        streams.send(b"hello?", None).unwrap();
        fails(streams.receive(), ErrorCode::ConnectionRefused);
        assert!(streams.incoming.receive(1).unwrap().is_empty(), "told once");
    }
}

/// Ends in a trap: one more than was permitted.
pub(crate) fn send_too_much() {
    let socket = Udp::bound(loopback(Family::Ipv4));
    let streams = socket.stream(Some(at(loopback(Family::Ipv4), 4320))).unwrap();
    let permit = streams.outgoing.check_send().unwrap();
    println!("permitted {permit}");
    let many: Vec<_> = (0..=permit).map(|_| datagram(b"x", None)).collect();
    let outcome = streams.outgoing.send(&many);
    panic!("{} datagrams sent with a permit for {permit}: {outcome:?}", many.len());
}
