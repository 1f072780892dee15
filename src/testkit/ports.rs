//! Ports of the host that a test may use.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port of that address that nobody has now, and that nobody is given by chance before the test uses it: below those that the
/// kernel hands out (32768), and never the same twice in this process.
#[must_use]
pub fn free(ip: IpAddr) -> SocketAddr {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() * 61));
    let offered = || 10_000 + u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 19_000).unwrap();
    let here = std::iter::repeat_with(|| SocketAddr::new(ip, offered()));
    let free = |here: &SocketAddr| TcpListener::bind(here).is_ok() && UdpSocket::bind(here).is_ok();
    here.take(1000).find(free).unwrap()
}
