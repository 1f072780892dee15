//! What the ticker looks after: tasks that wait behind a turn that does not end, and lanes whose thread is held.
//!
//! Owns: the decisions; the ticker calls in here at each tick. A lane is *held* when its turn goes on and the guest has not looked up for longer than
//! any guest's own code does: it is in a host function, or in one instruction that fills a large memory. If the thread sleeps (the kernel lets it wait), a
//! spare one has its core. If it has computed meanwhile, the kernel divides the cores among all; so there are no more spare ones for those than there are
//! cores. A thread that has done neither is one that the kernel has put aside for other programs: with its first instructions it will look up.
//! So what counts is what a thread has computed and not how soon: on a machine with much else to do, a module would else wait behind another's
//! instruction for as long as that takes.
//!
//! A thread's CPU time is one system call, asked at each tick for lanes that stand still. Whether it sleeps, the kernel tells in a file, which costs twenty times
//! that. It is read only of a thread that does not compute steadily; and what it said holds for as long as that computes nothing at all, for nobody
//! falls asleep, or does anything after sleeping, without computing. A clock may be coarse (some sandboxes'): so "does not sleep" holds for twice the time.
//! On a machine with much else to do each turn stands still now and then, and looks at each tick would be hundreds of files a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use super::lane::Lane;
use super::{Inner, SPARE_LANES};
use crate::runtime::cputime::monotonic_ns;

/// When a turn has stood still for so long, its thread is looked at for the first time, nanoseconds: a guest looks up at each tick.
const LOOK_NS: u64 = 1_000_000;

/// For how long a turn has to stand still to be held, nanoseconds: most reads of a disk are quicker.
const STANDS_NS: u64 = 2_500_000;

/// What a thread computes meanwhile to be held by it, nanoseconds: an epoch has turned since it last looked up, so a guest's own code would have
/// looked up within microseconds.
const COMPUTES_NS: u64 = 500_000;

/// What was seen of a lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    turns: u64,
    looks: u64,
    /// Since when neither has changed.
    since: u64,
    /// Somebody waited there.
    waited: bool,
    /// The thread's CPU time when it was first looked at after that, nanoseconds.
    computed: Option<u64>,
    /// The same at the last look, and when that was.
    last: Option<(u64, u64)>,
    /// Whether it slept, and for how long the turn had stood then. Gone when it computes.
    slept: Option<(bool, u64)>,
}

/// What holds a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Asleep,
    Computing,
}

impl Seen {
    /// Looks at a lane that has not changed: whether its thread sleeps, and what it has computed.
    fn look(
        &mut self,
        now: u64,
        sleeps: impl FnOnce() -> bool,
        cpu_ns: impl FnOnce() -> Option<u64>,
    ) -> Option<Held> {
        let stood = now.saturating_sub(self.since);
        if self.turns.is_multiple_of(2) || stood < LOOK_NS {
            return None;
        }
        let cpu = cpu_ns();
        let before = std::mem::replace(&mut self.last, cpu.map(|cpu| (cpu, now)));
        if cpu.is_none() || cpu != before.map(|(cpu, _)| cpu) {
            self.slept = None;
        }
        let computed = cpu.map(|cpu| cpu.saturating_sub(*self.computed.get_or_insert(cpu)));
        if stood <= STANDS_NS {
            return None;
        }
        let is_steady = cpu.zip(before).is_some_and(|(cpu, (before, at))| {
            cpu.saturating_sub(before) > now.saturating_sub(at) / 2
        });
        if !is_steady && self.sleeps(stood, sleeps) {
            return Some(Held::Asleep);
        }
        computed.is_some_and(|ns| ns > COMPUTES_NS).then_some(Held::Computing)
    }

    /// What is known of a thread that has computed little or nothing, and else what the kernel says.
    fn sleeps(&mut self, stood: u64, ask: impl FnOnce() -> bool) -> bool {
        match self.slept {
            Some((slept, at)) if slept || stood < at.saturating_mul(2) => slept,
            Some(_) | None => {
                let sleeps = ask();
                self.slept = Some((sleeps, stood));
                sleeps
            }
        }
    }
}

