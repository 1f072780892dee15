//! The peer: the same modules in a plain embedding of wasmtime and wasmtime-wasi, as its documentation shows it.
//!
//! Sockets are the host's kernel's. No meter, no ticker, no ledger: whatever podling's own cost, it shows in the comparison.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use podling::runtime::{Backend, EngineSettings, Machine};
use wasmtime::component::{Accessor, Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p2, p3};

/// What a guest may print.
const OUTPUT_MAX: usize = 1 << 20;

const RUN_MAX: Duration = Duration::from_secs(60);

/// The export by which a module is known as one of WASI 0.3.
const RUN_P3: &[u8] = b"wasi:cli/run@0.3.";

/// More ticks than there will ever be.
const NEVER: u64 = 1 << 60;

struct State {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// What the peer's code is compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// podling's own engine settings. Nobody turns the epoch.
    AsPodling,
    /// The same without epochs: nobody can interrupt it.
    WithoutEpochs,
}

/// What a module exports, ready to be instantiated.
#[derive(Clone)]
enum Command {
    P2(p2::bindings::CommandPre<State>),
    P3(p3::bindings::CommandPre<State>),
}

/// A plain embedding on threads of its own.
pub struct Peer {
    engine: Engine,
    command: Command,
    threads: tokio::runtime::Handle,
    /// Taken when the peer is dropped.
    owned: Option<tokio::runtime::Runtime>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // In an async context, where waiting is not allowed.
        if let Some(threads) = self.owned.take() {
            threads.shutdown_background();
        }
    }
}

impl Peer {
    /// Compiles `module`; its guests run on `threads` threads.
    ///
    /// # Errors
    /// If the engine or the module cannot be had.
    #[allow(clippy::disallowed_methods, reason = "the peer is what podling is compared with")]
    pub fn new(module: &std::path::Path, threads: usize, code: Code) -> anyhow::Result<Self> {
        let mut settings = EngineSettings::choose(&Machine::probe(), Backend::Auto);
        // As podling chooses for a module: what 0.3 needs makes each host call dearer.
        let bytes = std::fs::read(module)?;
        settings.tasks = bytes.windows(RUN_P3.len()).any(|window| window == RUN_P3);
        let engine = match code {
            Code::AsPodling => settings.compiler()?,
            Code::WithoutEpochs => Engine::new(&without_epochs(&settings)?)?,
        };
        let component = Component::new(&engine, bytes)?;
        let mut linker = Linker::new(&engine);
        p2::add_to_linker_async(&mut linker)?;
        let command = if settings.tasks {
            p3::add_to_linker(&mut linker)?;
            Command::P3(p3::bindings::CommandPre::new(linker.instantiate_pre(&component)?)?)
        } else {
            Command::P2(p2::bindings::CommandPre::new(linker.instantiate_pre(&component)?)?)
        };
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("peer")
            .enable_all()
            .build()?;
        Ok(Self { engine, command, threads: threads.handle().clone(), owned: Some(threads) })
    }

    /// Starts the module; what it printed is there when it has ended with success.
    pub fn start(&self, argv: &[&str], env: &[(&str, String)]) -> Started {
        let output = MemoryOutputPipe::new(OUTPUT_MAX);
        let wasi = context(argv, env, &output);
        let mut store = Store::new(&self.engine, State { wasi, table: ResourceTable::new() });
        store.set_epoch_deadline(NEVER);
        let command = self.command.clone();
        let task = self.threads.spawn(async move {
            match command {
                Command::P2(command) => {
                    let command = command.instantiate_async(&mut store).await?;
                    command.wasi_cli_run().call_run(&mut store).await
                }
                Command::P3(command) => {
                    let command = command.instantiate_async(&mut store).await?;
                    let run = async |accessor: &Accessor<State>| {
                        command.wasi_cli_run().call_run(accessor).await
                    };
                    store.run_concurrent(run).await?
                }
            }
        });
        Started { task, output: Arc::new(output) }
    }
}

/// A run of the peer.
pub struct Started {
    task: tokio::task::JoinHandle<wasmtime::Result<Result<(), ()>>>,
    output: Arc<MemoryOutputPipe>,
}

impl Started {
    /// Waits for its end.
    ///
    /// # Errors
    /// If it failed or takes too long.
    pub async fn output(self) -> anyhow::Result<Vec<u8>> {
        let abort = self.task.abort_handle();
        let ended = tokio::time::timeout(RUN_MAX, self.task).await;
        abort.abort();
        let printed = self.output.contents();
        match ended.context("a guest of the peer did not end")?? {
            Ok(Ok(())) => Ok(printed.to_vec()),
            other => anyhow::bail!(
                "a guest of the peer failed: {other:?}; it printed {:?}",
                String::from_utf8_lossy(&printed)
            ),
        }
    }

    pub fn abort(self) {
        self.task.abort();
    }
}

#[allow(clippy::disallowed_methods, reason = "the peer is what podling is compared with")]
fn context(argv: &[&str], env: &[(&str, String)], output: &MemoryOutputPipe) -> WasiCtx {
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(argv).stdout(output.clone()).stderr(output.clone()).allow_tcp(true);
    // A bench offers nothing to the network: whoever is not on this machine is turned away.
    wasi.socket_addr_check(|address, _| {
        let ours = address.ip().is_loopback() || address.ip().is_unspecified();
        Box::pin(async move { ours })
    });
    for (name, value) in env {
        wasi.env(name, value);
    }
    wasi.build()
}

/// podling's settings but for the epochs.
fn without_epochs(settings: &EngineSettings) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config.target(&settings.target)?;
    config
        .memory_reservation(settings.reservation)
        .memory_guard_size(settings.guard)
        .memory_reservation_for_growth(settings.growth)
        .relaxed_simd_deterministic(true)
        .wasm_memory64(false)
        .concurrency_support(settings.tasks)
        .wasm_component_model_async(settings.tasks);
    Ok(config)
}
