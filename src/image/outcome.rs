//! What the image store answers, and why it does not.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::digest::Digest;
use super::import::ImportError;
use super::wasm::ModuleKind;

/// A module that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    pub digest: Digest,
    pub size: u64,
    pub kind: ModuleKind,
    /// False: the content was there already.
    pub new: bool,
}

/// A module that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    pub digest: Digest,
    pub path: PathBuf,
    /// The `imageID` of statuses: `REPOSITORY@sha256:HEX` of the registry's manifest, or `sha256:HEX` of the content.
    pub image_id: String,
    pub size: u64,
    /// It came from a registry under the name that was asked for, and not by a person's hand.
    pub pulled: bool,
}

/// One line of `podling image ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    pub repository: String,
    pub tag: String,
    pub digest: Digest,
    pub size: u64,
    /// When it was loaded, in milliseconds since 1970.
    pub created_ms: i64,
    pub kind: ModuleKind,
}

/// What `podling image rm` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// `REPOSITORY:TAG`
    pub untagged: Vec<String>,
    pub deleted: Vec<Digest>,
}

/// The image store's folder cannot be used.
#[derive(Debug, Error)]
#[error("cannot open image store {}", dir.display())]
pub struct OpenError {
    pub dir: PathBuf,
    #[source]
    pub cause: io::Error,
}

/// Why a module was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("{text} is no NAME:TAG that a module could be loaded under")]
    NotAName { text: String },
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("cannot name the module in the image store")]
    Name {
        #[source]
        cause: io::Error,
    },
}

/// Why there is no module for a reference.
#[derive(Debug, Error)]
pub enum ResolveError {
    #[error(
        "image \"{text}\" is not in the local store: load it with podling image load FILE --name {text}"
    )]
    NotFound { text: String },
    #[error(
        "image \"{text}\" is named in the local store, but its content ({digest}) is missing: load it again"
    )]
    Missing { text: String, digest: Digest },
    #[error("image \"{text}\" is damaged in the local store ({digest}): load it again")]
    Damaged { text: String, digest: Digest },
    /// The file of a `file:` reference.
    #[error(transparent)]
    File(#[from] ImportError),
    #[error("cannot read the image store")]
    Store {
        #[source]
        cause: io::Error,
    },
}

/// Why an image was not removed, or not listed.
#[derive(Debug, Error)]
pub enum RemoveError {
    #[error("no such image: {text}")]
    NotFound { text: String },
    #[error("cannot change the image store")]
    Store {
        #[from]
        #[source]
        cause: io::Error,
    },
}
