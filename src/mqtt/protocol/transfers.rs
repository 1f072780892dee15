//! Which artifacts are there, which are on their way, and for whom.
//!
//! Owns: one transfer for each digest however many pods want it, trying again. Not: fetching.
//!
//! Pods that want the same may name different places for it, and different sizes: whoever signs for one namespace may be wrong, or lie. So
//! a failure counts for those whose own word was tried; the others have theirs tried next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Protocol;
use super::io::{FetchFailure, Output};
use super::outbox::Subject;
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::intent::{Artifact, DELTAS_MAX, Release};
use crate::spec::PodKey;

/// First and longest wait before a failed transfer is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Sources of one transfer, over all pods that want it.
const SOURCES_MAX: usize = 16;

#[derive(Debug)]
struct Transfer {
    /// As it was asked for last.
    asked: Artifact,
    bytes: u64,
    users: BTreeMap<PodKey, User>,
    retry_at: Option<Timestamp>,
    wait: Duration,
    failure: Option<String>,
}

/// A pod that wants it.
#[derive(Debug)]
struct User {
    /// As its own document has it.
    artifact: Artifact,
    /// That has failed, since the last wait.
    failed: bool,
}

impl Transfer {
    /// What is asked for next: what one who has not been tried names, and of the others' places what there is room for.
    fn combine(&mut self) {
        let mut users = self.users.values();
        let untried = self.users.values().find(|user| !user.failed);
        let Some(first) = untried.or_else(|| users.next()) else { return };
        let mut asked = first.artifact.clone();
        for other in self.users.values().map(|user| &user.artifact) {
            if other.size == asked.size {
                merge(&mut asked.sources, &other.sources, SOURCES_MAX);
                merge(&mut asked.deltas, &other.deltas, DELTAS_MAX);
            }
        }
        self.asked = asked;
    }

    /// Whether everything that a document says of it is among what was asked for.
    fn covers(&self, own: &Artifact) -> bool {
        self.asked.size == own.size
            && own.sources.iter().all(|source| self.asked.sources.contains(source))
            && own.deltas.iter().all(|delta| self.asked.deltas.contains(delta))
    }
}

fn merge<T: Clone + PartialEq>(known: &mut Vec<T>, others: &[T], max: usize) {
    for other in others {
        if known.len() < max && !known.contains(other) {
            known.push(other.clone());
        }
    }
}

/// See the header.
#[derive(Debug)]
pub(super) struct Transfers {
    present: BTreeSet<Digest>,
    active: BTreeMap<Digest, Transfer>,
}

impl Transfers {
    pub(super) fn new(present: BTreeSet<Digest>) -> Self {
        Self { present, active: BTreeMap::new() }
    }

    pub(super) fn present(&mut self, digests: Vec<Digest>) {
        self.present.extend(digests);
    }

    /// Forgets what is there and nobody names any more: it may be collected.
    pub(super) fn keep(&mut self, pinned: &BTreeSet<Digest>) {
        self.present.retain(|digest| pinned.contains(digest));
    }

    pub(super) fn missing(&self, release: &Release) -> BTreeSet<Digest> {
        release.digests().into_iter().filter(|digest| !self.present.contains(digest)).collect()
    }

    /// Bytes that are there, and all bytes, of a release's artifacts.
    pub(super) fn progress(&self, release: &Release) -> (u64, u64) {
        let sizes: BTreeMap<Digest, u64> =
            release.intent.artifacts.iter().map(|a| (a.digest, a.size)).collect();
        let have = |(digest, size): (&Digest, &u64)| match self.active.get(digest) {
            Some(transfer) => transfer.bytes.min(*size),
            None if self.present.contains(digest) => *size,
            None => 0,
        };
        (sizes.iter().map(have).sum(), sizes.values().sum())
    }

    /// Why the transfers of a pod do not get on.
    pub(super) fn trouble(&self, key: &PodKey) -> Option<&str> {
        let of_pod = self.active.values().filter(|transfer| transfer.users.contains_key(key));
        of_pod.filter_map(|transfer| transfer.failure.as_deref()).next()
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.active.values().filter_map(|transfer| transfer.retry_at).min()
    }

