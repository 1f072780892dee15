//! What the API may change: durable first, then desired, then shown.
//!
//! Owns: preconditions, ownership by source, the order of those steps. Not: HTTP (`server`), nor validation (`manifest`).

use std::sync::Arc;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::desired::Accepted;
use super::files::NO_ROOM;
use super::handle::{Deletion, Preconditions, Refusal, Write, Written};
use super::intake::{offer, pod_offer};
use super::task::NodeTask;
use crate::board::{Kind, Object, ObjectKey};
use crate::error::chain;
use crate::limits::PODS_MAX;
use crate::manifest;
use crate::spec::{PodKey, PodUid, Source};
use crate::store::ObjectKind;

impl NodeTask {
    pub(super) async fn create_pod(
        &mut self,
        mut pod: corev1::Pod,
        how: Write,
    ) -> Result<Written<Arc<corev1::Pod>>, Refusal> {
        manifest::default::pod(&mut pod);
        let uid = pod.metadata.uid.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        pod.metadata.generation = Some(1);
        let node_name = self.node.node.name.clone();
        let (accepted, warnings) = pod_offer(pod, PodUid::new(&uid), &Source::Api, &node_name)
            .map_err(Refusal::Invalid)?;
        let key = accepted.pod.key.clone();
        if let Some((owner, _)) = self.desired.get(&key) {
            return Err(match &owner.pod.source {
                Source::Api => Refusal::AlreadyExists,
                other @ (Source::Folder(_) | Source::Play(_) | Source::Mqtt) => {
                    Refusal::SourceConflict(super::desired::SourceConflict {
                        key,
                        owner: other.clone(),
                        refused: Source::Api,
                    })
                }
            });
        }
        if self.desired.len() >= PODS_MAX {
            let text = format!("the node has {PODS_MAX} pods, and takes no more");
            return Err(Refusal::Forbidden(text));
        }
        if !how.dry_run {
            self.commit_pod(&accepted).await?;
            self.desired.offer(accepted.clone())?;
            self.pass();
        }
        let object = self.board().pod(&key).filter(|_| !how.dry_run);
        Ok(Written { object: object.unwrap_or(accepted.object), warnings })
    }

    /// Changes what Kubernetes lets change of a pod: labels, annotations, images, its deadline, tolerations. The pod stays itself.
    ///
    /// The record is rewritten first. A power cut after that finds the new definition and starts with it; what is remembered of the pod's
    /// runs holds for it as well, since it is the same pod (`records`): only a back-off belongs to the image that earned it.
    pub(super) async fn update_pod(
        &mut self,
        mut pod: corev1::Pod,
        how: Write,
    ) -> Result<Written<Arc<corev1::Pod>>, Refusal> {
        manifest::default::pod(&mut pod);
        let key = pod_key(&pod.metadata);
        let shown = self.check_pod(&key, &how.only_if)?;
        let spec = manifest::update::pod(&shown, &pod).map_err(Refusal::Invalid)?;
        let is_redefined = spec.is_some();
        let Some((current, deleting)) = self.desired.get(&key) else {
            return Err(Refusal::NotFound);
        };
        let mut object = (*current.object).clone();
        object.metadata.labels = pod.metadata.labels;
        object.metadata.annotations = pod.metadata.annotations;
        if spec.is_some() {
            object.spec = spec;
            // That of what is shown: a deletion has raised it as well.
            object.metadata.generation = shown.metadata.generation.map(|g| g.saturating_add(1));
        }
        let uid = current.pod.uid.clone();
        let node_name = self.node.node.name.clone();
        let (changed, mut warnings) =
            pod_offer(object, uid.clone(), &Source::Api, &node_name).map_err(Refusal::Invalid)?;
        if self.worker(&uid).is_some() {
            warnings.extend(manifest::update::settings_for_later(&shown, &changed.object));
        }
        if how.dry_run {
            return Ok(Written { object: changed.object, warnings });
        }
        // The record of a pod that is being deleted is gone already, and must not come back. One that begins anew keeps it.
        if deleting.is_none() || self.desired.is_replaced_in_place(&key) {
            self.commit_pod(&changed).await?;
        }
        let object = match self.worker(&uid) {
            Some(worker) => {
                let object = worker.published.redefine(&changed.object);
                if is_redefined {
                    worker.redefine(changed.pod.redefinition());
                }
                object
            }
            None => Arc::clone(&changed.object),
        };
        // Policies that select by the new labels are in force when this is acknowledged.
        self.node.fabric.describe(&changed.pod);
        self.desired.amend(changed);
        Ok(Written { object, warnings })
    }

