//! `podling check FILE…`: everything that is wrong with manifests, offline.
//!
//! Owns: reading files, running the very checks that the daemon runs, and the report as text and as
//! JSON. Not: whether what a manifest refers to exists on some node.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::error::{ManifestErrorKind, Place, Position};
use super::object::Document;
use super::parse::{FieldValidation, parse};
use super::{lower, object};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::spec::Source;

/// What was found in all files.
#[derive(Debug, Default)]
pub struct Report {
    /// Objects that are right.
    pub objects: usize,
    pub findings: Vec<Finding>,
}

/// One thing to say about one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub file: PathBuf,
    pub severity: Severity,
    pub at: Option<Position>,
    /// `Pod default/web`, where it is known.
    pub object: Option<String>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Checks each file; `-` is standard input.
#[must_use]
pub fn check_files(paths: &[PathBuf]) -> Report {
    let mut report = Report::default();
    for path in paths {
        match read(path) {
            Ok(text) => check_text(path, &text, &mut report),
            Err(error) => report.findings.push(Finding {
                file: path.clone(),
                severity: Severity::Error,
                at: None,
                object: None,
                message: format!("cannot read the file: {error}"),
            }),
        }
    }
    report
}

/// Reads one byte more than may be, so that a 100 MB file costs no more than its refusal.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text)?;
    } else {
        File::open(path)?.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text)?;
    }
    Ok(text)
}

/// Checks one text as if it stood in that file.
pub fn check_text(path: &Path, text: &[u8], report: &mut Report) {
    let parsed = parse(text, FieldValidation::Strict);
    let mut findings = Findings { path, list: Vec::new() };
    for error in &parsed.errors {
        // How large it really is was not looked at.
        let message = if matches!(error.kind, ManifestErrorKind::TooLarge { .. }) {
            format!("the manifest has more than {MANIFEST_BYTES_MAX} bytes")
        } else {
            error.message()
        };
        findings.add(Severity::Error, error.at, error.place.as_ref(), message);
    }
    let mut named = BTreeMap::new();
    let mut sound = 0;
    for (document, usable) in
        parsed.documents.iter().map(|d| (d, true)).chain(parsed.rejected.iter().map(|d| (d, false)))
    {
        let clean = findings.check_object(document);
        let clean = findings.check_name(document, &mut named) && clean;
        sound += usize::from(clean && usable);
    }
    findings.list.sort_by_key(|finding| (finding.at.is_none(), finding.at));
    report.objects += sound;
    report.findings.append(&mut findings.list);
}

struct Findings<'p> {
    path: &'p Path,
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn add(
        &mut self,
        severity: Severity,
        at: Option<Position>,
        place: Option<&Place>,
        message: String,
    ) {
        let object = place.and_then(Place::object);
        let file = self.path.to_owned();
        self.list.push(Finding { file, severity, at, object, message });
    }

    /// True if the object breaks no rule.
    fn check_object(&mut self, document: &Document) -> bool {
        let source = Source::Play(self.path.to_owned());
        let place = Some(&document.place);
        match lower::validate(&document.object, &source) {
            Ok(warnings) => {
                for warning in warnings {
                    let at = document.position(&warning.path);
                    self.add(Severity::Warning, at, place, warning.to_string());
                }
                true
            }
            Err(errors) => {
                for error in errors {
                    let at = document.position(&error.path);
                    self.add(Severity::Error, at, place, error.to_string());
                }
                false
            }
        }
    }

    /// True if no other object of this file has the same kind, namespace and name.
    fn check_name(&mut self, document: &Document, named: &mut BTreeMap<String, Position>) -> bool {
        let object = &document.object;
        if object.name().is_empty() {
            return true;
        }
        let namespace = object::namespace(object.metadata());
        let key = format!("{} {namespace}/{}", object.kind(), object.name());
        let at = document.position("metadata.name");
        let first = named.get(&key).copied();
        let Some(first) = first else {
            named.insert(key, at.unwrap_or(Position { line: 1, column: 1 }));
            return true;
        };
        let message = format!("{key} is in this file already, on line {}", first.line);
        self.add(Severity::Error, at, Some(&document.place), message);
        false
    }
}

impl Report {
    /// Whether there is no error; warnings do not count.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors() == 0
    }

    #[must_use]
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error).count()
    }

    /// Everything as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "file": finding.file.display().to_string(),
                "line": finding.at.map(|at| at.line),
                "column": finding.at.map(|at| at.column),
                "severity": finding.severity.as_str(),
                "object": finding.object,
                "message": finding.message,
            })
        });
        json!({
            "objects": self.objects,
            "errors": self.errors(),
            "warnings": self.findings.len() - self.errors(),
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Finding {
    /// `web.yaml:12:5: error: Pod default/web: spec.containers: Required value`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, ":{}:{}", at.line, at.column)?;
        }
        write!(f, ": {}: ", self.severity.as_str())?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Report {
    /// One line for each finding, and a summary: `3 objects, 1 error, 2 warnings`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let plural = |count: usize, word: &str| {
            format!("{count} {word}{}", if count == 1 { "" } else { "s" })
        };
        write!(f, "{}, {}", plural(self.objects, "object"), plural(self.errors(), "error"))?;
        match self.findings.len() - self.errors() {
            0 => Ok(()),
            warnings => write!(f, ", {}", plural(warnings, "warning")),
        }
    }
}

#[cfg(test)]
mod tests;
