//! From which of the host's addresses a UDP client is answered.
//!
//! Owns: learning with each datagram which address of the host it came to, and answering from that one (ip(7), `IP_PKTINFO`; ipv6(7),
//! `IPV6_PKTINFO`). A socket on every address would else answer from the one that the kernel's routes prefer, and a client that asked
//! another (a second address of an interface, one that moves between gateways) hears nothing. A socket on one address needs none of
//! this. rustix has these messages in no form. Not: who is a client (`udp`).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::net::{RecvAncillaryBuffer, RecvFlags};

/// Both ends of what a client and the host say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    /// The host's address that was asked; `None` where the socket has but one.
    pub(super) host: Option<IpAddr>,
}

/// Where a control message's content begins: after its length, level and type (cmsg(3)).
const HEAD: usize = (size_of::<usize>() + 2 * size_of::<i32>()).next_multiple_of(ALIGN);
const ALIGN: usize = size_of::<usize>();

/// Room for one message of either family, and to spare.
#[repr(C, align(8))]
struct Room<T>([T; ROOM]);
const ROOM: usize = 64;

/// Has the kernel tell of each datagram where it came to, if the socket has more than one address.
pub(super) fn learn(socket: &impl AsFd, bound: SocketAddr) -> io::Result<()> {
    if !bound.ip().is_unspecified() {
        return Ok(());
    }
    let (level, name) = match bound {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on = 1_u32.to_ne_bytes();
    let fd = socket.as_fd().as_raw_fd();
    #[allow(unsafe_code, reason = "rustix does not have these options")]
    // SAFETY: the option is a number of four bytes, which the kernel only reads.
    let failed = unsafe { libc::setsockopt(fd, level, name, on.as_ptr().cast(), 4) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The next datagram: its length, and who sent it where. Does not wait.
pub(super) fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Ends)> {
    let mut room = Room([MaybeUninit::new(0); ROOM]);
    let received = {
        let mut control = RecvAncillaryBuffer::new(&mut room.0);
        let parts = &mut [IoSliceMut::new(buffer)];
        rustix::net::recvmsg(socket, parts, &mut control, RecvFlags::DONTWAIT)?
    };
    let client = received.address.and_then(|from| SocketAddr::try_from(from).ok());
    let client = client.ok_or(io::ErrorKind::InvalidData)?;
    #[allow(unsafe_code, reason = "the library reads other kinds of messages only")]
    // SAFETY: every byte was given a value above, and the kernel writes nothing but values.
    let control = room.0.map(|byte| unsafe { byte.assume_init() });
    Ok((received.bytes, Ends { client, host: asked(&control) }))
}

/// The address in the first control message, if it is one that can be answered from.
fn asked(control: &[u8; ROOM]) -> Option<IpAddr> {
    let number = |at: usize| Some(i32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    let length = usize::from_ne_bytes(control[..ALIGN].try_into().ok()?);
    let content = control.get(HEAD..length)?;
    let ip: IpAddr = match (number(ALIGN)?, number(ALIGN + 4)?) {
        // An interface, the address to answer from, and the one that was written in the datagram: a broadcast, perhaps.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            Ipv4Addr::from(<[u8; 4]>::try_from(content.get(4..8)?).ok()?).into()
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            Ipv6Addr::from(<[u8; 16]>::try_from(content.get(..16)?).ok()?).into()
        }
        _ => return None,
    };
    (!ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

/// Sends to the client, from the address that it asked. Does not wait.
pub(super) fn send(socket: &impl AsFd, data: &[u8], ends: Ends) -> io::Result<usize> {
    let Some(host) = ends.host else {
        let flags = rustix::net::SendFlags::DONTWAIT;
        return Ok(rustix::net::sendto(socket, data, flags, &ends.client)?);
    };
    let (mut control, length) = answer_from(host);
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let (fd, flags) = (socket.as_fd().as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    #[allow(unsafe_code, reason = "the library writes other kinds of messages only")]
    // SAFETY: all that the message points to lives until the call is over, has the length that is said, and is only read.
    let sent = unsafe {
        use rustix::net::addr::SocketAddrArg as _;
        ends.client.with_sockaddr(|name, name_length| {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_name = name.cast_mut().cast();
            message.msg_namelen = name_length;
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = length.into();
            libc::sendmsg(fd, &raw const message, flags)
        })
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The control message that says from where, and its length with the room after it.
fn answer_from(host: IpAddr) -> (Room<u8>, u16) {
    // An interface that is none: whichever leads there.
    let (mut v4, mut v6) = ([0; 12], [0; 20]);
    let (level, kind, content): (i32, i32, &[u8]) = match host {
        IpAddr::V4(ip) => {
            v4[4..8].copy_from_slice(&ip.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, &v4)
        }
        IpAddr::V6(ip) => {
            v6[..16].copy_from_slice(&ip.octets());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &v6)
        }
    };
    let mut room = Room([0; ROOM]);
    let end = HEAD + content.len();
    room.0[..ALIGN].copy_from_slice(&end.to_ne_bytes());
    room.0[ALIGN..ALIGN + 4].copy_from_slice(&level.to_ne_bytes());
    room.0[ALIGN + 4..ALIGN + 8].copy_from_slice(&kind.to_ne_bytes());
    room.0[HEAD..end].copy_from_slice(content);
    (room, u16::try_from(end.next_multiple_of(ALIGN)).unwrap_or(0))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_taken_for_an_address() {
        for ip in ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"] {
            let ip: IpAddr = ip.parse().unwrap();
            let (room, length) = answer_from(ip);
            assert_eq!(asked(&room.0), Some(ip));
            assert_eq!(usize::from(length) % ALIGN, 0);
            let mut other = room.0;
            other[ALIGN + 4] ^= 0x40;
            assert_eq!(asked(&other), None, "another kind of message");
            let mut cut = room.0;
            cut[..ALIGN].copy_from_slice(&(HEAD + 3).to_ne_bytes());
            assert_eq!(asked(&cut), None, "cut off");
            cut[..ALIGN].copy_from_slice(&usize::MAX.to_ne_bytes());
            assert_eq!(asked(&cut), None, "longer than its room");
        }
        assert_eq!(asked(&[0; ROOM]), None, "none at all");
        for ip in ["0.0.0.0", "224.0.0.251", "ff02::fb"] {
            assert_eq!(asked(&answer_from(ip.parse().unwrap()).0.0), None, "{ip}");
        }
    }
}
