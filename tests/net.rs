//! The pod network from outside: what it holds of the host's memory, counted by an allocator that knows each thread's share, and
//! whether addresses mean what they mean to the kernel this runs on.
//!
//! Memory is counted, never timed: the network's core does everything on the calling thread, so what it allocates is exact. Bounds:
//! the figures of the project's issue on the network.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use podling::net::{
    ConnectError, Family, Listener, Member, MemberLimits, NetConfig, NetLimits, NoLedger, PodNet,
    Stream,
};
use podling::wasi::sockets::NetCtxView;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::sockets::instance_network::Host as _;
use wasmtime_wasi::p2::bindings::sockets::network::{IpAddressFamily, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::{HostTcpSocket as _, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

/// What an idle connection may take, both ends together.
const IDLE_MAX: isize = 2048;
/// By how much memory may differ after tens of thousands of connections.
const LEFT_MAX: isize = 1 << 20;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which keeps each thread's account.
struct Counting;

fn count(bytes: usize, sign: isize) {
    // Gone at the end of a thread, when nobody asks any more.
    let _ = LIVE.try_with(|live| live.set(live.get() + sign * bytes.cast_signed()));
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + usize::from(sign > 0)));
}

#[allow(unsafe_code, reason = "an allocator is an unsafe trait; this one only counts and hands on")]
// SAFETY: every call is the system allocator's own, with the caller's arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes this thread holds now, and how often it has asked for some.
fn heap() -> (isize, usize) {
    (LIVE.with(Cell::get), CALLS.with(Cell::get))
}

const MANY: MemberLimits = MemberLimits { max_sockets: 100_000, max_buffered: 1 << 30 };

fn pod() -> PodNet {
    let mut config = NetConfig::new(Ipv4Addr::new(10, 88, 0, 5));
    config.limits = NetLimits { max_sockets: 100_000, max_buffered: 1 << 30 };
    PodNet::new(config)
}

fn join(pod: &PodNet) -> Member {
    pod.join("module", MANY, Arc::new(NoLedger))
}

fn ready<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("should be ready"),
    }
}

/// What is ready at the first look.
fn now<T>(future: impl Future<Output = T>) -> T {
    ready(pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())))
}

fn listen(member: &Member) -> Listener {
    member.listen("0.0.0.0:80".parse().unwrap()).unwrap()
}

fn connect(member: &Member, listener: &mut Listener) -> (Stream, Stream) {
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_address().port());
    let near = ready(member.connect(to).unwrap().try_finish()).unwrap();
    (near, ready(listener.try_accept()).unwrap())
}

/// Both directions carry what fills them, then rest. Both readers wait, as servers do.
fn talk(ends: &mut (Stream, Stream)) {
    for _ in 0..2 {
        std::mem::swap(&mut ends.0, &mut ends.1);
        let (from, to) = (&mut ends.0, &mut ends.1);
        for size in [1, 5000, 100, 64 * 1024, 7, 65_000] {
            let _ = from.write.try_write(&mut Bytes::from(vec![1; size]));
        }
        while let Poll::Ready(Ok(_)) =
            to.read.poll_read(&mut Context::from_waker(Waker::noop()), 1 << 20)
        {}
    }
}

#[test]
fn an_idle_connection_holds_two_kibibytes_at_most_even_after_it_was_full() {
    let net = pod();
    let (server, client) = (join(&net), join(&net));
    let mut listener = listen(&server);
    let mut held = Vec::with_capacity(5000);
    for _ in 0..1000 {
        held.push(connect(&client, &mut listener));
    }
    let (before, _) = heap();
    for _ in 0..3000 {
        held.push(connect(&client, &mut listener));
    }
    let fresh = (heap().0 - before) / 3000;
    held.iter_mut().for_each(talk);
    let rested = (heap().0 - before) / 3000;
    println!("an idle connection: {fresh} bytes fresh, {rested} after it was full");
    assert!(fresh <= IDLE_MAX && rested <= IDLE_MAX, "{fresh}, {rested}");
}

/// What a store holds for its guest's sockets, without the store.
struct Host {
    table: ResourceTable,
    member: Member,
    network: u32,
}

/// A connected socket as a guest of WASI 0.2 holds it.
type Handles = (Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>);

impl Host {
    fn new(pod: &PodNet) -> Self {
        let mut host = Self { table: ResourceTable::new(), member: join(pod), network: 0 };
        host.network = host.view().instance_network().unwrap().rep();
        host
    }

