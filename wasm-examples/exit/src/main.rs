//! Ends with the exit code it is told.
//!
//! args: `exit [CODE]`; env: `EXIT_CODE` where no argument says it (default 0); `EXIT_FILE`: a file whose first line
//! says it (read first; a missing file counts as nothing said), so that a restart can end otherwise.
//! exit codes: the one asked for; 2 if that is no number from 0 to 255.

use std::{env, fs};

fn main() {
    let from_file = env::var("EXIT_FILE").ok().and_then(|path| fs::read_to_string(path).ok());
    let wanted = from_file
        .and_then(|text| text.lines().next().map(str::to_owned))
        .or_else(|| env::args().nth(1))
        .or_else(|| env::var("EXIT_CODE").ok())
        .unwrap_or_else(|| "0".to_owned());
    match wanted.trim().parse() {
        Ok(code) => {
            println!("exiting with {code}");
            podling_guest::exit(code)
        }
        Err(_) => {
            eprintln!("exit: not an exit code: {wanted:?}");
            podling_guest::exit(2)
        }
    }
}
