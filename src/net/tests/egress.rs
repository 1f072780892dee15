//! What leaves the pod: other pods, Services before them, and the outside, by a fake that decides.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;

use super::*;
use crate::net::{
    Ask, ConnectError, Egress, Family, Lookup, MAX_LOOKUPS, Member, MemberLimits, NetConfig,
    OutboundCall, PodNet, Protocol, ReadError, ReceiveError, ResolveError, Route, SendError,
    SocketState, UdpReply, UdpSocket, WriteError,
};

const OTHER_IP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 7);
const SERVICE: &str = "10.96.0.9:53";

/// Decides by a table, and keeps what was handed to it.
#[derive(Debug, Default)]
struct Switch {
    routes: Mutex<HashMap<SocketAddr, Route>>,
    asked: Mutex<Vec<(Protocol, SocketAddr, SocketAddr)>>,
    calls: Mutex<Vec<OutboundCall>>,
    sent: Mutex<Vec<(SocketAddr, SocketAddr, Bytes, UdpReply)>>,
}

impl Switch {
    fn route(&self, to: &str, route: Route) {
        self.routes.lock().unwrap().insert(at(to), route);
    }

    fn call(&self) -> OutboundCall {
        self.calls.lock().unwrap().remove(0)
    }
}

impl Egress for Switch {
    fn route(&self, ask: &Ask<'_>) -> Route {
        self.asked.lock().unwrap().push((ask.protocol, ask.from, ask.to));
        self.routes.lock().unwrap().get(&ask.to).cloned().unwrap_or(Route::Denied)
    }

    fn connect(&self, ask: &Ask<'_>, call: OutboundCall) {
        assert_eq!((ask.from, ask.to), (call.from(), call.to()));
        self.calls.lock().unwrap().push(call);
    }

    fn send(&self, ask: &Ask<'_>, data: Bytes, reply: &UdpReply) -> Result<(), SendError> {
        if data == "full" {
            return Err(SendError::Unreachable(ask.to));
        }
        self.sent.lock().unwrap().push((ask.from, ask.to, data, reply.clone()));
        Ok(())
    }

    fn lookup(&self, member: &str, name: &str) -> Lookup {
        match name {
            "now.example" | "now.example." => Lookup::Now(Ok(vec![OTHER_IP.into()])),
            "empty.example" => Lookup::Now(Ok(Vec::new())),
            "later.example" => Lookup::Later(Box::pin(async { Ok(vec![OTHER_IP.into()]) })),
            "never.example" => Lookup::Later(Box::pin(std::future::pending())),
            "mine.example" if member == "client" => Lookup::Now(Err(ResolveError::Denied)),
            _ => Lookup::Now(Err(ResolveError::NotFound)),
        }
    }
}

struct World {
    switch: Arc<Switch>,
    here: PodNet,
    there: PodNet,
    client: Member,
    server: Member,
}

fn world() -> World {
    let switch = Arc::new(Switch::default());
    let pod = |ip: Ipv4Addr| {
        let mut config = NetConfig::new(ip);
        config.egress = switch.clone();
        PodNet::new(config)
    };
    let (here, there) = (pod(POD_IP), pod(OTHER_IP));
    let (client, server) = (join(&here, "client"), join(&there, "server"));
    World { switch, here, there, client, server }
}

fn udp(member: &Member, address: &str) -> UdpSocket {
    let socket = member.udp_socket(Family::V4).unwrap();
    socket.bind(at(address)).unwrap();
    socket
}

#[test]
fn a_server_in_another_pod_sees_the_callers_pod_and_the_caller_whom_it_asked() {
    let world = world();
    let route = Route::Pod { net: world.there.clone(), to: at("10.88.0.7:5353") };
    world.switch.route(SERVICE, route);
    let mut listener = world.server.listen(at("0.0.0.0:5353")).unwrap();
    let near = ready(world.client.connect(at(SERVICE)).unwrap().try_finish()).unwrap();
    let far = ready(listener.try_accept()).unwrap();
    assert_eq!(near.remote_address(), at(SERVICE));
    assert_eq!(near.local_address().ip(), IpAddr::from(POD_IP));
    assert_eq!(far.remote_address(), near.local_address());
    assert_eq!(far.local_address(), at("10.88.0.7:5353"));
    let asked = world.switch.asked.lock().unwrap()[0];
    assert_eq!(asked, (Protocol::Tcp, SocketAddr::new(POD_IP.into(), 0), at(SERVICE)));
    assert_eq!(world.here.open_sockets() + world.there.open_sockets(), 3, "each pays its own");
}

