//! Objects as rows, for `kubectl get`.
//!
//! Owns: the columns and cells of each kind, as `pkg/printers/internalversion/printers.go` prints them. Pure: time is an argument.

mod network;
mod pod;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Secret};
use serde_json::{Value, json};

use crate::board::{Kind, Object};

use super::age;
use super::wire::{Column, PartialObject, Row, Table, TableMeta};

pub use network::{label_selector, port_text};
pub use pod::{PodSummary, summary};

/// What of the object travels with its row (`?includeObject=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// How a table is wanted.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    pub include: IncludeObject,
    /// `meta.k8s.io/v1beta1` rather than `v1`, for clients older than 2019.
    pub beta: bool,
    /// Wall clock, for ages; milliseconds since 1970.
    pub now_ms: i64,
}

/// A table of these objects. `columns` false: rows only, as all but the first table of a watch.
#[must_use]
pub fn table(
    kind: Kind,
    objects: &[Object],
    version: Option<u64>,
    columns: bool,
    options: TableOptions,
) -> Table {
    let version_word = if options.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" };
    Table {
        kind: "Table".to_owned(),
        api_version: version_word.to_owned(),
        metadata: TableMeta { resource_version: version.map(|version| version.to_string()) },
        column_definitions: columns.then(|| columns_of(kind)),
        rows: objects.iter().map(|object| row(object, options)).collect(),
    }
}

fn row(object: &Object, options: TableOptions) -> Row {
    let now = options.now_ms;
    let cells = match object {
        Object::Pod(o) => pod::cells(o, now),
        Object::Event(o) => event_cells(o, now),
        Object::ConfigMap(o) => config_map_cells(o, now),
        Object::Secret(o) => secret_cells(o, now),
        Object::Namespace(o) => namespace_cells(o, now),
        Object::Node(o) => node_cells(o, now),
        Object::Service(o) => network::service(o, now),
        Object::NetworkPolicy(o) => network::policy(o, now),
        Object::Endpoints(o) => network::endpoints(o, now),
        Object::EndpointSlice(o) => network::endpoint_slice(o, now),
    };
    let object = match options.include {
        IncludeObject::None => None,
        IncludeObject::Metadata => serde_json::to_value(PartialObject::new(object)).ok(),
        IncludeObject::Object => serde_json::to_value(object).ok(),
    };
    Row { cells, object }
}

/// name, type, format, priority; descriptions stay short: only `kubectl explain` looks at them.
type ColumnRow = (&'static str, &'static str, &'static str, i32);

const NAME: ColumnRow = ("Name", "string", "name", 0);
const AGE: ColumnRow = ("Age", "string", "", 0);

fn columns_of(kind: Kind) -> Vec<Column> {
    let columns: &[ColumnRow] = match kind {
        Kind::Pod => &[
            NAME,
            ("Ready", "string", "", 0),
            ("Status", "string", "", 0),
            ("Restarts", "string", "", 0),
            AGE,
            ("IP", "string", "", 1),
            ("Node", "string", "", 1),
            ("Nominated Node", "string", "", 1),
            ("Readiness Gates", "string", "", 1),
        ],
        Kind::Event => &[
            ("Last Seen", "string", "", 0),
            ("Type", "string", "", 0),
            ("Reason", "string", "", 0),
            ("Object", "string", "", 0),
            ("Subobject", "string", "", 1),
            ("Source", "string", "", 1),
            ("Message", "string", "", 0),
            ("First Seen", "string", "", 1),
            ("Count", "string", "", 1),
            ("Name", "string", "name", 1),
        ],
        Kind::ConfigMap => &[NAME, ("Data", "string", "", 0), AGE],
        Kind::Secret => &[NAME, ("Type", "string", "", 0), ("Data", "string", "", 0), AGE],
        Kind::Service => &[
            NAME,
            ("Type", "string", "", 0),
            ("Cluster-IP", "string", "", 0),
            ("External-IP", "string", "", 0),
            ("Port(s)", "string", "", 0),
            AGE,
            ("Selector", "string", "", 1),
        ],
        Kind::NetworkPolicy => &[NAME, ("Pod-Selector", "string", "", 0), AGE],
        Kind::Endpoints => &[NAME, ("Endpoints", "string", "", 0), AGE],
        Kind::EndpointSlice => &[
            NAME,
            ("AddressType", "string", "", 0),
            ("Ports", "string", "", 0),
            ("Endpoints", "string", "", 0),
            AGE,
        ],
        Kind::Namespace => &[NAME, ("Status", "string", "", 0), AGE],
        Kind::Node => &[
            NAME,
            ("Status", "string", "", 0),
            ("Roles", "string", "", 0),
            AGE,
            ("Version", "string", "", 0),
            ("Internal-IP", "string", "", 1),
            ("External-IP", "string", "", 1),
            ("OS-Image", "string", "", 1),
            ("Kernel-Version", "string", "", 1),
            ("Container-Runtime", "string", "", 1),
        ],
    };
    columns
        .iter()
        .map(|(name, kind, format, priority)| Column {
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            format: (*format).to_owned(),
            description: String::new(),
            priority: *priority,
        })
        .collect()
}

fn event_cells(event: &Event, now: i64) -> Vec<Value> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let first = age::since(
        event.first_timestamp.as_ref().or(event.metadata.creation_timestamp.as_ref()),
        now,
    );
    let last = event.last_timestamp.as_ref().map(|last| age::since(Some(last), now));
    let involved = &event.involved_object;
    let subject = format!("{}/{}", text(&involved.kind).to_lowercase(), text(&involved.name));
    let source = event.source.as_ref().map_or_else(String::new, |source| {
        match (&source.component, &source.host) {
            (Some(component), Some(host)) if !host.is_empty() => format!("{component}, {host}"),
            (component, _) => text(component),
        }
    });
    vec![
        json!(last.unwrap_or_else(|| first.clone())),
        json!(text(&event.type_)),
        json!(text(&event.reason)),
        json!(subject),
        json!(text(&involved.field_path)),
        json!(source),
        json!(text(&event.message).trim()),
        json!(first),
        json!(event.count.unwrap_or(1).max(1)),
        json!(text(&event.metadata.name)),
    ]
}

