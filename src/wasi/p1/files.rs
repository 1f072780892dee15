//! All of WASI 0.1 that is not about sockets: handed on to wasmtime-wasi under its own numbers, once there is room.
//!
//! Owns: translating descriptors, and what a socket answers to a call that is for files. What takes a path is in `paths`. `sock_*` are in
//! `calls`, which puts its own in their place; those here are never reached.

use wasmtime_wasi::p1::types::{self, Errno, Error, Fd};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1;
use wasmtime_wasi::p2::FsError;
use wiggle::{GuestMemory, GuestPtr};

use super::Preview1;
use super::fds::Entry;
use super::memory;
use super::paths::fits;
use super::socket::Manner;
use super::walls;
use crate::wasi::files::whole_list_bytes;

pub(super) type Memory<'a> = GuestMemory<'a>;

impl Preview1 {
    /// wasmtime-wasi's number of a file; what a socket says is `otherwise`.
    fn file(&mut self, fd: Fd, otherwise: Errno) -> Result<Fd, Error> {
        Ok(Fd::from(self.fds.host(fd.into(), otherwise)?))
    }

    pub(super) fn dir(&mut self, fd: Fd) -> Result<Fd, Error> {
        self.file(fd, Errno::Notdir)
    }

    async fn close(&mut self, mem: &mut Memory<'_>, entry: Entry) -> Result<(), Error> {
        match entry {
            Entry::Host(host) => {
                self.walled.closed(host);
                self.standard.closed(host);
                self.wasi.fd_close(mem, Fd::from(host)).await
            }
            Entry::Socket(socket) => {
                drop(socket);
                Ok(())
            }
        }
    }
}

/// What a socket lets its holder do.
fn socket_rights() -> types::Rights {
    types::Rights::FD_READ
        | types::Rights::FD_WRITE
        | types::Rights::FD_FDSTAT_SET_FLAGS
        | types::Rights::FD_FILESTAT_GET
        | types::Rights::POLL_FD_READWRITE
        | types::Rights::SOCK_SHUTDOWN
        | types::Rights::SOCK_ACCEPT
}

fn socket_type(is_stream: bool) -> types::Filetype {
    if is_stream { types::Filetype::SocketStream } else { types::Filetype::SocketDgram }
}

