//! A pod under a virtual clock: scripted guests, fake hands, one queue of what is due.
//!
//! Owns: the virtual time and the log; the scripts (`script`), the fake hands (`hands`), the questions (`questions`), and
//! the invariants that hold in every history (`watch`). Not: any real time, thread or guest. Each simulated day costs milliseconds.
//!
//! ```text
//!   queue (time, serial) → event ──► PodState::step ──► actions ──► fake hands ──► queue
//!                                          └──────► Watch: one life, no return, down in reverse, …
//! ```

mod hands;
mod questions;
mod script;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::lifecycle::{
    Action, ConditionKind, Event, PodState, PodStatus, Restored, RunId, StopReason, Timer,
};
use crate::spec::{ContainerName, Exit};

pub use script::{Answers, Guest, OnStop, Try, World};
use watch::Watch;

/// Events after which a simulation is taken to run in circles.
const EVENTS_MAX: usize = 200_000;

/// Something is due.
#[derive(Clone, Debug)]
enum Due {
    Event(Event),
    /// The run is reported as started if it has not been given up.
    Begin(RunId),
    /// The run ends if it still lives and has not been given another end.
    End(RunId),
}

impl Due {
    /// The container it is about.
    fn run(&self) -> Option<&ContainerName> {
        let run = match self {
            Self::Begin(run) | Self::End(run) => run,
            Self::Event(event) => match event {
                Event::Pulling { run }
                | Event::Compiling { run, .. }
                | Event::Compiled { run, .. }
                | Event::Held { run, .. }
                | Event::Prepared { run, .. }
                | Event::PrepareFailed { run, .. }
                | Event::StartFailed { run, .. }
                | Event::TimerFired { timer: Timer::Backoff(run) | Timer::Grace(run) }
                | Event::HookDone { run, .. } => run,
                Event::SandboxReady { .. }
                | Event::SandboxFailed { .. }
                | Event::Started { .. }
                | Event::Exited { .. }
                | Event::ProbeDone { .. }
                | Event::TimerFired { .. }
                | Event::Redefined { .. }
                | Event::Stop { .. }
                | Event::SandboxGone => return None,
            },
        };
        Some(&run.container)
    }
}

/// A run that lives.
#[derive(Clone, Debug)]
struct Alive {
    since: Duration,
    end: Option<(Duration, Exit)>,
}

/// A running simulation.
#[derive(Debug)]
pub struct Sim {
    pub state: PodState,
    /// What the core did, and when.
    pub log: Vec<(Duration, Action)>,
    /// The status after each step that changed it.
    pub statuses: Vec<(Duration, PodStatus)>,
    /// What would be on disk.
    pub written: Option<Restored>,
    pub writes: usize,
    /// The hands lose requests to stop what has not yet begun.
    pub ignores_early_requests: bool,
    /// From these times on the wall clock shows these milliseconds, and goes on from there.
    pub clock_set: Vec<(Duration, i64)>,
    world: World,
    now: Duration,
    serial: u64,
    queue: BTreeMap<(Duration, u64), Due>,
    armed: BTreeMap<Timer, (Duration, u64)>,
    alive: BTreeMap<RunId, Alive>,
    tries: BTreeMap<(String, &'static str), usize>,
    watch: Watch,
}

impl Sim {
    fn new(mut world: World) -> Self {
        let restored = world.restored.take();
        let (state, actions) = PodState::new(
            world.pod.clone(),
            restored.clone(),
            Timestamp::simulated(Duration::ZERO),
        );
        let mut sim = Self {
            log: Vec::new(),
            statuses: vec![(Duration::ZERO, state.status())],
            written: restored,
            writes: 0,
            ignores_early_requests: false,
            clock_set: Vec::new(),
            now: Duration::ZERO,
            serial: 0,
            queue: BTreeMap::new(),
            armed: BTreeMap::new(),
            alive: BTreeMap::new(),
            tries: BTreeMap::new(),
            watch: Watch::new(&world.pod, world.late.is_zero()),
            world,
            state,
        };
        sim.watch.acted(Duration::ZERO, &actions, &sim.state);
        sim.perform(actions);
        sim
    }

    /// Something comes from outside at that time.
    #[must_use]
    pub fn at(mut self, seconds: u64, event: Event) -> Self {
        self.schedule(Duration::from_secs(seconds), Due::Event(event));
        self
    }

    /// The containers are given these images at that time.
    #[must_use]
    pub fn edited_at(mut self, seconds: u64, images: &[(&str, &str)]) -> Self {
        self.world = self.world.edited(images);
        let to = self.world.pod.redefinition();
        self.at(seconds, Event::Redefined { to })
    }

    /// The pod is deleted at that time, with the pod's own grace.
    #[must_use]
    pub fn deleted_at(self, seconds: u64) -> Self {
        self.at(seconds, Event::Stop { grace: None, why: StopReason::Deleted })
    }

    /// Runs until that time, or until nothing is due any more.
    #[must_use]
    pub fn until(mut self, seconds: u64) -> Self {
        self.run_until(Duration::from_secs(seconds));
        self
    }

