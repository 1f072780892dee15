//! What is wrong with a payload, as far as it can be told from itself: all of it at once, each fault with its field.
//!
//! Called by [`Release::read`](super::Release::read) only; what every payload begins with also by those of the other payloads.

use super::{
    API_VERSION, ARTIFACTS_MAX, Artifact, DATA_SOURCE_BYTES_MAX, DELTAS_MAX, PodIntent,
    RolloutPolicy, SECRETS_MAX, SELECTOR_MAX, SOURCE_BYTES_MAX, SOURCES_MAX, SealedSecret, time_ms,
};
use crate::image::import::MODULE_BYTES_MAX;
use crate::mqtt::cause::Cause;
use crate::mqtt::topic::{check_level, check_namespace};
use crate::mqtt::version::NUMBER_MAX;

/// Longest media type and name of a format, bytes.
const FORMAT_BYTES_MAX: usize = 128;

/// Longest uid, bytes.
const UID_BYTES_MAX: usize = 64;

/// The longest that a stage may be given, seconds: a week.
const DEADLINE_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Everything that is wrong with a payload.
pub(super) fn check(intent: &PodIntent) -> Vec<Cause> {
    let mut causes = head(&intent.api_version, &intent.kind, "PodIntent", &intent.tenant);
    let mut level = |what, field, text: &str| {
        if let Err(error) = check_level(what, text) {
            causes.push(Cause::invalid(field, error.to_string()));
        }
    };
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
    if let Err(error) = check_namespace(&intent.namespace) {
        causes.push(Cause::invalid("namespace", error.to_string()));
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
pub(in crate::mqtt) fn head(
    api_version: &str,
    kind: &str,
    expected: &str,
    tenant: &str,
) -> Vec<Cause> {
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
pub(in crate::mqtt) fn numbers(causes: &mut Vec<Cause>, numbers: &[(&str, u64)]) {
    for (field, number) in numbers {
        if !(1..=NUMBER_MAX).contains(number) {
            causes.push(Cause::invalid(field, format!("must be between 1 and {NUMBER_MAX}")));
        }
    }
}

pub(in crate::mqtt) fn issued(causes: &mut Vec<Cause>, text: &str) {
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
