#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use super::*;
use crate::net::tests::{Bell, Ending, connected, drain, join, pod, read_all, ready, send};
use crate::net::{ReadHalf, Stream, WriteError};

#[test]
fn both_directions_carry_bytes_and_know_their_addresses() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, mut far) = connected(&server, &client);
    send(&mut near, b"ping");
    assert_eq!(drain(&mut far), b"ping");
    send(&mut far, b"pong");
    assert_eq!(drain(&mut near), b"pong");
    assert_eq!(near.local_address(), far.remote_address());
    assert_eq!(near.remote_address(), far.local_address());
}

#[test]
fn a_half_closed_connection_still_carries_the_other_half() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, mut far) = connected(&server, &client);
    send(&mut near, b"request");
    near.shutdown_write();
    assert_eq!(ready(near.write.try_write_slice(b"x")), Err(WriteError::Closed));
    assert_eq!(drain(&mut far), b"request");
    assert_eq!(ready(far.read.try_read(9)), Ok(Bytes::new()), "end of stream");
    send(&mut far, b"answer");
    drop(far);
    assert_eq!(drain(&mut near), b"answer");
    assert_eq!(ready(near.read.try_read(9)), Ok(Bytes::new()));
}

#[test]
fn writing_to_a_side_that_closed_for_good_is_a_broken_pipe() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, far) = connected(&server, &client);
    drop(far);
    assert_eq!(ready(near.write.try_write_slice(b"x")), Err(WriteError::Broken));
    assert_eq!(ready(near.read.try_read(9)), Ok(Bytes::new()), "an orderly close reads as the end");
}

#[test]
fn closing_with_bytes_unread_resets_the_other_side_after_what_was_written_to_it() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, mut far) = connected(&server, &client);
    send(&mut near, b"never read");
    send(&mut far, b"last words");
    drop(far);
    assert_eq!(read_all(&mut near), (b"last words".to_vec(), Ending::Reset));
    assert_eq!(ready(near.read.try_read(9)), Ok(Bytes::new()), "a reset is told once");
    assert_eq!(ready(near.write.try_write_slice(b"x")), Err(WriteError::Broken));
    assert_eq!((client.counters().resets, server.counters().resets), (1, 0));
}

#[test]
fn what_is_written_to_a_side_that_only_stopped_reading_is_thrown_away() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, far) = connected(&server, &client);
    let (read, mut write) = far.into_split();
    send(&mut near, &[0; 100_000]);
    drop(read);
    assert_eq!(client.buffered_bytes(), 0, "what waited is thrown away too");
    let big = vec![0; 1 << 20];
    let mut sent = 0;
    while sent < big.len() {
        sent += ready(near.write.try_write_slice(&big[sent..])).unwrap();
    }
    assert_eq!(client.buffered_bytes(), 0);
    assert_eq!(ready(write.try_write_slice(b"still here")), Ok(10));
    assert_eq!(drain(&mut near), b"still here");
}

#[test]
fn a_waiting_reader_is_woken_by_bytes_by_the_end_and_by_a_reset() {
    type Deed = fn(Stream) -> Option<Stream>;
    let deeds: [(&str, Deed); 3] = [
        ("bytes", |mut far| {
            send(&mut far, b"x");
            Some(far)
        }),
        ("end", |_far| None),
        ("reset", |far| {
            far.abort();
            None
        }),
    ];
    for (what, deed) in deeds {
        let net = pod();
        let (server, client) = (join(&net, "server"), join(&net, "client"));
        let (_listener, mut near, far) = connected(&server, &client);
        let bell = Bell::new();
        assert!(bell.with(|cx| near.read.poll_read(cx, 10)).is_pending());
        assert!(bell.with(|cx| near.read.poll_ready(cx)).is_pending());
        let _far = deed(far);
        assert_eq!(bell.rang(), 1, "{what}");
        assert!(bell.with(|cx| near.read.poll_ready(cx)).is_ready(), "{what}");
    }
}

#[test]
fn trying_leaves_no_waker_behind() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, mut far) = connected(&server, &client);
    let bell = Bell::new();
    assert!(bell.with(|cx| near.read.poll_read(cx, 10)).is_pending());
    send(&mut far, b"x");
    assert_eq!(bell.rang(), 1);
    drain(&mut near);
    assert!(near.read.try_read(10).is_pending());
    send(&mut far, b"y");
    assert_eq!(bell.rang(), 0);
}

