//! Runs modules: from a file of WebAssembly to an [`Exit`](crate::spec::Exit).
//!
//! Owns: the engines, compiled code, the guests' threads, stores, limits. Is not: deciding what runs (`lifecycle`), nor volumes,
//! networks and logs, which are given to it ready-made. Knows nothing of pods but an account that their modules share.
//!
//! ```text
//!  ModuleFile ──prepare──► Artifact ──start(Run)──► RunHandle { control, exit }
//!      │                      ▲                          │
//!      └─► compile child ─► cache                  guests' threads: Metered( instance( store ) ), or a server of HTTP
//! ```
//! The control plane calls [`Runtime`] and nothing else in here; the interface is narrow, so that it can one day lie between
//! processes. Guest code never runs on the caller's thread, and no call here waits for guest code. The other way round, [`Carriers`] run
//! work of the caller's on the guests' threads: what carries a pod's bytes, and must not wait for another thread each time.
//!
//! Limits: each file names its own; the manifest's are in [`RunLimits`] and [`PodLimits`].

mod artifact;
mod cache;
mod carry;
mod compile;
mod compile_child;
mod cputime;
mod engine;
mod error;
mod file_threads;
mod fuel;
mod guest;
mod instance;
mod ledger;
mod limiter;
mod linkers;
mod machine;
mod meter;
mod network_memory;
mod origin;
mod pool;
mod prepare;
mod profiles;
mod run;
mod sched;
mod serve;
mod stacks;
mod start;
mod stdio;
mod strand;
#[cfg(test)]
mod tests;
mod trap;

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::net::PodNet;
use crate::spec::{HttpLimits, OnMemoryLimit, StopSignal};

pub use crate::wasi::files::{Grant, Room};
pub use artifact::{Artifact, ModuleKind};
pub use carry::Carriers;
pub use compile::{CompileMode, MODULE_BYTES_MAX};
pub use compile_child::compile_child;
pub use engine::{Backend, EngineSettings, WASMTIME_VERSION};
pub use error::{CacheError, PrepareError, RuntimeStartError, StartError};
pub use ledger::MemoryKinds;
pub use machine::Machine;
pub use pool::PoolPlan;
pub use prepare::Prepared;
pub use run::{PodAccount, PodLimits, RunControl, RunExit, RunHandle, Usage};
pub use sched::LaneSocket;
pub use serve::HttpUsage;
pub use stdio::{LogSink, Stdin, StdinClosed, StdinPipe, Stream};

/// Disk that compiled code may take. Four times the size of their modules, for some dozens of modules.
const CACHE_BYTES_MAX: u64 = 512 << 20;

/// How the runtime is set up.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Where compiled code lies: made if absent, refused if others have access.
    pub cache_dir: PathBuf,
    /// Who compiles.
    pub compile: CompileMode,
    /// Threads for guests; `None`: as many as cores, at least two.
    pub guest_threads: Option<usize>,
    /// Disk for compiled code, bytes.
    pub cache_bytes_max: u64,
    /// Which code generator.
    pub backend: Backend,
    /// Certificate authorities (PEM) that modules trust beside the machine's own, in requests that they make.
    pub extra_authorities: Option<PathBuf>,
    /// Kinds of file system that ask another machine, beside those that are known to (`/proc/self/mountinfo` has the names).
    pub network_file_systems: Vec<String>,
}

impl RuntimeConfig {
    /// The usual settings: this program compiles, with everything chosen from the machine.
    #[must_use]
    pub fn new(cache_dir: PathBuf) -> Self {
        // Not the path of our file: it may have been replaced by a newer version since we started.
        let this_program = OsString::from("/proc/self/exe");
        Self {
            cache_dir,
            compile: CompileMode::Child(vec![this_program]),
            guest_threads: None,
            cache_bytes_max: CACHE_BYTES_MAX,
            backend: Backend::Auto,
            extra_authorities: None,
            network_file_systems: Vec::new(),
        }
    }
}

/// A module's bytes, and what they must hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFile {
    pub path: PathBuf,
    pub sha256: [u8; 32],
}

/// A directory granted to a module.
#[derive(Debug)]
pub struct GuestMount {
    /// The directory, opened by the volume code (`O_PATH` will do).
    pub dir: OwnedFd,
    /// Where the module sees it.
    pub guest: String,
    /// Nothing in it can be changed by this module.
    pub read_only: bool,
    /// What it may still take; `None`: nothing but the disk limits it.
    pub room: Option<Arc<dyn Room>>,
}

/// Limits of one run; `None`: none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    pub on_memory_limit: OnMemoryLimit,
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Thousandths of a core that it weighs when the machine is full; `None`: the least.
    pub cpu_request_millis: Option<u64>,
    /// Instructions for the whole run; needs an artifact that counts.
    pub fuel: Option<u64>,
    /// Instructions per second; needs an artifact that counts.
    pub fuel_per_second: Option<u64>,
}

impl RunLimits {
    /// No limits.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self {
            memory_bytes: None,
            on_memory_limit: OnMemoryLimit::Kill,
            cpu_millis: None,
            cpu_request_millis: None,
            fuel: None,
            fuel_per_second: None,
        }
    }
}

impl Default for RunLimits {
    fn default() -> Self {
        Self::unlimited()
    }
}

/// A TCP port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpPort {
    pub port: u16,
    pub name: Option<String>,
}

/// The network a run sees.
#[derive(Clone, Debug, Default)]
pub enum Network {
    /// None but a loopback of its own.
    #[default]
    None,
    /// The pod's, joined as `member` (shown in its socket table).
    Pod { net: PodNet, member: String },
}

