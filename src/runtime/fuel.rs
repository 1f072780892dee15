//! Instructions as a budget and as a pace: what one run may execute, all its stores together.
//!
//! Owns: the counting, the bucket that the clock fills, and making a paced guest tell what it has executed in time. Is not: the counter
//! itself (wasmtime's, in each store), nor the end of a run whose budget is used up (`instance.rs`).
//!
//! ```text
//!  interval executed ──► wasmtime writes the count down and gives the thread back (its fuel yield)
//!        ▲                          │ Pacer: the guest woke itself, so it may be that: turn the engine's epoch
//!        │                          ▼
//!        │                 next poll: the guest looks up at once (`instance::look_up`): the interval is paid for
//!        │                          │ owed?
//!        └──────────────────────────┴──yes──► waits until the clock has paid for it
//! ```
//! A tight loop keeps its count in a register, where nobody sees it, and wasmtime tells nobody of its fuel yields. So a tick alone would find what
//! was executed milliseconds ago, or nothing; with the above nobody is ahead of its pace by more than what it may save up and, for each of its stores
//! that works, one interval. An interval is a hundredth of a second at its pace, so a module that is held to its pace looks up a hundred times a
//! second, however slow or fast it is; one without a pace has no intervals.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use wasmtime::Engine;

use super::cputime::monotonic_ns;
use super::run::Shared;

/// An interval: this part of a second's instructions.
const INTERVALS_PER_SECOND: u64 = 100;

/// The least interval: to begin a turn costs as much as some thousand instructions, and programs take as many to begin.
const INTERVAL_MIN: u64 = 1_000;

/// The largest: some milliseconds of a tight loop, so that what it has executed is seen (`top`, metrics) while it runs.
const INTERVAL_MAX: u64 = 10_000_000;

/// What one run may spend in instructions, all its stores together.
#[derive(Debug)]
pub(crate) struct Fuel {
    budget: Option<u64>,
    spent: AtomicU64,
    pace: Option<Pace>,
}

/// Fuel per second: a bucket that the clock fills.
#[derive(Debug)]
struct Pace {
    rate: u64,
    /// Instructions that may be saved up.
    burst: i64,
    state: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Instructions in hand; negative: owed.
    instructions: i64,
    /// Earned beside, billionths of an instruction.
    rest: u128,
    filled_at: u64,
}

impl Fuel {
    /// A budget for the whole run, and a pace as of `now`; `None`: no bound.
    pub(crate) fn new(budget: Option<u64>, per_second: Option<u64>, now: u64) -> Self {
        let pace = per_second.map(|rate| Pace::new(rate, now));
        Self { budget, spent: AtomicU64::new(0), pace }
    }

    /// Instructions after which a paced guest gives the thread back.
    pub(crate) fn interval(&self) -> Option<u64> {
        self.pace.as_ref().map(|pace| interval(pace.rate))
    }

    fn left(&self) -> u64 {
        self.budget
            .map_or(u64::MAX, |budget| budget.saturating_sub(self.spent.load(Ordering::Relaxed)))
    }

    /// Whether all stores together have spent the budget. One alone is stopped by wasmtime at the instruction.
    pub(crate) fn is_used_up(&self) -> bool {
        self.budget.is_some_and(|budget| self.spent.load(Ordering::Relaxed) > budget)
    }

    /// Counts what was executed.
    fn spend(&self, instructions: u64) {
        self.spent.fetch_add(instructions, Ordering::Relaxed);
        if let Some(pace) = &self.pace {
            pace.pay(instructions);
        }
    }

    /// How long the run has to wait for what its stores have executed.
    pub(crate) fn owed(&self, now: u64) -> Option<Duration> {
        self.pace.as_ref()?.owed(now)
    }

    /// Waits until nothing is owed: before a store begins, since those before it may have ended sooner than they had to pay.
    pub(crate) async fn settled(&self, run: &Arc<Shared>) {
        while let Some(wait) = self.owed(monotonic_ns()) {
            held_back(run, wait).await;
        }
    }
}

