//! A node under attack: the real daemon, a neighbour whose clock is watched, and what is measured while attackers run.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by a test and a bench, each of which uses its part"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::attacks::{Attack, Module, Outcome};
use super::support::{DEADLINE, Node, container, free_port, wait_for};

/// Memory that each attacker may have.
const MEMORY_MIB: u64 = 48;

/// What its volume may hold.
const DISK: &str = "128Mi";

/// How long attackers that do not end are let loose.
const HOLD: Duration = Duration::from_millis(1500);

/// What a module that does not end by itself is given to hear that it should: the least there is (the kubelet's minimum).
const GRACE: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// The neighbour sleeps for so long; so does a thread of ours, to know what the machine itself adds.
const NAP: Duration = Duration::from_millis(10);

/// What was seen during one wave.
#[derive(Debug, Default)]
pub struct Seen {
    /// Milliseconds that the neighbour's timer was late, and that of a plain thread.
    pub late: Vec<f64>,
    pub host_late: Vec<f64>,
    /// Milliseconds that the daemon took to answer.
    pub answers: Vec<f64>,
    /// Most bytes of memory of the daemon's own, above those at rest before.
    pub grown: u64,
    /// Milliseconds beyond the grace period until those that did not end had ended.
    pub ends: Vec<f64>,
    /// Attacks that ended in another way than they should.
    pub wrong: Vec<String>,
    /// How each attack ended, as it was seen.
    pub outcomes: Vec<(&'static str, String)>,
}

/// The daemon and the neighbour.
pub struct Rig {
    node: Node,
    pid: u32,
    /// Lines of the neighbour that were read already.
    heard: u64,
}

impl Rig {
    /// Starts both, and loads what `attacks` need.
    pub fn start<'a>(attacks: impl Iterator<Item = &'a Attack>) -> Self {
        let mut node = Node::start();
        let pid = node.daemon().child.id();
        let mut loaded = vec!["hostile".to_owned()];
        node.load("hostile");
        for attack in attacks {
            let guest = match attack.module {
                Module::Guest(name, _) => name,
                Module::Handler(_) => "handler",
                Module::Hostile(_) => "hostile",
                Module::Text(text) => {
                    load_text(&node, attack, &text());
                    continue;
                }
            };
            if !loaded.iter().any(|known| known == guest) {
                node.load(guest);
                loaded.push(guest.to_owned());
            }
        }
        let rig = Self { node, pid, heard: 0 };
        rig.create(&pod("neighbour", "hostile:test", &["timer"]));
        rig.node.wait_ready("neighbour");
        wait_for("the neighbour's clock", || rig.log("neighbour").contains("late").then_some(()));
        rig
    }

    /// Compiles everything before anything is measured.
    pub fn warm_up(&self, attacks: &[Attack]) {
        for attack in attacks {
            self.create(&pod(attack.name, &attack.image(), attack.args()));
        }
        for attack in attacks {
            wait_for(&format!("{} to begin", attack.name), || begun(&self.pod(attack.name)?));
            self.delete(attack.name, Duration::ZERO);
        }
        for attack in attacks {
            self.wait_gone(attack.name);
        }
    }

    /// Lets these loose together.
    pub fn wave(&mut self, attacks: &[Attack]) -> Seen {
        let mut seen = Seen::default();
        self.late();
        let rest = self.memory();
        let over = Arc::new(AtomicBool::new(false));
        let watch = Watch { pid: self.pid, socket: self.node.socket(), over: Arc::clone(&over) };
        let napping = std::thread::spawn({
            let over = Arc::clone(&over);
            move || naps(&over)
        });
        let watching = std::thread::spawn(move || watch.run());
        let mut clients = vec![];
        for attack in attacks {
            clients.extend(self.let_loose(attack));
        }
        for attack in attacks {
            self.judge(attack, &mut seen);
        }
        if attacks.iter().any(|attack| matches!(attack.outcome, Outcome::Held { .. })) {
            // What is measured is what happens meanwhile.
            std::thread::sleep(HOLD);
        }
        self.end(attacks, &mut seen);
        drop(clients);
        over.store(true, Ordering::Relaxed);
        let (peak, answers) = watching.join().unwrap();
        seen.host_late = napping.join().unwrap();
        seen.grown = peak.saturating_sub(rest);
        seen.answers = answers;
        seen.late = self.late();
        seen
    }

