use bytes::Bytes;

use crate::mqtt::intent::PodIntent;
use crate::mqtt::kit::*;
use crate::mqtt::protocol::{Input, MARKS_MAX, RecordName};

fn listed(name: &str, generation: u64, from: u64) -> PodIntent {
    PodIntent { index_revision: from, ..intent(name, generation) }
}

#[test]
fn a_tombstone_deletes_and_its_mark_stays() {
    let mut lab = Lab::online();
    let old = lab.send(&intent("web", 1));
    lab.send(&tombstone("web", 2));
    assert_eq!(lab.runs("web"), None);
    assert_eq!(lab.verdict("web"), (Some(2), None));
    let accepted = lab.status("web").documents[0].accepted.clone().unwrap();
    assert!(accepted.deleted);
    lab.restart();
    lab.connect();
    // The broker, or somebody in it, brings the old one back.
    lab.publish(&old);
    assert_eq!(lab.verdict("web"), (Some(2), Some("Stale")));
    assert_eq!(lab.runs("web"), None);
    lab.send(&intent("web", 3));
    assert_eq!(lab.runs("web"), Some(3));
}

#[test]
fn absence_deletes_nothing() {
    let mut lab = Lab::online();
    let message = lab.send(&intent("web", 1));
    lab.make_good("web");
    let applied = lab.recreated.len();
    // Withdrawn.
    let (topic, payload) = (message.topic, Bytes::new());
    lab.input(Input::Message { topic, payload, retained: false });
    assert_eq!(lab.runs("web"), Some(1));
    // Wiped.
    lab.broker.clear();
    lab.disconnect();
    lab.connect();
    lab.seconds(60);
    assert_eq!(lab.runs("web"), Some(1));
    assert_eq!(lab.recreated.len(), applied, "nothing was restarted");
    let synced = lab.node_condition("DesiredSynced").unwrap();
    assert_eq!((synced.status.as_str(), synced.reason.as_str()), ("False", "DesiredMissing"));
    // Its status stands at the broker again.
    assert_eq!(lab.verdict("web"), (Some(1), None));
}

#[test]
fn an_index_deletes_what_it_should_list_and_does_not() {
    let mut lab = Lab::online();
    let web = lab.send(&listed("web", 1, 1));
    lab.send(&listed("db", 1, 1));
    lab.publish(&index(2, &[&web]));
    assert_eq!((lab.runs("web"), lab.runs("db")), (Some(1), None));
    lab.settle();
    assert_eq!(lab.node_status().desired.revision, 2);
}

#[test]
fn an_index_says_nothing_of_pods_that_came_later_or_have_none() {
    let mut lab = Lab::online();
    lab.send(&listed("late", 1, 5));
    lab.send(&intent("free", 1));
    lab.send(&for_group("all", intent("grouped", 1)));
    lab.publish(&index(4, &[]));
    let runs: Vec<_> = ["late", "free", "grouped"].map(|name| lab.runs(name)).into();
    assert_eq!(runs, [Some(1); 3]);
    lab.publish(&index(5, &[]));
    assert_eq!(lab.runs("late"), None);
    assert_eq!(lab.runs("free"), Some(1));
}

#[test]
fn what_the_index_does_not_list_is_not_taken() {
    let mut lab = Lab::online();
    lab.publish(&index(7, &[]));
    let message = lab.send(&listed("web", 1, 3));
    assert_eq!(lab.verdict("web"), (None, Some("NotInIndex")));
    // Listed after all: the document is fetched again.
    lab.seconds(10);
    let before = lab.subscribed.len();
    lab.publish(&index(8, &[&message]));
    lab.settle();
    lab.grant(before);
    assert_eq!(lab.verdict("web"), (Some(1), None));
}

#[test]
fn an_index_names_the_generation_and_the_digest() {
    let mut lab = Lab::online();
    let newer = signed(&listed("web", 2, 1));
    lab.publish(&index(1, &[&newer]));
    lab.send(&listed("web", 1, 1));
    assert_eq!(lab.verdict("web"), (None, Some("Stale")));
    lab.seconds(15);
    let synced = lab.node_condition("DesiredSynced").unwrap();
    assert_eq!(synced.reason, "DocumentMissing");
    lab.publish(&newer);
    assert_eq!(lab.verdict("web"), (Some(2), None));
    assert_eq!(lab.node_condition("DesiredSynced").unwrap().reason, "Synced");
}

#[test]
fn an_index_is_newer_or_it_is_refused() {
    let mut lab = Lab::online();
    let web = lab.send(&listed("web", 1, 1));
    lab.publish(&index(5, &[&web]));
    for (revision, pods, why) in [(4, vec![], "Stale"), (5, vec![], "GenerationConflict")] {
        lab.publish(&index(revision, &pods));
        lab.settle();
        assert_eq!(lab.runs("web"), Some(1));
        assert_eq!(lab.node_status().refused.unwrap().reason.as_str(), why);
    }
    // The very one again is no refusal.
    lab.publish(&index(5, &[&web]));
    lab.settle();
    assert_eq!(lab.node_status().refused, None);
}

