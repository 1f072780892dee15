//! The model's connections.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;
use proptest::prelude::*;

use super::{MODULES, Name, PODS, PORTS, World, name, pod_ip};
use crate::net::tests::{after, pattern, ready};
use crate::net::{
    AcceptError, ConnectError, Connecting, Family, ListenError, Listener, ReadError, ReadHalf,
    WriteError, WriteHalf,
};

const BACKLOG: usize = 2;
const CAPACITY: usize = 128 * 1024;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Listen {
        module: usize,
        port: u16,
    },
    CloseListener {
        module: usize,
        port: u16,
    },
    Connect {
        module: usize,
        pod: usize,
        port: u16,
        name: Name,
    },
    /// For a client from elsewhere, which knows nothing of modules that come and go.
    ConnectPatiently {
        module: usize,
        port: u16,
    },
    GiveUp {
        which: usize,
    },
    Accept {
        pod: usize,
        port: u16,
    },
    Write {
        which: usize,
        side: usize,
        size: usize,
    },
    Read {
        which: usize,
        side: usize,
        size: usize,
    },
    CloseWrite {
        which: usize,
        side: usize,
    },
    CloseRead {
        which: usize,
        side: usize,
    },
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let module = || 0..MODULES;
    let (pod, port) = (|| 0..PODS, || 0..PORTS);
    let which = || any::<prop::sample::Index>().prop_map(|index| index.index(64));
    let size = || prop_oneof![1usize..50, 1usize..100_000];
    prop_oneof![
        4 => (module(), port()).prop_map(|(module, port)| Op::Listen { module, port }),
        1 => (module(), port()).prop_map(|(module, port)| Op::CloseListener { module, port }),
        8 => (module(), pod(), port(), name())
            .prop_map(|(module, pod, port, name)| Op::Connect { module, pod, port, name }),
        4 => (module(), port())
            .prop_map(|(module, port)| Op::ConnectPatiently { module, port }),
        1 => which().prop_map(|which| Op::GiveUp { which }),
        6 => (pod(), port()).prop_map(|(pod, port)| Op::Accept { pod, port }),
        8 => (which(), 0..2usize, size())
            .prop_map(|(which, side, size)| Op::Write { which, side, size }),
        8 => (which(), 0..2usize, size())
            .prop_map(|(which, side, size)| Op::Read { which, side, size }),
        2 => (which(), 0..2usize).prop_map(|(which, side)| Op::CloseWrite { which, side }),
        2 => (which(), 0..2usize).prop_map(|(which, side)| Op::CloseRead { which, side }),
    ]
}

/// A reset, as one direction of an end learns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reset {
    #[default]
    No,
    Untold,
    Told,
}

/// One side of a connection, real and modelled.
#[derive(Default)]
struct End {
    owner: usize,
    read: Option<ReadHalf>,
    write: Option<WriteHalf>,
    /// Waits in a backlog: nobody holds its halves yet.
    queued: bool,
    /// Written by this end and not read by the other.
    sent: VecDeque<u8>,
    /// It writes no more.
    shut: bool,
    /// It reads no more.
    deaf: bool,
    /// Something sent to it was never read.
    lost: bool,
    reads: Reset,
    writes: Reset,
}

impl End {
    fn gone(&self) -> bool {
        self.shut && self.deaf
    }

    fn is_open(&self) -> bool {
        self.read.is_some() || self.write.is_some()
    }
}

type Pair = [End; 2];
/// A listener is named by its pod and port: it answers at all addresses.
type At = (usize, u16);

struct Waiting {
    owner: usize,
    at: At,
    /// What it asked for; none of a patient one, which has the client's own address instead.
    asked: Result<Name, SocketAddr>,
    connecting: Connecting,
}

/// Who is in a queue.
enum Caller {
    /// Connected on the client's side: this pair.
    Connected(usize),
    Patient(Waiting),
}

#[derive(Default)]
pub(super) struct Model {
    listeners: BTreeMap<At, (usize, Listener)>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    /// Not accepted yet; in order.
    queued: BTreeMap<At, VecDeque<Caller>>,
    clients: u16,
    pairs: Vec<Pair>,
    counter: u8,
}

impl Model {
    pub(super) fn sockets(&self, module: usize) -> usize {
        let listeners = self.listeners.values().filter(|(owner, _)| *owner == module).count();
        let waiting = self.waiting.iter().chain(self.patient_in_queues());
        let waiting = waiting.filter(|waiting| waiting.owner == module).count();
        let ends = self.pairs.iter().flatten();
        let ends = ends.filter(|end| end.owner == module && end.is_open()).count();
        listeners + waiting + ends
    }

