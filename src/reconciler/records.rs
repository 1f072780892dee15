//! The run-time facts that survive a restart of the daemon, as they stand on disk.
//!
//! Owns: their JSON form and writing them behind the workers' backs: the newest wins, one write at a time, nothing when
//! nothing changed. Not: when they change (`lifecycle` says `Persist`, at most once for each back-off step).
//!
//! They stand under the pod's UID. A pod that changes in place keeps its UID, and the removal of what its last form left behind is a write
//! like any other, which a power cut may forestall: then the next form would be told that it is over before it began. So each record says
//! which form it is about, and holds for no other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::form::Form;
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
    /// Absent for pods that have one form only, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<Form>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    next_attempt: u32,
    backoff_ms: u64,
    /// Absent where there is no back-off, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
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

/// What a record says of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub facts: Restored,
    pub form: Option<Form>,
}

impl Remembered {
    /// The facts, if they are about this form of the pod.
    #[must_use]
    pub fn of(self, form: Option<&Form>) -> Option<Restored> {
        let holds = match (&self.form, form) {
            (Some(theirs), Some(form)) => theirs.runs_as(form),
            (None, _) | (_, None) => true,
        };
        holds.then_some(self.facts)
    }
}

/// The facts as bytes for the store.
#[must_use]
pub fn to_json(facts: &Restored, form: Option<&Form>) -> Vec<u8> {
    let container = |c: &RestoredContainer| Container {
        name: c.name.to_string(),
        next_attempt: c.next_attempt,
        backoff_ms: u64::try_from(c.backoff.as_millis()).unwrap_or(u64::MAX),
        image: c.image.clone(),
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
        form: form.cloned(),
    };
    serde_json::to_vec(&form).expect("strings and numbers always have a JSON form")
}

