//! Which pods stand behind a Service, and which of them a client gets. Pure.
//!
//! Owns: endpoints as the EndpointSlice controller makes them (`staging/src/k8s.io/endpointslice`), choosing among them as
//! kube-proxy does: the ready ones; if none is, those that still serve while they end; else nobody. One after another, unless
//! the client has a pod of its own (`sessionAffinity: ClientIP`, or a flow of datagrams under way).
//! Not: addresses and policy (`egress`), nor the objects that show it (`reconciler`).
//! Limits: [`CLIENTS_MAX`] clients are remembered for each port.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::policy::NamedPort;
use crate::clock::Timestamp;
use crate::spec::{Labels, NamespacedName, PodKey, PodUid, PortRef, Service, ServicePort};

/// Clients whose pod is remembered, for each port of a Service and each reason to remember. The one quiet for longest makes
/// room; it is then treated as new, which at worst moves it to another pod.
pub const CLIENTS_MAX: usize = 1024;

/// Flows of these that one address may have. One that has more makes room among its own: else a pod with as many sockets as it may have
/// could make the Service forget where everybody else's datagrams went.
const FLOWS_OF_ONE_MAX: usize = CLIENTS_MAX / 4;

/// A flow of datagrams that was quiet for so long is a new one (`nf_conntrack_udp_timeout_stream`).
pub const FLOW_IDLE: Duration = Duration::from_secs(120);

/// A pod as Services see it.
#[derive(Clone, Debug)]
pub struct Backend<'a> {
    pub uid: &'a PodUid,
    pub key: &'a PodKey,
    pub labels: &'a Labels,
    pub ip: Ipv4Addr,
    pub ports: &'a [NamedPort],
    pub hostname: &'a str,
    pub subdomain: Option<&'a str>,
    pub state: PodState,
}

/// What of a pod's status decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodState {
    /// The condition `Ready`.
    pub ready: bool,
    /// It has been told to go.
    pub terminating: bool,
    /// `Succeeded` or `Failed`.
    pub over: bool,
}

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub uid: PodUid,
    pub pod: PodKey,
    pub ip: Ipv4Addr,
    /// Its own name below the Service's, if the Service gives it one (`spec.subdomain`).
    pub hostname: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// For each port of the Service, in its order: where this pod has it.
    pub ports: Vec<Option<u16>>,
}

/// The pods behind a Service, by name.
#[must_use]
pub fn endpoints<'a>(
    service: &Service,
    pods: impl IntoIterator<Item = Backend<'a>>,
) -> Vec<Endpoint> {
    if service.selector.is_empty() {
        return Vec::new();
    }
    let selected = |pod: &Backend<'_>| {
        let labels = &service.selector;
        pod.key.namespace == service.key.namespace
            && labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            && !pod.state.over
    };
    let mut list: Vec<Endpoint> =
        pods.into_iter().filter(selected).map(|pod| endpoint(service, &pod)).collect();
    list.sort_by(|a, b| a.pod.cmp(&b.pod));
    list
}

fn endpoint(service: &Service, pod: &Backend<'_>) -> Endpoint {
    let PodState { ready, terminating, over: _ } = pod.state;
    let named = pod.subdomain == Some(&*service.key.name);
    Endpoint {
        uid: pod.uid.clone(),
        pod: pod.key.clone(),
        ip: pod.ip,
        hostname: named.then(|| pod.hostname.to_owned()),
        ready: service.publish_not_ready || (ready && !terminating),
        serving: ready,
        terminating,
        ports: service.ports.iter().map(|port| target(port, pod.ports)).collect(),
    }
}

/// A name is looked up in the pod; one that it does not have makes it no endpoint of that port.
fn target(port: &ServicePort, ports: &[NamedPort]) -> Option<u16> {
    match &port.target {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => {
            let same = |own: &&NamedPort| own.name == *name && own.protocol == port.protocol;
            ports.iter().find(same).map(|own| own.port)
        }
    }
}

/// The endpoints of one port that traffic goes to.
pub fn usable(endpoints: &[Endpoint], port: usize) -> impl Iterator<Item = (&Endpoint, u16)> {
    let of_port = move |endpoint: &&Endpoint| endpoint.ports.get(port).copied().flatten().is_some();
    let any_ready = endpoints.iter().filter(of_port).any(|endpoint| endpoint.ready);
    let wanted = move |endpoint: &&Endpoint| {
        if any_ready { endpoint.ready } else { endpoint.serving && endpoint.terminating }
    };
    endpoints
        .iter()
        .filter(wanted)
        .filter_map(move |endpoint| Some((endpoint, endpoint.ports.get(port).copied().flatten()?)))
}

/// Addresses that a headless Service's name means: of those that are ready.
pub fn named(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
    endpoints.iter().filter(|endpoint| endpoint.ready)
}

/// Chooses a pod for each client of one port.
#[derive(Debug, Default)]
pub struct Balancer {
    next: usize,
    /// `sessionAffinity`.
    clients: Remembered<IpAddr>,
    /// Datagrams from the same socket go to the same pod.
    flows: Remembered<SocketAddr>,
}

