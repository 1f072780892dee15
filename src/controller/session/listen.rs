//! A session's beginning, and every later one: connecting, subscribing, taking in what is retained.
//!
//! Retained messages have no end mark. They come in a burst after the subscription, so the burst is taken to be over when nothing
//! came for twice the time that the subscription's own answer took, and half a second at least ([`Session::settle`]).

use std::time::Duration;

use super::{ANSWER, QUIET, Session, SessionError, Step};
use crate::clock::Timestamp;
use crate::mqtt::controller::Fleet;
use crate::mqtt::transport::{Closed, Event, Limits, NotTaken, Transport};

/// Filters of one SUBSCRIBE: what hosted brokers take.
const FILTERS_MAX: usize = 8;

/// The longest that the burst is waited for: 100,000 statuses at 1 MB/s.
const SETTLE: Duration = Duration::from_secs(120);

/// Times that retained messages are asked for again because they came faster than they were taken.
const OVERRUNS_MAX: u32 = 5;

impl<T: Transport> Session<T> {
    /// Connects, trying each broker once.
    ///
    /// # Errors
    /// None of them can be reached, or wants this client.
    pub async fn connect(&mut self) -> Result<Limits, SessionError> {
        self.connected = false;
        self.offers.forget();
        self.outgoing.clear();
        let (mut failures, mut downgrades, mut why) = (0, 0, vec![]);
        while failures < self.brokers.max(1) {
            let ours = self.transport.connect(None);
            let outcome = loop {
                match self.transport.next().await {
                    (conn, Event::Connected(limits)) if conn == ours => break Ok(limits),
                    (conn, Event::Closed(closed)) if conn == ours => break Err(closed),
                    (_, _) => {}
                }
            };
            match outcome {
                Ok(limits) => {
                    self.connected = true;
                    self.pace.connected(self.now());
                    return Ok(limits);
                }
                // The same broker, in its own language: once for each of them, since the settings may forbid it.
                Err(Closed::OnlyV311) if downgrades < self.brokers.max(1) => downgrades += 1,
                Err(closed) => {
                    failures += 1;
                    if !why.contains(&closed) {
                        why.push(closed);
                    }
                }
            }
        }
        Err(SessionError::NotReached { broker: self.broker.clone(), why })
    }

    /// Subscribes, in place of what was subscribed before, and waits for the broker's word on it.
    ///
    /// # Errors
    /// The broker refuses a filter, or the connection breaks.
    pub async fn listen(&mut self, filters: Vec<String>) -> Result<(), SessionError> {
        self.filters = filters;
        self.subscribe().await
    }

    /// The same as before, on a new connection. What stands at the broker is read anew.
    ///
    /// # Errors
    /// As [`Session::listen`].
    pub async fn listen_again(&mut self) -> Result<(), SessionError> {
        self.documents.clear();
        self.subscribe().await
    }

    async fn subscribe(&mut self) -> Result<(), SessionError> {
        for filters in self.filters.clone().chunks(FILTERS_MAX) {
            let begun = self.now();
            let until = begun.plus(ANSWER);
            let token = loop {
                match self.transport.subscribe(filters) {
                    Ok(token) => break token,
                    Err(NotTaken::Busy) => drop(self.patiently(until).await?),
                    Err(source) => {
                        return Err(SessionError::NotTaken { topic: filters[0].clone(), source });
                    }
                }
            };
            let results = loop {
                if let Step::Subscribed(found, results) = self.patiently(until).await?
                    && found == token
                {
                    break results;
                }
            };
            self.quiet = QUIET.max(self.now().since(begun) * 2);
            self.last_message = self.now();
            for (filter, result) in filters.iter().zip(results) {
                if let Err(source) = result {
                    let (broker, filter) = (self.broker.clone(), filter.clone());
                    return Err(SessionError::NotReadable { broker, filter, source });
                }
            }
        }
        Ok(())
    }

    /// Takes in what is retained, until there seems to be no more.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn settle(&mut self) -> Result<(), SessionError> {
        self.settle_unless(|_| false).await
    }

    /// The same, but no longer than until what is wanted is there.
    ///
    /// # Errors
    /// As [`Session::settle`].
    pub async fn settle_unless(
        &mut self,
        is_enough: impl Fn(&Fleet) -> bool,
    ) -> Result<(), SessionError> {
        let end = self.now().plus(SETTLE);
        let mut overruns = 0;
        loop {
            if is_enough(&self.fleet) {
                return Ok(());
            }
            let quiet = self.last_message.plus(self.quiet);
            let now = self.now();
            if now >= quiet || now >= end {
                if !self.overrun {
                    return Ok(());
                }
                // What came too fast was dropped; what is known already is taken in quickly.
                self.overrun = false;
                overruns += 1;
                if overruns > OVERRUNS_MAX {
                    let text = "some of what is retained came faster than it could be taken in: the picture is incomplete";
                    self.complaints.insert(text.to_owned());
                    return Ok(());
                }
                self.subscribe().await?;
                continue;
            }
            self.step(quiet.min(end)).await?;
        }
    }

    /// Connects again, as often as the time allows, and reads anew what is retained.
    ///
    /// # Errors
    /// The last failure, when the time is over.
    pub async fn come_back(
        &mut self,
        until: Timestamp,
        lost: SessionError,
    ) -> Result<(), SessionError> {
        let mut last = lost;
        loop {
            let now = self.now();
            let closed = if let SessionError::Lost { source, .. } = &last {
                source.clone()
            } else {
                Closed::ByPeer
            };
            // Spread over the whole range: several laptops come back at different times.
            let chance = now.mono().subsec_nanos().wrapping_mul(0x9e37_79b9);
            let again = now.plus(self.pace.closed(now, &closed, chance).after);
            if again >= until {
                return Err(last);
            }
            tokio::time::sleep_until(self.instant(again)).await;
            match self.begin_anew().await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
    }

    async fn begin_anew(&mut self) -> Result<(), SessionError> {
        self.connect().await?;
        self.listen_again().await?;
        self.settle().await
    }
}
