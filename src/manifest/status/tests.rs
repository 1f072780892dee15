#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::lifecycle::{ConditionKind, PodPhase};
use crate::manifest::{FieldValidation, Object, lower, parse};
use crate::spec::{ContainerKind, ContainerName, PodUid, QosClass, Source};

fn pod() -> Pod {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, generation: 4}\nspec:\n  volumes: [{name: v}]\n  initContainers: [{name: z-init, image: x}, {name: a-init, image: x}]\n  \
                containers:\n  - name: web\n    image: x\n    resources: {limits: {cpu: 100m, memory: 16Mi, podling.dev/fuel: 5}}\n    volumeMounts: [{name: v, mountPath: /v, readOnly: true}]\n  - {name: app, image: x}\n";
    let mut parsed = parse(text.as_bytes(), FieldValidation::Strict);
    let Object::Pod(pod) = parsed.documents.pop().unwrap().object else { panic!() };
    lower(&pod, &Source::Api, PodUid::new("u")).unwrap().pod
}

fn at(seconds: u64) -> Timestamp {
    // Half a second more: what goes out has whole seconds.
    Timestamp::simulated(Duration::from_millis(seconds * 1000 + 500))
}

fn container(name: &str, kind: ContainerKind, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        name: ContainerName::new(name),
        kind,
        state,
        last: None,
        ready: false,
        started: Some(false),
        restart_count: 0,
        image: "x".to_owned(),
        image_id: String::new(),
        container_id: None,
    }
}

fn end(code: i32) -> Terminated {
    Terminated {
        exit_code: code,
        reason: Cow::Borrowed("Error"),
        message: Some("boom".to_owned()),
        started_at: at(10),
        finished_at: at(20),
        container_id: Some("podling://u/web/0".to_owned()),
    }
}

fn status() -> PodStatus {
    let mut web = container(
        "web",
        ContainerKind::Regular,
        ContainerState::Waiting {
            reason: "CrashLoopBackOff",
            message: Some("back-off".to_owned()),
        },
    );
    web.last = Some(end(134));
    web.restart_count = 3;
    let running = ContainerState::Running { since: at(30) };
    PodStatus {
        phase: PodPhase::Running,
        reason: None,
        message: None,
        conditions: vec![Condition {
            kind: ConditionKind::Ready,
            status: false,
            reason: Some("ContainersNotReady"),
            message: Some("containers with unready status: [web]".to_owned()),
            last_transition: at(40),
        }],
        init_containers: vec![
            container("z-init", ContainerKind::Init, ContainerState::Terminated(end(0))),
            container("a-init", ContainerKind::Init, ContainerState::Terminated(end(0))),
        ],
        containers: vec![web, container("app", ContainerKind::Regular, running)],
        start_time: at(5),
        pod_ip: Some(Ipv4Addr::new(10, 0, 0, 2).into()),
        qos: QosClass::Burstable,
    }
}

#[test]
fn a_status_goes_out_in_kubernetes_form() {
    let wire = pod_status(&pod(), &status(), &[Ipv4Addr::new(192, 0, 2, 1).into()]);
    let json = serde_json::to_value(&wire).unwrap();
    for (pointer, expected) in [
        ("/phase", "\"Running\""),
        ("/qosClass", "\"Burstable\""),
        ("/observedGeneration", "4"),
        ("/startTime", "\"1970-01-01T00:00:05Z\""),
        ("/hostIP", "\"192.0.2.1\""),
        ("/hostIPs/0/ip", "\"192.0.2.1\""),
        ("/podIP", "\"10.0.0.2\""),
        ("/podIPs/0/ip", "\"10.0.0.2\""),
        ("/conditions/0/type", "\"Ready\""),
        ("/conditions/0/status", "\"False\""),
        ("/conditions/0/reason", "\"ContainersNotReady\""),
        ("/conditions/0/lastTransitionTime", "\"1970-01-01T00:00:40Z\""),
        ("/conditions/0/observedGeneration", "4"),
        // Regular ones by name, init containers as the manifest has them.
        ("/containerStatuses/0/name", "\"app\""),
        ("/containerStatuses/1/name", "\"web\""),
        ("/initContainerStatuses/0/name", "\"z-init\""),
        ("/initContainerStatuses/1/name", "\"a-init\""),
        ("/containerStatuses/0/state/running/startedAt", "\"1970-01-01T00:00:30Z\""),
        ("/containerStatuses/0/lastState", "{}"),
        ("/containerStatuses/1/state/waiting/reason", "\"CrashLoopBackOff\""),
        ("/containerStatuses/1/state/waiting/message", "\"back-off\""),
        ("/containerStatuses/1/lastState/terminated/exitCode", "134"),
        ("/containerStatuses/1/lastState/terminated/finishedAt", "\"1970-01-01T00:00:20Z\""),
        ("/containerStatuses/1/lastState/terminated/containerID", "\"podling://u/web/0\""),
        ("/containerStatuses/1/restartCount", "3"),
        ("/containerStatuses/1/resources/limits/cpu", "\"100m\""),
        ("/containerStatuses/1/resources/limits/memory", "\"16Mi\""),
        ("/containerStatuses/1/resources/limits/podling.dev~1fuel", "\"5\""),
        ("/containerStatuses/1/allocatedResources/memory", "\"16Mi\""),
        ("/containerStatuses/1/volumeMounts/0/mountPath", "\"/v\""),
        ("/containerStatuses/1/volumeMounts/0/readOnly", "true"),
    ] {
        assert_eq!(
            json.pointer(pointer).map(ToString::to_string).as_deref(),
            Some(expected),
            "{pointer}"
        );
    }
    for absent in [
        "/reason",
        "/message",
        "/containerStatuses/0/resources",
        "/containerStatuses/0/containerID",
    ] {
        assert_eq!(json.pointer(absent), None, "{absent}");
    }
}

#[test]
fn a_clock_before_1970_or_beyond_all_time_still_shows_a_time() {
    for (wall_ms, expected) in [(-1, "1969-12-31T23:59:59Z"), (i64::MAX, "1970-01-01T00:00:00Z")] {
        let time = time(Timestamp::new(Duration::ZERO, wall_ms));
        assert_eq!(serde_json::to_value(time).unwrap(), expected);
    }
}
