//! The pulling machine against a network that does everything a broker and a bad link do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use crate::artifact::serve;

use super::*;

const BLOCK: u32 = 1024;

fn digest() -> Digest {
    Digest::new([9; 32])
}

fn content(total: u64) -> Vec<u8> {
    (0..total).map(|n| u8::try_from((n * 31 + n / 1024) % 251).unwrap()).collect()
}

fn errand(total: u64, have: u64) -> Errand {
    let patience = Duration::from_secs(3600);
    Errand { transfer: 77, digest: digest(), total, have, block: BLOCK, patience }
}

fn at(ms: u64) -> Timestamp {
    Timestamp::simulated(Duration::from_millis(ms))
}

fn asks(out: &[Output]) -> Vec<(u64, u32)> {
    let ask = |o: &Output| match o {
        Output::Ask(request) => Some((request.offset, request.count)),
        Output::Write(_) | Output::WakeAt(_) | Output::Complete | Output::GiveUp => None,
    };
    out.iter().filter_map(ask).collect()
}

fn wake(out: &[Output]) -> Option<Timestamp> {
    out.iter().rev().find_map(|o| match o {
        Output::WakeAt(at) => Some(*at),
        Output::Ask(_) | Output::Write(_) | Output::Complete | Output::GiveUp => None,
    })
}

/// The message with the block at `offset`.
fn message(total: u64, offset: u64) -> Bytes {
    let content = content(total);
    let start = usize::try_from(offset).unwrap();
    let end = (start + BLOCK as usize).min(content.len());
    let body = Body::Data(&content[start..end]);
    Bytes::from(block::Block { transfer: 77, offset, total, body }.encode())
}

fn deliver(pull: &mut Pull, ms: u64, total: u64, nth: u64) -> Vec<Output> {
    pull.step(at(ms), Input::Message(message(total, nth * u64::from(BLOCK))))
}

#[test]
fn nothing_is_asked_without_a_connection() {
    let mut pull = Pull::new(errand(9000, 0), at(0));
    assert_eq!(pull.step(at(5), Input::Tick), []);
    let out = pull.step(at(10), Input::Connected);
    assert_eq!(asks(&out), [(0, 2)]);
    assert_eq!(pull.step(at(20), Input::Disconnected), []);
    assert_eq!(pull.step(at(99_000), Input::Tick), []);
    assert_eq!(asks(&pull.step(at(99_100), Input::Connected)), [(0, 2)]);
}

#[test]
fn a_transfer_goes_on_where_it_was() {
    let mut pull = Pull::new(errand(9000, 2048), at(0));
    assert_eq!(asks(&pull.step(at(0), Input::Connected)), [(2048, 2)]);
    // Nothing is missing: the digest is the caller's.
    let mut whole = Pull::new(errand(9000, 9000), at(0));
    assert_eq!(whole.step(at(0), Input::Tick), [Output::Complete]);
    assert_eq!(whole.step(at(0), Input::Connected), []);
}

#[test]
fn bytes_come_out_in_order_whatever_order_they_came_in() {
    let total = 4 * 1024;
    let mut pull = Pull::new(errand(total, 0), at(0));
    pull.step(at(0), Input::Connected);
    assert_eq!(pull.written(), 0);
    deliver(&mut pull, 1, total, 1);
    assert_eq!(pull.written(), 0);
    let out = deliver(&mut pull, 2, total, 0);
    let written: Vec<u8> = out
        .iter()
        .filter_map(|o| if let Output::Write(data) = o { Some(data.to_vec()) } else { None })
        .flatten()
        .collect();
    assert_eq!(written, content(total)[..2048]);
    assert_eq!(pull.written(), 2048);
}

