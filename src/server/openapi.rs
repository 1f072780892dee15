//! `/openapi/v3`: as much as `kubectl` needs to trust the server with validation.
//!
//! Since 1.25 kubectl looks here whether PATCH of a kind takes `fieldValidation`; if so, it leaves validation to the server, and `apply`
//! needs no flag. So the document names the writable kinds with their query parameters, and has no schemas: `kubectl explain` says so.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::board::Kind;

use super::wire;

/// `/openapi/v3`
pub(super) fn index() -> Response<Body> {
    // The hash lets clients cache the document for ever; it changes with what the document says.
    let hash = concat!("podling-", env!("CARGO_PKG_VERSION"));
    let url = format!("/openapi/v3/api/v1?hash={hash}");
    wire::json(StatusCode::OK, &json!({"paths": {"api/v1": {"serverRelativeURL": url}}}))
}

/// `/openapi/v3/api/v1`
pub(super) fn core() -> Response<Body> {
    let mut paths = Map::new();
    for kind in [Kind::ConfigMap, Kind::Pod, Kind::Secret] {
        let path = format!("/api/v1/namespaces/{{namespace}}/{}/{{name}}", kind.plural());
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
        "operationId": format!("patchCoreV1Namespaced{}", kind.as_str()),
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": "", "version": "v1", "kind": kind.as_str()},
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

fn place() -> Value {
    let part = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    json!([part("name"), part("namespace")])
}
