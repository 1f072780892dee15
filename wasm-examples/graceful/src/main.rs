//! Hears that its pod is being stopped, tidies up, and ends by itself: the stop contract, kept.
//!
//! args: `graceful` waits for the stop; `graceful poll` works in small steps and asks between them.
//! env: `STOP_MS`: how long tidying up takes (default 500); `STATE_DIR`: where it leaves a file `stopped` if that
//! directory is there (default /state).
//! exit codes: 0 after a stop.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, thread};

/// Between two questions of `graceful poll`.
const STEP: Duration = Duration::from_millis(20);

fn main() {
    let stop_ms = env::var("STOP_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let state = PathBuf::from(env::var("STATE_DIR").unwrap_or_else(|_| "/state".to_owned()));
    if env::args().nth(1).as_deref() == Some("poll") {
        println!("working");
        while !podling_guest::stopping() {
            thread::sleep(STEP);
        }
    } else {
        println!("waiting");
        podling_guest::wait_for_stop();
    }
    println!("stopping");
    if state.is_dir()
        && let Err(error) = fs::write(state.join("stopped"), "stopped\n")
    {
        eprintln!("graceful: cannot write to {}: {error}", state.display());
    }
    thread::sleep(Duration::from_millis(stop_ms));
    println!("stopped");
}
