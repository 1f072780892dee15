//! One request of a module and its response.
//!
//! ```text
//!   look up ─► connect ─► (TLS) ─► send ─────────────► response's head ─► its body
//!   └───── connect-timeout ─────┘  └ first-byte-timeout ┘                └ between-bytes-timeout: each part
//! ```
//! Owns: the order, the time limits, and that whoever drops the response ends the exchange. Is not: the meter (the account runs it),
//! nor a pool: **each request has its own connection**. Within a node that costs microseconds; to the outside a request costs a
//! handshake, and there is no connection that a bad link has silently killed, and no second try of a request that the server may have
//! acted on.
//! Limits: each exchange is charged [`PLAIN_BYTES`] or [`TLS_BYTES`], what its buffers can grow to.

use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::http::uri::Scheme;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::charge::Charge;
use super::client::Parts;
use super::errors;
use super::io::NetIo;
use super::kept::fields as fields_bytes;
use crate::net::{Lookup, Stream};

/// What buffers of one exchange can grow to, bytes: hyper's two, and two chunks of the request's body.
pub(super) const PLAIN_BYTES: usize = BUFFER_BYTES + 64 * 1024;

/// The same with TLS: a record each way, sealed and open, and the session.
const TLS_BYTES: usize = PLAIN_BYTES + 80 * 1024;

/// hyper's buffer for the response's head, and what it reads at a time of the body.
const BUFFER_BYTES: usize = 32 * 1024;

/// Headers of a response.
const HEADERS_MAX: usize = 128;

/// Time to look up, connect and agree on TLS, if the module sets none: what Linux takes to give up on a SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(127);

/// Time to the response's head, and between two parts of its body, if the module sets none; wasmtime's own choice.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// After so long without an outcome the next address of a name is tried beside the first (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

pub(super) type Answer = Result<Response<WasiBody>, Error>;

/// See the header.
pub(super) struct Exchange {
    client: Arc<Parts>,
    request: Request<WasiBody>,
    options: RequestOptions,
    target: Target,
    _charge: Charge,
    _place: OwnedSemaphorePermit,
}

impl Exchange {
    /// Takes what an exchange needs of the module's account.
    pub(super) fn new(
        client: Arc<Parts>,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Self, Error> {
        let target = Target::of(request.uri())?;
        let place = Arc::clone(&client.room).try_acquire_owned();
        let place = place.map_err(|_| Error::ConnectionLimitReached)?;
        let bytes = if target.tls { TLS_BYTES } else { PLAIN_BYTES };
        let memory = client.account.memory();
        let charge = Charge::take(&memory, bytes).ok_or_else(|| {
            memory.missed(bytes);
            no_memory()
        })?;
        // A server is asked for a path; a whole URI is how a proxy is asked (RFC 9112, 3.2).
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
        Ok(Self { client, request, options, target, _charge: charge, _place: place })
    }

    /// Carries it out, until the response is complete or nobody wants it.
    pub(super) async fn carry_out(self, mut answer: oneshot::Sender<Answer>) {
        let between = self.options.between_bytes_timeout.unwrap_or(ANSWER_TIMEOUT);
        let Self { client, request, options, target, _charge, _place } = self;
        let started = tokio::select! {
            biased;
            () = answer.closed() => return,
            started = start(&client, request, options, target) => started,
        };
        let (response, connection) = match started {
            Ok(started) => started,
            Err(error) => {
                // Given up in the same moment: nobody to tell.
                let _ = answer.send(Err(error));
                return;
            }
        };
        let memory = client.account.memory();
        let Some(head) = Charge::take_for_others(&memory, fields_bytes(response.headers())) else {
            let _ = answer.send(Err(no_memory()));
            return;
        };
        let (held, dropped) = oneshot::channel::<()>();
        let response = response.map(|incoming| {
            let pause = Box::pin(sleep(between));
            ResponseBody { incoming, between, pause, _held: held, _head: head }.boxed_unsync()
        });
        if answer.send(Ok(response)).is_err() {
            return;
        }
        if let Some(connection) = connection {
            tokio::select! {
                _ = dropped => {}
                // The body has been told of any error.
                _ = connection => {}
            }
        }
    }
}

fn no_memory() -> Error {
    Error::InternalError(Some("the module's memory limit leaves no room for it".to_owned()))
}

type Connection = Pin<Box<http1::Connection<TokioIo<Box<dyn Duplex>>, WasiBody>>>;

/// From nothing to the response's head; with the connection, if it goes on.
async fn start(
    client: &Parts,
    request: Request<WasiBody>,
    options: RequestOptions,
    target: Target,
) -> Result<(Response<Incoming>, Option<Connection>), Error> {
    let limit = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let opened = timeout(limit, Box::pin(target.open(client))).await;
    let io = opened.map_err(|_| Error::ConnectionTimeout)??;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(io))
        .await
        .map_err(errors::exchange)?;
    let mut connection = Some(Box::pin(connection));
    let mut sent = pin!(sender.send_request(request));
    let head = std::future::poll_fn(|cx| {
        if connection.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready()) {
            // What went wrong is told to whoever waits for the response.
            connection = None;
        }
        sent.as_mut().poll(cx)
    });
    let limit = options.first_byte_timeout.unwrap_or(ANSWER_TIMEOUT);
    let head = timeout(limit, head).await.map_err(|_| Error::ConnectionReadTimeout)?;
    Ok((head.map_err(errors::exchange)?, connection))
}

