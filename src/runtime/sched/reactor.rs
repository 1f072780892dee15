//! Which of the kernel's sockets are ready, asked by the guests' threads themselves.
//!
//! Owns: the kernel's list of them (epoll), who waits for each, and who asks. Is not: reading and writing (`socket.rs`), nor the choice of the
//! thread that asks (`turns.rs`).
//!
//! ```text
//!  a lane has nothing to do ──► it watches: waits in the kernel ──► a socket is ready ──► its task has its turn on this very lane
//!  a lane has had turns for [`GLANCE_NS`] ──► a glance: asks, and does not wait
//!  nobody watches at a tick ──► the ticker wakes an idle lane for it, or glances itself
//! ```
//! So bytes from the kernel come to be on the thread that works on them, and no other one is woken on the way. One thread asks at a time.
//!
//! Bound: a socket is one that a published port has let in, and it has a bound of its own.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mio::event::{Event, Source};
use mio::{Events, Interest, Registry, Token};

/// How long a lane that always has something to do leaves the kernel's sockets alone, nanoseconds. A glance costs less than a hundredth of it.
pub(super) const GLANCE_NS: u64 = 100_000;

/// Sockets that are heard of at a time. The others are heard of next.
const EVENTS_MAX: usize = 64;

/// What a wait is ended with that somebody else wants the lane for.
const ALARM: Token = Token(usize::MAX);

/// Nobody watches.
const NOBODY: usize = usize::MAX;

#[derive(Debug)]
pub(super) struct Reactor {
    /// Of whoever asks.
    kernel: Mutex<Kernel>,
    registry: Registry,
    alarm: mio::Waker,
    sockets: Mutex<Sockets>,
    /// How many there are.
    count: AtomicUsize,
    /// The lane that waits in the kernel.
    watcher: AtomicUsize,
}

/// By their tokens, which are not given again soon: what was heard of a socket that has gone is nobody's.
#[derive(Debug, Default)]
struct Sockets {
    last: usize,
    list: HashMap<usize, Arc<Readiness>>,
}

impl Sockets {
    fn new_token(&mut self) -> Token {
        loop {
            self.last = self.last.wrapping_add(1);
            if Token(self.last) != ALARM && !self.list.contains_key(&self.last) {
                return Token(self.last);
            }
        }
    }
}

#[derive(Debug)]
struct Kernel {
    poll: mio::Poll,
    events: Events,
}

impl Reactor {
    /// # Errors
    /// The operating system's, if it has no descriptors for us.
    pub(super) fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        Ok(Self {
            alarm: mio::Waker::new(&registry, ALARM)?,
            registry,
            kernel: Mutex::new(Kernel { poll, events: Events::with_capacity(EVENTS_MAX) }),
            sockets: Mutex::default(),
            count: AtomicUsize::new(0),
            watcher: AtomicUsize::new(NOBODY),
        })
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes on a socket: its token, and what is known of it.
    pub(super) fn add(&self, socket: &mut impl Source) -> io::Result<(Token, Arc<Readiness>)> {
        let readiness = Arc::<Readiness>::default();
        let mut sockets = self.sockets();
        let token = sockets.new_token();
        self.registry.register(socket, token, Interest::READABLE | Interest::WRITABLE)?;
        sockets.list.insert(token.0, Arc::clone(&readiness));
        self.count.store(sockets.list.len(), Ordering::SeqCst);
        Ok((token, readiness))
    }

    /// Forgets a socket.
    pub(super) fn remove(&self, socket: &mut impl Source, token: Token) {
        // It fails for one that the kernel has forgotten already.
        let _ = self.registry.deregister(socket);
        let mut sockets = self.sockets();
        sockets.list.remove(&token.0);
        self.count.store(sockets.list.len(), Ordering::SeqCst);
    }

