//! How soon a run is over that is to be over, whatever it does.

#![allow(unreachable_pub, reason = "a part of one program")]

use std::time::{Duration, Instant};

use podling::runtime::{Artifact, RunHandle, RunLimits};

use crate::common::Options;
use crate::common::guests::{self, Host, Plan};
use crate::common::report::{Cell, Table};
use crate::common::stats::{median, percentile};
use crate::{busy, printed};

const KILLS: usize = 50;

/// For each of the many ways to be busy.
const KILLS_EACH: usize = 10;

/// Each of the four neighbours weighs as much as so many thousandths of a core; whoever is to be ended, ten.
const HEAVY_MILLIS: u64 = 4_000;

/// How long whoever is to be ended has been busy: it has spent its credit, and all that its limit lets it save up.
const BUSY_FOR: Duration = Duration::from_millis(100);

/// Times from the order to the end.
pub async fn times(host: &Host, options: Options) -> anyhow::Result<Table> {
    let spin = host.prepare("spin", false).await?;
    let sleep = host.prepare("sleep", false).await?;
    let mut table =
        Table::new("From kill to the end of the run (ms)", &["", "p50", "p99", "largest", "goal"]);
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
        row(&mut table, what, &times);
    }
    beside_heavy_ones(host, options, &mut table).await?;
    table.note("beside heavy ones: four spinning modules that weigh 400 times as much");
    Ok(table)
}

fn row(table: &mut Table, what: &str, times: &[f64]) {
    table.row(vec![
        what.to_owned().into(),
        Cell::Number(median(times), 2),
        Cell::Number(percentile(times, 99), 2),
        Cell::Number(percentile(times, 100), 2),
        "≤ 100".into(),
    ]);
}

/// Every way to be busy, beside four modules that leave no core.
async fn beside_heavy_ones(host: &Host, options: Options, table: &mut Table) -> anyhow::Result<()> {
    let spin = host.prepare("spin", false).await?;
    let slow = RunLimits { cpu_millis: Some(10), ..RunLimits::unlimited() };
    let mut cases = vec![("limited to 10m".to_owned(), spin.clone(), slow)];
    for &(what, text) in busy::SPINNERS.iter().chain(&busy::WAITERS[..1]) {
        let name = format!("{}.wasm", what.replace(' ', "-"));
        let artifact = host.prepare_bytes(&name, &wat::parse_str(text)?).await?;
        cases.push((what.to_owned(), artifact, RunLimits::unlimited()));
    }
    let heavy = RunLimits { cpu_request_millis: Some(HEAVY_MILLIS), ..RunLimits::unlimited() };
    let mut neighbours = vec![];
    for _ in 0..4 {
        let mut plan = Plan::new(&spin, &["spin"]);
        plan.limits = heavy;
        neighbours.push(host.start(plan).await?.0);
    }
    for (what, artifact, limits) in cases {
        let mut times = vec![];
        for _ in 0..options.rounds(KILLS_EACH) {
            let mut plan = Plan::new(&artifact, &["busy"]);
            plan.limits = limits;
            let RunHandle { control, exit } = host.start(plan).await?.0;
            tokio::time::sleep(BUSY_FOR).await;
            let began = Instant::now();
            control.kill();
            exit.await;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        row(table, &format!("beside heavy ones, {what}"), &times);
    }
    for handle in neighbours {
        guests::end(handle).await?;
    }
    Ok(())
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
