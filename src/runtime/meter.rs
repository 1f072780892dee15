//! CPU as a rate: measures each turn of a guest, and makes it wait when it is over its share.
//!
//! Owns: the token buckets, the account of CPU time, and the wrapper that every guest runs in. Is not: what gives the thread back (the
//! epoch, and the callback in `instance.rs`), nor who runs next (`sched`).
//!
//! ```text
//!   poll ──► ended? ──yes──► drop the guest here, on its own thread
//!              │no
//!              ▼
//!          bucket empty? ──yes──► sleep until it is not (throttled)
//!              │no
//!              ▼
//!          run the guest for a turn, measured in thread time ──► charge the module's bucket, the pod's, and its share
//!                     └─ at each tick: charge so far, and step back if the bucket is empty by now
//! ```
//! A turn is cut at a tick: it may go into debt by that much (or by one long memory instruction), and pays it back by waiting. So the
//! rate is exact over time, and only its grain is coarse.
//!
//! What counts: everything on a guest's own thread, host functions, file work and the end of its store included. Work that the host does elsewhere is on the
//! module's account where it is known whose it is ([`CpuAccount::work`], and its own threads for file work), else on the pod's ([`PodCpu::charge`], and
//! [`PodCpu::charge_carrying`] for what carries its bytes on the guests' threads), whose modules then wait for it;
//! and whoever brings such work from outside is made to wait too ([`PodCpu::owes`]). Compiling never counts.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::cputime::{monotonic_ns, thread_ns};
use super::file_threads::is_counted_here;
use super::fuel::Pacer;
use super::run::{End, Shared};
use super::sched::{PodShare, Share, turn_began};
use super::stacks;
use super::strand::Strand;

/// CPU time that may be saved up for each core of the limit (for one at least), nanoseconds: enough to answer a request at full speed,
/// too little to be felt by a neighbour.
const BURST_NS: i64 = 20_000_000;

/// CPU time in hand at the start: one turn. A whole burst would be a large part of a small limit's first seconds.
const FIRST_NS: i64 = 5_000_000;

/// Turns shorter than this are charged by the wall clock. It counts a little too much when another thread got
/// between, never too little, and asking the kernel for thread time would cost more than such a turn.
const SHORT_TURN_NS: u64 = 50_000;

/// How long a reading of thread time serves as the base for the next one.
const SAMPLE_AGE_NS: u64 = 1_000_000;

/// Thousandths of a core, refilled by the clock.
#[derive(Debug)]
pub(crate) struct Bucket {
    millis: u64,
    burst: i64,
    state: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// CPU time in hand, nanoseconds; negative: owed.
    ns: i64,
    /// Earned beside, thousandths of a nanosecond.
    rest: u64,
    filled_at: u64,
}

impl Bucket {
    pub(crate) fn new(millis: u64, now: u64) -> Self {
        let cores = i64::try_from(millis.div_ceil(1000).max(1)).unwrap_or(i64::MAX);
        let state = Mutex::new(Level { ns: FIRST_NS, rest: 0, filled_at: now });
        Self { millis: millis.max(1), burst: BURST_NS.saturating_mul(cores), state }
    }

    /// How long a module has to wait before its next turn, nanoseconds; 0: not at all.
    pub(crate) fn wait_ns(&self, now: u64) -> u64 {
        let mut level = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_sub(level.filled_at);
        level.filled_at = level.filled_at.max(now);
        // In thousandths of a nanosecond: many who ask often must not lose a part each time.
        let earned = since.saturating_mul(self.millis).saturating_add(level.rest);
        level.rest = earned % 1000;
        level.ns = level.ns.saturating_add_unsigned(earned / 1000).min(self.burst);
        if level.ns > 0 {
            return 0;
        }
        level.ns.unsigned_abs().saturating_add(1).saturating_mul(1000).div_ceil(self.millis)
    }

    pub(crate) fn charge(&self, ns: u64) {
        let mut level = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        level.ns = level.ns.saturating_sub_unsigned(ns);
    }
}

/// The CPU account of a pod.
#[derive(Debug)]
pub(crate) struct PodCpu {
    bucket: Option<Bucket>,
    share: Arc<PodShare>,
    /// The share of all that carries bytes for it on the guests' threads (`carry.rs`).
    carriers: Arc<Share>,
    used_ns: AtomicU64,
}

