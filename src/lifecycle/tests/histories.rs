//! Random pods, guests and orders, against what must hold in every history.
//!
//! The invariants themselves are in `testkit::sim::watch`; each simulated step checks them. Here are the histories.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::clock::Timestamp;
use crate::lifecycle::{Action, Event, HookKind, PodState, ProbeOutcome, RunId, StopReason, Timer};
use crate::spec::{
    Container, ContainerKind, ContainerName, ContainerRestartPolicy, Exit, ImageRef, Pod, Probe,
    ProbeKind, Redefinition, RestartPolicy, RuleAction,
};
use crate::testkit::pods::{Tweak, container, hook, pod, probe, rule, secs, threshold};
use crate::testkit::sim::{Answers, Guest, OnStop, Sim, Try, World};

/// When the last stop comes; no history needs longer to show itself.
const END: u64 = 3000;

/// Times in quarters of a second, so that many things happen at the same instant.
fn quarters(max_seconds: u64) -> impl Strategy<Value = Duration> {
    (0..=max_seconds * 4).prop_map(|quarters| Duration::from_millis(quarters * 250))
}

fn a_probe() -> impl Strategy<Value = Option<Probe>> {
    let fields = (1..20_u64, 0..10_u64, 1..4_u32, 1..4_u32, option::of(1..40_u64));
    option::weighted(
        0.3,
        fields.prop_map(|(period, delay, good, bad, grace)| {
            probe(period).tweak(|p| {
                p.initial_delay = secs(delay);
                (p.success_threshold, p.failure_threshold) = (threshold(good), threshold(bad));
                p.grace = grace.map(secs);
            })
        }),
    )
}

fn a_policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never)
    ]
}

fn a_container(name: String, kind: ContainerKind) -> impl Strategy<Value = Container> {
    let own = prop_oneof![
        4 => Just(None),
        1 => Just(Some(ContainerRestartPolicy::Always)),
        1 => Just(Some(ContainerRestartPolicy::Never)),
    ];
    let action = prop_oneof![
        6 => Just(None),
        1 => Just(Some(RuleAction::Restart)),
        1 => Just(Some(RuleAction::RestartAllContainers)),
    ];
    let hooks = (any::<bool>(), any::<bool>());
    (a_probe(), a_probe(), a_probe(), hooks, own, action).prop_map(
        move |(startup, liveness, readiness, (post, pre), own, action)| {
            container(&name, kind).tweak(|c| {
                // Kubernetes allows probes and hooks on everything but plain init containers.
                if kind == ContainerKind::Init {
                    return;
                }
                (c.startup, c.liveness, c.readiness) = (startup, liveness, readiness);
                c.startup.iter_mut().chain(&mut c.liveness).for_each(|p| {
                    p.success_threshold = threshold(1);
                });
                c.hooks.post_start = post.then(hook);
                c.hooks.pre_stop = pre.then(hook);
                if kind == ContainerKind::Regular {
                    c.restart_policy = own;
                    c.restart_rules = action.map(|action| rule(action, &[3])).into_iter().collect();
                }
            })
        },
    )
}

fn a_pod() -> impl Strategy<Value = Pod> {
    let kinds = prop_oneof![Just(ContainerKind::Init), Just(ContainerKind::Sidecar)];
    (vec(kinds, 0..4), 1..4_usize)
        .prop_flat_map(|(mut kinds, regular)| {
            kinds.extend(vec![ContainerKind::Regular; regular]);
            let containers: Vec<_> = kinds
                .into_iter()
                .enumerate()
                .map(|(i, kind)| a_container(format!("c{i}"), kind).boxed())
                .collect();
            (containers, a_policy(), 0..40_u64, option::weighted(0.2, 1..300_u64))
        })
        .prop_map(|(containers, policy, grace, deadline)| {
            pod(containers).tweak(|pod| {
                pod.restart_policy = policy;
                pod.grace = secs(grace);
                pod.active_deadline = deadline.map(secs);
            })
        })
}

fn a_try(max: u64, errors: &'static [&'static str]) -> impl Strategy<Value = Try> {
    let error = option::weighted(0.2, proptest::sample::select(errors));
    (quarters(max), error).prop_map(|(takes, error)| Try { takes, error })
}

fn a_life() -> impl Strategy<Value = (Option<Duration>, Exit)> {
    let exit = prop_oneof![
        3 => Just(Exit::Code(0)),
        2 => Just(Exit::Code(1)),
        2 => Just(Exit::Code(3)),
        1 => Just(Exit::OutOfFuel),
        1 => Just(Exit::Trapped { message: "unreachable".into() }),
        1 => Just(Exit::OutOfMemory { message: "over".into() }),
        1 => Just(Exit::Lost { message: "bug".into() }),
    ];
    (option::weighted(0.7, prop_oneof![quarters(2), quarters(700)]), exit)
}

