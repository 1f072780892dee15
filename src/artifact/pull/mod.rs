//! Pulls an artifact over the broker, block by block: which to ask for, and when again.
//!
//! Owns: the window, the losses, the order of the bytes. Not: MQTT, the file, the digest (`fetch` drives this and writes
//! what comes out), nor how quickly to go (`pace`). Pure: time is an argument, what is to be done is returned.
//!
//! ```text
//!            next                next + window
//!   written ──┤ asked · held · asked · wanted ├── not yet
//!             └─► Write: in order, each byte once            held, out of order: at most window − 1 blocks
//!
//!   lost:  nothing at all has come for one time-out, or three blocks from behind it have
//! ```
//!
//! The broker drops what it likes (QoS 0), repeats what it likes, and may be lying: a block that is damaged, of another
//! transfer, out of the window or of the wrong length changes nothing. Wrong content with a right checksum is found by
//! the digest of the whole.

mod pace;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::image::Digest;

use super::block::{self, Body, HEADER_BYTES};
use super::request::BlockRequest;

use pace::{Pace, Took};

pub use pace::{TIMEOUT_FIRST, TIMEOUT_MAX, WINDOW_MAX};

/// Blocks that must come from behind a missing one before it counts as lost (as TCP's duplicate acknowledgements): a
/// broker with several threads may swap neighbours.
const PASSED_MAX: u8 = 3;

/// What is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    /// Random, so that late blocks of an earlier transfer are known as such.
    pub transfer: u32,
    pub digest: Digest,
    /// Bytes of the whole artifact.
    pub total: u64,
    /// Bytes from the start that are there already.
    pub have: u64,
    /// Bytes of a block to ask for.
    pub block: u32,
    /// Time on a live connection without one new block after which this is given up.
    pub patience: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The connection to the broker stands (again).
    Connected,
    Disconnected,
    /// A message on this transfer's topic.
    Message(Bytes),
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Publish this; it may be lost.
    Ask(BlockRequest),
    /// Append these bytes: they follow the ones before.
    Write(Bytes),
    /// Step again at that time, if nothing happens before.
    WakeAt(Timestamp),
    /// All bytes are written. Nothing comes after it.
    Complete,
    /// Nothing new has come for too long. Nothing comes after it.
    GiveUp,
}

/// What happened so far, for logs and statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    /// New blocks.
    pub blocks: u64,
    /// Blocks that had come before.
    pub repeats: u64,
    /// Messages that were no whole block.
    pub damaged: u64,
    /// Whole blocks that this transfer had not asked for.
    pub foreign: u64,
    /// Blocks asked for again.
    pub losses: u64,
    /// What a publisher said instead of sending, last.
    pub refusal: Option<String>,
}

/// The machine.
#[derive(Debug)]
pub struct Pull {
    errand: Errand,
    /// All bytes before it are written.
    next: u64,
    /// Blocks from behind a missing one.
    held: BTreeMap<u64, Bytes>,
    /// Blocks that were asked for and have not come.
    asked: BTreeMap<u64, Asked>,
    pace: Pace,
    connected: bool,
    over: bool,
    /// When the last new block came, or the connection.
    heard: Timestamp,
    /// Time on a live connection since the last new block, up to `seen`.
    quiet: Duration,
    seen: Timestamp,
    tally: Tally,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    first: Timestamp,
    /// `None`: lost, and to be asked for again.
    at: Option<Timestamp>,
    times: u32,
    /// Blocks that came from behind it since.
    passed: u8,
}

impl Pull {
    /// A machine without a connection. `have` may be any number up to `total`.
    #[must_use]
    pub fn new(errand: Errand, now: Timestamp) -> Self {
        Self {
            next: errand.have.min(errand.total),
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            pace: Pace::new(u64::from(errand.transfer)),
            connected: false,
            over: false,
            heard: now,
            quiet: Duration::ZERO,
            seen: now,
            tally: Tally::default(),
            errand: Errand { block: errand.block.max(1), ..errand },
        }
    }