fn interval(rate: u64) -> u64 {
    (rate / INTERVALS_PER_SECOND).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

impl Pace {
    /// Time worth of instructions that may be saved up; as for CPU time.
    const BURST: Duration = Duration::from_millis(20);

    fn new(rate: u64, now: u64) -> Self {
        let rate = rate.max(1);
        let burst = u128::from(rate) * Self::BURST.as_millis() / 1000;
        let burst = i64::try_from(burst).unwrap_or(i64::MAX).max(1);
        let state = Mutex::new(Level { instructions: 0, rest: 0, filled_at: now });
        Self { rate, burst, state }
    }

    fn pay(&self, instructions: u64) {
        let mut level = lock(&self.state);
        level.instructions = level.instructions.saturating_sub_unsigned(instructions);
    }

    fn owed(&self, now: u64) -> Option<Duration> {
        let rate = u128::from(self.rate);
        let mut level = lock(&self.state);
        // Many stores of a run ask, each when it looks up: none may lose a part, nor earn the same time twice.
        let earned = u128::from(now.saturating_sub(level.filled_at)) * rate + level.rest;
        level.filled_at = level.filled_at.max(now);
        level.rest = earned % 1_000_000_000;
        let earned = i64::try_from(earned / 1_000_000_000).unwrap_or(i64::MAX);
        level.instructions = level.instructions.saturating_add(earned).min(self.burst);
        let debt = u128::from(level.instructions.min(0).unsigned_abs());
        let wait = u64::try_from((debt * 1_000_000_000).div_ceil(rate)).unwrap_or(u64::MAX);
        (wait > 0).then(|| Duration::from_nanos(wait))
    }
}

/// A wait for fuel; on the account as time throttled when it is over, however it ends.
pub(crate) fn held_back(
    run: &Arc<Shared>,
    wait: Duration,
) -> impl Future<Output = ()> + Send + use<> {
    let held = HeldBack { run: Arc::clone(run), since: monotonic_ns() };
    async move {
        let _held = held;
        tokio::time::sleep(wait).await;
    }
}

struct HeldBack {
    run: Arc<Shared>,
    since: u64,
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.run.account.cpu.held_back(monotonic_ns().saturating_sub(self.since));
    }
}

/// What one store has left of its run's fuel.
#[derive(Debug)]
pub(crate) struct FuelGauge {
    pub(crate) fuel: Arc<Fuel>,
    pub(crate) left: u64,
}

impl FuelGauge {
    pub(crate) fn new(fuel: Arc<Fuel>) -> Self {
        Self { left: fuel.left(), fuel }
    }

    /// Counts what was executed since the last look, with `left` left now; returns it.
    pub(crate) fn spent(&mut self, left: u64) -> u64 {
        let before = std::mem::replace(&mut self.left, left);
        let spent = before.saturating_sub(left);
        self.fuel.spend(spent);
        spent
    }
}

/// Polls a paced guest so that it looks up after each of its intervals.
pub(crate) struct Pacer {
    /// The one whose code the guest is: only what runs in this looks up.
    engine: Engine,
    knock: Arc<Knock>,
    waker: Waker,
    /// It has woken itself in its last turn, as it does at the end of an interval.
    is_due: bool,
}

/// Wakes a guest, and remembers that it has.
#[derive(Default)]
struct Knock {
    guest: Arc<AtomicWaker>,
    heard: AtomicBool,
}

impl Pacer {
    /// For a guest of `engine` that is woken by `waker`.
    pub(crate) fn new(engine: Engine, waker: &Arc<AtomicWaker>) -> Self {
        let knock = Arc::new(Knock { guest: Arc::clone(waker), heard: AtomicBool::new(false) });
        Self { engine, waker: Waker::from(Arc::clone(&knock)), knock, is_due: false }
    }

    pub(crate) fn poll<F: Future>(&mut self, guest: Pin<&mut F>) -> Poll<F::Output> {
        if self.is_due {
            self.engine.increment_epoch();
        }
        self.knock.heard.store(false, Ordering::Relaxed);
        let result = guest.poll(&mut Context::from_waker(&self.waker));
        self.is_due = self.knock.heard.load(Ordering::Relaxed);
        result
    }
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.heard.store(true, Ordering::Relaxed);
        self.guest.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn nanos(wait: Duration) -> u64 {
        u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
    }

    fn level(fuel: &Fuel) -> i64 {
        fuel.pace.as_ref().map_or(0, |pace| lock(&pace.state).instructions)
    }

    #[test]
    fn an_interval_is_a_hundredth_of_a_second() {
        for (rate, expected) in [
            (1, 1_000),
            (50_000, 1_000),
            (1_000_000, 10_000),
            (10_000_000, 100_000),
            (1_000_000_000, 10_000_000),
            (u64::MAX, 10_000_000),
        ] {
            assert_eq!(Fuel::new(None, Some(rate), 0).interval(), Some(expected), "{rate}");
        }
        assert_eq!(Fuel::new(Some(1), None, 0).interval(), None);
    }

