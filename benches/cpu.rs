//! What the CPU limits cost, and how well they hold.
//!
//! Cost: `bench-cpu` (a mix like an embedded database's) under podling's meter and ticking epochs, against the same module compiled
//! without epochs in a plain embedding; between them the compiled-in checks alone. Rate: what a spinning module with a limit gets of
//! a core. Kill: from the order to the end of a spinning run. Neighbour: how late a module's 10 ms timer is while others spin.
//! Goals: DESIGN.md, "Figures to reach".

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod common;

use std::time::{Duration, Instant};

use anyhow::Context as _;

use common::Options;
use common::guests::{self, Host, Plan};
use common::peer::{Code, Peer};
use common::report::{Cell, Report, Table};
use common::stats::{median, percentile};
use podling::runtime::{Artifact, RunHandle, RunLimits};

const ROUNDS: usize = 7;

/// How long a rate is measured.
const RATE_FOR: Duration = Duration::from_secs(10);

/// How long until a module that starts is certain to spin at full rate: its burst is spent by then.
const SETTLE: Duration = Duration::from_millis(500);

const KILLS: usize = 50;

/// Turns of the timer guest: five seconds of 10 ms each.
const TIMER_TURNS: u32 = 500;
const TIMER_NS: u64 = 10_000_000;

fn main() -> anyhow::Result<()> {
    let options = Options::from_args();
    let mut report = Report::new("cpu", options.json);
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(async {
        report.table(cost(options).await?);
        let host = Host::new(None)?;
        report.table(rate(&host, options).await?);
        report.table(kill(&host, options).await?);
        report.table(lateness(&host, options).await?);
        anyhow::Ok(())
    })?;
    report.finish();
    Ok(())
}

// ---- cost

/// One thread on each side, so that a busy machine disturbs all alike.
async fn cost(options: Options) -> anyhow::Result<Table> {
    let host = Host::new(Some(1))?;
    let plain = host.prepare("bench-cpu", false).await?;
    let fuel = host.prepare("bench-cpu", true).await?;
    let module = guests::path("bench-cpu");
    let bare = Peer::new(&module, 1, Code::WithoutEpochs)?;
    let checks = Peer::new(&module, 1, Code::AsPodling)?;
    let rounds = if options.quick { "20" } else { "200" };
    let argv = ["bench-cpu", rounds];
    let mut fuelled = Plan::new(&fuel, &argv);
    fuelled.limits = RunLimits { fuel: Some(u64::MAX / 2), ..RunLimits::unlimited() };
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..options.rounds(ROUNDS) {
        times[0].push(milliseconds(&bare.start(&argv, &[]).output().await?)?);
        times[1].push(milliseconds(&checks.start(&argv, &[]).output().await?)?);
        times[2].push(milliseconds(&host.run(Plan::new(&plain, &argv)).await?)?);
        times[3].push(milliseconds(&host.run(fuelled).await?)?);
    }
    let mut table = Table::new(
        "Cost of the CPU meter on bench-cpu",
        &["", "ms", "fastest ms", "to without", "goal"],
    );
    let base = times[0].clone();
    let what = [
        ("plain wasmtime, no epochs", ""),
        ("plain wasmtime, epoch checks compiled in", ""),
        ("podling: epochs tick, every turn metered", "≤ 1.10"),
        ("podling with a fuel limit", ""),
    ];
    for ((what, goal), times) in what.into_iter().zip(&times) {
        let pairs: Vec<f64> =
            times.iter().zip(&base).map(|(with, without)| with / without).collect();
        table.row(vec![
            what.into(),
            Cell::Number(median(times), 0),
            Cell::Number(percentile(times, 0), 0),
            Cell::Number(median(&pairs), 3),
            goal.into(),
        ]);
    }
    table.note("ratios are medians of the rounds' own; each round runs all four after one another");
    Ok(table)
}

fn milliseconds(output: &[u8]) -> anyhow::Result<f64> {
    let line = guests::json_line(output)?;
    line["milliseconds"].as_f64().with_context(|| format!("no milliseconds in {line}"))
}

// ---- rate

