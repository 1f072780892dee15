//! Following the board: a cursor into its history, seen through a query.
//!
//! Owns: turning changes of the board into `ADDED`, `MODIFIED` and `DELETED` for one watcher. An object that begins to
//! match is added, one that stops matching is deleted, as in Kubernetes. A watcher keeps nothing but its cursor (and, once,
//! the list it starts with); one that falls behind the bounded history gets [`Expired`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::history::{Change, Expired};
use super::{Inner, Object, Query};

/// What happened to an object, seen through the watcher's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEventType {
    Added,
    Modified,
    Deleted,
}

impl WatchEventType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One step of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchEvent {
    pub event: WatchEventType,
    pub object: Object,
}

/// A watcher's place in the history. Dropping it ends the watch.
pub struct Watch {
    inner: Arc<Inner>,
    query: Query,
    cursor: u64,
    initial: VecDeque<Object>,
    wake: tokio::sync::watch::Receiver<u64>,
}

impl Watch {
    pub(super) fn new(
        inner: Arc<Inner>,
        query: Query,
        since: Option<u64>,
    ) -> Result<Self, Expired> {
        let wake = inner.newest.subscribe();
        let (cursor, initial) = {
            let state = inner.state();
            match since {
                Some(since) => {
                    // Fails at once rather than at the first read.
                    drop(state.history.after(since, state.version)?);
                    (since, VecDeque::new())
                }
                None => (state.version, state.select(&query).into()),
            }
        };
        Ok(Self { inner, query, cursor, initial, wake })
    }

    /// The next events that are there already, in order, at most about `max`; empty if there are none.
    ///
    /// # Errors
    /// [`Expired`]: the watcher was too slow and has missed changes. It must list again.
    pub fn next_batch(&mut self, max: usize) -> Result<Vec<WatchEvent>, Expired> {
        if !self.initial.is_empty() {
            let count = self.initial.len().min(max);
            let added = self.initial.drain(..count);
            return Ok(added
                .map(|object| WatchEvent { event: WatchEventType::Added, object })
                .collect());
        }
        // Before the history is read: a change that comes after the read is then seen as new by `changed`.
        self.wake.mark_unchanged();
        let state = self.inner.state();
        let mut events = Vec::new();
        let mut cursor = self.cursor;
        let mut complete = true;
        for change in state.history.after(self.cursor, state.version)? {
            if events.len() >= max {
                complete = false;
                break;
            }
            cursor = change.version;
            events.extend(see(&self.query, change));
        }
        self.cursor = if complete { state.version } else { cursor };
        if !complete {
            self.wake.mark_changed();
        }
        Ok(events)
    }

    /// Waits until there may be something to read. Cancel safe.
    pub async fn changed(&mut self) {
        if self.initial.is_empty() {
            // The sender lives in `inner`, which this watch keeps.
            let _ = self.wake.changed().await;
        }
    }

    /// Everything up to this version has been returned: what a bookmark says.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.cursor
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("kind", &self.query.kind)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

/// The change as this query sees it.
fn see(query: &Query, change: &Change) -> Option<WatchEvent> {
    let matching = |object: &&Object| query.matches(object);
    let old = change.old.as_ref().filter(matching);
    let new = change.new.as_ref().filter(matching);
    let (event, object) = match (old, new) {
        (None, None) => return None,
        (None, Some(new)) => (WatchEventType::Added, new.clone()),
        (Some(_), Some(new)) => (WatchEventType::Modified, new.clone()),
        (Some(old), None) => {
            let mut last = old.clone();
            let version = change.version.to_string();
            if last.metadata().resource_version.as_deref() != Some(&version) {
                last.metadata_mut().resource_version = Some(version);
            }
            (WatchEventType::Deleted, last)
        }
    };
    Some(WatchEvent { event, object })
}
