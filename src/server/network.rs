//! `pods/NAME/network`: a pod's sockets and traffic, for `podling net`. Not one of Kubernetes' own subresources.
//!
//! Owns: the document. Is not: the counting, which the backend reads when it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::request::Target;
use super::status::ApiError;
use super::{App, read, wire};
use crate::spec::PodKey;

/// Numbers by name, as `tcpBytesSent`; names may be added.
pub type Counters = BTreeMap<String, u64>;

/// A pod's network as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkReport {
    pub kind: String,
    pub api_version: String,
    pub metadata: Names,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// Open now, all containers together.
    pub open_sockets: u64,
    /// Bytes that were written and not read yet, all containers together.
    pub buffered_bytes: u64,
    pub sockets: Vec<SocketRow>,
    /// What each container's traffic adds up to since the pod is here. `podling` is the daemon itself (probes), `host` what comes
    /// in through published and forwarded ports.
    pub containers: Vec<ContainerTraffic>,
    pub published: Vec<PublishedRow>,
    /// Flows of datagrams to the outside.
    pub flows: Vec<FlowRow>,
    pub outside: Counters,
    pub forwarded: Counters,
}

/// Which pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// One socket, in the words of `ss`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SocketRow {
    pub container: String,
    pub protocol: String,
    pub state: String,
    /// Of a listener: connections that wait to be accepted.
    pub receive_queue: u64,
    /// Of a listener: how many may wait.
    pub send_queue: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The host's own address of a connection to the outside: where the host's `ss` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerTraffic {
    pub name: String,
    pub counters: Counters,
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PublishedRow {
    pub protocol: String,
    /// Where the host listens.
    pub address: String,
    pub container_port: u16,
    pub counters: Counters,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowRow {
    pub local: String,
    pub remote: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

/// `tcp_bytes_sent` as JSON's names are spelled: `tcpBytesSent`.
#[must_use]
pub fn counters<'a>(rows: impl IntoIterator<Item = (&'a str, u64)>) -> Counters {
    let camel = |name: &str| {
        let mut words = name.split('_');
        let mut spelled = words.next().unwrap_or_default().to_owned();
        for word in words {
            let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
            spelled.push_str(&first.to_ascii_uppercase());
            spelled.push_str(rest);
        }
        spelled
    };
    rows.into_iter().map(|(name, value)| (camel(name), value)).collect()
}

/// Answers the request.
pub(super) fn serve(app: &Arc<App>, target: &Target) -> Result<Response<Body>, ApiError> {
    read::find(app, target)?;
    let name = target.name.as_deref().unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let report = app.backend.network(&PodKey::new(namespace, name));
    let report = report.ok_or_else(|| {
        ApiError::bad_request(format!(
            "pod {name} has no network now: it has not begun, or has ended"
        ))
    })?;
    Ok(wire::json(StatusCode::OK, &report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_spelled_as_json_is() {
        let all = counters([("tcp_bytes_sent", 1), ("connects", 2)]);
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(names, ["connects", "tcpBytesSent"]);
    }
}
