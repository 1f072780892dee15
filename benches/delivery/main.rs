//! What delivery over MQTT costs and how long it takes: a change of a pod, a broker that comes back, idling, the start without a network.
//!
//! The real daemon and the real mosquitto with TLS 1.3 and client certificates, configured as `docs/mosquitto` says; the operator is a client of
//! ours on the same machine. Bytes on the wire are those below TLS, bytes on flash those of the store's records; a file system
//! adds its own. Within five minutes; `-- --quick` within one. What takes longer than [`ALL`] ends with an error: nothing is waited for beyond it.
//!
//! A hundred reconnections of one node in a row are not measured: its pauses double up to five minutes, so they would take hours. What a
//! storm is made of is one node's return, times the nodes; and that is measured with 200 pods.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]
#![allow(clippy::unwrap_used, reason = "shares its rig with tests, which fail by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod node;
mod operator;
#[path = "../../tests/it/mqtt/rig.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod rig;
#[path = "../../tests/it/support.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::Options;
use common::report::{Cell, Report, Table};
use common::stats::percentile;
use node::{Costs, Watch};
use operator::Operator;
use rig::{Intent, Rig};
use support::{Node, guest, wait_for};

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long everything together may take: thrice what it does on two busy cores.
const ALL: Duration = Duration::from_secs(15 * 60);

/// When this began.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Until when something that begins now is waited for.
pub(crate) fn deadline() -> Instant {
    (Instant::now() + PATIENCE).min(*BEGAN + ALL)
}

/// Before each sample: many slow ones must not add up to hours.
fn in_time() -> anyhow::Result<()> {
    anyhow::ensure!(BEGAN.elapsed() < ALL, "it takes longer than {ALL:?}: given up");
    Ok(())
}

/// Without a byte for so long the link is quiet: pings come once in a minute.
const QUIET: Duration = Duration::from_secs(2);

/// How much of everything.
struct Amounts {
    changes: usize,
    compiled: usize,
    published: usize,
    retained: usize,
    returns: usize,
    starts: usize,
    idle: Duration,
}

impl Amounts {
    fn of(options: Options) -> Self {
        let idle = Duration::from_secs(if options.quick { 10 } else { 70 });
        if options.quick {
            return Self {
                changes: 5,
                compiled: 3,
                published: 1,
                retained: 20,
                returns: 2,
                starts: 2,
                idle,
            };
        }
        Self { changes: 40, compiled: 15, published: 5, retained: 200, returns: 4, starts: 5, idle }
    }
}