#[test]
fn a_stalled_reader_stops_its_writer_at_the_very_byte() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, mut far) = connected(&server, &client);
    let mut chunk = Bytes::from(vec![1; 1 << 20]);
    assert_eq!(ready(near.write.try_write(&mut chunk)), Ok(128 * 1024));
    assert_eq!(chunk.len(), (1 << 20) - 128 * 1024);
    let bell = Bell::new();
    assert!(bell.with(|cx| near.write.poll_write(cx, &mut chunk)).is_pending());
    assert!(near.write.try_writable().is_pending());
    assert!(client.buffered_bytes() <= 128 * 1024 + 4096);
    assert_eq!(ready(far.read.try_read(64 * 1024)).map(|b| b.len()), Ok(64 * 1024));
    assert_eq!(bell.rang(), 1);
    assert_eq!(bell.with(|cx| near.write.poll_writable(cx)), Poll::Ready(Ok(64 * 1024)));
}

#[test]
fn a_waiting_writer_is_woken_when_the_other_side_goes() {
    for abort in [false, true] {
        let net = pod();
        let (server, client) = (join(&net, "server"), join(&net, "client"));
        let (_listener, mut near, far) = connected(&server, &client);
        let mut chunk = Bytes::from(vec![1; 1 << 20]);
        let _ = near.write.try_write(&mut chunk);
        let bell = Bell::new();
        assert!(bell.with(|cx| near.write.poll_writable(cx)).is_pending());
        if abort {
            far.abort();
        } else {
            drop(far);
        }
        assert!(bell.rang() > 0);
        let expected = if abort { WriteError::Reset } else { WriteError::Broken };
        assert_eq!(ready(near.write.try_writable()), Err(expected));
    }
}

#[test]
fn an_idle_connection_is_small() {
    // Both ends, the connection, the halves, two registry places and the port, as far as this crate
    // allocates them.
    let bytes = 2 * size_of::<End>() + size_of::<Conn>() + 4 * size_of::<ReadHalf>();
    assert!(bytes <= 1024, "{bytes} bytes");
}

#[test]
fn a_look_leaves_everything_as_it_is() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, mut far) = connected(&server, &client);
    let (bell, mut into) = (Bell::new(), [0; 8]);
    assert!(bell.with(|cx| far.read.peek_into(Some(cx), &mut into)).is_pending());
    send(&mut near, b"hello");
    assert_eq!(bell.rang(), 1);
    let owed = client.buffered_bytes();
    for _ in 0..2 {
        assert_eq!(ready(far.read.peek_into(None, &mut into)), Ok(5));
        assert_eq!(&into[..5], b"hello");
        assert_eq!(ready(far.read.peek_into(None, &mut into[..2])), Ok(2));
    }
    assert_eq!((client.buffered_bytes(), server.counters().tcp_bytes_received), (owed, 0));
    assert_eq!(drain(&mut far), b"hello");
    drop(near);
    assert_eq!(ready(far.read.peek_into(None, &mut into)), Ok(0), "the end");
}

/// Drops a stream when it is woken.
struct Dropping(Mutex<Option<Stream>>);

impl Wake for Dropping {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

/// What another thread drops while a reset is under way and has not come to it, here whoever is woken by the first part of that reset drops.
#[test]
fn what_is_dropped_while_its_member_is_being_reset_is_reset_to_the_peer() {
    let net = pod();
    let (server, client) = (join(&net, "server"), join(&net, "client"));
    let (_listener, mut near, far) = connected(&server, &client);
    let (_other_listener, mut other_near, other_far) = connected(&server, &client);
    // The first of both that the reset comes to has the other dropped.
    for (near, far) in [(&mut near, other_far), (&mut other_near, far)] {
        let waker = Waker::from(Arc::new(Dropping(Mutex::new(Some(far)))));
        let read = near.read.poll_read(&mut Context::from_waker(&waker), 1);
        assert!(read.is_pending());
    }
    server.reset();
    assert_eq!(read_all(&mut near), (vec![], Ending::Reset));
    assert_eq!(read_all(&mut other_near), (vec![], Ending::Reset));
}
