//! How soon a run is over that is to be over.

#![allow(unreachable_pub, reason = "a part of one program")]

use std::time::Instant;

use podling::runtime::{Artifact, RunHandle};

use crate::common::Options;
use crate::common::guests::{self, Host, Plan};
use crate::common::report::{Cell, Table};
use crate::common::stats::{median, percentile};
use crate::printed;

const KILLS: usize = 50;

/// Times from the order to the end.
pub async fn times(host: &Host, options: Options) -> anyhow::Result<Table> {
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
