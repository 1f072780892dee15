//! What the CPU limits cost, and how well they hold.
//!
//! Cost: `bench-cpu` (a mix like an embedded database's) and tight loops under podling's meter and ticking epochs, against the same modules compiled
//! without epochs in a plain embedding; between them the compiled-in checks alone. Rate: what spinning modules with a limit get of
//! a core, alone and as a pod, in CPU time and in fuel. Fair: what ten of them without a limit get by their weights. Kill: from the order to the end of a run, whatever it
//! does. Neighbour: how late a module's 10 ms timer is while others spin.
//! Goals: DESIGN.md, "Figures to reach".

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "../../src/runtime/tests/busy.rs"]
mod busy;
#[path = "../common/mod.rs"]
mod common;
mod cost;
mod fair;
mod kill;
mod neighbour;
mod rate;

use std::time::{Duration, Instant};

use common::Options;
use common::guests::{Host, Output};
use common::report::Report;

/// How long until a module that starts is certain to spin at full rate: its burst is spent by then.
const SETTLE: Duration = Duration::from_millis(500);

fn main() -> anyhow::Result<()> {
    let options = Options::from_args();
    let mut report = Report::new("cpu", options.json);
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(async {
        report.table(cost::programs(options).await?);
        report.table(cost::loops(options).await?);
        let host = Host::new(None)?;
        report.table(rate::cpu(&host, options).await?);
        report.table(rate::fuel(&host, options).await?);
        report.table(fair::shares(&host, options).await?);
        report.table(kill::times(&host, options).await?);
        report.table(neighbour::lateness(&host, options).await?);
        anyhow::Ok(())
    })?;
    report.finish();
    Ok(())
}

/// How long something is measured that should last `usual`.
fn during(options: Options, usual: Duration) -> Duration {
    if options.quick { usual / 10 } else { usual }
}

/// Waits until a guest has said its first word.
async fn printed(output: &Output) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while output.bytes().is_empty() {
        anyhow::ensure!(Instant::now() < deadline, "a guest did not begin");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
