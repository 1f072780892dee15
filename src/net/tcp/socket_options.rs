//! The options of a TCP socket, as calls.
//!
//! Owns: which options take effect at once, and on what. Their defaults and bounds are in
//! `options`.

use super::options::{self, ZeroOption};
use super::socket::{State, TcpSocket};

/// Why a backlog could not be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetBacklogError {
    /// It was zero.
    #[error("cannot set the backlog")]
    Zero(#[from] ZeroOption),
    /// The socket is connecting, connected or closed.
    #[error("the socket has no backlog in its present state")]
    InvalidState,
}

impl TcpSocket {
    /// Tells a listener what the sockets it accepts start with.
    fn pass_on(&mut self) {
        if let State::Listening(listener) = &mut self.state {
            listener.set_options(self.options);
        }
    }

    /// Length of the queue: takes effect at once on a listener.
    pub fn set_backlog(&mut self, wanted: u64) -> Result<(), SetBacklogError> {
        let backlog = options::backlog(wanted)?;
        match &mut self.state {
            State::Unbound(_) | State::Bound(..) => {}
            State::Listening(listener) => listener.set_backlog(backlog),
            State::Connecting(_) | State::Connected { .. } | State::Closed(_) => {
                return Err(SetBacklogError::InvalidState);
            }
        }
        self.options.backlog = backlog;
        Ok(())
    }

    /// Whether keep-alive is on.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.options.keep_alive
    }

    /// Turns keep-alive on or off.
    pub fn set_keep_alive(&mut self, on: bool) {
        self.options.keep_alive = on;
        self.pass_on();
    }

    /// Idle time before the first keep-alive probe, in nanoseconds.
    #[must_use]
    pub fn keep_alive_idle(&self) -> u64 {
        self.options.keep_alive_idle_ns
    }

    /// Sets it, clamped to 1 s … 32,767 s.
    pub fn set_keep_alive_idle(&mut self, ns: u64) -> Result<(), ZeroOption> {
        self.options.keep_alive_idle_ns = options::keep_alive_time(ns)?;
        self.pass_on();
        Ok(())
    }

    /// Time between keep-alive probes, in nanoseconds.
    #[must_use]
    pub fn keep_alive_interval(&self) -> u64 {
        self.options.keep_alive_interval_ns
    }

    /// Sets it, clamped to 1 s … 32,767 s.
    pub fn set_keep_alive_interval(&mut self, ns: u64) -> Result<(), ZeroOption> {
        self.options.keep_alive_interval_ns = options::keep_alive_time(ns)?;
        self.pass_on();
        Ok(())
    }

    /// Keep-alive probes without answer before a connection is given up.
    #[must_use]
    pub fn keep_alive_count(&self) -> u32 {
        self.options.keep_alive_count
    }

    /// Sets it, clamped to 1 … 127.
    pub fn set_keep_alive_count(&mut self, count: u32) -> Result<(), ZeroOption> {
        self.options.keep_alive_count = options::keep_alive_count(count)?;
        self.pass_on();
        Ok(())
    }

    /// Hop limit (TTL).
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.options.hop_limit
    }

    /// Sets it.
    pub fn set_hop_limit(&mut self, hops: u8) -> Result<(), ZeroOption> {
        if hops == 0 {
            return Err(ZeroOption);
        }
        self.options.hop_limit = hops;
        self.pass_on();
        Ok(())
    }

    /// Receive buffer size in bytes.
    #[must_use]
    pub fn receive_buffer_size(&self) -> u64 {
        self.options.sizes.receive as u64
    }

    /// Sets it, clamped to 4 KiB … 208 KiB, for this connection or the ones this socket will make.
    pub fn set_receive_buffer_size(&mut self, bytes: u64) -> Result<(), ZeroOption> {
        self.options.sizes.receive = options::buffer_size(bytes)?;
        match &mut self.state {
            State::Listening(listener) => listener.set_options(self.options),
            State::Connected { end, .. } => end.set_receive_size(self.options.sizes.receive),
            State::Unbound(_) | State::Bound(..) | State::Connecting(_) | State::Closed(_) => {}
        }
        Ok(())
    }

    /// Send buffer size in bytes.
    #[must_use]
    pub fn send_buffer_size(&self) -> u64 {
        self.options.sizes.send as u64
    }

    /// Sets it, clamped to 4 KiB … 208 KiB, for this connection or the ones this socket will make.
    pub fn set_send_buffer_size(&mut self, bytes: u64) -> Result<(), ZeroOption> {
        self.options.sizes.send = options::buffer_size(bytes)?;
        match &mut self.state {
            State::Listening(listener) => listener.set_options(self.options),
            State::Connected { end, .. } => end.set_send_size(self.options.sizes.send),
            State::Unbound(_) | State::Bound(..) | State::Connecting(_) | State::Closed(_) => {}
        }
        Ok(())
    }
}
