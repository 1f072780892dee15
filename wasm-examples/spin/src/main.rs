//! Keeps a processor busy for ever and never yields by itself.
//!
//! args: `spin [AFTER_MS]`: how long it sleeps first (default 0). Says when it begins, then nothing any more.
//! exit codes: never ends by itself.

use std::hint::black_box;
use std::time::Duration;
use std::{env, thread};

fn main() {
    let after = env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    thread::sleep(Duration::from_millis(after));
    println!("spin: spinning");
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}
