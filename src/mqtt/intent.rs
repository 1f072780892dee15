//! What a controller wants of one pod: the payload of an intent, or of a tombstone.
//!
//! Owns: its JSON, every rule about it that needs no other knowledge, the checked form ([`Release`]). Not: the manifest's own
//! rules (asked of the reconciler by `Admit`), nor versions (`version`), nor signatures. Unknown fields are refused: whoever
//! signed them meant something by them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff;
use serde::{Deserialize, Serialize};

use super::cause::{Cause, Reason, Refusal};
use super::envelope::digest;
use super::topic::{Scope, check_level};
use super::version::{NUMBER_MAX, Revision, Version, digest_text};
use crate::image::Digest;
use crate::image::import::MODULE_BYTES_MAX;
use crate::spec::PodKey;

/// `apiVersion` of every payload.
pub const API_VERSION: &str = "podling.dev/v1";

/// Artifacts of one pod: more modules than any pod has.
pub const ARTIFACTS_MAX: usize = 64;

/// Places to get one artifact from.
pub const SOURCES_MAX: usize = 8;

/// Differences that lead to one artifact: one for each version that may still be in the field.
pub const DELTAS_MAX: usize = 8;

/// Longest source, bytes; a `data:` source has its own bound.
pub const SOURCE_BYTES_MAX: usize = 1024;

/// Longest `data:` source, bytes: a module of 16 KiB in base64. For demonstrations.
pub const DATA_SOURCE_BYTES_MAX: usize = 22 * 1024;

/// Sealed secrets of one pod.
pub const SECRETS_MAX: usize = 16;

/// Labels that a group's intent may ask for.
pub const SELECTOR_MAX: usize = 16;

/// Longest media type and name of a format, bytes.
const FORMAT_BYTES_MAX: usize = 128;

/// Longest uid, bytes.
const UID_BYTES_MAX: usize = 64;

/// The longest that a stage may be given, seconds: a week.
const DEADLINE_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// The payload as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodIntent {
    pub api_version: String,
    pub kind: String,
    pub tenant: String,
    /// Exactly one of `node` and `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub namespace: String,
    pub name: String,
    pub epoch: u64,
    pub generation: u64,
    /// This incarnation; another one means that the pod is made anew.
    pub uid: String,
    /// When it was signed, by the signer's clock: RFC 3339. Compared only with other signed times.
    pub issued_at: String,
    /// The revision of the node's index from which on it lists this pod; 0: none does.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index_revision: u64,
    /// A tombstone: the pod is to be gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// For a group: only nodes with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "RolloutPolicy::is_default")]
    pub rollout: RolloutPolicy,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SealedSecret>,
    /// Absent in a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The pod itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Manifest {
    /// YAML or JSON as its author wrote it: one Pod, and ConfigMaps for it. Errors then name line and column in it.
    Text(String),
    /// One Pod as JSON.
    Object(serde_json::Map<String, serde_json::Value>),
}

impl Manifest {
    /// The text to parse.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Object(map) => {
                serde_json::to_string(map).expect("a JSON object serialises").into()
            }
        }
    }

    /// Whether line and column mean something to its author.
    #[must_use]
    pub fn has_places(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// A module that the pod needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// The `image:` of the manifest that this is, letter for letter.
    pub image: String,
    #[serde(with = "digest_text")]
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// In order of preference: `oci://…`, `https://…`, `http://…`, `mqtt:`, `data:…`. Empty: it is on the node already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Smaller ways to it, for nodes that have another module already; tried before the sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<Delta>,
}

/// What makes one module out of another. The result counts only if it has the artifact's own digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delta {
    /// The module that must be on the node.
    #[serde(with = "digest_text")]
    pub base: Digest,
    /// Which program makes it; a node that does not know it uses the sources.
    pub format: String,
    /// Of the difference itself.
    #[serde(with = "digest_text")]
    pub digest: Digest,
    pub size: u64,
    pub sources: Vec<String>,
}

/// A Secret that only the node can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealedSecret {
    /// Name of the Secret, in the pod's namespace.
    pub name: String,
    /// An age file, armored: a v1 Secret as JSON, encrypted to the node's key.
    pub sealed: String,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long each stage may take. Absent: the node's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutPolicy {
    /// Until all artifacts are there and verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_deadline_seconds: Option<u64>,
    /// From the start until the pod is ready, and has been for `minReadySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<u64>,
    /// How long the pod must be ready without a break before it is called good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<u64>,
}

