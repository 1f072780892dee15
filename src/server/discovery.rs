//! What there is: `/version`, `/api`, `/apis`, the resources of each group, and the same in one aggregated document.
//!
//! Owns: the list of resources with their verbs. Clients (kubectl before all) map the words people type to paths with it, and keep it
//! for hours, so a verb stands here only if it works.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    APIGroup, APIGroupList, APIResource, APIResourceList, APIVersions, GroupVersionForDiscovery,
};
use serde_json::{Value, json};

use crate::board::Kind;

use super::{usage, wire};

/// `apiVersion` of the core's objects.
pub(super) const CORE: &str = "v1";

/// The groups beside the core, each with the one version of its objects.
const GROUPS: [(&str, &str); 2] =
    [("discovery.k8s.io", "discovery.k8s.io/v1"), ("networking.k8s.io", "networking.k8s.io/v1")];

/// A group that there is, and the `apiVersion` of its objects.
pub(super) fn version_of(group: &str) -> Option<(&'static str, &'static str)> {
    GROUPS.into_iter().find(|(name, _)| *name == group)
}

/// Every `apiVersion`, the core's first.
pub(super) fn versions() -> impl Iterator<Item = &'static str> {
    std::iter::once(CORE).chain(GROUPS.into_iter().map(|(_, version)| version))
}

/// What `/version` says.
#[derive(Clone, Copy, Debug)]
pub struct VersionInfo {
    /// The Kubernetes whose API this speaks, as `kubectl version` compares it with itself.
    pub kubernetes_minor: u32,
    /// Our own version: `0.1.0`.
    pub podling: &'static str,
}

impl Default for VersionInfo {
    fn default() -> Self {
        Self { kubernetes_minor: 36, podling: env!("CARGO_PKG_VERSION") }
    }
}

impl VersionInfo {
    /// `v1.36.0+podling-0.1.0`: a Kubernetes version with ours as build metadata, which every client can parse.
    #[must_use]
    pub fn git_version(&self) -> String {
        format!("v1.{}.0+podling-{}", self.kubernetes_minor, self.podling)
    }

    pub(super) fn response(&self) -> Response<Body> {
        let body = json!({
            "major": "1",
            "minor": self.kubernetes_minor.to_string(),
            "gitVersion": self.git_version(),
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, platform()),
        });
        wire::json(StatusCode::OK, &body)
    }
}

