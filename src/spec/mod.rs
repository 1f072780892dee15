//! What a pod *is* to podling: validated, defaulted, immutable.
//!
//! Owns: the types that the inside of the program speaks. Not: how a manifest spells them (`manifest` lowers
//! `k8s-openapi` objects into these and is the only maker of a [`Pod`] outside tests), nor what a pod is doing
//! (`lifecycle`). Nothing here is serialisable, on purpose: the wire has its own types.
//!
//! A wrong value cannot be written down where a type can prevent it; what types cannot prevent, `manifest::lower`
//! has checked. So readers of these types need no further validation.

pub mod container;
pub mod env;
pub mod exit;
pub mod http;
pub mod loopback;
pub mod names;
pub mod network;
pub mod pod;
pub mod policy;
pub mod probe;
pub mod resources;
pub mod selector;
pub mod service;
pub mod volume;

pub use container::{
    Container, ContainerKind, ContainerRestartPolicy, Hook, Hooks, OnMemoryLimit, Port, Protocol,
    PullPolicy, RestartRule, RuleAction, StopSignal, TerminationMessagePolicy,
};
pub use env::{EnvFrom, EnvFromSource, EnvSource, EnvVar, FieldPath, ResourceField};
pub use exit::Exit;
pub use http::HttpLimits;
pub use loopback::HostPort;
pub use names::{ContainerName, ImageRef, NamespacedName, PodKey, PodUid};
pub use network::{
    AddressRange, DnsConfig, NODE_PORTS, POD_RANGE, PodNetwork, SERVICE_RANGE, host_number,
    name_hash,
};
pub use pod::{HostAlias, Pod, QosClass, Redefinition, RestartPolicy, Source};
pub use policy::{
    Cidr, IpBlock, NamePattern, NamePorts, NameRule, NetworkPolicy, PolicyPeer, PolicyPort,
    PolicyRule, PortMatch,
};
pub use probe::{Handler, HttpGet, HttpScheme, PortRef, Probe, ProbeKind};
pub use resources::{PodResources, Resources};
pub use selector::{LabelSelector, Labels, Operator, Requirement};
pub use service::{Service, ServiceAddress, ServicePort};
pub use volume::{
    HostPathType, KeyToPath, Mount, ProjectedSource, SubPath, Volume, VolumeMedium, VolumeSource,
};
