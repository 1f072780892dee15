#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::mqtt::envelope::{EnvelopeSignature, PayloadType};
use crate::mqtt::kit::{anchor, key_yaml, secret};

fn set(yaml: &str, threshold: usize) -> Result<Trust, TrustError> {
    Trust::new(Mode::Require, &[anchor(yaml, threshold)])
}

fn envelope(keys: &[u8]) -> Envelope {
    let keys: Vec<_> = keys.iter().map(|n| secret(*n)).collect();
    let keys: Vec<_> = keys.iter().collect();
    crate::mqtt::controller::sign(PayloadType::Intent, b"{}".to_vec(), &keys)
}

fn verdict(trust: &Trust, envelope: &Envelope, role: Role, namespace: Option<&str>) -> String {
    match trust.keys().verify(envelope, role, "acme", namespace) {
        Ok(id) => format!("key {}", (1..=9).find(|n| secret(*n).id() == id).unwrap()),
        Err(refusal) => refusal.reason.as_str().to_owned(),
    }
}

#[test]
fn without_a_key_it_does_not_start_and_says_why() {
    let artifact_only = key_yaml(&secret(1), "artifact");
    for mode in [Mode::Require, Mode::Warn] {
        assert_eq!(Trust::new(mode, &[]).unwrap_err(), TrustError::NoKey);
        let error = Trust::new(mode, &[anchor(&artifact_only, 1)]).unwrap_err();
        assert!(error.to_string().contains("write `trust: off`"), "{error}");
    }
    assert_eq!(Trust::new(Mode::Off, &[]).unwrap().mode(), Mode::Off);
    assert!(set(&key_yaml(&secret(1), "root"), 1).is_ok(), "a root can name the others");
}

#[test]
fn mistakes_in_an_anchor_are_named() {
    let key = secret(1).public_text();
    let entry = |rest: &str| format!("  - {{name: k, publicKey: \"{key}\", {rest}}}\n");
    let weak = "ed25519:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let rows: Vec<(String, usize, &str)> = vec![
        (entry("roles: []"), 1, "has no roles"),
        (entry("roles: [king]"), 1, "unknown variant `king`"),
        (entry("roles: [intent], expires: never"), 1, "unknown field `expires`"),
        (entry("roles: [root]").repeat(2), 1, "is listed twice"),
        (entry("roles: [root]"), 2, "threshold 2 cannot be reached by 1 root keys"),
        (entry("roles: [root]"), 0, "its threshold must be at least 1"),
        ("  - {publicKey: \"ed25519:AAAA\", roles: [root]}\n".into(), 1, "is no Ed25519 key"),
        (format!("  - {{publicKey: \"{weak}\", roles: [root]}}\n"), 1, "is weak"),
    ];
    for (yaml, threshold, words) in rows {
        let error = set(&yaml, threshold).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let file = |text: &str| AnchorFile { path: "a.yaml".into(), text: text.into() };
    for text in ["", "kind: Pod", "apiVersion: podling.dev/v1\nkind: TrustDocument", "{"] {
        assert!(Trust::new(Mode::Require, &[file(text)]).is_err(), "{text}");
    }
}

#[test]
fn several_anchors_are_one() {
    let files = [
        anchor(&key_yaml(&secret(1), "intent"), 1),
        anchor(&(key_yaml(&secret(2), "root") + &key_yaml(&secret(3), "root")), 2),
    ];
    let trust = Trust::new(Mode::Require, &files).unwrap();
    assert_eq!((trust.keys().keys().len(), trust.keys().threshold()), (3, 2));
}

#[test]
fn a_key_signs_for_what_it_may_and_nothing_else() {
    let yaml = format!(
        "  - {{publicKey: \"{}\", roles: [intent], tenants: [acme], namespaces: [default, web]}}\n\
         \x20 - {{publicKey: \"{}\", roles: [intent], tenants: [other]}}\n{}",
        secret(1).public_text(),
        secret(2).public_text(),
        key_yaml(&secret(3), "intent, command"),
    );
    let trust = set(&yaml, 1).unwrap();
    let rows: &[(&[u8], Role, Option<&str>, &str)] = &[
        (&[1], Role::Intent, Some("web"), "key 1"),
        (&[1], Role::Intent, Some("kube-system"), "NotAllowed"),
        // An index is about the whole node.
        (&[1], Role::Intent, None, "NotAllowed"),
        (&[1], Role::Command, Some("web"), "NotAllowed"),
        (&[2], Role::Intent, Some("web"), "NotAllowed"),
        (&[3], Role::Intent, None, "key 3"),
        (&[1, 3], Role::Command, None, "key 3"),
        (&[4], Role::Intent, Some("web"), "UntrustedKey"),
        (&[4, 2, 1], Role::Intent, Some("web"), "key 1"),
        (&[], Role::Intent, Some("web"), "NotSigned"),
    ];
    for (keys, role, namespace, expected) in rows {
        let found = verdict(&trust, &envelope(keys), *role, *namespace);
        assert_eq!(found, *expected, "{keys:?} {role:?} {namespace:?}");
    }
}

#[test]
fn a_bad_signature_is_the_most_telling_reason() {
    let yaml = key_yaml(&secret(1), "intent") + &key_yaml(&secret(2), "root");
    let trust = set(&yaml, 1).unwrap();
    let mut envelope = envelope(&[4, 2]);
    let keyid = secret(1).id();
    envelope.signatures.insert(0, EnvelopeSignature { keyid, sig: [7; 64] });
    assert_eq!(verdict(&trust, &envelope, Role::Intent, None), "BadSignature");
}

#[test]
fn as_many_roots_must_agree_as_the_threshold_says() {
    let yaml: String = [1, 2, 3].map(|n| key_yaml(&secret(n), "root")).concat();
    let trust = set(&yaml, 2).unwrap();
    for (keys, enough) in
        [(&[1_u8, 2][..], true), (&[1, 3], true), (&[1], false), (&[1, 4], false), (&[], false)]
    {
        let result = trust.keys().signed_by_roots(&envelope(keys));
        assert_eq!(result.is_ok(), enough, "{keys:?}");
    }
    // One root that signs twice is one root.
    let mut twice = envelope(&[1]);
    twice.signatures.push(twice.signatures[0].clone());
    assert!(trust.keys().signed_by_roots(&twice).is_err());
}