/// Who asks for a pod.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub from: SocketAddr,
    /// Each datagram asks; those of one socket belong together.
    pub is_flow: bool,
}

impl Balancer {
    /// The endpoint for this client; `None` if there is none to be had.
    pub fn pick<'e>(
        &mut self,
        endpoints: &'e [Endpoint],
        port: usize,
        client: Client,
        affinity: Option<Duration>,
        now: Timestamp,
    ) -> Option<(&'e Endpoint, u16)> {
        let find =
            |uid: &PodUid| usable(endpoints, port).find(|(endpoint, _)| endpoint.uid == *uid);
        // A socket without a port yet has no flow to belong to.
        let flow = (client.is_flow && client.from.port() != 0).then_some(client.from);
        let known = flow.and_then(|flow| self.flows.get(&flow, FLOW_IDLE, now).and_then(find));
        let known = known.or_else(|| {
            let idle = affinity?;
            self.clients.get(&client.from.ip(), idle, now).and_then(find)
        });
        let chosen = match known {
            Some(chosen) => chosen,
            None => {
                let count = usable(endpoints, port).count();
                let turn = self.next.checked_rem(count)?;
                self.next = turn + 1;
                usable(endpoints, port).nth(turn)?
            }
        };
        if let Some(flow) = flow {
            let same = |other: &SocketAddr| other.ip() == flow.ip();
            self.flows.make_room(&flow, same, FLOWS_OF_ONE_MAX);
            self.flows.set(flow, &chosen.0.uid, now);
        }
        if affinity.is_some() {
            self.clients.make_room(&client.from.ip(), |_| true, CLIENTS_MAX);
            self.clients.set(client.from.ip(), &chosen.0.uid, now);
        }
        Some(chosen)
    }
}

/// Clients and their pods, bounded.
#[derive(Debug)]
struct Remembered<K>(HashMap<K, (PodUid, Timestamp)>);

impl<K> Default for Remembered<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq + Clone> Remembered<K> {
    fn get(&self, client: &K, idle: Duration, now: Timestamp) -> Option<&PodUid> {
        let (uid, last) = self.0.get(client)?;
        (now.since(*last) <= idle).then_some(uid)
    }

    /// Forgets the one quiet for longest where `client` is new and there is no room: among those that are `like` it, of which there may be
    /// `most`, else among all.
    fn make_room(&mut self, client: &K, like: impl Fn(&K) -> bool, most: usize) {
        if self.0.len() < most || self.0.contains_key(client) {
            return;
        }
        let of_kind = self.0.keys().filter(|key| like(key)).count() >= most;
        if !of_kind && self.0.len() < CLIENTS_MAX {
            return;
        }
        let all = self.0.iter().filter(|(key, _)| !of_kind || like(key));
        let eldest = all.min_by_key(|(_, (_, last))| *last).map(|(key, _)| key.clone());
        eldest.and_then(|eldest| self.0.remove(&eldest));
    }

    fn set(&mut self, client: K, uid: &PodUid, now: Timestamp) {
        match self.0.get_mut(&client) {
            Some(known) => {
                if known.0 != *uid {
                    known.0 = uid.clone();
                }
                known.1 = now;
            }
            None => drop(self.0.insert(client, (uid.clone(), now))),
        }
    }
}

/// What the variables of `enableServiceLinks` say of one Service (`pkg/kubelet/envvars`).
#[must_use]
pub fn variables(service: &Service) -> Vec<(String, String)> {
    let (Some(ip), Some(first)) = (service.cluster_ip(), service.ports.first()) else {
        return Vec::new();
    };
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let name = upper(&service.key.name);
    let mut list = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in &service.ports {
        if let Some(own) = &port.name {
            list.push((format!("{name}_SERVICE_PORT_{}", upper(own)), port.port.to_string()));
        }
    }
    for (index, port) in service.ports.iter().enumerate() {
        let protocol = match port.protocol {
            crate::spec::Protocol::Tcp => "tcp",
            crate::spec::Protocol::Udp => "udp",
        };
        let url = format!("{protocol}://{ip}:{}", port.port);
        if index == 0 {
            list.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, upper(protocol));
        list.push((prefix.clone(), url));
        list.push((format!("{prefix}_PROTO"), protocol.to_owned()));
        list.push((format!("{prefix}_PORT"), port.port.to_string()));
        list.push((format!("{prefix}_ADDR"), ip.to_string()));
    }
    list
}

/// A Service and its endpoints, for those who show them.
#[derive(Clone, Debug)]
pub struct Backing {
    pub service: std::sync::Arc<Service>,
    pub endpoints: std::sync::Arc<[Endpoint]>,
}

impl Backing {
    #[must_use]
    pub fn key(&self) -> &NamespacedName {
        &self.service.key
    }
}

#[cfg(test)]
#[path = "tests/service.rs"]
mod tests;
