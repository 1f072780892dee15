//! The guests' threads, and who runs on which of them.
//!
//! Owns: the threads ("lanes"), the queues, and the decision who is next. Is not: the tokio runtime that guests' timers and blocking work
//! use (its one thread only wakes tasks), nor CPU limits (`meter.rs`).
//!
//! ```text
//!                     woken by a guest, on its lane ──► that lane's local queue ──┐
//!  a task is woken ──┤                                                            ├──► a turn on a lane
//!                     woken from elsewhere ──► the common queue, by virtual time ─┘      │
//!                           ▲            └──► wakes an idle lane, or asks the one        │
//!                           │                 that is most ahead to step back            │
//!                           └────────────── wants to go on (its slice is over) ◄─────────┘
//! ```
//! **Together while they wait on each other, apart while they compute.** A task that a guest wakes is put behind that guest on the same
//! thread: two modules that talk take turns there, and no thread has to be woken. Only when the waker has computed for a while and
//! another lane is idle does the task go there; and the ticker takes away from a lane what has waited for a whole tick, or a part of
//! what it finds waiting there at two ticks in a row while another lane is idle.
//!
//! A lane that runs out of work takes half of what waits on another, where that is more than one; and where [`LOCAL_MAX`] wait on a lane, the next is given to
//! an idle one.
//!
//! **Fair.** Local or common, whoever has used less virtual time goes first (`share.rs`). A turn is cut by the epoch: at a tick the guest
//! steps back if somebody who waits has used less than it has by then. Whoever wakes up and has used less than all who run
//! makes the epoch turn at once, so that a timer or a datagram does not wait for the tick.
//!
//! **Ended on time.** What waits for a turn only to be told that it is over does not wait behind those that have used less: a module of little
//! weight among heavy ones would be ended seconds late. It goes first ([`Urgency`]).
//!
//! **What holds its thread** (a disk that hesitates, one instruction that fills a large memory) holds nobody else: while somebody waits, the ticker puts a
//! spare lane on duty for each that is held, and takes it off again (`watch.rs`).
//!
//! **Bytes from the kernel** for tasks of ours are heard of by the lanes themselves (`reactor.rs`): one that has nothing to do waits for them, and works on what comes.
//!
//! **Nothing is lost.** The common queue and the list of idle lanes are under one lock; what is in a local queue is run by its own lane
//! at the end of its turn at the latest, or by the one that has taken it over.

mod lane;
mod queue;
mod reactor;
mod share;
#[cfg(test)]
mod sim;
mod socket;
#[cfg(test)]
mod socket_tests;
mod task;
#[cfg(test)]
mod tests;
mod ticker;
mod turns;
mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cputime::monotonic_ns;
use lane::{Lane, being, here};
use queue::FairQueue;
use reactor::Reactor;
use task::Task;
use ticker::{Bell, Ticker};

pub(crate) use share::{PodShare, Share};
pub use socket::LaneSocket;
pub(crate) use task::Urgency;
pub(crate) use ticker::Epochs;
pub(crate) use turns::{others_wait, should_step_back, turn_began};

/// A turn younger than this goes on at a tick, and whom it wakes waits for its end: most turns of modules that answer each other are
/// far shorter.
const SHORT_TURN_NS: u64 = 200_000;

/// Who has computed for so long without waking anybody does not look like the end of an exchange: whom it wakes now is given to an idle
/// lane. The age of the turn would not do: a kernel that runs the woken thread at once lets the waker find its answer without ever
/// waiting, and the two would stay apart for good.
const ALONE_NS: u64 = 100_000;

/// Tasks that wait on one lane while another has nothing to do. Modules that answer each other are fewer at a time: a carrier, a connection, a handler.
const LOCAL_MAX: usize = 3;

/// Turns that a lane gives, one after the other, to whom it has woken itself before the first in the common queue that has used no more. Enough for some
/// requests and their answers.
const AHEAD_MAX: u32 = 16;

/// Virtual time when the first module comes: late enough that it, too, can have the credit of one who slept, whatever it weighs.
const CLOCK_START: u64 = 1 << 40;

/// Virtual time by which the common clock may lag behind, so that not every turn writes to it.
const CLOCK_GRAIN: u64 = 10_000;

/// Lanes in reserve, for those whose thread is held. Each costs a thread while it is needed, and a parked one afterwards; disks that
/// hold more than these at once hold the node.
const SPARE_LANES: usize = 8;

/// Stack of a lane. Guests have stacks of their own; this one carries polls and destructors.
const LANE_STACK_BYTES: usize = 2 << 20;

/// The guests' threads. Stop it before it is dropped; a drop alone leaves the threads to end by themselves.
#[derive(Debug)]
pub(crate) struct Scheduler {
    inner: Arc<Inner>,
    ticker: Ticker,
}

