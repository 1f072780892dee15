//! Answers HTTP through `wasi:http` 0.3, where bodies are streams of the component model and a handler may go on after its answer.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `hello from 0.3` |
//! | `/echo` | the request's body, as it comes |
//! | `/request` | method, path and authority of the request |
//! | `/stream?n=N&size=S` | N chunks of S bytes |
//! | `/sleep?ms=N` | after so long |
//! | `/count` | how many requests this instance has answered |
//! | `/fields?n=N&size=S` | has the host keep N lists with a field of S bytes |
//! | `/after?ms=N` | answers, works on for so long, and prints that it has |
//! | `/told` | answers, and prints what became of the answer |
//! | `/get?URL`, `/post?URL` | asks that URL (POST with our request's body); its status and body, or 502 and the error |
//! | `/error`, `/trap`, `/trap-late?ms=N`, `/spin` | ends badly, or does not end |

use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::wit_bindgen::{self, FutureReader, StreamReader, StreamResult, StreamWriter};
use wasip3::{wit_future, wit_stream};

struct Handler;

wasip3::http::service::export!(Handler);

/// Requests that this instance has answered.
static ANSWERED: AtomicU32 = AtomicU32::new(0);

const MS: u64 = 1_000_000;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

type Sent = FutureReader<Result<(), ErrorCode>>;

impl Guest for Handler {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match path {
            "/" => text(200, "hello from 0.3\n".to_owned()).0,
            "/echo" => streamed(200, body_of(request)).0,
            "/request" => {
                let (method, authority) = (request.get_method(), request.get_authority());
                text(200, format!("{method:?} {target} at {}\n", authority.unwrap_or_default())).0
            }
            "/stream" => {
                let (count, size) = (number(query, "n", 10), number(query, "size", 1000));
                let (to, from) = wit_stream::new();
                wit_bindgen::spawn_local(chunks(to, count, size));
                streamed(200, from).0
            }
            "/sleep" => {
                wait_for(number(query, "ms", 1000) * MS).await;
                text(200, "slept\n".to_owned()).0
            }
            "/count" => {
                let count = ANSWERED.fetch_add(1, Ordering::Relaxed) + 1;
                text(200, format!("{count}\n")).0
            }
            "/fields" => {
                let value = vec![b'h'; number(query, "size", 1000) as usize];
                let list = || Fields::from_list(&[("x-hoard".to_owned(), value.clone())]);
                let kept: Vec<_> = (0..number(query, "n", 10)).map(|_| list()).collect();
                text(200, format!("{} lists\n", kept.len())).0
            }
            "/after" => {
                let wait = number(query, "ms", 1000) * MS;
                wit_bindgen::spawn_local(async move {
                    wait_for(wait).await;
                    println!("worked on after the answer");
                });
                text(200, "answered\n".to_owned()).0
            }
            "/told" => {
                let (response, sent) = text(200, "answered\n".to_owned());
                wit_bindgen::spawn_local(async move {
                    println!("the answer was sent: {:?}", sent.await);
                });
                response
            }
            "/get" => ask(None, query).await,
            "/post" => ask(Some(body_of(request)), query).await,
            "/error" => return Err(ErrorCode::ConfigurationError),
            "/trap" => panic!("asked to trap"),
            "/trap-late" => {
                let (mut to, from) = wit_stream::new();
                let wait = number(query, "ms", 0) * MS;
                wit_bindgen::spawn_local(async move {
                    to.write_all(b"so far so good\n".to_vec()).await;
                    wait_for(wait).await;
                    panic!("asked to trap late");
                });
                streamed(200, from).0
            }
            "/spin" => loop {
                std::hint::black_box(0);
            },
            _ => text(404, "no such page\n".to_owned()).0,
        })
    }
}

/// A number in the query; `fallback` where it is absent.
fn number(query: &str, name: &str, fallback: u64) -> u64 {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(fallback)
}

/// A response whose body is a stream.
fn streamed(status: u16, body: StreamReader<u8>) -> (Response, Sent) {
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (response, sent) = Response::new(Fields::new(), Some(body), no_trailers);
    response.set_status_code(status).expect("a status of three digits");
    (response, sent)
}

fn text(status: u16, text: String) -> (Response, Sent) {
    let (mut to, from) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        // A client that has gone is no concern of ours.
        let _ = to.write_all(text.into_bytes()).await;
    });
    streamed(status, from)
}

fn body_of(request: Request) -> StreamReader<u8> {
    let (processed, outcome) = wit_future::new(|| Ok(()));
    drop(processed);
    Request::consume_body(request, outcome).0
}

async fn chunks(mut to: StreamWriter<u8>, count: u64, size: u64) {
    for n in 0..count {
        let rest = to.write_all(vec![b'a' + (n % 26) as u8; size as usize]).await;
        if !rest.is_empty() {
            println!("stream broke after {n} chunks");
            return;
        }
    }
}

/// Asks `url`, with `body` as a POST if there is one.
async fn ask(body: Option<StreamReader<u8>>, url: &str) -> Response {
    match exchange(body, url).await {
        Ok(response) => {
            let status = response.get_status_code();
            let (processed, outcome) = wit_future::new(|| Ok(()));
            drop(processed);
            let (body, _) = Response::consume_body(response, outcome);
            // Through our own hands, so that it is we who are held up.
            let (to, from) = wit_stream::new();
            wit_bindgen::spawn_local(copy(body, to));
            streamed(status, from).0
        }
        Err(error) => text(502, format!("{error:?}\n")).0,
    }
}

async fn exchange(body: Option<StreamReader<u8>>, url: &str) -> Result<Response, ErrorCode> {
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let method = if body.is_some() { Method::Post } else { Method::Get };
    let (request, _) = Request::new(Fields::new(), body, no_trailers, None);
    let bad = |()| ErrorCode::HttpRequestUriInvalid;
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_method(&method).map_err(bad)?;
    request.set_scheme(Some(&scheme)).map_err(bad)?;
    request.set_authority(Some(authority)).map_err(bad)?;
    request.set_path_with_query(Some(path)).map_err(bad)?;
    client::send(request).await
}

async fn copy(mut from: StreamReader<u8>, mut to: StreamWriter<u8>) {
    loop {
        let (status, bytes) = from.read(Vec::with_capacity(CHUNK_BYTES)).await;
        if !bytes.is_empty() && !to.write_all(bytes).await.is_empty() {
            return;
        }
        if matches!(status, StreamResult::Dropped) {
            return;
        }
    }
}
