//! What can be wrong with a manifest, and how it is said.
//!
//! Three kinds: [`ManifestError`] (the text or its structure), [`FieldError`] (a value breaks a
//! rule of Kubernetes or of podling; in the words of `apimachinery`'s `field.Error`, so that people
//! find them again), [`FieldWarning`] (accepted, but without effect).

use std::fmt;

use super::decode::Misfit;
use crate::limits::{MANIFEST_BYTES_MAX, MANIFEST_DOCUMENTS_MAX};

/// Line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Which object of a file: its number, and its name if it got that far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// From 1, empty documents not counted.
    pub document: usize,
    /// Within a `List`, from 0.
    pub item: Option<usize>,
    /// `Pod`, or empty.
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl Place {
    #[must_use]
    pub(super) fn nth(document: usize) -> Self {
        Self { document, ..Self::default() }
    }

    #[must_use]
    pub(super) fn with_object(mut self, kind: &str, namespace: &str, name: &str) -> Self {
        self.kind = kind.to_owned();
        self.namespace = namespace.to_owned();
        self.name = name.to_owned();
        self
    }
}

impl Place {
    /// `Pod default/web`, `Pod web`, `Pod`; `None` if not even the kind is known.
    #[must_use]
    pub fn object(&self) -> Option<String> {
        match (self.kind.as_str(), self.namespace.as_str(), self.name.as_str()) {
            ("", _, _) => None,
            (kind, _, "") => Some(kind.to_owned()),
            (kind, "", name) => Some(format!("{kind} {name}")),
            (kind, namespace, name) => Some(format!("{kind} {namespace}/{name}")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        if let Some(item) = self.item {
            write!(f, ", items[{item}]")?;
        }
        match self.object() {
            Some(object) => write!(f, " ({object})"),
            None => Ok(()),
        }
    }
}

/// The text is no manifest, or its structure does not fit the object it says it is.
///
/// Displays with its place; [`Self::message`] is the bare message, as the Kubernetes API words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    pub place: Option<Place>,
    pub at: Option<Position>,
    pub kind: ManifestErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestErrorKind {
    /// Larger than [`MANIFEST_BYTES_MAX`]; nothing of it was looked at.
    TooLarge {
        bytes: u64,
    },
    /// More than [`MANIFEST_DOCUMENTS_MAX`]; the rest was not looked at.
    TooManyDocuments,
    /// Not UTF-8 from this byte on.
    NotUtf8 {
        offset: usize,
    },
    /// Neither YAML nor JSON.
    Syntax {
        message: String,
    },
    /// YAML that would cost too much to parse.
    Excess(Excess),
    /// A document that is a list or a scalar.
    NotAnObject {
        found: &'static str,
    },
    /// No `apiVersion` or no `kind`.
    Missing {
        field: &'static str,
    },
    /// A kind that this version does not run.
    UnsupportedKind {
        api_version: String,
        kind: String,
    },
    UnknownField {
        path: String,
    },
    DuplicateField {
        path: String,
    },
    /// A value of the wrong type.
    Type {
        path: String,
        message: String,
    },
    /// More errors of one document than are told.
    More {
        count: usize,
    },
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    Depth { max: usize },
    Tokens { max: usize },
}

impl From<Misfit> for ManifestErrorKind {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::UnknownField { path } => Self::UnknownField { path },
            Misfit::DuplicateField { path, .. } => Self::DuplicateField { path },
            Misfit::Type { path, message } => Self::Type { path, message },
        }
    }
}

impl fmt::Display for ManifestErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => {
                write!(f, "the manifest has {bytes} bytes; at most {MANIFEST_BYTES_MAX} are read")
            }
            Self::TooManyDocuments => {
                write!(f, "more than {MANIFEST_DOCUMENTS_MAX} documents in one manifest")
            }
            Self::NotUtf8 { offset } => write!(f, "not UTF-8 text (byte {offset})"),
            Self::Syntax { message } => f.write_str(message),
            Self::Excess(Excess::Depth { max }) => write!(f, "nested more than {max} levels deep"),
            Self::Excess(Excess::Tokens { max }) => {
                write!(f, "more than {max} tokens in one document")
            }
            Self::NotAnObject { found } => {
                write!(f, "a document must be a Kubernetes object, not {found}")
            }
            Self::Missing { field } => write!(f, "{field} must be set"),
            Self::UnsupportedKind { api_version, kind } => write!(
                f,
                "no matches for kind {kind:?} in version {api_version:?}: this version of podling runs \
                 Pod, ConfigMap, Secret and Service (v1) and NetworkPolicy (networking.k8s.io/v1); workloads come \
                 with later ones"
            ),
            Self::UnknownField { path } => write!(f, "unknown field {path:?}"),
            Self::DuplicateField { path } => write!(f, "duplicate field {path:?}"),
            Self::Type { path, message } if path.is_empty() => f.write_str(message),
            Self::Type { path, message } => write!(f, "{path}: {message}"),
            Self::More { count } => write!(f, "and {count} more of the kind"),
        }
    }
}

