//! The pool that short-lived instances come from.
//!
//! Owns: whether this machine has one, how large it is, its engine with its linkers, and who may have a place in it. Is not: what instances are for
//! (`serve/instances.rs`), nor the settings that code is compiled with (`engine.rs`), which are the same: one file of compiled code serves both engines.
//!
//! ```text
//!  a request ─► a place is free, and the account has plenty ──yes──► slot of the pool: memory and stack are there already
//!                                                           └─no──► made on demand: mapped, used, unmapped
//! ```
//! Making an instance on demand maps and unmaps a memory and a stack, and each unmapping interrupts the other cores. In the pool both stay mapped:
//! what an instance wrote is put back to what it was before the slot is used again. Only handlers of WASI 0.2 with an instance for each request come from it:
//! whoever runs long would keep its slot, and a component of WASI 0.3 may have any number of stacks, which come from the pool as well and out of sight of
//! `stacks.rs`. Nor do those with fuel per second, whose pace belongs to their own engine's epoch (`fuel.rs`).
//!
//! Nobody waits for a place, and nobody fails for want of one. The pool is made when the first module needs it, once for each profile. Limits: the constants below.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::EngineSettings;
use super::ledger::Ledger;
use super::limiter::TABLE_ELEMENTS_MAX;
use super::linkers::Linkers;
use super::machine::Machine;
use super::stacks::BASE_BYTES;

/// Most slots. More instances than that at once are busy with something else than being made.
const SLOTS_MAX: u32 = 128;

/// Memory of the machine for each slot, bytes: what all slots keep when nothing uses them stays below a hundredth of it.
const RAM_PER_SLOT: u64 = 64 << 20;

/// Addresses that a pool needs: its slots' reservations, of 47 bits a small part.
const ADDRESS_BITS_MIN: u32 = 47;

/// What a slot's memory may keep between two instances, bytes, cleaned: what small handlers touch. The rest goes back to the kernel. Only where the kernel
/// tells which pages those are (`PAGEMAP_SCAN`, Linux 6.7): else nothing is kept, since a memory's first bytes are seldom those in use.
const MEMORY_KEPT_BYTES: usize = 256 << 10;

/// The same for each table, bytes.
const TABLE_KEPT_BYTES: usize = 16 << 10;

/// The same for a stack, bytes.
const STACK_KEPT_BYTES: usize = 32 << 10;

/// Core instances of one component: programs have one, and an adapter or two.
const CORE_INSTANCES_MAX: u32 = 16;

/// Memories of one component. One that has more is made on demand.
const MEMORIES_MAX: u32 = 1;

/// Tables of one component: its program's, and its adapter's.
const TABLES_MAX: u32 = 4;

/// Slots of the pool used by modules that have gone are taken first beyond so many.
const WARM_SLOTS: u32 = 8;

/// Stacks for each slot: one that works, and one on its way back.
const STACKS_PER_SLOT: u32 = 2;

/// The part of a module's memory limit up to which it gets instances from the pool: a quarter, which is room for those that work at a time. Above it each is made on
/// demand, whose stack is charged as it is used: so as many requests as before find memory, but for a few.
const PART: u64 = 4;

/// How large the pool of this machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// Instances at once.
    pub slots: u32,
    /// The kernel tells which pages are in use, so that slots stay warm.
    pub keeps_pages: bool,
}

impl PoolPlan {
    /// A pool that fits `machine`, where `settings` are its engine's.
    ///
    /// # Errors
    /// Why there is none, for whoever reads `podling doctor`.
    pub fn choose(machine: &Machine, settings: &EngineSettings) -> Result<Self, &'static str> {
        if cfg!(target_pointer_width = "32") || machine.address_bits < ADDRESS_BITS_MIN {
            return Err("a pool reserves 4 GiB of addresses for each slot, and addresses are few");
        }
        if machine.address_space_limit.is_some() {
            return Err("ulimit -v bounds the addresses that a pool would reserve");
        }
        if machine.strict_overcommit {
            return Err("under vm.overcommit_memory=2 the kernel counts what a pool reserves");
        }
        if !settings.is_roomy() {
            return Err("there is too little memory to keep slots for instances");
        }
        if settings.is_pulley() {
            return Err("the interpreter takes longer than making an instance");
        }
        let slots = u32::try_from(machine.ram_bytes / RAM_PER_SLOT).unwrap_or(SLOTS_MAX);
        let keeps_pages = PoolingAllocationConfig::is_pagemap_scan_available();
        Ok(Self { slots: slots.clamp(1, SLOTS_MAX), keeps_pages })
    }

    /// The most memory that the pool keeps when nothing uses it, bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        let memory = if self.keeps_pages { MEMORY_KEPT_BYTES } else { 0 };
        let tables = TABLE_KEPT_BYTES * TABLES_MAX as usize;
        let each = memory + tables + STACK_KEPT_BYTES * STACKS_PER_SLOT as usize;
        u64::from(self.slots) * each as u64
    }

    /// wasmtime's words for it.
    fn strategy(&self, settings: &EngineSettings) -> InstanceAllocationStrategy {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(self.slots)
            .total_core_instances(self.slots * CORE_INSTANCES_MAX)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .total_memories(self.slots * MEMORIES_MAX)
            .max_memories_per_component(MEMORIES_MAX)
            .max_memory_size(usize::try_from(settings.reservation).unwrap_or(usize::MAX))
            .total_tables(self.slots * TABLES_MAX)
            .max_tables_per_component(TABLES_MAX)
            .max_tables_per_module(TABLES_MAX)
            // As many as on demand: addresses only.
            .table_elements(TABLE_ELEMENTS_MAX)
            .total_stacks(self.slots * STACKS_PER_SLOT)
            .max_unused_warm_slots(WARM_SLOTS)
            .linear_memory_keep_resident(if self.keeps_pages { MEMORY_KEPT_BYTES } else { 0 })
            .table_keep_resident(TABLE_KEPT_BYTES)
            .async_stack_keep_resident(STACK_KEPT_BYTES)
            // A slot is clean before its place is free.
            .decommit_batch_size(1)
            .pagemap_scan(if self.keeps_pages { Enabled::Yes } else { Enabled::No });
        InstanceAllocationStrategy::Pooling(pool)
    }
}

