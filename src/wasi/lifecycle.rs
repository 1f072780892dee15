//! `podling:pod/lifecycle`: how a module hears that it should stop.
//!
//! ```wit
//! package podling:pod@0.1.0;
//! interface lifecycle {
//!     use wasi:io/poll@0.2.0.{pollable};
//!     terminating: func() -> bool;          // has a stop been asked for?
//!     subscribe: func() -> pollable;        // ready from then on
//! }
//! ```
//! Owns: both functions for components, `terminating` for core modules (as `() -> i32`, imported from the module of the same name), and the memory
//! that either was ever called: such a module is given its grace period, any other ends at once.
//! Is not: the decision (`runtime::run`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Caller, StoreContextMut};
use wasmtime_wasi::p2::{Pollable, subscribe};

/// The interface's name, as guests import it.
pub const INTERFACE: &str = "podling:pod/lifecycle@0.1.0";

/// One run's stop request: told once, heard by whoever asks. Clones are the same.
#[derive(Clone)]
pub struct StopListener {
    told: CancellationToken,
    heard: Arc<AtomicBool>,
}

impl StopListener {
    #[must_use]
    pub fn new() -> Self {
        Self { told: CancellationToken::new(), heard: Arc::default() }
    }

    /// A stop is asked for.
    pub fn tell(&self) {
        self.told.cancel();
    }

    /// Waits for a stop to be asked for.
    pub async fn told(&self) {
        self.told.cancelled().await;
    }

    /// Whether the module ever asked.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    /// Somebody will act on a stop: from now on the run is given its grace period.
    pub fn hear(&self) {
        self.heard.store(true, Ordering::Release);
    }

    fn terminating(&self) -> bool {
        self.hear();
        self.told.is_cancelled()
    }
}

impl Default for StopListener {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StopListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopListener")
            .field("told", &self.told.is_cancelled())
            .field("heard", &self.is_heard())
            .finish()
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for StopListener {
    async fn ready(&mut self) {
        self.told.cancelled().await;
    }
}

/// A store that can be told to stop.
pub trait LifecycleView: Send {
    /// The run's listener, and the table that its pollables live in.
    fn lifecycle(&mut self) -> (&StopListener, &mut ResourceTable);
}

/// Offers the interface to components.
///
/// # Errors
/// wasmtime's, if the linker has it already.
pub fn add_to_linker<T: LifecycleView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(INTERFACE)?;
    // Its `pollable` is not defined here: it is the one of wasi:io/poll, which the guest imports as well.
    interface.func_wrap("terminating", |mut store: StoreContextMut<'_, T>, (): ()| {
        Ok((store.data_mut().lifecycle().0.terminating(),))
    })?;
    interface.func_wrap("subscribe", |mut store: StoreContextMut<'_, T>, (): ()| {
        let (listener, table) = store.data_mut().lifecycle();
        listener.hear();
        let listener = listener.clone();
        let listener = table.push(listener)?;
        Ok((subscribe(table, listener)?,))
    })
}

/// Offers `terminating` to core modules.
///
/// # Errors
/// wasmtime's, if the linker has it already.
pub fn add_to_core_linker<T: LifecycleView + 'static>(
    linker: &mut wasmtime::Linker<T>,
) -> wasmtime::Result<()> {
    linker.func_wrap(INTERFACE, "terminating", |mut caller: Caller<'_, T>| {
        i32::from(caller.data_mut().lifecycle().0.terminating())
    })?;
    Ok(())
}
