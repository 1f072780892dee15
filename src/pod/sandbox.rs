//! What the modules of a pod share: network, volumes, published ports, one account.
//!
//! Owns: putting it up in order and taking it down in reverse, after the last run. Survives the restart of any module. Not: when
//! (`lifecycle` says), nor the parts themselves.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::chain;
use crate::fabric::Attachment;
use crate::net::{ConnectError, HostAlias, Member, MemberLimits, NetConfig, NoLedger, PodNet};
use crate::outside::stats::{Payer, Traffic};
use crate::outside::{NotGranted, PodOutside};
use crate::pod::context::NodeContext;
use crate::pod::host_port::{self, Kept, PodDoor, PublishError, PublishedPorts};
use crate::pod::http_probe::Dial;
use crate::pod::net_io::NetStream;
use crate::pod::networks::{Listed, PodNetwork};
use crate::pod::objects::VolumeData;
use crate::pod::space::{self, PodMemory};
use crate::runtime::{self, Carriers, Network, PodAccount, PodLimits, Runtime};
use crate::spec::Pod;
use crate::volume::space::{Excess, Room as RunRoom, Space};
use crate::volume::{MountedVolumes, PreparedMount, VolumeError};

/// What a run may write beside its termination message, where no volume is: the folder that the message is in must be writable.
const RUN_FOLDER_BYTES_MAX: u64 = 64 << 10;

