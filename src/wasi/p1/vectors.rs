//! Sockets read and written with a list of buffers, as one call does it.
//!
//! Owns: which buffer gets what. Is not: the socket (`socket`), nor where the buffers lie (`memory`).

use super::Preview1;
use super::errno::Errno;
use super::files::Memory;
use super::memory;
use super::socket::{Manner, Received};

/// What is longer is no datagram in any family: the length in its header has 16 bits.
const DATAGRAM_BYTES_MAX: usize = 65_535;

impl Preview1 {
    /// Reads from a socket into the buffers of a vectored call: waits for the first, takes what there is for the others.
    pub(super) async fn receive(
        &mut self,
        mem: &mut Memory<'_>,
        fd: u32,
        (at, count): (u32, u32),
        manner: Manner,
    ) -> Result<Received, Errno> {
        let socket = self.fds.socket(fd)?;
        let mem = memory::bytes(mem)?;
        let vectors = memory::vectors(mem, at, count)?;
        let mut buffers = vectors.into_iter().filter(|buffer| !buffer.is_empty());
        let Some(first) = buffers.next() else {
            return socket.receive(&mut [], manner).await;
        };
        if !socket.is_stream() || manner.peek {
            // One datagram, or one look: the first buffer has it.
            return socket.receive(&mut mem[first], manner).await;
        }
        let mut full = first.len();
        let mut received = socket.receive(&mut mem[first], manner).await?;
        let nonblocking = std::mem::replace(&mut socket.nonblocking, !manner.all);
        for buffer in buffers {
            if received.count < full {
                break;
            }
            full += buffer.len();
            match socket.receive(&mut mem[buffer], manner).await {
                Ok(more) => received.count += more.count,
                Err(_) => break,
            }
        }
        socket.nonblocking = nonblocking;
        Ok(received)
    }

    /// Sends the buffers of a vectored call to a socket.
    pub(super) async fn send(
        &mut self,
        mem: &mut Memory<'_>,
        fd: u32,
        (at, count): (u32, u32),
        to: Option<std::net::SocketAddr>,
    ) -> Result<usize, Errno> {
        let socket = self.fds.socket(fd)?;
        let mem = memory::bytes(mem)?;
        let vectors = memory::vectors(mem, at, count)?;
        if !socket.is_stream() {
            // Asked before anything is copied: each of a thousand buffers may be the whole memory.
            let len = vectors.iter().fold(0, |sum: usize, part| sum.saturating_add(part.len()));
            if len > DATAGRAM_BYTES_MAX {
                return Err(Errno::Msgsize);
            }
            let whole: Vec<u8> = match &vectors[..] {
                [one] => return socket.send(&mem[one.clone()], to).await,
                many => many.iter().flat_map(|part| mem[part.clone()].iter().copied()).collect(),
            };
            return socket.send(&whole, to).await;
        }
        let mut total = 0;
        for part in vectors {
            let len = part.len();
            match socket.send(&mem[part], to).await {
                Ok(count) => {
                    total += count;
                    if count < len {
                        break;
                    }
                }
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }
}