fn config_map_cells(object: &ConfigMap, now: i64) -> Vec<Value> {
    let entries = object.data.as_ref().map_or(0, std::collections::BTreeMap::len)
        + object.binary_data.as_ref().map_or(0, std::collections::BTreeMap::len);
    let meta = &object.metadata;
    vec![json!(meta.name), json!(entries), json!(age::since(meta.creation_timestamp.as_ref(), now))]
}

fn secret_cells(object: &Secret, now: i64) -> Vec<Value> {
    let meta = &object.metadata;
    vec![
        json!(meta.name),
        json!(object.type_.as_deref().unwrap_or("Opaque")),
        json!(object.data.as_ref().map_or(0, std::collections::BTreeMap::len)),
        json!(age::since(meta.creation_timestamp.as_ref(), now)),
    ]
}

fn namespace_cells(object: &Namespace, now: i64) -> Vec<Value> {
    let meta = &object.metadata;
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    vec![
        json!(meta.name),
        json!(phase.unwrap_or("Active")),
        json!(age::since(meta.creation_timestamp.as_ref(), now)),
    ]
}

fn node_cells(node: &Node, now: i64) -> Vec<Value> {
    const ROLE: &str = "node-role.kubernetes.io/";
    let meta = &node.metadata;
    let status = node.status.as_ref();
    let info = status.and_then(|status| status.node_info.as_ref());
    let condition = |kind: &str| {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions.and_then(|conditions| conditions.iter().find(|c| c.type_ == kind))
    };
    let mut state = match condition("Ready").map(|ready| ready.status.as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        state.push_str(",SchedulingDisabled");
    }
    // Only where MQTT is configured: a node without its broker works, and nobody hears of it.
    if let Some(link) = condition("MqttConnected").filter(|link| link.status != "True") {
        state.push_str(",Mqtt");
        state.push_str(link.reason.as_deref().unwrap_or("NotConnected"));
    }
    // What it says there is believed by nobody who knows it.
    if condition("StatusSigned").is_some_and(|signed| signed.status != "True") {
        state.push_str(",StatusNotSigned");
    }
    let roles: Vec<&str> =
        meta.labels.iter().flatten().filter_map(|(label, _)| label.strip_prefix(ROLE)).collect();
    let address = |kind: &str| {
        status
            .and_then(|status| status.addresses.as_ref())
            .and_then(|addresses| addresses.iter().find(|address| address.type_ == kind))
            .map_or("<none>", |address| address.address.as_str())
    };
    let known = |value: Option<&String>| {
        value.filter(|value| !value.is_empty()).cloned().unwrap_or_else(|| "<unknown>".to_owned())
    };
    vec![
        json!(meta.name),
        json!(state),
        json!(if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }),
        json!(age::since(meta.creation_timestamp.as_ref(), now)),
        json!(info.map_or("", |info| info.kubelet_version.as_str())),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(known(info.map(|info| &info.os_image))),
        json!(known(info.map(|info| &info.kernel_version))),
        json!(known(info.map(|info| &info.container_runtime_version))),
    ]
}