impl RolloutPolicy {
    const FETCH: Duration = Duration::from_secs(24 * 3600);
    const PROGRESS: Duration = Duration::from_secs(300);
    const MIN_READY: Duration = Duration::from_secs(10);

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// A day: a module of 10 MB at 1 kB/s takes three hours.
    #[must_use]
    pub fn fetch(&self) -> Duration {
        self.fetch_deadline_seconds.map_or(Self::FETCH, Duration::from_secs)
    }

    /// Five minutes: the first compilation on a small board is a part of it.
    #[must_use]
    pub fn progress(&self) -> Duration {
        self.progress_deadline_seconds.map_or(Self::PROGRESS, Duration::from_secs)
    }

    /// Ten seconds: a module that dies at once is not good.
    #[must_use]
    pub fn min_ready(&self) -> Duration {
        self.min_ready_seconds.map_or(Self::MIN_READY, Duration::from_secs)
    }
}

/// A checked intent or tombstone, with everything that later steps look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    pub key: PodKey,
    pub scope: Scope,
    pub revision: Revision,
    /// Milliseconds since 1970, by the signer's clock.
    pub issued_ms: i64,
    pub intent: PodIntent,
    /// The exact payload; what is kept on disk.
    pub payload: Arc<str>,
    /// Who signed it; empty if nobody did (modes `warn` and `off`).
    pub keyid: String,
}

impl Release {
    /// Checks a payload for itself: form, names, bounds, numbers.
    ///
    /// # Errors
    /// `Malformed` if it has not the form of an intent, `Invalid` with every rule that it breaks.
    pub fn read(payload: &[u8], keyid: &str) -> Result<Self, Refusal> {
        let (payload, intent): (_, PodIntent) = parse(payload)?;
        let causes = check(&intent);
        if !causes.is_empty() {
            return Err(Refusal::of(Reason::Invalid, causes));
        }
        let (Some(issued_ms), Some(scope)) = (time_ms(&intent.issued_at), scope(&intent)) else {
            return Err(Refusal::new(Reason::Malformed, "issuedAt or scope is missing"));
        };
        let version = Version { epoch: intent.epoch, generation: intent.generation };
        let digest = digest(payload.as_bytes());
        let key = PodKey::new(&intent.namespace, &intent.name);
        let revision = Revision { version, digest, uid: intent.uid.clone() };
        let keyid = keyid.to_owned();
        Ok(Self { key, scope, revision, issued_ms, intent, payload: payload.into(), keyid })
    }

    /// The digests that must be on the node before it can start, each once.
    #[must_use]
    pub fn digests(&self) -> std::collections::BTreeSet<Digest> {
        self.intent.artifacts.iter().map(|a| a.digest).collect()
    }
}

/// Parses a payload; says where it does not fit.
pub(super) fn parse<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<(&str, T), Refusal> {
    let text = std::str::from_utf8(payload)
        .map_err(|_| Refusal::new(Reason::Malformed, "the payload is not UTF-8"))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { "" } else { &field };
        Refusal::of(Reason::Malformed, vec![Cause::invalid(field, error.inner().to_string())])
    })?;
    reader.end().map_err(|e| Refusal::new(Reason::Malformed, e.to_string()))?;
    Ok((text, value))
}

/// RFC 3339 to milliseconds since 1970.
#[must_use]
pub fn time_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Milliseconds since 1970 as RFC 3339; a time that has no name is 1970.
#[must_use]
pub fn time_text(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}

fn scope(intent: &PodIntent) -> Option<Scope> {
    match (&intent.node, &intent.group) {
        (Some(_), None) => Some(Scope::Node),
        (None, Some(group)) => Some(Scope::Group(group.as_str().into())),
        _ => None,
    }
}

