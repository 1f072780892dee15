//! What a lane does: takes the next task, gives it a turn, and looks where it goes from there.
//!
//! Owns: the loop of a lane, and the question whether a turn is over. Is not: waking (`mod.rs`), nor what a turn consists of (`task.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use super::lane::{Lane, here};
use super::share::Share;
use super::task::{Task, Turn};
use super::{AHEAD_MAX, CLOCK_GRAIN, Inner, SHORT_TURN_NS};
use crate::runtime::cputime::monotonic_ns;

impl Inner {
    pub(super) fn run_lane(&self, index: usize) {
        let lane = &self.lanes[index];
        let mut ready = Vec::new();
        while let Some(task) = self.next(index, lane, &mut ready) {
            lane.begin(task.due(), monotonic_ns());
            let turn = task.turn();
            lane.end();
            self.advance_clock(task.share.used());
            match turn {
                Turn::Again => self.again(lane, task),
                Turn::Idle => task.share.leave(),
                Turn::Over => {
                    task.share.leave();
                    self.over(&task);
                }
            }
        }
    }

    /// Waits for something to do; `None`: the lane is to end.
    fn next(&self, index: usize, lane: &Lane, ready: &mut Vec<Waker>) -> Option<Arc<Task>> {
        loop {
            if self.reactor.is_in_use() && lane.is_to_glance() {
                self.reactor.glance(ready);
                lane.hand_out(ready);
            }
            if self.on_duty.load(Ordering::Relaxed) > self.allowed.load(Ordering::Relaxed) {
                self.rest(index, lane);
            }
            let local = lane.local().pop_front();
            if let Some(task) = local {
                if self.is_next(lane, &task) {
                    return Some(task);
                }
                self.push(task, false);
            }
            if self.first.load(Ordering::Relaxed) == u64::MAX
                && let Some(task) = self.relieve_another(index, lane)
            {
                return Some(task);
            }
            let mut core = self.core();
            if let Some(task) = core.queue.pop() {
                self.first.store(core.queue.first(), Ordering::Relaxed);
                // One wake-up may have stood for several tasks.
                let helper = if core.queue.len() > 0 { self.take_idle(&mut core) } else { None };
                drop(core);
                if let Some(helper) = helper {
                    self.wake(helper);
                }
                return Some(task);
            }
            if core.ending && self.tasks().alive.is_empty() {
                return None;
            }
            core.idle.push(index);
            self.idle.store(core.idle.len(), Ordering::SeqCst);
            drop(core);
            self.wait(index, lane, ready);
        }
    }

    /// Takes over half of what waits on another lane, where that is more than one: two that answer each other are not to be parted, and there one waits
    /// at a time.
    pub(super) fn relieve_another(&self, index: usize, lane: &Lane) -> Option<Arc<Task>> {
        let others = self.lanes.iter().enumerate().filter(|(other, _)| *other != index);
        others.map(|(_, other)| other).find_map(|other| {
            let mut taken = {
                let mut theirs = other.local();
                let stay = theirs.len().div_ceil(2);
                if theirs.len() > 1 { theirs.split_off(stay) } else { return None }
            };
            let first = taken.pop_front();
            lane.local().append(&mut taken);
            first
        })
    }

    /// Waits until this lane is off the list of those that have nothing to do: somebody wants it, or one of the kernel's sockets is ready.
    fn wait(&self, index: usize, lane: &Lane, ready: &mut Vec<Waker>) {
        let in_use = self.reactor.is_in_use();
        let Some(mut watch) = in_use.then(|| self.reactor.watch(index)).flatten() else {
            return lane.park();
        };
        while ready.is_empty() {
            if lane.is_wanted() {
                return;
            }
            watch.wait(ready);
        }
        drop(watch);
        if !self.comes_back(index) {
            // Whoever took it off the list wakes it as well.
            lane.park();
        }
        lane.hand_out(ready);
    }

    /// Takes a lane off the list of those that have nothing to do, for itself; returns whether it was there.
    fn comes_back(&self, index: usize) -> bool {
        let mut core = self.core();
        let Some(at) = core.idle.iter().position(|&idle| idle == index) else { return false };
        core.idle.swap_remove(at);
        self.left_idle(&core);
        drop(core);
        self.bell.ring();
        true
    }

