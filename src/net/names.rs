//! Names inside a pod: `localhost`, its own host name, and the aliases of its manifest.
//!
//! Owns: what `/etc/hosts` says in a Kubernetes pod, kept in memory. Answers at once; no resolver
//! is asked.
//! Is not: DNS. A name that is not known here does not exist.
//! Rules: `localhost` and everything below it is the loopback, always (RFC 6761, 6.3). IPv4 comes
//! first, as in the file the kubelet writes: most servers of a pod listen on IPv4. An address is
//! its own answer (`wasi:sockets/ip-name-lookup`).
//! Limits: 253 characters a name, 63 a label (RFC 1035, 2.3.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Why a name has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It cannot be a name: empty, too long, or with characters no host name has.
    #[error("not a host name")]
    Invalid,
    /// Nobody has it.
    #[error("name not known")]
    NotFound,
    /// The policy does not let this module look it up.
    #[error("looking up this name is denied")]
    Denied,
    /// The resolver did not answer, or is asked too much at once: worth repeating.
    #[error("the name could not be looked up now")]
    Temporary,
    /// The resolver failed in a way that repeating does not help.
    #[error("the name cannot be looked up")]
    Permanent,
}

/// More names for an address (`hostAliases` of a Pod).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAlias {
    /// The address they stand for.
    pub ip: IpAddr,
    /// The names.
    pub names: Vec<String>,
}

/// See the header.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    host_names: Vec<String>,
    pod_ip: Ipv4Addr,
    aliases: Vec<HostAlias>,
}

impl Names {
    pub(crate) fn new(host_names: &[String], pod_ip: Ipv4Addr, aliases: &[HostAlias]) -> Self {
        let plain = |name: &String| normal(name).to_owned();
        Self {
            host_names: host_names.iter().map(plain).collect(),
            pod_ip,
            aliases: aliases
                .iter()
                .map(|alias| HostAlias {
                    ip: alias.ip,
                    names: alias.names.iter().map(plain).collect(),
                })
                .collect(),
        }
    }

    /// The addresses of `name`, best first; never empty.
    pub(crate) fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(ip) = literal(name) {
            return Ok(vec![ip]);
        }
        let name = normal(name);
        if !is_host_name(name) {
            return Err(ResolveError::Invalid);
        }
        if let Some(answer) = loopback(name) {
            return Ok(answer);
        }
        let is_name = |known: &String| known.eq_ignore_ascii_case(name);
        let own = self.host_names.iter().any(is_name).then_some(IpAddr::V4(self.pod_ip));
        let aliased = self.aliases.iter().filter(|alias| alias.names.iter().any(is_name));
        let mut answer: Vec<IpAddr> = own.into_iter().collect();
        for alias in aliased {
            if !answer.contains(&alias.ip) {
                answer.push(alias.ip);
            }
        }
        if answer.is_empty() { Err(ResolveError::NotFound) } else { Ok(answer) }
    }
}

/// An address written as text, with or without brackets. A mapped one comes out as the IPv4 address
/// it means.
fn literal(name: &str) -> Option<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// A trailing dot says only that nothing follows.
pub(crate) fn normal(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn loopback(name: &str) -> Option<Vec<IpAddr>> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.eq_ignore_ascii_case("localhost") {
        return Some(vec![v4, v6]);
    }
    // The two names that Linux distributions, and the kubelet, give to ::1.
    let v6_names = ["ip6-localhost", "ip6-loopback"];
    v6_names.iter().any(|known| known.eq_ignore_ascii_case(name)).then(|| vec![v6])
}

/// Letters, digits, hyphens and (as DNS in practice has it) underscores. A name in another script
/// is well formed too: it is spelled differently on the wire, which matters to nobody here, since
/// no name of a pod is.
fn is_host_name(name: &str) -> bool {
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
    };
    // A last label of digits only is an address gone wrong (WHATWG URL, "ends in a number").
    let number = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= MAX_NAME && !number && name.split('.').all(label_ok)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn names() -> Names {
        let aliases = [
            HostAlias { ip: "192.0.2.7".parse().unwrap(), names: vec!["plc".into(), "GW.".into()] },
            HostAlias { ip: "2001:db8::7".parse().unwrap(), names: vec!["plc".into()] },
        ];
        let own = ["greenhouse".to_owned(), "greenhouse.pods.default.svc.cluster.local".to_owned()];
        Names::new(&own, Ipv4Addr::new(10, 88, 0, 5), &aliases)
    }

    #[test]
    fn a_pod_knows_its_names() {
        let table: &[(&str, &[&str])] = &[
            ("localhost", &["127.0.0.1", "::1"]),
            ("LocalHost.", &["127.0.0.1", "::1"]),
            ("db.localhost", &["127.0.0.1", "::1"]),
            ("ip6-localhost", &["::1"]),
            ("greenhouse", &["10.88.0.5"]),
            ("GREENHOUSE.", &["10.88.0.5"]),
            ("greenhouse.pods.default.svc.cluster.local", &["10.88.0.5"]),
            ("plc", &["192.0.2.7", "2001:db8::7"]),
            ("gw", &["192.0.2.7"]),
            ("127.0.0.9", &["127.0.0.9"]),
            ("[::1]", &["::1"]),
            ("::ffff:10.0.0.1", &["10.0.0.1"]),
        ];
        for (name, answer) in table {
            let answer: Vec<IpAddr> = answer.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(names().resolve(name), Ok(answer), "{name}");
        }
    }

    #[test]
    fn a_name_nobody_has_is_told_from_what_is_no_name() {
        let long_label = "a".repeat(64);
        let long_name = ["a"; 128].join(".");
        let table = [
            ("example.com", ResolveError::NotFound),
            ("green", ResolveError::NotFound),
            ("localhost.example", ResolveError::NotFound),
            ("münchen.example", ResolveError::NotFound),
            ("_mqtt._tcp.example", ResolveError::NotFound),
            ("", ResolveError::Invalid),
            (".", ResolveError::Invalid),
            ("a..b", ResolveError::Invalid),
            ("-a", ResolveError::Invalid),
            ("a b", ResolveError::Invalid),
            ("a/b", ResolveError::Invalid),
            ("127.0.0.256", ResolveError::Invalid),
            (&long_label, ResolveError::Invalid),
            (&long_name, ResolveError::Invalid),
        ];
        for (name, error) in table {
            assert_eq!(names().resolve(name), Err(error), "{name}");
        }
    }
}
