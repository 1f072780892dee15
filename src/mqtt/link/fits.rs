//! How large a message a broker takes that cannot say. Pure.
//!
//! A broker of MQTT 3.1.1 cannot name its limit, and ends the connection on a message above it. The node would say the same again on the next
//! connection, and so for ever. So when several connections in a row end with a message under way, messages of that size are not sent to
//! it for a while; the caller hears `TooLarge`, and says less.
//!
//! A link that breaks by itself looks the same, and a node that wrongly keeps its birth back is silent though it is connected. Hence all the
//! doubt: [`STRIKES`] in a row, nothing below [`SUSPICIOUS`], nothing as small as what was acknowledged once, and a belief that is short
//! unless it proves right. A broker of MQTT 5 names its limit, or the reason of an end: nothing is guessed of it.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::mqtt::transport::{Closed, Version, codes};

/// A packet of this size is not what a broker dies of: a birth, which everything else waits for, is smaller. The smallest limit that
/// brokers are given in earnest is some kilobytes.
const SUSPICIOUS: usize = 1024;

/// Connections in a row that ended on a message.
const STRIKES: u32 = 3;

/// How long a limit is believed: at first, and at last, when each attempt after that ended the same way. An attempt that was right about the
/// limit costs one connection.
const BELIEVED: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(24 * 3600));

/// What was learnt of one broker.
#[derive(Debug, Default)]
pub(super) struct Fits {
    strikes: u32,
    suspect: usize,
    /// The largest packet that was acknowledged.
    proven: usize,
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    bytes: usize,
    since: Timestamp,
    believed: Duration,
}

impl Fits {
    /// A packet of this size was acknowledged.
    pub(super) fn taken(&mut self, size: usize) {
        self.proven = self.proven.max(size);
        if self.limit.as_ref().is_some_and(|limit| limit.bytes < size) {
            self.limit = None;
        }
    }

    /// A connection ended; `largest`: the largest message that was not acknowledged.
    pub(super) fn closed(
        &mut self,
        now: Timestamp,
        version: Version,
        why: &Closed,
        largest: Option<usize>,
    ) {
        let told = matches!(why, Closed::Ended { code: codes::PACKET_TOO_LARGE, .. });
        let abrupt = version == Version::V311 && matches!(why, Closed::ByPeer | Closed::Broken(_));
        let suspicious = |size: &usize| told || (abrupt && *size > self.proven.max(SUSPICIOUS));
        let Some(size) = largest.filter(suspicious) else {
            self.strikes = 0;
            return;
        };
        let was_limit = self.limit.as_ref().filter(|limit| size > limit.bytes);
        self.strikes += 1;
        self.suspect = if self.strikes == 1 { size } else { self.suspect.min(size) };
        // Who was about to be believed again has shown that it was right.
        if told || self.strikes >= STRIKES || was_limit.is_some() {
            let believed = was_limit.map_or(BELIEVED.0, |limit| limit.believed * 2);
            let believed = if told { BELIEVED.1 } else { believed.min(BELIEVED.1) };
            let bytes = self.suspect.saturating_sub(1);
            self.limit = Some(Limit { bytes, since: now, believed });
            self.strikes = 0;
        }
    }

    /// The largest message that may be sent, as far as is known.
    pub(super) fn limit(&self, now: Timestamp) -> Option<usize> {
        let limit = self.limit.as_ref()?;
        (now.since(limit.since) < limit.believed).then_some(limit.bytes)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    fn strike(fits: &mut Fits, seconds: u64, size: usize) {
        fits.closed(at(seconds), Version::V311, &Closed::ByPeer, Some(size));
    }

    #[test]
    fn three_ends_on_a_message_are_a_limit_for_some_minutes() {
        let mut fits = Fits::default();
        strike(&mut fits, 0, 9000);
        fits.closed(at(1), Version::V311, &Closed::Broken("reset".into()), Some(8000));
        assert_eq!(fits.limit(at(1)), None, "twice may be chance");
        strike(&mut fits, 2, 10_000);
        assert_eq!(fits.limit(at(2)), Some(7999));
        assert_eq!(fits.limit(at(2 + 600)), None, "it is tried again");
    }

    #[test]
    fn a_limit_that_proves_right_is_believed_for_longer_and_a_day_at_most() {
        let mut fits = Fits::default();
        (0..3).for_each(|_| strike(&mut fits, 0, 9000));
        let mut now = 0;
        for believed in [600, 1200, 2400, 4800, 9600, 19_200, 38_400, 76_800, 86_400, 86_400] {
            assert_eq!(fits.limit(at(now + believed - 1)), Some(8999));
            assert_eq!(fits.limit(at(now + believed)), None);
            now += believed;
            strike(&mut fits, now, 9000);
        }
    }

    #[test]
    fn what_was_taken_once_is_not_too_large() {
        let mut fits = Fits::default();
        fits.taken(9000);
        (0..9).for_each(|_| strike(&mut fits, 0, 9000));
        assert_eq!(fits.limit(at(0)), None);
        (0..3).for_each(|_| strike(&mut fits, 0, 9500));
        assert_eq!(fits.limit(at(0)), Some(9499));
        fits.taken(9600);
        assert_eq!(fits.limit(at(0)), None, "whatever it was, it was not that");
    }

    /// A link that breaks again and again right after the birth: the node must not fall silent for it.
    #[test]
    fn small_messages_other_ends_and_newer_brokers_are_no_limit() {
        let rows = [
            (Version::V311, Closed::ByPeer, None),
            (Version::V311, Closed::ByPeer, Some(SUSPICIOUS)),
            (Version::V311, Closed::Silent(Duration::ZERO), Some(9000)),
            (Version::V311, Closed::ByUs, Some(9000)),
            (Version::V5, Closed::ByPeer, Some(9000)),
            (Version::V5, Closed::Broken("reset".into()), Some(9000)),
        ];
        for (version, why, largest) in rows {
            let mut fits = Fits::default();
            (0..99).for_each(|_| fits.closed(at(0), version, &why, largest));
            assert_eq!(fits.limit(at(0)), None, "{version}: {why}");
        }
    }

    #[test]
    fn a_broker_that_says_so_is_believed_at_once() {
        let mut fits = Fits::default();
        let code = codes::PACKET_TOO_LARGE;
        let why = Closed::Ended { code, name: "packet too large", text: None };
        fits.closed(at(0), Version::V5, &why, Some(600));
        assert_eq!(fits.limit(at(24 * 3600 - 1)), Some(599));
    }
}
