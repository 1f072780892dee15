//! Puts the runtime's parts together, and makes each run a task.
//!
//! Owns: the scheduler, the tokio runtime of the guests' timers and blocking work, the list of live runs, and the promise that each started run yields exactly one [`Exit`].
//! Is not: the caller's runtime; nothing in here runs on the control plane's threads but a few lines of hand-over.
//!
//! ```text
//!  start() ─► task of the scheduler: open directories ─► Metered(instance) ─► free everything ─► Exit
//! ```
//! A panic in a run's task ends that run only ([`Exit::Lost`]): its state is private, so nothing else can be half-changed.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

use super::artifact::Command;
use super::cache::Cache;
use super::carry::Carriers;
use super::compile::Compiler;
use super::cputime::monotonic_ns;
use super::file_threads::{FileThreads, ask_others, within};
use super::fuel::Fuel;
use super::guest::{Guest, GuestPlan, join};
use super::instance;
use super::ledger::NodeMemory;
use super::meter::{Metered, Outcome};
use super::network_memory::NetworkMemory;
use super::prepare::Library;
use super::profiles::Profiles;
use super::run::{Account, End, PodAccount, RunControl, RunExit, RunHandle, Shared};
use super::sched::{Epochs, Scheduler, Spawner};
use super::serve;
use super::strand::Payer;
use super::{
    Artifact, EngineReport, EngineSettings, HttpLimits, LogSink, Machine, PoolPlan, Run,
    RuntimeConfig, RuntimeStartError, StartError, Stdin, StdinPipe, TcpPort,
};
use crate::spec::{Exit, StopSignal};
use crate::wasi::http::{Client, Trust};

/// Runs at once. A thousand pods of four modules; each costs some 100 KiB and a few descriptors.
const RUNS_MAX: usize = 4096;

/// Threads for opening folders on disks of this machine, and for measuring them. What asks another machine has threads of its own
/// (`file_threads.rs`).
const BLOCKING_THREADS_MAX: usize = 16;

/// How long a blocking thread waits for more work.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long dropping the last [`super::Runtime`] waits, on a thread of its own, for guests to be gone.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// What all clones of a runtime share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) library: Library,
    report: EngineReport,
    guests: Spawner,
    live: Arc<Live>,
    closed: AtomicBool,
    next: AtomicU64,
    /// Whom modules' https requests trust.
    trust: Trust,
    network_file_systems: Vec<String>,
    /// What all pods hold.
    pub(crate) memory: Arc<NodeMemory>,
    /// Taken when the last handle goes.
    machinery: Mutex<Option<Machinery>>,
}

/// What runs by itself. Ended in this order, and never on a thread that must not block.
#[derive(Debug)]
struct Machinery {
    scheduler: Scheduler,
    io: tokio::runtime::Runtime,
}

/// The runs that have not ended.
#[derive(Debug)]
struct Live {
    runs: Mutex<HashMap<u64, Weak<Shared>>>,
    count: watch::Sender<usize>,
}

impl Live {
    fn runs(&self) -> MutexGuard<'_, HashMap<u64, Weak<Shared>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_all(&self) {
        let runs: Vec<_> = self.runs().values().filter_map(Weak::upgrade).collect();
        for run in runs {
            run.end(End::Killed);
        }
    }
}

impl Inner {
    pub(crate) fn new(config: RuntimeConfig) -> Result<Self, RuntimeStartError> {
        let machine = Machine::probe();
        let settings = EngineSettings::choose(&machine, config.backend);
        let epochs = Epochs::default();
        let pool = PoolPlan::choose(&machine, &settings);
        let profiles =
            Profiles::new(settings.clone(), pool.ok(), epochs.clone()).map_err(|error| {
                RuntimeStartError::Engine {
                    settings: settings.to_string(),
                    source: error.into_boxed_dyn_error(),
                }
            })?;
        let cache = Cache::open(&config.cache_dir, config.cache_bytes_max)?;
        let guest_threads = config.guest_threads.unwrap_or(machine.cores.max(2)).max(1);
        let threads = |source| RuntimeStartError::Threads { source };
        let io = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_keep_alive(BLOCKING_KEEP_ALIVE)
            .thread_name("guest-io")
            .enable_all()
            .build()
            .map_err(threads)?;
        let scheduler = Scheduler::start(guest_threads, io.handle(), epochs).map_err(threads)?;
        let compiler = cfg!(feature = "compiler");
        Ok(Self {
            report: EngineReport { machine, settings, pool, guest_threads, compiler },
            library: Library::new(profiles, cache, Compiler::new(config.compile)),
            guests: scheduler.spawner(),
            live: Arc::new(Live { runs: Mutex::default(), count: watch::Sender::new(0) }),
            closed: AtomicBool::new(false),
            next: AtomicU64::new(0),
            trust: Trust::new(config.extra_authorities),
            network_file_systems: config.network_file_systems,
            memory: Arc::default(),
            machinery: Mutex::new(Some(Machinery { scheduler, io })),
        })
    }

