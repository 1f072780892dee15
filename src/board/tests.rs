#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde_json::json;

use super::events::{PER_OBJECT_MAX, SIMILAR_MAX, SIMILAR_WINDOW, TTL};
use super::history::CHANGES_MAX;
use super::selector::{FieldSelector, LabelSelector, SelectorError};
use super::{Board, EventDraft, Expired, Kind, Object, ObjectKey, Query, WatchEventType};
use crate::clock::Timestamp;
use crate::limits::EVENTS_MAX;
use crate::spec::{PodKey, PodUid};

fn board() -> Board {
    Board::new(1000, at(0))
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::simulated(Duration::from_secs(seconds))
}

fn meta(namespace: &str, name: &str, uid: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectMeta::default()
    }
}

fn pod(name: &str, uid: &str) -> Pod {
    Pod { metadata: meta("default", name, uid), ..Pod::default() }
}

fn labelled(name: &str, label: &str) -> Pod {
    let mut pod = pod(name, name);
    pod.metadata.labels = Some(BTreeMap::from([("app".to_owned(), label.to_owned())]));
    pod
}

fn map(namespace: &str, name: &str, bytes: usize) -> ConfigMap {
    let data = BTreeMap::from([("k".to_owned(), "x".repeat(bytes))]);
    ConfigMap { metadata: meta(namespace, name, name), data: Some(data), ..ConfigMap::default() }
}

fn version(object: &Object) -> u64 {
    object.metadata().resource_version.as_ref().unwrap().parse().unwrap()
}

/// Type and name of everything a watch has now.
fn seen(watch: &mut super::Watch) -> Vec<(WatchEventType, String)> {
    let events = watch.next_batch(1000).unwrap();
    events.into_iter().map(|event| (event.event, event.object.name().to_owned())).collect()
}

#[test]
fn versions_only_grow_over_all_kinds_and_an_equal_object_makes_none() {
    let board = board();
    let first = board.upsert(pod("a", "1"));
    let second = board.upsert(map("default", "a", 1));
    assert!(1000 < version(&first) && version(&first) < version(&second));
    assert_eq!(board.upsert(pod("a", "1")), first, "nothing has changed");
    assert_eq!(board.version(), version(&second));
    let removed = board.remove(&first.key(), None).unwrap();
    assert!(version(&removed) > version(&second), "a deletion is a version too");
    assert_eq!(board.get(&first.key()), None);
}

#[test]
fn only_the_incarnation_that_was_meant_is_removed() {
    let board = board();
    board.upsert_pod(pod("a", "new"));
    let key = PodKey::new("default", "a");
    assert_eq!(board.remove_pod(&key, Some(&PodUid::new("old"))), None);
    assert!(board.pod(&key).is_some());
    assert!(board.remove_pod(&key, Some(&PodUid::new("new"))).is_some());
    assert_eq!(board.remove_pod(&key, None), None);
}

#[test]
fn another_uid_under_the_same_name_is_another_object() {
    let board = board();
    board.upsert_pod(pod("a", "old"));
    let mut watch = board.watch(Query::all(Kind::Pod), Some(board.version())).unwrap();
    board.upsert_pod(pod("a", "new"));
    let expected = [WatchEventType::Deleted, WatchEventType::Added].map(|e| (e, "a".to_owned()));
    assert_eq!(seen(&mut watch), expected);
}

#[test]
fn lists_are_sorted_and_know_their_namespace() {
    let board = board();
    for (namespace, name) in [("b", "x"), ("a", "z"), ("a", "y"), ("ab", "w")] {
        board.upsert(map(namespace, name, 1));
    }
    let names = |query: &Query| -> Vec<String> {
        let items = board.list(query).items;
        items.iter().map(|o| format!("{}/{}", o.namespace(), o.name())).collect()
    };
    assert_eq!(names(&Query::all(Kind::ConfigMap)), ["a/y", "a/z", "ab/w", "b/x"]);
    assert_eq!(names(&Query::all(Kind::ConfigMap).within("a")), ["a/y", "a/z"]);
    assert_eq!(names(&Query::all(Kind::Namespace)), ["/a", "/ab", "/b", "/default"]);
    assert_eq!(names(&Query::all(Kind::Pod)).len(), 0);
    assert_eq!(board.count(Kind::ConfigMap), 4);
}

