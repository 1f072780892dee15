//! A module that is ready to run: compiled, mapped, its imports resolved.
//!
//! Owns: loading compiled code, and what makes a module a command that we can run or a handler that we can serve. Is not: compiling, or where the file comes from.
//!
//! Clones share everything: a hundred pods of one module map its code once. Beside `stacks.rs` this is the only file
//! of the runtime that may call unsafe functions.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Store};
use wasmtime_wasi::{I32Exit, p2, p3};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2 as http2, p3 as http3};

use super::guest::Guest;
use super::linkers::{Linkers, missing_core, offers};
use super::origin::is_go;
use super::pool::{Pool, PoolPlan};
use super::sched::Epochs;
use super::{EngineSettings, PrepareError};
use crate::wasi::p1::expects_listeners;

/// What kind of WebAssembly a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleKind {
    /// A core module with WASI 0.1 (`wasi_snapshot_preview1`).
    CoreP1,
    /// A component with `wasi:cli/run@0.2`.
    ComponentP2,
    /// A component with `wasi:cli/run@0.3`.
    ComponentP3,
    /// A component with `wasi:http/incoming-handler@0.2`.
    HandlerP2,
    /// A component with `wasi:http/handler@0.3`.
    HandlerP3,
}

/// An engine with its linkers, for one profile.
pub(crate) struct Profile {
    pub(crate) settings: EngineSettings,
    pub(crate) mark: String,
    pub(crate) engine: Engine,
    linkers: Linkers,
    epochs: Epochs,
    plan: Option<PoolPlan>,
    pool: OnceLock<Option<Arc<Pool>>>,
}

impl Profile {
    /// An engine that turns with `epochs`; with a pool beside it, if there is a plan for one.
    ///
    /// # Errors
    /// wasmtime's.
    pub(crate) fn new(
        settings: EngineSettings,
        plan: Option<PoolPlan>,
        epochs: Epochs,
    ) -> wasmtime::Result<Self> {
        let engine = settings.engine()?;
        let linkers = Linkers::new(&engine, settings.tasks)?;
        epochs.add(&engine);
        let (mark, pool) = (settings.mark(), OnceLock::new());
        Ok(Self { mark, settings, engine, linkers, epochs, plan, pool })
    }

    /// The pool for instances that live as long as a request; made when it is first asked for. None where the machine has none.
    fn pool(&self) -> Option<&Arc<Pool>> {
        let make = || {
            let made = Pool::new(&self.settings, self.plan?);
            match made {
                Ok(pool) => {
                    self.epochs.add(&pool.engine);
                    Some(Arc::new(pool))
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "no pool of instances: each is made on demand"
                    );
                    None
                }
            }
        };
        self.pool.get_or_init(make).as_ref()
    }
}

/// A prepared module. Cheap to clone; the code is unmapped with the last clone.
#[derive(Clone)]
pub struct Artifact(pub(crate) Arc<Loaded>);

pub(crate) struct Loaded {
    pub(crate) sha256: [u8; 32],
    pub(crate) profile: Arc<Profile>,
    pub(crate) work: Work,
}

impl Artifact {
    /// SHA-256 of the module it was made from.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.0.sha256
    }

    #[must_use]
    pub fn kind(&self) -> ModuleKind {
        match &self.0.work {
            Work { handler: Some(ProxyPre::P2(_)), .. } => ModuleKind::HandlerP2,
            Work { handler: Some(ProxyPre::P3(_)), .. } => ModuleKind::HandlerP3,
            Work { command: Some(Command::P2(_)), .. } => ModuleKind::ComponentP2,
            Work { command: Some(Command::P3(_)), .. } => ModuleKind::ComponentP3,
            Work { command: Some(Command::Core { .. }) | None, .. } => ModuleKind::CoreP1,
        }
    }

    /// Whether its instructions are counted.
    #[must_use]
    pub fn counts_fuel(&self) -> bool {
        self.0.profile.settings.fuel
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("sha256", &super::cache::hex(&self.0.sha256))
            .field("kind", &self.kind())
            .field("counts_fuel", &self.counts_fuel())
            .finish()
    }
}

/// Why a file of compiled code could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// wasmtime refuses the file: another engine made it.
    Unusable(String),
    /// The file is fine, the module is not.
    Module(PrepareError),
    /// The module uses tasks of the component model, and this engine has none.
    NeedsTasks,
}

impl From<PrepareError> for LoadError {
    fn from(error: PrepareError) -> Self {
        Self::Module(error)
    }
}