    pub(crate) fn report(&self) -> &EngineReport {
        &self.report
    }

    pub(crate) fn carriers(&self, pod: &PodAccount) -> Carriers {
        Carriers::new(self.guests.clone(), pod.cpu())
    }

    pub(crate) fn live_runs(&self) -> usize {
        *self.live.count.borrow()
    }

    pub(crate) async fn start(&self, run: Run) -> Result<RunHandle, StartError> {
        refuse(&run)?;
        let (shared, task) = self.task(run)?;
        let alive = self.enlist(&shared, Arc::clone(&task.plan.logs))?;
        let (started, is_started) = oneshot::channel();
        let (ended, exit) = oneshot::channel();
        let share = Arc::clone(&shared.account.cpu.share);
        let unless_started = KillUnlessStarted(Some(Arc::clone(&shared)));
        let theirs = Arc::clone(&shared);
        self.guests.spawn(share, shared.urgency.clone(), async move {
            let work = Box::pin(within(theirs.files.clone(), task.run(started)));
            let exit = AssertUnwindSafe(work).catch_unwind().await;
            theirs.end(End::Over);
            theirs.strands.gone().await;
            // Before the exit is told: whoever waits for it may count on the run being gone.
            drop(alive);
            let exit = exit.unwrap_or_else(|panic| {
                Some(Exit::Lost { message: format!("the runtime panicked: {}", words(&*panic)) })
            });
            if let Some(exit) = exit {
                let _ = ended.send(exit);
            }
        });
        let internal = |_| StartError::Internal { message: "its task ended early".to_owned() };
        is_started.await.map_err(internal)??;
        unless_started.disarm();
        Ok(RunHandle { control: RunControl(shared), exit: RunExit(exit) })
    }

    /// Splits a [`Run`] into what both sides see and what only the guest's thread needs.
    fn task(&self, run: Run) -> Result<(Arc<Shared>, RunTask), StartError> {
        let ask = ask_others(
            run.mounts.iter().map(|mount| mount.dir.as_fd()),
            &self.network_file_systems,
        );
        let files = self.threads_for(&run, &ask)?;
        let listen_on = listening_for(&run);
        let http = served_on(&run).map(|port| (port, run.http));
        let env = in_directory(&run);
        let account = match &run.charge_to {
            Some(other) => Arc::clone(&other.0.account),
            None => Arc::new(Account::new(&run.limits, run.artifact.counts_fuel(), &run.pod)),
        };
        let stdin = match (run.stdin, run.stop_signal) {
            (Stdin::Pipe(pipe), _) => Some(pipe),
            (Stdin::Closed, StopSignal::StdinEof) => Some(StdinPipe::new()),
            (Stdin::Closed, StopSignal::Lifecycle) => None,
        };
        let memory = Arc::new(NetworkMemory::new(Arc::clone(&account.memory)));
        let member = Arc::new(join(run.network, Arc::<NetworkMemory>::clone(&memory)));
        let guests = self.guests.clone();
        let net = (member, memory);
        let mut shared =
            Shared::new(run.name, account, guests, run.stop_signal, stdin.clone(), net);
        shared.files = files;
        let engine = &run.artifact.0.profile.engine;
        shared.paced = run.limits.fuel_per_second.map(|_| engine.clone());
        shared.serves = http.is_some();
        shared.on_memory_limit = run.limits.on_memory_limit;
        let shared = Arc::new(shared);
        shared.network_memory.belongs_to(&shared);
        let payer = Arc::new(Payer::Run(Arc::clone(&shared)));
        let plan = GuestPlan {
            argv: run.argv,
            env: with_listeners(env, &listen_on),
            working_dir: run.working_dir,
            mounts: run.mounts,
            ask_others: ask,
            on_memory_limit: run.limits.on_memory_limit,
            measuring: Arc::clone(&run.pod.measuring),
            stdin,
            logs: run.logs,
            // A single thread would let one module's disk work stop all others.
            may_block: self.report.guest_threads > 1,
            listen_on: listen_on.iter().map(|declared| declared.port).collect(),
            accept_waits: run.artifact.0.work.listens().is_none_or(|listens| listens.waits),
            account: Arc::<Payer>::clone(&payer),
            client: Client::new(Arc::clone(&shared.member), payer, self.trust.clone()),
        };
        let (budget, pace) = (run.limits.fuel, run.limits.fuel_per_second);
        let fuel = Arc::new(Fuel::new(budget, pace, monotonic_ns()));
        if http.is_some() {
            shared.stop_listener().hear();
        }
        let plan = Arc::new(plan);
        let task =
            RunTask { shared: Arc::clone(&shared), plan, artifact: run.artifact, fuel, http };
        Ok((shared, task))
    }

