//! The objects that a manifest may hold.

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::api::networking::v1 as networkingv1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::error::{Place, Position};
use super::layout::Layout;

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// One object of a manifest, in Kubernetes' own type.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Pod(Box<corev1::Pod>),
    ConfigMap(Box<corev1::ConfigMap>),
    Secret(Box<corev1::Secret>),
    Service(Box<corev1::Service>),
    NetworkPolicy(Box<networkingv1::NetworkPolicy>),
}

impl Object {
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => "Pod",
            Self::ConfigMap(_) => "ConfigMap",
            Self::Secret(_) => "Secret",
            Self::Service(_) => "Service",
            Self::NetworkPolicy(_) => "NetworkPolicy",
        }
    }

    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Pod(pod) => &pod.metadata,
            Self::ConfigMap(map) => &map.metadata,
            Self::Secret(secret) => &secret.metadata,
            Self::Service(service) => &service.metadata,
            Self::NetworkPolicy(policy) => &policy.metadata,
        }
    }

    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Pod(pod) => &mut pod.metadata,
            Self::ConfigMap(map) => &mut map.metadata,
            Self::Secret(secret) => &mut secret.metadata,
            Self::Service(service) => &mut service.metadata,
            Self::NetworkPolicy(policy) => &mut policy.metadata,
        }
    }

    /// The name, empty if there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The namespace, [`DEFAULT_NAMESPACE`] if there is none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        namespace(self.metadata())
    }
}

/// The namespace of an object's metadata, [`DEFAULT_NAMESPACE`] if it names none.
#[must_use]
pub fn namespace(metadata: &ObjectMeta) -> &str {
    match metadata.namespace.as_deref() {
        None | Some("") => DEFAULT_NAMESPACE,
        Some(namespace) => namespace,
    }
}

/// One object and where in its file it came from.
#[derive(Clone, Debug)]
pub struct Document {
    pub place: Place,
    pub object: Object,
    pub(super) layout: Layout,
}

impl Document {
    /// Where the field of that path stands, or, if the text does not have it, what encloses it.
    #[must_use]
    pub fn position(&self, path: &str) -> Option<Position> {
        self.layout.position(path)
    }
}
