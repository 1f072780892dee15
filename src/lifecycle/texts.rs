//! Kubernetes' words for what happens: event and status texts of release 1.36.
//!
//! Owns: the spelling. Not: when something is said. They are part of what users and their tools rely on
//! (`KUBELET.md` 3, 5, 8, 9, 15, 19, 24), so they stand in one file and not between the rules.

use std::time::Duration;

use crate::spec::{Container, ContainerName, Pod};

use super::PodEvent;

pub const BACK_OFF: &str = "BackOff";
pub const FAILED: &str = "Failed";
pub const KILLING: &str = "Killing";
pub const UNHEALTHY: &str = "Unhealthy";

pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
pub const COMPILING: &str = "Compiling";
/// As the node's own condition says it.
pub const MEMORY_IS_TIGHT: &str = "MemoryIsTight";
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
pub const RUN_CONTAINER_ERROR: &str = "RunContainerError";
pub const POST_START_HOOK_ERROR: &str = "PostStartHookError";
pub const CONTAINER_CREATING: &str = "ContainerCreating";
pub const POD_INITIALIZING: &str = "PodInitializing";
pub const CONTAINER_STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
pub const RESTARTING_ALL: &str = "RestartingAllContainers";
pub const RESTARTING_ALL_MESSAGE: &str =
    "The container is removed because RestartAllContainers in place";
pub const NOT_LOCATED: &str = "The container could not be located when the pod was terminated";
pub const POD_WAS_REJECTED: &str = "Pod was rejected: ";
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
pub const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// An event about one container.
pub fn about(
    container: &ContainerName,
    warning: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> PodEvent {
    PodEvent { warning, reason, message: message.into(), container: Some(container.clone()) }
}

/// An event about the pod as a whole.
pub fn about_pod(warning: bool, reason: &'static str, message: impl Into<String>) -> PodEvent {
    PodEvent { warning, reason, message: message.into(), container: None }
}

/// `POD_NAMESPACE(UID)`, as Kubernetes' messages name a pod.
fn pod_name(pod: &Pod) -> String {
    format!("{}_{}({})", pod.key.name, pod.key.namespace, pod.uid)
}

/// Message of `waiting.reason: CrashLoopBackOff`.
pub fn crash_loop(pod: &Pod, container: &ContainerName, delay: Duration) -> String {
    let delay = go_duration(delay);
    format!("back-off {delay} restarting failed container={container} pod={}", pod_name(pod))
}

/// Message of the `BackOff` event of a crash loop.
pub fn crash_loop_event(pod: &Pod, container: &ContainerName) -> String {
    format!("Back-off restarting failed container {container} in pod {}", pod_name(pod))
}

pub fn pulling(container: &Container) -> String {
    format!("Pulling image \"{}\"", container.image)
}

pub fn pulled(container: &Container, took: Duration) -> String {
    let took = go_duration(took);
    let image = &container.image;
    format!("Successfully pulled image \"{image}\" in {took} ({took} including waiting).")
}

pub fn present(container: &Container) -> String {
    let image = &container.image;
    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
}

pub fn pull_failed(container: &Container, error: &str) -> String {
    format!("Failed to pull image \"{}\": {error}", container.image)
}

pub fn pull_back_off(container: &Container) -> String {
    format!("Back-off pulling image \"{}\"", container.image)
}

pub fn compiling(container: &Container, digest: &str) -> String {
    format!("Compiling the module of image \"{}\" ({digest}) for this machine", container.image)
}

/// Why an image is not fetched.
pub fn fetch_held(container: &Container) -> String {
    format!("Image \"{}\" waits to be fetched: {TIGHT}", container.image)
}

/// Why a module is not compiled.
pub fn compile_held(container: &Container, digest: &str) -> String {
    let image = &container.image;
    format!("The module of image \"{image}\" ({digest}) waits to be compiled: {TIGHT}")
}

/// What the two have in common.
const TIGHT: &str = "memory is tight on the node, and nothing new is compiled or fetched; it goes on by itself when that is over";

/// As Kubernetes tells of images, it distinguishes how long it took from how long it was waited for.
pub fn compiled(
    container: &Container,
    digest: &str,
    took: Option<Duration>,
    waited: Duration,
) -> String {
    let module = format!("module of image \"{}\" ({digest})", container.image);
    let waited = go_duration(waited);
    match took {
        Some(took) => {
            let took = go_duration(took);
            format!("Successfully compiled the {module} in {took} ({waited} including waiting).")
        }
        None => format!(
            "The {module} was compiled for another container meanwhile ({waited} of waiting)."
        ),
    }
}

/// Message of a `Killing` event for a run that a probe condemned.
pub fn killing_for_probe(container: &Container, probe: &str, again: bool) -> String {
    use crate::spec::ContainerKind as Kind;
    let name = &container.name;
    match container.kind {
        // Kubernetes says it of init containers without the suffix.
        Kind::Init | Kind::Sidecar => format!("Init container {name} failed {probe} probe"),
        Kind::Regular | Kind::Ephemeral if again => {
            format!("Container {name} failed {probe} probe, will be restarted")
        }
        Kind::Regular | Kind::Ephemeral => format!("Container {name} failed {probe} probe"),
    }
}

/// Message of a `Killing` event for a run whose container is to run another image. As above: it is restarted whatever its kind.
pub fn killing_for_definition(container: &Container) -> String {
    use crate::spec::ContainerKind as Kind;
    let name = &container.name;
    match container.kind {
        Kind::Init | Kind::Sidecar => format!("Init container {name} definition changed"),
        Kind::Regular | Kind::Ephemeral => {
            format!("Container {name} definition changed, will be restarted")
        }
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`, `1.5s`, `250ms`.
#[must_use]
pub fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if millis == 0 {
        String::new()
    } else {
        format!(".{millis:03}").trim_end_matches('0').to_owned()
    };
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        (_, _) => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn durations_print_as_go_prints_them() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1500, "1.5s"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_601_034, "1h0m1.034s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
