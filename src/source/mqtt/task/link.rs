//! The source's side of the link: what comes from the broker becomes an input, what is to be said goes out as it is taken.

use bytes::Bytes;
use tracing::{debug, info, warn};

use super::{LinkState, MqttSource, Subscribing};
use crate::mqtt::envelope::ENVELOPE_BYTES_MAX;
use crate::mqtt::protocol::Input;
use crate::mqtt::topic::Inbound;
use crate::mqtt::transport::{
    Body, Class, Closed, Event, Message, NotTaken, Outgoing, Qos, Refused, Token, Transport,
};
use crate::source::mqtt::{Artifacts, Node};

/// What is added where another time on this node's clock would help.
const TIME: &str = "; it is tried again as soon as the clock is set";

/// What is added where a broker takes us and closes the connection soon after, again and again.
const SUSPICION: &str = ", soon after it took this node, several times in a row: is there another client with this client id?";

impl<T: Transport, N: Node, A: Artifacts> MqttSource<T, N, A> {
    pub(super) fn link(&mut self, event: Event) {
        match event {
            Event::Connected(limits) => {
                info!(broker = self.broker, version = %limits.version, "connected to the broker");
                self.reconnect.connected(self.clock.now());
                self.show(LinkState::Connected { broker: self.broker.clone(), limits });
                self.ready.push_back(Input::Connected);
            }
            Event::Subscribed { token, filters } => self.subscribed(token, filters),
            Event::Unsubscribed(_) => {}
            Event::Acked { token, result } => {
                if let (Some(topic), Err(refused)) = (self.outbox.acked(token), result) {
                    let why = refused.to_string();
                    self.ready.push_back(Input::PublishRefused { topic, why });
                }
            }
            Event::Message(message) => self.message(message),
            Event::Overrun => self.ready.push_back(Input::Missed),
            Event::Closed(closed) => self.closed(&closed),
        }
    }

    fn message(&mut self, message: Message) {
        let Message { topic, retained, body } = message;
        let payload = match body {
            Body::Bytes(payload) => payload,
            // As much as it takes to be refused as what it is; the rest was skipped as it came in.
            Body::TooLarge { size } => vec![0; size.min(ENVELOPE_BYTES_MAX + 1)].into(),
        };
        if let Some(Inbound::Block { transfer }) = self.topics.read(&topic) {
            self.artifacts.block(transfer, payload);
            return;
        }
        self.ready.push_back(Input::Message { topic, payload, retained });
    }

    fn closed(&mut self, closed: &Closed) {
        self.outbox.clear();
        self.subscribing = Subscribing::default();
        self.artifacts.connected(false);
        // Whoever was about to say goodbye has nobody to say it to.
        self.leaving = self.stopping.then(|| self.clock.now());
        let mut chance = [0; 4];
        // Without randomness the delay is the longest of its step.
        let chance = getrandom::fill(&mut chance).map_or(u32::MAX, |()| u32::from_ne_bytes(chance));
        let retry = self.reconnect.closed(self.clock.now(), closed, chance);
        if retry.duplicate {
            warn!(broker = self.broker, "another client connects under this node's name");
            self.show(LinkState::Duplicate);
        } else {
            let hint = match (retry.suspect, closed.is_about_time()) {
                (true, _) => SUSPICION,
                (false, true) => TIME,
                (false, false) => "",
            };
            let (why, label) = (format!("{closed}{hint}"), closed.label());
            self.show(LinkState::Down { why, label });
        }
        if closed.class() == Class::Ours {
            debug!(%closed, "connection ended");
        } else {
            warn!(broker = self.broker, retry = ?retry.after, "no connection: {closed}");
        }
        let now = self.clock.now();
        self.dial_at = (!self.stopping).then(|| now.plus(retry.after));
        self.wrong_time = closed.is_about_time().then_some(now);
        if self.wrong_time.is_some() {
            self.look_at_clock = now.min(self.look_at_clock);
        }
        let taken_over = closed.class() == Class::TakenOver;
        self.ready.push_back(Input::Disconnected { why: closed.to_string(), taken_over });
    }

    fn subscribed(&mut self, token: Token, results: Vec<Result<(), Refused>>) {
        let Some(filters) = self.subscribing.waiting.remove(&token) else { return };
        let mut results = results.into_iter();
        for filter in filters {
            let missing = || Err("the broker did not say".to_owned());
            let result = results.next().map_or_else(missing, |r| r.map_err(|e| e.to_string()));
            self.subscribing.results.push((filter, result));
        }
        self.subscribed_all();
    }

    pub(super) fn subscribed_all(&mut self) {
        let subscribing = &mut self.subscribing;
        if subscribing.waiting.is_empty() && subscribing.to_send.is_empty() {
            let results = std::mem::take(&mut subscribing.results);
            // Blocks arrive from now on.
            self.artifacts.connected(true);
            self.ready.push_back(Input::Subscribed { results });
        }
    }

    /// Sends what the broker takes now.
    pub(super) fn send(&mut self) {
        while let Some(filters) = self.subscribing.to_send.front() {
            match self.transport.subscribe(filters) {
                Ok(token) => {
                    let filters = self.subscribing.to_send.pop_front().unwrap_or_default();
                    self.subscribing.waiting.insert(token, filters);
                }
                // What is to be said waits for its turn behind what is to be asked.
                Err(NotTaken::Busy | NotTaken::NotConnected) => return,
                Err(error @ (NotTaken::TooLarge { .. } | NotTaken::BadTopic)) => {
                    let filters = self.subscribing.to_send.pop_front().unwrap_or_default();
                    let refused = |filter| (filter, Err(error.to_string()));
                    self.subscribing.results.extend(filters.into_iter().map(refused));
                    self.subscribed_all();
                }
            }
        }
        while let Some(publish) = self.outbox.next() {
            let message = Outgoing {
                topic: publish.topic.clone(),
                payload: publish.payload.clone(),
                qos: Qos::AtLeastOnce,
                retain: publish.retain,
                expiry: None,
            };
            match self.transport.publish(&message) {
                Ok(token) => self.outbox.sent(token),
                Err(NotTaken::Busy | NotTaken::NotConnected) => return,
                Err(error @ (NotTaken::TooLarge { .. } | NotTaken::BadTopic)) => {
                    self.outbox.pop();
                    let (topic, why) = (message.topic, error.to_string());
                    self.ready.push_back(Input::PublishRefused { topic, why });
                }
            }
        }
    }

    /// A transfer asks for blocks. Lost where there is no room: it asks again.
    pub(super) fn get(&mut self, payload: Bytes) {
        let topic = self.topics.get();
        let message =
            Outgoing { topic, payload, qos: Qos::AtMostOnce, retain: false, expiry: None };
        if let Err(error) = self.transport.publish(&message) {
            debug!(%error, "a request for blocks was not sent");
        }
    }

    /// Leaves when everything was said, or took too long; whether it did.
    pub(super) async fn leave_if_due(&mut self) -> bool {
        let Some(until) = self.leaving else { return false };
        let said = self.outbox.is_empty() || self.transport.limits().is_none();
        if !said && self.clock.now() < until {
            return false;
        }
        self.leaving = None;
        self.transport.goodbye().await;
        if !self.stopping {
            // The protocol left for a reason of its own, which another attempt may not mend at once.
            self.closed(&Closed::Broken("this node left it".to_owned()));
        }
        true
    }

    fn show(&self, state: LinkState) {
        self.state.send_if_modified(|shown| {
            let changed = *shown != state;
            *shown = state;
            changed
        });
    }
}
