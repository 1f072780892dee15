//! Files as streams of WASI 0.2, on the module's account, and with walls round their folders.
//!
//! Owns: asking for room before each write, and for memory before something is read ahead or written behind. Is not: reading and writing,
//! which wasmtime-wasi's streams inside do.
//!
//! A call that waits holds nothing longer than it lasts. One that does not leaves [`BEHIND_BYTES`] at most behind; they are on the account
//! from the first such call until the stream goes.
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
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

use super::{Grant, Room, Short, Walls, growth, hold, no_space, size_of};
use crate::wasi::account::Held;

/// What a stream has read ahead, or not yet written, at most (wasmtime-wasi's `MAX_READ_SIZE_ALLOC`).
const BEHIND_BYTES: u64 = 64 << 10;

/// Memory for what a stream leaves behind, taken once.
fn behind(held: &mut Option<Held>, walls: &Walls) -> StreamResult<()> {
    if held.is_none() {
        *held = Some(hold(walls.account(), BEHIND_BYTES).map_err(|short| match short {
            Short::Fails(error) => StreamError::LastOperationFailed(error.into()),
            Short::Ends(error) => StreamError::Trap(error),
        })?);
    }
    Ok(())
}

/// A file that is read.
pub(super) struct Input {
    inner: DynInputStream,
    walls: Walls,
    held: Option<Held>,
    /// There was no memory to read ahead while it was waited for; to be told at the next read.
    short: Option<StreamError>,
}

impl Input {
    pub(super) fn new(inner: DynInputStream, walls: Walls) -> Self {
        Self { inner, walls, held: None, short: None }
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if let Some(short) = self.short.take() {
            return Err(short);
        }
        behind(&mut self.held, &self.walls)?;
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        match behind(&mut self.held, &self.walls) {
            Ok(()) => self.inner.ready().await,
            Err(short) => self.short = Some(short),
        }
    }
}

/// A file that is written.
pub(super) struct Output {
    inner: DynOutputStream,
    file: Arc<File>,
    /// `None`: no wall.
    room: Option<Arc<dyn Room>>,
    walls: Walls,
    held: Option<Held>,
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

impl Output {
    pub(super) fn new(
        inner: DynOutputStream,
        file: Arc<File>,
        room: Option<Arc<dyn Room>>,
        walls: Walls,
        position: Option<u64>,
    ) -> Self {
        Self { inner, file, room, walls, held: None, position, state: State::Ready }
    }

    /// What a write takes of its room, where there is a wall and it takes anything.
    fn growth(&self, bytes: &Bytes) -> Option<(Arc<dyn Room>, u64)> {
        let room = self.room.as_ref()?;
        let size = size_of(&self.file);
        let end = self.position.unwrap_or(size).saturating_add(bytes.len() as u64);
        let more = growth(&**room, size, end);
        (more > 0).then(|| (Arc::clone(room), more))
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
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.pending()?;
        if matches!(self.state, State::Asking(..)) {
            return Err(StreamError::trap("write not permitted: check_write not called first"));
        }
        behind(&mut self.held, &self.walls)?;
        let Some((room, more)) = self.growth(&bytes) else { return self.pass_on(bytes) };
        match room.take(more) {
            Grant::Yes => self.pass_on(bytes),
            Grant::No => Err(self.full()),
            Grant::Unsure => {
                let walls = self.walls.clone();
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
        if let Some((room, more)) = self.growth(&bytes)
            && !self.walls.grow(&room, more).await
        {
            return Err(self.full());
        }
        self.advance(bytes.len());
        let written = self.inner.blocking_write_and_flush(bytes).await;
        if let (Some(room), Err(_)) = (&self.room, &written) {
            room.freed();
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
impl Pollable for Output {
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

    use crate::wasi::account::{Account, Refused};
    use crate::wasi::files::{Work, one_at_a_time};

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

    fn stream(jar: Jar) -> (Output, Arc<File>) {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let inner: DynOutputStream = Box::new(Plain(Arc::clone(&file), 0));
        (Output::new(inner, Arc::clone(&file), Some(Arc::new(jar)), Walls::none(), Some(0)), file)
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
        let mut again = Output::new(again, file, first.room.clone(), Walls::none(), Some(0));
        again.blocking_write_and_flush(Bytes::from_static(b"43210")).await.unwrap();
        let error = again.blocking_write_and_flush(Bytes::from_static(b"5")).await.unwrap_err();
        assert_eq!(code(error), ErrorCode::InsufficientSpace);
    }

    /// An account with room for so many bytes.
    #[derive(Debug)]
    struct Purse {
        left: AtomicU64,
        may_go_on: bool,
    }

    impl Account for Purse {
        fn take(&self, bytes: u64) -> Result<(), Refused> {
            let take = |left: u64| left.checked_sub(bytes);
            match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                Ok(_) => Ok(()),
                Err(_) => Err(Refused {
                    may_go_on: self.may_go_on,
                    end: wasmtime::Error::msg("out of memory"),
                }),
            }
        }

        fn give_back(&self, bytes: u64) {
            self.left.fetch_add(bytes, Ordering::Relaxed);
        }

        fn work(&self, work: &mut dyn FnMut()) {
            work();
        }
    }

    fn output(purse: &Arc<Purse>) -> Output {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let inner: DynOutputStream = Box::new(Plain(Arc::clone(&file), 0));
        let walls = Walls::new([], Arc::<Purse>::clone(purse), Work::Here, one_at_a_time());
        Output::new(inner, file, None, walls, Some(0))
    }

    #[tokio::test]
    async fn what_is_written_behind_is_paid_once_and_given_back_with_the_stream() {
        let purse = Arc::new(Purse { left: BEHIND_BYTES.into(), may_go_on: true });
        let mut first = output(&purse);
        first.blocking_write_and_flush(Bytes::from_static(b"waits")).await.unwrap();
        assert_eq!(purse.left.load(Ordering::Relaxed), BEHIND_BYTES);
        for _ in 0..3 {
            first.write(Bytes::from_static(b"does not")).unwrap();
        }
        assert_eq!(purse.left.load(Ordering::Relaxed), 0);
        let error = output(&purse).write(Bytes::from_static(b"x")).unwrap_err();
        let StreamError::LastOperationFailed(error) = error else { panic!("{error:?}") };
        let error = error.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(ErrorCode::from(error), ErrorCode::InsufficientMemory);
        drop(first);
        assert_eq!(purse.left.load(Ordering::Relaxed), BEHIND_BYTES);
    }

    #[tokio::test]
    async fn a_module_that_is_not_to_go_on_ends() {
        let purse = Arc::new(Purse { left: 0.into(), may_go_on: false });
        let error = output(&purse).write(Bytes::from_static(b"x")).unwrap_err();
        assert!(matches!(error, StreamError::Trap(_)), "{error:?}");
    }
}
