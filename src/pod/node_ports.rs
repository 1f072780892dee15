//! Ports of the host for Services of type NodePort.
//!
//! Owns: one listener for each, opened and closed as Services come and go; a port that the host does not give is tried again, and
//! told as an Event of the Service. Not: which ports Services get (`reconciler`), nor whom a client gets (`fabric`).
//!
//! ```text
//!  client ─► 0.0.0.0:NODE_PORT ─► fabric: a ready pod, and policy ─► pump ─► that pod
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::board::{EventDraft, Kind, ObjectKey};
use crate::fabric::{Client, Fabric};
use crate::net::Member;
use crate::outside::stats::Traffic;
use crate::pod::context::NodeContext;
use crate::pod::host_port::{self, Leads, PublishedPort};
use crate::spec::{NamespacedName, Protocol};

/// How long after a failure a port is tried again. Who has it is a program of the host, which seldom goes by itself.
const RETRY: Duration = Duration::from_secs(10);

/// A port that a Service wants on the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    service: NamespacedName,
    protocol: Protocol,
    /// The Service's own port.
    port: u16,
    node_port: u16,
}

/// A port that is open.
#[derive(Debug)]
struct Open {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Keeps the ports of all Services open until `stop`, then closes them.
pub async fn run(node: Arc<NodeContext>, stop: CancellationToken) {
    let mut changes = node.fabric.subscribe();
    let mut open: BTreeMap<Wanted, Open> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let all_open = bring_up_to_date(&node, &mut open).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(RETRY), if !all_open => {}
            () = stop.cancelled() => break,
        }
    }
    for (_, port) in open {
        port.close().await;
    }
}

/// True if every port that is wanted is open.
async fn bring_up_to_date(node: &NodeContext, open: &mut BTreeMap<Wanted, Open>) -> bool {
    let wanted = wanted(&node.fabric);
    let gone: Vec<Wanted> = open.keys().filter(|port| !wanted.contains(port)).cloned().collect();
    for port in gone {
        if let Some(closing) = open.remove(&port) {
            // Before others are opened: one of them may be this very port, for another Service.
            closing.close().await;
        }
    }
    let mut all_open = true;
    for port in wanted {
        if open.contains_key(&port) {
            continue;
        }
        match serve(node, &port).await {
            Ok(opened) => drop(open.insert(port, opened)),
            Err(error) => {
                all_open = false;
                tell(node, &port, &error);
            }
        }
    }
    all_open
}

fn wanted(fabric: &Fabric) -> BTreeSet<Wanted> {
    let backings = fabric.backings();
    let ports = backings.iter().flat_map(|backing| {
        backing.service.ports.iter().filter_map(|port| {
            Some(Wanted {
                service: backing.key().clone(),
                protocol: port.protocol,
                port: port.port,
                node_port: port.node_port?,
            })
        })
    });
    ports.collect()
}

async fn serve(node: &NodeContext, port: &Wanted) -> io::Result<Open> {
    let published = PublishedPort {
        protocol: port.protocol,
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port.node_port),
        container_port: port.port,
        traffic: Traffic::default(),
    };
    let stop = CancellationToken::new();
    let leads = Arc::new(ToService { fabric: node.fabric.clone(), wanted: port.clone() });
    let tasks = host_port::open_port(Arc::new(published), leads, node.clock, stop.clone()).await?;
    info!(service = %port.service, port = port.node_port, "a Service's port is open on the host");
    Ok(Open { stop, tasks })
}

