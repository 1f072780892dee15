//! What a node answers to `describe`, as a page.
//!
//! A pod's page is that of `podling describe`, but for its network, which a node does not send. A node's page is its own.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use serde::Deserialize;
use serde_json::Value;

use super::super::describe::{self, Page};

/// The answer as a node sends it.
#[derive(Debug, Deserialize)]
struct Described {
    object: Value,
    #[serde(default)]
    events: Vec<Event>,
}

/// # Errors
/// It is not what a node answers.
pub(super) fn page(answer: &[u8], now_ms: i64) -> anyhow::Result<String> {
    let wrong = "the node's answer cannot be read";
    let Described { object, events } = serde_json::from_slice(answer).context(wrong)?;
    if object.get("spec").is_some_and(|spec| spec.get("containers").is_some()) {
        let pod: Pod = serde_json::from_value(object).context(wrong)?;
        return Ok(describe::describe(&pod, &describe::Seen::default(), &events, now_ms));
    }
    let node: Node = serde_json::from_value(object).context(wrong)?;
    Ok(of_node(&node, &events, now_ms))
}

fn of_node(node: &Node, events: &[Event], now_ms: i64) -> String {
    let mut page = Page::default();
    page.some(0, "Name", node.metadata.name.as_ref());
    for (title, pairs) in
        [("Labels", &node.metadata.labels), ("Annotations", &node.metadata.annotations)]
    {
        let pairs = pairs.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        for (at, pair) in pairs.enumerate() {
            let title = if at == 0 { format!("{title}:") } else { String::new() };
            page.line(0, &format!("{title}\t{pair}"));
        }
    }
    let status = node.status.clone().unwrap_or_default();
    if let Some(conditions) = status.conditions.filter(|conditions| !conditions.is_empty()) {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tReason\tMessage");
        page.line(1, "----\t------\t------\t-------");
        for condition in conditions {
            let (reason, message) = (condition.reason, condition.message);
            let said = format!("{}\t{}", reason.unwrap_or_default(), message.unwrap_or_default());
            page.line(1, &format!("{}\t{}\t{said}", condition.type_, condition.status));
        }
    }
    for (title, amounts) in [("Capacity", status.capacity), ("Allocatable", status.allocatable)] {
        let amounts = amounts.unwrap_or_default();
        if !amounts.is_empty() {
            page.line(0, &format!("{title}:"));
        }
        for (name, amount) in amounts {
            page.line(1, &format!("{name}:\t{}", amount.0));
        }
    }
    if let Some(info) = status.node_info {
        page.line(0, "System Info:");
        page.line(1, &format!("Kernel Version:\t{}", info.kernel_version));
        page.line(1, &format!("OS Image:\t{}", info.os_image));
        page.line(1, &format!("Architecture:\t{}", info.architecture));
        page.line(1, &format!("Container Runtime Version:\t{}", info.container_runtime_version));
    }
    if events.is_empty() {
        page.line(0, "Events:\t<none>");
        return page.finish();
    }
    page.finish() + &describe::list_events(events, now_ms)
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_pod_and_a_node_are_pages_and_nothing_reaches_the_terminal() {
        let pod = serde_json::json!({
            "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
                       "spec": {"containers": [{"name": "app", "image": "web:1\u{1b}[2J"}]}},
            "events": [],
        });
        let shown = page(pod.to_string().as_bytes(), 0).unwrap();
        assert!(shown.starts_with("Name:") && shown.contains("web:1^[[2J"), "{shown}");
        let node = serde_json::json!({
            "object": {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-17", "labels": {"site": "north"}},
                       "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "PodlingReady"}],
                                  "capacity": {"pods": "1024"}}},
            "events": [],
        });
        let shown = page(node.to_string().as_bytes(), 0).unwrap();
        for expected in ["gw-17", "site=north", "PodlingReady", "pods:", "1024", "Events:"] {
            assert!(shown.contains(expected), "{expected} in {shown}");
        }
        assert!(page(b"rubbish", 0).is_err());
    }
}