    fn patient_in_queues(&self) -> impl Iterator<Item = &Waiting> {
        self.queued.values().flatten().filter_map(|caller| match caller {
            Caller::Patient(waiting) => Some(waiting),
            Caller::Connected(_) => None,
        })
    }

    fn sides(&mut self, which: usize, side: usize) -> Option<(&mut End, &mut End)> {
        let count = self.pairs.len();
        let [client, server] = self.pairs.get_mut(which.checked_rem(count)?)?;
        Some(if side == 0 { (client, server) } else { (server, client) })
    }
}

/// `me` was killed, or its queue was.
fn die(me: &mut End, other: &mut End) {
    if me.gone() {
        return;
    }
    (me.shut, me.deaf, me.queued) = (true, true, false);
    other.sent.clear();
    for reset in [&mut other.reads, &mut other.writes] {
        if *reset == Reset::No {
            *reset = Reset::Untold;
        }
    }
}

/// `me` reads no more, or writes no more.
fn close(me: &mut End, other: &mut End) {
    if me.gone() && me.lost && other.reads == Reset::No {
        other.reads = Reset::Untold;
    }
}

impl World {
    pub(super) fn run_tcp(&mut self, op: &Op) {
        match *op {
            Op::Listen { module, port } => self.listen(module, port),
            Op::CloseListener { module, port } => {
                let at = (module % PODS, port);
                if self.tcp.listeners.get(&at).is_some_and(|(owner, _)| *owner == module) {
                    self.tcp.listeners.remove(&at);
                    self.lose_queue(at);
                }
            }
            Op::Connect { module, pod, port, name } => self.connect(module, (pod, port), name),
            Op::ConnectPatiently { module, port } => self.connect_patiently(module, port),
            Op::GiveUp { which } => self.give_up(which),
            Op::Accept { pod, port } => self.accept((pod, port)),
            Op::Write { which, side, size } => self.write(which, side, size),
            Op::Read { which, side, size } => self.read(which, side, size),
            Op::CloseWrite { which, side } => {
                let Some((me, other)) = self.tcp.sides(which, side) else { return };
                if me.write.take().is_some() {
                    me.shut = true;
                    close(me, other);
                }
            }
            Op::CloseRead { which, side } => {
                let Some((me, other)) = self.tcp.sides(which, side) else { return };
                if me.read.take().is_some() {
                    me.deaf = true;
                    me.lost |= !other.sent.is_empty();
                    other.sent.clear();
                    close(me, other);
                }
            }
        }
    }

    fn listen(&mut self, module: usize, port: u16) {
        let (at, may) = ((module % PODS, port), self.may_open(module));
        let taken = self.tcp.listeners.contains_key(&at);
        // With its backlog from the first moment on: those who wait already are let in at once.
        let listen = || {
            let mut socket = self.member(module).tcp_socket(Family::V4)?;
            socket.set_backlog(BACKLOG as u64).unwrap();
            socket.bind(([0, 0, 0, 0], 8000 + port).into())?;
            socket.listen()?;
            Ok(socket.listener().unwrap())
        };
        match listen() {
            Ok(listener) => {
                assert!(may && !taken);
                self.tcp.listeners.insert(at, (module, listener));
            }
            Err(ListenError::Open(_)) => assert!(!may || !self.strict()),
            Err(_) => assert!(taken),
        }
    }

    /// What happens to those a listener leaves behind.
    fn lose_queue(&mut self, at: At) {
        let mut patient = Vec::new();
        for caller in self.tcp.queued.remove(&at).unwrap_or_default() {
            match caller {
                Caller::Connected(index) => {
                    let [client, server] = &mut self.tcp.pairs[index];
                    die(server, client);
                }
                Caller::Patient(waiting) => patient.push(waiting),
            }
        }
        // They came before those who waited for room.
        self.tcp.waiting.splice(0..0, patient);
        self.tcp.waiting.retain_mut(|waiting| {
            if waiting.at != at || waiting.asked.is_err() {
                return true;
            }
            let refused = ready(waiting.connecting.try_finish()).err();
            assert!(matches!(refused, Some(ConnectError::Refused(_))), "{refused:?}");
            false
        });
    }

    fn give_up(&mut self, which: usize) {
        let waiting = self.tcp.waiting.len();
        let Some(which) = which.checked_rem(waiting + self.tcp.patient_in_queues().count()) else {
            return;
        };
        if which < waiting {
            self.tcp.waiting.remove(which);
            return;
        }
        let mut left = which - waiting;
        for queue in self.tcp.queued.values_mut() {
            queue.retain(|caller| {
                let this = matches!(caller, Caller::Patient(_)) && left == 0;
                left = left.wrapping_sub(usize::from(matches!(caller, Caller::Patient(_))));
                !this
            });
        }
    }

