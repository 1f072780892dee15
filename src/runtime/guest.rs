//! The data of one store: everything that host functions of one run can reach.
//!
//! Owns: making it from a [`Run`](super::Run) (standard streams, environment, opened directories, random and table bounds). Is not: the store,
//! or running it (`instance.rs`).
//!
//! One type serves components and core modules: wasmtime-wasi's context for WASI 0.1 contains the one for 0.2 and 0.3.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::ledger::Ledger;
use super::limiter::{Limiter, OutOfMemory};
use super::run::Shared;
use super::stacks::StoreStacks;
use super::stdio::{LogStream, StdinPipe, Stream};
use super::strand::Payer;
use super::{GuestMount, LogSink, Network, StartError};
use crate::net::{Member, MemberLimits, NetConfig, NoLedger, PodNet};
use crate::spec::OnMemoryLimit;
use crate::wasi::account::{Account, AccountView, Nobody};
use crate::wasi::files::{FilesView, Walls, Work};
use crate::wasi::http::{Client, HttpCtx, Trust};
use crate::wasi::lifecycle::{LifecycleView, StopListener};
use crate::wasi::p1::{self, Listeners, Preview1, Preview1View};
use crate::wasi::sockets::{NetCtxView, NetView};

/// Largest request for random bytes in one call. Programs ask for tens; the bytes lie on the host until they are copied.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// Host resources (files, streams, sockets, pollables) that one run may hold. Four times a process's usual limit of open
/// files, since a socket with its streams and pollables takes about four.
pub(crate) const RESOURCES_MAX: usize = 4096;

/// What a resource takes on the host: its place in the table, itself, and what waits for it. What it buffers is counted beside.
const RESOURCE_BYTES: u64 = 512;

/// What a task of WASI 0.3, an end of a stream, a future or a set of them takes in wasmtime's own table, with what it leads to.
const RECORD_BYTES: u64 = 1024;

/// Data of one store.
pub(crate) struct Guest {
    wasi: Preview1,
    pub(crate) limiter: Limiter,
    pub(crate) stacks: Arc<StoreStacks>,
    stop: StopListener,
    member: Arc<Member>,
    http: HttpCtx,
    walls: Walls,
    account: Arc<dyn Account>,
}

/// What a [`Guest`] is made from.
pub(crate) struct GuestPlan {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) mounts: Vec<GuestMount>,
    /// For each of these, whether its file system asks another machine.
    pub(crate) ask_others: Vec<bool>,
    pub(crate) on_memory_limit: OnMemoryLimit,
    pub(crate) stdin: Option<StdinPipe>,
    pub(crate) logs: Arc<dyn LogSink>,
    /// Its turn among the modules of its pod to have a volume measured.
    pub(crate) measuring: Arc<Semaphore>,
    /// File work may be done on the guest's own thread.
    pub(crate) may_block: bool,
    /// Sends its requests.
    pub(crate) client: Client,
    /// Ports on which it is given a listening socket.
    pub(crate) listen_on: Vec<u16>,
    /// … which waits for connections.
    pub(crate) accept_waits: bool,
    /// Pays for what the host holds and does for it.
    pub(crate) account: Arc<dyn Account>,
}

impl GuestPlan {
    /// Whether [`Guest::new`] may be called on a guest's own thread.
    pub(crate) fn opens_at_once(&self) -> bool {
        self.mounts.is_empty() || self.may_block && !self.ask_others.contains(&true)
    }
}