/// A byte stream both ways.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Whom a request is for.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            // A name and password do not belong into a URI (RFC 9110, 4.2.4).
            return Err(Error::HttpRequestUriInvalid);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { host: host.to_owned(), port, tls })
    }

    async fn open(&self, client: &Parts) -> Result<Box<dyn Duplex>, Error> {
        let stream = self.connect(client).await?;
        // hyper and TLS wait for the peer themselves; the answer's time limit covers it.
        let io = NetIo::new(stream, ANSWER_TIMEOUT);
        if !self.tls {
            return Ok(Box::new(io));
        }
        let connector = client.tls.connector(&client.trust).await.map_err(|error| {
            let why = crate::error::chain(&error);
            tracing::warn!(module = client.member.name(), why, "no TLS for a module's request");
            Error::ConfigurationError
        })?;
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|_| Error::HttpRequestUriInvalid)?;
        let secured = connector.connect(name, io).await;
        Ok(Box::new(secured.map_err(|error| errors::tls(&error))?))
    }

    /// Connects to the first of the name's addresses that answers.
    async fn connect(&self, client: &Parts) -> Result<Stream, Error> {
        let mut addresses = self.addresses(client).await?.into_iter().take(ADDRESSES_MAX);
        let mut attempts = FuturesUnordered::new();
        let mut failed = None;
        let mut next = addresses.next();
        loop {
            if let Some(ip) = next.take() {
                match client.member.connect(SocketAddr::new(ip, self.port)) {
                    Ok(attempt) => attempts.push(attempt),
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            let more = addresses.len() > 0;
            let outcome = tokio::select! {
                Some(outcome) = attempts.next() => Some(outcome),
                () = sleep(NEXT_ADDRESS), if more && !attempts.is_empty() => None,
                else => None,
            };
            match outcome {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => {
                    failed.get_or_insert(error);
                }
                None => {}
            }
            next = addresses.next();
            if next.is_none() && attempts.is_empty() {
                return Err(failed.map_or(Error::DestinationNotFound, errors::connect));
            }
        }
    }

    async fn addresses(&self, client: &Parts) -> Result<Vec<IpAddr>, Error> {
        if let Ok(ip) = self.host.parse() {
            return Ok(vec![ip]);
        }
        let answer = match client.member.lookup(&self.host) {
            Lookup::Now(answer) => answer,
            Lookup::Later(answer) => answer.await,
        };
        answer.map_err(errors::resolve)
    }
}

/// A response's body. Dropping it ends the exchange.
struct ResponseBody {
    incoming: Incoming,
    between: Duration,
    pause: Pin<Box<Sleep>>,
    _held: oneshot::Sender<()>,
    /// For the head, which is kept until the module asks for it, or beside the body.
    _head: Charge,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                let until = tokio::time::Instant::now() + self.between;
                self.pause.as_mut().reset(until);
                Poll::Ready(frame.map(|frame| frame.map_err(errors::exchange)))
            }
            Poll::Pending => {
                ready!(self.pause.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