    /// Starts an attacker; and for one that answers HTTP, those who ask it: more than there are threads.
    fn let_loose(&self, attack: &Attack) -> Vec<TcpStream> {
        let mut pod = pod(attack.name, &attack.image(), attack.args());
        let Module::Handler(path) = attack.module else {
            self.create(&pod);
            return vec![];
        };
        let port = free_port();
        pod["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 8080, "hostPort": port, "hostIP": "127.0.0.1"}]);
        self.create(&pod);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let ask = |_| {
            let client = || TcpStream::connect(("127.0.0.1", port)).ok();
            let mut client = wait_for("the published port", client);
            write!(client, "GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n").unwrap();
            client
        };
        (0..=threads).map(ask).collect()
    }

    /// Waits for the outcome, or for the words of one that goes on.
    fn judge(&self, attack: &Attack, seen: &mut Seen) {
        let mut last = String::new();
        let start = Instant::now();
        let found = loop {
            let pod = self.pod(attack.name).unwrap_or_default();
            let log = self.log(attack.name);
            last = story(&pod, &log).unwrap_or(last);
            if let Some(right) = judged(&attack.outcome, &pod, &log) {
                break right;
            }
            if start.elapsed() > DEADLINE {
                break false;
            }
            std::thread::sleep(LOOK);
        };
        if !found {
            seen.wrong.push(format!("{}: {last}, but should: {:?}", attack.name, attack.outcome));
        }
        seen.outcomes.push((attack.name, last));
    }

    /// Ends what still runs; and takes the time, to the end of the module rather than of its volumes.
    fn end(&self, attacks: &[Attack], seen: &mut Seen) {
        let mut ending = vec![];
        for attack in attacks {
            let held = matches!(attack.outcome, Outcome::Held { .. });
            if held && self.pod(attack.name).is_some_and(|pod| terminated(&pod).is_some()) {
                seen.wrong.push(format!("{} ended, but should be held", attack.name));
            } else if held {
                ending.push((attack.name, Instant::now()));
            }
            self.delete(attack.name, GRACE);
        }
        let start = Instant::now();
        while !ending.is_empty() {
            ending.retain(|(name, since)| {
                let pod = self.pod(name);
                let ended = pod.is_none_or(|pod| terminated(&pod).is_some());
                if ended {
                    let late = since.elapsed().saturating_sub(GRACE);
                    seen.ends.push(late.as_secs_f64() * 1e3);
                }
                !ended
            });
            assert!(start.elapsed() < DEADLINE, "{ending:?} cannot be ended");
            std::thread::sleep(LOOK / 2);
        }
        for attack in attacks {
            self.wait_gone(attack.name);
        }
    }

    fn create(&self, pod: &Value) {
        let path = "/api/v1/namespaces/default/pods";
        let (status, body) = self.ask("POST", path, Some(pod)).expect("the daemon answers");
        assert_eq!(status, 201, "{body}");
    }

    fn delete(&self, name: &str, grace: Duration) {
        let options = json!({"gracePeriodSeconds": grace.as_secs()});
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let (status, body) = self.ask("DELETE", &path, Some(&options)).unwrap();
        assert!([200, 202, 404].contains(&status), "{status} {body}");
    }

    fn pod(&self, name: &str) -> Option<Value> {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let (status, body) = self.ask("GET", &path, None)?;
        (status == 200).then(|| serde_json::from_str(&body).ok())?
    }

    fn wait_gone(&self, name: &str) {
        wait_for(&format!("{name} to be gone"), || self.pod(name).is_none().then_some(()));
    }

    fn log(&self, name: &str) -> String {
        let path = format!("/api/v1/namespaces/default/pods/{name}/log");
        let answer = self.ask("GET", &path, None);
        answer.filter(|(status, _)| *status == 200).map(|(_, body)| body).unwrap_or_default()
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, String)> {
        ask(&self.node.socket(), method, path, body)
    }

    /// By how much the neighbour's timer was late since the last question, milliseconds.
    fn late(&mut self) -> Vec<f64> {
        let mut late = vec![];
        for line in self.log("neighbour").lines() {
            let mut words = line.split(' ').skip(1).map_while(|word| word.parse::<u64>().ok());
            let (Some(count), Some(us)) = (words.next(), words.next()) else { continue };
            if count > self.heard {
                self.heard = count;
                late.push(ms(Duration::from_micros(us)));
            }
        }
        late
    }

    fn memory(&self) -> u64 {
        memory(self.pid).expect("the daemon lives")
    }

    /// What the daemon has printed.
    pub fn output(&self) -> String {
        self.node.output()
    }
}

/// Looks at the daemon from outside.
struct Watch {
    pid: u32,
    socket: PathBuf,
    over: Arc<AtomicBool>,
}

impl Watch {
    /// The most memory, and how long each answer took.
    fn run(self) -> (u64, Vec<f64>) {
        let (mut peak, mut answers) = (0, vec![]);
        while !self.over.load(Ordering::Relaxed) {
            peak = peak.max(memory(self.pid).unwrap_or(u64::MAX));
            let began = Instant::now();
            let answer = ask(&self.socket, "GET", "/api/v1/namespaces/default/pods", None);
            let took = began.elapsed();
            answers.push(if answer.is_some() { ms(took) } else { f64::INFINITY });
            std::thread::sleep(LOOK);
        }
        (peak, answers)
    }
}

fn naps(over: &AtomicBool) -> Vec<f64> {
    let mut late = vec![];
    while !over.load(Ordering::Relaxed) {
        let before = Instant::now();
        std::thread::sleep(NAP);
        late.push(ms(before.elapsed().saturating_sub(NAP)));
    }
    late
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Bytes of memory that a process has for itself: what is mapped from files can be read again.
fn memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("RssAnon:")? + kib("RssShmem:")?) << 10)
}

