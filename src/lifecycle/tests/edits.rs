//! Another image for a pod that runs: what is restarted, when, and what is not.

use crate::lifecycle::{Action, ContainerState, Event, PodPhase, StopReason};
use crate::spec::{Container, Exit, RestartPolicy, RuleAction};
use crate::testkit::pods::{Tweak, hook, init, pod, probe, regular, rule, secs, sidecar};
use crate::testkit::sim::{Answers, Guest, OnStop, Sim, Try, World};

use RestartPolicy::{Always, Never, OnFailure};

const EDIT: &[(&str, &str)] = &[("web", "web:2")];

fn world(policy: RestartPolicy, guest: Guest) -> World {
    let pod = pod([regular("web")]).tweak(|pod| pod.restart_policy = policy);
    World::new(pod).guest("web", guest)
}

/// Image, restart count and what it waits for.
fn shown(sim: &Sim) -> (String, u32, Option<&'static str>) {
    let status = sim.status();
    let web = status.container("web").unwrap();
    (web.image.clone(), web.restart_count, web.state.waiting_reason())
}

fn slow(seconds: u64) -> Guest {
    let (after, code) = (secs(seconds), 0);
    Guest::default().on_stop(OnStop::Returns { after, code })
}

#[test]
fn a_running_container_is_restarted_with_its_new_image_under_every_policy() {
    for policy in [Always, OnFailure, Never] {
        let sim = world(policy, slow(3)).start().edited_at(10, EDIT).until(60);
        assert_eq!((sim.asked("web"), sim.starts("web")), (vec![10], vec![0, 13]), "{policy:?}");
        assert_eq!(shown(&sim), ("web:2".into(), 1, None), "{policy:?}");
        let status = sim.status();
        let web = status.container("web").unwrap();
        assert_eq!((&*web.image_id, web.state.is_running()), ("sha256:2", true));
        assert_eq!(web.last.as_ref().unwrap().exit_code, 0);
        assert_eq!(sim.said("Killing"), ["Container web definition changed, will be restarted"]);
        let expected = ["Pulled", "Created", "Started", "Killing", "Pulled", "Created", "Started"];
        assert_eq!(sim.reasons(), expected);
        assert!(sim.phases().iter().all(|(_, phase)| *phase != PodPhase::Failed), "{policy:?}");
    }
}

#[test]
fn while_the_old_one_stops_its_own_image_is_shown() {
    let sim = world(Always, slow(5)).start().edited_at(10, EDIT).until(12);
    assert_eq!(shown(&sim), ("web:1".into(), 0, None));
    assert_eq!(sim.state.pod().generation, 2);
}

#[test]
fn the_old_one_has_its_hook_and_its_grace_and_is_killed_after_that() {
    let pod = pod([regular("web").tweak(|web| web.hooks.pre_stop = Some(hook()))])
        .tweak(|pod| pod.grace = secs(8));
    let guest = Guest { pre_stop: Try::good(secs(2)), ..Guest::default() };
    let sim = World::new(pod).guest("web", guest.on_stop(OnStop::Ignores)).start();
    let sim = sim.edited_at(10, EDIT).until(60);
    assert_eq!((sim.asked("web"), sim.killed("web")), (vec![12], vec![18]));
    assert_eq!(sim.starts("web"), [0, 18]);
}

#[test]
fn only_the_container_whose_image_changed_is_restarted() {
    let sim = World::new(pod([sidecar("log"), regular("web"), regular("db")])).start();
    let sim = sim.edited_at(10, EDIT).until(60);
    assert_eq!((sim.starts("log"), sim.starts("db")), (vec![0], vec![0]));
    assert_eq!(sim.starts("web"), [0, 10]);
}

#[test]
fn the_same_images_again_change_nothing() {
    let sim = world(Always, Guest::default()).start().edited_at(10, &[("web", "web:1")]).until(60);
    assert_eq!((sim.starts("web"), sim.asked("web")), (vec![0], vec![]));
    assert_eq!(sim.state.pod().generation, 2, "the newer object has been seen all the same");
}

