//! Create, replace, patch, delete.
//!
//! Owns: what an API server does before and after the object's own logic: identity (name, namespace, UID, creation time), optimistic locks,
//! warnings, dry runs, the form of the answer. The [`Backend`](super::backend::Backend) decides and performs.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::board::{Kind, Object, wire_time};
use crate::manifest;
use crate::spec::PodKey;

use super::backend::{Accepted, DeleteOptions, FieldCause, WriteError, WriteOptions};
use super::request::{Form, Params, Target, negotiate};
use super::status::ApiError;
use super::wire::{self, List};
use super::{App, decode, patch as patches, read};

/// A patch that meets another write is made again on the newer object, this often (kube-apiserver: `MaxRetryWhenPatchConflicts`).
const PATCH_RETRIES: usize = 5;

/// Length of `generateName` that is kept before the five random characters (63 in all).
const GENERATE_NAME_MAX: usize = 58;

/// POST to a collection.
pub(super) async fn create(
    app: &App,
    target: &Target,
    params: &Params,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let form = negotiate(request.headers())?;
    let options = write_options(params)?;
    let validation = decode::field_validation(params)?;
    let (headers, body) = decode::body(request).await?;
    let mut decoded = decode::object(target.kind, &headers, &body, validation)?;
    drop(body);
    identify(app, target, &mut decoded.object)?;
    let name = decoded.object.name().to_owned();
    let accepted = match decoded.object {
        Object::Pod(pod) => {
            let mut pod = Arc::unwrap_or_clone(pod);
            pod.status = None;
            app.backend.create_pod(pod, options).await.map(pod_accepted)
        }
        object @ (Object::ConfigMap(_)
        | Object::Endpoints(_)
        | Object::EndpointSlice(_)
        | Object::Event(_)
        | Object::Namespace(_)
        | Object::NetworkPolicy(_)
        | Object::Node(_)
        | Object::Secret(_)
        | Object::Service(_)) => {
            app.backend.put_object(object, false, options).await.map(object_accepted)
        }
    };
    let (object, warnings) =
        accepted.map_err(|error| ApiError::write(target.kind, &name, &error))?;
    decoded.warnings.extend(warnings);
    answer(app, StatusCode::CREATED, &object, &decoded.warnings, params, form)
}

/// PUT of an object.
pub(super) async fn replace(
    app: &App,
    target: &Target,
    params: &Params,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let form = negotiate(request.headers())?;
    let mut options = write_options(params)?;
    let validation = decode::field_validation(params)?;
    let (headers, body) = decode::body(request).await?;
    let mut decoded = decode::object(target.kind, &headers, &body, validation)?;
    let current = read::find(app, target)?;
    let asked = decoded.object.metadata().resource_version.clone();
    options.resource_version = asked.filter(|version| !version.is_empty());
    inherit(target, &current, &mut decoded.object)?;
    let accepted = update(app, &current, decoded.object, options).await;
    let (object, warnings) =
        accepted.map_err(|error| ApiError::write(target.kind, current.name(), &error))?;
    decoded.warnings.extend(warnings);
    answer(app, StatusCode::OK, &object, &decoded.warnings, params, form)
}

/// PATCH of an object.
pub(super) async fn patch(
    app: &App,
    target: &Target,
    params: &Params,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let form = negotiate(request.headers())?;
    let options = write_options(params)?;
    let validation = decode::field_validation(params)?;
    let (headers, body) = decode::body(request).await?;
    let patch = patches::Patch::parse(decode::media_type(&headers), &body)?;
    for _ in 0..PATCH_RETRIES {
        let current = read::find(app, target)?;
        let internal = |error: serde_json::Error| ApiError::internal(&error.to_string());
        let before = serde_json::to_value(&current).map_err(internal)?;
        let after = patch.apply(&before)?;
        if after == before {
            return answer(app, StatusCode::OK, &current, &[], params, form);
        }
        let text = serde_json::to_vec(&after).map_err(internal)?;
        let mut decoded = decode::parse(target.kind, &text, validation)?;
        // The version that the patch was made on, or the one it names.
        let on = current.metadata().resource_version.clone();
        let asked = decoded.object.metadata().resource_version.clone();
        let locked = asked != on;
        let mut options = options.clone();
        options.resource_version = asked;
        inherit(target, &current, &mut decoded.object)?;
        match update(app, &current, decoded.object, options).await {
            Ok((object, warnings)) => {
                decoded.warnings.extend(warnings);
                return answer(app, StatusCode::OK, &object, &decoded.warnings, params, form);
            }
            Err(WriteError::Conflict(_)) if !locked => {}
            Err(error) => return Err(ApiError::write(target.kind, current.name(), &error)),
        }
    }
    let name = target.name.as_deref().unwrap_or_default();
    Err(ApiError::write(target.kind, name, &WriteError::modified()))
}

