//! What was read from the broker, as tables and objects.
//!
//! Owns: columns and words. Not: reading, nor following changes (`watch`). A node is `Ready`, `NotReady` (its will was published) or
//! `Unknown` (never heard, or silent far longer than an idle node is); what a node said that is not there is `Unknown`, too, as
//! Kubernetes has it of the pods of a lost node.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::board::selector::LabelSelector;
use crate::controller::next::Retained;
use crate::controller::session::Session;
use crate::mqtt::controller::{NodeView, Subject};
use crate::mqtt::intent::{API_VERSION, time_ms};
use crate::mqtt::signature::Standing;
use crate::mqtt::status::{Condition, DocumentStatus, NodeStatus, PodStatus};
use crate::mqtt::topic::Scope;
use crate::mqtt::transport::Transport;
use crate::mqtt::trust::Mode;
use crate::server::age;
use crate::spec::PodKey;

use super::super::args::{FleetFormat, FleetGetArgs, FleetWhat};
use super::super::yaml;

/// An idle node speaks every 15 minutes: one that has not for so long is not there, whatever the broker remembers of it.
const SILENCE_MAX_MS: i64 = 35 * 60_000;

/// Columns that change as time goes by.
const VOLATILE: [&str; 2] = ["AGE", "SEEN"];

/// A node or a pod, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// `node/gw-17`, `pod/gw-17/default/web`
    pub(super) id: String,
    /// `node/gw-17`, `pod/web`
    pub(super) name: String,
    pub(super) cells: Vec<String>,
    /// What it said itself; nothing, if it never did.
    pub(super) object: Option<Value>,
}

/// Everything that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listing {
    pub(super) heading: Vec<&'static str>,
    pub(super) items: Vec<Item>,
}

impl Listing {
    /// What of an item is news when it changes.
    pub(super) fn news(
        &self,
        item: &Item,
        format: Option<FleetFormat>,
    ) -> (Vec<String>, Option<Value>) {
        match format {
            None | Some(FleetFormat::Wide | FleetFormat::Name) => {
                let columns = self.heading.iter().zip(&item.cells);
                let lasting = columns.filter(|(title, _)| !VOLATILE.contains(title));
                (lasting.map(|(_, cell)| cell.clone()).collect(), None)
            }
            Some(FleetFormat::Json | FleetFormat::Yaml) => (vec![], item.object.clone()),
        }
    }
}

/// What was read, as it is shown.
pub(super) struct View<'a> {
    nodes: Vec<(&'a str, &'a NodeView)>,
    /// The document of each pod that stands at the broker: for a node, or a group.
    wanted: BTreeMap<(Scope, Option<String>, PodKey), Retained>,
}

impl<'a> View<'a> {
    pub(super) fn of<T: Transport>(
        session: &'a Session<T>,
        args: &FleetGetArgs,
        labels: Option<&LabelSelector>,
    ) -> Self {
        let is_meant = |node: &str, view: &NodeView| {
            let own = view.status.as_ref().map(|status| &status.labels);
            args.node.as_deref().is_none_or(|meant| meant == node)
                && labels.is_none_or(|labels| labels.matches_labels(own))
        };
        let nodes = session.fleet.nodes.iter().filter(|(node, view)| is_meant(node, view));
        let nodes = nodes.map(|(node, view)| (node.as_str(), view)).collect();
        let documents =
            session.documents.values().filter_map(|message| Retained::read(message, None));
        Self::new(nodes, documents)
    }

    pub(super) fn new(
        nodes: Vec<(&'a str, &'a NodeView)>,
        documents: impl Iterator<Item = Retained>,
    ) -> Self {
        let wanted = documents.map(|retained| {
            let intent = &retained.intent;
            let pod = PodKey::new(&intent.namespace, &intent.name);
            let scope = intent.group.as_deref().map_or(Scope::Node, |g| Scope::Group(g.into()));
            ((scope, intent.node.clone(), pod), retained)
        });
        Self { nodes, wanted: wanted.collect() }
    }

    /// What was asked for. With a name that is not there, an error; while it is watched for, none.
    pub(super) fn list(&self, args: &FleetGetArgs, now_ms: i64) -> anyhow::Result<Listing> {
        let listing = match args.what {
            FleetWhat::Nodes => self.nodes(args, now_ms),
            FleetWhat::Pods => self.pods(args, now_ms),
        };
        let kind = if args.what == FleetWhat::Nodes { "nodes" } else { "pods" };
        for name in &args.names {
            let is_it = |item: &Item| item.name.split_once('/').is_some_and(|(_, own)| own == name);
            ensure!(args.watch || listing.items.iter().any(is_it), "{kind} \"{name}\" not found");
        }
        Ok(listing)
    }

