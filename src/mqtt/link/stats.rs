//! What `/metrics` and `get node` say of the link. Counters only grow; each is one atomic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::mqtt::transport::{CLOSED_LABELS, Closed};

/// Counters of one link, over all its connections.
#[derive(Debug, Default)]
pub struct LinkStats {
    connected: AtomicBool,
    attempts: AtomicU64,
    ends: [AtomicU64; CLOSED_LABELS.len()],
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    dropped: AtomicU64,
    too_large: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCounts {
    pub connected: bool,
    pub attempts: u64,
    /// Ended connections by [`Closed::label`], in the order of [`CLOSED_LABELS`].
    pub ends: Vec<(&'static str, u64)>,
    pub messages_in: u64,
    pub messages_out: u64,
    /// Messages that came faster than they were taken.
    pub dropped: u64,
    /// Messages that were larger than we take.
    pub too_large: u64,
    /// On the wire below TLS.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

impl LinkStats {
    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounts {
            connected: self.connected.load(Ordering::Relaxed),
            attempts: read(&self.attempts),
            ends: CLOSED_LABELS.into_iter().zip(self.ends.iter().map(read)).collect(),
            messages_in: read(&self.messages_in),
            messages_out: read(&self.messages_out),
            dropped: read(&self.dropped),
            too_large: read(&self.too_large),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
        }
    }

    pub(super) fn attempt(&self) {
        add(&self.attempts, 1);
    }

    pub(super) fn connected(&self) {
        self.connected.store(true, Ordering::Relaxed);
    }

    pub(super) fn closed(&self, why: &Closed) {
        self.connected.store(false, Ordering::Relaxed);
        let label = why.label();
        if let Some(index) = CLOSED_LABELS.iter().position(|known| *known == label) {
            add(&self.ends[index], 1);
        }
    }

    pub(super) fn message_in(&self) {
        add(&self.messages_in, 1);
    }

    pub(super) fn message_out(&self) {
        add(&self.messages_out, 1);
    }

    pub(super) fn dropped(&self) {
        add(&self.dropped, 1);
    }

    pub(super) fn too_large(&self) {
        add(&self.too_large, 1);
    }

    pub(super) fn bytes_in(&self, bytes: usize) {
        add(&self.bytes_in, bytes);
    }

    pub(super) fn bytes_out(&self, bytes: usize) {
        add(&self.bytes_out, bytes);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn each_end_is_counted_under_its_reason() {
        let stats = LinkStats::default();
        stats.connected();
        assert!(stats.counts().connected);
        stats.closed(&Closed::ByPeer);
        stats.closed(&Closed::ByUs);
        let counts = stats.counts();
        assert!(!counts.connected);
        let ended: Vec<_> = counts.ends.iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(ended, [&("closed_by_peer", 1), &("ours", 1)]);
    }
}
