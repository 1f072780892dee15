//! `podling fleet get nodes|pods`: what all nodes say, out of what the broker retains.
//!
//! Owns: the tables. Not: reading (`crate::controller::session`). Nothing but the broker is asked, so what is shown of a node that
//! is away is what it said last.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::controller::next::Retained;
use crate::controller::session::{Session, SessionError};
use crate::mqtt::controller::NodeView;
use crate::mqtt::intent::time_ms;
use crate::mqtt::link::Link;
use crate::mqtt::status::{Condition, DocumentStatus, NodeStatus, PodStatus};
use crate::mqtt::topic::Scope;
use crate::mqtt::transport::Transport;
use crate::mqtt::trust::Mode;
use crate::server::age;
use crate::spec::PodKey;

use super::args::{FleetCommand, FleetFormat, FleetGetArgs, FleetWhat};
use super::columns::{self, Columns};
use super::controller::Controller;
use super::{Out, complain, show_error, yaml};

/// The broker was not reached.
const NOT_CONNECTED: u8 = 4;

pub(super) fn run(command: &FleetCommand, out: &mut Out) -> anyhow::Result<ExitCode> {
    let FleetCommand::Get(args) = command;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(get(args, out)) {
        Err(error) if error.downcast_ref::<SessionError>().is_some() => {
            show_error(&error);
            Ok(ExitCode::from(NOT_CONNECTED))
        }
        other => other,
    }
}