fn main() -> anyhow::Result<()> {
    LazyLock::force(&BEGAN);
    let options = Options::from_args();
    let amounts = Amounts::of(options);
    let Some(mut rig) = Rig::start() else { return Ok(()) };
    let mut report = Report::new("delivery", options.json);
    // As nodes have it; the tests' is shorter.
    let configuration =
        rig.node_configuration("").replace("keepAliveSeconds: 5", "keepAliveSeconds: 60");
    let mut node = Node::start_with(&configuration);
    rig.deliver(&rig.intent("web", ""));
    let mut costs = Table::new(
        "What it costs (bytes; each)",
        &["", "wire in", "wire out", "flash", "fsyncs", "CPU (ms)"],
    );
    let mut times = Table::new("How long it takes (ms)", &["", "p50", "p99", "largest", "of"]);
    {
        let operator = Operator::connect(&rig)?;
        changes(&rig, &mut node, &operator, &amounts, (&mut costs, &mut times))?;
        modules(&rig, &mut node, &operator, &amounts, (&mut costs, &mut times))?;
    }
    published(&rig, &mut node, &amounts, &mut times)?;
    idle(&mut node, &amounts, &mut costs);
    report.table(costs);
    report.table(storm(&mut rig, &mut node, &amounts)?);
    starts(&mut rig, &mut node, &amounts, &mut times)?;
    report.table(times);
    report.finish();
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn number(value: i64) -> Cell {
    Cell::Number(value as f64, 0)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn cost_row(table: &mut Table, what: &str, all: Costs, parts: usize) {
    let parts = i64::try_from(parts).unwrap();
    let cpu = ms(all.cpu) / f64::from(i32::try_from(parts).unwrap());
    let figures = [all.wire_in, all.wire_out, all.flash, all.fsyncs].map(|n| number(n / parts));
    table.row([vec![what.into()], figures.to_vec(), vec![Cell::Number(cpu, 1)]].concat());
}

fn time_row(table: &mut Table, what: &str, samples: &[f64]) {
    let of = |percent| Cell::Number(percentile(samples, percent), 1);
    table.row(vec![what.into(), of(50), of(99), of(100), samples.len().to_string().into()]);
}

/// From the message to Ready at the node, and to the node's own word at the broker that it is good.
fn follow(
    node: &Node,
    operator: &Operator,
    rig: &Rig,
    intent: &Intent,
) -> anyhow::Result<(f64, f64)> {
    let (name, generation) = (&intent.intent.name, intent.intent.generation);
    let mut watch = Watch::begin(&node.socket(), name)?;
    operator.catch_up();
    let start = operator.publish(&rig.sign(intent))?;
    let ready = watch.ready(generation)?;
    let topic = format!("/pod/default/{name}");
    let told = operator.wait(&format!("that {name} is good at {generation}"), |heard| {
        let rollout = &heard.said["rollout"];
        heard.topic.ends_with(&topic)
            && rollout["stage"] == "Committed"
            && rollout["generation"] == generation
    })?;
    Ok((ms(ready.duration_since(start)), ms(told.at.duration_since(start))))
}

/// Changes of one pod whose module is on the node, compiled.
fn changes(
    rig: &Rig,
    node: &mut Node,
    operator: &Operator,
    amounts: &Amounts,
    (costs, times): (&mut Table, &mut Table),
) -> anyhow::Result<()> {
    let before = Costs::of(node);
    let (mut ready, mut told) = (vec![], vec![]);
    for version in 0..amounts.changes {
        in_time()?;
        let env = format!("    env: [{{name: V, value: 'v{version}'}}]\n");
        let (at_node, at_broker) = follow(node, operator, rig, &rig.intent("web", &env))?;
        ready.push(at_node);
        told.push(at_broker);
    }
    let all = Costs::of(node).since(before);
    cost_row(costs, "one pod change, module known", all, amounts.changes);
    time_row(times, "publish → Ready, module known, in place", &ready);
    time_row(times, "the same → its word at the broker (1 s apart at least)", &told);
    Ok(())
}

/// New modules, never seen nor compiled: those of the guests with something new at their end.
fn modules(
    rig: &Rig,
    node: &mut Node,
    operator: &Operator,
    amounts: &Amounts,
    (costs, times): (&mut Table, &mut Table),
) -> anyhow::Result<()> {
    for (name, what) in [
        ("counter", "publish → Ready, new pod and module (444 bytes, inline)"),
        ("sleep", "publish → Ready, new pod and module (72 kB, on the node, not compiled)"),
    ] {
        let before = Costs::of(node);
        let mut ready = vec![];
        for nth in 0..amounts.compiled {
            in_time()?;
            let args = "    args: [forever]\n";
            let mut intent = rig.intent_of(name, &format!("{name}-{nth}"), args);
            let file = rig.path(&format!("{name}-{nth}.wasm"));
            let bytes = unique(&std::fs::read(guest(name))?, nth);
            std::fs::write(&file, &bytes)?;
            let artifact = &mut intent.intent.artifacts[0];
            artifact.digest = podling::mqtt::envelope::digest(&bytes);
            artifact.size = bytes.len() as u64;
            if artifact.sources.is_empty() {
                let (file, state) = (file.display().to_string(), node.path("state"));
                let image = format!("{name}:n{nth}");
                let state = state.to_str().unwrap();
                node.ok(&["image", "load", &file, "--name", &image, "--state-dir", state]);
            } else {
                use base64::Engine as _;
                let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
                artifact.sources = vec![format!("data:;base64,{text}")];
            }
            ready.push(follow(node, operator, rig, &intent)?.0);
        }
        time_row(times, what, &ready);
        if name == "counter" {
            let all = Costs::of(node).since(before);
            cost_row(costs, "one new pod with its module", all, amounts.compiled);
        }
        for nth in 0..amounts.compiled {
            let mut gone = rig.intent_of(name, &format!("{name}-{nth}"), "");
            gone.intent =
                podling::mqtt::controller::tombstone(&gone.intent, &gone.intent.issued_at);
            operator.publish(&rig.sign(&gone))?;
        }
        node::all_ready(&node.socket(), 1)?;
    }
    Ok(())
}

/// The same program under another digest: a custom section more.
fn unique(module: &[u8], nth: usize) -> Vec<u8> {
    // Of this run, so that the shared cache of compiled code has none of them.
    let text = format!("{nth}-{}-{:?}", std::process::id(), Instant::now());
    let name = b"bench";
    let length = |len: usize| u8::try_from(len).ok().filter(|len| *len < 128).unwrap();
    let section = [&[length(name.len())], &name[..], text.as_bytes()].concat();
    [module, &[0, length(section.len())], &section].concat()
}

/// What an operator waits for at the command line, with a module that goes through the broker.
fn published(
    rig: &Rig,
    node: &mut Node,
    amounts: &Amounts,
    times: &mut Table,
) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let pem = rig.path("signing.pem");
    std::fs::write(&pem, rig.key.to_pem())?;
    std::fs::set_permissions(&pem, std::fs::Permissions::from_mode(0o600))?;
    let settings = format!(
        "urls: ['mqtts://localhost:{}']\ntenant: acme\nsigningKey: signing.pem\n\
         tls: {{ca: ca.pem, certificate: ctl-acme.pem, key: ctl-acme.key}}\n",
        rig.port
    );
    std::fs::write(rig.path("controller.yaml"), settings)?;
    let mut samples = vec![];
    for nth in 0..amounts.published {
        in_time()?;
        let module = unique(&std::fs::read(guest("sleep"))?, 1000 + nth);
        std::fs::write(rig.path("sleep.wasm"), module)?;
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: cli-{nth}}}\nspec:\n  terminationGracePeriodSeconds: 1\n\
             \x20 containers: [{{name: c, image: 'file:sleep.wasm', args: [forever]}}]\n"
        );
        let file = rig.path("cli.yaml");
        std::fs::write(&file, manifest)?;
        let run = |words: &[&str]| {
            let mut command = support::podling();
            command.env("PODLING_CONTROLLER", rig.path("controller.yaml"));
            command.env("PODLING_STATE_DIR", rig.path("laptop"));
            command.args(["publish", "--node", rig::NODE, "--timeout", "60s"]).args(words).output()
        };
        let start = Instant::now();
        let output = run(&["-f", file.to_str().unwrap(), "--min-ready", "0s"])?;
        samples.push(ms(start.elapsed()));
        anyhow::ensure!(output.status.success(), "{}", support::text(&output.stderr));
        let output = run(&["--delete", &format!("cli-{nth}")])?;
        anyhow::ensure!(output.status.success(), "{}", support::text(&output.stderr));
    }
    node::all_ready(&node.socket(), 1)?;
    time_row(
        times,
        "`podling publish` with a new module (72 kB through the broker), whole",
        &samples,
    );
    Ok(())
}