#[derive(Debug)]
pub(crate) struct Inner {
    lanes: Box<[Lane]>,
    core: Mutex<Core>,
    /// A lane has ended.
    lane_ended: Condvar,
    /// Virtual time of the first in the common queue; the end of time if it is empty.
    first: AtomicU64,
    /// Lanes that have nothing to do.
    idle: AtomicUsize,
    /// Lanes that take tasks, and how many may.
    on_duty: AtomicUsize,
    allowed: AtomicUsize,
    /// Threads that run guests when no host function holds one.
    threads: usize,
    /// Where guests' timers and blocking work are.
    io: tokio::runtime::Handle,
    /// Times that a lane was woken.
    wakeups: AtomicU64,
    /// Virtual time as those see it who come back.
    clock: AtomicU64,
    tasks: Mutex<Tasks>,
    epochs: Epochs,
    bell: Arc<Bell>,
    /// The kernel's sockets that lanes read and write themselves.
    reactor: Arc<Reactor>,
}

#[derive(Debug)]
struct Core {
    queue: FairQueue<Arc<Task>>,
    /// Lanes that have nothing to do.
    idle: Vec<usize>,
    /// Lanes that are off duty: there are enough without them.
    resting: Vec<usize>,
    /// Lanes that have a thread: the first ones.
    started: usize,
    lanes_alive: usize,
    ending: bool,
}

#[derive(Debug, Default)]
struct Tasks {
    next: u64,
    alive: HashMap<u64, Arc<Task>>,
    /// There are no threads any more for new ones.
    closed: bool,
}

/// Starts tasks; clones are the same scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Spawner(Arc<Inner>);

impl Scheduler {
    /// Starts `threads` lanes, in which `io` is the current tokio runtime, and the ticker that turns `epochs`.
    ///
    /// # Errors
    /// The operating system's, if it has no threads for us.
    pub(crate) fn start(
        threads: usize,
        io: &tokio::runtime::Handle,
        epochs: Epochs,
    ) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            lanes: (0..threads + SPARE_LANES).map(|_| Lane::default()).collect(),
            core: Mutex::new(Core {
                queue: FairQueue::default(),
                idle: Vec::new(),
                resting: Vec::new(),
                started: 0,
                lanes_alive: 0,
                ending: false,
            }),
            lane_ended: Condvar::new(),
            first: AtomicU64::new(u64::MAX),
            idle: AtomicUsize::new(0),
            on_duty: AtomicUsize::new(0),
            allowed: AtomicUsize::new(threads),
            threads,
            io: io.clone(),
            wakeups: AtomicU64::new(0),
            clock: AtomicU64::new(CLOCK_START),
            tasks: Mutex::default(),
            epochs,
            bell: Arc::default(),
            reactor: Arc::new(Reactor::new()?),
        });
        let scheduler = Self { ticker: Ticker::start(&inner)?, inner };
        for _ in 0..threads {
            if let Err(error) = scheduler.inner.start_lane() {
                scheduler.stop(Duration::ZERO);
                return Err(error);
            }
        }
        Ok(scheduler)
    }

    pub(crate) fn spawner(&self) -> Spawner {
        Spawner(Arc::clone(&self.inner))
    }

    /// Waits `patience` for all tasks to end; then drops those that wait for something, and leaves those that run to their threads.
    pub(crate) fn stop(self, patience: Duration) {
        let Self { inner, ticker } = self;
        inner.core().ending = true;
        inner.unpark_all();
        let core = inner.core();
        let waited =
            inner.lane_ended.wait_timeout_while(core, patience, |core| core.lanes_alive > 0);
        drop(waited);
        let left: Vec<_> = {
            let mut tasks = inner.tasks();
            tasks.closed = true;
            tasks.alive.drain().map(|(_, task)| task).collect()
        };
        for task in left {
            task.cancel();
        }
        inner.core().queue.drain();
        inner.unpark_all();
        // To the last: without it, a guest that spins would never notice its end.
        drop(ticker);
    }
}

impl Spawner {
    /// Runs `work` as a task with `share`; it goes first from when `urgency` is set ([`Spawner::hasten`]). After the end it is
    /// dropped here.
    pub(crate) fn spawn(
        &self,
        share: Arc<Share>,
        urgency: Urgency,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = {
            let mut tasks = self.0.tasks();
            if tasks.closed {
                drop(tasks);
                return drop(work);
            }
            tasks.next += 1;
            let id = tasks.next;
            let task = Task::new(id, share, urgency, Box::pin(work), Arc::downgrade(&self.0));
            tasks.alive.insert(id, Arc::clone(&task));
            task
        };
        std::task::Waker::from(task).wake();
    }

    /// The tasks with `share` that have this `urgency` are to end: they go first from now on, also where they wait already.
    pub(crate) fn hasten(&self, share: &Arc<Share>, urgency: &Urgency) {
        urgency.set();
        let mut core = self.0.core();
        if !core.queue.hasten(share) {
            return;
        }
        self.0.first.store(core.queue.first(), Ordering::Relaxed);
        self.0.tell(core, 0);
    }

    /// Takes over a connection of the kernel's for tasks that are spawned here: their lanes hear themselves that it is ready.
    ///
    /// # Errors
    /// The operating system's, if it has no room to watch one more.
    pub(crate) fn adopt(&self, socket: std::net::TcpStream) -> std::io::Result<LaneSocket> {
        LaneSocket::new(socket, Arc::clone(&self.0.reactor))
    }

