//! What podling adds as annotations: `KEY.podling.dev/CONTAINER` for one container, `podling.dev/KEY` for a whole object.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::support::{ANNOTATIONS, AnnotationRow, Scope};
use super::check::Check;
use super::{METADATA, Path, names};
use crate::spec::{HostPort, NameRule, OnMemoryLimit, StopSignal};

/// The settings of all containers, by name, and those of the pod.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    stop_signal: BTreeMap<String, StopSignal>,
    on_memory_limit: BTreeMap<String, OnMemoryLimit>,
    pub(super) host_loopback: Vec<HostPort>,
    pub(super) of_object: OfObject,
}

/// The settings of a whole object: a pod, or a NetworkPolicy for the pods it selects.
#[derive(Debug, Default)]
pub(super) struct OfObject {
    pub(super) egress_names: Vec<NameRule>,
    pub(super) audit: bool,
}

/// Whether an annotation's key is one that only podling gives a meaning to.
pub(super) fn is_ours(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    prefix == "podling.dev" || prefix.ends_with(".podling.dev")
}

/// Reads those of a NetworkPolicy; one of ours that does not exist is an error, for it would be ignored in silence otherwise.
pub(super) fn of_policy(metadata: &ObjectMeta, check: &mut Check<'_>) -> OfObject {
    let mut read = OfObject::default();
    let list = METADATA.field("annotations");
    for (key, value) in metadata.annotations.iter().flatten().filter(|(key, _)| is_ours(key)) {
        let path = list.key(key);
        match find(key).filter(|row| row.scope == Scope::PodOrPolicy) {
            Some(row) => read.set(row, value, &path, check),
            None => unknown(Scope::PodOrPolicy, &path, check),
        }
    }
    read
}

fn find(key: &str) -> Option<&'static AnnotationRow> {
    let (prefix, name) = key.split_once('/')?;
    ANNOTATIONS.iter().find(|row| match row.scope {
        Scope::Container => prefix.strip_suffix(".podling.dev") == Some(row.word),
        Scope::Pod | Scope::PodOrPolicy => prefix == "podling.dev" && name == row.word,
    })
}

/// `scope`: whose annotations are named as known, containers' included for a pod.
fn unknown(scope: Scope, path: &Path<'_>, check: &mut Check<'_>) {
    let here = |row: &&AnnotationRow| scope == Scope::Container || row.scope == scope;
    let known: Vec<String> = ANNOTATIONS.iter().filter(here).map(AnnotationRow::form).collect();
    let known = known.join(", ");
    check.forbidden(path, &format!("not an annotation of podling; known: {known}"));
}

impl OfObject {
    fn set(&mut self, row: &AnnotationRow, value: &str, path: &Path<'_>, check: &mut Check<'_>) {
        match row.word {
            "egress-names" => self.egress_names = names::read(value, path, check),
            _ => {
                let known = [("false", false), ("true", true)];
                self.audit = check.choice(path, Some(value), &known).unwrap_or_default();
            }
        }
    }
}

impl Annotations {
    pub(super) fn stop_signal(&self, container: &str) -> StopSignal {
        self.stop_signal.get(container).copied().unwrap_or(StopSignal::Lifecycle)
    }

    pub(super) fn on_memory_limit(&self, container: &str) -> OnMemoryLimit {
        self.on_memory_limit.get(container).copied().unwrap_or(OnMemoryLimit::Kill)
    }

    /// Reads ours among the pod's annotations; one of ours that does not exist is an error, for it
    /// would be ignored in silence otherwise.
    pub(super) fn read(pod: &corev1::Pod, check: &mut Check<'_>) -> Self {
        let mut read = Self::default();
        let list = METADATA.field("annotations");
        for (key, value) in pod.metadata.annotations.iter().flatten().filter(|(k, _)| is_ours(k)) {
            let path = list.key(key);
            let Some(row) = find(key) else {
                unknown(Scope::Container, &path, check);
                continue;
            };
            match row.scope {
                Scope::PodOrPolicy => read.of_object.set(row, value, &path, check),
                Scope::Pod => read.host_loopback = host_ports(value, &path, check),
                Scope::Container => {
                    let container = key.split_once('/').map_or("", |(_, container)| container);
                    if !has_container(pod, container) {
                        check.not_found(&path, container);
                    }
                    read.set(row, container, value, &path, check);
                }
            }
        }
        read
    }

    fn set(
        &mut self,
        row: &AnnotationRow,
        container: &str,
        value: &str,
        path: &Path<'_>,
        check: &mut Check<'_>,
    ) {
        let name = container.to_owned();
        match row.word {
            "stop-signal" => {
                let known = [("lifecycle", StopSignal::Lifecycle), ("stdin", StopSignal::StdinEof)];
                if let Some(signal) = check.choice(path, Some(value), &known) {
                    self.stop_signal.insert(name, signal);
                }
            }
            _ => {
                let known = [("kill", OnMemoryLimit::Kill), ("fail", OnMemoryLimit::Fail)];
                if let Some(what) = check.choice(path, Some(value), &known) {
                    self.on_memory_limit.insert(name, what);
                }
            }
        }
    }
}

/// Reads `tcp/5432,udp/53`.
fn host_ports(value: &str, path: &Path<'_>, check: &mut Check<'_>) -> Vec<HostPort> {
    let mut ports = Vec::new();
    for text in value.split(',').map(str::trim) {
        match HostPort::parse(text) {
            Some(port) if ports.contains(&port) => check.duplicate(path, text),
            Some(port) => ports.push(port),
            None => check.invalid(path, text, "must be tcp/PORT or udp/PORT, separated by commas"),
        }
    }
    ports
}

fn has_container(pod: &corev1::Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).any(|container| container.name == name)
}
