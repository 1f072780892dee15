//! Carries bytes between a kernel's socket and a connection of a pod.
//!
//! ```text
//!            room? ◄───────────────── pipe ◄── guest reads
//!  kernel ──recv──► scratch ──copy, or the buffer itself──► pipe        (inwards)
//!  kernel ◄──writev── chunks, uncopied ◄────────────────── pipe        (outwards)
//! ```
//! Owns: both directions of one connection, half-close and reset in both, and when it is over.
//! Is not: a buffer. Nothing is read from the kernel for which the guest's pipe has no room, so its
//! bound holds; outwards, what the kernel takes no more of is the rest of one batch
//! ([`CHUNK_BYTES`]). Copies in the daemon: inwards one of what a receive brought, none where it
//! nearly fills the buffer; outwards none. Nor a bill: whoever awaits it has the pod pay.
//! Every wait is a waker, and each poll ends after some bytes ([`CALLS_PER_TURN`]), so that a thread
//! shared with others is theirs again soon. Who may call: `outside`, published ports, port-forward.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stats::Traffic;
use crate::net::{ReadError, Stream, WriteError};

/// Most bytes moved by one system call: what a pipe of the pod holds and a kernel's socket gives at
/// once on a fast link. A larger one saves no measurable time.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// A receive that brings at least this much hands over its buffer; less is copied out of it, so that
/// what the guest pays for by the byte never holds much more of the host's memory.
const HAND_OVER_BYTES: usize = CHUNK_BYTES / 4 * 3;

/// What a module near its memory limit is offered at a time: a step of its account.
const SMALL_BYTES: usize = 4096;

/// Chunks of the pipe that go out with one system call: what a module writes bit by bit (a frame's head, its content, its end) is not
/// to be as many packets.
const PARTS_MAX: usize = 16;

/// Sends of one poll at most, and receives; after these the task goes behind those that wait for the
/// thread. A fast download would keep it for as long as the module has more to say. So a turn is half a
/// megabyte at most, a tenth of a millisecond or two.
pub const CALLS_PER_TURN: usize = 4;

thread_local! {
    /// Where receives land before it is known how much they bring. One for each thread that carries,
    /// of the control plane or of the guests, and there are as many of these as cores and some in
    /// reserve: an idle connection has no buffer.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides said that they were done.
    Orderly,
    /// The kernel's side broke: the pod's saw a reset.
    Outside(io::Error),
    /// The pod's side broke. Whoever holds the kernel's socket resets it.
    Pod,
}

/// One connection under way. A future; dropping it closes the pod's side in order and leaves the
/// kernel's to its owner.
#[derive(Debug)]
pub struct Pump<'a, K> {
    kernel: &'a mut K,
    pod: Option<Stream>,
    traffic: &'a Traffic,
    inwards: Inwards,
    outwards: Outwards,
}

#[derive(Debug)]
enum Inwards {
    Open,
    /// Received and not yet in the pipe: its room may shrink when the module's memory runs out.
    Rest(Bytes),
    Over,
}

#[derive(Debug)]
enum Outwards {
    Open,
    /// Taken from the pipe, and not yet by the kernel.
    Rest(VecDeque<Bytes>),
    /// The pod is done; the kernel is being told.
    Closing,
    Over,
}

/// Why a direction cannot go on.
#[derive(Debug)]
enum Broken {
    Kernel(io::Error),
    Pod,
}

impl<'a, K: AsyncRead + AsyncWrite + Unpin> Pump<'a, K> {
    /// Connects the two. Counts bytes in `traffic`.
    #[must_use]
    pub fn new(kernel: &'a mut K, pod: Stream, traffic: &'a Traffic) -> Self {
        Self { kernel, pod: Some(pod), traffic, inwards: Inwards::Open, outwards: Outwards::Open }
    }

