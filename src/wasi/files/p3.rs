//! `wasi:filesystem/types` 0.3 with walls.
//!
//! Owns: asking before a file, folder or link comes into being or grows, and before anything is opened; paying for what a call holds while
//! it waits. Is not: streams of files and lists of folders (`writer`, `reader`), nor anything else of the interface, which is handed on to
//! wasmtime-wasi's as it comes.
//!
//! Any number of these calls may wait at once, each with the path that it was given.

use std::fs::File;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use wasmtime::AsContextMut as _;
use wasmtime::component::{
    Access, Accessor, FutureReader, HasData, Linker, Resource, StreamReader,
};
use wasmtime_wasi::filesystem::{
    Descriptor, FsPerms, WasiFilesystem, WasiFilesystemCtxView, WasiFilesystemView,
};
use wasmtime_wasi::p3::bindings::filesystem::types;
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

use types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode,
    HostDescriptor, HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};

use super::listing::LISTING_BYTES;
use super::reader::{Lister, Reader};
use super::writer::Writer;
use super::{
    CALL_BYTES, FilesView, Made, Room, Short, Walls, Work, are_apart, fits, folder_bytes, growth,
    hold, link_bytes, no_space, size_of,
};
use crate::limits::ENTRY_BYTES;
use crate::wasi::account::Held;

type Fd = Resource<Descriptor>;

/// Told once, when a stream has ended.
pub(super) type Verdict = oneshot::Sender<Result<(), ErrorCode>>;

/// Ends a stream that never begins.
type Refusal = Result<ErrorCode, wasmtime::Error>;

/// Marks our functions in the linker.
#[derive(Debug)]
pub struct WalledFiles;

/// Everything that the interface's functions work on.
#[allow(missing_debug_implementations, reason = "what it is made of has none")]
pub struct Files<'a> {
    files: WasiFilesystemCtxView<'a>,
    walls: Walls,
}

impl HasData for WalledFiles {
    type Data<'a> = Files<'a>;
}

/// Links the interface.
///
/// # Errors
/// wasmtime's, if it is linked already.
pub fn add_to_linker<T: FilesView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<T, WalledFiles>(linker, |data: &mut T| {
        let walls = data.walls().clone();
        Files { files: data.filesystem(), walls }
    })
}

/// A file that is written by us, and the room that it is in, if it has a wall.
type Writable = (Arc<File>, Option<Arc<dyn Room>>);

/// A file or folder and the room that it is in.
type Walled = (Arc<File>, Arc<dyn Room>);

fn walled_in<T: FilesView>(data: &mut T, fd: &Fd) -> io::Result<Option<Walled>> {
    let walls = data.walls().clone();
    let file = match walls.any().then(|| data.ctx().table.get(fd).ok().cloned()).flatten() {
        Some(Descriptor::File(file)) => file.file,
        Some(Descriptor::Dir(dir)) => dir.dir,
        None => return Ok(None),
    };
    let room = walls.around(&file)?;
    Ok(room.map(|room| (file, room)))
}

fn walled<T: FilesView + 'static>(
    store: &Accessor<T, WalledFiles>,
    fd: &Fd,
) -> FilesystemResult<Option<Walled>> {
    Ok(store.with(|mut store| walled_in(store.data_mut(), fd))?)
}

fn room<T: FilesView + 'static>(
    store: &Accessor<T, WalledFiles>,
    fd: &Fd,
) -> FilesystemResult<Option<Arc<dyn Room>>> {
    Ok(walled(store, fd)?.map(|(_, room)| room))
}

/// Something was taken away: allowed everywhere.
fn freed(room: FilesystemResult<Option<Arc<dyn Room>>>) {
    if let Ok(Some(room)) = room {
        room.freed();
    }
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
) -> FilesystemResult<Made> {
    let Some(room) = room(store, fd)? else { return Ok(Made::freely()) };
    grow(store, &room, bytes(&*room)).await?;
    Ok(Made::new(room))
}

/// Pays for a call with these paths, as long as it lasts.
fn under_way<T: FilesView + 'static>(
    store: &Accessor<T, WalledFiles>,
    paths: &[&str],
) -> FilesystemResult<Held> {
    for path in paths {
        fits(path)?;
    }
    let bytes = paths.iter().map(|path| path.len() as u64).sum::<u64>() + CALL_BYTES;
    let walls = store.with(|mut store| store.data_mut().walls().clone());
    hold(walls.account(), bytes).map_err(|short| match short {
        Short::Fails(error) => error.into(),
        Short::Ends(error) => FilesystemError::trap(error),
    })
}

/// Whether there is something at a path; an error if it is nothing that may be opened.
async fn look<T: FilesView + 'static>(
    store: &Accessor<T, WalledFiles>,
    fd: &Fd,
    flags: PathFlags,
    path: &str,
) -> FilesystemResult<bool> {
    let (theirs, same) = (theirs(store), Resource::new_borrow(fd.rep()));
    let found = <WasiFilesystem as HostDescriptorWithStore<T>>::stat_at(
        &theirs,
        same,
        flags,
        path.to_owned(),
    );
    // What else is wrong with it is told by the call itself.
    let Ok(found) = found.await else { return Ok(false) };
    match found.type_ {
        DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink => {
            Ok(true)
        }
        // wasmtime-wasi says `other` of FIFOs and sockets.
        DescriptorType::Other(_)
        | DescriptorType::Fifo
        | DescriptorType::Socket
        | DescriptorType::CharacterDevice
        | DescriptorType::BlockDevice => Err(ErrorCode::NoSuchDevice.into()),
    }
}

