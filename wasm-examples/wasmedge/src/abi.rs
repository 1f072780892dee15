//! The socket functions that WasmEdge has added to WASI 0.1, as Go's packages for wasip1 import them.

use std::net::{IpAddr, SocketAddr};

pub(crate) const STREAM: u32 = 2;
pub(crate) const DATAGRAM: u32 = 1;
pub(crate) const AGAIN: u32 = 6;
pub(crate) const INPROGRESS: u32 = 26;

#[repr(C)]
pub(crate) struct Vector {
    at: *const u8,
    len: usize,
}

#[repr(C)]
struct Address {
    at: *mut u8,
    len: usize,
}

#[repr(C)]
struct AddrInfo {
    flags: u16,
    family: u8,
    kind: u8,
    protocol: u32,
    address_len: u32,
    address: *mut SockAddr,
    name: *mut u8,
    name_len: u32,
    next: *mut AddrInfo,
}

#[repr(C)]
struct SockAddr {
    family: u32,
    len: u32,
    data: *mut u8,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Subscription([u8; 48]);

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Event([u8; 32]);

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn sock_open(family: u32, kind: u32, fd: *mut u32) -> u32;
    fn sock_bind(fd: u32, address: *const Address, port: u32) -> u32;
    fn sock_listen(fd: u32, backlog: u32) -> u32;
    fn sock_accept(fd: u32, flags: u32, out: *mut u32) -> u32;
    fn sock_connect(fd: u32, address: *const Address, port: u32) -> u32;
    fn sock_recv_from(
        fd: u32,
        vectors: *const Vector,
        count: u32,
        address: *mut Address,
        flags: u32,
        port: *mut u32,
        size: *mut u32,
        out: *mut u32,
    ) -> u32;
    fn sock_send_to(
        fd: u32,
        vectors: *const Vector,
        count: u32,
        address: *const Address,
        port: u32,
        flags: u32,
        size: *mut u32,
    ) -> u32;
    fn sock_recv(
        fd: u32,
        vectors: *const Vector,
        count: u32,
        flags: u32,
        size: *mut u32,
        out: *mut u16,
    ) -> u32;
    fn sock_shutdown(fd: u32, how: u32) -> u32;
    fn sock_getsockopt(fd: u32, level: u32, name: u32, value: *mut u32, len: u32) -> u32;
    fn sock_setsockopt(fd: u32, level: u32, name: u32, value: *const u32, len: u32) -> u32;
    fn sock_getlocaladdr(fd: u32, address: *mut Address, port: *mut u32) -> u32;
    fn sock_getpeeraddr(fd: u32, address: *mut Address, port: *mut u32) -> u32;
    fn sock_getaddrinfo(
        name: *const u8,
        name_len: u32,
        service: *const u8,
        service_len: u32,
        hints: *const AddrInfo,
        results: *mut *mut AddrInfo,
        max: u32,
        count: *mut u32,
    ) -> u32;
    fn fd_read(fd: u32, vectors: *const Vector, count: u32, size: *mut u32) -> u32;
    fn fd_write(fd: u32, vectors: *const Vector, count: u32, size: *mut u32) -> u32;
    fn fd_close(fd: u32) -> u32;
    fn fd_fdstat_set_flags(fd: u32, flags: u32) -> u32;
    fn poll_oneoff(
        wanted: *const Subscription,
        events: *mut Event,
        count: u32,
        told: *mut u32,
    ) -> u32;
}

pub(crate) type Outcome<T> = Result<T, u32>;

fn outcome<T>(errno: u32, value: T) -> Outcome<T> {
    if errno == 0 { Ok(value) } else { Err(errno) }
}

/// An address in memory, in the narrow form.
fn with_address<R>(to: SocketAddr, call: impl FnOnce(*const Address, u32) -> R) -> R {
    let mut octets = match to.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let address = Address { at: octets.as_mut_ptr(), len: octets.len() };
    call(&address, to.port().into())
}

