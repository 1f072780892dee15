//! Pods that arrive over MQTT: whether they can run here, and running them.
//!
//! Owns: reading an intent's manifest, which of its objects are whose, replacing a pod under the same UID. Not: whether to believe an
//! intent, its durability, its rollout (`mqtt::protocol` decides, the source's task writes). So nothing here touches the store:
//! at boot the protocol hands every accepted pod in again.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use tracing::info;

use super::desired::{Accepted, Offered, SourceConflict};
use super::files::NO_ROOM;
use super::handle::{ExecError, NodeHandle};
use super::intake::{Offer, offer, pod_offer};
use super::task::NodeTask;
use crate::board::{Board, Object as BoardObject, ObjectKey};
use crate::error::chain;
use crate::image::Digest;
use crate::limits::PODS_MAX;
use crate::manifest::{self, FieldValidation, Object};
use crate::mqtt::cause::{Cause, Reason, Refusal};
use crate::mqtt::intent::{Artifact, Manifest, Release};
use crate::mqtt::protocol::Admission;
use crate::pod::exec::{ExecAsk, ExecRefused};
use crate::pod::logs::PodLogs;
use crate::secret::{self, Form};
use crate::source::mqtt::{INTENT_ANNOTATION, Node};
use crate::spec::{Container, ContainerName, ImageRef, Pod, PodKey, PodUid, Source, VolumeSource};

/// An intent's objects, ready to be taken.
struct Remote {
    pod: Accepted,
    data: Vec<BoardObject>,
    warnings: Vec<String>,
}

#[async_trait]
impl Node for NodeHandle {
    fn board(&self) -> &Board {
        self.board()
    }

    async fn admit(&self, release: Arc<Release>) -> Result<Admission, Refusal> {
        self.admit(release).await
    }

    async fn apply(&self, release: Arc<Release>, recreate: bool) -> Result<(), Refusal> {
        self.apply_release(release, recreate).await
    }

    async fn withdraw(&self, key: PodKey) {
        self.withdraw(key).await;
    }

    async fn restart(&self, key: PodKey) -> Result<(), Refusal> {
        let missing =
            |_| Refusal::new(Reason::NotFound, format!("there is no pod {key} that runs"));
        self.restart(key.clone()).await.map_err(missing)
    }

    fn logs(&self, key: &PodKey) -> Option<Arc<PodLogs>> {
        self.logs(key)
    }

    async fn exec(
        &self,
        key: PodKey,
        container: Option<ContainerName>,
        command: Vec<String>,
    ) -> Result<(i32, String), Refusal> {
        let refused = |error: ExecError| {
            let reason = match &error {
                ExecError::Pod(super::Refusal::NotFound) => Reason::NotFound,
                ExecError::Container(ExecRefused::WhichContainer(_)) => Reason::Invalid,
                ExecError::Pod(_) | ExecError::Container(_) => Reason::Failed,
            };
            Refusal::new(reason, chain(&error))
        };
        let result = self.exec(key, container, command).await.map_err(refused)?;
        Ok((result.exit.code(), result.output))
    }

    async fn name_came_free(&self) {
        self.name_came_free().await;
    }
}

impl NodeTask {
    /// Whether an intent's pod can run here. Changes nothing.
    pub(super) fn admit(&self, release: &Release) -> Result<Admission, Refusal> {
        let remote = self.read_release(release)?;
        self.check_names(release, &remote)?;
        let here = |digest: &Digest| {
            let (text, hex) = ("".into(), digest.hex().into());
            let image = ImageRef::Digest { text, hex };
            self.node.images.resolve(&image, self.node.clock.now()).is_ok()
        };
        let present = release.digests().into_iter().filter(here).collect();
        Ok(Admission { warnings: remote.warnings, present })
    }