impl Guest {
    /// Opens what the module is granted, and prints to `logs`. Touches the file system, so it may block.
    ///
    /// # Errors
    /// [`StartError::Mount`], [`StartError::Listen`].
    pub(crate) fn new(
        plan: &GuestPlan,
        run: &Shared,
        logs: &Arc<dyn LogSink>,
    ) -> Result<Self, StartError> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&plan.argv)
            .envs(&plan.env)
            .stdout(LogStream::new(Arc::clone(logs), Stream::Stdout))
            .stderr(LogStream::new(Arc::clone(logs), Stream::Stderr))
            .max_random_size(RANDOM_BYTES_MAX);
        if let Some(stdin) = &plan.stdin {
            wasi.stdin(stdin.clone());
        }
        if let Some(dir) = &plan.working_dir {
            wasi.initial_cwd(dir);
        }
        for (mount, asks) in plan.mounts.iter().zip(&plan.ask_others) {
            open(&mut wasi, mount, plan.may_block && !asks)
                .map_err(|source| StartError::Mount { guest: mount.guest.clone(), source })?;
        }
        // What a component opens later takes what is said last, whichever directory it lies in.
        work_here(&mut wasi, plan.opens_at_once());
        let limiter = Limiter::new(Arc::clone(&run.account.memory), plan.on_memory_limit);
        let stacks = StoreStacks::new(Arc::clone(&run.account.memory));
        let (stop, member) = (run.stop_listener(), Arc::clone(&run.member));
        let http = HttpCtx::new(plan.client.clone());
        let mut sockets = Vec::new();
        for &port in &plan.listen_on {
            let listener = p1::listen(&member, port);
            sockets.push(listener.map_err(|source| StartError::Listen { port, source })?);
        }
        let listeners = Listeners { sockets, wait: plan.accept_waits };
        let rooms: Vec<_> = plan.mounts.iter().map(|mount| mount.room.clone()).collect();
        let work = if plan.opens_at_once() { Work::Here } else { Work::Elsewhere };
        let account = Arc::clone(&plan.account);
        let walls =
            Walls::new(rooms.iter().flatten().cloned(), account, work, Arc::clone(&plan.measuring));
        let ctx = wasi.build_p1();
        let wasi = Preview1::new(ctx, Arc::clone(&member), listeners, &rooms, walls.clone());
        let account = Arc::clone(&plan.account);
        let mut guest = Self { wasi, limiter, stacks, stop, member, http, walls, account };
        guest.ctx().table.set_max_capacity(RESOURCES_MAX);
        Ok(guest)
    }

    /// Counts the host's resources that the module holds now, and `records` of its tasks and streams.
    ///
    /// # Errors
    /// It has no memory for them.
    pub(crate) fn count_resources(&mut self, records: u64) -> Result<(), OutOfMemory> {
        let count = self.ctx().table.iter_mut().count() as u64;
        self.limiter.hold_resources(count * RESOURCE_BYTES + records * RECORD_BYTES)
    }

    /// A guest without anything, for a store that only asks the linker questions.
    pub(crate) fn blank() -> Self {
        let ledger = Arc::new(Ledger::new(Some(0), None));
        let member = Arc::new(join(Network::None, Arc::new(NoLedger)));
        let client = Client::new(Arc::clone(&member), Arc::new(Payer::Nobody), Trust::default());
        Self {
            wasi: Preview1::new(
                WasiCtxBuilder::new().build_p1(),
                Arc::clone(&member),
                Listeners::default(),
                &[],
                Walls::none(),
            ),
            walls: Walls::none(),
            account: Arc::new(Nobody),
            member,
            http: HttpCtx::new(client),
            stacks: StoreStacks::new(Arc::clone(&ledger)),
            limiter: Limiter::new(ledger, OnMemoryLimit::Fail),
            stop: StopListener::new(),
        }
    }
}

/// Grants one directory. It is opened through our own descriptor of it, so that no path is resolved a second time.
fn open(wasi: &mut WasiCtxBuilder, mount: &GuestMount, here: bool) -> io::Result<()> {
    let fd = mount.dir.as_fd();
    // Captured by wasmtime-wasi for each directory.
    work_here(wasi, here);
    let perms = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
    wasi.preopened_dir(format!("/proc/self/fd/{}", fd.as_raw_fd()), &mount.guest, perms).map_err(
        |error| match error.downcast::<io::Error>() {
            Ok(error) => error,
            Err(error) => io::Error::other(error.to_string()),
        },
    )?;
    Ok(())
}

/// Whether file work is done on the guest's own thread.
fn work_here(wasi: &mut WasiCtxBuilder, here: bool) {
    #[allow(
        clippy::disallowed_methods,
        reason = "file work on a local disk is 8 to 24 times cheaper on the guest's own thread; only what asks a \
                  network could hold that thread for long, and is left to the blocking threads. Sleeping, for which \
                  wasmtime-wasi would use it too, is not its (`wasi::p1`)"
    )]
    wasi.allow_blocking_current_thread(here);
}

/// Makes the run a member of its network; what is buffered for it is paid from `ledger`. A run without one is alone in a
/// network of its own, so that sockets need no case for it.
pub(crate) fn join(network: Network, ledger: Arc<dyn crate::net::Ledger>) -> Member {
    let (net, name) = match network {
        Network::Pod { net, member } => (net, member),
        Network::None => (PodNet::new(NetConfig::new(Ipv4Addr::LOCALHOST)), "alone".to_owned()),
    };
    net.join(&name, MemberLimits::default(), ledger)
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.wasi().ctx()
    }
}

impl AccountView for Guest {
    fn account(&self) -> &Arc<dyn Account> {
        &self.account
    }
}

impl FilesView for Guest {
    fn walls(&self) -> &Walls {
        &self.walls
    }
}

impl Preview1View for Guest {
    fn preview1(&mut self) -> &mut Preview1 {
        &mut self.wasi
    }
}

impl LifecycleView for Guest {
    fn lifecycle(&mut self) -> (&StopListener, &mut ResourceTable) {
        (&self.stop, self.wasi.wasi().ctx().table)
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let table = self.wasi.wasi().ctx().table;
        if self.limiter.keep(HttpCtx::kept_bytes(table) as u64) {
            self.http.view(table)
        } else {
            self.http.view_of_nothing()
        }
    }
}

impl NetView for Guest {
    fn net(&mut self) -> NetCtxView<'_> {
        NetCtxView { table: self.wasi.wasi().ctx().table, member: &self.member }
    }
}
