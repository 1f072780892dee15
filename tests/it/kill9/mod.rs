//! The real daemon, killed with SIGKILL at random instants under a stream of changes from all three sources, and started again.
//!
//! ```text
//!  api.rs      creates, replaces, deletes over the socket; knows what was answered    ─┐
//!  folder.rs   writes, renames, removes files                                          ├─ all the time, also while it is down
//!  remote.rs   publishes intents and tombstones through mosquitto; hears statuses     ─┘
//!  here        kill ─► start ─► what does it say? ─► … ─► now and then: let all settle, compare everything, end in order
//! ```
//!
//! After each start, before anything else is asked of the node:
//!
//! - what was answered with success over the API is there, as it was, and what was deleted is not; what was under way is
//!   there or not, and whole;
//! - a pod that was reported `Committed` over MQTT is there, in that generation or a newer one, unless a tombstone was
//!   published since; what was acknowledged as deleted is not there; no status ever names an older accepted generation than
//!   an earlier one, and no connection number comes twice;
//! - the end that a pod shows is that of the generation it shows, though its UID is that of all its generations;
//! - pods that nobody changes have the UID they always had, also with an empty broker;
//! - nothing was quarantined.
//!
//! `PODLING_KILLS` (15) and `PODLING_SEED` (1) are read from the environment. A thousand:
//! `PODLING_KILLS=1000 cargo test --test it kill9 -- --nocapture`. The seed decides what is changed and when it is killed;
//! where the program then is, is up to the machine.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mqtt::rig::Rig;
use crate::support::{Node, wait_for};

mod api;
mod folder;
mod remote;

use api::Api;
use folder::Folder;
use remote::Remote;

/// Kills between two times of rest.
const ROUNDS: u64 = 25;

/// Longest life after the first answer.
const LIFE_MS: u64 = 700;

/// SplitMix64: small, good enough, the same everywhere.
pub(super) struct Dice(u64);

impl Dice {
    fn new(seed: u64, stream: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ stream)
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        number ^ (number >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.throw() % end
    }

    fn pause(&mut self, up_to_ms: u64) {
        // Not a wait for anything: the load's own rhythm.
        std::thread::sleep(Duration::from_millis(self.below(up_to_ms)));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Said also where the test runner keeps quiet: a log should show how often it was.
fn say(line: &str) {
    // `eprintln!` would go into the test's captured output.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "kill9: {line}").unwrap();
}

/// Everything beside the node.
struct World {
    rig: Mutex<Rig>,
    api: Mutex<Api>,
    folder: Mutex<Folder>,
    remote: Mutex<Remote>,
    seen: remote::Seen,
    /// Ends the load.
    over: AtomicBool,
}

#[derive(Default)]
struct Tally {
    kills: u64,
    while_starting: u64,
    orderly: u64,
    broker_lost: u64,
    broker_wiped: u64,
    slowest_start: Duration,
}

#[test]
fn killed_at_any_instant_it_keeps_its_word() {
    let Some(rig) = Rig::start() else { return };
    let (kills, seed) = (setting("PODLING_KILLS", 15), setting("PODLING_SEED", 1));
    let mut node = Node::prepare(&rig.node_configuration(""));
    node.boot();
    node.load("counter");
    node.load("exit");
    let world = World {
        api: Mutex::new(Api::new(node.socket())),
        folder: Mutex::new(Folder::new(node.path("manifests"))),
        remote: Mutex::new(Remote::default()),
        seen: remote::Seen::default(),
        over: AtomicBool::new(false),
        rig: Mutex::new(rig),
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let end = OnDrop(&world);
        scope.spawn(|| remote::listen(&world.rig, &world.seen));
        world.begin(&mut node);
        scope.spawn(|| {
            load(&world.over, Dice::new(seed, 1), 15, |d| world.api.lock().unwrap().act(d));
        });
        scope.spawn(|| {
            load(&world.over, Dice::new(seed, 2), 60, |d| world.folder.lock().unwrap().act(d));
        });
        scope.spawn(|| {
            load(&world.over, Dice::new(seed, 3), 80, |d| {
                world.remote.lock().unwrap().act(d, &world.rig);
            });
        });
        let mut dice = Dice::new(seed, 4);
        while tally.kills < kills {
            let rest_at = kills.min(tally.kills + ROUNDS);
            while tally.kills < rest_at {
                world.round(&mut node, &mut dice, &mut tally);
            }
            world.rest(&mut node, &mut tally);
        }
        drop(end);
    });
    let (api, remote) = (world.api.lock().unwrap(), world.remote.lock().unwrap());
    say(&format!(
        "seed {seed}: killed {} times, {} of them while it started; nothing lost. Ended in order {} times. \
         API: {} changes acknowledged, {} cut off. Folder: {} changes. MQTT: {} documents published, {} statuses heard; \
         broker killed {} times, wiped {} times. Slowest start: {} ms",
        tally.kills,
        tally.while_starting,
        tally.orderly,
        api.acknowledged,
        api.cut_off,
        world.folder.lock().unwrap().changes,
        remote.published(),
        world.seen.statuses(),
        tally.broker_lost,
        tally.broker_wiped,
        tally.slowest_start.as_millis(),
    ));
}

/// Ends the load also when the test fails.
struct OnDrop<'a>(&'a World);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        self.0.seen.hang_up();
    }
}

