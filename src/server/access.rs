//! "May I?": `SelfSubjectAccessReview` of authorization.k8s.io/v1, which `kubectl auth can-i` asks.
//!
//! Owns: the answer, which is the list of what there is: whoever can open the socket may do everything that the node offers, and
//! nobody may do what it does not. Not: access control; the socket's mode is that (`listen`).

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SubjectAccessReviewStatus,
};
use serde_json::Value;

use super::status::ApiError;
use super::{decode, discovery, protobuf, wire};

/// Answers one review.
pub(super) async fn review(request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let (headers, body) = decode::body(request).await?;
    let wrong = |error: &dyn std::error::Error| {
        ApiError::bad_request(format!("the body is not a SelfSubjectAccessReview: {error}"))
    };
    let asked: Value = match decode::media_type(&headers) {
        "" | "application/json" => serde_json::from_slice(&body).map_err(|e| wrong(&e))?,
        "application/vnd.kubernetes.protobuf" => protobuf::object(&body).map_err(|e| wrong(&e))?,
        _ => return Err(ApiError::unsupported_media_type("application/json")),
    };
    let mut review: SelfSubjectAccessReview =
        serde_json::from_value(asked).map_err(|e| wrong(&e))?;
    // What is no resource is a path of the API, and all of those may be read.
    let allowed = review.spec.resource_attributes.as_ref().is_none_or(offered);
    let reason = if allowed {
        "whoever can open the daemon's socket may do this"
    } else {
        "the node does not offer this"
    };
    review.status = Some(SubjectAccessReviewStatus {
        allowed,
        reason: Some(reason.to_owned()),
        ..SubjectAccessReviewStatus::default()
    });
    Ok(wire::json(StatusCode::CREATED, &review))
}

fn offered(asked: &ResourceAttributes) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (group, resource) = (text(&asked.group), text(&asked.resource));
    let (subresource, verb) = (text(&asked.subresource), text(&asked.verb));
    discovery::offers(&group, &resource, &subresource, &verb)
}