#[test]
fn namespaces_are_those_in_use_and_default() {
    let board = board();
    let there = |name: &str| board.get(&ObjectKey::new(Kind::Namespace, "", name)).is_some();
    board.upsert(map("far", "a", 1));
    board.upsert(Object::from(Pod { metadata: meta("far", "a", "1"), ..Pod::default() }));
    board.record(&draft("far-away", "x", "m"), at(0));
    assert!(there("default") && there("far"));
    board.remove(&ObjectKey::new(Kind::ConfigMap, "far", "a"), None);
    assert!(there("far"));
    board.remove(&ObjectKey::new(Kind::Pod, "far", "a"), None);
    assert!(!there("far") && there("default"));
    board.upsert(map("default", "a", 1));
    board.remove(&ObjectKey::new(Kind::ConfigMap, "default", "a"), None);
    assert!(there("default"));
}

#[test]
fn a_secret_is_never_in_debug_output() {
    let data = BTreeMap::from([("p".to_owned(), k8s_openapi::ByteString(b"hunter2".to_vec()))]);
    let secret =
        Secret { metadata: meta("default", "s", "1"), data: Some(data), ..Secret::default() };
    let board = board();
    let mut watch = board.watch(Query::all(Kind::Secret), None).unwrap();
    let object = board.upsert(secret);
    let shown = format!(
        "{object:?} {:?} {board:?} {:?}",
        board.list(&Query::all(Kind::Secret)),
        watch.next_batch(9)
    );
    assert!(shown.contains("secret/default/s@1002"), "{shown}");
    let bytes = format!("{:?}", b"hunter2");
    assert!(!shown.contains("hunter2") && !shown.contains(&bytes), "{shown}");
}

#[test]
fn a_history_bounded_in_number_lets_slow_watchers_fall_out() {
    let board = board();
    let start = board.version();
    let mut slow = board.watch(Query::all(Kind::Pod), Some(start)).unwrap();
    for n in 0..CHANGES_MAX {
        let mut pod = pod("a", "1");
        pod.metadata.generation = Some(i64::try_from(n).unwrap());
        board.upsert_pod(pod);
    }
    assert_eq!(slow.next_batch(1).unwrap().len(), 1, "everything is still there");
    board.upsert_pod(pod("b", "1"));
    board.upsert_pod(pod("c", "1"));
    let oldest = start + 2;
    assert_eq!(slow.next_batch(1).unwrap_err(), Expired { since: start + 1, oldest });
    assert_eq!(board.watch(Query::all(Kind::Pod), Some(start)).unwrap_err().since, start);
    assert!(board.watch(Query::all(Kind::Pod), Some(oldest)).is_ok());
}

#[test]
fn a_history_bounded_in_bytes_forgets_large_objects_sooner() {
    let board = board();
    let start = board.version();
    for n in 0..20 {
        board.upsert(map("default", "big", 500_000 + n));
    }
    assert!(board.watch(Query::all(Kind::ConfigMap), Some(start)).is_err());
    assert!(board.watch(Query::all(Kind::ConfigMap), Some(board.version() - 2)).is_ok());
}

#[test]
fn versions_of_another_life_are_expired() {
    let board = board();
    let far = board.version() + 1;
    for since in [0, 999, far, u64::MAX] {
        assert!(board.watch(Query::all(Kind::Pod), Some(since)).is_err(), "{since}");
    }
    assert!(board.watch(Query::all(Kind::Pod), Some(board.version())).is_ok());
}

#[test]
fn batches_are_bounded_and_complete() {
    let board = board();
    for n in 0..10 {
        board.upsert_pod(pod(&n.to_string(), "1"));
    }
    let mut watch = board.watch(Query::all(Kind::Pod), None).unwrap();
    for n in 10..20 {
        board.upsert_pod(pod(&n.to_string(), "1"));
    }
    let mut names = Vec::new();
    loop {
        let batch = watch.next_batch(3).unwrap();
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= 3);
        names.extend(batch.into_iter().map(|e| e.object.name().parse::<u32>().unwrap()));
    }
    assert_eq!(names, (0..20).collect::<Vec<_>>());
    assert_eq!(watch.version(), board.version());
}

#[tokio::test]
async fn a_sleeping_watcher_wakes_for_each_change_from_any_thread() {
    let board = board();
    let mut watch = board.watch(Query::all(Kind::Pod), Some(board.version())).unwrap();
    let writer = board.clone();
    let writing = std::thread::spawn(move || {
        for n in 0..200 {
            writer.upsert_pod(pod(&format!("{n:03}"), "1"));
        }
    });
    let mut names = Vec::new();
    let reading = async {
        while names.len() < 200 {
            for event in watch.next_batch(7).unwrap() {
                names.push(event.object.name().to_owned());
            }
            if names.len() < 200 {
                watch.changed().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap();
    writing.join().unwrap();
    assert!(names.is_sorted() && names.len() == 200);
}

/// One random deed.
#[derive(Clone, Debug)]
enum Deed {
    Label(u8, u8),
    Remove(u8),
    Read,
}

fn any_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0_u8..4, 0_u8..3).prop_map(|(name, label)| Deed::Label(name, label)),
        1 => (0_u8..4).prop_map(Deed::Remove),
        1 => Just(Deed::Read),
    ]
}

