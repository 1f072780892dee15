//! A connection's halves as `wasi:io` streams.
//!
//! Owns: the permit protocol of output streams, and the one case in which a permitted write does
//! not fit.
//! Is not: a buffer. What a guest writes goes into the connection as the memory it came in; the
//! exception is `held`. wasmtime-wasi-io traps a guest whose stream says it is ready ten times
//! without progress. So `ready` resolves only when a read has something to say, or a write has
//! room, and the blocking calls wait for the deed itself.
//! Limits: [`CHUNK_MAX`] a call in either direction; `held` is at most one permitted write.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError, StreamResult};

use crate::net::{Held, ReadError, ReadHalf, WriteError, WriteHalf};
use crate::wasi::io::answer;

/// Most bytes that one read or write moves: what a guest can make the host allocate by one call.
/// The largest block that programs commonly use, and half of what a connection holds in one
/// direction.
const CHUNK_MAX: usize = 64 * 1024;

/// Bytes that a stream holds although there is no memory for them: with others under way before them, waiting is right. They are
/// few enough to be covered by what a socket costs, as the account goes.
const UNPAID_MAX: usize = 4 * 1024;

/// The receiving half.
pub(crate) struct TcpInput {
    half: ReadHalf,
    /// Something has come since the connection began.
    heard: bool,
    /// Whoever reads was told that an answer is due; it is told so once for each.
    told: bool,
}

impl TcpInput {
    pub(crate) fn new(half: ReadHalf) -> Self {
        Self { half, heard: false, told: false }
    }

    /// A read of nothing finds the end too, and takes nothing away: an error is left to a read that
    /// asks for bytes.
    fn read_nothing(&self) -> StreamResult<Bytes> {
        if self.half.is_at_end() { Err(StreamError::Closed) } else { Ok(Bytes::new()) }
    }
}

fn read_error(error: ReadError) -> StreamError {
    // As an `io::Error`, so that `network-error-code` finds the code in it.
    StreamError::LastOperationFailed(wasmtime::Error::new(io::Error::from(error)))
}

/// An empty result of the network is the end; an empty one of WASI is "not yet".
fn read_outcome(outcome: Result<Bytes, ReadError>) -> StreamResult<Bytes> {
    match outcome {
        Ok(bytes) if bytes.is_empty() => Err(StreamError::Closed),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(read_error(error)),
    }
}

#[async_trait]
impl InputStream for TcpInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return self.read_nothing();
        }
        match self.half.try_read(size.min(CHUNK_MAX)) {
            Poll::Ready(outcome) => {
                (self.heard, self.told) = (true, false);
                read_outcome(outcome)
            }
            Poll::Pending => {
                // A question has not been read, or the other side has yet to take the connection: no use to look again before its turn.
                if !self.told && (!self.heard || self.half.is_unheard()) {
                    self.told = true;
                    answer::due();
                }
                Ok(Bytes::new())
            }
        }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            self.ready().await;
            return self.read_nothing();
        }
        let outcome = poll_fn(|cx| self.half.poll_read(cx, size.min(CHUNK_MAX))).await;
        read_outcome(outcome)
    }
}

#[async_trait]
impl Pollable for TcpInput {
    async fn ready(&mut self) {
        poll_fn(|cx| self.half.poll_ready(cx)).await;
    }
}

/// The sending half.
pub(crate) struct TcpOutput {
    half: WriteHalf,
    /// What the last `check-write` allowed the next `write` to bring.
    permit: usize,
    /// Permitted bytes that found no room after all: the buffer was made smaller, or the module's
    /// memory used up, between the two calls. They go before anything else does.
    held: Bytes,
    /// Pays for them.
    paid: Option<Held>,
    /// What sending the held bytes failed with: the next call tells.
    untold: Option<WriteError>,
    /// An operation has failed: WASI has all later ones find the stream closed.
    failed: bool,
}

fn write_error(error: WriteError) -> StreamError {
    match error {
        WriteError::Closed | WriteError::Broken => StreamError::Closed,
        WriteError::Reset | WriteError::NoMemory => {
            StreamError::LastOperationFailed(wasmtime::Error::new(io::Error::from(error)))
        }
    }
}

