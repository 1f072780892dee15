//! How a pod is told to stop, and how its containers go.

use std::time::Duration;

use crate::lifecycle::{Action, Event, HookKind, PodPhase, StopReason};
use crate::spec::{Container, Exit, RestartPolicy};
use crate::testkit::pods::{Tweak, hook, init, pod, probe, regular, secs, sidecar};
use crate::testkit::sim::{Answers, Guest, OnStop, Sim, Try, World};

fn stop(grace: Option<u64>, why: StopReason) -> Event {
    Event::Stop { grace: grace.map(secs), why }
}

fn delete(grace: u64) -> Event {
    stop(Some(grace), StopReason::Deleted)
}

fn deaf() -> Guest {
    Guest::default().on_stop(OnStop::Ignores)
}

fn polite(after: u64, code: i32) -> Guest {
    Guest::default().on_stop(OnStop::Returns { after: secs(after), code })
}

fn web(guest: Guest) -> Sim {
    World::new(pod([regular("web")])).guest("web", guest).start()
}

fn hooked(pre_stop: Try) -> (Container, Guest) {
    let container = regular("web").tweak(|c| c.hooks.pre_stop = Some(hook()));
    (container, Guest { pre_stop, ..deaf() })
}

fn torn_down(sim: &Sim) -> Vec<u64> {
    sim.when(|action| *action == Action::TearDownSandbox)
}

fn end(sim: &Sim, name: &str) -> (i32, String) {
    let status = sim.status();
    let end = status.container(name).unwrap().state.terminated().unwrap().clone();
    (end.exit_code, end.reason.into_owned())
}

#[test]
fn a_module_that_does_not_listen_ends_at_once_with_143() {
    let sim = web(Guest::default()).deleted_at(10).until(60);
    assert_eq!(
        (sim.asked("web"), sim.killed("web"), torn_down(&sim)),
        (vec![10], vec![], vec![10])
    );
    assert_eq!(end(&sim, "web"), (143, "Error".to_owned()));
    assert_eq!(sim.status().phase, PodPhase::Failed);
    assert_eq!(sim.said("Killing"), ["Stopping container web"]);
    assert!(sim.state.is_finished() && sim.is_at_rest());
}

#[test]
fn a_module_that_tidies_up_ends_with_its_own_code() {
    let sim = web(polite(4, 0)).deleted_at(10).until(60);
    assert_eq!((end(&sim, "web").0, torn_down(&sim)), (0, vec![14]));
    assert_eq!(sim.status().phase, PodPhase::Succeeded, "all containers ended with 0");
    let failed = web(polite(4, 3)).deleted_at(10).until(60);
    assert_eq!(failed.status().phase, PodPhase::Failed);
}

#[test]
fn a_module_that_ignores_the_request_is_killed_when_its_grace_is_over() {
    let sim = web(deaf()).deleted_at(10).until(60);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![10], vec![40]));
    assert_eq!(end(&sim, "web"), (137, "Error".to_owned()));
}

#[test]
fn grace_may_shrink_and_never_grows() {
    for (second, expected) in [(5, 17), (100, 40), (0, 14), (1, 14)] {
        let sim = web(deaf()).deleted_at(10).at(12, delete(second)).until(200);
        assert_eq!(sim.killed("web"), [expected], "30 s at 10, then {second} s at 12");
    }
}

#[test]
fn a_stop_without_grace_leaves_two_seconds_and_runs_no_hook() {
    let (container, guest) = hooked(Try::default());
    let sim = World::new(pod([container])).guest("web", guest).start().at(10, delete(0)).until(60);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![10], vec![12]));
    assert_eq!(hooks(&sim), []);
}

