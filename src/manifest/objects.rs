//! Looking up the ConfigMaps and Secrets that pods refer to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as corev1;

use super::object::Object;
use crate::secret::{self, Unreadable, Values};

/// Whoever holds the objects answers at once, from memory.
pub trait Objects: Send + Sync {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<corev1::ConfigMap>>;

    /// The plain values of a Secret.
    ///
    /// # Errors
    ///
    /// It is there, and encrypted in a way that this node cannot read.
    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, Unreadable>;
}

/// Nothing is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObjects;

impl Objects for NoObjects {
    fn config_map(&self, _: &str, _: &str) -> Option<Arc<corev1::ConfigMap>> {
        None
    }

    fn secret(&self, _: &str, _: &str) -> Result<Option<Values>, Unreadable> {
        Ok(None)
    }
}

/// Namespace and name.
type Key = (String, String);

/// Objects in memory, as a file or a test brings them.
#[derive(Clone, Default)]
pub struct ObjectMap {
    config_maps: BTreeMap<Key, Arc<corev1::ConfigMap>>,
    secrets: BTreeMap<Key, Arc<corev1::Secret>>,
}

impl ObjectMap {
    /// Adds a ConfigMap or Secret, defaults filled in; pods refer to no others.
    pub fn insert(&mut self, object: &Object) {
        let mut object = object.clone();
        super::default::object(&mut object);
        let key = (object.namespace().to_owned(), object.name().to_owned());
        match object {
            Object::ConfigMap(map) => drop(self.config_maps.insert(key, Arc::new(*map))),
            Object::Secret(secret) => drop(self.secrets.insert(key, Arc::new(*secret))),
            Object::Pod(_) | Object::Service(_) | Object::NetworkPolicy(_) => {}
        }
    }
}

impl Objects for ObjectMap {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<corev1::ConfigMap>> {
        self.config_maps.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, Unreadable> {
        let secret = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        secret.map(|secret| secret::open(secret, None)).transpose()
    }
}

impl fmt::Debug for ObjectMap {
    /// Names only: what is in a Secret is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectMap")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}
