//! The stream protocol: permits, readiness that means progress, and ends.

use std::io;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use wasmtime_wasi_io::poll::Pollable as _;
use wasmtime_wasi_io::streams::{InputStream as _, OutputStream as _, StreamError};

use super::*;
use crate::net::{Family, Ledger, Listener, Stream};
use crate::wasi::io::answer;
use crate::wasi::sockets::p2::stream::{TcpInput, TcpOutput};

fn connected(server: &Member, client: &Member) -> (Listener, Stream, Stream) {
    let mut listener = server.listen("127.0.0.1:80".parse().unwrap()).unwrap();
    let Poll::Ready(near) = client.connect(listener.local_address()).unwrap().try_finish() else {
        panic!("the queue is empty");
    };
    let Poll::Ready(far) = listener.try_accept() else { panic!("someone is there") };
    (listener, near.unwrap(), far.unwrap())
}

/// Polls once.
fn now<T>(future: impl Future<Output = T>) -> Poll<T> {
    std::pin::pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn kind(error: &StreamError) -> io::ErrorKind {
    let StreamError::LastOperationFailed(error) = error else { panic!("{error:?}") };
    error.downcast_ref::<io::Error>().unwrap().kind()
}

#[test]
fn a_write_needs_a_permit_of_its_own() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, _far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    let trap = |outcome| assert!(matches!(outcome, Err(StreamError::Trap(_))), "{outcome:?}");
    trap(output.write(Bytes::from_static(b"x")));
    assert_eq!(output.check_write().unwrap(), 64 * 1024);
    trap(output.write(Bytes::from(vec![0; 64 * 1024 + 1])));
    assert_eq!(output.check_write().unwrap(), 64 * 1024);
    output.write(Bytes::from_static(b"x")).unwrap();
    trap(output.write(Bytes::from_static(b"x")));
    output.write(Bytes::new()).unwrap();
}

#[test]
fn readiness_to_write_comes_with_room_and_not_before() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, mut far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    let mut written = 0;
    loop {
        let permit = output.check_write().unwrap();
        assert_eq!(permit > 0, now(output.ready()).is_ready(), "ready exactly when there is room");
        if permit == 0 {
            break;
        }
        output.write(Bytes::from(vec![0; permit])).unwrap();
        written += permit;
    }
    assert_eq!(written, 128 * 1024);
    assert!(now(output.write_ready()).is_pending());
    assert!(now(output.blocking_write_and_flush(Bytes::from_static(b"x"))).is_pending());
    while far.read.try_read(10_000).map(|read| read.unwrap().len()).is_ready() {
        let ready = now(output.ready()).is_ready();
        assert_eq!(output.check_write().unwrap() > 0, ready);
    }
    assert!(matches!(now(output.write_ready()), Poll::Ready(Ok(room)) if room > 0));
}

#[test]
fn what_fills_the_connection_to_the_last_byte_is_written_and_does_not_wait() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, _far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    for _ in 0..32 {
        let outcome = now(output.blocking_write_and_flush(Bytes::from(vec![0; 4096])));
        assert!(matches!(outcome, Poll::Ready(Ok(()))), "a flush has nothing to wait for");
    }
    assert!(now(output.blocking_write_and_flush(Bytes::from_static(b"x"))).is_pending());
}

#[test]
fn a_read_says_once_that_an_answer_is_due() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, mut far) = connected(&server, &client);
    let (read, mut write) = near.into_split();
    let mut input = TcpInput::new(read);
    let due = |input: &mut TcpInput| {
        answer::clear();
        let bytes = input.read(10).unwrap();
        (bytes.len(), answer::is_due())
    };
    assert_eq!(due(&mut input), (0, true), "the other side may not have taken the connection yet");
    assert_eq!(due(&mut input), (0, false), "told already");
    let say = |half: &mut crate::net::WriteHalf| {
        assert!(half.try_write_slice(b"hello").is_ready());
    };
    say(&mut far.write);
    assert_eq!(due(&mut input), (5, false));
    assert_eq!(due(&mut input), (0, false), "nothing was asked");
    say(&mut write);
    assert_eq!(due(&mut input), (0, true), "asked, and not heard");
    assert_eq!(due(&mut input), (0, false));
    assert!(far.read.try_read(10).is_ready());
    say(&mut far.write);
    assert_eq!(due(&mut input), (5, false));
    say(&mut write);
    assert!(far.read.try_read(10).is_ready());
    assert_eq!(due(&mut input), (0, false), "the question was heard: the answer takes its time");
}

