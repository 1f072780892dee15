//! The way back to a datagram socket, as whoever carries its traffic to the outside holds it.
//!
//! Owns: putting an answer into the socket's queue under the address it came from. Keeps no socket
//! alive.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{Datagram, UdpCore};

/// See the header. A clone waits for the socket's end on its own.
pub struct UdpReply {
    core: Weak<UdpCore>,
    /// Its place among those who wait for the end.
    place: Option<usize>,
}

impl UdpReply {
    pub(super) fn new(core: &Arc<UdpCore>) -> Self {
        Self { core: Arc::downgrade(core), place: None }
    }

    /// A datagram from `from` has come. It joins the socket's queue, or is dropped and counted if
    /// that is full. `false` if nobody wants it: the socket is closed, or connected to another
    /// address.
    pub fn deliver(&self, from: SocketAddr, data: Bytes) -> bool {
        self.core.upgrade().is_some_and(|core| core.deliver(Datagram { data, from }, None))
    }

    /// The host at `to` said that nobody listens there: a socket connected to it is told at its next
    /// call.
    pub fn refused(&self, to: SocketAddr) {
        if let Some(core) = self.core.upgrade() {
            core.note_refused(to);
        }
    }

    /// Whether the socket is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.upgrade().is_none_or(|core| core.is_closed())
    }

    /// Ready once the socket is closed.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.core.upgrade() {
            Some(core) => core.poll_closed(&mut self.place, cx),
            None => Poll::Ready(()),
        }
    }
}

impl Clone for UdpReply {
    fn clone(&self) -> Self {
        Self { core: Weak::clone(&self.core), place: None }
    }
}

impl Drop for UdpReply {
    fn drop(&mut self) {
        if let Some(place) = self.place
            && let Some(core) = self.core.upgrade()
        {
            core.forget_closer(place);
        }
    }
}

impl fmt::Debug for UdpReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpReply").field("closed", &self.is_closed()).finish()
    }
}