fn some_answers() -> impl Strategy<Value = Answers> {
    let first = vec(
        prop_oneof![
            Just(ProbeOutcome::Success),
            Just(ProbeOutcome::Failure("no".into())),
            Just(ProbeOutcome::Error("cannot".into())),
        ],
        0..4,
    );
    (quarters(8), quarters(20), quarters(500), first).prop_map(
        |(takes, good_from, good_until, first)| Answers { takes, good_from, good_until, first },
    )
}

fn a_guest() -> impl Strategy<Value = Guest> {
    let on_stop = prop_oneof![
        Just(OnStop::Dies),
        Just(OnStop::Ignores),
        (quarters(40), 0..2).prop_map(|(after, code)| OnStop::Returns { after, code }),
    ];
    let pulls = vec(a_try(8, &["ErrImagePull", "ErrImageNeverPull"]), 1..3);
    let starts = vec(
        a_try(8, &["CreateContainerError", "CreateContainerConfigError", "RunContainerError"]),
        1..3,
    );
    let hooks = (a_try(60, &["refused"]), a_try(60, &["refused"]));
    let answers = (some_answers(), some_answers(), some_answers());
    (pulls, starts, vec(a_life(), 1..4), on_stop, answers, hooks).prop_map(
        |(prepare, start, lives, on_stop, (startup, liveness, readiness), hooks)| Guest {
            prepare,
            start,
            lives,
            on_stop,
            startup,
            liveness,
            readiness,
            post_start: hooks.0,
            pre_stop: hooks.1,
        },
    )
}

fn a_world(punctual: bool) -> impl Strategy<Value = World> {
    let late = if punctual { quarters(0).boxed() } else { quarters(3).boxed() };
    let sandbox = vec(a_try(5, &["FailedMount"]), 1..3);
    (a_pod(), vec(a_guest(), 6), sandbox, late, any::<bool>(), any::<bool>()).prop_map(
        |(pod, guests, sandbox, late, keeps_old_timers, gives_up_starts)| {
            let mut world = World::new(pod).sandbox(sandbox);
            for (i, guest) in guests.into_iter().enumerate() {
                world = world.guest(&format!("c{i}"), guest);
            }
            (world.late, world.keeps_old_timers) = (late, keeps_old_timers);
            world.gives_up_starts = gives_up_starts;
            world
        },
    )
}

fn a_stop() -> impl Strategy<Value = (u64, Event)> {
    let why = prop_oneof![
        3 => Just(StopReason::Deleted),
        2 => Just(StopReason::Shutdown),
        1 => Just(StopReason::Evicted { reason: "Evicted", message: "room".into() }),
    ];
    let grace = option::of(0..50_u64).prop_map(|grace| grace.map(secs));
    (prop_oneof![0..60_u64, 0..END], grace, why)
        .prop_map(|(at, grace, why)| (at, Event::Stop { grace, why }))
}

/// Other images for some containers, and perhaps another deadline, at that time.
#[derive(Clone, Debug)]
struct Edit {
    at: u64,
    tags: Vec<u8>,
    deadline: Option<u64>,
}

impl Edit {
    fn of(&self, pod: &Pod) -> Redefinition {
        let mut to = pod.redefinition();
        for ((_, image), tag) in to.images.iter_mut().zip(&self.tags) {
            let (name, tag) = ("c", tag.to_string());
            let text = format!("{name}:{tag}");
            *image = ImageRef::Named { text: text.into(), name: name.into(), tag: tag.into() };
        }
        to.active_deadline = self.deadline.map(secs).or(to.active_deadline);
        to
    }
}

fn an_edit() -> impl Strategy<Value = Edit> {
    let at = prop_oneof![0..60_u64, 0..END];
    let deadline = option::weighted(0.1, 1..2000_u64);
    (at, vec(1..3_u8, 7), deadline).prop_map(|(at, tags, deadline)| Edit { at, tags, deadline })
}

fn some_edits() -> impl Strategy<Value = Vec<Edit>> {
    vec(an_edit(), 0..5).prop_map(|mut edits| {
        edits.sort_by_key(|edit| edit.at);
        edits
    })
}

fn with_edits(sim: Sim, edits: &[Edit]) -> Sim {
    let mut pod = Pod::clone(sim.state.pod());
    edits.iter().fold(sim, |sim, edit| {
        pod = pod.redefined(&edit.of(&pod));
        sim.at(edit.at, Event::Redefined { to: pod.redefinition() })
    })
}

