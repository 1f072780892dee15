//! Memory, fuel and CPU limits, as guests meet them. Fuel per second is in `pace`.

use std::sync::Arc;
use std::time::Duration;

use super::super::ledger::NodeMemory;
use super::super::{PodAccount, PodLimits, RunLimits};
use super::lab::{Trial, eventually, over, prepare, prepare_text};
use crate::clock::Clock;
use crate::spec::{Exit, OnMemoryLimit};

const MIB: u64 = 1 << 20;

fn memory(mib: u64, on_memory_limit: OnMemoryLimit) -> RunLimits {
    RunLimits { memory_bytes: Some(mib * MIB), on_memory_limit, ..RunLimits::unlimited() }
}

#[tokio::test]
async fn a_hog_is_killed_at_its_limit_and_told_why() {
    let trial = Trial::of("hog", &["1"]).await.limits(memory(16, OnMemoryLimit::Kill));
    let (handle, paper) = trial.start().await;
    let control = handle.control.clone();
    let exit = over(handle).await;
    let Exit::OutOfMemory { message } = &exit else { panic!("{exit:?}") };
    assert!(message.contains("its memory limit is 16777216 bytes (it held "), "{message}");
    assert!(message.contains(" in linear memory, "), "{message}");
    assert_eq!((exit.code(), exit.reason()), (137, "OOMKilled"));
    paper.says("holding 10 MiB").await;
    assert!(!paper.stdout().contains("holding 16 MiB"));
    let usage = control.usage();
    assert!((12 * MIB..=16 * MIB).contains(&usage.memory_peak_bytes), "{usage:?}");
    assert_eq!((usage.memory_refused, usage.memory_limit_bytes), (1, Some(16 * MIB)));
    assert_eq!(usage.memory_bytes, 0);
}

#[tokio::test]
async fn a_hog_may_be_refused_instead() {
    let trial = Trial::of("hog", &["1"]).await.limits(memory(16, OnMemoryLimit::Fail));
    let (exit, paper) = trial.finish().await;
    assert_eq!(exit, Exit::Code(3));
    paper.says("memory refused").await;
}