#[test]
fn silence_is_answered_with_less_and_later() {
    let mut pull = Pull::new(errand(1 << 20, 0), at(0));
    let mut wake_at = wake(&pull.step(at(0), Input::Connected)).unwrap();
    let mut waits = Vec::new();
    let mut now = at(0);
    for _ in 0..7 {
        waits.push(wake_at.since(now).as_millis());
        now = wake_at;
        let out = pull.step(now, Input::Tick);
        assert_eq!(asks(&out), [(0, 1)], "one block, to see whether anybody is there");
        wake_at = wake(&out).unwrap();
    }
    assert!((1500..=1875).contains(&waits[0]), "{waits:?}");
    assert!(waits[1] >= 3000 && waits[5] >= 30_000 && waits[6] <= 37_500, "{waits:?}");
    // A tick before its time does nothing but name the time again.
    assert_eq!(asks(&pull.step(now.plus(Duration::from_secs(1)), Input::Tick)), []);
}

#[test]
fn a_hole_is_asked_for_again_when_three_came_from_behind_it() {
    let total = 1 << 20;
    let mut pull = Pull::new(errand(total, 0), at(0));
    pull.step(at(0), Input::Connected);
    for nth in 0..40 {
        deliver(&mut pull, nth, total, nth);
    }
    assert_eq!(pull.pace.window(), WINDOW_MAX);
    for nth in [41, 42] {
        assert_eq!(asks(&deliver(&mut pull, 50, total, nth)), []);
    }
    assert_eq!(asks(&deliver(&mut pull, 50, total, 43)), [(40 * 1024, 1)]);
    assert_eq!(asks(&deliver(&mut pull, 50, total, 44)), [], "not twice");
    assert_eq!((pull.tally().losses, pull.written()), (1, 40 * 1024));
    deliver(&mut pull, 60, total, 40);
    assert_eq!(pull.written(), 45 * 1024);
}

#[test]
fn rubbish_changes_nothing_and_is_counted() {
    let total = 9000;
    let mut pull = Pull::new(errand(total, 0), at(0));
    pull.step(at(0), Input::Connected);
    let block = |transfer, offset, total, length| {
        let data = vec![0; length];
        let body = Body::Data(&data);
        Bytes::from(block::Block { transfer, offset, total, body }.encode())
    };
    let mut damaged = message(total, 0).to_vec();
    damaged[40] ^= 1;
    for rubbish in [
        Bytes::from(damaged),
        Bytes::from_static(b"hello"),
        block(78, 0, total, 1024),     // another transfer
        block(77, 0, total + 1, 1024), // another artifact
        block(77, 1, total, 1024),     // off the grid
        block(77, 0, total, 1000),     // short
        block(77, 8192, total, 808),   // behind the window
    ] {
        assert!(
            !pull
                .step(at(5), Input::Message(rubbish))
                .iter()
                .any(|o| matches!(o, Output::Write(_)))
        );
    }
    assert_eq!((pull.tally().damaged, pull.tally().foreign, pull.tally().blocks), (2, 5, 0));
    deliver(&mut pull, 6, total, 0);
    deliver(&mut pull, 6, total, 0);
    assert_eq!((pull.tally().repeats, pull.written()), (1, 1024));
}

#[test]
fn what_a_publisher_says_is_kept_for_the_status() {
    let mut pull = Pull::new(errand(9000, 0), at(0));
    pull.step(at(0), Input::Connected);
    let request =
        BlockRequest { transfer: 77, digest: digest(), offset: 0, block: BLOCK, count: 1 };
    pull.step(at(1), Input::Message(serve::refuse(&request, 9000, "not any more").into()));
    assert_eq!(pull.tally().refusal.as_deref(), Some("not any more"));
}

#[test]
fn patience_ends_on_a_live_connection_only() {
    let patience = Duration::from_secs(60);
    let mut pull = Pull::new(Errand { patience, ..errand(9000, 0) }, at(0));
    pull.step(at(0), Input::Connected);
    pull.step(at(40_000), Input::Disconnected);
    pull.step(at(9_000_000), Input::Connected);
    let out = pull.step(at(9_019_000), Input::Tick);
    assert_eq!(wake(&out), Some(at(9_020_000)));
    assert_eq!(pull.step(at(9_020_000), Input::Tick), [Output::GiveUp]);
    assert_eq!(pull.step(at(9_020_001), Input::Message(message(9000, 0))), []);
}

