//! Why something was refused: the words that a controller branches on, and the causes that a person reads.
//!
//! Owns: [`Reason`] and [`Cause`] with their JSON, and their bounds. Not: who is told (`status`). A cause is Kubernetes' own
//! `StatusCause` (reason, field, message) with line and column, so that one validator's words serve folder, API and MQTT.

use serde::{Deserialize, Serialize};

use super::envelope::EnvelopeError;
use crate::manifest::{FieldError, ManifestError, ManifestErrorKind};

/// Causes told of one document; a person mends the first few and asks again.
pub const CAUSES_MAX: usize = 64;

/// Longest message of a cause, bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// The verdict on a document that was not taken, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// No envelope, or a payload that is not what its type says.
    Malformed,
    /// Larger than is read.
    TooLarge,
    /// No signature at all.
    NotSigned,
    /// No signature of a key that is trusted: unknown, revoked, or not by enough roots.
    UntrustedKey,
    /// A trusted key is named, and its signature does not fit these bytes.
    BadSignature,
    /// The key may not sign for this tenant, namespace or purpose.
    NotAllowed,
    /// Meant for another node, group, tenant, or published under another name.
    WrongTarget,
    /// Older than what was accepted.
    Stale,
    /// As new as what was accepted, and different.
    GenerationConflict,
    /// Of an epoch that no root has authorised.
    EpochNotAuthorized,
    /// The node's index does not list the pod.
    NotInIndex,
    /// The manifest breaks rules; the causes say which.
    Invalid,
    /// Another source owns the name.
    SourceConflict,
    /// The node has as many pods as it takes.
    TooManyPods,
    /// It could not be made durable.
    StorageFailed,
    /// A command that was retained, has expired, or is for another connection.
    Expired,
    /// A command that this node's configuration does not allow, or does not know.
    NotSupported,
    /// As many commands run as may.
    Busy,
    /// What was asked for is not there.
    NotFound,
    /// It was tried and failed; the message says why.
    Failed,
}

impl Reason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::TooLarge => "TooLarge",
            Self::NotSigned => "NotSigned",
            Self::UntrustedKey => "UntrustedKey",
            Self::BadSignature => "BadSignature",
            Self::NotAllowed => "NotAllowed",
            Self::WrongTarget => "WrongTarget",
            Self::Stale => "Stale",
            Self::GenerationConflict => "GenerationConflict",
            Self::EpochNotAuthorized => "EpochNotAuthorized",
            Self::NotInIndex => "NotInIndex",
            Self::Invalid => "Invalid",
            Self::SourceConflict => "SourceConflict",
            Self::TooManyPods => "TooManyPods",
            Self::StorageFailed => "StorageFailed",
            Self::Expired => "Expired",
            Self::NotSupported => "NotSupported",
            Self::Busy => "Busy",
            Self::NotFound => "NotFound",
            Self::Failed => "Failed",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, … as Kubernetes has them; or a [`Reason`]'s word.
    pub reason: String,
    /// Path in the manifest, or in the payload; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    pub message: String,
    /// From 1, in the manifest's own text; only where the manifest came as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

impl Cause {
    #[must_use]
    pub fn new(reason: &str, field: &str, message: impl Into<String>) -> Self {
        let (reason, field) = (reason.to_owned(), field.to_owned());
        Self { reason, field, message: cut(message.into()), line: None, column: None }
    }

    /// A value of a payload that breaks a rule.
    #[must_use]
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new("FieldValueInvalid", field, message)
    }
}

impl From<&FieldError> for Cause {
    fn from(error: &FieldError) -> Self {
        Self::new(error.cause_reason(), &error.path, error.cause_message())
    }
}

impl From<&ManifestError> for Cause {
    fn from(error: &ManifestError) -> Self {
        let (reason, field) = match &error.kind {
            ManifestErrorKind::UnknownField { path } => ("FieldValueNotSupported", path.as_str()),
            ManifestErrorKind::DuplicateField { path } => ("FieldValueDuplicate", path.as_str()),
            ManifestErrorKind::Type { path, .. } => ("FieldValueTypeInvalid", path.as_str()),
            ManifestErrorKind::Missing { field } => ("FieldValueRequired", *field),
            ManifestErrorKind::UnsupportedKind { .. } => ("FieldValueNotSupported", "kind"),
            ManifestErrorKind::TooLarge { .. }
            | ManifestErrorKind::TooManyDocuments
            | ManifestErrorKind::NotUtf8 { .. }
            | ManifestErrorKind::Syntax { .. }
            | ManifestErrorKind::Excess(_)
            | ManifestErrorKind::NotAnObject { .. }
            | ManifestErrorKind::More { .. } => ("Malformed", ""),
        };
        let number = |n: usize| u32::try_from(n).ok();
        let mut cause = Self::new(reason, field, error.message());
        cause.line = error.at.and_then(|at| number(at.line));
        cause.column = error.at.and_then(|at| number(at.column));
        cause
    }
}

/// Cuts a message to what a status may carry.
#[must_use]
pub fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

/// A document or command that is not taken: why, and everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.as_str())]
pub struct Refusal {
    pub reason: Reason,
    pub message: String,
    pub causes: Vec<Cause>,
}

impl Refusal {
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: cut(message.into()), causes: vec![] }
    }

    /// With several causes; the first speaks for them where there is room for one sentence.
    #[must_use]
    pub fn of(reason: Reason, mut causes: Vec<Cause>) -> Self {
        let more = causes.len().saturating_sub(CAUSES_MAX);
        if more > 0 {
            causes.truncate(CAUSES_MAX);
            let last = causes.len() - 1;
            causes[last] = Cause::new(reason.as_str(), "", format!("and {} more", more + 1));
        }
        let message = match causes.as_slice() {
            [] => String::new(),
            [only] => sentence(only),
            [first, rest @ ..] => format!("{}; and {} more", sentence(first), rest.len()),
        };
        Self { reason, message: cut(message), causes }
    }
}

fn sentence(cause: &Cause) -> String {
    if cause.field.is_empty() {
        cause.message.clone()
    } else {
        format!("{}: {}", cause.field, cause.message)
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        let reason = match &error {
            EnvelopeError::TooLarge { .. } | EnvelopeError::TooManySignatures => Reason::TooLarge,
            EnvelopeError::Form(_) | EnvelopeError::Type { .. } | EnvelopeError::Base64(_) => {
                Reason::Malformed
            }
        };
        Self::new(reason, error.to_string())
    }
}