    /// Makes every guest that runs look up: there is something to see.
    pub(crate) fn look_up(&self) {
        self.0.epochs.turn();
    }

    /// Times that all were made to look up, at ticks and otherwise.
    pub(crate) fn ticks(&self) -> u64 {
        self.0.epochs.count()
    }
}

impl Inner {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `task` wants to run.
    fn woken(&self, task: Arc<Task>) {
        task.share.enter(self.clock.load(Ordering::Relaxed));
        let mut task = Some(task);
        here(|inner, _, lane| {
            if std::ptr::eq(inner, self)
                && let Some(task) = task.take()
            {
                self.woken_on(lane, task);
            }
        });
        if let Some(task) = task {
            self.push(task, true);
        }
    }

    /// `task` was woken by whoever has the turn on `lane`, which is this thread.
    fn woken_on(&self, lane: &Lane, task: Arc<Task>) {
        let now = monotonic_ns();
        let to_all = lane.speaks_to_all(now) || lane.local().len() >= LOCAL_MAX;
        if to_all && self.idle.load(Ordering::Relaxed) > 0 {
            return self.push(task, true);
        }
        let due = task.due();
        lane.local().push_back(task);
        if lane.age(now) > SHORT_TURN_NS && due < lane.used.load(Ordering::Relaxed) {
            self.ask_to_step_back(lane);
        }
    }

    /// Puts `task` into the common queue; `tell`: and sees to it that somebody takes it.
    fn push(&self, task: Arc<Task>, tell: bool) {
        let mut core = self.core();
        // Asked under the lock, as `hasten` asks: one of the two sees that it is to end.
        let due = task.due();
        core.queue.push(task);
        self.first.store(core.queue.first(), Ordering::Relaxed);
        if tell {
            self.tell(core, due);
        }
    }

    /// Sees to it that somebody takes what has come to be in the common queue.
    fn tell(&self, mut core: MutexGuard<'_, Core>, due: u64) {
        let idle = self.take_idle(&mut core);
        drop(core);
        match idle {
            Some(lane) => self.wake(lane),
            None => {
                self.make_room(due);
                // Who does not look up has to be noticed.
                self.bell.hurry();
            }
        }
    }

    /// Takes a lane off the list of those that have nothing to do; the caller wakes it. The one that watches the kernel's sockets is the last.
    fn take_idle(&self, core: &mut Core) -> Option<usize> {
        if let [.., _, last] = core.idle[..]
            && self.reactor.watcher() == Some(last)
        {
            let end = core.idle.len() - 1;
            core.idle.swap(end - 1, end);
        }
        let index = core.idle.pop()?;
        self.left_idle(core);
        Some(index)
    }

    /// A lane was taken off the list.
    fn left_idle(&self, core: &Core) {
        self.idle.store(core.idle.len(), Ordering::SeqCst);
        self.wakeups.fetch_add(1, Ordering::SeqCst);
    }

    fn wake(&self, index: usize) {
        self.lanes[index].unpark();
        if self.reactor.watcher() == Some(index) {
            self.reactor.alarm();
        }
        self.bell.ring();
    }

    /// All lanes are busy: whoever has used most virtual time, and more than `due`, steps back.
    fn make_room(&self, due: u64) {
        let runs = |lane: &&Lane| lane.turns.load(Ordering::Relaxed) % 2 == 1;
        let ahead =
            self.lanes.iter().filter(runs).max_by_key(|lane| lane.used.load(Ordering::Relaxed));
        if let Some(lane) = ahead
            && due < lane.used.load(Ordering::Relaxed)
        {
            self.ask_to_step_back(lane);
        }
    }

    fn ask_to_step_back(&self, lane: &Lane) {
        if !lane.step_back.swap(true, Ordering::Relaxed) {
            self.epochs.turn();
        }
    }

    /// Puts one more lane on duty, with a thread of its own.
    fn start_lane(self: &Arc<Self>) -> std::io::Result<()> {
        let index = {
            let mut core = self.core();
            core.lanes_alive += 1;
            core.started += 1;
            core.started - 1
        };
        self.on_duty.fetch_add(1, Ordering::Relaxed);
        let inner = Arc::clone(self);
        let thread = std::thread::Builder::new().name("guest".into()).stack_size(LANE_STACK_BYTES);
        let started = thread.spawn(move || {
            let _io = inner.io.enter();
            inner.lanes[index].occupy();
            being(&inner, index, || inner.run_lane(index));
            inner.lane_over();
        });
        started.map(drop).inspect_err(|_| {
            self.core().started -= 1;
            self.lane_over();
        })
    }

    fn unpark_all(&self) {
        let mut core = self.core();
        while let Some(lane) = self.take_idle(&mut core) {
            self.wake(lane);
        }
        for index in std::mem::take(&mut core.resting) {
            self.on_duty.fetch_add(1, Ordering::Relaxed);
            self.wake(index);
        }
    }

    fn lane_over(&self) {
        self.on_duty.fetch_sub(1, Ordering::Relaxed);
        self.core().lanes_alive -= 1;
        self.lane_ended.notify_all();
    }
}