/// A broker and a link: bytes take their time, one after the other; some messages meet with an accident.
struct Net {
    now: u64,
    bytes_per_second: u64,
    latency_ms: u64,
    /// When the link has carried what is on it.
    busy_until: u64,
    /// Most that waited for the link, milliseconds.
    queue_max: u64,
    arrivals: BTreeMap<(u64, u64), Bytes>,
    sent: u64,
    content: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Accident {
    None,
    Loss,
    Twice,
    Late(u64),
    Flip(usize),
}

impl Net {
    fn new(total: u64, bytes_per_second: u64, latency_ms: u64) -> Self {
        Self {
            now: 0,
            bytes_per_second,
            latency_ms,
            busy_until: 0,
            queue_max: 0,
            arrivals: BTreeMap::new(),
            sent: 0,
            content: content(total),
        }
    }

    fn request(&mut self, request: &BlockRequest, accidents: &mut dyn FnMut() -> Accident) {
        let parsed = BlockRequest::parse(&request.to_json()).unwrap();
        assert_eq!(parsed, *request);
        let content = std::mem::take(&mut self.content);
        let total = u64::try_from(content.len()).unwrap();
        let mut read = |offset: u64, into: &mut [u8]| {
            let start = usize::try_from(offset).unwrap();
            into.copy_from_slice(&content[start..start + into.len()]);
            Ok(())
        };
        for message in serve::answer(request, total, &mut read) {
            self.send(message.unwrap(), accidents());
        }
        self.content = content;
    }

    fn send(&mut self, mut message: Vec<u8>, accident: Accident) {
        let mut late = 0;
        let mut copies = 1;
        match accident {
            Accident::None => {}
            Accident::Loss => copies = 0,
            Accident::Twice => copies = 2,
            Accident::Late(by) => late = by,
            Accident::Flip(bit) => {
                let bit = bit % (message.len() * 8);
                message[bit / 8] ^= 1 << (bit % 8);
            }
        }
        for _ in 0..copies {
            let start = self.busy_until.max(self.now + self.latency_ms);
            let takes = message.len() as u64 * 1000 / self.bytes_per_second;
            self.busy_until = start + takes;
            self.queue_max = self.queue_max.max(self.busy_until - self.now);
            self.sent += 1;
            self.arrivals.insert((self.busy_until + late, self.sent), message.clone().into());
        }
    }

