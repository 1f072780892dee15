//! `wasi:filesystem/types` 0.2 with walls.
//!
//! Owns: asking before a file, folder or link comes into being or grows, and before anything is opened; lists of folders. Is not: anything
//! else of the interface, which is handed on to wasmtime-wasi's as it comes.

use rustix::fs::FileType;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, HostDescriptor, MetadataHashValue, NewTimestamp, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use std::fs::File;
use std::sync::Arc;

use super::listing::{LISTING_BYTES, Listing};
use super::stream::{Input, Output};
use super::{
    FilesView, Made, Room, Short, Walls, are_apart, fits, folder_bytes, growth, has_places, hold,
    link_bytes, no_space, size_of,
};
use crate::limits::ENTRY_BYTES;

type Fd = Resource<Descriptor>;

/// Everything that the interface's functions work on.
#[allow(missing_debug_implementations, reason = "what it is made of has none")]
pub struct Files<'a> {
    fs: WasiFilesystemCtxView<'a>,
    walls: Walls,
}

/// Marks our functions in the linker.
#[derive(Debug)]
pub struct WalledFiles;

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
        Files { fs: data.filesystem(), walls }
    })
}

/// A file or folder behind a wall, and the room that it is in.
type Walled = (Arc<File>, Arc<dyn Room>);

impl Files<'_> {
    fn handle(&self, fd: &Fd) -> Option<Arc<File>> {
        match self.fs.table.get(fd).ok()? {
            Descriptor::File(file) => Some(Arc::clone(&file.file)),
            Descriptor::Dir(dir) => Some(Arc::clone(&dir.dir)),
        }
    }

    /// A file or folder and the room that it is in; `None` where there is no wall, or no such descriptor.
    fn walled(&self, fd: &Fd) -> FsResult<Option<Walled>> {
        let Some(file) = self.walls.any().then(|| self.handle(fd)).flatten() else {
            return Ok(None);
        };
        let room = self.walls.around(&file)?;
        Ok(room.map(|room| (file, room)))
    }

    fn room(&self, fd: &Fd) -> FsResult<Option<Arc<dyn Room>>> {
        Ok(self.walled(fd)?.map(|(_, room)| room))
    }

    /// Something was taken away: allowed everywhere.
    fn freed(room: FsResult<Option<Arc<dyn Room>>>) {
        if let Ok(Some(room)) = room {
            room.freed();
        }
    }

    async fn grow(&mut self, room: &Arc<dyn Room>, bytes: u64) -> FsResult<()> {
        if self.walls.grow(room, bytes).await { Ok(()) } else { Err(no_space().into()) }
    }

    /// Before something with a name comes into being.
    async fn make(&mut self, fd: &Fd, bytes: impl Fn(&dyn Room) -> u64) -> FsResult<Made> {
        let Some(room) = self.room(fd)? else { return Ok(Made::freely()) };
        self.grow(&room, bytes(&*room)).await?;
        Ok(Made::new(room))
    }

    /// A place for one more stream.
    fn place(&mut self) -> FsResult<()> {
        if has_places(self.fs.table, 1) {
            Ok(())
        } else {
            Err(ErrorCode::InsufficientMemory.into())
        }
    }

    /// Whether there is something at a path; an error if it is nothing that may be opened.
    async fn look(&mut self, fd: &Fd, flags: PathFlags, path: &str) -> FsResult<bool> {
        fits(path)?;
        // What else is wrong with it is told by the call itself.
        let Ok(found) = self.fs.stat_at(again(fd), flags, path.to_owned()).await else {
            return Ok(false);
        };
        match found.type_ {
            DescriptorType::RegularFile
            | DescriptorType::Directory
            | DescriptorType::SymbolicLink => Ok(true),
            // wasmtime-wasi says `unknown` of FIFOs and sockets.
            DescriptorType::Unknown
            | DescriptorType::Fifo
            | DescriptorType::Socket
            | DescriptorType::CharacterDevice
            | DescriptorType::BlockDevice => Err(ErrorCode::NoSuchDevice.into()),
        }
    }

    /// The stream that a file is written through, in a stream of ours.
    fn wrap(
        &mut self,
        fd: &Fd,
        stream: Resource<DynOutputStream>,
        position: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let inner = self.fs.table.delete(stream)?;
        let Descriptor::File(file) = self.fs.table.get(fd)? else {
            return Err(ErrorCode::BadDescriptor.into());
        };
        let file = Arc::clone(&file.file);
        let room = self.walls.around(&file)?;
        let stream = Output::new(inner, file, room, self.walls.clone(), position);
        let stream: DynOutputStream = Box::new(stream);
        Ok(self.fs.table.push(stream)?)
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.fs.convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.fs.filesystem_error_code(error)
    }
}

