//! The table of a module's descriptors.
//!
//! Owns: which number stands for what. Is not: what it stands for. The lowest free number is given out, as POSIX has it.

use std::fmt;

use super::FIRST_OPEN;
use super::errno::Errno;
use super::socket::Socket;

/// Descriptors that a module may have open: as many as wasmtime-wasi keeps resources for it, and as many sockets as the network
/// lets a member have.
pub(super) const FDS_MAX: usize = 8192;

/// What a descriptor stands for.
pub(super) enum Entry {
    /// wasmtime-wasi's, under this number of its own.
    Host(u32),
    Socket(Box<Socket>),
}

pub(super) struct Fds {
    entries: Vec<Option<Entry>>,
}

impl Fds {
    /// The standard streams, then sockets, then directories.
    pub(super) fn new(sockets: impl Iterator<Item = Socket>, directories: usize) -> Self {
        let mut entries: Vec<_> = (0..FIRST_OPEN).map(|fd| Some(Entry::Host(fd))).collect();
        entries.extend(sockets.map(|socket| Some(Entry::Socket(Box::new(socket)))));
        entries.extend((FIRST_OPEN..).take(directories).map(|fd| Some(Entry::Host(fd))));
        Self { entries }
    }

    fn entry(&mut self, fd: u32) -> Option<&mut Entry> {
        self.entries.get_mut(fd as usize)?.as_mut()
    }

    /// wasmtime-wasi's number; `otherwise` is what to say of a socket.
    pub(super) fn host(&mut self, fd: u32, otherwise: Errno) -> Result<u32, Errno> {
        match self.entry(fd) {
            Some(Entry::Host(host)) => Ok(*host),
            Some(Entry::Socket(_)) => Err(otherwise),
            None => Err(Errno::Badf),
        }
    }

    pub(super) fn socket(&mut self, fd: u32) -> Result<&mut Socket, Errno> {
        match self.entry(fd) {
            Some(Entry::Socket(socket)) => Ok(socket),
            Some(Entry::Host(_)) => Err(Errno::Notsock),
            None => Err(Errno::Badf),
        }
    }

    /// The socket, if it is one.
    pub(super) fn if_socket(&mut self, fd: u32) -> Option<&mut Socket> {
        match self.entry(fd) {
            Some(Entry::Socket(socket)) => Some(socket),
            Some(Entry::Host(_)) | None => None,
        }
    }

    /// Gives it the lowest free number.
    pub(super) fn insert(&mut self, entry: Entry) -> Result<u32, Errno> {
        let free = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        if free >= FDS_MAX {
            return Err(Errno::Mfile);
        }
        if free == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[free] = Some(entry);
        u32::try_from(free).map_err(|_| Errno::Mfile)
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < FDS_MAX || self.entries.iter().any(Option::is_none)
    }

    /// How many of wasmtime-wasi's are open: files, folders, standard streams.
    pub(super) fn files(&self) -> usize {
        self.entries.iter().flatten().filter(|entry| matches!(entry, Entry::Host(_))).count()
    }

    /// Frees the number.
    pub(super) fn remove(&mut self, fd: u32) -> Option<Entry> {
        self.entries.get_mut(fd as usize)?.take()
    }

    /// Moves `from` to `to`, which is open; returns what `to` stood for.
    pub(super) fn renumber(&mut self, from: u32, to: u32) -> Result<Option<Entry>, Errno> {
        if self.entry(from).is_none() || self.entry(to).is_none() {
            return Err(Errno::Badf);
        }
        if from == to {
            return Ok(None);
        }
        let moved = self.remove(from);
        Ok(std::mem::replace(&mut self.entries[to as usize], moved))
    }
}

impl fmt::Debug for Fds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.entries.iter().flatten().count();
        f.debug_struct("Fds").field("open", &open).finish_non_exhaustive()
    }
}
