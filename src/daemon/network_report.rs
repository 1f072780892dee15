//! A pod's network for the API: what `podling net` shows, and the way in for `port-forward`.
//!
//! Owns: translating. Is not: counting, nor carrying.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::net::{ConnectError, SocketInfo, Stream};
use crate::outside::stats::TrafficSnapshot;
use crate::pod::networks::PodNetwork;
use crate::server::backend::{Forward, ForwardError};
use crate::server::network::{
    ContainerTraffic, Counters, FlowRow, Names, NetworkReport, PublishedRow, SocketRow, counters,
};
use crate::spec::Protocol;

/// How long a forwarded connection waits for room in a listener's queue.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pod's network as it is now.
pub(super) fn report(network: &PodNetwork) -> NetworkReport {
    let net = &network.net;
    let mut sockets = net.sockets();
    sockets.sort_by_cached_key(order);
    let by_container = |(name, all): (Box<str>, crate::net::CounterSnapshot)| ContainerTraffic {
        name: name.into(),
        counters: counters(all.rows()),
    };
    NetworkReport {
        kind: "PodNetwork".to_owned(),
        api_version: "podling.dev/v1".to_owned(),
        metadata: Names {
            namespace: network.key.namespace.to_string(),
            name: network.key.name.to_string(),
            uid: network.uid.to_string(),
        },
        pod_ip: net.pod_ip().to_string(),
        open_sockets: net.open_sockets() as u64,
        buffered_bytes: net.buffered_bytes() as u64,
        sockets: sockets.iter().map(socket_row).collect(),
        containers: net.member_counters().into_iter().map(by_container).collect(),
        published: network
            .published
            .iter()
            .map(|port| PublishedRow {
                protocol: spelled(port.protocol).to_owned(),
                address: port.address.to_string(),
                container_port: port.container_port,
                counters: traffic(port.traffic.snapshot()),
            })
            .collect(),
        flows: flows(network),
        outside: traffic(network.outside.traffic().snapshot()),
        forwarded: traffic(network.forwarded.snapshot()),
    }
}

/// Listeners first, as a person looks for them first.
fn order(socket: &SocketInfo) -> (String, bool, String, Option<SocketAddr>, Option<SocketAddr>) {
    let open = socket.remote.is_some();
    (socket.protocol.to_string(), open, socket.member.clone(), socket.local, socket.remote)
}

fn socket_row(socket: &SocketInfo) -> SocketRow {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    SocketRow {
        container: socket.member.clone(),
        protocol: socket.protocol.to_string(),
        state: socket.state.to_string(),
        receive_queue: socket.receive_queue,
        send_queue: socket.send_queue,
        local: text(socket.local),
        remote: text(socket.remote),
        via: text(socket.via),
    }
}

fn flows(network: &PodNetwork) -> Vec<FlowRow> {
    let mut flows = network.outside.flows();
    flows.sort_unstable();
    let row = |(local, remote, via): (SocketAddr, SocketAddr, Option<SocketAddr>)| FlowRow {
        local: local.to_string(),
        remote: remote.to_string(),
        via: via.map(|via| via.to_string()),
    };
    flows.into_iter().map(row).collect()
}

fn traffic(snapshot: TrafficSnapshot) -> Counters {
    // What never happened says nothing: a published TCP port has no datagrams.
    counters(snapshot.rows().filter(|(_, value)| *value > 0))
}

fn spelled(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// Connects to a port as Kubernetes' port-forward does, to the pod's `localhost`; a module that listens on the pod's address alone
/// is found there.
pub(super) async fn forward(network: &Arc<PodNetwork>, port: u16) -> Result<Forward, ForwardError> {
    let places = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((network.net.pod_ip(), port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let mut refused = ForwardError::Refused;
    for to in places {
        match connect(network, to).await {
            Ok(stream) => {
                let traffic = Arc::clone(&network.forwarded);
                return Ok(Forward { stream, traffic });
            }
            Err(ForwardError::Refused) => {}
            Err(error) => refused = error,
        }
    }
    network.forwarded.connections_failed.add(1);
    Err(refused)
}

async fn connect(network: &PodNetwork, to: SocketAddr) -> Result<Stream, ForwardError> {
    let connecting = network.host.connect(to).map_err(refusal)?;
    match tokio::time::timeout(ACCEPT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(refusal),
        Err(_) => Err(ForwardError::TimedOut),
    }
}

fn refusal(error: ConnectError) -> ForwardError {
    match error {
        ConnectError::Refused(_) | ConnectError::Unreachable(_) | ConnectError::Denied(_) => {
            ForwardError::Refused
        }
        ConnectError::TimedOut(_) => ForwardError::TimedOut,
        ConnectError::Open(_) | ConnectError::NoPort => ForwardError::Limit,
        ConnectError::InvalidAddress(_) | ConnectError::InvalidState => ForwardError::NotRunning,
    }
}
