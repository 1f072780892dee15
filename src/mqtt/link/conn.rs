//! One connection, from its first packet to the reason of its end.
//!
//! Owns: polling the library (and nothing else: who polls must never wait for whoever is served), the deadlines that the library lacks, and which
//! of several reasons for an end is told. Every connection has a fresh loop of the library, so that nothing of an earlier
//! one (its queued events, its packet ids, its half-done exchanges) can reach into it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Settings;
use super::dial::{Endpoint, Tls, dial};
use super::engine::{Arrived, CONNACK_TIMEOUT, Engine, Happened};
use super::inbox::Inbox;
use super::pump::{Door, Seen, pump};
use super::scan::Scanner;
use super::stats::LinkStats;
use super::window::{Ask, Window};
use crate::clock::Timestamp;
use crate::mqtt::tls::Choice;
use crate::mqtt::transport::{Body, Class, Closed, ConnId, Event, Limits, Message, Token, Version};

/// How often requests are looked at for being unanswered too long, and TLS files for having changed.
const LOOK: Duration = Duration::from_secs(10);

/// After the library's side has ended, how long the stream may take to say why, or to carry our goodbye.
const STREAM_END: Duration = Duration::from_secs(2);

/// The timer's clock as timestamps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks(Instant);

impl Ticks {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Timestamp {
        Timestamp::simulated(self.0.elapsed())
    }
}

/// What a connection's task shares with the front.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) tls: Option<Tls>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) stats: Arc<LinkStats>,
    pub(super) ticks: Ticks,
}

/// One connection.
#[allow(missing_debug_implementations, reason = "the library's loop has none")]
pub(super) struct Attempt {
    pub(super) conn: ConnId,
    pub(super) version: Version,
    pub(super) endpoint: Endpoint,
    pub(super) engine: Engine,
    pub(super) door: Door,
    pub(super) window: Arc<Mutex<Window>>,
    pub(super) seen: Arc<Seen>,
    pub(super) shared: Shared,
}

/// Aborts a task when dropped.
struct Guard<T>(JoinHandle<T>);

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a connection to its end and tells it, also if the library panics.
pub(super) async fn run(attempt: Attempt, stop: CancellationToken) {
    let (conn, shared) = (attempt.conn, attempt.shared.clone());
    shared.stats.attempt();
    let mut life = Guard(tokio::spawn(attempt.live()));
    let closed = tokio::select! {
        () = stop.cancelled() => Closed::ByUs,
        ended = &mut life.0 => match ended {
            Ok(closed) => closed,
            Err(error) => Closed::Internal(error.to_string()),
        },
    };
    shared.stats.closed(&closed);
    shared.inbox.tell(conn, Event::Closed(closed));
}

impl Attempt {
    async fn live(self) -> Closed {
        let Self { conn, version, endpoint, mut engine, door, window, seen, shared } = self;
        let dialled = timeout(CONNACK_TIMEOUT, dial(&endpoint, shared.tls.as_ref())).await;
        let (wire, choice) = match dialled {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(closed)) => return closed,
            Err(_) => return Closed::NoAnswer(CONNACK_TIMEOUT),
        };
        seen.asking();
        let server_name = shared.tls.as_ref().map(|tls| tls.name_for(&endpoint));
        let mut pump = {
            let keep_alive = shared.settings.keep_alive_seconds();
            let scanner = Scanner::new(version, shared.settings.message_bytes_max, keep_alive);
            let (seen, stats) = (Arc::clone(&seen), Arc::clone(&shared.stats));
            let name = server_name.unwrap_or_default();
            Guard(tokio::spawn(
                async move { pump(door, wire, &name, scanner, &seen, &stats).await },
            ))
        };
        let mut life = Life { conn, shared, seen, window, limits: None, choice, publishes: 0 };
        let ended = life.poll(&mut engine).await;
        // Closes the library's end, which is how the stream learns that it is over.
        drop(engine);
        let stream = timeout(STREAM_END, &mut pump.0).await.ok().and_then(Result::ok);
        let closed = tell(ended, stream);
        if life.limits.is_none() && closed.class() == Class::NeedsAPerson {
            life.refused_files().await;
        }
        closed
    }
}

/// The library sees only that its stream has ended; the stream knows why. All else the library knows better.
fn tell(library: Closed, stream: Option<Closed>) -> Closed {
    match (library, stream) {
        (Closed::ByPeer | Closed::Broken(_), Some(stream)) if stream != Closed::ByUs => stream,
        (Closed::NoAnswer(_), Some(stream @ (Closed::Tls(_) | Closed::OnlyV311))) => stream,
        (library, _) => library,
    }
}

struct Life {
    conn: ConnId,
    shared: Shared,
    seen: Arc<Seen>,
    window: Arc<Mutex<Window>>,
    limits: Option<Limits>,
    choice: Option<Choice>,
    publishes: u64,
}

