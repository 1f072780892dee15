//! What the node must still know after a power cut: accepted objects, and restart counts.
//!
//! Owns: which records there are, their folders, and what happens to damaged ones. Not: what an object means (the caller's
//! JSON is kept byte for byte), nor whether it may be accepted. Everything is durable when the call returns, so
//! that the caller may acknowledge and act.
//!
//! ```text
//!  STATE/lock                              one daemon per state folder
//!  STATE/pods/NAMESPACE.NAME.{a,b}         one record, two slots (see `slots`), each a sealed file (see `record`)
//!  STATE/configmaps/…  STATE/secrets/…  STATE/services/…  STATE/networkpolicies/…
//!  STATE/runtime/UID.{a,b}                 restart counts and back-off of one pod
//!  STATE/mqtt/NAME.{a,b}                   what the MQTT source keeps: `node`, `trust`, `pod.NAMESPACE.NAME`
//!  STATE/node/NAME.{a,b}                   what the node itself must know: `versions`
//!  STATE/.corrupt/…                        files that could not be read, for a person to look at
//! ```
//!
//! One damaged record costs one object: the older copy is used if it is good, the bad file moves to `.corrupt`, and a
//! [`Damage`] says so. Nothing is written while nothing changes, and identical content is not written again.
//!
//! Costs: a commit 2 fsync, a removal at most 2. Blocking: call through `spawn_blocking`. Different records are
//! written side by side, so that the file system can gather their fsyncs.

pub mod disk;
mod load;
pub mod lock;
pub mod record;
pub mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::spec::{PodUid, Source};

use disk::{Disk, RealDisk};
use load::Opening;
use lock::{Lock, LockError};
use record::{Label, SourceLabel, file_name};
use slots::{Metered, Slots};

pub use slots::{Commit, Written};

/// Kinds of object that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    Pod,
    ConfigMap,
    Secret,
    Service,
    NetworkPolicy,
}

impl ObjectKind {
    /// Every kind; pods last, since they refer to the others, and policy is to be in force before any of them runs.
    pub const ALL: [Self; 5] =
        [Self::ConfigMap, Self::Secret, Self::Service, Self::NetworkPolicy, Self::Pod];

    /// Kubernetes' word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::Service => "services",
            Self::NetworkPolicy => "networkpolicies",
        }
    }
}

/// An object as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
    pub source: Source,
    /// Byte for byte what was committed.
    pub json: Vec<u8>,
    /// How often this record was committed (not `metadata.generation`).
    pub generation: u64,
}

/// Run-time facts of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRuntime {
    pub uid: PodUid,
    pub json: Vec<u8>,
}

/// A record of the MQTT source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMqtt {
    pub name: String,
    pub content: Vec<u8>,
}

/// Everything that was on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub objects: Vec<StoredObject>,
    pub runtime: Vec<StoredRuntime>,
    pub mqtt: Vec<StoredMqtt>,
    /// The node's own, by name.
    pub node: BTreeMap<String, Vec<u8>>,
}

