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
        self.used.fetch_add(self.virtual_time(ns), Ordering::Relaxed);
    }

    /// A task of it wants to run from now on, at virtual time `clock`.
    pub(crate) fn enter(&self, clock: u64) {
        if self.pod.weight.is_some() && self.tasks.fetch_add(1, Ordering::Relaxed) == 0 {
            self.pod.active.fetch_add(self.weight, Ordering::Relaxed);
        }
        self.at_least(clock, CREDIT_NS);
    }

    /// It goes on, or wants to, at virtual time `clock`: gives up what it has missed long ago. One that weighs more than the thread that it
    /// has would fall behind without end, and those who come later would wait until it has caught up.
    pub(crate) fn go_on(&self, clock: u64) {
        self.at_least(clock, LAG_NS);
    }

    /// Whether it may have a turn before `other` although it has used more: for both of one pod, up to what makes no difference.
    pub(crate) fn may_go_before(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pod, &other.pod)
            && self.used().saturating_sub(other.used()) <= other.virtual_time(2 * CREDIT_NS)
    }

    fn at_least(&self, clock: u64, behind_ns: u64) {
        let least = clock.saturating_sub(self.virtual_time(behind_ns));
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

    /// So much CPU time, by its weight: its own, or its part of its pod's. Rounded up, so that nobody runs for nothing, however short its turns.
    fn virtual_time(&self, ns: u64) -> u64 {
        let (parts, weight) = match self.pod.weight {
            None => (1, self.weight),
            Some(pod) => {
                let active = self.pod.active.load(Ordering::Relaxed).max(self.weight);
                (active, pod.saturating_mul(self.weight))
            }
        };
        let scaled = u128::from(ns) * u128::from(SCALE) * u128::from(parts);
        u64::try_from(scaled.div_ceil(u128::from(weight))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const MS: u64 = 1_000_000;

    fn alone(request: u64) -> Share {
        Share::new(Some(request), Arc::default())
    }

    /// What it weighs now.
    fn weight(share: &Share) -> u64 {
        let time = share.virtual_time(MS);
        (SCALE * MS + time / 2) / time
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
        assert_eq!(weight(&a), 300);
        b.enter(0);
        assert_eq!((weight(&a), weight(&b)), (100, 200));
        a.leave();
        assert_eq!(weight(&b), 300);
        b.leave();
        assert_eq!(pod.active.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_pod_may_request_more_than_its_modules_do() {
        let pod = Arc::new(PodShare::new(Some(1000)));
        let [a, b] = [None, None].map(|request| Share::new(request, Arc::clone(&pod)));
        a.enter(0);
        b.enter(0);
        assert_eq!((weight(&a), weight(&b)), (500, 500));
    }

    #[test]
    fn a_pod_of_many_modules_weighs_no_more_than_it_requests() {
        // Whole numbers would give each of them a weight of one.
        let pod = Arc::new(PodShare::new(Some(WEIGHT_MIN)));
        let modules: Vec<_> = (0..64).map(|_| Share::new(None, Arc::clone(&pod))).collect();
        for module in &modules {
            module.enter(0);
        }
        let one = alone(WEIGHT_MIN);
        one.charge(64 * MS);
        modules[0].charge(MS);
        assert_eq!(modules[0].used(), one.used());
    }

    #[test]
    fn who_has_used_a_little_more_may_go_before_others_of_its_pod_and_before_nobody_else() {
        let pod = Arc::new(PodShare::new(None));
        let [first, second] = [100, 100].map(|request| Share::new(Some(request), Arc::clone(&pod)));
        let stranger = alone(100);
        second.charge(2 * CREDIT_NS);
        assert!(second.may_go_before(&first));
        assert!(!second.may_go_before(&stranger));
        second.charge(1);
        assert!(!second.may_go_before(&first), "it is not to wait for ever");
    }

    #[test]
    fn turns_too_short_to_count_are_counted_all_the_same() {
        let share = alone(64_000);
        for _ in 0..1000 {
            share.charge(3);
        }
        assert!(share.used() >= 1000);
    }

    #[test]
    fn what_is_too_much_to_count_is_the_end_of_time_and_not_its_beginning() {
        let share = alone(WEIGHT_MIN);
        assert_eq!(share.virtual_time(u64::MAX), u64::MAX);
        // A year at the least weight is nothing to it.
        let year = 365 * 24 * 3600 * 1000 * MS;
        assert!(share.virtual_time(year) < u64::MAX / 50);
    }
}
