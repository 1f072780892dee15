//! TCP: binding, connecting, the states of a socket, and its streams.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::options;
use guest_p3::kit::*;

pub(crate) async fn bind() {
    for family in FAMILIES {
        for ip in [loopback(family), any(family)] {
            let free = tcp(family);
            works(tcp_bind(&free, at(ip, 0)));
            let address = tcp_local(&free);
            assert!(address.ip() == ip && address.port() != 0, "the system has chosen a port");
            let chosen = tcp(family);
            works(tcp_bind(&chosen, at(ip, 4711)));
            assert!(tcp_local(&chosen) == at(ip, 4711));
            for taken in [address, at(ip, 4711)] {
                fails(tcp_bind(&tcp(family), taken), "address-in-use");
            }
        }
        let late = tcp(family);
        fails(tcp_bind(&late, at(loopback(other(family)), 0)), "invalid-argument");
        let ip = if family == Family::Ipv4 { NOT_OURS[0] } else { NOT_OURS[1] };
        fails(tcp_bind(&late, at(ip, 0)), "address-not-bindable");
        // A failed bind changes nothing.
        works(tcp_bind(&late, at(loopback(family), 0)));
        bind_after_use(family).await;
    }
    for ip in NOT_UNICAST {
        fails(tcp_bind(&tcp(family_of(ip)), at(ip, 0)), "invalid-argument");
    }
    fails(tcp_bind(&tcp(Family::Ipv6), at(MAPPED, 0)), "invalid-argument");
}

/// A port is free at once when its listener has gone, whatever became of its connections.
async fn bind_after_use(family: Family) {
    let (listener, mut connections) = listen(at(loopback(family), 0));
    let address = tcp_local(&listener);
    let _client = works(Connection::to(address).await);
    let mut accepted = Connection::new(connections.next().await.expect("a connection"));
    assert!(accepted.write(b"the server closes first").await);
    drop((accepted, connections, listener));
    let _again = listen(address);
}

pub(crate) async fn connect() {
    for family in FAMILIES {
        for to in nobodys(family) {
            fails(tcp_connect(&tcp(family), to).await, "invalid-argument");
        }
        let refused = tcp(family);
        fails(tcp_connect(&refused, at(loopback(family), CLOSED)).await, "connection-refused");
        fails(tcp_connect(&refused, at(loopback(family), CLOSED)).await, "invalid-state");
        let (listener, mut connections) = listen(at(loopback(family), 0));
        let bound = tcp(family);
        works(tcp_bind(&bound, at(loopback(family), 0)));
        let address = tcp_local(&bound);
        works(tcp_connect(&bound, tcp_local(&listener)).await);
        assert!(tcp_local(&bound) == address, "it keeps the port it was bound to");
        let accepted = connections.next().await.expect("a connection");
        assert!(to_std(works(accepted.get_remote_address())) == address);
        assert!(tcp_local(&accepted) == tcp_local(&listener));
    }
    for ip in NOT_UNICAST {
        fails(tcp_connect(&tcp(family_of(ip)), at(ip, CLOSED)).await, "invalid-argument");
    }
    let (v4, _connections) = listen(at(loopback(Family::Ipv4), 0));
    let v4 = tcp_local(&v4);
    for to in [v4, at(MAPPED, v4.port())] {
        fails(tcp_connect(&tcp(Family::Ipv6), to).await, "invalid-argument");
    }
}

pub(crate) async fn listen_implicitly() {
    for family in FAMILIES {
        let unbound = tcp(family);
        fails(unbound.get_local_address(), "invalid-state");
        let mut connections = works(unbound.listen());
        let address = tcp_local(&unbound);
        assert!(address.ip() == any(family) && address.port() != 0);
        let bound = tcp(family);
        works(tcp_bind(&bound, at(any(family), 0)));
        let before = tcp_local(&bound);
        let _connections = works(bound.listen());
        assert!(tcp_local(&bound) == before);
        // Clients wait in the queue until they are accepted, in the order in which they came.
        let clients: Vec<_> = (0..5).map(|_| tcp(family)).collect();
        for client in &clients {
            works(tcp_connect(client, at(loopback(family), address.port())).await);
        }
        for client in &clients {
            let accepted = connections.next().await.expect("a connection");
            assert!(to_std(works(accepted.get_remote_address())) == tcp_local(client));
        }
        // The port stays open with either of its handles, and closes with the last.
        drop(unbound);
        works(tcp_connect(&tcp(family), at(loopback(family), address.port())).await);
        drop(connections);
        let late = tcp_connect(&tcp(family), at(loopback(family), address.port())).await;
        fails(late, "connection-refused");
    }
}

