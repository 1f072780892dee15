//! Published ports in front of a network whose module is a test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Leads, PodDoor, PublishedPort, PublishedPorts, SOCKETS_MAX, Shelf};
use crate::clock::Clock;
use crate::fabric::Fabric;
use crate::net::{Family, Listener, Member, MemberLimits, NetConfig, NoLedger, PodNet};
use crate::outside::stats::Payer;
use crate::pod::net_io::NetStream;
use crate::runtime::{PodAccount, PodLimits, Runtime, RuntimeConfig};
use crate::spec::{PodUid, Port, Protocol};
use crate::testkit::{pods, ports};

struct World {
    module: Member,
    port: Arc<PublishedPort>,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Who carries, and on whose account.
    runtime: Option<Runtime>,
    account: PodAccount,
    /// What the control plane had the pod pay.
    purse: Arc<Purse>,
    _cache: TempDir,
}

#[derive(Debug, Default)]
struct Purse(AtomicU64);

impl Payer for Purse {
    fn pay(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 5);

/// Processor time of the pod: as much as a machine of tests may have.
const LIMIT_MILLIS: u64 = 64_000;

/// A pod that publishes its port 80.
async fn publish(protocol: Protocol, ip: &str) -> World {
    let ip: IpAddr = ip.parse().unwrap();
    let address = ports::free(ip);
    let mut container = pods::regular("c");
    let (host_port, host_ip) = (Some(address.port()), Some(ip));
    container.ports = vec![Port { name: None, container_port: 80, protocol, host_port, host_ip }];
    let ports = PublishedPorts::bind(&pods::pod([container]), &Shelf::default()).await.unwrap();
    let net = PodNet::new(NetConfig::new(POD_IP));
    let module = net.join("m", MemberLimits::default(), Arc::new(NoLedger));
    let limits = MemberLimits { max_sockets: SOCKETS_MAX, ..MemberLimits::default() };
    let host = Arc::new(net.join("host", limits, Arc::new(NoLedger)));
    let port = Arc::clone(&ports.ports()[0]);
    let purse = Arc::new(Purse::default());
    port.traffic.bill.paid_by(Arc::<Purse>::clone(&purse));
    let cache = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(cache.path().join("cache"));
    config.guest_threads = Some(2);
    let runtime = Runtime::new(config).unwrap();
    let account =
        runtime.pod_account(PodLimits { cpu_millis: Some(LIMIT_MILLIS), ..PodLimits::default() });
    let stop = CancellationToken::new();
    let clock = Clock::start();
    let door =
        PodDoor { host, ip: POD_IP.into(), uid: PodUid::new("u"), fabric: Fabric::new(clock) };
    let tasks = ports.serve(&door, &runtime.carriers(&account), clock, &stop, &stop);
    let runtime = Some(runtime);
    World { module, port, address, stop, tasks, runtime, account, purse, _cache: cache }
}

impl World {
    fn listen(&self) -> Listener {
        self.module.listen("0.0.0.0:80".parse().unwrap()).unwrap()
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A client that the module has accepted, and the module's end.
    async fn connected(&self, listener: &mut Listener) -> (TcpStream, NetStream) {
        let client = self.client().await;
        let module = NetStream::accept(listener).await.unwrap();
        until("the connection", || self.port.traffic.connections_open.get() == 1).await;
        (client, module)
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect(what);
}

/// The client reads nothing but a reset.
async fn is_reset(client: &mut TcpStream) {
    let read = tokio::time::timeout(Duration::from_secs(60), client.read_u8());
    let error = read.await.expect("a reset").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_module_sees_the_client_and_both_may_close() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let mut listener = world.listen();
    let mut client = world.client().await;
    let mut module = NetStream::accept(&mut listener).await.unwrap();
    assert_eq!(module.remote_address(), client.local_addr().unwrap());
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    module.read_to_end(&mut question).await.unwrap();
    module.write_all(b"answer").await.unwrap();
    drop(module);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
    until("the connection to be over", || world.port.traffic.connections_open.get() == 0).await;
    let traffic = world.port.traffic.snapshot();
    assert_eq!((traffic.bytes_in, traffic.bytes_out, traffic.connections), (8, 6, 1));
}

#[tokio::test]
async fn a_client_of_the_other_family_gets_through() {
    let world = publish(Protocol::Tcp, "::1").await;
    let mut listener = world.listen();
    let mut client = world.client().await;
    let mut module = NetStream::accept(&mut listener).await.unwrap();
    assert_eq!(module.remote_address().ip(), IpAddr::V4(POD_IP), "the host's own in the pod");
    client.write_all(b"x").await.unwrap();
    assert_eq!(module.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn connections_wait_for_the_module_to_come_back() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = world.client().await;
        client.write_u8(n).await.unwrap();
        clients.push(client);
    }
    until("them to wait", || world.port.traffic.queued.get() == 20).await;
    let mut listener = world.listen();
    let mut heard = Vec::new();
    for _ in 0..20 {
        let mut module = NetStream::accept(&mut listener).await.unwrap();
        heard.push(module.read_u8().await.unwrap());
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..20).collect::<Vec<u8>>());
    let traffic = world.port.traffic.snapshot();
    assert_eq!((traffic.queued, traffic.queued_peak, traffic.connections_failed), (0, 20, 0));
}

#[tokio::test]
async fn who_was_not_accepted_by_one_run_is_served_by_the_next_with_all_that_was_sent() {
    let mut world = publish(Protocol::Tcp, "127.0.0.1").await;
    let mut listener = world.listen();
    listener.set_backlog(2);
    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = world.client().await;
        client.write_all(&[n; 50_000]).await.unwrap();
        clients.push(client);
        until("it to be seen", || world.module.net().open_sockets() > clients.len()).await;
    }
    let mut first = NetStream::accept(&mut listener).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), 0);
    until("others to wait", || world.port.traffic.queued.get() == 3).await;
    for _ in 0..3 {
        // Traps, and comes back.
        let net = world.module.net();
        world.module.reset();
        world.module = net.join("m", MemberLimits::default(), Arc::new(NoLedger));
        until("all to wait", || world.port.traffic.queued.get() == 5).await;
        listener = world.listen();
        until("all to be let in", || world.port.traffic.queued.get() == 0).await;
    }
    let error = clients[0].read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it had been accepted");
    for n in 1..6 {
        let mut module = NetStream::accept(&mut listener).await.unwrap();
        let mut all = vec![0; 50_000];
        module.read_exact(&mut all).await.unwrap();
        assert!(all.iter().all(|byte| *byte == n), "in the order in which they came");
        module.write_u8(n).await.unwrap();
        assert_eq!(clients[usize::from(n)].read_u8().await.unwrap(), n);
    }
    let traffic = world.port.traffic.snapshot();
    assert_eq!((traffic.connections, traffic.connections_failed), (6, 0));
    assert_eq!((traffic.connections_limited, traffic.queued), (0, 0));
}

