//! Connections to the outside.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::kit::{NoNames, Stuck, World, at, test_net, until};
use crate::net::{ConnectError, OpenError, ReadError, Stream};
use crate::outside::{NotGranted, PodLimits};
use crate::spec::{HostPort, Source};
use crate::testkit::pods::{self, Tweak as _};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A module's connection to somebody outside, and that one's end of it.
async fn connected() -> (World, Stream, TcpStream) {
    let (listener, address) = listener().await;
    let world = World::mapped(&[("192.0.2.9:80", address)]);
    let near = world.module.connect(at("192.0.2.9:80")).unwrap();
    let (near, far) = tokio::join!(near, listener.accept());
    (world, near.unwrap(), far.unwrap().0)
}

async fn read(stream: &mut Stream) -> Result<Bytes, ReadError> {
    std::future::poll_fn(|cx| stream.read.poll_read(cx, usize::MAX)).await
}

async fn read_all(stream: &mut Stream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match read(stream).await.unwrap() {
            bytes if bytes.is_empty() => return all,
            bytes => all.extend_from_slice(&bytes),
        }
    }
}

async fn write(stream: &mut Stream, data: &[u8]) {
    let mut data = Bytes::copy_from_slice(data);
    while !data.is_empty() {
        std::future::poll_fn(|cx| stream.write.poll_write(cx, &mut data)).await.unwrap();
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_side_may_close_first() {
    let (world, mut near, mut far) = connected().await;
    assert_eq!(near.remote_address(), at("192.0.2.9:80"));
    let sent = pattern(3_000_000);
    let module = async {
        write(&mut near, b"question").await;
        near.shutdown_write();
        read_all(&mut near).await
    };
    let outside = async {
        let mut question = Vec::new();
        far.read_to_end(&mut question).await.unwrap();
        far.write_all(&sent).await.unwrap();
        far.shutdown().await.unwrap();
        question
    };
    let (answer, question) = tokio::join!(module, outside);
    assert!(answer == sent);
    assert_eq!(question, b"question");
    until("the connection to be over", || world.pod.traffic().connections_open.get() == 0).await;
    let traffic = world.pod.traffic().snapshot();
    assert_eq!((traffic.bytes_in, traffic.bytes_out), (3_000_000, 8));
    assert_eq!((traffic.connections, traffic.connections_peak, traffic.resets), (1, 1, 0));
}

#[tokio::test]
async fn the_other_side_may_close_first_and_still_be_written_to() {
    let (_world, mut near, mut far) = connected().await;
    far.write_all(b"hello").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(read_all(&mut near).await, b"hello");
    write(&mut near, b"late").await;
    near.shutdown_write();
    let mut late = Vec::new();
    far.read_to_end(&mut late).await.unwrap();
    assert_eq!(late, b"late");
}

#[tokio::test]
async fn a_reset_outside_is_a_reset_inside_after_what_was_sent() {
    let (world, mut near, mut far) = connected().await;
    far.write_all(b"last words").await.unwrap();
    until("the words to arrive", || world.pod.traffic().bytes_in.get() == 10).await;
    crate::outside::reset(&far);
    drop(far);
    until("the reset", || world.pod.traffic().resets.get() == 1).await;
    assert_eq!(read(&mut near).await.unwrap(), &b"last words"[..]);
    assert_eq!(read(&mut near).await, Err(ReadError::Reset));
}

#[tokio::test]
async fn a_module_that_dies_resets_its_connections() {
    let (world, near, mut far) = connected().await;
    world.module.reset();
    let error = far.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    drop(near);
}

#[tokio::test]
async fn a_pod_that_goes_takes_its_connections_with_it() {
    let (world, mut near, mut far) = connected().await;
    world.pod.close();
    assert_eq!(far.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The daemon's end is dropped: for the module this is the end of the connection.
    assert!(read(&mut near).await.is_ok_and(|bytes| bytes.is_empty()));
    until("its place to be free", || world.pod.traffic().connections_open.get() == 0).await;
}

#[tokio::test]
async fn a_module_that_has_closed_leaves_no_connection_behind() {
    let (world, near, far) = connected().await;
    drop(near);
    // `far` stays open and says nothing, as a forgetful server does.
    until("the connection to be over", || world.pod.traffic().connections_open.get() == 0).await;
    drop(far);
}

#[tokio::test]
async fn a_module_that_does_not_read_stops_the_outside_within_its_pipes_bound() {
    let (world, mut near, mut far) = connected().await;
    let sent = pattern(64 << 20);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        far.write_all(&sent).await.unwrap();
        far.shutdown().await.unwrap();
    });
    let mut last = 0;
    // Until nothing more comes for a while: the writer is stopped.
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = world.pod.traffic().bytes_in.get();
        if now == last && now > 0 {
            break;
        }
        last = now;
    }
    let held = world.net.buffered_bytes();
    assert!(held <= 2 * crate::net::DEFAULT_BUFFER + 8192, "{held} bytes are held");
    assert!(!writing.is_finished());
    assert!(read_all(&mut near).await == expected);
    writing.await.unwrap();
}

