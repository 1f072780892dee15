//! Each rule, and what is no intent at all.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use proptest::prelude::*;

use super::*;
use crate::mqtt::kit;
use crate::mqtt::version::NUMBER_MAX;

fn read(intent: &PodIntent) -> Result<Release, Refusal> {
    Release::read(&serde_json::to_vec(intent).unwrap(), "k")
}

/// Fields that are wrong, in order.
fn faults(change: impl FnOnce(&mut PodIntent)) -> Vec<String> {
    let mut intent = kit::with_artifact("module", kit::intent("web", 1));
    change(&mut intent);
    match read(&intent) {
        Ok(_) => vec![],
        Err(refusal) => refusal.causes.into_iter().map(|c| c.field).collect(),
    }
}

#[test]
fn every_rule_names_its_field() {
    type Change = Box<dyn FnOnce(&mut PodIntent)>;
    let rows: Vec<(Change, &[&str])> = vec![
        (Box::new(|_| {}), &[]),
        (Box::new(|i| i.api_version = "v1".into()), &["apiVersion"]),
        (Box::new(|i| i.kind = "Pod".into()), &["kind"]),
        (Box::new(|i| i.tenant = "A".into()), &["tenant"]),
        (Box::new(|i| i.namespace = String::new()), &["namespace"]),
        (Box::new(|i| i.namespace = "a.b".into()), &["namespace"]),
        (Box::new(|i| i.name = "a/b".into()), &["name"]),
        (Box::new(|i| i.node = None), &["node"]),
        (Box::new(|i| i.group = Some("g".into())), &["node"]),
        (Box::new(|i| i.node = Some("+".into())), &["node"]),
        (Box::new(|i| i.epoch = 0), &["epoch"]),
        (Box::new(|i| i.generation = NUMBER_MAX + 1), &["generation"]),
        (Box::new(|i| i.index_revision = u64::MAX), &["indexRevision"]),
        (Box::new(|i| i.uid = "a b".into()), &["uid"]),
        (Box::new(|i| i.uid = "a".repeat(65)), &["uid"]),
        (Box::new(|i| i.issued_at = "yesterday".into()), &["issuedAt"]),
        (Box::new(|i| i.manifest = None), &["manifest"]),
        (Box::new(|i| i.deleted = true), &["manifest"]),
        (Box::new(|i| drop(i.node_selector.insert("a".into(), "b".into()))), &["nodeSelector"]),
        (Box::new(|i| i.artifacts[0].size = 0), &["artifacts[0].size"]),
        (Box::new(|i| i.artifacts[0].image = String::new()), &["artifacts[0].image"]),
        (Box::new(|i| i.artifacts.push(i.artifacts[0].clone())), &["artifacts[1].image"]),
        (Box::new(|i| i.artifacts[0].sources.push("ftp://x".into())), &["artifacts[0].sources[1]"]),
        (
            Box::new(|i| i.artifacts[0].sources.push("https://a b".into())),
            &["artifacts[0].sources[1]"],
        ),
        (Box::new(|i| i.artifacts[0].sources = vec!["mqtt:".into(); 9]), &["artifacts[0].sources"]),
        (
            Box::new(|i| {
                let base = i.artifacts[0].digest;
                let (digest, format) = (crate::mqtt::envelope::digest(b"d"), String::new());
                let sources = vec![];
                i.artifacts[0].deltas = vec![Delta { base, format, digest, size: 1, sources }];
            }),
            &["artifacts[0].deltas[0].base", "artifacts[0].deltas[0].format"],
        ),
        (
            Box::new(|i| {
                i.secrets = vec![SealedSecret { name: "A".into(), sealed: String::new() }]
            }),
            &["secrets[0].name", "secrets[0].sealed"],
        ),
        (Box::new(|i| i.rollout.progress_deadline_seconds = Some(5)), &["rollout.minReadySeconds"]),
        (
            Box::new(|i| i.rollout.fetch_deadline_seconds = Some(0)),
            &["rollout.fetchDeadlineSeconds"],
        ),
        (Box::new(|i| (i.epoch, i.uid) = (0, String::new())), &["epoch", "uid"]),
    ];
    for (at, (change, expected)) in rows.into_iter().enumerate() {
        assert_eq!(faults(change), expected, "row {at}");
    }
}

#[test]
fn two_images_with_one_digest_have_one_size() {
    let other = |i: &mut PodIntent| {
        let mut artifact = i.artifacts[0].clone();
        (artifact.image, artifact.size) = ("other".into(), artifact.size + 1);
        i.artifacts.push(artifact);
    };
    assert_eq!(faults(other), ["artifacts[1].size"]);
}

#[test]
fn what_a_node_does_not_know_it_does_not_take() {
    let json = serde_json::to_string(&kit::intent("web", 1)).unwrap();
    let with = |more: &str| json.replacen('{', &format!("{{{more},"), 1);
    for (text, field) in [
        (with("\"urgent\":true"), "urgent"),
        (with("\"rollout\":{\"strategy\":\"Canary\"}"), "rollout.strategy"),
        (json.replace("\"epoch\":1", "\"epoch\":\"1\""), "epoch"),
    ] {
        let refusal = Release::read(text.as_bytes(), "k").unwrap_err();
        assert_eq!(refusal.reason, Reason::Malformed);
        assert_eq!(refusal.causes[0].field, field, "{text}");
    }
    let twice = with("\"epoch\":1");
    assert!(Release::read(twice.as_bytes(), "k").is_err(), "a field that is there twice");
    assert!(Release::read(format!("{json} {{}}").as_bytes(), "k").is_err(), "two documents");
}

#[test]
fn a_secret_is_in_no_debug_text() {
    let mut intent = kit::intent("web", 1);
    let sealed = "AGE-TEXT".to_owned();
    intent.secrets.push(SealedSecret { name: "login".into(), sealed });
    assert!(!format!("{intent:?}").contains("AGE-TEXT"));
}

proptest! {
    #[test]
    fn rubbish_is_never_fatal(text in "[\\[\\]{}\":,a-z0-9 ]{0,200}") {
        prop_assert!(Release::read(text.as_bytes(), "").is_err());
    }

    #[test]
    fn depth_is_bounded(depth in 1_usize..5000) {
        let text = format!("{}{}", "{\"manifest\":".repeat(depth), "[".repeat(depth));
        prop_assert!(Release::read(text.as_bytes(), "").is_err());
    }
}
