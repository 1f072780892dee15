//! Why an artifact did not come.
//!
//! Owns: the words, for one place ([`SourceError`]) and for all of them together ([`FetchError`]), and which of them it makes
//! sense to try again. No text here holds a URL's query, a header, or a password.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::error::chain;
use crate::image::{Digest, IncomingError};

/// Why one place did not give it.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("{0} is not among the allowedRegistries of this node's configuration")]
    NotAllowed(String),
    #[error("{0} would have to be spoken to without TLS, and is not among the insecureRegistries")]
    Plain(String),
    #[error("{place} says {status}{said}")]
    Status { place: String, status: u16, said: Said },
    #[error("{place} does not know it{said}")]
    NotFound { place: String, said: Said },
    #[error("{place} denies access ({status}){said}")]
    Denied { place: String, status: u16, said: Said },
    #[error("cannot reach {place}")]
    Unreachable {
        place: String,
        #[source]
        cause: reqwest::Error,
    },
    #[error("the connection to {place} broke")]
    Broken {
        place: String,
        #[source]
        cause: reqwest::Error,
    },
    #[error("{place} ended after {found} of {expected} bytes")]
    Short { place: String, expected: u64, found: u64 },
    #[error("{place} has one of {found} bytes, not of {expected}")]
    Size { place: String, expected: u64, found: u64 },
    #[error("{place} does not follow the protocol: {what}")]
    Protocol { place: String, what: String },
    #[error("{place} has no WebAssembly module: {what}")]
    NotAModule { place: String, what: String },
    #[error("there is no broker to ask")]
    NoBroker,
    #[error("the broker's publisher sent nothing new for {}{}", Seconds(*.patience), Said::new(.refusal.as_deref().unwrap_or_default()))]
    Silent { patience: Duration, refusal: Option<String> },
    #[error("{0}, which a difference is offered to, is not on this node")]
    NoBase(Digest),
    #[error("no difference: {0}")]
    NoDelta(Box<FetchError>),
    #[error(transparent)]
    Patch(#[from] super::delta::PatchFault),
    #[error("cannot set up HTTPS")]
    Setup(#[from] super::http::SetupError),
    #[error(transparent)]
    Incoming(#[from] IncomingError),
}

impl SourceError {
    /// Whether the same place may give it soon.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Short { .. } => true,
            Self::NotAllowed(_)
            | Self::Plain(_)
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Size { .. }
            | Self::Protocol { .. }
            | Self::NotAModule { .. }
            | Self::NoBroker
            | Self::Silent { .. }
            | Self::NoBase(_)
            | Self::NoDelta(_)
            | Self::Patch(_)
            | Self::Setup(_)
            | Self::Incoming(_) => false,
        }
    }

    /// Whether the place could not be asked, which says nothing about what it would have said.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.is_transient() || matches!(self, Self::NoBroker)
    }
}

/// Why nobody gave it. Cheap to clone: several may wait for one transfer.
#[derive(Clone, Debug)]
pub struct FetchError(Arc<FetchFault>);

/// See [`FetchError`].
#[derive(Debug)]
pub enum FetchFault {
    /// The disk, or a size that no other place would change.
    Local { digest: Digest, cause: IncomingError },
    /// Every place was tried.
    Sources { digest: Digest, tried: Vec<(String, SourceError)> },
    /// A registry did not say what a reference stands for.
    Reference { text: String, cause: SourceError },
    /// The task that fetched it panicked.
    Internal { digest: Digest },
}

impl FetchError {
    pub(super) fn new(fault: FetchFault) -> Self {
        Self(Arc::new(fault))
    }

    #[must_use]
    pub fn fault(&self) -> &FetchFault {
        &self.0
    }