    #[test]
    fn a_pace_is_kept_over_time() {
        let fuel = Fuel::new(None, Some(1_000_000), 0);
        let mut now = 0;
        // Each turn executes 50,000 instructions in 5 ms: ten times the pace.
        for _ in 0..200 {
            now += 5_000_000;
            fuel.spend(50_000);
            now += fuel.owed(now).map_or(0, nanos);
        }
        let pace = 200 * 50_000 * 1_000_000_000 / now;
        assert!((990_000..1_010_000).contains(&pace), "{pace} per second");
    }

    #[test]
    fn a_pace_does_not_depend_on_who_looks_how_often() {
        for (rate, every) in [(1_000, 300_000), (50_000, 15_000), (999_999, 1_700)] {
            let (often, once) = (Fuel::new(None, Some(rate), 0), Fuel::new(None, Some(rate), 0));
            for fuel in [&often, &once] {
                fuel.spend(1_000_000);
            }
            for turn in 1..=1000 {
                often.owed(every * turn);
                // Read by another thread a moment before, and told only now.
                often.owed(every * (turn - 1));
            }
            once.owed(every * 1000);
            assert_eq!(level(&often), level(&once), "{rate} a second");
            assert!(level(&once) > -1_000_000);
        }
    }

    proptest! {
        /// As stores do: each executes an interval at most, pays, and waits as long as it is told; they begin and end when they like.
        #[test]
        fn nobody_is_ahead_of_its_pace_by_more_than_an_interval_for_each_store(
            rate in 1u64..5_000_000_000,
            turns in prop::collection::vec((0usize..3, 0u64..=1_000, 0u64..20_000_000), 1..200),
        ) {
            let fuel = Fuel::new(None, Some(rate), 0);
            let (interval, burst) = (interval(rate), (rate / 50).max(1));
            let mut ready = [0_u64; 3];
            let (mut now, mut spent) = (0_u64, 0_u64);
            for (store, part, pause) in turns {
                now = now.saturating_add(pause).max(ready[store]);
                let executed = interval * part / 1_000;
                spent += executed;
                let earned = u128::from(now) * u128::from(rate) / 1_000_000_000;
                let most = earned + u128::from(burst) + 3 * u128::from(interval);
                prop_assert!(u128::from(spent) <= most, "{spent} of {most} at {now}");
                fuel.spend(executed);
                ready[store] = now.saturating_add(fuel.owed(now).map_or(0, nanos));
            }
        }

        #[test]
        fn waiting_as_long_as_told_is_enough(
            rate in 1u64..5_000_000_000, spent in 0u64..1_000_000_000, at in 0u64..1_000_000_000
        ) {
            let fuel = Fuel::new(None, Some(rate), at);
            fuel.spend(spent);
            let wait = fuel.owed(at).map_or(0, nanos);
            prop_assert_eq!(fuel.owed(at + wait), None);
        }
    }

    #[test]
    fn without_a_pace_nobody_waits() {
        let fuel = Arc::new(Fuel::new(Some(100), None, 0));
        let mut gauge = FuelGauge::new(Arc::clone(&fuel));
        assert_eq!(gauge.spent(30), 70);
        assert_eq!(gauge.spent(30), 0);
        assert_eq!(gauge.spent(0), 30);
        assert_eq!(fuel.owed(0), None);
    }

    #[test]
    fn stores_of_one_run_share_its_budget() {
        let fuel = Arc::new(Fuel::new(Some(100), None, 0));
        let mut first = FuelGauge::new(Arc::clone(&fuel));
        let mut second = FuelGauge::new(Arc::clone(&fuel));
        assert_eq!((first.left, second.left), (100, 100));
        first.spent(40);
        assert!(!fuel.is_used_up());
        assert_eq!(FuelGauge::new(Arc::clone(&fuel)).left, 40);
        second.spent(50);
        assert!(fuel.is_used_up());
        assert_eq!(FuelGauge::new(Arc::clone(&fuel)).left, 0);
    }

    #[test]
    fn a_guest_that_wakes_itself_looks_up_at_its_next_turn() {
        let engine = Engine::default();
        let woken = Arc::new(AtomicWaker::new());
        let mut pacer = Pacer::new(engine, &woken);
        let mut turn = |wakes: bool| {
            let guest = std::pin::pin!(std::future::poll_fn(move |cx| {
                if wakes {
                    cx.waker().wake_by_ref();
                }
                Poll::<()>::Pending
            }));
            assert!(pacer.poll(guest).is_pending());
            pacer.is_due
        };
        assert!(!turn(false));
        assert!(turn(true));
        assert!(!turn(false));
    }
}
