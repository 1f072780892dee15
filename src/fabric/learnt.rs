//! Addresses that a pod learnt by looking up names it may reach. Pure.
//!
//! Owns: which of them it may connect to, at which ports, and for how long: as long as the answer holds, with a floor so that
//! a connect right after the look-up is in time. A connection made in time lives on.
//! Limits: [`ADDRESSES_MAX`]; what ends soonest makes room for what has just been learnt.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::spec::{NameRule, Protocol};

/// Addresses remembered for one pod: a few dozen names with a handful of addresses each, several times over.
pub const ADDRESSES_MAX: usize = 1024;

/// The least that an address is allowed for. Servers answer with a time to live of zero, and programs look a name up and
/// then take their time.
const HOLDS_MIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Learnt {
    known: BTreeMap<IpAddr, Vec<Entry>>,
    count: usize,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    until: Timestamp,
    /// When it was last answered.
    learnt: Timestamp,
}

impl Learnt {
    /// An answer has come: `name` has this address, for `ttl`.
    pub fn note(&mut self, ip: IpAddr, name: &Arc<str>, ttl: Duration, now: Timestamp) {
        let until = now.plus(ttl.max(HOLDS_MIN));
        if self.count >= ADDRESSES_MAX {
            self.forget(now);
        }
        let entries = self.known.entry(ip).or_default();
        match entries.iter_mut().find(|entry| entry.name == *name) {
            Some(entry) => {
                entry.until = entry.until.max(until);
                entry.learnt = now;
            }
            None => {
                entries.push(Entry { name: Arc::clone(name), until, learnt: now });
                self.count += 1;
            }
        }
    }

    /// Until when the address may be reached at that port by names that `rules` allow; `None` if it may not. The rules are
    /// those of now, so that taking one back takes back what was learnt by it.
    #[must_use]
    pub fn allows<'r>(
        &self,
        ip: IpAddr,
        protocol: Protocol,
        port: u16,
        rules: impl Iterator<Item = &'r NameRule> + Clone,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let fits = |entry: &&Entry| {
            let allows = |rule: &NameRule| {
                rule.ports.allows(protocol, port) && rule.name.matches(&entry.name)
            };
            entry.until > now && rules.clone().any(allows)
        };
        self.known.get(&ip)?.iter().filter(fits).map(|entry| entry.until).max()
    }

    /// A name by which the pod knows the address now.
    #[must_use]
    pub fn name_of(&self, ip: IpAddr, now: Timestamp) -> Option<Arc<str>> {
        let entries = self.known.get(&ip)?.iter().filter(|entry| entry.until > now);
        entries.max_by_key(|entry| entry.until).map(|entry| Arc::clone(&entry.name))
    }

    /// Makes room: everything that has ended, else what ends first. Not what has been learnt in this very moment, as the other
    /// addresses of the same answer: the program is about to use them.
    fn forget(&mut self, now: Timestamp) {
        let before = self.count;
        self.drop_where(|entry| entry.until <= now);
        if self.count < before {
            return;
        }
        let all = || self.known.values().flatten();
        let older = all().filter(|entry| entry.learnt < now).map(|entry| entry.until).min();
        match older {
            Some(first) => self.drop_where(|entry| entry.until <= first && entry.learnt < now),
            None => self.drop_where(|_| true),
        }
    }

    fn drop_where(&mut self, gone: impl Fn(&Entry) -> bool) {
        for entries in self.known.values_mut() {
            entries.retain(|entry| !gone(entry));
        }
        self.known.retain(|_, entries| !entries.is_empty());
        self.count = self.known.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::spec::{NamePattern, NamePorts};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xC000_0200 + n).into()
    }

    fn rule(name: &str) -> NameRule {
        let ports = NamePorts::Range(Protocol::Tcp, 443, 443);
        NameRule { name: NamePattern::Exactly(name.to_owned()), ports }
    }

    #[test]
    fn an_address_holds_as_long_as_the_answer_that_brought_it() {
        let mut learnt = Learnt::default();
        let name = "api.example.com".into();
        let rules = [rule("other.example.com"), rule("api.example.com")];
        learnt.note(ip(1), &name, Duration::from_secs(300), at(0));
        let allows = |learnt: &Learnt, port, second| {
            learnt.allows(ip(1), Protocol::Tcp, port, rules.iter(), at(second)).is_some()
        };
        assert!(allows(&learnt, 443, 0) && allows(&learnt, 443, 299));
        assert!(!allows(&learnt, 443, 300), "it has ended");
        assert!(!allows(&learnt, 80, 0), "another port");
        let udp = learnt.allows(ip(1), Protocol::Udp, 443, rules.iter(), at(0));
        let other = learnt.allows(ip(2), Protocol::Tcp, 443, rules.iter(), at(0));
        let revoked = learnt.allows(ip(1), Protocol::Tcp, 443, rules[..1].iter(), at(0));
        assert_eq!((udp, other, revoked), (None, None, None));
        assert_eq!(learnt.name_of(ip(1), at(299)).as_deref(), Some("api.example.com"));
        assert_eq!(learnt.name_of(ip(1), at(300)), None);
        learnt.note(ip(1), &name, Duration::ZERO, at(299));
        assert!(allows(&learnt, 443, 358), "a floor under short answers");
        learnt.note(ip(1), &name, Duration::from_secs(300), at(299));
        learnt.note(ip(1), &name, Duration::ZERO, at(300));
        assert!(allows(&learnt, 443, 598), "a shorter answer takes nothing back");
    }

    #[test]
    fn what_has_just_been_learnt_stays_even_if_it_ends_first() {
        let mut learnt = Learnt::default();
        let count = u32::try_from(ADDRESSES_MAX).unwrap();
        for n in 0..count {
            learnt.note(ip(n), &"a".into(), Duration::from_secs(3000 + u64::from(n)), at(0));
        }
        for n in 0..16 {
            learnt.note(ip(count + n), &"a".into(), Duration::ZERO, at(1));
        }
        let rules = [rule("a")];
        let known = |n| learnt.allows(ip(n), Protocol::Tcp, 443, rules.iter(), at(1)).is_some();
        assert!((16..count + 16).all(known));
        assert_eq!(learnt.count, ADDRESSES_MAX);
    }

    #[test]
    fn what_ends_soonest_makes_room() {
        let mut learnt = Learnt::default();
        let count = u32::try_from(ADDRESSES_MAX).unwrap();
        for n in 0..=count {
            let ttl = Duration::from_secs(if n == 7 { 70 } else { 1000 + u64::from(n) });
            learnt.note(ip(n), &"a".into(), ttl, at(u64::from(n == count)));
        }
        let rules = [rule("a")];
        let known = |n| learnt.allows(ip(n), Protocol::Tcp, 443, rules.iter(), at(1)).is_some();
        assert!(!known(7) && known(0) && known(count));
        assert_eq!(learnt.count, ADDRESSES_MAX);
    }
}