/// Changes something again and again.
fn load(over: &AtomicBool, mut dice: Dice, pause_ms: u64, mut act: impl FnMut(&mut Dice)) {
    while !over.load(Ordering::SeqCst) {
        act(&mut dice);
        dice.pause(pause_ms);
    }
}

impl World {
    /// The pods that nobody changes.
    fn begin(&self, node: &mut Node) {
        self.api.lock().unwrap().create_anchor();
        self.folder.lock().unwrap().create_anchor();
        self.remote.lock().unwrap().create_anchor(&self.rig);
        self.seen.wait_committed("anchor-mqtt", 1);
        for name in ["anchor-api", "anchor-folder", "anchor-mqtt"] {
            let pod = node.wait_ready(name);
            let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
            self.api.lock().unwrap().anchors.push((name, uid));
        }
    }

    /// One life and its end; then a life that is asked what it knows.
    fn round(&self, node: &mut Node, dice: &mut Dice, tally: &mut Tally) {
        dice.pause(LIFE_MS);
        // In the middle of whatever is under way.
        node.power_cut();
        tally.kills += 1;
        // From here on nobody asks the API before it has been looked at.
        let mut api = self.api.lock().unwrap();
        if dice.below(10) == 0 {
            let mut rig = self.rig.lock().unwrap();
            rig.kill_broker();
            tally.broker_lost += 1;
            if dice.below(2) == 0 {
                rig.wipe_broker();
                tally.broker_wiped += 1;
            }
            rig.start_broker("");
        }
        if dice.below(4) == 0 {
            node.spawn();
            dice.pause(250);
            node.power_cut();
            tally.kills += 1;
            tally.while_starting += 1;
        }
        let before = self.seen.all();
        let start = Instant::now();
        node.spawn();
        let pods = wait_for("the daemon to answer", || {
            assert!(
                node.daemon().child.try_wait().unwrap().is_none(),
                "it ended: {}",
                node.output()
            );
            api.pods()
        });
        tally.slowest_start = tally.slowest_start.max(start.elapsed());
        api.check(&pods);
        let published = self.remote.lock().unwrap().all();
        remote::check(&pods, &before, &published);
        self.remote.lock().unwrap().check_once(&pods);
        self.seen.check();
        assert_nothing_quarantined(node);
    }

    /// No changes; the node catches up with all that was wanted. Then it ends in order, and comes back the same.
    fn rest(&self, node: &mut Node, tally: &mut Tally) {
        let mut api = self.api.lock().unwrap();
        let folder = self.folder.lock().unwrap();
        let mut remote = self.remote.lock().unwrap();
        for name in remote::NAMES {
            let generation = remote.publish(name, false, &self.rig);
            self.seen.wait_committed(name, generation);
        }
        let generation = remote.publish_once(&self.rig);
        self.seen.wait_committed(remote::ONCE, generation);
        wait_for("the folder to be what runs", || folder.is_shown(&api.pods()?).then_some(()));
        let pods = wait_for("all pods to be ready", || {
            let fine = |pod: &Value| crate::support::is_ready(pod) || remote::end_of(pod).is_some();
            api.pods().filter(|pods| pods.iter().all(fine))
        });
        api.check(&pods);
        assert_eq!(node.terminate(), 0, "{}", node.output());
        tally.orderly += 1;
        assert!(!node.output().contains("panicked"), "{}", node.output());
        node.spawn();
        let after = wait_for("the daemon to answer", || api.pods());
        api.check(&after);
        let names = |pods: &[Value]| -> Vec<(String, String)> {
            let text = |pod: &Value, field: &str| pod["metadata"][field].to_string();
            pods.iter().map(|pod| (text(pod, "name"), text(pod, "uid"))).collect()
        };
        assert_eq!(names(&after), names(&pods));
        // What had run to its end has not run again.
        let once = |pods: &[Value]| {
            remote::end_of(pods.iter().find(|pod| pod["metadata"]["name"] == remote::ONCE).unwrap())
        };
        let show = |pods: &[Value]| {
            let pod = pods.iter().find(|pod| pod["metadata"]["name"] == remote::ONCE);
            pod.map_or_else(String::new, |pod| format!("{pod:#}"))
        };
        assert_eq!(
            once(&after),
            once(&pods),
            "before: {}\nafter: {}\n{}",
            show(&pods),
            show(&after),
            node.output()
        );
        remote.check_once(&after);
        assert!(folder.is_shown(&after));
        say(&format!("{} kills so far", tally.kills));
    }
}

fn assert_nothing_quarantined(node: &Node) {
    let corrupt = node.path("state/store/.corrupt");
    let found = std::fs::read_dir(&corrupt).map_or(0, Iterator::count);
    assert_eq!(found, 0, "{}: {}", corrupt.display(), node.output());
}