#[tokio::test]
async fn time_in_a_modules_queue_is_no_waiting_and_time_without_a_module_adds_up() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let listener = world.listen();
    let mut client = world.client().await;
    until("it to be let in", || {
        world.module.net().sockets().iter().any(|it| it.receive_queue == 1)
    })
    .await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(world.port.traffic.snapshot().connections_failed, 0);
    drop(listener);
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(world.port.traffic.snapshot().connections_failed, 1);
}

#[tokio::test]
async fn a_client_that_breaks_off_while_it_waits_has_no_place_any_more() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let (half, gone) = (world.client().await, world.client().await);
    until("both to wait", || world.port.traffic.queued.get() == 2).await;
    rustix::net::sockopt::set_socket_linger(&gone, Some(Duration::ZERO)).unwrap();
    drop(gone);
    until("its place to be free", || world.port.traffic.queued.get() == 1).await;
    // One that has only said its last still wants its answer.
    let mut half = half;
    half.write_u8(7).await.unwrap();
    half.shutdown().await.unwrap();
    let mut listener = world.listen();
    let mut module = NetStream::accept(&mut listener).await.unwrap();
    assert_eq!(module.read_u8().await.unwrap(), 7);
    module.write_u8(8).await.unwrap();
    assert_eq!(half.read_u8().await.unwrap(), 8);
}

#[tokio::test]
async fn a_module_without_memory_for_a_connection_has_its_client_reset() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let limits = MemberLimits { max_buffered: 0, ..MemberLimits::default() };
    let poor = world.module.net().join("poor", limits, Arc::new(NoLedger));
    let _listener = poor.listen("0.0.0.0:80".parse().unwrap()).unwrap();
    let error = world.client().await.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(world.port.traffic.queued_peak.get(), 0, "at once");
}

#[tokio::test]
async fn so_many_may_wait_and_one_more_is_reset_at_once() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let mut clients = Vec::new();
    for _ in 0..super::tcp::WAITING_MAX {
        clients.push(world.client().await);
    }
    let waiting = || world.port.traffic.queued.get() == super::tcp::WAITING_MAX as u64;
    until("them to wait", waiting).await;
    let error = world.client().await.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(world.port.traffic.connections_limited.get(), 1);
    assert!(waiting(), "the others still wait");
}

