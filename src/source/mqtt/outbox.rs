//! What is still to be said to the broker. Pure.
//!
//! A retained message replaces an earlier one of its topic that has not gone out; the others (parts of command replies) wait in line,
//! bounded. Nothing survives the connection: the protocol says everything again on the next one.
//!
//! A message is signed when it is the next to go out, and no sooner. The transport takes as many as its window of acknowledgements has
//! room for (16), so a turn of the source's loop signs at most that many and the one that has to wait; what a newer message replaces in
//! the line was never signed. (What a signature costs: `mqtt::signature`.)

use std::collections::BTreeMap;

use crate::mqtt::protocol::{Draft, Publish};
use crate::mqtt::transport::Token;

/// Messages that are not retained and wait: twice the longest reply to a command.
const UNRETAINED_MAX: usize = 64;

/// Keeps messages in the order in which they are to go out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// By their place in the line.
    queue: BTreeMap<u64, Draft>,
    /// The place of each topic's retained message.
    places: BTreeMap<String, u64>,
    last: u64,
    unretained: usize,
    /// What is on its way, and under which topic.
    under_way: BTreeMap<Token, String>,
}

impl Outbox {
    /// Adds a message.
    pub(super) fn push(&mut self, draft: Draft) {
        self.last += 1;
        if draft.retain() {
            // In its old place: what was to be said first is still said first.
            let place = *self.places.entry(draft.topic().to_owned()).or_insert(self.last);
            self.queue.insert(place, draft);
            return;
        }
        if self.unretained >= UNRETAINED_MAX {
            // The oldest: whoever asked has the least use for it.
            let oldest = self.queue.iter().find(|(_, d)| !d.retain()).map(|(place, _)| *place);
            oldest.and_then(|place| self.queue.remove(&place));
            self.unretained -= 1;
        }
        self.unretained += 1;
        self.queue.insert(self.last, draft);
    }

    /// The next message to send, signed.
    pub(super) fn next(&mut self) -> Option<&Publish> {
        Some(self.queue.first_entry()?.into_mut().ready())
    }

    /// It was sent, and will be acknowledged.
    pub(super) fn sent(&mut self, token: Token) {
        if let Some(draft) = self.pop() {
            self.under_way.insert(token, draft.topic().to_owned());
        }
    }

    /// It will never be sent.
    pub(super) fn pop(&mut self) -> Option<Draft> {
        let (_, draft) = self.queue.pop_first()?;
        if draft.retain() {
            self.places.remove(draft.topic());
        } else {
            self.unretained -= 1;
        }
        Some(draft)
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
    use crate::mqtt::kit;
    use crate::mqtt::signature::{Proof, Signer};

    fn publish(topic: &str, payload: &'static str, retain: bool) -> Draft {
        draft(topic, payload, retain, None)
    }

    fn draft(topic: &str, payload: &'static str, retain: bool, signer: Option<Signer>) -> Draft {
        let from = "root/".len();
        let signer = signer.map(|signer| (signer, from));
        Draft::new(Publish { topic: topic.into(), payload: payload.into(), retain }, signer)
    }

    fn drain(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.pop())
            .map(Draft::signed)
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
    fn a_message_is_signed_when_its_turn_comes_and_what_is_replaced_never_was() {
        let key = kit::secret(77);
        let mut outbox = Outbox::default();
        for (topic, payload) in [
            ("root/acme/s/gw/node", r#"{"seq":1}"#),
            ("root/acme/s/gw/pod/a/b", r#"{"seq":2}"#),
            ("root/acme/s/gw/pod/a/b", r#"{"seq":3}"#),
        ] {
            outbox.push(draft(topic, payload, true, Some(key.signer())));
        }
        let signed =
            |outbox: &Outbox| outbox.queue.values().filter(|draft| draft.is_ready()).count();
        assert_eq!((outbox.queue.len(), signed(&outbox)), (2, 0));
        // The broker is slow: the one that is next is asked for again and again, and signed once.
        for _ in 0..3 {
            let next = outbox.next().unwrap();
            let proof = Proof::of("acme/s/gw/node", &next.payload);
            assert_eq!(proof, Proof::Signed(key.public()), "{next:?}");
        }
        assert_eq!(signed(&outbox), 1);
        // Something newer to say in its place: signed anew, and what it replaces is gone.
        outbox.push(draft("root/acme/s/gw/node", r#"{"seq":4}"#, true, Some(key.signer())));
        assert_eq!(signed(&outbox), 0);
        let sent: Vec<Publish> = std::iter::from_fn(|| {
            let next = outbox.next().cloned()?;
            outbox.pop().map(|_| next)
        })
        .collect();
        let read = |publish: &Publish| -> serde_json::Value {
            let below = publish.topic.strip_prefix("root/").unwrap();
            assert_eq!(Proof::of(below, &publish.payload), Proof::Signed(key.public()));
            serde_json::from_slice(&publish.payload).unwrap()
        };
        assert_eq!(
            sent.iter().map(|p| read(p)["seq"].as_u64()).collect::<Vec<_>>(),
            [Some(4), Some(3)]
        );
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
