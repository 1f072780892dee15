//! Random histories of a whole pod against a model that is as plain as can be: a list of listeners,
//! a list of connections, a vector of bytes for each direction.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::net::{
    ConnectError, Connecting, Listener, Member, PodNet, ReadError, Stream, WriteError,
};

const PORTS: u16 = 3;
const BACKLOG: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Listen { port: u16 },
    CloseListener { port: u16 },
    Connect { port: u16 },
    GiveUp { which: usize },
    Accept { port: u16 },
    Write { which: usize, server: bool, size: usize },
    Read { which: usize, server: bool, size: usize },
    ShutWrite { which: usize, server: bool },
    Drop { which: usize, server: bool },
    KillServer,
}

fn op() -> impl Strategy<Value = Op> {
    let port = || 0..PORTS;
    let which = || any::<prop::sample::Index>().prop_map(|index| index.index(64));
    let size = || prop_oneof![1usize..50, 1usize..100_000];
    prop_oneof![
        3 => port().prop_map(|port| Op::Listen { port }),
        1 => port().prop_map(|port| Op::CloseListener { port }),
        6 => port().prop_map(|port| Op::Connect { port }),
        1 => which().prop_map(|which| Op::GiveUp { which }),
        5 => port().prop_map(|port| Op::Accept { port }),
        8 => (which(), any::<bool>(), size())
            .prop_map(|(which, server, size)| Op::Write { which, server, size }),
        8 => (which(), any::<bool>(), size())
            .prop_map(|(which, server, size)| Op::Read { which, server, size }),
        2 => (which(), any::<bool>()).prop_map(|(which, server)| Op::ShutWrite { which, server }),
        2 => (which(), any::<bool>()).prop_map(|(which, server)| Op::Drop { which, server }),
        1 => Just(Op::KillServer),
    ]
}

/// One side of a connection, real and modelled.
#[derive(Default)]
struct End {
    stream: Option<Stream>,
    /// Written by this end and not read by the other.
    sent: VecDeque<u8>,
    shut: bool,
    /// This end will never answer again.
    gone: bool,
    /// Reads at this end finish in a reset.
    reset: bool,
}

#[derive(Default)]
struct Pair {
    ends: [End; 2],
}

struct World {
    server: Option<Member>,
    client: Member,
    listeners: BTreeMap<u16, Listener>,
    waiting: Vec<(u16, Connecting)>,
    /// Connected on the client's side, not accepted yet; by port, in order.
    queued: BTreeMap<u16, VecDeque<usize>>,
    pairs: Vec<Pair>,
    counter: u8,
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 8000 + port)
}

impl World {
    fn run(&mut self, net: &PodNet, op: &Op) {
        match *op {
            Op::Listen { port } => self.listen(net, port),
            Op::CloseListener { port } => self.close_listener(port),
            Op::Connect { port } => self.connect(port),
            Op::GiveUp { which } => {
                if !self.waiting.is_empty() {
                    self.waiting.remove(which % self.waiting.len());
                }
            }
            Op::Accept { port } => self.accept(port),
            Op::Write { which, server, size } => self.write(which, server, size),
            Op::Read { which, server, size } => self.read(which, server, size),
            Op::ShutWrite { which, server } => {
                if let Some(end) = self.end(which, server) {
                    end.shut = true;
                    end.stream.as_mut().unwrap().shutdown_write();
                }
            }
            Op::Drop { which, server } => self.drop_end(which, server),
            Op::KillServer => self.kill_server(),
        }
        self.settle_waiting();
    }

    fn end(&mut self, which: usize, server: bool) -> Option<&mut End> {
        let count = self.pairs.len();
        let pair = self.pairs.get_mut(which.checked_rem(count)?)?;
        let end = &mut pair.ends[usize::from(server)];
        end.stream.is_some().then_some(end)
    }

    fn listen(&mut self, net: &PodNet, port: u16) {
        let server = self.server.get_or_insert_with(|| join(net, "server"));
        let taken = self.listeners.contains_key(&port);
        let outcome = server.listen(address(port));
        assert_eq!(outcome.is_err(), taken, "port {port}");
        if let Ok(mut listener) = outcome {
            listener.set_backlog(BACKLOG);
            self.listeners.insert(port, listener);
        }
    }

    fn close_listener(&mut self, port: u16) {
        if self.listeners.remove(&port).is_some() {
            self.lose_queue(port);
        }
    }

    /// What happens to those a listener leaves behind.
    fn lose_queue(&mut self, port: u16) {
        for index in self.queued.remove(&port).unwrap_or_default() {
            self.pairs[index].ends[1].gone = true;
            self.pairs[index].ends[0].reset = true;
            self.pairs[index].ends[0].sent.clear();
        }
        self.waiting.retain_mut(|(at, connecting)| {
            if *at != port {
                return true;
            }
            let refused = ready(connecting.try_finish()).err();
            assert_eq!(refused, Some(ConnectError::Refused(address(port))));
            false
        });
    }

    fn connect(&mut self, port: u16) {
        match self.client.connect(address(port)) {
            Err(error) => {
                assert_eq!(error, ConnectError::Refused(address(port)));
                assert!(!self.listeners.contains_key(&port));
            }
            Ok(connecting) => {
                assert!(self.listeners.contains_key(&port));
                self.waiting.push((port, connecting));
            }
        }
    }