/// Maps compiled code and resolves its imports. `origin` is the module that it was made from.
pub(crate) fn load(
    profile: &Arc<Profile>,
    sha256: [u8; 32],
    file: &File,
    origin: &Path,
) -> Result<Artifact, LoadError> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let unusable = |error: wasmtime::Error| LoadError::Unusable(format!("{error:#}"));
    let work = match Engine::detect_precompiled_file(&path).map_err(unusable)? {
        Some(wasmtime::Precompiled::Module) => {
            #[allow(unsafe_code, reason = "mapping code that this program made")]
            // SAFETY: the file was written by our own compile child and its contents were verified against their hash; it
            // lies in a directory that only this user can write to, is opened by descriptor, and is never written in
            // place. wasmtime itself compares version and settings.
            let module = unsafe { Module::deserialize_file(&profile.engine, &path) };
            let command = core_command(profile, &module.map_err(unusable)?, origin)?;
            Work { command: Some(command), handler: None, pooled: None }
        }
        Some(wasmtime::Precompiled::Component) => {
            #[allow(unsafe_code, reason = "mapping code that this program made")]
            // SAFETY: as above.
            let component = unsafe { Component::deserialize_file(&profile.engine, &path) };
            let mut work = component_work(profile, &component.map_err(unusable)?)?;
            work.pooled = pooled(profile, &work, &path);
            work
        }
        None => return Err(LoadError::Unusable("not compiled code".to_owned())),
    };
    Ok(Artifact(Arc::new(Loaded { sha256, profile: Arc::clone(profile), work })))
}

/// A handler of WASI 0.2 once more, for the pool. One that does not fit into its slots has nothing to lose: it is made on demand.
fn pooled(profile: &Profile, work: &Work, path: &str) -> Option<Pooled> {
    let Some(ProxyPre::P2(_)) = &work.handler else { return None };
    if profile.settings.tasks {
        return None;
    }
    let pool = profile.pool()?;
    #[allow(unsafe_code, reason = "mapping code that this program made")]
    // SAFETY: the same file as in `load`.
    let component = unsafe { Component::deserialize_file(&pool.engine, path) };
    let instance = component.and_then(|it| pool.linkers.component.instantiate_pre(&it));
    match instance.and_then(http2::bindings::ProxyPre::new) {
        Ok(pre) => Some(Pooled { pool: Arc::clone(pool), handler: ProxyPre::P2(pre) }),
        Err(error) => {
            tracing::debug!(error = format!("{error:#}"), "a handler is too large for the pool");
            None
        }
    }
}

fn core_command(
    profile: &Profile,
    module: &Module,
    origin: &Path,
) -> Result<Command, PrepareError> {
    match module.get_export("_start") {
        Some(wasmtime::ExternType::Func(start))
            if start.params().len() == 0 && start.results().len() == 0 => {}
        Some(_) => {
            let message = "its export `_start` is not a function without parameters and results";
            return Err(PrepareError::NotACommand { message: message.to_owned() });
        }
        None => {
            let message = if module.get_export("_initialize").is_some() {
                "the module is a library (it exports `_initialize` and no `_start`)"
            } else {
                "the module exports no `_start` function"
            };
            return Err(PrepareError::NotACommand { message: message.to_owned() });
        }
    }
    let fits = |error: wasmtime::Error| refusal(Vec::new(), &error);
    let linker = profile.linkers.core_for(module).map_err(fits)?;
    let pre = linker.instantiate_pre(module).map_err(|error| {
        let store = Store::new(&profile.engine, Guest::blank());
        refusal(missing_core(&linker, module, store), &error)
    })?;
    let listens = expects_listeners(module).then(|| Listens { waits: !is_go(origin) });
    Ok(Command::Core { pre, listens })
}