impl ManifestError {
    /// The message without its place.
    #[must_use]
    pub fn message(&self) -> String {
        self.kind.to_string()
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.at) {
            (Some(place), Some(at)) => write!(f, "{place}, {at}: ")?,
            (Some(place), None) => write!(f, "{place}: ")?,
            (None, Some(at)) => write!(f, "{at}: ")?,
            (None, None) => {}
        }
        self.kind.fmt(f)
    }
}

impl std::error::Error for ManifestError {}

/// A value that breaks a rule. Displays as Kubernetes does: `spec.containers[0].name: Required
/// value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub path: String,
    pub kind: FieldErrorKind,
}

/// `field.Error`'s types. `value` is already spelled as Kubernetes prints it (strings quoted,
/// numbers bare).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    Required { detail: String },
    Invalid { value: String, detail: String },
    Unsupported { value: String, supported: Vec<&'static str> },
    Duplicate { value: String },
    NotFound { value: String },
    Forbidden { detail: String },
    TooLong { max: usize },
    TooMany { count: usize, max: usize },
}

impl FieldErrorKind {
    /// `causes[].reason` of a `metav1.Status`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Required { .. } => "FieldValueRequired",
            Self::Invalid { .. } => "FieldValueInvalid",
            Self::Unsupported { .. } => "FieldValueNotSupported",
            Self::Duplicate { .. } => "FieldValueDuplicate",
            Self::NotFound { .. } => "FieldValueNotFound",
            Self::Forbidden { .. } => "FieldValueForbidden",
            Self::TooLong { .. } => "FieldValueTooLong",
            Self::TooMany { .. } => "FieldValueTooMany",
        }
    }
}

impl fmt::Display for FieldErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detailed = |f: &mut fmt::Formatter<'_>, head: &str, detail: &str| match detail {
            "" => f.write_str(head),
            detail => write!(f, "{head}: {detail}"),
        };
        match self {
            Self::Required { detail } => detailed(f, "Required value", detail),
            Self::Invalid { value, detail } => {
                detailed(f, &format!("Invalid value: {value}"), detail)
            }
            Self::Unsupported { value, supported } => {
                let names: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
                write!(f, "Unsupported value: {value}: supported values: {}", names.join(", "))
            }
            Self::Duplicate { value } => write!(f, "Duplicate value: {value}"),
            Self::NotFound { value } => write!(f, "Not found: {value}"),
            Self::Forbidden { detail } => detailed(f, "Forbidden", detail),
            Self::TooLong { max } => write!(f, "Too long: may not be more than {max} bytes"),
            Self::TooMany { count, max } => {
                write!(f, "Too many: {count}: must have at most {max} items")
            }
        }
    }
}

impl FieldError {
    /// `causes[].reason` of a `metav1.Status`.
    #[must_use]
    pub fn cause_reason(&self) -> &'static str {
        self.kind.reason()
    }

    /// `causes[].message` of a `metav1.Status`: the error without its path.
    #[must_use]
    pub fn cause_message(&self) -> String {
        self.kind.to_string()
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.kind)
    }
}

impl std::error::Error for FieldError {}

/// Something that was accepted and will have no effect, or another one than in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldWarning {
    pub path: String,
    pub message: String,
}

impl fmt::Display for FieldWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All errors of an object in Kubernetes' one sentence: `Pod "web" is invalid: [a, b]`.
#[must_use]
pub fn invalid(kind: &str, name: &str, errors: &[FieldError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [only] => format!("{kind} {name:?} is invalid: {only}"),
        many => format!("{kind} {name:?} is invalid: [{}]", many.join(", ")),
    }
}
