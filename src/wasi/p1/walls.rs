//! Walls round folders (`wasi::files`), for WASI 0.1.
//!
//! Owns: which descriptor is behind which wall, and asking before something grows. Is not: doing it; `files` calls these around
//! wasmtime-wasi's functions, with its numbers of the descriptors.
//!
//! What is opened in a folder is behind the folder's wall. wasmtime-wasi opens no path that leads out of one.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Weak};

use wasmtime::component::{Resource, ResourceTable, ResourceTableError};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::{Errno, Error};
use wasmtime_wasi::p2::bindings::filesystem::types::HostDescriptor as _;

use crate::wasi::account::Held;
use crate::wasi::files::{Made, Room, Walls, Work, growth, size_of};

/// Descriptors behind walls.
#[derive(Debug)]
pub(super) struct Walled {
    walls: Walls,
    /// By wasmtime-wasi's number.
    behind: HashMap<u32, Behind>,
}

#[derive(Debug)]
struct Behind {
    room: Arc<dyn Room>,
    /// Gone for folders.
    file: Weak<File>,
    append: bool,
}

impl Walled {
    /// `folders`: those that are open from the start, with wasmtime-wasi's numbers.
    pub(super) fn new(
        walls: Walls,
        folders: impl IntoIterator<Item = (u32, Arc<dyn Room>)>,
    ) -> Self {
        let behind = |(fd, room)| (fd, Behind { room, file: Weak::new(), append: false });
        Self { walls, behind: folders.into_iter().map(behind).collect() }
    }

    /// Memory for what a call holds; given back when the value goes.
    pub(super) fn hold(&self, bytes: u64) -> Result<Held, Error> {
        Held::take(self.walls.account(), bytes).map_err(|refused| match refused.may_go_on {
            true => Errno::Nomem.into(),
            false => Error::trap(refused.end),
        })
    }

    /// Where file work is done.
    pub(super) fn work(&self) -> Work {
        self.walls.work()
    }

    pub(super) fn room(&self, fd: u32) -> Option<Arc<dyn Room>> {
        self.behind.get(&fd).map(|behind| Arc::clone(&behind.room))
    }

    /// Asks for `bytes` more in a room.
    pub(super) async fn grow(&self, room: &Arc<dyn Room>, bytes: u64) -> Result<(), Errno> {
        if self.walls.grow(room, bytes).await { Ok(()) } else { Err(Errno::Nospc) }
    }

    /// Before something with a name comes into being in the folder `fd`.
    pub(super) async fn make(
        &self,
        fd: u32,
        bytes: impl Fn(&dyn Room) -> u64,
    ) -> Result<Made, Errno> {
        let Some(room) = self.room(fd) else { return Ok(Made::freely()) };
        self.grow(&room, bytes(&*room)).await?;
        Ok(Made::new(room))
    }

    /// Something in the folder `fd` was removed, or replaced.
    pub(super) fn freed(&self, fd: u32) {
        if let Some(behind) = self.behind.get(&fd) {
            behind.room.freed();
        }
    }

    /// Before `len` bytes are written to the file `fd` at `at`, or at the end of a file that is appended to. The room, if there is a wall:
    /// to be told if they were not written.
    pub(super) async fn write(
        &self,
        fd: u32,
        at: u64,
        len: u64,
    ) -> Result<Option<Arc<dyn Room>>, Errno> {
        let Some(behind) = self.behind.get(&fd) else { return Ok(None) };
        let size = behind.file.upgrade().map_or(0, |file| size_of(&file));
        let end = if behind.append { size } else { at }.saturating_add(len);
        self.grow(&behind.room, growth(&*behind.room, size, end)).await?;
        Ok(Some(Arc::clone(&behind.room)))
    }

    /// Before the file `fd` gets a new size.
    pub(super) async fn resize(&self, fd: u32, size: u64) -> Result<Made, Errno> {
        let Some(behind) = self.behind.get(&fd) else { return Ok(Made::freely()) };
        let before = behind.file.upgrade().map_or(0, |file| size_of(&file));
        self.grow(&behind.room, growth(&*behind.room, before, size)).await?;
        // Worth measuring again however it ends: it may become shorter.
        Ok(Made::new(Arc::clone(&behind.room)))
    }

    /// What was opened as `fd` in a room.
    pub(super) fn opened(
        &mut self,
        fd: u32,
        room: Arc<dyn Room>,
        file: Option<&Arc<File>>,
        append: bool,
    ) {
        if let Some(file) = file {
            room.opened(file);
        }
        let file = file.map(Arc::downgrade).unwrap_or_default();
        self.behind.insert(fd, Behind { room, file, append });
    }

    pub(super) fn set_append(&mut self, fd: u32, append: bool) {
        if let Some(behind) = self.behind.get_mut(&fd) {
            behind.append = append;
        }
    }

    pub(super) fn closed(&mut self, fd: u32) {
        self.behind.remove(&fd);
    }

    /// Whether files cannot be moved from the one folder to the other.
    pub(super) fn are_apart(&self, a: u32, b: u32) -> bool {
        crate::wasi::files::are_apart(self.room(a).as_ref(), self.room(b).as_ref())
    }
}

/// Where the next resource will stand: wasmtime-wasi does not tell what it opened.
pub(super) fn next_place(table: &mut ResourceTable) -> Option<u32> {
    let probe = table.push(()).ok()?;
    let place = probe.rep();
    table.delete(probe).ok()?;
    Some(place)
}

/// The folder that wasmtime-wasi knows by this hash, which it gives as the number of its inode: it does not tell which of its resources a
/// descriptor is.
pub(super) async fn folder_of(wasi: &mut WasiP1Ctx, hash: u64) -> Option<Arc<File>> {
    let mut left = wasi.ctx().table.iter_mut().count();
    let mut place = 0;
    while left > 0 {
        let fd = Resource::<Descriptor>::new_borrow(place);
        let dir = match wasi.ctx().table.get(&fd) {
            Ok(Descriptor::Dir(dir)) => Some(Arc::clone(&dir.dir)),
            Ok(Descriptor::File(_)) | Err(ResourceTableError::WrongType) => None,
            Err(_) => {
                place += 1;
                continue;
            }
        };
        if let Some(dir) = dir
            && wasi.filesystem().metadata_hash(fd).await.is_ok_and(|found| found.lower == hash)
        {
            return Some(dir);
        }
        (left, place) = (left - 1, place + 1);
    }
    None
}

/// The file at a place, if it is one.
pub(super) fn file_at(table: &ResourceTable, place: u32) -> Option<Arc<File>> {
    match table.get(&Resource::<Descriptor>::new_borrow(place)) {
        Ok(Descriptor::File(file)) => Some(Arc::clone(&file.file)),
        Ok(Descriptor::Dir(_)) | Err(_) => None,
    }
}
