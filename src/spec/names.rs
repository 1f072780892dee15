//! Names: of pods, of containers, of images.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Namespace and name of a pod: what a user calls it. Survives re-creation; [`PodUid`] does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl PodKey {
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Namespace and name of an object that is no pod, as Kubernetes' `types.NamespacedName`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl NamespacedName {
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One incarnation of a pod (`metadata.uid`). A folder pod's is a hash of its source and content, an API pod's is
/// random, an intent's comes with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(Arc<str>);

impl PodUid {
    #[must_use]
    pub fn new(uid: &str) -> Self {
        Self(uid.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a container within its pod; unique over regular, init and ephemeral ones. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName(Arc<str>);

impl ContainerName {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a container's module comes from, with the words the manifest used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// `NAME[:TAG]`, with the default tag `latest` filled in: looked up in the image store.
    Named { text: Arc<str>, name: Arc<str>, tag: Arc<str> },
    /// `NAME@sha256:HEX` or `sha256:HEX`: exactly this content.
    Digest { text: Arc<str>, hex: Arc<str> },
    /// `file:PATH`: a module file; the path is already resolved against the manifest's folder. Allowed only for
    /// `play` and the folder source.
    File { text: Arc<str>, path: Arc<PathBuf> },
}

impl ImageRef {
    /// The reference as the manifest wrote it; what statuses and events show.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Named { text, .. } | Self::Digest { text, .. } | Self::File { text, .. } => text,
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
