#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{IncludeObject, TableOptions, summary, table};
use crate::board::{Kind, Object};

/// 2024-01-01T01:00:00Z
const NOW: i64 = 1_704_070_800_000;

fn pod(value: Value) -> Pod {
    let mut value = value;
    if value["metadata"].is_null() {
        value["metadata"] = json!({"name": "p"});
    }
    if value["spec"].is_null() {
        value["spec"] = json!({"containers": [{"name": "a"}]});
    }
    serde_json::from_value(value).unwrap()
}

fn status(name: &str, ready: bool, restarts: i32, state: Value) -> Value {
    json!({
        "name": name, "image": "", "imageID": "", "ready": ready, "restartCount": restarts, "state": state,
    })
}

fn waiting(reason: &str) -> Value {
    json!({"waiting": {"reason": reason}})
}

fn running() -> Value {
    json!({"running": {"startedAt": "2024-01-01T00:00:00Z"}})
}

fn exited(code: i32, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason}})
}

fn signalled(signal: i32) -> Value {
    json!({"terminated": {"exitCode": 128 + signal, "signal": signal}})
}

/// READY, STATUS, RESTARTS.
fn line(pod: &Pod) -> (String, String, i32) {
    let line = summary(pod);
    (format!("{}/{}", line.ready, line.total), line.status, line.restarts)
}

#[track_caller]
fn check(what: &str, value: Value, expected: (&str, &str, i32)) {
    let (ready, status, restarts) = line(&pod(value));
    assert_eq!((ready.as_str(), status.as_str(), restarts), expected, "{what}");
}

#[test]
fn status_begins_with_the_phase_or_its_reason() {
    check("phase", json!({"status": {"phase": "Pending"}}), ("0/1", "Pending", 0));
    check(
        "reason",
        json!({"status": {"phase": "Failed", "reason": "Evicted"}}),
        ("0/1", "Evicted", 0),
    );
    check(
        "an empty reason",
        json!({"status": {"phase": "Failed", "reason": ""}}),
        ("0/1", "Failed", 0),
    );
    check("no status", json!({}), ("0/1", "", 0));
    let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
    check(
        "gated",
        json!({"status": {"phase": "Pending", "conditions": gated}}),
        ("0/1", "SchedulingGated", 0),
    );
}

#[test]
fn containers_override_from_last_to_first() {
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let with = |a: Value, b: Value| json!({"spec": two, "status": {"phase": "Running", "containerStatuses": [a, b]}});
    let ok = |name: &str| status(name, true, 0, running());
    check("all run", with(ok("a"), ok("b")), ("2/2", "Running", 0));
    check(
        "one is not ready",
        with(ok("a"), status("b", false, 0, running())),
        ("1/2", "Running", 0),
    );
    check(
        "one waits",
        with(ok("a"), status("b", false, 3, waiting("CrashLoopBackOff"))),
        ("1/2", "CrashLoopBackOff", 3),
    );
    check(
        "the first wins",
        with(
            status("a", false, 1, waiting("ImagePullBackOff")),
            status("b", false, 2, waiting("CrashLoopBackOff")),
        ),
        ("0/2", "ImagePullBackOff", 3),
    );
    check(
        "waiting without a reason says nothing",
        with(status("a", false, 0, json!({"waiting": {}})), ok("b")),
        ("1/2", "Running", 0),
    );
    check(
        "terminated",
        with(ok("a"), status("b", false, 0, exited(137, "OOMKilled"))),
        ("1/2", "OOMKilled", 0),
    );
    check(
        "exit code without reason",
        with(status("a", false, 0, exited(3, "")), ok("b")),
        ("1/2", "ExitCode:3", 0),
    );
    check(
        "signal without reason",
        with(status("a", false, 0, signalled(9)), ok("b")),
        ("1/2", "Signal:9", 0),
    );
}

#[test]
fn one_container_that_is_done_does_not_make_the_pod_look_done() {
    let with = |ready: &str, a: Value, b: Value| {
        json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [a, b, status("c", true, 0, running())],
            },
        })
    };
    let done = |name: &str| status(name, false, 0, exited(0, "Completed"));
    check("and the pod is ready", with("True", done("a"), done("b")), ("1/3", "Running", 0));
    check("and the pod is not ready", with("False", done("a"), done("b")), ("1/3", "NotReady", 0));
    let failed = status("b", false, 0, exited(1, "Error"));
    check("and another has failed", with("False", done("a"), failed), ("1/3", "Error", 0));
    let all = json!({"status": {"phase": "Succeeded", "containerStatuses": [done("a")]}});
    check("all are done", all, ("0/1", "Completed", 0));
}