#[test]
fn a_read_tells_nothing_yet_from_the_end() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, far) = connected(&server, &client);
    let mut input = TcpInput::new(near.into_split().0);
    let mut output = TcpOutput::new(far.into_split().1);
    assert!(input.read(10).unwrap().is_empty());
    assert!(now(input.ready()).is_pending());
    assert!(now(input.blocking_read(10)).is_pending());
    output.check_write().unwrap();
    output.write(Bytes::from_static(b"hello")).unwrap();
    assert!(now(input.ready()).is_ready());
    assert!(input.read(0).unwrap().is_empty());
    assert_eq!(input.read(2).unwrap(), "he");
    assert!(matches!(now(input.blocking_read(10)), Poll::Ready(Ok(bytes)) if bytes == "llo"));
    drop(output);
    assert!(now(input.ready()).is_ready());
    assert!(matches!(input.read(10), Err(StreamError::Closed)));
    assert!(matches!(now(input.blocking_read(10)), Poll::Ready(Err(StreamError::Closed))));
}

#[test]
fn a_read_of_nothing_finds_the_end_and_leaves_an_error_to_be_told() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, far) = connected(&server, &client);
    let mut input = TcpInput::new(near.into_split().0);
    assert!(input.read(0).unwrap().is_empty(), "nothing has come");
    far.abort();
    assert!(input.read(0).unwrap().is_empty(), "it asks for nothing, and takes nothing");
    assert_eq!(kind(&input.read(10).unwrap_err()), io::ErrorKind::ConnectionReset);
    assert!(matches!(input.read(0), Err(StreamError::Closed)));
    assert!(matches!(now(input.blocking_read(0)), Poll::Ready(Err(StreamError::Closed))));
}

#[test]
fn the_death_of_the_other_side_is_an_error_with_a_code() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, _far) = connected(&server, &client);
    let (read, write) = near.into_split();
    let (mut input, mut output) = (TcpInput::new(read), TcpOutput::new(write));
    server.reset();
    assert!(now(input.ready()).is_ready() && now(output.ready()).is_ready());
    assert_eq!(kind(&input.read(10).unwrap_err()), io::ErrorKind::ConnectionReset);
    assert_eq!(kind(&output.check_write().unwrap_err()), io::ErrorKind::ConnectionReset);
}

#[test]
fn an_orderly_close_of_the_other_side_closes_the_output() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    drop(far);
    assert!(now(output.ready()).is_ready());
    assert!(matches!(output.check_write(), Err(StreamError::Closed)));
}

/// A purse that can be closed at any moment.
#[derive(Debug, Default)]
struct Tap(std::sync::atomic::AtomicBool);

