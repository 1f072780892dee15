//! The node's view of all objects: what an API server's storage is to a cluster.
//!
//! Owns: the current version of every object of the kinds in [`Kind`], one version counter over
//! all of them, a bounded history for watchers, and the recording of Events. Not: durability (`store` has that: the
//! board is rebuilt at start), nor any decision about pods. Everything is in memory.
//!
//! ```text
//!  reconciler, workers ── upsert / remove / record ──► Board ── get / list ──────────► server, publishers
//!                                                        └── history (bounded) ──────► Watch (a cursor)
//! ```
//!
//! Every method returns at once and may be called from any thread. Versions (`metadata.resourceVersion`) only grow;
//! an upsert that changes nothing makes no version and wakes nobody. Namespaces are derived: those that an object is in,
//! and `default`.
//!
//! Limits: `history::CHANGES_MAX`, `history::CHANGES_WEIGHT_MAX`, `limits::EVENTS_MAX`. How many pods and ConfigMaps
//! there may be is for whoever accepts them.

pub mod events;
mod history;
pub mod logs;
mod object;
pub mod selector;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, NamespaceStatus, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff;

use crate::clock::Timestamp;
use crate::spec::{PodKey, PodUid};

pub use events::EventDraft;
pub use history::{CHANGES_MAX, Expired};
pub use object::{Kind, Object, ObjectKey};
pub use selector::Query;
pub use watch::{Watch, WatchEvent, WatchEventType};

use history::{Change, History};

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Handle on the node's objects. Cheap to clone; all clones are the same board.
#[derive(Clone)]
pub struct Board {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// The newest version; watchers sleep on it.
    newest: tokio::sync::watch::Sender<u64>,
}

struct State {
    objects: BTreeMap<ObjectKey, Object>,
    /// How many objects, Events apart, are in each namespace.
    namespaces: BTreeMap<Arc<str>, usize>,
    history: History,
    version: u64,
    recorder: events::Recorder,
    born: Time,
}

/// A consistent list of objects.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Sorted by namespace and name.
    pub items: Vec<Object>,
    /// The board's version at that moment: a watch from here misses nothing.
    pub version: u64,
}

impl Board {
    /// An empty board. Versions begin after `first_version`; a daemon passes something larger than any version of its
    /// previous lives, so that a client's old version is told from a new one. `born` is the creation time of the `default` namespace.
    #[must_use]
    pub fn new(first_version: u64, born: Timestamp) -> Self {
        let (newest, _) = tokio::sync::watch::channel(first_version);
        let mut state = State {
            objects: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            history: History::new(first_version),
            version: first_version,
            recorder: events::Recorder::default(),
            born: wire_time(born.wall_ms()),
        };
        // One use that never ends keeps `default` there.
        state.use_namespace(DEFAULT_NAMESPACE, None);
        Self { inner: Arc::new(Inner { state: Mutex::new(state), newest }) }
    }

    /// Puts an object in place of the one with its kind, namespace and name, and gives it the next version. Returns it
    /// as stored. One that equals what is there changes nothing. One with another UID is a new object: watchers see the
    /// old one deleted.
    pub fn upsert(&self, object: impl Into<Object>) -> Object {
        self.change(|state| state.upsert(object.into()))
    }

    /// [`Board::upsert`] for a pod: the defaulted object with its current status.
    pub fn upsert_pod(&self, pod: Pod) -> Arc<Pod> {
        let Object::Pod(pod) = self.upsert(pod) else { unreachable!("a pod stays a pod") };
        pod
    }

    /// Removes an object; returns its last version. `uid`: only if it is this incarnation.
    pub fn remove(&self, key: &ObjectKey, uid: Option<&str>) -> Option<Object> {
        self.change(|state| state.remove(key, uid))
    }

    /// Removes a pod, if it is still this incarnation.
    pub fn remove_pod(&self, key: &PodKey, uid: Option<&PodUid>) -> Option<Arc<Pod>> {
        let key = ObjectKey::new(Kind::Pod, &key.namespace, &key.name);
        self.remove(&key, uid.map(PodUid::as_str)).and_then(|object| object.as_pod().cloned())
    }

    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Object> {
        self.state().objects.get(key).cloned()
    }

    #[must_use]
    pub fn pod(&self, key: &PodKey) -> Option<Arc<Pod>> {
        let key = ObjectKey::new(Kind::Pod, &key.namespace, &key.name);
        self.get(&key).and_then(|object| object.as_pod().cloned())
    }

