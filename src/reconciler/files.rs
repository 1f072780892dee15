//! Taking in the folder's snapshots and `play`'s files.
//!
//! Owns: what a changed, removed or broken file means for the pods that came from it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ObjectReference;
use tracing::{info, warn};

use super::desired::Offered as Taken;
use super::handle::Refusal;
use super::intake::{Offer, Offered};
use super::task::NodeTask;
use crate::board::{EventDraft, Object, ObjectKey};
use crate::spec::{PodKey, Source};

fn from_folder(source: &Source) -> bool {
    matches!(source, Source::Folder(_))
}

impl NodeTask {
    /// Makes the folder's pods those of this snapshot. A file that is broken now keeps what it last said: a slip of the
    /// editor must not stop a running pod.
    pub(super) fn folder(&mut self, offered: Vec<Offered>) {
        let present: BTreeSet<_> = offered.iter().map(|file| file.path.clone()).collect();
        self.last_good.retain(|path, _| present.contains(path));
        self.reported.retain(|path, _| present.contains(path));
        let mut named = BTreeSet::new();
        for file in offered {
            let source = Source::Folder(file.path.clone());
            self.report(&file);
            if let Ok(offers) = &file.result {
                self.last_good.insert(file.path.clone(), offers.clone());
            }
            let offers = self.last_good.get(&file.path).cloned().unwrap_or_default();
            for offer in offers {
                let key = offer.key();
                // Two files of one folder that name the same object: the first, by file name, keeps it.
                if named.contains(&key) {
                    let text = format!(
                        "{} {}/{} is named by two files",
                        key.kind.as_str(),
                        key.namespace,
                        key.name
                    );
                    self.complain(&file.path.display().to_string(), &text);
                    continue;
                }
                if self.take(offer, &source) {
                    named.insert(key);
                }
            }
        }
        self.drop_unnamed(&named);
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
                    Offer::Data(object) => self.take_data(object, &source),
                }
            }
        }
        Ok(())
    }

    /// Takes one object of a folder; false if another source owns its name.
    fn take(&mut self, offer: Offer, source: &Source) -> bool {
        match offer {
            Offer::Pod(accepted) => {
                let key = accepted.pod.key.clone();
                match self.desired.offer(accepted) {
                    Ok(Taken::Unchanged) => true,
                    Ok(taken) => {
                        info!(pod = %key, %source, ?taken, "manifest accepted");
                        true
                    }
                    // The same file with an edited pod has the same owner; another file has not.
                    Err(conflict) if from_folder(&conflict.owner) => {
                        self.complain(&source.to_string(), &conflict.to_string());
                        false
                    }
                    Err(conflict) => {
                        self.complain(&source.to_string(), &conflict.to_string());
                        false
                    }
                }
            }
            Offer::Data(object) => {
                let key = object.key();
                match self.data_owners.get(&key) {
                    Some(owner) if !from_folder(owner) => {
                        let text = format!(
                            "SourceConflict: {} {}/{} already comes from {owner}; it stays",
                            key.kind.as_str(),
                            key.namespace,
                            key.name
                        );
                        self.complain(&source.to_string(), &text);
                        false
                    }
                    Some(_) | None => {
                        self.take_data(object, source);
                        true
                    }
                }
            }
        }
    }

    pub(super) fn take_data(&mut self, mut object: Object, source: &Source) {
        let key = object.key();
        let now = crate::board::wire_time(self.node.clock.now().wall_ms());
        let old = self.board().get(&key);
        let old = old.as_ref().map(Object::metadata);
        let meta = object.metadata_mut();
        meta.creation_timestamp = old.and_then(|m| m.creation_timestamp.clone()).or(Some(now));
        if meta.uid.is_none() {
            let fresh = || uuid::Uuid::new_v4().to_string();
            meta.uid = old.and_then(|m| m.uid.clone()).or_else(|| Some(fresh()));
        }
        self.data_owners.insert(key.clone(), source.clone());
        self.board().upsert(object);
        self.data_changed(&key.namespace);
    }

    /// Ends the folder's pods, and removes its objects, that no file names any more.
    fn drop_unnamed(&mut self, named: &BTreeSet<ObjectKey>) {
        let pod_key =
            |key: &PodKey| ObjectKey::new(crate::board::Kind::Pod, &key.namespace, &key.name);
        for key in self.desired.owned_by(from_folder) {
            if !named.contains(&pod_key(&key)) {
                info!(pod = %key, "manifest removed");
                self.desired.delete(&key, None);
            }
        }
        let gone: Vec<ObjectKey> = self
            .data_owners
            .iter()
            .filter(|(key, owner)| from_folder(owner) && !named.contains(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.data_owners.remove(&key);
            self.board().remove(&key, None);
            self.data_changed(&key.namespace);
        }
    }

    /// Says what is wrong or odd with a file, once for each change of it: a snapshot repeats the files that did not change.
    fn report(&mut self, file: &Offered) {
        let problems = file.result.as_ref().err().into_iter().flatten();
        let said: Vec<String> = file.warnings.iter().chain(problems).cloned().collect();
        if self.reported.get(&file.path).is_some_and(|before| *before == said) {
            return;
        }
        for text in &said {
            self.say(text);
        }
        self.reported.insert(file.path.clone(), said);
    }

    /// Says what is wrong with what a source offers.
    fn complain(&self, source: &str, problem: &str) {
        self.say(&format!("{source}: {problem}"));
    }

    /// A manifest has no object to hang an Event on, so its troubles are events of the node.
    fn say(&self, text: &str) {
        warn!("{text}");
        let draft = EventDraft {
            involved: ObjectReference {
                kind: Some("Node".into()),
                name: Some(self.node.node.name.clone()),
                ..ObjectReference::default()
            },
            warning: true,
            reason: "FailedValidation".into(),
            message: text.to_owned(),
            component: "podling".into(),
            host: self.node.node.name.clone(),
        };
        self.board().record(&draft, self.node.clock.now());
    }
}
