//! The node owns its state: what was accepted comes back after a power cut, with no help from anyone.

use super::support::{Node, container, restarts};

const COUNTER: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: counter, labels: {a: b}}\n\
     spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'counter:test'}]}\n";

#[test]
fn accepted_pods_are_back_after_a_power_cut_and_deleted_ones_are_not() {
    let mut node = Node::start();
    node.load("counter");
    node.apply(COUNTER);
    let before = node.wait_ready("counter");
    node.apply(&COUNTER.replace("name: counter", "name: gone"));
    node.ok(&["delete", "pod", "gone", "--wait=false"]);
    node.power_cut();
    node.boot();
    let after = node.wait_ready("counter");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["metadata"]["labels"]["a"], "b");
    assert_eq!(after["metadata"]["creationTimestamp"], before["metadata"]["creationTimestamp"]);
    assert!(
        restarts(&after, "c") > restarts(&before, "c"),
        "a daemon's end is a restart of its modules"
    );
    assert!(node.pod("gone").is_none());
}

#[test]
fn restart_counts_back_off_and_finished_pods_survive_the_daemon() {
    let mut node = Node::start();
    node.load("exit");
    let pod = |name: &str, policy: &str, code: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
             spec: {{restartPolicy: {policy}, containers: [{{name: c, image: 'exit:test', args: ['{code}']}}]}}\n"
        )
    };
    node.apply(&pod("failing", "Always", "5"));
    node.apply(&pod("done", "Never", "0"));
    let before = node.wait_pod("failing", "restarted", |pod| restarts(pod, "c") >= 2);
    let done = node.wait_pod("done", "Succeeded", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(node.terminate(), 0, "{}", node.output());
    node.boot();
    let after = node.wait_pod("failing", "back with its past", |pod| {
        restarts(pod, "c") >= restarts(&before, "c")
    });
    let last = &container(&after, "c")["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 5, "{after:#?}");
    let still =
        node.wait_pod("done", "Succeeded still", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(still["metadata"]["uid"], done["metadata"]["uid"]);
    assert_eq!(restarts(&still, "c"), 0);
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let node = Node::start();
    let mut command = super::support::podling();
    command.arg("daemon").arg("--state-dir").arg(node.path("state"));
    command.arg("--cache-dir").arg(super::support::cache_dir());
    let output = command.arg("--socket").arg(node.path("other.sock")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = super::support::text(&output.stderr);
    assert!(error.contains("in use") || error.contains("another"), "{error}");
}

#[test]
fn a_second_signal_ends_a_daemon_whose_modules_take_their_time() {
    let mut node = Node::start();
    node.load("stubborn");
    node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: stubborn}\n\
         spec: {terminationGracePeriodSeconds: 3600, containers: [{name: c, image: 'stubborn:test'}]}\n",
    );
    node.wait_ready("stubborn");
    super::support::wait_for("the module to have asked for stop requests", || {
        (!node.ok(&["logs", "stubborn"]).is_empty()).then_some(())
    });
    node.daemon().signal(rustix::process::Signal::TERM);
    node.daemon().wait_for("stopping");
    assert_eq!(node.terminate(), 0, "{}", node.output());
    node.boot();
    node.wait_ready("stubborn");
}

#[test]
fn a_manifest_put_back_later_runs_again() {
    let mut node = Node::start();
    let done = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: done}}\n\
         spec: {{restartPolicy: Never, containers: [{{name: c, image: 'file:{}'}}]}}\n",
        super::support::guest("hello").display()
    );
    node.put_manifest("done.yaml", &done);
    let ended = |pod: &serde_json::Value| pod["status"]["phase"] == "Succeeded";
    node.wait_pod("done", "Succeeded", ended);
    assert_eq!(node.terminate(), 0, "{}", node.output());
    node.remove_manifest("done.yaml");
    node.boot();
    assert_eq!(node.terminate(), 0, "{}", node.output());
    node.put_manifest("done.yaml", &done);
    node.boot();
    node.wait_pod("done", "Succeeded", ended);
    super::support::wait_for("the log of another run", || {
        (!node.cli(&["logs", "done"]).stdout.is_empty()).then_some(())
    });
}

#[test]
fn an_idle_daemon_writes_nothing() {
    let mut node = Node::start();
    node.load("counter");
    node.apply(COUNTER);
    node.wait_ready("counter");
    let pid = node.daemon().child.id();
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        let line = io.lines().find(|l| l.starts_with("write_bytes"))?.to_owned();
        line.split(' ').nth(1)?.parse::<u64>().ok()
    };
    let Some(before) = written() else {
        eprintln!("skipped: /proc/PID/io cannot be read here");
        return;
    };
    // Fifteen of the counter's own seconds: enough for every timer of an idle pod to have come due.
    super::support::wait_for("a while of idling", || {
        let logs = node.ok(&["logs", "counter", "--tail", "1"]);
        let count: u64 = logs.trim().rsplit(' ').next()?.parse().ok()?;
        (count >= 15).then_some(())
    });
    assert_eq!(written(), Some(before));
}