#[tokio::test]
async fn a_connection_that_waited_in_vain_is_reset() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let mut client = world.client().await;
    until("it to wait", || world.port.traffic.queued.get() == 1).await;
    // Nothing else is due, so that paused time jumps to the deadline.
    tokio::time::pause();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let traffic = world.port.traffic.snapshot();
    assert_eq!((traffic.queued, traffic.connections_failed), (0, 1));
}

#[tokio::test]
async fn a_pod_that_goes_resets_who_is_connected_and_frees_the_port() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let (mut client, _module) = world.connected(&mut world.listen()).await;
    world.stop.cancel();
    world.tasks.wait().await;
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(std::net::TcpListener::bind(world.address).is_ok());
}

#[tokio::test]
async fn what_is_carried_is_paid_by_the_pod_and_only_once() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let (mut client, mut module) = world.connected(&mut world.listen()).await;
    let billed = world.purse.0.load(Ordering::SeqCst);
    assert!(billed > 0, "letting it in");
    let before = world.account.cpu_time();
    let said = vec![7; 32 << 20];
    let mut heard = vec![0; said.len()];
    let (written, read) = tokio::join!(module.write_all(&said), client.read_exact(&mut heard));
    written.unwrap();
    read.unwrap();
    assert!(world.account.cpu_time() > before, "carrying it");
    assert_eq!(world.purse.0.load(Ordering::SeqCst), billed, "nothing of it twice");
    assert_eq!(heard, said);
}

#[tokio::test]
async fn a_pod_that_has_used_up_its_time_carries_nothing_and_ends_all_the_same() {
    let world = publish(Protocol::Tcp, "127.0.0.1").await;
    let (mut client, mut module) = world.connected(&mut world.listen()).await;
    let hour = Duration::from_secs(3600);
    world.account.charge_cpu(hour * u32::try_from(LIMIT_MILLIS / 1000).unwrap());
    module.write_all(b"too late").await.unwrap();
    world.stop.cancel();
    tokio::time::timeout(hour / 60, world.tasks.wait()).await.unwrap();
    is_reset(&mut client).await;
    assert_eq!(world.port.traffic.bytes_out.get(), 0);
}

#[tokio::test]
async fn clients_are_reset_when_the_guests_threads_end() {
    let mut world = publish(Protocol::Tcp, "127.0.0.1").await;
    let mut listener = world.listen();
    let (mut open, mut late) = (world.client().await, world.client().await);
    let _module = NetStream::accept(&mut listener).await.unwrap();
    until("the connection", || world.port.traffic.connections_open.get() == 1).await;
    drop(world.runtime.take());
    is_reset(&mut open).await;
    // Accepted when there is nobody any more to carry it.
    let _module = NetStream::accept(&mut listener).await.unwrap();
    is_reset(&mut late).await;
    world.stop.cancel();
    world.tasks.wait().await;
    assert_eq!(world.port.traffic.connections_open.get(), 0);
}

async fn udp_client(world: &World) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(world.address).await.unwrap();
    client
}

/// Answers each datagram with itself.
fn echo(world: &World) -> tokio::task::JoinHandle<()> {
    let socket = world.module.udp_socket(Family::V4).unwrap();
    socket.bind("0.0.0.0:80".parse().unwrap()).unwrap();
    tokio::spawn(async move {
        while let Ok(datagram) = poll_fn(|cx| socket.poll_receive(cx)).await {
            socket.send(datagram.data, Some(datagram.from)).unwrap();
        }
    })
}

#[tokio::test]
async fn each_udp_client_gets_its_own_answers() {
    let world = publish(Protocol::Udp, "127.0.0.1").await;
    let _echo = echo(&world);
    let (one, two) = (udp_client(&world).await, udp_client(&world).await);
    let mut buffer = [0; 64];
    for round in 0_u8..5 {
        one.send(&[1, round]).await.unwrap();
        two.send(&[2, round]).await.unwrap();
        for (client, name) in [(&one, 1), (&two, 2)] {
            let n = client.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..n], [name, round]);
        }
    }
    let traffic = world.port.traffic.snapshot();
    assert_eq!((traffic.datagrams_in, traffic.datagrams_out, traffic.flows_open), (10, 10, 2));
}

