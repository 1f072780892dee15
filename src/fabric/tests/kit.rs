//! A node of a few pods, and an outside that writes down what reaches it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::fabric::{Answers, Attachment, Fabric, Finding, Outside, PodState};
use crate::net::{
    ConnectError, Listener, Lookup, Member, MemberLimits, NetConfig, NoLedger, OutboundCall,
    PodNet, ResolveError, SendError, UdpReply,
};
use crate::spec::{
    Labels, NamespacedName, Pod, PodKey, PodUid, Port, PortRef, Protocol, Service, ServiceAddress,
    ServicePort,
};
use crate::testkit::pods;

/// Everything that left the node, and the names it knows.
#[derive(Debug, Default)]
pub(super) struct FakeOutside {
    pub(super) names: BTreeMap<&'static str, (IpAddr, Duration)>,
    pub(super) connected: Mutex<Vec<SocketAddr>>,
    pub(super) sent: Mutex<Vec<SocketAddr>>,
    pub(super) asked: Mutex<Vec<String>>,
}

impl Outside for FakeOutside {
    fn connect(&self, to: SocketAddr, call: OutboundCall) {
        self.connected.lock().unwrap().push(to);
        call.failed(ConnectError::TimedOut(to));
    }

    fn send(
        &self,
        _from: SocketAddr,
        to: SocketAddr,
        _data: Bytes,
        _reply: &UdpReply,
    ) -> Result<(), SendError> {
        self.sent.lock().unwrap().push(to);
        Ok(())
    }

    fn lookup(&self, name: &str) -> Finding {
        self.asked.lock().unwrap().push(name.to_owned());
        let lower = name.to_ascii_lowercase();
        let found = self
            .names
            .get(lower.as_str())
            .map(|(ip, ttl)| Answers { addresses: vec![*ip], ttl: *ttl });
        Box::pin(std::future::ready(found.ok_or(ResolveError::NotFound)))
    }
}

pub(super) struct Node {
    pub(super) fabric: Fabric,
    pub(super) outside: Arc<FakeOutside>,
}

/// A pod with a network, in the fabric.
pub(super) struct Guest {
    pub(super) pod: Pod,
    pub(super) ip: Ipv4Addr,
    _net: PodNet,
    pub(super) module: Member,
    _attached: Attachment,
    _host: Arc<Member>,
}

pub(super) fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The datagram that has come.
pub(super) fn got(socket: &crate::net::UdpSocket) -> Option<crate::net::Datagram> {
    match socket.try_receive() {
        std::task::Poll::Ready(datagram) => Some(datagram.unwrap()),
        std::task::Poll::Pending => None,
    }
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with_names(&[])
    }

    pub(super) fn with_names(names: &[(&'static str, &str, u64)]) -> Self {
        let names = names
            .iter()
            .map(|(name, ip, ttl)| (*name, (ip.parse().unwrap(), Duration::from_secs(*ttl))));
        let outside = FakeOutside { names: names.collect(), ..FakeOutside::default() };
        Self { fabric: Fabric::new(Clock::start()), outside: Arc::new(outside) }
    }

    pub(super) fn guest(&self, name: &str, labels_text: &str, host: u8) -> Guest {
        self.guest_of(name, labels_text, host, |_| {})
    }

    /// A ready pod of the namespace before the slash, with a port named `http` at 8080.
    pub(super) fn guest_of(
        &self,
        name: &str,
        labels_text: &str,
        host: u8,
        change: impl FnOnce(&mut Pod),
    ) -> Guest {
        let (namespace, name) = name.split_once('/').unwrap_or(("lab", name));
        let mut container = pods::regular("c");
        container.ports = vec![Port {
            name: Some("http".to_owned()),
            container_port: 8080,
            protocol: Protocol::Tcp,
            host_port: None,
            host_ip: None,
        }];
        let mut pod = pods::pod([container]);
        pod.key = PodKey::new(namespace, name);
        pod.uid = PodUid::new(&format!("{namespace}-{name}"));
        pod.labels = labels(labels_text);
        change(&mut pod);
        let ip = Ipv4Addr::new(10, 88, 0, host);
        self.fabric.describe(&pod);
        let mut config = NetConfig::new(ip);
        config.egress = self.fabric.egress(
            &pod,
            ip,
            Arc::<FakeOutside>::clone(&self.outside) as Arc<dyn Outside>,
        );
        let net = PodNet::new(config);
        let join = |name| net.join(name, MemberLimits::default(), Arc::new(NoLedger));
        let (host, module) = (Arc::new(join("podling")), join("module"));
        let attached = self.fabric.attach(&pod.uid, &net, &host);
        self.fabric.set_state(&pod.uid, PodState { ready: true, ..PodState::default() });
        Guest { pod, ip, _net: net, module, _attached: attached, _host: host }
    }

    /// A Service of the namespace `lab` for the pods with these labels, port 80 to their port of that name or number.
    pub(super) fn service(&self, name: &str, selector: &str, target: &str) -> Service {
        let target = match target.parse() {
            Ok(number) => PortRef::Number(number),
            Err(_) => PortRef::Name(target.to_owned()),
        };
        let port = |protocol| ServicePort {
            name: None,
            protocol,
            port: 80,
            target: target.clone(),
            node_port: None,
        };
        Service {
            key: NamespacedName::new("lab", name),
            selector: labels(selector),
            address: ServiceAddress::ClusterIp(Ipv4Addr::new(10, 89, 0, 1)),
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
            affinity: None,
            publish_not_ready: false,
        }
    }
}

impl Guest {
    pub(super) fn listen(&self, port: u16) -> Listener {
        self.module.listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).unwrap()
    }

    /// A connection to `to`, as far as it comes about at once: the address of the other end as it is seen here.
    pub(super) fn connect(&self, to: &str) -> Result<SocketAddr, ConnectError> {
        let mut connecting = self.module.connect(at(to))?;
        match connecting.try_finish() {
            std::task::Poll::Ready(stream) => stream.map(|stream| stream.remote_address()),
            std::task::Poll::Pending => panic!("the connection to {to} waits"),
        }
    }

    pub(super) fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.ip)
    }

    /// What a name means to the pod.
    pub(super) fn lookup(&self, name: &str) -> Result<Vec<String>, ResolveError> {
        let found = match self.module.lookup(name) {
            Lookup::Now(found) => found,
            Lookup::Later(answer) => {
                futures_util::FutureExt::now_or_never(answer).expect("the fake answers at once")
            }
        };
        found.map(|ips| ips.iter().map(ToString::to_string).collect())
    }
}
