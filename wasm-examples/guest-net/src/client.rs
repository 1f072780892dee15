//! One GET over a fresh connection, with a deadline over the whole of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::poll::{self, Interest};

/// Largest answer taken, bytes: enough for any page of these examples.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// `http://HOST[:PORT][/PATH]`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub host: String,
    pub port: u16,
    pub path: String,
}

impl Url {
    /// None when `text` is not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        // A colon inside brackets belongs to an IPv6 address.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let url = Self { host: host.to_owned(), port, path: path.to_owned() };
        (!host.is_empty()).then_some(url)
    }
}

/// Asks `url` and returns the status and the body.
///
/// # Errors
/// The socket's own errors; `TimedOut` when `limit` passes; `InvalidData` when the answer is no HTTP/1 or too large.
pub fn get(url: &Url, limit: Duration) -> io::Result<(u16, Vec<u8>)> {
    let deadline = Instant::now() + limit;
    let mut stream = connect(url, deadline)?;
    stream.set_nonblocking(true)?;
    let request =
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.path, url.host);
    let mut unsent = request.as_bytes();
    while !unsent.is_empty() {
        match stream.write(unsent) {
            Ok(count) => unsent = &unsent[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(Interest::writable(&stream), deadline)?;
            }
            Err(error) => return Err(error),
        }
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) if answer.len() + count > ANSWER_BYTES_MAX => {
                return Err(ErrorKind::InvalidData.into());
            }
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(Interest::readable(&stream), deadline)?;
            }
            Err(error) => return Err(error),
        }
    }
    parse(&answer).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Tries each address of the host in turn, as `localhost` may be both ::1 and 127.0.0.1.
fn connect(url: &Url, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::NotFound);
    for address in (url.host.as_str(), url.port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match connect_one(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_one(address: &SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, limit)?;
    // With a time limit, WASI's C library says "connected" when the attempt is over, and keeps its outcome here.
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

fn wait(interest: Interest, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut one = [interest];
    poll::wait(&mut one, Some(left))?;
    if one[0].is_ready() { Ok(()) } else { Err(ErrorKind::TimedOut.into()) }
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}
