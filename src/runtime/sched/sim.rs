//! A machine of simulated cores and simulated time: who gets how much of it, whatever modules do to get more.
//!
//! Owns (tests only): the passing of time. The queue, the shares and the buckets are the real ones, used in the way of `turns.rs` and `meter.rs`; the
//! threads and the epoch are not, which `tests.rs` and the benches are about.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use proptest::prelude::*;

use super::queue::{FairQueue, Waits};
use super::share::{PodShare, Share};
use super::{CLOCK_GRAIN, CLOCK_START, SHORT_TURN_NS};
use crate::runtime::meter::{Bucket, CpuAccount, PodCpu};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Nothing happens between two of these.
const GRAIN: u64 = 50 * US;
const TICK: u64 = MS;

/// What a task does when it has the turn: runs for so long, then sleeps for so long; without sleep it goes on at once, in another turn.
#[derive(Clone, Copy, Debug)]
struct Habit {
    run: u64,
    sleep: u64,
}

const SPIN: Habit = Habit { run: u64::MAX, sleep: 0 };

/// A module: its share, its limits, and its tasks.
struct Module {
    share: Arc<Share>,
    limits: Vec<Arc<Bucket>>,
    got: u64,
    /// The longest that a task of it wanted a core and had none, not counting what its limits made it wait.
    waited: u64,
}

impl Module {
    fn throttled(&self, now: u64) -> u64 {
        self.limits.iter().map(|bucket| bucket.wait_ns(now)).max().unwrap_or(0)
    }
}

#[derive(Clone)]
struct Task {
    n: usize,
    share: Arc<Share>,
}

impl Waits for Task {
    fn share(&self) -> &Arc<Share> {
        &self.share
    }

    fn is_urgent(&self) -> bool {
        false
    }
}

struct State {
    module: usize,
    habits: Vec<Habit>,
    /// Which of them it has, and for how long it has run in it.
    habit: usize,
    ran: u64,
    /// When it wakes, if it sleeps; since when it waits for a core, if it does.
    wakes: Option<u64>,
    waits: Option<u64>,
}

struct Core {
    task: Task,
    began: u64,
    step_back: bool,
}

#[derive(Default)]
struct Machine {
    now: u64,
    clock: u64,
    modules: Vec<Module>,
    tasks: Vec<State>,
    queue: FairQueue<Task>,
    cores: Vec<Option<Core>>,
}

impl Machine {
    fn new(cores: usize) -> Self {
        let cores = (0..cores).map(|_| None).collect();
        Self { clock: CLOCK_START, cores, ..Self::default() }
    }

    fn pod(&mut self, pod: &Arc<PodShare>, request: u64, limits: Vec<Arc<Bucket>>) -> usize {
        let share = Arc::new(Share::new(Some(request), Arc::clone(pod)));
        self.modules.push(Module { share, limits, got: 0, waited: 0 });
        self.modules.len() - 1
    }

    /// A module and what carries its pod's bytes: with so many always ready.
    fn carried(&mut self, request: Option<u64>, carriers: usize) -> [usize; 2] {
        let pod = Arc::new(PodCpu::new(None, request));
        let module = CpuAccount::new(None, request, Arc::clone(&pod));
        for share in [&module.share, pod.carriers()] {
            let share = Arc::clone(share);
            self.modules.push(Module { share, limits: vec![], got: 0, waited: 0 });
        }
        let [module, carrying] = [self.modules.len() - 2, self.modules.len() - 1];
        self.task(module, vec![SPIN]);
        for _ in 0..carriers {
            self.task(carrying, vec![Habit { run: 2 * GRAIN, sleep: 0 }]);
        }
        [module, carrying]
    }

    fn module(&mut self, request: u64) -> usize {
        self.pod(&Arc::default(), request, vec![])
    }

    fn task(&mut self, module: usize, habits: Vec<Habit>) {
        let state = State { module, habits, habit: 0, ran: 0, wakes: Some(0), waits: None };
        self.tasks.push(state);
    }

    fn spinner(&mut self, request: u64) -> usize {
        let module = self.module(request);
        self.task(module, vec![SPIN]);
        module
    }

