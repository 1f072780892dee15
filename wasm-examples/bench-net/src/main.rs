//! Measures TCP between two modules: throughput, round trip, and the cost of a connection.
//!
//! args: `bench-net server [PORT]` serves until a client says `quit` (default port 5201)
//!       `bench-net client throughput CHUNK_BYTES TOTAL_BYTES`
//!       `bench-net client pingpong SIZE_BYTES COUNT`
//!       `bench-net client connect COUNT`
//!       `bench-net client quit`
//! env: `HOST` (default 127.0.0.1) and `PORT` (default 5201) of the server, for the client. It waits up to ten seconds
//! for the server to listen.
//! Prints one line of JSON a measurement. exit codes: 0; 1 failed; 2 wrong arguments.
//!
//! Plain blocking std sockets on both sides: the same module runs over any host's `wasi:sockets`.
//!
//! Protocol: the client opens a control connection and sends 17 bytes, little endian: kind (1), size (8), count (8).
//! `T`: `count` bytes follow, then the server sends one byte. `P`: the server sends back `count` messages of `size`
//! bytes. `C`: the server accepts `count` further connections, drops each, then sends one byte. `Q`: it ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use std::{env, thread};

/// Largest chunk and message, bytes: both sides hold one.
const SIZE_MAX: u64 = 1024 * 1024;
const SERVER_WITHIN: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["server"] => serve(5201),
        ["server", port] => port.parse().map_or(Err(ErrorKind::InvalidInput.into()), serve),
        ["client", rest @ ..] => ask(rest),
        _ => Err(ErrorKind::InvalidInput.into()),
    };
    if let Err(error) = outcome {
        eprintln!("bench-net: {error}");
        podling_guest::exit(if error.kind() == ErrorKind::InvalidInput { 2 } else { 1 });
    }
}

/// What a control connection asks for.
struct Order {
    kind: u8,
    size: u64,
    count: u64,
}

impl Order {
    fn send(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut bytes = [self.kind; 17];
        bytes[1..9].copy_from_slice(&self.size.to_le_bytes());
        bytes[9..].copy_from_slice(&self.count.to_le_bytes());
        stream.write_all(&bytes)
    }

    fn receive(stream: &mut TcpStream) -> io::Result<Self> {
        let mut bytes = [0; 17];
        stream.read_exact(&mut bytes)?;
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        Ok(Self { kind: bytes[0], size: number(1), count: number(9) })
    }
}

fn buffer(size: u64) -> io::Result<Vec<u8>> {
    match size {
        1..=SIZE_MAX => Ok(vec![0x5a; size as usize]),
        _ => Err(ErrorKind::InvalidInput.into()),
    }
}

// ---- server ---------------------------------------------------------------------------------------------------------

fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("bench-net: listening on port {port}");
    loop {
        let (mut stream, _) = listener.accept()?;
        let _ = stream.set_nodelay(true);
        // A client that breaks off spoils its own measurement only.
        match Order::receive(&mut stream).and_then(|order| obey(&order, &listener, &mut stream)) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => eprintln!("bench-net: a client left: {error}"),
        }
    }
}

/// True when that was the last one.
fn obey(order: &Order, listener: &TcpListener, stream: &mut TcpStream) -> io::Result<bool> {
    match order.kind {
        b'T' => {
            let mut chunk = buffer(SIZE_MAX)?;
            let mut left = order.count;
            while left > 0 {
                match stream.read(&mut chunk)? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    count => left = left.saturating_sub(count as u64),
                }
            }
        }
        b'P' => {
            let mut message = buffer(order.size)?;
            for _ in 0..order.count {
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
            }
            return Ok(false);
        }
        b'C' => {
            for _ in 0..order.count {
                drop(listener.accept()?);
            }
        }
        _ => return Ok(true),
    }
    stream.write_all(&[0])?;
    Ok(false)
}

