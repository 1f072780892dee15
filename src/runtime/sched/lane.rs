//! One guest thread: what it does now, and who was woken on it.
//!
//! Owns: the thread's state as others see it. Is not: the choice of what it does next (`mod.rs`). A lane is written by its own thread but for
//! its local queue, its wake-up and the request to step back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread::Thread;

use super::reactor::GLANCE_NS;
use super::task::Task;
use super::{ALONE_NS, Inner};
use crate::runtime::cputime::{ThreadClock, monotonic_ns};

#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Lane {
    /// Woken by what runs here, and likely to be answered here: in the order they were woken.
    pub(super) local: Mutex<VecDeque<Arc<Task>>>,
    /// Turns begun and ended: odd during a turn.
    pub(super) turns: AtomicU64,
    /// When the turn in progress began, monotonic nanoseconds.
    pub(super) began: AtomicU64,
    /// When whoever has the turn last woke another one, or began.
    spoke: AtomicU64,
    /// Virtual time of whoever has the turn.
    pub(super) used: AtomicU64,
    /// Somebody waits who should run before whoever has the turn.
    pub(super) step_back: AtomicBool,
    /// Whom it wakes now, any lane may take.
    generous: AtomicBool,
    /// When it last asked for the kernel's sockets, monotonic nanoseconds.
    glanced: AtomicU64,
    /// Turns in a row that it has given before somebody in the common queue who has used no more.
    ahead: AtomicU32,
    /// Set by whoever wants the thread to go on.
    awake: AtomicBool,
    /// Times that whoever had the turn looked up.
    pub(super) looks: AtomicU64,
    pub(super) thread: OnceLock<Thread>,
    /// Where the kernel tells what the thread does, and the clock of its CPU time.
    kernel: OnceLock<(String, ThreadClock)>,
}

impl Lane {
    pub(super) fn local(&self) -> MutexGuard<'_, VecDeque<Arc<Task>>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a turn of somebody with `used` virtual time.
    pub(super) fn begin(&self, used: u64, now: u64) {
        self.began.store(now, Ordering::Relaxed);
        self.spoke.store(now, Ordering::Relaxed);
        self.used.store(used, Ordering::Relaxed);
        self.step_back.store(false, Ordering::Relaxed);
        self.count();
    }

    /// Whoever has the turn wakes another one; returns whether that may be any lane's.
    pub(super) fn speaks_to_all(&self, now: u64) -> bool {
        let before = self.spoke.load(Ordering::Relaxed);
        self.spoke.store(now, Ordering::Relaxed);
        now.saturating_sub(before) > ALONE_NS || self.generous.load(Ordering::Relaxed)
    }

    /// Wakes those whose sockets are ready, between turns: the first for this lane, others for whoever has nothing to do.
    pub(super) fn hand_out(&self, ready: &mut Vec<Waker>) {
        if ready.is_empty() {
            return;
        }
        let now = monotonic_ns();
        self.began.store(now, Ordering::Relaxed);
        self.spoke.store(now, Ordering::Relaxed);
        for waker in ready.drain(..) {
            waker.wake();
            self.generous.store(true, Ordering::Relaxed);
        }
        self.generous.store(false, Ordering::Relaxed);
    }

    /// Whether it is time to ask for the kernel's sockets; the turn before this is what counts as now.
    pub(super) fn is_to_glance(&self) -> bool {
        let now = self.began.load(Ordering::Relaxed);
        let due = now.saturating_sub(self.glanced.load(Ordering::Relaxed)) > GLANCE_NS;
        if due {
            self.glanced.store(now, Ordering::Relaxed);
        }
        due
    }

    /// Whether it gives one more turn before somebody in the common queue: `max` in a row, then it is that one's turn.
    pub(super) fn goes_ahead(&self, max: u32) -> bool {
        let ahead = self.ahead.load(Ordering::Relaxed);
        self.ahead.store(if ahead < max { ahead + 1 } else { 0 }, Ordering::Relaxed);
        ahead < max
    }

    /// The turn that it gives next is before nobody who has used as little.
    pub(super) fn counts_anew(&self) {
        self.ahead.store(0, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.count();
    }

    /// How long ago the turn began, in progress or the last, nanoseconds.
    pub(super) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.began.load(Ordering::Relaxed))
    }

    fn count(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(1), Ordering::Release);
    }

    /// This thread is the lane from now on.
    pub(super) fn occupy(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let stat = format!("/proc/self/task/{thread}/stat");
        let _ = self.kernel.set((stat, ThreadClock::mine()));
        let _ = self.thread.set(std::thread::current());
    }

    /// Whoever has the turn looks up: it is not in a host function.
    pub(super) fn look(&self) {
        let looks = self.looks.load(Ordering::Relaxed);
        self.looks.store(looks.wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether the thread waits for something in the kernel. Opens and reads a file, which costs some ten microseconds: not for each tick.
    pub(super) fn sleeps(&self) -> bool {
        // After the name, in brackets, which may contain anything: one letter.
        let state = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        let stat = self.kernel.get().and_then(|(stat, _)| std::fs::read_to_string(stat).ok());
        matches!(stat.and_then(state), Some('S' | 'D'))
    }

    /// CPU time of the thread up to now, nanoseconds; `None` where the kernel does not tell. One system call.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        self.kernel.get()?.1.ns()
    }

    /// Waits until somebody wants this thread. Called by its own thread only.
    pub(super) fn park(&self) {
        while !self.is_wanted() {
            std::thread::park();
        }
    }

    /// Whether somebody wants this thread; asked by itself, once for each time.
    pub(super) fn is_wanted(&self) -> bool {
        self.awake.swap(false, Ordering::SeqCst)
    }

    /// Ends [`Lane::park`].
    pub(super) fn unpark(&self) {
        self.awake.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

thread_local! {
    /// The lane that this thread is.
    static HERE: RefCell<Option<(Arc<Inner>, usize)>> = const { RefCell::new(None) };
}

/// Makes this thread the lane `index` of `scheduler` for as long as `work` lasts.
pub(super) fn being<R>(scheduler: &Arc<Inner>, index: usize, work: impl FnOnce() -> R) -> R {
    HERE.set(Some((Arc::clone(scheduler), index)));
    let result = work();
    HERE.set(None);
    result
}

/// What this thread is, if it is a lane.
pub(super) fn here<R>(look: impl FnOnce(&Inner, usize, &Lane) -> R) -> Option<R> {
    // A waker may be used while a thread ends and its variables are gone.
    HERE.try_with(|here| {
        let here = here.borrow();
        here.as_ref().map(|(inner, index)| look(inner, *index, &inner.lanes[*index]))
    })
    .ok()
    .flatten()
}
