//! Sockets for wasip1 by the functions that WasmEdge has added, as Go and Rust programs use them.
//!
//! args:
//! - `serve PORT`: echoes, one connection after the other, waiting in each call;
//! - `loop PORT`: echoes all connections at once, never waiting but in `poll_oneoff`;
//! - `call HOST PORT TEXT`: connects without waiting, sends, prints the answer;
//! - `datagrams PORT`, `datagram HOST PORT TEXT`: the same over UDP;
//! - `rules`: checks what each call answers in each state.
//! exit codes: 1 when a call fails (with its errno), 101 when a rule does not hold.

mod abi;
mod rules;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::{env, process};

use abi::{AGAIN, DATAGRAM, INPROGRESS, Outcome, STREAM, Socket, Want};

/// Bytes of one read.
const CHUNK_BYTES: usize = 16 * 1024;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["serve", port] => serve(number(port)),
        ["loop", port] => serve_all(number(port)),
        ["call", host, port, text] => call(host, port, text),
        ["datagrams", port] => datagrams(number(port)),
        ["datagram", host, port, text] => datagram(host, port, text),
        ["rules"] => rules::check(),
        _ => {
            eprintln!("usage: see the source");
            process::exit(2);
        }
    };
    if let Err(errno) = outcome {
        eprintln!("wasmedge: errno {errno}");
        process::exit(1);
    }
}

fn number(text: &str) -> u16 {
    text.parse().expect("a port")
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

fn listener(port: u16) -> Outcome<Socket> {
    let socket = Socket::open(1, STREAM)?;
    socket.set_option(0, 1)?;
    socket.bind(any(port))?;
    socket.listen()?;
    println!("wasmedge: listens on {}", socket.local_address()?);
    Ok(socket)
}

fn serve(port: u16) -> Outcome<()> {
    let listener = listener(port)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let peer = listener.accept()?;
        println!("wasmedge: serves {}", peer.peer_address()?.ip());
        while let Ok(count) = peer.read(&mut buffer)
            && count > 0
        {
            peer.write_all(&buffer[..count])?;
        }
        // The caller may have gone already.
        let _ = peer.shutdown(3);
    }
}

fn serve_all(port: u16) -> Outcome<()> {
    let listener = listener(port)?;
    listener.set_nonblocking(true)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut peers: Vec<Socket> = Vec::new();
    loop {
        let mut wanted = vec![Want::Fd(listener.0, 1), Want::Nanoseconds(3_600_000_000_000)];
        wanted.extend(peers.iter().map(|peer| Want::Fd(peer.0, 1)));
        let came = abi::poll(&wanted)?;
        let mut gone = Vec::new();
        for (place, error) in came {
            assert_eq!(error, 0, "place {place}");
            if place == 0 {
                let peer = listener.accept()?;
                peer.set_nonblocking(true)?;
                peers.push(peer);
            } else if place > 1 {
                let peer = &peers[place - 2];
                match peer.read(&mut buffer) {
                    Ok(0) => gone.push(place - 2),
                    Ok(count) => peer.write_all(&buffer[..count])?,
                    Err(AGAIN) => {}
                    Err(_) => gone.push(place - 2),
                }
            }
        }
        for place in gone.into_iter().rev() {
            peers.remove(place);
        }
    }
}

fn call(host: &str, port: &str, text: &str) -> Outcome<()> {
    let to = abi::look_up(host, port)?.into_iter().find(SocketAddr::is_ipv4).expect("an address");
    let socket = Socket::open(1, STREAM)?;
    socket.set_nonblocking(true)?;
    match socket.connect(to) {
        Ok(()) => {}
        Err(INPROGRESS) => {
            abi::poll(&[Want::Fd(socket.0, 2)])?;
            match socket.option(2)? {
                0 => {}
                error => return Err(error),
            }
        }
        Err(error) => return Err(error),
    }
    assert_eq!(socket.peer_address()?, to);
    socket.write_all(text.as_bytes())?;
    socket.shutdown(2)?;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; CHUNK_BYTES]);
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(AGAIN) => drop(abi::poll(&[Want::Fd(socket.0, 1)])?),
            Err(error) => return Err(error),
        }
    }
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn datagrams(port: u16) -> Outcome<()> {
    let socket = Socket::open(1, DATAGRAM)?;
    socket.bind(any(port))?;
    println!("wasmedge: hears on {}", socket.local_address()?);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let (count, _, from) = socket.receive_from(&mut buffer)?;
        socket.send_to(&buffer[..count], from)?;
    }
}

fn datagram(host: &str, port: &str, text: &str) -> Outcome<()> {
    let to = abi::look_up(host, port)?.into_iter().find(SocketAddr::is_ipv4).expect("an address");
    let socket = Socket::open(1, DATAGRAM)?;
    socket.send_to(text.as_bytes(), to)?;
    let mut buffer = [0; 4];
    let (count, truncated, from) = socket.receive_from(&mut buffer)?;
    assert_eq!(from.port(), to.port());
    assert_eq!(truncated, text.len() > buffer.len());
    println!("{}", String::from_utf8_lossy(&buffer[..count]));
    Ok(())
}
