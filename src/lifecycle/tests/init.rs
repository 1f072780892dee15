//! Init containers, sidecars, and the order of starts.

use crate::lifecycle::{ConditionKind, PodPhase};
use crate::spec::{Exit, RestartPolicy};
use crate::testkit::pods::{Tweak, hook, init, pod, probe, regular, secs, sidecar};
use crate::testkit::sim::{Answers, Guest, Sim, Try, World};

fn takes(seconds: u64) -> Guest {
    Guest::exits(secs(seconds), 0)
}

#[test]
fn init_containers_run_one_after_the_other_and_regular_ones_after_all_of_them() {
    let sim = World::new(pod([init("a"), init("b"), regular("web")]))
        .guest("a", takes(10))
        .guest("b", takes(5))
        .start()
        .until(60);
    assert_eq!(
        (sim.starts("a"), sim.starts("b"), sim.starts("web")),
        (vec![0], vec![10], vec![15])
    );
    assert_eq!(sim.phases(), [(0, PodPhase::Pending), (15, PodPhase::Running)]);
    let waiting = sim.status_at(12);
    assert_eq!(waiting.container("web").unwrap().state.waiting_reason(), Some("PodInitializing"));
    let initialized = waiting.condition(ConditionKind::Initialized).unwrap();
    assert_eq!(initialized.reason, Some("ContainersNotInitialized"));
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [b]"));
    let done = sim.status();
    assert!(done.container("a").unwrap().ready, "a completed init container is ready");
    assert_eq!(
        done.condition(ConditionKind::Initialized).unwrap().last_transition.wall_ms(),
        15_000
    );
}

#[test]
fn a_failed_init_container_is_retried_with_back_off_and_the_pod_stays_pending() {
    let sim = World::new(pod([init("a"), regular("web")]))
        .guest("a", Guest::codes(&[1, 1, 1, 0]))
        .start()
        .until(60);
    assert_eq!((sim.starts("a"), sim.starts("web")), (vec![0, 0, 10, 30], vec![30]));
    let waiting = sim.status_at(5);
    assert_eq!(waiting.container("a").unwrap().state.waiting_reason(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.phase, PodPhase::Pending);
}

#[test]
fn with_policy_never_a_failed_init_container_fails_the_pod_and_nothing_else_runs() {
    let pod = pod([sidecar("side"), init("a"), init("b"), regular("web")])
        .tweak(|pod| pod.restart_policy = RestartPolicy::Never);
    let sim = World::new(pod).guest("a", Guest::exits(secs(3), 1)).start().until(60);
    assert_eq!(sim.starts("b"), [0; 0]);
    assert_eq!(sim.starts("web"), [0; 0]);
    assert_eq!(sim.asked("side"), [3], "a sidecar does not keep a failed pod alive");
    let status = sim.status();
    assert_eq!(status.phase, PodPhase::Failed);
    assert_eq!(status.container("web").unwrap().state.waiting_reason(), Some("PodInitializing"));
    assert_eq!(status.container("b").unwrap().state.waiting_reason(), Some("PodInitializing"));
    assert!(sim.is_at_rest());
}

#[test]
fn the_next_container_waits_until_a_sidecar_is_started_not_until_it_is_ready() {
    let side = sidecar("side").tweak(|c| {
        c.startup =
            Some(probe(1).tweak(|p| p.failure_threshold = crate::testkit::pods::threshold(60)));
        c.readiness = Some(probe(10));
    });
    let answers = Answers { good_from: secs(20), ..Answers::default() };
    let never = Answers { good_from: secs(1000), ..Answers::default() };
    let sim = World::new(pod([side, init("a"), regular("web")]))
        .guest("side", Guest { startup: answers, readiness: never, ..Guest::default() })
        .guest("a", takes(1))
        .start()
        .until(60);
    assert_eq!(
        (sim.starts("side"), sim.starts("a"), sim.starts("web")),
        (vec![0], vec![20], vec![21])
    );
    assert!(!sim.status().is_ready(), "a sidecar's readiness counts for the pod's");
}

#[test]
fn a_sidecar_that_crashes_after_its_gate_holds_nobody_up_and_comes_back_under_every_policy() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        let pod = pod([sidecar("side"), init("a"), regular("web")])
            .tweak(|pod| pod.restart_policy = policy);
        let crash = Guest {
            lives: vec![(Some(secs(5)), Exit::Code(0)), (None, Exit::Code(0))],
            ..Guest::default()
        };
        let sim = World::new(pod).guest("side", crash).guest("a", takes(20)).start().until(60);
        assert_eq!(sim.starts("side"), [0, 5], "{policy:?}");
        assert_eq!((sim.starts("a"), sim.starts("web")), (vec![0], vec![20]));
    }
}