fn hooks(sim: &Sim) -> Vec<(u64, Duration)> {
    sim.log
        .iter()
        .filter_map(|(at, action)| match action {
            Action::RunHook { hook: HookKind::PreStop, within, .. } => {
                Some((at.as_secs(), *within))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn the_pre_stop_hook_eats_from_the_grace() {
    for (takes, asked, killed) in [(0, 10, 40), (12, 22, 40), (29, 39, 41), (100, 40, 42)] {
        let (container, guest) = hooked(Try::good(secs(takes)));
        let sim = World::new(pod([container])).guest("web", guest).start().deleted_at(10).until(90);
        assert_eq!(hooks(&sim), [(10, secs(30))]);
        assert_eq!(
            (sim.asked("web"), sim.killed("web")),
            (vec![asked], vec![killed]),
            "a hook of {takes} s"
        );
    }
}

#[test]
fn a_failing_pre_stop_hook_is_told_and_the_stop_goes_on() {
    let (container, guest) = hooked(Try::bad("refused"));
    let sim = World::new(pod([container])).guest("web", guest).start().deleted_at(10).until(90);
    assert_eq!(sim.said("FailedPreStopHook"), ["PreStopHook failed"]);
    assert_eq!(sim.asked("web"), [10]);
}

#[test]
fn a_shorter_grace_cuts_a_running_pre_stop_hook() {
    let (container, guest) = hooked(Try::good(secs(100)));
    let sim = World::new(pod([container]))
        .guest("web", guest)
        .start()
        .deleted_at(10)
        .at(12, delete(3))
        .until(90);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![15], vec![17]));
}

#[test]
fn no_pre_stop_hook_for_a_module_that_ends_by_itself() {
    let (container, _) = hooked(Try::default());
    let sim = World::new(pod([container])).guest("web", Guest::exits(secs(5), 1)).start().until(30);
    assert_eq!(hooks(&sim), []);
}

#[test]
fn sidecars_stop_last_and_in_reverse_order() {
    let pod = pod([sidecar("first"), sidecar("second"), regular("a"), regular("b")]);
    let sim = World::new(pod)
        .guest("first", polite(1, 0))
        .guest("second", polite(2, 0))
        .guest("a", polite(3, 0))
        .guest("b", polite(5, 0))
        .start()
        .deleted_at(10)
        .until(90);
    let asked = ["a", "b", "second", "first"].map(|name| sim.asked(name)[0]);
    assert_eq!((asked, torn_down(&sim)), ([10, 10, 15, 17], vec![18]));
}

#[test]
fn a_sidecar_waits_no_longer_than_the_grace() {
    let pod = pod([sidecar("side"), regular("web")]);
    let sim =
        World::new(pod).guest("side", deaf()).guest("web", deaf()).start().deleted_at(10).until(90);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![10], vec![40]));
    assert_eq!((sim.asked("side"), sim.killed("side")), (vec![40], vec![42]));
}

#[test]
fn without_grace_sidecars_are_stopped_at_once() {
    let pod = pod([sidecar("side"), regular("web")]);
    let sim = World::new(pod).guest("web", deaf()).start().at(10, delete(0)).until(90);
    assert_eq!((sim.asked("side"), sim.killed("web")), (vec![10], vec![12]));
}

#[test]
fn pre_stop_hooks_of_all_containers_start_at_once() {
    let side = sidecar("side").tweak(|c| c.hooks.pre_stop = Some(hook()));
    let (container, guest) = hooked(Try::good(secs(5)));
    let side_guest = Guest { pre_stop: Try::good(secs(1)), ..polite(1, 0) };
    let sim = World::new(pod([side, container]))
        .guest("web", Guest { on_stop: OnStop::Dies, ..guest })
        .guest("side", side_guest)
        .start()
        .deleted_at(10)
        .until(90);
    assert_eq!(hooks(&sim), [(10, secs(30)), (10, secs(30))]);
    assert_eq!((sim.asked("web"), sim.asked("side")), (vec![15], vec![15]));
}

#[test]
fn a_pod_deleted_while_it_pulls_waits_or_backs_off_is_gone_at_once() {
    let slow_pull = Guest { prepare: vec![Try::good(secs(100))], ..Guest::default() };
    let no_pull = Guest { prepare: vec![Try::bad("ErrImagePull")], ..Guest::default() };
    let no_config =
        Guest { start: vec![Try::bad("CreateContainerConfigError")], ..Guest::default() };
    for (what, guest, phase) in [
        ("pulling", slow_pull, PodPhase::Failed),
        ("image back-off", no_pull, PodPhase::Failed),
        ("config error", no_config, PodPhase::Failed),
        ("crash loop", Guest::exits(secs(0), 1), PodPhase::Failed),
        ("crash loop of successes", Guest::exits(secs(0), 0), PodPhase::Succeeded),
    ] {
        let sim = web(guest).deleted_at(15).until(1000);
        assert_eq!((torn_down(&sim), sim.status().phase), (vec![15], phase), "{what}");
        assert!(sim.state.is_finished() && sim.is_at_rest(), "{what}");
    }
}