    /// The threads for a module's file work, if it needs any. An `exec` into it shares its.
    fn threads_for(&self, run: &Run, ask: &[bool]) -> Result<Option<Arc<FileThreads>>, StartError> {
        if !ask.contains(&true) {
            return Ok(None);
        }
        if let Some(other) = &run.charge_to
            && let Some(threads) = &other.0.files
        {
            return Ok(Some(Arc::clone(threads)));
        }
        let none =
            |error| StartError::Internal { message: format!("no threads for files: {error}") };
        run.pod.files.of(&run.name).map(Some).map_err(none)
    }

    /// Puts a run on the list, unless the runtime is closed or full.
    fn enlist(&self, run: &Arc<Shared>, logs: Arc<dyn LogSink>) -> Result<Enlisted, StartError> {
        let mut runs = self.live.runs();
        if self.closed.load(Ordering::SeqCst) {
            return Err(StartError::ShuttingDown);
        }
        if runs.len() >= RUNS_MAX {
            return Err(StartError::TooMany { limit: RUNS_MAX });
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        runs.insert(id, Arc::downgrade(run));
        self.live.count.send_replace(runs.len());
        Ok(Enlisted { live: Arc::clone(&self.live), id, run: Arc::clone(run), logs })
    }

    pub(crate) async fn shutdown(&self, within: Duration) {
        self.closed.store(true, Ordering::SeqCst);
        self.live.end_all();
        let mut count = self.live.count.subscribe();
        let gone = tokio::time::timeout(within, count.wait_for(|count| *count == 0)).await;
        if gone.is_err() {
            tracing::warn!(left = self.live_runs(), "modules did not end in time");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.live.end_all();
        let machinery = self.machinery.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // On a thread of its own, since we may be dropped inside of an async task.
        let end = move || {
            if let Some(Machinery { scheduler, io }) = machinery {
                let entered = io.enter();
                scheduler.stop(DROP_PATIENCE);
                drop(entered);
                io.shutdown_timeout(DROP_PATIENCE);
            }
        };
        let _ = std::thread::Builder::new().name("runtime-end".into()).spawn(end);
    }
}

/// A place on the list of live runs. Dropped when the run is over and its store is gone, also if its task unwinds: what
/// the run left elsewhere goes with it.
struct Enlisted {
    live: Arc<Live>,
    id: u64,
    run: Arc<Shared>,
    logs: Arc<dyn LogSink>,
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.run.set_over();
        self.logs.flush();
        let mut runs = self.live.runs();
        runs.remove(&self.id);
        self.live.count.send_replace(runs.len());
    }
}

/// Kills the run if whoever starts it gives up half-way.
struct KillUnlessStarted(Option<Arc<Shared>>);

impl KillUnlessStarted {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillUnlessStarted {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run.end(End::Killed);
        }
    }
}

/// What a run's task owns.
struct RunTask {
    shared: Arc<Shared>,
    plan: Arc<GuestPlan>,
    artifact: Artifact,
    fuel: Arc<Fuel>,
    /// Where it is served, if it answers HTTP.
    http: Option<(u16, HttpLimits)>,
}

