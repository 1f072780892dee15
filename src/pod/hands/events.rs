//! Events of a pod, as Kubernetes has them.

use k8s_openapi::api::core::v1 as corev1;

use super::Hands;
use crate::board::EventDraft;
use crate::lifecycle::PodEvent;
use crate::spec::{ContainerKind, ContainerName};

impl Hands {
    /// Writes an Event down.
    pub(super) fn record(&self, event: &PodEvent) {
        let draft = EventDraft {
            involved: self.reference(event.container.as_ref()),
            warning: event.warning,
            reason: event.reason.to_owned(),
            message: event.message.clone(),
            component: "podling".to_owned(),
            host: self.node.node.name.clone(),
        };
        self.node.board.record(&draft, self.node.clock.now());
    }

    fn reference(&self, container: Option<&ContainerName>) -> corev1::ObjectReference {
        let field_path = container.and_then(|name| {
            let list = match self.pod.container(name)?.kind {
                ContainerKind::Init | ContainerKind::Sidecar => "initContainers",
                ContainerKind::Regular => "containers",
                ContainerKind::Ephemeral => "ephemeralContainers",
            };
            Some(format!("spec.{list}{{{name}}}"))
        });
        corev1::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(self.pod.key.namespace.to_string()),
            name: Some(self.pod.key.name.to_string()),
            uid: Some(self.pod.uid.to_string()),
            field_path,
            ..corev1::ObjectReference::default()
        }
    }
}
