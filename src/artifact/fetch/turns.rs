//! Who may transfer now: a few at a time, and nobody for as long as he likes.
//!
//! Owns: the turns. Not: what is done in one. A transfer keeps its turn as long as it gets on. One that trickles, or waits for a broker that is
//! away, gives it up to whoever waits, stands in line again, and goes on from where it was:
//!
//! ```text
//!  line ─► turn: a slice ─┬─ it brought enough ────────────────► another slice
//!   ▲                     └─ too little ─┬─ nobody waits ──────► it goes on; the first who comes gets the turn
//!   └──── next slice: twice as long ─────┘ somebody waits
//! ```
//!
//! So three sources that hardly move hold up a fourth for one slice. Slices grow, so that going on (a connection, a file of which the server
//! sends no parts) costs less each time.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::sleep;

/// The first slice: longer than a name, a connection and TLS take on a bad link.
pub(super) const SLICE: Duration = Duration::from_secs(30);

/// Slices double up to this many times the first: a quarter of an hour.
const SLICES_MAX: u32 = 32;

/// What brings less, bytes in each second of a slice, trickles.
const TRICKLE: u64 = 8 * 1024;

/// The turns of a node.
#[derive(Debug)]
pub(super) struct Turns {
    free: Semaphore,
    line: watch::Sender<Line>,
    slice: Duration,
}

/// Who waits for a turn.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    waiting: usize,
    /// Turns that are on their way to them.
    promised: usize,
}

/// One transfer's place: in the line, or at work.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    permit: Option<SemaphorePermit<'t>>,
    slice: Duration,
    /// It has had a turn before, and has given it up.
    has_yielded: bool,
}

impl Turns {
    pub(super) fn new(turns: usize, slice: Duration) -> Self {
        Self { free: Semaphore::new(turns), line: watch::Sender::default(), slice }
    }

    /// Waits for a turn.
    pub(super) async fn begin(&self) -> Turn<'_> {
        let mut turn = Turn { turns: self, permit: None, slice: self.slice, has_yielded: false };
        turn.wait().await;
        turn
    }
}

/// Asks those who trickle to make way, as long as it lives.
struct Asking<'t>(&'t Turns);

impl<'t> Asking<'t> {
    fn new(turns: &'t Turns) -> Self {
        turns.line.send_modify(|line| line.waiting += 1);
        Self(turns)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.line.send_modify(|line| {
            line.waiting -= 1;
            line.promised = line.promised.saturating_sub(1).min(line.waiting);
        });
    }
}

