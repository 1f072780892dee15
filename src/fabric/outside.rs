//! What the fabric needs of the outside: one trait, of which each pod has its own.
//!
//! Owns: the shape. Implemented with the host's sockets (`outside`), and by a fake in tests. What arrives here was allowed; that no
//! address of the host itself is reached by it is the implementation's own promise.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::net::{OutboundCall, ResolveError, SendError, UdpReply};

/// The address under which a pod finds the ports of the host's loopback that it was granted (annotation
/// `podling.dev/host-loopback`). It is granted, or refused, by the outside.
pub const HOST_IP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);

/// The name of [`HOST_IP`].
pub const HOST_NAME: &str = "host.podling.internal";

/// One pod's way out. Called by guests' threads: nothing here waits.
pub trait Outside: Send + Sync + fmt::Debug {
    /// Opens a TCP connection; the outcome is told by `call`.
    fn connect(&self, to: SocketAddr, call: OutboundCall);

    /// Sends a datagram; answers come back by `reply`.
    ///
    /// # Errors
    /// What the sender is told at once; a loss is none.
    fn send(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        data: Bytes,
        reply: &UdpReply,
    ) -> Result<(), SendError>;

    /// Asks for the addresses of a name.
    fn lookup(&self, name: &str) -> Finding;
}

/// A look-up under way; dropping it takes the question back.
pub type Finding = Pin<Box<dyn Future<Output = Result<Answers, ResolveError>> + Send>>;

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Best first; never empty.
    pub addresses: Vec<IpAddr>,
    /// How long they hold.
    pub ttl: Duration,
}

/// There is no way out: for a node that has none, and for tests of what stays inside.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOutside;

impl Outside for NoOutside {
    fn connect(&self, _to: SocketAddr, call: OutboundCall) {
        // Dropped: the caller sees that there is no way.
        drop(call);
    }

    fn send(
        &self,
        _from: SocketAddr,
        to: SocketAddr,
        _data: Bytes,
        _reply: &UdpReply,
    ) -> Result<(), SendError> {
        Err(SendError::Unreachable(to))
    }

    fn lookup(&self, _name: &str) -> Finding {
        Box::pin(std::future::ready(Err(ResolveError::NotFound)))
    }
}
