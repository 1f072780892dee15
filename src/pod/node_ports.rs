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
        let protocol = self.wanted.protocol;
        let pod = self.fabric.pod_at(to.ip());
        pod.is_some_and(|pod| host_port::admitted(&self.fabric, &pod, client, protocol, to.port()))
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