#[test]
fn a_back_off_ends_at_once_and_the_next_crash_waits_ten_seconds() {
    let guest = Guest::exits(secs(1), 1);
    let sim = world(Always, guest).start().until(120);
    assert_eq!(sim.starts("web"), [0, 1, 12, 33, 74]);
    assert_eq!(shown(&sim).2, Some("CrashLoopBackOff"));
    let sim = sim.edited_at(121, EDIT).until(160);
    assert_eq!(sim.starts("web"), [0, 1, 12, 33, 74, 121, 132, 153], "as if it were a new one");
}

#[test]
fn the_back_off_of_an_earlier_image_is_not_kept_over_a_power_cut() {
    let world = world(Always, Guest::exits(secs(1), 1));
    let written = world.clone().start().until(120).written.unwrap();
    assert_eq!(written.containers[0].image.as_deref(), Some("web:1"));
    let same = world.clone().restored(written.clone()).start().until(200);
    assert_eq!(same.starts("web")[0], 80, "the same image waits as long as before");
    let other = world.edited(EDIT).restored(written).start().until(200);
    assert_eq!(other.starts("web")[..3], [0, 1, 12]);
    assert!(shown(&other).1 >= 5, "and its restarts are counted on");
}

#[test]
fn an_image_that_cannot_be_pulled_leaves_the_pod_waiting_for_it_under_every_policy() {
    for policy in [Always, OnFailure, Never] {
        let prepare = vec![Try::default(), Try::bad("ErrImagePull")];
        let guest = Guest { prepare, ..slow(1) };
        let sim = world(policy, guest.clone()).start().edited_at(10, EDIT).until(20);
        assert_eq!(shown(&sim), ("web:1".into(), 0, Some("ImagePullBackOff")), "{policy:?}");
        let status = sim.status();
        let web = status.container("web").unwrap();
        assert_eq!((web.last.as_ref().unwrap().exit_code, status.phase), (0, PodPhase::Running));
        let ContainerState::Waiting { message, .. } = &web.state else { panic!("{web:?}") };
        assert!(message.as_ref().unwrap().contains("Back-off pulling image \"web:2\""));
        // The power goes: it still waits for the new image, whatever the policy says of a run that returned 0.
        let written = sim.written.clone().unwrap();
        let after = world(policy, Guest::default()).edited(EDIT).restored(written).start().until(5);
        assert_eq!(after.starts("web"), [0], "{policy:?}");
        assert_eq!(shown(&after), ("web:2".into(), 1, None), "{policy:?}");
        // A second edit puts it right, at once.
        let mut prepare = guest.prepare.clone();
        prepare.extend([Try::bad("ErrImagePull"), Try::default()]);
        let guest = Guest { prepare, ..guest };
        let sim =
            world(policy, guest).start().edited_at(10, EDIT).edited_at(25, &[("web", "web:3")]);
        let sim = sim.until(60);
        assert_eq!(sim.starts("web"), [0, 25], "{policy:?}");
        assert_eq!(shown(&sim), ("web:3".into(), 1, None), "{policy:?}");
    }
}

#[test]
fn a_pull_of_the_old_image_is_given_up_and_its_answer_is_not_the_new_ones() {
    for gives_up in [true, false] {
        let prepare = vec![Try::good(secs(30)), Try::good(secs(1))];
        let mut world = world(Always, Guest { prepare, ..Guest::default() });
        world.gives_up_starts = gives_up;
        let sim = world.start().edited_at(10, EDIT).until(100);
        let start = if gives_up { 11 } else { 31 };
        assert_eq!(sim.starts("web"), [start]);
        assert_eq!(shown(&sim), ("web:2".into(), 0, None));
        assert_eq!(sim.said("Failed"), [""; 0], "nobody hears of what was given up");
    }
}

#[test]
fn a_start_of_the_old_image_is_given_up_or_ended() {
    for gives_up in [true, false] {
        let start = vec![Try::good(secs(30)), Try::good(secs(1))];
        let mut world = world(Never, Guest { start, ..Guest::default() });
        world.gives_up_starts = gives_up;
        let sim = world.start().edited_at(10, EDIT).until(100);
        let (starts, restarts) = if gives_up { (vec![0, 10], 0) } else { (vec![0, 30], 1) };
        assert_eq!((sim.starts("web"), shown(&sim)), (starts, ("web:2".into(), restarts, None)));
    }
}

