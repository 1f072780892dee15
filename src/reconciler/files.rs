//! Taking in the folder's snapshots and `play`'s files.
//!
//! Owns: what a changed, removed or broken file means for the pods that came from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ObjectReference;
use tracing::{info, warn};

use super::desired::Offered as Taken;
use super::handle::Refusal;
use super::intake::{Offer, Offered};
use super::task::NodeTask;
use crate::board::{EventDraft, Kind, Object, ObjectKey};
use crate::limits::{DATA_OBJECTS_MAX, PODS_MAX};
use crate::spec::{PodKey, Source};

/// Why an object that does not run is not taken when there are [`DATA_OBJECTS_MAX`].
pub(super) const NO_ROOM: &str =
    "the node has as many ConfigMaps, Secrets, Services and NetworkPolicies as it can take";

/// What is said of a file that names what comes from another one.
fn twice(key: &ObjectKey, file: &Path) -> String {
    let (kind, namespace, name) = (key.kind.as_str(), &key.namespace, &key.name);
    let file = file.display();
    format!("{kind} {namespace}/{name} is named by two files; the one of {file} is used")
}

fn from_folder(source: &Source) -> bool {
    matches!(source, Source::Folder(_))
}

/// The reason of an event about a manifest that is not taken, as the kubelet has it.
const FAILED_VALIDATION: &str = "FailedValidation";

impl NodeTask {
    /// Takes in a snapshot of the folder. A file that is broken now keeps what it last said: a slip of the editor must not
    /// stop a running pod.
    pub(super) fn folder(&mut self, offered: Vec<Offered>) {
        let present: BTreeSet<_> = offered.iter().map(|file| file.path.clone()).collect();
        self.last_good.retain(|path, _| present.contains(path));
        self.reported.retain(|path, _| present.contains(path));
        for file in offered {
            self.report(&file);
            if let Ok(offers) = file.result {
                self.last_good.insert(file.path, offers);
            }
        }
        self.take_folder();
    }

    /// Makes the folder's objects those of the last good readings of its files. Also called when a name may have come free
    /// that the folder was refused before.
    pub(super) fn take_folder(&mut self) {
        let readings = std::mem::take(&mut self.last_good);
        let files = self.choose(&readings);
        // First what goes: it may make room for what comes.
        self.drop_unnamed(&files);
        let mut refused = BTreeSet::new();
        for (path, offers) in &readings {
            let source = Source::Folder(path.clone());
            for offer in offers {
                let key = offer.key();
                let taken = match files.get(&key) {
                    Some(file) if *file != path => Err(twice(&key, file)),
                    Some(_) | None => self.take(offer.clone(), &source),
                };
                if let Err(problem) = taken {
                    refused.insert((source.to_string(), problem));
                }
            }
        }
        self.last_good = readings;
        for (source, problem) in refused.difference(&self.refused) {
            self.complain(source, problem);
        }
        self.refused = refused;
    }

