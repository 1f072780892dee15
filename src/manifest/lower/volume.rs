//! Volumes and mounts (`KUBELET.md` 12).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1 as corev1;

use super::super::path::Path;
use super::super::quantity::Quantity;
use super::super::rules;
use super::SPEC;
use super::check::Check;
use super::env::{self, Where};
use crate::spec::{
    HostPathType, KeyToPath, Mount, ProjectedSource, SubPath, Volume, VolumeMedium, VolumeSource,
};

/// File permissions, as Kubernetes bounds them.
const MODE_MAX: i32 = 0o777;
const MODE_FAULT: &str = "must be a number between 0 and 0777 (octal), both inclusive";

pub(super) fn lower_volumes(spec: &corev1::PodSpec, check: &mut Check<'_>) -> Vec<Volume> {
    let list = SPEC.field("volumes");
    let mut names = BTreeSet::new();
    let mut volumes = Vec::new();
    for (index, wire) in spec.volumes.iter().flatten().enumerate() {
        let path = list.index(index);
        let name_path = path.field("name");
        if wire.name.is_empty() {
            check.required(&name_path, "");
        } else {
            check.faults(&name_path, &wire.name, rules::dns_label(&wire.name));
        }
        if !wire.name.is_empty() && !names.insert(wire.name.as_str()) {
            check.duplicate(&name_path, &wire.name);
        }
        let source = source(wire, spec, &path, check);
        volumes.push(Volume { name: wire.name.clone(), source });
    }
    volumes
}

/// The fields of a volume that are set, its name apart.
fn sources_set(wire: &corev1::Volume) -> Vec<String> {
    let value = serde_json::to_value(wire).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten().map(|(name, _)| name.clone());
    fields.filter(|name| name != "name").collect()
}

