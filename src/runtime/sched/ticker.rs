//! Turns the engines' epoch while guests run, and only then.
//!
//! Owns: one OS thread. Each tick makes running guest code look up at the next loop or call, pay for what it has used and step back if
//! it is another one's turn, so that nobody keeps a thread. It is a thread and not a task, because a task would wait behind the very guests
//! that it is to interrupt.
//!
//! ```text
//!            a lane has work                       no lane has for some ticks
//!  parked ───────────────────► ticking ──────────────────────────────────────► parked
//! ```
//! Parked costs nothing: a node whose guests all wait has no wake-ups from here. The handshake is Dekker's: a lane that is woken is
//! taken off the list of idle ones, then the waker looks whether the ticker is parked; the ticker says that it is parked, then looks at the
//! list. One of them sees the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

use super::Inner;
use super::watch::Seen;

/// Time that a guest keeps a thread, as long as nobody waits for one.
const TICK: Duration = Duration::from_millis(2);

/// The same while somebody waits.
const CROWDED_TICK: Duration = Duration::from_millis(1);

/// Ticks for which the short tick stays after somebody was last seen waiting.
const CALM_TICKS: u32 = 20;

/// Ticks without any work after which the ticker parks: so many that a guest that works every ten milliseconds does not wake this
/// thread each time.
const QUIET_TICKS: u32 = 5;

/// What a tick turns.
#[derive(Clone, Default)]
pub(crate) struct Epochs(Arc<Turns>);

#[derive(Default)]
struct Turns {
    /// As many as there are ways to compile (`profiles.rs`).
    engines: RwLock<Vec<EngineWeak>>,
    count: AtomicU64,
}

impl Epochs {
    /// From now on `engine` turns too.
    pub(crate) fn add(&self, engine: &Engine) {
        self.0.engines.write().unwrap_or_else(PoisonError::into_inner).push(engine.weak());
    }

    /// Makes every guest that runs look up.
    pub(crate) fn turn(&self) {
        // Before the engines: whoever looks up because of this one knows that it is one, and sees what it was turned for.
        self.0.count.fetch_add(1, Ordering::Release);
        let engines = self.0.engines.read().unwrap_or_else(PoisonError::into_inner);
        for engine in engines.iter() {
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        }
    }

    /// Times that it has turned.
    pub(super) fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Epochs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epochs").field("turned", &self.0.count).finish_non_exhaustive()
    }
}

/// The thread's state, for those who wake it.
#[derive(Debug, Default)]
pub(super) struct Bell {
    parked: AtomicBool,
    ended: AtomicBool,
    /// The next tick is to be a short one.
    hurried: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Bell {
    /// Somebody waits for a turn that was too young to be cut: the next tick is a short one, from now.
    pub(super) fn hurry(&self) {
        if !self.hurried.swap(true, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    #[cfg(test)]
    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// A lane has work. Called after it was taken off the list of idle ones.
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed)
            && self.parked.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// Handle to the thread; ends it on drop.
#[derive(Debug)]
pub(super) struct Ticker {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread, parked.
    ///
    /// # Errors
    /// The operating system's, if it has no thread for us.
    pub(super) fn start(scheduler: &Arc<Inner>) -> std::io::Result<Self> {
        let bell = Arc::clone(&scheduler.bell);
        let theirs = Arc::downgrade(scheduler);
        let thread = std::thread::Builder::new()
            .name("ticker".into())
            .stack_size(128 << 10)
            .spawn(move || run(&theirs))?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.bell.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It holds no lock and waits for nothing longer than a tick.
            let _ = thread.join();
        }
    }
}

fn run(scheduler: &Weak<Inner>) {
    let Some(scheduler) = scheduler.upgrade() else { return };
    let bell = &scheduler.bell;
    let _ = bell.thread.set(std::thread::current());
    let mut seen = vec![Seen::default(); scheduler.lanes.len()];
    let (mut wakeups, mut quiet, mut calm) = (0, 0, CALM_TICKS);
    while !bell.ended.load(Ordering::SeqCst) {
        let wakeups_now = scheduler.wakeups.load(Ordering::Relaxed);
        quiet = if scheduler.busy() == 0 && wakeups == wakeups_now { quiet + 1 } else { 0 };
        wakeups = wakeups_now;
        if quiet > QUIET_TICKS {
            park(&scheduler, bell);
            quiet = 0;
            continue;
        }
        let crowded = scheduler.look_after(&mut seen);
        calm = if crowded { 0 } else { calm.saturating_add(1) };
        let short = calm < CALM_TICKS;
        bell.hurried.store(short, Ordering::Relaxed);
        // May end early, by a wake-up meant for the time before: one short tick.
        std::thread::park_timeout(if short { CROWDED_TICK } else { TICK });
        if !short && bell.hurried.load(Ordering::Relaxed) {
            calm = 0;
            continue;
        }
        scheduler.epochs.turn();
    }
}

fn park(scheduler: &Inner, bell: &Bell) {
    bell.parked.store(true, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    while bell.parked.load(Ordering::SeqCst)
        && scheduler.busy() == 0
        && !bell.ended.load(Ordering::SeqCst)
    {
        std::thread::park();
    }
    bell.parked.store(false, Ordering::SeqCst);
}