    /// Every connect that may be through is through, in order, and no other.
    fn settle_waiting(&mut self) {
        let mut still = Vec::new();
        for (port, mut connecting) in std::mem::take(&mut self.waiting) {
            let queue = self.queued.entry(port).or_default();
            let room = queue.len() < BACKLOG;
            match connecting.try_finish() {
                Poll::Ready(stream) => {
                    assert!(room, "the backlog holds");
                    queue.push_back(self.pairs.len());
                    let mut pair = Pair::default();
                    pair.ends[0].stream = Some(stream.unwrap());
                    self.pairs.push(pair);
                }
                Poll::Pending => {
                    assert!(!room, "nobody waits beside room");
                    still.push((port, connecting));
                }
            }
        }
        self.waiting = still;
    }

    fn accept(&mut self, port: u16) {
        let Some(listener) = self.listeners.get_mut(&port) else { return };
        let next = self.queued.get_mut(&port).and_then(VecDeque::pop_front);
        match (listener.try_accept(), next) {
            (Poll::Ready(stream), Some(index)) => {
                self.pairs[index].ends[1].stream = Some(stream.unwrap());
            }
            (Poll::Pending, None) => {}
            (got, expected) => panic!("accepted {got:?}, expected {expected:?}"),
        }
    }

    fn write(&mut self, which: usize, server: bool, size: usize) {
        let counter = &mut self.counter;
        let Some(which) = which.checked_rem(self.pairs.len()) else { return };
        let [client_end, server_end] = &mut self.pairs[which].ends;
        let (me, other) = if server { (server_end, client_end) } else { (client_end, server_end) };
        let Some(stream) = &mut me.stream else { return };
        let data = pattern(*counter, size);
        let mut bytes = Bytes::from(data.clone());
        match stream.write.try_write(&mut bytes) {
            Poll::Ready(Ok(n)) => {
                assert!(!me.shut && !other.gone && n > 0);
                me.sent.extend(&data[..n]);
                *counter = after(*counter, n);
                assert!(me.sent.len() <= 128 * 1024, "the bound holds to the byte");
            }
            Poll::Ready(Err(WriteError::Closed)) => assert!(me.shut),
            Poll::Ready(Err(WriteError::Broken)) => assert!(other.gone),
            Poll::Ready(Err(WriteError::Reset)) => assert!(other.gone && me.reset || me.gone),
            Poll::Ready(Err(WriteError::NoMemory)) => panic!("the ledger always pays"),
            Poll::Pending => assert!(me.sent.len() > 64 * 1024, "waits only while half is full"),
        }
    }

    fn read(&mut self, which: usize, server: bool, size: usize) {
        let Some(which) = which.checked_rem(self.pairs.len()) else { return };
        let [client_end, server_end] = &mut self.pairs[which].ends;
        let (me, other) = if server { (server_end, client_end) } else { (client_end, server_end) };
        let Some(stream) = &mut me.stream else { return };
        match stream.read.try_read(size) {
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                assert!(other.sent.is_empty() && (other.shut || other.gone) && !me.reset);
            }
            Poll::Ready(Ok(bytes)) => {
                assert!(bytes.len() <= size);
                let expected: Vec<u8> = other.sent.drain(..bytes.len()).collect();
                assert_eq!(&bytes[..], &expected[..]);
            }
            Poll::Ready(Err(ReadError::Reset)) => assert!(me.reset && other.sent.is_empty()),
            Poll::Pending => assert!(other.sent.is_empty() && !other.shut && !other.gone),
        }
    }

    fn drop_end(&mut self, which: usize, server: bool) {
        let Some(end) = self.end(which, server) else { return };
        end.stream = None;
        end.gone = true;
        end.shut = true;
        let Some(which) = which.checked_rem(self.pairs.len()) else { return };
        let other = &mut self.pairs[which].ends[usize::from(!server)];
        // Bytes that were never read make the close a reset.
        other.reset |= !other.sent.is_empty();
        other.sent.clear();
    }

    fn kill_server(&mut self) {
        if self.server.take().is_none() {
            return;
        }
        for port in 0..PORTS {
            self.lose_queue(port);
        }
        self.listeners.clear();
        for pair in &mut self.pairs {
            if pair.ends[1].stream.take().is_some() {
                pair.ends[1].gone = true;
                pair.ends[0].reset = true;
                pair.ends[0].sent.clear();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn a_pod_behaves_as_its_model(ops in prop::collection::vec(op(), 1..120)) {
        let net = pod();
        let mut world = World {
            server: None,
            client: join(&net, "client"),
            listeners: BTreeMap::new(),
            waiting: Vec::new(),
            queued: BTreeMap::new(),
            pairs: Vec::new(),
            counter: 0,
        };
        for op in &ops {
            world.run(&net, op);
        }
        drop(world);
        prop_assert_eq!(net.bound_ports(), (0, 0));
        prop_assert_eq!((net.open_sockets(), net.buffered_bytes()), (0, 0));
    }
}
