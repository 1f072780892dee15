//! Makes the host hold as much as it can be made to through WASI 0.3: for the tests of what is on a module's account.
//!
//! args: ATTACK [NUMBER]; the attacks are listed in `run`. Prints `begins`; one that ends up holding all it was given says `held: …` and
//! stays. `hostile-files-p3` and `hostile-http-p3` are the same for files and HTTP.
//! exit codes: 1 for an attack that does not exist. What else ends it is the host's doing.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::task::Poll;

use guest_p3::kit::{loopback, udp_at, udp_local, udp_send};
use guest_p3::wasip3::cli::environment::{get_arguments, get_environment};
use guest_p3::wasip3::cli::{stderr, stdin, stdout};
use guest_p3::wasip3::clocks::monotonic_clock::wait_for;
use guest_p3::wasip3::random::insecure::get_insecure_random_bytes;
use guest_p3::wasip3::random::random::get_random_bytes;
use guest_p3::*;
use hoard_p3::{LONG, held, hold_all, told, wait_for_all};

struct Hostile;

export!(Hostile);

impl Guest for Hostile {
    async fn run() -> Result<(), ()> {
        let (attack, number) = told();
        match attack.as_str() {
            "streams" => hold_all(number, || Some(wit_stream::new::<u8>())).await,
            "tasks" => wait_for_all(number, |_| wait_for(LONG)).await,
            "printers" => hold_all(number, printer).await,
            "stdin" => hold_all(number, || Some(stdin::read_via_stream())).await,
            "arguments" => arguments_without_end(),
            "random" => println!("got {}", get_random_bytes(4 << 30).len()),
            "insecure" => println!("got {}", get_insecure_random_bytes(4 << 30).len()),
            "sockets" => hold_all(number, || TcpSocket::create(Family::Ipv4).ok()).await,
            "datagrams" => datagrams().await,
            "receivers" => receivers(number).await,
            "stream" => connections(number).await,
            "names" => names(number).await,
            _ => return Err(()),
        }
        Ok(())
    }
}

/// A stream to standard output, that nothing is written to.
fn printer() -> Option<impl Sized> {
    let (out, source) = wit_stream::new::<u8>();
    let (err, other) = wit_stream::new::<u8>();
    Some((out, err, stdout::write_via_stream(source), stderr::write_via_stream(other)))
}

fn arguments_without_end() {
    loop {
        black_box((get_arguments(), get_environment()));
    }
}

/// Sends to a socket that never reads.
async fn datagrams() {
    let (deaf, socket) = (udp_at(loopback(Family::Ipv4)), udp_at(loopback(Family::Ipv4)));
    let (to, packet) = (udp_local(&deaf), vec![7; 60_000]);
    loop {
        let _ = udp_send(&socket, &packet, Some(to)).await;
        let _ = udp_send(&socket, &[], Some(to)).await;
    }
}

/// Waits for datagrams that never come, very often at once.
async fn receivers(number: usize) {
    let socket = udp_at(loopback(Family::Ipv4));
    let socket = &socket;
    wait_for_all(number, |_| socket.receive()).await;
}

/// Writes into connections that nobody reads.
async fn connections(number: usize) {
    let (listener, mut accepted) = listen(at(loopback(Family::Ipv4), 0));
    let (to, block) = (kit::tcp_local(&listener), &*vec![7; 1 << 18].leak());
    let mut all = Vec::new();
    while all.len() < number {
        let Ok(near) = Connection::to(to).await else { break };
        let Some(far) = accepted.next().await else { break };
        let (near, far) = (Box::leak(Box::new(near)), Connection::new(far));
        let mut write = Box::pin(near.write(block));
        let waits = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_pending())).await;
        all.push((write, far, waits));
    }
    let words = format!("{} connections", all.len());
    held(all, &words).await;
}

/// Looks names up: many at once, and some that are far too long.
async fn names(number: usize) {
    let name = |count: usize| match count % 2 {
        0 => format!("n{count}.example.com"),
        _ => "x".repeat(1 << 20),
    };
    wait_for_all(number, |count| ip_name_lookup::resolve_addresses(name(count))).await;
}
