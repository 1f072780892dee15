use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::intent::{PodIntent, RolloutPolicy};
use crate::mqtt::kit::*;
use crate::mqtt::protocol::{Input, PodPhase, PodReport, RecordName};
use crate::mqtt::status::Stage;

fn good_one() -> Lab {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab
}

fn how(lab: &mut Lab) -> (Stage, String) {
    lab.settle();
    let rollout = lab.status("web").rollout.unwrap();
    (rollout.stage, rollout.reason)
}

#[test]
fn a_document_goes_through_its_stages() {
    let mut lab = Lab::online();
    lab.send(&with_artifact("module", intent("web", 1)));
    assert_eq!(lab.stage("web"), Some(Stage::Fetching));
    let digest = crate::mqtt::envelope::digest(b"module");
    lab.input(Input::Progress { digest, bytes: 400 });
    lab.seconds(11);
    let rollout = lab.status("web").rollout.unwrap();
    assert_eq!((rollout.bytes, rollout.total), (Some(400), Some(1000)));
    assert!(rollout.deadline_ms.is_some_and(|ms| ms > 23 * 3_600_000));
    assert_eq!(lab.runs("web"), None, "not before it is there");
    lab.fetched("module");
    assert_eq!(lab.stage("web"), Some(Stage::Starting));
    lab.report("web", running());
    assert_eq!(lab.stage("web"), Some(Stage::Probing));
    lab.report("web", ready());
    assert_eq!(lab.stage("web"), Some(Stage::Probing), "not for long enough");
    lab.seconds(10);
    assert_eq!(lab.stage("web"), Some(Stage::Committed));
}

#[test]
fn what_is_not_ready_in_time_gives_way_to_what_was_good() {
    let mut lab = good_one();
    lab.send(&intent("web", 2));
    assert_eq!(lab.runs("web"), Some(2));
    lab.report("web", running());
    lab.seconds(299);
    assert_eq!(lab.runs("web"), Some(2));
    lab.seconds(2);
    assert_eq!(how(&mut lab), (Stage::RolledBack, "ProgressDeadlineExceeded".into()));
    assert_eq!(lab.runs("web"), Some(1));
    assert_eq!(lab.verdict("web").0, Some(2), "what was accepted only moves forward");
    // Not tried again, whatever happens, until it changes.
    lab.report("web", ready());
    lab.seconds(3600);
    lab.restart();
    lab.connect();
    assert_eq!(lab.runs("web"), Some(1));
    assert_eq!(how(&mut lab).0, Stage::RolledBack);
    lab.send(&intent("web", 3));
    assert_eq!(lab.runs("web"), Some(3));
    lab.make_good("web");
}

#[test]
fn compiling_holds_the_clock_and_not_for_ever() {
    let mut lab = good_one();
    lab.send(&intent("web", 2));
    lab.report("web", compiling());
    lab.seconds(100);
    let left = |lab: &Lab| lab.status("web").rollout.unwrap().deadline_ms.unwrap();
    lab.disconnect();
    lab.connect();
    assert_eq!(left(&lab), 300_000, "it stands");
    lab.seconds(3000);
    assert_eq!(lab.stage("web"), Some(Stage::Starting));
    lab.report("web", running());
    lab.seconds(250);
    // Another module of the pod: the same hour.
    lab.report("web", compiling());
    lab.seconds(400);
    assert_eq!(lab.runs("web"), Some(2));
    lab.report("web", running());
    lab.seconds(40);
    assert_eq!(lab.runs("web"), Some(2));
    lab.report("web", ready());
    lab.seconds(9);
    // Ready, a second too late: the clock ran on.
    lab.report("web", running());
    lab.seconds(1);
    assert_eq!(how(&mut lab), (Stage::RolledBack, "ProgressDeadlineExceeded".into()));
    assert_eq!(lab.runs("web"), Some(1));

    lab.send(&intent("web", 3));
    lab.report("web", compiling());
    lab.seconds(3600 + 299);
    assert_eq!(lab.runs("web"), Some(3));
    lab.seconds(1);
    assert_eq!(lab.runs("web"), Some(1));
    lab.settle();
    let message = lab.status("web").rollout.unwrap().message;
    assert_eq!(message, "not ready in time: c: Compiling the module");
}

#[test]
fn what_compiles_and_becomes_good_is_committed() {
    let mut lab = good_one();
    lab.send(&intent("web", 2));
    lab.report("web", compiling());
    lab.seconds(1200);
    lab.make_good("web");
    assert_eq!(lab.runs("web"), Some(2));
}

