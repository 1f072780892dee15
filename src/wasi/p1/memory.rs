//! A module's memory, as the socket functions read and write it.
//!
//! Owns: bounds checks, and the structures of the ABI: buffer vectors, WasmEdge's addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use wiggle::GuestMemory;

use super::errno::Errno;

/// Buffers in one call; Linux' `IOV_MAX`.
pub(super) const VECTORS_MAX: u32 = 1024;

/// WasmEdge's widened address: a family of 16 bits, then the address.
const WIDE_ADDRESS: usize = 128;

/// Address families, as WasmEdge numbers them.
pub(super) const INET4: u8 = 1;
pub(super) const INET6: u8 = 2;

/// The bytes. Shared memories are not offered.
pub(super) fn bytes<'a>(memory: &'a mut GuestMemory<'_>) -> Result<&'a mut [u8], Errno> {
    match memory {
        GuestMemory::Unshared(bytes) => Ok(bytes),
        GuestMemory::Shared(_) => Err(Errno::Notsup),
    }
}

/// The place of `len` bytes at `at`.
pub(super) fn range(memory: &[u8], at: u32, len: usize) -> Result<Range<usize>, Errno> {
    let start = at as usize;
    let end = start.checked_add(len).filter(|&end| end <= memory.len()).ok_or(Errno::Fault)?;
    Ok(start..end)
}

pub(super) fn part(memory: &[u8], at: u32, len: usize) -> Result<&[u8], Errno> {
    Ok(&memory[range(memory, at, len)?])
}

fn array<const N: usize>(memory: &[u8], at: u32) -> Result<[u8; N], Errno> {
    part(memory, at, N)?.try_into().map_err(|_| Errno::Fault)
}

pub(super) fn u16_at(memory: &[u8], at: u32) -> Result<u16, Errno> {
    Ok(u16::from_le_bytes(array(memory, at)?))
}

pub(super) fn u32_at(memory: &[u8], at: u32) -> Result<u32, Errno> {
    Ok(u32::from_le_bytes(array(memory, at)?))
}

pub(super) fn u64_at(memory: &[u8], at: u32) -> Result<u64, Errno> {
    Ok(u64::from_le_bytes(array(memory, at)?))
}

pub(super) fn put(memory: &mut [u8], at: u32, bytes: &[u8]) -> Result<(), Errno> {
    let range = range(memory, at, bytes.len())?;
    memory[range].copy_from_slice(bytes);
    Ok(())
}

pub(super) fn put_u32(memory: &mut [u8], at: u32, value: u32) -> Result<(), Errno> {
    put(memory, at, &value.to_le_bytes())
}

/// A length, as the ABI's 32 bits have it.
pub(super) fn size(len: usize) -> Result<u32, Errno> {
    u32::try_from(len).map_err(|_| Errno::Overflow)
}

/// The buffers of a vectored call, each within the memory, with no more bytes in all than the answer can tell (Linux: `EINVAL`). They may
/// be one and the same.
pub(super) fn vectors(memory: &[u8], at: u32, count: u32) -> Result<Vec<Range<usize>>, Errno> {
    if count > VECTORS_MAX {
        return Err(Errno::Inval);
    }
    let mut sum = 0_u32;
    (0..count)
        .map(|n| {
            let entry = at.checked_add(n * 8).ok_or(Errno::Fault)?;
            let len = u32_at(memory, entry.checked_add(4).ok_or(Errno::Fault)?)?;
            sum = sum.checked_add(len).ok_or(Errno::Inval)?;
            range(memory, u32_at(memory, entry)?, len as usize)
        })
        .collect()
}

/// Bytes in the first buffer of a vectored call that has any: what wasmtime-wasi writes of it.
pub(super) fn first_len(memory: &[u8], (at, count): (u32, u32)) -> Result<u32, Errno> {
    for n in 0..count {
        let entry = n.checked_mul(8).and_then(|skip| at.checked_add(skip)).ok_or(Errno::Fault)?;
        let len = u32_at(memory, entry.checked_add(4).ok_or(Errno::Fault)?)?;
        if len > 0 {
            return Ok(len);
        }
    }
    Ok(0)
}

/// The buffer that a `WasiAddress` (`buf`, `buf_len`) describes.
fn address_buffer(memory: &[u8], at: u32) -> Result<Range<usize>, Errno> {
    let len = u32_at(memory, at.checked_add(4).ok_or(Errno::Fault)?)?;
    range(memory, u32_at(memory, at)?, len as usize)
}

/// The address that a module names: 4 or 16 bytes, or the wide form.
pub(super) fn address(memory: &[u8], at: u32, port: u32) -> Result<SocketAddr, Errno> {
    let buffer = &memory[address_buffer(memory, at)?];
    let port = u16::try_from(port).map_err(|_| Errno::Inval)?;
    let ip = match buffer.len() {
        4 => v4(buffer)?,
        16 => v6(buffer)?,
        WIDE_ADDRESS => match (buffer[0], buffer[1]) {
            (INET4, 0) => v4(&buffer[2..6])?,
            (INET6, 0) => v6(&buffer[2..18])?,
            _ => return Err(Errno::Afnosupport),
        },
        _ => return Err(Errno::Inval),
    };
    Ok(SocketAddr::new(ip, port))
}

fn v4(bytes: &[u8]) -> Result<IpAddr, Errno> {
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| Errno::Inval)?;
    Ok(Ipv4Addr::from(bytes).into())
}

fn v6(bytes: &[u8]) -> Result<IpAddr, Errno> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| Errno::Inval)?;
    Ok(Ipv6Addr::from(bytes).into())
}

/// Writes an address into the buffer that `at` describes: wide if the buffer is, else as it is.
pub(super) fn put_address(memory: &mut [u8], at: u32, ip: IpAddr) -> Result<(), Errno> {
    let buffer = address_buffer(memory, at)?;
    let buffer = &mut memory[buffer];
    let skip = if buffer.len() == WIDE_ADDRESS {
        buffer[..2].copy_from_slice(&[family(ip), 0]);
        2
    } else {
        0
    };
    let fill = |buffer: &mut [u8], octets: &[u8]| {
        let place = buffer.get_mut(skip..skip + octets.len()).ok_or(Errno::Inval)?;
        place.copy_from_slice(octets);
        Ok(())
    };
    match ip {
        IpAddr::V4(ip) => fill(buffer, &ip.octets()),
        IpAddr::V6(ip) => fill(buffer, &ip.octets()),
    }
}

pub(super) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { INET4 } else { INET6 }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn buffers_have_no_more_bytes_than_an_answer_can_tell() {
        let mut memory = vec![0; 64 << 10];
        let mut list = |lens: &[u32]| {
            for (n, len) in (0..).zip(lens) {
                assert_eq!(put_u32(&mut memory, n * 8, 0), Ok(()));
                assert_eq!(put_u32(&mut memory, n * 8 + 4, *len), Ok(()));
            }
            vectors(&memory, 0, u32::try_from(lens.len()).unwrap_or(u32::MAX)).map(|all| all.len())
        };
        assert_eq!(list(&[65_536; 1000]), Ok(1000), "all of them the same place");
        assert_eq!(list(&[65_537]), Err(Errno::Fault), "outside the memory");
        assert_eq!(list(&[10, u32::MAX]), Err(Errno::Inval));
        assert_eq!(list(&[0; VECTORS_MAX as usize + 1]), Err(Errno::Inval));
    }
}
