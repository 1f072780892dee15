//! Sends back what it receives, over TCP and over UDP on the same port number.
//!
//! env: `PORT` (default 7); `ADDRESS` to bind (default 0.0.0.0; `::` for IPv6). Many connections at once; a connection
//! is closed when its peer has closed its sending side and has got everything back.
//! exit codes: 1 when the port cannot be had.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use guest_net::number_from_env;
use guest_net::poll::{self, Interest};

/// Bytes held for one connection.
const CHUNK_BYTES: usize = 16 * 1024;

fn main() -> io::Result<()> {
    let port = number_from_env("PORT", 7) as u16;
    let address = env::var("ADDRESS").ok().and_then(|text| text.parse().ok());
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let listener = TcpListener::bind((address, port))?;
    let datagrams = UdpSocket::bind((address, port))?;
    listener.set_nonblocking(true)?;
    datagrams.set_nonblocking(true)?;
    println!("echo: TCP and UDP on port {port}");

    let mut peers: Vec<Peer> = Vec::new();
    loop {
        let mut interests = vec![Interest::readable(&listener), Interest::readable(&datagrams)];
        interests.extend(peers.iter().map(Peer::interest));
        poll::wait(&mut interests, None)?;

        let mut ready = interests[2..].iter();
        peers.retain_mut(|peer| match ready.next() {
            Some(interest) if interest.is_ready() => peer.advance().is_ok(),
            _ => true,
        });
        if interests[1].is_ready() {
            echo_datagrams(&datagrams);
        }
        if interests[0].is_ready() {
            match listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    peers.push(Peer { stream, held: Vec::with_capacity(CHUNK_BYTES) });
                }
                // Nothing there after all, or a caller that has gone again.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// A datagram that cannot be sent back is lost, as datagrams are.
fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..count], from);
    }
}

struct Peer {
    stream: TcpStream,
    /// Received and not yet sent back.
    held: Vec<u8>,
}

impl Peer {
    fn interest(&self) -> Interest {
        if self.held.is_empty() {
            Interest::readable(&self.stream)
        } else {
            Interest::writable(&self.stream)
        }
    }

    /// Goes as far as it can without waiting. An error means: drop the connection.
    fn advance(&mut self) -> io::Result<()> {
        loop {
            let step = if self.held.is_empty() { self.receive() } else { self.send() };
            match step {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.held.resize(CHUNK_BYTES, 0);
        let outcome = self.stream.read(&mut self.held);
        self.held.truncate(*outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let count = self.stream.write(&self.held)?;
        self.held.drain(..count);
        Ok(())
    }
}