    #[must_use]
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        match self.get(&ObjectKey::new(Kind::ConfigMap, namespace, name)) {
            Some(Object::ConfigMap(object)) => Some(object),
            _ => None,
        }
    }

    #[must_use]
    pub fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        match self.get(&ObjectKey::new(Kind::Secret, namespace, name)) {
            Some(Object::Secret(object)) => Some(object),
            _ => None,
        }
    }

    /// The objects that match, sorted by namespace and name.
    #[must_use]
    pub fn list(&self, query: &Query) -> Listing {
        let state = self.state();
        Listing { items: state.select(query), version: state.version }
    }

    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.state().of_kind(kind, "").count()
    }

    /// The version of the newest change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// Follows the objects that match. With `since`: every change after that version, or [`Expired`] if the history does
    /// not reach back to it. Without: first an `ADDED` for each object there is, then every change.
    pub fn watch(&self, query: Query, since: Option<u64>) -> Result<Watch, Expired> {
        Watch::new(Arc::clone(&self.inner), query, since)
    }

    /// Records an Event: counts up an equal one, or adds it (see [`events`]).
    pub fn record(&self, draft: &EventDraft, now: Timestamp) {
        self.change(|state| {
            let recorded = state.recorder.record(draft, now);
            for key in recorded.forgotten {
                state.remove(&key, None);
            }
            state.upsert(Object::from(recorded.event));
        });
    }

    /// Drops the Events that are older than their time to live. Called before Events are listed; nothing else depends
    /// on it.
    pub fn expire_events(&self, now: Timestamp) {
        self.change(|state| {
            for key in state.recorder.expire(now) {
                state.remove(&key, None);
            }
        });
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let (result, version) = {
            let mut state = self.state();
            let result = act(&mut state);
            (result, state.version)
        };
        self.inner.newest.send_if_modified(|newest| {
            let grew = version > *newest;
            *newest = version.max(*newest);
            grew
        });
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }
}

impl Inner {
    /// A panic while the lock was held leaves at worst one half-done change; each is complete before the next begins,
    /// so readers may go on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn upsert(&mut self, mut object: Object) -> Object {
        let key = object.key();
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old {
            let old_meta = old.metadata();
            if let (Some(was), Some(is)) = (&old_meta.uid, &object.metadata().uid)
                && was != is
            {
                self.remove(&key, None);
                return self.upsert(object);
            }
            object.metadata_mut().resource_version.clone_from(&old_meta.resource_version);
            if object == *old {
                return old.clone();
            }
        }
        self.version += 1;
        object.metadata_mut().resource_version = Some(self.version.to_string());
        self.objects.insert(key.clone(), object.clone());
        let is_new = old.is_none();
        self.history.push(Change { version: self.version, old, new: Some(object.clone()) });
        if is_new && counts_for_namespace(key.kind) {
            let since = object.metadata().creation_timestamp.clone();
            self.use_namespace(&key.namespace, since);
        }
        object
    }

    fn remove(&mut self, key: &ObjectKey, uid: Option<&str>) -> Option<Object> {
        let found = self.objects.get(key)?;
        if uid.is_some() && found.metadata().uid.as_deref() != uid {
            return None;
        }
        let mut object = self.objects.remove(key)?;
        self.version += 1;
        // Watchers get the last state with the version of the deletion, as from Kubernetes.
        object.metadata_mut().resource_version = Some(self.version.to_string());
        let change = Change { version: self.version, old: Some(object.clone()), new: None };
        self.history.push(change);
        if counts_for_namespace(key.kind) {
            self.leave_namespace(&key.namespace);
        }
        Some(object)
    }

    fn use_namespace(&mut self, name: &str, since: Option<Time>) {
        let uses = self.namespaces.entry(name.into()).or_insert(0);
        *uses += 1;
        if *uses == 1 {
            let since = since.unwrap_or_else(|| self.born.clone());
            self.upsert(Object::from(namespace(name, since)));
        }
    }

    fn leave_namespace(&mut self, name: &str) {
        let Some(uses) = self.namespaces.get_mut(name) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.namespaces.remove(name);
            self.remove(&ObjectKey::new(Kind::Namespace, "", name), None);
        }
    }

    /// All objects of a kind, or those of one namespace if it is not empty.
    fn of_kind<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Object> + 'a {
        let first = ObjectKey { kind, namespace: namespace.into(), name: "".into() };
        self.objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| {
                key.kind == kind && (namespace.is_empty() || key.namespace.as_ref() == namespace)
            })
            .map(|(_, object)| object)
    }

    fn select(&self, query: &Query) -> Vec<Object> {
        self.of_kind(query.kind, query.namespace.as_deref().unwrap_or_default())
            .filter(|object| query.matches(object))
            .cloned()
            .collect()
    }
}

fn counts_for_namespace(kind: Kind) -> bool {
    // What the node derives from other objects does not keep their namespace.
    kind.namespaced() && !matches!(kind, Kind::Event | Kind::Endpoints | Kind::EndpointSlice)
}

fn namespace(name: &str, since: Time) -> Namespace {
    let labels = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
    Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            creation_timestamp: Some(since),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(NamespaceStatus { phase: Some("Active".to_owned()), conditions: None }),
    }
}

/// Wall-clock milliseconds as Kubernetes writes them; a clock outside the years that have a name shows 1970.
#[must_use]
pub fn wire_time(wall_ms: i64) -> Time {
    Time(jiff::Timestamp::from_millisecond(wall_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Board")
            .field("version", &state.version)
            .field("objects", &state.objects.len())
            .finish_non_exhaustive()
    }
}
