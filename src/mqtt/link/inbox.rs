//! What a connection has to say, until the caller takes it: bounded in messages and bytes.
//!
//! The task of a connection must never wait for the caller (it would miss its pings), so that what has no room is dropped: a
//! message of QoS 0 just so, one of QoS 1 with [`Event::Overrun`], after which the caller asks again for what is retained. Events
//! that are no messages always have room: there are at most as many as there were requests.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mqtt::transport::{Body, ConnId, Event, Message, Qos};

/// Messages waiting. A node's retained intents all come at once after a subscription; the caller takes each in microseconds, unless
/// it waits for the disk.
pub(super) const MESSAGES_MAX: usize = 256;

/// Bytes waiting: four times the largest message.
pub(super) const BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<(ConnId, Event)>,
    messages: usize,
    bytes: usize,
    /// An overrun is told once, when the queue has been emptied.
    overrun: Option<ConnId>,
}

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    some: Notify,
}

fn weight(message: &Message) -> usize {
    match &message.body {
        Body::Bytes(bytes) => bytes.len() + message.topic.len(),
        Body::TooLarge { .. } => message.topic.len(),
    }
}

impl Inbox {
    /// Puts an event that is no message.
    pub(super) fn tell(&self, conn: ConnId, event: Event) {
        self.queue().events.push_back((conn, event));
        self.some.notify_one();
    }

    /// Puts a message, if there is room; whether there was.
    pub(super) fn message(&self, conn: ConnId, message: Message, qos: Qos) -> bool {
        let weight = weight(&message);
        let mut queue = self.queue();
        if queue.messages >= MESSAGES_MAX || queue.bytes + weight > BYTES_MAX {
            if qos == Qos::AtLeastOnce {
                queue.overrun = Some(conn);
            }
            return false;
        }
        queue.messages += 1;
        queue.bytes += weight;
        queue.events.push_back((conn, Event::Message(message)));
        drop(queue);
        self.some.notify_one();
        true
    }

    /// Takes the next event; loses nothing when dropped.
    pub(super) async fn next(&self) -> (ConnId, Event) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.some.notified().await;
        }
    }

    fn take(&self) -> Option<(ConnId, Event)> {
        let mut queue = self.queue();
        let Some((conn, event)) = queue.events.pop_front() else {
            return queue.overrun.take().map(|conn| (conn, Event::Overrun));
        };
        if let Event::Message(message) = &event {
            queue.messages -= 1;
            queue.bytes -= weight(message);
        }
        Some((conn, event))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod test {
    use bytes::Bytes;

    use super::*;

    fn message(size: usize) -> Message {
        let body = Body::Bytes(vec![0; size].into());
        Message { topic: String::new(), retained: true, body }
    }

    #[test]
    fn what_has_no_room_is_dropped_and_told_once_at_the_end() {
        let inbox = Inbox::default();
        let conn = ConnId(1);
        for _ in 0..4 {
            assert!(inbox.message(conn, message(BYTES_MAX / 4), Qos::AtLeastOnce));
        }
        assert!(!inbox.message(conn, message(1), Qos::AtLeastOnce));
        assert!(!inbox.message(conn, message(1), Qos::AtLeastOnce));
        inbox.tell(conn, Event::Unsubscribed(crate::mqtt::transport::Token(1)));
        let mut seen = vec![];
        while let Some((_, event)) = inbox.take() {
            seen.push(event);
        }
        assert_eq!(seen.len(), 6, "four messages, the answer, and one overrun");
        assert_eq!(seen[5], Event::Overrun);
        assert!(inbox.message(conn, message(BYTES_MAX), Qos::AtLeastOnce), "there is room again");
    }

    #[test]
    fn lost_blocks_are_no_overrun() {
        let inbox = Inbox::default();
        for _ in 0..=MESSAGES_MAX {
            inbox.message(ConnId(1), message(0), Qos::AtMostOnce);
        }
        let seen = std::iter::from_fn(|| inbox.take());
        let empty = Event::Message(Message {
            topic: String::new(),
            retained: true,
            body: Body::Bytes(Bytes::new()),
        });
        assert!(seen.inspect(|(_, event)| assert_eq!(*event, empty)).count() == MESSAGES_MAX);
    }
}
