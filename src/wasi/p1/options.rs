//! Socket options, in WasmEdge's numbers.
//!
//! Owns: what each means here. What has no meaning in a network in memory (routing, out-of-band data, linger) is read as its default and
//! refused where it would have to do something.

use std::time::Duration;

use super::errno::Errno;
use super::memory;
use super::socket::Socket;

/// `SOL_SOCKET`.
const SOCKET: u32 = 0;
/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// Longest value, bytes: a `timeval`.
const VALUE_BYTES_MAX: usize = 16;

/// A value as a module reads or writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u32),
    /// A `timeval`; zero is "no limit".
    Time(Option<Duration>),
}

impl Value {
    /// The bytes, and how many.
    pub(super) fn bytes(self) -> ([u8; VALUE_BYTES_MAX], usize) {
        let mut bytes = [0; VALUE_BYTES_MAX];
        match self {
            Self::Number(number) => {
                bytes[..4].copy_from_slice(&number.to_le_bytes());
                (bytes, 4)
            }
            Self::Time(time) => {
                let time = time.unwrap_or_default();
                bytes[..8].copy_from_slice(&time.as_secs().to_le_bytes());
                bytes[8..12].copy_from_slice(&time.subsec_micros().to_le_bytes());
                (bytes, VALUE_BYTES_MAX)
            }
        }
    }

    /// What `len` bytes at `at` say about option `name`.
    pub(super) fn read(memory: &[u8], name: u32, at: u32, len: u32) -> Result<Self, Errno> {
        if !matches!(name, 11 | 12) {
            return match len {
                4.. => Ok(Self::Number(memory::u32_at(memory, at)?)),
                _ => Err(Errno::Inval),
            };
        }
        if len as usize != VALUE_BYTES_MAX {
            return Err(Errno::Inval);
        }
        let seconds = memory::u64_at(memory, at)?;
        let micros = memory::u64_at(memory, at.checked_add(8).ok_or(Errno::Fault)?)?;
        let micros = u32::try_from(micros).ok().filter(|&micros| micros < 1_000_000);
        let time = Duration::new(seconds, micros.ok_or(Errno::Inval)? * 1000);
        Ok(Self::Time(Some(time).filter(|time| !time.is_zero())))
    }
}

impl Socket {
    pub(super) fn option(&mut self, level: u32, name: u32) -> Result<Value, Errno> {
        let number = |n: u32| Ok(Value::Number(n));
        let size = |bytes: u64| Ok(Value::Number(u32::try_from(bytes).unwrap_or(u32::MAX)));
        match (level, name) {
            (SOCKET, 0) => number(self.reuse_address.into()),
            (SOCKET, 1) => number(if self.is_stream() { 2 } else { 1 }),
            (SOCKET, 2) => number(u32::from(u16::from(self.take_error()))),
            (SOCKET, 3 | 8) => number(0),
            (SOCKET, 4) => number(self.broadcast.into()),
            (SOCKET, 5) => size(match self.tcp_socket() {
                Some(tcp) => tcp.send_buffer_size(),
                None => self.udp_socket().map_or(0, |udp| udp.send_buffer_size()),
            }),
            (SOCKET, 6) => size(match self.tcp_socket() {
                Some(tcp) => tcp.receive_buffer_size(),
                None => self.udp_socket().map_or(0, |udp| udp.receive_buffer_size()),
            }),
            (SOCKET, 7) => number(self.tcp_socket().is_some_and(|tcp| tcp.keep_alive()).into()),
            (SOCKET, 10) => number(1),
            (SOCKET, 11) => Ok(Value::Time(self.receive_timeout)),
            (SOCKET, 12) => Ok(Value::Time(self.send_timeout)),
            (SOCKET, 13) => number(self.is_listening().into()),
            // Nothing here waits to fill a packet.
            (TCP, _) if self.is_stream() => number(1),
            _ => Err(Errno::Noprotoopt),
        }
    }

    pub(super) fn set_option(&mut self, level: u32, name: u32, value: Value) -> Result<(), Errno> {
        let zero = |_| Errno::Inval;
        match (level, name, value) {
            (SOCKET, 0, Value::Number(on)) => self.reuse_address = on != 0,
            (SOCKET, 4, Value::Number(on)) => self.broadcast = on != 0,
            (SOCKET, 5, Value::Number(bytes)) => match self.tcp_socket() {
                Some(tcp) => tcp.set_send_buffer_size(bytes.into()).map_err(zero)?,
                None => {
                    let udp = self.udp_socket().ok_or(Errno::Noprotoopt)?;
                    udp.set_send_buffer_size(bytes.into()).map_err(zero)?;
                }
            },
            (SOCKET, 6, Value::Number(bytes)) => match self.tcp_socket() {
                Some(tcp) => tcp.set_receive_buffer_size(bytes.into()).map_err(zero)?,
                None => {
                    let udp = self.udp_socket().ok_or(Errno::Noprotoopt)?;
                    udp.set_receive_buffer_size(bytes.into()).map_err(zero)?;
                }
            },
            (SOCKET, 7, Value::Number(on)) => {
                self.tcp_socket().ok_or(Errno::Noprotoopt)?.set_keep_alive(on != 0);
            }
            (SOCKET, 11, Value::Time(limit)) => self.receive_timeout = limit,
            (SOCKET, 12, Value::Time(limit)) => self.send_timeout = limit,
            (TCP, _, Value::Number(_)) if self.is_stream() => {}
            _ => return Err(Errno::Noprotoopt),
        }
        Ok(())
    }
}
