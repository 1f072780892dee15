//! What must hold at every step, looked at from outside: on the disk, and in what is handed to the runtime.

use std::sync::Arc;

use bytes::Bytes;

use super::world::World;
use crate::mqtt::intent::Release;
use crate::mqtt::protocol::RecordName;
use crate::mqtt::protocol::rollout::ATTEMPTS_MAX;
use crate::mqtt::record::PodRecord;
use crate::spec::PodKey;

impl World {
    /// What was accepted only moves forward, and what is deleted was meant to be.
    pub(super) fn put_on_disk(&mut self, record: &RecordName, content: Option<Bytes>) {
        if let RecordName::Pod(key) = record {
            let new = content.as_deref().map(|c| PodRecord::from_json(c, key).unwrap());
            if let Some(old) = self.record(key) {
                self.check_forward(key, &old, new.as_ref());
            }
            let target = new.as_ref().and_then(|r| r.rollout.as_ref());
            let target = target.map(|r| (r.scope.clone(), r.revision.digest));
            // Tries are counted while a document leads: one that leads again begins anew, as somebody wanted it so.
            self.tries.retain(|(k, scope, digest), _| {
                k != key || target.as_ref() == Some(&(scope.clone(), *digest))
            });
            if new.is_none() {
                // On a full disk a deletion goes before its mark: the one time that a mark may be lost to a crash.
                self.acknowledged.retain(|(k, _), _| k != key);
            }
        }
        match content {
            Some(content) => self.disk.insert(record.clone(), content),
            None => self.disk.remove(record),
        };
    }

    pub(super) fn check_forward(&self, key: &PodKey, old: &PodRecord, new: Option<&PodRecord>) {
        let meant = self.deletable.contains(key);
        let Some(new) = new else {
            assert!(meant, "{key}: the record goes, and nobody has deleted the pod");
            return;
        };
        for (scope, line) in &old.lines {
            let now = new.lines.get(scope).unwrap_or_else(|| panic!("{key}: {scope} is lost"));
            let (was, is) = (line.revision.version, now.revision.version);
            assert!(is >= was, "{key}: {scope} goes back from {was} to {is}");
            assert!(is > was || now.revision == line.revision, "{key}: {scope} {is} changes");
            let gone = line.release.is_some() && now.release.is_none();
            assert!(!gone || meant, "{key}: {scope} is deleted, and nobody has deleted it");
        }
    }

    pub(super) fn record(&self, key: &PodKey) -> Option<PodRecord> {
        let bytes = self.disk.get(&RecordName::Pod(key.clone()))?;
        Some(PodRecord::from_json(bytes, key).unwrap())
    }

    pub(super) fn check_authentic(&self, release: &Release) {
        let digest = release.revision.digest;
        assert!(self.authentic.contains(&digest), "{}: nobody signed {digest}", release.key);
    }

    /// Durable before acted upon; tries are counted before they begin, and are not endless.
    pub(super) fn check_apply(&mut self, release: &Arc<Release>) {
        self.check_authentic(release);
        let key = &release.key;
        let record = self.record(key).unwrap_or_else(|| panic!("{key} is run from nowhere"));
        let on_disk = |r: &Arc<Release>| r.scope == release.scope && r.revision == release.revision;
        let lines = record.lines.values().filter_map(|l| l.release.as_ref());
        let known = lines.chain(&record.good).any(on_disk);
        assert!(known, "{key}: {} runs, and is not on disk", release.revision.version);
        let Some(rollout) = &record.rollout else { panic!("{key} runs without a rollout") };
        let is_target = rollout.scope == release.scope && rollout.revision == release.revision;
        if is_target && rollout.outcome.is_none() {
            let id = (key.clone(), release.scope.clone(), release.revision.digest);
            let boots = self.tries.entry(id).or_default();
            boots.insert(self.boots);
            let tried = u32::try_from(boots.len()).unwrap();
            assert!(rollout.attempts >= tried, "{key}: try {tried} is not counted");
            assert!(tried <= ATTEMPTS_MAX, "{key}: tried {tried} times");
        }
    }

    pub(super) fn check_remove(&self, key: &PodKey) {
        let Some(record) = self.record(key) else {
            assert!(self.deletable.contains(key), "{key} ends, and nobody has deleted it");
            return;
        };
        let held = record.rollout.as_ref().and_then(|r| r.outcome.as_ref()).is_some_and(|e| e.held);
        assert!(record.is_deleted() || held, "{key} ends, and is on disk as it was");
    }

    /// What was acknowledged is there after a crash.
    pub(super) fn check_acknowledged(&self) {
        for ((key, scope), (version, digest)) in &self.acknowledged {
            let record = self.record(key).unwrap_or_default();
            let line = record.lines.get(scope);
            let kept = line.is_some_and(|line| {
                let held = line.revision.version;
                held > *version || held == *version && line.revision.digest == *digest
            });
            assert!(kept, "{key}: {version} was acknowledged, and is not there after a crash");
        }
    }
}
