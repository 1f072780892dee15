//! Where instances come from, and which are used again.
//!
//! Owns: making one, and keeping those that may answer another request. Is not: their bounds (`instance.rs`).
//!
//! A handler of WASI 0.2 has an instance for each request, made when it comes and gone when it is answered: no request sees what
//! another left behind, and memory that a handler leaks is freed. A module that is built for it may ask to
//! keep its instances for some requests, one after the other. Handlers of WASI 0.3 are built for it: theirs are kept, and have several requests at a time
//! (`together.rs`), unless the manifest says otherwise. One that trapped is never used again, and one that nobody has used for a while is let go: a module at
//! rest has none, but for the first, which waits for the first request.
//!
//! Where the machine has a pool (`runtime::pool`), instances for one request come from it; where there is no slot, from the kernel.
//!
//! One made ahead of need was tried, and taken out again: with a client that asks again at once its making is on the same thread's way as
//! before, and with several the thread is what there is too little of.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};

use super::log::Lines;
use super::{Served, Server};
use crate::runtime::fuel::Fuel;
use crate::runtime::guest::Guest;
use crate::runtime::instance::{Bounded, exit_of};
use crate::runtime::pool::Place;
use crate::runtime::stacks;
use crate::runtime::{Artifact, LogSink};
use crate::spec::Exit;

/// Instances kept although nothing uses them: enough for the next requests of a few connections, and little memory.
const IDLE_MAX: usize = 4;

/// Requests that an instance of WASI 0.3 answers in all where the manifest does not say: the making of an instance is a small part of each, and what it leaks is
/// freed now and then. wasmtime's own server has the same.
const REUSE_P3: u32 = 128;

/// A module, instantiated.
pub(super) struct Ready {
    pub(super) bounded: Bounded,
    pub(super) proxy: Proxy,
    /// Requests it has answered, or begun to.
    pub(super) answered: u32,
    _among: Among,
    /// Given back when the store is gone: fields are dropped in this order.
    _place: Option<Place>,
}

pub(super) struct Instances {
    artifact: Artifact,
    fuel: Arc<Fuel>,
    requests_per_instance: u32,
    requests_at_once: usize,
    /// How long one is kept that nobody uses.
    idle_time: Duration,
    /// Opening the module's directories asks nobody over a network.
    opens_at_once: bool,
    idle: Mutex<Vec<Idle>>,
    /// How many wait for more requests with a task of their own.
    resting: AtomicUsize,
    /// One that was used was put aside.
    kept: Notify,
    /// How many there are, which each of them counts.
    alive: Arc<AtomicUsize>,
}

/// There is memory for one more instance, and then too little for those that are under way.
#[derive(Debug, thiserror::Error)]
#[error("the module's memory limit leaves no room for one more instance beside those under way")]
pub(super) struct NoRoomBeside;

/// One of those that there are.
struct Among(Arc<AtomicUsize>);

impl Among {
    /// One more; also returns whether there are others.
    fn join(alive: &Arc<AtomicUsize>) -> (Self, bool) {
        let others = alive.fetch_add(1, Ordering::Relaxed) > 0;
        (Self(Arc::clone(alive)), others)
    }
}

impl Drop for Among {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One that nobody uses now.
struct Idle {
    ready: Ready,
    /// Since when; `None`: it is yet to be used, and stays until then.
    since: Option<Instant>,
}

impl Instances {
    pub(super) fn new(served: &Served) -> Self {
        let limits = &served.limits;
        let is_p3 = matches!(served.artifact.0.work.handler, Some(ProxyPre::P3(_)));
        let (reuse, at_once) = if is_p3 { (REUSE_P3, limits.requests_at_once) } else { (1, 1) };
        Self {
            artifact: served.artifact.clone(),
            fuel: Arc::clone(&served.fuel),
            requests_per_instance: limits.requests_per_instance.unwrap_or(reuse),
            requests_at_once: at_once,
            idle_time: limits.idle_time,
            opens_at_once: served.plan.opens_at_once(),
            idle: Mutex::default(),
            resting: AtomicUsize::new(0),
            kept: Notify::new(),
            alive: Arc::default(),
        }
    }

    /// Whether an instance has several requests at a time.
    pub(super) fn is_shared(&self) -> bool {
        self.requests_per_instance > 1 && self.requests_at_once > 1
    }

    /// Whether an instance that has begun so many requests, of which so many are under way, may begin another.
    pub(super) fn may_take(&self, begun: u32, under_way: usize) -> bool {
        begun < self.requests_per_instance && under_way < self.requests_at_once
    }

