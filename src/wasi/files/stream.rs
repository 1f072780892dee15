//! A file that is written through a stream of WASI 0.2, with a wall round its folder.
//!
//! Owns: asking for room before each write. Is not: writing, which wasmtime-wasi's stream inside does.
//!
//! ```text
//!           room                              measured: room, written
//!  Ready ──────────► written     Ready ──► Asking ─────────────────────► Ready
//!    │ no room                               │ none
//!    └────────► the error, then Closed ◄─────┘
//! ```

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::{Grant, Room, Walls, growth, no_space, size_of};

pub(super) struct Walled {
    inner: DynOutputStream,
    file: Arc<File>,
    room: Arc<dyn Room>,
    walls: Walls,
    /// Where the next byte goes; `None`: at the end.
    position: Option<u64>,
    state: State,
}

enum State {
    Ready,
    /// Whether there is room for these is being measured.
    Asking(JoinHandle<bool>, Bytes),
    /// To be told next.
    Failed(StreamError),
    Closed,
}

impl Walled {
    pub(super) fn new(
        inner: DynOutputStream,
        file: Arc<File>,
        room: Arc<dyn Room>,
        walls: Walls,
        position: Option<u64>,
    ) -> Self {
        Self { inner, file, room, walls, position, state: State::Ready }
    }

    fn growth(&self, bytes: &Bytes) -> u64 {
        let size = size_of(&self.file);
        let end = self.position.unwrap_or(size).saturating_add(bytes.len() as u64);
        growth(&*self.room, size, end)
    }

