//! `wasi:sockets` for guests, on the pod's network instead of the host's.
//!
//! ```text
//! guest ─► wasmtime-wasi's generated traits ─► this folder ─► crate::net
//! p2    WASI 0.2: sockets as resources with start/finish calls, data as wasi:io streams
//! p3    WASI 0.3: the same sockets with async calls, data as the component model's streams
//! ```
//! Owns: translation, and WASI's rules on the order of calls. Decides nothing about the network.
//! Is not: the linker (`runtime::linkers` calls [`add_to_linker_p2`] and [`add_to_linker_p3`]), nor
//! the network.
//! How: we implement the host traits that wasmtime-wasi generated for itself, on a view of our own.
//! Those traits name wasmtime-wasi's resource types; a `Resource` is only a typed index, so each
//! handle is retyped to ours at the door (`ours`, `theirs`) and theirs is never made. A wrong
//! retyping is caught by the table, as a trap.
//! Limits: the resource table's own; sockets and bytes by the member's
//! ([`crate::net::MemberLimits`]).

mod p2;
mod p3;

use std::time::Duration;

use wasmtime::component::{HasData, Resource, ResourceTable};

use crate::net::Member;

pub use p2::{WASI_0_2, add_to_linker_p2};
pub use p3::{WASI_0_3, add_to_linker_p3};

/// How long a connect waits for room in a listener's queue: what Linux takes to give up on a SYN
/// without answer, with its default of six repeats.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(127);

/// A store whose guest has sockets.
pub trait NetView: Send {
    /// What they work on.
    fn net(&mut self) -> NetCtxView<'_>;
}

/// A store's part that sockets need.
#[derive(Debug)]
pub struct NetCtxView<'a> {
    /// Where its handles are kept.
    pub table: &'a mut ResourceTable,
    /// On whose behalf it opens sockets.
    pub member: &'a Member,
}

/// Tells wasmtime what a host function gets to see: a [`NetCtxView`].
struct HasNet;

impl HasData for HasNet {
    type Data<'a> = NetCtxView<'a>;
}

/// The same handle, as one of ours.
fn ours<Ours: 'static, Theirs: 'static>(resource: &Resource<Theirs>) -> Resource<Ours> {
    Resource::new_borrow(resource.rep())
}

/// One of our handles, as the guest's bindings name it.
fn theirs<Ours: 'static, Theirs: 'static>(resource: &Resource<Ours>) -> Resource<Theirs> {
    Resource::new_own(resource.rep())
}

#[cfg(test)]
mod tests;
