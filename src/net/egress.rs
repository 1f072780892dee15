//! Where traffic goes that is not for this pod.
//!
//! Owns: the question ([`Ask`]), the possible answers ([`Route`], [`Lookup`]), and the two handles
//! by which the outside takes part in a pod's network: [`OutboundCall`] (a connection that is asked
//! for) and [`UdpReply`] (the way back of a datagram). Who decides is given to the network when it
//! is made; without anyone, all of it is denied.
//! Is not: a connection to the outside. A route to another pod is taken by the same code as one
//! inside; for the rest, whoever implements [`Egress`] holds the kernel's sockets.
//!
//! ```text
//! connect(to) ─► route? ── Pod{net, to'} ─► that pod's listener at to'      (the caller sees `to`)
//!                      ├── Outside ───────► Egress::connect(call) ─► call.connected() ─► Stream
//!                      ├── Denied ────────► access denied
//!                      ├── Refused ───────► connection refused
//!                      └── Unreachable ───► no way there
//! ```
//! Limits: what is under way to the outside holds a socket of the member that asked, so
//! [`super::MemberLimits`] bounds it; look-ups under way are bounded by [`MAX_LOOKUPS`] a member.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use bytes::Bytes;

use super::PodNet;
use super::addr::Protocol;
use super::names::ResolveError;
use super::udp::SendError;

pub use super::tcp::outbound::OutboundCall;
pub use super::udp::UdpReply;

/// Most look-ups that one member may have waiting for a resolver; one more fails as a temporary
/// failure, which programs repeat. Enough for a program that looks up a name in each of its
/// connections at start.
pub const MAX_LOOKUPS: usize = 64;

/// A member wants to reach an address outside of its pod.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Name of the member that asks.
    pub member: &'a str,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address it comes from. In [`Egress::route`] the port is 0 if none was taken yet, so that
    /// a connect that is refused costs none.
    pub from: SocketAddr,
    /// The address it named.
    pub to: SocketAddr,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug)]
pub enum Route {
    /// A pod has it (another one, or the one that asks), and policy lets the member in. `to` is
    /// where the pod is asked: it differs from what the member named where a Service stands
    /// between. It must be the pod's own address.
    Pod {
        /// The pod's network.
        net: PodNet,
        /// Its address and port.
        to: SocketAddr,
    },
    /// It is allowed, and not in this process: [`Egress::connect`] or [`Egress::send`] is called
    /// with the same question.
    Outside,
    /// Nothing allows it.
    Denied,
    /// It is allowed, and nobody stands behind it: a Service without a ready pod, or another port
    /// than a Service has. Connections are refused; datagrams go where nobody listens.
    Refused,
    /// It is allowed, and there is no way there.
    Unreachable,
}

/// The addresses of a name: known already, or on their way.
pub enum Lookup {
    /// Known, or known not to be. An answer is never empty.
    Now(Result<Vec<IpAddr>, ResolveError>),
    /// A resolver is asked. The future may be dropped, and then nobody wants to know any more.
    Later(Answer),
}

/// What [`Lookup::Later`] waits for.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, ResolveError>> + Send>>;

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lookup::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Lookup::Later(_) => f.write_str("Later"),
        }
    }
}

/// Decides where outside traffic goes, and carries what leaves the process. Called by guests'
/// threads at each connect and each datagram, with nothing locked: it must be quick, and must not
/// wait.
pub trait Egress: Send + Sync + fmt::Debug {
    /// The way to `ask.to`.
    fn route(&self, ask: &Ask<'_>) -> Route;

    /// Opens a TCP connection to the outside, after [`Route::Outside`]. Returns at once; the
    /// outcome is told by `call`, at any time, from any thread.
    fn connect(&self, ask: &Ask<'_>, call: OutboundCall) {
        let _ = ask;
        drop(call);
    }

    /// Sends a datagram to the outside, after [`Route::Outside`]. Never waits: what there is no
    /// room for is lost. Answers come back by `reply`, of which a clone may be kept.
    ///
    /// # Errors
    /// What the sender is told at once; a loss is none.
    fn send(&self, ask: &Ask<'_>, data: Bytes, reply: &UdpReply) -> Result<(), SendError> {
        let _ = (data, reply);
        Err(SendError::Unreachable(ask.to))
    }

    /// The addresses of a name that is not the pod's own. `name` is a well-formed host name, spelled
    /// as the member did: with a last dot if it is complete, and to be tried as nothing else.
    fn lookup(&self, member: &str, name: &str) -> Lookup {
        let _ = (member, name);
        Lookup::Now(Err(ResolveError::NotFound))
    }
}

/// Denies everything: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct DenyAll;

impl Egress for DenyAll {
    fn route(&self, _ask: &Ask<'_>) -> Route {
        Route::Denied
    }
}
