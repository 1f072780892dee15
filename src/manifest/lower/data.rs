//! ConfigMaps and Secrets.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as corev1;

use super::super::path::Path;
use super::super::rules;
use super::check::Check;
use super::meta;

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
}