    /// Runs an intent's pod in place of the one of that name. `recreate`: its volumes begin anew.
    ///
    /// # Errors
    /// If it cannot run here (any more): nothing has changed.
    pub fn apply_release(&mut self, release: &Release, recreate: bool) -> Result<(), Refusal> {
        let remote = self.read_release(release)?;
        self.check_names(release, &remote)?;
        let some_gone = self.take_remote_data(&release.key, remote.data);
        let offered = if recreate {
            self.desired.offer(remote.pod.clone())
        } else {
            self.desired.offer_in_place(remote.pod.clone())
        };
        let offered = offered.map_err(|conflict| conflicts(&conflict))?;
        if offered == Offered::Unchanged {
            self.show_again(remote.pod);
        }
        let version = release.revision.version;
        info!(pod = %release.key, %version, ?offered, "intent applied");
        if some_gone {
            self.name_came_free();
        }
        Ok(())
    }

    /// Ends the pod of that name, if it came over MQTT, and removes what came with it.
    pub fn withdraw(&mut self, key: &PodKey) {
        self.desired.delete(key, &Source::Mqtt, None);
        if self.take_remote_data(key, vec![]) {
            self.name_came_free();
        }
    }

    /// Ends a pod's modules and starts them again; its volumes stay.
    pub(super) fn restart(&mut self, key: &PodKey) -> Result<(), super::Refusal> {
        if self.desired.restart(key) { Ok(()) } else { Err(super::Refusal::NotFound) }
    }

    /// Where a running pod's commands are asked for.
    pub(super) fn asks(
        &self,
        key: &PodKey,
    ) -> Result<tokio::sync::mpsc::Sender<ExecAsk>, super::Refusal> {
        let uid = self.desired.get(key).map(|(accepted, _)| accepted.pod.uid.clone());
        let worker = uid.as_ref().and_then(|uid| self.worker(uid));
        worker.map(crate::pod::WorkerHandle::asks).ok_or(super::Refusal::NotFound)
    }

    /// The same pod under a newer intent: what is shown of it changes, and nothing else.
    fn show_again(&mut self, accepted: Accepted) {
        if let Some(worker) = self.worker(&accepted.pod.uid) {
            worker.published.set_metadata(&accepted.object.metadata);
        }
        self.desired.amend(accepted);
    }

    fn check_names(&self, release: &Release, remote: &Remote) -> Result<(), Refusal> {
        let key = &release.key;
        if let Some(owner) = self.desired.owner(key).filter(|owner| **owner != Source::Mqtt) {
            return Err(conflicts(&SourceConflict {
                key: key.clone(),
                owner: owner.clone(),
                refused: Source::Mqtt,
            }));
        }
        if self.desired.len() >= PODS_MAX && self.desired.get(key).is_none() {
            let text = format!("the node has {PODS_MAX} pods, and takes no more");
            return Err(Refusal::new(Reason::TooManyPods, text));
        }
        for object in &remote.data {
            let name = object.key();
            let (kind, namespace) = (name.kind.as_str(), &name.namespace);
            let owner = match (self.data_owners.get(&name), self.remote_data.get(&name)) {
                (Some(owner), _) if *owner != Source::Mqtt => owner.to_string(),
                (Some(_), Some(pod)) if pod != key => format!("the intent of pod {pod}"),
                _ if self.has_no_room_for(&name) => {
                    return Err(Refusal::new(Reason::TooManyPods, NO_ROOM));
                }
                _ => continue,
            };
            let text = format!("{kind} {namespace}/{} already comes from {owner}", name.name);
            return Err(Refusal::new(Reason::SourceConflict, text));
        }
        Ok(())
    }

    /// Makes these the ConfigMaps that came with a pod, in place of those before. Whether a name has come free.
    fn take_remote_data(&mut self, pod: &PodKey, data: Vec<BoardObject>) -> bool {
        let kept: BTreeSet<ObjectKey> = data.iter().map(BoardObject::key).collect();
        let theirs = self.remote_data.iter().filter(|(_, owner)| *owner == pod);
        let gone: Vec<ObjectKey> =
            theirs.map(|(name, _)| name.clone()).filter(|name| !kept.contains(name)).collect();
        let some_gone = !gone.is_empty();
        for name in gone {
            self.remote_data.remove(&name);
            self.data_owners.remove(&name);
            self.board().remove(&name, None);
            self.data_changed(&name.namespace);
        }
        for object in data {
            self.remote_data.insert(object.key(), pod.clone());
            self.take_data(object, &Source::Mqtt);
        }
        some_gone
    }

