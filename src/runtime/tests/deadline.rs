//! From the order to end a module to its end, whatever it does, beside neighbours that leave it no core.
//!
//! The promise is 100 ms after the grace period, which `cargo bench --bench cpu` measures (`kill.rs`, with these modules); a machine that builds ten other
//! things meanwhile takes longer. So what counts here is not the time that passes but what the neighbours get of the processor in it. What would
//! be wrong lets them have far more: each weighs as much as 64 cores, so that by weight the module's next turn is many seconds away.

use std::time::Duration;

use super::super::{
    Artifact, CompileMode, ModuleFile, RunControl, RunHandle, RunLimits, Runtime, RuntimeConfig,
    Stdin, StdinPipe, TcpPort,
};
use super::busy::{SPINNERS, WAITERS};
use super::lab::{PATIENCE, Trial, eventually, guest_path, module, over};
use crate::clock::Clock;
use crate::spec::Exit;

/// As many as twice the guests' threads.
const NEIGHBOURS: usize = 4;

/// CPU time of all neighbours together; see the header.
const SOON: Duration = Duration::from_secs(10);

/// A node of its own, for its modules leave nothing to others: two guests' threads, and what was compiled for it.
struct Crowd {
    runtime: Runtime,
    dir: tempfile::TempDir,
    neighbours: Vec<RunHandle>,
}

impl Crowd {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = RuntimeConfig::new(dir.path().join("cache"));
        config.compile = CompileMode::InProcess;
        config.guest_threads = Some(2);
        Self { runtime: Runtime::new(config).unwrap(), dir, neighbours: Vec::new() }
    }

    async fn prepare(&self, file: ModuleFile, fuel: bool) -> Artifact {
        self.runtime.prepare(file, fuel).await.unwrap()
    }

    async fn guest(&self, name: &str, args: &[&str]) -> Trial {
        Trial::new(self.prepare(module(guest_path(name)), false).await, args)
    }

    async fn text(&self, text: &str) -> Trial {
        let path = self.dir.path().join("module.wasm");
        std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
        Trial::new(self.prepare(module(path), false).await, &[])
    }

    async fn start(&self, trial: Trial) -> RunHandle {
        self.runtime.start(trial.run).await.unwrap()
    }

    /// Four modules that compute without end and weigh much more than whoever is beside them.
    async fn close_in(&mut self) {
        let heavy = RunLimits { cpu_request_millis: Some(64_000), ..RunLimits::unlimited() };
        for _ in 0..NEIGHBOURS {
            let spin = self.guest("spin-p1", &[]).await.limits(heavy);
            self.neighbours.push(self.start(spin).await);
        }
    }

    /// CPU time that the neighbours have had.
    fn had(&self) -> Duration {
        self.neighbours.iter().map(|handle| handle.control.usage().cpu_time).sum()
    }

    /// Kills a run, which must be over soon.
    async fn ends(&self, handle: RunHandle, what: &str) {
        let before = self.had();
        handle.control.kill();
        assert_eq!(over(handle).await, Exit::Killed, "{what}");
        let had = self.had() - before;
        assert!(had < SOON, "{what}: its neighbours had {had:?} before");
    }

    async fn go(self) {
        for handle in self.neighbours {
            assert!(!handle.control.is_over());
            handle.control.kill();
            assert_eq!(over(handle).await, Exit::Killed, "a neighbour");
        }
    }
}

/// Waits until a run has used so much CPU time at least, and for a while no more.
async fn rests(control: &RunControl, least: Duration) {
    const WHILE: Duration = Duration::from_millis(30);
    let clock = Clock::start();
    let mut seen = (Duration::ZERO, Duration::ZERO);
    while seen.0 < least || clock.now().mono() - seen.1 < WHILE {
        assert!(clock.now().mono() < PATIENCE, "it used {:?}", seen.0);
        let used = control.usage().cpu_time;
        if used != seen.0 {
            seen = (used, clock.now().mono());
        }
        tokio::task::yield_now().await;
    }
}