impl RunTask {
    /// Runs the module; `None`: it was never started, and `started` says why.
    async fn run(self, started: oneshot::Sender<Result<(), StartError>>) -> Option<Exit> {
        let Self { shared, plan, artifact, fuel, http } = self;
        let (theirs, given) = (Arc::clone(&shared), Arc::clone(&plan));
        let log = if http.is_some() { serve::lines(&plan.logs) } else { Arc::clone(&plan.logs) };
        let open = move || theirs.account.cpu.work(|| Guest::new(&given, &theirs, &log));
        let opened = tokio::task::spawn_blocking(open).await;
        let guest =
            opened.unwrap_or_else(|error| Err(StartError::Internal { message: error.to_string() }));
        let guest = match guest {
            Ok(guest) => guest,
            Err(error) => {
                let _ = started.send(Err(error));
                return None;
            }
        };
        let _ = started.send(Ok(()));
        tracing::debug!(run = shared.name, "started");
        let exit = match (&artifact.0.work.command, http) {
            (_, Some((port, limits))) => {
                let what = serve::Served { artifact: artifact.clone(), plan, fuel, limits };
                serve::run(what, guest, &shared, port).await
            }
            (Some(command), None) => {
                let engine = &artifact.0.profile.engine;
                let instance = instance::run(engine, command, guest, &shared, &fuel);
                match Metered::new(instance, Arc::clone(&shared)).await {
                    Outcome::Finished(exit) => exit,
                    Outcome::Ended(end) => end.exit(),
                }
            }
            (None, None) => Exit::Lost { message: "a handler without a port".into() },
        };
        tracing::debug!(run = shared.name, ?exit, "ended");
        Some(exit)
    }
}

/// Refuses what could never be of use.
fn refuse(run: &Run) -> Result<(), StartError> {
    let only_handles = run.artifact.0.work.command.is_none();
    if only_handles && run.charge_to.is_some() {
        return Err(StartError::NotACommand);
    }
    if only_handles && run.tcp_ports.is_empty() {
        return Err(StartError::NoPort);
    }
    Ok(())
}

/// The port on which a module that answers HTTP is served. An `exec` into it, and one without a port, is run as a command.
fn served_on(run: &Run) -> Option<u16> {
    run.artifact.0.work.handler.as_ref()?;
    let declared = run.tcp_ports.first().filter(|_| run.charge_to.is_none())?;
    Some(declared.port)
}

/// The ports on which a module is given listening sockets: one that accepts connections and opens no sockets of its own. An `exec` into
/// it gets none; the ports are the module's.
fn listening_for(run: &Run) -> Vec<TcpPort> {
    if run.artifact.0.work.listens().is_none() || run.charge_to.is_some() {
        return Vec::new();
    }
    let mut ports: Vec<TcpPort> = Vec::new();
    for declared in &run.tcp_ports {
        if ports.iter().all(|port| port.port != declared.port) {
            ports.push(declared.clone());
        }
    }
    ports
}

/// Tells a module of its working directory as container runtimes do. Components are told by WASI as well; to core modules this is the only word, and
/// without it Go's `os` takes the first mount for it.
fn in_directory(run: &Run) -> Vec<(String, String)> {
    let is_core = matches!(run.artifact.0.work.command, Some(Command::Core { .. }));
    let dir = run.working_dir.as_deref().or(is_core.then_some("/"));
    let mut env = run.env.clone();
    if let Some(dir) = dir
        && env.iter().all(|(known, _)| known != "PWD")
    {
        env.push(("PWD".to_owned(), dir.to_owned()));
    }
    env
}

/// Tells a module of its listening sockets as systemd tells a service of its (`sd_listen_fds`); what the manifest says of these variables
/// stays.
fn with_listeners(mut env: Vec<(String, String)>, ports: &[TcpPort]) -> Vec<(String, String)> {
    let names = ports.iter().map(|port| match &port.name {
        Some(name) => name.clone(),
        None => port.port.to_string(),
    });
    let told = [
        ("LISTEN_FDS", ports.len().to_string()),
        ("LISTEN_FDNAMES", names.collect::<Vec<_>>().join(":")),
    ];
    for (name, value) in told {
        if !ports.is_empty() && env.iter().all(|(known, _)| known != name) {
            env.push((name.to_owned(), value));
        }
    }
    env
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|&text| text.to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "something that is not text".to_owned())
}