    /// Bytes written so far, from the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.next
    }

    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// One step.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        if self.over {
            return out;
        }
        if self.connected {
            self.quiet = self.quiet.saturating_add(now.since(self.seen));
        }
        self.seen = now;
        match input {
            Input::Connected | Input::Disconnected => {
                self.connected = matches!(input, Input::Connected);
                self.asked.clear();
                self.pace.begin_anew();
                self.heard = now;
            }
            Input::Message(message) => self.take(now, &message, &mut out),
            Input::Tick => self.notice_silence(now),
        }
        if self.next >= self.errand.total {
            self.over = true;
            out.push(Output::Complete);
        } else if self.quiet >= self.errand.patience {
            self.over = true;
            out.push(Output::GiveUp);
        } else if self.connected {
            self.ask(now, &mut out);
            out.push(Output::WakeAt(self.wake_at(now)));
        }
        out
    }

    fn take(&mut self, now: Timestamp, message: &Bytes, out: &mut Vec<Output>) {
        let block = match block::decode(message) {
            Ok(block) => block,
            Err(_) => {
                self.tally.damaged += 1;
                return;
            }
        };
        if block.transfer != self.errand.transfer || block.total != self.errand.total {
            self.tally.foreign += 1;
            return;
        }
        let data = match block.body {
            Body::Data(data) => data,
            Body::Refused(reason) => {
                self.tally.refusal = Some(reason.to_owned());
                return;
            }
        };
        let offset = block.offset;
        if offset < self.next || self.held.contains_key(&offset) {
            self.tally.repeats += 1;
            return;
        }
        if !self.is_expected(offset, data.len()) {
            self.tally.foreign += 1;
            return;
        }
        self.tally.blocks += 1;
        self.note_arrival(now, offset);
        self.held.insert(offset, message.slice(HEADER_BYTES..));
        while let Some(data) = self.held.remove(&self.next) {
            self.next = self.next.saturating_add(data.len() as u64);
            out.push(Output::Write(data));
        }
    }

    /// Whether it is one of the blocks that the artifact is divided into, within the largest window, and whole.
    fn is_expected(&self, offset: u64, length: usize) -> bool {
        let Some(ahead) = offset.checked_sub(self.next) else { return false };
        let block = u64::from(self.errand.block);
        let Some(rest) = self.errand.total.checked_sub(offset) else { return false };
        ahead % block == 0
            && ahead / block < u64::from(WINDOW_MAX)
            && length as u64 == rest.min(block)
    }

    fn note_arrival(&mut self, now: Timestamp, offset: u64) {
        let asked = self.asked.remove(&offset);
        // How long a block took is known only if it was asked for once (Karn): else, which asking was answered?
        let took = asked.map(|asked| match asked.at {
            Some(at) if asked.times == 1 => Took::Exactly(now.since(at)),
            Some(_) | None => Took::AtMost(now.since(asked.first)),
        });
        self.pace.arrived(took, now.since(self.heard));
        self.heard = now;
        self.quiet = Duration::ZERO;
        let mut lost = 0;
        for asked in self.asked.range_mut(..offset).map(|(_, asked)| asked) {
            asked.passed = asked.passed.saturating_add(1);
            if asked.passed >= PASSED_MAX && asked.at.take().is_some() {
                lost += 1;
            }
        }
        if lost > 0 {
            self.tally.losses += lost;
            self.pace.lost_some();
        }
    }

    fn notice_silence(&mut self, now: Timestamp) {
        if !self.connected || self.silent_at().is_none_or(|at| now < at) {
            return;
        }
        for asked in self.asked.values_mut() {
            if asked.at.take().is_some() {
                self.tally.losses += 1;
            }
        }
        self.pace.timed_out();
    }

    /// When what is under way counts as lost: one time-out after the last sign of life.
    fn silent_at(&self) -> Option<Timestamp> {
        let oldest = self.asked.values().filter_map(|asked| asked.at).min()?;
        Some(oldest.max(self.heard).plus(self.pace.timeout()))
    }

    fn wake_at(&self, now: Timestamp) -> Timestamp {
        let give_up = now.plus(self.errand.patience.saturating_sub(self.quiet));
        self.silent_at().map_or(give_up, |at| at.min(give_up))
    }

    fn ask(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let under_way = self.asked.values().filter(|asked| asked.at.is_some()).count();
        let block = u64::from(self.errand.block);
        let window_end = self.next.saturating_add(block * u64::from(self.pace.window()));
        let end = window_end.min(self.errand.total);
        let is_wanted = |start: &u64| {
            let is_asked = self.asked.get(start).is_some_and(|asked| asked.at.is_some());
            !is_asked && !self.held.contains_key(start)
        };
        let wanted: Vec<u64> = (0..u64::from(WINDOW_MAX))
            .map(|nth| self.next.saturating_add(nth * block))
            .take_while(|start| *start < end)
            .filter(is_wanted)
            .collect();
        let is_again = wanted.iter().any(|start| self.asked.contains_key(start));
        // Few requests for many blocks: one whenever half a window is free.
        let enough = wanted.len() >= (self.pace.window() as usize).div_ceil(2);
        if wanted.is_empty() || !(enough || is_again || under_way == 0 || end == self.errand.total)
        {
            return;
        }
        for run in wanted.chunk_by(|a, b| a + block == *b) {
            self.tally.requests += 1;
            out.push(Output::Ask(BlockRequest {
                transfer: self.errand.transfer,
                digest: self.errand.digest,
                offset: run[0],
                block: self.errand.block,
                count: u32::try_from(run.len()).unwrap_or(WINDOW_MAX),
            }));
        }
        for start in wanted {
            let new = Asked { first: now, at: None, times: 0, passed: 0 };
            let asked = self.asked.entry(start).or_insert(new);
            let times = asked.times.saturating_add(1);
            *asked = Asked { first: asked.first, at: Some(now), times, passed: 0 };
        }
    }
}

#[cfg(test)]
mod tests;
