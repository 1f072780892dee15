//! Addresses of a pod's network: which are ours, which may be named in a call, which one a packet
//! leaves from.
//!
//! Owns: [`Family`], [`Protocol`], [`PodAddresses`] and the checks on addresses that WASI and Linux
//! share.
//! Is not: the port table (`port`), the names (`names`).
//! A pod has 127.0.0.0/8, ::1, one IPv4 address of its own, and the IPv6 address that follows from it ([`pod_ip6`]); everything
//! else is outside.
//! Who may call: everyone in `crate::net`, and the adapters for their own checks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Address family of a socket; fixed when the socket is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family an address belongs to.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// `0.0.0.0` or `::`.
    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// The two transports a pod has. Each has a port space of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// The prefix of pods' IPv6 addresses: a unique local one (RFC 4193), since no wire ever carries it. The pod's IPv4 address is
/// the rest.
const POD_PREFIX_V6: [u16; 6] = [0xfd70, 0x6f64, 0x6c69, 0x6e67, 0, 0];

/// The IPv6 address of the pod that has this IPv4 address: what its IPv6 sockets speak from towards others.
#[must_use]
pub fn pod_ip6(pod_ip: Ipv4Addr) -> Ipv6Addr {
    let [p0, p1, p2, p3, p4, p5] = POD_PREFIX_V6;
    let [a, b, c, d] = pod_ip.octets();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(p0, p1, p2, p3, p4, p5, pair(a, b), pair(c, d))
}

/// The IPv4 address of the pod that has this IPv6 address, if it is a pod's.
#[must_use]
pub fn pod_of_ip6(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d] = [12, 13, 14, 15].map(|at| ip.octets()[at]);
    (ip.segments()[..6] == POD_PREFIX_V6).then(|| Ipv4Addr::new(a, b, c, d))
}

/// The addresses that are this pod's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodAddresses {
    pub(crate) pod_ip: Ipv4Addr,
}

impl PodAddresses {
    /// Whether traffic to `ip` stays in this pod.
    pub(crate) fn is_local(self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.is_pods(ip)
    }

    /// Whether `ip` is the one by which others know this pod.
    pub(crate) fn is_pods(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.pod_ip,
            IpAddr::V6(ip) => ip == pod_ip6(self.pod_ip),
        }
    }

    /// Whether a socket may bind to `ip` (Linux answers `EADDRNOTAVAIL` otherwise).
    pub(crate) fn is_bindable(self, ip: IpAddr) -> bool {
        ip.is_unspecified() || self.is_local(ip)
    }

    /// The address that a socket bound to `bound` (or to nothing yet: port 0) has towards `to`.
    /// `None` if it cannot speak from there: a loopback address does not leave its pod (Linux:
    /// EINVAL).
    pub(crate) fn source(self, bound: Option<SocketAddr>, to: SocketAddr) -> Option<SocketAddr> {
        let from = match bound {
            Some(bound) if !bound.ip().is_unspecified() => bound,
            Some(bound) => SocketAddr::new(self.source_towards(to.ip()), bound.port()),
            None => SocketAddr::new(self.source_towards(to.ip()), 0),
        };
        (self.is_local(to.ip()) || !from.ip().is_loopback()).then_some(from)
    }

    /// The address that a socket with no specific one of its own sends from, as Linux's local
    /// routing table picks it: 127.0.0.1 towards all of 127.0.0.0/8, the pod's own address towards
    /// itself and the outside.
    pub(crate) fn source_towards(self, destination: IpAddr) -> IpAddr {
        match destination {
            IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(_) => self.pod_ip.into(),
            IpAddr::V6(ip) if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(_) => pod_ip6(self.pod_ip).into(),
        }
    }
}

/// Whether `ip` may be used with a socket of `family`: the same family, and no IPv4 address in IPv6
/// dress. WASI refuses mapped addresses in every call (`wasi:sockets/tcp`); the deprecated
/// compatible form is refused with them.
#[must_use]
pub fn fits_family(ip: IpAddr, family: Family) -> bool {
    match (ip, family) {
        (IpAddr::V4(_), Family::V4) => true,
        (IpAddr::V6(ip), Family::V6) => !is_ipv4_in_disguise(ip),
        (IpAddr::V4(_), Family::V6) | (IpAddr::V6(_), Family::V4) => false,
    }
}