/// DELETE of an object.
pub(super) async fn delete(
    app: &App,
    target: &Target,
    params: &Params,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let form = negotiate(request.headers())?;
    let (headers, body) = decode::body(request).await?;
    let options = decode::delete_options(params, &headers, &body)?;
    let object = read::find(app, target)?;
    let deleted = delete_one(app, &object, options).await;
    let deleted = deleted.map_err(|error| ApiError::write(target.kind, object.name(), &error))?;
    if target.kind == Kind::Pod {
        return read::one(app, StatusCode::OK, &deleted, params, form);
    }
    // What is gone at once is answered with a Status, as kube-apiserver does.
    let meta = deleted.metadata();
    let details = json!({"name": meta.name, "kind": target.kind.plural(), "uid": meta.uid});
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Ok(wire::json(StatusCode::OK, &body))
}

/// DELETE of all objects that match. Goes on after a refusal and reports the first.
pub(super) async fn delete_collection(
    app: &App,
    target: &Target,
    params: &Params,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (headers, body) = decode::body(request).await?;
    let options = decode::delete_options(params, &headers, &body)?;
    let listing = app.backend.board().list(&params.query(target)?);
    let (mut deleted, mut refused) = (Vec::new(), None);
    for object in listing.items {
        match delete_one(app, &object, options.clone()).await {
            Ok(object) => deleted.push(object),
            Err(WriteError::NotFound) => {}
            Err(error) => {
                refused.get_or_insert(ApiError::write(target.kind, object.name(), &error));
            }
        }
    }
    match refused {
        Some(error) => Err(error),
        None => Ok(wire::json(
            StatusCode::OK,
            &List::new(target.kind, app.backend.board().version(), &deleted),
        )),
    }
}

async fn delete_one(
    app: &App,
    object: &Object,
    options: DeleteOptions,
) -> Result<Object, WriteError> {
    let meta = object.metadata();
    if let (Some(asked), Some(found)) = (&options.uid, &meta.uid)
        && asked != found
    {
        return Err(WriteError::uid_precondition(asked, found));
    }
    if let (Some(asked), Some(found)) = (&options.resource_version, &meta.resource_version)
        && asked != found
    {
        return Err(WriteError::Conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {asked}, ResourceVersion in object meta: {found}"
        )));
    }
    match object.kind() {
        Kind::Pod => {
            let key = PodKey::new(object.namespace(), object.name());
            app.backend.delete_pod(&key, options).await.map(Object::Pod)
        }
        Kind::ConfigMap
        | Kind::Endpoints
        | Kind::EndpointSlice
        | Kind::Event
        | Kind::Namespace
        | Kind::NetworkPolicy
        | Kind::Node
        | Kind::Secret
        | Kind::Service => app.backend.delete_object(&object.key(), options).await,
    }
}

async fn update(
    app: &App,
    current: &Object,
    object: Object,
    options: WriteOptions,
) -> Result<(Object, Vec<String>), WriteError> {
    let current_version = current.metadata().resource_version.as_ref();
    if let Some(asked) = &options.resource_version
        && Some(asked) != current_version
    {
        return Err(WriteError::modified());
    }
    if let Some(cause) = immutable(current, &object) {
        return Err(WriteError::Invalid(vec![cause]));
    }
    match object {
        Object::Pod(pod) => {
            let pod = Arc::unwrap_or_clone(pod);
            app.backend.update_pod(pod, options).await.map(pod_accepted)
        }
        object @ (Object::ConfigMap(_)
        | Object::Endpoints(_)
        | Object::EndpointSlice(_)
        | Object::Event(_)
        | Object::Namespace(_)
        | Object::NetworkPolicy(_)
        | Object::Node(_)
        | Object::Secret(_)
        | Object::Service(_)) => {
            app.backend.put_object(object, true, options).await.map(object_accepted)
        }
    }
}

/// A ConfigMap or Secret that was marked immutable stays as it is (`ValidateConfigMapUpdate`).
fn immutable(current: &Object, new: &Object) -> Option<FieldCause> {
    let (frozen, unfrozen, field) = match (current, new) {
        (Object::ConfigMap(old), Object::ConfigMap(new)) if old.immutable == Some(true) => {
            let field = if old.data == new.data { "binaryData" } else { "data" };
            let same = old.data == new.data && old.binary_data == new.binary_data;
            (!same, new.immutable != Some(true), field)
        }
        (Object::Secret(old), Object::Secret(new)) if old.immutable == Some(true) => {
            (old.data != new.data, new.immutable != Some(true), "data")
        }
        _ => return None,
    };
    let field = if unfrozen { "immutable" } else { field };
    (frozen || unfrozen).then(|| FieldCause {
        field: field.to_owned(),
        reason: "FieldValueForbidden".to_owned(),
        message: "Forbidden: field is immutable when `immutable` is set".to_owned(),
    })
}

