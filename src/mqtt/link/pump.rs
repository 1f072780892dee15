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

/// What pump and connection know of each other.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Messages that were cut down and that the library has yet to hand on.
    cuts: Mutex<Vec<Cut>>,
}

impl Seen {
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
        ended = outward(from_library, &mut to_broker, stats) => match ended {
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
    stats: &LinkStats,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..read]).await?;
        to.flush().await?;
        stats.bytes_out(read);
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
