//! TCP: binding, connecting, the states of a socket, and its streams.

use std::net::Ipv6Addr;

use wasi::clocks::monotonic_clock;
use wasi::io::poll;
use wasi::sockets::tcp::ShutdownType;

use crate::kit::*;
use crate::options;

pub(crate) fn bind() {
    for family in FAMILIES {
        for ip in [loopback(family), any(family)] {
            let free = Tcp::new(family);
            free.bind(at(ip, 0)).unwrap();
            same(free.local().ip(), ip);
            assert_ne!(free.local().port(), 0, "the system has chosen one");
            let chosen = Tcp::new(family);
            chosen.bind(at(ip, 4711)).unwrap();
            same(chosen.local(), at(ip, 4711));
            for taken in [free.local(), chosen.local()] {
                fails(Tcp::new(family).bind(taken), ErrorCode::AddressInUse);
            }
        }
        let late = Tcp::new(family);
        let wrong = at(loopback(other(family)), 0);
        fails(late.bind(wrong), ErrorCode::InvalidArgument);
        let ip = NOT_OURS.into_iter().find(|ip| family_of(*ip) == family).unwrap();
        fails(late.bind(at(ip, 0)), ErrorCode::AddressNotBindable);
        late.bind(at(loopback(family), 0)).expect("a failed bind changes nothing");
        bind_after_use(family);
    }
    for (family, ip) in NOT_UNICAST {
        fails(Tcp::new(family).bind(at(ip, 0)), ErrorCode::InvalidArgument);
    }
    fails(Tcp::new(Family::Ipv6).bind(at(MAPPED, 0)), ErrorCode::InvalidArgument);
}

/// A port is free at once when its listener has gone, whatever became of its connections.
fn bind_after_use(family: Family) {
    let listener = Tcp::listener(loopback(family));
    let address = listener.local();
    let client = Tcp::new(family);
    let _streams = client.connect(address).unwrap();
    let accepted = listener.accept().unwrap();
    write_all(&accepted.output, b"the server closes first");
    drop((accepted, listener));
    let again = Tcp::new(family);
    again.bind(address).unwrap();
    again.listen().unwrap();
}

pub(crate) fn connect() {
    for family in FAMILIES {
        for to in
            [at(any(family), CLOSED), at(loopback(family), 0), at(loopback(other(family)), CLOSED)]
        {
            let socket = Tcp::new(family);
            fails(socket.connect(to), ErrorCode::InvalidArgument);
        }
        let refused = Tcp::new(family);
        fails(refused.connect(at(loopback(family), CLOSED)), ErrorCode::ConnectionRefused);
        fails(refused.connect(at(loopback(family), CLOSED)), ErrorCode::InvalidState);
        let listener = Tcp::listener(loopback(family));
        let bound = Tcp::new(family);
        bound.bind(at(loopback(family), 0)).unwrap();
        let address = bound.local();
        let _streams = bound.connect(listener.local()).unwrap();
        let accepted = listener.accept().unwrap();
        assert_eq!(bound.local(), address, "it keeps the port it was bound to");
        same(to_std(accepted.tcp.socket.remote_address().unwrap()), address);
    }
    for (family, ip) in NOT_UNICAST {
        fails(Tcp::new(family).connect(at(ip, CLOSED)), ErrorCode::InvalidArgument);
    }
    let v4 = Tcp::listener(loopback(Family::Ipv4)).local();
    for to in [v4, at(MAPPED, v4.port())] {
        fails(Tcp::new(Family::Ipv6).connect(to), ErrorCode::InvalidArgument);
    }
}

pub(crate) fn listen() {
    for family in FAMILIES {
        let socket = Tcp::new(family);
        fails(socket.listen(), ErrorCode::InvalidState);
        socket.bind(at(any(family), 0)).unwrap();
        let address = socket.local();
        socket.listen().unwrap();
        same(socket.local(), address);
        // Clients wait in the queue until they are accepted, in the order in which they came.
        let to = at(loopback(family), address.port());
        let clients: Vec<_> = (0..5).map(|_| Tcp::new(family)).collect();
        let _streams: Vec<_> = clients.iter().map(|client| client.connect(to).unwrap()).collect();
        for client in &clients {
            let accepted = socket.accept().unwrap();
            same(to_std(accepted.tcp.socket.remote_address().unwrap()), client.local());
        }
        fails(socket.socket.accept(), ErrorCode::WouldBlock);
    }
}