    fn nodes(&self, args: &FleetGetArgs, now_ms: i64) -> Listing {
        let named = |node: &str| args.names.is_empty() || args.names.iter().any(|n| n == node);
        let nodes = self.nodes.iter().filter(|(node, _)| named(node));
        let wide = args.output == Some(FleetFormat::Wide);
        let mut heading = vec!["NAME", "STATUS", "PODS", "VERSION", "AGE", "SEEN", "SIGNATURE"];
        if wide {
            heading.extend(["ARCH", "GROUPS", "TRUST", "CONN", "LABELS", "MESSAGE"]);
        }
        let item = |(node, view): &(&str, &NodeView)| Item {
            id: format!("node/{node}"),
            name: format!("node/{node}"),
            cells: node_row(node, view, wide, now_ms),
            object: Some(node_object(node, view)),
        };
        Listing { heading, items: nodes.map(item).collect() }
    }

    fn pods(&self, args: &FleetGetArgs, now_ms: i64) -> Listing {
        let namespace = args.namespace.as_deref().unwrap_or(crate::board::DEFAULT_NAMESPACE);
        let is_meant = |pod: &PodKey| {
            (args.all_namespaces || *pod.namespace == *namespace)
                && (args.names.is_empty() || args.names.iter().any(|name| **name == *pod.name))
        };
        let mut rows: Vec<Row<'_>> = vec![];
        for (node, view) in &self.nodes {
            for (key, status) in view.pods.iter().filter(|(key, _)| is_meant(key)) {
                rows.push(Row { node, view: Some(view), key: key.clone(), status: Some(status) });
            }
            // Of which nothing was said that is believed.
            let left = view.standings.iter().filter(|(_, standing)| !standing.is_believed());
            let subjects = left.filter_map(|(subject, _)| match subject {
                Subject::Pod(key) => Some(key),
                Subject::Online | Subject::Node => None,
            });
            for key in subjects.filter(|key| is_meant(key) && !view.pods.contains_key(*key)) {
                rows.push(Row { node, view: Some(view), key: key.clone(), status: None });
            }
        }
        // What no node has answered yet.
        for (scope, node, key) in self.wanted.keys().filter(|(_, _, key)| is_meant(key)) {
            let Some(node) = node.as_deref().filter(|_| *scope == Scope::Node) else { continue };
            let is_told = rows.iter().any(|row| row.node == node && row.key == *key);
            let view = self.nodes.iter().find(|(name, _)| *name == node).map(|(_, view)| *view);
            // Of a node that was never heard nothing is known that could be selected by.
            let shown = match view {
                Some(_) => true,
                None => args.selector.is_none() && args.node.as_deref().is_none_or(|n| n == node),
            };
            if !is_told && shown {
                rows.push(Row { node, view, key: key.clone(), status: None });
            }
        }
        rows.sort_by(|a, b| (a.node, &a.key).cmp(&(b.node, &b.key)));
        let wide = args.output == Some(FleetFormat::Wide);
        let mut heading = if args.all_namespaces { vec!["NAMESPACE"] } else { vec![] };
        heading.extend(["NODE", "NAME", "SOURCE", "GENERATION", "READY", "STATUS", "RESTARTS"]);
        heading.extend(["SEEN", "MESSAGE"]);
        if wide {
            heading.extend(["STAGE", "UID", "SIGNATURE"]);
        }
        let item = |row: &Row<'_>| Item {
            id: format!("pod/{}/{}/{}", row.node, row.key.namespace, row.key.name),
            name: format!("pod/{}", row.key.name),
            cells: self.pod_row(row, args, wide, now_ms),
            object: pod_object(row),
        };
        Listing { heading, items: rows.iter().map(item).collect() }
    }

    fn pod_row(&self, row: &Row<'_>, args: &FleetGetArgs, wide: bool, now_ms: i64) -> Vec<String> {
        let leading = row.status.and_then(|status| leading(status));
        let scope = leading.map_or(Scope::Node, |document| document.scope.clone());
        let owner = (scope == Scope::Node).then(|| row.node.to_owned());
        let wanted = self.wanted.get(&(scope.clone(), owner, row.key.clone()));
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        let accepted = leading.and_then(|document| document.accepted.as_ref());
        let generations = [
            wanted.map(|retained| retained.intent.generation),
            accepted.map(|accepted| accepted.revision.version.generation),
            row.status.and_then(|s| s.active.as_ref()).map(|a| a.revision.version.generation),
        ];
        let mut cells =
            if args.all_namespaces { vec![row.key.namespace.to_string()] } else { vec![] };
        cells.extend([row.node.to_owned(), row.key.name.to_string(), scope.to_string()]);
        cells.push(generations.map(number).join("/"));
        let containers = row.status.map(|status| &status.containers[..]).unwrap_or_default();
        let is_known = row.is_known(now_ms);
        let ready = containers.iter().filter(|container| container.ready && is_known).count();
        let restarts: u64 = containers.iter().map(|c| u64::from(c.restarts)).sum();
        cells.push(format!("{ready}/{}", containers.len()));
        cells.push(state(row, now_ms));
        cells.push(restarts.to_string());
        let time = row.status.and_then(|status| status.stamp.time.as_deref());
        cells.push(ago(time, now_ms));
        cells.push(message(row, now_ms).unwrap_or_else(|| "<none>".to_owned()));
        if wide {
            let stage = row.status.and_then(|status| status.rollout.as_ref());
            cells.push(stage.map_or("<none>", |rollout| rollout.stage.as_str()).to_owned());
            cells.push(accepted.map_or("<none>".to_owned(), |a| a.revision.uid.clone()));
            cells.push(signature(row.standing()));
        }
        cells
    }
}

