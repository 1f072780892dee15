use bytes::Bytes;

use crate::mqtt::kit::*;
use crate::mqtt::protocol::{Input, RecordName};
use crate::mqtt::record::{NodeRecord, PodRecord};
use crate::mqtt::status::Stage;

fn pod_writes(lab: &Lab) -> usize {
    lab.writes.iter().filter(|name| matches!(name, RecordName::Pod(_))).count()
}

#[test]
fn a_change_costs_at_most_three_writes_of_two_syncs() {
    let mut lab = Lab::online();
    lab.send(&with_artifact("module", intent("web", 1)));
    lab.fetched("module");
    lab.make_good("web");
    assert_eq!(pod_writes(&lab), 3, "accepted, tried, committed");
    // With the modules there already the first two are one.
    lab.send(&with_artifact("module", intent("web", 2)));
    lab.make_good("web");
    assert_eq!(pod_writes(&lab), 5);
    lab.send(&tombstone("web", 3));
    assert_eq!(pod_writes(&lab), 6);
    assert_eq!(lab.writes.len() - pod_writes(&lab), 1, "and the node's, once for all");
}

#[test]
fn a_start_writes_nothing_for_pods_that_are_good() {
    let mut lab = Lab::online();
    for n in 0..20 {
        lab.send(&intent(&format!("p{n}"), 1));
        lab.report(&format!("p{n}"), ready());
    }
    lab.seconds(20);
    lab.writes.clear();
    lab.restart();
    assert_eq!(lab.runs.len(), 20);
    assert_eq!(lab.writes, []);
    lab.connect();
    assert_eq!(lab.writes, [RecordName::Node], "connection numbers");
}

#[test]
fn what_could_not_be_stored_is_neither_run_nor_acknowledged() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab.disk_error = Some("no space left".into());
    lab.send(&intent("web", 2));
    assert_eq!(lab.runs("web"), Some(1));
    assert_eq!(lab.verdict("web").0, Some(1));
    let durable = lab.status("web").conditions.into_iter().find(|c| c.kind == "Durable").unwrap();
    assert_eq!(durable.message, "no space left");
    assert_eq!(lab.happened("StorageFailed"), 1, "said once");
    lab.disk_error = None;
    lab.seconds(300);
    assert_eq!(lab.runs("web"), Some(2));
    assert_eq!(lab.verdict("web").0, Some(2));
}

#[test]
fn going_back_needs_no_disk() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab.send(&intent("web", 2));
    lab.disk_error = Some("no space left".into());
    lab.report("web", crashed(9));
    assert_eq!(lab.runs("web"), Some(1));
}

#[test]
fn a_try_that_cannot_be_counted_is_not_begun() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab.send(&with_artifact("module", intent("web", 2)));
    lab.disk_error = Some("no space left".into());
    lab.fetched("module");
    assert_eq!(lab.runs("web"), Some(1));
    assert_eq!(lab.stage("web"), Some(Stage::Verified));
    lab.seconds(700);
    assert_eq!(lab.stage("web"), Some(Stage::RolledBack), "no stage is for ever");
}

#[test]
fn a_record_that_cannot_be_read_costs_one_pod() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 5));
    lab.send(&intent("db", 1));
    lab.disk.insert(RecordName::Pod(pod_key("web")), Bytes::from_static(b"{\"v\":1,"));
    lab.restart();
    assert_eq!((lab.runs("web"), lab.runs("db")), (None, Some(1)));
    assert_eq!(lab.happened("RecordUnreadable"), 1);
    lab.connect();
    assert_eq!(lab.runs("web"), Some(5), "the broker has it still");
}

#[test]
fn a_record_of_a_newer_podling_is_not_misread() {
    let newer = br#"{"v":2,"namespace":"default","name":"web","lines":[]}"#;
    let error = PodRecord::from_json(newer, &pod_key("web")).unwrap_err();
    assert_eq!(error.to_string(), "it was written by a newer podling (form 2; this one reads 1)");
}

#[test]
fn a_record_reads_back_as_it_was() {
    let mut lab = Lab::online();
    lab.send(&for_group("all", intent("web", 3)));
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab.send(&intent("web", 2));
    let bytes = lab.disk[&RecordName::Pod(pod_key("web"))].clone();
    let record = PodRecord::from_json(&bytes, &pod_key("web")).unwrap();
    assert_eq!((record.lines.len(), record.good.is_some()), (2, true));
    assert_eq!(record.to_json(&pod_key("web")), bytes);
    assert!(PodRecord::from_json(&bytes, &pod_key("db")).is_err(), "that of another pod");
    let bytes = lab.disk[&RecordName::Node].clone();
    assert_eq!(NodeRecord::from_json(&bytes).unwrap().to_json(), bytes);
}

#[test]
fn a_timer_that_rings_early_or_late_does_nothing_wrong() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    for _ in 0..100 {
        lab.input(Input::Tick);
    }
    assert_eq!(lab.stage("web"), Some(Stage::Starting));
}
