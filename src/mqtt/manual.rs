//! `docs/mqtt.md` says what is true: its examples go through the code, its tables are compared with the constants.
//!
//! `PODLING_UPDATE_DOCS=1 cargo test the_manual` writes the computed parts of the test vector.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cause::{CAUSES_MAX, Reason};
use super::command::{Command, PIECE_BYTES_MAX, REPLY_BYTES_MAX, Reply, Verb};
use super::controller::{Said, SecretKey, read, sign};
use super::envelope::{
    ENVELOPE_BYTES_MAX, Envelope, PACKET_BYTES_MAX, PayloadType, SIGNATURES_MAX, digest, key_id,
};
use super::index::Index;
use super::intent::{
    ARTIFACTS_MAX, DELTAS_MAX, PodIntent, Release, RolloutPolicy, SECRETS_MAX, SELECTOR_MAX,
    SOURCES_MAX,
};
use super::kit;
use super::protocol::{COMMANDS_KEPT, INTENT_BYTES_MAX, MARKS_MAX};
use super::signature::{self, Proof, SIGNATURE_BYTES};
use super::status::{NodeStatus, Online, PROTOCOL, PodStatus, Stage};
use super::topic::{GROUPS_MAX, LEVEL_BYTES_MAX, LEVELS_MAX, TOPIC_BYTES_MAX};
use super::trust::{
    AnchorFile, Document, KEYS_MAX, Mode, REVOKED_MAX, Role, Trust, TrustDocument, public_key,
};
use crate::limits::PODS_MAX;

const MANUAL: &str = include_str!("../../docs/mqtt.md");

/// The fenced blocks with this info string.
fn blocks(info: &str) -> Vec<String> {
    let fence = format!("```{info}\n");
    let found: Vec<String> = MANUAL
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap().to_owned())
        .collect();
    assert!(!found.is_empty(), "no {info} in the manual");
    found
}

fn block(info: &str) -> String {
    let [only] = <[String; 1]>::try_from(blocks(info)).unwrap();
    only
}

/// The rows of the tables whose header begins so.
fn rows(header: &str) -> Vec<Vec<String>> {
    let mut lines = MANUAL.lines().skip_while(|line| !line.starts_with(header));
    let rows = lines.by_ref().skip(2).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "no table {header}");
    rows
}

fn code(cell: &str) -> String {
    cell.split('`').nth(1).unwrap_or_default().to_owned()
}

/// Nothing in the example is unknown to us, and nothing of ours is left out of it by mistake.
fn reads_back<T: Serialize + DeserializeOwned>(example: &str) -> T {
    let value: T = serde_json::from_str(example).unwrap_or_else(|e| panic!("{e}: {example}"));
    let written: Value = serde_json::to_value(&value).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(example).unwrap());
    value
}

#[test]
fn the_manual_shows_intents_that_nodes_accept() {
    let mut lab = kit::Lab::online();
    for example in blocks("json intent") {
        let intent: PodIntent = reads_back(&example);
        let message = lab.send(&intent);
        // A document is what was signed, whitespace included.
        assert_eq!(message.digest, digest(&serde_json::to_vec(&intent).unwrap()));
        lab.settle();
        let status = lab.status(&intent.name);
        assert_eq!(status.documents[0].refused, None);
        let accepted = status.documents[0].accepted.clone().unwrap();
        assert_eq!(accepted.revision.digest, message.digest);
    }
    let payload = block("json payload");
    let tombstone = Release::read(payload.as_bytes(), "").unwrap();
    assert!(tombstone.intent.deleted);
    let defaults = RolloutPolicy::default();
    let seconds = [defaults.fetch(), defaults.progress(), defaults.min_ready()];
    let text = seconds.map(|d| d.as_secs().to_string()).join(", ");
    assert!(MANUAL.contains(&format!("absent: {text}")), "{text}");
}

#[test]
fn the_manual_shows_the_other_documents_as_they_are() {
    let index = Index::read(block("json index").as_bytes()).unwrap();
    assert_eq!(index.pods.len(), 1);
    let trust: TrustDocument = reads_back(&block("json trust"));
    let payload = serde_json::to_vec(&trust).unwrap();
    Document::read(&Envelope::new(PayloadType::Trust, payload)).unwrap();
    let command: Command = reads_back(&block("json command"));
    Command::read(&serde_json::to_vec(&command).unwrap()).unwrap();
    for reply in blocks("json reply") {
        reads_back::<Reply>(&reply);
    }
    reads_back::<Online>(&block("json online"));
    reads_back::<PodStatus>(&block("json pod-status"));
    let node: NodeStatus = reads_back(&block("json node-status"));
    assert_eq!((node.protocol, node.capabilities.pods_max), (PROTOCOL, PODS_MAX));
    assert_eq!(node.capabilities.envelope_bytes_max, ENVELOPE_BYTES_MAX);
}

