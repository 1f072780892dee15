//! Runs one module in one store, from instantiation to its end.
//!
//! Owns: the store and its bounds, the epoch callback, fuel, and reading an [`Exit`] out of whatever wasmtime returns. Is not: CPU
//! limits and kills (`meter.rs` wraps the future made here).
//!
//! Everything the guest can make happen, happens in here on a guest thread: its start functions, `cabi_realloc`, destructors, and
//! the store's own drop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use super::artifact::Command;
use super::cputime::monotonic_ns;
use super::guest::Guest;
use super::limiter::OutOfMemory;
use super::run::{End, Shared};
use super::sched;
use super::trap;
use crate::spec::Exit;

/// Bytes that a guest may hand to the host in one call. A component's streams take 64 KiB at most; a core module writes a
/// whole buffer at once, and ENOMEM for a few megabytes would surprise it. Held only while the call lasts.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;

/// Handles a component may hold, of all its resource types together; as many as the host keeps resources for, and as
/// many again of its own.
const HANDLES_MAX: usize = 8192;

/// What a run may spend in instructions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FuelPlan {
    /// For the whole run.
    pub(crate) budget: Option<u64>,
    /// Refilled by the clock.
    pub(crate) per_second: Option<u64>,
}

/// Instantiates and runs the module to its end.
pub(crate) async fn run(
    engine: &Engine,
    command: &Command,
    guest: Guest,
    run: &Arc<Shared>,
    fuel: FuelPlan,
) -> Exit {
    let mut store = Store::new(engine, guest);
    let fuel = engine.get_consume_fuel().then(|| Arc::new(Mutex::new(FuelGauge::new(fuel))));
    if let Err(error) = prepare(&mut store, run, fuel.clone()) {
        return Exit::Lost { message: format!("set up the store: {error:#}") };
    }
    let result = command.run(&mut store).await;
    if let (Some(fuel), Ok(left)) = (fuel, store.get_fuel()) {
        run.account.add_fuel(lock(&fuel).spent(left));
    }
    let exit = match result {
        Ok(()) => Exit::Code(0),
        Err(error) => exit_of(&error, run),
    };
    if !matches!(exit, Exit::Code(_)) {
        // Not an orderly end: peers see a reset, as when the kernel closes a dead process's sockets.
        run.leave_network();
    }
    exit
}

fn prepare(
    store: &mut Store<Guest>,
    run: &Arc<Shared>,
    fuel: Option<Arc<Mutex<FuelGauge>>>,
) -> wasmtime::Result<()> {
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    if let Some(fuel) = &fuel {
        let fuel = lock(fuel);
        store.set_fuel(fuel.left)?;
        store.fuel_async_yield_interval(fuel.grain())?;
    }
    store.set_epoch_deadline(1);
    let run = Arc::clone(run);
    store.epoch_deadline_callback(move |store| at_tick(&store, &run, fuel.as_deref()));
    Ok(())
}

/// Called on the guest's stack when the epoch has turned. wasmtime's own yield wakes the task and returns, which our scheduler
/// takes as "wants to go on": behind all who have used less.
fn at_tick(
    store: &StoreContextMut<'_, Guest>,
    run: &Shared,
    fuel: Option<&Mutex<FuelGauge>>,
) -> wasmtime::Result<UpdateDeadline> {
    if let Some(end) = run.ended() {
        return Err(wasmtime::Error::new(end));
    }
    let now = monotonic_ns();
    let cpu = &run.account.cpu;
    cpu.settle(now);
    if let Some(fuel) = fuel {
        let mut fuel = lock(fuel);
        let spent = fuel.spent(store.get_fuel()?);
        run.account.add_fuel(spent);
        if let Some(wait) = fuel.owed(spent, now) {
            return Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(wait))));
        }
    }
    // Throttled from here on: the meter makes it wait.
    if cpu.wait_ns(now) > 0 || sched::should_step_back(&cpu.share, now) {
        return Ok(UpdateDeadline::Yield(1));
    }
    Ok(UpdateDeadline::Continue(1))
}

/// What one run has left of its fuel, and how fast it may go.
///
/// Fuel per second: instructions executed since the last tick are paid from a bucket that the clock fills.
#[derive(Debug)]
struct FuelGauge {
    left: u64,
    per_second: Option<u64>,
    level: i64,
    filled_at: u64,
}

impl FuelGauge {
    /// Time worth of instructions that may be saved up; as for CPU time.
    const BURST: Duration = Duration::from_millis(20);

    fn new(plan: FuelPlan) -> Self {
        let FuelPlan { budget, per_second } = plan;
        Self { left: budget.unwrap_or(u64::MAX), per_second, level: 0, filled_at: monotonic_ns() }
    }

    /// Instructions after which a paced guest writes down what it has executed: a tight loop keeps its count in a
    /// register, where nobody else sees it.
    fn grain(&self) -> Option<u64> {
        self.per_second.map(|rate| (rate / 50).max(10_000))
    }

    /// Instructions executed since the last look, with `left` left now.
    fn spent(&mut self, left: u64) -> u64 {
        let before = std::mem::replace(&mut self.left, left);
        before.saturating_sub(left)
    }

    /// Pays for what was executed; returns how long the module has to wait for it.
    fn owed(&mut self, spent: u64, now: u64) -> Option<Duration> {
        let rate = u128::from(self.per_second?.max(1));
        let earned = u128::from(now.saturating_sub(self.filled_at)) * rate / 1_000_000_000;
        self.filled_at = now;
        let burst = i64::try_from(rate * Self::BURST.as_millis() / 1000).unwrap_or(i64::MAX).max(1);
        self.level = self
            .level
            .saturating_add(i64::try_from(earned).unwrap_or(i64::MAX))
            .min(burst)
            .saturating_sub_unsigned(spent);
        let debt = u128::from(self.level.min(0).unsigned_abs());
        let wait = u64::try_from(debt * 1_000_000_000 / rate).unwrap_or(u64::MAX);
        (wait > 0).then(|| Duration::from_nanos(wait))
    }
}

fn lock(fuel: &Mutex<FuelGauge>) -> MutexGuard<'_, FuelGauge> {
    fuel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an error that ended the guest means.
fn exit_of(error: &wasmtime::Error, run: &Shared) -> Exit {
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
        let plan = FuelPlan { budget: None, per_second: Some(1_000_000) };
        let mut gauge = FuelGauge::new(plan);
        let mut now = gauge.filled_at;
        let start = now;
        // Each turn executes 50,000 instructions in 5 ms: ten times the pace.
        for _ in 0..200 {
            now += 5_000_000;
            if let Some(wait) = gauge.owed(50_000, now) {
                now += u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
            }
        }
        let pace = 200 * 50_000 * 1_000_000_000 / (now - start);
        assert!((990_000..1_010_000).contains(&pace), "{pace} per second");
    }

    #[test]
    fn without_a_pace_nobody_waits() {
        let mut gauge = FuelGauge::new(FuelPlan { budget: Some(100), per_second: None });
        assert_eq!(gauge.spent(30), 70);
        assert_eq!(gauge.spent(30), 0);
        assert_eq!(gauge.spent(0), 30);
        assert_eq!(gauge.owed(100, u64::MAX), None);
    }
}
