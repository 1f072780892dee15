#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::IoSlice;

use proptest::prelude::*;

use super::*;
use crate::net::tests::{Bell, Purse, after, join, pattern, pod};
use crate::net::{Member, MemberLimits};

fn pipe(member: &Member, capacity: usize) -> Pipe {
    Pipe::new(Arc::clone(&member.0), true, capacity / 2, capacity - capacity / 2)
}

fn waker(bell: &Arc<Bell>) -> Waker {
    Waker::from(Arc::clone(bell))
}

#[test]
fn a_large_write_is_read_as_the_very_same_memory() {
    let net = pod();
    let member = join(&net, "a");
    let mut pipe = pipe(&member, 128 * 1024);
    let data = Bytes::from(vec![7; 64 * 1024]);
    let (from, mut rest) = (data.as_ptr(), data);
    assert_eq!(pipe.push(&mut rest), Ok(64 * 1024));
    let (got, _) = pipe.pop(64 * 1024);
    assert_eq!((got.as_ptr(), got.len()), (from, 64 * 1024));
}

#[test]
fn many_small_writes_share_a_few_allocations() {
    let net = pod();
    let member = join(&net, "a");
    let mut pipe = pipe(&member, 128 * 1024);
    let mut written = 0;
    while pipe.push_slice(&[1]).unwrap() == 1 {
        written += 1;
    }
    assert_eq!(written, 128 * 1024);
    assert!(pipe.chunks.len() < 32, "{} chunks for single bytes", pipe.chunks.len());
    assert!(pipe.tail.capacity() <= TAIL_MAX);
}

#[test]
fn a_writer_that_filled_the_pipe_is_woken_when_half_is_read_and_not_before() {
    let net = pod();
    let member = join(&net, "a");
    let mut pipe = pipe(&member, 8192);
    let bell = Bell::new();
    assert_eq!(pipe.push(&mut Bytes::from(vec![0; 9000])), Ok(8192));
    assert_eq!(pipe.room(), Ok(0));
    pipe.wait_writable(&waker(&bell));
    let (_, woken) = pipe.pop(4095);
    assert!(woken.is_none());
    assert_eq!(pipe.room(), Ok(0), "still waits, though there is room: waking for a byte is waste");
    let (_, woken) = pipe.pop(1);
    woken.unwrap().wake();
    assert_eq!(bell.rang(), 1);
    assert_eq!(pipe.room(), Ok(4096));
}

#[test]
fn a_smaller_capacity_stops_the_writer_until_the_reader_has_caught_up() {
    let net = pod();
    let member = join(&net, "a");
    let mut pipe = pipe(&member, 16 * 1024);
    assert_eq!(pipe.push_slice(&[0; 12 * 1024]), Ok(12 * 1024));
    assert!(pipe.set_send_size(0).is_none());
    assert_eq!(pipe.room(), Ok(0));
    let bell = Bell::new();
    pipe.wait_writable(&waker(&bell));
    let (_, woken) = pipe.pop(8 * 1024);
    woken.expect("half of the new capacity is free").wake();
    assert_eq!(pipe.room(), Ok(4 * 1024));
}

#[test]
fn a_refused_charge_waits_while_bytes_are_under_way_and_fails_when_none_are() {
    let net = pod();
    let purse = Purse::of(8192);
    let member = net.join("a", MemberLimits::default(), purse.clone());
    let mut full = pipe(&member, 64 * 1024);
    assert_eq!(full.push_slice(&[0; 8192]), Ok(8192));
    assert_eq!(full.push_slice(&[0; 10]), Ok(0), "waits");
    let mut other = pipe(&member, 64 * 1024);
    assert_eq!(other.push_slice(&[0; 10]), Err(WriteError::NoMemory));
    let _ = full.pop(8192);
    assert_eq!(full.room(), Ok(64 * 1024));
    assert_eq!(other.push_slice(&[0; 10]), Ok(10), "what was read has been given back");
    drop((full, other));
    assert_eq!(purse.owed(), 0);
}

#[test]
fn an_idle_pipe_holds_no_buffer_and_at_most_two_steps_of_money() {
    let net = pod();
    let purse = Purse::of(1 << 20);
    let member = net.join("a", MemberLimits::default(), purse.clone());
    let mut pipe = pipe(&member, 128 * 1024);
    for size in [1, 100, 5000, 70_000] {
        assert_eq!(pipe.push_slice(&vec![0; size]), Ok(size));
        assert_eq!(pipe.push_slice(&[0; 3]), Ok(3));
        let mut into = vec![0; size + 3];
        assert_eq!(pipe.pop_into(&mut into).0, size + 3);
        assert_eq!((pipe.tail.capacity(), pipe.chunks.len()), (0, 0));
        assert_eq!(pipe.push_slice(&[0; 3]).and_then(|_| pipe.push_slice(&[0; 3])), Ok(3));
        while pipe.buffered() > 0 {
            let _ = pipe.pop(usize::MAX);
        }
        assert_eq!((pipe.tail.capacity(), pipe.chunks.len()), (0, 0));
        assert!(purse.owed() <= 2 * CHARGE_STEP, "{}", purse.owed());
    }
    let _ = pipe.finish();
    assert_eq!(purse.owed(), 0, "nothing is owed for a finished, empty pipe");
}

