//! A pod's look-ups and its way out: `dnsPolicy`, `dnsConfig`, `enableServiceLinks`, and the annotations on both.

use k8s_openapi::api::core::v1 as corev1;

use super::super::path::Path;
use super::super::rules;
use super::annotations::Annotations;
use super::check::Check;
use super::{BAD_IP, SPEC};
use crate::spec::{DnsConfig, PodNetwork};

/// `dnsConfig.searches` and `dnsConfig.nameservers` (`MaxDNSSearchPaths`, `MaxDNSNameservers`).
const SEARCHES_MAX: usize = 32;
const NAMESERVERS_MAX: usize = 3;

/// All search suffixes together, characters (`MaxDNSSearchListChars`).
const SEARCH_CHARS_MAX: usize = 2048;

/// The resolver's own bound on `ndots` (resolv.conf(5)).
const NDOTS_MAX: u8 = 15;

pub(super) fn lower(
    spec: &corev1::PodSpec,
    annotations: &Annotations,
    check: &mut Check<'_>,
) -> PodNetwork {
    PodNetwork {
        dns: dns(spec, check),
        service_links: spec.enable_service_links.unwrap_or(true),
        egress_names: annotations.of_object.egress_names.clone(),
        host_loopback: annotations.host_loopback.clone(),
        audit: annotations.of_object.audit,
    }
}

fn dns(spec: &corev1::PodSpec, check: &mut Check<'_>) -> DnsConfig {
    let known = [
        ("ClusterFirst", true),
        ("ClusterFirstWithHostNet", true),
        ("Default", false),
        ("None", false),
    ];
    let policy = spec.dns_policy.as_deref();
    let cluster = check.choice(&SPEC.field("dnsPolicy"), policy, &known).unwrap_or(true);
    let path = SPEC.field("dnsConfig");
    let absent = corev1::PodDNSConfig::default();
    let config = spec.dns_config.as_ref().unwrap_or(&absent);
    nameservers(config, policy, &path, check);
    DnsConfig {
        cluster,
        searches: searches(config, &path.field("searches"), check),
        ndots: ndots(config, cluster, &path.field("options"), check),
    }
}

fn nameservers(
    config: &corev1::PodDNSConfig,
    policy: Option<&str>,
    path: &Path<'_>,
    check: &mut Check<'_>,
) {
    let path = path.field("nameservers");
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if servers.is_empty() && policy == Some("None") {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        check.required(&path, detail);
    }
    if servers.len() > NAMESERVERS_MAX {
        let why = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        check.invalid_number(&path, servers.len(), why);
    }
    for (index, server) in servers.iter().enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            check.invalid(&path.index(index), server, BAD_IP);
        }
    }
}

fn searches(config: &corev1::PodDNSConfig, path: &Path<'_>, check: &mut Check<'_>) -> Vec<String> {
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > SEARCHES_MAX {
        let why = format!("must not have more than {SEARCHES_MAX} search paths");
        check.invalid_number(path, searches.len(), why);
    }
    let chars = searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1);
    if chars > SEARCH_CHARS_MAX {
        let why = format!(
            "must not have more than {SEARCH_CHARS_MAX} characters (including spaces) in the search list"
        );
        check.invalid_number(path, chars, why);
    }
    let mut suffixes = Vec::new();
    for (index, search) in searches.iter().take(SEARCHES_MAX).enumerate() {
        let plain = search.strip_suffix('.').unwrap_or(search);
        // "." is the root: it adds nothing to try.
        if !plain.is_empty() {
            check.faults(&path.index(index), search, rules::dns_subdomain(plain));
            suffixes.push(plain.to_owned());
        }
    }
    suffixes
}

/// Of the resolver's options only `ndots` changes what a name means.
fn ndots(
    config: &corev1::PodDNSConfig,
    cluster: bool,
    path: &Path<'_>,
    check: &mut Check<'_>,
) -> u8 {
    // Kubernetes says five with the cluster's suffixes; without, the resolver's own default holds.
    let mut ndots = if cluster { 5 } else { 1 };
    for (index, option) in config.options.iter().flatten().enumerate() {
        let path = path.index(index);
        let value = option.value.as_deref();
        match option.name.as_deref().unwrap_or_default() {
            "" => check.required(&path.field("name"), ""),
            "ndots" => match value.and_then(|value| value.parse::<u8>().ok()) {
                Some(value) => ndots = value.min(NDOTS_MAX),
                None => {
                    let value = value.unwrap_or_default();
                    check.invalid(&path.field("value"), value, "must be a number of dots");
                }
            },
            _ => check.warn(&path, "of the resolver's options only ndots has a meaning here"),
        }
    }
    ndots
}
