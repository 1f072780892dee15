//! The pod's network.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use wasi::sockets::instance_network::instance_network;
use wasi::sockets::ip_name_lookup::resolve_addresses;

use crate::{begins, held};

/// Sends to a socket that never reads.
pub(crate) fn datagrams() {
    let deaf = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let to = deaf.local_addr().expect("a bound socket has an address");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_nonblocking(true).expect("set non-blocking");
    let packet = vec![7; 60_000];
    begins();
    loop {
        // Lost or refused, it goes on.
        let _ = socket.send_to(&packet, to);
        let _ = socket.send_to(&[], to);
    }
}

/// Writes into a connection whose other end never reads.
pub(crate) fn stream() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("a bound socket has an address");
    let mut deaf = Vec::new();
    let mut total = 0;
    let block = vec![7; 1 << 20];
    begins();
    for _ in 0..200 {
        let Ok(mut stream) = TcpStream::connect(address) else { break };
        let Ok((other, _)) = listener.accept() else { break };
        stream.set_nonblocking(true).expect("set non-blocking");
        while let Ok(count) = stream.write(&block) {
            total += count;
        }
        deaf.push((stream, other));
    }
    let count = deaf.len();
    held(deaf, &format!("{total} bytes in {count} connections"));
}

/// Connects and lets go, again and again; the other end does not look.
pub(crate) fn connections(number: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("a bound socket has an address");
    begins();
    for count in 0_usize.. {
        let stream = TcpStream::connect(address);
        // Now and then there must be room for the next.
        if stream.is_err() || count % number == number - 1 {
            listener.set_nonblocking(true).expect("set non-blocking");
            while let Ok((mut other, _)) = listener.accept() {
                let _ = other.read(&mut [0; 16]);
            }
        }
    }
}

/// Asks for names without end, each another one. `looks` for the answer to each as well, once: nobody's resolver is asked before that.
pub(crate) fn names(looks: bool) {
    begins();
    let network = instance_network();
    let mut asked = std::collections::VecDeque::new();
    for count in 0_u64.. {
        if let Ok(stream) = resolve_addresses(&network, &format!("n{count}.example.com")) {
            if looks {
                let _ = stream.resolve_next_address();
            }
            asked.push_back(stream);
        }
        if asked.len() > 1000 {
            asked.pop_front();
        }
    }
}
