//! The port table of one protocol, and the ports handed out when a program asks for "any".
//!
//! Owns: who has bound which address and port, and who answers there. Pure data, generic over the
//! answerer.
//! Is not: a lock (the owner wraps it), a lifetime (`lease` frees what was bound).
//! Rules (Linux, `bind(2)` and `ip(7)`, with `SO_REUSEADDR` meaning only "do not wait for old
//! connections", as `wasi:sockets/tcp` asks): on one port, a wildcard conflicts with every address
//! of its family, equal addresses conflict, different specific ones do not. The families do not
//! meet, unless an IPv6 wildcard was bound for both.
//! Answer to a packet: the specific address first, then its family's wildcard, then a wildcard
//! bound for both.
//! Limits: every port once per address; the "any" range is Linux's default 32768–60999.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

/// First and last port given out for port 0 (Linux's `ip_local_port_range`).
const EPHEMERAL_FIRST: u16 = 32_768;
const EPHEMERAL_LAST: u16 = 60_999;
const EPHEMERAL_COUNT: usize = (EPHEMERAL_LAST - EPHEMERAL_FIRST) as usize + 1;

/// Bindings for which a table always keeps room.
const ROOM_KEPT: usize = 64;

/// Spreads port numbers over a table: a multiplication by a large odd number (the golden ratio's
/// bits). Ports are few and no secret, so nothing needs to be kept from whoever chooses them.
#[derive(Clone, Copy, Debug, Default)]
struct PortHasher(u64);

impl Hasher for PortHasher {
    fn write_u16(&mut self, port: u16) {
        let spread = u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Why the table did not take a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortRefusal {
    /// Somebody else has the port, at an address that overlaps.
    InUse,
    /// All ports for "any" are taken.
    Exhausted,
}

/// What to bind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) ip: IpAddr,
    /// 0 for any.
    pub(crate) port: u16,
    /// An IPv6 wildcard that also takes IPv4 (`IPV6_V6ONLY` off). Meaningless elsewhere.
    pub(crate) dual: bool,
}

/// Names one binding for as long as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) port: u16,
    id: u64,
}

#[derive(Debug)]
struct Binding<T> {
    id: u64,
    ip: IpAddr,
    dual: bool,
    answers: Option<T>,
}

/// Most ports are bound once, so the first binding lies in the map itself.
#[derive(Debug)]
struct Slot<T> {
    first: Binding<T>,
    more: Vec<Binding<T>>,
}

impl<T> Slot<T> {
    fn all(&self) -> impl Iterator<Item = &Binding<T>> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// See the header.
#[derive(Debug)]
pub(crate) struct PortTable<T> {
    slots: HashMap<u16, Slot<T>, BuildHasherDefault<PortHasher>>,
    ephemeral: Ephemeral,
    next_id: u64,
}

impl<T> PortTable<T> {
    pub(crate) fn new() -> Self {
        Self { slots: HashMap::default(), ephemeral: Ephemeral::new(), next_id: 0 }
    }

    /// Takes the claim, or says why not.
    pub(crate) fn bind(&mut self, claim: Claim) -> Result<Bound, PortRefusal> {
        let port = match claim.port {
            0 => self.ephemeral.next().ok_or(PortRefusal::Exhausted)?,
            port => port,
        };
        let id = self.next_id;
        let binding = Binding { id, ip: claim.ip, dual: claim.dual, answers: None };
        match self.slots.get_mut(&port) {
            Some(slot) => {
                if slot.all().any(|other| overlap(other, &binding)) {
                    return Err(PortRefusal::InUse);
                }
                slot.more.push(binding);
            }
            None => {
                self.slots.insert(port, Slot { first: binding, more: Vec::new() });
                self.ephemeral.mark(port, true);
            }
        }
        self.next_id += 1;
        Ok(Bound { port, id })
    }

    /// Frees a binding. Doing it twice, or after the port has gone to another, changes nothing.
    pub(crate) fn release(&mut self, bound: Bound) {
        let Some(slot) = self.slots.get_mut(&bound.port) else { return };
        if slot.first.id == bound.id {
            if slot.more.is_empty() {
                self.slots.remove(&bound.port);
                self.ephemeral.mark(bound.port, false);
                self.give_back_memory();
                return;
            }
            slot.first = slot.more.swap_remove(0);
        } else {
            slot.more.retain(|binding| binding.id != bound.id);
        }
        if slot.more.len() < slot.more.capacity() / 8 {
            slot.more.shrink_to(slot.more.len() * 2);
        }
    }

