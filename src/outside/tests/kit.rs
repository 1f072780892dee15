//! A pod with a way out, and somebody outside.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::net::{
    Ask, Egress, Lookup, Member, MemberLimits, NetConfig, NoLedger, OutboundCall, PodNet, Route,
    SendError, UdpReply,
};
use crate::outside::dialer::{Dialer, Dialing, Kernel};
use crate::outside::names::{Finding, Names};
use crate::outside::test_net::TestNet;
use crate::outside::{Asked, Gateway, PodLimits, PodOutside};
use crate::spec::{HostPort, PodKey};

pub(super) const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 5);

/// Allows everything, as a policy might.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) gateway: Gateway,
    pub(super) pod: Arc<PodOutside>,
}

impl Egress for Open {
    fn route(&self, _ask: &Ask<'_>) -> Route {
        Route::Outside
    }

    fn connect(&self, ask: &Ask<'_>, call: OutboundCall) {
        self.gateway.connect(&self.pod, ask.to, call);
    }

    fn send(&self, ask: &Ask<'_>, data: Bytes, reply: &UdpReply) -> Result<(), SendError> {
        self.gateway.send(&self.pod, ask.from, ask.to, &data, reply)
    }

    fn lookup(&self, _member: &str, name: &str) -> Lookup {
        match self.gateway.lookup(&self.pod, name) {
            Asked::Now(found) => Lookup::Now(found.map(|found| found.addresses)),
            Asked::Later(finding) => {
                Lookup::Later(Box::pin(async { finding.await.map(|found| found.addresses) }))
            }
        }
    }
}

/// Knows no name.
#[derive(Debug)]
pub(super) struct NoNames;

impl Names for NoNames {
    fn find(&self, _name: String) -> Finding {
        Box::pin(std::future::ready(Err(crate::net::ResolveError::NotFound)))
    }
}

/// Never answers a connect.
#[derive(Debug)]
pub(super) struct Stuck;

impl Dialer for Stuck {
    fn tcp(&self, _to: SocketAddr) -> Dialing {
        Box::pin(std::future::pending())
    }

    fn udp(&self, to: SocketAddr) -> io::Result<std::net::UdpSocket> {
        Kernel.udp(to)
    }

    fn is_own(&self, _ip: std::net::IpAddr) -> bool {
        false
    }
}

pub(super) struct World {
    pub(super) net: PodNet,
    pub(super) pod: Arc<PodOutside>,
    pub(super) gateway: Gateway,
    pub(super) module: Member,
}

impl World {
    pub(super) fn new(dialer: impl Dialer, names: impl Names, limits: PodLimits) -> Self {
        Self::granted(dialer, names, limits, &[])
    }

    pub(super) fn granted(
        dialer: impl Dialer,
        names: impl Names,
        limits: PodLimits,
        grants: &[&str],
    ) -> Self {
        let gateway = Gateway::new(
            Arc::new(dialer),
            Arc::new(names),
            Handle::current(),
            Clock::start(),
            1024,
        );
        let grants = grants.iter().map(|grant| HostPort::parse(grant).unwrap()).collect();
        let pod = Arc::new(PodOutside::new(PodKey::new("default", "p"), grants, limits));
        let mut config = NetConfig::new(POD_IP);
        config.egress = Arc::new(Open { gateway: gateway.clone(), pod: Arc::clone(&pod) });
        let net = PodNet::new(config);
        let module = net.join("module", MemberLimits::default(), Arc::new(NoLedger));
        Self { net, pod, gateway, module }
    }

    /// A pod for which each of these addresses leads to the listener beside it.
    pub(super) fn mapped(map: &[(&str, SocketAddr)]) -> Self {
        Self::new(test_net(map), NoNames, PodLimits::default())
    }
}

pub(super) fn test_net(map: &[(&str, SocketAddr)]) -> TestNet {
    TestNet::new(map.iter().map(|(from, to)| (at(from), *to)).collect()).unwrap()
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Waits for what other tasks bring about.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect(what);
}