#[test]
fn an_index_that_was_interrupted_by_a_power_cut_is_finished() {
    let mut lab = Lab::online();
    let web = lab.send(&listed("web", 1, 1));
    lab.publish(&index(1, &[&web]));
    let before = lab.disk[&RecordName::Pod(pod_key("web"))].clone();
    lab.publish(&index(2, &[]));
    assert_eq!(lab.runs("web"), None);
    // The node's record was written, the pod's was not.
    lab.disk.insert(RecordName::Pod(pod_key("web")), before);
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1));
    lab.connect();
    assert_eq!(lab.runs("web"), None, "the retained index says it again");
}

#[test]
fn a_pruned_pod_comes_back_only_with_a_higher_generation() {
    let mut lab = Lab::online();
    let web = lab.send(&listed("web", 1, 1));
    lab.publish(&index(1, &[&web]));
    lab.publish(&index(2, &[]));
    lab.publish(&index(3, &[&web]));
    lab.disconnect();
    lab.connect();
    assert_eq!(lab.runs("web"), None);
    lab.send(&listed("web", 2, 4));
    assert_eq!(lab.runs("web"), Some(2));
}

#[test]
fn a_deletion_works_on_a_full_disk() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.disk_error = Some("no space left".to_owned());
    lab.send(&tombstone("web", 2));
    assert_eq!(lab.runs("web"), None);
    assert!(!lab.disk.contains_key(&RecordName::Pod(pod_key("web"))), "its space is free");
    let (accepted, _) = lab.verdict("web");
    assert_eq!(accepted, None, "not acknowledged before the mark is on disk");
    assert!(
        lab.status("web").conditions.iter().any(|c| c.kind == "Durable" && c.status == "False")
    );
    lab.disk_error = None;
    lab.seconds(600);
    assert_eq!(lab.verdict("web"), (Some(2), None));
}

#[test]
fn who_deletes_without_end_in_one_namespace_harms_no_other() {
    let mut lab = Lab::online();
    let of = |namespace: &str, name: &str, generation, ms: i64| PodIntent {
        namespace: namespace.to_owned(),
        issued_at: crate::mqtt::intent::time_text(EPOCH_MS + ms),
        ..intent(name, generation)
    };
    let delete = |lab: &mut Lab, namespace: &str, name: &str, ms: i64| {
        let text = crate::mqtt::intent::time_text(EPOCH_MS + ms);
        lab.send(&crate::mqtt::controller::tombstone(&of(namespace, name, 1, 0), &text))
    };
    let old = lab.send(&of("quiet", "gone", 1, 10));
    delete(&mut lab, "quiet", "gone", 20);
    for n in 0..i64::try_from(MARKS_MAX).unwrap() + 50 {
        delete(&mut lab, "loud", &format!("p{n}"), 1_000_000 + n);
    }
    lab.restart();
    lab.connect();
    let refused = |lab: &mut Lab, namespace: &str, name: &str| {
        lab.settle();
        let topic = format!("pods/v1/acme/s/gw-17/pod/{namespace}/{name}");
        let status: crate::mqtt::status::PodStatus =
            serde_json::from_slice(&lab.broker[&topic]).unwrap();
        status.documents[0].refused.as_ref().map(|refused| refused.reason.as_str())
    };
    // Signed before all of that, and here late: it is as good as ever.
    lab.send(&of("quiet", "late", 1, 30));
    assert_eq!(refused(&mut lab, "quiet", "late"), None);
    // What was deleted there is known by its name still, and what the other one has forgotten stays away.
    lab.publish(&old);
    assert_eq!(refused(&mut lab, "quiet", "gone"), Some("Stale"));
    lab.send(&of("loud", "p0", 1, 30));
    assert_eq!(refused(&mut lab, "loud", "p0"), Some("Stale"));
}

#[test]
fn marks_are_bounded_and_what_they_forbade_stays_forbidden() {
    let mut lab = Lab::online();
    let dated = |name: &str, generation, ms: i64| PodIntent {
        issued_at: crate::mqtt::intent::time_text(EPOCH_MS + ms),
        ..intent(name, generation)
    };
    let mut first = None;
    let count = i64::try_from(MARKS_MAX).unwrap() + 10;
    for n in 0..count {
        let name = format!("p{n}");
        let old = lab.send(&dated(&name, 1, n * 10));
        first.get_or_insert(old);
        lab.send(&crate::mqtt::controller::tombstone(
            &dated(&name, 1, 0),
            &crate::mqtt::intent::time_text(EPOCH_MS + n * 10 + 5),
        ));
    }
    let kept = lab.disk.keys().filter(|name| matches!(name, RecordName::Pod(_))).count();
    assert_eq!(kept, MARKS_MAX);
    lab.settle();
    let shown = lab.broker.keys().filter(|t| t.contains("/s/gw-17/pod/")).count();
    assert_eq!(shown, MARKS_MAX, "the statuses of the forgotten are withdrawn");
    // The oldest is forgotten by name, and still cannot come back.
    lab.restart();
    lab.connect();
    lab.publish(&first.unwrap());
    assert_eq!(lab.verdict("p0"), (None, Some("Stale")));
    // A new pod can come, under that name or another.
    lab.send(&dated("p0", 3, count * 10));
    assert_eq!(lab.runs("p0"), Some(3));
}
