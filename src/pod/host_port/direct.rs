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
use tracing::debug;

use super::tcp::Open;
use crate::net::Wire;
use crate::outside::pump::receive_into;
use crate::runtime::{LaneSocket, turn_began};

/// Calls of the kernel in one turn; after these, whoever reads or writes comes back behind those that wait for the thread. A call moves some tens of
/// kilobytes, so a turn is a tenth of a millisecond or two, as a pump's is.
pub(super) const CALLS_PER_TURN: usize = 16;

/// See the header. Dropping it ends the connection in order, as the end of a server's pipes would, unless it was told to reset it.
pub(super) struct Direct {
    open: Open<LaneSocket>,
    is_broken: bool,
    /// The turn in progress, by its beginning, and the calls in it.
    turn: (u64, usize),
    /// The port is free when this is gone.
    _alive: TaskTrackerToken,
}

impl Direct {
    pub(super) fn new(mut open: Open<LaneSocket>) -> Self {
        let alive = open.way.tasks.token();
        open.over = true;
        Self { open, is_broken: false, turn: (0, 0), _alive: alive }
    }

    /// Ready if there may be another call in this turn; else there is another turn.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let began = turn_began();
        if self.turn.0 != began {
            self.turn = (began, 0);
        }
        if self.turn.1 == CALLS_PER_TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.turn.1 += 1;
        Poll::Ready(())
    }

    fn broke(&mut self) {
        if !std::mem::replace(&mut self.is_broken, true) {
            let Open { way, from, .. } = &self.open;
            way.port.traffic.resets.add(1);
            debug!(%from, to = %way.to, "published connection broke");
        }
    }

    fn noted<T>(&mut self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &outcome {
            self.broke();
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
        ready!(self.poll_turn(cx));
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
        ready!(self.poll_turn(cx));
        let sent = Pin::new(&mut self.open.client).poll_write_vectored(cx, parts);
        let n = ready!(self.noted(sent))?;
        self.open.way.port.traffic.bytes_out.add(n);
        Poll::Ready(Ok(n))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.open.client).poll_shutdown(cx);
        self.noted(shut)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.open.client.poll_gone(cx));
        self.broke();
        Poll::Ready(())
    }

    fn reset(&mut self) {
        self.open.over = false;
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("from", &self.open.from).finish_non_exhaustive()
    }
}