    fn run(&mut self, time: u64) -> Vec<u64> {
        let until = self.now + time;
        while self.now < until {
            self.wake_sleepers();
            for core in 0..self.cores.len() {
                self.take(core);
            }
            self.now += GRAIN;
            for core in 0..self.cores.len() {
                self.work(core);
            }
        }
        self.modules.iter().map(|module| module.got).collect()
    }

    fn wake_sleepers(&mut self) {
        for n in 0..self.tasks.len() {
            if self.tasks[n].wakes.is_some_and(|at| at <= self.now) {
                self.tasks[n].wakes = None;
                let share = Arc::clone(&self.modules[self.tasks[n].module].share);
                share.enter(self.clock);
                let due = share.used();
                self.wait(Task { n, share });
                self.make_room(due);
            }
        }
    }

    fn wait(&mut self, task: Task) {
        self.tasks[task.n].waits = Some(self.now);
        self.queue.push(task);
    }

    fn make_room(&mut self, due: u64) {
        if self.cores.iter().any(Option::is_none) {
            return;
        }
        let ahead = self.cores.iter_mut().flatten().max_by_key(|core| core.task.share.used());
        if let Some(core) = ahead.filter(|core| core.task.share.used() > due) {
            core.step_back = true;
        }
    }

    /// A core that is free takes the next task that may run.
    fn take(&mut self, core: usize) {
        while self.cores[core].is_none() {
            let Some(task) = self.queue.pop() else { return };
            let state = &mut self.tasks[task.n];
            let module = &mut self.modules[state.module];
            let waited = self.now - state.waits.take().unwrap();
            module.waited = module.waited.max(waited);
            match module.throttled(self.now) {
                0 => {
                    self.cores[core] = Some(Core { task, began: self.now, step_back: false });
                }
                wait => {
                    state.wakes = Some(self.now + wait);
                    task.share.leave();
                }
            }
        }
    }

    /// A grain of time has passed on a core.
    fn work(&mut self, core: usize) {
        let Some(Core { task, began, step_back }) = self.cores[core].take() else { return };
        let state = &mut self.tasks[task.n];
        let module = &mut self.modules[state.module];
        module.got += GRAIN;
        task.share.charge(GRAIN);
        for bucket in &module.limits {
            bucket.charge(GRAIN);
        }
        let used = task.share.used();
        let now = used.min(self.queue.first());
        if now > self.clock + CLOCK_GRAIN {
            self.clock = now;
        }
        state.ran += GRAIN;
        let habit = state.habits[state.habit];
        if state.ran >= habit.run {
            (state.ran, state.habit) = (0, (state.habit + 1) % state.habits.len());
            if habit.sleep > 0 {
                state.wakes = Some(self.now + habit.sleep);
                return task.share.leave();
            }
            task.share.go_on(self.clock);
            return self.wait(task);
        }
        let looks = self.now.is_multiple_of(TICK) || step_back;
        if looks && self.now - began >= SHORT_TURN_NS {
            task.share.go_on(self.clock);
            let used = task.share.used();
            let throttled = module.throttled(self.now) > 0;
            if throttled || step_back || self.queue.first() < used {
                task.share.go_on(self.clock);
                return self.wait(task);
            }
        }
        self.cores[core] = Some(Core { task, began, step_back });
    }
}

/// Whether it is what is due, within so many hundredths.
#[track_caller]
fn about(got: u64, due: u64, hundredths: u64) {
    let off = got.abs_diff(due);
    assert!(off * 100 <= due * hundredths, "{} ms instead of {} ms", got / MS, due / MS);
}

const LONG: u64 = 10_000 * MS;

#[test]
fn weights_hold_on_one_core_and_on_four() {
    for cores in [1, 2, 4] {
        let mut machine = Machine::new(cores);
        let weights = [100, 200, 400, 100, 200, 400, 100, 200, 400, 100, 200, 400];
        for weight in weights {
            machine.spinner(weight);
        }
        let got = machine.run(LONG);
        let all: u64 = weights.iter().sum();
        for (got, weight) in got.into_iter().zip(weights) {
            about(got, LONG * cores as u64 * weight / all, 3);
        }
    }
}