    pub(super) async fn delete_pod(
        &mut self,
        key: &PodKey,
        how: Deletion,
    ) -> Result<Arc<corev1::Pod>, Refusal> {
        let shown = self.check_pod(key, &how.only_if)?;
        if how.dry_run {
            return Ok(shown);
        }
        self.uncommit(ObjectKind::Pod, &key.namespace, &key.name).await?;
        let phase = shown.status.as_ref().and_then(|s| s.phase.as_deref());
        // Nothing runs any more, so there is nothing to be graceful with (registry/core/pod/strategy.go).
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        let grace = if over { Some(std::time::Duration::ZERO) } else { how.grace };
        self.desired.delete(key, &Source::Api, grace);
        self.pass();
        // The pass has shown the deletion; a pod that ended within it is shown as it was.
        Ok(self.board().pod(key).unwrap_or(shown))
    }

    pub(super) async fn put_object(
        &mut self,
        object: Object,
        replace: bool,
        how: Write,
    ) -> Result<Written<Object>, Refusal> {
        let key = object.key();
        let old = self.board().get(&key);
        match (&old, replace) {
            (Some(_), false) => return Err(Refusal::AlreadyExists),
            (None, true) => return Err(Refusal::NotFound),
            (Some(_), true) | (None, false) => {}
        }
        self.check_data(&key, &how.only_if)?;
        if self.has_no_room_for(&key) {
            return Err(Refusal::Forbidden(NO_ROOM.to_owned()));
        }
        let (wire, kind) = to_manifest(object)?;
        let node_name = self.node.node.name.clone();
        let source = Source::Api;
        let (ready, warnings) =
            offer(wire.clone(), &source, &node_name).map_err(Refusal::Invalid)?;
        let super::intake::Offer::Data(ready) = ready else { return Err(Refusal::NotFound) };
        let mut ready = self.assigned(ready).map_err(Refusal::Invalid)?;
        if how.dry_run {
            return Ok(Written { object: ready, warnings });
        }
        let meta = ready.metadata_mut();
        if let Some(old) = &old {
            meta.uid.clone_from(&old.metadata().uid);
        }
        meta.uid.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        let json = object_json(&ready)?;
        self.commit(kind, &key.namespace, &key.name, json).await?;
        self.take_data(ready, &source);
        let object = self.board().get(&key).ok_or(Refusal::NotFound)?;
        Ok(Written { object, warnings })
    }

    pub(super) async fn delete_object(
        &mut self,
        key: &ObjectKey,
        how: Write,
    ) -> Result<Object, Refusal> {
        let shown = self.board().get(key).ok_or(Refusal::NotFound)?;
        self.check_data(key, &how.only_if)?;
        if how.dry_run {
            return Ok(shown);
        }
        let kind = data_kind(key.kind)?;
        self.uncommit(kind, &key.namespace, &key.name).await?;
        let removed = self.drop_data(key).unwrap_or(shown);
        self.name_came_free();
        Ok(removed)
    }

    /// The pod as shown, if it is the API's and the one that is meant.
    fn check_pod(
        &self,
        key: &PodKey,
        only_if: &Preconditions,
    ) -> Result<Arc<corev1::Pod>, Refusal> {
        let shown = self.board().pod(key).ok_or(Refusal::NotFound)?;
        let Some((current, _)) = self.desired.get(key) else { return Err(Refusal::NotFound) };
        if current.pod.source != Source::Api {
            let owner = &current.pod.source;
            let text = format!("pod {key} is owned by {owner}; change or remove it there");
            return Err(Refusal::Forbidden(text));
        }
        check(&shown.metadata, only_if)?;
        Ok(shown)
    }

    fn check_data(&self, key: &ObjectKey, only_if: &Preconditions) -> Result<(), Refusal> {
        match self.data_owners.get(key) {
            Some(owner) if *owner != Source::Api => {
                let (kind, namespace, name) = (key.kind.as_str(), &key.namespace, &key.name);
                Err(Refusal::Forbidden(format!(
                    "{kind} {namespace}/{name} is owned by {owner}; change or remove it there"
                )))
            }
            Some(_) | None => match self.board().get(key) {
                Some(object) => check(object.metadata(), only_if),
                None => Ok(()),
            },
        }
    }

