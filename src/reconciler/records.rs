//! The run-time facts that survive a restart of the daemon, as they stand on disk.
//!
//! Owns: their JSON form and writing them behind the workers' backs: the newest wins, one write at a time, nothing when
//! nothing changed. Not: when they change (`lifecycle` says `Persist`, at most once for each back-off step).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::error::chain;
use crate::lifecycle::{Restored, RestoredContainer, RestoredEnd, RestoredExit};
use crate::pod::Keeper;
use crate::spec::{ContainerName, PodUid};
use crate::store::Store;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    containers: Vec<Container>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<End>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    next_attempt: u32,
    backoff_ms: u64,
    finished: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    by_probe: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Last {
    exit_code: i32,
    reason: String,
    message: String,
    started_ms: i64,
    finished_ms: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    failed: bool,
    reason: String,
    message: String,
}

/// The facts as bytes for the store.
#[must_use]
pub fn to_json(facts: &Restored) -> Vec<u8> {
    let container = |c: &RestoredContainer| Container {
        name: c.name.to_string(),
        next_attempt: c.next_attempt,
        backoff_ms: u64::try_from(c.backoff.as_millis()).unwrap_or(u64::MAX),
        finished: c.finished,
        by_probe: c.by_probe,
        last: c.last.as_ref().map(|l| Last {
            exit_code: l.exit_code,
            reason: l.reason.clone(),
            message: l.message.clone(),
            started_ms: l.started_ms,
            finished_ms: l.finished_ms,
        }),
    };
    let end = |e: &RestoredEnd| End {
        failed: e.failed,
        reason: e.reason.clone(),
        message: e.message.clone(),
    };
    let form = Facts {
        containers: facts.containers.iter().map(container).collect(),
        ended: facts.ended.as_ref().map(end),
    };
    serde_json::to_vec(&form).expect("strings and numbers always have a JSON form")
}

/// The facts from a record.
///
/// # Errors
/// If the record is of another form: the pod then starts without a past.
pub fn from_json(json: &[u8]) -> Result<Restored, serde_json::Error> {
    let form: Facts = serde_json::from_slice(json)?;
    let container = |c: Container| RestoredContainer {
        name: ContainerName::new(&c.name),
        next_attempt: c.next_attempt,
        backoff: Duration::from_millis(c.backoff_ms),
        finished: c.finished,
        by_probe: c.by_probe,
        last: c.last.map(|l| RestoredExit {
            exit_code: l.exit_code,
            reason: l.reason,
            message: l.message,
            started_ms: l.started_ms,
            finished_ms: l.finished_ms,
        }),
    };
    let end = |e: End| RestoredEnd { failed: e.failed, reason: e.reason, message: e.message };
    Ok(Restored {
        containers: form.containers.into_iter().map(container).collect(),
        ended: form.ended.map(end),
    })
}

/// What is to be written of one pod: its facts, or that there is nothing to remember any more.
type Pending = BTreeMap<PodUid, Option<Vec<u8>>>;

/// Keeps facts in the store. Bounded: one entry for each pod that there is.
#[derive(Debug)]
pub struct RecordKeeper {
    store: Arc<Store>,
    pending: Mutex<Pending>,
    changed: Notify,
}

impl RecordKeeper {
    #[must_use]
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store, pending: Mutex::default(), changed: Notify::new() })
    }

    /// Removes what is remembered of a pod.
    pub fn forget(&self, uid: &PodUid) {
        self.queue(uid, None);
    }

    /// The same, without a write of its own: what is remembered of the pod's next form takes its place in a moment.
    pub fn forget_with_the_next(&self, uid: &PodUid) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert(uid.clone(), None);
    }

    /// Writes what is pending until told to stop, and then what is left.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let stopping = tokio::select! {
                () = self.changed.notified() => false,
                () = stop.cancelled() => true,
            };
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.write()).await {
                warn!(%error, "writing restart counts failed internally");
            }
            if stopping {
                return;
            }
        }
    }

    fn queue(&self, uid: &PodUid, what: Option<Vec<u8>>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert(uid.clone(), what);
        drop(pending);
        self.changed.notify_one();
    }

    fn write(&self) {
        let pending =
            std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        for (uid, what) in pending {
            let written = match &what {
                Some(json) => {
                    self.store.commit_runtime(&uid, json).map(drop).map_err(|e| chain(&e))
                }
                None => self.store.delete_runtime(&uid).map(drop).map_err(|e| chain(&e)),
            };
            if let Err(cause) = written {
                // The pod goes on. Tried again with whatever is written next, unless that is news of the same pod.
                warn!(%uid, %cause, "restart counts of a pod could not be written");
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                pending.entry(uid).or_insert(what);
            }
        }
    }
}

impl Keeper for RecordKeeper {
    fn keep(&self, uid: &PodUid, facts: &Restored) {
        self.queue(uid, Some(to_json(facts)));
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::store::unlucky::{Fault, Unlucky};

    #[tokio::test]
    async fn a_write_that_the_disk_refused_is_made_at_the_end() {
        let root = std::path::Path::new("/state");
        let disk = Unlucky::new(root);
        let (store, ..) = Store::open_on(Arc::new(disk.clone()), root).unwrap();
        let keeper = RecordKeeper::new(Arc::new(store));
        let uid = PodUid::new("u1");
        let step = disk.steps();
        disk.plan(Fault::Full { step });
        keeper.keep(&uid, &Restored::default());
        keeper.write();
        let stored = || Store::open_on(Arc::new(disk.clone()), root).unwrap().1.runtime;
        assert_eq!(stored().len(), 0);
        disk.mend();
        let stop = CancellationToken::new();
        stop.cancel();
        Arc::clone(&keeper).run(stop).await;
        assert_eq!(stored().len(), 1);
    }

    #[test]
    fn facts_come_back_as_they_were() {
        let facts = Restored {
            containers: vec![RestoredContainer {
                name: ContainerName::new("web"),
                next_attempt: 7,
                backoff: Duration::from_secs(160),
                finished: true,
                by_probe: true,
                last: Some(RestoredExit {
                    exit_code: 134,
                    reason: "Trapped".into(),
                    message: "unreachable".into(),
                    started_ms: -5,
                    finished_ms: 1_700_000_000_000,
                }),
            }],
            ended: Some(RestoredEnd {
                failed: true,
                reason: "DeadlineExceeded".into(),
                message: "late".into(),
            }),
        };
        assert_eq!(from_json(&to_json(&facts)).unwrap(), facts);
        assert!(from_json(b"{\"containers\": 3}").is_err());
    }
}
