//! Who is next: weights, and virtual time.
//!
//! Owns: a module's share of the machine, and how much of it the module has used. Is not: limits (`meter.rs`), nor the queue.
//!
//! Virtual time is CPU time divided by weight. Of all modules that want to run, the one that has used least of it runs next, so that each gets
//! CPU time in proportion to its weight (stride scheduling). A module that slept comes back at the present, less a small credit: it
//! runs before those that spin, and has saved up nothing else.
//!
//! Weights are Kubernetes': a pod weighs what it requests, and its modules divide that among those of them that want to run. A request of
//! one core weighs 1000.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Weight of a module or pod that requests nothing (or less): a hundredth of a core. Kubernetes gives such a one 2 of 1024, with which
/// it would stand still beside a busy neighbour.
const WEIGHT_MIN: u64 = 10;

/// The weight at which virtual time passes ten times slower than real time: one core's. Coarser than nanoseconds, so that 64 bits last
/// for years of CPU time at the smallest weight.
const SCALE: u64 = 100;

/// CPU time by which whoever slept goes before the others, nanoseconds.
const CREDIT_NS: u64 = 2_000_000;

/// CPU time by which whoever runs on and on may be behind its due, nanoseconds. It falls behind when the kernel stops its thread, or when
/// it weighs more than a whole thread can give; only the former is to be made good.
const LAG_NS: u64 = 50_000_000;

/// The weight of a pod.
#[derive(Debug, Default)]
pub(crate) struct PodShare {
    /// What it requests; `None`: each of its modules stands for itself.
    weight: Option<u64>,
    /// Sum of the weights of its modules that want to run now.
    active: AtomicU64,
}

impl PodShare {
    /// A pod that requests so many thousandths of a core, all its modules together.
    pub(crate) fn new(request_millis: Option<u64>) -> Self {
        Self {
            weight: request_millis.map(|millis| millis.max(WEIGHT_MIN)),
            active: AtomicU64::new(0),
        }
    }
}

/// One module's share.
#[derive(Debug)]
pub(crate) struct Share {
    weight: u64,
    used: AtomicU64,
    /// How many of its tasks want to run now.
    tasks: AtomicUsize,
    pod: Arc<PodShare>,
}

impl Share {
    /// A module that requests so many thousandths of a core.
    pub(crate) fn new(request_millis: Option<u64>, pod: Arc<PodShare>) -> Self {
        let weight = request_millis.unwrap_or(0).max(WEIGHT_MIN);
        Self { weight, used: AtomicU64::new(0), tasks: AtomicUsize::new(0), pod }
    }

    /// Virtual time it has used.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts CPU time.
    pub(crate) fn charge(&self, ns: u64) {
        self.used.fetch_add(virtual_time(ns, self.weight_now()), Ordering::Relaxed);
    }

    /// A task of it wants to run from now on, at virtual time `clock`.
    pub(crate) fn enter(&self, clock: u64) {
        if self.pod.weight.is_some() && self.tasks.fetch_add(1, Ordering::Relaxed) == 0 {
            self.pod.active.fetch_add(self.weight, Ordering::Relaxed);
        }
        self.at_least(clock, CREDIT_NS);
    }

    /// It wants to go on at virtual time `clock`: gives up what it has missed long ago.
    pub(crate) fn go_on(&self, clock: u64) {
        self.at_least(clock, LAG_NS);
    }

    fn at_least(&self, clock: u64, behind_ns: u64) {
        let least = clock.saturating_sub(virtual_time(behind_ns, self.weight_now()));
        if self.used() < least {
            self.used.fetch_max(least, Ordering::Relaxed);
        }
    }

    /// A task of it waits for something else than its turn.
    pub(crate) fn leave(&self) {
        if self.pod.weight.is_some() && self.tasks.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.pod.active.fetch_sub(self.weight, Ordering::Relaxed);
        }
    }

    /// Its part of its pod's weight.
    fn weight_now(&self) -> u64 {
        let Some(pod) = self.pod.weight else { return self.weight };
        let active = self.pod.active.load(Ordering::Relaxed).max(self.weight);
        (pod.saturating_mul(self.weight) / active).max(1)
    }
}

fn virtual_time(ns: u64, weight: u64) -> u64 {
    ns.saturating_mul(SCALE) / weight
}

#[cfg(test)]
mod test {
    use super::*;

    const MS: u64 = 1_000_000;

    fn alone(request: u64) -> Share {
        Share::new(Some(request), Arc::default())
    }

    #[test]
    fn virtual_time_passes_in_inverse_proportion_to_the_weight() {
        let shares = [100, 200, 400].map(alone);
        for share in &shares {
            share.charge(8 * MS);
        }
        let [light, middle, heavy] = shares.map(|share| share.used());
        assert_eq!((light, middle), (4 * heavy, 2 * heavy));
        assert_eq!(Share::new(None, Arc::default()).weight, WEIGHT_MIN);
    }

    #[test]
    fn whoever_slept_has_saved_up_the_credit_and_no_more() {
        let share = alone(1000);
        share.enter(1000 * MS);
        assert_eq!(share.used(), 1000 * MS - CREDIT_NS / 10);
        share.charge(50 * MS);
        share.leave();
        // Ahead of everybody: stays there.
        let ahead = share.used();
        share.enter(1000 * MS);
        assert_eq!(share.used(), ahead);
    }

    #[test]
    fn a_pods_weight_is_divided_among_those_of_its_modules_that_want_to_run() {
        let pod = Arc::new(PodShare::new(Some(300)));
        let [a, b] = [100, 200].map(|request| Share::new(Some(request), Arc::clone(&pod)));
        a.enter(0);
        assert_eq!(a.weight_now(), 300);
        b.enter(0);
        assert_eq!((a.weight_now(), b.weight_now()), (100, 200));
        a.leave();
        assert_eq!(b.weight_now(), 300);
        b.leave();
        assert_eq!(pod.active.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_pod_may_request_more_than_its_modules_do() {
        let pod = Arc::new(PodShare::new(Some(1000)));
        let [a, b] = [None, None].map(|request| Share::new(request, Arc::clone(&pod)));
        a.enter(0);
        b.enter(0);
        assert_eq!((a.weight_now(), b.weight_now()), (500, 500));
    }
}
