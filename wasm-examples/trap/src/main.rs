//! Traps, from within nested functions, so that the backtrace has something to show.
//!
//! args: `trap [KIND]`: `panic` (default; a message on standard error, then `unreachable`), `unreachable`, `memory`
//! (an address outside the memory), `stack` (endless recursion).
//! env: `AFTER_MS`: lives that long first (default 0).
//! exit codes: none of its own, but 1 for an unknown kind.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

fn main() -> ExitCode {
    let kind = env::args().nth(1).unwrap_or_else(|| "panic".to_owned());
    let after = env::var("AFTER_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    println!("trap: {kind} in {after} ms");
    thread::sleep(Duration::from_millis(after));
    outer(&kind)
}

#[inline(never)]
fn outer(kind: &str) -> ExitCode {
    let code = inner(black_box(kind));
    // Something left to do keeps this frame on the stack.
    black_box(code)
}

#[inline(never)]
fn inner(kind: &str) -> ExitCode {
    match kind {
        "panic" => panic!("trapping as asked"),
        "unreachable" => stop_here(),
        "memory" => println!("{}", read_outside()),
        "stack" => println!("{}", deeper(black_box(1))),
        other => eprintln!("trap: unknown kind {other:?}"),
    }
    ExitCode::FAILURE
}

#[inline(never)]
fn stop_here() {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable()
}

#[inline(never)]
fn read_outside() -> u8 {
    let beyond = black_box(usize::MAX - 64) as *const u8;
    // SAFETY: wrong on purpose. The address is outside every memory this module can have, so the sandbox stops it.
    unsafe { beyond.read_volatile() }
}

#[inline(never)]
fn deeper(level: u64) -> u64 {
    if level == u64::MAX { 0 } else { black_box(deeper(black_box(level + 1)) + level) }
}
