//! What is still to be said to the broker. Pure.
//!
//! A retained message replaces an earlier one of its topic that has not gone out; the others (parts of command replies) wait in line,
//! bounded. Nothing survives the connection: the protocol says everything again on the next one.

use std::collections::BTreeMap;

use crate::mqtt::protocol::Publish;
use crate::mqtt::transport::Token;

/// Messages that are not retained and wait: twice the longest reply to a command.
const UNRETAINED_MAX: usize = 64;

/// Keeps messages in the order in which they are to go out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// By their place in the line.
    queue: BTreeMap<u64, Publish>,
    /// The place of each topic's retained message.
    places: BTreeMap<String, u64>,
    last: u64,
    unretained: usize,
    /// What is on its way, and under which topic.
    under_way: BTreeMap<Token, String>,
}

impl Outbox {
    /// Adds a message.
    pub(super) fn push(&mut self, publish: Publish) {
        self.last += 1;
        if publish.retain {
            // In its old place: what was to be said first is still said first.
            let place = *self.places.entry(publish.topic.clone()).or_insert(self.last);
            self.queue.insert(place, publish);
            return;
        }
        if self.unretained >= UNRETAINED_MAX {
            // The oldest: whoever asked has the least use for it.
            let oldest = self.queue.iter().find(|(_, p)| !p.retain).map(|(place, _)| *place);
            oldest.and_then(|place| self.queue.remove(&place));
            self.unretained -= 1;
        }
        self.unretained += 1;
        self.queue.insert(self.last, publish);
    }

    /// The next message to send.
    pub(super) fn next(&self) -> Option<&Publish> {
        self.queue.first_key_value().map(|(_, publish)| publish)
    }

    /// It was sent, and will be acknowledged.
    pub(super) fn sent(&mut self, token: Token) {
        if let Some(publish) = self.pop() {
            self.under_way.insert(token, publish.topic);
        }
    }

    /// It will never be sent.
    pub(super) fn pop(&mut self) -> Option<Publish> {
        let (_, publish) = self.queue.pop_first()?;
        if publish.retain {
            self.places.remove(&publish.topic);
        } else {
            self.unretained -= 1;
        }
        Some(publish)
    }

    /// It was acknowledged, or refused; its topic.
    pub(super) fn acked(&mut self, token: Token) -> Option<String> {
        self.under_way.remove(&token)
    }

    /// Whether nothing waits and nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }

    /// The connection is over.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn publish(topic: &str, payload: &'static str, retain: bool) -> Publish {
        Publish { topic: topic.into(), payload: payload.into(), retain }
    }

    fn drain(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.pop())
            .map(|p| format!("{}={}", p.topic, String::from_utf8(p.payload.to_vec()).unwrap()))
            .collect()
    }

    #[test]
    fn the_newest_of_a_topic_goes_out_in_the_oldests_place() {
        let mut outbox = Outbox::default();
        for (topic, payload) in [("birth", "1"), ("pod/a", "1"), ("pod/b", "1"), ("pod/a", "2")] {
            outbox.push(publish(topic, payload, true));
        }
        assert_eq!(drain(&mut outbox), ["birth=1", "pod/a=2", "pod/b=1"]);
    }

    #[test]
    fn what_is_not_retained_stays_in_order_and_bounded() {
        let mut outbox = Outbox::default();
        outbox.push(publish("online", "1", true));
        for _ in 0..UNRETAINED_MAX {
            outbox.push(publish("res/1", "old", false));
        }
        outbox.push(publish("res/1", "new", false));
        let sent = drain(&mut outbox);
        assert_eq!(sent.len(), UNRETAINED_MAX + 1);
        assert_eq!(
            (sent.first().unwrap().as_str(), sent.last().unwrap().as_str()),
            ("online=1", "res/1=new")
        );
    }

    #[test]
    fn an_acknowledgement_finds_its_topic_and_a_lost_connection_forgets_all() {
        let mut outbox = Outbox::default();
        outbox.push(publish("a", "1", true));
        outbox.push(publish("b", "1", false));
        outbox.sent(Token(7));
        assert_eq!(outbox.acked(Token(7)).as_deref(), Some("a"));
        assert_eq!(outbox.acked(Token(7)), None);
        assert!(!outbox.is_empty());
        outbox.sent(Token(8));
        outbox.clear();
        assert!(outbox.is_empty() && outbox.acked(Token(8)).is_none());
    }
}