    /// Which file gives each object: the one that it comes from already as long as it names it, else the first by name.
    /// So a second file that names a pod does not stop it, and one that was renamed takes its pod along.
    fn choose<'a>(
        &self,
        readings: &'a BTreeMap<PathBuf, Vec<Offer>>,
    ) -> BTreeMap<ObjectKey, &'a Path> {
        let mut files = BTreeMap::new();
        for (path, offers) in readings {
            for offer in offers {
                let key = offer.key();
                let owner = match offer {
                    Offer::Pod(accepted) => self.desired.owner(&accepted.pod.key),
                    Offer::Data(_) => self.data_owners.get(&key),
                };
                let has_it = matches!(owner, Some(Source::Folder(owner)) if owner == path);
                if has_it || !files.contains_key(&key) {
                    files.insert(key, path.as_path());
                }
            }
        }
        files
    }

    /// Takes the objects of `play`'s files.
    pub(super) fn play(&mut self, offered: Vec<Offered>) -> Result<(), Refusal> {
        for file in offered {
            let source = Source::Play(file.path.clone());
            let offers = file.result.map_err(|problems| {
                Refusal::Forbidden(format!("{}: {}", file.path.display(), problems.join("; ")))
            })?;
            for offer in offers {
                match offer {
                    Offer::Pod(accepted) => {
                        let twice = || Refusal::AlreadyExists;
                        match self.desired.offer(accepted)? {
                            Taken::Added => {}
                            Taken::Unchanged | Taken::Replaces => return Err(twice()),
                        }
                    }
                    Offer::Data(object) => {
                        let object = self.assigned(object).map_err(Refusal::Invalid)?;
                        self.take_data(object, &source);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes one object of the folder; why not, if another source owns its name or the node is full.
    fn take(&mut self, offer: Offer, source: &Source) -> Result<(), String> {
        match offer {
            Offer::Pod(accepted) => {
                let key = accepted.pod.key.clone();
                if self.desired.len() >= PODS_MAX && self.desired.get(&key).is_none() {
                    return Err(format!(
                        "pod {key} is not used: the node has {PODS_MAX} pods, and takes no more"
                    ));
                }
                let taken = self.desired.offer(accepted).map_err(|e| e.to_string())?;
                if taken != Taken::Unchanged {
                    info!(pod = %key, %source, ?taken, "manifest accepted");
                }
                Ok(())
            }
            Offer::Data(object) => {
                let key = object.key();
                if let Some(owner) = self.data_owners.get(&key).filter(|o| !from_folder(o)) {
                    let (kind, namespace, name) = (key.kind.as_str(), &key.namespace, &key.name);
                    return Err(format!(
                        "SourceConflict: {kind} {namespace}/{name} already comes from {owner}; it \
                         stays"
                    ));
                }
                if self.has_no_room_for(&key) {
                    return Err(format!(
                        "{} {}/{}: {NO_ROOM}",
                        key.kind.as_str(),
                        key.namespace,
                        key.name
                    ));
                }
                let object = self.assigned(object).map_err(|errors| {
                    let (kind, name) = (key.kind.as_str(), key.name.as_ref());
                    crate::manifest::invalid(kind, name, &errors)
                })?;
                self.take_data(object, source);
                Ok(())
            }
        }
    }

    /// Whether an object of that name would be one too many of those that do not run.
    pub(super) fn has_no_room_for(&self, key: &ObjectKey) -> bool {
        self.data_owners.len() >= DATA_OBJECTS_MAX && !self.data_owners.contains_key(key)
    }

    pub(super) fn take_data(&mut self, mut object: Object, source: &Source) {
        let key = object.key();
        let now = crate::board::wire_time(self.node.clock.now().wall_ms());
        let old = self.board().get(&key);
        let old = old.as_ref().map(Object::metadata);
        let before = old.and_then(|m| m.resource_version.clone());
        let meta = object.metadata_mut();
        // What the API made says when, also after a restart; what a file says of it is of another cluster.
        let born = meta.creation_timestamp.take().filter(|_| *source == Source::Api);
        let known = old.and_then(|m| m.creation_timestamp.clone());
        meta.creation_timestamp = known.or(born).or(Some(now));
        if meta.uid.is_none() {
            let fresh = || uuid::Uuid::new_v4().to_string();
            meta.uid = old.and_then(|m| m.uid.clone()).or_else(|| Some(fresh()));
        }
        self.data_owners.insert(key.clone(), source.clone());
        let after = self.board().upsert(object);
        if after.metadata().resource_version != before {
            self.changed(&key);
        }
    }

    /// Forgets an object that does not run; returns its last version.
    pub(super) fn drop_data(&mut self, key: &ObjectKey) -> Option<Object> {
        self.data_owners.remove(key);
        let removed = self.board().remove(key, None);
        self.changed(key);
        removed
    }

    /// Tells those who live by an object that does not run that it is another now, or gone.
    fn changed(&self, key: &ObjectKey) {
        match key.kind {
            Kind::ConfigMap | Kind::Secret => self.data_changed(&key.namespace),
            Kind::Service | Kind::NetworkPolicy => self.network_changed(key),
            Kind::Endpoints
            | Kind::EndpointSlice
            | Kind::Event
            | Kind::Namespace
            | Kind::Node
            | Kind::Pod => {}
        }
    }

    /// Ends the folder's pods, and removes its objects, that no file names any more.
    fn drop_unnamed(&mut self, named: &BTreeMap<ObjectKey, &Path>) {
        let pod_key = |key: &PodKey| ObjectKey::new(Kind::Pod, &key.namespace, &key.name);
        for (key, source) in self.desired.owned_by(from_folder) {
            if !named.contains_key(&pod_key(&key)) {
                info!(pod = %key, %source, "manifest removed");
                self.desired.delete(&key, &source, None);
            }
        }
        let gone: Vec<ObjectKey> = self
            .data_owners
            .iter()
            .filter(|(key, owner)| from_folder(owner) && !named.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.drop_data(&key);
        }
    }

    /// Says what is wrong or odd with a file, once for each change of it: a snapshot repeats the files that did not change.
    fn report(&mut self, file: &Offered) {
        let problems = file.result.as_ref().err().into_iter().flatten();
        let said: Vec<String> = file.warnings.iter().chain(problems).cloned().collect();
        if self.reported.get(&file.path).is_some_and(|before| *before == said) {
            return;
        }
        for text in &file.warnings {
            self.say("ManifestWarning", text);
        }
        for text in &said[file.warnings.len()..] {
            self.say(FAILED_VALIDATION, text);
        }
        self.reported.insert(file.path.clone(), said);
    }

    /// Says what is wrong with what a source offers.
    fn complain(&self, source: &str, problem: &str) {
        self.say(FAILED_VALIDATION, &format!("{source}: {problem}"));
    }

    /// A manifest has no object to hang an Event on, so its troubles are events of the node.
    fn say(&self, reason: &str, text: &str) {
        warn!("{text}");
        let draft = EventDraft {
            involved: ObjectReference {
                kind: Some("Node".into()),
                name: Some(self.node.node.name.clone()),
                ..ObjectReference::default()
            },
            warning: true,
            reason: reason.into(),
            message: text.to_owned(),
            component: "podling".into(),
            host: self.node.node.name.clone(),
        };
        self.board().record(&draft, self.node.clock.now());
    }
}
