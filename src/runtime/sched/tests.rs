//! The scheduler without guests: tasks that are plain futures.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc as tokens;

use super::*;
use crate::clock::Clock;

/// What every wait here gives up after.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Lab {
    io: tokio::runtime::Runtime,
    scheduler: Option<Scheduler>,
}

impl Lab {
    pub(super) fn new(lanes: usize) -> Self {
        let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let scheduler = Scheduler::start(lanes, io.handle(), Epochs::default()).unwrap();
        Self { io, scheduler: Some(scheduler) }
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.scheduler.as_ref().unwrap().inner
    }

    pub(super) fn spawner(&self) -> Spawner {
        self.scheduler.as_ref().unwrap().spawner()
    }

    pub(super) fn spawn(
        &self,
        share: &Arc<Share>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_ending(share, &Urgency::default(), work);
    }

    fn spawn_ending(
        &self,
        share: &Arc<Share>,
        urgency: &Urgency,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawner().spawn(Arc::clone(share), urgency.clone(), work);
    }

    pub(super) fn stop(&mut self, patience: Duration) {
        let _io = self.io.enter();
        self.scheduler.take().unwrap().stop(patience);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.scheduler.is_some() {
            self.stop(PATIENCE);
        }
    }
}

pub(super) fn share(request: u64) -> Arc<Share> {
    Arc::new(Share::new(Some(request), Arc::default()))
}

