//! How late a module's timer is.

#![allow(unreachable_pub, reason = "a part of one program")]

use std::time::{Duration, Instant};

use podling::runtime::Artifact;

use crate::common::Options;
use crate::common::guests::{self, Host, Plan};
use crate::common::report::{Cell, Table};
use crate::common::stats::{median, percentile};
use crate::printed;

/// Turns of the timer guest: five seconds of 10 ms each.
const TIMER_TURNS: u32 = 500;
const TIMER_NS: u64 = 10_000_000;

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

/// With four others that spin, and without.
pub async fn lateness(host: &Host, options: Options) -> anyhow::Result<Table> {
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
