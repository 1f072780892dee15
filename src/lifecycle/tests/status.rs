//! Phases and conditions, the parts that the other files do not meet on their way.

use crate::lifecycle::{Condition, ConditionKind, PodPhase};
use crate::spec::{ContainerKind, RestartPolicy};
use crate::testkit::pods::{Tweak, init, pod, probe, regular, secs, sidecar};
use crate::testkit::sim::{Answers, Guest, Try, World};

fn shown(conditions: &[Condition]) -> Vec<(&'static str, bool, Option<&'static str>)> {
    conditions.iter().map(|c| (c.kind.as_str(), c.status, c.reason)).collect()
}

#[test]
fn conditions_of_a_starting_and_a_running_pod_are_kubernetes_in_its_order() {
    let world = World::new(pod([regular("web")])).sandbox(vec![Try::good(secs(5))]);
    let sim = world.start().until(10);
    let unready = Some("ContainersNotReady");
    assert_eq!(
        shown(&sim.status_at(1).conditions),
        [
            ("PodReadyToStartContainers", false, None),
            ("Initialized", true, None),
            ("Ready", false, unready),
            ("ContainersReady", false, unready),
            ("PodScheduled", true, None),
        ]
    );
    assert!(sim.status().conditions.iter().all(|c| c.status && c.reason.is_none()));
    let at = |kind| sim.status().condition(kind).unwrap().last_transition.wall_ms();
    assert_eq!(at(ConditionKind::PodScheduled), 0);
    assert_eq!(at(ConditionKind::PodReadyToStartContainers), 5000);
}

#[test]
fn conditions_of_an_ended_pod_say_completed_or_failed() {
    for (code, phase, reason) in
        [(0, PodPhase::Succeeded, "PodCompleted"), (1, PodPhase::Failed, "PodFailed")]
    {
        let pod = pod([regular("web")]).tweak(|pod| pod.restart_policy = RestartPolicy::Never);
        let sim = World::new(pod).guest("web", Guest::exits(secs(1), code)).start().until(10);
        let status = sim.status();
        assert_eq!(status.phase, phase);
        let initialized = (code == 0).then_some("PodCompleted");
        assert_eq!(
            shown(&status.conditions),
            [
                ("PodReadyToStartContainers", false, None),
                ("Initialized", true, initialized),
                ("Ready", false, Some(reason)),
                ("ContainersReady", false, Some(reason)),
                ("PodScheduled", true, None),
            ]
        );
    }
}

#[test]
fn last_transition_moves_only_with_the_status() {
    let answers = Answers { good_from: secs(12), good_until: secs(31), ..Answers::default() };
    let web = regular("web").tweak(|c| c.readiness = Some(probe(10)));
    let sim = World::new(pod([web]))
        .guest("web", Guest { readiness: answers, ..Guest::default() })
        .start()
        .until(200);
    let mut seen = Vec::new();
    for (_, status) in &sim.statuses {
        let ready = status.condition(ConditionKind::Ready).unwrap();
        let entry = (ready.status, ready.last_transition.wall_ms() / 1000);
        if seen.last() != Some(&entry) {
            seen.push(entry);
        }
    }
    assert_eq!(seen, [(false, 0), (true, 20), (false, 60)]);
}

#[test]
fn a_readiness_gate_that_nobody_opens_keeps_the_pod_unready() {
    let pod = pod([regular("web")])
        .tweak(|pod| pod.readiness_gates = vec!["example.com/a".into(), "example.com/b".into()]);
    let status = World::new(pod).start().until(5).status();
    let ready = status.condition(ConditionKind::Ready).unwrap();
    assert_eq!(ready.reason, Some("ReadinessGatesNotReady"));
    let text = "corresponding condition of pod readiness gate \"example.com/a\" does not exist., \
                corresponding condition of pod readiness gate \"example.com/b\" does not exist.";
    assert_eq!(ready.message.as_deref(), Some(text));
    assert!(status.condition(ConditionKind::ContainersReady).unwrap().status);
}

#[test]
fn unready_containers_are_listed_sidecars_first_in_manifest_order() {
    let unready = |name: &str, kind| {
        crate::testkit::pods::container(name, kind).tweak(|c| c.readiness = Some(probe(1)))
    };
    let pod = pod([
        unready("z", ContainerKind::Regular),
        regular("ok"),
        unready("b", ContainerKind::Regular),
        unready("s", ContainerKind::Sidecar),
        init("i"),
    ]);
    let never = Answers { good_until: secs(0), ..Answers::default() };
    let guest = Guest { readiness: never, ..Guest::default() };
    let sim = World::new(pod)
        .guest("i", Guest::exits(secs(0), 0))
        .guest("z", guest.clone())
        .guest("b", guest.clone())
        .guest("s", guest)
        .start()
        .until(5);
    let status = sim.status();
    let message = status.condition(ConditionKind::Ready).unwrap().message.clone();
    assert_eq!(message.as_deref(), Some("containers with unready status: [s z b]"));
    assert_eq!(status.phase, PodPhase::Running, "unready is no phase");
}

#[test]
fn a_pod_with_one_container_that_never_started_is_pending_even_when_others_run() {
    let missing = Guest { prepare: vec![Try::bad("ErrImageNeverPull")], ..Guest::default() };
    let sim = World::new(pod([regular("a"), regular("b")])).guest("b", missing).start().until(500);
    assert_eq!(sim.phases(), [(0, PodPhase::Pending)]);
    assert!(sim.status().container("a").unwrap().state.is_running());
}

#[test]
fn initialized_is_never_undone() {
    // A sidecar that falls back to not started, and with it the list of incomplete containers.
    let sim = World::new(pod([sidecar("side"), regular("web")]))
        .guest("side", Guest::exits(secs(3), 1))
        .start()
        .until(100);
    let undone = sim
        .statuses
        .iter()
        .map(|(_, status)| status.condition(ConditionKind::Initialized).unwrap().status)
        .skip_while(|initialized| !initialized)
        .any(|initialized| !initialized);
    assert!(!undone);
}

#[test]
fn a_restart_shows_the_old_run_until_the_new_one_stands() {
    let guest = Guest {
        lives: vec![
            (Some(secs(3)), crate::spec::Exit::Code(7)),
            (None, crate::spec::Exit::Code(0)),
        ],
        start: vec![Try::default(), Try::good(secs(4))],
        ..Guest::default()
    };
    let sim = World::new(pod([regular("web")])).guest("web", guest).start().until(20);
    let between = sim.status_at(5).container("web").unwrap();
    assert_eq!(between.state.terminated().unwrap().exit_code, 7);
    assert_eq!((between.restart_count, &between.last), (0, &None));
    let after = sim.status_at(8).container("web").unwrap();
    assert!(after.state.is_running());
    assert_eq!((after.restart_count, after.last.as_ref().unwrap().exit_code), (1, 7));
    assert_eq!(sim.phases(), [(0, PodPhase::Pending), (0, PodPhase::Running)]);
}
