//! Watches the pods' statuses: keeps the table up to date and says when all of them have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as corev1;
use tokio::sync::watch;

use super::End;
use super::label;
use super::screen::{Row, Screen};
use crate::board::{Board, Kind, Object, Query};
use crate::spec::{Pod, PodKey};

/// Changes taken from the board at a time.
const BATCH: usize = 64;

/// Different warnings shown of one play; more than that is noise.
const WARNINGS_MAX: usize = 256;

/// Shows statuses as they change, and says once how it ended when every pod has Succeeded or Failed. Runs until dropped.
pub(super) async fn show_all(
    board: Board,
    pods: Vec<Arc<Pod>>,
    screen: Screen,
    ended: watch::Sender<Option<End>>,
) {
    let mut seen = Seen::default();
    loop {
        // A watch that fell behind begins again with what is there now.
        let Ok(mut watch) = board.watch(Query::all(Kind::Pod), None) else { continue };
        while let Ok(events) = watch.next_batch(BATCH) {
            if events.is_empty() {
                watch.changed().await;
                continue;
            }
            for event in events {
                let Object::Pod(pod) = event.object else { continue };
                seen.show(&pod, &screen);
                seen.published(&pod, &pods, &screen);
            }
            let end = seen.ended(&pods);
            ended.send_if_modified(|known| {
                let news = *known != end;
                *known = end;
                news
            });
        }
    }
}

/// Shows what went wrong and does not show in a container's row: a port that is taken, a volume that cannot be had. Each
/// text once. Runs until dropped.
pub(super) async fn show_warnings(board: Board, screen: Screen) {
    let mut said = BTreeSet::new();
    loop {
        let Ok(mut watch) = board.watch(Query::all(Kind::Event), None) else { continue };
        while let Ok(events) = watch.next_batch(BATCH) {
            if events.is_empty() {
                watch.changed().await;
            }
            for event in events {
                let Object::Event(event) = event.object else { continue };
                let text = warning(&event);
                if text
                    .as_ref()
                    .is_some_and(|text| said.len() < WARNINGS_MAX && said.insert(text.clone()))
                {
                    screen.line(&text.unwrap_or_default());
                }
            }
        }
    }
}

/// The line for an event, if it is one that nothing else on the screen says.
fn warning(event: &corev1::Event) -> Option<String> {
    let reason = event.reason.as_deref().unwrap_or_default();
    // Their pods' rows say these, as they change.
    let in_row = matches!(reason, "BackOff" | "Unhealthy" | "Failed");
    if event.type_.as_deref() != Some("Warning") || in_row {
        return None;
    }
    let about = &event.involved_object;
    let kind = about.kind.as_deref().unwrap_or("Pod").to_ascii_lowercase();
    let name = about.name.as_deref().unwrap_or_default();
    let message = event.message.as_deref().unwrap_or_default();
    // A played node has no API, so a command that asks for more would find nobody.
    let message = message.split("; `podling ").next().unwrap_or_default();
    Some(format!("{kind}/{name} warning {reason}: {message}"))
}

/// Shows what the board says now: the last word after the node has ended.
pub(super) fn show_last(board: &Board, screen: &Screen) {
    let mut seen = Seen { quiet: true, ..Seen::default() };
    for object in board.list(&Query::all(Kind::Pod)).items {
        if let Object::Pod(pod) = object {
            seen.show(&pod, screen);
        }
    }
}

/// What has been said already.
#[derive(Debug, Default)]
struct Seen {
    phases: BTreeMap<PodKey, String>,
    ready: BTreeMap<PodKey, bool>,
    published: BTreeSet<PodKey>,
    /// Rows only: phases and readiness have been told.
    quiet: bool,
}

impl Seen {
    fn show(&mut self, pod: &corev1::Pod, screen: &Screen) {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let key = PodKey::new(namespace, meta.name.as_deref().unwrap_or_default());
        let Some(status) = &pod.status else { return };
        let init = status.init_container_statuses.iter().flatten();
        for container in init.chain(status.container_statuses.iter().flatten()) {
            screen.row(&key, &container.name, row(container));
        }
        let conditions = status.conditions.iter().flatten();
        let is_ready = conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True");
        if self.ready.insert(key.clone(), is_ready) != Some(is_ready) && is_ready && !self.quiet {
            screen.line(&format!("pod/{} Ready", label(&key)));
        }
        if let Some(phase) = &status.phase {
            let before = self.phases.insert(key.clone(), phase.clone());
            let news = before.as_deref() != Some(phase) && !self.quiet;
            if news && matches!(phase.as_str(), "Succeeded" | "Failed") {
                let why = status.reason.as_deref().map_or(String::new(), |r| format!(" ({r})"));
                screen.line(&format!("pod/{} {phase}{why}", label(&key)));
            }
        }
    }

    /// Says where a pod can be reached, as soon as its ports are open.
    fn published(&mut self, shown: &corev1::Pod, pods: &[Arc<Pod>], screen: &Screen) {
        let conditions = shown.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let mut open = conditions.filter(|c| c.type_ == "PodReadyToStartContainers");
        if !open.any(|c| c.status == "True") {
            return;
        }
        let uid = shown.metadata.uid.as_deref();
        if let Some(pod) = pods.iter().find(|pod| Some(pod.uid.as_str()) == uid)
            && self.published.insert(pod.key.clone())
        {
            screen.published(pod);
        }
    }

    /// Whether all is over, and how.
    fn ended(&self, pods: &[Arc<Pod>]) -> Option<End> {
        let mut failed = false;
        for pod in pods {
            match self.phases.get(&pod.key)?.as_str() {
                "Succeeded" => {}
                "Failed" => failed = true,
                _ => return None,
            }
        }
        Some(if failed { End::SomeFailed } else { End::AllSucceeded })
    }
}

fn row(status: &corev1::ContainerStatus) -> Row {
    let state = status.state.as_ref();
    let running = state.and_then(|s| s.running.as_ref()).map(|_| "Running".to_owned());
    let waiting = state.and_then(|s| s.waiting.as_ref()).map(|w| {
        let reason = w.reason.as_deref().unwrap_or("Waiting");
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        match (last, w.message.as_deref()) {
            // Why it is waiting to be restarted says more than that it is.
            (Some(last), _) => format!("{reason} ({})", terminated(last)),
            (None, Some(message)) => format!("{reason} ({})", first_line(message)),
            (None, None) => reason.to_owned(),
        }
    });
    let ended = state.and_then(|s| s.terminated.as_ref()).map(terminated);
    Row {
        state: running.or(waiting).or(ended).unwrap_or_else(|| "Waiting".to_owned()),
        ready: status.ready,
        restarts: status.restart_count,
    }
}

fn terminated(end: &corev1::ContainerStateTerminated) -> String {
    let reason = end.reason.as_deref().unwrap_or("Terminated");
    let message = end.message.as_deref().map(first_line).filter(|m| !m.is_empty());
    match message {
        Some(message) => format!("{reason}, exit code {}: {message}", end.exit_code),
        None => format!("{reason}, exit code {}", end.exit_code),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
