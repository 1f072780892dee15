//! Published ports: real listeners of the daemon in front of the pod's virtual network.
//!
//! Owns: `hostPort` for TCP and UDP. The only kernel sockets that serve a pod. They stay open while modules restart: a
//! connection that arrives meanwhile waits, within a bound, for the module to listen again. Not: what may be published
//! (`manifest` validates).
//!
//! ```text
//!  client ──kernel──► listener ──► pump ──virtual network──► module's listener on POD_IP:containerPort
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::net::{ConnectError, Family, Member};
use crate::pod::net_io::NetStream;
use crate::spec::{Pod, Port, Protocol};

/// Connections through one published port at a time. Each costs two pumps and their buffers (about 40 KiB when busy);
/// the next ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 256;

/// How long an arrived connection waits for a module that is not listening (it restarts, or has not begun).
const WAIT_FOR_MODULE: Duration = Duration::from_secs(10);

/// How often such a connection tries again.
const RETRY: Duration = Duration::from_millis(50);

/// Bytes copied at a time, in each direction.
const PUMP_BYTES: usize = 16 * 1024;

/// Clients of one published UDP port that are remembered; the one quiet for longest makes room.
const FLOWS_MAX: usize = 256;

/// A UDP client that was quiet for so long is forgotten (RFC 4787 asks for at least two minutes).
const FLOW_IDLE: Duration = Duration::from_secs(120);

/// Largest UDP datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish port {port} of container {container} on {address} ({protocol})")]
pub struct PublishError {
    port: u16,
    container: String,
    address: SocketAddr,
    protocol: &'static str,
    source: io::Error,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Bound, not yet served.
#[derive(Debug)]
pub struct PublishedPorts {
    bound: Vec<(Socket, u16)>,
}

impl PublishedPorts {
    /// Binds every `hostPort` of the pod, or none.
    ///
    /// # Errors
    /// With the first port that the host does not give.
    pub async fn bind(pod: &Pod) -> Result<Self, PublishError> {
        let mut bound = vec![];
        for container in pod.all_containers() {
            for port in &container.ports {
                let Some(address) = published_address(port) else { continue };
                let socket = match port.protocol {
                    Protocol::Tcp => TcpListener::bind(address).await.map(Socket::Tcp),
                    Protocol::Udp => UdpSocket::bind(address).await.map(Socket::Udp),
                };
                let socket = socket.map_err(|source| PublishError {
                    port: port.container_port,
                    container: container.name.to_string(),
                    address,
                    protocol: protocol_name(port.protocol),
                    source,
                })?;
                bound.push((socket, port.container_port));
            }
        }
        Ok(Self { bound })
    }