impl PodCpu {
    /// A pod with so many thousandths of a core at most, and so many requested.
    pub(crate) fn new(limit_millis: Option<u64>, request_millis: Option<u64>) -> Self {
        let share = Arc::new(PodShare::new(request_millis));
        Self {
            bucket: limit_millis.map(|millis| Bucket::new(millis, monotonic_ns())),
            // As much as all its modules together: what one of them says does not wait behind what the others compute.
            carriers: Arc::new(Share::new(request_millis, Arc::clone(&share))),
            share,
            used_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn carriers(&self) -> &Arc<Share> {
        &self.carriers
    }

    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used_ns.load(Ordering::Relaxed))
    }

    /// For how long the pod as a whole has nothing left; zero: it has, or needs none.
    pub(crate) fn owes(&self, now: u64) -> Duration {
        Duration::from_nanos(self.bucket.as_ref().map_or(0, |bucket| bucket.wait_ns(now)))
    }

    /// Counts CPU time used for the pod, by one of its modules or by the host.
    pub(crate) fn charge(&self, ns: u64) {
        self.used_ns.fetch_add(ns, Ordering::Relaxed);
        if let Some(bucket) = &self.bucket {
            bucket.charge(ns);
        }
    }

    /// Counts CPU time used by its carriers on the guests' threads.
    pub(crate) fn charge_carrying(&self, ns: u64) {
        self.carriers.charge(ns);
        self.charge(ns);
    }
}

/// The CPU account of one module: its own bucket, its pod's, its share, and the sums.
#[derive(Debug)]
pub(crate) struct CpuAccount {
    own: Option<Bucket>,
    pod: Arc<PodCpu>,
    pub(crate) share: Arc<Share>,
    used_ns: AtomicU64,
    throttled_ns: AtomicU64,
}

impl CpuAccount {
    /// A module with so many thousandths of a core at most, and so many requested.
    pub(crate) fn new(
        limit_millis: Option<u64>,
        request_millis: Option<u64>,
        pod: Arc<PodCpu>,
    ) -> Self {
        Self {
            own: limit_millis.map(|millis| Bucket::new(millis, monotonic_ns())),
            share: Arc::new(Share::new(request_millis, Arc::clone(&pod.share))),
            pod,
            used_ns: AtomicU64::new(0),
            throttled_ns: AtomicU64::new(0),
        }
    }

    /// How long the module has to wait for CPU time, nanoseconds; 0: not at all.
    pub(crate) fn wait_ns(&self, now: u64) -> u64 {
        let own = self.own.as_ref().map_or(0, |bucket| bucket.wait_ns(now));
        let pod = self.pod.bucket.as_ref().map_or(0, |bucket| bucket.wait_ns(now));
        own.max(pod)
    }

    /// Counts CPU time used for the module, on whatever thread.
    pub(crate) fn charge(&self, ns: u64) {
        self.used_ns.fetch_add(ns, Ordering::Relaxed);
        self.share.charge(ns);
        if let Some(bucket) = &self.own {
            bucket.charge(ns);
        }
        self.pod.charge(ns);
    }

    /// Does something for the module on this thread, which is none of the guests', and counts what it takes.
    pub(crate) fn work<R>(&self, work: impl FnOnce() -> R) -> R {
        if is_counted_here() {
            return work();
        }
        let before = thread_ns();
        let result = work();
        self.charge(thread_ns().saturating_sub(before));
        result
    }

    /// Counts what the turn in progress on this thread has used since it began, or since the last call.
    pub(crate) fn settle(&self, now: u64) {
        self.charge(lap(now));
    }

    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used_ns.load(Ordering::Relaxed))
    }

    /// The least of its own limit and its pod's, thousandths of a core; `None`: no limit.
    pub(crate) fn limit_millis(&self) -> Option<u64> {
        let limits = [&self.own, &self.pod.bucket].map(|bucket| Some(bucket.as_ref()?.millis));
        limits.into_iter().flatten().min()
    }

    /// The module has waited because of a limit.
    pub(crate) fn held_back(&self, ns: u64) {
        self.throttled_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(crate) fn throttled(&self) -> Duration {
        Duration::from_nanos(self.throttled_ns.load(Ordering::Relaxed))
    }
}

/// This thread's stop watch: the last reading of its CPU time, what has been counted since by the wall clock, and from
/// when on the next lap counts.
#[derive(Clone, Copy)]
struct Watch {
    cpu: u64,
    wall: u64,
    counted: u64,
    from: u64,
}

thread_local! {
    static WATCH: Cell<Watch> = const { Cell::new(Watch { cpu: 0, wall: 0, counted: 0, from: 0 }) };
}

