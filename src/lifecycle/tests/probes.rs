//! Startup, liveness and readiness.

use crate::lifecycle::{Action, ConditionKind, Event, PodPhase, ProbeOutcome, RunId, Timer};
use crate::spec::{Container, ContainerName, Exit, ProbeKind, RestartPolicy};
use crate::testkit::pods::{Tweak, pod, probe, regular, secs, sidecar, threshold};
use crate::testkit::sim::{Answers, Guest, OnStop, Sim, Try, World};

use ProbeKind::{Liveness, Readiness, Startup};

fn web(change: impl FnOnce(&mut Container), guest: Guest) -> Sim {
    World::new(pod([regular("web").tweak(change)])).guest("web", guest).start()
}

fn good_until(seconds: u64) -> Answers {
    Answers { good_until: secs(seconds), ..Answers::default() }
}

fn good_from(seconds: u64) -> Answers {
    Answers { good_from: secs(seconds), ..Answers::default() }
}

/// Started three seconds after the pod was taken on.
fn slow_start() -> Guest {
    Guest { start: vec![Try::good(secs(3))], ..Guest::default() }
}

#[test]
fn the_first_probe_comes_at_the_first_tick_after_the_initial_delay() {
    for (delay, period, expected) in
        [(0, 10, [10, 20]), (0, 5, [5, 10]), (2, 5, [5, 10]), (3, 5, [10, 15]), (20, 10, [30, 40])]
    {
        let sim = web(
            |c| c.liveness = Some(probe(period).tweak(|p| p.initial_delay = secs(delay))),
            slow_start(),
        );
        let probed = sim.until(45).probed("web", Liveness);
        assert_eq!(probed[..2], expected, "initial delay {delay}, period {period}");
    }
}

#[test]
fn readiness_is_asked_at_once_when_the_container_has_started() {
    let sim = web(|c| c.readiness = Some(probe(30)), slow_start()).until(40);
    assert_eq!(sim.probed("web", Readiness), [3, 33]);
    let ready = sim.status().condition(ConditionKind::Ready).unwrap().clone();
    assert_eq!((ready.status, ready.last_transition.wall_ms()), (true, 3000));
}

#[test]
fn readiness_follows_startup_success_at_once_and_the_others_wait_for_it() {
    let guest = Guest { startup: good_from(10), ..Guest::default() };
    let sim = web(
        |c| {
            c.startup = Some(probe(2).tweak(|p| p.failure_threshold = threshold(30)));
            c.liveness = Some(probe(3));
            c.readiness = Some(probe(30));
        },
        guest,
    )
    .until(20);
    assert_eq!(sim.probed("web", Startup), [0, 2, 4, 6, 8, 10]);
    assert_eq!(sim.probed("web", Liveness), [12, 15, 18]);
    assert_eq!(sim.probed("web", Readiness), [10]);
    assert_eq!(sim.status_at(9).container("web").unwrap().started, Some(false));
    assert_eq!(sim.status().container("web").unwrap().started, Some(true));
}

#[test]
fn three_liveness_failures_in_a_row_restart_the_container() {
    let guest = Guest { liveness: good_until(25), ..Guest::default() };
    let sim = web(|c| c.liveness = Some(probe(10)), guest).until(60);
    assert_eq!(sim.asked("web"), [50]);
    assert_eq!(sim.starts("web"), [0, 50]);
    assert_eq!(sim.said("Unhealthy"), ["Liveness probe failed: no"; 3]);
    let first_run = |action: &Action| matches!(action, Action::ArmTimer { timer: Timer::Probe(run, Liveness), .. } if run.attempt == 0);
    assert_eq!(sim.when(first_run).len(), 6, "one for each probe, none after the verdict");
    assert_eq!(sim.said("Killing"), ["Container web failed liveness probe, will be restarted"]);
    let status = sim.status();
    let last = status.container("web").unwrap().last.clone().unwrap();
    assert_eq!((last.exit_code, &*last.reason), (143, "Error"));
}

#[test]
fn a_success_between_two_failures_starts_the_count_again() {
    let (fail, good) = (ProbeOutcome::Failure("no".into()), ProbeOutcome::Success);
    let first = vec![fail.clone(), fail.clone(), good, fail.clone(), fail];
    let guest = Guest { liveness: Answers { first, ..Answers::default() }, ..Guest::default() };
    let sim = web(|c| c.liveness = Some(probe(10)), guest).until(100);
    assert_eq!(sim.asked("web"), [0; 0]);
    assert_eq!(sim.said("Unhealthy").len(), 4);
}

