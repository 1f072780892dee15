//! `wasi:filesystem/types` 0.3 with walls.
//!
//! Owns: asking before a file, folder or link comes into being or grows; writing a stream into a file behind a wall. Is not: anything
//! else of the interface, which is handed on to wasmtime-wasi's as it comes.
//!
//! Limits: [`CHUNK_MAX`] of a stream on their way to the disk at a time, on the module's account.

use std::fs::File;
use std::future::Future as _;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmtime::component::{
    Access, Accessor, FutureReader, HasData, Linker, Resource, Source, StreamConsumer,
    StreamReader, StreamResult,
};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi::filesystem::{
    Descriptor, FsPerms, WasiFilesystem, WasiFilesystemCtxView, WasiFilesystemView,
};
use wasmtime_wasi::p3::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

use types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode,
    HostDescriptor, HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};

use super::{
    FilesView, Made, Room, Short, Walls, are_apart, folder_bytes, growth, hold, link_bytes,
    no_space, size_of,
};
use crate::limits::ENTRY_BYTES;
use crate::wasi::account::Held;

/// Bytes of a stream that are on their way to the disk; as many as wasmtime-wasi moves at a time.
const CHUNK_MAX: usize = 64 << 10;

type Fd = Resource<Descriptor>;
type Verdict = oneshot::Sender<Result<(), ErrorCode>>;

/// Marks our functions in the linker.
#[derive(Debug)]
pub struct WalledFiles;

/// Everything that the interface's functions work on.
#[allow(missing_debug_implementations, reason = "what it is made of has none")]
pub struct Files<'a>(WasiFilesystemCtxView<'a>);

impl HasData for WalledFiles {
    type Data<'a> = Files<'a>;
}

/// Links the interface, and the folders that are open from the start.
///
/// # Errors
/// wasmtime's, if it is linked already.
pub fn add_to_linker<T: FilesView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<T, WalledFiles>(linker, |data: &mut T| Files(data.filesystem()))?;
    preopens::add_to_linker::<T, WasiFilesystem>(linker, T::filesystem)
}

/// A file or folder and the room that it is in.
type Walled = (Arc<File>, Arc<dyn Room>);

fn walled_in<T: FilesView>(data: &mut T, fd: &Fd) -> Option<Walled> {
    let walls = data.walls().clone();
    let file = match walls.any().then(|| data.ctx().table.get(fd).ok().cloned())?? {
        Descriptor::File(file) => file.file,
        Descriptor::Dir(dir) => dir.dir,
    };
    let room = walls.around(&file)?;
    Some((file, room))
}

fn walled<T: FilesView + 'static>(store: &Accessor<T, WalledFiles>, fd: &Fd) -> Option<Walled> {
    store.with(|mut store| walled_in(store.data_mut(), fd))
}

fn room<T: FilesView + 'static>(
    store: &Accessor<T, WalledFiles>,
    fd: &Fd,
) -> Option<Arc<dyn Room>> {
    walled(store, fd).map(|(_, room)| room)
}

async fn grow<T: FilesView + 'static>(
    store: &Accessor<T, WalledFiles>,
    room: &Arc<dyn Room>,
    bytes: u64,
) -> FilesystemResult<()> {
    let walls = store.with(|mut store| store.data_mut().walls().clone());
    if walls.grow(room, bytes).await { Ok(()) } else { Err(no_space().into()) }
}

/// Before something with a name comes into being.
async fn make<T: FilesView + 'static>(
    store: &Accessor<T, WalledFiles>,
    fd: &Fd,
    bytes: impl Fn(&dyn Room) -> u64,
) -> FilesystemResult<Option<Made>> {
    let Some(room) = room(store, fd) else { return Ok(None) };
    grow(store, &room, bytes(&*room)).await?;
    Ok(Some(Made::new(room)))
}

/// wasmtime-wasi's view of the same store.
fn theirs<T: FilesView + 'static>(store: &Accessor<T, WalledFiles>) -> Accessor<T, WasiFilesystem> {
    store.with_getter::<WasiFilesystem>(T::filesystem)
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<ErrorCode> {
        self.0.convert_error_code(error)
    }
}

impl HostDescriptor for Files<'_> {
    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.0, fd)
    }
}

/// Methods that are wasmtime-wasi's as they are.
macro_rules! handed_on {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $outcome:ty;)*) => {
        $(async fn $name(store: &Accessor<T, Self>, $($argument: $kind),*) -> $outcome {
            <WasiFilesystem as HostDescriptorWithStore<T>>::$name(&theirs(store), $($argument),*).await
        })*
    };
}

