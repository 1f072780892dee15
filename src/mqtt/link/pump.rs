//! Carries bytes between the broker's stream and the MQTT library, and looks them over on the way.
//!
//! `rumqttc` opens its own TCP connection or connects to a Unix socket; it has no other way in. So each connection has a listening
//! socket of its own in Linux' abstract namespace (no file, hence nothing on flash and nothing to clean up), under a random name, for
//! exactly one connection, which must come from this very process.
//!
//! ```text
//!  rumqttc ── abstract Unix socket ── pump: scan, count ── TLS ── TCP ── broker
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::dial::{Wire, broken};
use super::scan::{Cut, Scanner};
use super::stats::LinkStats;
use crate::error::chain;
use crate::mqtt::transport::Closed;

/// Bytes moved at once, each way.
const CHUNK: usize = 8 * 1024;

/// After our side of the stream has failed, what the broker said before is worth this wait: it says why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The library's DISCONNECT, its last packet, which leaves the session as it is.
const GOODBYE: [u8; 2] = [0xe0, 0];

/// The same that ends the session: normal disconnection, Session Expiry Interval 0 (MQTT 5, 3.14.2.2.2). The library cannot say it.
const GOODBYE_ENDING_SESSION: [u8; 9] = [0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0];

/// The door for one connection of the library.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    /// What the library takes for a path.
    pub(super) path: String,
}

impl Door {
    /// Opens a door under a fresh name.
    ///
    /// # Errors
    /// If the system has no randomness or no sockets left.
    pub(super) fn open() -> io::Result<Self> {
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        let path = format!("\0podling-mqtt-{:032x}", u128::from_be_bytes(name));
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Lets the library in, and nobody else.
    async fn enter(self) -> io::Result<UnixStream> {
        let us = i32::try_from(std::process::id()).ok();
        loop {
            let (stream, _) = self.listener.accept().await?;
            if stream.peer_cred()?.pid() == us {
                return Ok(stream);
            }
        }
    }
}

/// What pump, connection and link know of each other.
#[derive(Debug)]
pub(super) struct Seen {
    /// The broker keeps a session.
    has_session: bool,
    /// The broker was reached, over TLS if so configured: CONNECT is on its way.
    asked: AtomicBool,
    /// We take leave: the last packet is our goodbye.
    leaving: AtomicBool,
    /// Messages that were cut down and that the library has yet to hand on.
    cuts: Mutex<Vec<Cut>>,
}

impl Seen {
    pub(super) fn new(has_session: bool) -> Self {
        let (asked, leaving) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { has_session, asked, leaving, cuts: Mutex::default() }
    }

    /// The library is about to be told to say goodbye.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub(super) fn asking(&self) {
        self.asked.store(true, Ordering::Release);
    }

    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn ends_session(&self) -> bool {
        self.has_session && self.leaving.load(Ordering::Acquire)
    }

    /// Whether the message with this number was cut down; its size on the wire.
    pub(super) fn take_cut(&self, index: u64) -> Option<usize> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cuts.iter().position(|cut| cut.index == index)?;
        Some(cuts.swap_remove(found).size)
    }

    fn add(&self, cuts: impl Iterator<Item = Cut>) {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).extend(cuts);
    }
}

/// Pumps until either side ends; why.
pub(super) async fn pump(
    door: Door,
    wire: Box<dyn Wire>,
    server_name: &str,
    scanner: Scanner,
    seen: &Seen,
    stats: &Arc<LinkStats>,
) -> Closed {
    let library = match door.enter().await {
        Ok(stream) => stream,
        Err(error) => return Closed::Internal(chain(&error)),
    };
    let (from_library, to_library) = library.into_split();
    let (from_broker, mut to_broker) = tokio::io::split(wire);
    let mut inbound = std::pin::pin!(inward(from_broker, to_library, scanner, seen, stats));
    let outcome = tokio::select! {
        ended = &mut inbound => ended,
        ended = outward(from_library, &mut to_broker, seen, stats) => match ended {
            Ok(()) => {
                // The library is done: what it said last is on its way, then TLS says goodbye.
                let _ = tokio::time::timeout(LAST_WORDS, to_broker.shutdown()).await;
                return Closed::ByUs;
            }
            Err(error) => match tokio::time::timeout(LAST_WORDS, &mut inbound).await {
                Ok(ended) => ended,
                Err(_) => Inbound::Failed(error),
            },
        },
    };
    match outcome {
        Inbound::Closed(closed) => closed,
        Inbound::Failed(error) => broken(&error, server_name),
    }
}

enum Inbound {
    Closed(Closed),
    Failed(io::Error),
}

async fn inward(
    mut from: ReadHalf<Box<dyn Wire>>,
    mut to: OwnedWriteHalf,
    mut scanner: Scanner,
    seen: &Seen,
    stats: &LinkStats,
) -> Inbound {
    let (mut chunk, mut out) = (vec![0; CHUNK], Vec::with_capacity(CHUNK));
    loop {
        let read = match from.read(&mut chunk).await {
            Ok(0) => return Inbound::Closed(Closed::ByPeer),
            Ok(read) => read,
            Err(error) => return Inbound::Failed(error),
        };
        stats.bytes_in(read);
        out.clear();
        let scanned = scanner.feed(&chunk[..read], &mut out);
        seen.add(scanner.take_cuts());
        // The library has gone: whoever dropped it knows why.
        if to.write_all(&out).await.is_err() {
            return Inbound::Closed(Closed::ByUs);
        }
        if let Err(closed) = scanned {
            return Inbound::Closed(closed);
        }
    }
}

async fn outward(
    mut from: OwnedReadHalf,
    to: &mut WriteHalf<Box<dyn Wire>>,
    seen: &Seen,
    stats: &LinkStats,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    // Bytes that may be the goodbye: they are, if nothing follows.
    let mut held = 0;
    loop {
        let read = from.read(&mut chunk).await?;
        let last: &[u8] = match (read, held) {
            (0, 0) => return Ok(()),
            (0, _) => &GOODBYE_ENDING_SESSION,
            (_, 0) => &[],
            (_, _) => &GOODBYE,
        };
        to.write_all(last).await?;
        held = if seen.ends_session() && chunk[..read].ends_with(&GOODBYE) { 2 } else { 0 };
        to.write_all(&chunk[..read - held]).await?;
        to.flush().await?;
        stats.bytes_out(last.len() + read - held);
        if read == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[tokio::test]
    async fn a_door_lets_this_process_in_and_leaves_nothing_behind() {
        let door = Door::open().unwrap();
        let path = door.path.clone();
        let (entered, connected) = tokio::join!(door.enter(), UnixStream::connect(&path));
        assert!(entered.is_ok() && connected.is_ok());
        assert!(UnixStream::connect(&path).await.is_err(), "it was for one");
    }
}
