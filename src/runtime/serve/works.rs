//! Handlers of one connection that work on although hyper does not wait for them: the response's body is under way, or is done,
//! or the client has gone.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

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
pub(super) struct Works(Mutex<Vec<Work>>);

impl Works {
    fn list(&self) -> MutexGuard<'_, Vec<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
