//! From the bytes of a manifest to Kubernetes objects.
//!
//! Owns: splitting a file into documents, telling YAML from JSON, flattening lists, dispatching on
//! `apiVersion` and `kind`, and reporting everything that is wrong with its place. Not: defaulting
//! (`default`), what values mean (`lower`).
//!
//! ```text
//!  bytes ── size, UTF-8 ──► text ── `---` lines ──► parts ── scan ── serde_yaml ──► Node ── decode ──► Object
//!                             └── begins with `{` ──────────────── serde_json ────┘
//! ```
//!
//! A part that cannot be read spoils itself only: the others are read, and their errors reported as
//! well. Nothing here panics or runs away on any input; the bounds are in `limits`, `scan` and
//! `node`.

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::api::networking::v1 as networkingv1;

use super::decode::{self, Misfit};
use super::error::{ManifestError, ManifestErrorKind, Place, Position};
use super::layout::{Layout, Lines};
use super::node::{Builder, Language, Node, Value};
use super::object::{Document, Object};
use super::scan;
use crate::limits::{MANIFEST_BYTES_MAX, MANIFEST_DOCUMENTS_MAX};

/// What becomes of unknown and duplicate fields (`?fieldValidation=` of the Kubernetes API).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are errors. Folder, `play`, `check` and MQTT are always strict.
    Strict,
    /// They are warnings, and dropped: the API's default.
    Warn,
    /// They are dropped.
    Ignore,
}

impl FieldValidation {
    /// The value of the API's query parameter; empty is the default, `Warn`.
    #[must_use]
    pub fn from_query(word: &str) -> Option<Self> {
        match word {
            "Strict" => Some(Self::Strict),
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            _ => None,
        }
    }
}

/// The API group and version of NetworkPolicies.
const NETWORKING: &str = "networking.k8s.io/v1";

/// Unknown, duplicate and mistyped fields told of one document; a person mends the first few and
/// asks again.
const MISFITS_MAX: usize = 100;

/// Parts between `---` lines that are looked at: empty ones are free, but not without end.
const PARTS_MAX: usize = 4 * MANIFEST_DOCUMENTS_MAX;

/// Everything that was found in a text: what can be used, and what is wrong.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Objects that may be used.
    pub documents: Vec<Document>,
    /// Objects that may not, because `errors` has something on them, but that could be read:
    /// whoever reports errors to a person looks for further ones here.
    pub rejected: Vec<Document>,
    pub errors: Vec<ManifestError>,
    /// Unknown and duplicate fields, under [`FieldValidation::Warn`].
    pub warnings: Vec<ManifestError>,
}

/// Reads a manifest: YAML or JSON, any number of documents, `List`s flattened, empty documents
/// skipped.
#[must_use]
pub fn parse(bytes: &[u8], validation: FieldValidation) -> Parsed {
    let mut parsed = Parsed::default();
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > MANIFEST_BYTES_MAX {
        parsed.fail(None, None, ManifestErrorKind::TooLarge { bytes: length });
        return parsed;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let offset = error.valid_up_to();
            parsed.fail(None, None, ManifestErrorKind::NotUtf8 { offset });
            return parsed;
        }
    };
    let mut reading = Reading::new(text, validation);
    if !reading.text.trim_start().starts_with(['{', '[']) || !reading.json() {
        reading.yaml();
    }
    reading.parsed
}

impl Parsed {
    fn fail(&mut self, place: Option<Place>, at: Option<Position>, kind: ManifestErrorKind) {
        self.errors.push(ManifestError { place, at, kind });
    }
}

/// The state of reading one text.
struct Reading<'t> {
    text: &'t str,
    lines: Lines<'t>,
    validation: FieldValidation,
    /// Documents met so far, empty ones not counted.
    count: usize,
    /// Objects met so far: the items of a list count singly.
    objects: usize,
    parsed: Parsed,
}