async fn get(args: &FleetGetArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let controller = Controller::of(&args.broker)?;
    let mut session = controller.session()?;
    session.connect().await?;
    read(&mut session, args).await?;
    session.leave().await;
    for complaint in &session.complaints {
        complain(&format!("Warning: {complaint}"));
    }
    let now_ms = session.clock().now().wall_ms();
    let view = View::of(&session, args);
    let shown = match args.what {
        FleetWhat::Nodes => view.nodes(args, now_ms)?,
        FleetWhat::Pods => view.pods(args, now_ms)?,
    };
    out.text(&shown)?;
    if shown.is_empty() {
        complain("No resources found");
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes in what is retained. Documents, too, where this client may read them: what is wanted of a node that is away.
async fn read(session: &mut Session<Link>, args: &FleetGetArgs) -> Result<(), SessionError> {
    let below = format!("{}/{}", session.tree().root(), session.tree().tenant());
    let node = args.node.as_deref().unwrap_or("+");
    let statuses = match args.what {
        FleetWhat::Nodes => {
            vec![format!("{below}/s/{node}/online"), format!("{below}/s/{node}/node")]
        }
        FleetWhat::Pods => vec![
            format!("{below}/s/{node}/online"),
            format!("{below}/s/{node}/node"),
            format!("{below}/s/{node}/pod/+/+"),
        ],
    };
    let documents = [format!("{below}/n/{node}/pod/+/+"), format!("{below}/g/+/pod/+/+")];
    let mut all = statuses.clone();
    if args.what == FleetWhat::Pods {
        all.extend(documents);
    }
    match session.listen(all).await {
        Err(SessionError::NotReadable { filter, .. }) if !filter.contains("/s/") => {
            session.listen(statuses).await?;
        }
        other => other?,
    }
    session.settle().await
}

/// What was read, as it is shown.
pub(super) struct View<'a> {
    nodes: Vec<(&'a str, &'a NodeView)>,
    /// The document of each pod that stands at the broker: for a node, or a group.
    wanted: BTreeMap<(Scope, Option<String>, PodKey), Retained>,
}

impl<'a> View<'a> {
    fn of<T: Transport>(session: &'a Session<T>, args: &FleetGetArgs) -> Self {
        let is_meant = |node: &str| args.node.as_deref().is_none_or(|meant| meant == node);
        let nodes = session.fleet.nodes.iter().filter(|(node, _)| is_meant(node));
        let nodes = nodes.map(|(node, view)| (node.as_str(), view)).collect();
        let documents =
            session.documents.values().filter_map(|message| Retained::read(message, None));
        Self::new(nodes, documents)
    }

    fn new(nodes: Vec<(&'a str, &'a NodeView)>, documents: impl Iterator<Item = Retained>) -> Self {
        let wanted = documents.map(|retained| {
            let intent = &retained.intent;
            let pod = PodKey::new(&intent.namespace, &intent.name);
            let scope = intent.group.as_deref().map_or(Scope::Node, |g| Scope::Group(g.into()));
            ((scope, intent.node.clone(), pod), retained)
        });
        Self { nodes, wanted: wanted.collect() }
    }

    /// Nodes as a table, or as objects.
    fn nodes(&self, args: &FleetGetArgs, now_ms: i64) -> anyhow::Result<String> {
        let named =
            |node: &str| args.names.is_empty() || args.names.iter().any(|name| name == node);
        let nodes: Vec<_> = self.nodes.iter().filter(|(node, _)| named(node)).copied().collect();
        for name in &args.names {
            ensure!(nodes.iter().any(|(node, _)| node == name), "nodes \"{name}\" not found");
        }
        if args.output.is_some_and(|output| output != FleetFormat::Wide) {
            let items = nodes.iter().map(|(node, view)| node_object(node, view)).collect();
            return objects(args.output, items);
        }
        let wide = args.output == Some(FleetFormat::Wide);
        let mut heading = vec!["NAME", "STATUS", "PODS", "VERSION", "AGE", "SEEN"];
        if wide {
            heading.extend(["ARCH", "GROUPS", "TRUST", "CONN", "LABELS", "MESSAGE"]);
        }
        let rows = nodes.iter().map(|(node, view)| node_row(node, view, wide, now_ms)).collect();
        Ok(table(args, heading, rows))
    }

    /// Pods as a table, or as objects.
    fn pods(&self, args: &FleetGetArgs, now_ms: i64) -> anyhow::Result<String> {
        let namespace = args.namespace.as_deref().unwrap_or(crate::board::DEFAULT_NAMESPACE);
        let is_meant = |pod: &PodKey| {
            (args.all_namespaces || *pod.namespace == *namespace)
                && (args.names.is_empty() || args.names.iter().any(|name| **name == *pod.name))
        };
        let mut pods: Vec<Row<'_>> = vec![];
        for (node, view) in &self.nodes {
            for (key, status) in view.pods.iter().filter(|(key, _)| is_meant(key)) {
                pods.push(Row { node, view: Some(view), key: key.clone(), status: Some(status) });
            }
        }
        // What no node has answered yet.
        for (scope, node, key) in self.wanted.keys().filter(|(_, _, key)| is_meant(key)) {
            let Some(node) = node.as_deref().filter(|_| *scope == Scope::Node) else { continue };
            let is_told = pods.iter().any(|row| row.node == node && row.key == *key);
            let shown = args.node.as_deref().is_none_or(|meant| meant == node);
            if !is_told && shown {
                let view = self.nodes.iter().find(|(name, _)| *name == node).map(|(_, view)| *view);
                pods.push(Row { node, view, key: key.clone(), status: None });
            }
        }
        pods.sort_by(|a, b| (a.node, &a.key).cmp(&(b.node, &b.key)));
        for name in &args.names {
            ensure!(pods.iter().any(|row| *row.key.name == **name), "pods \"{name}\" not found");
        }
        if args.output.is_some_and(|output| output != FleetFormat::Wide) {
            let items = pods.iter().filter_map(|row| row.status).map(serde_json::to_value);
            return objects(args.output, items.collect::<Result<_, _>>()?);
        }
        let wide = args.output == Some(FleetFormat::Wide);
        let mut heading = if args.all_namespaces { vec!["NAMESPACE"] } else { vec![] };
        heading.extend([
            "NODE",
            "NAME",
            "SOURCE",
            "GENERATION",
            "READY",
            "STATUS",
            "RESTARTS",
            "MESSAGE",
        ]);
        if wide {
            heading.extend(["STAGE", "UID", "SEEN"]);
        }
        let rows = pods.iter().map(|row| self.pod_row(row, args, wide, now_ms)).collect();
        Ok(table(args, heading, rows))
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
        let ready = containers.iter().filter(|container| container.ready).count();
        let restarts: u64 = containers.iter().map(|c| u64::from(c.restarts)).sum();
        cells.push(format!("{ready}/{}", containers.len()));
        cells.push(state(row));
        cells.push(restarts.to_string());
        cells.push(message(row).unwrap_or_else(|| "<none>".to_owned()));
        if wide {
            let stage = row.status.and_then(|status| status.rollout.as_ref());
            cells.push(stage.map_or("<none>", |rollout| rollout.stage.as_str()).to_owned());
            cells.push(accepted.map_or("<none>".to_owned(), |a| a.revision.uid.clone()));
            let time = row.status.and_then(|status| status.stamp.time.as_deref());
            cells.push(ago(time, now_ms));
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

/// The phase; with what keeps it from being true now.
fn state(row: &Row<'_>) -> String {
    let Some(status) = row.status else { return "Unanswered".to_owned() };
    if row.view.is_some_and(|view| view.is_current(status)) {
        return status.phase.clone();
    }
    // What was true when the node was last heard.
    format!("{} (offline)", status.phase)
}

/// What a person should know: why it was refused, why it went back, what does not work.
fn message(row: &Row<'_>) -> Option<String> {
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
        node_state(view).to_owned(),
        status.map_or("<unknown>".to_owned(), |s| format!("{}/{}", s.pods.ready, s.pods.total)),
        none(version),
        uptime(view, now_ms),
        ago(known.stamp.time.as_deref(), now_ms),
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

/// `Online`, `Offline`, and of a node that is there what is wrong with it.
fn node_state(view: &NodeView) -> &'static str {
    let degraded = |status: &NodeStatus| trouble(&status.conditions).is_some();
    match &view.online {
        None => "Unknown",
        Some(online) if !online.online => "Offline",
        Some(_) if view.status.as_deref().is_some_and(degraded) => "Online,Degraded",
        Some(_) => "Online",
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
    let Some(status) = view.status.as_deref().filter(|_| view.is_online()) else {
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
    object
}

fn objects(format: Option<FleetFormat>, items: Vec<Value>) -> anyhow::Result<String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    Ok(match format {
        Some(FleetFormat::Yaml) => yaml::to_string(&list),
        _ => format!("{}\n", serde_json::to_string_pretty(&list)?),
    })
}

/// An empty text where there is nothing.
fn table(args: &FleetGetArgs, heading: Vec<&str>, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heading = heading.into_iter().map(str::to_owned).collect();
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| columns::cell(cell)).collect());
    let all: Vec<Vec<String>> =
        (!args.no_headers).then_some(heading).into_iter().chain(rows).collect();
    Columns::default().set(&all)
}

#[cfg(test)]
mod tests;