#[test]
fn init_containers_are_counted_until_the_first_that_is_not_past() {
    let with = |statuses: Value| {
        json!({
            "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "initContainerStatuses": statuses},
        })
    };
    let done = || status("i", true, 1, exited(0, "Completed"));
    check(
        "first to run",
        with(json!([
            status("i", false, 0, running()),
            status("j", false, 0, waiting("PodInitializing"))
        ])),
        ("0/1", "Init:0/2", 0),
    );
    check(
        "second runs",
        with(json!([done(), status("j", false, 2, running())])),
        ("0/1", "Init:1/2", 3),
    );
    check(
        "waiting for a reason",
        with(json!([status("i", false, 4, waiting("CrashLoopBackOff"))])),
        ("0/1", "Init:CrashLoopBackOff", 4),
    );
    check(
        "initializing is no reason",
        with(json!([status("i", false, 0, waiting("PodInitializing"))])),
        ("0/1", "Init:0/2", 0),
    );
    check(
        "failed",
        with(json!([status("i", false, 0, exited(1, "Error"))])),
        ("0/1", "Init:Error", 0),
    );
    check(
        "failed without reason",
        with(json!([status("i", false, 0, exited(7, ""))])),
        ("0/1", "Init:ExitCode:7", 0),
    );
    check(
        "killed by signal",
        with(json!([status("i", false, 0, signalled(15))])),
        ("0/1", "Init:Signal:15", 0),
    );
    check(
        "only its own restarts count later",
        with(json!([done(), status("j", true, 5, exited(0, "Completed"))])),
        ("0/1", "Pending", 0),
    );
}

#[test]
fn sidecars_count_as_containers() {
    let with = |side: Value, main: Value| {
        json!({
            "spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "a"}]},
            "status": {
                "phase": "Running",
                "initContainerStatuses": [side, status("i", true, 9, exited(0, "Completed"))],
                "containerStatuses": [main],
            },
        })
    };
    let started = |ready: bool, restarts: i32| {
        let mut status = status("s", ready, restarts, running());
        status["started"] = json!(true);
        status
    };
    let main = || status("a", true, 1, running());
    check("both run", with(started(true, 2), main()), ("2/2", "Running", 3));
    check("the sidecar is not ready", with(started(false, 0), main()), ("1/2", "Running", 1));
    check(
        "the sidecar starts",
        with(status("s", false, 0, running()), main()),
        ("0/2", "Init:0/2", 0),
    );
    check(
        "the sidecar crashed",
        with(status("s", false, 3, waiting("CrashLoopBackOff")), main()),
        ("0/2", "Init:CrashLoopBackOff", 3),
    );
    let mut initialized = with(status("s", false, 3, waiting("CrashLoopBackOff")), main());
    initialized["status"]["conditions"] = json!([{"type": "Initialized", "status": "True"}]);
    check(
        "after initialization the containers speak",
        initialized,
        ("1/2", "Init:CrashLoopBackOff", 4),
    );
}

#[test]
fn a_deleted_pod_is_terminating_unless_it_is_over() {
    let deleted = json!({"name": "p", "deletionTimestamp": "2024-01-01T00:00:00Z"});
    let with = |status: Value| json!({"metadata": deleted, "status": status});
    check("running", with(json!({"phase": "Running"})), ("0/1", "Terminating", 0));
    check("failed", with(json!({"phase": "Failed"})), ("0/1", "Failed", 0));
    check("succeeded", with(json!({"phase": "Succeeded", "reason": "Done"})), ("0/1", "Done", 0));
    check(
        "its node is lost",
        with(json!({"phase": "Running", "reason": "NodeLost"})),
        ("0/1", "Unknown", 0),
    );
}

