//! One connection to a server of HTTP.
//!
//! ```text
//!  strand: ┌─► hyper ─► call::answer (polls the handler until its response has a head)
//!          └─► works: handlers whose response is under way, and what they do afterwards
//! ```
//! Owns: hyper's settings, and polling both in turn. Ends when the connection is closed and no handler of it works any more.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Server;
use super::call::answer;
use super::cork::Corked;
use super::works::Works;
use crate::net::Stream;
use crate::wasi::http::io::{Cork, NetIo};

/// Bytes of a request's head; a longer one gets 431. As much as nginx takes.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Headers of a request; more get 431. hyper's own choice.
const HEADERS_MAX: usize = 100;

/// Serves the connection to its end.
pub(super) async fn serve(server: Arc<Server>, stream: Stream) {
    let cork = Arc::<Corked>::default();
    let io = NetIo::new(stream, server.limits.client_patience)
        .corked_by(Arc::clone(&cork) as Arc<dyn Cork>);
    let local = host_header(io.local_address());
    let works = Arc::new(Works::default());
    let service = service_fn(|request| {
        let (works, cork) = (Arc::clone(&works), Arc::clone(&cork));
        answer(Arc::clone(&server), works, cork, request, local.clone())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(server.limits.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // A client may close its sending side and still read.
        .half_close(true)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = Some(Box::pin(connection));
    let mut draining = pin!(server.draining.cancelled());
    let mut told = false;
    poll_fn(|cx| {
        loop {
            if !told && draining.as_mut().poll(cx).is_ready() {
                told = true;
                if let Some(connection) = &mut connection {
                    connection.as_mut().graceful_shutdown();
                }
            }
            if let Some(open) = &mut connection
                && let Poll::Ready(outcome) = open.as_mut().poll(cx)
            {
                if let Err(error) = outcome {
                    tracing::debug!(run = server.run.name, %error, "a connection broke");
                }
                connection = None;
            }
            let ended = works.poll(cx);
            if connection.is_none() && works.is_empty() {
                return Poll::Ready(());
            }
            if !ended {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// What a client older than HTTP/1.1 means when it names no host.
fn host_header(local: SocketAddr) -> HeaderValue {
    HeaderValue::try_from(local.to_string()).unwrap_or(HeaderValue::from_static("localhost"))
}