// ---- client ---------------------------------------------------------------------------------------------------------

fn ask(words: &[&str]) -> io::Result<()> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| ErrorKind::InvalidInput);
    let order = match words {
        ["throughput", chunk, total] => {
            Order { kind: b'T', size: number(chunk)?, count: number(total)? }
        }
        ["pingpong", size, count] => {
            Order { kind: b'P', size: number(size)?, count: number(count)? }
        }
        ["connect", count] => Order { kind: b'C', size: 0, count: number(count)? },
        ["quit"] => Order { kind: b'Q', size: 0, count: 0 },
        _ => return Err(ErrorKind::InvalidInput.into()),
    };
    let host = env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let port = env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(5201_u16);
    let server = Server { host, port };
    let mut stream = server.call_patiently()?;
    order.send(&mut stream)?;
    match order.kind {
        b'T' => throughput(&order, stream),
        b'P' => pingpong(&order, stream),
        b'C' => connect(&order, &server, stream),
        _ => Ok(()),
    }
}

struct Server {
    host: String,
    port: u16,
}

impl Server {
    fn call(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// The two modules of a pod start together, so the server may be a moment late.
    fn call_patiently(&self) -> io::Result<TcpStream> {
        let deadline = Instant::now() + SERVER_WITHIN;
        loop {
            match self.call() {
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                outcome => return outcome,
            }
        }
    }
}

fn throughput(order: &Order, mut stream: TcpStream) -> io::Result<()> {
    let chunk = buffer(order.size)?;
    let started = Instant::now();
    let mut left = order.count;
    while left > 0 {
        let count = left.min(order.size);
        stream.write_all(&chunk[..count as usize])?;
        left -= count;
    }
    // The last byte counts when it has been read, not when it has been queued.
    stream.read_exact(&mut [0])?;
    let nanoseconds = started.elapsed().as_nanos().max(1);
    let mib_per_second = u128::from(order.count) * 1_000_000_000 / nanoseconds / (1024 * 1024);
    println!(
        "{{\"mode\":\"throughput\",\"chunkBytes\":{},\"totalBytes\":{},\"nanoseconds\":{nanoseconds},\
         \"mibPerSecond\":{mib_per_second}}}",
        order.size, order.count
    );
    Ok(())
}

fn pingpong(order: &Order, mut stream: TcpStream) -> io::Result<()> {
    let mut message = buffer(order.size)?;
    let mut times = Vec::with_capacity(order.count.min(1_000_000) as usize);
    let started = Instant::now();
    let mut before = started;
    for _ in 0..order.count {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let now = Instant::now();
        if times.len() < times.capacity() {
            times.push((now - before).as_nanos() as u64);
        }
        before = now;
    }
    let nanoseconds = started.elapsed().as_nanos();
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().max(1) - 1));
    println!(
        "{{\"mode\":\"pingpong\",\"sizeBytes\":{},\"count\":{},\"nanoseconds\":{nanoseconds},\
         \"nanosecondsEach\":{},\"p50\":{},\"p99\":{}}}",
        order.size,
        order.count,
        nanoseconds / u128::from(order.count.max(1)),
        at(50).unwrap_or(&0),
        at(99).unwrap_or(&0),
    );
    Ok(())
}

fn connect(order: &Order, server: &Server, mut control: TcpStream) -> io::Result<()> {
    let started = Instant::now();
    for _ in 0..order.count {
        let mut stream = server.call()?;
        // The end of the stream is the server's close; a reset says the same.
        let _ = stream.read(&mut [0]);
    }
    control.read_exact(&mut [0])?;
    let nanoseconds = started.elapsed().as_nanos();
    println!(
        "{{\"mode\":\"connect\",\"count\":{},\"nanoseconds\":{nanoseconds},\"nanosecondsEach\":{}}}",
        order.count,
        nanoseconds / u128::from(order.count.max(1))
    );
    Ok(())
}