impl<'t> Reading<'t> {
    fn new(text: &'t str, validation: FieldValidation) -> Self {
        Self {
            text,
            lines: Lines::new(text),
            validation,
            count: 0,
            objects: 0,
            parsed: Parsed::default(),
        }
    }

    fn fail(&mut self, place: Option<Place>, at: Option<Position>, kind: ManifestErrorKind) {
        self.parsed.fail(place, at, kind);
    }

    /// Counts a document; false, with an error once, when there are too many.
    fn admit(&mut self) -> bool {
        self.count += 1;
        self.admit_object()
    }

    /// Counts an object: a document, or one more item of a list.
    fn admit_object(&mut self) -> bool {
        self.objects += 1;
        if self.objects == MANIFEST_DOCUMENTS_MAX + 1 {
            self.fail(None, None, ManifestErrorKind::TooManyDocuments);
        }
        self.objects <= MANIFEST_DOCUMENTS_MAX
    }

    /// Reads the text as a stream of JSON values. False if it is none: then it may be YAML in flow
    /// style.
    fn json(&mut self) -> bool {
        let mut nodes = Vec::new();
        let mut stream = serde_json::Deserializer::from_str(self.text);
        while stream.end().is_err() {
            // Each document has its own budget, as in YAML.
            match Builder::new(self.text, Language::Json).read(&mut stream) {
                Ok(node) if nodes.len() <= MANIFEST_DOCUMENTS_MAX => nodes.push(node),
                Ok(_) => break,
                Err(error) if error.is_syntax() || error.is_eof() => {
                    return self.json_after_all(&error);
                }
                Err(error) => {
                    let at = Position { line: error.line(), column: error.column() };
                    let message = without_place(&error.to_string());
                    self.fail(Some(Place::nth(1)), Some(at), ManifestErrorKind::Syntax { message });
                    return true;
                }
            }
        }
        for node in nodes {
            if node.value != Value::Null && self.admit() {
                self.document(&node);
            }
        }
        true
    }

    /// Broken JSON may still be YAML (`{a: b}`); if it is not, the JSON error is the one to show.
    fn json_after_all(&mut self, error: &serde_json::Error) -> bool {
        let mut as_yaml = Reading::new(self.text, self.validation);
        as_yaml.yaml();
        let is_yaml = !as_yaml
            .parsed
            .errors
            .iter()
            .any(|error| matches!(error.kind, ManifestErrorKind::Syntax { .. }));
        if is_yaml {
            self.parsed = as_yaml.parsed;
            return true;
        }
        let at = Position { line: error.line(), column: error.column() };
        let message = without_place(&error.to_string());
        self.fail(None, Some(at), ManifestErrorKind::Syntax { message });
        true
    }

    fn yaml(&mut self) {
        for (index, part) in parts(self.text).enumerate() {
            if index == PARTS_MAX {
                return self.fail(None, None, ManifestErrorKind::TooManyDocuments);
            }
            if !self.yaml_part(part) {
                return;
            }
        }
    }

    /// Reads what stands between two `---` lines; false when there have been too many documents.
    fn yaml_part(&mut self, part: Part<'t>) -> bool {
        if let Err(excess) = scan::check(part.text) {
            if !self.admit() {
                return false;
            }
            let at = self.position(part.start + excess.offset);
            let place = Place::nth(self.count);
            self.fail(Some(place), Some(at), ManifestErrorKind::Excess(excess.kind));
            return true;
        }
        for document in serde_yaml::Deserializer::from_str(part.text) {
            // One budget per document. The part is a slice of the text, so offsets are those of the
            // whole.
            match Builder::new(self.text, Language::Yaml).read(document) {
                Ok(node) if node.value == Value::Null => {}
                Ok(node) => {
                    if !self.admit() {
                        return false;
                    }
                    self.document(&node);
                }
                Err(error) => {
                    if !self.admit() {
                        return false;
                    }
                    let at =
                        error.location().map(|at| part.start + at.index().min(part.text.len()));
                    let at = at.map(|offset| self.position(offset));
                    let message = without_place(&error.to_string());
                    let place = Place::nth(self.count);
                    self.fail(Some(place), at, ManifestErrorKind::Syntax { message });
                    // After a syntax error the parser only repeats it.
                    return true;
                }
            }
        }
        true
    }