/// The processor in Go's words, as image and node labels have it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Verbs and subresources of one kind.
struct Resource {
    kind: Kind,
    verbs: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [(&'static str, &'static [&'static str])],
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// `network` and `networkaudit` are ours: what `podling net` reads.
const POD_SUBRESOURCES: &[(&str, &[&str])] = &[
    ("log", &["get"]),
    ("network", &["get"]),
    ("networkaudit", &["get"]),
    ("portforward", &["create", "get"]),
    ("status", &["get"]),
];

fn resources_of(version: &str) -> impl Iterator<Item = Resource> {
    Kind::ALL.into_iter().filter(move |kind| kind.api_version() == version).map(|kind| {
        let (verbs, categories, subresources): (_, &[&str], &[(&str, &[&str])]) = match kind {
            Kind::Pod => (WRITE, &["all"], POD_SUBRESOURCES),
            Kind::Service => (WRITE, &["all"], &[]),
            Kind::ConfigMap | Kind::NetworkPolicy | Kind::Secret => (WRITE, &[], &[]),
            Kind::Endpoints | Kind::EndpointSlice | Kind::Event | Kind::Namespace | Kind::Node => {
                (READ, &[], &[])
            }
        };
        Resource { kind, verbs, categories, subresources }
    })
}

/// Whether a verb on a resource (or on a part of it) is offered; `*` means any.
pub(super) fn offers(group: &str, plural: &str, subresource: &str, verb: &str) -> bool {
    let named = |asked: &str, ours: &str| asked == "*" || asked == ours;
    let versions = versions().filter(|version| {
        let ours = version.rsplit_once('/').map_or("", |(group, _)| group);
        named(group, ours)
    });
    versions.flat_map(resources_of).filter(|r| named(plural, r.kind.plural())).any(|resource| {
        let verbs = match subresource {
            "" => Some(resource.verbs),
            part => resource.subresources.iter().find(|(name, _)| *name == part).map(|(_, v)| *v),
        };
        verbs.is_some_and(|verbs| verbs.iter().any(|ours| named(verb, ours)))
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn some_words(list: &[&str]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| words(list))
}

/// `/api`
pub(super) fn api_versions(headers: &HeaderMap) -> Response<Body> {
    if let Some(kind) = aggregated(headers) {
        return aggregated_response(kind, vec![aggregated_group(None, CORE)]);
    }
    let body = APIVersions {
        versions: vec![CORE.to_owned()],
        // Required by the type; clients on a Unix socket have no other address.
        server_address_by_client_cidrs: Vec::new(),
    };
    wire::json(StatusCode::OK, &body)
}

/// `/apis`
pub(super) fn groups(headers: &HeaderMap) -> Response<Body> {
    match aggregated(headers) {
        Some(kind) => {
            let groups = GROUPS.map(|(group, version)| aggregated_group(Some(group), version));
            let usage = usage::aggregated_group();
            aggregated_response(kind, groups.into_iter().chain([usage]).collect())
        }
        None => {
            let groups = GROUPS.into_iter().map(|(group, version)| api_group(group, version));
            let groups = groups.chain([usage_api_group()]).collect();
            wire::json(StatusCode::OK, &APIGroupList { groups })
        }
    }
}

/// `/apis/GROUP`
pub(super) fn group(group: &str) -> Response<Body> {
    let version = version_of(group).map_or(CORE, |(_, version)| version);
    wire::json(StatusCode::OK, &api_group(group, version))
}

/// `/apis/metrics.k8s.io`
pub(super) fn usage_group() -> Response<Body> {
    wire::json(StatusCode::OK, &usage_api_group())
}

fn usage_api_group() -> APIGroup {
    api_group(usage::GROUP, usage::VERSION)
}

/// `version`: the group's `apiVersion`.
fn api_group(group: &str, version: &str) -> APIGroup {
    let short = version.rsplit('/').next().unwrap_or(version);
    let version =
        GroupVersionForDiscovery { group_version: version.to_owned(), version: short.to_owned() };
    APIGroup {
        name: group.to_owned(),
        preferred_version: Some(version.clone()),
        server_address_by_client_cidrs: None,
        versions: vec![version],
    }
}

/// `/api/v1`, `/apis/GROUP/v1`
pub(super) fn resources(version: &str) -> Response<Body> {
    let mut list = Vec::new();
    for resource in resources_of(version) {
        let kind = resource.kind;
        list.push(APIResource {
            name: kind.plural().to_owned(),
            singular_name: kind.singular().to_owned(),
            namespaced: kind.namespaced(),
            kind: kind.as_str().to_owned(),
            verbs: words(resource.verbs),
            short_names: some_words(kind.short_names()),
            categories: some_words(resource.categories),
            ..APIResource::default()
        });
        for (name, verbs) in resource.subresources {
            list.push(APIResource {
                name: format!("{}/{name}", kind.plural()),
                namespaced: kind.namespaced(),
                kind: kind.as_str().to_owned(),
                verbs: words(verbs),
                ..APIResource::default()
            });
        }
    }
    let body = APIResourceList { group_version: version.to_owned(), resources: list };
    wire::json(StatusCode::OK, &body)
}

/// The version of the aggregated document that the client asks for before plain JSON. Clients that ask for more than
/// that (`profile=nopeer`) get the plain form they name next.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let accepted = headers.get_all(header::ACCEPT).iter();
    for media_type in accepted.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        let mut parts: Vec<&str> = media_type.split(';').map(str::trim).collect();
        parts.sort_unstable();
        match parts.as_slice() {
            ["application/json"] => return None,
            ["application/json", "as=APIGroupDiscoveryList", "g=apidiscovery.k8s.io", "v=v2"] => {
                return Some("v2");
            }
            [
                "application/json",
                "as=APIGroupDiscoveryList",
                "g=apidiscovery.k8s.io",
                "v=v2beta1",
            ] => {
                return Some("v2beta1");
            }
            _ => {}
        }
    }
    None
}

fn aggregated_response(version: &str, groups: Vec<Value>) -> Response<Body> {
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": groups,
    });
    let mut response = wire::json(StatusCode::OK, &body);
    let kind =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(kind) = HeaderValue::from_str(&kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

/// `group`: absent for the core.
fn aggregated_group(group: Option<&str>, version: &str) -> Value {
    let resources: Vec<Value> = resources_of(version)
        .map(|resource| {
            let kind = resource.kind;
            let response_kind =
                json!({"group": kind.group(), "version": CORE, "kind": kind.as_str()});
            let subresources: Vec<Value> = resource
                .subresources
                .iter()
                .map(|(name, verbs)| {
                    json!({"subresource": name, "responseKind": response_kind, "verbs": verbs})
                })
                .collect();
            let mut entry = json!({
                "resource": kind.plural(),
                "responseKind": response_kind,
                "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
                "singularResource": kind.singular(),
                "verbs": resource.verbs,
            });
            for (key, list) in
                [("shortNames", kind.short_names()), ("categories", resource.categories)]
            {
                if !list.is_empty() {
                    entry[key] = json!(list);
                }
            }
            if !subresources.is_empty() {
                entry["subresources"] = json!(subresources);
            }
            entry
        })
        .collect();
    let mut metadata = json!({"creationTimestamp": null});
    if let Some(group) = group {
        metadata["name"] = json!(group);
    }
    json!({
        "metadata": metadata,
        "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}],
    })
}
