//! The memory account of a module, of its pod, and what all pods of the node hold.
//!
//! Owns: counting and refusing. Is not: what happens at a refusal; the limiter (`limiter.rs`) kills or answers −1, the network makes
//! the writer wait.
//!
//! ```text
//! linear memories, tables, stacks, resources ──► Ledger of the module ──► Ledger of the pod ──► NodeMemory
//! socket buffers, bodies, lists, read ahead ──►        (limit)               (limit) ▲          (for those without a limit)
//!                                                                 memory volumes, log lines
//! ```
//! Charging is three atomic additions; a refused charge changes nothing. Limits: those of the manifest; for a module that has none, and whose
//! pod has none, what is left on the node, where nothing else bounds what it takes ([`Ledger::charge_growth`]): it is stopped before it fills the machine between two looks at its memory
//! (`daemon::pressure`). Who has a limit may have what it says, also where all limits together are more than there is: that is
//! the manifests' choice, as in Kubernetes, and the watch over the memory is there for it.
//!
//! What others cause (clients that connect and send) leaves the last part of a limit to the module itself ([`Ledger::charge_for_others`]): a module whose
//! own next call finds nothing may be ended for it, and that is not for its clients to bring about.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all pods of a node hold, and where those without a limit have to stop.
#[derive(Debug)]
pub(crate) struct NodeMemory {
    used: AtomicU64,
    ceiling: AtomicU64,
}

impl Default for NodeMemory {
    /// Without a bound until somebody has looked.
    fn default() -> Self {
        Self { used: AtomicU64::new(0), ceiling: AtomicU64::new(u64::MAX) }
    }
}

impl NodeMemory {
    /// From now on those without a limit may have `room` bytes more than all have now, and never bring the sum above `most`.
    pub(crate) fn bound(&self, most: u64, room: u64) {
        let used = self.used.load(Ordering::Relaxed);
        self.ceiling.store(most.min(used.saturating_add(room)), Ordering::Relaxed);
    }

    /// Takes `bytes`; for somebody who `asks`, if there are as many. Else: how many are in use, and how many there may be.
    fn take(&self, bytes: u64, asks: bool) -> Result<(), (u64, u64)> {
        let most = if asks { self.ceiling.load(Ordering::Relaxed) } else { u64::MAX };
        let more = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= most || bytes == 0);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(drop).map_err(|used| (used, most))
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Of each limit, the part that others do not get: a sixteenth, but no more than this. Enough for the stacks, resources and first bytes of some dozen
/// requests under way, and little of a limit that has room for them.
const KEPT_BACK_MAX: u64 = 512 << 10;

/// What a charge is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// What has a bound of its own.
    Bounded,
    /// What only memory bounds.
    Growth,
    /// What others cause.
    Others,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Module,
    Pod,
    /// Neither has one: the node's, for all who have none.
    Node,
}

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
    /// Where a pod's account draws on.
    node: Option<Arc<NodeMemory>>,
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
    /// What the host holds for the module: its stacks, resources, socket buffers, bodies, lists.
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
    pub(crate) whose: Whose,
    /// What the module holds already.
    pub(crate) kinds: MemoryKinds,
}

impl Ledger {
    /// An account with at most `limit` bytes, which also draws on `parent`.
    #[must_use]
    pub(crate) fn new(limit: Option<u64>, parent: Option<Arc<Ledger>>) -> Self {
        let zero = || AtomicU64::new(0);
        let (used, peak, linear, tables, refused) = (zero(), zero(), zero(), zero(), zero());
        Self { limit, used, peak, linear, tables, refused, parent, node: None }
    }

    /// The account of a pod on a node.
    #[must_use]
    pub(crate) fn of_pod(limit: Option<u64>, node: Arc<NodeMemory>) -> Self {
        Self { node: Some(node), ..Self::new(limit, None) }
    }

