//! Changes over MQTT through a real mosquitto, and everything that the node says there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use podling::mqtt::controller;
use podling::mqtt::intent::time_ms;
use serde_json::Value;

use super::Dice;
use crate::mqtt::rig::Rig;
use crate::support::wait_for;

pub(super) const NAMES: [&str; 3] = ["mqtt-0", "mqtt-1", "mqtt-2"];
const ANCHOR: &str = "anchor-mqtt";

/// A pod that runs to its end, once for each generation.
pub(super) const ONCE: &str = "mqtt-once";

/// Between two generations of it: ends are shown to the second.
const ONCE_PAUSE: Duration = Duration::from_millis(2100);

/// What was published of one pod, the newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    newest: u64,
    /// The newest tombstone.
    tombstone: u64,
}

#[derive(Default)]
pub(super) struct Remote {
    pods: BTreeMap<&'static str, Published>,
    count: u64,
    /// When each generation of [`ONCE`] was published, milliseconds since 1970.
    once: BTreeMap<u64, i64>,
    once_at: Option<Instant>,
}

impl Remote {
    pub(super) fn create_anchor(&mut self, rig: &Mutex<Rig>) {
        self.publish(ANCHOR, false, rig);
    }

    pub(super) fn act(&mut self, dice: &mut Dice, rig: &Mutex<Rig>) {
        if self.once_at.is_none_or(|at| at.elapsed() >= ONCE_PAUSE) {
            self.publish_once(rig);
        }
        let name = NAMES[usize::try_from(dice.below(NAMES.len() as u64)).unwrap()];
        self.publish(name, dice.below(4) == 0, rig);
    }

    /// Publishes an intent or a tombstone, newer than every one before; its generation.
    pub(super) fn publish(&mut self, name: &'static str, delete: bool, rig: &Mutex<Rig>) -> u64 {
        let rig = rig.lock().unwrap();
        let serial = self.count;
        // Every other one changes the container, too, so that it is replaced.
        let mut intent =
            rig.intent(name, &format!("    env: [{{name: X, value: 'v{}'}}]\n", serial / 2));
        let generation = intent.intent.generation;
        if delete {
            let issued_at = intent.intent.issued_at.clone();
            intent.intent = controller::tombstone(&intent.intent, &issued_at);
            intent.intent.generation = generation;
        }
        let pod = self.pods.entry(name).or_default();
        pod.newest = generation;
        if delete {
            pod.tombstone = generation;
        }
        self.count += 1;
        // Noted before: from here on the node may know it.
        rig.send(&rig.sign(&intent));
        generation
    }

    /// The next generation of the pod that runs to its end; what it is.
    pub(super) fn publish_once(&mut self, rig: &Mutex<Rig>) -> u64 {
        let rig = rig.lock().unwrap();
        let more = format!(
            "    args: ['0']\n    env: [{{name: X, value: 'v{}'}}]\n  restartPolicy: Never\n",
            self.count
        );
        let intent = rig.intent_of("exit", ONCE, &more);
        let generation = intent.intent.generation;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.once.insert(generation, i64::try_from(now.as_millis()).unwrap());
        self.count += 1;
        rig.send(&rig.sign(&intent));
        self.once_at = Some(Instant::now());
        generation
    }

    /// An end that a pod shows is its own, and not that of the form before it, which had the same UID.
    pub(super) fn check_once(&self, pods: &[Value]) {
        let Some(pod) = pods.iter().find(|pod| pod["metadata"]["name"] == ONCE) else { return };
        let Some(ended) = end_of(pod) else { return };
        let generation = pod["metadata"]["generation"].as_u64().unwrap();
        // It is shown without its milliseconds.
        let published = self.once[&generation] / 1000 * 1000;
        assert!(
            time_ms(&ended).unwrap() >= published,
            "{ONCE} of generation {generation}, published at {published}, ended at {ended}: {pod:#}"
        );
    }

    pub(super) fn all(&self) -> BTreeMap<&'static str, Published> {
        self.pods.clone()
    }

    pub(super) fn published(&self) -> u64 {
        self.count
    }
}

/// When a pod's module ended for good.
pub(super) fn end_of(pod: &Value) -> Option<String> {
    let ended = &crate::support::container(pod, "c")["state"]["terminated"]["finishedAt"];
    ended.as_str().map(str::to_owned)
}

/// The newest word on one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    at: (u64, u64),
    accepted: u64,
    deleted: bool,
    /// The newest generation that was ever said to be good.
    committed: u64,
    stage: Option<(u64, String)>,
}

#[derive(Debug, Default)]
struct Heard {
    pods: BTreeMap<String, Word>,
    /// Which life of the daemon had which connection number.
    conns: BTreeMap<u64, String>,
    statuses: u64,
    faults: Vec<String>,
}

