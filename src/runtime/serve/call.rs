//! One request, from admission to the end of its handler.
//!
//! ```text
//!  acceptable? ─► a place? ─► memory? ─► an instance ─► handler ─► response's head ─► body ─► what it does afterwards
//!   400 413 501     503         503        500, 503       └─ request_timeout: 504 ─┘            └─ AFTERWARDS_MAX ─┘
//! ```
//! Owns: this order, and what each failure means for the client, the log and the run. Is not: HTTP's bytes.
//!
//! The handler is a future that is polled where hyper waits for the response, and then beside it (`works.rs`): no task is started and no
//! thread woken for a request. It goes on when the client goes: what it does may matter to others, and its own limits still end it.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{HOST, HeaderValue, UPGRADE};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView as _, p2, p3};

use super::instances::Ready;
use super::reply::{Delivery, Link, Reply, RequestBody, refusal};
use super::works::{Ended, Work, Works};
use super::{HttpLimits, Server};
use crate::runtime::instance::exit_of;
use crate::runtime::limiter::OutOfMemory;
use crate::runtime::stacks;
use crate::spec::Exit;
use crate::wasi::http::{BODY_CHUNK_BYTES, Charge, fields_bytes};

/// How long a request waits for a place: long enough for a burst of short ones, short enough for a prober or a proxy to try elsewhere.
const WAIT_FOR_PLACE: Duration = Duration::from_secs(1);

/// Time that a handler may go on after its response is complete.
const AFTERWARDS_MAX: Duration = Duration::from_secs(60);

/// What a request costs the module's ledger beside its instance and its own head, bytes: two chunks of its response, what hyper's two
/// buffers grow by while a body goes through them, and the response's head on its way out.
const REQUEST_BYTES: usize = 2 * BODY_CHUNK_BYTES + 48 * 1024;

/// Longest part of a request's path in a line of the log, bytes.
const SHOWN_BYTES_MAX: usize = 120;

/// What a handler says, once.
type Said = Result<Response<WasiBody>, String>;

/// Answers one request.
pub(super) async fn answer(
    server: Arc<Server>,
    works: Arc<Works>,
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
    let Some(charge) = Charge::take(&server.memory, REQUEST_BYTES + head_bytes(&request)) else {
        return Ok(server.refuse(StatusCode::SERVICE_UNAVAILABLE, "no memory for the request\n"));
    };
    let name = shown(&request);
    let (head, said) = oneshot::channel();
    let link = Link::new();
    let held = Held { server: Arc::clone(&server), _place: place, _charge: charge };
    server.run.http.under_way.add(1);
    let work: Work = Box::pin(handle(held, request, name.clone(), head, Arc::clone(&link)));
    let mut call = Call { work: Some(work), works };
    Ok(call.response(&server, &name, said, link).await)
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
    work: Option<Work>,
    works: Arc<Works>,
}

impl Call {
    async fn response(
        &mut self,
        server: &Server,
        name: &str,
        mut said: oneshot::Receiver<Said>,
        link: Arc<Link>,
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
                response.map(|body| Reply::of_handler(body, link))
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
        self.leave_to_strand();
    }
}

/// What a handler at work holds of its server.
struct Held {
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
    name: String,
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
        () = too_long_afterwards(&link) => {
            server.say(&format!(
                "podling: {name}: the handler went on for {} s after its response; given up",
                AFTERWARDS_MAX.as_secs()
            ));
            return Ended::Broken;
        }
    };
    match result {
        Ok(()) => {
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

async fn too_long_afterwards(link: &Link) {
    let mut delivery = link.delivery.subscribe();
    // The sender is the link itself.
    let _ = delivery.wait_for(|delivery| *delivery != Delivery::UnderWay).await;
    sleep(AFTERWARDS_MAX).await;
}

impl Ready {
    async fn handle(
        &mut self,
        request: Request<RequestBody>,
        head: oneshot::Sender<Said>,
        link: &Link,
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
                let (request, _) =
                    p3::Request::from_http(store.data_mut().http().hooks, whole(request));
                let mut delivery = link.delivery.subscribe();
                let (tell, told) = oneshot::channel();
                store
                    .run_concurrent(async |accessor| {
                        match service.handle(accessor, request).await? {
                            Ok(response) => {
                                let response = accessor
                                    .with(|store| response.into_http(store, delivered(told)))?;
                                if head.send(Ok(response)).is_ok() {
                                    let end = delivery
                                        .wait_for(|delivery| *delivery != Delivery::UnderWay)
                                        .await;
                                    let _ =
                                        tell.send(end.is_ok_and(|end| *end == Delivery::Complete));
                                }
                            }
                            Err(code) => {
                                let _ = head.send(Err(code.to_string()));
                            }
                        }
                        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                        wasmtime::error::Ok(())
                    })
                    .await?
            }
        }
    }
}