/// A socket on every address has many: its answers must bear the one that was asked, or the client does not take them for answers.
#[tokio::test]
async fn a_udp_client_is_answered_from_the_address_that_it_asked() {
    for (published, asked) in [
        ("0.0.0.0", &["127.0.0.1", "127.0.0.2", "127.3.2.1"][..]),
        ("::", &["127.0.0.1", "127.0.0.2", "::1"]),
        ("127.0.0.3", &["127.0.0.3"]),
    ] {
        let world = publish(Protocol::Udp, published).await;
        let _echo = echo(&world);
        for ip in asked {
            let to = SocketAddr::new(ip.parse().unwrap(), world.address.port());
            let from = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let client = UdpSocket::bind(from).await.unwrap();
            client.send_to(b"who?", to).await.unwrap();
            let mut buffer = [0; 64];
            let answer = client.recv_from(&mut buffer);
            let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
            assert_eq!(answer.expect("an answer").unwrap(), (4, to), "at {published}");
        }
        // One client that asks two addresses is two.
        assert_eq!(world.port.traffic.flows_open.get(), asked.len() as u64);
    }
}

#[tokio::test]
async fn a_module_that_comes_back_gets_the_next_datagram() {
    let world = publish(Protocol::Udp, "127.0.0.1").await;
    let client = udp_client(&world).await;
    // Nobody listens: lost.
    client.send(b"lost").await.unwrap();
    until("it to be taken", || world.port.traffic.datagrams_in.get() == 1).await;
    let _echo = echo(&world);
    client.send(b"heard").await.unwrap();
    let mut buffer = [0; 64];
    let n = client.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..n], b"heard");
}

/// Lets everybody in, or nobody.
#[derive(Debug)]
struct Gate {
    host: Arc<Member>,
    open: AtomicBool,
    generation: AtomicU64,
}

impl Gate {
    fn turn(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl Leads for Gate {
    fn find(&self, client: SocketAddr) -> Option<(Arc<Member>, SocketAddr)> {
        let to = SocketAddr::new(POD_IP.into(), 80);
        self.still(client, to).then(|| (Arc::clone(&self.host), to))
    }

    fn still(&self, _client: SocketAddr, _to: SocketAddr) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_udp_client_that_policy_shuts_out_is_not_heard_any_more() {
    let world = publish(Protocol::Udp, "127.0.0.1").await;
    let _echo = echo(&world);
    let host = world.module.net().join("gate", MemberLimits::default(), Arc::new(NoLedger));
    let gate = Arc::new(Gate {
        host: Arc::new(host),
        open: AtomicBool::new(true),
        generation: AtomicU64::new(0),
    });
    let address = ports::free(Ipv4Addr::LOCALHOST.into());
    let port = Arc::new(PublishedPort {
        protocol: Protocol::Udp,
        address,
        container_port: 80,
        traffic: crate::outside::stats::Traffic::default(),
    });
    let leads = Arc::<Gate>::clone(&gate) as Arc<dyn Leads>;
    let stop = world.stop.clone();
    let _tasks = super::open_port(Arc::clone(&port), leads, Clock::start(), stop).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    let mut buffer = [0; 64];
    for (round, open) in [(1_u8, true), (2, true), (3, false), (4, true)] {
        gate.turn(open);
        let dropped = port.traffic.datagrams_dropped.get();
        client.send(&[round]).await.unwrap();
        if open {
            let n = client.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..n], [round]);
        } else {
            until("it to be dropped", || port.traffic.datagrams_dropped.get() > dropped).await;
            until("the client to be forgotten", || port.traffic.flows_open.get() == 0).await;
        }
    }
}

#[tokio::test]
async fn a_flood_of_new_udp_clients_is_held_to_a_rate() {
    let world = publish(Protocol::Udp, "127.0.0.1").await;
    let traffic = || world.port.traffic.snapshot();
    let mut sent = 0;
    // The first 256 are let in at once, and 100 more each second: those who come faster are too many in time, on whatever machine.
    while traffic().datagrams_dropped == 0 {
        // Some at a time, so that the kernel loses none.
        for _ in 0..50 {
            udp_client(&world).await.send(b"x").await.unwrap();
            sent += 1;
        }
        let taken = || traffic().datagrams_in + traffic().datagrams_dropped;
        until("all to be taken", || taken() >= sent).await;
        assert!(sent < 5000, "{:?}", traffic());
    }
    assert!(traffic().flows_open <= 256, "{:?}", traffic());
    world.stop.cancel();
    world.tasks.wait().await;
    assert_eq!(traffic().flows_open, 0);
}
