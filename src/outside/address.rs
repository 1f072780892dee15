//! Which addresses are somebody outside, and which are this host or nobody in particular.
//!
//! Owns: the classes of addresses that a pod never reaches by asking for "the outside", and every
//! spelling in which IPv6 carries an IPv4 address. Pure. Is not: the host's own addresses, which
//! only the kernel knows (`dialer`), nor the policy of a pod (`fabric`).
//! Rules: RFC 6890 (special-purpose addresses), RFC 4291 2.5.5 (mapped and compatible), RFC 2765
//! (translated), RFC 3056 (6to4), RFC 6052 and 8215 (NAT64), RFC 4380 (Teredo), RFC 5214 (ISATAP).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Protocol;

/// How the host is named from inside a pod that was granted some of its loopback ports.
pub const HOST_NAME: &str = "host.podling.internal";

/// The address of [`HOST_NAME`]. Link-local, so that no network can have it; never on a wire.
pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Why an address is not one to be reached outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// `0.0.0.0/8` or `::`, which Linux takes for the host itself.
    Unspecified,
    /// `127.0.0.0/8` or `::1`.
    Loopback,
    /// `169.254.0.0/16` or `fe80::/10`: the host's neighbours on one wire, and the place where
    /// clouds keep their credentials.
    LinkLocal,
    /// A group, asked for a TCP connection.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// One of the host's own addresses.
    Own,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "it names the host itself",
            Self::Loopback => "it is the host's loopback",
            Self::LinkLocal => "it is link-local",
            Self::Multicast => "it is a multicast group",
            Self::Broadcast => "it is the broadcast address",
            Self::Own => "it is an address of this host",
        })
    }
}

/// Why traffic to `ip` stays inside, if it does. The host's own addresses are not known here.
#[must_use]
pub fn closed(ip: IpAddr, protocol: Protocol) -> Option<Closed> {
    spellings(ip).find_map(|ip| class(ip, protocol))
}

/// Whether datagrams to `ip` go to whoever listens there.
#[must_use]
pub fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast()
}

/// `ip` itself, and the IPv4 address that it is another spelling of.
pub fn spellings(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match ip {
        IpAddr::V4(_) => [None; 2],
        IpAddr::V6(ip) => embedded(ip),
    };
    std::iter::once(ip).chain(inner.into_iter().flatten().map(IpAddr::V4))
}

fn class(ip: IpAddr, protocol: Protocol) -> Option<Closed> {
    let multicast = protocol == Protocol::Tcp && ip.is_multicast();
    match ip {
        _ if multicast => Some(Closed::Multicast),
        _ if ip.is_loopback() => Some(Closed::Loopback),
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some(Closed::Unspecified),
        IpAddr::V4(ip) if ip.is_link_local() => Some(Closed::LinkLocal),
        IpAddr::V4(ip) if ip.is_broadcast() => Some(Closed::Broadcast),
        IpAddr::V6(ip) if ip.is_unspecified() => Some(Closed::Unspecified),
        IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80 => Some(Closed::LinkLocal),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The IPv4 addresses that a gateway or tunnel would take `ip` for: at most two (Teredo has its
/// server's and its client's).
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let s = ip.segments();
    let at = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // Neither `::` nor `::1` is an IPv4 address in disguise.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 2],
        // Compatible, mapped, translated.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            [at(high, low), None]
        }
        // 6to4.
        [0x2002, high, low, ..] => [at(high, low), None],
        // NAT64: the well-known prefix, and the one for local use in both of its usual lengths.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [at(high, low), None],
        [0x64, 0xff9b, 1, high, middle, low, ..] => {
            // A /48 has the address in bits 48 to 87, with eight zero bits at 64 in between.
            // All zeros there is the other length, with the address at the end.
            let (second, third) = ((middle & 0xff) << 8 | low >> 8, high);
            let split = at(third, second).filter(|ip| !ip.is_unspecified());
            [split, at(s[6], s[7]).filter(|_| split.is_none())]
        }
        // Teredo: the server's, and the client's with every bit turned.
        [0x2001, 0, high, low, _, _, c, d] => [at(high, low), at(!c, !d)],
        // ISATAP, under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [at(high, low), None],
        _ => [None; 2],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_host_is_closed_in_every_spelling() {
        let table = [
            ("0.0.0.0", Closed::Unspecified),
            ("0.1.2.3", Closed::Unspecified),
            ("127.0.0.1", Closed::Loopback),
            ("127.255.255.254", Closed::Loopback),
            ("169.254.169.254", Closed::LinkLocal),
            ("255.255.255.255", Closed::Broadcast),
            ("::", Closed::Unspecified),
            ("::1", Closed::Loopback),
            ("fe80::1", Closed::LinkLocal),
            ("febf::1", Closed::LinkLocal),
            ("::127.0.0.1", Closed::Loopback),
            ("::ffff:127.0.0.1", Closed::Loopback),
            ("::ffff:0:127.0.0.1", Closed::Loopback),
            ("::ffff:0.0.0.0", Closed::Unspecified),
            ("::ffff:169.254.169.254", Closed::LinkLocal),
            ("2002:7f00:1::", Closed::Loopback),
            ("2002:a9fe:a9fe::1", Closed::LinkLocal),
            ("64:ff9b::127.0.0.1", Closed::Loopback),
            ("64:ff9b::169.254.169.254", Closed::LinkLocal),
            ("64:ff9b:1::127.0.0.1", Closed::Loopback),
            ("64:ff9b:1:7f00:0:100::", Closed::Loopback),
            ("2001:0:7f00:1::", Closed::Loopback),
            ("2001:0:c000:201::80ff:fffe", Closed::Loopback),
            ("fd00::5efe:127.0.0.1", Closed::Loopback),
            ("2001:db8::200:5efe:127.0.0.1", Closed::Loopback),
        ];
        for (ip, why) in table {
            let ip: IpAddr = ip.parse().unwrap();
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                assert_eq!(closed(ip, protocol), Some(why), "{ip} {protocol}");
            }
        }
    }

    #[test]
    fn other_hosts_are_open() {
        let open = [
            "192.0.2.1",
            "10.0.0.1",
            "192.168.1.254",
            "100.64.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd12:3456::1",
            "2a00:1450::2004",
            "2002:c000:201::1",
            "64:ff9b::192.0.2.1",
            "::ffff:192.0.2.1",
        ];
        for ip in open {
            assert_eq!(closed(ip.parse().unwrap(), Protocol::Tcp), None, "{ip}");
        }
    }

    #[test]
    fn a_group_is_for_datagrams_only() {
        for ip in ["224.0.0.251", "239.255.255.250", "ff02::fb", "::ffff:224.0.0.1"] {
            let ip = ip.parse().unwrap();
            assert_eq!(closed(ip, Protocol::Tcp), Some(Closed::Multicast), "{ip}");
            assert_eq!(closed(ip, Protocol::Udp), None, "{ip}");
        }
        assert_eq!(closed(HOST_IP.into(), Protocol::Tcp), Some(Closed::LinkLocal));
    }
}