#[test]
fn a_connect_that_waits_in_another_pods_backlog_comes_to_the_same() {
    let world = world();
    let to = Route::Pod { net: world.there.clone(), to: at("10.88.0.7:5353") };
    world.switch.route(SERVICE, to);
    let mut listener = world.server.listen(at("10.88.0.7:5353")).unwrap();
    listener.set_backlog(1);
    let first = world.client.connect(at(SERVICE)).unwrap();
    let mut second = world.client.connect(at(SERVICE)).unwrap();
    assert!(second.try_finish().is_pending());
    drop(ready(listener.try_accept()).unwrap());
    let near = ready(second.try_finish()).unwrap();
    let far = ready(listener.try_accept()).unwrap();
    assert_eq!((near.remote_address(), far.local_address()), (at(SERVICE), at("10.88.0.7:5353")));
    drop(first);
}

#[test]
fn a_pod_reaches_itself_through_a_service_but_nobodys_loopback() {
    let world = world();
    let mut listener = world.client.listen(at("0.0.0.0:80")).unwrap();
    let _other = world.server.listen(at("0.0.0.0:80")).unwrap();
    world
        .switch
        .route("10.96.0.1:80", Route::Pod { net: world.here.clone(), to: at("10.88.0.5:80") });
    let near = ready(world.client.connect(at("10.96.0.1:80")).unwrap().try_finish()).unwrap();
    assert_eq!(ready(listener.try_accept()).unwrap().remote_address(), near.local_address());
    for wrong in ["127.0.0.1:80", "10.88.0.5:80"] {
        let route = Route::Pod { net: world.there.clone(), to: at(wrong) };
        world.switch.route("10.96.0.2:80", route);
        let outcome = world.client.connect(at("10.96.0.2:80")).map(|_| ());
        assert_eq!(outcome, Err(ConnectError::Unreachable(at("10.96.0.2:80"))), "{wrong}");
    }
}

#[test]
fn what_is_bound_to_loopback_does_not_leave_the_pod() {
    let world = world();
    world.switch.route("192.0.2.1:80", Route::Outside);
    let mut tcp = bound(&world.client, "127.0.0.1:0");
    let to = at("192.0.2.1:80");
    assert_eq!(tcp.connect(to), Err(ConnectError::InvalidAddress(to)));
    let socket = udp(&world.client, "127.0.0.1:0");
    assert_eq!(socket.send(Bytes::new(), Some(to)), Err(SendError::InvalidAddress(to)));
    assert_eq!(socket.connect(to), Err(SendError::InvalidAddress(to)));
}

#[test]
fn an_answer_comes_from_the_service_that_was_asked_even_if_policy_lets_the_server_call_nobody() {
    let world = world();
    let route = Route::Pod { net: world.there.clone(), to: at("10.88.0.7:5353") };
    world.switch.route(SERVICE, route);
    let server = udp(&world.server, "0.0.0.0:5353");
    let client = udp(&world.client, "0.0.0.0:0");
    let connected = udp(&world.client, "0.0.0.0:0");
    connected.connect(at(SERVICE)).unwrap();
    client.send(Bytes::from_static(b"who?"), Some(at(SERVICE))).unwrap();
    connected.send(Bytes::from_static(b"who?"), None).unwrap();
    for asker in [&client, &connected] {
        let question = ready(server.try_receive()).unwrap();
        assert_eq!(question.from.ip(), IpAddr::from(POD_IP));
        server.send(Bytes::from_static(b"me"), Some(question.from)).unwrap();
        let answer = ready(asker.try_receive()).unwrap();
        assert_eq!((answer.from, &answer.data[..]), (at(SERVICE), &b"me"[..]));
    }
    client.send(Bytes::from_static(b"again"), Some(at(SERVICE))).unwrap();
    assert_eq!(world.switch.asked.lock().unwrap().len(), 4, "each question is routed, no answer");
    let stranger = udp(&world.server, "0.0.0.0:0");
    let to = client.local_address().map(|it| SocketAddr::new(POD_IP.into(), it.port())).unwrap();
    assert_eq!(stranger.send(Bytes::new(), Some(to)), Err(SendError::Denied(to)));
    drop(client);
    assert_eq!(server.send(Bytes::new(), Some(to)), Err(SendError::Denied(to)), "it is gone");
}

#[test]
fn a_connected_sender_learns_that_no_pod_listens_behind_a_service() {
    let world = world();
    let route = Route::Pod { net: world.there.clone(), to: at("10.88.0.7:5353") };
    world.switch.route(SERVICE, route);
    let client = udp(&world.client, "0.0.0.0:0");
    client.connect(at(SERVICE)).unwrap();
    client.send(Bytes::new(), None).unwrap();
    assert_eq!(ready(client.try_receive()), Err(ReceiveError::Refused));
}