#[test]
fn the_kill_messages_are_kubernetes_own() {
    for (container, policy, guest, expected) in [
        (
            regular("c"),
            RestartPolicy::Always,
            "l",
            "Container c failed liveness probe, will be restarted",
        ),
        (regular("c"), RestartPolicy::Never, "l", "Container c failed liveness probe"),
        (
            regular("c"),
            RestartPolicy::OnFailure,
            "s",
            "Container c failed startup probe, will be restarted",
        ),
        (sidecar("c"), RestartPolicy::Always, "l", "Init container c failed liveness probe"),
        (sidecar("c"), RestartPolicy::Never, "s", "Init container c failed startup probe"),
    ] {
        let bad = good_until(0);
        let (container, guest) = if guest == "l" {
            let c = container.tweak(|c| c.liveness = Some(probe(1)));
            (c, Guest { liveness: bad, ..Guest::default() })
        } else {
            let c = container.tweak(|c| c.startup = Some(probe(1)));
            (c, Guest { startup: bad, ..Guest::default() })
        };
        let pod = pod([container, regular("other")]).tweak(|pod| pod.restart_policy = policy);
        let sim = World::new(pod).guest("c", guest).start().until(4);
        assert_eq!(sim.said("Killing").first(), Some(&expected));
    }
}

#[test]
fn a_startup_probe_that_never_succeeds_kills_after_its_threshold_and_backs_off() {
    let guest = Guest { startup: good_until(0), ..Guest::default() };
    let sim = web(|c| c.startup = Some(probe(10)), guest).until(100);
    // Failures at 0, 10, 20; then at 20, 30, 40 and ten seconds of back-off; then at 50, 60, 70 and twenty.
    assert_eq!(sim.starts("web"), [0, 20, 50, 90]);
}

#[test]
fn a_probe_that_failed_under_never_ends_the_pod() {
    let pod = pod([regular("web").tweak(|c| c.liveness = Some(probe(1)))])
        .tweak(|pod| pod.restart_policy = RestartPolicy::Never);
    let guest = Guest { liveness: good_until(0), ..Guest::default() };
    let sim = World::new(pod).guest("web", guest).start().until(60);
    assert_eq!(sim.starts("web"), [0]);
    assert_eq!(sim.status().phase, PodPhase::Failed);
}

#[test]
fn a_failed_liveness_probe_restarts_under_on_failure_even_a_module_that_returned_zero() {
    let pod = pod([regular("web").tweak(|c| c.liveness = Some(probe(1)))])
        .tweak(|pod| pod.restart_policy = RestartPolicy::OnFailure);
    let guest = Guest { liveness: good_until(0), ..Guest::default() }
        .on_stop(OnStop::Returns { after: secs(1), code: 0 });
    let sim = World::new(pod).guest("web", guest).start().until(6);
    assert_eq!(sim.starts("web"), [0, 3]);
    let phases: Vec<_> = sim.phases().into_iter().map(|(_, phase)| phase).collect();
    assert!(!phases.iter().any(|phase| phase.is_terminal()), "{phases:?}");
}

#[test]
fn a_probes_own_grace_outranks_the_pods() {
    let guest = |own| {
        let guest = Guest { liveness: good_until(0), ..Guest::default() }.on_stop(OnStop::Ignores);
        web(|c| c.liveness = Some(probe(10).tweak(|p| p.grace = own)), guest).until(70)
    };
    assert_eq!(guest(None).killed("web")[..1], [50], "30 s of the pod's");
    assert_eq!(guest(Some(secs(5))).killed("web")[..1], [25]);
    assert_eq!(guest(Some(secs(1))).killed("web")[..1], [22], "never less than two seconds");
}

#[test]
fn readiness_decides_only_about_ready() {
    let guest = Guest { readiness: good_until(20), ..Guest::default() };
    let sim = web(|c| c.readiness = Some(probe(5)), guest).until(100);
    assert_eq!((sim.asked("web"), sim.starts("web")), (vec![], vec![0]));
    assert!(sim.status_at(25).is_ready(), "two failures are not three");
    assert!(!sim.status_at(31).is_ready());
    let condition = sim.status().condition(ConditionKind::Ready).unwrap().clone();
    assert_eq!(condition.reason, Some("ContainersNotReady"));
    assert_eq!(condition.message.as_deref(), Some("containers with unready status: [web]"));
}

