//! Being told to stop, and being killed.

use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::super::{
    CompileMode, LogSink, Network, Runtime, RuntimeConfig, StartError, Stdin, StdinPipe, Stream,
};
use super::busy::SPINNERS;
use super::lab::{Trial, eventually, over, prepare_text};
use crate::net::{NetConfig, PodNet};
use crate::spec::{Exit, StopSignal};

#[tokio::test]
async fn a_module_that_never_asked_ends_at_once_when_told_to_stop() {
    for name in ["spin", "spin-p1", "sleep"] {
        let (handle, _) = Trial::of(name, &[]).await.start().await;
        assert!(!handle.control.hears_stop());
        handle.control.ask_to_stop();
        assert_eq!(over(handle).await, Exit::Terminated, "{name}");
    }
}

#[tokio::test]
async fn a_module_that_asked_is_left_to_end_by_itself() {
    for args in [&[][..], &["poll"]] {
        let trial = Trial::of("graceful", args).await.env("STOP_MS", "50");
        let (handle, paper) = trial.start().await;
        paper.says(if args.is_empty() { "waiting" } else { "working" }).await;
        eventually("it asked", || handle.control.hears_stop()).await;
        handle.control.ask_to_stop();
        assert_eq!(over(handle).await, Exit::Code(0), "{args:?}");
        paper.says("stopped\n").await;
    }
}

#[tokio::test]
async fn a_module_that_heard_and_stays_is_killed() {
    for args in [&[][..], &["spin"]] {
        let (handle, paper) = Trial::of("stubborn", args).await.start().await;
        paper.says("waiting").await;
        eventually("it asked", || handle.control.hears_stop()).await;
        handle.control.ask_to_stop();
        paper.says("ignoring it").await;
        assert!(!handle.control.is_over());
        handle.control.kill();
        assert_eq!(over(handle).await, Exit::Killed, "{args:?}");
    }
}

#[tokio::test]
async fn a_core_module_can_ask_whether_it_should_stop() {
    let module = prepare_text(
        r#"(module
             (import "podling:pod/lifecycle@0.1.0" "terminating" (func $terminating (result i32)))
             (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (func (export "_start")
               (loop $again (br_if $again (i32.eqz (call $terminating))))
               (call $exit (i32.const 7))))"#,
        false,
    );
    let (handle, _) = Trial::new(module.await.unwrap(), &[]).start().await;
    eventually("it asked", || handle.control.hears_stop()).await;
    handle.control.ask_to_stop();
    assert_eq!(over(handle).await, Exit::Code(7));
}

#[tokio::test]
async fn end_of_input_is_a_stop_request_where_the_manifest_says_so() {
    for with_pipe in [false, true] {
        let mut trial = Trial::of("stdin", &[]).await;
        trial.run.stop_signal = StopSignal::StdinEof;
        let pipe = StdinPipe::new();
        if with_pipe {
            trial.run.stdin = Stdin::Pipe(pipe.clone());
            pipe.write(b"12345").await.unwrap();
        }
        let (handle, paper) = trial.start().await;
        paper.says("reading").await;
        assert!(handle.control.hears_stop() && !handle.control.is_over());
        handle.control.ask_to_stop();
        assert_eq!(over(handle).await, Exit::Code(0));
        paper.says(if with_pipe { "5 bytes" } else { "0 bytes" }).await;
        paper.says("eof").await;
    }
}

#[tokio::test]
async fn wherever_a_module_spins_it_is_charged_for_it_and_a_kill_ends_it() {
    for &(what, text) in SPINNERS {
        let artifact = prepare_text(text, false).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let (handle, _) = Trial::new(artifact, &[]).start().await;
        let used = || handle.control.usage().cpu_time;
        // It is there by then: nothing before it takes so long.
        eventually(what, || used() > Duration::from_millis(30)).await;
        handle.control.kill();
        handle.control.ask_to_stop();
        assert_eq!(over(handle).await, Exit::Killed, "{what}");
    }
}

#[tokio::test]
async fn a_module_that_waits_for_ever_is_ended_by_a_kill() {
    for (name, args) in [("sleep", ["forever"]), ("stdin", [""])] {
        let mut trial = Trial::of(name, &args).await;
        let pipe = StdinPipe::new();
        trial.run.stdin = Stdin::Pipe(pipe.clone());
        let (handle, _) = trial.start().await;
        handle.control.kill();
        assert_eq!(over(handle).await, Exit::Killed, "{name}");
    }
}

