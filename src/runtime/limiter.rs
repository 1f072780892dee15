//! Asks the ledger whenever a memory or a table of a run wants to grow; keeps its resources on it.
//!
//! Owns: the sum over all memories and tables of one store (wasmtime asks for each alone), the bounds on their number, and what the host
//! keeps for the store beside them. Its resources are counted at each tick, so a module may be ahead of the account by what it gets in a
//! millisecond, and by the table's bound at most. Is not: the counting (`ledger.rs`). What was charged is given back when the store is
//! dropped, whatever ended it.

use std::fmt;
use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::ledger::{Ledger, OverLimit, Own};
use crate::spec::OnMemoryLimit;

/// Core instances in one run. A component made of others has about four each; the count guards against modules
/// that do nothing but instantiate.
const INSTANCES_MAX: usize = 256;
/// Linear memories in one run: each costs a reservation of address space.
const MEMORIES_MAX: usize = 64;
/// Tables in one run.
const TABLES_MAX: usize = 256;
/// Elements of one table: some ten times the functions of the largest programs that are compiled to Wasm.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 1 << 20;

/// The run asked for more than its limit and is to be killed for it; travels through wasmtime as the cause of a trap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutOfMemory(pub(crate) OverLimit);

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the module {}", self.0)
    }
}

impl std::error::Error for OutOfMemory {}

/// One per store.
#[derive(Debug)]
pub(crate) struct Limiter {
    ledger: Arc<Ledger>,
    on_limit: OnMemoryLimit,
    /// Bytes that this store's memories and tables hold.
    held: u64,
    /// Of these, for the host's resources.
    resources: u64,
    /// Of these, in linear memories, and in tables.
    linear: u64,
    tables: u64,
    /// Of these, what the growth in progress took, and for what: given back if it fails after all.
    growing: (Own, u64),
    /// Bytes that the host keeps for its resources.
    kept: u64,
    /// The account refused to keep more, and what was called for it trapped.
    starved: Option<OverLimit>,
    /// The last growth of a memory or a table that its limit refused while it goes on.
    denied: Option<OverLimit>,
}

impl Limiter {
    pub(crate) fn new(ledger: Arc<Ledger>, on_limit: OnMemoryLimit) -> Self {
        let growing = (Own::Linear, 0);
        let (held, linear, tables, resources, kept) = (0, 0, 0, 0, 0);
        let (starved, denied) = (None, None);
        Self { ledger, on_limit, held, resources, linear, tables, growing, kept, starved, denied }
    }

    /// The last growth that its limit refused, if one was refused while the module went on.
    pub(crate) fn denied(&self) -> Option<OverLimit> {
        self.denied
    }

    /// Brings the account to `bytes` that the host keeps for the store. False if it refuses: what is called next must trap.
    pub(crate) fn keep(&mut self, bytes: u64) -> bool {
        if bytes <= self.kept {
            self.ledger.release(self.kept - bytes);
        } else if let Err(over) = self.ledger.charge(bytes - self.kept) {
            self.starved = Some(over);
            return false;
        }
        self.kept = bytes;
        true
    }

    /// What really ended a store whose guest got `error`.
    pub(crate) fn cause(&mut self, error: wasmtime::Error) -> wasmtime::Error {
        match (self.starved.take(), self.on_limit) {
            (None, _) => error,
            (Some(over), OnMemoryLimit::Kill) => wasmtime::Error::new(OutOfMemory(over)),
            (Some(over), OnMemoryLimit::Fail) => wasmtime::Error::msg(format!(
                "no memory for what wasi:http keeps on the host: the module {over}"
            )),
        }
    }

    fn own(&mut self, own: Own) -> &mut u64 {
        match own {
            Own::Linear => &mut self.linear,
            Own::Tables => &mut self.tables,
        }
    }

    fn grow(&mut self, own: Own, bytes: u64) -> wasmtime::Result<bool> {
        self.growing.1 = 0;
        match self.ledger.charge_growth(bytes) {
            Ok(()) => {
                self.ledger.assign(own, bytes);
                *self.own(own) += bytes;
                self.held += bytes;
                self.growing = (own, bytes);
                Ok(true)
            }
            Err(over) => match self.on_limit {
                OnMemoryLimit::Fail => {
                    self.denied = Some(over);
                    Ok(false)
                }
                OnMemoryLimit::Kill => Err(wasmtime::Error::new(OutOfMemory(over))),
            },
        }
    }

    /// Takes `bytes` for what the host holds.
    ///
    /// # Errors
    /// There are not as many, whatever was to happen at the limit.
    fn claim(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        self.ledger.charge(bytes).map_err(OutOfMemory)?;
        self.held += bytes;
        Ok(())
    }

