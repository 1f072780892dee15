//! Published ports: real listeners of the daemon in front of the pod's virtual network.
//!
//! Owns: `hostPort` for TCP and UDP. They stay open while modules restart: a connection that arrives meanwhile, or that the run that
//! ended had not accepted, waits within a bound for the module to listen again. Not: what may be published (`manifest` validates).
//!
//! ```text
//!  client ──kernel──► listener ──► pump ──virtual network──► module's listener on POD_IP:containerPort
//!                        └► waits: nobody listens there yet, or not now
//! ```
//!
//! All of this is on the pod's bill: its processor time. Ports of Services on the node (`node_ports`) have none: they lead to many pods.
//!
//! Policy is asked for each client (`fabric`). Modules see the client's own address over TCP, if it is of the pod's family; over UDP each client is a socket of the daemon
//! inside the pod, so that answers find back.

mod ends;
mod shelf;
mod tcp;
mod udp;

pub use shelf::{Kept, Shelf};

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::fabric::{self, Fabric};
use crate::net::Member;
use crate::outside::stats::Traffic;
use crate::runtime::Carriers;
use crate::spec::{Pod, PodUid, Port, Protocol};

/// Sockets in the pod that all its published ports may have together: connections and UDP clients of a handful of ports.
pub const SOCKETS_MAX: usize = 2048;

/// Why a port could not be published. That pods do not want the same one is seen to before (`admission`); this is about other
/// programs of the host, and pods that are just ending.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot publish port {port} of container {container} on {address} ({protocol}){}",
    hint(source)
)]
pub struct PublishError {
    port: u16,
    container: String,
    address: SocketAddr,
    protocol: &'static str,
    source: io::Error,
}

/// What may be done about it.
fn hint(source: &io::Error) -> &'static str {
    let hints = [
        (
            io::ErrorKind::AddrInUse,
            ", which another program of this machine has (ss -lntup shows it), or a pod that is just ending",
        ),
        (io::ErrorKind::AddrNotAvailable, ", an address that this machine does not have (hostIP)"),
        (
            io::ErrorKind::PermissionDenied,
            ", for which the daemon lacks the right (ports below 1024: root or CAP_NET_BIND_SERVICE)",
        ),
    ];
    hints.into_iter().find(|(kind, _)| *kind == source.kind()).map_or("", |(_, hint)| hint)
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
    bound: Vec<(Socket, Arc<PublishedPort>)>,
}

impl PublishedPorts {
    /// Binds every `hostPort` of the pod, or none. What its earlier form left open is taken over.
    ///
    /// # Errors
    /// With the first port that the host does not give.
    pub async fn bind(pod: &Pod, shelf: &Shelf) -> Result<Self, PublishError> {
        let mut bound = vec![];
        for container in pod.all_containers() {
            for port in &container.ports {
                let Some(address) = published_address(port) else { continue };
                let opened = match shelf.take(&pod.uid, port.protocol, address) {
                    Some(socket) => revive(port.protocol, socket),
                    None => open(port.protocol, address).await,
                };
                let socket = opened.map_err(|source| PublishError {
                    port: port.container_port,
                    container: container.name.to_string(),
                    address,
                    protocol: protocol_name(port.protocol),
                    source,
                })?;
                let published = PublishedPort {
                    protocol: port.protocol,
                    address,
                    container_port: port.container_port,
                    traffic: Traffic::default(),
                };
                bound.push((socket, Arc::new(published)));
            }
        }
        Ok(Self { bound })
    }

    /// The ports, to be looked at while they are served.
    #[must_use]
    pub fn ports(&self) -> Vec<Arc<PublishedPort>> {
        self.bound.iter().map(|(_, port)| Arc::clone(port)).collect()
    }

    /// A second descriptor of each socket: it stays open when nobody serves it any more. Of one that cannot be had the port is
    /// opened anew.
    #[must_use]
    pub fn keep(&self) -> Vec<Kept> {
        let kept = self.bound.iter().filter_map(|(socket, port)| {
            let descriptor = match socket {
                Socket::Tcp(listener) => listener.as_fd(),
                Socket::Udp(socket) => socket.as_fd(),
            };
            let socket = descriptor.try_clone_to_owned().ok()?;
            Some(Kept { protocol: port.protocol, address: port.address, socket })
        });
        kept.collect()
    }

    /// Starts serving for the pod behind `door`, until `stop`; new TCP clients until `closed`. TCP is carried by `carriers`. When
    /// the returned tasks have ended, the ports are free again.
    pub fn serve(
        self,
        door: &PodDoor,
        carriers: &Carriers,
        clock: Clock,
        stop: &CancellationToken,
        closed: &CancellationToken,
    ) -> TaskTracker {
        let tasks = TaskTracker::new();
        for (socket, port) in self.bound {
            let leads = Arc::new(Published { door: door.clone(), port: Arc::clone(&port) });
            let (stop, closed) = (stop.clone(), closed.clone());
            let (carriers, tasks) = (Some(carriers.clone()), tasks.clone());
            serve_one(socket, Entrance { leads, port, clock, stop, closed, carriers, tasks });
        }
        tasks.close();
        tasks
    }
}

