//! One request, from admission to the end of its handler.
//!
//! ```text
//!  acceptable? ─► a place? ─► memory? ─► an instance ─► handler ─► response's head ─► body ─► what it does afterwards
//!   400 413 501     503         503        500, 503       └─ request_timeout: 504 ─┘            └──── afterwards ───┘
//! ```
//! Owns: this order, and what each failure means for the client, the log and the run. Is not: HTTP's bytes.
//!
//! With an instance for itself, the handler is a future that is polled where hyper waits for the response, and then beside it (`works.rs`): no task is started
//! and no thread woken for a request. Where instances have several requests at a time, it is handed in (`together.rs`). Either way it goes on when the client
//! goes: what it does may matter to others. Most often that is not even noticed before there is an answer to send: a client may close its side and still read.
//! Where it is, the handler has the time that it has after a response, so that no place is lost to clients that ask and leave.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};
use wasmtime::component::Accessor;
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView as _, p2, p3};

use super::Server;
use super::cork::Corked;
use super::crew::Asker;
use super::delivery::{Delivery, Who};
use super::instances::NoRoomBeside;
use super::instances::Ready;
use super::reply::{Link, Reply, RequestBody, refusal};
use super::request::{acceptable, head_bytes, shown, whole};
use super::together::Job;
use super::works::{Ended, Work, Works};
use crate::runtime::guest::Guest;
use crate::runtime::instance::exit_of;
use crate::runtime::limiter::OutOfMemory;
use crate::runtime::stacks;
use crate::spec::Exit;
use crate::wasi::http::{BODY_CHUNK_BYTES, Charge};

/// How long a request waits for a place: long enough for a burst of short ones, short enough for a prober or a proxy to try elsewhere.
const WAIT_FOR_PLACE: Duration = Duration::from_secs(1);

/// What a request costs the module's ledger beside its instance and its own head, bytes: two chunks of its response, what hyper's two
/// buffers grow by while a body goes through them, and the response's head on its way out.
const REQUEST_BYTES: usize = 2 * BODY_CHUNK_BYTES + 48 * 1024;

/// What a handler says, once.
pub(super) type Said = Result<Response<WasiBody>, String>;

