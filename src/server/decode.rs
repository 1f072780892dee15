//! Bodies: read within bounds, then decoded as strictly as the client asks.
//!
//! Owns: size and time limits of a body, media types, `?fieldValidation`, `DeleteOptions`. Not: the grammar of manifests, which is
//! [`parse`](crate::manifest::parse()).

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as WireDeleteOptions;

use crate::board::{Kind, Object};
use crate::manifest::{self, FieldValidation};

use super::backend::DeleteOptions;
use super::request::Params;
use super::status::ApiError;
use super::{BODY_BYTES_MAX, protobuf};

/// Media types of objects, for people.
const ACCEPTED: &str = "application/json, application/yaml";

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A decoded object, and what was odd about its text.
#[derive(Debug)]
pub(super) struct Decoded {
    pub object: Object,
    pub warnings: Vec<String>,
}

/// Reads a whole body.
pub(super) async fn body(request: Request<Body>) -> Result<(HeaderMap, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced: Option<u64> =
        announced.and_then(|length| length.to_str().ok()).and_then(|length| length.parse().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(ApiError::too_large(BODY_BYTES_MAX));
    }
    let read = Limited::new(body, BODY_BYTES_MAX).collect();
    let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, read).await else {
        return Err(ApiError::timeout());
    };
    match read {
        Ok(collected) => Ok((parts.headers, collected.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(BODY_BYTES_MAX)),
        Err(error) => Err(ApiError::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// The media type of a body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

/// `?fieldValidation=`; the default is Warn, as in Kubernetes.
pub(super) fn field_validation(params: &Params) -> Result<FieldValidation, ApiError> {
    match params.text("fieldValidation") {
        None | Some("Warn") => Ok(FieldValidation::Warn),
        Some("Strict") => Ok(FieldValidation::Strict),
        Some("Ignore") => Ok(FieldValidation::Ignore),
        Some(other) => Err(ApiError::bad_request(format!(
            "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
        ))),
    }
}

/// Decodes the one object of a body, which must be of this kind.
pub(super) fn object(
    kind: Kind,
    headers: &HeaderMap,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    match media_type(headers) {
        "" | "application/json" | "application/yaml" => parse(kind, body, validation),
        "application/vnd.kubernetes.protobuf" => {
            let refused = |error: protobuf::ProtobufError| {
                ApiError::unsupported_media_type(&format!("{ACCEPTED} ({error})"))
            };
            let json = protobuf::object(body).map_err(refused)?;
            parse(kind, json.to_string().as_bytes(), validation)
        }
        _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
    }
}

/// Decodes the one object of a text.
pub(super) fn parse(
    kind: Kind,
    text: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let word = kind.as_str();
    let cannot = |why: &str| {
        let version = kind.api_version();
        let message =
            format!("{word} in version \"{version}\" cannot be handled as a {word}: {why}");
        ApiError::bad_request(message)
    };
    let parsed = manifest::parse(text, validation);
    if !parsed.errors.is_empty() {
        let messages: Vec<String> = parsed.errors.iter().map(|error| error.message()).collect();
        let about_fields = |message: &String| {
            message.starts_with("unknown field") || message.starts_with("duplicate field")
        };
        let prefix = if messages.iter().all(about_fields) { "strict decoding error: " } else { "" };
        return Err(cannot(&format!("{prefix}{}", messages.join(", "))));
    }
    let mut documents = parsed.documents.into_iter();
    let (Some(document), None) = (documents.next(), documents.next()) else {
        return Err(cannot("the body must hold exactly one object"));
    };
    let object = match document.object {
        manifest::Object::Pod(pod) => Object::from(*pod),
        manifest::Object::ConfigMap(object) => Object::from(*object),
        manifest::Object::Secret(mut object) => {
            fold_string_data(&mut object);
            Object::from(*object)
        }
        manifest::Object::Service(mut object) => {
            object.status = None;
            Object::from(*object)
        }
        manifest::Object::NetworkPolicy(object) => Object::from(*object),
    };
    if object.kind() != kind {
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {word}",
            object.kind().as_str(),
            object.kind().api_version()
        )));
    }
    let warnings = parsed.warnings.iter().map(|warning| warning.message()).collect();
    Ok(Decoded { object, warnings })
}

/// `stringData` is for writing only: it becomes `data`, and wins over it.
fn fold_string_data(secret: &mut Secret) {
    for (key, text) in secret.string_data.take().into_iter().flatten() {
        let data = secret.data.get_or_insert_default();
        data.insert(key, ByteString(text.into_bytes()));
    }
    secret.type_.get_or_insert_with(|| "Opaque".to_owned());
}

/// The options of a deletion: those of the body, else of the query.
pub(super) fn delete_options(
    params: &Params,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<DeleteOptions, ApiError> {
    let mut options = DeleteOptions { dry_run: params.dry_run()?, ..DeleteOptions::default() };
    let mut seconds = params.integer("gracePeriodSeconds")?;
    if !body.is_empty() {
        if !matches!(media_type(headers), "" | "application/json") {
            return Err(ApiError::unsupported_media_type("application/json"));
        }
        let wire: WireDeleteOptions = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request(format!("the body is not a DeleteOptions: {error}"))
        })?;
        seconds = wire.grace_period_seconds.or(seconds);
        options.dry_run |= match wire.dry_run.as_deref() {
            None | Some([]) => false,
            Some([all]) if all == "All" => true,
            Some(_) => {
                return Err(ApiError::bad_request("dryRun: supported values: \"All\""));
            }
        };
        if let Some(preconditions) = wire.preconditions {
            options.uid = preconditions.uid;
            options.resource_version = preconditions.resource_version;
        }
    }
    // A negative grace means one second (`registry/core/pod/strategy.go`).
    options.grace = seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(1)));
    Ok(options)
}
