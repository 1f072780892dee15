//! Sleeps, then ends.
//!
//! args: `sleep [SECONDS [CODE]]`: for how long (default 1; a fraction is fine; `forever`), and the exit code (default 0).
//! exit codes: CODE; 2 when an argument makes no sense.

use std::time::Duration;
use std::{env, thread};

fn main() {
    let seconds = env::args().nth(1).unwrap_or_else(|| "1".to_owned());
    let code = env::args().nth(2).map_or(Ok(0), |text| text.parse::<u8>());
    let (Some(duration), Ok(code)) = (duration(&seconds), code) else {
        eprintln!("usage: sleep [SECONDS [CODE]]");
        podling_guest::exit(2);
    };
    println!("sleep: for {seconds} s");
    thread::sleep(duration);
    println!("sleep: awake");
    podling_guest::exit(code)
}

/// Whole seconds and milliseconds, read without floating point.
fn duration(text: &str) -> Option<Duration> {
    if text == "forever" {
        return Some(Duration::from_secs(u64::from(u32::MAX)));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_millis(digits.parse().ok()?))
}