#[test]
fn who_weighs_more_than_a_core_gets_one_and_the_others_share_the_rest() {
    let mut machine = Machine::new(2);
    let heavy = machine.spinner(4000);
    let light = [machine.spinner(10), machine.spinner(10)];
    let got = machine.run(LONG);
    about(got[heavy], LONG, 1);
    for module in light {
        about(got[module], LONG / 2, 3);
    }
    // Once others want as much as it does, it has saved up nothing that they would have to wait for.
    let late = [machine.spinner(4000), machine.spinner(4000)];
    let before = got[heavy];
    let got = machine.run(LONG);
    for module in [heavy, late[0], late[1]] {
        let got = got[module] - if module == heavy { before } else { 0 };
        about(got, LONG * 2 / 3, 3);
    }
}

#[test]
fn who_sleeps_gets_what_it_wants_soon_and_nothing_of_what_it_missed() {
    let mut machine = Machine::new(2);
    for _ in 0..4 {
        machine.spinner(10);
    }
    let timer = machine.module(10);
    machine.task(timer, vec![Habit { run: MS, sleep: 9 * MS }]);
    let got = machine.run(LONG);
    about(got[timer], LONG / 10, 6);
    assert!(machine.modules[timer].waited <= 2 * MS, "{} µs", machine.modules[timer].waited / US);
    // A module that slept for ten seconds and wants everything now.
    let sleeper = machine.module(10);
    machine.task(sleeper, vec![SPIN]);
    machine.tasks.last_mut().unwrap().wakes = Some(machine.now + LONG);
    machine.run(LONG);
    let before: Vec<u64> = machine.modules.iter().map(|module| module.got).collect();
    let got = machine.run(1000 * MS);
    let spun = got[0] - before[0];
    assert!(got[sleeper] <= spun + 10 * MS, "{} and {}", got[sleeper] / MS, spun / MS);
}

#[test]
fn who_has_many_tasks_gets_no_more_than_who_has_one() {
    for cores in [1, 2] {
        let mut machine = Machine::new(cores);
        let honest = [machine.spinner(10), machine.spinner(10)];
        let many = machine.module(10);
        for n in 0..200 {
            machine
                .task(many, vec![Habit { run: MS, sleep: if n % 2 == 0 { 0 } else { 30 * MS } }]);
        }
        let got = machine.run(LONG);
        for module in honest {
            about(got[module], LONG * cores as u64 / 3, 3);
            let waited = machine.modules[module].waited;
            assert!(waited <= 6 * MS, "{cores} cores: waited {} µs", waited / US);
        }
    }
}

#[test]
fn limits_and_weights_hold_together() {
    let mut machine = Machine::new(1);
    let limited = machine.pod(&Arc::default(), 1000, vec![Arc::new(Bucket::new(200, 0))]);
    machine.task(limited, vec![SPIN]);
    let others = [machine.spinner(10), machine.spinner(30)];
    let got = machine.run(LONG);
    about(got[limited], LONG / 5, 2);
    about(got[others[0]], LONG / 5, 4);
    about(got[others[1]], LONG * 3 / 5, 4);
}

#[test]
fn a_pods_limit_is_divided_by_weight_and_each_modules_own_holds_too() {
    for cores in [1, 4] {
        let mut machine = Machine::new(cores);
        let (share, bucket) = (Arc::new(PodShare::new(None)), Arc::new(Bucket::new(700, 0)));
        let both = || vec![Arc::clone(&bucket), Arc::new(Bucket::new(100, 0))];
        let small = machine.pod(&share, 400, both());
        let rest =
            [100, 200].map(|request| machine.pod(&share, request, vec![Arc::clone(&bucket)]));
        for module in [small, rest[0], rest[1]] {
            machine.task(module, vec![SPIN]);
        }
        let got = machine.run(LONG);
        about(got.iter().sum(), LONG * 7 / 10, 1);
        about(got[small], LONG / 10, 3);
        if cores == 1 {
            about(got[rest[0]], LONG / 5, 10);
            about(got[rest[1]], LONG * 2 / 5, 10);
        }
    }
}

