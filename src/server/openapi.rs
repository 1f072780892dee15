//! `/openapi/v3`: as much as `kubectl` needs to trust the server with validation.
//!
//! Since 1.25 kubectl looks here whether PATCH of a kind takes `fieldValidation`; if so, it leaves validation to the server, and `apply`
//! needs no flag. So the document names the writable kinds with their query parameters, and has no schemas: `kubectl explain` says so.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::board::Kind;

use super::{discovery, wire};

/// `/openapi/v3`
pub(super) fn index() -> Response<Body> {
    // The hash lets clients cache the document for ever; it changes with what the document says.
    let hash = concat!("podling-", env!("CARGO_PKG_VERSION"));
    let mut paths = Map::new();
    for version in discovery::versions() {
        let path = path_of(version);
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    wire::json(StatusCode::OK, &json!({"paths": paths}))
}

/// `api/v1`, `apis/networking.k8s.io/v1`
fn path_of(version: &str) -> String {
    format!("{}/{version}", if version == discovery::CORE { "api" } else { "apis" })
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/v1`
pub(super) fn document(version: &str) -> Response<Body> {
    let mut paths = Map::new();
    let here = |kind: &Kind| kind.is_writable() && kind.api_version() == version;
    for kind in Kind::ALL.into_iter().filter(here) {
        let (base, plural) = (path_of(version), kind.plural());
        let path = format!("/{base}/namespaces/{{namespace}}/{plural}/{{name}}");
        paths.insert(path, json!({ "patch": patch(kind), "parameters": place() }));
    }
    let body = json!({
        "openapi": "3.0.0",
        "info": {"title": "podling", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": {}},
    });
    wire::json(StatusCode::OK, &body)
}

fn patch(kind: Kind) -> Value {
    let query = |name: &str, of: &str| json!({"name": name, "in": "query", "schema": {"type": of, "uniqueItems": true}});
    json!({
        "operationId": format!("patch{}V1Namespaced{}", group_word(kind), kind.as_str()),
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": kind.group(), "version": "v1", "kind": kind.as_str()},
        "parameters": [
            query("dryRun", "string"),
            query("fieldManager", "string"),
            query("fieldValidation", "string"),
        ],
        "requestBody": {"required": true, "content": {
            "application/json-patch+json": {},
            "application/merge-patch+json": {},
        }},
        "responses": {"200": {"description": "OK"}},
    })
}

/// The group as operations spell it: `Core`, `Networking`.
fn group_word(kind: Kind) -> String {
    let first = kind.group().split('.').next().filter(|group| !group.is_empty());
    let mut letters = first.unwrap_or("core").chars();
    letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn place() -> Value {
    let part = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    json!([part("name"), part("namespace")])
}
