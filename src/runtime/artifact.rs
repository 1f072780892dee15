//! A module that is ready to run: compiled, mapped, its imports resolved.
//!
//! Owns: loading compiled code, and what makes a module a command that we can run or a handler that we can serve. Is not: compiling, or where the file comes from.
//!
//! Clones share everything: a hundred pods of one module map its code once. This is the only file of the runtime that may call
//! unsafe functions.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Store};
use wasmtime_wasi::{I32Exit, p2, p3};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2 as http2, p3 as http3};

use super::guest::Guest;
use super::linkers::{Linkers, missing_core, offers};
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
}

impl Profile {
    pub(crate) fn new(settings: EngineSettings) -> wasmtime::Result<Self> {
        let engine = settings.engine()?;
        let linkers = Linkers::new(&engine, settings.tasks)?;
        Ok(Self { mark: settings.mark(), settings, engine, linkers })
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
            Work::Command(Command::Core { .. }) => ModuleKind::CoreP1,
            Work::Command(Command::P2(_)) => ModuleKind::ComponentP2,
            Work::Command(Command::P3(_)) => ModuleKind::ComponentP3,
            Work::Handler(ProxyPre::P2(_)) => ModuleKind::HandlerP2,
            Work::Handler(ProxyPre::P3(_)) => ModuleKind::HandlerP3,
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

/// Maps compiled code and resolves its imports.
pub(crate) fn load(
    profile: &Arc<Profile>,
    sha256: [u8; 32],
    file: &File,
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
            Work::Command(core_command(profile, &module.map_err(unusable)?)?)
        }
        Some(wasmtime::Precompiled::Component) => {
            #[allow(unsafe_code, reason = "mapping code that this program made")]
            // SAFETY: as above.
            let component = unsafe { Component::deserialize_file(&profile.engine, &path) };
            component_work(profile, &component.map_err(unusable)?)?
        }
        None => return Err(LoadError::Unusable("not compiled code".to_owned())),
    };
    Ok(Artifact(Arc::new(Loaded { sha256, profile: Arc::clone(profile), work })))
}

fn core_command(profile: &Profile, module: &Module) -> Result<Command, PrepareError> {
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
    Ok(Command::Core { pre, listens: expects_listeners(module) })
}

fn component_work(profile: &Profile, component: &Component) -> Result<Work, LoadError> {
    let ty = component.component_type();
    let imports: Vec<_> = ty.imports(&profile.engine).map(|(name, _)| name.to_owned()).collect();
    let missing: Vec<_> = imports.iter().filter(|name| !offers(name)).cloned().collect();
    let exports: Vec<_> = ty.exports(&profile.engine).map(|(name, _)| name.to_owned()).collect();
    let world = world(&exports)?;
    if !missing.is_empty() {
        return Err(PrepareError::MissingImports { imports: missing }.into());
    }
    let new = |name: &String| name.contains("@0.3.");
    if !profile.settings.tasks && (!matches!(world, World::Run2) || imports.iter().any(new)) {
        return Err(LoadError::NeedsTasks);
    }
    let fits = |error: wasmtime::Error| refusal(Vec::new(), &error);
    let instance = profile.linkers.component.instantiate_pre(component).map_err(fits)?;
    let not_a_command =
        |error: wasmtime::Error| PrepareError::NotACommand { message: format!("{error:#}") };
    match world {
        World::Run2 => {
            p2::bindings::CommandPre::new(instance).map(|pre| Work::Command(Command::P2(pre)))
        }
        World::Run3 => {
            p3::bindings::CommandPre::new(instance).map(|pre| Work::Command(Command::P3(pre)))
        }
        World::Handle2 => {
            http2::bindings::ProxyPre::new(instance).map(|pre| Work::Handler(ProxyPre::P2(pre)))
        }
        World::Handle3 => {
            http3::bindings::ServicePre::new(instance).map(|pre| Work::Handler(ProxyPre::P3(pre)))
        }
    }
    .map_err(|error| not_a_command(error).into())
}

enum World {
    Run2,
    Run3,
    Handle2,
    Handle3,
}

/// What a component with these exports is for. One that is both a command and a handler is run as a command: it serves itself if it
/// wants to.
fn world(exports: &[String]) -> Result<World, PrepareError> {
    let exported = |prefix: &str| exports.iter().find(|name| name.starts_with(prefix));
    if exported("wasi:cli/run@0.2.").is_some() {
        return Ok(World::Run2);
    }
    if exported("wasi:cli/run@0.3.").is_some() {
        return Ok(World::Run3);
    }
    if exported("wasi:http/incoming-handler@0.2.").is_some() {
        return Ok(World::Handle2);
    }
    if exported("wasi:http/handler@0.3.").is_some() {
        return Ok(World::Handle3);
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

/// What a module is for, with its imports resolved.
pub(crate) enum Work {
    Command(Command),
    Handler(ProxyPre<Guest>),
}

/// A module that runs from its start to its end.
pub(crate) enum Command {
    Core {
        pre: wasmtime::InstancePre<Guest>,
        /// It is given sockets that listen on the ports of its container.
        listens: bool,
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
