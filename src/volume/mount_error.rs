//! Why a run cannot be given its mounts, in words for the pod's status.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

use super::mounts::FILE_BYTES_MAX;

/// Why a run's mounts cannot be; the message of `CreateContainerConfigError`.
#[derive(Debug, Error)]
pub enum MountError {
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoVolume { volume: String, container: String },
    #[error(
        "subPath \"{sub_path}\" of volumeMount \"{volume}\" must be a relative path without '..'"
    )]
    SubPath { volume: String, sub_path: String },
    #[error(
        "failed to create subPath directory for volumeMount \"{volume}\" of container \"{container}\""
    )]
    CreateSubPath {
        volume: String,
        container: String,
        #[source]
        cause: io::Error,
    },
    #[error(
        "failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\"{}",
        why(cause)
    )]
    PrepareSubPath {
        volume: String,
        container: String,
        #[source]
        cause: io::Error,
    },
    #[error(
        "volumeMount \"{volume}\" of container \"{container}\" is {what}; a module can be given folders and regular files only"
    )]
    Special { volume: String, container: String, what: &'static str },
    #[error(
        "volumeMount \"{volume}\" of container \"{container}\" is a single file ({guest}) that may be written to; a module can be given folders, and copies of single files: make the mount readOnly, or mount the file's folder"
    )]
    WritableFile { volume: String, container: String, guest: String },
    #[error(
        "volumeMount \"{volume}\" of container \"{container}\" is a single file ({guest}) inside another mount ({around}); a module cannot see one file inside another folder: mount it elsewhere"
    )]
    FileInMount { volume: String, container: String, guest: String, around: String },
    #[error(
        "volumeMount \"{volume}\" of container \"{container}\" is a single file of more than {FILE_BYTES_MAX} bytes: mount its folder"
    )]
    LargeFile { volume: String, container: String },
    #[error(
        "mountPath \"{guest}\" of container \"{container}\" is used twice, or is no path of a guest"
    )]
    GuestPath { guest: String, container: String },
    #[error("cannot prepare the mounts of container \"{container}\"")]
    Prepare {
        container: String,
        #[source]
        cause: io::Error,
    },
}

impl MountError {
    /// The waiting reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        "CreateContainerConfigError"
    }
}

/// Says what no errno says.
fn why(cause: &io::Error) -> &'static str {
    if Errno::from_io_error(cause) == Some(Errno::XDEV) {
        ": it leads out of the volume"
    } else {
        ""
    }
}