    fn position(&self, offset: usize) -> Position {
        self.lines.position(offset)
    }

    /// One document: an object, or a list of them.
    fn document(&mut self, root: &Node) {
        let place = Place::nth(self.count);
        let Value::Map(_) = root.value else {
            let at = root.offset().map(|offset| self.position(offset));
            let found = root.type_name();
            return self.fail(Some(place), at, ManifestErrorKind::NotAnObject { found });
        };
        let kind = root.get("kind").and_then(Node::as_str).unwrap_or_default();
        let version = api_version(root);
        let is_ours = matches!(version, "v1" | NETWORKING);
        let item_kind = kind.strip_suffix("List").filter(|_| is_ours);
        match item_kind {
            Some(item_kind) => self.list(root, place, (version, item_kind)),
            None => self.object(root, place, None),
        }
    }

    fn list(&mut self, root: &Node, place: Place, item: (&str, &str)) {
        let (version, kind) = item;
        let Some(items) = root.get("items") else { return };
        let Value::Seq(items) = &items.value else {
            let at = items.offset().map(|offset| self.position(offset));
            let message = format!("must be a list, not {}", items.type_name());
            let path = "items".to_owned();
            return self.fail(Some(place), at, ManifestErrorKind::Type { path, message });
        };
        for (index, item) in items.iter().enumerate() {
            // A document of the file was admitted for the list; its first item stands for it.
            if index > 0 && !self.admit_object() {
                return;
            }
            // Items of a `PodList` may leave out their kind, as the API server does in its answers.
            let implied = (!kind.is_empty()).then_some((version, kind));
            self.object(item, Place { item: Some(index), ..place.clone() }, implied);
        }
    }

    fn object(&mut self, root: &Node, place: Place, implied: Option<(&str, &str)>) {
        let at = root.offset().map(|offset| self.position(offset));
        let named = |key: &str| root.get(key).and_then(Node::as_str).unwrap_or_default().to_owned();
        let mut kind = named("kind");
        let mut version = api_version(root).to_owned();
        if let (Some((of, item)), true, true) = (implied, kind.is_empty(), version.is_empty()) {
            (kind, version) = (item.to_owned(), of.to_owned());
        }
        let metadata = |key: &str| {
            let name = root.get("metadata").and_then(|metadata| metadata.get(key));
            name.and_then(Node::as_str).unwrap_or_default().to_owned()
        };
        let place = place.with_object(&kind, &metadata("namespace"), &metadata("name"));
        for (field, value) in [("apiVersion", &version), ("kind", &kind)] {
            if value.is_empty() {
                return self.fail(Some(place), at, ManifestErrorKind::Missing { field });
            }
        }
        match (version.as_str(), kind.as_str()) {
            ("v1", "Pod") => {
                self.decode(root, place, |pod: corev1::Pod| Object::Pod(Box::new(pod)));
            }
            ("v1", "ConfigMap") => {
                self.decode(root, place, |map: corev1::ConfigMap| Object::ConfigMap(Box::new(map)));
            }
            ("v1", "Secret") => {
                let before = self.parsed.errors.len();
                self.decode(root, place, |secret: corev1::Secret| Object::Secret(Box::new(secret)));
                self.parsed.errors[before..].iter_mut().for_each(without_value);
            }
            ("v1", "Service") => {
                self.decode(root, place, |service: corev1::Service| {
                    Object::Service(Box::new(service))
                });
            }
            (NETWORKING, "NetworkPolicy") => {
                self.decode(root, place, |policy: networkingv1::NetworkPolicy| {
                    Object::NetworkPolicy(Box::new(policy))
                });
            }
            _ => {
                let kind = ManifestErrorKind::UnsupportedKind { api_version: version, kind };
                self.fail(Some(place), at, kind);
            }
        }
    }

