//! ConfigMaps, Secrets and the downward API, as environments and volumes ask for them.
//!
//! Owns: adapting the board to the look-ups of `manifest` and `volume`. Values are read when a container starts or a volume
//! is set up; nothing is cached, so a Secret is held once, on the board, encrypted if it came so.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as corev1;

use crate::board::Board;
use crate::manifest::Objects;
use crate::pod::environment::{Facts, field_value, resource_value};
use crate::secret::{self, Decryptor, Unreadable, Values};
use crate::spec::{FieldPath, Pod, ResourceField};
use crate::volume::ObjectData;

/// The board as the place where ConfigMaps and Secrets are, and the key to what is encrypted.
#[derive(Clone, Debug)]
pub struct BoardObjects {
    pub board: Board,
    pub key: Option<Decryptor>,
}

impl Objects for BoardObjects {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<corev1::ConfigMap>> {
        self.board.config_map(namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, Unreadable> {
        let secret = self.board.secret(namespace, name);
        secret.map(|secret| secret::open(&secret, self.key.as_ref())).transpose()
    }
}

/// What the volumes of one pod may contain.
#[derive(Debug)]
pub struct VolumeData<'a> {
    pub board: &'a Board,
    pub key: Option<&'a Decryptor>,
    pub pod: &'a Pod,
    pub facts: Facts,
}

impl ObjectData for VolumeData<'_> {
    fn config_map(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let map = self.board.config_map(namespace, name)?;
        let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
        Some(text.chain(binary).collect())
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, Unreadable> {
        let secret = self.board.secret(namespace, name);
        secret.map(|secret| secret::open(&secret, self.key)).transpose()
    }

    fn field(&self, field: &FieldPath) -> Option<String> {
        Some(field_value(self.pod, field, &self.facts))
    }

    fn resource(&self, field: &ResourceField) -> Option<String> {
        // A volume's reference always names its container; validation has seen to it.
        let name = field.container.as_deref()?;
        let container = self.pod.all_containers().find(|c| c.name.as_str() == name)?;
        Some(resource_value(self.pod, container, field, &self.facts))
    }
}