    /// What is there to be told before anything else.
    fn pending(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Failed(error) => Err(error),
            State::Closed => Err(StreamError::Closed),
            state @ (State::Ready | State::Asking(..)) => {
                self.state = state;
                Ok(())
            }
        }
    }

    fn full(&mut self) -> StreamError {
        self.state = State::Closed;
        StreamError::LastOperationFailed(no_space().into())
    }

    fn advance(&mut self, bytes: usize) {
        self.position = self.position.map(|at| at.saturating_add(bytes as u64));
    }

    fn pass_on(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.advance(bytes.len());
        self.inner.write(bytes)
    }

    /// Waits for the measurement in progress, and writes what it was for.
    async fn settle(&mut self) {
        let State::Asking(asked, bytes) = &mut self.state else { return };
        let fits = asked.await.unwrap_or(false);
        let bytes = std::mem::take(bytes);
        self.state = State::Ready;
        let written = if fits {
            self.pass_on(bytes)
        } else {
            Err(StreamError::LastOperationFailed(no_space().into()))
        };
        if let Err(error) = written {
            self.state = State::Failed(error);
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Walled {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.pending()?;
        if matches!(self.state, State::Asking(..)) {
            return Err(StreamError::trap("write not permitted: check_write not called first"));
        }
        let more = self.growth(&bytes);
        if more == 0 {
            return self.pass_on(bytes);
        }
        match self.room.take(more) {
            Grant::Yes => self.pass_on(bytes),
            Grant::No => Err(self.full()),
            Grant::Unsure => {
                let (walls, room) = (self.walls.clone(), Arc::clone(&self.room));
                let asked = tokio::spawn(async move { walls.grow_measured(room, more).await });
                self.state = State::Asking(asked, bytes);
                Ok(())
            }
        }
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.settle().await;
        self.pending()?;
        // A write of ours may still be on its way: the size is known after it.
        self.inner.ready().await;
        let more = self.growth(&bytes);
        if !self.walls.grow(&self.room, more).await {
            return Err(self.full());
        }
        self.advance(bytes.len());
        let written = self.inner.blocking_write_and_flush(bytes).await;
        if written.is_err() {
            self.room.freed();
        }
        written
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.pending()?;
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.pending()?;
        if matches!(self.state, State::Asking(..)) { Ok(0) } else { self.inner.check_write() }
    }

    async fn cancel(&mut self) {
        if let State::Asking(asked, _) = &self.state {
            asked.abort();
        }
        self.inner.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Walled {
    async fn ready(&mut self) {
        self.settle().await;
        if matches!(self.state, State::Ready) {
            self.inner.ready().await;
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

    /// Room for so many bytes, more of them after a measurement.
    #[derive(Debug, Default)]
    struct Jar {
        left: AtomicU64,
        found: AtomicU64,
        unsure: AtomicBool,
    }

    impl Room for Jar {
        fn place(&self) -> &Path {
            Path::new("/")
        }

        fn take(&self, bytes: u64) -> Grant {
            let take = |left: u64| left.checked_sub(bytes);
            match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                Ok(_) => Grant::Yes,
                Err(_) if self.unsure.load(Ordering::Relaxed) => Grant::Unsure,
                Err(_) => Grant::No,
            }
        }

        fn take_measured(&self, bytes: u64) -> bool {
            self.unsure.store(false, Ordering::Relaxed);
            self.left.fetch_add(self.found.load(Ordering::Relaxed), Ordering::Relaxed);
            self.take(bytes) == Grant::Yes
        }

        fn freed(&self) {}

        fn opened(&self, _file: &Arc<File>) {}

        fn cost(&self, size: u64) -> u64 {
            size
        }
    }

    /// Writes to the file at once, from its beginning on.
    struct Plain(Arc<File>, u64);

    #[wasmtime_wasi::async_trait]
    impl OutputStream for Plain {
        fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
            self.0.write_all_at(&bytes, self.1).unwrap();
            self.1 += bytes.len() as u64;
            Ok(())
        }

        fn flush(&mut self) -> StreamResult<()> {
            Ok(())
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            Ok(100)
        }
    }

    #[wasmtime_wasi::async_trait]
    impl Pollable for Plain {
        async fn ready(&mut self) {}
    }

    fn stream(jar: Jar) -> (Walled, Arc<File>) {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let inner: DynOutputStream = Box::new(Plain(Arc::clone(&file), 0));
        (Walled::new(inner, Arc::clone(&file), Arc::new(jar), Walls::none(), Some(0)), file)
    }

    /// What WASI tells of it, as `filesystem-error-code` reads it.
    fn code(error: StreamError) -> ErrorCode {
        let StreamError::LastOperationFailed(error) = error else { panic!("{error:?}") };
        let error = error.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        ErrorCode::from(error)
    }

    #[tokio::test]
    async fn a_write_without_room_fails_at_once_and_closes_the_stream() {
        let (mut stream, file) = stream(Jar { left: 10.into(), ..Jar::default() });
        stream.write(Bytes::from_static(b"0123456789")).unwrap();
        let error = stream.write(Bytes::from_static(b"x")).unwrap_err();
        assert_eq!(code(error), ErrorCode::InsufficientSpace);
        assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
        assert_eq!(size_of(&file), 10);
    }

    #[tokio::test]
    async fn a_write_that_must_be_measured_waits_and_goes_on() {
        let jar = Jar { found: 10.into(), unsure: true.into(), ..Jar::default() };
        let (mut stream, file) = stream(jar);
        stream.write(Bytes::from_static(b"0123456789")).unwrap();
        assert_eq!(stream.check_write().unwrap(), 0);
        stream.ready().await;
        assert_eq!((stream.check_write().unwrap(), size_of(&file)), (100, 10));
    }

    #[tokio::test]
    async fn a_write_that_was_measured_in_vain_is_told_next() {
        let (mut stream, file) = stream(Jar { unsure: true.into(), ..Jar::default() });
        stream.write(Bytes::from_static(b"x")).unwrap();
        stream.ready().await;
        assert_eq!(code(stream.check_write().unwrap_err()), ErrorCode::InsufficientSpace);
        assert!(matches!(stream.flush(), Err(StreamError::Closed)));
        assert_eq!(size_of(&file), 0);
    }

    #[tokio::test]
    async fn a_blocking_write_asks_too_and_overwriting_takes_nothing() {
        let (mut first, file) = stream(Jar { left: 5.into(), ..Jar::default() });
        first.blocking_write_and_flush(Bytes::from_static(b"01234")).await.unwrap();
        let again: DynOutputStream = Box::new(Plain(Arc::clone(&file), 0));
        let mut again = Walled::new(again, file, first.room.clone(), Walls::none(), Some(0));
        again.blocking_write_and_flush(Bytes::from_static(b"43210")).await.unwrap();
        let error = again.blocking_write_and_flush(Bytes::from_static(b"5")).await.unwrap_err();
        assert_eq!(code(error), ErrorCode::InsufficientSpace);
    }
}
