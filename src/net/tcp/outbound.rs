//! A connection to the outside that does not exist yet, as whoever makes it holds it.
//!
//! Owns: the far end of a handshake that no listener answers. The near end is the guest's, which
//! waits as it would for a full listener (`handshake`).
//! Is not: a kernel's socket. Whoever has made one calls [`OutboundCall::connected`] and carries
//! bytes between it and the [`Stream`] it gets, within that stream's bounds.
//! Money: what comes in is paid for by the member that asked, like everything it makes us hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::conn::{self, Payer, Seen, SideSeed};
use super::halves::Stream;
use super::handshake::{ConnectError, Handshake};
use super::options::TcpOptions;

/// A connection that a guest wants to the outside. Dropped without an outcome, the guest's connect
/// fails as unreachable.
#[derive(Debug)]
pub struct OutboundCall(Arc<Handshake>);

impl OutboundCall {
    pub(super) fn new(handshake: Arc<Handshake>) -> Self {
        Self(handshake)
    }

    /// The guest's address: its pod's, with the port the connection holds there.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        self.0.from()
    }

    /// The address the guest named.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.0.to()
    }

    /// The connection stands; `local` is the host's own address of it, shown in the socket table.
    /// Returns the far end: what is written there the guest reads. `None` if the guest has given up
    /// meanwhile.
    #[must_use]
    pub fn connected(self, local: SocketAddr) -> Option<Stream> {
        let mut far = None;
        let waker = self.0.complete(|seed| {
            let server = SideSeed {
                member: Arc::clone(&seed.side.member),
                address: self.0.to(),
                sizes: TcpOptions::default().sizes,
            };
            let seen = Seen::Outside { via: local };
            let (near, ours) = conn::pair(seed, server, seen, Payer::Client);
            far = Some(ours);
            near
        });
        if let Some(Some(waker)) = waker {
            waker.wake();
        }
        far?.claim_for_host().map(Stream::new)
    }

    /// There will be no connection, and why. The guest's connect fails with it.
    pub fn failed(self, error: ConnectError) {
        self.0.fail(error);
    }

    /// Ready once the guest has given up: its module was reset, its socket dropped, or its patience
    /// ran out. One waiter: the last waker given is the one woken.
    pub fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_abandoned(cx)
    }
}

impl Drop for OutboundCall {
    fn drop(&mut self) {
        self.0.fail(ConnectError::Unreachable(self.0.to()));
    }
}
