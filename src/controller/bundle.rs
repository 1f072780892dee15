//! What of some manifest files goes to which pod.
//!
//! Owns: the same checks as `podling check`, sharing out ConfigMaps and Secrets, and the manifest's text as it is signed: the
//! author's own lines at their own places, without what belongs to others (a Secret never leaves in clear). Not: where modules are
//! (`images`). Pure.
//!
//! ```text
//!  a.yaml: Pod web          ┐              web:  a.yaml with the Secret's lines empty
//!          ConfigMap pages  ├─► bundles ─►       Secret login, to be sealed
//!          Secret login     ┘                    images: file:web.wasm, ghcr.io/acme/db:1
//! ```

mod text;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as corev1;
use serde_json::Value;
use thiserror::Error;

use crate::image::{InvalidReference, parse_reference};
use crate::manifest::check::{Finding, Report, Severity, check_text};
use crate::manifest::{DEFAULT_NAMESPACE, Document, FieldValidation, Object, Position, parse};
use crate::secret::Form;
use crate::spec::{ImageRef, PodKey};
use text::{cut_out, edited, has_images, image_fields, rename};

/// A manifest file as it was read.
#[derive(Clone, Debug)]
pub struct File {
    /// For messages, and the folder that `file:` images start from.
    pub path: PathBuf,
    pub text: String,
}

/// One pod with everything that comes along.
#[derive(Debug)]
pub struct Bundle {
    pub key: PodKey,
    /// Its images, each once.
    pub images: Vec<ImageRef>,
    /// In clear, to be sealed. Those that are sealed already are a part of the manifest.
    pub secrets: Vec<corev1::Secret>,
    /// Where it stands.
    file: PathBuf,
    pod: Document,
    /// The author's text without what is others', where it can be cut out line by line.
    text: Option<String>,
    /// Pod, ConfigMaps, sealed Secrets.
    objects: Vec<Object>,
}

/// Everything that was found in the files.
#[derive(Debug)]
pub struct Bundles {
    pub pods: Vec<Bundle>,
    /// What its author should know and what stops nothing.
    pub warnings: Vec<String>,
}

/// Why nothing of the files is published.
#[derive(Debug, Error)]
pub enum BundleError {
    /// Every mistake, as `podling check` words them.
    #[error("the manifests are not published\n{0}")]
    Invalid(Report),
    #[error("there is no Pod in the manifests")]
    NoPod,
    #[error(
        "{file}: {kind} {name}: a node takes Pods over MQTT, with their ConfigMaps and Secrets, and nothing else"
    )]
    Kind { file: String, kind: &'static str, name: String },
    #[error(
        "the namespace from the provided object \"{own}\" does not match the namespace \"{asked}\". You must pass \
         '--namespace={own}' to perform this operation."
    )]
    Namespace { own: String, asked: String },
    #[error("Pod {0} is in the manifests twice")]
    Twice(PodKey),
    #[error(
        "{kind} {name} is used by more than one of the pods ({pods}): each pod travels with objects of its own, so give each \
         its own copy"
    )]
    Shared { kind: &'static str, name: String, pods: String },
    #[error("image {text:?} of pod {pod}")]
    Image { text: String, pod: PodKey, source: InvalidReference },
}

struct Found {
    file: usize,
    document: Document,
    namespace: String,
}

/// Shares out the objects of all files.
///
/// # Errors
/// With everything that is wrong with the manifests; else the first thing that keeps them from travelling.
pub fn bundles(files: &[File], namespace: Option<&str>) -> Result<Bundles, BundleError> {
    let mut report = Report::default();
    let mut found = vec![];
    for (index, file) in files.iter().enumerate() {
        check_text(&file.path, file.text.as_bytes(), &mut report);
        let parsed = parse(file.text.as_bytes(), FieldValidation::Strict);
        found.extend(parsed.documents.into_iter().map(|document| (index, document)));
    }
    if !report.is_clean() {
        return Err(BundleError::Invalid(report));
    }
    let warned = report.findings.iter().filter(|f| f.severity == Severity::Warning);
    let mut warnings: Vec<String> = warned.map(Finding::to_string).collect();
    let all = found
        .into_iter()
        .map(|(file, document)| placed(files, file, document, namespace))
        .collect::<Result<Vec<_>, _>>()?;
    let shares = share(files, &all, &mut warnings)?;
    let pods = shares.iter().map(|share| bundle(files, &all, share)).collect::<Result<_, _>>()?;
    Ok(Bundles { pods, warnings })
}

/// Checks kind and namespace of an object.
fn placed(
    files: &[File],
    file: usize,
    document: Document,
    asked: Option<&str>,
) -> Result<Found, BundleError> {
    let object = &document.object;
    let name = object.name().to_owned();
    if matches!(object, Object::Service(_) | Object::NetworkPolicy(_)) {
        let file = files[file].path.display().to_string();
        return Err(BundleError::Kind { file, kind: object.kind(), name });
    }
    let own = object.metadata().namespace.clone().filter(|own| !own.is_empty());
    if let (Some(own), Some(asked)) = (&own, asked)
        && own != asked
    {
        return Err(BundleError::Namespace { own: own.clone(), asked: asked.to_owned() });
    }
    let namespace = own.unwrap_or_else(|| asked.unwrap_or(DEFAULT_NAMESPACE).to_owned());
    Ok(Found { file, document, namespace })
}

/// Which objects make one bundle: the pod, then what is its.
struct Share {
    pod: usize,
    data: BTreeSet<usize>,
}

