//! Attacks the host, in the way it is told: for the tests that show what a module cannot do to its node and its neighbours.
//!
//! args: `hostile ATTACK [NUMBER]`; the attacks are listed in `main`. One that ends up holding all it was given says `held: …` and stays;
//! one that never stops trying says `begins` first. `timer` is no attack: it is the neighbour whose clock is watched.
//! exit codes: 2 for an unknown attack; 1 for one that failed in another way than by a refusal. What else ends it is the host's doing.

mod compute;
mod files;
mod handles;
mod network;
mod streams;

use std::fmt::Display;
use std::time::{Duration, Instant};
use std::{env, io, thread};

fn main() -> io::Result<()> {
    let attack = env::args().nth(1).unwrap_or_default();
    let number = env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    match attack.as_str() {
        "timer" => timer(),
        "spin" => compute::spin(),
        "memory" => compute::memory(),
        "fill" => compute::fill(),
        "recursion" => compute::recursion(),
        "arguments" => compute::arguments(),
        "sockets" => handles::sockets(number),
        "ports" => handles::ports(number),
        "pollables" => handles::pollables(number),
        "list" => handles::list(number),
        "timers" => handles::timers(),
        "fields" => handles::fields(number),
        "folders" => handles::folders(number),
        "printers" => handles::printers(number),
        "insecure" => streams::insecure(4 << 30),
        "paths" => files::paths()?,
        "datagrams" => network::datagrams(),
        "stream" => network::stream(),
        "connections" => network::connections(number),
        "names" => network::names(number == 1),
        "logs" => streams::logs(),
        "line" => streams::line(),
        "random" => streams::random(4 << 30),
        "torrent" => streams::torrent(),
        "write" => streams::write(number),
        "open" => files::open(number)?,
        "read" => files::read()?,
        "directory" => files::directory(number)?,
        "listings" => files::listings(number)?,
        "deep" => files::deep(number)?,
        "disk" => files::disk(number)?,
        _ => {
            eprintln!("hostile: no attack {attack:?}");
            podling_guest::exit(2);
        }
    }
    Ok(())
}

/// It has all that it gets, and keeps it for ever.
pub(crate) fn held<T>(what: T, words: &dyn Display) -> ! {
    println!("held: {words}");
    loop {
        thread::sleep(Duration::from_secs(3600));
        std::hint::black_box(&what);
    }
}

pub(crate) fn begins() {
    println!("begins");
}

/// Sleeps 10 ms at a time, and prints by how many microseconds it came too late.
fn timer() {
    const NAP: Duration = Duration::from_millis(10);
    for count in 0_u64.. {
        let before = Instant::now();
        thread::sleep(NAP);
        println!("late {count} {}", before.elapsed().saturating_sub(NAP).as_micros());
    }
}
