//! What was accepted before the daemon ended is acted upon at once when it comes back: without network, without clock.
//!
//! Owns: turning durable records into desire. A record that this version cannot read is reported and left where it is; it
//! costs one object.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::desired::Accepted;
use super::form::Form;
use super::intake::{Offer, offer, pod_offer};
use super::records;
use super::task::NodeTask;
use crate::lifecycle::Restored;
use crate::manifest::{self, Object};
use crate::spec::{PodUid, Source};
use crate::store::{Loaded, ObjectKind, StoredObject};

impl NodeTask {
    /// Takes in what the store held; false if some of it could not be used. Before [`NodeTask::run`].
    pub fn restore(&mut self, loaded: Loaded) -> bool {
        for record in loaded.runtime {
            match records::from_json(&record.json) {
                Ok(remembered) => {
                    self.restored.insert(record.uid, remembered);
                }
                Err(error) => warn!(uid = %record.uid, %error, "restart counts are unreadable"),
            }
        }
        let mut whole = true;
        for object in loaded.objects {
            if let Err(problem) = self.restore_object(&object) {
                warn!(
                    kind = ?object.kind, namespace = %object.namespace, name = %object.name,
                    "a stored object is not used: {problem}"
                );
                whole = false;
            }
        }
        whole
    }

    /// What is remembered of a pod that is about to start, if it is about this form of it; from now on what is kept is.
    pub(super) fn recall(&mut self, accepted: &Accepted) -> Option<Restored> {
        let (uid, form) = (&accepted.pod.uid, Form::of(accepted));
        let remembered = self.restored.remove(uid);
        let was_there = remembered.is_some();
        let facts = remembered.and_then(|remembered| remembered.of(form.as_ref()));
        if let Some(keeper) = &self.keeper {
            if was_there && facts.is_none() {
                info!(pod = %accepted.pod.key, %uid, "what is remembered is of an earlier form of the pod");
                keeper.forget(uid);
            }
            keeper.begins(uid, form);
        }
        facts
    }

    /// Forgets what was remembered of pods that are gone: to be called when all there should be are known. A manifest that
    /// comes back one day has the same UID, and must not find the end of its earlier life.
    pub fn forget_orphans(&mut self) {
        let known: BTreeSet<&PodUid> = self.desired.uids().collect();
        let gone = |uid: &&PodUid| !known.contains(uid);
        let gone: Vec<PodUid> = self.restored.keys().filter(gone).cloned().collect();
        for uid in gone {
            self.restored.remove(&uid);
            if let Some(keeper) = &self.keeper {
                keeper.forget(&uid);
            }
        }
    }

    /// The folder as it is at start, before anything runs: so that what is on disk for pods that are gone can be told from
    /// what is still needed. False if a file is broken: then it is not known what it would name.
    pub fn restore_folder(&mut self, offered: Vec<super::Offered>) -> bool {
        let whole = offered.iter().all(|file| file.result.is_ok());
        self.folder(offered);
        whole
    }

    /// Every UID whose files and records are still needed.
    #[must_use]
    pub fn known_uids(&self) -> Vec<PodUid> {
        self.desired.uids().cloned().collect()
    }

    fn restore_object(&mut self, stored: &StoredObject) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        match stored.kind {
            ObjectKind::Pod => {
                let pod = serde_json::from_slice(&stored.json).map_err(|e| text(&e))?;
                let accepted = self.restored_pod(pod, &stored.source)?;
                self.desired.offer(accepted).map_err(|e| text(&e))?;
            }
            ObjectKind::ConfigMap => {
                let map = serde_json::from_slice(&stored.json).map_err(|e| text(&e))?;
                self.restore_data(Object::ConfigMap(Box::new(map)), &stored.source)?;
            }
            ObjectKind::Secret => {
                let secret = serde_json::from_slice(&stored.json).map_err(|e| text(&e))?;
                self.restore_data(Object::Secret(Box::new(secret)), &stored.source)?;
            }
            ObjectKind::Service => {
                let service = serde_json::from_slice(&stored.json).map_err(|e| text(&e))?;
                self.restore_data(Object::Service(Box::new(service)), &stored.source)?;
            }
            ObjectKind::NetworkPolicy => {
                let policy = serde_json::from_slice(&stored.json).map_err(|e| text(&e))?;
                self.restore_data(Object::NetworkPolicy(Box::new(policy)), &stored.source)?;
            }
        }
        Ok(())
    }

    fn restored_pod(
        &self,
        mut pod: k8s_openapi::api::core::v1::Pod,
        source: &Source,
    ) -> Result<Accepted, String> {
        manifest::default::pod(&mut pod);
        // The node may have been given another name since; its pods stay its pods.
        if let Some(spec) = &mut pod.spec {
            spec.node_name = None;
        }
        let uid = pod.metadata.uid.clone().ok_or("it has no uid")?;
        let node_name = &self.node.node.name;
        let (accepted, _warnings) =
            pod_offer(pod, PodUid::new(&uid), source, node_name).map_err(|errors| join(&errors))?;
        Ok(accepted)
    }

    fn restore_data(&mut self, object: Object, source: &Source) -> Result<(), String> {
        let node_name = self.node.node.name.clone();
        match offer(object, source, &node_name).map_err(|errors| join(&errors))? {
            (Offer::Data(object), _warnings) => {
                let object = self.assigned(object).map_err(|errors| join(&errors))?;
                self.take_data(object, source);
            }
            (Offer::Pod(_), _) => return Err("it is a pod".to_owned()),
        }
        Ok(())
    }
}

fn join(errors: &[manifest::FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