    /// From the kernel to the pod, until it has to wait.
    fn poll_inwards(&mut self, pod: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut calls = 0;
        loop {
            match &mut self.inwards {
                Inwards::Open => {
                    let room = match ready!(pod.write.poll_writable(cx)) {
                        Ok(room) => room,
                        Err(error) => {
                            self.inwards = nobody_reads(error)?;
                            continue;
                        }
                    };
                    if calls == CALLS_PER_TURN {
                        return step_back(cx);
                    }
                    calls += 1;
                    let data =
                        ready!(receive(&mut *self.kernel, cx, room)).map_err(Broken::Kernel)?;
                    self.traffic.bytes_in.add(data.len());
                    self.inwards = if data.is_empty() {
                        pod.shutdown_write();
                        Inwards::Over
                    } else {
                        Inwards::Rest(data)
                    };
                }
                Inwards::Rest(rest) => match ready!(put(pod, cx, rest)) {
                    Ok(_) if rest.is_empty() => self.inwards = Inwards::Open,
                    Ok(_) => {}
                    Err(error) => self.inwards = nobody_reads(error)?,
                },
                Inwards::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    /// From the pod to the kernel, until it has to wait.
    fn poll_outwards(
        &mut self,
        pod: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut calls = 0;
        loop {
            match &mut self.outwards {
                Outwards::Open => {
                    let mut chunks = VecDeque::new();
                    let read = pod.read.poll_read_many(cx, CHUNK_BYTES, PARTS_MAX, &mut chunks);
                    self.outwards = match ready!(read) {
                        Ok(0) => Outwards::Closing,
                        Ok(_) => Outwards::Rest(chunks),
                        Err(ReadError::Reset) => return Poll::Ready(Err(Broken::Pod)),
                    };
                }
                Outwards::Rest(_) if calls == CALLS_PER_TURN => return step_back(cx),
                Outwards::Rest(chunks) => {
                    calls += 1;
                    let n = ready!(send(&mut *self.kernel, cx, chunks)).map_err(Broken::Kernel)?;
                    self.traffic.bytes_out.add(n);
                    if chunks.is_empty() {
                        self.outwards = Outwards::Open;
                    }
                }
                Outwards::Closing => {
                    ready!(Pin::new(&mut *self.kernel).poll_shutdown(cx))
                        .map_err(Broken::Kernel)?;
                    self.outwards = Outwards::Over;
                }
                Outwards::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    fn advance(&mut self, pod: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let inwards = self.poll_inwards(pod, cx)?;
        let outwards = self.poll_outwards(pod, cx)?;
        match (inwards, outwards) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            // The pod has said its last, and nobody there listens: whatever comes is for nobody.
            (Poll::Pending, Poll::Ready(())) => pod.write.poll_gone(cx).map(Ok),
            (Poll::Ready(()) | Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }
}

impl<K: AsyncRead + AsyncWrite + Unpin> Future for Pump<'_, K> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        let Some(mut pod) = this.pod.take() else { return Poll::Ready(Ended::Orderly) };
        match this.advance(&mut pod, cx) {
            Poll::Pending => {
                this.pod = Some(pod);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ended::Orderly),
            Poll::Ready(Err(Broken::Kernel(error))) => {
                this.traffic.resets.add(1);
                pod.abort();
                Poll::Ready(Ended::Outside(error))
            }
            Poll::Ready(Err(Broken::Pod)) => {
                this.traffic.resets.add(1);
                pod.abort();
                Poll::Ready(Ended::Pod)
            }
        }
    }
}

/// The turn is over, and the task wants another one.
fn step_back<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// One send of as much of `chunks` as the kernel takes; what it took is taken off them.
fn send<K: AsyncWrite + Unpin>(
    kernel: &mut K,
    cx: &mut Context<'_>,
    chunks: &mut VecDeque<Bytes>,
) -> Poll<io::Result<usize>> {
    let sent = {
        let mut parts = [IoSlice::new(&[]); PARTS_MAX];
        for (part, chunk) in parts.iter_mut().zip(&*chunks) {
            *part = IoSlice::new(chunk);
        }
        let parts = &parts[..chunks.len().min(PARTS_MAX)];
        ready!(Pin::new(kernel).poll_write_vectored(cx, parts))?
    };
    if sent == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    let mut left = sent;
    while let Some(first) = chunks.front_mut() {
        if left < first.len() {
            first.advance(left);
            break;
        }
        left -= first.len();
        chunks.pop_front();
    }
    Poll::Ready(Ok(sent))
}

/// One receive of at most `room` bytes. Nothing is the end.
fn receive<K: AsyncRead + Unpin>(
    kernel: &mut K,
    cx: &mut Context<'_>,
    room: usize,
) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_empty() {
            *scratch = BytesMut::zeroed(CHUNK_BYTES);
        }
        let mut into = ReadBuf::new(&mut scratch[..room.min(CHUNK_BYTES)]);
        ready!(Pin::new(kernel).poll_read(cx, &mut into))?;
        let n = into.filled().len();
        let data = if n >= HAND_OVER_BYTES {
            std::mem::take(scratch).split_to(n).freeze()
        } else {
            Bytes::copy_from_slice(&scratch[..n])
        };
        Poll::Ready(Ok(data))
    })
}

/// Puts what it takes of `data` into the pipe. A module that cannot pay for all of it at once may
/// pay bit by bit.
fn put(
    pod: &mut Stream,
    cx: &mut Context<'_>,
    data: &mut Bytes,
) -> Poll<Result<usize, WriteError>> {
    let written = pod.write.poll_write(cx, data);
    if written != Poll::Ready(Err(WriteError::NoMemory)) || data.len() <= SMALL_BYTES {
        return written;
    }
    let mut bit = data.slice(..SMALL_BYTES);
    let written = pod.write.poll_write(cx, &mut bit);
    if let Poll::Ready(Ok(n)) = written {
        data.advance(n);
    }
    written
}

/// The pod takes no more. One that has closed may have said much before, which is still to be carried; how it ended is read after
/// that. A module without memory for what has come is another matter: waiting would not help it.
fn nobody_reads(error: WriteError) -> Result<Inwards, Broken> {
    match error {
        WriteError::Broken | WriteError::Reset => Ok(Inwards::Over),
        WriteError::Closed | WriteError::NoMemory => Err(Broken::Pod),
    }
}

#[cfg(test)]
mod tests;