    /// Keeps no more room than a multiple of what is bound, so that a peak long ago costs nothing.
    fn give_back_memory(&mut self) {
        let (used, room) = (self.slots.len(), self.slots.capacity());
        if room > ROOM_KEPT && used < room / 8 {
            self.slots.shrink_to(ROOM_KEPT.max(used * 2));
        }
    }

    /// From now on `answerer` gets what arrives there.
    pub(crate) fn answer(&mut self, bound: Bound, answerer: T) {
        let Some(slot) = self.slots.get_mut(&bound.port) else { return };
        let mut all = std::iter::once(&mut slot.first).chain(&mut slot.more);
        if let Some(binding) = all.find(|binding| binding.id == bound.id) {
            binding.answers = Some(answerer);
        }
    }

    /// Who answers at `ip` and `port`.
    pub(crate) fn find(&self, ip: IpAddr, port: u16) -> Option<&T> {
        let slot = self.slots.get(&port)?;
        let rank = |binding: &Binding<T>| {
            if binding.ip == ip {
                Some(0)
            } else if binding.ip.is_unspecified() && binding.ip.is_ipv4() == ip.is_ipv4() {
                Some(1)
            } else if binding.dual && ip.is_ipv4() {
                Some(2)
            } else {
                None
            }
        };
        slot.all()
            .filter(|binding| binding.answers.is_some())
            .filter_map(|binding| rank(binding).map(|rank| (rank, binding)))
            .min_by_key(|(rank, _)| *rank)
            .and_then(|(_, binding)| binding.answers.as_ref())
    }

    /// How many ports are bound at least once.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

fn overlap<T>(a: &Binding<T>, b: &Binding<T>) -> bool {
    if a.ip.is_ipv4() == b.ip.is_ipv4() {
        return a.ip == b.ip || a.ip.is_unspecified() || b.ip.is_unspecified();
    }
    // One of each family: they meet only where the IPv6 one takes IPv4 too.
    a.dual || b.dual
}

/// Which ports of the range are taken, as bits, with a second row of bits for "this whole word is
/// taken", so that the next free one is found in a few steps however full the range is. The search
/// goes on from the last port given, so a port just freed is the last to be given again. Allocated
/// at the first use.
#[derive(Debug)]
struct Ephemeral {
    words: Vec<u64>,
    full: [u64; SUMMARY],
    cursor: usize,
}

const WORDS: usize = EPHEMERAL_COUNT.div_ceil(64);
const SUMMARY: usize = WORDS.div_ceil(64);

impl Ephemeral {
    fn new() -> Self {
        Self { words: Vec::new(), full: [0; SUMMARY], cursor: 0 }
    }

    fn ensure(&mut self) {
        if self.words.is_empty() {
            self.words = vec![0; WORDS];
            // Bits beyond the range, and words beyond the last, can never be given out.
            self.words[WORDS - 1] = !0 << (EPHEMERAL_COUNT - (WORDS - 1) * 64);
            self.full[SUMMARY - 1] = !0 << (WORDS - (SUMMARY - 1) * 64);
        }
    }

    fn next(&mut self) -> Option<u16> {
        self.ensure();
        let index = self.free_from(self.cursor).or_else(|| self.free_from(0))?;
        self.cursor = (index + 1) % EPHEMERAL_COUNT;
        let offset = u16::try_from(index).expect("an index below the size of a range of ports");
        Some(EPHEMERAL_FIRST + offset)
    }

    /// The first free index at or after `start`.
    fn free_from(&self, start: usize) -> Option<usize> {
        let word = start / 64;
        let here = !self.words[word] & (!0 << (start % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let after = word + 1;
        (after / 64..SUMMARY).find_map(|row| {
            let mask = if row == after / 64 { !0 << (after % 64) } else { !0 };
            let rows_free = !self.full[row] & mask;
            (rows_free != 0).then(|| {
                let word = row * 64 + rows_free.trailing_zeros() as usize;
                word * 64 + self.words[word].trailing_ones() as usize
            })
        })
    }

    fn mark(&mut self, port: u16, taken: bool) {
        if !(EPHEMERAL_FIRST..=EPHEMERAL_LAST).contains(&port) {
            return;
        }
        self.ensure();
        let index = usize::from(port - EPHEMERAL_FIRST);
        let (word, bit) = (index / 64, 1 << (index % 64));
        if taken {
            self.words[word] |= bit;
        } else {
            self.words[word] &= !bit;
        }
        let (row, bit) = (word / 64, 1 << (word % 64));
        if self.words[word] == !0 {
            self.full[row] |= bit;
        } else {
            self.full[row] &= !bit;
        }
    }
}

#[cfg(test)]
#[path = "tests/port.rs"]
mod tests;
