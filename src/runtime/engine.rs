//! How the engine is set up, for whoever compiles and whoever runs.
//!
//! Owns: [`EngineSettings`] and the one function that turns them into a wasmtime configuration. The daemon and its compile
//! child share it, since code compiled under other settings is refused at load (wasmtime checks) or, worse, believed.
//! Is not: a cache key by itself; [`EngineSettings::mark`] is, and names the engine's exact version too, because a
//! patch release of wasmtime may fix the code generator while its own check looks at the major version only.
//!
//! Who may call: `runtime` only. Limits: the stack sizes and the names below.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, ModuleVersionStrategy};

use super::machine::Machine;
use super::stacks::StackMaker;

/// The exact wasmtime we are built with; a test compares it with Cargo.lock.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// Raised when what we compile changes for a reason that is not in the settings.
const FORMAT: u32 = 1;

/// Stack that Wasm code may use before it traps with "call stack exhausted". wasmtime's own default on 64 bits.
const WASM_STACK_BYTES: usize =
    if cfg!(target_pointer_width = "64") { 512 << 10 } else { 256 << 10 };

/// The whole stack of one run, host functions included: the difference is theirs, and an overflow there would end the
/// process. Only touched pages are ever backed by memory, so where there is room they have plenty.
const RUN_STACK_BYTES: usize = 2 << 20;

/// The same where addresses or promised memory are scarce. Half a mebibyte is left for host functions at least; TLS and HTTP run elsewhere.
const RUN_STACK_SMALL_BYTES: usize = 1 << 20;

/// An address space, bytes, in which 64 MiB for each memory are no matter.
const ROOMY: u64 = 32 << 30;

/// Which code generator runs the guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Native code where Cranelift has a back end for this machine, else Pulley.
    #[default]
    Auto,
    /// The portable interpreter, everywhere.
    Pulley,
}

/// Everything that compiled code depends on, and travels to the compile child as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Target triple. Always explicit: code is then made for the architecture's base line and not for this very core.
    pub target: String,
    /// Address space reserved for each linear memory, bytes.
    pub reservation: u64,
    /// Unmapped space behind it, bytes; what the code may rely on to trap.
    pub guard: u64,
    /// Space kept for growth when a memory had to move, bytes.
    pub growth: u64,
    /// Count instructions. Costs 10–30 %, so only modules with a fuel limit are compiled so.
    pub fuel: bool,
    /// Tasks of the component model, which WASI 0.3 is made of. Makes each host call of a component a third dearer, so only those
    /// that know of them are compiled so.
    pub tasks: bool,
}

impl EngineSettings {
    /// What a guest may use of each stack, bytes.
    pub(crate) const GUEST_STACK_BYTES: usize = WASM_STACK_BYTES;

    /// Settings that fit `machine`.
    ///
    /// With 4 GiB reserved for each memory the code needs no bounds checks (worth about 20 % on real programs), which
    /// takes an address space of 47 bits and nobody limiting it. Elsewhere 64 MiB, and 10 MiB on 32 bits, as
    /// wasmtime itself has it there. Under a small `ulimit -v` 4 MiB: a handful of modules would have used it up with nothing in them.
    /// A memory that outgrows its reservation moves, which costs a copy and nothing else.
    #[must_use]
    pub fn choose(machine: &Machine, backend: Backend) -> Self {
        let wide = machine.address_bits >= 47
            && machine.address_space_limit.is_none()
            && !machine.strict_overcommit
            && machine.ram_bytes >= 1 << 30;
        let narrow = machine.address_space_limit.is_some_and(|limit| limit < ROOMY);
        let (reservation, guard, growth) = if wide {
            (4 << 30, 32 << 20, 2 << 30)
        } else if narrow {
            (4 << 20, 64 << 10, 4 << 20)
        } else if machine.address_bits > 32 {
            (64 << 20, 64 << 10, 16 << 20)
        } else {
            (10 << 20, 64 << 10, 1 << 20)
        };
        let target = target(backend).to_owned();
        Self { target, reservation, guard, growth, fuel: false, tasks: false }
    }

    /// One line that says everything; [`EngineSettings::parse`] reads it back.
    #[must_use]
    pub fn to_line(&self) -> String {
        let Self { target, reservation, guard, growth, fuel, tasks } = self;
        let (fuel, tasks) = (u8::from(*fuel), u8::from(*tasks));
        format!("{target},{reservation},{guard},{growth},{fuel},{tasks}")
    }