#[test]
fn a_container_that_never_started_is_shown_as_lost_when_its_pod_is_gone() {
    let slow_pull = Guest { prepare: vec![Try::good(secs(100))], ..Guest::default() };
    let sim = web(slow_pull).deleted_at(15).until(600);
    let status = sim.status();
    let lost = status.container("web").unwrap().state.terminated().unwrap();
    assert_eq!((lost.exit_code, &*lost.reason), (137, "ContainerStatusUnknown"));
    let text = "The container could not be located when the pod was terminated";
    assert_eq!(lost.message.as_deref(), Some(text));
}

#[test]
fn a_start_under_way_is_given_up_or_else_stopped_when_it_has_come_about() {
    let slow = Guest { start: vec![Try::good(secs(8))], ..Guest::default() };
    for (gives_up, gone) in [(true, 10), (false, 13)] {
        let mut world = World::new(pod([regular("web")])).guest("web", slow.clone());
        world.gives_up_starts = gives_up;
        let sim = world.sandbox(vec![Try::good(secs(5))]).start().deleted_at(10).until(90);
        assert_eq!((sim.asked("web")[0], torn_down(&sim)), (10, vec![gone]), "{gives_up}");
    }
}

#[test]
fn a_start_that_comes_about_although_it_was_given_up_gets_the_whole_sequence() {
    let (container, mut guest) = hooked(Try::good(secs(3)));
    guest.start = vec![Try::good(secs(8))];
    // The hands lose the request that comes before the start has come about.
    let mut sim = World::new(pod([container])).guest("web", guest).start();
    sim.run_until(secs(5));
    sim.ignores_early_requests = true;
    let sim = sim.deleted_at(6).until(90);
    assert_eq!(hooks(&sim), [(8, secs(28))], "from what is left of the grace");
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![6, 11], vec![36]));
}

#[test]
fn half_a_sandbox_is_not_torn_down_before_its_set_up_has_answered() {
    for tries in
        [vec![Try::good(secs(20))], vec![Try { takes: secs(20), error: Some("FailedMount") }]]
    {
        let sim = World::new(pod([regular("web")])).sandbox(tries).start().deleted_at(5).until(90);
        assert_eq!((torn_down(&sim), sim.starts("web")), (vec![20], vec![]));
        assert!(sim.state.is_finished());
    }
}

#[test]
fn a_pod_in_sandbox_back_off_is_gone_at_once() {
    let sim = World::new(pod([regular("web")]))
        .sandbox(vec![Try::bad("FailedMount")])
        .start()
        .deleted_at(100)
        .until(1000);
    assert_eq!(torn_down(&sim), [100]);
    assert!(sim.state.is_finished() && sim.is_at_rest());
}

#[test]
fn a_pod_stop_outranks_a_restart_already_under_way() {
    let guest =
        Guest { liveness: Answers { good_until: secs(0), ..Answers::default() }, ..polite(10, 0) };
    let container = regular("web").tweak(|c| c.liveness = Some(probe(1)));
    let sim = World::new(pod([container])).guest("web", guest).start().deleted_at(5).until(90);
    // The third failure, at 2, began the stop; the module ends at 12 and does not come back.
    assert_eq!(
        (sim.asked("web"), sim.starts("web"), torn_down(&sim)),
        (vec![2], vec![0], vec![12])
    );
}

#[test]
fn a_pod_stop_shortens_the_stop_of_a_failed_probe() {
    let guest = Guest { liveness: Answers { good_until: secs(0), ..Answers::default() }, ..deaf() };
    let container = regular("web").tweak(|c| c.liveness = Some(probe(1)));
    let sim = World::new(pod([container])).guest("web", guest).start().at(5, delete(4)).until(90);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![2], vec![9]));
}

#[test]
fn a_pod_stop_does_not_lengthen_the_stop_of_a_failed_probe() {
    let guest = Guest { liveness: Answers { good_until: secs(0), ..Answers::default() }, ..deaf() };
    let container =
        regular("web").tweak(|c| c.liveness = Some(probe(1).tweak(|p| p.grace = Some(secs(5)))));
    let world = World::new(pod([container.clone()])).guest("web", guest.clone());
    let sim = world.start().deleted_at(4).until(90);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![2], vec![7]));
    // The same while its preStop hook runs.
    let container = container.tweak(|c| c.hooks.pre_stop = Some(hook()));
    let guest = Guest { pre_stop: Try::good(secs(100)), ..guest };
    let sim = World::new(pod([container])).guest("web", guest).start().deleted_at(4).until(90);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![7], vec![9]));
}

