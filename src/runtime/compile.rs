//! The daemon's side of compiling: one child process at a time, bounded in time and memory, killed when nobody waits for it.
//!
//! Owns: the queue, the child, and reading its verdict. Is not: the compilation (`compile_child.rs`, in that process), nor the cache.
//!
//! Compiling inside the daemon would leave some 50 MB behind in it, and untrusted bytes would meet the code generator in the
//! process that holds every pod. The child is this same program, called again; a user-mode emulator needs to be named, so
//! the command is configurable.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Signal, getrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::cache::hex;
use super::compile_child::{self, Failure, Task};
use super::{EngineSettings, ModuleFile, PrepareError};

/// Largest module, bytes. The largest in use (language runtimes with their libraries) have some 30 MB; compiling takes
/// forty times a module's size in memory.
pub const MODULE_BYTES_MAX: u64 = 64 << 20;

/// Modules waiting to be compiled. Each has a pod that waits; a node has no more pods than this.
const WAITING_MAX: usize = 1024;

/// Address space of the child, whatever the size of the module. A module of a few megabytes needs 100 MB; the rest is room for unusual ones.
const CHILD_BYTES: u64 = 1 << 30;

/// … and for each byte of the module on top. Measured: 0.5 GB for Go's, Python's, and JavaScript's runtimes of 11 to 18 MB; the densest code
/// takes three times that.
const CHILD_BYTES_PER_BYTE: u64 = 32;

/// CPU time the child may take, whatever the size.
const CPU_BASE: Duration = Duration::from_secs(60);

/// … and for each megabyte on top: a fast core takes one second, a slow one six.
const CPU_PER_MB: Duration = Duration::from_secs(30);

/// How much longer it may take by the clock: it runs at a low priority, and must not fail because others are busy.
const CLOCK_FACTOR: u32 = 5;

/// Bytes of a module looked at at once.
const SNIFF_BYTES: u64 = 64 << 10;

/// What is kept of the child's words.
const WORDS_MAX: u64 = 4096;

/// How modules are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileMode {
    /// By this command (program and first arguments), to which `compile …` is added.
    Child(Vec<OsString>),
    /// In this process: for tests and benchmarks.
    InProcess,
}

/// The queue of compilations.
#[derive(Debug)]
pub(crate) struct Compiler {
    mode: CompileMode,
    one: Semaphore,
    waiting: AtomicUsize,
    /// The node is short of memory: whoever has the turn waits.
    held: watch::Sender<bool>,
}

/// A turn at compiling; the next one waits for its end.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    compiler: &'a Compiler,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.compiler.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Compiler {
    pub(crate) fn new(mode: CompileMode) -> Self {
        let held = watch::Sender::new(false);
        Self { mode, one: Semaphore::new(1), waiting: AtomicUsize::new(0), held }
    }

    /// Waits for our turn; `held` is told whenever the node's lack of memory becomes, or no longer is, why it does not come.
    pub(crate) async fn turn(
        &self,
        held: &(dyn Fn(bool) + Send + Sync),
    ) -> Result<Turn<'_>, PrepareError> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut turn = Turn { compiler: self, _permit: None };
        if waiting >= WAITING_MAX {
            return Err(PrepareError::Busy { waiting });
        }
        let mut may = std::pin::pin!(async {
            // It is never closed, and the sender lives as long as we do.
            let permit = self.one.acquire().await.ok();
            drop(self.held.subscribe().wait_for(|held| !held).await);
            permit
        });
        let (mut changes, mut told) = (self.held.subscribe(), false);
        turn._permit = loop {
            let now = *changes.borrow_and_update();
            if std::mem::replace(&mut told, now) != now {
                held(now);
            }
            tokio::select! {
                biased;
                permit = &mut may => break permit,
                Ok(()) = changes.changed() => {}
            }
        };
        if told {
            held(false);
        }
        Ok(turn)
    }

    /// Lets nobody begin, or lets them begin again. What is under way goes on.
    pub(crate) fn hold(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Compiles `module`, which has `size` bytes, into the file `output`. Dropping the future kills the child.
    pub(crate) async fn compile(
        &self,
        settings: &EngineSettings,
        module: &ModuleFile,
        size: u64,
        output: &Path,
        _turn: &Turn<'_>,
    ) -> Result<(), PrepareError> {
        let task = Task {
            settings: settings.clone(),
            sha256: hex(&module.sha256),
            memory: memory_limit(size),
            cpu: cpu_limit(size),
            input: module.path.clone(),
            output: output.to_owned(),
        };
        match &self.mode {
            CompileMode::InProcess => {
                let result = tokio::task::spawn_blocking(move || compile_child::compile(&task));
                let result = result.await.map_err(|error| PrepareError::Internal {
                    message: format!("the compiler panicked: {error}"),
                })?;
                result.map_err(|failure| verdict(failure, module))
            }
            CompileMode::Child(command) => {
                let limit = task.cpu.saturating_mul(CLOCK_FACTOR);
                match tokio::time::timeout(limit, run(command, &task)).await {
                    Ok(Ok((status, _))) if status.signal() == Some(Signal::XCPU.as_raw()) => {
                        Err(PrepareError::CompilerCpu { limit: task.cpu })
                    }
                    Ok(Ok((status, words))) => judge(status, &words, module, size),
                    Ok(Err(source)) => {
                        let command = command.first().cloned().unwrap_or_default();
                        let command = command.to_string_lossy().into_owned();
                        Err(PrepareError::Spawn { command, source })
                    }
                    Err(_) => Err(PrepareError::CompilerClock { limit }),
                }
            }
        }
    }
}

