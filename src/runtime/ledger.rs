//! The memory account of a module, and of its pod.
//!
//! Owns: counting and refusing. Is not: what happens at a refusal; the limiter (`limiter.rs`) kills or answers −1, the network makes
//! the writer wait.
//!
//! ```text
//! linear memories, tables, stack, resources ──► Ledger of the module ──► Ledger of the pod ◄── memory volumes
//! socket buffers, bodies, lists, read ahead ──►        (limit)               (limit)
//! ```
//! Charging is two atomic additions; a refused charge changes nothing. Limits: those of the manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes held now, the most ever held, and how many there may be.
#[derive(Debug)]
pub(crate) struct Ledger {
    limit: Option<u64>,
    used: AtomicU64,
    peak: AtomicU64,
    /// Of those held now, linear memories and tables. The rest is what the host holds.
    linear: AtomicU64,
    tables: AtomicU64,
    /// How often a charge was refused, here or by the parent.
    refused: AtomicU64,
    parent: Option<Arc<Ledger>>,
}

/// What a module itself holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    Linear,
    Tables,
}

/// Bytes held, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryKinds {
    /// Linear memories.
    pub linear: u64,
    pub tables: u64,
    /// What the host holds for the module: its stack, resources, socket buffers, bodies, lists.
    pub host: u64,
}

impl MemoryKinds {
    /// Each by its name.
    pub fn rows(&self) -> [(&'static str, u64); 3] {
        [("linear", self.linear), ("tables", self.tables), ("host", self.host)]
    }
}

/// A charge was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    /// Bytes asked for.
    pub(crate) asked: u64,
    /// Bytes held already by the account that refused.
    pub(crate) used: u64,
    /// Its limit.
    pub(crate) limit: u64,
    /// It was the pod's account and not the module's own.
    pub(crate) of_pod: bool,
    /// What the module holds already.
    pub(crate) kinds: MemoryKinds,
}

impl Ledger {
    /// An account with at most `limit` bytes, which also draws on `parent`.
    #[must_use]
    pub(crate) fn new(limit: Option<u64>, parent: Option<Arc<Ledger>>) -> Self {
        let zero = || AtomicU64::new(0);
        let (used, peak, linear, tables, refused) = (zero(), zero(), zero(), zero(), zero());
        Self { limit, used, peak, linear, tables, refused, parent }
    }

    /// Takes `bytes`, here and from the parent.
    ///
    /// # Errors
    /// [`OverLimit`] if either has not that many left; nothing is taken then.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), OverLimit> {
        self.try_charge(bytes).inspect_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn try_charge(&self, bytes: u64) -> Result<(), OverLimit> {
        self.take(bytes, false)?;
        if let Some(parent) = &self.parent
            && let Err(over) = parent.take(bytes, true)
        {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OverLimit { kinds: self.kinds(), ..over });
        }
        self.peak.fetch_max(self.used(), Ordering::Relaxed);
        Ok(())
    }

    fn take(&self, bytes: u64, of_pod: bool) -> Result<(), OverLimit> {
        let limit = self.limit.unwrap_or(u64::MAX);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= limit)
        });
        match taken {
            Ok(_) => {
                if of_pod {
                    self.peak.fetch_max(self.used(), Ordering::Relaxed);
                }
                Ok(())
            }
            Err(used) => Err(OverLimit { asked: bytes, used, limit, of_pod, kinds: self.kinds() }),
        }
    }

    /// Gives back what an earlier charge took.
    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn own(&self, own: Own) -> &AtomicU64 {
        match own {
            Own::Linear => &self.linear,
            Own::Tables => &self.tables,
        }
    }

    /// So many bytes that were charged are for this.
    pub(crate) fn assign(&self, own: Own, bytes: u64) {
        self.own(own).fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are no longer; called before they are released.
    pub(crate) fn take_back(&self, own: Own, bytes: u64) {
        self.own(own).fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes held now, by what they are for.
    #[must_use]
    pub(crate) fn kinds(&self) -> MemoryKinds {
        let (linear, tables) = (&self.linear, &self.tables);
        let (linear, tables) = (linear.load(Ordering::Relaxed), tables.load(Ordering::Relaxed));
        MemoryKinds { linear, tables, host: self.used().saturating_sub(linear + tables) }
    }

    /// The fewest bytes that this account or its parent allows; `None`: no bound.
    #[must_use]
    pub(crate) fn limit(&self) -> Option<u64> {
        let parent = self.parent.as_ref().and_then(|parent| parent.limit());
        self.limit.into_iter().chain(parent).min()
    }

    /// Bytes held now.
    #[must_use]
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How often a charge was refused.
    #[must_use]
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The most that was ever held at once, bytes.
    #[must_use]
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl std::fmt::Display for OverLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { asked, used, limit, of_pod, kinds } = self;
        let whose = if *of_pod { "the pod's memory limit" } else { "its memory limit" };
        write!(f, "asked for {asked} bytes more with {used} in use; {whose} is {limit} bytes")?;
        let MemoryKinds { linear, tables, host } = kinds;
        if kinds == &MemoryKinds::default() {
            return Ok(());
        }
        write!(f, " (it held {linear} in linear memory, {tables} in tables, {host} on the host)")
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refused_charge_changes_nothing() {
        let pod = Arc::new(Ledger::new(Some(100), None));
        let a = Ledger::new(Some(80), Some(Arc::clone(&pod)));
        let b = Ledger::new(None, Some(Arc::clone(&pod)));
        a.charge(60).unwrap();
        let own = a.charge(30).unwrap_err();
        let kinds = MemoryKinds { host: 60, ..MemoryKinds::default() };
        assert_eq!(own, OverLimit { asked: 30, used: 60, limit: 80, of_pod: false, kinds });
        assert!(b.charge(50).unwrap_err().of_pod);
        assert_eq!((a.used(), b.used(), pod.used()), (60, 0, 60));
        a.release(60);
        b.charge(100).unwrap();
        assert_eq!((a.peak(), b.peak(), pod.used(), pod.peak()), (60, 100, 100, 100));
    }

    #[test]
    fn a_charge_that_overflows_is_refused() {
        let ledger = Ledger::new(None, None);
        ledger.charge(u64::MAX).unwrap();
        ledger.charge(1).unwrap_err();
    }

    proptest! {
        #[test]
        fn the_pod_always_holds_the_sum_of_its_modules(
            steps in proptest::collection::vec((0usize..3, 0u64..60, any::<bool>()), 1..200)
        ) {
            let pod = Arc::new(Ledger::new(Some(200), None));
            let modules: Vec<_> =
                (0..3).map(|_| Ledger::new(Some(100), Some(Arc::clone(&pod)))).collect();
            for (who, bytes, give) in steps {
                let module = &modules[who];
                if give {
                    module.release(bytes.min(module.used()));
                } else {
                    let before = (module.used(), pod.used());
                    if module.charge(bytes).is_err() {
                        prop_assert_eq!(before, (module.used(), pod.used()));
                        prop_assert!(before.0 + bytes > 100 || before.1 + bytes > 200);
                    }
                }
                prop_assert_eq!(pod.used(), modules.iter().map(Ledger::used).sum::<u64>());
                prop_assert!(pod.used() <= 200 && module.used() <= 100);
            }
        }
    }
}
