//! What modules with a limit get: thousandths of a core, instructions per second.

#![allow(unreachable_pub, reason = "a part of one program")]

use std::time::{Duration, Instant};

use anyhow::Context as _;
use podling::runtime::{Artifact, PodAccount, PodLimits, RunLimits};

use crate::common::Options;
use crate::common::guests::{self, Host, Plan};
use crate::common::report::{Cell, Table};
use crate::{SETTLE, during};

/// How long a rate is measured.
const RATE_FOR: Duration = Duration::from_secs(10);

/// CPU time, of one module under a limit of its own and of four under their pod's.
pub async fn cpu(host: &Host, options: Options) -> anyhow::Result<Table> {
    let spin = host.prepare("spin", false).await?;
    let time = during(options, RATE_FOR);
    let mut table = Table::new(
        format!("CPU limits of spinning modules, over {} s", time.as_secs()),
        &["limit", "got, meter", "got, kernel", "off by", "goal"],
    );
    for (limit, modules) in [(50, 1), (200, 1), (500, 1), (1500, 4)] {
        let (meter, kernel) = rate_of(host, &spin, limit, modules, time).await?;
        let due = f64::from(limit);
        let whose = if modules == 1 { "one module" } else { "a pod of four" };
        table.row(vec![
            format!("{limit}m, {whose}").into(),
            format!("{meter:.1}m").into(),
            format!("{kernel:.1}m").into(),
            format!("{:+.1} %", (kernel / due - 1.0) * 100.0).into(),
            "± 5 %".into(),
        ]);
    }
    table.note("kernel: CPU time of the guests' threads as the kernel counts it, which is what the limit is held against");
    Ok(table)
}

/// Thousandths of a core that `modules` get which share `limit`, as the meter says and as the kernel does.
async fn rate_of(
    host: &Host,
    spin: &Artifact,
    limit: u32,
    modules: usize,
    during: Duration,
) -> anyhow::Result<(f64, f64)> {
    let cpu_millis = Some(u64::from(limit));
    let pod = PodAccount::new(PodLimits { cpu_millis, ..PodLimits::default() });
    let mut plan = Plan::new(spin, &["spin"]);
    if modules == 1 {
        plan.limits = RunLimits { cpu_millis, ..RunLimits::unlimited() };
    } else {
        plan.pod = Some(&pod);
    }
    let mut handles = vec![];
    for _ in 0..modules {
        handles.push(host.start(plan).await?.0);
    }
    tokio::time::sleep(SETTLE).await;
    let used = || handles.iter().map(|handle| guests::cpu_seconds(&handle.control)).sum::<f64>();
    let (began, meter, kernel) = (Instant::now(), used(), thread_seconds("guest")?);
    tokio::time::sleep(during).await;
    let meter = used() - meter;
    let kernel = thread_seconds("guest")? - kernel;
    let elapsed = began.elapsed().as_secs_f64();
    for handle in handles {
        guests::end(handle).await?;
    }
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

/// `podling.dev/fuel-per-second` against a module that spins.
pub async fn fuel(host: &Host, options: Options) -> anyhow::Result<Table> {
    let spin = host.prepare("spin-p1", true).await?;
    let mut table = Table::new(
        "Fuel per second of a spinning module (millions of instructions)",
        &["limit", "got", "off by"],
    );
    for limit in [1_000_000_u32, 10_000_000, 100_000_000] {
        let mut plan = Plan::new(&spin, &["spin"]);
        plan.limits =
            RunLimits { fuel_per_second: Some(u64::from(limit)), ..RunLimits::unlimited() };
        let (handle, _) = host.start(plan).await?;
        tokio::time::sleep(SETTLE).await;
        let used = || handle.control.usage().fuel_used.unwrap_or(0);
        let (began, before) = (Instant::now(), used());
        tokio::time::sleep(during(options, RATE_FOR)).await;
        let got = u32::try_from(used() - before).context("count instructions")?;
        let got = f64::from(got) / began.elapsed().as_secs_f64();
        guests::end(handle).await?;
        let limit = f64::from(limit);
        table.row(vec![
            format!("{:.0}", limit / 1e6).into(),
            Cell::Number(got / 1e6, 2),
            format!("{:+.1} %", (got / limit - 1.0) * 100.0).into(),
        ]);
    }
    Ok(table)
}
