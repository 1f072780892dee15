//! Stacks on the memory account: what a module's calls have used of them, asleep or not.

use super::super::{RunControl, RunLimits};
use super::lab::{Trial, eventually, over, prepare_text};
use crate::spec::{Exit, OnMemoryLimit};

const KIB: u64 = 1 << 10;

/// Calls itself so many times, each with a frame.
const DEEP: &str = "(func $deep (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0)) (else
      (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))))";

/// A depth that takes at least so much.
const DEPTH: u32 = 8_000;
const DEPTH_BYTES: u64 = DEPTH as u64 * 16;

/// More time than a look at the stacks waits for.
const COMPUTE: &str = "(func $compute (local i32)
    (loop $again (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get 0) (i32.const 5000000)))))";

fn module(depth: u32, afterwards: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          {DEEP} {COMPUTE}
          (func (export "_start")
            (drop (call $deep (i32.const {depth})))
            (call $compute)
            {afterwards}))"#
    )
}

/// Goes so deep, comes back, and waits for an hour.
pub(super) fn at_rest(depth: u32) -> String {
    module(
        depth,
        "(i32.store offset=16 (i32.const 0) (i32.const 1))
         (i64.store offset=24 (i32.const 0) (i64.const 3600000000000))
         (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))",
    )
}

/// The same, and computes without end.
fn busy(depth: u32) -> String {
    module(depth, "(loop $again (br $again))")
}

/// The same, and ends.
fn brief(depth: u32) -> String {
    module(depth, "")
}

/// What the host holds for it, its stack included.
fn host_bytes(control: &RunControl) -> u64 {
    control.usage().memory.host
}

#[tokio::test]
async fn a_module_pays_for_the_stack_that_it_has_used() {
    for text in [at_rest, busy] {
        let shallow = prepare_text(&text(1), false).await.unwrap();
        let deep = prepare_text(&text(DEPTH), false).await.unwrap();
        let (shallow, _) = Trial::new(shallow, &[]).start().await;
        let (deep, _) = Trial::new(deep, &[]).start().await;
        let least = super::super::stacks::BASE_BYTES as u64 + DEPTH_BYTES / 4;
        eventually("it is charged", || host_bytes(&deep.control) > least).await;
        eventually("this too", || host_bytes(&shallow.control) > 0).await;
        let most = super::super::stacks::BASE_BYTES as u64 + 32 * KIB;
        assert!(host_bytes(&shallow.control) < most, "{:?}", shallow.control.usage());
        for handle in [shallow, deep] {
            let control = handle.control.clone();
            control.kill();
            assert_eq!(over(handle).await, Exit::Killed);
            assert_eq!(control.usage().memory_bytes, 0);
        }
    }
}

#[tokio::test]
async fn a_module_without_memory_for_its_stack_ends() {
    // Its memory, the least of a stack, and some for everything else.
    let limit = 64 * KIB + super::super::stacks::BASE_BYTES as u64 + 24 * KIB;
    for on_memory_limit in [OnMemoryLimit::Kill, OnMemoryLimit::Fail] {
        let limits =
            RunLimits { memory_bytes: Some(limit), on_memory_limit, ..RunLimits::unlimited() };
        for text in [at_rest(DEPTH), busy(DEPTH)] {
            let artifact = prepare_text(&text, false).await.unwrap();
            let (exit, _) = Trial::new(artifact, &[]).limits(limits).finish().await;
            let Exit::OutOfMemory { message } = &exit else { panic!("{exit:?}") };
            assert!(message.contains("its memory limit is "), "{message}");
        }
        let artifact = prepare_text(&brief(1), false).await.unwrap();
        let (exit, _) = Trial::new(artifact, &[]).limits(limits).finish().await;
        assert_eq!(exit, Exit::Code(0));
        // Its memory, and not even the least of a stack.
        let limits = RunLimits { memory_bytes: Some((64 + 48) * KIB), ..limits };
        let artifact = prepare_text(&brief(1), false).await.unwrap();
        let (exit, _) = Trial::new(artifact, &[]).limits(limits).finish().await;
        assert!(matches!(exit, Exit::OutOfMemory { .. }), "{exit:?}");
    }
}

