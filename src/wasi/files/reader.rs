//! Files that are read and folders that are listed as streams of WASI 0.3, on the module's account.
//!
//! Owns: reading on another thread, where the guest's own might wait for long; lists bit by bit. Is not: reading a file that is on a disk
//! of this machine, which wasmtime-wasi does straight into the guest's memory.
//! Limits: [`READ_BYTES`] read ahead for each stream; one entry, or a batch of them, for each list.

use std::ffi::OsString;
use std::fs::File;
use std::future::Future as _;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use rustix::fs::FileType;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult};
use wasmtime_wasi::p3::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::listing::{Listing, Next};
use super::p3::Verdict;
use super::{Short, Walls, Work, hold};
use crate::wasi::account::Held;

/// What is read at a time; the buffer stays as long as the stream does.
const READ_BYTES: usize = 8 << 10;

type Step = Poll<wasmtime::Result<StreamResult>>;

/// Tells how a stream has ended, once, and ends it.
fn end(verdict: &mut Option<Verdict>, how: Result<(), ErrorCode>) -> Step {
    if let Some(verdict) = verdict.take() {
        // Nobody may be interested.
        let _ = verdict.send(how);
    }
    Poll::Ready(Ok(StreamResult::Dropped))
}

/// A file, read on another thread.
pub(super) struct Reader {
    file: Arc<File>,
    offset: u64,
    walls: Walls,
    verdict: Option<Verdict>,
    reading: Option<JoinHandle<io::Result<BytesMut>>>,
    /// Pays for the buffer.
    held: Option<Held>,
}

impl Reader {
    pub(super) fn new(file: Arc<File>, offset: u64, verdict: Verdict, walls: Walls) -> Self {
        Self { file, offset, walls, verdict: Some(verdict), reading: None, held: None }
    }

    fn read(&self, mut into: BytesMut) -> JoinHandle<io::Result<BytesMut>> {
        let (file, at) = (Arc::clone(&self.file), self.offset);
        spawn_blocking(move || {
            into.resize(READ_BYTES, 0);
            let count = file.read_at(&mut into, at)?;
            into.truncate(count);
            Ok(into)
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = end(&mut self.verdict, Ok(()));
    }
}

impl<D> StreamProducer<D> for Reader {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Step {
        if self.held.is_none() {
            match hold(self.walls.account(), READ_BYTES as u64) {
                Ok(held) => self.held = Some(held),
                Err(Short::Ends(error)) => return Poll::Ready(Err(error)),
                Err(Short::Fails(error)) => return end(&mut self.verdict, Err(error.into())),
            }
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => self.read(destination.take_buffer()),
        };
        let Poll::Ready(read) = Pin::new(&mut reading).poll(cx) else {
            // Its bytes come with the next read, if there is one.
            self.reading = Some(reading);
            return if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending };
        };
        match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(bytes) if bytes.is_empty() => end(&mut self.verdict, Ok(())),
            Ok(bytes) => {
                self.offset = self.offset.saturating_add(bytes.len() as u64);
                destination.set_buffer(bytes);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => end(&mut self.verdict, Err(error.into())),
        }
    }
}

/// A list of a folder.
pub(super) struct Lister {
    state: State,
    verdict: Option<Verdict>,
}

enum State {
    /// To be opened at the first read.
    New(Arc<File>, Held, Work),
    Opening(JoinHandle<io::Result<Listing>>),
    Idle(Listing),
    Asking(JoinHandle<(Listing, Next)>),
    Over,
}

impl Lister {
    pub(super) fn new(dir: Arc<File>, held: Held, work: Work, verdict: Verdict) -> Self {
        Self { state: State::New(dir, held, work), verdict: Some(verdict) }
    }

    /// The next entry.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::New(dir, held, Work::Here) => {
                    self.state = State::Idle(Listing::new(&dir, held, Work::Here)?);
                }
                State::New(dir, held, Work::Elsewhere) => {
                    let open = move || Listing::new(&dir, held, Work::Elsewhere);
                    self.state = State::Opening(spawn_blocking(open));
                }
                State::Opening(mut opening) => match Pin::new(&mut opening).poll(cx) {
                    Poll::Ready(opened) => {
                        self.state = State::Idle(opened.map_err(io::Error::other)??);
                    }
                    Poll::Pending => {
                        self.state = State::Opening(opening);
                        return Poll::Pending;
                    }
                },
                State::Idle(mut listing) => {
                    if let Some(next) = listing.next_here() {
                        self.state = State::Idle(listing);
                        return Poll::Ready(next);
                    }
                    self.state = State::Asking(listing.ask_elsewhere());
                }
                State::Asking(mut asked) => match Pin::new(&mut asked).poll(cx) {
                    Poll::Ready(answer) => {
                        let (listing, next) = answer.map_err(io::Error::other)?;
                        self.state = State::Idle(listing);
                        return Poll::Ready(next);
                    }
                    Poll::Pending => {
                        self.state = State::Asking(asked);
                        return Poll::Pending;
                    }
                },
                State::Over => return Poll::Ready(Ok(None)),
            }
        }
    }
}

impl Drop for Lister {
    fn drop(&mut self) {
        let _ = end(&mut self.verdict, Ok(()));
    }
}

impl<D> StreamProducer<D> for Lister {
    type Item = DirectoryEntry;
    type Buffer = Option<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Step {
        if destination.remaining(&mut store) == Some(0) {
            // There is no looking without taking: the next read may wait.
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let next = match self.poll_next(cx) {
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(next) => next,
        };
        match next.map_err(ErrorCode::from).and_then(entry_of) {
            Ok(Some(entry)) => {
                destination.set_buffer(Some(entry));
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Ok(None) => end(&mut self.verdict, Ok(())),
            Err(code) => end(&mut self.verdict, Err(code)),
        }
    }
}

fn entry_of(next: Option<(OsString, FileType)>) -> Result<Option<DirectoryEntry>, ErrorCode> {
    let Some((name, kind)) = next else { return Ok(None) };
    let name = name.into_string().map_err(|_| ErrorCode::IllegalByteSequence)?;
    let type_ = match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Other(None),
    };
    Ok(Some(DirectoryEntry { type_, name }))
}