/// Opens one port of the host that leads to whomever `leads` finds, until `stop`.
///
/// # Errors
/// If the host does not give it.
pub async fn open_port(
    port: Arc<PublishedPort>,
    leads: Arc<dyn Leads>,
    clock: Clock,
    stop: CancellationToken,
) -> io::Result<TaskTracker> {
    let socket = open(port.protocol, port.address).await?;
    let tasks = TaskTracker::new();
    let (closed, theirs) = (stop.clone(), tasks.clone());
    let entrance = Entrance { leads, port, clock, stop, closed, carriers: None, tasks: theirs };
    serve_one(socket, entrance);
    tasks.close();
    Ok(tasks)
}

fn serve_one(socket: Socket, entrance: Entrance) {
    let (tasks, port) = (entrance.tasks.clone(), Arc::clone(&entrance.port));
    let bill = &port.traffic.bill;
    match socket {
        Socket::Tcp(listener) => {
            drop(tasks.spawn(bill.pays_for(tcp::serve(listener, entrance))));
        }
        Socket::Udp(socket) => {
            drop(tasks.spawn(bill.pays_for(udp::serve(Arc::new(socket), entrance))));
        }
    }
}

/// Whom clients of a port of the host get.
pub trait Leads: Send + Sync + fmt::Debug {
    /// For a client: a member of the pod's network on whose behalf to connect, and the address there. `None`: it is refused.
    fn find(&self, client: SocketAddr) -> Option<(Arc<Member>, SocketAddr)>;

    /// Whether a client that was led to `to` before may go there now. Asked again when [`Leads::generation`] is another: a policy
    /// that changes is noticed by datagrams, which have no connection that could stand.
    fn still(&self, client: SocketAddr, to: SocketAddr) -> bool;

    /// Another number after anything that the answers depend on has changed.
    fn generation(&self) -> u64;
}

/// The way into one pod from the host.
#[derive(Clone, Debug)]
pub struct PodDoor {
    /// On whose behalf connections from the host are made.
    pub host: Arc<Member>,
    pub ip: IpAddr,
    pub uid: PodUid,
    /// Asked whether policy lets a client in.
    pub fabric: Fabric,
}

#[derive(Debug)]
struct Published {
    door: PodDoor,
    port: Arc<PublishedPort>,
}

impl Leads for Published {
    fn find(&self, client: SocketAddr) -> Option<(Arc<Member>, SocketAddr)> {
        let (door, port) = (&self.door, &self.port);
        let to = SocketAddr::new(door.ip, port.container_port);
        let admitted = admitted(&door.fabric, &door.uid, client, port.protocol, to.port());
        admitted.then(|| (Arc::clone(&door.host), to))
    }

    fn still(&self, client: SocketAddr, to: SocketAddr) -> bool {
        let (door, protocol) = (&self.door, self.port.protocol);
        admitted(&door.fabric, &door.uid, client, protocol, to.port())
    }

    fn generation(&self) -> u64 {
        self.door.fabric.generation()
    }
}

/// Whether policy lets a client of the host into the pod. The node itself always may (Kubernetes: "traffic to and from the node
/// where a Pod is running is always allowed").
#[must_use]
pub fn admitted(
    fabric: &Fabric,
    pod: &PodUid,
    client: SocketAddr,
    protocol: Protocol,
    port: u16,
) -> bool {
    let ip = client.ip().to_canonical();
    ip.is_loopback() || fabric.admits(pod, ip, fabric::Port { protocol, number: port })
}

/// A port of the host, and all that its clients need.
#[derive(Clone, Debug)]
struct Entrance {
    leads: Arc<dyn Leads>,
    port: Arc<PublishedPort>,
    clock: Clock,
    /// Ends everything.
    stop: CancellationToken,
    /// Nobody new is let in. Ends with `stop` at the latest.
    closed: CancellationToken,
    /// Who carries TCP connections; `None`: the tasks themselves.
    carriers: Option<Carriers>,
    tasks: TaskTracker,
}

impl Entrance {
    /// The way of one client; `None`: it is refused.
    fn way(&self, client: SocketAddr) -> Option<Way> {
        let (host, to) = self.leads.find(client)?;
        Some(Way {
            host,
            to,
            port: Arc::clone(&self.port),
            clock: self.clock,
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        })
    }
}

/// Where a client of a published port goes, and who sees to it.
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

/// Serves a socket again that was open all the time.
fn revive(protocol: Protocol, socket: OwnedFd) -> io::Result<Socket> {
    // It was made without blocking, and a descriptor's flag is its socket's.
    match protocol {
        Protocol::Tcp => TcpListener::from_std(socket.into()).map(Socket::Tcp),
        Protocol::Udp => UdpSocket::from_std(socket.into()).map(Socket::Udp),
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