    /// Takes `bytes`, here and from the parent.
    ///
    /// # Errors
    /// [`OverLimit`] if either has not that many left; nothing is taken then.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), OverLimit> {
        self.ask(bytes, For::Bounded)
    }

    /// The same for what has no other bound than the memory there is (linear memories, tables, memory volumes): without a limit here and
    /// there, the node is asked as well.
    ///
    /// # Errors
    /// As [`Ledger::charge`].
    pub(crate) fn charge_growth(&self, bytes: u64) -> Result<(), OverLimit> {
        self.ask(bytes, For::Growth)
    }

    /// The same for what others cause: of each limit a part is not theirs.
    ///
    /// # Errors
    /// As [`Ledger::charge`]; the limit that it names is the part that others may use.
    pub(crate) fn charge_for_others(&self, bytes: u64) -> Result<(), OverLimit> {
        self.ask(bytes, For::Others)
    }

    /// Whether there is more left than what others do not get.
    ///
    /// # Errors
    /// [`OverLimit`] if not.
    pub(crate) fn has_some_for_others(&self) -> Result<(), OverLimit> {
        self.charge_for_others(1)?;
        self.release(1);
        Ok(())
    }

    fn ask(&self, bytes: u64, what: For) -> Result<(), OverLimit> {
        self.take_all(bytes, what).inspect_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn take_all(&self, bytes: u64, what: For) -> Result<(), OverLimit> {
        let whose = if self.node.is_some() { Whose::Pod } else { Whose::Module };
        self.take(bytes, what, whose)?;
        if let Err(over) = self.take_above(bytes, what) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OverLimit { kinds: self.kinds(), ..over });
        }
        self.peak.fetch_max(self.used(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes from what this one draws on.
    fn take_above(&self, bytes: u64, what: For) -> Result<(), OverLimit> {
        let grows = what == For::Growth;
        let Some(pod) = &self.parent else { return self.take_of_node(bytes, grows) };
        pod.take(bytes, what, Whose::Pod)?;
        if let Err(over) = pod.take_of_node(bytes, grows && self.limit.is_none()) {
            pod.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(over);
        }
        pod.peak.fetch_max(pod.used(), Ordering::Relaxed);
        Ok(())
    }

    /// `asks`: for something that only memory bounds, by somebody without a limit.
    fn take_of_node(&self, bytes: u64, asks: bool) -> Result<(), OverLimit> {
        let Some(node) = &self.node else { return Ok(()) };
        node.take(bytes, asks && self.limit.is_none()).map_err(|(used, limit)| {
            let kinds = self.kinds();
            OverLimit { asked: bytes, used, limit, whose: Whose::Node, kinds }
        })
    }

    fn take(&self, bytes: u64, what: For, whose: Whose) -> Result<(), OverLimit> {
        let kept_back = |limit: u64| (limit / 16).min(KEPT_BACK_MAX);
        let limit = match (self.limit, what) {
            (None, _) => u64::MAX,
            (Some(limit), For::Others) => limit - kept_back(limit),
            (Some(limit), For::Bounded | For::Growth) => limit,
        };
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= limit)
        });
        let kinds = || self.kinds();
        let over = |used| OverLimit { asked: bytes, used, limit, whose, kinds: kinds() };
        taken.map(drop).map_err(over)
    }

    /// Gives back what an earlier charge took.
    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
        if let Some(node) = &self.node {
            node.give_back(bytes);
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
        let Self { asked, used, limit, whose, kinds } = self;
        write!(f, "asked for {asked} bytes more with {used} in use")?;
        match whose {
            Whose::Module => write!(f, "; its memory limit is {limit} bytes")?,
            Whose::Pod => write!(f, "; the pod's memory limit is {limit} bytes")?,
            Whose::Node => write!(
                f,
                " on the node; modules without a memory limit may bring that to {limit} bytes now"
            )?,
        }
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
        assert_eq!(own, OverLimit { asked: 30, used: 60, limit: 80, whose: Whose::Module, kinds });
        assert_eq!(b.charge(50).unwrap_err().whose, Whose::Pod);
        assert_eq!((a.used(), b.used(), pod.used()), (60, 0, 60));
        a.release(60);
        b.charge(100).unwrap();
        assert_eq!((a.peak(), b.peak(), pod.used(), pod.peak()), (60, 100, 100, 100));
    }

    #[test]
    fn those_without_a_limit_share_what_the_node_has_left_and_the_others_do_not_ask() {
        let node = Arc::new(NodeMemory::default());
        let pod = |limit| Arc::new(Ledger::of_pod(limit, Arc::clone(&node)));
        let (open, bounded) = (pod(None), pod(Some(1000)));
        let free = Ledger::new(None, Some(Arc::clone(&open)));
        let limited = Ledger::new(Some(500), Some(Arc::clone(&open)));
        let in_bounded = Ledger::new(None, Some(Arc::clone(&bounded)));
        free.charge_growth(400).unwrap();
        // Somebody has looked: 100 are left, and never more than 1000 in all.
        node.bound(1000, 100);
        let over = free.charge_growth(101).unwrap_err();
        assert_eq!((over.whose, over.used, over.limit), (Whose::Node, 400, 500));
        assert_eq!(over.kinds.host, 400, "its own");
        assert_eq!((free.used(), open.used(), node.used.load(Ordering::Relaxed)), (400, 400, 400));
        limited.charge_growth(300).unwrap();
        in_bounded.charge_growth(900).unwrap();
        assert_eq!(free.charge_growth(1).unwrap_err().whose, Whose::Node);
        free.charge_growth(0).unwrap();
        // What has a bound of its own is only counted.
        free.charge(5).unwrap();
        free.release(5);
        assert_eq!(open.charge_growth(1).unwrap_err().whose, Whose::Node, "a volume of that pod");
        node.bound(1000, u64::MAX);
        assert_eq!(free.charge_growth(1).unwrap_err().limit, 1000);
        in_bounded.release(900);
        limited.release(300);
        free.charge_growth(600).unwrap();
        assert_eq!(free.charge_growth(1).unwrap_err().limit, 1000);
        free.release(1000);
        assert_eq!((open.used(), open.peak()), (0, 1000));
        assert_eq!(node.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_others_cause_leaves_the_last_part_of_each_limit() {
        const MIB: u64 = 1 << 20;
        // Limits of the module and of the pod, and how much others may have.
        let cases = [
            (Some(1600), None, Some(1500)),
            (None, Some(1600), Some(1500)),
            (Some(800), Some(1600), Some(750)),
            (Some(1590), Some(1600), Some(1491)),
            (Some(64 * MIB), None, Some(64 * MIB - KEPT_BACK_MAX)),
            (None, None, None),
        ];
        for (of_module, of_pod, theirs) in cases {
            let case = format!("{of_module:?} {of_pod:?}");
            let pod = Arc::new(Ledger::new(of_pod, None));
            let module = Ledger::new(of_module, Some(Arc::clone(&pod)));
            let Some(theirs) = theirs else {
                module.charge_for_others(1 << 40).unwrap();
                continue;
            };
            module.charge_for_others(theirs).unwrap();
            let over = module.charge_for_others(1).unwrap_err();
            assert_eq!((over.used, over.limit), (theirs, theirs), "{case}");
            assert_eq!(module.has_some_for_others().unwrap_err().used, theirs, "{case}");
            assert_eq!((module.used(), pod.used()), (theirs, theirs), "{case}");
            // The rest is its own.
            let whole = of_module.unwrap_or(u64::MAX).min(of_pod.unwrap_or(u64::MAX));
            module.charge(whole - theirs).unwrap();
            module.charge(1).unwrap_err();
            module.release(whole - theirs + 1);
            module.has_some_for_others().unwrap();
        }
    }

    #[test]
    fn a_charge_that_overflows_is_refused() {
        let ledger = Ledger::new(None, None);
        ledger.charge(u64::MAX).unwrap();
        ledger.charge(1).unwrap_err();
    }

    proptest! {
        /// Whatever is charged, refused and given back: the node holds the sum of its pods, each pod that of its modules, and nobody is above a bound
        /// that it asks.
        #[test]
        fn the_node_always_holds_the_sum_of_its_pods(
            steps in proptest::collection::vec((0usize..4, 0u64..60, 0u8..4), 1..200)
        ) {
            let node = Arc::new(NodeMemory::default());
            let pods = [None, Some(150)].map(|limit| Arc::new(Ledger::of_pod(limit, Arc::clone(&node))));
            let module = |at: usize, limit| Ledger::new(limit, Some(Arc::clone(&pods[at])));
            // Only the first asks the node.
            let modules = [module(0, None), module(0, Some(100)), module(1, None), module(1, Some(100))];
            let mut ceiling = u64::MAX;
            for (who, bytes, what) in steps {
                let (one, before) = (&modules[who], node.used.load(Ordering::Relaxed));
                match what {
                    0 => one.release(bytes.min(one.used())),
                    1 => {
                        ceiling = (before + bytes).min(300);
                        node.bound(300, bytes);
                    }
                    _ => {
                        let outcome = if what == 2 { one.charge(bytes) } else { one.charge_growth(bytes) };
                        let fits_node = what == 2 || who != 0 || bytes == 0 || before + bytes <= ceiling;
                        let fits = fits_node && match who {
                            0 => true,
                            1 => one.used() + if outcome.is_ok() { 0 } else { bytes } <= 100,
                            _ => pods[1].used() + if outcome.is_ok() { 0 } else { bytes } <= 150
                                && (who == 2 || one.used() + if outcome.is_ok() { 0 } else { bytes } <= 100),
                        };
                        prop_assert_eq!(outcome.is_ok(), fits, "{:?}", outcome);
                    }
                }
                let sum = |of: std::ops::Range<usize>| modules[of].iter().map(Ledger::used).sum::<u64>();
                prop_assert_eq!((pods[0].used(), pods[1].used()), (sum(0..2), sum(2..4)));
                prop_assert_eq!(node.used.load(Ordering::Relaxed), sum(0..4));
            }
        }

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
