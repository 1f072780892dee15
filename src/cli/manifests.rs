//! The objects that `-f` names: files, folders, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::board::Kind;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest::check::{Report, check_text};
use crate::manifest::{self, FieldValidation, Object};

/// One object of a file, as the server wants it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub json: Value,
}

/// What has to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// All of each object: nothing is sent of files with a mistake.
    Whole,
    /// What says which objects are meant.
    Names,
}

/// Reads all objects of these files. Every mistake of a file is told.
pub(super) fn read(
    files: &[PathBuf],
    namespace: Option<&str>,
    depth: Depth,
) -> anyhow::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            wanted.extend(parse(
                "standard input",
                &bounded(std::io::stdin(), "-")?,
                namespace,
                depth,
            )?);
        } else {
            for path in expand(file)? {
                let shown = path.display().to_string();
                let opened =
                    std::fs::File::open(&path).with_context(|| format!("cannot open {shown}"))?;
                wanted.extend(parse(&shown, &bounded(opened, &shown)?, namespace, depth)?);
            }
        }
    }
    ensure!(!wanted.is_empty(), "no objects passed to apply");
    Ok(wanted)
}

/// A file itself; of a folder, its manifests in order.
pub(super) fn expand(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let shown = path.display();
    if !std::fs::metadata(path)
        .with_context(|| format!("the path \"{shown}\" cannot be accessed"))?
        .is_dir()
    {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in
        std::fs::read_dir(path).with_context(|| format!("cannot read the folder {shown}"))?
    {
        let path = entry.with_context(|| format!("cannot read the folder {shown}"))?.path();
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no .yaml, .yml or .json file in {shown}");
    Ok(found)
}

fn bounded(from: impl Read, shown: &str) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(MANIFEST_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {shown}"))?;
    ensure!(
        text.len() as u64 <= MANIFEST_BYTES_MAX,
        "{shown} has more than {MANIFEST_BYTES_MAX} bytes"
    );
    Ok(text)
}

fn parse(
    shown: &str,
    text: &[u8],
    namespace: Option<&str>,
    depth: Depth,
) -> anyhow::Result<Vec<Wanted>> {
    let parsed = manifest::parse(text, FieldValidation::Strict);
    for warning in &parsed.warnings {
        super::complain(&format!("Warning: {shown}: {warning}"));
    }
    // What the server would say is told now: nobody wants to learn of one mistake at a time, nor to have half of a file applied.
    let mut report = Report::default();
    if depth == Depth::Whole || !parsed.errors.is_empty() {
        check_text(Path::new(shown), text, &mut report);
    }
    ensure!(report.is_clean(), "{shown} is not applied\n{report}");
    parsed.documents.into_iter().map(|document| wanted(document.object, namespace)).collect()
}

fn wanted(object: Object, asked: Option<&str>) -> anyhow::Result<Wanted> {
    let (kind, mut json) = match &object {
        Object::Pod(object) => (Kind::Pod, serde_json::to_value(object)?),
        Object::ConfigMap(object) => (Kind::ConfigMap, serde_json::to_value(object)?),
        Object::Secret(object) => (Kind::Secret, serde_json::to_value(object)?),
        Object::Service(object) => (Kind::Service, serde_json::to_value(object)?),
        Object::NetworkPolicy(object) => (Kind::NetworkPolicy, serde_json::to_value(object)?),
    };
    let text = |key: &str| json["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (name, own) = (text("name"), text("namespace"));
    if let Some(asked) = asked
        && !own.is_empty()
        && own != asked
    {
        bail!(
            "the namespace from the provided object \"{own}\" does not match the namespace \"{asked}\". You must pass \
             '--namespace={own}' to perform this operation."
        );
    }
    ensure!(!name.is_empty(), "{}: resource name may not be empty", kind.singular());
    let default = asked.unwrap_or(crate::board::DEFAULT_NAMESPACE);
    let namespace = if own.is_empty() { default.to_owned() } else { own };
    json["metadata"]["namespace"] = Value::String(namespace.clone());
    if let Some(object) = json.as_object_mut() {
        object.remove("status");
    }
    Ok(Wanted { kind, namespace, name, json })
}
