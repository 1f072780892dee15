//! What stands behind Services, shown as objects; and what pods were denied, told as Events.
//!
//! Owns: `EndpointSlice`s and `Endpoints` on the board (`KUBELET.md` 21). Nobody writes them but this task, from what the fabric knows;
//! nothing reads them back. It follows changes and then looks at the whole, so a burst of them costs one look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint as SliceEndpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tokio_util::sync::CancellationToken;

use crate::board::{Board, DEFAULT_NAMESPACE, EventDraft, Kind, Object, ObjectKey, wire_time};
use crate::fabric::{Backing, Denial, Endpoint, egress};
use crate::pod::NodeContext;
use crate::spec::{NamespacedName, PodKey, Protocol};

/// Follows the fabric until `stop`.
pub(super) async fn run(node: Arc<NodeContext>, stop: CancellationToken) {
    let mut changes = node.fabric.subscribe();
    let mut shown = Shown::default();
    loop {
        changes.mark_unchanged();
        shown.bring_up_to_date(&node);
        for denial in node.fabric.take_denials() {
            tell(&node, &denial);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// What was put on the board, by Service.
#[derive(Debug, Default)]
struct Shown(BTreeMap<NamespacedName, (Backing, BTreeSet<ObjectKey>)>);

impl Shown {
    fn bring_up_to_date(&mut self, node: &NodeContext) {
        let mut gone: BTreeSet<NamespacedName> = self.0.keys().cloned().collect();
        for backing in node.fabric.backings() {
            // Without a selector there is nothing to show: nobody could have written it either.
            if backing.service.selector.is_empty() {
                continue;
            }
            gone.remove(backing.key());
            let known = self.0.get(backing.key());
            if known.is_some_and(|(known, _)| same(known, &backing)) {
                continue;
            }
            let before = known.map(|(_, keys)| keys.clone()).unwrap_or_default();
            let keys = show(node, &backing);
            for key in before.difference(&keys) {
                node.board.remove(key, None);
            }
            self.0.insert(backing.key().clone(), (backing, keys));
        }
        for service in gone {
            for key in self.0.remove(&service).map(|(_, keys)| keys).unwrap_or_default() {
                node.board.remove(&key, None);
            }
        }
    }
}

fn same(a: &Backing, b: &Backing) -> bool {
    Arc::ptr_eq(&a.service, &b.service) && Arc::ptr_eq(&a.endpoints, &b.endpoints)
}

/// Endpoints whose ports have the same numbers: one slice, one subset.
type Groups<'a> = BTreeMap<&'a [Option<u16>], Vec<&'a Endpoint>>;

fn show(node: &NodeContext, backing: &Backing) -> BTreeSet<ObjectKey> {
    let mut groups: Groups<'_> = BTreeMap::new();
    for endpoint in backing.endpoints.iter() {
        groups.entry(&endpoint.ports).or_default().push(endpoint);
    }
    let mut keys = BTreeSet::new();
    let mut put = |object: Object| {
        keys.insert(object.key());
        node.board.upsert(object);
    };
    put(Object::from(endpoints(node, backing, &groups)));
    if groups.is_empty() {
        // A Service without pods has an empty slice, as in Kubernetes.
        let none: Vec<Option<u16>> = vec![None; backing.service.ports.len()];
        put(Object::from(slice(node, backing, 0, &none, &[])));
    }
    for (index, (ports, group)) in groups.iter().enumerate() {
        put(Object::from(slice(node, backing, index, ports, group)));
    }
    keys
}

/// Metadata of a derived object; what it had stays.
fn metadata(node: &NodeContext, backing: &Backing, kind: Kind, name: String) -> ObjectMeta {
    let namespace = backing.key().namespace.to_string();
    let old = node.board.get(&ObjectKey::new(kind, &namespace, &name));
    let old = old.as_ref().map(Object::metadata);
    let now = wire_time(node.clock.now().wall_ms());
    let fresh = || uuid::Uuid::new_v4().to_string();
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace),
        uid: Some(old.and_then(|old| old.uid.clone()).unwrap_or_else(fresh)),
        creation_timestamp: Some(old.and_then(|o| o.creation_timestamp.clone()).unwrap_or(now)),
        ..ObjectMeta::default()
    }
}

fn slice(
    node: &NodeContext,
    backing: &Backing,
    index: usize,
    ports: &[Option<u16>],
    group: &[&Endpoint],
) -> EndpointSlice {
    let service = &backing.service;
    let suffix = if index == 0 { "ipv4".to_owned() } else { format!("ipv4-{}", index + 1) };
    let name = format!("{}-{suffix}", service.key.name);
    let mut metadata = metadata(node, backing, Kind::EndpointSlice, name);
    let mut labels = BTreeMap::from([
        ("kubernetes.io/service-name".to_owned(), service.key.name.to_string()),
        ("endpointslice.kubernetes.io/managed-by".to_owned(), "podling".to_owned()),
    ]);
    if service.cluster_ip().is_none() {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    metadata.labels = Some(labels);
    metadata.owner_references = owner(&node.board, backing);
    let port = |(port, number): (&crate::spec::ServicePort, &Option<u16>)| {
        Some(SlicePort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(i32::from((*number)?)),
            protocol: Some(word(port.protocol).to_owned()),
            app_protocol: None,
        })
    };
    let endpoint = |endpoint: &&Endpoint| SliceEndpoint {
        addresses: vec![endpoint.ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(endpoint.ready),
            serving: Some(endpoint.serving),
            terminating: Some(endpoint.terminating),
        }),
        hostname: endpoint.hostname.clone(),
        node_name: Some(node.node.name.clone()),
        target_ref: Some(reference(endpoint)),
        ..SliceEndpoint::default()
    };
    EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: Some(group.iter().map(endpoint).collect()),
        metadata,
        ports: Some(service.ports.iter().zip(ports).filter_map(port).collect()),
    }
}