#[test]
fn readiness_must_last() {
    let mut lab = good_one();
    lab.send(&intent("web", 2));
    for _ in 0..20 {
        lab.report("web", ready());
        lab.seconds(5);
        lab.report("web", running());
        lab.seconds(5);
    }
    assert_eq!(lab.stage("web"), Some(Stage::Probing));
}

#[test]
fn a_pod_that_fails_or_crashes_gives_way_at_once() {
    let failed = PodReport { phase: PodPhase::Failed, message: "exit 1".into(), ..running() };
    for (report, reason) in [(failed, "PodFailed"), (crashed(5), "CrashLoop")] {
        let mut lab = good_one();
        lab.send(&intent("web", 2));
        lab.report("web", report);
        assert_eq!(lab.runs("web"), Some(1), "{reason}");
        assert_eq!(how(&mut lab), (Stage::RolledBack, reason.into()));
    }
}

#[test]
fn a_pod_that_runs_to_its_end_is_good() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.report("web", PodReport { phase: PodPhase::Succeeded, ..PodReport::default() });
    assert_eq!(how(&mut lab).0, Stage::Committed);
}

#[test]
fn with_nothing_to_go_back_to_it_is_left_to_its_own_backoff() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.report("web", crashed(50));
    lab.seconds(301);
    assert_eq!(how(&mut lab), (Stage::Failed, "ProgressDeadlineExceeded".into()));
    assert_eq!(lab.runs("web"), Some(1), "the machine beside it may come back");
    lab.make_good("web");
}

#[test]
fn what_cannot_be_fetched_leaves_what_is_good_alone() {
    let mut lab = good_one();
    let applied = lab.recreated.len();
    lab.send(&with_artifact("module", intent("web", 2)));
    lab.not_fetched("module", true);
    assert_eq!(lab.stage("web"), Some(Stage::Fetching));
    let message = lab.status("web").rollout.unwrap().message;
    assert_eq!(message, "NotFound: 404");
    lab.seconds(10);
    lab.not_fetched("module", false);
    assert_eq!(how(&mut lab), (Stage::RolledBack, "FetchFailed".into()));
    assert_eq!((lab.runs("web"), lab.recreated.len()), (Some(1), applied));
    lab.seconds(24 * 3600);
    assert!(lab.fetching.is_empty(), "nobody wants it any more");
}

#[test]
fn a_link_that_is_too_slow_is_not_waited_for_for_ever() {
    let mut lab = Lab::online();
    let rollout = RolloutPolicy { fetch_deadline_seconds: Some(600), ..RolloutPolicy::default() };
    lab.send(&with_artifact("module", PodIntent { rollout, ..intent("web", 1) }));
    lab.seconds(601);
    assert_eq!(how(&mut lab), (Stage::Failed, "FetchDeadlineExceeded".into()));
    assert!(lab.fetching.is_empty());
}

#[test]
fn two_pods_that_want_the_same_have_one_transfer() {
    let mut lab = Lab::online();
    lab.send(&with_artifact("module", intent("web", 1)));
    lab.send(&with_artifact("module", intent("db", 1)));
    assert_eq!(lab.fetching.len(), 1);
    lab.send(&tombstone("web", 2));
    assert_eq!(lab.fetching.len(), 1, "the other still waits");
    lab.fetched("module");
    assert_eq!((lab.runs("web"), lab.runs("db")), (None, Some(1)));
}

#[test]
fn a_newer_document_supersedes_one_on_its_way() {
    let mut lab = good_one();
    lab.send(&with_artifact("module", intent("web", 2)));
    lab.send(&intent("web", 3));
    assert!(lab.fetching.is_empty());
    lab.settle();
    let previous = lab.status("web").previous.unwrap();
    assert_eq!(previous.stage, Stage::Superseded);
    assert_eq!(previous.target.revision.version.generation, 2);
    // The good one is still the first: the second never was.
    lab.report("web", crashed(9));
    assert_eq!(lab.runs("web"), Some(1));
}

#[test]
fn what_the_runtime_does_not_take_gives_way() {
    let mut lab = good_one();
    lab.send(&intent("web", 2));
    let (instance, _) = lab.runs[&pod_key("web")].clone();
    lab.input(Input::NotApplied { instance, refusal: Refusal::new(Reason::Invalid, "no") });
    assert_eq!(how(&mut lab), (Stage::RolledBack, "NotApplied".into()));
    assert_eq!(lab.runs("web"), Some(1));
}