/// Everything that is wrong with a payload.
fn check(intent: &PodIntent) -> Vec<Cause> {
    let mut causes = head(&intent.api_version, &intent.kind, "PodIntent", &intent.tenant);
    let mut level = |what, field, text: &str| {
        if let Err(error) = check_level(what, text) {
            causes.push(Cause::invalid(field, error.to_string()));
        }
    };
    level("namespace", "namespace", &intent.namespace);
    level("pod name", "name", &intent.name);
    match (&intent.node, &intent.group) {
        (Some(node), None) => level("node", "node", node),
        (None, Some(group)) => level("group", "group", group),
        _ => causes.push(Cause::new(
            "FieldValueRequired",
            "node",
            "exactly one of node and group must be set",
        )),
    }
    numbers(&mut causes, &[("epoch", intent.epoch), ("generation", intent.generation)]);
    if intent.index_revision > NUMBER_MAX {
        causes.push(Cause::invalid("indexRevision", format!("must be at most {NUMBER_MAX}")));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if intent.uid.is_empty() || intent.uid.len() > UID_BYTES_MAX || !intent.uid.bytes().all(plain) {
        let rule = format!("must be 1 to {UID_BYTES_MAX} letters, digits and '-'");
        causes.push(Cause::invalid("uid", rule));
    }
    issued(&mut causes, &intent.issued_at);
    if intent.deleted == intent.manifest.is_some() {
        let rule = "must be set, unless deleted is; then it must not";
        causes.push(Cause::new("FieldValueRequired", "manifest", rule));
    }
    selector(&mut causes, intent);
    artifacts(&mut causes, &intent.artifacts);
    secrets(&mut causes, &intent.secrets);
    deadlines(&mut causes, intent.rollout);
    causes
}

/// What every payload begins with.
pub(super) fn head(api_version: &str, kind: &str, expected: &str, tenant: &str) -> Vec<Cause> {
    let mut causes = vec![];
    if api_version != API_VERSION {
        causes.push(Cause::invalid("apiVersion", format!("must be {API_VERSION}")));
    }
    if kind != expected {
        causes.push(Cause::invalid("kind", format!("must be {expected}")));
    }
    if let Err(error) = check_level("tenant", tenant) {
        causes.push(Cause::invalid("tenant", error.to_string()));
    }
    causes
}

/// Numbers that begin at 1.
pub(super) fn numbers(causes: &mut Vec<Cause>, numbers: &[(&str, u64)]) {
    for (field, number) in numbers {
        if !(1..=NUMBER_MAX).contains(number) {
            causes.push(Cause::invalid(field, format!("must be between 1 and {NUMBER_MAX}")));
        }
    }
}

pub(super) fn issued(causes: &mut Vec<Cause>, text: &str) {
    if time_ms(text).is_none() {
        causes.push(Cause::invalid("issuedAt", "must be a time as RFC 3339 writes it"));
    }
}

fn selector(causes: &mut Vec<Cause>, intent: &PodIntent) {
    use crate::manifest::rules;
    let labels = &intent.node_selector;
    if !labels.is_empty() && intent.group.is_none() {
        causes.push(Cause::invalid("nodeSelector", "only a group's intent can select nodes"));
    }
    if labels.len() > SELECTOR_MAX {
        causes.push(too_many("nodeSelector", SELECTOR_MAX));
    }
    for (key, value) in labels.iter().take(SELECTOR_MAX) {
        let faults = rules::qualified_name(key).into_iter().chain(rules::label_value(value));
        causes.extend(faults.map(|fault| Cause::invalid(&format!("nodeSelector[{key}]"), fault)));
    }
}

fn too_many(field: &str, max: usize) -> Cause {
    Cause::new("FieldValueTooMany", field, format!("must have at most {max} items"))
}

fn artifacts(causes: &mut Vec<Cause>, artifacts: &[Artifact]) {
    if artifacts.len() > ARTIFACTS_MAX {
        return causes.push(too_many("artifacts", ARTIFACTS_MAX));
    }
    for (at, artifact) in artifacts.iter().enumerate() {
        let field = |name: &str| format!("artifacts[{at}].{name}");
        if artifact.image.is_empty() || artifact.image.len() > SOURCE_BYTES_MAX {
            causes.push(Cause::invalid(&field("image"), "must be the manifest's image"));
        }
        if artifacts[..at].iter().any(|other| other.image == artifact.image) {
            let message = format!("{:?} is listed twice", artifact.image);
            causes.push(Cause::new("FieldValueDuplicate", &field("image"), message));
        }
        if !(1..=MODULE_BYTES_MAX).contains(&artifact.size) {
            let rule = format!("must be between 1 and {MODULE_BYTES_MAX} bytes");
            causes.push(Cause::invalid(&field("size"), rule));
        }
        let same = |other: &&Artifact| other.digest == artifact.digest;
        if artifacts[..at].iter().find(same).is_some_and(|other| other.size != artifact.size) {
            causes.push(Cause::invalid(&field("size"), "differs from the same digest's above"));
        }
        if artifact.media_type.len() > FORMAT_BYTES_MAX {
            let rule = format!("must be at most {FORMAT_BYTES_MAX} bytes");
            causes.push(Cause::invalid(&field("mediaType"), rule));
        }
        sources(causes, &field("sources"), &artifact.sources);
        deltas(causes, &field("deltas"), artifact);
    }
}

fn sources(causes: &mut Vec<Cause>, field: &str, sources: &[String]) {
    if sources.len() > SOURCES_MAX {
        return causes.push(too_many(field, SOURCES_MAX));
    }
    for (nth, source) in sources.iter().enumerate() {
        if let Some(rule) = source_fault(source) {
            causes.push(Cause::invalid(&format!("{field}[{nth}]"), rule));
        }
    }
}

fn deltas(causes: &mut Vec<Cause>, field: &str, artifact: &Artifact) {
    if artifact.deltas.len() > DELTAS_MAX {
        return causes.push(too_many(field, DELTAS_MAX));
    }
    for (nth, delta) in artifact.deltas.iter().enumerate() {
        let at = |name: &str| format!("{field}[{nth}].{name}");
        if delta.base == artifact.digest || delta.digest == artifact.digest {
            causes.push(Cause::invalid(&at("base"), "must not be the artifact itself"));
        }
        if delta.format.is_empty() || delta.format.len() > FORMAT_BYTES_MAX {
            let rule = format!("must be 1 to {FORMAT_BYTES_MAX} bytes");
            causes.push(Cause::invalid(&at("format"), rule));
        }
        if !(1..=MODULE_BYTES_MAX).contains(&delta.size) {
            let rule = format!("must be between 1 and {MODULE_BYTES_MAX} bytes");
            causes.push(Cause::invalid(&at("size"), rule));
        }
        sources(causes, &at("sources"), &delta.sources);
    }
}

fn source_fault(source: &str) -> Option<String> {
    let rest = |scheme: &str| source.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty());
    let max = if source.starts_with("data:") { DATA_SOURCE_BYTES_MAX } else { SOURCE_BYTES_MAX };
    if source.len() > max {
        return Some(format!("must be at most {max} bytes"));
    }
    let known =
        source == "mqtt:" || ["oci://", "https://", "http://", "data:"].into_iter().any(rest);
    let plain = source.bytes().all(|b| b.is_ascii_graphic());
    (!known || !plain).then(|| "must be oci://…, https://…, http://…, data:… or mqtt:".to_owned())
}

