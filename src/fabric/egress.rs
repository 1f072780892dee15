//! One pod's decisions: where its connections and datagrams go, and what names mean to it.
//!
//! ```text
//!  to 10.88.0.0/16 ─► a pod of the node: both ends' policies (so is its IPv6 address)
//!  to 10.89.0.0/16 ─► a Service: one of its pods, then as above; nobody ready: refused
//!  anywhere else ───► the outside: an egress rule with the address, or a name that led there
//! ```
//! Owns: the order of these, and remembering verdicts while nothing changes. Not: the rules (`policy`), nor the sockets.
//! Limits: [`VERDICTS_MAX`] remembered verdicts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::outside::{Finding, HOST_IP, HOST_NAME, Outside};
use super::policy::Port;
use super::service::Client;
use super::state::{PodEntry, State};
use super::{Direction, Fabric, Peer, Use, lock, names};
use crate::clock::Timestamp;
use crate::net::{
    self, Ask, Egress, Lookup, OutboundCall, ResolveError, Route, SendError, UdpReply,
};
use crate::spec::{DnsConfig, HostPort, POD_RANGE, Pod, PodKey, PodUid, Protocol, SERVICE_RANGE};

/// Verdicts remembered for one pod: the peers that a module has at a time, several times over. When there are more, all are forgotten
/// and made anew.
const VERDICTS_MAX: usize = 256;

/// See the header. Given to the pod's network when that is made.
#[derive(Debug)]
pub struct PodEgress {
    fabric: Fabric,
    uid: PodUid,
    key: PodKey,
    ip: Ipv4Addr,
    dns: DnsConfig,
    outside: Arc<dyn Outside>,
    /// Grows with each answer that taught the pod an address.
    learnt: Arc<AtomicU64>,
    verdicts: Mutex<Verdicts>,
    /// Names looked up that mean several pods.
    turns: AtomicUsize,
}

#[derive(Debug, Default)]
struct Verdicts {
    made_at: Stamp,
    known: HashMap<(Protocol, SocketAddr), Verdict>,
}

/// When a verdict was made: the fabric's generation, and the pod's own count of answers.
type Stamp = (u64, u64);

/// Whether something is let through, and until when that holds if nothing changes.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    allowed: bool,
    until: Option<Timestamp>,
}

impl Verdict {
    fn always(allowed: bool) -> Self {
        Self { allowed, until: None }
    }
}

impl PodEgress {
    pub(super) fn new(fabric: Fabric, pod: &Pod, ip: Ipv4Addr, outside: Arc<dyn Outside>) -> Self {
        Self {
            fabric,
            uid: pod.uid.clone(),
            key: pod.key.clone(),
            ip,
            dns: pod.network.dns.clone(),
            outside,
            learnt: Arc::default(),
            verdicts: Mutex::default(),
            // Pods that each look up once do not all get the same first address.
            turns: AtomicUsize::new(usize::from(ip.octets()[3])),
        }
    }

    /// Read before the state that a verdict is made of: a change in between makes the verdict stale at once.
    fn stamp(&self) -> Stamp {
        (self.fabric.generation(), self.learnt.load(Ordering::Acquire))
    }

    fn to_pod(&self, ip: Ipv4Addr, to: SocketAddr, protocol: Protocol) -> Route {
        let stamp = self.stamp();
        let state = self.fabric.read();
        self.enter_pod(&state, stamp, ip, to, protocol)
    }

