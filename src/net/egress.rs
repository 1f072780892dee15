//! Where traffic goes that is not for this pod.
//!
//! Owns: the question ([`Ask`]) and the possible answers ([`Route`]). Who decides is given to the
//! network when it is made; without anyone, all of it is denied.
//! Is not: a connection. A route to another pod is taken by the same code as one inside; nothing
//! here opens anything.

use std::fmt;
use std::net::SocketAddr;

use super::PodNet;
use super::addr::Protocol;

/// A member wants to reach an address outside of its pod.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Name of the member that asks.
    pub member: &'a str,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address it named.
    pub to: SocketAddr,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug)]
pub enum Route {
    /// The address belongs to this pod, and policy lets the member in.
    Pod(PodNet),
    /// Nothing allows it.
    Denied,
    /// It is allowed, and there is no way there.
    Unreachable,
}

/// Decides where outside traffic goes. Called at each connect and each datagram, so it must be
/// quick.
pub trait Egress: Send + Sync + fmt::Debug {
    /// The way to `ask.to`.
    fn route(&self, ask: &Ask<'_>) -> Route;
}

/// Denies everything: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct DenyAll;

impl Egress for DenyAll {
    fn route(&self, _ask: &Ask<'_>) -> Route {
        Route::Denied
    }
}
