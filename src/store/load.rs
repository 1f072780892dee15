//! Reads every record, once, when the store is opened.
//!
//! Owns: which folders there are to read, what a damaged record costs, and making durable what a killed process left
//! visible only. Not: a record's two copies (`slots`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::spec::{PodUid, Source};

use super::record::Label;
use super::slots::{self, Denied, Found, Metered, Slots};
use super::{
    Damage, Loaded, MQTT, NODE, ObjectKind, OpenError, Place, RUNTIME, RecordKey, Records,
    StoredMqtt, StoredObject, StoredRuntime,
};

/// One folder of records.
#[derive(Clone, Copy, Debug)]
enum Folder {
    Objects(ObjectKind),
    Runtime,
    Mqtt,
    Node,
}

impl Folder {
    fn all() -> impl Iterator<Item = Self> {
        let others = [Self::Runtime, Self::Mqtt, Self::Node];
        ObjectKind::ALL.into_iter().map(Self::Objects).chain(others)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Objects(kind) => kind.folder(),
            Self::Runtime => RUNTIME.0,
            Self::Mqtt => MQTT.0,
            Self::Node => NODE.0,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Objects(kind) => kind.as_str(),
            Self::Runtime => RUNTIME.1,
            Self::Mqtt => MQTT.1,
            Self::Node => NODE.1,
        }
    }
}

impl Folder {
    /// The key that a label in this folder belongs to.
    fn key(self, label: &Label) -> RecordKey {
        match self {
            Self::Objects(kind) => RecordKey::object(kind, &label.namespace, &label.name),
            Self::Runtime => RecordKey::Runtime(PodUid::new(&label.name)),
            Self::Mqtt => RecordKey::Mqtt(label.name.clone()),
            Self::Node => RecordKey::Node(label.name.clone()),
        }
    }
}

/// Reading everything, once.
pub(super) struct Opening<'a> {
    io: &'a Metered,
    dir: &'a Path,
    pub(super) loaded: Loaded,
    pub(super) damage: Vec<Damage>,
}

impl<'a> Opening<'a> {
    pub(super) fn new(io: &'a Metered, dir: &'a Path) -> Self {
        Self { io, dir, loaded: Loaded::default(), damage: Vec::new() }
    }

    pub(super) fn run(&mut self) -> Result<Records, OpenError> {
        let dir = self.dir;
        let prepare = |cause| OpenError::Prepare { dir: dir.to_owned(), cause };
        for folder in Folder::all() {
            self.io.disk().create_dir(&dir.join(folder.name())).map_err(prepare)?;
        }
        // Also when they were there: a process killed at this very place may have made them.
        self.io.sync_dir(dir).map_err(prepare)?;
        let mut records = BTreeMap::new();
        for folder in Folder::all() {
            self.read_folder(folder, &mut records)?;
        }
        Ok(records)
    }

    fn read_folder(&mut self, folder: Folder, records: &mut Records) -> Result<(), OpenError> {
        let dir = self.dir.join(folder.name());
        let prepare = |cause| OpenError::Prepare { dir: dir.clone(), cause };
        let names = self.io.disk().list(&dir).map_err(prepare)?;
        for leftover in names.iter().filter(|name| Slots::is_leftover(name)) {
            // Harmless where it is, and the next commit of that record writes over it.
            let _ = self.io.disk().remove(&dir.join(leftover));
        }
        let stems: BTreeSet<&str> = names.iter().filter_map(|name| Slots::stem_of(name)).collect();
        for stem in stems {
            self.read_record(folder, &dir, stem, records)?;
        }
        // A process that was killed between rename and sync left names that are visible but not durable. They are
        // about to be acted upon, so they have to last. Costs nothing when there is nothing to write.
        self.io.sync_dir(&dir).map_err(prepare)
    }

    fn read_record(
        &mut self,
        folder: Folder,
        dir: &Path,
        stem: &str,
        records: &mut Records,
    ) -> Result<(), OpenError> {
        let accept = |label: &Label| {
            let key = folder.key(label);
            if label.kind == folder.kind() && key.place().stem == stem {
                Ok(())
            } else {
                Err(format!("is the record of {} {key}, not of this name", label.kind))
            }
        };
        let Found { mut slots, newest, bad, denied } =
            Slots::load(self.io.disk(), dir, stem, accept);
        if let Some(Denied { path, cause }) = denied {
            // It is not known what was accepted: better not to start than to take it for lost.
            return Err(OpenError::Denied { file: path, cause });
        }
        let mut all_gone = true;
        for copy in bad {
            let quarantined = slots::quarantine(self.io, self.dir, folder.name(), &copy.path);
            all_gone &= quarantined.is_ok();
            self.damage.push(Damage {
                file: copy.path,
                fault: copy.fault,
                recovered_generation: newest.as_ref().map(|copy| copy.label.generation),
                quarantined: quarantined.ok().flatten(),
            });
        }
        if all_gone {
            slots.bad_copies_are_gone();
        }
        if !slots.is_absent() {
            let place = Place { folder: folder.name(), stem: stem.to_owned() };
            records.insert(place, Arc::new(Mutex::new(slots)));
        }
        if let Some(copy) = newest {
            self.take(folder, copy);
        }
        Ok(())
    }

    fn take(&mut self, folder: Folder, copy: slots::Copy) {
        match folder {
            Folder::Objects(kind) => self.loaded.objects.push(StoredObject {
                kind,
                namespace: copy.label.namespace,
                name: copy.label.name,
                // A record without a source was made by hand; what the API may change, a person may.
                source: copy.label.source.map_or(Source::Api, Source::from),
                json: copy.payload,
                generation: copy.label.generation,
            }),
            Folder::Runtime => self
                .loaded
                .runtime
                .push(StoredRuntime { uid: PodUid::new(&copy.label.name), json: copy.payload }),
            Folder::Mqtt => {
                let (name, content) = (copy.label.name, copy.payload);
                self.loaded.mqtt.push(StoredMqtt { name, content });
            }
            Folder::Node => {
                self.loaded.node.insert(copy.label.name, copy.payload);
            }
        }
    }
}