impl fmt::Display for PoolPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a pool of {} slots, made when the first handler needs it; at most {} KiB stay in memory when nothing uses them",
            self.slots,
            self.kept_bytes() >> 10
        )
    }
}

/// An engine whose instances lie in slots.
pub(crate) struct Pool {
    pub(crate) engine: Engine,
    pub(crate) linkers: Linkers,
    places: Arc<Semaphore>,
}

impl Pool {
    /// Reserves the addresses.
    ///
    /// # Errors
    /// wasmtime's, when the machine does not give them after all.
    pub(crate) fn new(settings: &EngineSettings, plan: PoolPlan) -> wasmtime::Result<Self> {
        let engine = settings.engine_of(plan.strategy(settings))?;
        let linkers = Linkers::new(&engine, settings.tasks)?;
        let places = Arc::new(Semaphore::new(plan.slots as usize));
        Ok(Self { engine, linkers, places })
    }

    /// A place for one instance, if there is one and whoever pays has plenty: the pool's stacks are not measured, so the most that a guest can use of one is
    /// charged from the beginning.
    pub(crate) fn place(&self, payer: &Arc<Ledger>) -> Option<Place> {
        let bytes = (BASE_BYTES + EngineSettings::GUEST_STACK_BYTES) as u64;
        let plenty = |limit| payer.used().saturating_add(bytes) <= limit / PART;
        if !payer.limit().is_none_or(plenty) {
            return None;
        }
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        payer.charge(bytes).ok()?;
        Some(Place { payer: Arc::clone(payer), bytes, _permit: permit })
    }
}

/// A slot that nobody else has. To be dropped after the store.
pub(crate) struct Place {
    payer: Arc<Ledger>,
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.payer.release(self.bytes);
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::runtime::Backend;

    const DESKTOP: Machine = Machine {
        ram_bytes: 8 << 30,
        address_bits: 47,
        address_space_limit: None,
        strict_overcommit: false,
        cores: 4,
    };

    fn choose(machine: Machine, backend: Backend) -> Result<u32, &'static str> {
        let settings = EngineSettings::choose(&machine, backend);
        PoolPlan::choose(&machine, &settings).map(|plan| plan.slots)
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_pool_is_chosen_where_addresses_and_memory_are_plenty() {
        let auto = |machine| choose(machine, Backend::Auto);
        if EngineSettings::choose(&DESKTOP, Backend::Auto).is_pulley() {
            return;
        }
        assert_eq!(auto(DESKTOP), Ok(128));
        assert_eq!(auto(Machine { ram_bytes: 256 << 30, ..DESKTOP }), Ok(128));
        assert_eq!(auto(Machine { ram_bytes: 1 << 30, ..DESKTOP }), Ok(16));
        assert_eq!(auto(Machine { address_bits: 48, ..DESKTOP }), Ok(128));
    }

    #[test]
    fn small_and_bounded_machines_have_no_pool_and_are_told_why() {
        let rows = [
            (Machine { address_bits: 39, ..DESKTOP }, "addresses are few"),
            (Machine { address_bits: 32, ram_bytes: 128 << 20, ..DESKTOP }, "addresses are few"),
            (Machine { address_space_limit: Some(512 << 20), ..DESKTOP }, "ulimit -v"),
            (Machine { address_space_limit: Some(1 << 46), ..DESKTOP }, "ulimit -v"),
            (Machine { strict_overcommit: true, ..DESKTOP }, "overcommit_memory=2"),
            (Machine { ram_bytes: 512 << 20, ..DESKTOP }, "too little memory"),
        ];
        if cfg!(target_pointer_width = "64") {
            for (machine, why) in rows {
                let none = choose(machine, Backend::Auto).unwrap_err();
                assert!(none.contains(why), "{machine}: {none}");
            }
            assert!(choose(DESKTOP, Backend::Pulley).unwrap_err().contains("interpreter"));
        } else {
            assert!(choose(DESKTOP, Backend::Auto).is_err());
        }
    }