#[test]
fn success_thresholds_count_too() {
    let sim = web(
        |c| c.readiness = Some(probe(5).tweak(|p| p.success_threshold = threshold(3))),
        Guest::default(),
    )
    .until(20);
    let ready = sim.status().condition(ConditionKind::Ready).unwrap().clone();
    assert_eq!((ready.status, ready.last_transition.wall_ms()), (true, 10_000));
}

#[test]
fn a_probe_that_cannot_be_performed_says_nothing_about_the_module() {
    let first = vec![ProbeOutcome::Error("cannot".into()); 61];
    let guest = Guest { liveness: Answers { first, ..Answers::default() }, ..Guest::default() };
    let sim = web(|c| c.liveness = Some(probe(1)), guest).until(60);
    assert_eq!(sim.asked("web"), [0; 0]);
    assert_eq!(
        sim.said("Unhealthy")[0],
        "Liveness probe errored and resulted in unknown state: cannot"
    );
}

#[test]
fn a_warning_is_a_success_with_an_event() {
    let first = vec![ProbeOutcome::Warning("redirect".into())];
    let guest = Guest { readiness: Answers { first, ..Answers::default() }, ..Guest::default() };
    let sim = web(|c| c.readiness = Some(probe(10)), guest).until(5);
    assert_eq!(sim.said("ProbeWarning"), ["Readiness probe warning: redirect"]);
    assert!(sim.status().is_ready());
}

#[test]
fn a_slow_probe_is_asked_again_as_soon_as_it_has_answered_and_never_twice_at_once() {
    let answers = Answers { takes: secs(7), ..Answers::default() };
    let guest = Guest { liveness: answers, ..Guest::default() };
    let sim = web(|c| c.liveness = Some(probe(5)), guest).until(40);
    // Ticks at 0, 5, 10, …: one that passes while a probe is under way is kept, more than one is not.
    assert_eq!(sim.probed("web", Liveness), [0, 7, 14, 21, 28, 35]);
}

#[test]
fn a_pod_that_ends_is_asked_for_readiness_only() {
    let bad_soon = good_until(12);
    let guest = Guest { readiness: bad_soon.clone(), liveness: bad_soon, ..Guest::default() }
        .on_stop(OnStop::Ignores);
    let sim = web(
        |c| {
            c.liveness = Some(probe(1));
            c.readiness = Some(probe(1));
        },
        guest,
    )
    .deleted_at(10)
    .until(100);
    assert_eq!(sim.probed("web", Liveness).last(), Some(&9));
    assert_eq!(sim.probed("web", Readiness).last(), Some(&40));
    assert!(sim.status_at(13).is_ready());
    let unready = sim.status_at(15);
    assert!(!unready.is_ready() && unready.container("web").unwrap().state.is_running());
}

#[test]
fn probes_begin_anew_with_each_run() {
    let guest = Guest {
        lives: vec![(Some(secs(12)), Exit::Code(1)), (None, Exit::Code(0))],
        startup: good_from(3),
        ..Guest::default()
    };
    let sim = web(
        |c| {
            c.startup = Some(probe(1).tweak(|p| p.failure_threshold = threshold(10)));
            c.readiness = Some(probe(10));
        },
        guest,
    )
    .until(30);
    assert!(!sim.status_at(13).is_ready(), "a new run is not ready before it was asked");
    assert_eq!(sim.probed("web", Startup), [0, 1, 2, 3, 12, 13, 14, 15]);
    assert_eq!(sim.probed("web", Readiness), [3, 15, 25]);
}

#[test]
fn an_answer_that_nobody_asked_for_says_nothing() {
    let mut sim = web(|c| c.liveness = Some(probe(10)), Guest::default()).until(15);
    let run = RunId { container: ContainerName::new("web"), attempt: 0 };
    for outcome in [ProbeOutcome::Failure("no".into()), ProbeOutcome::Success] {
        for kind in [Startup, Liveness, Readiness] {
            sim.step_stale(Event::ProbeDone { run: run.clone(), kind, outcome: outcome.clone() });
        }
    }
    sim.step_stale(Event::TimerFired { timer: Timer::Probe(run, Liveness) });
}
