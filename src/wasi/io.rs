//! `wasi:io/poll` with what a wait takes on the module's account.
//!
//! Owns: paying for the list. Is not: waiting, which is wasmtime-wasi's.
//! Limits: [`WAIT_BYTES`] for each thing waited for, while the wait lasts.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::WasiView;
use wasmtime_wasi_io::bindings::wasi::io::poll::{self, HostPollable};
use wasmtime_wasi_io::poll::DynPollable;

use crate::wasi::account::{Account, AccountView, Held};

/// What the host holds for one thing that is waited for: its place in the lists, its future, a timer or a waker.
pub(crate) const WAIT_BYTES: u64 = 320;

/// What the functions work on.
#[allow(missing_debug_implementations, reason = "what it is made of has none")]
pub struct Poll<'a> {
    table: &'a mut ResourceTable,
    account: Arc<dyn Account>,
}

/// Marks our functions in the linker.
#[derive(Debug)]
pub struct Paid;

impl HasData for Paid {
    type Data<'a> = Poll<'a>;
}

/// Links the interface.
///
/// # Errors
/// wasmtime's, if it is linked already.
pub fn add_to_linker<T: WasiView + AccountView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    poll::add_to_linker::<T, Paid>(linker, |data: &mut T| {
        let account = Arc::clone(data.account());
        Poll { table: data.ctx().table, account }
    })
}

impl poll::Host for Poll<'_> {
    async fn poll(&mut self, list: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        // The interface has no error to tell of, so a module that has no memory for it ends.
        let held = Held::take(&self.account, WAIT_BYTES.saturating_mul(list.len() as u64))?;
        let ready = self.table.poll(list).await;
        drop(held);
        ready
    }
}

impl HostPollable for Poll<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.table.block(pollable).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        self.table.ready(pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::drop(self.table, pollable)
    }
}
