//! Modules that mean harm, against the real daemon: each attack ends, or is held, as `docs/limits.md` says; and meanwhile the daemon keeps to its
//! memory and answers, and a neighbour's clock goes on.
//!
//! Four attackers at a time, as many as twice the cores of a usual gateway. The bounds here are for any machine, busy with whatever; `benches/hostile.rs`
//! measures the same against the goals. `PODLING_ATTACKS=name,name` lets loose only these.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "outside the program: polls another process")]

mod attacks;
mod rig;
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "shared with the other tests of the binary")]
mod support;
mod texts;

use attacks::{Attack, Outcome, SLOW, WAVES};
use rig::{Rig, Seen};

/// Memory of the daemon above rest for each attacker: its limit, and what is not on its account (stacks, code's pages, its objects).
const BYTES_EACH: u64 = (48 + 16) << 20;

/// The most that a busy machine has added to a plain thread's sleep counts thrice for the neighbour's: it takes two wake-ups more. The most, since
/// there are few of some samples, and what stops the machine once stops all at once.
const MACHINE_FACTOR: f64 = 3.0;

/// Beyond that, the neighbour's timer, an answer of the daemon, and the end of an attacker may be late by so much, milliseconds. A daemon that can be held
/// is late by seconds.
const LATE_MS: f64 = 250.0;
const ANSWER_MS: f64 = 1000.0;
const END_MS: f64 = 1000.0;

#[test]
fn no_attack_harms_the_daemon_or_a_neighbour() {
    let chosen = std::env::var("PODLING_ATTACKS").ok();
    let is_chosen = |attack: &Attack| {
        chosen.as_ref().is_none_or(|names| names.split(',').any(|name| name == attack.name))
    };
    // Those that take long are let loose by name only.
    let waves = WAVES.iter().copied().chain(chosen.is_some().then_some(SLOW));
    let waves: Vec<&[Attack]> = waves.filter(|wave| wave.iter().any(is_chosen)).collect();
    let mut rig = Rig::start(waves.iter().copied().flatten());
    let mut wrong = vec![];
    for wave in waves {
        let names: Vec<_> = wave.iter().map(|attack| attack.name).collect();
        let seen = rig.wave(wave);
        eprintln!("{}: {}", names.join(" "), figures(&seen));
        for (name, outcome) in &seen.outcomes {
            eprintln!("    {name}: {outcome}");
        }
        wrong.extend(complaints(&names.join(" "), wave.len(), seen));
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), rig.output());
}

fn complaints(wave: &str, attackers: usize, seen: Seen) -> Vec<String> {
    let machine = percentile(&seen.host_late, 100) * MACHINE_FACTOR;
    let rows = [
        ("the neighbour's timer was late by", percentile(&seen.late, 99), LATE_MS),
        ("the daemon answered after", percentile(&seen.answers, 99), ANSWER_MS),
        ("beyond the grace period it took", percentile(&seen.ends, 100), END_MS),
    ];
    let mut wrong = seen.wrong;
    for (what, ms, bound) in rows {
        if ms > bound + machine {
            wrong.push(format!("{wave}: {what} {ms:.0} ms, more than {bound} + {machine:.0}"));
        }
    }
    if seen.grown > BYTES_EACH * attackers as u64 {
        wrong.push(format!("{wave}: the daemon grew by {} MiB", seen.grown >> 20));
    }
    if seen.late.is_empty() {
        wrong.push(format!("{wave}: the neighbour stood still"));
    }
    wrong
}

fn figures(seen: &Seen) -> String {
    format!(
        "late {:.1} ms (p99; the machine {:.1}, at most {:.1}), answers {:.1} ms, ends {:.1} ms after the grace, {} MiB more",
        percentile(&seen.late, 99),
        percentile(&seen.host_late, 99),
        percentile(&seen.host_late, 100),
        percentile(&seen.answers, 99),
        percentile(&seen.ends, 100),
        seen.grown >> 20
    )
}

fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

#[test]
fn the_manual_says_what_becomes_of_each_attack() {
    let manual = include_str!("../../docs/limits.md");
    for attack in WAVES.iter().copied().flatten().chain(SLOW) {
        let row = format!("| `{}` |", attack.name);
        let row = manual.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("docs/limits.md says nothing of {}", attack.name));
        let told = row.rsplit_once(" | ").map_or("", |(_, outcome)| outcome);
        let expected = match attack.outcome {
            Outcome::Ends { reason, code, .. } => format!("`{reason}` {code}"),
            Outcome::Refused { reason, .. } => format!("`{reason}`"),
            Outcome::Held { .. } => "held".to_owned(),
            Outcome::Evicted { .. } => "`Evicted`".to_owned(),
        };
        assert!(told.starts_with(&expected), "{row}: expected {expected}");
    }
}
