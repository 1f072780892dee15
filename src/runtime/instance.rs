//! Runs one module in one store, from instantiation to its end.
//!
//! Owns: the store and its bounds, the epoch callback, and reading an [`Exit`] out of whatever wasmtime returns. Is not: CPU
//! limits and kills (`meter.rs` wraps the future made here), nor the account of instructions (`fuel.rs`).
//!
//! Everything the guest can make happen, happens in here on a guest thread: its start functions, `cabi_realloc`, destructors, and
//! the store's own drop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::component::ResourceTableError;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use super::artifact::Command;
use super::cputime::monotonic_ns;
use super::fuel::{Fuel, FuelGauge, held_back};
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
            store.fuel_async_yield_interval(fuel.interval())?;
        }
        let gauge = gauge.map(|gauge| Arc::new(Mutex::new(gauge)));
        store.set_epoch_deadline(1);
        let (theirs, fuel) = (Arc::clone(run), gauge.clone());
        let mut ticks = u64::MAX;
        store.epoch_deadline_callback(move |store| {
            let is_tick = std::mem::replace(&mut ticks, theirs.guests.ticks()) != ticks;
            look_up(store, &theirs, fuel.as_deref(), is_tick)
        });
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
        // Asked only where it is counted: elsewhere the answer is an error, made at the end of each store.
        if let Some(gauge) = &self.gauge
            && let Ok(left) = self.store.get_fuel()
        {
            self.run.account.add_fuel(lock(gauge).spent(left));
        }
    }
}

/// Called on the guest's stack when the epoch has turned: for all (`is_tick`), or for those who have executed an interval. wasmtime's own yield
/// wakes the task and returns, which our scheduler takes as "wants to go on": behind all who have used less.
fn look_up(
    mut store: StoreContextMut<'_, Guest>,
    run: &Arc<Shared>,
    fuel: Option<&Mutex<FuelGauge>>,
    is_tick: bool,
) -> wasmtime::Result<UpdateDeadline> {
    if let Some(end) = run.ended() {
        return Err(wasmtime::Error::new(end));
    }
    let now = monotonic_ns();
    if is_tick {
        let records = store.concurrent_resource_table().map_or(0, |table| table.iter_mut().count());
        store.data().stacks.look().map_err(OutOfMemory)?;
        store.data_mut().count_resources(records as u64)?;
        run.account.cpu.settle(now);
    }
    if let Some(fuel) = fuel {
        let mut gauge = lock(fuel);
        run.account.add_fuel(gauge.spent(store.get_fuel()?));
        if gauge.fuel.is_used_up() {
            return Err(wasmtime::Error::new(wasmtime::Trap::OutOfFuel));
        }
        if let Some(wait) = gauge.fuel.owed(now) {
            return Ok(UpdateDeadline::YieldCustom(1, Box::pin(held_back(run, wait))));
        }
    }
    Ok(if is_tick && is_to_step_back(run, now) {
        UpdateDeadline::Yield(1)
    } else {
        UpdateDeadline::Continue(1)
    })
}

/// Whether a guest gives its thread back at a tick: it is throttled from here on (the meter makes it wait), or it is another one's turn.
fn is_to_step_back(run: &Shared, now: u64) -> bool {
    let cpu = &run.account.cpu;
    let is_over = run.serves && now.saturating_sub(sched::turn_began()) >= HANDLERS_TURN_NS;
    is_over || cpu.wait_ns(now) > 0 || sched::should_step_back(&cpu.share, now)
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
