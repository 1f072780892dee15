//! The hostile suite with figures: `tests/hostile` against the goals, on the real daemon.
//!
//! Four attackers at a time. For each wave: how late a neighbour's 10 ms timer was, beside what the machine adds to a plain thread's sleep; how long
//! the daemon took to answer; how long after their grace period attackers that do not end by themselves had ended; how much memory of its own the daemon took.
//! Goals: the timer ≤ 5 ms late at the 99th percentile, an answer ≤ 50 ms, an end ≤ 100 ms after the grace.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]
#![allow(clippy::unwrap_used, reason = "shared with a test, which fails by panicking")]

#[path = "../tests/hostile/attacks.rs"]
mod attacks;
mod common;
#[path = "../tests/hostile/rig.rs"]
mod rig;
#[path = "../tests/it/support.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;
#[path = "../tests/hostile/texts.rs"]
mod texts;

use attacks::{SLOW, WAVES};
use common::Options;
use common::report::{Cell, Report, Table};
use common::stats::{median, percentile};
use rig::{Rig, Seen};

fn main() {
    let options = Options::from_args();
    let mut report = Report::new("hostile", options.json);
    let waves = if options.quick { &WAVES[..2] } else { WAVES };
    let waves = || waves.iter().copied().chain((!options.quick).then_some(SLOW));
    let mut rig = Rig::start(waves().flatten());
    let mut table = Table::new(
        "Attacks, four at a time (ms)",
        &["", "timer p50", "p99", "host p99", "answer p50", "p99", "most", "end, most", "MiB more"],
    );
    let mut wrong = vec![];
    let mut all = Seen::default();
    for wave in waves() {
        rig.warm_up(wave);
        let seen = rig.wave(wave);
        let names: Vec<_> = wave.iter().map(|attack| attack.name).collect();
        row(&mut table, &names.join(", "), &seen);
        all.late.extend(&seen.late);
        all.host_late.extend(&seen.host_late);
        all.answers.extend(&seen.answers);
        all.ends.extend(&seen.ends);
        all.grown = all.grown.max(seen.grown);
        wrong.extend(seen.wrong);
    }
    row(&mut table, "all", &all);
    table.note("goals: timer p99 ≤ 5, answer ≤ 50, end ≤ 100 after the grace; host: a plain thread beside it that sleeps 10 ms");
    for attack in wrong {
        table.note(format!("WRONG: {attack}"));
    }
    report.table(table);
    report.finish();
}

#[allow(clippy::cast_precision_loss, reason = "mebibytes of one machine")]
fn row(table: &mut Table, what: &str, seen: &Seen) {
    table.row(vec![
        what.into(),
        Cell::Number(median(&seen.late), 2),
        Cell::Number(percentile(&seen.late, 99), 2),
        Cell::Number(percentile(&seen.host_late, 99), 2),
        Cell::Number(median(&seen.answers), 2),
        Cell::Number(percentile(&seen.answers, 99), 2),
        Cell::Number(percentile(&seen.answers, 100), 2),
        Cell::Number(percentile(&seen.ends, 100), 1),
        Cell::Number((seen.grown >> 20) as f64, 0),
    ]);
}
