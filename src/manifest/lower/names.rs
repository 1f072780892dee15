//! `podling.dev/egress-names`: names outside that pods may reach, `NAME[:PORT[-END]][/PROTOCOL]`, separated by commas.

use super::super::path::Path;
use super::super::rules;
use super::check::Check;
use crate::spec::{NamePattern, NamePorts, NameRule, Protocol};

/// Entries of one annotation: each look-up compares with all of them.
const NAMES_MAX: usize = 128;

/// What an entry looks like, for messages.
const FORM: &str = "must be NAME[:PORT[-END]][/udp], as api.example.com:443 or *.ntp.org:123/udp";

/// Reads the annotation's value; every entry that is wrong is told.
pub(super) fn read(text: &str, path: &Path<'_>, check: &mut Check<'_>) -> Vec<NameRule> {
    let entries: Vec<&str> =
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if entries.len() > NAMES_MAX {
        check.too_many(path, entries.len(), NAMES_MAX);
    }
    let mut found = Vec::new();
    for entry in entries.into_iter().take(NAMES_MAX) {
        match parse(entry) {
            Ok(rule) => found.push(rule),
            Err(why) => check.invalid(path, entry, why),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// One entry.
fn parse(entry: &str) -> Result<NameRule, String> {
    let (place, protocol) = match entry.rsplit_once('/') {
        None => (entry, None),
        Some((place, "tcp")) => (place, Some(Protocol::Tcp)),
        Some((place, "udp")) => (place, Some(Protocol::Udp)),
        Some(_) => return Err(FORM.to_owned()),
    };
    let (name, ports) = match place.rsplit_once(':') {
        None => (place, None),
        Some((name, ports)) => (name, Some(ports)),
    };
    let ports = match (ports, protocol) {
        (None, None) => NamePorts::All,
        (None, Some(_)) => return Err(format!("{FORM}; a protocol needs a port")),
        (Some(ports), protocol) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let (first, last) = (port(first)?, port(last)?);
            if last < first {
                return Err("the last port must not be smaller than the first".to_owned());
            }
            NamePorts::Range(protocol.unwrap_or(Protocol::Tcp), first, last)
        }
    };
    Ok(NameRule { name: pattern(name)?, ports })
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port: &u16| digits && *port != 0);
    port.ok_or_else(|| rules::range(1, 65535))
}

fn pattern(text: &str) -> Result<NamePattern, String> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix('.').unwrap_or(&lower);
    let (name, below) = match plain.strip_prefix("*.") {
        Some(parent) => (parent, true),
        None => (plain, false),
    };
    if name == "*" {
        return Err("for every name, allow addresses: an egress rule with ipBlock".to_owned());
    }
    if let Some(fault) = rules::dns_subdomain(name).into_iter().next() {
        return Err(fault);
    }
    if name.parse::<std::net::IpAddr>().is_ok()
        || name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err("is an address, not a name: use an egress rule with ipBlock".to_owned());
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return Err("is the pod itself".to_owned());
    }
    if name == "cluster.local" || name.ends_with(".cluster.local") {
        let why = "is within the node: use an egress rule with podSelector or namespaceSelector";
        return Err(why.to_owned());
    }
    let name = name.to_owned();
    Ok(if below { NamePattern::Below(name) } else { NamePattern::Exactly(name) })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_entry_is_read_and_written_the_same() {
        for (text, shown) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com.:443", "api.example.com:443"),
            ("api.example.com:443/tcp", "api.example.com:443"),
            ("*.ntp.org:123/udp", "*.ntp.org:123/udp"),
            ("plc:502-510", "plc:502-510"),
        ] {
            assert_eq!(parse(text).map(|rule| rule.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_entry_is_told() {
        for (text, why) in [
            ("a/sctp", "must be NAME"),
            ("a/udp", "a protocol needs a port"),
            ("a:0", "must be between 1 and 65535"),
            ("a:99999", "must be between 1 and 65535"),
            ("a:", "must be between 1 and 65535"),
            ("a:+1", "must be between 1 and 65535"),
            ("a:90-80", "must not be smaller"),
            ("*", "for every name"),
            ("a.*.b", "RFC 1123 subdomain"),
            ("192.0.2.1:80", "is an address"),
            ("[2001:db8::1]:80", "RFC 1123 subdomain"),
            ("localhost:80", "is the pod itself"),
            ("*.svc.cluster.local:80", "is within the node"),
            (":80", "RFC 1123 subdomain"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