    #[test]
    fn what_idle_slots_keep_is_a_small_part_of_the_memory() {
        for (slots, ram) in [(16, 1_u64 << 30), (64, 4 << 30), (SLOTS_MAX, 8 << 30)] {
            let plan = PoolPlan { slots, keeps_pages: true };
            assert!(plan.kept_bytes() <= ram / 100, "{plan}");
            assert!(PoolPlan { keeps_pages: false, ..plan }.kept_bytes() < plan.kept_bytes());
        }
    }

    fn pool(slots: u32) -> Option<(EngineSettings, Pool)> {
        let machine = Machine::probe();
        let settings = EngineSettings::choose(&machine, Backend::Auto);
        let plan = PoolPlan::choose(&machine, &settings).ok()?;
        let pool = Pool::new(&settings, PoolPlan { slots, ..plan }).unwrap();
        Some((settings, pool))
    }

    #[test]
    fn places_are_as_many_as_slots_and_their_stacks_are_charged_while_they_are_taken() {
        let Some((_, pool)) = pool(2) else { return };
        let stack = (BASE_BYTES + EngineSettings::GUEST_STACK_BYTES) as u64;
        let payer = Arc::new(Ledger::new(None, None));
        let (one, other) = (pool.place(&payer).unwrap(), pool.place(&payer).unwrap());
        assert!(pool.place(&payer).is_none());
        assert_eq!(payer.used(), 2 * stack);
        drop(one);
        assert_eq!(payer.used(), stack);
        let third = pool.place(&payer).unwrap();
        drop((other, third));
        assert_eq!(payer.used(), 0);
    }

    #[test]
    fn whoever_has_little_left_gets_no_place_and_pays_for_none() {
        let Some((_, pool)) = pool(8) else { return };
        let stack = (BASE_BYTES + EngineSettings::GUEST_STACK_BYTES) as u64;
        let poor = Arc::new(Ledger::new(Some(2 * stack - 2), None));
        assert!(pool.place(&poor).is_none());
        let payer = Arc::new(Ledger::new(Some(8 * stack), None));
        let places = [pool.place(&payer).unwrap(), pool.place(&payer).unwrap()];
        assert!(pool.place(&payer).is_none(), "the rest is for what is charged as it comes");
        drop(places);
        payer.charge(3 * stack).unwrap();
        assert!(pool.place(&payer).is_none());
        assert_eq!((payer.used(), poor.used(), payer.refused()), (3 * stack, 0, 0));
        assert_eq!(pool.places.available_permits(), 8);
    }

    /// What one instance writes into its memory and its table, in what it was given and in what it grew by, the next one never sees; and code that was
    /// compiled for the other engine is what runs.
    #[test]
    #[cfg(feature = "compiler")]
    fn a_slot_is_as_new_for_each_instance() {
        const TEXT: &str = r#"(module
            (memory (export "memory") 2 64) (data (i32.const 70000) "as it was compiled")
            (table (export "table") 4 100 funcref) (elem (i32.const 1) $one)
            (func $one (export "one") (result i32) (i32.const 1)))"#;
        let Some((settings, pool)) = pool(2) else { return };
        let wasm = wat::parse_str(TEXT).unwrap();
        let code = settings.compiler().unwrap().precompile_module(&wasm).unwrap();
        #[allow(unsafe_code, reason = "code that was made a line before")]
        // SAFETY: nobody has changed it.
        let module = unsafe { wasmtime::Module::deserialize(&pool.engine, code) }.unwrap();
        let make = || {
            let mut store = wasmtime::Store::new(&pool.engine, ());
            store.set_epoch_deadline(1);
            let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
            (store, instance)
        };
        for round in 0..20_u64 {
            let mut both = [make(), make()];
            for (store, instance) in &mut both {
                let memory = instance.get_memory(&mut *store, "memory").unwrap();
                let table = instance.get_table(&mut *store, "table").unwrap();
                let mut expected = vec![0; 2 << 16];
                expected[70_000..70_018].copy_from_slice(b"as it was compiled");
                assert!(memory.data(&*store) == expected, "round {round}");
                assert_eq!(table.size(&*store), 4);
                for at in 0..4 {
                    let element = table.get(&mut *store, at).unwrap();
                    assert_eq!(element.unwrap_func().is_some(), at == 1, "round {round}");
                }
                // More than a slot keeps, in some rounds; and less in others.
                let more = [0, 1, 30][usize::try_from(round % 3).unwrap()];
                memory.grow(&mut *store, more).unwrap();
                assert!(memory.data(&*store)[2 << 16..].iter().all(|&byte| byte == 0));
                memory.data_mut(&mut *store).fill(0xa5);
                let one = instance.get_func(&mut *store, "one").unwrap();
                table.grow(&mut *store, 50, one.into()).unwrap();
                for at in 0..54 {
                    table.set(&mut *store, at, one.into()).unwrap();
                }
            }
        }
    }
}
