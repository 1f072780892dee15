//! Makes the host keep requests of HTTP that are never sent, without end: for the tests of what is on a module's account.
//!
//! args: requests | bodies. Prints `begins`; should it ever have all that it wants, `held:`, and stays.

use std::hint::black_box;
use std::time::Duration;
use std::{env, thread};

use wasi::http::types::{Fields, OutgoingRequest};

fn main() {
    match env::args().nth(1).as_deref() {
        Some("bodies") => bodies(),
        _ => requests(),
    }
}

fn held<T>(what: T) {
    println!("held: all of them");
    loop {
        thread::sleep(Duration::from_secs(3600));
        black_box(&what);
    }
}

/// Requests that are never sent, with long paths.
fn requests() {
    println!("begins");
    let path = format!("/{}", "p".repeat(60_000));
    let request = || {
        let request = OutgoingRequest::new(Fields::new());
        let _ = request.set_path_with_query(Some(&path));
        let _ = request.set_authority(Some("example.com"));
        request
    };
    let requests: Vec<_> = (0..1_000_000).map(|_| request()).collect();
    held(requests);
}

/// Bodies that are begun, and never sent.
fn bodies() {
    println!("begins");
    let mut all = Vec::new();
    for _ in 0..1_000_000 {
        let request = OutgoingRequest::new(Fields::new());
        let Ok(body) = request.body() else { break };
        let Ok(stream) = body.write() else { break };
        let _ = stream.write(&[7; 4096]);
        all.push((stream, body, request));
    }
    held(all);
}
