//! Which files a configMap, secret, downwardAPI or projected volume holds.
//!
//! Owns: keys, items, modes, optional objects, and Kubernetes' words when something is missing
//! (`pkg/volume/{configmap,secret,downwardapi,projected}`). Not: writing them (`writer`), nor where objects come from
//! ([`ObjectData`]). Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use thiserror::Error;

use crate::secret::{Unreadable, Values, Zeroizing};
use crate::spec::{FieldPath, KeyToPath, Pod, ProjectedSource, ResourceField, VolumeSource};

use super::ObjectData;

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, PayloadFile>;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadFile {
    pub bytes: Zeroizing<Vec<u8>>,
    pub mode: u32,
}

/// Why the files of a volume are not known; in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("configmap references non-existent config key: {0}")]
    NoConfigKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("fieldRef of {path} has no value (yet)")]
    NoField { path: String },
    #[error("resourceFieldRef {resource} of {path} has no value")]
    NoResource { path: String, resource: String },
    #[error("invalid path: {0}")]
    Path(String),
    #[error("conflicting paths: {0} is both a file and a folder")]
    Conflict(String),
}

/// The files of a volume; `None` for the kinds of volume that hold none of ours.
pub fn payload(
    source: &VolumeSource,
    pod: &Pod,
    data: &dyn ObjectData,
) -> Option<Result<Payload, PayloadError>> {
    let (sources, default_mode) = match source {
        VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } => return None,
        VolumeSource::ConfigMap { name, items, default_mode, optional } => {
            let (name, items, optional) = (name.clone(), items.clone(), *optional);
            (vec![ProjectedSource::ConfigMap { name, items, optional }], default_mode)
        }
        VolumeSource::Secret { name, items, default_mode, optional } => {
            let (name, items, optional) = (name.clone(), items.clone(), *optional);
            (vec![ProjectedSource::Secret { name, items, optional }], default_mode)
        }
        VolumeSource::DownwardApi { items: sources, default_mode }
        | VolumeSource::Projected { sources, default_mode } => (sources.clone(), default_mode),
    };
    let mut gathering =
        Gathering { pod, data, default_mode: *default_mode, payload: Payload::new() };
    let gathered = sources.iter().try_for_each(|source| gathering.source(source));
    Some(gathered.and_then(|()| check_conflicts(gathering.payload)))
}

/// Whether a volume may hold a secret, and so belongs in memory.
#[must_use]
pub fn is_secret(source: &VolumeSource) -> bool {
    match source {
        VolumeSource::Secret { .. } => true,
        VolumeSource::Projected { sources, .. } => {
            sources.iter().any(|source| matches!(source, ProjectedSource::Secret { .. }))
        }
        VolumeSource::EmptyDir { .. }
        | VolumeSource::HostPath { .. }
        | VolumeSource::ConfigMap { .. }
        | VolumeSource::DownwardApi { .. } => false,
    }
}

struct Gathering<'a> {
    pod: &'a Pod,
    data: &'a dyn ObjectData,
    default_mode: u32,
    payload: Payload,
}

