//! What a pod's traffic with the outside adds up to.
//!
//! Owns: the counters (relaxed atomics; each is written by the task it is about) and the plain value
//! that metrics and `podling net` read; and the [`Bill`] for the processor time that carrying it took.
//! Is not: what a module sees of it, which its own counters in `net` have.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::clock::thread_cpu_time;

macro_rules! counters {
    ($(#[$outer:meta])* $live:ident, $(#[$snap:meta])* $snapshot:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $live {
            $($(#[$doc])* pub $name: Count,)*
            /// Who pays for carrying it.
            pub bill: Bill,
        }

        $(#[$snap])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $snapshot { $($(#[$doc])* pub $name: u64,)* }

        impl $snapshot {
            /// All of them by name.
            pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl $live {
            /// What they say now.
            #[must_use]
            pub fn snapshot(&self) -> $snapshot {
                $snapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Live counters of one pod, or of one published port.
    Traffic,
    /// What the counters said at one moment.
    TrafficSnapshot {
        /// Payload bytes from the host's network into the pod.
        bytes_in,
        /// Payload bytes out of the pod onto the host's network.
        bytes_out,
        /// Connections that came about.
        connections,
        /// Connections open now.
        connections_open,
        /// Most connections open at once.
        connections_peak,
        /// Connections that failed: refused, unreachable, or no answer in time.
        connections_failed,
        /// Connections refused because of a bound of ours.
        connections_limited,
        /// Connections that ended by a reset.
        resets,
        /// Connections waiting for a module to listen, now.
        queued,
        /// Most connections waiting at once.
        queued_peak,
        /// Datagrams from the host's network into the pod.
        datagrams_in,
        /// Datagrams out of the pod.
        datagrams_out,
        /// Datagrams lost: no room, no flow, or the kernel would not have them.
        datagrams_dropped,
        /// Flows of datagrams open now.
        flows_open,
        /// Most flows open at once.
        flows_peak,
        /// Flows that ended early to make room for others.
        flows_evicted,
        /// Connects and datagrams to the host itself, or to nobody in particular, that were refused.
        closed,
        /// Names looked up.
        lookups,
        /// Look-ups that found nothing, or failed.
        lookups_failed,
        /// Look-ups refused because of their number.
        lookups_limited,
        /// Addresses of the host itself that were left out of answers.
        answers_closed,
    }
}

/// One number.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`.
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more; remembers the most there ever were in `peak`.
    pub fn rise(&self, peak: &Self) {
        let now = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        peak.0.fetch_max(now, Ordering::Relaxed);
    }

    /// One less.
    pub fn fall(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An account of processor time: a pod's.
pub trait Payer: fmt::Debug + Send + Sync {
    /// Takes `time` from it, into debt if need be.
    fn pay(&self, time: Duration);

    /// For how long it will have nothing left; zero: it has.
    fn owes(&self) -> Duration {
        Duration::ZERO
    }
}

/// The longest that datagrams are left with the kernel because their pod has used up its processor time. After that some are taken all the
/// same, so that a module that is held by its limit hears of those who are gone, and of policies.
const PATIENCE_MAX: Duration = Duration::from_millis(100);

/// Who pays for processor time that the daemon spends on a pod's bytes, outside of the pod's own
/// threads. Nobody, until it is said.
#[derive(Debug, Default)]
pub struct Bill(OnceLock<Arc<dyn Payer>>);

impl Bill {
    /// From now on it is `payer`; the first stays.
    pub fn paid_by(&self, payer: Arc<dyn Payer>) {
        let _ = self.0.set(payer);
    }

    /// Work begins on this thread, and lasts until what is returned is dropped. `None`: nobody pays, or it is a part of work that is paid for
    /// already.
    #[must_use]
    pub fn open(&self) -> Option<Work<'_>> {
        self.0.get().and_then(|payer| Work::begin(&**payer))
    }

    /// The same for a task: each time it is polled.
    pub fn pays_for<F: Future>(&self, work: F) -> Paid<F> {
        Paid { work: Box::pin(work), payer: self.0.get().cloned() }
    }

    /// Waits, within bounds, until the payer has processor time again. For those who bring what nobody asked for: datagrams cost the daemon more to take
    /// than others to send, and a flood of them must neither be free nor put a pod into debt for minutes. Meanwhile the kernel
    /// keeps some and loses the rest.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn patience(&self) {
        let owed = self.0.get().map_or(Duration::ZERO, |payer| payer.owes());
        if !owed.is_zero() {
            tokio::time::sleep(owed.min(PATIENCE_MAX)).await;
        }
    }
}

thread_local! {
    /// Work that is paid for is under way on this thread.
    static UNDER_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Work that is paid for when it is dropped, on the thread that it began on.
#[derive(Debug)]
pub struct Work<'a> {
    payer: &'a dyn Payer,
    began: Duration,
    /// It stays on its thread.
    _here: PhantomData<*const ()>,
}

impl<'a> Work<'a> {
    fn begin(payer: &'a dyn Payer) -> Option<Self> {
        let within = UNDER_WAY.replace(true);
        (!within).then(|| Self { payer, began: thread_cpu_time(), _here: PhantomData })
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        UNDER_WAY.set(false);
        self.payer.pay(thread_cpu_time().saturating_sub(self.began));
    }
}

/// A task of the daemon for a pod, which the pod pays for.
pub struct Paid<F> {
    work: Pin<Box<F>>,
    payer: Option<Arc<dyn Payer>>,
}

impl<F: Future> Future for Paid<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { work, payer } = &mut *self;
        let _work = payer.as_deref().and_then(Work::begin);
        work.as_mut().poll(cx)
    }
}

impl<F> fmt::Debug for Paid<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paid").field("payer", &self.payer).finish_non_exhaustive()
    }
}

impl TrafficSnapshot {
    /// Adds what another counted: sums add up, peaks keep the higher one.
    pub fn absorb(&mut self, other: &Self) {
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.connections += other.connections;
        self.connections_open += other.connections_open;
        self.connections_peak = self.connections_peak.max(other.connections_peak);
        self.connections_failed += other.connections_failed;
        self.connections_limited += other.connections_limited;
        self.resets += other.resets;
        self.queued += other.queued;
        self.queued_peak = self.queued_peak.max(other.queued_peak);
        self.datagrams_in += other.datagrams_in;
        self.datagrams_out += other.datagrams_out;
        self.datagrams_dropped += other.datagrams_dropped;
        self.flows_open += other.flows_open;
        self.flows_peak = self.flows_peak.max(other.flows_peak);
        self.flows_evicted += other.flows_evicted;
        self.closed += other.closed;
        self.lookups += other.lookups;
        self.lookups_failed += other.lookups_failed;
        self.lookups_limited += other.lookups_limited;
        self.answers_closed += other.answers_closed;
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Purse {
        paid: Mutex<Vec<Duration>>,
        owes: Duration,
    }

    impl Payer for Purse {
        fn pay(&self, time: Duration) {
            self.paid.lock().unwrap().push(time);
        }

        fn owes(&self) -> Duration {
            self.owes
        }
    }

    fn compute(time: Duration) {
        let began = thread_cpu_time();
        while thread_cpu_time() - began < time {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn a_task_is_paid_for_at_each_poll_and_only_once() {
        const MS: Duration = Duration::from_millis(1);
        let (purse, bill) = (Arc::new(Purse::default()), Bill::default());
        assert!(bill.open().is_none(), "nobody pays");
        bill.paid_by(purse.clone());
        let within = &bill;
        let task = bill.pays_for(async move {
            compute(MS);
            tokio::task::yield_now().await;
            // Somebody in there opens a bill of his own.
            let work = within.open();
            assert!(work.is_none());
            compute(MS);
        });
        task.await;
        let paid = std::mem::take(&mut *purse.paid.lock().unwrap());
        assert_eq!(paid.len(), 2);
        assert!(paid.iter().all(|time| *time >= MS), "{paid:?}");
        drop(bill.open().unwrap());
        assert_eq!(purse.paid.lock().unwrap().len(), 1, "and the next one is opened");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_left_is_given_time_and_not_for_ever() {
        for (owes, waits) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::from_millis(30), Duration::from_millis(30)),
            (Duration::from_secs(3600), PATIENCE_MAX),
        ] {
            let bill = Bill::default();
            bill.paid_by(Arc::new(Purse { owes, ..Purse::default() }));
            let began = tokio::time::Instant::now();
            bill.patience().await;
            assert_eq!(began.elapsed(), waits);
        }
    }
}
