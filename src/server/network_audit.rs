//! `pods/NAME/networkaudit`: what a pod was denied, or used while it was audited, and the policy that allows just that. For
//! `podling net --audit`. Not one of Kubernetes' own subresources.
//!
//! Owns: the document. Is not: the watching (`fabric`).

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::{Deserialize, Serialize};

use super::network::Names;
use super::request::Target;
use super::status::ApiError;
use super::{App, read, wire};
use crate::spec::PodKey;

/// What was seen of a pod's traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditReport {
    pub kind: String,
    pub api_version: String,
    pub metadata: Names,
    /// Whether what policy denies is let through and written down.
    pub audited: bool,
    pub seen: Vec<SeenRow>,
    /// More things than are remembered.
    pub lost: u64,
    /// The policy that allows exactly what was seen; only of a pod that is audited, since otherwise what was allowed is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<NetworkPolicy>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenRow {
    /// `to 192.0.2.1 tcp/443`
    pub what: String,
    /// Whether policy denies it.
    pub denied: bool,
}

/// Answers the request.
pub(super) fn serve(app: &Arc<App>, target: &Target) -> Result<Response<Body>, ApiError> {
    read::find(app, target)?;
    let name = target.name.as_deref().unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let report = app.backend.network_audit(&PodKey::new(namespace, name));
    let report = report.ok_or_else(|| ApiError::not_found(target.kind, name))?;
    Ok(wire::json(StatusCode::OK, &report))
}
