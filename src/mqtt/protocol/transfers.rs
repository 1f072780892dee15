//! Which artifacts are there, which are on their way, and for whom.
//!
//! Owns: one transfer for each digest however many pods want it, trying again. Not: fetching.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Protocol;
use super::io::{FetchFailure, Output};
use super::outbox::Subject;
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::intent::{Artifact, Release};
use crate::spec::PodKey;

/// First and longest wait before a failed transfer is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Sources of one transfer, over all pods that want it.
const SOURCES_MAX: usize = 16;

#[derive(Debug)]
struct Transfer {
    artifact: Artifact,
    bytes: u64,
    users: BTreeSet<PodKey>,
    retry_at: Option<Timestamp>,
    wait: Duration,
    failure: Option<String>,
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
        let of_pod = self.active.values().filter(|transfer| transfer.users.contains(key));
        of_pod.filter_map(|transfer| transfer.failure.as_deref()).next()
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.active.values().filter_map(|transfer| transfer.retry_at).min()
    }

    /// Says what a pod waits for now; what changes because of it.
    pub(super) fn want(&mut self, key: &PodKey, artifacts: &[&Artifact]) -> Vec<Output> {
        let mut outputs = vec![];
        for artifact in artifacts.iter().filter(|a| !self.present.contains(&a.digest)) {
            let digest = artifact.digest;
            let transfer = self.active.entry(digest).or_insert_with(|| {
                outputs.push(fetch(artifact));
                Transfer {
                    artifact: (*artifact).clone(),
                    bytes: 0,
                    users: BTreeSet::new(),
                    retry_at: None,
                    wait: Duration::ZERO,
                    failure: None,
                }
            });
            transfer.users.insert(key.clone());
            let known = &mut transfer.artifact.sources;
            for source in &artifact.sources {
                if known.len() < SOURCES_MAX && !known.contains(source) {
                    known.push(source.clone());
                }
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
        for key in transfer.users.clone() {
            self.outbox.later(Subject::Pod(key));
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
        let users = transfer.users.clone();
        match result {
            Ok(()) => {
                self.transfers.active.remove(&digest);
                self.transfers.present.insert(digest);
            }
            Err(failure) => {
                let next = if failure.transient { transfer.wait * 2 } else { RETRY.1 };
                transfer.wait = next.clamp(RETRY.0, RETRY.1);
                transfer.retry_at = Some(self.now.plus(transfer.wait));
                transfer.failure = Some(format!("{}: {}", failure.reason, failure.message));
                // Whoever was on the way to it gives up; a pod that was good once goes on asking for what it lost.
                for key in users.iter().filter(|_| !failure.transient) {
                    self.fetch_failed(key, &failure);
                }
            }
        }
        for key in users {
            self.outbox.soon(Subject::Pod(key.clone()));
            self.converge(&key);
        }
    }

    pub(super) fn transfer_timers(&mut self) {
        let mut outputs = vec![];
        for transfer in self.transfers.active.values_mut() {
            if transfer.retry_at.is_some_and(|at| at <= self.now) {
                transfer.retry_at = None;
                outputs.push(fetch(&transfer.artifact));
            }
        }
        self.outputs.extend(outputs);
    }
}
