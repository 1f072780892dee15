//! What WASI 0.1 does with paths, once there is room for it.
//!
//! Owns: asking before a file, folder or link comes into being; refusing what is neither a file nor a folder, and more open files than
//! there may be. Is not: doing it, which is wasmtime-wasi's.
//!
//! Opening a FIFO waits until somebody opens its other end, which nobody may ever do, and a device does whatever its driver does. WASI
//! has no "do not wait" for it. So they are refused as a socket is by Linux: `nxio`.

use std::sync::Arc;

use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p1::types::{self, Errno, Error, Fd, Filetype};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1 as _;
use wiggle::GuestPtr;

use super::Preview1;
use super::fds::Entry;
use super::files::Memory;
use super::walls;
use crate::limits::ENTRY_BYTES;
use crate::wasi::files::{FILES_MAX, Made, PATH_BYTES_MAX, folder_bytes, has_places, link_bytes};

/// Places that must be left when a file is opened: calls for files take two of them for as long as they last, and a module that
/// could not even close anything would be lost.
const SPARE_PLACES: usize = 8;

/// A path that is longer is not worth a copy, of which a call makes several.
pub(super) fn fits(path: GuestPtr<str>) -> Result<(), Errno> {
    if path.len() as usize > PATH_BYTES_MAX { Err(Errno::Nametoolong) } else { Ok(()) }
}

/// A path, and whether a link at its end is followed.
type Looked = (types::Lookupflags, GuestPtr<str>);

impl Preview1 {
    /// Whether there is something at a path of the host folder `dir`; an error if it is nothing that may be opened.
    async fn look(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        (lookup, path): Looked,
    ) -> Result<bool, Error> {
        // What else is wrong with it is told by the call itself.
        let Ok(found) = self.wasi.path_filestat_get(mem, dir, lookup, path).await else {
            return Ok(false);
        };
        match found.filetype {
            Filetype::RegularFile | Filetype::Directory | Filetype::SymbolicLink => Ok(true),
            // wasmtime-wasi says `unknown` of a FIFO.
            Filetype::Unknown
            | Filetype::BlockDevice
            | Filetype::CharacterDevice
            | Filetype::SocketDgram
            | Filetype::SocketStream => Err(Errno::Nxio.into()),
        }
    }

    pub(super) async fn open_at(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        (lookup, path): Looked,
        how: types::Oflags,
        (base, inheriting, flags): (types::Rights, types::Rights, types::Fdflags),
    ) -> Result<Fd, Error> {
        fits(path)?;
        let dir = self.dir(dir)?;
        if !self.fds.has_room()
            || self.fds.files() >= FILES_MAX
            || !has_places(self.wasi.ctx().table, SPARE_PLACES)
        {
            return Err(Errno::Mfile.into());
        }
        let is_there = self.look(mem, dir, (lookup, path)).await?;
        let Some(room) = self.walled.room(dir.into()) else {
            let opened =
                self.wasi.path_open(mem, dir, lookup, path, how, base, inheriting, flags).await?;
            return Ok(Fd::from(self.fds.insert(Entry::Host(opened.into()))?));
        };
        let mut made = Made::freely();
        if how.contains(types::Oflags::CREAT) && !is_there {
            self.walled.grow(&room, ENTRY_BYTES).await?;
            made = Made::new(Arc::clone(&room));
        }
        let place = walls::next_place(self.wasi.ctx().table);
        let opened =
            self.wasi.path_open(mem, dir, lookup, path, how, base, inheriting, flags).await?;
        made.done();
        if how.contains(types::Oflags::TRUNC) {
            room.freed();
        }
        let file = place.and_then(|place| walls::file_at(self.wasi.ctx().table, place));
        let append = flags.contains(types::Fdflags::APPEND);
        self.walled.opened(opened.into(), room, file.as_ref(), append);
        Ok(Fd::from(self.fds.insert(Entry::Host(opened.into()))?))
    }

    /// A link is followed by opening what it leads to.
    pub(super) async fn set_times_at(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        (lookup, path): Looked,
        (atim, mtim, which): (types::Timestamp, types::Timestamp, types::Fstflags),
    ) -> Result<(), Error> {
        fits(path)?;
        let dir = self.dir(dir)?;
        if lookup.contains(types::Lookupflags::SYMLINK_FOLLOW) {
            self.look(mem, dir, (lookup, path)).await?;
        }
        self.wasi.path_filestat_set_times(mem, dir, lookup, path, atim, mtim, which).await
    }

    pub(super) async fn make_directory(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        fits(path)?;
        let dir = self.dir(dir)?;
        let made = self.walled.make(dir.into(), folder_bytes).await?;
        self.wasi.path_create_directory(mem, dir, path).await?;
        made.done();
        Ok(())
    }

    pub(super) async fn link(
        &mut self,
        mem: &mut Memory<'_>,
        (from, flags, from_path): (Fd, types::Lookupflags, GuestPtr<str>),
        (to, to_path): (Fd, GuestPtr<str>),
    ) -> Result<(), Error> {
        fits(from_path)?;
        fits(to_path)?;
        let (from, to) = (self.dir(from)?, self.dir(to)?);
        if self.walled.are_apart(from.into(), to.into()) {
            return Err(Errno::Xdev.into());
        }
        let made = self.walled.make(to.into(), |_| ENTRY_BYTES).await?;
        self.wasi.path_link(mem, from, flags, from_path, to, to_path).await?;
        made.done();
        Ok(())
    }

    pub(super) async fn symlink(
        &mut self,
        mem: &mut Memory<'_>,
        target: GuestPtr<str>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        fits(target)?;
        fits(path)?;
        let dir = self.dir(dir)?;
        let len = target.len() as usize;
        let made = self.walled.make(dir.into(), |room| link_bytes(room, len)).await?;
        self.wasi.path_symlink(mem, target, dir, path).await?;
        made.done();
        Ok(())
    }

    pub(super) async fn rename(
        &mut self,
        mem: &mut Memory<'_>,
        (from, from_path): (Fd, GuestPtr<str>),
        (to, to_path): (Fd, GuestPtr<str>),
    ) -> Result<(), Error> {
        fits(from_path)?;
        fits(to_path)?;
        let (from, to) = (self.dir(from)?, self.dir(to)?);
        if self.walled.are_apart(from.into(), to.into()) {
            return Err(Errno::Xdev.into());
        }
        self.wasi.path_rename(mem, from, from_path, to, to_path).await?;
        // What had the new name before may be gone.
        self.walled.freed(to.into());
        Ok(())
    }

    pub(super) async fn remove_directory(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        fits(path)?;
        let dir = self.dir(dir)?;
        self.wasi.path_remove_directory(mem, dir, path).await?;
        self.walled.freed(dir.into());
        Ok(())
    }

    pub(super) async fn unlink(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        fits(path)?;
        let dir = self.dir(dir)?;
        self.wasi.path_unlink_file(mem, dir, path).await?;
        self.walled.freed(dir.into());
        Ok(())
    }
}
