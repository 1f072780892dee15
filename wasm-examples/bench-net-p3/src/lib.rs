//! `bench-net` for WASI 0.3: the same orders, the same measurements, the same lines of JSON.
//!
//! args: `bench-net-p3 server [PORT]` serves until a client says `quit` (default port 5201)
//!       `bench-net-p3 client throughput CHUNK_BYTES TOTAL_BYTES | pingpong SIZE_BYTES COUNT | connect COUNT | quit`
//! env: `PORT` (default 5201) of the server on 127.0.0.1, for the client. It waits up to ten seconds for the server.
//! exit codes: 0; 1 failed or wrong arguments.
//!
//! Streams of the component model on both sides: the same module runs over any host's `wasi:sockets` 0.3.

use std::env;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

use guest_p3::*;

const PORT: u16 = 5201;
/// Largest chunk and message, bytes.
const SIZE_MAX: usize = 1024 * 1024;
const SERVER_WITHIN: Duration = Duration::from_secs(10);

struct Bench;

export!(Bench);

impl Guest for Bench {
    async fn run() -> Result<(), ()> {
        let arguments = arguments();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["server"] => server(PORT).await,
            ["server", port] => server(port.parse().map_err(|_| ())?).await,
            ["client", rest @ ..] => client(Order::parse(rest).ok_or(())?).await,
            _ => Err(()),
        }
    }
}

/// What a control connection asks for, as in `bench-net`: kind (1 byte), size (8), count (8), little endian.
#[derive(Clone, Copy)]
struct Order {
    kind: u8,
    size: u64,
    count: u64,
}

impl Order {
    fn parse(words: &[&str]) -> Option<Self> {
        let number = |text: &str| text.parse::<u64>().ok();
        let (kind, size, count) = match words {
            ["throughput", chunk, total] => (b'T', number(chunk)?, number(total)?),
            ["pingpong", size, count] => (b'P', number(size)?, number(count)?),
            ["connect", count] => (b'C', 1, number(count)?),
            ["quit"] => (b'Q', 1, 0),
            _ => return None,
        };
        (1..=SIZE_MAX as u64).contains(&size).then_some(Self { kind, size, count })
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.kind];
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number =
            |range: Range<usize>| bytes.get(range)?.try_into().ok().map(u64::from_le_bytes);
        let (size, count) = (number(1..9)?, number(9..17)?);
        (1..=SIZE_MAX as u64).contains(&size).then_some(Self { kind: bytes[0], size, count })
    }
}

/// Reads exactly as many bytes as `into` has room for. False at the end of the stream.
async fn read_exactly(input: &mut StreamReader<u8>, into: &mut Vec<u8>) -> bool {
    let wanted = into.capacity();
    into.clear();
    while into.len() < wanted {
        let (status, bytes) = input.read(std::mem::take(into)).await;
        *into = bytes;
        if status == StreamResult::Dropped {
            return false;
        }
    }
    true
}

/// Writes all of `bytes`, whose memory comes back for the next time.
async fn write_all(output: &mut StreamWriter<u8>, bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (mut status, mut rest) = output.write(bytes).await;
    loop {
        if rest.remaining() == 0 {
            return Some(rest.into_vec());
        }
        if status == StreamResult::Dropped {
            return None;
        }
        (status, rest) = output.write_buf(rest).await;
    }
}

// ---- server ---------------------------------------------------------------------------------------------------------

async fn server(port: u16) -> Result<(), ()> {
    let (_socket, mut connections) = listen(at(Ipv4Addr::UNSPECIFIED, port));
    println!("bench-net-p3: listening on port {port}");
    while let Some(socket) = connections.next().await {
        let mut control = Connection::new(socket);
        let mut order = Vec::with_capacity(17);
        if !read_exactly(&mut control.input, &mut order).await {
            continue;
        }
        let Some(order) = Order::from_bytes(&order) else { continue };
        if order.kind == b'Q' {
            return Ok(());
        }
        // A client that breaks off spoils its own measurement only.
        obey(order, &mut connections, &mut control).await;
    }
    Ok(())
}

async fn obey(order: Order, connections: &mut StreamReader<TcpSocket>, control: &mut Connection) {
    match order.kind {
        b'T' => {
            let mut left = order.count;
            let mut chunk = Vec::with_capacity(SIZE_MAX);
            while left > 0 {
                chunk.clear();
                let (status, bytes) = control.input.read(chunk).await;
                chunk = bytes;
                left = left.saturating_sub(chunk.len() as u64);
                if status == StreamResult::Dropped {
                    return;
                }
            }
        }
        b'P' => {
            let mut message = Vec::with_capacity(order.size as usize);
            for _ in 0..order.count {
                if !read_exactly(&mut control.input, &mut message).await {
                    return;
                }
                match write_all(&mut control.output, message).await {
                    Some(back) => message = cleared(back, order.size),
                    None => return,
                }
            }
            return;
        }
        _ => {
            for _ in 0..order.count {
                drop(connections.next().await);
            }
        }
    }
    control.write(&[0]).await;
}

