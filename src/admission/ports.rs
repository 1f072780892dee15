//! Ports of the host: no two pods publish the same one.
//!
//! Owns: Kubernetes' rule for what "the same" is (scheduler's `HostPortInfo`), and its words. Not: other programs of the host, which
//! only the kernel knows of.

use std::net::{IpAddr, Ipv4Addr};

use super::Rejection;
use crate::spec::{Pod, Protocol};

/// What the scheduler and the kubelet say.
const REASON: &str = "NodePorts";
const MESSAGE: &str =
    "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";

/// Whether the ports that `pod` publishes are free beside those of `others`, the pods that are here and stay.
///
/// # Errors
/// With Kubernetes' words, if one is not.
pub fn admit_ports<'a>(
    pod: &Pod,
    others: impl IntoIterator<Item = &'a Pod>,
) -> Result<(), Rejection> {
    let wanted: Vec<HostPort> = published(pod).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let taken = |other: &Pod| published(other).any(|held| wanted.iter().any(|w| w.clashes(held)));
    match others.into_iter().any(taken) {
        true => Err(Rejection { reason: REASON, message: MESSAGE.to_owned() }),
        false => Ok(()),
    }
}

#[derive(Clone, Copy, Debug)]
struct HostPort {
    protocol: Protocol,
    ip: IpAddr,
    port: u16,
}

impl HostPort {
    /// The wildcard is every address of its family; Linux gives `::` those of IPv4 as well.
    fn clashes(self, other: Self) -> bool {
        let covers =
            |wild: IpAddr, ip: IpAddr| wild.is_unspecified() && (wild.is_ipv6() || ip.is_ipv4());
        let same = self.ip == other.ip || covers(self.ip, other.ip) || covers(other.ip, self.ip);
        self.protocol == other.protocol && self.port == other.port && same
    }
}

fn published(pod: &Pod) -> impl Iterator<Item = HostPort> {
    pod.all_containers().flat_map(|container| &container.ports).filter_map(|port| {
        let ip = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Some(HostPort { protocol: port.protocol, ip, port: port.host_port? })
    })
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::spec::Port;
    use crate::testkit::pods;

    fn publishing(ip: Option<&str>, protocol: Protocol, host_port: Option<u16>) -> Pod {
        let mut container = pods::regular("c");
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        container.ports =
            vec![Port { name: None, container_port: 80, protocol, host_port, host_ip }];
        pods::pod([container])
    }

    #[test]
    fn two_pods_clash_where_kubernetes_says_so() {
        use Protocol::{Tcp, Udp};
        let held = publishing(Some("192.168.1.5"), Tcp, Some(80));
        let table = [
            (Some("192.168.1.5"), Tcp, Some(80), true),
            (None, Tcp, Some(80), true),
            (Some("0.0.0.0"), Tcp, Some(80), true),
            (Some("::"), Tcp, Some(80), true),
            (Some("192.168.1.6"), Tcp, Some(80), false),
            (Some("::1"), Tcp, Some(80), false),
            (None, Udp, Some(80), false),
            (None, Tcp, Some(81), false),
            (None, Tcp, None, false),
        ];
        for (ip, protocol, port, clash) in table {
            let pod = publishing(ip, protocol, port);
            let row = format!("{ip:?} {protocol:?} {port:?}");
            assert_eq!(admit_ports(&pod, [&held]).is_err(), clash, "{row}");
            assert_eq!(admit_ports(&held, [&pod]).is_err(), clash, "{row}, the other way round");
        }
        let v6 = publishing(Some("::1"), Tcp, Some(80));
        assert!(admit_ports(&publishing(None, Tcp, Some(80)), [&v6]).is_ok(), "0.0.0.0 is IPv4");
    }
}