pub(crate) async fn states() {
    for family in FAMILIES {
        let there = at(loopback(family), 0);
        let socket = tcp(family);
        fails(socket.get_local_address(), "invalid-state");
        looks_unconnected(&socket, family, false).await;

        works(tcp_bind(&socket, there));
        fails(tcp_bind(&socket, there), "invalid-state");
        works(socket.get_local_address());
        looks_unconnected(&socket, family, false).await;

        let mut connections = works(socket.listen());
        fails(tcp_bind(&socket, there), "invalid-state");
        fails(socket.listen(), "invalid-state");
        fails(tcp_connect(&socket, at(loopback(family), CLOSED)).await, "invalid-state");
        looks_unconnected(&socket, family, true).await;

        let client = tcp(family);
        works(tcp_connect(&client, tcp_local(&socket)).await);
        let accepted = connections.next().await.expect("a connection");
        for connected in [&client, &accepted] {
            fails(tcp_bind(connected, there), "invalid-state");
            fails(connected.listen(), "invalid-state");
            fails(tcp_connect(connected, tcp_local(&socket)).await, "invalid-state");
            works(connected.get_local_address());
            works(connected.get_remote_address());
            assert!(!connected.get_is_listening());
            assert!(connected.get_address_family() == family);
            options::tcp_work(connected);
        }
    }
}

/// What holds of a socket until it is connected.
async fn looks_unconnected(socket: &TcpSocket, family: Family, listening: bool) {
    fails(socket.get_remote_address(), "invalid-state");
    assert!(socket.get_is_listening() == listening);
    assert!(socket.get_address_family() == family);
    works(socket.set_listen_backlog_size(32));
    options::tcp_work(socket);
    has_no_streams(socket).await;
}

/// Neither direction works: the stream is at its end, and the future says why.
async fn has_no_streams(socket: &TcpSocket) {
    let (mut input, received) = socket.receive();
    let (status, bytes) = input.read(Vec::with_capacity(10)).await;
    assert!(status == StreamResult::Dropped && bytes.is_empty());
    fails(received.await, "invalid-state");
    let (mut output, source) = wit_stream::new();
    let sent = socket.send(source);
    let (status, rest) = output.write(b"undeliverable".to_vec()).await;
    assert!(status == StreamResult::Dropped);
    is_bytes(&rest.into_vec(), b"undeliverable");
    fails(sent.await, "invalid-state");
}

pub(crate) async fn streams() {
    for family in FAMILIES {
        words_go_both_ways(family).await;
        the_end_of_the_other_side_is_told(family).await;
        a_reader_that_leaves_is_told_ok_though_bytes_wait(family).await;
        a_writer_that_leaves_is_told_ok(family).await;
        a_writer_to_nobody_is_told(family).await;
        each_direction_is_given_once(family).await;
        half_closed_the_other_direction_goes_on(family).await;
        streams_go_on_without_their_socket(family).await;
        reads_that_are_called_off_lose_nothing(family).await;
    }
}

async fn words_go_both_ways(family: Family) {
    let (mut server, mut client) = pair(family).await;
    assert!(server.write(b"ping").await);
    let (status, bytes) = client.input.read(Vec::with_capacity(4)).await;
    assert!(status == StreamResult::Complete(4));
    is_bytes(&bytes, b"ping");
    assert!(client.write(b"pong").await);
    let (status, bytes) = server.input.read(Vec::with_capacity(4)).await;
    assert!(status == StreamResult::Complete(4));
    is_bytes(&bytes, b"pong");
}

async fn the_end_of_the_other_side_is_told(family: Family) {
    let (server, mut client) = pair(family).await;
    drop(server);
    let (status, bytes) = client.input.read(Vec::with_capacity(1)).await;
    assert!(status == StreamResult::Dropped && bytes.is_empty());
    works(client.received.await);
}

async fn a_reader_that_leaves_is_told_ok_though_bytes_wait(family: Family) {
    let (mut server, client) = pair(family).await;
    assert!(server.write(b"more than one byte").await);
    let Connection { mut input, received, .. } = client;
    input.next().await.expect("the first byte");
    drop(input);
    works(received.await);
}

async fn a_writer_that_leaves_is_told_ok(family: Family) {
    let (_server, client) = pair(family).await;
    let Connection { output, sent, .. } = client;
    drop(output);
    works(sent.await);
}

async fn a_writer_to_nobody_is_told(family: Family) {
    let (server, mut client) = pair(family).await;
    drop(server);
    while client.output.write(b"undeliverable".to_vec()).await.0 != StreamResult::Dropped {}
    fails(client.sent.await, "connection-broken");
}

