//! Standard output, and random bytes.

use std::hint::black_box;
use std::io::{self, Write};

use wasi::cli::stdout::get_stdout;
use wasi::random::insecure::get_insecure_random_bytes;
use wasi::random::random::get_random_bytes;

use crate::begins;

/// Prints lines as fast as it can.
pub(crate) fn logs() {
    begins();
    let lines = b"line\n".repeat(800);
    loop {
        let _ = io::stdout().write_all(&lines);
    }
}

/// Prints one line that does not end.
pub(crate) fn line() {
    begins();
    let block = [b'x'; 4096];
    loop {
        let _ = io::stdout().write_all(&block);
    }
}

/// Asks for more than anybody has.
pub(crate) fn random(bytes: u64) {
    begins();
    println!("got {} random bytes", get_random_bytes(bytes).len());
}

pub(crate) fn insecure(bytes: u64) {
    begins();
    println!("got {} bytes", get_insecure_random_bytes(bytes).len());
}

/// Random bytes without end, and all of them to standard output.
pub(crate) fn torrent() {
    begins();
    loop {
        let bytes = get_random_bytes(64 << 10);
        let _ = io::stdout().write_all(black_box(&bytes));
    }
}

/// One list of bytes, larger than what a stream takes.
pub(crate) fn write(number: usize) {
    let bytes = vec![b'x'; number];
    begins();
    match get_stdout().write(&bytes) {
        Ok(()) => println!("took {number} bytes"),
        Err(_) => println!("refused"),
    }
}
