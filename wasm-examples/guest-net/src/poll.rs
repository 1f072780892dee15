//! Waiting until one of several sockets can go on: a safe face on WASI C library's `poll`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// What is waited for on one socket, and, afterwards, whether it came.
#[derive(Clone, Copy, Debug)]
pub struct Interest {
    fd: RawFd,
    wanted: libc::c_short,
    seen: libc::c_short,
}

impl Interest {
    /// Data, an end of stream, or a connection to accept.
    pub fn readable(socket: &impl AsRawFd) -> Self {
        Self { fd: socket.as_raw_fd(), wanted: libc::POLLIN, seen: 0 }
    }

    /// Room to write.
    pub fn writable(socket: &impl AsRawFd) -> Self {
        Self { fd: socket.as_raw_fd(), wanted: libc::POLLOUT, seen: 0 }
    }

    /// True when an attempt to read or write would not wait; an error counts, as the attempt will tell it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.seen != 0
    }
}

/// Sleeps until one of `interests` is ready, or `timeout` (none: for ever) is over.
///
/// # Errors
/// What the C library's `poll` reports, for example a socket that was closed.
pub fn wait(interests: &mut [Interest], timeout: Option<Duration>) -> io::Result<()> {
    let mut fds: Vec<libc::pollfd> = interests
        .iter()
        .map(|one| libc::pollfd { fd: one.fd, events: one.wanted, revents: 0 })
        .collect();
    // Rounded up, so that a deadline a fraction of a millisecond away is waited for and not spun on.
    let milliseconds = timeout.map_or(-1, |limit| {
        i32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    // SAFETY: `fds` is a live, initialised array of the length passed, and `poll` keeps no reference to it.
    let outcome = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    for (interest, fd) in interests.iter_mut().zip(&fds) {
        interest.seen = fd.revents;
    }
    Ok(())
}