/// Whether `ip` names one host (or is the wildcard).
#[must_use]
pub fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_multicast(),
    }
}

/// Whether `to` can be the far end of a TCP connection made by a socket of `family`: unicast, of
/// that family, and neither address nor port zero.
#[must_use]
pub fn is_connectable(to: SocketAddr, family: Family) -> bool {
    is_unicast(to.ip()) && is_sendable(to, family)
}

/// Whether a datagram socket of `family` may name `to` as a destination.
#[must_use]
pub fn is_sendable(to: SocketAddr, family: Family) -> bool {
    fits_family(to.ip(), family) && !to.ip().is_unspecified() && to.port() != 0
}

/// `to` as others know it. A flow label and a zone may be named with an IPv6 address, and mean nothing in here: no packet carries
/// them, and what comes back from there has none.
pub(crate) fn plain(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(to.ip(), to.port())
}

fn is_ipv4_in_disguise(ip: Ipv6Addr) -> bool {
    let compatible = matches!(ip.segments(), [0, 0, 0, 0, 0, 0, _, _])
        && !ip.is_unspecified()
        && ip != Ipv6Addr::LOCALHOST;
    compatible || ip.to_ipv4_mapped().is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const OURS: PodAddresses = PodAddresses { pod_ip: Ipv4Addr::new(10, 88, 0, 5) };

    #[test]
    fn only_loopback_and_the_pod_ip_are_local() {
        let table = [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("10.88.0.5", true),
            ("10.88.0.6", false),
            ("0.0.0.0", false),
            ("::1", true),
            ("::", false),
            ("::2", false),
            ("fe80::1", false),
            ("fd70:6f64:6c69:6e67::10.88.0.5", true),
            ("fd70:6f64:6c69:6e67::10.88.0.6", false),
        ];
        for (ip, local) in table {
            assert_eq!(OURS.is_local(ip.parse().unwrap()), local, "{ip}");
        }
    }

    #[test]
    fn a_socket_without_an_address_sends_from_the_one_linux_would_pick() {
        let table = [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.2", "127.0.0.1"),
            ("10.88.0.5", "10.88.0.5"),
            ("192.0.2.1", "10.88.0.5"),
            ("::1", "::1"),
            ("2001:db8::1", "fd70:6f64:6c69:6e67::10.88.0.5"),
            ("fd70:6f64:6c69:6e67::10.88.0.6", "fd70:6f64:6c69:6e67::10.88.0.5"),
        ];
        for (to, from) in table {
            let picked = OURS.source_towards(to.parse().unwrap());
            assert_eq!(picked, from.parse::<IpAddr>().unwrap(), "{to}");
        }
    }

    #[test]
    fn a_pods_ipv6_address_is_its_ipv4_address_below_our_prefix() {
        let ip = Ipv4Addr::new(10, 88, 200, 5);
        assert_eq!(pod_ip6(ip).to_string(), "fd70:6f64:6c69:6e67::a58:c805");
        assert_eq!(pod_of_ip6(pod_ip6(ip)), Some(ip));
        for other in ["::a58:c805", "fd70:6f64:6c69:6e67:1::a58:c805", "2001:db8::1"] {
            assert_eq!(pod_of_ip6(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn an_address_of_the_wrong_kind_is_refused() {
        let table = [
            ("127.0.0.1:80", Family::V4, true),
            ("127.0.0.1:80", Family::V6, false),
            ("[::1]:80", Family::V6, true),
            ("[::1]:80", Family::V4, false),
            ("[::ffff:127.0.0.1]:80", Family::V6, false),
            ("[::127.0.0.1]:80", Family::V6, false),
            ("127.0.0.1:0", Family::V4, false),
            ("0.0.0.0:80", Family::V4, false),
            ("[::]:80", Family::V6, false),
            ("224.0.0.1:80", Family::V4, false),
            ("255.255.255.255:80", Family::V4, false),
            ("[ff02::1]:80", Family::V6, false),
        ];
        for (to, family, ok) in table {
            assert_eq!(is_connectable(to.parse().unwrap(), family), ok, "{to} {family:?}");
        }
        assert!(is_sendable("224.0.0.1:80".parse().unwrap(), Family::V4), "a datagram may try");
    }
}