struct Row<'a> {
    node: &'a str,
    view: Option<&'a NodeView>,
    key: PodKey,
    status: Option<&'a PodStatus>,
}

/// The scope's document that the pod is made of, or would be.
fn leading(status: &PodStatus) -> Option<&DocumentStatus> {
    status.documents.first()
}

impl Row<'_> {
    /// Whether what the node said of it is so now, as far as the broker knows.
    fn is_known(&self, now_ms: i64) -> bool {
        let (Some(view), Some(status)) = (self.view, self.status) else { return false };
        presence(view, now_ms) == Presence::Here && view.is_current(status)
    }

    fn standing(&self) -> Option<Standing> {
        self.view?.standing(&self.key)
    }

    /// The same, where the newest is not believed.
    fn left(&self) -> Option<Standing> {
        self.standing().filter(|standing| !standing.is_believed())
    }
}

/// Whose word it is.
fn signature(standing: Option<Standing>) -> String {
    standing.map_or("<none>", Standing::as_str).to_owned()
}

fn pod_object(row: &Row<'_>) -> Option<Value> {
    let standing = row.standing();
    let mut object = match row.status {
        Some(status) => serde_json::to_value(status).ok()?,
        // Something was said of it, and is not believed.
        None => {
            row.left()?;
            let (namespace, name) = (&*row.key.namespace, &*row.key.name);
            json!({"apiVersion": API_VERSION, "kind": "PodStatus", "node": row.node, "namespace": namespace, "name": name})
        }
    };
    object["signature"] = standing.map(Standing::as_str).into();
    Some(object)
}

/// The phase, where it is known.
fn state(row: &Row<'_>, now_ms: i64) -> String {
    match row.status {
        None if row.left().is_some() => "Unknown".to_owned(),
        None => "Unanswered".to_owned(),
        Some(status) if row.is_known(now_ms) => status.phase.clone(),
        Some(_) => "Unknown".to_owned(),
    }
}