    fn enter_pod(
        &self,
        state: &State,
        stamp: Stamp,
        ip: Ipv4Addr,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Route {
        let Some((pod, seat)) = state.pod_at(ip) else { return Route::Unreachable };
        // A pod cannot keep itself out (Kubernetes: "a Pod cannot block access to itself").
        let decide = || {
            let port = Port { protocol, number: to.port() };
            let own = pod.uid == self.uid;
            Verdict::always(
                own || state.pod(&self.uid).is_some_and(|me| self.between(me, pod, ip, port)),
            )
        };
        if self.verdict(stamp, protocol, to, decide) {
            Route::Pod { net: seat.net.clone(), to }
        } else {
            Route::Denied
        }
    }

    /// Both ends must agree; each writes down its own.
    fn between(&self, me: &PodEntry, pod: &PodEntry, ip: Ipv4Addr, port: Port) -> bool {
        let them = pod.party(ip);
        let (egress, ingress) = (Direction::Egress, Direction::Ingress);
        let used = |direction, other: &PodEntry, ip: Ipv4Addr| Use {
            direction,
            peer: Peer::Pod {
                namespace: other.key.namespace.to_string(),
                labels: other.labels.clone(),
                ip: ip.into(),
            },
            port: Some(port.into()),
        };
        let out = me.isolation.lets_out(&them, port);
        if !self.fabric.verdict(me, used(egress, pod, ip), out) {
            return false;
        }
        let admitted = pod.isolation.admits(&pod.view(), &me.party(self.ip), port);
        self.fabric.verdict(pod, used(ingress, me, self.ip), admitted)
    }

    fn to_service(&self, ask: &Ask<'_>, ip: Ipv4Addr, protocol: Protocol) -> Route {
        let stamp = self.stamp();
        let state = self.fabric.read();
        let Some(entry) = state.service_at(ip) else { return Route::Unreachable };
        let ports = &entry.service.ports;
        let is_it = |port: &crate::spec::ServicePort| {
            port.protocol == protocol && port.port == ask.to.port()
        };
        let Some(port) = ports.iter().position(is_it) else { return Route::Refused };
        let client = Client { from: ask.from, is_flow: protocol == Protocol::Udp };
        let chosen = entry.balancers.get(port).and_then(|balancer| {
            let (now, affinity) = (self.fabric.now(), entry.service.affinity);
            let mut balancer = lock(balancer);
            let picked = balancer.pick(&entry.endpoints, port, client, affinity, now);
            picked.map(|(endpoint, number)| (endpoint.ip, number))
        });
        let Some((ip, number)) = chosen else { return Route::Refused };
        let to = SocketAddr::new(ip.into(), number);
        self.enter_pod(&state, stamp, ip, to, protocol)
    }

    fn to_outside(&self, to: SocketAddr, protocol: Protocol) -> Route {
        if !may_be_outside(to.ip()) {
            return Route::Unreachable;
        }
        if to.ip() == IpAddr::V4(HOST_IP) {
            return self.to_host(to.port(), protocol);
        }
        let stamp = self.stamp();
        let decide = || {
            let state = self.fabric.read();
            let port = Port { protocol, number: to.port() };
            match state.pod(&self.uid) {
                Some(me) => self.outward(me, to.ip(), port),
                None => Verdict::always(false),
            }
        };
        if self.verdict(stamp, protocol, to, decide) { Route::Outside } else { Route::Denied }
    }

    /// To a port of the host's loopback. It is granted there, for the life of the pod's network; what was taken back since is refused here.
    fn to_host(&self, port: u16, protocol: Protocol) -> Route {
        let state = self.fabric.read();
        let wanted = HostPort { protocol, port };
        let granted =
            state.pod(&self.uid).is_some_and(|me| me.network.host_loopback.contains(&wanted));
        if granted { Route::Outside } else { Route::Denied }
    }

    fn outward(&self, me: &PodEntry, ip: IpAddr, port: Port) -> Verdict {
        let now = self.fabric.now();
        let by_address = me.isolation.lets_outside(ip, port);
        let (until, name) = {
            let learnt = lock(&me.learnt);
            let rules = me.isolation.names.iter().chain(&me.network.egress_names);
            let (protocol, number) = port.into();
            (learnt.allows(ip, protocol, number, rules, now), learnt.name_of(ip, now))
        };
        let peer = match name {
            Some(name) => Peer::Name(name.to_string()),
            None => Peer::Address(ip),
        };
        let used = Use { direction: Direction::Egress, peer, port: Some(port.into()) };
        let allowed = self.fabric.verdict(me, used, by_address || until.is_some());
        // A name's time bounds only what the name alone allows.
        let until = until.filter(|_| allowed && !by_address && !me.is_audited());
        Verdict { allowed, until }
    }

    /// The verdict on an address, remembered as long as nothing changes. `stamp` was read before the state.
    fn verdict(
        &self,
        stamp: Stamp,
        protocol: Protocol,
        to: SocketAddr,
        decide: impl FnOnce() -> Verdict,
    ) -> bool {
        let key = (protocol, to);
        {
            let mut verdicts = lock(&self.verdicts);
            if verdicts.made_at != stamp {
                verdicts.made_at = stamp;
                verdicts.known.clear();
            }
            if let Some(known) = verdicts.known.get(&key)
                && known.until.is_none_or(|until| self.fabric.now() < until)
            {
                return known.allowed;
            }
        }
        let decided = decide();
        let mut verdicts = lock(&self.verdicts);
        if verdicts.made_at == stamp {
            if verdicts.known.len() >= VERDICTS_MAX {
                verdicts.known.clear();
            }
            verdicts.known.insert(key, decided);
        }
        decided.allowed
    }

    /// Whether the pod may have a name outside looked up.
    fn may_ask(&self, me: &PodEntry, name: &str) -> bool {
        let mut rules = me.isolation.names.iter().chain(&me.network.egress_names);
        let allowed =
            rules.any(|rule| rule.name.matches(name)) || me.isolation.lets_ask_resolvers();
        let peer = Peer::Name(name.to_ascii_lowercase());
        self.fabric.verdict(me, Use { direction: Direction::Egress, peer, port: None }, allowed)
    }
}

/// Where a datagram or connection could go beyond the node. What stays in the pod never comes here; its spellings must not leave.
fn may_be_outside(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
        }
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
    }
}