fn listening(mut trial: Trial) -> Trial {
    trial.run.tcp_ports = vec![TcpPort { port: 8080, name: None }];
    trial
}

#[tokio::test]
async fn whatever_a_module_computes_it_is_ended_soon_among_heavier_ones() {
    let mut crowd = Crowd::new();
    let mut trials = Vec::new();
    for &(what, text) in SPINNERS {
        trials.push((what, crowd.text(text).await));
    }
    crowd.close_in().await;
    for (what, trial) in trials {
        let handle = crowd.start(trial).await;
        // It comes with the credit of one who slept; when that is spent, its next turn is far away.
        rests(&handle.control, Duration::from_millis(1)).await;
        crowd.ends(handle, what).await;
    }
    crowd.go().await;
}

#[tokio::test]
async fn whatever_a_module_waits_for_it_is_ended_soon_among_heavier_ones() {
    let mut crowd = Crowd::new();
    let mut trials = Vec::new();
    for &(what, text) in WAITERS {
        trials.push((what, crowd.text(text).await));
    }
    trials.push(("a pollable of WASI 0.2", crowd.guest("sleep", &["forever"]).await));
    trials.push(("a listener of WASI 0.2", crowd.guest("echo", &[]).await));
    trials.push(("a listener of WASI 0.3", crowd.guest("echo-p3", &["serve"]).await));
    let pipe = StdinPipe::new();
    let mut reads = crowd.guest("stdin", &[]).await;
    reads.run.stdin = Stdin::Pipe(pipe.clone());
    trials.push(("its standard input", reads));
    crowd.close_in().await;
    for (what, trial) in trials {
        let handle = crowd.start(listening(trial)).await;
        let begun = || handle.control.usage().cpu_time > Duration::ZERO;
        eventually(what, begun).await;
        crowd.ends(handle, what).await;
    }
    crowd.go().await;
}

/// Its next turn is seconds away by its own limits: it is ended all the same.
#[tokio::test]
async fn a_module_held_by_its_limits_is_ended_soon() {
    let unlimited = RunLimits::unlimited();
    let slow = RunLimits { cpu_millis: Some(1), ..unlimited };
    let paced = RunLimits { fuel_per_second: Some(1), ..unlimited };
    let mut crowd = Crowd::new();
    crowd.close_in().await;
    for (what, limits, fuel) in [("1m", slow, false), ("one instruction a second", paced, true)] {
        for name in ["spin", "spin-p1"] {
            let artifact = crowd.prepare(module(guest_path(name)), fuel).await;
            let handle = crowd.start(Trial::new(artifact, &[]).limits(limits)).await;
            rests(&handle.control, Duration::from_nanos(1)).await;
            crowd.ends(handle, &format!("{name}, {what}")).await;
        }
    }
    crowd.go().await;
}

/// What is left to do for a module once it is ended is done for it: letting go of its memory is on its account.
#[tokio::test]
async fn the_end_of_a_store_is_on_the_modules_account() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff"
          (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1024)
        (func (export "_start")
          (memory.fill (i32.const 4096) (i32.const 1) (i32.const 67000000))
          (i32.store (i32.const 16) (i32.const 1))
          (i64.store (i32.const 24) (i64.const 0x7000000000000000))
          (i64.store (i32.const 0) (i64.const 0))
          (i64.store (i32.const 8) (i64.const 0))
          (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;
    let crowd = Crowd::new();
    let handle = crowd.start(crowd.text(text).await).await;
    let control = handle.control.clone();
    // It has filled its memory, and waits.
    rests(&control, Duration::from_millis(1)).await;
    let before = control.usage().cpu_time;
    handle.control.kill();
    assert_eq!(over(handle).await, Exit::Killed);
    let used = control.usage().cpu_time;
    assert!(used > before, "{used:?}");
}