    /// The host's resources take so many bytes now.
    ///
    /// # Errors
    /// There are not that many, and the module is to end for it. One that is not goes on with what it has: most calls have no error to
    /// tell of, and the table has a bound.
    pub(crate) fn hold_resources(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        let before = self.resources;
        if bytes > before {
            match self.claim(bytes - before) {
                Err(_) if self.on_limit == OnMemoryLimit::Fail => return Ok(()),
                claimed => claimed?,
            }
        } else {
            self.ledger.release(before - bytes);
            self.held -= before - bytes;
        }
        self.resources = bytes;
        Ok(())
    }

    fn undo(&mut self) {
        let (own, bytes) = (self.growing.0, std::mem::take(&mut self.growing.1));
        self.held -= bytes;
        *self.own(own) -= bytes;
        self.ledger.take_back(own, bytes);
        self.ledger.release(bytes);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.ledger.take_back(Own::Linear, self.linear);
        self.ledger.take_back(Own::Tables, self.tables);
        self.ledger.release(self.held + self.kept);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The module's own bound: an ordinary failure, and none of ours.
            self.growing.1 = 0;
            return Ok(false);
        }
        self.grow(Own::Linear, desired.saturating_sub(current) as u64)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > maximum.unwrap_or(usize::MAX).min(TABLE_ELEMENTS_MAX) {
            self.growing.1 = 0;
            return Ok(false);
        }
        let bytes = desired.saturating_sub(current) * size_of::<usize>();
        self.grow(Own::Tables, bytes as u64)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::runtime::ledger::MemoryKinds;

    fn limiter(limit: u64, on_limit: OnMemoryLimit) -> (Arc<Ledger>, Limiter) {
        let ledger = Arc::new(Ledger::new(Some(limit), None));
        (Arc::clone(&ledger), Limiter::new(ledger, on_limit))
    }

    #[test]
    fn memories_and_tables_share_one_limit() {
        let (ledger, mut limiter) = limiter(200_000, OnMemoryLimit::Fail);
        assert!(limiter.memory_growing(0, 65_536, None).unwrap());
        assert!(limiter.memory_growing(0, 65_536, None).unwrap());
        assert!(limiter.table_growing(0, 1000, None).unwrap());
        assert!(!limiter.memory_growing(65_536, 131_072, None).unwrap());
        limiter.claim(100).unwrap();
        let tables = 1000 * size_of::<usize>() as u64;
        assert_eq!(ledger.kinds(), MemoryKinds { linear: 131_072, tables, host: 100 });
        limiter.table_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(ledger.kinds().tables, tables, "the last growth was refused and took nothing");
        drop(limiter);
        assert_eq!((ledger.used(), ledger.kinds()), (0, MemoryKinds::default()));
    }

    #[test]
    fn resources_are_counted_up_and_down_and_end_the_module_unless_told_otherwise() {
        let (ledger, mut limiter) = limiter(100_000, OnMemoryLimit::Kill);
        limiter.claim(10_000).unwrap();
        limiter.hold_resources(60_000).unwrap();
        limiter.hold_resources(20_000).unwrap();
        assert_eq!(ledger.used(), 30_000);
        limiter.hold_resources(100_000).unwrap_err();
        assert_eq!(ledger.used(), 30_000);
        limiter.on_limit = OnMemoryLimit::Fail;
        limiter.hold_resources(100_000).unwrap();
        assert_eq!(ledger.used(), 30_000);
        drop(limiter);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn a_growth_that_fails_after_all_costs_nothing() {
        let (ledger, mut limiter) = limiter(200_000, OnMemoryLimit::Kill);
        assert!(limiter.memory_growing(0, 65_536, None).unwrap());
        assert!(limiter.memory_growing(65_536, 131_072, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(ledger.used(), 65_536);
        // Over the module's own maximum: refused, not killed, and not given back twice.
        assert!(!limiter.memory_growing(65_536, 1 << 30, Some(131_072)).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(ledger.used(), 65_536);
    }

    #[test]
    fn what_is_kept_comes_and_goes_and_is_refused_as_memory_is() {
        let (ledger, mut limiter) = limiter(100_000, OnMemoryLimit::Kill);
        assert!(limiter.keep(90_000) && limiter.keep(10_000) && limiter.keep(30_000));
        assert_eq!(ledger.used(), 30_000);
        assert!(limiter.memory_growing(0, 65_536, None).unwrap());
        let other = || wasmtime::Error::msg("another trap");
        assert_eq!(limiter.cause(other()).to_string(), "another trap");
        assert!(!limiter.keep(40_000));
        assert_eq!(ledger.used(), 95_536);
        assert!(limiter.cause(other()).is::<OutOfMemory>());
        drop(limiter);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn over_the_limit_kills_unless_told_otherwise() {
        let (_, mut limiter) = limiter(100_000, OnMemoryLimit::Kill);
        let error = limiter.memory_growing(0, 131_072, None).unwrap_err();
        assert!(error.downcast_ref::<OutOfMemory>().is_some());
        assert_eq!(
            error.to_string(),
            "the module asked for 131072 bytes more with 0 in use; its memory limit is 100000 bytes"
        );
    }
}
