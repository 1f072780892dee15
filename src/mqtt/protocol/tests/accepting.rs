use bytes::Bytes;

use crate::mqtt::cause::{Cause, Reason, Refusal};
use crate::mqtt::controller;
use crate::mqtt::intent::{Manifest, PodIntent};
use crate::mqtt::kit::*;
use crate::mqtt::protocol::Input;
use crate::mqtt::topic::Scope;

#[test]
fn an_intent_is_durable_then_run_then_acknowledged() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    assert_eq!(lab.runs("web"), Some(1));
    assert_eq!(lab.verdict("web"), (Some(1), None));
    let status = lab.status("web");
    assert_eq!(status.active.unwrap().revision.version.generation, 1);
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1), "without any network");
}

#[test]
fn versions_decide() {
    // Held: generation 5. What comes, what is held then, why it was refused.
    let other_text = |mut intent: PodIntent| {
        intent.manifest = Some(Manifest::Text("another text".to_owned()));
        intent
    };
    let rows: &[(PodIntent, u64, Option<&str>)] = &[
        (intent("web", 6), 6, None),
        (intent("web", 60), 60, None),
        (intent("web", 5), 5, None),
        (intent("web", 4), 5, Some("Stale")),
        (other_text(intent("web", 5)), 5, Some("GenerationConflict")),
        (PodIntent { epoch: 2, ..intent("web", 1) }, 5, Some("EpochNotAuthorized")),
    ];
    for (next, held, why) in rows {
        let mut lab = Lab::online();
        lab.send(&intent("web", 5));
        let text = format!("generation {} of epoch {}", next.generation, next.epoch);
        lab.send(next);
        assert_eq!(lab.verdict("web"), (Some(*held), *why), "{text}");
        assert_eq!(lab.runs("web"), Some(*held), "{text}");
    }
}

#[test]
fn a_repeated_document_restarts_nothing_and_is_acknowledged_again() {
    let mut lab = Lab::online();
    let message = lab.send(&intent("web", 1));
    lab.make_good("web");
    let (writes, applied) = (lab.writes.len(), lab.recreated.len());
    lab.sent.clear();
    lab.publish(&message);
    lab.settle();
    let topic = lab.config.topics.pod_status(&pod_key("web")).unwrap();
    assert_eq!(lab.sent.iter().filter(|p| p.topic == topic).count(), 1, "said again");
    assert_eq!((lab.writes.len(), lab.recreated.len()), (writes, applied));
}

#[test]
fn a_refusal_names_everything_that_is_wrong() {
    let mut lab = Lab::online();
    let causes = vec![
        Cause {
            line: Some(14),
            column: Some(21),
            ..Cause::invalid("spec.containers[0].resources.limits.memory", "not a quantity")
        },
        Cause::new("FieldValueRequired", "spec.containers[0].name", "Required value"),
    ];
    lab.refusals.insert(pod_key("web"), Refusal::of(Reason::Invalid, causes.clone()));
    let message = lab.send(&intent("web", 1));
    lab.settle();
    let refused = lab.status("web").documents[0].refused.clone().unwrap();
    assert_eq!((refused.reason, refused.errors), (Reason::Invalid, causes));
    assert_eq!(refused.digest, message.digest, "a publisher knows its document again");
    assert_eq!((lab.runs("web"), lab.disk.len()), (None, 1), "only the node's record");
    // Mended under the next generation: the refusal is gone.
    lab.refusals.clear();
    lab.send(&intent("web", 2));
    assert_eq!(lab.verdict("web"), (Some(2), None));
}

#[test]
fn a_refused_generation_is_not_held() {
    let mut lab = Lab::online();
    let refusal = Refusal::new(Reason::Invalid, "no");
    lab.refusals.insert(pod_key("web"), refusal);
    lab.send(&intent("web", 7));
    lab.refusals.clear();
    lab.send(&intent("web", 3));
    assert_eq!(lab.verdict("web"), (Some(3), None));
}

