//! Echoes on sockets that listen already when it starts: what a server for wasip1 does, which cannot open any.
//!
//! env: `LISTEN_FDS` (how many sockets there are, from descriptor 3 on), `LISTEN_FDNAMES`; `TICK_MS` prints a line so often.
//! args: a file to print at the start (so that one sees that directories are still found).
//! A connection that sends `quit` ends the program. exit codes: 1 without a socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use guest_net::number_from_env;
use guest_net::poll::{self, Interest};

/// The first descriptor that is given.
const FIRST: i32 = 3;

/// Bytes held for one connection.
const CHUNK_BYTES: usize = 16 * 1024;

fn main() -> io::Result<()> {
    let count = number_from_env("LISTEN_FDS", 0) as i32;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    println!("listen: {count} sockets ({names})");
    if count == 0 {
        process::exit(1);
    }
    if let Some(path) = env::args().nth(1) {
        println!("listen: {path} says {:?}", fs::read_to_string(&path)?);
    }
    // SAFETY: these descriptors are open, listen, and belong to nobody else here.
    let listeners: Vec<_> =
        (FIRST..FIRST + count).map(|fd| unsafe { TcpListener::from_raw_fd(fd) }).collect();
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    let tick = number_from_env("TICK_MS", 0);
    serve(&listeners, (tick > 0).then(|| Duration::from_millis(tick)))
}

fn serve(listeners: &[TcpListener], tick: Option<Duration>) -> io::Result<()> {
    let mut peers: Vec<TcpStream> = Vec::new();
    let mut next_tick = tick.map(|tick| Instant::now() + tick);
    loop {
        let mut interests: Vec<_> = listeners.iter().map(Interest::readable).collect();
        interests.extend(peers.iter().map(Interest::readable));
        let wait = next_tick.map(|at| at.saturating_duration_since(Instant::now()));
        poll::wait(&mut interests, wait)?;
        if let (Some(at), Some(tick)) = (next_tick, tick)
            && Instant::now() >= at
        {
            println!("listen: tick");
            next_tick = Some(at + tick);
        }
        let mut ready = interests[listeners.len()..].iter().map(Interest::is_ready);
        peers.retain_mut(|peer| !ready.next().unwrap_or(false) || echo(peer).unwrap_or(false));
        for (listener, interest) in listeners.iter().zip(&interests) {
            if interest.is_ready()
                && let Ok((peer, _)) = listener.accept()
            {
                peers.push(peer);
            }
        }
    }
}

/// Sends back what there is; whether the connection goes on.
fn echo(peer: &mut TcpStream) -> io::Result<bool> {
    let mut buffer = [0; CHUNK_BYTES];
    let count = match peer.read(&mut buffer) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
        Err(error) => return Err(error),
    };
    if count == 0 {
        let _ = peer.shutdown(Shutdown::Both);
        return Ok(false);
    }
    if buffer[..count].starts_with(b"quit") {
        println!("listen: quits");
        process::exit(0);
    }
    peer.write_all(&buffer[..count])?;
    Ok(true)
}
