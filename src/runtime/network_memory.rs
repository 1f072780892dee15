//! What a module's sockets and requests are paid from: its memory account, and what follows when that is full.
//!
//! Owns: ending a module whose own call found no memory, where it is to end then (`on-memory-limit: kill`). Is not: the account
//! (`ledger.rs`), nor what a call answers under `fail` (`net`: `ENOBUFS` and its like).
//!
//! The rule: what a module asks for by a call of its own (a socket, a stream's end, a request, the first bytes of a write) ends it when
//! there is no memory; what others send it, and what is only a window (bytes beyond the first that wait for their reader), is made to
//! wait, turned away or dropped, and ends nobody. Nor does it take the last of the account (`Ledger::charge_for_others`): else whoever can connect
//! could bring a module to where its next call is its end.

use std::sync::{Arc, OnceLock, Weak};

use super::ledger::Ledger;
use super::run::{End, Shared};
use crate::spec::OnMemoryLimit;

/// See the header. One for each run.
#[derive(Debug)]
pub(crate) struct NetworkMemory {
    ledger: Arc<Ledger>,
    run: OnceLock<Weak<Shared>>,
}

impl NetworkMemory {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, run: OnceLock::new() }
    }

    /// Whose it is. Until then nobody ends.
    pub(crate) fn belongs_to(&self, run: &Arc<Shared>) {
        // Said once, where the run is made.
        let _ = self.run.set(Arc::downgrade(run));
    }
}

impl crate::net::Ledger for NetworkMemory {
    fn try_charge(&self, bytes: usize) -> bool {
        self.ledger.charge(bytes as u64).is_ok()
    }

    fn try_charge_for_others(&self, bytes: usize) -> bool {
        self.ledger.charge_for_others(bytes as u64).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.ledger.release(bytes as u64);
    }

    fn missed(&self, bytes: usize) {
        let Some(run) = self.run.get().and_then(Weak::upgrade) else { return };
        if run.on_memory_limit == OnMemoryLimit::Fail {
            return;
        }
        match self.ledger.charge(bytes as u64) {
            // Another bound than memory, or there is some by now: the call's answer is enough.
            Ok(()) => self.ledger.release(bytes as u64),
            Err(over) => run.end(End::OutOfMemory(over)),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::net::Ledger as _;

    #[test]
    fn the_last_part_of_a_limit_is_for_the_modules_own_calls() {
        let memory = NetworkMemory::new(Arc::new(Ledger::new(Some(1600), None)));
        assert!(memory.try_charge_for_others(1500));
        assert!(!memory.try_charge_for_others(1));
        assert!(memory.try_charge(100));
        assert!(!memory.try_charge(1));
    }
}
