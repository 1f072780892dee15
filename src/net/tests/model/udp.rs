//! The model's datagram sockets.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;

use bytes::Bytes;
use proptest::prelude::*;

use super::{MODULES, Name, PODS, PORTS, SERVICE_IP, World, name, pod_ip};
use crate::net::tests::pattern;
use crate::net::{BindError, Family, ReceiveError, SendError, UdpSocket};

/// What a queue holds, and what a datagram counts beside its bytes.
const QUEUE: usize = 208 * 1024;
const OVERHEAD: usize = 128;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Open { module: usize, port: u16 },
    Close { which: usize },
    Connect { which: usize, pod: usize, port: u16, name: Name },
    Disconnect { which: usize },
    Send { which: usize, to: Option<(usize, u16, Name)>, size: usize },
    Receive { which: usize },
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let (pod, port) = (|| 0..PODS, || 0..PORTS);
    let which = || any::<prop::sample::Index>().prop_map(|index| index.index(64));
    let size = || prop_oneof![0usize..50, 1usize..60_000];
    let to = prop::option::weighted(0.7, (pod(), port(), name()));
    prop_oneof![
        4 => (0..MODULES, port()).prop_map(|(module, port)| Op::Open { module, port }),
        1 => which().prop_map(|which| Op::Close { which }),
        2 => (which(), pod(), port(), name())
            .prop_map(|(which, pod, port, name)| Op::Connect { which, pod, port, name }),
        1 => which().prop_map(|which| Op::Disconnect { which }),
        10 => (which(), to, size()).prop_map(|(which, to, size)| Op::Send { which, to, size }),
        8 => which().prop_map(|which| Op::Receive { which }),
    ]
}

struct Socket {
    owner: usize,
    port: u16,
    socket: UdpSocket,
    peer: Option<SocketAddr>,
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Nobody was there for an earlier datagram.
    refused: bool,
    /// Real address → as which it was asked last.
    asked: BTreeMap<SocketAddr, SocketAddr>,
}

impl Socket {
    fn weight(&self) -> usize {
        self.queue.iter().map(|(_, data)| data.len() + OVERHEAD).sum()
    }
}

#[derive(Default)]
pub(super) struct Model {
    sockets: Vec<Socket>,
    counter: u8,
}

impl Model {
    pub(super) fn sockets(&self, module: usize) -> usize {
        self.sockets.iter().filter(|socket| socket.owner == module).count()
    }

    fn pick(&mut self, which: usize) -> Option<&mut Socket> {
        let count = self.sockets.len();
        self.sockets.get_mut(which.checked_rem(count)?)
    }
}

impl World {
    pub(super) fn run_udp(&mut self, op: &Op) {
        match *op {
            Op::Open { module, port } => self.open(module, port),
            Op::Close { which } => {
                if !self.udp.sockets.is_empty() {
                    self.udp.sockets.remove(which % self.udp.sockets.len());
                }
            }
            Op::Connect { which, pod, port, name } => {
                let Some(me) = self.udp.pick(which) else { return };
                let peer = Self::address(me.owner, pod, port, name);
                assert_eq!(me.socket.connect(peer), Ok(()));
                me.queue.retain(|(from, _)| *from == peer);
                (me.peer, me.refused) = (Some(peer), false);
            }
            Op::Disconnect { which } => {
                let Some(me) = self.udp.pick(which) else { return };
                me.socket.disconnect();
                (me.peer, me.refused) = (None, false);
            }
            Op::Send { which, to, size } => self.send(which, to, size),
            Op::Receive { which } => self.receive(which),
        }
    }

    fn open(&mut self, module: usize, port: u16) {
        let may = self.may_open(module);
        let Ok(socket) = self.member(module).udp_socket(Family::V4) else {
            assert!(!may || !self.strict());
            return;
        };
        let same = |other: &Socket| (other.owner % PODS, other.port) == (module % PODS, port);
        let taken = self.udp.sockets.iter().any(same);
        let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 8000 + port);
        let outcome = socket.bind(at);
        assert_eq!(outcome, if taken { Err(BindError::InUse(at)) } else { Ok(()) });
        if outcome.is_ok() {
            self.udp.sockets.push(Socket {
                owner: module,
                port,
                socket,
                peer: None,
                queue: VecDeque::new(),
                refused: false,
                asked: BTreeMap::new(),
            });
        }
    }

    fn send(&mut self, which: usize, to: Option<(usize, u16, Name)>, size: usize) {
        let data = pattern(self.udp.counter, size);
        self.udp.counter = self.udp.counter.wrapping_add(1);
        let Some(me) = self.udp.pick(which) else { return };
        let named = to.map(|(pod, port, name)| Self::address(me.owner, pod, port, name));
        let outcome = me.socket.send(Bytes::from(data.clone()), named);
        let to = match (named, me.peer) {
            (Some(to), Some(peer)) if to != peer => {
                assert_eq!(outcome, Err(SendError::OtherPeer(to)));
                return;
            }
            (None, None) => {
                assert_eq!(outcome, Err(SendError::NoAddress));
                return;
            }
            (Some(to), _) | (None, Some(to)) => to,
        };
        if std::mem::take(&mut me.refused) {
            assert_eq!(outcome, Err(SendError::Refused));
            return;
        }
        assert_eq!(outcome, Ok(()));
        let own_ip = if to.ip().is_loopback() { to.ip() } else { pod_ip(me.owner % PODS).into() };
        let from = SocketAddr::new(own_ip, 8000 + me.port);
        let pod = match to.ip() {
            ip if ip.is_loopback() => me.owner % PODS,
            ip if ip == SERVICE_IP => 1,
            ip => (0..PODS).find(|pod| ip == pod_ip(*pod)).unwrap(),
        };
        let real = SocketAddr::new(pod_ip(pod).into(), to.port());
        if to.ip() == SERVICE_IP || me.asked.contains_key(&to) {
            me.asked.insert(real, to);
        }
        let (connected, sender) = (me.peer == Some(to), which % self.udp.sockets.len());
        let at = |other: &&mut Socket| (other.owner % PODS, 8000 + other.port) == (pod, to.port());
        let receiver = self.udp.sockets.iter_mut().find(at);
        let wanted = receiver.is_some_and(|receiver| {
            let from = receiver.asked.get(&from).copied().unwrap_or(from);
            let wanted = receiver.peer.is_none_or(|peer| peer == from);
            if wanted && receiver.weight() + size + OVERHEAD <= QUEUE {
                receiver.queue.push_back((from, data));
            }
            wanted
        });
        if !wanted && connected {
            self.udp.sockets[sender].refused = true;
        }
    }

    fn receive(&mut self, which: usize) {
        let strict = self.strict();
        let Some(me) = self.udp.pick(which) else { return };
        match me.socket.try_receive() {
            Poll::Ready(Ok(datagram)) => {
                let mut expected = me.queue.pop_front().expect("something was sent");
                // Without memory some are dropped; what comes was sent, and in order.
                while !strict && (expected.0 != datagram.from || expected.1 != datagram.data) {
                    expected = me.queue.pop_front().expect("something was sent");
                }
                assert_eq!((datagram.from, &datagram.data[..]), (expected.0, &expected.1[..]));
            }
            Poll::Ready(Err(ReceiveError::Refused)) => assert!(std::mem::take(&mut me.refused)),
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => {
                assert!(!me.refused && (me.queue.is_empty() || !strict));
                me.queue.clear();
            }
        }
    }

    pub(super) fn kill_udp(&mut self, module: usize) {
        self.udp.sockets.retain(|socket| socket.owner != module);
    }
}
