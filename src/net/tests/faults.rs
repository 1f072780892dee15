//! Faults on demand: what is ordered happens, and nothing else.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::clock::Timestamp;
use crate::net::faults::{Fault, Faults};
use crate::net::{
    ConnectError, Family, Member, NetConfig, PodNet, ReadError, Stream, UdpSocket, WriteError,
};

const HERE: IpAddr = IpAddr::V4(POD_IP);
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 6));
const SERVER: &str = "10.88.0.6:80";

fn ms(ms: u64) -> Timestamp {
    Timestamp::simulated(Duration::from_millis(ms))
}

struct World {
    faults: Faults,
    client: Member,
    server: Member,
}

fn world(seed: u64) -> World {
    let faults = Faults::new(seed);
    let pod = |ip: IpAddr, egress: Option<PodNet>| {
        let IpAddr::V4(ip) = ip else { panic!("a pod has an IPv4 address") };
        let mut config = NetConfig::new(ip);
        config.faults = Some(faults.clone());
        if let Some(next) = egress {
            config.egress = Arc::new(NextDoor(next));
        }
        PodNet::new(config)
    };
    let there = pod(THERE, None);
    let here = pod(HERE, Some(there.clone()));
    World { client: join(&here, "client"), server: join(&there, "server"), faults }
}

fn connect(world: &World) -> (crate::net::Listener, Stream, Stream) {
    let mut listener = world.server.listen(at("0.0.0.0:80")).unwrap();
    let near = ready(world.client.connect(at(SERVER)).unwrap().try_finish()).unwrap();
    let far = ready(listener.try_accept()).unwrap();
    (listener, near, far)
}

