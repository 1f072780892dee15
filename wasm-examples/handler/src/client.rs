//! A request of our own, and its answer handed on.

use std::env;
use std::time::Duration;

use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, ResponseOutparam, Scheme,
};

use crate::{begin, stream, text};

/// Asks `url`; with the body of `request` if it is a POST.
pub(crate) fn ask(request: &IncomingRequest, url: &str, post: bool, out: ResponseOutparam) {
    match exchange(request, url, post) {
        Ok(response) => hand_on(&response, out),
        Err(error) => text(out, 502, &format!("{error}\n")),
    }
}

fn exchange(
    request: &IncomingRequest,
    url: &str,
    post: bool,
) -> Result<IncomingResponse, ErrorCode> {
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let outgoing = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let bad = |()| ErrorCode::HttpRequestUriInvalid;
    outgoing.set_scheme(Some(&scheme)).map_err(bad)?;
    outgoing.set_authority(Some(authority)).map_err(bad)?;
    outgoing.set_path_with_query(Some(path)).map_err(bad)?;
    if post {
        outgoing.set_method(&Method::Post).map_err(bad)?;
    }
    let body = outgoing.body().expect("the first body");
    let options = RequestOptions::new();
    let limit = env::var("LIMIT_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let limit = Duration::from_millis(limit).as_nanos() as u64;
    let _ = options.set_connect_timeout(Some(limit));
    let _ = options.set_first_byte_timeout(Some(limit));
    let _ = options.set_between_bytes_timeout(Some(limit));
    let coming = outgoing_handler::handle(outgoing, Some(options))?;
    if post {
        let incoming = request.consume().expect("the first body");
        let mut from = incoming.stream().expect("the first stream");
        let mut to = body.write().expect("the first stream");
        if let Err(why) = stream::copy(&mut from, &mut to) {
            println!("sending broke: {why}");
        }
    }
    OutgoingBody::finish(body, None)?;
    coming.subscribe().block();
    coming.get().expect("it is ready").expect("taken once")
}

fn hand_on(response: &IncomingResponse, out: ResponseOutparam) {
    let incoming = response.consume().expect("the first body");
    let body = begin(out, response.status(), Fields::new());
    let mut to = body.write().expect("the first stream");
    let copied = {
        let mut from = incoming.stream().expect("the first stream");
        stream::copy(&mut from, &mut to)
    };
    drop(to);
    match copied {
        Ok(_) => drop(OutgoingBody::finish(body, None)),
        Err(why) => println!("handing on broke: {why}"),
    }
}
