//! Random histories of several pods against a model that is as plain as can be: a list of
//! listeners, a list of connections, a vector of bytes for each direction, a list of datagrams for
//! each socket.
//!
//! With room enough, every outcome is predicted. With little memory, outcomes depend on who pays
//! first; then what must hold is that no byte is wrong, no bound is passed, and nothing is left.

mod tcp;
mod udp;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::net::{
    Ask, Egress, Member, MemberLimits, NetConfig, NetLimits, PodNet, Route, SOCKET_COST,
};

const PODS: usize = 3;
const MODULES: usize = 6;
const PORTS: u16 = 3;
const MAX_SOCKETS: usize = 16;
const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

#[derive(Clone, Debug)]
enum Op {
    Tcp(tcp::Op),
    Udp(udp::Op),
    /// The module traps, and is started again.
    Kill {
        module: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => tcp::op().prop_map(Op::Tcp),
        6 => udp::op().prop_map(Op::Udp),
        1 => (0..MODULES).prop_map(|module| Op::Kill { module }),
    ]
}

/// How a destination is named.
#[derive(Clone, Copy, Debug)]
enum Name {
    /// As the pod itself calls it; another pod's by its address.
    Near,
    PodIp,
    /// The Service, whose pods are all in the pod with index 1.
    Service,
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![Just(Name::Near), Just(Name::PodIp), Just(Name::Service)]
}

fn pod_ip(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, u8::try_from(pod).unwrap() + 5)
}

/// Every pod may reach every pod, and the Service.
#[derive(Debug, Default)]
struct Switch(Mutex<Vec<PodNet>>);

impl Egress for Switch {
    fn route(&self, ask: &Ask<'_>) -> Route {
        let pods = self.0.lock().unwrap();
        let ip = if ask.to.ip() == SERVICE_IP { pod_ip(1).into() } else { ask.to.ip() };
        let to = SocketAddr::new(ip, ask.to.port());
        let net = pods.iter().find(|pod| pod.pod_ip() == ip);
        net.map_or(Route::Unreachable, |net| Route::Pod { net: net.clone(), to })
    }
}

/// The memory a module may use beside its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    Little,
}

struct Module {
    member: Option<Member>,
    purse: Arc<Purse>,
    /// The run before, whose bytes others may still read.
    old: Vec<Arc<Purse>>,
}

struct World {
    room: Room,
    switch: Arc<Switch>,
    pods: Vec<PodNet>,
    modules: Vec<Module>,
    tcp: tcp::Model,
    udp: udp::Model,
}

impl World {
    fn new(room: Room) -> Self {
        let switch = Arc::new(Switch::default());
        let pods: Vec<_> = (0..PODS)
            .map(|pod| {
                let mut config = NetConfig::new(pod_ip(pod));
                config.egress = switch.clone();
                config.limits = NetLimits { max_sockets: 40, max_buffered: 64 << 20 };
                PodNet::new(config)
            })
            .collect();
        *switch.0.lock().unwrap() = pods.clone();
        let mut world = Self {
            room,
            switch,
            pods,
            modules: Vec::new(),
            tcp: tcp::Model::default(),
            udp: udp::Model::default(),
        };
        for module in 0..MODULES {
            let (member, purse) = world.join(module);
            world.modules.push(Module { member: Some(member), purse, old: Vec::new() });
        }
        world
    }

    fn strict(&self) -> bool {
        self.room == Room::Enough
    }

    fn join(&self, module: usize) -> (Member, Arc<Purse>) {
        let (bytes, max_buffered) = match self.room {
            Room::Enough => (1 << 30, 64 << 20),
            Room::Little => (300_000, 200_000),
        };
        let purse = Purse::of(bytes);
        let limits = MemberLimits { max_sockets: MAX_SOCKETS, max_buffered };
        (self.pods[module % PODS].join("module", limits, purse.clone()), purse)
    }

    fn member(&self, module: usize) -> &Member {
        self.modules[module].member.as_ref().unwrap()
    }

    fn address(from: usize, to_pod: usize, port: u16, name: Name) -> SocketAddr {
        let ip = match name {
            Name::Near if from % PODS == to_pod => Ipv4Addr::LOCALHOST,
            Name::Service if to_pod == 1 => SERVICE_IP,
            Name::Near | Name::PodIp | Name::Service => pod_ip(to_pod),
        };
        SocketAddr::new(ip.into(), 8000 + port)
    }

    /// How many sockets the model says a module has.
    fn sockets(&self, module: usize) -> usize {
        self.tcp.sockets(module) + self.udp.sockets(module)
    }

    /// Whether a module may open one more.
    fn may_open(&self, module: usize) -> bool {
        let pod = (0..MODULES).filter(|other| other % PODS == module % PODS);
        self.sockets(module) < MAX_SOCKETS && pod.map(|it| self.sockets(it)).sum::<usize>() < 40
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Tcp(op) => self.run_tcp(op),
            Op::Udp(op) => self.run_udp(op),
            Op::Kill { module } => self.kill(*module),
        }
        self.settle_waiting();
        self.check();
    }

    fn kill(&mut self, module: usize) {
        drop(self.modules[module].member.take());
        self.kill_tcp(module);
        self.kill_udp(module);
        let (member, purse) = self.join(module);
        let module = &mut self.modules[module];
        module.member = Some(member);
        let old = std::mem::replace(&mut module.purse, purse);
        module.old.push(old);
    }

    /// What holds at any time.
    fn check(&self) {
        for (index, module) in self.modules.iter().enumerate() {
            let member = self.member(index);
            assert_eq!(member.open_sockets(), self.sockets(index), "module {index}");
            let owed = member.open_sockets() * SOCKET_COST + member.buffered_bytes();
            assert_eq!(module.purse.owed(), owed, "its ledger knows exactly what it holds");
            assert!(module.old.iter().all(|purse| purse.owed() == 0), "the dead owe nothing");
        }
        for (index, pod) in self.pods.iter().enumerate() {
            let members = (index..MODULES).step_by(PODS).map(|module| self.member(module));
            let sum: usize = members.map(Member::buffered_bytes).sum();
            assert_eq!(pod.buffered_bytes(), sum);
        }
        if self.strict() {
            self.check_queues();
        }
    }

    fn end(self) {
        let Self { switch, pods, modules, tcp, udp, .. } = self;
        drop((tcp, udp, modules));
        for pod in &pods {
            assert_eq!(pod.bound_ports(), (0, 0));
            assert_eq!((pod.open_sockets(), pod.buffered_bytes()), (0, 0));
        }
        // The pods know the switch, and the switch knows the pods.
        switch.0.lock().unwrap().clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn pods_behave_as_their_model(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new(Room::Enough);
        for op in &ops {
            world.run(op);
        }
        world.end();
    }

    #[test]
    fn with_little_memory_no_byte_is_wrong_and_no_bound_is_passed(
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(Room::Little);
        for op in &ops {
            world.run(op);
        }
        world.end();
    }
}
