//! Pods that end by themselves: completion, deadlines; and the postStart hook, which may keep one from beginning.

use crate::lifecycle::{Action, ContainerState, Event, PodPhase, StopReason};
use crate::spec::{Exit, ProbeKind, RestartPolicy};
use crate::testkit::pods::{Tweak, hook, init, pod, probe, regular, secs, sidecar};
use crate::testkit::sim::{Guest, OnStop, Sim, Try, World};

fn job(guests: [(&str, Guest); 2], policy: RestartPolicy) -> Sim {
    let pod =
        pod(guests.clone().map(|(name, _)| regular(name))).tweak(|pod| pod.restart_policy = policy);
    let world = guests.into_iter().fold(World::new(pod), |world, (name, g)| world.guest(name, g));
    world.start().until(1000)
}

#[test]
fn a_pod_has_succeeded_when_every_container_has_and_failed_when_one_has_not() {
    use RestartPolicy::{Never, OnFailure};
    let (good, bad) = (Guest::exits(secs(5), 0), Guest::exits(secs(9), 1));
    let sim = job([("a", good.clone()), ("b", good.clone())], Never);
    assert_eq!(sim.phases().last(), Some(&(5, PodPhase::Succeeded)));
    let sim = job([("a", good.clone()), ("b", bad)], Never);
    assert_eq!(sim.phases()[1..], [(0, PodPhase::Running), (9, PodPhase::Failed)]);
    let recovers = Guest::codes(&[1, 1, 0]);
    let sim = job([("a", good), ("b", recovers)], OnFailure);
    assert_eq!(sim.phases().last(), Some(&(10, PodPhase::Succeeded)));
}

#[test]
fn an_ended_pod_keeps_its_status_and_sandbox_until_it_is_deleted() {
    let guests = [("a", Guest::exits(secs(5), 0)), ("b", Guest::exits(secs(5), 0))];
    let sim = job(guests, RestartPolicy::Never);
    assert!(sim.is_at_rest() && sim.state.is_terminal_phase() && !sim.state.is_finished());
    assert_eq!(sim.when(|action| *action == Action::TearDownSandbox), [0; 0]);
    let before = sim.status();
    let sim = sim.deleted_at(2000).until(3000);
    assert!(sim.state.is_finished());
    assert_eq!(sim.status(), before);
}

#[test]
fn sidecars_are_stopped_in_reverse_when_the_work_is_done_and_their_exits_do_not_count() {
    let pod = pod([sidecar("first"), sidecar("second"), regular("web")])
        .tweak(|pod| pod.restart_policy = RestartPolicy::Never);
    let rude = Guest::default().on_stop(OnStop::Returns { after: secs(2), code: 9 });
    let sim = World::new(pod)
        .guest("first", rude.clone())
        .guest("second", rude)
        .guest("web", Guest::exits(secs(5), 0))
        .start()
        .until(100);
    assert_eq!((sim.asked("second"), sim.asked("first")), (vec![5], vec![7]));
    assert_eq!(
        sim.phases(),
        [(0, PodPhase::Pending), (0, PodPhase::Running), (9, PodPhase::Succeeded)],
        "no terminal phase while a sidecar runs"
    );
}

#[test]
fn a_sidecar_alone_never_ends_a_pod() {
    let sim = World::new(pod([sidecar("side"), regular("web")]))
        .guest("side", Guest::exits(secs(1), 1))
        .start()
        .until(1000);
    assert_eq!(sim.status().phase, PodPhase::Running);
    assert_eq!(sim.starts("web"), [0]);
}

#[test]
fn a_pod_past_its_deadline_fails_with_kubernetes_words() {
    let pod = pod([regular("web")]).tweak(|pod| pod.active_deadline = Some(secs(60)));
    let deaf = Guest::default().on_stop(OnStop::Ignores);
    let sim = World::new(pod).guest("web", deaf).start().until(200);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![60], vec![90]));
    assert_eq!(sim.phases().last(), Some(&(90, PodPhase::Failed)));
    let status = sim.status();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    let text = "Pod was active on the node longer than the specified deadline";
    assert_eq!(status.message.as_deref(), Some(text));
    assert_eq!(sim.said("DeadlineExceeded"), [text]);
    let warned = sim.log.iter().any(|(_, action)| {
        matches!(action, Action::Record(event) if event.reason == "DeadlineExceeded" && event.warning)
    });
    assert!(!warned, "the event is Normal");
}

