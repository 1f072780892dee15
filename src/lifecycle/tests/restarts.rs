//! Restart policies, rules, and `CrashLoopBackOff`.

use crate::lifecycle::restart::{Cause, Decision, decide};
use crate::lifecycle::{ContainerState, Event, PodPhase, RunId, Timer};
use crate::spec::{
    Container, ContainerName, ContainerRestartPolicy, Exit, RestartPolicy, RestartRule, RuleAction,
};
use crate::testkit::pods::{Tweak, init, pod, regular, rule, secs, sidecar};
use crate::testkit::sim::{Guest, Sim, Try, World};

use RestartPolicy::{Always, Never, OnFailure};

fn crasher(policy: RestartPolicy, guest: Guest) -> Sim {
    let pod = pod([regular("web")]).tweak(|pod| pod.restart_policy = policy);
    World::new(pod).guest("web", guest).start()
}

fn start_times(policy: RestartPolicy, life: u64, code: i32, until: u64) -> Vec<u64> {
    crasher(policy, Guest::exits(secs(life), code)).until(until).starts("web")
}

#[test]
fn a_quarter_of_an_hour_of_crash_looping_has_kubernetes_start_times() {
    assert_eq!(start_times(Always, 0, 1, 1000), [0, 0, 10, 30, 70, 150, 310, 610, 910]);
    assert_eq!(start_times(OnFailure, 0, 1, 400), [0, 0, 10, 30, 70, 150, 310]);
    assert_eq!(start_times(Always, 0, 0, 100), [0, 0, 10, 30, 70], "success is backed off, too");
    assert_eq!(start_times(OnFailure, 0, 0, 100), [0]);
    assert_eq!(start_times(Never, 0, 1, 100), [0]);
}

/// A gateway without a battery begins in 1970, hears the time from the network, and may be set back by a wrong one.
#[test]
fn a_wall_clock_that_jumps_restarts_nothing_and_breaks_no_back_off() {
    const NOW_MS: i64 = 1_795_250_000_000;
    let jumps = vec![(secs(25), NOW_MS), (secs(200), 0), (secs(320), NOW_MS)];
    let mut crashing = crasher(Always, Guest::exits(secs(0), 1));
    crashing.clock_set.clone_from(&jumps);
    let crashing = crashing.until(1000);
    assert_eq!(crashing.starts("web"), [0, 0, 10, 30, 70, 150, 310, 610, 910]);
    let status = crashing.status();
    let last = status.container("web").unwrap().last.as_ref().unwrap();
    assert_eq!(last.finished_at.wall_ms(), NOW_MS + 590_000, "shown as the clock was then");
    // Ten minutes of life are forgiven by the time that has passed, and not by the one that is shown.
    let mut short = crasher(Always, Guest::exits(secs(30), 1));
    short.clock_set.clone_from(&jumps);
    assert_eq!(short.until(500).starts("web"), start_times(Always, 30, 1, 500));
    let probed =
        pod([regular("web").tweak(|c| c.liveness = Some(crate::testkit::pods::probe(10)))])
            .tweak(|pod| pod.active_deadline = Some(secs(3600)));
    let mut living = World::new(probed).start();
    living.clock_set = jumps;
    let mut living = living.until(3599);
    assert_eq!(living.starts("web"), [0]);
    assert_eq!(living.status().phase, PodPhase::Running);
    living.run_until(secs(3601));
    assert_eq!(
        living.status().phase,
        PodPhase::Failed,
        "the deadline is an hour of the node's own"
    );
}

#[test]
fn each_gap_is_measured_from_the_previous_exit() {
    assert_eq!(start_times(Always, 5, 1, 100), [0, 5, 20, 45, 90]);
}

#[test]
fn ten_minutes_of_life_are_forgiven_and_nine_are_not() {
    assert_eq!(start_times(Always, 601, 1, 2000), [0, 601, 1202, 1803]);
    assert_eq!(start_times(Always, 540, 1, 1700), [0, 540, 1090, 1650]);
    assert_eq!(start_times(Always, 600, 1, 1900), [0, 600, 1210, 1830]);
}