fn source(
    wire: &corev1::Volume,
    spec: &corev1::PodSpec,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> VolumeSource {
    for extra in sources_set(wire).iter().skip(1) {
        check.forbidden(&path.field(extra), "may not specify more than 1 volume type");
    }
    if let Some(dir) = &wire.empty_dir {
        return empty_dir(dir, &path.field("emptyDir"), check);
    }
    if let Some(host) = &wire.host_path {
        return host_path(host, &path.field("hostPath"), check);
    }
    if let Some(map) = &wire.config_map {
        let path = path.field("configMap");
        if map.name.is_empty() {
            check.required(&path.field("name"), "");
        }
        return VolumeSource::ConfigMap {
            name: map.name.clone(),
            items: items(map.items.as_deref(), &path, check),
            default_mode: default_mode(map.default_mode, &path, check),
            optional: map.optional.unwrap_or(false),
        };
    }
    if let Some(secret) = &wire.secret {
        let path = path.field("secret");
        let name = secret.secret_name.clone().unwrap_or_default();
        if name.is_empty() {
            check.required(&path.field("secretName"), "");
        }
        return VolumeSource::Secret {
            name,
            items: items(secret.items.as_deref(), &path, check),
            default_mode: default_mode(secret.default_mode, &path, check),
            optional: secret.optional.unwrap_or(false),
        };
    }
    if let Some(downward) = &wire.downward_api {
        let path = path.field("downwardAPI");
        return VolumeSource::DownwardApi {
            items: downward_items(downward.items.as_deref(), spec, &path, check),
            default_mode: default_mode(downward.default_mode, &path, check),
        };
    }
    if let Some(projected) = &wire.projected {
        let path = path.field("projected");
        return VolumeSource::Projected {
            sources: projected_sources(projected, spec, &path, check),
            default_mode: default_mode(projected.default_mode, &path, check),
        };
    }
    // Any other kind has been refused by the table of what is supported.
    VolumeSource::EmptyDir { medium: VolumeMedium::Default, size_limit_bytes: None }
}

fn empty_dir(
    wire: &corev1::EmptyDirVolumeSource,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> VolumeSource {
    let medium = match wire.medium.as_deref().unwrap_or_default() {
        "" => VolumeMedium::Default,
        "Memory" => VolumeMedium::Memory,
        other => {
            let detail = "must be empty or \"Memory\": modules have no huge pages";
            check.invalid(&path.field("medium"), other, detail);
            VolumeMedium::Default
        }
    };
    let limit_path = path.field("sizeLimit");
    let size_limit_bytes = wire.size_limit.as_ref().and_then(|wire| {
        let limit = Quantity::parse(&wire.0);
        match limit {
            Ok(limit) if limit.is_negative() => {
                check.forbidden(&limit_path, "SizeLimit field must be a valid resource quantity");
                None
            }
            // Kubernetes: a size limit of zero is none.
            Ok(limit) => Some(limit.units_u64()).filter(|bytes| *bytes > 0),
            Err(error) => {
                check.invalid(&limit_path, &wire.0, error.to_string());
                None
            }
        }
    });
    VolumeSource::EmptyDir { medium, size_limit_bytes }
}

fn host_path(
    wire: &corev1::HostPathVolumeSource,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> VolumeSource {
    let text = &wire.path;
    let path_field = path.field("path");
    if text.is_empty() {
        check.required(&path_field, "");
    } else if !text.starts_with('/') {
        check.invalid(&path_field, text, "must be an absolute path");
    } else if text.contains('\0') {
        check.invalid(&path_field, text, "must not contain a NUL character");
    }
    check.faults(&path_field, text, rules::no_back_steps(text));
    let known = [
        ("", HostPathType::Unchecked),
        ("DirectoryOrCreate", HostPathType::DirectoryOrCreate),
        ("Directory", HostPathType::Directory),
        ("FileOrCreate", HostPathType::FileOrCreate),
        ("File", HostPathType::File),
        ("Socket", HostPathType::Socket),
        ("CharDevice", HostPathType::CharDevice),
        ("BlockDevice", HostPathType::BlockDevice),
    ];
    let kind = check.choice(&path.field("type"), wire.type_.as_deref(), &known);
    VolumeSource::HostPath {
        path: PathBuf::from(text),
        kind: kind.unwrap_or(HostPathType::Unchecked),
    }
}

fn default_mode(mode: Option<i32>, path: &Path<'_>, check: &mut Check<'_>) -> u32 {
    self::mode(mode, &path.field("defaultMode"), check).unwrap_or(0o644)
}

fn mode(mode: Option<i32>, path: &Path<'_>, check: &mut Check<'_>) -> Option<u32> {
    let mode = mode?;
    if !(0..=MODE_MAX).contains(&mode) {
        check.invalid_number(path, mode, MODE_FAULT);
    }
    u32::try_from(mode).ok()
}

fn items(
    wire: Option<&[corev1::KeyToPath]>,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<KeyToPath> {
    let list = path.field("items");
    let items = wire.unwrap_or_default().iter().enumerate();
    let lowered = items.map(|(index, item)| {
        let path = list.index(index);
        if item.key.is_empty() {
            check.required(&path.field("key"), "");
        }
        file_path(&item.path, &path, check);
        let mode = mode(item.mode, &path.field("mode"), check);
        KeyToPath { key: item.key.clone(), path: item.path.clone(), mode }
    });
    lowered.collect()
}

fn file_path(text: &str, path: &Path<'_>, check: &mut Check<'_>) {
    let path = path.field("path");
    if text.is_empty() {
        check.required(&path, "");
    } else if text.contains('\0') {
        check.invalid(&path, text, "must not contain a NUL character");
    } else {
        check.faults(&path, text, rules::file_path(text));
    }
}

fn downward_items(
    wire: Option<&[corev1::DownwardAPIVolumeFile]>,
    spec: &corev1::PodSpec,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<ProjectedSource> {
    let list = path.field("items");
    let mut lowered = Vec::new();
    for (index, file) in wire.unwrap_or_default().iter().enumerate() {
        let path = list.index(index);
        file_path(&file.path, &path, check);
        let mode = mode(file.mode, &path.field("mode"), check);
        let to = file.path.clone();
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(_), Some(_)) => check.invalid(
                &path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
            (None, None) => {
                check.required(&path, "one of fieldRef and resourceFieldRef is required");
            }
            (Some(field), None) => {
                let path = path.field("fieldRef");
                let field = env::field_ref(field, Where::Volume, &path, check);
                lowered.extend(field.map(|field| ProjectedSource::Field { path: to, mode, field }));
            }
            (None, Some(field)) => {
                let path = path.field("resourceFieldRef");
                let field = env::resource_field_ref(field, Where::Volume, spec, &path, check);
                lowered.extend(field.map(|field| ProjectedSource::Resource {
                    path: to,
                    mode,
                    field,
                }));
            }
        }
    }
    lowered
}

fn projected_sources(
    wire: &corev1::ProjectedVolumeSource,
    spec: &corev1::PodSpec,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<ProjectedSource> {
    let list = path.field("sources");
    let mut lowered = Vec::new();
    for (index, source) in wire.sources.iter().flatten().enumerate() {
        let path = list.index(index);
        let set = serde_json::to_value(source).unwrap_or_default();
        for (extra, _) in set.as_object().into_iter().flatten().skip(1) {
            check.forbidden(
                &path.field(extra),
                "may not specify more than 1 volume type per source",
            );
        }
        if let Some(map) = &source.config_map {
            let path = path.field("configMap");
            if map.name.is_empty() {
                check.required(&path.field("name"), "");
            }
            let items = items(map.items.as_deref(), &path, check);
            let (name, optional) = (map.name.clone(), map.optional.unwrap_or(false));
            lowered.push(ProjectedSource::ConfigMap { name, items, optional });
        } else if let Some(secret) = &source.secret {
            let path = path.field("secret");
            if secret.name.is_empty() {
                check.required(&path.field("name"), "");
            }
            let items = items(secret.items.as_deref(), &path, check);
            let (name, optional) = (secret.name.clone(), secret.optional.unwrap_or(false));
            lowered.push(ProjectedSource::Secret { name, items, optional });
        } else if let Some(downward) = &source.downward_api {
            let path = path.field("downwardAPI");
            lowered.extend(downward_items(downward.items.as_deref(), spec, &path, check));
        }
    }
    conflicting_paths(&lowered, path, check);
    lowered
}

/// Two sources may not write the same file. Those without `items` bring the keys they have, which
/// only the running node sees.
fn conflicting_paths(sources: &[ProjectedSource], path: &Path<'_>, check: &mut Check<'_>) {
    let paths = sources.iter().flat_map(|source| match source {
        ProjectedSource::ConfigMap { items, .. } | ProjectedSource::Secret { items, .. } => {
            items.iter().map(|item| item.path.as_str()).collect::<Vec<_>>()
        }
        ProjectedSource::Field { path, .. } | ProjectedSource::Resource { path, .. } => {
            vec![path.as_str()]
        }
    });
    let mut seen = BTreeSet::new();
    for text in paths {
        if !text.is_empty() && !seen.insert(text) {
            check.invalid(path, text, "conflicting duplicate paths");
        }
    }
}

pub(super) fn lower_mounts(
    container: &corev1::Container,
    volumes: &[Volume],
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Vec<Mount> {
    let by_name: BTreeMap<&str, &Volume> =
        volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
    let mut taken = BTreeSet::new();
    let mut mounts = Vec::new();
    for (index, wire) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.index(index);
        let name_path = path.field("name");
        if wire.name.is_empty() {
            check.required(&name_path, "");
        } else if !by_name.contains_key(wire.name.as_str()) {
            check.not_found(&name_path, &wire.name);
        }
        let mount_path = mount_path(&wire.mount_path, &path.field("mountPath"), check);
        if !wire.mount_path.is_empty() && !taken.insert(mount_path.clone()) {
            check.invalid(&path.field("mountPath"), &wire.mount_path, "must be unique");
        }
        let read_only = wire.read_only.unwrap_or(false);
        recursive_read_only(wire, read_only, &path, check);
        let propagation = ["None", "HostToContainer", "Bidirectional"].map(|word| (word, ()));
        let propagation_path = path.field("mountPropagation");
        check.choice(&propagation_path, wire.mount_propagation.as_deref(), &propagation);
        let sub_path = sub_path(wire, &path, check);
        mounts.push(Mount { volume: wire.name.clone(), path: mount_path, read_only, sub_path });
    }
    mounts
}

/// The path in the guest; a relative one counts from its root, as in Kubernetes.
fn mount_path(text: &str, path: &Path<'_>, check: &mut Check<'_>) -> String {
    if text.is_empty() {
        check.required(path, "");
    }
    if text.contains(':') {
        check.invalid(path, text, "must not contain ':'");
    }
    if text.contains('\0') {
        check.invalid(path, text, "must not contain a NUL character");
    }
    check.faults(path, text, rules::no_back_steps(text));
    let elements = text.split('/').filter(|element| !element.is_empty() && *element != ".");
    let joined = elements.collect::<Vec<_>>().join("/");
    format!("/{joined}")
}

fn recursive_read_only(
    wire: &corev1::VolumeMount,
    read_only: bool,
    path: &Path<'_>,
    check: &mut Check<'_>,
) {
    let known = [("Disabled", false), ("IfPossible", true), ("Enabled", true)];
    let path = path.field("recursiveReadOnly");
    let wanted = check.choice(&path, wire.recursive_read_only.as_deref(), &known);
    if wanted == Some(true) && !read_only {
        check.forbidden(&path, "may only be specified when readOnly is true");
    }
}

fn sub_path(wire: &corev1::VolumeMount, path: &Path<'_>, check: &mut Check<'_>) -> Option<SubPath> {
    let literal = wire.sub_path.as_deref().filter(|text| !text.is_empty());
    let expression = wire.sub_path_expr.as_deref().filter(|text| !text.is_empty());
    if let (Some(_), Some(expression)) = (literal, expression) {
        let detail = "subPathExpr and subPath are mutually exclusive";
        check.invalid(&path.field("subPathExpr"), expression, detail);
    }
    let (field, text) = match (literal, expression) {
        (Some(text), _) => ("subPath", text),
        (None, Some(text)) => ("subPathExpr", text),
        (None, None) => return None,
    };
    check.faults(&path.field(field), text, rules::relative_path(text));
    let text = text.to_owned();
    Some(if literal.is_some() { SubPath::Literal(text) } else { SubPath::Expr(text) })
}
