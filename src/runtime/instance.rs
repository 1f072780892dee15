//! Runs one module in one store, from instantiation to its end.
//!
//! Owns: the store and its bounds, the epoch callback, fuel, and reading an [`Exit`] out of whatever wasmtime returns. Is not: CPU
//! limits and kills (`meter.rs` wraps the future made here).
//!
//! Everything the guest can make happen, happens in here on a guest thread: its start functions, `cabi_realloc`, destructors, and
//! the store's own drop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime::component::ResourceTableError;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use super::artifact::Command;
use super::cputime::monotonic_ns;
use super::guest::{Guest, RESOURCES_MAX};
use super::limiter::OutOfMemory;
use super::run::{End, Shared};
use super::sched;
use super::stacks::{self, StoreStacks};
use super::trap;
use crate::spec::Exit;

/// Bytes that a guest may hand to the host in one call. A component's streams take 64 KiB at most; a core module writes a
/// whole buffer at once, and ENOMEM for a few megabytes would surprise it. Held only while the call lasts, and never more than the
/// module may have of memory.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;

/// How long a handler keeps its thread while nobody else wants it, nanoseconds: its time limit and its client are looked after by the task that
/// it runs in, between two of its turns.
const HANDLERS_TURN_NS: u64 = 20_000_000;

/// Handles a component may hold, of all its resource types together; as many as the host keeps resources for, and as
/// many again of its own.
const HANDLES_MAX: usize = 8192;

/// A handle takes some 32 bytes on the host, which nobody can count but wasmtime. So a module with little memory may have fewer: one for
/// each of so many bytes of its limit, which bounds them to a thirty-second of it.
const LIMIT_BYTES_PER_HANDLE: usize = 1024;

/// Handles that every module may have: the smallest programs have some ten.
const HANDLES_MIN: usize = 256;

/// wasmtime's records of tasks and streams: three for two handles of a stream. The bound on handles comes first.
const RECORDS_MAX: usize = 4 * HANDLES_MAX;

/// Instantiates and runs the module to its end.
pub(crate) async fn run(
    engine: &Engine,
    command: &Command,
    guest: Guest,
    run: &Arc<Shared>,
    fuel: &Arc<Fuel>,
) -> Exit {
    let mut instance = match Bounded::new(engine, guest, run, fuel) {
        Ok(instance) => instance,
        Err(error) => return exit_of(&error, run),
    };
    let stacks = Arc::clone(&instance.stacks);
    let result = stacks::on(stacks, command.run(&mut instance.store)).await;
    let exit = match result {
        Ok(()) => Exit::Code(0),
        Err(error) => {
            let error = instance.cause(error);
            instance.explained(exit_of(&error, run))
        }
    };
    if !matches!(exit, Exit::Code(_)) {
        // Not an orderly end: peers see a reset, not an end of file that would pass for the whole. So this comes before the
        // store goes, which closes its sockets in order.
        run.leave_network();
    }
    drop(instance);
    exit
}

/// A store under the bounds of a run. What it executed is on the run's account when it is dropped, at the latest.
pub(crate) struct Bounded {
    pub(crate) store: Store<Guest>,
    /// Whatever works on the store does so on these.
    pub(crate) stacks: Arc<StoreStacks>,
    run: Arc<Shared>,
    gauge: Option<Arc<Mutex<FuelGauge>>>,
}

impl Bounded {
    /// An empty store.
    ///
    /// # Errors
    /// wasmtime's; a bug of ours.
    pub(crate) fn new(
        engine: &Engine,
        guest: Guest,
        run: &Arc<Shared>,
        fuel: &Arc<Fuel>,
    ) -> wasmtime::Result<Self> {
        let stacks = Arc::clone(&guest.stacks);
        let limit = run.account.memory.limit().and_then(|limit| usize::try_from(limit).ok());
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(limit.unwrap_or(usize::MAX).min(HOSTCALL_BYTES_MAX));
        let handles = limit.unwrap_or(usize::MAX) / LIMIT_BYTES_PER_HANDLE;
        store.set_max_component_handles(handles.clamp(HANDLES_MIN, HANDLES_MAX));
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(RECORDS_MAX);
        }
        let gauge = engine.get_consume_fuel().then(|| FuelGauge::new(Arc::clone(fuel)));
        if let Some(gauge) = &gauge {
            store.set_fuel(gauge.left)?;
            store.fuel_async_yield_interval(fuel.grain())?;
        }
        let gauge = gauge.map(|gauge| Arc::new(Mutex::new(gauge)));
        store.set_epoch_deadline(1);
        let (theirs, fuel) = (Arc::clone(run), gauge.clone());
        store.epoch_deadline_callback(move |store| at_tick(store, &theirs, fuel.as_deref()));
        Ok(Self { store, stacks, run: Arc::clone(run), gauge })
    }

    /// What really ended the guest, which got `error`.
    pub(crate) fn cause(&mut self, error: wasmtime::Error) -> wasmtime::Error {
        self.store.data_mut().limiter.cause(error)
    }

    /// An end with what may have led to it: a program that was refused memory traps for itself, most often, and its backtrace says nothing of a
    /// limit.
    fn explained(&self, exit: Exit) -> Exit {
        match (exit, self.store.data().limiter.denied()) {
            (Exit::Trapped { message }, Some(over)) => {
                let (reason, backtrace) =
                    message.split_at(message.find('\n').unwrap_or(message.len()));
                let message = format!(
                    "{reason}\nbefore that, the module {over}, and was refused it{backtrace}"
                );
                Exit::Trapped { message }
            }
            (exit, _) => exit,
        }
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        if let (Some(gauge), Ok(left)) = (&self.gauge, self.store.get_fuel()) {
            self.run.account.add_fuel(lock(gauge).spent(left));
        }
    }
}

