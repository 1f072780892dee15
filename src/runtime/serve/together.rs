//! Several requests in one instance, as WASI 0.3 has it: while one waits, the instance takes the next.
//!
//! ```text
//!  desk ─► take ─► handler ─► response's head ─► body ─┐      one strand for each instance at work
//!           ▲  └── while others wait in it ──┐         │
//!           └──────────── room? ◄────────────┴─────────┘      nothing under way ─► it rests ─► it is called, or its time is over
//! ```
//! Owns: one instance while it has requests, and what its failures mean for all of them. Is not: who is called (`desk.rs`), nor what a client is told
//! (`call.rs`), nor where instances come from (`instances.rs`).
//!
//! What the requests share, they lose together: a trap in one is the end of all that are under way in the instance. A request that takes too long is
//! answered for it (504), and the instance takes no more; it is gone when nobody waits for anything in it. What is given up may still be at work until
//! then: the component model knows no way to end one task of an instance against its will.
//!
//! Limits: so many requests at a time, and in all (`HttpLimits`); time after the last answer, and after a client has gone (`HttpLimits::afterwards`).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream as _};
use hyper::Request;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use wasmtime::component::Accessor;
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p3::bindings::Service;

use super::Server;
use super::call::{Held, Said, respond};
use super::crew::{Alerts, Crew, UnderWay};
use super::desk::Call;
use super::instances::Ready;
use super::reply::{Link, RequestBody};
use crate::runtime::cputime::monotonic_ns;
use crate::runtime::guest::Guest;
use crate::runtime::sched::turn_began;
use crate::runtime::{stacks, strand};

/// A request that waits for an instance.
pub(super) struct Job {
    pub(super) request: Request<RequestBody>,
    pub(super) name: Arc<str>,
    pub(super) head: oneshot::Sender<Said>,
    pub(super) link: Arc<Link>,
    pub(super) held: Held,
}

/// Times in one turn that an instance goes on when it has woken itself, as it does for each step of each request: most of these are a few microseconds, less
/// than a turn costs. One whose instructions are paced pays after each.
const ROUNDS: u32 = 4;

/// Age of a turn from which it ends where it would have ended, nanoseconds. Who computes is made to step back later than this, and for others.
const ROUNDS_NS: u64 = 50_000;

impl Server {
    /// Ends those that rest: nothing more comes.
    pub(super) fn send_home(&self) {
        for crew in self.desk.free() {
            crew.waker.wake();
        }
    }

    /// Gives a request to whoever has room for it, or comes to have.
    pub(super) fn hand_in(self: &Arc<Self>, job: Job) {
        self.call(self.desk.put(job));
    }

    fn call(self: &Arc<Self>, call: Call<Crew>) {
        match call {
            Call::Nobody => {}
            Call::Wake(crew) => crew.waker.wake(),
            Call::Start(crew) => strand::spawn(&self.run, at_work(Arc::clone(self), crew)),
        }
    }

    fn take(self: &Arc<Self>, crew: &Arc<Crew>) -> Option<Job> {
        let (job, call) = self.desk.take(crew);
        self.call(call);
        job
    }
}

/// One whose end is told at the desk, however it comes.
struct Seat {
    server: Arc<Server>,
    crew: Arc<Crew>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let call = self.server.desk.leave(&self.crew);
        // At the end of the run everything is dropped, and nobody is to come any more.
        if self.server.run.ended().is_none() {
            self.server.call(call);
        }
    }
}

/// A type of its own, because it starts others of its kind.
fn at_work(server: Arc<Server>, crew: Arc<Crew>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(work(server, crew))
}