impl Life {
    /// Polls until the end.
    async fn poll(&mut self, engine: &mut Engine) -> Closed {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The library pings at least this often, unless it is stuck writing to a peer that takes nothing.
            let patience = self.patience();
            // Never dropped half way: the library would lose the connection that it is making, or what it is writing.
            let mut turn = std::pin::pin!(timeout(patience, engine.poll()));
            let happened = loop {
                tokio::select! {
                    happened = &mut turn => break happened,
                    _ = look.tick() => if let Some(closed) = self.look().await {
                        return closed;
                    }
                }
            };
            let Ok(happened) = happened else { return Closed::Silent(patience) };
            match happened.and_then(|happened| self.take(happened)) {
                Ok(true) => {}
                Ok(false) => return Closed::ByUs,
                Err(closed) => return closed,
            }
            if self.limits.is_some() && self.choice.is_some() {
                self.accepted_files().await;
            }
        }
    }

    /// Half as much again as the time between two pings.
    fn patience(&self) -> Duration {
        match &self.limits {
            Some(limits) => limits.keep_alive.max(Duration::from_secs(5)) * 3 / 2,
            // The library has its own deadline for this, and ours must not be earlier.
            None => CONNACK_TIMEOUT + Duration::from_secs(5),
        }
    }

    /// Takes one thing that happened; false once we have said goodbye.
    fn take(&mut self, happened: Happened) -> Result<bool, Closed> {
        match happened {
            Happened::Connected(limits) => {
                self.lock().set_limit(limits.window);
                self.limits = Some(limits.clone());
                self.shared.stats.connected();
                self.tell(Event::Connected(limits));
            }
            Happened::Sent(ask, id) => {
                if !self.lock().sent(ask, id) {
                    return Err(Closed::Internal("requests went out in another order".to_owned()));
                }
            }
            Happened::Published(topic, arrived) => self.message(&topic, arrived)?,
            Happened::Acked(id, result) => {
                let token = self.answered(Ask::Publish, id)?;
                self.tell(Event::Acked { token, result });
            }
            Happened::Subscribed(id, filters) => {
                let token = self.answered(Ask::Subscribe, id)?;
                self.tell(Event::Subscribed { token, filters });
            }
            Happened::Unsubscribed(id) => {
                let token = self.answered(Ask::Unsubscribe, id)?;
                self.tell(Event::Unsubscribed(token));
            }
            Happened::SaidGoodbye => return Ok(false),
            Happened::Nothing => {}
        }
        Ok(true)
    }

    fn answered(&self, ask: Ask, id: u16) -> Result<Token, Closed> {
        let unasked =
            || Closed::Protocol(format!("an answer to a request that was not made ({id})"));
        self.lock().answered(ask, id).ok_or_else(unasked)
    }

    fn message(&mut self, topic: &[u8], arrived: Arrived) -> Result<(), Closed> {
        let index = self.publishes;
        self.publishes += 1;
        self.shared.stats.message_in();
        let Ok(topic) = std::str::from_utf8(topic) else {
            return Err(Closed::Protocol("a topic that is no UTF-8".to_owned()));
        };
        if topic.is_empty() {
            return Err(Closed::Protocol("a topic alias, which we never allow".to_owned()));
        }
        let body = match self.seen.take_cut(index) {
            Some(size) => {
                self.shared.stats.too_large();
                Body::TooLarge { size }
            }
            None => Body::Bytes(arrived.payload),
        };
        let message = Message { topic: topic.to_owned(), retained: arrived.retained, body };
        if !self.shared.inbox.message(self.conn, message, arrived.qos) {
            self.shared.stats.dropped();
        }
        Ok(())
    }

    /// What a timer must notice.
    async fn look(&mut self) -> Option<Closed> {
        let limits = self.limits.as_ref()?;
        let patience = limits.keep_alive.max(LOOK) * 3 / 2;
        let now = self.shared.ticks.now();
        if self.lock().oldest().is_some_and(|since| now.since(since) > patience) {
            return Some(Closed::NotAcknowledged(patience));
        }
        let tls = self.shared.tls.clone()?;
        let (due, complaint) = tls
            .with_files(|files| {
                let before = files.complaint().map(str::to_owned);
                let due = files.renewal_due();
                (
                    due,
                    files.complaint().map(str::to_owned).filter(|now| before.as_ref() != Some(now)),
                )
            })
            .await?;
        if let Some(complaint) = complaint {
            warn!(
                "the new TLS files cannot be used, the connection goes on with the old: {complaint}"
            );
        }
        due.then_some(Closed::Renewal)
    }

    async fn accepted_files(&mut self) {
        if let (Some(tls), Some(choice)) = (self.shared.tls.clone(), self.choice.take()) {
            tls.with_files(move |files| files.worked(&choice)).await;
        }
    }

    async fn refused_files(&mut self) {
        if let (Some(tls), Some(choice)) = (self.shared.tls.clone(), self.choice.take()) {
            tls.with_files(move |files| files.failed(&choice)).await;
        }
    }

    fn tell(&self, event: Event) {
        self.shared.inbox.tell(self.conn, event);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
