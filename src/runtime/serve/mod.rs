//! Serves a module that answers HTTP: one server on the pod's network for one run.
//!
//! ```text
//!  [::]:port ─► accept ─► strand for each connection: hyper ⇄ call ─► instance ─► the module's handler
//!                                                      │
//!                      admission (503 when full) ──────┘
//! ```
//! Owns: the listener, admission, and the order of stopping. Is not: HTTP's bytes (hyper), one connection (`connection.rs`) and what of a response waits for the
//! rest (`cork.rs`), one request (`call.rs`) and how far its response has come (`delivery.rs`), several in one instance (`desk.rs`, `crew.rs`, `together.rs`), or
//! where instances come from (`instances.rs`).
//!
//! **A container like any other.** All of it (hyper, host functions, the handler) runs on the guests' threads, is measured and throttled by
//! the module's meter, and its memory is on the module's ledger. Two things differ from a module that serves itself:
//! - A trap ends the request (500, and a line in the log), not the container: the instance is gone with what was under way in it, so nothing is broken
//!   that a restart would mend, and one bad request must not take away all others.
//! - A stop drains: no new connections, requests under way are answered, then the run ends as terminated (143); what has not ended
//!   within the grace period is killed (137).
//!
//! Running out of memory or fuel ends the container, as it does for every module.
//!
//! Limits: [`HttpLimits`] and the constants below.

mod call;
mod connection;
mod cork;
mod crew;
mod delivery;
mod desk;
mod instances;
mod log;
mod reply;
mod request;
mod stats;
mod together;
mod works;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use super::fuel::Fuel;
use super::guest::{Guest, GuestPlan};
use super::meter::{Metered, Outcome};
use super::run::{End, Shared};
use super::stdio::Stream as Output;
use super::{Artifact, strand};
use crate::net::{AcceptError, Family, Ledger, Listener, Stream};
use crate::spec::{Exit, HttpLimits};
use crate::wasi::http::Charge;
use crew::Crew;
use desk::Desk;
use instances::Instances;
use together::Job;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub(crate) use instances::lines;
pub(crate) use stats::HttpCounters;
pub use stats::HttpUsage;

/// Connections of one server at a time; the next ones wait in the listener's queue. Half of what a module may hold in sockets, so
/// that its own requests find some.
const CONNECTIONS_MAX: usize = 512;

/// What one connection costs the module's ledger, bytes: hyper's two buffers as they stay between requests, and its task.
const CONNECTION_BYTES: usize = 16 * 1024;

/// Wait before the next accept, when the module has no room for a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What is served.
pub(crate) struct Served {
    pub(crate) artifact: Artifact,
    pub(crate) plan: Arc<GuestPlan>,
    pub(crate) fuel: Arc<Fuel>,
    pub(crate) limits: HttpLimits,
}

/// One server.
struct Server {
    run: Arc<Shared>,
    plan: Arc<GuestPlan>,
    limits: HttpLimits,
    instances: Instances,
    /// Requests that wait for an instance, where instances have several at a time.
    desk: Desk<Job, Crew>,
    /// Places for requests.
    room: Arc<Semaphore>,
    memory: Arc<dyn Ledger>,
    /// A stop was asked for: connections end with what they are answering.
    draining: CancellationToken,
    /// Why the run is over, if a request was the end of it.
    verdict: OnceLock<Exit>,
}

/// Serves until the run is over, and nothing of it is left but its account.
pub(crate) async fn run(served: Served, first: Guest, run: &Arc<Shared>, port: u16) -> Exit {
    let limits = served.limits;
    let server = Arc::new(Server {
        instances: Instances::new(&served),
        desk: Desk::default(),
        room: Arc::new(Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
        memory: Arc::clone(&run.network_memory) as Arc<dyn Ledger>,
        draining: CancellationToken::new(),
        verdict: OnceLock::new(),
        run: Arc::clone(run),
        plan: served.plan,
        limits,
    });
    let serving = serve(Arc::clone(&server), first, port);
    let outcome = Metered::new(serving, Arc::clone(run)).await;
    let exit = match outcome {
        Outcome::Finished(exit) => exit,
        Outcome::Ended(end) => end.exit(),
    };
    run.end(End::Over);
    run.strands.gone().await;
    server.desk.close();
    server.instances.clear();
    server.verdict.get().cloned().unwrap_or(exit)
}

async fn serve(server: Arc<Server>, first: Guest, port: u16) -> Exit {
    // So that a module that cannot even be instantiated fails as a container, and not at its first request.
    if let Err(exit) = server.instances.prepare_first(&server, first).await {
        return exit;
    }
    let mut listener = match listen(&server, port) {
        Ok(listener) => listener,
        Err(why) => {
            server.say(&format!("podling: cannot listen on port {port}: {why}"));
            return Exit::Code(1);
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let told = server.run.stop_listener();
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
            if server.take_on(accepted, place).is_err() {
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = told.told() => {}
        () = accepting => {}
        () = server.instances.tidy() => {}
    }
    drain(&server, listener).await;
    Exit::Terminated
}

/// Answers what has come, and takes nothing more.
async fn drain(server: &Arc<Server>, mut listener: Listener) {
    // Their places do not matter any more: no others come after them.
    let places = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    while let (Ok(place), Poll::Ready(Ok(stream))) =
        (Arc::clone(&places).try_acquire_owned(), listener.try_accept())
    {
        if server.take_on(Ok(stream), place).is_err() {
            break;
        }
    }
    drop(listener);
    server.draining.cancel();
    server.send_home();
    server.run.strands.gone().await;
}

/// Both families: a module that serves itself does so, and a client that looks up `localhost` may come to either.
fn listen(server: &Server, port: u16) -> Result<Listener, String> {
    let text = |error: &dyn std::error::Error| crate::error::chain(error);
    let mut socket = server.run.member.tcp_socket(Family::V6).map_err(|error| text(&error))?;
    socket.set_v6_only(false).map_err(|error| text(&error))?;
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    socket.bind(any).map_err(|error| text(&error))?;
    socket.listen().map_err(|error| text(&error))?;
    socket.listener().ok_or_else(|| "it does not listen".to_owned())
}

/// There is no room for a connection now.
struct NoRoom;

impl Server {
    /// Serves a connection on a strand of its own.
    fn take_on(
        self: &Arc<Self>,
        accepted: Result<Stream, AcceptError>,
        place: OwnedSemaphorePermit,
    ) -> Result<(), NoRoom> {
        let stream = accepted.map_err(|_| NoRoom)?;
        let Some(charge) = Charge::take_for_others(&self.memory, CONNECTION_BYTES) else {
            self.run.http.turned_away.add(1);
            stream.abort();
            return Err(NoRoom);
        };
        let connection = connection::serve(Arc::clone(self), stream);
        strand::spawn(&self.run, async move {
            let _held = (place, charge);
            connection.await;
        });
        Ok(())
    }

    /// A line from the host in the module's log.
    fn say(&self, line: &str) {
        self.plan.logs.write(Output::Stderr, format!("{line}\n").as_bytes());
    }

    /// One request was the end of the whole run.
    fn fall(&self, exit: Exit) {
        // The first stays.
        let _ = self.verdict.set(exit);
        self.run.end(End::Over);
    }
}
