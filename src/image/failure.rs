//! What Kubernetes says when an image cannot be had.
//!
//! Owns: reasons and messages of a container that waits for its image (`pkg/kubelet/images`: `types.go` and
//! `image_manager.go`). Not: the back-off (`lifecycle`). Pure.

use crate::error::chain;
use crate::spec::{ImageRef, PullPolicy};

use super::ResolveError;
use super::name::InvalidReference;

/// `state.waiting` of a container without its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFailure {
    pub reason: &'static str,
    pub message: String,
}

/// Reason and message for an image that was looked for in vain.
#[must_use]
pub fn pull_failure(image: &ImageRef, policy: PullPolicy, error: &ResolveError) -> PullFailure {
    let (reason, message) = match error {
        ResolveError::NotFound { .. } if policy == PullPolicy::Never => (
            "ErrImageNeverPull",
            format!("Container image \"{image}\" is not present with pull policy of Never"),
        ),
        ResolveError::Store { .. } => {
            ("ImageInspectError", format!("Failed to inspect image \"{image}\": {}", chain(error)))
        }
        ResolveError::NotFound { .. }
        | ResolveError::File(_)
        | ResolveError::Missing { .. }
        | ResolveError::Damaged { .. } => ("ErrImagePull", chain(error)),
    };
    PullFailure { reason, message }
}

/// Reason and message for text that is no image reference.
#[must_use]
pub fn invalid_name(text: &str, error: &InvalidReference) -> PullFailure {
    PullFailure {
        reason: "InvalidImageName",
        message: format!(
            "Failed to apply default image tag \"{text}\": couldn't parse image name \"{text}\": {error}"
        ),
    }
}
