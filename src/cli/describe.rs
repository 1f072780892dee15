//! `podling describe`: everything about a pod, a Service, a NetworkPolicy or the node on one page, as `kubectl describe` sets it.
//!
//! Owns: fetching, and the order of the page's parts. Follows `kubectl/pkg/describe/describe.go`.

mod container;
mod network;
pub(super) mod node;
mod page;
mod policy;
mod service;
mod volume;

use std::process::ExitCode;

use anyhow::{bail, ensure};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{
    Endpoints, Event, Node, Pod, PodSpec, PodStatus, Service, Toleration,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{ListableResource, Metadata};
use serde::de::DeserializeOwned;

use crate::board::Kind;
use crate::clock::Clock;
use crate::server::age;
use crate::server::network::NetworkReport;

use super::args::DescribeArgs;
use super::client::{Client, ClientError, PathBuilder};
use super::get::{explain_selector, listing, nothing_found};
use super::top::{self, Row};
use super::{Out, complain, kinds, show_error};

pub(super) use page::Page;
use page::text;

/// Annotations longer than this, key and all, go on lines of their own.
const ANNOTATION_MAX: usize = 140;

pub(super) async fn run(
    client: &Client,
    args: &DescribeArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let (kind, names) = kinds::kind_and_names(&args.kind, &args.names)?;
    let asked = Asked { client, args, names, now_ms: Clock::start().now().wall_ms() };
    match kind {
        Kind::Pod => {
            let (pods, errors) = asked.fetch::<Pod>(kind).await?;
            let mut pages = Vec::new();
            for pod in &pods {
                let events = events_of(client, kind, &pod.metadata).await?;
                let network = asked.network(&pod.metadata).await?;
                let usage = asked.usage(&pod.metadata).await?;
                let seen = Seen { network: network.as_ref(), usage: &usage };
                pages.push(describe(pod, &seen, &events, asked.now_ms));
            }
            finish(&pages, &errors, out)
        }
        Kind::Service => {
            let (services, errors) = asked.fetch::<Service>(kind).await?;
            let mut pages = Vec::new();
            for service in &services {
                let events = events_of(client, kind, &service.metadata).await?;
                let endpoints = asked.endpoints(&service.metadata).await?;
                pages.push(service::describe(service, endpoints.as_ref(), &events, asked.now_ms));
            }
            finish(&pages, &errors, out)
        }
        Kind::NetworkPolicy => {
            let (policies, errors) = asked.fetch::<NetworkPolicy>(kind).await?;
            let pages: Vec<String> = policies.iter().map(policy::describe).collect();
            finish(&pages, &errors, out)
        }
        Kind::Node => {
            let (nodes, errors) = asked.fetch::<Node>(kind).await?;
            let pods: List<Pod> = client.get(PathBuilder::new(&["pods"]).as_str()).await?;
            let mut pages = Vec::new();
            for node in &nodes {
                let place = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                let here = pods.items.iter().filter(|pod| place(pod) == node.metadata.name);
                let here: Vec<Pod> = here.cloned().collect();
                let events = events_of(client, kind, &node.metadata).await?;
                pages.push(node::describe(node, &here, &events, asked.now_ms));
            }
            finish(&pages, &errors, out)
        }
        Kind::ConfigMap
        | Kind::Endpoints
        | Kind::EndpointSlice
        | Kind::Event
        | Kind::Namespace
        | Kind::Secret => bail!(
            "describe shows pods, services, networkpolicies and nodes; for {} use: podling get {} -o yaml",
            kind.plural(),
            kind.plural()
        ),
    }
}

fn finish(pages: &[String], errors: &[anyhow::Error], out: &mut Out) -> anyhow::Result<ExitCode> {
    out.text(&pages.join("\n\n"))?;
    out.flush()?;
    errors.iter().for_each(show_error);
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One `describe`.
struct Asked<'a> {
    client: &'a Client,
    args: &'a DescribeArgs,
    names: Vec<String>,
    now_ms: i64,
}

impl Asked<'_> {
    async fn fetch<T>(&self, kind: Kind) -> anyhow::Result<(Vec<T>, Vec<anyhow::Error>)>
    where
        T: DeserializeOwned + ListableResource + Metadata<Ty = ObjectMeta>,
    {
        let (namespace, select) = (self.args.target.namespace(), &self.args.select);
        if self.names.is_empty() {
            let path = listing(kind, namespace, select);
            let list: Result<List<T>, _> = self.client.get(path.as_str()).await;
            let list = list.map_err(|error| explain_selector(error, kind, select))?;
            if list.items.is_empty() {
                complain(&nothing_found(kind, namespace, select));
            }
            return Ok((list.items, Vec::new()));
        }
        ensure!(select.selector.is_none(), "name cannot be provided when a selector is specified");
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for name in &self.names {
            let mut segments = kinds::collection(kind, Some(namespace));
            segments.push(name);
            match self.client.get(PathBuilder::of(kind, &segments).as_str()).await {
                Ok(object) => found.push(object),
                Err(error @ ClientError::Refused { .. }) => errors.push(error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((found, errors))
    }

    /// The pod's network; none before it has begun and after its end, nor at a server that is not podling's.
    async fn network(&self, pod: &ObjectMeta) -> Result<Option<NetworkReport>, ClientError> {
        let (name, namespace) = (text(&pod.name), text(&pod.namespace));
        let path = PathBuilder::new(&["namespaces", &namespace, "pods", &name, "network"]);
        match self.client.get::<NetworkReport>(path.as_str()).await {
            // Of a pod that is just replaced, the page is about the one, the network the other's.
            Ok(network) => {
                Ok(Some(network).filter(|network| network.metadata.uid == text(&pod.uid)))
            }
            Err(ClientError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the pod's modules use now; nothing at a server without metrics.
    async fn usage(&self, pod: &ObjectMeta) -> Result<Vec<Row>, ClientError> {
        match top::pods(self.client, pod.namespace.as_deref()).await {
            Ok(rows) => Ok(rows),
            Err(ClientError::Refused { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// What stands behind a Service; a Service that is new may have nothing yet.
    async fn endpoints(&self, service: &ObjectMeta) -> Result<Option<Endpoints>, ClientError> {
        let (name, namespace) = (text(&service.name), text(&service.namespace));
        let path = PathBuilder::new(&["namespaces", &namespace, "endpoints", &name]);
        match self.client.get(path.as_str()).await {
            Ok(endpoints) => Ok(Some(endpoints)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn events_of(
    client: &Client,
    kind: Kind,
    meta: &ObjectMeta,
) -> Result<Vec<Event>, ClientError> {
    let (name, namespace) = (text(&meta.name), text(&meta.namespace));
    let mut selector = format!("involvedObject.name={name},involvedObject.kind={}", kind.as_str());
    let path = if kind.namespaced() {
        let uid = text(&meta.uid);
        selector += &format!(",involvedObject.namespace={namespace},involvedObject.uid={uid}");
        PathBuilder::new(&["namespaces", &namespace, "events"])
    } else {
        // Of the node, they stand in whatever namespace they came up in, and some know its name only.
        PathBuilder::new(&["events"])
    };
    let list: List<Event> = client.get(path.with("fieldSelector", &selector).as_str()).await?;
    let mut events = list.items;
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    Ok(events)
}

/// What a pod's object does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen<'a> {
    pub(super) network: Option<&'a NetworkReport>,
    pub(super) usage: &'a [Row],
}

/// The page.
pub(super) fn describe(pod: &Pod, seen: &Seen<'_>, events: &[Event], now_ms: i64) -> String {
    let (spec, status) =
        (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let mut page = Page::default();
    head(&mut page, pod, &spec, &status, now_ms);
    if let Some(init) = spec.init_containers.as_ref().filter(|init| !init.is_empty()) {
        let statuses = status.init_container_statuses.as_deref().unwrap_or_default();
        container::describe(&mut page, "Init Containers", init, statuses, pod, seen.usage);
    }
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    container::describe(&mut page, "Containers", &spec.containers, statuses, pod, seen.usage);
    gates_and_conditions(&mut page, &spec, &status);
    volume::describe(&mut page, spec.volumes.as_deref().unwrap_or_default());
    page.line(0, &format!("QoS Class:\t{}", text(&status.qos_class)));
    labels(&mut page, "Node-Selectors", spec.node_selector.as_ref());
    tolerations(&mut page, spec.tolerations.as_deref().unwrap_or_default());
    if let Some(report) = seen.network {
        network::describe(&mut page, report);
    }
    with_events(page, events, now_ms)
}

/// The page, and what happened below it: aligned by themselves.
fn with_events(mut page: Page, events: &[Event], now_ms: i64) -> String {
    if events.is_empty() {
        page.line(0, "Events:\t<none>");
        return page.finish();
    }
    page.finish() + &list_events(events, now_ms)
}

fn head(page: &mut Page, pod: &Pod, spec: &PodSpec, status: &PodStatus, now_ms: i64) {
    let meta = &pod.metadata;
    page.line(0, &format!("Name:\t{}", text(&meta.name)));
    page.line(0, &format!("Namespace:\t{}", text(&meta.namespace)));
    page.some(0, "Priority", spec.priority.as_ref());
    page.some(0, "Priority Class Name", spec.priority_class_name.as_ref());
    page.some(0, "Runtime Class Name", spec.runtime_class_name.as_ref());
    page.some(0, "Service Account", spec.service_account_name.as_ref());
    match &spec.node_name {
        Some(node) => page.line(0, &format!("Node:\t{node}/{}", text(&status.host_ip))),
        None => page.line(0, "Node:\t<none>"),
    }
    if let Some(start) = &status.start_time {
        page.line(0, &format!("Start Time:\t{}", rfc1123(start)));
    }
    labels(page, "Labels", meta.labels.as_ref());
    annotations(page, meta);
    let terminal = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    match (&meta.deletion_timestamp, terminal) {
        (Some(at), false) => {
            page.line(0, &format!("Status:\tTerminating (lasts {})", age::since(Some(at), now_ms)));
            let grace = meta.deletion_grace_period_seconds.unwrap_or_default();
            page.line(0, &format!("Termination Grace Period:\t{grace}s"));
        }
        _ => page.line(0, &format!("Status:\t{}", text(&status.phase))),
    }
    page.some(0, "Reason", status.reason.as_ref());
    page.some(0, "Message", status.message.as_ref());
    page.line(0, &format!("IP:\t{}", text(&status.pod_ip)));
    match status.pod_ips.as_deref().unwrap_or_default() {
        [] => page.line(0, "IPs:\t<none>"),
        ips => {
            page.line(0, "IPs:");
            for ip in ips {
                page.line(1, &format!("IP:\t{}", ip.ip));
            }
        }
    }
    let owners = meta.owner_references.iter().flatten();
    if let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) {
        page.line(0, &format!("Controlled By:\t{}/{}", owner.kind, owner.name));
    }
}

fn gates_and_conditions(page: &mut Page, spec: &PodSpec, status: &PodStatus) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if let Some(gates) = spec.readiness_gates.as_ref().filter(|gates| !gates.is_empty()) {
        page.line(0, "Readiness Gates:\n  Type\tStatus");
        for gate in gates {
            let found = conditions.iter().find(|c| c.type_ == gate.condition_type);
            let state = found.map_or("<none>", |condition| condition.status.as_str());
            page.line(1, &format!("{} \t{state} ", gate.condition_type));
        }
    }
    if !conditions.is_empty() {
        page.line(0, "Conditions:\n  Type\tStatus");
        for condition in conditions {
            page.line(1, &format!("{} \t{} ", condition.type_, condition.status));
        }
    }
}

fn labels(
    page: &mut Page,
    title: &str,
    labels: Option<&std::collections::BTreeMap<String, String>>,
) {
    let labels = labels.filter(|labels| !labels.is_empty());
    let Some(labels) = labels else { return page.line(0, &format!("{title}:\t<none>")) };
    for (at, (key, value)) in labels.iter().enumerate() {
        let start = if at == 0 { format!("{title}:") } else { String::new() };
        page.line(0, &format!("{start}\t{key}={value}"));
    }
}

fn annotations(page: &mut Page, meta: &ObjectMeta) {
    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let all = meta.annotations.iter().flatten();
    let mut start = "Annotations:";
    for (key, value) in all.filter(|(key, _)| *key != LAST_APPLIED) {
        let value = value.strip_suffix('\n').unwrap_or(value);
        if value.len() + key.len() + 2 > ANNOTATION_MAX || value.contains('\n') {
            page.line(0, &format!("{start}\t{key}:"));
            for line in value.split('\n') {
                page.line(0, &format!("\t  {}", shorten(line, ANNOTATION_MAX - 2)));
            }
        } else {
            page.line(0, &format!("{start}\t{key}: {value}"));
        }
        start = "";
    }
    if !start.is_empty() {
        page.line(0, &format!("{start}\t<none>"));
    }
}

fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max).collect();
    format!("{kept}...")
}

fn tolerations(page: &mut Page, tolerations: &[Toleration]) {
    if tolerations.is_empty() {
        return page.line(0, "Tolerations:\t<none>");
    }
    let mut sorted: Vec<&Toleration> = tolerations.iter().collect();
    sorted.sort_by_key(|toleration| text(&toleration.key));
    let mut start = "Tolerations:";
    for toleration in sorted {
        let mut line = text(&toleration.key);
        let value = text(&toleration.value);
        if !value.is_empty() {
            line.push_str(&format!("={value}"));
        }
        if let Some(effect) = toleration.effect.as_ref().filter(|effect| !effect.is_empty()) {
            line.push_str(&format!(":{effect}"));
        }
        if toleration.operator.as_deref() == Some("Exists") && value.is_empty() {
            line.push_str(if line.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if let Some(seconds) = toleration.toleration_seconds {
            line.push_str(&format!(" for {seconds}s"));
        }
        page.line(0, &format!("{start}\t{line}"));
        start = "";
    }
}

/// The events have columns of their own, whatever stands above them.
pub(super) fn list_events(events: &[Event], now_ms: i64) -> String {
    let mut page = Page::default();
    page.line(0, "Events:\n  Type\tReason\tAge\tFrom\tMessage");
    page.line(1, "----\t------\t----\t----\t-------");
    for event in events {
        let first = age::since(event.first_timestamp.as_ref(), now_ms);
        let interval = match event.count {
            Some(count) if count > 1 => {
                let last = age::since(event.last_timestamp.as_ref(), now_ms);
                format!("{last} (x{count} over {first})")
            }
            _ => first,
        };
        let source = event.source.as_ref().and_then(|source| source.component.clone());
        let source = source.filter(|source| !source.is_empty());
        let source = source.unwrap_or_else(|| text(&event.reporting_component));
        let (kind, reason, message) =
            (text(&event.type_), text(&event.reason), text(&event.message));
        page.line(1, &format!("{kind}\t{reason}\t{interval}\t{source}\t{}", message.trim()));
    }
    page.finish()
}

/// `Mon, 02 Jan 2006 15:04:05 +0000`
pub(super) fn rfc1123(time: &Time) -> String {
    k8s_openapi::jiff::fmt::strtime::format("%a, %d %b %Y %H:%M:%S +0000", time.0)
        .unwrap_or_else(|_| time.0.to_string())
}