impl<T: FilesView + 'static> HostDescriptorWithStore<T> for WalledFiles {
    handed_on! {
        fn advise(fd: Fd, offset: u64, len: u64, advice: Advice) -> FilesystemResult<()>;
        fn sync_data(fd: Fd) -> FilesystemResult<()>;
        fn get_flags(fd: Fd) -> FilesystemResult<DescriptorFlags>;
        fn get_type(fd: Fd) -> FilesystemResult<DescriptorType>;
        fn set_times(
            fd: Fd, accessed: NewTimestamp, modified: NewTimestamp
        ) -> FilesystemResult<()>;
        fn sync(fd: Fd) -> FilesystemResult<()>;
        fn stat(fd: Fd) -> FilesystemResult<DescriptorStat>;
        fn stat_at(fd: Fd, flags: PathFlags, path: String) -> FilesystemResult<DescriptorStat>;
        fn set_times_at(
            fd: Fd, flags: PathFlags, path: String, accessed: NewTimestamp, modified: NewTimestamp
        ) -> FilesystemResult<()>;
        fn readlink_at(fd: Fd, path: String) -> FilesystemResult<String>;
        fn is_same_object(a: Fd, b: Fd) -> wasmtime::Result<bool>;
        fn metadata_hash(fd: Fd) -> FilesystemResult<MetadataHashValue>;
        fn metadata_hash_at(
            fd: Fd, flags: PathFlags, path: String
        ) -> FilesystemResult<MetadataHashValue>;
    }

    fn read_via_stream(
        mut store: Access<'_, T, Self>,
        fd: Fd,
        offset: u64,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let store = Access::<T, WasiFilesystem>::new(store.as_context_mut(), T::filesystem);
        <WasiFilesystem as HostDescriptorWithStore<T>>::read_via_stream(store, fd, offset)
    }

    fn read_directory(
        mut store: Access<'_, T, Self>,
        fd: Fd,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, FutureReader<Result<(), ErrorCode>>)> {
        let store = Access::<T, WasiFilesystem>::new(store.as_context_mut(), T::filesystem);
        <WasiFilesystem as HostDescriptorWithStore<T>>::read_directory(store, fd)
    }

    fn write_via_stream(
        mut store: Access<'_, T, Self>,
        fd: Fd,
        data: StreamReader<u8>,
        offset: u64,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        if let Some(walled) = writable(store.data_mut(), &fd) {
            return write_walled(store, walled, data, Some(offset));
        }
        let store = Access::<T, WasiFilesystem>::new(store.as_context_mut(), T::filesystem);
        <WasiFilesystem as HostDescriptorWithStore<T>>::write_via_stream(store, fd, data, offset)
    }

    fn append_via_stream(
        mut store: Access<'_, T, Self>,
        fd: Fd,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        if let Some(walled) = writable(store.data_mut(), &fd) {
            return write_walled(store, walled, data, None);
        }
        let store = Access::<T, WasiFilesystem>::new(store.as_context_mut(), T::filesystem);
        <WasiFilesystem as HostDescriptorWithStore<T>>::append_via_stream(store, fd, data)
    }

    async fn set_size(store: &Accessor<T, Self>, fd: Fd, size: u64) -> FilesystemResult<()> {
        let walled = walled(store, &fd);
        if let Some((file, room)) = &walled {
            grow(store, room, growth(&**room, size_of(file), size)).await?;
            // It may become shorter, or stay as it was.
            room.freed();
        }
        <WasiFilesystem as HostDescriptorWithStore<T>>::set_size(&theirs(store), fd, size).await
    }

    async fn create_directory_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        path: String,
    ) -> FilesystemResult<()> {
        let made = make(store, &fd, folder_bytes).await?;
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::create_directory_at(&theirs, fd, path)
            .await?;
        if let Some(made) = made {
            made.done();
        }
        Ok(())
    }

    async fn symlink_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        target: String,
        path: String,
    ) -> FilesystemResult<()> {
        let made = make(store, &fd, |room| link_bytes(room, target.len())).await?;
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::symlink_at(&theirs, fd, target, path)
            .await?;
        if let Some(made) = made {
            made.done();
        }
        Ok(())
    }

    async fn link_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FilesystemResult<()> {
        if are_apart(room(store, &fd).as_ref(), room(store, &new_fd).as_ref()) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let made = make(store, &new_fd, |_| ENTRY_BYTES).await?;
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::link_at(
            &theirs, fd, flags, path, new_fd, new_path,
        )
        .await?;
        if let Some(made) = made {
            made.done();
        }
        Ok(())
    }

    async fn open_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> FilesystemResult<Fd> {
        let theirs = theirs(store);
        let room = room(store, &fd);
        let mut made = None;
        if let Some(room) = room.as_ref().filter(|_| how.contains(OpenFlags::CREATE)) {
            let same = Resource::new_borrow(fd.rep());
            let there = <WasiFilesystem as HostDescriptorWithStore<T>>::stat_at(
                &theirs,
                same,
                path_flags,
                path.clone(),
            );
            if there.await.is_err() {
                grow(store, room, ENTRY_BYTES).await?;
                made = Some(Made::new(Arc::clone(room)));
            }
        }
        let opened = <WasiFilesystem as HostDescriptorWithStore<T>>::open_at(
            &theirs, fd, path_flags, path, how, flags,
        )
        .await?;
        if let Some(made) = made {
            made.done();
        }
        if let Some(room) = room {
            if how.contains(OpenFlags::TRUNCATE) {
                room.freed();
            }
            store.with(|mut store| {
                if let Ok(Descriptor::File(file)) = store.data_mut().ctx().table.get(&opened) {
                    room.opened(&file.file);
                }
            });
        }
        Ok(opened)
    }

    async fn remove_directory_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        path: String,
    ) -> FilesystemResult<()> {
        let (room, theirs) = (room(store, &fd), theirs(store));
        <WasiFilesystem as HostDescriptorWithStore<T>>::remove_directory_at(&theirs, fd, path)
            .await?;
        room.inspect(|room| room.freed());
        Ok(())
    }

    async fn rename_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FilesystemResult<()> {
        let (from, theirs) = (room(store, &fd), theirs(store));
        if are_apart(from.as_ref(), room(store, &new_fd).as_ref()) {
            return Err(ErrorCode::CrossDevice.into());
        }
        <WasiFilesystem as HostDescriptorWithStore<T>>::rename_at(
            &theirs, fd, path, new_fd, new_path,
        )
        .await?;
        // What had the new name before may be gone.
        from.inspect(|room| room.freed());
        Ok(())
    }

    async fn unlink_file_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        path: String,
    ) -> FilesystemResult<()> {
        let (room, theirs) = (room(store, &fd), theirs(store));
        <WasiFilesystem as HostDescriptorWithStore<T>>::unlink_file_at(&theirs, fd, path).await?;
        room.inspect(|room| room.freed());
        Ok(())
    }
}