/// Begins the first lap of a turn.
pub(super) fn start(now: u64) {
    let mut watch = WATCH.get();
    if now.saturating_sub(watch.wall) > SAMPLE_AGE_NS {
        watch = Watch { cpu: thread_ns(), wall: now, counted: 0, from: now };
    }
    WATCH.set(Watch { from: now, ..watch });
}

/// Ends a lap and begins the next: CPU time of this thread since the last, nanoseconds.
pub(super) fn lap(now: u64) -> u64 {
    let watch = WATCH.get();
    let wall = now.saturating_sub(watch.from);
    if wall < SHORT_TURN_NS {
        WATCH.set(Watch { counted: watch.counted + wall, from: now, ..watch });
        return wall;
    }
    let cpu = thread_ns();
    WATCH.set(Watch { cpu, wall: now, counted: 0, from: now });
    cpu.saturating_sub(watch.cpu).saturating_sub(watch.counted).min(wall)
}

/// How a metered guest came to its end.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// By itself.
    Finished(T),
    /// We ended it.
    Ended(End),
}

/// A guest, run under its account. Dropping it drops the guest.
pub(crate) struct Metered<F> {
    guest: Option<Pin<Box<F>>>,
    strand: Strand,
    /// Since when it waits for CPU time, and the timer that ends the wait.
    throttled: Option<u64>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Where its instructions are paced.
    pacer: Option<Pacer>,
}

impl<F> Metered<F> {
    pub(crate) fn new(guest: F, run: Arc<Shared>) -> Self {
        let strand = Strand::new(run);
        let engine = strand.run().paced.clone();
        let pacer = engine.map(|engine| Pacer::new(engine, &strand.waker));
        Self { guest: Some(Box::pin(guest)), strand, throttled: None, timer: None, pacer }
    }