    async fn commit_pod(&self, accepted: &Accepted) -> Result<(), Refusal> {
        let json =
            serde_json::to_vec(&*accepted.object).map_err(|e| Refusal::Storage(chain(&e)))?;
        let key = &accepted.pod.key;
        self.commit(ObjectKind::Pod, &key.namespace, &key.name, json).await
    }

    /// Makes an object durable. Nothing else has changed when this fails.
    async fn commit(
        &self,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
        json: Vec<u8>,
    ) -> Result<(), Refusal> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let committed = tokio::task::spawn_blocking(move || {
            store.commit_object(kind, &namespace, &name, &Source::Api, &json)
        });
        match committed.await {
            Ok(Ok(_written)) => Ok(()),
            Ok(Err(error)) => Err(Refusal::Storage(chain(&error))),
            Err(error) => Err(Refusal::Storage(chain(&error))),
        }
    }

    async fn uncommit(&self, kind: ObjectKind, namespace: &str, name: &str) -> Result<(), Refusal> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let deleted =
            tokio::task::spawn_blocking(move || store.delete_object(kind, &namespace, &name));
        match deleted.await {
            Ok(Ok(_was_there)) => Ok(()),
            Ok(Err(error)) => Err(Refusal::Storage(chain(&error))),
            Err(error) => Err(Refusal::Storage(chain(&error))),
        }
    }
}

fn pod_key(meta: &ObjectMeta) -> PodKey {
    let namespace = meta.namespace.as_deref().unwrap_or(crate::board::DEFAULT_NAMESPACE);
    PodKey::new(namespace, meta.name.as_deref().unwrap_or_default())
}

/// `preconditions` of a DELETE and the optimistic lock of a PUT, in Kubernetes' words.
fn check(found: &ObjectMeta, only_if: &Preconditions) -> Result<(), Refusal> {
    let uid = found.uid.as_deref().unwrap_or_default();
    if let Some(asked) = only_if.uid.as_deref().filter(|asked| *asked != uid) {
        return Err(Refusal::Conflict(format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}"
        )));
    }
    match (&only_if.resource_version, &found.resource_version) {
        (Some(asked), Some(version)) if asked != version => Err(Refusal::Conflict(
            "the object has been modified; please apply your changes to the latest version and \
             try again"
                .to_owned(),
        )),
        (Some(_) | None, _) => Ok(()),
    }
}

fn data_kind(kind: Kind) -> Result<ObjectKind, Refusal> {
    match kind {
        Kind::ConfigMap => Ok(ObjectKind::ConfigMap),
        Kind::Secret => Ok(ObjectKind::Secret),
        Kind::Service => Ok(ObjectKind::Service),
        Kind::NetworkPolicy => Ok(ObjectKind::NetworkPolicy),
        Kind::Pod
        | Kind::Endpoints
        | Kind::EndpointSlice
        | Kind::Event
        | Kind::Namespace
        | Kind::Node => {
            Err(Refusal::NotSupported(format!("{} objects cannot be written", kind.as_str())))
        }
    }
}

fn to_manifest(object: Object) -> Result<(manifest::Object, ObjectKind), Refusal> {
    let kind = data_kind(object.kind())?;
    let wire = match object {
        Object::ConfigMap(map) => manifest::Object::ConfigMap(Box::new((*map).clone())),
        Object::Secret(secret) => manifest::Object::Secret(Box::new((*secret).clone())),
        Object::Service(service) => manifest::Object::Service(Box::new((*service).clone())),
        Object::NetworkPolicy(policy) => {
            manifest::Object::NetworkPolicy(Box::new((*policy).clone()))
        }
        other @ (Object::Pod(_)
        | Object::Endpoints(_)
        | Object::EndpointSlice(_)
        | Object::Event(_)
        | Object::Namespace(_)
        | Object::Node(_)) => {
            let kind = other.kind().as_str();
            return Err(Refusal::NotSupported(format!("{kind} objects cannot be written")));
        }
    };
    Ok((wire, kind))
}

fn object_json(object: &Object) -> Result<Vec<u8>, Refusal> {
    // Every type here serialises; the door is kept shut all the same.
    serde_json::to_vec(object).map_err(|e| Refusal::Storage(chain(&e)))
}