fn idle(node: &mut Node, amounts: &Amounts, costs: &mut Table) {
    // What the last change still has to say is said.
    std::thread::sleep(QUIET);
    let before = Costs::of(node);
    // What is measured is the passing of time itself.
    std::thread::sleep(amounts.idle);
    let all = Costs::of(node).since(before);
    cost_row(costs, &format!("{} s of idling, one pod", amounts.idle.as_secs()), all, 1);
    let seconds = i64::try_from(amounts.idle.as_secs()).unwrap();
    costs.note(format!(
        "an idle hour, from that: {} bytes of pings, and four node statuses (one in 15 minutes)",
        all.wire() * 3600 / seconds
    ));
}

/// The broker dies and comes back with everything retained, as do all nodes to it.
fn storm(rig: &mut Rig, node: &mut Node, amounts: &Amounts) -> anyhow::Result<Table> {
    let count = amounts.retained;
    let title = format!("A broker that comes back, a node with {count} pods (each return)");
    let mut table = Table::new(title, &["", "p50", "largest"]);
    {
        let operator = Operator::connect(rig)?;
        // The one that is there is the first.
        for nth in 1..count {
            operator.publish(&rig.sign(&rig.intent(&format!("p{nth:03}"), "")))?;
        }
        node::all_ready(&node.socket(), count)?;
    }
    quiet(node)?;
    let restarts = |node: &Node| -> i64 {
        let pods = node::pods(&node.socket()).unwrap_or_default();
        pods.iter().map(|pod| support::restarts(pod, "c")).sum()
    };
    let before = restarts(node);
    let asking = Costs::of_asking(node);
    let mut samples: Vec<[f64; 6]> = vec![];
    for _ in 0..amounts.returns {
        in_time()?;
        rig.kill_broker();
        let questions = std::cell::Cell::new(0);
        let connected = |node: &Node| {
            questions.set(questions.get() + 1);
            rig::metric(node, "podling_mqtt_connected") == 1
        };
        wait_for("the node to notice", || (!connected(node)).then_some(()));
        let costs = Costs::of(node);
        questions.set(0);
        let start = Instant::now();
        rig.start_broker("");
        wait_for("the node to be back", || connected(node).then_some(()));
        let back = start.elapsed();
        let (silent, asked) = quiet_after(node)?;
        let asked = asked + questions.get();
        let until_quiet = silent.duration_since(start).saturating_sub(back);
        let all = Costs::of(node).since(costs);
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let figure = |number: i64| number as f64;
        samples.push([
            ms(back),
            ms(until_quiet),
            figure(all.wire_in),
            figure(all.wire_out),
            ms(all.cpu.saturating_sub(asking * asked)),
            figure(all.flash),
        ]);
    }
    let rows = [
        "broker back → connected, with the node's pause (ms)",
        "connected → nothing more to say (ms)",
        "wire in (bytes)",
        "wire out (bytes)",
        "CPU of the node (ms)",
        "flash (bytes)",
    ];
    for (at, what) in rows.into_iter().enumerate() {
        let column: Vec<f64> = samples.iter().map(|sample| sample[at]).collect();
        let of = |percent| Cell::Number(percentile(&column, percent), 0);
        table.row(vec![what.into(), of(50), of(100)]);
    }
    table.note(format!("restarts of pods by it: {}", restarts(node) - before));
    table.note(format!("of the CPU, each signature of a status: {:.0} us", signature_us()));
    table.note(format!(
        "without the processor time of this bench's questions, {:.1} ms each: /metrics of so many pods",
        ms(asking)
    ));
    Ok(table)
}

