//! What the node should run, merged from its sources. Pure.
//!
//! Owns: who owns which name, what replaces what, what is being deleted. Not: durability (`task` commits before it tells this),
//! nor workers (`plan` compares).
//!
//! One name has one owner: the first source that named it keeps it, the other is told [`SourceConflict`]. A pod that is
//! replaced stays until its worker is gone, with its successor waiting behind it; of many rapid edits only the last
//! is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;

use super::form::content;
use super::plan::Wanted;
use crate::spec::{Pod, PodKey, PodUid, Source};

/// A pod as it was accepted: the wire object (defaulted, without status) and what the inside made of it.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub object: Arc<corev1::Pod>,
    pub pod: Arc<Pod>,
}

#[derive(Clone, Debug)]
struct Entry {
    current: Accepted,
    deleting: Option<Duration>,
    next: Option<Accepted>,
    /// The one that waits is the same pod in another form: its volumes stay.
    in_place: bool,
}

impl Entry {
    fn new(current: Accepted) -> Self {
        Self { current, deleting: None, next: None, in_place: false }
    }

    fn owner(&self) -> Option<&Source> {
        match (&self.next, self.deleting) {
            (Some(next), _) => Some(&next.pod.source),
            (None, None) => Some(&self.current.pod.source),
            (None, Some(_)) => None,
        }
    }
}

/// The folder is one source: which of its files has a name is settled before (`files`), so that a pod may move from one
/// to another.
fn same_owner(a: &Source, b: &Source) -> bool {
    matches!((a, b), (Source::Folder(_), Source::Folder(_))) || a == b
}

/// Another source owns that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "SourceConflict: pod {key} already comes from {owner}; it stays, and the one from {refused} is not used"
)]
pub struct SourceConflict {
    pub key: PodKey,
    pub owner: Source,
    pub refused: Source,
}

/// What became of an offered pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// A new name: it starts.
    Added,
    /// The same incarnation as before; labels or images may differ.
    Unchanged,
    /// Waits for its predecessor to end.
    Replaces,
}

/// The merged desire. One per node, owned by the reconciler task.
#[derive(Debug, Default)]
pub struct Desired {
    pods: BTreeMap<PodKey, Entry>,
}

impl Desired {
    /// Takes in a pod from its source.
    ///
    /// # Errors
    /// If another source owns the name.
    pub fn offer(&mut self, pod: Accepted) -> Result<Offered, SourceConflict> {
        let key = pod.pod.key.clone();
        let Some(entry) = self.pods.get_mut(&key) else {
            self.pods.insert(key, Entry::new(pod));
            return Ok(Offered::Added);
        };
        let owner = entry.next.as_ref().unwrap_or(&entry.current);
        // A name that is on its way out and has no successor is free for whoever asks first.
        let leaving = entry.deleting.is_some() && entry.next.is_none();
        if !same_owner(&owner.pod.source, &pod.pod.source) && !leaving {
            let (owner, refused) = (owner.pod.source.clone(), pod.pod.source.clone());
            return Err(SourceConflict { key, owner, refused });
        }
        if entry.deleting.is_none() && entry.current.pod.uid == pod.pod.uid {
            return Ok(Offered::Unchanged);
        }
        if entry.deleting.is_none() {
            entry.deleting = Some(entry.current.pod.grace);
        }
        entry.next = Some(pod);
        entry.in_place = false;
        Ok(Offered::Replaces)
    }

    /// Takes in a pod that keeps its UID when it changes: an intent's next generation. One that is another [`form`](super::form) than
    /// what runs replaces it, and has its volumes; labels and generation alone make no difference.
    ///
    /// # Errors
    /// If another source owns the name.
    pub fn offer_in_place(&mut self, pod: Accepted) -> Result<Offered, SourceConflict> {
        let (key, uid) = (pod.pod.key.clone(), pod.pod.uid.clone());
        let offered = self.offer(pod.clone())?;
        let Some(entry) = self.pods.get_mut(&key).filter(|e| e.current.pod.uid == uid) else {
            return Ok(offered);
        };
        match offered {
            Offered::Unchanged if content(&entry.current) != content(&pod) => {
                entry.deleting = Some(entry.current.pod.grace);
                entry.next = Some(pod);
            }
            Offered::Replaces => {}
            Offered::Added | Offered::Unchanged => return Ok(offered),
        }
        entry.in_place = true;
        Ok(Offered::Replaces)
    }

    /// Ends a pod and begins it anew, as the same pod. False if there is none, or it is on its way out.
    pub fn restart(&mut self, key: &PodKey) -> bool {
        let Some(entry) = self.pods.get_mut(key).filter(|e| e.deleting.is_none()) else {
            return false;
        };
        entry.deleting = Some(entry.current.pod.grace);
        entry.next = Some(entry.current.clone());
        entry.in_place = true;
        true
    }

    /// Whether what runs under a name is ending for itself in another form.
    #[must_use]
    pub fn is_replaced_in_place(&self, key: &PodKey) -> bool {
        self.pods.get(key).is_some_and(|entry| entry.in_place && entry.next.is_some())
    }

