//! Options of sockets: defaults, limits, what is read back, and what an accepted socket inherits.

use guest_p3::kit::{self, *};

const SECOND: u64 = 1_000_000_000;

/// Options can be read and set, in whatever state the socket is.
pub(crate) fn tcp_work(socket: &TcpSocket) {
    works(socket.get_keep_alive_enabled());
    works(socket.set_keep_alive_enabled(false));
    is(socket.get_keep_alive_enabled(), false);
    assert!(works(socket.get_keep_alive_idle_time()) > 0);
    works(socket.set_keep_alive_idle_time(1));
    assert!(works(socket.get_keep_alive_interval()) > 0);
    works(socket.set_keep_alive_interval(1));
    assert!(works(socket.get_keep_alive_count()) > 0);
    works(socket.set_keep_alive_count(1));
    works(socket.set_hop_limit(255));
    is(socket.get_hop_limit(), 255);
    assert!(works(socket.get_receive_buffer_size()) > 0);
    works(socket.set_receive_buffer_size(16000));
    assert!(works(socket.get_send_buffer_size()) > 0);
    works(socket.set_send_buffer_size(16000));
}

/// Something else than the default, in each option.
fn set(socket: &TcpSocket, number: u8) {
    works(socket.set_keep_alive_enabled(number.is_multiple_of(2)));
    works(socket.set_keep_alive_idle_time(u64::from(number) * SECOND));
    works(socket.set_keep_alive_interval(u64::from(number) * SECOND));
    works(socket.set_keep_alive_count(u32::from(number)));
    works(socket.set_hop_limit(number));
    works(socket.set_receive_buffer_size(u64::from(number) * 1024));
    works(socket.set_send_buffer_size(u64::from(number) * 1024));
}

#[track_caller]
fn has(socket: &TcpSocket, number: u8) {
    is(socket.get_keep_alive_enabled(), number.is_multiple_of(2));
    is(socket.get_keep_alive_idle_time(), u64::from(number) * SECOND);
    is(socket.get_keep_alive_interval(), u64::from(number) * SECOND);
    is(socket.get_keep_alive_count(), u32::from(number));
    is(socket.get_hop_limit(), number);
    is(socket.get_receive_buffer_size(), u64::from(number) * 1024);
    is(socket.get_send_buffer_size(), u64::from(number) * 1024);
}

pub(crate) async fn tcp() {
    for family in FAMILIES {
        let socket = kit::tcp(family);
        for outcome in [
            socket.set_listen_backlog_size(0),
            socket.set_keep_alive_idle_time(0),
            socket.set_keep_alive_interval(0),
            socket.set_keep_alive_count(0),
            socket.set_hop_limit(0),
            socket.set_receive_buffer_size(0),
            socket.set_send_buffer_size(0),
        ] {
            fails(outcome, "invalid-argument");
        }
        // Sizes out of reach are brought into it.
        works(socket.set_listen_backlog_size(1));
        works(socket.set_listen_backlog_size(u64::MAX));
        works(socket.set_keep_alive_idle_time(1));
        assert!((1..=SECOND).contains(&works(socket.get_keep_alive_idle_time())));
        works(socket.set_keep_alive_idle_time(u64::MAX));
        works(socket.set_keep_alive_interval(1));
        assert!((1..=SECOND).contains(&works(socket.get_keep_alive_interval())));
        works(socket.set_keep_alive_interval(u64::MAX));
        works(socket.set_keep_alive_count(u32::MAX));
        for size in [1, u64::MAX] {
            works(socket.set_receive_buffer_size(size));
            works(socket.set_send_buffer_size(size));
        }
        set(&socket, 42);
        has(&socket, 42);
        inherited(family).await;
    }
}

/// An accepted socket begins with its listener's options, those set after `listen` too, and keeps them.
async fn inherited(family: Family) {
    let listener = kit::tcp(family);
    set(&listener, 42);
    works(tcp_bind(&listener, at(loopback(family), 0)));
    let mut connections = works(listener.listen());
    let _first_client = works(Connection::to(tcp_local(&listener)).await);
    let first = connections.next().await.expect("a connection");
    has(&first, 42);
    set(&listener, 43);
    has(&first, 42);
    let _second_client = works(Connection::to(tcp_local(&listener)).await);
    has(&connections.next().await.expect("a connection"), 43);
}