    fn read_release(&self, release: &Release) -> Result<Remote, Refusal> {
        let Some(text) = release.intent.manifest.as_ref().map(Manifest::text) else {
            return Err(Refusal::new(Reason::Malformed, "it has no manifest"));
        };
        let parsed = manifest::parse(text.as_bytes(), FieldValidation::Strict);
        let mut causes: Vec<Cause> = parsed.errors.iter().map(Cause::from).collect();
        let (mut pods, mut data, mut warnings) = (vec![], vec![], vec![]);
        // Rejected ones are looked at as well: their author should see all that is wrong at once.
        let usable = parsed.documents.into_iter().map(|d| d.object);
        let all = usable.chain(parsed.rejected.into_iter().map(|d| d.object));
        let sealed = self.sealed_secrets(release, &mut causes);
        for mut object in all.chain(sealed) {
            object
                .metadata_mut()
                .namespace
                .get_or_insert_with(|| release.key.namespace.to_string());
            if let Object::Pod(pod) = object {
                pods.push(*pod);
                continue;
            }
            match self.remote_object(object, release) {
                Ok((object, warned)) => {
                    data.push(object);
                    warnings.extend(warned);
                }
                Err(wrong) => causes.extend(wrong),
            }
        }
        let pod = match <[_; 1]>::try_from(pods) {
            Ok([pod]) => self.remote_pod(pod, release).map_err(|wrong| causes.extend(wrong)).ok(),
            Err(pods) => {
                let message = format!("must hold exactly one Pod, and holds {}", pods.len());
                causes.push(Cause::invalid("manifest", message));
                None
            }
        };
        match pod {
            Some((pod, warned)) if causes.is_empty() => {
                warnings.extend(warned);
                Ok(Remote { pod, data, warnings })
            }
            Some(_) | None => Err(Refusal::of(Reason::Invalid, causes)),
        }
    }

    fn remote_object(
        &self,
        object: Object,
        release: &Release,
    ) -> Result<(BoardObject, Vec<String>), Vec<Cause>> {
        let kind = object.kind();
        if object.namespace() != &*release.key.namespace {
            let message = format!("{kind} {} must be in the pod's namespace", object.name());
            return Err(vec![Cause::invalid("metadata.namespace", message)]);
        }
        match &object {
            Object::ConfigMap(_) => {}
            Object::Secret(secret) => {
                let faults = self.secret_faults(secret);
                if !faults.is_empty() {
                    return Err(faults);
                }
            }
            Object::Pod(_) | Object::Service(_) | Object::NetworkPolicy(_) => {
                let message = format!("{kind}: only a Pod, its ConfigMaps and its sealed Secrets");
                return Err(vec![Cause::new("FieldValueNotSupported", "kind", message)]);
            }
        }
        let (offer, warnings) = offer(object, &Source::Mqtt, &self.node.node.name)
            .map_err(|errors| errors.iter().map(Cause::from).collect::<Vec<_>>())?;
        match offer {
            Offer::Data(object) => Ok((object, warnings)),
            Offer::Pod(_) => Err(vec![]),
        }
    }

    /// Why a Secret must not come this way, or is of no use here.
    fn secret_faults(&self, secret: &Secret) -> Vec<Cause> {
        if Form::of(secret).is_ok_and(|form| form == Form::Plain) {
            // In clear it would stand in the broker's files, and in everybody's who listens.
            let message =
                "a Secret over MQTT must be encrypted to the node (podling.dev/encryption)";
            return vec![Cause::new("FieldValueForbidden", "data", message)];
        }
        let faults = secret::check(secret, self.node.secrets.as_ref());
        faults.into_iter().map(|fault| Cause::invalid(&fault.field, fault.message)).collect()
    }

