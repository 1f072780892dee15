//! Recording Kubernetes Events: equal ones count up, floods are combined, old ones go.
//!
//! Owns: correlation and bounds. Follows `client-go/tools/record/events_cache.go`: the same object, reason and message is one
//! Event with a `count`; more than [`SIMILAR_MAX`] different messages of one reason within [`SIMILAR_WINDOW`] become one with the
//! prefix "(combined from similar events): ". Differs in one thing: where client-go drops *new* events of an object that
//! makes too many (a token bucket), we drop that object's *oldest*: whoever looks wants to know what happens now.
//!
//! Limits: `limits::EVENTS_MAX` over all objects, [`PER_OBJECT_MAX`] per object, [`TTL`].

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::clock::Timestamp;
use crate::limits;

use super::{Kind, ObjectKey, wire_time};

/// How long an Event is shown after it last happened (kube-apiserver's `--event-ttl`).
pub const TTL: Duration = Duration::from_secs(3600);

/// Different messages of one reason about one object before they are combined (client-go: `defaultAggregateMaxEvents`).
pub const SIMILAR_MAX: usize = 10;

/// How long the count of similar events goes back (client-go: `defaultAggregateIntervalInSeconds`).
pub const SIMILAR_WINDOW: Duration = Duration::from_secs(600);

/// Events kept for one object: a sixteenth of all, so that one noisy pod cannot hide what its neighbours say.
pub const PER_OBJECT_MAX: usize = limits::EVENTS_MAX / 16;

/// Longest message kept, bytes (Kubernetes validates `note` to 1 kB).
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// What happened, before it is correlated.
#[derive(Clone, Debug, PartialEq)]
pub struct EventDraft {
    /// The object it is about. `namespace`, `name`, `uid`, `kind`, and `fieldPath` for one container.
    pub involved: ObjectReference,
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    pub reason: String,
    pub message: String,
    /// Who says so (`kubelet` in Kubernetes).
    pub component: String,
    /// The node's name.
    pub host: String,
}

impl EventDraft {
    /// What makes two drafts the same Event.
    fn identity(&self) -> Identity {
        Identity {
            similar: self.similarity(),
            message: self.message.clone(),
            field_path: self.involved.field_path.clone().unwrap_or_default(),
        }
    }

