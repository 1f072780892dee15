//! UDP: binding, associations, and what becomes of datagrams.

use crate::options;
use guest_p3::kit::*;

pub(crate) async fn bind() {
    for family in FAMILIES {
        for ip in [loopback(family), any(family)] {
            let free = udp_at(ip);
            let address = udp_local(&free);
            assert!(address.ip() == ip && address.port() != 0, "the system has chosen a port");
            let chosen = udp(family);
            works(udp_bind(&chosen, at(ip, 4711)));
            assert!(udp_local(&chosen) == at(ip, 4711));
            fails(udp_bind(&udp(family), at(ip, 4711)), "address-in-use");
        }
        let late = udp(family);
        fails(udp_bind(&late, at(loopback(other(family)), 0)), "invalid-argument");
        let ip = if family == Family::Ipv4 { NOT_OURS[0] } else { NOT_OURS[1] };
        fails(udp_bind(&late, at(ip, 0)), "address-not-bindable");
        // A failed bind changes nothing.
        works(udp_bind(&late, at(loopback(family), 0)));
    }
    fails(udp_bind(&udp(Family::Ipv6), at(MAPPED, 0)), "invalid-argument");
}

pub(crate) async fn connect() {
    for family in FAMILIES {
        let (first, second) = (at(loopback(family), 4321), at(loopback(family), 4320));
        let socket = udp(family);
        fails(socket.disconnect(), "invalid-state");
        fails(socket.get_local_address(), "invalid-state");
        for peer in [first, first, second] {
            works(udp_connect(&socket, peer));
            assert!(to_std(works(socket.get_remote_address())) == peer);
        }
        let port = udp_local(&socket).port();
        assert!(port != 0, "a connect binds");
        works(socket.disconnect());
        fails(socket.get_remote_address(), "invalid-state");
        fails(socket.disconnect(), "invalid-state");
        works(udp_connect(&socket, first));
        assert!(udp_local(&socket).port() == port, "it keeps its port");
        for bad in nobodys(family) {
            fails(udp_connect(&socket, bad), "invalid-argument");
        }
        let bound = udp_at(any(family));
        works(udp_connect(&bound, first));
        works(bound.get_local_address());
    }
    let v6 = udp_at(any(Family::Ipv6));
    for bad in [at(loopback(Family::Ipv4), CLOSED), at(MAPPED, CLOSED)] {
        fails(udp_connect(&v6, bad), "invalid-argument");
    }
}

pub(crate) async fn receive() {
    for family in FAMILIES {
        let socket = udp(family);
        fails(socket.receive().await, "invalid-state");
        fails(socket.get_local_address(), "invalid-state");
        fails(socket.get_remote_address(), "invalid-state");
        // Two tasks that wait on one socket get a datagram each.
        let receiver = udp_at(loopback(family));
        let address = udp_local(&receiver);
        let sender = udp(family);
        let tell = async {
            works(udp_send(&sender, b"one", Some(address)).await);
            works(udp_send(&sender, b"two", Some(address)).await);
        };
        let ((a, b), ()) = both(both(udp_receive(&receiver), udp_receive(&receiver)), tell).await;
        let mut got = [works(a).0, works(b).0];
        got.sort();
        assert!(got == [b"one", b"two"], "one each");
        // What was sent to a port that is closed comes back to whoever is connected to it, once.
        let gone = udp_local(&udp_at(loopback(family)));
        works(udp_connect(&sender, gone));
        works(udp_send(&sender, b"hello?", None).await);
        fails(sender.receive().await, "connection-refused");
    }
}

pub(crate) async fn send() {
    for family in FAMILIES {
        let socket = udp(family);
        fails(socket.get_local_address(), "invalid-state");
        works(udp_send(&socket, b"x", Some(at(loopback(family), 42))).await);
        works(socket.get_local_address());
        fails(socket.get_remote_address(), "invalid-state");
        for bad in
            [at(loopback(other(family)), 1234), at(any(family), 1234), at(loopback(family), 0)]
        {
            fails(udp_send(&udp(family), b"x", Some(bad)).await, "invalid-argument");
        }
        // What is longer than the receiver has room for is lost, and those that follow are not.
        let receiver = udp_at(loopback(family));
        works(receiver.set_receive_buffer_size(8 * 1024));
        let to = Some(udp_local(&receiver));
        works(udp_send(&socket, &vec![0; 9000], to).await);
        works(udp_send(&socket, b"short", to).await);
        is_bytes(&works(udp_receive(&receiver).await).0, b"short");
    }
}

/// Sends under way at once are each judged by their own address.
pub(crate) async fn send_race() {
    let receiver = udp_at(loopback(Family::Ipv4));
    let allowed = udp_local(&receiver);
    let socket = udp_at(any(Family::Ipv4));
    for _ in 0..100 {
        let denied = udp_send(&socket, b"y", Some(at(NOT_OURS[0], allowed.port())));
        let (one, other) = both(udp_send(&socket, b"x", Some(allowed)), denied).await;
        works(one);
        fails(other, "access-denied");
        is_bytes(&works(udp_receive(&receiver).await).0, b"x");
    }
}

pub(crate) async fn sample_application() {
    for family in FAMILIES {
        let server = udp_at(loopback(family));
        let address = udp_local(&server);
        let client = udp_at(any(family));
        let port = udp_local(&client).port();
        works(udp_connect(&client, address));
        for text in [&b""[..], b"Hello, ", b"world!"] {
            works(udp_send(&client, text, None).await);
        }
        for text in [&b""[..], b"Hello, ", b"world!"] {
            is_datagram(udp_receive(&server).await, text, at(loopback(family), port));
        }
        // From somebody else, to one that listens to one peer only: it never comes, and the answer does.
        let stranger = udp(family);
        works(udp_send(&stranger, b"psst", Some(at(loopback(family), port))).await);
        works(udp_send(&server, b"answer", Some(at(loopback(family), port))).await);
        is_datagram(udp_receive(&client).await, b"answer", address);
    }
}

pub(crate) async fn states() {
    for family in FAMILIES {
        let there = at(loopback(family), 0);
        let socket = udp(family);
        fails(udp_send(&socket, b"x", None).await, "invalid-argument");
        fails(socket.disconnect(), "invalid-state");
        fails(socket.get_local_address(), "invalid-state");
        fails(socket.get_remote_address(), "invalid-state");
        assert!(socket.get_address_family() == family);
        options::udp_work(&socket);

        works(udp_bind(&socket, there));
        fails(udp_bind(&socket, there), "invalid-state");
        works(socket.get_local_address());
        fails(socket.get_remote_address(), "invalid-state");
        options::udp_work(&socket);

        let connected = udp(family);
        works(udp_connect(&connected, at(loopback(family), 54321)));
        fails(udp_bind(&connected, there), "invalid-state");
        works(connected.get_local_address());
        works(connected.get_remote_address());
        assert!(connected.get_address_family() == family);
        options::udp_work(&connected);
    }
}
