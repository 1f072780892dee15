//! The options a TCP socket remembers.
//!
//! Owns: their defaults (Linux's) and how values are clamped, the same for every WASI version.
//! Is not: an effect. A connection in memory neither dies silently nor crosses a router, so
//! keep-alive and hop limit are kept for the program that reads them back; buffer sizes do bound
//! the pipes. An accepted socket starts with its listener's options, as `wasi:sockets/tcp` says of
//! `accept`.

use super::listener::DEFAULT_BACKLOG;

const SECOND: u64 = 1_000_000_000;

/// Default send and receive buffer size each, so that a direction holds 128 KiB: two of the largest
/// writes a WASI 0.2 guest can make, one being read while the next is made.
pub const DEFAULT_BUFFER: usize = 64 * 1024;
/// Smallest and largest size a program can ask for, each (Linux's floor for a receive buffer is
/// 2,304; its default ceiling 212,992).
pub const MIN_BUFFER: usize = 4 * 1024;
/// See [`MIN_BUFFER`].
pub const MAX_BUFFER: usize = 208 * 1024;

/// A value that may not be zero was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the option cannot be zero")]
pub struct ZeroOption;

/// The two buffer sizes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferSizes {
    pub(crate) send: usize,
    pub(crate) receive: usize,
}

/// See the header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpOptions {
    /// Whether keep-alive is on.
    pub keep_alive: bool,
    /// Hop limit (TTL) of packets, if they had one.
    pub(crate) hop_limit: u8,
    pub(crate) keep_alive_idle_ns: u64,
    pub(crate) keep_alive_interval_ns: u64,
    pub(crate) keep_alive_count: u32,
    pub(crate) sizes: BufferSizes,
    pub(crate) backlog: usize,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keep_alive: false,
            hop_limit: 64,
            keep_alive_idle_ns: 7200 * SECOND,
            keep_alive_interval_ns: 75 * SECOND,
            keep_alive_count: 9,
            sizes: BufferSizes { send: DEFAULT_BUFFER, receive: DEFAULT_BUFFER },
            backlog: DEFAULT_BACKLOG,
        }
    }
}

/// Clamps a keep-alive time to what Linux can hold: whole values from one second to 32,767.
pub(crate) fn keep_alive_time(ns: u64) -> Result<u64, ZeroOption> {
    if ns == 0 {
        return Err(ZeroOption);
    }
    Ok(ns.clamp(SECOND, 32_767 * SECOND))
}

/// Clamps a number of keep-alive probes as Linux does: 1 to 127.
pub(crate) fn keep_alive_count(count: u32) -> Result<u32, ZeroOption> {
    if count == 0 {
        return Err(ZeroOption);
    }
    Ok(count.min(127))
}

/// Clamps a buffer size.
pub(crate) fn buffer_size(bytes: u64) -> Result<usize, ZeroOption> {
    if bytes == 0 {
        return Err(ZeroOption);
    }
    Ok(usize::try_from(bytes).unwrap_or(MAX_BUFFER).clamp(MIN_BUFFER, MAX_BUFFER))
}

/// Clamps a backlog.
pub(crate) fn backlog(wanted: u64) -> Result<usize, ZeroOption> {
    if wanted == 0 {
        return Err(ZeroOption);
    }
    Ok(usize::try_from(wanted).unwrap_or(usize::MAX).min(super::listener::MAX_BACKLOG))
}