/// A sink that lets nobody go before it is opened: a host call that does not return, on the guest's own thread.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl LogSink for Gate {
    fn write(&self, _: Stream, _: &[u8]) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn two_host_calls_that_never_return_hold_nobody_else() {
    let gate = Arc::new(Gate::default());
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut trial = Trial::of("hello", &[]).await;
        trial.run.logs = Arc::<Gate>::clone(&gate);
        held.push(trial.start().await.0);
    }
    // As many as there are guest threads are held by now, and others run to their ends all the same.
    for _ in 0..3 {
        let (exit, _) = Trial::of("hello", &[]).await.finish().await;
        assert_eq!(exit, Exit::Code(0));
    }
    assert!(held.iter().all(|handle| !handle.control.is_over()));
    *gate.open.lock().unwrap() = true;
    gate.opened.notify_all();
    for handle in held {
        assert_eq!(over(handle).await, Exit::Code(0));
    }
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_leaves_nothing() {
    let config = own_runtime();
    let runtime = Runtime::new(config.1).unwrap();
    let file = super::lab::module(super::lab::guest_path("sleep"));
    let artifact = runtime.prepare(file, false).await.unwrap();
    loop {
        let start = runtime.start(Trial::new(artifact.clone(), &["forever"]).run);
        let mut start = std::pin::pin!(start);
        // Polled once, then dropped; unless the module's thread was quicker than this one, which happens on a busy machine.
        let once = std::future::poll_fn(|cx| Poll::Ready(start.as_mut().poll(cx))).await;
        let Poll::Ready(started) = once else { break };
        let handle = started.unwrap();
        handle.control.kill();
        over(handle).await;
    }
    eventually("nothing runs", || runtime.live_runs() == 0).await;
}

#[tokio::test]
async fn shutdown_ends_everything_and_starts_nothing_more() {
    let (_dir, config) = own_runtime();
    let runtime = Runtime::new(config).unwrap();
    let file = super::lab::module(super::lab::guest_path("spin-p1"));
    let artifact = runtime.prepare(file, false).await.unwrap();
    let mut handles = Vec::new();
    for _ in 0..5 {
        handles.push(runtime.start(Trial::new(artifact.clone(), &[]).run).await.unwrap());
    }
    assert_eq!(runtime.live_runs(), 5);
    runtime.shutdown(Duration::from_secs(30)).await;
    assert_eq!(runtime.live_runs(), 0);
    for handle in handles {
        assert_eq!(over(handle).await, Exit::Killed);
    }
    let refused = runtime.start(Trial::new(artifact, &[]).run).await;
    assert!(matches!(refused, Err(StartError::ShuttingDown)));
}

/// A sink with a bug.
struct Broken;

impl LogSink for Broken {
    fn write(&self, _: Stream, _: &[u8]) {
        panic!("as expected by this test");
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn a_panic_of_ours_loses_one_run_and_nothing_else() {
    let neighbour = Trial::of("sleep", &["forever"]).await.start().await.0;
    let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 1, 0, 1)));
    let mut trial = Trial::of("echo", &[]).await;
    trial.run.network = Network::Pod { net: net.clone(), member: "echo".to_owned() };
    trial.run.logs = Arc::new(Broken);
    let (handle, _) = trial.start().await;
    let control = handle.control.clone();
    let exit = over(handle).await;
    let Exit::Lost { message } = &exit else { panic!("{exit:?}") };
    assert!(message.contains("as expected"), "{message}");
    assert!(control.is_over());
    assert_eq!((net.open_sockets(), control.usage().memory_bytes), (0, 0));
    assert!(!neighbour.control.is_over());
    neighbour.control.kill();
    assert_eq!(over(neighbour).await, Exit::Killed);
}

#[tokio::test]
async fn dropping_the_runtime_ends_its_guests() {
    let (_dir, config) = own_runtime();
    let runtime = Runtime::new(config).unwrap();
    let file = super::lab::module(super::lab::guest_path("spin-p1"));
    let artifact = runtime.prepare(file, false).await.unwrap();
    let handle = runtime.start(Trial::new(artifact, &[]).run).await.unwrap();
    drop(runtime);
    let exit = over(handle).await;
    assert!(matches!(exit, Exit::Killed | Exit::Lost { .. }), "{exit:?}");
}

fn own_runtime() -> (tempfile::TempDir, RuntimeConfig) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(dir.path().join("cache"));
    config.compile = CompileMode::InProcess;
    (dir, config)
}
