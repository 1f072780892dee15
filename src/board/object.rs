//! One object as the node shows it, whatever its kind.
//!
//! Owns: the closed set of kinds that the local API serves, and the few things that are the same for all of them
//! (metadata, version, weight). Not: what the objects mean. Their `Debug` names them and never prints their content,
//! so that no log line can carry a Secret.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer};

/// The kinds of object a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Event,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Secret,
    Service,
}

impl Kind {
    /// Every kind, in the order in which discovery lists them.
    pub const ALL: [Self; 10] = [
        Self::ConfigMap,
        Self::Endpoints,
        Self::Event,
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Secret,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
    ];

    /// The API group, empty for the core's.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io",
            Self::NetworkPolicy => "networking.k8s.io",
            Self::ConfigMap
            | Self::Endpoints
            | Self::Event
            | Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::Secret
            | Self::Service => "",
        }
    }

    /// `apiVersion` of the object: `v1`, `networking.k8s.io/v1`.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ConfigMap
            | Self::Endpoints
            | Self::Event
            | Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::Secret
            | Self::Service => "v1",
        }
    }

    /// The resource as messages name it: `pods`, `networkpolicies.networking.k8s.io`.
    #[must_use]
    pub fn resource(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    /// Whether clients create, change and delete objects of this kind; the others are the node's own.
    #[must_use]
    pub fn is_writable(self) -> bool {
        match self {
            Self::ConfigMap | Self::NetworkPolicy | Self::Pod | Self::Secret | Self::Service => {
                true
            }
            Self::Endpoints | Self::EndpointSlice | Self::Event | Self::Namespace | Self::Node => {
                false
            }
        }
    }

    /// `kind` of the object: `Pod`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::Event => "Event",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Secret => "Secret",
            Self::Service => "Service",
        }
    }

    /// Path segment of the REST API, and the word of error messages: `pods`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Endpoints => "endpoints",
            Self::EndpointSlice => "endpointslices",
            Self::Event => "events",
            Self::Namespace => "namespaces",
            Self::NetworkPolicy => "networkpolicies",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Secret => "secrets",
            Self::Service => "services",
        }
    }

    /// What messages to people say: `pod`.
    #[must_use]
    pub fn singular(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Endpoints => "endpoints",
            Self::EndpointSlice => "endpointslice",
            Self::Event => "event",
            Self::Namespace => "namespace",
            Self::NetworkPolicy => "networkpolicy",
            Self::Node => "node",
            Self::Pod => "pod",
            Self::Secret => "secret",
            Self::Service => "service",
        }
    }

    /// Abbreviations that `kubectl` accepts.
    #[must_use]
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::ConfigMap => &["cm"],
            Self::Endpoints => &["ep"],
            Self::EndpointSlice | Self::Secret => &[],
            Self::Event => &["ev"],
            Self::Namespace => &["ns"],
            Self::NetworkPolicy => &["netpol"],
            Self::Node => &["no"],
            Self::Pod => &["po"],
            Self::Service => &["svc"],
        }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// The kind that a path names: `v1` or `GROUP/VERSION`, and the resource's segment.
    #[must_use]
    pub fn from_path(api_version: &str, plural: &str) -> Option<Self> {
        let is_it = |kind: &Self| kind.api_version() == api_version && kind.plural() == plural;
        Self::ALL.into_iter().find(is_it)
    }
}

/// Where an object stands: kind, namespace (empty for nodes and namespaces), name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced() { namespace } else { "" };
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind.singular(), self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind.singular(), self.namespace, self.name)
        }
    }
}

/// A shared, immutable object. Cheap to clone.
#[derive(Clone, PartialEq)]
pub enum Object {
    ConfigMap(Arc<ConfigMap>),
    Endpoints(Arc<Endpoints>),
    EndpointSlice(Arc<EndpointSlice>),
    Event(Arc<Event>),
    Namespace(Arc<Namespace>),
    NetworkPolicy(Arc<NetworkPolicy>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Secret(Arc<Secret>),
    Service(Arc<Service>),
}

/// The same expression for the object inside, whatever its kind.
macro_rules! each_kind {
    ($object:expr, $o:ident => $value:expr) => {
        match $object {
            Self::ConfigMap($o) => $value,
            Self::Endpoints($o) => $value,
            Self::EndpointSlice($o) => $value,
            Self::Event($o) => $value,
            Self::Namespace($o) => $value,
            Self::NetworkPolicy($o) => $value,
            Self::Node($o) => $value,
            Self::Pod($o) => $value,
            Self::Secret($o) => $value,
            Self::Service($o) => $value,
        }
    };
}

impl Object {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Event(_) => Kind::Event,
            Self::Namespace(_) => Kind::Namespace,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Secret(_) => Kind::Secret,
            Self::Service(_) => Kind::Service,
        }
    }

    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        each_kind!(self, o => &o.metadata)
    }

    /// The object's metadata, to change; copies the object if it is shared.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        each_kind!(self, o => &mut Arc::make_mut(o).metadata)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.kind(), self.namespace(), self.name())
    }

    /// The object as a pod, if it is one.
    #[must_use]
    pub fn as_pod(&self) -> Option<&Arc<Pod>> {
        if let Self::Pod(pod) = self { Some(pod) } else { None }
    }

    /// A rough count of the bytes this version of the object holds in memory: decides how much history is kept. An
    /// estimate, since walking a whole object at each status change would cost more than it saves.
    #[must_use]
    pub(super) fn weight(&self) -> usize {
        const OBJECT: usize = 1024;
        const CONTAINER: usize = 3 * 1024;
        const ENDPOINT: usize = 512;
        let own = match self {
            Self::ConfigMap(o) => {
                let text = o.data.iter().flatten().map(|(k, v)| k.len() + v.len());
                let binary = o.binary_data.iter().flatten().map(|(k, v)| k.len() + v.0.len());
                text.sum::<usize>() + binary.sum::<usize>()
            }
            Self::Secret(o) => {
                o.data.iter().flatten().map(|(k, v)| k.len() + v.0.len()).sum::<usize>()
            }
            Self::Pod(o) => o.spec.as_ref().map_or(0, |spec| {
                let init = spec.init_containers.as_ref().map_or(0, Vec::len);
                (init + spec.containers.len()) * CONTAINER
            }),
            Self::Event(o) => o.message.as_ref().map_or(0, String::len),
            Self::Endpoints(o) => {
                let subsets = o.subsets.iter().flatten();
                let addresses = subsets.flat_map(|s| [&s.addresses, &s.not_ready_addresses]);
                addresses.flatten().map(Vec::len).sum::<usize>() * ENDPOINT
            }
            Self::EndpointSlice(o) => o.endpoints.iter().flatten().count() * ENDPOINT,
            Self::Namespace(_) | Self::NetworkPolicy(_) | Self::Node(_) | Self::Service(_) => 0,
        };
        let annotations = self.metadata().annotations.iter().flatten();
        OBJECT + own + annotations.map(|(k, v)| k.len() + v.len()).sum::<usize>()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.metadata().resource_version.as_deref().unwrap_or("-");
        write!(f, "{}@{version}", self.key())
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        each_kind!(self, o => o.as_ref().serialize(serializer))
    }
}

macro_rules! object_from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        }
        impl From<Arc<$kind>> for Object {
            fn from(object: Arc<$kind>) -> Self {
                Self::$kind(object)
            }
        }
    )*};
}

object_from!(
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Event,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Secret,
    Service
);
