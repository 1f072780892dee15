//! Images that are missing and containers that cannot be made.

use std::time::Duration;

use crate::lifecycle::{ContainerState, Event, PodPhase, RunId};
use crate::spec::{ContainerName, RestartPolicy};
use crate::testkit::pods::{Tweak, pod, regular, secs};
use crate::testkit::sim::{Guest, Sim, Try, World};

fn web(guest: Guest) -> Sim {
    World::new(pod([regular("web")])).guest("web", guest).start()
}

fn prepare_times(sim: &Sim) -> Vec<u64> {
    sim.when(|action| matches!(action, crate::lifecycle::Action::Prepare { .. }))
}

fn pulls(error: &'static str) -> Guest {
    Guest { prepare: vec![Try::bad(error)], ..Guest::default() }
}

fn starts(error: &'static str) -> Guest {
    Guest { start: vec![Try::bad(error)], ..Guest::default() }
}

#[test]
fn a_failing_pull_is_retried_after_10_20_40_up_to_300_seconds() {
    let sim = web(pulls("ErrImagePull")).until(1000);
    assert_eq!(prepare_times(&sim), [0, 10, 30, 70, 150, 310, 610, 910]);
    assert_eq!(sim.status().phase, PodPhase::Pending);
    assert_eq!(sim.status().container("web").unwrap().restart_count, 0);
}