pub(super) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let clock = Clock::start();
    while !holds() {
        assert!(clock.now().mono() < PATIENCE, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Ends the turn, and wants another one.
async fn step_back() {
    let mut behind = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut behind, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn two_tasks_that_wait_on_each_other_stay_on_one_thread() {
    take_turns(false);
}

/// As guests of WASI 0.3 do: their streams wake them in their own turn.
#[test]
fn two_tasks_that_wait_on_each_other_and_wake_themselves_stay_on_one_thread() {
    take_turns(true);
}

#[test]
fn two_that_wake_each_other_do_not_keep_a_third_of_their_share_waiting() {
    let lab = Lab::new(1);
    let ours = share(100);
    let over = Arc::new(AtomicBool::new(false));
    let (give, take) = tokens::channel(1);
    let (give_back, take_back) = tokens::channel(1);
    give.try_send(()).unwrap();
    for (mut take, give) in [(take, give_back), (take_back, give)] {
        let (over, ours) = (Arc::clone(&over), Arc::clone(&ours));
        lab.spawn(&Arc::clone(&ours), async move {
            while !over.load(Ordering::Relaxed) && take.recv().await.is_some() {
                ours.charge(1000);
                let _ = give.send(()).await;
            }
        });
    }
    for _ in 0..20 {
        let (done, is_done) = mpsc::sync_channel(1);
        lab.spawn(&ours, async move { done.send(()).unwrap() });
        let turn = is_done.recv_timeout(PATIENCE);
        over.fetch_or(turn.is_err(), Ordering::Relaxed);
        turn.unwrap();
    }
    over.store(true, Ordering::Relaxed);
}

/// Two tasks on two threads answer each other: they stay together, and the other thread is not woken in vain each time.
///
/// A machine that is busy with something else stops a thread in the midst of a turn now and then, which moves them, rightly; and the two threads may run in step
/// by chance for some hundred turns then. So that it is what most runs do that counts.
fn take_turns(wake_themselves: bool) {
    let mut runs: Vec<_> = (0..9).map(|_| turns_of_two(wake_themselves)).collect();
    let mut middle = |by: fn(&Run) -> u64| {
        runs.sort_by_key(by);
        by(&runs[4])
    };
    let (moves, wakeups) = (middle(|run| run.moves), middle(|run| run.wakeups));
    assert!(moves < TURNS / 20, "{moves} moves in {TURNS} turns");
    assert!(wakeups < TURNS / 20, "{wakeups} wake-ups in {TURNS} turns");
}

const TURNS: u64 = 20_000;

struct Run {
    /// Turns on another thread than the one before.
    moves: u64,
    /// Times that a thread was woken.
    wakeups: u64,
}

fn turns_of_two(wake_themselves: bool) -> Run {
    let lab = Lab::new(2);
    let moves = Arc::new(AtomicU64::new(0));
    let last = Arc::new(Mutex::new(None));
    let (to_b, mut from_a) = tokens::channel::<()>(1);
    let (to_a, mut from_b) = tokens::channel::<()>(1);
    let (done, is_done) = mpsc::sync_channel(1);
    let counting = || {
        let (moves, last) = (Arc::clone(&moves), Arc::clone(&last));
        move || {
            let here = std::thread::current().id();
            if last.lock().unwrap().replace(here).is_some_and(|last| last != here) {
                moves.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let note = counting();
    lab.spawn(&share(100), async move {
        for _ in 0..TURNS {
            note();
            to_b.send(()).await.unwrap();
            if wake_themselves {
                step_back().await;
            }
            from_b.recv().await.unwrap();
        }
        done.send(()).unwrap();
    });
    let note = counting();
    lab.spawn(&share(100), async move {
        while let Some(()) = from_a.recv().await {
            note();
            if to_a.send(()).await.is_err() {
                return;
            }
            if wake_themselves {
                step_back().await;
            }
        }
    });
    is_done.recv_timeout(PATIENCE).unwrap();
    let wakeups = lab.inner().wakeups.load(Ordering::Relaxed);
    Run { moves: moves.load(Ordering::Relaxed), wakeups }
}

#[test]
fn two_tasks_that_compute_in_short_turns_do_not_share_one_thread_while_another_is_idle() {
    let lab = Lab::new(2);
    let places: [Arc<Mutex<Option<std::thread::ThreadId>>>; 2] = Default::default();
    let over = Arc::new(AtomicBool::new(false));
    let (open, gate) = tokio::sync::watch::channel(false);
    for place in &places {
        let (place, over, mut gate) = (Arc::clone(place), Arc::clone(&over), gate.clone());
        lab.spawn(&share(100), async move {
            let _ = gate.wait_for(|open| *open).await;
            while !over.load(Ordering::Relaxed) {
                *place.lock().unwrap() = Some(std::thread::current().id());
                let began = monotonic_ns();
                while monotonic_ns() - began < SHORT_TURN_NS / 4 {
                    std::hint::spin_loop();
                }
                step_back().await;
            }
        });
    }
    drop(gate);
    // Woken by one turn on one lane, they are together to begin with.
    lab.spawn(&share(100), async move {
        open.send_replace(true);
    });
    eventually("two threads", || {
        let [a, b] = places.each_ref().map(|place| *place.lock().unwrap());
        a.is_some() && b.is_some() && a != b
    });
    over.store(true, Ordering::Relaxed);
}

#[test]
fn who_spins_gets_turns_in_proportion_to_its_weight() {
    const ROUNDS: u64 = 100;
    const WEIGHTS: [u64; 10] = [100, 200, 400, 100, 200, 400, 100, 200, 400, 100];
    // One lane: with more, a thread that the kernel stops would count.
    let lab = Lab::new(1);
    let total = Arc::new(AtomicU64::new(0));
    let turns = WEIGHTS.map(|_| Arc::new(AtomicU64::new(0)));
    let last = ROUNDS * WEIGHTS.iter().sum::<u64>() / 100;
    let (open, gate) = tokio::sync::watch::channel(false);
    for (turns, weight) in turns.iter().zip(WEIGHTS) {
        let (turns, total, mut gate) = (Arc::clone(turns), Arc::clone(&total), gate.clone());
        let share = share(weight);
        let mine = Arc::clone(&share);
        lab.spawn(&share, async move {
            let _ = gate.wait_for(|open| *open).await;
            while total.fetch_add(1, Ordering::Relaxed) < last {
                mine.charge(1_000_000);
                turns.fetch_add(1, Ordering::Relaxed);
                step_back().await;
            }
        });
    }
    // From the lane itself: were this thread stopped half-way, those woken first would have run long before the last. Nor is the
    // list of tasks asked whether they are over: with its lock in hand a stopped thread holds the lane, and a spare one goes on beside it.
    lab.spawn(&share(100), async move {
        open.send_replace(true);
    });
    eventually("all over", || total.load(Ordering::Relaxed) == last + WEIGHTS.len() as u64);
    for (turns, weight) in turns.iter().zip(WEIGHTS) {
        let got = turns.load(Ordering::Relaxed);
        let due = ROUNDS * weight / 100;
        assert!(got.abs_diff(due) <= due / 10, "weight {weight}: {got} of {due}");
    }
}

#[test]
fn a_panic_ends_one_task_and_nothing_else() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("once more, as expected by this test");
        }
    }
    let lab = Lab::new(1);
    lab.spawn(&share(1), async {
        let _bad = Bad;
        std::future::pending::<()>().await;
    });
    lab.spawn(&share(1), async { panic!("as expected by this test") });
    let (done, is_done) = mpsc::sync_channel(1);
    lab.spawn(&share(1), async move { done.send(()).unwrap() });
    is_done.recv_timeout(PATIENCE).unwrap();
    // The task with a bad destructor is dropped at the end, and does not take the test with it.
    let mut lab = lab;
    lab.stop(Duration::ZERO);
}

/// Keeps its thread until the scheduler wants it back, as a guest does at a tick.
async fn spin(share: Arc<Share>, until: Arc<AtomicBool>) {
    while !until.load(Ordering::Relaxed) {
        let mut now = monotonic_ns();
        while !until.load(Ordering::Relaxed) && !should_step_back(&share, now) {
            let then = monotonic_ns();
            share.charge(then - now);
            now = then;
        }
        step_back().await;
    }
}

#[test]
fn whoever_is_woken_runs_although_all_threads_are_busy() {
    let lab = Lab::new(2);
    let over = Arc::new(AtomicBool::new(false));
    for _ in 0..4 {
        let share = share(100);
        lab.spawn(&share, spin(Arc::clone(&share), Arc::clone(&over)));
    }
    let (go, mut gone) = tokens::channel::<()>(1);
    let (done, is_done) = mpsc::sync_channel(1);
    lab.spawn(&share(100), async move {
        while gone.recv().await.is_some() {
            done.send(()).unwrap();
        }
    });
    for _ in 0..50 {
        go.blocking_send(()).unwrap();
        is_done.recv_timeout(PATIENCE).unwrap();
    }
    over.store(true, Ordering::Relaxed);
}

#[test]
fn what_waits_behind_a_turn_that_does_not_end_is_run_by_another_thread() {
    let lab = Lab::new(2);
    let (to_b, mut from_a) = tokens::channel::<()>(1);
    let (done, is_done) = mpsc::sync_channel(1);
    let (release, wait) = mpsc::sync_channel::<()>(1);
    lab.spawn(&share(1), async move {
        from_a.recv().await.unwrap();
        done.send(()).unwrap();
    });
    lab.spawn(&share(1), async move {
        to_b.send(()).await.unwrap();
        // A host function that holds the thread.
        wait.recv_timeout(PATIENCE).unwrap();
    });
    is_done.recv_timeout(PATIENCE).unwrap();
    release.send(()).unwrap();
}

#[test]
fn host_functions_that_hold_their_threads_hold_nobody_else() {
    let lab = Lab::new(2);
    let mut held = Vec::new();
    for _ in 0..5 {
        let (release, wait) = mpsc::sync_channel::<()>(1);
        let (holds, is_holding) = mpsc::sync_channel(1);
        lab.spawn(&share(1), async move {
            holds.send(()).unwrap();
            wait.recv_timeout(PATIENCE).unwrap();
        });
        is_holding.recv_timeout(PATIENCE).unwrap();
        held.push(release);
    }
    let inner = lab.inner();
    assert!(inner.on_duty.load(Ordering::Relaxed) > 2);
    for release in held {
        release.send(()).unwrap();
    }
    eventually("all over", || inner.tasks().alive.is_empty());
    // Whoever is too many goes off duty when it next looks for work; and comes back when it is needed.
    eventually("off duty again", || {
        lab.spawn(&share(1), async {});
        inner.on_duty.load(Ordering::Relaxed) == 2
    });
    let core = inner.core();
    assert_eq!(core.resting.len() + 2, core.started);
}

/// Two that take short turns on one thread, as they do who answer each other, are given another thread at the second look.
#[test]
fn what_waits_on_a_thread_at_two_looks_goes_to_one_that_has_nothing_to_do() {
    let lab = Lab::new(2);
    let inner = lab.inner();
    eventually("nobody runs", || inner.idle.load(Ordering::Relaxed) == 2);
    eventually("nobody looks", || inner.bell.is_parked());
    let ran = Arc::new(AtomicUsize::new(0));
    // Nobody wakes the lane for them: it sleeps, as if it had a turn that does not end.
    for id in [1_000, 1_001] {
        let ran = Arc::clone(&ran);
        let work = Box::pin(async move {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        let task =
            Task::new(id, share(1), Urgency::default(), work, std::sync::Arc::downgrade(inner));
        inner.lanes[0].local().push_back(task);
    }
    let mut seen = [watch::Seen::default(); 2];
    inner.look_after(&mut seen);
    assert_eq!(inner.lanes[0].local().len(), 2, "it may be over in a moment");
    inner.look_after(&mut seen);
    eventually("one was given away", || ran.load(Ordering::Relaxed) > 0);
}

#[test]
fn whoever_never_looks_up_holds_nobody_else_and_gets_no_more_than_the_cores() {
    let lab = Lab::new(1);
    let over = Arc::new(AtomicBool::new(false));
    let spinning = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let (over, spinning) = (Arc::clone(&over), Arc::clone(&spinning));
        lab.spawn(&share(1), async move {
            spinning.fetch_add(1, Ordering::Relaxed);
            // One long instruction, as it were.
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    eventually("a second one has a thread", || spinning.load(Ordering::Relaxed) == 2);
    let before = lab.inner().epochs.count();
    eventually("fifty ticks", || lab.inner().epochs.count() > before + 50);
    assert_eq!(spinning.load(Ordering::Relaxed), 2);
    assert_eq!(lab.inner().core().started, 2);
    over.store(true, Ordering::Relaxed);
    eventually("all over", || lab.inner().tasks().alive.is_empty());
}

#[test]
fn the_end_drops_what_waits_and_does_not_wait_for_what_hangs() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let mut lab = Lab::new(2);
    let drops = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let dropped = Dropped(Arc::clone(&drops));
        // Keeps its own waker, as our runs do.
        let mut waker: Option<Waker> = None;
        lab.spawn(&share(1), async move {
            let _dropped = dropped;
            poll_fn(|cx| {
                waker.get_or_insert_with(|| cx.waker().clone());
                Poll::<()>::Pending
            })
            .await;
        });
    }
    let (release, wait) = mpsc::sync_channel::<()>(1);
    let (hangs, is_hanging) = mpsc::sync_channel(1);
    lab.spawn(&share(1), async move {
        hangs.send(()).unwrap();
        let _ = wait.recv_timeout(PATIENCE);
    });
    is_hanging.recv_timeout(PATIENCE).unwrap();
    let inner = Arc::clone(lab.inner());
    lab.stop(Duration::from_millis(50));
    assert_eq!(drops.load(Ordering::SeqCst), 3);
    release.send(()).unwrap();
    eventually("all threads ended", || inner.core().lanes_alive == 0);
}

#[test]
fn whoever_is_in_the_midst_of_a_turn_at_the_end_is_dropped_when_it_comes_out() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let mut lab = Lab::new(1);
    let drops = Arc::new(AtomicBool::new(false));
    let dropped = Dropped(Arc::clone(&drops));
    let (release, wait) = mpsc::sync_channel::<()>(1);
    let (holds, is_holding) = mpsc::sync_channel(1);
    // Keeps its own waker, as a socket does.
    let mut waker: Option<Waker> = None;
    lab.spawn(&share(1), async move {
        let _dropped = dropped;
        holds.send(()).unwrap();
        let _ = wait.recv_timeout(PATIENCE);
        poll_fn(|cx| {
            waker.get_or_insert_with(|| cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    });
    is_holding.recv_timeout(PATIENCE).unwrap();
    lab.stop(Duration::ZERO);
    assert!(!drops.load(Ordering::SeqCst));
    release.send(()).unwrap();
    eventually("dropped", || drops.load(Ordering::SeqCst));
}

#[test]
fn the_epoch_turns_while_somebody_runs_and_stands_still_otherwise() {
    let lab = Lab::new(2);
    let inner = Arc::clone(lab.inner());
    let ticks = || inner.epochs.count();
    for _ in 0..3 {
        eventually("parked", || inner.bell.is_parked());
        let before = ticks();
        let over = Arc::new(AtomicBool::new(false));
        let share = share(1);
        lab.spawn(&share, spin(Arc::clone(&share), Arc::clone(&over)));
        eventually("ticking", || ticks() > before + 3);
        over.store(true, Ordering::Relaxed);
    }
    eventually("parked again", || inner.bell.is_parked());
    let parked_at = ticks();
    // Nothing runs: the count stands still, however long one looks.
    (0..100_000).for_each(|_| std::thread::yield_now());
    assert_eq!(ticks(), parked_at);
}

/// A module of little weight among heavy ones may get a turn every few seconds; its end is not to wait for that.
#[test]
fn what_is_to_end_has_its_turn_at_once() {
    let lab = Lab::new(1);
    let over = Arc::new(AtomicBool::new(false));
    let heavy = Arc::new(AtomicU64::new(0));
    for _ in 0..4 {
        let share = share(4000);
        let (mine, over, turns) = (Arc::clone(&share), Arc::clone(&over), Arc::clone(&heavy));
        lab.spawn(&share, async move {
            while !over.load(Ordering::Relaxed) {
                turns.fetch_add(1, Ordering::Relaxed);
                mine.charge(1_000_000);
                step_back().await;
            }
        });
    }
    let (light, urgency) = (share(1), Urgency::default());
    let (mine, ended) = (Arc::clone(&light), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&ended);
    lab.spawn_ending(&light, &urgency, async move {
        while !told.load(Ordering::Relaxed) {
            // As if it had computed for a quarter of an hour. The others would have to have 1.6 thousand million turns before its next.
            mine.charge(1_000_000_000_000);
            step_back().await;
        }
    });
    let waits = || light.used() > 0 && heavy.load(Ordering::Relaxed) > 1_000;
    eventually("it waits behind the others", waits);
    ended.store(true, Ordering::Relaxed);
    lab.scheduler.as_ref().unwrap().spawner().hasten(&light, &urgency);
    eventually("it is over", || lab.inner().tasks().alive.len() == 4);
    over.store(true, Ordering::Relaxed);
}

#[test]
fn a_lane_without_work_takes_half_of_what_waits_on_another_and_leaves_one_alone() {
    let lab = Lab::new(1);
    let inner = lab.inner();
    // Lanes in reserve have no threads.
    let [busy, free] = [&inner.lanes[3], &inner.lanes[4]];
    let task = |id| {
        let work = Box::pin(std::future::pending());
        Task::new(id, share(100), Urgency::default(), work, Arc::downgrade(inner))
    };
    let ids = |lane: &Lane| lane.local().iter().map(|task| task.id).collect::<Vec<_>>();
    busy.local().push_back(task(1));
    assert!(inner.relieve_another(4, free).is_none());
    busy.local().extend((2..=5).map(task));
    let first = inner.relieve_another(4, free).unwrap();
    assert_eq!((first.id, ids(free), ids(busy)), (4, vec![5], vec![1, 2, 3]));
}
