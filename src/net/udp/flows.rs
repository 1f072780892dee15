//! What a datagram socket remembers of its talk with other pods, as a kernel's connection tracking
//! would.
//!
//! ```text
//! asks 10.96.0.9:53 (a Service) ─► really 10.88.0.7:5353     asked: real → Service
//! ◄─ answer shown as 10.96.0.9:53 ── from 10.88.0.7:5353     visitors of that one: asker → socket
//! ```
//! Owns: under which name an answer is shown to who asked (`asked`), and who may be answered
//! although no policy says so, because it asked (`visitors`).
//! Is not: a clock. What was used longest ago is forgotten first; an answer that comes too late
//! takes the way of any other datagram.
//! Limits: [`FLOWS_MAX`] of each kind a socket, each paid for by the socket's member
//! ([`FLOW_COST`]); one it cannot pay for is not remembered.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Weak;

use super::UdpCore;
use crate::net::member::MemberState;

/// Most remembered of each kind. A name server answers each question before hundreds of others have
/// come; a client asks a handful of Services.
pub(super) const FLOWS_MAX: usize = 256;
/// What one costs, in bytes: its place, and the remains of a closed socket that a weak way to it
/// keeps.
pub(super) const FLOW_COST: usize = 512;

/// Most recently used first.
#[derive(Debug)]
pub(super) struct Recent<V> {
    entries: VecDeque<(SocketAddr, V)>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { entries: VecDeque::new() }
    }
}

impl<V> Recent<V> {
    pub(super) fn get(&self, key: SocketAddr) -> Option<&V> {
        self.entries.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// Remembers, or remembers anew. One entry more has to be paid for.
    pub(super) fn note(&mut self, key: SocketAddr, value: V, payer: &MemberState) {
        match self.entries.iter().position(|(known, _)| *known == key) {
            Some(0) => self.entries[0].1 = value,
            Some(place) => {
                self.entries.remove(place);
                self.entries.push_front((key, value));
            }
            None => {
                if self.entries.len() == FLOWS_MAX {
                    self.entries.pop_back();
                } else if !payer.charge(FLOW_COST) {
                    return;
                }
                self.entries.push_front((key, value));
            }
        }
    }
}

/// See the header. Empty, and without memory, as long as a socket talks inside its pod.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Real address → the address that was asked.
    pub(super) asked: Recent<SocketAddr>,
    /// Address of a socket in another pod → that socket.
    pub(super) visitors: Recent<Weak<UdpCore>>,
}

impl Flows {
    /// What all of it was paid for with.
    pub(super) fn cost(&self) -> usize {
        (self.asked.entries.len() + self.visitors.entries.len()) * FLOW_COST
    }
}