impl Ledger for Tap {
    fn try_charge(&self, _: usize) -> bool {
        !self.0.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn release(&self, _: usize) {}
}

impl Tap {
    fn close(&self, closed: bool) {
        self.0.store(closed, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn a_permitted_write_that_finds_no_memory_is_held_and_goes_first_when_there_is_some() {
    let pod = pod();
    let tap = Arc::new(Tap::default());
    let server = join(&pod, "s");
    let client = pod.join("c", MemberLimits::default(), tap.clone());
    let (_listener, near, mut far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    output.check_write().unwrap();
    output.write(Bytes::from(vec![1; 4096])).unwrap();
    assert!(output.check_write().unwrap() >= 5);
    tap.close(true);
    output.write(Bytes::from_static(b"held!")).unwrap();
    assert_eq!(output.check_write().unwrap(), 0);
    assert!(now(output.ready()).is_pending());
    assert!(now(output.cancel()).is_pending(), "a drop waits for it");
    assert!(matches!(far.read.try_read(9000), Poll::Ready(Ok(bytes)) if bytes.len() == 4096));
    tap.close(false);
    assert!(now(output.ready()).is_ready());
    assert!(matches!(far.read.try_read(9000), Poll::Ready(Ok(bytes)) if bytes == "held!"));
    assert!(now(output.cancel()).is_ready());
}

#[test]
fn a_permitted_write_that_is_lost_for_want_of_memory_resets_the_connection() {
    let pod = pod();
    let tap = Arc::new(Tap::default());
    let server = join(&pod, "s");
    let client = pod.join("c", MemberLimits::default(), tap.clone());
    let (_listener, near, mut far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    output.check_write().unwrap();
    tap.close(true);
    let error = output.write(Bytes::from_static(b"lost")).unwrap_err();
    assert_eq!(kind(&error), io::ErrorKind::OutOfMemory);
    assert!(matches!(far.read.try_read(9), Poll::Ready(Err(crate::net::ReadError::Reset))));
}

#[test]
fn a_failure_is_told_once_and_the_stream_is_closed_from_then_on() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, _far) = connected(&server, &client);
    let (read, write) = near.into_split();
    let (mut input, mut output) = (TcpInput::new(read), TcpOutput::new(write));
    server.reset();
    assert!(now(output.ready()).is_ready() && now(input.ready()).is_ready(), "and takes nothing");
    assert_eq!(kind(&output.check_write().unwrap_err()), io::ErrorKind::ConnectionReset);
    assert_eq!(kind(&input.read(1).unwrap_err()), io::ErrorKind::ConnectionReset);
    for _ in 0..2 {
        assert!(matches!(output.check_write(), Err(StreamError::Closed)));
        assert!(matches!(output.flush(), Err(StreamError::Closed)));
        assert!(matches!(now(output.write_ready()), Poll::Ready(Err(StreamError::Closed))));
        assert!(matches!(input.read(1), Err(StreamError::Closed)));
        assert!(now(output.ready()).is_ready() && now(input.ready()).is_ready());
    }
}

#[test]
fn a_writer_of_mebibytes_against_a_stalled_reader_stays_within_its_bound() {
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let (_listener, near, mut far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    let mut rest = Bytes::from(vec![7; 1 << 20]);
    let mut written = 0;
    // As a program writes: what it is permitted of its chunk, again and again.
    loop {
        let permit = output.check_write().unwrap();
        if permit == 0 {
            break;
        }
        let part = rest.split_to(permit.min(rest.len()));
        written += part.len();
        output.write(part).unwrap();
    }
    assert_eq!(written, 128 * 1024, "to the byte");
    assert!(client.buffered_bytes() <= 128 * 1024);
    assert!(now(output.blocking_write_and_flush(rest.clone())).is_pending());
    assert!(client.buffered_bytes() <= 128 * 1024);
    let mut received = 0;
    while let Poll::Ready(Ok(bytes)) = far.read.try_read(usize::MAX) {
        received += bytes.len();
    }
    assert_eq!(received, written);
}

#[test]
fn a_write_of_nothing_needs_no_permit_and_loses_nothing_that_is_held() {
    let pod = pod();
    let tap = Arc::new(Tap::default());
    let server = join(&pod, "s");
    let client = pod.join("c", MemberLimits::default(), tap.clone());
    let (_listener, near, mut far) = connected(&server, &client);
    let mut output = TcpOutput::new(near.into_split().1);
    output.check_write().unwrap();
    output.write(Bytes::from(vec![1; 4096])).unwrap();
    output.check_write().unwrap();
    tap.close(true);
    output.write(Bytes::from_static(b"held!")).unwrap();
    assert_eq!(output.check_write().unwrap(), 0);
    output.write(Bytes::new()).unwrap();
    tap.close(false);
    assert!(matches!(far.read.try_read(9000), Poll::Ready(Ok(bytes)) if bytes.len() == 4096));
    assert!(now(output.ready()).is_ready());
    assert!(matches!(far.read.try_read(9000), Poll::Ready(Ok(bytes)) if bytes == "held!"));
}

#[test]
fn what_a_stream_holds_is_on_the_modules_account() {
    const PERMIT: usize = 64 * 1024;
    let pod = pod();
    let (server, client) = (join(&pod, "s"), join(&pod, "c"));
    let mut listener = server.listen("127.0.0.1:80".parse().unwrap()).unwrap();
    let mut socket = client.tcp_socket(Family::V4).unwrap();
    socket.connect(listener.local_address()).unwrap();
    assert!(socket.try_connected().is_ready());
    let Poll::Ready(far) = listener.try_accept_socket() else { panic!("someone is there") };
    let mut far = far.unwrap();
    let mut output = TcpOutput::new(socket.take_write().unwrap());
    assert_eq!(output.check_write().unwrap(), PERMIT);
    // The buffers get smaller between the permit and the write.
    socket.set_send_buffer_size(1).unwrap();
    far.set_receive_buffer_size(1).unwrap();
    output.write(Bytes::from(vec![7; PERMIT])).unwrap();
    assert_eq!(output.check_write().unwrap(), 0, "most of it is held");
    assert!(client.buffered_bytes() >= PERMIT, "{}", client.buffered_bytes());
    drop((output, far, socket));
    assert_eq!(client.buffered_bytes(), 0);
}
