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

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as corev1;
use serde_json::Value;
use thiserror::Error;

use crate::image::{InvalidReference, parse_reference};
use crate::manifest::check::{Finding, Report, Severity, check_text};
use crate::manifest::{DEFAULT_NAMESPACE, Document, FieldValidation, Object, Position, parse};
use crate::secret::Form;
use crate::spec::{ImageRef, PodKey};

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

/// Path and text of each container's image.
fn image_fields(object: &Object) -> Vec<(String, String)> {
    let Object::Pod(pod) = object else { return vec![] };
    let Some(spec) = &pod.spec else { return vec![] };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = [("initContainers", init), ("containers", &spec.containers)];
    let each = lists.into_iter().flat_map(|(list, containers)| {
        containers.iter().enumerate().filter_map(move |(at, container)| {
            let image = container.image.clone()?;
            Some((format!("spec.{list}[{at}].image"), image))
        })
    });
    each.collect()
}

/// The lines of these objects at their places, all others empty; `None` where a document holds some of them and something else.
fn cut_out(files: &[File], all: &[Found], members: &BTreeSet<usize>) -> Option<String> {
    let mut out = String::new();
    for (at, file) in files.iter().enumerate() {
        let ranges = ranges(&file.text);
        let mut wanted: BTreeMap<usize, bool> = BTreeMap::new();
        for (index, found) in all.iter().enumerate().filter(|(_, found)| found.file == at) {
            let Position { line, .. } = found.document.position("kind")?;
            let range = ranges.iter().position(|range| range.contains(&(line - 1)))?;
            let is_member = members.contains(&index);
            if *wanted.entry(range).or_insert(is_member) != is_member {
                return None;
            }
        }
        let lines: Vec<&str> = file.text.split_inclusive('\n').collect();
        let mut kept = String::new();
        for (number, range) in ranges.iter().enumerate() {
            if wanted.get(&number).copied().unwrap_or(false) {
                kept.extend(lines[range.clone()].iter().copied());
            } else {
                kept.extend(std::iter::repeat_n('\n', range.len()));
            }
        }
        if kept.trim().is_empty() {
            continue;
        }
        if !out.is_empty() && !kept.trim_start().starts_with("---") {
            out.push_str("---\n");
        }
        out.push_str(kept.trim_end());
        out.push('\n');
    }
    Some(out)
}

/// The lines (from 0) of each document, as the parser cuts them: before each `---` once there was content.
fn ranges(text: &str) -> Vec<Range<usize>> {
    let (mut starts, mut has_content, mut count) = (vec![0], false, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let after = line.strip_prefix("---");
        let is_marker =
            after.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && has_content {
            starts.push(number);
        }
        let trimmed = line.trim();
        let is_prelude = trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%');
        has_content |= is_marker || !is_prelude;
        count = number + 1;
    }
    let ends = starts.iter().copied().skip(1).chain([count]).collect::<Vec<_>>();
    starts.into_iter().zip(ends).map(|(start, end)| start..end).collect()
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

/// Replaces images where they stand. `None` where one is not found in so many letters (an alias, an escape).
fn edited(text: &str, renamed: &BTreeMap<String, String>) -> Option<String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let parsed = parse(text.as_bytes(), FieldValidation::Strict);
    let pod = parsed.documents.iter().find(|d| matches!(d.object, Object::Pod(_)))?;
    let mut places = vec![];
    for (path, image) in image_fields(&pod.object) {
        let Some(new) = renamed.get(&image) else { continue };
        places.push((pod.position(&path)?, image, new));
    }
    // From the end, so that what is still to be replaced has not moved.
    places.sort_by_key(|(at, ..)| std::cmp::Reverse((at.line, at.column)));
    for (at, image, new) in places {
        let line = lines.get_mut(at.line - 1)?;
        let from = line.char_indices().nth(at.column - 1).map_or(0, |(from, _)| from);
        let start = from + line[from..].find(&image)?;
        line.replace_range(start..start + image.len(), new);
    }
    Some(lines.concat())
}

/// Whether a text is still one pod, with these images.
fn has_images(text: &str, wanted: &[String]) -> bool {
    let parsed = parse(text.as_bytes(), FieldValidation::Strict);
    let mut pods = parsed.documents.iter().filter(|d| matches!(d.object, Object::Pod(_)));
    let (Some(pod), None) = (pods.next(), pods.next()) else { return false };
    let found = image_fields(&pod.object);
    parsed.errors.is_empty() && found.iter().map(|(_, image)| image).eq(wanted)
}

