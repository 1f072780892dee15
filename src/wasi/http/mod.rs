//! `wasi:http` for guests: what its functions work on, and how a module's own requests get out.
//!
//! ```text
//! guest ─► wasmtime-wasi-http's functions ─► HttpCtx ─► Client (hooks) ─► exchange: look up, connect, TLS, HTTP/1.1
//!                                                                             └─► crate::net, as the module's member
//! ```
//! Owns: requests that a module makes ([`Client`]), and connections of the pod's network as tokio's I/O traits see them ([`io`]).
//! Is not: requests that a module answers (`runtime::serve`), nor a decision on where a module may go: a request is a connection of
//! the module's member, under the same policy and to the same names as its sockets.
//! Limits: those below, and the member's on sockets.

mod charge;
mod client;
mod errors;
mod exchange;
pub mod io;
mod kept;
mod tls;

use std::pin::Pin;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpView, p2, p3};

pub use charge::Charge;
pub use client::Client;
pub(crate) use kept::fields as fields_bytes;
pub use tls::{Trust, TrustError};

/// The interfaces that [`add_to_linker_p2`] links.
pub const WASI_0_2: &[&str] = &["wasi:http/types", "wasi:http/outgoing-handler"];

/// The interfaces that [`add_to_linker_p3`] links.
pub const WASI_0_3: &[&str] = &["wasi:http/types", "wasi:http/client"];

/// Bytes of one `fields` resource, on the host's heap. Servers accept some 16 KiB of headers at most; this counts what the host keeps
/// for each as well.
const FIELDS_BYTES_MAX: usize = 32 << 10;

/// Bytes that a guest hands over in one write to a body. Up to two such chunks wait on the host for each body.
pub const BODY_CHUNK_BYTES: usize = 16 << 10;

/// Who pays for what the host does for a module.
pub trait Account: Send + Sync {
    /// Runs `work` on the guests' threads and on the module's account. It ends with the module at the latest.
    fn run(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>);
    /// The module's memory.
    fn memory(&self) -> std::sync::Arc<dyn crate::net::Ledger>;
}

/// A store's part that `wasi:http` needs.
pub struct HttpCtx {
    ctx: WasiHttpCtx,
    client: Client,
    /// Where a module that has used up its memory finds nothing any more.
    nothing: ResourceTable,
}

impl HttpCtx {
    /// A context whose requests go out by `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(FIELDS_BYTES_MAX);
        let mut nothing = ResourceTable::new();
        nothing.set_max_capacity(0);
        Self { ctx, client, nothing }
    }

    /// Bytes that the host keeps for the resources of `wasi:http` in `table`. To be asked before each call of theirs.
    #[must_use]
    pub fn kept_bytes(table: &mut ResourceTable) -> usize {
        kept::kept(table)
    }

    /// As wasmtime-wasi-http sees it.
    pub fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.client, table, ctx: &mut self.ctx }
    }

    /// The same for a module that cannot pay for what is kept: whatever it calls finds no resource, and traps.
    pub fn view_of_nothing(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.client, table: &mut self.nothing, ctx: &mut self.ctx }
    }
}

impl std::fmt::Debug for HttpCtx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpCtx").finish_non_exhaustive()
    }
}

/// Links `wasi:http` 0.2.
///
/// # Errors
/// wasmtime's, if one of the interfaces is linked already.
pub fn add_to_linker_p2<T: WasiHttpView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let options = p2::bindings::LinkOptions::default();
    p2::bindings::http::types::add_to_linker::<_, WasiHttp>(linker, &options.into(), T::http)?;
    p2::bindings::http::outgoing_handler::add_to_linker::<_, WasiHttp>(linker, T::http)
}

/// Links `wasi:http` 0.3.
///
/// # Errors
/// wasmtime's, if one of the interfaces is linked already.
pub fn add_to_linker_p3<T: WasiHttpView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    p3::add_to_linker(linker)
}
