//! What the meter costs: the same module with and without it.

#![allow(unreachable_pub, reason = "a part of one program")]

use std::future::Future;
use std::time::Instant;

use anyhow::Context as _;
use podling::runtime::RunLimits;

use crate::common::Options;
use crate::common::guests::{self, Host, Plan};
use crate::common::peer::{Code, Peer};
use crate::common::report::{Cell, Table};
use crate::common::stats::{median, percentile};

const ROUNDS: usize = 7;

/// A program, one thread on each side, so that a busy machine disturbs all alike.
pub async fn programs(options: Options) -> anyhow::Result<Table> {
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
    Ok(table("Cost of the CPU meter on bench-cpu", &times))
}

/// Where a check costs most: nothing but loops, and nothing but calls.
pub async fn loops(options: Options) -> anyhow::Result<Table> {
    let host = Host::new(Some(1))?;
    let (loops, depth) = if options.quick { (30_000_000, 27) } else { (300_000_000, 34) };
    let mut all = Table::new("Cost of the CPU meter on tight code (wall time, ms)", HEAD);
    for (what, text) in [("a loop: ", counting(loops)), ("calls: ", fibonacci(depth))] {
        let wasm = wat::parse_str(text)?;
        let dir = tempfile::tempdir()?;
        let module = dir.path().join("tight.wasm");
        std::fs::write(&module, &wasm)?;
        let plain = host.prepare_path(&module, false).await?;
        let fuel = host.prepare_path(&module, true).await?;
        let bare = Peer::new(&module, 1, Code::WithoutEpochs)?;
        let checks = Peer::new(&module, 1, Code::AsPodling)?;
        let argv = ["tight"];
        let mut fuelled = Plan::new(&fuel, &argv);
        fuelled.limits = RunLimits { fuel: Some(u64::MAX / 2), ..RunLimits::unlimited() };
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..options.rounds(ROUNDS) {
            times[0].push(timed(bare.start(&argv, &[]).output()).await?);
            times[1].push(timed(checks.start(&argv, &[]).output()).await?);
            times[2].push(timed(host.run(Plan::new(&plain, &argv))).await?);
            times[3].push(timed(host.run(fuelled)).await?);
        }
        rows(&mut all, what, &times);
    }
    Ok(all)
}

const HEAD: &[&str] = &["", "ms", "fastest ms", "to without", "goal"];

fn table(title: &str, times: &[Vec<f64>; 4]) -> Table {
    let mut table = Table::new(title, HEAD);
    rows(&mut table, "", times);
    table.note("ratios are medians of the rounds' own; each round runs all four after one another");
    table
}

/// One row for each way to run it; the first is what the others are compared with.
fn rows(table: &mut Table, of: &str, times: &[Vec<f64>; 4]) {
    let goal = if of.is_empty() { "≤ 1.10" } else { "" };
    let what = [
        ("plain wasmtime, no epochs", ""),
        ("plain wasmtime, epoch checks compiled in", ""),
        ("podling: epochs tick, every turn metered", goal),
        ("podling with a fuel limit", ""),
    ];
    for ((what, goal), with) in what.into_iter().zip(times) {
        let pairs: Vec<f64> =
            with.iter().zip(&times[0]).map(|(with, without)| with / without).collect();
        table.row(vec![
            format!("{of}{what}").into(),
            Cell::Number(median(with), 0),
            Cell::Number(percentile(with, 0), 0),
            Cell::Number(median(&pairs), 3),
            goal.into(),
        ]);
    }
}

async fn timed<T>(run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<f64> {
    let began = Instant::now();
    run.await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Counts down, and nothing else.
fn counting(turns: u64) -> String {
    command(&format!(
        r#"(func (export "run") (result i32) (local $left i64)
             (local.set $left (i64.const {turns}))
             (loop $again
               (br_if $again (i32.wrap_i64
                 (local.tee $left (i64.sub (local.get $left) (i64.const 1))))))
             i32.const 0)"#
    ))
}

/// The slow way, by calls.
fn fibonacci(n: u32) -> String {
    command(&format!(
        r#"(func $f (param i32) (result i32)
             (if (i32.lt_u (local.get 0) (i32.const 2)) (then (return (local.get 0))))
             (i32.add (call $f (i32.sub (local.get 0) (i32.const 1)))
                      (call $f (i32.sub (local.get 0) (i32.const 2)))))
           (func (export "run") (result i32) (drop (call $f (i32.const {n}))) i32.const 0)"#
    ))
}

fn command(code: &str) -> String {
    format!(
        r#"(component
             (core module $m {code})
             (core instance $i (instantiate $m))
             (func $f (result (result)) (canon lift (core func $i "run")))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.2.0" (instance $run)))"#
    )
}

fn milliseconds(output: &[u8]) -> anyhow::Result<f64> {
    let line = guests::json_line(output)?;
    line["milliseconds"].as_f64().with_context(|| format!("no milliseconds in {line}"))
}
