//! A module's standard streams: output into a log sink, input from a bounded pipe or from nowhere.
//!
//! Owns: the adaptors to wasmtime-wasi's stream traits. Is not: lines, time stamps, rotation; those are the sink's.
//!
//! Output never makes a guest wait: the sink takes or drops. None of it is a terminal.
//! Limits: [`PIPE_BYTES_MAX`] for input, [`WRITE_BYTES_MAX`] for one write.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::net::Waiters;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Takes what a module prints. Called on a guest's thread, so every method returns at once: a sink that is full drops
/// and counts.
pub trait LogSink: Send + Sync {
    /// Takes `bytes` as they came: not whole lines, not always UTF-8.
    fn write(&self, stream: Stream, bytes: &[u8]);
    /// The module has ended: what is kept for the end of a line should be shown.
    fn flush(&self);
}

/// What a guest may write in one call to a stream, bytes; it writes again for more.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Bytes written to a module's standard input and not yet read; a Linux pipe holds as many.
const PIPE_BYTES_MAX: usize = 64 << 10;

/// One output stream of one run.
#[derive(Clone)]
pub(crate) struct LogStream {
    sink: Arc<dyn LogSink>,
    stream: Stream,
}

impl LogStream {
    pub(crate) fn new(sink: Arc<dyn LogSink>, stream: Stream) -> Self {
        Self { sink, stream }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.sink.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        self.sink.write(self.stream, b);
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Where a module's standard input comes from.
#[derive(Clone, Debug, Default)]
pub enum Stdin {
    /// End of file at once (unless the module is told to stop by end of file: then it is open and empty until that).
    #[default]
    Closed,
    /// What is written to the pipe.
    Pipe(StdinPipe),
}

/// The module's end of its standard input was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the module's standard input is closed")]
pub struct StdinClosed;

/// A bounded pipe into one module. Clones are the same pipe.
#[derive(Clone, Default)]
pub struct StdinPipe(Arc<Mutex<Pipe>>);

#[derive(Default)]
struct Pipe {
    chunks: VecDeque<Bytes>,
    len: usize,
    closed: bool,
    /// The module has ended; nobody will read any more.
    abandoned: bool,
    /// Guests may hold several handles to one standard input, so there may be several that wait: each handle has one place, and
    /// handles are bounded by the resource table.
    readers: Waiters,
    writers: Vec<Waker>,
}

impl StdinPipe {
    /// An empty, open pipe.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all of `bytes`, waiting for the module to read when the pipe is full.
    ///
    /// # Errors
    /// [`StdinClosed`] if the pipe is closed or the module has ended.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), StdinClosed> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = std::future::poll_fn(|cx| self.poll_write(rest, cx)).await?;
            rest = &rest[n..];
        }
        Ok(())
    }

    fn poll_write(&self, bytes: &[u8], cx: &Context<'_>) -> Poll<Result<usize, StdinClosed>> {
        let mut pipe = self.pipe();
        if pipe.closed || pipe.abandoned {
            return Poll::Ready(Err(StdinClosed));
        }
        let room = PIPE_BYTES_MAX - pipe.len;
        if room == 0 {
            remember(&mut pipe.writers, cx.waker());
            return Poll::Pending;
        }
        let n = room.min(bytes.len());
        pipe.chunks.push_back(Bytes::copy_from_slice(&bytes[..n]));
        pipe.len += n;
        let readers = pipe.readers.take();
        drop(pipe);
        readers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(n))
    }

    /// End of file, after what was written before.
    pub fn close(&self) {
        let mut pipe = self.pipe();
        pipe.closed = true;
        pipe.wake_all();
    }

    /// The reader is gone: writers are told, and what nobody will read is freed.
    pub(crate) fn abandon(&self) {
        let mut pipe = self.pipe();
        pipe.abandoned = true;
        pipe.chunks = VecDeque::new();
        pipe.len = 0;
        pipe.wake_all();
    }

    /// A handle to read from.
    fn reader(&self) -> StdinReader {
        StdinReader { pipe: self.clone(), place: None }
    }

    /// Up to `size` bytes; empty: none yet; `None`: end of file.
    fn take(&self, size: usize) -> Option<Bytes> {
        let mut pipe = self.pipe();
        let Some(chunk) = pipe.chunks.front_mut() else {
            return if pipe.closed { None } else { Some(Bytes::new()) };
        };
        let bytes = chunk.split_to(size.min(chunk.len()));
        if chunk.is_empty() {
            pipe.chunks.pop_front();
        }
        pipe.len -= bytes.len();
        wake(&mut pipe.writers);
        Some(bytes)
    }
}