#[tokio::test]
async fn an_outside_that_does_not_read_stops_the_module() {
    let (world, mut near, mut far) = connected().await;
    let mut written = 0_usize;
    let chunk = Bytes::from(pattern(64 * 1024));
    // The kernel's buffers and the pipe take some megabytes, and then no more.
    let stalled = loop {
        let mut data = chunk.clone();
        let write = std::future::poll_fn(|cx| near.write.poll_write(cx, &mut data));
        match tokio::time::timeout(Duration::from_millis(300), write).await {
            Ok(n) => written += n.unwrap(),
            Err(_) => break written,
        }
        assert!(written < 256 << 20, "nothing ever stops the module");
    };
    assert!(world.net.buffered_bytes() <= 2 * crate::net::DEFAULT_BUFFER + 8192);
    near.shutdown_write();
    let mut received = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match far.read(&mut buffer).await.unwrap() {
            0 => break,
            n => received += n,
        }
    }
    assert_eq!(received, stalled);
}

#[tokio::test]
async fn whoever_is_not_there_refuses() {
    let world = World::mapped(&[]);
    let to = at("192.0.2.1:80");
    let refused = world.module.connect(to).unwrap().await.unwrap_err();
    assert_eq!(refused, ConnectError::Refused(to));
    assert_eq!(world.pod.traffic().connections_failed.get(), 1);
    assert_eq!(world.module.open_sockets(), 0);
}

#[tokio::test]
async fn the_host_itself_is_never_reached() {
    let (listener, address) = listener().await;
    let world = World::mapped(&[]);
    let port = address.port();
    let closed = [
        format!("0.1.2.3:{port}"),
        format!("169.254.169.254:{port}"),
        format!("169.254.1.1:{port}"),
        format!("0.0.0.1:{port}"),
    ];
    for to in closed {
        let to = at(&to);
        let denied = match world.module.connect(to) {
            Ok(connecting) => connecting.await.unwrap_err(),
            Err(denied) => denied,
        };
        assert_eq!(denied, ConnectError::Denied(to));
    }
    assert_eq!(world.pod.traffic().closed.get(), 4);
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "somebody came through");
}

#[tokio::test]
async fn an_address_of_this_machine_is_closed_and_its_neighbours_are_not() {
    // Asked of the kernel, which knows them all; a machine without a network has none to try.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if probe.connect("192.0.2.1:9").is_err() {
        return;
    }
    let own = probe.local_addr().unwrap().ip();
    let world = World::mapped(&[]);
    let to = SocketAddr::new(own, 9);
    let denied = world.module.connect(to).unwrap().await.unwrap_err();
    assert_eq!(denied, ConnectError::Denied(to));
    assert_eq!(world.pod.traffic().closed.get(), 1);
}

