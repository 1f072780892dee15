//! One runtime for all tests, the committed guests, and a sink that remembers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::super::{
    Artifact, CompileMode, GuestMount, HttpLimits, LogSink, ModuleFile, Network, PodAccount,
    PrepareError, Run, RunHandle, RunLimits, Runtime, RuntimeConfig, Stdin, Stream, TcpPort,
};
use crate::spec::{Exit, StopSignal};

/// What every wait in these tests gives up after: far longer than anything takes, on a machine that does ten other
/// things.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Compiled guests are kept from one test run to the next, beside the test program.
pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let program = std::env::current_exe().unwrap();
    let mut config = RuntimeConfig::new(program.parent().unwrap().join("runtime-tests-cache"));
    config.compile = CompileMode::InProcess;
    config.guest_threads = Some(2);
    Runtime::new(config).unwrap()
});

pub(super) fn guest_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("wasm-examples/built/{name}.wasm"))
}

pub(super) fn module(path: PathBuf) -> ModuleFile {
    let sha256 = Sha256::digest(std::fs::read(&path).unwrap()).into();
    ModuleFile { path, sha256 }
}

pub(super) async fn prepare(name: &str, fuel: bool) -> Artifact {
    RUNTIME.prepare(module(guest_path(name)), fuel).await.unwrap()
}

/// Prepares a module written in text.
pub(super) async fn prepare_text(text: &str, fuel: bool) -> Result<Artifact, PrepareError> {
    prepare_bytes(&wat::parse_str(text).unwrap(), fuel).await
}

pub(super) async fn prepare_bytes(bytes: &[u8], fuel: bool) -> Result<Artifact, PrepareError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    RUNTIME.prepare(module(file.path().to_owned()), fuel).await
}

/// A sink that keeps everything.
#[derive(Default)]
pub(super) struct Paper {
    text: Mutex<(String, String)>,
    written: Notify,
}

impl LogSink for Paper {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut text = self.text.lock().unwrap();
        let bytes = String::from_utf8_lossy(bytes);
        match stream {
            Stream::Stdout => text.0.push_str(&bytes),
            Stream::Stderr => text.1.push_str(&bytes),
        }
        drop(text);
        self.written.notify_waiters();
    }

    fn flush(&self) {
        self.text.lock().unwrap().0.push_str("[flushed]");
    }
}

impl Paper {
    pub(super) fn stdout(&self) -> String {
        self.text.lock().unwrap().0.clone()
    }

    pub(super) fn stderr(&self) -> String {
        self.text.lock().unwrap().1.clone()
    }

    /// Waits until standard output contains `words`.
    pub(super) async fn says(&self, words: &str) {
        let said = async {
            loop {
                let written = self.written.notified();
                if self.stdout().contains(words) {
                    return;
                }
                written.await;
            }
        };
        tokio::time::timeout(PATIENCE, said)
            .await
            .unwrap_or_else(|_| panic!("it never said {words:?} but {:?}", self.stdout()));
    }
}

/// A run in the making.
pub(super) struct Trial {
    pub(super) run: Run,
    pub(super) paper: Arc<Paper>,
}

impl Trial {
    pub(super) fn new(artifact: Artifact, args: &[&str]) -> Self {
        let paper = Arc::new(Paper::default());
        let argv = std::iter::once("guest").chain(args.iter().copied()).map(str::to_owned);
        let run = Run {
            name: "test/pod/guest".to_owned(),
            artifact,
            argv: argv.collect(),
            env: Vec::new(),
            working_dir: None,
            mounts: Vec::new(),
            limits: RunLimits::unlimited(),
            http: HttpLimits::default(),
            tcp_ports: Vec::new(),
            pod: PodAccount::unlimited(),
            charge_to: None,
            network: Network::None,
            stop_signal: StopSignal::Lifecycle,
            stdin: Stdin::Closed,
            logs: paper.clone(),
        };
        Self { run, paper }
    }

    pub(super) async fn of(name: &str, args: &[&str]) -> Self {
        let fuel = false;
        Self::new(prepare(name, fuel).await, args)
    }

    pub(super) fn limits(mut self, limits: RunLimits) -> Self {
        self.run.limits = limits;
        self
    }

    pub(super) fn http(mut self, port: u16, limits: HttpLimits) -> Self {
        self.run.http = limits;
        self.run.tcp_ports = vec![TcpPort { port, name: None }];
        self
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.run.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn mount(mut self, host: &Path, guest: &str, read_only: bool) -> Self {
        let dir = std::fs::File::open(host).unwrap().into();
        self.run.mounts.push(GuestMount { dir, guest: guest.to_owned(), read_only, room: None });
        self
    }

    pub(super) async fn start(self) -> (RunHandle, Arc<Paper>) {
        (RUNTIME.start(self.run).await.unwrap(), self.paper)
    }

    /// Runs it to its end.
    pub(super) async fn finish(self) -> (Exit, Arc<Paper>) {
        let (handle, paper) = self.start().await;
        (over(handle).await, paper)
    }
}

/// The exit, which must come.
pub(super) async fn over(handle: RunHandle) -> Exit {
    tokio::time::timeout(PATIENCE, handle.exit).await.unwrap()
}

/// Waits until `holds`.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            // Between two looks; what is waited for is the condition. Who looks all the time takes the core from those it waits for.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
