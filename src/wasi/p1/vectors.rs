//! Sockets read and written with a list of buffers, as one call does it.
//!
//! Owns: which buffer gets what. Is not: the socket (`socket`), nor where the buffers lie (`memory`).

use std::ops::Range;

use super::Preview1;
use super::errno::Errno;
use super::files::Memory;
use super::memory;
use super::socket::{Manner, Received, Socket};

/// What is longer is no datagram in any family: the length in its header has 16 bits.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// One datagram, into one buffer after the other; what none has room for is lost.
async fn receive_datagram(
    socket: &mut Socket,
    mem: &mut [u8],
    parts: &[Range<usize>],
    manner: Manner,
) -> Result<Received, Errno> {
    if let [one] = parts {
        return socket.receive(&mut mem[one.clone()], manner).await;
    }
    let room = parts.iter().fold(0, |sum: usize, part| sum.saturating_add(part.len()));
    let mut whole = vec![0; room.min(DATAGRAM_BYTES_MAX)];
    let received = socket.receive(&mut whole, manner).await?;
    let mut left = &whole[..received.count];
    for part in parts {
        let (here, rest) = left.split_at(left.len().min(part.len()));
        mem[part.start..part.start + here.len()].copy_from_slice(here);
        left = rest;
    }
    Ok(received)
}

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
        if !socket.is_stream() {
            let parts: Vec<Range<usize>> = std::iter::once(first).chain(buffers).collect();
            return receive_datagram(socket, mem, &parts, manner).await;
        }
        if manner.peek {
            // One look: the first buffer has it.
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

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use bytes::Bytes;
    use wasmtime_wasi::WasiCtxBuilder;

    use super::*;
    use crate::net::{Family, MemberLimits, NetConfig, NoLedger, PodNet};
    use crate::wasi::files::Walls;
    use crate::wasi::p1::Listeners;
    use crate::wasi::p1::fds::Entry;

    #[tokio::test]
    async fn a_datagram_fills_one_buffer_after_the_other() {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let member = Arc::new(net.join("a", MemberLimits::default(), Arc::new(NoLedger)));
        let wasi = WasiCtxBuilder::new().build_p1();
        let listeners = Listeners::default();
        let mut p1 = Preview1::new(wasi, Arc::clone(&member), listeners, &[], Walls::none());
        let mut socket = Socket::open_udp(&member, Family::V4).unwrap();
        let at = "127.0.0.1:53".parse().unwrap();
        socket.bind(at).unwrap();
        let fd = p1.fds.insert(Entry::Socket(Box::new(socket))).unwrap();
        let sender = member.udp_socket(Family::V4).unwrap();
        let mut bytes = vec![0; 1 << 16];
        for (n, (place, len)) in (0..).zip([(100, 4), (200, 0), (300, 3), (400, 8)]) {
            memory::put_u32(&mut bytes, n * 8, place).unwrap();
            memory::put_u32(&mut bytes, n * 8 + 4, len).unwrap();
        }
        let manner = |peek| Manner { peek, all: false };
        for (buffers, peek, count, truncated) in
            [(4, true, 9, false), (4, false, 9, false), (3, false, 7, true), (1, false, 4, true)]
        {
            if !peek {
                bytes[100..500].fill(0);
            }
            if count < 9 || peek {
                sender.send(Bytes::from_static(b"one two 3"), Some(at)).unwrap();
            }
            let mut mem = Memory::Unshared(&mut bytes);
            let received = p1.receive(&mut mem, fd, (0, buffers), manner(peek)).await.unwrap();
            assert_eq!((received.count, received.truncated), (count, truncated), "{buffers}");
            let parts = [&bytes[100..104], &bytes[300..303], &bytes[400..402]];
            assert!(parts.concat().starts_with(&b"one two 3"[..count]), "{parts:?}");
            assert_eq!(bytes[104], 0);
        }
    }
}
