//! ConfigMaps and Secrets.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as corev1;

use super::super::path::Path;
use super::super::rules;
use super::check::Check;
use super::meta;
use crate::secret::{ENCRYPTION, Form, is_age};

/// All values of one object together, bytes (Kubernetes' `MaxSecretSize`).
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn config_map(map: &corev1::ConfigMap, check: &mut Check<'_>) {
    meta::check_metadata(&map.metadata, rules::dns_subdomain, check);
    let data = Path::root("data");
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for (key, value) in map.data.iter().flatten() {
        check.faults(&data.key(key), key, rules::config_key(key));
        seen.insert(key.as_str());
        total += value.len();
    }
    let binary = Path::root("binaryData");
    for (key, value) in map.binary_data.iter().flatten() {
        let path = binary.key(key);
        check.faults(&path, key, rules::config_key(key));
        if seen.contains(key.as_str()) {
            check.invalid(&path, key, "duplicate of key present in data");
        }
        total += value.0.len();
    }
    if total > DATA_BYTES_MAX {
        check.too_long(&data, DATA_BYTES_MAX);
    }
}

pub(super) fn secret(secret: &corev1::Secret, check: &mut Check<'_>) {
    meta::check_metadata(&secret.metadata, rules::dns_subdomain, check);
    let data = Path::root("data");
    let mut total = 0;
    for (key, value) in secret.data.iter().flatten() {
        check.faults(&data.key(key), key, rules::config_key(key));
        total += value.0.len();
    }
    let plain = Path::root("stringData");
    for (key, value) in secret.string_data.iter().flatten() {
        check.faults(&plain.key(key), key, rules::config_key(key));
        total += value.len();
    }
    if total > DATA_BYTES_MAX {
        check.too_long(&data, DATA_BYTES_MAX);
    }
    encryption(secret, check);
}

/// How it is encrypted, if it is. Whether this node can read it is asked by whoever takes it in.
fn encryption(secret: &corev1::Secret, check: &mut Check<'_>) {
    let annotations = Path::root("metadata");
    let annotations = annotations.field("annotations");
    for (key, value) in secret.metadata.annotations.iter().flatten() {
        let path = annotations.key(key);
        if key == ENCRYPTION {
            let known = [("age", ()), ("age-secret", ())];
            check.choice(&path, Some(value), &known);
        } else if key.starts_with("podling.dev/") {
            // A misspelt one would hand the encrypted text to the module as its password.
            let message = format!("no such annotation of a Secret; podling knows {ENCRYPTION}");
            check.invalid(&path, key, message);
        }
    }
    let Ok(Form::Values | Form::Whole) = Form::of(secret) else { return };
    let data = Path::root("data");
    let plain = secret.data.iter().flatten().filter(|(_, value)| !is_age(&value.0));
    for (key, _) in plain {
        // What it is instead may be the secret itself.
        check.invalid(&data.key(key), "(not shown)", "is not encrypted with age");
    }
    let text = Path::root("stringData");
    let plain = secret.string_data.iter().flatten();
    for (key, _) in plain.filter(|(_, value)| !is_age(value.as_bytes())) {
        check.invalid(&text.key(key), "(not shown)", "is not encrypted with age");
    }
}