#[tokio::test]
async fn a_granted_port_of_the_hosts_loopback_is_reached_and_no_other() {
    let (listener, address) = listener().await;
    let grant = format!("tcp/{}", address.port());
    let world = World::granted(test_net(&[]), NoNames, PodLimits::default(), &[&grant]);
    let to = SocketAddr::new(crate::outside::address::HOST_IP.into(), address.port());
    let near = world.module.connect(to).unwrap();
    let (near, far) = tokio::join!(near, listener.accept());
    let mut near = near.unwrap();
    assert_eq!(near.remote_address(), to);
    far.unwrap().0.write_all(b"from the host").await.unwrap();
    assert_eq!(read_all(&mut near).await, b"from the host");
    let other = SocketAddr::new(to.ip(), address.port() ^ 1);
    let denied = world.module.connect(other).unwrap().await.unwrap_err();
    assert_eq!(denied, ConnectError::Denied(other));
}

#[tokio::test]
async fn connects_under_way_are_bounded_and_one_given_up_makes_room() {
    let limits = PodLimits { connecting: 2, ..PodLimits::default() };
    let world = World::new(Stuck, NoNames, limits);
    let connect = |n: u8| world.module.connect(SocketAddr::from(([192, 0, 2, n], 80))).unwrap();
    let (first, _second) = (connect(1), connect(2));
    assert_eq!(connect(3).await.unwrap_err(), ConnectError::Open(OpenError::PodLimit));
    assert_eq!(world.pod.traffic().connections_limited.get(), 1);
    drop(first);
    until("room", || world.pod.connecting.available_permits() == 1).await;
    let mut fourth = connect(4);
    assert!(fourth.try_finish().is_pending());
}

#[tokio::test]
async fn open_connections_are_bounded() {
    let (listener, address) = listener().await;
    let limits = PodLimits { connections: 1, ..PodLimits::default() };
    let world = World::new(test_net(&[("192.0.2.9:80", address)]), NoNames, limits);
    let near = world.module.connect(at("192.0.2.9:80")).unwrap();
    let (near, _far) = tokio::join!(near, listener.accept());
    let refused = world.module.connect(at("192.0.2.9:80")).unwrap().await.unwrap_err();
    assert_eq!(refused, ConnectError::Open(OpenError::PodLimit));
    drop(near);
    until("its place to be free", || world.pod.connections.available_permits() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_answer_is_given_up() {
    let world = World::new(Stuck, NoNames, PodLimits::default());
    let to = at("192.0.2.1:80");
    let late = world.module.connect(to).unwrap().await.unwrap_err();
    assert_eq!(late, ConnectError::TimedOut(to));
}

#[tokio::test]
async fn a_pod_from_afar_is_granted_what_the_node_lists_and_no_more() {
    let world = World::mapped(&[]);
    let grant = |text: &str| HostPort::parse(text).unwrap();
    let pod = |source: Source, ports: &[&str]| {
        pods::pod([pods::regular("c")]).tweak(|pod| {
            pod.source = source;
            pod.network.host_loopback = ports.iter().map(|port| grant(port)).collect();
        })
    };
    let file = Source::Folder("/etc/pods/a.yaml".into());
    assert!(world.gateway.admit(&pod(file, &["tcp/5432"])).is_ok_and(|pod| pod.has_grants()));
    assert!(world.gateway.admit(&pod(Source::Api, &[])).is_ok_and(|pod| !pod.has_grants()));
    let refused = world.gateway.admit(&pod(Source::Api, &["tcp/5432"])).unwrap_err();
    assert_eq!(refused, NotGranted(grant("tcp/5432")), "nothing is listed by default");
    world.gateway.set_loopback_for_all(vec![grant("tcp/5432")]);
    for source in [Source::Api, Source::Mqtt] {
        assert!(world.gateway.admit(&pod(source.clone(), &["tcp/5432"])).is_ok());
        let refused = world.gateway.admit(&pod(source, &["tcp/5432", "udp/5432"])).unwrap_err();
        assert_eq!(refused, NotGranted(grant("udp/5432")));
    }
}