/// Reads an address that a call has put into the wide form.
fn read_address(call: impl FnOnce(*mut Address, *mut u32) -> u32) -> Outcome<SocketAddr> {
    let mut wide = [0u8; 128];
    let mut address = Address { at: wide.as_mut_ptr(), len: wide.len() };
    let mut port = 0;
    outcome(call(&mut address, &mut port), ())?;
    let ip: IpAddr = match wide[0] {
        1 => <[u8; 4]>::try_from(&wide[2..6]).unwrap().into(),
        2 => <[u8; 16]>::try_from(&wide[2..18]).unwrap().into(),
        other => panic!("family {other}"),
    };
    Ok(SocketAddr::new(ip, port as u16))
}

pub(crate) struct Socket(pub(crate) u32);

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: a plain number; the descriptor is ours.
        unsafe { fd_close(self.0) };
    }
}

// SAFETY, for all below: each pointer is to a live value of the size that the call is told, and no call keeps one.
impl Socket {
    pub(crate) fn open(family: u32, kind: u32) -> Outcome<Self> {
        let mut fd = 0;
        outcome(unsafe { sock_open(family, kind, &mut fd) }, ())?;
        Ok(Self(fd))
    }

    pub(crate) fn bind(&self, at: SocketAddr) -> Outcome<()> {
        with_address(at, |a, port| outcome(unsafe { sock_bind(self.0, a, port) }, ()))
    }

    pub(crate) fn listen(&self) -> Outcome<()> {
        outcome(unsafe { sock_listen(self.0, 64) }, ())
    }