/// A block of memory that others can see go.
struct Block {
    bytes: Vec<u8>,
    _seen: Arc<()>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[test]
fn a_block_is_paid_for_until_its_last_byte_is_read() {
    const SIZE: usize = 64 * 1024;
    let net = pod();
    let purse = Purse::of(1 << 20);
    let member = net.join("a", MemberLimits::default(), purse.clone());
    let mut pipe = pipe(&member, 128 * 1024);
    for into in [false, true] {
        let seen = Arc::new(());
        let block = Bytes::from_owner(Block { bytes: vec![7; SIZE], _seen: Arc::clone(&seen) });
        assert_eq!(pipe.push(&mut block.clone()), Ok(SIZE));
        drop(block);
        if into {
            assert_eq!(pipe.pop_into(&mut vec![0; SIZE - 1]).0, SIZE - 1);
        } else {
            assert_eq!(pipe.pop(SIZE - 1).0.len(), SIZE - 1);
        }
        assert_eq!(Arc::strong_count(&seen), 2, "one byte keeps the whole block");
        assert!(purse.owed() >= SIZE, "{} paid for it", purse.owed());
        assert_eq!(pipe.pop(1).0.len(), 1);
        assert_eq!(Arc::strong_count(&seen), 1);
        assert!(purse.owed() <= CHARGE_STEP, "{}", purse.owed());
    }
}

/// A program may put what it takes into another connection, where only those bytes are paid for (`splice` of `wasi:io`).
#[test]
fn a_part_that_is_taken_keeps_no_more_than_itself_in_memory() {
    const SIZE: usize = 64 * 1024;
    let net = pod();
    let member = join(&net, "a");
    let mut pipe = pipe(&member, 256 * 1024);
    for parts in
        [&[1, SIZE - 1][..], &[SIZE - 1, 1], &[SIZE / 2, SIZE / 2], &[20_000, 20_000, SIZE]]
    {
        let seen = Arc::new(());
        let block = Bytes::from_owner(Block { bytes: vec![7; SIZE], _seen: Arc::clone(&seen) });
        assert_eq!(pipe.push(&mut block.clone()), Ok(SIZE));
        drop(block);
        let taken: Vec<Bytes> = parts.iter().map(|part| pipe.pop(*part).0).collect();
        assert_eq!((taken.iter().map(Bytes::len).sum::<usize>(), pipe.buffered()), (SIZE, 0));
        assert_eq!(Arc::strong_count(&seen), 1, "{parts:?}");
    }
    // The same where they are put in: a part of a block that there was no room for.
    let seen = Arc::new(());
    let mut block = Bytes::from_owner(Block { bytes: vec![7; 5 * SIZE], _seen: Arc::clone(&seen) });
    assert_eq!(pipe.push(&mut block), Ok(4 * SIZE));
    drop(block);
    assert_eq!(Arc::strong_count(&seen), 1);
    let _ = pipe.pop(4 * SIZE);
    // And of the memory that small writes are gathered in.
    assert_eq!(pipe.push_slice(&[1; 40_000]).and_then(|_| pipe.push_slice(&[2])), Ok(1));
    let room = pipe.tail.capacity();
    assert!(room > 30_000, "{room}");
    let _ = pipe.pop(40_000);
    let small = pipe.pop(1).0;
    let kept = bytes::BytesMut::from(small).capacity();
    assert!(kept < 100, "{kept}");
}

#[test]
fn room_to_grow_is_paid_for_and_done_without_where_there_is_no_memory() {
    let net = pod();
    for (limit, roomy) in [(1 << 20, true), (37 * 1024, false)] {
        let purse = Purse::of(limit);
        let member = net.join("a", MemberLimits::default(), purse.clone());
        let mut pipe = pipe(&member, 128 * 1024);
        assert_eq!(pipe.push_slice(&[0; 28 * 1024]), Ok(28 * 1024));
        assert_eq!(pipe.push_slice(&[1]), Ok(1));
        assert_eq!(pipe.tail.capacity() > 20 * 1024, roomy);
        assert!(purse.owed() >= 28 * 1024 + pipe.tail.capacity());
        // What comes behind it makes a chunk of it, whose room goes.
        assert_eq!(pipe.push(&mut Bytes::from(vec![2; 4096])), Ok(4096));
        let _ = pipe.pop(28 * 1024);
        assert!(purse.owed() <= 1 + 3 * CHARGE_STEP, "{}", purse.owed());
    }
}

#[derive(Clone, Debug)]
enum Step {
    PushOwned(usize),
    PushSlice(usize),
    PushParts(usize),
    Pop(usize),
    PopMany(usize),
    PopInto(usize),
    Peek(usize),
    Resize(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![1usize..40, 1usize..9000, 4000usize..4200];
    prop_oneof![
        3 => size().prop_map(Step::PushOwned),
        3 => size().prop_map(Step::PushSlice),
        2 => size().prop_map(Step::PushParts),
        2 => size().prop_map(Step::Pop),
        2 => size().prop_map(Step::PopMany),
        2 => size().prop_map(Step::PopInto),
        1 => size().prop_map(Step::Peek),
        1 => (1usize..20_000).prop_map(Step::Resize),
    ]
}

proptest! {
    /// The model is a queue of bytes. Bytes in are bytes out, in order; never more than the
    /// capacity was at the push; money follows memory; a waiting writer is woken as soon as it may
    /// go on.
    #[test]
    fn a_pipe_is_a_bounded_queue_of_bytes(steps in prop::collection::vec(step(), 1..120)) {
        let net = pod();
        let purse = Purse::of(1 << 24);
        let member = net.join("a", MemberLimits::default(), purse.clone());
        let mut pipe = pipe(&member, 10_000);
        let mut model = std::collections::VecDeque::<u8>::new();
        let mut counter = 0u8;
        let bell = Bell::new();
        let mut waiting = false;
        for step in steps {
            match step {
                Step::PushOwned(n) | Step::PushSlice(n) | Step::PushParts(n) => {
                    let data = pattern(counter, n);
                    counter = after(counter, n);
                    let room = pipe.room().unwrap();
                    let pushed = if matches!(step, Step::PushOwned(_)) {
                        let mut bytes = Bytes::from(data.clone());
                        let pushed = pipe.push(&mut bytes).unwrap();
                        prop_assert_eq!(&bytes[..], &data[pushed..]);
                        pushed
                    } else if matches!(step, Step::PushParts(_)) {
                        let (head, rest) = data.split_at(n.min(6));
                        pipe.push_parts(&[head, &[], rest].map(IoSlice::new)).unwrap()
                    } else {
                        pipe.push_slice(&data).unwrap()
                    };
                    prop_assert_eq!(pushed, room.min(n));
                    model.extend(&data[..pushed]);
                    prop_assert!(pushed == 0 || model.len() <= pipe.capacity());
                    if pushed == 0 {
                        pipe.wait_writable(&waker(&bell));
                        waiting = true;
                    }
                }
                Step::Pop(n) => {
                    if !model.is_empty() {
                        let (bytes, woken) = pipe.pop(n);
                        if let Some(w) = woken { w.wake() }
                        prop_assert!(!bytes.is_empty() && bytes.len() <= n);
                        let expected: Vec<u8> = model.drain(..bytes.len()).collect();
                        prop_assert_eq!(&bytes[..], &expected[..]);
                    }
                }
                Step::PopMany(n) => {
                    let mut chunks = VecDeque::new();
                    let (got, woken) = pipe.pop_many(n, 3, &mut chunks);
                    if let Some(w) = woken { w.wake() }
                    prop_assert!(got <= n && chunks.len() <= 3);
                    prop_assert!(got > 0 || model.is_empty());
                    let expected: Vec<u8> = model.drain(..got).collect();
                    prop_assert_eq!(chunks.into_iter().flatten().collect::<Vec<u8>>(), expected);
                }
                Step::PopInto(n) => {
                    let mut into = vec![0; n];
                    let (got, woken) = pipe.pop_into(&mut into);
                    if let Some(w) = woken { w.wake() }
                    prop_assert_eq!(got, n.min(model.len()));
                    let expected: Vec<u8> = model.drain(..got).collect();
                    prop_assert_eq!(&into[..got], &expected[..]);
                }
                Step::Peek(n) => {
                    let mut into = vec![0; n];
                    let got = pipe.peek_into(&mut into);
                    prop_assert_eq!(got, n.min(model.len()));
                    prop_assert!(into[..got].iter().eq(model.iter().take(got)));
                }
                Step::Resize(n) => {
                    if let Some(w) = pipe.set_send_size(n) { w.wake() }
                }
            }
            if bell.rang() > 0 {
                prop_assert!(pipe.room().unwrap() > 0, "woken for nothing");
                waiting = false;
            }
            prop_assert!(!waiting || pipe.room().unwrap() == 0, "left waiting beside room");
            prop_assert_eq!(pipe.buffered(), model.len());
            let chunks: usize = pipe.chunks.iter().map(Bytes::len).sum();
            let memory = pipe.front.len() + pipe.spent + chunks + pipe.tail.capacity();
            let owed = purse.owed();
            prop_assert!(owed >= memory && owed <= memory + 2 * CHARGE_STEP, "{owed} for {memory}");
        }
        drop(pipe);
        prop_assert_eq!(purse.owed(), 0);
    }
}