proptest! {
    /// Whoever lists, then follows, ends with what whoever lists later sees: whatever the selector, whenever they read.
    #[test]
    fn a_watch_leads_to_the_list(deeds in prop::collection::vec(any_deed(), 0..80), begin in 0_usize..80) {
        let board = board();
        let mut query = Query::all(Kind::Pod);
        query.labels = LabelSelector::parse("app in (l0,l1)").unwrap();
        let mut known: BTreeMap<String, Object> = BTreeMap::new();
        let mut watch = None;
        let follow = |watch: &mut super::Watch, known: &mut BTreeMap<String, Object>| {
            for event in watch.next_batch(usize::MAX).unwrap() {
                let name = event.object.name().to_owned();
                let before = match event.event {
                    WatchEventType::Added => known.insert(name, event.object).is_none(),
                    WatchEventType::Modified => known.insert(name, event.object).is_some(),
                    WatchEventType::Deleted => known.remove(&name).is_some(),
                };
                assert!(before, "added what was unknown, changed and deleted what was known");
            }
        };
        for (at, deed) in deeds.iter().enumerate() {
            if at == begin {
                let list = board.list(&query);
                known = list.items.into_iter().map(|o| (o.name().to_owned(), o)).collect();
                watch = Some(board.watch(query.clone(), Some(list.version)).unwrap());
            }
            match deed {
                Deed::Label(name, label) => {
                    board.upsert_pod(labelled(&format!("p{name}"), &format!("l{label}")));
                }
                Deed::Remove(name) => {
                    board.remove_pod(&PodKey::new("default", &format!("p{name}")), None);
                }
                Deed::Read => {
                    if let Some(watch) = &mut watch {
                        follow(watch, &mut known);
                    }
                }
            }
        }
        if let Some(watch) = &mut watch {
            follow(watch, &mut known);
            let listed: Vec<Object> = board.list(&query).items;
            prop_assert_eq!(known.into_values().collect::<Vec<_>>(), listed);
        }
    }
}

fn draft(name: &str, reason: &str, message: &str) -> EventDraft {
    EventDraft {
        involved: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        },
        warning: false,
        reason: reason.to_owned(),
        message: message.to_owned(),
        component: "podling".to_owned(),
        host: "gateway".to_owned(),
    }
}

/// Reason, message and count of all events, oldest first.
fn recorded(board: &Board) -> Vec<(String, String, i32)> {
    let mut events: Vec<_> = board
        .list(&Query::all(Kind::Event))
        .items
        .into_iter()
        .filter_map(|object| if let Object::Event(event) = object { Some(event) } else { None })
        .collect();
    events.sort_by_key(|event| event.first_timestamp.as_ref().map(|time| time.0));
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    events.iter().map(|e| (text(&e.reason), text(&e.message), e.count.unwrap())).collect()
}

#[test]
fn equal_events_count_up_and_keep_their_name() {
    let board = board();
    for second in [0, 5, 9] {
        board.record(&draft("web", "BackOff", "again"), at(second));
    }
    board.record(&draft("web", "BackOff", "another"), at(9));
    board.record(&EventDraft { warning: true, ..draft("web", "BackOff", "again") }, at(10));
    let of = |reason: &str, message: &str, count| (reason.to_owned(), message.to_owned(), count);
    let expected =
        [of("BackOff", "again", 3), of("BackOff", "another", 1), of("BackOff", "again", 1)];
    assert_eq!(recorded(&board), expected);
    let Object::Event(first) = board.list(&Query::all(Kind::Event)).items[0].clone() else {
        panic!()
    };
    let value = serde_json::to_value(first.as_ref()).unwrap();
    assert_eq!(value["firstTimestamp"], "1970-01-01T00:00:00Z");
    assert_eq!(value["lastTimestamp"], "1970-01-01T00:00:09Z");
    assert_eq!(value["source"], json!({"component": "podling", "host": "gateway"}));
    assert!(value["metadata"]["name"].as_str().unwrap().starts_with("web."));
}

#[test]
fn a_flood_of_different_messages_becomes_one_event() {
    let board = board();
    for n in 0..100 {
        board.record(&draft("web", "Unhealthy", &format!("probe {n}")), at(n));
    }
    let events = recorded(&board);
    assert_eq!(events.len(), SIMILAR_MAX + 1);
    let last = &events[SIMILAR_MAX];
    assert_eq!(last.1, "(combined from similar events): probe 99");
    assert_eq!(last.2, 90);
    let later = at(100 + SIMILAR_WINDOW.as_secs());
    board.record(&draft("web", "Unhealthy", "calm again"), later);
    assert!(recorded(&board).iter().any(|event| event.1 == "calm again"), "the flood is over");
}

