//! Guests run to their end on a pod's network, with the rest of WASI and without the rest of podling.
//!
//! Both linkers of the real runtime are in `runtime::linkers`; this one has what guests of either version need, and stores whose
//! member and clock a test makes as it likes.

use std::future::Future;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use wasmtime::component::{Component, HasData, Linker};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::random::{WasiRandom, WasiRandomView as _};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView, p2, p3};
use wasmtime_wasi_io::bindings::wasi::io;

use super::*;
use crate::wasi::sockets::{NetView, add_to_linker_p2, add_to_linker_p3};

/// Long enough for a busy machine, and longer than a connect waits; a test that fails by this is stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

struct Guest {
    wasi: WasiCtx,
    // Before the member: a guest that ended closes its connections in order, one that is dropped
    // half-way is reset first.
    table: ResourceTable,
    member: Member,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl NetView for Guest {
    fn net(&mut self) -> NetCtxView<'_> {
        NetCtxView { table: &mut self.table, member: &self.member }
    }
}

struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

struct Shop {
    engine: Engine,
    linker: Linker<Guest>,
}

static SHOP: LazyLock<Shop> = LazyLock::new(|| {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    let engine = Engine::new(&config).unwrap();
    let mut linker = Linker::<Guest>::new(&engine);
    let l = &mut linker;
    io::error::add_to_linker::<_, Table>(l, |g: &mut Guest| g.ctx().table).unwrap();
    io::poll::add_to_linker::<_, Table>(l, |g: &mut Guest| g.ctx().table).unwrap();
    io::streams::add_to_linker::<_, Table>(l, |g: &mut Guest| g.ctx().table).unwrap();
    clocks::wall_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks).unwrap();
    clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks).unwrap();
    filesystem::types::add_to_linker::<_, WasiFilesystem>(l, Guest::filesystem).unwrap();
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, Guest::filesystem).unwrap();
    random::random::add_to_linker::<_, WasiRandom>(l, Guest::random).unwrap();
    random::insecure_seed::add_to_linker::<_, WasiRandom>(l, Guest::random).unwrap();
    cli::exit::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::environment::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::stdin::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::stdout::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::stderr::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::terminal_input::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::terminal_output::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, Guest::cli).unwrap();
    add_to_linker_p2(l).unwrap();
    for add in [p3::cli::add_to_linker, p3::clocks::add_to_linker, p3::random::add_to_linker] {
        add(l).unwrap();
    }
    add_to_linker_p3(l).unwrap();
    Shop { engine, linker }
});

/// A committed guest, compiled.
pub(super) fn component(name: &str) -> Component {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("wasm-examples/built")
        .join(name)
        .with_extension("wasm");
    Component::from_file(&SHOP.engine, file).unwrap()
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code; none after a trap.
    pub(super) code: Option<i32>,
    /// What it printed, with what it died of behind.
    pub(super) said: String,
}

/// Runs a guest of either version, as `member`, to its end.
pub(super) fn run_as(
    member: Member,
    component: &Component,
    args: &[&str],
    env: &[(&str, &str)],
) -> impl Future<Output = Ended> + Send + use<> {
    let output = MemoryOutputPipe::new(64 * 1024);
    let mut wasi = WasiCtx::builder();
    wasi.args(&[&["guest"], args].concat()).envs(env).stdout(output.clone()).stderr(output.clone());
    let guest = Guest { wasi: wasi.build(), table: ResourceTable::new(), member };
    let component = component.clone();
    async move {
        let mut store = Store::new(&SHOP.engine, guest);
        let outcome = call_run(&mut store, &component).await;
        drop(store);
        let mut said = String::from_utf8_lossy(&output.contents()).into_owned();
        let code = match outcome {
            Ok(Ok(())) => Some(0),
            Ok(Err(())) => Some(1),
            Err(error) => {
                let code = error.downcast_ref::<I32Exit>().map(|exit| exit.0);
                if code.is_none() {
                    said.push_str(&format!("{error:#}"));
                }
                code
            }
        };
        Ended { code, said }
    }
}

async fn call_run(
    store: &mut Store<Guest>,
    component: &Component,
) -> wasmtime::Result<Result<(), ()>> {
    let newer = component
        .component_type()
        .exports(&SHOP.engine)
        .any(|(name, _)| name.starts_with("wasi:cli/run@0.3."));
    if !newer {
        let command =
            p2::bindings::Command::instantiate_async(&mut *store, component, &SHOP.linker).await?;
        return command.wasi_cli_run().call_run(store).await;
    }
    let command =
        p3::bindings::Command::instantiate_async(&mut *store, component, &SHOP.linker).await?;
    store.run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await).await?
}

/// The same as a member with the usual limits: its exit code and what it printed. It must not trap.
pub(super) fn run(
    pod: &PodNet,
    component: &Component,
    args: &[&str],
    env: &[(&str, &str)],
) -> impl Future<Output = (i32, String)> + Send + use<> {
    let ended = run_as(join(pod, "guest"), component, args, env);
    async move {
        let ended = ended.await;
        let code = ended.code.unwrap_or_else(|| panic!("trapped: {}", ended.said));
        (code, ended.said)
    }
}

pub(super) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the guest should be done by now")
}