/// Called on the guest's stack when the epoch has turned. wasmtime's own yield wakes the task and returns, which our scheduler
/// takes as "wants to go on": behind all who have used less.
fn at_tick(
    mut store: StoreContextMut<'_, Guest>,
    run: &Arc<Shared>,
    fuel: Option<&Mutex<FuelGauge>>,
) -> wasmtime::Result<UpdateDeadline> {
    if let Some(end) = run.ended() {
        return Err(wasmtime::Error::new(end));
    }
    let records = store.concurrent_resource_table().map_or(0, |table| table.iter_mut().count());
    store.data().stacks.look().map_err(OutOfMemory)?;
    store.data_mut().count_resources(records as u64)?;
    let now = monotonic_ns();
    let cpu = &run.account.cpu;
    cpu.settle(now);
    if let Some(fuel) = fuel {
        let mut gauge = lock(fuel);
        let spent = gauge.spent(store.get_fuel()?);
        run.account.add_fuel(spent);
        if gauge.fuel.is_used_up() {
            return Err(wasmtime::Error::new(wasmtime::Trap::OutOfFuel));
        }
        if let Some(wait) = gauge.fuel.owed(spent, now) {
            let held = HeldBack { run: Arc::clone(run), since: now };
            let wait = async move {
                let _held = held;
                tokio::time::sleep(wait).await;
            };
            return Ok(UpdateDeadline::YieldCustom(1, Box::pin(wait)));
        }
    }
    // Throttled from here on: the meter makes it wait.
    let is_over = run.serves && now.saturating_sub(sched::turn_began()) >= HANDLERS_TURN_NS;
    if is_over || cpu.wait_ns(now) > 0 || sched::should_step_back(&cpu.share, now) {
        return Ok(UpdateDeadline::Yield(1));
    }
    Ok(UpdateDeadline::Continue(1))
}

/// A wait for fuel; on the account as time throttled when it is over, however it ends.
struct HeldBack {
    run: Arc<Shared>,
    since: u64,
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.run.account.cpu.held_back(monotonic_ns().saturating_sub(self.since));
    }
}

/// What one run may spend in instructions, all its stores together.
///
/// Fuel per second: instructions executed since the last tick are paid from a bucket that the clock fills.
#[derive(Debug)]
pub(crate) struct Fuel {
    budget: Option<u64>,
    spent: AtomicU64,
    per_second: Option<u64>,
    pace: Mutex<Pace>,
}

#[derive(Debug)]
struct Pace {
    level: i64,
    /// Earned beside, billionths of an instruction.
    rest: u128,
    filled_at: u64,
}

impl Fuel {
    /// Time worth of instructions that may be saved up; as for CPU time.
    const BURST: Duration = Duration::from_millis(20);

    /// A budget for the whole run, and a pace; `None`: no bound.
    pub(crate) fn new(budget: Option<u64>, per_second: Option<u64>) -> Self {
        let pace = Mutex::new(Pace { level: 0, rest: 0, filled_at: monotonic_ns() });
        Self { budget, spent: AtomicU64::new(0), per_second, pace }
    }

    /// Instructions after which a paced guest writes down what it has executed: a tight loop keeps its count in a
    /// register, where nobody else sees it.
    fn grain(&self) -> Option<u64> {
        self.per_second.map(|rate| (rate / 50).max(10_000))
    }

    fn left(&self) -> u64 {
        self.budget
            .map_or(u64::MAX, |budget| budget.saturating_sub(self.spent.load(Ordering::Relaxed)))
    }

    /// Whether all stores together have spent the budget. One alone is stopped by wasmtime at the instruction.
    fn is_used_up(&self) -> bool {
        self.budget.is_some_and(|budget| self.spent.load(Ordering::Relaxed) > budget)
    }

