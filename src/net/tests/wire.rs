#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use crate::net::faults::Faults;
use crate::net::tests::{Bell, Ending, POD_IP, at, drain, join, pod, read_all, ready, send};
use crate::net::{Listener, Member, NetConfig, PodNet, SocketState, Stream, Wire, Wired};

/// A socket whose other side is the test.
#[derive(Debug, Default)]
struct Far {
    says: Vec<u8>,
    heard: Vec<u8>,
    is_shut: bool,
    is_broken: bool,
    is_reset: bool,
}

#[derive(Debug)]
struct Near(Arc<Mutex<Far>>);

impl Wire for Near {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        max: usize,
        into: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let far = &mut *self.0.lock().unwrap();
        if far.is_broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let said = &mut far.says;
        let n = said.len().min(max);
        into(&said.drain(..n).collect::<Vec<_>>());
        Poll::Ready(Ok(n))
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        parts.iter().for_each(|part| self.0.lock().unwrap().heard.extend_from_slice(part));
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().unwrap().is_shut = true;
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.0.lock().unwrap().is_broken { Poll::Ready(()) } else { Poll::Pending }
    }

    fn reset(&mut self) {
        self.0.lock().unwrap().is_reset = true;
    }
}

/// A socket, and the sight of what goes through it. One that is dropped is nobody's but the test's.
fn socket() -> (Box<Near>, Arc<Mutex<Far>>) {
    let far = Arc::<Mutex<Far>>::default();
    (Box::new(Near(Arc::clone(&far))), far)
}

fn is_dropped(far: &Arc<Mutex<Far>>) -> bool {
    Arc::strong_count(far) == 1
}

struct World {
    net: PodNet,
    server: Member,
    host: Member,
    listener: Listener,
}

fn world(net: PodNet, takes_wires: bool) -> World {
    let (server, host) = (join(&net, "server"), join(&net, "host"));
    let mut listener = server.listen(at("0.0.0.0:80")).unwrap();
    if takes_wires {
        listener.take_wires();
    }
    World { net, server, host, listener }
}

impl World {
    /// The client's end and the server's of one from elsewhere.
    fn connected(&mut self, has_wire: bool) -> (Stream, Stream) {
        let (client, to) = (Some(at("192.0.2.1:5")), at("10.88.0.5:80"));
        let mut connecting = if has_wire {
            self.host.connect_with_wire(client, to).unwrap()
        } else {
            self.host.connect_patiently(client, to).unwrap()
        };
        let far = ready(self.listener.try_accept()).unwrap();
        (ready(connecting.try_finish()).unwrap(), far)
    }

    fn states(&self) -> Vec<SocketState> {
        let sockets = self.net.sockets().into_iter().map(|socket| socket.state);
        sockets.filter(|state| *state != SocketState::Listen).collect()
    }
}

fn take(server: &mut Stream) -> Option<Wired> {
    ready(Bell::new().with(|cx| server.poll_wire(cx)))
}

fn read(wired: &mut Wired, max: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let into = &mut |part: &[u8]| all.extend_from_slice(part);
    let n = ready(Bell::new().with(|cx| wired.poll_read(cx, max, into))).unwrap();
    assert_eq!(n, all.len());
    all
}

#[test]
fn a_socket_that_is_handed_over_is_the_servers_and_counted_at_both_ends() {
    let mut world = world(pod(), true);
    let (near, mut server) = world.connected(true);
    assert!(server.comes_by_wire());
    let (wire, far) = socket();
    near.hand_over(wire, |wire| wire).unwrap();
    let mut wired = take(&mut server).unwrap();
    far.lock().unwrap().says = b"question".to_vec();
    assert_eq!((read(&mut wired, 5), read(&mut wired, 5)), (b"quest".to_vec(), b"ion".to_vec()));
    let parts = [IoSlice::new(b"ans"), IoSlice::new(b"wer!")];
    assert_eq!(ready(Bell::new().with(|cx| wired.poll_write(cx, &parts))).unwrap(), 7);
    assert_eq!(far.lock().unwrap().heard, b"answer!");
    let counted = |member: &Member| {
        let counters = member.counters();
        (counters.tcp_bytes_received, counters.tcp_bytes_sent)
    };
    assert_eq!((counted(&world.server), counted(&world.host)), ((8, 7), (7, 8)));
    assert_eq!(world.states(), [SocketState::Established; 2]);
    assert_eq!(read(&mut wired, 5), b"", "the client is done, and its end is so, too");
    assert_eq!(world.states(), [SocketState::CloseWait, SocketState::FinWait]);
    assert_eq!(read_all(&mut server), (vec![], Ending::End));
    ready(Bell::new().with(|cx| wired.poll_shutdown(cx))).unwrap();
    assert!(far.lock().unwrap().is_shut);
    drop((server, wired));
    assert!(is_dropped(&far) && !far.lock().unwrap().is_reset);
    drop(world.listener);
    assert_eq!((world.net.open_sockets(), world.net.buffered_bytes()), (0, 0));
}