    fn connect(&mut self, module: usize, at: At, name: Name) {
        let (to, may) = (Self::address(module, at.0, at.1, name), self.may_open(module));
        let listening = self.tcp.listeners.contains_key(&at);
        match self.member(module).connect(to) {
            Err(ConnectError::Refused(address)) => {
                assert_eq!(address, to);
                assert!(!listening || !self.strict());
            }
            Err(ConnectError::Open(_)) => assert!(!may || !self.strict()),
            Err(error) => panic!("{error}"),
            Ok(connecting) => {
                assert!(listening && may);
                let asked = Ok(name);
                self.tcp.waiting.push(Waiting { owner: module, at, asked, connecting });
            }
        }
    }

    fn connect_patiently(&mut self, module: usize, port: u16) {
        let (at, may) = ((module % PODS, port), self.may_open(module));
        self.tcp.clients += 1;
        let client = SocketAddr::new([192, 0, 2, 9].into(), self.tcp.clients);
        let to = SocketAddr::new(pod_ip(at.0).into(), 8000 + port);
        match self.member(module).connect_patiently(Some(client), to) {
            Ok(connecting) => {
                assert!(may);
                let asked = Err(client);
                self.tcp.waiting.push(Waiting { owner: module, at, asked, connecting });
            }
            Err(ConnectError::Open(_)) => assert!(!may || !self.strict()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Every connect that may be through is through, in order, and no other.
    pub(super) fn settle_waiting(&mut self) {
        let (mut still, strict) = (Vec::new(), self.strict());
        for mut waiting in std::mem::take(&mut self.tcp.waiting) {
            let server = self.tcp.listeners.get(&waiting.at).map(|(owner, _)| *owner);
            let queue = self.tcp.queued.entry(waiting.at).or_default();
            let room = server.is_some() && queue.len() < BACKLOG;
            match (waiting.connecting.try_finish(), waiting.asked) {
                (Poll::Ready(Ok(stream)), Ok(name)) => {
                    assert!(room, "the backlog holds");
                    queue.push_back(Caller::Connected(self.tcp.pairs.len()));
                    let asked = Self::address(waiting.owner, waiting.at.0, waiting.at.1, name);
                    assert_eq!(stream.remote_address(), asked);
                    let mut pair = Pair::default();
                    pair[1] = End { owner: server.unwrap(), queued: true, ..End::default() };
                    let (read, write) = stream.into_split();
                    pair[0].owner = waiting.owner;
                    (pair[0].read, pair[0].write) = (Some(read), Some(write));
                    self.tcp.pairs.push(pair);
                }
                (Poll::Ready(Err(ConnectError::Refused(_))), _) if !strict => {}
                (Poll::Ready(outcome), _) => panic!("{outcome:?}"),
                (Poll::Pending, Err(_)) if waiting.connecting.is_queued() => {
                    assert!(room, "the backlog holds");
                    queue.push_back(Caller::Patient(waiting));
                }
                (Poll::Pending, _) => {
                    assert!(!room, "nobody waits beside room");
                    still.push(waiting);
                }
            }
        }
        self.tcp.waiting = still;
    }

    fn accept(&mut self, at: At) {
        let Some((owner, _)) = self.tcp.listeners.get(&at) else { return };
        let (owner, may) = (*owner, self.may_open(*owner));
        let queue = self.tcp.queued.entry(at).or_default();
        let (_, listener) = self.tcp.listeners.get_mut(&at).unwrap();
        let stream = match (listener.try_accept(), queue.is_empty()) {
            (Poll::Ready(Ok(stream)), false) => stream,
            (Poll::Ready(Err(AcceptError::Open(_))), false) => {
                assert!(!may || !self.strict());
                return;
            }
            (Poll::Pending, true) => return,
            (got, empty) => panic!("accepted {got:?}, the queue is empty: {empty}"),
        };
        assert!(may);
        let (index, client) = match queue.pop_front().unwrap() {
            Caller::Connected(index) => (index, None),
            Caller::Patient(mut waiting) => {
                let near = ready(waiting.connecting.try_finish()).unwrap();
                let (read, write) = near.into_split();
                let client = End { owner: waiting.owner, ..End::default() };
                let client = End { read: Some(read), write: Some(write), ..client };
                self.tcp.pairs.push([client, End { owner, ..End::default() }]);
                (self.tcp.pairs.len() - 1, Some(waiting.asked.unwrap_err()))
            }
        };
        let [from, server] = &mut self.tcp.pairs[index];
        match (client, stream.remote_address()) {
            (Some(client), seen) => assert_eq!(seen, client),
            (None, seen) if seen.ip() == std::net::Ipv4Addr::LOCALHOST => {}
            (None, seen) => {
                assert_eq!(stream.local_address().ip(), pod_ip(at.0));
                assert_eq!(seen.ip(), pod_ip(from.owner % PODS));
            }
        }
        let (read, write) = stream.into_split();
        (server.read, server.write, server.queued) = (Some(read), Some(write), false);
    }

    fn write(&mut self, which: usize, side: usize, size: usize) {
        let (strict, mut counter) = (self.strict(), self.tcp.counter);
        let Some((me, other)) = self.tcp.sides(which, side) else { return };
        let Some(write) = &mut me.write else { return };
        let data = pattern(counter, size);
        let mut bytes = Bytes::from(data.clone());
        match write.try_write(&mut bytes) {
            Poll::Ready(Ok(n)) => {
                assert!(!me.shut && !other.gone() && me.writes == Reset::No && n > 0);
                assert!(!strict || n == size.min(CAPACITY - me.sent.len()));
                counter = after(counter, n);
                if other.deaf {
                    other.lost = true;
                } else {
                    me.sent.extend(&data[..n]);
                }
                assert!(me.sent.len() <= CAPACITY, "the bound holds to the byte");
            }
            Poll::Ready(Err(WriteError::Closed)) => panic!("only a dropped half is shut"),
            Poll::Ready(Err(WriteError::Broken)) => {
                assert!(me.writes == Reset::Told || (other.gone() && me.writes == Reset::No));
            }
            Poll::Ready(Err(WriteError::Reset)) => {
                assert_eq!(me.writes, Reset::Untold);
                me.writes = Reset::Told;
            }
            Poll::Ready(Err(WriteError::NoMemory)) => assert!(!strict && me.sent.is_empty()),
            Poll::Pending if strict => assert!(me.sent.len() > CAPACITY / 2, "until half is read"),
            Poll::Pending => assert!(!me.sent.is_empty(), "waits only for something"),
        }
        self.tcp.counter = counter;
    }

    fn read(&mut self, which: usize, side: usize, size: usize) {
        let strict = self.strict();
        let Some((me, other)) = self.tcp.sides(which, side) else { return };
        let Some(read) = &mut me.read else { return };
        match read.try_read(size) {
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                assert!(other.sent.is_empty());
                assert!(me.reads == Reset::Told || (me.reads == Reset::No && other.shut));
            }
            Poll::Ready(Ok(bytes)) => {
                assert!(bytes.len() <= size);
                let expected: Vec<u8> = other.sent.drain(..bytes.len()).collect();
                assert_eq!(&bytes[..], &expected[..]);
            }
            Poll::Ready(Err(ReadError::Reset)) => {
                if strict || !other.gone() {
                    assert!(me.reads == Reset::Untold && other.sent.is_empty());
                }
                // What the writer left behind nobody could pay for: it is lost, and said to be.
                other.sent.clear();
                me.reads = Reset::Told;
            }
            Poll::Pending => assert!(other.sent.is_empty() && !other.shut && me.reads == Reset::No),
        }
    }

    pub(super) fn kill_tcp(&mut self, module: usize) {
        self.tcp.waiting.retain(|waiting| waiting.owner != module);
        for queue in self.tcp.queued.values_mut() {
            let gone =
                |it: &Caller| matches!(it, Caller::Patient(waiting) if waiting.owner == module);
            queue.retain(|caller| !gone(caller));
        }
        let own = |at: &At, owner: usize| (owner == module).then_some(*at);
        let listeners = self.tcp.listeners.iter();
        let lost: Vec<At> = listeners.filter_map(|(at, (owner, _))| own(at, *owner)).collect();
        for at in lost {
            self.tcp.listeners.remove(&at);
            self.lose_queue(at);
        }
        for [client, server] in &mut self.tcp.pairs {
            let kill = |me: &mut End, other: &mut End| {
                if me.owner == module && me.is_open() {
                    (me.read, me.write) = (None, None);
                    die(me, other);
                }
            };
            kill(client, server);
            kill(server, client);
        }
    }

    /// The socket table says the same about bytes on their way.
    pub(super) fn check_queues(&self) {
        let modelled: usize = self
            .tcp
            .pairs
            .iter()
            .flat_map(|[client, server]| [(client, server), (server, client)])
            .filter(|(me, _)| me.is_open())
            .map(|(_, other)| other.sent.len())
            .sum();
        let rows = self.pods.iter().flat_map(|pod| pod.sockets());
        let connected =
            rows.filter(|row| row.protocol == crate::net::Protocol::Tcp && row.remote.is_some());
        let shown: u64 = connected.map(|row| row.receive_queue).sum();
        assert_eq!(shown, modelled as u64);
    }
}
