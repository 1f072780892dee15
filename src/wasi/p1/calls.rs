//! The socket functions that modules import, at their raw signatures.
//!
//! Owns: WASI 0.1's own four (`sock_accept`, `sock_recv`, `sock_send`, `sock_shutdown`), and those that WasmEdge has added and programs for
//! wasip1 have come to use: `sock_open`, `sock_bind`, `sock_listen`, `sock_connect`, `sock_recv_from`, `sock_send_to`,
//! `sock_getsockopt`, `sock_setsockopt`, `sock_getlocaladdr`, `sock_getpeeraddr`, `sock_getaddrinfo`. Is not: what they do (`socket.rs`).
//!
//! | function | first generation (the Rust crate) | second (Go's `net` for wasip1) |
//! |---|---|---|
//! | `sock_accept` | fd, *fd | fd, flags, *fd (WASI's own) |
//! | `sock_getlocaladdr`, `sock_getpeeraddr` | fd, *addr, *type, *port | fd, *addr, *port |
//! | `sock_recv_from` | fd, *iovs, n, *addr, flags, *n, *flags | the same with *port after flags |
//!
//! Every function answers an errno; a bad pointer is `fault`, never a trap.

use wasmtime::{Caller, Extern, Linker, Module};
use wasmtime_wasi::p1::wasi_snapshot_preview1;
use wiggle::GuestMemory;

use super::errno::Errno;
use super::fds::Entry;
use super::lookup::Question;
use super::memory;
use super::options::Value;
use super::socket::{Manner, Socket};
use super::{PREVIEW1, Preview1, Preview1View};
use crate::net::{Family, Shutdown};

/// `fdflags`: an accepted socket does not wait.
const NONBLOCK: u32 = 4;

/// `riflags` and `roflags`.
const PEEK: u32 = 1;
const WAIT_ALL: u32 = 2;
const TRUNCATED: u32 = 1;

/// A value of a socket option is laid out below this address by nobody: a smaller "pointer" is a length.
const LEAST_POINTER: u32 = 64;

type Outcome = Result<(), Errno>;

fn errno(outcome: Outcome) -> i32 {
    let errno = outcome.err().unwrap_or(Errno::Success);
    i32::from(u16::from(errno))
}

/// Gives a call the module's memory and descriptors. A module without a memory gets `fault`.
macro_rules! with_memory {
    ($caller:ident, $mem:ident, $p1:ident => $body:expr) => {{
        let Some(Extern::Memory(memory)) = $caller.get_export("memory") else {
            return Ok(errno(Err(Errno::Fault)));
        };
        let (bytes, data) = memory.data_and_store_mut(&mut $caller);
        #[allow(unused_mut, reason = "not every call needs it so")]
        let (mut $mem, $p1) = (GuestMemory::Unshared(bytes), data.preview1());
        Ok::<i32, wasmtime::Error>(errno($body))
    }};
}

/// Links a function that may wait.
macro_rules! waiting {
    ($linker:ident, $name:literal, ($($arg:ident),*), $mem:ident, $p1:ident => $body:expr) => {
        $linker.func_wrap_async(
            PREVIEW1,
            $name,
            |mut caller: Caller<'_, T>, ($($arg,)*): ($(waiting!(@u32 $arg),)*)| {
                Box::new(async move { with_memory!(caller, $mem, $p1 => $body) })
            },
        )?
    };
    (@u32 $arg:ident) => { u32 };
}

/// Links a function that answers at once.
macro_rules! at_once {
    ($linker:ident, $name:literal, ($($arg:ident),*), $mem:ident, $p1:ident => $body:expr) => {
        $linker.func_wrap(
            PREVIEW1,
            $name,
            |mut caller: Caller<'_, T>, $($arg: u32),*| -> wasmtime::Result<i32> {
                with_memory!(caller, $mem, $p1 => $body)
            },
        )?
    };
}

