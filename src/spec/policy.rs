//! NetworkPolicies: who may talk to whom, and to the outside.
//!
//! Owns: the validated object, address blocks, and the names a pod may reach outside. Not: deciding (`fabric::policy`).
//! Rules: `networking.k8s.io/v1` NetworkPolicy, and Kubernetes' page "Network Policies".

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{LabelSelector, NamespacedName, Protocol};

/// A validated NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    pub key: NamespacedName,
    /// The pods of its namespace that it speaks of.
    pub pods: LabelSelector,
    /// `None`: it says nothing about traffic to these pods (`policyTypes` lacks Ingress). Empty: nothing may reach them.
    pub ingress: Option<Vec<PolicyRule>>,
    /// The same for traffic from them.
    pub egress: Option<Vec<PolicyRule>>,
    /// Names outside that these pods may reach (annotation `podling.dev/egress-names`).
    pub egress_names: Vec<NameRule>,
    /// What these pods are denied is let through and written down (annotation `podling.dev/network-audit`).
    pub audit: bool,
}

/// One rule: traffic with any of these peers, at any of these ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// Empty: everyone, everywhere.
    pub peers: Vec<PolicyPeer>,
    /// Empty: all ports.
    pub ports: Vec<PolicyPort>,
}

/// Who is at the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods that match, in the namespaces that match; without a namespace selector in the policy's own.
    Pods { namespaces: Option<LabelSelector>, pods: LabelSelector },
    /// Addresses.
    Block(IpBlock),
}

/// Addresses, less some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpBlock {
    pub cidr: Cidr,
    pub except: Vec<Cidr>,
}

impl IpBlock {
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(ip) && !self.except.iter().any(|cidr| cidr.contains(ip))
    }
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// `None`: SCTP, which nothing here speaks. The entry stays, since a rule without ports would mean all of them.
    pub protocol: Option<Protocol>,
    pub ports: PortMatch,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMatch {
    All,
    /// From the first to the second (`port`, `endPort`), both included.
    Range(u16, u16),
    /// The port that has this name in the pod that is connected to.
    Named(String),
}

/// An address and the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` if the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(address)).then_some(Self { address, prefix })
    }

    /// Just this address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: bits(address) }
    }

    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let differing = u32::from(network) ^ u32::from(ip);
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let differing = u128::from(network) ^ u128::from(ip);
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether every address of `other` is one of ours, and we have more.
    #[must_use]
    pub fn strictly_contains(&self, other: &Self) -> bool {
        other.prefix > self.prefix && self.contains(other.address)
    }
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Not `ADDRESS/BITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]
pub struct NotACidr;

impl FromStr for Cidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let (address, prefix) = text.split_once('/').ok_or(NotACidr)?;
        let plain = |digits: &str| {
            let well_formed = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            (well_formed && (digits.len() == 1 || !digits.starts_with('0'))).then_some(())
        };
        plain(prefix).ok_or(NotACidr)?;
        let prefix = prefix.parse().map_err(|_| NotACidr)?;
        Self::new(address.parse().map_err(|_| NotACidr)?, prefix).ok_or(NotACidr)
    }
}

/// A name outside that may be reached: one entry of `podling.dev/egress-names`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameRule {
    pub name: NamePattern,
    pub ports: NamePorts,
}

/// Where a name may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePorts {
    /// Every port, TCP and UDP.
    All,
    /// From the first to the second, both included.
    Range(Protocol, u16, u16),
}

impl NamePorts {
    #[must_use]
    pub fn allows(self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Range(of, first, last) => of == protocol && (first..=last).contains(&port),
        }
    }
}

impl fmt::Display for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        let NamePorts::Range(protocol, first, last) = self.ports else { return Ok(()) };
        write!(f, ":{first}")?;
        if last != first {
            write!(f, "-{last}")?;
        }
        match protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

/// A name, or all names below one. Lower case, without a last dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePattern {
    Exactly(String),
    /// `*.example.com`: every name below it, however deep, and not the name itself.
    Below(String),
}

impl NamePattern {
    /// Whether `name` is meant; case does not matter, nor does a last dot.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self {
            Self::Exactly(own) => own.eq_ignore_ascii_case(name),
            Self::Below(parent) => {
                let cut = name.len().checked_sub(parent.len() + 1);
                cut.is_some_and(|cut| {
                    cut > 0
                        && name.as_bytes()[cut] == b'.'
                        && name.is_char_boundary(cut + 1)
                        && name[cut + 1..].eq_ignore_ascii_case(parent)
                })
            }
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => f.write_str(name),
            Self::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_block_has_the_addresses_it_covers_less_its_exceptions() {
        let block = IpBlock {
            cidr: "172.17.0.0/16".parse().unwrap(),
            except: vec!["172.17.1.0/24".parse().unwrap()],
        };
        for (ip, inside) in [
            ("172.17.0.1", true),
            ("172.17.255.255", true),
            ("172.17.1.0", false),
            ("172.17.1.255", false),
            ("172.17.2.0", true),
            ("172.18.0.0", false),
            ("::ffff:172.17.0.1", false),
        ] {
            assert_eq!(block.contains(ip.parse().unwrap()), inside, "{ip}");
        }
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let six: Cidr = "2001:db8::/33".parse().unwrap();
        assert!(six.contains("2001:db8:7fff::1".parse().unwrap()));
        assert!(!six.contains("2001:db8:8000::1".parse().unwrap()));
        assert!(Cidr::host("::1".parse().unwrap()).contains("::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "::/129", "a/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(NotACidr), "{text}");
        }
        for text in ["10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/8/8", " 10.0.0.0/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(NotACidr), "{text}");
        }
    }

    #[test]
    fn one_block_lies_within_another_only_if_it_is_smaller() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(cidr("10.0.0.0/8").strictly_contains(&cidr("10.1.0.0/16")));
        assert!(!cidr("10.0.0.0/8").strictly_contains(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/8").strictly_contains(&cidr("11.0.0.0/16")));
        assert!(!cidr("10.0.0.0/8").strictly_contains(&cidr("::/64")));
    }

    #[test]
    fn a_pattern_means_a_name_or_all_below_it() {
        let one = NamePattern::Exactly("api.example.com".to_owned());
        assert!(one.matches("API.example.com."));
        assert!(!one.matches("x.api.example.com"));
        let below = NamePattern::Below("ntp.org".to_owned());
        for (name, meant) in [
            ("pool.ntp.org", true),
            ("0.DE.pool.NTP.org.", true),
            ("ntp.org", false),
            ("xntp.org", false),
            (".ntp.org", false),
            ("pool.ntp.org.evil", false),
            ("é.ntp.org", true),
            ("éntp.org", false),
        ] {
            assert_eq!(below.matches(name), meant, "{name}");
        }
    }

    #[test]
    fn a_name_rule_reads_as_it_is_written() {
        let name = NamePattern::Below("ntp.org".to_owned());
        let rule = |ports| NameRule { name: name.clone(), ports }.to_string();
        assert_eq!(rule(NamePorts::All), "*.ntp.org");
        assert_eq!(rule(NamePorts::Range(Protocol::Udp, 123, 123)), "*.ntp.org:123/udp");
        assert_eq!(rule(NamePorts::Range(Protocol::Tcp, 80, 90)), "*.ntp.org:80-90");
    }
}
