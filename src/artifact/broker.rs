//! The broker as a source: between the link, which has the connection, and the pulling machines, which know what to ask.
//!
//! Owns: which message is for which transfer, and driving one machine. Not: MQTT (the link implements [`BlockChannel`] and
//! calls [`Blocks::deliver`]), nor the machine's decisions (`pull`).
//!
//! ```text
//!  link ──deliver(payload)──► Blocks ──inbox of the transfer (bounded, drops)──► machine ──► intake
//!       ◄──────────────────────ask(request)────────────────────────────────────────┘
//! ```
//!
//! Whatever is dropped is asked for again: that is what the machine is for. So nothing here ever waits for anybody.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::clock::{Clock, Timestamp};

use super::block::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, HEADER_BYTES, transfer_of};
use super::failure::SourceError;
use super::intake::Intake;
use super::pull::{Errand, Input, Output, Pull, WINDOW_MAX};
use super::request::BlockRequest;

/// Blocks that wait for one transfer. Two windows: repeats of a lossy link must not push out what is new.
const INBOX_MAX: usize = 2 * WINDOW_MAX as usize;

/// Bytes around a payload in a packet, at most: headers, topic (256 bytes), properties.
const PACKET_OVERHEAD: usize = 1024;

/// Time on a live connection without a new block before the broker is given up as a source.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// Time without a connection after which the next source is asked.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// How long the broker is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// On a live connection, without a new block.
    pub(super) quiet: Duration,
    /// Nobody else can be asked: without a connection it waits for one.
    pub(super) waits_for_link: bool,
}

/// The link cannot take the request now. It may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker is away or busy")]
pub struct NotNow;

/// What the link does for transfers.
pub trait BlockChannel: Send + Sync + Debug {
    /// Publishes a request, QoS 0. Returns at once.
    ///
    /// # Errors
    ///
    /// There is no connection, or no room; the request is forgotten.
    fn ask(&self, request: &BlockRequest) -> Result<(), NotNow>;

    /// Largest packet that the broker lets through to us, bytes.
    fn packet_bytes_max(&self) -> usize;
}

/// Hands blocks to transfers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blocks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    channel: Arc<dyn BlockChannel>,
    connected: watch::Sender<bool>,
    inboxes: Mutex<BTreeMap<u32, mpsc::Sender<Bytes>>>,
}

impl Blocks {
    /// A hub over a link that has no connection yet.
    #[must_use]
    pub fn new(channel: Arc<dyn BlockChannel>) -> Self {
        let (connected, _) = watch::channel(false);
        Self(Arc::new(Inner { channel, connected, inboxes: Mutex::default() }))
    }

    /// Takes a message of `…/blob/…`. Never waits; what nobody expects, or has no room for, is dropped.
    pub fn deliver(&self, message: Bytes) {
        let Some(transfer) = transfer_of(&message) else { return };
        let inbox = self.inboxes().get(&transfer).cloned();
        if let Some(inbox) = inbox {
            // Full: it will be asked for again.
            let _ = inbox.try_send(message);
        }
    }

    /// Says that the connection stands, subscriptions included; or that it does not.
    pub fn connected(&self, connected: bool) {
        self.0.connected.send_replace(connected);
    }

    fn inboxes(&self) -> MutexGuard<'_, BTreeMap<u32, mpsc::Sender<Bytes>>> {
        self.0.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn inboxes_open(&self) -> usize {
        self.inboxes().len()
    }

    /// Opens an inbox under a number that nobody has.
    fn open(&self) -> Inbox {
        let (sender, messages) = mpsc::channel(INBOX_MAX);
        let mut inboxes = self.inboxes();
        let random = RandomState::new();
        let transfer = (0_u64..)
            .map(|nth| {
                let mut hasher = random.build_hasher();
                hasher.write_u64(nth);
                let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
                u32::from_be_bytes([a, b, c, d])
            })
            .find(|transfer| !inboxes.contains_key(transfer))
            .unwrap_or_default();
        inboxes.insert(transfer, sender);
        Inbox { blocks: self.clone(), transfer, messages }
    }

