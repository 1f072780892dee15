//! Pods in a few words, for tests.
//!
//! ```ignore
//! let pod = pod([sidecar("proxy"), regular("web").tweak(|c| c.liveness = Some(probe(5)))]);
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::spec::{
    Container, ContainerKind, ContainerName, Handler, Hook, Hooks, HttpLimits, ImageRef,
    OnMemoryLimit, Pod, PodKey, PodResources, PodUid, PortRef, Probe, PullPolicy, QosClass,
    Resources, RestartPolicy, RestartRule, RuleAction, Source, StopSignal,
    TerminationMessagePolicy,
};

/// A duration of whole seconds.
#[must_use]
pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[must_use]
pub fn regular(name: &str) -> Container {
    container(name, ContainerKind::Regular)
}

#[must_use]
pub fn init(name: &str) -> Container {
    container(name, ContainerKind::Init)
}

#[must_use]
pub fn sidecar(name: &str) -> Container {
    container(name, ContainerKind::Sidecar)
}

/// A container with Kubernetes' defaults and nothing else.
#[must_use]
pub fn container(name: &str, kind: ContainerKind) -> Container {
    Container {
        name: ContainerName::new(name),
        kind,
        image: ImageRef::Named {
            text: format!("{name}:1").into(),
            name: name.into(),
            tag: "1".into(),
        },
        pull_policy: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        env_from: Vec::new(),
        env: Vec::new(),
        ports: Vec::new(),
        mounts: Vec::new(),
        resources: Resources::default(),
        startup: None,
        liveness: None,
        readiness: None,
        hooks: Hooks::default(),
        restart_policy: None,
        restart_rules: Vec::new(),
        termination_message_path: "/dev/termination-log".to_owned(),
        termination_message_policy: TerminationMessagePolicy::File,
        stop_signal: StopSignal::Lifecycle,
        on_memory_limit: OnMemoryLimit::Kill,
        log_bytes_per_second: crate::limits::LOG_BYTES_PER_SECOND,
        http: HttpLimits::default(),
        stdin: false,
    }
}

/// A TCP probe with Kubernetes' default thresholds, asked every `period` seconds.
#[must_use]
pub fn probe(period: u64) -> Probe {
    Probe {
        handler: Handler::TcpSocket { port: PortRef::Number(80), host: None },
        initial_delay: Duration::ZERO,
        timeout: secs(1),
        period: secs(period),
        success_threshold: NonZeroU32::MIN,
        failure_threshold: threshold(3),
        grace: None,
    }
}

/// # Panics
/// With zero, which is no threshold.
#[must_use]
pub fn threshold(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("a test's threshold is at least 1")
}

/// A hook whose handler does not matter.
#[must_use]
pub fn hook() -> Hook {
    Hook::Sleep(secs(1))
}

/// A rule for these exit codes.
#[must_use]
pub fn rule(action: RuleAction, codes: &[i32]) -> RestartRule {
    RestartRule { action, within: true, codes: codes.to_vec() }
}

/// Changes a value in passing.
pub trait Tweak: Sized {
    #[must_use]
    fn tweak(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tweak for Container {}
impl Tweak for Probe {}
impl Tweak for Pod {}

/// A pod of these containers: init containers and sidecars in this order, then regular ones; Always, 30 s of grace, in namespace `default`.
#[must_use]
pub fn pod(containers: impl IntoIterator<Item = Container>) -> Pod {
    let (init_containers, containers) =
        containers.into_iter().partition(|c| c.kind != ContainerKind::Regular);
    Pod {
        key: PodKey::new("default", "p"),
        uid: PodUid::new("u1"),
        source: Source::Api,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 1,
        init_containers,
        containers,
        restart_policy: RestartPolicy::Always,
        grace: secs(30),
        active_deadline: None,
        volumes: Vec::new(),
        hostname: "p".to_owned(),
        subdomain: None,
        host_aliases: Vec::new(),
        network: crate::spec::PodNetwork::default(),
        resources: PodResources::default(),
        qos: QosClass::BestEffort,
        readiness_gates: Vec::new(),
        priority: 0,
        service_account: None,
        image_pull_secrets: Vec::new(),
    }
}
