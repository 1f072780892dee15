//! WASI 0.1 for core modules: wasmtime-wasi's, and the sockets it has not.
//!
//! ```text
//!  module ─► Preview1 (one table of descriptors) ─┬─ a file, a standard stream: wasmtime-wasi's WasiP1Ctx, under its own number
//!                                                 └─ a socket: here, over crate::net
//!  files    delegation, with descriptors translated          poll     poll_oneoff over all of them, and clocks
//!  paths    what takes a path                                vectors  sockets read and written with lists of buffers
//!  socket   one socket: states, waiting, options             calls    sock_* and the names that WasmEdge has added
//!  standard flags of the standard streams                    walls    room in the folders that files are in
//! ```
//! Owns: the numbers that a module knows its descriptors by, sockets among them; `poll_oneoff`. Is not: files, clocks,
//! randomness, arguments (all wasmtime-wasi's), nor the network (`net`).
//!
//! **Numbers are POSIX'**: 0, 1, 2, then what is open from the start, then always the lowest that is free. Sockets that listen from the
//! start come first, at 3 (as systemd's `LISTEN_FDS` and wasmtime's former `--tcplisten` have it, and as programs have it built in),
//! directories after them.
//!
//! Two generations of WasmEdge's functions go by the same names with other parameters; [`add_variants`] looks at what a module
//! imports.
//! Limits: [`fds::FDS_MAX`] descriptors, [`memory::VECTORS_MAX`] buffers a call; sockets and bytes by the network's member.

mod calls;
mod errno;
mod fds;
mod files;
mod lookup;
mod memory;
mod options;
mod paths;
mod poll;
mod socket;
mod standard;
mod vectors;
mod walls;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use wasmtime::{Linker, Module};
use wasmtime_wasi::p1::{WasiP1Ctx, wasi_snapshot_preview1};

use crate::net::{BindError, Family, ListenError, Member, OpenError, TcpSocket};
use crate::wasi::files::{Room, Walls};
use fds::Fds;
use socket::Socket;
use standard::Standard;
use walls::Walled;

pub use calls::add_variants;

/// Where WASI 0.1 functions are imported from.
pub const PREVIEW1: &str = "wasi_snapshot_preview1";

/// The first descriptor that is open from the start beside the standard streams.
const FIRST_OPEN: u32 = 3;

/// A store whose module speaks WASI 0.1.
pub trait Preview1View: Send {
    fn preview1(&mut self) -> &mut Preview1;
}

/// Sockets that are open from the start.
#[derive(Debug, Default)]
pub struct Listeners {
    pub sockets: Vec<TcpSocket>,
    /// `sock_accept` waits for a connection, as it does on Linux unless a program says otherwise.
    pub wait: bool,
}

/// A module's descriptors, and everything else of WASI 0.1.
pub struct Preview1 {
    wasi: WasiP1Ctx,
    fds: Fds,
    member: Arc<Member>,
    walled: Walled,
    standard: Standard,
    /// Bytes that the module may hand over in the call that it is in.
    hostcall_fuel: usize,
}

impl Preview1 {
    /// With `listeners` and then `directories` (as many as `wasi` has opened, with the room of each) from descriptor 3 on.
    #[must_use]
    pub fn new(
        wasi: WasiP1Ctx,
        member: Arc<Member>,
        listeners: Listeners,
        directories: &[Option<Arc<dyn Room>>],
        walls: Walls,
    ) -> Self {
        let Listeners { sockets, wait } = listeners;
        let listeners = sockets.into_iter().map(|socket| {
            let mut socket = Socket::tcp(socket);
            socket.nonblocking = !wait;
            socket
        });
        let rooms = (FIRST_OPEN..).zip(directories);
        let walled = rooms.filter_map(|(fd, room)| Some((fd, Arc::clone(room.as_ref()?))));
        let walled = Walled::new(walls, walled);
        let fds = Fds::new(listeners, directories.len());
        Self { wasi, fds, member, walled, standard: Standard::default(), hostcall_fuel: 0 }
    }

    /// The rest of WASI, as components see it.
    pub fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

impl std::fmt::Debug for Preview1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preview1").field("fds", &self.fds).finish_non_exhaustive()
    }
}

/// Why a port that a container declares cannot be listened on for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreopenError {
    #[error("cannot open a socket")]
    Open(#[from] OpenError),
    #[error("cannot bind")]
    Bind(#[from] BindError),
    #[error("cannot listen")]
    Listen(#[from] ListenError),
}

/// Listens on `port` of all addresses, of both families.
///
/// # Errors
/// [`PreopenError`], most likely that another module of the pod has the port.
pub fn listen(member: &Member, port: u16) -> Result<TcpSocket, PreopenError> {
    let mut socket = member.tcp_socket(Family::V6)?;
    // It is unbound, so that the only refusal there is cannot come.
    let _ = socket.set_v6_only(false);
    socket.bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
    socket.listen()?;
    Ok(socket)
}

/// Whether a module expects to be given listening sockets: it accepts connections, and cannot open a socket by itself.
#[must_use]
pub fn expects_listeners(module: &Module) -> bool {
    let imports = |name: &str| {
        module.imports().any(|import| import.module() == PREVIEW1 && import.name() == name)
    };
    imports("sock_accept") && !imports("sock_open")
}

/// Links all of WASI 0.1 but what has variants ([`add_variants`]).
///
/// # Errors
/// wasmtime's, if something is linked already.
pub fn add_to_linker<T: Preview1View + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasi_snapshot_preview1::add_to_linker(linker, T::preview1)?;
    linker.allow_shadowing(true);
    calls::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}