fn cpu_limit(size: u64) -> Duration {
    let mb = u32::try_from(size >> 20).unwrap_or(u32::MAX);
    CPU_BASE.saturating_add(CPU_PER_MB.saturating_mul(mb))
}

fn memory_limit(size: u64) -> u64 {
    let ours = CHILD_BYTES.saturating_add(size.saturating_mul(CHILD_BYTES_PER_BYTE));
    // The whole process may be bounded more closely (`ulimit -v`).
    getrlimit(Resource::As).maximum.map_or(ours, |all| all.min(ours))
}

/// Runs the child to its end; returns the end of what it said.
async fn run(command: &[OsString], task: &Task) -> std::io::Result<(ExitStatus, String)> {
    let (program, first) = command.split_first().ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, "the compile command is empty")
    })?;
    let mut child = Command::new(program)
        .args(first)
        .arg("compile")
        .args(task.to_args())
        // Two threads at most, whatever the machine has: compiling is not why it is there.
        .env("RAYON_NUM_THREADS", "2")
        // Kept open: the child ends when it closes, so it does not outlive a daemon that was killed.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let _alive = child.stdin.take();
    let words = match child.stderr.take() {
        Some(stderr) => last_words(stderr).await?,
        None => String::new(),
    };
    Ok((child.wait().await?, words))
}

/// Reads to the end, keeping the last [`WORDS_MAX`] bytes.
async fn last_words(mut from: impl AsyncRead + Unpin) -> std::io::Result<String> {
    let mut kept = Vec::new();
    while (&mut from).take(WORDS_MAX).read_to_end(&mut kept).await? > 0 {
        let excess = kept.len().saturating_sub(usize::try_from(WORDS_MAX).unwrap_or(usize::MAX));
        kept.drain(..excess);
    }
    Ok(String::from_utf8_lossy(&kept).trim().to_owned())
}

/// What the child's end means, which compiled a module of `size` bytes.
fn judge(
    status: ExitStatus,
    words: &str,
    module: &ModuleFile,
    size: u64,
) -> Result<(), PrepareError> {
    if status.success() {
        return Ok(());
    }
    // What the standard library says before it aborts, what it returns, and what the kernel says.
    let starved = ["memory allocation of", "out of memory", "Cannot allocate memory"];
    let failure = status.code().and_then(|code| Failure::from_code(code, words));
    match failure {
        Some(Failure::Machine(_)) | None if starved.iter().any(|said| words.contains(said)) => {
            return Err(PrepareError::CompilerMemory { limit: memory_limit(size) });
        }
        Some(failure) => return Err(verdict(failure, module)),
        // It asks to be the first that the kernel kills.
        None if status.signal() == Some(Signal::KILL.as_raw()) => {
            return Err(PrepareError::CompilerKilled { module: size });
        }
        None => {}
    }
    Err(PrepareError::ChildFailed { status: status.to_string(), message: words.to_owned() })
}

