//! GET of one object, or of a list.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::board::{Kind, Object, ObjectKey};

use super::App;
use super::request::{Form, Params, Target};
use super::status::ApiError;
use super::table::{self, TableOptions};
use super::wire::{self, List, PartialObject};

/// One object.
pub(super) fn get(
    app: &App,
    target: &Target,
    params: &Params,
    form: Form,
) -> Result<Response<Body>, ApiError> {
    let object = find(app, target)?;
    one(app, StatusCode::OK, &object, params, form)
}

/// The object that a target names.
pub(super) fn find(app: &App, target: &Target) -> Result<Object, ApiError> {
    let name = target.name.as_deref().unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let key = ObjectKey::new(target.kind, namespace, name);
    app.backend.board().get(&key).ok_or_else(|| ApiError::not_found(target.kind, name))
}

/// One object in the form that is wanted.
pub(super) fn one(
    app: &App,
    status: StatusCode,
    object: &Object,
    params: &Params,
    form: Form,
) -> Result<Response<Body>, ApiError> {
    Ok(match form {
        Form::Object => wire::json(status, object),
        Form::Metadata => wire::json(status, &PartialObject::new(object)),
        Form::Table { beta } => {
            let options = table_options(app, params, beta)?;
            let version = object.metadata().resource_version.as_deref();
            let version = version.and_then(|version| version.parse().ok());
            let objects = std::slice::from_ref(object);
            wire::json(status, &table::table(object.kind(), objects, version, true, options))
        }
    })
}

/// All objects that match. `limit` is tolerated: a node's lists are short, so there is only ever one page.
pub(super) fn list(
    app: &App,
    target: &Target,
    params: &Params,
    form: Form,
) -> Result<Response<Body>, ApiError> {
    params.integer("limit")?;
    params.resource_version()?;
    if params.text("continue").is_some() {
        return Err(ApiError::bad_request("continue key is not valid: this server has one page"));
    }
    let query = params.query(target)?;
    let board = app.backend.board();
    if target.kind == Kind::Event {
        board.expire_events(app.clock.now());
    }
    let listing = board.list(&query);
    let (items, version) = (listing.items.as_slice(), listing.version);
    Ok(match form {
        Form::Object => wire::json(StatusCode::OK, &List::new(target.kind, version, items)),
        Form::Table { beta } => {
            let options = table_options(app, params, beta)?;
            let body = table::table(target.kind, items, Some(version), true, options);
            wire::json(StatusCode::OK, &body)
        }
        Form::Metadata => {
            let items: Vec<PartialObject<'_>> = items.iter().map(PartialObject::new).collect();
            let body: Value = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": version.to_string()},
                "items": items,
            });
            wire::json(StatusCode::OK, &body)
        }
    })
}

/// How tables are to be made for this request.
pub(super) fn table_options(
    app: &App,
    params: &Params,
    beta: bool,
) -> Result<TableOptions, ApiError> {
    Ok(TableOptions { include: params.include_object()?, beta, now_ms: app.now_ms() })
}
