//! A module's own requests.
//!
//! Owns: what all requests of one module share (its member, its account, its TLS sessions), their bound, and the hooks that
//! wasmtime-wasi-http calls. Is not: one request's way (`exchange.rs`).

use std::fmt;
use std::sync::Arc;

use hyper::Request;
use tokio::sync::{Semaphore, oneshot};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::exchange::{Answer, Exchange};
use super::tls::{Tls, Trust};
use super::{Account, BODY_CHUNK_BYTES};
use crate::net::Member;

/// Requests of one module that are under way at once; one more fails with `connection-limit-reached`. Each holds a socket
/// and up to [`super::exchange::PLAIN_BYTES`] of buffers, so memory usually sets the bound.
const REQUESTS_MAX: usize = 256;

/// What a request tells about itself besides its response: nothing.
type Transmission = Box<dyn Future<Output = Result<(), Error>> + Send>;

type Sent =
    Box<dyn Future<Output = Result<(hyper::Response<WasiBody>, Transmission), Error>> + Send>;

/// Sends requests for one module; clones are the same.
#[derive(Clone)]
pub struct Client(Arc<Parts>);

/// What the requests of one module share.
pub(super) struct Parts {
    pub(super) member: Arc<Member>,
    pub(super) account: Arc<dyn Account>,
    pub(super) trust: Trust,
    pub(super) tls: Tls,
    pub(super) room: Arc<Semaphore>,
}

impl Client {
    /// Sends requests as `member`, on `account`, to those that `trust` vouches for.
    #[must_use]
    pub fn new(member: Arc<Member>, account: Arc<dyn Account>, trust: Trust) -> Self {
        let room = Arc::new(Semaphore::new(REQUESTS_MAX));
        Self(Arc::new(Parts { member, account, trust, tls: Tls::default(), room }))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = REQUESTS_MAX - self.0.room.available_permits();
        f.debug_struct("Client").field("under_way", &under_way).finish_non_exhaustive()
    }
}

impl WasiHttpHooks for Client {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Transmission,
    ) -> Sent {
        let client = Arc::clone(&self.0);
        Box::new(async move {
            let (answer, answered) = oneshot::channel::<Answer>();
            let account = Arc::clone(&client.account);
            let exchange = Exchange::new(client, request, options.unwrap_or_default())?;
            account.run(Box::pin(exchange.carry_out(answer)));
            // Only the end of the module takes the exchange away unanswered.
            let response = answered.await.unwrap_or(Err(Error::ConnectionTerminated))?;
            // The exchange goes on by itself for as long as somebody holds the response.
            Ok((response, Box::new(async { Ok(()) }) as Transmission))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p2_error_from_hyper(
        &mut self,
        _: &hyper::Error,
    ) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        wasmtime_wasi_http::p2::bindings::http::types::ErrorCode::HttpProtocolError
    }

    fn p3_error_from_hyper(
        &mut self,
        _: &hyper::Error,
    ) -> wasmtime_wasi_http::p3::bindings::http::types::ErrorCode {
        wasmtime_wasi_http::p3::bindings::http::types::ErrorCode::HttpProtocolError
    }
}
