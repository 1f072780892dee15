//! Names within the node, as Kubernetes' DNS has them. Pure.
//!
//! Owns: what a name is tried as (search suffixes, `ndots`), and what the names below `cluster.local` mean:
//!
//! | Name | Meaning |
//! |---|---|
//! | `SERVICE.NS.svc.cluster.local` | its cluster IP; of a headless Service the addresses of its ready pods |
//! | `HOSTNAME.SERVICE.NS.svc.cluster.local` | the ready pod of that host name, whose `subdomain` the Service is |
//! | `10-88-0-3.SERVICE.NS.svc.cluster.local` | the ready pod of that address behind the headless Service |
//! | `10-88-0-3.NS.pod.cluster.local` | that address, if a pod of that namespace has it |
//!
//! Rules: Kubernetes' page "DNS for Services and Pods", and its DNS specification 1.1.0. Not: a pod's own names (`net`), nor names
//! outside.

use std::net::Ipv4Addr;

use super::service::{self, Backing};
use crate::spec::DnsConfig;

/// What all names of the node end in.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Longest name (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;

/// What a pod's name may stand for, in the order in which it is tried (resolv.conf(5), `search` and `ndots`).
#[must_use]
pub fn candidates(name: &str, dns: &DnsConfig, namespace: &str) -> Vec<String> {
    let cluster = [
        format!("{namespace}.svc.{CLUSTER_DOMAIN}"),
        format!("svc.{CLUSTER_DOMAIN}"),
        CLUSTER_DOMAIN.to_owned(),
    ];
    let suffixes = cluster.iter().filter(|_| dns.cluster).chain(&dns.searches);
    let searched = suffixes.map(|suffix| format!("{name}.{suffix}"));
    let searched = searched.filter(|name| name.len() <= NAME_MAX);
    let as_is = std::iter::once(name.to_owned());
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    if dots >= usize::from(dns.ndots) {
        as_is.chain(searched).collect()
    } else {
        searched.chain(as_is).collect()
    }
}

/// Where names are looked up.
pub trait Zone {
    /// The Service of that name.
    fn service(&self, namespace: &str, name: &str) -> Option<Backing>;
    /// Whether a pod of that namespace has the address.
    fn has_pod(&self, namespace: &str, ip: Ipv4Addr) -> bool;
}

/// The addresses of a name below [`CLUSTER_DOMAIN`], none if there is no such name. `None` for any other name.
#[must_use]
pub fn resolve(name: &str, zone: &dyn Zone) -> Option<Vec<Ipv4Addr>> {
    let lower = name.to_ascii_lowercase();
    let inner = match lower.strip_suffix(CLUSTER_DOMAIN)? {
        "" => return Some(Vec::new()),
        inner => inner.strip_suffix('.')?,
    };
    let labels: Vec<&str> = inner.split('.').collect();
    Some(match labels.as_slice() {
        [service, namespace, "svc"] => of_service(zone.service(namespace, service)),
        [pod, service, namespace, "svc"] => of_pod(pod, zone.service(namespace, service)),
        [dashed, namespace, "pod"] => {
            let ip = from_dashed(dashed).filter(|ip| zone.has_pod(namespace, *ip));
            ip.into_iter().collect()
        }
        _ => Vec::new(),
    })
}

fn of_service(backing: Option<Backing>) -> Vec<Ipv4Addr> {
    let Some(backing) = backing else { return Vec::new() };
    match backing.service.cluster_ip() {
        Some(ip) => vec![ip],
        None => service::named(&backing.endpoints).map(|endpoint| endpoint.ip).collect(),
    }
}

fn of_pod(label: &str, backing: Option<Backing>) -> Vec<Ipv4Addr> {
    let Some(backing) = backing.filter(|backing| backing.service.cluster_ip().is_none()) else {
        return Vec::new();
    };
    let dashed = from_dashed(label);
    let mut found = Vec::new();
    for endpoint in service::named(&backing.endpoints) {
        let is_it = match &endpoint.hostname {
            Some(hostname) => hostname.eq_ignore_ascii_case(label),
            None => dashed == Some(endpoint.ip),
        };
        found.extend(is_it.then_some(endpoint.ip));
    }
    found
}

/// `10-88-0-3`
fn from_dashed(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}

#[cfg(test)]
#[path = "tests/names.rs"]
mod tests;
