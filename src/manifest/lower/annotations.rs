//! What podling adds as annotations: `KEY.podling.dev/CONTAINER` for one container, `podling.dev/KEY` for a whole object.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::support::{ANNOTATIONS, AnnotationRow, Scope};
use super::check::Check;
use super::{METADATA, Path, names};
use crate::limits::LOG_BYTES_PER_SECOND;
use crate::manifest::Quantity;
use crate::spec::{HostPort, HttpLimits, NameRule, OnMemoryLimit, StopSignal};

/// Requests at once: beyond it, a pod wants more pods, not more instances.
const HTTP_CONCURRENCY_MAX: u64 = 1024;

/// Longest time to a response; an hour is longer than any proxy waits.
const HTTP_TIMEOUT_SECONDS_MAX: u64 = 3600;

/// Less would not even let the daemon's own words about what was dropped through.
const LOG_RATE_MIN: u64 = 1024;

/// The settings of all containers, by name, and those of the pod.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    stop_signal: BTreeMap<String, StopSignal>,
    on_memory_limit: BTreeMap<String, OnMemoryLimit>,
    pub(super) host_loopback: Vec<HostPort>,
    http: BTreeMap<String, HttpLimits>,
    log_rate: BTreeMap<String, u64>,
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

    pub(super) fn http(&self, container: &str) -> HttpLimits {
        self.http.get(container).copied().unwrap_or_default()
    }

    pub(super) fn log_bytes_per_second(&self, container: &str) -> u64 {
        self.log_rate.get(container).copied().unwrap_or(LOG_BYTES_PER_SECOND)
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
            "http-concurrency" => {
                if let Some(count) = number(value, HTTP_CONCURRENCY_MAX, path, check) {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    self.http.entry(name).or_default().concurrency = count;
                }
            }
            "http-timeout" => {
                if let Some(seconds) = number(value, HTTP_TIMEOUT_SECONDS_MAX, path, check) {
                    self.http.entry(name).or_default().request_timeout =
                        Duration::from_secs(seconds);
                }
            }
            "http-reuse" => {
                if let Some(count) = number(value, u32::MAX.into(), path, check) {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    self.http.entry(name).or_default().requests_per_instance = Some(count);
                }
            }
            "http-instance-concurrency" => {
                if let Some(count) = number(value, HTTP_CONCURRENCY_MAX, path, check) {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    self.http.entry(name).or_default().requests_at_once = count;
                }
            }
            "http-body-limit" => match Quantity::parse(value) {
                Ok(bytes) if !bytes.is_negative() => {
                    self.http.entry(name).or_default().body_bytes_max = bytes.units_u64();
                }
                Ok(_) => check.invalid(path, value, "must be greater than or equal to 0"),
                Err(error) => check.invalid(path, value, error.to_string()),
            },
            "log-rate" => {
                let least = Quantity::parse(value).map(|bytes| bytes.units_u64());
                match least {
                    Ok(bytes @ LOG_RATE_MIN..) => drop(self.log_rate.insert(name, bytes)),
                    Ok(_) => check.invalid(path, value, "must be 1Ki or more"),
                    Err(error) => check.invalid(path, value, error.to_string()),
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

/// A whole number from 1 to `max`.
fn number(value: &str, max: u64, path: &Path<'_>, check: &mut Check<'_>) -> Option<u64> {
    let number = value.parse().ok().filter(|number| (1..=max).contains(number));
    if number.is_none() {
        check.invalid(path, value, format!("must be a whole number between 1 and {max}"));
    }
    number
}

fn has_container(pod: &corev1::Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).any(|container| container.name == name)
}
