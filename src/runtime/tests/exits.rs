//! How runs end by themselves.

use super::super::ModuleKind;
use super::lab::{Trial, prepare_text};
use crate::spec::Exit;

#[tokio::test]
async fn components_and_core_modules_run_and_say_who_they_are() {
    for name in ["hello", "hello-p1"] {
        let trial = Trial::of(name, &["a", "b c"]).await.env("NAME", "tester");
        let (exit, paper) = trial.finish().await;
        assert_eq!(exit, Exit::Code(0), "{name}: {}", paper.stderr());
        let said = paper.stdout();
        for line in ["arg 0 guest\n", "arg 2 b c\n", "env NAME=tester\n", "hello, tester\n"] {
            assert!(said.contains(line), "{name}: {said}");
        }
        assert!(said.ends_with("[flushed]"), "{name}: {said}");
        assert_eq!(paper.stderr(), "hello on stderr\n", "{name}");
    }
}

#[tokio::test]
async fn exit_codes_are_kept() {
    for name in ["exit", "exit-p1"] {
        for code in [0, 1, 3, 42, 125, 126, 200, 255] {
            let (exit, _) = Trial::of(name, &[&code.to_string()]).await.finish().await;
            assert_eq!(exit, Exit::Code(code), "{name}");
        }
    }
}

#[tokio::test]
async fn traps_tell_their_reason_and_where() {
    for (kind, reason, frame) in [
        ("panic", "unreachable code", "panic"),
        ("unreachable", "unreachable code", "stop_here"),
        ("memory", "out of bounds memory access", "read_outside"),
        ("stack", "call stack exhausted", "deeper"),
    ] {
        let (exit, paper) = Trial::of("trap", &[kind]).await.finish().await;
        let Exit::Trapped { message } = exit else { panic!("{kind}: {exit:?}") };
        let (first, rest) = message.split_once('\n').unwrap();
        assert!(first.contains(reason), "{kind}: {message}");
        assert!(rest.contains(frame), "{kind}: {message}");
        assert!(message.len() <= 3072, "{kind}: {} bytes", message.len());
        assert!(paper.stdout().contains(kind));
    }
}

#[tokio::test]
async fn other_traps_are_told_in_plain_words() {
    let division = prepare_text(
        r#"(module (func (export "_start") i32.const 1 i32.const 0 i32.div_s drop))"#,
        false,
    );
    let (exit, _) = Trial::new(division.await.unwrap(), &[]).finish().await;
    let Exit::Trapped { message } = exit else { panic!("{exit:?}") };
    assert!(message.starts_with("integer divide by zero"), "{message}");
}

/// A component of WASI 0.3 in its smallest form; `result` is 0 for success.
fn run_0_3(result: u32) -> String {
    format!(
        r#"(component
             (core module $m (func (export "run") (result i32) i32.const {result}))
             (core instance $i (instantiate $m))
             (func $f async (result (result)) (canon lift (core func $i "run")))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.3.0" (instance $run)))"#
    )
}

#[tokio::test]
async fn components_of_wasi_0_3_run() {
    for (result, code) in [(0, 0), (1, 1)] {
        let artifact = prepare_text(&run_0_3(result), false).await.unwrap();
        assert_eq!(artifact.kind(), ModuleKind::ComponentP3);
        let (exit, _) = Trial::new(artifact, &[]).finish().await;
        assert_eq!(exit, Exit::Code(code));
    }
}

#[tokio::test]
async fn a_hundred_runs_of_one_artifact_each_end_once() {
    let mut handles = Vec::new();
    for code in 0..100 {
        let (handle, _) = Trial::of("exit-p1", &[&code.to_string()]).await.start().await;
        handles.push((code, handle));
    }
    for (code, handle) in handles {
        let control = handle.control.clone();
        assert_eq!(handle.exit.await, Exit::Code(code));
        assert!(control.is_over());
        assert_eq!(control.usage().memory_bytes, 0);
        assert!(control.usage().memory_peak_bytes > 0);
    }
}
