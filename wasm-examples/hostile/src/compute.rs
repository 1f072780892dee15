//! Processor, memory and stack.

use std::env;
use std::hint::black_box;

use crate::begins;

pub(crate) fn spin() {
    begins();
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Takes memory and writes to each page of it.
pub(crate) fn memory() {
    let mut held: Vec<Vec<u8>> = Vec::new();
    begins();
    loop {
        held.push(black_box(vec![1; 1 << 20]));
    }
}

/// One instruction that cannot be interrupted after the other, as large as the memory allows.
pub(crate) fn fill() {
    let mut block = vec![0_u8; 24 << 20];
    begins();
    for byte in (0..=u8::MAX).cycle() {
        black_box(&mut block).fill(byte);
    }
}

pub(crate) fn recursion() {
    begins();
    println!("{}", deeper(black_box(1)));
}

#[inline(never)]
fn deeper(level: u64) -> u64 {
    if level == u64::MAX { 0 } else { black_box(deeper(black_box(level + 1)) + level) }
}

/// Lets the host hand over lists, again and again.
pub(crate) fn arguments() {
    begins();
    loop {
        black_box((env::args().count(), wasi::cli::environment::get_environment()));
    }
}