    pub(crate) fn accept(&self) -> Outcome<Self> {
        let mut fd = 0;
        outcome(unsafe { sock_accept(self.0, 0, &mut fd) }, ())?;
        Ok(Self(fd))
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> Outcome<()> {
        with_address(to, |a, port| outcome(unsafe { sock_connect(self.0, a, port) }, ()))
    }

    pub(crate) fn set_nonblocking(&self, on: bool) -> Outcome<()> {
        outcome(unsafe { fd_fdstat_set_flags(self.0, if on { 4 } else { 0 }) }, ())
    }

    pub(crate) fn read(&self, into: &mut [u8]) -> Outcome<usize> {
        let (vector, mut size) = (Vector { at: into.as_ptr(), len: into.len() }, 0);
        outcome(unsafe { fd_read(self.0, &vector, 1, &mut size) }, ())?;
        Ok(size as usize)
    }

    pub(crate) fn peek(&self, into: &mut [u8]) -> Outcome<usize> {
        let (vector, mut size, mut flags) = (Vector { at: into.as_ptr(), len: into.len() }, 0, 0);
        outcome(unsafe { sock_recv(self.0, &vector, 1, 1, &mut size, &mut flags) }, ())?;
        Ok(size as usize)
    }

    pub(crate) fn write_all(&self, mut data: &[u8]) -> Outcome<()> {
        while !data.is_empty() {
            let (vector, mut size) = (Vector { at: data.as_ptr(), len: data.len() }, 0);
            outcome(unsafe { fd_write(self.0, &vector, 1, &mut size) }, ())?;
            data = &data[size as usize..];
        }
        Ok(())
    }

    pub(crate) fn receive_from(&self, into: &mut [u8]) -> Outcome<(usize, bool, SocketAddr)> {
        let vector = Vector { at: into.as_ptr(), len: into.len() };
        let (mut size, mut flags) = (0, 0);
        let from = read_address(|address, port| unsafe {
            sock_recv_from(self.0, &vector, 1, address, 0, port, &mut size, &mut flags)
        })?;
        Ok((size as usize, flags & 1 != 0, from))
    }

    pub(crate) fn send_to(&self, data: &[u8], to: SocketAddr) -> Outcome<usize> {
        let (vector, mut size) = (Vector { at: data.as_ptr(), len: data.len() }, 0);
        with_address(to, |a, port| {
            outcome(unsafe { sock_send_to(self.0, &vector, 1, a, port, 0, &mut size) }, ())
        })?;
        Ok(size as usize)
    }

    pub(crate) fn shutdown(&self, how: u32) -> Outcome<()> {
        outcome(unsafe { sock_shutdown(self.0, how) }, ())
    }

    pub(crate) fn option(&self, name: u32) -> Outcome<u32> {
        let mut value = 0;
        outcome(unsafe { sock_getsockopt(self.0, 0, name, &mut value, 4) }, ())?;
        Ok(value)
    }

    pub(crate) fn set_option(&self, name: u32, value: u32) -> Outcome<()> {
        outcome(unsafe { sock_setsockopt(self.0, 0, name, &value, 4) }, ())
    }

    pub(crate) fn local_address(&self) -> Outcome<SocketAddr> {
        read_address(|address, port| unsafe { sock_getlocaladdr(self.0, address, port) })
    }

    pub(crate) fn peer_address(&self) -> Outcome<SocketAddr> {
        read_address(|address, port| unsafe { sock_getpeeraddr(self.0, address, port) })
    }
}

/// What is waited for: readable (1) or writable (2), or, without a descriptor, so many nanoseconds.
pub(crate) enum Want {
    Fd(u32, u8),
    Nanoseconds(u64),
}

/// Waits; returns which of them came, and with what error.
pub(crate) fn poll(wanted: &[Want]) -> Outcome<Vec<(usize, u16)>> {
    let subscriptions: Vec<_> = wanted
        .iter()
        .enumerate()
        .map(|(place, want)| {
            let mut bytes = [0; 48];
            bytes[..8].copy_from_slice(&(place as u64).to_le_bytes());
            match want {
                Want::Fd(fd, way) => {
                    bytes[8] = *way;
                    bytes[16..20].copy_from_slice(&fd.to_le_bytes());
                }
                Want::Nanoseconds(wait) => {
                    bytes[16] = 1;
                    bytes[24..32].copy_from_slice(&wait.to_le_bytes());
                }
            }
            Subscription(bytes)
        })
        .collect();
    let mut events = vec![Event([0; 32]); wanted.len()];
    let mut told = 0;
    let count = wanted.len() as u32;
    let errno =
        unsafe { poll_oneoff(subscriptions.as_ptr(), events.as_mut_ptr(), count, &mut told) };
    outcome(errno, ())?;
    Ok(events[..told as usize]
        .iter()
        .map(|Event(bytes)| (bytes[0] as usize, u16::from_le_bytes([bytes[8], bytes[9]])))
        .collect())
}

/// The addresses of a name.
pub(crate) fn look_up(name: &str, service: &str) -> Outcome<Vec<SocketAddr>> {
    const MAX: usize = 8;
    let mut data = [[0u8; 26]; MAX];
    let mut addresses: Vec<_> =
        data.iter_mut().map(|d| SockAddr { family: 0, len: 26, data: d.as_mut_ptr() }).collect();
    let blank = || AddrInfo {
        flags: 0,
        family: 0,
        kind: 0,
        protocol: 0,
        address_len: 12,
        address: std::ptr::null_mut(),
        name: std::ptr::null_mut(),
        name_len: 0,
        next: std::ptr::null_mut(),
    };
    let mut infos: Vec<_> = (0..MAX).map(|_| blank()).collect();
    for n in 0..MAX {
        infos[n].address = &mut addresses[n];
        if n > 0 {
            infos[n - 1].next = &mut infos[n];
        }
    }
    let mut first = infos.as_mut_ptr();
    let mut count = 0;
    let errno = unsafe {
        sock_getaddrinfo(
            name.as_ptr(),
            name.len() as u32,
            service.as_ptr(),
            service.len() as u32,
            &blank(),
            &mut first,
            MAX as u32,
            &mut count,
        )
    };
    outcome(errno, ())?;
    Ok((0..count as usize)
        .map(|n| {
            let bytes = &data[n];
            let ip: IpAddr = match addresses[n].family & 0xff {
                1 => <[u8; 4]>::try_from(&bytes[2..6]).unwrap().into(),
                _ => <[u8; 16]>::try_from(&bytes[2..18]).unwrap().into(),
            };
            SocketAddr::new(ip, u16::from_be_bytes([bytes[0], bytes[1]]))
        })
        .collect())
}
