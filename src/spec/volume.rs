//! Volumes and where they are mounted.

use std::path::PathBuf;

use super::{FieldPath, ResourceField};

/// One of `spec.volumes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    EmptyDir {
        medium: VolumeMedium,
        size_limit_bytes: Option<u64>,
    },
    HostPath {
        path: PathBuf,
        kind: HostPathType,
    },
    ConfigMap {
        name: String,
        items: Vec<KeyToPath>,
        default_mode: u32,
        optional: bool,
    },
    Secret {
        name: String,
        items: Vec<KeyToPath>,
        default_mode: u32,
        optional: bool,
    },
    DownwardApi {
        items: Vec<ProjectedSource>,
        default_mode: u32,
    },
    /// Several of the above in one folder.
    Projected {
        sources: Vec<ProjectedSource>,
        default_mode: u32,
    },
}

impl VolumeSource {
    /// Whether its files come from objects that may change while the pod runs.
    #[must_use]
    pub fn is_data(&self) -> bool {
        match self {
            Self::ConfigMap { .. } | Self::Secret { .. } | Self::Projected { .. } => true,
            Self::EmptyDir { .. } | Self::HostPath { .. } | Self::DownwardApi { .. } => false,
        }
    }
}

/// One file, or a group of files, of a downward API or projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectedSource {
    ConfigMap { name: String, items: Vec<KeyToPath>, optional: bool },
    Secret { name: String, items: Vec<KeyToPath>, optional: bool },
    Field { path: String, mode: Option<u32>, field: FieldPath },
    Resource { path: String, mode: Option<u32>, field: ResourceField },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeMedium {
    /// Wherever the daemon keeps volumes.
    Default,
    /// Memory; counted as the pod's.
    Memory,
}

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    /// "": no check.
    Unchecked,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// One of `items`: a key of the ConfigMap or Secret, and the file it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyToPath {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

/// One of `volumeMounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub volume: String,
    /// Absolute path in the guest.
    pub path: String,
    pub read_only: bool,
    pub sub_path: Option<SubPath>,
}

/// Part of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubPath {
    /// `subPath`
    Literal(String),
    /// `subPathExpr`: `$(VAR)` is expanded at container start; a missing variable is an error.
    Expr(String),
}