#[tokio::test]
async fn a_module_that_does_not_even_fit_is_out_of_memory() {
    for (text, limit) in [
        (r#"(module (memory 32) (func (export "_start")))"#, memory(1, OnMemoryLimit::Kill)),
        (
            r#"(module (table 500000 funcref) (func (export "_start")))"#,
            memory(1, OnMemoryLimit::Kill),
        ),
    ] {
        let artifact = prepare_text(text, false).await.unwrap();
        let (exit, _) = Trial::new(artifact, &[]).limits(limit).finish().await;
        assert!(matches!(exit, Exit::OutOfMemory { .. }), "{text}: {exit:?}");
    }
}

#[tokio::test]
async fn the_modules_of_a_pod_share_its_limit() {
    let pod = PodAccount::new(PodLimits { memory_bytes: Some(24 * MIB), ..PodLimits::default() });
    let mut first = Trial::of("hog", &["1", "16"]).await;
    first.run.pod = pod.clone();
    let (first, paper) = first.start().await;
    paper.says("holding 16 MiB").await;
    let mut second = Trial::of("hog", &["1", "16"]).await;
    second.run.pod = pod.clone();
    let (exit, _) = second.finish().await;
    let Exit::OutOfMemory { message } = exit else { panic!("{exit:?}") };
    assert!(message.contains("the pod's memory limit is 25165824 bytes"), "{message}");
    assert!(!first.control.is_over(), "the neighbour lives on");
    first.control.kill();
    over(first).await;
    assert_eq!(pod.memory_bytes(), 0);
    assert!(pod.memory_peak_bytes() > 16 * MIB);
}

#[tokio::test]
async fn a_module_without_a_limit_ends_where_the_node_has_no_more() {
    let node = Arc::<NodeMemory>::default();
    node.bound(16 * MIB, u64::MAX);
    let on_node = |trial: Trial| {
        let mut trial = trial;
        trial.run.pod = PodAccount::on(Arc::clone(&node), PodLimits::default());
        trial
    };
    let (exit, _) = on_node(Trial::of("hog", &["1"]).await).finish().await;
    let Exit::OutOfMemory { message } = &exit else { panic!("{exit:?}") };
    let says = "modules without a memory limit may bring that to 16777216 bytes now (it held ";
    assert!(message.contains(says), "{message}");
    // One that has a limit may have what it says; and is on the node's account as well.
    let limited = Trial::of("hog", &["1", "20"]).await.limits(memory(32, OnMemoryLimit::Kill));
    let (limited, paper) = on_node(limited).start().await;
    paper.says("holding 20 MiB").await;
    let text = r#"(module (memory 1) (func (export "_start")))"#;
    let small = Trial::new(prepare_text(text, false).await.unwrap(), &[]);
    let (exit, _) = on_node(small).finish().await;
    assert!(matches!(exit, Exit::OutOfMemory { .. }), "{exit:?}");
    limited.control.kill();
    over(limited).await;
    let small = Trial::new(prepare_text(text, false).await.unwrap(), &[]);
    let (exit, _) = on_node(small).finish().await;
    assert_eq!(exit, Exit::Code(0));
}

#[tokio::test]
async fn fuel_ends_a_run_when_it_is_used_up() {
    let limits = RunLimits { fuel: Some(10_000_000), ..RunLimits::unlimited() };
    for name in ["spin", "spin-p1"] {
        let trial = Trial::new(prepare(name, true).await, &[]).limits(limits);
        let (handle, _) = trial.start().await;
        let control = handle.control.clone();
        let exit = over(handle).await;
        assert_eq!(exit, Exit::OutOfFuel, "{name}");
        assert_eq!(control.usage().fuel_used, Some(10_000_000));
    }
    let trial = Trial::new(prepare("hello-p1", true).await, &[]).limits(limits);
    let (handle, _) = trial.start().await;
    let control = handle.control.clone();
    assert_eq!(over(handle).await, Exit::Code(0));
    let used = control.usage().fuel_used.unwrap();
    assert!((1_000..10_000_000).contains(&used), "{used}");
}

#[tokio::test]
async fn a_program_that_traps_for_want_of_memory_is_said_to_have_been_refused_some() {
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "_start")
          (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
          unreachable))"#;
    for (limit, says) in [(Some(8), true), (None, false)] {
        let limits = RunLimits {
            memory_bytes: limit.map(|mib| mib * MIB),
            on_memory_limit: OnMemoryLimit::Fail,
            ..RunLimits::unlimited()
        };
        // Without a limit of ours it ends at its own maximum.
        let text = if says { text.to_owned() } else { text.replace(" 1)", " 1 40)") };
        let artifact = prepare_text(&text, false).await.unwrap();
        let trial = Trial::new(artifact, &[]).limits(limits);
        let (handle, _) = trial.start().await;
        let control = handle.control.clone();
        let Exit::Trapped { message } = over(handle).await else { panic!("it traps") };
        let lines: Vec<_> = message.lines().collect();
        assert!(lines[0].starts_with("unreachable code was executed"), "{message}");
        let told = lines[1].starts_with("before that, the module asked for 1048576 bytes more")
            && lines[1].contains("its memory limit is 8388608 bytes");
        assert_eq!(told, says, "{message}");
        assert_eq!(control.usage().memory_refused, u64::from(says));
    }
}

#[tokio::test]
async fn a_cpu_limit_throttles_and_does_not_end() {
    // So little that it is held back also on a machine that has little left for it.
    let limits = RunLimits { cpu_millis: Some(20), ..RunLimits::unlimited() };
    let trial = Trial::of("spin-p1", &[]).await.limits(limits);
    let start = Clock::start();
    let (handle, _) = trial.start().await;
    let usage = || handle.control.usage();
    // A fiftieth of a core, the burst of 20 ms, and a last turn: a tick, or more where the machine is busy. A turn that was too long is paid
    // for by waiting; who is not held back has more than this from its first tenth of a second on, and ever more.
    let kept = || {
        let (used, took) = (usage().cpu_time, start.now().mono());
        used > Duration::from_millis(100) && used < took / 50 + Duration::from_millis(70)
    };
    eventually("its rate, after 100 ms of CPU time", kept).await;
    eventually("throttled", || usage().throttled > Duration::from_millis(100)).await;
    handle.control.kill();
    assert_eq!(over(handle).await, Exit::Killed);
}

#[tokio::test]
async fn the_modules_of_a_pod_share_its_cpu() {
    let pod = PodAccount::new(PodLimits { cpu_millis: Some(200), ..PodLimits::default() });
    let mut handles = Vec::new();
    let start = Clock::start();
    for _ in 0..3 {
        let mut trial = Trial::of("spin-p1", &[]).await;
        trial.run.pod = pod.clone();
        handles.push(trial.start().await.0);
    }
    let used = || handles.iter().map(|handle| handle.control.usage().cpu_time).sum::<Duration>();
    // A fifth of a core, the burst of 20 ms, and the last turns of three; what was too much is paid for by waiting.
    let kept = || {
        let (used, took) = (used(), start.now().mono());
        used > Duration::from_millis(200) && used < took / 5 + Duration::from_millis(100)
    };
    eventually("their rate, after 200 ms of CPU time", kept).await;
    for handle in handles {
        handle.control.kill();
        over(handle).await;
    }
}

