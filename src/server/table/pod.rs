//! A pod in one line: READY, STATUS and RESTARTS.
//!
//! Owns: the algorithm of `printPod` in `pkg/printers/internalversion/printers.go` (KUBELET.md 22). STATUS is no field of a pod; it is made here
//! from phase, reasons and container states, and people know its words better than any field's.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::server::age;

/// READY, STATUS and RESTARTS of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSummary {
    pub ready: u32,
    pub total: usize,
    pub status: String,
    pub restarts: i32,
    /// When the newest of the counted restarts' previous runs ended.
    pub last_restart: Option<Time>,
}

/// Summarises a pod as `kubectl get pods` does.
#[must_use]
pub fn summary(pod: &Pod) -> PodSummary {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let mut line = Line::begin(spec, status);
    let initializing = line.init_containers(spec, status);
    if !initializing || condition_is_true(status, "Initialized") {
        line.containers(status);
    }
    let mut word = line.status;
    if pod.metadata.deletion_timestamp.is_some() {
        let terminal = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if status.reason.as_deref() == Some("NodeLost") {
            "Unknown".clone_into(&mut word);
        } else if !terminal {
            "Terminating".clone_into(&mut word);
        }
    }
    PodSummary {
        ready: line.ready,
        total: line.total,
        status: word,
        restarts: line.restarts.count,
        last_restart: line.restarts.newest,
    }
}

/// The cells of the pod's row.
pub(super) fn cells(pod: &Pod, now: i64) -> Vec<Value> {
    let line = summary(pod);
    let restarts = match &line.last_restart {
        Some(last) if line.restarts != 0 => {
            format!("{} ({} ago)", line.restarts, age::since(Some(last), now))
        }
        _ => line.restarts.to_string(),
    };
    let none = |value: Option<&String>| {
        value.filter(|value| !value.is_empty()).map_or("<none>", String::as_str).to_owned()
    };
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let ip = status.and_then(|s| s.pod_ips.as_ref()).and_then(|ips| ips.first()).map(|ip| &ip.ip);
    vec![
        json!(pod.metadata.name),
        json!(format!("{}/{}", line.ready, line.total)),
        json!(line.status),
        json!(restarts),
        json!(age::since(pod.metadata.creation_timestamp.as_ref(), now)),
        json!(none(ip.or(status.and_then(|s| s.pod_ip.as_ref())))),
        json!(none(spec.and_then(|s| s.node_name.as_ref()))),
        json!(none(status.and_then(|s| s.nominated_node_name.as_ref()))),
        json!(readiness_gates(pod)),
    ]
}

/// Restarts that count, and when the newest happened.
#[derive(Clone, Debug, Default)]
struct Restarts {
    count: i32,
    newest: Option<Time>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count = self.count.saturating_add(container.restart_count);
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(at) = last.and_then(|last| last.finished_at.clone())
            && self.newest.as_ref().is_none_or(|newest| *newest < at)
        {
            self.newest = Some(at);
        }
    }
}

struct Line {
    ready: u32,
    total: usize,
    status: String,
    restarts: Restarts,
    sidecar_restarts: Restarts,
}

impl Line {
    fn begin(spec: &PodSpec, status: &PodStatus) -> Self {
        let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).count();
        let mut word = status.phase.clone().unwrap_or_default();
        if let Some(reason) = status.reason.as_ref().filter(|reason| !reason.is_empty()) {
            word.clone_from(reason);
        }
        let gated = |c: &k8s_openapi::api::core::v1::PodCondition| {
            c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")
        };
        if status.conditions.iter().flatten().any(gated) {
            "SchedulingGated".clone_into(&mut word);
        }
        Self {
            ready: 0,
            total: spec.containers.len() + sidecars,
            status: word,
            restarts: Restarts::default(),
            sidecar_restarts: Restarts::default(),
        }
    }

    /// Walks the init containers up to the first that is not past; true if there is one.
    fn init_containers(&mut self, spec: &PodSpec, status: &PodStatus) -> bool {
        let count = spec.init_containers.as_ref().map_or(0, Vec::len);
        for (at, container) in status.init_container_statuses.iter().flatten().enumerate() {
            self.restarts.add(container);
            let declared = spec.init_containers.iter().flatten();
            let sidecar = declared.into_iter().any(|c| c.name == container.name && is_sidecar(c));
            if sidecar {
                self.sidecar_restarts.add(container);
            }
            let state = container.state.clone().unwrap_or_default();
            if state.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
                continue;
            }
            if sidecar && container.started == Some(true) {
                self.ready += u32::from(container.ready);
                continue;
            }
            let why = match (&state.terminated, waiting_reason(&state)) {
                (Some(terminated), _) => terminated_word(terminated),
                (None, Some(reason)) if reason != "PodInitializing" => reason.to_owned(),
                (None, _) => format!("{at}/{count}"),
            };
            self.status = format!("Init:{why}");
            return true;
        }
        false
    }

    fn containers(&mut self, status: &PodStatus) {
        self.restarts = std::mem::take(&mut self.sidecar_restarts);
        let mut running = false;
        let mut error = None;
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.add(container);
            let state = container.state.clone().unwrap_or_default();
            if let Some(reason) = waiting_reason(&state) {
                reason.clone_into(&mut self.status);
            } else if let Some(terminated) = &state.terminated {
                self.status = terminated_word(terminated);
                if terminated.exit_code != 0 {
                    error = Some(self.status.clone());
                }
            } else if container.ready && state.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        // One container that is done does not make the pod look done.
        if self.status == "Completed" && running {
            self.status = if condition_is_true(status, "Ready") {
                "Running".to_owned()
            } else {
                error.unwrap_or_else(|| "NotReady".to_owned())
            };
        }
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn waiting_reason(state: &ContainerState) -> Option<&str> {
    let waiting = state.waiting.as_ref()?;
    waiting.reason.as_deref().filter(|reason| !reason.is_empty())
}

fn terminated_word(terminated: &ContainerStateTerminated) -> String {
    match (terminated.reason.as_deref(), terminated.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", terminated.exit_code),
    }
}

fn condition_is_true(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    let Some(gates) = gates.filter(|gates| !gates.is_empty()) else {
        return "<none>".to_owned();
    };
    let status = pod.status.clone().unwrap_or_default();
    let open = gates.iter().filter(|gate| condition_is_true(&status, &gate.condition_type)).count();
    format!("{open}/{}", gates.len())
}
