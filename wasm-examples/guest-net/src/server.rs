//! A single-threaded HTTP/1.1 server: many connections in turn, none of which can hold up another.
//!
//! ```text
//!   accept ──► Connection: read head ──► answer ──► write head, body ──┐
//!                             ▲───────── keep-alive ───────────────────┤
//!                                                      close ◄─────────┘ or its deadline passes
//! ```
//! Everything is non-blocking and driven by one `poll`. Only GET and HEAD; a request with a body is refused.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::poll::{self, Interest};

/// Connections at a time; more wait in the listener's backlog. Each holds at most one chunk and one head.
const CONNECTIONS_MAX: usize = 64;
/// Longest request head, bytes; browsers stay below half of it.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// How long a peer may be silent, or may not take what we send. Longer than a slow link's hiccup.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// File bytes held for one connection.
const CHUNK_BYTES: usize = 16 * 1024;

/// The first line of a request: all that the examples look at.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Still percent-encoded, without the query.
    pub path: String,
}

/// What is sent back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Body,
}

#[derive(Debug)]
pub enum Body {
    Bytes(Vec<u8>),
    /// An open file and its length.
    File(File, u64),
}

impl Reply {
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        let body = Body::Bytes(text.into().into_bytes());
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }
}

/// Serves for ever. `answer` must not wait: while it works, every connection stands still.
///
/// # Errors
/// When the listener itself fails; a connection's own failure only ends that connection.
pub fn serve(
    listener: &TcpListener,
    mut answer: impl FnMut(&Request) -> Reply,
) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut interests: Vec<Interest> = connections.iter().map(Connection::interest).collect();
        if connections.len() < CONNECTIONS_MAX {
            interests.push(Interest::readable(listener));
        }
        let now = Instant::now();
        let next = connections.iter().map(|one| one.deadline.saturating_duration_since(now)).min();
        poll::wait(&mut interests, next)?;

        let now = Instant::now();
        let mut ready = interests.iter();
        connections.retain_mut(|one| match ready.next() {
            Some(interest) if interest.is_ready() => one.advance(now, &mut answer).is_ok(),
            _ => now < one.deadline,
        });
        if ready.next().is_some_and(Interest::is_ready) {
            accept_waiting(listener, &mut connections)?;
        }
    }
}

fn accept_waiting(listener: &TcpListener, connections: &mut Vec<Connection>) -> io::Result<()> {
    while connections.len() < CONNECTIONS_MAX {
        match listener.accept() {
            Ok((stream, _)) => connections.extend(Connection::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The peer gave up between its call and our answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    /// Received and not yet answered.
    received: Vec<u8>,
    /// To be sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// What follows `outgoing`.
    file: Option<io::Take<File>>,
    close_after: bool,
    deadline: Instant,
}

impl Connection {
    fn new(stream: TcpStream) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        Some(Self {
            stream,
            received: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            file: None,
            close_after: false,
            deadline: Instant::now() + SILENCE_MAX,
        })
    }

    fn is_sending(&self) -> bool {
        self.sent < self.outgoing.len() || self.file.is_some()
    }

    fn interest(&self) -> Interest {
        if self.is_sending() {
            Interest::writable(&self.stream)
        } else {
            Interest::readable(&self.stream)
        }
    }

    /// Goes as far as it can without waiting. An error means: drop the connection.
    fn advance(
        &mut self,
        now: Instant,
        answer: &mut impl FnMut(&Request) -> Reply,
    ) -> io::Result<()> {
        loop {
            if self.is_sending() {
                if !self.send(now)? {
                    return Ok(());
                }
                if self.close_after {
                    return Err(io::ErrorKind::NotConnected.into());
                }
            }
            if let Some(length) = head_length(&self.received) {
                let head: Vec<u8> = self.received.drain(..length).collect();
                self.answer_head(&head, answer);
            } else if self.received.len() >= HEAD_BYTES_MAX {
                self.queue(Reply::text(431, "request head too long\n"), false, true);
            } else if !self.receive(now)? {
                return Ok(());
            }
        }
    }

    /// False when the peer must take something first.
    fn send(&mut self, now: Instant) -> io::Result<bool> {
        loop {
            while self.sent < self.outgoing.len() {
                match self.stream.write(&self.outgoing[self.sent..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        self.sent += count;
                        self.deadline = now + SILENCE_MAX;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            self.outgoing.clear();
            self.sent = 0;
            let Some(file) = &mut self.file else { return Ok(true) };
            self.outgoing.resize(CHUNK_BYTES, 0);
            let count = file.read(&mut self.outgoing)?;
            self.outgoing.truncate(count);
            if count == 0 {
                // A file that shrank meanwhile leaves the promised length unmet: only closing says so.
                if file.limit() > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.file = None;
            }
        }
    }

    /// False when the peer must send something first.
    fn receive(&mut self, now: Instant) -> io::Result<bool> {
        let mut chunk = [0; 2048];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                // A head must be whole within one span of patience, however slowly it drips.
                if self.received.is_empty() {
                    self.deadline = now + SILENCE_MAX;
                }
                self.received.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn answer_head(&mut self, head: &[u8], answer: &mut impl FnMut(&Request) -> Reply) {
        let Some((request, wants_close, has_body)) = parse_head(head) else {
            return self.queue(Reply::text(400, "not an HTTP/1 request\n"), false, true);
        };
        let is_head = request.method == "HEAD";
        if has_body {
            self.queue(Reply::text(413, "no request body is taken\n"), is_head, true);
        } else if is_head || request.method == "GET" {
            let reply = answer(&request);
            self.queue(reply, is_head, wants_close);
        } else {
            self.queue(Reply::text(405, "only GET and HEAD\n"), is_head, wants_close);
        }
    }

    fn queue(&mut self, reply: Reply, is_head: bool, close: bool) {
        let length = match &reply.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File(_, length) => *length,
        };
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nConnection: {}\r\n\r\n",
            reply.status,
            reason(reply.status),
            reply.content_type,
            if close { "close" } else { "keep-alive" },
        );
        self.outgoing.extend_from_slice(head.as_bytes());
        self.close_after = close;
        match reply.body {
            _ if is_head => {}
            Body::Bytes(bytes) => self.outgoing.extend_from_slice(&bytes),
            Body::File(file, length) => self.file = Some(file.take(length)),
        }
    }
}

/// Length of the first request head in `bytes`, its empty line included.
fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|start| start + 4)
}

/// The request, whether the connection ends after it, and whether a body follows.
fn parse_head(head: &[u8]) -> Option<(Request, bool, bool)> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target, version) = (first.next()?, first.next()?, first.next()?);
    if first.next().is_some() || !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return None;
    }
    let mut close = version == "HTTP/1.0";
    let mut has_body = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            close = value.eq_ignore_ascii_case("close")
                || (close && !value.eq_ignore_ascii_case("keep-alive"));
        } else if name.eq_ignore_ascii_case("content-length") {
            has_body |= value != "0";
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            has_body = true;
        }
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    Some((Request { method: method.to_owned(), path: path.to_owned() }, close, has_body))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