#[test]
fn a_name_that_another_source_took_is_waited_for() {
    let mut lab = good_one();
    lab.restart();
    let (instance, _) = lab.runs[&pod_key("web")].clone();
    let refusal = Refusal::new(Reason::SourceConflict, "it comes from file a.yaml");
    lab.input(Input::NotApplied { instance, refusal });
    lab.connect();
    lab.settle();
    let status = lab.status("web");
    assert!(status.conditions.iter().any(|c| c.kind == "Applied" && c.reason == "SourceConflict"));
    assert_eq!(status.active, None);
    lab.input(Input::Reconsider);
    assert_ne!(lab.runs[&pod_key("web")].0, instance, "handed over again");
}

#[test]
fn tries_are_counted_before_they_begin_and_are_not_endless() {
    let mut lab = good_one();
    lab.send(&intent("web", 2));
    // Each time the daemon dies under it.
    for attempt in 2..=3 {
        lab.restart();
        assert_eq!(lab.runs("web"), Some(2), "try {attempt}");
        let text = lab.disk[&RecordName::Pod(pod_key("web"))].clone();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.contains(&format!("\"attempts\":{attempt}")), "{text}");
    }
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1));
    lab.connect();
    assert_eq!(how(&mut lab), (Stage::RolledBack, "TooManyAttempts".into()));
}

#[test]
fn without_a_good_one_a_killer_is_held() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.restart();
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1));
    for _ in 0..3 {
        lab.restart();
        assert_eq!(lab.runs("web"), None);
    }
    lab.connect();
    assert_eq!(how(&mut lab), (Stage::Failed, "TooManyAttempts".into()));
    lab.send(&intent("web", 2));
    assert_eq!(lab.runs("web"), Some(2));
}

#[test]
fn in_safe_mode_what_was_being_tried_is_not_tried_again() {
    let mut lab = good_one();
    lab.send(&intent("other", 1));
    lab.make_good("other");
    lab.send(&intent("web", 2));
    lab.config.safe_mode = true;
    lab.restart();
    assert_eq!((lab.runs("web"), lab.runs("other")), (Some(1), Some(1)));
    lab.connect();
    assert_eq!(how(&mut lab), (Stage::RolledBack, "SuspectedBootLoop".into()));
    assert_eq!(lab.node_condition("SafeMode").unwrap().status, "True");
    // What is new may be tried.
    lab.send(&intent("web", 3));
    assert_eq!(lab.runs("web"), Some(3));
}

#[test]
fn in_safe_mode_what_was_never_good_stays_down() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.report("web", crashed(2));
    lab.seconds(301);
    assert_eq!(how(&mut lab).0, Stage::Failed);
    lab.config.safe_mode = true;
    lab.restart();
    assert_eq!(lab.runs("web"), None);
    lab.config.safe_mode = false;
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1));
}

#[test]
fn while_it_is_fetched_after_a_power_cut_the_good_one_runs() {
    let mut lab = good_one();
    lab.send(&with_artifact("module", intent("web", 2)));
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1), "without any network");
    lab.fetched("module");
    assert_eq!(lab.runs("web"), Some(2));
}

#[test]
fn another_uid_makes_the_pod_anew() {
    let mut lab = good_one();
    lab.send(&intent("web", 2));
    lab.send(&PodIntent { uid: "uid-2".into(), ..intent("web", 3) });
    assert_eq!(lab.recreated, [false, false, true]);
}

#[test]
fn a_good_one_that_lost_its_module_asks_for_it() {
    let mut lab = Lab::online();
    lab.send(&with_artifact("module", intent("web", 1)));
    lab.fetched("module");
    lab.make_good("web");
    lab.images.clear();
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1), "at once, whatever is missing");
    lab.not_fetched("module", false);
    lab.seconds(301);
    assert_eq!(lab.fetching.len(), 1, "and again");
    lab.fetched("module");
    lab.connect();
    assert_eq!(how(&mut lab).0, Stage::Committed);
}