/// Any event at all, about runs that may or may not exist.
fn any_event() -> impl Strategy<Value = Event> {
    let run = (0..7_u8, 0..4_u32).prop_map(|(name, attempt)| RunId {
        container: ContainerName::new(&format!("c{name}")),
        attempt,
    });
    let kind = prop_oneof![
        Just(ProbeKind::Startup),
        Just(ProbeKind::Liveness),
        Just(ProbeKind::Readiness)
    ];
    let hook = prop_oneof![Just(HookKind::PostStart), Just(HookKind::PreStop)];
    let others = (run, a_stop(), a_life(), an_edit());
    (others, kind, hook, 0..100_u8).prop_map(
        |((run, (_, stop), (_, exit), edit), kind, hook, choice)| match choice {
            0..3 => Event::Pulling { run },
            3..5 => Event::Compiling { run, digest: "sha256:1".into() },
            5..7 => Event::Compiled { run, took: None },
            7..9 => Event::Held { run, held: choice == 7 },
            9..15 => Event::Prepared { run, image_id: "i".into(), present: true },
            15..20 => Event::PrepareFailed { run, reason: "ErrImagePull", message: "m".into() },
            20..40 => Event::Started { run },
            40..45 => Event::StartFailed { run, reason: "RunContainerError", message: "m".into() },
            45..60 => Event::Exited { run, exit, message: String::new() },
            60..66 => Event::ProbeDone { run, kind, outcome: ProbeOutcome::Success },
            66..72 => Event::ProbeDone { run, kind, outcome: ProbeOutcome::Failure("f".into()) },
            72..76 => Event::HookDone { run, hook, result: Ok(()) },
            76..78 => Event::HookDone { run, hook, result: Err("e".into()) },
            78..82 => Event::TimerFired { timer: Timer::Backoff(run) },
            82..86 => Event::TimerFired { timer: Timer::Probe(run, kind) },
            86..90 => Event::TimerFired { timer: Timer::Grace(run) },
            90 => Event::TimerFired { timer: Timer::ActiveDeadline },
            91 => Event::TimerFired { timer: Timer::Sandbox },
            92 => stop,
            93 => Event::SandboxFailed { reason: "FailedMount", message: "m".into() },
            94 => Event::SandboxGone,
            95..98 => {
                let names = (0..7).map(|i| container(&format!("c{i}"), ContainerKind::Regular));
                Event::Redefined { to: edit.of(&pod(names)) }
            }
            _ => Event::SandboxReady { pod_ip: std::net::Ipv4Addr::LOCALHOST.into() },
        },
    )
}

/// Events that name runs which are over, or never were: nothing may come of them.
fn stale_events(sim: &Sim) -> Vec<Event> {
    let mut events = vec![
        Event::Started { run: run("no-such", 0) },
        Event::Exited { run: run("no-such", 0), exit: Exit::Killed, message: String::new() },
        Event::TimerFired { timer: Timer::Backoff(run("no-such", 0)) },
        Event::TimerFired { timer: Timer::Sandbox },
    ];
    // Sandbox timers are told apart by time alone; only one that has answered is safe to call stale.
    if sim.status().pod_ip.is_none() {
        events.pop();
    }
    for name in (0..7).map(|i| format!("c{i}")) {
        let Some(newest) = sim.newest_attempt(&name) else { continue };
        let Some(old) = newest.checked_sub(1) else { continue };
        for attempt in [old, newest + 7] {
            let run = run(&name, attempt);
            let kind = ProbeKind::Liveness;
            events.extend([
                Event::Prepared { run: run.clone(), image_id: String::new(), present: true },
                Event::PrepareFailed {
                    run: run.clone(),
                    reason: "ErrImagePull",
                    message: "m".into(),
                },
                Event::Compiling { run: run.clone(), digest: "sha256:1".into() },
                Event::Compiled { run: run.clone(), took: None },
                Event::Held { run: run.clone(), held: true },
                Event::Started { run: run.clone() },
                Event::StartFailed {
                    run: run.clone(),
                    reason: "RunContainerError",
                    message: "m".into(),
                },
                Event::Exited { run: run.clone(), exit: Exit::Code(0), message: String::new() },
                Event::ProbeDone { run: run.clone(), kind, outcome: ProbeOutcome::Success },
                Event::HookDone { run: run.clone(), hook: HookKind::PreStop, result: Ok(()) },
                Event::HookDone { run: run.clone(), hook: HookKind::PostStart, result: Ok(()) },
                Event::TimerFired { timer: Timer::Backoff(run.clone()) },
                Event::TimerFired { timer: Timer::Grace(run.clone()) },
                Event::TimerFired { timer: Timer::Probe(run, kind) },
            ]);
        }
    }
    events
}