/// Links all that have one signature.
pub(super) fn add_to_linker<T: Preview1View + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    prestat(linker)?;
    waiting!(linker, "sock_accept", (fd, flags, out), mem, p1 =>
        p1.accept(&mut mem, fd, flags, out).await);
    waiting!(linker, "sock_recv", (fd, iovs, count, flags, size, out), mem, p1 =>
        p1.recv(&mut mem, fd, (iovs, count), flags, (size, out), None).await);
    waiting!(linker, "sock_send", (fd, iovs, count, _flags, size), mem, p1 =>
        p1.send_to(&mut mem, fd, (iovs, count), None, size).await);
    at_once!(linker, "sock_shutdown", (fd, how), mem, p1 => {
        let _ = &mem;
        p1.shutdown(fd, how)
    });
    at_once!(linker, "sock_open", (family, kind, out), mem, p1 =>
        p1.open(&mut mem, family, kind, out));
    at_once!(linker, "sock_bind", (fd, address, port), mem, p1 =>
        p1.bind(&mut mem, fd, address, port));
    at_once!(linker, "sock_listen", (fd, backlog), mem, p1 => {
        let _ = &mem;
        p1.fds.socket(fd).and_then(|socket| socket.listen(backlog.into()))
    });
    waiting!(linker, "sock_connect", (fd, address, port), mem, p1 =>
        p1.connect(&mut mem, fd, address, port).await);
    waiting!(linker, "sock_send_to", (fd, iovs, count, address, port, _flags, size), mem, p1 =>
        p1.send_to(&mut mem, fd, (iovs, count), Some((address, port)), size).await);
    at_once!(linker, "sock_getsockopt", (fd, level, name, value, len), mem, p1 =>
        p1.option(&mut mem, (fd, level, name), value, len));
    at_once!(linker, "sock_setsockopt", (fd, level, name, value, len), mem, p1 =>
        p1.set_option(&mut mem, (fd, level, name), value, len));
    waiting!(linker, "sock_getaddrinfo", (name, name_len, service, service_len, hints, results, max, count),
    mem, p1 => {
        let question = Question {
            name: (name, name_len),
            service: (service, service_len),
            hints,
            results,
            results_max: max,
            count,
        };
        p1.look_up(&mut mem, question).await
    });
    Ok(())
}

/// Links those whose signature depends on who imports them, as `module` does. `linker` is its alone.
///
/// # Errors
/// wasmtime's; a bug of ours.
pub fn add_variants<T: Preview1View + 'static>(
    linker: &mut Linker<T>,
    module: &Module,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    for import in module.imports().filter(|import| import.module() == PREVIEW1) {
        let Some(ty) = import.ty().func().cloned() else { continue };
        match (import.name(), ty.params().len()) {
            ("sock_accept", 2) => waiting!(linker, "sock_accept", (fd, out), mem, p1 =>
                p1.accept(&mut mem, fd, 0, out).await),
            ("sock_getlocaladdr", 4) => {
                at_once!(linker, "sock_getlocaladdr", (fd, address, kind, port), mem, p1 =>
                    p1.local_address(&mut mem, fd, address, Some(kind), port))
            }
            ("sock_getlocaladdr", _) => {
                at_once!(linker, "sock_getlocaladdr", (fd, address, port), mem, p1 =>
                    p1.local_address(&mut mem, fd, address, None, port))
            }
            ("sock_getpeeraddr", 4) => {
                at_once!(linker, "sock_getpeeraddr", (fd, address, kind, port), mem, p1 =>
                    p1.peer_address(&mut mem, fd, address, Some(kind), port))
            }
            ("sock_getpeeraddr", _) => {
                at_once!(linker, "sock_getpeeraddr", (fd, address, port), mem, p1 =>
                    p1.peer_address(&mut mem, fd, address, None, port))
            }
            ("sock_recv_from", 7) => {
                waiting!(linker, "sock_recv_from", (fd, iovs, count, address, flags, size, out),
                    mem, p1 => p1.recv(&mut mem, fd, (iovs, count), flags, (size, out),
                        Some((address, None))).await)
            }
            ("sock_recv_from", _) => {
                waiting!(linker, "sock_recv_from", (fd, iovs, count, address, flags, port, size, out),
                    mem, p1 => p1.recv(&mut mem, fd, (iovs, count), flags, (size, out),
                        Some((address, Some(port)))).await)
            }
            _ => continue,
        };
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// `fd_prestat_get`. A libc walks the descriptors from 3 on, when it first needs to know: an error that it does not know ends the program,
/// and "not open" ends the walk. So a socket is something open that is no directory: type 1, which they all pass over.
fn prestat<T: Preview1View + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.func_wrap(
        PREVIEW1,
        "fd_prestat_get",
        |mut caller: Caller<'_, T>, fd: i32, out: i32| -> wasmtime::Result<i32> {
            let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                return Ok(errno(Err(Errno::Fault)));
            };
            let (bytes, data) = memory.data_and_store_mut(&mut caller);
            let p1 = data.preview1();
            if p1.fds.if_socket(fd.cast_unsigned()).is_some() {
                let told = memory::put(bytes, out.cast_unsigned(), &[1, 0, 0, 0, 0, 0, 0, 0]);
                return Ok(errno(told));
            }
            let mut memory = GuestMemory::Unshared(bytes);
            wasi_snapshot_preview1::fd_prestat_get(p1, &mut memory, fd, out)
        },
    )?;
    Ok(())
}

