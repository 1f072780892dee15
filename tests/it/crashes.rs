//! Modules that end badly in every way settle where Kubernetes would show them, and their neighbours never notice.

use serde_json::Value;

use super::support::{Node, container, is_ready, manifest, restarts};

/// The last end of a container that is being restarted: in `lastState`, or in `state` while it has not been yet.
fn last_end<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let status = container(pod, name);
    let last = &status["lastState"]["terminated"];
    if last.is_null() { &status["state"]["terminated"] } else { last }
}

#[test]
fn a_pod_of_crashing_modules_settles_and_its_neighbours_never_notice() {
    let node = Node::start();
    // A neighbour notices nothing if it is not restarted and stays ready. How soon it answers is the machine's affair: within a second
    // is too much to ask of a busy one, and so is to listen by then.
    let probe =
        "httpGet:\n          path: /healthz\n          port: 9000\n        periodSeconds: 1\n";
    let patient = format!("{probe}        timeoutSeconds: 30\n");
    let text = manifest("crashes.yaml");
    assert_eq!(text.matches(probe).count(), 2);
    let ready = "      readinessProbe:\n";
    let starts = format!("      startupProbe:\n        {probe}        failureThreshold: 120\n");
    let text = text.replace(probe, &patient).replacen(ready, &format!("{starts}{ready}"), 1);
    node.put_manifest("crashes.yaml", &text);
    let rows = [
        ("exit", "Error", 1),
        ("trap", "Trapped", 134),
        ("memory", "OOMKilled", 137),
        ("memory-refused", "Error", 3),
        ("fuel", "OutOfFuel", 137),
        ("spin", "Error", 143),
        ("spin-at-start", "Error", 143),
        ("deadlock", "Error", 143),
    ];
    for (name, reason, code) in rows {
        let pod = node.wait_pod("crashes", &format!("{name} ended by {reason}"), |pod| {
            restarts(pod, name) >= 1 && last_end(pod, name)["reason"] == reason
        });
        assert_eq!(last_end(&pod, name)["exitCode"], code, "{name}");
    }
    let pod = node.wait_pod("crashes", "backing off", |pod| {
        let backing_off =
            |name| container(pod, name)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        ["exit", "trap", "memory", "memory-refused", "fuel"].into_iter().all(backing_off)
    });
    assert_eq!(pod["status"]["phase"], "Running");
    let message = last_end(&pod, "trap")["message"].as_str().unwrap();
    assert!(message.contains("unreachable") && message.contains("trap::inner"), "{message}");
    // The neighbours: in the same pod and in another.
    assert_eq!(restarts(&pod, "neighbour"), 0);
    assert_eq!(container(&pod, "neighbour")["ready"], true);
    let other = node.pod("neighbour").unwrap();
    assert!(is_ready(&other));
    assert_eq!(restarts(&other, "counter"), 0);
    let events = node.ok(&["get", "events"]);
    assert!(events.contains("BackOff"), "{events}");
    let described = node.ok(&["describe", "pod", "crashes"]);
    for word in ["OOMKilled", "OutOfFuel", "Trapped", "CrashLoopBackOff"] {
        assert!(described.contains(word), "no {word} in:\n{described}");
    }
}

#[test]
fn a_pod_that_never_restarts_fails_with_its_modules_code() {
    let node = Node::start();
    node.load("exit");
    node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: once}\n\
         spec: {restartPolicy: Never, containers: [{name: c, image: 'exit:test', args: ['42']}]}\n",
    );
    let pod = node.wait_pod("once", "Failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(container(&pod, "c")["state"]["terminated"]["exitCode"], 42);
    assert_eq!(restarts(&pod, "c"), 0);
}
