//! Rules of `metadata`, the same for every kind.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::rules::{self, Faults};
use super::METADATA;
use super::check::Check;

/// All annotations of one object, keys and values, bytes.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

pub(super) fn check_metadata(
    metadata: &ObjectMeta,
    name_rule: fn(&str) -> Faults,
    check: &mut Check<'_>,
) {
    match metadata.name.as_deref() {
        None | Some("") => {
            let generated = metadata.generate_name.as_deref().is_some_and(|name| !name.is_empty());
            // The API has made a name of it before anyone looks here.
            let detail = if generated {
                "generateName is for the API; a manifest file must give the name itself"
            } else {
                "name or generateName is required"
            };
            check.required(&METADATA.field("name"), detail);
        }
        Some(name) => check.faults(&METADATA.field("name"), name, name_rule(name)),
    }
    if let Some(namespace) = metadata.namespace.as_deref().filter(|name| !name.is_empty()) {
        check.faults(&METADATA.field("namespace"), namespace, rules::dns_label(namespace));
    }
    labels(metadata.labels.as_ref(), check);
    annotations(metadata.annotations.as_ref(), check);
}

/// Refuses annotations of podling on a kind that has none: they would be ignored in silence.
pub(super) fn no_annotations_of_ours(metadata: &ObjectMeta, check: &mut Check<'_>) {
    let list = METADATA.field("annotations");
    for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
        if super::annotations::is_ours(key) {
            check.forbidden(&list.key(key), "podling has no annotations for this kind of object");
        }
    }
}

fn labels(labels: Option<&BTreeMap<String, String>>, check: &mut Check<'_>) {
    let path = METADATA.field("labels");
    for (key, value) in labels.into_iter().flatten() {
        check.faults(&path, key, rules::qualified_name(key));
        check.faults(&path, value, rules::label_value(value));
    }
}

fn annotations(annotations: Option<&BTreeMap<String, String>>, check: &mut Check<'_>) {
    let path = METADATA.field("annotations");
    let mut total = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Kubernetes lets annotation keys be of any case.
        check.faults(&path, key, rules::qualified_name(&key.to_lowercase()));
        total += key.len() + value.len();
    }
    if total > ANNOTATIONS_BYTES_MAX {
        check.too_long(&path, ANNOTATIONS_BYTES_MAX);
    }
}