/// Answers requests with one instance until there are none for it.
async fn work(server: Arc<Server>, crew: Arc<Crew>) {
    let seat = Seat { server, crew };
    let (server, crew) = (&seat.server, &seat.crew);
    // Others may have taken it meanwhile; then nothing was made for it.
    let Some(first) = server.take(crew) else { return };
    let mut ready = match server.instances.get(server).await {
        Ok(ready) => ready,
        Err(error) => return no_instance(server, first, &error),
    };
    let stacks = Arc::clone(&ready.bounded.stacks);
    let end = stacks::on(stacks, answer(server, crew, &mut ready, first)).await;
    match end {
        End::Idle | End::GivenUp => {}
        End::TooLong => server.say(&format!(
            "podling: {}: the handler went on for {} s after its response; given up",
            crew.names(),
            server.limits.afterwards.as_secs_f64()
        )),
        End::Broken { error, others } => {
            let error = ready.bounded.cause(error);
            drop(ready);
            let names = crew.names();
            crew.disband();
            server.run.http.failed.add(others);
            server.failed(&names, &error);
        }
    }
}

/// There is no instance for a request: another one may have room for it; else it fails.
fn no_instance(server: &Arc<Server>, job: Job, error: &wasmtime::Error) {
    match server.desk.put_back(job) {
        Ok(call) => server.call(call),
        Err(job) => job.link.breaks(server.no_instance(&job.name, error)),
    }
}

enum End {
    /// Nothing is under way in it, and it takes no more, or nobody came for a while.
    Idle,
    /// Nobody waits for what is under way.
    GivenUp,
    /// A handler worked on for too long after its answer.
    TooLong,
    /// It trapped, or ended otherwise, and with it so many requests beside the one whose fault it was.
    Broken { error: wasmtime::Error, others: u64 },
}

/// The instance at work, turn by turn.
async fn answer(server: &Arc<Server>, crew: &Arc<Crew>, ready: &mut Ready, first: Job) -> End {
    let Ready { bounded, proxy, answered, .. } = ready;
    let Proxy::P3(service) = &*proxy else {
        let error = wasmtime::Error::msg("a handler of WASI 0.2 answers one request at a time");
        return End::Broken { error, others: 0 };
    };
    let shift = async |accessor: &Accessor<Guest>| {
        take_and_answer(accessor, service, server, crew, answered, first).await
    };
    let mut work = pin!(bounded.store.run_concurrent(shift));
    let (mut patience, mut rest) = (Patience::default(), Rest::default());
    let mut alerts = Alerts::default();
    let rounds = if server.run.paced.is_some() { 1 } else { ROUNDS };
    poll_fn(|task| {
        let cx = &mut Context::from_waker(alerts.of(crew, task.waker()));
        crew.waker.register(cx.waker());
        server.desk.turn_begins(crew);
        crew.turn_begins();
        let mut outcome = work.as_mut().poll(cx);
        for _ in 1..rounds {
            if outcome.is_ready() || monotonic_ns() > turn_began() + ROUNDS_NS || !crew.was_woken()
            {
                break;
            }
            outcome = work.as_mut().poll(cx);
        }
        match outcome.map(|outcome| outcome.and_then(|outcome| outcome)) {
            Poll::Ready(Ok(())) => return Poll::Ready(End::Idle),
            Poll::Ready(Err(error)) => {
                // Before their bodies end with the store.
                let others = crew.breaks().saturating_sub(1) as u64;
                return Poll::Ready(End::Broken { error, others });
            }
            Poll::Pending => {}
        }
        if let Some(end) = patience.is_over(cx, crew, server) {
            crew.breaks();
            return Poll::Ready(end);
        }
        if crew.turn_ends() {
            task.waker().wake_by_ref();
        }
        let is_over = rest.is_over(cx, crew, server.instances.idle_time());
        server.call(server.desk.turn_ends(crew, crew.has_room() && !is_over));
        // Asked when it is on the list of those that are sent home.
        if is_over || (crew.is_at_rest() && server.draining.is_cancelled()) {
            return Poll::Ready(End::Idle);
        }
        Poll::Pending
    })
    .await
}