/// Everything that one run is given.
pub struct Run {
    /// `NAMESPACE/POD/CONTAINER`, for traces.
    pub name: String,
    pub artifact: Artifact,
    /// `argv[0]` and the arguments.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<GuestMount>,
    pub limits: RunLimits,
    /// For a module that answers HTTP.
    pub http: HttpLimits,
    /// The TCP ports that its container declares, in order. A module that answers HTTP is served on the first; a core module that
    /// accepts connections and opens no sockets is given one listening socket for each.
    pub tcp_ports: Vec<TcpPort>,
    /// The account of its pod.
    pub pod: PodAccount,
    /// Another run whose account and limits this one shares (`exec`); its memory, CPU time and fuel count there.
    pub charge_to: Option<RunControl>,
    pub network: Network,
    pub stop_signal: StopSignal,
    pub stdin: Stdin,
    pub logs: Arc<dyn LogSink>,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("name", &self.name)
            .field("artifact", &self.artifact)
            .field("argv", &self.argv)
            .field("mounts", &self.mounts)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What was found and chosen at start; for `podling doctor`.
#[derive(Clone, Debug)]
pub struct EngineReport {
    pub machine: Machine,
    pub settings: EngineSettings,
    /// Where instances come from that live as long as a request, or why each is made on demand.
    pub pool: Result<PoolPlan, &'static str>,
    pub guest_threads: usize,
    /// Whether this build can compile.
    pub compiler: bool,
}

impl fmt::Display for EngineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine: {}", self.machine)?;
        writeln!(f, "engine: wasmtime {WASMTIME_VERSION}, {}", self.settings)?;
        match &self.pool {
            Ok(plan) => writeln!(f, "instances: {plan}")?,
            Err(why) => writeln!(f, "instances: made on demand: {why}")?,
        }
        writeln!(f, "guest threads: {}", self.guest_threads)?;
        write!(f, "compiler: {}", if self.compiler { "built in" } else { "none in this build" })
    }
}

/// The runtime; clones are the same one. When the last is dropped, everything that still runs is killed.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<start::Inner>);

impl Runtime {
    /// Sets up engines, threads and cache. Takes milliseconds.
    ///
    /// # Errors
    /// [`RuntimeStartError`]: the cache directory is not private, or the machine has not even the smallest set of
    /// resources.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeStartError> {
        start::Inner::new(config).map(|inner| Self(Arc::new(inner)))
    }

    /// Makes a module ready to run: from memory, from the cache, or by compiling it; `fuel`: with its instructions counted. Call it in a
    /// tokio runtime that drives I/O and time. Dropping the future stops a compilation that it started.
    ///
    /// # Errors
    /// [`PrepareError`]; see [`PrepareError::is_modules_fault`].
    pub async fn prepare(&self, module: ModuleFile, fuel: bool) -> Result<Artifact, PrepareError> {
        Ok(self.prepare_telling(module, fuel, std::future::ready(()), &|_| {}).await?.artifact)
    }

    /// The same; `compiling` is awaited once, before the compiler is waited for, if the module is not compiled yet. That may take minutes
    /// on a small machine, and whoever waits for the module should hear of it. `held` hears whether it may not be begun for lack of memory
    /// ([`Runtime::hold_compiles`]), whenever that changes while it waits.
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub async fn prepare_telling(
        &self,
        module: ModuleFile,
        fuel: bool,
        compiling: impl Future<Output = ()>,
        held: &(dyn Fn(bool) + Send + Sync),
    ) -> Result<Prepared, PrepareError> {
        self.0.library.prepare(module, fuel, compiling, held).await
    }

    /// Starts a run. Returns when its directories are open and it is about to be instantiated; whatever the module does, even in
    /// its start function, is part of the run. If the future is dropped before that, the run is killed.
    ///
    /// # Errors
    /// [`StartError`]; then there is no run.
    pub async fn start(&self, run: Run) -> Result<RunHandle, StartError> {
        Box::pin(self.0.start(run)).await
    }

    /// Begins no compilation while `hold`; what is compiled already starts as ever. For a node that is short of memory: one
    /// compilation may take more of it than all pods.
    pub fn hold_compiles(&self, hold: bool) {
        self.0.library.hold_compiles(hold);
    }

    /// The account of a pod on this node.
    #[must_use]
    pub fn pod_account(&self, limits: PodLimits) -> PodAccount {
        PodAccount::on(Arc::clone(&self.0.memory), limits)
    }

    /// Starts what carries bytes for a pod on the guests' threads, at the pod's expense.
    #[must_use]
    pub fn carriers(&self, pod: &PodAccount) -> Carriers {
        self.0.carriers(pod)
    }

    /// Until the next call, modules for which no memory limit holds may take `room_bytes` more than all have now, and never bring the sum of
    /// all pods above `most_bytes`. For a node whose memory somebody looks at now and then: what they can do in between is bounded by this.
    pub fn bound_unlimited(&self, most_bytes: u64, room_bytes: u64) {
        self.0.memory.bound(most_bytes, room_bytes);
    }

    /// What was found and chosen at start.
    #[must_use]
    pub fn describe(&self) -> &EngineReport {
        self.0.report()
    }

    /// Runs that have not ended.
    #[must_use]
    pub fn live_runs(&self) -> usize {
        self.0.live_runs()
    }

    /// Starts nothing more, kills what runs, and waits `within` for it to be gone.
    pub async fn shutdown(&self, within: Duration) {
        self.0.shutdown(within).await;
    }
}
