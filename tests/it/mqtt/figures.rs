//! The figures of docs/performance.md, "Delivery": what a change, a reconnection and idling cost on the wire and on flash, and how long
//! a pod takes from its publication, and after power-on. Not a test of anything: run by hand, on a quiet machine.
//!
//! ```text
//! cargo build --release
//! PODLING_TEST_BINARY=target/release/podling cargo test --test it delivery_figures -- --ignored --nocapture
//! ```
//!
//! `PODLING_IDLE_SECONDS` (180) is how long the idle node is watched. Mosquitto runs with TLS 1.3 and client certificates; bytes on the
//! wire are those below TLS, as the node counts them.

use std::time::{Duration, Instant};

use super::rig::{Rig, metric};
use crate::support::{Node, wait_for};

const CHANGES: u32 = 20;
const RECONNECTS: u32 = 100;
const STARTS: u32 = 10;

#[derive(Clone, Copy)]
struct Costs {
    bytes_in: i64,
    bytes_out: i64,
    flash: i64,
    fsyncs: i64,
}

fn costs(node: &Node) -> Costs {
    Costs {
        bytes_in: metric(node, "podling_mqtt_bytes_total{direction=\"in\"}"),
        bytes_out: metric(node, "podling_mqtt_bytes_total{direction=\"out\"}"),
        flash: metric(node, "podling_store_written_bytes_total"),
        fsyncs: metric(node, "podling_store_fsync_total"),
    }
}

fn row(what: &str, before: Costs, after: Costs, parts: u32) {
    let each = |after: i64, before: i64| (after - before) / i64::from(parts);
    println!(
        "  {what:44} {:>9} {:>9} {:>9} {:>7}",
        each(after.bytes_in, before.bytes_in),
        each(after.bytes_out, before.bytes_out),
        each(after.flash, before.flash),
        each(after.fsyncs, before.fsyncs)
    );
}

fn spread(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: &Duration| format!("{:.0}", time.as_secs_f64() * 1000.0);
    let (middle, last) = (&times[times.len() / 2], times.last().unwrap());
    println!("  {what:44} {:>9} {:>9}", ms(middle), ms(last));
}

/// From the message to the node's own word that it is good, as the operator hears it.
fn publish_to_ready(rig: &Rig, node: &Node) -> Vec<Duration> {
    let mut times = vec![];
    for version in 0..CHANGES {
        let env = format!("    env: [{{name: V, value: 'v{version}'}}]\n");
        let mut intent = rig.intent("web", &env);
        // The wait for lasting readiness is the author's, not ours.
        intent.intent.rollout.min_ready_seconds = Some(0);
        let (message, generation) = (rig.sign(&intent), intent.intent.generation);
        let start = Instant::now();
        rig.send(&message);
        node.wait_pod("web", "ready", |pod| {
            pod["metadata"]["generation"] == generation && crate::support::is_ready(pod)
        });
        times.push(start.elapsed());
        // News of one subject are a second apart: the last one is counted, too.
        rig.wait_status("web", "committed", |s| {
            s["rollout"]["stage"] == "Committed" && s["rollout"]["generation"] == generation
        });
    }
    times
}

#[test]
#[ignore = "a measurement of several minutes, not a test"]
fn delivery_figures() {
    let Some(mut rig) = Rig::start() else { return };
    let configuration =
        rig.node_configuration("").replace("keepAliveSeconds: 5", "keepAliveSeconds: 60");
    let mut node = Node::start_with(&configuration);
    rig.deliver(&rig.intent("web", ""));
    println!("Delivery: what it costs            bytes in, bytes out, bytes on flash, fsyncs");

    let before = costs(&node);
    let times = publish_to_ready(&rig, &node);
    row("one pod change (module inline, 444 bytes)", before, costs(&node), CHANGES);

    let idle = std::env::var("PODLING_IDLE_SECONDS").map_or(180, |text| text.parse().unwrap());
    let before = costs(&node);
    // What is measured is the passing of time itself.
    std::thread::sleep(Duration::from_secs(idle));
    let after = costs(&node);
    row(&format!("{idle} s of idling, keep-alive 60 s"), before, after, 1);
    let wire = after.bytes_in - before.bytes_in + after.bytes_out - before.bytes_out;
    let hour = wire * 3600 / i64::try_from(idle).unwrap();
    println!(
        "  an hour of idling, from that: {hour} bytes and four node statuses (one in 15 minutes)"
    );

    let connections = |node: &Node| metric(node, "podling_mqtt_connected") == 1;
    let before = costs(&node);
    let mut back = vec![];
    for _ in 0..RECONNECTS {
        rig.kill_broker();
        wait_for("the node to notice", || (!connections(&node)).then_some(()));
        let start = Instant::now();
        rig.start_broker("");
        wait_for("the node to be back", || connections(&node).then_some(()));
        back.push(start.elapsed());
    }
    row(&format!("each of {RECONNECTS} reconnections, one pod"), before, costs(&node), RECONNECTS);

    println!("Delivery: how long it takes (ms)              p50   largest");
    spread("publish → Ready", times);
    spread("broker back → connected (back-off included)", back);
    rig.kill_broker();
    let mut starts = vec![];
    for _ in 0..STARTS {
        assert_eq!(node.terminate(), 0);
        let start = Instant::now();
        node.spawn();
        wait_for("the pod to be ready", || node.pod("web").filter(crate::support::is_ready));
        starts.push(start.elapsed());
    }
    spread("daemon's start → Ready, no network", starts);
}
