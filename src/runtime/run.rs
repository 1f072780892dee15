//! One run of one module, seen from outside: what it may use, how it is stopped, how it ended.
//!
//! Owns: [`Shared`], the state that the control plane and the guest's thread both look at; it is all atomics, so that neither ever waits
//! for the other. Is not: the run itself (`instance.rs`).
//!
//! ```text
//!                     ask_to_stop, hears it ──► goes on, ends itself: Code(n)
//!  running ──────────►
//!                     ask_to_stop, does not ──► Terminated        kill ──► Killed
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use wasmtime::Engine;

use super::RunLimits;
use super::cputime::monotonic_ns;
use super::file_threads::{FileThreads, PodFileThreads};
use super::ledger::{Ledger, MemoryKinds, NodeMemory, OverLimit};
use super::limiter::OutOfMemory;
use super::meter::{CpuAccount, PodCpu};
use super::network_memory::NetworkMemory;
use super::sched::{Spawner, Urgency};
use super::serve::{HttpCounters, HttpUsage};
use super::stdio::StdinPipe;
use super::strand::Strands;
use crate::net::Member;
use crate::spec::{Exit, OnMemoryLimit, StopSignal};
use crate::wasi::files::one_at_a_time;
use crate::wasi::lifecycle::StopListener;

/// Limits of a whole pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// Bytes of memory of all its modules together.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core for all its modules together.
    pub cpu_millis: Option<u64>,
    /// Thousandths of a core that it weighs when the machine is full, all its modules together; `None`: each of them stands
    /// for itself.
    pub cpu_request_millis: Option<u64>,
}

/// The account that all modules of a pod draw on. One per pod; clones are the same account.
#[derive(Clone, Debug)]
pub struct PodAccount {
    memory: Arc<Ledger>,
    cpu: Arc<PodCpu>,
    pub(crate) files: Arc<PodFileThreads>,
    /// One of its modules at a time has a volume measured.
    pub(crate) measuring: Arc<Semaphore>,
}

impl PodAccount {
    /// A new account under `limits`.
    #[must_use]
    pub fn new(limits: PodLimits) -> Self {
        Self::on(Arc::default(), limits)
    }

    /// The same on a node with other pods.
    pub(crate) fn on(node: Arc<NodeMemory>, limits: PodLimits) -> Self {
        Self {
            memory: Arc::new(Ledger::of_pod(limits.memory_bytes, node)),
            cpu: Arc::new(PodCpu::new(limits.cpu_millis, limits.cpu_request_millis)),
            files: Arc::default(),
            measuring: one_at_a_time(),
        }
    }

    /// An account without limits, that only counts.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(PodLimits::default())
    }

    pub(super) fn cpu(&self) -> Arc<PodCpu> {
        Arc::clone(&self.cpu)
    }

    /// Counts CPU time that the host has used for this pod on threads of its own: it counts towards the pod's limit, and its modules
    /// wait for it. For work that can be large, such as carrying bytes to and from the host's network.
    pub fn charge_cpu(&self, time: Duration) {
        self.cpu.charge(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// For how long the pod has used up its CPU limit; zero: it has not. Whoever brings work from outside (datagrams) waits so long, or
    /// drops it, lest the pod's modules pay for a flood for minutes afterwards.
    #[must_use]
    pub fn owes_cpu(&self) -> Duration {
        self.cpu.owes(monotonic_ns())
    }

    /// CPU time that the pod's modules have used, those that have ended included, and the host for them.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.cpu.used()
    }

    /// Bytes that the pod's modules hold now.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.used()
    }

    /// The most bytes they ever held at once.
    #[must_use]
    pub fn memory_peak_bytes(&self) -> u64 {
        self.memory.peak()
    }

    /// Takes bytes for something that the pod holds beside its modules (log lines); false and nothing taken where its limit does
    /// not allow it.
    #[must_use]
    pub fn take_memory(&self, bytes: u64) -> bool {
        self.memory.charge(bytes).is_ok()
    }

    /// The same for something that nothing else bounds: where the pod has no limit, the node has to have as many left
    /// ([`super::Runtime::bound_unlimited`]).
    #[must_use]
    pub fn take_memory_of_node(&self, bytes: u64) -> bool {
        self.memory.charge_growth(bytes).is_ok()
    }

    /// Gives such bytes back.
    pub fn give_back_memory(&self, bytes: u64) {
        self.memory.release(bytes);
    }
}

/// Where one module's use is counted. An `exec` into it shares it.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) memory: Arc<Ledger>,
    pub(crate) cpu: CpuAccount,
    /// Whether instructions are counted, and how many were executed so far.
    counts_fuel: bool,
    fuel_used: AtomicU64,
}

