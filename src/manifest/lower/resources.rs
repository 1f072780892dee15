//! Limits and requests (`KUBELET.md` 13), in the units that the runtime enforces.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use super::super::path::Path;
use super::super::quantity::Quantity;
use super::super::rules;
use super::SPEC;
use super::check::Check;
use crate::spec::{PodResources, Resources};

/// What Kubernetes has for containers.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What podling adds, as extended resources: whole numbers, requests equal to limits.
pub(super) const FUEL: &str = "podling.dev/fuel";
pub(super) const FUEL_PER_SECOND: &str = "podling.dev/fuel-per-second";

/// The resources of one list, by name.
type Amounts = BTreeMap<String, Quantity>;

pub(super) fn container(
    wire: &corev1::Container,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> Resources {
    let Some(wire) = &wire.resources else { return Resources::default() };
    let (limits, requests) = both(wire, path, container_name, check);
    let units = |list: &Amounts, name: &str| list.get(name).map(Quantity::units_u64);
    let millis = |list: &Amounts| list.get("cpu").map(Quantity::millis_u64);
    // A limit of zero is no limit, as for the container runtimes of Kubernetes.
    let positive = |amount: Option<u64>| amount.filter(|amount| *amount > 0);
    Resources {
        memory_limit_bytes: positive(units(&limits, "memory")),
        memory_request_bytes: units(&requests, "memory"),
        cpu_limit_millis: positive(millis(&limits)),
        cpu_request_millis: millis(&requests),
        ephemeral_storage_limit_bytes: positive(units(&limits, "ephemeral-storage")),
        fuel: positive(units(&limits, FUEL)),
        fuel_per_second: positive(units(&limits, FUEL_PER_SECOND)),
    }
}

pub(super) fn pod(spec: &corev1::PodSpec, check: &mut Check<'_>) -> PodResources {
    let Some(wire) = &spec.resources else { return PodResources::default() };
    let path = SPEC.field("resources");
    let (limits, requests) = both(wire, &path, pod_name, check);
    level_and_containers(spec, &limits, &requests, check);
    PodResources {
        memory_limit_bytes: limits.get("memory").map(Quantity::units_u64).filter(|n| *n > 0),
        memory_request_bytes: requests.get("memory").map(Quantity::units_u64),
        cpu_limit_millis: limits.get("cpu").map(Quantity::millis_u64).filter(|n| *n > 0),
        cpu_request_millis: requests.get("cpu").map(Quantity::millis_u64),
    }
}

/// A pod must have room for its containers: for the sum of what they request, and for each one's
/// limit.
fn level_and_containers(
    spec: &corev1::PodSpec,
    limits: &Amounts,
    requests: &Amounts,
    check: &mut Check<'_>,
) {
    let amount = |list: Option<&BTreeMap<String, WireQuantity>>, name: &str| {
        Quantity::parse(&list?.get(name)?.0).ok()
    };
    let resources = SPEC.field("resources");
    let requests_path = resources.field("requests");
    for (name, request) in requests {
        let asked = spec
            .containers
            .iter()
            .filter_map(|container| amount(container.resources.as_ref()?.requests.as_ref(), name));
        if let Some(sum) = asked.reduce(Quantity::plus).filter(|sum| sum > request) {
            let detail =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            check.invalid(&requests_path.key(name), &request.to_string(), detail);
        }
    }
    let list = SPEC.field("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        let path = list.index(index);
        let path = path.field("resources");
        let path = path.field("limits");
        for (name, limit) in limits {
            let own =
                container.resources.as_ref().and_then(|own| amount(own.limits.as_ref(), name));
            if let Some(own) = own.filter(|own| own > limit) {
                let detail = format!("must be less than or equal to pod limits of {limit}");
                check.invalid(&path.key(name), &own.to_string(), detail);
            }
        }
    }
}

/// What a list may name.
type NameRule = fn(&str, &Path<'_>, &mut Check<'_>);

/// Limits and requests, checked, and compared with each other.
fn both(
    wire: &corev1::ResourceRequirements,
    path: &Path<'_>,
    name_rule: NameRule,
    check: &mut Check<'_>,
) -> (Amounts, Amounts) {
    let limits = amounts(wire.limits.iter().flatten(), &path.field("limits"), name_rule, check);
    // Requests that defaulting has copied from limits are as wrong as those; once is enough to say
    // so.
    let own = wire.requests.iter().flatten().filter(|(name, request)| {
        wire.limits.as_ref().and_then(|limits| limits.get(*name)) != Some(*request)
    });
    let mut requests = amounts(own, &path.field("requests"), name_rule, check);
    compare(&limits, &requests, path, check);
    for (name, limit) in &limits {
        if wire.requests.as_ref().is_some_and(|requests| requests.contains_key(name)) {
            requests.entry(name.clone()).or_insert(*limit);
        }
    }
    (limits, requests)
}

/// Checks one list; what could be read comes back.
fn amounts<'w>(
    list: impl Iterator<Item = (&'w String, &'w WireQuantity)>,
    path: &Path<'_>,
    name_rule: NameRule,
    check: &mut Check<'_>,
) -> Amounts {
    let mut amounts = Amounts::new();
    for (name, wire) in list {
        let path = path.key(name);
        name_rule(name, &path, check);
        let quantity = match Quantity::parse(&wire.0) {
            Ok(quantity) => quantity,
            Err(error) => {
                check.invalid(&path, &wire.0, error.to_string());
                continue;
            }
        };
        if quantity.is_negative() {
            check.invalid(&path, &wire.0, "must be greater than or equal to 0");
        } else if !quantity.is_whole() && is_extended(name) {
            check.invalid(&path, &wire.0, "must be an integer");
        } else if !quantity.is_whole() && name != "cpu" {
            check.warn(
                &path,
                format!("fractional byte value {:?} is invalid, must be an integer", wire.0),
            );
        }
        amounts.insert(name.clone(), quantity);
    }
    amounts
}

fn is_extended(name: &str) -> bool {
    name.contains('/')
}

fn container_name(name: &str, path: &Path<'_>, check: &mut Check<'_>) {
    check.faults(path, name, rules::qualified_name(name));
    if STANDARD.contains(&name) || name == FUEL || name == FUEL_PER_SECOND {
        return;
    }
    if name.starts_with("hugepages-") {
        check.forbidden(path, "modules have no huge pages");
    } else if name.starts_with("podling.dev/") {
        let detail = format!("no resource of podling; known: {FUEL}, {FUEL_PER_SECOND}");
        check.forbidden(path, &detail);
    } else if is_extended(name) {
        check.forbidden(path, "this node has no such resource");
    } else {
        check.invalid(path, name, "must be a standard resource for containers");
    }
}

fn pod_name(name: &str, path: &Path<'_>, check: &mut Check<'_>) {
    if !["cpu", "memory"].contains(&name) {
        check.invalid(path, name, "must be a standard resource for pods: cpu or memory");
    }
}

/// Requests may not exceed limits; extended resources cannot be overcommitted, so both must be
/// there and equal.
fn compare(limits: &Amounts, requests: &Amounts, path: &Path<'_>, check: &mut Check<'_>) {
    let requests_path = path.field("requests");
    for (name, request) in requests {
        match limits.get(name) {
            Some(limit) if is_extended(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                check.invalid(&requests_path, &request.to_string(), detail);
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                check.invalid(&requests_path, &request.to_string(), detail);
            }
            None if is_extended(name) => {
                let detail = "Limit must be set for non overcommitable resources";
                check.required(&path.field("limits"), detail);
            }
            Some(_) | None => {}
        }
    }
}
