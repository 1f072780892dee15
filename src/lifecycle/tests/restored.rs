//! What survives a restart of the daemon: restart counts, back-off, and how it all ended.

use std::time::Duration;

use crate::lifecycle::{
    Action, Event, PodPhase, Restored, RestoredContainer, RestoredEnd, RestoredExit, StopReason,
};
use crate::spec::{ContainerName, Exit, RestartPolicy};
use crate::testkit::pods::{Tweak, init, pod, probe, regular, secs, threshold};
use crate::testkit::sim::{Answers, Guest, OnStop, Sim, World};

use RestartPolicy::{Always, Never, OnFailure};

fn record(name: &str, next_attempt: u32, backoff: u64, exit_code: Option<i32>) -> Restored {
    let last = exit_code.map(|exit_code| RestoredExit {
        exit_code,
        reason: "Error".to_owned(),
        message: String::new(),
        started_ms: 1000,
        finished_ms: 2000,
    });
    let finished = last.is_some();
    let name = ContainerName::new(name);
    let (backoff, by_probe) = (secs(backoff), false);
    Restored {
        containers: vec![RestoredContainer {
            name,
            next_attempt,
            backoff,
            image: None,
            finished,
            by_probe,
            last,
        }],
        ended: None,
    }
}

fn web(policy: RestartPolicy, restored: Restored) -> Sim {
    let pod = pod([regular("web")]).tweak(|pod| pod.restart_policy = policy);
    World::new(pod).restored(restored).start()
}

#[test]
fn a_container_in_back_off_waits_again_as_long_as_before_and_counts_on() {
    let mut sim = web(Always, record("web", 6, 160, Some(1)));
    sim.run_until(secs(100));
    let status = sim.status();
    let web = status.container("web").unwrap();
    assert_eq!(web.state.waiting_reason(), Some("CrashLoopBackOff"));
    assert_eq!(
        web.restart_count, 6,
        "the coming run counts: what was shown before may have been 6"
    );
    assert_eq!(web.last.as_ref().unwrap().finished_at.wall_ms(), 2000);
    let sim = sim.until(200);
    assert_eq!(sim.starts("web"), [160]);
    let status = sim.status();
    let web = status.container("web").unwrap();
    assert_eq!(web.restart_count, 6);
    assert_eq!(web.container_id.as_deref(), Some("podling://u1/web/6"));
}

#[test]
fn the_next_crash_after_a_restored_back_off_waits_twice_as_long() {
    let pod = pod([regular("web")]);
    let sim = World::new(pod)
        .guest("web", Guest::exits(secs(1), 1))
        .restored(record("web", 6, 40, Some(1)))
        .start()
        .until(400);
    assert_eq!(sim.starts("web"), [40, 121, 282]);
}

#[test]
fn what_a_probe_ended_runs_again_after_a_power_cut_even_if_it_returned_zero() {
    for (policy, starts) in [(OnFailure, vec![10]), (Always, vec![10]), (Never, vec![])] {
        let stern = probe(5).tweak(|probe| probe.failure_threshold = threshold(1));
        let pod = || {
            pod([regular("web").tweak(|web| web.liveness = Some(stern.clone()))])
                .tweak(|pod| pod.restart_policy = policy)
        };
        let liveness = Answers { good_until: secs(0), ..Answers::default() };
        let guest = Guest { liveness, ..Guest::default() }
            .on_stop(OnStop::Returns { after: secs(0), code: 0 });
        let sim = World::new(pod()).guest("web", guest).start().until(8);
        let written = sim.written.clone().unwrap();
        assert!(written.containers[0].finished, "{policy:?}");
        assert_eq!(written.containers[0].last.as_ref().unwrap().exit_code, 0, "{policy:?}");
        let sim = World::new(pod()).restored(written).start().until(12);
        assert_eq!(sim.starts("web"), starts, "{policy:?}");
    }
}

#[test]
fn a_run_that_was_cut_short_runs_again_at_once_whatever_its_policy() {
    for policy in [Always, OnFailure, Never] {
        let sim = web(policy, record("web", 3, 160, None)).until(10);
        assert_eq!(
            (sim.starts("web"), sim.newest_attempt("web")),
            (vec![0], Some(3)),
            "{policy:?}"
        );
        assert_eq!(sim.status().container("web").unwrap().restart_count, 3);
    }
}

#[test]
fn a_finished_run_counts_if_its_policy_wants_no_other() {
    for (policy, code, starts) in
        [(Always, 0, 1), (OnFailure, 0, 0), (OnFailure, 1, 1), (Never, 0, 0), (Never, 1, 0)]
    {
        let pod = pod([regular("web"), regular("other")]).tweak(|pod| pod.restart_policy = policy);
        let sim = World::new(pod).restored(record("web", 1, 0, Some(code))).start().until(100);
        assert_eq!(sim.starts("web").len(), starts, "{policy:?} {code}");
        assert_eq!(sim.starts("other"), [0], "the other one was cut short");
        let status = sim.status();
        assert_eq!(status.phase, PodPhase::Running);
        if starts == 0 {
            let end = status.container("web").unwrap().state.terminated().unwrap();
            assert_eq!(end.exit_code, code);
        }
    }
}

#[test]
fn init_containers_run_again_after_a_restart_of_the_daemon() {
    let pod = pod([init("a"), regular("web")]);
    let sim = World::new(pod)
        .guest("a", Guest::exits(secs(5), 0))
        .restored(record("a", 1, 0, Some(0)))
        .start()
        .until(60);
    assert_eq!((sim.starts("a"), sim.starts("web")), (vec![0], vec![5]));
    assert_eq!(sim.status_at(2).phase, PodPhase::Pending);
    assert_eq!(sim.status().container("a").unwrap().restart_count, 1);
}

