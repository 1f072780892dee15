//! Waiting for somebody to listen on a port: for a daemon that keeps a connection while the module
//! behind it comes back.
//!
//! Owns: the wait. Is not: a connect, which may still be refused: what listened may be gone again.
//! Limits: a place for each that waits; the daemon bounds how many it lets wait.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{PodNet, lease, lock};

/// Resolves once a TCP connection to the address would find a listener.
#[derive(Debug)]
pub struct Listening {
    net: PodNet,
    at: SocketAddr,
    place: Option<usize>,
}

impl PodNet {
    /// Waits until somebody in this pod listens at `at`, one of the pod's own addresses.
    #[must_use]
    pub fn listening(&self, at: SocketAddr) -> Listening {
        Listening { net: self.clone(), at, place: None }
    }
}

impl Future for Listening {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // First in line, then the look: a listener that starts in between wakes us.
        lock(&this.net.0.listeners).wait(&mut this.place, cx.waker());
        match lease::listener_at(&this.net.0, this.at) {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            lock(&self.net.0.listeners).leave(place);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::future::Future as _;
    use std::pin::pin;

    use crate::net::tests::{Bell, at, join, pod};

    #[test]
    fn whoever_waits_is_woken_by_a_listener_and_not_before() {
        let net = pod();
        let server = join(&net, "server");
        let bell = Bell::new();
        let mut waiting = pin!(net.listening(at("10.88.0.5:80")));
        assert!(bell.with(|cx| waiting.as_mut().poll(cx)).is_pending());
        let other = server.listen(at("10.88.0.5:81")).unwrap();
        assert!(bell.with(|cx| waiting.as_mut().poll(cx)).is_pending());
        bell.rang();
        let listener = server.listen(at("0.0.0.0:80")).unwrap();
        assert!(bell.rang() > 0);
        assert!(bell.with(|cx| waiting.as_mut().poll(cx)).is_ready());
        drop((other, listener));
        let mut again = pin!(net.listening(at("10.88.0.5:80")));
        assert!(bell.with(|cx| again.as_mut().poll(cx)).is_pending());
    }
}
