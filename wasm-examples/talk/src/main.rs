//! Says its name to whoever asks; or asks, again and again, and says when the answer is another.
//!
//! args: `talk serve PORT`               over TCP and UDP, answers with the host name of its pod
//!       `talk once PORT MILLIS`         listens after so many milliseconds, answers one connection, and ends
//!       `talk watch tcp|udp HOST PORT`  asks every 100 ms; prints each answer that differs from the one before
//!       `talk hold HOST PORT`           keeps a connection to an echo, with a byte every 100 ms; prints `held` for each connection,
//!                                       and how it ended
//!       `talk deaf PORT`                has a UDP socket and never reads it
//!       `talk flood HOST PORT`          sends datagrams of 1,000 bytes as fast as it may
//! env: `HOSTNAME`, which podling sets. Prints the name that answered, `error KIND`, or `unknown` for a name that is none.
//! exit codes: 1 when the port cannot be had; 2 wrong arguments.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;
use std::{env, thread};

use guest_net::poll::{self, Interest};

const EVERY: Duration = Duration::from_millis(100);

/// A datagram may be lost; the next one comes soon.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// More than a host name has.
const ANSWER_BYTES_MAX: u64 = 256;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let port = |text: &str| text.parse::<u16>().ok();
    match words.as_slice() {
        ["serve", number] if port(number).is_some() => serve(port(number).unwrap_or_default()),
        ["watch", how @ ("tcp" | "udp"), host, number] if port(number).is_some() => {
            watch(*how == "udp", host, port(number).unwrap_or_default())
        }
        ["once", number, wait] if port(number).is_some() && wait.parse::<u64>().is_ok() => {
            thread::sleep(Duration::from_millis(wait.parse().unwrap_or_default()));
            once(port(number).unwrap_or_default())
        }
        ["hold", host, number] if port(number).is_some() => {
            hold(host, port(number).unwrap_or_default())
        }
        ["deaf", number] if port(number).is_some() => deaf(port(number).unwrap_or_default()),
        ["flood", host, number] if port(number).is_some() => {
            flood(host, port(number).unwrap_or_default())
        }
        _ => {
            eprintln!(
                "usage: talk serve PORT | once PORT MILLIS | watch tcp|udp HOST PORT | hold HOST PORT | deaf PORT | flood HOST PORT"
            );
            podling_guest::exit(2)
        }
    }
}

fn serve(port: u16) -> io::Result<()> {
    let name = env::var("HOSTNAME").unwrap_or_default();
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", port))?;
    // What was ready may be gone when it is taken: a probe connects and goes away.
    listener.set_nonblocking(true)?;
    datagrams.set_nonblocking(true)?;
    println!("talk: {name} on port {port}");
    loop {
        let mut both = [Interest::readable(&listener), Interest::readable(&datagrams)];
        poll::wait(&mut both, None)?;
        // Whoever goes away before the answer has come does not want it.
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(name.as_bytes());
        }
        let mut question = [0; 64];
        while let Ok((_, from)) = datagrams.recv_from(&mut question) {
            let _ = datagrams.send_to(name.as_bytes(), from);
        }
    }
}

fn once(port: u16) -> io::Result<()> {
    let name = env::var("HOSTNAME").unwrap_or_default();
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("talk: {name} on port {port}, once");
    let (mut stream, _) = listener.accept()?;
    stream.write_all(name.as_bytes())
}

fn hold(host: &str, port: u16) -> io::Result<()> {
    loop {
        match address(host, port) {
            None => println!("unknown"),
            Some(to) => {
                if let Err(error) = keep(to) {
                    println!("error {:?}", error.kind());
                }
            }
        }
        thread::sleep(EVERY);
    }
}

fn keep(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    println!("held");
    loop {
        stream.write_all(b".")?;
        stream.read_exact(&mut [0])?;
        thread::sleep(EVERY);
    }
}

fn deaf(port: u16) -> io::Result<()> {
    let _socket = UdpSocket::bind(("0.0.0.0", port))?;
    println!("talk: deaf on port {port}");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn flood(host: &str, port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let to = address(host, port).ok_or(ErrorKind::NotFound)?;
    println!("talk: flooding {to}");
    loop {
        // A flood does not ask what became of it.
        let _ = socket.send_to(&[0; 1000], to);
    }
}

fn watch(by_udp: bool, host: &str, port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut before = String::new();
    loop {
        let answer = match address(host, port) {
            None => "unknown".to_owned(),
            Some(to) => {
                let answer = if by_udp { ask_udp(&socket, to) } else { ask_tcp(to) };
                answer.unwrap_or_else(|error| format!("error {:?}", error.kind()))
            }
        };
        if answer != before {
            println!("{answer}");
            before = answer;
        }
        thread::sleep(EVERY);
    }
}

fn address(host: &str, port: u16) -> Option<SocketAddr> {
    (host, port).to_socket_addrs().ok()?.next()
}

fn ask_tcp(to: SocketAddr) -> io::Result<String> {
    let mut answer = String::new();
    TcpStream::connect(to)?.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_udp(socket: &UdpSocket, to: SocketAddr) -> io::Result<String> {
    socket.send_to(b"who?", to)?;
    let mut one = [Interest::readable(socket)];
    poll::wait(&mut one, Some(ANSWER_WITHIN))?;
    if !one[0].is_ready() {
        return Err(ErrorKind::TimedOut.into());
    }
    let mut answer = [0; 256];
    let (count, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
}