#[test]
fn a_pod_that_has_ended_stays_ended_and_runs_nothing() {
    let ended = Some(RestoredEnd {
        failed: true,
        reason: "DeadlineExceeded".to_owned(),
        message: "too long".to_owned(),
    });
    let restored = Restored { ended, ..record("web", 6, 160, Some(1)) };
    let sim = web(Always, restored).until(1000);
    assert_eq!(sim.log, [], "no sandbox, no events, no timers");
    let status = sim.status();
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (PodPhase::Failed, Some("DeadlineExceeded"))
    );
    assert_eq!(status.container("web").unwrap().state.terminated().unwrap().exit_code, 1);
    let sim = sim.deleted_at(1001).until(2000);
    assert_eq!(sim.when(|action| *action == Action::TearDownSandbox), [1001]);
    assert!(sim.state.is_finished());
}

#[test]
fn a_job_whose_end_was_not_written_down_as_such_still_does_not_run_again() {
    let sim = web(Never, record("web", 1, 0, Some(0))).until(100);
    assert_eq!(sim.starts("web"), [0; 0]);
    assert_eq!(sim.status().phase, PodPhase::Succeeded);
}

#[test]
fn a_record_of_another_container_or_an_absurd_one_changes_nothing_much() {
    let sim = web(Always, record("gone", 6, 160, Some(1))).until(10);
    assert_eq!(sim.starts("web"), [0]);
    let mut absurd = record("web", u32::MAX, 0, Some(1));
    absurd.containers[0].backoff = Duration::MAX;
    let sim = web(Always, absurd).until(1000);
    assert_eq!(sim.starts("web"), [300]);
    assert_eq!(sim.status().container("web").unwrap().restart_count, 1 << 30);
}

#[test]
fn one_write_for_the_first_run_one_for_each_crash_and_none_when_idle() {
    let pod = pod([regular("web"), regular("other")]);
    let world = World::new(pod).guest("web", Guest::exits(secs(0), 1));
    let sim = world.start().until(1000);
    let runs = sim.starts("web").len();
    assert_eq!(sim.writes, 2 + runs, "two first runs, and {runs} exits");
    let idle = web(Always, Restored::default()).until(100_000);
    assert_eq!(idle.writes, 1);
}

#[test]
fn forgiveness_is_written_down_once() {
    let guest = Guest {
        lives: vec![
            (Some(secs(0)), Exit::Code(1)),
            (Some(secs(0)), Exit::Code(1)),
            (None, Exit::Code(0)),
        ],
        ..Guest::default()
    };
    let pod = pod([regular("web")]);
    let sim = World::new(pod).guest("web", guest).start().until(605);
    assert_eq!(sim.written.as_ref().unwrap().containers[0].backoff, secs(10));
    let writes = sim.writes;
    let sim = sim.until(100_000);
    assert_eq!(sim.written.as_ref().unwrap().containers[0].backoff, Duration::ZERO);
    assert_eq!(sim.writes, writes + 1);
}

#[test]
fn what_is_written_on_an_orderly_end_of_the_daemon_is_exact() {
    let pod = || pod([regular("bad"), regular("good")]);
    let bad = Guest::exits(secs(1), 1);
    let stop = Event::Stop { grace: None, why: StopReason::Shutdown };
    // At 20, `bad` is in its second back-off (20 s, since 13).
    let sim = World::new(pod()).guest("bad", bad.clone()).start().at(20, stop).until(60);
    let written = sim.written.unwrap();
    let of =
        |name: &str| written.containers.iter().find(|c| c.name.as_str() == name).unwrap().clone();
    assert_eq!(
        (of("bad").next_attempt, of("bad").backoff, of("bad").finished),
        (3, secs(20), true)
    );
    assert_eq!((of("good").next_attempt, of("good").finished), (1, false));
    let sim = World::new(pod()).guest("bad", bad).restored(written).start().until(30);
    assert_eq!((sim.starts("bad"), sim.starts("good")), (vec![20], vec![0]));
    let status = sim.status();
    assert_eq!(status.container("good").unwrap().restart_count, 1);
}

#[test]
fn a_deleted_pod_writes_nothing_more() {
    let sim = web(Always, Restored::default()).deleted_at(10).until(60);
    assert_eq!(sim.writes, 1, "the first run only");
}

#[test]
fn a_round_of_restarting_all_goes_on_after_a_power_cut() {
    use crate::spec::{ContainerRestartPolicy, RuleAction};
    let own_never =
        |name| regular(name).tweak(|c| c.restart_policy = Some(ContainerRestartPolicy::Never));
    let source = own_never("source").tweak(|c| {
        c.restart_rules = vec![crate::testkit::pods::rule(RuleAction::RestartAllContainers, &[3])];
    });
    let pod = || pod([source.clone(), own_never("victim")]);
    let sim = World::new(pod()).guest("source", Guest::exits(secs(5), 3)).start();
    let written = sim.until(5).written.unwrap();
    let sim = World::new(pod()).restored(written).start().until(30);
    assert_eq!((sim.starts("source"), sim.starts("victim")), (vec![0], vec![0]));
}

#[test]
fn a_restored_count_does_not_fall_when_the_pod_is_deleted_before_the_next_run() {
    let sim = web(Always, record("web", 6, 160, Some(1))).deleted_at(5).until(1000);
    let counts: Vec<u32> =
        sim.statuses.iter().map(|(_, s)| s.container("web").unwrap().restart_count).collect();
    assert!(counts.iter().all(|count| *count == 6), "{counts:?}");
}
