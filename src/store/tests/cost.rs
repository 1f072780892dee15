//! What is written, and what is not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

#[test]
fn identical_content_costs_nothing() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    let commit = |source| store.commit_object(Pod, "ns", "web", &source, b"{}").unwrap();
    assert_eq!(commit(Source::Api), Commit::Written);
    let (steps, written) = (disk.steps(), store.written());
    assert_eq!(commit(Source::Api), Commit::Unchanged);
    assert_eq!((disk.steps(), store.written()), (steps, written));
    assert_eq!(commit(Source::Mqtt), Commit::Written, "another owner is a change");
    let (store, _) = open(&disk).unwrap();
    let opened = store.written();
    assert_eq!(
        store.commit_object(Pod, "ns", "web", &Source::Mqtt, b"{}").unwrap(),
        Commit::Unchanged,
        "nor after a restart"
    );
    assert_eq!(store.written(), opened);
}

#[test]
fn a_pod_change_costs_at_most_six_fsyncs() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    let cost = |act: &dyn Fn()| {
        let before = disk.syncs();
        let counted = store.written().fsyncs;
        act();
        assert_eq!(store.written().fsyncs - counted, disk.syncs() - before, "all are counted");
        disk.syncs() - before
    };
    let commit =
        |text: &str| store.commit_object(Pod, "ns", "web", &Source::Api, text.as_bytes()).unwrap();
    let uid = PodUid::new("uid");
    assert_eq!(cost(&|| assert_eq!(commit("1"), Commit::Written)), 2);
    assert_eq!(cost(&|| assert_eq!(commit("2"), Commit::Written)), 2);
    assert_eq!(cost(&|| drop(store.commit_runtime(&uid, b"{}"))), 2);
    // A pod's removal, with its restart counts.
    let removal = cost(&|| {
        store.delete_object(Pod, "ns", "web").unwrap();
        store.delete_runtime(&uid).unwrap();
    });
    assert_eq!(removal, 3);
}
