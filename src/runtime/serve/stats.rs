//! What a server of HTTP has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct HttpCounters {
    pub(crate) requests: Count,
    pub(crate) under_way: Count,
    pub(crate) trapped: Count,
    pub(crate) failed: Count,
    pub(crate) timed_out: Count,
    pub(crate) refused: Count,
    pub(crate) turned_away: Count,
    pub(crate) instances: Count,
    /// Of these, from the pool.
    pub(crate) pooled: Count,
}

impl HttpCounters {
    pub(crate) fn usage(&self) -> HttpUsage {
        HttpUsage {
            requests: self.requests.get(),
            under_way: self.under_way.get(),
            trapped: self.trapped.get(),
            failed: self.failed.get(),
            timed_out: self.timed_out.get(),
            refused: self.refused.get(),
            turned_away: self.turned_away.get(),
            instances: self.instances.get(),
        }
    }
}

/// What a module that answers HTTP has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpUsage {
    /// Requests that came in, whatever became of them.
    pub requests: u64,
    /// Requests whose handler works now, after the response included.
    pub under_way: u64,
    /// Requests whose handler trapped (500, or a broken connection if the response had begun).
    pub trapped: u64,
    /// Requests for which the handler gave no response, or an error (500).
    pub failed: u64,
    /// Requests without a response in time (504).
    pub timed_out: u64,
    /// Requests that found no room (503), or were not acceptable (400, 413, 501).
    pub refused: u64,
    /// Connections that found no memory.
    pub turned_away: u64,
    /// Instances made.
    pub instances: u64,
}

impl HttpUsage {
    /// Whether it is one at all: a server has an instance before it listens.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        self.instances > 0
    }

    /// With what earlier runs did: counters add up, what is under way is this one's.
    #[must_use]
    pub fn after(self, before: Self) -> Self {
        Self {
            requests: before.requests.saturating_add(self.requests),
            under_way: self.under_way,
            trapped: before.trapped.saturating_add(self.trapped),
            failed: before.failed.saturating_add(self.failed),
            timed_out: before.timed_out.saturating_add(self.timed_out),
            refused: before.refused.saturating_add(self.refused),
            turned_away: before.turned_away.saturating_add(self.turned_away),
            instances: before.instances.saturating_add(self.instances),
        }
    }
}
