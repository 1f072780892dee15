//! One object as the node shows it, whatever its kind.
//!
//! Owns: the closed set of kinds that the local API serves, and the few things that are the same for all of them
//! (metadata, version, weight). Not: what the objects mean. Their `Debug` names them and never prints their content,
//! so that no log line can carry a Secret.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer};

/// The kinds of object a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ConfigMap,
    Event,
    Namespace,
    Node,
    Pod,
    Secret,
}

impl Kind {
    /// Every kind, in the order in which discovery lists them.
    pub const ALL: [Self; 6] =
        [Self::ConfigMap, Self::Event, Self::Namespace, Self::Node, Self::Pod, Self::Secret];

    /// `kind` of the object: `Pod`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Event => "Event",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Secret => "Secret",
        }
    }

    /// Path segment of the REST API, and the word of error messages: `pods`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Event => "events",
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Secret => "secrets",
        }
    }

    /// What messages to people say: `pod`.
    #[must_use]
    pub fn singular(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Event => "event",
            Self::Namespace => "namespace",
            Self::Node => "node",
            Self::Pod => "pod",
            Self::Secret => "secret",
        }
    }

    /// Abbreviations that `kubectl` accepts.
    #[must_use]
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::ConfigMap => &["cm"],
            Self::Event => &["ev"],
            Self::Namespace => &["ns"],
            Self::Node => &["no"],
            Self::Pod => &["po"],
            Self::Secret => &[],
        }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// The kind that the path segment names.
    #[must_use]
    pub fn from_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
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
    Event(Arc<Event>),
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Secret(Arc<Secret>),
}

impl Object {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Event(_) => Kind::Event,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Secret(_) => Kind::Secret,
        }
    }

    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ConfigMap(o) => &o.metadata,
            Self::Event(o) => &o.metadata,
            Self::Namespace(o) => &o.metadata,
            Self::Node(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::Secret(o) => &o.metadata,
        }
    }

    /// The object's metadata, to change; copies the object if it is shared.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::ConfigMap(o) => &mut Arc::make_mut(o).metadata,
            Self::Event(o) => &mut Arc::make_mut(o).metadata,
            Self::Namespace(o) => &mut Arc::make_mut(o).metadata,
            Self::Node(o) => &mut Arc::make_mut(o).metadata,
            Self::Pod(o) => &mut Arc::make_mut(o).metadata,
            Self::Secret(o) => &mut Arc::make_mut(o).metadata,
        }
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
            Self::Namespace(_) | Self::Node(_) => 0,
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
        match self {
            Self::ConfigMap(o) => o.as_ref().serialize(serializer),
            Self::Event(o) => o.as_ref().serialize(serializer),
            Self::Namespace(o) => o.as_ref().serialize(serializer),
            Self::Node(o) => o.as_ref().serialize(serializer),
            Self::Pod(o) => o.as_ref().serialize(serializer),
            Self::Secret(o) => o.as_ref().serialize(serializer),
        }
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

object_from!(ConfigMap, Event, Namespace, Node, Pod, Secret);
