//! What the host holds for a module is on the module's account: one attack for each interface of the host, each with its memory limit, while an
//! allocator counts what the whole process holds.
//!
//! Linear memories are not in the heap that is counted here; so whatever a module makes the host hold must stay within its limit and
//! [`SLACK_BYTES`].

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod connections;
#[path = "../hostile/texts.rs"]
mod texts;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use podling::runtime::{
    CompileMode, GuestMount, LogSink, ModuleFile, Network, PodAccount, Run, RunHandle, RunLimits,
    Runtime, RuntimeConfig, Stdin, Stream,
};
use podling::spec::{Exit, HttpLimits, StopSignal};
use sha2::{Digest as _, Sha256};

use attacks::{ATTACKS, Attack, Module, Outcome};

const MIB: usize = 1 << 20;

/// Memory that each attacker may have.
const LIMIT_BYTES: usize = 8 * MIB;

/// What is not on the account: the store and its code's tables, bytes in the hands of one call (as many as the limit at most are, and those
/// are copied once), the run's own objects.
const SLACK_BYTES: usize = 3 * MIB;

/// CPU time after which an attack that goes on for ever has shown what it can.
const ENOUGH: Duration = Duration::from_millis(700);

/// The whole process is counted, so one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which keeps count.
struct Counting;

#[allow(unsafe_code, reason = "an allocator is an unsafe trait; this one only counts and hands on")]
// SAFETY: every call is the system allocator's own, with the caller's arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Paper(Mutex<String>);

impl LogSink for Paper {
    fn write(&self, _stream: Stream, bytes: &[u8]) {
        let mut text = self.0.lock().unwrap();
        // Only what is said at the beginning and at the end matters.
        if text.len() < 4096 {
            text.push_str(&String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]));
        }
    }

    fn flush(&self) {}
}

impl Paper {
    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_guest_makes_the_host_hold_more_than_its_limit() {
    let _alone = ALONE.lock().await;
    let cache = tempfile::tempdir().unwrap();
    let runtime = runtime(cache.path());
    let full = tempfile::tempdir().unwrap();
    for entry in 0..20_000 {
        std::fs::write(full.path().join(entry.to_string()), "").unwrap();
    }
    // To look at one alone: PODLING_ATTACK=NAME.
    let only = std::env::var("PODLING_ATTACK").ok();
    let mut wrong = Vec::new();
    for attack in ATTACKS.iter().filter(|a| only.as_deref().is_none_or(|only| only == a.name)) {
        let name = attack.name;
        match run(&runtime, attack, full.path(), cache.path()).await {
            Ok(seen) => eprintln!("{name}: {seen}"),
            Err(complaint) => wrong.push(format!("{name}: {complaint}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn runtime(dir: &Path) -> Runtime {
    let mut config = RuntimeConfig::new(dir.join("cache"));
    config.compile = CompileMode::InProcess;
    config.guest_threads = Some(2);
    Runtime::new(config).unwrap()
}

/// A committed guest.
fn guest(name: &str) -> ModuleFile {
    of_file(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("wasm-examples/built/{name}.wasm")))
}

fn of_file(path: PathBuf) -> ModuleFile {
    let sha256 = Sha256::digest(std::fs::read(&path).unwrap()).into();
    ModuleFile { path, sha256 }
}

/// Where an attack's module lies; a text is written down there first.
fn module(attack: &Attack, texts: &Path) -> ModuleFile {
    match attack.module {
        Module::Guest(name, _) => guest(name),
        Module::Text(text) => {
            let path = texts.join(format!("{}.wasm", attack.name));
            std::fs::write(&path, wat::parse_str(text()).unwrap()).unwrap();
            of_file(path)
        }
    }
}

async fn run(
    runtime: &Runtime,
    attack: &Attack,
    full: &Path,
    texts: &Path,
) -> Result<String, String> {
    let Attack { module: source, on_memory_limit, outcome, .. } = attack;
    let args: &[&str] = match source {
        Module::Guest(_, args) => args,
        Module::Text(_) => &[],
    };
    // Compiling is not what is measured.
    let artifact = runtime.prepare(module(attack, texts), false).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let mount = |dir: &Path, guest: &str| GuestMount {
        dir: std::fs::File::open(dir).unwrap().into(),
        guest: guest.to_owned(),
        read_only: false,
        room: None,
    };
    let paper = Arc::new(Paper::default());
    let argv = std::iter::once("guest").chain(args.iter().copied()).map(str::to_owned).collect();
    let run = Run {
        name: "test/pod/guest".to_owned(),
        artifact,
        argv,
        env: Vec::new(),
        working_dir: None,
        mounts: vec![mount(full, "/full"), mount(data.path(), "/data")],
        limits: RunLimits {
            memory_bytes: Some(LIMIT_BYTES as u64),
            on_memory_limit: *on_memory_limit,
            ..RunLimits::unlimited()
        },
        http: HttpLimits::default(),
        tcp_ports: Vec::new(),
        pod: PodAccount::unlimited(),
        charge_to: None,
        network: Network::None,
        stop_signal: StopSignal::Lifecycle,
        stdin: Stdin::Closed,
        logs: Arc::<Paper>::clone(&paper),
    };
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let handle = runtime.start(run).await.unwrap();
    let control = handle.control.clone();
    let exit =
        watched(handle, &paper, matches!(outcome, Outcome::Held(_) | Outcome::HeldOrKilled)).await;
    let grown = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    let usage = control.usage();
    let seen = format!(
        "{exit:?}, heap {} KiB, account {} KiB",
        grown >> 10,
        usage.memory_peak_bytes >> 10
    );
    let text = paper.text();
    let as_it_should = match (outcome, &exit) {
        (Outcome::Killed | Outcome::HeldOrKilled, Some(exit)) => exit.reason() == "OOMKilled",
        (
            Outcome::Trapped(words) | Outcome::KilledOrTrapped(words),
            Some(Exit::Trapped { message }),
        ) => message.contains(words),
        (Outcome::KilledOrTrapped(_), Some(exit)) => exit.reason() == "OOMKilled",
        (Outcome::Held(words), None) => text.contains("held:") && text.contains(words),
        (Outcome::HeldOrKilled, None) => text.contains("held:"),
        (Outcome::GoesOn, None | Some(Exit::Code(0))) => true,
        _ => false,
    };
    if !as_it_should {
        let said: String = text.chars().take(200).collect();
        return Err(format!("{outcome:?} was expected: {seen}; it said {said:?}"));
    }
    if grown > LIMIT_BYTES + SLACK_BYTES {
        return Err(format!("the host holds too much: {seen}"));
    }
    if usage.memory_bytes != 0 {
        return Err(format!(
            "{} bytes are on the account of a run that is over",
            usage.memory_bytes
        ));
    }
    Ok(seen)
}

/// Lets it run until it ends, holds all it gets, or has had time enough, and then ends it; how it ended by itself, if it did.
async fn watched(handle: RunHandle, paper: &Paper, holds: bool) -> Option<Exit> {
    let RunHandle { control, mut exit } = handle;
    let deadline = tokio::time::sleep(Duration::from_secs(240));
    tokio::pin!(deadline);
    loop {
        let pause = tokio::time::sleep(Duration::from_millis(5));
        tokio::select! {
            exit = &mut exit => return Some(exit),
            () = &mut deadline => break,
            () = pause => {
                let held = paper.text().contains("held:");
                if held || !holds && control.usage().cpu_time > ENOUGH {
                    break;
                }
            }
        }
    }
    control.kill();
    let _ = exit.await;
    None
}