impl Preview1 {
    async fn accept(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: u32,
        flags: u32,
        out: u32,
    ) -> Outcome {
        let place = memory::range(memory::bytes(mem)?, out, 4)?;
        if !self.fds.has_room() {
            return Err(Errno::Mfile);
        }
        let mut accepted = self.fds.socket(fd)?.accept().await?;
        accepted.nonblocking = flags & NONBLOCK != 0;
        let fd = self.fds.insert(Entry::Socket(Box::new(accepted)))?;
        memory::bytes(mem)?[place].copy_from_slice(&fd.to_le_bytes());
        Ok(())
    }

    /// `sock_recv` and `sock_recv_from`; `from` is where the sender's address goes.
    async fn recv(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: u32,
        vectors: (u32, u32),
        flags: u32,
        (size, out): (u32, u32),
        from: Option<(u32, Option<u32>)>,
    ) -> Outcome {
        let manner = Manner { peek: flags & PEEK != 0, all: flags & WAIT_ALL != 0 };
        let received = self.receive(mem, fd, vectors, manner).await?;
        let peer = received.from.or_else(|| self.fds.socket(fd).ok()?.remote_address());
        let mem = memory::bytes(mem)?;
        if let (Some((address, port)), Some(peer)) = (from, peer) {
            memory::put_address(mem, address, peer.ip())?;
            if let Some(port) = port {
                memory::put_u32(mem, port, peer.port().into())?;
            }
        }
        memory::put_u32(mem, size, memory::size(received.count)?)?;
        let truncated = if received.truncated { TRUNCATED } else { 0 };
        // `roflags` has 16 bits; WasmEdge's callers lay out more, WASI's do not.
        memory::put(mem, out, &truncated.to_le_bytes()[..2])
    }

    /// `sock_send` and `sock_send_to`.
    async fn send_to(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: u32,
        vectors: (u32, u32),
        to: Option<(u32, u32)>,
        size: u32,
    ) -> Outcome {
        let to = match to {
            Some((address, port)) => Some(memory::address(memory::bytes(mem)?, address, port)?),
            None => None,
        };
        let sent = self.send(mem, fd, vectors, to).await?;
        memory::put_u32(memory::bytes(mem)?, size, memory::size(sent)?)
    }