/// What the node has said.
#[derive(Debug, Default)]
pub(super) struct Seen {
    heard: Mutex<Heard>,
    listener: Mutex<Option<Child>>,
    over: AtomicBool,
}

impl Seen {
    pub(super) fn all(&self) -> BTreeMap<String, Word> {
        self.heard.lock().unwrap().pods.clone()
    }

    /// Ends [`listen`].
    pub(super) fn hang_up(&self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(mut listener) = self.listener.lock().unwrap().take() {
            listener.kill().unwrap();
            listener.wait().unwrap();
        }
    }

    pub(super) fn statuses(&self) -> u64 {
        self.heard.lock().unwrap().statuses
    }

    pub(super) fn check(&self) {
        let heard = self.heard.lock().unwrap();
        assert!(heard.faults.is_empty(), "{:#?}", heard.faults);
    }

    #[track_caller]
    pub(super) fn wait_committed(&self, name: &str, generation: u64) {
        wait_for(&format!("{name} to be committed at {generation}"), || {
            let heard = self.heard.lock().unwrap();
            assert!(heard.faults.is_empty(), "{:#?}", heard.faults);
            let stage = heard.pods.get(name)?.stage.as_ref()?;
            (stage.0 >= generation && stage.1 == "Committed").then_some(())
        });
    }

    fn hear(&self, topic: &str, status: &Value) {
        let heard = &mut *self.heard.lock().unwrap();
        heard.statuses += 1;
        let conn = status["conn"].as_u64().unwrap_or_default();
        if topic.ends_with("/online") {
            let boot = status["boot"].as_str().unwrap_or_default();
            let owner = heard.conns.entry(conn).or_insert_with(|| boot.to_owned());
            if owner != boot {
                heard.faults.push(format!("connection {conn} of two lives: {owner} and {boot}"));
            }
        }
        let Some((_, name)) = topic.split_once("/pod/default/") else { return };
        let word = heard.pods.entry(name.to_owned()).or_default();
        let at = (conn, status["seq"].as_u64().unwrap_or_default());
        if at <= word.at {
            return;
        }
        let accepted = &status["documents"][0]["accepted"];
        let generation = accepted["generation"].as_u64().unwrap_or_default();
        if generation < word.accepted {
            let text = format!("{name} went back from {word:?} to {status}");
            heard.faults.push(text);
            return;
        }
        word.at = at;
        word.accepted = generation;
        word.deleted = accepted["deleted"] == true;
        let rollout = &status["rollout"];
        if let (Some(generation), Some(stage)) =
            (rollout["generation"].as_u64(), rollout["stage"].as_str())
        {
            word.stage = Some((generation, stage.to_owned()));
            if stage == "Committed" {
                word.committed = word.committed.max(generation);
            }
        }
    }
}

/// Compares what a fresh daemon runs with what it had said before, and what was published until now.
pub(super) fn check(
    pods: &[Value],
    before: &BTreeMap<String, Word>,
    published: &BTreeMap<&'static str, Published>,
) {
    for (name, word) in before {
        let Some(published) = published.get(name.as_str()) else { continue };
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == **name);
        // One that is replaced in place is shown as ending for a moment; that may happen only if there is something newer.
        let is_ending = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_null();
        let pod = pod.filter(|pod| !is_ending(pod) || published.newest > word.accepted);
        let generation = pod.map(|pod| pod["metadata"]["generation"].as_u64().unwrap_or_default());
        if word.committed > published.tombstone {
            let kept = generation.is_some_and(|generation| generation >= word.committed);
            assert!(kept, "{name}: {generation:?} runs, after {word:?}, of {published:?}");
        }
        if word.deleted && word.accepted == published.newest {
            let pod = pod.filter(|pod| !is_ending(pod));
            assert!(pod.is_none(), "{name} is back from {word:?}");
        }
    }
}

/// Hears everything that the node says, over restarts of the broker, until [`Seen::hang_up`].
pub(super) fn listen(rig: &Mutex<Rig>, seen: &Seen) {
    loop {
        let mut listener = rig.lock().unwrap().subscribe();
        let lines = BufReader::new(listener.stdout.take().unwrap()).lines();
        let earlier = seen.listener.lock().unwrap().replace(listener);
        if let Some(mut earlier) = earlier {
            earlier.wait().unwrap();
        }
        if seen.over.load(Ordering::SeqCst) {
            return seen.hang_up();
        }
        for line in lines.map_while(Result::ok) {
            if let Some((topic, payload)) = line.split_once(' ')
                && let Ok(status) = serde_json::from_str(payload)
            {
                seen.hear(topic, &status);
            }
        }
    }
}