/// What a person should know: what it was when it was last heard of, why it was refused, why it went back, what does not work.
fn message(row: &Row<'_>, now_ms: i64) -> Option<String> {
    let before = row.status.filter(|_| !row.is_known(now_ms));
    let before = before.map(|status| format!("was {}", status.phase));
    let left = row.left().map(|standing| {
        format!("what the broker shows is not believed: signature {}", standing.as_str())
    });
    let parts: Vec<String> = left.into_iter().chain(before).chain(trouble_of(row)).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn trouble_of(row: &Row<'_>) -> Option<String> {
    let status = row.status?;
    let refused = leading(status).and_then(|document| document.refused.as_ref());
    if let Some(refused) = refused {
        return Some(format!("refused: {}: {}", refused.reason.as_str(), refused.message));
    }
    if let Some(rollout) = status.rollout.as_ref().filter(|rollout| !rollout.reason.is_empty()) {
        let (stage, reason) = (rollout.stage.as_str(), &rollout.reason);
        return Some(format!("{stage}: {reason}: {}", rollout.message));
    }
    if let Some(rollout) = status.rollout.as_ref().filter(|rollout| !rollout.stage.is_terminal()) {
        let stage = rollout.stage.as_str();
        return Some(match (rollout.bytes, rollout.total) {
            (Some(bytes), Some(total)) => format!("{stage}: {bytes} of {total} bytes"),
            _ if !rollout.message.is_empty() => format!("{stage}: {}", rollout.message),
            _ => stage.to_owned(),
        });
    }
    let waiting = status.containers.iter().find(|c| !c.ready && !c.reason.is_empty());
    waiting.map(|c| format!("{}: {}", c.name, c.reason))
}

fn node_row(node: &str, view: &NodeView, wide: bool, now_ms: i64) -> Vec<String> {
    let empty = NodeStatus::default();
    let status = view.status.as_deref();
    let known = status.unwrap_or(&empty);
    let none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let version = view.online.as_ref().map_or(&known.version, |online| &online.version);
    let mut cells = vec![
        node.to_owned(),
        node_state(view, now_ms).to_owned(),
        status.map_or("<unknown>".to_owned(), |s| format!("{}/{}", s.pods.ready, s.pods.total)),
        none(version),
        uptime(view, now_ms),
        ago(known.stamp.time.as_deref(), now_ms),
        signature(view.own_standing()),
    ];
    if wide {
        let labels: Vec<String> = known.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let conn = view.online.as_ref().map_or(0, |online| online.conn);
        cells.extend([
            none(&known.capabilities.architecture),
            none(&known.groups.join(",")),
            trust(known),
            conn.to_string(),
            none(&labels.join(",")),
            trouble(&known.conditions).unwrap_or_else(|| "<none>".to_owned()),
        ]);
    }
    cells
}

/// Mode, and version of the trust document: `require/4`.
fn trust(status: &NodeStatus) -> String {
    let mode = match status.trust.mode {
        Mode::Require => "require",
        Mode::Warn => "warn",
        Mode::Off => "off",
    };
    format!("{mode}/{}", status.trust.version)
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// It said goodbye, or the broker said so in its name.
    Away,
    /// It was never heard, or not for so long that the broker's word that it is there cannot be true.
    Silent,
}

fn presence(view: &NodeView, now_ms: i64) -> Presence {
    let said = view.status.as_ref().map(|status| &status.stamp);
    // A clock that is wrong proves nothing.
    let said = said.filter(|stamp| stamp.time_synced).and_then(|stamp| stamp.time.as_deref());
    let silence = said.and_then(time_ms).map_or(0, |said| now_ms.saturating_sub(said));
    match &view.online {
        None => Presence::Silent,
        Some(online) if !online.online => Presence::Away,
        Some(_) if silence > SILENCE_MAX_MS => Presence::Silent,
        Some(_) => Presence::Here,
    }
}

/// Kubernetes' words; of a node that is there also what is wrong with it.
fn node_state(view: &NodeView, now_ms: i64) -> &'static str {
    let degraded = |status: &NodeStatus| trouble(&status.conditions).is_some();
    match presence(view, now_ms) {
        Presence::Silent => "Unknown",
        Presence::Away => "NotReady",
        Presence::Here if view.status.as_deref().is_some_and(degraded) => "Ready,Degraded",
        Presence::Here => "Ready",
    }
}

/// The first condition that is not as it should be.
fn trouble(conditions: &[Condition]) -> Option<String> {
    let wrong = |condition: &&Condition| match &*condition.kind {
        "SafeMode" => condition.status == "True",
        _ => condition.status == "False",
    };
    let condition = conditions.iter().find(wrong)?;
    let why = if condition.message.is_empty() { &condition.reason } else { &condition.message };
    Some(format!("{}={}: {why}", condition.kind, condition.status))
}

/// How long the daemon runs.
fn uptime(view: &NodeView, now_ms: i64) -> String {
    let is_here = presence(view, now_ms) == Presence::Here;
    let Some(status) = view.status.as_deref().filter(|_| is_here) else {
        return "<unknown>".to_owned();
    };
    let said = status.stamp.time.as_deref().and_then(time_ms);
    let since = said.map_or(0, |said| now_ms.saturating_sub(said).max(0));
    let up = i64::try_from(status.stamp.uptime_ms).unwrap_or(i64::MAX);
    age::human(up.saturating_add(since))
}

fn ago(time: Option<&str>, now_ms: i64) -> String {
    match time.and_then(time_ms) {
        Some(then) => age::human(now_ms.saturating_sub(then)),
        None => "<unknown>".to_owned(),
    }
}

fn node_object(node: &str, view: &NodeView) -> Value {
    let mut object = match &view.status {
        Some(status) => serde_json::to_value(status).unwrap_or(Value::Null),
        None => json!({"apiVersion": "podling.dev/v1", "kind": "NodeStatus", "node": node}),
    };
    object["online"] = serde_json::to_value(&view.online).unwrap_or(Value::Null);
    object["signature"] = view.own_standing().map(Standing::as_str).into();
    object
}

/// The list as one object.
pub(super) fn objects(listing: &Listing, is_yaml: bool) -> anyhow::Result<String> {
    let items: Vec<&Value> = listing.items.iter().filter_map(|item| item.object.as_ref()).collect();
    object(&json!({"apiVersion": "v1", "kind": "List", "items": items}), is_yaml)
}

pub(super) fn object(object: &Value, is_yaml: bool) -> anyhow::Result<String> {
    if is_yaml {
        return Ok(yaml::to_string(object));
    }
    Ok(format!("{}\n", serde_json::to_string_pretty(object)?))
}