#[test]
fn documents_for_others_are_refused() {
    let rows: Vec<(PodIntent, Reason)> = vec![
        (PodIntent { node: Some("gw-18".into()), ..intent("web", 1) }, Reason::WrongTarget),
        (PodIntent { tenant: "other".into(), ..intent("web", 1) }, Reason::WrongTarget),
        (PodIntent { name: "db".into(), ..intent("web", 1) }, Reason::WrongTarget),
        (PodIntent { namespace: "kube".into(), ..intent("web", 1) }, Reason::WrongTarget),
        (for_group("line-a", intent("web", 1)), Reason::WrongTarget),
    ];
    for (intent, reason) in rows {
        let mut lab = Lab::online();
        // Signed rightly, and put under this node's topic by the broker.
        let payload = serde_json::to_vec(&intent).unwrap();
        let key = controller_key();
        let envelope =
            controller::sign(crate::mqtt::envelope::PayloadType::Intent, payload, &[&key]);
        let topic = lab.config.topics.pod(&Scope::Node, &pod_key("web")).unwrap();
        let payload = Bytes::from(envelope.to_json());
        lab.input(Input::Message { topic, payload, retained: true });
        assert_eq!(lab.verdict("web"), (None, Some(reason.as_str())), "{intent:?}");
        assert_eq!(lab.runs.len(), 0);
    }
}

#[test]
fn the_first_owner_keeps_a_name_until_it_is_free() {
    let mut lab = Lab::online();
    let conflict = Refusal::new(Reason::SourceConflict, "it already comes from file a.yaml");
    lab.refusals.insert(pod_key("web"), conflict);
    lab.send(&intent("web", 1));
    assert_eq!(lab.verdict("web"), (None, Some("SourceConflict")));
    lab.refusals.clear();
    lab.seconds(10);
    let before = lab.subscribed.len();
    lab.input(Input::Reconsider);
    lab.grant(before);
    assert_eq!(lab.verdict("web"), (Some(1), None), "fetched again from the broker");
}

#[test]
fn of_two_that_arrive_together_the_newer_wins() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 2));
    lab.send(&intent("web", 1));
    lab.send(&intent("web", 3));
    assert_eq!(lab.verdict("web"), (Some(3), None));
    assert_eq!(lab.runs("web"), Some(3));
}

#[test]
fn the_node_leads_before_its_groups_in_their_order() {
    let mut lab = Lab::online();
    let scope = |lab: &Lab| lab.runs.get(&pod_key("web")).map(|(_, r)| r.scope.to_string());
    lab.send(&for_group("all", intent("web", 1)));
    assert_eq!(scope(&lab).as_deref(), Some("group/all"));
    lab.send(&for_group("line-a", intent("web", 1)));
    assert_eq!(scope(&lab).as_deref(), Some("group/line-a"));
    lab.send(&intent("web", 1));
    assert_eq!(scope(&lab).as_deref(), Some("node"));
    lab.settle();
    let status = lab.status("web");
    let inactive: Vec<_> = status
        .documents
        .iter()
        .map(|d| (d.scope.to_string(), d.accepted.as_ref().unwrap().inactive.clone()))
        .collect();
    let overridden = Some("Overridden".to_owned());
    assert_eq!(
        inactive,
        [
            ("node".to_owned(), None),
            ("group/line-a".to_owned(), overridden.clone()),
            ("group/all".to_owned(), overridden)
        ]
    );
    // Without the override, the group's again.
    lab.send(&tombstone("web", 2));
    assert_eq!(scope(&lab).as_deref(), Some("group/line-a"));
}

#[test]
fn a_group_selects_nodes_by_their_labels() {
    let selecting = |value: &str| {
        let mut intent = for_group("all", intent("web", 1));
        intent.node_selector.insert("site".into(), value.into());
        intent
    };
    let mut lab = Lab::online();
    lab.send(&selecting("south"));
    lab.settle();
    assert_eq!(lab.runs("web"), None);
    let accepted = lab.status("web").documents[0].accepted.clone().unwrap();
    assert_eq!(accepted.inactive.as_deref(), Some("NotSelected"));
    // The node is moved: what it has accepted is enough.
    lab.config.labels.insert("site".into(), "south".into());
    lab.restart();
    assert_eq!(lab.runs("web"), Some(1));
    // And leaves the group.
    lab.config.groups.clear();
    lab.restart();
    assert_eq!(lab.runs("web"), None);
}

#[test]
fn groups_of_others_are_not_listened_to() {
    let mut lab = Lab::online();
    lab.send(&for_group("line-b", intent("web", 1)));
    assert_eq!((lab.runs.len(), lab.disk.len()), (0, 1));
}

