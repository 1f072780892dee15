//! `sock_getaddrinfo`: names, as WasmEdge's callers ask for them.
//!
//! ```text
//! addrinfo, 28 bytes: flags u16, family u8, socktype u8, protocol u32, addrlen u32, *addr, *canonname, canonnamelen u32, *next
//! *addr, 12 bytes:    family u8, data_len u32, *data        data: port (big-endian), then the address
//! ```
//! Owns: filling the list of results that the caller has laid out. Is not: a resolver (the member's is asked).
//! Limits: the caller's list, of which [`RESULTS_MAX`] entries are used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wiggle::GuestMemory;

use super::Preview1;
use super::errno::{self, Errno};
use super::memory::{self, INET4, INET6};
use crate::net::{Lookup, Member};

/// Longest name and service, bytes; DNS' own bound is 253.
const NAME_BYTES_MAX: u32 = 256;

/// Results given.
const RESULTS_MAX: u32 = 64;

/// `ai_flags`.
const PASSIVE: u16 = 1;
const NUMERIC_HOST: u16 = 4;

/// What the caller's buffer for an address holds at least: WasmEdge's own callers say 14 and lay out 26.
const DATA_BYTES: usize = 18;

/// What is asked.
pub(super) struct Question {
    pub(super) name: (u32, u32),
    pub(super) service: (u32, u32),
    pub(super) hints: u32,
    /// Where the pointer to the first result is.
    pub(super) results: u32,
    pub(super) results_max: u32,
    /// Where the number of results goes.
    pub(super) count: u32,
}

/// What the caller wants to hear about.
struct Hints {
    flags: u16,
    family: u8,
    kind: u8,
    protocol: u32,
}

impl Preview1 {
    pub(super) async fn look_up(
        &mut self,
        mem: &mut GuestMemory<'_>,
        question: Question,
    ) -> Result<(), Errno> {
        let bytes = memory::bytes(mem)?;
        let name = text(bytes, question.name)?;
        let service = text(bytes, question.service)?;
        if name.is_empty() && service.is_empty() {
            return Err(Errno::Inval);
        }
        let hints = Hints::read(bytes, question.hints)?;
        let port = port(&service)?;
        let ips = addresses(&self.member, &name, &hints).await?;
        let ips = ips.into_iter().filter(|ip| hints.admits(*ip));
        let bytes = memory::bytes(mem)?;
        let max = question.results_max.min(RESULTS_MAX);
        let mut entry = memory::u32_at(bytes, question.results)?;
        let mut count = 0;
        for ip in ips.take(max as usize) {
            if entry == 0 {
                break;
            }
            let next = hints.write(bytes, entry, ip, port)?;
            count += 1;
            // A library for Go names each entry as its own successor: the next result would take the first one's place.
            if next == entry {
                break;
            }
            entry = next;
        }
        memory::put_u32(bytes, question.count, count)
    }
}

async fn addresses(member: &Member, name: &str, hints: &Hints) -> Result<Vec<IpAddr>, Errno> {
    if name.is_empty() {
        let any = hints.flags & PASSIVE != 0;
        return Ok(if any {
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        } else {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        });
    }
    if let Ok(ip) = name.parse() {
        return Ok(vec![ip]);
    }
    if hints.flags & NUMERIC_HOST != 0 {
        return Err(Errno::Noent);
    }
    let answer = match member.lookup(name) {
        Lookup::Now(answer) => answer,
        Lookup::Later(answer) => answer.await,
    };
    answer.map_err(errno::resolve)
}

impl Hints {
    fn read(memory: &[u8], at: u32) -> Result<Self, Errno> {
        if at == 0 {
            return Ok(Self { flags: 0, family: 0, kind: 0, protocol: 0 });
        }
        let whole = memory::part(memory, at, 8)?;
        Ok(Self {
            flags: memory::u16_at(memory, at)?,
            family: whole[2],
            kind: whole[3],
            protocol: memory::u32_at(memory, at + 4)?,
        })
    }

    fn admits(&self, ip: IpAddr) -> bool {
        match self.family {
            INET4 => ip.is_ipv4(),
            INET6 => ip.is_ipv6(),
            _ => true,
        }
    }

    /// Fills the entry at `at`; returns where the next one is.
    fn write(&self, memory: &mut [u8], at: u32, ip: IpAddr, port: u16) -> Result<u32, Errno> {
        let next = memory::u32_at(memory, at.checked_add(24).ok_or(Errno::Fault)?)?;
        let address = memory::u32_at(memory, at + 12)?;
        let data = memory::u32_at(memory, address.checked_add(8).ok_or(Errno::Fault)?)?;
        let family = memory::family(ip);
        let mut head = [0; 12];
        head[2] = family;
        // A caller that does not say gets a stream.
        head[3] = if self.kind == 0 { 2 } else { self.kind };
        head[4..8].copy_from_slice(&self.protocol.to_le_bytes());
        head[8..12].copy_from_slice(&12u32.to_le_bytes());
        memory::put(memory, at, &head)?;
        memory::put_u32(memory, at + 20, 0)?;
        memory::put(memory, address, &[family])?;
        let mut bytes = [0; DATA_BYTES];
        bytes[..2].copy_from_slice(&port.to_be_bytes());
        let len = match ip {
            IpAddr::V4(ip) => {
                bytes[2..6].copy_from_slice(&ip.octets());
                6
            }
            IpAddr::V6(ip) => {
                bytes[2..].copy_from_slice(&ip.octets());
                DATA_BYTES
            }
        };
        memory::put(memory, data, &bytes[..len])?;
        Ok(next)
    }
}

/// A text that may end with a NUL.
fn text(memory: &[u8], (at, len): (u32, u32)) -> Result<String, Errno> {
    if len > NAME_BYTES_MAX {
        return Err(Errno::Nametoolong);
    }
    let bytes = memory::part(memory, at, len as usize)?;
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    String::from_utf8(bytes.to_vec()).map_err(|_| Errno::Ilseq)
}

/// A port by number, or by one of the names that programs use without a services file at hand.
fn port(service: &str) -> Result<u16, Errno> {
    match service {
        "" => Ok(0),
        "http" => Ok(80),
        "https" => Ok(443),
        "domain" => Ok(53),
        "mqtt" => Ok(1883),
        "secure-mqtt" => Ok(8883),
        number => number.parse().map_err(|_| Errno::Noent),
    }
}
