//! Connects that wait for somebody to listen: those of clients who know nothing of modules that
//! restart.
//!
//! ```text
//! connect_patiently ─► parked ─► a listener's queue ─► accepted: now there is a connection
//!                        ▲               │
//!                        └── it closes ──┘        always in the order in which they came
//! ```
//! As nothing of the client's has been taken before, nothing can be lost, and its bytes wait where
//! they are.
//! Owns: who waits for which address, in order. Is not: the wait itself (`handshake`), nor a
//! deadline: whoever connects gives up.
//! Limits: each is a socket of the member that connects, whose limit is theirs.
//! Lock order: a leaf.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use super::handshake::Handshake;

/// See the header.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    by_address: BTreeMap<SocketAddr, BTreeMap<u64, Weak<Handshake>>>,
    next: u64,
}

impl Parked {
    /// The number of the next patient connect.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// It waits for somebody to listen at `to`.
    pub(crate) fn add(&mut self, to: SocketAddr, serial: u64, handshake: &Arc<Handshake>) {
        self.by_address.entry(to).or_default().insert(serial, Arc::downgrade(handshake));
    }

    /// It waits no more.
    pub(crate) fn remove(&mut self, to: SocketAddr, serial: u64) {
        if let Some(all) = self.by_address.get_mut(&to) {
            all.remove(&serial);
            if all.is_empty() {
                self.by_address.remove(&to);
            }
        }
    }

    /// Takes all who wait for somebody at `to`, in their order.
    pub(crate) fn take(&mut self, to: SocketAddr) -> Vec<Arc<Handshake>> {
        let all = self.by_address.remove(&to).unwrap_or_default();
        all.into_values().filter_map(|handshake| handshake.upgrade()).collect()
    }

    /// The addresses with this port that somebody waits for.
    pub(crate) fn wanted(&self, port: u16) -> Vec<SocketAddr> {
        self.by_address.keys().filter(|to| to.port() == port).copied().collect()
    }
}

#[cfg(test)]
#[path = "../tests/parked.rs"]
mod tests;