#[test]
fn a_module_that_cannot_be_made_is_not_waited_for_when_another_one_is_named() {
    let start = vec![Try::bad("CreateContainerError"); 4];
    let guest = Guest { start: [start, vec![Try::default()]].concat(), ..Guest::default() };
    let sim = world(Always, guest).start().until(75).edited_at(76, EDIT).until(100);
    assert_eq!(sim.starts("web"), [0, 10, 30, 70, 76]);
    assert_eq!(shown(&sim), ("web:2".into(), 0, None));
}

#[test]
fn a_run_that_a_probe_has_condemned_is_restarted_also_where_the_policy_would_not() {
    let stern = |web: &mut Container| web.liveness = Some(probe(5));
    let pod = pod([regular("web").tweak(stern)]).tweak(|pod| pod.restart_policy = Never);
    let liveness = Answers { good_until: secs(1), ..Answers::default() };
    let guest = Guest { liveness, ..slow(10) };
    let sim = World::new(pod).guest("web", guest).start().edited_at(18, EDIT).until(26);
    assert_eq!((sim.asked("web"), sim.starts("web")), (vec![15], vec![0, 25]));
    assert_eq!(sim.said("Killing").len(), 1, "it was being stopped already");
}

#[test]
fn what_is_over_stays_over() {
    let never = |pod: &mut crate::spec::Pod| pod.restart_policy = Never;
    // One of two has done its work.
    let two = pod([regular("web"), regular("db")]).tweak(never);
    let sim = World::new(two).guest("web", Guest::exits(secs(1), 0)).start();
    let sim = sim.edited_at(10, EDIT).until(60);
    assert_eq!((sim.starts("web"), sim.status().phase), (vec![0], PodPhase::Running));
    // All have.
    for code in [0, 1] {
        let sim = world(Never, Guest::exits(secs(1), code)).start().edited_at(10, EDIT).until(60);
        let phase = if code == 0 { PodPhase::Succeeded } else { PodPhase::Failed };
        assert_eq!((sim.starts("web"), sim.status().phase), (vec![0], phase));
        assert_eq!(sim.writes, 2, "nothing new is written: its first start, and its end");
        // Also after the daemon comes back with the new definition.
        let again = world(Never, Guest::default()).edited(EDIT);
        let again = again.restored(sim.written.clone().unwrap()).start().until(60);
        assert_eq!((again.starts("web"), again.status().phase), (vec![], phase));
    }
}

#[test]
fn a_pod_on_its_way_out_is_not_held_up() {
    let sim = world(Always, slow(20)).start().deleted_at(10).edited_at(12, EDIT).until(100);
    assert_eq!(sim.starts("web"), [0]);
    assert!(sim.state.is_finished());
    // And the other way round: the grace of the deletion is the pod's again.
    let sim = world(Always, Guest::default().on_stop(OnStop::Ignores)).start();
    let stop = Event::Stop { grace: Some(secs(5)), why: StopReason::Deleted };
    let sim = sim.edited_at(10, EDIT).at(12, stop).until(100);
    assert_eq!((sim.killed("web"), sim.starts("web")), (vec![17], vec![0]));
}

#[test]
fn an_init_container_is_never_run_twice_for_it() {
    let images = &[("load", "load:2")];
    let of = |guest: Guest| World::new(pod([init("load"), regular("web")])).guest("load", guest);
    // It runs, or has done its work.
    let sim = of(Guest::exits(secs(20), 0)).start().edited_at(10, images).until(60);
    assert_eq!((sim.starts("load"), sim.starts("web")), (vec![0], vec![20]));
    let sim = of(Guest::exits(secs(2), 0)).start().edited_at(10, images).until(60);
    assert_eq!((sim.starts("load"), sim.starts("web")), (vec![0], vec![2]));
    // It has failed: the new one has its turn at once.
    let lives = vec![(Some(secs(1)), Exit::Code(1)); 3];
    let guest =
        Guest { lives: [lives, vec![(Some(secs(1)), Exit::Code(0))]].concat(), ..Guest::default() };
    let sim = of(guest).start().edited_at(15, images).until(60);
    assert_eq!((sim.starts("load"), sim.starts("web")), (vec![0, 1, 12, 15], vec![16]));
    // It is being started, and hands that lose requests lose nothing by it.
    let guest = Guest { start: vec![Try::good(secs(20))], ..Guest::exits(secs(5), 0) };
    let sim = of(guest).start().edited_at(10, images).until(60);
    assert_eq!((sim.starts("load"), sim.starts("web")), (vec![0], vec![25]));
}