    /// Runs until the machine is done; what it wrote. `None`: it gave up, or took longer than `ms_max`.
    fn run(
        &mut self,
        pull: &mut Pull,
        ms_max: u64,
        accidents: &mut dyn FnMut() -> Accident,
    ) -> Option<Vec<u8>> {
        let mut written = Vec::new();
        let mut wake_at = None;
        let mut todo: VecDeque<Output> = pull.step(at(self.now), Input::Connected).into();
        loop {
            while let Some(output) = todo.pop_front() {
                match output {
                    Output::Ask(request) => self.request(&request, accidents),
                    Output::Write(data) => written.extend_from_slice(&data),
                    Output::WakeAt(at) => {
                        wake_at = Some(u64::try_from(at.mono().as_millis()).unwrap())
                    }
                    Output::Complete => return Some(written),
                    Output::GiveUp => return None,
                }
            }
            assert!(pull.held.len() < WINDOW_MAX as usize, "{} blocks in memory", pull.held.len());
            assert!(pull.asked.len() <= WINDOW_MAX as usize);
            let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
            let wake = wake_at.unwrap();
            if arrival.is_some_and(|arrival| arrival <= wake) {
                let ((when, _), message) = self.arrivals.pop_first().unwrap();
                self.now = self.now.max(when);
                todo.extend(pull.step(at(self.now), Input::Message(message)));
            } else {
                // The clock of the machine is finer than ours.
                self.now = self.now.max(wake + 1);
                todo.extend(pull.step(at(self.now), Input::Tick));
            }
            if self.now > ms_max {
                return None;
            }
        }
    }
}

#[test]
fn a_good_link_carries_each_block_once() {
    let total = 1_000_000;
    let mut net = Net::new(total, 1_000_000, 20);
    let mut pull = Pull::new(errand(total, 0), at(0));
    let written = net.run(&mut pull, 10_000, &mut || Accident::None).unwrap();
    assert!(written == content(total));
    assert_eq!(net.sent, total.div_ceil(u64::from(BLOCK)));
    assert_eq!(pull.tally().losses, 0);
    // Half a window is asked for at a time, once it is open.
    assert!(pull.tally().requests < 260, "{:?}", pull.tally());
}

#[test]
fn a_slow_link_is_not_stuffed() {
    // 32 KiB blocks at 10 kB/s: each takes longer than the first time-out.
    let total = 1_000_000;
    let block = block::BLOCK_BYTES_MAX;
    let mut net = Net::new(total, 10_000, 300);
    let mut pull = Pull::new(Errand { block, ..errand(total, 0) }, at(0));
    let written = net.run(&mut pull, 150_000, &mut || Accident::None).unwrap();
    assert!(written == content(total));
    let needed = total.div_ceil(u64::from(block));
    assert!(net.sent <= needed + 4, "{} blocks were sent for {needed}", net.sent);
    // A ping waits behind the queue; mosquitto's and our own keep-alive is 60 s.
    assert!(net.queue_max < 20_000, "{} ms of queue", net.queue_max);
}

#[test]
fn a_restart_goes_on_at_the_prefix() {
    let total = 300_000;
    let mut net = Net::new(total, 100_000, 50);
    let mut first = Pull::new(errand(total, 0), at(0));
    let mut left = 200;
    let mut die = || {
        left -= 1;
        if left < 0 { Accident::Loss } else { Accident::None }
    };
    assert_eq!(net.run(&mut first, 20_000, &mut die), None);
    // What was not synced is gone.
    let have = first.written() / 65_536 * 65_536;
    assert!(have > 0 && have < total);
    let mut second = Pull::new(errand(total, have), at(net.now));
    let tail = net.run(&mut second, net.now + 60_000, &mut || Accident::None).unwrap();
    assert!(tail == content(total)[usize::try_from(have).unwrap()..]);
}

fn accident() -> impl Strategy<Value = Accident> {
    prop_oneof![
        6 => Just(Accident::None),
        2 => Just(Accident::Loss),
        1 => Just(Accident::Twice),
        1 => (1u64..5000).prop_map(Accident::Late),
        1 => any::<usize>().prop_map(Accident::Flip),
    ]
}

proptest! {
    #[test]
    fn whatever_the_network_does_the_bytes_come_out_right(
        total in 1u64..60_000,
        have in 0u64..60_000,
        speed in prop_oneof![Just(2_000u64), Just(20_000), Just(1_000_000)],
        latency in 0u64..800,
        accidents in proptest::collection::vec(accident(), 1..60),
    ) {
        let mut net = Net::new(total, speed, latency);
        let mut pull = Pull::new(errand(total, have), at(0));
        let mut accidents = accidents.into_iter();
        // When the accidents are used up, the network is kind.
        let mut next = || accidents.next().unwrap_or(Accident::None);
        let written = net.run(&mut pull, 3_000_000, &mut next);
        let start = usize::try_from(have.min(total)).unwrap();
        prop_assert!(written.unwrap() == content(total)[start..]);
        prop_assert!(pull.step(at(net.now), Input::Tick).is_empty());
    }

    #[test]
    fn no_message_makes_it_panic_or_write(message: Vec<u8>, patch in 0usize..64, value: u8) {
        let total = 9000;
        let mut near = self::message(total, 0).to_vec();
        near[patch] = value;
        let mut pull = Pull::new(errand(total, 0), at(0));
        pull.step(at(0), Input::Connected);
        pull.step(at(1), Input::Message(message.into()));
        pull.step(at(2), Input::Message(near.into()));
        prop_assert!(pull.written() <= 1024);
    }
}