impl Inner {
    /// How many lanes have something to do.
    pub(super) fn busy(&self) -> usize {
        self.on_duty.load(Ordering::SeqCst).saturating_sub(self.idle.load(Ordering::SeqCst))
    }

    /// Whether somebody waits for a lane.
    fn crowded(&self) -> bool {
        self.first.load(Ordering::Relaxed) != u64::MAX
            || self.lanes.iter().any(|lane| !lane.local().is_empty())
    }

    /// Looks at all lanes; `seen` is what this left the last time. Returns whether somebody waits.
    pub(super) fn look_after(self: &Arc<Self>, seen: &mut [Seen]) -> bool {
        let now = monotonic_ns();
        let mut crowded = self.crowded();
        for (lane, seen) in self.lanes.iter().zip(&mut *seen) {
            let turns = lane.turns.load(Ordering::Acquire);
            let same_turn = turns % 2 == 1 && turns == seen.turns;
            let waits = !lane.local().is_empty();
            if same_turn {
                crowded |= self.relieve(lane);
            } else if waits && seen.waited && self.idle.load(Ordering::Relaxed) > 0 {
                self.share_out(lane);
            }
            seen.waited = waits;
            let looks = lane.looks.load(Ordering::Relaxed);
            if !same_turn || looks != seen.looks {
                *seen = Seen { turns, looks, since: now, waited: waits, ..Seen::default() };
            }
        }
        crowded |= self.look_for_sockets();
        if crowded || self.allowed.load(Ordering::Relaxed) > self.threads {
            self.set_allowed(seen, now);
        }
        if crowded && self.on_duty.load(Ordering::Relaxed) < self.allowed.load(Ordering::Relaxed) {
            self.reinforce();
        }
        crowded
    }

    /// Sees to the kernel's sockets where no lane does: an idle one is to watch them; where there is none, this thread asks for them once. Returns
    /// whether it had to.
    fn look_for_sockets(&self) -> bool {
        if !self.reactor.is_in_use() || self.reactor.watcher().is_some() {
            return false;
        }
        let idle = self.take_idle(&mut self.core());
        if let Some(idle) = idle {
            self.wake(idle);
            return false;
        }
        let mut ready = Vec::new();
        self.reactor.glance(&mut ready);
        ready.into_iter().for_each(Waker::wake);
        true
    }

    /// Gives to all what has waited on a lane for a whole tick. Returns whether there was any.
    fn relieve(&self, lane: &Lane) -> bool {
        let waiting = std::mem::take(&mut *lane.local());
        let any = !waiting.is_empty();
        for task in waiting {
            self.push(task, true);
        }
        any
    }

    /// Two or more take short turns on a lane, and another lane has nothing to do: gives one of them away. If they only answer each
    /// other, the next answer brings them together again.
    fn share_out(&self, lane: &Lane) {
        let last = lane.local().pop_back();
        if let Some(task) = last {
            self.push(task, true);
        }
    }

    fn set_allowed(&self, seen: &mut [Seen], now: u64) {
        let (mut asleep, mut computing) = (0, 0);
        for (lane, seen) in self.lanes.iter().zip(seen) {
            match seen.look(now, || lane.sleeps(), || lane.cpu_ns()) {
                Some(Held::Asleep) => asleep += 1,
                Some(Held::Computing) => computing += 1,
                None => {}
            }
        }
        let spare = (asleep + computing.min(self.threads)).min(SPARE_LANES);
        self.allowed.store(self.threads + spare, Ordering::Relaxed);
    }

    /// Puts one more lane on duty.
    fn reinforce(self: &Arc<Self>) {
        let mut core = self.core();
        if core.ending {
            return;
        }
        if let Some(index) = core.resting.pop() {
            self.on_duty.fetch_add(1, Ordering::Relaxed);
            drop(core);
            self.wake(index);
            return;
        }
        let may_start = core.started < self.lanes.len();
        drop(core);
        if may_start && let Err(error) = self.start_lane() {
            // Tried again at the next tick.
            tracing::warn!(%error, "no thread for modules that wait behind a host function");
        }
    }