async fn rate(host: &Host, options: Options) -> anyhow::Result<Table> {
    let spin = host.prepare("spin", false).await?;
    let mut table = Table::new(
        format!("CPU limits of a spinning module, over {} s", rate_for(options).as_secs()),
        &["limit", "got, meter", "got, kernel", "off by", "goal"],
    );
    for limit in [50, 200, 500] {
        let (meter, kernel) = rate_of(host, &spin, limit, rate_for(options)).await?;
        let due = f64::from(u32::try_from(limit)?);
        table.row(vec![
            format!("{limit}m").into(),
            format!("{meter:.1}m").into(),
            format!("{kernel:.1}m").into(),
            format!("{:+.1} %", (kernel / due - 1.0) * 100.0).into(),
            "± 5 %".into(),
        ]);
    }
    table.note("kernel: CPU time of the guests' threads as the kernel counts it, which is what the limit is held against");
    Ok(table)
}

fn rate_for(options: Options) -> Duration {
    if options.quick { RATE_FOR / 10 } else { RATE_FOR }
}

/// Thousandths of a core that a module under `limit` gets, as the meter says and as the kernel does.
async fn rate_of(
    host: &Host,
    spin: &Artifact,
    limit: u64,
    during: Duration,
) -> anyhow::Result<(f64, f64)> {
    let mut plan = Plan::new(spin, &["spin"]);
    plan.limits = RunLimits { cpu_millis: Some(limit), ..RunLimits::unlimited() };
    let (handle, _) = host.start(plan).await?;
    tokio::time::sleep(SETTLE).await;
    let (began, meter, kernel) =
        (Instant::now(), guests::cpu_seconds(&handle.control), thread_seconds("guest")?);
    tokio::time::sleep(during).await;
    let meter = guests::cpu_seconds(&handle.control) - meter;
    let kernel = thread_seconds("guest")? - kernel;
    let elapsed = began.elapsed().as_secs_f64();
    guests::end(handle).await?;
    Ok((meter / elapsed * 1000.0, kernel / elapsed * 1000.0))
}

/// CPU time of this process's threads of that name, seconds.
fn thread_seconds(name: &str) -> anyhow::Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let path = thread?.path();
        // A thread may end while we look.
        let (Ok(comm), Ok(stat)) = (
            std::fs::read_to_string(path.join("comm")),
            std::fs::read_to_string(path.join("schedstat")),
        ) else {
            continue;
        };
        if comm.trim() == name {
            let first = stat.split_whitespace().next().unwrap_or_default();
            nanoseconds += first.parse::<f64>().context("read schedstat")?;
        }
    }
    Ok(nanoseconds * 1e-9)
}

// ---- kill

async fn kill(host: &Host, options: Options) -> anyhow::Result<Table> {
    let spin = host.prepare("spin", false).await?;
    let sleep = host.prepare("sleep", false).await?;
    let mut table =
        Table::new("From kill to the end of the run (ms)", &["", "p50", "p99", "largest"]);
    let cases = [
        ("a spinning module", &spin, ["spin", "0"], 1),
        ("a spinning module among four", &spin, ["spin", "0"], 4),
        ("a sleeping module", &sleep, ["sleep", "forever"], 1),
    ];
    for (what, artifact, argv, count) in cases {
        let mut times = vec![];
        for _ in 0..options.rounds(KILLS) {
            times.push(kill_one(host, artifact, &argv, count).await?);
        }
        table.row(vec![
            what.into(),
            Cell::Number(median(&times), 2),
            Cell::Number(percentile(&times, 99), 2),
            Cell::Number(percentile(&times, 100), 2),
        ]);
    }
    Ok(table)
}

/// Starts `count` runs, kills one, and returns how long that took, in milliseconds.
async fn kill_one(
    host: &Host,
    artifact: &Artifact,
    argv: &[&str],
    count: usize,
) -> anyhow::Result<f64> {
    let mut runs = vec![];
    for _ in 0..count {
        runs.push(host.start(Plan::new(artifact, argv)).await?);
    }
    for (_, output) in &runs {
        printed(output).await?;
    }
    let (RunHandle { control, exit }, _) = runs.remove(0);
    let began = Instant::now();
    control.kill();
    exit.await;
    let took = began.elapsed();
    for (handle, _) in runs {
        guests::end(handle).await?;
    }
    Ok(took.as_secs_f64() * 1e3)
}

