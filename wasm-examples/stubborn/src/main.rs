//! Asks to hear the stop of its pod and then ignores it, so that the grace period has to run out.
//!
//! args: `stubborn` sleeps on; `stubborn spin` keeps a processor busy instead.
//! exit codes: never ends by itself.

use std::hint::black_box;
use std::time::Duration;
use std::{env, thread};

fn main() {
    let spins = env::args().nth(1).as_deref() == Some("spin");
    println!("waiting");
    podling_guest::wait_for_stop();
    println!("heard the stop, and ignoring it");
    loop {
        if spins {
            black_box(());
        } else {
            thread::sleep(Duration::from_secs(3600));
        }
    }
}