#[test]
fn a_call_to_the_outside_becomes_a_connection_with_the_bounds_of_any_other() {
    let world = world();
    let to = at("192.0.2.1:80");
    world.switch.route("192.0.2.1:80", Route::Outside);
    let bell = Bell::new();
    let mut connecting = world.client.connect(to).unwrap();
    assert!(bell.with(|cx| connecting.poll_ready(cx)).is_pending());
    assert_eq!(world.client.sockets()[0].state, SocketState::SynSent);
    let mut far = world.switch.call().connected(at("198.51.100.2:40000")).unwrap();
    assert_eq!(bell.rang(), 1);
    let mut near = ready(connecting.try_finish()).unwrap();
    assert_eq!((near.remote_address(), far.local_address()), (to, to));
    assert_eq!(far.remote_address(), near.local_address());
    send(&mut near, b"GET");
    assert_eq!(drain(&mut far), b"GET");
    send(&mut far, b"200");
    let row = world.client.sockets().remove(0);
    assert_eq!((row.receive_queue, row.via), (3, Some(at("198.51.100.2:40000"))));
    assert_eq!(drain(&mut near), b"200");
    let counters = world.client.counters();
    assert_eq!((counters.tcp_bytes_sent, counters.tcp_bytes_received), (3, 3));
    assert_eq!(counters.connects, 1);
    let mut filled = 0;
    let block = [0; 4096];
    while let std::task::Poll::Ready(n) = far.write.try_write_slice(&block) {
        filled += n.unwrap();
    }
    assert_eq!(filled, 128 * 1024);
    assert!(world.client.buffered_bytes() >= filled, "the module pays for what comes to it");
    world.client.reset();
    assert_eq!(ready(far.read.try_read(1)), Err(ReadError::Reset));
    drop((near, far));
    assert_eq!(world.client.buffered_bytes(), 0);
    assert_eq!(world.here.bound_ports(), (0, 0));
}

#[test]
fn a_call_that_fails_or_is_forgotten_fails_the_connect() {
    let world = world();
    let to = at("192.0.2.1:80");
    world.switch.route("192.0.2.1:80", Route::Outside);
    let call = || world.client.connect(to).unwrap();
    let mut connecting = call();
    world.switch.call().failed(ConnectError::Refused(to));
    assert_eq!(ready(connecting.try_finish()).unwrap_err(), ConnectError::Refused(to));
    let mut connecting = call();
    drop(world.switch.call());
    assert_eq!(ready(connecting.try_finish()).unwrap_err(), ConnectError::Unreachable(to));
    assert_eq!(world.here.bound_ports(), (0, 0));
    let counters = world.client.counters();
    assert_eq!((counters.connects_refused, counters.connects_failed), (1, 1));
}

#[test]
fn whoever_makes_a_call_learns_that_the_guest_gave_up() {
    let world = world();
    let to = at("192.0.2.1:80");
    world.switch.route("192.0.2.1:80", Route::Outside);
    let bell = Bell::new();
    let given_up = |end: &mut dyn FnMut(crate::net::Connecting)| {
        let connecting = world.client.connect(to).unwrap();
        let mut call = world.switch.call();
        assert!(bell.with(|cx| call.poll_abandoned(cx)).is_pending());
        end(connecting);
        assert_eq!(bell.rang(), 1);
        assert!(bell.with(|cx| call.poll_abandoned(cx)).is_ready());
        assert!(call.connected(at("198.51.100.2:1")).is_none());
        assert_eq!(world.here.bound_ports(), (0, 0));
    };
    given_up(&mut drop);
    given_up(&mut |mut connecting| {
        assert_eq!(connecting.give_up().unwrap_err(), ConnectError::TimedOut(to));
    });
    given_up(&mut |_kept| world.client.reset());
}

#[test]
fn a_datagram_to_the_outside_carries_its_way_back() {
    let world = world();
    let to = at("192.0.2.1:53");
    world.switch.route("192.0.2.1:53", Route::Outside);
    let socket = udp(&world.client, "0.0.0.0:0");
    socket.connect(to).unwrap();
    socket.send(Bytes::from_static(b"?"), None).unwrap();
    assert_eq!(
        socket.send(Bytes::from_static(b"full"), None),
        Err(SendError::Unreachable(to)),
        "what the outside says at once is told"
    );
    let (from, asked, data, mut reply) = world.switch.sent.lock().unwrap().remove(0);
    assert_eq!((from.ip(), asked, &data[..]), (POD_IP.into(), to, &b"?"[..]));
    assert!(!reply.deliver(at("192.0.2.66:53"), Bytes::new()), "somebody else's");
    assert!(reply.deliver(to, Bytes::from_static(b"!")));
    let answer = ready(socket.try_receive()).unwrap();
    assert_eq!((answer.from, &answer.data[..]), (to, &b"!"[..]));
    let bell = Bell::new();
    assert!(bell.with(|cx| reply.poll_closed(cx)).is_pending());
    world.client.reset();
    assert_eq!(bell.rang(), 1);
    assert!(reply.is_closed() && !reply.deliver(to, Bytes::new()));
}