    /// The Secrets that came sealed beside the manifest, as objects; what cannot be opened here is named by its place in the intent.
    fn sealed_secrets(&self, release: &Release, causes: &mut Vec<Cause>) -> Vec<Object> {
        let mut objects = vec![];
        for (index, sealed) in release.intent.secrets.iter().enumerate() {
            let object =
                secret::sealed_object(&release.key.namespace, &sealed.name, &sealed.sealed);
            let faults = secret::check(&object, self.node.secrets.as_ref());
            if faults.is_empty() {
                objects.push(Object::Secret(Box::new(object)));
            }
            let field = format!("secrets[{index}].sealed");
            causes.extend(faults.into_iter().map(|fault| Cause::invalid(&field, fault.message)));
        }
        objects
    }

    fn remote_pod(
        &self,
        mut pod: k8s_openapi::api::core::v1::Pod,
        release: &Release,
    ) -> Result<(Accepted, Vec<String>), Vec<Cause>> {
        let mut causes = vec![];
        let meta = &mut pod.metadata;
        for (field, found, wanted) in [
            ("metadata.namespace", &meta.namespace, &release.key.namespace),
            ("metadata.name", &meta.name, &release.key.name),
        ] {
            if found.as_deref() != Some(wanted) {
                causes.push(Cause::invalid(field, format!("must be {wanted:?}, as in the intent")));
            }
        }
        meta.generation = i64::try_from(release.revision.version.generation).ok();
        manifest::default::pod(&mut pod);
        let uid = PodUid::new(&release.intent.uid);
        match pod_offer(pod, uid, &Source::Mqtt, &self.node.node.name) {
            Ok((mut accepted, warnings)) => {
                let mut lowered = (*accepted.pod).clone();
                pin(&mut lowered, &release.intent.artifacts, &mut causes);
                if self.node.host_paths.allow.is_empty() {
                    no_host_paths(&lowered, &mut causes);
                }
                accepted.pod = Arc::new(lowered);
                let annotations = Arc::make_mut(&mut accepted.object)
                    .metadata
                    .annotations
                    .get_or_insert_default();
                annotations
                    .insert("kubernetes.io/config.source".into(), Source::Mqtt.as_str().into());
                annotations.insert(INTENT_ANNOTATION.into(), release.revision.digest.hex());
                if causes.is_empty() { Ok((accepted, warnings)) } else { Err(causes) }
            }
            Err(errors) => {
                causes.extend(errors.iter().map(Cause::from));
                Err(causes)
            }
        }
    }
}

/// Where nothing of the host is for pods from afar, that is told at once. Which paths lie below an allowed one is seen only when they are
/// opened.
fn no_host_paths(pod: &Pod, causes: &mut Vec<Cause>) {
    for (index, volume) in pod.volumes.iter().enumerate() {
        if let VolumeSource::HostPath { path, .. } = &volume.source {
            let message = format!(
                "Forbidden: {}: this node's configuration allows no host path to pods over MQTT (hostPathAllowList)",
                path.display()
            );
            let field = format!("spec.volumes[{index}].hostPath.path");
            causes.push(Cause::new("FieldValueForbidden", &field, message));
        }
    }
}

/// Makes each container run exactly the content that the intent names for its image.
fn pin(pod: &mut Pod, artifacts: &[Artifact], causes: &mut Vec<Cause>) {
    let lists = [("initContainers", &mut pod.init_containers), ("containers", &mut pod.containers)];
    for (list, containers) in lists {
        for (index, container) in containers.iter_mut().enumerate() {
            if let Err(message) = pin_container(container, artifacts) {
                let path = format!("spec.{list}[{index}].image");
                causes.push(Cause::invalid(&path, message));
            }
        }
    }
}

fn pin_container(container: &mut Container, artifacts: &[Artifact]) -> Result<(), String> {
    let text = container.image.text();
    if let Some(artifact) = artifacts.iter().find(|artifact| artifact.image == text) {
        container.image = ImageRef::Digest { text: text.into(), hex: artifact.digest.hex().into() };
        return Ok(());
    }
    match &container.image {
        ImageRef::Digest { .. } => Ok(()),
        ImageRef::Named { .. } | ImageRef::File { .. } => Err(format!(
            "{text:?} is none of the intent's artifacts and has no digest: what it is could change"
        )),
    }
}

fn conflicts(conflict: &SourceConflict) -> Refusal {
    Refusal::new(Reason::SourceConflict, conflict.to_string())
}
