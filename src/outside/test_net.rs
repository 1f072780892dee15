//! TEST-NET addresses that lead to listeners on this machine: how egress is tested without a network.
//!
//! Owns: the map. Only addresses that RFC 5737 and RFC 3849 keep for documentation can be mapped, so
//! that whatever a configuration says, no real host is ever impersonated; all others go to the
//! kernel. An address of these networks that is not mapped refuses connections, and loses datagrams.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::dialer::{Dialer, Dialing, Kernel};

/// What stands where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestNet {
    map: BTreeMap<SocketAddr, SocketAddr>,
}

/// Why a map was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TestNetError {
    /// It may not be mapped.
    #[error("{0} is not in 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24 or 2001:db8::/32")]
    NotForTests(SocketAddr),
    /// It is not mapped to this machine.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
}

impl TestNet {
    /// Leads each key to its value.
    ///
    /// # Errors
    /// If a key is not of a network for documentation, or a value not on loopback.
    pub fn new(map: BTreeMap<SocketAddr, SocketAddr>) -> Result<Self, TestNetError> {
        for (from, to) in &map {
            if !is_documentation(from.ip()) {
                return Err(TestNetError::NotForTests(*from));
            }
            if !to.ip().is_loopback() {
                return Err(TestNetError::NotLoopback(*to));
            }
        }
        Ok(Self { map })
    }

    fn target(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        match self.map.get(&to) {
            Some(target) => Ok(*target),
            None if is_documentation(to.ip()) => Err(io::ErrorKind::ConnectionRefused.into()),
            None => Ok(to),
        }
    }
}

impl Dialer for TestNet {
    fn tcp(&self, to: SocketAddr) -> Dialing {
        match self.target(to) {
            Ok(target) => Kernel.tcp(target),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        Kernel.udp(self.target(to)?)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        Kernel.is_own(ip)
    }
}

/// 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24 (RFC 5737), 2001:db8::/32 (RFC 3849).
fn is_documentation(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            matches!(ip.octets(), [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _])
        }
        IpAddr::V6(ip) => matches!(ip.segments(), [0x2001, 0xdb8, ..]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn map(from: &str, to: &str) -> Result<TestNet, TestNetError> {
        TestNet::new([(from.parse().unwrap(), to.parse().unwrap())].into())
    }

    #[test]
    fn only_documentation_leads_to_loopback() {
        for from in ["192.0.2.9:80", "198.51.100.1:1", "203.0.113.5:5", "[2001:db8::1]:80"] {
            assert!(map(from, "127.0.0.1:8080").is_ok(), "{from}");
        }
        for from in ["192.0.3.9:80", "10.0.0.1:80", "127.0.0.1:80", "[2001:db9::1]:80"] {
            let error = map(from, "127.0.0.1:8080").unwrap_err();
            assert_eq!(error, TestNetError::NotForTests(from.parse().unwrap()));
        }
        let elsewhere = map("192.0.2.9:80", "192.168.1.1:80").unwrap_err();
        assert_eq!(elsewhere, TestNetError::NotLoopback("192.168.1.1:80".parse().unwrap()));
    }

    #[tokio::test]
    async fn what_is_not_mapped_refuses() {
        let net = map("192.0.2.9:80", "127.0.0.1:8080").unwrap();
        let refused = net.tcp("192.0.2.9:81".parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(net.udp("192.0.2.8:80".parse().unwrap()).is_err());
    }
}