/// What the handler is told about its response.
async fn delivered(complete: oneshot::Receiver<bool>) -> Result<(), Error> {
    match complete.await {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(Error::ConnectionTerminated),
    }
}

impl Server {
    fn refuse(&self, status: StatusCode, text: &'static str) -> Response<Reply> {
        self.run.http.refused.add(1);
        refusal(status, text)
    }

    /// There is no instance for a request.
    fn no_instance(&self, name: &str, error: &wasmtime::Error) -> Ended {
        // It is not alone: others have the memory, and will give it back.
        if error.is::<OutOfMemory>() && self.run.http.usage().under_way > 1 {
            return Ended::Crowded;
        }
        self.failed(name, error);
        Ended::Broken
    }

    /// A handler failed: what that means for the log and for the run.
    fn failed(&self, name: &str, error: &wasmtime::Error) {
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

/// Checks what hyper leaves to servers; the answer otherwise.
fn acceptable(
    mut request: Request<Incoming>,
    local: &HeaderValue,
    limits: &HttpLimits,
) -> Result<Request<RequestBody>, (StatusCode, &'static str)> {
    if request.method() == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT is not offered\n"));
    }
    if wants_other_protocol(&request) {
        return Err((StatusCode::NOT_IMPLEMENTED, "HTTP/1.1 is offered, and no upgrade from it\n"));
    }
    // RFC 9112, 3.2: exactly one, except from clients older than HTTP/1.1.
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts == 0 && request.version() < Version::HTTP_11 {
        request.headers_mut().insert(HOST, local.clone());
    } else if hosts != 1 {
        return Err((StatusCode::BAD_REQUEST, "a request has one Host header\n"));
    }
    if authority(&request).is_none() {
        return Err((StatusCode::BAD_REQUEST, "the Host header is not a host\n"));
    }
    if request.body().size_hint().lower() > limits.body_bytes_max {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too long\n"));
    }
    Ok(request.map(|body| RequestBody::new(body, limits)))
}

/// Whether a client wants to speak something else from here on (RFC 9110, 7.8), as those of WebSockets do: no handler could, and one that
/// is told so need not wait. Offers of another HTTP, which some clients make with each request, are passed over.
fn wants_other_protocol<B>(request: &Request<B>) -> bool {
    let offers = request.headers().get_all(UPGRADE).iter();
    let mut names = offers.flat_map(|offer| offer.as_bytes().split(|byte| *byte == b','));
    names.any(|name| {
        let name = name.trim_ascii().to_ascii_lowercase();
        let begins = |with: &[u8]| name.starts_with(with);
        !(name.is_empty() || begins(b"h2") || begins(b"http") || begins(b"tls"))
    })
}

/// What a request's head takes for as long as its handler works: hyper's text of it, and the list of its fields.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let line = uri.path().len() + uri.query().map_or(0, str::len);
    2 * line + 2 * fields_bytes(request.headers())
}

/// Whom a request is for.
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.clone());
    }
    let host = request.headers().get(HOST)?;
    Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes())).ok()
}

/// The request with its whole URI, as WASI 0.3 wants it.
fn whole<B>(mut request: Request<B>) -> Request<B> {
    let authority = authority(&request);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority;
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(hyper::http::uri::PathAndQuery::from_static("/"));
    }
    // Each part is valid by itself, and none is missing.
    if let Ok(uri) = hyper::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// `GET /path`, for the log. Without the query, which often has secrets in it.
fn shown<B>(request: &Request<B>) -> String {
    let mut path = request.uri().path();
    if path.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|&end| path.is_char_boundary(end));
        path = &path[..end.unwrap_or(0)];
    }
    format!("{} {path}", request.method())
}