async fn each_direction_is_given_once(family: Family) {
    let (mut server, client) = pair(family).await;
    assert!(server.write(b"never read").await);
    for _ in 0..3 {
        has_no_streams(&client.socket).await;
    }
}

async fn half_closed_the_other_direction_goes_on(family: Family) {
    let (mut server, mut client) = pair(family).await;
    assert!(client.write(b"question").await);
    drop(client.output);
    works(client.sent.await);
    is_bytes(&read_to_end(&mut server.input).await, b"question");
    works(server.received.await);
    assert!(server.output.write_all(b"and its answer".to_vec()).await.is_empty());
    drop(server.output);
    works(server.sent.await);
    is_bytes(&read_to_end(&mut client.input).await, b"and its answer");
    works(client.received.await);
}

async fn streams_go_on_without_their_socket(family: Family) {
    let (mut server, client) = pair(family).await;
    let Connection { socket, mut input, received, mut output, sent } = client;
    drop((socket, server.socket));
    assert!(output.write_all(b"ping".to_vec()).await.is_empty());
    drop(output);
    works(sent.await);
    is_bytes(&read_to_end(&mut server.input).await, b"ping");
    works(server.received.await);
    assert!(server.output.write_all(b"pong".to_vec()).await.is_empty());
    drop(server.output);
    works(server.sent.await);
    is_bytes(&read_to_end(&mut input).await, b"pong");
    works(received.await);
}

/// A read that is tried once: what it gave, or that it was called off.
fn try_read(input: &mut StreamReader<u8>, buffer: Vec<u8>) -> (StreamResult, Vec<u8>) {
    let mut read = pin!(input.read(buffer));
    match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => read.cancel(),
    }
}

async fn reads_that_are_called_off_lose_nothing(family: Family) {
    const PIECE: usize = 256;
    const PIECES: usize = (1 << 20) / PIECE;
    let (server, client) = pair(family).await;
    works(client.socket.set_send_buffer_size(1024));
    let Connection { mut input, received, .. } = server;
    let Connection { mut output, sent, socket: _socket, .. } = client;
    let write = async move {
        for _ in 0..PIECES {
            let piece: Vec<u8> = (0..=255).collect();
            assert!(output.write_all(piece).await.is_empty());
        }
        drop(output);
        works(sent.await);
    };
    let read = async {
        let (mut count, mut in_vain) = (0, 0);
        loop {
            let (status, bytes) = try_read(&mut input, Vec::with_capacity(1024));
            for byte in bytes {
                assert!(byte == count as u8, "in order, each once");
                count += 1;
            }
            match status {
                StreamResult::Complete(_) => in_vain = 0,
                StreamResult::Dropped => break,
                StreamResult::Cancelled => {
                    assert!(in_vain < 10, "readiness without bytes");
                    in_vain += 1;
                    // A read of nothing waits until there is something.
                    input.read(Vec::new()).await;
                }
            }
        }
        assert!(count == PIECES * PIECE, "all of it");
    };
    both(write, read).await;
    works(received.await);
}

pub(crate) async fn busy_poll() {
    for family in FAMILIES {
        let (listener, mut connections) = listen(at(loopback(family), 0));
        for _ in 0..100 {
            let mut client = works(Connection::to(tcp_local(&listener)).await);
            let mut server = Connection::new(connections.next().await.expect("a connection"));
            assert!(client.write(b"here").await);
            drop(client.output);
            // One who never waits must not keep the host from bringing what has come.
            let mut tries = 0;
            let bytes = loop {
                let (status, bytes) = try_read(&mut server.input, Vec::with_capacity(100));
                if status != StreamResult::Cancelled {
                    break bytes;
                }
                tries += 1;
                assert!(tries < 1_000_000, "never readable");
                wit_bindgen::yield_async().await;
            };
            is_bytes(&bytes, b"here");
            assert!(read_to_end(&mut server.input).await.is_empty());
            works(server.received.await);
        }
    }
}

pub(crate) async fn sample_application() {
    for family in FAMILIES {
        let listener = tcp(family);
        works(tcp_bind(&listener, at(loopback(family), 0)));
        works(listener.set_listen_backlog_size(32));
        let mut connections = works(listener.listen());
        for text in ["first", "second"] {
            let mut client = works(Connection::to(tcp_local(&listener)).await);
            assert!(client.write(b"").await);
            assert!(client.write(text.as_bytes()).await);
            drop(client);
            let mut server = Connection::new(connections.next().await.expect("a connection"));
            is_bytes(&read_to_end(&mut server.input).await, text.as_bytes());
            works(server.received.await);
        }
    }
}