    /// Brings what is missing.
    pub(super) async fn pull(
        &self,
        clock: Clock,
        patience: Patience,
        intake: &mut Intake,
    ) -> Result<(), SourceError> {
        let Some(total) = intake.total() else {
            let (place, what) = ("mqtt:".to_owned(), "no size is given".to_owned());
            return Err(SourceError::Protocol { place, what });
        };
        // A machine's blocks follow each other from where it begins; what is gathered is written first.
        intake.flush().await?;
        let mut inbox = self.open();
        let errand = Errand {
            transfer: inbox.transfer,
            digest: intake.digest(),
            total,
            have: intake.length(),
            block: block_size(self.0.channel.packet_bytes_max()),
            patience: patience.quiet,
        };
        let mut pull = Pull::new(errand, clock.now());
        let mut connected = self.0.connected.subscribe();
        let mut input = Input::Tick;
        if *connected.borrow_and_update() {
            input = Input::Connected;
        }
        loop {
            let outputs = pull.step(clock.now(), input);
            let Some(mut wake) = self.carry_out(outputs, &pull, patience.quiet, intake).await?
            else {
                let tally = pull.tally();
                tracing::debug!(digest = %intake.digest(), ?tally, "pulled over the broker");
                return Ok(());
            };
            let away = !*connected.borrow() && !patience.waits_for_link;
            if away {
                wake = clock.now().plus(AWAY_MAX);
            }
            input = tokio::select! {
                biased;
                changed = connected.changed() => match changed {
                    Ok(()) if *connected.borrow_and_update() => Input::Connected,
                    Ok(()) => Input::Disconnected,
                    Err(_) => return Err(SourceError::NoBroker),
                },
                Some(message) = inbox.messages.recv() => Input::Message(message),
                () = sleep_until(clock.instant(wake).into()) => {
                    if away {
                        return Err(SourceError::NoBroker);
                    }
                    Input::Tick
                }
            };
        }
    }

    /// When to look again; `None`: all is here.
    async fn carry_out(
        &self,
        outputs: Vec<Output>,
        pull: &Pull,
        patience: Duration,
        intake: &mut Intake,
    ) -> Result<Option<Timestamp>, SourceError> {
        let mut wake = Timestamp::new(Duration::MAX, 0);
        for output in outputs {
            match output {
                Output::Ask(request) => {
                    if let Err(NotNow) = self.0.channel.ask(&request) {
                        tracing::debug!("a block request waits for its time-out");
                    }
                }
                Output::Write(data) => intake.put(&data).await?,
                Output::WakeAt(at) => wake = at,
                Output::Complete => {
                    intake.flush().await?;
                    return Ok(None);
                }
                Output::GiveUp => {
                    intake.flush().await?;
                    let refusal = pull.tally().refusal.clone();
                    return Err(SourceError::Silent { patience, refusal });
                }
            }
        }
        Ok(Some(wake))
    }
}

/// One transfer's messages; closed when dropped.
#[derive(Debug)]
struct Inbox {
    blocks: Blocks,
    transfer: u32,
    messages: mpsc::Receiver<Bytes>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.blocks.inboxes().remove(&self.transfer);
    }
}

/// The block that fits into a packet.
fn block_size(packet_bytes_max: usize) -> u32 {
    let room = packet_bytes_max.saturating_sub(PACKET_OVERHEAD + HEADER_BYTES);
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    (room / BLOCK_BYTES_MIN * BLOCK_BYTES_MIN).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_block_fits_into_the_packet_that_the_broker_takes() {
        for (packet, block) in [
            (256 * 1024, 32 * 1024),
            (34 * 1024, 32 * 1024),
            (10_240, 8 * 1024),
            (4096, 2 * 1024),
            (100, 1024),
            (usize::MAX, 32 * 1024),
        ] {
            assert_eq!(block_size(packet), block, "{packet}");
        }
    }
}
