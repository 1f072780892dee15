//! Guests, and podling's own runtime for them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use podling::net::{NetConfig, PodNet};
use podling::runtime::{
    Artifact, CompileMode, LogSink, ModuleFile, Network, PodAccount, Run, RunControl, RunHandle,
    RunLimits, Runtime, RuntimeConfig, Stdin, Stream,
};
use podling::spec::{Exit, HttpLimits, StopSignal};
use sha2::{Digest as _, Sha256};

/// What any single run of a guest may take before the bench gives up.
const RUN_MAX: Duration = Duration::from_secs(60);

/// The committed module of that name.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("wasm-examples").join("built").join(format!("{name}.wasm"))
}

/// The last line of JSON that a guest printed.
///
/// # Errors
/// If there is none.
pub fn json_line(output: &[u8]) -> anyhow::Result<serde_json::Value> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("no JSON line in what the guest printed: {text:?}"))?;
    serde_json::from_str(line).with_context(|| format!("the guest printed {line:?}"))
}

/// Keeps what a guest prints.
#[derive(Debug, Default)]
pub struct Output(Mutex<Vec<u8>>);

impl Output {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl LogSink for Output {
    fn write(&self, _stream: Stream, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }

    fn flush(&self) {}
}

/// podling's runtime, as the daemon has it, with a cache of its own.
#[derive(Debug)]
pub struct Host {
    runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Host {
    /// `guest_threads`: `None` as the daemon chooses.
    ///
    /// # Errors
    /// If the engine cannot start here.
    pub fn new(guest_threads: Option<usize>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("make a folder for compiled code")?;
        let mut config = RuntimeConfig::new(dir.path().join("code"));
        config.compile = CompileMode::InProcess;
        config.guest_threads = guest_threads;
        let runtime = Runtime::new(config).context("start the engine")?;
        Ok(Self { runtime, dir })
    }

    /// A module of `wasm-examples/`, compiled.
    ///
    /// # Errors
    /// If it is not there or does not compile.
    pub async fn prepare(&self, name: &str, fuel: bool) -> anyhow::Result<Artifact> {
        self.prepare_file(path(name), fuel).await
    }

    /// A module given as bytes.
    ///
    /// # Errors
    /// If it does not compile.
    pub async fn prepare_bytes(&self, name: &str, wasm: &[u8]) -> anyhow::Result<Artifact> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, wasm)?;
        self.prepare_file(path, false).await
    }

    /// A module given as a file.
    ///
    /// # Errors
    /// If it is not there or does not compile.
    pub async fn prepare_path(&self, path: &Path, fuel: bool) -> anyhow::Result<Artifact> {
        self.prepare_file(path.to_owned(), fuel).await
    }

    async fn prepare_file(&self, path: PathBuf, fuel: bool) -> anyhow::Result<Artifact> {
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let sha256 = Sha256::digest(&bytes).into();
        let shown = path.display().to_string();
        let file = ModuleFile { path, sha256 };
        self.runtime.prepare(file, fuel).await.with_context(|| format!("prepare {shown}"))
    }

    /// Starts a module and leaves it running.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(&self, plan: Plan<'_>) -> anyhow::Result<(RunHandle, Arc<Output>)> {
        let output = Output::new();
        let run = Run {
            name: format!("bench/{}", plan.argv.first().unwrap_or(&"guest")),
            artifact: plan.artifact.clone(),
            argv: plan.argv.iter().map(|&word| word.to_owned()).collect(),
            env: plan.env.iter().map(|(name, value)| ((*name).into(), value.clone())).collect(),
            working_dir: None,
            mounts: vec![],
            limits: plan.limits,
            http: HttpLimits::default(),
            tcp_ports: Vec::new(),
            pod: plan.pod.map_or_else(PodAccount::unlimited, PodAccount::clone),
            charge_to: None,
            network: plan.net.map_or(Network::None, |(net, member)| Network::Pod {
                net: net.clone(),
                member: member.to_owned(),
            }),
            stop_signal: StopSignal::Lifecycle,
            stdin: Stdin::Closed,
            logs: Arc::<Output>::clone(&output),
        };
        let handle = self.runtime.start(run).await.context("start a guest")?;
        Ok((handle, output))
    }

    /// Runs a module to its end and returns what it printed.
    ///
    /// # Errors
    /// If it does not start, fails, or takes too long.
    pub async fn run(&self, plan: Plan<'_>) -> anyhow::Result<Vec<u8>> {
        let (RunHandle { control, exit }, output) = self.start(plan).await?;
        let exit = tokio::time::timeout(RUN_MAX, exit).await;
        control.kill();
        match exit.context("a guest did not end")? {
            Exit::Code(0) => Ok(output.bytes()),
            other @ (Exit::Code(_)
            | Exit::Trapped { .. }
            | Exit::OutOfMemory { .. }
            | Exit::OutOfFuel
            | Exit::Killed
            | Exit::Terminated
            | Exit::Lost { .. }) => anyhow::bail!(
                "a guest failed: {other:?}; it printed {:?}",
                String::from_utf8_lossy(&output.bytes())
            ),
        }
    }
}

/// How a guest is to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub artifact: &'a Artifact,
    pub argv: &'a [&'a str],
    pub env: &'a [(&'a str, String)],
    /// The pod's network and the guest's name in it.
    pub net: Option<(&'a PodNet, &'a str)>,
    pub limits: RunLimits,
    /// The pod whose account it shares; `None`: one of its own.
    pub pod: Option<&'a PodAccount>,
}

impl<'a> Plan<'a> {
    /// No environment, no network, no limits.
    #[must_use]
    pub fn new(artifact: &'a Artifact, argv: &'a [&'a str]) -> Self {
        Self { artifact, argv, env: &[], net: None, limits: RunLimits::unlimited(), pod: None }
    }
}

/// A pod's network.
#[must_use]
pub fn pod_net() -> PodNet {
    PodNet::new(NetConfig::new(std::net::Ipv4Addr::new(10, 88, 0, 1)))
}

/// Kills a run and waits until it is gone.
///
/// # Errors
/// If it does not go.
pub async fn end(handle: RunHandle) -> anyhow::Result<()> {
    let RunHandle { control, exit } = handle;
    control.kill();
    tokio::time::timeout(RUN_MAX, exit).await.context("a guest was not killed")?;
    Ok(())
}

/// CPU time of a run so far, seconds.
#[must_use]
pub fn cpu_seconds(control: &RunControl) -> f64 {
    control.usage().cpu_time.as_secs_f64()
}