#[test]
fn what_is_pinned_is_all_that_may_come_to_run() {
    let mut lab = Lab::online();
    for (generation, content) in [(1, "one"), (2, "two"), (3, "three")] {
        lab.send(&with_artifact(content, intent("web", generation)));
        lab.fetched(content);
        if generation == 1 {
            lab.make_good("web");
        }
    }
    let digest = |text: &str| crate::mqtt::envelope::digest(text.as_bytes());
    assert_eq!(lab.protocol.pinned(), [digest("one"), digest("three")].into());
    lab.make_good("web");
    assert_eq!(lab.protocol.pinned(), [digest("three")].into());
    lab.send(&tombstone("web", 4));
    assert!(lab.protocol.pinned().is_empty());
}

#[test]
fn a_group_takes_over_where_the_node_document_ends_and_back() {
    let mut lab = good_one();
    lab.send(&for_group("all", intent("web", 1)));
    lab.send(&tombstone("web", 2));
    // The tombstone is about the node's own: it is nothing to go back to.
    lab.report("web", crashed(9));
    assert_eq!(lab.runs[&pod_key("web")].1.scope.to_string(), "group/all");
    lab.settle();
    assert_eq!(lab.status("web").last_good, None);
}

/// The same module, from elsewhere, of that size.
fn from(source: &str, size: u64, name: &str, generation: u64) -> PodIntent {
    let mut intent = with_artifact("module", intent(name, generation));
    intent.artifacts[0].sources = vec![source.to_owned()];
    intent.artifacts[0].size = size;
    intent
}

#[test]
fn what_one_document_says_of_a_module_fails_no_other_that_wants_it() {
    let mut lab = Lab::online();
    let digest = crate::mqtt::envelope::digest(b"module");
    // Whoever may sign for one namespace is first, and wrong: nobody has it there, and it has not that size.
    lab.send(&from("https://wrong.example/m", 7, "bad", 1));
    lab.send(&from("https://right.example/m", 1000, "web", 1));
    lab.send(&from("https://third.example/m", 1000, "too", 1));
    assert_eq!(lab.fetching[&digest], ["https://wrong.example/m"]);
    lab.not_fetched("module", false);
    let stage =
        |lab: &mut Lab, name| (lab.stage(name).unwrap(), lab.status(name).rollout.unwrap().reason);
    assert_eq!(stage(&mut lab, "bad"), (Stage::Failed, "FetchFailed".into()));
    assert_eq!(stage(&mut lab, "web"), (Stage::Fetching, String::new()));
    // At once, and from both places.
    let mut asked = lab.fetching[&digest].clone();
    asked.sort();
    assert_eq!(asked, ["https://right.example/m", "https://third.example/m"]);
    lab.fetched("module");
    assert_eq!((lab.runs("bad"), lab.runs("web"), lab.runs("too")), (None, Some(1), Some(1)));
}

#[test]
fn who_knows_another_place_need_not_wait_for_the_next_try_at_the_first() {
    let mut lab = Lab::online();
    let digest = crate::mqtt::envelope::digest(b"module");
    lab.send(&from("https://away.example/m", 1000, "web", 1));
    lab.not_fetched("module", true);
    assert!(lab.fetching.is_empty(), "it waits");
    lab.send(&from("https://here.example/m", 1000, "too", 1));
    assert!(lab.fetching[&digest].contains(&"https://here.example/m".to_owned()));
    lab.not_fetched("module", true);
    for _ in 0..20 {
        lab.seconds(1);
        assert!(lab.fetching.is_empty() || lab.fetching[&digest].len() == 2);
    }
    lab.seconds(300);
    // For good: both were asked, and neither has it.
    lab.not_fetched("module", false);
    assert_eq!(lab.stage("web"), Some(Stage::Failed));
    assert_eq!(lab.stage("too"), Some(Stage::Failed));
    lab.seconds(3600);
    assert!(lab.fetching.is_empty());
}

#[test]
fn two_images_that_are_one_module_are_one_transfer() {
    let mut lab = Lab::online();
    let mut both = from("https://one.example/m", 1000, "web", 1);
    let mut second = both.artifacts[0].clone();
    second.image = "other".to_owned();
    second.sources = vec!["https://two.example/m".to_owned()];
    both.artifacts.push(second);
    lab.send(&both);
    let digest = crate::mqtt::envelope::digest(b"module");
    assert_eq!(lab.fetching[&digest].len(), 2);
    lab.not_fetched("module", true);
    assert!(lab.fetching.is_empty(), "all of its places were asked");
    lab.seconds(6);
    lab.fetched("module");
    assert_eq!(lab.runs("web"), Some(1));
}
