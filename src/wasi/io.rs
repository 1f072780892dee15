//! `wasi:io` where it is not wasmtime-wasi's alone: what a wait takes on the module's account, and reads that let the other side
//! answer first.
//!
//! Owns: paying for the list of a wait; when a read gives way. Is not: waiting, reading or writing, which are wasmtime-wasi's.
//! Limits: [`WAIT_BYTES`] for each thing waited for, while the wait lasts; a read gives way once at most.
//!
//! A program that has asked and looks for the answer finds nothing where the one that answers shares its thread: it then waits, and
//! reads again. Each of these three is a host call, and the bytes were a turn away. So where the network says that an answer is due
//! ([`answer`]) and somebody waits for the thread, the read itself ends the turn, as the end of a time slice would, and looks again in
//! the next one. It never waits for anything: with or without an answer, it returns then.

use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll as Polled;

use wasmtime::StoreContextMut;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::WasiView;
use wasmtime_wasi_io::bindings::wasi::io::poll::{self, HostPollable};
use wasmtime_wasi_io::bindings::wasi::io::streams::{self, Host as _};
use wasmtime_wasi_io::poll::DynPollable;
use wasmtime_wasi_io::streams::DynInputStream;

use crate::wasi::account::{Account, AccountView, Held};

/// The interface of streams as wasmtime-wasi links it.
const STREAMS: &str = "wasi:io/streams@0.2.12";

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

/// wasi:io/streams works on the resource table alone.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// Links `wasi:io/streams`.
///
/// # Errors
/// wasmtime's, if it is linked already.
pub fn add_streams_to_linker<T: WasiView + AccountView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    streams::add_to_linker::<T, Table>(linker, |data: &mut T| data.ctx().table)?;
    linker.allow_shadowing(true);
    let linked = linker.instance(STREAMS)?.func_wrap_async(
        "[method]input-stream.read",
        |store: StoreContextMut<'_, T>, (stream, len): (Resource<DynInputStream>, u64)| {
            Box::new(read(store, stream, len))
        },
    );
    linker.allow_shadowing(false);
    linked
}

/// `input-stream.read`.
async fn read<T: WasiView + AccountView>(
    mut store: StoreContextMut<'_, T>,
    stream: Resource<DynInputStream>,
    len: u64,
) -> wasmtime::Result<(Result<Vec<u8>, streams::StreamError>,)> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    answer::clear();
    let mut outcome = store.data_mut().ctx().table.get_mut(&stream)?.read(len);
    if answer::is_due() && store.data().account().others_wait() {
        next_turn().await;
        outcome = store.data_mut().ctx().table.get_mut(&stream)?.read(len);
    }
    Ok((match outcome {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(store.data_mut().ctx().table.convert_stream_error(error)?),
    },))
}

/// Ends the turn, and goes on in the next.
async fn next_turn() {
    let mut over = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut over, true) {
            return Polled::Ready(());
        }
        cx.waker().wake_by_ref();
        Polled::Pending
    })
    .await;
}

/// What a stream says to whoever reads it, beside "nothing yet": the other side has yet to see what was said to it.
pub(crate) mod answer {
    use super::Cell;

    thread_local! {
        /// Of the last read on this thread.
        static DUE: Cell<bool> = const { Cell::new(false) };
    }

    /// The stream that is read finds nothing now, and may in a turn of the other side.
    pub(crate) fn due() {
        DUE.set(true);
    }

    pub(crate) fn clear() {
        DUE.set(false);
    }

    pub(crate) fn is_due() -> bool {
        DUE.get()
    }
}