#[test]
fn refused_names_are_shown_and_bounded() {
    let mut lab = Lab::online();
    for n in 0..200 {
        let topic = format!("pods/v1/acme/n/gw-17/pod/default/p{n}");
        let payload = Bytes::from_static(b"rubbish");
        lab.input(Input::Message { topic, payload, retained: false });
    }
    lab.settle();
    let shown = lab.broker.keys().filter(|t| t.contains("/s/gw-17/pod/")).count();
    assert_eq!(shown, crate::mqtt::protocol::STRANGERS_MAX);
    assert_eq!(lab.disk.len(), 1, "nothing of them is written down");
}

#[test]
fn rubbish_of_every_kind_is_refused_and_never_fatal() {
    let good = signed(&intent("web", 1));
    let topic = good.topic.clone();
    let envelope = String::from_utf8(good.payload.clone()).unwrap();
    let rows: Vec<(Vec<u8>, Reason)> = vec![
        (b"{".to_vec(), Reason::Malformed),
        (b"[]".to_vec(), Reason::Malformed),
        (vec![0xff; 100], Reason::Malformed),
        (good.payload[..good.payload.len() - 5].to_vec(), Reason::Malformed),
        (vec![b' '; 300_000], Reason::TooLarge),
        (envelope.replace("intent.v1", "index.v1").into_bytes(), Reason::Malformed),
        (envelope.replace("\"sig\":\"", "\"sig\":\"AA").into_bytes(), Reason::Malformed),
        (envelope.replace("\"keyid\":\"", "\"keyid\":\"0").into_bytes(), Reason::UntrustedKey),
    ];
    for (payload, reason) in rows {
        let mut lab = Lab::online();
        let input = Input::Message {
            topic: topic.clone(),
            payload: payload.clone().into(),
            retained: true,
        };
        lab.input(input);
        assert_eq!(lab.verdict("web"), (None, Some(reason.as_str())));
    }
}

#[test]
fn what_is_mended_while_it_is_looked_at_is_looked_at_next() {
    let mut lab = Lab::online();
    let refusal = Refusal::new(Reason::Invalid, "no");
    lab.refusals.insert(pod_key("web"), refusal);
    lab.hold_admissions = true;
    lab.send(&intent("web", 7));
    // Its author has seen it himself, and publishes what he meant under the same generation.
    let mended = PodIntent { uid: "uid-2".into(), ..intent("web", 7) };
    lab.send(&mended);
    lab.settle();
    lab.refusals.clear();
    lab.admit_held();
    assert_eq!(lab.verdict("web"), (Some(7), None));
    assert_eq!(lab.status("web").documents[0].accepted.as_ref().unwrap().revision.uid, "uid-2");
}

#[test]
fn what_came_while_a_newer_one_was_looked_at_gets_its_verdict() {
    for refused in [false, true] {
        let mut lab = Lab::online();
        if refused {
            lab.refusals.insert(pod_key("web"), Refusal::new(Reason::Invalid, "no"));
        }
        lab.hold_admissions = true;
        lab.send(&intent("web", 7));
        lab.send(&intent("web", 6));
        lab.refusals.clear();
        lab.admit_held();
        let expected = if refused { (Some(6), None) } else { (Some(7), Some("Stale")) };
        assert_eq!(lab.verdict("web"), expected);
    }
}

#[test]
fn room_for_one_more_is_for_who_was_refused_for_want_of_it() {
    let mut lab = Lab::online();
    let refusal = Refusal::new(Reason::TooManyPods, "the node has 1024 pods, and takes no more");
    lab.refusals.insert(pod_key("web"), refusal);
    lab.send(&intent("web", 1));
    assert_eq!(lab.verdict("web"), (None, Some("TooManyPods")));
    lab.refusals.clear();
    lab.seconds(60);
    let before = lab.subscribed.len();
    lab.input(Input::Reconsider);
    lab.grant(before);
    assert_eq!(lab.verdict("web"), (Some(1), None));
}

#[test]
fn a_namespace_has_no_dot() {
    // The names of a pod's record would be those of another's.
    let mut lab = Lab::online();
    let gone = PodIntent { namespace: "default.more".into(), ..tombstone("web", 2) };
    let topic = "pods/v1/acme/n/gw-17/pod/default.more/web".to_owned();
    let payload = serde_json::to_vec(&gone).unwrap();
    let key = controller_key();
    let kind = crate::mqtt::envelope::PayloadType::Intent;
    let payload = Bytes::from(controller::sign(kind, payload, &[&key]).to_json());
    lab.input(Input::Message { topic, payload, retained: true });
    assert_eq!(lab.writes.len(), 1, "only the node's: {:?}", lab.writes);
}