/// Answers one request.
pub(super) async fn answer(
    server: Arc<Server>,
    works: Arc<Works>,
    cork: Arc<Corked>,
    request: Request<Incoming>,
    local: HeaderValue,
) -> Result<Response<Reply>, Infallible> {
    server.run.http.requests.add(1);
    let request = match acceptable(request, &local, &server.limits) {
        Ok(request) => request,
        Err((status, text)) => return Ok(server.refuse(status, text)),
    };
    let Ok(place) = timeout_at_first(Arc::clone(&server.room).acquire_owned()).await else {
        return Ok(server.refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once\n"));
    };
    let bytes = REQUEST_BYTES + head_bytes(&request);
    let Some(charge) = Charge::take_for_others(&server.memory, bytes) else {
        return Ok(server.refuse(StatusCode::SERVICE_UNAVAILABLE, "no memory for the request\n"));
    };
    let name: Arc<str> = shown(&request).into();
    let (head, said) = oneshot::channel();
    let link = Link::new();
    let held = Held { server: Arc::clone(&server), _place: place, _charge: charge };
    server.run.http.under_way.add(1);
    let work = if server.instances.is_shared() {
        let (name, link) = (Arc::clone(&name), Arc::clone(&link));
        server.hand_in(Job { request, name, head, link, held });
        None
    } else {
        let work: Work =
            Box::pin(handle(held, request, Arc::clone(&name), head, Arc::clone(&link)));
        Some(work)
    };
    let mut call = Call { work, works, cork, link, asker: Asker::Gone };
    let response = call.response(&server, &name, said).await;
    // Not reached by one whose client has gone.
    if call.asker == Asker::Gone {
        call.asker = Asker::Waits;
    }
    if !response.body().is_of_handler() {
        // Nobody will take what the handler says, and it has the time that it has after a response.
        call.link.way.set(Delivery::BrokenOff);
    }
    Ok(response)
}

/// Waits for a place, with a limit if it has to wait at all.
async fn timeout_at_first<T, E>(place: impl Future<Output = Result<T, E>>) -> Result<T, ()> {
    let mut place = std::pin::pin!(place);
    if let Poll::Ready(place) = poll_fn(|cx| Poll::Ready(place.as_mut().poll(cx))).await {
        return place.map_err(|_| ());
    }
    match timeout(WAIT_FOR_PLACE, place).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

/// A request's handler, from hyper's side. Dropped half-way (the client has gone), the handler works on by itself.
struct Call {
    /// The handler; `None`: it is over, or it was handed in.
    work: Option<Work>,
    works: Arc<Works>,
    cork: Arc<Corked>,
    link: Arc<Link>,
    /// What it means if this is dropped now.
    asker: Asker,
}

impl Call {
    async fn response(
        &mut self,
        server: &Server,
        name: &str,
        mut said: oneshot::Receiver<Said>,
    ) -> Response<Reply> {
        let mut ended = None;
        let mut wait = std::pin::pin!(poll_fn(|cx| {
            if let Some(work) = &mut self.work
                && let Poll::Ready(end) = work.as_mut().poll(cx)
            {
                self.work = None;
                ended = Some(end);
            }
            Pin::new(&mut said).poll(cx)
        }));
        // Most handlers have their response ready before they first wait for anything; those need no timer.
        let first = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await;
        let outcome = match first {
            Poll::Ready(outcome) => Ok(outcome),
            Poll::Pending => timeout(server.limits.request_timeout, wait).await,
        };
        let failed = |text| refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
        let ended = ended.or_else(|| self.link.ended());
        match outcome {
            // Nothing of it has gone out yet, so that the client can be told.
            Ok(Ok(Ok(_))) if ended == Some(Ended::Broken) => Self::broken(server).await,
            Ok(Ok(Ok(response))) if response.status().is_informational() => {
                self.leave_to_strand();
                server.run.http.failed.add(1);
                let status = response.status().as_u16();
                server.say(&format!(
                    "podling: {name}: the handler answered with status {status}, which is no answer"
                ));
                failed("the handler failed\n")
            }
            Ok(Ok(Ok(response))) => {
                self.leave_to_strand();
                let (link, cork) = (Arc::clone(&self.link), Arc::clone(&self.cork));
                response.map(|body| Reply::of_handler(body, link, cork))
            }
            Ok(Ok(Err(code))) => {
                self.leave_to_strand();
                server.run.http.failed.add(1);
                server.say(&format!("podling: {name}: the handler answered with an error: {code}"));
                failed("the handler failed\n")
            }
            Ok(Err(_)) => match ended {
                Some(Ended::Crowded) => server
                    .refuse(StatusCode::SERVICE_UNAVAILABLE, "no memory for another request\n"),
                Some(Ended::Broken) => Self::broken(server).await,
                Some(Ended::Orderly) | None => {
                    self.leave_to_strand();
                    server.run.http.failed.add(1);
                    server.say(&format!("podling: {name}: the handler gave no response"));
                    failed("the handler gave no response\n")
                }
            },
            Err(_) => {
                self.work = None;
                self.asker = Asker::GivenUp;
                server.run.http.timed_out.add(1);
                let limit = server.limits.request_timeout.as_secs_f64();
                server.say(&format!("podling: {name}: no response within {limit} s; given up"));
                refusal(StatusCode::GATEWAY_TIMEOUT, "the handler took too long\n")
            }
        }
    }

    /// The handler failed, and that has been said.
    async fn broken(server: &Server) -> Response<Reply> {
        if server.run.ended().is_some() {
            // A run that is ending resets its connections.
            pending::<()>().await;
        }
        refusal(StatusCode::INTERNAL_SERVER_ERROR, "the handler failed\n")
    }

    fn leave_to_strand(&mut self) {
        if let Some(work) = self.work.take() {
            self.works.add(work);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.asker != Asker::Waits {
            self.link.leave(self.asker);
        }
        self.leave_to_strand();
    }
}

/// What a handler at work holds of its server.
pub(super) struct Held {
    server: Arc<Server>,
    _place: OwnedSemaphorePermit,
    _charge: Charge,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.server.run.http.under_way.sub(1);
    }
}

/// Runs the handler to its end.
async fn handle(
    held: Held,
    request: Request<RequestBody>,
    name: Arc<str>,
    head: oneshot::Sender<Said>,
    link: Arc<Link>,
) -> Ended {
    let server = &held.server;
    let mut ready = match server.instances.get(server).await {
        Ok(ready) => ready,
        Err(error) => return server.no_instance(&name, &error),
    };
    let stacks = Arc::clone(&ready.bounded.stacks);
    let result = tokio::select! {
        biased;
        result = stacks::on(stacks, ready.handle(request, head, &link)) => result,
        () = too_long_afterwards(&link, server.limits.afterwards) => {
            server.say(&format!(
                "podling: {name}: the handler went on for {} s after its response; given up",
                server.limits.afterwards.as_secs_f64()
            ));
            return Ended::Broken;
        }
    };
    match result {
        Ok(()) => {
            ready.answered += 1;
            server.instances.put_back(ready);
            Ended::Orderly
        }
        Err(error) => {
            let error = ready.bounded.cause(error);
            // Before the store goes, and ends the body with it.
            link.failed.store(true, Ordering::Release);
            drop(ready);
            server.failed(&name, &error);
            Ended::Broken
        }
    }
}

async fn too_long_afterwards(link: &Link, limit: Duration) {
    link.way.end(Who::Clock).await;
    sleep(limit).await;
}

impl Ready {
    async fn handle(
        &mut self,
        request: Request<RequestBody>,
        head: oneshot::Sender<Said>,
        link: &Arc<Link>,
    ) -> wasmtime::Result<()> {
        let store = &mut self.bounded.store;
        match &self.proxy {
            Proxy::P2(proxy) => {
                let mut view = store.data_mut().http();
                let scheme = p2::bindings::http::types::Scheme::Http;
                let request = view.new_incoming_request(scheme, request)?;
                let out = view.new_response_outparam_from_callback(|said| {
                    // Nobody waits any more: it took too long.
                    let _ = head.send(said.map_err(|code| code.to_string()));
                })?;
                proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
            }
            Proxy::P3(service) => {
                store
                    .run_concurrent(async |accessor| {
                        let say = |said| head.send(said).is_ok();
                        respond(accessor, service, request, say, link).await?;
                        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                        wasmtime::error::Ok(())
                    })
                    .await?
            }
        }
    }
}

/// One request to a handler of WASI 0.3, until its response is with the client, or cannot be. `say` tells the response, and whether anybody heard it.
pub(super) async fn respond(
    accessor: &Accessor<Guest>,
    service: &Service,
    request: Request<RequestBody>,
    say: impl FnOnce(Said) -> bool,
    link: &Arc<Link>,
) -> wasmtime::Result<()> {
    let request = accessor
        .with(|mut store| p3::Request::from_http(store.data_mut().http().hooks, whole(request)).0);
    match service.handle(accessor, request).await? {
        Ok(response) => {
            let told = delivered(Arc::clone(link));
            let response = accessor.with(|store| response.into_http(store, told))?;
            if !say(Ok(response)) {
                link.way.set(Delivery::BrokenOff);
            }
            link.way.end(Who::Host).await;
        }
        Err(code) => {
            say(Err(code.to_string()));
        }
    }
    Ok(())
}

/// What the handler is told about its response.
async fn delivered(link: Arc<Link>) -> Result<(), Error> {
    match link.way.end(Who::Handler).await {
        Delivery::Complete => Ok(()),
        Delivery::BrokenOff | Delivery::UnderWay => Err(Error::ConnectionTerminated),
    }
}

impl Server {
    fn refuse(&self, status: StatusCode, text: &'static str) -> Response<Reply> {
        self.run.http.refused.add(1);
        refusal(status, text)
    }

    /// There is no instance for a request.
    pub(super) fn no_instance(&self, name: &str, error: &wasmtime::Error) -> Ended {
        // It is not alone: others have the memory, or did until just now, and will give it back.
        let beside = || self.run.http.usage().under_way > 1 || self.instances.are_any();
        if error.is::<NoRoomBeside>() || (error.is::<OutOfMemory>() && beside()) {
            return Ended::Crowded;
        }
        self.failed(name, error);
        Ended::Broken
    }

    /// A handler failed: what that means for the log and for the run.
    pub(super) fn failed(&self, name: &str, error: &wasmtime::Error) {
        if self.run.ended().is_some() {
            return;
        }
        match exit_of(error, &self.run) {
            exit @ (Exit::OutOfMemory { .. } | Exit::OutOfFuel) => self.fall(exit),
            Exit::Trapped { message } => {
                self.run.http.trapped.add(1);
                self.say(&format!("podling: {name}: the handler trapped: {message}"));
            }
            Exit::Code(code) => {
                self.run.http.failed.add(1);
                self.say(&format!("podling: {name}: the handler called exit({code})"));
            }
            exit @ (Exit::Lost { .. } | Exit::Killed | Exit::Terminated) => {
                self.run.http.failed.add(1);
                let why = exit.message().unwrap_or("the run is ending").to_owned();
                self.say(&format!("podling: {name}: {why}"));
            }
        }
    }
}