pub(crate) fn states() {
    for family in FAMILIES {
        let there = at(loopback(family), 0);
        let socket = Tcp::new(family);
        fails(socket.socket.finish_bind(), ErrorCode::NotInProgress);
        fails(socket.socket.finish_listen(), ErrorCode::NotInProgress);
        fails(socket.socket.finish_connect(), ErrorCode::NotInProgress);
        fails(socket.socket.start_listen(), ErrorCode::InvalidState);
        fails(socket.socket.local_address(), ErrorCode::InvalidState);
        looks_unconnected(&socket, family, false);

        socket.bind(there).unwrap();
        fails(socket.bind(there), ErrorCode::InvalidState);
        fails(socket.socket.finish_bind(), ErrorCode::NotInProgress);
        socket.socket.local_address().unwrap();
        looks_unconnected(&socket, family, false);

        socket.listen().unwrap();
        fails(socket.bind(there), ErrorCode::InvalidState);
        fails(socket.listen(), ErrorCode::InvalidState);
        fails(socket.start_connect(at(loopback(family), CLOSED)), ErrorCode::InvalidState);
        fails(socket.socket.finish_listen(), ErrorCode::NotInProgress);
        looks_unconnected(&socket, family, true);

        let client = Tcp::new(family);
        let _streams = client.connect(socket.local()).unwrap();
        let accepted = socket.accept().unwrap();
        for connected in [&client, &accepted.tcp] {
            fails(connected.bind(there), ErrorCode::InvalidState);
            fails(connected.listen(), ErrorCode::InvalidState);
            fails(connected.start_connect(socket.local()), ErrorCode::InvalidState);
            fails(connected.socket.finish_connect(), ErrorCode::NotInProgress);
            fails(connected.socket.accept(), ErrorCode::InvalidState);
            connected.socket.local_address().unwrap();
            connected.socket.remote_address().unwrap();
            assert!(!connected.socket.is_listening());
            same(connected.socket.address_family(), family);
            options::tcp_work(&connected.socket);
            connected.socket.shutdown(ShutdownType::Both).unwrap();
            connected.socket.shutdown(ShutdownType::Both).expect("as often as one likes");
        }
    }
}

/// What holds of a socket until it is connected.
fn looks_unconnected(tcp: &Tcp, family: Family, listening: bool) {
    let socket = &tcp.socket;
    fails(socket.remote_address(), ErrorCode::InvalidState);
    fails(socket.shutdown(ShutdownType::Both), ErrorCode::InvalidState);
    same(socket.is_listening(), listening);
    if !listening {
        fails(socket.accept(), ErrorCode::InvalidState);
    }
    same(socket.address_family(), family);
    socket.set_listen_backlog_size(32).unwrap();
    options::tcp_work(socket);
}

pub(crate) fn streams() {
    for family in FAMILIES {
        the_end_of_the_other_side_is_told(family);
        shut_for_reading_means_the_end_though_bytes_wait(family);
        shut_for_writing_means_closed(family);
        half_closed_the_other_direction_goes_on(family);
        a_shutdown_loses_nothing_that_was_written(family);
        an_idle_stream_always_has_a_permit(family);
        small_writes_all_come(family);
        streams_go_on_without_their_socket(family);
    }
}

fn the_end_of_the_other_side_is_told(family: Family) {
    let (server, client) = pair(family);
    server.tcp.socket.shutdown(ShutdownType::Both).unwrap();
    drop(server);
    client.input.subscribe().block();
    // Not an empty list, which would mean "not yet"; and a read of nothing says the same.
    for length in [10, 0, 1] {
        assert!(is_closed(&client.input.read(length)), "{length}");
    }
}

fn shut_for_reading_means_the_end_though_bytes_wait(family: Family) {
    let (server, client) = pair(family);
    write_all(&server.output, b"never read");
    client.input.subscribe().block();
    client.tcp.socket.shutdown(ShutdownType::Receive).unwrap();
    for length in [10, 0] {
        assert!(is_closed(&client.input.read(length)), "{length}");
    }
}

fn shut_for_writing_means_closed(family: Family) {
    let (_server, client) = pair(family);
    assert!(client.output.check_write().unwrap() >= 3);
    client.tcp.socket.shutdown(ShutdownType::Send).unwrap();
    assert!(is_closed(&client.output.write(b"no!")));
    assert!(is_closed(&client.output.check_write()));
    assert!(is_closed(&client.output.flush()));
}

fn half_closed_the_other_direction_goes_on(family: Family) {
    let (server, client) = pair(family);
    write_all(&client.output, b"question");
    client.tcp.socket.shutdown(ShutdownType::Send).unwrap();
    same_bytes(&read_to_end(&server.input), b"question");
    write_all(&server.output, b"and its answer");
    drop(server);
    same_bytes(&read_to_end(&client.input), b"and its answer");
}