    /// Whether `task`, which was woken on `lane`, has its turn now and not the first in the common queue: it has used less; or it may go before that one all
    /// the same, as [`AHEAD_MAX`] in a row may. Without that bound, tasks of one module that wake each other (its connections) would keep others of the same
    /// module waiting for as long as they like: they all have used as much.
    fn is_next(&self, lane: &Lane, task: &Task) -> bool {
        let (due, first) = (task.due(), self.first.load(Ordering::Relaxed));
        if due < first {
            lane.counts_anew();
            return true;
        }
        lane.goes_ahead(AHEAD_MAX) && (due == first || self.may_go_before(task))
    }

    /// Whether `task`, which was woken on a lane, may go before the first in the common queue: that is of the same pod, and does not wait for long
    /// by this. What a carrier has brought is answered, and the answer sent, before the next carrier brings more; the other way round, all that
    /// comes at once would be begun before anything is done.
    fn may_go_before(&self, task: &Task) -> bool {
        let mut core = self.core();
        core.queue.leads().is_some_and(|first| task.share.may_go_before(first))
    }

    /// `task` wants to go on after its turn.
    fn again(&self, lane: &Lane, task: Arc<Task>) {
        task.share.go_on(self.clock.load(Ordering::Relaxed));
        let mut local = lane.local();
        let others = !local.is_empty();
        let helpers = others && self.idle.load(Ordering::Relaxed) > 0;
        // A guest of WASI 0.3 wakes itself whenever one of its streams goes on, mostly for nothing: after a short turn, that is no
        // work for another thread. If it is one after all, the ticker sees it.
        let stays = !helpers || lane.age(monotonic_ns()) < SHORT_TURN_NS;
        if stays && self.first.load(Ordering::Relaxed) == u64::MAX {
            local.push_back(task);
            return;
        }
        drop(local);
        // This lane takes one of both; an idle one may have the other.
        self.push(task, helpers);
    }

    fn over(&self, task: &Task) {
        let last = {
            let mut tasks = self.tasks();
            tasks.alive.remove(&task.id);
            tasks.alive.is_empty()
        };
        if last && self.core().ending {
            self.unpark_all();
        }
    }

    /// Virtual time is where the least of those who run or wait is.
    pub(super) fn advance_clock(&self, used: u64) {
        let now = used.min(self.first.load(Ordering::Relaxed));
        if now > self.clock.load(Ordering::Relaxed).saturating_add(CLOCK_GRAIN) {
            self.clock.fetch_max(now, Ordering::Relaxed);
        }
    }
}

/// When the turn in progress on this thread began, monotonic nanoseconds.
pub(crate) fn turn_began() -> u64 {
    here(|_, _, lane| lane.began.load(Ordering::Relaxed)).unwrap_or_else(monotonic_ns)
}

/// Whether somebody waits on this thread for the end of the turn in progress: whom it woke, or who gave way to it.
pub(crate) fn others_wait() -> bool {
    here(|_, _, lane| !lane.local().is_empty()).unwrap_or(false)
}

/// The epoch has turned: whether whoever has the turn on this thread should let another one run.
pub(crate) fn should_step_back(share: &Share, now: u64) -> bool {
    here(|scheduler, _, lane| {
        lane.look();
        if now.saturating_sub(lane.began.load(Ordering::Relaxed)) < SHORT_TURN_NS {
            if lane.step_back.load(Ordering::Relaxed) {
                scheduler.bell.hurry();
            }
            return false;
        }
        share.go_on(scheduler.clock.load(Ordering::Relaxed));
        let used = share.used();
        lane.used.store(used, Ordering::Relaxed);
        scheduler.advance_clock(used);
        lane.step_back.swap(false, Ordering::Relaxed)
            || scheduler.first.load(Ordering::Relaxed) < used
            || lane.local().iter().any(|next| next.due() < used)
    })
    // On no thread of ours: whoever it is may want it back.
    .unwrap_or(true)
}
