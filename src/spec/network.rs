//! What a pod's manifest says about its network beyond its own names: look-ups, Services' variables, the way outside; and
//! the ranges that addresses and ports are given from.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::{HostPort, NameRule};

/// The network settings of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    pub dns: DnsConfig,
    /// `enableServiceLinks`: containers get variables for the Services of their namespace.
    pub service_links: bool,
    /// Names outside that the pod may reach (annotation `podling.dev/egress-names`).
    pub egress_names: Vec<NameRule>,
    /// Ports of the host's own loopback that the pod asks for (annotation `podling.dev/host-loopback`), each once.
    pub host_loopback: Vec<HostPort>,
    /// What the pod is denied is let through and written down (annotation `podling.dev/network-audit`).
    pub audit: bool,
}

/// How names are looked up (`dnsPolicy`, `dnsConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Whether names of pods and Services are known: not under `dnsPolicy: Default` and `None`.
    pub cluster: bool,
    /// Further suffixes that are tried (`dnsConfig.searches`), in this order, after those of the cluster.
    pub searches: Vec<String>,
    /// A name with fewer dots than this is tried with the suffixes first (`options ndots:N` of resolv.conf).
    pub ndots: u8,
}

impl Default for DnsConfig {
    /// `ClusterFirst`: what Kubernetes writes into a pod's resolv.conf.
    fn default() -> Self {
        Self { cluster: true, searches: Vec::new(), ndots: 5 }
    }
}

/// The addresses of pods: 10.88.0.0/16. They exist inside this process only: no interface of the host carries them, so they
/// clash with a real network in a pod's own view only.
pub const POD_RANGE: AddressRange = AddressRange { first: 10, second: 88 };

/// The addresses of Services: 10.89.0.0/16.
pub const SERVICE_RANGE: AddressRange = AddressRange { first: 10, second: 89 };

/// The host's ports that Services of type NodePort get (Kubernetes: `--service-node-port-range`).
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// 65,536 addresses that begin with the same two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: u8,
    second: u8,
}

impl AddressRange {
    /// How many of its addresses may be given out: all but those whose last two bytes are all zeros or all ones.
    pub const HOSTS: u16 = u16::MAX - 1;

    #[must_use]
    pub const fn contains(self, ip: Ipv4Addr) -> bool {
        let [first, second, ..] = ip.octets();
        first == self.first && second == self.second
    }

    /// Whether `ip` is one that may be given out.
    #[must_use]
    pub fn has_host(self, ip: Ipv4Addr) -> bool {
        let number = host_number(ip);
        self.contains(ip) && number != 0 && number != u16::MAX
    }

    /// The address with these last two bytes.
    #[must_use]
    pub const fn host(self, number: u16) -> Ipv4Addr {
        let [third, fourth] = number.to_be_bytes();
        Ipv4Addr::new(self.first, self.second, third, fourth)
    }
}

/// The last two bytes of an address.
#[must_use]
pub const fn host_number(ip: Ipv4Addr) -> u16 {
    let [_, _, third, fourth] = ip.octets();
    u16::from_be_bytes([third, fourth])
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0.0/16", self.first, self.second)
    }
}

/// A number below `below` that only the text decides, now and in every later version (FNV-1a): where the search for a free
/// address begins, so that the same name finds the same one again.
#[must_use]
pub fn name_hash(text: &str, below: u16) -> u16 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The low bits of an FNV hash of short texts are worse than the folded ones.
    let folded = (hash >> 32) ^ hash;
    u16::try_from(folded % u64::from(below.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_hash_never_changes_and_stays_below_its_bound() {
        // Addresses that were given out depend on these very numbers.
        assert_eq!(name_hash("default/web", 65_534), 33_591);
        assert_eq!(name_hash("", 65_534), 12_949);
        assert!((0..1000).all(|n| name_hash(&n.to_string(), 7) < 7));
        assert_eq!(name_hash("a", 0), 0);
    }

    #[test]
    fn a_range_gives_out_neither_its_first_nor_its_last_address() {
        for (ip, inside, host) in [
            (Ipv4Addr::new(10, 88, 0, 0), true, false),
            (Ipv4Addr::new(10, 88, 0, 1), true, true),
            (Ipv4Addr::new(10, 88, 255, 254), true, true),
            (Ipv4Addr::new(10, 88, 255, 255), true, false),
            (Ipv4Addr::new(10, 89, 0, 1), false, false),
        ] {
            assert_eq!((POD_RANGE.contains(ip), POD_RANGE.has_host(ip)), (inside, host), "{ip}");
        }
        assert_eq!(POD_RANGE.host(host_number(Ipv4Addr::new(1, 2, 3, 4))).to_string(), "10.88.3.4");
        assert_eq!(SERVICE_RANGE.to_string(), "10.89.0.0/16");
    }
}