#[test]
fn a_failing_pull_shows_its_error_and_then_the_back_off() {
    let sim = web(pulls("ErrImagePull")).until(9);
    let shown = |at| match &sim.status_at(at).container("web").unwrap().state {
        ContainerState::Waiting { reason, message } => (*reason, message.clone().unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(0), ("ErrImagePull", "because".to_owned()));
    let text = "Back-off pulling image \"web:1\": ErrImagePull: because";
    assert_eq!(shown(5), ("ImagePullBackOff", text.to_owned()));
    assert_eq!(sim.reasons(), ["Pulling", "Failed", "Failed", "BackOff", "Failed"]);
    assert_eq!(
        sim.said("Failed"),
        [
            "Failed to pull image \"web:1\": because",
            "Error: ErrImagePull",
            "Error: ImagePullBackOff"
        ]
    );
}

#[test]
fn a_pull_that_works_in_the_end_starts_the_container_and_forgets_the_failures() {
    let mut prepare = vec![Try::bad("ErrImagePull"); 2];
    prepare.push(Try::good(secs(3)));
    let guest = Guest { prepare, ..Guest::default() };
    let sim = web(guest).until(100);
    assert_eq!(sim.starts("web"), [33]);
    assert_eq!(
        sim.said("Pulled"),
        ["Successfully pulled image \"web:1\" in 3s (3s including waiting)."]
    );
    assert_eq!(sim.status().container("web").unwrap().restart_count, 0);
    assert_eq!(sim.status().container("web").unwrap().image_id, "sha256:1");
}

#[test]
fn an_image_that_may_not_be_pulled_is_looked_for_every_ten_seconds_under_its_own_reason() {
    for (reason, event) in
        [("ErrImageNeverPull", "ErrImageNeverPull"), ("InvalidImageName", "InspectFailed")]
    {
        let sim = web(pulls(reason)).until(35);
        assert_eq!(prepare_times(&sim), [0, 10, 20, 30], "{reason}");
        let status = sim.status();
        assert_eq!(status.container("web").unwrap().state.waiting_reason(), Some(reason));
        assert_eq!(sim.reasons()[..2], [event, "Failed"]);
        assert_eq!(sim.said("Failed")[0], format!("Error: {reason}"));
    }
}

#[test]
fn a_missing_config_map_is_looked_for_every_ten_seconds() {
    let sim = web(starts("CreateContainerConfigError")).until(35);
    assert_eq!(sim.starts("web"), [0, 10, 20, 30]);
    let status = sim.status();
    let web = status.container("web").unwrap();
    assert_eq!(web.state.waiting_reason(), Some("CreateContainerConfigError"));
    assert_eq!((web.restart_count, status.phase), (0, PodPhase::Pending));
    assert_eq!(sim.said("Failed")[0], "Error: because");
}

#[test]
fn a_module_that_cannot_be_made_is_tried_with_growing_delays_under_every_policy() {
    let pod = pod([regular("web")]).tweak(|pod| pod.restart_policy = RestartPolicy::Never);
    let sim = World::new(pod).guest("web", starts("CreateContainerError")).start().until(200);
    assert_eq!(sim.starts("web"), [0, 10, 30, 70, 150]);
    assert_eq!(sim.status().phase, PodPhase::Pending);
}

#[test]
fn a_container_that_was_made_but_not_started_counts_as_a_run() {
    let sim = web(starts("RunContainerError")).until(35);
    assert_eq!(sim.starts("web"), [0, 0, 10, 30]);
    let status = sim.status();
    let web = status.container("web").unwrap();
    let last = web.last.as_ref().unwrap();
    assert_eq!((last.exit_code, &*last.reason, web.restart_count), (128, "StartError", 3));
    assert_eq!(web.state.waiting_reason(), Some("CrashLoopBackOff"));
    let pod = pod([regular("web")]).tweak(|pod| pod.restart_policy = RestartPolicy::Never);
    let once = World::new(pod).guest("web", starts("RunContainerError")).start().until(100);
    assert_eq!((once.starts("web"), once.status().phase), (vec![0], PodPhase::Failed));
}

#[test]
fn a_normal_start_records_pulled_created_started() {
    let sim = web(Guest::default()).until(1);
    assert_eq!(sim.reasons(), ["Pulled", "Created", "Started"]);
    assert_eq!(
        sim.said("Pulled"),
        ["Container image \"web:1\" already present on machine and can be accessed by the pod"]
    );
}

fn compiling(name: &str, attempt: u32) -> Event {
    let run = RunId { container: ContainerName::new(name), attempt };
    Event::Compiling { run, digest: "sha256:abc".to_owned() }
}

fn compiled(name: &str, attempt: u32, took: Option<Duration>) -> Event {
    Event::Compiled { run: RunId { container: ContainerName::new(name), attempt }, took }
}

#[test]
fn a_container_whose_module_is_being_compiled_shows_it_until_it_is() {
    let slow = Guest { start: vec![Try::good(secs(100))], ..Guest::default() };
    let sim = web(slow).at(1, compiling("web", 0)).at(2, compiling("web", 0));
    let sim = sim.at(91, compiled("web", 0, Some(secs(60)))).until(200);
    let shown = |at| sim.status_at(at).container("web").unwrap().state.waiting_reason();
    let reasons = [shown(0), shown(1), shown(90), shown(92), shown(101)];
    let made = Some("ContainerCreating");
    assert_eq!(reasons, [made, Some("Compiling"), Some("Compiling"), made, None]);
    assert_eq!(sim.reasons(), ["Pulled", "Compiling", "Compiled", "Created", "Started"]);
    let module = "the module of image \"web:1\" (sha256:abc)";
    assert_eq!(sim.said("Compiling"), [format!("Compiling {module} for this machine")]);
    let took = format!("Successfully compiled {module} in 1m0s (1m30s including waiting).");
    assert_eq!(sim.said("Compiled"), [took]);
}

#[test]
fn what_another_container_had_compiled_is_told_as_that() {
    let slow = Guest { start: vec![Try::good(secs(9))], ..Guest::default() };
    let sim = web(slow).at(1, compiling("web", 0)).at(5, compiled("web", 0, None)).until(20);
    assert_eq!(
        sim.said("Compiled"),
        [
            "The module of image \"web:1\" (sha256:abc) was compiled for another container meanwhile (4s of waiting)."
        ]
    );
}

fn held(name: &str, attempt: u32, held: bool) -> Event {
    Event::Held { run: RunId { container: ContainerName::new(name), attempt }, held }
}

/// What its status says of why it waits.
fn waiting(sim: &Sim, at: u64) -> (&'static str, String) {
    match sim.status_at(at).container("web").unwrap().state.clone() {
        ContainerState::Waiting { reason, message } => (reason, message.unwrap_or_default()),
        other => panic!("after {at} s: {other:?}"),
    }
}

const TIGHT: &str = "memory is tight on the node, and nothing new is compiled or fetched; it goes on by itself when that is over";

#[test]
fn a_container_whose_module_may_not_be_compiled_for_lack_of_memory_shows_it_as_long_as_that_lasts()
{
    let slow = Guest { start: vec![Try::good(secs(100))], ..Guest::default() };
    let sim = web(slow).at(1, compiling("web", 0));
    // Of another run, said twice, and taken back.
    let sim = sim.at(2, held("web", 1, true)).at(10, held("web", 0, true));
    let sim = sim.at(11, held("web", 0, true)).at(50, held("web", 0, false));
    let sim = sim.at(90, compiled("web", 0, Some(secs(30)))).until(200);
    let module = "module of image \"web:1\" (sha256:abc)";
    let compiles = format!("Compiling the {module} for this machine");
    let waits = format!("The {module} waits to be compiled: {TIGHT}");
    for (at, message) in [(5, &compiles), (20, &waits), (60, &compiles)] {
        assert_eq!(waiting(&sim, at), ("Compiling", message.clone()), "after {at} s");
    }
    assert_eq!(sim.said("MemoryIsTight"), [waits]);
    let reasons = ["Pulled", "Compiling", "MemoryIsTight", "Compiled", "Created", "Started"];
    assert_eq!(sim.reasons(), reasons);
}

#[test]
fn a_container_whose_image_may_not_be_fetched_for_lack_of_memory_shows_it_as_long_as_that_lasts() {
    let slow = Guest { prepare: vec![Try::good(secs(100))], ..Guest::default() };
    let sim = web(slow).at(10, held("web", 0, true)).at(50, held("web", 0, false)).until(200);
    let waits = format!("Image \"web:1\" waits to be fetched: {TIGHT}");
    let creating = |message: &str| ("ContainerCreating", message.to_owned());
    let shown = [5, 20, 60].map(|at| waiting(&sim, at));
    assert_eq!(shown, [creating(""), creating(&waits), creating("")]);
    assert_eq!(sim.said("MemoryIsTight"), [waits]);
    assert_eq!(sim.status().container("web").unwrap().state.waiting_reason(), None);
}

#[test]
fn a_compilation_that_fails_leaves_its_own_reason() {
    let bad = Guest {
        start: vec![Try { takes: secs(30), error: Some("CreateContainerError") }],
        ..Guest::default()
    };
    let sim = web(bad).at(1, compiling("web", 0)).until(32);
    let shown = |at| sim.status_at(at).container("web").unwrap().state.waiting_reason();
    assert_eq!([shown(29), shown(31)], [Some("Compiling"), Some("CreateContainerError")]);
    assert!(sim.said("Compiled").is_empty());
}