#[test]
fn the_manual_shows_an_anchor_that_can_be_used() {
    let file = AnchorFile { path: "trust.yaml".into(), text: block("yaml anchor").into_bytes() };
    let trust = Trust::new(Mode::Require, &[file]).unwrap();
    let keys = trust.keys();
    assert_eq!((keys.keys().len(), keys.threshold(), trust.epoch()), (3, 2, 1));
    for row in rows("| Role |") {
        let role: Role = serde_json::from_value(json!(code(&row[0]))).unwrap();
        assert!([Role::Root, Role::Intent, Role::Command, Role::Artifact].contains(&role));
    }
    for row in rows("| `mqtt.trust` |") {
        let _: Mode = serde_json::from_value(json!(code(&row[0]))).unwrap();
    }
}

#[test]
fn the_manual_s_test_vector_is_ours() {
    let seed: [u8; 32] = std::array::from_fn(|at| u8::try_from(at + 1).unwrap());
    let key = SecretKey::from_seed(&seed);
    let payload = block("json payload").into_bytes();
    let envelope = sign(PayloadType::Intent, payload.clone(), &[&key]);
    let vector = BTreeMap::from([
        ("publicKey", key.public_text()),
        ("keyid", key.id()),
        ("digest", envelope.digest().to_string()),
        ("signedBytesSha256", digest(&envelope.signed_bytes()).hex()),
    ]);
    let shown: BTreeMap<String, String> = serde_yaml::from_str(&block("yaml vector")).unwrap();
    let written: Value = serde_json::from_slice(&envelope.to_json()).unwrap();
    if std::env::var_os("PODLING_UPDATE_DOCS").is_some() {
        return update(&written, &vector);
    }
    for (name, value) in &vector {
        assert_eq!(
            shown.get(*name),
            Some(value),
            "{name}: PODLING_UPDATE_DOCS=1 cargo test the_manual"
        );
    }
    let text = block("json envelope");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), written);
    // As a stranger would: from the text alone.
    let opened = Envelope::open(text.as_bytes(), PayloadType::Intent).unwrap();
    let public = public_key(&shown["publicKey"]).unwrap();
    assert!(opened.is_signed_by(&key_id(&public), &public));
    assert_eq!(opened.payload, payload);
    let head = format!("DSSEv1 38 application/vnd.podling.intent.v1+json {} ", payload.len());
    assert_eq!(opened.signed_bytes(), [head.as_bytes(), &payload].concat());
}

/// The word of the node in the manual's test vector, without its signature.
const SAID: &str = r#"{"apiVersion":"podling.dev/v1","kind":"Online","online":true,"conn":65541,"boot":"f3b1c7e2","protocol":1,"version":"0.1.0"}"#;

#[test]
fn the_manual_s_signed_word_is_a_nodes() {
    let seed: [u8; 32] = std::array::from_fn(|at| u8::try_from(at + 1).unwrap());
    let key = SecretKey::from_seed(&seed);
    let topic = "pods/v1/acme/s/gw-17/online";
    let below = kit::tree().below_root(topic).to_owned();
    assert_eq!(below, "acme/s/gw-17/online");
    let message = String::from_utf8(key.signer().sign(&below, SAID.into())).unwrap();
    // As a stranger would write them.
    let payload = format!("{below}\n{SAID}");
    let head = format!("DSSEv1 36 {} {} ", signature::PAYLOAD_TYPE, payload.len());
    let covered = digest([head, payload].concat().as_bytes()).hex();
    if std::env::var_os("PODLING_UPDATE_DOCS").is_some() {
        let vector = format!("coveredSha256: {covered}");
        return rewrite(&[(block("json said"), message), (block("yaml said-vector"), vector)]);
    }
    assert_eq!(block("json said"), message, "PODLING_UPDATE_DOCS=1 cargo test the_manual");
    let shown: BTreeMap<String, String> = serde_yaml::from_str(&block("yaml said-vector")).unwrap();
    assert_eq!(shown["coveredSha256"], covered);
    assert_eq!(Proof::of(&below, message.as_bytes()), Proof::Signed(key.public()));
    let (_, Said::Online(online)) = read(&kit::tree(), topic, message.as_bytes()).unwrap() else {
        panic!("it is a birth")
    };
    assert!(online.online);
    assert_eq!(message.len(), SAID.len() + 145);
    assert_eq!(SIGNATURE_BYTES, 146);
}