    fn view(&mut self) -> NetCtxView<'_> {
        NetCtxView { table: &mut self.table, member: &self.member }
    }

    fn network(&self) -> Resource<Network> {
        Resource::new_borrow(self.network)
    }

    fn listen(&mut self) -> Resource<TcpSocket> {
        let at: SocketAddr = "0.0.0.0:80".parse().unwrap();
        let network = self.network();
        let socket = self.view().create_tcp_socket(IpAddressFamily::Ipv4).unwrap();
        now(self.view().start_bind(lend(&socket), network, at.into())).unwrap();
        self.view().finish_bind(lend(&socket)).unwrap();
        now(self.view().start_listen(lend(&socket))).unwrap();
        self.view().finish_listen(lend(&socket)).unwrap();
        socket
    }

    fn connect(&mut self) -> Handles {
        let to: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let network = self.network();
        let socket = self.view().create_tcp_socket(IpAddressFamily::Ipv4).unwrap();
        self.view().start_connect(lend(&socket), network, to.into()).unwrap();
        let (input, output) = self.view().finish_connect(lend(&socket)).unwrap();
        (socket, input, output)
    }

    fn close(&mut self, (socket, input, output): Handles) {
        self.table.delete(input).unwrap();
        self.table.delete(output).unwrap();
        self.view().drop(socket).unwrap();
    }
}

fn lend<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

#[test]
fn an_idle_connection_between_two_guests_holds_two_kibibytes_at_most_with_all_their_handles() {
    let net = pod();
    let (mut server, mut client) = (Host::new(&net), Host::new(&net));
    let listener = server.listen();
    let mut connect = |count: usize| {
        for _ in 0..count {
            let _ = client.connect();
            let _ = server.view().accept(lend(&listener)).unwrap();
        }
    };
    // Tables and registries grow by doubling: from one power of two to the next, so that their steps are in the sum.
    connect(1024);
    let (before, _) = heap();
    connect(3072);
    let each = (heap().0 - before) / 3072;
    println!("an idle connection with the handles of both guests: {each} bytes");
    assert!(each <= IDLE_MAX, "{each}");
}

#[test]
fn sixty_thousand_connections_leave_memory_where_it_was_after_warm_up() {
    let net = pod();
    let (server, client) = (join(&net), join(&net));
    let (mut server_host, mut client_host) = (Host::new(&net), Host::new(&net));
    let mut listener = server.listen("0.0.0.0:81".parse().unwrap()).unwrap();
    let guests_listener = server_host.listen();
    let udp = client.udp_socket(Family::V4).unwrap();
    udp.bind("127.0.0.1:53".parse().unwrap()).unwrap();
    let mut round = |index: usize| {
        let mut ends = connect(&client, &mut listener);
        talk(&mut ends);
        match index % 3 {
            0 => drop(ends),
            1 => ends.0.abort(),
            _ => drop((ends.1, ends.0)),
        }
        let near = client_host.connect();
        let far = server_host.view().accept(lend(&guests_listener)).unwrap();
        client_host.close(near);
        server_host.close(far);
        let other = server.udp_socket(Family::V4).unwrap();
        other.send(Bytes::from(vec![0; index % 2000]), udp.local_address()).unwrap();
        let _ = ready(udp.try_receive()).unwrap();
    };
    (0..1000).for_each(&mut round);
    let (before, calls) = heap();
    (0..60_000).for_each(&mut round);
    let (after, calls_after) = heap();
    println!(
        "after 60,000 rounds: {} bytes more, {} allocations a round",
        after - before,
        (calls_after - calls) / 60_000
    );
    assert!((after - before).abs() <= LEFT_MAX, "{}", after - before);
}

#[test]
fn a_hundred_thousand_refused_connects_cost_nothing_however_many_ports_are_taken() {
    let net = pod();
    let member = join(&net);
    let to: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let refuse = |count: usize| {
        let before = heap();
        for _ in 0..count {
            assert_eq!(member.connect(to).err(), Some(ConnectError::Refused(to)));
        }
        let after = heap();
        (after.0 - before.0, after.1 - before.1)
    };
    refuse(10);
    assert_eq!(refuse(100_000), (0, 0), "no byte kept, and none asked for");
    // All but one of the ports for "any" are taken: the last is found as quickly, by the same steps.
    let bound: Vec<_> = std::iter::from_fn(|| {
        let mut socket = member.tcp_socket(Family::V4).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).ok().map(|()| socket)
    })
    .collect();
    assert_eq!(bound.len(), 28_232, "Linux's range");
    assert_eq!(refuse(1000), (0, 0));
    assert_eq!(net.bound_ports(), (28_232, 0));
    drop(bound);
    assert_eq!(net.bound_ports(), (0, 0));
}

/// The addresses of one machine that programs bind to and connect to.
const ADDRESSES: [&str; 6] = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "127.255.255.254", "::", "::1"];

