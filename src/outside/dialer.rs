//! The last step to the kernel: the one thing below this module that a test replaces.
//!
//! Owns: making sockets, and asking the kernel whether an address is the host's own. Is not: a
//! policy; it is asked only about what may be reached.
//! How an own address is recognised: the kernel's routes say from which address the host would speak
//! to it. Towards itself, that is the same address. No list of interfaces can be as complete, or as
//! fresh: addresses come and go, and whole networks can be routed to the host.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;

use tokio::net::TcpStream;

/// A connect under way.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Opens the kernel's sockets.
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// Connects over TCP. Without a time limit; callers put one round it.
    fn tcp(&self, to: SocketAddr) -> Dialing;

    /// A non-blocking socket for one flow of datagrams: connected, so that the kernel lets only
    /// answers of `to` in. Towards a group it is not connected: anybody may answer.
    ///
    /// # Errors
    /// What the kernel says: no route, no descriptor.
    fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket>;

    /// Whether `ip` is an address of this host.
    fn is_own(&self, ip: IpAddr) -> bool;
}

/// The kernel itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Dialer for Kernel {
    fn tcp(&self, to: SocketAddr) -> Dialing {
        Box::pin(TcpStream::connect(to))
    }

    fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified(to.ip()), 0))?;
        socket.set_nonblocking(true)?;
        if to.ip().is_multicast() {
            // What the pod tells a group is not for the host's own programs.
            match to.ip() {
                IpAddr::V4(_) => socket.set_multicast_loop_v4(false)?,
                IpAddr::V6(_) => socket.set_multicast_loop_v6(false)?,
            }
        } else {
            socket.connect(to)?;
        }
        Ok(socket)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        // Connecting a datagram socket sends nothing; the port does not matter to the route.
        let spoken_from = UdpSocket::bind(SocketAddr::new(unspecified(ip), 0)).and_then(|socket| {
            socket.connect(SocketAddr::new(ip, 9))?;
            socket.local_addr()
        });
        spoken_from.is_ok_and(|from| from.ip() == ip)
    }
}

fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_hosts_own_addresses_are_known_without_a_list_of_them() {
        for ip in ["127.0.0.1", "::1"] {
            assert!(Kernel.is_own(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["192.0.2.1", "198.51.100.7", "2001:db8::1", "8.8.8.8"] {
            assert!(!Kernel.is_own(ip.parse().unwrap()), "{ip}");
        }
        // Whatever address this machine speaks to others from, if it does, is its own.
        let outwards = UdpSocket::bind("0.0.0.0:0").unwrap();
        if outwards.connect("192.0.2.1:9").is_ok() {
            let own = outwards.local_addr().unwrap().ip();
            assert!(Kernel.is_own(own), "{own}");
        }
    }
}