/// As many tasks of WASI 0.3 as it has instances, each of which goes deep and waits for an hour, on a stack of its own. Whoever calls them is a component
/// beside them: one may not call into those that it is made of.
fn sleepers(count: usize) -> String {
    let each = |line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let instances =
        each(&|n| format!("(instance $s{n} (instantiate $sleeper (with \"wait\" (func $wait))))"));
    let given = each(&|n| format!("(with \"s{n}\" (func $s{n} \"sleep\"))"));
    let imported = each(&|n| format!("(import \"s{n}\" (func $s{n} async))"));
    let lowered = each(&|n| format!("(core func $c{n} (canon lower (func $s{n}) async))"));
    let exported = each(&|n| format!("(export \"c{n}\" (func $c{n}))"));
    let declared = each(&|n| format!("(import \"\" \"c{n}\" (func $c{n} (result i32)))"));
    let called = each(&|n| format!("(drop (call $c{n}))"));
    format!(
        r#"(component
          (import "wasi:clocks/monotonic-clock@0.3.0"
            (instance $clock (export "wait-for" (func async (param "how-long" u64)))))
          (alias export $clock "wait-for" (func $wait))
          (component $sleeper
            (import "wait" (func $wait async (param "how-long" u64)))
            (core func $wait (canon lower (func $wait)))
            (core module $m
              (import "" "wait" (func $wait (param i64)))
              {DEEP}
              (func (export "sleep")
                (drop (call $deep (i32.const {DEPTH})))
                (call $wait (i64.const 3600000000000))))
            (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait))))))
            (func (export "sleep") async (canon lift (core func $i "sleep"))))
          {instances}
          (component $caller
            (import "wait" (func $wait async (param "how-long" u64)))
            (core func $wait (canon lower (func $wait)))
            {imported}
            {lowered}
            (core module $m
              {declared}
              (import "" "wait" (func $wait (param i64)))
              {COMPUTE}
              (func (export "run") (result i32)
                {called} (call $compute) (call $wait (i64.const 3600000000000)) i32.const 0))
            (core instance $i (instantiate $m (with "" (instance
              {exported} (export "wait" (func $wait))))))
            (func (export "run") async (result (result)) (canon lift (core func $i "run"))))
          (instance $c (instantiate $caller (with "wait" (func $wait)) {given}))
          (alias export $c "run" (func $f))
          (instance $run (export "run" (func $f)))
          (export "wasi:cli/run@0.3.0" (instance $run)))"#
    )
}

#[tokio::test]
async fn tasks_that_sleep_are_charged_for_their_stacks() {
    const COUNT: usize = 20;
    let artifact = prepare_text(&sleepers(COUNT), false).await.unwrap();
    let (handle, _) = Trial::new(artifact.clone(), &[]).start().await;
    let control = handle.control.clone();
    let least = COUNT as u64 * (super::super::stacks::BASE_BYTES as u64 + DEPTH_BYTES / 4);
    eventually("all are charged", || host_bytes(&control) > least || control.is_over()).await;
    if control.is_over() {
        panic!("it does not sleep: {:?}", over(handle).await);
    }
    control.kill();
    assert_eq!(over(handle).await, Exit::Killed);
    assert_eq!(control.usage().memory_bytes, 0);
    // Half of them.
    for on_memory_limit in [OnMemoryLimit::Kill, OnMemoryLimit::Fail] {
        let memory_bytes = Some(least / 2);
        let limits = RunLimits { memory_bytes, on_memory_limit, ..RunLimits::unlimited() };
        let (exit, _) = Trial::new(artifact.clone(), &[]).limits(limits).finish().await;
        let Exit::OutOfMemory { message } = &exit else { panic!("{exit:?}") };
        assert!(message.contains("its memory limit is "), "{message}");
    }
}