fn share(
    files: &[File],
    all: &[Found],
    warnings: &mut Vec<String>,
) -> Result<Vec<Share>, BundleError> {
    let mut shares: Vec<Share> = vec![];
    for (index, found) in all.iter().enumerate() {
        if !matches!(found.document.object, Object::Pod(_)) {
            continue;
        }
        let key = key(found);
        if shares.iter().any(|share| self::key(&all[share.pod]) == key) {
            return Err(BundleError::Twice(key));
        }
        shares.push(Share { pod: index, data: BTreeSet::new() });
    }
    if shares.is_empty() {
        return Err(BundleError::NoPod);
    }
    let used: Vec<BTreeSet<(&str, String)>> =
        shares.iter().map(|share| references(&all[share.pod].document.object)).collect();
    let alone = shares.len() == 1;
    for (index, found) in all.iter().enumerate() {
        let object = &found.document.object;
        if matches!(object, Object::Pod(_)) {
            continue;
        }
        let (kind, name) = (object.kind(), object.name().to_owned());
        let users: Vec<usize> = (0..shares.len())
            .filter(|&at| all[shares[at].pod].namespace == found.namespace)
            .filter(|&at| alone || used[at].contains(&(kind, name.clone())))
            .collect();
        match users[..] {
            [at] => drop(shares[at].data.insert(index)),
            [] => warnings.push(format!(
                "{}: {kind} {name} is used by none of the pods, and stays here",
                files[found.file].path.display()
            )),
            _ => {
                let names = users.iter().map(|&at| key(&all[shares[at].pod]).to_string());
                let pods = names.collect::<Vec<_>>().join(", ");
                return Err(BundleError::Shared { kind, name, pods });
            }
        }
    }
    Ok(shares)
}

fn key(found: &Found) -> PodKey {
    PodKey::new(&found.namespace, found.document.object.name())
}

/// The ConfigMaps and Secrets that a pod names.
fn references(object: &Object) -> BTreeSet<(&'static str, String)> {
    let mut names = BTreeSet::new();
    if let Object::Pod(pod) = object
        && let Ok(json) = serde_json::to_value(&pod.spec)
    {
        collect(&json, &mut names);
    }
    names
}

fn collect(json: &Value, names: &mut BTreeSet<(&'static str, String)>) {
    let mut add = |kind, name: &Value| {
        if let Some(name) = name.as_str() {
            names.insert((kind, name.to_owned()));
        }
    };
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                match key.as_str() {
                    "configMapKeyRef" | "configMapRef" | "configMap" => {
                        add("ConfigMap", &value["name"]);
                    }
                    "secretKeyRef" | "secretRef" => add("Secret", &value["name"]),
                    "secret" => {
                        add("Secret", &value["secretName"]);
                        add("Secret", &value["name"]);
                    }
                    "imagePullSecrets" => {
                        let list = value.as_array().into_iter().flatten();
                        list.for_each(|secret| add("Secret", &secret["name"]));
                    }
                    _ => {}
                }
            }
            fields.values().for_each(|value| collect(value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn bundle(files: &[File], all: &[Found], share: &Share) -> Result<Bundle, BundleError> {
    let found = &all[share.pod];
    let key = key(found);
    let file = files[found.file].path.clone();
    let (mut objects, mut secrets) = (vec![found.document.object.clone()], vec![]);
    let mut members = BTreeSet::from([share.pod]);
    for &index in &share.data {
        let object = all[index].document.object.clone();
        // What is sealed already may be seen by everybody.
        if let Object::Secret(secret) = &object
            && is_plain(secret)
        {
            let mut secret = (**secret).clone();
            secret.metadata.namespace = Some(all[index].namespace.clone());
            secrets.push(secret);
        } else {
            objects.push(object);
            members.insert(index);
        }
    }
    let mut images = vec![];
    for (_, text) in image_fields(&found.document.object) {
        let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let base = beside.unwrap_or_else(|| Path::new("."));
        let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
        let image = parse_reference(&text, Some(&base)).map_err(|source| BundleError::Image {
            text,
            pod: key.clone(),
            source,
        })?;
        if !images.contains(&image) {
            images.push(image);
        }
    }
    let text = cut_out(files, all, &members);
    Ok(Bundle { key, images, secrets, file, pod: found.document.clone(), text, objects })
}

fn is_plain(secret: &corev1::Secret) -> bool {
    Form::of(secret).is_ok_and(|form| form == Form::Plain)
}

impl Bundle {
    /// Where a field of the pod stands: `web.yaml:12:5`.
    #[must_use]
    pub fn place(&self, field: &str) -> Option<String> {
        let Position { line, column } = self.pod.position(field)?;
        Some(format!("{}:{line}:{column}", self.file.display()))
    }

    /// The manifest with these images under other names: the author's text where that can be done in it.
    #[must_use]
    pub fn manifest(&self, renamed: &BTreeMap<String, String>) -> String {
        let wanted: Vec<String> = image_fields(&self.objects[0])
            .into_iter()
            .map(|(_, image)| renamed.get(&image).cloned().unwrap_or(image))
            .collect();
        let edited = self.text.as_deref().and_then(|text| edited(text, renamed));
        if let Some(edited) = edited.filter(|edited| has_images(edited, &wanted)) {
            return edited;
        }
        let mut objects = self.objects.clone();
        if let Some(Object::Pod(pod)) = objects.first_mut() {
            rename(pod, renamed);
        }
        let texts = objects.iter().filter_map(|object| serde_json::to_string(&json(object)).ok());
        texts.collect::<Vec<_>>().join("\n---\n")
    }
}

fn json(object: &Object) -> Value {
    let json = match object {
        Object::Pod(object) => serde_json::to_value(object),
        Object::ConfigMap(object) => serde_json::to_value(object),
        Object::Secret(object) => serde_json::to_value(object),
        Object::Service(object) => serde_json::to_value(object),
        Object::NetworkPolicy(object) => serde_json::to_value(object),
    };
    json.expect("Kubernetes' objects have string keys only")
}
