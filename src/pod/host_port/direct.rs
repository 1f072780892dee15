//! A client of a published TCP port, in the hands of the server of a module's HTTP (`runtime::serve`): no pump, no pipe.
//!
//! ```text
//!  kernel ⇄ LaneSocket ⇄ hyper, on the connection's own strand
//! ```
//! Owns: what a pump would see to: the port's counters, and whether the client is reset or left in order. Is not: the way here (`tcp`), nor a bill: the
//! module pays, in whose turns all this is done.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite as _;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::tcp::Open;
use crate::net::Wire;
use crate::outside::pump::receive_into;
use crate::runtime::LaneSocket;

/// See the header. Dropping it ends the connection in order, as the end of a server's pipes would.
pub(super) struct Direct {
    open: Open<LaneSocket>,
    /// The port is free when this is gone.
    _alive: TaskTrackerToken,
}

impl Direct {
    pub(super) fn new(mut open: Open<LaneSocket>) -> Self {
        let alive = open.way.tasks.token();
        open.over = true;
        Self { open, _alive: alive }
    }

    /// Counts a connection that has broken.
    fn noted<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &outcome {
            self.open.way.port.traffic.resets.add(1);
        }
        outcome
    }
}

impl Wire for Direct {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        into: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let received = receive_into(&mut self.open.client, cx, max, into);
        let n = ready!(self.noted(received))?;
        self.open.way.port.traffic.bytes_in.add(n);
        Poll::Ready(Ok(n))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.open.client).poll_write_vectored(cx, parts);
        let n = ready!(self.noted(sent))?;
        self.open.way.port.traffic.bytes_out.add(n);
        Poll::Ready(Ok(n))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.open.client).poll_shutdown(cx);
        self.noted(shut)
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("open", &self.open.from).finish_non_exhaustive()
    }
}
