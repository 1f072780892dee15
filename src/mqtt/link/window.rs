//! Requests that the broker has yet to answer: which packet is whose. Pure.
//!
//! `rumqttc` gives out packet ids in a circle, 1 to its limit, and tells the id of each request in the order in which they were made.
//! When an id comes round whose packet is still unanswered it wedges ("collision"). So a request is let in only while fewer than
//! the limit have been made since the oldest unanswered one: then no id can come round too early, whatever the order of the answers.
//! Subscriptions draw from the same circle and are counted the same.

use std::collections::VecDeque;

use crate::clock::Timestamp;
use crate::mqtt::transport::Token;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Publish,
    Subscribe,
    Unsubscribe,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: Token,
    ask: Ask,
    /// Bytes on the wire.
    size: usize,
    since: Timestamp,
    id: Option<u16>,
    answered: bool,
}

/// See the header.
#[derive(Debug)]
pub(super) struct Window {
    /// From the oldest unanswered one on.
    entries: VecDeque<Entry>,
    limit: usize,
    taken: usize,
}

impl Window {
    pub(super) fn new(limit: u16) -> Self {
        Self { entries: VecDeque::new(), limit: limit.into(), taken: 0 }
    }

    /// The broker allows fewer. Before any request.
    pub(super) fn set_limit(&mut self, limit: u16) {
        self.limit = limit.into();
    }

    /// Whether another request may be made.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < self.limit
    }

    /// Notes a request that was made.
    pub(super) fn asked(&mut self, token: Token, ask: Ask, size: usize, now: Timestamp) {
        self.entries.push_back(Entry { token, ask, size, since: now, id: None, answered: false });
    }

    /// The library gave the oldest request without an id this one. False if that is not what was asked.
    pub(super) fn sent(&mut self, ask: Ask, id: u16) -> bool {
        match self.entries.iter_mut().find(|entry| entry.id.is_none()) {
            Some(entry) if entry.ask == ask => {
                entry.id = Some(id);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The broker answered; whose request it was.
    pub(super) fn answered(&mut self, ask: Ask, id: u16) -> Option<Token> {
        let is_it = |e: &&mut Entry| !e.answered && e.ask == ask && e.id == Some(id);
        let entry = self.entries.iter_mut().find(is_it)?;
        entry.answered = true;
        let token = entry.token;
        self.taken = self.taken.max(entry.size);
        while self.entries.front().is_some_and(|entry| entry.answered) {
            self.entries.pop_front();
        }
        Some(token)
    }

    /// The largest message that is not acknowledged.
    pub(super) fn largest(&self) -> Option<usize> {
        let open = self.entries.iter().filter(|e| !e.answered && e.ask == Ask::Publish);
        open.map(|entry| entry.size).max()
    }

    /// The largest message that was answered, bytes.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Since when the oldest request has waited.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.entries.front().map(|entry| entry.since)
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::simulated(Duration::ZERO);

    #[test]
    fn an_answer_finds_its_request_and_only_that() {
        let mut window = Window::new(4);
        window.asked(Token(1), Ask::Subscribe, 0, NOW);
        window.asked(Token(2), Ask::Publish, 10, NOW);
        assert!(!window.sent(Ask::Publish, 1), "requests are sent in order");
        assert!(window.sent(Ask::Subscribe, 1) && window.sent(Ask::Publish, 2));
        assert_eq!((window.largest(), window.taken()), (Some(10), 0));
        assert_eq!(window.answered(Ask::Publish, 1), None, "an id of another kind of request");
        assert_eq!(window.answered(Ask::Publish, 2), Some(Token(2)));
        assert_eq!((window.largest(), window.taken()), (None, 10));
        assert_eq!(window.answered(Ask::Publish, 2), None, "answered before");
        assert_eq!(window.answered(Ask::Subscribe, 1), Some(Token(1)));
        assert_eq!(window.oldest(), None);
    }

    proptest! {
        /// The library's circle of ids never comes upon one that is in use, in whatever order the broker answers.
        #[test]
        fn no_id_comes_round_too_early(
            limit in 1..16u16,
            steps in proptest::collection::vec(any::<Option<proptest::sample::Index>>(), 0..300),
        ) {
            let mut window = Window::new(limit);
            let (mut last, mut tokens, mut open) = (0, 0, vec![]);
            for step in steps {
                match step {
                    None if window.has_room() => {
                        tokens += 1;
                        window.asked(Token(tokens), Ask::Publish, 1, NOW);
                        last = if last == limit { 1 } else { last + 1 };
                        window.sent(Ask::Publish, last);
                        open.push((last, tokens));
                        let ids: BTreeSet<_> = open.iter().map(|(id, _)| id).collect();
                        prop_assert_eq!(ids.len(), open.len());
                    }
                    Some(index) if !open.is_empty() => {
                        let (id, token) = open.remove(index.index(open.len()));
                        prop_assert_eq!(window.answered(Ask::Publish, id), Some(Token(token)));
                    }
                    None | Some(_) => {}
                }
            }
        }
    }
}
