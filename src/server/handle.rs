//! One request, one response: which handler answers what.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};

use crate::board::Kind;

use super::request::{Params, Route, Target, negotiate};
use super::status::ApiError;
use super::{
    App, access, discovery, follow, logs, metrics, network, network_audit, openapi, portforward,
    read, usage, wire, write,
};

/// Answers a request. Never fails: a refusal is a response with a `Status`.
pub async fn handle(app: Arc<App>, request: Request<Body>) -> Response<Body> {
    match answer(&app, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(app: &Arc<App>, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let route = Route::parse(request.uri().path());
    if let Route::Objects(target) = route {
        return objects(app, target, request).await;
    }
    if route == Route::Unknown {
        return Err(ApiError::no_such_path());
    }
    if route == Route::AccessReview && *request.method() == Method::POST {
        return access::review(request).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    Ok(match route {
        Route::Version => app.version.response(),
        Route::Health => wire::text(StatusCode::OK, "ok"),
        Route::Metrics => metrics::response(app),
        Route::Usage(target) => {
            let params = Params::parse(request.uri())?;
            let pods = Target { kind: Kind::Pod, namespace: None, name: None, subresource: None };
            let listing = app.backend.board().list(&params.query(&pods)?);
            let selected = |namespace: &str, name: &str| {
                listing.items.iter().any(|o| o.namespace() == namespace && o.name() == name)
            };
            usage::response(app, &target, &selected).ok_or_else(|| target.not_found())?
        }
        Route::UsageGroup => discovery::usage_group(),
        Route::ApiVersions => discovery::api_versions(request.headers()),
        Route::Groups => discovery::groups(request.headers()),
        Route::Group(group) => discovery::group(group),
        Route::Resources(version) => discovery::resources(version),
        Route::OpenApi => openapi::index(),
        Route::OpenApiDocument(version) => openapi::document(version),
        Route::AccessReview => return Err(ApiError::method_not_allowed()),
        Route::Objects(_) | Route::Unknown => return Err(ApiError::no_such_path()),
    })
}

async fn objects(
    app: &Arc<App>,
    target: Target,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let params = Params::parse(request.uri())?;
    let method = request.method().clone();
    match (target.kind, target.subresource.as_deref()) {
        (_, None) => {}
        (Kind::Pod, Some("log")) if method == Method::GET => {
            return logs::serve(app, &target, &params);
        }
        (Kind::Pod, Some("status")) if method == Method::GET => {
            return read::get(app, &target, &params, negotiate(request.headers())?);
        }
        (Kind::Pod, Some("portforward")) if matches!(method, Method::GET | Method::POST) => {
            return portforward::serve(app, &target, &params, request).await;
        }
        (Kind::Pod, Some("networkaudit")) if method == Method::GET => {
            return network_audit::serve(app, &target);
        }
        (Kind::Pod, Some("network")) if method == Method::GET => {
            return network::serve(app, &target);
        }
        (Kind::Pod, Some("log" | "status" | "portforward" | "network" | "networkaudit")) => {
            return Err(ApiError::method_not_allowed());
        }
        (Kind::Pod, Some(part)) => {
            return Err(ApiError::not_offered(part).unwrap_or_else(ApiError::no_such_path));
        }
        (_, Some(_)) => return Err(ApiError::no_such_path()),
    }
    let named = target.name.is_some();
    if method == Method::GET {
        let form = negotiate(request.headers())?;
        return match (params.flag("watch"), named) {
            (true, _) => follow::serve(app, &target, &params, form),
            (false, true) => read::get(app, &target, &params, form),
            (false, false) => read::list(app, &target, &params, form),
        };
    }
    if target.kind == Kind::Namespace {
        return Err(ApiError::namespaces_are_derived());
    }
    if !target.kind.is_writable() || target.namespace.is_none() {
        return Err(ApiError::method_not_allowed());
    }
    match (method, named) {
        (Method::POST, false) => write::create(app, &target, &params, request).await,
        (Method::PUT, true) => write::replace(app, &target, &params, request).await,
        (Method::PATCH, true) => write::patch(app, &target, &params, request).await,
        (Method::DELETE, true) => write::delete(app, &target, &params, request).await,
        (Method::DELETE, false) => write::delete_collection(app, &target, &params, request).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}