    /// Whether the bucket lets the guest run now; arms the timer if not.
    fn may_run(&mut self, now: u64, cx: &mut Context<'_>) -> bool {
        let cpu = &self.strand.run().account.cpu;
        let wait = cpu.wait_ns(now);
        if wait == 0 {
            if let Some(since) = self.throttled.take() {
                cpu.held_back(now.saturating_sub(since));
            }
            return true;
        }
        self.throttled.get_or_insert(now);
        let timer = Box::pin(tokio::time::sleep(Duration::from_nanos(wait)));
        let timer = self.timer.insert(timer);
        if timer.as_mut().poll(cx).is_ready() {
            // Due already (the wheel's grain is a millisecond): look again at the next poll, now.
            cx.waker().wake_by_ref();
        }
        false
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = Outcome<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.strand.waker.register(cx.waker());
        let now = turn_began();
        if let Some(end) = this.strand.run().ended() {
            let run = this.strand.run();
            // Peers see a reset and not an end of file: first the network, then the store. Letting go of gigabytes takes its time, which is the
            // module's too.
            start(now);
            run.leave_network();
            this.guest = None;
            run.account.cpu.settle(monotonic_ns());
            return Poll::Ready(Outcome::Ended(end));
        }
        this.strand.run().count_file_threads();
        if !this.may_run(now, cx) {
            return Poll::Pending;
        }
        let Some(guest) = &mut this.guest else {
            return Poll::Pending;
        };
        let run = this.strand.run();
        start(now);
        let result = match &mut this.pacer {
            Some(pacer) => pacer.poll(guest.as_mut()),
            None => guest.as_mut().poll(cx),
        };
        let end = monotonic_ns();
        run.account.cpu.settle(end);
        if let Err(over) = stacks::turn_over(end.saturating_sub(now)) {
            run.end(End::OutOfMemory(over));
        }
        result.map(Outcome::Finished)
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    /// Runs a spinning guest of `millis` in turns of `turn` for `total`; returns the CPU time it got.
    fn spin(millis: u64, turn: u64, total: u64) -> u64 {
        let bucket = Bucket::new(millis, 0);
        let (mut now, mut got) = (0, 0);
        while now < total {
            match bucket.wait_ns(now) {
                0 => {
                    now += turn;
                    got += turn;
                    bucket.charge(turn);
                }
                wait => now += wait,
            }
        }
        got
    }

    #[test]
    fn a_spinning_module_gets_its_share_and_no_more() {
        for millis in [10, 50, 200, 500, 900] {
            let got = spin(millis, 5 * MS, 10_000 * MS);
            let due = millis * 10 * MS;
            assert!(got >= due - 5 * MS, "{millis}m got {got}");
            assert!(got <= due + BURST_NS.unsigned_abs() + 5 * MS, "{millis}m got {got}");
        }
    }

    #[test]
    fn a_module_that_was_idle_saves_up_one_burst_only() {
        let bucket = Bucket::new(100, 0);
        assert_eq!(bucket.wait_ns(3_600_000 * MS), 0);
        bucket.charge(30 * MS);
        // Ten milliseconds are owed, which a tenth of a core earns in a hundred.
        let wait = bucket.wait_ns(3_600_000 * MS);
        assert!((100 * MS..101 * MS).contains(&wait), "{wait}");
    }

    #[test]
    fn asking_often_costs_nothing() {
        for (millis, every) in [(1, 1_900), (7, 150), (333, 7), (1500, 1), (10, 99)] {
            let (often, once) = (Bucket::new(millis, 0), Bucket::new(millis, 0));
            for bucket in [&often, &once] {
                bucket.charge(2_000 * MS);
            }
            let mut now = 0;
            for _ in 0..10_000 {
                now += every;
                often.wait_ns(now);
            }
            let (often, once) = (often.wait_ns(now), once.wait_ns(now));
            // A nanosecond of CPU time, by the limit.
            assert!(often.abs_diff(once) <= 1_000 / millis + 1, "{millis}m: {often} or {once}");
        }
    }

    #[test]
    fn a_clock_that_leaps_fills_one_burst_and_one_that_stands_none() {
        for millis in [1, 10, 1000, 64_000] {
            let bucket = Bucket::new(millis, 1_000);
            bucket.charge(50_000 * MS);
            let wait = bucket.wait_ns(1_000);
            assert_eq!(bucket.wait_ns(1_000), wait);
            // Back before it began: nothing is earned, and nothing lost.
            assert_eq!(bucket.wait_ns(0), wait);
            for leap in [u64::MAX / 2, u64::MAX] {
                assert_eq!(bucket.wait_ns(leap), 0, "{millis}m");
                bucket.charge(bucket.burst.unsigned_abs());
                assert!(bucket.wait_ns(leap) > 0, "{millis}m saved up more than a burst");
            }
        }
    }

    #[test]
    fn what_the_host_does_for_a_pod_its_modules_wait_for() {
        let pod = Arc::new(PodCpu::new(Some(500), None));
        let module = CpuAccount::new(None, None, Arc::clone(&pod));
        let now = monotonic_ns();
        assert_eq!(module.wait_ns(now), 0);
        pod.charge(1_000 * MS);
        // A second less what was in hand, at half a core.
        let wait = module.wait_ns(now);
        assert!((1_900 * MS..2_000 * MS).contains(&wait), "{wait}");
        assert_eq!((module.used(), pod.used()), (Duration::ZERO, Duration::from_secs(1)));
    }

    #[test]
    fn what_carries_for_a_pod_is_charged_to_it_and_counts_for_its_next_turn() {
        let pod = Arc::new(PodCpu::new(Some(500), Some(1000)));
        let module = CpuAccount::new(None, Some(1000), Arc::clone(&pod));
        pod.charge_carrying(1_000 * MS);
        module.share.charge(1_000 * MS);
        assert_eq!(pod.used(), Duration::from_secs(1));
        assert!(module.wait_ns(monotonic_ns()) > 1_900 * MS, "its modules wait for it");
        assert_eq!(pod.carriers().used(), module.share.used(), "it weighs as much as they do");
    }

    proptest! {
        #[test]
        fn waiting_as_long_as_told_is_always_enough(
            millis in 1u64..4000, debt in 0u64..10_000_000_000, at in 0u64..1_000_000_000_000
        ) {
            let bucket = Bucket::new(millis, at);
            bucket.charge(debt);
            let wait = bucket.wait_ns(at);
            prop_assert_eq!(bucket.wait_ns(at + wait), 0);
        }
    }

    #[test]
    fn turns_are_charged_what_they_took() {
        let mut charged = 0;
        let before = thread_ns();
        for n in 0..200u64 {
            // Short and long turns in turn, with idle time of the thread between them.
            let work = if n % 10 == 0 { 300_000 } else { 10_000 };
            super::start(monotonic_ns());
            let until = thread_ns() + work;
            while thread_ns() < until {
                std::hint::spin_loop();
            }
            let spent = lap(monotonic_ns());
            charged += spent;
        }
        let took = thread_ns() - before;
        assert!(charged <= took * 11 / 10 && charged >= took * 8 / 10, "{charged} of {took}");
    }
}