impl Open {
    async fn close(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

#[derive(Debug)]
struct ToService {
    fabric: Fabric,
    wanted: Wanted,
}

impl Leads for ToService {
    fn find(&self, client: SocketAddr) -> Option<(Arc<Member>, SocketAddr)> {
        let Wanted { service, protocol, port, .. } = &self.wanted;
        // A UDP client asks once, and keeps what it got: it needs no flow of its own.
        let client = Client { from: client, is_flow: false };
        let picked = self.fabric.pick(service, *protocol, *port, client)?;
        let (from, to) = (client.from, picked.to.port());
        host_port::admitted(&self.fabric, &picked.pod, from, *protocol, to)
            .then_some((picked.host, picked.to))
    }

    fn still(&self, client: SocketAddr, to: SocketAddr) -> bool {
        let Wanted { service, protocol, port, .. } = &self.wanted;
        // A pod that is not ready any more gets no datagrams either; kube-proxy makes the kernel forget such flows.
        let pod = self.fabric.pod_at(to.ip());
        self.fabric.leads(service, *protocol, *port, to)
            && pod.is_some_and(|pod| {
                host_port::admitted(&self.fabric, &pod, client, *protocol, to.port())
            })
    }

    fn generation(&self) -> u64 {
        self.fabric.generation()
    }
}

fn tell(node: &NodeContext, port: &Wanted, error: &io::Error) {
    let key = ObjectKey::new(Kind::Service, &port.service.namespace, &port.service.name);
    let uid = node.board.get(&key).and_then(|object| object.metadata().uid.clone());
    let number = port.node_port;
    warn!(service = %port.service, port = number, %error, "the host does not give a Service's port");
    let draft = EventDraft {
        involved: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(port.service.namespace.to_string()),
            name: Some(port.service.name.to_string()),
            uid,
            ..ObjectReference::default()
        },
        warning: true,
        reason: "FailedToOpenNodePort".to_owned(),
        message: format!(
            "cannot open port {number} of the host: {error}; tried again every {RETRY:?}"
        ),
        component: "podling".to_owned(),
        host: node.node.name.clone(),
    };
    node.board.record(&draft, node.clock.now());
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::clock::Clock;
    use crate::fabric::{NoOutside, PodState};
    use crate::net::{MemberLimits, NetConfig, NoLedger, PodNet};
    use crate::spec::{PortRef, Service, ServiceAddress, ServicePort};
    use crate::testkit::pods;

    #[test]
    fn datagrams_of_a_client_leave_a_pod_that_is_not_ready_any_more() {
        let fabric = Fabric::new(Clock::start());
        let mut pod = pods::pod([pods::regular("c")]);
        pod.labels = [("app".to_owned(), "dns".to_owned())].into();
        let ip = Ipv4Addr::new(10, 88, 0, 1);
        let egress = fabric.egress(&pod, ip, Arc::new(NoOutside));
        let net = PodNet::new(NetConfig { egress, ..NetConfig::new(ip) });
        let host = Arc::new(net.join("podling", MemberLimits::default(), Arc::new(NoLedger)));
        let _attached = fabric.attach(&pod.uid, &net, &host);
        let service = NamespacedName::new(&pod.key.namespace, "dns");
        let port = ServicePort {
            name: None,
            protocol: Protocol::Udp,
            port: 53,
            target: PortRef::Number(5353),
            node_port: Some(30_053),
        };
        fabric.set_service(Service {
            key: service.clone(),
            selector: pod.labels.clone(),
            address: ServiceAddress::ClusterIp(Ipv4Addr::new(10, 89, 0, 1)),
            ports: vec![port],
            affinity: None,
            publish_not_ready: false,
        });
        let wanted = Wanted { service, protocol: Protocol::Udp, port: 53, node_port: 30_053 };
        let leads = ToService { fabric: fabric.clone(), wanted };
        let client = "192.0.2.1:9".parse().unwrap();
        let ready = |ready| {
            let before = leads.generation();
            fabric.set_state(&pod.uid, PodState { ready, ..PodState::default() });
            assert_ne!(leads.generation(), before, "asked again");
        };
        ready(true);
        let (_, to) = leads.find(client).unwrap();
        assert_eq!(to, "10.88.0.1:5353".parse().unwrap());
        assert!(leads.still(client, to));
        ready(false);
        assert!(!leads.still(client, to) && leads.find(client).is_none());
        ready(true);
        assert!(leads.still(client, to));
        assert!(!leads.still(client, "10.88.0.1:5354".parse().unwrap()));
    }
}
