//! What a request asks: its path, its query, the form of answer it accepts. Pure.
//!
//! Owns: parsing, with Kubernetes' leniencies (`?watch` alone is true) and its refusals. Not: doing anything about it.

use axum::extract::Query as AxumQuery;
use axum::http::{HeaderMap, Uri, header};

use crate::board::selector::{FieldSelector, LabelSelector, SelectorError};
use crate::board::{Kind, Query};

use super::discovery::{self, CORE};
use super::status::ApiError;
use super::table::IncludeObject;
use super::usage::{self, UsageTarget};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Version,
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    Metrics,
    /// `/apis/metrics.k8s.io/v1beta1/…`
    Usage(UsageTarget),
    /// `/apis/metrics.k8s.io`
    UsageGroup,
    /// `/api`
    ApiVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(&'static str),
    /// `/api/v1`, `/apis/GROUP/v1`
    Resources(&'static str),
    /// `/apis/authorization.k8s.io/v1/selfsubjectaccessreviews`
    AccessReview,
    /// `/openapi/v3`
    OpenApi,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/v1`
    OpenApiDocument(&'static str),
    Objects(Target),
    Unknown,
}

/// Objects, or one object, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Route {
    /// Reads a path.
    #[must_use]
    pub(super) fn parse(path: &str) -> Self {
        let mut segments = Vec::new();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            let Some(segment) = percent_decode(segment) else { return Self::Unknown };
            segments.push(segment);
        }
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["version"] => Self::Version,
            ["healthz" | "livez" | "readyz"] => Self::Health,
            ["metrics"] => Self::Metrics,
            ["api"] => Self::ApiVersions,
            ["apis"] => Self::Groups,
            ["api", "v1"] => Self::Resources(CORE),
            ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => {
                Self::AccessReview
            }
            ["apis", usage::GROUP] => Self::UsageGroup,
            ["apis", usage::GROUP, "v1beta1", rest @ ..] => {
                UsageTarget::parse(rest).map_or(Self::Unknown, Self::Usage)
            }
            ["apis", group] => match discovery::version_of(group) {
                Some((group, _)) => Self::Group(group),
                None => Self::Unknown,
            },
            ["openapi", "v3"] => Self::OpenApi,
            ["openapi", "v3", "api", "v1"] => Self::OpenApiDocument(CORE),
            ["openapi", "v3", "apis", group, "v1"] => match discovery::version_of(group) {
                Some((_, version)) => Self::OpenApiDocument(version),
                None => Self::Unknown,
            },
            ["api", "v1", rest @ ..] => Self::objects(CORE, rest),
            ["apis", group, "v1", rest @ ..] => match (discovery::version_of(group), rest) {
                (Some((_, version)), []) => Self::Resources(version),
                (Some((_, version)), rest) => Self::objects(version, rest),
                (None, _) => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    fn objects(version: &str, words: &[&str]) -> Self {
        Self::target(version, words).map_or(Self::Unknown, Self::Objects)
    }

    fn target(version: &str, words: &[&str]) -> Option<Target> {
        let own = |text: &str| Some(text.to_owned());
        let (namespace, words) = match words {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && *rest != ["status"] => {
                (own(namespace), rest)
            }
            _ => (None, words),
        };
        let (plural, rest) = words.split_first()?;
        let kind = Kind::from_path(version, plural)?;
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (own(name), None),
            [name, sub] => (own(name), own(sub)),
            _ => return None,
        };
        // `/api/v1/pods/NAME` does not exist: a pod is named within its namespace; and a node in none.
        let in_namespace = namespace.is_some();
        let named_nowhere = name.is_some() && kind.namespaced() && !in_namespace;
        if named_nowhere || (in_namespace && !kind.namespaced()) {
            return None;
        }
        Some(Target { kind, namespace, name, subresource })
    }
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The query of a request. The first of several equal names counts, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// # Errors
    /// 400 if it is not a query at all.
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        match AxumQuery::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(AxumQuery(pairs)) => Ok(Self(pairs)),
            Err(error) => Err(ApiError::bad_request(format!("invalid query: {error}"))),
        }
    }

    #[must_use]
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The parameter if it is there and not empty.
    #[must_use]
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Present means true, unless it says `false` or `0`.
    #[must_use]
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "false" && value != "0")
    }

    /// # Errors
    /// 400 if it is no integer.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid value for {name}: {text:?} is not an integer"
                ))
            })
        };
        self.text(name).map(parse).transpose()
    }

    /// `resourceVersion`: a version to start after; 0 and absent mean "whatever there is".
    ///
    /// # Errors
    /// 400 if it is not one of ours.
    pub(super) fn resource_version(&self) -> Result<Option<u64>, ApiError> {
        match self.text("resourceVersion") {
            None | Some("0") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}"))
            }),
        }
    }

    /// `dryRun`: only `All` means something.
    ///
    /// # Errors
    /// 400 for another word.
    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.text("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }

    /// `includeObject` of a table.
    ///
    /// # Errors
    /// 400 for another word.
    pub(super) fn include_object(&self) -> Result<IncludeObject, ApiError> {
        match self.text("includeObject") {
            None | Some("Metadata") => Ok(IncludeObject::Metadata),
            Some("None") => Ok(IncludeObject::None),
            Some("Object") => Ok(IncludeObject::Object),
            Some(other) => {
                Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}")))
            }
        }
    }

    /// The objects that path and selectors mean.
    ///
    /// # Errors
    /// 400 for a selector that cannot be read, or that the kind does not have.
    pub(super) fn query(&self, target: &Target) -> Result<Query, ApiError> {
        let labels = self.get("labelSelector").unwrap_or_default();
        let fields = self.get("fieldSelector").unwrap_or_default();
        let wrong = |error: SelectorError| ApiError::bad_request(error.to_string());
        let mut query = Query::all(target.kind);
        query.namespace.clone_from(&target.namespace);
        query.labels = LabelSelector::parse(labels).map_err(wrong)?;
        query.fields = FieldSelector::parse(target.kind, fields).map_err(wrong)?;
        Ok(query)
    }
}

/// The form of answer a client wants for objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    Table {
        /// `meta.k8s.io/v1beta1`.
        beta: bool,
    },
    /// `PartialObjectMetadata` (or a list of it).
    Metadata,
}

/// Chooses among what the client accepts, in its order.
///
/// # Errors
/// 406 if there is nothing that we have.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<Form, ApiError> {
    let mut accepted = headers.get_all(header::ACCEPT).iter().peekable();
    if accepted.peek().is_none() {
        return Ok(Form::Object);
    }
    accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(form_of)
        .ok_or_else(ApiError::not_acceptable)
}

fn form_of(media_type: &str) -> Option<Form> {
    let mut parts = media_type.split(';').map(str::trim);
    let json = matches!(parts.next()?, "application/json" | "application/*" | "*/*");
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            // A quality of zero means "not this"; finer ones do not matter with one encoding.
            Some(("q", "0" | "0.0" | "0.00" | "0.000")) => return None,
            _ => {}
        }
    }
    match (json, kind, group, version) {
        (true, "", _, _) => Some(Form::Object),
        (true, "Table", "meta.k8s.io", "v1") => Some(Form::Table { beta: false }),
        (true, "Table", "meta.k8s.io", "v1beta1") => Some(Form::Table { beta: true }),
        (
            true,
            "PartialObjectMetadata" | "PartialObjectMetadataList",
            "meta.k8s.io",
            "v1" | "v1beta1",
        ) => Some(Form::Metadata),
        _ => None,
    }
}
