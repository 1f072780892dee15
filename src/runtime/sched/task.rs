//! One run as the scheduler sees it: a future, whether it wants to run, and its share.
//!
//! ```text
//!            wake                    a thread takes it               pending
//!   idle ─────────► SCHEDULED (queued) ────────────► RUNNING ─────────────────► idle
//!                        ▲                              │ wake: RUNNING + SCHEDULED, queued again after this turn
//!                        └──────────────────────────────┤
//!                                                       └─ ready, or it panicked ─► OVER
//! ```
//! Each task is in one queue at most, and polled by one thread at most. The lock of the future is there for safety's
//! sake and never waited for while it runs.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::Inner;
use super::queue::Waits;
use super::share::Share;

pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

const SCHEDULED: u8 = 1;
const RUNNING: u8 = 2;
const OVER: u8 = 4;

/// Whether the tasks of one run are to end: then they go first. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Urgency(Arc<AtomicBool>);

impl Urgency {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

pub(super) struct Task {
    pub(super) id: u64,
    pub(super) share: Arc<Share>,
    urgency: Urgency,
    state: AtomicU8,
    work: Mutex<Option<Work>>,
    /// Nobody will give it a turn any more.
    cancelled: AtomicBool,
    scheduler: Weak<Inner>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits to be woken.
    Idle,
    /// It wants to go on: it yielded, or was woken meanwhile.
    Again,
    Over,
}

impl Task {
    pub(super) fn new(
        id: u64,
        share: Arc<Share>,
        urgency: Urgency,
        work: Work,
        scheduler: Weak<Inner>,
    ) -> Arc<Self> {
        let (state, work) = (AtomicU8::new(0), Mutex::new(Some(work)));
        let cancelled = AtomicBool::new(false);
        Arc::new(Self { id, share, urgency, state, work, cancelled, scheduler })
    }

    /// Its place among those who want to run: what its share has used; that of a run that is to end is before all others.
    pub(super) fn due(&self) -> u64 {
        if self.urgency.get() { 0 } else { self.share.used() }
    }

    /// Polls it once. Only whoever took it out of a queue may.
    pub(super) fn turn(self: &Arc<Self>) -> Turn {
        self.state.swap(RUNNING, Ordering::AcqRel);
        if self.poll() {
            self.state.store(OVER, Ordering::Release);
            return Turn::Over;
        }
        if self.cancelled.load(Ordering::SeqCst) {
            self.cancel();
            self.state.store(OVER, Ordering::Release);
            return Turn::Over;
        }
        match self.state.compare_exchange(RUNNING, 0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Turn::Idle,
            Err(_) => {
                self.state.swap(SCHEDULED, Ordering::AcqRel);
                Turn::Again
            }
        }
    }

    /// Whether it is over.
    fn poll(self: &Arc<Self>) -> bool {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = work.as_mut() else { return true };
        let waker = Waker::from(Arc::clone(self));
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(())) => {}
            Err(panic) => report(&*panic),
        }
        drop_quietly(work.take());
        true
    }

    /// Drops the future; where a thread is inside it, that does so when it comes out.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let work = match self.work.try_lock() {
            Ok(mut work) => work.take(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        drop_quietly(work);
    }
}

impl Waits for Arc<Task> {
    fn share(&self) -> &Arc<Share> {
        &self.share
    }

    fn is_urgent(&self) -> bool {
        self.urgency.get()
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Also where it is scheduled already: the turn to come must see what was written before this.
        let before = self.state.fetch_or(SCHEDULED, Ordering::AcqRel);
        if before == 0
            && let Some(scheduler) = self.scheduler.upgrade()
        {
            scheduler.woken(Arc::clone(self));
        }
    }
}

/// Dropping a future runs destructors of ours, and one with a bug must not take the thread with it.
fn drop_quietly(work: Option<Work>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(work))) {
        report(&*panic);
    }
}

fn report(panic: &(dyn Any + Send)) {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("something that is not text");
    tracing::error!("a run's task panicked: {words}");
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