#[test]
fn a_pod_of_four_gets_its_limit_on_two_cores_and_each_module_the_same() {
    let mut machine = Machine::new(2);
    let bucket = Arc::new(Bucket::new(1500, 0));
    for _ in 0..4 {
        let module = machine.pod(&Arc::default(), 10, vec![Arc::clone(&bucket)]);
        machine.task(module, vec![SPIN]);
    }
    let got = machine.run(LONG);
    about(got.iter().sum(), LONG * 3 / 2, 1);
    for got in got {
        about(got, LONG * 3 / 8, 5);
    }
}

#[test]
fn carrying_for_a_pod_takes_from_strangers_only_what_its_modules_may() {
    for cores in [1, 2] {
        let all = LONG * cores as u64;
        let mut machine = Machine::new(cores);
        let [module, carrying] = machine.carried(Some(100), 50);
        let strangers: Vec<_> = (0..2).map(|_| machine.spinner(100)).collect();
        let got = machine.run(LONG);
        for stranger in strangers {
            about(got[stranger], all / 3, 3);
        }
        // Half each: what the module says is not held up by what it computes.
        about(got[module], all / 6, 3);
        about(got[carrying], all / 6, 3);
    }
}

/// Its modules stand for themselves, and what carries for them is one more.
#[test]
fn carrying_for_a_pod_that_requests_nothing_weighs_as_much_as_one_module_of_it() {
    let mut machine = Machine::new(1);
    let [module, carrying] = machine.carried(None, 50);
    let stranger = machine.spinner(10);
    let got = machine.run(LONG);
    for share in [module, carrying, stranger] {
        about(got[share], LONG / 3, 3);
    }
}

#[test]
fn years_of_computing_change_nothing() {
    // Ten years at the least weight.
    let years = 10 * 365 * 24 * 3600 * 1000 * MS;
    let mut machine = Machine::new(1);
    let modules = [machine.spinner(10), machine.spinner(10)];
    for module in modules {
        machine.modules[module].share.charge(years);
    }
    machine.clock = machine.modules[0].share.used();
    let new = machine.spinner(20);
    let got = machine.run(LONG);
    about(got[modules[0]], LONG / 4, 3);
    about(got[new], LONG / 2, 3);
}

fn habit() -> impl Strategy<Value = Habit> {
    let run = prop_oneof![
        Just(GRAIN), // wakes itself again and again
        Just(SHORT_TURN_NS),
        Just(TICK - GRAIN), // just before it would be charged, were it charged by ticks
        (1u64..60).prop_map(|n| n * GRAIN),
        Just(50 * MS),
    ];
    let sleep = prop_oneof![
        Just(0u64),
        Just(GRAIN),
        (1u64..100).prop_map(|n| n * GRAIN),
        (1u64..100).prop_map(|n| n * MS),
    ];
    (run, sleep).prop_map(|(run, sleep)| Habit { run, sleep })
}

proptest! {
    // A quarter of the usual number: each is thousands of steps.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.div_ceil(4),
        ..ProptestConfig::default()
    })]

    /// Whatever a module does (yields just before its turn ends, wakes itself, sleeps a little, does all that in several tasks): it gets no more than
    /// one of its weight that simply computes, but for the credit of one who comes back and a turn.
    #[test]
    fn nobody_gains_by_tricks(
        cores in 1usize..4,
        tasks in proptest::collection::vec(proptest::collection::vec(habit(), 1..5), 1..5),
        weight in prop_oneof![Just(10u64), Just(500), Just(4000)],
    ) {
        let mut machine = Machine::new(cores);
        let honest: Vec<usize> = (0..cores + 2).map(|_| machine.spinner(weight)).collect();
        let tricky = machine.module(weight);
        for habits in tasks {
            machine.task(tricky, habits);
        }
        let got = machine.run(300 * MS);
        let least = honest.iter().map(|&module| got[module]).min().unwrap();
        prop_assert!(
            got[tricky] <= least + 12 * MS,
            "{} ms, and who simply computes {} ms", got[tricky] / MS, least / MS
        );
        for &module in &honest {
            let waited = machine.modules[module].waited;
            // Everyone else's turn once, and the newcomer's credit.
            prop_assert!(waited <= (cores as u64 + 8) * 2 * MS, "waited {} µs", waited / US);
        }
    }
}