#[test]
fn events_expire_an_hour_after_they_were_last_seen() {
    let board = board();
    board.record(&draft("web", "Once", "m"), at(0));
    board.record(&draft("web", "Again", "m"), at(0));
    board.record(&draft("web", "Again", "m"), at(60));
    board.expire_events(at(TTL.as_secs()));
    assert_eq!(recorded(&board).len(), 2);
    board.expire_events(at(TTL.as_secs() + 1));
    assert_eq!(recorded(&board).len(), 1);
    board.record(&draft("web", "Once", "m"), at(TTL.as_secs() + 2));
    assert_eq!(recorded(&board).last().unwrap().2, 1, "counted anew");
}

#[test]
fn one_noisy_object_cannot_hide_its_neighbours_events() {
    let board = board();
    board.record(&draft("quiet", "Started", "m"), at(0));
    for n in 0..(2 * EVENTS_MAX as u64) {
        board.record(&draft("noisy", &format!("Reason{n}"), "m"), at(1));
    }
    let events = recorded(&board);
    assert_eq!(events.len(), PER_OBJECT_MAX + 1);
    assert_eq!(events[0].0, "Started");
    for n in 0..(2 * EVENTS_MAX as u64) {
        board.record(&draft(&format!("pod-{n}"), "Started", "m"), at(2 + n));
    }
    assert_eq!(board.count(Kind::Event), EVENTS_MAX, "and all together are bounded");
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let board = board();
    board.record(&draft("web", "Long", &"ü".repeat(2000)), at(0));
    assert_eq!(recorded(&board)[0].1.len(), super::events::MESSAGE_BYTES_MAX);
}

#[test]
fn label_selectors_match_as_in_kubernetes() {
    let mut object = pod("a", "1");
    let labels = [("app", "web"), ("tier", ""), ("example.com/n", "5")];
    object.metadata.labels = Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    let object = Object::from(object);
    let cases = [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app=db", false),
        ("app!=db", true),
        ("app!=web", false),
        ("none!=x", true),
        ("app", true),
        ("none", false),
        ("!none", true),
        ("! app", false),
        ("tier=", true),
        ("app in (db, web)", true),
        ("app in (db)", false),
        ("app notin (db)", true),
        ("none notin (db)", true),
        ("app=web,tier,!none", true),
        ("app=web,none", false),
        ("example.com/n>4,example.com/n<6", true),
        ("example.com/n>5", false),
        ("none in (a)", false),
    ];
    for (text, expected) in cases {
        assert_eq!(LabelSelector::parse(text).unwrap().matches(&object), expected, "{text}");
    }
    for wrong in [
        "=a", "app=(", "app in", "app in a", "a b", "app=a=b", "a,,b", "!", "app>x", "-=/", "a/b/c",
    ] {
        assert!(LabelSelector::parse(wrong).is_err(), "{wrong}");
    }
    assert_eq!(LabelSelector::parse(&"a,".repeat(4096)), Err(SelectorError::TooLong));
}

#[test]
fn field_selectors_know_the_fields_of_each_kind() {
    let object: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "gw", "containers": [], "restartPolicy": "Always"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    }))
    .unwrap();
    let object = Object::Pod(Arc::new(object));
    let cases = [
        ("metadata.name=web", true),
        ("metadata.name==web,metadata.namespace=default", true),
        ("metadata.name!=web", false),
        ("spec.nodeName=gw,status.phase!=Failed", true),
        ("spec.hostNetwork=false", true),
        ("status.podIPs=fd00::1", true),
        ("status.nominatedNodeName=", true),
        ("spec.restartPolicy=Never", false),
        ("metadata.name=a\\,b", false),
    ];
    for (text, expected) in cases {
        let selector = FieldSelector::parse(Kind::Pod, text).unwrap();
        assert_eq!(selector.matches(&object), expected, "{text}");
    }
    let unknown = FieldSelector::parse(Kind::Pod, "spec.foo=1").unwrap_err();
    assert_eq!(unknown.to_string(), "field label not supported: spec.foo");
    assert!(
        FieldSelector::parse(Kind::Event, "involvedObject.name=a,reason!=b,type=Normal").is_ok()
    );
    assert!(FieldSelector::parse(Kind::Secret, "type=Opaque").is_ok());
    assert!(FieldSelector::parse(Kind::ConfigMap, "type=Opaque").is_err());
    for wrong in ["metadata.name", "metadata.name=a=b", "metadata.name=a\\x"] {
        assert!(FieldSelector::parse(Kind::Pod, wrong).is_err(), "{wrong}");
    }
}