fn sockets(world: &World) -> (UdpSocket, UdpSocket) {
    let bound = |member: &Member, at: &str| {
        let socket = member.udp_socket(Family::V4).unwrap();
        socket.bind(at.parse().unwrap()).unwrap();
        socket
    };
    (bound(&world.client, "0.0.0.0:0"), bound(&world.server, "0.0.0.0:53"))
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    let next = || match socket.try_receive() {
        Poll::Ready(Ok(datagram)) => Some(datagram.data[0]),
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => None,
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn without_orders_a_network_with_faults_is_like_any_other() {
    let world = world(1);
    let refused = world.client.connect(at(SERVER)).unwrap().try_finish();
    assert_eq!(ready(refused).unwrap_err(), ConnectError::Refused(at(SERVER)));
    let (listener, mut near, mut far) = connect(&world);
    send(&mut near, b"ping");
    assert_eq!(drain(&mut far), b"ping");
    drop(near);
    assert_eq!(read_all(&mut far), (vec![], Ending::End));
    assert_eq!(world.faults.advance(ms(1)), None);
    assert_eq!(world.faults.counts(), crate::net::faults::FaultCounts::default());
    drop((listener, far));
}

#[test]
fn what_is_late_comes_when_its_time_has_come_and_wakes_who_waits() {
    let world = world(1);
    let (_listener, mut near, mut far) = connect(&world);
    let delay = Fault { delay: Duration::from_millis(50), ..Fault::default() };
    world.faults.between(HERE, THERE, delay);
    let bell = Bell::new();
    assert!(bell.with(|cx| far.read.poll_ready(cx)).is_pending());
    send(&mut near, b"late");
    near.shutdown_write();
    assert!(matches!(near.write.try_write_slice(b"x"), Poll::Ready(Err(WriteError::Closed))));
    assert_eq!((bell.rang(), read_all(&mut far)), (0, (vec![], Ending::Open)));
    assert_eq!(world.faults.advance(ms(49)), Some(ms(50)));
    assert_eq!(read_all(&mut far).1, Ending::Open);
    assert_eq!(world.faults.advance(ms(50)), None);
    assert!(bell.rang() > 0);
    assert_eq!(read_all(&mut far), (b"late".to_vec(), Ending::End));
    let mut late = world.client.connect(at(SERVER)).unwrap();
    assert!(late.try_finish().is_pending());
    assert_eq!(world.faults.advance(ms(99)), Some(ms(100)));
    world.faults.advance(ms(100));
    assert!(ready(late.try_finish()).is_ok());
}

#[test]
fn bytes_stay_in_order_and_within_their_bound_however_the_delay_varies() {
    let world = world(7);
    let (_listener, mut near, mut far) = connect(&world);
    let fault = Fault { jitter: Duration::from_millis(20), ..Fault::default() };
    world.faults.everywhere(fault);
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    for step in 0..500u64 {
        let data = pattern(after(0, sent.len()), 700);
        if let Poll::Ready(n) = near.write.try_write_slice(&data) {
            sent.extend_from_slice(&data[..n.unwrap()]);
        }
        assert!(world.client.buffered_bytes() <= 128 * 1024 + 4096);
        if step % 40 == 0 {
            world.faults.advance(ms(step));
            got.extend(drain(&mut far));
        }
    }
    world.faults.clear();
    got.extend(drain(&mut far));
    assert_eq!(got, sent);
}

#[test]
fn two_pods_parted_hear_nothing_of_each_other_until_it_is_healed() {
    let world = world(1);
    let (_listener, mut near, mut far) = connect(&world);
    let (client, server) = sockets(&world);
    world.faults.part(THERE, HERE);
    send(&mut near, b"are you there?");
    let mut connecting = world.client.connect(at(SERVER)).unwrap();
    client.send(Bytes::from_static(b"x"), Some(at("10.88.0.6:53"))).unwrap();
    drop(near);
    world.faults.advance(ms(10_000));
    assert_eq!(read_all(&mut far), (vec![], Ending::Open), "neither bytes nor the end");
    send(&mut far, b"nobody reads this");
    assert!(connecting.try_finish().is_pending(), "not even a refusal");
    world.faults.heal(HERE, THERE);
    assert_eq!(read_all(&mut far).0, b"are you there?");
    assert!(ready(connecting.try_finish()).is_ok());
    assert_eq!(received(&server), Vec::<u8>::new(), "datagrams are lost");
    assert_eq!(ready(far.write.try_write_slice(b"x")), Err(WriteError::Broken));
}

#[test]
fn the_death_of_a_module_is_heard_beyond_a_partition_only_when_it_heals() {
    let world = world(1);
    let (_listener, mut near, far) = connect(&world);
    world.faults.part(HERE, THERE);
    world.server.reset();
    drop(far);
    assert_eq!(read_all(&mut near), (vec![], Ending::Open));
    send(&mut near, b"into the void");
    world.faults.heal(HERE, THERE);
    assert_eq!(read_all(&mut near), (vec![], Ending::Reset));
}

#[test]
fn who_gives_up_on_a_parted_server_has_timed_out_and_left_nothing() {
    let world = world(1);
    let _listener = world.server.listen(at("0.0.0.0:80")).unwrap();
    world.faults.part(HERE, THERE);
    let mut connecting = world.client.connect(at(SERVER)).unwrap();
    assert_eq!(connecting.give_up().unwrap_err(), ConnectError::TimedOut(at(SERVER)));
    assert_eq!(world.client.net().bound_ports(), (0, 0));
    assert_eq!(world.client.counters().connects_failed, 1);
    world.faults.heal(HERE, THERE);
    assert_eq!(world.server.net().open_sockets(), 1, "only the listener");
}

#[test]
fn datagrams_are_lost_and_reordered_as_often_as_ordered_and_alike_for_alike_seeds() {
    let run = |seed| {
        let world = world(seed);
        let (client, server) = sockets(&world);
        world.faults.everywhere(Fault { loss: 200, reorder: 100, ..Fault::default() });
        for n in 0..=255 {
            client.send(Bytes::from(vec![n]), Some(at("10.88.0.6:53"))).unwrap();
        }
        world.faults.advance(ms(1));
        (received(&server), world.faults.counts())
    };
    let (order, counts) = run(3);
    assert_eq!(order.len() as u64, 256 - counts.lost);
    assert!((20..90).contains(&counts.lost), "{counts:?}");
    let swapped = order.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
    assert!(swapped > 5 && swapped <= counts.reordered, "{swapped} of {counts:?}");
    assert_eq!(run(3), (order.clone(), counts));
    assert_ne!(run(4).0, order);
}

#[test]
fn a_connection_is_broken_for_both_by_order_or_by_chance() {
    let world = world(5);
    let (_listener, mut near, mut far) = connect(&world);
    assert_eq!(world.faults.reset(THERE, HERE), 1);
    assert_eq!(ready(near.read.try_read(1)), Err(ReadError::Reset));
    assert_eq!(ready(near.write.try_write_slice(b"x")), Err(WriteError::Reset));
    assert_eq!(ready(far.read.try_read(1)), Err(ReadError::Reset));
    assert_eq!((world.client.counters().resets, world.server.counters().resets), (1, 1));
    drop((near, far, _listener));
    let (_listener, mut near, mut far) = connect(&world);
    world.faults.everywhere(Fault { reset: 100, ..Fault::default() });
    let mut written = 0;
    while near.write.try_write_slice(b"x").map(|outcome| outcome.is_ok()) == Poll::Ready(true) {
        written += 1;
    }
    assert!((1..200).contains(&written));
    assert_eq!(read_all(&mut far).1, Ending::Reset);
    assert_eq!(world.faults.counts().resets, 2);
}

#[test]
fn faults_lie_within_a_pod_too() {
    let world = world(1);
    let (_listener, near, far) = connected(&world.client, &world.client);
    world.faults.part(HERE, HERE);
    drop(near);
    let mut far = far;
    assert_eq!(read_all(&mut far).1, Ending::Open);
    world.faults.clear();
    assert_eq!(read_all(&mut far).1, Ending::End);
}
