//! One transfer, several who wait for it.
//!
//! Owns: who waits for what, and ending a transfer that nobody waits for. Not: what a transfer does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::artifact::failure::{FetchError, FetchFault};
use crate::artifact::intake::Progress;
use crate::image::Digest;

use super::Fetched;

/// What became of a transfer.
type Outcome = Option<Result<Fetched, FetchError>>;

/// The transfers under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Transfers(Arc<Mutex<BTreeMap<Digest, Entry>>>);

#[derive(Clone, Debug)]
struct Entry {
    interest: Weak<Interest>,
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Outcome>,
}

/// Held by whoever waits; the last one to go ends the transfer.
#[derive(Debug)]
struct Interest(CancellationToken);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A transfer, seen by one who waits.
#[derive(Debug)]
pub(super) struct Waiting {
    digest: Digest,
    own: bool,
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Outcome>,
    _interest: Arc<Interest>,
}

impl Transfers {
    /// The transfer of that digest; if there is none, it is begun with `work`, in a task of its own.
    pub(super) fn join_or_begin<F>(
        &self,
        digest: Digest,
        work: impl FnOnce(watch::Sender<Progress>) -> F,
    ) -> Waiting
    where
        F: Future<Output = Result<Fetched, FetchError>> + Send + 'static,
    {
        let mut transfers = self.lock();
        if let Some(entry) = transfers.get(&digest)
            && let Some(interest) = entry.interest.upgrade()
        {
            let (progress, outcome) = (entry.progress.clone(), entry.outcome.clone());
            return Waiting { digest, own: false, progress, outcome, _interest: interest };
        }
        let cancel = CancellationToken::new();
        let interest = Arc::new(Interest(cancel.clone()));
        let (tell, progress) = watch::channel(Progress::default());
        let (done, outcome) = watch::channel(None);
        let entry = Entry {
            interest: Arc::downgrade(&interest),
            progress: progress.clone(),
            outcome: outcome.clone(),
        };
        transfers.insert(digest, entry);
        let (all, work) = (self.clone(), work(tell));
        tokio::spawn(async move {
            // On cancellation nobody is left to be told. A panic drops `done`, which tells those who wait.
            if let Some(outcome) = cancel.run_until_cancelled(work).await {
                done.send_replace(Some(outcome));
            }
            all.forget(&digest, &done);
        });
        Waiting { digest, own: true, progress, outcome, _interest: interest }
    }

    /// Only this very transfer: another one of the same content may have begun meanwhile.
    fn forget(&self, digest: &Digest, done: &watch::Sender<Outcome>) {
        let mut transfers = self.lock();
        let is_it = |entry: &Entry| entry.outcome.same_channel(&done.subscribe());
        if transfers.get(digest).is_some_and(is_it) {
            transfers.remove(digest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether it is made for this one who waits, with his sources.
    pub(super) fn is_own(&self) -> bool {
        self.own
    }

    /// Waits for the end; tells of every change before it.
    pub(super) async fn wait(
        mut self,
        tell: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<Fetched, FetchError> {
        loop {
            tokio::select! {
                biased;
                changed = self.outcome.wait_for(Option::is_some) => {
                    let outcome = changed.ok().and_then(|outcome| outcome.clone());
                    let digest = self.digest;
                    return outcome
                        .unwrap_or_else(|| Err(FetchError::new(FetchFault::Internal { digest })));
                }
                Ok(()) = self.progress.changed() => {
                    let progress = self.progress.borrow_and_update().clone();
                    tell(&progress);
                }
            }
        }
    }
}
