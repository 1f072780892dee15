//! Environment variables (`KUBELET.md` 11): which ones, and where their values come from. Resolving
//! them is `pod::environment`'s.

use k8s_openapi::api::core::v1 as corev1;

use super::super::path::Path;
use super::super::quantity::Quantity;
use super::super::rules;
use super::check::Check;
use crate::spec::{EnvFrom, EnvFromSource, EnvSource, EnvVar, FieldPath, ResourceField};

const MANY: &str = "may not have more than one field specified at a time";

pub(super) fn lower_from(
    container: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<EnvFrom> {
    let mut lowered = Vec::new();
    for (index, wire) in container.env_from.iter().flatten().enumerate() {
        let path = path.index(index);
        lowered.extend(env_from(wire, &path, check));
    }
    lowered
}

fn env_from(
    wire: &corev1::EnvFromSource,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<EnvFrom> {
    let prefix = wire.prefix.clone().unwrap_or_default();
    if !prefix.is_empty() {
        check.faults(&path.field("prefix"), &prefix, rules::env_name(&prefix));
    }
    let (field, name, optional) = match (&wire.config_map_ref, &wire.secret_ref) {
        (Some(_), Some(_)) => {
            check.invalid(path, "", MANY);
            return None;
        }
        (None, None) => {
            check.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`");
            return None;
        }
        (Some(map), None) => ("configMapRef", &map.name, map.optional),
        (None, Some(secret)) => ("secretRef", &secret.name, secret.optional),
    };
    object_name(name, &path.field(field), check);
    let source = if field == "configMapRef" {
        EnvFromSource::ConfigMap(name.clone())
    } else {
        EnvFromSource::Secret(name.clone())
    };
    Some(EnvFrom { prefix, source, optional: optional.unwrap_or(false) })
}

fn object_name(name: &str, path: &Path<'_>, check: &mut Check<'_>) {
    let path = path.field("name");
    if name.is_empty() {
        check.required(&path, "");
    } else {
        check.faults(&path, name, rules::dns_subdomain(name));
    }
}

pub(super) fn lower(
    container: &corev1::Container,
    spec: &corev1::PodSpec,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<EnvVar> {
    let mut lowered = Vec::new();
    for (index, wire) in container.env.iter().flatten().enumerate() {
        let path = path.index(index);
        if wire.name.is_empty() {
            check.required(&path.field("name"), "");
        } else {
            check.faults(&path.field("name"), &wire.name, rules::env_name(&wire.name));
        }
        let value = wire.value.clone().unwrap_or_default();
        let source = match &wire.value_from {
            None => Some(EnvSource::Value(value)),
            Some(from) => {
                let path = path.field("valueFrom");
                if !value.is_empty() {
                    check.invalid(&path, "", "may not be specified when `value` is not empty");
                }
                value_from(from, spec, &path, check)
            }
        };
        if let Some(source) = source {
            lowered.push(EnvVar { name: wire.name.clone(), source });
        }
    }
    lowered
}

fn value_from(
    wire: &corev1::EnvVarSource,
    spec: &corev1::PodSpec,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<EnvSource> {
    let set = [
        wire.field_ref.is_some(),
        wire.resource_field_ref.is_some(),
        wire.config_map_key_ref.is_some(),
        wire.secret_key_ref.is_some(),
        wire.file_key_ref.is_some(),
    ];
    match set.into_iter().filter(|is_set| *is_set).count() {
        0 => check.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        1 => {}
        _ => check.invalid(path, "", MANY),
    }
    if let Some(field) = &wire.field_ref {
        return field_ref(field, Where::Env, &path.field("fieldRef"), check).map(EnvSource::Field);
    }
    if let Some(resource) = &wire.resource_field_ref {
        let path = path.field("resourceFieldRef");
        let field = resource_field_ref(resource, Where::Env, spec, &path, check);
        return field.map(EnvSource::Resource);
    }
    if let Some(key) = &wire.config_map_key_ref {
        let (name, optional) = (key.name.clone(), key.optional.unwrap_or(false));
        key_ref(&name, &key.key, &path.field("configMapKeyRef"), check);
        return Some(EnvSource::ConfigMapKey { name, key: key.key.clone(), optional });
    }
    let key = wire.secret_key_ref.as_ref()?;
    let (name, optional) = (key.name.clone(), key.optional.unwrap_or(false));
    key_ref(&name, &key.key, &path.field("secretKeyRef"), check);
    Some(EnvSource::SecretKey { name, key: key.key.clone(), optional })
}

fn key_ref(name: &str, key: &str, path: &Path<'_>, check: &mut Check<'_>) {
    object_name(name, path, check);
    if key.is_empty() {
        check.required(&path.field("key"), "");
    } else {
        check.faults(&path.field("key"), key, rules::config_key(key));
    }
}

/// Variables and downward API volumes know different fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    Env,
    Volume,
}

pub(super) fn field_ref(
    wire: &corev1::ObjectFieldSelector,
    place: Where,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<FieldPath> {
    if wire.field_path.is_empty() {
        check.required(&path.field("fieldPath"), "");
        return None;
    }
    let version = wire.api_version.as_deref().unwrap_or("v1");
    if version != "v1" {
        let detail = "this version of the API has no such field; only v1 is known";
        check.invalid(&path.field("apiVersion"), version, detail);
    }
    let path = path.field("fieldPath");
    if let Some((map, key)) = subscript(&wire.field_path) {
        check.faults(&path, key, rules::qualified_name(&key.to_lowercase()));
        match map {
            "metadata.labels" => return Some(FieldPath::Labels(Some(key.to_owned()))),
            "metadata.annotations" => return Some(FieldPath::Annotations(Some(key.to_owned()))),
            _ => {
                check.invalid(&path, map, "does not support subscript");
                return None;
            }
        }
    }
    let everywhere = [
        ("metadata.name", FIELD_NAME),
        ("metadata.namespace", FIELD_NAMESPACE),
        ("metadata.uid", FIELD_UID),
    ];
    let elsewhere: &[Known] = match place {
        Where::Env => &[
            ("spec.nodeName", || FieldPath::NodeName),
            ("spec.serviceAccountName", || FieldPath::ServiceAccountName),
            ("status.hostIP", || FieldPath::HostIp),
            ("status.hostIPs", || FieldPath::HostIps),
            ("status.podIP", || FieldPath::PodIp),
            ("status.podIPs", || FieldPath::PodIps),
        ],
        Where::Volume => &[
            ("metadata.annotations", || FieldPath::Annotations(None)),
            ("metadata.labels", || FieldPath::Labels(None)),
        ],
    };
    let known = [&everywhere[..], elsewhere].concat();
    check.choice(&path, Some(&wire.field_path), &known).map(|make| make())
}

/// The name of a field, and what it is to us.
type Known = (&'static str, fn() -> FieldPath);

const FIELD_NAME: fn() -> FieldPath = || FieldPath::Name;
const FIELD_NAMESPACE: fn() -> FieldPath = || FieldPath::Namespace;
const FIELD_UID: fn() -> FieldPath = || FieldPath::Uid;

/// `metadata.labels['key']` → (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

pub(super) fn resource_field_ref(
    wire: &corev1::ResourceFieldSelector,
    place: Where,
    spec: &corev1::PodSpec,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Option<ResourceField> {
    let container = wire.container_name.clone().filter(|name| !name.is_empty());
    let name_path = path.field("containerName");
    match &container {
        None if place == Where::Volume => check.required(&name_path, ""),
        Some(name) if !has_container(spec, name) => check.not_found(&name_path, name),
        Some(_) | None => {}
    }
    if wire.resource.is_empty() {
        check.required(&path.field("resource"), "");
        return None;
    }
    let known = [
        ("limits.cpu", (true, "cpu")),
        ("limits.ephemeral-storage", (true, "ephemeral-storage")),
        ("limits.memory", (true, "memory")),
        ("requests.cpu", (false, "cpu")),
        ("requests.ephemeral-storage", (false, "ephemeral-storage")),
        ("requests.memory", (false, "memory")),
    ];
    let (limit, resource) = check.choice(&path.field("resource"), Some(&wire.resource), &known)?;
    let divisor = wire.divisor.as_ref().map_or("0", |divisor| divisor.0.as_str());
    let divisor_milli = divisor_milli(divisor, resource, &path.field("divisor"), check);
    Some(ResourceField { container, limit, resource: resource.to_owned(), divisor_milli })
}

fn has_container(spec: &corev1::PodSpec, name: &str) -> bool {
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).any(|container| container.name == name)
}

const MEMORY_DIVISORS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// The divisor in thousandths; 0 counts as 1.
fn divisor_milli(text: &str, resource: &str, path: &Path<'_>, check: &mut Check<'_>) -> u64 {
    const ONE: u64 = 1000;
    let divisor = match Quantity::parse(text) {
        Ok(divisor) => divisor,
        Err(error) => {
            check.invalid(path, text, error.to_string());
            return ONE;
        }
    };
    if divisor.is_zero() {
        return ONE;
    }
    let allowed: &[&str] = if resource == "cpu" { &["1m", "1"] } else { &MEMORY_DIVISORS };
    if !allowed.iter().any(|text| Quantity::parse(text) == Ok(divisor)) {
        let (last, others) = allowed.split_last().expect("both lists have entries");
        let list = if others.len() == 1 {
            format!("{} and {last}", others[0])
        } else {
            format!("{}, {last}", others.join(", "))
        };
        let detail =
            format!("only divisor's values {list} are supported with the {resource} resource");
        check.invalid(path, text, detail);
    }
    divisor.millis_u64()
}