/// Memory that was written, full again: the host took a copy, and the bytes are as they were.
fn refilled(mut memory: Vec<u8>, size: usize) -> Vec<u8> {
    assert!(size <= memory.capacity());
    // SAFETY: `write_all` gives back the memory it was given, all of which had been filled; nothing has written there since.
    unsafe { memory.set_len(size) };
    memory
}

/// Written memory, for the next message of `size`.
fn cleared(mut memory: Vec<u8>, size: u64) -> Vec<u8> {
    memory.clear();
    if memory.capacity() == size as usize { memory } else { Vec::with_capacity(size as usize) }
}

// ---- client ---------------------------------------------------------------------------------------------------------

async fn client(order: Order) -> Result<(), ()> {
    let port = env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(PORT);
    let deadline = Instant::now() + SERVER_WITHIN;
    let mut control = loop {
        match Connection::to(at(Ipv4Addr::LOCALHOST, port)).await {
            Ok(connection) => break connection,
            Err(_) if Instant::now() < deadline => {
                wasip3::clocks::monotonic_clock::wait_for(5_000_000).await;
            }
            Err(code) => {
                eprintln!("bench-net-p3: no server: {}", name_of(&code));
                return Err(());
            }
        }
    };
    let written = control.write(&order.bytes()).await;
    let done = written
        && match order.kind {
            b'T' => throughput(order, control).await,
            b'P' => pingpong(order, control).await,
            b'C' => connect(order, port, control).await,
            _ => true,
        };
    if done { Ok(()) } else { Err(()) }
}

async fn throughput(order: Order, mut control: Connection) -> bool {
    let mut chunk = vec![0x5a; order.size as usize];
    let started = Instant::now();
    let mut left = order.count;
    while left > 0 {
        chunk = refilled(chunk, left.min(order.size) as usize);
        left -= chunk.len() as u64;
        chunk = match write_all(&mut control.output, chunk).await {
            Some(chunk) => chunk,
            None => return false,
        };
    }
    if !read_exactly(&mut control.input, &mut Vec::with_capacity(1)).await {
        return false;
    }
    let nanoseconds = started.elapsed().as_nanos().max(1);
    let mib_per_second = u128::from(order.count) * 1_000_000_000 / nanoseconds / (1024 * 1024);
    println!(
        "{{\"mode\":\"throughput\",\"chunkBytes\":{},\"totalBytes\":{},\"nanoseconds\":{nanoseconds},\
         \"mibPerSecond\":{mib_per_second}}}",
        order.size, order.count
    );
    true
}

async fn pingpong(order: Order, mut control: Connection) -> bool {
    let size = order.size as usize;
    let mut message = vec![0x5a; size];
    let mut back = Vec::with_capacity(size);
    let mut times = Vec::with_capacity(order.count.min(1_000_000) as usize);
    let started = Instant::now();
    let mut before = started;
    for _ in 0..order.count {
        message = match write_all(&mut control.output, message).await {
            Some(message) => refilled(message, size),
            None => return false,
        };
        if !read_exactly(&mut control.input, &mut back).await {
            return false;
        }
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
        "{{\"mode\":\"pingpong\",\"sizeBytes\":{size},\"count\":{},\"nanoseconds\":{nanoseconds},\
         \"nanosecondsEach\":{},\"p50\":{},\"p99\":{}}}",
        order.count,
        nanoseconds / u128::from(order.count.max(1)),
        at(50).unwrap_or(&0),
        at(99).unwrap_or(&0),
    );
    true
}

async fn connect(order: Order, port: u16, mut control: Connection) -> bool {
    let started = Instant::now();
    for _ in 0..order.count {
        let Ok(mut stream) = Connection::to(at(Ipv4Addr::LOCALHOST, port)).await else {
            return false;
        };
        // The end of the stream is the server's close; a reset says the same.
        let _ = stream.input.read(Vec::with_capacity(1)).await;
    }
    if !read_exactly(&mut control.input, &mut Vec::with_capacity(1)).await {
        return false;
    }
    let nanoseconds = started.elapsed().as_nanos();
    println!(
        "{{\"mode\":\"connect\",\"count\":{},\"nanoseconds\":{nanoseconds},\"nanosecondsEach\":{}}}",
        order.count,
        nanoseconds / u128::from(order.count.max(1))
    );
    true
}