    /// Replaces the object of the same incarnation: labels, annotations, or images changed. One that waits to begin anew as itself
    /// begins as this.
    pub fn amend(&mut self, pod: Accepted) {
        let Some(entry) = self.pods.get_mut(&pod.pod.key) else { return };
        if let Some(next) = entry.next.as_mut().filter(|next| next.pod.uid == pod.pod.uid) {
            *next = pod.clone();
        }
        if entry.current.pod.uid == pod.pod.uid {
            entry.current = pod;
        }
    }

    /// Marks a source's pod for its end, and forgets its successor that waits; what another source has under that name
    /// stays as it is. Grace may only shrink. The grace that is in force; `None` if nothing ends.
    pub fn delete(
        &mut self,
        key: &PodKey,
        by: &Source,
        grace: Option<Duration>,
    ) -> Option<Duration> {
        let entry = self.pods.get_mut(key)?;
        if entry.next.as_ref().is_some_and(|next| same_owner(&next.pod.source, by)) {
            entry.next = None;
        }
        if !same_owner(&entry.current.pod.source, by) {
            return entry.deleting;
        }
        let asked = grace.unwrap_or(entry.current.pod.grace);
        let grace = entry.deleting.map_or(asked, |before| before.min(asked));
        entry.deleting = Some(grace);
        Some(grace)
    }

    /// The worker of a pod that was ending is gone: its successor takes the name. Returns the removed pod and whether
    /// one followed.
    pub fn removed(&mut self, key: &PodKey) -> Option<(Accepted, Option<Accepted>)> {
        let entry = self.pods.get(key).filter(|e| e.deleting.is_some())?;
        let (old, next) = (entry.current.clone(), entry.next.clone());
        match &next {
            Some(next) => {
                self.pods.insert(key.clone(), Entry::new(next.clone()));
            }
            None => {
                self.pods.remove(key);
            }
        }
        Some((old, next))
    }

    /// Who has a name: the source of the waiting successor, else that of a pod that is not on its way out.
    #[must_use]
    pub fn owner(&self, key: &PodKey) -> Option<&Source> {
        self.pods.get(key).and_then(Entry::owner)
    }

    /// The names that a source has: what a new snapshot is compared with.
    pub fn owned_by(&self, owns: impl Fn(&Source) -> bool) -> Vec<(PodKey, Source)> {
        let owned = |(key, entry): (&PodKey, &Entry)| {
            let source = entry.owner().filter(|source| owns(source))?;
            Some((key.clone(), source.clone()))
        };
        self.pods.iter().filter_map(owned).collect()
    }

    #[must_use]
    pub fn get(&self, key: &PodKey) -> Option<(&Accepted, Option<Duration>)> {
        self.pods.get(key).map(|e| (&e.current, e.deleting))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// The form that the plan compares with the workers.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<PodKey, Wanted> {
        let wanted = |e: &Entry| Wanted { uid: e.current.pod.uid.clone(), deleting: e.deleting };
        self.pods.iter().map(|(key, e)| (key.clone(), wanted(e))).collect()
    }

