use bytes::Bytes;

use crate::mqtt::controller::{self, Message};
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::intent::PodIntent;
use crate::mqtt::kit::*;
use crate::mqtt::protocol::{Input, RecordName};
use crate::mqtt::trust::{Mode, Revoked, RunningPods};

fn signed_by(key: &controller::SecretKey, intent: &PodIntent) -> Message {
    controller::intent(&tree(), intent, &[key]).unwrap()
}

#[test]
fn only_a_trusted_signature_over_the_exact_bytes_counts() {
    let good = signed(&intent("web", 1));
    let mut changed = Envelope::open(&good.payload, PayloadType::Intent).unwrap();
    changed.payload = serde_json::to_vec(&intent("web", 2)).unwrap();
    let stranger = secret(77);
    let (none, unknown) = (vec![], signed_by(&stranger, &intent("web", 1)).payload);
    let unsigned = controller::sign(
        PayloadType::Intent,
        serde_json::to_vec(&intent("web", 1)).unwrap(),
        &none,
    );
    let rows = [
        (good.payload.clone(), Some(1), None),
        (changed.to_json(), None, Some("BadSignature")),
        (unknown, None, Some("UntrustedKey")),
        (unsigned.to_json(), None, Some("NotSigned")),
        (signed_by(&root_key(), &intent("web", 1)).payload, None, Some("NotAllowed")),
    ];
    for (payload, accepted, why) in rows {
        let mut lab = Lab::online();
        let (topic, payload) = (good.topic.clone(), Bytes::from(payload));
        lab.input(Input::Message { topic, payload, retained: false });
        assert_eq!(lab.verdict("web"), (accepted, why));
    }
}

#[test]
fn a_mode_less_than_require_takes_it_and_says_so() {
    for (mode, reason) in [(Mode::Warn, "Configured"), (Mode::Off, "Configured")] {
        let mut config = config();
        config.trust = trust(mode);
        let mut lab = Lab::with(config);
        lab.connect();
        let message = signed_by(&secret(77), &intent("web", 1));
        lab.publish(&message);
        assert_eq!(lab.verdict("web"), (Some(1), None));
        let status = lab.status("web");
        assert!(status.conditions.iter().any(|c| c.kind == "Verified" && c.status == "False"));
        assert_eq!(lab.node_condition("SignaturesRequired").unwrap().reason, reason);
        lab.restart();
        lab.connect();
        let status = lab.status("web");
        assert!(status.conditions.iter().any(|c| c.kind == "Verified"), "also after a restart");
    }
}

#[test]
fn a_key_is_rotated_from_afar() {
    let mut lab = Lab::online();
    let next = secret(2);
    lab.send(&intent("web", 1));
    let early = signed_by(&next, &intent("db", 1));
    lab.publish(&early);
    assert_eq!(lab.verdict("db"), (None, Some("UntrustedKey")));
    lab.seconds(10);
    let before = lab.subscribed.len();
    let root = root_key();
    let document = trust_document(1, 1, &[(&next, "intent"), (&root, "root")], vec![], &[&root]);
    lab.publish(&document);
    lab.grant(before);
    assert_eq!(lab.verdict("db"), (Some(1), None), "what came too early is taken now");
    assert_eq!(lab.runs("web"), Some(1), "what the old key signed runs on");
    lab.send(&intent("web", 2));
    assert_eq!(lab.verdict("web"), (Some(1), Some("UntrustedKey")));
    assert_eq!(lab.node_status().trust.version, 1);
    lab.restart();
    lab.connect();
    lab.publish(&signed_by(&next, &intent("web", 3)));
    assert_eq!(lab.verdict("web").0, Some(3), "the new trust survives");
}

#[test]
fn a_revoked_key_can_end_its_pods() {
    for (pods, left) in [(RunningPods::Keep, Some(1)), (RunningPods::Stop, None)] {
        let mut lab = Lab::online();
        lab.send(&intent("web", 1));
        let (root, next) = (root_key(), secret(2));
        let keyid = controller_key().id();
        let revoked = vec![Revoked { keyid, pods, reason: "stolen".into() }];
        let keys = [(&next, "intent"), (&root, "root")];
        lab.publish(&trust_document(1, 1, &keys, revoked, &[&root]));
        assert_eq!(lab.runs("web"), left);
        lab.restart();
        assert_eq!(lab.runs("web"), left, "also after a restart");
    }
}