    /// Whether there are any sockets.
    pub(super) fn is_in_use(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// The lane that watches, if one does.
    pub(super) fn watcher(&self) -> Option<usize> {
        Some(self.watcher.load(Ordering::SeqCst)).filter(|&watcher| watcher != NOBODY)
    }

    /// Makes the lane that watches look up.
    pub(super) fn alarm(&self) {
        // The counter behind it can only be full, and then it rings as well.
        let _ = self.alarm.wake();
    }

    /// Asks, without waiting, unless another thread does: those to be woken come to `ready`.
    pub(super) fn glance(&self, ready: &mut Vec<Waker>) {
        if let Some(mut kernel) = self.try_kernel() {
            self.ask(&mut kernel, Some(Duration::ZERO), ready);
        }
    }

    /// `lane` waits in the kernel from now on; `None`: another one does.
    pub(super) fn watch(&self, lane: usize) -> Option<Watch<'_>> {
        let kernel = self.try_kernel()?;
        self.watcher.store(lane, Ordering::SeqCst);
        Some(Watch { reactor: self, kernel })
    }

    fn try_kernel(&self) -> Option<MutexGuard<'_, Kernel>> {
        match self.kernel.try_lock() {
            Ok(kernel) => Some(kernel),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn ask(&self, kernel: &mut Kernel, wait: Option<Duration>, ready: &mut Vec<Waker>) {
        if let Err(error) = kernel.poll.poll(&mut kernel.events, wait) {
            // A signal; nothing else can come of a list that is open.
            debug_assert_eq!(error.kind(), io::ErrorKind::Interrupted);
            return;
        }
        if kernel.events.is_empty() {
            return;
        }
        let sockets = self.sockets();
        for event in &kernel.events {
            if let Some(socket) = sockets.list.get(&event.token().0) {
                socket.heard(event, ready);
            }
        }
    }
}

/// One lane's wait. No waker may be used while this is there: whom it wakes may want to ask as well.
pub(super) struct Watch<'a> {
    reactor: &'a Reactor,
    kernel: MutexGuard<'a, Kernel>,
}

impl Watch<'_> {
    /// Waits until a socket is ready, whose tasks' wakers come to `ready`, or until the alarm.
    pub(super) fn wait(&mut self, ready: &mut Vec<Waker>) {
        self.reactor.ask(&mut self.kernel, None, ready);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.reactor.watcher.store(NOBODY, Ordering::SeqCst);
    }
}

/// One of both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// What is known of a socket. The kernel tells of each change once.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<[Side; 2]>);

#[derive(Debug, Default)]
struct Side {
    is_ready: bool,
    /// It stays ready: at its end.
    is_over: bool,
    /// Times that the kernel has said so: what has been said since somebody looked is not to be forgotten.
    times: u32,
    waits: Option<Waker>,
}

impl Readiness {
    fn sides(&self) -> MutexGuard<'_, [Side; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, event: &Event, ready: &mut Vec<Waker>) {
        let broken = event.is_error();
        let now = [
            (event.is_readable() || broken, event.is_read_closed() || broken),
            (event.is_writable() || broken, event.is_write_closed() || broken),
        ];
        for (side, (is_ready, is_over)) in self.sides().iter_mut().zip(now) {
            side.is_over |= is_over;
            if is_ready || is_over {
                side.is_ready = true;
                side.times = side.times.wrapping_add(1);
                ready.extend(side.waits.take());
            }
        }
    }

    /// Waits until a call is worth while; returns what [`Readiness::forget`] wants.
    pub(super) fn poll(&self, way: Way, cx: &mut Context<'_>) -> Poll<u32> {
        let side = &mut self.sides()[way as usize];
        if side.is_ready || side.is_over {
            return Poll::Ready(side.times);
        }
        match &mut side.waits {
            Some(waits) => waits.clone_from(cx.waker()),
            waits @ None => *waits = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// A call did less than was asked of it, or (`nothing`) nothing at all; `times`: of the poll before it.
    pub(super) fn forget(&self, way: Way, times: u32, nothing: bool) {
        let side = &mut self.sides()[way as usize];
        if side.times == times {
            side.is_ready = false;
            side.is_over &= !nothing;
        }
    }
}