/// Gives a new object its place, name and identity.
fn identify(app: &App, target: &Target, object: &mut Object) -> Result<(), ApiError> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let kind = target.kind;
    same_namespace(object.metadata(), namespace)?;
    let meta = object.metadata_mut();
    if meta.resource_version.as_ref().is_some_and(|version| !version.is_empty()) {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::bad_request(message));
    }
    let id = uuid::Uuid::new_v4();
    if meta.name.as_ref().is_none_or(String::is_empty) {
        let Some(prefix) = meta.generate_name.as_ref().filter(|prefix| !prefix.is_empty()) else {
            let cause = FieldCause {
                field: "metadata.name".to_owned(),
                reason: "FieldValueRequired".to_owned(),
                message: "Required value: name or generateName is required".to_owned(),
            };
            return Err(ApiError::invalid(kind, "", &[cause]));
        };
        meta.name = Some(generate_name(prefix, id.as_bytes()));
    }
    *meta = ObjectMeta {
        name: meta.name.take(),
        generate_name: meta.generate_name.take(),
        namespace: Some(namespace.to_owned()),
        labels: meta.labels.take(),
        annotations: meta.annotations.take(),
        finalizers: meta.finalizers.take(),
        owner_references: meta.owner_references.take(),
        uid: Some(id.to_string()),
        creation_timestamp: Some(wire_time(app.now_ms())),
        generation: (kind == Kind::Pod).then_some(1),
        ..ObjectMeta::default()
    };
    Ok(())
}

/// A new version of an object keeps what only the server may say.
fn inherit(target: &Target, current: &Object, object: &mut Object) -> Result<(), ApiError> {
    same_namespace(object.metadata(), target.namespace.as_deref().unwrap_or_default())?;
    let old = current.metadata();
    let name = current.name();
    let meta = object.metadata_mut();
    if meta.name.as_deref().is_some_and(|new| !new.is_empty() && new != name) {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            meta.name.as_deref().unwrap_or_default()
        )));
    }
    if let (Some(asked), Some(found)) = (&meta.uid, &old.uid)
        && !asked.is_empty()
        && asked != found
    {
        let error = WriteError::uid_precondition(asked, found);
        return Err(ApiError::write(target.kind, name, &error));
    }
    let fresh = ObjectMeta {
        labels: meta.labels.take(),
        annotations: meta.annotations.take(),
        finalizers: meta.finalizers.take(),
        owner_references: meta.owner_references.take(),
        ..old.clone()
    };
    *meta = fresh;
    match (object, current) {
        (Object::Pod(new), Object::Pod(old)) => {
            Arc::make_mut(new).status.clone_from(&old.status);
        }
        (Object::Service(new), Object::Service(old)) => {
            manifest::retype::service(old, Arc::make_mut(new));
        }
        (_, _) => {}
    }
    Ok(())
}

fn same_namespace(meta: &ObjectMeta, namespace: &str) -> Result<(), ApiError> {
    match meta.namespace.as_deref() {
        None | Some("") => Ok(()),
        Some(own) if own == namespace => Ok(()),
        Some(_) => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// The prefix and five characters that spell no words (apiserver's `SimpleNameGenerator`).
fn generate_name(prefix: &str, random: &[u8; 16]) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut name: String = prefix.chars().take(GENERATE_NAME_MAX).collect();
    // Bytes 0..5 of a random UUID are wholly random.
    let suffix = random.iter().take(5);
    name.extend(suffix.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])));
    name
}

fn write_options(params: &Params) -> Result<WriteOptions, ApiError> {
    Ok(WriteOptions {
        dry_run: params.dry_run()?,
        resource_version: None,
        field_manager: params.text("fieldManager").map(str::to_owned),
    })
}

fn pod_accepted(accepted: Accepted<Arc<k8s_openapi::api::core::v1::Pod>>) -> (Object, Vec<String>) {
    (Object::Pod(accepted.object), accepted.warnings)
}

fn object_accepted(accepted: Accepted<Object>) -> (Object, Vec<String>) {
    (accepted.object, accepted.warnings)
}

fn answer(
    app: &App,
    status: StatusCode,
    object: &Object,
    warnings: &[String],
    params: &Params,
    form: Form,
) -> Result<Response<Body>, ApiError> {
    let mut response = read::one(app, status, object, params, form)?;
    wire::add_warnings(&mut response, warnings);
    Ok(response)
}