fn load_text(node: &Node, attack: &Attack, text: &str) {
    let file = node.path(&format!("{}.wasm", attack.name));
    std::fs::write(&file, wat::parse_str(text).expect("it is WebAssembly")).unwrap();
    let (file, state) = (file.to_str().unwrap(), node.path("state"));
    let state = state.to_str().unwrap();
    node.ok(&["image", "load", file, "--name", &attack.image(), "--state-dir", state]);
}

/// An attacker has all that a module can be given: memory, a volume, and time to end.
fn pod(name: &str, image: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"stop-signal.podling.dev/c": "stdin"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE.as_secs(),
            "containers": [{
                "name": "c", "image": image, "args": args,
                "resources": {"limits": {"memory": format!("{MEMORY_MIB}Mi")}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {"sizeLimit": DISK}}],
        },
    })
}

fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: podling\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

fn terminated(pod: &Value) -> Option<&Value> {
    Some(&container(pod, "c")["state"]["terminated"]).filter(|state| !state.is_null())
}

/// It runs, or has run.
fn begun(pod: &Value) -> Option<()> {
    let running = !container(pod, "c")["state"]["running"].is_null();
    let refused = waiting(pod).is_some_and(|reason| reason.starts_with("CreateContainer"));
    (running || refused || terminated(pod).is_some()).then_some(())
}

fn waiting(pod: &Value) -> Option<&str> {
    container(pod, "c")["state"]["waiting"]["reason"].as_str()
}

/// What has happened, in a line.
fn story(pod: &Value, log: &str) -> Option<String> {
    let log = log.lines().find(|line| !line.starts_with("begins")).unwrap_or_default();
    let log: String = log.chars().take(160).collect();
    if pod["status"]["reason"] == "Evicted" {
        return Some(format!("evicted: {}", pod["status"]["message"]));
    }
    let state = &container(pod, "c")["state"];
    if let Some(end) = terminated(pod) {
        let message = end["message"].as_str().unwrap_or_default();
        let message = message.lines().next().unwrap_or_default();
        return Some(format!("{} {}: {message} {log}", end["reason"], end["exitCode"]));
    }
    if let Some(reason) = waiting(pod) {
        let message = state["waiting"]["message"].as_str().unwrap_or_default();
        return Some(format!("waits, {reason}: {message}"));
    }
    (!state["running"].is_null()).then(|| format!("runs: {log}"))
}

/// Whether the outcome is there, and the right one.
fn judged(outcome: &Outcome, pod: &Value, log: &str) -> Option<bool> {
    let end = terminated(pod);
    match outcome {
        Outcome::Ends { reason, code, says } => {
            let end = end?;
            let message = end["message"].as_str().unwrap_or_default();
            let said = message.contains(says) || log.contains(says);
            Some(end["reason"] == *reason && end["exitCode"] == *code && said)
        }
        Outcome::Refused { reason, says } => {
            if end.is_some() {
                return Some(false);
            }
            let found = waiting(pod)? == *reason;
            let message = container(pod, "c")["state"]["waiting"]["message"].as_str();
            (found && message.unwrap_or_default().contains(says)).then_some(true)
        }
        Outcome::Evicted { says } => {
            let message = pod["status"]["message"].as_str().unwrap_or_default();
            let evicted = pod["status"]["reason"] == "Evicted" && message.contains(says);
            evicted.then_some(true)
        }
        Outcome::Held { says } => {
            if end.is_some() {
                return Some(false);
            }
            let runs = !container(pod, "c")["state"]["running"].is_null();
            (runs && log.contains(says)).then_some(true)
        }
    }
}