#[test]
fn a_sidecar_is_restarted_and_holds_nobody_up() {
    let sim = World::new(pod([sidecar("log"), init("load"), regular("web")]))
        .guest("load", Guest::exits(secs(20), 0))
        .start()
        .edited_at(10, &[("log", "log:2")])
        .edited_at(40, &[("log", "log:3")])
        .until(60);
    assert_eq!(sim.starts("log"), [0, 10, 40]);
    assert_eq!((sim.starts("load"), sim.starts("web")), (vec![0], vec![20]));
    assert_eq!(sim.said("Killing"), ["Init container log definition changed"; 2]);
}

#[test]
fn a_rule_for_all_containers_takes_the_new_images_with_it() {
    let starter = regular("web").tweak(|web| {
        web.restart_policy = Some(crate::spec::ContainerRestartPolicy::Never);
        web.restart_rules = vec![rule(RuleAction::RestartAllContainers, &[3])];
    });
    let guest = Guest {
        lives: vec![(Some(secs(20)), Exit::Code(3)), (None, Exit::Code(0))],
        ..Guest::default()
    };
    let sim = World::new(pod([init("load"), starter, regular("db")]))
        .guest("load", Guest::exits(secs(1), 0))
        .guest("web", guest)
        .guest("db", slow(5))
        .start()
        .edited_at(22, &[("db", "db:2"), ("load", "load:2")])
        .until(60);
    assert_eq!(sim.starts("load").len(), 2);
    assert_eq!(sim.starts("db").len(), 2);
    let status = sim.status();
    let images: Vec<&str> = status.all_containers().map(|c| c.image.as_str()).collect();
    assert_eq!(images, ["load:2", "web:1", "db:2"]);
    assert_eq!(sim.said("Killing"), ["killing"], "none of it was the edit's doing");
}

fn deadline_at(sim: Sim, at: u64, seconds: u64) -> Sim {
    let mut to = sim.state.pod().redefinition();
    (to.generation, to.active_deadline) = (to.generation + 1, Some(secs(seconds)));
    sim.at(at, Event::Redefined { to })
}

#[test]
fn a_deadline_can_be_set_and_moved_while_the_pod_runs() {
    let failed = |sim: &Sim| {
        let (at, phase) = *sim.phases().last().unwrap();
        (at, phase, sim.status().reason.map(std::borrow::Cow::into_owned))
    };
    let expected = |at| (at, PodPhase::Failed, Some("DeadlineExceeded".to_owned()));
    let start = || world(Always, Guest::default()).start();
    assert_eq!(failed(&deadline_at(start(), 10, 50).until(100)), expected(50), "newly set");
    let sim = deadline_at(deadline_at(start(), 10, 90), 20, 30).until(100);
    assert_eq!(failed(&sim), expected(30), "sooner");
    assert_eq!(failed(&deadline_at(start(), 40, 30).until(100)), expected(40), "over already");
    assert_eq!(start().until(100).status().phase, PodPhase::Running);
}

#[test]
fn edits_in_a_row_leave_the_last() {
    let sim = world(Always, slow(4)).start();
    let sim = sim
        .edited_at(10, EDIT)
        .edited_at(11, &[("web", "web:3")])
        .edited_at(12, &[("web", "web:1")]);
    let sim = sim.until(60);
    assert_eq!(sim.starts("web"), [0, 14], "back to where it was, it is restarted once");
    assert_eq!(shown(&sim), ("web:1".into(), 1, None));
    let found = sim.when(|action| matches!(action, Action::Prepare { .. }));
    assert_eq!(found, [0, 14]);
}