/// A file behind a wall, that may be written; what may not is wasmtime-wasi's to refuse.
fn writable<T: FilesView>(data: &mut T, fd: &Fd) -> Option<Walled> {
    let walled = walled_in(data, fd)?;
    match data.ctx().table.get(fd) {
        Ok(Descriptor::File(file)) if file.perms == FsPerms::ReadWrite => Some(walled),
        _ => None,
    }
}

fn write_walled<T: FilesView + 'static>(
    mut store: Access<'_, T, WalledFiles>,
    (file, room): Walled,
    data: StreamReader<u8>,
    position: Option<u64>,
) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
    let (told, verdict) = oneshot::channel();
    let walls = store.data_mut().walls().clone();
    let consumer = Writer { file, room, walls, position, verdict: Some(told), writing: None };
    data.pipe(&mut store, consumer)?;
    FutureReader::new(&mut store, verdict)
}

/// Writes what comes out of a stream, and asks before.
struct Writer {
    file: Arc<File>,
    room: Arc<dyn Room>,
    walls: Walls,
    /// Where the next byte goes; `None`: at the end.
    position: Option<u64>,
    verdict: Option<Verdict>,
    /// What is on its way to the disk, and the memory that it is in.
    writing: Option<(JoinHandle<io::Result<usize>>, Held)>,
}

impl Writer {
    fn end(&mut self, how: Result<(), ErrorCode>) {
        if let Some(verdict) = self.verdict.take() {
            // Nobody may be interested.
            let _ = verdict.send(how);
        }
    }

    fn write(&self, bytes: Vec<u8>) -> JoinHandle<io::Result<usize>> {
        let (file, room, walls) =
            (Arc::clone(&self.file), Arc::clone(&self.room), self.walls.clone());
        let position = self.position;
        tokio::spawn(async move {
            let size = size_of(&file);
            let at = position.unwrap_or(size);
            let end = at.saturating_add(bytes.len() as u64);
            if !walls.grow(&room, growth(&*room, size, end)).await {
                return Err(no_space());
            }
            let written = tokio::task::spawn_blocking(move || file.write_at(&bytes, at)).await;
            let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
            if written.is_err() {
                room.freed();
            }
            written
        })
    }
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