fn rows(object: impl Into<Object>) -> Value {
    let object = object.into();
    let options = TableOptions { include: IncludeObject::None, beta: false, now_ms: NOW };
    let table = table(object.kind(), &[object], Some(7), true, options);
    let columns = table.column_definitions.as_ref().unwrap().len();
    assert_eq!(columns, table.rows[0].cells.len(), "a cell for each column");
    serde_json::to_value(&table.rows[0].cells).unwrap()
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_pods_row_tells_when_it_last_restarted() {
    let mut container = status("a", true, 3, running());
    container["lastState"] =
        json!({"terminated": {"exitCode": 1, "finishedAt": "2024-01-01T00:59:50Z"}});
    let object = pod(json!({
        "metadata": {"name": "web", "creationTimestamp": "2024-01-01T00:57:57Z"},
        "spec": {
            "nodeName": "gw", "containers": [{"name": "a"}],
            "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}],
        },
        "status": {
            "phase": "Running", "podIPs": [{"ip": "10.1.2.3"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "x", "status": "True"}], "containerStatuses": [container],
        },
    }));
    let expected =
        json!(["web", "1/1", "Running", "3 (10s ago)", "2m3s", "10.1.2.3", "gw", "<none>", "1/2"]);
    assert_eq!(rows(object), expected);
    let bare = pod(json!({"status": {"phase": "Pending"}}));
    let expected =
        json!(["p", "0/1", "Pending", "0", "<unknown>", "<none>", "<none>", "<none>", "<none>"]);
    assert_eq!(rows(bare), expected);
}

#[test]
fn every_other_kind_has_its_row() {
    let meta =
        json!({"name": "x", "namespace": "default", "creationTimestamp": "2024-01-01T00:00:00Z"});
    let event: k8s_openapi::api::core::v1::Event = from(json!({
        "metadata": meta, "type": "Warning", "reason": "BackOff", "message": " text\n", "count": 3,
        "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{a}"},
        "source": {"component": "podling", "host": "gw"},
        "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:59:00Z",
    }));
    let expected = json!([
        "60s",
        "Warning",
        "BackOff",
        "pod/web",
        "spec.containers{a}",
        "podling, gw",
        "text",
        "60m",
        3,
        "x"
    ]);
    assert_eq!(rows(event), expected);
    let map: k8s_openapi::api::core::v1::ConfigMap =
        from(json!({"metadata": meta, "data": {"a": "", "b": ""}, "binaryData": {"c": ""}}));
    assert_eq!(rows(map), json!(["x", 3, "60m"]));
    let secret: k8s_openapi::api::core::v1::Secret =
        from(json!({"metadata": meta, "type": "Opaque", "data": {"a": ""}}));
    assert_eq!(rows(secret), json!(["x", "Opaque", 1, "60m"]));
    let namespace: k8s_openapi::api::core::v1::Namespace =
        from(json!({"metadata": meta, "status": {"phase": "Active"}}));
    assert_eq!(rows(namespace), json!(["x", "Active", "60m"]));
    let node: k8s_openapi::api::core::v1::Node = from(json!({
        "metadata": {"name": "gw", "labels": {"node-role.kubernetes.io/edge": "", "other": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "False"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
        },
    }));
    let expected = json!([
        "gw",
        "NotReady,SchedulingDisabled",
        "edge",
        "<unknown>",
        "",
        "192.0.2.1",
        "<none>",
        "<unknown>",
        "<unknown>",
        "<unknown>",
    ]);
    assert_eq!(rows(node), expected);
}

#[test]
fn the_column_headings_are_kubectls() {
    let headings = |kind: Kind, wide: bool| -> Vec<String> {
        let options = TableOptions { include: IncludeObject::None, beta: false, now_ms: NOW };
        let columns = table(kind, &[], None, true, options).column_definitions.unwrap();
        let shown = columns.into_iter().filter(|column| wide || column.priority == 0);
        shown.map(|column| column.name).collect()
    };
    assert_eq!(headings(Kind::Pod, false), ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(headings(Kind::Pod, true)[5..], ["IP", "Node", "Nominated Node", "Readiness Gates"]);
    assert_eq!(headings(Kind::Event, false), ["Last Seen", "Type", "Reason", "Object", "Message"]);
    assert_eq!(headings(Kind::ConfigMap, false), ["Name", "Data", "Age"]);
    assert_eq!(headings(Kind::Secret, false), ["Name", "Type", "Data", "Age"]);
    assert_eq!(headings(Kind::Node, false), ["Name", "Status", "Roles", "Age", "Version"]);
    assert_eq!(headings(Kind::Namespace, false), ["Name", "Status", "Age"]);
}