fn a_shutdown_loses_nothing_that_was_written(family: Family) {
    let (server, client) = pair(family);
    client.tcp.socket.set_send_buffer_size(1024).unwrap();
    let small = client.tcp.socket.send_buffer_size().unwrap();
    let permit = client.output.check_write().unwrap().min(100 * small);
    assert!(permit > small, "a permit of {permit} with a buffer of {small}");
    let data: Vec<u8> = (0..permit).map(|i| i as u8).collect();
    client.output.write(&data).unwrap();
    client.tcp.socket.shutdown(ShutdownType::Send).unwrap();
    assert!(read_to_end(&server.input) == data, "all of it, in order");
}

fn an_idle_stream_always_has_a_permit(family: Family) {
    let (_server, client) = pair(family);
    client.output.subscribe().block();
    for time in 0..1000 {
        assert!(client.output.check_write().unwrap() > 0, "the {time}th time");
    }
}

fn small_writes_all_come(family: Family) {
    const COUNT: usize = 300;
    let (server, client) = pair(family);
    for index in 0..COUNT {
        assert!(client.output.check_write().unwrap() > 0, "before byte {index}");
        client.output.write(&[index as u8]).unwrap();
    }
    client.tcp.socket.shutdown(ShutdownType::Send).unwrap();
    same_bytes(&read_to_end(&server.input), &(0..COUNT).map(|i| i as u8).collect::<Vec<_>>());
}

fn streams_go_on_without_their_socket(family: Family) {
    let (server, client) = pair(family);
    let Connection { input, output, tcp } = client;
    drop(tcp);
    write_all(&output, b"ping");
    drop(output);
    same_bytes(&read_to_end(&server.input), b"ping");
    write_all(&server.output, b"pong");
    drop(server);
    same_bytes(&read_to_end(&input), b"pong");
}

pub(crate) fn busy_poll() {
    for family in FAMILIES {
        let listener = Tcp::listener(loopback(family));
        for round in 0..100 {
            let client = Tcp::new(family);
            let (_input, output) = client.connect(listener.local()).unwrap();
            write_all(&output, b"here");
            let accepted = listener.accept().unwrap();
            let readable = accepted.input.subscribe();
            // Something that is ready at once must not keep the host from seeing what else is.
            let comes = (0..1_000_000).any(|_| {
                let at_once = monotonic_clock::subscribe_duration(0);
                poll::poll(&[&at_once, &readable]).contains(&1)
            });
            assert!(comes, "never readable in round {round}");
            same_bytes(&accepted.input.read(100).unwrap(), b"here");
        }
    }
}

pub(crate) fn sample_application() {
    for family in FAMILIES {
        let listener = Tcp::new(family);
        listener.bind(at(loopback(family), 0)).unwrap();
        listener.socket.set_listen_backlog_size(32).unwrap();
        listener.listen().unwrap();
        for text in ["first", "second"] {
            let client = Tcp::new(family);
            let (input, output) = client.connect(listener.local()).unwrap();
            output.blocking_write_and_flush(b"").unwrap();
            output.blocking_write_and_flush(text.as_bytes()).unwrap();
            drop((input, output, client));
            let served = listener.accept().unwrap();
            assert_eq!(
                served.input.blocking_read(0).unwrap(),
                b"",
                "a read of nothing waits and reads nothing"
            );
            same_bytes(&read_to_end(&served.input), text.as_bytes());
        }
    }
    // An address that only IPv6 has: a listener on the wildcard answers there too.
    let listener = Tcp::listener(Ipv6Addr::UNSPECIFIED.into());
    let _streams =
        Tcp::new(Family::Ipv6).connect(at(Ipv6Addr::LOCALHOST, listener.local().port())).unwrap();
}

/// Writes far more than any buffer holds, as fast as it is let.
pub(crate) fn stall(port: u16) {
    let tcp = Tcp::new(Family::Ipv4);
    let (_input, output) = tcp.connect(at(loopback(Family::Ipv4), port)).unwrap();
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..64 {
        write_all(&output, &piece);
    }
}

/// Dies with a connection in its hands.
pub(crate) fn trap(port: u16) {
    let listener = Tcp::new(Family::Ipv4);
    listener.bind(at(any(Family::Ipv4), port)).unwrap();
    listener.listen().unwrap();
    println!("listening");
    let _accepted = listener.accept().unwrap();
    panic!("as asked");
}
