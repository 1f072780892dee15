//! What of a request is looked at before a handler sees it.
//!
//! Owns: what is refused for its form, what a request's head costs, its whole URI, and its name in the log. Is not: admission (`call.rs`).

use hyper::body::{Body as _, Incoming};
use hyper::header::{HOST, HeaderValue, UPGRADE};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, StatusCode, Version};

use super::HttpLimits;
use super::reply::RequestBody;
use crate::wasi::http::fields_bytes;

/// Longest part of a request's path in a line of the log, bytes.
const SHOWN_BYTES_MAX: usize = 120;

/// Checks what hyper leaves to servers; the answer otherwise.
pub(super) fn acceptable(
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
pub(super) fn head_bytes<B>(request: &Request<B>) -> usize {
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
pub(super) fn whole<B>(mut request: Request<B>) -> Request<B> {
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
pub(super) fn shown<B>(request: &Request<B>) -> String {
    let mut path = request.uri().path();
    if path.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|&end| path.is_char_boundary(end));
        path = &path[..end.unwrap_or(0)];
    }
    format!("{} {path}", request.method())
}
