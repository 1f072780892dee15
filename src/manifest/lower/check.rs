//! Collects what is wrong while a pod is lowered, in the shape of Kubernetes' `field.Error`s.

use std::fmt::Display;

use super::super::error::{FieldError, FieldErrorKind, FieldWarning};
use super::super::path::Path;
use super::super::rules::Faults;
use crate::spec::Source;

/// Field errors told of one object; a person mends the first few and asks again.
const FIELD_ERRORS_MAX: usize = 200;

/// Everything found so far, and for whom the pod is.
#[derive(Debug)]
pub(super) struct Check<'s> {
    pub(super) source: &'s Source,
    pub(super) errors: Vec<FieldError>,
    pub(super) warnings: Vec<FieldWarning>,
}

impl<'s> Check<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        Self { source, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Records an error; the same one twice is one.
    fn push(&mut self, path: &Path<'_>, kind: FieldErrorKind) {
        let error = FieldError { path: path.to_string(), kind };
        if self.errors.len() < FIELD_ERRORS_MAX && !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    pub(super) fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push(path, FieldErrorKind::Required { detail: detail.to_owned() });
    }

    /// A text that is wrong.
    pub(super) fn invalid(&mut self, path: &Path<'_>, value: &str, detail: impl Into<String>) {
        let value = format!("{value:?}");
        self.push(path, FieldErrorKind::Invalid { value, detail: detail.into() });
    }

    /// A number or boolean that is wrong.
    pub(super) fn invalid_number(
        &mut self,
        path: &Path<'_>,
        value: impl Display,
        detail: impl Into<String>,
    ) {
        let value = value.to_string();
        self.push(path, FieldErrorKind::Invalid { value, detail: detail.into() });
    }

    /// One error for each fault of a text.
    pub(super) fn faults(&mut self, path: &Path<'_>, value: &str, faults: Faults) {
        for fault in faults {
            self.invalid(path, value, fault);
        }
    }

    pub(super) fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.push(path, FieldErrorKind::Forbidden { detail: detail.to_owned() });
    }

    pub(super) fn duplicate(&mut self, path: &Path<'_>, value: &str) {
        self.push(path, FieldErrorKind::Duplicate { value: format!("{value:?}") });
    }

    pub(super) fn not_found(&mut self, path: &Path<'_>, value: &str) {
        self.push(path, FieldErrorKind::NotFound { value: format!("{value:?}") });
    }

    pub(super) fn too_long(&mut self, path: &Path<'_>, max: usize) {
        self.push(path, FieldErrorKind::TooLong { max });
    }

    pub(super) fn too_many(&mut self, path: &Path<'_>, count: usize, max: usize) {
        self.push(path, FieldErrorKind::TooMany { count, max });
    }

    pub(super) fn warn(&mut self, path: &Path<'_>, message: impl Into<String>) {
        let warning = FieldWarning { path: path.to_string(), message: message.into() };
        if self.warnings.len() < FIELD_ERRORS_MAX && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The value that a word stands for; `None`, with an error, if it is none of `known`. An empty
    /// word is the first.
    pub(super) fn choice<T: Copy>(
        &mut self,
        path: &Path<'_>,
        word: Option<&str>,
        known: &[(&'static str, T)],
    ) -> Option<T> {
        let word = word.unwrap_or_default();
        if word.is_empty() {
            return known.first().map(|(_, value)| *value);
        }
        let found = known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        if found.is_none() {
            // Kubernetes lists them sorted.
            let mut supported: Vec<&'static str> = known.iter().map(|(name, _)| *name).collect();
            supported.sort_unstable();
            let value = format!("{word:?}");
            self.push(path, FieldErrorKind::Unsupported { value, supported });
        }
        found
    }

    /// A number of seconds or a count that must not be negative.
    pub(super) fn not_negative(&mut self, path: &Path<'_>, value: Option<i64>) -> u64 {
        let value = value.unwrap_or_default();
        u64::try_from(value).unwrap_or_else(|_| {
            self.invalid_number(path, value, "must be greater than or equal to 0");
            0
        })
    }

    /// A port number, 1 to 65535.
    pub(super) fn port(&mut self, path: &Path<'_>, value: i32) -> Option<u16> {
        let port = u16::try_from(value).ok().filter(|port| *port > 0);
        if port.is_none() {
            self.invalid_number(path, value, "must be between 1 and 65535, inclusive");
        }
        port
    }
}

/// Where the table of what is supported puts its findings.
pub(in crate::manifest) trait Sink {
    fn warn(&mut self, path: &Path<'_>, why: &str);
    fn refuse(&mut self, path: &Path<'_>, why: &str);
}

impl Sink for Check<'_> {
    fn warn(&mut self, path: &Path<'_>, why: &str) {
        Check::warn(self, path, why);
    }

    fn refuse(&mut self, path: &Path<'_>, why: &str) {
        self.forbidden(path, why);
    }
}