#[test]
fn a_pod_told_to_stop_says_nothing_more_of_restarts() {
    let sim = web(Guest::exits(secs(5), 1)).deleted_at(17).until(2000);
    assert_eq!(sim.starts("web"), [0, 5, 20][..2], "the third would have come at 20");
    assert_eq!(sim.said("BackOff").len(), 1);
    let sim =
        web(Guest { lives: vec![(Some(secs(5)), Exit::Code(1)), (None, Exit::Code(0))], ..deaf() })
            .deleted_at(17)
            .until(2000);
    assert_eq!((sim.starts("web"), sim.killed("web")), (vec![0, 5], vec![47]));
    assert_eq!(sim.said("BackOff"), [""; 0]);
    let armed = |at: u64| sim.when(|a| matches!(a, Action::ArmTimer { .. })).contains(&at);
    assert!(!armed(47), "no back-off begins");
}

#[test]
fn a_start_that_hangs_is_killed_when_the_grace_is_over() {
    let slow = Guest { start: vec![Try::good(secs(500))], ..Guest::default() };
    let mut sim = World::new(pod([regular("web")])).guest("web", slow).start();
    sim.ignores_early_requests = true;
    let sim = sim.deleted_at(6).at(8, delete(10)).until(400);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![6], vec![18]));
    assert_eq!(torn_down(&sim), [0; 0], "its answer is still awaited");
    let sim = sim.until(600);
    assert_eq!((torn_down(&sim), sim.state.is_finished()), (vec![500], true));
}

#[test]
fn a_run_that_begins_after_its_stop_has_no_more_grace_than_the_shortest_given() {
    let (container, mut guest) = hooked(Try::good(secs(3)));
    guest.start = vec![Try::good(secs(8))];
    let mut sim = World::new(pod([container])).guest("web", guest).start();
    sim.ignores_early_requests = true;
    let sim = sim.at(1, delete(3)).at(2, delete(100)).until(400);
    assert_eq!(hooks(&sim), []);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![1, 8], vec![4, 10]));
}

#[test]
fn a_sidecars_wait_ends_with_the_grace_though_nothing_else_happens_then() {
    let (container, guest) = hooked(Try::good(secs(29)));
    let sim = World::new(pod([sidecar("side"), container]))
        .guest("web", guest)
        .start()
        .deleted_at(10)
        .until(90);
    assert_eq!(
        (sim.asked("web"), sim.killed("web"), sim.asked("side")),
        (vec![39], vec![41], vec![40])
    );
}

#[test]
fn an_init_container_that_is_deleted_is_not_followed_by_the_next() {
    let sim = World::new(pod([init("a"), init("b"), regular("web")]))
        .guest("a", polite(1, 0))
        .start()
        .deleted_at(5)
        .until(60);
    assert_eq!((sim.starts("b"), sim.starts("web"), torn_down(&sim)), (vec![], vec![], vec![6]));
    assert_eq!(sim.status().phase, PodPhase::Failed);
    let status = sim.status();
    assert_eq!(status.container("b").unwrap().state.waiting_reason(), Some("PodInitializing"));
}

#[test]
fn a_pod_that_is_evicted_fails_keeps_its_status_and_goes_when_it_is_deleted() {
    let why = StopReason::Evicted { reason: "Evicted", message: "low on memory".to_owned() };
    let sim = web(deaf()).at(10, stop(Some(1), why)).until(60);
    assert_eq!((sim.killed("web"), torn_down(&sim)), (vec![12], vec![12]));
    let status = sim.status();
    assert_eq!((status.phase, status.reason.as_deref()), (PodPhase::Failed, Some("Evicted")));
    assert_eq!(status.message.as_deref(), Some("low on memory"));
    assert!(!sim.state.is_finished() && sim.state.is_stopping());
    let sim = sim.deleted_at(70).until(80);
    assert!(sim.state.is_finished());
    assert_eq!(sim.status().reason.as_deref(), Some("Evicted"));
}

#[test]
fn a_pod_that_stops_with_the_daemon_has_not_ended() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        let pod = pod([regular("web")]).tweak(|pod| pod.restart_policy = policy);
        let sim = World::new(pod).start().at(10, stop(None, StopReason::Shutdown)).until(60);
        assert!(sim.state.is_finished() && !sim.state.is_terminal_phase());
        assert_eq!(sim.status().phase, PodPhase::Running, "{policy:?}");
        let record = sim.state.restored();
        assert_eq!((record.ended, record.containers[0].finished), (None, false));
        assert_eq!(record.containers[0].last, None, "143 is no crash");
    }
}
