//! The parts of one run that are polled by themselves: its module, and what works beside it on its account (a connection
//! that it serves, a request that it makes).
//!
//! Owns: the list of them, so that the end of the run reaches each wherever it waits, and starting one. Is not: the account
//! they draw on, nor the measuring (`meter.rs`); nor the bound on their number, which whoever starts them has.
//!
//! ```text
//! Shared ── Strands ──┬── Metered( the module, or the server that serves it )
//!                     ├── Metered( connection )…
//!                     └── Metered( outgoing request )…
//! ```
//! A run is over when its last strand is.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::task::AtomicWaker;
use tokio_util::task::TaskTracker;

use super::file_threads::within;
use super::limiter::OutOfMemory;
use super::meter::Metered;
use super::run::Shared;
use super::sched;
use crate::net::{Ledger, NoLedger};
use crate::spec::OnMemoryLimit;
use crate::wasi::account::{Account, Refused};
use crate::wasi::http;

/// The strands of one run.
#[derive(Default)]
pub(crate) struct Strands {
    list: Mutex<List>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct List {
    next: u64,
    wakers: HashMap<u64, Arc<AtomicWaker>>,
}

impl Strands {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes each look up, wherever it waits.
    pub(crate) fn wake(&self) {
        let wakers: Vec<_> = self.list().wakers.values().cloned().collect();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Waits until those that were started with [`spawn`] are gone.
    pub(crate) async fn gone(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl fmt::Debug for Strands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strands").field("alive", &self.list().wakers.len()).finish_non_exhaustive()
    }
}

/// A place on the list.
#[derive(Debug)]
pub(crate) struct Strand {
    run: Arc<Shared>,
    id: u64,
    pub(crate) waker: Arc<AtomicWaker>,
}

impl Strand {
    pub(crate) fn new(run: Arc<Shared>) -> Self {
        let waker = Arc::new(AtomicWaker::new());
        let mut list = run.strands.list();
        let id = list.next;
        list.next += 1;
        list.wakers.insert(id, Arc::clone(&waker));
        drop(list);
        Self { run, id, waker }
    }

    pub(crate) fn run(&self) -> &Arc<Shared> {
        &self.run
    }
}

impl Drop for Strand {
    fn drop(&mut self) {
        self.run.strands.list().wakers.remove(&self.id);
    }
}

/// Who pays for what the host does for a module.
#[derive(Debug)]
pub(crate) enum Payer {
    Run(Arc<Shared>),
    /// For a store that never runs anything.
    Nobody,
}

impl http::Account for Payer {
    fn run(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Self::Run(run) = self {
            spawn(run, work);
        }
    }

    fn memory(&self) -> Arc<dyn Ledger> {
        match self {
            Self::Run(run) => Arc::clone(&run.network_memory) as Arc<dyn Ledger>,
            Self::Nobody => Arc::new(NoLedger),
        }
    }
}

impl Account for Payer {
    fn take(&self, bytes: u64) -> Result<(), Refused> {
        let Self::Run(run) = self else { return Ok(()) };
        run.account.memory.charge(bytes).map_err(|over| Refused {
            may_go_on: run.on_memory_limit == OnMemoryLimit::Fail,
            end: wasmtime::Error::new(OutOfMemory(over)),
        })
    }

    fn give_back(&self, bytes: u64) {
        if let Self::Run(run) = self {
            run.account.memory.release(bytes);
        }
    }

    fn work(&self, work: &mut dyn FnMut()) {
        match self {
            Self::Run(run) => run.account.cpu.work(work),
            Self::Nobody => work(),
        }
    }

    fn others_wait(&self) -> bool {
        sched::others_wait()
    }
}

/// Runs `work` beside the module, on the guests' threads and on the run's account; it ends with the run at the latest. Called
/// on a guest thread.
pub(crate) fn spawn(run: &Arc<Shared>, work: impl Future<Output = ()> + Send + 'static) {
    let metered = within(run.files.clone(), Metered::new(work, Arc::clone(run)));
    let work = run.strands.tasks.track_future(async move {
        // How it ended is of no interest: by itself, or with the run.
        let _ = metered.await;
    });
    run.guests.spawn(Arc::clone(&run.account.cpu.share), run.urgency.clone(), work);
}