    fn similarity(&self) -> Similarity {
        Similarity {
            object: Subject::of(&self.involved),
            warning: self.warning,
            reason: self.reason.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

impl Subject {
    fn of(involved: &ObjectReference) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Self {
            kind: text(&involved.kind),
            namespace: text(&involved.namespace),
            name: text(&involved.name),
            uid: text(&involved.uid),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Similarity {
    object: Subject,
    warning: bool,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    similar: Similarity,
    message: String,
    field_path: String,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    last: Timestamp,
}

/// Distinct messages of one similarity, with when each was last seen. At most `SIMILAR_MAX` are remembered.
#[derive(Debug)]
struct Similar {
    messages: Vec<u64>,
    last: Timestamp,
}

/// What recording one draft changed.
#[derive(Debug)]
pub(super) struct Recorded {
    pub event: Event,
    /// Events that had to make room.
    pub forgotten: Vec<ObjectKey>,
}

#[derive(Debug, Default)]
pub(super) struct Recorder {
    entries: HashMap<Identity, Entry>,
    similar: HashMap<Similarity, Similar>,
    serial: u64,
}

impl Recorder {
    pub(super) fn record(&mut self, draft: &EventDraft, now: Timestamp) -> Recorded {
        let mut draft = draft.clone();
        truncate(&mut draft.message, MESSAGE_BYTES_MAX);
        let mut forgotten = self.expire(now);
        let mut identity = draft.identity();
        if !self.entries.contains_key(&identity) && self.is_flood(&identity, now) {
            // One event per reason from now on: its message is the newest, its identity leaves the message out.
            draft.message = format!("(combined from similar events): {}", draft.message);
            truncate(&mut draft.message, MESSAGE_BYTES_MAX);
            identity.message = String::new();
            identity.field_path = String::new();
        }
        if let Some(entry) = self.entries.get_mut(&identity) {
            entry.event.count = Some(entry.event.count.unwrap_or(1).saturating_add(1));
            entry.event.last_timestamp = Some(wire_time(now.wall_ms()));
            entry.event.message = Some(draft.message);
            entry.last = now;
            return Recorded { event: entry.event.clone(), forgotten };
        }
        forgotten.extend(self.make_room(&identity.similar.object));
        let event = self.new_event(draft, now);
        self.entries.insert(identity, Entry { event: event.clone(), last: now });
        Recorded { event, forgotten }
    }

    /// Forgets what nobody has seen for [`TTL`]; returns the Events to remove.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<ObjectKey> {
        self.similar.retain(|_, similar| now.since(similar.last) <= SIMILAR_WINDOW);
        let mut gone = Vec::new();
        self.entries.retain(|_, entry| {
            let keep = now.since(entry.last) <= TTL;
            if !keep {
                gone.push(key_of(&entry.event));
            }
            keep
        });
        gone
    }

    /// Whether this is one message too many of its kind. Messages are remembered by hash: an accidental equality
    /// only delays the combining by one.
    fn is_flood(&mut self, identity: &Identity, now: Timestamp) -> bool {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        identity.message.hash(&mut hasher);
        let hash = hasher.finish();
        if self.similar.len() >= limits::EVENTS_MAX && !self.similar.contains_key(&identity.similar)
        {
            // Thousands of pods came and went within the window: counting starts anew.
            self.similar.clear();
        }
        let similar = self
            .similar
            .entry(identity.similar.clone())
            .or_insert_with(|| Similar { messages: Vec::new(), last: now });
        similar.last = now;
        if similar.messages.contains(&hash) {
            return false;
        }
        if similar.messages.len() < SIMILAR_MAX {
            similar.messages.push(hash);
            return false;
        }
        true
    }

    /// Makes room for one more: within its object's share, then within the whole.
    fn make_room(&mut self, subject: &Subject) -> Vec<ObjectKey> {
        let own = self.entries.keys().filter(|id| id.similar.object == *subject).count();
        let only_own = own >= PER_OBJECT_MAX;
        if !only_own && self.entries.len() < limits::EVENTS_MAX {
            return Vec::new();
        }
        let oldest = self
            .entries
            .iter()
            .filter(|(id, _)| !only_own || id.similar.object == *subject)
            .min_by_key(|(_, entry)| entry.last)
            .map(|(id, _)| id.clone());
        let entry = oldest.and_then(|oldest| self.entries.remove(&oldest));
        entry.map(|entry| key_of(&entry.event)).into_iter().collect()
    }

    fn new_event(&mut self, draft: EventDraft, now: Timestamp) -> Event {
        self.serial += 1;
        let time = wire_time(now.wall_ms());
        let object = draft.involved.name.clone().unwrap_or_default();
        // Kubernetes' form `NAME.HEX`: the time in nanoseconds there; here milliseconds and a serial number, which
        // stays unique when the clock jumps back.
        let name = format!("{object}.{:x}{:04x}", now.wall_ms().unsigned_abs(), self.serial);
        let namespace = draft.involved.namespace.clone().filter(|namespace| !namespace.is_empty());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.unwrap_or_else(|| super::DEFAULT_NAMESPACE.to_owned())),
                creation_timestamp: Some(time.clone()),
                ..ObjectMeta::default()
            },
            involved_object: draft.involved,
            reason: Some(draft.reason),
            message: Some(draft.message),
            type_: Some(if draft.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(1),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            source: Some(EventSource {
                component: Some(draft.component.clone()),
                host: Some(draft.host.clone()),
            }),
            reporting_component: Some(draft.component),
            reporting_instance: Some(draft.host),
            ..Event::default()
        }
    }
}

fn key_of(event: &Event) -> ObjectKey {
    let meta = &event.metadata;
    ObjectKey::new(
        Kind::Event,
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}