fn spelled(protocol: crate::net::Protocol) -> Protocol {
    match protocol {
        crate::net::Protocol::Tcp => Protocol::Tcp,
        crate::net::Protocol::Udp => Protocol::Udp,
    }
}

/// One of the things a name is tried as.
enum Step {
    /// Known here.
    Found(Vec<IpAddr>),
    /// To be asked outside.
    Ask(String),
}

impl Egress for PodEgress {
    fn route(&self, ask: &Ask<'_>) -> Route {
        let protocol = spelled(ask.protocol);
        match ask.to.ip() {
            IpAddr::V4(ip) if POD_RANGE.contains(ip) => self.to_pod(ip, ask.to, protocol),
            IpAddr::V4(ip) if SERVICE_RANGE.contains(ip) => self.to_service(ask, ip, protocol),
            IpAddr::V4(_) => self.to_outside(ask.to, protocol),
            // The same pod under its other address; to rules it has the first one.
            IpAddr::V6(ip) => match net::pod_of_ip6(ip) {
                Some(ip) => self.to_pod(ip, ask.to, protocol),
                None => self.to_outside(ask.to, protocol),
            },
        }
    }

    fn connect(&self, ask: &Ask<'_>, call: OutboundCall) {
        self.outside.connect(ask.to, call);
    }

    fn send(&self, ask: &Ask<'_>, data: Bytes, reply: &UdpReply) -> Result<(), SendError> {
        self.outside.send(ask.from, ask.to, data, reply)
    }

    fn lookup(&self, _member: &str, name: &str) -> Lookup {
        let (name, complete) = match name.strip_suffix('.') {
            Some(name) => (name, true),
            None => (name, false),
        };
        if name.eq_ignore_ascii_case(HOST_NAME) {
            return Lookup::Later(self.answered(vec![Step::Ask(name.to_owned())], None));
        }
        let (mut steps, mut denied) = (Vec::new(), false);
        {
            let state = self.fabric.read();
            let Some(me) = state.pod(&self.uid) else {
                return Lookup::Now(Err(ResolveError::NotFound));
            };
            let candidates = if complete {
                vec![name.to_owned()]
            } else {
                names::candidates(name, &self.dns, &self.key.namespace)
            };
            for candidate in candidates {
                match self.cluster(&candidate, &state) {
                    Some(found) if found.is_empty() => {}
                    Some(found) => {
                        steps.push(Step::Found(found));
                        break;
                    }
                    None if self.may_ask(me, &candidate) => steps.push(Step::Ask(candidate)),
                    None => denied = true,
                }
            }
        }
        // A short name means one of the node's, and there is no such; what else it was tried as is nobody's wish.
        let is_short = self.dns.cluster && !complete && !name.contains('.');
        let missing =
            if denied && !is_short { ResolveError::Denied } else { ResolveError::NotFound };
        match steps.as_mut_slice() {
            [] => Lookup::Now(Err(missing)),
            [Step::Found(found), ..] => Lookup::Now(Ok(std::mem::take(found))),
            [Step::Ask(_), ..] => Lookup::Later(self.answered(steps, Some(missing))),
        }
    }
}