impl Pipe {
    fn wake_all(&mut self) {
        self.readers.take().into_iter().for_each(Waker::wake);
        wake(&mut self.writers);
    }
}

/// One handle to a module's standard input: it waits in one place, however often it asks.
struct StdinReader {
    pipe: StdinPipe,
    place: Option<usize>,
}

impl StdinReader {
    fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut pipe = self.pipe.pipe();
        if pipe.closed || !pipe.chunks.is_empty() {
            return Poll::Ready(());
        }
        pipe.readers.wait(&mut self.place, cx.waker());
        Poll::Pending
    }
}

impl Drop for StdinReader {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.pipe.pipe().readers.leave(place);
        }
    }
}

fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

fn wake(wakers: &mut Vec<Waker>) {
    wakers.drain(..).for_each(Waker::wake);
}

impl fmt::Debug for StdinPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pipe = self.pipe();
        f.debug_struct("StdinPipe").field("len", &pipe.len).field("closed", &pipe.closed).finish()
    }
}

impl IsTerminal for StdinPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for StdinPipe {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.reader())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.reader())
    }
}

impl InputStream for StdinReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.pipe.take(size).ok_or(StreamError::Closed)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for StdinReader {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }
}

impl AsyncRead for StdinReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_ready(cx));
        if let Some(bytes) = self.pipe.take(buf.remaining()) {
            buf.put_slice(&bytes);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn a_writer_waits_for_the_reader_and_nothing_is_lost() {
        let pipe = StdinPipe::new();
        let mut reader = pipe.reader();
        let sent: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            pipe.write(&sent).await.unwrap();
            pipe.close();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn an_open_pipe_says_not_yet_and_a_closed_one_end_of_file() {
        let pipe = StdinPipe::new();
        let mut reader = pipe.reader();
        let mut read = |size| InputStream::read(&mut reader, size);
        assert!(read(10).unwrap().is_empty());
        pipe.write(b"last").await.unwrap();
        pipe.close();
        assert_eq!(pipe.write(b"late").await, Err(StdinClosed));
        assert_eq!(&read(2).unwrap()[..], b"la");
        assert_eq!(&read(20).unwrap()[..], b"st");
        assert!(matches!(read(1), Err(StreamError::Closed)));
    }

    /// A program of WASI 0.3 that begins to read and gives up, again and again, is another waker each time.
    #[test]
    fn whoever_asks_often_waits_in_one_place_and_leaves_it() {
        struct Idle;
        impl std::task::Wake for Idle {
            fn wake(self: Arc<Self>) {}
        }
        let pipe = StdinPipe::new();
        let first = Arc::new(Idle);
        let mut reader = pipe.reader();
        let ask = |reader: &mut StdinReader, waker: Arc<Idle>| {
            reader.poll_ready(&Context::from_waker(&Waker::from(waker)))
        };
        assert!(ask(&mut reader, Arc::clone(&first)).is_pending());
        assert_eq!(Arc::strong_count(&first), 2);
        for _ in 0..1000 {
            assert!(ask(&mut reader, Arc::new(Idle)).is_pending());
        }
        assert_eq!(Arc::strong_count(&first), 1, "the last one counts");
        let last = Arc::new(Idle);
        assert!(ask(&mut reader, Arc::clone(&last)).is_pending());
        drop(reader);
        assert_eq!(Arc::strong_count(&last), 1, "who has gone waits no more");
    }

    #[tokio::test]
    async fn a_writer_is_told_when_the_module_is_gone() {
        let pipe = StdinPipe::new();
        let writer = pipe.clone();
        let task = tokio::spawn(async move { writer.write(&[0; PIPE_BYTES_MAX + 1]).await });
        while pipe.pipe().len < PIPE_BYTES_MAX {
            tokio::task::yield_now().await;
        }
        pipe.abandon();
        assert_eq!(task.await.unwrap(), Err(StdinClosed));
        assert_eq!(pipe.pipe().len, 0);
    }
}