#[test]
fn a_sidecar_that_never_starts_holds_everybody_up() {
    let sim = World::new(pod([sidecar("side"), init("a"), regular("web")]))
        .guest("side", Guest { start: vec![Try::bad("CreateContainerError")], ..Guest::default() })
        .start()
        .until(600);
    assert_eq!((sim.starts("a"), sim.starts("web")), (vec![], vec![]));
    assert_eq!(sim.status().phase, PodPhase::Pending);
}

#[test]
fn a_completed_init_container_is_not_run_again_when_containers_crash() {
    let sim = World::new(pod([init("a"), sidecar("side"), regular("web")]))
        .guest("a", takes(1))
        .guest("web", Guest::exits(secs(5), 1))
        .guest("side", Guest::exits(secs(7), 1))
        .start()
        .until(1000);
    assert_eq!(sim.starts("a"), [0]);
    assert!(sim.starts("web").len() > 4 && sim.starts("side").len() > 4);
}

#[test]
fn regular_containers_start_in_a_row_and_an_error_of_one_does_not_block_the_next() {
    let slow = Guest { start: vec![Try::good(secs(3))], ..Guest::default() };
    let missing = Guest { prepare: vec![Try::bad("ErrImagePull")], ..Guest::default() };
    let sim = World::new(pod([regular("a"), regular("b"), regular("c")]))
        .guest("a", slow)
        .guest("b", missing)
        .start()
        .until(5);
    assert_eq!((sim.starts("a"), sim.starts("b"), sim.starts("c")), (vec![0], vec![], vec![3]));
    assert_eq!(sim.status().phase, PodPhase::Pending, "one has never started");
}

#[test]
fn a_restart_waits_for_no_other_container() {
    let hooked = regular("slow").tweak(|c| c.hooks.post_start = Some(hook()));
    let slow = Guest { post_start: Try::good(secs(1000)), ..Guest::default() };
    let sim = World::new(pod([regular("web"), hooked]))
        .guest("web", Guest::exits(secs(5), 1))
        .guest("slow", slow)
        .start()
        .until(30);
    assert_eq!(sim.starts("web"), [0, 5, 20]);
}

#[test]
fn nothing_starts_before_the_sandbox_stands() {
    let sim: Sim =
        World::new(pod([regular("web")])).sandbox(vec![Try::good(secs(7))]).start().until(30);
    assert_eq!(sim.starts("web"), [7]);
    let ready = sim.status().condition(ConditionKind::PodReadyToStartContainers).unwrap().clone();
    assert_eq!((ready.status, ready.last_transition.wall_ms()), (true, 7000));
    assert!(sim.status().pod_ip.is_some());
}

#[test]
fn a_sandbox_that_fails_is_tried_again_with_growing_delays_and_says_why() {
    let mut tries = vec![Try::bad("FailedMount"); 3];
    tries.push(Try::default());
    let sim = World::new(pod([regular("web")])).sandbox(tries).start().until(60);
    // 0.5 + 1 + 2 seconds.
    assert_eq!(sim.when(|a| *a == crate::lifecycle::Action::SetUpSandbox), [0, 0, 1, 3]);
    assert_eq!(sim.starts("web"), [3]);
    assert_eq!(sim.said("FailedMount"), ["because"; 3]);
    assert_eq!(sim.phases(), [(0, PodPhase::Pending), (3, PodPhase::Running)]);
}