    fn decode<T: for<'de> serde::Deserialize<'de>>(
        &mut self,
        root: &Node,
        place: Place,
        wrap: fn(T) -> Object,
    ) {
        let (object, misfits) = decode::decode::<T>(root);
        let layout = Layout::new(root, &self.lines);
        let (mut rejected, count) = (false, misfits.len());
        let placed = misfits.into_iter().take(MISFITS_MAX).map(|misfit| {
            let at = match &misfit {
                Misfit::DuplicateField { at, .. } => at.map(|offset| self.position(offset)),
                Misfit::UnknownField { path } | Misfit::Type { path, .. } => layout.position(path),
            };
            (at, misfit)
        });
        let mut placed: Vec<_> = placed.collect();
        placed.sort_by_key(|(at, _)| *at);
        for (at, misfit) in placed {
            let is_type = matches!(misfit, Misfit::Type { .. });
            let error = ManifestError { place: Some(place.clone()), at, kind: misfit.into() };
            match self.validation {
                FieldValidation::Warn if !is_type => self.parsed.warnings.push(error),
                FieldValidation::Ignore if !is_type => {}
                FieldValidation::Strict | FieldValidation::Warn | FieldValidation::Ignore => {
                    rejected = true;
                    self.parsed.errors.push(error);
                }
            }
        }
        if count > MISFITS_MAX && (rejected || self.validation == FieldValidation::Warn) {
            let kind = ManifestErrorKind::More { count: count - MISFITS_MAX };
            let more = ManifestError { place: Some(place.clone()), at: None, kind };
            let list = if rejected { &mut self.parsed.errors } else { &mut self.parsed.warnings };
            list.push(more);
        }
        if let Some(object) = object {
            let document = Document { place, object: wrap(object), layout };
            let parsed = &mut self.parsed;
            let list = if rejected { &mut parsed.rejected } else { &mut parsed.documents };
            list.push(document);
        }
    }
}

/// What is in a Secret must not be in a message about it, which goes to logs, events and terminals.
fn without_value(error: &mut ManifestError) {
    let ManifestErrorKind::Type { path, message } = &mut error.kind else { return };
    if path.starts_with("data") || path.starts_with("stringData") {
        // Serde says what it found, then what it expected; nothing it expects has a comma.
        let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
        *message =
            format!("not a value of the right type: expected {}", expected.unwrap_or("text"));
    }
}

fn api_version(root: &Node) -> &str {
    root.get("apiVersion").and_then(Node::as_str).unwrap_or_default()
}

/// The parsers put the place behind their message; we put it in front.
fn without_place(message: &str) -> String {
    if message == "repetition limit exceeded" {
        return "aliases repeat each other too often".to_owned();
    }
    let end = message.find(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// The text between two `---` lines, and where it starts in the whole.
#[derive(Clone, Copy)]
struct Part<'t> {
    start: usize,
    text: &'t str,
}

/// Cuts the text before each line that starts a document, so that one broken document does not hide
/// the next.
///
/// YAML forbids such a line inside any scalar or bracket, so cutting needs no understanding of the
/// text. Directives (`%YAML 1.2`) and comments before the first line of a document stay with it.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut starts = vec![0];
    let (mut offset, mut has_content) = (0, false);
    for line in text.split_inclusive('\n') {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && has_content {
            starts.push(offset);
            if starts.len() > PARTS_MAX {
                break;
            }
        }
        let trimmed = line.trim();
        let is_prelude = trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%');
        has_content |= is_marker || !is_prelude;
        offset += line.len();
    }
    let mut ends = starts.split_off(1);
    ends.push(text.len());
    let mut start = 0;
    ends.into_iter().map(move |end| {
        let part = Part { start, text: &text[start..end] };
        start = end;
        part
    })
}

#[cfg(test)]
mod tests;