/// Why a sandbox could not be put up; the core retries with back-off.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("Failed to create pod sandbox: no pod address is free; the node runs 65534 pods")]
    NoAddress,
    #[error("Failed to create pod sandbox: {0}")]
    NotGranted(#[from] NotGranted),
    #[error("cannot measure the pod's volumes")]
    Space(#[source] std::io::Error),
    #[error("Failed to create pod sandbox")]
    Publish(#[source] PublishError),
    #[error("podling failed internally while setting up the pod")]
    Broken(#[source] tokio::task::JoinError),
}

impl SandboxError {
    /// The reason of the Event that reports it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Volume(e) => e.reason(),
            Self::Space(_) => "FailedMount",
            Self::NoAddress | Self::NotGranted(_) | Self::Publish(_) | Self::Broken(_) => {
                "FailedCreatePodSandBox"
            }
        }
    }

    #[must_use]
    pub fn message(&self) -> String {
        chain(self)
    }
}

/// The shared parts of one pod.
#[derive(Debug)]
pub struct Sandbox {
    node: Arc<NodeContext>,
    pod: Arc<Pod>,
    address: Address,
    net: PodNet,
    /// Its place among the pods of the node, until it goes.
    place: Mutex<Option<Attachment>>,
    /// The daemon's own membership: probes. Apart from that of published ports, whose crowd must not make a probe fail.
    daemon: Arc<Member>,
    /// Published ports, and what is shown of the network.
    listed: Listed,
    volumes: MountedVolumes,
    /// How much may be written to them.
    space: Arc<Space>,
    account: PodAccount,
    /// Carries connections of the published ports.
    carriers: Carriers,
    /// Ends the tasks of the published ports.
    stop: CancellationToken,
    /// Lets nobody new in through them.
    closed: CancellationToken,
    ports: TaskTracker,
    /// The same sockets, for the pod's next form; empty once the ports are closed.
    kept: Mutex<Vec<Kept>>,
    /// One at a time writes to the volumes' files, or removes them.
    files: Semaphore,
}

/// A pod address that goes back when its sandbox does.
#[derive(Debug)]
struct Address {
    node: Arc<NodeContext>,
    ip: Ipv4Addr,
}

impl Drop for Address {
    fn drop(&mut self) {
        self.node.addresses.release(self.ip);
    }
}

impl Sandbox {
    /// Puts everything up: volumes, network, published ports. May be called again after a failure.
    ///
    /// # Errors
    /// With the first part that could not be had; what stood before it is taken down again or can be set up twice.
    pub async fn set_up(node: Arc<NodeContext>, pod: Arc<Pod>) -> Result<Self, SandboxError> {
        let ip = node.addresses.take(&pod.uid).ok_or(SandboxError::NoAddress)?;
        let address = Address { node: Arc::clone(&node), ip };
        let volumes = set_up_volumes(&node, &pod, ip).await?;
        let outside = Arc::new(node.gateway.admit(&pod)?);
        let mut config = net_config(&pod, ip);
        config.faults = node.faults.clone();
        config.egress = node.fabric.egress(&pod, ip, node.gateway.way_out(&outside));
        let net = PodNet::new(config);
        let daemon = net.join("podling", MemberLimits::default(), Arc::new(NoLedger));
        let daemon = Arc::new(daemon);
        let stop = CancellationToken::new();
        let ports = PublishedPorts::bind(&pod, &node.shelf).await.map_err(SandboxError::Publish)?;
        // What its earlier form published and this one does not.
        node.shelf.forget(&pod.uid);
        let kept = Mutex::new(ports.keep());
        let limits =
            MemberLimits { max_sockets: host_port::SOCKETS_MAX, ..MemberLimits::default() };
        let account = account(&node.runtime, &pod, &outside, &ports);
        let listed = node.networks.list(PodNetwork {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            net: net.clone(),
            host: Arc::new(net.join("host", limits, Arc::new(NoLedger))),
            published: ports.ports(),
            outside,
            forwarded: Arc::new(Traffic::default()),
        });
        let door = PodDoor {
            host: Arc::clone(&listed.network().host),
            ip: ip.into(),
            uid: pod.uid.clone(),
            fabric: node.fabric.clone(),
        };
        // Before anybody is served: after that nothing may fail.
        let space = measure(&node, &pod, &volumes, &account, ip).await?;
        let closed = stop.child_token();
        let carriers = node.runtime.carriers(&account);
        let ports = ports.serve(&door, &carriers, node.clock, &stop, &closed);
        let files = Semaphore::new(1);
        // Last: who is reachable is there.
        let place = node.fabric.attach(&pod.uid, &net, &listed.network().host);
        let place = Mutex::new(Some(place));
        Ok(Self {
            node,
            pod,
            address,
            net,
            place,
            daemon,
            listed,
            volumes,
            space,
            account,
            carriers,
            stop,
            closed,
            ports,
            kept,
            files,
        })
    }

    /// Takes everything down. With `comes_back` (it is replaced by another form of itself, or the daemon ends) the files stay
    /// for its next life, and the published ports stay open.
    pub async fn tear_down(&self, comes_back: bool) {
        let kept = self.take_kept();
        if comes_back {
            self.node.shelf.put(&self.pod.uid, kept);
        }
        self.end_connections();
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.daemon.reset();
        self.listed.network().outside.close();
        // The successor of this pod may publish the same ports at once.
        self.ports.wait().await;
        // It is never closed, so this waits for a refresh under way and nothing else.
        let _turn = self.files.acquire().await;
        if !comes_back {
            remove_volumes(&self.node, &self.pod).await;
        }
    }

    fn take_kept(&self) -> Vec<Kept> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves new TCP clients of the published ports to the pod's next form: they wait in the kernel's queue.
    pub fn leave_clients(&self) {
        self.closed.cancel();
    }

    /// Closes the published ports; the rest stays. May be repeated.
    pub fn release_ports(&self) {
        drop(self.take_kept());
        self.end_connections();
    }

    fn end_connections(&self) {
        self.stop.cancel();
        self.carriers.hasten();
    }

    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.address.ip.into()
    }

    #[must_use]
    pub fn volumes(&self) -> &MountedVolumes {
        &self.volumes
    }

    /// What a mounted folder may still take; `None`: nothing but the disk limits it.
    #[must_use]
    pub fn room(&self, mount: &PreparedMount) -> Option<Arc<dyn runtime::Room>> {
        let room = match mount.volume() {
            _ if mount.read_only() => None,
            Some(volume) => self.space.room(volume),
            None => RunRoom::of_run(mount.place(), RUN_FOLDER_BYTES_MAX, self.node.clock)
                .inspect_err(|error| tracing::warn!(pod = %self.pod.key, %error, "a run's own folder is not measured"))
                .ok(),
        };
        room.map(|room| Arc::new(space::Room(room)) as Arc<dyn runtime::Room>)
    }

    /// Resolves when one of the volumes is over its limit all the same; `None`: the pod goes, or nothing is limited.
    pub fn excess(&self) -> impl Future<Output = Option<Excess>> + use<> {
        let (space, stop) = (Arc::clone(&self.space), self.stop.clone());
        let account = self.account.clone();
        async move { if space.is_counted() { space::watch(space, account, stop).await } else { None } }
    }

    #[must_use]
    pub fn account(&self) -> &PodAccount {
        &self.account
    }

    /// The network as a run joins it, under the name that its socket table shows.
    #[must_use]
    pub fn network(&self, member: &str) -> Network {
        Network::Pod { net: self.net.clone(), member: member.to_owned() }
    }

    #[must_use]
    pub fn net(&self) -> &PodNet {
        &self.net
    }

    /// Opens connections into the pod for the daemon.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        Dialer(Arc::clone(&self.daemon))
    }

    /// A host name or address as the pod's network knows it; `None` for anything outside.
    #[must_use]
    pub fn resolve(&self, host: &str) -> Option<IpAddr> {
        match host.parse() {
            Ok(ip) => self.net.is_local(ip).then_some(ip),
            Err(_) => self.net.resolve(host).ok()?.into_iter().find(|ip| self.net.is_local(*ip)),
        }
    }
}

impl Payer for PodAccount {
    fn pay(&self, time: Duration) {
        self.charge_cpu(time);
    }

    fn owes(&self) -> Duration {
        self.owes_cpu()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end_connections();
    }
}