#[test]
fn a_name_is_looked_up_here_first_and_then_elsewhere() {
    let world = world();
    let found = |lookup| match lookup {
        Lookup::Now(answer) => answer,
        Lookup::Later(answer) => block_on(answer),
    };
    let loopback = Ok(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]);
    let table = [
        ("localhost", loopback),
        ("now.example.", Ok(vec![OTHER_IP.into()])),
        ("later.example", Ok(vec![OTHER_IP.into()])),
        ("empty.example", Err(ResolveError::NotFound)),
        ("mine.example", Err(ResolveError::Denied)),
        ("a b", Err(ResolveError::Invalid)),
    ];
    for (name, answer) in table {
        assert_eq!(found(world.client.lookup(name)), answer, "{name}");
    }
    let waiting: Vec<_> = (0..MAX_LOOKUPS).map(|_| world.client.lookup("never.example")).collect();
    assert_eq!(found(world.client.lookup("now.example")), Err(ResolveError::Temporary));
    assert!(found(world.client.lookup("localhost")).is_ok(), "one's own names need no resolver");
    drop(waiting);
    assert!(found(world.client.lookup("now.example")).is_ok());
}

#[test]
fn localhost_needs_no_resolver() {
    /// Fails the test when it is asked anything.
    #[derive(Debug)]
    struct Unasked;

    impl Egress for Unasked {
        fn route(&self, ask: &Ask<'_>) -> Route {
            panic!("asked the way to {}", ask.to);
        }

        fn lookup(&self, _member: &str, name: &str) -> Lookup {
            panic!("asked for {name}");
        }
    }

    let mut config = NetConfig::new(POD_IP);
    config.host_names = vec!["greenhouse".to_owned()];
    config.egress = Arc::new(Unasked);
    let net = PodNet::new(config);
    let member = join(&net, "module");
    for name in [
        "localhost",
        "LocalHost.",
        "db.localhost",
        "ip6-localhost",
        "greenhouse",
        "127.0.0.1",
        "::1",
    ] {
        let Lookup::Now(Ok(addresses)) = member.lookup(name) else { panic!("{name}") };
        let mut listener = member.listen(SocketAddr::new(addresses[0], 80)).unwrap();
        let near = ready(member.connect(listener.local_address()).unwrap().try_finish());
        assert!(near.is_ok() && listener.try_accept().is_ready(), "{name}");
    }
}

#[test]
fn flows_are_forgotten_beyond_their_bound() {
    let world = world();
    let server = udp(&world.server, "0.0.0.0:5353");
    let route = Route::Pod { net: world.there.clone(), to: at("10.88.0.7:5353") };
    world.switch.route(SERVICE, route);
    let limits = MemberLimits { max_sockets: 2000, ..MemberLimits::default() };
    let many = world.here.join("many", limits, Arc::new(crate::net::NoLedger));
    let askers: Vec<_> = (0..300).map(|_| udp(&many, "0.0.0.0:0")).collect();
    for asker in &askers {
        asker.send(Bytes::new(), Some(at(SERVICE))).unwrap();
    }
    let answers = std::iter::from_fn(|| match server.try_receive() {
        std::task::Poll::Ready(Ok(datagram)) => Some(datagram.from),
        std::task::Poll::Ready(Err(_)) | std::task::Poll::Pending => None,
    });
    let outcomes: Vec<_> =
        answers.map(|from| server.send(Bytes::new(), Some(from)).is_ok()).collect();
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 256, "the latest askers");
    assert!(!outcomes[0] && outcomes[299]);
}

/// `docs/limits.md`: what others send a module ends it not.
#[test]
fn an_answer_from_outside_that_finds_no_memory_is_no_failure_of_the_module() {
    let world = world();
    let purse = Purse::of(8 * 1024);
    let client = world.here.join("client", MemberLimits::default(), purse.clone());
    world.switch.route("192.0.2.1:80", Route::Outside);
    let mut waiting = client.connect(at("192.0.2.1:80")).unwrap();
    let mut far = world.switch.call().connected(at("198.51.100.1:5000")).unwrap();
    let mut near = ready(waiting.try_finish()).unwrap();
    let rest = client.pay(purse.left()).unwrap();
    assert_eq!(far.write.try_write_slice(b"x"), Poll::Ready(Err(WriteError::NoMemory)));
    assert_eq!(purse.missed(), 0);
    assert_eq!(near.write.try_write_slice(b"x"), Poll::Ready(Err(WriteError::NoMemory)));
    assert_eq!(purse.missed(), 1);
    drop(rest);
}