#[test]
fn a_server_that_waits_is_woken_by_the_socket_and_by_a_client_that_goes_without_leaving_one() {
    let mut world = world(pod(), true);
    let bell = Bell::new();
    let (near, mut server) = world.connected(true);
    assert!(bell.with(|cx| server.poll_wire(cx)).is_pending());
    let (wire, far) = socket();
    near.hand_over(wire, |wire| wire).unwrap();
    assert_eq!(bell.rang(), 1);
    assert!(take(&mut server).is_some());
    assert!(take(&mut server).is_none(), "once");
    assert!(is_dropped(&far));

    for is_reset in [false, true] {
        let (near, mut server) = world.connected(true);
        assert!(bell.with(|cx| server.poll_wire(cx)).is_pending());
        if is_reset {
            near.abort()
        } else {
            drop(near)
        }
        assert_eq!(bell.rang(), 1);
        assert!(take(&mut server).is_none());
        let ending = if is_reset { Ending::Reset } else { Ending::End };
        assert_eq!(read_all(&mut server), (vec![], ending));
    }
}

#[test]
fn a_socket_that_no_server_takes_is_nobodys() {
    let mut world = world(pod(), true);
    let (near, server) = world.connected(true);
    let (wire, left) = socket();
    near.hand_over(wire, |wire| wire).unwrap();
    assert!(!is_dropped(&left));
    drop(server);
    assert!(is_dropped(&left), "the server goes before it has taken it");
    let (near, server) = world.connected(true);
    drop(server);
    let (wire, late) = socket();
    drop(near.hand_over(wire, |wire| wire).unwrap_err());
    assert!(is_dropped(&late));
    drop(world.listener);
    assert_eq!(world.net.open_sockets(), 0);
}

#[test]
fn bytes_go_through_the_pipes_unless_both_want_the_socket_and_no_faults_lie_between() {
    for (takes, has, faulty) in
        [(false, true, false), (true, false, false), (true, true, true), (false, false, false)]
    {
        let mut config = NetConfig::new(POD_IP);
        config.faults = faulty.then(|| Faults::new(1));
        let mut world = world(PodNet::new(config), takes);
        let (mut near, mut server) = world.connected(has);
        assert!(!server.comes_by_wire(), "{takes} {has} {faulty}");
        assert!(take(&mut server).is_none());
        send(&mut near, b"question");
        assert_eq!(drain(&mut server), b"question");
        let (wire, far) = socket();
        drop(near.hand_over(wire, |wire| wire).unwrap_err());
        assert!(is_dropped(&far));
    }
}

#[test]
fn the_client_of_a_module_that_dies_is_reset_wherever_its_socket_is() {
    for is_taken in [true, false] {
        let mut world = world(pod(), true);
        let (near, mut server) = world.connected(true);
        let (wire, far) = socket();
        near.hand_over(wire, |wire| wire).unwrap();
        let wired = is_taken.then(|| take(&mut server).unwrap());
        world.server.reset();
        drop((server, wired));
        assert!(is_dropped(&far) && far.lock().unwrap().is_reset, "{is_taken}");
        drop(world.listener);
        assert_eq!(world.net.open_sockets(), 0);
    }
}

#[test]
fn a_client_that_breaks_is_one_reset_to_the_module() {
    let mut world = world(pod(), true);
    let (near, mut server) = world.connected(true);
    let (wire, far) = socket();
    near.hand_over(wire, |wire| wire).unwrap();
    let mut wired = take(&mut server).unwrap();
    assert!(Bell::new().with(|cx| wired.poll_gone(cx)).is_pending());
    far.lock().unwrap().is_broken = true;
    let read = Bell::new().with(|cx| wired.poll_read(cx, 5, &mut |_| ()));
    assert!(ready(read).is_err());
    ready(Bell::new().with(|cx| wired.poll_gone(cx)));
    assert_eq!(world.server.counters().resets, 1);
    assert!(world.states().iter().all(|state| *state == SocketState::Closed));
}