fn secrets(causes: &mut Vec<Cause>, secrets: &[SealedSecret]) {
    if secrets.len() > SECRETS_MAX {
        return causes.push(too_many("secrets", SECRETS_MAX));
    }
    for (at, secret) in secrets.iter().enumerate() {
        let field = |name: &str| format!("secrets[{at}].{name}");
        for fault in crate::manifest::rules::dns_subdomain(&secret.name) {
            causes.push(Cause::invalid(&field("name"), fault));
        }
        if secrets[..at].iter().any(|other| other.name == secret.name) {
            let message = format!("{:?} is listed twice", secret.name);
            causes.push(Cause::new("FieldValueDuplicate", &field("name"), message));
        }
        if secret.sealed.is_empty() {
            causes.push(Cause::new("FieldValueRequired", &field("sealed"), "must be set"));
        }
    }
}

fn deadlines(causes: &mut Vec<Cause>, policy: RolloutPolicy) {
    let rows = [
        ("fetchDeadlineSeconds", policy.fetch_deadline_seconds, 1),
        ("progressDeadlineSeconds", policy.progress_deadline_seconds, 1),
        ("minReadySeconds", policy.min_ready_seconds, 0),
    ];
    for (name, value, min) in rows {
        if value.is_some_and(|seconds| !(min..=DEADLINE_SECONDS_MAX).contains(&seconds)) {
            let rule = format!("must be between {min} and {DEADLINE_SECONDS_MAX}");
            causes.push(Cause::invalid(&format!("rollout.{name}"), rule));
        }
    }
    if policy.min_ready() >= policy.progress() {
        let rule = "must be less than progressDeadlineSeconds";
        causes.push(Cause::invalid("rollout.minReadySeconds", rule));
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::kit;

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
            (
                Box::new(|i| i.artifacts[0].sources.push("ftp://x".into())),
                &["artifacts[0].sources[1]"],
            ),
            (
                Box::new(|i| i.artifacts[0].sources.push("https://a b".into())),
                &["artifacts[0].sources[1]"],
            ),
            (
                Box::new(|i| i.artifacts[0].sources = vec!["mqtt:".into(); 9]),
                &["artifacts[0].sources"],
            ),
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
            (
                Box::new(|i| i.rollout.progress_deadline_seconds = Some(5)),
                &["rollout.minReadySeconds"],
            ),
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
}
