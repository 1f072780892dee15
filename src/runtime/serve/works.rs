//! Handlers of one connection that work on although hyper does not wait for them: the response's body is under way, or is done,
//! or the client has gone.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::instances::Ready;

/// How a handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It returned.
    Orderly,
    /// It did not; that has been logged and counted.
    Broken,
    /// There was no memory for it.
    Crowded,
}

/// A handler at work, with everything it holds.
pub(super) type Work = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// Polled by the strand of the connection. As many as requests under way at most, by the server's admission.
#[derive(Default)]
pub(super) struct Works {
    list: Mutex<Vec<Work>>,
    /// Instances that have done their work, and go when the response has gone out: unmapping one takes as long as a short handler.
    done: Mutex<Vec<Ready>>,
}

impl Works {
    fn list(&self) -> MutexGuard<'_, Vec<Work>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance that is not needed any more.
    pub(super) fn leave(&self, done: Ready) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(done);
    }

    /// Lets go of those that have done their work.
    pub(super) fn let_go(&self) {
        let done = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        drop(done);
    }

    pub(super) fn add(&self, work: Work) {
        self.list().push(work);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Polls each; returns whether one ended.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> bool {
        // Not under the lock: a handler is guest code.
        let mut works = std::mem::take(&mut *self.list());
        if works.is_empty() {
            return false;
        }
        let before = works.len();
        works.retain_mut(|work| work.as_mut().poll(cx) == Poll::Pending);
        let ended = works.len() < before;
        let mut list = self.list();
        works.append(&mut list);
        *list = works;
        ended
    }
}
