//! How often something that strangers can cause is told: so many times within a window, and once that there was more.
//!
//! What a broker lets through may be anything, at any rate. Each refusal costs a line in the log (which may be on flash), an Event, and for
//! a name that is new a status that is published; these must not come as fast as the messages.

use std::time::Duration;

use crate::clock::Timestamp;

/// The window.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Whether there is room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    /// No, for the first time within this window.
    JustOver,
    No,
}

/// See the header.
#[derive(Debug)]
pub(super) struct Quota {
    max: u32,
    since: Option<Timestamp>,
    taken: u32,
}

impl Quota {
    pub(super) fn new(max: u32) -> Self {
        Self { max, since: None, taken: 0 }
    }

    /// Takes one, if there is room. A window begins with the first that is taken after the last one was over.
    pub(super) fn take(&mut self, now: Timestamp) -> Room {
        if self.since.is_none_or(|since| now.since(since) >= WINDOW) {
            (self.since, self.taken) = (Some(now), 0);
        }
        self.taken = self.taken.saturating_add(1);
        match self.taken {
            taken if taken <= self.max => Room::Yes,
            taken if taken == self.max.saturating_add(1) => Room::JustOver,
            _ => Room::No,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_window_has_room_for_so_many_and_the_next_one_again() {
        let mut quota = Quota::new(2);
        let mut at = |seconds| quota.take(Timestamp::simulated(Duration::from_secs(seconds)));
        let found = [0, 1, 2, 59, 60, 61, 62, 1000].map(&mut at);
        use Room::{JustOver, No, Yes};
        assert_eq!(found, [Yes, Yes, JustOver, No, Yes, Yes, JustOver, Yes]);
    }
}