fn verdict(failure: Failure, module: &ModuleFile) -> PrepareError {
    match failure {
        Failure::Invalid(message) => PrepareError::Invalid { message },
        Failure::Truncated(message) => PrepareError::Truncated { message },
        Failure::Digest(found) => {
            PrepareError::DigestMismatch { expected: hex(&module.sha256), found }
        }
        Failure::Machine(message) => PrepareError::ChildFailed { status: "error".into(), message },
    }
}

/// What a module's file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sniffed {
    pub(crate) bytes: u64,
    pub(crate) component: bool,
    /// It seems to use tasks of the component model.
    pub(crate) tasks: bool,
}

/// A look at the module's beginning, so that no process is started for what is plainly none. Returns its size.
pub(crate) fn sniff(path: &Path) -> Result<Sniffed, PrepareError> {
    let failed = |source| PrepareError::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MODULE_BYTES_MAX {
        return Err(PrepareError::TooBig { bytes, limit: MODULE_BYTES_MAX });
    }
    let mut begin = Vec::new();
    file.by_ref().take(16).read_to_end(&mut begin).map_err(failed)?;
    let magic = b"\0asm";
    if begin.starts_with(magic) && begin.len() >= 8 {
        // The fifth byte tells them apart: core modules are version 1, components have a layer.
        let component = begin[4..8] != [1, 0, 0, 0];
        let tasks = component && knows_tasks(file).map_err(failed)?;
        return Ok(Sniffed { bytes, component, tasks });
    }
    if !begin.is_empty() && (begin.starts_with(magic) || magic.starts_with(&begin)) {
        let message = format!("it has only {} bytes", begin.len());
        return Err(PrepareError::Truncated { message });
    }
    Err(PrepareError::NotWasm { begins: show(&begin) })
}

/// Whether a component uses tasks, from the names it contains: everything but a command or a handler of WASI 0.2 that says nothing of
/// 0.3. A guess, which costs time where it is wrong; what the component exports decides in the end.
fn knows_tasks(mut file: impl std::io::Read) -> std::io::Result<bool> {
    const COMMAND: &[u8] = b"wasi:cli/run@0.2.";
    const NEW: &[u8] = b"@0.3.";
    const HANDLER: &[u8] = b"wasi:http/incoming-handler@0.2.";
    let (mut window, mut is_old) = (Vec::new(), false);
    loop {
        // What is left of the last piece may hold the beginning of a name.
        let kept = window.len().min(HANDLER.len() - 1);
        window.drain(..window.len() - kept);
        if file.by_ref().take(SNIFF_BYTES).read_to_end(&mut window)? == 0 {
            return Ok(!is_old);
        }
        let has = |name: &[u8]| window.windows(name.len()).any(|piece| piece == name);
        if has(NEW) {
            return Ok(true);
        }
        is_old = is_old || has(COMMAND) || has(HANDLER);
    }
}