    /// Says what a pod waits for now; what changes because of it.
    pub(super) fn want(&mut self, key: &PodKey, artifacts: &[&Artifact]) -> Vec<Output> {
        let mut outputs = vec![];
        // Two images of a pod may be the same module.
        let mut missing: BTreeMap<Digest, Artifact> = BTreeMap::new();
        for artifact in artifacts.iter().filter(|a| !self.present.contains(&a.digest)) {
            let own = missing.entry(artifact.digest).or_insert_with(|| (*artifact).clone());
            merge(&mut own.sources, &artifact.sources, SOURCES_MAX);
            merge(&mut own.deltas, &artifact.deltas, DELTAS_MAX);
        }
        for (digest, artifact) in missing {
            let transfer = self.active.entry(digest).or_insert_with(|| {
                outputs.push(fetch(&artifact));
                Transfer {
                    asked: artifact.clone(),
                    bytes: 0,
                    users: BTreeMap::new(),
                    retry_at: None,
                    wait: Duration::ZERO,
                    failure: None,
                }
            });
            if transfer.users.get(key).is_some_and(|user| user.artifact == artifact) {
                continue;
            }
            let is_new = !transfer.covers(&artifact);
            transfer.users.insert(key.clone(), User { artifact, failed: false });
            // Nobody has asked at its places: that need not wait for what others wait for.
            if is_new && transfer.retry_at.take().is_some() {
                transfer.combine();
                outputs.push(fetch(&transfer.asked));
            }
        }
        let wanted: BTreeSet<Digest> = artifacts.iter().map(|a| a.digest).collect();
        self.active.retain(|digest, transfer| {
            if !wanted.contains(digest) {
                transfer.users.remove(key);
            }
            let idle = transfer.users.is_empty();
            if idle && transfer.retry_at.is_none() {
                outputs.push(Output::CancelFetch { digest: *digest });
            }
            !idle
        });
        outputs
    }
}

fn fetch(artifact: &Artifact) -> Output {
    let Artifact { digest, size, media_type, sources, deltas, .. } = artifact.clone();
    Output::Fetch { digest, size, media_type, sources, deltas }
}

impl Protocol {
    pub(super) fn progressed(&mut self, digest: Digest, bytes: u64) {
        let Some(transfer) = self.transfers.active.get_mut(&digest) else { return };
        transfer.bytes = bytes;
        transfer.failure = None;
        for key in transfer.users.keys() {
            self.outbox.later(Subject::Pod(key.clone()));
        }
    }

    pub(super) fn fetched(&mut self, digest: Digest, result: Result<(), FetchFailure>) {
        let Some(transfer) = self.transfers.active.get_mut(&digest) else {
            // It came although nobody waits any more; it may be wanted again.
            if result.is_ok() && self.pinned().contains(&digest) {
                self.transfers.present.insert(digest);
            }
            return;
        };
        let users: Vec<PodKey> = transfer.users.keys().cloned().collect();
        match result {
            Ok(()) => {
                self.transfers.active.remove(&digest);
                self.transfers.present.insert(digest);
            }
            Err(failure) => self.fetch_ended_badly(digest, &failure),
        }
        for key in users {
            self.outbox.soon(Subject::Pod(key.clone()));
            self.converge(&key);
        }
    }

    fn fetch_ended_badly(&mut self, digest: Digest, failure: &FetchFailure) {
        let Some(mut transfer) = self.transfers.active.remove(&digest) else { return };
        let tried: Vec<PodKey> = transfer
            .users
            .iter()
            .filter(|(_, user)| transfer.covers(&user.artifact))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &tried {
            if let Some(user) = transfer.users.get_mut(key) {
                user.failed = true;
            }
        }
        transfer.failure = Some(format!("{}: {}", failure.reason, failure.message));
        if transfer.users.values().all(|user| user.failed) {
            let next = if failure.transient { transfer.wait * 2 } else { RETRY.1 };
            transfer.wait = next.clamp(RETRY.0, RETRY.1);
            transfer.retry_at = Some(self.now.plus(transfer.wait));
        } else {
            transfer.combine();
            self.outputs.push(fetch(&transfer.asked));
        }
        self.transfers.active.insert(digest, transfer);
        // Whoever was on the way to it gives up; a pod that was good once goes on asking for what it lost.
        for key in tried.iter().filter(|_| !failure.transient) {
            self.fetch_failed(key, failure);
        }
    }

    pub(super) fn transfer_timers(&mut self) {
        let mut outputs = vec![];
        for transfer in self.transfers.active.values_mut() {
            if transfer.retry_at.is_some_and(|at| at <= self.now) {
                transfer.retry_at = None;
                for user in transfer.users.values_mut() {
                    user.failed = false;
                }
                transfer.combine();
                outputs.push(fetch(&transfer.asked));
            }
        }
        self.outputs.extend(outputs);
    }
}