impl TcpOutput {
    pub(crate) fn new(half: WriteHalf) -> Self {
        Self { half, permit: 0, held: Bytes::new(), paid: None, untold: None, failed: false }
    }

    /// Whether anything may still be tried.
    fn check_open(&mut self) -> StreamResult<()> {
        if self.failed {
            return Err(StreamError::Closed);
        }
        match self.untold.take() {
            Some(error) => Err(self.fail(error)),
            None => Ok(()),
        }
    }

    fn fail(&mut self, error: WriteError) -> StreamError {
        self.failed = true;
        self.lose_held(error);
        write_error(error)
    }

    /// What is held will not go.
    fn lose_held(&mut self, error: WriteError) {
        self.held = Bytes::new();
        self.paid = None;
        if error == WriteError::NoMemory {
            // Bytes the guest counts as sent are lost: the reader must not take what is left for
            // the whole.
            self.half.abort();
        }
    }

    /// Sends what is held. Pending while some of it is.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while !self.held.is_empty() {
            ready!(self.half.poll_write(cx, &mut self.held))?;
        }
        self.paid = None;
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, WriteError>> {
        ready!(self.poll_held(cx))?;
        self.half.poll_writable(cx)
    }

    /// Ready once the next call has something to say. An error is left for that call to tell.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.failed || self.untold.is_some() {
            return Poll::Ready(());
        }
        if let Err(error) = ready!(self.poll_held(cx)) {
            self.lose_held(error);
            self.untold = Some(error);
            return Poll::Ready(());
        }
        self.half.poll_ready(cx)
    }

    /// Sends what fits of the held bytes.
    fn send_held(&mut self) -> StreamResult<()> {
        while !self.held.is_empty() {
            match self.half.try_write(&mut self.held) {
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return self.pay_for_held(),
                Poll::Ready(Err(error)) => return Err(self.fail(error)),
            }
        }
        self.paid = None;
        Ok(())
    }

    /// What is held is on the module's account, like everything that it makes the host keep.
    fn pay_for_held(&mut self) -> StreamResult<()> {
        if self.paid.is_none() {
            self.paid = self.half.hold(self.held.len());
        }
        if self.paid.is_none() && self.held.len() > UNPAID_MAX {
            return Err(self.fail(WriteError::NoMemory));
        }
        Ok(())
    }
}

#[async_trait]
impl OutputStream for TcpOutput {
    fn check_write(&mut self) -> StreamResult<usize> {
        self.permit = 0;
        self.check_open()?;
        self.send_held()?;
        if !self.held.is_empty() {
            return Ok(0);
        }
        match self.half.try_writable() {
            Poll::Ready(Ok(room)) => {
                self.permit = room.min(CHUNK_MAX);
                Ok(self.permit)
            }
            Poll::Ready(Err(error)) => Err(self.fail(error)),
            Poll::Pending => Ok(0),
        }
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > std::mem::take(&mut self.permit) {
            return Err(StreamError::trap("write of more bytes than check-write permitted"));
        }
        self.check_open()?;
        if bytes.is_empty() {
            // Needs no permit, and so may come while others are held.
            return Ok(());
        }
        self.held = bytes;
        self.send_held()
    }

    /// Nothing to do: written bytes are with the reader at once.
    fn flush(&mut self) -> StreamResult<()> {
        self.check_open()
    }

    async fn write_ready(&mut self) -> StreamResult<usize> {
        self.check_open()?;
        let room = poll_fn(|cx| self.poll_room(cx)).await.map_err(|error| self.fail(error))?;
        self.permit = room.min(CHUNK_MAX);
        Ok(self.permit)
    }

    async fn blocking_write_and_flush(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        self.permit = 0;
        self.check_open()?;
        poll_fn(|cx| {
            ready!(self.poll_held(cx))?;
            while !bytes.is_empty() {
                ready!(self.half.poll_write(cx, &mut bytes))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
        .map_err(|error| self.fail(error))
    }

    /// Called before the stream is dropped, which closes the sending side: what the guest counts as
    /// sent goes first.
    async fn cancel(&mut self) {
        if let Err(error) = poll_fn(|cx| self.poll_held(cx)).await {
            self.lose_held(error);
        }
    }
}

#[async_trait]
impl Pollable for TcpOutput {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll_ready(cx)).await;
    }
}