impl PodEgress {
    /// The addresses of a name of the node; none if there is no such. `None`: not a name of the node's.
    fn cluster(&self, name: &str, state: &State) -> Option<Vec<IpAddr>> {
        let mut found = names::resolve(name, state)?;
        // Under another DNS policy the node's names are unknown, and still not the outside's to answer.
        found.retain(|_| self.dns.cluster);
        if found.len() > 1 {
            // Most programs take the first address: as a cluster's name server does, each answer begins with another.
            let turn = self.turns.fetch_add(1, Ordering::Relaxed) % found.len();
            found.rotate_left(turn);
        }
        Some(found.into_iter().map(IpAddr::V4).collect())
    }

    /// Takes the steps one after another until one has addresses. `missing`: what is said if none has, unless a resolver says more.
    fn answered(&self, steps: Vec<Step>, missing: Option<ResolveError>) -> crate::net::Answer {
        let (fabric, uid) = (self.fabric.clone(), self.uid.clone());
        let taught = Arc::clone(&self.learnt);
        let asked = steps.into_iter().map(|step| match step {
            Step::Found(found) => Asked::Found(found),
            // The question goes out when its turn comes, not before.
            Step::Ask(name) => Asked::Ask(name, Arc::clone(&self.outside)),
        });
        let asked: Vec<Asked> = asked.collect();
        Box::pin(async move {
            let mut said = missing.unwrap_or(ResolveError::NotFound);
            for step in asked {
                match step {
                    Asked::Found(found) => return Ok(found),
                    Asked::Ask(name, outside) => {
                        let finding: Finding = outside.lookup(&name);
                        match finding.await {
                            Ok(answers) => {
                                fabric.learn(&uid, &name, &answers);
                                // What was denied a moment ago may be allowed now.
                                taught.fetch_add(1, Ordering::Release);
                                return Ok(answers.addresses);
                            }
                            Err(ResolveError::NotFound) => {}
                            Err(error) => said = error,
                        }
                    }
                }
            }
            Err(said)
        })
    }
}

enum Asked {
    Found(Vec<IpAddr>),
    Ask(String, Arc<dyn Outside>),
}

impl Fabric {
    /// The pod learnt these addresses by that name.
    fn learn(&self, uid: &PodUid, name: &str, answers: &super::Answers) {
        let state = self.read();
        let Some(pod) = state.pod(uid) else { return };
        let name: Arc<str> = name.to_ascii_lowercase().into();
        let now = self.now();
        let mut learnt = lock(&pod.learnt);
        for ip in &answers.addresses {
            learnt.note(*ip, &name, answers.ttl, now);
        }
    }
}

/// How the other side of a rule reads in messages.
#[must_use]
pub fn describe(used: &Use) -> String {
    let peer = match &used.peer {
        Peer::Pod { namespace, ip, .. } => format!("{ip} (a pod of namespace {namespace})"),
        Peer::Address(ip) => ip.to_string(),
        Peer::Name(name) => name.clone(),
    };
    let port = match used.port {
        Some((Protocol::Tcp, port)) => format!(" tcp/{port}"),
        Some((Protocol::Udp, port)) => format!(" udp/{port}"),
        None => String::new(),
    };
    match (used.direction, used.port) {
        (Direction::Egress, Some(_)) => format!("to {peer}{port}"),
        (Direction::Egress, None) => format!("looking up {peer}"),
        (Direction::Ingress, _) => format!("from {peer}{port}"),
    }
}