fn run(name: &str, attempt: u32) -> RunId {
    RunId { container: ContainerName::new(name), attempt }
}

/// Deletes the pod and lets everything come to rest.
fn finish(sim: Sim) -> Sim {
    let end = sim.now().as_secs().max(END) + 1;
    let stop = Event::Stop { grace: Some(secs(10)), why: StopReason::Deleted };
    sim.at(end, stop).until(end + 100_000)
}

/// Histories per property; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_invariants_and_ends_when_it_is_told_to(
        world in a_world(true),
        edits in some_edits(),
        stops in vec(a_stop(), 0..3),
    ) {
        let sim = with_edits(world.start(), &edits);
        let sim = stops.into_iter().fold(sim, |sim, (at, stop)| sim.at(at, stop));
        let sim = finish(sim.until(END));
        prop_assert!(sim.state.is_finished(), "not finished: {:?}", sim.status());
        prop_assert!(sim.state.is_terminal_phase() || sim.writes > 0);
    }

    #[test]
    fn late_timers_and_timers_that_were_replaced_break_nothing(
        world in a_world(false),
        edits in some_edits(),
        stops in vec(a_stop(), 0..2),
    ) {
        let sim = with_edits(world.start(), &edits);
        let sim = stops.into_iter().fold(sim, |sim, (at, stop)| sim.at(at, stop));
        prop_assert!(finish(sim.until(END)).state.is_finished());
    }

    #[test]
    fn an_event_about_a_finished_run_changes_nothing(
        world in a_world(true),
        edits in some_edits(),
        pauses in vec(0..END, 1..8),
        stop in option::of(a_stop()),
    ) {
        let sim = with_edits(world.start(), &edits);
        let mut sim = stop.into_iter().fold(sim, |sim, (at, stop)| sim.at(at, stop));
        let mut pauses = pauses;
        pauses.sort_unstable();
        for pause in pauses {
            // Just after the second, so that everything due then has happened.
            sim.run_until(secs(pause) + Duration::from_millis(1));
            for event in stale_events(&sim) {
                sim.step_stale(event);
            }
        }
    }

    #[test]
    fn restart_counts_never_fall_across_power_cuts(
        world in a_world(true),
        lives in vec((0..400_u64, some_edits()), 1..4),
    ) {
        let mut world = world;
        for (cut, edits) in lives {
            // Those up to the cut are on disk, also the last one, which perhaps nobody has acted upon.
            let edits: Vec<Edit> = edits.into_iter().filter(|edit| edit.at <= cut).collect();
            let sim = with_edits(world.clone().start(), &edits).until(cut);
            for edit in &edits {
                let to = edit.of(world.pod());
                world = world.redefined(to);
            }
            let Some(written) = sim.written.clone() else { continue };
            let shown = sim.status();
            world = world.restored(written);
            let mut next = world.clone().start();
            next.run_until(Duration::ZERO);
            for (before, after) in shown.all_containers().zip(next.statuses[0].1.all_containers()) {
                prop_assert!(
                    after.restart_count >= before.restart_count,
                    "{} showed {} and then {}", before.name, before.restart_count, after.restart_count
                );
                prop_assert!(after.restart_count <= before.restart_count + 1);
            }
            if shown.phase.is_terminal() {
                prop_assert_eq!(next.status().phase, shown.phase);
            }
        }
    }

    #[test]
    fn the_same_history_has_the_same_outcome(world in a_world(true), edits in some_edits()) {
        let tell = |world: World| with_edits(world.start(), &edits).until(500);
        let (one, two) = (tell(world.clone()), tell(world));
        prop_assert_eq!(one.log, two.log);
        prop_assert_eq!(one.statuses, two.statuses);
    }

    #[test]
    fn no_event_in_any_state_is_a_surprise(
        pod in a_pod(),
        events in vec((0..400_u64, any_event()), 0..150),
    ) {
        let (mut state, _) = PodState::new(pod.into(), None, Timestamp::simulated(Duration::ZERO));
        let (mut now, mut stopped) = (0, false);
        for (after, event) in events {
            now += after;
            stopped |= matches!(event, Event::Stop { .. });
            let phase = state.status().phase;
            let actions = state.step(Timestamp::simulated(Duration::from_millis(now * 50)), event);
            let starts = actions.iter().any(|action| {
                matches!(action, Action::Prepare { .. } | Action::Start { .. } | Action::SetUpSandbox)
            });
            prop_assert!(!(stopped && starts), "no return");
            prop_assert!(!phase.is_terminal() || state.status().phase == phase);
            let _ = state.restored();
        }
    }
}
