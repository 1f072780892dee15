//! Reads standard input to its end, then leaves: the stop contract for programs that know nothing of podling
//! (annotation `stop-signal.podling.dev/CONTAINER: stdin`).
//!
//! args, env: none. exit codes: 0 at the end of the input; 1 when it cannot be read.

use std::io::{self, Read};

fn main() -> io::Result<()> {
    println!("stdin: reading");
    let mut total = 0;
    let mut chunk = [0; 1024];
    loop {
        match io::stdin().read(&mut chunk)? {
            0 => break,
            count => total += count,
        }
    }
    println!("stdin: {total} bytes");
    println!("eof");
    Ok(())
}