fn rename(pod: &mut corev1::Pod, renamed: &BTreeMap<String, String>) {
    let Some(spec) = &mut pod.spec else { return };
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        if let Some(new) = container.image.as_ref().and_then(|image| renamed.get(image)) {
            container.image = Some(new.clone());
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { path: name.into(), text: text.to_owned() }
    }

    fn pod(name: &str, more: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: c\n    image: file:{name}.wasm\n{more}"
        )
    }

    const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pages}\ndata: {a: b}\n";
    const SECRET: &str =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: hunter2}\n";

    fn renamed(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(format!("file:{name}.wasm"), format!("{name}@sha256:00"))])
    }

    #[test]
    fn the_authors_lines_stay_where_they_are_and_a_secret_stays_out() {
        let text = format!("# a shop\n{SECRET}---\n{}---\n{CONFIG}", pod("web", "    # note\n"));
        let found = bundles(&[file("shop.yaml", &text)], None).unwrap();
        let [web] = &found.pods[..] else { panic!("{found:?}") };
        let sent = web.manifest(&BTreeMap::from([("file:web.wasm".into(), "web:7".into())]));
        assert!(!sent.contains("hunter2") && !sent.contains("Secret"), "{sent}");
        assert!(sent.contains("# note") && sent.contains("name: pages"), "{sent}");
        let line = |text: &str, of: &str| text.lines().position(|line| line.contains(of));
        for word in ["name: web", "image:", "name: pages"] {
            assert_eq!(line(&sent, word), line(&text, word), "{word} moved in\n{sent}");
        }
        assert_eq!(web.secrets[0].metadata.name.as_deref(), Some("login"));
        assert_eq!(web.place("spec.containers[0].image").unwrap(), "shop.yaml:13:5");
        let ImageRef::File { path, .. } = &web.images[0] else { panic!("{:?}", web.images) };
        assert!(path.is_absolute() && path.ends_with("web.wasm"), "beside the manifest");
    }

    #[test]
    fn each_pod_gets_what_it_names() {
        let more = "    envFrom: [{configMapRef: {name: pages}}]\n";
        let volume = "  volumes: [{name: v, secret: {secretName: login}}]\n";
        let files = [
            file("pods.yaml", &format!("{}---\n{}", pod("web", more), pod("db", volume))),
            file("data.yaml", &format!("{CONFIG}---\n{SECRET}")),
        ];
        let found = bundles(&files, Some("shop")).unwrap();
        let [web, db] = &found.pods[..] else { panic!("{found:?}") };
        assert_eq!(
            (web.key.to_string(), db.key.to_string()),
            ("shop/web".into(), "shop/db".into())
        );
        let (web_text, db_text) = (web.manifest(&renamed("web")), db.manifest(&renamed("db")));
        assert!(web_text.contains("name: pages") && !web_text.contains("name: db"), "{web_text}");
        assert!(!db_text.contains("pages") && db_text.contains("db@sha256:00"), "{db_text}");
        assert_eq!((web.secrets.len(), db.secrets.len()), (0, 1));
        assert_eq!(db.secrets[0].metadata.namespace.as_deref(), Some("shop"));
        let both = format!("{}---\n{}---\n{CONFIG}", pod("a", more), pod("b", more));
        let shared = bundles(&[file("x", &both)], None).unwrap_err().to_string();
        assert!(shared.contains("default/a, default/b"), "{shared}");
        let unused = bundles(
            &[file("x", &format!("{}---\n{}---\n{CONFIG}", pod("a", ""), pod("b", "")))],
            None,
        );
        assert!(unused.unwrap().warnings[0].contains("ConfigMap pages is used by none"));
    }

    #[test]
    fn an_image_behind_an_alias_is_renamed_all_the_same() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n\
            \x20 - {name: a, image: &i 'file:web.wasm'}\n  - {name: b, image: *i}\n";
        let found = bundles(&[file("x.yaml", text)], None).unwrap();
        let sent = found.pods[0].manifest(&renamed("web"));
        assert!(
            has_images(&sent, &["web@sha256:00".to_owned(), "web@sha256:00".to_owned()]),
            "{sent}"
        );
        let list = r#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"file:web.wasm"}]}},
            {"apiVersion":"v1","kind":"Secret","metadata":{"name":"login"},"stringData":{"password":"hunter2"}}]}"#;
        let found = bundles(&[file("x.json", list)], None).unwrap();
        let sent = found.pods[0].manifest(&renamed("web"));
        assert!(
            !sent.contains("hunter2") && has_images(&sent, &["web@sha256:00".to_owned()]),
            "{sent}"
        );
    }

    #[test]
    fn a_secret_that_is_sealed_already_travels_as_it_is() {
        let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let armored = crate::secret::encrypt(&recipient.parse().unwrap(), b"hunter2").unwrap();
        let sealed = SECRET
            .replace("name: login", "name: login, annotations: {podling.dev/encryption: age}")
            .replace("hunter2", &serde_json::to_string(&armored).unwrap());
        let text = format!("{}---\n{sealed}", pod("web", ""));
        let found = bundles(&[file("x.yaml", &text)], None).unwrap();
        assert!(found.pods[0].secrets.is_empty());
        assert!(found.pods[0].manifest(&renamed("web")).contains("kind: Secret"));
    }

    #[test]
    fn what_cannot_travel_is_named() {
        let error = |text: &str| bundles(&[file("x.yaml", text)], None).unwrap_err().to_string();
        assert!(error(CONFIG).contains("no Pod"));
        let mistaken = error(&pod("web", "    imagee: x\n"));
        assert!(mistaken.contains("x.yaml:8:5: error: Pod web"), "{mistaken}");
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {a: b}, ports: [{port: 80}]}\n";
        assert!(error(&format!("{}---\n{service}", pod("web", ""))).contains("Service s"));
        let other = pod("web", "").replace("name: web", "name: web, namespace: b");
        let error = bundles(&[file("x", &other)], Some("a")).unwrap_err().to_string();
        assert!(error.contains("'--namespace=b'"), "{error}");
    }
}
