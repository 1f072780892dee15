//! Answers HTTP through `wasi:http` 0.2: podling opens the port, each request comes to a function.
//!
//! env: `NAME` (default "handler") is what `/` tells; `LIMIT_MS` (default 20000) bounds each step of what `/get` and `/post` ask.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `hello from NAME` |
//! | `/echo` | the request's body, as it comes |
//! | `/length` | how many bytes the request's body has, read to its end |
//! | `/request` | method, path, authority and headers of the request |
//! | `/status/NNN` | that status |
//! | `/stream?n=N&size=S` | N chunks of S bytes |
//! | `/sleep?ms=N` | after so long |
//! | `/count` | how many requests this instance has answered |
//! | `/print?n=N` | prints N lines, in pieces |
//! | `/memory?mib=N` | takes so much memory |
//! | `/fields?n=N&size=S&ms=N` | has the host keep N lists with a field of S bytes, for so long |
//! | `/requests?n=N&size=S` | has it keep N requests to a host whose name has S bytes |
//! | `/bodies?n=N` | has it keep N bodies that are begun, with 16 KiB each |
//! | `/after?ms=N` | answers, works on for so long, and prints that it has |
//! | `/get?URL`, `/post?URL` | asks that URL (POST with our request's body); its status and body, or 502 and the error |
//! | `/trap-late?ms=N` | begins an answer, and traps after so long |
//! | `/trap`, `/silent`, `/error`, `/spin`, `/exit` | ends badly, or does not end |

mod client;
mod hoard;
mod stream;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Handler;

wasi::http::proxy::export!(Handler);

/// Requests that this instance has answered.
static ANSWERED: AtomicU32 = AtomicU32::new(0);

impl Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => {
                let name = std::env::var("NAME").unwrap_or_else(|_| "handler".to_owned());
                text(out, 200, &format!("hello from {name}\n"));
            }
            "/echo" => echo(&request, out),
            "/length" => length(&request, out),
            "/request" => text(out, 200, &describe(&request)),
            "/stream" => chunks(out, number(query, "n", 10), number(query, "size", 1000)),
            "/sleep" => {
                std::thread::sleep(Duration::from_millis(number(query, "ms", 1000)));
                text(out, 200, "slept\n");
            }
            "/count" => {
                let count = ANSWERED.fetch_add(1, Ordering::Relaxed) + 1;
                text(out, 200, &format!("{count}\n"));
            }
            "/print" => {
                for line in 0..number(query, "n", 1) {
                    print!("line {line} ");
                    println!("of {target}");
                }
                text(out, 200, "printed\n");
            }
            "/memory" => {
                let bytes = vec![7u8; number(query, "mib", 1) as usize * 1024 * 1024];
                let sum = bytes.iter().step_by(4096).map(|&byte| u64::from(byte)).sum::<u64>();
                text(out, 200, &format!("{sum}\n"));
            }
            "/fields" => {
                let (count, size) = (number(query, "n", 10), number(query, "size", 1000));
                let kept: Vec<_> = (0..count).map(|_| hoard::fields(size as usize)).collect();
                std::thread::sleep(Duration::from_millis(number(query, "ms", 0)));
                text(out, 200, &format!("{} lists\n", kept.len()));
            }
            "/requests" => {
                let (count, size) = (number(query, "n", 10), number(query, "size", 1000));
                let kept: Vec<_> = (0..count).map(|_| hoard::request(size as usize)).collect();
                text(out, 200, &format!("{} requests\n", kept.len()));
            }
            "/bodies" => {
                let kept: Vec<_> = (0..number(query, "n", 10)).map(|_| hoard::body()).collect();
                text(out, 200, &format!("{} bodies\n", kept.len()));
            }
            "/after" => {
                text(out, 200, "answered\n");
                std::thread::sleep(Duration::from_millis(number(query, "ms", 1000)));
                println!("worked on after the answer");
            }
            "/get" | "/post" => client::ask(&request, query, path == "/post", out),
            "/trap" => panic!("asked to trap"),
            "/trap-late" => trap_late(out, Duration::from_millis(number(query, "ms", 0))),
            "/silent" => {}
            "/error" => ResponseOutparam::set(out, Err(ErrorCode::ConfigurationError)),
            "/spin" => loop {
                std::hint::black_box(0);
            },
            "/exit" => std::process::exit(0),
            _ => match path.strip_prefix("/status/").and_then(|code| code.parse().ok()) {
                Some(code) => text(out, code, "as you like\n"),
                None => text(out, 404, "no such page\n"),
            },
        }
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

/// Begins a response of unknown length.
pub(crate) fn begin(out: ResponseOutparam, status: u16, headers: Fields) -> OutgoingBody {
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a status of three digits");
    let body = response.body().expect("the first body");
    ResponseOutparam::set(out, Ok(response));
    body
}

/// Answers with a text, whose length is told.
pub(crate) fn text(out: ResponseOutparam, status: u16, text: &str) {
    let length = text.len().to_string().into_bytes();
    let headers = Fields::from_list(&[
        ("content-type".to_owned(), b"text/plain; charset=utf-8".to_vec()),
        ("content-length".to_owned(), length),
    ]);
    let body = begin(out, status, headers.expect("valid headers"));
    let mut stream = body.write().expect("the first stream");
    // A client that has gone is no concern of ours.
    let _ = stream::write_all(&mut stream, text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn describe(request: &IncomingRequest) -> String {
    let mut text = format!(
        "{:?} {} at {}\n",
        request.method(),
        request.path_with_query().unwrap_or_default(),
        request.authority().unwrap_or_default(),
    );
    for (name, value) in request.headers().entries() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    text
}

fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the first body");
    let body = begin(out, 200, Fields::new());
    let mut to = body.write().expect("the first stream");
    let whole = {
        let mut from = incoming.stream().expect("the first stream");
        stream::copy(&mut from, &mut to)
    };
    drop(to);
    match whole {
        Ok(_) => drop(OutgoingBody::finish(body, None)),
        Err(why) => println!("echo broke: {why}"),
    }
}

fn length(request: &IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the first body");
    let from = incoming.stream().expect("the first stream");
    let mut total = 0;
    while let Ok(bytes) = from.blocking_read(64 * 1024) {
        total += bytes.len();
    }
    text(out, 200, &format!("{total}\n"));
}

fn chunks(out: ResponseOutparam, count: u64, size: u64) {
    let body = begin(out, 200, Fields::new());
    let mut stream = body.write().expect("the first stream");
    for n in 0..count {
        let chunk = vec![b'a' + (n % 26) as u8; size as usize];
        if let Err(why) = stream::write_all(&mut stream, &chunk) {
            println!("stream broke after {n} chunks: {why}");
            return;
        }
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn trap_late(out: ResponseOutparam, wait: Duration) {
    let body = begin(out, 200, Fields::new());
    let mut stream = body.write().expect("the first stream");
    let _ = stream::write_all(&mut stream, b"so far so good\n");
    std::thread::sleep(wait);
    panic!("asked to trap late");
}