#[test]
fn the_deadline_counts_pulls_init_containers_and_back_off() {
    let never = Guest { prepare: vec![Try::bad("ErrImagePull")], ..Guest::default() };
    let slow = Guest::exits(secs(1000), 0);
    for (name, guest) in [("web", never.clone()), ("a", never), ("a", slow)] {
        let pod =
            pod([init("a"), regular("web")]).tweak(|pod| pod.active_deadline = Some(secs(60)));
        let sim = World::new(pod)
            .guest("a", Guest::exits(secs(1), 0))
            .guest(name, guest)
            .start()
            .until(2000);
        assert_eq!(sim.phases().last(), Some(&(60, PodPhase::Failed)), "{name}");
        assert!(sim.is_at_rest());
    }
    let pod = pod([regular("web")]).tweak(|pod| pod.active_deadline = Some(secs(60)));
    let sim = World::new(pod).sandbox(vec![Try::bad("FailedMount")]).start().until(1000);
    assert_eq!(sim.status().reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_pod_that_ended_in_time_does_not_fail_at_its_deadline() {
    let pod = pod([regular("web")])
        .tweak(|pod| pod.active_deadline = Some(secs(60)))
        .tweak(|pod| pod.restart_policy = RestartPolicy::Never);
    let sim = World::new(pod).guest("web", Guest::exits(secs(5), 0)).start().until(200);
    assert_eq!(sim.status().phase, PodPhase::Succeeded);
    assert_eq!(sim.said("DeadlineExceeded"), [""; 0]);
}

#[test]
fn a_failure_that_is_certain_outlives_the_end_of_the_daemon() {
    let pod = pod([regular("web")]).tweak(|pod| pod.active_deadline = Some(secs(60)));
    let deaf = Guest::default().on_stop(OnStop::Ignores);
    let stop = Event::Stop { grace: Some(secs(3)), why: StopReason::Shutdown };
    let sim = World::new(pod).guest("web", deaf).start().at(70, stop).until(200);
    assert_eq!(sim.killed("web"), [73]);
    let end = sim.written.unwrap().ended.unwrap();
    assert_eq!((end.failed, &*end.reason), (true, "DeadlineExceeded"));
}

#[test]
fn a_container_is_shown_waiting_and_not_probed_until_its_post_start_hook_is_done() {
    let web = regular("web").tweak(|c| {
        c.hooks.post_start = Some(hook());
        c.readiness = Some(probe(1));
    });
    let guest = Guest { post_start: Try::good(secs(5)), ..Guest::default() };
    let sim = World::new(pod([web, regular("next")])).guest("web", guest).start().until(20);
    let before = sim.status_at(4);
    let state = &before.container("web").unwrap().state;
    assert_eq!(state.waiting_reason(), Some("ContainerCreating"));
    assert_eq!(before.phase, PodPhase::Pending);
    assert_eq!((sim.starts("next"), sim.probed("web", ProbeKind::Readiness)[0]), (vec![5], 5));
    let ContainerState::Running { since } = sim.status().container("web").unwrap().state else {
        panic!("it runs")
    };
    assert_eq!(since.wall_ms(), 0, "running since its start, not since its hook");
}

#[test]
fn a_failing_post_start_hook_kills_the_container_with_its_pre_stop_hook_and_backs_off() {
    let web = regular("web").tweak(|c| {
        c.hooks.post_start = Some(hook());
        c.hooks.pre_stop = Some(hook());
    });
    let guest =
        Guest { post_start: Try::bad("secret"), pre_stop: Try::good(secs(2)), ..Guest::default() };
    let sim = World::new(pod([web, regular("next")])).guest("web", guest).start().until(30);
    assert_eq!(sim.starts("next"), [0], "an error does not block the next container");
    assert_eq!(sim.starts("web"), [0, 2, 14]);
    assert_eq!(sim.said("FailedPostStartHook")[0], "PostStartHook failed", "no secrets in events");
    assert_eq!(sim.said("Killing")[0], "FailedPostStartHook");
    let first = sim.status_at(1).container("web").unwrap().state.waiting_reason();
    assert_eq!(first, Some("PostStartHookError"));
    let later = sim.status_at(10).container("web").unwrap().state.waiting_reason();
    assert_eq!(later, Some("CrashLoopBackOff"));
}

#[test]
fn a_container_that_ends_during_its_post_start_hook_makes_the_hooks_answer_stale() {
    let web = regular("web").tweak(|c| c.hooks.post_start = Some(hook()));
    let guest = Guest {
        lives: vec![(Some(secs(2)), Exit::Code(1)), (None, Exit::Code(0))],
        post_start: Try::good(secs(5)),
        ..Guest::default()
    };
    let sim = World::new(pod([web])).guest("web", guest).start().until(30);
    assert_eq!(sim.starts("web"), [0, 2]);
    let state = |at| sim.status_at(at).container("web").unwrap().state.is_running();
    assert_eq!((state(6), state(7)), (false, true), "the first hook's answer, at 5, counts not");
}

#[test]
fn a_stop_during_the_post_start_hook_does_not_wait_for_it() {
    let web = regular("web").tweak(|c| c.hooks.post_start = Some(hook()));
    let guest = Guest { post_start: Try::good(secs(500)), ..Guest::default() };
    let sim = World::new(pod([web])).guest("web", guest).start().deleted_at(3).until(1000);
    assert_eq!(sim.asked("web"), [3]);
    assert_eq!(sim.when(|action| *action == Action::TearDownSandbox), [3]);
}
