//! Work of the daemon on the guests' threads, on a pod's account: carrying the bytes of its published connections.
//!
//! Owns: the handle by which `pod` starts such tasks, and the meter round each of their polls. Is not: a run (it ends with none, and has
//! no store), nor the carrying itself (`outside::pump`).
//!
//! ```text
//!  a guest writes ──wakes, on its own lane──► the carrier's turn there: writev        no thread is woken
//!  the kernel has bytes ──► the lane that watches (`sched::reactor`): recv ──wakes, on that lane──► guest
//! ```
//! **Paid for once.** Each poll is measured with the stop watch of the guests' own turns and charged to the pod. Where the pod has used up its
//! CPU limit, its carriers wait as its modules do.
//!
//! **Fair.** All carriers of a pod have one share, which weighs as much as the pod requests and is a part of what the pod weighs
//! (`share.rs`): next to strangers, carrying takes nothing that the pod's modules could not take.
//!
//! No epoch cuts such a turn, so what runs here must never block, and ends its polls by itself after some bytes. Bound on their number: whoever
//! starts them has one (a published port its connections).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep};

use super::cputime::monotonic_ns;
use super::meter::{self, PodCpu};
use super::sched::{LaneSocket, Spawner, Urgency, turn_began};

/// Starts tasks on the guests' threads that work for one pod; clones are for the same.
#[derive(Clone, Debug)]
pub struct Carriers {
    guests: Spawner,
    cpu: Arc<PodCpu>,
    urgency: Urgency,
}

impl Carriers {
    pub(super) fn new(guests: Spawner, cpu: Arc<PodCpu>) -> Self {
        Self { guests, cpu, urgency: Urgency::default() }
    }

    /// Runs `work` on the guests' threads until it ends, whatever becomes of the pod's runs. Where the runtime has ended, or ends meanwhile, it
    /// is dropped.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.guests.spawn(Arc::clone(self.cpu.carriers()), self.urgency.clone(), work);
    }

    /// Takes over a client's connection, for tasks that are started here.
    ///
    /// # Errors
    /// The operating system's, if it has no room to watch one more socket for the guests' threads.
    pub fn adopt(&self, client: tokio::net::TcpStream) -> std::io::Result<LaneSocket> {
        self.guests.adopt(client.into_std()?)
    }

    /// `work`, paid for by the pod each time it is polled, and held while the pod has used up its CPU limit. To be awaited in a task that
    /// [`Carriers::spawn`] started.
    pub fn metered<F: Future + Unpin>(&self, work: F) -> Metered<F> {
        Metered { work, cpu: Arc::clone(&self.cpu), timer: None }
    }

    /// They are to end: from now on they go before everybody who waits for a turn, lest a pod of little weight keeps its ports for long.
    pub fn hasten(&self) {
        self.guests.hasten(self.cpu.carriers(), &self.urgency);
    }
}

/// See [`Carriers::metered`].
pub struct Metered<F> {
    work: F,
    cpu: Arc<PodCpu>,
    /// Ends the wait for CPU time.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F> Metered<F> {
    /// Whether the pod has CPU time now; sees to it that the task is woken when it has, if not.
    fn may_work(&mut self, now: u64, cx: &mut Context<'_>) -> bool {
        let wait = self.cpu.owes(now);
        if wait.is_zero() {
            self.timer = None;
            return true;
        }
        let timer = self.timer.insert(Box::pin(sleep(wait)));
        if timer.as_mut().poll(cx).is_ready() {
            // Due already (the wheel's grain is a millisecond): look again at the next poll, now.
            cx.waker().wake_by_ref();
        }
        false
    }
}

impl<F: Future + Unpin> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let now = turn_began();
        if !this.may_work(now, cx) {
            return Poll::Pending;
        }
        meter::start(now);
        let result = Pin::new(&mut this.work).poll(cx);
        this.cpu.charge_carrying(meter::lap(monotonic_ns()));
        result
    }
}

impl<F> fmt::Debug for Metered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("waits", &self.timer.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::runtime::cputime::thread_ns;
    use crate::runtime::sched::{Epochs, Scheduler};

    const MS: u64 = 1_000_000;

    /// What every wait here gives up after.
    const PATIENCE: Duration = Duration::from_secs(60);

    struct Lab {
        io: tokio::runtime::Runtime,
        scheduler: Scheduler,
    }

    impl Lab {
        fn new() -> Self {
            let io = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_time()
                .build()
                .unwrap();
            let scheduler = Scheduler::start(2, io.handle(), Epochs::default()).unwrap();
            Self { io, scheduler }
        }

        fn carriers(&self, limit_millis: Option<u64>) -> Carriers {
            Carriers::new(self.scheduler.spawner(), Arc::new(PodCpu::new(limit_millis, None)))
        }

        fn stop(self) {
            let _io = self.io.enter();
            self.scheduler.stop(PATIENCE);
        }
    }

    /// Computes so many milliseconds, one in each turn.
    fn compute(mut turns: u64, measured: Arc<AtomicU64>) -> impl Future<Output = ()> + Unpin {
        std::future::poll_fn(move |cx| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            let before = thread_ns();
            while thread_ns() < before + MS {
                std::hint::spin_loop();
            }
            measured.fetch_add(thread_ns() - before, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn carrying_is_charged_to_the_pod_once() {
        let lab = Lab::new();
        let carriers = lab.carriers(None);
        let measured = Arc::new(AtomicU64::new(0));
        let (done, is_done) = mpsc::sync_channel(2);
        for _ in 0..2 {
            let (done, theirs) = (done.clone(), carriers.clone());
            let work = compute(20, Arc::clone(&measured));
            carriers.spawn(async move {
                theirs.metered(work).await;
                let _ = done.send(());
            });
        }
        for _ in 0..2 {
            is_done.recv_timeout(PATIENCE).unwrap();
        }
        let measured = measured.load(Ordering::Relaxed);
        let charged = u64::try_from(carriers.cpu.used().as_nanos()).unwrap();
        assert!(
            (measured * 8 / 10..measured * 3 / 2).contains(&charged),
            "{charged} of {measured}"
        );
        lab.stop();
    }

    #[test]
    fn carriers_of_a_pod_that_has_used_up_its_limit_wait() {
        let lab = Lab::new();
        let carriers = lab.carriers(Some(100));
        // More than is in hand, by what a tenth of a core earns in a quarter of a second.
        carriers.cpu.charge(30 * MS);
        let since = monotonic_ns();
        let owed = carriers.cpu.owes(since);
        assert!(owed > Duration::from_millis(100), "{owed:?}");
        let (done, is_done) = mpsc::sync_channel(1);
        let theirs = carriers.clone();
        carriers.spawn(async move {
            theirs.metered(std::future::ready(())).await;
            let _ = done.send(());
        });
        is_done.recv_timeout(PATIENCE).unwrap();
        let waited = Duration::from_nanos(monotonic_ns() - since);
        assert!(waited >= owed, "{waited:?} of {owed:?}");
        lab.stop();
    }

    /// Says when it is dropped.
    struct Told(Arc<AtomicBool>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn what_is_started_when_the_runtime_has_ended_is_dropped() {
        let lab = Lab::new();
        let carriers = lab.carriers(None);
        lab.stop();
        let dropped = Arc::new(AtomicBool::new(false));
        let told = Told(Arc::clone(&dropped));
        carriers.spawn(async move {
            let _told = told;
            std::future::pending::<()>().await;
        });
        assert!(dropped.load(Ordering::Acquire), "nobody would ever run it");
    }
}