    /// Starts serving, until `stop`. When the returned tasks have ended, the ports are free again.
    pub fn serve(
        self,
        daemon: &Arc<Member>,
        pod_ip: IpAddr,
        stop: &CancellationToken,
    ) -> TaskTracker {
        let tasks = TaskTracker::new();
        for (socket, port) in self.bound {
            let to = SocketAddr::new(pod_ip, port);
            let (daemon, stop, pumps) = (Arc::clone(daemon), stop.clone(), tasks.clone());
            match socket {
                Socket::Tcp(listener) => {
                    tasks.spawn(serve_tcp(listener, daemon, to, stop, pumps));
                }
                Socket::Udp(socket) => {
                    tasks.spawn(async move {
                        let socket = Arc::new(socket);
                        let serve = serve_udp(socket, daemon, to, &stop, pumps);
                        stop.run_until_cancelled(serve).await;
                    });
                }
            }
        }
        tasks.close();
        tasks
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

async fn serve_tcp(
    listener: TcpListener,
    daemon: Arc<Member>,
    to: SocketAddr,
    stop: CancellationToken,
    pumps: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let Some((permit, accepted)) = stop.run_until_cancelled(accepted).await else { return };
        match accepted {
            Ok((client, from)) => {
                let (daemon, stop) = (Arc::clone(&daemon), stop.clone());
                pumps.spawn(async move {
                    let _permit = permit;
                    stop.run_until_cancelled(pump(client, from, &daemon, to)).await;
                });
            }
            Err(error) => {
                // Out of descriptors, or a client that gave up: neither may end the listener, nor make it spin.
                debug!(%to, %error, "accepting on a published port failed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Carries one connection both ways until both sides are done.
async fn pump(mut client: TcpStream, from: SocketAddr, daemon: &Member, to: SocketAddr) {
    // The virtual network has no delayed acknowledgements; the kernel's side should not add Nagle's.
    let nodelay = client.set_nodelay(true);
    debug!(%from, %to, ?nodelay, "published connection");
    match connect_when_listening(daemon, to).await {
        Ok(mut module) => {
            let pumped = tokio::io::copy_bidirectional_with_sizes(
                &mut client,
                &mut module,
                PUMP_BYTES,
                PUMP_BYTES,
            );
            if let Err(error) = pumped.await {
                // A reset on one side must be a reset, not an orderly end, on the other.
                debug!(%from, %to, %error, "published connection broke");
                reset(&client);
            }
        }
        Err(error) => {
            debug!(%from, %to, %error, "no module listens; connection refused");
            reset(&client);
        }
    }
}

/// Makes dropping the client's socket send a reset.
#[allow(
    deprecated,
    reason = "zero linger returns at once; the deprecation is about lingers that block"
)]
fn reset(client: &TcpStream) {
    let lingering = client.set_linger(Some(Duration::ZERO));
    // A socket that refuses the option is closed in the ordinary way instead.
    drop(lingering);
}

/// Connects, waiting for a module that is about to listen (again).
async fn connect_when_listening(
    daemon: &Member,
    to: SocketAddr,
) -> Result<NetStream, ConnectError> {
    let attempt = async {
        loop {
            match NetStream::connect(daemon, to).await {
                Ok(stream) => return Ok(stream),
                Err(ConnectError::Refused(_)) => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    };
    tokio::time::timeout(WAIT_FOR_MODULE, attempt).await.unwrap_or(Err(ConnectError::Refused(to)))
}

/// One UDP client: a socket of its own inside the pod, so that answers find back.
struct Flow {
    socket: crate::net::UdpSocket,
    last_seen: tokio::time::Instant,
    end: CancellationToken,
}

async fn serve_udp(
    socket: Arc<UdpSocket>,
    daemon: Arc<Member>,
    to: SocketAddr,
    stop: &CancellationToken,
    carriers: TaskTracker,
) {
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (size, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%to, %error, "receiving on a published port failed");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let now = tokio::time::Instant::now();
        if !flows.contains_key(&from) {
            make_room(&mut flows, now);
            let end = stop.child_token();
            let Some(inside) = open_flow(&daemon, to) else { continue };
            carriers.spawn(answers(inside.clone(), Arc::clone(&socket), from, end.clone()));
            flows.insert(from, Flow { socket: inside, last_seen: now, end });
        }
        if let Some(flow) = flows.get_mut(&from) {
            flow.last_seen = now;
            // A full or absent receiver drops the datagram, as UDP does.
            let _ = flow.socket.send(Bytes::copy_from_slice(&buffer[..size]), None);
        }
    }
}

fn open_flow(daemon: &Member, to: SocketAddr) -> Option<crate::net::UdpSocket> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = daemon.udp_socket(family).ok()?;
    socket.connect(to).ok()?;
    Some(socket)
}

/// Forgets the clients that have been quiet, and the quietest if there are still too many.
fn make_room(flows: &mut HashMap<SocketAddr, Flow>, now: tokio::time::Instant) {
    flows.retain(|_, flow| {
        let keep = now.duration_since(flow.last_seen) < FLOW_IDLE;
        if !keep {
            flow.end.cancel();
        }
        keep
    });
    if flows.len() >= FLOWS_MAX {
        let quietest = flows.iter().min_by_key(|(_, flow)| flow.last_seen).map(|(from, _)| *from);
        if let Some(flow) = quietest.and_then(|from| flows.remove(&from)) {
            flow.end.cancel();
        }
    }
}

/// Carries a module's answers back to one client.
async fn answers(
    inside: crate::net::UdpSocket,
    outside: Arc<UdpSocket>,
    client: SocketAddr,
    end: CancellationToken,
) {
    let carry = async {
        loop {
            let received = std::future::poll_fn(|cx| inside.poll_receive(cx)).await;
            let Ok(datagram) = received else { return };
            if let Err(error) = outside.send_to(&datagram.data, client).await {
                // Lost, as datagrams may be: a link that is down now may be up for the next one.
                debug!(%client, %error, "an answer of a published port could not be sent");
            }
        }
    };
    end.run_until_cancelled(carry).await;
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::net::{MemberLimits, NetConfig, NoLedger, PodNet};

    /// A gateway whose link is down answers `EHOSTUNREACH` for a while; then it is up again.
    #[tokio::test]
    async fn an_answer_that_cannot_be_sent_is_lost_and_the_next_is_not() {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let member = net.join("m", MemberLimits::default(), Arc::new(NoLedger));
        let module = member.udp_socket(Family::V4).unwrap();
        module.bind("10.88.0.5:53".parse().unwrap()).unwrap();
        let inside = open_flow(&member, "10.88.0.5:53".parse().unwrap()).unwrap();
        let flow = inside.local_address().unwrap();
        // A socket on loopback cannot send anywhere else.
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let client = "192.0.2.1:9".parse().unwrap();
        assert!(outside.send_to(b"x", client).await.is_err());
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        tokio::spawn(answers(inside.clone(), outside, client, end));
        for _ in 0..3 {
            module.send(Bytes::from_static(b"answer"), Some(flow)).unwrap();
            let taken = async {
                while net.buffered_bytes() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), taken).await.expect("taken");
        }
    }
}