    /// Reads what [`EngineSettings::to_line`] wrote.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(',');
        let settings = Self {
            target: parts.next()?.to_owned(),
            reservation: parts.next()?.parse().ok()?,
            guard: parts.next()?.parse().ok()?,
            growth: parts.next()?.parse().ok()?,
            fuel: flag(parts.next()?)?,
            tasks: flag(parts.next()?)?,
        };
        parts.next().is_none().then_some(settings)
    }

    /// The whole stack of one run, bytes of addresses; of memory too, where the kernel promises nothing that it does not have. Follows from how
    /// much is reserved: code does not depend on it.
    #[must_use]
    pub fn run_stack_bytes(&self) -> usize {
        if self.is_roomy() { RUN_STACK_BYTES } else { RUN_STACK_SMALL_BYTES }
    }

    /// Whether a memory's whole range is reserved, so that its code needs no bounds checks.
    #[must_use]
    pub fn is_roomy(&self) -> bool {
        self.reservation >= 4 << 30
    }

    /// Whether guests run in the interpreter.
    #[must_use]
    pub fn is_pulley(&self) -> bool {
        self.target.starts_with("pulley")
    }

    /// The version text inside each compiled file, which wasmtime compares before it loads one.
    fn version(&self) -> String {
        format!("podling-{FORMAT}/wasmtime-{WASMTIME_VERSION}/{}", self.to_line())
    }

    /// Names this engine in cache file names: 16 hexadecimal digits.
    #[must_use]
    pub fn mark(&self) -> String {
        let digest = Sha256::digest(self.version().as_bytes());
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// An engine that runs code made with these settings. It cannot compile: what a compiler keeps for its next work would
    /// be kept for nothing.
    ///
    /// # Errors
    /// wasmtime's, when the machine cannot have it.
    pub fn engine(&self) -> wasmtime::Result<Engine> {
        self.engine_of(InstanceAllocationStrategy::OnDemand)
    }

    /// The same, with instances from wherever `strategy` says. Code does not depend on it.
    ///
    /// # Errors
    /// wasmtime's, when the machine cannot have it.
    pub(crate) fn engine_of(
        &self,
        strategy: InstanceAllocationStrategy,
    ) -> wasmtime::Result<Engine> {
        let mut config = self.config()?;
        if let InstanceAllocationStrategy::Pooling(_) = &strategy {
            // Its stacks are used again: what was not kept goes back to the kernel.
            config.async_stack_zeroing(true);
        }
        config.allocation_strategy(strategy);
        #[cfg(feature = "compiler")]
        let config = {
            let mut config = config;
            config.enable_compiler(false);
            config
        };
        Engine::new(&config)
    }

    /// An engine that compiles.
    ///
    /// # Errors
    /// wasmtime's, when it has no code generator for the target.
    #[cfg(feature = "compiler")]
    pub fn compiler(&self) -> wasmtime::Result<Engine> {
        Engine::new(&self.config()?)
    }

    /// The single place where wasmtime is configured.
    fn config(&self) -> wasmtime::Result<Config> {
        let mut config = Config::new();
        config.target(&self.target)?;
        config.module_version(ModuleVersionStrategy::Custom(self.version()))?;
        config
            .memory_reservation(self.reservation)
            .memory_guard_size(self.guard)
            .memory_reservation_for_growth(self.growth)
            .max_wasm_stack(WASM_STACK_BYTES)
            .async_stack_size(self.run_stack_bytes())
            .with_host_stack(Arc::new(StackMaker::new(WASM_STACK_BYTES, self.is_pulley())))
            .epoch_interruption(true)
            .consume_fuel(self.fuel)
            // Same answers on every node.
            .relaxed_simd_deterministic(true)
            // No guest toolchain makes 64-bit memories for WASI yet, and they need bounds checks we do not measure.
            .wasm_memory64(false)
            .concurrency_support(self.tasks)
            .wasm_component_model_async(self.tasks);
        Ok(config)
    }
}

