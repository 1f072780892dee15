//! Waits for ever on a socket that nobody will write to.
//!
//! args: `deadlock` accepts on a port that nobody calls; `deadlock read` calls itself and reads what is never sent.
//! env: `PORT` (default 7777).
//! exit codes: never ends by itself; 0 if somebody calls after all (without `read`); 1 when the port cannot be had.

use std::env;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let port = env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(7777_u16);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    if env::args().nth(1).as_deref() == Some("read") {
        let mut caller = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let (_called, _) = listener.accept()?;
        println!("deadlock: reading what nobody sends");
        caller.read_exact(&mut [0])
    } else {
        println!("deadlock: accepting where nobody calls");
        listener.accept().map(drop)
    }
}