/// Waits until a guest has said its first word.
async fn printed(output: &guests::Output) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while output.bytes().is_empty() {
        anyhow::ensure!(Instant::now() < deadline, "a guest did not begin");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

// ---- neighbour

/// A core module: sleeps 10 ms as often as told, and writes how long each took, as eight bytes of nanoseconds.
const TIMER: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  ;; 0: iovec (128, 8). 8: count. 16..64: subscription to the monotonic clock. 64..96: event. 96: before. 104: after. 128: result.
  (data (i32.const 0) "\80\00\00\00\08\00\00\00")
  (data (i32.const 32) "\01")
  (func (export "_start") (local $left i32)
    (local.set $left (i32.const TURNS))
    (i64.store (i32.const 40) (i64.const NANOSECONDS))
    (loop $turn
      (drop (call $now (i32.const 1) (i64.const 0) (i32.const 96)))
      (drop (call $poll (i32.const 16) (i32.const 64) (i32.const 1) (i32.const 8)))
      (drop (call $now (i32.const 1) (i64.const 0) (i32.const 104)))
      (i64.store (i32.const 128) (i64.sub (i64.load (i32.const 104)) (i64.load (i32.const 96))))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $turn (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#;

async fn lateness(host: &Host, options: Options) -> anyhow::Result<Table> {
    let turns = if options.quick { TIMER_TURNS / 10 } else { TIMER_TURNS };
    let text =
        TIMER.replace("TURNS", &turns.to_string()).replace("NANOSECONDS", &TIMER_NS.to_string());
    let timer = host.prepare_bytes("timer.wasm", &wat::parse_str(&text)?).await?;
    let spin = host.prepare("spin", false).await?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut table = Table::new(
        format!("How late a module's 10 ms timer is, on {cores} cores (ms)"),
        &["", "p50", "p99", "largest", "host p50", "host p99", "goal"],
    );
    for (what, spinners, goal) in [("alone", 0, ""), ("with four spinning modules", 4, "p99 ≤ 5")]
    {
        let (guest, control) = lateness_with(host, &timer, &spin, spinners).await?;
        table.row(vec![
            what.into(),
            Cell::Number(median(&guest), 2),
            Cell::Number(percentile(&guest, 99), 2),
            Cell::Number(percentile(&guest, 100), 2),
            Cell::Number(median(&control), 2),
            Cell::Number(percentile(&control, 99), 2),
            goal.into(),
        ]);
    }
    table.note(
        "host: a plain thread of this process that sleeps 10 ms at the same time: what the machine itself adds",
    );
    Ok(table)
}

/// Lateness in milliseconds: of the timer module, and of a thread beside it.
async fn lateness_with(
    host: &Host,
    timer: &Artifact,
    spin: &Artifact,
    spinners: usize,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let mut running = vec![];
    for _ in 0..spinners {
        running.push(host.start(Plan::new(spin, &["spin"])).await?);
    }
    for (_, output) in &running {
        printed(output).await?;
    }
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let control = tokio::task::spawn_blocking({
        let over = std::sync::Arc::clone(&over);
        move || beside(&over)
    });
    let output = host.run(Plan::new(timer, &["timer"])).await;
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let control = control.await?;
    for (handle, _) in running {
        guests::end(handle).await?;
    }
    let guest = output?
        .chunks_exact(8)
        .filter_map(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))
        .map(late)
        .collect();
    Ok((guest, control))
}

#[allow(clippy::disallowed_methods, reason = "the sleep is what is measured")]
fn beside(over: &std::sync::atomic::AtomicBool) -> Vec<f64> {
    let mut times = vec![];
    while !over.load(std::sync::atomic::Ordering::Relaxed) {
        let began = Instant::now();
        std::thread::sleep(Duration::from_nanos(TIMER_NS));
        times.push(late(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)));
    }
    times
}

/// Milliseconds beyond the 10 asked for.
#[allow(clippy::cast_precision_loss, reason = "seconds at most")]
fn late(nanoseconds: u64) -> f64 {
    nanoseconds.saturating_sub(TIMER_NS) as f64 * 1e-6
}