    fn shutdown(&mut self, fd: u32, how: u32) -> Outcome {
        let how = match how {
            1 => Shutdown::Read,
            2 => Shutdown::Write,
            3 => Shutdown::Both,
            _ => return Err(Errno::Inval),
        };
        self.fds.socket(fd)?.shutdown(how)
    }

    fn open(&mut self, mem: &mut GuestMemory<'_>, family: u32, kind: u32, out: u32) -> Outcome {
        let family = match u8::try_from(family) {
            Ok(memory::INET4) => Family::V4,
            Ok(memory::INET6) => Family::V6,
            _ => return Err(Errno::Afnosupport),
        };
        let mem = memory::bytes(mem)?;
        let place = memory::range(mem, out, 4)?;
        if !self.fds.has_room() {
            return Err(Errno::Mfile);
        }
        let socket = match kind {
            1 => Socket::open_udp(&self.member, family)?,
            2 => Socket::open_tcp(&self.member, family)?,
            _ => return Err(Errno::Prototype),
        };
        let fd = self.fds.insert(Entry::Socket(Box::new(socket)))?;
        mem[place].copy_from_slice(&fd.to_le_bytes());
        Ok(())
    }

    fn bind(&mut self, mem: &mut GuestMemory<'_>, fd: u32, address: u32, port: u32) -> Outcome {
        let at = memory::address(memory::bytes(mem)?, address, port)?;
        self.fds.socket(fd)?.bind(at)
    }

    async fn connect(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: u32,
        address: u32,
        port: u32,
    ) -> Outcome {
        let to = memory::address(memory::bytes(mem)?, address, port)?;
        self.fds.socket(fd)?.connect(to).await
    }

    fn option(
        &mut self,
        mem: &mut GuestMemory<'_>,
        (fd, level, name): (u32, u32, u32),
        at: u32,
        len: u32,
    ) -> Outcome {
        let (bytes, filled) = self.fds.socket(fd)?.option(level, name)?.bytes();
        let mem = memory::bytes(mem)?;
        // The length by value, or a pointer to it: callers of both kinds exist.
        let by_value = len < LEAST_POINTER;
        let room = if by_value { len } else { memory::u32_at(mem, len)? };
        if (room as usize) < filled {
            return Err(Errno::Inval);
        }
        memory::put(mem, at, &bytes[..filled])?;
        if !by_value {
            memory::put_u32(mem, len, memory::size(filled)?)?;
        }
        Ok(())
    }

    fn set_option(
        &mut self,
        mem: &mut GuestMemory<'_>,
        (fd, level, name): (u32, u32, u32),
        at: u32,
        len: u32,
    ) -> Outcome {
        let value = Value::read(memory::bytes(mem)?, name, at, len)?;
        self.fds.socket(fd)?.set_option(level, name, value)
    }

    fn local_address(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: u32,
        address: u32,
        kind: Option<u32>,
        port: u32,
    ) -> Outcome {
        let socket = self.fds.socket(fd)?;
        let unbound = std::net::SocketAddr::new(socket.family().unspecified(), 0);
        let local = socket.local_address().unwrap_or(unbound);
        put_named(memory::bytes(mem)?, local, address, kind, port)
    }

    fn peer_address(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: u32,
        address: u32,
        kind: Option<u32>,
        port: u32,
    ) -> Outcome {
        let peer = self.fds.socket(fd)?.remote_address().ok_or(Errno::Notconn)?;
        put_named(memory::bytes(mem)?, peer, address, kind, port)
    }
}

fn put_named(
    mem: &mut [u8],
    named: std::net::SocketAddr,
    address: u32,
    kind: Option<u32>,
    port: u32,
) -> Outcome {
    memory::put_address(mem, address, named.ip())?;
    if let Some(kind) = kind {
        memory::put_u32(mem, kind, if named.is_ipv4() { 4 } else { 6 })?;
    }
    memory::put_u32(mem, port, named.port().into())
}