    pub fn run_until(&mut self, end: Duration) {
        for _ in 0..EVENTS_MAX {
            let Some((&(at, serial), _)) = self.queue.iter().next() else { return };
            if at > end {
                self.now = end;
                return;
            }
            self.now = at;
            let due = self.queue.remove(&(at, serial)).expect("it was just seen");
            match due {
                Due::Event(event) => self.step(event),
                // Not if it was given up, also if it is being started again by now.
                Due::Begin(run) if self.alive.get(&run).is_some_and(|a| a.since == at) => {
                    self.step(Event::Started { run });
                }
                Due::Begin(_) => {}
                Due::End(run) => self.end_of_run(run),
            }
        }
        panic!("the simulation runs in circles at {:?}", self.now);
    }

    /// Hands the core one event, now, and does what it says.
    pub fn step(&mut self, event: Event) {
        let now = self.timestamp();
        self.watch.saw(self.now, &event);
        let actions = self.state.step(now, event);
        self.watch.acted(self.now, &actions, &self.state);
        let status = self.state.status();
        if self.statuses.last().is_none_or(|(_, last)| *last != status) {
            self.statuses.push((self.now, status));
        }
        self.perform(actions);
        self.check_wedged();
    }

    /// A container that backs off has something coming that will end it.
    fn check_wedged(&self) {
        let status = self.state.status();
        let restarting = status.condition(ConditionKind::AllContainersRestarting);
        if self.watch.is_ending()
            || self.state.is_terminal_phase()
            || restarting.is_some_and(|c| c.status)
        {
            return;
        }
        for container in status.all_containers() {
            let backs_off = matches!(
                container.state.waiting_reason(),
                Some(
                    "CrashLoopBackOff"
                        | "ErrImagePull"
                        | "ErrImageNeverPull"
                        | "ImagePullBackOff"
                        | "CreateContainerError"
                        | "CreateContainerConfigError"
                )
            );
            let is_due = self.queue.values().any(|due| due.run() == Some(&container.name));
            assert!(!backs_off || is_due, "nothing will ever end this: {container:?}");
        }
    }

    /// Hands the core an event that is known to be stale: nothing may come of it.
    pub fn step_stale(&mut self, event: Event) {
        let before = self.state.clone();
        let actions = self.state.step(self.timestamp(), event.clone());
        assert_eq!(actions, [], "a stale event caused actions: {event:?}");
        assert_eq!(self.state, before, "a stale event changed the state: {event:?}");
    }

    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Both clocks.
    fn timestamp(&self) -> Timestamp {
        let set = self.clock_set.iter().rev().find(|(at, _)| *at <= self.now);
        let Some((at, wall_ms)) = set else { return Timestamp::simulated(self.now) };
        let since = i64::try_from((self.now - *at).as_millis()).expect("a simulation is short");
        Timestamp::new(self.now, wall_ms + since)
    }

    /// Nothing is due, nothing is under way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.queue.is_empty()
    }

    fn schedule(&mut self, at: Duration, due: Due) -> (Duration, u64) {
        self.serial += 1;
        let key = (at.max(self.now), self.serial);
        self.queue.insert(key, due);
        key
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.schedule(self.now.saturating_add(after), Due::Event(event));
    }

    fn end_of_run(&mut self, run: RunId) {
        let ends_now = |alive: &Alive| matches!(&alive.end, Some((at, _)) if *at <= self.now);
        if !self.alive.get(&run).is_some_and(ends_now) {
            return;
        }
        if let Some(Alive { end: Some((_, exit)), .. }) = self.alive.remove(&run) {
            self.step(Event::Exited { run, exit, message: String::new() });
        }
    }

    fn guest(&self, run: &RunId) -> Guest {
        self.world.guests.get(run.container.as_str()).cloned().unwrap_or_default()
    }

    /// The next entry of a list of tries.
    fn next<T: Clone>(&mut self, name: &str, list: &'static str, entries: &[T]) -> T {
        let n = self.tries.entry((name.to_owned(), list)).or_default();
        let entry = entries.get(*n).or(entries.last()).expect("a script has an entry").clone();
        *n += 1;
        entry
    }

    /// Ends a run then, unless it ends sooner. A start that is still under way is given up if the hands can do that;
    /// else the run ends as soon as it has begun.
    fn end_by(&mut self, run: &RunId, at: Duration, exit: Exit) {
        let Some(alive) = self.alive.get_mut(run) else { return };
        if alive.since > at && self.ignores_early_requests {
            return;
        }
        if alive.since > at && self.world.gives_up_starts {
            self.alive.remove(run);
            let (reason, message) = ("CreateContainerError", "given up".to_owned());
            self.later(Duration::ZERO, Event::StartFailed { run: run.clone(), reason, message });
            return;
        }
        let at = at.max(alive.since);
        if alive.end.as_ref().is_none_or(|(planned, _)| at < *planned) {
            alive.end = Some((at, exit));
            self.schedule(at, Due::End(run.clone()));
        }
    }
}