/// A file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Fits after the file's name: "does not match its checksum".
    pub fault: String,
    /// The older generation that is used instead; `None`: the object is lost.
    pub recovered_generation: Option<u64>,
    /// Where the file is now; `None`: it could not be moved.
    pub quarantined: Option<PathBuf>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} {}", self.file.display(), self.fault)?;
        match self.recovered_generation {
            Some(generation) => write!(f, "; its copy of generation {generation} is used")?,
            None => f.write_str("; no good copy is left")?,
        }
        match &self.quarantined {
            Some(path) => write!(f, "; moved to {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Why the state folder cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("state folder {} is in use by {}", dir.display(), holder(*pid))]
    InUse { dir: PathBuf, pid: Option<u32> },
    #[error("cannot prepare state folder {}", dir.display())]
    Prepare {
        dir: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "cannot read the record {}: nothing is started, since what was accepted is not known. All files of that folder must belong to \
         the user that runs podling (chown -R)",
        file.display()
    )]
    Denied {
        file: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot lock state folder {}", dir.display())]
    Lock {
        dir: PathBuf,
        #[source]
        cause: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A commit that is not known to be durable: after a reboot there is the old record or the new one, never a torn one.
/// Calling again makes it certain.
#[derive(Debug, Error)]
#[error("cannot store {subject}")]
pub struct CommitError {
    pub subject: String,
    #[source]
    pub cause: io::Error,
}

/// A removal that is not known to be durable: after a reboot the record is there as it was, or gone.
#[derive(Debug, Error)]
#[error("cannot remove {subject} from the store")]
pub struct DeleteError {
    pub subject: String,
    #[source]
    pub cause: io::Error,
}

/// The records of one state folder.
#[derive(Debug)]
pub struct Store {
    io: Metered,
    dir: PathBuf,
    records: Mutex<Records>,
    _lock: Option<Lock>,
}

/// Every record that is, or may be, on disk.
type Records = BTreeMap<Place, Arc<Mutex<Slots>>>;

/// Where a record is: its folder and the stem of its files' names. Also known where a label cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    folder: &'static str,
    stem: String,
}

impl Store {
    /// Locks the folder, makes what is missing, and reads everything.
    ///
    /// # Errors
    ///
    /// Another process has the folder, or it cannot be made, read or locked. Damaged records are no error.
    pub fn open(dir: &Path) -> Result<(Self, Loaded, Vec<Damage>), OpenError> {
        let prepare = |cause| OpenError::Prepare { dir: dir.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(prepare)?;
        if let Some(parent) = dir.parent() {
            // Best effort: a folder made by the package or the init system may have a parent that we cannot open.
            let _ = RealDisk.sync_dir(parent);
        }
        let lock = Lock::take(&dir.join("lock")).map_err(|error| match error {
            LockError::Held(pid) => OpenError::InUse { dir: dir.to_owned(), pid },
            LockError::Io(cause) => OpenError::Lock { dir: dir.to_owned(), cause },
        })?;
        let (mut store, loaded, damage) = Self::open_on(Arc::new(RealDisk), dir)?;
        store._lock = Some(lock);
        Ok((store, loaded, damage))
    }

    /// As [`Store::open`] on any disk, without the lock.
    ///
    /// # Errors
    ///
    /// The folders cannot be made, listed or synced, or this process may not read a record.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
    ) -> Result<(Self, Loaded, Vec<Damage>), OpenError> {
        let io = Metered::new(disk);
        let mut opening = Opening::new(&io, dir);
        let records = opening.run()?;
        let Opening { loaded, damage, .. } = opening;
        let store = Self { io, dir: dir.to_owned(), records: Mutex::new(records), _lock: None };
        Ok((store, loaded, damage))
    }

    /// Makes an object durable, with who asked for it.
    ///
    /// # Errors
    ///
    /// The disk refused. See [`CommitError`] for what is on it then.
    pub fn commit_object(
        &self,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
        source: &Source,
        json: &[u8],
    ) -> Result<Commit, CommitError> {
        let key = RecordKey::object(kind, namespace, name);
        let label = key.label(Some(SourceLabel::from(source)));
        self.commit(key, label, json)
    }

    /// Takes an object off the disk, durably; works on a full disk. `false` if it was not there.
    ///
    /// # Errors
    ///
    /// The disk refused. See [`DeleteError`].
    pub fn delete_object(
        &self,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
    ) -> Result<bool, DeleteError> {
        self.delete(RecordKey::object(kind, namespace, name))
    }

    /// Makes the restart counts and back-off of a pod durable.
    ///
    /// # Errors
    ///
    /// As [`Store::commit_object`].
    pub fn commit_runtime(&self, uid: &PodUid, json: &[u8]) -> Result<Commit, CommitError> {
        let key = RecordKey::Runtime(uid.clone());
        let label = key.label(None);
        self.commit(key, label, json)
    }

    /// Forgets the restart counts and back-off of a pod.
    ///
    /// # Errors
    ///
    /// As [`Store::delete_object`].
    pub fn delete_runtime(&self, uid: &PodUid) -> Result<bool, DeleteError> {
        self.delete(RecordKey::Runtime(uid.clone()))
    }

    /// Makes a record of the MQTT source durable, under a name that the source chose.
    ///
    /// # Errors
    ///
    /// As [`Store::commit_object`].
    pub fn commit_mqtt(&self, name: &str, content: &[u8]) -> Result<Commit, CommitError> {
        let key = RecordKey::Mqtt(name.to_owned());
        let label = key.label(None);
        self.commit(key, label, content)
    }

    /// Removes a record of the MQTT source, durably; works on a full disk.
    ///
    /// # Errors
    ///
    /// As [`Store::delete_object`].
    pub fn delete_mqtt(&self, name: &str) -> Result<bool, DeleteError> {
        self.delete(RecordKey::Mqtt(name.to_owned()))
    }

    /// Makes a record of the node itself durable.
    ///
    /// # Errors
    ///
    /// As [`Store::commit_object`].
    pub fn commit_node(&self, name: &'static str, content: &[u8]) -> Result<Commit, CommitError> {
        let key = RecordKey::Node(name.to_owned());
        let label = key.label(None);
        self.commit(key, label, content)
    }

    /// What was written since the start.
    #[must_use]
    pub fn written(&self) -> Written {
        self.io.written()
    }

    fn commit(&self, key: RecordKey, label: Label, json: &[u8]) -> Result<Commit, CommitError> {
        let slots = self.slots(&key);
        let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .commit(&self.io, label, json)
            .map_err(|cause| CommitError { subject: key.to_string(), cause })
    }

    fn delete(&self, key: RecordKey) -> Result<bool, DeleteError> {
        let place = key.place();
        let Some(slots) = self.records().get(&place).cloned() else { return Ok(false) };
        let removed = slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.io)
            .map_err(|cause| DeleteError { subject: key.to_string(), cause })?;
        drop(slots);
        self.forget_if_absent(&place);
        Ok(removed)
    }

    /// Drops the entry of a removed record, unless somebody is about to commit it anew.
    fn forget_if_absent(&self, place: &Place) {
        let mut records = self.records();
        // Entries are handed out under the lock held here, so a count of one means that nobody waits for it.
        let idle = records.get(place).is_some_and(|entry| {
            Arc::strong_count(entry) == 1
                && entry.lock().unwrap_or_else(PoisonError::into_inner).is_absent()
        });
        if idle {
            records.remove(place);
        }
    }

    fn slots(&self, key: &RecordKey) -> Arc<Mutex<Slots>> {
        let place = key.place();
        let absent = Slots::absent(&self.dir.join(place.folder), &place.stem);
        let mut records = self.records();
        Arc::clone(records.entry(place).or_insert_with(|| Arc::new(Mutex::new(absent))))
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names one record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RecordKey {
    Object { kind: ObjectKind, namespace: String, name: String },
    Runtime(PodUid),
    Mqtt(String),
    Node(String),
}

/// The folder and the label's `kind` of runtime records.
const RUNTIME: (&str, &str) = ("runtime", "Runtime");

/// The same of the MQTT source's.
const MQTT: (&str, &str) = ("mqtt", "Mqtt");

/// The same of the node's own.
const NODE: (&str, &str) = ("node", "Node");

impl RecordKey {
    fn object(kind: ObjectKind, namespace: &str, name: &str) -> Self {
        Self::Object { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A namespace holds no dot, so that the first dot parts it from the name.
    fn place(&self) -> Place {
        match self {
            Self::Object { kind, namespace, name } => {
                Place { folder: kind.folder(), stem: file_name(&format!("{namespace}.{name}")) }
            }
            Self::Runtime(uid) => Place { folder: RUNTIME.0, stem: file_name(uid.as_str()) },
            Self::Mqtt(name) => Place { folder: MQTT.0, stem: file_name(name) },
            Self::Node(name) => Place { folder: NODE.0, stem: file_name(name) },
        }
    }

    fn label(&self, source: Option<SourceLabel>) -> Label {
        let (kind, namespace, name) = match self {
            Self::Object { kind, namespace, name } => {
                (kind.as_str(), namespace.clone(), name.clone())
            }
            Self::Runtime(uid) => (RUNTIME.1, String::new(), uid.as_str().to_owned()),
            Self::Mqtt(name) => (MQTT.1, String::new(), name.clone()),
            Self::Node(name) => (NODE.1, String::new(), name.clone()),
        };
        Label { generation: 0, kind: kind.to_owned(), namespace, name, source }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { kind, namespace, name } => {
                write!(f, "{} {namespace}/{name}", kind.as_str())
            }
            Self::Runtime(uid) => write!(f, "the restart counts of pod {uid}"),
            Self::Mqtt(name) => write!(f, "the MQTT record {name}"),
            Self::Node(name) => write!(f, "the node's record {name}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod unlucky;

#[cfg(test)]
mod tests;