#[test]
fn the_first_restart_is_immediate_and_the_second_waits_in_crash_loop_back_off() {
    let sim = crasher(Always, Guest::exits(secs(0), 3)).until(5);
    let status = sim.status();
    let web = status.container("web").unwrap();
    let ContainerState::Waiting { reason, message } = &web.state else { panic!("{web:?}") };
    assert_eq!(*reason, "CrashLoopBackOff");
    let text = "back-off 10s restarting failed container=web pod=p_default(u1)";
    assert_eq!(message.as_deref(), Some(text));
    assert_eq!((web.restart_count, web.ready, web.started), (1, false, Some(false)));
    let last = web.last.as_ref().unwrap();
    assert_eq!((last.exit_code, &*last.reason), (3, "Error"));
    assert_eq!(last.container_id.as_deref(), Some("podling://u1/web/1"));
    assert_eq!(
        sim.said("BackOff"),
        ["Back-off restarting failed container web in pod p_default(u1)"]
    );
    assert_eq!(status.phase, PodPhase::Running, "a crash loop is Running");
    let waits: Vec<String> = crasher(Always, Guest::exits(secs(0), 3))
        .until(700)
        .statuses
        .iter()
        .filter_map(|(_, status)| match &status.container("web").unwrap().state {
            ContainerState::Waiting { reason: "CrashLoopBackOff", message } => message.clone(),
            _ => None,
        })
        .map(|text| text.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(waits, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
}

#[test]
fn a_container_backs_off_alone() {
    let pod = pod([regular("bad"), regular("good"), sidecar("side")]);
    let sim = World::new(pod).guest("bad", Guest::exits(secs(1), 1)).start().until(1000);
    assert!(sim.starts("bad").len() > 5);
    assert_eq!((sim.starts("good"), sim.starts("side")), (vec![0], vec![0]));
}

#[test]
fn every_way_to_crash_shows_its_reason_and_code() {
    let cases = [
        (Exit::Code(1), 1, "Error", None),
        (Exit::Code(0), 0, "Completed", None),
        (Exit::Trapped { message: "unreachable".into() }, 134, "Trapped", Some("unreachable")),
        (Exit::OutOfMemory { message: "64 MiB".into() }, 137, "OOMKilled", Some("64 MiB")),
        (
            Exit::OutOfFuel,
            137,
            "OutOfFuel",
            Some("the module used up its fuel (limits[podling.dev/fuel])"),
        ),
        (
            Exit::Killed,
            137,
            "Error",
            Some("the module had not ended when its grace period was over, and was killed"),
        ),
        (Exit::Terminated, 143, "Error", None),
        (Exit::Lost { message: "bug".into() }, 137, "ContainerStatusUnknown", Some("bug")),
    ];
    for (exit, code, reason, message) in cases {
        let guest = Guest { lives: vec![(Some(secs(2)), exit)], ..Guest::default() };
        let status = crasher(Never, guest).until(10).status();
        let web = status.container("web").unwrap();
        let end = web.state.terminated().unwrap();
        assert_eq!((end.exit_code, &*end.reason, end.message.as_deref()), (code, reason, message));
        assert_eq!(end.finished_at.since(end.started_at), secs(2));
        let phase = if code == 0 { PodPhase::Succeeded } else { PodPhase::Failed };
        assert_eq!(status.phase, phase);
    }
}

#[test]
fn a_long_trap_message_is_cut_at_4096_bytes_between_characters() {
    let exit = Exit::Trapped { message: "é".repeat(3000) };
    let guest = Guest { lives: vec![(Some(secs(0)), exit)], ..Guest::default() };
    let status = crasher(Never, guest).until(1).status();
    let message = status.container("web").unwrap().state.terminated().unwrap().message.clone();
    assert_eq!(message.unwrap().len(), 4096);
}

#[test]
fn messages_of_all_containers_together_stay_below_12_kib() {
    let names = ["a", "b", "c", "d"];
    let pod = pod(names.map(regular)).tweak(|pod| pod.restart_policy = Never);
    let mut world = World::new(pod);
    for name in names {
        let exit = Exit::Trapped { message: "x".repeat(4096) };
        world = world.guest(name, Guest { lives: vec![(Some(secs(0)), exit)], ..Guest::default() });
    }
    let status = world.start().until(1).status();
    let lengths: Vec<usize> = status
        .all_containers()
        .map(|c| c.state.terminated().unwrap().message.as_ref().unwrap().len())
        .collect();
    assert_eq!(lengths, [3072; 4]);
}

#[test]
fn policy_kind_and_rules_decide_in_kubernetes_order() {
    use Decision::{Restart, RestartAll, Stay};
    type Change = fn(&mut Container);
    let plain: Change = |_| {};
    let own_never: Change = |c| c.restart_policy = Some(ContainerRestartPolicy::Never);
    let own_always: Change = |c| c.restart_policy = Some(ContainerRestartPolicy::Always);
    let ruled: Change = |c| {
        c.restart_policy = Some(ContainerRestartPolicy::Never);
        c.restart_rules = vec![
            rule(RuleAction::Restart, &[42]),
            rule(RuleAction::RestartAllContainers, &[42, 43]),
        ];
    };
    let not_in: Change = |c| {
        c.restart_policy = Some(ContainerRestartPolicy::Never);
        let (action, codes) = (RuleAction::Restart, vec![0, 1]);
        c.restart_rules = vec![RestartRule { action, within: false, codes }];
    };
    for (policy, container, change, code, cause, expected) in [
        (Always, regular("c"), plain, 0, Cause::Exit, Restart),
        (OnFailure, regular("c"), plain, 0, Cause::Exit, Stay),
        (OnFailure, regular("c"), plain, 1, Cause::Exit, Restart),
        (OnFailure, regular("c"), plain, 0, Cause::Probe, Restart),
        (Never, regular("c"), plain, 1, Cause::Exit, Stay),
        (Never, regular("c"), plain, 1, Cause::Probe, Stay),
        // The container's own policy outranks the pod's.
        (Always, regular("c"), own_never, 1, Cause::Exit, Stay),
        (Never, regular("c"), own_always, 0, Cause::Exit, Restart),
        // A completed init container is done under every policy.
        (Always, init("c"), plain, 0, Cause::Exit, Stay),
        (Always, init("c"), plain, 1, Cause::Exit, Restart),
        (Never, init("c"), plain, 1, Cause::Exit, Stay),
        // A sidecar always comes back.
        (Never, sidecar("c"), plain, 0, Cause::Exit, Restart),
        (Never, sidecar("c"), plain, 1, Cause::Probe, Restart),
        // The first rule that matches wins; no match falls through to the policy; probes ask no rules.
        (Always, regular("c"), ruled, 42, Cause::Exit, Restart),
        (Always, regular("c"), ruled, 43, Cause::Exit, RestartAll),
        (Always, regular("c"), ruled, 44, Cause::Exit, Stay),
        (Always, regular("c"), ruled, 42, Cause::Probe, Stay),
        (Always, regular("c"), not_in, 2, Cause::Exit, Restart),
        (Always, regular("c"), not_in, 1, Cause::Exit, Stay),
    ] {
        let container = container.tweak(change);
        let decision = decide(policy, &container, code, cause);
        assert_eq!(decision, expected, "{policy:?} {:?} {code} {cause:?}", container.kind);
    }
}

#[test]
fn restart_all_runs_every_container_again_from_the_first_init_container_in_the_same_sandbox() {
    let trigger = regular("web").tweak(|c| {
        c.restart_policy = Some(ContainerRestartPolicy::Never);
        c.restart_rules = vec![rule(RuleAction::RestartAllContainers, &[42])];
    });
    let pod = pod([init("setup"), sidecar("side"), trigger, regular("other")]);
    let web = Guest {
        lives: vec![(Some(secs(5)), Exit::Code(42)), (None, Exit::Code(0))],
        ..Guest::default()
    };
    let sim = World::new(pod)
        .guest("setup", Guest::exits(secs(0), 0))
        .guest("web", web)
        .start()
        .until(100);
    for name in ["setup", "side", "web", "other"] {
        assert_eq!(sim.starts(name), [0, 6], "{name}: a second's pause, no back-off");
        assert_eq!(sim.status().container(name).unwrap().restart_count, 1, "{name}");
    }
    let status = sim.status();
    let victim = status.container("other").unwrap().last.clone().unwrap();
    assert_eq!((victim.exit_code, &*victim.reason), (137, "RestartingAllContainers"));
    let source = status.container("web").unwrap().last.clone().unwrap();
    assert_eq!((source.exit_code, &*source.reason), (42, "Error"));
    assert_eq!(sim.when(|a| *a == crate::lifecycle::Action::SetUpSandbox), [0]);
    use PodPhase::{Pending, Running};
    assert_eq!(sim.phases(), [(0, Pending), (0, Running), (5, Pending), (6, Running)]);
    assert!(status.is_ready());
}

#[test]
fn a_round_of_restarting_all_keeps_the_order_of_starts() {
    let trigger = regular("web").tweak(|c| {
        c.restart_rules = vec![rule(RuleAction::RestartAllContainers, &[42])];
    });
    let slow = Guest { start: vec![Try::good(secs(3))], ..Guest::default() };
    let web = Guest {
        lives: vec![(Some(secs(5)), Exit::Code(42)), (None, Exit::Code(0))],
        start: vec![Try::good(secs(2))],
        ..Guest::default()
    };
    let sim = World::new(pod([sidecar("side"), init("setup"), trigger, regular("last")]))
        .guest("side", slow)
        .guest("setup", Guest::exits(secs(1), 0))
        .guest("web", web)
        .start()
        .until(100);
    // First round: 0, 3, 4, 6. The module exits at 11; a second later it all begins anew.
    let starts = ["side", "setup", "web", "last"].map(|name| sim.starts(name));
    assert_eq!(starts, [[0, 12], [3, 15], [4, 16], [6, 18]]);
}

#[test]
fn a_timer_that_is_early_or_names_another_run_changes_nothing() {
    let mut sim = crasher(Always, Guest::exits(secs(0), 1));
    sim.run_until(secs(5));
    let timer = |attempt| {
        let run = RunId { container: ContainerName::new("web"), attempt };
        Event::TimerFired { timer: Timer::Backoff(run) }
    };
    for attempt in 0..4 {
        sim.step_stale(timer(attempt));
    }
    // At its own time, only the right one counts.
    sim.run_until(secs(10) - std::time::Duration::from_millis(1));
    sim.state = {
        let mut state = sim.state.clone();
        for attempt in [0, 1, 3] {
            let at = crate::clock::Timestamp::simulated(secs(10));
            assert_eq!(state.step(at, timer(attempt)), []);
        }
        assert_eq!(state, sim.state);
        state
    };
    assert_eq!(sim.until(11).starts("web"), [0, 0, 10]);
}

#[test]
fn a_run_that_ends_before_its_start_was_reported_has_begun_and_ended() {
    let slow = Guest { start: vec![Try::good(secs(500))], ..Guest::default() };
    let mut sim = crasher(Never, slow);
    sim.run_until(secs(3));
    let run = RunId { container: ContainerName::new("web"), attempt: 0 };
    sim.step(Event::Exited { run, exit: Exit::Code(3), message: "gone".to_owned() });
    let status = sim.status();
    let end = status.container("web").unwrap().state.terminated().unwrap().clone();
    assert_eq!((end.exit_code, end.message.as_deref()), (3, Some("gone")));
    assert_eq!(status.phase, PodPhase::Failed);
}
