//! What each call answers in each state.

use std::net::SocketAddr;

use crate::abi::{self, AGAIN, DATAGRAM, Outcome, STREAM, Socket, Want};

/// WASI 0.1's numbers.
const ACCES: u32 = 2;
const ADDRINUSE: u32 = 3;
const ADDRNOTAVAIL: u32 = 4;
const AFNOSUPPORT: u32 = 5;
const BADF: u32 = 8;
const CONNREFUSED: u32 = 14;
const DESTADDRREQ: u32 = 17;
const INVAL: u32 = 28;
const ISCONN: u32 = 30;
const MSGSIZE: u32 = 35;
const NOENT: u32 = 44;
const NOTCONN: u32 = 53;
const NOTSOCK: u32 = 57;
const PIPE: u32 = 64;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn fails<T>(outcome: Outcome<T>, errno: u32) {
    assert_eq!(outcome.map(drop), Err(errno));
}

pub(crate) fn check() -> Outcome<()> {
    opening();
    binding()?;
    connecting()?;
    streams()?;
    datagrams()?;
    polling()?;
    println!("wasmedge: all rules hold");
    Ok(())
}

fn opening() {
    fails(Socket::open(0, STREAM), AFNOSUPPORT);
    fails(Socket::open(3, STREAM), AFNOSUPPORT);
    let stdout = std::mem::ManuallyDrop::new(Socket(1));
    fails(stdout.listen(), NOTSOCK);
    let nobody = std::mem::ManuallyDrop::new(Socket(4000));
    fails(nobody.listen(), BADF);
    fails(abi::look_up("nobody.example", ""), NOENT);
    let both = abi::look_up("localhost", "http").expect("localhost");
    assert_eq!(both, [at("127.0.0.1:80"), at("[::1]:80")]);
}

fn binding() -> Outcome<()> {
    let socket = Socket::open(1, STREAM)?;
    assert_eq!(socket.local_address()?, at("0.0.0.0:0"));
    fails(socket.bind(at("192.0.2.1:80")), ADDRNOTAVAIL);
    fails(socket.bind(at("[::1]:80")), INVAL);
    socket.bind(at("127.0.0.1:81"))?;
    fails(socket.bind(at("127.0.0.1:82")), INVAL);
    assert_eq!(socket.local_address()?, at("127.0.0.1:81"));
    fails(Socket::open(1, STREAM)?.bind(at("127.0.0.1:81")), ADDRINUSE);
    fails(socket.accept(), INVAL);
    socket.listen()?;
    assert_eq!(socket.option(13)?, 1);
    assert_eq!((socket.option(1)?, Socket::open(1, DATAGRAM)?.option(1)?), (2, 1));
    socket.set_nonblocking(true)?;
    fails(socket.accept(), AGAIN);
    fails(socket.peer_address(), NOTCONN);
    drop(socket);
    // The port is free again.
    Socket::open(1, STREAM)?.bind(at("127.0.0.1:81"))
}

fn connecting() -> Outcome<()> {
    let open = || Socket::open(1, STREAM).expect("a socket");
    fails(open().connect(at("127.0.0.1:82")), CONNREFUSED);
    fails(open().connect(at("192.0.2.1:80")), ACCES);
    fails(open().connect(at("127.0.0.1:0")), INVAL);
    let socket = open();
    fails(socket.read(&mut [0]), NOTCONN);
    fails(socket.write_all(b"x"), NOTCONN);
    fails(socket.shutdown(2), NOTCONN);
    Ok(())
}

fn streams() -> Outcome<()> {
    let listener = Socket::open(2, STREAM)?;
    listener.bind(at("[::1]:83"))?;
    listener.listen()?;
    let client = Socket::open(2, STREAM)?;
    client.connect(at("[::1]:83"))?;
    fails(client.connect(at("[::1]:83")), ISCONN);
    let server = listener.accept()?;
    assert_eq!(server.peer_address()?, client.local_address()?);
    client.set_nonblocking(true)?;
    let mut buffer = [0; 8];
    fails(client.read(&mut buffer), AGAIN);
    server.write_all(b"hello")?;
    assert_eq!((client.peek(&mut buffer)?, &buffer[..5]), (5, &b"hello"[..]));
    assert_eq!((client.read(&mut buffer[..2])?, &buffer[..2]), (2, &b"he"[..]));
    assert_eq!((client.read(&mut buffer)?, &buffer[..3]), (3, &b"llo"[..]));
    server.shutdown(2)?;
    assert_eq!(client.read(&mut buffer)?, 0);
    fails(server.write_all(b"x"), PIPE);
    client.write_all(b"still")?;
    assert_eq!(server.read(&mut buffer)?, 5);
    client.set_option(5, 9000)?;
    assert!(client.option(5)? >= 9000);
    assert_eq!(client.option(2)?, 0);
    Ok(())
}

fn datagrams() -> Outcome<()> {
    let (a, b) = (Socket::open(1, DATAGRAM)?, Socket::open(1, DATAGRAM)?);
    a.bind(at("127.0.0.1:84"))?;
    assert_eq!(b.send_to(b"0123456789", at("127.0.0.1:84"))?, 10);
    let mut buffer = [0; 4];
    let (count, truncated, from) = a.receive_from(&mut buffer)?;
    assert_eq!((count, truncated, &buffer), (4, true, b"0123"));
    assert_eq!(from.port(), b.local_address()?.port());
    fails(b.send_to(&vec![0; 65_508], at("127.0.0.1:84")), MSGSIZE);
    fails(b.write_all(b"x"), DESTADDRREQ);
    b.connect(at("127.0.0.1:84"))?;
    b.write_all(b"x")?;
    a.set_nonblocking(true)?;
    assert_eq!(a.read(&mut buffer)?, 1);
    fails(a.read(&mut buffer), AGAIN);
    a.set_option(4, 1)?;
    assert_eq!(a.option(4)?, 1);
    Ok(())
}

fn polling() -> Outcome<()> {
    const MS: u64 = 1_000_000;
    let listener = Socket::open(1, STREAM)?;
    listener.bind(at("127.0.0.1:85"))?;
    listener.listen()?;
    // A clock beside a socket that nobody comes to; standard output is always ready.
    let wanted = [Want::Fd(listener.0, 1), Want::Nanoseconds(5 * MS)];
    assert_eq!(abi::poll(&wanted)?, [(1, 0)]);
    let wanted = [Want::Fd(listener.0, 1), Want::Fd(1, 2), Want::Nanoseconds(3_600_000 * MS)];
    assert_eq!(abi::poll(&wanted)?, [(1, 0)]);
    assert_eq!(abi::poll(&[Want::Nanoseconds(MS)])?, [(0, 0)]);
    assert_eq!(abi::poll(&[Want::Fd(4000, 1), Want::Fd(listener.0, 1)])?, [(0, BADF as u16)]);
    fails(abi::poll(&[]), INVAL);
    let client = Socket::open(1, STREAM)?;
    client.connect(at("127.0.0.1:85"))?;
    let wanted = [Want::Fd(listener.0, 1), Want::Fd(client.0, 2), Want::Fd(client.0, 1)];
    assert_eq!(abi::poll(&wanted)?, [(0, 0), (1, 0)]);
    let server = listener.accept()?;
    drop(server);
    assert_eq!(abi::poll(&[Want::Fd(client.0, 1)])?, [(0, 0)]);
    assert_eq!(client.read(&mut [0; 4])?, 0);
    Ok(())
}