fn update(envelope: &Value, vector: &BTreeMap<&str, String>) {
    let signature = &envelope["signatures"][0];
    let new = format!(
        "{{\n  \"payloadType\": {},\n  \"payload\": {},\n  \"signatures\": [{{\"keyid\": {}, \"sig\": {}}}]\n}}",
        envelope["payloadType"], envelope["payload"], signature["keyid"], signature["sig"]
    );
    let lines = ["publicKey", "keyid", "digest", "signedBytesSha256"];
    let yaml: Vec<String> = lines.iter().map(|name| format!("{name}: {}", vector[name])).collect();
    rewrite(&[(block("json envelope"), new), (block("yaml vector"), yaml.join("\n"))]);
}

/// Writes computed parts into the manual; one test after the other.
fn rewrite(parts: &[(String, String)]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/mqtt.md");
    let mut text = std::fs::read_to_string(path).unwrap();
    for (old, new) in parts {
        text = text.replace(old, new);
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn the_manual_shows_a_block_and_a_request_for_blocks() {
    let hex: String = block("text block").split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let message: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let block_read = crate::artifact::block::decode(&message).unwrap();
    assert_eq!((block_read.transfer, block_read.offset, block_read.total), (7, 4096, 5000));
    let request = crate::artifact::BlockRequest::parse(block("json request").as_bytes()).unwrap();
    assert_eq!((request.transfer, request.offset, request.count), (4021, 98_304, 8));
}

#[test]
fn the_manual_lists_the_topics() {
    let topics = super::topic::Topics::new("pods/v1", "tenant", "node").unwrap();
    let tree = topics.tree();
    for row in rows("| Topic |") {
        let (topic, direction) = (code(&row[0]).replace("TENANT", "tenant"), &row[2]);
        let topic = topic.replace("NODE", "node").replace("GROUP", "group").replace("NS", "ns");
        let topic = topic.replace("POD", "pod").replace("VERB", "logs").replace("ID", "id");
        let topic = topic.replace("XFER", "7");
        if direction.starts_with("to") {
            assert!(topics.read(&topic).is_some(), "{topic} is not for nodes");
        } else {
            assert!(tree.read_outbound(&topic).is_some(), "{topic} is not from nodes");
        }
    }
    for row in rows("| Payload |") {
        let types =
            [PayloadType::Intent, PayloadType::Index, PayloadType::Trust, PayloadType::Command];
        assert!(types.iter().any(|t| t.as_str() == code(&row[1])), "{row:?}");
    }
}

#[test]
fn the_manual_lists_reasons_stages_and_verbs() {
    let words = |header| rows(header).iter().map(|row| code(&row[0])).collect::<Vec<_>>();
    let reasons = words("| `reason` of a refusal |");
    for reason in &reasons {
        let known: Reason = serde_json::from_value(json!(reason)).unwrap();
        assert_eq!(known.as_str(), reason);
    }
    // The enumeration's last one closes the list.
    assert_eq!(reasons.len(), Reason::Failed as usize + 1);
    let stages = words("| Stage |");
    for stage in &stages {
        let known: Stage = serde_json::from_value(json!(stage)).unwrap();
        assert_eq!(known.as_str(), stage);
    }
    assert_eq!(stages.len(), Stage::Superseded as usize + 1);
    let verbs: Vec<String> = Verb::ALL.iter().map(|verb| verb.as_str().to_owned()).collect();
    assert_eq!(words("| Verb |"), verbs);
}

#[test]
fn the_manual_s_bounds_are_ours() {
    let expected: Vec<(&str, usize)> = vec![
        ("packet", PACKET_BYTES_MAX),
        ("envelope", ENVELOPE_BYTES_MAX),
        ("signatures of an envelope", SIGNATURES_MAX),
        ("topic", TOPIC_BYTES_MAX),
        ("levels of a topic", LEVELS_MAX),
        ("level", LEVEL_BYTES_MAX),
        ("groups of a node", GROUPS_MAX),
        ("pods of a node, and of an index", PODS_MAX),
        ("marks of deleted pods", MARKS_MAX),
        ("payloads of all documents of a node together", INTENT_BYTES_MAX),
        ("artifacts of an intent", ARTIFACTS_MAX),
        ("sources of an artifact", SOURCES_MAX),
        ("differences of an artifact", DELTAS_MAX),
        ("sealed secrets of an intent", SECRETS_MAX),
        ("labels of a selector", SELECTOR_MAX),
        ("errors of a refusal", CAUSES_MAX),
        ("keys of an anchor or trust document", KEYS_MAX),
        ("revoked keys of a trust document", REVOKED_MAX),
        ("ids of commands that are remembered", COMMANDS_KEPT),
        ("piece of a reply", PIECE_BYTES_MAX),
        ("reply", REPLY_BYTES_MAX),
    ];
    let shown = rows("| What | At most |");
    assert_eq!(shown.len(), expected.len());
    for (row, (name, bound)) in shown.iter().zip(expected) {
        assert_eq!(row[0].split(" (").next(), Some(name));
        assert_eq!(row[1].trim_end_matches(" bytes"), bound.to_string(), "{name}");
    }
}