impl Account {
    pub(crate) fn new(limits: &RunLimits, counts_fuel: bool, pod: &PodAccount) -> Self {
        let parent = Some(Arc::clone(&pod.memory));
        Self {
            memory: Arc::new(Ledger::new(limits.memory_bytes, parent)),
            cpu: CpuAccount::new(
                limits.cpu_millis,
                limits.cpu_request_millis,
                Arc::clone(&pod.cpu),
            ),
            counts_fuel,
            fuel_used: AtomicU64::new(0),
        }
    }

    pub(crate) fn add_fuel(&self, instructions: u64) {
        self.fuel_used.fetch_add(instructions, Ordering::Relaxed);
    }
}

/// What a run has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time: on guest threads, host functions included, and what was charged for work elsewhere.
    pub cpu_time: Duration,
    /// Time spent waiting because of the CPU limit or of the pace of its fuel, up to the last wait that ended.
    pub throttled: Duration,
    /// The fewest thousandths of a core that its own limit or its pod's allows; `None`: no limit.
    pub cpu_limit_millis: Option<u64>,
    /// Bytes held now: linear memories, tables, stack, and what the host holds for it.
    pub memory_bytes: u64,
    /// The most ever held at once.
    pub memory_peak_bytes: u64,
    /// How often its own limit or its pod's refused it memory.
    pub memory_refused: u64,
    /// The fewest bytes that either allows; `None`: no bound.
    pub memory_limit_bytes: Option<u64>,
    /// Those held now, by what they are for.
    pub memory: MemoryKinds,
    /// Instructions executed; `None` where they are not counted. While it runs, as far as its code has written them down
    /// (a tight loop does when it ends).
    pub fuel_used: Option<u64>,
}

/// Why we ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Terminated,
    Killed,
    /// A call of its own found no memory, and it is not to go on then.
    OutOfMemory(OverLimit),
    /// It has ended already; what still works beside it goes now.
    Over,
}

impl End {
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::Terminated => Exit::Terminated,
            Self::Killed => Exit::Killed,
            Self::OutOfMemory(over) => Exit::OutOfMemory { message: OutOfMemory(over).to_string() },
            // Whoever said so has the exit, and nobody asks here.
            Self::Over => Exit::Lost { message: "the run was over already".to_owned() },
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminated => "terminated",
            Self::Killed => "killed",
            Self::OutOfMemory(_) => "out of memory",
            Self::Over => "over",
        })
    }
}

/// As the cause of the trap that takes a spinning guest off its thread.
impl std::error::Error for End {}

const RUNNING: u8 = 0;
const TERMINATED: u8 = 1;
const KILLED: u8 = 2;
const OVER: u8 = 3;
const OUT_OF_MEMORY: u8 = 4;

/// What the control plane and the guest's thread share.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) account: Arc<Account>,
    /// What is polled by itself: its end must reach each.
    pub(crate) strands: Strands,
    /// The threads it runs on, and whether it is to end there.
    pub(crate) guests: Spawner,
    pub(crate) urgency: Urgency,
    /// Whose code it is, if its instructions are paced: it has to look up after each interval of them.
    pub(crate) paced: Option<Engine>,
    /// It answers HTTP: its handlers share a task with the connection that they answer on.
    pub(crate) serves: bool,
    /// What happens at its memory limit.
    pub(crate) on_memory_limit: OnMemoryLimit,
    /// Its own threads for file work, if one of its folders asks another machine.
    pub(crate) files: Option<Arc<FileThreads>>,
    /// What its sockets and requests are paid from.
    pub(crate) network_memory: Arc<NetworkMemory>,
    /// Set before `end` says so.
    missed: OnceLock<OverLimit>,
    end: AtomicU8,
    over: AtomicBool,
    stop: StopListener,
    stop_signal: StopSignal,
    /// Closed at a stop request, where that is how the module hears it.
    stdin: Option<StdinPipe>,
    /// Its place in the pod's network.
    pub(crate) member: Arc<Member>,
    /// What it has answered, if it answers HTTP.
    pub(crate) http: HttpCounters,
}

impl Shared {
    pub(crate) fn new(
        name: String,
        account: Arc<Account>,
        guests: Spawner,
        stop_signal: StopSignal,
        stdin: Option<StdinPipe>,
        (member, network_memory): (Arc<Member>, Arc<NetworkMemory>),
    ) -> Self {
        Self {
            name,
            account,
            strands: Strands::default(),
            guests,
            urgency: Urgency::default(),
            paced: None,
            serves: false,
            on_memory_limit: OnMemoryLimit::Kill,
            files: None,
            network_memory,
            missed: OnceLock::new(),
            end: AtomicU8::new(RUNNING),
            over: AtomicBool::new(false),
            stop: StopListener::new(),
            stop_signal,
            stdin,
            member,
            http: HttpCounters::default(),
        }
    }

