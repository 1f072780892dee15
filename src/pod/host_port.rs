//! Published ports: real listeners of the daemon in front of the pod's virtual network.
//!
//! Owns: `hostPort` for TCP and UDP. They stay open while modules restart: a connection that arrives meanwhile waits, within a
//! bound, for the module to listen again. Not: what may be published (`manifest` validates).
//!
//! ```text
//!  client ──kernel──► listener ──► pump ──virtual network──► module's listener on POD_IP:containerPort
//!                        └► waits: nobody listens there yet, or not now
//! ```
//!
//! Modules see the client's own address over TCP, if it is of the pod's family; over UDP each client is a socket of the daemon
//! inside the pod, so that answers find back.

mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::net::Member;
use crate::outside::stats::Traffic;
use crate::spec::{Pod, PodKey, Port, Protocol};

/// Sockets in the pod that all its published ports may have together: connections and UDP clients of a handful of ports.
pub const SOCKETS_MAX: usize = 2048;

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// In the words of Kubernetes' scheduler, and then whose it is.
    #[error(
        "1 node(s) didn't have free ports for the requested pod ports: port {port} of container {container} wants {address} \
         ({protocol}), which pod {holder} has"
    )]
    Held { port: u16, container: String, address: SocketAddr, protocol: &'static str, holder: PodKey },
    #[error("cannot publish port {port} of container {container} on {address} ({protocol})")]
    Bind {
        port: u16,
        container: String,
        address: SocketAddr,
        protocol: &'static str,
        source: io::Error,
    },
}

/// Who has published what on this node: for telling a person, when the kernel says that a port is taken, by whom.
#[derive(Clone, Debug, Default)]
pub struct HostPorts(Arc<Mutex<BTreeMap<(Protocol, u16), Vec<(SocketAddr, PodKey)>>>>);

impl HostPorts {
    fn holder(&self, protocol: Protocol, wanted: SocketAddr) -> Option<PodKey> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = table.get(&(protocol, wanted.port()))?;
        let overlaps = |held: &SocketAddr| {
            let any = held.ip().is_unspecified() || wanted.ip().is_unspecified();
            held.ip() == wanted.ip() || any
        };
        held.iter().find(|(address, _)| overlaps(address)).map(|(_, pod)| pod.clone())
    }

    fn note(&self, protocol: Protocol, address: SocketAddr, pod: &PodKey) -> Held {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.entry((protocol, address.port())).or_default().push((address, pod.clone()));
        Held { ports: self.clone(), protocol, address }
    }
}

/// An entry of [`HostPorts`], for as long as the port is held.
#[derive(Debug)]
struct Held {
    ports: HostPorts,
    protocol: Protocol,
    address: SocketAddr,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.ports.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.protocol, self.address.port());
        if let Some(held) = table.get_mut(&key) {
            // The kernel gives an address to one holder only.
            held.retain(|(address, _)| *address != self.address);
            if held.is_empty() {
                table.remove(&key);
            }
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// One port, and what went through it.
#[derive(Debug)]
pub struct PublishedPort {
    pub protocol: Protocol,
    /// Where the host listens.
    pub address: SocketAddr,
    pub container_port: u16,
    pub traffic: Traffic,
}

/// Bound, not yet served.
#[derive(Debug)]
pub struct PublishedPorts {
    bound: Vec<(Socket, Held, Arc<PublishedPort>)>,
}

impl PublishedPorts {
    /// Binds every `hostPort` of the pod, or none.
    ///
    /// # Errors
    /// With the first port that the host does not give.
    pub async fn bind(pod: &Pod, host_ports: &HostPorts) -> Result<Self, PublishError> {
        let mut bound = vec![];
        for container in pod.all_containers() {
            for port in &container.ports {
                let Some(address) = published_address(port) else { continue };
                let protocol = port.protocol;
                let socket = open(protocol, address).await.map_err(|source| {
                    let (port, container) = (port.container_port, container.name.to_string());
                    let held = || host_ports.holder(protocol, address);
                    let taken = source.kind() == io::ErrorKind::AddrInUse;
                    let protocol = protocol_name(protocol);
                    match taken.then(held).flatten() {
                        Some(holder) => {
                            PublishError::Held { port, container, address, protocol, holder }
                        }
                        None => PublishError::Bind { port, container, address, protocol, source },
                    }
                })?;
                let held = host_ports.note(protocol, address, &pod.key);
                let published = PublishedPort {
                    protocol,
                    address,
                    container_port: port.container_port,
                    traffic: Traffic::default(),
                };
                bound.push((socket, held, Arc::new(published)));
            }
        }
        Ok(Self { bound })
    }

    /// The ports, to be looked at while they are served.
    #[must_use]
    pub fn ports(&self) -> Vec<Arc<PublishedPort>> {
        self.bound.iter().map(|(_, _, port)| Arc::clone(port)).collect()
    }

    /// Starts serving on behalf of `host`, a member of the pod's network, until `stop`. When the returned tasks have ended, the
    /// ports are free again.
    pub fn serve(
        self,
        host: &Arc<Member>,
        pod_ip: IpAddr,
        clock: Clock,
        stop: &CancellationToken,
    ) -> TaskTracker {
        let tasks = TaskTracker::new();
        for (socket, held, port) in self.bound {
            let to = SocketAddr::new(pod_ip, port.container_port);
            let way = Way {
                host: Arc::clone(host),
                to,
                port,
                clock,
                stop: stop.clone(),
                tasks: tasks.clone(),
            };
            match socket {
                Socket::Tcp(listener) => {
                    tasks.spawn(async move {
                        tcp::serve(listener, way).await;
                        drop(held);
                    });
                }
                Socket::Udp(socket) => {
                    tasks.spawn(async move {
                        udp::serve(Arc::new(socket), way).await;
                        drop(held);
                    });
                }
            }
        }
        tasks.close();
        tasks
    }
}

/// Where a published port leads, and who sees to it.
#[derive(Clone, Debug)]
struct Way {
    host: Arc<Member>,
    to: SocketAddr,
    port: Arc<PublishedPort>,
    clock: Clock,
    stop: CancellationToken,
    tasks: TaskTracker,
}

async fn open(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    match protocol {
        Protocol::Tcp => TcpListener::bind(address).await.map(Socket::Tcp),
        Protocol::Udp => UdpSocket::bind(address).await.map(Socket::Udp),
    }
}

/// Where a port is published on the host: `hostIP`, else every address, as in Kubernetes.
#[must_use]
pub fn published_address(port: &Port) -> Option<SocketAddr> {
    let ip = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    port.host_port.map(|host_port| SocketAddr::new(ip, host_port))
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

#[cfg(test)]
mod tests;