/// How long an instance has had nothing to do.
#[derive(Default)]
struct Rest {
    since: Option<Instant>,
    /// Armed once and not for each rest: most are over at once.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Rest {
    fn is_over(&mut self, cx: &mut Context<'_>, crew: &Crew, limit: Duration) -> bool {
        if !crew.is_at_rest() {
            self.since = None;
            return false;
        }
        let end = *self.since.get_or_insert_with(Instant::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            if timer.deadline() >= end {
                return true;
            }
            timer.as_mut().reset(end);
        }
    }
}

/// How long is waited for what nobody waits for.
#[derive(Default)]
struct Patience {
    with: Option<(UnderWay, Pin<Box<Sleep>>)>,
}

impl Patience {
    fn is_over(&mut self, cx: &mut Context<'_>, crew: &Crew, server: &Server) -> Option<End> {
        if crew.is_at_rest() {
            self.with = None;
            return None;
        }
        let under_way = crew.under_way();
        match under_way {
            UnderWay::AllGivenUp => return Some(End::GivenUp),
            UnderWay::Waited => self.with = None,
            UnderWay::Nothing | UnderWay::SomeGone => {}
        }
        if under_way == UnderWay::Waited {
            return None;
        }
        if self.with.as_ref().is_none_or(|(with, _)| *with != under_way) {
            self.with = Some((under_way, Box::pin(sleep(server.limits.afterwards))));
        }
        let (_, sleep) = self.with.as_mut()?;
        if sleep.as_mut().poll(cx).is_pending() {
            return None;
        }
        self.with = None;
        if under_way == UnderWay::Nothing {
            return Some(End::TooLong);
        }
        crew.give_up_those_gone();
        (crew.under_way() == UnderWay::AllGivenUp).then_some(End::GivenUp)
    }
}

/// Begins requests, one at a time, and answers them beside each other. When none is under way and no handler works on, it waits for the next one; it ends
/// where it may take no more, or others wait already.
///
/// The next one begins when the guest has gone as far as it can with the others: polled anew after each piece of the guest's work, this takes one at a time.
async fn take_and_answer(
    accessor: &Accessor<Guest>,
    service: &Service,
    server: &Arc<Server>,
    crew: &Arc<Crew>,
    answered: &mut u32,
    first: Job,
) -> wasmtime::Result<()> {
    let handler = *service.wasi_http_handler().func_handle().func();
    let mut next = Some(first);
    let mut under_way = pin!(FuturesUnordered::new());
    let mut resting = None;
    poll_fn(|cx| {
        let mut has_begun = false;
        crew.set_at_rest(false);
        loop {
            if let Some(job) = next.take() {
                *answered += 1;
                if let Some((request, link)) = crew.begin(job) {
                    has_begun = true;
                    under_way.push(one(accessor, service, crew, request, link));
                }
            }
            match under_way.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(()))) => continue,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let has_room = !crew.is_closing()
                && server.instances.may_take(*answered, under_way.len())
                && accessor.poll_ready_for_concurrent_call(handler, cx).is_ready();
            crew.set_room(has_room);
            if has_room && !has_begun {
                next = server.take(crew);
                if next.is_some() {
                    continue;
                }
            }
            if !under_way.is_empty() {
                resting = None;
                return Poll::Pending;
            }
            ready!(accessor.poll_no_interesting_tasks(cx));
            if resting.is_none() && has_room {
                resting = server.instances.rest();
            }
            if resting.is_none() || !has_room {
                return Poll::Ready(Ok(()));
            }
            crew.set_at_rest(true);
            return Poll::Pending;
        }
    })
    .await
}

/// One request, until its answer is with the client.
async fn one(
    accessor: &Accessor<Guest>,
    service: &Service,
    crew: &Crew,
    request: Request<RequestBody>,
    link: Arc<Link>,
) -> wasmtime::Result<()> {
    let say = |said| crew.say(&link, said);
    respond(accessor, service, request, say, &link).await?;
    crew.end(&link);
    Ok(())
}
