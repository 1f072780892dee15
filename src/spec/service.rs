//! A Service: one name and one address in front of the pods that match a selector.
//!
//! Owns: the validated object. Not: which pods are behind it (`fabric`), nor what it looks like on the wire (`manifest`).

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Labels, NamespacedName, PortRef, Protocol};

/// A validated Service of type ClusterIP, headless, or NodePort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: NamespacedName,
    /// Empty: no pod is meant, so the Service has no endpoints.
    pub selector: Labels,
    pub address: ServiceAddress,
    /// May be empty for a headless Service only: a name for pods, whatever ports they have.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`: how long a client stays with its pod after it was last heard of.
    pub affinity: Option<Duration>,
    /// `publishNotReadyAddresses`: pods count as ready whether they are or not.
    pub publish_not_ready: bool,
}

impl Service {
    /// The cluster IP, if it has one.
    #[must_use]
    pub fn cluster_ip(&self) -> Option<Ipv4Addr> {
        match self.address {
            ServiceAddress::ClusterIp(ip) => Some(ip),
            ServiceAddress::Headless | ServiceAddress::Unassigned => None,
        }
    }
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceAddress {
    /// At an address of its own.
    ClusterIp(Ipv4Addr),
    /// `clusterIP: None`: its name means its pods' addresses.
    Headless,
    /// The node has not given it an address yet. Only while an object is taken in.
    Unassigned,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Option<String>,
    pub protocol: Protocol,
    /// Where clients connect to.
    pub port: u16,
    /// Where the pods listen; a name is looked up in each pod's own ports.
    pub target: PortRef,
    /// The port of the host, for a Service of type NodePort.
    pub node_port: Option<u16>,
}
