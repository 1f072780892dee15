//! Who gets what when all want everything: ten modules by their weights.

#![allow(unreachable_pub, reason = "a part of one program")]

use std::time::Duration;

use podling::runtime::RunLimits;

use crate::common::Options;
use crate::common::guests::{self, Host, Plan};
use crate::common::report::{Cell, Table};
use crate::{SETTLE, during};

const FAIR_FOR: Duration = Duration::from_secs(10);

/// `requests.cpu`, thousandths of a core: 1:2:4.
const WEIGHTS: [u32; 10] = [100, 200, 400, 100, 200, 400, 100, 200, 400, 100];

pub async fn shares(host: &Host, options: Options) -> anyhow::Result<Table> {
    let spin = host.prepare("spin", false).await?;
    let time = during(options, FAIR_FOR);
    let mut handles = vec![];
    for weight in WEIGHTS {
        let mut plan = Plan::new(&spin, &["spin"]);
        let cpu_request_millis = Some(u64::from(weight));
        plan.limits = RunLimits { cpu_request_millis, ..RunLimits::unlimited() };
        handles.push(host.start(plan).await?.0);
    }
    tokio::time::sleep(SETTLE).await;
    let used = || -> Vec<f64> {
        handles.iter().map(|handle| guests::cpu_seconds(&handle.control)).collect()
    };
    let before = used();
    tokio::time::sleep(time).await;
    let got: Vec<f64> = used().iter().zip(before).map(|(after, before)| after - before).collect();
    for handle in handles {
        guests::end(handle).await?;
    }
    let (all, weights) = (got.iter().sum::<f64>(), f64::from(WEIGHTS.iter().sum::<u32>()));
    let mut table = Table::new(
        format!("Ten spinning modules by weight, over {} s (s of CPU time)", time.as_secs()),
        &["requests.cpu", "due", "least", "most", "furthest off", "goal"],
    );
    for weight in [100, 200, 400] {
        let due = all * f64::from(weight) / weights;
        let of_weight = || got.iter().zip(WEIGHTS).filter(|(_, w)| *w == weight).map(|(s, _)| *s);
        let off = of_weight().map(|seconds| (seconds / due - 1.0) * 100.0);
        let off =
            off.fold(0.0, |worst: f64, off| if off.abs() > worst.abs() { off } else { worst });
        table.row(vec![
            format!("{weight}m").into(),
            Cell::Number(due, 3),
            Cell::Number(of_weight().fold(f64::INFINITY, f64::min), 3),
            Cell::Number(of_weight().fold(0.0, f64::max), 3),
            format!("{off:+.1} %").into(),
            "± 10 %".into(),
        ]);
    }
    Ok(table)
}