/// The rule of `network_memory.rs`, for the call that WASI has an error for.
#[tokio::test]
async fn a_socket_that_finds_no_memory_ends_its_module_unless_it_is_to_go_on() {
    for (on_limit, ends) in [(OnMemoryLimit::Kill, true), (OnMemoryLimit::Fail, false)] {
        // A socket a KiB, of a thousand that it may have.
        let mut limits = memory(2, on_limit);
        limits.memory_bytes = limits.memory_bytes.map(|bytes| bytes - (300 << 10));
        let trial = Trial::of("hostile", &["sockets", "1000"]).await.limits(limits);
        let (handle, paper) = trial.start().await;
        if ends {
            let exit = over(handle).await;
            assert!(matches!(exit, Exit::OutOfMemory { .. }), "{exit:?}: {}", paper.stdout());
            assert!(!paper.stdout().contains("held:"));
        } else {
            paper.says("sockets, then error").await;
            handle.control.kill();
            assert_eq!(over(handle).await, Exit::Killed);
        }
    }
}

#[tokio::test]
async fn an_exec_is_charged_to_the_module_it_goes_into() {
    let (target, paper) = {
        let trial = Trial::of("hog", &["1", "8"]).await.limits(memory(16, OnMemoryLimit::Kill));
        trial.start().await
    };
    paper.says("holding 8 MiB").await;
    let before = target.control.usage();
    let mut exec = Trial::of("hog", &["1"]).await;
    exec.run.charge_to = Some(target.control.clone());
    let (exit, exec_paper) = exec.finish().await;
    assert!(matches!(exit, Exit::OutOfMemory { .. }), "{exit:?}");
    assert!(!exec_paper.stdout().contains("holding 8 MiB"));
    assert!(!target.control.is_over());
    let after = target.control.usage();
    assert_eq!(after.memory.linear, before.memory.linear);
    // What the module has on the host by itself comes and goes (its stream, its timer); a stack more would be the other's.
    let host = after.memory.host.abs_diff(before.memory.host);
    assert!(host < super::super::stacks::BASE_BYTES as u64, "{before:?}, {after:?}");
    assert!(after.cpu_time > before.cpu_time);
    target.control.kill();
    over(target).await;
}

#[tokio::test]
async fn what_the_host_would_hold_for_a_guest_is_bounded() {
    // Asks for 512 MiB of random bytes in one call.
    let greedy = prepare_text(
        r#"(module
             (import "wasi_snapshot_preview1" "random_get"
               (func $random (param i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (memory (export "memory") 8193)
             (func (export "_start")
               (call $exit (call $random (i32.const 0) (i32.const 536870912)))))"#,
        false,
    );
    let (exit, _) = Trial::new(greedy.await.unwrap(), &[]).finish().await;
    assert!(!matches!(exit, Exit::Code(0)), "{exit:?}");
}

#[tokio::test]
async fn instances_tables_and_memories_are_counted() {
    // A component that instantiates one core module three hundred times.
    let instances = |module: &str| {
        let many: String =
            (0..300).map(|n| format!("(core instance $i{n} (instantiate $m))\n")).collect();
        format!(
            r#"(component
                 (core module $m {module} (func (export "run") (result i32) i32.const 0))
                 {many}
                 (func $f (result (result)) (canon lift (core func $i0 "run")))
                 (instance $run (export "run" (func $f)))
                 (export "wasi:cli/run@0.2.0" (instance $run)))"#
        )
    };
    for (module, words) in [("", "instance count too high"), ("(memory 1)", "memory count")] {
        let artifact = prepare_text(&instances(module), false).await.unwrap();
        let (exit, _) = Trial::new(artifact, &[]).finish().await;
        let Exit::Trapped { message } = exit else { panic!("{exit:?}") };
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn a_spinning_crowd_delays_neither_a_neighbour_nor_a_kill() {
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(Trial::of("spin-p1", &[]).await.start().await.0);
    }
    let (exit, paper) = Trial::of("sleep", &["0.05"]).await.finish().await;
    assert_eq!(exit, Exit::Code(0));
    paper.says("awake").await;
    for handle in crowd {
        handle.control.kill();
        assert_eq!(over(handle).await, Exit::Killed);
    }
}
