//! Options of sockets: defaults, limits, what is read back, and what an accepted socket inherits.

use wasi::sockets::tcp::TcpSocket;
use wasi::sockets::udp::UdpSocket;

use crate::kit::*;

const SECOND: u64 = 1_000_000_000;

/// Options can be read and set, in whatever state the socket is.
pub(crate) fn tcp_work(socket: &TcpSocket) {
    socket.keep_alive_enabled().unwrap();
    socket.set_keep_alive_enabled(false).unwrap();
    is(socket.keep_alive_enabled(), false);
    assert!(socket.keep_alive_idle_time().unwrap() > 0);
    socket.set_keep_alive_idle_time(1).unwrap();
    assert!(socket.keep_alive_interval().unwrap() > 0);
    socket.set_keep_alive_interval(1).unwrap();
    assert!(socket.keep_alive_count().unwrap() > 0);
    socket.set_keep_alive_count(1).unwrap();
    socket.set_hop_limit(255).unwrap();
    is(socket.hop_limit(), 255);
    assert!(socket.receive_buffer_size().unwrap() > 0);
    socket.set_receive_buffer_size(16000).unwrap();
    assert!(socket.send_buffer_size().unwrap() > 0);
    socket.set_send_buffer_size(16000).unwrap();
}

pub(crate) fn udp_work(socket: &UdpSocket) {
    assert!(socket.unicast_hop_limit().unwrap() > 0);
    socket.set_unicast_hop_limit(255).unwrap();
    is(socket.unicast_hop_limit(), 255);
    assert!(socket.receive_buffer_size().unwrap() > 0);
    socket.set_receive_buffer_size(16000).unwrap();
    assert!(socket.send_buffer_size().unwrap() > 0);
    socket.set_send_buffer_size(16000).unwrap();
}

/// Something else than the default, in each option.
fn set(socket: &TcpSocket, number: u8) {
    socket.set_keep_alive_enabled(number.is_multiple_of(2)).unwrap();
    socket.set_keep_alive_idle_time(u64::from(number) * SECOND).unwrap();
    socket.set_keep_alive_interval(u64::from(number) * SECOND).unwrap();
    socket.set_keep_alive_count(u32::from(number)).unwrap();
    socket.set_hop_limit(number).unwrap();
    socket.set_receive_buffer_size(u64::from(number) * 1024).unwrap();
    socket.set_send_buffer_size(u64::from(number) * 1024).unwrap();
}

#[track_caller]
fn has(socket: &TcpSocket, number: u8) {
    is(socket.keep_alive_enabled(), number.is_multiple_of(2));
    is(socket.keep_alive_idle_time(), u64::from(number) * SECOND);
    is(socket.keep_alive_interval(), u64::from(number) * SECOND);
    is(socket.keep_alive_count(), u32::from(number));
    is(socket.hop_limit(), number);
    is(socket.receive_buffer_size(), u64::from(number) * 1024);
    is(socket.send_buffer_size(), u64::from(number) * 1024);
}

pub(crate) fn tcp() {
    for family in FAMILIES {
        let tcp = Tcp::new(family);
        let socket = &tcp.socket;
        socket.keep_alive_enabled().unwrap();
        refuse_zero(socket);
        // Sizes out of reach are brought into it.
        socket.set_listen_backlog_size(1).unwrap();
        socket.set_listen_backlog_size(u64::MAX).unwrap();
        socket.set_keep_alive_idle_time(1).unwrap();
        assert!((1..=SECOND).contains(&socket.keep_alive_idle_time().unwrap()));
        socket.set_keep_alive_idle_time(u64::MAX).unwrap();
        socket.set_keep_alive_interval(1).unwrap();
        assert!((1..=SECOND).contains(&socket.keep_alive_interval().unwrap()));
        socket.set_keep_alive_interval(u64::MAX).unwrap();
        for count in [1, u32::MAX] {
            socket.set_keep_alive_count(count).unwrap();
        }
        for hops in [1, u8::MAX] {
            socket.set_hop_limit(hops).unwrap();
        }
        for size in [1, u64::MAX] {
            socket.set_receive_buffer_size(size).unwrap();
            socket.set_send_buffer_size(size).unwrap();
        }
        set(socket, 42);
        has(socket, 42);
        inherited(family);
    }
}

#[track_caller]
fn refuse_zero(socket: &TcpSocket) {
    for outcome in [
        socket.set_listen_backlog_size(0),
        socket.set_keep_alive_idle_time(0),
        socket.set_keep_alive_interval(0),
        socket.set_keep_alive_count(0),
        socket.set_hop_limit(0),
        socket.set_receive_buffer_size(0),
        socket.set_send_buffer_size(0),
    ] {
        same(outcome, Err(ErrorCode::InvalidArgument));
    }
}

/// An accepted socket begins with its listener's options, those set after `listen` too, and keeps them.
fn inherited(family: Family) {
    let listener = Tcp::new(family);
    set(&listener.socket, 42);
    listener.bind(at(loopback(family), 0)).unwrap();
    listener.listen().unwrap();
    let connect = || {
        let client = Tcp::new(family);
        let streams = client.connect(listener.local()).unwrap();
        (streams, client, listener.accept().unwrap())
    };
    let first = connect();
    has(&first.2.tcp.socket, 42);
    set(&listener.socket, 43);
    has(&first.2.tcp.socket, 42);
    let second = connect();
    has(&second.2.tcp.socket, 43);
}

pub(crate) fn udp() {
    for family in FAMILIES {
        let udp = Udp::new(family);
        let socket = &udp.socket;
        same(socket.address_family(), family);
        for outcome in [
            socket.set_unicast_hop_limit(0),
            socket.set_receive_buffer_size(0),
            socket.set_send_buffer_size(0),
        ] {
            same(outcome, Err(ErrorCode::InvalidArgument));
        }
        udp_work(socket);
        for size in [1, u64::MAX] {
            socket.set_receive_buffer_size(size).unwrap();
            socket.set_send_buffer_size(size).unwrap();
        }
        socket.set_unicast_hop_limit(42).unwrap();
        is(socket.unicast_hop_limit(), 42);
        socket.set_receive_buffer_size(0x10000).unwrap();
        is(socket.receive_buffer_size(), 0x10000);
        socket.set_send_buffer_size(0x10000).unwrap();
        is(socket.send_buffer_size(), 0x10000);
    }
}
