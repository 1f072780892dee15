//! Bodies that Kubernetes' clients expect and `k8s-openapi` has no type for, and how any body goes out.
//!
//! Owns: the `Table`, the list and watch envelopes, JSON responses with their headers. The only place of the server that derives
//! `Serialize`; the CLI reads the same types.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::board::{Kind, Object};

/// Most warnings of one response: a manifest with a thousand oddities must not fill the client's header buffer.
const WARNINGS_MAX: usize = 32;

/// Longest warning, bytes.
const WARNING_BYTES_MAX: usize = 512;

/// `meta.k8s.io/v1` Table: rows as a person reads them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    pub kind: String,
    pub api_version: String,
    #[serde(default)]
    pub metadata: TableMeta,
    #[serde(default)]
    pub column_definitions: Option<Vec<Column>>,
    #[serde(default)]
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableMeta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// One column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub format: String,
    pub description: String,
    /// 0: always shown; 1: only with `-o wide`.
    pub priority: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub cells: Vec<Value>,
    /// The row's object: its metadata, all of it, or nothing, as `includeObject` asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Value>,
}

/// A list of objects.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct List<'a> {
    pub kind: String,
    pub api_version: &'a str,
    pub metadata: TableMeta,
    pub items: &'a [Object],
}

impl<'a> List<'a> {
    #[must_use]
    pub fn new(kind: Kind, version: u64, items: &'a [Object]) -> Self {
        Self {
            kind: format!("{}List", kind.as_str()),
            api_version: kind.api_version(),
            metadata: TableMeta { resource_version: Some(version.to_string()) },
            items,
        }
    }
}

/// One line of a watch.
#[derive(Debug, Serialize)]
pub struct WatchLine<'a, T: Serialize> {
    #[serde(rename = "type")]
    pub event: &'a str,
    pub object: T,
}

/// An object of which only the metadata is wanted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartialObject<'a> {
    pub kind: &'static str,
    pub api_version: &'static str,
    pub metadata: &'a ObjectMeta,
}

impl<'a> PartialObject<'a> {
    #[must_use]
    pub fn new(object: &'a Object) -> Self {
        let metadata = object.metadata();
        Self { kind: "PartialObjectMetadata", api_version: "meta.k8s.io/v1", metadata }
    }
}

/// A JSON response. Serialising our own types cannot fail; if it does, the client gets a 500 rather than half a body.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let (status, bytes) = match serde_json::to_vec(body) {
        Ok(bytes) => (status, bytes),
        Err(error) => {
            tracing::error!(%error, "a response could not be serialised");
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
    };
    bytes_response(status, HeaderValue::from_static("application/json"), Body::from(bytes))
}

/// A plain text response.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    bytes_response(status, plain, body.into())
}

/// A response with this content type that nobody may cache.
#[must_use]
pub fn bytes_response(status: StatusCode, kind: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Adds `Warning:` headers, which `kubectl` prints (RFC 9111 5.5 in its older, still spoken form: `299 - "text"`).
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    for warning in warnings {
        if seen.contains(&warning) {
            continue;
        }
        seen.push(warning);
        if seen.len() > WARNINGS_MAX {
            break;
        }
        if let Ok(value) = HeaderValue::from_str(&warning_value(warning)) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

fn warning_value(text: &str) -> String {
    let mut value = String::from("299 - \"");
    for c in text.chars() {
        if value.len() >= WARNING_BYTES_MAX {
            break;
        }
        match c {
            '"' | '\\' => value.extend(['\\', c]),
            ' '..='~' => value.push(c),
            _ => value.push('?'),
        }
    }
    value.push('"');
    value
}