/// What a node's signature under one of its statuses costs, microseconds.
fn signature_us() -> f64 {
    const TURNS: u32 = 2000;
    let signer = podling::mqtt::controller::SecretKey::from_seed(&[1; 32]).signer();
    let status = format!("{{\"words\":\"{}\"}}", "x".repeat(1400)).into_bytes();
    let start = Instant::now();
    for _ in 0..TURNS {
        std::hint::black_box(signer.sign("acme/s/gw-test/pod/default/web", status.clone()));
    }
    ms(start.elapsed()) * 1000.0 / f64::from(TURNS)
}

/// Waits until nothing is said for a while; when the last was.
fn quiet(node: &mut Node) -> anyhow::Result<Instant> {
    quiet_after(node).map(|(since, _)| since)
}

/// The same, and after how many questions.
fn quiet_after(node: &mut Node) -> anyhow::Result<(Instant, u32)> {
    let deadline = deadline();
    let (mut last, mut since, mut asked) = (Costs::of(node).wire(), Instant::now(), 1);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        let now = Costs::of(node).wire();
        asked += 1;
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() >= QUIET {
            return Ok((since, asked));
        }
    }
    anyhow::bail!("the link is never quiet")
}

/// From the daemon's start to the last pod's readiness, with no broker there. What a power cut leaves: it is killed.
fn starts(
    rig: &mut Rig,
    node: &mut Node,
    amounts: &Amounts,
    times: &mut Table,
) -> anyhow::Result<()> {
    let mut here = amounts.retained;
    for count in [amounts.retained / 2, amounts.retained / 20] {
        {
            let operator = Operator::connect(rig)?;
            for nth in count..here {
                let mut gone = rig.intent(&format!("p{nth:03}"), "");
                gone.intent =
                    podling::mqtt::controller::tombstone(&gone.intent, &gone.intent.issued_at);
                operator.publish(&rig.sign(&gone))?;
            }
            node::all_ready(&node.socket(), count)?;
            here = count;
        }
        quiet(node)?;
        rig.kill_broker();
        let mut samples = vec![];
        for _ in 0..amounts.starts {
            in_time()?;
            node.power_cut();
            let start = Instant::now();
            node.spawn();
            samples.push(ms(node::all_ready(&node.socket(), count)?.duration_since(start)));
            // One that ends in order is no bad start, of which three in a row make the node careful.
            anyhow::ensure!(node.terminate() == 0, "{}", node.output());
            node.boot();
            node::all_ready(&node.socket(), count)?;
        }
        time_row(times, &format!("killed, started → {count} pods Ready, no network"), &samples);
        rig.start_broker("");
        wait_for("the node to be back", || {
            (rig::metric(node, "podling_mqtt_connected") == 1).then_some(())
        });
    }
    Ok(())
}
