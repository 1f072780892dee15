//! The recent past: the last changes of the board, bounded in number and in bytes.
//!
//! Owns: the one queue from which all watchers read. Each watcher has only a cursor into it, so a slow one costs
//! nothing, and falls out at the far end with [`Expired`].

use std::collections::VecDeque;

use super::Object;

/// Changes kept. Five hundred pods that start at once make some thousands within seconds; a `kubectl` on a bad link
/// may be that far behind.
pub const CHANGES_MAX: usize = 2048;

/// Estimated bytes of superseded objects kept for watchers. Most changes are one pod status of under 10 kB; a
/// gateway of 128 MB can spare this much, and a watcher that falls out lists again.
pub(super) const CHANGES_WEIGHT_MAX: usize = 4 * 1024 * 1024;

/// The version asked for is no longer (or not yet) in the history: list again. HTTP 410 on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {since} ({oldest})")]
pub struct Expired {
    pub since: u64,
    /// The oldest version a watch can start from.
    pub oldest: u64,
}

/// One object went from `old` to `new`. At least one of them is there.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub version: u64,
    pub old: Option<Object>,
    pub new: Option<Object>,
}

#[derive(Debug)]
pub(super) struct History {
    changes: VecDeque<(Change, usize)>,
    weight: usize,
    /// Version of the newest change that was dropped, or of the board's birth.
    dropped_through: u64,
}

impl History {
    pub(super) fn new(version: u64) -> Self {
        Self { changes: VecDeque::new(), weight: 0, dropped_through: version }
    }

    pub(super) fn push(&mut self, change: Change) {
        // What the change keeps alive beyond the board itself is the superseded object.
        let weight = 64 + change.old.as_ref().map_or(0, Object::weight);
        self.weight += weight;
        self.changes.push_back((change, weight));
        while self.changes.len() > CHANGES_MAX || self.weight > CHANGES_WEIGHT_MAX {
            let Some((dropped, weight)) = self.changes.pop_front() else { break };
            self.weight -= weight;
            self.dropped_through = dropped.version;
        }
    }

    /// The changes after `since`, oldest first.
    pub(super) fn after(
        &self,
        since: u64,
        newest: u64,
    ) -> Result<impl Iterator<Item = &Change>, Expired> {
        if since < self.dropped_through || since > newest {
            return Err(Expired { since, oldest: self.dropped_through });
        }
        let first = self.changes.partition_point(|(change, _)| change.version <= since);
        Ok(self.changes.range(first..).map(|(change, _)| change))
    }
}
