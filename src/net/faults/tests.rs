//! Time and writes at the same time. What faults do to connections is in `net::tests::faults`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::mpsc;

use super::*;
use crate::net::tcp::conn::Side;

/// Time is told by one thread while others write: neither may hold what the other waits for.
#[test]
fn time_and_writes_never_wait_for_each_other() {
    const ROUNDS: u32 = 20_000;
    let faults = Faults::new(1);
    let (a, b) = (IpAddr::from(Ipv4Addr::new(10, 88, 0, 1)), Ipv4Addr::new(10, 88, 0, 2).into());
    let fault = Fault { delay: Duration::from_secs(3600), ..Fault::default() };
    faults.between(a, b, fault);
    let link = faults.link(Pair::new(a, b));
    lock(&faults.0.state).links.push(Arc::downgrade(&link));
    let (done, over) = mpsc::sync_channel(2);
    let (told, clock) = (done.clone(), faults.clone());
    std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            clock.advance(Timestamp::simulated(Duration::ZERO));
        }
        told.send(()).unwrap();
    });
    std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            assert!(link.way(Side::Client).carry(1, &mut false));
        }
        done.send(()).unwrap();
    });
    for _ in 0..2 {
        over.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