/// wasmtime-wasi's view of the same store.
fn theirs<T: FilesView + 'static>(store: &Accessor<T, WalledFiles>) -> Accessor<T, WasiFilesystem> {
    store.with_getter::<WasiFilesystem>(T::filesystem)
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<ErrorCode> {
        self.files.convert_error_code(error)
    }
}

impl HostDescriptor for Files<'_> {
    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        let place = fd.rep();
        HostDescriptor::drop(&mut self.files, fd)?;
        self.walls.closed(place);
        Ok(())
    }
}

/// Methods that are wasmtime-wasi's as they are.
macro_rules! handed_on {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $outcome:ty;)*) => {
        $(async fn $name(store: &Accessor<T, Self>, $($argument: $kind),*) -> $outcome {
            let _paid = under_way(store, &[])?;
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
        fn metadata_hash(fd: Fd) -> FilesystemResult<MetadataHashValue>;
    }

    async fn is_same_object(store: &Accessor<T, Self>, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        <WasiFilesystem as HostDescriptorWithStore<T>>::is_same_object(&theirs(store), a, b).await
    }

    async fn stat_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        let _paid = under_way(store, &[&path])?;
        <WasiFilesystem as HostDescriptorWithStore<T>>::stat_at(&theirs(store), fd, flags, path)
            .await
    }

    /// A link is followed by opening what it leads to.
    async fn set_times_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let _paid = under_way(store, &[&path])?;
        if flags.contains(PathFlags::SYMLINK_FOLLOW) {
            look(store, &fd, flags, &path).await?;
        }
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::set_times_at(
            &theirs, fd, flags, path, accessed, modified,
        )
        .await
    }

    async fn readlink_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        path: String,
    ) -> FilesystemResult<String> {
        let _paid = under_way(store, &[&path])?;
        <WasiFilesystem as HostDescriptorWithStore<T>>::readlink_at(&theirs(store), fd, path).await
    }

    async fn metadata_hash_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        let _paid = under_way(store, &[&path])?;
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::metadata_hash_at(&theirs, fd, flags, path)
            .await
    }

    fn read_via_stream(
        mut store: Access<'_, T, Self>,
        fd: Fd,
        offset: u64,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let walls = store.data_mut().walls().clone();
        let elsewhere = walls.work() == Work::Elsewhere;
        if let Some(file) = elsewhere.then(|| file_of(store.data_mut(), &fd)).flatten() {
            let (told, verdict) = oneshot::channel();
            let stream = StreamReader::new(&mut store, Reader::new(file, offset, told, walls))?;
            return Ok((stream, FutureReader::new(&mut store, verdict)?));
        }
        let store = Access::<T, WasiFilesystem>::new(store.as_context_mut(), T::filesystem);
        <WasiFilesystem as HostDescriptorWithStore<T>>::read_via_stream(store, fd, offset)
    }

    fn read_directory(
        mut store: Access<'_, T, Self>,
        fd: Fd,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, FutureReader<Result<(), ErrorCode>>)> {
        let (told, verdict) = oneshot::channel();
        let stream = match lister(store.data_mut(), &fd) {
            Ok((dir, held, work)) => {
                StreamReader::new(&mut store, Lister::new(dir, held, work, told))?
            }
            Err(refusal) => {
                // The receiver is right here.
                let _ = told.send(Err(refusal?));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut store, verdict)?))
    }

    fn write_via_stream(
        mut store: Access<'_, T, Self>,
        fd: Fd,
        data: StreamReader<u8>,
        offset: u64,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        if let Some(ours) = writable(store.data_mut(), &fd).transpose() {
            return write_ours(store, ours, data, Some(offset));
        }
        let store = Access::<T, WasiFilesystem>::new(store.as_context_mut(), T::filesystem);
        <WasiFilesystem as HostDescriptorWithStore<T>>::write_via_stream(store, fd, data, offset)
    }

    fn append_via_stream(
        mut store: Access<'_, T, Self>,
        fd: Fd,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        if let Some(ours) = writable(store.data_mut(), &fd).transpose() {
            return write_ours(store, ours, data, None);
        }
        let store = Access::<T, WasiFilesystem>::new(store.as_context_mut(), T::filesystem);
        <WasiFilesystem as HostDescriptorWithStore<T>>::append_via_stream(store, fd, data)
    }

    async fn set_size(store: &Accessor<T, Self>, fd: Fd, size: u64) -> FilesystemResult<()> {
        let _paid = under_way(store, &[])?;
        let walled = walled(store, &fd)?;
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
        let _paid = under_way(store, &[&path])?;
        let made = make(store, &fd, folder_bytes).await?;
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::create_directory_at(&theirs, fd, path)
            .await?;
        made.done();
        Ok(())
    }

    async fn symlink_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        target: String,
        path: String,
    ) -> FilesystemResult<()> {
        let _paid = under_way(store, &[&target, &path])?;
        let made = make(store, &fd, |room| link_bytes(room, target.len())).await?;
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::symlink_at(&theirs, fd, target, path)
            .await?;
        made.done();
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
        let _paid = under_way(store, &[&path, &new_path])?;
        if are_apart(room(store, &fd)?.as_ref(), room(store, &new_fd)?.as_ref()) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let made = make(store, &new_fd, |_| ENTRY_BYTES).await?;
        let theirs = theirs(store);
        <WasiFilesystem as HostDescriptorWithStore<T>>::link_at(
            &theirs, fd, flags, path, new_fd, new_path,
        )
        .await?;
        made.done();
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
        let _paid = under_way(store, &[&path])?;
        let walls = store.with(|mut store| store.data_mut().walls().clone());
        let opening = store.with(|mut store| walls.open_one(store.data_mut().ctx().table));
        let opening = opening.ok_or(ErrorCode::InsufficientMemory)?;
        let is_there = look(store, &fd, path_flags, &path).await?;
        let room = room(store, &fd)?;
        let mut made = Made::freely();
        if let Some(room) = room.as_ref().filter(|_| how.contains(OpenFlags::CREATE) && !is_there) {
            grow(store, room, ENTRY_BYTES).await?;
            made = Made::new(Arc::clone(room));
        }
        let theirs = theirs(store);
        let opened = <WasiFilesystem as HostDescriptorWithStore<T>>::open_at(
            &theirs, fd, path_flags, path, how, flags,
        )
        .await?;
        opening.done(opened.rep());
        made.done();
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
        let _paid = under_way(store, &[&path])?;
        let (room, theirs) = (room(store, &fd), theirs(store));
        <WasiFilesystem as HostDescriptorWithStore<T>>::remove_directory_at(&theirs, fd, path)
            .await?;
        freed(room);
        Ok(())
    }

    async fn rename_at(
        store: &Accessor<T, Self>,
        fd: Fd,
        path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FilesystemResult<()> {
        let _paid = under_way(store, &[&path, &new_path])?;
        let (from, theirs) = (room(store, &fd)?, theirs(store));
        if are_apart(from.as_ref(), room(store, &new_fd)?.as_ref()) {
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
        let _paid = under_way(store, &[&path])?;
        let (room, theirs) = (room(store, &fd), theirs(store));
        <WasiFilesystem as HostDescriptorWithStore<T>>::unlink_file_at(&theirs, fd, path).await?;
        freed(room);
        Ok(())
    }
}

fn file_of<T: FilesView>(data: &mut T, fd: &Fd) -> Option<Arc<File>> {
    match data.ctx().table.get(fd) {
        Ok(Descriptor::File(file)) => Some(Arc::clone(&file.file)),
        Ok(Descriptor::Dir(_)) | Err(_) => None,
    }
}

/// A folder to be listed, and what pays for it.
fn lister<T: FilesView>(data: &mut T, fd: &Fd) -> Result<(Arc<File>, Held, Work), Refusal> {
    let walls = data.walls().clone();
    let dir = match data.ctx().table.get(fd) {
        Ok(Descriptor::Dir(dir)) => Arc::clone(&dir.dir),
        Ok(Descriptor::File(_)) => return Err(Ok(ErrorCode::NotDirectory)),
        Err(error) => return Err(Err(error.into())),
    };
    let held = hold(walls.account(), LISTING_BYTES).map_err(|short| match short {
        Short::Fails(error) => Ok(error.into()),
        Short::Ends(error) => Err(error),
    })?;
    Ok((dir, held, walls.work()))
}

/// A file that is written by us: behind a wall, or where it may take long. What may not be written is wasmtime-wasi's to refuse.
fn writable<T: FilesView>(data: &mut T, fd: &Fd) -> io::Result<Option<Writable>> {
    let file = match data.ctx().table.get(fd) {
        Ok(Descriptor::File(file)) if file.perms == FsPerms::ReadWrite => Arc::clone(&file.file),
        _ => return Ok(None),
    };
    let room = data.walls().around(&file)?;
    let ours = room.is_some() || data.walls().work() == Work::Elsewhere;
    Ok(ours.then_some((file, room)))
}

fn write_ours<T: FilesView + 'static>(
    mut store: Access<'_, T, WalledFiles>,
    ours: io::Result<Writable>,
    mut data: StreamReader<u8>,
    position: Option<u64>,
) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
    let (told, verdict) = oneshot::channel();
    let walls = store.data_mut().walls().clone();
    match ours {
        Ok((file, room)) => {
            data.pipe(&mut store, Writer::new(file, room, walls, position, told))?;
        }
        Err(error) => {
            data.close(&mut store)?;
            // The receiver is right here.
            let _ = told.send(Err(error.into()));
        }
    }
    FutureReader::new(&mut store, verdict)
}
