//! Turns the engines' epoch while guests run, and only then.
//!
//! Owns: one OS thread. Each tick makes running guest code come back to its executor at the next loop or call, so that nobody keeps a
//! thread. It is a thread and not a task, because a task would wait behind the very guests that it is to interrupt.
//!
//! ```text
//!            a guest is polled                   no poll for two ticks, none in progress
//!  parked ───────────────────► ticking ──────────────────────────────────────────────► parked
//! ```
//! Parked costs nothing: a node whose guests all wait has no wake-ups from here. The handshake is Dekker's: a poll marks its slot, then
//! looks whether the ticker is parked; the ticker says that it is parked, then looks at the slots. One of them
//! sees the other.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// Time that a guest keeps a thread, as long as another thread is free for whoever wakes up.
const TICK: Duration = Duration::from_millis(5);

/// The same when all guest threads are busy: whoever wakes up now waits for as many turns as guests stand before it.
const CROWDED_TICK: Duration = Duration::from_micros(500);

/// Ticks for which the short tick stays after a thread was last seen free: a crowd is not gone because one of it is just being
/// changed for another.
const CALM_TICKS: u32 = 20;

/// Ticks without any poll after which the ticker parks. Two, so that a guest that works in short bursts does not wake
/// this thread for each.
const QUIET_TICKS: u32 = 2;

/// Handle to the thread; ends it on drop.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    engines: Vec<EngineHandle>,
    /// One per guest thread, made at its first poll.
    slots: Mutex<Vec<Arc<Slot>>>,
    guest_threads: usize,
    parked: AtomicBool,
    ended: AtomicBool,
    ticks: AtomicU64,
    thread: OnceLock<Thread>,
}

struct EngineHandle(EngineWeak);

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

/// What one guest thread is doing. Written by that thread only, so that polls on two cores do not fight for a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    polling: AtomicBool,
    polls: AtomicU64,
}

thread_local! {
    /// This thread's slot, and whose it is: a thread of a test may serve two runtimes one after the other.
    static SLOT: RefCell<Option<(usize, Arc<Slot>)>> = const { RefCell::new(None) };
}

impl Ticker {
    /// Starts the thread, parked.
    ///
    /// # Errors
    /// The operating system's, if it has no thread for us.
    pub(crate) fn start(engines: &[&Engine], guest_threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            engines: engines.iter().map(|engine| EngineHandle(engine.weak())).collect(),
            slots: Mutex::default(),
            guest_threads,
            parked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            thread: OnceLock::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ticker".into())
            .stack_size(128 << 10)
            .spawn(move || {
                let _ = theirs.thread.set(std::thread::current());
                theirs.run();
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What guests' polls report to.
    pub(crate) fn pulse(&self) -> Pulse {
        Pulse(Arc::clone(&self.shared))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It holds no lock and waits for nothing longer than a tick.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut seen = 0;
        let mut quiet = 0;
        let mut calm = CALM_TICKS;
        while !self.ended.load(Ordering::SeqCst) {
            let (polling, polls) = self.look();
            quiet = if polling == 0 && polls == seen { quiet + 1 } else { 0 };
            seen = polls;
            if quiet > QUIET_TICKS {
                self.park();
                quiet = 0;
                continue;
            }
            calm = if polling >= self.guest_threads { 0 } else { calm.saturating_add(1) };
            // May end early, by a wake-up meant for the time before: one short tick.
            std::thread::park_timeout(if calm < CALM_TICKS { CROWDED_TICK } else { TICK });
            for engine in &self.engines {
                if let Some(engine) = engine.0.upgrade() {
                    engine.increment_epoch();
                }
            }
            self.ticks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while self.parked.load(Ordering::SeqCst)
            && self.look().0 == 0
            && !self.ended.load(Ordering::SeqCst)
        {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    /// How many threads poll a guest now, and how many polls there have been.
    fn look(&self) -> (usize, u64) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // A slot that only we hold belonged to a thread that is gone.
        slots.retain(|slot| Arc::strong_count(slot) > 1);
        slots.iter().fold((0, 0u64), |(polling, polls), slot| {
            (
                polling + usize::from(slot.polling.load(Ordering::SeqCst)),
                polls.wrapping_add(slot.polls.load(Ordering::Relaxed)),
            )
        })
    }
}

/// Tells the ticker when guests are polled.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Arc<Shared>);

impl Pulse {
    /// Runs `poll` with the epoch turning.
    pub(crate) fn during<R>(&self, poll: impl FnOnce() -> R) -> R {
        let slot = self.slot();
        let polls = slot.polls.load(Ordering::Relaxed);
        slot.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
        slot.polling.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.0.parked.load(Ordering::Relaxed) {
            self.wake();
        }
        let _over = Over(&slot);
        poll()
    }

    /// Ticks now instead of at the end of the tick, if it ticks at all: somebody has to see something.
    pub(crate) fn hurry(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.0.parked.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
    }

    fn slot(&self) -> Arc<Slot> {
        let ours = Arc::as_ptr(&self.0).addr();
        SLOT.with_borrow_mut(|slot| match slot {
            Some((whose, slot)) if *whose == ours => Arc::clone(slot),
            _ => {
                let new = Arc::new(Slot::default());
                let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
                slots.push(Arc::clone(&new));
                *slot = Some((ours, Arc::clone(&new)));
                new
            }
        })
    }

    /// Ticks so far.
    #[cfg(test)]
    pub(crate) fn ticks(&self) -> u64 {
        self.0.ticks.load(Ordering::Relaxed)
    }

    /// Whether the thread sleeps until a guest runs.
    #[cfg(test)]
    pub(crate) fn is_parked(&self) -> bool {
        self.0.parked.load(Ordering::SeqCst)
    }
}

/// Ends a poll, also when it unwinds.
struct Over<'a>(&'a Slot);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.polling.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn eventually(what: &str, holds: impl Fn() -> bool) {
        let start = crate::clock::Clock::start();
        while !holds() {
            assert!(start.now().mono() < Duration::from_secs(10), "not in time: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_ticks_while_a_poll_lasts_and_parks_afterwards() {
        let engine = Engine::default();
        let ticker = Ticker::start(&[&engine], 2).unwrap();
        let pulse = ticker.pulse();
        for _ in 0..3 {
            eventually("parked", || pulse.is_parked());
            let before = pulse.ticks();
            pulse.during(|| eventually("ticking", || pulse.ticks() > before + 3));
        }
        eventually("parked again", || pulse.is_parked());
        let parked_at = pulse.ticks();
        // Nothing runs: the count stands still, however long one looks.
        (0..100_000).for_each(|_| std::thread::yield_now());
        assert_eq!(pulse.ticks(), parked_at);
    }

    #[test]
    fn a_poll_that_unwinds_does_not_keep_it_awake() {
        let engine = Engine::default();
        let ticker = Ticker::start(&[&engine], 2).unwrap();
        let pulse = ticker.pulse();
        let theirs = pulse.clone();
        std::thread::spawn(move || theirs.during(|| panic!("as expected by this test")))
            .join()
            .unwrap_err();
        eventually("parked", || pulse.is_parked());
    }
}