/// The first bytes of something, as a person recognises them.
fn show(begin: &[u8]) -> String {
    if begin.is_empty() {
        return "nothing (the file is empty)".to_owned();
    }
    let text = begin.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if text.len() >= 2 && text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return format!("{:?}", String::from_utf8_lossy(text));
    }
    let bytes: Vec<_> = begin.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("the bytes {}", bytes.join(" "))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn sniffed(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        sniff(file.path()).map_or_else(|error| error.to_string(), |_| "wasm".to_owned())
    }

    #[test]
    fn what_is_no_module_is_described_by_how_it_begins() {
        assert_eq!(sniffed(b"\0asm\x01\0\0\0"), "wasm");
        assert_eq!(sniffed(b"\0asm\x0d\0\x01\0"), "wasm");
        let not = "not a WebAssembly module: it begins with ";
        assert_eq!(sniffed(b"#!/bin/sh\necho"), format!("{not}\"#!/bin/sh\""));
        assert_eq!(
            sniffed(b"\x7fELF\x02\x01\x01\0\0"),
            format!("{not}the bytes 7f 45 4c 46 02 01 01 00")
        );
        assert_eq!(sniffed(b""), format!("{not}nothing (the file is empty)"));
        assert_eq!(sniffed(b"\0as"), "the WebAssembly module is cut off: it has only 3 bytes");
        assert_eq!(
            sniffed(b"\0asm\x01\0"),
            "the WebAssembly module is cut off: it has only 6 bytes"
        );
    }

    #[test]
    fn only_what_is_of_the_old_kind_goes_without_tasks() {
        let far = " ".repeat(usize::try_from(SNIFF_BYTES).unwrap() - 20);
        for (names, tasks) in [
            ("wasi:cli/run@0.2.6", false),
            ("wasi:cli/run@0.2.6 wasi:http/outgoing-handler@0.2.6", false),
            ("wasi:cli/run@0.3.0", true),
            ("wasi:cli/run@0.2.6 wasi:http/incoming-handler@0.2.6", false),
            ("wasi:http/handler@0.3.0", true),
            ("wasi:http/incoming-handler@0.2.6 wasi:cli/run@0.3.0", true),
            ("wasi:cli/run@0.2.6 wasi:clocks/monotonic-clock@0.3.0", true),
            ("wasi:http/incoming-handler@0.2.6", false),
            ("", true),
        ] {
            for before in ["", &far] {
                let found = knows_tasks(format!("{before}{names} and so on").as_bytes()).unwrap();
                assert_eq!(found, tasks, "{} + {names}", before.len());
            }
        }
    }

    #[test]
    fn a_module_too_big_is_refused_unread() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MODULE_BYTES_MAX + 1).unwrap();
        assert!(matches!(sniff(file.path()), Err(PrepareError::TooBig { .. })));
    }

    #[test]
    fn the_ways_a_child_ends_are_told_apart() {
        let module = ModuleFile { path: "m".into(), sha256: [0; 32] };
        let judged =
            |raw: i32, words: &str| judge(ExitStatus::from_raw(raw), words, &module, 40 << 20);
        judged(0, "").unwrap();
        let invalid = judged(Failure::INVALID << 8, "bad magic").unwrap_err();
        assert_eq!(invalid.to_string(), "not a valid WebAssembly module: bad magic");
        assert!(invalid.is_modules_fault());
        let memory = judged(6, "memory allocation of 1048576 bytes failed").unwrap_err();
        let said = memory.to_string();
        assert!(said.starts_with("compiling needs more than 2304 MiB of memory, which"), "{said}");
        assert!(memory.is_beyond_this_machine() && !memory.is_modules_fault());
        let memory = judged(Failure::MACHINE << 8, "read the module: out of memory").unwrap_err();
        assert!(matches!(memory, PrepareError::CompilerMemory { .. }), "{memory}");
        let killed = judged(9, "").unwrap_err();
        assert_eq!(
            killed.to_string(),
            "the compiler was killed (SIGKILL), as the kernel does when the machine has no memory left: the module has 40 MiB, and \
             compiling takes some thirty times that"
        );
        assert!(!killed.is_modules_fault());
        let broken = judged(11, "").unwrap_err();
        assert!(matches!(broken, PrepareError::ChildFailed { .. }), "{broken}");
    }

    #[tokio::test]
    async fn a_child_that_used_up_its_cpu_time_is_told_from_one_that_broke() {
        let ends = async |script: &str| {
            let command = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
            let compiler = Compiler::new(CompileMode::Child(command));
            let turn = compiler.turn(&|_| {}).await.unwrap();
            let settings = EngineSettings {
                target: "pulley64".into(),
                reservation: 1,
                guard: 2,
                growth: 3,
                fuel: false,
                tasks: false,
            };
            let module = ModuleFile { path: "m".into(), sha256: [0; 32] };
            compiler.compile(&settings, &module, 2 << 20, Path::new("o"), &turn).await.unwrap_err()
        };
        let error = ends("kill -XCPU $$").await;
        assert!(
            matches!(error, PrepareError::CompilerCpu { limit } if limit.as_secs() == 120),
            "{error}"
        );
        assert!(error.to_string().contains("more than 120 s of CPU time"), "{error}");
        let error = ends("kill -KILL $$").await;
        assert!(matches!(error, PrepareError::CompilerKilled { module: 0x20_0000 }), "{error}");
        let error = ends("kill -SEGV $$").await;
        assert!(matches!(error, PrepareError::ChildFailed { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_child_that_talks_without_end_is_cut_short() {
        let words = last_words(&b"x".repeat(100_000)[..]).await.unwrap();
        assert!(words.len() as u64 <= WORDS_MAX);
    }
}