    pub(crate) fn stop_listener(&self) -> StopListener {
        self.stop.clone()
    }

    /// Whether we want it ended, and how.
    pub(crate) fn ended(&self) -> Option<End> {
        match self.end.load(Ordering::Acquire) {
            TERMINATED => Some(End::Terminated),
            KILLED => Some(End::Killed),
            OUT_OF_MEMORY => self.missed.get().copied().map(End::OutOfMemory),
            OVER => Some(End::Over),
            _ => None,
        }
    }

    /// Ends it; the first reason stays.
    pub(crate) fn end(&self, end: End) {
        let end = match end {
            End::Terminated => TERMINATED,
            End::Killed => KILLED,
            End::OutOfMemory(over) => {
                // The first reason stays here as well.
                let _ = self.missed.set(over);
                OUT_OF_MEMORY
            }
            End::Over => OVER,
        };
        let _ = self.end.compare_exchange(RUNNING, end, Ordering::AcqRel, Ordering::Acquire);
        // It waits for its turn, or for something else, or it runs: one of the three reaches it.
        self.guests.hasten(&self.account.cpu.share, &self.urgency);
        self.strands.wake();
        self.guests.look_up();
    }

    /// Resets its connections, as a kernel does for a process that died. For a run that ends in order, only what its
    /// store did not close itself is left to do.
    pub(crate) fn leave_network(&self) {
        self.member.reset();
    }

    /// Counts what its own threads for file work have computed since the last time.
    pub(crate) fn count_file_threads(&self) {
        if let Some(files) = &self.files {
            self.account.cpu.charge(files.take_cpu_ns());
        }
    }

    /// Nothing of the run is left but this; whoever still holds it keeps no port and no pipe.
    pub(crate) fn set_over(&self) {
        self.leave_network();
        self.count_file_threads();
        if let Some(stdin) = &self.stdin {
            stdin.abandon();
        }
        self.over.store(true, Ordering::Release);
    }

    fn hears_stop(&self) -> bool {
        self.stop.is_heard() || self.stop_signal == StopSignal::StdinEof
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("name", &self.name)
            .field("end", &self.ended())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

/// Stops and observes a run. Clones are the same run; dropping them all leaves it running.
#[derive(Clone, Debug)]
pub struct RunControl(pub(crate) Arc<Shared>);

impl RunControl {
    /// Tells the module to stop. One that has not asked to hear this ends at once, with [`Exit::Terminated`]; one that has
    /// goes on until it ends by itself or is killed. Asking again changes nothing.
    pub fn ask_to_stop(&self) {
        if self.0.hears_stop() {
            self.0.stop.tell();
            if self.0.stop_signal == StopSignal::StdinEof
                && let Some(stdin) = &self.0.stdin
            {
                stdin.close();
            }
        } else {
            self.0.end(End::Terminated);
        }
    }

    /// Ends the module now, whatever it does, with [`Exit::Killed`].
    pub fn kill(&self) {
        self.0.end(End::Killed);
    }

    /// Whether the module has asked to hear a stop request (or hears it as end of file on its standard input).
    #[must_use]
    pub fn hears_stop(&self) -> bool {
        self.0.hears_stop()
    }

    /// Whether the run has ended and nothing of it is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// What it has answered so far, if it is a module that answers HTTP; stays readable after its end.
    #[must_use]
    pub fn http(&self) -> HttpUsage {
        self.0.http.usage()
    }

    /// What it has used so far; stays readable after its end.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let account = &self.0.account;
        let fuel = account.fuel_used.load(Ordering::Relaxed);
        Usage {
            cpu_time: account.cpu.used(),
            throttled: account.cpu.throttled(),
            cpu_limit_millis: account.cpu.limit_millis(),
            memory_bytes: account.memory.used(),
            memory_peak_bytes: account.memory.peak(),
            memory_refused: account.memory.refused(),
            memory_limit_bytes: account.memory.limit(),
            memory: account.memory.kinds(),
            fuel_used: account.counts_fuel.then_some(fuel),
        }
    }
}

/// The end of a run: resolves exactly once, after everything the run held is free again (memory, ports, files), also if
/// our own task panics ([`Exit::Lost`]). Dropping it does not end the run.
#[derive(Debug)]
pub struct RunExit(pub(crate) oneshot::Receiver<Exit>);

impl Future for RunExit {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        Pin::new(&mut self.0).poll(cx).map(|exit| {
            exit.unwrap_or_else(|_| Exit::Lost { message: "the runtime dropped the run".into() })
        })
    }
}

/// A run that was started.
#[derive(Debug)]
pub struct RunHandle {
    /// Stops and observes it.
    pub control: RunControl,
    /// How it ends.
    pub exit: RunExit,
}
