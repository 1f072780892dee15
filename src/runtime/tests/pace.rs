//! Fuel per second: what a paced module has executed, against the clock. A slow machine makes it execute less, never more.

use std::time::Duration;

use hyper::StatusCode;

use super::super::{Artifact, HttpLimits, RunControl, RunLimits};
use super::http::{PORT, Site};
use super::lab::{Trial, eventually, over, prepare, prepare_text};
use crate::clock::Clock;
use crate::spec::Exit;

/// What instructions there may be between two places where they are looked at: a loop's or a function's straight parts.
const STRAIGHT: u64 = 1_000;

/// A pace, and since when it is kept.
struct Pace {
    rate: u64,
    began: Clock,
}

impl Pace {
    /// Whatever the machine does between two readings must not shorten the time: call this before the module starts, and look at the count
    /// before the clock.
    fn begin(rate: u64) -> (Self, RunLimits) {
        let limits = RunLimits { fuel_per_second: Some(rate), ..RunLimits::unlimited() };
        (Self { rate, began: Clock::start() }, limits)
    }

    fn interval(&self) -> u64 {
        (self.rate / 100).max(1_000)
    }

    /// What is earned by now, what may be saved up, and an interval for each of `stores`.
    fn most(&self, stores: u64) -> u64 {
        let nanos = self.began.now().mono().as_nanos();
        let earned = u64::try_from(nanos * u128::from(self.rate) / 1_000_000_000).unwrap();
        earned + self.rate / 50 + stores * (self.interval() + STRAIGHT)
    }

    fn check(&self, what: &str, control: &RunControl, stores: u64) -> u64 {
        let used = control.usage().fuel_used.unwrap();
        let most = self.most(stores);
        assert!(used <= most, "{what}: {used} instructions where {most} are earned");
        used
    }
}

/// Counts to a thousand.
const COUNT: &str = "(func $count (local i32)
    (loop $more (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get 0) (i32.const 1000)))))";

/// Programs that compute without end, each in another position.
async fn spinners() -> Vec<(&'static str, Artifact)> {
    let start = r#"(module (func $spin (loop $again (br $again))) (start $spin)
        (func (export "_start")))"#;
    let calls = r#"(module (func $next) (func (export "_start")
        (loop $again (call $next) (br $again))))"#;
    let host = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "clock_time_get"
            (func $clock (param i32 i64 i32) (result i32)))
          (memory (export "memory") 1) {COUNT}
          (func (export "_start")
            (loop $again (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 8)))
              (call $count) (br $again))))"#
    );
    let task = |module: &str, options: &str| {
        format!(
            r#"(component
              (core module $m {COUNT} {module})
              (core instance $i (instantiate $m))
              (func $f async (result (result)) (canon lift (core func $i "run") {options}))
              (instance $run (export "run" (func $f)))
              (export "wasi:cli/run@0.3.0" (instance $run)))"#
        )
    };
    let spins = task(r#"(func (export "run") (result i32) (loop $a (br $a)) unreachable)"#, "");
    let again = task(
        r#"(func (export "run") (result i32) i32.const 1)
           (func (export "again") (param i32 i32 i32) (result i32) (call $count) i32.const 1)"#,
        r#"async (callback (func $i "again"))"#,
    );
    let mut spinners = vec![
        ("a core module", prepare("spin-p1", true).await),
        ("a component", prepare("spin", true).await),
    ];
    for (what, text) in [
        ("a start function", start),
        ("calls", calls),
        ("calls of the host", &host),
        ("a task of WASI 0.3", &spins),
        ("a task that yields", &again),
    ] {
        spinners.push((what, prepare_text(text, true).await.unwrap()));
    }
    spinners
}

#[tokio::test]
async fn a_paced_module_is_never_ahead_by_more_than_an_interval() {
    for rate in [100_000, 1_000_000, 10_000_000] {
        let mut runs = Vec::new();
        for (what, artifact) in spinners().await {
            let (pace, limits) = Pace::begin(rate);
            let (handle, _) = Trial::new(artifact, &[]).limits(limits).start().await;
            runs.push((what, pace, handle));
        }
        let all_have = || {
            let used = runs.iter().map(|(what, pace, handle)| pace.check(what, &handle.control, 1));
            used.min().is_some_and(|least| least > rate / 4)
        };
        eventually("a quarter of a second's instructions", all_have).await;
        for (what, pace, handle) in runs {
            let control = handle.control.clone();
            control.kill();
            assert_eq!(over(handle).await, Exit::Killed, "{what}");
            // With what it had not told of by then.
            pace.check(what, &control, 1);
        }
    }
}

#[tokio::test]
async fn a_total_and_a_pace_hold_together() {
    const TOTAL: u64 = 300_000;
    for (what, artifact) in spinners().await {
        let (pace, limits) = Pace::begin(1_000_000);
        let limits = RunLimits { fuel: Some(TOTAL), ..limits };
        let (handle, _) = Trial::new(artifact, &[]).limits(limits).start().await;
        let control = handle.control.clone();
        assert_eq!(over(handle).await, Exit::OutOfFuel, "{what}");
        // Ended at the instruction, and not before they were earned.
        let used = pace.check(what, &control, 1);
        assert!((TOTAL..TOTAL + STRAIGHT).contains(&used), "{what}: {used}");
    }
}

#[tokio::test]
async fn a_handler_keeps_its_pace_over_all_its_requests() {
    for module in ["handler", "handler3"] {
        let artifact = prepare(module, true).await;
        let (pace, limits) = Pace::begin(1_000_000);
        let http =
            HttpLimits { request_timeout: Duration::from_millis(300), ..HttpLimits::default() };
        let site = Site::of(Trial::new(artifact, &[]).http(PORT, http).limits(limits)).await;
        let control = site.handle.control.clone();
        // Three at once, each with an instance of its own; and those that are given up while they wait for fuel.
        while pace.check(module, &control, 4) < 500_000 {
            let spins = (0..3).map(|_| site.get("/spin"));
            for (status, _) in futures_util::future::join_all(spins).await {
                assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
            }
            assert!(pace.began.now().mono() < Duration::from_secs(60), "{:?}", control.usage());
        }
        site.handle.control.kill();
        assert_eq!(over(site.handle).await, Exit::Killed);
        pace.check(module, &control, 4);
    }
}

/// An instance that ends before its first interval does has paid all the same: the next waits for it.
#[tokio::test]
async fn requests_that_are_shorter_than_an_interval_are_paid_for() {
    let artifact = prepare("handler", true).await;
    let each = {
        let limits = RunLimits { fuel: Some(u64::MAX), ..RunLimits::unlimited() };
        let trial = Trial::new(artifact.clone(), &[]).http(PORT, HttpLimits::default());
        let site = Site::of(trial.limits(limits)).await;
        for _ in 0..4 {
            assert_eq!(site.get("/").await.0, StatusCode::OK);
        }
        let control = site.handle.control.clone();
        site.end().await;
        control.usage().fuel_used.unwrap() / 4
    };
    // An interval is worth ten of them, so that none comes to its end; what may be saved up is worth twenty.
    let (pace, limits) = Pace::begin(1_000 * each);
    let trial = Trial::new(artifact, &[]).http(PORT, HttpLimits::default()).limits(limits);
    let site = Site::of(trial).await;
    for _ in 0..200 {
        assert_eq!(site.get("/").await.0, StatusCode::OK);
        // The one before may not have ended yet.
        pace.check("short requests", &site.handle.control, 2);
    }
    let control = site.handle.control.clone();
    site.end().await;
    assert!(pace.check("short requests", &control, 2) > 100 * each);
}