impl fmt::Display for EngineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} for {}, {} MiB reserved per memory with {} KiB of guard{}{}",
            if self.is_pulley() { "interpreter" } else { "native code" },
            self.target,
            self.reservation >> 20,
            self.guard >> 10,
            if self.fuel { ", counting fuel" } else { "" },
            if self.tasks { ", with tasks" } else { "" }
        )
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// The triple for this machine: exactly the one that this program was built for, since the engine refuses to run native code
/// made for any other, be it only the C library that differs. So the musl and the glibc build do not share their files.
fn target(backend: Backend) -> &'static str {
    match backend {
        Backend::Auto if cfg!(all(target_arch = "x86_64", target_env = "musl")) => {
            "x86_64-unknown-linux-musl"
        }
        Backend::Auto if cfg!(target_arch = "x86_64") => "x86_64-unknown-linux-gnu",
        Backend::Auto if cfg!(all(target_arch = "aarch64", target_env = "musl")) => {
            "aarch64-unknown-linux-musl"
        }
        Backend::Auto if cfg!(target_arch = "aarch64") => "aarch64-unknown-linux-gnu",
        Backend::Auto | Backend::Pulley => {
            if cfg!(target_pointer_width = "64") {
                "pulley64"
            } else {
                "pulley32"
            }
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const DESKTOP: Machine = Machine {
        ram_bytes: 8 << 30,
        address_bits: 47,
        address_space_limit: None,
        strict_overcommit: false,
        cores: 4,
    };

    #[test]
    fn the_version_we_name_is_the_one_we_are_built_with() {
        let lock = include_str!("../../Cargo.lock");
        let named = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(lock.contains(&named), "update WASMTIME_VERSION");
    }

    #[test]
    fn memories_are_reserved_whole_only_where_there_is_room() {
        let reserved =
            |machine: Machine| EngineSettings::choose(&machine, Backend::Auto).reservation >> 20;
        assert_eq!(reserved(DESKTOP), 4096);
        assert_eq!(reserved(Machine { address_bits: 39, ..DESKTOP }), 64);
        assert_eq!(reserved(Machine { address_space_limit: Some(512 << 20), ..DESKTOP }), 4);
        assert_eq!(reserved(Machine { address_space_limit: Some(64 << 30), ..DESKTOP }), 64);
        assert_eq!(reserved(Machine { strict_overcommit: true, ..DESKTOP }), 64);
        assert_eq!(reserved(Machine { ram_bytes: 512 << 20, ..DESKTOP }), 64);
        assert_eq!(reserved(Machine { address_bits: 32, ram_bytes: 128 << 20, ..DESKTOP }), 10);
    }

    #[test]
    fn stacks_are_large_only_where_there_is_room() {
        let stack =
            |machine: Machine| EngineSettings::choose(&machine, Backend::Auto).run_stack_bytes();
        assert_eq!(stack(DESKTOP), RUN_STACK_BYTES);
        for machine in [
            Machine { address_bits: 39, ..DESKTOP },
            Machine { address_space_limit: Some(512 << 20), ..DESKTOP },
            Machine { strict_overcommit: true, ..DESKTOP },
            Machine { ram_bytes: 192 << 20, ..DESKTOP },
            Machine { address_bits: 32, ram_bytes: 128 << 20, ..DESKTOP },
        ] {
            // Host functions have half a mebibyte all the same.
            assert_eq!(stack(machine), RUN_STACK_SMALL_BYTES);
            assert!(stack(machine) >= WASM_STACK_BYTES + (512 << 10));
        }
    }

    #[test]
    fn settings_survive_the_way_to_the_compile_child() {
        let plain = EngineSettings::choose(&DESKTOP, Backend::Pulley);
        for (fuel, tasks) in [(false, false), (true, false), (false, true)] {
            let settings = EngineSettings { fuel, tasks, ..plain.clone() };
            assert_eq!(EngineSettings::parse(&settings.to_line()), Some(settings));
        }
        for broken in
            ["", "pulley64", "pulley64,1,2,3,0", "pulley64,1,2,3,2,0", "pulley64,1,2,3,0,1,9"]
        {
            assert_eq!(EngineSettings::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn every_setting_is_part_of_the_mark() {
        let base = EngineSettings::choose(&DESKTOP, Backend::Auto);
        let others = [
            EngineSettings { fuel: true, ..base.clone() },
            EngineSettings { tasks: true, ..base.clone() },
            EngineSettings { guard: base.guard + 1, ..base.clone() },
            EngineSettings { reservation: 1, ..base.clone() },
            EngineSettings::choose(&DESKTOP, Backend::Pulley),
        ];
        for other in &others {
            assert_ne!(other.mark(), base.mark(), "{other}");
        }
        assert_eq!(base.mark().len(), 16);
    }

    #[test]
    fn every_profile_makes_an_engine_here() {
        for machine in [DESKTOP, Machine { address_bits: 39, ..DESKTOP }] {
            for backend in [Backend::Auto, Backend::Pulley] {
                for (fuel, tasks) in [(false, false), (true, false), (false, true), (true, true)] {
                    let settings = EngineSettings::choose(&machine, backend);
                    let settings = EngineSettings { fuel, tasks, ..settings };
                    settings.engine().unwrap();
                    #[cfg(feature = "compiler")]
                    settings.compiler().unwrap();
                }
            }
        }
    }
}