    /// Takes this lane off duty until it is needed again.
    pub(super) fn rest(&self, index: usize, lane: &Lane) {
        let mut core = self.core();
        let surplus = self.on_duty.load(Ordering::Relaxed) > self.allowed.load(Ordering::Relaxed);
        if !surplus || core.ending {
            return;
        }
        self.on_duty.fetch_sub(1, Ordering::SeqCst);
        core.resting.push(index);
        for task in std::mem::take(&mut *lane.local()) {
            core.queue.push(task);
        }
        self.first.store(core.queue.first(), Ordering::Relaxed);
        let heir = if core.queue.len() > 0 { self.take_idle(&mut core) } else { None };
        drop(core);
        if let Some(heir) = heir {
            self.wake(heir);
        }
        lane.park();
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const MS: u64 = 1_000_000;

    /// What is seen at a look each millisecond of a turn that does not look up, whose thread gets so many thousandths of a core; and how often the kernel
    /// was asked whether it sleeps.
    fn first_held(millis: u64, sleeps: bool) -> (Option<(u64, Held)>, u32) {
        let mut seen = Seen { turns: 1, ..Seen::default() };
        let (mut first, mut asked) = (None, 0);
        for ms in 1..1000 {
            let sleeps = || {
                asked += 1;
                sleeps
            };
            let held = seen.look(ms * MS, sleeps, || Some(ms * MS / 1000 * millis));
            assert!(first.is_none() || held.is_some(), "held no longer after {ms} ms");
            first = first.or(held.map(|held| (ms, held)));
        }
        (first, asked)
    }

    #[test]
    fn what_computes_is_held_however_little_of_a_core_it_gets() {
        assert_eq!(first_held(1000, false), (Some((3, Held::Computing)), 0));
        assert_eq!(first_held(100, false).0, Some((7, Held::Computing)));
        assert_eq!(first_held(10, false).0, Some((52, Held::Computing)));
    }

    #[test]
    fn what_does_not_compute_is_not_asked_about_at_each_look() {
        assert_eq!(first_held(0, false), (None, 9), "put aside by the kernel for a second");
        assert_eq!(first_held(0, true), (Some((3, Held::Asleep)), 1));
    }

    #[test]
    fn what_computes_now_and_then_is_asked_about_after_each_time() {
        // Put aside, on for a little, asleep, on again, put aside, on for longer, asleep.
        let rows = [
            (1, 0, false, None),
            (2, 0, false, None),
            (3, 0, false, None),
            (4, 400, true, Some(Held::Asleep)),
            (5, 400, true, Some(Held::Asleep)),
            (6, 450, false, None),
            (7, 450, false, None),
            (8, 1050, true, Some(Held::Computing)),
            (9, 1050, true, Some(Held::Asleep)),
        ];
        let mut seen = Seen { turns: 1, ..Seen::default() };
        for (ms, us, sleeps, held) in rows {
            let now = seen.look(ms * MS, || sleeps, || Some(us * 1000));
            assert_eq!(now, held, "after {ms} ms");
        }
    }

    #[test]
    fn where_the_kernel_does_not_tell_what_was_computed_it_is_asked_at_each_look() {
        let mut seen = Seen { turns: 1, ..Seen::default() };
        for ms in 1..10 {
            let sleeps = ms % 2 == 0;
            let held = (sleeps && ms > 2).then_some(Held::Asleep);
            assert_eq!(seen.look(ms * MS, || sleeps, || None), held, "after {ms} ms");
        }
    }

    #[test]
    fn between_turns_nothing_is_held() {
        let mut seen = Seen { turns: 2, ..Seen::default() };
        assert_eq!(seen.look(100 * MS, || true, || Some(100 * MS)), None);
    }
}
