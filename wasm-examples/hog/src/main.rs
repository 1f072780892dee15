//! Takes more and more memory, and uses it.
//!
//! args: `hog [STEP_MIB [MAX_MIB]]`: takes STEP_MIB at a time (default 1) until it has MAX_MIB (default: no end), then
//! keeps it for ever. One line a step.
//! exit codes: 3 when memory is refused (where the runtime refuses rather than kills).

use std::hint::black_box;
use std::time::Duration;
use std::{env, thread};

const MIB: usize = 1024 * 1024;
const PAGE: usize = 4096;

fn main() {
    let number = |index| env::args().nth(index).and_then(|text| text.parse::<usize>().ok());
    let step = number(1).unwrap_or(1).max(1);
    let most = number(2).unwrap_or(usize::MAX);
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut total = 0;
    while total < most {
        let mut block = Vec::new();
        if block.try_reserve_exact(step * MIB).is_err() {
            println!("hog: memory refused at {total} MiB");
            podling_guest::exit(3);
        }
        block.resize(step * MIB, 0);
        // A page that was never written may cost the host nothing.
        for byte in block.iter_mut().step_by(PAGE) {
            *byte = 1;
        }
        held.push(black_box(block));
        total += step;
        println!("hog: holding {total} MiB");
    }
    loop {
        thread::sleep(Duration::from_secs(3600));
        black_box(&held);
    }
}