    /// Pays for what was executed; returns how long the module has to wait for it.
    fn owed(&self, spent: u64, now: u64) -> Option<Duration> {
        let rate = u128::from(self.per_second?.max(1));
        let mut pace = lock(&self.pace);
        // Many stores of a run ask, each when it looks up: none may lose a part, nor earn the same time twice.
        let earned = u128::from(now.saturating_sub(pace.filled_at)) * rate + pace.rest;
        pace.filled_at = pace.filled_at.max(now);
        pace.rest = earned % 1_000_000_000;
        let earned = earned / 1_000_000_000;
        let burst = i64::try_from(rate * Self::BURST.as_millis() / 1000).unwrap_or(i64::MAX).max(1);
        pace.level = pace
            .level
            .saturating_add(i64::try_from(earned).unwrap_or(i64::MAX))
            .min(burst)
            .saturating_sub_unsigned(spent);
        let debt = u128::from(pace.level.min(0).unsigned_abs());
        let wait = u64::try_from(debt * 1_000_000_000 / rate).unwrap_or(u64::MAX);
        (wait > 0).then(|| Duration::from_nanos(wait))
    }
}

/// What one store has left of its run's fuel.
#[derive(Debug)]
struct FuelGauge {
    fuel: Arc<Fuel>,
    left: u64,
}

impl FuelGauge {
    fn new(fuel: Arc<Fuel>) -> Self {
        Self { left: fuel.left(), fuel }
    }

    /// Instructions executed since the last look, with `left` left now.
    fn spent(&mut self, left: u64) -> u64 {
        let before = std::mem::replace(&mut self.left, left);
        let spent = before.saturating_sub(left);
        self.fuel.spent.fetch_add(spent, Ordering::Relaxed);
        spent
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an error that ended the guest means.
pub(crate) fn exit_of(error: &wasmtime::Error, run: &Shared) -> Exit {
    if let Some(end) = run.ended() {
        return end.exit();
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Exit::Code(exit.0 & 0xff);
    }
    if let Some(oom) = error.downcast_ref::<OutOfMemory>() {
        return Exit::OutOfMemory { message: oom.to_string() };
    }
    if let Some(end) = error.downcast_ref::<End>() {
        return end.exit();
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        let message = format!(
            "resource table: more than {RESOURCES_MAX} files, streams, sockets and pollables at once"
        );
        return Exit::Trapped { message };
    }
    if let Some(wasmtime::Trap::OutOfFuel) = error.downcast_ref::<wasmtime::Trap>() {
        return Exit::OutOfFuel;
    }
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && io.kind() == std::io::ErrorKind::OutOfMemory
    {
        return Exit::Lost { message: format!("the machine has no memory for the module: {io}") };
    }
    Exit::Trapped { message: trap::message(error) }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_pace_is_kept_over_time() {
        let fuel = Fuel::new(None, Some(1_000_000));
        let mut now = lock(&fuel.pace).filled_at;
        let start = now;
        // Each turn executes 50,000 instructions in 5 ms: ten times the pace.
        for _ in 0..200 {
            now += 5_000_000;
            if let Some(wait) = fuel.owed(50_000, now) {
                now += u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
            }
        }
        let pace = 200 * 50_000 * 1_000_000_000 / (now - start);
        assert!((990_000..1_010_000).contains(&pace), "{pace} per second");
    }

    #[test]
    fn a_pace_does_not_depend_on_who_looks_how_often() {
        for (rate, every) in [(1_000, 300_000), (50_000, 15_000), (999_999, 1_700)] {
            let (often, once) = (Fuel::new(None, Some(rate)), Fuel::new(None, Some(rate)));
            let start = lock(&often.pace).filled_at.max(lock(&once.pace).filled_at);
            for fuel in [&often, &once] {
                *lock(&fuel.pace) = Pace { level: -1_000_000, rest: 0, filled_at: start };
            }
            for turn in 1..=1000 {
                often.owed(0, start + every * turn);
                // Read by another thread a moment before, and told only now.
                often.owed(0, start + every * (turn - 1));
            }
            once.owed(0, start + every * 1000);
            assert_eq!(lock(&often.pace).level, lock(&once.pace).level, "{rate} a second");
            assert!(lock(&once.pace).level > -1_000_000);
        }
    }

    #[test]
    fn without_a_pace_nobody_waits() {
        let fuel = Arc::new(Fuel::new(Some(100), None));
        let mut gauge = FuelGauge::new(Arc::clone(&fuel));
        assert_eq!(gauge.spent(30), 70);
        assert_eq!(gauge.spent(30), 0);
        assert_eq!(gauge.spent(0), 30);
        assert_eq!(fuel.owed(100, u64::MAX), None);
    }

    #[test]
    fn stores_of_one_run_share_its_budget() {
        let fuel = Arc::new(Fuel::new(Some(100), None));
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
}
