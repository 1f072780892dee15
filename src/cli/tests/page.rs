use serde_json::json;

use crate::cli::describe::{Seen, describe, node};
use crate::cli::top::rows_of;

/// 2024-01-01T01:00:00Z
const NOW: i64 = 1_704_070_800_000;

#[test]
fn a_described_pod_reads_as_from_kubectl() {
    let pod = serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "default", "uid": "u",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {
                "note": "short", "escape": "\u{1b}[31m",
                "kubectl.kubernetes.io/last-applied-configuration": "hidden",
                "long": "words ".repeat(30).trim(), "lines": "one\ntwo\n",
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "gw", "uid": "n", "controller": true}],
        },
        "spec": {
            "nodeName": "gateway", "priority": 0, "serviceAccountName": "default",
            "initContainers": [{"name": "setup", "image": "setup:1", "command": ["sh", "two\nlines"]}],
            "containers": [{
                "name": "main", "image": "web:1", "args": ["--port", "8080"],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP", "hostPort": 5353}],
                "resources": {"limits": {"cpu": "500m", "podling.dev/fuel": "1k"}, "requests": {"memory": "64Mi"}},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "readinessProbe": {"tcpSocket": {"port": 8080}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "startupProbe": {"exec": {"command": ["a", "b"]}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "env": [
                    {"name": "A", "value": "b"}, {"name": "MULTI", "value": "x\ny"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": true}}},
                ],
                "envFrom": [{"configMapRef": {"name": "cfg"}}, {"prefix": "P_", "secretRef": {"name": "sec", "optional": true}}],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "cfg", "mountPath": "/cfg", "readOnly": true, "subPath": "a"},
                ],
            }],
            "readinessGates": [{"conditionType": "example.com/up"}],
            "volumes": [
                {"name": "data", "emptyDir": {}}, {"name": "cfg", "configMap": {"name": "cfg"}},
                {"name": "sec", "secret": {"secretName": "sec", "optional": true}},
                {"name": "host", "hostPath": {"path": "/srv", "type": "Directory"}},
            ],
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "qosClass": "Burstable", "hostIP": "127.0.0.1", "podIP": "10.88.0.2", "podIPs": [{"ip": "10.88.0.2"}],
            "startTime": "2024-01-01T00:00:00Z",
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}],
            "initContainerStatuses": [{
                "name": "setup", "image": "setup:1", "imageID": "sha256:1", "ready": true, "restartCount": 0, "containerID": "podling://1",
                "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": "2024-01-01T00:00:00Z", "finishedAt": "2024-01-01T00:00:01Z"}},
            }],
            "containerStatuses": [{
                "name": "main", "image": "web:1", "imageID": "sha256:2", "ready": false, "restartCount": 3, "containerID": "podling://2",
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                "lastState": {"terminated": {"exitCode": 134, "reason": "Trapped", "message": "unreachable", "startedAt": "2024-01-01T00:50:00Z", "finishedAt": "2024-01-01T00:59:00Z"}},
            }],
        },
    }))
    .unwrap();
    let event = |reason: &str, count: i32, minute: i32| {
        serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {}, "type": "Normal", "reason": reason, "message": " said \n", "count": count,
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": format!("2024-01-01T00:{minute:02}:00Z"),
            "source": {"component": "podling"},
        }))
        .unwrap()
    };
    let usage = rows_of(&json!({"items": [{
        "metadata": {"name": "web", "namespace": "default"},
        "containers": [{"name": "main", "usage": {
            "cpu": "10m", "memory": "2Mi", "podling.dev/cpu-throttled": "1500m", "podling.dev/memory-peak": "3Mi",
        }}],
    }]}));
    insta::assert_snapshot!(describe(
        &pod,
        &Seen { network: None, usage: &usage },
        &[event("Pulled", 1, 0), event("BackOff", 12, 58)],
        NOW
    ));
}

#[test]
fn a_bare_pod_that_ends_is_described_without_a_gap() {
    let pod = serde_json::from_value(json!({
        "metadata": {
            "name": "x", "namespace": "default",
            "deletionTimestamp": "2024-01-01T00:59:30Z", "deletionGracePeriodSeconds": 30,
        },
        "spec": {"containers": [{"name": "a", "image": "i"}]},
    }))
    .unwrap();
    insta::assert_snapshot!(describe(&pod, &Seen::default(), &[], NOW));
}

#[test]
fn a_described_node_says_what_it_has_and_what_its_pods_ask_of_it() {
    let node = serde_json::from_value(json!({
        "metadata": {
            "name": "gw-1", "uid": "gw-1", "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": {"kubernetes.io/os": "wasi", "site": "north"},
        },
        "status": {
            "capacity": {"cpu": "4000m", "memory": "1073741824", "pods": "110"},
            "allocatable": {"cpu": "2000m", "memory": "536870912", "pods": "110"},
            "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "gw-1"}],
            "conditions": [
                {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory", "message": "memory is sufficient",
                 "lastHeartbeatTime": "2024-01-01T00:00:00Z", "lastTransitionTime": "2024-01-01T00:00:00Z"},
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "podling is up",
                 "lastHeartbeatTime": "2024-01-01T00:00:00Z", "lastTransitionTime": "2024-01-01T00:00:00Z"},
            ],
            "nodeInfo": {
                "architecture": "arm64", "bootID": "", "containerRuntimeVersion": "podling://0.1.0", "kernelVersion": "6.1", "kubeProxyVersion": "",
                "kubeletVersion": "v0.1.0", "machineID": "", "operatingSystem": "wasi", "osImage": "Linux", "systemUUID": "",
            },
        },
    }));
    let container = |name: &str, policy: Option<&str>, cpu: &str, memory: &str| json!({"name": name, "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": memory}}});
    let pod = |name: &str, phase: &str, spec: serde_json::Value| {
        let meta = json!({"name": name, "namespace": "default", "creationTimestamp": "2024-01-01T00:58:00Z"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": {"phase": phase}}))
            .unwrap()
    };
    let pods = [
        // The largest init container needs more than what runs after it, but not of memory.
        pod(
            "web",
            "Running",
            json!({
                "initContainers": [container("log", Some("Always"), "100m", "8Mi"), container("load", None, "900m", "8Mi")],
                "containers": [container("a", None, "200m", "32Mi"), container("b", None, "250m", "32Mi")],
            }),
        ),
        pod(
            "own",
            "Pending",
            json!({
                "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "64Mi"}},
                "containers": [container("a", None, "10m", "1Mi")],
            }),
        ),
        pod("bare", "Running", json!({"containers": [{"name": "a"}]})),
        pod("done", "Succeeded", json!({"containers": [container("a", None, "2", "1Gi")]})),
    ];
    insta::assert_snapshot!(node::describe(&node.unwrap(), &pods, &[], NOW));
}