fn component_work(profile: &Profile, component: &Component) -> Result<Work, LoadError> {
    let ty = component.component_type();
    let imports: Vec<_> = ty.imports(&profile.engine).map(|(name, _)| name.to_owned()).collect();
    let missing: Vec<_> = imports.iter().filter(|name| !offers(name)).cloned().collect();
    let exports: Vec<_> = ty.exports(&profile.engine).map(|(name, _)| name.to_owned()).collect();
    let (run, handle) = worlds(&exports)?;
    if !missing.is_empty() {
        return Err(PrepareError::MissingImports { imports: missing }.into());
    }
    let new = |name: &String| name.contains("@0.3.");
    let is_new = [run, handle].contains(&Some(Generation::Third)) || imports.iter().any(new);
    if !profile.settings.tasks && is_new {
        return Err(LoadError::NeedsTasks);
    }
    let fits = |error: wasmtime::Error| refusal(Vec::new(), &error);
    let instance = profile.linkers.component.instantiate_pre(component).map_err(fits)?;
    let not_a_command =
        |error: wasmtime::Error| PrepareError::NotACommand { message: format!("{error:#}") };
    let command = match run {
        Some(Generation::Second) => {
            p2::bindings::CommandPre::new(instance.clone()).map(|pre| Some(Command::P2(pre)))
        }
        Some(Generation::Third) => {
            p3::bindings::CommandPre::new(instance.clone()).map(|pre| Some(Command::P3(pre)))
        }
        None => Ok(None),
    };
    let handler = match handle {
        Some(Generation::Second) => {
            http2::bindings::ProxyPre::new(instance).map(|pre| Some(ProxyPre::P2(pre)))
        }
        Some(Generation::Third) => {
            http3::bindings::ServicePre::new(instance).map(|pre| Some(ProxyPre::P3(pre)))
        }
        None => Ok(None),
    };
    let (command, handler) = (command.map_err(not_a_command)?, handler.map_err(not_a_command)?);
    Ok(Work { command, handler, pooled: None })
}

/// A version of WASI, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    Second,
    Third,
}

/// What a component with these exports is for: as a command, and as a handler. The older interface is taken where it has both.
fn worlds(exports: &[String]) -> Result<(Option<Generation>, Option<Generation>), PrepareError> {
    let exported = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    let newest = |second: &str, third: &str| {
        let second = exported(second).then_some(Generation::Second);
        second.or_else(|| exported(third).then_some(Generation::Third))
    };
    let run = newest("wasi:cli/run@0.2.", "wasi:cli/run@0.3.");
    let handle = newest("wasi:http/incoming-handler@0.2.", "wasi:http/handler@0.3.");
    if run.is_some() || handle.is_some() {
        return Ok((run, handle));
    }
    let message = match exports.first() {
        None => {
            "the component exports nothing; a command exports `wasi:cli/run`, a server of HTTP \
                 `wasi:http/incoming-handler`"
                .to_owned()
        }
        Some(first) => format!(
            "the component exports `{first}`, and neither `wasi:cli/run` nor a handler of `wasi:http` that podling knows"
        ),
    };
    Err(PrepareError::NotACommand { message })
}

/// Why the imports could not be resolved.
fn refusal(missing: Vec<String>, error: &wasmtime::Error) -> PrepareError {
    if missing.is_empty() {
        return PrepareError::Incompatible { message: format!("{error:#}") };
    }
    PrepareError::MissingImports { imports: missing }
}

/// What a module is for, with its imports resolved: at least one of the two.
///
/// A component may be both. Rust's usual way to write a handler (a `main` with an attribute of `wstd`) makes a command of it as well, which only says that
/// it is none: so whoever has a port to be served on is served.
pub(crate) struct Work {
    pub(crate) command: Option<Command>,
    pub(crate) handler: Option<ProxyPre<Guest>>,
    /// The same handler, for instances that live as long as a request.
    pub(crate) pooled: Option<Pooled>,
}

/// A handler whose instances come from a pool.
pub(crate) struct Pooled {
    pub(crate) pool: Arc<Pool>,
    pub(crate) handler: ProxyPre<Guest>,
}

impl Work {
    /// How a core module is given listening sockets, if it is.
    pub(crate) fn listens(&self) -> Option<Listens> {
        match &self.command {
            Some(Command::Core { listens, .. }) => *listens,
            Some(Command::P2(_) | Command::P3(_)) | None => None,
        }
    }
}

/// How a core module accepts connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listens {
    /// `sock_accept` waits for a connection, until the module says otherwise.
    pub(crate) waits: bool,
}

/// A module that runs from its start to its end.
pub(crate) enum Command {
    Core {
        pre: wasmtime::InstancePre<Guest>,
        /// How it is given sockets that listen on the ports of its container, if it is.
        listens: Option<Listens>,
    },
    P2(p2::bindings::CommandPre<Guest>),
    P3(p3::bindings::CommandPre<Guest>),
}

impl Command {
    /// Instantiates the module and runs it to its end.
    pub(crate) async fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let result = match self {
            Self::Core { pre, .. } => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                return start.call_async(&mut *store, ()).await;
            }
            Self::P2(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(&mut *store).await?
            }
            Self::P3(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                store
                    .run_concurrent(async |accessor| {
                        command.wasi_cli_run().call_run(accessor).await
                    })
                    .await??
            }
        };
        // `run` has no exit codes, only success and failure.
        result.map_err(|()| wasmtime::Error::new(I32Exit(1)))
    }
}
