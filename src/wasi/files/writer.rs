//! A stream of WASI 0.3 that is written into a file, where wasmtime-wasi cannot: behind a wall, or on another thread and on the module's
//! account.
//!
//! Owns: asking for room and memory before each write. Is not: whether the file may be written (`p3`).
//! Limits: [`CHUNK_MAX`] of a stream on their way to the disk at a time.

use std::fs::File;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use tokio::task::JoinHandle;
use wasmtime::StoreContextMut;
use wasmtime::component::{Source, StreamConsumer, StreamResult};
use wasmtime_wasi::p3::bindings::filesystem::types::ErrorCode;

use super::p3::Verdict;
use super::{Room, Short, Walls, growth, hold, no_space, size_of};
use crate::wasi::account::Held;

/// Bytes of a stream that are on their way to the disk.
const CHUNK_MAX: usize = 64 << 10;

/// Writes what comes out of a stream, and asks before.
pub(super) struct Writer {
    file: Arc<File>,
    /// `None`: no wall.
    room: Option<Arc<dyn Room>>,
    walls: Walls,
    /// Where the next byte goes; `None`: at the end.
    position: Option<u64>,
    verdict: Option<Verdict>,
    /// What is on its way to the disk, and the memory that it is in.
    writing: Option<(JoinHandle<io::Result<usize>>, Held)>,
}

impl Writer {
    pub(super) fn new(
        file: Arc<File>,
        room: Option<Arc<dyn Room>>,
        walls: Walls,
        position: Option<u64>,
        verdict: Verdict,
    ) -> Self {
        Self { file, room, walls, position, verdict: Some(verdict), writing: None }
    }

    fn end(&mut self, how: Result<(), ErrorCode>) {
        if let Some(verdict) = self.verdict.take() {
            // Nobody may be interested.
            let _ = verdict.send(how);
        }
    }

    fn write(&self, bytes: Vec<u8>) -> JoinHandle<io::Result<usize>> {
        let (file, room, walls) = (Arc::clone(&self.file), self.room.clone(), self.walls.clone());
        let position = self.position;
        tokio::spawn(async move {
            if let Some(room) = &room {
                let size = size_of(&file);
                let end = position.unwrap_or(size).saturating_add(bytes.len() as u64);
                if !walls.grow(room, growth(&**room, size, end)).await {
                    return Err(no_space());
                }
            }
            let account = Arc::clone(walls.account());
            let write = move || {
                let mut written = Ok(0);
                // Copying into the page cache takes its time, and it is the module's.
                account.work(&mut || written = put(&file, &bytes, position));
                written
            };
            let written = tokio::task::spawn_blocking(write).await;
            let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
            if let (Some(room), Err(_)) = (room, &written) {
                room.freed();
            }
            written
        })
    }
}

/// Writes at a position, or at the end whoever else writes there.
fn put(file: &File, bytes: &[u8], position: Option<u64>) -> io::Result<usize> {
    let Some(at) = position else {
        return match pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
            Err(Errno::NOSYS | Errno::NOTSUP) => file.write_at(bytes, size_of(file)),
            other => Ok(other?),
        };
    };
    file.write_at(bytes, at)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

impl<T> StreamConsumer<T> for Writer {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, T>,
        source: Source<'_, Self::Item>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let (mut writing, held) = match self.writing.take() {
            Some(writing) => writing,
            None => {
                let there = source.remaining();
                let count = there.len().min(CHUNK_MAX);
                match hold(self.walls.account(), count as u64) {
                    Ok(held) => (self.write(there[..count].to_vec()), held),
                    Err(Short::Ends(error)) => return Poll::Ready(Err(error)),
                    Err(Short::Fails(error)) => {
                        self.end(Err(error.into()));
                        return Poll::Ready(Ok(StreamResult::Dropped));
                    }
                }
            }
        };
        // Not given up half-way: what was handed to the disk is written, whoever waits.
        let Poll::Ready(written) = Pin::new(&mut writing).poll(cx) else {
            self.writing = Some((writing, held));
            return Poll::Pending;
        };
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(count) => {
                source.mark_read(count);
                self.position = self.position.map(|at| at.saturating_add(count as u64));
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => {
                self.end(Err(error.into()));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use crate::wasi::account::{Account, Refused};
    use crate::wasi::files::{Work, one_at_a_time};

    /// Counts what is done for it, and how long the file was after each.
    #[derive(Debug)]
    struct Counting {
        file: Arc<File>,
        works: AtomicUsize,
        written: AtomicU64,
    }

    impl Account for Counting {
        fn take(&self, _bytes: u64) -> Result<(), Refused> {
            Ok(())
        }

        fn give_back(&self, _bytes: u64) {}

        fn work(&self, work: &mut dyn FnMut()) {
            let before = size_of(&self.file);
            work();
            self.works.fetch_add(1, Ordering::SeqCst);
            self.written.fetch_add(size_of(&self.file) - before, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn what_is_written_is_written_on_the_modules_account() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let (works, written) = (AtomicUsize::new(0), AtomicU64::new(0));
        let account = Arc::new(Counting { file: Arc::clone(&file), works, written });
        let walls = Walls::new([], Arc::<Counting>::clone(&account), Work::Here, one_at_a_time());
        let (told, _verdict) = tokio::sync::oneshot::channel();
        let mut writer = Writer::new(Arc::clone(&file), None, walls, Some(0), told);
        for position in [Some(0), Some(CHUNK_MAX as u64), None] {
            writer.position = position;
            assert_eq!(writer.write(vec![7; CHUNK_MAX]).await.unwrap().unwrap(), CHUNK_MAX);
        }
        assert_eq!(account.works.load(Ordering::SeqCst), 3);
        assert_eq!(account.written.load(Ordering::SeqCst), 3 * CHUNK_MAX as u64);
    }
}