impl WasiSnapshotPreview1 for Preview1 {
    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.hostcall_fuel = fuel;
        self.wasi.set_hostcall_fuel(fuel);
    }

    // ---- no descriptors

    fn args_get(
        &mut self,
        mem: &mut Memory<'_>,
        argv: GuestPtr<GuestPtr<u8>>,
        buf: GuestPtr<u8>,
    ) -> Result<(), Error> {
        self.wasi.args_get(mem, argv, buf)
    }

    fn args_sizes_get(
        &mut self,
        mem: &mut Memory<'_>,
    ) -> Result<(types::Size, types::Size), Error> {
        self.wasi.args_sizes_get(mem)
    }

    fn environ_get(
        &mut self,
        mem: &mut Memory<'_>,
        environ: GuestPtr<GuestPtr<u8>>,
        buf: GuestPtr<u8>,
    ) -> Result<(), Error> {
        self.wasi.environ_get(mem, environ, buf)
    }

    fn environ_sizes_get(
        &mut self,
        mem: &mut Memory<'_>,
    ) -> Result<(types::Size, types::Size), Error> {
        self.wasi.environ_sizes_get(mem)
    }

    fn clock_res_get(
        &mut self,
        mem: &mut Memory<'_>,
        id: types::Clockid,
    ) -> Result<types::Timestamp, Error> {
        self.wasi.clock_res_get(mem, id)
    }

    fn clock_time_get(
        &mut self,
        mem: &mut Memory<'_>,
        id: types::Clockid,
        precision: types::Timestamp,
    ) -> Result<types::Timestamp, Error> {
        self.wasi.clock_time_get(mem, id, precision)
    }

    fn proc_exit(&mut self, mem: &mut Memory<'_>, status: types::Exitcode) -> wasmtime::Error {
        self.wasi.proc_exit(mem, status)
    }

    fn proc_raise(&mut self, mem: &mut Memory<'_>, signal: types::Signal) -> Result<(), Error> {
        self.wasi.proc_raise(mem, signal)
    }

    fn sched_yield(&mut self, mem: &mut Memory<'_>) -> Result<(), Error> {
        self.wasi.sched_yield(mem)
    }

    fn random_get(
        &mut self,
        mem: &mut Memory<'_>,
        buf: GuestPtr<u8>,
        len: types::Size,
    ) -> Result<(), Error> {
        self.wasi.random_get(mem, buf, len)
    }

    // ---- files and sockets alike

    async fn fd_close(&mut self, mem: &mut Memory<'_>, fd: Fd) -> Result<(), Error> {
        let entry = self.fds.remove(fd.into()).ok_or(Errno::Badf)?;
        self.close(mem, entry).await
    }

    async fn fd_renumber(&mut self, mem: &mut Memory<'_>, from: Fd, to: Fd) -> Result<(), Error> {
        match self.fds.renumber(from.into(), to.into())? {
            Some(replaced) => self.close(mem, replaced).await,
            None => Ok(()),
        }
    }

    async fn fd_fdstat_get(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
    ) -> Result<types::Fdstat, Error> {
        let Some(socket) = self.fds.if_socket(fd.into()) else {
            let fd = self.file(fd, Errno::Badf)?;
            let mut stat = self.wasi.fd_fdstat_get(mem, fd).await?;
            stat.fs_flags |= self.standard.flags(fd.into());
            return Ok(stat);
        };
        let mut flags = types::Fdflags::empty();
        if socket.nonblocking {
            flags |= types::Fdflags::NONBLOCK;
        }
        Ok(types::Fdstat {
            fs_filetype: socket_type(socket.is_stream()),
            fs_flags: flags,
            fs_rights_base: socket_rights(),
            fs_rights_inheriting: socket_rights(),
        })
    }

    fn fd_fdstat_set_flags(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        flags: types::Fdflags,
    ) -> Result<(), Error> {
        if let Some(socket) = self.fds.if_socket(fd.into()) {
            socket.nonblocking = flags.contains(types::Fdflags::NONBLOCK);
            return Ok(());
        }
        let fd = self.file(fd, Errno::Badf)?;
        if self.standard.set_flags(fd.into(), flags) {
            return Ok(());
        }
        self.wasi.fd_fdstat_set_flags(mem, fd, flags)?;
        self.walled.set_append(fd.into(), flags.contains(types::Fdflags::APPEND));
        Ok(())
    }

    fn fd_fdstat_set_rights(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        base: types::Rights,
        inheriting: types::Rights,
    ) -> Result<(), Error> {
        if self.fds.if_socket(fd.into()).is_some() {
            return Ok(());
        }
        let fd = self.file(fd, Errno::Badf)?;
        self.wasi.fd_fdstat_set_rights(mem, fd, base, inheriting)
    }

    async fn fd_filestat_get(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
    ) -> Result<types::Filestat, Error> {
        let Some(socket) = self.fds.if_socket(fd.into()) else {
            let fd = self.file(fd, Errno::Badf)?;
            return self.wasi.fd_filestat_get(mem, fd).await;
        };
        Ok(types::Filestat {
            dev: 0,
            ino: 0,
            filetype: socket_type(socket.is_stream()),
            nlink: 1,
            size: 0,
            atim: 0,
            mtim: 0,
            ctim: 0,
        })
    }

    async fn fd_read(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        iovs: types::IovecArray,
    ) -> Result<types::Size, Error> {
        if self.fds.if_socket(fd.into()).is_none() {
            let fd = self.file(fd, Errno::Badf)?;
            if self.standard.must_not_wait(fd.into()) && !self.is_readable(fd.into()).await? {
                return Err(Errno::Again.into());
            }
            return self.wasi.fd_read(mem, fd, iovs).await;
        }
        let received = self.receive(mem, fd.into(), iovs.offset(), Manner::default()).await?;
        Ok(memory::size(received.count)?)
    }

    async fn fd_write(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        ciovs: types::CiovecArray,
    ) -> Result<types::Size, Error> {
        if self.fds.if_socket(fd.into()).is_none() {
            let fd = self.file(fd, Errno::Badf)?;
            let room = match self.walled.room(fd.into()) {
                Some(_) => {
                    let at = self.wasi.fd_tell(mem, fd)?;
                    let len = memory::first_len(memory::bytes(mem)?, ciovs.offset())?;
                    self.walled.write(fd.into(), at, len.into()).await?
                }
                None => None,
            };
            let written = self.wasi.fd_write(mem, fd, ciovs).await;
            room.filter(|_| written.is_err()).inspect(|room| room.freed());
            return written;
        }
        let sent = self.send(mem, fd.into(), ciovs.offset(), None).await?;
        Ok(memory::size(sent)?)
    }

    async fn poll_oneoff(
        &mut self,
        mem: &mut Memory<'_>,
        subs: GuestPtr<types::Subscription>,
        events: GuestPtr<types::Event>,
        count: types::Size,
    ) -> Result<types::Size, Error> {
        self.poll(mem, subs.offset(), events.offset(), count).await
    }

    // ---- files only

    async fn fd_advise(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        offset: types::Filesize,
        len: types::Filesize,
        advice: types::Advice,
    ) -> Result<(), Error> {
        let fd = self.file(fd, Errno::Spipe)?;
        self.wasi.fd_advise(mem, fd, offset, len, advice).await
    }

    fn fd_allocate(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        offset: types::Filesize,
        len: types::Filesize,
    ) -> Result<(), Error> {
        let fd = self.file(fd, Errno::Inval)?;
        self.wasi.fd_allocate(mem, fd, offset, len)
    }

    async fn fd_datasync(&mut self, mem: &mut Memory<'_>, fd: Fd) -> Result<(), Error> {
        let fd = self.file(fd, Errno::Inval)?;
        self.wasi.fd_datasync(mem, fd).await
    }

    async fn fd_filestat_set_size(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        size: types::Filesize,
    ) -> Result<(), Error> {
        let fd = self.file(fd, Errno::Inval)?;
        let _resized = self.walled.resize(fd.into(), size).await?;
        self.wasi.fd_filestat_set_size(mem, fd, size).await
    }

    async fn fd_filestat_set_times(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        flags: types::Fstflags,
    ) -> Result<(), Error> {
        let fd = self.file(fd, Errno::Inval)?;
        self.wasi.fd_filestat_set_times(mem, fd, atim, mtim, flags).await
    }

    async fn fd_pread(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        iovs: types::IovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size, Error> {
        let fd = self.file(fd, Errno::Spipe)?;
        self.wasi.fd_pread(mem, fd, iovs, offset).await
    }

    async fn fd_pwrite(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        ciovs: types::CiovecArray,
        offset: types::Filesize,
    ) -> Result<types::Size, Error> {
        let fd = self.file(fd, Errno::Spipe)?;
        let room = match self.walled.room(fd.into()) {
            Some(_) => {
                let len = memory::first_len(memory::bytes(mem)?, ciovs.offset())?;
                self.walled.write(fd.into(), offset, len.into()).await?
            }
            None => None,
        };
        let written = self.wasi.fd_pwrite(mem, fd, ciovs, offset).await;
        room.filter(|_| written.is_err()).inspect(|room| room.freed());
        written
    }

    fn fd_prestat_get(&mut self, mem: &mut Memory<'_>, fd: Fd) -> Result<types::Prestat, Error> {
        let fd = self.dir(fd)?;
        self.wasi.fd_prestat_get(mem, fd)
    }

    fn fd_prestat_dir_name(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        path: GuestPtr<u8>,
        len: types::Size,
    ) -> Result<(), Error> {
        let fd = self.dir(fd)?;
        self.wasi.fd_prestat_dir_name(mem, fd, path, len)
    }

    async fn fd_readdir(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        buf: GuestPtr<u8>,
        len: types::Size,
        cookie: types::Dircookie,
    ) -> Result<types::Size, Error> {
        let fd = self.dir(fd)?;
        // wasmtime-wasi reads the folder whole.
        let hash = self.wasi.fd_filestat_get(mem, fd).await?.ino;
        let _held = match walls::folder_of(&mut self.wasi, hash).await {
            Some(dir) => {
                let bytes = whole_list_bytes(dir, self.walled.work()).await;
                Some(self.walled.hold(bytes.map_err(FsError::from)?)?)
            }
            // It is none; wasmtime-wasi says so.
            None => None,
        };
        self.wasi.fd_readdir(mem, fd, buf, len, cookie).await
    }

    async fn fd_seek(
        &mut self,
        mem: &mut Memory<'_>,
        fd: Fd,
        offset: types::Filedelta,
        whence: types::Whence,
    ) -> Result<types::Filesize, Error> {
        let fd = self.file(fd, Errno::Spipe)?;
        self.wasi.fd_seek(mem, fd, offset, whence).await
    }

    async fn fd_sync(&mut self, mem: &mut Memory<'_>, fd: Fd) -> Result<(), Error> {
        let fd = self.file(fd, Errno::Inval)?;
        self.wasi.fd_sync(mem, fd).await
    }

    fn fd_tell(&mut self, mem: &mut Memory<'_>, fd: Fd) -> Result<types::Filesize, Error> {
        let fd = self.file(fd, Errno::Spipe)?;
        self.wasi.fd_tell(mem, fd)
    }

    async fn path_create_directory(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.make_directory(mem, dir, path).await
    }

    async fn path_filestat_get(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        flags: types::Lookupflags,
        path: GuestPtr<str>,
    ) -> Result<types::Filestat, Error> {
        fits(path)?;
        let dir = self.dir(dir)?;
        self.wasi.path_filestat_get(mem, dir, flags, path).await
    }

    async fn path_filestat_set_times(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        flags: types::Lookupflags,
        path: GuestPtr<str>,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        which: types::Fstflags,
    ) -> Result<(), Error> {
        self.set_times_at(mem, dir, (flags, path), (atim, mtim, which)).await
    }

    async fn path_link(
        &mut self,
        mem: &mut Memory<'_>,
        from: Fd,
        flags: types::Lookupflags,
        from_path: GuestPtr<str>,
        to: Fd,
        to_path: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.link(mem, (from, flags, from_path), (to, to_path)).await
    }

    async fn path_open(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        lookup: types::Lookupflags,
        path: GuestPtr<str>,
        how: types::Oflags,
        base: types::Rights,
        inheriting: types::Rights,
        flags: types::Fdflags,
    ) -> Result<Fd, Error> {
        self.open_at(mem, dir, (lookup, path), how, (base, inheriting, flags)).await
    }

    async fn path_readlink(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
        buf: GuestPtr<u8>,
        len: types::Size,
    ) -> Result<types::Size, Error> {
        fits(path)?;
        let dir = self.dir(dir)?;
        self.wasi.path_readlink(mem, dir, path, buf, len).await
    }

    async fn path_remove_directory(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.remove_directory(mem, dir, path).await
    }

    async fn path_rename(
        &mut self,
        mem: &mut Memory<'_>,
        from: Fd,
        from_path: GuestPtr<str>,
        to: Fd,
        to_path: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.rename(mem, (from, from_path), (to, to_path)).await
    }

    async fn path_symlink(
        &mut self,
        mem: &mut Memory<'_>,
        target: GuestPtr<str>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.symlink(mem, target, dir, path).await
    }

    async fn path_unlink_file(
        &mut self,
        mem: &mut Memory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.unlink(mem, dir, path).await
    }

    // ---- in `calls`

    fn sock_accept(&mut self, _: &mut Memory<'_>, _: Fd, _: types::Fdflags) -> Result<Fd, Error> {
        Err(Errno::Nosys.into())
    }

    fn sock_recv(
        &mut self,
        _: &mut Memory<'_>,
        _: Fd,
        _: types::IovecArray,
        _: types::Riflags,
    ) -> Result<(types::Size, types::Roflags), Error> {
        Err(Errno::Nosys.into())
    }

    fn sock_send(
        &mut self,
        _: &mut Memory<'_>,
        _: Fd,
        _: types::CiovecArray,
        _: types::Siflags,
    ) -> Result<types::Size, Error> {
        Err(Errno::Nosys.into())
    }

    fn sock_shutdown(&mut self, _: &mut Memory<'_>, _: Fd, _: types::Sdflags) -> Result<(), Error> {
        Err(Errno::Nosys.into())
    }
}