    /// One word for statuses: the reason of a condition or of a waiting container.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let incoming = |error: &IncomingError| match error {
            IncomingError::TooLarge { .. } => "ArtifactTooLarge",
            IncomingError::NotWasm { .. } => "NotWasm",
            IncomingError::Mismatch { .. } | IncomingError::Length { .. } => "DigestMismatch",
            error if error.is_lack_of_space() => "DiskPressure",
            IncomingError::NoSpace { .. } => "DiskPressure",
            IncomingError::Store { .. } => "ImageStoreError",
        };
        match self.fault() {
            FetchFault::Local { cause, .. } => incoming(cause),
            // The last place decides: the others may just have been away.
            FetchFault::Sources { tried, .. } => match tried.last() {
                Some((_, SourceError::Incoming(error))) => incoming(error),
                Some(_) | None => "ErrImagePull",
            },
            FetchFault::Reference { .. } | FetchFault::Internal { .. } => "ErrImagePull",
        }
    }

    /// Whether it makes sense to try again soon, without anybody's help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self.fault() {
            FetchFault::Sources { tried, .. } => tried.iter().any(|(_, error)| {
                error.is_unreachable() || matches!(error, SourceError::Silent { .. })
            }),
            FetchFault::Reference { cause, .. } => cause.is_transient(),
            // The disk, or too many open files: nothing that is wrong with the artifact.
            FetchFault::Local { cause, .. } => {
                cause.is_lack_of_space() || matches!(cause, IncomingError::Store { .. })
            }
            FetchFault::Internal { .. } => true,
        }
    }

    /// Whether no place could even be asked: the network is away.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self.fault() {
            FetchFault::Sources { tried, .. } => {
                !tried.is_empty() && tried.iter().all(|(_, error)| error.is_unreachable())
            }
            FetchFault::Reference { cause, .. } => cause.is_unreachable(),
            FetchFault::Local { .. } | FetchFault::Internal { .. } => false,
        }
    }
}

impl fmt::Display for FetchError {
    /// Whole as it is: causes included, since there may be several.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault() {
            FetchFault::Local { cause, .. } => f.write_str(&chain(cause)),
            FetchFault::Reference { text, cause } => {
                write!(f, "failed to resolve reference \"{text}\": {}", chain(cause))
            }
            FetchFault::Sources { digest, tried } if tried.is_empty() => {
                write!(f, "{digest} is not on this node, and no source of it is named")
            }
            FetchFault::Sources { digest, tried } => {
                write!(f, "cannot fetch {digest}")?;
                let mut separator = ": ";
                for (_, error) in tried {
                    write!(f, "{separator}{}", chain(error))?;
                    separator = "; ";
                }
                Ok(())
            }
            FetchFault::Internal { digest } => {
                write!(f, "podling failed internally while it fetched {digest}")
            }
        }
    }
}

impl std::error::Error for FetchError {}

/// What the other side said, shortened and made harmless: `: words`, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said(String);

/// Longest quotation, characters.
const SAID_CHARS_MAX: usize = 200;

impl Said {
    #[must_use]
    pub fn new(text: &str) -> Self {
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let text: String = printable.take(SAID_CHARS_MAX).collect();
        Self(text.trim().to_owned())
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// A duration in words.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_place_is_named_with_what_went_wrong_there() {
        let digest = Digest::new([1; 32]);
        let place = "https://cdn.example/web".to_owned();
        let tried = vec![
            (
                "oci://ghcr.io/web".to_owned(),
                SourceError::Denied {
                    place: "ghcr.io".to_owned(),
                    status: 403,
                    said: Said::new("no\u{1b}[31m pull"),
                },
            ),
            (place.clone(), SourceError::Short { place, expected: 9, found: 5 }),
        ];
        let error = FetchError::new(FetchFault::Sources { digest, tried });
        assert_eq!(
            error.to_string(),
            format!(
                "cannot fetch {digest}: ghcr.io denies access (403): no [31m pull; \
                 https://cdn.example/web ended after 5 of 9 bytes"
            )
        );
        assert_eq!((error.reason(), error.is_unreachable()), ("ErrImagePull", false));
        let none = FetchError::new(FetchFault::Sources { digest, tried: Vec::new() });
        assert!(none.to_string().ends_with("and no source of it is named"));
        let silent = SourceError::Silent { patience: Duration::from_secs(300), refusal: None };
        assert_eq!(silent.to_string(), "the broker's publisher sent nothing new for 300 s");
    }

    #[test]
    fn lack_of_space_is_disk_pressure() {
        let digest = Digest::new([1; 32]);
        for (cause, reason) in [
            (IncomingError::NoSpace { needed: 9, free: 1, reserve: 1 }, "DiskPressure"),
            (
                IncomingError::Store { cause: std::io::ErrorKind::StorageFull.into() },
                "DiskPressure",
            ),
            (IncomingError::TooLarge { digest, size: 9, bytes_max: 1 }, "ArtifactTooLarge"),
            (IncomingError::Mismatch { expected: digest, found: digest }, "DigestMismatch"),
        ] {
            let error = FetchError::new(FetchFault::Local { digest, cause });
            assert_eq!(error.reason(), reason);
        }
    }
}