#[test]
fn trust_changes_only_by_enough_roots_and_only_forwards() {
    let (root, other, controller) = (root_key(), secret(8), controller_key());
    let keys = [(&controller, "intent"), (&root, "root")];
    let others = [(&controller, "intent"), (&other, "root")];
    let mut lab = Lab::online();
    lab.publish(&trust_document(3, 1, &keys, vec![], &[&root]));
    let refusal = |lab: &mut Lab| {
        lab.settle();
        lab.node_status().refused.map(|r| r.reason.as_str())
    };
    assert_eq!((refusal(&mut lab), lab.node_status().trust.version), (None, 3));
    let rows = [
        (trust_document(2, 1, &keys, vec![], &[&root]), "Stale"),
        (trust_document(3, 1, &[(&root, "root")], vec![], &[&root]), "GenerationConflict"),
        (trust_document(4, 1, &others, vec![], &[&other]), "UntrustedKey"),
        (trust_document(5000, 1, &keys, vec![], &[&root]), "NotAllowed"),
        (trust_document(4, 3, &keys, vec![], &[&root]), "EpochNotAuthorized"),
    ];
    for (document, why) in rows {
        lab.publish(&document);
        assert_eq!(refusal(&mut lab), Some(why));
        let told = lab.node_status().refused.unwrap().digest;
        assert_eq!(told, document.digest, "its publisher knows it again");
        assert_eq!(lab.node_status().trust.version, 3);
    }
    // A new root needs the old one's word and its own.
    lab.publish(&trust_document(4, 1, &others, vec![], &[&root, &other]));
    assert_eq!(refusal(&mut lab), None);
    lab.publish(&trust_document(5, 1, &keys, vec![], &[&root, &other]));
    assert_eq!((refusal(&mut lab), lab.node_status().trust.version), (None, 5));
}

#[test]
fn an_epoch_begins_when_a_root_says_so() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 7));
    let second = |generation| PodIntent { epoch: 2, ..intent("web", generation) };
    lab.send(&second(1));
    assert_eq!(lab.verdict("web"), (Some(7), Some("EpochNotAuthorized")));
    let (root, controller) = (root_key(), controller_key());
    let keys = [(&controller, "intent"), (&root, "root")];
    lab.seconds(10);
    let before = lab.subscribed.len();
    lab.publish(&trust_document(1, 2, &keys, vec![], &[&root]));
    lab.grant(before);
    // The control plane was restored from a backup, and begins again below.
    assert_eq!(lab.verdict("web"), (Some(1), None));
    assert_eq!(lab.runs("web"), Some(1));
    // What the lost one had signed is over.
    lab.send(&intent("web", 8));
    assert_eq!(lab.verdict("web"), (Some(1), Some("Stale")));
}

#[test]
fn another_anchor_is_another_trust() {
    let mut lab = Lab::online();
    let (root, next) = (root_key(), secret(2));
    let keys = [(&next, "intent"), (&root, "root")];
    lab.publish(&trust_document(1, 1, &keys, vec![], &[&root]));
    lab.settle();
    assert_eq!(lab.node_status().trust.version, 1);
    assert!(lab.disk.contains_key(&RecordName::Trust));
    // Whoever has the machine in their hands has the last word.
    let fresh = secret(55);
    let yaml = key_yaml(&fresh, "root, intent");
    lab.config.trust = crate::mqtt::trust::Trust::new(Mode::Require, &[anchor(&yaml, 1)]).unwrap();
    lab.restart();
    lab.connect();
    let trust = lab.node_status().trust;
    assert_eq!((trust.version, trust.keys), (0, vec![fresh.id()]));
    assert_eq!(lab.happened("TrustDropped"), 1);
}

#[test]
fn a_key_that_may_do_less_between_the_signature_and_the_acceptance_does_less() {
    let (root, controller) = (root_key(), controller_key());
    let namespaced = |namespaces: &str| {
        let mut document =
            trust_document(1, 1, &[(&controller, "intent"), (&root, "root")], vec![], &[&root]);
        let mut envelope = Envelope::open(&document.payload, PayloadType::Trust).unwrap();
        let mut payload: serde_json::Value = serde_json::from_slice(&envelope.payload).unwrap();
        payload["keys"][0]["namespaces"] = serde_json::json!([namespaces]);
        envelope.payload = serde_json::to_vec(&payload).unwrap();
        let signed = controller::sign(PayloadType::Trust, envelope.payload, &[&root]);
        document.payload = signed.to_json();
        document
    };
    let demoted =
        trust_document(1, 1, &[(&controller, "command"), (&root, "root")], vec![], &[&root]);
    for (document, accepted) in
        [(namespaced("default"), true), (namespaced("elsewhere"), false), (demoted, false)]
    {
        let mut lab = Lab::online();
        lab.hold_admissions = true;
        lab.send(&intent("web", 1));
        lab.publish(&document);
        lab.settle();
        assert_eq!(lab.node_status().trust.version, 1);
        lab.admit_held();
        let (held, why) = lab.verdict("web");
        assert_eq!((held.is_some(), why), (accepted, (!accepted).then_some("NotAllowed")));
    }
}

#[test]
fn a_node_that_is_given_to_another_tenant_forgets_the_first_ones_trust() {
    let mut lab = Lab::online();
    let (root, next) = (root_key(), secret(2));
    let keys = [(&next, "intent"), (&root, "root")];
    lab.publish(&trust_document(1, 1, &keys, vec![], &[&root]));
    lab.settle();
    assert_eq!(lab.node_status().trust.version, 1);
    lab.config.topics = crate::mqtt::topic::Topics::new("pods/v1", "umbrella", NODE).unwrap();
    lab.restart();
    lab.connect();
    assert_eq!(lab.node_status().trust.version, 0, "the anchor's keys are in force");
    assert_eq!(lab.happened("TrustDropped"), 1);
}