impl Gathering<'_> {
    fn source(&mut self, source: &ProjectedSource) -> Result<(), PayloadError> {
        let namespace = &self.pod.key.namespace;
        match source {
            ProjectedSource::ConfigMap { name, items, optional } => {
                match self.data.config_map(namespace, name) {
                    Some(keys) => {
                        let keys = keys.into_iter().map(|(key, v)| (key, Zeroizing::new(v)));
                        self.keys(keys.collect(), items, *optional, PayloadError::NoConfigKey)
                    }
                    None if *optional => Ok(()),
                    None => Err(PayloadError::NoConfigMap(name.clone())),
                }
            }
            ProjectedSource::Secret { name, items, optional } => {
                match self.data.secret(namespace, name)? {
                    Some(keys) => self.keys(keys, items, *optional, PayloadError::NoSecretKey),
                    None if *optional => Ok(()),
                    None => Err(PayloadError::NoSecret(name.clone())),
                }
            }
            ProjectedSource::Field { path, mode, field } => {
                let value = field_value(self.pod, field, self.data)
                    .ok_or_else(|| PayloadError::NoField { path: path.clone() })?;
                self.put(path, value.into_bytes().into(), *mode)
            }
            ProjectedSource::Resource { path, mode, field } => {
                let value = self.resource(path, field)?;
                self.put(path, value.into_bytes().into(), *mode)
            }
        }
    }

    fn keys(
        &mut self,
        keys: Values,
        items: &[KeyToPath],
        optional: bool,
        missing: fn(String) -> PayloadError,
    ) -> Result<(), PayloadError> {
        if items.is_empty() {
            return keys.into_iter().try_for_each(|(key, bytes)| self.put(&key, bytes, None));
        }
        for item in items {
            // A key may be asked for twice, under two paths.
            match keys.get(&item.key) {
                Some(bytes) => self.put(&item.path, bytes.clone(), item.mode)?,
                None if optional => {}
                None => return Err(missing(item.key.clone())),
            }
        }
        Ok(())
    }

    fn resource(&self, path: &str, field: &ResourceField) -> Result<String, PayloadError> {
        self.data.resource(field).ok_or_else(|| PayloadError::NoResource {
            path: path.to_owned(),
            resource: field.resource.clone(),
        })
    }

    fn put(
        &mut self,
        path: &str,
        bytes: Zeroizing<Vec<u8>>,
        mode: Option<u32>,
    ) -> Result<(), PayloadError> {
        let path = tidy(path).ok_or_else(|| PayloadError::Path(path.to_owned()))?;
        let mode = mode.unwrap_or(self.default_mode) & 0o777;
        self.payload.insert(path, PayloadFile { bytes, mode });
        Ok(())
    }
}

/// The path without empty and `.` parts; `None` if it is absolute, empty, leads up, or its first part is one that the
/// writer uses for itself (`..data`).
fn tidy(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let first = parts.first()?;
    let harmless = !first.starts_with("..") && !path.contains('\0');
    harmless.then(|| parts.join("/"))
}

fn check_conflicts(payload: Payload) -> Result<Payload, PayloadError> {
    for path in payload.keys() {
        let above = Path::new(path).ancestors().skip(1).filter_map(Path::to_str);
        for folder in above {
            if payload.contains_key(folder) {
                return Err(PayloadError::Conflict(folder.to_owned()));
            }
        }
    }
    Ok(payload)
}

/// A downward API field: what the pod itself holds, else what `data` knows.
fn field_value(pod: &Pod, field: &FieldPath, data: &dyn ObjectData) -> Option<String> {
    let one = |map: &BTreeMap<String, String>, key: &Option<String>| match key {
        Some(key) => map.get(key).cloned().unwrap_or_default(),
        None => format_map(map),
    };
    match field {
        FieldPath::Name => Some(pod.key.name.to_string()),
        FieldPath::Namespace => Some(pod.key.namespace.to_string()),
        FieldPath::Uid => Some(pod.uid.to_string()),
        FieldPath::Labels(key) => Some(one(&pod.labels, key)),
        FieldPath::Annotations(key) => Some(one(&pod.annotations, key)),
        FieldPath::NodeName
        | FieldPath::ServiceAccountName
        | FieldPath::HostIp
        | FieldPath::HostIps
        | FieldPath::PodIp
        | FieldPath::PodIps => data.field(field),
    }
}

/// `key="value"` lines, sorted, values quoted as Go's `%q` does (`pkg/fieldpath`, `FormatMap`).
#[must_use]
pub fn format_map(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        let plain = match c {
            '"' => Some("\\\""),
            '\\' => Some("\\\\"),
            '\u{7}' => Some("\\a"),
            '\u{8}' => Some("\\b"),
            '\u{c}' => Some("\\f"),
            '\n' => Some("\\n"),
            '\r' => Some("\\r"),
            '\t' => Some("\\t"),
            '\u{b}' => Some("\\v"),
            _ => None,
        };
        let written = match plain {
            Some(escape) => quoted.write_str(escape),
            None if c.is_ascii_control() => write!(quoted, "\\x{:02x}", u32::from(c)),
            // Control characters, separators and the byte order mark are what Go does not print.
            None if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{feff}' => {
                write!(quoted, "\\u{:04x}", u32::from(c))
            }
            None => quoted.write_char(c),
        };
        written.expect("a String takes any text");
    }
    quoted.push('"');
    quoted
}
