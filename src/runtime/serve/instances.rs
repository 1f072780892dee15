//! Where instances come from, and which are used again.
//!
//! Owns: making one, and keeping those that may answer another request. Is not: their bounds (`instance.rs`).
//!
//! ```text
//!  request ─► used before? ─► spare? ─► made now ─► handler ─► kept, if it may answer more
//!                              ▲                       └─► gone, after the response is out
//!                              └─ made when no request is under way, gone after a while without one
//! ```
//! By default each request has an instance of its own, gone when it is answered: no request sees what another left behind, memory that a
//! handler leaks is freed, and a module at rest has none at all. A module that is built for it may ask to keep its instances for some
//! requests, one after the other; one that trapped is never used again.
//!
//! What it takes to make an instance, and to let go of one, the client does not wait for, where there is time in between: one spare is made
//! ahead. It is on the module's account, and takes no memory from a request: the next one has it; and beside one that came while it was
//! made it is kept only where the module uses less than half of its limit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use wasmtime_wasi_http::handler::Proxy;

use super::log::Lines;
use super::{Served, Server};
use crate::runtime::guest::Guest;
use crate::runtime::instance::{Bounded, Fuel, exit_of};
use crate::runtime::{Artifact, LogSink};
use crate::spec::Exit;

/// Instances kept although nothing uses them: enough for the next requests of a few connections, and little memory.
const IDLE_MAX: usize = 4;

/// A module, instantiated.
pub(super) struct Ready {
    pub(super) bounded: Bounded,
    pub(super) proxy: Proxy,
    /// Requests it has answered.
    answered: u32,
}

pub(super) struct Instances {
    artifact: Artifact,
    fuel: Arc<Fuel>,
    requests_per_instance: u32,
    /// A spare goes when no request has come for so long: a module at rest costs no memory.
    spare_idle: Duration,
    /// Opening the module's directories asks nobody over a network.
    opens_at_once: bool,
    kept: Mutex<Kept>,
    /// A request has been given an instance, and no spare was made since.
    wanted: AtomicBool,
    /// Requests that were given one.
    given: AtomicU64,
    /// There is a spare that nobody watches.
    unwatched: Notify,
}

#[derive(Default)]
struct Kept {
    /// Have answered before.
    used: Vec<Ready>,
    spare: Option<Ready>,
    /// A spare is being made.
    making: bool,
    /// Somebody sees to it that a spare does not grow old.
    watched: bool,
}

impl Instances {
    pub(super) fn new(served: &Served) -> Self {
        Self {
            artifact: served.artifact.clone(),
            fuel: Arc::clone(&served.fuel),
            requests_per_instance: served.limits.requests_per_instance,
            spare_idle: served.limits.spare_idle,
            opens_at_once: served.plan.opens_at_once(),
            kept: Mutex::default(),
            wanted: AtomicBool::new(false),
            given: AtomicU64::new(0),
            unwatched: Notify::new(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the instance for the first request.
    pub(super) async fn prepare_first(&self, server: &Server, guest: Guest) -> Result<(), Exit> {
        match self.make(server, guest).await {
            Ok(ready) => {
                self.put_aside(ready);
                Ok(())
            }
            Err(error) => Err(exit_of(&error, &server.run)),
        }
    }

    /// An instance for one request.
    ///
    /// # Errors
    /// The guest's or wasmtime's, if it cannot be made.
    pub(super) async fn get(&self, server: &Arc<Server>) -> wasmtime::Result<Ready> {
        self.given.fetch_add(1, Ordering::Relaxed);
        self.wanted.store(true, Ordering::Relaxed);
        let ready = {
            let mut kept = self.kept();
            kept.used.pop().or_else(|| kept.spare.take())
        };
        match ready {
            Some(ready) => Ok(ready),
            None => self.open(server).await,
        }
    }

    async fn open(&self, server: &Arc<Server>) -> wasmtime::Result<Ready> {
        let log = lines(&server.plan.logs);
        let guest = if self.opens_at_once {
            Guest::new(&server.plan, &server.run, &log)?
        } else {
            let server = Arc::clone(server);
            let open = move || {
                let opened = || Guest::new(&server.plan, &server.run, &log);
                server.run.account.cpu.work(opened)
            };
            tokio::task::spawn_blocking(open).await??
        };
        self.make(server, guest).await
    }

    /// Whether a spare is to be made now; whoever hears so makes it.
    pub(super) fn wants_spare(self: &Arc<Self>, server: &Server) -> Option<Making> {
        if !self.wanted.load(Ordering::Relaxed) || !server.is_at_rest() {
            return None;
        }
        self.wanted.store(false, Ordering::Relaxed);
        let mut kept = self.kept();
        if kept.making || kept.spare.is_some() || !kept.used.is_empty() {
            return None;
        }
        kept.making = true;
        Some(Making(Arc::clone(self)))
    }

    fn put_aside(&self, ready: Ready) {
        let mut kept = self.kept();
        kept.spare = Some(ready);
        if !std::mem::replace(&mut kept.watched, true) {
            self.unwatched.notify_one();
        }
    }

    /// Lets go of spares that grow old, for as long as it is polled.
    pub(super) async fn watch(&self) {
        loop {
            self.unwatched.notified().await;
            loop {
                let given = self.given.load(Ordering::Relaxed);
                tokio::time::sleep(self.spare_idle).await;
                if self.given.load(Ordering::Relaxed) == given {
                    break;
                }
            }
            let mut kept = self.kept();
            kept.watched = false;
            let old = kept.spare.take();
            drop(kept);
            drop(old);
        }
    }

    async fn make(&self, server: &Server, guest: Guest) -> wasmtime::Result<Ready> {
        let loaded = &self.artifact.0;
        let Some(pre) = &loaded.work.handler else {
            return Err(wasmtime::Error::msg("the module is no handler"));
        };
        let engine = &loaded.profile.engine;
        let mut bounded = Bounded::new(engine, guest, &server.run, &self.fuel)?;
        let proxy = pre.instantiate_async(&mut bounded.store).await?;
        server.run.http.instances.add(1);
        Ok(Ready { bounded, proxy, answered: 0 })
    }

    /// Takes back an instance that has answered in order. Returns one that is not to be used again, to be let go of when nobody waits.
    pub(super) fn put_back(&self, mut ready: Ready) -> Option<Ready> {
        ready.answered += 1;
        if ready.answered >= self.requests_per_instance {
            return Some(ready);
        }
        let mut kept = self.kept();
        if kept.used.len() >= IDLE_MAX {
            return Some(ready);
        }
        kept.used.push(ready);
        None
    }

    /// Lets go of those that wait.
    pub(super) fn clear(&self) {
        let (used, spare) = {
            let mut kept = self.kept();
            (std::mem::take(&mut kept.used), kept.spare.take())
        };
        drop((used, spare));
    }
}

/// A spare is being made, for as long as this lives.
pub(super) struct Making(Arc<Instances>);

impl Making {
    /// Makes it. One that cannot be made is no matter: the next request will hear why.
    pub(super) async fn make(self, server: &Arc<Server>) {
        let made = self.0.open(server).await;
        // A request that came meanwhile has its own, and may need the memory; where there is plenty, the next one has the spare.
        if let Ok(ready) = made
            && (server.is_at_rest() || server.has_plenty())
        {
            self.0.put_aside(ready);
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.0.kept().making = false;
    }
}

/// A sink for one instance, which keeps its lines whole.
pub(crate) fn lines(log: &Arc<dyn LogSink>) -> Arc<dyn LogSink> {
    Arc::new(Lines::new(Arc::clone(log)))
}