/// Writes what ConfigMaps and Secrets say now into the volumes made of them; a failure leaves what was there. Two changes
/// in a row are written in a row, so that the older one is not what stays.
pub async fn refresh_volumes(sandbox: Arc<Sandbox>) {
    let _turn = sandbox.files.acquire().await;
    if sandbox.stop.is_cancelled() {
        // Nothing reads them any more.
        return;
    }
    let theirs = Arc::clone(&sandbox);
    let refreshed = tokio::task::spawn_blocking(move || {
        let (node, pod) = (&theirs.node, &theirs.pod);
        let data = VolumeData {
            board: &node.board,
            key: node.secrets.as_ref(),
            pod,
            facts: node.facts(theirs.ip()),
        };
        if let Err(error) = node.volumes.refresh(pod, &data, &theirs.volumes) {
            let cause = chain(&error);
            tracing::warn!(pod = %pod.key, %cause, "a volume keeps its old content");
        }
    });
    if let Err(error) = refreshed.await {
        tracing::error!(%error, "refreshing volumes failed internally");
    }
}

/// Removes a pod's volumes; a failure is logged and made good at the next start (`VolumeRoot::remove_orphans`).
pub async fn remove_volumes(node: &Arc<NodeContext>, pod: &Arc<Pod>) {
    let (node, pod) = (Arc::clone(node), Arc::clone(pod));
    let removed = tokio::task::spawn_blocking(move || {
        if let Err(error) = node.volumes.tear_down(&pod.uid) {
            let cause = chain(&error);
            tracing::warn!(pod = %pod.key, %cause, "volumes stay until the next start");
        }
    });
    if let Err(error) = removed.await {
        tracing::error!(%error, "removing volumes failed internally");
    }
}

/// The pod's account, which also pays for what the daemon carries to and from the host's network.
fn account(
    runtime: &Runtime,
    pod: &Pod,
    outside: &PodOutside,
    ports: &PublishedPorts,
) -> PodAccount {
    let account = runtime.pod_account(PodLimits {
        memory_bytes: space::memory_limit(pod),
        cpu_millis: pod.cpu_limit_millis(),
        cpu_request_millis: pod.cpu_request_millis(),
    });
    let payer: Arc<dyn Payer> = Arc::new(account.clone());
    outside.traffic().bill.paid_by(Arc::clone(&payer));
    for port in ports.ports() {
        port.traffic.bill.paid_by(Arc::clone(&payer));
    }
    account
}

async fn set_up_volumes(
    node: &Arc<NodeContext>,
    pod: &Arc<Pod>,
    ip: Ipv4Addr,
) -> Result<MountedVolumes, SandboxError> {
    let (node, pod) = (Arc::clone(node), Arc::clone(pod));
    let set_up = tokio::task::spawn_blocking(move || {
        let facts = node.facts(ip.into());
        let data = VolumeData { board: &node.board, key: node.secrets.as_ref(), pod: &pod, facts };
        node.volumes.set_up(&pod, &data, &node.host_paths)
    });
    Ok(set_up.await.map_err(SandboxError::Broken)??)
}

async fn measure(
    node: &Arc<NodeContext>,
    pod: &Arc<Pod>,
    volumes: &MountedVolumes,
    account: &PodAccount,
    ip: Ipv4Addr,
) -> Result<Arc<Space>, SandboxError> {
    let node_memory = node.facts(ip.into()).allocatable.memory_bytes;
    let (clock, pod, volumes) = (node.clock, Arc::clone(pod), volumes.clone());
    let memory = Arc::new(PodMemory(account.clone()));
    let measured = tokio::task::spawn_blocking(move || {
        Space::new(&pod, volumes.empty_dirs(), memory, node_memory, clock)
    });
    measured.await.map_err(SandboxError::Broken)?.map_err(SandboxError::Space)
}

fn net_config(pod: &Pod, ip: Ipv4Addr) -> NetConfig {
    let mut config = NetConfig::new(ip);
    config.host_names = vec![pod.hostname.clone()];
    if let Some(subdomain) = &pod.subdomain {
        let namespace = &pod.key.namespace;
        let full = format!("{}.{subdomain}.{namespace}.svc.cluster.local", pod.hostname);
        config.host_names.push(full);
    }
    let alias = |a: &crate::spec::HostAlias| HostAlias { ip: a.ip, names: a.hostnames.clone() };
    config.aliases = pod.host_aliases.iter().map(alias).collect();
    config
}

/// Connects into the pod's network on the daemon's account.
#[derive(Clone, Debug)]
pub struct Dialer(Arc<Member>);

impl Dial for Dialer {
    type Stream = NetStream;
    type Error = DialError;

    async fn dial(&self, to: SocketAddr) -> Result<NetStream, DialError> {
        NetStream::connect(&self.0, to).await.map_err(DialError)
    }
}

/// Why no connection came about, in the words that Kubernetes' probes print after "connect: ".
#[derive(Debug)]
pub struct DialError(ConnectError);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ConnectError::Refused(_) => f.write_str("connection refused"),
            ConnectError::TimedOut(_) => f.write_str("connection timed out"),
            ConnectError::Unreachable(_) => f.write_str("network is unreachable"),
            ConnectError::Denied(_) => f.write_str("permission denied"),
            ConnectError::InvalidAddress(_)
            | ConnectError::InvalidState
            | ConnectError::NoPort
            | ConnectError::Open(_) => self.0.fmt(f),
        }
    }
}

impl std::error::Error for DialError {}