    /// Every pod that is, or is about to be.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().flat_map(|e| {
            std::iter::once(&*e.current.pod).chain(e.next.as_ref().map(|next| &*next.pod))
        })
    }

    /// UIDs that anything on disk may still belong to.
    pub fn uids(&self) -> impl Iterator<Item = &PodUid> {
        self.pods.values().flat_map(|e| {
            std::iter::once(&e.current.pod.uid).chain(e.next.as_ref().map(|n| &n.pod.uid))
        })
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::testkit::pods;

    const FOLDER: fn() -> Source = || Source::Folder("/etc/pods/a.yaml".into());

    fn pod(uid: &str, source: Source) -> Accepted {
        let mut pod = pods::pod([pods::regular("c")]);
        pod.key = key();
        pod.uid = PodUid::new(uid);
        pod.source = source;
        Accepted { object: Arc::default(), pod: Arc::new(pod) }
    }

    fn uid(desired: &Desired) -> Option<String> {
        let (accepted, _) = desired.get(&PodKey::new("default", "a"))?;
        Some(accepted.pod.uid.to_string())
    }

    fn key() -> PodKey {
        PodKey::new("default", "a")
    }

    #[test]
    fn the_first_owner_keeps_the_name() {
        let mut desired = Desired::default();
        assert_eq!(desired.offer(pod("1", FOLDER())), Ok(Offered::Added));
        let refused = desired.offer(pod("2", Source::Api)).unwrap_err();
        assert_eq!((refused.owner, refused.refused), (FOLDER(), Source::Api));
        assert_eq!(uid(&desired).as_deref(), Some("1"));
    }

    #[test]
    fn of_many_edits_the_last_is_run_after_the_first_has_ended() {
        let mut desired = Desired::default();
        desired.offer(pod("1", FOLDER())).unwrap();
        assert_eq!(desired.offer(pod("1", FOLDER())), Ok(Offered::Unchanged));
        assert_eq!(desired.offer(pod("2", FOLDER())), Ok(Offered::Replaces));
        assert_eq!(desired.offer(pod("3", FOLDER())), Ok(Offered::Replaces));
        assert_eq!(uid(&desired).as_deref(), Some("1"), "the old one is still ending");
        assert!(desired.wanted()[&key()].deleting.is_some());
        desired.removed(&key()).unwrap();
        assert_eq!(uid(&desired).as_deref(), Some("3"));
        assert!(desired.wanted()[&key()].deleting.is_none());
    }

    #[test]
    fn the_same_text_put_back_while_it_ends_starts_again() {
        let mut desired = Desired::default();
        desired.offer(pod("1", FOLDER())).unwrap();
        desired.delete(&key(), &FOLDER(), None).unwrap();
        assert!(desired.owned_by(|_| true).is_empty());
        assert_eq!(desired.offer(pod("1", FOLDER())), Ok(Offered::Replaces));
        let (_, next) = desired.removed(&key()).unwrap();
        assert!(next.is_some());
        assert_eq!(uid(&desired).as_deref(), Some("1"));
    }

    #[test]
    fn a_pod_that_keeps_its_uid_is_replaced_only_by_what_runs_differently() {
        let mut desired = Desired::default();
        let of = |generation: i64, hostname: &str| {
            let mut accepted = pod("1", Source::Mqtt);
            Arc::make_mut(&mut accepted.pod).generation = generation;
            let object = Arc::make_mut(&mut accepted.object);
            object.spec.get_or_insert_default().hostname = Some(hostname.into());
            accepted
        };
        assert_eq!(desired.offer_in_place(of(1, "a")), Ok(Offered::Added));
        assert_eq!(desired.offer_in_place(of(2, "a")), Ok(Offered::Unchanged));
        assert!(!desired.is_replaced_in_place(&key()));
        assert_eq!(desired.offer_in_place(of(3, "b")), Ok(Offered::Replaces));
        assert!(desired.is_replaced_in_place(&key()));
        assert_eq!(desired.offer_in_place(of(4, "c")), Ok(Offered::Replaces), "the last one wins");
        let (_, next) = desired.removed(&key()).unwrap();
        assert_eq!(next.unwrap().pod.generation, 4);
        assert!(!desired.is_replaced_in_place(&key()));
    }

    #[test]
    fn a_deletion_during_a_replacement_takes_the_volumes_too() {
        let mut desired = Desired::default();
        desired.offer_in_place(pod("1", Source::Mqtt)).unwrap();
        assert!(desired.restart(&key()));
        assert!(desired.is_replaced_in_place(&key()));
        assert!(!desired.restart(&key()), "one at a time");
        desired.delete(&key(), &Source::Mqtt, None);
        assert!(!desired.is_replaced_in_place(&key()));
        assert!(desired.removed(&key()).unwrap().1.is_none());
    }

    #[test]
    fn another_uid_is_another_pod() {
        let mut desired = Desired::default();
        desired.offer_in_place(pod("1", Source::Mqtt)).unwrap();
        assert_eq!(desired.offer_in_place(pod("2", Source::Mqtt)), Ok(Offered::Replaces));
        assert!(!desired.is_replaced_in_place(&key()));
    }

    #[test]
    fn grace_only_shrinks_and_a_deletion_forgets_the_successor() {
        let mut desired = Desired::default();
        let seconds = Duration::from_secs;
        desired.offer(pod("1", Source::Api)).unwrap();
        assert_eq!(desired.delete(&key(), &Source::Api, Some(seconds(10))), Some(seconds(10)));
        assert_eq!(desired.delete(&key(), &Source::Api, Some(seconds(20))), Some(seconds(10)));
        assert_eq!(desired.delete(&key(), &Source::Api, Some(seconds(1))), Some(seconds(1)));
        desired.removed(&key()).unwrap();
        assert!(desired.is_empty());
        assert_eq!(desired.delete(&key(), &Source::Api, None), None);
    }

    #[test]
    fn a_name_on_its_way_out_is_free_for_another_source() {
        let mut desired = Desired::default();
        desired.offer(pod("1", FOLDER())).unwrap();
        desired.delete(&key(), &FOLDER(), None).unwrap();
        assert_eq!(desired.offer(pod("2", Source::Api)), Ok(Offered::Replaces));
        assert!(desired.offer(pod("3", FOLDER())).is_err());
        assert!(desired.delete(&key(), &FOLDER(), None).is_some());
        assert_eq!(desired.owner(&key()), Some(&Source::Api), "who waits is not the folder's");
    }

    #[test]
    fn a_pod_may_move_from_file_to_file_and_not_from_source_to_source() {
        let mut desired = Desired::default();
        let other = Source::Folder("/etc/pods/b.yaml".into());
        desired.offer(pod("1", FOLDER())).unwrap();
        assert_eq!(desired.offer(pod("2", other.clone())), Ok(Offered::Replaces));
        assert_eq!(desired.owner(&key()), Some(&other));
        let played = Source::Play("/etc/pods/b.yaml".into());
        assert!(desired.offer(pod("3", played)).is_err());
    }
}
