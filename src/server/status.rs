//! Every refusal as a Kubernetes `Status`.
//!
//! Owns: [`ApiError`], the only error type of the handlers, with codes, reasons and sentences as `apimachinery/pkg/api/errors` has
//! them. Clients match on `reason`, people read `message`.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ListMeta, Status, StatusCause, StatusDetails,
};

use crate::board::{Expired, Kind};

use super::backend::{FieldCause, WriteError};
use super::wire;

/// A refused request.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Box<StatusDetails>>,
}

impl ApiError {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), details: None }
    }

    fn about(self, name: &str, kind: &str) -> Self {
        self.about_in("", name, kind)
    }

    fn about_in(mut self, group: &str, name: &str, kind: &str) -> Self {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let details = StatusDetails {
            group: text(group),
            name: text(name),
            kind: text(kind),
            ..StatusDetails::default()
        };
        self.details = Some(Box::new(details));
        self
    }

    /// 404 of an object.
    #[must_use]
    pub fn not_found(kind: Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about_in(
            kind.group(),
            name,
            kind.plural(),
        )
    }

    /// 404 of a path: what a server says about a resource it has never heard of.
    #[must_use]
    pub fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about("", "")
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).about("", "")
    }

    /// 405 for a namespace, with what to do instead: nothing.
    #[must_use]
    pub fn namespaces_are_derived() -> Self {
        let message = "a namespace exists as long as an object is in it: it need not be created and cannot be deleted";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .about("", "namespaces")
    }

    /// 405 for a part of a pod that Kubernetes has and a module does not, with what to use instead; `None` for an unknown word.
    #[must_use]
    pub fn not_offered(subresource: &str) -> Option<Self> {
        let why = match subresource {
            "exec" | "attach" => {
                "a module has no shell or terminal that one could enter, and kubectl cp needs one too. Its log (logs), \
                 state (describe) and sockets (podling net POD) can be read; port-forward reaches its ports"
            }
            "ephemeralcontainers" => "a container cannot be added to a pod that runs",
            "eviction" => "there is no other node to go to: delete the pod",
            "resize" => {
                "the resources of a pod that runs do not change: delete it and create it anew"
            }
            "binding" => "a pod of this node is bound to it",
            "proxy" => "use port-forward",
            _ => return None,
        };
        let message = format!("pods/{subresource} is not offered by podling: {why}");
        Some(
            Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
                .about("", "pods"),
        )
    }

    #[must_use]
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/json;as=Table;g=meta.k8s.io;v=v1";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    #[must_use]
    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity is too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    #[must_use]
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        let details = StatusDetails { retry_after_seconds: Some(1), ..StatusDetails::default() };
        error.details = Some(Box::new(details));
        error
    }

    #[must_use]
    pub fn timeout() -> Self {
        let message = "the request was not sent completely in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", message)
    }

    /// 500, in Kubernetes' words.
    #[must_use]
    pub fn internal(cause: &str) -> Self {
        let message = format!("Internal error occurred: {cause}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// 410: the version asked for is gone.
    #[must_use]
    pub fn expired(expired: Expired) -> Self {
        Self::new(StatusCode::GONE, "Expired", expired.to_string())
    }

    /// 422 with all causes; the sentence as Kubernetes builds it, each distinct error once.
    #[must_use]
    pub fn invalid(kind: Kind, name: &str, causes: &[FieldCause]) -> Self {
        Self::invalid_in(kind.group(), kind.as_str(), name, causes)
    }

    /// The same of something that is no object of ours: the options of a request.
    #[must_use]
    pub fn invalid_options(kind: &str, name: &str, causes: &[FieldCause]) -> Self {
        Self::invalid_in("", kind, name, causes)
    }

    fn invalid_in(group: &str, kind: &str, name: &str, causes: &[FieldCause]) -> Self {
        let mut sentences: Vec<String> = Vec::new();
        for cause in causes {
            let sentence = format!("{}: {}", cause.field, cause.message);
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
        let all = match sentences.as_slice() {
            [one] => one.clone(),
            _ => format!("[{}]", sentences.join(", ")),
        };
        let qualified = match group {
            "" => kind.to_owned(),
            group => format!("{kind}.{group}"),
        };
        let message = format!("{qualified} \"{name}\" is invalid: {all}");
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about_in(group, name, kind);
        let causes = causes.iter().map(|cause| StatusCause {
            field: Some(cause.field.clone()),
            reason: Some(cause.reason.clone()),
            message: Some(cause.message.clone()),
        });
        if let Some(details) = &mut error.details {
            details.causes = Some(causes.collect());
        }
        error
    }

    /// A refusal by the daemon of a write to this object.
    #[must_use]
    pub fn write(kind: Kind, name: &str, error: &WriteError) -> Self {
        let plural = &kind.resource();
        let about = |error: Self| error.about_in(kind.group(), name, kind.plural());
        match error {
            WriteError::NotFound => Self::not_found(kind, name),
            WriteError::AlreadyExists => {
                Self::already_exists(kind, name, format!("{plural} \"{name}\" already exists"))
            }
            WriteError::SourceConflict(why) => Self::already_exists(
                kind,
                name,
                format!("{plural} \"{name}\" already exists: {why}"),
            ),
            WriteError::Conflict(why) => {
                let message =
                    format!("Operation cannot be fulfilled on {plural} \"{name}\": {why}");
                about(Self::new(StatusCode::CONFLICT, "Conflict", message))
            }
            WriteError::Invalid(causes) => Self::invalid(kind, name, causes),
            WriteError::BadRequest(why) => Self::bad_request(why),
            WriteError::Forbidden(why) => {
                let message = format!("{plural} \"{name}\" is forbidden: {why}");
                about(Self::new(StatusCode::FORBIDDEN, "Forbidden", message))
            }
            WriteError::NotSupported(why) => {
                about(Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", why))
            }
            WriteError::Storage(why) => Self::internal(why),
            WriteError::Unavailable(why) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", why)
            }
        }
    }

    fn already_exists(kind: Kind, name: &str, message: String) -> Self {
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about_in(
            kind.group(),
            name,
            kind.plural(),
        )
    }

    /// The HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }

    /// The sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// As the object that goes out.
    #[must_use]
    pub fn to_status(&self) -> Status {
        Status {
            code: Some(i32::from(self.status.as_u16())),
            details: self.details.as_deref().cloned(),
            message: Some(self.message.clone()),
            metadata: ListMeta::default(),
            reason: Some(self.reason.to_owned()),
            status: Some("Failure".to_owned()),
        }
    }

    /// As an HTTP response.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        wire::json(self.status, &self.to_status())
    }
}