    /// Whether there is one, that answers a request or waits for one.
    pub(super) fn are_any(&self) -> bool {
        self.alive.load(Ordering::Relaxed) > 0
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the instance for the first request.
    pub(super) async fn prepare_first(&self, server: &Server, guest: Guest) -> Result<(), Exit> {
        // It waits for a request, perhaps for days: that is no use for a slot of the pool.
        match self.make(server, guest, None).await {
            Ok(ready) => {
                self.idle().push(Idle { ready, since: None });
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
        self.fuel.settled(&server.run).await;
        if let Some(idle) = self.idle().pop() {
            return Ok(idle.ready);
        }
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
        let place = self.place(server);
        self.make(server, guest, place).await
    }

    /// A place in the pool, for an instance that lives as long as a request.
    fn place(&self, server: &Server) -> Option<Place> {
        let pooled = self.artifact.0.work.pooled.as_ref()?;
        // A pace turns the epoch of the module's own engine, so that its instances look up (`runtime::fuel`), and no other engine's.
        let is_brief = self.requests_per_instance <= 1 && server.run.paced.is_none();
        is_brief.then(|| pooled.pool.place(&server.run.account.memory)).flatten()
    }

    async fn make(
        &self,
        server: &Server,
        guest: Guest,
        place: Option<Place>,
    ) -> wasmtime::Result<Ready> {
        let loaded = &self.artifact.0;
        let made_of = match (&loaded.work.pooled, &place, &loaded.work.handler) {
            (Some(pooled), Some(_), _) => Some((&pooled.handler, &pooled.pool.engine)),
            (_, _, Some(handler)) => Some((handler, &loaded.profile.engine)),
            (_, _, None) => None,
        };
        let Some((pre, engine)) = made_of else {
            return Err(wasmtime::Error::msg("the module is no handler"));
        };
        let mut bounded = Bounded::new(engine, guest, &server.run, &self.fuel)?;
        let stacks = Arc::clone(&bounded.stacks);
        let proxy = stacks::on(stacks, pre.instantiate_async(&mut bounded.store)).await?;
        let (among, others) = Among::join(&self.alive);
        if others {
            // The others need some memory yet to come to an end, and would be ended for it if they found none.
            server.run.account.memory.has_some_for_others().map_err(|_| NoRoomBeside)?;
        }
        server.run.http.instances.add(1);
        server.run.http.pooled.add(u64::from(place.is_some()));
        Ok(Ready { bounded, proxy, answered: 0, _among: among, _place: place })
    }

    /// Takes back an instance that has answered in order.
    pub(super) fn put_back(&self, ready: Ready) {
        if ready.answered >= self.requests_per_instance {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { ready, since: Some(Instant::now()) });
            drop(idle);
            self.kept.notify_one();
        }
    }

    /// Lets an instance that has nothing to do wait where it is, for as long as the returned value lives; `None`: enough of them do.
    pub(super) fn rest(&self) -> Option<Resting<'_>> {
        let resting = Resting(&self.resting);
        (self.resting.fetch_add(1, Ordering::Relaxed) < IDLE_MAX).then_some(resting)
    }

    /// How long one waits for a request.
    pub(super) fn idle_time(&self) -> Duration {
        self.idle_time
    }

    /// Lets go of those that nobody has used for a while, for as long as it is polled.
    pub(super) async fn tidy(&self) {
        loop {
            self.kept.notified().await;
            while let Some(next) = self.let_go() {
                sleep_until(next).await;
            }
        }
    }

    /// Lets go of those whose time is over; returns when to look again.
    fn let_go(&self) -> Option<Instant> {
        let now = Instant::now();
        let ends = |idle: &Idle| idle.since.map(|since| since + self.idle_time);
        let mut idle = self.idle();
        let is_over = |idle: &mut Idle| ends(idle).is_some_and(|end| end <= now);
        let over: Vec<_> = idle.extract_if(.., is_over).collect();
        let next = idle.iter().filter_map(ends).min();
        drop(idle);
        drop(over);
        next
    }

    /// Lets go of those that wait.
    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }
}

/// One that waits. See [`Instances::rest`].
pub(super) struct Resting<'a>(&'a AtomicUsize);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A sink for one instance, which keeps its lines whole.
pub(crate) fn lines(log: &Arc<dyn LogSink>) -> Arc<dyn LogSink> {
    Arc::new(Lines::new(Arc::clone(log)))
}