/// The facts from a record.
///
/// # Errors
/// If the record is of another form: the pod then starts without a past.
pub fn from_json(json: &[u8]) -> Result<Remembered, serde_json::Error> {
    let form: Facts = serde_json::from_slice(json)?;
    let container = |c: Container| RestoredContainer {
        name: ContainerName::new(&c.name),
        next_attempt: c.next_attempt,
        backoff: Duration::from_millis(c.backoff_ms),
        image: c.image,
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
    let facts = Restored {
        containers: form.containers.into_iter().map(container).collect(),
        ended: form.ended.map(end),
    };
    Ok(Remembered { facts, form: form.form })
}

/// What is to be written of one pod: its facts, or that there is nothing to remember any more.
type Pending = BTreeMap<PodUid, Option<Vec<u8>>>;

/// Keeps facts in the store. Bounded: one entry for each pod that there is.
#[derive(Debug)]
pub struct RecordKeeper {
    store: Arc<Store>,
    pending: Mutex<Pending>,
    /// Which form each pod that can have several runs in now.
    forms: Mutex<BTreeMap<PodUid, Form>>,
    changed: Notify,
}

impl RecordKeeper {
    #[must_use]
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        let (pending, forms) = (Mutex::default(), Mutex::default());
        Arc::new(Self { store, pending, forms, changed: Notify::new() })
    }

    /// From now on what is kept of a pod is about this form of it.
    pub fn begins(&self, uid: &PodUid, form: Option<Form>) {
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        match form {
            Some(form) => drop(forms.insert(uid.clone(), form)),
            None => drop(forms.remove(uid)),
        }
    }

    /// Removes what is remembered of a pod.
    pub fn forget(&self, uid: &PodUid) {
        self.begins(uid, None);
        self.queue(uid, None);
    }

    /// The same, without a write of its own: what is remembered of the pod's next form takes its place in a moment.
    pub fn forget_with_the_next(&self, uid: &PodUid) {
        self.begins(uid, None);
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
        let form = self.forms.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
        self.queue(uid, Some(to_json(facts, form.as_ref())));
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    use super::*;
    use crate::store::unlucky::{Fault, Survival, Unlucky};

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

    /// A pod over MQTT that changes in place, as its disk sees it: the source's record says which intent is wanted, and the node acts on it.
    struct Life {
        disk: Unlucky,
        store: Arc<Store>,
        keeper: Arc<RecordKeeper>,
        /// The content whose end is known to be on disk.
        ended: Option<&'static str>,
        wanted: Option<(&'static str, &'static str)>,
    }

    const STATE: &str = "/state";

    impl Life {
        fn new() -> Self {
            let disk = Unlucky::new(Path::new(STATE));
            let (store, ..) = Store::open_on(Arc::new(disk.clone()), Path::new(STATE)).unwrap();
            let store = Arc::new(store);
            let keeper = RecordKeeper::new(Arc::clone(&store));
            Self { disk, store, keeper, ended: None, wanted: None }
        }

        /// Durable, and only then acted upon. False when the power is gone.
        fn want(&mut self, intent: &'static str, content: &'static str) -> bool {
            let record = format!("{intent} {content}");
            if self.store.commit_mqtt("pod.default.a", record.as_bytes()).is_err() {
                return false;
            }
            let uid = PodUid::new("u");
            if self.wanted.is_some_and(|(_, before)| before != content) {
                self.ended = None;
                self.keeper.forget(&uid);
            }
            if self.wanted.is_none_or(|(_, before)| before != content) {
                self.keeper.begins(&uid, Some(Form::named(intent, content)));
            }
            self.wanted = Some((intent, content));
            true
        }

        fn keep(&self, ended: bool) {
            let (_, content) = self.wanted.unwrap();
            let (reason, message) = ("Completed".to_owned(), content.to_owned());
            let ended = ended.then_some(RestoredEnd { failed: false, reason, message });
            self.keeper.keep(&PodUid::new("u"), &Restored { containers: vec![], ended });
        }

        fn write(&mut self, ended: bool) {
            self.keeper.write();
            let all_written = self.keeper.pending.lock().unwrap().is_empty();
            if ended && all_written {
                self.ended = self.wanted.map(|(_, content)| content);
            }
        }

        /// Every order in which a replacement and the writes about it can come.
        fn tell(&mut self) -> Option<()> {
            let go_on = |lives: bool| lives.then_some(());
            go_on(self.want("i1", "A"))?;
            self.keep(false);
            self.write(false);
            self.keep(true);
            self.write(true);
            // Its predecessor's end is removed by a write of its own.
            go_on(self.want("i2", "B"))?;
            self.write(false);
            self.keep(true);
            self.write(true);
            // Only a label changes.
            go_on(self.want("i3", "B"))?;
            // Here the removal and what comes in its place are one write.
            go_on(self.want("i4", "C"))?;
            self.keep(false);
            self.write(false);
            self.keep(true);
            self.write(true);
            // Nothing is written for a while.
            go_on(self.want("i5", "D"))?;
            go_on(self.want("i6", "E"))?;
            self.write(false);
            self.keep(true);
            self.write(true);
            Some(())
        }

        /// What the next life of the daemon makes of it.
        fn check_after(&self, survival: Survival) -> Result<(), String> {
            let disk = Arc::new(self.disk.reboot(survival));
            let (_, loaded, _) = Store::open_on(disk, Path::new(STATE)).map_err(|e| chain(&e))?;
            let Some(record) = loaded.mqtt.first() else { return Ok(()) };
            let text = String::from_utf8(record.content.clone()).unwrap();
            let (intent, content) = text.split_once(' ').unwrap();
            let remembered = loaded.runtime.first().map(|record| from_json(&record.json).unwrap());
            let facts = remembered.and_then(|r| r.of(Some(&Form::named(intent, content))));
            let end = facts.and_then(|facts| facts.ended).map(|end| end.message);
            match end.as_deref() {
                Some(of) if of != content => Err(format!("{text} is taken for ended: {of} is")),
                None if self.ended == Some(content) => Err(format!("{text} would run again")),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn whenever_the_power_goes_no_form_of_a_pod_is_taken_for_an_ended_other_one() {
        let mut whole = Life::new();
        assert!(whole.tell().is_some());
        let steps = whole.disk.steps();
        assert!(steps > 40, "the story tells too little: {steps}");
        let random = (1..=16).map(Survival::Random);
        let survivals: Vec<_> =
            [Survival::Nothing, Survival::Everything].into_iter().chain(random).collect();
        for step in Life::new().disk.steps()..=steps {
            let mut life = Life::new();
            life.disk.plan(Fault::PowerCut { step });
            let _ = life.tell();
            for survival in &survivals {
                let checked = life.check_after(*survival);
                checked.unwrap_or_else(|e| panic!("cut at step {step}, {survival:?}: {e}"));
            }
        }
    }

    #[test]
    fn facts_come_back_as_they_were() {
        let facts = Restored {
            containers: vec![RestoredContainer {
                name: ContainerName::new("web"),
                next_attempt: 7,
                backoff: Duration::from_secs(160),
                image: Some("web:2".into()),
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
        for form in [None, Some(Form::named("i", "c"))] {
            let expected = Remembered { facts: facts.clone(), form: form.clone() };
            assert_eq!(from_json(&to_json(&facts, form.as_ref())).unwrap(), expected);
        }
        assert!(from_json(b"{\"containers\": 3}").is_err());
    }
}