/// A kernel's listening socket, with the two options that WASI asks for: the port is free again at once, and an IPv6
/// socket is for IPv6 alone. Port 0 is any; `Err` is what the kernel says.
fn kernel_listener(at: SocketAddr) -> std::io::Result<(std::net::TcpListener, SocketAddr)> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    bind(&fd, &at)?;
    listen(&fd, 16)?;
    let listener = std::net::TcpListener::from(fd);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
fn which_listeners_get_in_each_others_way_is_as_on_linux() {
    let (mut compared, mut asked) = (0, 0);
    for first in ADDRESSES {
        for second in ADDRESSES {
            asked += 1;
            let Ok((_held, at)) = kernel_listener(address(first, 0)) else {
                println!("skipped: this machine has no {first}");
                continue;
            };
            // Another program may have the port at the second address by chance; then the kernel says so for any.
            let kernel = kernel_listener(address(second, at.port())).map(|_| ());
            let net = pod();
            let (one, other) = (join(&net), join(&net));
            let _held = one.listen(address(first, 80)).unwrap();
            let ours = other.listen(address(second, 80)).map(|_| ());
            assert_eq!(
                ours.is_ok(),
                kernel.is_ok(),
                "{first} then {second}: {ours:?}, Linux: {kernel:?}"
            );
            compared += 1;
        }
    }
    assert!(compared >= 16, "only {compared} of {asked}");
}

#[test]
fn who_answers_at_which_address_and_from_where_one_speaks_is_as_on_linux() {
    for listening in ADDRESSES {
        let Ok((kernels, at)) = kernel_listener(address(listening, 0)) else {
            println!("skipped: this machine has no {listening}");
            continue;
        };
        let net = pod();
        let member = join(&net);
        let mut ours = member.listen(address(listening, 80)).unwrap();
        for to in ADDRESSES.iter().filter(|ip| !matches!(**ip, "0.0.0.0" | "::")) {
            let kernel = std::net::TcpStream::connect(address(to, at.port()));
            let mut connecting = member.connect(address(to, 80));
            let ours_says =
                connecting.as_mut().map(|connecting| ready(connecting.try_finish()).unwrap());
            assert_eq!(
                ours_says.is_ok(),
                kernel.is_ok(),
                "{listening}, asked as {to}: Linux: {kernel:?}"
            );
            let (Ok(near), Ok(kernel)) = (ours_says, kernel) else { continue };
            let (accepted, _) = kernels.accept().unwrap();
            let far = ready(ours.try_accept()).unwrap();
            let ips = |a: SocketAddr, b: SocketAddr, c: SocketAddr| [a.ip(), b.ip(), c.ip()];
            assert_eq!(
                ips(near.local_address(), near.remote_address(), far.local_address()),
                ips(
                    kernel.local_addr().unwrap(),
                    kernel.peer_addr().unwrap(),
                    accepted.local_addr().unwrap()
                ),
                "{listening}, asked as {to}",
            );
            assert_eq!(far.remote_address(), near.local_address());
        }
    }
}

#[test]
fn datagrams_between_the_addresses_of_one_machine_go_as_on_linux() {
    let kernel = |at: SocketAddr| {
        let socket = std::net::UdpSocket::bind(at).ok()?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        Some(socket)
    };
    for bound in ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::1"] {
        for to in ["127.0.0.1", "127.0.0.2", "::1"] {
            if address(bound, 1).is_ipv4() != address(to, 1).is_ipv4() {
                continue;
            }
            let any = if address(to, 1).is_ipv4() { "0.0.0.0" } else { "::" };
            let (Some(receiver), Some(sender)) =
                (kernel(address(bound, 0)), kernel(address(any, 0)))
            else {
                println!("skipped: this machine has no {bound}");
                continue;
            };
            let port = receiver.local_addr().unwrap().port();
            sender.send_to(b"x", address(to, port)).unwrap();
            // What comes behind it says whether it came itself.
            let behind = if bound == "0.0.0.0" { "127.0.0.1" } else { bound };
            sender.send_to(b"y", address(behind, port)).unwrap();
            let mut first = [0];
            let (_, from) = receiver.recv_from(&mut first).unwrap();
            let kernel = (first == *b"x").then_some(from.ip());

            let net = pod();
            let member = join(&net);
            let socket = |at: SocketAddr| {
                let socket = member.udp_socket(Family::of(at.ip())).unwrap();
                socket.bind(at).unwrap();
                socket
            };
            let (receiver, sender) = (socket(address(bound, 53)), socket(address(any, 0)));
            sender.send(Bytes::from_static(b"x"), Some(address(to, 53))).unwrap();
            let ours = match receiver.try_receive() {
                Poll::Ready(datagram) => Some(datagram.unwrap().from.ip()),
                Poll::Pending => None,
            };
            assert_eq!(ours, kernel, "bound to {bound}, sent to {to}");
        }
    }
}