/// The same descriptor, to be used once more.
fn again(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

/// Methods that are wasmtime-wasi's as they are.
macro_rules! handed_on {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $outcome:ty;)*) => {
        $(async fn $name(&mut self, $($argument: $kind),*) -> $outcome {
            self.fs.$name($($argument),*).await
        })*
    };
}

impl HostDescriptor for Files<'_> {
    handed_on! {
        fn advise(fd: Fd, offset: u64, len: u64, advice: Advice) -> FsResult<()>;
        fn sync_data(fd: Fd) -> FsResult<()>;
        fn get_flags(fd: Fd) -> FsResult<DescriptorFlags>;
        fn get_type(fd: Fd) -> FsResult<DescriptorType>;
        fn set_times(fd: Fd, accessed: NewTimestamp, modified: NewTimestamp) -> FsResult<()>;
        fn read(fd: Fd, len: u64, offset: u64) -> FsResult<(Vec<u8>, bool)>;
        fn sync(fd: Fd) -> FsResult<()>;
        fn stat(fd: Fd) -> FsResult<DescriptorStat>;
        fn is_same_object(a: Fd, b: Fd) -> wasmtime::Result<bool>;
        fn metadata_hash(fd: Fd) -> FsResult<MetadataHashValue>;
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        fits(&path)?;
        self.fs.stat_at(fd, flags, path).await
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        fits(&path)?;
        self.fs.readlink_at(fd, path).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        fits(&path)?;
        self.fs.metadata_hash_at(fd, flags, path).await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        let place = fd.rep();
        HostDescriptor::drop(&mut self.fs, fd)?;
        self.walls.closed(place);
        Ok(())
    }

    /// A link is followed by opening what it leads to.
    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        fits(&path)?;
        if flags.contains(PathFlags::SYMLINK_FOLLOW) {
            self.look(&fd, flags, &path).await?;
        }
        self.fs.set_times_at(fd, flags, path, accessed, modified).await
    }

    fn read_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynInputStream>> {
        self.place()?;
        let stream = self.fs.read_via_stream(fd, offset)?;
        let inner = self.fs.table.delete(stream)?;
        let stream: DynInputStream = Box::new(Input::new(inner, self.walls.clone()));
        Ok(self.fs.table.push(stream)?)
    }

    fn write_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        self.place()?;
        let stream = self.fs.write_via_stream(again(&fd), offset)?;
        self.wrap(&fd, stream, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.place()?;
        let stream = self.fs.append_via_stream(again(&fd))?;
        self.wrap(&fd, stream, None)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        self.place()?;
        let Descriptor::Dir(dir) = self.fs.table.get(&fd)? else {
            return Err(ErrorCode::NotDirectory.into());
        };
        let dir = Arc::clone(&dir.dir);
        let held = hold(self.walls.account(), LISTING_BYTES).map_err(|short| match short {
            Short::Fails(error) => FsError::from(error),
            Short::Ends(error) => FsError::trap(error),
        })?;
        let listing = Listing::of(dir, held, self.walls.work()).await?;
        let listing = self.fs.table.push(Some(listing))?;
        Ok(Resource::new_own(listing.rep()))
    }

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        let Some((file, room)) = self.walled(&fd)? else {
            return self.fs.write(fd, bytes, offset).await;
        };
        let end = offset.saturating_add(bytes.len() as u64);
        self.grow(&room, growth(&*room, size_of(&file), end)).await?;
        let (asked, written) = (bytes.len() as u64, self.fs.write(fd, bytes, offset).await);
        if written.as_ref().ok() != Some(&asked) {
            room.freed();
        }
        written
    }

    async fn set_size(&mut self, fd: Fd, size: u64) -> FsResult<()> {
        let Some((file, room)) = self.walled(&fd)? else {
            return self.fs.set_size(fd, size).await;
        };
        let before = size_of(&file);
        self.grow(&room, growth(&*room, before, size)).await?;
        let done = self.fs.set_size(fd, size).await;
        if size < before || done.is_err() {
            room.freed();
        }
        done
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        fits(&path)?;
        let made = self.make(&fd, folder_bytes).await?;
        self.fs.create_directory_at(fd, path).await?;
        made.done();
        Ok(())
    }

    async fn symlink_at(&mut self, fd: Fd, target: String, path: String) -> FsResult<()> {
        fits(&target)?;
        fits(&path)?;
        let made = self.make(&fd, |room| link_bytes(room, target.len())).await?;
        self.fs.symlink_at(fd, target, path).await?;
        made.done();
        Ok(())
    }

    async fn link_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FsResult<()> {
        fits(&path)?;
        fits(&new_path)?;
        if are_apart(self.room(&fd)?.as_ref(), self.room(&new_fd)?.as_ref()) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let made = self.make(&new_fd, |_| ENTRY_BYTES).await?;
        self.fs.link_at(fd, flags, path, new_fd, new_path).await?;
        made.done();
        Ok(())
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let opening = self.walls.open_one(self.fs.table).ok_or(ErrorCode::InsufficientMemory)?;
        let is_there = self.look(&fd, path_flags, &path).await?;
        let room = self.room(&fd)?;
        let mut made = Made::freely();
        if let Some(room) = room.as_ref().filter(|_| how.contains(OpenFlags::CREATE) && !is_there) {
            self.grow(room, ENTRY_BYTES).await?;
            made = Made::new(Arc::clone(room));
        }
        let opened = self.fs.open_at(fd, path_flags, path, how, flags).await?;
        opening.done(opened.rep());
        made.done();
        if let Some(room) = room {
            if how.contains(OpenFlags::TRUNCATE) {
                room.freed();
            }
            if let Ok(Descriptor::File(file)) = self.fs.table.get(&opened) {
                room.opened(&file.file);
            }
        }
        Ok(opened)
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        fits(&path)?;
        let room = self.room(&fd);
        self.fs.remove_directory_at(fd, path).await?;
        Self::freed(room);
        Ok(())
    }

    async fn rename_at(
        &mut self,
        fd: Fd,
        path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FsResult<()> {
        fits(&path)?;
        fits(&new_path)?;
        let room = self.room(&fd)?;
        if are_apart(room.as_ref(), self.room(&new_fd)?.as_ref()) {
            return Err(ErrorCode::CrossDevice.into());
        }
        self.fs.rename_at(fd, path, new_fd, new_path).await?;
        // What had the new name before may be gone.
        room.inspect(|room| room.freed());
        Ok(())
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        fits(&path)?;
        let room = self.room(&fd);
        self.fs.unlink_file_at(fd, path).await?;
        Self::freed(room);
        Ok(())
    }
}

impl types::HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let place = Resource::<Option<Listing>>::new_borrow(stream.rep());
        let Some(mut listing) = self.fs.table.get_mut(&place)?.take() else {
            // An earlier call failed.
            return Ok(None);
        };
        let next = match listing.next_here() {
            Some(next) => next,
            None => {
                let (back, next) = listing.next_elsewhere().await?;
                listing = back;
                next
            }
        };
        *self.fs.table.get_mut(&place)? = Some(listing);
        let Some((name, kind)) = next? else { return Ok(None) };
        let name = name.into_string().map_err(|_| ErrorCode::IllegalByteSequence)?;
        Ok(Some(DirectoryEntry { type_: type_of(kind), name }))
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.fs.table.delete(Resource::<Option<Listing>>::new_own(stream.rep()))?;
        Ok(())
    }
}

fn type_of(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}