impl Turn<'_> {
    /// Waits, in the order of coming.
    pub(super) async fn wait(&mut self) {
        if let Ok(permit) = self.turns.free.try_acquire() {
            self.permit = Some(permit);
            return;
        }
        let mut acquire = std::pin::pin!(self.turns.free.acquire());
        // Who has just made way does not ask another one to do so at once.
        let patience = if self.has_yielded { self.slice } else { Duration::ZERO };
        let permit = tokio::select! {
            biased;
            permit = &mut acquire => permit,
            () = sleep(patience) => {
                let _asking = Asking::new(self.turns);
                acquire.await
            }
        };
        // It is never closed.
        self.permit = permit.ok();
    }

    /// Gives the turn away for a while, and stands in line again.
    pub(super) async fn pass(&mut self, for_now: Duration) {
        self.permit = None;
        self.has_yielded = true;
        sleep(for_now).await;
        self.wait().await;
    }

    /// Works until it is done, or the turn goes to somebody else: then `None`, and the work is dropped. `moved`: bytes that are here.
    pub(super) async fn within<T>(
        &mut self,
        moved: impl Fn() -> u64,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let over = async {
            let mut line = self.turns.line.subscribe();
            let enough = TRICKLE.saturating_mul(self.slice.as_secs().max(1));
            loop {
                let before = moved();
                sleep(self.slice).await;
                while moved().saturating_sub(before) < enough {
                    if self.promise() {
                        return;
                    }
                    let asked = line.wait_for(|line| line.waiting > line.promised);
                    // As good as a slice: what was slow may have become quick.
                    if tokio::time::timeout(self.slice, asked).await.is_err() {
                        break;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = over => {
                self.permit = None;
                self.has_yielded = true;
                self.slice = (self.slice * 2).min(self.turns.slice * SLICES_MAX);
                None
            }
        }
    }

    /// Promises this turn to somebody who waits, if one does who has no promise yet.
    fn promise(&self) -> bool {
        self.turns.line.send_if_modified(|line| {
            let asked = line.waiting > line.promised;
            line.promised += usize::from(asked);
            asked
        })
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    /// A transfer of that many bytes at that pace; how long it took, and how many turns.
    fn transfer(turns: &Arc<Turns>, bytes: u64, per_second: u64) -> JoinHandle<(Duration, u32)> {
        let (turns, start) = (Arc::clone(turns), Instant::now());
        tokio::spawn(async move {
            let here = AtomicU64::new(0);
            let mut turn = turns.begin().await;
            let mut taken = 1;
            loop {
                let work = async {
                    while here.load(Ordering::Relaxed) < bytes {
                        sleep(Duration::from_secs(1)).await;
                        here.fetch_add(per_second, Ordering::Relaxed);
                    }
                };
                if turn.within(|| here.load(Ordering::Relaxed), work).await.is_some() {
                    return (start.elapsed(), taken);
                }
                turn.wait().await;
                taken += 1;
            }
        })
    }

    async fn after(seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn three_that_trickle_hold_up_a_fourth_for_one_slice_and_come_to_their_end() {
        let turns = Arc::new(Turns::new(3, SLICE));
        let slow: Vec<_> = (0..3).map(|_| transfer(&turns, 20_000, 10)).collect();
        after(1).await;
        let (took, _) = transfer(&turns, 100_000, 100_000).await.unwrap();
        assert!(took <= SLICE + Duration::from_secs(2), "{took:?}");
        // Now that they are known, the next one does not even wait for that.
        after(30).await;
        for _ in 0..50 {
            let (took, taken) = transfer(&turns, 100_000, 100_000).await.unwrap();
            assert!(took <= Duration::from_secs(3) + SLICE * SLICES_MAX, "{took:?}");
            assert_eq!(taken, 1);
        }
        for slow in slow {
            slow.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_on_is_not_interrupted() {
        let turns = Arc::new(Turns::new(1, SLICE));
        let first = transfer(&turns, 100_000_000, 100_000);
        after(1).await;
        let second = transfer(&turns, 1000, 1000);
        let (took, taken) = first.await.unwrap();
        assert!(took < Duration::from_secs(1010) && taken == 1, "{took:?}, {taken}");
        assert_eq!(second.await.unwrap().1, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_waits_the_slowest_goes_on() {
        let turns = Arc::new(Turns::new(1, SLICE));
        let (took, taken) = transfer(&turns, 3600, 1).await.unwrap();
        assert!(took < Duration::from_secs(3610) && taken == 1, "{took:?}, {taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_comes_moves_one_and_not_all() {
        let turns = Arc::new(Turns::new(3, SLICE));
        let slow: Vec<_> = (0..3).map(|_| transfer(&turns, 4000, 10)).collect();
        after(100).await;
        transfer(&turns, 1000, 1000).await.unwrap();
        let mut taken = vec![];
        for slow in slow {
            taken.push(slow.await.unwrap().1);
        }
        taken.sort_unstable();
        assert_eq!(taken, [1, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_trickle_all_get_on() {
        let turns = Arc::new(Turns::new(3, SLICE));
        let slow: Vec<_> = (0..8).map(|_| transfer(&turns, 10_000, 10)).collect();
        for slow in slow {
            let (took, taken) = slow.await.unwrap();
            // A thousand seconds each, three at a time; slices that double cost few beginnings.
            assert!(took <= Duration::from_secs(3600), "{took:?}");
            assert!(taken <= 8, "{taken}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_in_the_line_leaves_nothing_behind() {
        let turns = Arc::new(Turns::new(1, SLICE));
        let slow = transfer(&turns, 2000, 10);
        after(1).await;
        for _ in 0..5 {
            let waiting = transfer(&turns, 1000, 1000);
            after(1).await;
            waiting.abort();
            assert!(waiting.await.is_err());
        }
        assert_eq!(slow.await.unwrap().1, 1);
        let line = *turns.line.borrow();
        assert_eq!((line.waiting, line.promised), (0, 0));
    }
}
