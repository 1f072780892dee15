//! The pod: a logical host with its modules.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Container, ContainerKind, ContainerName, ImageRef, PodKey, PodNetwork, PodResources, PodUid,
    Volume,
};

/// A validated, defaulted pod. See `docs/manifest.md` for the fields it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub key: PodKey,
    pub uid: PodUid,
    pub source: Source,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `metadata.generation`: 1 at creation, +1 with each effective change of the spec.
    pub generation: i64,
    /// Regular init containers and sidecars, in the order of the manifest.
    pub init_containers: Vec<Container>,
    /// Regular containers; never empty.
    pub containers: Vec<Container>,
    pub restart_policy: RestartPolicy,
    /// `terminationGracePeriodSeconds`; a negative one is stored as 1 s, as Kubernetes does.
    pub grace: Duration,
    /// `activeDeadlineSeconds`, counted from the status' start time.
    pub active_deadline: Option<Duration>,
    pub volumes: Vec<Volume>,
    /// `spec.hostname` or the pod's name, cut to 63 characters as Kubernetes does.
    pub hostname: String,
    pub subdomain: Option<String>,
    pub host_aliases: Vec<HostAlias>,
    pub network: PodNetwork,
    /// `spec.resources`, the pod-level limits.
    pub resources: PodResources,
    pub qos: QosClass,
    /// Condition types that must be True for the pod to be Ready (`readinessGates`).
    pub readiness_gates: Vec<String>,
    pub priority: i32,
    pub service_account: Option<String>,
    /// Secrets with credentials for registries (`imagePullSecrets`), by name.
    pub image_pull_secrets: Vec<String>,
}

impl Pod {
    /// All containers of the pod: init and sidecars first, each list in manifest order.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The container of that name, of whatever kind.
    #[must_use]
    pub fn container(&self, name: &ContainerName) -> Option<&Container> {
        self.all_containers().find(|c| &c.name == name)
    }

    /// What the pod requests of the CPUs once it runs, thousandths of a core: at its own level, or the sum of its regular containers and
    /// sidecars; `None`: nothing.
    #[must_use]
    pub fn cpu_request_millis(&self) -> Option<u64> {
        let runs =
            |c: &&Container| matches!(c.kind, ContainerKind::Regular | ContainerKind::Sidecar);
        let requests =
            self.all_containers().filter(runs).filter_map(|c| c.resources.cpu_request_millis);
        self.resources.cpu_request_millis.or_else(|| requests.reduce(u64::saturating_add))
    }

    /// What the pod may have of the CPUs, thousandths of a core: at its own level, or what its containers may have together, if each
    /// has a limit (the kubelet's `ResourceConfigForPod`). An init container runs before those that come after it.
    #[must_use]
    pub fn cpu_limit_millis(&self) -> Option<u64> {
        if self.resources.cpu_limit_millis.is_some() {
            return self.resources.cpu_limit_millis;
        }
        let (mut sidecars, mut most) = (0_u64, 0);
        for container in &self.init_containers {
            let limit = container.resources.cpu_limit_millis?;
            most = most.max(sidecars.saturating_add(limit));
            if container.kind == ContainerKind::Sidecar {
                sidecars = sidecars.saturating_add(limit);
            }
        }
        let limits = self.containers.iter().map(|c| c.resources.cpu_limit_millis);
        let regular = limits.reduce(|sum, limit| Some(sum?.saturating_add(limit?)))??;
        Some(most.max(sidecars.saturating_add(regular)))
    }

    /// What of the pod may change while it runs, as it is now.
    #[must_use]
    pub fn redefinition(&self) -> Redefinition {
        let image = |c: &Container| (c.name.clone(), c.image.clone());
        Redefinition {
            generation: self.generation,
            images: self.all_containers().map(image).collect(),
            active_deadline: self.active_deadline,
        }
    }

    /// The same pod as `to` says. An image of a container that it does not have is nobody's.
    #[must_use]
    pub fn redefined(&self, to: &Redefinition) -> Self {
        let mut pod = self.clone();
        (pod.generation, pod.active_deadline) = (to.generation, to.active_deadline);
        for container in pod.init_containers.iter_mut().chain(&mut pod.containers) {
            if let Some((_, image)) = to.images.iter().find(|(name, _)| *name == container.name) {
                container.image.clone_from(image);
            }
        }
        pod
    }

    /// Whether any init container is a sidecar (`restartPolicy: Always`).
    #[must_use]
    pub fn has_sidecars(&self) -> bool {
        self.init_containers.iter().any(|c| c.kind == ContainerKind::Sidecar)
    }
}

/// All that may change of a pod that runs (`manifest::update` has the rule): which images its containers are of, and how long it may be
/// active. Everything else is as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redefinition {
    /// `metadata.generation` of the object that says so; shown as `observedGeneration` once it is acted upon.
    pub generation: i64,
    pub images: Vec<(ContainerName, ImageRef)>,
    pub active_deadline: Option<Duration>,
}

/// Who asked for this pod. Shown in its status; decides who may change it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A manifest file of the watched folder (a static pod).
    Folder(PathBuf),
    /// The local API.
    Api,
    /// `podling play FILE`.
    Play(PathBuf),
    /// A signed intent over MQTT.
    Mqtt,
}

impl Source {
    /// Kubernetes' word for it (`kubernetes.io/config.source`).
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Folder(_) | Self::Play(_) => "file",
            Self::Api => "api",
            Self::Mqtt => "mqtt",
        }
    }

    /// Whether `image: file:PATH` is allowed: only where the manifest itself is a local file that an operator of
    /// this machine wrote.
    #[must_use]
    pub fn may_name_files(&self) -> bool {
        matches!(self, Self::Folder(_) | Self::Play(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::Play(path) => write!(f, "file {}", path.display()),
            Self::Api => f.write_str("api"),
            Self::Mqtt => f.write_str("mqtt"),
        }
    }
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// `status.qosClass`, as `pkg/apis/core/v1/helper/qos` computes it from cpu and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// One entry of `spec.hostAliases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAlias {
    pub ip: IpAddr,
    pub hostnames: Vec<String>,
}
