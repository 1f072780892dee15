//! `sd_notify(3)`: tells systemd, or whoever set `NOTIFY_SOCKET`, that the daemon is up or ending.
//!
//! A missing or broken socket is no error: the daemon runs without a supervisor just as well.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// Pods that were to be restored run, the API answers.
pub fn ready() {
    send("READY=1");
}

/// Its control plane works.
pub fn watchdog() {
    send("WATCHDOG=1");
}

/// The daemon ends its pods now.
pub fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // A leading @ is an abstract socket.
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        debug!(%error, state, "the service manager could not be told");
    }
}
