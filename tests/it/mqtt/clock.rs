//! A gateway without a battery: it begins in 1970, hears the time when it has a network, and may be set back by a wrong one.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::rig::Rig;
use crate::support::{Node, container, restarts, wait_for};

/// 2100-01-02T00:00:00Z, milliseconds since 1970.
const LATER_MS: i64 = 4_102_531_200_000;

/// Sets the node's wall clock.
fn set(node: &Node, ms: i64) {
    let new = node.path("clock.new");
    std::fs::write(&new, ms.to_string()).unwrap();
    std::fs::rename(new, node.path("clock")).unwrap();
}

/// What must not change, whatever time it is: which pod it is, and how often it has been restarted.
fn of_pod(node: &Node, name: &str) -> (Value, i64) {
    let pod = node.pod(name).unwrap();
    (pod["metadata"]["uid"].clone(), restarts(&pod, "c"))
}

/// How often a pod that crashes at once can have been restarted after that time.
fn restarts_in(life: Duration) -> i64 {
    let waits = [0, 10, 30, 70, 150, 310].map(Duration::from_secs);
    waits.iter().filter(|wait| **wait <= life).count().try_into().unwrap()
}

#[test]
fn a_clock_that_jumps_restarts_nothing_and_a_broker_of_the_future_is_waited_for() {
    if std::env::var_os("PODLING_TEST_BINARY").is_some() {
        return eprintln!("skipped: a release build lets nobody set its clock");
    }
    let Some(mut rig) = Rig::start() else { return };
    let configuration = format!("testClock: DIR/clock\n{}", rig.node_configuration(""));
    let mut node = Node::prepare(&configuration);
    set(&node, 10_000);
    node.boot();
    node.load("exit");
    // In 1970 the broker's certificate counts all the same: it is later than this program was made, at least.
    rig.deliver(&rig.intent("web", ""));
    let mut crashing = rig.intent_of("exit", "crash", "    args: ['1']\n");
    crashing.intent.rollout.progress_deadline_seconds = Some(3600);
    let born = Instant::now();
    rig.send(&rig.sign(&crashing));
    node.wait_pod("crash", "waiting", |pod| {
        container(pod, "c")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    // A signed document tells that it must be later than 1970; so what the clock shows is not repeated.
    let status = rig.wait_status("web", "ready", |s| s["ready"] == true);
    assert_eq!((&status["time"], &status["timeSynced"]), (&Value::Null, &false.into()));
    let (web, crash) = (of_pod(&node, "web"), of_pod(&node, "crash"));
    let check = |node: &Node, when: &str| {
        assert_eq!(of_pod(node, "web"), web, "{when}");
        let (uid, count) = of_pod(node, "crash");
        assert_eq!(uid, crash.0, "{when}");
        let most = restarts_in(born.elapsed());
        assert!((crash.1..=most).contains(&count), "{when}: {count} restarts, at most {most}");
    };

    rig.kill_broker();
    rig.certificate_with("broker", "localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2100, 1, 1);
        params.not_after = rcgen::date_time_ymd(2101, 1, 1);
    });
    // Whoever asks the broker for its messages would refuse it, too: it looks at nothing but the authority.
    rig.start_broker("");
    wait_for("the node to say what is wrong", || {
        let said = node.output();
        (said.contains("not valid yet") && said.contains("this node's clock says 20")).then_some(())
    });
    check(&node, "in 1970, without a broker");

    let connected = |node: &Node| super::rig::metric(node, "podling_mqtt_connected") == 1;
    set(&node, LATER_MS);
    wait_for("the node to be back", || connected(&node).then_some(()));
    assert!(node.output().contains("the clock has been set"), "{}", node.output());
    check(&node, "130 years later");
    // And back again; a connection that stands goes on.
    set(&node, 0);
    wait_for("the clock to be set back", || node.output().contains("ms=0").then_some(()));
    assert!(connected(&node));
    check(&node, "and 130 years earlier");

    // The same over a start of the daemon in 1970, with nobody there to tell the time.
    rig.kill_broker();
    node.power_cut();
    node.boot();
    let pod = node.wait_ready("web");
    assert_eq!(pod["metadata"]["uid"], web.0);
    // The daemon's end was a restart of its modules.
    let (most, (uid, count)) = (restarts_in(born.elapsed()) + 1, of_pod(&node, "crash"));
    assert_eq!(uid, crash.0);
    assert!((crash.1..=most).contains(&count), "{count} restarts, at most {most}");
}