fn endpoints(node: &NodeContext, backing: &Backing, groups: &Groups<'_>) -> Endpoints {
    let service = &backing.service;
    let name = service.key.name.to_string();
    let metadata = metadata(node, backing, Kind::Endpoints, name);
    let address = |endpoint: &Endpoint| EndpointAddress {
        ip: endpoint.ip.to_string(),
        hostname: endpoint.hostname.clone(),
        node_name: Some(node.node.name.clone()),
        target_ref: Some(reference(endpoint)),
    };
    let subset = |(ports, group): (&&[Option<u16>], &Vec<&Endpoint>)| {
        let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
        let ready = group.iter().filter(|e| e.ready).map(|e| address(e)).collect();
        // The older form leaves out what is on its way out.
        let waits = |e: &&&Endpoint| !e.ready && !e.terminating;
        let not_ready = group.iter().filter(waits).map(|e| address(e)).collect();
        let numbered = service.ports.iter().zip(ports.iter());
        let ports = numbered.filter_map(|(port, number)| {
            Some(EndpointPort {
                name: port.name.clone(),
                port: i32::from((*number)?),
                protocol: Some(word(port.protocol).to_owned()),
                app_protocol: None,
            })
        });
        EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(ports.collect()),
        }
    };
    let subsets: Vec<EndpointSubset> = groups.iter().map(subset).collect();
    let is_empty = |s: &EndpointSubset| s.addresses.is_none() && s.not_ready_addresses.is_none();
    let subsets: Vec<_> = subsets.into_iter().filter(|s| !is_empty(s)).collect();
    Endpoints { metadata, subsets: (!subsets.is_empty()).then_some(subsets) }
}

fn owner(board: &Board, backing: &Backing) -> Option<Vec<OwnerReference>> {
    let key = backing.key();
    let service = board.get(&ObjectKey::new(Kind::Service, &key.namespace, &key.name))?;
    Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: key.name.to_string(),
        uid: service.metadata().uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    }])
}

fn reference(endpoint: &Endpoint) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(endpoint.pod.namespace.to_string()),
        name: Some(endpoint.pod.name.to_string()),
        uid: Some(endpoint.uid.to_string()),
        ..ObjectReference::default()
    }
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// What shows the pod's audit, as a person would type it.
fn audit_command(pod: &PodKey) -> String {
    let name = &pod.name;
    match &*pod.namespace {
        DEFAULT_NAMESPACE => format!("podling net {name} --audit"),
        namespace => format!("podling net -n {namespace} {name} --audit"),
    }
}

/// A denial is an Event of the pod whose policy it is: a person sees it where they look first.
fn tell(node: &NodeContext, denial: &Denial) {
    let what = egress::describe(&denial.used);
    let (reason, message) = if denial.audited {
        let message = format!("{what}: no policy allows it; let through, since the pod is audited");
        ("NetworkAudited", message)
    } else {
        let command = audit_command(&denial.pod);
        let message = format!("{what}: denied, no policy allows it; `{command}` says more");
        ("NetworkDenied", message)
    };
    let draft = EventDraft {
        involved: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(denial.pod.namespace.to_string()),
            name: Some(denial.pod.name.to_string()),
            uid: Some(denial.uid.to_string()),
            ..ObjectReference::default()
        },
        warning: !denial.audited,
        reason: reason.to_owned(),
        message,
        component: "podling".to_owned(),
        host: node.node.name.clone(),
    };
    node.board.record(&draft, node.clock.now());
}
